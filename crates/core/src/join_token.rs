//! The text of a join token: all that a new node needs to find its hub, to know it again, and to be let in.
//!
//! One word, so that it survives copying: `mst1.` and base64url of a MessagePack map. Whether the secret is
//! any good is the hub's to decide; here is only the form.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::id::NodeName;

/// Says what the word is, and in which form.
const PREFIX: &str = "mst1.";

/// Room for several addresses; a longer word is no token, and is not decoded at all.
const MAX_TEXT: usize = 4096;

/// A hub with more addresses than this is found by the first ones.
pub const MAX_HUBS: usize = 16;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct JoinToken {
    /// Where hubs listen: `host:port`, to be tried in turn.
    #[serde(rename = "h")]
    pub hubs: Vec<String>,
    /// SHA-256 of the fleet's CA certificate (DER): who shows another CA is not the hub.
    #[serde(rename = "c", with = "serde_bytes")]
    pub ca: [u8; 32],
    #[serde(rename = "s")]
    pub secret: JoinSecret,
    /// The name that it is bound to, so that nobody has to give it twice.
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub name: Option<NodeName>,
}

/// What proves that the holder was given the token. Shown only as part of the token's text.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct JoinSecret(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinTokenError {
    #[error("this is not a join token: one begins with {PREFIX:?}")]
    Prefix,
    #[error("the join token is damaged: was it copied whole?")]
    Damaged,
    #[error("the join token names no hub address")]
    NoHub,
}

impl JoinSecret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, to be sent to the hub or hashed. Never to a log.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret(‹secret›)")
    }
}

impl JoinToken {
    /// The word to hand to the new node. Not a `Display`, so that no log line has it by accident.
    pub fn to_text(&self) -> String {
        let bytes = rmp_serde::to_vec_named(self).expect("a token holds nothing that MessagePack cannot");
        format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))
    }
}

impl FromStr for JoinToken {
    type Err = JoinTokenError;

    fn from_str(text: &str) -> Result<Self, JoinTokenError> {
        let word = text.trim().strip_prefix(PREFIX).ok_or(JoinTokenError::Prefix)?;
        if word.len() > MAX_TEXT {
            return Err(JoinTokenError::Damaged);
        }
        let bytes = BASE64URL_NOPAD.decode(word.as_bytes()).map_err(|_| JoinTokenError::Damaged)?;
        let token: Self = rmp_serde::from_slice(&bytes).map_err(|_| JoinTokenError::Damaged)?;
        if token.hubs.is_empty() || token.hubs.len() > MAX_HUBS {
            return Err(JoinTokenError::NoHub);
        }
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token() -> JoinToken {
        JoinToken {
            hubs: vec!["hub.example.org:4410".into(), "[::1]:4410".into()],
            ca: [7; 32],
            secret: JoinSecret::new("s3cret"),
            name: None,
        }
    }

    #[test]
    fn a_token_is_one_word_that_reads_back() {
        let text = token().to_text();
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)));
        assert_eq!(text.parse(), Ok(token()));
        assert_eq!(format!(" {text}\n").parse(), Ok(token()));
        assert!(!format!("{:?}", token()).contains("s3cret"));
        let bound = JoinToken { name: Some("ship1".parse().unwrap()), ..token() };
        assert_eq!(bound.to_text().parse(), Ok(bound));
    }

    #[test]
    fn what_is_no_token_is_refused_with_a_reason() {
        assert_eq!("abc".parse::<JoinToken>(), Err(JoinTokenError::Prefix));
        let text = token().to_text();
        assert_eq!(text[..text.len() - 3].parse::<JoinToken>(), Err(JoinTokenError::Damaged));
        let long = format!("{PREFIX}{}", "A".repeat(MAX_TEXT + 1));
        assert_eq!(long.parse::<JoinToken>(), Err(JoinTokenError::Damaged));
        let lonely = JoinToken { hubs: vec![], ..token() };
        assert_eq!(lonely.to_text().parse::<JoinToken>(), Err(JoinTokenError::NoHub));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(mst1\\.)?[A-Za-z0-9_-]{0,200}") {
            let _ = text.parse::<JoinToken>();
        }
    }
}

//! Identifiers. Each is a type of its own, so that none can be passed where another is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The text given is not a valid identifier of the kind named.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {kind}: {rule}")]
pub struct IdError {
    pub kind: &'static str,
    pub text: String,
    pub rule: &'static str,
}

/// A node's or an operator's identity: its Ed25519 public key, 32 bytes.
///
/// The key itself rather than a hash of it, so that a signature can be checked without a look-up.
/// Shown as 52 characters of lower-case base32; [`KeyId::short`] is enough for people.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyId(#[serde(with = "serde_bytes")] [u8; 32]);

impl KeyId {
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 12 characters: for people, never for decisions.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32.encode(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({})", self.short())
    }
}

impl FromStr for KeyId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        BASE32.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or_else(
            || IdError { kind: "key", text: text.to_owned(), rule: "it is 52 characters of a-z and 2-7" },
        )
    }
}

/// RFC 4648 base32 in lower case without padding: one word when double-clicked, safe in file names.
static BASE32: std::sync::LazyLock<data_encoding::Encoding> = std::sync::LazyLock::new(|| {
    let mut spec = data_encoding::Specification::new();
    spec.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    spec.encoding().expect("the alphabet has 32 distinct symbols")
});

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A UUIDv7 (RFC 9562 §5.7) from a time in milliseconds and 10 random bytes.
            pub fn new(now: crate::time::Timestamp, random: [u8; 10]) -> Self {
                Self(uuid::Builder::from_unix_timestamp_millis(now.as_millis().max(0) as u64, &random).into_uuid())
            }

            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Uuid::parse_str(text).map(Self).map_err(|_| IdError {
                    kind: $kind,
                    text: text.to_owned(),
                    rule: "it is a UUID",
                })
            }
        }
    };
}

uuid_id!(
    /// Names one message for as long as it may live. Unique together with its origin's key.
    MessageId, "message id"
);
uuid_id!(
    /// Names one run: one operator request over a set of targets.
    RunId, "run id"
);
uuid_id!(
    /// Names one life of a journal. A node that comes back with another one has lost what it had seen.
    JournalId, "journal id"
);

impl MessageId {
    /// The id of the message that `run` sends to `node`: a pure function of both, so that any hub that
    /// takes the run over sends the same message, and a resend is a duplicate to the node.
    ///
    /// The first six bytes are the run's time, so that ids stay ordered in the journal's index.
    pub fn of_run(run: RunId, node: KeyId) -> Self {
        Self::derived(run.as_bytes(), &[b"run", run.as_bytes(), node.as_bytes()])
    }

    /// The id of an answer to this message: a pure function of it, so that an answer that is built again
    /// after a crash is a duplicate of the first.
    pub fn of_answer(&self, kind: &'static str, number: u64) -> Self {
        Self::derived(self.as_bytes(), &[kind.as_bytes(), self.as_bytes(), &number.to_be_bytes()])
    }

    fn derived(time_of: &[u8; 16], parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("mainstay 2026 message id");
        for part in parts {
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        let mut bytes = [0; 16];
        hasher.finalize_xof().fill(&mut bytes);
        bytes[..6].copy_from_slice(&time_of[..6]);
        // Version 7 and variant 10, so that it reads as a UUIDv7 everywhere.
        bytes[6] = (bytes[6] & 0x0f) | 0x70;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Self(Uuid::from_bytes(bytes))
    }
}

/// A node's name: 1 to 63 of `a-z A-Z 0-9 . _ -`, starting with a letter or a digit.
///
/// It is a single path segment and a single token of a target expression, so it needs no quoting anywhere.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(String);

impl NodeName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for NodeName {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let valid = (1..=63).contains(&text.len())
            && text.as_bytes()[0].is_ascii_alphanumeric()
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
            && !matches!(text, "and" | "or" | "not" | "all");
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError {
                kind: "node name",
                text: text.to_owned(),
                rule: "it is 1 to 63 of a-z A-Z 0-9 . _ -, begins with a letter or digit, and is not and, or, not, all",
            })
        }
    }
}

impl TryFrom<String> for NodeName {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    #[test]
    fn ids_read_back_from_their_text() {
        let key = KeyId::from_bytes([7; 32]);
        assert_eq!(key.to_string().parse(), Ok(key));
        let id = MessageId::new(Timestamp::from_millis(1_700_000_000_000), [9; 10]);
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn a_run_message_keeps_the_time_of_its_run_and_differs_by_node() {
        let run = RunId::new(Timestamp::from_millis(1_700_000_000_000), [1; 10]);
        let a = MessageId::of_run(run, KeyId::from_bytes([1; 32]));
        let b = MessageId::of_run(run, KeyId::from_bytes([2; 32]));
        assert_ne!(a, b);
        assert_eq!(a.as_bytes()[..6], run.as_bytes()[..6]);
        assert_eq!(a, MessageId::of_run(run, KeyId::from_bytes([1; 32])));
    }

    #[test]
    fn names_that_would_need_quoting_are_refused() {
        for bad in ["", "-x", ".", "..", "a/b", "a b", "and", "é", &"a".repeat(64)] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad:?}");
        }
        for good in ["ship1", "web-01.example.org", "A_b"] {
            assert!(good.parse::<NodeName>().is_ok(), "{good:?}");
        }
    }
}

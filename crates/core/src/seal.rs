//! Sealed fields: what only the receiver may read, and what stands nowhere in clear on the way.
//!
//! The content is encrypted once under a random key; that key is wrapped for each receiver with a NaCl box
//! (X25519, XChaCha20-Poly1305) whose ephemeral secret is derived from the content key and the receiver.
//! So a hub that holds the content key builds the same bytes for the same node every time, as a run's
//! messages must be, and nobody else learns anything from that.

use bytes::Bytes;
use crypto_box::ChaChaBox;
use crypto_box::aead::Aead;
use ed25519_dalek::{SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::id::KeyId;

/// What can be sealed to a request's receiver.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Private {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<Bytes>,
}

impl Private {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl std::fmt::Debug for Private {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Private(‹secret›)")
    }
}

/// The content, and its key wrapped for one receiver.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sealed {
    #[serde(rename = "e", with = "serde_bytes")]
    ephemeral: [u8; 32],
    #[serde(rename = "k")]
    wrapped: Bytes,
    #[serde(rename = "c")]
    content: Bytes,
}

/// A random key for one content.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ContentKey([u8; 32]);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the sealed fields cannot be opened with this node's key")]
pub struct OpenError;

impl ContentKey {
    /// `random` is fresh for every content; using a key for two contents reveals both.
    pub const fn new(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// Encrypts the content, to be wrapped for any number of receivers.
    pub fn encrypt(&self, private: &Private) -> Bytes {
        let mut plain = rmp_serde::to_vec_named(private).expect("private fields are encodable");
        // One content per key, so a fixed nonce is used once only.
        let content = self
            .content_box()
            .encrypt(&[0; 24].into(), plain.as_slice())
            .expect("encryption of a bounded buffer does not fail");
        plain.zeroize();
        content.into()
    }

    /// Wraps this key for `receiver`. The same key, content and receiver give the same bytes.
    pub fn seal_for(&self, receiver: KeyId, content: Bytes) -> Result<Sealed, OpenError> {
        let key = VerifyingKey::from_bytes(receiver.as_bytes()).map_err(|_| OpenError)?;
        let public = crypto_box::PublicKey::from(key.to_montgomery().to_bytes());
        let mut seed = blake3::Hasher::new_derive_key("mainstay 2026 sealed field ephemeral");
        seed.update(&self.0);
        seed.update(receiver.as_bytes());
        let secret = crypto_box::SecretKey::from(*seed.finalize().as_bytes());
        let wrapped = ChaChaBox::new(&public, &secret)
            .encrypt(&[0; 24].into(), self.0.as_slice())
            .map_err(|_| OpenError)?;
        Ok(Sealed { ephemeral: *secret.public_key().as_bytes(), wrapped: wrapped.into(), content })
    }

    fn content_box(&self) -> ChaChaBox {
        // A box of a key with itself is a symmetric cipher under a key that only its holder can derive.
        let secret = crypto_box::SecretKey::from(self.0);
        ChaChaBox::new(&secret.public_key(), &secret)
    }
}

impl Sealed {
    /// Opens with the receiver's identity key.
    pub fn open(&self, key: &SigningKey) -> Result<Private, OpenError> {
        let plain_key = self.open_key(key)?;
        let mut plain =
            plain_key.content_box().decrypt(&[0; 24].into(), self.content.as_ref()).map_err(|_| OpenError)?;
        let private = crate::encoding::decode(&plain).map_err(|_| OpenError);
        plain.zeroize();
        private
    }

    /// The content key, for a hub that must wrap it again for others.
    pub fn open_key(&self, key: &SigningKey) -> Result<ContentKey, OpenError> {
        let secret = crypto_box::SecretKey::from(key.to_scalar_bytes());
        let ephemeral = crypto_box::PublicKey::from(self.ephemeral);
        let mut bytes = ChaChaBox::new(&ephemeral, &secret)
            .decrypt(&[0; 24].into(), self.wrapped.as_ref())
            .map_err(|_| OpenError)?;
        let key = <[u8; 32]>::try_from(bytes.as_slice()).map(ContentKey).map_err(|_| OpenError);
        bytes.zeroize();
        key
    }

    pub fn content(&self) -> &Bytes {
        &self.content
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(key: &SigningKey) -> KeyId {
        KeyId::from_bytes(key.verifying_key().to_bytes())
    }

    #[test]
    fn only_the_receiver_opens_it_and_the_bytes_are_a_pure_function() {
        let (alice, bob) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
        let private = Private { env: vec![("TOKEN".into(), "canary".into())], ..Private::default() };
        let key = ContentKey::new([7; 32]);
        let content = key.encrypt(&private);
        let sealed = key.seal_for(id(&alice), content.clone()).unwrap();
        assert_eq!(sealed, key.seal_for(id(&alice), content).unwrap());
        assert_eq!(sealed.open(&alice).unwrap(), private);
        assert_eq!(sealed.open(&bob), Err(OpenError));
        let bytes = rmp_serde::to_vec_named(&sealed).unwrap();
        assert!(!bytes.windows(6).any(|w| w == b"canary"));
    }

    #[test]
    fn what_was_changed_does_not_open() {
        let alice = SigningKey::from_bytes(&[1; 32]);
        let key = ContentKey::new([7; 32]);
        let mut sealed = key.seal_for(id(&alice), key.encrypt(&Private::default())).unwrap();
        let mut content = sealed.content.to_vec();
        content[0] ^= 1;
        sealed.content = content.into();
        assert_eq!(sealed.open(&alice), Err(OpenError));
    }
}

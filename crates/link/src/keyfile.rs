//! Keys and certificates as the text of files: PKCS#8 and X.509 in PEM, which other tools read too.
//!
//! Only text in and out; where the files lie, with which mode, and that they are synced is the caller's.

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, KeypairBytes, SecretDocument};
use pem::Pem;
use zeroize::Zeroizing;

const KEY_TAG: &str = "PRIVATE KEY";
const CERTIFICATE_TAG: &str = "CERTIFICATE";

#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("it is not PEM text")]
    Pem(#[source] pem::PemError),
    #[error("it holds {found} {wanted} blocks where one is needed")]
    Blocks { wanted: &'static str, found: usize },
    #[error("the key is not an Ed25519 key in PKCS#8")]
    Key,
}

/// The key as PEM text.
pub fn key_to_pem(key: &SigningKey) -> Zeroizing<String> {
    Zeroizing::new(pem::encode(&Pem::new(KEY_TAG, key_to_der(key).as_bytes())))
}

/// The key in PKCS#8, without its public half: OpenSSL cannot read the newer form that has it (RFC 5958).
pub(crate) fn key_to_der(key: &SigningKey) -> SecretDocument {
    KeypairBytes { secret_key: key.to_bytes(), public_key: None }
        .to_pkcs8_der()
        .expect("an Ed25519 key is encodable")
}

pub fn key_from_pem(text: &str) -> Result<SigningKey, KeyFileError> {
    let mut blocks = blocks(text, KEY_TAG)?;
    if blocks.len() != 1 {
        let (wanted, found) = (KEY_TAG, blocks.len());
        return Err(KeyFileError::Blocks { wanted, found });
    }
    let der = Zeroizing::new(blocks.remove(0));
    SigningKey::from_pkcs8_der(&der).map_err(|_| KeyFileError::Key)
}

/// Certificates (DER, leaf first) as PEM text.
pub fn chain_to_pem(chain: &[impl AsRef<[u8]>]) -> String {
    let blocks: Vec<Pem> = chain.iter().map(|der| Pem::new(CERTIFICATE_TAG, der.as_ref())).collect();
    pem::encode_many(&blocks)
}

/// At least one certificate, in the order of the text. What is in them is not judged.
pub fn chain_from_pem(text: &str) -> Result<Vec<Bytes>, KeyFileError> {
    let blocks = blocks(text, CERTIFICATE_TAG)?;
    if blocks.is_empty() {
        let (wanted, found) = (CERTIFICATE_TAG, 0);
        return Err(KeyFileError::Blocks { wanted, found });
    }
    Ok(blocks.into_iter().map(Bytes::from).collect())
}

fn blocks(text: &str, tag: &str) -> Result<Vec<Vec<u8>>, KeyFileError> {
    Ok(pem::parse_many(text)
        .map_err(KeyFileError::Pem)?
        .into_iter()
        .filter(|block| block.tag() == tag)
        .map(Pem::into_contents)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_chains_read_back() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let text = key_to_pem(&key);
        assert!(text.starts_with("-----BEGIN PRIVATE KEY-----"));
        assert_eq!(key_from_pem(&text).unwrap().to_bytes(), key.to_bytes());
        let chain = vec![Bytes::from_static(b"leaf"), Bytes::from_static(b"issuer")];
        assert_eq!(chain_from_pem(&chain_to_pem(&chain)).unwrap(), chain);
    }

    #[test]
    fn keys_are_written_as_openssl_reads_them() {
        // RFC 8410 §7: version 0, Ed25519, and the seed in two octet strings.
        let der = key_to_der(&SigningKey::from_bytes(&[7; 32]));
        let beginning = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
        assert_eq!(der.as_bytes(), [&beginning[..], &[7; 32]].concat());
        // The newer form, as other tools may have written it, is read too.
        let key = SigningKey::from_bytes(&[7; 32]);
        let newer = pem::encode(&Pem::new(KEY_TAG, key.to_pkcs8_der().unwrap().as_bytes()));
        assert_eq!(key_from_pem(&newer).unwrap().to_bytes(), key.to_bytes());
    }

    #[test]
    fn half_written_and_foreign_files_are_errors() {
        let text = key_to_pem(&SigningKey::from_bytes(&[7; 32]));
        for wrong in ["", "garbage", &text[..text.len() / 2], &format!("{}{}", *text, *text)] {
            assert!(key_from_pem(wrong).is_err(), "{wrong:?}");
        }
        assert!(chain_from_pem(&text).is_err());
        assert!(key_from_pem(&chain_to_pem(&[b"x"])).is_err());
    }
}

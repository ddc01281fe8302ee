//! Judging certificate chains: whose key it is, under what name, and on whose word.
//!
//! A pure function of the chain and the fleet's CA, so answers may be cached for as long as one likes. Whether
//! the key, or the hub that vouched for it, was revoked meanwhile is not decided here: the trust log knows.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use ed25519_dalek::VerifyingKey;
use mainstay_core::id::{KeyId, NodeName};
use rustls::RootCertStore;
use rustls::SignatureScheme;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use sha2::{Digest as _, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::certificate::{HUB_SERVER_NAME, NODE_URI};

/// Most certificates in a chain: a leaf, its issuer, the CA. Anything longer is not ours.
pub const MAX_CHAIN: usize = 3;

/// The time at which certificates are judged, whatever the clock says (2026-01-01): all of ours are valid then.
pub(crate) fn judging_time() -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_767_225_600))
}

/// What a chain that leads to the fleet's CA says about its leaf.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerIdentity {
    pub key: KeyId,
    pub name: NodeName,
    /// It may be a TLS server of this fleet. Whether it still acts as a hub is the trust log's to say.
    pub hub: bool,
    /// Whose word this is: the root's key, or the key of the hub that admitted the node. A caller that acts on
    /// the name must check that this hub was not revoked.
    pub issuer: KeyId,
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ChainError {
    #[error("a chain of {0} certificates; there must be 1 to {MAX_CHAIN}")]
    Length(usize),
    #[error("a certificate that cannot be read: {0}")]
    Malformed(String),
    #[error("the certificate's key is not a usable Ed25519 key")]
    Key,
    #[error("the certificate does not lead to this fleet's CA")]
    Untrusted(#[source] rustls::Error),
    #[error("the certificate must hold exactly one node name and no other names than a hub's")]
    Names,
    #[error("the certificate is a node's and not a hub's")]
    NotAHub,
    #[error("the presented chain holds no certificate with the fingerprint {0}")]
    NoSuchCa(Fingerprint),
}

/// SHA-256 of the CA certificate (DER), shown as `sha256:` and 64 hex digits, which is what
/// `openssl x509 -in ca.crt -noout -fingerprint -sha256` shows too, up to its colons.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    pub fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a fingerprint: it is sha256: and 64 hexadecimal digits")]
pub struct FingerprintError(String);

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    /// Colons between the digits and upper case are accepted, as `openssl` prints them.
    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let wrong = || FingerprintError(text.to_owned());
        let digits: Vec<u8> = text
            .trim()
            .strip_prefix("sha256:")
            .ok_or_else(wrong)?
            .bytes()
            .filter(|b| *b != b':')
            .map(|b| char::from(b).to_digit(16).map(|d| d as u8))
            .collect::<Option<_>>()
            .ok_or_else(wrong)?;
        let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair.iter().fold(0, |n, d| n << 4 | d)).collect();
        match (digits.len(), bytes.try_into()) {
            (64, Ok(bytes)) => Ok(Self(bytes)),
            _ => Err(wrong()),
        }
    }
}

/// The fleet's CA, ready to judge chains. Cheap to clone.
#[derive(Clone)]
pub struct FleetCa {
    der: Bytes,
    key: KeyId,
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl fmt::Debug for FleetCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FleetCa").field(&self.fingerprint()).finish()
    }
}

impl FleetCa {
    /// Reads the CA certificate. That it is the right one is for the caller to know.
    pub fn from_der(der: impl Into<Bytes>) -> Result<Self, ChainError> {
        let der = der.into();
        let key = key_of(&parse(&der)?)?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(der.to_vec())).map_err(ChainError::Untrusted)?;
        let roots = Arc::new(roots);
        let provider = Arc::new(crate::tls::provider());
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider)
            .build()
            .map_err(|e| ChainError::Malformed(e.to_string()))?;
        Ok(Self { der, key, roots, clients })
    }

    pub fn der(&self) -> &Bytes {
        &self.der
    }

    /// The fleet's root key, as the CA certificate has it.
    pub fn key(&self) -> KeyId {
        self.key
    }

    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.der)
    }

    /// Judges a chain, leaf first. The CA itself may be in it and is ignored: only ours counts.
    pub fn verify(&self, chain: &[impl AsRef<[u8]>]) -> Result<PeerIdentity, ChainError> {
        if chain.is_empty() || chain.len() > MAX_CHAIN {
            return Err(ChainError::Length(chain.len()));
        }
        let leaf = parse(chain[0].as_ref())?;
        let key = key_of(&leaf)?;
        let (name, hub) = names_of(&leaf)?;
        let leaf = CertificateDer::from(chain[0].as_ref());
        if hub {
            // No intermediates: hubs are made by the root alone.
            let parsed = ParsedCertificate::try_from(&leaf).map_err(ChainError::Untrusted)?;
            verify_server_cert_signed_by_trust_anchor(
                &parsed,
                &self.roots,
                &[],
                judging_time(),
                algorithms().all,
            )
            .map_err(ChainError::Untrusted)?;
            return Ok(PeerIdentity { key, name, hub, issuer: self.key });
        }
        // One candidate at a time, so that we know which key vouched for the name.
        let direct = self.clients.verify_client_cert(&leaf, &[], judging_time());
        let issuer = match (direct, chain.get(1)) {
            (Ok(_), _) => self.key,
            (Err(_), Some(issuer)) => {
                let der = CertificateDer::from(issuer.as_ref());
                self.clients
                    .verify_client_cert(&leaf, &[der], judging_time())
                    .map_err(ChainError::Untrusted)?;
                key_of(&parse(issuer.as_ref())?)?
            }
            (Err(error), None) => return Err(ChainError::Untrusted(error)),
        };
        Ok(PeerIdentity { key, name, hub, issuer })
    }

    /// The same for who must be a hub.
    pub fn verify_hub(&self, chain: &[impl AsRef<[u8]>]) -> Result<PeerIdentity, ChainError> {
        let identity = self.verify(chain)?;
        if identity.hub { Ok(identity) } else { Err(ChainError::NotAHub) }
    }
}

/// What a dialling node knows of the fleet.
#[derive(Clone, Debug)]
pub enum Trust {
    /// It has joined: the CA itself.
    Ca(FleetCa),
    /// It has a join token: the CA's fingerprint. The hub must present the CA with its chain.
    Fingerprint(Fingerprint),
}

impl Trust {
    /// The CA that counts for a presented chain.
    pub fn ca(&self, chain: &[impl AsRef<[u8]>]) -> Result<FleetCa, ChainError> {
        match self {
            Self::Ca(ca) => Ok(ca.clone()),
            Self::Fingerprint(pinned) => {
                if chain.len() > MAX_CHAIN {
                    return Err(ChainError::Length(chain.len()));
                }
                let ca = chain
                    .iter()
                    .find(|der| Fingerprint::of(der.as_ref()) == *pinned)
                    .ok_or(ChainError::NoSuchCa(*pinned))?;
                FleetCa::from_der(Bytes::copy_from_slice(ca.as_ref()))
            }
        }
    }
}

/// The key in a certificate (DER), without judging who vouches for it.
pub fn key_in(certificate: &[u8]) -> Result<KeyId, ChainError> {
    key_of(&parse(certificate)?)
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, ChainError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(ChainError::Malformed("there is something after it".to_owned())),
        Err(error) => Err(ChainError::Malformed(error.to_string())),
    }
}

fn key_of(certificate: &X509Certificate<'_>) -> Result<KeyId, ChainError> {
    let info = certificate.public_key();
    if info.algorithm.algorithm != x509_parser::oid_registry::OID_SIG_ED25519 {
        return Err(ChainError::Key);
    }
    let bytes: [u8; 32] = info.subject_public_key.data.as_ref().try_into().map_err(|_| ChainError::Key)?;
    // A key of small order "signs" anything: whoever showed it once could be played by everyone.
    match VerifyingKey::from_bytes(&bytes) {
        Ok(key) if !key.is_weak() => Ok(KeyId::from_bytes(bytes)),
        _ => Err(ChainError::Key),
    }
}

/// The node's name, and whether the certificate carries the hubs' server name.
fn names_of(certificate: &X509Certificate<'_>) -> Result<(NodeName, bool), ChainError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|e| ChainError::Malformed(e.to_string()))?
        .ok_or(ChainError::Names)?;
    let (mut name, mut hub) = (None, false);
    for entry in &names.value.general_names {
        match entry {
            GeneralName::URI(uri) if name.is_none() => {
                let text = uri.strip_prefix(NODE_URI).ok_or(ChainError::Names)?;
                name = Some(text.parse().map_err(|_| ChainError::Names)?);
            }
            GeneralName::DNSName(HUB_SERVER_NAME) if !hub => hub = true,
            _ => return Err(ChainError::Names),
        }
    }
    Ok((name.ok_or(ChainError::Names)?, hub))
}

/// Ed25519 and nothing else: every key of a fleet is of that kind.
pub(crate) fn algorithms() -> WebPkiSupportedAlgorithms {
    type Mapping = [(SignatureScheme, &'static [&'static dyn SignatureVerificationAlgorithm]); 1];
    static MAPPING: LazyLock<Mapping> = LazyLock::new(|| {
        let all = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        let ed25519 = all.mapping.iter().find(|(scheme, _)| *scheme == SignatureScheme::ED25519);
        [*ed25519.expect("the provider verifies Ed25519")]
    });
    WebPkiSupportedAlgorithms { all: MAPPING[0].1, mapping: &*MAPPING }
}

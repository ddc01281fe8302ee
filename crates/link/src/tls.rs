//! TLS as links use it: what is offered, what is demanded of the other end, and nothing of sockets.
//!
//! TLS 1.3 with Ed25519 certificates at both ends. Sessions are never resumed and nothing is sent early, so that a
//! revoked node meets a full handshake each time. A listener takes any Ed25519 key that its peer can prove, since
//! a node that has not joined yet has a self-signed certificate; what the certificates say of the
//! fleet is judged afterwards. A dialler takes hubs of its own fleet only.

use std::sync::Arc;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use mainstay_core::id::KeyId;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError, PeerIncompatible,
    ServerConfig, SignatureScheme,
};

use crate::certificate::{self, HUB_SERVER_NAME, IssueError};
use crate::chain::{ChainError, Trust, algorithms, key_in};
use crate::keyfile::key_to_der;

/// What both ends of a link must offer, so that a link is never mistaken for something else on that port.
pub(crate) const ALPN_LINK: &[u8] = b"mainstay/1";

/// How much TLS holds that the socket did not take yet, in each of its two buffers. One full TLS record.
pub(crate) const TLS_BUFFER: usize = 16 * 1024;

/// A node's key, and what it presents with it.
#[derive(Clone)]
pub struct Credentials {
    key: SigningKey,
    chain: Vec<Bytes>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({})", self.key_id().short())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the certificate is of another key than the one given")]
    KeyMismatch,
    #[error("the certificate chain cannot be used")]
    Chain(#[from] ChainError),
    #[error(transparent)]
    Issue(#[from] IssueError),
    #[error("TLS cannot be set up")]
    Config(#[from] rustls::Error),
}

impl Credentials {
    /// `chain` is DER, leaf first; the leaf must be of this key.
    pub fn new(key: SigningKey, chain: Vec<Bytes>) -> Result<Self, TlsError> {
        let of = key_in(chain.first().ok_or(ChainError::Length(0))?)?;
        let credentials = Self { key, chain };
        if of == credentials.key_id() { Ok(credentials) } else { Err(TlsError::KeyMismatch) }
    }

    /// For a node that has not joined: it can prove its key and nothing else.
    pub fn self_signed(key: SigningKey) -> Result<Self, TlsError> {
        let chain = vec![certificate::self_signed(&key)?];
        Self::new(key, chain)
    }

    pub fn key_id(&self) -> KeyId {
        KeyId::from_bytes(self.key.verifying_key().to_bytes())
    }

    fn for_rustls(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = self.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        let key = key_to_der(&self.key);
        (chain, PrivatePkcs8KeyDer::from(key.as_bytes().to_vec()).into())
    }
}

/// The provider, cut down to what links offer. The hybrid key exchange comes first, so that what is recorded
/// today stays closed to tomorrow's machines.
pub(crate) fn provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519],
        signature_verification_algorithms: algorithms(),
        ..aws_lc_rs::default_provider()
    }
}

/// For who accepts links.
pub(crate) fn link_server(credentials: &Credentials) -> Result<Arc<ServerConfig>, TlsError> {
    let (chain, key) = credentials.for_rustls();
    let config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(AnyProvenKey))
        .with_single_cert(chain, key)?;
    Ok(Arc::new(full_handshakes_only(config, ALPN_LINK)))
}

/// For who dials links.
pub(crate) fn link_client(credentials: &Credentials, trust: Trust) -> Result<Arc<ClientConfig>, TlsError> {
    let (chain, key) = credentials.for_rustls();
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(HubOfTheFleet(trust)))
        .with_client_auth_cert(chain, key)?;
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![ALPN_LINK.to_vec()];
    Ok(Arc::new(config))
}

/// For the hub's API: operators prove themselves by a token, not by a certificate.
pub(crate) fn https_server(credentials: &Credentials) -> Result<Arc<ServerConfig>, TlsError> {
    let (chain, key) = credentials.for_rustls();
    let config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(Arc::new(full_handshakes_only(config, b"http/1.1")))
}

/// For who calls the hub's API.
pub(crate) fn https_client(trust: Trust) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(HubOfTheFleet(trust)))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The name to ask any hub for.
pub(crate) fn hub_name() -> ServerName<'static> {
    ServerName::try_from(HUB_SERVER_NAME).expect("a valid DNS name")
}

fn full_handshakes_only(mut config: ServerConfig, alpn: &[u8]) -> ServerConfig {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

/// Takes every client that holds the Ed25519 key in its certificate. The handshake's signature is the proof.
#[derive(Debug)]
struct AnyProvenKey;

impl ClientCertVerifier for AnyProvenKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        key_in(end_entity).map_err(refused)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// Takes hubs whose leaf the fleet's root has signed.
#[derive(Debug)]
struct HubOfTheFleet(Trust);

impl ServerCertVerifier for HubOfTheFleet {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain: Vec<&[u8]> = std::iter::once(end_entity).chain(intermediates).map(AsRef::as_ref).collect();
        let ca = self.0.ca(&chain).map_err(refused)?;
        ca.verify_hub(&chain).map_err(refused)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// Carries our own error through the TLS library; [`refusal`] takes it out again.
fn refused(error: ChainError) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

/// Why we refused the peer's certificates, if that is what this error is.
pub(crate) fn refusal(error: &std::io::Error) -> Option<ChainError> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => other.0.downcast_ref().cloned(),
        _ => None,
    }
}

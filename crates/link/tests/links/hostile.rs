//! Peers that do what none of ours would, on real sockets: each is refused for the right reason, counted,
//! and the next honest node gets its link.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey as _;
use mainstay_core::frame::Frame;
use mainstay_link::chain::ChainError;
use mainstay_link::limits::Limits;
use mainstay_link::link::{Link, LinkError};
use mainstay_link::listener::{HandshakeError, TlsListener};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, Signer, SigningKey as TlsKey};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureAlgorithm, SignatureScheme, SupportedProtocolVersion,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::fleet::{Fleet, key, meet};

/// A TLS client that believes everything and presents whatever it is given.
struct Rogue {
    version: &'static SupportedProtocolVersion,
    alpn: Option<&'static [u8]>,
    certified: Option<Arc<CertifiedKey>>,
}

impl Rogue {
    /// Well-behaved, but for what a test changes.
    fn presenting(chain: &[Bytes], signing: Arc<dyn TlsKey>) -> Self {
        let chain = chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        Self {
            version: &rustls::version::TLS13,
            alpn: Some(b"mainstay/1"),
            certified: Some(Arc::new(CertifiedKey::new(chain, signing))),
        }
    }

    fn config(&self) -> ClientConfig {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[self.version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Gullible));
        let mut config = match &self.certified {
            Some(certified) => builder.with_client_cert_resolver(Arc::new(Always(certified.clone()))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn.iter().map(|alpn| alpn.to_vec()).collect();
        config
    }

    async fn connect(&self, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        self.connect_with(Arc::new(self.config()), address).await
    }

    async fn connect_with(
        &self,
        config: Arc<ClientConfig>,
        address: SocketAddr,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(address).await?;
        let name = ServerName::try_from("hub.mainstay.internal").unwrap();
        TlsConnector::from(config).connect(name, tcp).await
    }
}

#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesClientCert for Always {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Signs with its key in its own scheme, whatever the server asked for, and may call the result another scheme.
#[derive(Debug)]
struct Liar {
    key: Arc<dyn TlsKey>,
    own: SignatureScheme,
    says: SignatureScheme,
}

impl TlsKey for Liar {
    fn choose_scheme(&self, _: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let signer = self.key.choose_scheme(&[self.own])?;
        Some(Box::new(LyingSigner(signer, self.says)))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm()
    }
}

#[derive(Debug)]
struct LyingSigner(Box<dyn Signer>, SignatureScheme);

impl Signer for LyingSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.0.sign(message)
    }

    fn scheme(&self) -> SignatureScheme {
        self.1
    }
}

fn tls_key(key: &SigningKey) -> Arc<dyn TlsKey> {
    let der = key.to_pkcs8_der().unwrap();
    any_key(der.as_bytes())
}

fn any_key(pkcs8: &[u8]) -> Arc<dyn TlsKey> {
    let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pkcs8.to_vec()));
    aws_lc_rs::sign::any_supported_type(&der).unwrap()
}

fn failed(result: Result<Link, HandshakeError>) -> String {
    match result {
        Err(HandshakeError::Failed(error)) => error.to_string(),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it became a link"),
    }
}

/// What the listener makes of a peer that sends these bytes and then waits.
async fn said(listener: &TlsListener, address: SocketAddr, bytes: &[u8]) -> Result<Link, HandshakeError> {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    // The other end may have hung up before all was written.
    let _ = tcp.write_all(bytes).await;
    let result = listener.accept().await.handshake().await;
    drop(tcp);
    result
}

/// The listener's verdict on a rogue.
async fn tried(listener: &TlsListener, address: SocketAddr, rogue: &Rogue) -> Result<Link, HandshakeError> {
    let attempt = async {
        // Without reading, a TLS 1.3 client does not learn that it was refused.
        if let Ok(mut stream) = rogue.connect(address).await {
            let _ = stream.read(&mut [0]).await;
        }
    };
    let verdict = async { listener.accept().await.handshake().await };
    tokio::select! {
        biased;
        verdict = verdict => verdict,
        () = async { attempt.await; std::future::pending().await } => unreachable!(),
    }
}

async fn still_serves(fleet: &Fleet, listener: &TlsListener, address: SocketAddr) {
    let dialer = fleet.dialer(&fleet.node_credentials(&key(9), "ship1"), Limits::default());
    let (ours, theirs) = meet(listener, &dialer, address).await;
    let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
    ours.sender.send(&Frame::Ping(1)).await.unwrap();
    assert_eq!(theirs.receiver.recv().await.unwrap(), Some(Frame::Ping(1)));
}

#[tokio::test]
async fn plaintext_is_refused_at_its_first_byte() {
    let fleet = Fleet::new(1);
    let (listener, address) = fleet.listen(Limits::default()).await;
    for text in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0", b"SSH-2.0-x\r\n", &[0xff; 100_000]] {
        let result = said(&listener, address, text).await;
        assert!(matches!(result, Err(HandshakeError::NotTls)));
    }
    // What only begins like TLS.
    failed(said(&listener, address, &[0x16, 3, 1, 0, 5, 99, 0, 0, 1, 0]).await);
    assert_eq!(fleet.counted("handshake_failed"), 5);
    still_serves(&fleet, &listener, address).await;
}

#[tokio::test]
async fn who_connects_and_leaves_is_no_failure() {
    let fleet = Fleet::new(1);
    let (listener, address) = fleet.listen(Limits::default()).await;
    drop(TcpStream::connect(address).await.unwrap());
    let result = listener.accept().await.handshake().await;
    assert!(matches!(result, Err(HandshakeError::Gone)));
    assert_eq!(fleet.counted("handshake_failed"), 0);
}

#[tokio::test]
async fn older_tls_other_protocols_and_no_certificate_are_refused() {
    let fleet = Fleet::new(1);
    let (listener, address) = fleet.listen(Limits::default()).await;
    let node = key(9);
    let good = || Rogue::presenting(&fleet.node_chain(&node, "ship1"), tls_key(&node));

    assert!(tried(&listener, address, &good()).await.is_ok());
    let old = Rogue { version: &rustls::version::TLS12, ..good() };
    let error = failed(tried(&listener, address, &old).await);
    assert!(error.contains("incompatible"), "{error}");

    let nobody = Rogue { certified: None, ..good() };
    let error = failed(tried(&listener, address, &nobody).await);
    assert!(error.contains("no certificates"), "{error}");

    let web = Rogue { alpn: Some(b"h2"), ..good() };
    let error = failed(tried(&listener, address, &web).await);
    assert!(error.contains("any known protocol"), "{error}");

    let silent = Rogue { alpn: None, ..good() };
    let result = tried(&listener, address, &silent).await;
    assert!(matches!(result, Err(HandshakeError::NotALink)));
    still_serves(&fleet, &listener, address).await;
}

#[tokio::test]
async fn other_keys_than_ed25519_are_refused() {
    let fleet = Fleet::new(1);
    let (listener, address) = fleet.listen(Limits::default()).await;
    for (algorithm, own) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, SignatureScheme::ECDSA_NISTP256_SHA256),
        (&rcgen::PKCS_RSA_SHA256, SignatureScheme::RSA_PSS_SHA256),
    ] {
        let pair = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let params = rcgen::CertificateParams::new(vec!["node".to_owned()]).unwrap();
        let certificate = Bytes::copy_from_slice(params.self_signed(&pair).unwrap().der());
        for says in [own, SignatureScheme::ED25519] {
            let key = any_key(&pair.serialize_der());
            let rogue =
                Rogue::presenting(std::slice::from_ref(&certificate), Arc::new(Liar { key, own, says }));
            let result = tried(&listener, address, &rogue).await;
            let Err(HandshakeError::Certificate(ChainError::Key)) = result else {
                panic!("{:?}", result.err());
            };
        }
    }
    still_serves(&fleet, &listener, address).await;
}

#[tokio::test]
async fn a_certificate_without_its_key_proves_nothing() {
    let fleet = Fleet::new(1);
    let (listener, address) = fleet.listen(Limits::default()).await;
    let (victim, thief) = (key(9), key(10));
    let rogue = Rogue::presenting(&fleet.node_chain(&victim, "ship1"), tls_key(&thief));
    let error = failed(tried(&listener, address, &rogue).await);
    assert!(error.contains("BadSignature"), "{error}");
    still_serves(&fleet, &listener, address).await;
}

#[tokio::test]
async fn a_chain_of_any_length_makes_no_identity_and_no_harm() {
    let fleet = Fleet::new(1);
    let (listener, address) = fleet.listen(Limits::default()).await;
    let node = key(9);
    let mut chain = fleet.node_chain(&node, "ship1");
    chain.extend(vec![fleet.ca.der().clone(); 10]);
    let rogue = Rogue::presenting(&chain, tls_key(&node));
    let link = tried(&listener, address, &rogue).await.unwrap();
    assert_eq!(link.peer.identity, None);

    chain.extend(vec![fleet.ca.der().clone(); 60]);
    let rogue = Rogue::presenting(&chain, tls_key(&node));
    let result = tried(&listener, address, &rogue).await;
    assert!(matches!(result, Err(HandshakeError::Oversize)), "{:?}", result.err());
    assert_eq!(fleet.counted("handshake_oversize"), 1);
    still_serves(&fleet, &listener, address).await;
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_cut_by_size_or_by_time() {
    let fleet = Fleet::new(1);
    let (listener, address) = fleet.listen(Limits::default()).await;
    // One handshake message of 60,000 bytes, in records of 4,000.
    let mut bytes = vec![];
    for n in 0..15 {
        bytes.extend([0x16, 3, 1, (4000_u16 >> 8) as u8, 4000_u16 as u8]);
        let mut body = vec![0; 4000];
        if n == 0 {
            body[..4].copy_from_slice(&[1, 0, (60_000_u16 >> 8) as u8, 60_000_u16 as u8]);
        }
        bytes.extend(body);
    }
    let result = said(&listener, address, &bytes).await;
    assert!(matches!(result, Err(HandshakeError::Oversize)), "{:?}", result.err());

    tokio::time::pause();
    // Silence, one byte, and half a greeting.
    for beginning in [&[][..], &[0x16], &bytes[..300]] {
        let result = said(&listener, address, beginning).await;
        assert!(matches!(result, Err(HandshakeError::Timeout)), "{:?}", result.err());
    }
    assert_eq!(fleet.counted("admission_timeout"), 3);
    tokio::time::resume();
    still_serves(&fleet, &listener, address).await;
}

#[tokio::test]
async fn a_session_is_never_resumed() {
    let fleet = Fleet::new(1);
    let (listener, address) = fleet.listen(Limits::default()).await;
    let node = key(9);
    let rogue = Rogue::presenting(&fleet.node_chain(&node, "ship1"), tls_key(&node));
    let mut config = rogue.config();
    config.resumption = Resumption::in_memory_sessions(8);
    config.enable_early_data = true;
    let config = Arc::new(config);
    for _ in 0..2 {
        let (stream, link) = tokio::join!(rogue.connect_with(config.clone(), address), async {
            listener.accept().await.handshake().await
        });
        let (mut stream, mut link) = (stream.unwrap(), link.unwrap());
        // Tickets would come with the first data.
        link.sender.send(&Frame::Ping(1)).await.unwrap();
        assert!(stream.read(&mut [0; 100]).await.unwrap() > 0);
        let kind = stream.get_ref().1.handshake_kind();
        assert_eq!(kind, Some(rustls::HandshakeKind::Full));
    }
}

#[tokio::test]
async fn what_breaks_the_framing_is_told_apart() {
    let fleet = Fleet::new(1);
    let (listener, address) = fleet.listen(Limits::default()).await;
    let node = key(9);
    let rogue = Rogue::presenting(&fleet.node_chain(&node, "ship1"), tls_key(&node));
    let linked = async || {
        let (stream, link) =
            tokio::join!(rogue.connect(address), async { listener.accept().await.handshake().await });
        (stream.unwrap(), link.unwrap())
    };

    // Cut inside a frame, with and without TLS's own goodbye.
    for clean in [true, false] {
        let (mut stream, mut link) = linked().await;
        stream.write_all(&[0, 0, 0, 9, 1, 2]).await.unwrap();
        stream.flush().await.unwrap();
        if clean {
            stream.shutdown().await.unwrap();
        }
        drop(stream);
        assert!(matches!(link.receiver.recv().await, Err(LinkError::Truncated)));
    }
    assert_eq!(fleet.counted("truncated"), 2);

    // Cut between frames: only a peer that said so has closed.
    let (stream, mut link) = linked().await;
    drop(stream);
    assert!(matches!(link.receiver.recv().await, Err(LinkError::Io(_))));

    let (mut stream, mut link) = linked().await;
    stream.write_all(&[0xff; 64]).await.unwrap();
    stream.flush().await.unwrap();
    let error = link.receiver.recv().await.unwrap_err();
    assert!(matches!(error, LinkError::Oversize { length: 0xffff_ffff, .. }), "{error:?}");

    let (mut stream, mut link) = linked().await;
    stream.write_all(&[0, 0, 0, 3, 0xc1, 0xc1, 0xc1]).await.unwrap();
    stream.flush().await.unwrap();
    let error = link.receiver.recv().await.unwrap_err();
    assert!(matches!(error, LinkError::Malformed(_)) && error.is_violation(), "{error:?}");
    assert_eq!(fleet.counted("malformed"), 1);

    let (mut stream, mut link) = linked().await;
    link.receiver.admit();
    stream.write_all(&[0, 0x10, 0, 0, 1]).await.unwrap();
    stream.flush().await.unwrap();
    tokio::time::pause();
    let error = link.receiver.recv().await.unwrap_err();
    assert!(matches!(error, LinkError::Stalled(_)), "{error:?}");
    assert_eq!(fleet.counted("stalled"), 1);
}

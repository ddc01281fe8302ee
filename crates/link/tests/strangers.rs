//! Thousands of connections from nobody we know: memory stays bounded and nodes still get in.
//!
//! In a process of its own, because it measures the process.

#![cfg(target_os = "linux")]

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey as _;
use mainstay_core::frame::Frame;
use mainstay_core::id::KeyId;
use mainstay_link::certificate::{issue_hub, issue_node, make_ca, self_signed};
use mainstay_link::chain::{FleetCa, Trust};
use mainstay_link::dialer::TlsDialer;
use mainstay_link::limits::{Limits, LinkCounters, MAX_HANDSHAKE, MAX_STRANGER_FRAME};
use mainstay_link::listener::TlsListener;
use mainstay_link::tls::Credentials;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::AsyncWriteExt as _;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What the process may grow by, whatever strangers do.
const MOST_GROWTH: usize = 16 << 20;

/// Memory in use, in bytes, as the kernel counts it.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

fn id(key: &SigningKey) -> KeyId {
    KeyId::from_bytes(key.verifying_key().to_bytes())
}

struct Scene {
    address: SocketAddr,
    dialer: TlsDialer,
    stranger: Arc<ClientConfig>,
    counters: Arc<LinkCounters>,
}

/// A hub that admits whoever has a certificate and echoes pings.
async fn hub(limits: Limits) -> Scene {
    let [root, hub, node] = [1, 2, 3].map(|seed| SigningKey::from_bytes(&[seed; 32]));
    let ca = FleetCa::from_der(make_ca(&root).unwrap()).unwrap();
    let made = issue_hub(&root, id(&hub), &"hub1".parse().unwrap()).unwrap();
    let chain = issue_node(&hub, &made.issuer, id(&node), &"ship1".parse().unwrap()).unwrap();
    let credentials = Credentials::new(hub, made.chain(ca.der())).unwrap();
    let counters = Arc::<LinkCounters>::default();
    let listener =
        TlsListener::bind("127.0.0.1:0", &credentials, ca.clone(), limits, counters.clone()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let incoming = listener.accept().await;
            tokio::spawn(async move {
                let Ok(mut link) = incoming.handshake().await else {
                    return;
                };
                if link.peer.identity.is_some() {
                    link.receiver.admit();
                }
                while let Ok(Some(frame)) = link.receiver.recv().await {
                    if link.sender.send(&frame).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let credentials = Credentials::new(node, chain).unwrap();
    Scene {
        address,
        dialer: TlsDialer::new(&credentials, Trust::Ca(ca), Limits::default(), Arc::default()).unwrap(),
        stranger: Arc::new(stranger()),
        counters,
    }
}

/// A TLS client with a key of its own that asks nothing of the hub.
fn stranger() -> ClientConfig {
    let key = SigningKey::from_bytes(&[9; 32]);
    let chain = vec![CertificateDer::from(self_signed(&key).unwrap().to_vec())];
    let key = PrivatePkcs8KeyDer::from(key.to_pkcs8_der().unwrap().as_bytes().to_vec());
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible))
        .with_client_auth_cert(chain, key.into())
        .unwrap();
    config.alpn_protocols = vec![b"mainstay/1".to_vec()];
    config
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

impl Scene {
    async fn a_node_gets_in(&self) {
        let mut dialled = self.dialer.dial(&self.address.to_string()).await.unwrap();
        dialled.link.receiver.admit();
        dialled.link.sender.send(&Frame::Ping(1)).await.unwrap();
        assert_eq!(dialled.link.receiver.recv().await.unwrap(), Some(Frame::Ping(1)));
    }

    /// A stranger's connection, through the handshake and with these bytes sent.
    async fn unfinished(&self, bytes: &[u8]) -> TlsStream<tokio::net::TcpStream> {
        let tcp = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("hub.mainstay.internal").unwrap();
        let connector = TlsConnector::from(self.stranger.clone());
        let mut stream = connector.connect(name, tcp).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
        stream
    }

    fn assert_small(&self, before: usize, what: &str) {
        let growth = resident().saturating_sub(before);
        println!("{what}: {} KiB", growth / 1024);
        assert!(growth < MOST_GROWTH, "{what}: the process grew by {growth} bytes");
    }
}

fn open_file_limit(needed: u64) -> bool {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    hard >= needed && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_neither_grow_the_process_nor_keep_nodes_out() {
    assert!(open_file_limit(8_000), "this test needs 8,000 open files");
    let limits = Limits { admission: Duration::from_secs(3), ..Limits::default() };
    let scene = hub(limits).await;
    scene.a_node_gets_in().await;
    let before = resident();

    // Half-open: connected and silent, many times more than there are places.
    let (address, counters) = (scene.address, scene.counters.clone());
    let connect = move || {
        let before = counters.accepted.load(Ordering::Relaxed);
        let tcp = TcpStream::connect(address).unwrap();
        // At the listener's pace, since connections that its queue has no room for only wait.
        while counters.accepted.load(Ordering::Relaxed) == before {
            std::thread::yield_now();
        }
        tcp
    };
    let silent: Vec<TcpStream> =
        tokio::task::spawn_blocking(move || (0..2000).map(|_| connect()).collect()).await.unwrap();
    scene.a_node_gets_in().await;
    scene.assert_small(before, "2,000 silent connections");
    assert!(scene.counters.crowded_out.load(Ordering::Relaxed) > 0);

    // Busy: each announces a large handshake message and brings as much of it as it may.
    let mut greeting = vec![0x16, 3, 1, 0x20, 0];
    greeting.extend([1, 0, 0xff, 0]);
    greeting.resize(MAX_HANDSHAKE - 1, 0);
    let speak = move || {
        use std::io::Write as _;
        let mut tcp = TcpStream::connect(address).unwrap();
        // Those that the listener did not take yet have written into the kernel's queue.
        tcp.write_all(&greeting).unwrap();
        tcp
    };
    let busy: Vec<TcpStream> =
        tokio::task::spawn_blocking(move || (0..600).map(|_| speak()).collect()).await.unwrap();
    scene.assert_small(before, "600 endless handshakes");
    // The node waits in the kernel's queue until those before it have run out of time.
    scene.a_node_gets_in().await;
    drop((silent, busy));

    // Proven keys that nobody knows, each with most of the largest frame that it may send. The strangers' own
    // memory counts here as well, so they are fewer.
    let unfinished = {
        let mut bytes = (MAX_STRANGER_FRAME as u32).to_be_bytes().to_vec();
        bytes.resize(MAX_STRANGER_FRAME, 0);
        bytes
    };
    let mut unknown = vec![];
    for _ in 0..150 {
        unknown.push(scene.unfinished(&unfinished).await);
    }
    scene.assert_small(before, "150 unknown keys with most of a frame");
    scene.a_node_gets_in().await;
}

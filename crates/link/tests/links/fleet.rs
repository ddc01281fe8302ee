//! A fleet to test with: a root, a hub, nodes, and listeners and dialers made of them.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use mainstay_core::id::{KeyId, NodeName};
use mainstay_link::certificate::{HubCertificates, issue_hub, issue_node, make_ca};
use mainstay_link::chain::{FleetCa, Trust};
use mainstay_link::dialer::{DialError, TlsDialer};
use mainstay_link::limits::{Limits, LinkCounters};
use mainstay_link::link::Link;
use mainstay_link::listener::{HandshakeError, TlsListener};
use mainstay_link::tls::Credentials;

pub(crate) struct Fleet {
    pub(crate) root: SigningKey,
    pub(crate) ca: FleetCa,
    pub(crate) hub: SigningKey,
    pub(crate) hub_certificates: HubCertificates,
    pub(crate) counters: Arc<LinkCounters>,
}

pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub(crate) fn id(key: &SigningKey) -> KeyId {
    KeyId::from_bytes(key.verifying_key().to_bytes())
}

pub(crate) fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

impl Fleet {
    /// Fleets with different seeds have nothing in common.
    pub(crate) fn new(seed: u8) -> Self {
        let (root, hub) = (key(seed), key(seed + 1));
        let ca = FleetCa::from_der(make_ca(&root).unwrap()).unwrap();
        Self {
            hub_certificates: issue_hub(&root, id(&hub), &name("hub1")).unwrap(),
            root,
            ca,
            hub,
            counters: Arc::default(),
        }
    }

    pub(crate) fn hub_credentials(&self) -> Credentials {
        let chain = self.hub_certificates.chain(self.ca.der());
        Credentials::new(self.hub.clone(), chain).unwrap()
    }

    pub(crate) fn node_chain(&self, node: &SigningKey, named: &str) -> Vec<Bytes> {
        issue_node(&self.hub, &self.hub_certificates.issuer, id(node), &name(named)).unwrap()
    }

    pub(crate) fn node_credentials(&self, node: &SigningKey, named: &str) -> Credentials {
        Credentials::new(node.clone(), self.node_chain(node, named)).unwrap()
    }

    pub(crate) async fn listen(&self, limits: Limits) -> (TlsListener, SocketAddr) {
        self.listen_as(&self.hub_credentials(), limits).await
    }

    pub(crate) async fn listen_as(
        &self,
        credentials: &Credentials,
        limits: Limits,
    ) -> (TlsListener, SocketAddr) {
        let (ca, counters) = (self.ca.clone(), self.counters.clone());
        let listener = TlsListener::bind("127.0.0.1:0", credentials, ca, limits, counters).await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    pub(crate) fn dialer(&self, credentials: &Credentials, limits: Limits) -> TlsDialer {
        self.dialer_trusting(credentials, Trust::Ca(self.ca.clone()), limits)
    }

    pub(crate) fn dialer_trusting(
        &self,
        credentials: &Credentials,
        trust: Trust,
        limits: Limits,
    ) -> TlsDialer {
        TlsDialer::new(credentials, trust, limits, self.counters.clone()).unwrap()
    }

    pub(crate) fn counted(&self, counter: &str) -> u64 {
        let all = self.counters.snapshot();
        all.iter().find(|(name, _)| *name == counter).unwrap().1
    }
}

/// Both ends of one dialling: the node's, then the hub's.
pub(crate) async fn meet(
    listener: &TlsListener,
    dialer: &TlsDialer,
    address: SocketAddr,
) -> (Result<Link, DialError>, Result<Link, HandshakeError>) {
    let address = address.to_string();
    let dialled = async { dialer.dial(&address).await.map(|dialled| dialled.link) };
    tokio::join!(dialled, async { listener.accept().await.handshake().await })
}

//! Judges what arrives before the engine sees it: whose it is, whether it may, whether the method exists.
//!
//! Identity comes from keys: the peer's, proven by the link, and the signer's, proven by the signature. A name
//! counts only as far as a certificate of this fleet says it for that key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use mainstay_core::access::Rules;
use mainstay_core::envelope::{Audience, Body, Payload, Request};
use mainstay_core::id::{KeyId, NodeName};
use mainstay_core::outcome::Rejection;
use mainstay_core::time::Timestamp;
use mainstay_core::trust::TrustLog;
use mainstay_link::chain::{FleetCa, PeerIdentity};

use crate::hub_role::HubRole;
use crate::method::Methods;

/// Verified chains that are remembered: a chain costs three signature checks, and senders come again.
const CHAINS: usize = 4_096;

pub struct Judge {
    pub me: KeyId,
    pub trust: Arc<RwLock<TrustLog>>,
    pub rules: Rules,
    pub methods: Methods,
    pub ca: FleetCa,
    pub hub: Option<Arc<dyn HubRole>>,
    /// By digest; `None` for those that do not lead to this fleet's CA.
    chains: Mutex<HashMap<[u8; 32], Option<PeerIdentity>>>,
}

/// Who is at the other end of the link.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    pub key: KeyId,
    pub name: NodeName,
    pub hub: bool,
}

impl Judge {
    pub fn new(
        me: KeyId,
        trust: Arc<RwLock<TrustLog>>,
        rules: Rules,
        methods: Methods,
        ca: FleetCa,
        hub: Option<Arc<dyn HubRole>>,
    ) -> Self {
        Self { me, trust, rules, methods, ca, hub, chains: Mutex::default() }
    }

    fn trust(&self) -> std::sync::RwLockReadGuard<'_, TrustLog> {
        self.trust.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_revoked(&self, key: &KeyId) -> bool {
        self.trust().is_revoked(key)
    }

    /// Entries of the trust log that a peer with this many does not have.
    pub fn trust_after(&self, epoch: u64) -> Vec<Bytes> {
        self.trust().after(epoch).to_vec()
    }

    /// What this node sends to itself needs no rule.
    pub fn own(&self, body: &Body) -> Result<(), Rejection> {
        match &body.payload {
            Payload::Request(request) => self.methods.accept(request).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// Judges an envelope whose signature is good.
    pub fn judge(
        &self,
        peer: &PeerInfo,
        body: &Body,
        chain: &[Bytes],
        now: Timestamp,
    ) -> Result<(), Rejection> {
        // Agents send only what they signed themselves; hubs may pass on what others signed.
        if body.from != peer.key && !peer.hub {
            return Err(Rejection::BadSignature);
        }
        if self.trust().is_revoked(&body.from) {
            return Err(Rejection::Denied);
        }
        match body.to {
            Audience::Node(to) if to == self.me => self.for_me(peer, body, chain, now),
            Audience::Node(to) => match &self.hub {
                Some(role) if role.name_of(to).is_some() => Ok(()),
                Some(_) => Err(Rejection::UnknownNode),
                None => Err(Rejection::WrongAudience),
            },
            Audience::Hubs => Ok(()),
        }
    }

    fn for_me(&self, peer: &PeerInfo, body: &Body, chain: &[Bytes], now: Timestamp) -> Result<(), Rejection> {
        match &body.payload {
            Payload::Request(request) => {
                self.may_call(peer, body, request, chain, now)?;
                self.methods.accept(request).map(|_| ())
            }
            // Only a hub speaks for the hub role.
            Payload::Cancel(cancel) if cancel.run.is_some() && !self.trust().is_hub(&body.from, now) => {
                Err(Rejection::Denied)
            }
            // Whether they fit a message here is the engine's to see.
            Payload::Cancel(_) | Payload::Output(_) | Payload::End(_) | Payload::Receipt(_) => Ok(()),
        }
    }

    fn may_call(
        &self,
        peer: &PeerInfo,
        body: &Body,
        request: &Request,
        chain: &[Bytes],
        now: Timestamp,
    ) -> Result<(), Rejection> {
        if self.trust().hub_may_call(&body.from, &request.method, now) {
            return Ok(());
        }
        if request.run.is_some() {
            return Err(Rejection::Denied);
        }
        let name = if body.from == peer.key {
            peer.name.clone()
        } else {
            self.name_in(chain, body.from).ok_or(Rejection::Denied)?
        };
        if self.rules.allow(name.as_str(), &request.method) { Ok(()) } else { Err(Rejection::Denied) }
    }

    /// The name that a chain of this fleet gives to this key, unless the hub that vouched for it was revoked.
    fn name_in(&self, chain: &[Bytes], key: KeyId) -> Option<NodeName> {
        let mut hasher = blake3::Hasher::new();
        for certificate in chain {
            hasher.update(&(certificate.len() as u64).to_be_bytes());
            hasher.update(certificate);
        }
        let digest = *hasher.finalize().as_bytes();
        let known = self.chains.lock().unwrap_or_else(PoisonError::into_inner).get(&digest).cloned();
        let verified = known.unwrap_or_else(|| {
            let verified = self.ca.verify(chain).ok();
            let mut chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
            if chains.len() >= CHAINS {
                chains.clear();
            }
            chains.insert(digest, verified.clone());
            verified
        });
        let identity = verified?;
        (identity.key == key && !self.trust().is_revoked(&identity.issuer)).then_some(identity.name)
    }
}

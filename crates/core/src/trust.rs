//! The trust log: who may act as a hub or an operator, and who no longer may.
//!
//! A monotone list of signed entries, each naming the hash of the one before. The fleet root signs grants
//! and its own successor; revocations are signed by the root or, for nodes and operators, by a hub whose
//! grant is in force, so that a fleet whose root is offline can still throw someone out. Anyone can replay the log
//! from any point and comes to the same state; the number of entries is the *epoch*.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ed25519_dalek::{Signature, Signer as _, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::envelope::Signer;
use crate::id::KeyId;
use crate::target::glob_matches;
use crate::time::Timestamp;

const DOMAIN: &[u8] = b"mainstay-trust-v1\0";

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Hub,
    Operator,
}

/// What the root allows a key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Grant {
    pub key: KeyId,
    pub name: String,
    pub role: Role,
    /// Globs over method names.
    pub methods: Vec<String>,
    /// A target expression; `*` for every node.
    pub targets: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// The first entry: the fleet's root, signed by itself.
    Root {
        key: KeyId,
    },
    Grant(Grant),
    /// Final: a revoked key never comes back.
    Revoke {
        key: KeyId,
        reason: String,
    },
    /// Signed by the root that steps down.
    RotateRoot {
        to: KeyId,
    },
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Counts from 1.
    pub epoch: u64,
    /// Hash of the entry before, as it travels; zeroes for the first.
    #[serde(with = "serde_bytes")]
    pub previous: [u8; 32],
    pub at: Timestamp,
    pub act: Act,
}

#[derive(Serialize, Deserialize)]
struct SignedEntry {
    #[serde(rename = "e")]
    entry: Bytes,
    #[serde(rename = "k")]
    key: KeyId,
    #[serde(rename = "g", with = "serde_bytes")]
    signature: [u8; 64],
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    #[error("a trust entry that cannot be decoded: {0}")]
    Malformed(String),
    #[error("the signature of trust entry {0} does not verify")]
    Signature(u64),
    #[error("trust entry {found} does not follow entry {have}")]
    Gap { have: u64, found: u64 },
    #[error("trust entry {0} does not name the entry before it: the log was forked")]
    Forked(u64),
    #[error("trust entry {0} is signed by a key that may not sign it")]
    NotEntitled(u64),
    #[error("the log begins with another root than this fleet's")]
    WrongRoot,
}

/// The log and what follows from it.
#[derive(Clone, Debug, Default)]
pub struct TrustLog {
    entries: Vec<Bytes>,
    head: [u8; 32],
    root: Option<KeyId>,
    grants: BTreeMap<KeyId, Grant>,
    revoked: BTreeSet<KeyId>,
}

impl TrustLog {
    /// Replays stored entries. Their signatures are checked again: a disk is not trusted either.
    pub fn replay<'a>(entries: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, TrustError> {
        let mut log = Self::default();
        for bytes in entries {
            log.append(Bytes::copy_from_slice(bytes))?;
        }
        Ok(log)
    }

    pub fn epoch(&self) -> u64 {
        self.entries.len() as u64
    }

    pub fn head(&self) -> [u8; 32] {
        self.head
    }

    pub fn root(&self) -> Option<KeyId> {
        self.root
    }

    /// The entries after `epoch`, to be sent to a peer that is at that epoch.
    pub fn after(&self, epoch: u64) -> &[Bytes] {
        let from = usize::try_from(epoch).unwrap_or(usize::MAX).min(self.entries.len());
        &self.entries[from..]
    }

    /// Whether a peer that has `epoch` entries, the last of hash `head`, holds a prefix of this log.
    pub fn has_prefix(&self, epoch: u64, head: &[u8; 32]) -> bool {
        match epoch {
            0 => *head == [0; 32],
            n => usize::try_from(n)
                .ok()
                .and_then(|n| self.entries.get(n - 1))
                .is_some_and(|entry| blake3::hash(entry).as_bytes() == head),
        }
    }

    pub fn is_revoked(&self, key: &KeyId) -> bool {
        self.revoked.contains(key)
    }

    /// The grant of `key` in this role that is in force at `now`.
    pub fn grant(&self, key: &KeyId, role: Role, now: Timestamp) -> Option<&Grant> {
        self.grants.get(key).filter(|grant| {
            grant.role == role && !self.revoked.contains(key) && grant.expires.is_none_or(|end| now < end)
        })
    }

    pub fn is_hub(&self, key: &KeyId, now: Timestamp) -> bool {
        self.grant(key, Role::Hub, now).is_some()
    }

    /// Whether `key` is a hub whose grant names `method`.
    pub fn hub_may_call(&self, key: &KeyId, method: &str, now: Timestamp) -> bool {
        self.grant(key, Role::Hub, now)
            .is_some_and(|grant| grant.methods.iter().any(|glob| glob_matches(glob, method)))
    }

    pub fn grants(&self) -> impl Iterator<Item = &Grant> {
        self.grants.values()
    }

    /// Signs an entry that would follow the last one. It is not appended: it must be stored first.
    pub fn next_entry(&self, signer: &Signer, now: Timestamp, act: Act) -> Bytes {
        let entry = Entry { epoch: self.epoch() + 1, previous: self.head, at: now, act };
        let entry = rmp_serde::to_vec_named(&entry).expect("an entry is encodable");
        let signature = signer.signing_key().sign(&[DOMAIN, &entry].concat()).to_bytes();
        let signed = SignedEntry { entry: entry.into(), key: signer.id(), signature };
        rmp_serde::to_vec_named(&signed).expect("an entry is encodable").into()
    }

    /// Checks an entry and appends it. Nothing changes on an error.
    pub fn append(&mut self, bytes: Bytes) -> Result<Act, TrustError> {
        let malformed = |e: rmp_serde::decode::Error| TrustError::Malformed(e.to_string());
        let signed: SignedEntry = crate::encoding::decode(&bytes).map_err(malformed)?;
        let entry: Entry = crate::encoding::decode(&signed.entry).map_err(malformed)?;
        let epoch = self.epoch() + 1;
        if entry.epoch != epoch {
            return Err(TrustError::Gap { have: self.epoch(), found: entry.epoch });
        }
        if entry.previous != self.head {
            return Err(TrustError::Forked(epoch));
        }
        VerifyingKey::from_bytes(signed.key.as_bytes())
            .and_then(|key| {
                key.verify_strict(
                    &[DOMAIN, &signed.entry].concat(),
                    &Signature::from_bytes(&signed.signature),
                )
            })
            .map_err(|_| TrustError::Signature(epoch))?;
        if !self.may_sign(&signed.key, &entry) {
            return Err(TrustError::NotEntitled(epoch));
        }
        match &entry.act {
            Act::Root { key } | Act::RotateRoot { to: key } => self.root = Some(*key),
            Act::Grant(grant) => {
                self.grants.insert(grant.key, grant.clone());
            }
            Act::Revoke { key, .. } => {
                self.revoked.insert(*key);
                self.grants.remove(key);
            }
        }
        self.head = *blake3::hash(&bytes).as_bytes();
        self.entries.push(bytes);
        Ok(entry.act)
    }

    fn may_sign(&self, signer: &KeyId, entry: &Entry) -> bool {
        let by_root = self.root == Some(*signer);
        match &entry.act {
            Act::Root { key } => self.root.is_none() && key == signer,
            Act::Grant(grant) => by_root && !self.revoked.contains(&grant.key),
            Act::RotateRoot { .. } => by_root,
            Act::Revoke { key, .. } => {
                let concerns_hub = self.grants.get(key).is_some_and(|grant| grant.role == Role::Hub);
                by_root || (!concerns_hub && self.root != Some(*key) && self.is_hub(signer, entry.at))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;

    fn signer(seed: u8) -> Signer {
        Signer::new(SigningKey::from_bytes(&[seed; 32]))
    }

    const NOW: Timestamp = Timestamp::from_millis(1_000);

    fn hub_grant(key: KeyId, expires: Option<Timestamp>) -> Act {
        Act::Grant(Grant {
            key,
            name: "central".into(),
            role: Role::Hub,
            methods: vec!["*".into()],
            targets: "*".into(),
            expires,
        })
    }

    fn fleet() -> (TrustLog, Signer, Signer) {
        let (root, hub) = (signer(1), signer(2));
        let mut log = TrustLog::default();
        let entry = log.next_entry(&root, NOW, Act::Root { key: root.id() });
        log.append(entry).unwrap();
        let entry = log.next_entry(&root, NOW, hub_grant(hub.id(), None));
        log.append(entry).unwrap();
        (log, root, hub)
    }

    #[test]
    fn a_hub_may_revoke_a_node_but_not_a_hub_nor_grant_anything() {
        let (mut log, root, hub) = fleet();
        let node = signer(3).id();
        let revoke = log.next_entry(&hub, NOW, Act::Revoke { key: node, reason: "lost".into() });
        log.append(revoke).unwrap();
        assert!(log.is_revoked(&node));
        for act in [
            hub_grant(node, None),
            Act::Revoke { key: hub.id(), reason: String::new() },
            Act::Revoke { key: root.id(), reason: String::new() },
            Act::RotateRoot { to: hub.id() },
        ] {
            let entry = log.next_entry(&hub, NOW, act);
            assert_eq!(log.append(entry), Err(TrustError::NotEntitled(4)));
        }
        // What was revoked cannot be granted again, not even by the root.
        let entry = log.next_entry(&root, NOW, hub_grant(node, None));
        assert_eq!(log.append(entry), Err(TrustError::NotEntitled(4)));
    }

    #[test]
    fn a_hub_does_not_outlive_its_grant() {
        let (mut log, root, _) = fleet();
        let late = signer(4).id();
        let entry = log.next_entry(&root, NOW, hub_grant(late, Some(Timestamp::from_millis(2_000))));
        log.append(entry).unwrap();
        assert!(log.hub_may_call(&late, "cmd", Timestamp::from_millis(1_999)));
        assert!(!log.is_hub(&late, Timestamp::from_millis(2_000)));
    }

    #[test]
    fn gaps_forks_and_changed_bytes_are_refused_and_change_nothing() {
        let (log, root, hub) = fleet();
        let mut copy = TrustLog::replay(log.after(0).iter().map(|e| &e[..])).unwrap();
        assert_eq!(copy.head(), log.head());
        let mut other = log.clone();
        let one = other.next_entry(&root, NOW, Act::RotateRoot { to: hub.id() });
        other.append(one.clone()).unwrap();
        let two = other.next_entry(&hub, NOW, Act::RotateRoot { to: root.id() });
        assert_eq!(copy.append(two), Err(TrustError::Gap { have: 2, found: 4 }));
        let mut broken = one.to_vec();
        *broken.last_mut().unwrap() ^= 1;
        assert!(copy.append(broken.into()).is_err());
        let entry = copy.next_entry(&root, NOW, Act::Revoke { key: signer(9).id(), reason: String::new() });
        copy.append(entry).unwrap();
        assert_eq!(copy.append(two_after(&other, &hub)), Err(TrustError::Forked(4)));
        assert!(!copy.has_prefix(other.epoch(), &other.head()));
        assert!(copy.has_prefix(log.epoch(), &log.head()));
    }

    fn two_after(log: &TrustLog, signer: &Signer) -> Bytes {
        log.next_entry(signer, NOW, Act::RotateRoot { to: signer.id() })
    }
}

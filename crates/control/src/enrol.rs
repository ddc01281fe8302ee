//! How a stranger becomes a node: by a token, or by waiting for an operator. Never by its name alone.
//!
//! Every step can be asked again by the same key and comes to the same: the use of the token, the name's claim and the
//! record are each found again. So an agent that was killed before it kept its certificate simply asks once more.

use mainstay_core::frame::{Enrol, Enrolment};
use mainstay_core::id::{KeyId, NodeName};

use crate::hub::Inner;
use crate::registry::{Applicant, NodeRecord, RegistryError};
use crate::token::TokenError;
use crate::view::NodeState;

/// How soon a node that waits for an operator asks again: soon enough for who stands beside it, seldom enough for a
/// thousand of them.
const WAIT_MS: u64 = 5_000;

/// When the hub itself could not do it now.
const RETRY_MS: u64 = 1_000;

impl Inner {
    pub(crate) async fn enrol(&self, key: KeyId, enrol: Enrol) -> Enrolment {
        let answer = self.decide(key, enrol).await;
        self.metrics.enrolment(match &answer {
            Enrolment::Joined { .. } => "joined",
            Enrolment::Waiting { .. } => "waiting",
            Enrolment::Refused { .. } => "refused",
        });
        answer
    }

    async fn decide(&self, key: KeyId, enrol: Enrol) -> Enrolment {
        let revoked = self.fleet.trust().read().expect("no holder panics").is_revoked(&key);
        if revoked || key == self.fleet.key() {
            return refused(
                "this key was thrown out of the fleet for good: make the node a new one, with a new data directory",
            );
        }
        if let Some(record) = self.registry.record(&key) {
            return match record.state {
                // It asks because it has lost the answer. Its key is proven, so here it is again.
                NodeState::Active => self.joined(key, record.name),
                NodeState::Quarantined | NodeState::Waiting => Enrolment::Waiting { retry_ms: WAIT_MS },
                NodeState::Revoked | NodeState::Removed => refused("this node was removed from the fleet"),
            };
        }
        let Some(secret) = enrol.secret.clone() else {
            self.registry.apply(key, self.applicant(enrol));
            return Enrolment::Waiting { retry_ms: WAIT_MS };
        };
        if self.registry.key_of(&enrol.name).is_some_and(|holder| holder != key) {
            // Before the token is used, so that a mistyped name does not cost it.
            return name_taken(&enrol.name);
        }
        let now = self.now();
        let token = match self.tokens.redeem(&secret, key, &enrol.name, now).await {
            Ok(token) => token,
            Err(TokenError::InProgress) => return Enrolment::Waiting { retry_ms: RETRY_MS },
            Err(TokenError::Store(e)) => {
                tracing::warn!("a token could not be used: {e}");
                return Enrolment::Waiting { retry_ms: RETRY_MS };
            }
            Err(e) => return refused(e.to_string()),
        };
        // Killed here: the use is written, and this key finds it again when it asks again.
        let record = NodeRecord {
            name: enrol.name.clone(),
            state: NodeState::Active,
            labels: token.labels.clone(),
            facts: *enrol.facts,
            enrolled_at: now,
            last_seen: None,
            linked: false,
            journal: Some(enrol.journal),
            mark: 0,
            note: None,
        };
        let by = format!("token of {}", token.created_by);
        let detail = serde_json::json!({"name": record.name, "key": key.to_string()});
        if let Err(e) = self.audit.note(now, &by, "node.join", detail).await {
            tracing::warn!("a node's joining could not be noted: {e}");
            return Enrolment::Waiting { retry_ms: RETRY_MS };
        }
        match self.registry.admit(key, record).await {
            Ok(name) => self.joined(key, name),
            Err(RegistryError::NameTaken(name)) => name_taken(&name),
            Err(e) => {
                tracing::warn!(name = %enrol.name, "a node could not be admitted: {e}");
                Enrolment::Waiting { retry_ms: RETRY_MS }
            }
        }
    }

    fn joined(&self, key: KeyId, name: NodeName) -> Enrolment {
        match self.fleet.node_chain(key, &name) {
            Ok(chain) => Enrolment::Joined { name, chain, ca: self.fleet.ca().clone(), now: self.now() },
            Err(e) => {
                tracing::error!(%name, "no certificate can be made: {e}");
                refused("the hub cannot make a certificate for this key")
            }
        }
    }

    fn applicant(&self, enrol: Enrol) -> Applicant {
        Applicant {
            name: enrol.name,
            facts: *enrol.facts,
            journal: enrol.journal,
            asked_at: self.now(),
            note: "asks to join".into(),
        }
    }
}

/// What a node that the registry does not know asks for by its mere hello, as one does after a hub was restored from an older
/// backup.
pub(crate) fn applicant_of_hello(
    hello: &mainstay_core::frame::Hello,
    now: mainstay_core::time::Timestamp,
) -> Applicant {
    Applicant {
        name: hello.name.clone(),
        facts: hello.facts.as_deref().cloned().unwrap_or_default(),
        journal: hello.journal,
        asked_at: now,
        note: "has a certificate of this fleet, but this hub does not know it".into(),
    }
}

fn refused(reason: impl Into<String>) -> Enrolment {
    Enrolment::Refused { reason: reason.into() }
}

fn name_taken(name: &NodeName) -> Enrolment {
    refused(format!(
        "the name {name} is taken: choose another one with --name, or remove the other node with `mainstay nodes remove {name}`"
    ))
}

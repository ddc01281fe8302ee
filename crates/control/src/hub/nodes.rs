//! What operators ask about nodes: look, accept, label, and throw out.

use std::collections::BTreeMap;

use mainstay_core::frame::Goodbye;
use mainstay_core::id::{KeyId, NodeName};
use serde_json::json;
use tokio::sync::oneshot;

use super::runs::parse_target;
use super::{Hub, admin};
use crate::recorder::Note;
use crate::registry::NodeRecord;
use crate::view::*;

/// Labels of one node, and the length of a label's name or value: so that a record stays small.
const MAX_LABELS: usize = 64;
const MAX_LABEL: usize = 256;

impl Hub {
    /// All nodes, or those that a target expression means.
    pub async fn nodes(&self, target: Option<&str>) -> Result<Vec<NodeView>, Problem> {
        let target = target.map(parse_target).transpose()?;
        Ok(self.inner.registry.views(target.as_ref()))
    }

    /// By name, by key, or by the first characters of a key.
    pub async fn node(&self, which: &str) -> Result<NodeView, Problem> {
        let key = self.find(which)?;
        self.inner.registry.view(&key).ok_or_else(|| unknown(which))
    }

    /// Accepts a waiting or quarantined node, under another name if given.
    pub async fn accept_node(
        &self,
        by: &Operator,
        which: &str,
        name: Option<NodeName>,
    ) -> Result<NodeView, Problem> {
        let (hub, by, which) = (self.clone(), by.clone(), which.to_owned());
        self.whole(async move { hub.accept(&by, &which, name).await }).await
    }

    async fn accept(&self, by: &Operator, which: &str, name: Option<NodeName>) -> Result<NodeView, Problem> {
        admin(by)?;
        let inner = &self.inner;
        let key = self.find(which)?;
        let detail = json!({"node": which, "key": key.to_string(), "name": name});
        inner.audit.note(inner.now(), &by.name, "node.accept", detail).await?;
        match inner.registry.state(&key) {
            None => {
                let applicant = inner.registry.applicant(&key).ok_or_else(|| unknown(which))?;
                let record = NodeRecord {
                    name: name.unwrap_or(applicant.name),
                    state: NodeState::Active,
                    labels: BTreeMap::new(),
                    facts: applicant.facts,
                    enrolled_at: inner.now(),
                    last_seen: None,
                    linked: false,
                    journal: Some(applicant.journal),
                    mark: 0,
                    note: None,
                };
                inner.registry.admit(key, record).await?;
            }
            Some(NodeState::Quarantined) => {
                if let Some(name) = &name {
                    inner.registry.rename(key, name).await?;
                }
                // What its old journal had taken is gone with it. Killed after this: it is quarantined still.
                let (done, written) = oneshot::channel();
                inner.note(Note::JournalLost { key, done });
                written.await.map_err(|_| stopped())??;
                let fresh = |record: &mut NodeRecord| {
                    record.state = NodeState::Active;
                    record.note = None;
                    record.journal = None;
                    record.mark = 0;
                };
                inner.registry.update(key, fresh).await?;
            }
            Some(state) => {
                return Err(Problem::new(
                    ProblemKind::Conflict,
                    format!("{which} is {}; there is nothing to accept", state.word()),
                ));
            }
        }
        inner.wake([key]);
        inner.registry.view(&key).ok_or_else(|| unknown(which))
    }

    /// Sets labels, or removes those that are `None`.
    pub async fn label_node(
        &self,
        by: &Operator,
        which: &str,
        labels: BTreeMap<String, Option<String>>,
    ) -> Result<NodeView, Problem> {
        let (hub, by, which) = (self.clone(), by.clone(), which.to_owned());
        self.whole(async move { hub.label(&by, &which, labels).await }).await
    }

    async fn label(
        &self,
        by: &Operator,
        which: &str,
        labels: BTreeMap<String, Option<String>>,
    ) -> Result<NodeView, Problem> {
        admin(by)?;
        check_labels(labels.iter().filter_map(|(name, value)| Some((name, value.as_ref()?))))?;
        let inner = &self.inner;
        let key = self.find(which)?;
        let record = inner.registry.record(&key).ok_or_else(|| {
            Problem::new(ProblemKind::Conflict, format!("{which} is not accepted yet"))
                .hint(format!("accept it first: `mainstay nodes accept {which}`"))
        })?;
        let added =
            labels.iter().filter(|(name, value)| value.is_some() && !record.labels.contains_key(*name));
        if record.labels.len() + added.count() > MAX_LABELS {
            return Err(too_many_labels());
        }
        let detail = json!({"node": which, "labels": labels});
        inner.audit.note(inner.now(), &by.name, "node.label", detail).await?;
        let change = |record: &mut NodeRecord| {
            for (name, value) in &labels {
                match value {
                    Some(value) => record.labels.insert(name.clone(), value.clone()),
                    None => record.labels.remove(name),
                };
            }
        };
        inner.registry.update(key, change).await?;
        inner.registry.view(&key).ok_or_else(|| unknown(which))
    }

    /// Final: the key never comes back; its link is cut. What it still owes ends as `lost` or `undeliverable`,
    /// since nothing can come of it any more. Its name stays taken until it is removed.
    pub async fn revoke_node(&self, by: &Operator, which: &str, reason: &str) -> Result<NodeView, Problem> {
        admin(by)?;
        let key = self.find(which)?;
        let (hub, by, name, reason) = (self.clone(), by.clone(), which.to_owned(), reason.to_owned());
        self.whole(async move { hub.throw_out(&by, key, &name, NodeState::Revoked, &reason).await }).await?;
        self.inner.registry.view(&key).ok_or_else(|| unknown(which))
    }

    /// Revokes it, ends what it still owes as `lost` or `undeliverable`, and frees its name.
    pub async fn remove_node(&self, by: &Operator, which: &str) -> Result<(), Problem> {
        admin(by)?;
        let key = self.find(which)?;
        let (hub, by, name) = (self.clone(), by.clone(), which.to_owned());
        self.whole(async move { hub.throw_out(&by, key, &name, NodeState::Removed, "removed").await }).await
    }

    /// The trust log first, since it alone keeps the key out; each later step is made up for at the next start.
    async fn throw_out(
        &self,
        by: &Operator,
        key: KeyId,
        which: &str,
        state: NodeState,
        reason: &str,
    ) -> Result<(), Problem> {
        let inner = &self.inner;
        let act = if state == NodeState::Removed { "node.remove" } else { "node.revoke" };
        let detail = json!({"node": which, "key": key.to_string(), "reason": reason});
        inner.audit.note(inner.now(), &by.name, act, detail).await?;
        if key == inner.fleet.key() {
            return Err(Problem::new(ProblemKind::Conflict, "this hub cannot throw itself out"));
        }
        if !inner.may_extend_trust() {
            return Err(Problem::new(
                ProblemKind::Conflict,
                "this hub was restored from a backup and has not met a node since: another revocation might contradict one that was made meanwhile",
            )
            .hint("let a node link first, which brings what the backup lacks"));
        }
        inner.fleet.revoke(key, reason, inner.now()).await?;
        inner.trust_changed();
        inner.cut(key, Goodbye::Revoked);
        inner.end_node(key, state, reason).await
    }

    pub(super) fn find(&self, which: &str) -> Result<KeyId, Problem> {
        match self.inner.registry.find(which).as_slice() {
            [key] => Ok(*key),
            [] => Err(unknown(which)),
            several => {
                let keys: Vec<_> = several.iter().take(5).map(KeyId::short).collect();
                Err(Problem::new(ProblemKind::Conflict, format!("{which} means {} nodes", several.len()))
                    .hint(format!("say which by its key: {}", keys.join(", "))))
            }
        }
    }
}

impl super::Inner {
    /// What follows from a revocation that is in the trust log.
    pub(super) async fn end_node(&self, key: KeyId, state: NodeState, note: &str) -> Result<(), Problem> {
        self.registry.dismiss(&key);
        if self.registry.state(&key).is_some_and(|now| now != NodeState::Removed) {
            self.registry.retire(key, state, note).await?;
        }
        self.dispatch().forget_peer(&key);
        let (done, written) = oneshot::channel();
        self.note(Note::Abandon { key, done });
        written.await.map_err(|_| stopped())??;
        Ok(())
    }
}

pub(super) fn check_labels<'a>(
    labels: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<(), Problem> {
    let mut count = 0;
    for (name, value) in labels {
        count += 1;
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/');
        if name.is_empty() || name.len() > MAX_LABEL || !name.bytes().all(plain) {
            return Err(Problem::new(
                ProblemKind::Invalid,
                format!("{name:?} cannot be a label: use letters, digits and . _ - /"),
            ));
        }
        if value.len() > MAX_LABEL || value.chars().any(char::is_control) {
            return Err(Problem::new(
                ProblemKind::Invalid,
                format!(
                    "the value of the label {name} is longer than {MAX_LABEL} bytes or holds control characters"
                ),
            ));
        }
    }
    if count > MAX_LABELS { Err(too_many_labels()) } else { Ok(()) }
}

fn too_many_labels() -> Problem {
    Problem::new(ProblemKind::Invalid, format!("a node has at most {MAX_LABELS} labels"))
}

fn unknown(which: &str) -> Problem {
    Problem::new(ProblemKind::NotFound, format!("there is no node {which}"))
        .hint("`mainstay nodes list` shows names and keys")
}

fn stopped() -> Problem {
    Problem::new(ProblemKind::Internal, "the hub is stopping")
}

//! What time alone asks of a hub: expiries, nodes that were busy, writing down what changed, forgetting what is old.
//!
//! A reconciler: it looks and acts; what wakes it says only "look again". Everything it does can be done twice.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mainstay_core::envelope::Request;
use mainstay_core::id::NodeName;
use mainstay_core::time::Timestamp;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Hub, Inner};
use crate::recorder::Note;
use crate::shelf::ShelfError;
use crate::view::{NodeState, Operator, Problem};

/// What is marked as changed is written at most this often, and at the end of a link.
const STEP: Duration = Duration::from_secs(10);

/// However often it is woken, it does not look more often than this: a thousand links that end at once are one look.
const PAUSE: Duration = Duration::from_millis(100);

const PRUNE_STEP: Duration = Duration::from_secs(24 * 3600);

/// A token that expired is shown for this long.
const KEEP_TOKENS: Duration = Duration::from_secs(7 * 24 * 3600);

/// Entries of a log read at a time.
pub(super) const PAGE: usize = 1024;

/// Longest list that is given out.
pub(super) const MAX_LIST: usize = 10_000;

/// Reported errors that are kept; a node that reports in a loop pushes out older ones, and fills no disk.
const MAX_ERRORS: usize = 20_000;
const MAX_REPORT: usize = 8 * 1024;
const ERRORS: &str = "errors";

/// How much of ended runs is kept.
#[derive(Clone, Copy, Debug)]
pub struct History {
    pub age: Duration,
    /// Of the logs of all runs.
    pub bytes: u64,
}

impl Default for History {
    /// A month answers "what happened since the last release", a gigabyte fits any machine that is a hub.
    fn default() -> Self {
        Self { age: Duration::from_secs(30 * 24 * 3600), bytes: 1 << 30 }
    }
}

/// Where the reports that are kept stand in their log.
#[derive(Default)]
pub(crate) struct ErrorLog {
    positions: VecDeque<u64>,
}

impl Hub {
    /// What nodes reported last, newest first.
    pub async fn errors(&self, _by: &Operator, limit: usize) -> Result<Vec<serde_json::Value>, Problem> {
        let inner = &self.inner;
        let limit = limit.min(MAX_LIST);
        let mut from = {
            let errors = inner.errors.lock().await;
            let first = errors.positions.len().saturating_sub(limit);
            errors.positions.get(first).map_or(0, |position| position - 1)
        };
        let mut values = Vec::new();
        loop {
            let page = inner.shelf.read(ERRORS, from, PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            from = *last;
            values.extend(page.iter().filter_map(|(_, bytes)| serde_json::from_slice(bytes).ok()));
        }
        values.reverse();
        values.truncate(limit);
        Ok(values)
    }
}

impl Inner {
    pub(super) async fn keep_up(self: Arc<Self>, stop: CancellationToken) {
        let mut pruned: Option<Timestamp> = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.upkeep.notified() => tokio::time::sleep(PAUSE).await,
                () = tokio::time::sleep(self.until_next()) => {}
            }
            self.look_again().await;
            let now = self.now();
            if pruned.is_none_or(|at| now.since(at) >= PRUNE_STEP) {
                pruned = Some(now);
                let History { age, bytes } = self.config.history;
                match self.prune(now - age, bytes).await {
                    Ok(0) => {}
                    Ok(count) => tracing::info!(count, "forgot old runs"),
                    Err(e) => tracing::warn!("old runs could not be forgotten: {e}"),
                }
                if let Err(e) = self.tokens.sweep(now - KEEP_TOKENS).await {
                    tracing::warn!("expired tokens could not be forgotten: {e}");
                }
            }
        }
    }

    /// Everything that is due now.
    pub(super) async fn look_again(&self) {
        let now = self.now();
        let (expired, look, awake) = {
            let mut dispatch = self.dispatch();
            let mut expired = Vec::new();
            let mut look = Vec::new();
            for run in dispatch.runs() {
                let id = run.record.run;
                if now >= run.record.expires && !run.expired {
                    expired.push(id);
                } else if run.is_gated() || run.cancelled() || run.closing(now).is_some() {
                    look.push(id);
                }
            }
            self.metrics.queues(dispatch.run_count(), dispatch.depth());
            (expired, look, dispatch.no_longer_busy(now))
        };
        expired.into_iter().for_each(|run| self.note(Note::Expire(run)));
        look.into_iter().for_each(|run| self.note(Note::Look(run)));
        self.wake(awake);
        let (states, online) = self.registry.tally();
        self.metrics.nodes(&states, online);
        if let Err(e) = self.registry.still_here(now).await {
            tracing::debug!("that this hub is there was not written: {e}");
        }
        self.registry.flush().await;
    }

    /// How long until something is due by itself.
    fn until_next(&self) -> Duration {
        let now = self.now();
        let dispatch = self.dispatch();
        let expiries = dispatch.runs().filter(|run| !run.expired).map(|run| run.record.expires);
        let next = expiries.chain(dispatch.busy_until()).min();
        drop(dispatch);
        next.map_or(STEP, |at| at.since(now).clamp(PAUSE, STEP))
    }

    /// Brings the registry and the runs in line with the trust log: a hub that was killed while it threw a node out has the
    /// revocation and perhaps nothing else.
    pub(super) async fn agree_with_trust(&self) {
        let trust = self.fleet.trust();
        let revoked = |key: &_| trust.read().expect("no holder panics").is_revoked(key);
        for key in self.registry.keys() {
            if !revoked(&key) {
                continue;
            }
            if !matches!(self.registry.state(&key), Some(NodeState::Revoked | NodeState::Removed))
                && let Err(e) = self.registry.retire(key, NodeState::Revoked, "revoked").await
            {
                tracing::warn!(key = %key.short(), "a revoked node could not be marked: {e}");
            }
            if !self.dispatch().runs_of(&key).is_empty() {
                let (done, _) = tokio::sync::oneshot::channel();
                self.note(Note::Abandon { key, done });
            }
        }
    }

    pub(super) async fn open_errors(&self) -> Result<(), ShelfError> {
        let mut errors = self.errors.lock().await;
        let mut from = 0;
        loop {
            let page = self.shelf.read(ERRORS, from, PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            from = *last;
            errors.positions.extend(page.iter().map(|(position, _)| *position));
        }
    }

    pub(super) async fn report(&self, node: &NodeName, request: &Request) -> Result<(), ShelfError> {
        let mut text = String::from_utf8_lossy(&request.data).into_owned();
        for arg in &request.args {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(arg);
        }
        if text.len() > MAX_REPORT {
            text = text.chars().take(MAX_REPORT / 4).collect();
        }
        let line = json!({"at": self.now().as_millis(), "node": node, "text": text});
        let bytes = Bytes::from(serde_json::to_vec(&line).expect("a line is JSON"));
        let mut errors = self.errors.lock().await;
        errors.positions.extend(self.shelf.append(ERRORS, vec![bytes]).await?);
        if errors.positions.len() > MAX_ERRORS + MAX_ERRORS / 10 {
            let old = errors.positions.len() - MAX_ERRORS;
            self.shelf.trim(ERRORS, Some(errors.positions[old - 1])).await?;
            errors.positions.drain(..old);
        }
        Ok(())
    }
}

//! The hub: one cheap handle behind which the API, the CLI's socket and the courier find everything.

use std::collections::BTreeMap;
use std::pin::Pin;

use futures_core::Stream;
use mainstay_core::id::{MessageId, NodeName, RunId};

use crate::view::*;

pub type RunEvents = Pin<Box<dyn Stream<Item = Result<(u64, RunEvent), Problem>> + Send>>;

#[derive(Clone)]
pub struct Hub {}

fn not_yet() -> Problem {
    Problem::new(ProblemKind::Internal, "not built yet")
}

#[allow(unused_variables, clippy::unused_async)]
impl Hub {
    pub async fn status(&self) -> Result<StatusView, Problem> {
        Err(not_yet())
    }

    /// Who is behind a token, and behind a uid at the API socket (root and the hub's own user are admins;
    /// anyone else is refused).
    pub async fn operator_by_token(&self, token: &str) -> Result<Operator, Problem> {
        Err(not_yet())
    }

    pub fn operator_by_uid(&self, uid: u32) -> Result<Operator, Problem> {
        Err(not_yet())
    }

    /// All nodes, or those that a target expression means.
    pub async fn nodes(&self, target: Option<&str>) -> Result<Vec<NodeView>, Problem> {
        Err(not_yet())
    }

    /// By name, by key, or by the first characters of a key.
    pub async fn node(&self, which: &str) -> Result<NodeView, Problem> {
        Err(not_yet())
    }

    /// Accepts a waiting or quarantined node, under another name if given.
    pub async fn accept_node(
        &self,
        by: &Operator,
        which: &str,
        name: Option<NodeName>,
    ) -> Result<NodeView, Problem> {
        Err(not_yet())
    }

    /// Sets labels, or removes those that are `None`.
    pub async fn label_node(
        &self,
        by: &Operator,
        which: &str,
        labels: BTreeMap<String, Option<String>>,
    ) -> Result<NodeView, Problem> {
        Err(not_yet())
    }

    /// Final: the key never comes back; its link is cut.
    pub async fn revoke_node(&self, by: &Operator, which: &str, reason: &str) -> Result<NodeView, Problem> {
        Err(not_yet())
    }

    /// Revokes it, ends what it still owes as `lost` or `undeliverable`, and frees its name.
    pub async fn remove_node(&self, by: &Operator, which: &str) -> Result<(), Problem> {
        Err(not_yet())
    }

    pub async fn tokens(&self, by: &Operator) -> Result<Vec<TokenView>, Problem> {
        Err(not_yet())
    }

    pub async fn create_token(&self, by: &Operator, spec: TokenSpec) -> Result<NewToken, Problem> {
        Err(not_yet())
    }

    pub async fn revoke_token(&self, by: &Operator, id: &str) -> Result<(), Problem> {
        Err(not_yet())
    }

    /// The nodes that these expressions mean now and that the operator may reach.
    pub async fn preview(&self, by: &Operator, targets: &[String]) -> Result<Vec<NodeView>, Problem> {
        Err(not_yet())
    }

    /// Accepts a run: when this returns, it is durable and its targets are frozen.
    pub async fn start_run(&self, by: &Operator, spec: RunSpec) -> Result<RunView, Problem> {
        Err(not_yet())
    }

    /// Newest first.
    pub async fn runs(&self, limit: usize) -> Result<Vec<RunView>, Problem> {
        Err(not_yet())
    }

    pub async fn run(&self, run: RunId) -> Result<(RunView, Vec<RunNodeView>), Problem> {
        Err(not_yet())
    }

    /// Events from a position on (0 for all), those to come included. Ends after `summary`, which comes
    /// when no node is pending. The number with an event is the position to continue from.
    pub async fn watch_run(&self, run: RunId, from: u64) -> Result<RunEvents, Problem> {
        Err(not_yet())
    }

    /// Takes back what is queued and kills what runs.
    pub async fn cancel_run(&self, by: &Operator, run: RunId) -> Result<RunView, Problem> {
        Err(not_yet())
    }

    /// A new run of the same order on the nodes of `run` that failed (or on all of them).
    pub async fn retry_run(&self, by: &Operator, run: RunId, failed_only: bool) -> Result<RunView, Problem> {
        Err(not_yet())
    }

    /// Forgets ended runs that were created before this time. Returns how many.
    pub async fn prune_runs(&self, by: &Operator, before_ms: i64) -> Result<u64, Problem> {
        Err(not_yet())
    }

    /// Sends the messages of a message file (seed 004's format), with this hub as their origin: all or none.
    pub async fn send(&self, by: &Operator, text: &str) -> Result<Vec<MessageId>, Problem> {
        Err(not_yet())
    }

    /// Writes a consistent copy of the hub's whole state to a new file, which must not exist (0600).
    pub async fn backup(&self, by: &Operator, file: &std::path::Path) -> Result<(), Problem> {
        Err(not_yet())
    }

    /// The audit log's last entries as JSON values, newest first, each with its hash.
    pub async fn audit(&self, by: &Operator, limit: usize) -> Result<Vec<serde_json::Value>, Problem> {
        Err(not_yet())
    }
}

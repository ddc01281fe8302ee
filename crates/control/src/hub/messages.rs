//! What operators ask about messages of their own making: send them, and see where they stand.
//!
//! What is known of a message stands in this node's own journal; here it only gets names.

use mainstay_core::delivery::{MessageStatus, Which};
use mainstay_core::id::{KeyId, MessageId};
use mainstay_node::hub_role::{HubRole as _, SubmitError};
use serde_json::json;

use super::runs::{invalid, since, stopping};
use super::{Hub, admin, upkeep};
use crate::view::{MessageState, MessageView, Operator, OutcomeView, Problem, ProblemKind, key_text};

impl Hub {
    /// Sends the messages of a message file (seed 004's format), with this hub as their origin: all or none.
    pub async fn send(&self, by: &Operator, text: &str) -> Result<Vec<MessageId>, Problem> {
        anything(by)?;
        let inner = &self.inner;
        let courier = inner.courier.get().ok_or_else(stopping)?;
        let detail =
            json!({"bytes": text.len(), "blake3": blake3::hash(text.as_bytes()).to_hex().to_string()});
        inner.audit.note(inner.now(), &by.name, "send", detail).await?;
        courier.submit(&by.name, text).await.map_err(problem)
    }

    /// This hub's own messages, and those that it holds for nodes that are away; newest first.
    pub async fn messages(&self, by: &Operator, limit: usize) -> Result<Vec<MessageView>, Problem> {
        let limit = limit.min(upkeep::MAX_LIST);
        let mut messages = self.found(by, Which::Newest(limit)).await?;
        messages.truncate(limit);
        Ok(messages)
    }

    pub async fn message(&self, by: &Operator, message: MessageId) -> Result<MessageView, Problem> {
        self.found(by, Which::One(message)).await?.pop().ok_or_else(|| {
            Problem::new(ProblemKind::NotFound, format!("this hub knows of no message {message}"))
                .hint("what nodes send to each other is in their own journals; what failed of it: `mainstay errors`")
        })
    }

    async fn found(&self, by: &Operator, which: Which) -> Result<Vec<MessageView>, Problem> {
        anything(by)?;
        let courier = self.inner.courier.get().ok_or_else(stopping)?;
        let found = courier.messages(which).await.map_err(problem)?;
        Ok(found.into_iter().map(|message| self.message_view(message)).collect())
    }

    fn message_view(&self, status: MessageStatus) -> MessageView {
        let inner = &self.inner;
        let state = match (&status.outcome, status.held_for, status.accepted) {
            (Some(_), ..) => MessageState::Ended,
            (None, Some(_), _) => MessageState::Held,
            (None, None, true) => MessageState::Accepted,
            (None, None, false) => MessageState::Queued,
        };
        let away = inner.dispatch().away_for(&status.to, inner.now(), inner.started).is_some();
        let is_away = away && state != MessageState::Ended && status.to != inner.fleet.key();
        MessageView {
            message: status.id,
            from: self.name(status.held_for.unwrap_or_else(|| inner.fleet.key())),
            to: self.name(status.to),
            method: status.method,
            created_at: status.created.as_millis(),
            expires_at: status.expires.map(|at| at.as_millis()),
            state,
            pending: is_away.then(|| format!("away since {}", since(inner.registry.last_seen(&status.to)))),
            end: status.outcome.as_ref().map(|outcome| OutcomeView::new(outcome, status.provisional)),
        }
    }

    fn name(&self, key: KeyId) -> String {
        self.name_of(key).map_or_else(|| key_text(&key), |name| name.to_string())
    }
}

/// A message may call anything on anyone, so messages are not for those who may only do some of it.
fn anything(by: &Operator) -> Result<(), Problem> {
    if by.methods.iter().any(|glob| glob == "*") && by.targets == "*" { Ok(()) } else { admin(by) }
}

fn problem(error: SubmitError) -> Problem {
    match error {
        SubmitError::Invalid(what) => invalid(what),
        e @ SubmitError::UnknownNode(_) => {
            Problem::new(ProblemKind::NoTargets, e.to_string()).hint("`mainstay nodes list` shows the names")
        }
        SubmitError::Full(what) => Problem::new(ProblemKind::Full, what),
        SubmitError::Failed(what) => Problem::new(ProblemKind::Internal, what),
    }
}

//! Limits that hubs and agents have alike.

use mainstay_control::view::{Problem, ProblemKind};
use serde::{Deserialize, Serialize};

/// Above these nothing is accepted; what was accepted is never dropped.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Methods that run at a time.
    pub concurrent: usize,
    /// Messages in each queue of the journal.
    pub queue_messages: u64,
    /// Their bytes.
    pub queue_bytes: u64,
    /// Most bytes of output kept for one message, whatever it asks for.
    pub output_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Enough for many short commands beside a few long ones, on a small board.
            concurrent: 32,
            // Rows of about a kilobyte: a journal of some 100 MiB at most, unless messages are large.
            queue_messages: 100_000,
            queue_bytes: 256 << 20,
            output_bytes: 16 << 20,
        }
    }
}

impl Limits {
    /// A limit of nothing would take messages in and never get to them, or take none at all.
    pub fn check(&self) -> Result<(), Problem> {
        let concurrent = u64::try_from(self.concurrent).unwrap_or(u64::MAX);
        let all = [
            ("concurrent", concurrent),
            ("queue_messages", self.queue_messages),
            ("queue_bytes", self.queue_bytes),
            ("output_bytes", self.output_bytes),
        ];
        match all.into_iter().find(|(_, limit)| *limit == 0) {
            Some((key, _)) => {
                Err(Problem::new(ProblemKind::Invalid, format!("limits.{key}: it must be more than 0")))
            }
            None => Ok(()),
        }
    }

    /// As the delivery engine wants them.
    pub fn engine(&self) -> mainstay_core::delivery::Limits {
        let messages = usize::try_from(self.queue_messages).unwrap_or(usize::MAX);
        let bytes = usize::try_from(self.queue_bytes).unwrap_or(usize::MAX);
        mainstay_core::delivery::Limits {
            outbox_messages: messages,
            outbox_bytes: bytes,
            inbox_messages: messages,
            inbox_bytes: bytes,
            running: self.concurrent,
            output_limit: self.output_bytes,
            ..mainstay_core::delivery::Limits::default()
        }
    }
}

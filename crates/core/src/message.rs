//! Message files: what people and programs write to say "send this".
//!
//! The format is JSON as most people type it (trailing commas, `#` comments, tabs) or YAML: one object or a
//! list of them, field names in any case. [`parse`] takes a file whole or refuses it whole, with everything
//! that is wrong with it at once. Choosing ids, signing and sending are done elsewhere.
//!
//! | Field | Means |
//! | --- | --- |
//! | `toNode`, `toNodes` | the receivers; a name given twice is one receiver |
//! | `method`, `methodArgs` | what to do, by a name of [`crate::method`] |
//! | `operation` | for `op.command`: becomes the arguments, see [`parse`] |
//! | `data` | a text, a list of texts (one line each), or a list of byte values |
//! | `ACKTimeout`, `retries` | bound the delivery, see [`Delivery`]; `ACKTimeout: 0` makes an event |
//! | `expires` | bounds the start, 24 h unless given |
//! | `methodTimeout` | how long the method may run; for as long as it takes unless given |
//! | `idempotent` | it may run again when its node went down while it ran |
//! | `env`, `cwd`, `user`, `stdin` | sealed to the receiver |
//! | `directory`, `fileName` | where an answer is written, see [`crate::received_path`] |
//! | `replyMethod`, `replyMethodArgs`, `replyMethodTimeout`, `replyACKTimeout`, `replyRetries` | see [`ReplySpec`] |
//!
//! Times are whole seconds, or texts such as `90s` and `24h`. A field whose value is `null` counts as absent.

mod problem;
mod read;

use std::time::Duration;

use bytes::Bytes;

pub use self::problem::{MessageError, MessageErrors};
use crate::id::NodeName;
use crate::method::{MethodName, ReplyMethod};
use crate::seal::Private;
use crate::yaml;

/// Largest file, in bytes: thousands of messages, and still little beside the memory of a small board.
pub const MAX_FILE: usize = 4 << 20;

/// Most deliveries (messages times receivers) in one file: it is accepted in one step, and signed in one.
pub const MAX_DELIVERIES: usize = 10_000;

/// Most bytes of arguments, data and sealed fields together: with its envelope a message must fit a frame
/// of [`crate::frame::MAX_FRAME`] with room to spare, and sealing and relaying add to it.
pub const MAX_CONTENT: usize = 512 << 10;

/// How long a message may take to start unless it says so itself.
pub const DEFAULT_EXPIRES: Duration = Duration::from_secs(24 * 3600);

/// Taken for `ACKTimeout` when only `retries` is given, and the other way round: the values that seed 004
/// gives the central of its example.
pub const DEFAULT_ACK_TIMEOUT: Duration = Duration::from_secs(5);
pub const DEFAULT_RETRIES: u32 = 3;

const YAML: yaml::Limits = yaml::Limits {
    bytes: MAX_FILE,
    // A list of objects with an operation and its arguments is five deep.
    depth: 16,
    // Some hundred bytes of memory each.
    values: 100_000,
    aliases: 0,
    templates: false,
    when_too_large: "send it in parts",
    when_several: "put several messages into one list: [ … , … ]",
};

/// One message as it was asked for, to each of its receivers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MessageSpec {
    /// At least one; no name twice.
    pub to: Vec<NodeName>,
    pub method: MethodName,
    pub args: Vec<String>,
    pub data: Bytes,
    pub delivery: Delivery,
    /// How long the method may run; `None` for as long as it takes.
    pub method_timeout: Option<Duration>,
    /// It may run again when its node went down while it ran.
    pub idempotent: bool,
    /// What travels sealed to the receiver. Secret.
    pub private: Private,
    pub reply: ReplySpec,
}

/// How long the origin tries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// `ACKTimeout: 0`. Sent once, not acknowledged, not answered.
    Event {
        /// How long it may wait for a link.
        expires: Duration,
    },
    Command {
        /// When it must have started at the receiver, from its acceptance.
        expires: Duration,
        /// With `ACKTimeout` or `retries` given: it is undeliverable once every attempt has waited in
        /// vain. Attempts are counted also while the receiver is away.
        attempts: Option<Attempts>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attempts {
    /// How long one attempt waits for the acknowledgement; never zero.
    pub ack_timeout: Duration,
    /// Attempts after the first.
    pub retries: u32,
}

impl Attempts {
    /// How long all attempts take together.
    pub fn together(self) -> Duration {
        self.ack_timeout.saturating_mul(self.retries.saturating_add(1))
    }
}

impl Delivery {
    pub fn is_event(self) -> bool {
        matches!(self, Self::Event { .. })
    }

    /// When it expires, counted from its acceptance.
    pub fn expires(self) -> Duration {
        match self {
            Self::Event { expires } | Self::Command { expires, .. } => expires,
        }
    }

    /// When the origin gives up handing it over: the earlier of both bounds.
    pub fn bound(self) -> Duration {
        match self {
            Self::Command { expires, attempts: Some(attempts) } => expires.min(attempts.together()),
            _ => self.expires(),
        }
    }
}

/// What the origin does with the answer. The responder never sees any of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReplySpec {
    /// `file.append` unless given when `directory` or `fileName` is, `none` otherwise.
    pub method: ReplyMethod,
    pub args: Vec<String>,
    /// How long the reply method may run.
    pub timeout: Option<Duration>,
    /// Bound the reply method's own attempts, never the outcome.
    pub ack_timeout: Option<Duration>,
    pub retries: Option<u32>,
    /// As written; its parts were checked. Empty if there is none.
    pub directory: String,
    /// There is one whenever the method writes a file.
    pub file_name: Option<String>,
}

/// Reads a message file: everything in it, or everything that is wrong with it.
///
/// `operation: {opCmd: stopProc, opArg: {kind: subscriber}}` becomes the arguments `stopProc`,
/// `kind=subscriber`; a list such as `allowedNodes` is joined with commas. Anchors are refused: nobody needs
/// them in a message, and they let a small file stand for a huge one.
pub fn parse(text: &str) -> Result<Vec<MessageSpec>, MessageErrors> {
    match yaml::parse(text, &YAML) {
        Ok(tree) => read::messages(text, &tree),
        // What is too large to read is too large to look for a line in.
        Err(error) if text.len() > MAX_FILE => Err(MessageErrors::new("", vec![error.into()])),
        Err(error) => Err(MessageErrors::new(text, vec![error.into()])),
    }
}

/// Where a file that was read well names receivers that the fleet does not have; `None` if it names none of them.
pub fn unknown_receivers(text: &str, unknown: &[String]) -> Option<MessageErrors> {
    let tree = yaml::parse(text, &YAML).ok()?;
    read::unknown_receivers(text, &tree, unknown)
}

/// As [`parse`], for bytes from a socket or a file.
pub fn parse_bytes(bytes: &[u8]) -> Result<Vec<MessageSpec>, MessageErrors> {
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(text),
        Err(error) => {
            let valid = std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
            Err(MessageErrors::new(valid, vec![yaml::not_utf8(valid).into()]))
        }
    }
}

#[cfg(test)]
mod tests;

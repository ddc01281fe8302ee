//! Failures are told to the node that collects errors: the hub.
//!
//! What went wrong with a message of this node's own goes there as an event of the method `errors.report`. It is
//! as durable as any message, and never reported on itself.

use bytes::Bytes;
use mainstay_core::delivery::engine::Queues;
use mainstay_core::delivery::{Draft, HUB_ROLE};
use mainstay_core::envelope::Request;
use mainstay_core::id::{MessageId, NodeName};
use mainstay_core::outcome::Outcome;
use mainstay_core::time::Timestamp;

pub const METHOD: &str = "errors.report";

/// A report that has not left by then is of no use to anyone.
const EXPIRES: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// With more own messages than this waiting, reports would only add to the trouble.
const MOST_WAITING: usize = 10_000;

/// How a message of this node's own ended.
pub struct Ended {
    pub id: MessageId,
    pub to: NodeName,
    pub method: String,
    pub outcome: Outcome,
    /// Nobody has heard from the receiver yet; what it says will be reported again if it is no better.
    pub provisional: bool,
}

/// The report of an end that was not what its sender hoped for; `None` if there is none to make.
pub fn report(now: Timestamp, queues: &Queues, ended: &Ended) -> Option<Draft> {
    let Ended { id, to, method, outcome, provisional } = ended;
    if outcome.is_ok() || method == METHOD || queues.outbox > MOST_WAITING {
        return None;
    }
    let so_far = if *provisional { " so far; its node has not been heard of" } else { "" };
    let text = format!("message {id} to {to}, method {method}: {outcome}{so_far}");
    let mut random = [0; 10];
    getrandom::fill(&mut random).ok()?;
    Some(Draft {
        id: MessageId::new(now, random),
        to: HUB_ROLE,
        to_name: to.clone(),
        request: Request {
            method: METHOD.into(),
            args: Vec::new(),
            data: Bytes::from(text),
            command: false,
            idempotent: false,
            timeout_ms: None,
            output_limit: 0,
            stream: false,
            sealed: None,
            run: None,
            operator: None,
        },
        expires: now + EXPIRES,
        attempts: None,
        reply: None,
        reply_whole: false,
    })
}

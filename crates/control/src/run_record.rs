//! What a run leaves in the Store: its record under `run.<id>`, its log of the same name, its closing note.
//!
//! The record is the order; it never changes. What happened is in the log, one [`Entry`] after another, the frozen
//! targets first. Any hub that has both comes to the same messages and the same state, so a run needs no
//! row in anyone's outbox. Nothing here decides what an entry means for the run: that is [`crate::run`].

use bytes::Bytes;
use mainstay_core::envelope::{Audience, Body, Cancel, Envelope, Payload, Piece, Request, Signer, VERSION};
use mainstay_core::id::{KeyId, MessageId, NodeName, RunId};
use mainstay_core::outcome::Outcome;
use mainstay_core::seal::{ContentKey, OpenError, Sealed};
use mainstay_core::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Most bytes of an encoded record: below the Store's 512 KiB for a value, and the message that follows from it
/// fits a frame with room for certificates.
pub const MAX_RECORD: usize = 480 * 1024;

/// Targets per log entry: 2,048 of at most 100 bytes stay well below the Store's bound for one value.
pub(crate) const TARGETS_PER_ENTRY: usize = 2048;

/// The order, as accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    pub run: RunId,
    /// Who asked, for people.
    pub operator: String,
    pub created: Timestamp,
    pub expires: Timestamp,
    /// The expressions as given.
    pub targets: Vec<String>,
    /// How many nodes they meant. The log must begin with as many, or else the run was never accepted.
    pub nodes: u64,
    pub method: String,
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub data: Bytes,
    /// Environment, directory, user and stdin, its key wrapped for the hub that accepted the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<Sealed>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    #[serde(default)]
    pub idempotent: bool,
    #[serde(default)]
    pub stream: bool,
    pub output_limit: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_failures: Option<String>,
    /// The run whose plans this one applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applies: Option<RunId>,
}

/// One record of a run's log. `node` is the place among the frozen targets. Names are stable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// The next of the frozen targets.
    Targets(Vec<(KeyId, NodeName)>),
    /// These nodes of a run with batches may be sent the order from now on. Written before the first of them is.
    Started(Vec<u32>),
    /// These nodes said that they have the order on their disks. A hint: it may be missing.
    Taken(Vec<u32>),
    Output {
        node: u32,
        piece: Piece,
    },
    /// The node's own end. Final, and whatever stood before gives way to it.
    End {
        node: u32,
        end: EndNote,
    },
    /// An end that the hub decided alone.
    Decided {
        node: u32,
        outcome: Outcome,
        at: Timestamp,
        /// The node's own end may still come.
        provisional: bool,
    },
    /// The node's end is there, and the output that is missing before it will never come.
    Cut {
        node: u32,
    },
    /// An operator took the run back.
    Cancelled {
        by: String,
        at: Timestamp,
    },
}

/// What a node said of its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndNote {
    pub outcome: Outcome,
    pub last_seq: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tail: Vec<Piece>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    pub ended: Timestamp,
    pub stdout_bytes: u64,
    pub stderr_bytes: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// Written under `run_done.<id>` once every node has its final end: the log of such a run need not be
/// read to know how it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    pub nodes: u64,
    pub ok: u64,
    pub failed: u64,
    /// Of the failed ones, as [`crate::run::Counts`] has them.
    #[serde(default)]
    pub not_started: u64,
    #[serde(default)]
    pub nodes_cancelled: u64,
    pub cancelled: bool,
    pub stopped: bool,
    /// Bytes of its log.
    pub bytes: u64,
    pub at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a record of a run cannot be read: {0}")]
pub struct RecordError(pub String);

/// MessagePack with field names, as everything that outlives a version.
pub(crate) fn encode<T: Serialize>(value: &T) -> Bytes {
    rmp_serde::to_vec_named(value).expect("records hold nothing that MessagePack cannot").into()
}

pub(crate) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, RecordError> {
    rmp_serde::from_slice(bytes).map_err(|e| RecordError(e.to_string()))
}

/// The log entries that freeze these targets.
pub fn target_entries(nodes: &[(KeyId, NodeName)]) -> Vec<Bytes> {
    nodes.chunks(TARGETS_PER_ENTRY).map(|chunk| encode(&Entry::Targets(chunk.to_vec()))).collect()
}

impl RunRecord {
    /// The message to one node. The same record, key and node give the same bytes, whoever asks and when.
    pub fn message(
        &self,
        to: KeyId,
        content: Option<&ContentKey>,
        signer: &Signer,
    ) -> Result<Envelope, OpenError> {
        let sealed = match (&self.sealed, content) {
            (Some(sealed), Some(key)) => Some(key.seal_for(to, sealed.content().clone())?),
            (Some(_), None) => return Err(OpenError),
            (None, _) => None,
        };
        let body = Body {
            v: VERSION,
            crit: sealed.iter().map(|_| "sealed".to_owned()).collect(),
            id: MessageId::of_run(self.run, to),
            from: signer.id(),
            to: Audience::Node(to),
            issued: self.created,
            expires: Some(self.expires),
            order: None,
            fence: None,
            payload: Payload::Request(Request {
                method: self.method.clone(),
                args: self.args.clone(),
                data: self.data.clone(),
                command: true,
                idempotent: self.idempotent,
                timeout_ms: self.timeout_ms,
                output_limit: self.output_limit,
                stream: self.stream,
                sealed,
                run: Some(self.run),
                operator: Some(self.operator.clone()),
            }),
        };
        Ok(signer.seal(&body))
    }

    /// The message that takes the one above back.
    pub fn cancel_message(&self, to: KeyId, signer: &Signer) -> Envelope {
        let re = MessageId::of_run(self.run, to);
        signer.seal(&Body {
            v: VERSION,
            crit: vec![],
            id: cancel_id(re),
            from: signer.id(),
            to: Audience::Node(to),
            issued: self.created,
            // A cancel has no use for an expiry of its own: late, it finds nothing to cancel.
            expires: None,
            order: None,
            fence: None,
            payload: Payload::Cancel(Cancel { re, run: Some(self.run) }),
        })
    }
}

pub fn cancel_id(message: MessageId) -> MessageId {
    message.of_answer("cancel", 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mainstay_core::envelope::Stream;
    use mainstay_core::outcome::Exit;

    #[test]
    fn yesterdays_bytes_still_read() {
        let node = 3;
        for entry in [
            Entry::Taken(vec![1, 2]),
            Entry::Output {
                node,
                piece: Piece { seq: 1, stream: Stream::Stdout, data: Bytes::from_static(b"hi") },
            },
            Entry::Decided {
                node,
                outcome: Outcome::Expired,
                at: Timestamp::from_millis(5),
                provisional: true,
            },
        ] {
            assert_eq!(decode::<Entry>(&encode(&entry)), Ok(entry));
        }
        // Written by the first version. Never change these.
        let bytes = b"\x81\xa3end\x82\xa4node\x03\xa3end\x85\xa7outcome\x81\xa8finished\x81\xa4code\x00\xa8last_seq\x00\xa5ended\x07\xacstdout_bytes\x00\xacstderr_bytes\x00";
        let end = EndNote {
            outcome: Outcome::Finished(Exit::Code(0)),
            last_seq: 0,
            tail: vec![],
            started: None,
            ended: Timestamp::from_millis(7),
            stdout_bytes: 0,
            stderr_bytes: 0,
            truncated: false,
        };
        assert_eq!(encode(&Entry::End { node, end: end.clone() }), bytes[..]);
        assert_eq!(decode::<Entry>(bytes), Ok(Entry::End { node, end }));
    }
}

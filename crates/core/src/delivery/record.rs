//! The rows of the journal's tables, as they stand on disk. Names are stable; fields may be added.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Key;
use crate::envelope::Piece;
use crate::id::{KeyId, MessageId, NodeName, RunId};
use crate::journal::{Op, Table};
use crate::outcome::Outcome;
use crate::time::Timestamp;

/// Table `Outbox`, keyed by message id.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct OutboxRow {
    pub to: KeyId,
    pub to_name: NodeName,
    pub method: String,
    pub command: bool,
    pub created: Timestamp,
    pub expires: Timestamp,
    /// The signed request; dropped at the final end.
    pub envelope: Bytes,
    pub attempts: Option<u32>,
    /// Most bytes of output that were asked for; `None` in rows of versions that did not keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_limit: Option<u64>,
    pub reply: Option<Bytes>,
    pub reply_whole: bool,
    /// The receiver said that it is on its disk.
    pub accepted: bool,
    /// A local caller takes it back.
    pub withdrawn: bool,
    pub outcome: Option<Outcome>,
    /// The origin decided the outcome alone.
    pub provisional: bool,
    /// The last piece's number, once the receiver's end is there.
    pub last_seq: Option<u64>,
    /// Pieces up to this one are written where the reply goes.
    pub written: u64,
    /// Where the pieces after `written`, up to the number given, are being written.
    pub writing: Option<(u64, Bytes)>,
    /// Nothing more will be written for it: it is history.
    pub closed: bool,
}

/// Table `Inbox`, keyed by origin and id.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct InboxRow {
    #[serde(with = "serde_bytes")]
    pub digest: [u8; 16],
    pub expires: Timestamp,
    pub state: InboxState,
    /// The sender's key; differs from the key's origin for messages of runs.
    pub sender: KeyId,
    /// It came through a relay, so its origin must be told by signed receipts.
    pub relayed: bool,
    /// The signed request; dropped at the end.
    pub envelope: Bytes,
    /// Bytes of journal space kept for its output and its end.
    pub reserved: u64,
    /// A cancel came while it was queued or ran.
    pub cancelled: bool,
    /// A crash ended an earlier run of it; it may run again.
    #[serde(default)]
    pub interrupted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InboxState {
    Accepted,
    Started {
        at: Timestamp,
    },
    Ended,
    /// It was refused, and will be if it comes again.
    Refused,
}

/// Table `Answers`, keyed by origin, id and number ([`END_NUMBER`] for the end).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AnswerRow {
    /// Where it goes: a node, or the hub role.
    pub to: crate::envelope::Audience,
    pub envelope: Bytes,
}

/// The number under which an end is stored: after every piece.
pub const END_NUMBER: u64 = u64::MAX;

/// Table `Relay`, keyed by receiver, sender and envelope id.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RelayRow {
    pub envelope: Bytes,
    pub chain: Vec<Bytes>,
    /// When it need not be delivered any more; `None` for answers.
    pub expires: Option<Timestamp>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct RelayKey {
    pub to: KeyId,
    pub from: KeyId,
    pub id: MessageId,
}

/// Table `Replies`, keyed by message id and piece number.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ReplyRow {
    pub piece: Piece,
}

/// Keys of table `Meta`.
pub const META_MARK: &[u8] = b"mark";
pub const META_JOURNAL_ID: &[u8] = b"journal";
pub const META_CLOCK_FLOOR: &[u8] = b"clock";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a record of table {table:?} that cannot be read: {why}")]
pub struct RecordError {
    pub table: Table,
    pub why: String,
}

pub fn encode<T: Serialize>(row: &T) -> Bytes {
    rmp_serde::to_vec_named(row).expect("rows hold nothing that MessagePack cannot").into()
}

pub fn decode<T: for<'de> Deserialize<'de>>(table: Table, bytes: &[u8]) -> Result<T, RecordError> {
    crate::encoding::decode(bytes).map_err(|e| RecordError { table, why: e.to_string() })
}

pub fn put<T: Serialize>(table: Table, key: Vec<u8>, row: &T) -> Op {
    Op::Put { table, key: key.into(), value: encode(row) }
}

pub fn delete(table: Table, key: Vec<u8>) -> Op {
    Op::Delete { table, key: key.into() }
}

pub fn message_key(id: &MessageId) -> Vec<u8> {
    id.as_bytes().to_vec()
}

pub fn inbox_key(key: &Key) -> Vec<u8> {
    [&key.origin.as_bytes()[..], key.id.as_bytes()].concat()
}

pub fn answer_key(key: &Key, number: u64) -> Vec<u8> {
    [&key.origin.as_bytes()[..], key.id.as_bytes(), &number.to_be_bytes()].concat()
}

pub fn relay_key(key: &RelayKey) -> Vec<u8> {
    [&key.to.as_bytes()[..], key.from.as_bytes(), key.id.as_bytes()].concat()
}

pub fn reply_key(id: &MessageId, seq: u64) -> Vec<u8> {
    [&id.as_bytes()[..], &seq.to_be_bytes()].concat()
}

/// Splits a key made by the functions above into its fixed parts.
struct Parts<'a>(&'a [u8], Table);

impl Parts<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let (head, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(RecordError { table: self.1, why: "its key is too short".into() })?;
        self.0 = rest;
        Ok(*head)
    }
}

pub fn read_message_key(table: Table, bytes: &[u8]) -> Result<MessageId, RecordError> {
    Ok(MessageId::from_bytes(Parts(bytes, table).take()?))
}

pub fn read_inbox_key(bytes: &[u8]) -> Result<Key, RecordError> {
    let mut parts = Parts(bytes, Table::Inbox);
    Ok(Key { origin: KeyId::from_bytes(parts.take()?), id: MessageId::from_bytes(parts.take()?) })
}

pub fn read_answer_key(bytes: &[u8]) -> Result<(Key, u64), RecordError> {
    let mut parts = Parts(bytes, Table::Answers);
    let key = Key { origin: KeyId::from_bytes(parts.take()?), id: MessageId::from_bytes(parts.take()?) };
    Ok((key, u64::from_be_bytes(parts.take()?)))
}

pub fn read_relay_key(bytes: &[u8]) -> Result<RelayKey, RecordError> {
    let mut parts = Parts(bytes, Table::Relay);
    Ok(RelayKey {
        to: KeyId::from_bytes(parts.take()?),
        from: KeyId::from_bytes(parts.take()?),
        id: MessageId::from_bytes(parts.take()?),
    })
}

pub fn read_reply_key(bytes: &[u8]) -> Result<(MessageId, u64), RecordError> {
    let mut parts = Parts(bytes, Table::Replies);
    Ok((MessageId::from_bytes(parts.take()?), u64::from_be_bytes(parts.take()?)))
}

/// The run a stored request belongs to decides where its answers go.
pub fn answers_to(sender: KeyId, run: Option<RunId>) -> crate::envelope::Audience {
    match run {
        Some(_) => crate::envelope::Audience::Hubs,
        None => crate::envelope::Audience::Node(sender),
    }
}

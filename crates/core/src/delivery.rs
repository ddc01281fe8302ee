//! The delivery of messages, as one state machine without I/O: events and the time go in, effects come out.
//!
//! An [`Engine`] is one node's part in every message that it sends, receives or holds for others:
//!
//! - `outbox`: messages of which this node is the origin, until their end is known and their reply written;
//! - `inbox`: messages that this node accepted, and `answers`, until the origin has them;
//! - `relay`: envelopes that a hub holds for a node which is away;
//! - `window`: what is in flight to each linked peer.
//!
//! The rule that everything hangs on: *an effect that tells anyone of a state is released only after the
//! batch that records this state is durable.* So every such step is a [`Effect::Commit`] with a token, and goes on
//! when [`Event::Committed`] brings the token back. A crash between the two is the same as a crash before.
//!
//! Not here: signatures (checked before an envelope becomes an event), access rules (judged before, see
//! [`Incoming::judged`]), processes, files, links. Runs of a hub are not here either: their record is in the Store, and the
//! engine only counts them into a peer's window ([`Engine::lend`]).

mod answers;
pub mod engine;
mod inbox;
mod outbox;
pub mod record;
mod relay;
mod shared;
mod window;

use std::time::Duration;

use bytes::Bytes;

use crate::envelope::{Piece, Request, Stream, Verified};
use crate::frame::{Ack, Data, Frame, Verdict};
use crate::id::{KeyId, MessageId, NodeName};
use crate::journal::Batch;
use crate::outcome::{Outcome, Rejection};
use crate::time::Timestamp;

pub use engine::Engine;

/// Names a message at its receiver: ids are unique only together with their origin.
///
/// Messages of runs have the hub role as their origin, written as the zero key: any hub may resend them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Key {
    pub origin: KeyId,
    pub id: MessageId,
}

/// Stands for the hub role in a [`Key`]. No Ed25519 key that verifies strictly is all zeroes.
pub const HUB_ROLE: KeyId = KeyId::from_bytes([0; 32]);

/// Bounds of one node. Every queue has one; a full queue refuses before accepting.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Messages of this node's own that have no end yet.
    pub outbox_messages: usize,
    pub outbox_bytes: usize,
    /// Messages accepted and not ended.
    pub inbox_messages: usize,
    pub inbox_bytes: usize,
    /// Envelopes held for one node that is away, and for all together.
    pub relay_messages_per_node: usize,
    pub relay_bytes: usize,
    /// Of these, what one sender may have held.
    pub relay_bytes_per_sender: usize,
    /// Receipts that wait to be fetched through relays. One that finds no room is made again when what it answers
    /// comes again.
    pub receipts: usize,
    /// Methods that run at the same time.
    pub running: usize,
    /// Methods of which one runs at a time, whichever of them it is: their messages are begun in the order of acceptance, each
    /// when the one before has ended.
    pub one_at_a_time: Vec<&'static str>,
    /// Most output that a message may ask to be kept.
    pub output_limit: u64,
    /// Frames and bytes in flight to one peer.
    pub window_frames: usize,
    pub window_bytes: usize,
    /// Ends of this node's own messages that are remembered for `status`.
    pub history: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            outbox_messages: 100_000,
            outbox_bytes: 256 << 20,
            inbox_messages: 10_000,
            inbox_bytes: 64 << 20,
            relay_messages_per_node: 10_000,
            relay_bytes: 1 << 30,
            // Tens of thousands of ordinary messages; a single node cannot take the room of all others.
            relay_bytes_per_sender: 64 << 20,
            // Many windows full, and some megabytes: a sender that never fetches any cannot have more of our memory.
            receipts: 16_384,
            // Enough that sleeping commands do not starve short ones, few enough for a small board.
            running: 64,
            one_at_a_time: Vec::new(),
            output_limit: 16 << 20,
            // One window covers the bandwidth-delay product of a 100 Mbit/s link with 300 ms round trip.
            window_frames: 512,
            window_bytes: 4 << 20,
            history: 10_000,
        }
    }
}

impl Limits {
    pub(crate) fn is_one_at_a_time(&self, method: &str) -> bool {
        self.one_at_a_time.contains(&method)
    }
}

/// Output that is not streamed travels with the end up to this size; beyond it pieces go ahead.
pub const TAIL_BYTES: usize = 64 << 10;

/// Room kept for an end and the rows that go with it, beside the output.
pub const END_BYTES: u64 = 4 << 10;

/// A relay has the message but its receiver has said nothing: asked again after this, doubling to the cap.
pub const RESEND_FIRST: Duration = Duration::from_secs(60);
pub const RESEND_CAP: Duration = Duration::from_secs(3600);

/// Duplicate rows outlive their message by this, against clocks that disagree.
pub const CLOCK_SLACK: Duration = Duration::from_secs(3600);

/// How often rows that are no longer needed are looked for.
pub const SWEEP_EVERY: Duration = Duration::from_secs(600);

/// A message to be sent, with its targets already frozen.
#[derive(Clone, PartialEq, Debug)]
pub struct Draft {
    /// Fresh, from the caller (the engine knows no randomness).
    pub id: MessageId,
    /// [`HUB_ROLE`] for whichever hub is linked; only events may go there.
    pub to: KeyId,
    pub to_name: NodeName,
    pub request: Request,
    /// It must have started by then; also when the origin gives up.
    pub expires: Timestamp,
    /// How many attempts `expires` stands for, when it was given as attempts (seed format): for the words
    /// of the end only.
    pub attempts: Option<u32>,
    /// What to do with its answer, in the caller's encoding; `None` for nothing.
    pub reply: Option<Bytes>,
    /// The reply is written once, when all of it is there, rather than as it comes.
    pub reply_whole: bool,
}

/// An envelope that came over a link, with what was found out about it outside.
#[derive(Clone, PartialEq, Debug)]
pub struct Incoming {
    /// Who is at the other end of the link, by its proven key.
    pub peer: KeyId,
    pub data: Data,
    pub verified: Verified,
    /// For a request: what access rules, the method table and the argument check say. For anything to be
    /// relayed: whether the sender may and the receiver exists.
    pub judged: Result<(), Rejection>,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// A local caller wants these sent: all or none.
    Submit {
        ticket: u64,
        drafts: Vec<Draft>,
    },
    /// A local caller takes one of this node's own messages back.
    Withdraw {
        ticket: u64,
        id: MessageId,
    },
    LinkUp {
        peer: KeyId,
        hub: bool,
    },
    LinkDown {
        peer: KeyId,
    },
    Data(Box<Incoming>),
    Acks {
        peer: KeyId,
        acks: Vec<Ack>,
    },
    /// A running method gave output. Never more than was given back by [`Effect::Room`].
    Output {
        key: Key,
        stream: Stream,
        data: Bytes,
    },
    /// A method ended.
    Exited {
        key: Key,
        exit: ExitReport,
    },
    /// Nothing that a crash left of this message runs any more.
    LeftoversGone {
        key: Key,
    },
    /// The batch with this token is durable, or was refused (`Err`) and left no trace.
    Committed {
        token: u64,
        result: Result<(), String>,
    },
    /// Where a reply will be written, to be recorded before it is.
    ReplyPlanned {
        id: MessageId,
        upto: u64,
        mark: Bytes,
    },
    /// The reply's pieces up to this one are written, or never will be (`Err`).
    ReplyWritten {
        id: MessageId,
        upto: u64,
        result: Result<(), String>,
    },
    /// This node was revoked or removed from the fleet. The engine keeps no record of that: it is said again
    /// after every start, for every such node.
    NodeGone {
        key: KeyId,
    },
    Tick,
}

/// How a method ended.
#[derive(Clone, PartialEq, Debug)]
pub struct ExitReport {
    pub outcome: Outcome,
    pub stdout_bytes: u64,
    pub stderr_bytes: u64,
    pub truncated: bool,
}

impl ExitReport {
    /// Of a message that never ran.
    pub fn without_output(outcome: Outcome) -> Self {
        Self { outcome, stdout_bytes: 0, stderr_bytes: 0, truncated: false }
    }
}

#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// Make this batch durable and say so with its token. A lazy one may wait for the next that is not:
    /// nothing depends on it but tidiness.
    Commit {
        token: u64,
        batch: Batch,
        lazy: bool,
    },
    Send {
        peer: KeyId,
        frame: Frame,
    },
    /// Begin the method. `sender` signed the request.
    Start {
        key: Key,
        sender: KeyId,
        request: Box<Request>,
    },
    /// End it as a whole; [`Event::Exited`] follows as for any end.
    Kill {
        key: Key,
    },
    /// A crash may have left parts of this running: end them, then say [`Event::LeftoversGone`].
    KillLeftovers {
        key: Key,
    },
    /// So many bytes of this method's output are on disk: as many more may come.
    Room {
        key: Key,
        bytes: usize,
    },
    /// The answer to [`Event::Submit`] and [`Event::Withdraw`].
    Answered {
        ticket: u64,
        result: Result<Vec<MessageId>, Refusal>,
    },
    /// Find out where this reply's next bytes go, then say [`Event::ReplyPlanned`].
    PlanReply(Box<ReplyJob>),
    /// Write them there, then say [`Event::ReplyWritten`].
    WriteReply {
        job: Box<ReplyJob>,
        mark: Bytes,
    },
    /// A message of this node's own has an end (again, if the first was provisional).
    Ended {
        id: MessageId,
        to: NodeName,
        method: String,
        outcome: Outcome,
        provisional: bool,
        after: Duration,
    },
    /// A message of another's was brought to its end here.
    Served {
        key: Key,
        method: String,
        outcome: Outcome,
    },
    /// A verdict on an envelope that was lent to the window (see [`Engine::lend`]).
    Lent {
        peer: KeyId,
        id: MessageId,
        verdict: Verdict,
    },
    /// This peer has room again; whoever lends may look.
    RoomAt {
        peer: KeyId,
    },
}

/// Why a local caller's request was not taken. Nothing of it was kept.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    #[error("the queue is full: {messages} messages wait to be delivered")]
    QueueFull { messages: usize },
    #[error("a message of {0} bytes; at most {max} are carried", max = crate::frame::MAX_ENVELOPE)]
    TooLarge(usize),
    #[error("it could not be stored: {0}")]
    Storage(String),
    #[error("no message of this node has the id {0}")]
    NoSuchMessage(MessageId),
    #[error("it has ended already: {0}")]
    HasEnded(Outcome),
}

/// Answers to one message that shall be written where its sender wants them.
#[derive(Clone, PartialEq, Debug)]
pub struct ReplyJob {
    pub id: MessageId,
    pub from: NodeName,
    pub reply: Bytes,
    /// In order, without gaps.
    pub pieces: Vec<Piece>,
    /// The last piece's number, or the one before the first if there are none.
    pub upto: u64,
    /// The end, once nothing comes after these pieces.
    pub outcome: Option<Outcome>,
}

/// Where a message stands, as far as this node knows: one of its own, or one that it holds for others.
#[derive(Clone, PartialEq, Debug)]
pub struct MessageStatus {
    pub id: MessageId,
    /// Whose it is, if it is only held here.
    pub held_for: Option<KeyId>,
    pub to: KeyId,
    pub method: String,
    pub created: Timestamp,
    pub expires: Option<Timestamp>,
    /// The receiver said that it has it.
    pub accepted: bool,
    pub outcome: Option<Outcome>,
    /// The outcome was decided here alone.
    pub provisional: bool,
}

/// Which messages are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    One(MessageId),
    /// At most so many of its own, and of those that are held.
    Newest(usize),
}

//! What a hub adds to a node, as the courier sees it. `control` implements it; an agent has none.
//!
//! The courier owns links, windows and durability of messages between nodes. Runs are not in its outbox:
//! the run's record in the Store is what makes them durable, so the courier asks for their envelopes
//! whenever a peer has room, and hands back verdicts and answers.

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use mainstay_core::delivery::{MessageStatus, Which};
use mainstay_core::envelope::{Envelope, Verified};
use mainstay_core::frame::{Enrol, Enrolment, Facts, Goodbye, Hello, Verdict};
use mainstay_core::id::{KeyId, MessageId, NodeName};
use mainstay_core::trust::TrustError;

/// Whether a linked node may carry orders.
#[derive(Clone, PartialEq, Debug)]
pub enum Admission {
    /// Under this name, which is the registry's, whatever its hello says.
    Admit {
        name: NodeName,
    },
    Refuse(Goodbye),
}

#[async_trait]
pub trait HubRole: Send + Sync + 'static {
    /// Judges a peer by its proven key and its hello.
    async fn admit(&self, key: KeyId, hello: &Hello) -> Admission;

    /// A peer without a place in the registry asks for one. Its key is proven by the link.
    async fn enrol(&self, key: KeyId, enrol: Enrol) -> Enrolment;

    /// A link to an admitted node is up, or down again. Must not block.
    fn link_up(&self, key: KeyId, address: &str);
    fn link_down(&self, key: KeyId, mark: u64);

    fn facts(&self, key: KeyId, facts: Facts);

    /// Envelopes of runs and their cancels that this node is owed and that are not in flight to it:
    /// at most `room`. Each is in flight until [`HubRole::verdict`] or the link's end. Must not block.
    fn next_for(&self, key: KeyId, room: usize) -> Vec<Envelope>;

    /// What a node said to one of them.
    fn verdict(&self, key: KeyId, id: MessageId, verdict: &Verdict);

    /// An answer to a run (its body's audience is the hub role), or an event for the hub. Returns once the Store has it: the
    /// verdict is what the node is told, and releases its copy.
    async fn answer(&self, key: KeyId, answer: Verified) -> Verdict;

    /// The keys behind names of active nodes, this hub's own included.
    fn resolve(&self, name: &NodeName) -> Option<KeyId>;

    /// Whether this key is a node that relayed messages may go to: `None` if it never will be (again).
    fn name_of(&self, key: KeyId) -> Option<NodeName>;

    /// The certificate chain (DER, leaf first) under which a node joined, for whoever gets what it signed.
    fn chain_of(&self, key: KeyId) -> Vec<Bytes>;

    /// Entries of the trust log that a peer has beyond this hub's (a hub restored from an older copy meets
    /// such peers). Each proves itself. Returns once the hub has them durably and acts by them; the caller
    /// sends no orders before.
    async fn learn_trust(&self, entries: Vec<Bytes>) -> Result<(), LearnError>;
}

#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// The peer's log is not a continuation of this hub's.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// They are good, but could not be kept now; the peer will show them again.
    #[error("the trust entries could not be stored: {0}")]
    Store(String),
}

/// What a hub asks of the courier of its own node. What is not `async` returns at once.
#[async_trait]
pub trait CourierHandle: Send + Sync + 'static {
    /// This node may be owed something new: look at it again if it is linked.
    fn wake(&self, key: KeyId);

    /// Close every link to this key, and say why.
    fn cut(&self, key: KeyId, why: Goodbye);

    /// The shared trust log grew: bring all linked peers to its epoch.
    fn trust_changed(&self);

    /// Accepts messages of a message file with this node as their origin, all or none; they are durable
    /// when this returns.
    async fn submit(&self, operator: &str, text: &str) -> Result<Vec<MessageId>, SubmitError>;

    /// Where messages stand that are this node's own, or that it holds for others; newest first.
    async fn messages(&self, which: Which) -> Result<Vec<MessageStatus>, SubmitError>;

    /// Writes a copy of this node's journal, as it is at one moment, to a file that does not exist.
    async fn copy_journal(&self, to: &Path) -> Result<(), SubmitError>;

    /// How many messages this node's journal holds, by state, for people.
    fn queues(&self) -> BTreeMap<String, u64>;

    /// Why new work is refused at present, if it is.
    fn refusing(&self) -> Option<String>;
}

#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// What is wrong with the text, with the line it is in.
    #[error("{0}")]
    Invalid(String),
    /// A name in it that no node of the fleet has.
    #[error("no node is named {0}")]
    UnknownNode(String),
    #[error("{0}")]
    Full(String),
    #[error("{0}")]
    Failed(String),
}

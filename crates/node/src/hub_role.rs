//! What a hub adds to a node, as the courier sees it. `control` implements it; an agent has none.
//!
//! The courier owns links, windows and durability of messages between nodes. Runs are not in its outbox:
//! the run's record in the Store is what makes them durable, so the courier asks for their envelopes
//! whenever a peer has room, and hands back verdicts and answers.

use async_trait::async_trait;
use bytes::Bytes;
use mainstay_core::envelope::{Envelope, Verified};
use mainstay_core::frame::{Enrol, Enrolment, Facts, Goodbye, Hello, Verdict};
use mainstay_core::id::{KeyId, MessageId, NodeName};

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
}

//! What is in flight to each linked peer, and what waits its turn.
//!
//! One window a peer, so that a slow peer delays no other. There is no order between messages; within a
//! peer the queue is first come, first served, so that none starves.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use super::Key;
use super::record::RelayKey;
use crate::id::{KeyId, MessageId};

/// One thing that some peer is owed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Item {
    /// A message of this node's own.
    Message(MessageId),
    /// The cancel of one.
    Cancel(MessageId),
    /// A piece or the end of a message that was accepted here.
    Answer(Key, u64),
    /// A signed receipt that travels through a relay.
    Receipt(KeyId, MessageId),
    /// An envelope held for another.
    Relayed(RelayKey),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum InFlight {
    Item(Item),
    Lent,
}

#[derive(Debug, Default)]
struct Peer {
    hub: bool,
    queue: VecDeque<Item>,
    queued: HashSet<Item>,
    in_flight: HashMap<MessageId, (InFlight, usize)>,
    bytes: usize,
}

/// The linked peers.
#[derive(Debug)]
pub struct Windows {
    frames: usize,
    bytes: usize,
    peers: BTreeMap<KeyId, Peer>,
}

/// What an acknowledged envelope was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acked {
    Item(Item),
    Lent,
}

impl Windows {
    pub fn new(frames: usize, bytes: usize) -> Self {
        Self { frames, bytes, peers: BTreeMap::new() }
    }

    pub fn up(&mut self, peer: KeyId, hub: bool) {
        self.peers.insert(peer, Peer { hub, ..Peer::default() });
    }

    pub fn down(&mut self, peer: &KeyId) {
        self.peers.remove(peer);
    }

    pub fn is_up(&self, peer: &KeyId) -> bool {
        self.peers.contains_key(peer)
    }

    /// Any linked hub: the first by key, so that a node's items keep to one link.
    pub fn hub(&self) -> Option<KeyId> {
        self.peers.iter().find(|(_, peer)| peer.hub).map(|(key, _)| *key)
    }

    /// Adds an item to a peer's queue unless it waits there already.
    pub fn enqueue(&mut self, peer: &KeyId, item: Item) {
        if let Some(peer) = self.peers.get_mut(peer)
            && peer.queued.insert(item)
        {
            peer.queue.push_back(item);
        }
    }

    /// The next item for which the peer has room.
    pub fn next(&mut self, peer: &KeyId) -> Option<Item> {
        let (frames, bytes) = (self.frames, self.bytes);
        let peer = self.peers.get_mut(peer)?;
        if peer.in_flight.len() >= frames || peer.bytes >= bytes {
            return None;
        }
        let item = peer.queue.pop_front()?;
        peer.queued.remove(&item);
        Some(item)
    }

    /// How many more envelopes may be in flight to this peer, beyond those that wait.
    pub fn room(&self, peer: &KeyId) -> usize {
        self.peers.get(peer).map_or(0, |peer| {
            if peer.bytes >= self.bytes {
                return 0;
            }
            self.frames.saturating_sub(peer.in_flight.len() + peer.queue.len())
        })
    }

    /// Marks an item as sent. `false` if an envelope of the same id is in flight.
    pub fn sent(&mut self, peer: &KeyId, id: MessageId, item: Item, bytes: usize) -> bool {
        self.put_in_flight(peer, id, InFlight::Item(item), bytes)
    }

    /// Whether it is this very item that is in flight under the id.
    pub fn is_in_flight(&self, peer: &KeyId, id: &MessageId, item: Item) -> bool {
        let in_flight = self.peers.get(peer).and_then(|peer| peer.in_flight.get(id));
        in_flight.is_some_and(|(what, _)| *what == InFlight::Item(item))
    }

    /// Counts an envelope of someone else's into the window.
    pub fn lend(&mut self, peer: &KeyId, id: MessageId, bytes: usize) -> bool {
        self.put_in_flight(peer, id, InFlight::Lent, bytes)
    }

    fn put_in_flight(&mut self, peer: &KeyId, id: MessageId, what: InFlight, bytes: usize) -> bool {
        let Some(peer) = self.peers.get_mut(peer) else {
            return false;
        };
        if peer.in_flight.contains_key(&id) {
            return false;
        }
        peer.in_flight.insert(id, (what, bytes));
        peer.bytes += bytes;
        true
    }

    /// Takes an acknowledged envelope out of the window. `None` if the peer was never sent it.
    pub fn acked(&mut self, peer: &KeyId, id: &MessageId) -> Option<Acked> {
        let peer = self.peers.get_mut(peer)?;
        let (what, bytes) = peer.in_flight.remove(id)?;
        peer.bytes -= bytes;
        Some(match what {
            InFlight::Item(item) => Acked::Item(item),
            InFlight::Lent => Acked::Lent,
        })
    }
}

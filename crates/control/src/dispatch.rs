//! Who is owed what next: an index over all open runs, by node. In memory only; runs and their logs are the truth.
//!
//! Everything here is quick and holds no lock across an await, because the courier asks for every frame. What must be
//! written first, and what follows from it, goes through [`crate::recorder`].

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mainstay_core::envelope::{Envelope, Signer};
use mainstay_core::id::{KeyId, MessageId, RunId};
use mainstay_core::seal::ContentKey;
use mainstay_core::time::Timestamp;

use crate::run::{Recall, Run, Stage, Step};
use crate::run_record::{RunRecord, cancel_id};
use crate::view::WaitsFor;

/// A busy node says when to ask again; it is not believed beyond these bounds, so that it is neither hammered nor
/// forgotten.
const BUSY_MIN: Duration = Duration::from_millis(100);
const BUSY_MAX: Duration = Duration::from_secs(60);

/// Runs with batches that a node is held by, before the list is looked over for those that are gone.
const HELD_BEFORE_TIDYING: usize = 64;

/// A run with what is needed to send it.
pub struct OpenRun {
    pub run: Run,
    /// Opened once; `None` if there is nothing sealed, or if it cannot be opened by this hub.
    pub content: Option<ContentKey>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Item {
    run: RunId,
    step: Step,
}

#[derive(Default)]
struct Peer {
    linked: bool,
    /// Fleet time of the last change of `linked`; none if it was not linked in this life of the hub.
    since: Option<Timestamp>,
    queue: VecDeque<Item>,
    flying: HashMap<MessageId, Item>,
    not_before: Option<Timestamp>,
    /// Runs with batches that have not started this node.
    held: Vec<RunId>,
}

#[derive(Default)]
pub struct Dispatch {
    runs: HashMap<RunId, OpenRun>,
    peers: HashMap<KeyId, Peer>,
}

/// A message that is to be built and signed outside of the lock.
pub struct Due {
    record: Arc<RunRecord>,
    content: Option<ContentKey>,
    is_order: bool,
}

/// What a verdict of a node was about.
pub struct Delivery {
    pub run: RunId,
    pub step: Step,
}

impl Due {
    /// `None` if its sealed fields cannot be opened by this hub's key.
    pub fn envelope(&self, to: KeyId, signer: &Signer) -> Option<Envelope> {
        if self.is_order {
            self.record.message(to, self.content.as_ref(), signer).ok()
        } else {
            Some(self.record.cancel_message(to, signer))
        }
    }
}

impl Dispatch {
    pub fn run(&self, run: &RunId) -> Option<&Run> {
        self.runs.get(run).map(|open| &open.run)
    }

    pub fn run_mut(&mut self, run: &RunId) -> Option<&mut Run> {
        self.runs.get_mut(run).map(|open| &mut open.run)
    }

    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.values().map(|open| &open.run)
    }

    pub fn run_count(&self) -> usize {
        self.runs.len()
    }

    /// When nodes that were busy are to be asked again.
    pub fn busy_until(&self) -> impl Iterator<Item = Timestamp> {
        let linked = self.peers.values().filter(|peer| peer.linked);
        linked.filter_map(|peer| peer.not_before)
    }

    pub fn run_ids(&self) -> Vec<RunId> {
        self.runs.keys().copied().collect()
    }

    /// Adds a run that is live, and what its nodes are owed. Returns the linked nodes to look at.
    pub fn add(&mut self, open: OpenRun, steps: &[Step]) -> Vec<KeyId> {
        let run = open.run.record.run;
        let known: HashSet<RunId> =
            if open.run.is_gated() { self.runs.keys().copied().collect() } else { HashSet::new() };
        self.runs.insert(run, open);
        let open = self.runs.get_mut(&run).expect("it was just put there");
        if open.run.is_gated() {
            for node in open.run.nodes() {
                if open.run.slot(node).stage == Stage::Held {
                    let peer = self.peers.entry(open.run.key(node)).or_default();
                    // A node that is always linked has nobody else to tidy up behind it.
                    if peer.held.len() >= HELD_BEFORE_TIDYING {
                        peer.held.retain(|run| known.contains(run));
                    }
                    peer.held.push(run);
                    if peer.linked {
                        open.run.node_ready(node);
                    }
                }
            }
        }
        self.owe(run, steps)
    }

    pub fn remove(&mut self, run: &RunId) {
        let Some(open) = self.runs.remove(run) else { return };
        // A node that is away for long must not gather what is no longer owed to it.
        for (key, _) in open.run.targets() {
            if let Some(peer) = self.peers.get_mut(key) {
                peer.queue.retain(|item| item.run != *run);
            }
        }
    }

    /// Queues what follows from an entry. Returns the linked nodes to look at.
    pub fn owe(&mut self, run: RunId, steps: &[Step]) -> Vec<KeyId> {
        let Some(open) = self.runs.get(&run) else {
            return Vec::new();
        };
        let mut awake = Vec::new();
        for &step in steps {
            let key = open.run.key(match step {
                Step::Order(node) | Step::Recall(node) => node,
            });
            let peer = self.peers.entry(key).or_default();
            match step {
                Step::Order(_) => peer.queue.push_back(Item { run, step }),
                // Taking back is more urgent than anything new.
                Step::Recall(_) => peer.queue.push_front(Item { run, step }),
            }
            if peer.linked {
                awake.push(key);
            }
        }
        awake
    }

    /// The runs with batches that may start this node now.
    pub fn link_up(&mut self, key: KeyId, now: Timestamp) -> Vec<RunId> {
        // A link that replaces another may be reported before the other's end.
        self.return_flying(key);
        let peer = self.peers.entry(key).or_default();
        peer.linked = true;
        peer.since = Some(now);
        peer.not_before = None;
        let held = std::mem::take(&mut peer.held);
        let mut still = Vec::new();
        for run in held {
            if let Some(open) = self.runs.get_mut(&run)
                && let Some(node) = open.run.place(&key)
                && open.run.slot(node).stage == Stage::Held
            {
                open.run.node_ready(node);
                still.push(run);
            }
        }
        let peer = self.peers.entry(key).or_default();
        peer.held.clone_from(&still);
        still
    }

    pub fn link_down(&mut self, key: KeyId, now: Timestamp) {
        self.return_flying(key);
        let peer = self.peers.entry(key).or_default();
        peer.linked = false;
        peer.since = Some(now);
    }

    /// How long it has been without a link; `None` while it has one. `start` is when this hub started: before that it
    /// cannot have seen anyone.
    pub fn away_for(&self, key: &KeyId, now: Timestamp, start: Timestamp) -> Option<Duration> {
        match self.peers.get(key) {
            Some(peer) if peer.linked => None,
            peer => Some(now.since(peer.and_then(|peer| peer.since).unwrap_or(start))),
        }
    }

    /// See [`Run::next_to_start`].
    pub fn next_to_start(&mut self, run: RunId, now: Timestamp, start: Timestamp) -> Vec<u32> {
        let Some(mut open) = self.runs.remove(&run) else {
            return Vec::new();
        };
        let nodes = open.run.next_to_start(|key| self.away_for(key, now, start));
        self.runs.insert(run, open);
        nodes
    }

    /// How many messages stand before this one in the node's queue.
    pub fn behind(&self, key: &KeyId, run: &RunId) -> usize {
        self.peers.get(key).map_or(0, |peer| {
            peer.flying.len()
                + peer.queue.iter().position(|item| item.run == *run).unwrap_or(peer.queue.len())
        })
    }

    /// Orders that are queued or in flight, over all nodes.
    pub fn depth(&self) -> usize {
        self.peers.values().map(|peer| peer.queue.len() + peer.flying.len()).sum()
    }

    /// What this node is owed, at most `room`; it is in flight from now on.
    pub fn next_for(&mut self, key: KeyId, room: usize, now: Timestamp) -> Vec<Due> {
        let mut due = Vec::new();
        let Some(peer) = self.peers.get_mut(&key) else {
            return due;
        };
        if !peer.linked || peer.not_before.is_some_and(|at| now < at) {
            return due;
        }
        peer.not_before = None;
        while due.len() < room {
            let Some(item) = peer.queue.pop_front() else { break };
            let Some(open) = self.runs.get_mut(&item.run) else {
                continue;
            };
            let id = MessageId::of_run(item.run, key);
            let (may, id, is_order) = match item.step {
                Step::Order(node) => (open.run.send_order(node), id, true),
                Step::Recall(node) => (open.run.send_recall(node), cancel_id(id), false),
            };
            if may {
                peer.flying.insert(id, item);
                due.push(Due { record: open.run.record.clone(), content: open.content.clone(), is_order });
            }
        }
        due
    }

    /// The node has it, for good or not at all. `None` if nothing of that id is in flight to it.
    pub fn landed(&mut self, key: KeyId, id: MessageId) -> Option<Delivery> {
        let item = self.peers.get_mut(&key)?.flying.remove(&id)?;
        Some(Delivery { run: item.run, step: item.step })
    }

    /// The node cannot take it now. Returns when to look at the node again.
    pub fn busy(&mut self, key: KeyId, id: MessageId, retry: Duration, now: Timestamp) -> Option<Timestamp> {
        let peer = self.peers.get_mut(&key)?;
        let item = peer.flying.remove(&id)?;
        let at = now + retry.clamp(BUSY_MIN, BUSY_MAX);
        peer.not_before = peer.not_before.max(Some(at));
        if let Some(open) = self.runs.get_mut(&item.run) {
            open.run.not_delivered(item.step);
            peer.queue.push_front(item);
        }
        peer.not_before
    }

    /// The nodes whose time to be asked again has come.
    pub fn no_longer_busy(&mut self, now: Timestamp) -> Vec<KeyId> {
        self.peers
            .iter_mut()
            .filter(|(_, peer)| peer.linked && peer.not_before.is_some_and(|at| at <= now))
            .map(|(key, peer)| {
                peer.not_before = None;
                *key
            })
            .collect()
    }

    /// The node was removed or revoked: it will never be linked again.
    pub fn forget_peer(&mut self, key: &KeyId) {
        self.peers.remove(key);
    }

    /// Every open run that has this node, with its place.
    pub fn runs_of(&self, key: &KeyId) -> Vec<(RunId, u32)> {
        self.runs.iter().filter_map(|(id, open)| open.run.place(key).map(|node| (*id, node))).collect()
    }

    fn return_flying(&mut self, key: KeyId) {
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        let mut items: Vec<_> = peer.flying.drain().collect();
        // The ids begin with the time of their run: the oldest goes first again.
        items.sort_by_key(|(id, _)| std::cmp::Reverse(*id));
        for (_, item) in items {
            if let Some(open) = self.runs.get_mut(&item.run) {
                open.run.not_delivered(item.step);
                peer.queue.push_front(item);
            }
        }
    }
}

/// Why a node of a run has no end yet: what has to happen first, and in words for people.
pub fn pending_reason(run: &Run, node: u32, away: Option<String>, behind: usize) -> (WaitsFor, String) {
    let slot = run.slot(node);
    let on_link = |otherwise| if away.is_some() { WaitsFor::Node } else { otherwise };
    let away = away.as_ref().map(|since| format!("away since {since}"));
    let queued = match behind {
        0 => None,
        1 => Some("behind 1 message".to_owned()),
        _ => Some(format!("behind {behind} messages")),
    };
    let (waits_for, first) = match slot.stage {
        Stage::Done | Stage::Closing => (WaitsFor::Hub, Some("ending")),
        _ if slot.has_end() => (on_link(WaitsFor::Answer), Some("ended; its output is on the way")),
        Stage::Held => (WaitsFor::Batch, Some("waiting for its batch")),
        Stage::Owed => (on_link(WaitsFor::Turn), None),
        Stage::Flying => (WaitsFor::Answer, Some("sent")),
        Stage::Taken => (on_link(WaitsFor::Answer), Some("accepted")),
    };
    // A link's state says nothing about a node whose order is being carried over it, or that has ended.
    let away = away.filter(|_| matches!(waits_for, WaitsFor::Node | WaitsFor::Batch));
    let queued = queued.filter(|_| slot.stage == Stage::Owed);
    let place = [away, queued].into_iter().flatten().collect::<Vec<_>>().join(", ");
    let recall = match slot.recall {
        Recall::None => "",
        Recall::Owed | Recall::Flying => "to be cancelled",
        Recall::Told => "told to cancel",
    };
    let first = first.unwrap_or(if place.is_empty() { "about to be sent" } else { "" });
    let parts: Vec<&str> = [first, &place, recall].into_iter().filter(|part| !part.is_empty()).collect();
    (waits_for, parts.join("; "))
}

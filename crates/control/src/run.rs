//! One run as a state machine: which nodes are owed what, who has ended, when the next may start.
//!
//! Pure: entries of the run's log and what the courier reports go in; [`Step`]s come out. The state that entries lead to is
//! the durable one, and replaying them after a restart leads there again. What was in flight is not in the
//! log; so after a restart every node without an end counts as *touched*: the order may have reached it.
//!
//! Which peer gets what next is decided in [`crate::dispatch`], writing in [`crate::recorder`].

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use mainstay_core::batch::{Batch, MaxFailures};
use mainstay_core::envelope::Piece;
use mainstay_core::id::{KeyId, NodeName};
use mainstay_core::outcome::Outcome;
use mainstay_core::time::Timestamp;

use crate::run_record::{Closing, EndNote, Entry, RunRecord};

/// Most pieces of output kept from one node: 65,536 pieces of a line each are a megabyte or more. A node that sends
/// on is not believed, so that it cannot fill the Store with crumbs.
pub const MAX_PIECES: u64 = 65_536;

/// Pieces may come in any order; more than this many ahead of the first gap are put off.
const MAX_AHEAD: usize = 1024;

/// Where the order stands on its way to one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Its batch has not come.
    Held,
    /// It shall be sent.
    Owed,
    /// It was sent; the node has not said anything yet.
    Flying,
    /// The node has it on its disk.
    Taken,
    /// The hub is writing down an end that it decided; it must not be sent meanwhile.
    Closing,
    /// There is a final end, and all output before it.
    Done,
}

/// Where the cancel stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recall {
    None,
    Owed,
    Flying,
    Told,
}

#[derive(Debug)]
pub struct Slot {
    pub stage: Stage,
    pub recall: Recall,
    /// The order may have reached the node.
    pub touched: bool,
    /// The hub decided an end alone, and the node's own may still come.
    pub provisional: bool,
    /// The node's own end: whether it is a good one, and how many pieces precede it.
    end: Option<(bool, u64)>,
    /// All pieces up to this number are in the log …
    upto: u64,
    /// … and these.
    beyond: BTreeSet<u64>,
    bytes: u64,
}

/// What shall follow from an entry or a report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The node is owed the order.
    Order(u32),
    /// The node is owed the cancel.
    Recall(u32),
    /// Nothing will ever come of this node: write `cancelled` down. Its stage is [`Stage::Closing`].
    Withdraw(u32),
}

/// What to do with something that a node sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Judged {
    /// Write it down.
    New,
    /// It is in the log already.
    Known,
    /// It will never be taken.
    TooMuch,
    /// Not now: pieces before it are missing.
    Later,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub ok: u64,
    /// Ended otherwise, the provisional ends included.
    pub failed: u64,
    /// Of those, the ones that may still be replaced.
    pub provisional: u64,
}

#[derive(Debug)]
pub struct Run {
    pub record: Arc<RunRecord>,
    targets: Vec<(KeyId, NodeName)>,
    places: HashMap<KeyId, u32>,
    slots: Vec<Slot>,
    counts: Counts,
    /// How many nodes may be busy with it at once.
    window: usize,
    max_failures: Option<usize>,
    /// Nodes start in the order of the targets; so many have been let go.
    released: usize,
    pub cancelled: bool,
    pub stopped: bool,
    /// Of the last entry applied; 0 before the first.
    pub position: u64,
    /// Bytes of all entries applied.
    pub bytes: u64,
}

impl Run {
    /// A run without its targets, which come as the first entries of its log.
    pub fn new(record: Arc<RunRecord>) -> Self {
        Self {
            record,
            targets: Vec::new(),
            places: HashMap::new(),
            slots: Vec::new(),
            counts: Counts::default(),
            window: usize::MAX,
            max_failures: None,
            released: 0,
            cancelled: false,
            stopped: false,
            position: 0,
            bytes: 0,
        }
    }

    pub fn targets(&self) -> &[(KeyId, NodeName)] {
        &self.targets
    }

    pub fn place(&self, key: &KeyId) -> Option<u32> {
        self.places.get(key).copied()
    }

    pub fn slot(&self, node: u32) -> &Slot {
        &self.slots[node as usize]
    }

    pub fn slot_mut(&mut self, node: u32) -> &mut Slot {
        &mut self.slots[node as usize]
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether the targets are all there: else the run was never accepted.
    pub fn is_whole(&self) -> bool {
        self.targets.len() as u64 == self.record.nodes
    }

    pub fn pending(&self) -> u64 {
        self.record.nodes - (self.counts.ok + self.counts.failed)
    }

    /// Set once every node has its final end.
    pub fn closing(&self, now: Timestamp) -> Option<Closing> {
        (self.is_whole() && self.pending() == 0 && self.counts.provisional == 0).then(|| Closing {
            nodes: self.record.nodes,
            ok: self.counts.ok,
            failed: self.counts.failed,
            cancelled: self.cancelled,
            stopped: self.stopped,
            bytes: self.bytes,
            at: now,
        })
    }

    pub fn judge_piece(&self, node: u32, piece: &Piece) -> Judged {
        let slot = self.slot(node);
        if slot.has_piece(piece.seq) || slot.stage == Stage::Done {
            Judged::Known
        } else if piece.seq == 0 || piece.seq > MAX_PIECES {
            Judged::TooMuch
        } else if piece.seq > slot.upto + 1 && slot.beyond.len() >= MAX_AHEAD {
            Judged::Later
        } else {
            Judged::New
        }
    }

    pub fn judge_end(&self, node: u32) -> Judged {
        let slot = self.slot(node);
        if slot.end.is_some() || slot.stage == Stage::Done {
            Judged::Known
        } else {
            Judged::New
        }
    }

    /// How many more bytes of output are kept from this node.
    pub fn output_room(&self, node: u32) -> u64 {
        self.record.output_limit.saturating_sub(self.slot(node).bytes)
    }

    /// Takes in an entry that is in the log at `position`. One that says nothing new changes nothing, so a log that
    /// has an entry twice is no trouble.
    pub fn apply(&mut self, position: u64, bytes: usize, entry: &Entry, steps: &mut Vec<Step>) {
        self.position = self.position.max(position);
        self.bytes += bytes as u64;
        match entry {
            Entry::Targets(nodes) => self.add_targets(nodes),
            Entry::Taken(nodes) => {
                for &node in nodes {
                    if let Some(slot) = self.slots.get_mut(node as usize) {
                        slot.taken();
                    }
                }
            }
            Entry::Output { node, piece } => {
                if self.slots.get(*node as usize).is_some() {
                    self.slot_mut(*node).add_piece(piece);
                    self.settle(*node);
                }
            }
            Entry::End { node, end } => {
                if self.slots.get(*node as usize).is_some() {
                    self.end(*node, end);
                    self.settle(*node);
                }
            }
            Entry::Decided {
                node,
                outcome,
                provisional,
                ..
            } => {
                if self.slots.get(*node as usize).is_some() {
                    self.decide(*node, outcome, *provisional);
                }
            }
            Entry::Cancelled { .. } => self.cancel(steps),
        }
        self.advance(steps);
    }

    /// After a restart: what was in flight is unknown, and what is owed is owed again. Nothing is released that
    /// was not before, beyond what the window admits.
    pub fn resume(&mut self, steps: &mut Vec<Step>) {
        let started = self
            .slots
            .iter()
            .rposition(|slot| matches!(slot.stage, Stage::Taken | Stage::Done) || slot.provisional || slot.upto > 0);
        self.released = self.released.max(started.map_or(0, |last| last + 1));
        for (node, slot) in (0..).zip(&mut self.slots) {
            if slot.stage != Stage::Done {
                slot.touched = true;
            }
            if slot.stage == Stage::Held && (node as usize) < self.released {
                slot.stage = Stage::Owed;
            }
            if slot.stage == Stage::Owed {
                steps.push(Step::Order(node));
            }
            if slot.recall == Recall::Owed && slot.stage != Stage::Done {
                steps.push(Step::Recall(node));
            }
        }
        if self.cancelled {
            self.recall_all(steps);
        }
        self.advance(steps);
    }

    /// What an expiry decides for a node now: the outcome is provisional if the order may have reached it.
    pub fn expire(&mut self, node: u32) -> Option<bool> {
        let slot = self.slot_mut(node);
        match slot.stage {
            Stage::Held | Stage::Owed if !slot.touched => {
                slot.stage = Stage::Closing;
                Some(false)
            }
            // Let go even if its batch never came: what follows tells whether the node ever had it.
            Stage::Held | Stage::Owed | Stage::Flying if !slot.provisional && slot.end.is_none() => Some(true),
            _ => None,
        }
    }

    /// What the removal of its node decides: `lost` if the order may have reached it.
    pub fn abandon(&mut self, node: u32) -> Option<Outcome> {
        let slot = self.slot_mut(node);
        if matches!(slot.stage, Stage::Done | Stage::Closing) {
            return None;
        }
        slot.stage = Stage::Closing;
        Some(if slot.touched {
            Outcome::Lost
        } else {
            Outcome::Undeliverable("its node was removed".into())
        })
    }

    fn add_targets(&mut self, nodes: &[(KeyId, NodeName)]) {
        for (key, name) in nodes {
            // More targets than the record counts are a leftover of a first attempt: the first ones count.
            if self.is_whole() || self.places.contains_key(key) {
                continue;
            }
            self.places.insert(*key, self.targets.len() as u32);
            self.targets.push((*key, name.clone()));
            self.slots.push(Slot::new());
        }
        if self.is_whole() {
            let count = self.targets.len();
            let batch = self.record.batch.as_deref().and_then(|text| text.parse::<Batch>().ok());
            self.window = batch.map_or(usize::MAX, |batch| batch.size(count));
            let limit = self.record.max_failures.as_deref();
            self.max_failures = limit
                .and_then(|text| text.parse::<MaxFailures>().ok())
                .map(|limit| limit.count(count));
        }
    }

    fn end(&mut self, node: u32, end: &EndNote) {
        let slot = self.slot_mut(node);
        if slot.end.is_some() || slot.stage == Stage::Done {
            return;
        }
        for piece in &end.tail {
            slot.add_piece(piece);
        }
        slot.end = Some((end.outcome.is_ok(), end.last_seq));
        slot.taken();
    }

    /// Whether the node is done now: its end is there, and every piece that the end counts.
    fn settle(&mut self, node: u32) {
        let slot = &mut self.slots[node as usize];
        let Some((ok, last)) = slot.end else { return };
        if slot.stage == Stage::Done || (slot.upto < last && last <= MAX_PIECES) {
            return;
        }
        slot.stage = Stage::Done;
        slot.beyond = BTreeSet::new();
        if std::mem::take(&mut slot.provisional) {
            self.counts.provisional -= 1;
            self.counts.failed -= 1;
        }
        if ok {
            self.counts.ok += 1;
        } else {
            self.counts.failed += 1;
        }
    }

    fn decide(&mut self, node: u32, outcome: &Outcome, provisional: bool) {
        let slot = &mut self.slots[node as usize];
        if slot.stage == Stage::Done || (provisional && (slot.provisional || slot.end.is_some())) {
            return;
        }
        if !std::mem::replace(&mut slot.provisional, provisional) {
            if outcome.is_ok() {
                self.counts.ok += 1;
            } else {
                self.counts.failed += 1;
            }
            self.counts.provisional += u64::from(provisional);
        } else if !provisional {
            self.counts.provisional -= 1;
        }
        if !provisional {
            slot.stage = Stage::Done;
            slot.beyond = BTreeSet::new();
        } else {
            slot.touched = true;
            if matches!(outcome, Outcome::Lost | Outcome::Undeliverable(_)) {
                // The hub has given the order up: it is not sent again.
                slot.stage = Stage::Taken;
            } else if slot.stage == Stage::Held {
                slot.stage = Stage::Owed;
            }
        }
    }

    fn cancel(&mut self, steps: &mut Vec<Step>) {
        if !std::mem::replace(&mut self.cancelled, true) {
            self.recall_all(steps);
        }
    }

    fn recall_all(&mut self, steps: &mut Vec<Step>) {
        for (node, slot) in (0..).zip(&mut self.slots) {
            match slot.stage {
                Stage::Done | Stage::Closing => {}
                Stage::Held | Stage::Owed if !slot.touched => {
                    slot.stage = Stage::Closing;
                    steps.push(Step::Withdraw(node));
                }
                _ => {
                    if slot.recall == Recall::None {
                        slot.recall = Recall::Owed;
                        steps.push(Step::Recall(node));
                    }
                }
            }
        }
    }

    /// Lets the next nodes start as far as the batch allows, or none any more after too many failures.
    pub fn advance(&mut self, steps: &mut Vec<Step>) {
        if !self.is_whole() || self.released == self.slots.len() {
            return;
        }
        if self.max_failures.is_some_and(|most| self.counts.failed > most as u64) {
            self.stopped = true;
        }
        let held = self.released..self.slots.len();
        if self.stopped || self.cancelled {
            self.released = self.slots.len();
            for node in held {
                let slot = &mut self.slots[node];
                if slot.stage == Stage::Held && !slot.touched {
                    slot.stage = Stage::Closing;
                    steps.push(Step::Withdraw(node as u32));
                } else if slot.stage == Stage::Held {
                    // It may have been sent in an earlier life of the hub: only the node knows.
                    slot.stage = Stage::Owed;
                    slot.recall = Recall::Owed;
                    steps.push(Step::Recall(node as u32));
                }
            }
            return;
        }
        let ended = (self.counts.ok + self.counts.failed) as usize;
        while self.released < self.slots.len() && self.released.saturating_sub(ended) < self.window {
            let node = self.released;
            self.released += 1;
            let slot = &mut self.slots[node];
            if slot.stage == Stage::Held {
                slot.stage = Stage::Owed;
                steps.push(Step::Order(node as u32));
            }
        }
    }
}

impl Slot {
    const fn new() -> Self {
        Self {
            stage: Stage::Held,
            recall: Recall::None,
            touched: false,
            provisional: false,
            end: None,
            upto: 0,
            beyond: BTreeSet::new(),
            bytes: 0,
        }
    }

    /// Whether the node's own end is written, be its output complete or not.
    pub fn has_end(&self) -> bool {
        self.end.is_some()
    }

    fn taken(&mut self) {
        self.touched = true;
        if matches!(self.stage, Stage::Held | Stage::Owed | Stage::Flying | Stage::Closing) {
            self.stage = Stage::Taken;
        }
    }

    fn has_piece(&self, seq: u64) -> bool {
        (seq != 0 && seq <= self.upto) || self.beyond.contains(&seq)
    }

    fn add_piece(&mut self, piece: &Piece) {
        if self.has_piece(piece.seq) || piece.seq == 0 {
            return;
        }
        self.bytes += piece.data.len() as u64;
        self.beyond.insert(piece.seq);
        while self.beyond.remove(&(self.upto + 1)) {
            self.upto += 1;
        }
    }
}

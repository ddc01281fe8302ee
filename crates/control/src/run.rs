//! One run as a state machine: which nodes are owed what, who has ended, when the next may start.
//!
//! Pure: entries of the run's log and what the courier reports go in; [`Step`]s come out. The state that
//! entries lead to is the durable one, and replaying them after a restart leads there again. What was in
//! flight is not in the log; so after a restart every started node without an end counts as *touched*: the order may
//! have reached it.
//!
//! A run with batches starts a node only once that is written down ([`Entry::Started`]), so a hub that takes over
//! knows who is at work. Without batches all are started from the beginning.
//!
//! Which peer gets what next is decided in [`crate::dispatch`], writing in [`crate::recorder`].

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use mainstay_core::batch::{Batches, holds_place};
use mainstay_core::envelope::Piece;
use mainstay_core::id::{KeyId, NodeName};
use mainstay_core::outcome::Outcome;
use mainstay_core::time::Timestamp;

use crate::run_record::{Closing, EndNote, Entry, RunRecord};

/// Most pieces of output kept from one node: 65,536 pieces of a line each are a megabyte or more. A node that
/// sends on is not believed, so that it cannot fill the Store with crumbs.
pub const MAX_PIECES: u64 = 65_536;

/// Pieces may come in any order; more than this many beyond the first gap are put off.
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
    /// The node has it on its disk, or the hub has given it up.
    Taken,
    /// The hub is writing down an end that it decided; the order must not be sent meanwhile.
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
    started: bool,
    /// How often the order may have been sent.
    sends: u8,
    /// The hub decided an end alone, and the node's own may still come.
    provisional: bool,
    /// This hub was restored from a backup, and its earlier life may have had answers of the node that never come again.
    forgotten: bool,
    /// The node's own end: what it is, and how many pieces precede it.
    end: Option<(Came, u64)>,
    /// All pieces up to this number are in the log …
    upto: u64,
    /// … and these.
    beyond: BTreeSet<u64>,
    bytes: u64,
}

/// What a node is owed from now on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Order(u32),
    Recall(u32),
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
    /// It is an end that is in the log already, and the pieces that are missing before it will not come any more.
    Cut,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub ok: u64,
    /// Ended otherwise, the provisional ends included.
    pub failed: u64,
    /// Of those, the ones that may still be replaced.
    pub provisional: u64,
    /// Of those, the ones that were cancelled before they began.
    pub not_started: u64,
    /// Of those, the ones that were cancelled while they ran.
    pub cancelled: u64,
}

/// How a node came out, as far as it is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Came {
    Ok,
    Failed,
    NotStarted,
    Cancelled,
}

impl Came {
    fn of(outcome: &Outcome, began: bool) -> Self {
        match outcome {
            outcome if outcome.is_ok() => Self::Ok,
            Outcome::Cancelled if began => Self::Cancelled,
            Outcome::Cancelled => Self::NotStarted,
            _ => Self::Failed,
        }
    }
}

/// How far a run with batches has come.
#[derive(Debug)]
struct Gate {
    batches: Batches,
    /// Held nodes that were linked when last looked at.
    ready: BTreeSet<u32>,
    at_work: BTreeSet<u32>,
}

#[derive(Debug)]
pub struct Run {
    pub record: Arc<RunRecord>,
    targets: Vec<(KeyId, NodeName)>,
    places: HashMap<KeyId, u32>,
    slots: Vec<Slot>,
    counts: Counts,
    gate: Option<Gate>,
    /// Replaying is over.
    live: bool,
    cancelled: bool,
    /// Some nodes must be written down as withdrawn.
    withdraw: bool,
    /// Every node was looked at after the expiry.
    pub expired: bool,
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
            gate: None,
            live: false,
            cancelled: false,
            withdraw: false,
            expired: false,
            position: 0,
            bytes: 0,
        }
    }

    pub fn targets(&self) -> &[(KeyId, NodeName)] {
        &self.targets
    }

    pub fn key(&self, node: u32) -> KeyId {
        self.targets[node as usize].0
    }

    pub fn place(&self, key: &KeyId) -> Option<u32> {
        self.places.get(key).copied()
    }

    pub fn slot(&self, node: u32) -> &Slot {
        &self.slots[node as usize]
    }

    fn slot_mut(&mut self, node: u32) -> &mut Slot {
        &mut self.slots[node as usize]
    }

    pub fn nodes(&self) -> std::ops::Range<u32> {
        0..self.slots.len() as u32
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    pub fn cancelled(&self) -> bool {
        self.cancelled
    }

    /// More nodes failed than allowed.
    pub fn stopped(&self) -> bool {
        self.gate.as_ref().is_some_and(|gate| gate.batches.stopped())
    }

    /// Whether its nodes must be started one by one.
    pub fn is_gated(&self) -> bool {
        self.gate.is_some()
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
            not_started: self.counts.not_started,
            nodes_cancelled: self.counts.cancelled,
            cancelled: self.cancelled,
            stopped: self.stopped(),
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

    /// An end stands for all output before it: its node keeps that output until the end is accepted. By the time that the end
    /// comes again, all that the node still has came again as well.
    pub fn judge_end(&self, node: u32) -> Judged {
        let slot = self.slot(node);
        match (slot.stage, slot.end) {
            (Stage::Done, _) => Judged::Known,
            (_, Some(_)) if slot.forgotten => Judged::Cut,
            (_, Some(_)) => Judged::Later,
            (_, None) => Judged::New,
        }
    }

    /// How many more bytes of output are kept from this node.
    pub fn output_room(&self, node: u32) -> u64 {
        self.record.output_limit.saturating_sub(self.slot(node).bytes)
    }

    /// Takes in an entry that is in the log at `position`. One that says nothing new changes nothing, so a log
    /// that has an entry twice is no trouble.
    pub fn apply(&mut self, position: u64, bytes: usize, entry: &Entry, steps: &mut Vec<Step>) {
        self.position = self.position.max(position);
        self.bytes += bytes as u64;
        let here = |node: &u32| (*node as usize) < self.slots.len();
        match entry {
            Entry::Targets(nodes) => self.add_targets(nodes),
            Entry::Started(nodes) => {
                for node in nodes.iter().copied().filter(here).collect::<Vec<_>>() {
                    self.start(node, steps);
                }
            }
            Entry::Taken(nodes) => {
                for node in nodes.iter().copied().filter(here).collect::<Vec<_>>() {
                    self.slot_mut(node).taken();
                }
            }
            Entry::Output { node, piece } if here(node) => {
                self.slot_mut(*node).add_piece(piece);
                self.settle(*node);
            }
            Entry::End { node, end } if here(node) => {
                self.end(*node, end);
                self.settle(*node);
            }
            Entry::Decided { node, outcome, provisional, .. } if here(node) => {
                self.decide(*node, outcome, *provisional)
            }
            Entry::Cut { node } if here(node) => {
                let slot = self.slot_mut(*node);
                slot.end = slot.end.map(|(came, _)| (came, slot.upto));
                self.settle(*node);
            }
            Entry::Cancelled { .. } => {
                if !std::mem::replace(&mut self.cancelled, true) && self.live {
                    self.recall_all(steps);
                }
            }
            // A node that the run does not have: the log is damaged, and says nothing that can be used.
            Entry::Output { .. } | Entry::End { .. } | Entry::Decided { .. } | Entry::Cut { .. } => {}
        }
        self.withdraw |= self.stopped();
    }

    /// The log has been applied: from here on the run is carried out. `fresh` if it was just accepted, so that
    /// nothing can have been sent.
    pub fn go_live(&mut self, fresh: bool, steps: &mut Vec<Step>) {
        self.live = true;
        for (node, slot) in (0..).zip(&mut self.slots) {
            if slot.stage == Stage::Owed {
                if !fresh {
                    slot.sends = slot.sends.max(1);
                }
                steps.push(Step::Order(node));
            }
        }
        if self.cancelled {
            self.recall_all(steps);
        }
    }

    /// A held node is linked: it can be started when there is a place.
    pub fn node_ready(&mut self, node: u32) {
        if self.slots[node as usize].stage == Stage::Held
            && let Some(gate) = &mut self.gate
        {
            gate.ready.insert(node);
        }
    }

    /// The nodes to start now: to be written down as [`Entry::Started`] before anything else is asked.
    /// `away_for` tells how long a node has been without a link, `None` while it has one.
    pub fn next_to_start(&mut self, away_for: impl Fn(&KeyId) -> Option<Duration>) -> Vec<u32> {
        if self.cancelled {
            return Vec::new();
        }
        let Some(gate) = &mut self.gate else { return Vec::new() };
        if gate.ready.is_empty() {
            return Vec::new();
        }
        let targets = &self.targets;
        let away = |node: u32| away_for(&targets[node as usize].0);
        let holding = gate.at_work.iter().filter(|node| holds_place(away(**node))).count();
        let mut room = gate.batches.allowance(holding);
        let mut chosen = Vec::new();
        while room > 0 {
            let Some(node) = gate.ready.pop_first() else { break };
            if self.slots[node as usize].stage == Stage::Held && away(node).is_none() {
                chosen.push(node);
                room -= 1;
            }
        }
        chosen
    }

    /// The nodes that are to be written down as `cancelled` since they were never sent anything.
    pub fn next_to_withdraw(&mut self) -> Vec<u32> {
        if !std::mem::take(&mut self.withdraw) {
            return Vec::new();
        }
        let (cancelled, stopped) = (self.cancelled, self.stopped());
        let mut chosen = Vec::new();
        for (node, slot) in (0..).zip(&mut self.slots) {
            let untouched = slot.sends == 0;
            if (cancelled && untouched && matches!(slot.stage, Stage::Held | Stage::Owed))
                || (stopped && slot.stage == Stage::Held)
            {
                slot.stage = Stage::Closing;
                chosen.push(node);
            }
        }
        chosen
    }

    /// What the expiry decides for a node: `Some(true)` for a provisional end, as the order may have reached it.
    pub fn expire(&mut self, node: u32) -> Option<bool> {
        let slot = self.slot_mut(node);
        match slot.stage {
            Stage::Held | Stage::Owed if slot.sends == 0 => {
                slot.stage = Stage::Closing;
                Some(false)
            }
            // It is still sent when the node comes back: what it says then tells whether it ever had it.
            Stage::Owed | Stage::Flying if !slot.provisional && slot.end.is_none() => Some(true),
            _ => None,
        }
    }

    /// What the removal of its node leads to: `lost` if the order may have reached it.
    pub(crate) fn abandon(&mut self, node: u32, at: Timestamp) -> Option<Entry> {
        let slot = self.slot_mut(node);
        let outcome = match slot.stage {
            Stage::Done | Stage::Closing => return None,
            _ if slot.end.is_some() => return Some(Entry::Cut { node }),
            _ if slot.sends > 0 => Outcome::Lost,
            _ => Outcome::Undeliverable("its node was removed".into()),
        };
        slot.stage = Stage::Closing;
        Some(Entry::Decided { node, outcome, at, provisional: false })
    }

    /// What follows for a node from the loss of what it or this hub remembered: what may have been sent is not sent again, and
    /// an answer that comes all the same replaces this end.
    pub(crate) fn give_up(&self, node: u32, outcome: Outcome, at: Timestamp) -> Option<Entry> {
        let slot = self.slot(node);
        match slot.stage {
            Stage::Done | Stage::Closing => None,
            _ if slot.end.is_some() => Some(Entry::Cut { node }),
            _ if slot.provisional => None,
            _ => Some(Entry::Decided { node, outcome, at, provisional: true }),
        }
    }

    /// Whether the order may have reached the node.
    pub(crate) fn may_have_reached(&self, node: u32) -> bool {
        self.slot(node).sends > 0
    }

    /// An end that the hub had decided could not be written down. It will be decided again.
    pub fn reopen(&mut self, node: u32, steps: &mut Vec<Step>) {
        let slot = &mut self.slots[node as usize];
        if slot.stage == Stage::Closing {
            if slot.started {
                slot.stage = Stage::Owed;
                steps.push(Step::Order(node));
            } else {
                slot.stage = Stage::Held;
            }
            self.withdraw |= self.cancelled || self.stopped();
        }
        self.expired = false;
    }

    /// Those that were chosen could not be written down as started.
    pub fn not_started(&mut self, nodes: &[u32]) {
        if let Some(gate) = &mut self.gate {
            gate.ready.extend(nodes);
        }
    }

    /// Whether the order may be sent now. If it may, it counts as sent.
    pub fn send_order(&mut self, node: u32) -> bool {
        let cancelled = self.cancelled;
        let slot = self.slot_mut(node);
        // Once taken back, the cancel goes first: a node that never had the order must not begin with it.
        let may = slot.stage == Stage::Owed && (!cancelled || slot.recall == Recall::Told);
        if may {
            slot.stage = Stage::Flying;
            slot.sends = slot.sends.saturating_add(1);
        }
        may
    }

    pub fn send_recall(&mut self, node: u32) -> bool {
        let slot = self.slot_mut(node);
        let may = slot.recall == Recall::Owed && slot.stage != Stage::Done;
        if may {
            slot.recall = Recall::Flying;
        }
        may
    }

    /// The link went down, or the node is busy: what was in flight is owed again.
    pub fn not_delivered(&mut self, step: Step) {
        match step {
            Step::Order(node) => {
                let slot = self.slot_mut(node);
                if slot.stage == Stage::Flying {
                    slot.stage = Stage::Owed;
                }
            }
            Step::Recall(node) => {
                let slot = self.slot_mut(node);
                if slot.recall == Recall::Flying {
                    slot.recall = Recall::Owed;
                }
            }
        }
    }

    /// The node has it on its disk. `Some` if it is owed something more.
    pub fn delivered(&mut self, step: Step) -> Option<Step> {
        match step {
            Step::Order(node) => {
                self.slot_mut(node).taken();
                None
            }
            Step::Recall(node) => {
                let slot = self.slot_mut(node);
                slot.recall = Recall::Told;
                // It knows that the order is void; only its answer to the order itself is an end.
                (slot.stage == Stage::Owed).then_some(Step::Order(node))
            }
        }
    }

    fn add_targets(&mut self, nodes: &[(KeyId, NodeName)]) {
        for (key, name) in nodes {
            if self.is_whole() || self.places.contains_key(key) {
                continue;
            }
            self.places.insert(*key, self.targets.len() as u32);
            self.targets.push((*key, name.clone()));
            self.slots.push(Slot::new());
        }
        if !self.is_whole() {
            return;
        }
        let size = self.record.batch.as_deref().and_then(|text| text.parse().ok());
        let limit = self.record.max_failures.as_deref().and_then(|text| text.parse().ok());
        if size.is_some() || limit.is_some() {
            self.gate.get_or_insert_with(|| Gate {
                batches: Batches::new(self.slots.len(), size, limit),
                ready: BTreeSet::new(),
                at_work: BTreeSet::new(),
            });
        } else {
            for slot in &mut self.slots {
                slot.started = true;
                slot.stage = Stage::Owed;
            }
        }
    }

    fn start(&mut self, node: u32, steps: &mut Vec<Step>) {
        let slot = &mut self.slots[node as usize];
        if std::mem::replace(&mut slot.started, true) {
            return;
        }
        if let Some(gate) = &mut self.gate {
            gate.batches.started();
            gate.ready.remove(&node);
            if slot.stage != Stage::Done {
                gate.at_work.insert(node);
            }
        }
        if slot.stage == Stage::Held {
            slot.stage = Stage::Owed;
            if self.live {
                steps.push(Step::Order(node));
            }
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
        slot.end = Some((Came::of(&end.outcome, end.started.is_some()), end.last_seq));
        slot.taken();
    }

    /// Whether the node is done now: its end is there, and every piece that the end counts.
    fn settle(&mut self, node: u32) {
        let slot = &mut self.slots[node as usize];
        let Some((came, last)) = slot.end else { return };
        if slot.stage == Stage::Done || (slot.upto < last && last <= MAX_PIECES) {
            return;
        }
        slot.stage = Stage::Done;
        slot.beyond = BTreeSet::new();
        let was_provisional = std::mem::take(&mut slot.provisional);
        if was_provisional {
            self.counts.provisional -= 1;
            self.counts.failed -= 1;
        }
        self.count(came);
        self.leave_gate(node, came == Came::Ok, was_provisional);
    }

    fn decide(&mut self, node: u32, outcome: &Outcome, provisional: bool) {
        let slot = &mut self.slots[node as usize];
        if slot.stage == Stage::Done || slot.end.is_some() || (provisional && slot.provisional) {
            return;
        }
        let was_provisional = std::mem::replace(&mut slot.provisional, provisional);
        slot.forgotten |= provisional && matches!(outcome, Outcome::Undeliverable(_));
        if provisional {
            slot.sends = slot.sends.max(1);
            if !matches!(outcome, Outcome::Expired) || slot.stage == Stage::Closing {
                // The hub has given the order up: it is not sent again.
                slot.stage = Stage::Taken;
            }
        } else {
            slot.stage = Stage::Done;
            slot.beyond = BTreeSet::new();
        }
        if was_provisional {
            self.counts.failed -= 1;
            self.counts.provisional -= 1;
        }
        self.counts.provisional += u64::from(provisional);
        // The hub alone cancels only what it never sent.
        self.count(Came::of(outcome, false));
        self.leave_gate(node, outcome.is_ok(), was_provisional);
    }

    fn count(&mut self, came: Came) {
        self.counts.ok += u64::from(came == Came::Ok);
        self.counts.failed += u64::from(came != Came::Ok);
        self.counts.not_started += u64::from(came == Came::NotStarted);
        self.counts.cancelled += u64::from(came == Came::Cancelled);
    }

    fn leave_gate(&mut self, node: u32, ok: bool, was_provisional: bool) {
        let Some(gate) = &mut self.gate else { return };
        gate.ready.remove(&node);
        gate.at_work.remove(&node);
        match (self.slots[node as usize].started, was_provisional) {
            (true, false) => gate.batches.ended(ok),
            (true, true) => gate.batches.revised(false, ok),
            (false, false) => gate.batches.dropped(),
            (false, true) => {}
        }
    }

    fn recall_all(&mut self, steps: &mut Vec<Step>) {
        self.withdraw = true;
        for (node, slot) in (0..).zip(&mut self.slots) {
            let reached = slot.sends > 0 && !matches!(slot.stage, Stage::Done | Stage::Closing);
            if reached && slot.recall == Recall::None {
                slot.recall = Recall::Owed;
                steps.push(Step::Recall(node));
            }
        }
    }
}

impl Slot {
    const fn new() -> Self {
        Self {
            stage: Stage::Held,
            recall: Recall::None,
            started: false,
            sends: 0,
            provisional: false,
            forgotten: false,
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

    pub fn is_provisional(&self) -> bool {
        self.provisional
    }

    fn taken(&mut self) {
        self.sends = self.sends.max(1);
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

#[cfg(test)]
mod tests;

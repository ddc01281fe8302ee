//! Answers that this node owes: pieces of output and ends, kept until their origin says that it has them.
//!
//! A hop's word that a relay holds an answer only slows its resending down; it never releases it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;

use super::Key;
use super::record::{self, AnswerRow, END_NUMBER};
use super::shared::Shared;
use super::window::Item;
use crate::envelope::{Audience, Body, Payload, VERSION};
use crate::frame::Verdict;
use crate::id::{KeyId, MessageId};
use crate::journal::{Op, Table};
use crate::time::Timestamp;

#[derive(Debug, Default)]
pub(super) struct Answers {
    rows: BTreeMap<(Key, u64), AnswerRow>,
    /// Ends by their origin and their own envelope's id, for receipts. The id alone is not enough: another
    /// origin may use a message's id again, by malice, and the ends' ids follow from those.
    ends: BTreeMap<(KeyId, MessageId), Key>,
    /// Pieces that the origin has. The last one's row stays until the end: it keeps the numbering.
    acknowledged: HashMap<Key, BTreeSet<u64>>,
}

impl Answers {
    pub fn load(&mut self, shared: &mut Shared, key: Key, number: u64, row: AnswerRow) {
        if number == END_NUMBER {
            self.ends.insert((key.origin, envelope_id(&key, number)), key);
        }
        shared.owe(row.to, Item::Answer(key, number));
        self.rows.insert((key, number), row);
    }

    /// Signs an answer and returns the write that stores it. It is owed once [`Answers::owe`] is called.
    pub fn add(
        &mut self,
        shared: &Shared,
        now: Timestamp,
        to: Audience,
        key: Key,
        number: u64,
        payload: Payload,
    ) -> Op {
        let body = Body {
            v: VERSION,
            crit: Vec::new(),
            id: envelope_id(&key, number),
            from: shared.me,
            to,
            issued: now,
            expires: None,
            order: None,
            fence: None,
            payload,
        };
        let row = AnswerRow { to, envelope: shared.seal(&body) };
        let op = record::put(Table::Answers, record::answer_key(&key, number), &row);
        self.rows.insert((key, number), row);
        op
    }

    /// It is on disk: from now on its origin is owed it.
    pub fn owe(&mut self, shared: &mut Shared, key: Key, number: u64) {
        if let Some(row) = self.rows.get(&(key, number)) {
            if shared.is_gone(row.to) {
                self.let_go(shared, key);
                return;
            }
            if number == END_NUMBER {
                self.ends.insert((key.origin, envelope_id(&key, number)), key);
            }
            shared.owe(row.to, Item::Answer(key, number));
        }
    }

    /// The journal refused it.
    pub fn forget(&mut self, key: Key, number: u64) {
        self.rows.remove(&(key, number));
    }

    /// The origin asks again, so it may not have the end: offer it now rather than at the next timer.
    pub fn offer_again(&self, shared: &mut Shared, key: Key) {
        if self.rows.contains_key(&(key, END_NUMBER)) {
            for ((_, number), row) in self.of(key) {
                shared.offer_again(row.to, Item::Answer(key, *number));
            }
        }
    }

    fn of(&self, key: Key) -> impl Iterator<Item = (&(Key, u64), &AnswerRow)> {
        self.rows.range((key, 0)..=(key, END_NUMBER))
    }

    fn last_piece(&self, key: Key) -> Option<u64> {
        self.rows.range((key, 0)..(key, END_NUMBER)).next_back().map(|((_, number), _)| *number)
    }

    /// The number for the next piece, after those that are here.
    pub fn next_seq(&self, key: Key) -> u64 {
        self.last_piece(key).map_or(1, |last| last + 1)
    }

    pub fn any(&self, key: Key) -> bool {
        self.of(key).next().is_some()
    }

    /// Bytes of a message's answers that are stored.
    pub fn stored(&self, key: Key) -> u64 {
        self.of(key).map(|(_, row)| row.envelope.len() as u64).sum()
    }

    pub fn size(&self, key: Key, number: u64) -> u64 {
        self.rows.get(&(key, number)).map_or(0, |row| row.envelope.len() as u64)
    }

    pub fn envelope(&self, key: &Key, number: u64) -> Option<(Audience, MessageId, Bytes)> {
        let row = self.rows.get(&(*key, number))?;
        Some((row.to, envelope_id(key, number), row.envelope.clone()))
    }

    /// What the peer at the other end of the link said to one of them.
    pub fn verdict(
        &mut self,
        shared: &mut Shared,
        now: Timestamp,
        peer: KeyId,
        key: Key,
        number: u64,
        verdict: Verdict,
    ) {
        let Some(to) = self.rows.get(&(key, number)).map(|row| row.to) else { return };
        let item = Item::Answer(key, number);
        let by_audience = match to {
            Audience::Node(node) => node == peer,
            Audience::Hubs => true,
        };
        match verdict {
            Verdict::Busy { retry_ms, .. } => {
                let wait = Duration::from_millis(retry_ms.clamp(50, 600_000));
                shared.park_busy(now + wait, to, item);
            }
            Verdict::Accepted if by_audience && number == END_NUMBER => self.let_go(shared, key),
            Verdict::Accepted if by_audience => {
                shared.settle(to, item);
                self.piece_acknowledged(shared, key, number);
            }
            Verdict::Accepted | Verdict::Held => shared.park_held(now, to, item),
            // Nobody will ever take it: the origin is gone.
            Verdict::Refused(_) => self.let_go(shared, key),
        }
    }

    fn piece_acknowledged(&mut self, shared: &mut Shared, key: Key, number: u64) {
        let last = self.last_piece(key);
        let acknowledged = self.acknowledged.entry(key).or_default();
        acknowledged.insert(number);
        let kept = last.map(|last| acknowledged.split_off(&last)).unwrap_or_default();
        let gone = std::mem::replace(acknowledged, kept);
        let ops: Vec<Op> = gone
            .into_iter()
            .map(|number| {
                self.rows.remove(&(key, number));
                record::delete(Table::Answers, record::answer_key(&key, number))
            })
            .collect();
        if !ops.is_empty() {
            shared.commit_lazily(ops);
        }
    }

    /// The origin's signed word that it has this end. `false` if the id is not one of an end here.
    pub fn receipt(&mut self, shared: &mut Shared, from: KeyId, end: &MessageId) -> bool {
        let Some(key) = self.ends.get(&(from, *end)).copied() else { return false };
        self.let_go(shared, key);
        true
    }

    /// Nobody waits for answers to a node that is gone.
    pub fn node_gone(&mut self, shared: &mut Shared, node: KeyId) {
        // What is being written is let go of when that is done.
        let to_node = self.rows.iter().filter(|(_, row)| row.to == Audience::Node(node));
        let keys: BTreeSet<Key> = to_node.map(|((key, _), _)| *key).collect();
        for key in keys {
            self.let_go(shared, key);
        }
    }

    fn let_go(&mut self, shared: &mut Shared, key: Key) {
        let numbers: Vec<u64> = self.of(key).map(|((_, number), _)| *number).collect();
        self.ends.remove(&(key.origin, envelope_id(&key, END_NUMBER)));
        self.acknowledged.remove(&key);
        let mut ops = Vec::with_capacity(numbers.len());
        for number in numbers {
            if let Some(row) = self.rows.remove(&(key, number)) {
                shared.settle(row.to, Item::Answer(key, number));
            }
            ops.push(record::delete(Table::Answers, record::answer_key(&key, number)));
        }
        if !ops.is_empty() {
            shared.commit_lazily(ops);
        }
    }
}

/// The id of an answer's own envelope.
fn envelope_id(key: &Key, number: u64) -> MessageId {
    match number {
        END_NUMBER => key.id.of_answer("end", 0),
        number => key.id.of_answer("output", number),
    }
}

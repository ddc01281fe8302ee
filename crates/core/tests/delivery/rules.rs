//! What must never be seen of a fleet, and what must be true of it at rest.
//!
//! The one rule behind most of these: nobody is told of a state that is not durable.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_core::delivery::engine::Queues;
use mainstay_core::delivery::record::{self, AnswerRow, InboxRow, InboxState, OutboxRow, RelayKey};
use mainstay_core::delivery::{CLOCK_SLACK, Effect, Key, Limits, ReplyJob};
use mainstay_core::envelope::{Audience, Body, Envelope, Payload, Stream};
use mainstay_core::frame::{Ack, Frame, Verdict};
use mainstay_core::id::{KeyId, MessageId};
use mainstay_core::journal::{Batch, Op, Table};
use mainstay_core::outcome::{Outcome, Rejection};
use mainstay_core::time::Timestamp;

use super::fleet::{Fleet, Method, Node};
use super::journal::TestJournal;

pub struct Rules {
    limits: Limits,
    /// How often each method was begun, by its receiver.
    pub begun: BTreeMap<(usize, Key), u32>,
    /// What each method did that came to its own end.
    exits: BTreeMap<Key, (Outcome, BTreeMap<Stream, Vec<u8>>)>,
    /// The one at work of those that run one at a time, by its node.
    at_turn: BTreeMap<usize, Key>,
    /// Started on disk while its node went down.
    struck: BTreeSet<(usize, Key)>,
    /// Ends that are on their receiver's disk.
    pub ends: BTreeMap<(usize, Key), Outcome>,
    /// What was told of each message at its origin.
    pub ended: BTreeMap<(usize, MessageId), Vec<(Outcome, bool)>>,
    /// Ends that are or were on their origin's disk.
    recorded: BTreeMap<MessageId, Vec<Outcome>>,
    /// Ends as they were handed to the reply.
    reply_ends: BTreeMap<MessageId, Outcome>,
    received: BTreeMap<(usize, usize, MessageId), Body>,
    in_flight: BTreeMap<(usize, usize), BTreeMap<MessageId, usize>>,
    /// Envelopes that a hub may let go of, since their receiver has spoken.
    spoken: BTreeSet<(usize, KeyId, MessageId)>,
}

impl Rules {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            begun: BTreeMap::new(),
            exits: BTreeMap::new(),
            at_turn: BTreeMap::new(),
            struck: BTreeSet::new(),
            ends: BTreeMap::new(),
            ended: BTreeMap::new(),
            recorded: BTreeMap::new(),
            reply_ends: BTreeMap::new(),
            received: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            spoken: BTreeSet::new(),
        }
    }

    pub fn link_up(&mut self, n: usize, peer: usize) {
        self.in_flight.insert((n, peer), BTreeMap::new());
    }

    pub fn received(&mut self, n: usize, from: usize, body: &Body) {
        self.received.insert((n, from, body.id), body.clone());
    }

    pub fn sent(&mut self, n: usize, to: usize, frame: &Frame) {
        let Frame::Data(data) = frame else { return };
        let id = body_of(&data.envelope).id;
        let window = self.in_flight.entry((n, to)).or_default();
        let bytes: usize = window.values().sum();
        assert!(bytes < self.limits.window_bytes, "more bytes in flight than the window");
        assert!(window.len() < self.limits.window_frames, "more frames in flight than the window");
        assert!(window.insert(id, data.envelope.len()).is_none(), "two envelopes of one id in flight");
    }

    pub fn acked(&mut self, n: usize, from: usize, acks: &[Ack]) {
        for ack in acks {
            self.in_flight.entry((n, from)).or_default().remove(&ack.id);
            if matches!(ack.verdict, Verdict::Accepted | Verdict::Refused(_)) {
                // The hub cannot tell whose envelope it was without its own tables, nor need we.
                self.spoken.insert((n, KeyId::from_bytes([0; 32]), ack.id));
            }
        }
    }

    pub fn counters(&self, n: usize, queues: Queues) {
        assert!(queues.outbox <= self.limits.outbox_messages, "node {n}: {queues:?}");
        assert!(queues.inbox <= self.limits.inbox_messages, "node {n}: {queues:?}");
        assert!(queues.running <= self.limits.running, "node {n}: {queues:?}");
    }

    pub fn crash(&mut self, n: usize, journal: &TestJournal) {
        self.at_turn.remove(&n);
        for (key, value) in journal.rows(Table::Inbox) {
            let row: InboxRow = record::decode(Table::Inbox, value).expect("a row");
            if matches!(row.state, InboxState::Started { .. }) {
                self.struck.insert((n, record::read_inbox_key(key).expect("a key")));
            }
        }
    }

    /// A batch is on disk now.
    pub fn durable(&mut self, n: usize, node: &Node, batch: &Batch) {
        for op in &batch.ops {
            if let Op::Put { table: Table::Outbox, key, value } = op {
                let id = record::read_message_key(Table::Outbox, key).expect("a key");
                let row: OutboxRow = record::decode(Table::Outbox, value).expect("a row");
                self.recorded.entry(id).or_default().extend(row.outcome);
            }
            let Op::Put { table: Table::Answers, key, value } = op else { continue };
            let (key, number) = record::read_answer_key(key).expect("a key");
            let row: AnswerRow = record::decode(Table::Answers, value).expect("a row");
            let Payload::End(end) = body_of(&row.envelope).payload else {
                assert_ne!(number, record::END_NUMBER);
                continue;
            };
            assert_eq!(number, record::END_NUMBER);
            let before = self.ends.insert((n, key), end.outcome.clone());
            assert!(before.is_none(), "a second end of {key:?}: {before:?}, {:?}", end.outcome);
            match (&end.outcome, self.exits.get(&key)) {
                (Outcome::Interrupted, _) => {
                    assert!(self.struck.contains(&(n, key)), "interrupted without a crash");
                }
                // A run of it that came to its end may still have been lost to a crash, and only then.
                (outcome, Some((exit, _))) if !self.struck.contains(&(n, key)) => assert_eq!(outcome, exit),
                (outcome @ Outcome::Finished(_), exit) => {
                    assert_eq!(Some(outcome), exit.map(|(outcome, _)| outcome));
                }
                _ => {}
            }
            let row: InboxRow = node.journal.get(Table::Inbox, &record::inbox_key(&key)).expect("a row");
            assert_eq!(row.state, InboxState::Ended);
        }
    }

    pub fn exited(&mut self, n: usize, key: Key, method: &Method, outcome: &Outcome) {
        self.at_turn.retain(|at, other| (*at, *other) != (n, key));
        self.exits.insert(key, (outcome.clone(), method.written.clone()));
    }

    pub fn reply_written(&mut self, job: &ReplyJob) {
        assert!(job.pieces.windows(2).all(|two| two[0].seq + 1 == two[1].seq), "a gap within {job:?}");
        assert!(job.pieces.last().is_none_or(|last| last.seq == job.upto));
        if let Some(outcome) = &job.outcome {
            self.reply_ends.insert(job.id, outcome.clone());
        }
    }

    pub fn effect(&mut self, now: Timestamp, n: usize, nodes: &[Node], effect: &Effect) {
        let node = &nodes[n];
        match effect {
            Effect::Send { peer, frame: Frame::Ack(acks) } => {
                let from = nodes.iter().position(|node| node.key == *peer).expect("a peer");
                for ack in acks {
                    self.verdict(now, n, node, from, ack);
                }
            }
            Effect::Send { frame: Frame::Data(data), .. } => {
                let body = body_of(&data.envelope);
                if body.from == node.key {
                    self.tells(now, n, node, &body);
                }
            }
            Effect::Start { key, request, .. } => {
                let row = inbox_row(node, key).expect("a method begins only with its row on disk");
                assert!(matches!(row.state, InboxState::Started { .. }), "begun before `started` is on disk");
                if self.limits.one_at_a_time.contains(&request.method.as_str()) {
                    let other = self.at_turn.insert(n, *key);
                    assert_eq!(other, None, "{key:?} began beside another");
                }
                let begun = self.begun.entry((n, *key)).or_default();
                *begun += 1;
                assert!(*begun == 1 || request.idempotent, "{key:?} began twice");
            }
            Effect::Answered { result: Ok(ids), .. } => {
                for id in ids {
                    let known = outbox_row(node, id).is_some() || self.ended.contains_key(&(n, *id));
                    assert!(known, "an id is told that is not on disk");
                }
            }
            Effect::Ended { id, outcome, provisional, .. } => {
                let recorded = self.recorded.get(id).is_some_and(|all| all.contains(outcome));
                assert!(recorded, "an end is told that is not on disk");
                let ends = self.ended.entry((n, *id)).or_default();
                assert!(
                    ends.last().is_none_or(|(_, provisional)| *provisional),
                    "{id} ended as {outcome:?} after {ends:?}"
                );
                ends.push((outcome.clone(), *provisional));
            }
            Effect::Served { key, .. } => {
                let row = inbox_row(node, key).expect("what was served has a row");
                assert_eq!(row.state, InboxState::Ended, "told as served before it is on disk");
            }
            Effect::WriteReply { job, mark } => {
                let row = outbox_row(node, &job.id).expect("a reply is written for a known message");
                assert_eq!(row.writing, Some((job.upto, mark.clone())), "written before the mark is on disk");
            }
            _ => {}
        }
    }

    /// A verdict leaves the node: what it says must be on disk.
    fn verdict(&self, now: Timestamp, n: usize, node: &Node, from: usize, ack: &Ack) {
        let body = self.received.get(&(n, from, ack.id)).expect("a verdict on what came over this link");
        match (&ack.verdict, &body.payload) {
            (Verdict::Accepted, Payload::Request(_)) => {
                let key = Key { origin: body.from, id: body.id };
                assert!(inbox_row(node, &key).is_some(), "accepted, but not on disk");
            }
            (Verdict::Accepted, Payload::Cancel(cancel)) => {
                let row = inbox_row(node, &Key { origin: body.from, id: cancel.re });
                let told = match row {
                    Some(row) => {
                        row.cancelled || matches!(row.state, InboxState::Ended | InboxState::Refused)
                    }
                    None => body.expires.is_some_and(|end| now >= end),
                };
                assert!(told, "a cancel was accepted that is not on disk");
            }
            (Verdict::Accepted, Payload::End(end)) => self.end_is_kept(node, body.from, &end.re),
            (Verdict::Accepted, Payload::Output(output)) => {
                let seq = output.piece.seq;
                let stored = node
                    .journal
                    .rows(Table::Replies)
                    .any(|(key, _)| record::read_reply_key(key) == Ok((output.re, seq)));
                let done = outbox_row(node, &output.re)
                    .is_none_or(|row| row.closed || row.reply.is_none() || row.written >= seq);
                assert!(stored || done, "output was accepted that is not on disk");
            }
            (Verdict::Held, _) => {
                let Audience::Node(to) = body.to else { panic!("held for nobody") };
                let key = record::relay_key(&RelayKey { to, from: body.from, id: body.id });
                let held = node.journal.rows(Table::Relay).any(|(row, _)| row[..] == key[..]);
                let spoken = self.spoken.contains(&(n, KeyId::from_bytes([0; 32]), body.id));
                assert!(held || spoken, "held, but not on disk");
            }
            (Verdict::Refused(why), Payload::Request(_)) if *why != Rejection::IdReused => {
                let key = Key { origin: body.from, id: body.id };
                assert!(!self.begun.contains_key(&(n, key)), "refused after it began");
            }
            _ => {}
        }
    }

    fn end_is_kept(&self, node: &Node, from: KeyId, re: &MessageId) {
        let Some(row) = outbox_row(node, re).filter(|row| row.to == from && !row.closed) else { return };
        assert!(row.outcome.is_some() && !row.provisional, "an end was accepted that is not on disk");
    }

    /// A node says something of its own: so it must be on its disk.
    fn tells(&self, now: Timestamp, n: usize, node: &Node, body: &Body) {
        match &body.payload {
            Payload::Request(_) => assert!(outbox_row(node, &body.id).is_some(), "sent before it is on disk"),
            Payload::Cancel(cancel) => {
                let row = outbox_row(node, &cancel.re).expect("a cancel of a known message");
                assert!(row.withdrawn, "a cancel is sent that is not on disk");
            }
            Payload::Output(_) | Payload::End(_) => {
                let stored = node.journal.rows(Table::Answers).any(|(_, value)| {
                    let row: AnswerRow = record::decode(Table::Answers, value).expect("a row");
                    body_of(&row.envelope).id == body.id
                });
                assert!(stored, "an answer is sent that is not on disk");
            }
            Payload::Receipt(receipt) if receipt.refused.is_none() => {
                let Audience::Node(to) = body.to else { panic!("a receipt for nobody") };
                let end = self.received.iter().find_map(|((at, _, id), body)| match &body.payload {
                    Payload::End(end) if *at == n && *id == receipt.re => Some(end),
                    _ => None,
                });
                match end {
                    Some(end) => self.end_is_kept(node, to, &end.re),
                    None => {
                        let row = inbox_row(node, &Key { origin: to, id: receipt.re });
                        let request = self.received.values().find(|body| body.id == receipt.re);
                        let forgotten =
                            request.and_then(|body| body.expires).is_some_and(|end| now > end + CLOCK_SLACK);
                        assert!(row.is_some() || forgotten, "a receipt for what is not on disk");
                    }
                }
            }
            Payload::Receipt(_) => {}
        }
    }

    pub fn at_rest(&self, fleet: &Fleet) {
        for (pair, window) in &self.in_flight {
            let linked = fleet.links.contains_key(pair);
            assert!(!linked || window.is_empty(), "stuck in the window {pair:?}: {window:?}");
        }
        for node in fleet.nodes.iter().filter(|node| !node.gone) {
            let engine = node.engine.as_ref().expect("all are up");
            assert_eq!(engine.queues(), Queues::default());
            assert_eq!(engine.reserved(), 0);
            // A receipt may wait for a relay that was busy when all else had come another way.
            let debug = format!("{engine:?}");
            let timers = debug
                .split("Again(")
                .skip(1)
                .filter(|timer| !timer.split(", ").nth(1).is_some_and(|item| item.starts_with("Receipt(")));
            let left: Vec<_> = timers.map(|timer| &timer[..timer.len().min(80)]).collect();
            assert!(left.is_empty(), "timers of what is settled: {left:?}");
        }
        for (id, order) in &fleet.orders {
            let (from, to) = (&fleet.nodes[order.from], &fleet.nodes[order.to]);
            if from.gone {
                continue;
            }
            let key = Key { origin: from.key, id: *id };
            let Some(row) = outbox_row(from, id) else {
                assert!(!fleet.accepted.contains(id), "{id} was accepted and is lost");
                assert!(!self.begun.contains_key(&(order.to, key)), "{id} ran and is unknown at its origin");
                continue;
            };
            let outcome = row.outcome.as_ref().unwrap_or_else(|| panic!("{id} has no end"));
            if let Some(told) = self.ended.get(&(order.from, *id)).and_then(|ends| ends.last())
                && !told.1
            {
                assert_eq!(&told.0, outcome, "{id} has another end than was told");
            }
            if to.gone || !order.command {
                continue;
            }
            let end = self.ends.get(&(order.to, key));
            let refused = matches!(row.outcome, Some(Outcome::Rejected(_)));
            if refused && !self.begun.contains_key(&(order.to, key)) {
                // A refusal is not made durable where it was spoken: a cancel after a crash finds nothing
                // and ends it once more. Neither ran.
                assert!(matches!(end, None | Some(Outcome::Cancelled)), "{id} was refused, then {end:?}");
                continue;
            }
            if let Some(end) = end {
                assert_eq!(end, outcome, "{id} ended otherwise where it ran");
                assert!(!row.provisional);
            } else {
                assert!(!self.begun.contains_key(&(order.to, key)), "{id} began and has no end");
            }
            if order.reply && end.is_some() {
                assert_eq!(self.reply_ends.get(id), end, "{id}: its reply does not tell the end");
                self.reply_is_whole(from, id, &key, outcome, order.idempotent);
            }
        }
    }

    fn reply_is_whole(&self, from: &Node, id: &MessageId, key: &Key, outcome: &Outcome, again: bool) {
        let (Outcome::Finished(_), Some((_, written))) = (outcome, self.exits.get(key)) else { return };
        for stream in [Stream::Stdout, Stream::Stderr] {
            let pieces = from.files.get(id).into_iter().flatten();
            let file: Vec<u8> =
                pieces.filter(|(of, _)| *of == stream).flat_map(|(_, data)| data.clone()).collect();
            let written = written.get(&stream).map_or(&[][..], |bytes| &bytes[..]);
            // What ran again goes on after the output of its first life.
            let fits = if again { file.ends_with(written) } else { file == written };
            assert!(fits, "{id}: the reply has {} bytes, {} were written", file.len(), written.len());
        }
    }
}

fn body_of(envelope: &[u8]) -> Body {
    Envelope::decode(envelope).and_then(|envelope| envelope.trusted_body()).expect("an envelope")
}

fn inbox_row(node: &Node, key: &Key) -> Option<InboxRow> {
    node.journal.get(Table::Inbox, &record::inbox_key(key))
}

fn outbox_row(node: &Node, id: &MessageId) -> Option<OutboxRow> {
    node.journal.get(Table::Outbox, &record::message_key(id))
}

pub fn owes_nothing(node: &Node) -> bool {
    what_it_owes(node).is_empty()
}

/// In words, for whoever reads a failure.
pub fn what_it_owes(node: &Node) -> Vec<String> {
    let mut owes = Vec::new();
    if node.gone {
        return owes;
    }
    let queues = node.engine.as_ref().map(|engine| engine.queues()).unwrap_or_default();
    if queues != Queues::default() {
        owes.push(format!("{} {queues:?}", node.name));
    }
    for table in [Table::Answers, Table::Relay, Table::Replies] {
        let rows = node.journal.rows(table).count();
        if rows > 0 {
            owes.push(format!("{} has {rows} rows in {table:?}", node.name));
        }
    }
    for (_, value) in node.journal.rows(Table::Outbox) {
        let row: OutboxRow = record::decode(Table::Outbox, value).expect("a row");
        if !row.closed && !row.provisional {
            owes.push(format!("{}: {} to {}: {:?}", node.name, row.method, row.to_name, row.outcome));
        }
    }
    owes
}

/// Long after the last message, only the history of the node's own is left.
pub fn remembers_no_more(node: &Node) {
    assert!(owes_nothing(node), "{:?}", what_it_owes(node));
    assert_eq!(node.journal.rows(Table::Inbox).count(), 0, "rows against duplicates are kept for ever");
    for (_, value) in node.journal.rows(Table::Outbox) {
        let row: OutboxRow = record::decode(Table::Outbox, value).expect("a row");
        assert!(row.closed, "never closed: {row:?}");
    }
}

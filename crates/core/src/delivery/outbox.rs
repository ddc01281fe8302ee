//! Messages of which this node is the origin: from acceptance to the one end, and the writing of the reply.
//!
//! ```text
//!            commit            link            receiver's word         receiver's end
//! Submit ───────────▶ queued ────────▶ sent ──────────────▶ accepted ─────────────────▶ ended
//!                        │               │                                                ▲
//!                        └── time is up ─┴──▶ ended, provisional unless it was never sent ┘
//! ```
//!
//! Once a message was sent, an end that the origin decides alone is provisional: the receiver may have
//! started it all the same, and its end supersedes. After a restart every message counts as sent, since
//! sending is not recorded.

mod reply;

use std::collections::{BTreeMap, HashMap};

use self::reply::job;
use super::record::{self, OutboxRow, ReplyRow};
use super::shared::{Shared, Then, Timer};
use super::window::Item;
use super::{Draft, Effect, HUB_ROLE, MessageStatus, Refusal, ReplyJob, Which};
use crate::envelope::{Audience, Body, Cancel, End, Payload, Piece, VERSION};
use crate::frame::{MAX_ENVELOPE, Verdict};
use crate::id::{KeyId, MessageId};
use crate::journal::{Class, Op, Table};
use crate::outcome::{Outcome, Rejection};
use crate::time::Timestamp;

#[derive(Debug)]
struct Entry {
    row: OutboxRow,
    /// It may have left this node.
    sent: bool,
    /// Pieces that came and are not written yet.
    pieces: BTreeMap<u64, Piece>,
    /// A reply is being planned or written.
    replying: bool,
    /// What is being written tells the end as well: it may have come after the writing was planned.
    telling: bool,
    /// The receiver's end is being written. Until it is, or was refused, the row must not be written
    /// again from here: what happens meanwhile to the reply is put off.
    end_token: Option<u64>,
    put_off: Vec<ReplyStep>,
    /// Bytes of output taken so far, as far as this life knows.
    taken: u64,
    /// The end came through a relay before all of its output did: its sender is owed a receipt for it
    /// (by the id of its envelope) once the rest is here, and not sooner, since a receipt releases the output as well.
    receipt_due: Option<(KeyId, MessageId)>,
}

#[derive(Debug)]
enum ReplyStep {
    Planned { upto: u64, mark: bytes::Bytes },
    Written { upto: u64 },
}

impl Entry {
    fn new(row: OutboxRow, sent: bool) -> Self {
        Self {
            row,
            sent,
            pieces: BTreeMap::new(),
            replying: false,
            telling: false,
            end_token: None,
            put_off: Vec::new(),
            taken: 0,
            receipt_due: None,
        }
    }

    /// Whether nothing that its receiver holds is missing here.
    fn is_whole(&self) -> bool {
        let row = &self.row;
        let Some(last) = row.last_seq.filter(|_| row.reply.is_some() && !row.closed) else {
            return true;
        };
        let here = self.pieces.range(..=last).filter(|(seq, _)| **seq > row.written).count();
        here as u64 >= last.saturating_sub(row.written)
    }

    fn output_limit(&self) -> u64 {
        self.row.output_limit.unwrap_or(OUTPUT_LIMIT)
    }

    fn most_pieces(&self) -> u64 {
        FEW_PIECES + self.output_limit() / CRUMB
    }

    /// Cuts a piece to what was asked for. An honest receiver stays within that by itself.
    fn cut(&mut self, mut piece: Piece) -> Piece {
        let room = self.output_limit().saturating_sub(self.taken);
        piece.data.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        self.taken += piece.data.len() as u64;
        piece
    }

    /// Whether this piece is still to be stored.
    fn wants(&self, seq: u64) -> bool {
        let row = &self.row;
        let within = row.last_seq.is_none_or(|last| seq <= last) && seq <= self.most_pieces();
        row.reply.is_some() && !row.closed && within && seq > row.written && !self.pieces.contains_key(&seq)
    }
}

/// Pieces of output that any message may come in, however little output was asked for …
const FEW_PIECES: u64 = 1024;

/// … and one more for each so many bytes of it. A receiver that cuts its output smaller is not believed, so that it
/// cannot fill this node's memory and disk with crumbs.
const CRUMB: u64 = 32;

/// For rows that do not say how much output was asked for: as much as was ever asked for by a message.
const OUTPUT_LIMIT: u64 = 1 << 20;

/// An origin whose disk is full lets answers wait at their senders for this long before they try again.
const BUSY_RETRY_MS: u64 = 5_000;

/// An end that overtook its output waits at its sender for this long: the output is under way.
const OVERTOOK_RETRY_MS: u64 = 1_000;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    entries: BTreeMap<MessageId, Entry>,
    /// Messages without an end, those included whose acceptance is being written.
    open: usize,
    open_bytes: usize,
    /// Closed messages, oldest first: history, bounded.
    closed: std::collections::VecDeque<MessageId>,
    /// Pieces whose commit is under way, with whom to acknowledge.
    piece_tokens: HashMap<(MessageId, u64), u64>,
}

/// A peer that waits for our verdict on an envelope, and its sender if a receipt must go there as well.
pub(super) type Waiting = (KeyId, MessageId, Option<KeyId>);

#[derive(Debug)]
pub(super) enum OutboxThen {
    Submitted {
        ticket: u64,
        rows: Vec<(MessageId, OutboxRow)>,
    },
    Withdrawn {
        ticket: u64,
        id: MessageId,
    },
    /// The receiver's end is on disk.
    Ended {
        row: Box<OutboxRow>,
        end: Box<End>,
        waiting: Vec<Waiting>,
    },
    Piece {
        id: MessageId,
        piece: Piece,
        waiting: Vec<Waiting>,
    },
    Marked {
        job: Box<ReplyJob>,
        mark: bytes::Bytes,
    },
    Written {
        id: MessageId,
    },
    /// An end that this node decided alone is on disk.
    Decided {
        told: Box<Effect>,
    },
}

impl Outbox {
    pub fn load(&mut self, shared: &mut Shared, id: MessageId, row: OutboxRow) {
        let closed = row.closed;
        let to = audience(row.to);
        if !closed {
            if row.outcome.is_none() {
                self.open += 1;
                self.open_bytes += row.envelope.len();
                if !row.accepted {
                    shared.owe(to, Item::Message(id));
                    shared.at(row.expires, Timer::GiveUp(id));
                }
                if row.withdrawn {
                    shared.owe(to, Item::Cancel(id));
                }
            }
        } else {
            self.closed.push_back(id);
        }
        self.entries.insert(id, Entry::new(row, true));
    }

    pub fn load_piece(&mut self, id: MessageId, piece: Piece) -> Option<Op> {
        match self.entries.get_mut(&id) {
            Some(entry) if entry.wants(piece.seq) => {
                entry.taken += piece.data.len() as u64;
                entry.pieces.insert(piece.seq, piece);
                None
            }
            // Written, or of a message that is gone: the row outlived its use.
            _ => Some(delete_piece(&id, piece.seq)),
        }
    }

    /// Goes on with replies that a crash interrupted.
    pub fn resume(&mut self, shared: &mut Shared) {
        let ids: Vec<_> = self.entries.iter().filter(|(_, e)| !e.row.closed).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            if let Some((upto, mark)) = entry.row.writing.clone() {
                entry.replying = true;
                if let Some(job) = job(id, entry, upto) {
                    entry.telling = job.outcome.is_some();
                    shared.out.push(Effect::WriteReply { job: Box::new(job), mark });
                }
            } else {
                self.advance_reply(shared, id);
            }
        }
    }

    pub fn open_count(&self) -> usize {
        self.open
    }

    pub fn submit(&mut self, shared: &mut Shared, now: Timestamp, ticket: u64, drafts: Vec<Draft>) {
        // Estimated, since sealing costs a signature each: too much for what is refused.
        let size = |d: &Draft| d.request.data.len() + d.request.args.iter().map(String::len).sum::<usize>();
        let bytes: usize = drafts.iter().map(|d| size(d) + 1024).sum();
        if self.open + drafts.len() > shared.limits.outbox_messages
            || self.open_bytes + bytes > shared.limits.outbox_bytes
        {
            let refusal = Refusal::QueueFull { messages: self.open };
            shared.out.push(Effect::Answered { ticket, result: Err(refusal) });
            return;
        }
        let mut rows = Vec::with_capacity(drafts.len());
        let mut ops = Vec::with_capacity(drafts.len());
        for draft in drafts {
            let row = row_of(shared, now, &draft);
            if row.envelope.len() > MAX_ENVELOPE {
                let refusal = Refusal::TooLarge(row.envelope.len());
                shared.out.push(Effect::Answered { ticket, result: Err(refusal) });
                return;
            }
            ops.push(record::put(Table::Outbox, record::message_key(&draft.id), &row));
            rows.push((draft.id, row));
        }
        self.open += rows.len();
        self.open_bytes += rows.iter().map(|(_, row)| row.envelope.len()).sum::<usize>();
        // No room is kept here for the answers: on a full disk they wait at their senders, who kept it.
        let then = Then::Outbox(OutboxThen::Submitted { ticket, rows });
        shared.commit(Class::New { reserve: 0 }, ops, then);
    }

    pub fn committed(
        &mut self,
        shared: &mut Shared,
        now: Timestamp,
        then: OutboxThen,
        result: Result<(), String>,
    ) {
        match then {
            OutboxThen::Submitted { ticket, rows } => {
                let result = match result {
                    Ok(()) => Ok(rows.iter().map(|(id, _)| *id).collect()),
                    Err(why) => Err(Refusal::Storage(why)),
                };
                let is_ok = result.is_ok();
                shared.out.push(Effect::Answered { ticket, result });
                if is_ok {
                    for (id, row) in rows {
                        self.accept(shared, now, id, row);
                    }
                } else {
                    self.open -= rows.len();
                    self.open_bytes -= rows.iter().map(|(_, row)| row.envelope.len()).sum::<usize>();
                }
            }
            OutboxThen::Withdrawn { ticket, id } => {
                shared.out.push(Effect::Answered { ticket, result: Ok(vec![id]) });
                if let Some(entry) = self.entries.get(&id)
                    && entry.row.outcome.is_none()
                {
                    shared.owe(audience(entry.row.to), Item::Cancel(id));
                }
            }
            OutboxThen::Ended { row, end, waiting } => {
                self.end_stored(shared, now, *row, *end, waiting, result)
            }
            OutboxThen::Piece { id, piece, waiting } => {
                self.piece_tokens.remove(&(id, piece.seq));
                if let Err(reason) = result {
                    if let Some(entry) = self.entries.get_mut(&id) {
                        entry.taken = entry.taken.saturating_sub(piece.data.len() as u64);
                    }
                    busy(shared, waiting, &reason);
                    return;
                }
                acknowledge(shared, now, waiting);
                match self.entries.get_mut(&id) {
                    Some(entry) if entry.wants(piece.seq) => {
                        entry.pieces.insert(piece.seq, piece);
                        if let Some((sender, end)) = entry.receipt_due.filter(|_| entry.is_whole()) {
                            entry.receipt_due = None;
                            shared.receipt(now, sender, end, None);
                        }
                    }
                    // It was closed or forgotten while this was being written.
                    _ => shared.commit_lazily(vec![delete_piece(&id, piece.seq)]),
                }
                self.advance_reply(shared, id);
            }
            OutboxThen::Decided { told } => shared.out.push(*told),
            OutboxThen::Marked { job, mark } => shared.out.push(Effect::WriteReply { job, mark }),
            OutboxThen::Written { id } => {
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.replying = false;
                }
                self.advance_reply(shared, id);
            }
        }
    }

    fn accept(&mut self, shared: &mut Shared, now: Timestamp, id: MessageId, row: OutboxRow) {
        let to = audience(row.to);
        shared.at(row.expires, Timer::GiveUp(id));
        self.entries.insert(id, Entry::new(row, false));
        shared.owe(to, Item::Message(id));
        self.end_if_gone(shared, now, id);
    }

    /// The signed request, for sending.
    pub fn envelope(&mut self, id: &MessageId) -> Option<bytes::Bytes> {
        let entry = self.entries.get_mut(id).filter(|e| e.row.outcome.is_none())?;
        entry.sent = true;
        Some(entry.row.envelope.clone())
    }

    pub fn cancel_envelope(
        &self,
        shared: &Shared,
        now: Timestamp,
        id: &MessageId,
    ) -> Option<(MessageId, bytes::Bytes)> {
        let row = &self.entries.get(id)?.row;
        let body = Body {
            v: VERSION,
            crit: Vec::new(),
            id: id.of_answer("cancel", 0),
            from: shared.me,
            to: audience(row.to),
            issued: now,
            expires: Some(row.expires),
            order: None,
            fence: None,
            payload: Payload::Cancel(Cancel { re: *id, run: None }),
        };
        Some((body.id, shared.seal(&body)))
    }

    pub fn audience(&self, id: &MessageId) -> Option<Audience> {
        self.entries.get(id).map(|entry| audience(entry.row.to))
    }

    /// What the peer at the other end of the link said to one of our requests.
    pub fn verdict(
        &mut self,
        shared: &mut Shared,
        now: Timestamp,
        peer: KeyId,
        id: MessageId,
        verdict: Verdict,
    ) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let to = audience(entry.row.to);
        let by_audience = peer == entry.row.to || entry.row.to == HUB_ROLE;
        match verdict {
            Verdict::Busy { retry_ms, .. } => {
                let wait = std::time::Duration::from_millis(retry_ms.clamp(50, 600_000));
                shared.park_busy(now + wait, to, Item::Message(id));
            }
            Verdict::Accepted | Verdict::Held if !entry.row.command => {
                shared.settle(to, Item::Message(id));
                self.end(shared, now, id, Outcome::Sent, false);
            }
            Verdict::Accepted if by_audience => self.accepted(shared, now, id),
            Verdict::Accepted | Verdict::Held => shared.park_held(now, to, Item::Message(id)),
            Verdict::Refused(why) => self.refused(shared, now, id, why, by_audience),
        }
    }

    /// The receiver has it on its disk.
    pub fn accepted(&mut self, shared: &mut Shared, now: Timestamp, id: MessageId) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        shared.settle(audience(entry.row.to), Item::Message(id));
        if !entry.row.command {
            // No end will follow.
            self.end(shared, now, id, Outcome::Sent, false);
            return;
        }
        if entry.row.outcome.is_none() && !entry.row.accepted && entry.end_token.is_none() {
            entry.row.accepted = true;
            let op = record::put(Table::Outbox, record::message_key(&id), &entry.row);
            // Lost in a crash, it is asked again and answered again.
            shared.commit_lazily(vec![op]);
        }
    }

    /// The receiver, or a relay on the way, will never take it.
    pub fn refused(
        &mut self,
        shared: &mut Shared,
        now: Timestamp,
        id: MessageId,
        why: Rejection,
        by_audience: bool,
    ) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        shared.settle(audience(entry.row.to), Item::Message(id));
        if (entry.row.accepted && by_audience) || entry.end_token.is_some() {
            return;
        }
        let outcome = match why {
            Rejection::UnknownNode if entry.row.accepted => Outcome::Lost,
            why => Outcome::of_refusal(why),
        };
        self.end(shared, now, id, outcome, !by_audience);
    }

    /// The node is gone from the fleet: what it accepted is lost, what it did not cannot be delivered.
    pub fn node_gone(&mut self, shared: &mut Shared, now: Timestamp, key: KeyId) {
        let ids: Vec<_> = self.entries.iter().filter(|(_, e)| e.row.to == key).map(|(id, _)| *id).collect();
        for id in ids {
            self.end_if_gone(shared, now, id);
        }
    }

    fn end_if_gone(&mut self, shared: &mut Shared, now: Timestamp, id: MessageId) {
        let Some(entry) = self.entries.get(&id) else {
            return;
        };
        // An end that is being written may still be refused for want of space: then this is looked at again.
        if entry.row.closed || entry.end_token.is_some() || !shared.is_gone(audience(entry.row.to)) {
            return;
        }
        if entry.row.outcome.is_some() {
            self.close_without(shared, id);
            return;
        }
        let outcome = if entry.row.accepted {
            Outcome::Lost
        } else {
            Outcome::Undeliverable("its node was removed from the fleet".into())
        };
        self.end(shared, now, id, outcome, false);
    }

    /// The receiver is gone, and what it had not sent yet with it: the reply is made of what is here.
    fn close_without(&mut self, shared: &mut Shared, id: MessageId) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let mut ops = Vec::new();
        if entry.row.provisional {
            // Nothing will supersede it any more.
            entry.row.closed = true;
            self.closed.push_back(id);
            ops.extend(std::mem::take(&mut entry.pieces).keys().map(|seq| delete_piece(&id, *seq)));
        } else if !entry.is_whole() {
            let mut last = entry.row.written;
            while entry.pieces.contains_key(&(last + 1)) {
                last += 1;
            }
            entry.row.last_seq = Some(last);
        } else {
            return;
        }
        ops.push(record::put(Table::Outbox, record::message_key(&id), &entry.row));
        shared.commit_lazily(ops);
        self.advance_reply(shared, id);
    }

    /// Time is up.
    pub fn give_up(&mut self, shared: &mut Shared, now: Timestamp, id: MessageId) {
        let Some(entry) = self.entries.get(&id) else {
            return;
        };
        if entry.row.outcome.is_some() || entry.row.accepted || entry.end_token.is_some() {
            return;
        }
        let outcome = match entry.row.attempts {
            Some(n) => Outcome::Undeliverable(format!("no acknowledgement after {n} attempts")),
            None => Outcome::Expired,
        };
        let provisional = entry.sent;
        shared.settle(audience(entry.row.to), Item::Message(id));
        self.end(shared, now, id, outcome, provisional);
    }

    pub fn withdraw(&mut self, shared: &mut Shared, now: Timestamp, ticket: u64, id: MessageId) {
        let refusal = match self.entries.get(&id) {
            None => Some(Refusal::NoSuchMessage(id)),
            Some(Entry { row: OutboxRow { outcome: Some(outcome), .. }, .. }) => {
                Some(Refusal::HasEnded(outcome.clone()))
            }
            Some(entry) if entry.end_token.is_some() => {
                Some(Refusal::Storage("its end has come and is being written".into()))
            }
            Some(_) => None,
        };
        if let Some(refusal) = refusal {
            shared.out.push(Effect::Answered { ticket, result: Err(refusal) });
            return;
        }
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        entry.row.withdrawn = true;
        if entry.sent {
            let op = record::put(Table::Outbox, record::message_key(&id), &entry.row);
            let then = Then::Outbox(OutboxThen::Withdrawn { ticket, id });
            shared.commit(Class::Owed { release: 0 }, vec![op], then);
        } else {
            shared.settle(audience(entry.row.to), Item::Message(id));
            self.end(shared, now, id, Outcome::Cancelled, false);
            let then = Then::Outbox(OutboxThen::Withdrawn { ticket, id });
            shared.commit(Class::Owed { release: 0 }, Vec::new(), then);
        }
    }

    /// The receiver's end arrived.
    pub fn received_end(
        &mut self,
        shared: &mut Shared,
        now: Timestamp,
        from: KeyId,
        mut end: End,
        waiting: Waiting,
    ) {
        let Some(entry) = self.entries.get_mut(&end.re).filter(|entry| entry.row.to == from) else {
            // Of a message that is no longer known here: it can be let go of.
            acknowledge(shared, now, vec![waiting]);
            return;
        };
        if let Some(token) = entry.end_token {
            if let Some(Then::Outbox(OutboxThen::Ended { waiting: all, .. })) = shared.waiting_mut(token) {
                all.push(waiting);
            }
            return;
        }
        if entry.row.closed || (entry.row.outcome.is_some() && !entry.row.provisional) {
            self.acknowledge_end(shared, now, end.re, vec![waiting]);
            return;
        }
        let id = end.re;
        let mut row = entry.row.clone();
        row.accepted = true;
        row.outcome = Some(end.outcome.clone());
        row.provisional = false;
        end.last_seq = end.last_seq.min(entry.most_pieces());
        end.tail = new_pieces(entry, &end);
        row.last_seq = Some(end.last_seq);
        row.envelope = bytes::Bytes::new();
        row.closed = row.reply.is_none();
        let mut ops = vec![record::put(Table::Outbox, record::message_key(&id), &row)];
        for piece in &end.tail {
            let key = record::reply_key(&id, piece.seq);
            ops.push(record::put(Table::Replies, key, &ReplyRow { piece: piece.clone() }));
        }
        let then = OutboxThen::Ended { row: Box::new(row), end: Box::new(end), waiting: vec![waiting] };
        entry.end_token = Some(shared.commit(Class::New { reserve: 0 }, ops, Then::Outbox(then)));
    }

    fn end_stored(
        &mut self,
        shared: &mut Shared,
        now: Timestamp,
        row: OutboxRow,
        end: End,
        waiting: Vec<Waiting>,
        result: Result<(), String>,
    ) {
        let id = end.re;
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        entry.end_token = None;
        if let Err(reason) = result {
            let cut: usize = end.tail.iter().map(|piece| piece.data.len()).sum();
            entry.taken = entry.taken.saturating_sub(cut as u64);
            busy(shared, waiting, &reason);
            shared.at(entry.row.expires.max(now), Timer::GiveUp(id));
            self.end_if_gone(shared, now, id);
        } else {
            for piece in end.tail {
                // One that came alone meanwhile is here already.
                if entry.wants(piece.seq) {
                    entry.pieces.insert(piece.seq, piece);
                }
            }
            let told = self.note_end(shared, now, id, row);
            shared.out.extend(told);
            self.acknowledge_end(shared, now, id, waiting);
            self.end_if_gone(shared, now, id);
            let mut ops = Vec::new();
            self.forget_history(shared, &mut ops);
            if !ops.is_empty() {
                shared.commit_lazily(ops);
            }
        }
        let put_off = self.entries.get_mut(&id).map(|entry| std::mem::take(&mut entry.put_off));
        for step in put_off.unwrap_or_default() {
            match step {
                ReplyStep::Planned { upto, mark } => self.reply_planned(shared, id, upto, mark),
                ReplyStep::Written { upto } => self.reply_written(shared, id, upto),
            }
        }
        self.advance_reply(shared, id);
    }

    /// Says that the end is here, as far as that is safe: it stands for all output before it, so while some of
    /// that is missing only a relay may let go of its copy, not the receiver.
    fn acknowledge_end(&mut self, shared: &mut Shared, now: Timestamp, id: MessageId, waiting: Vec<Waiting>) {
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| !entry.is_whole()) else {
            acknowledge(shared, now, waiting);
            return;
        };
        for (peer, end, sender) in waiting {
            match sender {
                Some(sender) => {
                    entry.receipt_due = Some((sender, end));
                    shared.ack(peer, end, Verdict::Accepted);
                }
                None => {
                    let reason = "output that belongs before it has not come yet".into();
                    shared.ack(peer, end, Verdict::Busy { reason, retry_ms: OVERTOOK_RETRY_MS });
                }
            }
        }
    }

    /// An end that this node decides alone.
    fn end(
        &mut self,
        shared: &mut Shared,
        now: Timestamp,
        id: MessageId,
        outcome: Outcome,
        provisional: bool,
    ) {
        let Some(entry) = self.entries.get(&id) else {
            return;
        };
        if entry.row.closed || (entry.row.outcome.is_some() && !entry.row.provisional) {
            return;
        }
        let mut row = entry.row.clone();
        row.outcome = Some(outcome);
        row.provisional = provisional;
        row.envelope = bytes::Bytes::new();
        row.closed = !provisional;
        let mut ops = vec![record::put(Table::Outbox, record::message_key(&id), &row)];
        if row.closed {
            ops.extend(entry.pieces.keys().map(|seq| delete_piece(&id, *seq)));
        }
        let Some(told) = self.note_end(shared, now, id, row).map(Box::new) else {
            return;
        };
        self.forget_history(shared, &mut ops);
        shared.commit(Class::Owed { release: 0 }, ops, Then::Outbox(OutboxThen::Decided { told }));
    }

    /// Brings memory to the row that ends a message. What it returns may be told once the row is on disk.
    fn note_end(
        &mut self,
        shared: &mut Shared,
        now: Timestamp,
        id: MessageId,
        row: OutboxRow,
    ) -> Option<Effect> {
        let entry = self.entries.get_mut(&id)?;
        if entry.row.outcome.is_none() {
            self.open -= 1;
            self.open_bytes = self.open_bytes.saturating_sub(entry.row.envelope.len());
        }
        if row.closed && !entry.row.closed {
            self.closed.push_back(id);
            entry.pieces.clear();
        }
        entry.row = row;
        let to = audience(entry.row.to);
        shared.not_at(entry.row.expires, Timer::GiveUp(id));
        shared.settle(to, Item::Message(id));
        shared.settle(to, Item::Cancel(id));
        Some(Effect::Ended {
            id,
            to: entry.row.to_name.clone(),
            method: entry.row.method.clone(),
            outcome: entry.row.outcome.clone().unwrap_or(Outcome::Sent),
            provisional: entry.row.provisional,
            after: now.since(entry.row.created),
        })
    }

    fn forget_history(&mut self, shared: &Shared, ops: &mut Vec<Op>) {
        while self.closed.len() > shared.limits.history {
            if let Some(id) = self.closed.pop_front() {
                self.entries.remove(&id);
                ops.push(record::delete(Table::Outbox, record::message_key(&id)));
            }
        }
    }

    /// Closes what ended so long ago that nothing more can come of it: provisional ends that no receiver's end
    /// supersedes any more, and replies to a receiver that said of more output than it ever sent.
    pub fn sweep(&mut self, shared: &mut Shared, now: Timestamp) {
        let over = crate::envelope::MAX_LIFETIME + super::CLOCK_SLACK;
        let mut ops = Vec::new();
        for (id, entry) in &mut self.entries {
            let ended = entry.row.outcome.is_some() && entry.end_token.is_none() && !entry.replying;
            if ended && !entry.row.closed && now.since(entry.row.expires) > over {
                entry.row.closed = true;
                self.closed.push_back(*id);
                ops.extend(std::mem::take(&mut entry.pieces).keys().map(|seq| delete_piece(id, *seq)));
                ops.push(record::put(Table::Outbox, record::message_key(id), &entry.row));
            }
        }
        self.forget_history(shared, &mut ops);
        if !ops.is_empty() {
            shared.commit_lazily(ops);
        }
    }

    /// Of what was sent to a node: what goes to the hub role is a node's report of such a message.
    pub fn status(&self, which: Which) -> Vec<MessageStatus> {
        let status = |(id, entry): (&MessageId, &Entry)| MessageStatus {
            id: *id,
            held_for: None,
            to: entry.row.to,
            method: entry.row.method.clone(),
            created: entry.row.created,
            expires: Some(entry.row.expires),
            accepted: entry.row.accepted,
            outcome: entry.row.outcome.clone(),
            provisional: entry.row.provisional,
        };
        let is_to_node = |(_, entry): &(&MessageId, &Entry)| entry.row.to != HUB_ROLE;
        match which {
            Which::One(id) => self.entries.get_key_value(&id).map(status).into_iter().collect(),
            Which::Newest(most) => {
                self.entries.iter().rev().filter(is_to_node).take(most).map(status).collect()
            }
        }
    }
}

fn delete_piece(id: &MessageId, seq: u64) -> Op {
    record::delete(Table::Replies, record::reply_key(id, seq))
}

/// The hub role is addressed as such: whichever hub is linked.
fn audience(to: KeyId) -> Audience {
    if to == HUB_ROLE { Audience::Hubs } else { Audience::Node(to) }
}

fn acknowledge(shared: &mut Shared, now: Timestamp, waiting: Vec<Waiting>) {
    for (peer, id, sender) in waiting {
        shared.ack(peer, id, Verdict::Accepted);
        if let Some(sender) = sender {
            shared.receipt(now, sender, id, None);
        }
    }
}

fn busy(shared: &mut Shared, waiting: Vec<Waiting>, reason: &str) {
    for (peer, id, _) in waiting {
        shared.ack(peer, id, Verdict::Busy { reason: reason.to_owned(), retry_ms: BUSY_RETRY_MS });
    }
}

/// The pieces of an end that have not come before, for a message whose output someone wants.
fn new_pieces(entry: &mut Entry, end: &End) -> Vec<Piece> {
    let new = |piece: &&Piece| piece.seq <= end.last_seq && entry.wants(piece.seq);
    let new: Vec<Piece> = end.tail.iter().filter(new).cloned().collect();
    new.into_iter().map(|piece| entry.cut(piece)).collect()
}

fn row_of(shared: &Shared, now: Timestamp, draft: &Draft) -> OutboxRow {
    let body = Body {
        v: VERSION,
        crit: Vec::new(),
        id: draft.id,
        from: shared.me,
        to: audience(draft.to),
        issued: now,
        expires: Some(draft.expires),
        order: None,
        fence: None,
        payload: Payload::Request(draft.request.clone()),
    };
    OutboxRow {
        to: draft.to,
        to_name: draft.to_name.clone(),
        method: draft.request.method.clone(),
        command: draft.request.command,
        created: now,
        expires: draft.expires,
        envelope: shared.seal(&body),
        attempts: draft.attempts,
        output_limit: Some(draft.request.output_limit),
        reply: draft.reply.clone(),
        reply_whole: draft.reply_whole,
        accepted: false,
        withdrawn: false,
        outcome: None,
        provisional: false,
        last_seq: None,
        written: 0,
        writing: None,
        closed: false,
    }
}

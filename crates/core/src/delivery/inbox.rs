//! Messages that this node accepted: executed at most once, answered until the origin has the answer.
//!
//! ```text
//!          commit            slot free, commit           commit            origin's word
//! arrives ───────▶ accepted ──────────────────▶ started ───────▶ ended ─────────────────▶ answers dropped
//!                    │  (one commit for both when a slot is free)   ▲     (the row stays against duplicates)
//!                    ├── cancelled, expired ────────────────────────┤
//!                    crash while started: leftovers are ended, then ┘ `interrupted`, or again if idempotent
//! ```

mod cancel;
mod turns;

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};

use self::cancel::is_tombstone;
use self::turns::Turns;
use super::answers::Answers;
use super::record::{self, END_NUMBER, InboxRow, InboxState};
use super::shared::{Shared, Then, Timer};
use super::{CLOCK_SLACK, END_BYTES, Effect, ExitReport, HUB_ROLE, Incoming, Key, Limits, TAIL_BYTES};
use crate::envelope::{Body, End, Envelope, MAX_LIFETIME, Output, Payload, Piece, Request, Stream};
use crate::frame::Verdict;
use crate::id::{KeyId, MessageId};
use crate::journal::{Class, Op, Table};
use crate::outcome::{Outcome, Rejection};
use crate::time::Timestamp;

/// One piece of output on the wire: far below a frame, large enough that its signature costs little.
const PIECE_BYTES: usize = 32 << 10;

/// A node whose queue or disk is full asks senders to come again after this.
const BUSY_RETRY_MS: u64 = 2_000;

/// Refusals remembered, so that what was refused once stays refused though rules change meanwhile.
const REFUSALS: usize = 4_096;

#[derive(Debug)]
struct Entry {
    row: InboxRow,
    /// Decoded while it is wanted: from acceptance to the end.
    request: Option<Box<Request>>,
    /// The batch that accepts it is under way.
    accepting: Option<u64>,
    running: bool,
    /// A crash may have left it running; the word that it does not is awaited.
    leftover: bool,
    /// Journal space that is still kept for it. The row keeps what it began with: what is stored of its
    /// answers is subtracted anew at each start.
    reserved: u64,
    /// The batch of its end is under way.
    ending: bool,
    /// Output that is not an answer of its own yet.
    buffer: Vec<Piece>,
    buffered: usize,
    /// How much of that still holds the method back, until it is on disk.
    unpaid: usize,
    next_seq: u64,
}

impl Entry {
    fn new(row: InboxRow, request: Option<Box<Request>>, next_seq: u64) -> Self {
        Self {
            reserved: row.reserved,
            row,
            request,
            accepting: None,
            running: false,
            leftover: false,
            ending: false,
            buffer: Vec::new(),
            buffered: 0,
            unpaid: 0,
            next_seq,
        }
    }

    fn is_in_line(&self, limits: &Limits) -> bool {
        self.request.as_ref().is_some_and(|request| limits.is_one_at_a_time(&request.method))
    }
}

#[derive(Debug, Default)]
pub(super) struct Inbox {
    entries: BTreeMap<Key, Entry>,
    pub answers: Answers,
    turns: Turns,
    open: usize,
    open_bytes: usize,
    refused: VecDeque<Key>,
    /// Requests that came again since the start.
    repeated: u64,
    tombstones: usize,
    tombstones_of: BTreeMap<KeyId, usize>,
    /// Messages accepted over this journal's life.
    mark: u64,
    /// The same, as far as it is on disk: all that a hello may claim.
    durable_mark: u64,
}

#[derive(Debug)]
pub(super) enum InboxThen {
    Accepted {
        key: Key,
        id: MessageId,
        /// Who brought it, and whether that is a relay, so that its origin must be told by a receipt.
        peers: Vec<(KeyId, bool)>,
        started: bool,
        mark: u64,
    },
    Started {
        key: Key,
    },
    Tombstone {
        key: Key,
        peer: KeyId,
        id: MessageId,
    },
    /// What the first run of a message has taken of its room is reserved again.
    RoomAgain {
        key: Key,
        bytes: u64,
    },
    /// That it was taken back is on disk.
    CancelNoted {
        key: Key,
        peer: KeyId,
        id: MessageId,
    },
    Pieces {
        key: Key,
        numbers: Vec<u64>,
        bytes: usize,
    },
    Ended {
        key: Key,
        method: String,
        outcome: Outcome,
    },
}

impl Inbox {
    pub fn set_mark(&mut self, mark: u64) {
        self.mark = mark;
        self.durable_mark = mark;
    }

    pub fn repeated(&self) -> u64 {
        self.repeated
    }

    pub fn accepted_ever(&self) -> u64 {
        self.durable_mark
    }

    pub fn open_count(&self) -> usize {
        self.open
    }

    pub fn running_count(&self) -> usize {
        self.turns.running()
    }

    /// After all answers were loaded.
    pub fn load(&mut self, shared: &mut Shared, key: Key, row: InboxRow) {
        let envelope = Envelope::decode(&row.envelope).ok().and_then(|envelope| envelope.trusted_body().ok());
        let request = match envelope {
            Some(Body { payload: Payload::Request(request), .. }) => Some(Box::new(request)),
            _ => None,
        };
        let next_seq = self.answers.next_seq(key);
        match row.state {
            InboxState::Ended => {}
            InboxState::Refused => self.refused.push_back(key),
            InboxState::Accepted | InboxState::Started { .. } => {
                self.open += 1;
                self.open_bytes += row.envelope.len();
            }
        }
        if is_tombstone(&row) {
            self.count_tombstone(&key);
        }
        let state = row.state;
        let mut entry = Entry::new(row, request, next_seq);
        let in_line = entry.is_in_line(&shared.limits);
        // The end's own share is never used up by output.
        let kept = entry.reserved.saturating_sub(self.answers.stored(key));
        entry.reserved = kept.max(END_BYTES.min(entry.reserved));
        entry.leftover = matches!(state, InboxState::Started { .. });
        self.entries.insert(key, entry);
        match state {
            InboxState::Accepted => {
                shared.at(self.entries[&key].row.expires, Timer::StartBy(key));
                self.turns.wait(key, in_line);
            }
            InboxState::Started { .. } => {
                self.turns.begin(key, in_line);
                shared.out.push(Effect::KillLeftovers { key });
            }
            InboxState::Ended | InboxState::Refused => {}
        }
    }

    /// Journal space that is reserved for what is accepted.
    pub fn reserved(&self) -> u64 {
        self.entries
            .values()
            .filter(|e| matches!(e.row.state, InboxState::Accepted | InboxState::Started { .. }))
            .map(|e| e.reserved)
            .sum()
    }

    /// A request arrived; its signature is good and it is addressed to this node.
    pub fn request(&mut self, shared: &mut Shared, now: Timestamp, incoming: Incoming, request: Request) {
        let body = &incoming.verified.body;
        let (peer, sender, id) = (incoming.peer, body.from, body.id);
        let key = Key { origin: if request.run.is_some() { HUB_ROLE } else { sender }, id };
        let relayed = peer != sender && request.run.is_none();
        let digest = match request.run {
            // Another hub that took the run over signs the same request with its own key.
            Some(_) => digest_of(&request),
            None => incoming.verified.envelope.digest(),
        };
        // Duplicates first: what was accepted must be acknowledged again, however late it comes again.
        if let Some(entry) = self.entries.get_mut(&key) {
            self.repeated += u64::from(!is_tombstone(&entry.row));
            match entry.row.state {
                InboxState::Refused => {
                    self.refuse(shared, now, key, peer, sender, relayed, &request, Rejection::Denied, None);
                }
                _ if !is_tombstone(&entry.row) && entry.row.digest != digest => {
                    shared.ack(peer, id, Verdict::Refused(Rejection::IdReused));
                    if relayed {
                        shared.receipt(now, sender, id, Some(Rejection::IdReused));
                    }
                }
                _ if entry.accepting.is_some() => {
                    // Whoever brought it again is told together with the first.
                    let then = entry.accepting.and_then(|token| shared.waiting_mut(token));
                    if let Some(Then::Inbox(InboxThen::Accepted { peers, .. })) = then {
                        peers.push((peer, relayed));
                    } else {
                        let reason = "its cancel came first and is being written".into();
                        shared.ack(peer, id, Verdict::Busy { reason, retry_ms: 100 });
                    }
                }
                _ => self.acknowledge(shared, now, key, peer, relayed, sender),
            }
            return;
        }
        let refusal = match incoming.judged {
            // Before anything else, so that what is remembered below is never by the word of who may say nothing.
            Err(Rejection::Denied) => Some(Rejection::Denied),
            _ if body.expires.is_none_or(|end| end.since(now) > MAX_LIFETIME + CLOCK_SLACK) => {
                Some(Rejection::LivesTooLong)
            }
            _ if body.expires.is_some_and(|end| now >= end) => Some(Rejection::Expired),
            Err(why) => Some(why),
            Ok(()) if request.output_limit > shared.limits.output_limit => {
                Some(Rejection::BadArguments(format!(
                    "an output limit of {} bytes; this node allows {}",
                    request.output_limit, shared.limits.output_limit
                )))
            }
            Ok(()) => None,
        };
        if let Some(why) = refusal {
            self.refuse(shared, now, key, peer, sender, relayed, &request, why, Some(digest));
            return;
        }
        let size = incoming.data.envelope.len();
        if self.open >= shared.limits.inbox_messages || self.open_bytes + size > shared.limits.inbox_bytes {
            let reason = format!("{} messages wait on this node", self.open);
            shared.ack(peer, id, Verdict::Busy { reason, retry_ms: BUSY_RETRY_MS });
            return;
        }
        let reserved = request.output_limit + END_BYTES;
        let in_line = shared.limits.is_one_at_a_time(&request.method);
        let started = self.turns.has_room(shared.limits.running, in_line);
        let row = InboxRow {
            digest,
            expires: body.expires.unwrap_or(now),
            state: if started { InboxState::Started { at: now } } else { InboxState::Accepted },
            sender,
            relayed,
            envelope: incoming.data.envelope,
            reserved,
            cancelled: false,
            interrupted: false,
        };
        self.mark += 1;
        self.open += 1;
        self.open_bytes += size;
        if started {
            self.turns.begin(key, in_line);
        } else {
            self.turns.coming(in_line);
        }
        let ops = vec![
            record::put(Table::Inbox, record::inbox_key(&key), &row),
            Op::Put {
                table: Table::Meta,
                key: Bytes::from_static(record::META_MARK),
                value: Bytes::copy_from_slice(&self.mark.to_be_bytes()),
            },
        ];
        self.entries.insert(key, Entry::new(row, Some(Box::new(request)), 1));
        let then = InboxThen::Accepted { key, id, peers: vec![(peer, relayed)], started, mark: self.mark };
        let token = shared.commit(Class::New { reserve: reserved }, ops, Then::Inbox(then));
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.accepting = Some(token);
        }
    }

    pub fn committed(
        &mut self,
        shared: &mut Shared,
        now: Timestamp,
        then: InboxThen,
        result: Result<(), String>,
    ) {
        match then {
            InboxThen::Accepted { key, id, peers, started, mark } => match result {
                Ok(()) => {
                    self.durable_mark = self.durable_mark.max(mark);
                    self.accepted(shared, now, key, &peers, started);
                }
                Err(reason) => {
                    // Nothing of it was kept; neither does memory.
                    let mut in_line = false;
                    if let Some(entry) = self.entries.remove(&key) {
                        in_line = entry.is_in_line(&shared.limits);
                        self.open -= 1;
                        self.open_bytes -= entry.row.envelope.len();
                    }
                    match started {
                        true => self.turns.end(&key),
                        false => self.turns.came(in_line),
                    }
                    for (peer, _) in peers {
                        let verdict = Verdict::Busy { reason: reason.clone(), retry_ms: BUSY_RETRY_MS };
                        shared.ack(peer, id, verdict);
                    }
                    self.start_waiting(shared, now);
                }
            },
            InboxThen::RoomAgain { key, bytes } => match result {
                Ok(()) => {
                    if let Some(entry) = self.entries.get_mut(&key) {
                        entry.reserved += bytes;
                        self.turns.wait_first(key, entry.is_in_line(&shared.limits));
                    }
                    self.start_waiting(shared, now);
                }
                Err(_) => {
                    let wait = std::time::Duration::from_millis(BUSY_RETRY_MS);
                    shared.at(now + wait, Timer::RunAgain(key));
                }
            },
            InboxThen::Started { key } => self.begin(shared, now, key),
            InboxThen::Tombstone { key, peer, id } => match result {
                Ok(()) => {
                    if let Some(entry) = self.entries.get_mut(&key) {
                        entry.accepting = None;
                    }
                    shared.ack(peer, id, Verdict::Accepted);
                    self.answers.owe(shared, key, END_NUMBER);
                }
                Err(reason) => {
                    self.entries.remove(&key);
                    self.uncount_tombstone(&key);
                    self.answers.forget(key, END_NUMBER);
                    shared.ack(peer, id, Verdict::Busy { reason, retry_ms: BUSY_RETRY_MS });
                }
            },
            InboxThen::CancelNoted { key, peer, id } => {
                shared.ack(peer, id, Verdict::Accepted);
                self.cancel_noted(shared, now, key);
            }
            InboxThen::Pieces { key, numbers, bytes } => {
                for number in numbers {
                    self.answers.owe(shared, key, number);
                }
                shared.out.push(Effect::Room { key, bytes });
            }
            InboxThen::Ended { key, method, outcome } => {
                shared.out.push(Effect::Served { key, method, outcome });
                if let Some(entry) = self.entries.get_mut(&key) {
                    entry.ending = false;
                }
                self.answers.owe(shared, key, END_NUMBER);
                self.start_waiting(shared, now);
            }
        }
    }

    fn accepted(
        &mut self,
        shared: &mut Shared,
        now: Timestamp,
        key: Key,
        peers: &[(KeyId, bool)],
        started: bool,
    ) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        entry.accepting = None;
        let (sender, expires, cancelled) = (entry.row.sender, entry.row.expires, entry.row.cancelled);
        let in_line = entry.is_in_line(&shared.limits);
        for (peer, relayed) in peers {
            self.acknowledge(shared, now, key, *peer, *relayed, sender);
        }
        if started {
            self.begin(shared, now, key);
            return;
        }
        self.turns.came(in_line);
        if cancelled {
            let report = ExitReport::without_output(Outcome::Cancelled);
            self.end(shared, now, key, report, None);
        } else {
            self.turns.wait(key, in_line);
            shared.at(expires, Timer::StartBy(key));
            self.start_waiting(shared, now);
        }
    }

    /// Says that the message is on this disk: to the peer, and by a receipt to an origin behind a relay.
    fn acknowledge(
        &mut self,
        shared: &mut Shared,
        now: Timestamp,
        key: Key,
        peer: KeyId,
        relayed: bool,
        sender: KeyId,
    ) {
        shared.ack(peer, key.id, Verdict::Accepted);
        let Some(entry) = self.entries.get(&key) else {
            return;
        };
        let command = entry.request.as_ref().is_none_or(|request| request.command);
        if relayed && command {
            shared.receipt(now, sender, key.id, None);
        }
        self.answers.offer_again(shared, key);
    }

    #[expect(clippy::too_many_arguments, reason = "one caller each for a first and a repeated refusal")]
    fn refuse(
        &mut self,
        shared: &mut Shared,
        now: Timestamp,
        key: Key,
        peer: KeyId,
        sender: KeyId,
        relayed: bool,
        request: &Request,
        why: Rejection,
        remember: Option<[u8; 16]>,
    ) {
        shared.ack(peer, key.id, Verdict::Refused(why.clone()));
        if relayed && request.command {
            shared.receipt(now, sender, key.id, Some(why.clone()));
        }
        // Rules and methods may change: a copy that is still under way must not run after the origin was
        // told that it never will. Expiry needs no memory: it stays expired. Nor may a node without the hub
        // role occupy the id of a run's message, which it can compute, before the hub's own copy is here.
        let pretender = key.origin == HUB_ROLE && why == Rejection::Denied;
        let Some(digest) = remember.filter(|_| why != Rejection::Expired && !pretender) else {
            return;
        };
        let row = InboxRow {
            digest,
            expires: now + MAX_LIFETIME,
            state: InboxState::Refused,
            sender,
            relayed,
            envelope: Bytes::new(),
            reserved: 0,
            cancelled: false,
            interrupted: false,
        };
        let mut ops = vec![record::put(Table::Inbox, record::inbox_key(&key), &row)];
        self.entries.insert(key, Entry::new(row, None, 1));
        self.refused.push_back(key);
        if self.refused.len() > REFUSALS
            && let Some(oldest) = self.refused.pop_front()
        {
            self.entries.remove(&oldest);
            ops.push(record::delete(Table::Inbox, record::inbox_key(&oldest)));
        }
        shared.commit_lazily(ops);
    }

    /// Starts what waits, while there are slots.
    pub fn start_waiting(&mut self, shared: &mut Shared, now: Timestamp) {
        while let Some((key, in_line)) = self.turns.next(shared.limits.running) {
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            // A cancel that was on disk before a crash, or a time that ran out in it.
            let over = if entry.row.cancelled {
                Some(Outcome::Cancelled)
            } else {
                (now >= entry.row.expires).then_some(Outcome::Expired)
            };
            if let Some(outcome) = over {
                self.end(shared, now, key, ExitReport::without_output(outcome), None);
                continue;
            }
            entry.row.state = InboxState::Started { at: now };
            self.turns.begin(key, in_line);
            let op = record::put(Table::Inbox, record::inbox_key(&key), &entry.row);
            shared.commit(Class::Owed { release: 0 }, vec![op], Then::Inbox(InboxThen::Started { key }));
        }
    }

    /// `started` is on disk: begin, unless its time ran out or it was taken back meanwhile.
    fn begin(&mut self, shared: &mut Shared, now: Timestamp, key: Key) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        let outcome = if entry.row.cancelled {
            Some(Outcome::Cancelled)
        } else if now >= entry.row.expires {
            Some(Outcome::Expired)
        } else if entry.request.is_none() {
            Some(Outcome::Failed("its stored request cannot be read".into()))
        } else {
            None
        };
        if let Some(outcome) = outcome {
            self.turns.end(&key);
            let report = ExitReport::without_output(outcome);
            self.end(shared, now, key, report, None);
            return;
        }
        entry.running = true;
        let request = entry.request.clone().expect("checked above");
        shared.out.push(Effect::Start { key, sender: entry.row.sender, request });
    }

    /// Nothing of a message that a crash interrupted runs any more.
    pub fn leftovers_gone(&mut self, shared: &mut Shared, now: Timestamp, key: Key) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        if !std::mem::take(&mut entry.leftover) {
            return;
        }
        self.turns.end(&key);
        let again = entry.request.as_ref().is_some_and(|request| request.idempotent);
        if again && !entry.row.cancelled && now < entry.row.expires {
            // Output goes on being numbered: what came before the crash stays, as it would in a log.
            entry.row.state = InboxState::Accepted;
            entry.row.interrupted = true;
            shared.at(entry.row.expires, Timer::StartBy(key));
            self.run_again(shared, now, key);
            return;
        }
        let started = match entry.row.state {
            InboxState::Started { at } => Some(at),
            _ => None,
        };
        let report = ExitReport::without_output(Outcome::Interrupted);
        self.end(shared, now, key, report, started);
    }

    /// Lets a message run once more, as soon as there is room for all of its output again.
    pub fn run_again(&mut self, shared: &mut Shared, now: Timestamp, key: Key) {
        let Some(entry) = self.entries.get(&key).filter(|entry| entry.row.state == InboxState::Accepted)
        else {
            return;
        };
        if entry.row.cancelled || now >= entry.row.expires {
            self.end(shared, now, key, ExitReport::without_output(Outcome::Interrupted), None);
            return;
        }
        let op = record::put(Table::Inbox, record::inbox_key(&key), &entry.row);
        let missing = entry.row.reserved.saturating_sub(entry.reserved);
        if missing == 0 {
            let in_line = entry.is_in_line(&shared.limits);
            shared.commit_lazily(vec![op]);
            self.turns.wait_first(key, in_line);
            self.start_waiting(shared, now);
        } else {
            let then = InboxThen::RoomAgain { key, bytes: missing };
            shared.commit(Class::New { reserve: missing }, vec![op], Then::Inbox(then));
        }
    }

    pub fn start_by(&mut self, shared: &mut Shared, now: Timestamp, key: Key) {
        let waits = self.entries.get(&key).is_some_and(|entry| entry.row.state == InboxState::Accepted);
        if waits && self.turns.leave(key) {
            let report = ExitReport::without_output(Outcome::Expired);
            self.end(shared, now, key, report, None);
        }
    }

    pub fn output(&mut self, shared: &mut Shared, now: Timestamp, key: Key, stream: Stream, data: Bytes) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        let Some(request) = entry.request.as_ref().filter(|request| request.command) else {
            // An event is not answered: its output goes nowhere.
            shared.out.push(Effect::Room { key, bytes: data.len() });
            return;
        };
        let streaming = request.stream;
        let bytes = data.len();
        entry.buffered += bytes;
        entry.unpaid += bytes;
        push_piece(&mut entry.buffer, &mut entry.next_seq, stream, data);
        if streaming || entry.buffered > TAIL_BYTES {
            self.flush(shared, now, key);
        } else {
            // It travels with the end: its bound is the buffer, not the disk.
            entry.unpaid = 0;
            shared.out.push(Effect::Room { key, bytes });
        }
    }

    /// Makes the buffered pieces answers of their own.
    fn flush(&mut self, shared: &mut Shared, now: Timestamp, key: Key) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        let (sender, run) = (entry.row.sender, entry.request.as_ref().and_then(|request| request.run));
        let pieces = std::mem::take(&mut entry.buffer);
        entry.buffered = 0;
        let bytes = std::mem::take(&mut entry.unpaid);
        let mut ops = Vec::with_capacity(pieces.len());
        let mut numbers = Vec::with_capacity(pieces.len());
        let mut written = 0;
        for piece in pieces {
            let number = piece.seq;
            let payload = Payload::Output(Output { re: key.id, run, piece });
            let to = record::answers_to(sender, run);
            ops.push(self.answers.add(shared, now, to, key, number, payload));
            written += self.answers.size(key, number);
            numbers.push(number);
        }
        let mut release = 0;
        if let Some(entry) = self.entries.get_mut(&key) {
            release = written.min(entry.reserved.saturating_sub(END_BYTES));
            entry.reserved -= release;
        }
        let then = Then::Inbox(InboxThen::Pieces { key, numbers, bytes });
        shared.commit(Class::Owed { release }, ops, then);
    }

    pub fn exited(&mut self, shared: &mut Shared, now: Timestamp, key: Key, report: ExitReport) {
        let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.running) else {
            return;
        };
        entry.running = false;
        self.turns.end(&key);
        let started = match entry.row.state {
            InboxState::Started { at } => Some(at),
            _ => None,
        };
        self.end(shared, now, key, report, started);
    }

    fn end(
        &mut self,
        shared: &mut Shared,
        now: Timestamp,
        key: Key,
        mut report: ExitReport,
        started: Option<Timestamp>,
    ) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        if entry.row.interrupted
            && matches!(report.outcome, Outcome::Cancelled | Outcome::Expired)
            && started.is_none()
        {
            // It did not start again, but nobody may think that it never did.
            report.outcome = Outcome::Interrupted;
        }
        let request = entry.request.take();
        let sender = entry.row.sender;
        let run = request.as_ref().and_then(|request| request.run);
        let command = request.as_ref().is_none_or(|request| request.command);
        let tail = std::mem::take(&mut entry.buffer);
        let last_seq = entry.next_seq - 1;
        let release = std::mem::take(&mut entry.reserved);
        self.open -= 1;
        self.open_bytes = self.open_bytes.saturating_sub(entry.row.envelope.len());
        shared.not_at(entry.row.expires, Timer::StartBy(key));
        entry.row.state = InboxState::Ended;
        entry.row.envelope = Bytes::new();
        entry.row.reserved = 0;
        entry.ending = true;
        let mut ops = vec![record::put(Table::Inbox, record::inbox_key(&key), &entry.row)];
        let method = request.as_ref().map_or_else(String::new, |request| request.method.clone());
        let outcome = report.outcome.clone();
        if command {
            let end = End {
                re: key.id,
                run,
                outcome: report.outcome,
                last_seq,
                tail,
                started,
                ended: now,
                stdout_bytes: report.stdout_bytes,
                stderr_bytes: report.stderr_bytes,
                truncated: report.truncated,
            };
            let to = record::answers_to(sender, run);
            ops.push(self.answers.add(shared, now, to, key, END_NUMBER, Payload::End(end)));
        }
        shared.commit(Class::Owed { release }, ops, Then::Inbox(InboxThen::Ended { key, method, outcome }));
    }

    /// Rows against duplicates that no valid duplicate can come for any more.
    pub fn sweep(&mut self, shared: &mut Shared, now: Timestamp) {
        let answers = &self.answers;
        let over: Vec<Key> = self
            .entries
            .iter()
            .filter(|(key, entry)| {
                matches!(entry.row.state, InboxState::Ended | InboxState::Refused)
                    && !entry.ending
                    && entry.accepting.is_none()
                    && now > entry.row.expires + CLOCK_SLACK
                    && !answers.any(**key)
            })
            .map(|(key, _)| *key)
            .collect();
        let ops: Vec<Op> = over
            .into_iter()
            .map(|key| {
                let gone = self.entries.remove(&key);
                if gone.is_some_and(|entry| is_tombstone(&entry.row)) {
                    self.uncount_tombstone(&key);
                }
                record::delete(Table::Inbox, record::inbox_key(&key))
            })
            .collect();
        if !ops.is_empty() {
            self.refused.retain(|key| self.entries.contains_key(key));
            shared.commit_lazily(ops);
        }
    }
}

/// Whether a row stands for a message that was taken back before it came.
fn digest_of(request: &Request) -> [u8; 16] {
    let bytes = rmp_serde::to_vec_named(request).expect("a request holds nothing that MessagePack cannot");
    let mut digest = [0; 16];
    digest.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..16]);
    digest
}

/// Appends output, joining it to the last piece where that keeps pieces small in number and bounded in size.
fn push_piece(buffer: &mut Vec<Piece>, next_seq: &mut u64, stream: Stream, mut data: Bytes) {
    if let Some(last) = buffer.last_mut()
        && last.stream == stream
        && last.data.len() + data.len() <= PIECE_BYTES
    {
        let mut joined = BytesMut::with_capacity(last.data.len() + data.len());
        joined.extend_from_slice(&last.data);
        joined.extend_from_slice(&data);
        last.data = joined.freeze();
        return;
    }
    while !data.is_empty() {
        let part = data.split_to(data.len().min(PIECE_BYTES));
        buffer.push(Piece { seq: *next_seq, stream, data: part });
        *next_seq += 1;
    }
}

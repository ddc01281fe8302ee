//! The engine: hands each event to the part that it concerns, and fills peers' windows.

use super::inbox::Inbox;
use super::outbox::Outbox;
use super::record::{self, META_MARK};
use super::relay::Relay;
use super::shared::{Shared, Then, Timer};
use super::window::{Acked, Item};
use super::{Effect, Event, Incoming, Limits, MessageStatus, SWEEP_EVERY, Which};
use crate::envelope::{Audience, Payload, Signer};
use crate::frame::{Ack, Data, Frame, Verdict};
use crate::id::{KeyId, MessageId};
use crate::journal::{Journal, JournalError, Op, Table};
use crate::outcome::Rejection;
use crate::time::Timestamp;

/// Two envelopes of one id to one peer: no accident, so no hurry.
const COLLISION_WAIT: std::time::Duration = std::time::Duration::from_secs(1);

#[derive(Debug)]
pub struct Engine {
    shared: Shared,
    outbox: Outbox,
    inbox: Inbox,
    relay: Relay,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Record(#[from] record::RecordError),
}

/// How much waits where, for metrics and `status`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Queues {
    /// Own messages without an end.
    pub outbox: usize,
    /// Accepted messages without an end.
    pub inbox: usize,
    pub running: usize,
    /// Envelopes held for others.
    pub relay: usize,
}

impl Engine {
    /// Reads a journal and goes on where it stopped. The effects are those of the first turn.
    pub fn open(
        signer: Signer,
        is_hub: bool,
        limits: Limits,
        journal: &mut dyn Journal,
        now: Timestamp,
    ) -> Result<(Self, Vec<Effect>), OpenError> {
        let mut engine = Self {
            shared: Shared::new(signer, is_hub, limits),
            outbox: Outbox::default(),
            inbox: Inbox::default(),
            relay: Relay::default(),
        };
        engine.load(journal)?;
        engine.outbox.resume(&mut engine.shared);
        engine.inbox.start_waiting(&mut engine.shared, now);
        engine.shared.at(now + SWEEP_EVERY, Timer::Sweep);
        // A node is always linked to itself: what it sends to its own name takes the same path as the rest.
        let mut effects = engine.handle(now, Event::LinkUp { peer: engine.shared.me, hub: is_hub });
        effects.extend(engine.handle(now, Event::Tick));
        Ok((engine, effects))
    }

    fn load(&mut self, journal: &mut dyn Journal) -> Result<(), OpenError> {
        let shared = &mut self.shared;
        for (key, value) in rows(journal, Table::Meta)? {
            if key == META_MARK
                && let Ok(bytes) = <[u8; 8]>::try_from(&value[..])
            {
                self.inbox.set_mark(u64::from_be_bytes(bytes));
            }
        }
        for (key, value) in rows(journal, Table::Outbox)? {
            let id = record::read_message_key(Table::Outbox, &key)?;
            self.outbox.load(shared, id, record::decode(Table::Outbox, &value)?);
        }
        let mut useless: Vec<Op> = Vec::new();
        for (key, value) in rows(journal, Table::Replies)? {
            let (id, _) = record::read_reply_key(&key)?;
            let row: record::ReplyRow = record::decode(Table::Replies, &value)?;
            useless.extend(self.outbox.load_piece(id, row.piece));
        }
        // Answers before their messages: the numbering of output goes on after what is there.
        for (key, value) in rows(journal, Table::Answers)? {
            let (key, number) = record::read_answer_key(&key)?;
            let row = record::decode(Table::Answers, &value)?;
            self.inbox.answers.load(shared, key, number, row);
        }
        for (key, value) in rows(journal, Table::Inbox)? {
            let key = record::read_inbox_key(&key)?;
            self.inbox.load(shared, key, record::decode(Table::Inbox, &value)?);
        }
        for (key, value) in rows(journal, Table::Relay)? {
            let key = record::read_relay_key(&key)?;
            self.relay.load(shared, key, record::decode(Table::Relay, &value)?);
        }
        if !useless.is_empty() {
            shared.commit_lazily(useless);
        }
        Ok(())
    }

    /// One turn: the effects are to be carried out in their order.
    pub fn handle(&mut self, now: Timestamp, event: Event) -> Vec<Effect> {
        self.event(now, event);
        while let Some(timer) = self.shared.due(now) {
            self.timer(now, timer);
        }
        for peer in self.shared.take_dirty() {
            self.fill(now, peer);
        }
        std::mem::take(&mut self.shared.out)
    }

    /// When to call again with [`Event::Tick`] at the latest.
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.shared.next_wake()
    }

    /// How many envelopes someone else may put in flight to this peer.
    pub fn room(&self, peer: &KeyId) -> usize {
        self.shared.windows.room(peer)
    }

    /// Counts an envelope that someone else sends into the peer's window. Its verdict comes back as
    /// [`Effect::Lent`]. `false` if one of this id is in flight already: then it must not be sent now.
    pub fn lend(&mut self, peer: &KeyId, id: MessageId, bytes: usize) -> bool {
        self.shared.windows.lend(peer, id, bytes)
    }

    pub fn queues(&self) -> Queues {
        Queues {
            outbox: self.outbox.open_count(),
            inbox: self.inbox.open_count(),
            running: self.inbox.running_count(),
            relay: self.relay.count(),
        }
    }

    /// Requests that came again since this engine was made, and so were not taken again.
    pub fn repeated(&self) -> u64 {
        self.inbox.repeated()
    }

    /// Messages that this journal accepted over its life.
    pub fn mark(&self) -> u64 {
        self.inbox.accepted_ever()
    }

    /// Journal space to keep reserved after a restart.
    pub fn reserved(&self) -> u64 {
        self.inbox.reserved()
    }

    /// This node's own messages and those that it holds for others, newest first.
    pub fn messages(&self, which: Which) -> Vec<MessageStatus> {
        let mut found = self.outbox.status(which);
        found.extend(self.relay.status(which));
        // Ids begin with the time.
        found.sort_by_key(|message| std::cmp::Reverse(message.id));
        found
    }

    fn event(&mut self, now: Timestamp, event: Event) {
        let shared = &mut self.shared;
        match event {
            Event::Submit { ticket, drafts } => self.outbox.submit(shared, now, ticket, drafts),
            Event::Withdraw { ticket, id } => self.outbox.withdraw(shared, now, ticket, id),
            Event::LinkUp { peer, hub } => {
                shared.windows.up(peer, hub);
                shared.offer_all(peer);
                shared.out.push(Effect::RoomAt { peer });
            }
            Event::LinkDown { peer } => {
                shared.windows.down(&peer);
                shared.reroute();
            }
            Event::Data(incoming) => self.data(now, *incoming),
            Event::Acks { peer, acks } => {
                for ack in acks {
                    self.acked(now, peer, ack);
                }
                self.shared.make_dirty(peer);
                self.shared.out.push(Effect::RoomAt { peer });
            }
            Event::Output { key, stream, data } => self.inbox.output(shared, now, key, stream, data),
            Event::Exited { key, exit } => self.inbox.exited(shared, now, key, exit),
            Event::LeftoversGone { key } => self.inbox.leftovers_gone(shared, now, key),
            Event::Committed { token, result } => match shared.committed(token) {
                Then::Nothing => {}
                Then::Outbox(then) => self.outbox.committed(shared, now, then, result),
                Then::Inbox(then) => self.inbox.committed(shared, now, then, result),
                Then::Relay(then) => self.relay.committed(shared, token, then, result),
            },
            Event::ReplyPlanned { id, upto, mark } => self.outbox.reply_planned(shared, id, upto, mark),
            Event::ReplyWritten { id, upto, .. } => self.outbox.reply_written(shared, id, upto),
            Event::NodeGone { key } => {
                shared.forget_node(key);
                self.outbox.node_gone(shared, now, key);
                self.inbox.answers.node_gone(shared, key);
                self.relay.node_gone(shared, key);
            }
            Event::Tick => {}
        }
    }

    fn timer(&mut self, now: Timestamp, timer: Timer) {
        let shared = &mut self.shared;
        match timer {
            Timer::Again(to, item) => shared.offer_again(to, item),
            Timer::GiveUp(id) => self.outbox.give_up(shared, now, id),
            Timer::StartBy(key) => self.inbox.start_by(shared, now, key),
            Timer::RunAgain(key) => self.inbox.run_again(shared, now, key),
            Timer::Sweep => {
                self.outbox.sweep(shared, now);
                self.inbox.sweep(shared, now);
                self.relay.sweep(shared, now);
                self.shared.at(now + SWEEP_EVERY, Timer::Sweep);
            }
        }
    }

    fn data(&mut self, now: Timestamp, incoming: Incoming) {
        let shared = &mut self.shared;
        let body = &incoming.verified.body;
        let (peer, id, from) = (incoming.peer, body.id, body.from);
        if incoming.data.is_too_large() {
            // Passed on, it would not fit its frame, and cut its receiver's link each time.
            shared.ack(peer, id, Verdict::Refused(Rejection::TooLarge));
            return;
        }
        if let Err(why @ Rejection::BadSignature) = &incoming.judged {
            // Signed by somebody else than who brought it, who is no relay: whose key that is nobody knows. Nothing is kept
            // of it, and no receipt is made for a key that never comes to fetch it.
            shared.ack(peer, id, Verdict::Refused(why.clone()));
            return;
        }
        match body.to {
            Audience::Node(to) if to == shared.me => {}
            Audience::Node(to) if shared.is_hub => {
                match &incoming.judged {
                    Ok(()) => self.relay.take(shared, now, incoming, to),
                    Err(why) => shared.ack(peer, id, Verdict::Refused(why.clone())),
                }
                return;
            }
            _ => {
                shared.ack(peer, id, Verdict::Refused(Rejection::WrongAudience));
                return;
            }
        }
        // A receipt goes back the way of the envelope when that came through a relay.
        let waiting = (peer, id, (peer != from).then_some(from));
        match body.payload.clone() {
            Payload::Request(request) => self.inbox.request(shared, now, incoming, request),
            Payload::Cancel(cancel) => self.inbox.cancel(shared, now, &incoming, &cancel),
            Payload::Output(output) => {
                // Only ends are confirmed by receipts: they stand for all pieces before them.
                let waiting = (peer, id, None);
                self.outbox.received_piece(shared, now, from, output.re, output.piece, waiting);
            }
            Payload::End(mut end) => {
                end.outcome = end.outcome.plain();
                self.outbox.received_end(shared, now, from, end, waiting);
            }
            Payload::Receipt(receipt) => {
                shared.ack(peer, id, Verdict::Accepted);
                if self.inbox.answers.receipt(shared, from, &receipt.re) {
                    return;
                }
                if self.outbox.audience(&receipt.re) == Some(Audience::Node(from)) {
                    match receipt.refused {
                        None => self.outbox.accepted(shared, now, receipt.re),
                        Some(why) => self.outbox.refused(shared, now, receipt.re, why.plain(), true),
                    }
                }
            }
        }
    }

    fn acked(&mut self, now: Timestamp, peer: KeyId, ack: Ack) {
        let shared = &mut self.shared;
        let Ack { id, verdict } = ack;
        let verdict = match verdict {
            Verdict::Refused(why) => Verdict::Refused(why.plain()),
            other => other,
        };
        match shared.windows.acked(&peer, &id) {
            None => {}
            Some(Acked::Lent) => shared.out.push(Effect::Lent { peer, id, verdict }),
            Some(Acked::Item(item)) => match item {
                Item::Message(id) => self.outbox.verdict(shared, now, peer, id, verdict),
                Item::Answer(key, number) => {
                    self.inbox.answers.verdict(shared, now, peer, key, number, verdict)
                }
                Item::Relayed(key) => self.relay.verdict(shared, now, key, verdict),
                Item::Cancel(id) => {
                    if let Some(to) = self.outbox.audience(&id) {
                        match verdict {
                            Verdict::Busy { retry_ms, .. } => {
                                let wait = std::time::Duration::from_millis(retry_ms.clamp(50, 600_000));
                                shared.park_busy(now + wait, to, item);
                            }
                            Verdict::Held => shared.park_held(now, to, item),
                            // The end tells what came of it.
                            _ => shared.settle(to, item),
                        }
                    }
                }
                Item::Receipt(to, id) => match verdict {
                    Verdict::Busy { retry_ms, .. } => {
                        let wait = std::time::Duration::from_millis(retry_ms.clamp(50, 600_000));
                        shared.park_busy(now + wait, Audience::Node(to), item);
                    }
                    _ => {
                        shared.receipts.remove(&(to, id));
                        shared.settle(Audience::Node(to), item);
                    }
                },
            },
        }
    }

    /// Sends what the peer is owed, while its window has room.
    fn fill(&mut self, now: Timestamp, peer: KeyId) {
        while let Some(item) = self.shared.windows.next(&peer) {
            let Some((to, id, data)) = self.envelope_of(now, item) else {
                continue;
            };
            if !self.shared.is_owed(to, item) {
                continue;
            }
            let size = data.envelope.len();
            if self.shared.windows.sent(&peer, id, item, size) {
                self.shared.send(peer, Frame::Data(data));
            } else if !self.shared.windows.is_in_flight(&peer, &id, item) {
                // Another sender's envelope of the same id goes first: acknowledgements name only the id.
                self.shared.park_busy(now + COLLISION_WAIT, to, item);
            }
        }
    }

    fn envelope_of(&mut self, now: Timestamp, item: Item) -> Option<(Audience, MessageId, Data)> {
        let bare = |envelope| Data { envelope, chain: Vec::new() };
        Some(match item {
            Item::Message(id) => (self.outbox.audience(&id)?, id, bare(self.outbox.envelope(&id)?)),
            Item::Cancel(id) => {
                let (own, envelope) = self.outbox.cancel_envelope(&self.shared, now, &id)?;
                (self.outbox.audience(&id)?, own, bare(envelope))
            }
            Item::Answer(key, number) => {
                let (to, id, envelope) = self.inbox.answers.envelope(&key, number)?;
                (to, id, bare(envelope))
            }
            Item::Receipt(to, id) => {
                let envelope = self.shared.receipts.get(&(to, id))?.encode();
                (Audience::Node(to), id, bare(envelope))
            }
            Item::Relayed(key) => (Audience::Node(key.to), key.id, self.relay.data(&key)?),
        })
    }
}

type Row = (Vec<u8>, Vec<u8>);

fn rows(journal: &mut dyn Journal, table: Table) -> Result<Vec<Row>, JournalError> {
    let mut rows = Vec::new();
    journal.read(table, &mut |key, value| rows.push((key.to_vec(), value.to_vec())))?;
    Ok(rows)
}

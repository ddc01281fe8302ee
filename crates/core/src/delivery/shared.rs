//! What the parts of an [`super::Engine`] share: windows, what is owed to whom, timers, and commits under way.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;

use super::inbox::InboxThen;
use super::outbox::OutboxThen;
use super::relay::RelayThen;
use super::window::{Item, Windows};
use super::{Effect, Key, Limits, RESEND_CAP, RESEND_FIRST};
use crate::envelope::{Audience, Body, Envelope, Payload, Receipt, Signer, VERSION};
use crate::frame::{Ack, Frame, Verdict};
use crate::id::{KeyId, MessageId};
use crate::journal::{Batch, Class, Op};
use crate::outcome::Rejection;
use crate::time::Timestamp;

/// What happens once a batch is durable, or was refused.
#[derive(Debug)]
pub(super) enum Then {
    Nothing,
    Outbox(OutboxThen),
    Inbox(InboxThen),
    Relay(RelayThen),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Timer {
    /// Offer an item to its peer again.
    Again(Audience, Item),
    /// A message of this node's own has had its time.
    GiveUp(MessageId),
    /// A message that waits here has had its time.
    StartBy(Key),
    /// A message that may run again found no room for its output.
    RunAgain(Key),
    Sweep,
}

#[derive(Clone, Copy, Default, Debug)]
struct Owing {
    /// How often a relay took it and nothing came of it.
    held: u32,
    /// Not to be offered before this, when its timer says so.
    parked: Option<Timestamp>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub me: KeyId,
    pub is_hub: bool,
    pub signer: Signer,
    pub limits: Limits,
    pub windows: Windows,
    pub out: Vec<Effect>,
    owed: BTreeMap<Audience, BTreeMap<Item, Owing>>,
    /// Receipts that travel through relays. They are made again when what they answer comes again.
    pub receipts: HashMap<(KeyId, MessageId), Envelope>,
    /// Nodes that were revoked or removed: nothing is owed to them any more.
    gone: BTreeSet<KeyId>,
    timers: BTreeSet<(Timestamp, Timer)>,
    next_token: u64,
    waiting: HashMap<u64, Then>,
    dirty: BTreeSet<KeyId>,
}

impl Shared {
    pub fn new(signer: Signer, is_hub: bool, limits: Limits) -> Self {
        let windows = Windows::new(limits.window_frames, limits.window_bytes);
        Self {
            me: signer.id(),
            is_hub,
            signer,
            limits,
            windows,
            out: Vec::new(),
            owed: BTreeMap::new(),
            receipts: HashMap::new(),
            gone: BTreeSet::new(),
            timers: BTreeSet::new(),
            next_token: 1,
            waiting: HashMap::new(),
            dirty: BTreeSet::new(),
        }
    }

    /// Makes a batch durable, and goes on with `then` afterwards.
    pub fn commit(&mut self, class: Class, ops: Vec<Op>, then: Then) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.waiting.insert(token, then);
        self.out.push(Effect::Commit { token, batch: Batch { class, ops }, lazy: false });
        token
    }

    /// Writes what need not be durable at any particular time.
    pub fn commit_lazily(&mut self, ops: Vec<Op>) {
        let token = self.next_token;
        self.next_token += 1;
        self.waiting.insert(token, Then::Nothing);
        self.out.push(Effect::Commit {
            token,
            batch: Batch { class: Class::Owed { release: 0 }, ops },
            lazy: true,
        });
    }

    pub fn committed(&mut self, token: u64) -> Then {
        self.waiting.remove(&token).unwrap_or(Then::Nothing)
    }

    pub fn waiting_mut(&mut self, token: u64) -> Option<&mut Then> {
        self.waiting.get_mut(&token)
    }

    pub fn at(&mut self, when: Timestamp, timer: Timer) {
        self.timers.insert((when, timer));
    }

    /// What has ended needs no timer any more.
    pub fn not_at(&mut self, when: Timestamp, timer: Timer) {
        self.timers.remove(&(when, timer));
    }

    pub fn next_wake(&self) -> Option<Timestamp> {
        self.timers.first().map(|(when, _)| *when)
    }

    pub fn due(&mut self, now: Timestamp) -> Option<Timer> {
        let first = *self.timers.first().filter(|(when, _)| *when <= now)?;
        self.timers.remove(&first);
        Some(first.1)
    }

    /// The linked peer that is on the way to `to`.
    pub fn route(&self, to: Audience) -> Option<KeyId> {
        match to {
            Audience::Node(key) if self.windows.is_up(&key) => Some(key),
            Audience::Hubs if self.is_hub => Some(self.me),
            // A hub never passes on what another hub could: it waits for the node itself.
            Audience::Node(_) if self.is_hub => None,
            _ => self.windows.hub(),
        }
    }

    pub fn is_gone(&self, to: Audience) -> bool {
        matches!(to, Audience::Node(key) if self.gone.contains(&key))
    }

    /// From now on `to` is owed this item, until it is settled.
    pub fn owe(&mut self, to: Audience, item: Item) {
        if self.is_gone(to) {
            return;
        }
        let before = self.owed.entry(to).or_default().insert(item, Owing::default());
        if let Some(until) = before.and_then(|owing| owing.parked) {
            self.timers.remove(&(until, Timer::Again(to, item)));
        }
        self.offer(to, item);
    }

    fn offer(&mut self, to: Audience, item: Item) {
        if let Some(peer) = self.route(to) {
            self.windows.enqueue(&peer, item);
            self.dirty.insert(peer);
        }
    }

    pub fn is_owed(&self, to: Audience, item: Item) -> bool {
        self.owed.get(&to).is_some_and(|items| items.get(&item).is_some_and(|owing| owing.parked.is_none()))
    }

    /// How many items wait for this audience, besides cancels and receipts.
    pub fn owed_to(&self, to: Audience) -> usize {
        self.owed.get(&to).map_or(0, BTreeMap::len)
    }

    pub fn settle(&mut self, to: Audience, item: Item) {
        if let Some(items) = self.owed.get_mut(&to) {
            if let Some(until) = items.remove(&item).and_then(|owing| owing.parked) {
                // At a thousand messages a second an hour's timers would be millions.
                self.timers.remove(&(until, Timer::Again(to, item)));
            }
            if items.is_empty() {
                self.owed.remove(&to);
            }
        }
    }

    /// A relay holds it: nothing to do until its receiver speaks, but ask again now and then.
    pub fn park_held(&mut self, now: Timestamp, to: Audience, item: Item) {
        let Some(owing) = self.owed.get_mut(&to).and_then(|items| items.get_mut(&item)) else {
            return;
        };
        let wait = RESEND_FIRST.saturating_mul(1 << owing.held.min(10)).min(RESEND_CAP);
        owing.held += 1;
        self.park(now + wait, to, item);
    }

    /// The peer has no room for it now.
    pub fn park_busy(&mut self, until: Timestamp, to: Audience, item: Item) {
        self.park(until, to, item);
    }

    fn park(&mut self, until: Timestamp, to: Audience, item: Item) {
        let Some(owing) = self.owed.get_mut(&to).and_then(|items| items.get_mut(&item)) else {
            return;
        };
        if let Some(before) = owing.parked.replace(until) {
            self.timers.remove(&(before, Timer::Again(to, item)));
        }
        self.at(until, Timer::Again(to, item));
    }

    /// Something was heard that makes it worth offering again at once.
    pub fn offer_again(&mut self, to: Audience, item: Item) {
        if let Some(owing) = self.owed.get_mut(&to).and_then(|items| items.get_mut(&item)) {
            if let Some(until) = owing.parked.take() {
                self.timers.remove(&(until, Timer::Again(to, item)));
            }
            self.offer(to, item);
        }
    }

    /// Queues everything that goes over this peer's new link.
    pub fn offer_all(&mut self, peer: KeyId) {
        let direct = Audience::Node(peer);
        let audiences: Vec<Audience> =
            self.owed.keys().copied().filter(|to| *to == direct || self.route(*to) == Some(peer)).collect();
        for to in audiences {
            let Some(items) = self.owed.get_mut(&to) else { continue };
            for (item, owing) in items {
                // Its audience itself is here: no reason to wait until a relay has passed it on, or until it
                // was asked to come again.
                if to == direct
                    && let Some(until) = owing.parked.take()
                {
                    self.timers.remove(&(until, Timer::Again(to, *item)));
                }
                if owing.parked.is_none() {
                    self.windows.enqueue(&peer, *item);
                }
            }
        }
        self.dirty.insert(peer);
    }

    /// After a link went down: what it carried takes another, if there is one.
    pub fn reroute(&mut self) {
        if let Some(hub) = self.windows.hub() {
            self.offer_all(hub);
        }
    }

    /// A node is gone for good, and with it all that it was owed.
    pub fn forget_node(&mut self, node: KeyId) {
        self.gone.insert(node);
        let to = Audience::Node(node);
        for (item, owing) in self.owed.remove(&to).unwrap_or_default() {
            if let Some(until) = owing.parked {
                self.timers.remove(&(until, Timer::Again(to, item)));
            }
        }
        self.receipts.retain(|(to, _), _| *to != node);
    }

    pub fn make_dirty(&mut self, peer: KeyId) {
        self.dirty.insert(peer);
    }

    pub fn take_dirty(&mut self) -> BTreeSet<KeyId> {
        std::mem::take(&mut self.dirty)
    }

    pub fn send(&mut self, peer: KeyId, frame: Frame) {
        // One frame for all verdicts of one turn: the shell sends what is here in one go anyway.
        if let Frame::Ack(acks) = &frame
            && let Some(Effect::Send { peer: last, frame: Frame::Ack(before) }) = self.out.last_mut()
            && *last == peer
        {
            before.extend(acks.iter().cloned());
            return;
        }
        self.out.push(Effect::Send { peer, frame });
    }

    pub fn ack(&mut self, peer: KeyId, id: MessageId, verdict: Verdict) {
        self.send(peer, Frame::Ack(vec![Ack { id, verdict }]));
    }

    /// Tells an origin that is not at the other end of the link what became of its envelope.
    pub fn receipt(&mut self, now: Timestamp, to: KeyId, re: MessageId, refused: Option<Rejection>) {
        if self.is_gone(Audience::Node(to)) {
            return;
        }
        let body = Body {
            v: VERSION,
            crit: Vec::new(),
            id: re.of_answer(if refused.is_some() { "refusal" } else { "receipt" }, 0),
            from: self.me,
            to: Audience::Node(to),
            issued: now,
            expires: None,
            order: None,
            fence: None,
            payload: Payload::Receipt(Receipt { re, refused }),
        };
        if self.receipts.len() >= self.limits.receipts && !self.receipts.contains_key(&(to, body.id)) {
            return;
        }
        let item = Item::Receipt(to, body.id);
        self.receipts.insert((to, body.id), self.signer.seal(&body));
        self.owe(Audience::Node(to), item);
    }

    pub fn seal(&self, body: &Body) -> Bytes {
        self.signer.seal(body).encode()
    }
}

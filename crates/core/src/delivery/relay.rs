//! Envelopes that a hub holds for nodes, so that sender and receiver need never be online together.
//!
//! A held envelope is only ever let go of when its receiver says that it is on its own disk, when its time is
//! over, or when the receiver is gone. The sender keeps its copy regardless until the receiver's own word.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::record::{self, RelayKey, RelayRow};
use super::shared::{Shared, Then};
use super::window::Item;
use super::{CLOCK_SLACK, Incoming, MessageStatus, Which};
use crate::envelope::{Audience, Envelope, MAX_LIFETIME, Payload};
use crate::frame::{Data, Verdict};
use crate::id::{KeyId, MessageId};
use crate::journal::{Class, Table};
use crate::outcome::Rejection;
use crate::time::Timestamp;

/// A hub whose disk or queue is full asks senders to come again after this.
const BUSY_RETRY_MS: u64 = 5_000;

#[derive(Debug, Default)]
pub(super) struct Relay {
    held: BTreeMap<RelayKey, Held>,
    bytes: usize,
    bytes_of: HashMap<KeyId, usize>,
}

#[derive(Debug)]
struct Held {
    row: RelayRow,
    /// Its commit is under way, and these peers wait for the word.
    waiting: Vec<(KeyId, MessageId)>,
    /// The batch that stores it, until that is durable. A later one may be under way for the same key, when
    /// the first was let go of meanwhile.
    storing: Option<u64>,
}

#[derive(Debug)]
pub(super) enum RelayThen {
    Stored(RelayKey),
}

impl Relay {
    pub fn load(&mut self, shared: &mut Shared, key: RelayKey, row: RelayRow) {
        self.count_in(&key, weight(&row));
        self.held.insert(key, Held { row, waiting: Vec::new(), storing: None });
        shared.owe(Audience::Node(key.to), Item::Relayed(key));
    }

    pub fn count(&self) -> usize {
        self.held.len()
    }

    pub fn take(&mut self, shared: &mut Shared, now: Timestamp, incoming: Incoming, to: KeyId) {
        let body = &incoming.verified.body;
        let key = RelayKey { to, from: body.from, id: body.id };
        if let Some(held) = self.held.get_mut(&key) {
            if held.storing.is_none() {
                shared.ack(incoming.peer, body.id, Verdict::Held);
            } else {
                held.waiting.push((incoming.peer, body.id));
            }
            return;
        }
        let lives = body.expires.map(|end| end.since(now));
        if matches!(body.payload, Payload::Request(_))
            && lives.is_none_or(|lives| lives > MAX_LIFETIME + CLOCK_SLACK)
        {
            // Its receiver would refuse it: it must not wait for that here for ever.
            shared.ack(incoming.peer, body.id, Verdict::Refused(Rejection::LivesTooLong));
            return;
        }
        let row =
            RelayRow { envelope: incoming.data.envelope, chain: incoming.data.chain, expires: body.expires };
        let size = weight(&row);
        let of_sender = self.bytes_of.get(&key.from).copied().unwrap_or(0);
        let full = if shared.owed_to(Audience::Node(to)) >= shared.limits.relay_messages_per_node {
            Some("the queue of its receiver is full")
        } else if self.bytes + size > shared.limits.relay_bytes {
            Some("the relay's queue is full")
        } else if of_sender + size > shared.limits.relay_bytes_per_sender {
            Some("the relay holds too much of this sender already")
        } else {
            None
        };
        if let Some(reason) = full {
            let verdict = Verdict::Busy { reason: reason.into(), retry_ms: BUSY_RETRY_MS };
            shared.ack(incoming.peer, body.id, verdict);
            return;
        }
        let op = record::put(Table::Relay, record::relay_key(&key), &row);
        self.count_in(&key, size);
        let token = shared.commit(Class::New { reserve: 0 }, vec![op], Then::Relay(RelayThen::Stored(key)));
        let waiting = vec![(incoming.peer, body.id)];
        self.held.insert(key, Held { row, waiting, storing: Some(token) });
        // Passed on at once: that it is held is told only when it is, but its receiver need not wait for that.
        shared.owe(Audience::Node(to), Item::Relayed(key));
    }

    pub fn committed(
        &mut self,
        shared: &mut Shared,
        token: u64,
        then: RelayThen,
        result: Result<(), String>,
    ) {
        let RelayThen::Stored(key) = then;
        let Some(held) = self.held.get_mut(&key).filter(|held| held.storing == Some(token)) else {
            return;
        };
        let waiting = std::mem::take(&mut held.waiting);
        held.storing = None;
        let verdict = match result {
            Ok(()) => Verdict::Held,
            Err(reason) => {
                self.forget(shared, &key);
                Verdict::Busy { reason, retry_ms: BUSY_RETRY_MS }
            }
        };
        for (peer, id) in waiting {
            shared.ack(peer, id, verdict.clone());
        }
    }

    /// Of the messages among what is held.
    pub fn status(&self, which: Which) -> Vec<MessageStatus> {
        let mut keys: Vec<&RelayKey> = match which {
            Which::One(id) => self.held.keys().filter(|key| key.id == id).collect(),
            Which::Newest(_) => self.held.keys().collect(),
        };
        if let Which::Newest(most) = which {
            keys.sort_by_key(|key| std::cmp::Reverse(key.id));
            keys.truncate(most);
        }
        keys.into_iter().filter_map(|key| status(key, &self.held.get(key)?.row)).collect()
    }

    pub fn data(&self, key: &RelayKey) -> Option<Data> {
        let row = &self.held.get(key)?.row;
        Some(Data { envelope: row.envelope.clone(), chain: row.chain.clone() })
    }

    /// What its receiver said.
    pub fn verdict(&mut self, shared: &mut Shared, now: Timestamp, key: RelayKey, verdict: Verdict) {
        match verdict {
            Verdict::Busy { retry_ms, .. } => {
                let wait = std::time::Duration::from_millis(retry_ms.clamp(50, 600_000));
                shared.park_busy(now + wait, Audience::Node(key.to), Item::Relayed(key));
            }
            // Its commit may still be under way: whoever waits for that word gets a true one all the same,
            // since the receiver has it.
            Verdict::Accepted | Verdict::Held | Verdict::Refused(_) => {
                self.let_go(shared, key, &Verdict::Held)
            }
        }
    }

    /// Drops it, and tells this to whoever still waits to hear that it is held.
    fn let_go(&mut self, shared: &mut Shared, key: RelayKey, verdict: &Verdict) {
        // The delete comes after the put in the same journal.
        if let Some(held) = self.held.get(&key) {
            for (peer, id) in held.waiting.clone() {
                shared.ack(peer, id, verdict.clone());
            }
            self.forget(shared, &key);
            shared.commit_lazily(vec![record::delete(Table::Relay, record::relay_key(&key))]);
        }
    }

    fn count_in(&mut self, key: &RelayKey, size: usize) {
        self.bytes += size;
        *self.bytes_of.entry(key.from).or_default() += size;
    }

    fn forget(&mut self, shared: &mut Shared, key: &RelayKey) {
        if let Some(held) = self.held.remove(key) {
            let size = weight(&held.row);
            self.bytes -= size;
            if let Some(bytes) = self.bytes_of.get_mut(&key.from) {
                *bytes -= size;
                if *bytes == 0 {
                    self.bytes_of.remove(&key.from);
                }
            }
        }
        shared.settle(Audience::Node(key.to), Item::Relayed(*key));
    }

    pub fn node_gone(&mut self, shared: &mut Shared, node: KeyId) {
        let keys: Vec<_> = self.held.keys().filter(|key| key.to == node).copied().collect();
        for key in keys {
            self.let_go(shared, key, &Verdict::Refused(Rejection::UnknownNode));
        }
    }

    /// Requests whose time is over need not be delivered: their receiver would refuse them.
    pub fn sweep(&mut self, shared: &mut Shared, now: Timestamp) {
        let over: Vec<_> = self
            .held
            .iter()
            .filter(|(_, held)| held.row.expires.is_some_and(|end| now > end + CLOCK_SLACK))
            .map(|(key, _)| *key)
            .collect();
        for key in over {
            self.let_go(shared, key, &Verdict::Refused(Rejection::Expired));
        }
    }
}

/// `None` for answers and whatever else is no message.
fn status(key: &RelayKey, row: &RelayRow) -> Option<MessageStatus> {
    let body = Envelope::decode(&row.envelope).ok()?.trusted_body().ok()?;
    let Payload::Request(request) = body.payload else { return None };
    Some(MessageStatus {
        id: key.id,
        held_for: Some(key.from),
        to: key.to,
        method: request.method,
        created: body.issued,
        expires: body.expires,
        accepted: false,
        outcome: None,
        provisional: false,
    })
}

/// What an envelope takes of the room: its bytes, and about what a row and its place in the queue cost beside them.
fn weight(row: &RelayRow) -> usize {
    const BESIDES: usize = 512;
    row.envelope.len() + row.chain.iter().map(Bytes::len).sum::<usize>() + BESIDES
}

//! Messages that their origin takes back: before they start, while they run, and before they are even here.
//!
//! A cancel that comes first leaves a tombstone, a row that fits any message of that id and is its end.

use bytes::Bytes;

use super::super::record::{self, END_NUMBER, InboxRow, InboxState};
use super::super::shared::{Shared, Then};
use super::super::{Effect, ExitReport, HUB_ROLE, Incoming, Key};
use super::{BUSY_RETRY_MS, Entry, Inbox, InboxThen};
use crate::envelope::{Cancel, End, MAX_LIFETIME, Payload};
use crate::frame::Verdict;
use crate::journal::{Class, Table};
use crate::outcome::Outcome;
use crate::time::Timestamp;

/// Cancels that came before their messages. Beyond so many they must wait at their origins: whoever may
/// send at all could fill the journal with them.
const TOMBSTONES: usize = 4_096;

/// Of them, what one node may have: a cancel needs no access rule, and the rest is for others. The hub role is not
/// bound by it, since whoever cancels a run over many nodes must reach each.
const TOMBSTONES_PER_ORIGIN: usize = 128;

impl Inbox {
    /// The origin takes a message back.
    pub fn cancel(&mut self, shared: &mut Shared, now: Timestamp, incoming: &Incoming, cancel: &Cancel) {
        let body = &incoming.verified.body;
        let peer = incoming.peer;
        if let Err(why) = &incoming.judged {
            shared.ack(peer, body.id, Verdict::Refused(why.clone()));
            return;
        }
        let key = Key { origin: if cancel.run.is_some() { HUB_ROLE } else { body.from }, id: cancel.re };
        let Some(entry) = self.entries.get_mut(&key) else {
            self.tombstone(shared, now, incoming, key, cancel);
            return;
        };
        match entry.row.state {
            // Its acceptance may still be refused for want of space: then there is nothing to take back. The
            // same for another copy of this cancel whose tombstone is being written, and for an end that
            // a crash may still undo.
            _ if entry.accepting.is_some() || entry.ending => {
                let reason = "its message is being accepted or ended".into();
                shared.ack(peer, body.id, Verdict::Busy { reason, retry_ms: 100 });
            }
            InboxState::Ended | InboxState::Refused => shared.ack(peer, body.id, Verdict::Accepted),
            _ => {
                entry.row.cancelled = true;
                let op = record::put(Table::Inbox, record::inbox_key(&key), &entry.row);
                let then = InboxThen::CancelNoted { key, peer, id: body.id };
                shared.commit(Class::Owed { release: 0 }, vec![op], Then::Inbox(then));
            }
        }
    }

    pub(super) fn cancel_noted(&mut self, shared: &mut Shared, now: Timestamp, key: Key) {
        let Some(entry) = self.entries.get(&key) else {
            return;
        };
        match entry.row.state {
            InboxState::Accepted if self.turns.leave(key) => {
                self.end(shared, now, key, ExitReport::without_output(Outcome::Cancelled), None);
            }
            InboxState::Started { .. } if entry.running => shared.out.push(Effect::Kill { key }),
            // Between two batches: `begin` looks at the flag.
            _ => {}
        }
    }

    pub(super) fn count_tombstone(&mut self, key: &Key) {
        self.tombstones += 1;
        *self.tombstones_of.entry(key.origin).or_default() += 1;
    }

    pub(super) fn uncount_tombstone(&mut self, key: &Key) {
        self.tombstones -= 1;
        if let Some(count) = self.tombstones_of.get_mut(&key.origin) {
            *count -= 1;
            if *count == 0 {
                self.tombstones_of.remove(&key.origin);
            }
        }
    }

    /// The cancel came before its message: the message must not run when it comes.
    fn tombstone(
        &mut self,
        shared: &mut Shared,
        now: Timestamp,
        incoming: &Incoming,
        key: Key,
        cancel: &Cancel,
    ) {
        let body = &incoming.verified.body;
        if body.expires.is_some_and(|end| now >= end) {
            // Its message will be refused as late, or was: a second end would contradict that one.
            shared.ack(incoming.peer, body.id, Verdict::Accepted);
            return;
        }
        let of_origin = self.tombstones_of.get(&key.origin).copied().unwrap_or(0);
        let its_share_is_used = key.origin != HUB_ROLE && of_origin >= TOMBSTONES_PER_ORIGIN;
        if self.tombstones >= TOMBSTONES || its_share_is_used {
            let reason = format!("{} cancels wait for their messages on this node", self.tombstones);
            shared.ack(incoming.peer, body.id, Verdict::Busy { reason, retry_ms: BUSY_RETRY_MS });
            return;
        }
        let cap = now + MAX_LIFETIME;
        let row = InboxRow {
            // Fits any message: none of this id will ever run.
            digest: [0; 16],
            expires: body.expires.unwrap_or(cap).min(cap),
            state: InboxState::Ended,
            sender: body.from,
            relayed: incoming.peer != body.from && cancel.run.is_none(),
            envelope: Bytes::new(),
            reserved: 0,
            cancelled: true,
            interrupted: false,
        };
        let end = End {
            re: key.id,
            run: cancel.run,
            outcome: Outcome::Cancelled,
            last_seq: 0,
            tail: Vec::new(),
            started: None,
            ended: now,
            stdout_bytes: 0,
            stderr_bytes: 0,
            truncated: false,
        };
        let to = record::answers_to(body.from, cancel.run);
        let answer = self.answers.add(shared, now, to, key, END_NUMBER, Payload::End(end));
        let ops = vec![record::put(Table::Inbox, record::inbox_key(&key), &row), answer];
        self.entries.insert(key, Entry::new(row, None, 1));
        self.count_tombstone(&key);
        let then = InboxThen::Tombstone { key, peer: incoming.peer, id: body.id };
        let token = shared.commit(Class::New { reserve: 0 }, ops, Then::Inbox(then));
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.accepting = Some(token);
        }
    }
}

pub(super) fn is_tombstone(row: &InboxRow) -> bool {
    row.digest == [0; 16]
}

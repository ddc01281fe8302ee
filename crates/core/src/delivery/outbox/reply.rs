//! The answer to an own message: its pieces as they come, and their way to where its sender wants them.
//!
//! What is written there is planned first and recorded, so that a crash in between neither loses nor doubles a
//! piece. The end itself is not here.

use super::super::record::{self, ReplyRow};
use super::super::shared::{Shared, Then};
use super::super::{Effect, ReplyJob};
use super::{Entry, Outbox, OutboxThen, ReplyStep, Waiting, acknowledge, delete_piece};
use crate::envelope::Piece;
use crate::id::{KeyId, MessageId};
use crate::journal::{Class, Op, Table};
use crate::time::Timestamp;

impl Outbox {
    /// A piece of output arrived.
    pub fn received_piece(
        &mut self,
        shared: &mut Shared,
        now: Timestamp,
        from: KeyId,
        re: MessageId,
        piece: Piece,
        waiting: Waiting,
    ) {
        let Some(entry) = self.entries.get_mut(&re).filter(|entry| entry.row.to == from) else {
            acknowledge(shared, now, vec![waiting]);
            return;
        };
        if !entry.wants(piece.seq) {
            acknowledge(shared, now, vec![waiting]);
            return;
        }
        if let Some(token) = self.piece_tokens.get(&(re, piece.seq)) {
            if let Some(Then::Outbox(OutboxThen::Piece { waiting: all, .. })) = shared.waiting_mut(*token) {
                all.push(waiting);
            }
            return;
        }
        let piece = entry.cut(piece);
        let op = record::put(
            Table::Replies,
            record::reply_key(&re, piece.seq),
            &ReplyRow { piece: piece.clone() },
        );
        let seq = piece.seq;
        let then = Then::Outbox(OutboxThen::Piece { id: re, piece, waiting: vec![waiting] });
        // No room was kept for it here: on a full disk it waits at its sender, who kept some.
        let token = shared.commit(Class::New { reserve: 0 }, vec![op], then);
        self.piece_tokens.insert((re, seq), token);
    }

    /// Writes what has come and is not written, if it may be.
    pub(super) fn advance_reply(&mut self, shared: &mut Shared, id: MessageId) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        if entry.row.closed || entry.replying || entry.end_token.is_some() || entry.row.reply.is_none() {
            return;
        }
        let mut upto = entry.row.written;
        while entry.row.last_seq.is_none_or(|last| upto < last) && entry.pieces.contains_key(&(upto + 1)) {
            upto += 1;
        }
        let complete = entry.row.last_seq == Some(upto);
        let some = upto > entry.row.written;
        if complete || (some && !entry.row.reply_whole) {
            entry.replying = true;
            if let Some(job) = job(id, entry, upto) {
                shared.out.push(Effect::PlanReply(Box::new(job)));
            }
        }
    }

    pub fn reply_planned(&mut self, shared: &mut Shared, id: MessageId, upto: u64, mark: bytes::Bytes) {
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.replying) else {
            return;
        };
        if entry.end_token.is_some() {
            entry.put_off.push(ReplyStep::Planned { upto, mark });
            return;
        }
        entry.row.writing = Some((upto, mark.clone()));
        if let Some(job) = job(id, entry, upto) {
            entry.telling = job.outcome.is_some();
            let op = record::put(Table::Outbox, record::message_key(&id), &entry.row);
            let then = Then::Outbox(OutboxThen::Marked { job: Box::new(job), mark });
            shared.commit(Class::Owed { release: 0 }, vec![op], then);
        }
    }

    pub fn reply_written(&mut self, shared: &mut Shared, id: MessageId, upto: u64) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        if entry.end_token.is_some() {
            entry.put_off.push(ReplyStep::Written { upto });
            return;
        }
        if entry.row.closed {
            return;
        }
        entry.row.written = entry.row.written.max(upto);
        entry.row.writing = None;
        let mut done = std::mem::take(&mut entry.pieces);
        if entry.row.last_seq == Some(entry.row.written) && entry.telling {
            entry.row.closed = true;
            self.closed.push_back(id);
        } else {
            entry.pieces = done.split_off(&(upto + 1));
        }
        let mut ops: Vec<Op> = done.keys().map(|seq| delete_piece(&id, *seq)).collect();
        ops.push(record::put(Table::Outbox, record::message_key(&id), &entry.row));
        self.forget_history(shared, &mut ops);
        let then = Then::Outbox(OutboxThen::Written { id });
        shared.commit(Class::Owed { release: 0 }, ops, then);
    }
}

pub(super) fn job(id: MessageId, entry: &Entry, upto: u64) -> Option<ReplyJob> {
    // From the first on, since what is written is not here: a range from after the last one would panic.
    let pieces = entry.pieces.range(..=upto).filter(|(seq, _)| **seq > entry.row.written);
    let pieces = pieces.map(|(_, piece)| piece.clone()).collect();
    let last = entry.row.last_seq == Some(upto);
    Some(ReplyJob {
        id,
        from: entry.row.to_name.clone(),
        reply: entry.row.reply.clone()?,
        pieces,
        upto,
        outcome: if last { entry.row.outcome.clone() } else { None },
    })
}

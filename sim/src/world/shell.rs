//! Carries out what the engines ask for: disks that take their time, methods, replies, frames to be sent.

use mainstay_core::delivery::record;
use mainstay_core::delivery::{Effect, Event, ExitReport, Key};
use mainstay_core::envelope::Stream;
use mainstay_core::frame::Frame;
use mainstay_core::id::KeyId;
use mainstay_core::journal::{Batch, Class, Journal, JournalError, Op, Table};
use mainstay_core::outcome::Outcome;

use super::{HUB, Happening, MS, Own, SECOND, World};
use crate::faults::Planted;
use crate::node::{CREDIT, Method, NO_TOKEN, Queued, ReplyTask};
use crate::workload::Work;

/// Lazy writes wait for others, but not for longer than this.
const LAZY_FOR: u64 = 2 * SECOND;

impl World {
    pub(super) fn turn(&mut self, n: usize, event: Event) {
        let mut next = Some(event);
        while let Some(event) = next {
            let at = self.at;
            let node = &mut self.nodes[n];
            let Some(up) = node.up.as_mut() else { return };
            let now = node.clock.now(at);
            let effects = up.engine.handle(now, event);
            self.carry_out(n, effects);
            next = self.soon(n);
        }
    }

    /// What follows within the node itself, without time passing.
    fn soon(&mut self, n: usize) -> Option<Event> {
        let me = self.nodes[n].key;
        loop {
            let up = self.nodes[n].up.as_mut()?;
            if let Some(event) = up.soon.pop_front() {
                return Some(event);
            }
            match up.looped.pop_front()? {
                Frame::Ack(acks) => return Some(Event::Acks { peer: me, acks }),
                Frame::Data(data) => match self.incoming(n, me, data) {
                    Ok(incoming) => return Some(Event::Data(Box::new(incoming))),
                    Err(what) => self.checker.violations.push(format!("n{n} sent itself {what}")),
                },
                other => self.checker.violations.push(format!("n{n} sent itself {other:?}")),
            }
        }
    }

    pub(super) fn carry_out(&mut self, n: usize, effects: Vec<Effect>) {
        for effect in effects {
            let Some(up) = self.nodes[n].up.as_mut() else { return };
            if let Some((left, _)) = &mut up.doomed {
                if *left == 0 {
                    self.crash(n);
                    return;
                }
                *left -= 1;
            }
            self.effect(n, effect);
        }
        self.after_effects(n);
    }

    fn after_effects(&mut self, n: usize) {
        let at = self.at;
        let node = &mut self.nodes[n];
        let Some(up) = node.up.as_mut() else { return };
        let now = node.clock.now(at);
        if let Some(floor) = node.clock.floor_to_persist() {
            let op = Op::Put {
                table: Table::Meta,
                key: record::META_CLOCK_FLOOR.into(),
                value: floor.as_millis().to_be_bytes().to_vec().into(),
            };
            let batch = Batch { class: Class::Owed { release: 0 }, ops: vec![op] };
            up.queued.push(Queued { token: NO_TOKEN, batch });
        }
        let mut plans = Vec::new();
        if up.committing.is_empty() && !up.queued.is_empty() {
            if up.urgent {
                plans.push((0, Own::DiskStart));
            } else if !up.flush_planned {
                up.flush_planned = true;
                plans.push((LAZY_FOR, Own::DiskStart));
            }
        }
        if let Some(wake) = up.engine.next_wake() {
            // An engine that is behind its timers is called at once, and not in the same instant for ever.
            let when = at + (wake.since(now).as_micros() as u64).max(MS);
            if up.wake.is_none_or(|planned| when < planned) {
                up.wake = Some(when);
                plans.push((when - at, Own::Wake));
            }
        }
        for (after, what) in plans {
            self.plan_own(after, n, what);
        }
    }

    fn effect(&mut self, n: usize, effect: Effect) {
        let at = self.at;
        match effect {
            Effect::Commit { token, batch, lazy } => {
                let early = self.scenario.planted == Some(Planted::AcknowledgeBeforeWriting);
                let Some(up) = self.nodes[n].up.as_mut() else { return };
                if early {
                    up.soon.push_back(Event::Committed { token, result: Ok(()) });
                }
                up.queued.push(Queued { token, batch });
                up.urgent |= !lazy;
            }
            Effect::Send { peer, frame } => self.send(n, peer, frame),
            Effect::Start { key, request, .. } => {
                let work = Work::of(&request);
                self.line(format_args!("n{n} begins {} {} {work:?}", key.id, request.method));
                self.checker.began(n, key, at);
                let method =
                    Method { work, given: 0, credit: CREDIT, killed: false, event: !request.command };
                if let Some(up) = self.nodes[n].up.as_mut() {
                    up.methods.insert(key, method);
                }
                self.plan_method(n, key);
            }
            Effect::Kill { key } => {
                if let Some(method) = self.nodes[n].up.as_mut().and_then(|up| up.methods.get_mut(&key)) {
                    method.killed = true;
                    self.plan_own(5 * MS, n, Own::Method(key));
                }
            }
            Effect::KillLeftovers { key } => {
                let after = self.rng.between(MS, 200 * MS);
                self.plan_own(after, n, Own::LeftoversGone(key));
            }
            Effect::Room { key, bytes } => {
                if let Some(method) = self.nodes[n].up.as_mut().and_then(|up| up.methods.get_mut(&key)) {
                    method.credit += bytes;
                    if method.credit > CREDIT {
                        self.checker.violations.push(format!("n{n} gave back more room than it took"));
                    }
                }
            }
            Effect::Answered { ticket, result } => {
                let Some(id) = self.tickets.remove(&ticket) else { return };
                match result {
                    Ok(_) => {
                        self.line(format_args!("n{n} accepted {id}"));
                        if let Some(offered) = self.checker.offered.get_mut(&id) {
                            offered.accepted = true;
                        }
                    }
                    Err(refusal) => {
                        self.line(format_args!("n{n} refused {id}: {refusal}"));
                        self.checker.counts.refused += 1;
                    }
                }
            }
            Effect::PlanReply(job) => self.queue_reply(n, ReplyTask::Plan(job)),
            Effect::WriteReply { job, mark } => self.queue_reply(n, ReplyTask::Write(job, mark)),
            Effect::Ended { id, outcome, provisional, .. } => {
                self.line(format_args!("n{n} says {id} ended {outcome:?} {provisional}"));
                self.checker.ended(id, &outcome, provisional);
            }
            Effect::Served { key, outcome, .. } => {
                self.line(format_args!("n{n} served {} {outcome:?}", key.id));
            }
            Effect::Lent { .. } | Effect::RoomAt { .. } => {}
        }
    }

    fn send(&mut self, n: usize, peer: KeyId, frame: Frame) {
        let me = self.nodes[n].key;
        let at = self.at;
        let Some(up) = self.nodes[n].up.as_mut() else { return };
        if peer == me {
            up.looped.push_back(frame);
            return;
        }
        let Some(link) = up.links.get(&peer).copied() else { return };
        let Some(arrival) = self.network.arrival(&mut self.rng, link, at, n != HUB) else { return };
        self.plan(arrival - at, Happening::Frame { link, to_hub: n != HUB, frame: Box::new(frame) });
    }

    // ---- Disks

    pub(super) fn disk_start(&mut self, n: usize) {
        let at = self.at;
        let node = &mut self.nodes[n];
        let after = node.commit_latency(&mut self.rng, at);
        let Some(up) = node.up.as_mut() else { return };
        up.flush_planned = false;
        if !up.committing.is_empty() || up.queued.is_empty() {
            return;
        }
        up.committing = std::mem::take(&mut up.queued);
        up.urgent = false;
        self.plan_own(after, n, Own::DiskDone);
    }

    pub(super) fn disk_done(&mut self, n: usize) {
        let Some(up) = self.nodes[n].up.as_mut() else { return };
        let committing = std::mem::take(&mut up.committing);
        let (tokens, batches): (Vec<_>, Vec<_>) =
            committing.into_iter().map(|queued| (queued.token, queued.batch)).unzip();
        // All that is after a batch that could not be written is not written either: the order of batches is a
        // promise too. New work that is refused breaks nothing.
        let mut broken = None;
        let results: Vec<_> = batches
            .iter()
            .map(|batch| {
                let owed = matches!(batch.class, Class::Owed { .. });
                let result = match &broken {
                    Some(error) => Err(JournalError::clone(error)),
                    None => up.journal.commit(std::slice::from_ref(batch)).remove(0),
                };
                if let Err(error) = &result
                    && (owed || !error.is_refusal())
                {
                    broken = Some(error.clone());
                }
                result
            })
            .collect();
        self.checker.counts.syncs += 1;
        let life = self.nodes[n].life;
        for ((token, batch), result) in tokens.into_iter().zip(batches).zip(results) {
            let owed = matches!(batch.class, Class::Owed { .. });
            match &result {
                Err(error) if owed || !error.is_refusal() => {
                    self.checker.counts.failed_syncs += 1;
                    self.line(format_args!("n{n} cannot write: {error}"));
                    self.reopen(n);
                    return;
                }
                Err(_) => self.checker.counts.batches_refused += 1,
                Ok(()) => {}
            }
            if token != NO_TOKEN {
                let result = result.map_err(|e: JournalError| e.to_string());
                self.turn(n, Event::Committed { token, result });
            }
            if self.nodes[n].life != life {
                return;
            }
        }
        self.after_effects(n);
    }

    // ---- Methods and replies

    fn plan_method(&mut self, n: usize, key: Key) {
        let Some(method) = self.nodes[n].up.as_ref().and_then(|up| up.methods.get(&key)) else { return };
        let step = method.work.ms * MS / (u64::from(method.work.chunks) + 1) + 100;
        self.plan_own(step, n, Own::Method(key));
    }

    pub(super) fn method(&mut self, n: usize, key: Key) {
        let at = self.at;
        let Some(up) = self.nodes[n].up.as_mut() else { return };
        let Some(method) = up.methods.get_mut(&key) else { return };
        if !method.killed && method.given < method.work.chunks {
            let data = method.work.chunk(method.given);
            if data.len() <= method.credit {
                method.credit -= data.len();
                method.given += 1;
                self.turn(n, Event::Output { key, stream: Stream::Stdout, data });
            }
            self.plan_method(n, key);
            return;
        }
        let outcome = if method.killed { Outcome::Cancelled } else { method.work.outcome() };
        let stdout_bytes = u64::from(method.given) * method.work.size as u64;
        up.methods.remove(&key);
        self.line(format_args!("n{n} exits {} {outcome:?}", key.id));
        self.checker.exited(n, key, at, outcome.clone());
        let exit = ExitReport { outcome, stdout_bytes, stderr_bytes: 0, truncated: false };
        self.turn(n, Event::Exited { key, exit });
    }

    fn queue_reply(&mut self, n: usize, task: ReplyTask) {
        if let Some(up) = self.nodes[n].up.as_mut() {
            up.replies.push_back(task);
        }
        let after = self.rng.between(100, 5 * MS);
        self.plan_own(after, n, Own::Reply);
    }

    pub(super) fn reply(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        let Some(task) = node.up.as_mut().and_then(|up| up.replies.pop_front()) else { return };
        match task {
            ReplyTask::Plan(job) => {
                let length = node.files.get(&job.id).map_or(0, Vec::len) as u64;
                let mark = length.to_be_bytes().to_vec().into();
                self.turn(n, Event::ReplyPlanned { id: job.id, upto: job.upto, mark });
            }
            ReplyTask::Write(job, mark) => {
                let length = <[u8; 8]>::try_from(&mark[..]).map_or(0, u64::from_be_bytes) as usize;
                let file = node.files.entry(job.id).or_default();
                file.truncate(length);
                job.pieces.iter().for_each(|piece| file.extend_from_slice(&piece.data));
                // A crash may come before anyone hears of it.
                self.queue_reply(n, ReplyTask::Written { id: job.id, upto: job.upto });
            }
            ReplyTask::Written { id, upto } => {
                self.turn(n, Event::ReplyWritten { id, upto, result: Ok(()) });
            }
        }
    }
}

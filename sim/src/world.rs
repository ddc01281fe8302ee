//! The queue of events, and the shell that carries out the engines' effects in simulated time.

use std::collections::BTreeMap;
use std::fmt::Arguments;

use mainstay_core::delivery::record::{self, OutboxRow};
use mainstay_core::delivery::{Effect, Event, ExitReport, Incoming, Key};
use mainstay_core::envelope::{Audience, Body, Envelope, Payload, Stream, Verified};
use mainstay_core::frame::{Data, Frame};
use mainstay_core::id::{KeyId, MessageId};
use mainstay_core::journal::{Class, Journal, JournalError, Op, Table};
use mainstay_core::outcome::{Outcome, Rejection};

use crate::checker::{Checker, LastWord, Offered, Report};
use crate::faults::{self, Fault, Planted};
use crate::log::Log;
use crate::network::{LinkId, Network};
use crate::node::{CREDIT, Method, NO_TOKEN, Node, Queued, ReplyTask};
use crate::rng::Rng;
use crate::scenario::Scenario;
use crate::workload::{self, Work};

const HUB: usize = 0;

const MS: u64 = 1_000;
const SECOND: u64 = 1_000_000;

/// Lazy writes wait for others, but not for longer than this.
const LAZY_FOR: u64 = 2 * SECOND;

/// The longest until a side notices that a link is dead.
const NOTICE_WITHIN: u64 = 90 * SECOND;

/// A message lives an hour, a relay keeps it an hour longer and asks again within one: more is stuck.
const REST_WITHIN: u64 = 5 * 3600 * SECOND;

#[derive(Debug)]
enum Happening {
    Boot {
        node: usize,
    },
    /// Something of a node's own life; nothing if that life is over.
    Own {
        node: usize,
        life: u64,
        what: Own,
    },
    Linked {
        link: LinkId,
        lives: (u64, u64),
    },
    Frame {
        link: LinkId,
        to_hub: bool,
        frame: Box<Frame>,
    },
    /// One side of a link finds out that it is gone.
    Notice {
        node: usize,
        peer: KeyId,
        link: LinkId,
    },
    Work,
    Fault,
}

#[derive(Debug)]
enum Own {
    Dial,
    Wake,
    DiskStart,
    DiskDone,
    Method(Key),
    LeftoversGone(Key),
    Reply,
    Withdraw(MessageId),
    Doom,
}

pub struct World {
    scenario: Scenario,
    at: u64,
    events: BTreeMap<(u64, u64), Happening>,
    sequence: u64,
    nodes: Vec<Node>,
    by_key: BTreeMap<KeyId, usize>,
    network: Network,
    checker: Checker,
    log: Log,
    work_rng: Rng,
    fault_rng: Rng,
    rng: Rng,
    tickets: BTreeMap<u64, MessageId>,
    repaired: bool,
}

impl World {
    pub fn new(scenario: Scenario) -> Self {
        let mut rng = Rng::new(scenario.seed);
        let nodes: Vec<Node> = (0..=scenario.agents).map(|n| Node::new(n, &mut rng)).collect();
        let by_key = nodes.iter().enumerate().map(|(n, node)| (node.key, n)).collect();
        let mut world = Self {
            at: 0,
            events: BTreeMap::new(),
            sequence: 0,
            nodes,
            by_key,
            network: Network::default(),
            checker: Checker::default(),
            log: Log::new(scenario.print_log),
            work_rng: rng.fork(),
            fault_rng: rng.fork(),
            rng,
            tickets: BTreeMap::new(),
            repaired: false,
            scenario,
        };
        if world.scenario.planted == Some(Planted::SkipSync) {
            world.nodes.iter().for_each(|node| node.disk.skip_sync(true));
        }
        for node in 0..world.nodes.len() {
            let after = world.rng.below(2 * SECOND);
            world.plan(after, Happening::Boot { node });
        }
        world.plan(SECOND, Happening::Work);
        if world.scenario.fault_every_ms > 0 {
            world.plan(3 * SECOND, Happening::Fault);
        }
        world
    }

    fn line(&mut self, what: Arguments<'_>) {
        self.log.line(self.at, what);
    }

    fn plan(&mut self, after: u64, what: Happening) {
        self.sequence += 1;
        self.events.insert((self.at + after, self.sequence), what);
    }

    fn plan_own(&mut self, after: u64, node: usize, what: Own) {
        let life = self.nodes[node].life;
        self.plan(after, Happening::Own { node, life, what });
    }

    /// Plays until all is quiet, or something is stuck.
    pub fn run(&mut self) {
        let end = self.scenario.seconds * SECOND;
        self.run_until(end);
        self.repair();
        let last = self.at + REST_WITHIN;
        let mut step = SECOND;
        while self.at < last {
            let until = self.at + step;
            self.run_until(until);
            if (0..self.nodes.len()).all(|n| self.nodes[n].gone || self.nodes[n].owes().is_empty())
                && self.events.values().all(|what| !matches!(what, Happening::Frame { .. }))
            {
                break;
            }
            // What comes late comes in minutes.
            step = (step * 2).min(120 * SECOND);
        }
        self.judge();
    }

    fn run_until(&mut self, until: u64) {
        while let Some(entry) = self.events.first_entry() {
            let (at, _) = *entry.key();
            if at > until {
                break;
            }
            let what = entry.remove();
            self.at = at;
            self.happen(what);
        }
        self.at = until;
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Boot { node } => self.boot(node),
            Happening::Own { node, life, what } => {
                if self.nodes[node].life == life && self.nodes[node].up.is_some() {
                    self.own(node, what);
                }
            }
            Happening::Linked { link, lives } => self.linked(link, lives),
            Happening::Frame { link, to_hub, frame } => {
                let Some(agent) = self.network.link(link).map(|link| link.agent) else { return };
                let (from, to) = if to_hub { (agent, HUB) } else { (HUB, agent) };
                let peer = self.nodes[from].key;
                let believed = self.nodes[to].up.as_ref().and_then(|up| up.links.get(&peer));
                if believed == Some(&link) {
                    self.frame(to, peer, *frame);
                }
            }
            Happening::Notice { node, peer, link } => self.notice(node, peer, link),
            Happening::Work => {
                if !self.repaired {
                    self.submit();
                    let after = self.work_rng.exponential(self.scenario.message_every_ms * MS);
                    self.plan(after, Happening::Work);
                }
            }
            Happening::Fault => {
                if !self.repaired {
                    let fault = faults::draw(&mut self.fault_rng, self.scenario.agents);
                    self.fault(fault);
                    let after = self.fault_rng.exponential(self.scenario.fault_every_ms * MS);
                    self.plan(after, Happening::Fault);
                }
            }
        }
    }

    fn own(&mut self, n: usize, what: Own) {
        match what {
            Own::Dial => self.dial(n),
            Own::Wake => {
                if let Some(up) = self.nodes[n].up.as_mut() {
                    up.wake = None;
                }
                self.turn(n, Event::Tick);
            }
            Own::DiskStart => self.disk_start(n),
            Own::DiskDone => self.disk_done(n),
            Own::Method(key) => self.method(n, key),
            Own::LeftoversGone(key) => self.turn(n, Event::LeftoversGone { key }),
            Own::Reply => self.reply(n),
            Own::Withdraw(id) => {
                // Nobody waits for the answer.
                self.turn(n, Event::Withdraw { ticket: 0, id });
            }
            Own::Doom => self.crash(n),
        }
    }

    // ---- Nodes

    fn boot(&mut self, n: usize) {
        if self.nodes[n].up.is_some() || self.nodes[n].gone {
            return;
        }
        self.nodes[n].life += 1;
        let forgetful = self.scenario.planted == Some(Planted::SkipDuplicateCheck);
        let at = self.at;
        match self.nodes[n].open(at, forgetful) {
            Ok(effects) => {
                self.line(format_args!("n{n} is up"));
                self.carry_out(n, effects);
            }
            Err(error) => {
                self.checker.violations.push(format!("n{n} cannot read its journal: {error}"));
                return;
            }
        }
        // Who was removed is told again from the trust log.
        let gone: Vec<KeyId> = self.nodes.iter().filter(|node| node.gone).map(|node| node.key).collect();
        for key in gone {
            self.turn(n, Event::NodeGone { key });
        }
        if n != HUB {
            self.plan_own(0, n, Own::Dial);
        }
    }

    fn crash(&mut self, n: usize) {
        let Some(up) = self.nodes[n].up.take() else { return };
        self.line(format_args!("n{n} goes down"));
        self.nodes[n].life += 1;
        self.checker.crashed(n, self.at, up.methods.keys().copied());
        let mut up = up;
        // What was on its way to the disk may have reached it, though nobody heard of it.
        if !up.committing.is_empty() && self.rng.chance(500) {
            let batches: Vec<_> = up.committing.drain(..).map(|queued| queued.batch).collect();
            let reached = self.rng.below(batches.len() as u64 + 1) as usize;
            up.journal.commit(&batches[..reached]);
        }
        self.nodes[n].disk.crash();
        let key = self.nodes[n].key;
        for link in self.network.all() {
            let Some(agent) = self.network.link(link).map(|link| link.agent) else { continue };
            if n == agent || n == HUB {
                self.network.cut(link);
                let other = if n == HUB { agent } else { HUB };
                let within = if self.rng.chance(500) { SECOND } else { NOTICE_WITHIN };
                let after = self.rng.below(within);
                self.plan(after, Happening::Notice { node: other, peer: key, link });
            }
        }
        if let Some((_, away)) = up.doomed {
            self.plan(away, Happening::Boot { node: n });
        }
    }

    /// The journal failed or cannot keep a promise: the node closes it and starts again from what is on disk.
    fn reopen(&mut self, n: usize) {
        if let Some(up) = self.nodes[n].up.as_mut() {
            up.doomed = Some((0, 100 * MS));
        }
        self.crash(n);
    }

    fn fault(&mut self, fault: Fault) {
        self.line(format_args!("{fault:?}"));
        let at = self.at;
        match fault {
            Fault::Crash { node, away } => {
                let effects = self.rng.below(30);
                if let Some(up) = self.nodes[node].up.as_mut().filter(|up| up.doomed.is_none()) {
                    up.doomed = Some((effects, away));
                    self.plan_own(SECOND, node, Own::Doom);
                }
            }
            Fault::Cut { node } => self.cut(node),
            Fault::Partition { nodes, span } => {
                self.network.part(&nodes, at + span);
                nodes.into_iter().for_each(|node| self.cut(node));
            }
            Fault::Full { node, span } => {
                self.nodes[node].fill_disk();
                self.nodes[node].full_until = at + span;
            }
            Fault::Slow { node, latency, span } => {
                self.nodes[node].slow_until = at + span;
                self.nodes[node].slow_latency = latency;
            }
            Fault::FailSync { node } => self.nodes[node].disk.fail_next_sync(),
            Fault::Remove { node } => self.remove(node),
        }
        for n in 0..self.nodes.len() {
            if self.nodes[n].full_until <= at {
                self.nodes[n].disk.set_capacity(None);
            }
        }
    }

    fn remove(&mut self, n: usize) {
        // A fleet of which nobody is left tests nothing.
        if self.nodes.iter().filter(|node| node.gone).count() * 10 >= self.nodes.len() {
            return;
        }
        self.crash(n);
        self.nodes[n].gone = true;
        let key = self.nodes[n].key;
        for other in 0..self.nodes.len() {
            self.turn(other, Event::NodeGone { key });
        }
    }

    fn repair(&mut self) {
        self.repaired = true;
        self.line(format_args!("all is repaired"));
        self.network.heal();
        for n in 0..self.nodes.len() {
            self.nodes[n].disk.set_capacity(None);
            self.nodes[n].slow_until = 0;
            self.boot(n);
        }
    }

    // ---- Links

    fn dial(&mut self, n: usize) {
        let hub = self.nodes[HUB].key;
        let linked = self.nodes[n].up.as_ref().is_none_or(|up| up.links.contains_key(&hub));
        if linked || self.network.of_agent(n).is_some() {
            return;
        }
        if self.nodes[HUB].up.is_none() || !self.network.reachable(n, self.at) {
            self.dial_later(n);
            return;
        }
        let link = self.network.connect(&mut self.rng, n);
        let lives = (self.nodes[n].life, self.nodes[HUB].life);
        // The handshake takes two round trips.
        let after = self.rng.between(MS, 500 * MS);
        self.plan(after, Happening::Linked { link, lives });
    }

    fn dial_later(&mut self, n: usize) {
        let chance = self.rng.next() as u32;
        let wait = self.nodes[n].backoff.next(chance);
        self.plan_own(wait.as_micros() as u64, n, Own::Dial);
    }

    fn linked(&mut self, link: LinkId, lives: (u64, u64)) {
        let Some(agent) = self.network.link(link).map(|link| link.agent) else { return };
        if (self.nodes[agent].life, self.nodes[HUB].life) != lives || self.nodes[agent].gone {
            self.network.cut(link);
            return;
        }
        self.line(format_args!("n{agent} is linked"));
        self.nodes[agent].backoff.reset();
        let at = self.at;
        let hub_time = self.nodes[HUB].clock.now(at);
        self.nodes[agent].clock.learn(at, hub_time);
        for (n, peer, hub) in [(HUB, agent, false), (agent, HUB, true)] {
            let peer = self.nodes[peer].key;
            if let Some(up) = self.nodes[n].up.as_mut() {
                // It may believe that an older link still lives: the new one takes its place.
                up.links.insert(peer, link);
                self.turn(n, Event::LinkUp { peer, hub });
            }
        }
    }

    fn cut(&mut self, agent: usize) {
        let Some(link) = self.network.of_agent(agent) else { return };
        self.network.cut(link);
        self.checker.counts.cuts += 1;
        let keys = (self.nodes[agent].key, self.nodes[HUB].key);
        for (node, peer) in [(agent, keys.1), (HUB, keys.0)] {
            let within = if self.rng.chance(700) { SECOND } else { NOTICE_WITHIN };
            let after = self.rng.below(within);
            self.plan(after, Happening::Notice { node, peer, link });
        }
        // One that never got through its handshake is noticed by the dialler alone.
        let waits = self.nodes[agent].up.as_ref().is_some_and(|up| !up.links.contains_key(&keys.1));
        if waits {
            self.dial_later(agent);
        }
    }

    fn notice(&mut self, n: usize, peer: KeyId, link: LinkId) {
        let Some(up) = self.nodes[n].up.as_mut() else { return };
        if up.links.get(&peer) == Some(&link) {
            up.links.remove(&peer);
            self.turn(n, Event::LinkDown { peer });
        }
        if n != HUB {
            self.dial_later(n);
        }
    }

    fn frame(&mut self, n: usize, peer: KeyId, frame: Frame) {
        self.checker.counts.frames += 1;
        match frame {
            Frame::Ack(acks) => self.turn(n, Event::Acks { peer, acks }),
            Frame::Data(data) => match self.incoming(n, peer, data) {
                Ok(incoming) => self.turn(n, Event::Data(Box::new(incoming))),
                Err(what) => self.checker.violations.push(format!("n{n} got {what}")),
            },
            other => self.checker.violations.push(format!("n{n} got {other:?}")),
        }
    }

    fn incoming(&self, n: usize, peer: KeyId, data: Data) -> Result<Incoming, String> {
        let envelope = Envelope::decode(&data.envelope).map_err(|e| e.to_string())?;
        let verified = if self.scenario.verify {
            envelope.verify().map_err(|e| e.to_string())?
        } else {
            let body = envelope.trusted_body().map_err(|e| e.to_string())?;
            Verified { envelope, body }
        };
        let judged = self.judged(n, &verified.body);
        Ok(Incoming { peer, data, verified, judged })
    }

    fn judged(&self, n: usize, body: &Body) -> Result<(), Rejection> {
        let gone = |key: &KeyId| self.by_key.get(key).is_none_or(|n| self.nodes[*n].gone);
        if gone(&body.from) {
            return Err(Rejection::Denied);
        }
        match (&body.to, &body.payload) {
            (Audience::Node(to), _) if *to != self.nodes[n].key => {
                if gone(to) {
                    Err(Rejection::UnknownNode)
                } else {
                    Ok(())
                }
            }
            (_, Payload::Request(request)) => {
                let may = body.from == self.nodes[HUB].key || body.from == self.nodes[n].key;
                match request.method.as_str() {
                    "secret" if !may => Err(Rejection::Denied),
                    "nosuch" => Err(Rejection::UnknownMethod("nosuch".into())),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    // ---- Effects

    fn turn(&mut self, n: usize, event: Event) {
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

    fn carry_out(&mut self, n: usize, effects: Vec<Effect>) {
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
            let batch = mainstay_core::journal::Batch { class: Class::Owed { release: 0 }, ops: vec![op] };
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

    fn disk_start(&mut self, n: usize) {
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

    fn disk_done(&mut self, n: usize) {
        let Some(up) = self.nodes[n].up.as_mut() else { return };
        let committing = std::mem::take(&mut up.committing);
        let (tokens, batches): (Vec<_>, Vec<_>) =
            committing.into_iter().map(|queued| (queued.token, queued.batch)).unzip();
        let results = up.journal.commit(&batches);
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

    fn method(&mut self, n: usize, key: Key) {
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

    fn reply(&mut self, n: usize) {
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

    // ---- Work

    fn submit(&mut self) {
        let order = workload::draw(&mut self.work_rng, self.scenario.agents);
        let random = self.work_rng.bytes();
        let (from, to) = (order.from, order.to);
        let at = self.at;
        if self.nodes[to].gone || self.nodes[from].up.is_none() {
            return;
        }
        // A board without a clock knows neither the time nor anyone's key before its first link.
        if self.nodes[from].no_clock && !self.nodes[from].clock.told {
            return;
        }
        let now = self.nodes[from].clock.now(at);
        let id = MessageId::new(now, random);
        let draft = order.draft(id, now, self.nodes[to].key, self.nodes[to].name.clone());
        self.line(format_args!("n{from} submits {id} to n{to}: {} {:?}", order.method, order.work));
        let ticket = self.sequence.max(1);
        self.sequence += 1;
        self.tickets.insert(ticket, id);
        if let Some(after) = order.withdraw_after {
            self.plan_own(after, from, Own::Withdraw(id));
        }
        let key = Key { origin: self.nodes[from].key, id };
        self.checker.offered.insert(id, Offered { order, key, accepted: false, told: Vec::new() });
        self.turn(from, Event::Submit { ticket, drafts: vec![draft] });
    }

    // ---- The end

    fn last_words(&mut self, n: usize) -> BTreeMap<MessageId, LastWord> {
        let mut words = BTreeMap::new();
        let node = &mut self.nodes[n];
        let Some(up) = node.up.as_mut() else { return words };
        let read = up.journal.read(Table::Outbox, &mut |key, value| {
            let id = record::read_message_key(Table::Outbox, key);
            let row = record::decode::<OutboxRow>(Table::Outbox, value);
            if let (Ok(id), Ok(row)) = (id, row) {
                let file = node.files.get(&id).cloned().unwrap_or_default();
                words.insert(id, LastWord { outcome: row.outcome, provisional: row.provisional, file });
            }
        });
        if let Err(error) = read {
            self.checker.violations.push(format!("n{n} cannot read its journal: {error}"));
        }
        words
    }

    fn judge(&mut self) {
        let words: Vec<_> = (0..self.nodes.len()).map(|n| self.last_words(n)).collect();
        let offered: Vec<_> = self
            .checker
            .offered
            .iter()
            .map(|(id, offered)| (*id, offered.order.from, offered.order.to))
            .collect();
        for (id, from, to) in offered {
            let gone = (self.nodes[from].gone, self.nodes[to].gone);
            self.checker.judge(&id, words[from].get(&id), gone);
        }
        for n in 0..self.nodes.len() {
            if !self.nodes[n].gone {
                let owes = self.nodes[n].owes();
                self.checker.violations.extend(owes.into_iter().map(|what| format!("n{n} at rest: {what}")));
            }
        }
    }

    pub fn report(mut self) -> Report {
        let mut outcomes = BTreeMap::new();
        for n in 0..self.nodes.len() {
            for word in self.last_words(n).values() {
                let word = word.outcome.as_ref().map_or("open", Outcome::word);
                *outcomes.entry(word).or_default() += 1;
            }
        }
        Report {
            command: self.scenario.command(),
            accepted: self.checker.offered.values().filter(|offered| offered.accepted).count() as u64,
            outcomes,
            executions: self.checker.executions.values().map(|all| all.len() as u64).sum(),
            counts: self.checker.counts,
            violations: self.checker.violations,
            log_lines: self.log.lines(),
            log_hash: self.log.hash(),
            lasted: self.at,
        }
    }
}

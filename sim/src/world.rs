//! The queue of events: nodes that boot and crash, work and faults that come, and the judgement at the end.
//!
//! What an engine asks of its node is carried out in `shell`; what happens between two nodes is in `links`.

mod links;
mod shell;

use std::collections::BTreeMap;
use std::fmt::Arguments;

use mainstay_core::delivery::record::{self, OutboxRow};
use mainstay_core::delivery::{Event, Key};
use mainstay_core::frame::Frame;
use mainstay_core::id::{KeyId, MessageId};
use mainstay_core::journal::{Journal, Table};
use mainstay_core::outcome::Outcome;

use crate::checker::{Checker, LastWord, Offered, Report};
use crate::faults::{self, Fault, Planted};
use crate::log::Log;
use crate::network::{LinkId, Network};
use crate::node::Node;
use crate::rng::Rng;
use crate::scenario::Scenario;
use crate::workload;

const HUB: usize = 0;

const MS: u64 = 1_000;
const SECOND: u64 = 1_000_000;

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

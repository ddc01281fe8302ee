//! Engines wired together without time, threads or chance of their own: every step is the caller's choice.
//!
//! The fleet carries out effects one at a time, so that a crash can fall between any two of them. What it must
//! never see is checked as it goes ([`super::rules`]); what must hold when all is quiet is checked at the end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use mainstay_core::delivery::{
    Draft, Effect, Engine, Event, ExitReport, Incoming, Key, Limits, Refusal, ReplyJob,
};
use mainstay_core::envelope::{Audience, Body, Envelope, Payload, Request, Signer, Stream, Verified};
use mainstay_core::frame::Frame;
use mainstay_core::id::{KeyId, MessageId, NodeName};
use mainstay_core::journal::{Batch, Class, Journal};
use mainstay_core::outcome::{Exit, Outcome, Rejection};
use mainstay_core::time::Timestamp;

use super::journal::TestJournal;
use super::rules::Rules;

pub const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// Output that a method may give before it hears that some of it is on disk.
const CREDIT: usize = 128 << 10;

/// What a test asks of one message.
#[derive(Clone, Debug)]
pub struct Order {
    pub from: usize,
    pub to: usize,
    pub method: &'static str,
    pub command: bool,
    pub idempotent: bool,
    pub stream: bool,
    pub reply: bool,
    pub reply_whole: bool,
    /// Sizes of what the method writes, to both streams in turn.
    pub output: Vec<usize>,
    pub lifetime_ms: u64,
}

impl Order {
    pub fn ping(from: usize, to: usize) -> Self {
        Self {
            from,
            to,
            method: "ping",
            command: true,
            idempotent: false,
            stream: false,
            reply: true,
            reply_whole: false,
            output: Vec::new(),
            lifetime_ms: 3_600_000,
        }
    }
}

#[derive(Debug)]
pub struct Method {
    left: VecDeque<usize>,
    credit: usize,
    turn: usize,
    pub written: BTreeMap<Stream, Vec<u8>>,
    killed: bool,
}

#[derive(Debug)]
enum ReplyTask {
    Plan(Box<ReplyJob>),
    Write(Box<ReplyJob>, Bytes),
    Written { id: MessageId, upto: u64 },
}

pub struct Node {
    pub key: KeyId,
    pub name: NodeName,
    signer: Signer,
    pub hub: bool,
    pub engine: Option<Engine>,
    pub journal: TestJournal,
    effects: VecDeque<Effect>,
    commits: VecDeque<(u64, Batch)>,
    committed: VecDeque<(u64, Result<(), String>)>,
    pub methods: BTreeMap<Key, Method>,
    leftovers: BTreeSet<Key>,
    replies: VecDeque<ReplyTask>,
    /// What replies have written: the world outside, which crashes do not touch.
    pub files: BTreeMap<MessageId, Vec<(Stream, Bytes)>>,
    pub gone: bool,
}

pub struct Fleet {
    pub now: Timestamp,
    pub nodes: Vec<Node>,
    limits: Limits,
    /// Frames under way, by sender and receiver. A pair that is not here has no link.
    pub links: BTreeMap<(usize, usize), VecDeque<Frame>>,
    pub orders: BTreeMap<MessageId, Order>,
    pub accepted: BTreeSet<MessageId>,
    tickets: BTreeMap<u64, Vec<MessageId>>,
    next: u64,
    pub rules: Rules,
}

impl Fleet {
    /// The first `hubs` nodes are hubs.
    pub fn new(hubs: usize, agents: usize, limits: Limits) -> Self {
        let nodes = (0..hubs + agents).map(|n| {
            let signer = Signer::new(SigningKey::from_bytes(&[n as u8 + 1; 32]));
            Node {
                key: signer.id(),
                name: format!("n{n}").parse().expect("a valid name"),
                signer,
                hub: n < hubs,
                engine: None,
                journal: TestJournal::default(),
                effects: VecDeque::new(),
                commits: VecDeque::new(),
                committed: VecDeque::new(),
                methods: BTreeMap::new(),
                leftovers: BTreeSet::new(),
                replies: VecDeque::new(),
                files: BTreeMap::new(),
                gone: false,
            }
        });
        let mut fleet = Self {
            now: START,
            nodes: nodes.collect(),
            rules: Rules::new(limits.clone()),
            limits,
            links: BTreeMap::new(),
            orders: BTreeMap::new(),
            accepted: BTreeSet::new(),
            tickets: BTreeMap::new(),
            next: 1,
        };
        for n in 0..fleet.nodes.len() {
            fleet.start(n);
        }
        fleet
    }

    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_up(&self, n: usize) -> bool {
        self.nodes[n].engine.is_some()
    }

    pub fn start(&mut self, n: usize) {
        if self.is_up(n) || self.nodes[n].gone {
            return;
        }
        let node = &mut self.nodes[n];
        let opened =
            Engine::open(node.signer.clone(), node.hub, self.limits.clone(), &mut node.journal, self.now);
        let (engine, effects) = opened.expect("a journal that this code wrote");
        node.engine = Some(engine);
        node.effects.extend(effects);
        self.links.insert((n, n), VecDeque::new());
        self.rules.link_up(n, n);
        // Who is gone is told again after every start, from the trust log.
        let gone: Vec<_> = self.nodes.iter().filter(|node| node.gone).map(|node| node.key).collect();
        for key in gone {
            self.event(n, Event::NodeGone { key });
        }
    }

    /// Power is lost: what was not applied is gone, and nothing of the node runs on but what a crash leaves.
    pub fn crash(&mut self, n: usize) {
        if !self.is_up(n) {
            return;
        }
        self.rules.crash(n, &self.nodes[n].journal);
        let node = &mut self.nodes[n];
        node.engine = None;
        node.effects.clear();
        node.commits.clear();
        node.committed.clear();
        node.replies.clear();
        node.leftovers.clear();
        node.methods.clear();
        self.links.remove(&(n, n));
        for other in 0..self.count() {
            self.unlink(n, other);
        }
    }

    pub fn link(&mut self, a: usize, b: usize) {
        let hubs = (self.nodes[a].hub, self.nodes[b].hub);
        let may = a != b && (hubs.0 || hubs.1) && self.is_up(a) && self.is_up(b);
        if !may || self.links.contains_key(&(a, b)) || self.nodes[a].gone || self.nodes[b].gone {
            return;
        }
        for (a, b) in [(a, b), (b, a)] {
            self.links.insert((a, b), VecDeque::new());
            self.rules.link_up(a, b);
            let (peer, hub) = (self.nodes[b].key, self.nodes[b].hub);
            self.event(a, Event::LinkUp { peer, hub });
        }
    }

    /// Frames that were under way are lost.
    pub fn unlink(&mut self, a: usize, b: usize) {
        if a == b {
            return;
        }
        for (a, b) in [(a, b), (b, a)] {
            if self.links.remove(&(a, b)).is_some() && self.is_up(a) {
                let peer = self.nodes[b].key;
                self.event(a, Event::LinkDown { peer });
            }
        }
    }

    pub fn remove(&mut self, n: usize) {
        self.crash(n);
        self.nodes[n].gone = true;
        let key = self.nodes[n].key;
        for other in 0..self.count() {
            if self.is_up(other) {
                self.event(other, Event::NodeGone { key });
            }
        }
    }

    fn event(&mut self, n: usize, event: Event) {
        // One turn's effects are carried out before the next begins.
        self.carry_out(n, usize::MAX);
        let now = self.now;
        let node = &mut self.nodes[n];
        let Some(engine) = node.engine.as_mut() else { return };
        let effects = engine.handle(now, event);
        node.effects.extend(effects);
        self.rules.counters(n, engine.queues());
    }

    pub fn tick(&mut self, n: usize) {
        self.event(n, Event::Tick);
    }

    pub fn submit(&mut self, order: Order) -> MessageId {
        let random = u128::from(self.next).to_be_bytes();
        let id = MessageId::new(self.now, random[6..].try_into().expect("10 bytes"));
        self.orders.insert(id, order.clone());
        self.submit_as(id, order);
        id
    }

    /// Submits under an id that may be someone else's.
    pub fn submit_as(&mut self, id: MessageId, order: Order) {
        let request = Request {
            method: order.method.into(),
            args: order.output.iter().map(usize::to_string).collect(),
            data: Bytes::new(),
            command: order.command,
            idempotent: order.idempotent,
            timeout_ms: None,
            output_limit: 1 << 20,
            stream: order.stream,
            sealed: None,
            run: None,
            operator: None,
        };
        let draft = Draft {
            id,
            to: self.nodes[order.to].key,
            to_name: self.nodes[order.to].name.clone(),
            request,
            expires: self.now + std::time::Duration::from_millis(order.lifetime_ms),
            attempts: None,
            reply: order.reply.then(|| Bytes::from_static(b"file")),
            reply_whole: order.reply_whole,
        };
        let ticket = self.next;
        self.next += 1;
        self.tickets.insert(ticket, vec![id]);
        self.event(order.from, Event::Submit { ticket, drafts: vec![draft] });
    }

    pub fn withdraw(&mut self, id: MessageId) {
        let ticket = self.next;
        self.next += 1;
        let from = self.orders[&id].from;
        self.event(from, Event::Withdraw { ticket, id });
    }

    pub fn has_effects(&self, n: usize) -> bool {
        !self.nodes[n].effects.is_empty()
    }

    /// Carries out at most so many effects.
    pub fn carry_out(&mut self, n: usize, most: usize) {
        for _ in 0..most {
            let Some(effect) = self.nodes[n].effects.pop_front() else { return };
            self.effect(n, effect);
        }
    }

    fn effect(&mut self, n: usize, effect: Effect) {
        self.rules.effect(self.now, n, &self.nodes, &effect);
        match effect {
            Effect::Commit { token, batch, .. } => self.nodes[n].commits.push_back((token, batch)),
            Effect::Send { peer, frame } => {
                frame.encode().expect("a frame within its limit");
                let to = self.position(peer);
                if let Some(queue) = self.links.get_mut(&(n, to)) {
                    self.rules.sent(n, to, &frame);
                    queue.push_back(frame);
                }
            }
            Effect::Start { key, request, .. } => {
                let left = request.args.iter().map(|size| size.parse().expect("a size")).collect();
                let method =
                    Method { left, credit: CREDIT, turn: 0, written: BTreeMap::new(), killed: false };
                self.nodes[n].methods.insert(key, method);
            }
            Effect::Kill { key } => {
                if let Some(method) = self.nodes[n].methods.get_mut(&key) {
                    method.killed = true;
                }
            }
            Effect::KillLeftovers { key } => {
                self.nodes[n].leftovers.insert(key);
            }
            Effect::Room { key, bytes } => {
                if let Some(method) = self.nodes[n].methods.get_mut(&key) {
                    method.credit += bytes;
                    assert!(method.credit <= CREDIT, "more room was given back than output was taken");
                }
            }
            Effect::Answered { ticket, result } => match (result, self.tickets.remove(&ticket)) {
                (Ok(_), Some(ids)) => self.accepted.extend(ids),
                (Err(Refusal::NoSuchMessage(_)), Some(_)) => panic!("no refusal of a submission"),
                _ => {}
            },
            Effect::PlanReply(job) => self.nodes[n].replies.push_back(ReplyTask::Plan(job)),
            Effect::WriteReply { job, mark } => {
                self.nodes[n].replies.push_back(ReplyTask::Write(job, mark));
            }
            Effect::Ended { .. } | Effect::Served { .. } | Effect::Lent { .. } | Effect::RoomAt { .. } => {}
        }
    }

    pub fn position(&self, key: KeyId) -> usize {
        self.nodes.iter().position(|node| node.key == key).expect("a key of this fleet")
    }

    /// Makes the oldest batches durable that wait for it.
    pub fn sync(&mut self, n: usize, most: usize) -> bool {
        let node = &mut self.nodes[n];
        let mut did = false;
        for _ in 0..most {
            let Some((token, batch)) = node.commits.pop_front() else { break };
            let result = node.journal.commit(std::slice::from_ref(&batch)).remove(0);
            if result.is_ok() {
                self.rules.durable(n, node, &batch);
            } else {
                assert!(matches!(batch.class, Class::New { .. }));
            }
            node.committed.push_back((token, result.map_err(|e| e.to_string())));
            did = true;
        }
        did
    }

    pub fn committed(&mut self, n: usize) -> bool {
        let Some((token, result)) = self.nodes[n].committed.pop_front() else { return false };
        self.event(n, Event::Committed { token, result });
        true
    }

    /// Delivers the frame at this place of a link's queue; the first unless links reorder.
    pub fn deliver(&mut self, from: usize, to: usize, at: usize, keep: bool) -> bool {
        let Some(queue) = self.links.get_mut(&(from, to)) else { return false };
        if queue.is_empty() {
            return false;
        }
        let at = at % queue.len();
        let frame = if keep { queue[at].clone() } else { queue.remove(at).expect("within") };
        // What waits before a frame cannot come after it within one turn.
        let peer = self.nodes[from].key;
        match frame {
            Frame::Ack(acks) => {
                self.rules.acked(to, from, &acks);
                self.event(to, Event::Acks { peer, acks });
            }
            Frame::Data(data) => {
                let envelope = Envelope::decode(&data.envelope).expect("an envelope of this fleet");
                let body = envelope.trusted_body().expect("a body of this fleet");
                let judged = self.judge(to, &body);
                self.rules.received(to, from, &body);
                let verified = Verified { envelope, body };
                self.event(to, Event::Data(Box::new(Incoming { peer, data, verified, judged })));
            }
            other => panic!("an engine sends no {other:?}"),
        }
        true
    }

    fn judge(&self, at: usize, body: &Body) -> Result<(), Rejection> {
        let known = |key: KeyId| !self.nodes[self.position(key)].gone;
        if let Audience::Node(to) = body.to
            && to != self.nodes[at].key
        {
            return if known(to) && known(body.from) { Ok(()) } else { Err(Rejection::UnknownNode) };
        }
        match &body.payload {
            Payload::Request(request) if request.method == "denied" => Err(Rejection::Denied),
            _ => Ok(()),
        }
    }

    /// A running method gives its next output, or ends.
    pub fn progress(&mut self, n: usize, key: Key) -> bool {
        let Some(method) = self.nodes[n].methods.get_mut(&key) else { return false };
        let next = method.left.front().copied().filter(|size| !method.killed && *size <= method.credit);
        if let Some(size) = next {
            method.left.pop_front();
            method.credit -= size;
            method.turn += 1;
            let stream = if method.turn % 3 == 0 { Stream::Stderr } else { Stream::Stdout };
            let data = vec![b'a' + (method.turn % 26) as u8; size];
            method.written.entry(stream).or_default().extend_from_slice(&data);
            self.event(n, Event::Output { key, stream, data: data.into() });
        } else if method.left.is_empty() || method.killed {
            let method = self.nodes[n].methods.remove(&key).expect("it was there");
            let outcome = if method.killed { Outcome::Cancelled } else { Outcome::Finished(Exit::Code(7)) };
            let bytes = |stream| method.written.get(&stream).map_or(0, |w: &Vec<u8>| w.len() as u64);
            let exit = ExitReport {
                outcome,
                stdout_bytes: bytes(Stream::Stdout),
                stderr_bytes: bytes(Stream::Stderr),
                truncated: false,
            };
            self.rules.exited(n, key, &method, &exit.outcome);
            self.event(n, Event::Exited { key, exit });
        } else {
            return false;
        }
        true
    }

    pub fn leftovers_gone(&mut self, n: usize) -> bool {
        let Some(key) = self.nodes[n].leftovers.pop_first() else { return false };
        self.event(n, Event::LeftoversGone { key });
        true
    }

    pub fn reply(&mut self, n: usize) -> bool {
        let Some(task) = self.nodes[n].replies.pop_front() else { return false };
        match task {
            ReplyTask::Plan(job) => {
                let length = self.nodes[n].files.get(&job.id).map_or(0, Vec::len) as u64;
                let mark = Bytes::copy_from_slice(&length.to_be_bytes());
                self.event(n, Event::ReplyPlanned { id: job.id, upto: job.upto, mark });
            }
            ReplyTask::Write(job, mark) => {
                let length = u64::from_be_bytes(mark[..].try_into().expect("our own mark"));
                let file = self.nodes[n].files.entry(job.id).or_default();
                assert!(file.len() as u64 >= length, "the file is shorter than its mark");
                file.truncate(length as usize);
                file.extend(job.pieces.iter().map(|piece| (piece.stream, piece.data.clone())));
                self.rules.reply_written(&job);
                // Written, but not said yet: a crash may come between.
                self.nodes[n].replies.push_front(ReplyTask::Written { id: job.id, upto: job.upto });
            }
            ReplyTask::Written { id, upto } => {
                self.event(n, Event::ReplyWritten { id, upto, result: Ok(()) });
            }
        }
        true
    }

    /// One step of whatever can be done, in a fixed order. `false` if nothing can.
    pub fn step(&mut self) -> bool {
        for n in 0..self.count() {
            if self.has_effects(n) {
                self.carry_out(n, 1);
                return true;
            }
        }
        for n in 0..self.count() {
            if self.sync(n, 1) || self.committed(n) || self.leftovers_gone(n) || self.reply(n) {
                return true;
            }
        }
        let queued = self.links.iter().find(|(_, queue)| !queue.is_empty()).map(|(pair, _)| *pair);
        if let Some((from, to)) = queued {
            return self.deliver(from, to, 0, false);
        }
        for n in 0..self.count() {
            let keys: Vec<_> = self.nodes[n].methods.keys().copied().collect();
            if keys.into_iter().any(|key| self.progress(n, key)) {
                return true;
            }
        }
        false
    }

    /// Steps until nothing is left to do at this time.
    pub fn settle(&mut self) {
        let mut steps = 0;
        while self.step() {
            steps += 1;
            assert!(steps < 1_000_000, "the fleet never comes to rest");
        }
    }

    pub fn link_all(&mut self) {
        for a in 0..self.count() {
            for b in 0..self.count() {
                self.link(a, b);
            }
        }
    }

    /// After a rest: power fails everywhere and comes back, months pass, and nothing happens but forgetting.
    pub fn outlive(&mut self) {
        let (begun, ended) = (self.rules.begun.clone(), self.rules.ended.clone());
        for n in 0..self.count() {
            self.crash(n);
            self.start(n);
        }
        self.link_all();
        self.settle();
        self.now = self.now + std::time::Duration::from_secs(70 * 24 * 3600);
        for n in 0..self.count() {
            self.tick(n);
        }
        self.settle();
        assert_eq!(self.rules.begun, begun, "something ran again");
        for (id, ends) in &self.rules.ended {
            let before = ended.get(id).and_then(|ends| ends.last());
            assert_eq!(ends.last(), before.or(ends.last()), "{id:?} ended again");
        }
        for node in self.nodes.iter().filter(|node| !node.gone) {
            super::rules::remembers_no_more(node);
        }
    }

    /// Lets all be well, and time pass, until nothing is owed any more.
    pub fn come_to_rest(&mut self) {
        for n in 0..self.count() {
            self.nodes[n].journal.full = false;
            self.start(n);
        }
        self.link_all();
        // A message lives an hour here, a relay keeps it an hour longer, sweeps come every ten minutes.
        for _ in 0..400 {
            self.settle();
            if self.nodes.iter().all(|node| node.gone || super::rules::owes_nothing(node)) {
                self.rules.at_rest(self);
                return;
            }
            let wake = self.nodes.iter().filter_map(|node| node.engine.as_ref()?.next_wake()).min();
            self.now = self.now.max(wake.expect("a sweep always comes"));
            for n in 0..self.count() {
                self.tick(n);
            }
        }
        let left: Vec<_> = self.nodes.iter().map(super::rules::what_it_owes).collect();
        panic!("something is stuck: {left:#?}");
    }
}

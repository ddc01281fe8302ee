//! The courier: the one task that owns a node's delivery engine and turns its effects into deeds.
//!
//! Everything that happens (frames, local requests, ends of methods, durable batches, timers) comes to it
//! as an [`Input`], in one queue; each is handed to the engine, and the effects are carried out in order.
//! The courier never waits for a disk, a peer or a process: batches go to the journal through the
//! [`committer`], frames to their links' queues, methods to tasks of their own.
//!
//! When the journal fails, the courier ends with an error and everything that it knew is forgotten: its owner
//! opens the journal again and starts another (see [`crate::node`]).

pub mod committer;
pub mod failures;
pub mod judge;
pub mod names;
pub mod replies;
pub mod runner;
pub mod session;
pub mod submit;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mainstay_core::delivery::engine::Queues;
use mainstay_core::delivery::{Draft, Effect, Engine, Event, Incoming, Key, MessageStatus, Refusal, Which};
use mainstay_core::envelope::{Audience, Envelope, Stream};
use mainstay_core::frame::{Ack, Data, Frame, Goodbye, Verdict};
use mainstay_core::id::{KeyId, MessageId, NodeName};
use mainstay_core::journal::JournalError;
use mainstay_core::outcome::Outcome;
use mainstay_store::group_commit::Handle as Journal;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::hub_role::HubRole;
use crate::metrics::NodeMetrics;
use committer::{Committer, Done};
use judge::Judge;
use replies::Replies;
use runner::{MethodEvent, Runner};

/// Inputs that wait for the courier. Links and methods that meet a full queue wait, and so do their peers.
const INPUTS: usize = 1_024;

/// Inputs handled before batches and frames go out: the more at once, the fewer syncs each costs.
const TURN: usize = 256;

/// Batches under way to the journal before the courier takes nothing new in.
const OUTSTANDING: usize = 4_096;

/// Frames that wait for one link. Windows bound what is in flight; a link that has more than this waiting
/// does not read at all, and is cut.
pub const LINK_QUEUE: usize = 2_048;

/// Lazy writes wait for a batch that is synced anyway, but no longer than this.
const LAZY_FOR: Duration = Duration::from_secs(1);

/// A hub is told of the mark no more often than this: what was accepted since then could be undone by a restored
/// journal without being noticed. It costs nothing at rest, when no mark changes.
const MARK_EVERY: Duration = Duration::from_secs(1);

/// One link, as the courier sees it.
#[derive(Debug)]
pub struct LinkUp {
    pub session: u64,
    pub peer: KeyId,
    pub name: NodeName,
    pub hub: bool,
    pub address: String,
    /// The peer's mark, as its hello gave it.
    pub mark: u64,
    /// How much of the trust log the peer has, or was sent over this link.
    pub trust: u64,
    pub frames: mpsc::Sender<Frame>,
    pub cancel: CancellationToken,
}

#[derive(Debug)]
pub enum Input {
    LinkUp(Box<LinkUp>),
    LinkDown {
        session: u64,
        peer: KeyId,
    },
    Data(Box<Incoming>),
    Acks {
        peer: KeyId,
        acks: Vec<Ack>,
    },
    Mark {
        peer: KeyId,
        mark: u64,
    },
    Method(MethodEvent),
    Event(Event),
    Submit {
        drafts: Vec<Draft>,
        answer: oneshot::Sender<Result<Vec<MessageId>, Refusal>>,
    },
    Withdraw {
        id: MessageId,
        answer: oneshot::Sender<Result<Vec<MessageId>, Refusal>>,
    },
    Messages {
        answer: oneshot::Sender<Vec<MessageStatus>>,
        which: Which,
    },
    Cut {
        peer: KeyId,
        why: Goodbye,
    },
    /// A frame for every link (entries of the trust log).
    Broadcast(Frame),
    /// A frame for one linked peer, outside of any window.
    Tell {
        peer: KeyId,
        frame: Frame,
    },
    Links {
        answer: oneshot::Sender<Vec<(KeyId, NodeName, String)>>,
    },
}

/// Sends inputs to a courier. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Inputs {
    queue: mpsc::Sender<Input>,
    wakes: Arc<Wakes>,
}

/// Peers that may be owed something new. A set and not a queue: a run over ten thousand nodes must neither
/// wait for the courier nor have one of them forgotten.
#[derive(Debug, Default)]
pub struct Wakes {
    peers: Mutex<BTreeSet<KeyId>>,
    some: Notify,
}

impl Wakes {
    fn add(&self, peer: KeyId) {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).insert(peer);
        self.some.notify_one();
    }

    /// Some of them; if there are more, the next turn comes at once.
    fn take(&self) -> Vec<KeyId> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let some = std::iter::from_fn(|| peers.pop_first()).take(TURN).collect();
        if !peers.is_empty() {
            self.some.notify_one();
        }
        some
    }
}

/// The courier's end of [`Inputs`].
#[derive(Debug)]
pub struct Waiting {
    queue: mpsc::Receiver<Input>,
    wakes: Arc<Wakes>,
}

/// The courier has stopped.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("this node is stopping")]
pub struct Stopped;

impl Inputs {
    pub fn channel() -> (Self, Waiting) {
        let (sender, receiver) = mpsc::channel(INPUTS);
        let wakes = Arc::<Wakes>::default();
        (Self { queue: sender, wakes: wakes.clone() }, Waiting { queue: receiver, wakes })
    }

    pub async fn send(&self, input: Input) -> Result<(), Stopped> {
        self.queue.send(input).await.map_err(|_| Stopped)
    }

    /// This peer may be owed something new. Does not wait, and is not lost.
    pub fn wake(&self, peer: KeyId) {
        self.wakes.add(peer);
    }

    pub async fn submit(&self, drafts: Vec<Draft>) -> Result<Result<Vec<MessageId>, Refusal>, Stopped> {
        let (answer, answered) = oneshot::channel();
        self.send(Input::Submit { drafts, answer }).await?;
        answered.await.map_err(|_| Stopped)
    }

    pub async fn withdraw(&self, id: MessageId) -> Result<Result<Vec<MessageId>, Refusal>, Stopped> {
        let (answer, answered) = oneshot::channel();
        self.send(Input::Withdraw { id, answer }).await?;
        answered.await.map_err(|_| Stopped)
    }

    pub async fn messages(&self, which: Which) -> Result<Vec<MessageStatus>, Stopped> {
        let (answer, answered) = oneshot::channel();
        self.send(Input::Messages { answer, which }).await?;
        answered.await.map_err(|_| Stopped)
    }

    pub async fn links(&self) -> Result<Vec<(KeyId, NodeName, String)>, Stopped> {
        let (answer, answered) = oneshot::channel();
        self.send(Input::Links { answer }).await?;
        answered.await.map_err(|_| Stopped)
    }
}

/// What a courier works with.
pub struct Parts {
    pub me: KeyId,
    pub engine: Engine,
    pub first: Vec<Effect>,
    pub journal: Journal,
    pub inputs: Waiting,
    pub own: Inputs,
    pub clock: Clock,
    pub judge: Arc<Judge>,
    pub hub: Option<Arc<dyn HubRole>>,
    pub runner: Runner,
    pub replies: Replies,
    pub metrics: NodeMetrics,
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
    /// Where the mark is put for hellos.
    pub mark: Arc<std::sync::atomic::AtomicU64>,
    /// Where queue lengths are put for whoever asks without waiting.
    pub queues: Arc<std::sync::Mutex<Queues>>,
    /// Why new work is refused at present.
    pub refusing: Arc<std::sync::Mutex<Option<String>>>,
}

struct Courier {
    parts: Parts,
    committer: Committer,
    outstanding: usize,
    sessions: HashMap<KeyId, Session>,
    tickets: HashMap<u64, oneshot::Sender<Result<Vec<MessageId>, Refusal>>>,
    next_ticket: u64,
    batches: Vec<(u64, mainstay_core::journal::Batch)>,
    lazy: Vec<(u64, mainstay_core::journal::Batch)>,
    lazy_since: Option<tokio::time::Instant>,
    /// Frames from this node to itself.
    looped: VecDeque<Frame>,
    /// Failures to be told to the hub.
    reports: Vec<Draft>,
    mark_told: (u64, tokio::time::Instant),
}

struct Session {
    id: u64,
    name: NodeName,
    address: String,
    hub: bool,
    mark: u64,
    frames: mpsc::Sender<Frame>,
    cancel: CancellationToken,
}

/// Runs a courier until it is told to stop (`Ok`) or its journal fails.
pub async fn run(mut parts: Parts) -> Result<(), JournalError> {
    let (committer, mut done) = Committer::start(parts.journal.clone(), &parts.tasks);
    let first = std::mem::take(&mut parts.first);
    let mut courier = Courier {
        parts,
        committer,
        outstanding: 0,
        sessions: HashMap::new(),
        tickets: HashMap::new(),
        next_ticket: 0,
        batches: Vec::new(),
        lazy: Vec::new(),
        lazy_since: None,
        looped: VecDeque::new(),
        reports: Vec::new(),
        mark_told: (0, tokio::time::Instant::now()),
    };
    courier.carry_out(first);
    let result = courier.turns(&mut done).await;
    courier.end().await;
    result
}

impl Courier {
    async fn turns(&mut self, done: &mut mpsc::UnboundedReceiver<Done>) -> Result<(), JournalError> {
        loop {
            self.finish_turn();
            let wake = self.wake_at();
            tokio::select! {
                biased;
                () = self.parts.stop.cancelled() => return Ok(()),
                Some(finished) = done.recv() => {
                    self.committed(finished)?;
                    while let Ok(finished) = done.try_recv() {
                        self.committed(finished)?;
                    }
                }
                Some(input) = self.parts.inputs.queue.recv(), if self.outstanding < OUTSTANDING => {
                    self.input(input);
                    for _ in 1..TURN {
                        match self.parts.inputs.queue.try_recv() {
                            Ok(input) => self.input(input),
                            Err(_) => break,
                        }
                    }
                }
                // Looked at in every turn, so that nothing else that comes can keep them waiting.
                () = self.parts.inputs.wakes.some.notified() => {}
                () = tokio::time::sleep_until(wake) => self.turn(Event::Tick),
            }
        }
    }

    fn wake_at(&self) -> tokio::time::Instant {
        let now = tokio::time::Instant::now();
        let engine = self.parts.engine.next_wake().map(|when| now + when.since(self.parts.clock.now()));
        let lazy = self.lazy_since.map(|since| since + LAZY_FOR);
        // A clock that jumps must not leave us asleep for long; nor may an idle agent wake often.
        let far = now + Duration::from_secs(600);
        engine.into_iter().chain(lazy).chain(self.mark_due()).chain([far]).min().unwrap_or(far)
    }

    /// Hands over what this turn wants durable, and says what has become of queues.
    fn finish_turn(&mut self) {
        for peer in self.parts.inputs.wakes.take() {
            self.lend(peer);
        }
        let reports = std::mem::take(&mut self.reports);
        if !reports.is_empty() {
            // Nobody waits for the answer: ticket 0 is never given out.
            self.turn(Event::Submit { ticket: 0, drafts: reports });
        }
        while let Some(frame) = self.looped.pop_front() {
            self.loop_back(frame);
        }
        let lazy_due = self.lazy_since.is_some_and(|since| since.elapsed() >= LAZY_FOR);
        if !self.batches.is_empty() || lazy_due {
            // Lazy writes first: they were decided before.
            let mut batches = std::mem::take(&mut self.lazy);
            batches.append(&mut self.batches);
            self.lazy_since = None;
            self.outstanding += batches.len();
            self.committer.commit(batches);
        }
        self.parts.mark.store(self.parts.engine.mark(), std::sync::atomic::Ordering::Release);
        let queues = self.parts.engine.queues();
        self.parts.metrics.queues(&queues, self.sessions.len());
        self.parts.metrics.repeated(self.parts.engine.repeated());
        if let Ok(mut shown) = self.parts.queues.lock() {
            *shown = queues;
        }
        self.tell_mark();
    }

    fn tell_mark(&mut self) {
        if self.mark_due().is_some_and(|at| at <= tokio::time::Instant::now()) {
            let mark = self.parts.engine.mark();
            self.mark_told = (mark, tokio::time::Instant::now());
            for session in self.sessions.values().filter(|session| session.hub) {
                let _ = session.frames.try_send(Frame::Mark(mark));
            }
        }
    }

    /// When hubs are to hear of a mark that they do not know.
    fn mark_due(&self) -> Option<tokio::time::Instant> {
        let linked = self.parts.hub.is_none() && !self.sessions.is_empty();
        (linked && self.parts.engine.mark() != self.mark_told.0).then(|| self.mark_told.1 + MARK_EVERY)
    }

    fn committed(&mut self, done: Done) -> Result<(), JournalError> {
        self.outstanding = self.outstanding.saturating_sub(1);
        let result = match done.result {
            Ok(()) => {
                self.note_refusing(None);
                Ok(())
            }
            Err(error) if error.is_refusal() => {
                self.note_refusing(Some(error.to_string()));
                Err(error.to_string())
            }
            Err(error) => return Err(error),
        };
        self.turn(Event::Committed { token: done.token, result });
        Ok(())
    }

    fn note_refusing(&self, why: Option<String>) {
        if let Ok(mut refusing) = self.parts.refusing.lock()
            && *refusing != why
        {
            match &why {
                Some(why) => warn!("new work is refused: {why}"),
                None => info!("new work is taken again"),
            }
            *refusing = why;
        }
    }

    fn turn(&mut self, event: Event) {
        let now = self.parts.clock.now();
        let effects = self.parts.engine.handle(now, event);
        self.carry_out(effects);
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::LinkUp(link) => self.link_up(*link),
            Input::LinkDown { session, peer } => self.link_down(session, peer),
            Input::Data(incoming) => self.turn(Event::Data(incoming)),
            Input::Acks { peer, acks } => self.turn(Event::Acks { peer, acks }),
            Input::Mark { peer, mark } => {
                if let Some(session) = self.sessions.get_mut(&peer) {
                    session.mark = session.mark.max(mark);
                }
            }
            Input::Method(MethodEvent::Output { key, stream, data }) => self.output(key, stream, data),
            Input::Method(MethodEvent::Ended { key, exit }) => self.turn(Event::Exited { key, exit }),
            Input::Event(event) => {
                if let Event::NodeGone { key } = &event {
                    self.cut(*key, Goodbye::Revoked);
                }
                self.turn(event);
            }
            Input::Submit { drafts, answer } => {
                let ticket = self.ticket(answer);
                self.turn(Event::Submit { ticket, drafts });
            }
            Input::Withdraw { id, answer } => {
                let ticket = self.ticket(answer);
                self.turn(Event::Withdraw { ticket, id });
            }
            Input::Messages { answer, which } => {
                let _ = answer.send(self.parts.engine.messages(which));
            }
            Input::Cut { peer, why } => self.cut(peer, why),
            Input::Broadcast(frame) => {
                // A link that takes no more is cut, and made up to date by its next hello: it must not go on without.
                for peer in self.sessions.keys().copied().collect::<Vec<_>>() {
                    self.send(peer, frame.clone());
                }
            }
            Input::Tell { peer, frame } => self.send(peer, frame),
            Input::Links { answer } => {
                let links = self.sessions.iter().map(|(key, s)| (*key, s.name.clone(), s.address.clone()));
                let _ = answer.send(links.collect());
            }
        }
    }

    fn output(&mut self, key: Key, stream: Stream, data: bytes::Bytes) {
        self.turn(Event::Output { key, stream, data });
    }

    fn ticket(&mut self, answer: oneshot::Sender<Result<Vec<MessageId>, Refusal>>) -> u64 {
        self.next_ticket += 1;
        self.tickets.insert(self.next_ticket, answer);
        self.next_ticket
    }

    fn link_up(&mut self, link: LinkUp) {
        let LinkUp { session, peer, name, hub, address, mark, trust, frames, cancel } = link;
        if !self.may_link(&peer) {
            // It was revoked while it said hello: nobody will cut a link that was not there then.
            let _ = frames.try_send(Frame::Goodbye(Goodbye::Revoked));
            cancel.cancel();
            return;
        }
        let news = if hub { Vec::new() } else { self.parts.judge.trust_after(trust) };
        if !news.is_empty() {
            let _ = frames.try_send(Frame::Trust(news));
        }
        if let Some(old) = self.sessions.remove(&peer) {
            // The node dialled again before this end noticed that the old link is dead.
            let _ = old.frames.try_send(Frame::Goodbye(Goodbye::Replaced));
            old.cancel.cancel();
            self.turn(Event::LinkDown { peer });
            if let Some(role) = &self.parts.hub {
                // Its mark counts: of two machines with one key, one falls behind it.
                role.link_down(peer, old.mark);
            }
        }
        info!(node = %name, %address, "linked");
        if let Some(role) = &self.parts.hub {
            role.link_up(peer, &address);
        }
        self.sessions.insert(peer, Session { id: session, name, address, hub, mark, frames, cancel });
        self.turn(Event::LinkUp { peer, hub });
    }

    fn may_link(&self, peer: &KeyId) -> bool {
        !self.parts.judge.is_revoked(peer)
            && self.parts.hub.as_ref().is_none_or(|role| role.name_of(*peer).is_some())
    }

    fn link_down(&mut self, id: u64, peer: KeyId) {
        if self.sessions.get(&peer).is_some_and(|session| session.id == id) {
            let Some(session) = self.sessions.remove(&peer) else { return };
            info!(node = %session.name, "link down");
            self.turn(Event::LinkDown { peer });
            if let Some(role) = &self.parts.hub {
                role.link_down(peer, session.mark);
            }
        }
    }

    fn cut(&mut self, peer: KeyId, why: Goodbye) {
        if let Some(session) = self.sessions.get(&peer) {
            let _ = session.frames.try_send(Frame::Goodbye(why));
            session.cancel.cancel();
            let id = session.id;
            self.link_down(id, peer);
        }
    }

    /// Puts envelopes of runs into the room that a peer's window has left.
    fn lend(&mut self, peer: KeyId) {
        let Some(role) = self.parts.hub.clone() else { return };
        let room = self.parts.engine.room(&peer);
        if room == 0 || (peer != self.parts.me && !self.sessions.contains_key(&peer)) {
            return;
        }
        for envelope in role.next_for(peer, room) {
            let Ok(body) = envelope.trusted_body() else {
                warn!("a run's envelope cannot be read back");
                continue;
            };
            let bytes = envelope.encode();
            if self.parts.engine.lend(&peer, body.id, bytes.len()) {
                self.send(peer, Frame::Data(Data { envelope: bytes, chain: Vec::new() }));
            } else {
                let reason = "an envelope of the same id is in flight".into();
                role.verdict(peer, body.id, &Verdict::Busy { reason, retry_ms: 1_000 });
            }
        }
    }

    fn send(&mut self, peer: KeyId, frame: Frame) {
        if peer == self.parts.me {
            self.looped.push_back(frame);
            return;
        }
        if let Frame::Ack(acks) = &frame {
            for ack in acks {
                if let Verdict::Refused(why) = &ack.verdict {
                    self.parts.metrics.refused(session::refusal_word(why));
                }
            }
        }
        let Some(session) = self.sessions.get(&peer) else { return };
        if session.frames.try_send(frame).is_err() {
            // It does not read: what it misses is sent again over its next link.
            warn!(node = %session.name, "its link takes no more frames; cutting it");
            session.cancel.cancel();
            let id = session.id;
            self.link_down(id, peer);
        }
    }

    /// A frame that this node sent to itself.
    fn loop_back(&mut self, frame: Frame) {
        let me = self.parts.me;
        match frame {
            Frame::Ack(acks) => self.turn(Event::Acks { peer: me, acks }),
            Frame::Data(data) => {
                // Its own bytes, from its own memory: nothing to verify.
                let Ok(envelope) = Envelope::decode(&data.envelope) else { return };
                let Ok(body) = envelope.trusted_body() else { return };
                let verified = mainstay_core::envelope::Verified { envelope, body };
                if verified.body.to == Audience::Hubs {
                    self.answer_to_self(verified);
                    return;
                }
                let judged = self.parts.judge.own(&verified.body);
                let incoming = Incoming { peer: me, data, verified, judged };
                self.turn(Event::Data(Box::new(incoming)));
            }
            _ => {}
        }
    }

    /// An answer of this hub's own node to a run.
    fn answer_to_self(&self, verified: mainstay_core::envelope::Verified) {
        let Some(role) = self.parts.hub.clone() else { return };
        let (own, me, id) = (self.parts.own.clone(), self.parts.me, verified.body.id);
        self.parts.tasks.spawn(async move {
            let verdict = role.answer(me, verified).await;
            let _ = own.send(Input::Acks { peer: me, acks: vec![Ack { id, verdict }] }).await;
        });
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.effect(effect);
        }
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Commit { token, batch, lazy: true } => {
                self.lazy_since.get_or_insert_with(tokio::time::Instant::now);
                self.lazy.push((token, batch));
            }
            Effect::Commit { token, batch, lazy: false } => self.batches.push((token, batch)),
            Effect::Send { peer, frame } => self.send(peer, frame),
            Effect::Start { key, sender, request } => self.parts.runner.start(key, sender, *request),
            Effect::Kill { key } => self.parts.runner.kill(key),
            Effect::KillLeftovers { key } => self.parts.runner.kill_leftovers(key),
            Effect::Room { key, bytes } => self.parts.runner.room(key, bytes),
            Effect::Answered { ticket, result } => {
                if let Some(answer) = self.tickets.remove(&ticket) {
                    let _ = answer.send(result);
                }
            }
            Effect::PlanReply(job) => self.parts.replies.plan(*job),
            Effect::WriteReply { job, mark } => self.parts.replies.write(*job, mark),
            Effect::Ended { id, to, method, outcome, provisional, after } => {
                self.parts.metrics.ended(&outcome, after);
                if outcome.is_ok() {
                    debug!(%id, node = %to, %method, %outcome, "message ended");
                } else {
                    warn!(%id, node = %to, %method, %outcome, provisional, "message ended");
                }
                let (now, queues) = (self.parts.clock.now(), self.parts.engine.queues());
                if let Some(draft) =
                    failures::report(now, &queues, &failures::Ended { id, to, method, outcome, provisional })
                {
                    self.reports.push(draft);
                }
            }
            Effect::Served { key, method, outcome } => {
                self.parts.metrics.served(&outcome);
                log_served(&key, &method, &outcome);
            }
            Effect::Lent { peer, id, verdict } => {
                if let Some(role) = &self.parts.hub {
                    role.verdict(peer, id, &verdict);
                }
            }
            Effect::RoomAt { peer } => self.lend(peer),
        }
    }

    /// Says goodbye to everyone and lets what is under way to the disk get there.
    async fn end(mut self) {
        let mark = self.parts.engine.mark();
        for (_, session) in self.sessions.drain() {
            if session.hub {
                let _ = session.frames.try_send(Frame::Mark(mark));
            }
            let _ = session.frames.try_send(Frame::Goodbye(Goodbye::Stopping));
            session.cancel.cancel();
        }
        let mut batches = std::mem::take(&mut self.lazy);
        batches.append(&mut self.batches);
        if !batches.is_empty() {
            self.committer.commit(batches);
        }
        self.committer.finish().await;
    }
}

fn log_served(key: &Key, method: &str, outcome: &Outcome) {
    if outcome.is_ok() {
        debug!(id = %key.id, %method, %outcome, "served");
    } else {
        info!(id = %key.id, %method, %outcome, "served");
    }
}

/// Queue lengths as people see them.
pub fn queue_words(queues: &Queues) -> BTreeMap<String, u64> {
    [("outbox", queues.outbox), ("inbox", queues.inbox), ("running", queues.running), ("relay", queues.relay)]
        .into_iter()
        .map(|(word, n)| (word.to_owned(), n as u64))
        .collect()
}

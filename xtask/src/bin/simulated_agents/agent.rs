//! One simulated agent: a link, an engine, and a share of the common journal.
//!
//! It is what an agent's courier is, without processes, replies and reconnecting: every message is verified, made
//! durable and answered; a method ends at once with exit code 0.

use std::collections::VecDeque;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use mainstay_core::delivery::{Draft, Effect, Engine, Event, ExitReport, Incoming, Limits as Queues};
use mainstay_core::envelope::{Envelope, Signer};
use mainstay_core::frame::{Ack, Frame, Hello, OLDEST_PROTOCOL, PROTOCOL, Resolve, Verdict};
use mainstay_core::id::{KeyId, MessageId, NodeName};
use mainstay_core::journal::{Batch, JournalError};
use mainstay_core::outcome::{Exit, Outcome};
use mainstay_core::trust::TrustLog;
use mainstay_link::chain::Trust;
use mainstay_link::dialer::TlsDialer;
use mainstay_link::limits::{Limits, LinkCounters};
use mainstay_link::link::{Link, LinkReceiver, LinkSender};
use mainstay_link::tls::Credentials;
use mainstay_store::{Handle as Journal, ModelDisk};
use tokio::sync::mpsc;

use crate::member::{Member, facts, now};

pub enum Order {
    Submit(Vec<Draft>),
    Resolve(NodeName),
}

/// What the load wants to know.
pub enum Told {
    /// A message of its own has its end.
    Ended(MessageId),
    /// The hub has the answer to a message on its disk.
    Answered,
    Resolved(Option<KeyId>),
}

/// What is left to the outside of an agent that runs.
pub struct Handle {
    pub name: NodeName,
    pub orders: mpsc::Sender<Order>,
    pub told: mpsc::UnboundedReceiver<Told>,
}

type Commit = BoxFuture<'static, (Vec<u64>, Vec<Result<(), JournalError>>)>;

pub struct Agent {
    pub number: usize,
    me: KeyId,
    hub: KeyId,
    engine: Engine,
    sender: LinkSender,
    receiver: LinkReceiver,
    journal: Journal,
    commits: FuturesUnordered<Commit>,
    batches: Vec<(u64, Batch)>,
    lazy: Vec<(u64, Batch)>,
    events: VecDeque<Event>,
    frames: Vec<Frame>,
    orders: mpsc::Receiver<Order>,
    tell: mpsc::UnboundedSender<Told>,
    tickets: u64,
}

impl Agent {
    pub async fn link(
        member: &Member,
        journal: Journal,
        limits: Limits,
        counters: Arc<LinkCounters>,
    ) -> anyhow::Result<(Self, Handle)> {
        let credentials = Credentials::new(member.key.clone(), member.chain.clone())?;
        let dialer = TlsDialer::new(&credentials, Trust::Ca(member.ca.clone()), limits, counters)?;
        let Link { peer, mut sender, mut receiver } = dialer.dial(&member.hub).await?.link;
        let hello = Hello {
            protocols: (OLDEST_PROTOCOL, PROTOCOL),
            capabilities: Vec::new(),
            name: member.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            now: now(),
            trust_length: 0,
            trust_head: [0; 32],
            journal: member.journal,
            mark: 0,
            facts: Some(Box::new(facts(member.number))),
        };
        sender.send(&Frame::Hello(Box::new(hello))).await?;
        let Some(Frame::Hello(theirs)) = receiver.recv().await? else { bail!("the hub says no hello") };
        let mut trust = TrustLog::default();
        while trust.epoch() < theirs.trust_length {
            let Some(Frame::Trust(entries)) = receiver.recv().await? else {
                bail!("trust entries are missing")
            };
            for entry in entries {
                trust.append(entry)?;
            }
        }
        receiver.admit();
        let signer = Signer::new(member.key.clone());
        let me = signer.id();
        // Nothing is restarted here, so nothing is read: an empty model stands in for the past.
        let mut nothing = ModelDisk::new().open();
        let (engine, first) = Engine::open(signer, false, Queues::default(), &mut nothing, now())?;
        let (orders_in, orders) = mpsc::channel(16);
        let (tell, told) = mpsc::unbounded_channel();
        let mut agent = Self {
            number: member.number,
            me,
            hub: peer.key,
            engine,
            sender,
            receiver,
            journal,
            commits: FuturesUnordered::new(),
            batches: Vec::new(),
            lazy: Vec::new(),
            events: VecDeque::new(),
            frames: Vec::new(),
            orders,
            tell,
            tickets: 0,
        };
        first.into_iter().for_each(|effect| agent.act(effect));
        agent.events.push_back(Event::LinkUp { peer: peer.key, hub: true });
        let handle = Handle { name: member.name.clone(), orders: orders_in, told };
        Ok((agent, handle))
    }

    pub async fn run(mut self) -> anyhow::Result<()> {
        loop {
            self.turn().await?;
            let wake =
                self.engine.next_wake().map_or(std::time::Duration::from_secs(600), |at| at.since(now()));
            tokio::select! {
                Some((tokens, results)) = self.commits.next(), if !self.commits.is_empty() => {
                    for (token, result) in tokens.into_iter().zip(results) {
                        result.context("the shared journal failed")?;
                        self.events.push_back(Event::Committed { token, result: Ok(()) });
                    }
                }
                frame = self.receiver.recv() => {
                    let Some(frame) = frame? else { return Ok(()) };
                    self.frame(frame)?;
                }
                Some(order) = self.orders.recv() => match order {
                    Order::Submit(drafts) => {
                        self.tickets += 1;
                        self.events.push_back(Event::Submit { ticket: self.tickets, drafts });
                    }
                    Order::Resolve(name) => self.frames.push(Frame::Resolve(Resolve { number: 1, names: vec![name] })),
                },
                () = tokio::time::sleep(wake) => self.events.push_back(Event::Tick),
            }
        }
    }

    /// Hands all that happened to the engine, then carries out what came of it.
    async fn turn(&mut self) -> anyhow::Result<()> {
        while let Some(event) = self.events.pop_front() {
            for effect in self.engine.handle(now(), event) {
                self.act(effect);
            }
        }
        if !self.batches.is_empty() {
            let mut all = std::mem::take(&mut self.lazy);
            all.append(&mut self.batches);
            let (tokens, batches) = all.into_iter().unzip();
            let journal = self.journal.clone();
            self.commits.push(Box::pin(async move { (tokens, journal.commit_all(batches).await) }));
        }
        if !self.frames.is_empty() {
            for frame in self.frames.drain(..) {
                self.sender.feed(&frame).await?;
            }
            self.sender.flush().await?;
        }
        Ok(())
    }

    fn act(&mut self, effect: Effect) {
        match effect {
            Effect::Commit { token, batch, lazy: true } => self.lazy.push((token, batch)),
            Effect::Commit { token, batch, lazy: false } => self.batches.push((token, batch)),
            Effect::Send { peer, frame } if peer == self.hub => self.frames.push(frame),
            // Nobody here sends to itself.
            Effect::Send { .. } => {}
            Effect::Start { key, .. } => {
                let exit = ExitReport::without_output(Outcome::Finished(Exit::Code(0)));
                self.events.push_back(Event::Exited { key, exit });
            }
            Effect::KillLeftovers { key } => self.events.push_back(Event::LeftoversGone { key }),
            Effect::Ended { id, provisional: false, .. } => drop(self.tell.send(Told::Ended(id))),
            _ => {}
        }
    }

    fn frame(&mut self, frame: Frame) -> anyhow::Result<()> {
        match frame {
            Frame::Data(data) => {
                let verified = Envelope::decode(&data.envelope)?.verify()?;
                let incoming = Incoming { peer: self.hub, data, verified, judged: Ok(()) };
                self.events.push_back(Event::Data(Box::new(incoming)));
            }
            Frame::Ack(acks) => {
                for _ in acks.iter().filter(|ack| is_accepted(ack)) {
                    let _ = self.tell.send(Told::Answered);
                }
                self.events.push_back(Event::Acks { peer: self.hub, acks });
            }
            Frame::Ping(number) => self.frames.push(Frame::Pong(number)),
            Frame::Resolved(found) => {
                let _ = self.tell.send(Told::Resolved(found.found.first().map(|(_, key)| *key)));
            }
            Frame::Goodbye(why) => bail!("agent {} ({}): {why:?}", self.number, self.me.short()),
            _ => {}
        }
        Ok(())
    }
}

fn is_accepted(ack: &Ack) -> bool {
    ack.verdict == Verdict::Accepted
}

//! A node from start to stop: opens the journal, starts the courier and all that feeds it, and starts them
//! anew when the journal fails.
//!
//! One *life* is one open journal and everything that believes it. When a sync or a write fails, nothing that
//! was written since the last good one is believed: the life ends, its links are cut, and the next life reads
//! the journal again.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use mainstay_core::access::Rules;
use mainstay_core::backoff::Backoff;
use mainstay_core::delivery::engine::{OpenError, Queues};
use mainstay_core::delivery::record::{META_CLOCK_FLOOR, META_JOURNAL_ID};
use mainstay_core::delivery::{Engine, Event, Limits, MessageStatus, Refusal, Which};
use mainstay_core::envelope::Signer;
use mainstay_core::frame::{Facts, Frame, Goodbye};
use mainstay_core::id::{JournalId, KeyId, MessageId, NodeName};
use mainstay_core::journal::{Batch, Class, Damage, Journal as _, JournalError, Op, Table};
use mainstay_core::message::MessageErrors;
use mainstay_core::received_path::Roots;
use mainstay_core::time::Timestamp;
use mainstay_core::trust::{TrustError, TrustLog};
use mainstay_link::chain::FleetCa;
use mainstay_link::limits::{Limits as LinkLimits, LinkCounters};
use mainstay_link::listener::TlsListener;
use mainstay_link::tls::{Credentials, TlsError};
use mainstay_store::group_commit::{Handle as Journal, Writer};
use mainstay_store::sqlite_journal::SqliteJournal;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::clock::Clock;
use crate::courier::judge::Judge;
use crate::courier::names::Names;
use crate::courier::replies::Replies;
use crate::courier::runner::Runner;
use crate::courier::submit::{self, Accepted};
use crate::courier::{self, Input, Inputs, Parts, queue_words};
use crate::hub_role::{CourierHandle, HubRole, SubmitError};
use crate::intake::{self, BindError, Intake, Line};
use crate::method::{Means, Methods};
use crate::metrics::NodeMetrics;
use crate::process::Processes;
use crate::received::Received;
use crate::state::SessionOptions;
use crate::trust_store::TrustStore;
use crate::{dial, listen, reply};

/// Between lives: a disk that fails is not hammered.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long tasks get to end when the node stops; what runs is killed before.
const STOP_WITHIN: Duration = Duration::from_secs(8);

/// How often the floor of fleet time is looked at.
const CLOCK_EVERY: Duration = Duration::from_secs(300);

/// What a node is made of.
pub struct NodeConfig {
    pub data: PathBuf,
    pub key: SigningKey,
    /// The name under which it joined.
    pub name: NodeName,
    pub chain: Vec<Bytes>,
    pub ca: FleetCa,
    pub facts: Facts,
    pub version: String,
    pub rules: Rules,
    /// Directories outside the data directory where replies may be written.
    pub roots: Roots,
    pub limits: Limits,
    pub clock: Clock,
    pub metrics: Arc<Mutex<Registry>>,
    pub side: Side,
    /// The kinds of state that this program knows.
    pub modules: mainstay_module::registry::Registry,
}

/// What makes a node an agent or a hub.
pub enum Side {
    Agent {
        hubs: Vec<String>,
    },
    Hub {
        role: Arc<dyn HubRole>,
        trust: Arc<RwLock<TrustLog>>,
        listener: Arc<TlsListener>,
        counters: Arc<LinkCounters>,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("the journal cannot be opened")]
    Journal(#[from] JournalError),
    #[error("the journal's content cannot be used")]
    Open(#[from] OpenError),
    #[error("the stored trust log cannot be used")]
    Trust(#[from] TrustError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the system has no thread for the journal")]
    Thread(#[from] std::io::Error),
    #[error("the system gives no randomness")]
    Randomness,
    #[error("the message socket cannot be opened")]
    Socket(#[from] BindError),
}

impl NodeError {
    /// Whether another life may go better without anyone doing something.
    fn is_transient(&self) -> bool {
        matches!(self, Self::Journal(JournalError::Failed(_) | JournalError::Full))
    }
}

/// One life, as its tasks share it.
pub struct Shared {
    pub me: KeyId,
    pub version: String,
    pub hub: Option<Arc<dyn HubRole>>,
    pub trust: TrustStore,
    pub clock: Clock,
    pub names: Names,
    pub metrics: NodeMetrics,
    pub ca: FleetCa,
    pub link_limits: LinkLimits,
    pub link_counters: Arc<LinkCounters>,
    pub stop: CancellationToken,
    pub tasks: TaskTracker,
    name: NodeName,
    facts: Facts,
    judge: Arc<Judge>,
    inputs: Inputs,
    journal: Journal,
    journal_id: JournalId,
    mark: Arc<AtomicU64>,
    proof: AtomicBool,
}

impl Shared {
    pub fn name(&self) -> NodeName {
        self.name.clone()
    }

    pub fn facts(&self) -> Facts {
        self.facts.clone()
    }

    pub fn journal_id(&self) -> JournalId {
        self.journal_id
    }

    pub fn mark(&self) -> u64 {
        self.mark.load(Ordering::Acquire)
    }

    pub fn inputs(&self) -> &Inputs {
        &self.inputs
    }

    pub fn judge(&self) -> &Judge {
        &self.judge
    }

    /// A link proved itself.
    pub fn proven(&self) {
        self.proof.store(true, Ordering::Release);
    }

    pub fn take_proof(&self) -> bool {
        self.proof.swap(false, Ordering::AcqRel)
    }

    /// The keys of all these names, or which have none.
    pub async fn resolve(&self, names: &[NodeName]) -> Result<HashMap<NodeName, KeyId>, submit::SubmitError> {
        let mut keys: HashMap<NodeName, KeyId> = HashMap::new();
        let mut others = Vec::new();
        for name in names {
            if *name == self.name {
                keys.insert(name.clone(), self.me);
            } else if let Some(role) = &self.hub {
                keys.extend(role.resolve(name).map(|key| (name.clone(), key)));
            } else {
                others.push(name.clone());
            }
        }
        if !others.is_empty() {
            keys.extend(self.names.ask(&self.inputs, &others).await);
        }
        let missing: Vec<String> =
            names.iter().filter(|name| !keys.contains_key(name)).map(ToString::to_string).collect();
        if missing.is_empty() {
            return Ok(keys);
        }
        let linked = self.hub.is_some() || self.inputs.links().await.is_ok_and(|links| !links.is_empty());
        Err(if linked {
            submit::SubmitError::UnknownNodes(missing)
        } else {
            submit::SubmitError::UnknownOffline(missing)
        })
    }
}

/// Reaches a node's present life. Cheap to clone.
#[derive(Clone, Default)]
pub struct NodeHandle(Arc<HandleInner>);

#[derive(Default)]
struct HandleInner {
    life: Mutex<Option<Arc<Shared>>>,
    queues: Arc<Mutex<Queues>>,
    refusing: Arc<Mutex<Option<String>>>,
}

impl NodeHandle {
    pub fn life(&self) -> Option<Arc<Shared>> {
        self.0.life.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Accepts the messages of a message file with this node as their origin: all or none.
    pub async fn send(
        &self,
        operator: Option<&str>,
        text: &str,
    ) -> Result<Vec<Accepted>, submit::SubmitError> {
        let life = self.life().ok_or(submit::SubmitError::Stopped(courier::Stopped))?;
        submit::submit(&life, operator, text).await
    }

    /// A node was revoked or removed: nothing is owed to it any more.
    pub fn node_gone(&self, key: KeyId) {
        let handle = self.clone();
        if let Some(life) = self.life() {
            let inputs = life.inputs.clone();
            // Must not be lost to a full queue.
            life.tasks.spawn(async move {
                let _keep = handle;
                let _ = inputs.send(Input::Event(Event::NodeGone { key })).await;
            });
        }
    }
}

#[async_trait]
impl CourierHandle for NodeHandle {
    fn wake(&self, key: KeyId) {
        // Between two lives there is no link either: what is owed is looked at when one is up.
        if let Some(life) = self.life() {
            life.inputs.wake(key);
        }
    }

    fn cut(&self, key: KeyId, why: Goodbye) {
        if matches!(why, Goodbye::Revoked) {
            self.node_gone(key);
        } else if let Some(life) = self.life() {
            let inputs = life.inputs.clone();
            life.tasks.spawn(async move {
                let _ = inputs.send(Input::Cut { peer: key, why }).await;
            });
        }
    }

    fn trust_changed(&self) {
        let Some(life) = self.life() else { return };
        let inputs = life.inputs.clone();
        let (epoch, _) = life.trust.position();
        // Entries that a peer has already are passed over by it.
        let entries = life.trust.after(epoch.saturating_sub(16));
        life.tasks.spawn(async move {
            let _ = inputs.send(Input::Broadcast(Frame::Trust(entries))).await;
        });
    }

    async fn submit(&self, operator: &str, text: &str) -> Result<Vec<MessageId>, SubmitError> {
        match self.send(Some(operator), text).await {
            Ok(accepted) => Ok(accepted.into_iter().map(|accepted| accepted.id).collect()),
            Err(submit::SubmitError::Text(errors)) => Err(SubmitError::Invalid(errors.to_string())),
            Err(submit::SubmitError::UnknownNodes(names) | submit::SubmitError::UnknownOffline(names)) => {
                Err(SubmitError::UnknownNode(names.join(", ")))
            }
            Err(submit::SubmitError::Refused(refusal @ Refusal::TooLarge(_))) => {
                Err(SubmitError::Invalid(refusal.to_string()))
            }
            Err(submit::SubmitError::Refused(refusal)) => Err(SubmitError::Full(refusal.to_string())),
            Err(other) => Err(SubmitError::Failed(other.to_string())),
        }
    }

    async fn messages(&self, which: Which) -> Result<Vec<MessageStatus>, SubmitError> {
        let failed = || SubmitError::Failed("this node's journal is not open now".into());
        let life = self.life().ok_or_else(failed)?;
        life.inputs.messages(which).await.map_err(|_| failed())
    }

    async fn copy_journal(&self, to: &std::path::Path) -> Result<(), SubmitError> {
        let journal = self.life().map(|life| life.journal.clone());
        let journal =
            journal.ok_or_else(|| SubmitError::Failed("this node's journal is not open now".into()))?;
        crate::journal_copy::copy(&journal, to).await.map_err(|error| SubmitError::Failed(error.to_string()))
    }

    fn queues(&self) -> BTreeMap<String, u64> {
        queue_words(&self.0.queues.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn refusing(&self) -> Option<String> {
        self.0.refusing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A node that can be run.
pub struct Node {
    config: NodeConfig,
    handle: NodeHandle,
    processes: Arc<Processes>,
    replies: reply::Replies,
    metrics: NodeMetrics,
}

impl Node {
    pub fn new(config: NodeConfig) -> Self {
        let me = KeyId::from_bytes(config.key.verifying_key().to_bytes());
        let processes = Processes::open(&config.data, me);
        let metrics = NodeMetrics::new(&config.metrics);
        let replies = reply::Replies::new(Received::new(&config.data, config.roots.clone()));
        Self { config, handle: NodeHandle::default(), processes, replies, metrics }
    }

    pub fn handle(&self) -> NodeHandle {
        self.handle.clone()
    }

    /// Runs until told to stop. `ready` is called once, when the first life takes messages.
    ///
    /// # Errors
    /// What a person must mend: a journal that is newer or cannot be used, certificates that do not fit.
    pub async fn run(self, stop: CancellationToken, ready: impl FnOnce() + Send) -> Result<(), NodeError> {
        let mut ready = Some(ready);
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let began = tokio::time::Instant::now();
            // A life is large, and lasts: it need not lie in whatever runs this.
            let result = Box::pin(self.live(&stop, &mut ready)).await;
            if began.elapsed() > LONGEST_PAUSE {
                // It was a life, not another failed start.
                backoff.reset();
            }
            match result {
                Ok(()) if stop.is_cancelled() => return Ok(()),
                Ok(()) => {}
                // At the first start a person is there to read it.
                Err(error) if ready.is_some() || !error.is_transient() => return Err(error),
                Err(error) => error!("{error}; opening the journal again"),
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(backoff.next(dial::chance())) => {}
            }
        }
    }

    fn methods(&self, signer: &Signer) -> Methods {
        let config = &self.config;
        Methods::new(&Means {
            processes: self.processes.clone(),
            data: config.data.clone(),
            states: SessionOptions {
                // Of the default directory that is the machine's own; another one is another node's on the same machine.
                data: config.data.clone(),
                machine: Some(signer.id().to_string()),
                labels: config.facts.labels.clone(),
                ..SessionOptions::new(config.modules.clone(), config.version.clone())
            },
        })
    }

    async fn live(
        &self,
        stop: &CancellationToken,
        ready: &mut Option<impl FnOnce() + Send>,
    ) -> Result<(), NodeError> {
        let config = &self.config;
        let (mut journal, damage) = SqliteJournal::open(&config.data.join("journal.db"))?;
        report(&damage);
        let meta = read_meta(&mut journal)?;
        let clock = config.clock.clone();
        clock.raise(meta.floor);
        let signer = Signer::new(config.key.clone());
        let is_hub = matches!(config.side, Side::Hub { .. });
        let methods = self.methods(&signer);
        let limits = Limits { one_at_a_time: methods.one_at_a_time(), ..config.limits.clone() };
        let (engine, first) = Engine::open(signer.clone(), is_hub, limits, &mut journal, clock.now())?;
        journal.restore_reservation(engine.reserved());
        let stored_trust = read_trust(&mut journal)?;
        let names = read_names(&mut journal)?;
        let writer = Writer::start(Box::new(journal))?;
        let journal = writer.handle();
        let life_stop = stop.child_token();
        let tasks = TaskTracker::new();
        let (inputs, waiting) = Inputs::channel();
        let (role, trust, counters) = match &config.side {
            Side::Agent { .. } => {
                let trust = TrustStore::of_agent(stored_trust, journal.clone(), config.ca.key());
                (None, trust, Arc::<LinkCounters>::default())
            }
            Side::Hub { role, trust, counters, .. } => {
                (Some(role.clone()), TrustStore::of_hub(trust.clone()), counters.clone())
            }
        };
        // Before a message that was interrupted is said to have ended.
        let data = config.data.clone();
        let _ = tokio::task::spawn_blocking(move || crate::state::end_leftovers(&data)).await;
        let judge = Arc::new(Judge::new(
            signer.id(),
            trust.log(),
            config.rules.clone(),
            methods.clone(),
            config.ca.clone(),
            role.clone(),
        ));
        let mark = Arc::new(AtomicU64::new(engine.mark()));
        let shared = Arc::new(Shared {
            me: signer.id(),
            version: config.version.clone(),
            hub: role.clone(),
            trust,
            clock: clock.clone(),
            names: Names::new(names, journal.clone()),
            metrics: self.metrics.clone(),
            ca: config.ca.clone(),
            link_limits: LinkLimits::default(),
            link_counters: counters,
            stop: life_stop.clone(),
            tasks: tasks.clone(),
            name: config.name.clone(),
            facts: config.facts.clone(),
            judge: judge.clone(),
            inputs: inputs.clone(),
            journal: journal.clone(),
            journal_id: meta.id,
            mark: mark.clone(),
            proof: AtomicBool::new(false),
        });
        let runner = Runner::new(methods, self.processes.clone(), signer, inputs.clone(), tasks.clone());
        let parts = Parts {
            me: shared.me,
            engine,
            first,
            journal: journal.clone(),
            inputs: waiting,
            own: inputs.clone(),
            clock: clock.clone(),
            judge,
            hub: role,
            runner: runner.clone(),
            replies: Replies::new(self.replies.clone(), inputs.clone(), tasks.clone(), life_stop.clone()),
            metrics: self.metrics.clone(),
            tasks: tasks.clone(),
            stop: life_stop.clone(),
            mark,
            queues: self.handle.0.queues.clone(),
            refusing: self.handle.0.refusing.clone(),
        };
        *self.handle.0.life.lock().unwrap_or_else(PoisonError::into_inner) = Some(shared.clone());
        let started = self.start_tasks(&shared, journal).await;
        let result = match started {
            Ok(()) => {
                if let Some(ready) = ready.take() {
                    ready();
                }
                courier::run(parts).await.map_err(NodeError::from)
            }
            Err(error) => Err(error),
        };
        *self.handle.0.life.lock().unwrap_or_else(PoisonError::into_inner) = None;
        life_stop.cancel();
        // What runs is not ended by this node's word: the next life finds it `started` and says `interrupted`.
        runner.kill_all();
        tasks.close();
        if tokio::time::timeout(STOP_WITHIN, tasks.wait()).await.is_err() {
            warn!("{} tasks did not end in time", tasks.len());
        }
        drop(shared);
        let stopped = writer.stop().await;
        result.and_then(|()| stopped.map_err(NodeError::from))
    }

    async fn start_tasks(&self, shared: &Arc<Shared>, journal: Journal) -> Result<(), NodeError> {
        let tasks = shared.tasks.clone();
        match &self.config.side {
            Side::Agent { hubs } => {
                let credentials = Credentials::new(self.config.key.clone(), self.config.chain.clone())?;
                let (shared, hubs) = (shared.clone(), hubs.clone());
                tasks.spawn(async move {
                    if let Err(error) = dial::run(shared, credentials, hubs).await {
                        error!("this node cannot dial: {error}");
                    }
                });
            }
            Side::Hub { listener, .. } => {
                tasks.spawn(listen::run(shared.clone(), listener.clone()));
            }
        }
        let intake = Intake::bind(&self.config.data.join("message.sock"))?;
        let submit: Arc<dyn intake::Submit> = Arc::new(MessageSocket(shared.clone()));
        tasks.spawn(intake.run(submit, shared.stop.clone()));
        tasks.spawn(keep_clock(shared.clock.clone(), journal, shared.stop.clone()));
        Ok(())
    }
}

/// What the message socket leads to. Whoever may open it is this node, as far as the fleet can tell.
struct MessageSocket(Arc<Shared>);

#[async_trait]
impl intake::Submit for MessageSocket {
    async fn submit(&self, text: String) -> Vec<Line> {
        match submit::submit(&self.0, None, &text).await {
            Ok(accepted) => {
                accepted.into_iter().map(|Accepted { id, to }| Line::Accepted { id, to }).collect()
            }
            Err(submit::SubmitError::Text(errors)) => problem_lines(&errors),
            Err(error) => vec![Line::refused(error.to_string())],
        }
    }
}

fn problem_lines(errors: &MessageErrors) -> Vec<Line> {
    let mut lines: Vec<Line> = errors
        .iter()
        .map(|error| Line::Refused {
            error: match &error.hint {
                Some(hint) => format!("{}; {hint}", error.message),
                None => error.message.clone(),
            },
            field: error.field.clone(),
            line: Some(error.line as u64),
            column: Some(error.column as u64),
        })
        .collect();
    if errors.unlisted() > 0 {
        lines.push(Line::refused(format!("and {} more", errors.unlisted())));
    }
    lines
}

/// Writes the floor of fleet time now and then.
async fn keep_clock(clock: Clock, journal: Journal, stop: CancellationToken) {
    loop {
        if let Some(floor) = clock.floor_to_persist() {
            let op = Op::Put {
                table: Table::Meta,
                key: Bytes::from_static(META_CLOCK_FLOOR),
                value: Bytes::copy_from_slice(&floor.as_millis().to_be_bytes()),
            };
            // On failure the floor is older, which is what a floor may be.
            let _ = journal.commit(Batch { class: Class::Owed { release: 0 }, ops: vec![op] }).await;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(CLOCK_EVERY) => {}
        }
    }
}

fn report(damage: &Damage) {
    for note in &damage.notes {
        error!("the journal is damaged: {note}");
    }
    if !damage.records.is_empty() {
        let mut by_table: BTreeMap<Table, usize> = BTreeMap::new();
        for (table, _) in &damage.records {
            *by_table.entry(*table).or_default() += 1;
        }
        for (table, count) in by_table {
            error!("{count} damaged records of table {table:?} were set aside; what they held is lost");
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct JournalMeta {
    pub id: JournalId,
    pub floor: Timestamp,
}

fn read_meta(journal: &mut SqliteJournal) -> Result<JournalMeta, NodeError> {
    let (mut id, mut floor) = (None, Timestamp::default());
    journal.read(Table::Meta, &mut |key, value| {
        if key == META_JOURNAL_ID {
            id = <[u8; 16]>::try_from(value).ok().map(JournalId::from_bytes);
        } else if key == META_CLOCK_FLOOR
            && let Ok(bytes) = <[u8; 8]>::try_from(value)
        {
            floor = Timestamp::from_millis(i64::from_be_bytes(bytes));
        }
    })?;
    let id = match id {
        Some(id) => id,
        None => {
            let mut random = [0; 10];
            getrandom::fill(&mut random).map_err(|_| NodeError::Randomness)?;
            let id = JournalId::new(Clock::new(floor).now(), random);
            let op = Op::Put {
                table: Table::Meta,
                key: Bytes::from_static(META_JOURNAL_ID),
                value: Bytes::copy_from_slice(id.as_bytes()),
            };
            let batch = Batch { class: Class::New { reserve: 0 }, ops: vec![op] };
            journal.commit(&[batch]).into_iter().collect::<Result<(), _>>()?;
            info!(%id, "a new journal");
            id
        }
    };
    Ok(JournalMeta { id, floor })
}

/// What a journal says of itself before a node runs on it: its id (made if it is new) and the time below
/// which fleet time cannot be.
pub fn read_journal(data: &std::path::Path) -> Result<JournalMeta, NodeError> {
    let (mut journal, damage) = SqliteJournal::open(&data.join("journal.db"))?;
    // Opening sets damaged records aside: whoever opens it later is not told of them again.
    report(&damage);
    read_meta(&mut journal)
}

fn read_trust(journal: &mut SqliteJournal) -> Result<TrustLog, NodeError> {
    let mut entries = Vec::new();
    journal.read(Table::Trust, &mut |_, value| entries.push(value.to_vec()))?;
    Ok(TrustLog::replay(entries.iter().map(Vec::as_slice))?)
}

fn read_names(journal: &mut SqliteJournal) -> Result<HashMap<NodeName, KeyId>, NodeError> {
    let mut names = HashMap::new();
    journal.read(Table::Names, &mut |key, value| {
        let name = std::str::from_utf8(key).ok().and_then(|name| name.parse().ok());
        if let (Some(name), Ok(key)) = (name, <[u8; 32]>::try_from(value)) {
            names.insert(name, KeyId::from_bytes(key));
        }
    })?;
    Ok(names)
}

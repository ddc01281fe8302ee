//! The hub: one cheap handle behind which the API, the CLI's socket and the courier find everything.
//!
//! Here are its making, its parts and its end. What operators ask is in [`nodes`], [`tokens`], [`runs`] and [`messages`]; what the courier asks
//! is in [`role`]; what time alone asks is in [`upkeep`].

pub mod approval;
mod messages;
mod nodes;
mod role;
mod runs;
mod tokens;
mod upkeep;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use futures_core::Stream;
use mainstay_core::frame::Goodbye;
use mainstay_core::id::{KeyId, NodeName, RunId};
use mainstay_core::time::Timestamp;
use mainstay_node::hub_role::CourierHandle;
use mainstay_store::{SharedStore, SqliteStore};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::audit::{Audit, AuditError};
use crate::backup::{self, BackupError};
use crate::dispatch::{Dispatch, OpenRun};
use crate::fleet::{Fleet, FleetError};
use crate::metrics::{Metrics, SharedRegistry};
use crate::recorder::{self, Note, Recorder, RunLog as _};
use crate::registry::{Registry, RegistryError};
use crate::run::Run;
use crate::run_record::{Closing, Entry, RunRecord, decode};
use crate::shelf::{Expect, Shelf, ShelfError};
use crate::token::{TokenError, Tokens};
use crate::view::*;

pub type RunEvents = Pin<Box<dyn Stream<Item = Result<(u64, RunEvent), Problem>> + Send>>;

/// Fleet time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

pub struct HubConfig {
    pub data_dir: PathBuf,
    /// The hub's own name, as a node of its fleet.
    pub name: NodeName,
    /// `host:port` under which nodes find this hub; they go into join tokens.
    pub addresses: Vec<String>,
    pub clock: Clock,
    pub store: SharedStore,
    /// The same store where it is embedded, so that a backup can copy it.
    pub embedded: Option<Arc<SqliteStore>>,
    pub metrics: SharedRegistry,
    pub history: upkeep::History,
}

pub use upkeep::History;

#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// The hub's tasks end with its last handle.
    _last: Arc<DropGuard>,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hub({})", self.inner.config.name)
    }
}

pub(crate) struct Inner {
    pub(crate) config: HubConfig,
    pub(crate) shelf: Shelf,
    pub(crate) fleet: Fleet,
    pub(crate) registry: Registry,
    pub(crate) tokens: Tokens,
    pub(crate) audit: Audit,
    pub(crate) metrics: Metrics,
    dispatch: Mutex<Dispatch>,
    notes: mpsc::UnboundedSender<Note>,
    /// How much output may wait to be written, in KiB.
    room: Arc<Semaphore>,
    courier: OnceLock<Arc<dyn CourierHandle>>,
    /// Runs whose nodes all have final ends.
    closed: Mutex<BTreeMap<RunId, Closing>>,
    /// How many nodes of a run had ended when their plans were counted, and how many plans there were.
    counted: Mutex<HashMap<RunId, (u64, u64)>>,
    positions: Mutex<HashMap<RunId, watch::Sender<u64>>>,
    /// Wakes the upkeep before its time.
    upkeep: tokio::sync::Notify,
    /// Where the log of reported errors begins and ends.
    errors: tokio::sync::Mutex<upkeep::ErrorLog>,
    /// It was restored from a backup and has met no node since: its trust log may lack entries.
    unsettled: std::sync::atomic::AtomicBool,
    /// One backup at a time.
    backing_up: tokio::sync::Mutex<()>,
    /// When this life of the hub began.
    pub(crate) started: Timestamp,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Fleet(#[from] FleetError),
    #[error("the registry of nodes cannot be opened")]
    Registry(#[from] RegistryError),
    #[error("the tokens cannot be opened")]
    Tokens(#[from] TokenError),
    #[error("the audit log cannot be opened")]
    Audit(#[from] AuditError),
    #[error("the runs cannot be read")]
    Store(#[from] ShelfError),
}

impl Hub {
    /// Opens what the store and the data directory hold, makes what a first start or a crash left out, and
    /// starts its tasks.
    pub async fn open(config: HubConfig) -> Result<Self, OpenError> {
        let shelf = Shelf::new(config.store.clone());
        let now = (config.clock)();
        let fleet = Fleet::open(&config.data_dir, &config.name, shelf.clone(), now).await?;
        let registry = Registry::open(shelf.clone()).await?;
        let tokens = Tokens::open(shelf.clone()).await?;
        let audit = Audit::open(shelf.clone()).await?;
        let metrics = Metrics::new(&config.metrics);
        let (notes, taken) = mpsc::unbounded_channel();
        let inner = Arc::new(Inner {
            shelf,
            fleet,
            registry,
            tokens,
            audit,
            metrics,
            dispatch: Mutex::default(),
            notes,
            room: Arc::new(Semaphore::new(recorder::WAITING_KIB)),
            courier: OnceLock::new(),
            closed: Mutex::default(),
            counted: Mutex::default(),
            positions: Mutex::default(),
            upkeep: tokio::sync::Notify::new(),
            errors: tokio::sync::Mutex::default(),
            unsettled: crate::backup::is_unsettled(&config.data_dir).into(),
            backing_up: tokio::sync::Mutex::default(),
            started: now,
            config,
        });
        inner.open_runs().await?;
        inner.open_errors().await?;
        inner.agree_with_trust().await;
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let recorder = Recorder::new(inner.clone(), taken);
        tasks.spawn(recorder.run(stop.clone()));
        if backup::has_old_runs(&inner.config.data_dir) {
            let (done, written) = tokio::sync::oneshot::channel();
            inner.note(Note::Restored(done));
            match written.await {
                Ok(Ok(())) => backup::ended_old_runs(&inner.config.data_dir),
                Ok(Err(e)) => return Err(e.into()),
                Err(_) => {}
            }
        }
        tasks.spawn(inner.clone().keep_up(stop.clone()));
        tasks.close();
        let last = Arc::new(stop.clone().drop_guard());
        Ok(Self { inner, tasks, stop, _last: last })
    }

    /// Tells the hub of its node's courier. Once, before the first link.
    pub fn attach(&self, courier: Arc<dyn CourierHandle>) {
        if self.inner.courier.set(courier).is_err() {
            tracing::warn!("a second courier was not attached");
        }
    }

    /// Writes what is only in memory, ends the hub's tasks, and closes an embedded store.
    pub async fn shutdown(&self) {
        self.settle().await;
        self.stop.cancel();
        self.tasks.wait().await;
        self.inner.registry.flush().await;
        if let Some(store) = &self.inner.config.embedded {
            store.close().await;
        }
    }

    /// Returns when all that happened in runs before this call is written.
    pub async fn settle(&self) {
        let (done, written) = tokio::sync::oneshot::channel();
        self.inner.note(Note::Settle(done));
        written.await.ok();
    }

    /// Does now what time asks for; it is done by itself too, a little later.
    pub async fn look_again(&self) {
        self.inner.look_again().await;
        self.settle().await;
    }

    /// Does work to its end, even if whoever asked goes away meanwhile: an act that is dropped between two writes would be half
    /// done until the next start.
    async fn whole<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Problem>> + Send + 'static,
    ) -> Result<T, Problem> {
        let done = self.tasks.spawn(work).await;
        done.unwrap_or_else(|e| Err(Problem::new(ProblemKind::Internal, e.to_string())))
    }

    /// Keys, certificates and the trust log.
    pub fn fleet(&self) -> &Fleet {
        &self.inner.fleet
    }

    pub async fn status(&self) -> Result<StatusView, Problem> {
        let inner = &self.inner;
        let (states, online) = inner.registry.tally();
        let runs_pending = inner.dispatch().runs().filter(|run| run.pending() > 0).count() as u64;
        let courier = inner.courier.get();
        Ok(StatusView {
            name: inner.config.name.to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            ca_fingerprint: inner.fleet.ca_fingerprint().to_string(),
            key: key_text(&inner.fleet.key()),
            listen: inner.config.addresses.join(" "),
            nodes: states
                .iter()
                .filter(|(state, _)| **state != NodeState::Removed)
                .map(|(_, count)| count)
                .sum(),
            online,
            epoch: *inner.fleet.epochs().borrow(),
            runs_pending,
            queues: courier.map(|courier| courier.queues()).unwrap_or_default(),
            refusing: courier.and_then(|courier| courier.refusing()),
        })
    }

    /// The audit log's last entries as JSON values, newest first, each with its hash.
    pub async fn audit(&self, by: &Operator, limit: usize) -> Result<Vec<serde_json::Value>, Problem> {
        admin(by)?;
        Ok(self.inner.audit.last(limit.min(upkeep::MAX_LIST)).await?)
    }

    /// Writes a consistent copy of the hub's whole state to a new file, which must not exist (0600).
    pub async fn backup(&self, by: &Operator, file: &Path) -> Result<(), Problem> {
        let (hub, by, file) = (self.clone(), by.clone(), file.to_owned());
        self.whole(async move { hub.back_up(&by, &file).await }).await
    }

    async fn back_up(&self, by: &Operator, file: &Path) -> Result<(), Problem> {
        admin(by)?;
        let inner = &self.inner;
        let Some(store) = &inner.config.embedded else {
            return Err(Problem::new(ProblemKind::Conflict, "the store of this hub is not its own")
                .hint("back up the cluster that holds it, and this hub's data directory"));
        };
        let courier =
            inner.courier.get().ok_or_else(|| Problem::new(ProblemKind::Internal, "the hub is starting"))?;
        let detail = serde_json::json!({"file": file});
        inner.audit.note(inner.now(), &by.name, "backup", detail).await?;
        let _one = inner.backing_up.lock().await;
        let dir = &inner.config.data_dir;
        let work = backup::WorkDir::make(dir)?;
        let (stored, journal) = (work.path(backup::STORE), work.path(backup::JOURNAL));
        // What the runs and the registry know only in memory belongs to the state too.
        self.settle().await;
        inner.registry.flush().await;
        store.backup(&stored).await.map_err(ShelfError::from)?;
        courier
            .copy_journal(&journal)
            .await
            .map_err(|e| Problem::new(ProblemKind::Internal, format!("the journal cannot be copied: {e}")))?;
        let mut parts = backup::identity_parts(dir);
        parts.extend([
            backup::Part { name: backup::STORE, path: stored },
            backup::Part { name: backup::JOURNAL, path: journal },
        ]);
        let file = file.to_owned();
        let written = tokio::task::spawn_blocking(move || {
            let result = backup::write(&file, &parts);
            drop(work);
            result
        });
        Ok(written.await.map_err(|e| Problem::new(ProblemKind::Internal, e.to_string()))??)
    }

    /// Checks the audit log's chain. Returns how many entries it has.
    pub async fn verify_audit(&self, by: &Operator) -> Result<u64, Problem> {
        admin(by)?;
        Ok(self.inner.audit.verify().await?)
    }
}

impl Inner {
    pub(crate) fn now(&self) -> Timestamp {
        (self.config.clock)()
    }

    /// Quick work only; never held across an await.
    pub(crate) fn dispatch(&self) -> MutexGuard<'_, Dispatch> {
        self.dispatch.lock().expect("no holder panics")
    }

    pub(crate) fn note(&self, note: Note) {
        // The recorder ends only when the hub does.
        self.notes.send(note).ok();
    }

    pub(crate) fn wake(&self, keys: impl IntoIterator<Item = KeyId>) {
        if let Some(courier) = self.courier.get() {
            keys.into_iter().for_each(|key| courier.wake(key));
        }
    }

    fn cut(&self, key: KeyId, why: Goodbye) {
        if let Some(courier) = self.courier.get() {
            courier.cut(key, why);
        }
    }

    fn trust_changed(&self) {
        if let Some(courier) = self.courier.get() {
            courier.trust_changed();
        }
    }

    /// A node's trust log has been merged with this hub's when its link is up.
    fn met_a_node(&self) {
        if self.unsettled.swap(false, std::sync::atomic::Ordering::Relaxed) {
            crate::backup::settle(&self.config.data_dir);
        }
    }

    fn may_extend_trust(&self) -> bool {
        !self.unsettled.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Tells those who watch that the logs of these runs have grown.
    pub(crate) fn moved(&self, runs: &[(RunId, u64)]) {
        let mut positions = self.positions.lock().expect("no holder panics");
        if positions.is_empty() {
            return;
        }
        for (run, position) in runs {
            if let Some(sender) = positions.get(run) {
                sender.send_replace(*position);
            }
        }
        positions.retain(|_, sender| sender.receiver_count() > 0);
    }

    fn watch(&self, run: RunId) -> watch::Receiver<u64> {
        let mut positions = self.positions.lock().expect("no holder panics");
        positions.entry(run).or_insert_with(|| watch::channel(0).0).subscribe()
    }

    /// All nodes of the run have their final ends: what is kept of it in memory is what its listing needs.
    pub(crate) async fn close_run(&self, run: RunId, closing: Closing) {
        let key = format!("run_done.{run}");
        match self.shelf.put(&key, &closing, Expect::Absent).await {
            Ok(_) | Err(ShelfError::Conflict) => {
                // First where it is found afterwards, then away from where it was.
                self.closed.lock().expect("no holder panics").insert(run, closing);
                self.dispatch().remove(&run);
            }
            Err(e) => tracing::warn!(%run, "a run could not be closed and stays open: {e}"),
        }
    }

    /// Reads the runs that are not closed, and mends what a crash left half done.
    async fn open_runs(&self) -> Result<(), ShelfError> {
        let mut closed: BTreeMap<RunId, Closing> = BTreeMap::new();
        for (key, closing, _) in self.shelf.list::<Closing>("run_done").await? {
            if let Some(run) = key.strip_prefix("run_done.").and_then(|id| id.parse().ok()) {
                closed.insert(run, closing);
            }
        }
        let mut known = std::collections::BTreeSet::new();
        for (key, record, revision) in self.shelf.list::<RunRecord>("run").await? {
            let run = record.run;
            known.insert(run);
            if closed.contains_key(&run) {
                continue;
            }
            let open = self.read_run(record).await?;
            if !open.is_whole() {
                // Killed while it was accepted: nobody was told its id.
                self.shelf.trim(&run.log(), None).await?;
                self.shelf.delete(&key, Expect::Revision(revision)).await?;
                known.remove(&run);
            } else if let Some(closing) = open.closing(self.now()) {
                self.shelf.put(&format!("run_done.{run}"), &closing, Expect::Any).await?;
                closed.insert(run, closing);
            } else {
                self.add_run(open, false);
            }
        }
        for run in closed.keys().filter(|run| !known.contains(*run)) {
            // Killed while it was pruned.
            self.shelf.delete(&format!("run_done.{run}"), Expect::Any).await?;
        }
        closed.retain(|run, _| known.contains(run));
        *self.closed.lock().expect("no holder panics") = closed;
        Ok(())
    }

    async fn read_run(&self, record: RunRecord) -> Result<Run, ShelfError> {
        let log = record.run.log();
        let mut run = Run::new(Arc::new(record));
        let mut steps = Vec::new();
        loop {
            let page = self.shelf.read(&log, run.position, upkeep::PAGE).await?;
            if page.is_empty() {
                return Ok(run);
            }
            for (position, bytes) in page {
                match decode::<Entry>(&bytes) {
                    Ok(entry) => run.apply(position, bytes.len(), &entry, &mut steps),
                    Err(e) => {
                        tracing::error!(log, position, "{e}");
                        run.position = position;
                    }
                }
            }
        }
    }

    /// From here on the run is carried out. Returns the linked nodes to look at.
    fn add_run(&self, mut run: Run, fresh: bool) -> Vec<KeyId> {
        let mut steps = Vec::new();
        run.go_live(fresh, &mut steps);
        let id = run.record.run;
        let identity = self.fleet.signer().signing_key();
        let content = run.record.sealed.as_ref().and_then(|sealed| {
            let content = sealed.open_key(identity).ok();
            if content.is_none() {
                tracing::error!(run = %id, "the sealed fields of a run were made for another hub's key");
            }
            content
        });
        let open = OpenRun { run, content };
        let awake = self.dispatch().add(open, &steps);
        self.note(Note::Look(id));
        awake
    }
}

/// Changing the fleet itself is for admins.
fn admin(by: &Operator) -> Result<(), Problem> {
    if by.admin {
        Ok(())
    } else {
        Err(Problem::new(
            ProblemKind::Forbidden,
            format!("{} may not do this: it is for administrators of the fleet", by.name),
        ))
    }
}

impl From<ShelfError> for Problem {
    fn from(e: ShelfError) -> Self {
        let kind = match &e {
            ShelfError::Full => ProblemKind::Full,
            ShelfError::Conflict => ProblemKind::Conflict,
            ShelfError::TooLarge(_) => ProblemKind::Invalid,
            _ => ProblemKind::Internal,
        };
        Self::new(kind, e.to_string())
    }
}

impl From<BackupError> for Problem {
    fn from(e: BackupError) -> Self {
        let kind = match &e {
            BackupError::Exists { .. } | BackupError::NotEmpty { .. } => ProblemKind::Conflict,
            BackupError::NotABackup { .. } | BackupError::Damaged { .. } => ProblemKind::Invalid,
            BackupError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                ProblemKind::Full
            }
            BackupError::Io { .. } => ProblemKind::Internal,
        };
        let source = std::error::Error::source(&e).map(|source| format!(": {source}"));
        Self::new(kind, format!("{e}{}", source.unwrap_or_default()))
    }
}

impl From<AuditError> for Problem {
    fn from(e: AuditError) -> Self {
        match e {
            AuditError::Store(e) => e.into(),
            e => Self::new(ProblemKind::Internal, e.to_string()),
        }
    }
}

impl From<FleetError> for Problem {
    fn from(e: FleetError) -> Self {
        match e {
            FleetError::Store(e) => e.into(),
            e => Self::new(ProblemKind::Internal, e.to_string()),
        }
    }
}

impl From<RegistryError> for Problem {
    fn from(e: RegistryError) -> Self {
        match e {
            RegistryError::Store(e) => e.into(),
            RegistryError::Unknown => Self::new(ProblemKind::NotFound, e.to_string()),
            RegistryError::NameTaken(_) => Self::new(ProblemKind::Conflict, e.to_string())
                .hint("give it another name, or remove the node that has this one"),
            RegistryError::Conflict(_) => Self::new(ProblemKind::Conflict, e.to_string()),
        }
    }
}

impl From<TokenError> for Problem {
    fn from(e: TokenError) -> Self {
        match e {
            TokenError::Store(e) => e.into(),
            TokenError::TooMany => Self::new(ProblemKind::Full, e.to_string()),
            TokenError::Random => Self::new(ProblemKind::Internal, e.to_string()),
            e => Self::new(ProblemKind::Unauthorized, e.to_string()),
        }
    }
}

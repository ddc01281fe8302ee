//! The Store on SQLite, inside the hub's own process: a thread that owns the database and takes all calls
//! that wait into one transaction and one sync.
//!
//! What the calls do to the tables is in `store_tables`. When the disk fails, what was under way is
//! answered with [`StoreError::Unknown`], all watches end, and the next call opens the database anew: to
//! those who use it, a failure looks like one of a remote store.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::sqlite_file::{Conditions, FileError};
use crate::store::{
    Entry, Expect, Key, Lease, Listing, LogName, MAX_APPEND, MAX_STORE_VALUE, Position, Prefix, Revision,
    Store, StoreError, Ttl, Watch,
};
pub use crate::store_tables::{Clock, STORE_FORMAT, StoreDamage};
use crate::store_tables::{Outcome, Tables};

/// Calls that may wait; beyond it callers wait for a place.
const QUEUE: usize = 1_024;

/// Most calls in one transaction: beyond this the sync is a small part of the cost.
const MAX_CALLS: usize = 256;

/// Owns the thread; dropped without [`SqliteStore::close`], the thread ends by itself.
pub struct SqliteStore {
    calls: Mutex<Option<mpsc::Sender<Box<dyn Call>>>>,
    ended: tokio::sync::Mutex<Option<Ended>>,
}

struct Ended {
    signal: oneshot::Receiver<()>,
    thread: JoinHandle<()>,
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore").finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens the store at `path`, or creates it. Leases end by `clock`, which must never go back. Reads
    /// everything once; what is damaged is set aside and reported. Blocks while it does.
    ///
    /// # Errors
    /// [`StoreError::Newer`] if a newer version wrote it; it is not touched then.
    /// [`StoreError::Unavailable`] if another process has it open, if it is no store, or if it cannot be read.
    pub fn open(path: &Path, clock: Clock) -> Result<(Self, StoreDamage), StoreError> {
        Self::open_under(path, clock, Conditions::default())
    }

    /// Opens it on a simulated disk.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    #[cfg(any(test, feature = "testing"))]
    pub fn open_on(
        disk: &crate::fault_vfs::FaultDisk,
        clock: Clock,
    ) -> Result<(Self, StoreDamage), StoreError> {
        let conditions = Conditions { simulated: Some(disk.files()), skip_sync: false };
        Self::open_under(Path::new("store.db"), clock, conditions)
    }

    fn open_under(
        path: &Path,
        clock: Clock,
        conditions: Conditions,
    ) -> Result<(Self, StoreDamage), StoreError> {
        let (tables, damage) = Tables::open(path, clock.clone(), &conditions).map_err(opening)?;
        let (calls, waiting) = mpsc::channel(QUEUE);
        let (end, signal) = oneshot::channel();
        let server = Server { path: path.to_owned(), clock, conditions, tables: Some(tables), waiting };
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || {
                server.run();
                let _ = end.send(());
            })
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let store = Self {
            calls: Mutex::new(Some(calls)),
            ended: tokio::sync::Mutex::new(Some(Ended { signal, thread })),
        };
        Ok((store, damage))
    }

    /// Finishes the calls that wait, closes the database and ends the thread. Later calls are answered with
    /// [`StoreError::Unavailable`]. Watches end.
    pub async fn close(&self) {
        drop(self.calls.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(ended) = self.ended.lock().await.take() {
            let _ = ended.signal.await;
            // Nothing is left to wait for but the end of the thread itself.
            if ended.thread.join().is_err() {
                tracing::error!("the store's thread panicked");
            }
        }
    }

    /// Writes a consistent copy to a file that must not exist (mode 0600). Other calls wait meanwhile. A
    /// store opened from the copy holds no leases, and its fences and positions go on far above.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the file cannot be written; then there is none.
    pub async fn backup(&self, path: &Path) -> Result<(), StoreError> {
        let path = path.to_owned();
        self.ask(Kind::Alone, move |tables| tables.copy_to(&path)).await
    }

    async fn ask<T: Send + 'static>(
        &self,
        kind: Kind,
        run: impl FnMut(&mut Tables) -> Outcome<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let closed = || StoreError::Unavailable("it is closed".into());
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (answer, answered) = oneshot::channel();
        let call = Box::new(Asked { kind, run, result: None, answer });
        calls.ok_or_else(closed)?.send(call).await.map_err(|_| closed())?;
        // Without an answer only if the thread panicked.
        answered.await.unwrap_or_else(|_| Err(kind.uncertain("the store's thread ended")))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    /// A write that frees space: on a full disk it gets what is held back.
    Forget,
    /// Cannot share a transaction.
    Alone,
}

impl Kind {
    fn uncertain(self, why: &str) -> StoreError {
        match self {
            Self::Write | Self::Forget => StoreError::Unknown(why.to_owned()),
            Self::Read | Self::Alone => StoreError::Unavailable(why.to_owned()),
        }
    }
}

/// One call, whatever it gives back. It may run more than once, when the transaction that it shared with
/// others has to be undone; only the last result counts, and only once it is durable.
trait Call: Send {
    fn kind(&self) -> Kind;
    fn run(&mut self, tables: &mut Tables) -> Result<(), FileError>;
    fn finish(self: Box<Self>, failure: Option<StoreError>);
}

struct Asked<T, F> {
    kind: Kind,
    run: F,
    result: Option<Result<T, StoreError>>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T: Send, F: FnMut(&mut Tables) -> Outcome<T> + Send> Call for Asked<T, F> {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn run(&mut self, tables: &mut Tables) -> Result<(), FileError> {
        self.result = Some((self.run)(tables)?);
        Ok(())
    }

    fn finish(self: Box<Self>, failure: Option<StoreError>) {
        let result = match failure {
            Some(error) => Err(error),
            None => self.result.unwrap_or_else(|| Err(self.kind.uncertain("the call was not made"))),
        };
        // Whoever asked may have gone; what was done stays done.
        let _ = self.answer.send(result);
    }
}

struct Server {
    path: PathBuf,
    clock: Clock,
    conditions: Conditions,
    /// `None` after a failure, until it is opened anew.
    tables: Option<Tables>,
    waiting: mpsc::Receiver<Box<dyn Call>>,
}

impl Server {
    fn run(mut self) {
        while let Some(call) = self.waiting.blocking_recv() {
            let mut group = Vec::new();
            let mut alone = None;
            let mut next = Some(call);
            while let Some(call) = next.take() {
                if call.kind() == Kind::Alone {
                    alone = Some(call);
                    break;
                }
                group.push(call);
                if group.len() < MAX_CALLS {
                    next = self.waiting.try_recv().ok();
                }
            }
            self.serve(group);
            if let Some(call) = alone {
                self.serve(vec![call]);
            }
        }
    }

    /// Runs calls in one transaction and answers them.
    fn serve(&mut self, mut group: Vec<Box<dyn Call>>) {
        if group.is_empty() {
            return;
        }
        let tables = match self.reopened() {
            Ok(tables) => tables,
            Err(error) => {
                group.into_iter().for_each(|call| call.finish(Some(error.clone())));
                return;
            }
        };
        let error = match together(tables, &mut group) {
            Ok(()) => {
                group.into_iter().for_each(|call| call.finish(None));
                tables.tidy()
            }
            Err(FileError::Full) => match one_by_one(tables, group) {
                Ok(()) => tables.tidy(),
                Err(error) => Err(error),
            },
            Err(error) => {
                let why = describe(&error);
                group.into_iter().for_each(|call| {
                    let failure = call.kind().uncertain(&why);
                    call.finish(Some(failure));
                });
                Err(error)
            }
        };
        if let Err(error) = error {
            tracing::error!(why = describe(&error), "the store failed and is opened anew");
            tables.distrust();
            // With the tables go the watches, whose holders then list again.
            self.tables = None;
        }
    }

    fn reopened(&mut self) -> Result<&mut Tables, StoreError> {
        if self.tables.is_none() {
            let opened = Tables::open(&self.path, self.clock.clone(), &self.conditions);
            let (tables, damage) = opened.map_err(opening)?;
            if damage != StoreDamage::default() {
                tracing::error!(?damage, "the store was damaged");
            }
            self.tables = Some(tables);
        }
        self.tables.as_mut().ok_or_else(|| StoreError::Unavailable("it is not open".into()))
    }
}

fn together(tables: &mut Tables, group: &mut [Box<dyn Call>]) -> Result<(), FileError> {
    if group.iter().all(|call| matches!(call.kind(), Kind::Read | Kind::Alone)) {
        group.iter_mut().try_for_each(|call| call.run(tables))?;
        tables.settle();
        return Ok(());
    }
    let run = |tables: &mut Tables, group: &mut [Box<dyn Call>]| {
        tables.begin()?;
        group.iter_mut().try_for_each(|call| call.run(tables))?;
        tables.commit()
    };
    run(tables, group).inspect_err(|_| {
        // An error here changes nothing: if the database is broken, the next statement says so.
        let _ = tables.undo();
    })
}

/// On a full disk each call stands for itself: what fits is done.
fn one_by_one(tables: &mut Tables, group: Vec<Box<dyn Call>>) -> Result<(), FileError> {
    let mut failed: Option<FileError> = None;
    for call in group {
        if let Some(error) = &failed {
            let unavailable = StoreError::Unavailable(describe(error));
            call.finish(Some(unavailable));
            continue;
        }
        let mut call = [call];
        let mut result = together(tables, &mut call);
        if result == Err(FileError::Full) && call[0].kind() == Kind::Forget {
            result = tables.give_back().and_then(|()| together(tables, &mut call));
        }
        let [call] = call;
        match result {
            Ok(()) => call.finish(None),
            Err(FileError::Full) => call.finish(Some(StoreError::Full)),
            Err(error) => {
                let uncertain = call.kind().uncertain(&describe(&error));
                call.finish(Some(uncertain));
                failed = Some(error);
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

fn describe(error: &FileError) -> String {
    match error {
        FileError::Full => "the disk is full".into(),
        FileError::Newer { found, .. } => format!("it is of the newer format {found}"),
        FileError::Corrupt(why) => format!("the file is damaged: {why}"),
        FileError::Failed(why) => why.clone(),
    }
}

fn opening(error: FileError) -> StoreError {
    match error {
        FileError::Full => StoreError::Full,
        FileError::Newer { found, understood } => StoreError::Newer { found, understood },
        other => StoreError::Unavailable(describe(&other)),
    }
}

fn bounded(size: usize, limit: usize) -> Result<(), StoreError> {
    if size > limit { Err(StoreError::TooLarge { size, limit }) } else { Ok(()) }
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let key = key.clone();
        self.ask(Kind::Read, move |tables| tables.get(&key)).await
    }

    async fn put(&self, key: &Key, value: Bytes, expect: Expect) -> Result<Revision, StoreError> {
        bounded(value.len(), MAX_STORE_VALUE)?;
        let key = key.clone();
        self.ask(Kind::Write, move |tables| tables.put(&key, &value, expect)).await
    }

    async fn delete(&self, key: &Key, expect: Expect) -> Result<(), StoreError> {
        let key = key.clone();
        self.ask(Kind::Forget, move |tables| tables.delete(&key, expect)).await
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing, StoreError> {
        let prefix = prefix.clone();
        self.ask(Kind::Read, move |tables| tables.list(&prefix)).await
    }

    async fn watch(&self, prefix: &Prefix, from: Revision) -> Result<Watch, StoreError> {
        let prefix = prefix.clone();
        self.ask(Kind::Read, move |tables| tables.watch(&prefix, from)).await
    }

    async fn append(&self, log: &LogName, records: Vec<Bytes>) -> Result<Vec<Position>, StoreError> {
        for record in &records {
            bounded(record.len(), MAX_STORE_VALUE)?;
        }
        bounded(records.iter().map(Bytes::len).sum(), MAX_APPEND)?;
        let log = log.clone();
        self.ask(Kind::Write, move |tables| tables.append(&log, &records)).await
    }

    async fn read(
        &self,
        log: &LogName,
        from: Position,
        limit: usize,
    ) -> Result<Vec<(Position, Bytes)>, StoreError> {
        let log = log.clone();
        self.ask(Kind::Read, move |tables| tables.read(&log, from, limit)).await
    }

    async fn trim(&self, log: &LogName, before: Position) -> Result<(), StoreError> {
        let log = log.clone();
        self.ask(Kind::Forget, move |tables| tables.trim(&log, before)).await
    }

    async fn lease(&self, name: &Key, ttl: Ttl) -> Result<Option<Lease>, StoreError> {
        let name = name.clone();
        self.ask(Kind::Write, move |tables| tables.lease(&name, ttl)).await
    }

    async fn renew(&self, lease: &Lease, ttl: Ttl) -> Result<(), StoreError> {
        let lease = lease.clone();
        self.ask(Kind::Write, move |tables| tables.renew(&lease, ttl)).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        let lease = lease.clone();
        self.ask(Kind::Forget, move |tables| tables.release(&lease)).await
    }
}

#[cfg(test)]
mod tests;

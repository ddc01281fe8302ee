//! The thread that owns a Journal and shares one sync among all who wait for one.
//!
//! Whoever wants something durable hands a batch to a [`Handle`] and waits. The thread takes all that waits
//! into one commit, so the more there is to do, the fewer syncs each message costs.
//!
//! When the journal fails, so does its writer: everything that waits and everything that comes later is
//! answered with the failure, and [`Handle::failed`] wakes the owner. There is no way to go on with the
//! same handle, because whoever holds one may act on records that the disk does not have. The owner calls
//! [`Writer::stop`], opens the journal again, reads it, and starts a new writer; what was built on the old
//! one is built anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use mainstay_core::journal::{Batch, Journal, JournalError, Op, Table};
use tokio::sync::{mpsc, oneshot, watch};

/// Requests that may wait. Beyond it callers wait for a place, which is the backpressure.
const QUEUE: usize = 1_024;

/// Most batches in one commit: beyond this a sync costs next to nothing a batch, and the first of them
/// would wait for the last.
const MAX_BATCHES: usize = 1_024;

/// Most bytes in one commit; bounds the memory of the transaction and the length of the log.
const MAX_BYTES: usize = 4 << 20;

pub type Records = Vec<(Bytes, Bytes)>;

enum Request {
    One(Batch, oneshot::Sender<Result<(), JournalError>>),
    Many(Vec<Batch>, oneshot::Sender<Vec<Result<(), JournalError>>>),
    /// One result for each table, all of the same moment.
    Read(Vec<Table>, oneshot::Sender<Result<Vec<Records>, JournalError>>),
    /// Take nothing more in; what waits already is still done.
    Stop,
}

/// What the writer has done, for metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Commits, each of one sync.
    pub syncs: AtomicU64,
    /// Batches that were made durable.
    pub batches: AtomicU64,
    /// Batches refused because the disk was full.
    pub refused: AtomicU64,
    /// Bytes of keys and values in durable batches.
    pub bytes: AtomicU64,
    /// How long the last commit took, in microseconds.
    pub last_commit_us: AtomicU64,
}

/// Owns the thread. Dropped without [`Writer::stop`], the thread ends by itself once all handles are gone.
#[derive(Debug)]
pub struct Writer {
    handle: Handle,
    ended: oneshot::Receiver<()>,
    thread: JoinHandle<()>,
}

/// Cheap to clone; all clones share one queue.
#[derive(Clone, Debug)]
pub struct Handle {
    queue: mpsc::Sender<Request>,
    failure: watch::Receiver<Option<JournalError>>,
    counters: Arc<Counters>,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system has no thread for it.
    pub fn start(journal: Box<dyn Journal>) -> std::io::Result<Self> {
        let (queue, requests) = mpsc::channel(QUEUE);
        let (fail, failure) = watch::channel(None);
        let (end, ended) = oneshot::channel();
        let counters = Arc::new(Counters::default());
        let work = Work { journal, requests, counters: Arc::clone(&counters), fail };
        let thread = std::thread::Builder::new().name("journal".into()).spawn(move || {
            work.run();
            let _ = end.send(());
        })?;
        Ok(Self { handle: Handle { queue, failure, counters }, ended, thread })
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Commits everything that waits, closes the journal and ends the thread; what handles ask for later
    /// is answered with [`JournalError::Failed`].
    ///
    /// # Errors
    /// Why the journal had failed, if it had. It is closed all the same.
    pub async fn stop(self) -> Result<(), JournalError> {
        // Fails only if the thread has ended already.
        let _ = self.handle.queue.send(Request::Stop).await;
        let _ = self.ended.await;
        // Nothing is left to wait for but the end of the thread itself.
        if self.thread.join().is_err() {
            return Err(JournalError::Failed("the journal's thread panicked".into()));
        }
        match self.handle.failure.borrow().clone() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

impl Handle {
    /// Makes a batch durable. It is committed even if the caller stops waiting.
    ///
    /// # Errors
    /// As [`Journal::commit`].
    pub async fn commit(&self, batch: Batch) -> Result<(), JournalError> {
        let (answer, answered) = oneshot::channel();
        self.queue.send(Request::One(batch, answer)).await.map_err(|_| self.why())?;
        answered.await.unwrap_or_else(|_| Err(self.why()))
    }

    /// Makes batches durable with one sync, in their order, each whole or not at all.
    ///
    /// # Errors
    /// As [`Journal::commit`], one result a batch.
    pub async fn commit_all(&self, batches: Vec<Batch>) -> Vec<Result<(), JournalError>> {
        let count = batches.len();
        let (answer, answered) = oneshot::channel();
        if self.queue.send(Request::Many(batches, answer)).await.is_err() {
            return vec![Err(self.why()); count];
        }
        answered.await.unwrap_or_else(|_| vec![Err(self.why()); count])
    }

    /// All records of a table in the order of their keys, with everything committed before.
    ///
    /// # Errors
    /// [`JournalError::Failed`] if the journal failed.
    pub async fn read(&self, table: Table) -> Result<Vec<(Bytes, Bytes)>, JournalError> {
        Ok(self.read_tables(vec![table]).await?.pop().unwrap_or_default())
    }

    /// All records of all tables as they are at one moment, for a copy of the journal.
    ///
    /// # Errors
    /// [`JournalError::Failed`] if the journal failed.
    pub async fn read_all(&self) -> Result<Vec<(Table, Records)>, JournalError> {
        let tables = self.read_tables(Table::ALL.to_vec()).await?;
        Ok(Table::ALL.into_iter().zip(tables).collect())
    }

    async fn read_tables(&self, tables: Vec<Table>) -> Result<Vec<Records>, JournalError> {
        let (answer, answered) = oneshot::channel();
        self.queue.send(Request::Read(tables, answer)).await.map_err(|_| self.why())?;
        answered.await.unwrap_or_else(|_| Err(self.why()))
    }

    /// Returns once the journal has failed, or its writer is gone.
    pub async fn failed(&self) -> JournalError {
        let mut failure = self.failure.clone();
        match failure.wait_for(Option::is_some).await {
            Ok(error) => error.clone().unwrap_or_else(closed),
            Err(_) => closed(),
        }
    }

    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    fn why(&self) -> JournalError {
        self.failure.borrow().clone().unwrap_or_else(closed)
    }
}

fn closed() -> JournalError {
    JournalError::Failed("the journal is closed".into())
}

/// What the thread owns.
struct Work {
    journal: Box<dyn Journal>,
    requests: mpsc::Receiver<Request>,
    counters: Arc<Counters>,
    fail: watch::Sender<Option<JournalError>>,
}

/// Who waits for which of the batches in a commit.
enum Waiting {
    One(oneshot::Sender<Result<(), JournalError>>),
    Many(usize, oneshot::Sender<Vec<Result<(), JournalError>>>),
}

impl Work {
    fn run(mut self) {
        let mut batches: Vec<Batch> = Vec::new();
        let mut waiting: Vec<Waiting> = Vec::new();
        // A read must see what was committed before it and nothing else: it ends the gathering.
        let mut read = None;
        while let Some(request) = self.requests.blocking_recv() {
            let mut bytes = 0;
            let mut next = Some(request);
            while let Some(request) = next.take() {
                match request {
                    Request::One(batch, answer) => {
                        bytes += size(&batch);
                        batches.push(batch);
                        waiting.push(Waiting::One(answer));
                    }
                    Request::Many(many, answer) => {
                        bytes += many.iter().map(size).sum::<usize>();
                        waiting.push(Waiting::Many(many.len(), answer));
                        batches.extend(many);
                    }
                    Request::Read(tables, answer) => {
                        read = Some((tables, answer));
                        break;
                    }
                    Request::Stop => self.requests.close(),
                }
                if batches.len() < MAX_BATCHES && bytes < MAX_BYTES {
                    next = self.requests.try_recv().ok();
                }
            }
            if !waiting.is_empty() {
                self.commit(&batches, &mut waiting, bytes);
                batches.clear();
            }
            if let Some((tables, answer)) = read.take() {
                let result = tables.into_iter().map(|table| self.read(table)).collect();
                let _ = answer.send(result);
            }
            if self.fail.borrow().is_some() {
                // Whoever still waits finds the reason beside the closed channel.
                return;
            }
        }
    }

    fn commit(&mut self, batches: &[Batch], waiting: &mut Vec<Waiting>, bytes: usize) {
        let started = Instant::now();
        let results = if batches.is_empty() { Vec::new() } else { self.journal.commit(batches) };
        let count = |which: fn(&Result<(), JournalError>) -> bool| {
            results.iter().filter(|result| which(result)).count() as u64
        };
        let (durable, refused) = (count(Result::is_ok), count(|r| matches!(r, Err(e) if e.is_refusal())));
        let counters = &self.counters;
        if durable > 0 {
            counters.syncs.fetch_add(1, Ordering::Relaxed);
            counters.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        counters.batches.fetch_add(durable, Ordering::Relaxed);
        counters.refused.fetch_add(refused, Ordering::Relaxed);
        let took = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        counters.last_commit_us.store(took, Ordering::Relaxed);

        if let Some(Err(error)) = results.iter().find(|r| matches!(r, Err(e) if !e.is_refusal())) {
            self.fail.send_replace(Some(error.clone()));
        }
        let mut results = results.into_iter();
        for waiter in waiting.drain(..) {
            // A caller that has gone is no reason to undo what it asked for.
            match waiter {
                Waiting::One(answer) => {
                    let _ = answer.send(results.next().unwrap_or_else(|| Err(closed())));
                }
                Waiting::Many(count, answer) => {
                    let _ = answer.send(results.by_ref().take(count).collect());
                }
            }
        }
    }

    fn read(&mut self, table: Table) -> Result<Records, JournalError> {
        let mut records = Vec::new();
        let result = self.journal.read(table, &mut |key, value| {
            records.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        });
        if let Err(error) = result {
            self.fail.send_replace(Some(error.clone()));
            return Err(error);
        }
        Ok(records)
    }
}

fn size(batch: &Batch) -> usize {
    batch
        .ops
        .iter()
        .map(|op| match op {
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::Delete { key, .. } => key.len(),
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc as std_mpsc;

    use super::*;
    use crate::journal_conformance::{contents, new, owed, put};
    use crate::model_journal::{ModelDisk, ModelJournal};

    /// A journal that tells when a commit begins, and lets it go on once `gate` is dropped.
    struct Gated {
        journal: ModelJournal,
        begun: std_mpsc::Sender<()>,
        gate: std_mpsc::Receiver<()>,
    }

    impl Journal for Gated {
        fn commit(&mut self, batches: &[Batch]) -> Vec<Result<(), JournalError>> {
            // Nobody listens any more once the gate is open.
            let _ = self.begun.send(());
            let _ = self.gate.recv();
            self.journal.commit(batches)
        }

        fn read(&mut self, table: Table, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), JournalError> {
            self.journal.read(table, visit)
        }
    }

    type Tasks = tokio::task::JoinSet<Result<(), JournalError>>;

    /// A writer that is in the middle of a commit of one batch, with `count` more in its queue.
    async fn held_up(disk: &ModelDisk, count: u32) -> (Writer, Tasks, std_mpsc::Sender<()>) {
        let (begun, has_begun) = std_mpsc::channel();
        let (open, gate) = std_mpsc::channel();
        let writer = Writer::start(Box::new(Gated { journal: disk.open(), begun, gate })).unwrap();
        let mut tasks = Tasks::new();
        for at in 0..=count {
            let handle = writer.handle();
            tasks.spawn(async move { handle.commit(number(at)).await });
            if at == 0 {
                tokio::task::yield_now().await;
                has_begun.recv().unwrap();
            }
        }
        while writer.handle.queue.capacity() > QUEUE - count as usize {
            tokio::task::yield_now().await;
        }
        (writer, tasks, open)
    }

    fn number(number: u32) -> Batch {
        new(0, vec![put(Table::Outbox, number.to_be_bytes(), "x")])
    }

    #[tokio::test]
    async fn all_who_wait_share_a_sync() {
        let disk = ModelDisk::new();
        let (writer, mut tasks, open) = held_up(&disk, 200).await;
        drop(open);
        while let Some(result) = tasks.join_next().await {
            result.unwrap().unwrap();
        }
        // The one that held them up, and one for all the others.
        assert_eq!(disk.syncs(), 2);
        let counters = Arc::clone(writer.handle().counters());
        assert_eq!(counters.syncs.load(Ordering::Relaxed), 2);
        assert_eq!(counters.batches.load(Ordering::Relaxed), 201);
        assert_eq!(counters.bytes.load(Ordering::Relaxed), 201 * 5);
        writer.stop().await.unwrap();
        assert_eq!(contents(&mut disk.open()).len(), 201);
    }

    #[tokio::test]
    async fn results_find_their_way_back() {
        let disk = ModelDisk::new();
        let writer = Writer::start(Box::new(disk.open())).unwrap();
        let handle = writer.handle();
        disk.set_capacity(Some(100));
        let results =
            handle.commit_all(vec![number(1), new(1_000, vec![]), owed(0, vec![]), number(2)]).await;
        assert!(matches!(results[..], [Ok(()), Err(JournalError::Full), Ok(()), Ok(())]), "{results:?}");
        assert!(handle.commit_all(vec![]).await.is_empty());
        let refused = handle.commit(new(1_000, vec![])).await;
        assert!(matches!(refused, Err(JournalError::Full)));
        assert_eq!(handle.counters().refused.load(Ordering::Relaxed), 2);
        assert_eq!(handle.read(Table::Outbox).await.unwrap().len(), 2);
        writer.stop().await.unwrap();
    }

    #[tokio::test]
    async fn stopping_commits_what_waits_and_refuses_what_comes_later() {
        let disk = ModelDisk::new();
        let (writer, mut tasks, open) = held_up(&disk, 50).await;
        let handle = writer.handle();
        let stopping = tokio::spawn(writer.stop());
        tokio::task::yield_now().await;
        drop(open);
        stopping.await.unwrap().unwrap();
        while let Some(result) = tasks.join_next().await {
            result.unwrap().unwrap();
        }
        assert!(matches!(handle.commit(number(99)).await, Err(JournalError::Failed(_))));
        assert!(matches!(handle.failed().await, JournalError::Failed(_)));
        assert_eq!(contents(&mut disk.open()).len(), 51);
    }

    #[tokio::test]
    async fn a_failure_reaches_all_and_ends_the_writer() {
        let disk = ModelDisk::new();
        let writer = Writer::start(Box::new(disk.open())).unwrap();
        let handle = writer.handle();
        handle.commit(number(1)).await.unwrap();
        disk.fail_next_sync();
        assert!(matches!(handle.commit(number(2)).await, Err(JournalError::Failed(_))));
        assert!(handle.failed().await.to_string().contains("the sync failed"));
        // The reason stays known to whoever asks later.
        for _ in 0..3 {
            let later = handle.commit(number(3)).await.unwrap_err().to_string();
            assert!(later.contains("the sync failed"), "{later}");
        }
        assert!(handle.read(Table::Outbox).await.is_err());
        assert!(writer.stop().await.unwrap_err().to_string().contains("the sync failed"));
        assert_eq!(contents(&mut disk.open()).len(), 1);
    }

    #[tokio::test]
    async fn what_was_asked_is_done_though_nobody_waits() {
        let disk = ModelDisk::new();
        let writer = Writer::start(Box::new(disk.open())).unwrap();
        let handle = writer.handle();
        let gone = tokio::spawn({
            let handle = handle.clone();
            async move {
                let (answer, _) = oneshot::channel();
                handle.queue.send(Request::One(number(1), answer)).await.unwrap();
            }
        });
        gone.await.unwrap();
        writer.stop().await.unwrap();
        assert_eq!(contents(&mut disk.open()).len(), 1);
    }
}

//! Replies: what the origin of a message does with the answer, by its own stored instructions. The responder
//! has no say in any of it.
//!
//! A reply method is one file in `reply/` and one line in `table`. Each answer (or part of one) is planned,
//! the plan's mark is put on disk by the caller, and then it is written; after a crash it is written
//! again with the same mark. How often a failed reply is tried is the caller's business, and never changes
//! the message's outcome.
//!
//! What is written is the output, standard output and standard error in their order of arrival, and nothing
//! else: no header, no outcome. A message that ended without running leaves no trace here.
//!
//! The caller keeps one rule: after a restart, what has a mark from before is handed to [`Replies::write`]
//! before anything new is planned.

mod console;
mod file_append;
mod file_write;

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use mainstay_core::delivery::ReplyJob;
use mainstay_core::id::MessageId;
use mainstay_core::message::ReplySpec;
use mainstay_core::method::ReplyMethod;
use mainstay_core::outcome::Outcome;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;
use tokio::task::spawn_blocking;

use crate::received::{Received, ReceivedError, Spot};

/// All reply methods. Adding one is its file and its line here. ([`ReplyMethod::None`] has no instructions.)
fn table() -> Vec<Arc<dyn Reply>> {
    vec![
        Arc::new(file_append::FileAppend),
        Arc::new(file_write::FileWrite),
        Arc::new(console::Console::stdout()),
    ]
}

/// One way to deal with an answer. Its calls block.
trait Reply: Send + Sync + 'static {
    fn method(&self) -> ReplyMethod;

    /// It takes the whole answer at once, rather than piece by piece as it comes.
    fn whole(&self) -> bool {
        false
    }

    /// Finds out where the next bytes go. The mark is on disk before [`Reply::write`] is called.
    fn plan(&self, task: &Task) -> Result<Bytes, ReplyError>;

    /// Writes them there.
    fn write(&self, task: &Task, mark: &[u8], tried: Tried) -> Result<Written, ReplyError>;
}

/// An answer that is to be written, and where.
struct Task {
    job: ReplyJob,
    /// Methods that write files have one.
    spot: Option<Spot>,
}

impl Task {
    fn spot(&self) -> Result<&Spot, ReplyError> {
        self.spot.as_ref().ok_or(ReplyError::Received(ReceivedError::NoFile))
    }

    fn bytes(&self) -> Vec<u8> {
        self.job.pieces.iter().flat_map(|piece| piece.data.iter().copied()).collect()
    }
}

/// Whether something of this mark may have been written already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tried {
    /// It was planned just now, and nobody was let at the file since.
    Never,
    /// By an attempt that failed, or by an earlier life of this node.
    Perhaps,
}

/// What became of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    /// All of it is on disk, once.
    Done,
    /// The file is not as it was planned (rotated, or written to by others), and nothing of this answer is
    /// in it: plan again, record the new mark, write.
    PlanAgain,
}

#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    #[error("the reply instructions cannot be read: {0}")]
    Instructions(String),
    #[error("unknown reply method {0:?}")]
    UnknownMethod(String),
    #[error("the mark of a reply cannot be read")]
    Mark,
    #[error(transparent)]
    Received(#[from] ReceivedError),
    #[error("console: {0}")]
    Console(std::io::Error),
    #[error("the reply took longer than its replyMethodTimeout")]
    TimedOut,
    #[error("the reply stopped half-way: {0}")]
    Stopped(String),
}

impl ReplyError {
    /// Whether it makes sense to try again later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Received(error) => error.is_transient(),
            Self::Stopped(_) => true,
            _ => false,
        }
    }
}

/// What the origin of a message keeps with it, to know what to do with the answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Instructions {
    /// The name of a [`ReplyMethod`].
    pub method: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub directory: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_name: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// How long one attempt may take; unbounded if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// How long to wait between attempts, and how many there are after the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
}

impl Instructions {
    /// `None` if nothing is to be done with the answer.
    pub fn of(spec: &ReplySpec) -> Option<Self> {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        (spec.method != ReplyMethod::None).then(|| Self {
            method: spec.method.name().to_owned(),
            directory: spec.directory.clone(),
            file_name: spec.file_name.clone(),
            args: spec.args.clone(),
            timeout_ms: spec.timeout.map(millis),
            pause_ms: spec.ack_timeout.map(millis),
            retries: spec.retries,
        })
    }

    /// As the engine keeps them.
    pub fn encode(&self) -> Bytes {
        rmp_serde::to_vec_named(self).expect("instructions hold nothing that MessagePack cannot").into()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, ReplyError> {
        rmp_serde::from_slice(bytes).map_err(|error| ReplyError::Instructions(error.to_string()))
    }
}

/// One lock for each file that is being written to. It goes with the last of its users.
type FileLock = tokio::sync::Mutex<()>;

/// An answer, and who deals with it.
struct Prepared {
    method: Arc<dyn Reply>,
    task: Task,
    timeout: Option<Duration>,
}

/// A file that is kept for one answer between its plan and its end.
struct Kept {
    mark: Bytes,
    _file: Option<OwnedMutexGuard<()>>,
    tried: Tried,
}

/// Carries out replies.
#[derive(Clone)]
pub struct Replies {
    inner: Arc<Inner>,
}

struct Inner {
    received: Received,
    methods: Vec<Arc<dyn Reply>>,
    files: Mutex<HashMap<Spot, Weak<FileLock>>>,
    kept: Mutex<HashMap<MessageId, Kept>>,
}

impl Replies {
    pub fn new(received: Received) -> Self {
        let inner = Inner { received, methods: table(), files: Mutex::default(), kept: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// Whether these instructions want the whole answer at once.
    pub fn whole(&self, instructions: &Instructions) -> bool {
        self.inner.method(&instructions.method).is_ok_and(|method| method.whole())
    }

    /// Finds out where this answer's next bytes go; the mark is to be on disk before [`Replies::write`]. From
    /// then until they are written (or [`Replies::forget`]) no other answer gets at that file: another one
    /// to the same file waits here.
    pub async fn plan(&self, job: ReplyJob) -> Result<Bytes, ReplyError> {
        let id = job.id;
        self.forget(id);
        let inner = &self.inner;
        let Prepared { method, task, timeout } = inner.prepare(job)?;
        let file = match &task.spot {
            Some(spot) => Some(inner.lock(spot).lock_owned().await),
            None => None,
        };
        let mark = blocking(timeout, move || method.plan(&task)).await?;
        inner.keep(id, Kept { mark: mark.clone(), _file: file, tried: Tried::Never });
        Ok(mark)
    }

    /// Writes what was planned, in this life of the node or in an earlier one. After an error that
    /// [`ReplyError::is_transient`] it may be called again with the same mark.
    ///
    /// The file is taken when this is called, not when the future is first polled: so what is called first
    /// after a restart is first at its file.
    pub fn write(
        &self,
        job: ReplyJob,
        mark: Bytes,
    ) -> impl Future<Output = Result<Written, ReplyError>> + Send + use<> {
        let this = self.clone();
        let id = job.id;
        let kept = self.inner.kept().remove(&id).filter(|kept| kept.mark == mark);
        let prepared = self.inner.prepare(job);
        let early = match (&kept, &prepared) {
            (None, Ok(Prepared { task: Task { spot: Some(spot), .. }, .. })) => {
                self.inner.lock(spot).try_lock_owned().ok()
            }
            _ => None,
        };
        async move {
            let Prepared { method, task, timeout } = prepared?;
            let kept = match (kept, early, &task.spot) {
                (Some(kept), _, _) => kept,
                (None, None, Some(spot)) => {
                    let file = this.inner.lock(spot).lock_owned().await;
                    Kept { mark: mark.clone(), _file: Some(file), tried: Tried::Perhaps }
                }
                (None, early, _) => Kept { mark: mark.clone(), _file: early, tried: Tried::Perhaps },
            };
            // The file stays kept for as long as the thread is at it, whoever waits for that.
            let wanted = Arc::new(AtomicBool::new(true));
            let (still_wanted, replies) = (wanted.clone(), this.clone());
            let result = blocking(timeout, move || {
                let result = method.write(&task, &mark, kept.tried);
                if result.as_ref().is_err_and(ReplyError::is_transient) {
                    replies.inner.keep(id, Kept { tried: Tried::Perhaps, ..kept });
                    if !still_wanted.load(Ordering::SeqCst) {
                        replies.forget(id);
                    }
                }
                result
            })
            .await;
            if matches!(result, Err(ReplyError::TimedOut)) {
                wanted.store(false, Ordering::SeqCst);
                this.forget(id);
            }
            result
        }
    }

    /// Gives up what was planned for this message.
    pub fn forget(&self, id: MessageId) {
        self.inner.kept().remove(&id);
    }

    /// Gives up all plans: the journal that held their marks was lost or read anew.
    pub fn forget_all(&self) {
        self.inner.kept().clear();
    }
}

impl Inner {
    fn method(&self, name: &str) -> Result<&Arc<dyn Reply>, ReplyError> {
        let found = self.methods.iter().find(|method| method.method().name() == name);
        found.ok_or_else(|| ReplyError::UnknownMethod(name.to_owned()))
    }

    fn prepare(&self, job: ReplyJob) -> Result<Prepared, ReplyError> {
        let instructions = Instructions::decode(&job.reply)?;
        let method = self.method(&instructions.method)?.clone();
        let spot = if method.method().needs_file() {
            let file = instructions.file_name.as_deref();
            Some(self.received.spot(&job.from, &instructions.directory, file)?)
        } else {
            None
        };
        let timeout = instructions.timeout_ms.map(Duration::from_millis);
        Ok(Prepared { method, task: Task { job, spot }, timeout })
    }

    fn lock(&self, spot: &Spot) -> Arc<FileLock> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = files.get(spot).and_then(Weak::upgrade) {
            return lock;
        }
        files.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(FileLock::default());
        files.insert(spot.clone(), Arc::downgrade(&lock));
        lock
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, HashMap<MessageId, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, id: MessageId, kept: Kept) {
        self.kept().insert(id, kept);
    }
}

/// Whether an answer leaves nothing behind: its message never ran, and so has no output to speak of.
fn is_void(job: &ReplyJob) -> bool {
    job.pieces.is_empty() && !matches!(job.outcome, Some(Outcome::Finished(_)))
}

async fn blocking<T: Send + 'static>(
    timeout: Option<Duration>,
    work: impl FnOnce() -> Result<T, ReplyError> + Send + 'static,
) -> Result<T, ReplyError> {
    let work = spawn_blocking(work);
    let joined = match timeout {
        Some(timeout) => tokio::time::timeout(timeout, work).await.map_err(|_| ReplyError::TimedOut)?,
        None => work.await,
    };
    joined.unwrap_or_else(|error| Err(ReplyError::Stopped(error.to_string())))
}

#[cfg(test)]
mod tests;

//! Takes batches to the journal in the order in which the engine decided them, without making the courier wait.
//!
//! While one commit is under way the next collects everything that comes: that is the group commit as one
//! node sees it.

use mainstay_core::journal::{Batch, JournalError};
use mainstay_store::group_commit::Handle as Journal;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// What became of one batch.
#[derive(Debug)]
pub struct Done {
    pub token: u64,
    pub result: Result<(), JournalError>,
}

pub struct Committer {
    // Unbounded, but the courier takes nothing in while too much is under way.
    batches: mpsc::UnboundedSender<Vec<(u64, Batch)>>,
    task: JoinHandle<()>,
}

impl Committer {
    pub fn start(journal: Journal, tasks: &TaskTracker) -> (Self, mpsc::UnboundedReceiver<Done>) {
        let (batches, mut waiting) = mpsc::unbounded_channel::<Vec<(u64, Batch)>>();
        let (done, finished) = mpsc::unbounded_channel();
        let task = tasks.spawn(async move {
            while let Some(mut some) = waiting.recv().await {
                while let Ok(more) = waiting.try_recv() {
                    some.extend(more);
                }
                let (tokens, batches): (Vec<u64>, Vec<Batch>) = some.into_iter().unzip();
                let results = journal.commit_all(batches).await;
                for (token, result) in tokens.into_iter().zip(results) {
                    // The courier may have ended; what it wanted durable is durable all the same.
                    let _ = done.send(Done { token, result });
                }
            }
        });
        (Self { batches, task }, finished)
    }

    pub fn commit(&self, batches: Vec<(u64, Batch)>) {
        let _ = self.batches.send(batches);
    }

    /// Returns once everything handed over is on disk or was refused.
    pub async fn finish(self) {
        drop(self.batches);
        let _ = self.task.await;
    }
}

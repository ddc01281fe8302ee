//! Brings replies to where they are to be written, one step at a time: plan, have the mark on disk, write.
//!
//! A reply that cannot be written now (a full disk) is tried again; how often is the message's own
//! `replyRetries`, without which it is tried for as long as the node lives. It never changes the outcome.

use std::time::Duration;

use bytes::Bytes;
use mainstay_core::backoff::Backoff;
use mainstay_core::delivery::{Event, ReplyJob};
use mainstay_core::message::ReplySpec;
use mainstay_core::method::ReplyMethod;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::{Input, Inputs};
use crate::dial::chance;
use crate::reply::{self, Instructions, ReplyError, Written};

/// Between attempts, unless the message says otherwise.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

pub struct Replies {
    replies: reply::Replies,
    inputs: Inputs,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What the engine keeps with a message; `None` if nothing is to be done with its answer.
pub fn encode(spec: &ReplySpec) -> Option<Bytes> {
    Instructions::of(spec).map(|instructions| instructions.encode())
}

/// Whether the reply wants the whole answer at once.
pub fn is_whole(spec: &ReplySpec) -> bool {
    spec.method == ReplyMethod::FileWrite
}

impl Replies {
    /// `replies` outlives one life of the node: a write of the last life that is still stuck holds its file.
    pub fn new(replies: reply::Replies, inputs: Inputs, tasks: TaskTracker, stop: CancellationToken) -> Self {
        replies.forget_all();
        Self { replies, inputs, tasks, stop }
    }

    /// Finds out where the next bytes go; the mark goes to the journal before they are written.
    pub fn plan(&self, job: ReplyJob) {
        let mut attempts = Attempts::of(&job, self.stop.clone());
        let (replies, inputs) = (self.replies.clone(), self.inputs.clone());
        self.tasks.spawn(async move {
            let (id, upto) = (job.id, job.upto);
            let event = loop {
                // Another answer may hold the file, and be stuck itself.
                let planned = tokio::select! {
                    () = attempts.stop.cancelled() => return,
                    planned = replies.plan(job.clone()) => planned,
                };
                match planned {
                    Ok(mark) => break Event::ReplyPlanned { id, upto, mark },
                    Err(error) => {
                        if !attempts.again(&job, &error).await {
                            break Event::ReplyWritten { id, upto, result: Err(error.to_string()) };
                        }
                    }
                }
            };
            attempts.tell(&inputs, event).await;
        });
    }

    /// Writes what was planned, in this life or an earlier one.
    pub fn write(&self, job: ReplyJob, mark: Bytes) {
        let mut attempts = Attempts::of(&job, self.stop.clone());
        let (replies, inputs) = (self.replies.clone(), self.inputs.clone());
        // Called here and not in the task: what is first asked to be written is first at its file.
        let mut writing = Box::pin(replies.write(job.clone(), mark.clone()));
        self.tasks.spawn(async move {
            let (id, upto) = (job.id, job.upto);
            let event = loop {
                match writing.as_mut().await {
                    Ok(Written::Done) => break Event::ReplyWritten { id, upto, result: Ok(()) },
                    Ok(Written::PlanAgain) => match replies.plan(job.clone()).await {
                        Ok(mark) => break Event::ReplyPlanned { id, upto, mark },
                        Err(error) if !attempts.again(&job, &error).await => {
                            break Event::ReplyWritten { id, upto, result: Err(error.to_string()) };
                        }
                        Err(_) => {}
                    },
                    Err(error) => {
                        if !attempts.again(&job, &error).await {
                            replies.forget(id);
                            break Event::ReplyWritten { id, upto, result: Err(error.to_string()) };
                        }
                    }
                }
                writing = Box::pin(replies.write(job.clone(), mark.clone()));
            };
            attempts.tell(&inputs, event).await;
        });
    }
}

/// How often, and when, one step of one reply is tried.
struct Attempts {
    left: Option<u32>,
    pause: Option<Duration>,
    backoff: Backoff,
    stop: CancellationToken,
}

impl Attempts {
    fn of(job: &ReplyJob, stop: CancellationToken) -> Self {
        let instructions = Instructions::decode(&job.reply).ok();
        Self {
            left: instructions.as_ref().and_then(|instructions| instructions.retries),
            pause: instructions.and_then(|instructions| instructions.pause_ms).map(Duration::from_millis),
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            stop,
        }
    }

    /// Waits for the next attempt; `false` if there is none.
    async fn again(&mut self, job: &ReplyJob, error: &ReplyError) -> bool {
        let more = error.is_transient() && self.left != Some(0);
        warn!(id = %job.id, from = %job.from, "the reply cannot be written{}: {error}", if more { " yet" } else { "" });
        if !more {
            return false;
        }
        self.left = self.left.map(|left| left - 1);
        let wait = self.pause.unwrap_or_else(|| self.backoff.next(chance()));
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(wait) => {}
        }
        // A stopping node says nothing of it: the next life goes on with it.
        !self.stop.is_cancelled()
    }

    async fn tell(&self, inputs: &Inputs, event: Event) {
        let gave_up = matches!(event, Event::ReplyWritten { result: Err(_), .. });
        if !(gave_up && self.stop.is_cancelled()) {
            let _ = inputs.send(Input::Event(event)).await;
        }
    }
}

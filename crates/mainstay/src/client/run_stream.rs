//! A run's events as one unbroken sequence, over as many connections as it takes.
//!
//! A hub that restarts, or a line that drops, is waited for; the sequence continues where it was.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Method;
use mainstay_control::view::{Problem, ProblemKind, RunEvent, RunSpec};
use mainstay_core::id::RunId;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::sse::Parser;
use super::{Client, Reply, encode};
use crate::api::PROBLEM_EVENT;

/// The hub says something every 15 s; three times that without a word is a dead connection.
const SILENCE: Duration = Duration::from_secs(45);

/// How long a hub that went away is tried again: longer than a restart, shorter than a person's patience.
const RETURN_PATIENCE: Duration = Duration::from_secs(60);

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

pub struct RunStream<'a> {
    client: &'a Client,
    run: RunId,
    position: u64,
    open: Option<(Reply, Parser)>,
    /// When the open connection last gave a byte.
    heard: Instant,
    lost_since: Option<Instant>,
    /// Not before this is a lost hub tried again.
    retry_at: Instant,
    pause: Duration,
}

/// The end of a run's id: its beginning is the time, and much the same for all runs of a day.
pub fn short(run: RunId) -> String {
    run.to_string().split_off(28)
}

impl<'a> RunStream<'a> {
    /// Asks for a run and watches it in the same round trip.
    pub async fn start(client: &'a Client, spec: &RunSpec) -> Result<Self, Problem> {
        let reply = client.open(Method::POST, "/v1/runs?watch=true", &[], encode(spec)?).await?;
        let location = reply.response.headers().get(hyper::header::LOCATION);
        let run =
            location.and_then(|value| value.to_str().ok()?.rsplit('/').next()?.parse().ok()).ok_or_else(
                || Problem::new(ProblemKind::Internal, "the hub did not say which run it accepted"),
            )?;
        let mut stream = Self::of(client, run);
        stream.open = Some((reply, Parser::default()));
        Ok(stream)
    }

    /// Watches a run from its beginning.
    pub fn of(client: &'a Client, run: RunId) -> Self {
        Self {
            client,
            run,
            position: 0,
            open: None,
            heard: Instant::now(),
            lost_since: None,
            retry_at: Instant::now(),
            pause: FIRST_PAUSE,
        }
    }

    pub fn run(&self) -> RunId {
        self.run
    }

    /// The number of the last event that was given out: what comes after it was not seen yet.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next event and its JSON as the hub wrote it. Safe to cancel: nothing is lost between two calls.
    pub async fn next(&mut self) -> Result<(RunEvent, String), Problem> {
        loop {
            if self.open.is_none() {
                self.reopen().await?;
            }
            match self.received().await? {
                Some(event) => return Ok(event),
                None => self.open = None,
            }
        }
    }

    /// `None` when the connection is no longer of use.
    async fn received(&mut self) -> Result<Option<(RunEvent, String)>, Problem> {
        let Some((reply, parser)) = &mut self.open else {
            return Ok(None);
        };
        loop {
            match parser.next() {
                Ok(Some(event)) if event.kind == PROBLEM_EVENT => {
                    return Err(serde_json::from_str(&event.data)
                        .unwrap_or_else(|_| Problem::new(ProblemKind::Internal, event.data)));
                }
                Ok(Some(event)) => {
                    self.position = event.id.unwrap_or(self.position);
                    self.lost_since = None;
                    self.pause = FIRST_PAUSE;
                    // A kind of event that a newer hub has is none of ours.
                    match serde_json::from_str(&event.data) {
                        Ok(known) => return Ok(Some((known, event.data))),
                        Err(error) => tracing::debug!(%error, "an unknown event"),
                    }
                    continue;
                }
                Ok(None) => {}
                Err(error) => {
                    let message = format!("the hub sent {error}");
                    return Err(Problem::new(ProblemKind::Internal, message));
                }
            }
            let piece = match timeout_at(self.heard + SILENCE, reply.response.body_mut().frame()).await {
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
                Ok(Some(Err(_)) | None) | Err(_) => return Ok(None),
            };
            self.heard = Instant::now();
            if let Err(error) = parser.push(&piece) {
                return Err(Problem::new(ProblemKind::Internal, format!("the hub sent {error}")));
            }
        }
    }

    async fn reopen(&mut self) -> Result<(), Problem> {
        let path = format!("/v1/runs/{}/events?from={}", self.run, self.position);
        // The first attempt of a stream that was never open must not wait, nor hide why it fails.
        let first = self.lost_since.is_none() && self.position == 0;
        let since = *self.lost_since.get_or_insert_with(Instant::now);
        loop {
            // A point in time rather than a span: whoever waits may be called away and come back.
            sleep_until(self.retry_at).await;
            if since.elapsed() > RETURN_PATIENCE {
                let message = "the hub went away while the run was watched; the run itself goes on";
                return Err(Problem::new(ProblemKind::Unreachable, message)
                    .hint(format!("come back with `mainstay runs watch {}`", self.run)));
            }
            let reply = self.client.open(Method::GET, &path, &[], bytes::Bytes::new()).await;
            self.retry_at = Instant::now() + self.pause;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            match reply {
                Ok(reply) => {
                    self.open = Some((reply, Parser::default()));
                    self.heard = Instant::now();
                    return Ok(());
                }
                Err(problem) if problem.kind == ProblemKind::Unreachable && !first => {}
                Err(problem) => return Err(problem),
            }
        }
    }
}

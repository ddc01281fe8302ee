//! Offers work from all sides while nodes are killed, and remembers what was accepted.
//!
//! A message counts as accepted once its origin has given its id. An origin that dies before it answers may
//! have accepted all the same: that is counted as unknown, the work is offered again, and the checker
//! finds the first in the journal.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::Method;
use mainstay::client::{Client, Endpoint};
use mainstay_control::view::RunView;
use mainstay_core::id::{MessageId, RunId};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::dice::Dice;
use super::work::{Tools, Work};
use crate::fleet::Fleet;

/// Most messages in one file.
const MOST_AT_ONCE: u64 = 8;

/// After a refusal or a connection that failed: the node is down, or not linked yet.
const PAUSE: Duration = Duration::from_millis(50);

/// A node that was killed closes the connection; one that lives answers long before this.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// The part of the seed by which runs are chosen; the smaller numbers are those of message sockets.
const RUNS: u64 = 1 << 32;

pub struct Accepted {
    pub origin: String,
    pub to: String,
    pub id: MessageId,
    pub work: Work,
}

#[derive(Default)]
pub struct Counts {
    pub unknown: AtomicU64,
    pub refused: AtomicU64,
    pub unreachable: AtomicU64,
}

struct Shared {
    tools: Tools,
    nodes: Vec<String>,
    /// Messages and runs that may be offered by now.
    messages: Semaphore,
    runs: Semaphore,
    accepted: Mutex<Vec<Accepted>>,
    started: Mutex<Vec<(RunId, Work)>>,
    counts: Counts,
    /// Why the last refusals were made, for who wonders.
    why: Mutex<Vec<String>>,
    stop: CancellationToken,
}

pub struct Offers {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

/// All that came of it.
pub struct Offered {
    pub messages: Vec<Accepted>,
    pub runs: Vec<(RunId, Work)>,
    pub counts: Counts,
    pub why: Vec<String>,
}

impl Offers {
    pub fn start(fleet: &mut Fleet, tools: Tools, seed: u64) -> Self {
        let origins: Vec<(String, PathBuf)> =
            fleet.daemons().map(|daemon| (daemon.name.clone(), daemon.message_socket())).collect();
        let shared = Arc::new(Shared {
            tools,
            nodes: origins.iter().map(|(name, _)| name.clone()).collect(),
            messages: Semaphore::new(0),
            runs: Semaphore::new(0),
            accepted: Mutex::default(),
            started: Mutex::default(),
            counts: Counts::default(),
            why: Mutex::default(),
            stop: CancellationToken::new(),
        });
        let mut tasks = JoinSet::new();
        for (part, (origin, socket)) in origins.into_iter().enumerate() {
            let dice = Dice::new(seed, part as u64 + 1);
            tasks.spawn(offer_messages(shared.clone(), origin, socket, dice));
        }
        let client = Client::new(Endpoint::Unix(fleet.api_socket()));
        tasks.spawn(offer_runs(shared.clone(), client, Dice::new(seed, RUNS)));
        Self { shared, tasks }
    }

    /// Lets so many more be offered.
    pub fn allow(&self, messages: usize, runs: usize) {
        self.shared.messages.add_permits(messages);
        self.shared.runs.add_permits(runs);
    }

    pub fn accepted(&self) -> (usize, usize) {
        (lock(&self.shared.accepted).len(), lock(&self.shared.started).len())
    }

    /// Ends it. What is being offered at this moment is waited for.
    pub async fn end(mut self) -> Offered {
        self.shared.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        let shared = &self.shared;
        let count = |from: &AtomicU64| AtomicU64::new(from.load(Ordering::Relaxed));
        Offered {
            messages: std::mem::take(&mut lock(&shared.accepted)),
            runs: std::mem::take(&mut lock(&shared.started)),
            counts: Counts {
                unknown: count(&shared.counts.unknown),
                refused: count(&shared.counts.refused),
                unreachable: count(&shared.counts.unreachable),
            },
            why: std::mem::take(&mut lock(&shared.why)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing that can panic runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `most` or fewer may be offered; 0 when it is over.
async fn permits(shared: &Shared, from: &Semaphore, most: u64) -> u64 {
    tokio::select! {
        biased;
        () = shared.stop.cancelled() => 0,
        permit = from.acquire() => match permit {
            Err(_) => 0,
            Ok(first) => {
                first.forget();
                1 + from.forget_permits(usize::try_from(most - 1).unwrap_or(0)) as u64
            }
        },
    }
}

async fn offer_messages(shared: Arc<Shared>, origin: String, socket: PathBuf, mut dice: Dice) {
    loop {
        let wanted = dice.within(1..MOST_AT_ONCE + 1);
        let count = permits(&shared, &shared.messages, wanted).await;
        if count == 0 {
            return;
        }
        let offers: Vec<(String, Work)> = (0..count)
            .map(|_| (shared.nodes[dice.index(shared.nodes.len())].clone(), Work::choose(&mut dice)))
            .collect();
        if !offer(&shared, &origin, &socket, offers).await {
            // It is still owed.
            shared.messages.add_permits(usize::try_from(count).unwrap_or(0));
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[derive(Deserialize)]
struct Line {
    id: Option<MessageId>,
    error: Option<String>,
}

async fn offer(shared: &Shared, origin: &str, socket: &PathBuf, offers: Vec<(String, Work)>) -> bool {
    let objects: Vec<_> = offers.iter().map(|(to, work)| work.message(to, &shared.tools)).collect();
    let text = serde_json::Value::from(objects).to_string();
    let Ok(stream) = UnixStream::connect(socket).await else {
        shared.counts.unreachable.fetch_add(1, Ordering::Relaxed);
        return false;
    };
    let answer = tokio::time::timeout(ANSWER_WITHIN, exchange(stream, &text)).await;
    let Ok(Ok(answer)) = answer else {
        shared.counts.unknown.fetch_add(offers.len() as u64, Ordering::Relaxed);
        return false;
    };
    let lines: Vec<Line> = answer.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if let Some(error) = lines.iter().find_map(|line| line.error.clone()) {
        shared.counts.refused.fetch_add(offers.len() as u64, Ordering::Relaxed);
        note(shared, format!("{origin}: {error}"));
        return false;
    }
    let ids: Vec<MessageId> = lines.into_iter().filter_map(|line| line.id).collect();
    // Cut short by a kill: those that were told are accepted, and the others most likely, too.
    shared.counts.unknown.fetch_add((offers.len() - ids.len()) as u64, Ordering::Relaxed);
    let complete = ids.len() == offers.len();
    let mut accepted = lock(&shared.accepted);
    for ((to, work), id) in offers.into_iter().zip(ids) {
        accepted.push(Accepted { origin: origin.to_owned(), to, id, work });
    }
    complete
}

async fn exchange(mut stream: UnixStream, text: &str) -> std::io::Result<String> {
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    // What came before a kill counts.
    let read = stream.read_to_end(&mut answer).await;
    if answer.is_empty() {
        read?;
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

async fn offer_runs(shared: Arc<Shared>, client: Client, mut dice: Dice) {
    while permits(&shared, &shared.runs, 1).await > 0 {
        let agents = &shared.nodes[1..];
        let targets = match dice.within(0..4) {
            0 => vec!["*".to_owned()],
            1 => vec![agents[dice.index(agents.len())].clone()],
            _ => (0..3).map(|_| agents[dice.index(agents.len())].clone()).collect(),
        };
        let work = Work::choose(&mut dice);
        let spec = work.run(targets, &shared.tools);
        let answer: Result<RunView, _> = client.call(Method::POST, "/v1/runs", &spec).await;
        match answer {
            Ok(view) => lock(&shared.started).push((view.run, work)),
            Err(problem) => {
                shared.counts.unreachable.fetch_add(1, Ordering::Relaxed);
                note(&shared, format!("run: {problem}"));
                shared.runs.add_permits(1);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn note(shared: &Shared, why: String) {
    let mut notes = lock(&shared.why);
    if notes.len() < 1_000 && !notes.contains(&why) {
        notes.push(why);
    }
}

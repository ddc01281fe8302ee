//! `mainstay run --ssh`: a command on hosts without agents. Shown, counted and told to programs as a hub's run is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use data_encoding::BASE64;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use mainstay_control::view::{Problem, ProblemKind, ResultView, RunEvent};
use mainstay_core::batch::{BatchSize, Batches, FailureLimit};
use mainstay_core::id::{NodeName, RunId};
use mainstay_core::outcome::Outcome;
use mainstay_core::time::Timestamp;
use mainstay_link::ssh::Binaries;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::fold::Folded;
use super::live::Live;
use super::name_range::compact_names;
use super::screen::Screen;
use super::watch::{BAR_STEP, Bar, Show, Tally, take};
use super::{Done, Stop, status_of};
use crate::remote::talk::{Order, RunEnd, RunOrder, Word};
use crate::up::inventory::Host;
use crate::up::rollout::FORKS;
use crate::up::ssh::SshTalk;
use mainstay_core::causes::with_causes;

/// Most bytes of output kept from each host unless told, as through a hub.
pub(super) const OUTPUT_LIMIT: u64 = 1 << 20;

/// Events that wait to be shown.
const EVENTS: usize = 256;

/// What to run, where, and in which portions.
pub(super) struct SshRun {
    pub(super) order: RunOrder,
    pub(super) hosts: Vec<Host>,
    pub(super) binaries: Arc<Binaries>,
    pub(super) batch: Option<BatchSize>,
    pub(super) max_failures: Option<FailureLimit>,
}

pub(super) async fn run(run: SshRun, screen: &mut Screen) -> Done {
    let id = run_id();
    let names = node_names(&run.hosts)?;
    let mut tally = Tally::default();
    let mut show = match (screen.json, run.order.stream) {
        (true, _) => Show::Json,
        (false, true) => Show::Live(Live::default()),
        (false, false) => Show::Folded(Folded::default(), Bar::new(screen)),
    };
    let accepted = RunEvent::Accepted { run: id, targets: run.hosts.len() as u64, away: 0 };
    show_event(&accepted, &mut tally, &mut show, screen)?;
    let cancel = CancellationToken::new();
    let (events, heard) = mpsc::channel(EVENTS);
    let worker = Worker { run: &run, id, events, cancel: &cancel };
    let left = lead(worker, heard, &names, &mut tally, &mut show, screen).await?;
    if let Show::Folded(folded, bar) = &mut show {
        bar.finish();
        folded.show(screen)?;
    }
    if screen.json {
        let (ok, failed, pending) = (tally.ok(), tally.failed(), tally.pending());
        screen.object(&RunEvent::Summary { run: id, ok, failed, pending })?;
    } else {
        if !left.is_empty() {
            let why = if cancel.is_cancelled() { "cancelled" } else { "too many others failed" };
            let names = compact_names(left.iter().map(NodeName::as_str));
            screen.note(&format!("Not started: {names}: {why}"))?;
        }
        screen.note(&tally.text())?;
    }
    screen.flush()?;
    Ok(if cancel.is_cancelled() { status_of::FAILED } else { tally.status() })
}

/// Starts hosts as the batch allows and shows what comes; gives those that were never started.
async fn lead(
    worker: Worker<'_>,
    mut heard: mpsc::Receiver<RunEvent>,
    names: &[NodeName],
    tally: &mut Tally,
    show: &mut Show,
    screen: &mut Screen,
) -> Result<Vec<NodeName>, Stop> {
    let run = worker.run;
    let mut batches = Batches::new(run.hosts.len(), run.batch, run.max_failures);
    let mut waiting: VecDeque<(&Host, &NodeName)> = run.hosts.iter().zip(names).collect();
    let mut running = FuturesUnordered::new();
    let mut at_work = BTreeSet::new();
    let mut presses = 0;
    let mut bar_step = interval(BAR_STEP);
    bar_step.set_missed_tick_behavior(MissedTickBehavior::Skip);
    bar_step.reset();
    loop {
        while running.len() < FORKS
            && batches.allowance(running.len()) > 0
            && !worker.cancel.is_cancelled()
            && let Some((host, name)) = waiting.pop_front()
        {
            batches.started();
            at_work.insert(name);
            running.push(worker.host(host, name));
        }
        tokio::select! {
            biased;
            Some(event) = heard.recv() => show_event(&event, tally, show, screen)?,
            ended = running.next() => match ended {
                None => break,
                Some(result) => {
                    // What the host said before its end was sent before it.
                    while let Ok(event) = heard.try_recv() {
                        show_event(&event, tally, show, screen)?;
                    }
                    at_work.remove(&result.node);
                    batches.ended(result.is_ok());
                    show_event(&RunEvent::Result(result), tally, show, screen)?;
                }
            },
            pressed = tokio::signal::ctrl_c() => {
                pressed?;
                presses += 1;
                worker.cancel.cancel();
                if presses > 1 {
                    break;
                }
            }
            _ = bar_step.tick() => if let Show::Folded(_, bar) = show {
                bar.draw(tally);
            },
        }
    }
    // Pressed twice: what they run ends with their connections.
    drop(running);
    for name in at_work {
        let reason = "it was ended in the middle".to_owned();
        let result = result(worker.id, name, Heard::default(), Outcome::Interrupted, Some(reason), None);
        show_event(&RunEvent::Result(result), tally, show, screen)?;
    }
    Ok(waiting.into_iter().map(|(_, name)| name.clone()).collect())
}

fn show_event(
    event: &RunEvent,
    tally: &mut Tally,
    show: &mut Show,
    screen: &mut Screen,
) -> std::io::Result<()> {
    let line = match show {
        Show::Json => serde_json::to_string(event)?,
        _ => String::new(),
    };
    take(event, &line, tally, Some(show), screen).map(|_| ())
}

struct Worker<'a> {
    run: &'a SshRun,
    id: RunId,
    events: mpsc::Sender<RunEvent>,
    cancel: &'a CancellationToken,
}

/// What a host has said so far.
#[derive(Default)]
struct Heard {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    started_at: Option<i64>,
}

impl Worker<'_> {
    async fn host(&self, host: &Host, name: &NodeName) -> ResultView {
        let mut heard = Heard::default();
        let end = match self.talk(host, name, &mut heard).await {
            Ok(end) => end,
            Err((outcome, reason)) => return result(self.id, name, heard, outcome, Some(reason), None),
        };
        let outcome = end.outcome.clone();
        result(self.id, name, heard, outcome, None, Some(end))
    }

    async fn talk(
        &self,
        host: &Host,
        name: &NodeName,
        heard: &mut Heard,
    ) -> Result<RunEnd, (Outcome, String)> {
        let unreached = |error: &mainstay_link::ssh::SshError| {
            let reason = match error.hints().first() {
                Some(hint) => format!("{} ({hint})", with_causes(error)),
                None => with_causes(error),
            };
            (Outcome::Undeliverable(reason.clone()), reason)
        };
        let opened = tokio::select! {
            opened = SshTalk::open(&host.ssh, &self.run.binaries) => opened,
            () = self.cancel.cancelled() => return Err((Outcome::Cancelled, "before it was reached".into())),
        };
        let mut talk = opened.map_err(|error| unreached(&error))?;
        let order = Order::Run(Box::new(self.run.order.clone()));
        talk.order(&order).await.map_err(|error| unreached(&error))?;
        heard.started_at = Some(now());
        let lost = |error: mainstay_link::ssh::SshError| (Outcome::Interrupted, with_causes(&error));
        let (mut told, mut seq) = (false, 0);
        loop {
            let word = tokio::select! {
                word = talk.word() => word.map_err(lost)?,
                () = self.cancel.cancelled(), if !told => {
                    told = true;
                    talk.order(&Order::Cancel).await.map_err(lost)?;
                    continue;
                }
            };
            match word {
                Word::Output { stderr, data } => {
                    let kept = if stderr { &mut heard.stderr } else { &mut heard.stdout };
                    kept.extend_from_slice(&data);
                    if self.run.order.stream {
                        self.output(name, seq, stderr, data).await;
                        seq += 1;
                    }
                }
                Word::Ended(end) => {
                    talk.bye().await;
                    return Ok(end);
                }
                Word::Tell(_) => {}
            }
        }
    }

    async fn output(&self, name: &NodeName, seq: u64, stderr: bool, data: Bytes) {
        let (data, data_base64) = text_or_base64(data.to_vec());
        let event = RunEvent::Output {
            run: self.id,
            node: name.clone(),
            seq,
            stream: if stderr { "stderr" } else { "stdout" }.into(),
            data,
            data_base64,
        };
        // Whoever shows it outlives every worker.
        let _ = self.events.send(event).await;
    }
}

fn result(
    run: RunId,
    name: &NodeName,
    heard: Heard,
    outcome: Outcome,
    reason: Option<String>,
    end: Option<RunEnd>,
) -> ResultView {
    let truncated = end.as_ref().is_some_and(|end| end.truncated);
    let (stdout, stdout_base64) = text_or_base64(heard.stdout);
    let (stderr, stderr_base64) = text_or_base64(heard.stderr);
    let mut view = ResultView {
        run,
        node: name.clone(),
        outcome: String::new(),
        reason: None,
        exit_code: None,
        signal: None,
        stdout,
        stdout_base64,
        stderr,
        stderr_base64,
        started_at: heard.started_at,
        duration_ms: end.as_ref().map(|end| i64::try_from(end.duration_ms).unwrap_or(i64::MAX)),
        truncated,
        stdout_bytes: end.as_ref().filter(|_| truncated).map(|end| end.stdout_bytes),
        stderr_bytes: end.as_ref().filter(|_| truncated).map(|end| end.stderr_bytes),
        provisional: false,
    };
    view.set_outcome(&outcome.plain());
    view.reason = view.reason.or(reason);
    view
}

fn text_or_base64(bytes: Vec<u8>) -> (Option<String>, Option<String>) {
    match String::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(error) => (None, Some(BASE64.encode(error.as_bytes()))),
    }
}

/// Results are shown and told under names that a node could have.
fn node_names(hosts: &[Host]) -> Result<Vec<NodeName>, Problem> {
    let mut taken = BTreeMap::new();
    hosts
        .iter()
        .map(|host| {
            let keep = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
            let name: String = host.name.chars().map(keep).take(63).collect();
            let name = name.trim_start_matches(['.', '_', '-']);
            let wrong = |message: String| Problem::new(ProblemKind::Invalid, message);
            let name: NodeName = name.parse().map_err(|error| wrong(format!("{:?}: {error}", host.name)))?;
            match taken.insert(name.clone(), &host.name) {
                None => Ok(name),
                Some(other) => Err(wrong(format!("{other:?} and {:?} would have one name", host.name))),
            }
        })
        .collect()
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// As a hub makes them, though no hub knows it.
fn run_id() -> RunId {
    let mut random = [0; 10];
    // Without randomness it is only less unique.
    let _ = getrandom::fill(&mut random);
    RunId::new(Timestamp::from_millis(now()), random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_whose_connection_broke_says_why() {
        let reason = Some("the far side ended: killed".to_owned());
        let of = |outcome| {
            result(run_id(), &"web".parse().unwrap(), Heard::default(), outcome, reason.clone(), None)
        };
        assert_eq!(of(Outcome::Interrupted).reason, reason);
        assert_eq!(of(Outcome::Failed("no shell".into())).reason.as_deref(), Some("no shell"));
    }

    #[test]
    fn hosts_get_names_that_tell_them_apart() {
        let host = |name: &str| Host { name: name.into(), ..Host::default() };
        let names = node_names(&[host("a.example.org"), host("root@b"), host("::1")]).unwrap();
        assert_eq!(names.iter().map(NodeName::as_str).collect::<Vec<_>>(), ["a.example.org", "root-b", "1"]);
        assert!(node_names(&[host("a@b"), host("a:b")]).is_err());
    }
}

//! Waiting for a run: shows what comes, and decides when waiting is over and with what exit status.
//!
//! A run outlives whoever watches it. Nothing here ends a run.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::time::Duration;

use hyper::Method;
use indicatif::{ProgressBar, ProgressStyle};
use mainstay_control::view::{Problem, ProblemKind, RunEvent, RunNodeView, RunView, WaitsFor};
use mainstay_core::id::{NodeName, RunId};
use mainstay_core::time::Span;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use super::changes::Detail;
use super::fold::{self, Folded};
use super::live::Live;
use super::name_range::compact;
use super::screen::{Screen, one_line};
use super::state_run::StateRun;
use super::{Done, Stop, moment, status_of};
use crate::api::RunDetail;
use crate::client::Client;
use crate::client::run_stream::RunStream;
pub(super) use crate::client::run_stream::short;

/// Nodes may go away in the middle. When nothing came for this long, it is looked whether anything can come: long enough for a link's round
/// trips to anywhere on earth, short enough not to keep a person waiting for machines that are away.
const GRACE: Duration = Duration::from_secs(1);

/// Looking again and again costs the hub; a method that runs for hours needs no more than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How often the progress bar moves; the first time is late enough that quick runs show none.
pub(super) const BAR_STEP: Duration = Duration::from_millis(200);

#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// Stop when only nodes that are away, or wait for those, are left.
    pub(super) only_online: bool,
    /// Stop after this in any case.
    pub(super) limit: Option<Duration>,
}

/// What is shown.
#[derive(Clone, Copy)]
pub(super) struct Look<'a> {
    /// The run's, which says what its output is.
    pub(super) method: &'a str,
    /// Output while it comes.
    pub(super) live: bool,
    /// Events up to this number were shown before: they count, and are not shown again.
    pub(super) after: u64,
}

enum End {
    /// Every node has ended.
    All,
    Away(Box<RunDetail>),
    Waited(Duration),
    Detached,
}

#[derive(Default)]
pub(super) struct Tally {
    targets: u64,
    /// Of these, as far as is known from the beginning.
    away: u64,
    ends: BTreeMap<NodeName, bool>,
}

impl Tally {
    pub(super) fn ok(&self) -> u64 {
        self.ends.values().filter(|ok| **ok).count() as u64
    }

    pub(super) fn failed(&self) -> u64 {
        self.ends.len() as u64 - self.ok()
    }

    pub(super) fn pending(&self) -> u64 {
        self.targets.saturating_sub(self.ends.len() as u64)
    }

    /// All have ended but as many as were away when the run began: nobody need be waited for if these still are.
    fn is_up_to_away(&self) -> bool {
        self.away > 0 && self.pending() <= self.away
    }

    /// `3 ok, 1 failed`.
    pub(super) fn text(&self) -> String {
        let counts = [(self.ok(), "ok"), (self.failed(), "failed"), (self.pending(), "pending")];
        let parts: Vec<String> = counts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        if parts.is_empty() { "no node".to_owned() } else { parts.join(", ") }
    }

    pub(super) fn status(&self) -> u8 {
        match (self.failed(), self.pending()) {
            (0, 0) => status_of::WELL,
            (0, _) => status_of::PENDING,
            _ => status_of::FAILED,
        }
    }
}

/// How events are shown while and after they come.
pub(super) enum Show {
    Json,
    Live(Live),
    Folded(Folded, Bar),
    States(StateRun, Bar),
}

/// Watches until the run has ended or patience has.
pub(super) async fn watch(
    client: &Client,
    mut stream: RunStream<'_>,
    look: Look<'_>,
    patience: Patience,
    screen: &mut Screen,
) -> Done {
    let run = stream.run();
    let mut tally = Tally::default();
    let mut show = match (screen.json, look.live, StateRun::new(run, look.method)) {
        (true, ..) => Show::Json,
        (false, true, _) => Show::Live(Live::of(look.method)),
        (false, false, Some(states)) => Show::States(states, Bar::new(screen)),
        (false, false, None) => Show::Folded(Folded::default(), Bar::new(screen)),
    };
    let end = follow(client, &mut stream, look.after, patience, &mut tally, &mut show, screen).await;
    match &mut show {
        Show::Folded(folded, bar) => {
            bar.finish();
            folded.show(screen)?;
        }
        Show::States(states, bar) => {
            bar.finish();
            states.show(client, Detail::default(), screen).await?;
        }
        Show::Live(live) => live.leave(screen)?,
        Show::Json => {}
    }
    match end? {
        End::All => {}
        _ if screen.json => {
            let (ok, failed, pending) = (tally.ok(), tally.failed(), tally.pending());
            screen.object(&RunEvent::Summary { run, ok, failed, pending })?;
        }
        End::Away(detail) => away(&detail, screen)?,
        End::Waited(limit) => {
            screen.note(&format!("Stopped waiting after {}.", Span(limit)))?;
            away(&pending_of(client, run).await?, screen)?;
        }
        End::Detached => {
            let here = match look.live {
                true => format!(" --stream --after {}", stream.position()),
                false => String::new(),
            };
            screen.note(&format!(
                "Detached; the run goes on.\nCome back with `mainstay runs watch {0}{here}`, end it with `mainstay runs cancel {0}`.",
                short(run)
            ))?;
        }
    }
    if !screen.json {
        screen.note(&summary(&tally, run))?;
    }
    screen.flush()?;
    Ok(tally.status())
}

async fn follow(
    client: &Client,
    stream: &mut RunStream<'_>,
    after: u64,
    patience: Patience,
    tally: &mut Tally,
    show: &mut Show,
    screen: &mut Screen,
) -> Result<End, Stop> {
    let begun = Instant::now();
    let limit = patience.limit.map(|limit| (limit, begun + limit));
    let mut pause = GRACE;
    let mut look_at = begun + pause;
    let mut hurried = false;
    let mut bar_step = interval_at(begun + BAR_STEP, BAR_STEP);
    bar_step.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let has_bar = matches!(show, Show::Folded(_, bar) | Show::States(_, bar) if bar.wanted);
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    loop {
        tokio::select! {
            biased;
            _ = &mut interrupt => return Ok(End::Detached),
            event = stream.next() => {
                let (event, line) = event?;
                pause = GRACE;
                let show = if stream.position() > after { Some(&mut *show) } else { unseen(&event, show) };
                if take(&event, &line, tally, show, screen)? {
                    return Ok(End::All);
                }
                // At once, but only the first time: one that came back meanwhile may be at work for long.
                let at_once = !hurried && tally.is_up_to_away();
                hurried |= at_once;
                look_at = Instant::now() + if at_once { Duration::ZERO } else { pause };
            }
            () = sleep_until(look_at), if patience.only_online => {
                match pending_of(client, stream.run()).await {
                    Ok(detail) if !detail.nodes.is_empty() && detail.nodes.iter().all(is_away) => {
                        return Ok(End::Away(Box::new(detail)));
                    }
                    // The stream is the one to say that a hub does not come back.
                    Err(problem) if problem.kind != ProblemKind::Unreachable => return Err(problem.into()),
                    _ => {}
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
                look_at = Instant::now() + pause;
            }
            () = sleep_until(limit.map_or(begun, |(_, at)| at)), if limit.is_some() => {
                return Ok(End::Waited(patience.limit.unwrap_or_default()));
            }
            _ = bar_step.tick(), if has_bar => {
                if let Show::Folded(_, bar) | Show::States(_, bar) = show {
                    bar.draw(tally);
                }
            }
        }
    }
}

/// For an event that was shown before: only what follows from it for later ones.
fn unseen<'a>(event: &RunEvent, show: &'a mut Show) -> Option<&'a mut Show> {
    match (&mut *show, event) {
        (Show::Live(live), RunEvent::Output { node, .. }) => {
            live.was_shown(node);
            None
        }
        // The end is an end whenever it is seen.
        (_, RunEvent::Summary { .. }) => Some(show),
        _ => None,
    }
}

/// Takes one event in. True when it was the last.
pub(super) fn take(
    event: &RunEvent,
    line: &str,
    tally: &mut Tally,
    show: Option<&mut Show>,
    screen: &mut Screen,
) -> io::Result<bool> {
    match event {
        RunEvent::Accepted { targets, away, .. } => (tally.targets, tally.away) = (*targets, *away),
        RunEvent::Result(result) => {
            tally.ends.insert(result.node.clone(), result.is_ok());
        }
        RunEvent::Output { .. } | RunEvent::Summary { .. } => {}
    }
    match (show, event) {
        (Some(Show::Json), _) => {
            screen.line(line)?;
            screen.flush()?;
        }
        (Some(Show::Live(live)), RunEvent::Result(result)) => live.result(result, screen)?,
        (Some(Show::Live(live)), RunEvent::Output { run, node, stream, data, data_base64, .. }) => {
            let bytes = fold::bytes(data.as_deref(), data_base64.as_deref());
            live.output(*run, node, stream, &bytes, screen)?;
        }
        (Some(Show::Folded(folded, _)), RunEvent::Result(result)) => folded.add(result),
        (Some(Show::States(states, _)), RunEvent::Result(result)) => states.add(result),
        _ => {}
    }
    Ok(matches!(event, RunEvent::Summary { .. }))
}

pub(super) async fn pending_of(client: &Client, run: RunId) -> Result<RunDetail, Problem> {
    client.get(&format!("/v1/runs/{run}?pending=true")).await
}

fn is_away(node: &RunNodeView) -> bool {
    node.waits_for.is_some_and(WaitsFor::is_away)
}

/// Says for each reason which nodes it keeps, and how to come back.
pub(super) fn away(detail: &RunDetail, screen: &mut Screen) -> io::Result<()> {
    let mut by_reason: BTreeMap<&str, Vec<&NodeName>> = BTreeMap::new();
    for node in &detail.nodes {
        by_reason.entry(node.pending.as_deref().unwrap_or("pending")).or_default().push(&node.node);
    }
    for (reason, nodes) in by_reason {
        let count = if nodes.len() > 1 { format!(" ({})", nodes.len()) } else { String::new() };
        screen.note(&format!("Pending: {}{count}: {}", compact(nodes), one_line(reason)))?;
    }
    let until = moment::absolute(detail.run.expires_at);
    screen.note(&format!(
        "The run stays queued until {until}. Come back with `mainstay runs watch {}`.",
        short(detail.run.run)
    ))
}

fn summary(tally: &Tally, run: RunId) -> String {
    format!("{} (run {})", tally.text(), short(run))
}

pub(super) struct Bar {
    wanted: bool,
    bar: Option<ProgressBar>,
}

impl Bar {
    pub(super) fn new(screen: &Screen) -> Self {
        Self { wanted: screen.err_terminal, bar: None }
    }

    pub(super) fn draw(&mut self, tally: &Tally) {
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{pos}/{len} [{wide_bar}] {msg}{elapsed}")
                .expect("a template that a test has drawn")
                .progress_chars("=> ");
            ProgressBar::new(tally.targets).with_style(style)
        });
        if tally.failed() > 0 {
            bar.set_message(format!("{} failed, ", tally.failed()));
        }
        bar.set_length(tally.targets);
        bar.set_position(tally.ends.len() as u64);
        bar.tick();
    }

    pub(super) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// Finds a run by its id, by the beginning or the end of it, or the latest.
pub(super) async fn find_run(client: &Client, given: Option<&str>) -> Result<RunId, Problem> {
    if let Some(run) = given.and_then(|text| text.parse().ok()) {
        return Ok(run);
    }
    let Some(text) = given.filter(|text| *text != "latest") else {
        let runs: Vec<RunView> = client.get("/v1/runs?limit=1").await?;
        let none = || {
            Problem::new(ProblemKind::NotFound, "there is no run yet").hint("start one with `mainstay run`")
        };
        return runs.first().map(|run| run.run).ok_or_else(none);
    };
    let runs: Vec<RunView> = client.get("/v1/runs?limit=10000").await?;
    only("run", "runs list", text, runs.iter().map(|run| run.run))
}

/// The one of these ids that begins or ends so. `list` is the command that shows them.
pub(super) fn only<T: Copy + Display>(
    what: &str,
    list: &str,
    text: &str,
    ids: impl Iterator<Item = T>,
) -> Result<T, Problem> {
    let part = text.to_ascii_lowercase().replace('-', "");
    let fits = |id: &T| {
        let whole = id.to_string().replace('-', "");
        !part.is_empty() && (whole.starts_with(&part) || whole.ends_with(&part))
    };
    let found: Vec<T> = ids.filter(fits).collect();
    match found[..] {
        [id] => Ok(id),
        [] => Err(Problem::new(ProblemKind::NotFound, format!("there is no {what} {text:?}"))
            .hint(format!("see `mainstay {list}`; an id may be given by its beginning or its end"))),
        _ => {
            Err(Problem::new(ProblemKind::Invalid, format!("{text:?} may be any of {} {what}s", found.len()))
                .hint("give more of its id"))
        }
    }
}

/// Changes a run by its id: cancel, retry.
pub(super) async fn act<T: serde::de::DeserializeOwned>(
    client: &Client,
    run: RunId,
    verb: &str,
    input: &impl serde::Serialize,
) -> Result<T, Problem> {
    client.call(Method::POST, &format!("/v1/runs/{run}/{verb}"), input).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_can_be_drawn() {
        let mut bar = Bar { wanted: true, bar: None };
        let mut tally = Tally { targets: 3, ..Tally::default() };
        tally.ends.insert("a".parse().unwrap(), false);
        bar.draw(&tally);
        bar.finish();
    }

    #[test]
    fn the_exit_status_says_what_the_counts_say() {
        let tally = |targets, ends: &[bool]| Tally {
            targets,
            away: 0,
            ends: ends.iter().enumerate().map(|(i, ok)| (format!("n{i}").parse().unwrap(), *ok)).collect(),
        };
        assert_eq!(tally(2, &[true, true]).status(), 0);
        assert_eq!(tally(2, &[true, false]).status(), 1);
        assert_eq!(tally(2, &[true]).status(), 3);
        assert_eq!(tally(3, &[true, false]).status(), 1);
    }

    #[test]
    fn only_as_many_as_were_away_from_the_beginning_are_left() {
        let tally = |away, ends: usize| Tally {
            targets: 3,
            away,
            ends: (0..ends).map(|i| (format!("n{i}").parse().unwrap(), true)).collect(),
        };
        assert!(tally(1, 2).is_up_to_away() && tally(3, 0).is_up_to_away());
        assert!(!tally(1, 1).is_up_to_away() && !tally(0, 3).is_up_to_away());
    }
}

//! `state.plan`, `state.apply`, `state.up`: declared state as durable messages.
//!
//! The catalog is the message's standard input, sealed to this node ([`parcel`]). What is found and done goes out as lines of JSON
//! ([`StateLine`]), so that whoever was not there can read it later. A plan outlives its message ([`plans`]): the approval
//! comes with another one, perhaps days later, and then counts only for what still is as it was.
//!
//! | Method | Arguments | Does |
//! | --- | --- | --- |
//! | `state.plan` | perhaps `explain` | analyses and keeps the plan |
//! | `state.apply` | `data`: the approved plans, as a JSON list | applies the one that this node made, and analyses again |
//! | `state.up` | most cycles | analyses and applies until stable, whatever that takes |
//!
//! How states are analysed and applied is decided in [`crate::state`].

pub mod parcel;
mod plans;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use mainstay_core::envelope::{Request, Stream};
use mainstay_core::outcome::{Exit, Outcome};
use mainstay_core::state::catalog::Catalog;
use mainstay_core::state::plan::{PlanDigest, PlanStep};
use mainstay_core::state::session::{Approval, Ask, PlannedLine, StateLine, Tell};
use mainstay_core::state::{StateId, StepWord};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use self::plans::Plans;
use super::output::OutputSink;
use super::{Call, Method};
use crate::state::{Session, SessionOptions};

/// Cycles that `state.up` takes unless it is told.
pub const DEFAULT_CYCLES: u32 = 3;

/// The one argument of `state.plan`: say of each step why it stands where it does.
pub const EXPLAIN: &str = "explain";

/// More cycles than anyone waits for.
pub const MAX_CYCLES: u32 = 100;

/// Plans that one approval may name; the hub takes no more.
const MAX_APPROVED: usize = 4096;

/// Lines of a plan go out in pieces of about this many bytes: each piece is signed, and written at both ends.
const PIECE: usize = 16 << 10;

/// Steps of a kept plan that are given to the engine together.
const STEPS: usize = 64;

/// A state that takes longer is told to be at its turn before it has ended: should the node be killed, it is known what it was at.
const LONG_TURN: Duration = Duration::from_millis(100);

/// How long a cancelled engine gets to end the state that it is at: a package transaction must not be torn apart.
const CANCEL_WITHIN: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Plan,
    Apply,
    Up,
}

/// The three, which differ in what they may do.
pub struct StateMethod {
    kind: Kind,
    /// The node's own directory, where plans are kept.
    data: PathBuf,
    options: SessionOptions,
}

impl StateMethod {
    /// All three.
    pub fn all(data: &std::path::Path, options: &SessionOptions) -> [Self; 3] {
        [Kind::Plan, Kind::Apply, Kind::Up].map(|kind| Self {
            kind,
            data: data.to_owned(),
            options: SessionOptions { title: format!("a message ({})", kind.name()), ..options.clone() },
        })
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Plan => "state.plan",
            Self::Apply => "state.apply",
            Self::Up => "state.up",
        }
    }
}

#[async_trait]
impl Method for StateMethod {
    fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// Analysing again does no harm.
    fn acts(&self) -> bool {
        self.kind != Kind::Plan
    }

    /// One apply at a time is under way on a machine, and what was ordered first is done first.
    fn is_one_at_a_time(&self) -> bool {
        self.kind != Kind::Plan
    }

    fn check(&self, request: &Request) -> Result<(), String> {
        if request.sealed.is_none() {
            return Err("stdin: the catalog is missing".to_owned());
        }
        match self.kind {
            Kind::Plan => match request.args.as_slice() {
                [] => Ok(()),
                [only] if only == EXPLAIN => Ok(()),
                _ => Err(format!("args: it takes {EXPLAIN} or none")),
            },
            Kind::Apply => approved(&request.data).map(drop),
            Kind::Up => cycles(&request.args).map(drop),
        }
    }

    async fn run(&self, call: &mut Call) -> Outcome {
        let stdin = call.private.stdin.take().unwrap_or_default();
        let catalog = match parcel::unpack(&stdin) {
            Ok(catalog) => catalog,
            Err(error) => return Outcome::Failed(error.to_string()),
        };
        let limit = call.request.timeout_ms.map(Duration::from_millis);
        let session = match Session::open(self.options.clone()) {
            Ok(session) => session,
            Err(error) => return Outcome::Failed(format!("the state engine cannot be started: {error}")),
        };
        let mut talk = Talk {
            session,
            output: &mut call.output,
            cancel: call.cancel.clone(),
            plans: Plans::new(&self.data),
            called_off: None,
            cycle: 1,
            has_begun: false,
            at_turn: Vec::new(),
            text: Vec::new(),
        };
        let work = talk.work(self.kind, &call.request, catalog);
        let done = match limit {
            Some(limit) => timeout(limit, work).await.unwrap_or(Err(Stop::TimedOut)),
            None => work.await,
        };
        if matches!(done, Err(Stop::Cancelled | Stop::TimedOut)) {
            talk.break_off().await;
        }
        if let Err(Stop::Problem(message)) = &done {
            talk.line(&StateLine::Problem { message: message.clone() }).await;
        }
        match done {
            Ok(true) => Outcome::Finished(Exit::Code(0)),
            Ok(false) | Err(Stop::Problem(_)) => Outcome::Finished(Exit::Code(1)),
            Err(Stop::Cancelled) => Outcome::Cancelled,
            Err(Stop::TimedOut) => Outcome::TimedOut,
        }
    }
}

enum Stop {
    /// It cannot go on, and says why.
    Problem(String),
    Cancelled,
    TimedOut,
}

impl Stop {
    fn gone() -> Self {
        Self::Problem("the state engine ended".to_owned())
    }
}

/// Whether a plan outlives the message in which it was made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Plan,
    Nothing,
}

/// What of a plan decides how it goes on.
struct Found {
    stable: bool,
    errors: bool,
}

/// A session whose answers become lines.
struct Talk<'a> {
    session: Session,
    output: &'a mut OutputSink,
    cancel: CancellationToken,
    plans: Plans,
    /// It was, and until when the engine may take to end what it is at.
    called_off: Option<Instant>,
    /// The one that is applied.
    cycle: u32,
    /// Something was done, or may have been.
    has_begun: bool,
    /// States at their turn of which that was not told yet.
    at_turn: Vec<StateId>,
    /// Lines that go out together.
    text: Vec<u8>,
}

impl Talk<'_> {
    /// True if all went well.
    async fn work(&mut self, kind: Kind, request: &Request, catalog: Catalog) -> Result<bool, Stop> {
        self.ask(Ask::Catalog(Box::new(catalog))).await?;
        match kind {
            Kind::Plan => {
                let found = self.analyze(1, !request.args.is_empty(), Keep::Plan).await?;
                Ok(!found.errors)
            }
            Kind::Apply => {
                let approved = approved(&request.data).map_err(Stop::Problem)?;
                self.apply_approved(&approved).await
            }
            Kind::Up => {
                let most = cycles(&request.args).map_err(Stop::Problem)?;
                self.up(most).await
            }
        }
    }

    async fn apply_approved(&mut self, approved: &[String]) -> Result<bool, Stop> {
        let Some(kept) = approved.iter().find_map(|name| self.plans.find(name)) else {
            let message = match approved.iter().any(|name| self.plans.is_used(name)) {
                true => {
                    "the plan was applied already, or its apply was begun, and a plan is applied once; plan again"
                }
                false => "this node keeps no plan that was approved; plan again",
            };
            return Err(Stop::Problem(message.to_owned()));
        };
        let cycle = kept.head.cycle;
        let mut digest = PlanDigest::default();
        let read = |error: io::Error| Stop::Problem(format!("the plan cannot be read: {error}"));
        let mut steps = kept.steps().map_err(read)?.map(|step| step.map(PlanStep::without_words));
        loop {
            let some = steps.by_ref().take(STEPS).collect::<io::Result<Vec<_>>>().map_err(read)?;
            if some.is_empty() {
                break;
            }
            some.iter().for_each(|step| digest.step(step));
            self.ask(Ask::Steps(some)).await?;
        }
        let digest = digest.whole(&kept.head);
        self.ask(Ask::Plan(kept.head.clone())).await?;
        let used = |error: io::Error| Stop::Problem(format!("the plan cannot be used up: {error}"));
        self.plans.use_up(&kept.name).map_err(used)?;
        let well = self.apply(cycle, Approval::Plan { digest }).await;
        // Refused, because somebody else applies: the approval still counts.
        if well.is_err() && !self.has_begun {
            self.plans.put_back(&kept.name).map_err(used)?;
        }
        if !well? {
            return Ok(false);
        }
        let next = self.analyze(cycle + 1, false, Keep::Plan).await?;
        Ok(!next.errors)
    }

    async fn up(&mut self, most: u32) -> Result<bool, Stop> {
        for cycle in 1..=most {
            let found = self.analyze(cycle, false, Keep::Nothing).await?;
            if found.errors {
                return Ok(false);
            }
            if found.stable {
                return Ok(true);
            }
            if !self.apply(cycle, Approval::All).await? {
                return Ok(false);
            }
        }
        let found = self.analyze(most + 1, false, Keep::Nothing).await?;
        if !found.stable || found.errors {
            return Err(Stop::Problem(format!("not stable after {most} cycles")));
        }
        Ok(true)
    }

    /// Nothing is told before the plan's own line, which says how much follows, nor before the plan is on disk if it is to
    /// be kept.
    async fn analyze(&mut self, cycle: u32, explain: bool, keep: Keep) -> Result<Found, Stop> {
        self.ask(Ask::Analyze { cycle, explain }).await?;
        let kept = |error: io::Error| Stop::Problem(format!("the plan cannot be kept: {error}"));
        let mut draft = self.plans.draft().map_err(kept)?;
        let (mut told, mut pending, mut errors) = (0, false, false);
        let mut unchanged: BTreeMap<String, Vec<StateId>> = BTreeMap::new();
        let head = loop {
            match self.tell().await? {
                Tell::Steps(steps) => {
                    for step in steps {
                        errors |= step.step == StepWord::Error;
                        pending |= step.is_pending();
                        if step.is_quiet() {
                            unchanged.entry(step.module.clone()).or_default().push(step.state.clone());
                        } else {
                            told += 1;
                        }
                        draft.step(step).map_err(kept)?;
                    }
                }
                Tell::Planned(head) => break head,
                Tell::Problem { .. } if self.called_off.is_some() => return Err(Stop::Cancelled),
                Tell::Problem { message } => return Err(Stop::Problem(message)),
                _ => {}
            }
        };
        let mut plan = draft.end(head).map_err(kept)?;
        if keep == Keep::Plan {
            self.plans.keep(&mut plan).map_err(kept)?;
        }
        let name = plan.name.clone();
        let orphans = plan.head.orphans.clone();
        let planned = PlannedLine { cycle, plan: name, steps: told, unchanged, pending, errors, orphans };
        self.line(&StateLine::Planned(planned)).await;
        let mut text = Vec::new();
        for step in plan.steps().map_err(kept)? {
            let step = step.map_err(kept)?;
            if !step.is_quiet() {
                put(&StateLine::Step { cycle, step }, &mut text);
            }
            if text.len() >= PIECE {
                self.output.write(Stream::Stdout, &std::mem::take(&mut text)).await;
            }
        }
        if !text.is_empty() {
            self.output.write(Stream::Stdout, &text).await;
        }
        Ok(Found { stable: plan.head.stable, errors })
    }

    /// True if nothing failed, was blocked or had drifted.
    async fn apply(&mut self, cycle: u32, approval: Approval) -> Result<bool, Stop> {
        self.ask(Ask::Apply { cycle, approval }).await?;
        self.cycle = cycle;
        loop {
            let tell = match timeout(LONG_TURN, self.tell()).await {
                Ok(tell) => tell?,
                Err(_) => {
                    self.tell_turns().await;
                    self.tell().await?
                }
            };
            let is_end = matches!(tell, Tell::Applied { .. });
            let well = matches!(&tell, Tell::Applied { counts, drift: None } if counts.failed == 0 && counts.blocked == 0);
            if let Tell::Problem { message } = tell {
                return Err(Stop::Problem(message));
            }
            self.done(tell).await;
            if is_end {
                return if self.called_off.is_some() { Err(Stop::Cancelled) } else { Ok(well) };
            }
        }
    }

    /// Writes down what was done. It goes out at once, together with what waits behind it.
    async fn done(&mut self, tell: Tell) {
        let cycle = self.cycle;
        self.has_begun |= matches!(tell, Tell::Turn { .. } | Tell::Report(_) | Tell::Applied { .. });
        match tell {
            Tell::Turn { state } => self.at_turn.push(state),
            Tell::Report(report) => {
                self.at_turn.retain(|state| *state != report.state);
                put(&StateLine::Report { cycle, report }, &mut self.text);
            }
            Tell::Applied { counts, drift } => {
                put(&StateLine::Applied { cycle, counts, drift }, &mut self.text)
            }
            _ => {}
        }
        if self.text.len() >= PIECE || self.session.tells.is_empty() {
            self.flush().await;
        }
    }

    async fn tell_turns(&mut self) {
        let cycle = self.cycle;
        for state in std::mem::take(&mut self.at_turn) {
            put(&StateLine::Turn { cycle, state }, &mut self.text);
        }
        self.flush().await;
    }

    async fn flush(&mut self) {
        if !self.text.is_empty() {
            self.output.write(Stream::Stdout, &std::mem::take(&mut self.text)).await;
        }
    }

    async fn ask(&mut self, ask: Ask) -> Result<(), Stop> {
        if self.cancel.is_cancelled() {
            return Err(Stop::Cancelled);
        }
        self.session.asks.send(ask).await.map_err(|_| Stop::gone())
    }

    /// The next answer. After a cancel the engine ends what it is at, and what it says of that is heard too.
    async fn tell(&mut self) -> Result<Tell, Stop> {
        let until = match self.called_off {
            Some(until) => until,
            None => tokio::select! {
                tell = self.session.tells.recv() => return tell.ok_or_else(Stop::gone),
                () = self.cancel.cancelled() => {
                    let _ = self.session.asks.send(Ask::Cancel).await;
                    *self.called_off.insert(Instant::now() + CANCEL_WITHIN)
                }
            },
        };
        let tell = timeout_at(until, self.session.tells.recv()).await;
        tell.map_err(|_| Stop::Cancelled)?.ok_or(Stop::Cancelled)
    }

    /// Ends all that is still done, and writes down what became of it: whoever comes next finds nobody at work.
    async fn break_off(&mut self) {
        self.session.hang_up();
        let ending = async {
            while let Some(tell) = self.session.tells.recv().await {
                self.done(tell).await;
            }
        };
        let _ = timeout(CANCEL_WITHIN, ending).await;
        self.flush().await;
    }

    async fn line(&mut self, line: &StateLine) {
        put(line, &mut self.text);
        self.flush().await;
    }
}

fn put(line: &StateLine, text: &mut Vec<u8>) {
    let whole = text.len();
    // Nothing in a line is anything but text, numbers and what JSON made.
    match serde_json::to_writer(&mut *text, line) {
        Ok(()) => text.push(b'\n'),
        Err(_) => text.truncate(whole),
    }
}

fn approved(data: &[u8]) -> Result<Vec<String>, String> {
    let plans: Vec<String> =
        serde_json::from_slice(data).map_err(|error| format!("data: not a list of plans: {error}"))?;
    if plans.is_empty() || plans.len() > MAX_APPROVED {
        return Err(format!("data: 1 to {MAX_APPROVED} plans can be approved at once"));
    }
    Ok(plans)
}

fn cycles(args: &[String]) -> Result<u32, String> {
    match args {
        [] => Ok(DEFAULT_CYCLES),
        [most] => match most.parse() {
            Ok(most) if (1..=MAX_CYCLES).contains(&most) => Ok(most),
            _ => Err(format!("args: {most:?} is no number of cycles from 1 to {MAX_CYCLES}")),
        },
        _ => Err("args: one number of cycles is all that it takes".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_checked_before_a_message_is_accepted() {
        assert_eq!(cycles(&[]), Ok(3));
        assert_eq!(cycles(&["7".into()]), Ok(7));
        for bad in ["0", "101", "-1", "many"] {
            assert!(cycles(&[bad.to_owned()]).is_err(), "{bad}");
        }
        assert!(approved(b"[]").is_err());
        assert!(approved(b"{}").is_err());
        assert_eq!(approved(b"[\"a\"]"), Ok(vec!["a".to_owned()]));
    }
}

//! The analyze phase: what every state would do, with nothing changed.
//!
//! States are looked at in the order of their turns. What an earlier one would change is foretold to the later ones, and what
//! cannot be known before it has changed makes them conditional, never an error.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use mainstay_core::state::plan::{Change, Datum, PlanHead, PlanStep};
use mainstay_core::state::session::Tell;
use mainstay_core::state::walk::{Foreseen, Judgement, Outlook, Owed, Ran};
use mainstay_core::state::{StateId, StateIndex, StateOutcome, StepWord, Values};
use mainstay_module::forecast::Forecast;
use mainstay_module::module::{Analysis, Analyze, Blobs};

use super::awaited::{Awaited, Draft};
use super::glances::Glances;
use super::guard::{self, Guarded};
use super::machine::{Looked, Looking};
use super::outputs::Table;
use super::prepared::{Given, Prepared, Unknown};
use super::teller::Teller;
use super::verdict;

/// What the analyze phase is told.
pub(super) struct Question<'a> {
    pub(super) prepared: &'a Prepared,
    pub(super) machine: &'a Looking,
    pub(super) teller: &'a Teller,
    pub(super) owed: &'a Owed,
    /// Commands that ran in an earlier cycle, and what they gave out then.
    pub(super) ran: &'a Ran,
    pub(super) earlier: Option<&'a Table>,
    pub(super) cycle: u32,
    pub(super) explain: bool,
    pub(super) machine_id: &'a str,
}

struct Analyzing<'a> {
    question: &'a Question<'a>,
    glances: &'a Glances<'a>,
    outlook: Outlook<'a>,
    forecast: Forecast,
    table: Table,
}

/// What looking at one state gave.
struct Sight {
    step: StepWord,
    reason: Option<String>,
    changes: Vec<Change>,
    outputs: Values,
    predicts: Vec<(mainstay_module::forecast::Resource, Option<serde_json::Value>)>,
    /// What it does is not known well enough to foretell anything of it.
    blind: bool,
    /// There may be changes that cannot be named yet.
    more: bool,
    skipped: bool,
    /// It is shown as conditional, and yet it could not be analysed.
    failed: bool,
}

impl Sight {
    fn new(step: StepWord, reason: impl Into<String>) -> Self {
        Self {
            step,
            reason: Some(reason.into()),
            changes: Vec::new(),
            outputs: Values::new(),
            predicts: Vec::new(),
            blind: false,
            more: false,
            skipped: false,
            failed: false,
        }
    }

    fn found(&self) -> Foreseen {
        match (self.skipped, self.failed) {
            (true, _) => Foreseen::Skipped,
            (_, true) => Foreseen::Step(StepWord::Error),
            _ => Foreseen::Step(self.step),
        }
    }

    /// Nothing in this plan calls for it.
    fn owed(mut self) -> Self {
        const OWED: &str = "owed from an earlier run";
        self.reason = Some(self.reason.map_or_else(|| OWED.into(), |own| format!("{OWED}; {own}")));
        self
    }

    /// Whether or how it happens is known only later.
    fn conditional(mut self, reason: String) -> Self {
        self.step = StepWord::Conditional;
        self.reason = Some(match self.reason.take() {
            Some(own) if own != reason => format!("{reason}; {own}"),
            _ => reason,
        });
        for (_, value) in &mut self.predicts {
            *value = None;
        }
        self
    }
}

/// Steps that are told together at most, and how long the first of them waits for the others.
const TOGETHER: usize = 64;
const WAIT: Duration = Duration::from_millis(50);

/// The steps on their way out: each goes into what waits for an approval, and is told.
struct Telling<'a> {
    teller: &'a Teller,
    awaited: Draft,
    untold: Vec<PlanStep>,
    since: Instant,
}

impl Telling<'_> {
    /// False if nobody listens any more.
    fn step(&mut self, step: PlanStep) -> bool {
        self.awaited.step(&step);
        self.untold.push(step);
        let is_due = self.untold.len() == TOGETHER || self.since.elapsed() >= WAIT;
        !is_due || self.tell()
    }

    fn tell(&mut self) -> bool {
        self.since = Instant::now();
        self.untold.is_empty() || self.teller.tell(Tell::Steps(std::mem::take(&mut self.untold)))
    }
}

/// Nothing if it was called off.
pub(super) fn analyze(question: &Question<'_>) -> Option<(PlanHead, Awaited)> {
    Glances::beside(question.prepared, question.machine, |glances| analyze_beside(question, glances))
}

fn analyze_beside(question: &Question<'_>, glances: &Glances<'_>) -> Option<(PlanHead, Awaited)> {
    let prepared = question.prepared;
    let mut analyzing = Analyzing {
        question,
        glances,
        outlook: Outlook::new(&prepared.catalog, &prepared.order, question.owed, question.ran),
        forecast: Forecast::default(),
        table: Table::unknown(&prepared.catalog),
    };
    let mut telling = Telling {
        teller: question.teller,
        awaited: Draft::default(),
        untold: Vec::new(),
        since: Instant::now(),
    };
    // What comes after the first that may still be refreshed at the end is told then.
    let mut held: Vec<PlanStep> = Vec::new();
    let mut first_held = None;
    for state in prepared.order.sequence.iter().copied() {
        if question.machine.is_cancelled() {
            return None;
        }
        let step = analyzing.turn(state);
        if first_held.is_none() && listens(prepared, state) {
            first_held = Some(prepared.order.place(state));
        }
        match first_held {
            Some(_) => held.push(step),
            None if telling.step(step) => {}
            None => return None,
        }
    }
    for (state, because) in analyzing.outlook.listens() {
        let place = prepared.order.place(state) - first_held.unwrap_or(0);
        let refresh = held[place].refresh.get_or_insert_default();
        refresh.extend(prepared.ids(&because));
        refresh.sort();
        refresh.dedup();
    }
    if !held.into_iter().all(|step| telling.step(step)) || !telling.tell() {
        return None;
    }
    let orphans = question.owed.orphans(&prepared.catalog);
    let head = PlanHead {
        catalog: prepared.digest.clone(),
        machine: question.machine_id.to_owned(),
        cycle: question.cycle,
        orphans: orphans.into_iter().map(super::debts::name_of).collect(),
        stable: analyzing.outlook.asks_again().is_empty(),
        ran: question.ran.ids().cloned().collect(),
    };
    let awaited = telling.awaited.end(&head);
    Some((head, awaited))
}

fn listens(prepared: &Prepared, state: StateIndex) -> bool {
    use mainstay_core::state::catalog::RequisiteKind::Listen;
    !prepared.declared(state).requisites.targets(Listen).is_empty()
}

impl Analyzing<'_> {
    fn turn(&mut self, state: StateIndex) -> PlanStep {
        let prepared = self.question.prepared;
        self.glances.turn(prepared.order.place(state));
        let judgement = self.judge(state);
        let (sight, refresh) = match &judgement {
            Judgement::Analyse { refresh } => {
                let sight = self.sight(state, true);
                let is_owed = sight.step.is_pending() && self.outlook.owes_trigger(state);
                (if is_owed { sight.owed() } else { sight }, refresh.clone())
            }
            Judgement::Ran { refresh } => {
                (Sight::new(StepWord::Unchanged, "it ran already in this run"), refresh.clone())
            }
            Judgement::Skipped { reason } => {
                let skipped = Sight::new(StepWord::Unchanged, reason.clone());
                (Sight { skipped: true, ..skipped }, None)
            }
            Judgement::Conditional { reason, refresh, .. } => {
                let sight = self.sight(state, false);
                let sight = if sight.skipped { sight } else { sight.conditional(reason.clone()) };
                (sight, refresh.clone())
            }
            Judgement::Blocked { reason, .. } => {
                let blocked = Sight::new(StepWord::Conditional, reason.clone());
                (Sight { blind: true, ..blocked }, None)
            }
            Judgement::Probe { .. } => unreachable!("every target was answered"),
        };
        let refresh = refresh.filter(|_| !sight.skipped && sight.step != StepWord::Error);
        let found = match &judgement {
            Judgement::Analyse { .. } => Some(sight.found()),
            _ if sight.skipped => Some(Foreseen::Skipped),
            _ => None,
        };
        self.outlook.settle(state, &judgement, found);
        self.note(state, &judgement, &sight, refresh.is_some());
        // It has nothing to do now, and its turn says so for good.
        let sight = match self.outlook.settles(state) {
            true => Sight { step: StepWord::Conditional, ..sight.owed() },
            false => sight,
        };
        let mut step = PlanStep {
            state: prepared.id(state).clone(),
            module: prepared.declared(state).module.clone(),
            step: sight.step,
            reason: sight.reason,
            changes: sight.changes,
            refresh: refresh.map(|because| prepared.ids(&because)),
        };
        if self.question.explain {
            let why = prepared.order.explain(&prepared.catalog, state);
            step.reason = Some(match step.reason.take() {
                Some(reason) => format!("{reason}; {why}"),
                None => why,
            });
        }
        self.question.teller.redact_step(prepared, state, &mut step);
        step
    }

    /// Asks the targets of `prereq` as long as it takes.
    fn judge(&mut self, state: StateIndex) -> Judgement {
        loop {
            match self.outlook.judge(state) {
                Judgement::Probe { targets } => {
                    for target in targets {
                        let found = self.sight(target, true).found();
                        self.outlook.probed(state, target, found);
                    }
                }
                judgement => return judgement,
            }
        }
    }

    /// Makes what was found known to the states after it.
    fn note(&mut self, state: StateIndex, judgement: &Judgement, sight: &Sight, refreshed: bool) {
        let prepared = self.question.prepared;
        let id = prepared.id(state);
        match (judgement, sight.step) {
            (Judgement::Ran { .. }, _) => {
                if let Some(earlier) = self.question.earlier {
                    self.table.copy(state, earlier);
                }
            }
            _ if sight.skipped => self.table.ended(state, StateOutcome::Skipped, &Values::new()),
            (_, StepWord::Unchanged) if !refreshed => {
                self.table.ended(state, StateOutcome::Unchanged, &sight.outputs);
                self.question.teller.learn(prepared, state, &sight.outputs);
            }
            _ => {}
        }
        if sight.step.is_pending() {
            for (resource, value) in &sight.predicts {
                let mut value = value.clone();
                prepared.states[state].secrecy.foretold(&mut value);
                self.forecast.predict(resource.clone(), id.clone(), value);
            }
        }
        if sight.step == StepWord::Opaque || sight.blind {
            self.forecast.note_opaque(id.clone());
        }
    }

    /// Looks at one state: its guards, then its module. `decided`: its requisites let it run, so that its guards may decide.
    fn sight(&self, state: StateIndex, decided: bool) -> Sight {
        let prepared = self.question.prepared;
        let secrecy = &prepared.states[state].secrecy;
        let error = |failure: &mainstay_module::Failure| {
            let words = secrecy.failure(failure);
            match self.outlook.guards_wait_for(state) {
                // What fails now may work after that.
                Some(until) => {
                    let until = prepared.id(until);
                    let sight = Sight::new(
                        StepWord::Conditional,
                        format!("cannot be analysed before {until} has had its turn: {words}"),
                    );
                    Sight { blind: true, failed: true, ..sight }
                }
                None => Sight::new(StepWord::Error, words),
            }
        };
        let seen = self.table.seen_by(&prepared.catalog, state);
        let mut waits: Option<String> = None;
        match guard::when(prepared, state, &seen) {
            Ok(Guarded::Go) => {}
            Ok(Guarded::Skip(reason)) => {
                return Sight { skipped: true, ..Sight::new(StepWord::Unchanged, reason) };
            }
            Ok(Guarded::Wait(until)) => waits = Some(format!("when is known after {until}")),
            Err(failure) => return error(&failure),
        }
        let given = match prepared.given(state, &seen) {
            Given::Wrong(words) => {
                return Sight::new(StepWord::Error, secrecy.words(words));
            }
            given => given,
        };
        let mut guards = None;
        if guard::looks(prepared, state) {
            match guard::texts(prepared, state, &seen) {
                Err(failure) => return error(&failure),
                Ok(Err(until)) => waits = Some(format!("its guards are known after {until}")),
                Ok(Ok(texts)) => match self.outlook.guards_wait_for(state) {
                    Some(until) => {
                        waits = Some(format!("its guards are asked after {}", prepared.id(until)));
                    }
                    None if decided => guards = Some(texts),
                    None => waits = Some("its guards are asked at its turn".into()),
                },
            }
        }
        let module = prepared.states[state].module.as_ref();
        let (params, unknown) = match &given {
            Given::Whole(params) => (Some(&**params), &[][..]),
            Given::Partly(params, unknown) => (Some(params), unknown.as_slice()),
            Given::Not(unknown) => (None, unknown.as_slice()),
            Given::Wrong(_) => unreachable!("it was told above"),
        };
        let probe_waits = params.filter(|params| module.probes(params)).and_then(|_| {
            let until = self.outlook.probe_waits_for(state).map(|until| prepared.id(until).clone());
            until
                .map(|until| format!("known after {until}"))
                .or((!decided).then(|| "known at its turn".into()))
        });
        let looked = self.question.machine.look(prepared, state, &self.forecast, |view| {
            if let Some(guards) = guards
                && let Guarded::Skip(reason) = guards.ask(view)?
            {
                return Ok(Err(reason));
            }
            let (Some(params), None) = (params, &probe_waits) else { return Ok(Ok(None)) };
            if let Some(analysis) = self.glances.take(prepared.order.place(state), &self.forecast) {
                return Ok(Ok(Some(analysis)));
            }
            let blobs = Blobs(&prepared.catalog.blobs);
            let cx = Analyze { state: prepared.id(state), view, forecast: &self.forecast, blobs };
            module.analyze(params, &cx).map(|analysis| Ok(Some(analysis)))
        });
        let analysis = match looked.and_then(|looked| match looked {
            Looked::Done(found) => found,
            Looked::Later(until) => Ok(Ok(Some(Analysis::conditional(&until)))),
        }) {
            Ok(Err(reason)) => {
                return Sight { skipped: true, ..Sight::new(StepWord::Unchanged, reason) };
            }
            Ok(Ok(analysis)) => analysis,
            Err(failure) => return error(&failure),
        };
        let mut sight = match analysis {
            Some(analysis) => {
                let verdict = &analysis.verdict;
                let judged = verdict::judge(prepared, state, verdict, &analysis.outputs, &seen);
                if let Err(failure) = judged {
                    return error(&failure);
                }
                Sight {
                    step: analysis.step,
                    more: analysis.step == StepWord::Conditional && analysis.changes.is_empty(),
                    reason: analysis.reason.map(|reason| secrecy.words(reason)),
                    changes: analysis.changes,
                    outputs: analysis.outputs,
                    blind: analysis.step == StepWord::Conditional && analysis.predicts.is_empty(),
                    predicts: analysis.predicts,
                    skipped: false,
                    failed: false,
                }
            }
            None => {
                let reason = probe_waits.unwrap_or_else(|| waits_for(unknown));
                Sight { blind: true, more: true, ..Sight::new(StepWord::Conditional, reason) }
            }
        };
        if !unknown.is_empty() {
            let change = |field: Cow<'static, str>, until: &StateId| {
                let until = || Datum::Unknown { until: until.clone() };
                Change::new(field, until(), until())
            };
            sight
                .changes
                .extend(unknown.iter().map(|unknown| change(unknown.field.clone().into(), &unknown.until)));
            if sight.more {
                sight
                    .changes
                    .extend(unknown.first().map(|unknown| change(Change::MORE.into(), &unknown.until)));
            }
            sight = sight.conditional(waits_for(unknown));
        }
        match waits {
            Some(reason) => sight.conditional(reason),
            None => sight,
        }
    }
}

/// `known after a, b`.
fn waits_for(unknown: &[Unknown]) -> String {
    let mut until: Vec<&StateId> = unknown.iter().map(|unknown| &unknown.until).collect();
    until.sort();
    until.dedup();
    let until: Vec<&str> = until.into_iter().map(StateId::as_str).collect();
    format!("known after {}", until.join(", "))
}

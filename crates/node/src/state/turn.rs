//! The turn of one state in the modify phase.
//!
//! It is observed again and held against the approved plan; what its change calls for is written down; it is changed, and looked
//! at once more: what is still wanted then was not achieved. Then its check, and its refresh.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use mainstay_core::causes::with_causes;
use mainstay_core::state::approval;
use mainstay_core::state::catalog::RequisiteKind;
use mainstay_core::state::plan::PlanStep;
use mainstay_core::state::session::Tell;
use mainstay_core::state::template::Rendering;
use mainstay_core::state::walk::{Probed, Refreshed as Heard, Run};
use mainstay_core::state::{StateIndex, StateOutcome, StepWord, Values};
use mainstay_module::Failure;
use mainstay_module::forecast::Forecast;
use mainstay_module::host::{Command, Host, Staged};
use mainstay_module::module::{Analysis, Analyze, Applied, Apply, Blobs, Refreshed};
use mainstay_module::registry::Params;
use serde_json::Value;

use super::ahead::Ahead;
use super::apply::{Applying, Finished};
use super::failpoint;
use super::guard::{self, Guarded};
use super::prepared::{Given, Held};
use super::verdict;

/// A state as it was found at its turn.
pub(super) struct Observed<'a> {
    pub(super) params: Held<'a>,
    pub(super) analysis: Analysis,
}

/// Why a turn ends before its end.
pub(super) enum Stop {
    Skipped(String),
    Failed(Failed),
    Drift(String),
}

impl Stop {
    fn into_reason(self) -> String {
        match self {
            Self::Skipped(reason) | Self::Drift(reason) => reason,
            Self::Failed(failed) => failed.reason,
        }
    }
}

/// What it gave out stands all the same, for `until` and the report.
#[derive(Default)]
pub(super) struct Failed {
    reason: String,
    outputs: Values,
}

/// What was done.
pub(super) struct Worked {
    changed: bool,
    outputs: Values,
    note: Option<String>,
}

impl<'a> Applying<'a> {
    pub(super) fn run(&self, run: &Run) {
        let begun = Instant::now();
        self.tell(Tell::Turn { state: self.order.prepared.id(run.state).clone() });
        if let Some(Ahead { observed, staged }) = self.take_ahead(run) {
            return self.carry_out(run, &observed, Some(staged), begun);
        }
        match self.observe(run) {
            Ok(observed) => {
                let staged = self.write_ahead(run, &observed);
                self.carry_out(run, &observed, staged, begun);
            }
            Err(stop) => self.stopped(run.state, begun, stop, None),
        }
    }

    /// Looks at a state whose turn has come, and whether what it is about to do was approved.
    pub(super) fn observe(&self, run: &Run) -> Result<Observed<'a>, Stop> {
        let observed = self.find(run)?;
        self.compare(run, &observed.analysis)?;
        Ok(observed)
    }

    /// Guards, parameters, and what the module sees.
    fn find(&self, run: &Run) -> Result<Observed<'a>, Stop> {
        let (prepared, state) = (self.order.prepared, run.state);
        let (params, guards) = self.with_outputs(state, |seen| {
            match guard::when(prepared, state, seen).map_err(|failure| self.failed(state, &failure))? {
                Guarded::Go => {}
                Guarded::Skip(reason) => return Err(Stop::Skipped(reason)),
                Guarded::Wait(until) => return Err(fail(format!("{until} gave nothing out"))),
            }
            let params = self.params(state, prepared.given(state, seen))?;
            match guard::texts(prepared, state, seen).map_err(|failure| self.failed(state, &failure))? {
                Ok(guards) => Ok((params, guards)),
                Err(until) => Err(fail(format!("{until} gave nothing out"))),
            }
        })?;
        let looked = self.act(state, |host| {
            if guard::looks(prepared, state)
                && let Guarded::Skip(reason) = guards.ask(host)?
            {
                return Ok(Err(reason));
            }
            let analysis = if run.apply { self.look(state, &params, host)? } else { Analysis::unchanged() };
            Ok(Ok(analysis))
        });
        let analysis = match looked {
            Ok(Ok(analysis)) => analysis,
            Ok(Err(reason)) => return Err(Stop::Skipped(reason)),
            Err(failure) => return Err(self.failed(state, &failure)),
        };
        match analysis.step {
            StepWord::Conditional | StepWord::Error => {
                let words =
                    analysis.reason.unwrap_or_else(|| "it cannot be told what it would change".into());
                return Err(fail(prepared.states[state].secrecy.words(words)));
            }
            StepWord::Unchanged | StepWord::Change | StepWord::Opaque => {}
        }
        self.with_outputs(state, |seen| {
            verdict::judge(prepared, state, &analysis.verdict, &analysis.outputs, seen)
        })
        .map_err(|failure| {
            let Stop::Failed(failed) = self.failed(state, &failure) else { return fail(String::new()) };
            Stop::Failed(Failed { outputs: analysis.outputs.clone(), ..failed })
        })?;
        Ok(Observed { params, analysis })
    }

    fn params<'p>(&self, state: StateIndex, given: Given<'p>) -> Result<Held<'p>, Stop> {
        match given {
            Given::Whole(params) => Ok(params),
            Given::Wrong(words) => Err(fail(self.order.prepared.states[state].secrecy.words(words))),
            // Whoever is read has its turn before; it failed, or it gave nothing out.
            Given::Partly(_, unknown) | Given::Not(unknown) => {
                let unknown: Vec<String> = unknown
                    .iter()
                    .map(|unknown| format!("{} reads {}", unknown.field, unknown.until))
                    .collect();
                Err(fail(format!("an output is not there: {}", unknown.join(", "))))
            }
        }
    }

    /// Holds what was found against the plan that was approved.
    fn compare(&self, run: &Run, analysis: &Analysis) -> Result<(), Stop> {
        let Some((planned, ground)) = self.approved(run.state) else { return Ok(()) };
        let prepared = self.order.prepared;
        let mut step = PlanStep {
            state: prepared.id(run.state).clone(),
            module: prepared.declared(run.state).module.clone(),
            step: analysis.step,
            reason: None,
            changes: analysis.changes.clone(),
            refresh: run.refresh.as_ref().map(|because| prepared.ids(because)),
        };
        self.order.teller.redact_step(prepared, run.state, &mut step);
        approval::covers(planned.as_ref(), &step, ground).map_err(|drift| {
            Stop::Drift(match self.bringer() {
                Some(by) => format!("{drift} ({by} changed in this run and may have brought it: plan again)"),
                None => drift.to_string(),
            })
        })
    }

    /// Does what is to be done, and ends the turn. `staged`: only to be put in place.
    pub(super) fn carry_out(
        &self,
        run: &Run,
        observed: &Observed<'_>,
        staged: Option<Staged<'_>>,
        begun: Instant,
    ) {
        let state = run.state;
        let pending = observed.analysis.step.is_pending();
        if !pending && run.refresh.is_none() {
            return self.finish(Finished {
                state,
                begun,
                outcome: StateOutcome::Unchanged,
                reason: None,
                step: observed.analysis.step,
                changes: Vec::new(),
                refreshed: false,
                outputs: observed.analysis.outputs.clone(),
            });
        }
        if let Err(stop) = self.write_down(state) {
            return self.stopped(state, begun, stop, Some(&observed.analysis));
        }
        failpoint::pass("before a change");
        let worked = if let Some(staged) = staged {
            self.place(state, observed, staged)
        } else if pending {
            self.act(state, |host| Ok(self.work(run, observed, host)))
                .unwrap_or_else(|failure| Err(self.failed(state, &failure)))
        } else {
            let outputs = observed.analysis.outputs.clone();
            Ok(Worked { changed: false, outputs, note: None })
        };
        failpoint::pass("after a change");
        self.close(run, observed, begun, pending, worked);
    }

    pub(super) fn write_down(&self, state: StateIndex) -> Result<(), Stop> {
        self.owe(&[state]).map_err(|error| {
            fail(format!("what its change calls for cannot be written down: {}", with_causes(&error)))
        })
    }

    /// The refresh, if one is asked for, and the end. `applied`: it was applied just before.
    pub(super) fn close(
        &self,
        run: &Run,
        observed: &Observed<'_>,
        begun: Instant,
        applied: bool,
        worked: Result<Worked, Stop>,
    ) {
        let state = run.state;
        let mut worked = match worked {
            Ok(worked) => worked,
            Err(stop) => return self.stopped(state, begun, stop, Some(&observed.analysis)),
        };
        let (mut refreshed, mut changed) = (false, worked.changed);
        if run.refresh.is_some() {
            let analysis = applied.then_some(&observed.analysis);
            match self.refresh(state, &observed.params, analysis) {
                Ok(Some(done)) => {
                    refreshed = true;
                    changed |= done.changed;
                    worked.outputs.extend(done.outputs);
                }
                Ok(None) => {}
                Err(failed) => {
                    return self.stopped(state, begun, Stop::Failed(failed), Some(&observed.analysis));
                }
            }
            failpoint::pass("after a refresh");
        }
        let listens = self.order.prepared.declared(state).requisites.targets(RequisiteKind::Listen);
        if applied && !listens.is_empty() {
            let mut kept = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
            kept.insert(state, observed.analysis.clone());
        }
        if changed
            && !self.checks_attempts(run)
            && let Err(stop) = self.check_at_end(state, &worked.outputs)
        {
            return self.stopped(state, begun, stop, Some(&observed.analysis));
        }
        self.finish(Finished {
            state,
            begun,
            outcome: if changed { StateOutcome::Changed } else { StateOutcome::Unchanged },
            reason: worked.note.map(|note| self.order.prepared.states[state].secrecy.words(note)),
            step: observed.analysis.step,
            changes: if worked.changed { observed.analysis.changes.clone() } else { Vec::new() },
            refreshed,
            outputs: worked.outputs,
        });
    }

    pub(super) fn stopped(&self, state: StateIndex, begun: Instant, stop: Stop, found: Option<&Analysis>) {
        let (outcome, failed) = match stop {
            Stop::Drift(drift) => return self.drifted(state, begun, &drift),
            Stop::Skipped(reason) => (StateOutcome::Skipped, Failed { reason, ..Failed::default() }),
            Stop::Failed(failed) => (StateOutcome::Failed, failed),
        };
        self.finish(Finished {
            state,
            begun,
            outcome,
            reason: Some(failed.reason),
            step: found.map_or(StepWord::Unchanged, |analysis| analysis.step),
            changes: found.map(|analysis| analysis.changes.clone()).unwrap_or_default(),
            refreshed: false,
            outputs: failed.outputs,
        });
    }

    /// What is left of an apply of which the rest was done ahead.
    fn place(&self, state: StateIndex, observed: &Observed<'_>, staged: Staged<'_>) -> Result<Worked, Stop> {
        staged.place().map_err(|failure| self.failed(state, &failure))?;
        let applied = Applied { outputs: observed.analysis.outputs.clone(), ..Applied::default() };
        self.after(state, &observed.params, &observed.analysis, applied, self.order.machine.host())
    }

    /// Applies as often as `retry` says.
    fn work(&self, run: &Run, observed: &Observed<'_>, host: &Host) -> Result<Worked, Stop> {
        let state = run.state;
        let Some(retry) = &self.order.prepared.declared(state).options.retry else {
            return self.once(state, &observed.params, &observed.analysis, host);
        };
        let mut analysis = observed.analysis.clone();
        let mut attempt = 1;
        loop {
            let worked = if analysis.step.is_pending() {
                self.once(state, &observed.params, &analysis, host)
            } else {
                // What the attempt before left undone came about since.
                Ok(Worked { changed: true, outputs: analysis.outputs.clone(), note: None })
            };
            let worked = match worked {
                Ok(worked) if worked.changed && self.checks_attempts(run) => {
                    self.check(state, &worked.outputs, host).map(|()| worked)
                }
                worked => worked,
            };
            let failed = match (worked, &retry.until) {
                (Err(Stop::Failed(failed)), Some(until)) if !failed.outputs.is_empty() => {
                    match self.holds(state, until, &failed.outputs) {
                        // The expression is about what came out, not about how it ended.
                        Ok(true) => return Err(Stop::Failed(failed)),
                        Ok(false) => failed,
                        Err(failure) => return Err(self.failed(state, &failure)),
                    }
                }
                (Err(Stop::Failed(failed)), _) => failed,
                (Ok(worked), Some(until)) => match self.holds(state, until, &worked.outputs) {
                    Ok(true) => return Ok(worked),
                    Ok(false) => Failed {
                        reason: format!("not so after {attempt} attempts: {until}"),
                        outputs: worked.outputs,
                    },
                    Err(failure) => return Err(self.failed(state, &failure)),
                },
                (other, _) => return other,
            };
            let called_off = self.order.stop.is_cancelled();
            if attempt >= retry.attempts || called_off || !host.sleep(retry.interval + part_of(retry.splay)) {
                let reason = match attempt {
                    1 => failed.reason,
                    _ if failed.reason.starts_with("not so after") => failed.reason,
                    attempts => format!("{} ({attempts} attempts)", failed.reason),
                };
                return Err(Stop::Failed(Failed { reason, ..failed }));
            }
            attempt += 1;
            analysis =
                self.look(state, &observed.params, host).map_err(|failure| self.failed(state, &failure))?;
            self.compare(run, &analysis)?;
        }
    }

    /// Applies once, and looks whether it is as declared now.
    fn once(
        &self,
        state: StateIndex,
        params: &Params,
        analysis: &Analysis,
        host: &Host,
    ) -> Result<Worked, Stop> {
        let module = self.order.prepared.states[state].module.as_ref();
        let applied = module.apply(params, &self.applying(state, host), analysis);
        let applied = applied.map_err(|failure| self.failed(state, &failure))?;
        self.after(state, params, analysis, applied, host)
    }

    /// What comes after an apply that went through.
    pub(super) fn after(
        &self,
        state: StateIndex,
        params: &Params,
        analysis: &Analysis,
        applied: Applied,
        host: &Host,
    ) -> Result<Worked, Stop> {
        let prepared = self.order.prepared;
        let mut outputs = analysis.outputs.clone();
        outputs.extend(applied.outputs.clone());
        let failed = |failure: &Failure, outputs: &Values| match self.failed(state, failure) {
            Stop::Failed(failed) => Stop::Failed(Failed { outputs: outputs.clone(), ..failed }),
            stop => stop,
        };
        let says = self
            .with_outputs(state, |seen| verdict::judge(prepared, state, &applied.verdict, &outputs, seen))
            .map_err(|failure| failed(&failure, &outputs))?;
        let changed = says.unwrap_or(!applied.unchanged);
        if analysis.step == StepWord::Change {
            let now = self.look(state, params, host).map_err(|failure| failed(&failure, &outputs))?;
            if now.step != StepWord::Unchanged {
                let fields: Vec<&str> = now.changes.iter().map(|change| &*change.field).collect();
                let what = if fields.is_empty() { now.step.word().to_owned() } else { fields.join(", ") };
                let failure =
                    Failure::new("verify", format!("after it was applied it would still change: {what}"));
                return Err(Stop::Failed(Failed { reason: failure.to_string(), outputs }));
            }
            // What was only predicted is known now; what apply said of its own doing stands.
            outputs.extend(now.outputs);
            outputs.extend(applied.outputs);
        }
        Ok(Worked { changed, outputs, note: applied.note })
    }

    /// Whether `check_cmd` decides about each attempt of `retry`. It waits for a refresh that is still to come, since what it
    /// looks at may only come about by that.
    fn checks_attempts(&self, run: &Run) -> bool {
        self.order.prepared.declared(run.state).options.retry.is_some() && run.refresh.is_none()
    }

    /// `check_cmd` after all that was done, as often as `retry` says.
    fn check_at_end(&self, state: StateIndex, outputs: &Values) -> Result<(), Stop> {
        let options = &self.order.prepared.declared(state).options;
        if options.check_cmd.is_none() {
            return Ok(());
        }
        let check = |host: &Host| {
            let mut attempt = 1;
            loop {
                let checked = self.check(state, outputs, host);
                let again = options.retry.as_ref().filter(|retry| attempt < retry.attempts);
                let (Err(Stop::Failed(_)), Some(retry)) = (&checked, again) else { return Ok(checked) };
                if self.order.stop.is_cancelled() || !host.sleep(retry.interval + part_of(retry.splay)) {
                    return Ok(checked);
                }
                attempt += 1;
            }
        };
        self.act(state, check).unwrap_or_else(|failure| Err(self.failed(state, &failure)))
    }

    /// Runs `check_cmd`, if there is one.
    fn check(&self, state: StateIndex, outputs: &Values, host: &Host) -> Result<(), Stop> {
        let prepared = self.order.prepared;
        let Some(check) = &prepared.declared(state).options.check_cmd else { return Ok(()) };
        let line = match self.with_outputs(state, |seen| prepared.text(state, check, seen)) {
            Ok(Rendering::Known(Value::String(line))) => line,
            Ok(_) => return Err(fail("check_cmd: it is not a text".into())),
            Err(error) => return Err(fail(format!("check_cmd: {error}"))),
        };
        let command = Command::shell(line);
        let ran = host.run(&command).and_then(|ran| ran.or_failure(&command));
        ran.map(|_| ()).map_err(|failure| {
            let failure = Failure { words: format!("check_cmd: {}", failure.words), ..failure };
            match self.failed(state, &failure) {
                Stop::Failed(failed) => Stop::Failed(Failed { outputs: outputs.clone(), ..failed }),
                stop => stop,
            }
        })
    }

    /// Nothing if it was needless.
    fn refresh(
        &self,
        state: StateIndex,
        params: &Params,
        applied: Option<&Analysis>,
    ) -> Result<Option<Worked>, Failed> {
        let prepared = self.order.prepared;
        let module = prepared.states[state].module.as_ref();
        let refreshed = self.act(state, |host| module.refresh(params, &self.applying(state, host), applied));
        let reason =
            |failure: &Failure| format!("refresh: {}", prepared.states[state].secrecy.failure(failure));
        match refreshed {
            Ok(Refreshed::NotNeeded) => Ok(None),
            Ok(Refreshed::Done(applied)) => {
                let judged = self.with_outputs(state, |seen| {
                    verdict::judge(prepared, state, &applied.verdict, &applied.outputs, seen)
                });
                match judged {
                    Ok(says) => {
                        let changed = says.unwrap_or(!applied.unchanged);
                        Ok(Some(Worked { changed, outputs: applied.outputs, note: None }))
                    }
                    Err(failure) => Err(Failed { reason: reason(&failure), outputs: applied.outputs }),
                }
            }
            Err(failure) => Err(Failed { reason: reason(&failure), outputs: Values::new() }),
        }
    }

    /// A refresh that `listen` asked for. Guards had their say at the state's turn.
    pub(super) fn refresh_at_end(&self, state: StateIndex, because: &[StateIndex], applied_counts: bool) {
        let prepared = self.order.prepared;
        let begun = Instant::now();
        self.tell(Tell::Turn { state: prepared.id(state).clone() });
        let run = Run { state, refresh: Some(because.to_vec()), apply: false };
        let how = match self.compare(&run, &Analysis::unchanged()) {
            Ok(()) => {
                let params = self.with_outputs(state, |seen| self.params(state, prepared.given(state, seen)));
                let kept = self.applied.lock().unwrap_or_else(PoisonError::into_inner).get(&state).cloned();
                let applied = kept.filter(|_| applied_counts);
                match params {
                    Ok(params) => match self.refresh(state, &params, applied.as_ref()) {
                        Ok(Some(Worked { changed: false, .. })) => Heard::Quiet,
                        Ok(Some(done)) => match self.check_at_end(state, &done.outputs) {
                            Ok(()) => Heard::Done,
                            Err(stop) => Heard::Failed(stop.into_reason()),
                        },
                        Ok(None) => Heard::NotNeeded,
                        Err(failed) => Heard::Failed(failed.reason),
                    },
                    Err(stop) => Heard::Failed(stop.into_reason()),
                }
            }
            Err(Stop::Drift(drift)) => {
                self.note_drift(&drift);
                Heard::Failed(format!("drift: {drift}"))
            }
            Err(_) => Heard::NotNeeded,
        };
        failpoint::pass("after a refresh");
        let told = match &how {
            Heard::Done | Heard::Quiet => Some((true, None)),
            Heard::NotNeeded => None,
            Heard::Failed(reason) => Some((false, Some(reason.clone()))),
        };
        let outcome = self.refreshed(state, how);
        let Some((refreshed, reason)) = told else { return };
        self.report(Finished {
            state,
            begun,
            outcome,
            reason,
            step: StepWord::Unchanged,
            changes: Vec::new(),
            refreshed,
            outputs: Values::new(),
        });
    }

    /// Whether a target of `prereq` would change.
    pub(super) fn probe(&self, target: StateIndex) -> Probed {
        let run = Run { state: target, refresh: None, apply: true };
        // Whether that was approved is asked at its own turn.
        match self.find(&run) {
            Ok(observed) => match observed.analysis.step {
                StepWord::Unchanged => Probed::Unchanged,
                StepWord::Change | StepWord::Conditional | StepWord::Opaque => Probed::WouldChange,
                StepWord::Error => Probed::Error("it cannot be analysed".into()),
            },
            Err(Stop::Skipped(_)) => Probed::Skipped,
            Err(Stop::Failed(failed)) => Probed::Error(failed.reason),
            Err(Stop::Drift(drift)) => Probed::Error(drift),
        }
    }

    fn look(&self, state: StateIndex, params: &Params, host: &Host) -> Result<Analysis, Failure> {
        let prepared = self.order.prepared;
        let nothing = Forecast::default();
        let blobs = Blobs(&prepared.catalog.blobs);
        let cx = Analyze { state: prepared.id(state), view: host, forecast: &nothing, blobs };
        prepared.states[state].module.analyze(params, &cx)
    }

    pub(super) fn applying<'h>(&self, state: StateIndex, host: &'h Host) -> Apply<'h>
    where
        'a: 'h,
    {
        let prepared = self.order.prepared;
        Apply { state: prepared.id(state), host, blobs: Blobs(&prepared.catalog.blobs) }
    }

    /// As the user that the state names.
    pub(super) fn act<T: Send>(
        &self,
        state: StateIndex,
        act: impl FnOnce(&Host) -> Result<T, Failure> + Send,
    ) -> Result<T, Failure> {
        self.order.machine.act(self.order.prepared, state, act).and_then(|done| done)
    }

    fn holds(&self, state: StateIndex, until: &str, outputs: &Values) -> Result<bool, Failure> {
        self.with_outputs(state, |seen| {
            verdict::holds(self.order.prepared, state, "until", until, outputs, seen)
        })
    }

    fn with_outputs<T>(&self, state: StateIndex, look: impl FnOnce(&super::outputs::Seen<'_>) -> T) -> T {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        look(&table.seen_by(&self.order.prepared.catalog, state))
    }

    pub(super) fn failed(&self, state: StateIndex, failure: &Failure) -> Stop {
        fail(self.order.prepared.states[state].secrecy.failure(failure))
    }
}

fn fail(reason: String) -> Stop {
    Stop::Failed(Failed { reason, outputs: Values::new() })
}

/// A random part, so that many machines do not come back at once.
fn part_of(splay: Duration) -> Duration {
    let mut random = [0; 4];
    // Without randomness all wait the same: only the evenness is lost.
    if getrandom::fill(&mut random).is_err() {
        return Duration::ZERO;
    }
    splay.mul_f64(f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX))
}

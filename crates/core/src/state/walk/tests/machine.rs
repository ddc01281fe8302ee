//! A machine that answers a walk: what its states do is set beforehand, and it can be killed after any event.

use std::collections::BTreeSet;

use super::super::*;
use crate::state::order::Order;
use crate::state::sketch::Sketch;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Guard {
    Pass,
    Skip,
    /// As `Skip`, by a `when`: it is known at once.
    Never,
    /// It cannot be executed.
    Broken,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Apply {
    Changed,
    Unchanged,
    /// It fails half-way.
    Failed,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refresh {
    Done,
    /// A change of its own amounts to it.
    NotNeeded,
    /// It is done, and is no change.
    Quiet,
    Failed,
}

/// What one state does at its turn.
#[derive(Clone, Debug)]
pub(super) struct Act {
    pub(super) guard: Guard,
    pub(super) apply: Apply,
    pub(super) refresh: Refresh,
    /// Whether it changes shows only afterwards, so it owes even if it turns out unchanged.
    pub(super) opaque: bool,
    /// Nobody can analyse it ahead of its turn.
    pub(super) hidden: bool,
}

impl Act {
    pub(super) fn unchanged() -> Self {
        Self {
            guard: Guard::Pass,
            apply: Apply::Unchanged,
            refresh: Refresh::Done,
            opaque: false,
            hidden: false,
        }
    }

    pub(super) fn changed() -> Self {
        Self { apply: Apply::Changed, ..Self::unchanged() }
    }

    pub(super) fn probe(&self) -> Probed {
        match self.guard {
            _ if self.hidden => Probed::Error("hidden".into()),
            Guard::Broken => Probed::Error("broken".into()),
            Guard::Skip | Guard::Never => Probed::Skipped,
            Guard::Pass if self.apply == Apply::Unchanged && !self.opaque => Probed::Unchanged,
            Guard::Pass => Probed::WouldChange,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Event {
    Began(StateIndex),
    /// Its debts are on disk.
    Wrote(StateIndex),
    /// The machine is not what it was, or was seen to be as declared.
    Applied(StateIndex),
    Refreshed(StateIndex),
    Ended(StateIndex),
    Cleared,
}

pub(super) struct Machine<'a> {
    sketch: &'a Sketch,
    order: &'a Order,
    pub(super) acts: Vec<Act>,
    pub(super) disk: BTreeSet<Debt>,
    pub(super) events: Vec<Event>,
    pub(super) outcomes: Vec<StateOutcome>,
    pub(super) reasons: Vec<(StateIndex, String)>,
    /// A change of its own was made.
    changed: Vec<bool>,
    pub(super) kill_after: Option<usize>,
}

struct Task {
    kind: Kind,
    phase: u8,
}

enum Kind {
    Run(Run),
    Probe(StateIndex, StateIndex),
    Refresh(StateIndex, bool),
}

struct Killed;

impl<'a> Machine<'a> {
    pub(super) fn new(sketch: &'a Sketch, order: &'a Order, acts: Vec<Act>) -> Self {
        Self {
            sketch,
            order,
            changed: vec![false; acts.len()],
            acts,
            disk: BTreeSet::new(),
            events: Vec::new(),
            outcomes: Vec::new(),
            reasons: Vec::new(),
            kill_after: None,
        }
    }

    pub(super) fn refreshes(&self, state: StateIndex) -> usize {
        self.events.iter().filter(|event| **event == Event::Refreshed(state)).count()
    }

    /// Walks to the end, or until it is killed. `pick` chooses which of so many tasks under way goes one step further.
    pub(super) fn run(&mut self, pick: &mut dyn FnMut(usize) -> usize) -> Option<Vec<StateOutcome>> {
        let owed: Owed = self.disk.iter().cloned().collect();
        let mut walk = Walk::new(&self.sketch.catalog, self.order, &owed, &Ran::default());
        let mut tasks = Vec::new();
        loop {
            if self.take(&mut walk, &mut tasks).is_err() {
                return None;
            }
            if tasks.is_empty() {
                break;
            }
            let at = pick(tasks.len()) % tasks.len();
            let mut task = tasks.swap_remove(at);
            match self.step(&mut walk, &mut task) {
                Ok(true) => tasks.push(task),
                Ok(false) => {}
                Err(Killed) => return None,
            }
        }
        assert!(walk.is_done(), "it waits for nothing");
        self.outcomes =
            (0..self.acts.len()).map(|state| walk.outcome(state).expect("all have ended")).collect();
        Some(self.outcomes.clone())
    }

    fn take(&mut self, walk: &mut Walk<'_>, tasks: &mut Vec<Task>) -> Result<(), Killed> {
        // A merge that fails gives new turns at once.
        loop {
            let turns = walk.next();
            if turns.is_empty() {
                return Ok(());
            }
            for turn in turns {
                match turn {
                    Turn::Run(run) => tasks.push(Task { kind: Kind::Run(run), phase: 0 }),
                    Turn::Probe { state, target } => {
                        tasks.push(Task { kind: Kind::Probe(state, target), phase: 0 });
                    }
                    Turn::Refresh { state, applied_counts, .. } => {
                        tasks.push(Task { kind: Kind::Refresh(state, applied_counts), phase: 0 });
                    }
                    Turn::Merged(runs) => self.merged(walk, runs, tasks)?,
                    Turn::Ended { state, reason, .. } => {
                        self.reasons.push((state, reason));
                        self.event(Event::Ended(state))?;
                    }
                    Turn::Paid(debts) => {
                        self.clear(&debts)?;
                    }
                }
            }
        }
    }

    /// All good: each is applied. Else the whole is tried first, in vain.
    fn merged(&mut self, walk: &mut Walk<'_>, runs: Vec<Run>, tasks: &mut Vec<Task>) -> Result<(), Killed> {
        let passes = |run: &Run| self.acts[run.state].guard == Guard::Pass;
        let fails = |run: &Run| passes(run) && self.acts[run.state].apply == Apply::Failed;
        if !runs.iter().any(fails) {
            tasks.extend(runs.into_iter().map(|run| Task { kind: Kind::Run(run), phase: 0 }));
            return Ok(());
        }
        for run in &runs {
            if self.acts[run.state].guard != Guard::Pass {
                continue;
            }
            self.disk.extend(walk.owes_before(run.state));
            self.event(Event::Wrote(run.state))?;
        }
        walk.merge_failed(&runs.iter().map(|run| run.state).collect::<Vec<_>>());
        Ok(())
    }

    /// Whether there is more to do.
    fn step(&mut self, walk: &mut Walk<'_>, task: &mut Task) -> Result<bool, Killed> {
        match &task.kind {
            Kind::Probe(state, target) => {
                walk.probed(*state, *target, self.acts[*target].probe());
                Ok(false)
            }
            Kind::Refresh(state, applied_counts) => self.listened(walk, *state, *applied_counts),
            Kind::Run(run) => {
                let run = run.clone();
                self.step_run(walk, &run, &mut task.phase)
            }
        }
    }

    fn step_run(&mut self, walk: &mut Walk<'_>, run: &Run, phase: &mut u8) -> Result<bool, Killed> {
        let state = run.state;
        let act = self.acts[state].clone();
        let apply = if run.apply { act.apply } else { Apply::Unchanged };
        *phase += 1;
        match *phase {
            1 => {
                self.event(Event::Began(state))?;
                match act.guard {
                    Guard::Skip | Guard::Never => return self.end(walk, state, StateOutcome::Skipped, false),
                    Guard::Broken => return self.end(walk, state, StateOutcome::Failed, false),
                    Guard::Pass => {}
                }
                if apply == Apply::Unchanged && !act.opaque && run.refresh.is_none() {
                    self.event(Event::Applied(state))?;
                    return self.end(walk, state, StateOutcome::Unchanged, false);
                }
            }
            2 => {
                let debts = walk.owes_before(state);
                self.disk.extend(debts);
                self.event(Event::Wrote(state))?;
            }
            3 => {
                self.changed[state] = apply == Apply::Changed;
                self.event(Event::Applied(state))?;
                if apply == Apply::Failed {
                    return self.end(walk, state, StateOutcome::Failed, false);
                }
            }
            4 if run.refresh.is_some() => match act.refresh {
                Refresh::NotNeeded if self.changed[state] => {}
                Refresh::Failed => {
                    self.event(Event::Refreshed(state))?;
                    return self.end(walk, state, StateOutcome::Failed, false);
                }
                _ => {
                    self.event(Event::Refreshed(state))?;
                    let changed = self.changed[state] || act.refresh != Refresh::Quiet;
                    let outcome = if changed { StateOutcome::Changed } else { StateOutcome::Unchanged };
                    return self.end(walk, state, outcome, true);
                }
            },
            4 => {}
            _ => {
                let outcome =
                    if self.changed[state] { StateOutcome::Changed } else { StateOutcome::Unchanged };
                return self.end(walk, state, outcome, false);
            }
        }
        Ok(true)
    }

    fn listened(&mut self, walk: &mut Walk<'_>, state: StateIndex, applied: bool) -> Result<bool, Killed> {
        let how = match self.acts[state].refresh {
            Refresh::NotNeeded if applied && self.changed[state] => Refreshed::NotNeeded,
            Refresh::Failed => {
                self.event(Event::Refreshed(state))?;
                Refreshed::Failed("broken".into())
            }
            how => {
                self.event(Event::Refreshed(state))?;
                if how == Refresh::Quiet { Refreshed::Quiet } else { Refreshed::Done }
            }
        };
        let cleared = walk.refreshed(state, how);
        self.clear(&cleared)?;
        Ok(false)
    }

    fn end(
        &mut self,
        walk: &mut Walk<'_>,
        state: StateIndex,
        outcome: StateOutcome,
        refreshed: bool,
    ) -> Result<bool, Killed> {
        let quiet = self.acts[state].refresh == Refresh::Quiet;
        let cleared = walk.ended(state, Ended { refreshed, quiet, ..Ended::new(outcome) });
        self.event(Event::Ended(state))?;
        self.clear(&cleared)?;
        Ok(false)
    }

    fn clear(&mut self, debts: &[Debt]) -> Result<(), Killed> {
        for debt in debts {
            self.disk.remove(debt);
        }
        if debts.is_empty() { Ok(()) } else { self.event(Event::Cleared) }
    }

    fn event(&mut self, event: Event) -> Result<(), Killed> {
        self.events.push(event);
        if self.kill_after == Some(self.events.len()) { Err(Killed) } else { Ok(()) }
    }
}

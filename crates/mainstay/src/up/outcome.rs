//! What became of each machine, counted.

use std::collections::BTreeMap;

use mainstay_core::state::plan::{Plan, StateCounts, StateReport};
use mainstay_core::state::{StateId, StateOutcome, StepWord};

use super::machine::Aside;

/// How one machine came out.
#[derive(Clone, PartialEq, Debug)]
pub struct MachineEnd {
    pub name: String,
    pub verdict: Verdict,
    pub counts: StateCounts,
    /// Nothing was modified: the counts say what would become of its states.
    pub foreseen: bool,
    /// How many times it was modified.
    pub cycles: u32,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Verdict {
    /// It is as declared.
    Stable,
    /// It was only looked at, and something would change.
    Planned,
    Aside(Aside),
}

impl Verdict {
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Aside(aside) if aside.is_failure())
    }

    /// Nothing went wrong, but it is not as declared.
    pub fn is_pending(&self) -> bool {
        !self.is_failure() && *self != Self::Stable
    }
}

/// Counts each state once, by its last outcome, `changed` winning over a later `unchanged`.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    last: BTreeMap<StateId, StateOutcome>,
}

impl Tally {
    /// A machine that was only looked at counts what would become of its states.
    pub fn plan(&mut self, plan: &Plan) {
        for step in &plan.steps {
            let outcome = match step.step {
                _ if step.refresh.is_some() => StateOutcome::Changed,
                StepWord::Unchanged => StateOutcome::Unchanged,
                StepWord::Error => StateOutcome::Failed,
                StepWord::Change | StepWord::Conditional | StepWord::Opaque => StateOutcome::Changed,
            };
            self.last.insert(step.state.clone(), outcome);
        }
    }

    pub fn report(&mut self, report: &StateReport) {
        let last = self.last.entry(report.state.clone()).or_insert(report.outcome);
        if (*last, report.outcome) != (StateOutcome::Changed, StateOutcome::Unchanged) {
            *last = report.outcome;
        }
    }

    pub fn counts(&self) -> StateCounts {
        let mut counts = StateCounts::default();
        self.last.values().for_each(|outcome| counts.add(*outcome));
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(state: &str, outcome: StateOutcome) -> StateReport {
        StateReport {
            state: state.into(),
            module: "file".into(),
            outcome,
            reason: None,
            changes: Vec::new(),
            refreshed: false,
            outputs: Default::default(),
            duration_ms: 0,
        }
    }

    #[test]
    fn a_state_counts_once_and_changed_wins_over_a_later_unchanged() {
        use StateOutcome::{Changed, Failed, Skipped, Unchanged};
        let mut tally = Tally::default();
        for (state, outcome) in [
            ("a", Changed),
            ("b", Unchanged),
            ("c", Changed),
            ("d", Failed),
            ("a", Unchanged),
            ("b", Changed),
            ("c", Failed),
            ("d", Skipped),
        ] {
            tally.report(&report(state, outcome));
        }
        let counts = tally.counts();
        assert_eq!((counts.changed, counts.failed, counts.skipped, counts.total()), (2, 1, 1, 4));
    }
}

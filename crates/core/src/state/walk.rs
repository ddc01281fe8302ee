//! Who runs, by requisites: the decisions of the modify phase.
//!
//! [`Walk`] hands out turns and is told how they ended; it never does anything itself. What a state's requisites say
//! stands in [`verdict`], what is owed across crashes in [`debt`]; the same questions for the analyze phase, where nothing has
//! happened yet, are answered by [`outlook`]. Guards, modules, retries and drift are the engine's: they come in as outcomes.

pub mod debt;
pub mod outlook;
mod prereq;
pub mod stability;
mod turns;
mod verdict;

#[cfg(test)]
mod tests;

use super::catalog::{Catalog, RequisiteKind};
use super::{StateIndex, StateOutcome};
pub use debt::{Debt, DebtKind, Owed};
pub use outlook::{Foreseen, Judgement, Outlook};
pub use stability::Ran;
pub use turns::Walk;

/// What is to be done now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Turn {
    /// Guards, then the module, then a refresh if one is asked for. Answered by [`Walk::ended`].
    Run(Run),
    /// As [`Turn::Run`] for several states that are applied as one. Guards are each state's own. Answered by [`Walk::ended`]
    /// for each, or by [`Walk::merge_failed`], after which they have their turns one by one.
    Merged(Vec<Run>),
    /// `state` carries `prereq` on a target that may change: analyse the target again, guards included, nothing forecast.
    /// Answered by [`Walk::probed`].
    Probe { state: StateIndex, target: StateIndex },
    /// A `listen` refresh, after all states have ended. Nothing comes before it: its guards had their say at its turn.
    /// Answered by [`Walk::refreshed`].
    Refresh {
        state: StateIndex,
        /// Targets that changed; none for a debt of an earlier run.
        because: Vec<StateIndex>,
        /// Whatever the refresh is for had changed before this state's own turn, so what was applied then may amount to it.
        applied_counts: bool,
    },
    /// It ended without running: skipped or blocked. Needs no answer.
    Ended { state: StateIndex, outcome: StateOutcome, reason: String },
    /// Debts that nothing more is to be done for: take them off the disk. Needs no answer.
    Paid(Vec<Debt>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    pub state: StateIndex,
    /// Refresh it after its own apply, because of these; an owed refresh alone names none.
    pub refresh: Option<Vec<StateIndex>>,
    /// Not if it is a command that already ran in this run and is not called for anew: then only its guards and the
    /// refresh are left, and without a refresh it is unchanged.
    pub apply: bool,
}

/// How a state's turn ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    pub outcome: StateOutcome,
    pub reason: Option<String>,
    /// A refresh was done; not if the module found it needless.
    pub refreshed: bool,
    /// That refresh is no change of its own: its module says so of what it does.
    pub quiet: bool,
}

impl Ended {
    pub fn new(outcome: StateOutcome) -> Self {
        Self { outcome, reason: None, refreshed: false, quiet: false }
    }
}

/// What an analysis of a `prereq` target says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Probed {
    Unchanged,
    /// Change, conditional or opaque.
    WouldChange,
    /// A guard says no.
    Skipped,
    Error(String),
}

/// How a `listen` refresh ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refreshed {
    Done,
    /// It was done, and is no change: its module says so of what it does.
    Quiet,
    /// What the state's own apply did amounts to it.
    NotNeeded,
    Failed(String),
}

/// How many states a reason names.
const NAMED: usize = 3;

/// `a, b, c and 5 more`.
pub(super) fn names(catalog: &Catalog, states: &[StateIndex]) -> String {
    let ids: Vec<&str> = states.iter().take(NAMED).map(|state| catalog.states[*state].id.as_str()).collect();
    let more = states.len().saturating_sub(NAMED);
    match more {
        0 => ids.join(", "),
        more => format!("{} and {more} more", ids.join(", ")),
    }
}

/// The state carries a requisite that calls it when it fires, beyond letting it run.
fn is_called(catalog: &Catalog, state: StateIndex) -> bool {
    const CALLS: [RequisiteKind; 5] = [
        RequisiteKind::Onchanges,
        RequisiteKind::OnchangesAny,
        RequisiteKind::Onfail,
        RequisiteKind::OnfailAll,
        RequisiteKind::Prereq,
    ];
    CALLS.iter().any(|kind| !catalog.states[state].requisites.targets(*kind).is_empty())
}

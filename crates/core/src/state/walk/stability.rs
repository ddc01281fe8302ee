//! What asks for another cycle, and what runs only once in a run.

use std::collections::BTreeSet;

use crate::state::catalog::Declared;
use crate::state::{StateId, StateOutcome, StepWord};

/// The commands that ran in an earlier cycle of the same run. Nothing tells whether they still have something to do, so
/// they are not run again unless they are called for anew, and do not ask for another cycle.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ran(BTreeSet<StateId>);

impl Ran {
    /// To be told of every state that had its turn. Only an opaque step counts, and only if no guard looks at the
    /// machine: a guard that still lets it through says that its work is not done.
    pub fn note(&mut self, declared: &Declared, step: StepWord, outcome: StateOutcome) {
        let guards = &declared.guards;
        let unguarded = guards.unless.is_empty() && guards.onlyif.is_empty() && guards.creates.is_empty();
        let worked = matches!(outcome, StateOutcome::Changed | StateOutcome::Unchanged);
        if step == StepWord::Opaque && unguarded && worked {
            self.0.insert(declared.id.clone());
        }
    }

    /// As a plan carries it from one session to another.
    pub fn ids(&self) -> impl Iterator<Item = &StateId> {
        self.0.iter()
    }

    pub fn contains(&self, id: &StateId) -> bool {
        self.0.contains(id)
    }
}

impl FromIterator<StateId> for Ran {
    fn from_iter<I: IntoIterator<Item = StateId>>(ids: I) -> Self {
        Self(ids.into_iter().collect())
    }
}

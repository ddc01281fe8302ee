//! What states have given out so far, for those that read it.

use mainstay_core::state::catalog::Catalog;
use mainstay_core::state::template::{Outputs, StateOutputs};
use mainstay_core::state::{StateId, StateIndex, StateOutcome, Values};

/// By state; only what somebody reads is kept.
#[derive(Clone, Debug)]
pub(super) struct Table {
    told: Vec<Told>,
    read: Vec<bool>,
}

#[derive(Clone, Debug)]
enum Told {
    Unknown,
    Known(Values),
    Nothing(StateOutcome),
}

/// The table as one state sees it.
pub(super) struct Seen<'a> {
    table: &'a Table,
    catalog: &'a Catalog,
    reader: StateIndex,
}

impl Table {
    /// Nobody has had a turn.
    pub(super) fn unknown(catalog: &Catalog) -> Self {
        let mut read = vec![false; catalog.states.len()];
        for state in catalog.states.iter().flat_map(|state| &state.requisites.reads) {
            read[*state] = true;
        }
        Self { told: vec![Told::Unknown; catalog.states.len()], read }
    }

    pub(super) fn seen_by<'a>(&'a self, catalog: &'a Catalog, reader: StateIndex) -> Seen<'a> {
        Seen { table: self, catalog, reader }
    }

    /// What a state that had its turn gives out. Every state has `changed` and `outcome`.
    pub(super) fn ended(&mut self, state: StateIndex, outcome: StateOutcome, outputs: &Values) {
        if !self.read[state] {
            return;
        }
        self.told[state] = match outcome {
            StateOutcome::Skipped | StateOutcome::Blocked => Told::Nothing(outcome),
            StateOutcome::Changed | StateOutcome::Unchanged | StateOutcome::Failed => {
                let mut outputs = outputs.clone();
                outputs.insert("changed".into(), (outcome == StateOutcome::Changed).into());
                outputs.insert("outcome".into(), outcome.word().into());
                Told::Known(outputs)
            }
        };
    }

    /// It runs only once in a run, and this is not the cycle in which it did.
    pub(super) fn copy(&mut self, state: StateIndex, from: &Self) {
        self.told[state] = from.told[state].clone();
    }
}

/// The state that a name in a template of `reader` means, out of those that it reads.
pub(super) fn resolve(catalog: &Catalog, reader: StateIndex, name: &str) -> Option<StateIndex> {
    let reader = &catalog.states[reader];
    let plain =
        || reader.requisites.reads.iter().copied().find(|state| catalog.states[*state].id.as_str() == name);
    reader.aliases.get(name).copied().or_else(plain)
}

impl StateOutputs for Seen<'_> {
    fn get(&self, id: &str) -> Outputs<'_> {
        let Some(state) = resolve(self.catalog, self.reader, id) else {
            return Outputs::Unknown { until: StateId::new(id) };
        };
        match &self.table.told[state] {
            Told::Unknown => Outputs::Unknown { until: self.catalog.states[state].id.clone() },
            Told::Known(outputs) => Outputs::Known(outputs),
            Told::Nothing(outcome) => Outputs::None(*outcome),
        }
    }
}

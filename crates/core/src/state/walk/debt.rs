//! What is owed across crashes: refreshes and triggers, as values.
//!
//! Before a state changes, a debt is written for every state that has to act on that change; it is taken away once that
//! state has ended good, and also when the change turned out to be none. What is still there when a run begins was left by a
//! crash or a failure, and is paid. Where the debts are kept is the engine's affair.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::state::catalog::{Catalog, RequisiteKind};
use crate::state::order::Order;
use crate::state::{StateId, StateIndex, StateOutcome};

/// One state owes an action because another changed. Kept under the catalog's name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Debt {
    /// Who has to act.
    pub state: StateId,
    /// The debtor's module: a state of the same id but of another module owes nothing.
    pub module: String,
    pub kind: DebtKind,
    /// Whose change it is owed for.
    pub because: StateId,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DebtKind {
    /// `watch`: a refresh at the state's turn.
    Refresh,
    /// `onchanges`: the state runs.
    Trigger,
    /// `listen`: a refresh at the end.
    Listen,
}

impl DebtKind {
    pub fn word(self) -> &'static str {
        match self {
            Self::Refresh => "refresh",
            Self::Trigger => "trigger",
            Self::Listen => "listen",
        }
    }

    fn of(kind: RequisiteKind) -> Option<Self> {
        match kind {
            RequisiteKind::Watch | RequisiteKind::WatchAny => Some(Self::Refresh),
            RequisiteKind::Onchanges | RequisiteKind::OnchangesAny => Some(Self::Trigger),
            RequisiteKind::Listen => Some(Self::Listen),
            _ => None,
        }
    }
}

/// The debts of one catalog that were found when a run began.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Owed(BTreeSet<Debt>);

impl FromIterator<Debt> for Owed {
    fn from_iter<I: IntoIterator<Item = Debt>>(debts: I) -> Self {
        Self(debts.into_iter().collect())
    }
}

impl Owed {
    pub fn iter(&self) -> impl Iterator<Item = &Debt> {
        self.0.iter()
    }

    /// Those whose state is gone, or is of another module now; one that `--only` left out is not gone. They are reported,
    /// and dropped only by command.
    pub fn orphans(&self, catalog: &Catalog) -> Vec<&Debt> {
        let chosen = catalog.states.iter().map(|state| (state.id.as_str(), state.module.as_str()));
        let left_out = catalog.left_out.iter().map(|(id, module)| (id.as_str(), module.as_str()));
        let states: BTreeMap<&str, &str> = chosen.chain(left_out).collect();
        self.0.iter().filter(|debt| states.get(debt.state.as_str()) != Some(&debt.module.as_str())).collect()
    }
}

/// The debts of one walk: those that came from an earlier run, and those that it makes.
pub(super) struct Ledger {
    carried: Vec<Vec<(DebtKind, StateId)>>,
    /// Who has to act on a change of a state.
    debtors: Vec<Vec<(StateIndex, DebtKind)>>,
    /// Whom a state has to act upon.
    causes: Vec<Vec<(DebtKind, StateIndex)>>,
    written: Vec<bool>,
}

impl Ledger {
    pub(super) fn new(catalog: &Catalog, order: &Order, owed: &Owed) -> Self {
        let count = catalog.states.len();
        let mut ledger = Self {
            carried: vec![Vec::new(); count],
            debtors: vec![Vec::new(); count],
            causes: vec![Vec::new(); count],
            written: vec![false; count],
        };
        for (state, declared) in catalog.states.iter().enumerate() {
            for (kind, targets) in &declared.requisites.of {
                let Some(kind) = DebtKind::of(*kind) else { continue };
                if kind == DebtKind::Trigger || order.refreshes(state) {
                    for target in targets {
                        ledger.debtors[*target].push((state, kind));
                        ledger.causes[state].push((kind, *target));
                    }
                }
            }
        }
        if !owed.0.is_empty() {
            let states: BTreeMap<&str, StateIndex> =
                catalog.states.iter().enumerate().map(|(at, state)| (state.id.as_str(), at)).collect();
            for debt in &owed.0 {
                if let Some(state) = states.get(debt.state.as_str())
                    && catalog.states[*state].module == debt.module
                {
                    ledger.carried[*state].push((debt.kind, debt.because.clone()));
                }
            }
        }
        ledger
    }

    pub(super) fn carries(&self, state: StateIndex, kind: DebtKind) -> bool {
        self.carried[state].iter().any(|(carried, _)| *carried == kind)
    }

    pub(super) fn carries_any(&self, state: StateIndex) -> bool {
        !self.carried[state].is_empty()
    }

    /// A trigger is owed for one `onchanges` kind if it is owed for one of that kind's targets, or for a state that no such
    /// kind of this state names any more.
    pub(super) fn owes_trigger(&self, catalog: &Catalog, state: StateIndex, kind: RequisiteKind) -> bool {
        let requisites = &catalog.states[state].requisites;
        let names = |kind, because: &StateId| {
            requisites.targets(kind).iter().any(|target| catalog.states[*target].id == *because)
        };
        self.carried[state].iter().any(|(carried, because)| {
            *carried == DebtKind::Trigger
                && (names(kind, because)
                    || !names(RequisiteKind::Onchanges, because)
                        && !names(RequisiteKind::OnchangesAny, because))
        })
    }

    /// What has to be on disk before `state` changes.
    pub(super) fn before(&mut self, catalog: &Catalog, state: StateIndex) -> Vec<Debt> {
        self.written[state] = true;
        self.debtors[state].iter().map(|(debtor, kind)| debt(catalog, *debtor, *kind, state)).collect()
    }

    /// What to take off the disk once `state` has ended: what was owed for a change that was none, and what it has
    /// paid itself. `listen` is paid apart.
    pub(super) fn after(
        &mut self,
        catalog: &Catalog,
        state: StateIndex,
        outcome: StateOutcome,
        refreshed: bool,
        outcomes: impl Fn(StateIndex) -> Option<StateOutcome>,
    ) -> Vec<Debt> {
        let mut cleared = Vec::new();
        if self.written[state] && !may_have_changed(outcome) {
            let id = &catalog.states[state].id;
            for (debtor, kind) in &self.debtors[state] {
                if !self.carried[*debtor].iter().any(|(carried, because)| carried == kind && because == id) {
                    cleared.push(debt(catalog, *debtor, *kind, state));
                }
            }
        }
        if outcome.is_good() {
            let served = refreshed || outcome == StateOutcome::Skipped;
            cleared.extend(self.take(catalog, state, |kind| kind != DebtKind::Listen, served, outcomes));
        }
        cleared
    }

    /// The `listen` debts of `state`, which are paid or not to be paid any more. `served`: see [`Self::take`].
    pub(super) fn listened(
        &mut self,
        catalog: &Catalog,
        state: StateIndex,
        served: bool,
        outcomes: impl Fn(StateIndex) -> Option<StateOutcome>,
    ) -> Vec<Debt> {
        self.take(catalog, state, |kind| kind == DebtKind::Listen, served, outcomes)
    }

    /// A target that failed may have changed in part, and calls for no refresh: what is owed for it stays, unless a refresh came
    /// anyway, or is not wanted at all (`served`).
    fn take(
        &mut self,
        catalog: &Catalog,
        state: StateIndex,
        wanted: impl Fn(DebtKind) -> bool,
        served: bool,
        outcomes: impl Fn(StateIndex) -> Option<StateOutcome>,
    ) -> Vec<Debt> {
        let declared = &catalog.states[state];
        let mut taken = BTreeSet::new();
        self.carried[state].retain(|(kind, because)| {
            if wanted(*kind) {
                taken.insert(Debt {
                    state: declared.id.clone(),
                    module: declared.module.clone(),
                    kind: *kind,
                    because: because.clone(),
                });
            }
            !wanted(*kind)
        });
        for (kind, cause) in &self.causes[state] {
            let paid = match outcomes(*cause) {
                Some(StateOutcome::Changed) => true,
                Some(StateOutcome::Failed) => served || *kind == DebtKind::Trigger,
                _ => false,
            };
            if wanted(*kind) && self.written[*cause] && paid {
                taken.insert(debt(catalog, state, *kind, *cause));
            }
        }
        taken.into_iter().collect()
    }
}

/// A failed state may have done a part of its work.
fn may_have_changed(outcome: StateOutcome) -> bool {
    matches!(outcome, StateOutcome::Changed | StateOutcome::Failed)
}

fn debt(catalog: &Catalog, debtor: StateIndex, kind: DebtKind, because: StateIndex) -> Debt {
    let declared = &catalog.states[debtor];
    Debt {
        state: declared.id.clone(),
        module: declared.module.clone(),
        kind,
        because: catalog.states[because].id.clone(),
    }
}

//! The same requisites in the analyze phase, where nothing has been changed yet.
//!
//! What earlier states would do is known only as a word, so what hangs on whether they really change or fail is
//! conditional: a predicted change fires nothing. It is assumed that what would change will also work; the plan says what
//! happens then. Only to what a failure would call for that is not good enough: it is quiet only where nothing can fail.

use std::collections::BTreeMap;

use super::debt::{DebtKind, Ledger, Owed};
use super::prereq::{self, Firing, Standing};
use super::stability::Ran;
use super::verdict::{Verdict, decide};
use crate::state::catalog::{Catalog, OrderMode, RequisiteKind};
use crate::state::order::Order;
use crate::state::{StateIndex, StateOutcome, StepWord};

/// What the analyze phase is to do with a state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Judgement {
    /// Guards (see [`Outlook::guards_wait_for`]) and the module's analysis.
    Analyse {
        /// A refresh would come after it, because of these; an owed one names none. Not if a guard skips it.
        refresh: Option<Vec<StateIndex>>,
    },
    /// It is a command that ran in an earlier cycle of this run: unchanged but for the refresh.
    Ran { refresh: Option<Vec<StateIndex>> },
    /// These targets of `prereq` first, guards included. Answer each by [`Outlook::probed`], then judge again.
    Probe { targets: Vec<StateIndex> },
    /// It will not run. Shown as unchanged.
    Skipped { reason: String },
    /// Whether it runs is known only after this state.
    Conditional { until: StateIndex, reason: String, refresh: Option<Vec<StateIndex>> },
    /// It will not run unless this state, which cannot be analysed, works after all. Shown as conditional.
    Blocked { by: StateIndex, reason: String },
}

/// What was found for a state, or for a target that was probed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Foreseen {
    Step(StepWord),
    /// A guard says no.
    Skipped,
}

/// What is expected of a state that was settled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// Unchanged or skipped.
    Quiet,
    /// It may change, and is expected to work.
    Pending,
    /// It may fail, or never run.
    Doubtful,
    /// It cannot be analysed, or is blocked by such a one, and nothing before it would change that.
    Bad,
}

/// The analyze phase of one catalog on one machine. States are judged and settled in the order's sequence.
pub struct Outlook<'a> {
    catalog: &'a Catalog,
    order: &'a Order,
    ran: &'a Ran,
    ledger: Ledger,
    fates: Vec<Option<Fate>>,
    /// It may end bad, if only because what is expected to work does not.
    may_fail: Vec<bool>,
    /// Something settled may fail and end the run early by that (`failhard`).
    may_trip: bool,
    /// It may turn out bad: set by its judgement.
    doubtful: Vec<bool>,
    /// Only the failure of another would make it run.
    only_failure: Vec<bool>,
    asks: Vec<bool>,
    /// A state that comes before by edges and is not unchanged.
    clouded_by: Vec<Option<StateIndex>>,
    /// A state that comes before by edges and may change: an error may be gone after it.
    stirred_by: Vec<Option<StateIndex>>,
    skipped: Vec<bool>,
    blocked: Vec<bool>,
    /// The first of the sequence that is not unchanged.
    first_pending: Option<StateIndex>,
    /// A state that will fail and end the run early by that (`failhard`).
    trips: Option<StateIndex>,
    /// It is after that one, and not called by the failure.
    ended_early: Vec<bool>,
    prereq_by: Vec<Vec<StateIndex>>,
    answers: BTreeMap<(StateIndex, StateIndex), Foreseen>,
}

impl<'a> Outlook<'a> {
    pub fn new(catalog: &'a Catalog, order: &'a Order, owed: &Owed, ran: &'a Ran) -> Self {
        let count = catalog.states.len();
        let mut prereq_by = vec![Vec::new(); count];
        for (state, declared) in catalog.states.iter().enumerate() {
            for target in declared.requisites.targets(RequisiteKind::Prereq) {
                prereq_by[*target].push(state);
            }
        }
        Self {
            catalog,
            order,
            ran,
            ledger: Ledger::new(catalog, order, owed),
            fates: vec![None; count],
            may_fail: vec![false; count],
            may_trip: false,
            doubtful: vec![false; count],
            only_failure: vec![false; count],
            asks: vec![false; count],
            clouded_by: vec![None; count],
            stirred_by: vec![None; count],
            skipped: vec![false; count],
            blocked: vec![false; count],
            first_pending: None,
            trips: None,
            ended_early: vec![false; count],
            prereq_by,
            answers: BTreeMap::new(),
        }
    }

    /// What to do with a state once all that come before it in the sequence were settled.
    pub fn judge(&mut self, state: StateIndex) -> Judgement {
        let judgement = self.judge_but_for_failhard(state);
        let Some(until) = self.trips else { return judgement };
        let called = self.is_called_by_failure(state) && !matches!(judgement, Judgement::Skipped { .. });
        if called || matches!(judgement, Judgement::Blocked { .. }) {
            return judgement;
        }
        self.ended_early[state] = true;
        self.doubtful[state] = true;
        self.only_failure[state] = false;
        let reason = format!("blocked: {} cannot be analysed (failhard)", self.catalog.states[until].id);
        Judgement::Conditional { until, reason, refresh: self.refresh(state, |other| self.fates[other]) }
    }

    fn judge_but_for_failhard(&mut self, state: StateIndex) -> Judgement {
        let judgement = self.judge_but_for_own_error(state);
        let (Some(by), false) = (self.hindered_by_own_error(state), asks_to_look(&judgement)) else {
            return judgement;
        };
        let id = &self.catalog.states[by].id;
        if self.fates[by] == Some(Fate::Bad) {
            return Judgement::Blocked { by, reason: format!("blocked: {id} is blocked too (prereq)") };
        }
        self.doubtful[state] = true;
        self.only_failure[state] = false;
        let reason = format!("if it works: {id} (prereq)");
        Judgement::Conditional { until: by, reason, refresh: self.refresh(state, |other| self.fates[other]) }
    }

    /// A state that is blocked because this one, at which it looks ahead, cannot be analysed. That error is to be shown here, so
    /// this one is analysed all the same, if it would be without that.
    fn hindered_by_own_error(&self, state: StateIndex) -> Option<StateIndex> {
        self.prereq_by[state].iter().copied().find(|by| {
            matches!(self.fates[*by], Some(Fate::Bad | Fate::Doubtful)) && self.met_error(*by, state)
        })
    }

    fn met_error(&self, by: StateIndex, target: StateIndex) -> bool {
        self.answers.get(&(by, target)) == Some(&Foreseen::Step(StepWord::Error))
    }

    fn judge_but_for_own_error(&mut self, state: StateIndex) -> Judgement {
        self.doubtful[state] = false;
        self.only_failure[state] = false;
        let requisites = &self.catalog.states[state].requisites;
        let id = |state: StateIndex| &self.catalog.states[state].id;
        let weighed = self.weigh(state, |other| self.fates[other]).together(self.looked_ahead_at(state));
        if let Weighed::Block { by, kind } = weighed {
            let what = if self.blocked[by] { "is blocked too" } else { "cannot be analysed" };
            return Judgement::Blocked { by, reason: format!("blocked: {} {what} ({kind})", id(by)) };
        }
        let targets = requisites.targets(RequisiteKind::Prereq);
        let mut wait = None;
        let mut skip = None;
        if !targets.is_empty() {
            match self.prereq(state) {
                Firing::Ask(targets) => return Judgement::Probe { targets },
                Firing::Error(by) if self.stir(state).is_none() => {
                    let reason = format!("blocked: {} cannot be analysed (prereq)", id(by));
                    return Judgement::Blocked { by, reason };
                }
                Firing::Error(until) => {
                    wait =
                        Some((until, format!("{} cannot be analysed yet (prereq)", id(until)), true, false));
                }
                Firing::Depends(until) => {
                    wait = Some((until, format!("if {} would change (prereq)", id(until)), false, false));
                }
                Firing::Quiet => {
                    let names = super::names(self.catalog, targets);
                    skip = Some(format!("nothing would change in {names} (prereq)"));
                }
                Firing::Fires => {}
            }
        }
        if let Weighed::Skip { kind, doubtful } = weighed {
            self.doubtful[state] = doubtful || matches!(wait, Some((_, _, true, _)));
            let names = super::names(self.catalog, requisites.targets(kind));
            let reason = match kind {
                RequisiteKind::OnfailAll => format!("not all of {names} fail ({})", kind.word()),
                RequisiteKind::Onfail => format!("nothing fails in {names} ({})", kind.word()),
                _ => format!("nothing changes in {names} ({})", kind.word()),
            };
            return Judgement::Skipped { reason };
        }
        if let Some(reason) = skip {
            self.doubtful[state] = matches!(weighed, Weighed::Wait { doubtful: true, .. });
            return Judgement::Skipped { reason };
        }
        let refresh = self.refresh(state, |other| self.fates[other]);
        if let Weighed::Wait { until, kind, doubtful, only_failure } = weighed {
            let what = match kind {
                "onfail" | "onfail_all" => "only if it fails:",
                "onchanges" | "onchanges_any" => "if it changes:",
                _ => "if it works:",
            };
            let doubtful = doubtful || matches!(wait, Some((_, _, true, _)));
            wait = Some((until, format!("{what} {} ({kind})", id(until)), doubtful, only_failure));
        }
        if let Some((until, reason, doubtful, only_failure)) = wait {
            self.doubtful[state] = doubtful;
            self.only_failure[state] = only_failure;
            return Judgement::Conditional { until, reason, refresh };
        }
        if self.ran.contains(&self.catalog.states[state].id) && !self.is_called(state) {
            return Judgement::Ran { refresh };
        }
        Judgement::Analyse { refresh }
    }

    /// Answers one target of [`Judgement::Probe`].
    pub fn probed(&mut self, state: StateIndex, target: StateIndex, found: Foreseen) {
        self.answers.insert((state, target), found);
    }

    /// Closes a state: what it was judged, and what its analysis found if there was one. A state whose guards had to wait is a
    /// conditional step.
    pub fn settle(&mut self, state: StateIndex, judgement: &Judgement, found: Option<Foreseen>) {
        let cloud = self.cloud(state);
        let stir = self.stir(state);
        self.clouded_by[state] = cloud;
        self.stirred_by[state] = stir;
        self.blocked[state] = matches!(judgement, Judgement::Blocked { .. });
        let by_refresh = |refresh: &Option<_>| if refresh.is_some() { Fate::Pending } else { Fate::Quiet };
        let fate = match (judgement, found) {
            (Judgement::Skipped { .. }, _) | (_, Some(Foreseen::Skipped)) => {
                self.skipped[state] = true;
                if self.doubtful[state] { Fate::Doubtful } else { Fate::Quiet }
            }
            (Judgement::Blocked { .. }, _) => Fate::Bad,
            (Judgement::Conditional { .. }, _) if self.doubtful[state] => Fate::Doubtful,
            (Judgement::Conditional { .. } | Judgement::Probe { .. }, _) => Fate::Pending,
            (Judgement::Ran { refresh }, _) => by_refresh(refresh),
            (Judgement::Analyse { refresh }, Some(Foreseen::Step(StepWord::Unchanged))) => {
                by_refresh(refresh)
            }
            (_, Some(Foreseen::Step(StepWord::Error))) if stir.is_some() => Fate::Doubtful,
            (_, Some(Foreseen::Step(StepWord::Error)) | None) => Fate::Bad,
            (_, Some(Foreseen::Step(_))) => Fate::Pending,
        };
        let idle = self.skipped[state] || found == Some(Foreseen::Step(StepWord::Error));
        self.asks[state] = matches!(fate, Fate::Pending | Fate::Doubtful)
            && !self.only_failure[state]
            && !idle
            && !self.ended_early[state];
        self.fates[state] = Some(fate);
        self.may_fail[state] = fate != Fate::Quiet || self.may_be_blocked(state);
        self.may_trip |= fate != Fate::Quiet && self.is_failhard(state);
        let fails = found == Some(Foreseen::Step(StepWord::Error)) && fate == Fate::Bad;
        if fails && matches!(judgement, Judgement::Analyse { .. }) && self.ends_all_after(state) {
            self.trips.get_or_insert(state);
        }
        if fate != Fate::Quiet {
            self.first_pending.get_or_insert(state);
        }
    }

    #[cfg(test)]
    pub(super) fn ends_early_with(&self) -> Option<StateIndex> {
        self.trips
    }

    /// If this state fails, nothing after it in the sequence begins: only where states have their turns one by one is it known
    /// what has begun by then. One at which another looks ahead is blocked by its error, and then does not fail.
    fn ends_all_after(&self, state: StateIndex) -> bool {
        self.is_failhard(state)
            && self.order.mode == OrderMode::Ansible
            && self.catalog.states[state].options.parallel != Some(true)
            && self.prereq_by[state].is_empty()
    }

    fn is_failhard(&self, state: StateIndex) -> bool {
        self.catalog.failhard || self.catalog.states[state].options.failhard
    }

    /// Whether a state that has nothing to do would be blocked, should all fail that may.
    fn may_be_blocked(&self, state: StateIndex) -> bool {
        let worst = |target: &StateIndex| {
            Some(if self.may_fail[*target] { StateOutcome::Blocked } else { StateOutcome::Unchanged })
        };
        let blocks = |kind, targets: &[StateIndex]| {
            let owed = self.ledger.owes_trigger(self.catalog, state, kind);
            decide(kind, targets.iter().map(worst), owed) == Verdict::Blocked
        };
        let requisites = &self.catalog.states[state].requisites;
        self.may_trip
            || requisites.of.iter().any(|(kind, targets)| blocks(*kind, targets))
            || blocks(RequisiteKind::Require, &requisites.reads)
            || blocks(RequisiteKind::Require, self.order.inferred(state))
            || self.prereq_by[state].iter().any(|by| self.may_fail[*by])
    }

    fn is_called_by_failure(&self, state: StateIndex) -> bool {
        let requisites = &self.catalog.states[state].requisites;
        [RequisiteKind::Onfail, RequisiteKind::OnfailAll]
            .into_iter()
            .any(|kind| !requisites.targets(kind).is_empty())
    }

    /// A guard may look at the machine only once everything that comes before its state by edges is unchanged; else the state is
    /// conditional until this one. A `when` looks at nothing that changes in a run, and may be asked at once.
    pub fn guards_wait_for(&self, state: StateIndex) -> Option<StateIndex> {
        self.cloud(state)
    }

    /// A command that promised to have no effects may run in the analyze phase once nothing before it is pending: nothing by
    /// edges, and in written order nothing that has its turn earlier.
    pub fn probe_waits_for(&self, state: StateIndex) -> Option<StateIndex> {
        let earlier = self.first_pending.filter(|_| self.order.mode == OrderMode::Ansible);
        self.cloud(state).or(earlier)
    }

    /// Once all are settled: states that `listen` would refresh at the end, and because of whom; an owed one names none.
    pub fn listens(&self) -> Vec<(StateIndex, Vec<StateIndex>)> {
        let mut listens = Vec::new();
        for state in self.order.sequence.iter().copied() {
            let runs_not =
                self.skipped[state] || self.ended_early[state] || self.fates[state] == Some(Fate::Bad);
            if runs_not || !self.order.refreshes(state) {
                continue;
            }
            let targets = self.catalog.states[state].requisites.targets(RequisiteKind::Listen);
            let because: Vec<StateIndex> =
                targets.iter().copied().filter(|target| may_change(self.fates[*target])).collect();
            if !because.is_empty() || self.ledger.carries(state, DebtKind::Listen) {
                listens.push((state, because));
            }
        }
        listens
    }

    /// Of a state that was settled: it owes something, and has nothing to do. Its turn settles that, so a turn it is to have.
    pub fn settles(&self, state: StateIndex) -> bool {
        let listens = self.order.refreshes(state)
            && !self.skipped[state]
            && self.ledger.carries(state, DebtKind::Listen);
        self.fates[state] == Some(Fate::Quiet)
            && !self.ended_early[state]
            && !listens
            && self.ledger.carries_any(state)
    }

    /// Once all are settled: the states for which another cycle is due. None means that the machine is stable. An error
    /// asks for nothing, nor does what only a failure would call for.
    pub fn asks_again(&self) -> Vec<StateIndex> {
        let owed = |state: &StateIndex| {
            self.order.refreshes(*state)
                && !self.skipped[*state]
                && !self.ended_early[*state]
                && self.fates[*state] != Some(Fate::Bad)
                && self.ledger.carries(*state, DebtKind::Listen)
        };
        let asks = |state: &StateIndex| self.asks[*state] || owed(state) || self.settles(*state);
        self.order.sequence.iter().copied().filter(asks).collect()
    }

    fn cloud(&self, state: StateIndex) -> Option<StateIndex> {
        self.order.before(state).iter().find_map(|before| match self.fates[*before] {
            Some(Fate::Quiet) => self.clouded_by[*before],
            _ => Some(*before),
        })
    }

    fn stir(&self, state: StateIndex) -> Option<StateIndex> {
        self.order.before(state).iter().find_map(|before| match self.fates[*before] {
            Some(Fate::Quiet | Fate::Bad) => self.stirred_by[*before],
            _ => Some(*before),
        })
    }

    /// A requisite that fires calls it anew, though it ran in this run.
    fn is_called(&self, state: StateIndex) -> bool {
        super::is_called(self.catalog, state) || self.ledger.carries(state, DebtKind::Trigger)
    }

    /// It goes by what it owes: a cause of its `onchanges` changed in an earlier run.
    pub fn owes_trigger(&self, state: StateIndex) -> bool {
        let requisites = &self.catalog.states[state].requisites;
        [RequisiteKind::Onchanges, RequisiteKind::OnchangesAny].into_iter().any(|kind| {
            !requisites.targets(kind).is_empty() && self.ledger.owes_trigger(self.catalog, state, kind)
        })
    }

    /// All requisites but `prereq`. What is not settled is taken as pending.
    fn weigh(&self, state: StateIndex, fate: impl Fn(StateIndex) -> Option<Fate>) -> Weighed {
        let requisites = &self.catalog.states[state].requisites;
        let fate = |state: StateIndex| fate(state).unwrap_or(Fate::Pending);
        let mut weighed = Weighed::Run;
        let silent: Vec<StateIndex> =
            requisites.reads.iter().chain(self.order.inferred(state)).copied().collect();
        let own = requisites.of.iter().map(|(kind, targets)| (kind.word(), *kind, targets.as_slice()));
        for (word, kind, targets) in own.chain([("needed", RequisiteKind::Require, silent.as_slice())]) {
            if targets.is_empty() {
                continue;
            }
            let owed = self.ledger.owes_trigger(self.catalog, state, kind);
            let first =
                |wanted: &[Fate]| targets.iter().copied().find(|target| wanted.contains(&fate(*target)));
            let may_fail = |target: &StateIndex| fate(*target) != Fate::Quiet || self.may_fail[*target];
            let one = |answer: Option<Weighed>| answer.unwrap_or(Weighed::Run);
            let bad = first(&[Fate::Bad]);
            let block = bad.map(|by| Weighed::Block { by, kind: word });
            let doubt = first(&[Fate::Doubtful]).map(|until| Weighed::wait(until, word, true));
            let pending =
                first(&[Fate::Pending, Fate::Doubtful]).map(|until| Weighed::wait(until, word, false));
            let says = match kind {
                RequisiteKind::Require | RequisiteKind::Watch => one(block.or(doubt)),
                RequisiteKind::RequireAny | RequisiteKind::WatchAny => {
                    if first(&[Fate::Quiet, Fate::Pending]).is_some() {
                        Weighed::Run
                    } else {
                        one(doubt.or(block))
                    }
                }
                RequisiteKind::Onchanges => match block.or(doubt) {
                    Some(says) => says,
                    None if owed => Weighed::Run,
                    None => pending.unwrap_or(Weighed::Skip { kind, doubtful: false }),
                },
                RequisiteKind::OnchangesAny if owed => Weighed::Run,
                // Should none change after all, a bad one blocks it.
                RequisiteKind::OnchangesAny => match pending {
                    Some(_) if bad.is_some() => one(pending.map(Weighed::doubted)),
                    Some(_) => one(doubt.or(pending)),
                    None => block.unwrap_or(Weighed::Skip { kind, doubtful: false }),
                },
                RequisiteKind::Onfail => {
                    let until = bad.or_else(|| targets.iter().copied().find(may_fail));
                    until.map_or(Weighed::Skip { kind, doubtful: false }, |until| {
                        Weighed::only_failure(until, word)
                    })
                }
                RequisiteKind::OnfailAll => {
                    let until = first(&[Fate::Quiet, Fate::Pending, Fate::Doubtful]).or(bad);
                    match until.filter(|_| targets.iter().all(may_fail)) {
                        Some(until) => Weighed::only_failure(until, word),
                        None => Weighed::Skip { kind, doubtful: false },
                    }
                }
                RequisiteKind::Listen | RequisiteKind::Prereq => Weighed::Run,
            };
            // What would change only because of a failure makes nothing of its own account.
            let says = match (kind, says) {
                (
                    RequisiteKind::Onchanges | RequisiteKind::OnchangesAny,
                    Weighed::Wait { until, kind, doubtful, .. },
                ) => {
                    let of_failures = targets
                        .iter()
                        .all(|target| self.only_failure[*target] || !may_change(Some(fate(*target))));
                    Weighed::Wait { until, kind, doubtful, only_failure: of_failures }
                }
                (_, says) => says,
            };
            weighed = weighed.together(says);
        }
        weighed
    }

    /// What the states say that carry `prereq` on this one. It is not asked of a target, for whether that one is blocked already
    /// would hang on the order mode.
    fn looked_ahead_at(&self, state: StateIndex) -> Weighed {
        let mut weighed = Weighed::Run;
        for by in &self.prereq_by[state] {
            if self.met_error(*by, state) {
                continue;
            }
            match self.fates[*by] {
                Some(Fate::Bad) => weighed = weighed.together(Weighed::Block { by: *by, kind: "prereq" }),
                Some(Fate::Doubtful) => weighed = weighed.together(Weighed::wait(*by, "prereq", true)),
                _ => {}
            }
        }
        weighed
    }

    fn prereq(&self, state: StateIndex) -> Firing {
        prereq::fires(
            self.order,
            state,
            |state| self.catalog.states[state].requisites.targets(RequisiteKind::Prereq),
            |target, known| {
                let fate = |other| match known.get(&other) {
                    Some(false) => Some(Fate::Quiet),
                    Some(true) => Some(Fate::Pending),
                    None => self.fates[other],
                };
                match self.weigh(target, fate) {
                    Weighed::Skip { .. } | Weighed::Block { .. } => return Standing::Quiet,
                    // Not analysed ahead of time, so an error of its own is not foreseen.
                    Weighed::Wait { .. } => return Standing::MayChange,
                    Weighed::Run => {}
                }
                let refreshed = match self.refresh(target, fate) {
                    Some(_) if self.ledger.carries(target, DebtKind::Refresh) => Standing::WouldChange,
                    Some(_) => Standing::MayChange,
                    None => Standing::Quiet,
                };
                if self.ran.contains(&self.catalog.states[target].id) && !self.is_called(target) {
                    return refreshed;
                }
                match self.answers.get(&(state, target)) {
                    None => Standing::Unasked,
                    Some(Foreseen::Skipped) => Standing::Quiet,
                    Some(Foreseen::Step(StepWord::Error)) => Standing::Error,
                    Some(Foreseen::Step(StepWord::Change | StepWord::Opaque)) => Standing::WouldChange,
                    Some(Foreseen::Step(StepWord::Conditional)) if refreshed != Standing::WouldChange => {
                        Standing::MayChange
                    }
                    Some(Foreseen::Step(StepWord::Conditional | StepWord::Unchanged)) => refreshed,
                }
            },
        )
    }

    fn refresh(
        &self,
        state: StateIndex,
        fate: impl Fn(StateIndex) -> Option<Fate>,
    ) -> Option<Vec<StateIndex>> {
        if !self.order.refreshes(state) {
            return None;
        }
        let requisites = &self.catalog.states[state].requisites;
        let watched = requisites
            .targets(RequisiteKind::Watch)
            .iter()
            .chain(requisites.targets(RequisiteKind::WatchAny));
        let mut because: Vec<StateIndex> =
            watched.copied().filter(|target| may_change(fate(*target))).collect();
        because.sort_unstable();
        because.dedup();
        (!because.is_empty() || self.ledger.carries(state, DebtKind::Refresh)).then_some(because)
    }
}

/// It is analysed, or blocked anyway.
fn asks_to_look(judgement: &Judgement) -> bool {
    matches!(judgement, Judgement::Analyse { .. } | Judgement::Probe { .. } | Judgement::Blocked { .. })
}

fn may_change(fate: Option<Fate>) -> bool {
    matches!(fate, Some(Fate::Pending | Fate::Doubtful))
}

/// What requisites say ahead of time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Weighed {
    Run,
    Wait {
        until: StateIndex,
        kind: &'static str,
        doubtful: bool,
        only_failure: bool,
    },
    /// Doubtful if another may still block it: it does not run either way, but then it is bad.
    Skip {
        kind: RequisiteKind,
        doubtful: bool,
    },
    Block {
        by: StateIndex,
        kind: &'static str,
    },
}

impl Weighed {
    fn wait(until: StateIndex, kind: &'static str, doubtful: bool) -> Self {
        Self::Wait { until, kind, doubtful, only_failure: false }
    }

    fn doubted(self) -> Self {
        match self {
            Self::Wait { until, kind, only_failure, .. } => {
                Self::Wait { until, kind, doubtful: true, only_failure }
            }
            other => other,
        }
    }

    fn only_failure(until: StateIndex, kind: &'static str) -> Self {
        Self::Wait { until, kind, doubtful: false, only_failure: true }
    }

    /// Blocked wins over skipped, that over waiting; a doubt that one waiting has is kept.
    fn together(self, other: Self) -> Self {
        match (self, other) {
            (Self::Block { .. }, _) => self,
            (_, Self::Block { .. }) => other,
            (Self::Skip { kind, doubtful }, other) | (other, Self::Skip { kind, doubtful }) => {
                let doubts =
                    matches!(other, Self::Skip { doubtful: true, .. } | Self::Wait { doubtful: true, .. });
                Self::Skip { kind, doubtful: doubtful || doubts }
            }
            (
                Self::Wait { until, kind, doubtful, only_failure },
                Self::Wait { doubtful: doubts, only_failure: of_failure, .. },
            ) => Self::Wait {
                until,
                kind,
                doubtful: doubtful || doubts,
                only_failure: only_failure || of_failure,
            },
            (Self::Wait { .. }, _) => self,
            _ => other,
        }
    }
}

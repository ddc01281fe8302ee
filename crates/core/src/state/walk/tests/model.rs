//! Requisites told again, slowly and plainly: what a whole run has to come to.
//!
//! Nothing of the order or the walk is used here. States are looked at one by one in an order that the edges allow.

use std::collections::{BTreeMap, BTreeSet};

use super::super::*;
use super::machine::{Act, Apply, Guard, Refresh};
use crate::state::StateOutcome::{Blocked, Changed, Failed, Skipped, Unchanged};
use crate::state::catalog::RequisiteKind as Kind;
use crate::state::sketch::Sketch;

pub(super) struct Graph {
    /// (before, after)
    pub(super) edges: BTreeSet<(StateIndex, StateIndex)>,
    pub(super) inferred: BTreeSet<(StateIndex, StateIndex)>,
    /// (provider, needer)
    pub(super) left_out: BTreeSet<(StateIndex, StateIndex)>,
    pub(super) sequence: Vec<StateIndex>,
}

fn reaches(edges: &BTreeSet<(StateIndex, StateIndex)>, from: StateIndex, to: StateIndex) -> bool {
    let mut seen = BTreeSet::from([from]);
    loop {
        let more: Vec<StateIndex> = edges
            .iter()
            .filter(|(before, after)| seen.contains(before) && !seen.contains(after))
            .map(|(_, after)| *after)
            .collect();
        if edges.iter().any(|(before, after)| seen.contains(before) && *after == to) {
            return true;
        }
        if more.is_empty() {
            return false;
        }
        seen.extend(more);
    }
}

fn targets(sketch: &Sketch, state: StateIndex, kind: Kind) -> Vec<StateIndex> {
    sketch.catalog.states[state].requisites.targets(kind).to_vec()
}

fn sequence(sketch: &Sketch, edges: &BTreeSet<(StateIndex, StateIndex)>) -> Option<Vec<StateIndex>> {
    use crate::state::catalog::Rank;
    let count = sketch.links.len();
    let rank = |state: &StateIndex| match sketch.catalog.states[*state].options.order {
        Some(Rank::First) => (0, 0, *state),
        Some(Rank::Number(number)) => (1, number, *state),
        None => (2, 0, *state),
        Some(Rank::Last) => (3, 0, *state),
    };
    let mut laid: Vec<StateIndex> = Vec::new();
    while laid.len() < count {
        let free = (0..count).filter(|state| {
            !laid.contains(state)
                && edges.iter().all(|(before, after)| after != state || laid.contains(before))
        });
        laid.push(free.min_by_key(rank)?);
    }
    Some(laid)
}

/// None if the written edges, with what `prereq` brings along, hold a cycle.
pub(super) fn graph(sketch: &Sketch) -> Option<Graph> {
    let count = sketch.links.len();
    let mut comes_after: Vec<Vec<StateIndex>> = vec![Vec::new(); count];
    let mut edges = BTreeSet::new();
    for (state, declared) in sketch.catalog.states.iter().enumerate() {
        for (kind, targets) in &declared.requisites.of {
            for target in targets {
                match kind {
                    Kind::Listen => {}
                    Kind::Prereq => {
                        edges.insert((state, *target));
                    }
                    _ => {
                        edges.insert((*target, state));
                        comes_after[state].push(*target);
                    }
                }
            }
        }
        for target in &declared.requisites.reads {
            edges.insert((*target, state));
            comes_after[state].push(*target);
        }
    }
    let written = edges.clone();
    let mut backwards = sequence(sketch, &edges)?;
    backwards.reverse();
    for state in backwards {
        let own = targets(sketch, state, Kind::Prereq);
        for target in &own {
            for first in comes_after[*target].clone() {
                let after_another = own.iter().any(|own| *own == first || reaches(&edges, *own, first));
                if first == state || after_another {
                    continue;
                }
                if reaches(&edges, state, first) {
                    return None;
                }
                edges.insert((first, state));
                if !comes_after[state].contains(&first) {
                    comes_after[state].push(first);
                }
            }
        }
    }
    let mut graph =
        Graph { edges, inferred: BTreeSet::new(), left_out: BTreeSet::new(), sequence: Vec::new() };
    let mut met = BTreeSet::new();
    for needer in 0..count {
        for resource in &sketch.links[needer].needs {
            for provider in 0..count {
                let provides = sketch.links[provider].provides.contains(resource);
                let pair = (provider, needer);
                // Of two that build on the same thing and both give it, the first written comes first.
                let builds_on = |state: StateIndex| {
                    let links = &sketch.links[state];
                    links.needs.contains(resource) && links.provides.contains(resource)
                };
                if provider > needer && builds_on(provider) && builds_on(needer) {
                    continue;
                }
                if !provides || provider == needer || written.contains(&pair) || !met.insert(pair) {
                    continue;
                }
                if reaches(&graph.edges, needer, provider) {
                    graph.left_out.insert(pair);
                    continue;
                }
                graph.edges.insert(pair);
                graph.inferred.insert(pair);
                let mut given = vec![needer];
                while let Some(target) = given.pop() {
                    for by in 0..count {
                        let looks = targets(sketch, by, Kind::Prereq).contains(&target);
                        let pair = (provider, by);
                        if looks && by != provider && !reaches(&graph.edges, by, provider) {
                            graph.edges.insert(pair);
                            given.push(by);
                        }
                    }
                }
            }
        }
    }
    graph.sequence = sequence(sketch, &graph.edges).expect("each edge was looked at");
    Some(graph)
}

pub(super) struct Expected {
    pub(super) outcomes: Vec<StateOutcome>,
    /// How often each was refreshed, or a refresh was tried.
    pub(super) refreshes: Vec<usize>,
    pub(super) debts: BTreeSet<Debt>,
}

enum Says {
    Run,
    Skip,
    Block,
}

struct Model<'a> {
    sketch: &'a Sketch,
    acts: &'a [Act],
    graph: &'a Graph,
    owed: &'a BTreeSet<Debt>,
    outcomes: BTreeMap<StateIndex, StateOutcome>,
}

/// One by one, in written order.
pub(super) fn run(sketch: &Sketch, acts: &[Act], graph: &Graph, owed: &BTreeSet<Debt>) -> Expected {
    let count = acts.len();
    let mut model = Model { sketch, acts, graph, owed, outcomes: BTreeMap::new() };
    let mut refreshes = vec![0; count];
    let mut refreshed_in_turn = vec![false; count];
    let mut attempted = vec![false; count];
    let mut own_change = vec![false; count];
    let mut failhard = false;
    for state in graph.sequence.iter().copied() {
        let calls =
            [Kind::Onfail, Kind::OnfailAll].iter().any(|kind| !targets(sketch, state, *kind).is_empty());
        let outcome = match model.says(state) {
            Says::Block => Blocked,
            Says::Skip if failhard => Blocked,
            Says::Run if failhard && !calls => Blocked,
            Says::Skip => Skipped,
            Says::Run => {
                let act = &acts[state];
                let refresh = model.refresh_is_due(state);
                match act.guard {
                    Guard::Skip | Guard::Never => Skipped,
                    Guard::Broken => Failed,
                    Guard::Pass => {
                        attempted[state] = act.apply != Apply::Unchanged || act.opaque || refresh;
                        own_change[state] = act.apply == Apply::Changed;
                        if act.apply == Apply::Failed {
                            Failed
                        } else if refresh && !(act.refresh == Refresh::NotNeeded && own_change[state]) {
                            refreshes[state] += 1;
                            refreshed_in_turn[state] = act.refresh != Refresh::Failed;
                            match act.refresh {
                                Refresh::Failed => Failed,
                                Refresh::Quiet if !own_change[state] => Unchanged,
                                _ => Changed,
                            }
                        } else if own_change[state] {
                            Changed
                        } else {
                            Unchanged
                        }
                    }
                }
            }
        };
        failhard |=
            outcome == Failed && (sketch.catalog.failhard || sketch.catalog.states[state].options.failhard);
        model.outcomes.insert(state, outcome);
    }
    let after_turns = model.outcomes.clone();
    let place = |state: StateIndex| graph.sequence.iter().position(|other| *other == state);
    let mut listen_paid = vec![None; count];
    for state in 0..count {
        let declared = &sketch.catalog.states[state];
        let listens = targets(sketch, state, Kind::Listen);
        let changed: Vec<StateIndex> =
            listens.iter().copied().filter(|target| after_turns[target] == Changed).collect();
        let missed = changed.iter().any(|target| place(*target) > place(state));
        let carried = owed.iter().any(|debt| {
            debt.state == declared.id && debt.module == declared.module && debt.kind == DebtKind::Listen
        });
        let due = if refreshed_in_turn[state] { missed } else { carried || !changed.is_empty() };
        let outcome = after_turns[&state];
        let runs = matches!(outcome, Changed | Unchanged) && sketch.links[state].refreshes && due;
        // Whether also what is owed for targets that failed is paid.
        listen_paid[state] = match (outcome, runs) {
            (Failed | Blocked, _) => None,
            (Skipped, _) => Some(true),
            (_, false) => Some(false),
            (_, true) if acts[state].refresh == Refresh::NotNeeded && own_change[state] && !missed => {
                Some(false)
            }
            (_, true) => {
                refreshes[state] += 1;
                let worked = acts[state].refresh != Refresh::Failed;
                if acts[state].refresh != Refresh::Quiet {
                    model.outcomes.insert(state, if worked { Changed } else { Failed });
                }
                worked.then_some(true)
            }
        };
    }
    let mut debts = BTreeSet::new();
    let ids: BTreeMap<&str, StateIndex> =
        (0..count).map(|state| (sketch.catalog.states[state].id.as_str(), state)).collect();
    for debt in owed {
        let state =
            ids.get(debt.state.as_str()).filter(|state| sketch.catalog.states[**state].module == debt.module);
        let paid = state.is_some_and(|state| match debt.kind {
            DebtKind::Listen => listen_paid[*state].is_some(),
            _ => after_turns[state].is_good(),
        });
        if !paid {
            debts.insert(debt.clone());
        }
    }
    for state in 0..count {
        for (kind, debt) in [
            (Kind::Watch, DebtKind::Refresh),
            (Kind::WatchAny, DebtKind::Refresh),
            (Kind::Onchanges, DebtKind::Trigger),
            (Kind::OnchangesAny, DebtKind::Trigger),
            (Kind::Listen, DebtKind::Listen),
        ] {
            for target in targets(sketch, state, kind) {
                let outcome = after_turns[&target];
                let owes = attempted[target]
                    && matches!(outcome, Changed | Failed)
                    && (debt == DebtKind::Trigger || sketch.links[state].refreshes);
                let paid = match debt {
                    DebtKind::Listen => listen_paid[state].is_some_and(|all| all || outcome == Changed),
                    DebtKind::Refresh if outcome == Failed => {
                        after_turns[&state] == Skipped
                            || after_turns[&state].is_good() && refreshed_in_turn[state]
                    }
                    _ => after_turns[&state].is_good(),
                };
                if owes && !paid {
                    let declared = &sketch.catalog.states[state];
                    debts.insert(Debt {
                        state: declared.id.clone(),
                        module: declared.module.clone(),
                        kind: debt,
                        because: sketch.catalog.states[target].id.clone(),
                    });
                }
            }
        }
    }
    Expected { outcomes: (0..count).map(|state| model.outcomes[&state]).collect(), refreshes, debts }
}

impl Model<'_> {
    fn says(&self, state: StateIndex) -> Says {
        let outcome = |target: StateIndex| self.outcomes.get(&target).copied();
        let mut blocked = self.requisites_say(state, Blocked, &outcome);
        let mut skipped = self.requisites_say(state, Skipped, &outcome);
        for by in 0..self.acts.len() {
            if targets(self.sketch, by, Kind::Prereq).contains(&state) && self.outcomes[&by].is_bad() {
                blocked = true;
            }
        }
        if !targets(self.sketch, state, Kind::Prereq).is_empty() && !blocked {
            match self.looks_ahead(state, &mut BTreeMap::new()) {
                Err(()) => blocked = true,
                Ok(false) => skipped = true,
                Ok(true) => {}
            }
        }
        if blocked {
            Says::Block
        } else if skipped {
            Says::Skip
        } else {
            Says::Run
        }
    }

    /// Whether some requisite but `prereq` says `wanted`; one whose targets are not all known says so only if it has to.
    fn requisites_say(
        &self,
        state: StateIndex,
        wanted: StateOutcome,
        outcome: &dyn Fn(StateIndex) -> Option<StateOutcome>,
    ) -> bool {
        let requisites = &self.sketch.catalog.states[state].requisites;
        let mut all: Vec<(Kind, Vec<StateIndex>)> =
            requisites.of.iter().map(|(kind, targets)| (*kind, targets.clone())).collect();
        all.push((Kind::Require, requisites.reads.clone()));
        let inferred = self.graph.inferred.iter().filter(|(_, after)| *after == state);
        all.push((Kind::Require, inferred.map(|(before, _)| *before).collect()));
        all.iter().filter(|(_, targets)| !targets.is_empty()).any(|(kind, targets)| {
            let ends: Vec<Option<StateOutcome>> = targets.iter().map(|target| outcome(*target)).collect();
            // Whatever the unknown ones come to, it says the same.
            let mut worlds = vec![Vec::new()];
            for end in &ends {
                let choices = end.map_or(StateOutcome::ALL.to_vec(), |end| vec![end]);
                worlds = worlds
                    .into_iter()
                    .flat_map(|world: Vec<StateOutcome>| {
                        choices.iter().map(move |choice| [world.clone(), vec![*choice]].concat())
                    })
                    .collect();
            }
            worlds.iter().all(|world| self.one_says(state, *kind, world) == Some(wanted))
        })
    }

    /// None: it may run.
    fn one_says(&self, state: StateIndex, kind: Kind, ends: &[StateOutcome]) -> Option<StateOutcome> {
        let bad = ends.iter().filter(|end| end.is_bad()).count();
        let changed = ends.contains(&Changed) || self.trigger_is_owed(state, kind);
        match kind {
            Kind::Require | Kind::Watch => (bad > 0).then_some(Blocked),
            Kind::RequireAny | Kind::WatchAny => (bad == ends.len()).then_some(Blocked),
            Kind::Onchanges if bad > 0 => Some(Blocked),
            Kind::Onchanges => (!changed).then_some(Skipped),
            Kind::OnchangesAny if changed => None,
            Kind::OnchangesAny => Some(if bad > 0 { Blocked } else { Skipped }),
            Kind::Onfail => (bad == 0).then_some(Skipped),
            Kind::OnfailAll => (bad < ends.len()).then_some(Skipped),
            Kind::Listen | Kind::Prereq => None,
        }
    }

    fn trigger_is_owed(&self, state: StateIndex, kind: Kind) -> bool {
        let declared = &self.sketch.catalog.states[state];
        let ids = |kind: Kind| -> Vec<String> {
            let targets = targets(self.sketch, state, kind);
            targets.iter().map(|target| self.sketch.id(*target).to_owned()).collect()
        };
        let (all, any) = (ids(Kind::Onchanges), ids(Kind::OnchangesAny));
        self.owed.iter().any(|debt| {
            let because = debt.because.as_str().to_owned();
            let unnamed = !all.contains(&because) && !any.contains(&because);
            debt.state == declared.id
                && debt.module == declared.module
                && debt.kind == DebtKind::Trigger
                && (unnamed || ids(kind).contains(&because))
        })
    }

    fn refresh_is_due(&self, state: StateIndex) -> bool {
        let declared = &self.sketch.catalog.states[state];
        let owed = self.owed.iter().any(|debt| {
            debt.state == declared.id && debt.module == declared.module && debt.kind == DebtKind::Refresh
        });
        let watched = [Kind::Watch, Kind::WatchAny]
            .iter()
            .flat_map(|kind| targets(self.sketch, state, *kind))
            .any(|target| self.outcomes.get(&target) == Some(&Changed));
        self.sketch.links[state].refreshes && (owed || watched)
    }

    /// Whether some target of `state` would change. `found` are the targets that were looked at before at this turn.
    fn looks_ahead(&self, state: StateIndex, found: &mut BTreeMap<StateIndex, bool>) -> Result<bool, ()> {
        let mut own = targets(self.sketch, state, Kind::Prereq);
        own.sort_by_key(|target| self.graph.sequence.iter().position(|other| other == target));
        let mut error = false;
        let mut fires = false;
        for target in own {
            let would = match found.get(&target) {
                Some(would) => *would,
                None => match self.would_change(target, found) {
                    Ok(would) => would,
                    Err(()) => {
                        error = true;
                        true
                    }
                },
            };
            found.insert(target, would);
            fires |= would;
        }
        if error { Err(()) } else { Ok(fires) }
    }

    fn would_change(&self, target: StateIndex, found: &mut BTreeMap<StateIndex, bool>) -> Result<bool, ()> {
        let outcome = |other: StateIndex| match found.get(&other) {
            Some(false) => Some(Unchanged),
            Some(true) => None,
            None => self.outcomes.get(&other).copied(),
        };
        if self.requisites_say(target, Blocked, &outcome) || self.requisites_say(target, Skipped, &outcome) {
            return Ok(false);
        }
        let changes = match self.acts[target].probe() {
            Probed::Error(_) => return Err(()),
            Probed::Skipped => false,
            Probed::WouldChange => true,
            Probed::Unchanged => self.refresh_is_due(target),
        };
        if changes && !targets(self.sketch, target, Kind::Prereq).is_empty() {
            return self.looks_ahead(target, found);
        }
        Ok(changes)
    }
}

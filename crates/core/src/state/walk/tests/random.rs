//! Random graphs and machines against the model, and machines that are killed at every point.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::*;
use super::machine::{Act, Apply, Event, Guard, Machine, Refresh};
use super::{MODES, model};
use crate::state::catalog::{OrderMode, Rank, RequisiteKind};
use crate::state::order::{Links, Order};
use crate::state::sketch::{Sketch, declared, empty};
use crate::state::{StateIndex, StateOutcome};

const STATES: usize = 8;

#[derive(Clone, Debug)]
struct Piece {
    kind: usize,
    targets: Vec<usize>,
}

#[derive(Clone, Debug)]
struct Line {
    pieces: Vec<Piece>,
    reads: Option<usize>,
    needs: Option<u8>,
    provides: Option<u8>,
    merge: Option<bool>,
    refreshes: bool,
    order: u8,
    parallel: u8,
}

fn line() -> impl Strategy<Value = Line> {
    let piece = (0..RequisiteKind::ALL.len(), prop::collection::vec(0..STATES, 1..4))
        .prop_map(|(kind, targets)| Piece { kind, targets });
    let pieces = prop::collection::vec(piece, 0..3);
    let extras = (
        prop::option::weighted(0.1, 0..STATES),
        prop::option::weighted(0.2, 0..3u8),
        prop::option::weighted(0.2, 0..3u8),
        prop::option::weighted(0.3, any::<bool>()),
    );
    let options = (prop::bool::weighted(0.7), 0..12u8, 0..12u8);
    (pieces, extras, options).prop_map(
        |(pieces, (reads, needs, provides, merge), (refreshes, order, parallel))| Line {
            pieces,
            reads,
            needs,
            provides,
            merge,
            refreshes,
            order,
            parallel,
        },
    )
}

/// Random states, most of whose requisites point to states written before: a graph without cycles comes up often. Some are left as
/// they fall.
fn sketch() -> impl Strategy<Value = Sketch> {
    (prop::collection::vec(line(), 1..=STATES), prop::bool::weighted(0.15), any::<u64>()).prop_map(
        |(lines, wild, shuffle)| {
            let count = lines.len();
            let mut sketch = Sketch { catalog: empty(), links: Vec::new() };
            // Which states count as earlier is a permutation, so that written order says nothing.
            let mut earlier: Vec<StateIndex> = (0..count).collect();
            earlier.sort_by_key(|at| (shuffle.rotate_left(*at as u32 * 7) ^ shuffle) & 0xff);
            let depth = |state: StateIndex| earlier[state];
            for (at, line) in lines.into_iter().enumerate() {
                let mut state = declared(&format!("s{at}"), at);
                for Piece { kind, targets } in line.pieces {
                    let kind = RequisiteKind::ALL[kind];
                    let fits = |target: &StateIndex| {
                        let (target, own) = (depth(*target), depth(at));
                        wild || kind == RequisiteKind::Listen
                            || if kind == RequisiteKind::Prereq { target > own } else { target < own }
                    };
                    let targets: BTreeSet<StateIndex> =
                        targets.into_iter().filter(|target| *target < count && *target != at).collect();
                    let targets: Vec<StateIndex> = targets.into_iter().filter(fits).collect();
                    if !targets.is_empty() {
                        state.requisites.of.insert(kind, targets);
                    }
                }
                let reads = line.reads.filter(|target| *target < count && depth(*target) < depth(at));
                state.requisites.reads = reads.into_iter().collect();
                state.options.order = match line.order {
                    0 => Some(Rank::First),
                    1 => Some(Rank::Last),
                    2 => Some(Rank::Number(-1)),
                    3 => Some(Rank::Number(1)),
                    _ => None,
                };
                state.options.parallel =
                    [Some(true), Some(false)].get(line.parallel as usize).copied().flatten();
                state.options.failhard = line.parallel == 3;
                sketch.catalog.states.push(state);
                sketch.links.push(Links {
                    needs: line.needs.map(|name| format!("r{name}")).into_iter().collect(),
                    provides: line.provides.map(|name| format!("r{name}")).into_iter().collect(),
                    merge: line.merge.map(|key| key.to_string()),
                    refreshes: line.refreshes,
                });
            }
            sketch
        },
    )
}

fn some_act() -> impl Strategy<Value = Act> {
    let guard = prop_oneof![6 => Just(Guard::Pass), 1 => Just(Guard::Skip), 1 => Just(Guard::Never), 1 => Just(Guard::Broken)];
    let apply = prop_oneof![4 => Just(Apply::Changed), 3 => Just(Apply::Unchanged), 1 => Just(Apply::Failed)];
    let refresh = prop_oneof![4 => Just(Refresh::Done), 1 => Just(Refresh::NotNeeded), 1 => Just(Refresh::Quiet), 1 => Just(Refresh::Failed)];
    (guard, apply, refresh, prop::bool::weighted(0.2), prop::bool::weighted(0.1))
        .prop_map(|(guard, apply, refresh, opaque, hidden)| Act { guard, apply, refresh, opaque, hidden })
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    prop::collection::vec(some_act(), STATES)
}

fn debts() -> impl Strategy<Value = Vec<(usize, usize, usize)>> {
    prop::collection::vec((0..=STATES, 0..3usize, 0..=STATES), 0..3)
}

fn owed(debts: &[(usize, usize, usize)]) -> BTreeSet<Debt> {
    let kinds = [DebtKind::Refresh, DebtKind::Trigger, DebtKind::Listen];
    let debt = |(state, kind, because): &(usize, usize, usize)| {
        super::owes(&format!("s{state}"), kinds[*kind], &format!("s{because}"))
    };
    debts.iter().map(debt).collect()
}

/// A chooser that is set by numbers.
fn chooser(numbers: &[usize]) -> impl FnMut(usize) -> usize {
    let mut at = 0;
    move |_| {
        at += 1;
        numbers.get(at % numbers.len().max(1)).copied().unwrap_or(0)
    }
}

/// Nothing begins before all that it comes after has ended, and what runs one by one does so.
fn keeps_order(sketch: &Sketch, order: &Order, events: &[Event]) {
    let mut ended = BTreeSet::new();
    let mut alone = BTreeSet::new();
    for event in events {
        match event {
            Event::Began(state) => {
                for before in order.before(*state) {
                    assert!(ended.contains(before), "{state} began before {before} ended");
                }
                let beside = sketch.catalog.order != OrderMode::Ansible;
                if !sketch.catalog.states[*state].options.parallel.unwrap_or(beside) {
                    alone.insert(*state);
                    assert_eq!(alone.len(), 1, "one by one");
                }
            }
            Event::Ended(state) => {
                ended.insert(*state);
                alone.remove(state);
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn edges_and_sequence_are_those_of_the_model(sketch in sketch()) {
        let Some(graph) = model::graph(&sketch) else {
            let error = sketch.try_order().unwrap_err();
            let crate::state::order::OrderError::Cycle(cycle) = error else { panic!("{error}") };
            prop_assert!(!cycle.steps.is_empty());
            prop_assert!(cycle.steps.iter().all(|step| !step.why.is_empty()), "{}", cycle);
            return Ok(());
        };
        for mode in MODES {
            let sketch = sketch.clone().mode(mode);
            let order = sketch.order();
            let edges: BTreeSet<(StateIndex, StateIndex)> =
                order.edges.iter().map(|edge| (edge.before, edge.after)).collect();
            prop_assert_eq!(&edges, &graph.edges);
            let left_out: BTreeSet<(StateIndex, StateIndex)> =
                order.left_out.iter().map(|left_out| (left_out.provider, left_out.needer)).collect();
            prop_assert_eq!(left_out, graph.left_out.clone());
            for (before, after) in &edges {
                prop_assert!(order.place(*before) < order.place(*after));
            }
            if mode != OrderMode::Genius {
                prop_assert_eq!(&order.sequence, &graph.sequence);
            }
            for (members, at) in order.merges.iter().zip(0..) {
                prop_assert!(members.len() > 1, "merge {}", at);
                for (one, two) in members.iter().flat_map(|one| members.iter().map(move |two| (one, two))) {
                    prop_assert!(!edges.contains(&(*one, *two)));
                    prop_assert_eq!(&sketch.links[*one].merge, &sketch.links[*two].merge);
                }
            }
        }
    }

    #[test]
    fn a_walk_comes_to_what_the_model_comes_to(
        sketch in sketch(),
        acts in acts(),
        debts in debts(),
        picks in prop::collection::vec(0..7usize, 1..20),
        failhard in prop::bool::weighted(0.1),
    ) {
        let Some(graph) = model::graph(&sketch) else { return Ok(()) };
        let mut sketch = if failhard { sketch.failhard() } else { sketch };
        let acts = acts[..sketch.links.len()].to_vec();
        let owed = owed(&debts);
        for mode in MODES {
            sketch.catalog.order = mode;
            if mode != OrderMode::Ansible {
                // After a failure under failhard it depends on the order what has begun.
                sketch.catalog.failhard = false;
                sketch.catalog.states.iter_mut().for_each(|state| state.options.failhard = false);
            } else {
                sketch.catalog.states.iter_mut().for_each(|state| state.options.parallel = None);
            }
            let expected = model::run(&sketch, &acts, &graph, &owed);
            let order = sketch.order();
            let mut machine = Machine::new(&sketch, &order, acts.clone());
            machine.disk = owed.clone();
            let outcomes = machine.run(&mut chooser(&picks)).expect("nobody kills it");
            prop_assert_eq!(&outcomes, &expected.outcomes, "{:?}", mode);
            keeps_order(&sketch, &order, &machine.events);
            if mode == OrderMode::Ansible {
                let refreshes: Vec<usize> = (0..acts.len()).map(|state| machine.refreshes(state)).collect();
                prop_assert_eq!(refreshes, expected.refreshes);
                prop_assert_eq!(&machine.disk, &expected.debts);
            } else {
                // Which of its targets a listener has already served when it has its turn depends on the order.
                let settled = |debts: &BTreeSet<Debt>| -> BTreeSet<Debt> {
                    debts.iter().filter(|debt| debt.kind != DebtKind::Listen).cloned().collect()
                };
                prop_assert_eq!(settled(&machine.disk), settled(&expected.debts));
            }
        }
    }
}

/// Whether a state acted on the change of another at this event, as far as this kind of debt asks.
fn acts_on(kind: DebtKind, event: Event, state: StateIndex) -> bool {
    match kind {
        DebtKind::Refresh | DebtKind::Listen => event == Event::Refreshed(state),
        DebtKind::Trigger => event == Event::Applied(state),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Killed after every single event: whatever changed before, those who have to act on it do so at least once, in this
    /// run or the next, in which everything works and what has changed is as declared.
    #[test]
    fn whatever_was_owed_when_it_was_killed_is_paid_by_the_next_run(
        sketch in sketch(),
        acts in acts(),
        picks in prop::collection::vec(0..7usize, 1..20),
        mode in 0..3usize,
    ) {
        if model::graph(&sketch).is_none() {
            return Ok(());
        }
        let mut sketch = sketch.mode(MODES[mode]);
        for state in &mut sketch.catalog.states {
            // What only a failure calls for owes nothing when the next run has none.
            state.requisites.of.remove(&RequisiteKind::Onfail);
            state.requisites.of.remove(&RequisiteKind::OnfailAll);
            state.requisites.of.remove(&RequisiteKind::Prereq);
        }
        let mut acts = acts[..sketch.links.len()].to_vec();
        for act in &mut acts {
            // A change that amounts to the refresh is one, but leaves no trace of it.
            act.refresh = if act.refresh == Refresh::NotNeeded { Refresh::Done } else { act.refresh };
        }
        let order = sketch.order();
        let mut whole = Machine::new(&sketch, &order, acts.clone());
        whole.run(&mut chooser(&picks));
        for point in 1..=whole.events.len() {
            let mut killed = Machine::new(&sketch, &order, acts.clone());
            killed.kill_after = Some(point);
            prop_assert!(killed.run(&mut chooser(&picks)).is_none());
            let changed = |state: StateIndex| {
                killed.events.contains(&Event::Applied(state)) && acts[state].apply != Apply::Unchanged
            };
            let later: Vec<Act> = (0..acts.len())
                .map(|state| if changed(state) { Act::unchanged() } else { Act { apply: acts[state].apply, ..Act::unchanged() } })
                .map(|act| if act.apply == Apply::Failed { Act::changed() } else { act })
                .collect();
            let mut next = Machine::new(&sketch, &order, later);
            next.disk = killed.disk.clone();
            let outcomes = next.run(&mut chooser(&picks)).expect("nobody kills it");
            prop_assert_eq!(&next.disk, &BTreeSet::new(), "killed after event {} of {:?}", point, &killed.events);
            let events: Vec<Event> = killed.events.iter().chain(&next.events).copied().collect();
            for (state, declared) in sketch.catalog.states.iter().enumerate() {
                for (kind, targets) in &declared.requisites.of {
                    let debt = match kind {
                        RequisiteKind::Watch | RequisiteKind::WatchAny => DebtKind::Refresh,
                        RequisiteKind::Onchanges | RequisiteKind::OnchangesAny => DebtKind::Trigger,
                        RequisiteKind::Listen => DebtKind::Listen,
                        _ => continue,
                    };
                    if debt != DebtKind::Trigger && !sketch.links[state].refreshes {
                        continue;
                    }
                    for target in targets {
                        let change = (0..point).find(|at| killed.events[*at] == Event::Applied(*target));
                        let Some(change) = change.filter(|_| acts[*target].apply != Apply::Unchanged) else { continue };
                        // Skipped by a guard or by another requisite, in this run after the change or in the next one.
                        let skipped = outcomes[state] == StateOutcome::Skipped
                            || killed.events[change..].contains(&Event::Ended(state))
                                && matches!(acts[state].guard, Guard::Skip | Guard::Never)
                            || debt == DebtKind::Listen
                                && matches!(acts[state].guard, Guard::Skip | Guard::Never)
                                && whole.events.len() == point
                            || whole.outcomes.get(state) == Some(&StateOutcome::Skipped)
                                && killed.events.contains(&Event::Ended(state));
                        let acted = events[change..].iter().any(|event| acts_on(debt, *event, state));
                        prop_assert!(
                            acted || skipped,
                            "{} owes {} a {:?}: killed after event {} of {:?}, then {:?}",
                            state, target, debt, point, &killed.events, &next.events
                        );
                    }
                }
            }
        }
    }
}

/// Random states, what they do, and what is owed.
pub(super) fn world() -> impl Strategy<Value = (Sketch, Vec<Act>, BTreeSet<Debt>)> {
    (sketch(), acts(), debts()).prop_map(|(sketch, acts, debts)| (sketch, acts, owed(&debts)))
}

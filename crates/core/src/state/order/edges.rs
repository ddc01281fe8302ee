//! Which state comes before which: written edges, what `prereq` brings with it, and inferred ones.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::graph::{self, Dag};
use super::{Cycle, CycleStep, Edge, LeftOut, Links, OrderError, Why, sequence};
use crate::state::StateIndex;
use crate::state::catalog::{Catalog, RequisiteKind};

pub(super) struct Found {
    pub(super) edges: Vec<Edge>,
    pub(super) left_out: Vec<LeftOut>,
}

pub(super) fn find(catalog: &Catalog, links: &[Links]) -> Result<Found, OrderError> {
    let mut edges = written(catalog)?;
    let (before, after) = adjacent(catalog.states.len(), &edges);
    let laid = sequence::lay_out(catalog, &[], &before, &after);
    if laid.sequence.len() < catalog.states.len() {
        return Err(cycle_in(catalog, &edges, &after).into());
    }
    let mut dag = Dag::new(&laid.sequence, edges.iter().map(|edge| (edge.before, edge.after)));
    let derived = derive(catalog, &edges, &laid.sequence, &mut dag)?;
    edges.extend(derived);
    let mut found = Found { edges, left_out: Vec::new() };
    infer(catalog, links, &mut found);
    Ok(found)
}

/// What requisites and outputs that are read say by themselves.
fn written(catalog: &Catalog) -> Result<Vec<Edge>, OrderError> {
    let states = catalog.states.len();
    let mut edges = Vec::new();
    for (state, declared) in catalog.states.iter().enumerate() {
        let known = |target: StateIndex| {
            if target < states {
                return Ok(target);
            }
            Err(OrderError::NoSuchState { state: declared.id.clone(), target, states })
        };
        for (kind, targets) in &declared.requisites.of {
            for target in targets {
                let target = known(*target)?;
                edges.push(match kind {
                    RequisiteKind::Listen => continue,
                    RequisiteKind::Prereq => Edge { before: state, after: target, why: Why::Prereq },
                    kind => Edge { before: target, after: state, why: Why::Requisite(*kind) },
                });
            }
        }
        for target in &declared.requisites.reads {
            edges.push(Edge { before: known(*target)?, after: state, why: Why::Reads });
        }
    }
    Ok(edges)
}

fn adjacent(count: usize, edges: &[Edge]) -> (Vec<Vec<StateIndex>>, Vec<Vec<StateIndex>>) {
    let mut before = vec![Vec::new(); count];
    let mut after = vec![Vec::new(); count];
    for edge in edges {
        before[edge.after].push(edge.before);
        after[edge.before].push(edge.after);
    }
    (before, after)
}

/// A state with `prereq` analyses its targets at its own turn, so whatever they come after has to be done by then; not
/// what comes after another of its targets, which comes after the state itself.
fn derive(
    catalog: &Catalog,
    edges: &[Edge],
    sequence: &[StateIndex],
    dag: &mut Dag,
) -> Result<Vec<Edge>, OrderError> {
    let mut comes_after = vec![Vec::new(); catalog.states.len()];
    for edge in edges.iter().filter(|edge| edge.why != Why::Prereq) {
        comes_after[edge.after].push(edge.before);
    }
    let mut derived = Vec::new();
    // A target that carries `prereq` itself comes later in the sequence: what it is given here is passed on.
    for state in sequence.iter().rev() {
        let targets = catalog.states[*state].requisites.targets(RequisiteKind::Prereq);
        if targets.is_empty() {
            continue;
        }
        let mut met: HashSet<StateIndex> = targets.iter().copied().chain([*state]).collect();
        for target in targets {
            for first in comes_after[*target].clone() {
                if !met.insert(first) {
                    continue;
                }
                if dag.add(first, *state) {
                    comes_after[*state].push(first);
                    derived.push(Edge { before: first, after: *state, why: Why::PrereqOf(*target) });
                } else if !dag.comes_after(targets, first) {
                    let edge = Edge { before: first, after: *state, why: Why::PrereqOf(*target) };
                    let path = dag.path(*state, first).unwrap_or_default();
                    let known: Vec<Edge> = edges.iter().chain(&derived).cloned().chain([edge]).collect();
                    return Err(cycle(catalog, &known, path).into());
                }
            }
        }
    }
    Ok(derived)
}

/// An edge that would be good to have.
struct Wish {
    edge: Edge,
    /// Makes sense only with that earlier wish.
    with: Option<usize>,
}

/// Adds what modules need and provide, in written order. An edge that would close a cycle is left out.
fn infer(catalog: &Catalog, links: &[Links], found: &mut Found) {
    let wishes = wishes(catalog, links, &found.edges);
    if wishes.is_empty() {
        return;
    }
    // An edge can close a cycle only with others of its own component, so all others are simply taken.
    let count = catalog.states.len();
    let (_, hard) = adjacent(count, &found.edges);
    let mut after = hard.clone();
    for wish in &wishes {
        after[wish.edge.before].push(wish.edge.after);
    }
    let component = graph::components(&after);
    let knotted = |edge: &Edge| component[edge.before] == component[edge.after];
    let mut dag = None;
    if wishes.iter().any(|wish| knotted(&wish.edge)) {
        let mut soft = vec![Vec::new(); count];
        for wish in wishes.iter().filter(|wish| knotted(&wish.edge)) {
            soft[wish.edge.before].push(wish.edge.after);
        }
        let inside = found.edges.iter().filter(|edge| knotted(edge));
        dag = Some(Dag::new(&graph::lean(&hard, &soft), inside.map(|edge| (edge.before, edge.after))));
    }
    let mut taken = vec![true; wishes.len()];
    for (at, Wish { edge, with }) in wishes.into_iter().enumerate() {
        let fits = with.is_none_or(|with| taken[with])
            && match &mut dag {
                Some(dag) if knotted(&edge) => dag.add(edge.before, edge.after),
                _ => true,
            };
        taken[at] = fits;
        match (fits, edge.why.clone()) {
            (true, _) => found.edges.push(edge),
            (false, Why::Needs(resource)) => {
                found.left_out.push(LeftOut { provider: edge.before, needer: edge.after, resource });
            }
            (false, _) => {}
        }
    }
}

fn wishes(catalog: &Catalog, links: &[Links], edges: &[Edge]) -> Vec<Wish> {
    let links = &links[..links.len().min(catalog.states.len())];
    let mut providers: HashMap<&str, Vec<StateIndex>> = HashMap::new();
    for (state, links) in links.iter().enumerate() {
        for resource in &links.provides {
            providers.entry(resource).or_default().push(state);
        }
    }
    // What was written between the two rules; one the other way round makes a cycle, and is left out as such.
    let mut met: HashSet<(StateIndex, StateIndex)> = HashSet::new();
    let mut prereq_by: BTreeMap<StateIndex, Vec<StateIndex>> = BTreeMap::new();
    for edge in edges {
        if !matches!(edge.why, Why::PrereqOf(_)) {
            met.insert((edge.before, edge.after));
        }
        if edge.why == Why::Prereq {
            prereq_by.entry(edge.after).or_default().push(edge.before);
        }
    }
    let mut wishes = Vec::new();
    let mut passed_on: HashSet<(StateIndex, StateIndex)> = HashSet::new();
    // Of two that build on the same thing and both give it, as two archives unpacked into one directory, the first
    // written comes first.
    let builds_on = |state: StateIndex, resource: &String| {
        links[state].needs.contains(resource) && links[state].provides.contains(resource)
    };
    for (state, linked) in links.iter().enumerate() {
        for resource in &linked.needs {
            let name: Arc<str> = resource.as_str().into();
            for provider in providers.get(resource.as_str()).into_iter().flatten() {
                if *provider > state && builds_on(state, resource) && builds_on(*provider, resource) {
                    continue;
                }
                if *provider == state || !met.insert((*provider, state)) {
                    continue;
                }
                let mut given = vec![(state, wishes.len())];
                wishes.push(Wish {
                    edge: Edge { before: *provider, after: state, why: Why::Needs(name.clone()) },
                    with: None,
                });
                while let Some((target, with)) = given.pop() {
                    for by in prereq_by.get(&target).into_iter().flatten() {
                        if by != provider && passed_on.insert((*provider, *by)) {
                            given.push((*by, wishes.len()));
                            let edge = Edge { before: *provider, after: *by, why: Why::PrereqOf(target) };
                            wishes.push(Wish { edge, with: Some(with) });
                        }
                    }
                }
            }
        }
    }
    wishes
}

/// A shortest cycle through the first state that is on one.
fn cycle_in(catalog: &Catalog, edges: &[Edge], after: &[Vec<StateIndex>]) -> Cycle {
    let component = graph::components(after);
    let knotted = edges.iter().filter(|edge| component[edge.before] == component[edge.after]);
    let first = knotted.map(|edge| edge.before).min();
    let path = first.and_then(|first| {
        let mut path = graph::path(after, first, first)?;
        path.pop();
        Some(path)
    });
    cycle(catalog, edges, path.unwrap_or_default())
}

/// `path` goes along edges; one more leads from its end to its start.
fn cycle(catalog: &Catalog, edges: &[Edge], mut path: Vec<StateIndex>) -> Cycle {
    // It is told the other way round, as people wrote it: who requires whom.
    path.reverse();
    if let Some(least) = (0..path.len()).min_by_key(|at| path[*at]) {
        path.rotate_left(least);
    }
    let edges: HashMap<(StateIndex, StateIndex), &Edge> =
        edges.iter().rev().map(|edge| ((edge.after, edge.before), edge)).collect();
    let next = path.iter().skip(1).chain(path.first());
    let steps = path.iter().zip(next).map(|(state, next)| {
        let edge = edges.get(&(*state, *next));
        let declared = &catalog.states[*state];
        CycleStep {
            state: *state,
            id: declared.id.clone(),
            at: declared.at,
            why: edge.map_or_else(String::new, |edge| edge.why.word(catalog)),
        }
    });
    Cycle { steps: steps.collect() }
}

//! From what is written of other states to the edges of a catalog.

use std::collections::{BTreeMap, BTreeSet};

use super::cycle::cycles;
use super::expand::Expanded;
use super::names::{Meant, Named, Names, NoSuch};
use super::problem::Problems;
use super::settle::Read;
use super::skeleton::Skeleton;
use crate::near_miss::near_miss;
use crate::state::StateIndex;
use crate::state::catalog::{Catalog, Declared, Place, RequisiteKind, Requisites};
use crate::state::order::{Links, Order, OrderError, Why};

/// One requisite as it was written.
#[derive(Clone, Debug)]
pub(super) struct Reference {
    /// The state that says it.
    pub(super) owner: StateIndex,
    pub(super) kind: RequisiteKind,
    /// `X_in`: the states that are meant carry the requisite.
    pub(super) reversed: bool,
    pub(super) at: Place,
    pub(super) meant: Meant,
    /// It reads the output: `require`, by a template.
    pub(super) is_read: bool,
}

impl Reference {
    /// Who carries the requisite, and of whom.
    pub(super) fn edges(&self) -> impl Iterator<Item = (StateIndex, StateIndex)> {
        let (owner, reversed) = (self.owner, self.reversed);
        self.meant.states.iter().map(move |&meant| if reversed { (meant, owner) } else { (owner, meant) })
    }

    pub(super) fn word(&self) -> String {
        match (self.is_read, self.reversed) {
            (true, _) => "reads".into(),
            (_, true) => format!("{}_in", self.kind.word()),
            (_, false) => self.kind.word().into(),
        }
    }
}

/// What the states that are named mean, the owner itself left out where a name means many.
pub(super) fn reference(
    names: &Names<'_>,
    skeletons: &[Skeleton],
    owner: StateIndex,
    kind: RequisiteKind,
    reversed: bool,
    named: &Named,
) -> Result<Reference, NoSuch> {
    let mut meant = names.find(skeletons[owner].unit, named)?;
    let had_some = !meant.states.is_empty();
    if !meant.strict {
        meant.states.retain(|&state| state != owner);
    }
    let alone = |message: &str| NoSuch { message: message.into(), hint: None };
    if meant.states.contains(&owner) {
        return Err(alone("the state names itself"));
    }
    if meant.states.is_empty() {
        if had_some {
            return Err(alone("it means no state but this one"));
        }
        // A `for_each` over nothing. What only holds others back holds nobody back then.
        let is_order = matches!(kind, RequisiteKind::Require | RequisiteKind::Watch | RequisiteKind::Listen);
        if !is_order {
            let message = format!("there is no state here, so `{}` could never hold", kind.word());
            return Err(alone(&message));
        }
    }
    Ok(Reference { owner, kind, reversed, at: named.at, meant, is_read: false })
}

/// The state that a template reads, as an edge.
pub(super) fn read(
    names: &Names<'_>,
    skeletons: &[Skeleton],
    owner: StateIndex,
    read: &Read,
) -> Result<Reference, NoSuch> {
    let unit = skeletons[owner].unit;
    let Some(state) = names.id(unit, &read.name) else {
        let hint = names.near_id(unit, &read.name).map(|near| format!("did you mean {near}?"));
        return Err(NoSuch { message: format!("there is no state `{}` to read", read.name), hint });
    };
    if state == owner {
        return Err(NoSuch { message: "the state reads its own output".into(), hint: None });
    }
    let meant = Meant { states: vec![state], strict: true };
    Ok(Reference { owner, kind: RequisiteKind::Require, reversed: false, at: read.at, meant, is_read: true })
}

/// What every state gives out, whatever its module.
const OUTPUTS_OF_ALL: [&str; 2] = ["changed", "outcome"];

/// Whether a state gives out something of this name, if its module says what it gives.
pub(super) fn check_output(state: &Skeleton, output: &str) -> Result<(), NoSuch> {
    let Some(outputs) = &state.schema.outputs else { return Ok(()) };
    let known = || outputs.iter().map(String::as_str).chain(OUTPUTS_OF_ALL);
    if known().any(|known| known == output) {
        return Ok(());
    }
    let hint = match near_miss(output, known()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("there are {}", known().collect::<Vec<_>>().join(", ")),
    };
    let message = format!("`{}`, a `{}`, gives out no `{output}`", state.id, state.module);
    Err(NoSuch { message, hint: Some(hint) })
}

/// The requisites of each state, by places in `states`.
pub(super) fn edges<'a>(count: usize, references: impl Iterator<Item = &'a Reference>) -> Vec<Requisites> {
    let mut found: Vec<Requisites> = vec![Requisites::default(); count];
    for reference in references {
        for (state, target) in reference.edges() {
            let requisites = &mut found[state];
            if reference.is_read {
                requisites.reads.push(target);
            } else {
                requisites.of.entry(reference.kind).or_default().push(target);
            }
        }
    }
    for requisites in &mut found {
        for targets in requisites.of.values_mut().chain([&mut requisites.reads]) {
            targets.sort_unstable();
            targets.dedup();
        }
    }
    found
}

/// `require` and `onfail` on one state: the state could never run.
pub(super) fn note_contradictions(states: &[Expanded], references: &[Reference], problems: &Problems) {
    let mut wanted: BTreeMap<(StateIndex, StateIndex), &Reference> = BTreeMap::new();
    let needs_good = |kind| matches!(kind, RequisiteKind::Require | RequisiteKind::Watch);
    for reference in references.iter().filter(|reference| needs_good(reference.kind)) {
        for edge in reference.edges() {
            wanted.entry(edge).or_insert(reference);
        }
    }
    let needs_bad = |kind| matches!(kind, RequisiteKind::Onfail | RequisiteKind::OnfailAll);
    for reference in references.iter().filter(|reference| needs_bad(reference.kind)) {
        for (state, target) in reference.edges() {
            let Some(other) = wanted.get(&(state, target)) else { continue };
            let (id, target) = (&states[state].declared.id, &states[target].declared.id);
            let both = if other.is_read { "reads".to_owned() } else { format!("`{}`", other.word()) };
            let message =
                format!("`{id}` has `{}` and {both} of `{target}`: it could never run", reference.word());
            problems.note(reference.at, message, None);
        }
    }
}

/// States that wait for each other, each circle as a path; if there is none, one that only what `prereq` brings along closes.
pub(super) fn note_cycles(states: &[Expanded], references: &[Reference], problems: &Problems) {
    let mut needs: Vec<Vec<usize>> = vec![Vec::new(); states.len()];
    let edge = |reference: &Reference, (state, target)| match reference.kind {
        RequisiteKind::Listen => None,
        RequisiteKind::Prereq => Some((target, state)),
        _ => Some((state, target)),
    };
    for reference in references {
        for (state, target) in reference.edges().filter_map(|e| edge(reference, e)) {
            needs[state].push(target);
        }
    }
    let circles = cycles(&needs);
    if circles.is_empty() {
        return note_cycle_by_prereq(states, references, problems);
    }
    let inside: BTreeSet<usize> = circles.iter().flatten().copied().collect();
    let mut by: BTreeMap<(usize, usize), &Reference> = BTreeMap::new();
    for reference in references {
        for found in reference.edges().filter_map(|e| edge(reference, e)) {
            if inside.contains(&found.0) {
                by.entry(found).or_insert(reference);
            }
        }
    }
    for circle in circles {
        let mut path = String::new();
        let mut at = None;
        for (place, &state) in circle.iter().enumerate() {
            let next = circle[(place + 1) % circle.len()];
            let Some(reference) = by.get(&(state, next)) else { continue };
            at.get_or_insert(reference.at);
            path += &format!("{} ({}) → ", states[state].declared.id, reference.word());
        }
        path += states[circle[0]].declared.id.as_str();
        problems.note(at.unwrap_or_default(), format!("these states wait for each other: {path}"), None);
    }
}

/// A state with `prereq` also comes after what its targets come after, which the order derives. `references` may leave out
/// states: those have no edges then.
pub(super) fn note_cycle_by_prereq(states: &[Expanded], references: &[Reference], problems: &Problems) {
    let prereqs = || references.iter().filter(|reference| reference.kind == RequisiteKind::Prereq);
    if prereqs().next().is_none() {
        return;
    }
    let Err(OrderError::Cycle(cycle)) = ordered(states, references, &[]) else { return };
    let is_inside = |(carrier, _)| cycle.steps.iter().any(|step| step.state == carrier);
    let at = prereqs().find(|reference| reference.edges().any(is_inside)).map(|reference| reference.at);
    let mut path: String = cycle.steps.iter().map(|step| format!("{} ({}) → ", step.id, step.why)).collect();
    path += cycle.steps.first().map_or("", |step| step.id.as_str());
    problems.note(at.unwrap_or_default(), format!("these states wait for each other: {path}"), None);
}

/// What comes before which only because it provides what the other needs: the later first.
pub(super) fn inferred(
    states: &[Expanded],
    references: &[Reference],
    links: &[Links],
) -> Vec<(StateIndex, StateIndex)> {
    // Circles are told of where all are looked for.
    let edges = ordered(states, references, links).map(|order| order.edges).unwrap_or_default();
    let needs = edges.into_iter().filter(|edge| matches!(edge.why, Why::Needs(_)));
    needs.map(|edge| (edge.after, edge.before)).collect()
}

fn ordered(states: &[Expanded], references: &[Reference], links: &[Links]) -> Result<Order, OrderError> {
    let of = edges(states.len(), references.iter());
    let declared =
        |(state, requisites): (&Expanded, Requisites)| Declared { requisites, ..state.declared.clone() };
    let states: Vec<Declared> = states.iter().zip(of).map(declared).collect();
    Order::build(&Catalog { states, ..Catalog::empty() }, links)
}

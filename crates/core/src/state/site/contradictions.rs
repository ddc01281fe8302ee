//! States that undo each other, as far as the file alone tells.
//!
//! Only states that are there for certain are compared: not those with a guard, nor those that wait for what others do, nor those
//! that no target gives to one machine together. What the modules make of their parameters, they know themselves.

use std::collections::HashMap;
use std::path::Path;

use super::ModuleTable;
use super::expand::Expanded;
use super::problem::Problems;
use super::requisites::Reference;
use crate::state::StateIndex;
use crate::state::catalog::{Guards, RequisiteKind};
use crate::target::Target;

/// Most states about one thing that each other one is compared with.
const MAX_COMPARED: usize = 8;

/// Warns of each state that undoes an earlier one.
pub(super) fn note(
    modules: &dyn ModuleTable,
    states: &[Expanded],
    references: &[Reference],
    targets: Option<&[(Target, Vec<StateIndex>)]>,
    file: &dyn Fn(usize) -> String,
    warnings: &Problems,
) {
    let mut about: HashMap<&str, Vec<StateIndex>> = HashMap::with_capacity(states.len());
    for (index, state) in states.iter().enumerate() {
        if let Some(thing) = modules.thing(&state.declared.module, &state.declared.params) {
            about.entry(thing).or_default().push(index);
        }
    }
    about.retain(|_, states| states.len() > 1);
    let mut reigns: HashMap<&Path, Vec<StateIndex>> = HashMap::new();
    for (index, state) in states.iter().enumerate() {
        if let Some(directory) = modules.reign(&state.declared.module, &state.declared.params) {
            reigns.entry(Path::new(directory)).or_default().push(index);
        }
    }
    if about.is_empty() && reigns.is_empty() {
        return;
    }
    let mut is_certain: Vec<bool> =
        states.iter().map(|state| *state.declared.guards == Guards::default()).collect();
    for reference in references.iter().filter(|reference| waits(reference.kind)) {
        reference.edges().for_each(|(carrier, _)| is_certain[carrier] = false);
    }
    let are_together = |one: StateIndex, other: StateIndex| match targets {
        None => true,
        Some(targets) => targets.iter().any(|(_, states)| states.contains(&one) && states.contains(&other)),
    };
    let of = |state: StateIndex| {
        let declared = &states[state].declared;
        (declared.module.as_str(), &declared.params)
    };
    let line = |earlier: StateIndex, later: StateIndex| {
        let (one, other) = (states[earlier].declared.at, states[later].declared.at);
        match one.file == other.file {
            true => format!("line {}", one.line),
            false => format!("{}:{}", file(one.file), one.line),
        }
    };
    let hint = || Some("each run would undo what the other did".to_owned());
    for (thing, mut group) in about {
        group.retain(|&state| is_certain[state]);
        for (at, &later) in group.iter().enumerate() {
            let undoes = |&earlier: &StateIndex| {
                let why = modules.contradiction(of(earlier), of(later))?;
                are_together(earlier, later).then_some((earlier, why))
            };
            let Some((earlier, why)) = group[..at].iter().take(MAX_COMPARED).find_map(undoes) else {
                continue;
            };
            let (one, other) = (&states[earlier].declared, &states[later].declared);
            let place = line(earlier, later);
            let message = format!("`{}` and `{}` ({place}) are both about {thing}: {why}", other.id, one.id);
            warnings.note(other.at, message, hint());
        }
    }
    if reigns.is_empty() {
        return;
    }
    for (state, expanded) in states.iter().enumerate().filter(|(state, _)| is_certain[*state]) {
        let declared = &expanded.declared;
        let Some(place) = modules.place(&declared.module, &declared.params) else { continue };
        let above = Path::new(place).ancestors().skip(1).filter_map(|above| reigns.get(above));
        let removes = |by: &StateIndex| {
            is_certain[*by] && modules.removes(of(*by).1, of(state)) && are_together(*by, state)
        };
        if let Some(by) = above.flat_map(|above| above.iter().take(MAX_COMPARED)).copied().find(removes) {
            let (id, by_id, line) = (&declared.id, &states[by].declared.id, line(by, state));
            let message = format!("`{id}` puts {place} where `{by_id}` ({line}) removes what is not its own");
            warnings.note(declared.at, message, hint());
        }
    }
}

/// A state that carries such a requisite has its turn only if something came of others.
fn waits(kind: RequisiteKind) -> bool {
    use RequisiteKind::{Listen, Require, RequireAny, Watch, WatchAny};
    !matches!(kind, Require | RequireAny | Watch | WatchAny | Listen)
}

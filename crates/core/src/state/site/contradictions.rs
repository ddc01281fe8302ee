//! States that undo each other, as far as the file alone tells.
//!
//! Only states that are there for certain are compared: not those with a guard, nor those that wait for what others do, nor those
//! that no target gives to one machine together. What the modules make of their parameters, they know themselves.

use std::collections::HashMap;

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
    if about.is_empty() {
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
    for (thing, mut group) in about {
        group.retain(|&state| is_certain[state]);
        for (at, &later) in group.iter().enumerate() {
            let of = |state: StateIndex| {
                let declared = &states[state].declared;
                (declared.module.as_str(), &declared.params)
            };
            let undoes = |&earlier: &StateIndex| {
                let why = modules.contradiction(of(earlier), of(later))?;
                are_together(earlier, later).then_some((earlier, why))
            };
            let Some((earlier, why)) = group[..at].iter().take(MAX_COMPARED).find_map(undoes) else {
                continue;
            };
            let (one, other) = (&states[earlier].declared, &states[later].declared);
            let place = match one.at.file == other.at.file {
                true => format!("line {}", one.at.line),
                false => format!("{}:{}", file(one.at.file), one.at.line),
            };
            let message = format!("`{}` and `{}` ({place}) are both about {thing}: {why}", other.id, one.id);
            warnings.note(other.at, message, Some("each run would undo what the other did".into()));
        }
    }
}

/// A state that carries such a requisite has its turn only if something came of others.
fn waits(kind: RequisiteKind) -> bool {
    use RequisiteKind::{Listen, Require, RequireAny, Watch, WatchAny};
    !matches!(kind, Require | RequireAny | Watch | WatchAny | Listen)
}

//! The catalog of one machine out of all states of a site.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::expand::Expansion;
use super::problem::{Problems, SiteErrors};
use super::requisites::{Reference, edges, note_cycle_by_prereq};
use super::vars::{Definition, Definitions};
use super::{Site, Values};
use crate::frame::Facts;
use crate::state::StateIndex;
use crate::state::catalog::{BlobId, Catalog, Declared};
use crate::target::Subject;

/// A machine, as far as compiling asks for it.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    pub name: &'a str,
    pub labels: &'a BTreeMap<String, String>,
    /// For target expressions only: templates see facts on the machine itself.
    pub facts: &'a Facts,
    /// Its own variables, as an inventory has them.
    pub vars: &'a Values,
}

pub(super) fn catalog(site: &Site<'_>, machine: &Machine<'_>) -> Result<Catalog, SiteErrors> {
    let problems = Problems::default();
    let subject = Subject { name: machine.name, labels: machine.labels, facts: machine.facts };
    let target_vars = site.target_vars(|target| target.matches(&subject), &problems);
    let key = key(machine.vars, &target_vars);
    let expansion = match site.kept(&key) {
        Some(expansion) => expansion,
        None => {
            // What a warning says was said when the file was compiled.
            let expansion =
                Arc::new(site.expand(machine.vars, &target_vars, false, &problems, &Problems::default()));
            if problems.is_empty() {
                site.keep(key, expansion.clone());
            }
            expansion
        }
    };
    if let Some(errors) = errors(site, machine, problems) {
        return Err(errors);
    }
    let problems = Problems::default();
    let here = targeted(&expansion, &subject);
    let present = selected(&expansion, &here);
    let references = remaining(&expansion, &present, machine, &problems);
    // What comes after another target of a `prereq` may not do so where that target is not.
    if problems.is_empty() && present.contains(&false) {
        note_cycle_by_prereq(&expansion.states, &references, &problems);
    }
    if let Some(errors) = errors(site, machine, problems) {
        return Err(errors);
    }
    let left_out = |state: &StateIndex| here[*state] && !present[*state];
    let named = |state: StateIndex| {
        let declared = &expansion.states[state].declared;
        (declared.id.clone(), declared.module.clone())
    };
    let left_out = (0..present.len()).filter(left_out).map(named).collect();
    Ok(Catalog { left_out, ..build(site, &expansion, &present, &references) })
}

/// Names what a machine and its targets bring; empty if nothing.
fn key(machine: &Values, target: &Definitions) -> String {
    if machine.is_empty() && target.is_empty() {
        return String::new();
    }
    let places: Vec<_> = target
        .iter()
        .map(|(name, definition)| match definition {
            // Where it stands is what it says: files are read once.
            Definition::Written { at, .. } => format!("{name} {} {} {}", at.file, at.line, at.column),
            Definition::Plain(value) => format!("{name} {value}"),
        })
        .collect();
    serde_json::json!([machine, places]).to_string()
}

fn errors(site: &Site<'_>, machine: &Machine<'_>, problems: Problems) -> Option<SiteErrors> {
    let is_own = !machine.vars.is_empty();
    let errors = site.library.errors(problems)?;
    Some(if is_own { errors.of_machine(machine.name) } else { errors })
}

/// Which states are for the machine.
fn targeted(expansion: &Expansion, subject: &Subject<'_>) -> Vec<bool> {
    match &expansion.targets {
        None => vec![true; expansion.states.len()],
        Some(targets) => {
            let mut present = vec![false; expansion.states.len()];
            for (_, states) in targets.iter().filter(|(target, _)| target.matches(subject)) {
                states.iter().for_each(|&state| present[state] = true);
            }
            present
        }
    }
}

/// Which of them `--only` keeps.
fn selected(expansion: &Expansion, here: &[bool]) -> Vec<bool> {
    match &expansion.only {
        None => here.to_vec(),
        Some(only) => here.iter().zip(only).map(|(here, kept)| *here && *kept).collect(),
    }
}

/// The requisites that are left on this machine. What names a state that is not here is wrong.
fn remaining(
    expansion: &Expansion,
    present: &[bool],
    machine: &Machine<'_>,
    problems: &Problems,
) -> Vec<Reference> {
    let mut left = Vec::new();
    let listens = |reference: &Reference| reference.kind == crate::state::catalog::RequisiteKind::Listen;
    for reference in expansion.references.iter().filter(|reference| present[reference.owner]) {
        let here = |state: &StateIndex| present[*state];
        if reference.meant.states.iter().all(here) {
            left.push(reference.clone());
            continue;
        }
        let mut reduced = reference.clone();
        reduced.meant.states.retain(here);
        // `--only` cuts the edges of `listen`, and what an `_in` gives to others.
        let cut = expansion.only.is_some() && (listens(reference) || reference.reversed);
        if cut || (!reference.meant.strict && !reduced.meant.states.is_empty()) {
            left.push(reduced);
            continue;
        }
        let absent = reference.meant.states.iter().find(|state| !present[**state]);
        let (owner, name) = (&expansion.states[reference.owner].declared.id, machine.name);
        let what =
            absent.map_or(String::new(), |&state| format!("`{}`", expansion.states[state].declared.id));
        let message = format!("{what} is not for {name}, and `{owner}` ({}) is", reference.word());
        problems.note(reference.at, message, Some("name both in the targets of this machine".into()));
    }
    left
}

fn build(site: &Site<'_>, expansion: &Expansion, present: &[bool], references: &[Reference]) -> Catalog {
    let mut place = vec![usize::MAX; present.len()];
    let kept: Vec<StateIndex> = (0..present.len()).filter(|&state| present[state]).collect();
    kept.iter().enumerate().for_each(|(at, &state)| place[state] = at);
    let mut requisites = edges(present.len(), references.iter());
    let mut files = Numbers::default();
    files.of(site.root.number);
    let mut scopes = Numbers::default();
    let mut secrets = BTreeSet::new();
    let mut states = Vec::with_capacity(kept.len());
    for &state in &kept {
        let expanded = &expansion.states[state];
        let mut declared: Declared = expanded.declared.clone();
        declared.requisites = std::mem::take(&mut requisites[state]);
        let of = &mut declared.requisites;
        for targets in of.of.values_mut().chain([&mut of.reads]) {
            targets.iter_mut().for_each(|target| *target = place[*target]);
        }
        of.of.retain(|_, targets| !targets.is_empty());
        declared.aliases =
            expanded.aliases.iter().map(|(name, &state)| (name.clone(), place[state])).collect();
        declared.at.file = files.of(declared.at.file);
        declared.scope = scopes.of(declared.scope);
        secrets.extend(expanded.secrets.iter().map(String::as_str));
        states.push(declared);
    }
    let is_read = |name: &str| secrets.contains("") || secrets.contains(name);
    let extensions: BTreeMap<_, _> = expansion
        .extensions
        .iter()
        .filter(|(name, _)| states.iter().any(|state| state.module == **name))
        .map(|(name, extension)| (name.clone(), extension.clone()))
        .collect();
    let mut blobs = BTreeSet::new();
    states.iter().for_each(|state| state.params.values().for_each(|value| gather(value, &mut blobs)));
    blobs.extend(extensions.values().map(|extension| extension.blob.clone()));
    Catalog {
        name: expansion.name.clone(),
        order: expansion.order,
        failhard: expansion.failhard,
        files: files.kept.iter().map(|&file| site.library.name(file)).collect(),
        scopes: scopes.kept.iter().map(|&unit| expansion.vars[unit].values.clone()).collect(),
        secrets: expansion
            .secrets
            .iter()
            .filter(|(name, _)| is_read(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        states,
        left_out: BTreeMap::new(),
        blobs: blobs
            .into_iter()
            .filter_map(|id| Some((id.clone(), site.library.bytes(&id)?.to_vec())))
            .collect(),
        extensions,
    }
}

/// Numbers anew, in the order in which they are asked for, so that a catalog is the same whatever else was compiled.
#[derive(Default)]
struct Numbers {
    kept: Vec<usize>,
    known: BTreeMap<usize, usize>,
}

impl Numbers {
    fn of(&mut self, number: usize) -> usize {
        *self.known.entry(number).or_insert_with(|| {
            self.kept.push(number);
            self.kept.len() - 1
        })
    }
}

fn gather(value: &serde_json::Value, blobs: &mut BTreeSet<BlobId>) {
    match value {
        serde_json::Value::Array(items) => items.iter().for_each(|item| gather(item, blobs)),
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                match (key.as_str(), value.as_str()) {
                    ("$blob" | "$template" | "blob", Some(id)) => drop(blobs.insert(BlobId(id.to_owned()))),
                    _ => gather(value, blobs),
                }
            }
        }
        _ => {}
    }
}

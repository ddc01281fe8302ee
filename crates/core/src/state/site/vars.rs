//! Variables: values that may be templates over each other.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde_json::Value as Json;

use super::cycle::cycles;
use super::problem::Problems;
use super::settle::Settler;
use super::source::Source;
use crate::state::Values;
use crate::state::catalog::Place;
use crate::state::template::{self, RESERVED, Templates, is_template};
use crate::yaml::{Key, Tree, Value};

/// Names that no variable can have either: what a loop makes of them.
pub(crate) const NOT_VARIABLES: [&str; 3] = ["item", "loop", ""];

/// Who says what a variable is.
#[derive(Clone, Debug)]
pub(super) enum Definition {
    /// The command line, a machine, or a parameter of an include: the value as it is.
    Plain(Json),
    /// A file.
    Written { source: Arc<Source>, at: Place, tree: Tree },
}

pub(super) type Definitions = BTreeMap<String, Definition>;

/// Variables as states see them.
#[derive(Clone, Debug, Default)]
pub(super) struct Vars {
    pub(super) values: Values,
    /// Names that have no value for now: a machine may bring it, or it was wrong and that was told.
    pub(super) loose: BTreeSet<String>,
}

/// What is needed to settle variables.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a> {
    pub(super) templates: &'a Templates,
    pub(super) problems: &'a Problems,
    /// Variables that a machine may bring.
    pub(super) loose: &'a BTreeSet<String>,
    pub(super) deferred: &'a Cell<bool>,
    /// The variables of the command line that nothing has read so far.
    pub(super) unread: &'a RefCell<BTreeSet<String>>,
}

impl<'a> Ground<'a> {
    /// Settles what stands outside of any state.
    pub(super) fn settler<'b>(&self, vars: &'b Vars, locals: &'b Values) -> Settler<'b>
    where
        'a: 'b,
    {
        Settler {
            templates: self.templates,
            problems: self.problems,
            vars: &vars.values,
            locals,
            secrets: None,
            loose: &vars.loose,
            deferred: self.deferred,
            unread: self.unread,
            reads: RefCell::default(),
            secrets_read: RefCell::default(),
        }
    }

    /// Notes a name that no variable can have.
    pub(super) fn check_name(&self, source: &Source, key: &Key) {
        if RESERVED.iter().chain(&NOT_VARIABLES).any(|name| *name == key.name) {
            let message = format!("no variable can be called `{}`", key.name);
            self.problems.note(source.place(key.position), message, None);
        }
    }

    /// The value of every variable, each after those that it is made of.
    pub(super) fn resolve(&self, definitions: &Definitions) -> Vars {
        let names: Vec<&String> = definitions.keys().collect();
        let number: BTreeMap<&str, usize> =
            names.iter().enumerate().map(|(n, name)| (name.as_str(), n)).collect();
        let mut needs: Vec<Vec<usize>> = vec![Vec::new(); names.len()];
        for (at, definition) in definitions.values().enumerate() {
            if let Definition::Written { tree, .. } = definition {
                let mut read = BTreeSet::new();
                reads(tree, &mut read);
                needs[at] = read.iter().filter_map(|name| number.get(name.as_str()).copied()).collect();
            }
        }
        let mut vars = Vars { values: Values::new(), loose: self.loose.clone() };
        for circle in cycles(&needs) {
            self.note_circle(definitions, &names, &circle);
        }
        for at in in_order(&needs) {
            let name = names[at];
            let value = match &definitions[name.as_str()] {
                Definition::Plain(value) => Some(value.clone()),
                Definition::Written { source, tree, .. } => {
                    let none = Values::new();
                    let settler = self.settler(&vars, &none);
                    settler.check_numbers(source, tree);
                    let settled = settler.settled(source, tree, "a variable");
                    settled.map(|param| param.to_json_settled())
                }
            };
            match value {
                Some(value) => drop(vars.values.insert(name.clone(), value)),
                None => drop(vars.loose.insert(name.clone())),
            }
        }
        // Those in circles are told of above; what uses them is not wrong by itself.
        vars.loose.extend(names.into_iter().filter(|name| !vars.values.contains_key(*name)).cloned());
        vars.loose.retain(|name| !vars.values.contains_key(name));
        vars
    }

    fn note_circle(&self, definitions: &Definitions, names: &[&String], circle: &[usize]) {
        let mut path: Vec<&str> = circle.iter().map(|&at| names[at].as_str()).collect();
        path.extend(path.first().copied());
        if let Some(Definition::Written { at, .. }) = definitions.get(path[0]) {
            let message = format!("these variables need each other: {}", path.join(" → "));
            self.problems.note(*at, message, None);
        }
    }
}

/// The names that templates within the value read.
fn reads(tree: &Tree, names: &mut BTreeSet<String>) {
    match &tree.value {
        Value::Text(text) if is_template(text) => {
            let scan = template::scan(text);
            names.extend(scan.names.into_iter().map(|name| match (name.name.as_str(), name.attribute) {
                ("vars", Some(attribute)) => attribute,
                _ => name.name,
            }));
        }
        Value::List(items) => items.iter().for_each(|item| reads(item, names)),
        Value::Map(entries) => entries.iter().for_each(|(_, tree)| reads(tree, names)),
        _ => {}
    }
}

/// Every place after those that it needs; those in circles, and what needs them, are left out.
fn in_order(needs: &[Vec<usize>]) -> Vec<usize> {
    let mut waiting: Vec<usize> = needs.iter().map(Vec::len).collect();
    let mut needed_by: Vec<Vec<usize>> = vec![Vec::new(); needs.len()];
    for (at, needed) in needs.iter().enumerate() {
        needed.iter().for_each(|&needed| needed_by[needed].push(at));
    }
    let mut ready: VecDeque<usize> = (0..needs.len()).filter(|&at| waiting[at] == 0).collect();
    let mut order = Vec::with_capacity(needs.len());
    while let Some(at) = ready.pop_front() {
        order.push(at);
        for &next in &needed_by[at] {
            waiting[next] -= 1;
            if waiting[next] == 0 {
                ready.push_back(next);
            }
        }
    }
    order
}

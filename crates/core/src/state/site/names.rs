//! What requisites, groups, targets and `--only` call states by.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::extensions::{Found, Modules};
use super::settle::Settler;
use super::skeleton::Skeleton;
use super::source::{Source, kind};
use super::unit::Units;
use crate::near_miss::near_miss;
use crate::state::StateIndex;
use crate::state::catalog::Place;
use crate::state::schema::shown;
use crate::target::glob_matches;
use crate::yaml::{Tree, Value};

/// Most names that are compared for a misspelling: the first ones of a file with a hundred thousand.
const MAX_COMPARED: usize = 5_000;

/// One target as it was written, rendered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Named {
    pub(super) by: By,
    pub(super) at: Place,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum By {
    /// An id, a group, a `for_each`, or a pattern.
    Name(String),
    Include(String),
    Module {
        module: String,
        name: String,
    },
}

/// What a name means.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Meant {
    /// Sorted, without repeats.
    pub(super) states: Vec<StateIndex>,
    /// It names these states one by one, rather than those of them that are there.
    pub(super) strict: bool,
}

/// Why a name means nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct NoSuch {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

pub(super) struct Names<'a> {
    skeletons: &'a [Skeleton],
    units: &'a Units,
    modules: &'a Modules<'a>,
    ids: HashMap<&'a str, StateIndex>,
    /// The ids of `for_each` states as they are written, also of those with nothing to make states of.
    each: BTreeMap<String, Vec<StateIndex>>,
    identities: HashMap<(&'a str, &'a str), Vec<StateIndex>>,
    /// By name, prefix included: what they hold, and the unit that says it.
    groups: BTreeMap<String, (usize, Vec<Named>)>,
    /// By include.
    included: Vec<Vec<StateIndex>>,
    /// Groups that are being looked into.
    open: RefCell<BTreeSet<String>>,
}

/// Reads the targets of a requisite, a group or a target expression.
pub(super) fn read(settler: &Settler<'_>, source: &Source, tree: &Tree, what: &str) -> Vec<Named> {
    let mut named = Vec::new();
    let items = match &tree.value {
        Value::List(items) => items.as_slice(),
        _ => std::slice::from_ref(tree),
    };
    for item in items {
        let at = source.place(item.position);
        match &item.value {
            Value::Map(entries) if !entries.is_empty() => {
                for (key, tree) in entries {
                    let at = source.place(key.position);
                    let Some(module) = settler.name(&key.name, at, "a module") else { continue };
                    let Some(name) = settler.text(source, tree, "the name of a state") else { continue };
                    let by =
                        if module == "include" { By::Include(name) } else { By::Module { module, name } };
                    named.push(Named { by, at });
                }
            }
            Value::Map(_) | Value::List(_) | Value::Null => {
                let message = format!("{what} names states, not {}", kind(item));
                settler.problems.note(at, message, Some("write ids, such as [a, b]".into()));
            }
            _ => {
                let Some(name) = settler.text(source, item, "the name of a state") else { continue };
                let by = match name.strip_prefix("include:") {
                    Some(file) => By::Include(file.trim().to_owned()),
                    None => By::Name(name),
                };
                named.push(Named { by, at });
            }
        }
    }
    named
}

impl<'a> Names<'a> {
    pub(super) fn new(
        skeletons: &'a [Skeleton],
        units: &'a Units,
        modules: &'a Modules<'a>,
        each: BTreeMap<String, Vec<StateIndex>>,
    ) -> Self {
        let mut ids = HashMap::with_capacity(skeletons.len());
        let mut identities: HashMap<_, Vec<_>> = HashMap::new();
        let mut included = vec![Vec::new(); units.includes.len()];
        for (index, skeleton) in skeletons.iter().enumerate() {
            ids.insert(skeleton.id.as_str(), index);
            if let Some(identity) = &skeleton.identity {
                identities.entry((skeleton.module.as_str(), identity.as_str())).or_default().push(index);
            }
            let mut include = skeleton.include;
            while let Some(at) = include {
                included[at].push(index);
                include = units.includes[at].outer;
            }
        }
        Self {
            skeletons,
            units,
            modules,
            ids,
            each,
            identities,
            groups: BTreeMap::new(),
            included,
            open: RefCell::default(),
        }
    }

    /// Adds a group of a unit; says who has the name already.
    pub(super) fn add_group(&mut self, unit: usize, name: &str, states: Vec<Named>) -> Result<(), NoSuch> {
        let full = format!("{}{name}", self.units.units[unit].prefix);
        let taken = if self.ids.contains_key(full.as_str()) || self.each.contains_key(&full) {
            Some("a state")
        } else if self.groups.contains_key(&full) {
            Some("another group")
        } else {
            None
        };
        if let Some(taken) = taken {
            return Err(no_such(format!("the group {} is called as {taken}", shown(name)), None));
        }
        self.groups.insert(full, (unit, states));
        Ok(())
    }

    /// All groups, each looked into once.
    pub(super) fn check_groups(&self, mut wrong: impl FnMut(Place, NoSuch)) {
        for (unit, states) in self.groups.values() {
            for named in states {
                if let Err(problem) = self.find(*unit, named) {
                    wrong(named.at, problem);
                }
            }
        }
    }

    /// What a name means within a unit: its own states first, then those around it.
    pub(super) fn find(&self, unit: usize, named: &Named) -> Result<Meant, NoSuch> {
        match &named.by {
            By::Name(name) => self.by_name(unit, name),
            By::Include(file) => self.by_include(unit, file),
            By::Module { module, name } => self.by_identity(module, name),
        }
    }

    /// The state that `states['x']` means.
    pub(super) fn id(&self, unit: usize, id: &str) -> Option<StateIndex> {
        self.outwards(unit).find_map(|prefix| self.ids.get(format!("{prefix}{id}").as_str()).copied())
    }

    pub(super) fn near_id(&self, unit: usize, id: &str) -> Option<String> {
        let prefix = &self.units.units[unit].prefix;
        let own = self
            .skeletons
            .iter()
            .take(MAX_COMPARED)
            .filter_map(|s| s.id.as_str().strip_prefix(prefix.as_str()));
        let all = self.skeletons.iter().take(MAX_COMPARED).map(|skeleton| skeleton.id.as_str());
        near_miss(id, own.chain(all)).map(str::to_owned)
    }

    fn outwards(&self, unit: usize) -> impl Iterator<Item = &str> {
        let units = &self.units.units;
        std::iter::successors(Some(unit), move |&unit| units[unit].outer)
            .map(move |unit| units[unit].prefix.as_str())
    }

    fn by_name(&self, unit: usize, name: &str) -> Result<Meant, NoSuch> {
        for prefix in self.outwards(unit) {
            let full = format!("{prefix}{name}");
            if let Some(&state) = self.ids.get(full.as_str()) {
                return Ok(Meant { states: vec![state], strict: true });
            }
            if let Some(states) = self.each.get(&full) {
                return Ok(Meant { states: states.clone(), strict: false });
            }
            if self.groups.contains_key(&full) {
                return self.group(&full);
            }
        }
        if name.contains(['*', '?', '[']) {
            return self.by_pattern(unit, name);
        }
        let others = self.groups.keys().chain(self.each.keys()).map(String::as_str);
        let near = self.near_id(unit, name).or_else(|| near_miss(name, others).map(str::to_owned));
        let hint = match near {
            Some(near) => Some(format!("did you mean {near}?")),
            None if matches!(self.modules.find(name), Found::Module(_)) => {
                Some(format!("write {{{name}: …}} to name a state by its module"))
            }
            None => None,
        };
        Err(no_such(format!("there is no state {}", shown(name)), hint))
    }

    fn by_pattern(&self, unit: usize, pattern: &str) -> Result<Meant, NoSuch> {
        for prefix in self.outwards(unit) {
            let matches = |(index, skeleton): (StateIndex, &Skeleton)| {
                let rest = skeleton.id.as_str().strip_prefix(prefix)?;
                glob_matches(pattern, rest).then_some(index)
            };
            let states: Vec<_> = self.skeletons.iter().enumerate().filter_map(matches).collect();
            if !states.is_empty() {
                return Ok(Meant { states, strict: false });
            }
        }
        Err(no_such(format!("no state matches {}", shown(pattern)), None))
    }

    fn group(&self, full: &str) -> Result<Meant, NoSuch> {
        let (unit, members) = &self.groups[full];
        if !self.open.borrow_mut().insert(full.to_owned()) {
            return Err(no_such(format!("the group {} holds itself", shown(full)), None));
        }
        let mut states = BTreeSet::new();
        let mut wrong = None;
        for named in members {
            match self.find(*unit, named) {
                Ok(meant) => states.extend(meant.states),
                Err(problem) => wrong = Some(problem),
            }
        }
        self.open.borrow_mut().remove(full);
        match wrong {
            Some(wrong) => Err(wrong),
            None => Ok(Meant { states: states.into_iter().collect(), strict: false }),
        }
    }

    fn by_include(&self, unit: usize, name: &str) -> Result<Meant, NoSuch> {
        let all = &self.units.includes;
        let called: Vec<usize> = (0..all.len()).filter(|&at| all[at].names.contains(name)).collect();
        let mut around = Some(unit);
        let mut found = Vec::new();
        while let (true, Some(unit)) = (found.is_empty(), around) {
            found = called.iter().copied().filter(|&at| all[at].unit == unit).collect();
            around = self.units.units[unit].outer;
        }
        if found.is_empty() {
            found = called;
        }
        match found.as_slice() {
            [] => {
                let known = all.iter().flat_map(|include| include.names.iter().map(String::as_str));
                let hint = near_miss(name, known).map(|near| format!("did you mean {near}?"));
                Err(no_such(format!("no file {} is included", shown(name)), hint))
            }
            [one] if self.included[*one].is_empty() => {
                Err(no_such(format!("the included file {} has no states", shown(name)), None))
            }
            [one] => Ok(Meant { states: self.included[*one].clone(), strict: false }),
            several => {
                let labels: Vec<&str> = several.iter().map(|&at| all[at].label.as_str()).collect();
                let message = format!("{} is included more than once", shown(name));
                Err(no_such(message, Some(format!("say which: {}", labels.join(", ")))))
            }
        }
    }

    fn by_identity(&self, module: &str, name: &str) -> Result<Meant, NoSuch> {
        let schema = match self.modules.find(module) {
            Found::Module(schema) => schema,
            Found::Broken => return Ok(Meant::default()),
            Found::None => {
                let names = self.modules.names();
                let hint = near_miss(module, names.iter().map(String::as_str));
                let hint = hint.map(|near| format!("did you mean {near}?"));
                return Err(no_such(format!("there is no module {}", shown(module)), hint));
            }
        };
        let Some(parameter) = &schema.identity else {
            let message = format!("a state of `{module}` has nothing to be named by");
            return Err(no_such(message, Some("name it by its id".into())));
        };
        match self.identities.get(&(module, name)).map(Vec::as_slice) {
            Some([state]) => Ok(Meant { states: vec![*state], strict: true }),
            Some(several) => {
                let ids: Vec<&str> = several.iter().map(|&at| self.skeletons[at].id.as_str()).collect();
                let message =
                    format!("{} `{module}` states have the {parameter} {}", several.len(), shown(name));
                Err(no_such(message, Some(format!("name one by its id: {}", ids.join(", ")))))
            }
            None => {
                let known = self.identities.keys().filter(|(m, _)| *m == module).take(MAX_COMPARED);
                let hint =
                    near_miss(name, known.map(|(_, name)| *name)).map(|near| format!("did you mean {near}?"));
                Err(no_such(format!("no `{module}` state has the {parameter} {}", shown(name)), hint))
            }
        }
    }
}

fn no_such(message: String, hint: Option<String>) -> NoSuch {
    NoSuch { message, hint }
}

//! Which files there are, in which order, under which prefix, and which variables each sees.
//!
//! A *unit* is a file with all that it includes without parameters: these share their variables and their prefix.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::library::{Library, beside, stem};
use super::source::{Include, Source};
use super::vars::{Definition, Definitions, Ground, Vars};
use crate::state::Values;
use crate::state::catalog::Place;
use crate::yaml::{Key, Tree};

/// Deepest nesting of includes, and most of them.
const MAX_DEPTH: usize = 32;
const MAX_INCLUDES: usize = 10_000;

/// A place in [`Units::includes`].
pub(super) type IncludeIndex = usize;

pub(super) struct Unit {
    /// Empty, or ends with `/`.
    pub(super) prefix: String,
    pub(super) outer: Option<usize>,
    pub(super) vars: Arc<Vars>,
    pub(super) steps: Vec<Step>,
    /// What its files define, and what those around it do: the outer wins.
    definitions: Definitions,
    params: Definitions,
    paths: BTreeMap<String, Option<IncludeIndex>>,
}

pub(super) enum Step {
    /// The states of a file.
    States(Arc<Source>, Option<IncludeIndex>),
    Unit(usize),
}

/// An include that brought something in.
pub(super) struct Included {
    /// The include by which the file with this one came in.
    pub(super) outer: Option<IncludeIndex>,
    /// The unit whose file says it.
    pub(super) unit: usize,
    /// By which requisites may call it: as it is written, its stem, its prefix.
    pub(super) names: BTreeSet<String>,
    /// For people.
    pub(super) label: String,
}

/// Everything that a states file reaches.
#[derive(Default)]
pub(super) struct Units {
    pub(super) units: Vec<Unit>,
    pub(super) includes: Vec<Included>,
    /// The files that have some, the outer before the inner.
    pub(super) secrets: Vec<Arc<Source>>,
    pub(super) extensions: Vec<Arc<Source>>,
    /// Every file once.
    pub(super) sources: Vec<Arc<Source>>,
}

/// What machines and the command line say, the later over the earlier.
pub(super) struct Outside<'a> {
    pub(super) machine: &'a Values,
    pub(super) target: &'a Definitions,
    pub(super) command_line: &'a Values,
}

/// Finds all units from the first file on.
pub(super) fn units(
    root: &Arc<Source>,
    outside: &Outside<'_>,
    library: &Library<'_>,
    ground: Ground<'_>,
) -> Units {
    let mut builder = Builder {
        outside,
        library,
        ground,
        found: Units::default(),
        stack: Vec::new(),
        prefixes: BTreeSet::new(),
    };
    builder.unit(root.clone(), String::new(), Definitions::new(), None, None);
    builder.found
}

struct Builder<'a> {
    outside: &'a Outside<'a>,
    library: &'a Library<'a>,
    ground: Ground<'a>,
    found: Units,
    /// The files that are being included, outermost first.
    stack: Vec<String>,
    prefixes: BTreeSet<String>,
}

/// What a unit is made of while its files are gathered.
#[derive(Default)]
struct Gathered {
    /// With the numbers of the files above the one that says it.
    definitions: BTreeMap<String, (Definition, Vec<usize>)>,
    steps: Vec<GatheredStep>,
    paths: BTreeMap<String, Option<IncludeIndex>>,
}

enum GatheredStep {
    States(Arc<Source>, Option<IncludeIndex>),
    /// The include of this number of the file, which makes a unit of its own.
    Own(Arc<Source>, usize, Option<IncludeIndex>, Vec<String>),
}

impl Builder<'_> {
    fn unit(
        &mut self,
        source: Arc<Source>,
        prefix: String,
        params: Definitions,
        outer: Option<usize>,
        include: Option<IncludeIndex>,
    ) -> usize {
        let number = self.found.units.len();
        self.found.units.push(Unit {
            prefix,
            outer,
            vars: Arc::default(),
            steps: Vec::new(),
            definitions: Definitions::new(),
            params,
            paths: BTreeMap::new(),
        });
        let mut gathered = Gathered::default();
        gathered.paths.insert(source.path.clone(), include);
        self.stack.push(source.path.clone());
        self.gather(number, source, &mut Vec::new(), include, &mut gathered);
        let mut definitions: Definitions =
            gathered.definitions.into_iter().map(|(name, (definition, _))| (name, definition)).collect();
        if let Some(outer) = outer {
            definitions.extend(self.found.units[outer].definitions.clone());
        }
        let vars = Arc::new(self.ground.resolve(&self.seen(number, &definitions)));
        let unit = &mut self.found.units[number];
        (unit.definitions, unit.vars, unit.paths) = (definitions, vars, gathered.paths);
        for step in gathered.steps {
            match step {
                GatheredStep::States(source, include) => {
                    self.found.units[number].steps.push(Step::States(source, include));
                }
                GatheredStep::Own(source, at, include, stack) => {
                    let kept = std::mem::replace(&mut self.stack, stack);
                    if let Some(unit) = self.own(number, &source, &source.includes[at], include) {
                        self.found.units[number].steps.push(Step::Unit(unit));
                    }
                    self.stack = kept;
                }
            }
        }
        self.stack.pop();
        number
    }

    /// What a unit sees, by the order of precedence.
    fn seen(&self, unit: usize, files: &Definitions) -> Definitions {
        let plain = |values: &Values| -> Definitions {
            values.iter().map(|(name, value)| (name.clone(), Definition::Plain(value.clone()))).collect()
        };
        let mut seen = files.clone();
        seen.extend(plain(self.outside.machine));
        seen.extend(self.outside.target.clone());
        let mut outer_first = Vec::new();
        let mut at = Some(unit);
        while let Some(number) = at {
            outer_first.push(number);
            at = self.found.units[number].outer;
        }
        outer_first.iter().rev().for_each(|&number| seen.extend(self.found.units[number].params.clone()));
        seen.extend(plain(self.outside.command_line));
        seen
    }

    fn gather(
        &mut self,
        unit: usize,
        source: Arc<Source>,
        above: &mut Vec<usize>,
        include: Option<IncludeIndex>,
        gathered: &mut Gathered,
    ) {
        self.meet(&source);
        for (key, tree) in &source.vars {
            self.ground.check_name(&source, key);
            self.define(unit, &source, key, tree, above, gathered);
        }
        if !source.includes_first {
            gathered.steps.push(GatheredStep::States(source.clone(), include));
        }
        above.push(source.number);
        for at in 0..source.includes.len() {
            if source.includes[at].is_own {
                gathered.steps.push(GatheredStep::Own(source.clone(), at, include, self.stack.clone()));
            } else {
                self.shared(unit, &source, &source.includes[at], above, include, gathered);
            }
        }
        above.pop();
        if source.includes_first {
            gathered.steps.push(GatheredStep::States(source, include));
        }
    }

    /// What is asked of each file once, wherever it is included.
    fn meet(&mut self, source: &Arc<Source>) {
        if self.found.sources.iter().any(|known| known.number == source.number) {
            return;
        }
        self.found.sources.push(source.clone());
        if !source.secrets.is_empty() {
            self.found.secrets.push(source.clone());
        }
        if !source.extensions.is_empty() {
            self.found.extensions.push(source.clone());
        }
        if self.stack.len() > 1 {
            for (part, at) in &source.top_only {
                let message = format!("`{part}` stands in the first file only");
                self.ground.problems.note(*at, message, None);
            }
        }
    }

    /// A variable of a file: those above it win, and those beside it must not say otherwise.
    fn define(
        &self,
        unit: usize,
        source: &Arc<Source>,
        key: &Key,
        tree: &Tree,
        above: &[usize],
        gathered: &mut Gathered,
    ) {
        let at = source.place(key.position);
        let Some((known, _)) = gathered.definitions.get(&key.name) else {
            let definition = Definition::Written { source: source.clone(), at, tree: tree.clone() };
            gathered.definitions.insert(key.name.clone(), (definition, above.to_vec()));
            return;
        };
        let Definition::Written { source: other, at: other_at, tree: other_tree } = known else { return };
        let decided = above.contains(&other.number)
            || same(other_tree, tree)
            || self.seen(unit, &Definitions::new()).contains_key(&key.name)
            || self.found.units[unit].outer.is_some_and(|outer| self.is_defined(outer, &key.name));
        if !decided {
            let message =
                format!("`{}` has another value in {} (line {})", key.name, other.path, other_at.line);
            self.ground.problems.note(at, message, Some("set it in the file that includes both".into()));
        }
    }

    fn is_defined(&self, unit: usize, name: &str) -> bool {
        self.found.units[unit].definitions.contains_key(name)
    }

    /// An include without parameters.
    fn shared(
        &mut self,
        unit: usize,
        source: &Arc<Source>,
        include: &Include,
        above: &mut Vec<usize>,
        outer: Option<IncludeIndex>,
        gathered: &mut Gathered,
    ) {
        let at = source.place(include.file.position);
        let name = match &include.file.as_text() {
            Some(text) if !crate::state::template::is_template(text) => Some((*text).to_owned()),
            _ => {
                let files: Definitions =
                    gathered.definitions.iter().map(|(name, (d, _))| (name.clone(), d.clone())).collect();
                let vars = self.ground.resolve(&self.seen(unit, &files));
                let none = Values::new();
                self.ground.settler(&vars, &none).text(source, &include.file, "the name of an included file")
            }
        };
        let Some(name) = name else { return };
        let path = beside(&source.path, &name);
        if !self.may_enter(&path, at) {
            return;
        }
        // Once is enough, here and in the units around it.
        let mut outer_unit = self.found.units[unit].outer;
        let mut known = gathered.paths.get(&path).copied();
        while let (None, Some(number)) = (known, outer_unit) {
            known = self.found.units[number].paths.get(&path).copied();
            outer_unit = self.found.units[number].outer;
        }
        if let Some(known) = known {
            if let Some(included) = known {
                self.found.includes[included].names.insert(name);
            }
            return;
        }
        let Some(inner) = self.library.source(&path, Some(at), self.ground.problems) else { return };
        let index = self.included(unit, outer, [name.clone(), stem(&path).to_owned()].into(), name);
        gathered.paths.insert(path.clone(), Some(index));
        self.stack.push(path);
        self.gather(unit, inner, above, Some(index), gathered);
        self.stack.pop();
    }

    /// An include with parameters or a prefix.
    fn own(
        &mut self,
        unit: usize,
        source: &Arc<Source>,
        include: &Include,
        outer: Option<IncludeIndex>,
    ) -> Option<usize> {
        let at = source.place(include.file.position);
        let none = Values::new();
        let vars = self.found.units[unit].vars.clone();
        let settler = self.ground.settler(&vars, &none);
        let name = settler.text(source, &include.file, "the name of an included file")?;
        let path = beside(&source.path, &name);
        let mut params = Definitions::new();
        let mut label = stem(&path).to_owned();
        for (key, tree) in &include.vars {
            self.ground.check_name(source, key);
            settler.check_numbers(source, tree);
            let Some(param) = settler.settled(source, tree, "a parameter of an include") else { continue };
            let value = param.to_json_settled();
            match &value {
                serde_json::Value::String(text) => label.extend(["-", text.as_str()]),
                serde_json::Value::Number(number) => label.extend(["-", number.to_string().as_str()]),
                _ => {}
            }
            params.insert(key.name.clone(), Definition::Plain(value));
        }
        if let Some(tree) = &include.prefix {
            label = settler.text(source, tree, "the prefix of an include")?;
        }
        if !self.may_enter(&path, at) {
            return None;
        }
        let prefix = format!("{}{label}/", self.found.units[unit].prefix);
        if label.is_empty() || !super::skeleton::is_id(&label) {
            let message = format!("{} cannot be a prefix of ids", crate::state::schema::shown(&label));
            self.ground.problems.note(at, message, Some("give the include `as: …`".into()));
            return None;
        }
        if !self.prefixes.insert(prefix.clone()) {
            let message = format!("there is an include with the prefix `{prefix}` already");
            self.ground.problems.note(at, message, Some("give one of them `as: …`".into()));
            return None;
        }
        let inner = self.library.source(&path, Some(at), self.ground.problems)?;
        let names = [name, stem(&path).to_owned(), label.clone()].into();
        let index = self.included(unit, outer, names, label);
        Some(self.unit(inner, prefix, params, Some(unit), Some(index)))
    }

    fn included(
        &mut self,
        unit: usize,
        outer: Option<IncludeIndex>,
        names: BTreeSet<String>,
        label: String,
    ) -> IncludeIndex {
        self.found.includes.push(Included { outer, unit, names, label });
        self.found.includes.len() - 1
    }

    fn may_enter(&self, path: &str, at: Place) -> bool {
        if let Some(from) = self.stack.iter().position(|file| file == path) {
            let mut circle: Vec<&str> = self.stack[from..].iter().map(String::as_str).collect();
            circle.push(path);
            let message = format!("these files include each other: {}", circle.join(" → "));
            self.ground.problems.note(at, message, None);
            return false;
        }
        if self.stack.len() >= MAX_DEPTH {
            self.ground.problems.note(at, format!("includes are nested deeper than {MAX_DEPTH} files"), None);
            return false;
        }
        if self.found.includes.len() >= MAX_INCLUDES {
            self.ground.problems.note(at, format!("there are more than {MAX_INCLUDES} includes"), None);
            return false;
        }
        true
    }
}

/// Whether two values were written alike in all that counts.
fn same(a: &Tree, b: &Tree) -> bool {
    use crate::yaml::Value;
    match (&a.value, &b.value) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Int(a), Value::Int(b)) => a == b,
        (Value::Float(a), Value::Float(b)) => a == b,
        (Value::Text(a), Value::Text(b)) => a == b,
        (Value::List(a), Value::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Map(a), Value::Map(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((k, a), (l, b))| k.name == l.name && same(a, b))
        }
        _ => false,
    }
}

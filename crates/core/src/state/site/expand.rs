//! All states of a site for one set of variables: ids, parameters, and what each names.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value as Json;

use super::contradictions;
use super::extensions::Modules;
use super::library::stem;
use super::names::{self, By, Named, Names, NoSuch};
use super::options::{self, Word};
use super::problem::Problems;
use super::requisites::{self, Reference};
use super::settle::{Read, Settler, holds_template};
use super::skeleton::{self, Skeleton};
use super::source::{Source, kind};
use super::unit::{Outside, Step, Units, units};
use super::vars::{Definition, Definitions, Ground, Vars};
use super::{MAX_STATES, Site, files};
use crate::near_miss::near_miss;
use crate::state::catalog::{Declared, Extension, OrderMode, Place, RequisiteKind};
use crate::state::order::Links;
use crate::state::param::{Entry, Param, ParamValue};
use crate::state::schema::{self, shown};
use crate::state::{StateIndex, Values};
use crate::target::Target;
use crate::yaml::{Tree, Value};

/// All states, whether a machine has them or not.
pub(super) struct Expansion {
    pub(super) name: String,
    pub(super) order: OrderMode,
    pub(super) failhard: bool,
    pub(super) states: Vec<Expanded>,
    pub(super) references: Vec<Reference>,
    pub(super) vars: Vec<Arc<Vars>>,
    pub(super) secrets: Values,
    pub(super) extensions: BTreeMap<String, Extension>,
    /// None if all machines get all states.
    pub(super) targets: Option<Vec<(Target, Vec<StateIndex>)>>,
    /// The states that `--only` keeps.
    pub(super) only: Option<Vec<bool>>,
    /// Something waits for the variables of a machine; what could not be settled is left out.
    pub(super) deferred: bool,
}

pub(super) struct Expanded {
    pub(super) declared: Declared,
    /// By the names in templates, where these are not ids.
    pub(super) aliases: BTreeMap<String, StateIndex>,
    pub(super) secrets: BTreeSet<String>,
    /// A refresh means something to its module.
    pub(super) refreshes: bool,
}

impl Expansion {
    /// What `--only` leaves out, though a change of what it keeps, come or to come, would have called for it. Nothing is owed for
    /// that: the run does not know those states.
    pub(super) fn unheard(&self) -> impl Iterator<Item = (Place, String)> {
        use RequisiteKind::{Listen, Onchanges, OnchangesAny, Prereq, Watch, WatchAny};
        let only = self.only.as_deref().unwrap_or_default();
        let kept = |state: StateIndex| only.get(state).copied().unwrap_or(true);
        let hears = move |kind, carrier: StateIndex| match kind {
            Watch | WatchAny | Listen => self.states[carrier].refreshes,
            kind => matches!(kind, Onchanges | OnchangesAny | Prereq),
        };
        self.references.iter().flat_map(move |reference| {
            let cut = move |(carrier, target): &(StateIndex, StateIndex)| {
                !kept(*carrier) && kept(*target) && hears(reference.kind, *carrier)
            };
            reference.edges().filter(cut).map(move |(carrier, target)| {
                let id = |state: StateIndex| &self.states[state].declared.id;
                let (carrier, target) = (id(carrier), id(target));
                let what = match reference.kind {
                    Prereq => format!("will not run before `{target}` changes"),
                    _ => format!("will not hear that `{target}` changes"),
                };
                (reference.at, format!("`{carrier}` is left out, and {what}"))
            })
        })
    }
}

impl Site<'_> {
    pub(super) fn expand(
        &self,
        machine: &Values,
        target: &Definitions,
        may_wait: bool,
        problems: &Problems,
        warnings: &Problems,
    ) -> Expansion {
        let deferred = Cell::new(false);
        let loose = if may_wait { self.loose() } else { BTreeSet::new() };
        let unread = RefCell::new(self.input.vars.keys().cloned().collect());
        let ground = Ground {
            templates: &self.templates,
            problems,
            loose: &loose,
            deferred: &deferred,
            unread: &unread,
        };
        let outside = Outside { machine, target, command_line: &self.input.vars };
        let found = units(&self.root, &outside, &self.library, ground);
        let modules = Modules::new(self.modules, &self.library, &self.fetches, &found.extensions, problems);
        let secrets = self.secrets(&found, problems);
        let known_secrets = secrets.keys().cloned().collect();
        let builder = Builder {
            site: self,
            ground,
            units: &found,
            modules: &modules,
            secrets: &known_secrets,
            warnings,
        };
        let (mut skeletons, mut each) = skeleton::skeletons(&builder);
        if skeletons.len() > MAX_STATES {
            // The rest of the work would take long, and say nothing more.
            let at = skeletons[MAX_STATES].at;
            problems.note(at, format!("there are more than {MAX_STATES} states"), None);
            skeletons.clear();
            each.clear();
            deferred.set(true);
        }
        let mut names = Names::new(&skeletons, &found, &modules, each);
        builder.groups(&mut names);
        let (states, references) = builder.states(&skeletons, &names);
        let targets = builder.targets(&names);
        let only = builder.only(&names, &states, &references);
        drop(names);
        let file = |number| self.library.name(number);
        contradictions::note(self.modules, &states, &references, targets.as_deref(), &file, warnings);
        if !deferred.get() {
            self.note_unread(&unread.take(), &found, warnings);
        }
        requisites::note_contradictions(&states, &references, problems);
        requisites::note_cycles(&states, &references, problems);
        let root = &self.root;
        Expansion {
            name: root.name.as_ref().map_or_else(|| stem(&root.path).to_owned(), |(name, _)| name.clone()),
            order: self.input.order.or(root.order).unwrap_or_default(),
            failhard: root.failhard,
            states,
            references,
            vars: found.units.iter().map(|unit| unit.vars.clone()).collect(),
            secrets,
            extensions: modules.extensions.clone(),
            targets,
            only,
            deferred: deferred.get(),
        }
    }

    /// Variables of the command line that no file declares, and that nothing reads: most likely they are misspelt.
    fn note_unread(&self, unread: &BTreeSet<String>, units: &Units, warnings: &Problems) {
        if unread.is_empty() {
            return;
        }
        let mut declared = self.loose();
        for source in &units.sources {
            let included = source.includes.iter().flat_map(|include| &include.vars);
            declared.extend(source.vars.iter().chain(included).map(|(key, _)| key.name.clone()));
        }
        let at = Place { file: self.root.number, line: 1, column: 1 };
        for name in unread.iter().filter(|name| !declared.contains(*name)) {
            let near = near_miss(name, declared.iter().map(String::as_str));
            let message = format!("-e {name}: no file declares this variable, and nothing reads it");
            warnings.note(at, message, near.map(|near| format!("did you mean {near}?")));
        }
    }

    /// Variables that only a machine brings.
    fn loose(&self) -> BTreeSet<String> {
        let mut loose = self.input.machine_vars.clone();
        for (_, tree) in self.root.targets.iter().flatten() {
            if let Some(Value::Map(entries)) = tree.get("vars").map(|vars| &vars.value) {
                loose.extend(entries.iter().map(|(key, _)| key.name.clone()));
            }
        }
        loose
    }

    /// The values of all secrets; an outer file's win.
    fn secrets(&self, units: &Units, problems: &Problems) -> Values {
        let mut secrets = Values::new();
        for source in &units.secrets {
            for (key, tree) in &source.secrets {
                if secrets.contains_key(&key.name) {
                    continue;
                }
                // A null where it is wrong, so that what uses it is not wrong as well.
                let value = self.secret(source, tree, problems).unwrap_or(Json::Null);
                secrets.insert(key.name.clone(), value);
            }
        }
        secrets
    }

    fn secret(&self, source: &Source, tree: &Tree, problems: &Problems) -> Option<Json> {
        let at = source.place(tree.position);
        let wrong = |message: String| {
            problems.note(at, message, None);
            None
        };
        let entries = match &tree.value {
            Value::Text(text) => return Some(text.clone().into()),
            Value::Bool(value) => return Some((*value).into()),
            Value::Int(_) | Value::Float(_) => return Some(tree.raw(&source.text).into()),
            Value::Map(entries) => entries,
            _ => return wrong("a secret is a text, {env: NAME} or {file: PATH}".into()),
        };
        match entries.as_slice() {
            [(key, Tree { value: Value::Text(name), .. })] if key.name == "env" => {
                match self.library.env(name) {
                    Some(value) => Some(value.into()),
                    None => wrong(format!("the environment has no {}", shown(name))),
                }
            }
            [(key, Tree { value: Value::Text(name), .. })] if key.name == "file" => {
                let path = super::library::beside(&source.path, name);
                let read = self.library.secret(&path);
                read.map_or_else(
                    |words| wrong(format!("cannot read the secret {path}: {words}")),
                    |text| Some(text.into()),
                )
            }
            _ => wrong("a secret is a text, {env: NAME} or {file: PATH}".into()),
        }
    }
}

/// What states are made with.
pub(super) struct Builder<'a> {
    pub(super) site: &'a Site<'a>,
    ground: Ground<'a>,
    pub(super) units: &'a Units,
    pub(super) modules: &'a Modules<'a>,
    secrets: &'a BTreeSet<String>,
    warnings: &'a Problems,
}

impl<'a> Builder<'a> {
    pub(super) fn problems(&self) -> &'a Problems {
        self.ground.problems
    }

    fn wrong(&self, at: Place, problem: NoSuch) {
        // A name that a machine's variable makes is not there yet.
        if !self.ground.deferred.get() {
            self.problems().note(at, problem.message, problem.hint);
        }
    }

    pub(super) fn settler<'b>(&'b self, unit: usize, locals: &'b Values) -> Settler<'b> {
        let vars = &self.units.units[unit].vars;
        Settler { secrets: Some(self.secrets), ..self.ground.settler(vars, locals) }
    }

    fn groups(&self, names: &mut Names<'_>) {
        let none = Values::new();
        for (number, unit) in self.units.units.iter().enumerate() {
            let settler = self.settler(number, &none);
            for step in &unit.steps {
                let Step::States(source, _) = step else { continue };
                for (key, tree) in &source.groups {
                    let states = names::read(&settler, source, tree, "a group");
                    if let Err(problem) = names.add_group(number, &key.name, states) {
                        self.wrong(source.place(key.position), problem);
                    }
                }
            }
        }
        names.check_groups(|at, problem| self.wrong(at, problem));
    }

    fn states(&self, skeletons: &[Skeleton], names: &Names<'_>) -> (Vec<Expanded>, Vec<Reference>) {
        let mut references = Vec::new();
        let mut used: Vec<Vec<(StateIndex, Place)>> = vec![Vec::new(); skeletons.len()];
        for (index, skeleton) in skeletons.iter().enumerate() {
            let settler = self.settler(skeleton.unit, &skeleton.locals);
            for (key, tree) in &skeleton.written().entries {
                let Some(word) = Word::of(&key.name) else { continue };
                let named = || names::read(&settler, &skeleton.source, tree, &format!("`{}`", key.name));
                match word {
                    Word::Requisite { kind, reversed } => {
                        for named in named() {
                            match requisites::reference(names, skeletons, index, kind, reversed, &named) {
                                Ok(reference) => self.admit(skeletons, reference, &mut references),
                                Err(problem) => self.wrong(named.at, problem),
                            }
                        }
                    }
                    Word::Use { reversed } => {
                        for named in named() {
                            match names.find(skeleton.unit, &named) {
                                Ok(meant) => {
                                    meant.states.into_iter().filter(|&other| other != index).for_each(
                                        |other| {
                                            let (user, other) =
                                                if reversed { (other, index) } else { (index, other) };
                                            used[user].push((other, named.at));
                                        },
                                    )
                                }
                                Err(problem) => self.wrong(named.at, problem),
                            }
                        }
                    }
                    Word::ForEach | Word::Guard | Word::Option => {}
                }
            }
        }
        let mut states = Vec::with_capacity(skeletons.len());
        for (index, skeleton) in skeletons.iter().enumerate() {
            let (mut expanded, reads) = self.state(skeleton, skeletons, &used[index]);
            for read in reads {
                match requisites::read(names, skeletons, index, &read) {
                    Ok(reference) => {
                        let target = reference.meant.states[0];
                        if let Some(output) = &read.output {
                            if let Err(problem) = requisites::check_output(&skeletons[target], output) {
                                self.wrong(read.at, problem);
                            }
                            continue;
                        }
                        if skeletons[target].id.as_str() != read.name {
                            expanded.aliases.insert(read.name, target);
                        }
                        references.push(reference);
                    }
                    Err(problem) => self.wrong(read.at, problem),
                }
            }
            states.push(expanded);
        }
        (states, references)
    }

    /// Warns of what asks for a refresh that means nothing to its module. A `watch` still orders and decides as `require` does;
    /// of `listen` nothing is left.
    fn admit(&self, skeletons: &[Skeleton], mut reference: Reference, references: &mut Vec<Reference>) {
        let plain = match reference.kind {
            RequisiteKind::Watch => Some(RequisiteKind::Require),
            RequisiteKind::WatchAny => Some(RequisiteKind::RequireAny),
            RequisiteKind::Listen => None,
            _ => return references.push(reference),
        };
        let (owner, reversed) = (reference.owner, reference.reversed);
        let carrier = |meant: StateIndex| if reversed { meant } else { owner };
        let is_dull = |meant: &StateIndex| !skeletons[carrier(*meant)].schema.refreshes;
        let Some(dull) = reference.meant.states.iter().copied().find(is_dull) else {
            return references.push(reference);
        };
        let (word, module) = (reference.kind.word(), &skeletons[carrier(dull)].module);
        let (message, hint) = match plain {
            Some(plain) => (
                format!("a refresh means nothing to `{module}`: `{word}` is `{}` here", plain.word()),
                format!("write {} to say so", plain.word()),
            ),
            None => (
                format!("a refresh means nothing to `{module}`: `{word}` has no effect"),
                "leave it out".into(),
            ),
        };
        self.warnings.note(reference.at, message, Some(hint));
        if plain.is_none() {
            reference.meant.states.retain(|meant| !is_dull(meant));
        }
        if !reference.meant.states.is_empty() {
            references.push(reference);
        }
    }

    fn state(
        &self,
        skeleton: &Skeleton,
        skeletons: &[Skeleton],
        used: &[(StateIndex, Place)],
    ) -> (Expanded, BTreeSet<Read>) {
        let settler = self.settler(skeleton.unit, &skeleton.locals);
        let (guards, options) = {
            let entries = &skeleton.written().entries;
            options::read(&settler, &skeleton.source, entries, &skeleton.schema, &self.site.checker)
        };
        let params = self.params(&settler, skeleton, skeletons, used);
        let declared = Declared {
            id: skeleton.id.clone(),
            module: skeleton.module.clone(),
            params,
            requisites: Default::default(),
            guards: guards.into(),
            options: options.into(),
            scope: skeleton.unit,
            locals: skeleton.locals.clone(),
            aliases: BTreeMap::new(),
            at: skeleton.at,
        };
        let (reads, secrets) = (settler.reads.into_inner(), settler.secrets_read.into_inner());
        let refreshes = skeleton.schema.refreshes;
        let expanded = Expanded { declared, aliases: BTreeMap::new(), secrets, refreshes };
        (expanded, reads.into_iter().collect())
    }

    fn params(
        &self,
        settler: &Settler<'_>,
        skeleton: &Skeleton,
        skeletons: &[Skeleton],
        used: &[(StateIndex, Place)],
    ) -> Values {
        let (key, tree) = &skeleton.written().entries[skeleton.entry];
        let at = skeleton.source.place(key.position);
        let mut entries = match &tree.value {
            Value::Map(_) => match settler.param(&skeleton.source, tree).value {
                ParamValue::Map(entries) => entries,
                _ => Vec::new(),
            },
            Value::Null => Vec::new(),
            _ => {
                let message = format!("`{}` takes a map of parameters, not {}", skeleton.module, kind(tree));
                self.problems().note(skeleton.source.place(tree.position), message, None);
                return Values::new();
            }
        };
        let identity = skeleton.schema.identity.as_deref();
        for (other, at) in used {
            let other = &skeletons[*other];
            if other.module != skeleton.module {
                let message = format!(
                    "`use` copies parameters of the same module: `{}` is a `{}`, not a `{}`",
                    other.id, other.module, skeleton.module
                );
                self.problems().note(*at, message, None);
                continue;
            }
            let Value::Map(others) = &other.params().value else { continue };
            for (key, tree) in others {
                let is_own = entries.iter().any(|entry| entry.name == key.name);
                if !is_own && identity != Some(key.name.as_str()) {
                    let param = self.copied(settler, other, tree, *at);
                    entries.push(Entry {
                        name: key.name.clone(),
                        at: other.source.place(key.position),
                        param,
                    });
                }
            }
        }
        if let Some(identity) = identity
            && !entries.iter().any(|entry| entry.name == identity)
        {
            let value = ParamValue::Text(skeleton.own_name.clone());
            entries.push(Entry { name: identity.to_owned(), at, param: Param { value, at, raw: None } });
        }
        let mut params = Param { value: ParamValue::Map(entries), at, raw: None };
        schema::marked(&skeleton.schema.params, &mut params, &mut |mark, param| {
            let outputs = skeleton.schema.outputs.as_deref();
            files::resolve(mark, param, settler, &self.site.library, outputs);
        });
        let found = self.site.checker.check(&skeleton.module, &skeleton.schema.params, &params);
        let fits = found.is_empty();
        for problem in found {
            self.problems().note(problem.at, problem.message, problem.hint);
        }
        let is_known = params.is_known();
        let Json::Object(values) = params.to_json() else { return Values::new() };
        if fits
            && is_known
            && let Err(words) = self.site.modules.check(&skeleton.module, &values)
        {
            let (at, message) = placed(&words, &params, &skeleton.module);
            self.problems().note(at, message, None);
        }
        values
    }

    /// A parameter of another state, as this one sees its variables. What only this one does not have is told where it uses the
    /// other, which is right as it stands.
    fn copied(&self, settler: &Settler<'_>, other: &Skeleton, tree: &Tree, at: Place) -> Param {
        let known = |settler: &Settler<'_>| {
            let problems = Problems::default();
            let deferred = Cell::new(false);
            let aside = Settler {
                problems: &problems,
                deferred: &deferred,
                reads: RefCell::default(),
                secrets_read: RefCell::default(),
                ..*settler
            };
            aside.param(&other.source, tree);
            problems.into_inner()
        };
        let found = known(settler);
        if found.is_empty() || !known(&self.settler(other.unit, &other.locals)).is_empty() {
            let before = settler.reads.borrow().len();
            let param = settler.param(&other.source, tree);
            // What cannot be read from here is told here, too.
            if !std::ptr::eq(settler.vars, &self.units.units[other.unit].vars.values) {
                settler.reads.borrow_mut()[before..].iter_mut().for_each(|read| read.at = at);
            }
            return param;
        }
        for problem in found {
            let message = format!("`use` of `{}`: {}", other.id, problem.message);
            self.problems().note(at, message, problem.hint);
        }
        Param { value: ParamValue::Wrong, at, raw: None }
    }

    fn targets(&self, names: &Names<'_>) -> Option<Vec<(Target, Vec<StateIndex>)>> {
        let root = &self.site.root;
        let written = root.targets.as_ref()?;
        let none = Values::new();
        let settler = self.settler(0, &none);
        let mut targets = Vec::new();
        for (key, tree) in written {
            let at = root.place(key.position);
            let Some(target) = self.site.target(&settler, &key.name, at) else { continue };
            let states = match &tree.value {
                Value::Map(entries) if tree.get("states").is_some() || tree.get("vars").is_some() => {
                    for (key, tree) in entries {
                        let at = root.place(key.position);
                        match (key.name.as_str(), &tree.value) {
                            ("states", _) | ("vars", Value::Map(_) | Value::Null) => {}
                            ("vars", _) => self.problems().note(at, "`vars` of a target is a map", None),
                            (name, _) => {
                                let message = format!("a target has no {}", shown(name));
                                self.problems().note(at, message, Some("it has states and vars".into()));
                            }
                        }
                    }
                    tree.get("states")
                }
                Value::Null => None,
                _ => Some(tree),
            };
            let mut meant = BTreeSet::new();
            let named =
                states.map(|states| names::read(&settler, root, states, "a target")).unwrap_or_default();
            for named in named {
                match names.find(0, &named) {
                    Ok(found) => meant.extend(found.states),
                    Err(problem) => self.wrong(named.at, problem),
                }
            }
            targets.push((target, meant.into_iter().collect()));
        }
        Some(targets)
    }

    /// What `--only` keeps: what it names, and what that names, reads or needs.
    fn only(&self, names: &Names<'_>, states: &[Expanded], references: &[Reference]) -> Option<Vec<bool>> {
        if self.site.input.only.is_empty() {
            return None;
        }
        let at = Place { file: self.site.root.number, line: 1, column: 1 };
        let mut kept = vec![false; states.len()];
        let mut queue = Vec::new();
        for pattern in &self.site.input.only {
            let by = match pattern.strip_prefix("include:") {
                Some(file) => By::Include(file.to_owned()),
                None => By::Name(pattern.clone()),
            };
            match names.find(0, &Named { by, at }) {
                Ok(meant) => queue.extend(meant.states),
                Err(NoSuch { message, hint }) => {
                    self.wrong(at, NoSuch { message: format!("--only: {message}"), hint })
                }
            }
        }
        let mut needs: Vec<Vec<StateIndex>> = vec![Vec::new(); states.len()];
        let links: Vec<Links> = states.iter().map(|state| self.links(&state.declared)).collect();
        for (state, provider) in requisites::inferred(states, references, &links) {
            needs[state].push(provider);
        }
        for reference in references.iter().filter(|reference| reference.kind != RequisiteKind::Listen) {
            reference.edges().for_each(|(state, target)| needs[state].push(target));
        }
        while let Some(state) = queue.pop() {
            if !std::mem::replace(&mut kept[state], true) {
                queue.extend(&needs[state]);
            }
        }
        Some(kept)
    }

    /// Of what waits for the machine nothing is known.
    fn links(&self, state: &Declared) -> Links {
        let known = state.params.iter().filter(|(_, value)| !holds_template(value));
        let known = known.map(|(name, value)| (name.clone(), value.clone())).collect();
        self.site.modules.links(&state.module, &known)
    }
}

/// Words of a module about its parameters, at the one with which they begin, if they do.
fn placed(words: &str, params: &Param, module: &str) -> (Place, String) {
    let ParamValue::Map(entries) = &params.value else { return (params.at, words.to_owned()) };
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let (quoted, bare) = match words.strip_prefix('`') {
        Some(quoted) => (true, quoted),
        None => (false, words),
    };
    let (name, rest) = bare.split_at(bare.find(|c| !is_word(c)).unwrap_or(bare.len()));
    let is_named = if quoted { rest.starts_with('`') } else { rest.starts_with(": ") };
    match entries.iter().find(|entry| is_named && entry.name == name) {
        Some(entry) if quoted => (entry.param.at, words.to_owned()),
        Some(entry) => (entry.param.at, format!("`{name}`{rest}")),
        None => (params.at, format!("`{module}`: {words}")),
    }
}

impl Site<'_> {
    /// A target expression, rendered and read.
    pub(super) fn target(&self, settler: &Settler<'_>, text: &str, at: Place) -> Option<Target> {
        let text = settler.name(text, at, "a target")?;
        match Target::parse(&text) {
            Ok(target) => Some(target),
            Err(error) => {
                settler.problems.note(at, format!("the target cannot be read: {error}"), error.hint);
                None
            }
        }
    }

    /// The variables of the targets that fit, the later over the earlier.
    pub(super) fn target_vars(&self, fits: impl Fn(&Target) -> bool, problems: &Problems) -> Definitions {
        let mut found = Definitions::new();
        let root = &self.root;
        if !root.targets.iter().flatten().any(|(_, tree)| tree.get("vars").is_some()) {
            return found;
        }
        let (none, loose, deferred) = (Values::new(), BTreeSet::new(), Cell::new(false));
        let unread = RefCell::default();
        let ground = Ground {
            templates: &self.templates,
            problems,
            loose: &loose,
            deferred: &deferred,
            unread: &unread,
        };
        // Which machines a target means cannot hang on what it gives them.
        let file = |(key, tree): &(crate::yaml::Key, Tree)| {
            let at = root.place(key.position);
            (key.name.clone(), Definition::Written { source: root.clone(), at, tree: tree.clone() })
        };
        let mut seen: Definitions = root.vars.iter().map(file).collect();
        let plain = |(name, value): (&String, &Json)| (name.clone(), Definition::Plain(value.clone()));
        seen.extend(self.input.vars.iter().map(plain));
        let vars = ground.resolve(&seen);
        let settler = ground.settler(&vars, &none);
        for (key, tree) in root.targets.iter().flatten() {
            let Some(Value::Map(entries)) = tree.get("vars").map(|vars| &vars.value) else { continue };
            let at = root.place(key.position);
            if self.target(&settler, &key.name, at).is_some_and(|target| fits(&target)) {
                for (key, _) in entries {
                    ground.check_name(root, key);
                }
                found.extend(entries.iter().map(file));
            }
        }
        found
    }
}

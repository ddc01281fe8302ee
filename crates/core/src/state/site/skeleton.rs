//! States before their parameters are looked at: ids, modules, and what a `for_each` makes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value as Json;

use super::expand::Builder;
use super::extensions::Found;
use super::options::Word;
use super::settle::Settler;
use super::source::{Source, Written};
use super::unit::{IncludeIndex, Step};
use super::{MAX_STATES, ModuleSchema};
use crate::near_miss::near_miss;
use crate::state::catalog::Place;
use crate::state::param::ParamValue;
use crate::state::schema::shown;
use crate::state::template::is_template;
use crate::state::{StateId, StateIndex, Values};
use crate::yaml::{Tree, Value};

/// Longest id, in characters.
const MAX_ID: usize = 250;

/// Most items of one `for_each`.
const MAX_ITEMS: usize = 10_000;

/// A state before its parameters are looked at.
pub(super) struct Skeleton {
    pub(super) id: StateId,
    pub(super) unit: usize,
    pub(super) include: Option<IncludeIndex>,
    pub(super) module: String,
    /// What the identifying parameter is, if it is known yet.
    pub(super) identity: Option<String>,
    pub(super) source: Arc<Source>,
    /// Its place in the source's states, and its module's among the entries.
    written: usize,
    pub(super) entry: usize,
    pub(super) schema: Arc<ModuleSchema>,
    pub(super) locals: Values,
    /// The id without the prefix, or the item: what a state without its identity is called.
    pub(super) own_name: String,
    pub(super) at: Place,
}

impl Skeleton {
    pub(super) fn written(&self) -> &Written {
        &self.source.states[self.written]
    }

    pub(super) fn params(&self) -> &Tree {
        &self.written().entries[self.entry].1
    }
}

pub(super) fn is_id(text: &str) -> bool {
    let fits = !text.is_empty() && text.chars().count() <= MAX_ID;
    fits && text.trim() == text
        && !text.starts_with("include:")
        && !text.contains(|c: char| c.is_control() || matches!(c, '*' | '?' | '['))
        && !is_template(text)
}

/// Every state with its id, in written order; and what the ids of `for_each` states mean. One more than may be, if there are more.
pub(super) fn skeletons(builder: &Builder<'_>) -> (Vec<Skeleton>, BTreeMap<String, Vec<StateIndex>>) {
    let mut made = Made { builder, skeletons: Vec::new(), ids: HashMap::new(), each: BTreeMap::new() };
    if !builder.units.units.is_empty() {
        made.unit(0);
    }
    (made.skeletons, made.each)
}

/// Skeletons in the making.
struct Made<'a> {
    builder: &'a Builder<'a>,
    skeletons: Vec<Skeleton>,
    ids: HashMap<StateId, Place>,
    each: BTreeMap<String, Vec<StateIndex>>,
}

impl Made<'_> {
    fn unit(&mut self, number: usize) {
        for step in &self.builder.units.units[number].steps {
            match step {
                Step::Unit(inner) => self.unit(*inner),
                Step::States(source, include) => {
                    for written in 0..source.states.len() {
                        self.written(number, source, written, *include);
                    }
                }
            }
        }
    }

    fn written(&mut self, unit: usize, source: &Arc<Source>, written: usize, include: Option<IncludeIndex>) {
        let state = &source.states[written];
        let (none, at) = (Values::new(), source.place(state.id.position));
        let settler = self.builder.settler(unit, &none);
        let each = state.entries.iter().find(|(key, _)| key.name == "for_each");
        let Some((_, tree)) = each else {
            let Some(id) = settler.name(&state.id.name, at, "an id") else { return };
            let own_name = id.clone();
            self.add(unit, source, written, include, id, own_name, Values::new());
            return;
        };
        let Some(items) = items(&settler, source, tree) else { return };
        let prefix = &self.builder.units.units[unit].prefix;
        let has_own = is_template(&state.id.name);
        if !has_own {
            self.each.entry(format!("{prefix}{}", state.id.name)).or_default();
        }
        for (label, item) in items {
            let locals = Values::from_iter([("item".to_owned(), item)]);
            let settler = self.builder.settler(unit, &locals);
            let (id, own_name) = if has_own {
                let Some(id) = settler.name(&state.id.name, at, "an id") else { continue };
                (id.clone(), id)
            } else {
                (format!("{}-{label}", state.id.name), label)
            };
            let added = self.add(unit, source, written, include, id, own_name, locals);
            if let (Some(added), false) = (added, has_own)
                && let Some(all) = self.each.get_mut(&format!("{prefix}{}", state.id.name))
            {
                all.push(added);
            }
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "all that a skeleton is made of, in the one place that makes it"
    )]
    fn add(
        &mut self,
        unit: usize,
        source: &Arc<Source>,
        written: usize,
        include: Option<IncludeIndex>,
        id: String,
        own_name: String,
        locals: Values,
    ) -> Option<StateIndex> {
        let (builder, state) = (self.builder, &source.states[written]);
        let at = source.place(state.id.position);
        if !is_id(&id) {
            let message = format!("{} cannot be an id", shown(&id));
            let hint = format!(
                "an id has 1 to {MAX_ID} characters, no space at its ends, no control character, and none of `*`, `?` and `[`, which make a pattern; nor does it begin with `include:`"
            );
            builder.problems().note(at, message, Some(hint));
            return None;
        }
        let id = StateId::new(format!("{}{id}", builder.units.units[unit].prefix));
        if let Some(first) = self.ids.get(&id) {
            let hint = format!("first in {}, line {}", builder.site.library.name(first.file), first.line);
            builder.problems().note(at, format!("the id {} is used twice", shown(id.as_str())), Some(hint));
            return None;
        }
        self.ids.insert(id.clone(), at);
        if self.skeletons.len() > MAX_STATES {
            return None;
        }
        let (module, entry, schema) = {
            let settler = builder.settler(unit, &locals);
            self.module(&settler, source, state)?
        };
        let identity = match (&schema.identity, state.entries[entry].1.value.as_map()) {
            (Some(name), Some(params)) => match params.iter().find(|(key, _)| key.name == *name) {
                Some((_, tree)) => {
                    let settler = builder.settler(unit, &locals);
                    let param = settler.param(source, tree);
                    param.as_text().or(param.raw.as_deref()).map(str::to_owned)
                }
                None => Some(own_name.clone()),
            },
            (Some(_), None) => Some(own_name.clone()),
            (None, _) => None,
        };
        self.skeletons.push(Skeleton {
            id,
            unit,
            include,
            module,
            identity,
            source: source.clone(),
            written,
            entry,
            schema,
            locals,
            own_name,
            at,
        });
        Some(self.skeletons.len() - 1)
    }

    /// The one entry that is no option: its name, its place, and what is known of it.
    fn module(
        &self,
        settler: &Settler<'_>,
        source: &Source,
        state: &Written,
    ) -> Option<(String, usize, Arc<ModuleSchema>)> {
        let problems = settler.problems;
        let (mut chosen, mut good) = (None, true);
        for (entry, (key, _)) in state.entries.iter().enumerate() {
            if Word::of(&key.name).is_some() {
                continue;
            }
            let at = source.place(key.position);
            let Some(name) = settler.name(&key.name, at, "a module") else {
                good = false;
                continue;
            };
            match self.builder.modules.find(&name) {
                Found::Module(schema) => match &chosen {
                    None => chosen = Some((name, entry, schema)),
                    Some((first, _, _)) => {
                        let message =
                            format!("a state has one module, and this one has `{first}` and `{name}`");
                        problems.note(at, message, Some("make two states of it".into()));
                        good = false;
                    }
                },
                Found::Broken => good = false,
                Found::None => {
                    good = false;
                    let (modules, words) = (self.builder.modules.names(), Word::all());
                    let known = modules.iter().chain(&words).map(String::as_str);
                    let hint = near_miss(&name, known).map(|near| format!("did you mean {near}?"));
                    let message = format!("{} is no module, requisite or option", shown(&name));
                    problems.note(at, message, hint);
                }
            }
        }
        if chosen.is_none() && good {
            let mut modules = self.builder.modules.names();
            modules.truncate(8);
            let hint = format!("such as {}", modules.join(", "));
            let message = format!("the state {} has no module", shown(&state.id.name));
            problems.note(source.place(state.id.position), message, Some(hint));
        }
        chosen.filter(|_| good)
    }
}

/// What a `for_each` goes over: for each item what is put to the id, and what `item` is.
fn items(settler: &Settler<'_>, source: &Source, tree: &Tree) -> Option<Vec<(String, Json)>> {
    let at = source.place(tree.position);
    let pair = |key: String, value: Json| (key.clone(), serde_json::json!({"key": key, "value": value}));
    let listed =
        |items: Vec<Json>| items.into_iter().enumerate().map(|(at, item)| (label(at, &item), item)).collect();
    let value = match &tree.value {
        Value::Text(text) if !is_template(text) => settler.value(source, tree, text, "`for_each`")?,
        _ => {
            settler.check_numbers(source, tree);
            let param = settler.settled(source, tree, "`for_each`")?;
            if let (ParamValue::Map(entries), Value::Map(_)) = (&param.value, &tree.value) {
                let pairs = entries.iter().map(|e| pair(e.name.clone(), e.param.to_json_settled()));
                return bounded(settler, at, pairs.collect());
            }
            param.to_json_settled()
        }
    };
    match value {
        Json::Array(items) => bounded(settler, at, listed(items)),
        Json::Object(map) => {
            bounded(settler, at, map.into_iter().map(|(key, value)| pair(key, value)).collect())
        }
        _ => {
            settler.problems.note(at, "`for_each` goes over a list or a map", None);
            None
        }
    }
}

fn bounded(settler: &Settler<'_>, at: Place, items: Vec<(String, Json)>) -> Option<Vec<(String, Json)>> {
    if items.len() > MAX_ITEMS {
        settler.problems.note(at, format!("`for_each` has more than {MAX_ITEMS} items"), None);
        return None;
    }
    Some(items)
}

/// What tells an item from others: its text, or its name, or its number from 1.
fn label(at: usize, item: &Json) -> String {
    let plain = |value: &Json| match value {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        Json::Bool(value) => Some(value.to_string()),
        _ => None,
    };
    let named = ["name", "id", "key"].iter().find_map(|key| item.get(key).and_then(plain));
    plain(item).or(named).unwrap_or_else(|| (at + 1).to_string())
}

//! A catalog made ready for this machine: its modules found, parameters read, states in order, secrets traced.
//!
//! What depends on nothing but variables and facts is read once and serves every phase and cycle. What reads the outputs of
//! other states is read again at each turn.

use std::borrow::Cow;
use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use mainstay_core::state::catalog::{Catalog, CatalogDigest, Declared};
use mainstay_core::state::order::{Links, Order, OrderError};
use mainstay_core::state::redaction::DigestKey;
use mainstay_core::state::template::{
    Outputs, Rendering, Scope, StateOutputs, TemplateError, Templates, Verdict, is_template,
};
use mainstay_core::state::{StateId, StateIndex, Values};
use mainstay_module::Failure;
use mainstay_module::forecast::Resource;
use mainstay_module::host::Hidden;
use mainstay_module::registry::{AnyModule, Params, Registry};
use serde_json::Value;

use super::outputs::{Seen, Table};
use super::secrecy::{self, Secrecy};

pub(super) struct Prepared {
    /// Without parameters that were read for good, unless they come from secrets.
    pub(super) catalog: Catalog,
    pub(super) digest: CatalogDigest,
    pub(super) order: Order,
    pub(super) states: Vec<Ready>,
    pub(super) key: DigestKey,
    /// Where secret states put what they were given.
    pub(super) hidden: Arc<Hidden>,
    pub(super) facts: Arc<Values>,
    templates: Templates,
}

pub(super) struct Ready {
    pub(super) module: Arc<dyn AnyModule>,
    pub(super) secrecy: Secrecy,
    params: Kept,
}

enum Kept {
    Read(Params),
    Wrong(String),
    /// They read outputs of other states.
    AtItsTurn,
}

/// The parameters of a state at its turn.
pub(super) enum Given<'a> {
    Whole(Held<'a>),
    /// The fields that are unknown, and until which state, were taken out; what is left can be read.
    Partly(Params, Vec<Unknown>),
    /// Without them nothing can be said.
    Not(Vec<Unknown>),
    Wrong(String),
}

pub(super) struct Unknown {
    pub(super) field: String,
    pub(super) until: StateId,
}

pub(super) enum Held<'a> {
    Kept(&'a Params),
    New(Params),
}

impl Deref for Held<'_> {
    type Target = Params;

    fn deref(&self) -> &Params {
        match self {
            Self::Kept(params) => params,
            Self::New(params) => params,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum PrepareError {
    #[error("{state}: this machine has no module {module:?}")]
    NoModule { state: StateId, module: String },
    #[error(transparent)]
    Order(#[from] OrderError),
}

impl Prepared {
    /// `key` is asked for only if there is something to hide.
    pub(super) fn new(
        mut catalog: Catalog,
        registry: &Registry,
        facts: Arc<Values>,
        key: impl FnOnce() -> [u8; 32],
    ) -> Result<Self, PrepareError> {
        let digest = catalog.digest();
        let templates = Templates::new();
        let mut states = Vec::with_capacity(catalog.states.len());
        let mut links = Vec::with_capacity(catalog.states.len());
        let nothing = Table::unknown(&catalog);
        for state in 0..catalog.states.len() {
            let declared = &catalog.states[state];
            let module = registry.get(&declared.module).ok_or_else(|| PrepareError::NoModule {
                state: declared.id.clone(),
                module: declared.module.clone(),
            })?;
            let seen = nothing.seen_by(&catalog, state);
            let given = give(&catalog, &templates, &facts, module.as_ref(), state, &seen);
            let link = |params: &Params| Links {
                needs: module.needs(params).into_iter().map(Resource::into_string).collect(),
                provides: module.provides(params).into_iter().map(Resource::into_string).collect(),
                merge: module.merge_key(params),
                refreshes: module.refreshes(),
            };
            let unknown = || Links { refreshes: module.refreshes(), ..Links::default() };
            let (params, link) = match given {
                Given::Whole(Held::New(params)) => {
                    let link = link(&params);
                    (Kept::Read(params), link)
                }
                Given::Whole(Held::Kept(_)) => unreachable!("nothing is kept yet"),
                // States that merge are applied as one with parameters of one turn.
                Given::Partly(params, _) => (Kept::AtItsTurn, Links { merge: None, ..link(&params) }),
                Given::Not(_) => (Kept::AtItsTurn, unknown()),
                Given::Wrong(words) => (Kept::Wrong(words), unknown()),
            };
            let module = Arc::clone(module);
            // They are not read again. Ten thousand states have some ten megabytes of them.
            if matches!(params, Kept::Read(_)) && secrecy::is_open(&catalog, state) {
                catalog.states[state].params = Values::new();
            }
            links.push(link);
            states.push(Ready { module, secrecy: Secrecy::default(), params });
        }
        let mut order = Order::build(&catalog, &links)?;
        for (state, secrecy) in secrecy::trace(&catalog, &order).into_iter().enumerate() {
            if matches!(states[state].params, Kept::Read(_)) && !secrecy.is_secret() {
                catalog.states[state].params = Values::new();
            }
            states[state].secrecy = secrecy;
        }
        order.hide_resources(|state| states[state].secrecy.is_secret());
        let anything = !catalog.secrets.is_empty() || states.iter().any(|state| state.secrecy.is_secret());
        // Without secrets no digest is made.
        let key = if anything { key() } else { [0; 32] };
        let (key, hidden) = (DigestKey::new(key), Arc::default());
        let prepared = Self { catalog, digest, order, states, key, hidden, facts, templates };
        for state in 0..prepared.states.len() {
            prepared.hide(state, &nothing.seen_by(&prepared.catalog, state));
        }
        Ok(prepared)
    }

    /// Whether looking may start a program, for a guard or by a module.
    pub(super) fn may_start_programs(&self) -> bool {
        let mut states = self.catalog.states.iter().zip(&self.states);
        states.any(|(declared, ready)| declared.guards.start_programs() || !ready.module.looks_ahead())
    }

    pub(super) fn declared(&self, state: StateIndex) -> &Declared {
        &self.catalog.states[state]
    }

    pub(super) fn id(&self, state: StateIndex) -> &StateId {
        &self.catalog.states[state].id
    }

    pub(super) fn ids(&self, states: &[StateIndex]) -> Vec<StateId> {
        states.iter().map(|state| self.id(*state).clone()).collect()
    }

    /// The parameters, if nothing that happens can change them.
    pub(super) fn settled(&self, state: StateIndex) -> Option<&Params> {
        match &self.states[state].params {
            Kept::Read(params) => Some(params),
            Kept::Wrong(_) | Kept::AtItsTurn => None,
        }
    }

    /// The parameters as far as `seen` makes them known.
    pub(super) fn given(&self, state: StateIndex, seen: &Seen<'_>) -> Given<'_> {
        let ready = &self.states[state];
        self.hide(state, seen);
        match &ready.params {
            Kept::Read(params) => Given::Whole(Held::Kept(params)),
            Kept::Wrong(words) => Given::Wrong(words.clone()),
            Kept::AtItsTurn => {
                give(&self.catalog, &self.templates, &self.facts, ready.module.as_ref(), state, seen)
            }
        }
    }

    /// What a secret state has at its path, and in what other files its module writes, is hidden from others too. Before its
    /// turn, since an earlier run may have put it there; and at its turn, since only then outputs may say where that is, and
    /// links where it leads.
    fn hide(&self, state: StateIndex, seen: &Seen<'_>) {
        let Ready { module, secrecy, params } = &self.states[state];
        if !secrecy.is_secret() {
            return;
        }
        let write =
            |params: &Params| module.writes(params).iter().for_each(|file| self.hidden.add(file, false));
        match params {
            Kept::Read(params) => write(params),
            Kept::Wrong(_) => {}
            Kept::AtItsTurn => {
                match give(&self.catalog, &self.templates, &self.facts, module.as_ref(), state, seen) {
                    Given::Whole(params) => write(&params),
                    Given::Partly(params, _) => write(&params),
                    Given::Not(_) | Given::Wrong(_) => {}
                }
            }
        }
        let path = self.declared(state).params.get("path").and_then(Value::as_str);
        let Some(path) = path else { return };
        if let Ok(Rendering::Known(Value::String(path))) = self.text(state, path, seen) {
            // Of one that does not even show its path, what is in a directory is secret as well.
            self.hidden.add(Path::new(&path), !secrecy.shows("path"));
        }
    }

    /// A text of a guard or a check, which is a template too.
    pub(super) fn text(
        &self,
        state: StateIndex,
        text: &str,
        seen: &dyn StateOutputs,
    ) -> Result<Rendering, TemplateError> {
        if !is_template(text) {
            return Ok(Rendering::Known(text.into()));
        }
        let locals = &self.catalog.states[state].locals;
        let scope = scope(&self.catalog, &self.facts, state, locals, seen);
        self.templates.render(&Value::String(text.to_owned()), &scope)
    }

    /// The user that a state is done as. Variables and facts may say who; outputs of other states may not.
    pub(super) fn become_user(&self, state: StateIndex) -> Result<Option<String>, Failure> {
        let Some(name) = &self.declared(state).options.become_user else { return Ok(None) };
        let failed = |words: String| Failure::new("render become", words);
        match self.text(state, name, &NoOutputs) {
            Ok(Rendering::Known(Value::String(name))) => Ok(Some(name)),
            Ok(Rendering::Known(_)) => Err(failed("it is not a name".into())),
            Ok(Rendering::Unknown { until }) => Err(failed(format!("it cannot read the outputs of {until}"))),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// An expression; `locals` are names of its own, as the outputs of an attempt.
    pub(super) fn eval(
        &self,
        state: StateIndex,
        expression: &str,
        locals: &Values,
        seen: &dyn StateOutputs,
    ) -> Result<Verdict, TemplateError> {
        let own = &self.catalog.states[state].locals;
        let mut all = Cow::Borrowed(locals);
        if !own.is_empty() {
            let own = own.iter().filter(|(name, _)| !locals.contains_key(*name));
            all.to_mut().extend(own.map(|(name, value)| (name.clone(), value.clone())));
        }
        self.templates.eval(expression, &scope(&self.catalog, &self.facts, state, &all, seen))
    }
}

struct NoOutputs;

impl StateOutputs for NoOutputs {
    fn get(&self, id: &str) -> Outputs<'_> {
        Outputs::Unknown { until: StateId::new(id) }
    }
}

fn scope<'a>(
    catalog: &'a Catalog,
    facts: &'a Values,
    state: StateIndex,
    locals: &'a Values,
    seen: &'a dyn StateOutputs,
) -> Scope<'a> {
    static NONE: LazyLock<Values> = LazyLock::new(Values::new);
    Scope {
        vars: catalog.scopes.get(catalog.states[state].scope).unwrap_or_else(|| &NONE),
        locals,
        facts: Some(facts),
        secrets: &catalog.secrets,
        states: Some(seen),
        blobs: &catalog.blobs,
    }
}

fn give<'a>(
    catalog: &Catalog,
    templates: &Templates,
    facts: &Values,
    module: &dyn AnyModule,
    state: StateIndex,
    seen: &Seen<'_>,
) -> Given<'a> {
    let declared = &catalog.states[state];
    if !declared.params.values().any(has_template) {
        return match module.read(&declared.params) {
            Ok(params) => Given::Whole(Held::New(params)),
            Err(words) => Given::Wrong(words),
        };
    }
    let scope = scope(catalog, facts, state, &declared.locals, seen);
    let mut rendered = Values::new();
    let mut unknown = Vec::new();
    for (field, value) in &declared.params {
        match templates.render(value, &scope) {
            Ok(Rendering::Known(value)) => {
                rendered.insert(field.clone(), value);
            }
            Ok(Rendering::Unknown { until }) => unknown.push(Unknown { field: field.clone(), until }),
            Err(error) => return Given::Wrong(format!("{field}: {error}")),
        }
    }
    match (module.read(&rendered), unknown.is_empty()) {
        (Ok(params), true) => Given::Whole(Held::New(params)),
        (Ok(params), false) => Given::Partly(params, unknown),
        (Err(words), true) => Given::Wrong(words),
        (Err(_), false) => Given::Not(unknown),
    }
}

fn has_template(value: &Value) -> bool {
    match value {
        Value::String(text) => is_template(text),
        Value::Array(items) => items.iter().any(has_template),
        Value::Object(map) => map.contains_key("$template") || map.values().any(has_template),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

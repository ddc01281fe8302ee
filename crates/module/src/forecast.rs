//! What earlier states of the same plan will have made of the machine.
//!
//! In the analyze phase nothing is changed, so a state that stands on an earlier one's change has to be told of it: the
//! user that will exist, the directory that will be there, the unit that a package brings. In the modify phase the
//! forecast is empty: every earlier change was made, and is observed.

use std::collections::BTreeMap;
use std::fmt;

use mainstay_core::state::StateId;
use serde_json::Value;

use crate::field::plain;

/// Something on a machine that states provide and need: `user:app`, `group:www`, `path:/etc/app`, `unit:nginx`,
/// `package:nginx`, `package-index`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Resource(String);

impl Resource {
    pub fn new(kind: &str, name: impl fmt::Display) -> Self {
        Self(format!("{kind}:{name}"))
    }

    pub fn user(name: &str) -> Self {
        Self::new("user", name)
    }

    pub fn group(name: &str) -> Self {
        Self::new("group", name)
    }

    /// The path as written, without a slash at its end.
    pub fn path(path: &std::path::Path) -> Self {
        let mut name = String::from("path:");
        name.push_str(&plain(path).to_string_lossy());
        Self(name)
    }

    pub fn unit(name: &str) -> Self {
        Self::new("unit", name)
    }

    pub fn package(name: &str) -> Self {
        Self::new("package", name)
    }

    /// The package manager's own list of what there is.
    pub fn package_index() -> Self {
        Self("package-index".into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn into_string(self) -> String {
        self.0
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What is foretold of one resource.
#[derive(Clone, PartialEq, Debug)]
pub struct Prediction {
    pub by: StateId,
    /// As JSON text: most of what is foretold is never asked for, and as a [`Value`] takes a multiple of the memory.
    value: Option<Box<str>>,
}

impl Prediction {
    /// What it will be, in the providing module's own terms; nothing if only that it changes is known.
    ///
    /// For a path: `{"kind": "file"|"directory"|"link"|"absent"}`, with what is known of the rest: `text` (a file's),
    /// `target` (a link's), `mode`, `owner`, `group`, `secret: true` (nobody may see the text), `inside: "unknown"` (there
    /// will be more in the directory than other predictions say).
    pub fn value(&self) -> Option<Value> {
        self.value.as_ref().and_then(|text| serde_json::from_str(text).ok())
    }

    /// It will be gone: a user, a group, a package.
    fn is_absent(&self) -> bool {
        self.value().is_some_and(|value| value.get("absent") == Some(&Value::Bool(true)))
    }
}

#[derive(Clone, Debug, Default)]
pub struct Forecast {
    resources: BTreeMap<Resource, Prediction>,
    opaque: Option<StateId>,
}

impl Forecast {
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.opaque.is_none()
    }

    pub fn get(&self, resource: &Resource) -> Option<&Prediction> {
        self.resources.get(resource)
    }

    /// The same, unless it is foretold to be gone.
    pub fn brings(&self, resource: &Resource) -> Option<&Prediction> {
        self.get(resource).filter(|prediction| !prediction.is_absent())
    }

    /// Whether an earlier state takes it away.
    pub fn takes(&self, resource: &Resource) -> bool {
        self.get(resource).is_some_and(Prediction::is_absent)
    }

    /// The prediction for the path itself, or that one of its parents will be put there or taken away.
    pub fn path(&self, path: &std::path::Path) -> Option<&Prediction> {
        path.ancestors().find_map(|path| self.get(&Resource::path(path)))
    }

    /// Everything foretold of one kind of resource, as `package`.
    pub fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Prediction> {
        let first = Resource::new(kind, "");
        let start = first.0.clone();
        let is_of_it = move |(resource, _): &(&Resource, &Prediction)| resource.0.starts_with(&start);
        self.resources.range(first..).take_while(is_of_it).map(|(_, prediction)| prediction)
    }

    /// An earlier state that will run something whose effects nobody knows: what is missing now may be there then.
    pub fn opaque(&self) -> Option<&StateId> {
        self.opaque.as_ref()
    }

    /// An earlier state that may bring what is missing now: that one, or one that installs a package.
    pub fn bringer(&self) -> Option<&StateId> {
        let comes = |package: &&Prediction| !package.is_absent();
        self.opaque().or_else(|| self.of_kind("package").find(comes).map(|package| &package.by))
    }

    pub fn predict(&mut self, resource: Resource, by: StateId, value: Option<Value>) {
        let value = value.map(|value| value.to_string().into_boxed_str());
        self.resources.insert(resource, Prediction { by, value });
    }

    /// The first such state stays the one that is named.
    pub fn note_opaque(&mut self, by: StateId) {
        self.opaque.get_or_insert(by);
    }
}

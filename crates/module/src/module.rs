//! What a module is: the contract between the engine and the kinds of state.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mainstay_core::state::catalog::BlobId;
use mainstay_core::state::plan::Change;
use mainstay_core::state::{StateId, StepWord, Values};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::failure::Failure;
use crate::forecast::{Forecast, Resource};
use crate::host::{Host, Unsynced, View};

/// A kind of state.
///
/// Analyze looks and never changes: its [`View`] has no way to, and where the kernel can, the kernel denies it.
/// Apply makes just the changes that analyze listed. After it the engine analyses again: a change that is still
/// wanted then is a failure.
pub trait Module: Send + Sync + 'static {
    /// Unknown fields must be refused (`#[serde(deny_unknown_fields)]`); the fields' doc comments are the
    /// documentation that `mainstay modules NAME` prints. An unset field is unmanaged.
    type Params: DeserializeOwned + JsonSchema + Send + Sync;

    fn about(&self) -> About;

    /// What a type cannot say: fields that exclude each other, ranges. It is asked when a catalog is compiled, if nothing
    /// in the parameters is a template, and again on the machine.
    fn check(&self, _params: &Self::Params) -> Result<(), String> {
        Ok(())
    }

    /// What has to be there first; a `require` edge is inferred to the state that provides it.
    fn needs(&self, _params: &Self::Params) -> Vec<Resource> {
        Vec::new()
    }

    fn provides(&self, _params: &Self::Params) -> Vec<Resource> {
        Vec::new()
    }

    /// Files that it puts its parameters into, beside the one at its `path`: where a secret goes, others do not show it.
    fn writes(&self, _params: &Self::Params) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Whether analyze runs something whose answer depends on the machine as a whole, as a `probe` of `cmd` does: it
    /// waits until nothing before it is pending, and is conditional until then.
    fn probes(&self, _params: &Self::Params) -> bool {
        false
    }

    /// Whether a change brings or takes more than it lists, as the files of a package: what a later state finds may be that.
    fn brings(&self) -> bool {
        false
    }

    /// Whether analyze reads files alone, starts no program and asks nobody: the engine may have it look before the state's
    /// turn, on another thread, and throw away what it found.
    fn looks_ahead(&self) -> bool {
        false
    }

    fn analyze(&self, params: &Self::Params, cx: &Analyze<'_>) -> Result<Analysis, Failure>;

    /// `analysis` is of a moment ago, with nothing forecast.
    fn apply(&self, params: &Self::Params, cx: &Apply<'_>, analysis: &Analysis) -> Result<Applied, Failure>;

    /// Writes ahead of the state's turn, under a name of its own, the file that apply would put in place; only if putting it
    /// there is all that apply would do, and nothing else is touched now. Nothing: it is applied at its turn as usual.
    fn stage<'h>(
        &self,
        _params: &Self::Params,
        _cx: &Apply<'h>,
        _analysis: &Analysis,
    ) -> Result<Option<Unsynced<'h>>, Failure> {
        Ok(None)
    }

    /// Whether this module has a refresh: without one `watch` means `require`.
    fn refreshes(&self) -> bool {
        false
    }

    /// `applied` is what apply did just before, if anything: a service just started is not restarted.
    fn refresh(
        &self,
        _params: &Self::Params,
        _cx: &Apply<'_>,
        _applied: Option<&Analysis>,
    ) -> Result<Refreshed, Failure> {
        Ok(Refreshed::NotNeeded)
    }

    /// States of this module with the same key may be applied as one in `genius` order.
    fn merge_key(&self, _params: &Self::Params) -> Option<String> {
        None
    }

    /// Applies several at once; only states with one merge key come together. One failure is the failure of the whole: the
    /// engine then applies them one by one, so that each gets its own outcome.
    fn apply_merged(
        &self,
        _params: &[&Self::Params],
        _cx: &Apply<'_>,
        _analyses: &[&Analysis],
    ) -> Result<Vec<Applied>, Failure> {
        Err(Failure::new("apply together", "this module cannot"))
    }
}

/// A module's documentation beyond its parameters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct About {
    /// As a states file names it.
    pub name: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// The parameter that says which thing is meant (`path`, `name`); a state that leaves it out is named after
    /// its id. Nothing for a module whose states are not one thing.
    pub identity: Option<&'static str>,
    /// What the analyze phase can and cannot tell.
    pub dry_run: &'static str,
    /// Name and meaning of what later states can read, `changed` and `outcome` apart, which every state has.
    pub outputs: &'static [(&'static str, &'static str)],
    /// A states file's `states:` section, as YAML.
    pub example: &'static str,
}

/// What analyze may look at.
pub struct Analyze<'a> {
    pub state: &'a StateId,
    pub view: &'a View,
    pub forecast: &'a Forecast,
    pub blobs: Blobs<'a>,
}

/// The accounts as they will be without those that earlier states take away.
impl Analyze<'_> {
    /// A user's number.
    pub fn user(&self, name: &str) -> Result<Option<u32>, Failure> {
        if self.forecast.takes(&Resource::user(name)) { Ok(None) } else { self.view.user(name) }
    }

    /// A group's number.
    pub fn group(&self, name: &str) -> Result<Option<u32>, Failure> {
        if self.forecast.takes(&Resource::group(name)) { Ok(None) } else { self.view.group(name) }
    }

    /// A user's name, or the number where there is none.
    pub fn user_name(&self, uid: u32) -> String {
        let name = self.view.user_name(uid);
        if self.forecast.takes(&Resource::user(&name)) { uid.to_string() } else { name }
    }

    /// A group's name, or the number where there is none.
    pub fn group_name(&self, gid: u32) -> String {
        let name = self.view.group_name(gid);
        if self.forecast.takes(&Resource::group(&name)) { gid.to_string() } else { name }
    }
}

/// What apply may use.
pub struct Apply<'a> {
    pub state: &'a StateId,
    pub host: &'a Host,
    pub blobs: Blobs<'a>,
}

impl<'a> Apply<'a> {
    /// Looks at the machine as it is now, with nothing foretold.
    pub fn look<'b>(&'b self, nothing: &'b Forecast) -> Analyze<'b> {
        Analyze { state: self.state, view: self.host, forecast: nothing, blobs: self.blobs }
    }
}

/// The files that the catalog carries.
#[derive(Clone, Copy)]
pub struct Blobs<'a>(pub &'a BTreeMap<BlobId, Vec<u8>>);

impl<'a> Blobs<'a> {
    pub fn get(&self, id: &BlobId) -> Result<&'a [u8], Failure> {
        self.0
            .get(id)
            .map(Vec::as_slice)
            .ok_or_else(|| Failure::new(format!("read blob {}", id.0), "the catalog does not carry it"))
    }
}

/// What analyze found.
#[derive(Clone, PartialEq, Debug)]
pub struct Analysis {
    pub step: StepWord,
    pub reason: Option<String>,
    /// Empty if and only if nothing would change, or what would is not known.
    pub changes: Vec<Change>,
    /// What later states can read, as far as it is known now. For an unchanged state that is all of it.
    pub outputs: Values,
    /// What will be true of the machine after this state's change.
    pub predicts: Vec<(Resource, Option<Value>)>,
    /// Of a probe that was run.
    pub verdict: Verdict,
}

/// How the end of a command is judged, where its outputs decide. The engine judges, since expressions are its own: over the
/// outputs (`exit_code`, `stdout`, `stderr` …) as names, beside what templates have.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Verdict {
    /// An expression: true is a failure and false is none, whatever `failure` says.
    pub failed_when: Option<String>,
    /// An expression: whether it changed something. Asked only of what did not fail, and stronger than
    /// [`Applied::unchanged`].
    pub changed_when: Option<String>,
    /// It failed, unless `failed_when` says otherwise; its outputs stand all the same, for `retry: {until: …}` and the
    /// report.
    pub failure: Option<Failure>,
    /// The outputs are secrets, as all that is made of them.
    pub sensitive: bool,
}

impl Analysis {
    /// Unchanged without changes, else a change.
    pub fn of(changes: Vec<Change>) -> Self {
        let step = if changes.is_empty() { StepWord::Unchanged } else { StepWord::Change };
        Self {
            step,
            reason: None,
            changes,
            outputs: Values::new(),
            predicts: Vec::new(),
            verdict: Verdict::default(),
        }
    }

    pub fn unchanged() -> Self {
        Self::of(Vec::new())
    }

    /// It runs something whose effects cannot be known.
    pub fn opaque(reason: impl Into<String>) -> Self {
        Self { step: StepWord::Opaque, reason: Some(reason.into()), ..Self::unchanged() }
    }

    /// Whether or how it changes is known only after the named state.
    pub fn conditional(until: &StateId) -> Self {
        Self {
            step: StepWord::Conditional,
            reason: Some(format!("known after {until}")),
            ..Self::unchanged()
        }
    }

    /// Whether a change of this field is listed.
    pub fn lists(&self, field: &str) -> bool {
        self.changes.iter().any(|change| change.field == field)
    }

    pub fn output(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.outputs.insert(name.to_owned(), value.into());
        self
    }

    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    pub fn predict(mut self, resource: Resource, value: Option<Value>) -> Self {
        self.predicts.push((resource, value));
        self
    }
}

/// What apply did.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Applied {
    pub outputs: Values,
    /// For a step that analyze could not foresee: it turned out that nothing changed.
    pub unchanged: bool,
    /// Said to people beside the outcome.
    pub note: Option<String>,
    pub verdict: Verdict,
}

impl Applied {
    pub fn output(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.outputs.insert(name.to_owned(), value.into());
        self
    }
}

#[derive(Clone, PartialEq, Debug)]
pub enum Refreshed {
    /// What apply did just before amounts to it.
    NotNeeded,
    Done(Applied),
}

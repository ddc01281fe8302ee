//! The modules that a program has, by name, with their types taken off.

use std::any::Any;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use mainstay_core::state::Values;
use mainstay_core::state::schema::Checker;
use schemars::generate::SchemaSettings;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde_json::Value;

use crate::failure::Failure;
use crate::forecast::Resource;
use crate::format;
use crate::host::Unsynced;
use crate::module::{About, Analysis, Analyze, Applied, Apply, Module, Refreshed};
use crate::modules;

/// All modules of this program. Adding one is its file and its line here.
pub fn builtin() -> Registry {
    Registry::default()
        .with(modules::archive::Archive)
        .with(modules::block::Block)
        .with(modules::cmd::Cmd)
        .with(modules::cron::Cron)
        .with(modules::directory::Directory)
        .with(modules::file::File)
        .with(modules::git::Git)
        .with(modules::group::Group)
        .with(modules::http::Http)
        .with(modules::line::Line)
        .with(modules::link::Link)
        .with(modules::mount::Mount)
        .with(modules::pkg::Pkg)
        .with(modules::pkgrepo::Pkgrepo)
        .with(modules::service::Service)
        .with(modules::ssh_key::SshKey)
        .with(modules::sync::Sync)
        .with(modules::sysctl::Sysctl)
        .with(modules::user::User)
}

#[derive(Clone, Default)]
pub struct Registry {
    by_name: BTreeMap<String, Arc<dyn AnyModule>>,
}

impl Registry {
    /// Adds a module; of two with one name the later counts.
    pub fn with(mut self, module: impl Module) -> Self {
        self.by_name.insert(module.about().name.to_owned(), Arc::new(Typed(module)));
        self
    }

    /// Adds one that is known only at run time, as an extension is.
    pub fn insert(&mut self, name: impl Into<String>, module: Arc<dyn AnyModule>) {
        self.by_name.insert(name.into(), module);
    }

    pub fn get(&self, name: &str) -> Option<&Arc<dyn AnyModule>> {
        self.by_name.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<dyn AnyModule>)> {
        self.by_name.iter().map(|(name, module)| (name.as_str(), module))
    }
}

/// Parameters that were read into a module's own type.
pub struct Params(Box<dyn Any + Send + Sync>);

impl Params {
    pub fn new(params: impl Any + Send + Sync) -> Self {
        Self(Box::new(params))
    }

    /// Of another module than the one that read them.
    pub(crate) fn of<T: 'static>(&self) -> &T {
        self.0.downcast_ref().expect("a module gets the parameters that it read itself")
    }
}

/// A [`Module`] without its type of parameters.
pub trait AnyModule: Send + Sync {
    fn about(&self) -> About;
    /// The parameters as a JSON Schema (2020-12) of an object.
    fn schema(&self) -> Value;
    /// Reads rendered parameters. The error names the field.
    fn read(&self, params: &Values) -> Result<Params, String>;
    fn needs(&self, params: &Params) -> Vec<Resource>;
    fn provides(&self, params: &Params) -> Vec<Resource>;
    /// See [`Module::writes`].
    fn writes(&self, _params: &Params) -> Vec<PathBuf> {
        Vec::new()
    }
    fn probes(&self, params: &Params) -> bool;
    /// See [`Module::brings`].
    fn brings(&self) -> bool {
        false
    }
    /// See [`Module::looks_ahead`].
    fn looks_ahead(&self) -> bool {
        false
    }
    fn analyze(&self, params: &Params, cx: &Analyze<'_>) -> Result<Analysis, Failure>;
    fn apply(&self, params: &Params, cx: &Apply<'_>, analysis: &Analysis) -> Result<Applied, Failure>;
    /// See [`Module::stage`].
    fn stage<'h>(
        &self,
        _params: &Params,
        _cx: &Apply<'h>,
        _analysis: &Analysis,
    ) -> Result<Option<Unsynced<'h>>, Failure> {
        Ok(None)
    }
    fn refreshes(&self) -> bool;
    fn refresh(
        &self,
        params: &Params,
        cx: &Apply<'_>,
        applied: Option<&Analysis>,
    ) -> Result<Refreshed, Failure>;
    fn merge_key(&self, params: &Params) -> Option<String>;
    fn apply_merged(
        &self,
        params: &[&Params],
        cx: &Apply<'_>,
        analyses: &[&Analysis],
    ) -> Result<Vec<Applied>, Failure>;
}

struct Typed<M>(M);

impl<M: Module> AnyModule for Typed<M> {
    fn about(&self) -> About {
        self.0.about()
    }

    fn schema(&self) -> Value {
        let mut settings = SchemaSettings::draft2020_12();
        settings.inline_subschemas = true;
        settings.into_generator().into_root_schema_for::<M::Params>().to_value()
    }

    fn read(&self, params: &Values) -> Result<Params, String> {
        let typed = M::Params::deserialize(params.into_deserializer()).map_err(
            // It does not say which field it is, and the schema does.
            |error: serde_json::Error| {
                let checker = Checker::new(format::format);
                match checker.check_values(self.0.about().name, &self.schema(), params) {
                    words if words.is_empty() => error.to_string(),
                    words => words.join("; "),
                }
            },
        )?;
        self.0.check(&typed)?;
        Ok(Params::new(typed))
    }

    fn needs(&self, params: &Params) -> Vec<Resource> {
        self.0.needs(params.of())
    }

    fn provides(&self, params: &Params) -> Vec<Resource> {
        self.0.provides(params.of())
    }

    fn writes(&self, params: &Params) -> Vec<PathBuf> {
        self.0.writes(params.of())
    }

    fn probes(&self, params: &Params) -> bool {
        self.0.probes(params.of())
    }

    fn brings(&self) -> bool {
        self.0.brings()
    }

    fn looks_ahead(&self) -> bool {
        self.0.looks_ahead()
    }

    fn analyze(&self, params: &Params, cx: &Analyze<'_>) -> Result<Analysis, Failure> {
        self.0.analyze(params.of(), cx)
    }

    fn apply(&self, params: &Params, cx: &Apply<'_>, analysis: &Analysis) -> Result<Applied, Failure> {
        self.0.apply(params.of(), cx, analysis)
    }

    fn stage<'h>(
        &self,
        params: &Params,
        cx: &Apply<'h>,
        analysis: &Analysis,
    ) -> Result<Option<Unsynced<'h>>, Failure> {
        self.0.stage(params.of(), cx, analysis)
    }

    fn refreshes(&self) -> bool {
        self.0.refreshes()
    }

    fn refresh(
        &self,
        params: &Params,
        cx: &Apply<'_>,
        applied: Option<&Analysis>,
    ) -> Result<Refreshed, Failure> {
        self.0.refresh(params.of(), cx, applied)
    }

    fn merge_key(&self, params: &Params) -> Option<String> {
        self.0.merge_key(params.of())
    }

    fn apply_merged(
        &self,
        params: &[&Params],
        cx: &Apply<'_>,
        analyses: &[&Analysis],
    ) -> Result<Vec<Applied>, Failure> {
        let params: Vec<&M::Params> = params.iter().map(|params| params.of()).collect();
        self.0.apply_merged(&params, cx, analyses)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What the compiler makes of a parameter that names a file beside the states file.
    fn compiled(kind: &str, written: &Value) -> Value {
        match kind {
            "blob" => json!({"$blob": "00", "$file": written}),
            "tree" => json!({"$tree": [], "$file": written}),
            _ => json!("the text"),
        }
    }

    #[test]
    fn what_has_no_path_says_which_files_it_writes() {
        let registry = builtin();
        for (name, params, files) in [
            ("mount", json!({"path": "/srv", "source": "a:/b", "fstype": "nfs"}), &["/etc/fstab"][..]),
            ("cron", json!({"name": "job", "schedule": "@daily", "command": "x"}), &["/etc/cron.d/job"]),
            (
                "sysctl",
                json!({"name": "vm.swappiness", "value": 1}),
                &["/etc/sysctl.d/90-vm-swappiness.conf"],
            ),
            (
                "pkgrepo",
                json!({"name": "a", "uris": ["https://example.org"]}),
                &["/etc/apt/sources.list.d/a.sources", "/etc/yum.repos.d/a.repo", "/etc/apk/repositories"],
            ),
            ("user", json!({"name": "a"}), &["/etc/shadow", "/etc/passwd"]),
            ("file", json!({"path": "/a", "content": "a"}), &[]),
        ] {
            let module = registry.get(name).unwrap();
            let params = module.read(params.as_object().unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"));
            let files: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
            assert_eq!(module.writes(&params), files, "{name}");
        }
    }

    #[test]
    fn every_example_is_one_and_shows_its_module() {
        for (name, module) in builtin().iter() {
            let about = module.about();
            let states: BTreeMap<String, BTreeMap<String, Value>> =
                serde_saphyr::from_str(about.example).unwrap_or_else(|error| panic!("{name}: {error}"));
            let mut shown = 0;
            for (id, state) in states {
                let Some(params) = state.get(name) else { continue };
                let mut params = params.as_object().unwrap().clone();
                // What a template makes of it is not known here.
                if params.values().any(|value| value.to_string().contains("{{")) {
                    continue;
                }
                let schema = module.schema();
                for (field, value) in &mut params {
                    if let Some(kind) = schema["properties"][field]["x-mainstay"].as_str() {
                        *value = compiled(kind, value);
                    }
                }
                if let Some(identity) = about.identity {
                    params.entry(identity).or_insert_with(|| id.clone().into());
                }
                module.read(&params).map(drop).unwrap_or_else(|error| panic!("{name}, {id}: {error}"));
                shown += 1;
            }
            assert!(shown > 0, "{name} is not in its example");
        }
    }

    #[test]
    fn every_parameter_and_module_is_documented() {
        for (name, module) in builtin().iter() {
            let (about, schema) = (module.about(), module.schema());
            assert_eq!(about.name, name);
            assert!(about.summary.ends_with('.') && about.dry_run.ends_with('.'), "{name}");
            assert_eq!(schema["additionalProperties"], json!(false), "{name} takes unknown fields");
            for (field, schema) in schema["properties"].as_object().unwrap() {
                assert!(schema["description"].is_string(), "{name}: {field} has no doc comment: {schema}");
            }
            if let Some(identity) = about.identity {
                assert!(schema["properties"][identity].is_object(), "{name}: there is no {identity}");
            }
        }
    }
}

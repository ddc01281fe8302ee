//! Compares what a plan said with what applying then did.
//!
//! A [`Trial`] runs one module as the engine does: analyze, apply, analyze again. What the machine looks like is told by an
//! *observation*: a map from a change's field to its value, made without the module's help. Every listed
//! change has to be found in it, on both sides, and nothing else may have changed.

mod comparison;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mainstay_core::state::catalog::BlobId;
use mainstay_core::state::{StateId, StepWord};
use serde_json::{Value, json};

use crate::content;
use crate::failure::Failure;
use crate::forecast::Forecast;
use crate::host::Host;
use crate::module::{Analysis, Analyze, Apply, Blobs, Module};
use crate::registry::{AnyModule, Params, Registry};
use crate::standing::field;
pub use comparison::{Observation, compare};

/// What a module said in a trial.
#[derive(Debug)]
pub struct Finding {
    pub planned: Analysis,
}

pub struct Trial {
    module: Arc<dyn AnyModule>,
    pub host: Host,
    pub forecast: Forecast,
    pub blobs: BTreeMap<BlobId, Vec<u8>>,
    pub state: StateId,
}

impl Trial {
    pub fn of(module: impl Module) -> Self {
        let registry = Registry::default().with(module);
        Self::of_any(Arc::clone(registry.iter().next().unwrap().1))
    }

    pub fn of_any(module: Arc<dyn AnyModule>) -> Self {
        Self {
            module,
            host: Host::new(),
            forecast: Forecast::default(),
            blobs: BTreeMap::new(),
            state: "trial".into(),
        }
    }

    /// Puts bytes into the catalog, as the compiler does for a file that a state names.
    pub fn blob(&mut self, bytes: &[u8]) -> Value {
        let id = BlobId::of(bytes);
        self.blobs.insert(id.clone(), bytes.to_vec());
        json!({"$blob": id, "$file": "beside.txt"})
    }

    pub fn read(&self, params: Value) -> Result<Params, String> {
        self.module.read(params.as_object().expect("parameters are a map"))
    }

    pub fn analyze(&self, params: Value) -> Result<Analysis, Failure> {
        let params = self.read(params).unwrap();
        self.looked(&params, &self.forecast)
    }

    fn looked(&self, params: &Params, forecast: &Forecast) -> Result<Analysis, Failure> {
        let blobs = Blobs(&self.blobs);
        self.module.analyze(params, &Analyze { state: &self.state, view: &self.host, forecast, blobs })
    }

    /// Analyses and applies, and checks all that was promised. The failure is the module's own, of either phase.
    pub fn run(&self, params: Value, observe: &dyn Fn() -> Observation) -> Result<Finding, Failure> {
        let nothing = Forecast::default();
        let params = self.read(params).unwrap();
        let before = observe();
        let planned = self.looked(&params, &nothing)?;
        assert_eq!(observe(), before, "analyze changed something");
        assert_eq!(planned.step == StepWord::Unchanged, planned.changes.is_empty(), "{planned:?}");
        let apply = Apply { state: &self.state, host: &self.host, blobs: Blobs(&self.blobs) };
        let applied = self.module.apply(&params, &apply, &planned)?;
        let after = observe();
        compare(&planned.changes, &before, &after);
        if planned.step != StepWord::Opaque {
            assert_eq!(applied.outputs, planned.outputs, "outputs are not as the plan had them");
        }
        let settled = self.looked(&params, &nothing)?;
        assert_eq!(settled.step, StepWord::Unchanged, "after apply: {settled:?}");
        assert_eq!(settled.outputs, applied.outputs, "outputs differ once it is unchanged");
        Ok(Finding { planned })
    }

    /// As [`Trial::run`], in a folder of its own; then once more, which must touch nothing.
    pub fn in_folder(&self, params: Value, folder: &Path) -> Result<Finding, Failure> {
        let path = PathBuf::from(params["path"].as_str().or(params["dest"].as_str()).unwrap());
        let verdict = self.run(params.clone(), &|| tree(folder, &path))?;
        let stamps = stamps(folder);
        let again = self.run(params, &|| tree(folder, &path))?;
        assert_eq!(again.planned.step, StepWord::Unchanged);
        assert_eq!(self::stamps(folder), stamps, "a second run touched something");
        Ok(verdict)
    }
}

/// All that is in a folder, as changes of a state of `path` name it.
pub fn tree(folder: &Path, path: &Path) -> Observation {
    let host = Host::new();
    let mut seen = Observation::new();
    walk(folder, &mut |found, meta| {
        let of = match found.strip_prefix(path) {
            Ok(relative) => relative.to_string_lossy().into_owned(),
            Err(_) => found.to_string_lossy().into_owned(),
        };
        let mut put = |name: &'static str, value: Value| seen.insert(field(name, &of).into_owned(), value);
        let kind = if meta.is_symlink() {
            put("target", fs::read_link(found).unwrap().to_string_lossy().into());
            "link"
        } else if meta.is_dir() {
            "directory"
        } else if meta.is_file() {
            match meta.size() > crate::host::MAX_FILE {
                true => put("content", format!("{} bytes, too large to be read", meta.size()).into()),
                false => put("content", content::describe(&fs::read(found).unwrap()).into()),
            };
            "file"
        } else {
            "device, socket or pipe"
        };
        put("exists", kind.into());
        put("owner", host.user_name(meta.uid()).into());
        put("group", host.group_name(meta.gid()).into());
        if !meta.is_symlink() {
            put("mode", format!("{:04o}", meta.mode() & 0o7777).into());
        }
    });
    seen
}

/// When each thing in a folder was last changed.
fn stamps(folder: &Path) -> BTreeMap<PathBuf, (u64, i64, i64)> {
    let mut stamps = BTreeMap::new();
    walk(folder, &mut |found, meta| {
        stamps.insert(found.to_owned(), (meta.ino(), meta.ctime(), meta.ctime_nsec()));
    });
    stamps
}

fn walk(folder: &Path, visit: &mut dyn FnMut(&Path, &fs::Metadata)) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let meta = entry.metadata().unwrap();
        visit(&entry.path(), &meta);
        if meta.is_dir() {
            walk(&entry.path(), visit);
        }
    }
}

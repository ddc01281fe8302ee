//! From a states file to a [`Catalog`] for each machine.
//!
//! [`compile`] reads the file and all that it includes, and says everything that is wrong before any machine is touched.
//! [`Site::catalog`] then gives the states of one machine. What is settled here, from variables alone: ids, modules, requisites,
//! includes, targets, names of files; and every parameter that reads nothing but variables. What reads facts, secrets or the outputs
//! of states stays a template for the machine. Fetching and reading are the caller's, by [`Files`] and [`ModuleTable`].
//!
//! **Variables**, the first that has the name: the command line; what an include was given, the innermost first; the target's;
//! the machine's own; the file's; those of files that it includes. A file sees the variables of what it includes without parameters. Two files side by side may
//! not give one name two values, unless something above them decides. Values in files may be templates over other variables.
//!
//! **Includes.** A file that is included without parameters belongs to the file that includes it, and is there once. With `vars` or
//! `as`, it is there once for each include, and its states' ids get a prefix: `as`, or the file's stem and its parameters' values
//! (`vhost-a/conf`). Within it, names mean its own states first, then those around it.
//!
//! **`for_each`** takes a list, a map (in written order; a variable's by its keys) or an expression over variables. `item` is the list's item, or `{key, value}` of the map's. An id without a
//! template gets the item's text, key or name at its end (`user-anna`); the id as it is written then names all of them in requisites.
//!
//! **`--only`** keeps the states that a pattern means, and what they name in requisites, read, or need of what others provide, transitively; of
//! `listen` only the edge goes. What a state needs is known here as far as its parameters are.
//! A state that waits for others (`onchanges`, `onfail`, `prereq`) would mean nothing without them.

mod contradictions;
mod cycle;
mod expand;
mod extensions;
mod files;
mod library;
mod machine;
mod names;
mod options;
mod problem;
mod requisites;
mod settle;
mod skeleton;
mod source;
mod unit;
mod vars;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

pub use self::machine::Machine;
pub(super) use self::options::MAX_ATTEMPTS;
pub use self::problem::{SiteError, SiteErrors};
pub(super) use self::vars::NOT_VARIABLES;
use super::Values;
use super::catalog::{Catalog, OrderMode};
use super::order::Links;
use super::schema::{Checker, Formats};
use super::template::Templates;
use expand::Expansion;
use library::Library;
use problem::Problems;
use vars::Definitions;

/// Largest states file: some hundred thousand states, and little beside the memory of the machine that compiles.
pub const MAX_STATES_FILE: usize = 16 << 20;

/// Largest file that a parameter names: what is managed so is configuration, not a disk image.
pub const MAX_BLOB: usize = 16 << 20;

/// Most bytes of all files that the parameters of one site name: a catalog is sent as one piece and held in memory.
pub const MAX_BLOBS: usize = 64 << 20;

/// Most files in a folder that a parameter names.
pub const MAX_TREE: usize = 10_000;

/// Most states that a file may make, includes and `for_each` counted.
pub const MAX_STATES: usize = 100_000;

/// What to compile.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct SiteInput {
    /// The states file, as [`Files`] takes it.
    pub file: String,
    /// Variables of the command line.
    pub vars: Values,
    /// Names of the variables that machines bring (an inventory's): they may be missing until a machine is known.
    pub machine_vars: BTreeSet<String>,
    /// `--only`: ids, globs, groups; empty for all.
    pub only: Vec<String>,
    /// Overrides the file's own `order`.
    pub order: Option<OrderMode>,
}

/// Reads what stands beside the states file. Paths have `/` between their parts and begin as the states file's own does.
pub trait Files: Sync {
    /// A file's bytes. What is larger than `limit` is refused. The error is the system's own words.
    fn read(&self, path: &str, limit: usize) -> Result<Vec<u8>, String>;

    /// All that is in a folder, in the order of the paths, its files' bytes together within `limit`.
    fn tree(&self, path: &str, limit: usize) -> Result<Vec<FileEntry>, String>;

    /// A variable of the environment, for secrets.
    fn env(&self, name: &str) -> Option<String>;
}

/// One thing in a folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileEntry {
    /// Relative to the folder, with `/` between its parts.
    pub path: String,
    pub kind: FileKind,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FileKind {
    Directory,
    File { bytes: Vec<u8>, executable: bool },
    Link { target: String },
}

/// The modules that there are.
pub trait ModuleTable: Sync {
    fn module(&self, name: &str) -> Option<ModuleSchema>;

    fn names(&self) -> Vec<String>;

    /// The formats that schemas ask of texts.
    fn formats(&self) -> Formats {
        |_| None
    }

    /// What a schema cannot say of parameters that are all known: fields that exclude each other. Files in them are as a catalog has
    /// them. Words that begin with a parameter, as `path: …`, are told at its place.
    fn check(&self, module: &str, params: &Values) -> Result<(), String> {
        let (_, _) = (module, params);
        Ok(())
    }

    /// What a state needs and provides, by those of its parameters that are known.
    fn links(&self, module: &str, params: &Values) -> Links {
        let (_, _) = (module, params);
        Links::default()
    }

    /// What a state is about, where it is known: two that are about the same thing may contradict each other.
    fn thing<'p>(&self, module: &str, params: &'p Values) -> Option<&'p str> {
        let (_, _) = (module, params);
        None
    }

    /// Why two states about the same thing, each a module with its parameters, undo each other.
    fn contradiction(&self, one: (&str, &Values), other: (&str, &Values)) -> Option<String> {
        let (_, _) = (one, other);
        None
    }

    /// Where a state puts something, if it is known.
    fn place<'p>(&self, module: &str, params: &'p Values) -> Option<&'p str> {
        let (_, _) = (module, params);
        None
    }

    /// The directory in which nothing stays but what this state puts there, if it is known.
    fn reign<'p>(&self, module: &str, params: &'p Values) -> Option<&'p str> {
        let (_, _) = (module, params);
        None
    }

    /// Whether what a state puts beneath the directory of another does not stay there.
    fn removes(&self, above: &Values, other: (&str, &Values)) -> bool {
        let (_, _) = (above, other);
        false
    }

    /// Fetches a program that serves as a module, verifies it as declared, and asks it what it is.
    fn fetch(&self, extension: &ExtensionSource) -> Result<Fetched, String> {
        Err(format!("the extension {} cannot be fetched here", extension.name))
    }
}

/// What the compiler has to know of a module.
#[derive(Clone, PartialEq, Debug)]
pub struct ModuleSchema {
    /// A JSON Schema of the parameters.
    pub params: Value,
    /// The parameter that names the thing; a state without it gets its id.
    pub identity: Option<String>,
    /// A refresh means something to it. Without, `watch` is `require`.
    pub refreshes: bool,
    /// The names of what it gives out, which expressions of its states may read; nothing where it does not say.
    pub outputs: Option<Vec<String>>,
}

/// An extension as the states file declares it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExtensionSource {
    pub name: String,
    pub from: ExtensionFrom,
    /// Of the program, 64 digits.
    pub sha256: String,
    /// A minisign public key; the signature is then beside the program, with `.minisig` at the end of its name.
    pub minisign: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExtensionFrom {
    Path(String),
    Url(String),
}

/// A program that was fetched and verified.
#[derive(Clone, PartialEq, Debug)]
pub struct Fetched {
    pub program: Vec<u8>,
    /// The text of the minisign signature, where a key was given.
    pub signature: Option<String>,
    /// What the program said of itself, as it is sent along.
    pub describe: Value,
    pub schema: ModuleSchema,
}

/// A compiled states file, from which the catalogs of many machines are made.
pub struct Site<'a> {
    input: SiteInput,
    modules: &'a dyn ModuleTable,
    library: Library<'a>,
    templates: Templates,
    checker: Checker,
    root: Arc<source::Source>,
    /// By the variables that a machine brings: most machines bring the same, or none.
    expansions: Mutex<BTreeMap<String, Arc<Expansion>>>,
    fetches: extensions::Fetches,
    warnings: Vec<SiteError>,
}

/// Expansions that are kept: a fleet where each machine has variables of its own would keep all of them.
const MAX_EXPANSIONS: usize = 32;

/// Reads and checks a states file with all that it includes, or says everything that is wrong.
pub fn compile<'a>(
    input: &SiteInput,
    files: &'a dyn Files,
    modules: &'a dyn ModuleTable,
) -> Result<Site<'a>, SiteErrors> {
    let library = Library::new(files);
    let problems = Problems::default();
    let Some(root) = library.source(&input.file, None, &problems) else {
        library.look_behind(&input.file, &problems);
        return Err(library.errors(problems).unwrap_or_else(SiteErrors::unreadable));
    };
    let mut site = Site {
        input: input.clone(),
        modules,
        library,
        templates: Templates::new(),
        checker: Checker::new(modules.formats()),
        root,
        expansions: Mutex::default(),
        fetches: Mutex::default(),
        warnings: Vec::new(),
    };
    let warnings = Problems::default();
    let expansion = site.expand(&Values::new(), &Definitions::new(), true, &problems, &warnings);
    if let Some(errors) = site.library.errors(problems) {
        return Err(errors);
    }
    expansion.unheard().for_each(|(at, message)| {
        warnings.note(
            at,
            message,
            Some("name it in --only as well; later runs do not make up for it".into()),
        );
    });
    site.warnings =
        site.library.errors(warnings).map(|found| found.iter().cloned().collect()).unwrap_or_default();
    if !expansion.deferred {
        site.keep(String::new(), Arc::new(expansion));
    }
    Ok(site)
}

impl fmt::Debug for Site<'_> {
    /// Without the secrets within.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("file", &self.input.file).finish_non_exhaustive()
    }
}

impl Site<'_> {
    /// The states of one machine, or everything that is wrong for it.
    pub fn catalog(&self, machine: &Machine<'_>) -> Result<Catalog, SiteErrors> {
        machine::catalog(self, machine)
    }

    /// What works, and is not what it looks like.
    pub fn warnings(&self) -> &[SiteError] {
        &self.warnings
    }

    /// Every file that was read, as it was named; the first is the states file.
    pub fn files(&self) -> Vec<String> {
        self.library.names()
    }

    fn kept(&self, key: &str) -> Option<Arc<Expansion>> {
        self.expansions.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn keep(&self, key: String, expansion: Arc<Expansion>) {
        let mut kept = self.expansions.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_EXPANSIONS {
            kept.pop_last();
        }
        kept.insert(key, expansion);
    }
}

#[cfg(test)]
mod tests;

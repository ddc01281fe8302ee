//! The modules that states may use: the program's own, and those that the files declare.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::library::{Library, beside};
use super::problem::Problems;
use super::source::{Source, kind};
use super::{ExtensionFrom, ExtensionSource, ModuleSchema, ModuleTable};
use crate::near_miss::near_miss;
use crate::state::catalog::{Extension, Minisign, Place};
use crate::state::schema::shown;
use crate::yaml::{Key, Tree, Value};

/// What was fetched, or why nothing was: a machine more does not fetch it again.
pub(super) type Fetches = Mutex<BTreeMap<String, Result<(Extension, Arc<ModuleSchema>), String>>>;

pub(super) struct Modules<'a> {
    table: &'a dyn ModuleTable,
    /// By name; nothing where there is none.
    known: RefCell<BTreeMap<String, Option<Arc<ModuleSchema>>>>,
    pub(super) extensions: BTreeMap<String, Extension>,
    /// Declared, and told of as wrong.
    broken: Vec<String>,
}

/// What a name is.
pub(super) enum Found {
    Module(Arc<ModuleSchema>),
    /// An extension that could not be had, which was told already.
    Broken,
    None,
}

impl<'a> Modules<'a> {
    pub(super) fn new(
        table: &'a dyn ModuleTable,
        library: &Library<'_>,
        fetches: &Fetches,
        sources: &[Arc<Source>],
        problems: &Problems,
    ) -> Self {
        let mut modules =
            Self { table, known: RefCell::default(), extensions: BTreeMap::new(), broken: Vec::new() };
        let mut places: BTreeMap<&str, Place> = BTreeMap::new();
        for source in sources {
            for (key, tree) in &source.extensions {
                let at = source.place(key.position);
                if let Some(first) = places.get(key.name.as_str()) {
                    let hint = format!("first in {}, line {}", library.name(first.file), first.line);
                    problems.note(at, format!("the extension `{}` is declared twice", key.name), Some(hint));
                    continue;
                }
                places.insert(&key.name, at);
                if table.module(&key.name).is_some() || super::options::Word::of(&key.name).is_some() {
                    problems.note(at, format!("`{}` is a name of its own already", key.name), None);
                    continue;
                }
                let Some(declared) = declared(source, key, tree, problems) else {
                    modules.broken.push(key.name.clone());
                    continue;
                };
                match fetched(table, library, fetches, &declared) {
                    Ok((extension, schema)) => {
                        modules.known.borrow_mut().insert(key.name.clone(), Some(schema));
                        modules.extensions.insert(key.name.clone(), extension);
                    }
                    Err(words) => {
                        problems.note(at, words, None);
                        modules.broken.push(key.name.clone());
                    }
                }
            }
        }
        modules
    }

    pub(super) fn find(&self, name: &str) -> Found {
        let mut known = self.known.borrow_mut();
        let found = known.entry(name.to_owned()).or_insert_with(|| self.table.module(name).map(Arc::new));
        match found {
            Some(module) => Found::Module(module.clone()),
            None if self.broken.iter().any(|broken| broken == name) => Found::Broken,
            None => Found::None,
        }
    }

    pub(super) fn names(&self) -> Vec<String> {
        let mut names = self.table.names();
        names.extend(self.extensions.keys().cloned());
        names
    }
}

fn fetched(
    table: &dyn ModuleTable,
    library: &Library<'_>,
    fetches: &Fetches,
    declared: &ExtensionSource,
) -> Result<(Extension, Arc<ModuleSchema>), String> {
    let key = format!("{declared:?}");
    if let Some(known) = fetches.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
        return known.clone();
    }
    let fetch = || {
        let fetched = table.fetch(declared)?;
        let minisign = match (&declared.minisign, fetched.signature) {
            (None, _) => None,
            (Some(public_key), Some(signature)) => {
                Some(Minisign { public_key: public_key.clone(), signature })
            }
            (Some(_), None) => return Err(format!("the extension {} has no signature", declared.name)),
        };
        let extension = Extension {
            blob: library.hold(fetched.program)?,
            sha256: declared.sha256.clone(),
            minisign,
            describe: fetched.describe,
        };
        Ok((extension, Arc::new(fetched.schema)))
    };
    let found = fetch();
    fetches.lock().unwrap_or_else(PoisonError::into_inner).insert(key, found.clone());
    found
}

fn declared(source: &Source, name: &Key, tree: &Tree, problems: &Problems) -> Option<ExtensionSource> {
    const WORDS: [&str; 4] = ["path", "url", "sha256", "minisign"];
    let at = source.place(tree.position);
    let Value::Map(entries) = &tree.value else {
        let message = format!(
            "the extension `{}` is a map with path or url, and sha256, not {}",
            name.name,
            kind(tree)
        );
        problems.note(at, message, None);
        return None;
    };
    let (mut from, mut sha256, mut minisign) = (None, None, None);
    let good = Cell::new(true);
    let wrong = |at: Place, message: String, hint: Option<String>| {
        problems.note(at, message, hint);
        good.set(false);
    };
    for (key, tree) in entries {
        let (key_at, at) = (source.place(key.position), source.place(tree.position));
        let near = near_miss(&key.name, WORDS);
        let Some(text) = tree.as_text() else {
            let message = format!("`{}` must be a text, not {}", key.name, kind(tree));
            wrong(at, message, None);
            continue;
        };
        match key.name.as_str() {
            "path" | "url" if from.is_some() => {
                wrong(key_at, "an extension has a path or a url, not both".into(), None);
            }
            "path" => from = Some(ExtensionFrom::Path(beside(&source.path, text))),
            "url" if text.starts_with("https://") || text.starts_with("http://") => {
                from = Some(ExtensionFrom::Url(text.to_owned()));
            }
            "url" => wrong(at, "`url` must begin with https://".into(), None),
            "sha256" if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) => {
                sha256 = Some(text.to_ascii_lowercase());
            }
            "sha256" => wrong(at, "`sha256` is 64 digits, 0 to 9 and a to f".into(), None),
            "minisign" => minisign = Some(text.to_owned()),
            other => {
                let message = format!("an extension has no {}", shown(other));
                wrong(key_at, message, near.map(|near| format!("did you mean {near}?")));
            }
        }
    }
    if from.is_none() && good.get() {
        wrong(at, format!("the extension `{}` has no path and no url", name.name), None);
    }
    if sha256.is_none() && good.get() {
        let hint = "what `sha256sum` says of the program; nothing else is ever run".to_owned();
        wrong(at, format!("the extension `{}` has no sha256", name.name), Some(hint));
    }
    if !good.get() {
        return None;
    }
    Some(ExtensionSource { name: name.name.clone(), from: from?, sha256: sha256?, minisign })
}

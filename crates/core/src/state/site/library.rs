//! The files of a site: each is read once, and known by a number.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::problem::{self, Problem, Problems, SiteError, SiteErrors};
use super::source::Source;
use super::{FileKind, Files, MAX_BLOB, MAX_BLOBS, MAX_STATES_FILE, MAX_TREE};
use crate::state::catalog::{BlobId, Place};
use crate::state::template::{self, Scan};
use crate::yaml;

/// Most states files of one site.
const MAX_SOURCES: usize = 1_000;

/// Largest file that holds a secret: a key, a token, a certificate with its chain.
const MAX_SECRET: usize = 1 << 20;

const YAML: yaml::Limits = yaml::Limits {
    bytes: MAX_STATES_FILE,
    // A parameter of a state stands four deep. Each level costs the reader some thirty kilobytes of stack where it is not
    // optimised, and a thread has two million.
    depth: 32,
    // A hundred thousand states with ten values each.
    values: 1_000_000,
    // For people who are used to them; what they stand for counts as values.
    aliases: 1_000,
    templates: true,
    when_too_large: "put parts of it into files that it includes",
    when_several: "put it into a file of its own, and include that",
};

pub(super) struct Library<'a> {
    files: &'a dyn Files,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    entries: Vec<Entry>,
    by_path: BTreeMap<String, usize>,
    /// What the path of a blob or a folder became, or why nothing.
    blobs: BTreeMap<String, Result<BlobId, String>>,
    trees: BTreeMap<String, Result<Value, String>>,
    bytes: BTreeMap<BlobId, Arc<[u8]>>,
    total: usize,
    sources: usize,
}

struct Entry {
    path: String,
    /// For the lines of errors.
    text: Option<Arc<str>>,
    /// Of a template.
    scan: Option<Arc<Scan>>,
    source: Option<Arc<Source>>,
    /// Why it is none, or not a good one: told to each who asks.
    problems: BTreeSet<Problem>,
}

impl<'a> Library<'a> {
    pub(super) fn new(files: &'a dyn Files) -> Self {
        Self { files, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A states file; `asked_at` is where it is included.
    pub(super) fn source(
        &self,
        path: &str,
        asked_at: Option<Place>,
        problems: &Problems,
    ) -> Option<Arc<Source>> {
        let mut kept = self.kept();
        if let Some(&number) = kept.by_path.get(path)
            && (kept.entries[number].source.is_some() || !kept.entries[number].problems.is_empty())
        {
            let entry = &kept.entries[number];
            for problem in &entry.problems {
                problems.note(problem.at, problem.message.clone(), problem.hint.clone());
            }
            return entry.source.clone();
        }
        let number = kept.number(path);
        let at = asked_at.unwrap_or(Place { file: number, line: 1, column: 1 });
        kept.sources += 1;
        if kept.sources > MAX_SOURCES {
            problems.note(at, format!("more than {MAX_SOURCES} files"), None);
            return None;
        }
        let bytes = match self.files.read(path, MAX_STATES_FILE) {
            Ok(bytes) => bytes,
            Err(words) => {
                problems.note(at, format!("cannot read {path}: {words}"), None);
                return None;
            }
        };
        let own = Problems::default();
        let source = match std::str::from_utf8(&bytes) {
            Err(error) => {
                let valid = std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
                note_yaml(number, yaml::not_utf8(valid), &own);
                kept.entries[number].text = Some(valid.into());
                None
            }
            Ok(text) => {
                let text: Arc<str> = text.trim_start_matches('\u{feff}').into();
                kept.entries[number].text = Some(text.clone());
                match yaml::parse(&text, &YAML) {
                    Ok(tree) => Some(Arc::new(Source::read(number, path, text, tree, &own))),
                    Err(error) => {
                        note_yaml(number, error, &own);
                        None
                    }
                }
            }
        };
        let entry = &mut kept.entries[number];
        entry.source.clone_from(&source);
        entry.problems = own.into_inner();
        for problem in &entry.problems {
            problems.note(problem.at, problem.message.clone(), problem.hint.clone());
        }
        source
    }

    /// Notes what is wrong with the files that one which cannot be read includes, as far as its text says plainly which they are.
    pub(super) fn look_behind(&self, path: &str, problems: &Problems) {
        let Some(&number) = self.kept().by_path.get(path) else { return };
        let text = self.text(number).unwrap_or_default();
        let mut paths: Vec<String> = plain_includes(&text).map(|name| beside(path, name)).collect();
        let mut met = BTreeSet::from([path.to_owned()]);
        while let Some(path) = paths.pop() {
            if !met.insert(path.clone()) || met.len() > MAX_SOURCES {
                continue;
            }
            // One that is not there may be no file at all, but a word that stands beside the error.
            if self.files.read(&path, MAX_STATES_FILE).is_err() {
                continue;
            }
            let Some(source) = self.source(&path, None, problems) else { continue };
            let names = source.includes.iter().filter_map(|include| include.file.as_text());
            paths.extend(names.filter(|name| !template::is_template(name)).map(|name| beside(&path, name)));
        }
    }

    /// The bytes of a file that a parameter names.
    pub(super) fn blob(&self, path: &str) -> Result<BlobId, String> {
        let mut kept = self.kept();
        if let Some(found) = kept.blobs.get(path) {
            return found.clone();
        }
        let read = self.files.read(path, MAX_BLOB).map_err(|words| format!("cannot read {path}: {words}"));
        let found = read.and_then(|bytes| kept.hold(bytes));
        kept.blobs.insert(path.to_owned(), found.clone());
        found
    }

    /// The same for a program that was fetched.
    pub(super) fn hold(&self, bytes: Vec<u8>) -> Result<BlobId, String> {
        self.kept().hold(bytes)
    }

    /// A folder with all its files as `$tree` has it.
    pub(super) fn tree(&self, path: &str, name: &str) -> Result<Value, String> {
        let mut kept = self.kept();
        let found = match kept.trees.get(path) {
            Some(found) => found.clone(),
            None => {
                let read = self.files.tree(path, MAX_BLOBS);
                let found = read
                    .map_err(|words| format!("cannot read the folder {path}: {words}"))
                    .and_then(|entries| kept.tree(entries));
                kept.trees.insert(path.to_owned(), found.clone());
                found
            }
        };
        found.map(|tree| json!({"$tree": tree, "$file": name}))
    }

    pub(super) fn bytes(&self, blob: &BlobId) -> Option<Arc<[u8]>> {
        self.kept().bytes.get(blob).cloned()
    }

    /// A file that holds a secret; the newline at its end is the editor's.
    pub(super) fn secret(&self, path: &str) -> Result<String, String> {
        let bytes = self.files.read(path, MAX_SECRET)?;
        let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())?;
        Ok(text
            .strip_suffix('\n')
            .map(|text| text.strip_suffix('\r').unwrap_or(text).to_owned())
            .unwrap_or(text))
    }

    pub(super) fn env(&self, name: &str) -> Option<String> {
        self.files.env(name)
    }

    /// A template, with its number for places within it. Many states may share it.
    pub(super) fn template(&self, path: &str, text: &str) -> (usize, Arc<Scan>) {
        let mut kept = self.kept();
        let number = kept.number(path);
        let entry = &mut kept.entries[number];
        entry.text.get_or_insert_with(|| text.into());
        (number, entry.scan.get_or_insert_with(|| Arc::new(template::scan(text))).clone())
    }

    pub(super) fn name(&self, number: usize) -> String {
        self.kept().entries.get(number).map(|entry| entry.path.clone()).unwrap_or_default()
    }

    pub(super) fn text(&self, number: usize) -> Option<Arc<str>> {
        self.kept().entries.get(number).and_then(|entry| entry.text.clone())
    }

    /// Of the states files.
    pub(super) fn names(&self) -> Vec<String> {
        let kept = self.kept();
        kept.entries.iter().filter(|e| e.source.is_some()).map(|entry| entry.path.clone()).collect()
    }

    pub(super) fn errors(&self, problems: Problems) -> Option<SiteErrors> {
        let kept = self.kept();
        problem::errors(problems.into_inner(), |number| match kept.entries.get(number) {
            Some(entry) => (entry.path.clone(), entry.text.as_deref()),
            None => (String::new(), None),
        })
    }
}

impl Kept {
    fn number(&mut self, path: &str) -> usize {
        if let Some(&number) = self.by_path.get(path) {
            return number;
        }
        let number = self.entries.len();
        self.entries.push(Entry {
            path: path.to_owned(),
            text: None,
            scan: None,
            source: None,
            problems: BTreeSet::new(),
        });
        self.by_path.insert(path.to_owned(), number);
        number
    }

    fn hold(&mut self, bytes: Vec<u8>) -> Result<BlobId, String> {
        let id = BlobId::of(&bytes);
        if !self.bytes.contains_key(&id) {
            if bytes.len() > MAX_BLOB {
                return Err(format!("it is larger than {} MiB", MAX_BLOB >> 20));
            }
            if self.total + bytes.len() > MAX_BLOBS {
                return Err(format!(
                    "the files of this site are larger than {} MiB together",
                    MAX_BLOBS >> 20
                ));
            }
            self.total += bytes.len();
            self.bytes.insert(id.clone(), bytes.into());
        }
        Ok(id)
    }

    fn tree(&mut self, entries: Vec<super::FileEntry>) -> Result<Value, String> {
        if entries.len() > MAX_TREE {
            return Err(format!("it has more than {MAX_TREE} entries"));
        }
        let mut tree = Vec::with_capacity(entries.len());
        for entry in entries {
            let is_plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
            if !entry.path.split('/').all(is_plain) {
                return Err(format!("it has an entry with the path {:?}", entry.path));
            }
            tree.push(match entry.kind {
                FileKind::Directory => json!({"path": entry.path, "kind": "directory"}),
                FileKind::Link { target } => json!({"path": entry.path, "kind": "link", "target": target}),
                FileKind::File { bytes, executable } => {
                    let blob = self.hold(bytes).map_err(|words| format!("{}: {words}", entry.path))?;
                    json!({"path": entry.path, "kind": "file", "blob": blob.0, "executable": executable})
                }
            });
        }
        Ok(Value::Array(tree))
    }
}

fn note_yaml(file: usize, error: yaml::YamlError, problems: &Problems) {
    let at = Place { file, line: error.position.line, column: error.position.column };
    problems.note(at, error.message, error.hint);
}

impl SiteErrors {
    /// Only where a file could not be read and nothing was noted, which does not happen.
    pub(super) fn unreadable() -> Self {
        let error = SiteError {
            file: String::new(),
            line: 1,
            column: 1,
            message: "the states file cannot be read".into(),
            hint: None,
            excerpt: String::new(),
        };
        Self::first(1, vec![error], 0).expect("there is one")
    }
}

/// The names of files that stand in the part `include` of a text that is no YAML.
fn plain_includes(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    let of_include = text.lines().filter_map(move |line| {
        let rest = line.strip_prefix("include:");
        if rest.is_some() || line.starts_with(|c: char| c.is_alphanumeric() || c == '"') {
            inside = rest.is_some();
        }
        inside.then_some(rest.unwrap_or(line))
    });
    let words = of_include.flat_map(|line| line.split(['[', ']', '{', '}', ',', ' ', '"', '\'']));
    let is_name = |word: &&str| word.ends_with(".yaml") || word.ends_with(".yml");
    words.filter(is_name).filter(|word| !word.contains(char::is_control))
}

/// `name` as it is written in `file`: relative to its folder.
pub(super) fn beside(file: &str, name: &str) -> String {
    let folder =
        if name.starts_with('/') { "" } else { file.rsplit_once('/').map_or("", |(folder, _)| folder) };
    let rooted = name.starts_with('/') || file.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(name.split('/')) {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    if rooted { format!("/{joined}") } else { joined }
}

/// A file's name without its folder and its ending.
pub(super) fn stem(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    match name.rsplit_once('.') {
        Some((stem, _)) if !stem.is_empty() => stem,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn includes_are_found_in_what_is_no_yaml() {
        let text = "vars: {a: [}\ninclude:\n  - a.yaml\n- {file: 'b/c.yml', vars: {x: y.txt}}\nstates:\n  d: e.yaml\n";
        assert_eq!(plain_includes(text).collect::<Vec<_>>(), ["a.yaml", "b/c.yml"]);
        assert_eq!(plain_includes("include: [a.yaml, \"b.yaml\"]").collect::<Vec<_>>(), ["a.yaml", "b.yaml"]);
        assert_eq!(plain_includes("a: b.yaml\n").count(), 0);
    }

    #[test]
    fn names_are_relative_to_the_file_that_says_them() {
        for (file, name, expected) in [
            ("site.yaml", "common.yaml", "common.yaml"),
            ("a/site.yaml", "common.yaml", "a/common.yaml"),
            ("a/site.yaml", "../common.yaml", "common.yaml"),
            ("a/site.yaml", "./b//c.yaml", "a/b/c.yaml"),
            ("site.yaml", "../x", "../x"),
            ("../a/site.yaml", "../../x", "../../x"),
            ("/srv/site.yaml", "b", "/srv/b"),
            ("/srv/site.yaml", "../../../b", "/b"),
            ("a/site.yaml", "/etc/x", "/etc/x"),
        ] {
            assert_eq!(beside(file, name), expected, "{file} {name}");
        }
        for (path, expected) in
            [("a/site.yaml", "site"), ("site", "site"), (".hidden", ".hidden"), ("a.b.yml", "a.b")]
        {
            assert_eq!(stem(path), expected);
        }
    }
}

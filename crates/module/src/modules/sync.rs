//! `sync`: a folder beside the states file, as it is, on the machine.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use mainstay_core::state::plan::{Change, Datum};
use schemars::JsonSchema;
use serde::Deserialize;

use super::directory::MAX_ENTRIES;
use super::file::needs;
use crate::blob::{Tree, TreeKind};
use crate::content;
use crate::failure::Failure;
use crate::field::{Account, HostPath, Mode};
use crate::forecast::Resource;
use crate::format::Glob;
use crate::host::{EntryKind, MAX_FILE, Ownership};
use crate::module::{About, Analysis, Analyze, Applied, Apply, Blobs, Module};
use crate::replacement;
use crate::standing::{Kind, Sight, Standing, Thing, Wanted, conclude, field, parent_ready};

pub struct Sync;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The directory on the machine: an absolute path. It is made if it is missing; its parent has to be there.
    #[schemars(extend("format" = "path-below-root"))]
    pub path: HostPath,
    /// A folder beside the states file. Files, directories and links in it are put into the directory.
    pub source: Tree,
    /// Remove what is in the directory and not in the folder. Where the two differ in kind, a directory here and a file
    /// there, this is needed too.
    #[serde(default)]
    pub delete: bool,
    /// Globs of what is neither copied nor removed. One without a slash is a name at any depth; one with a slash is a
    /// path from the top of the folder, where `*` stays within a directory and `**` does not.
    #[serde(default)]
    #[schemars(with = "Vec<Glob>")]
    pub exclude: Vec<String>,
    /// Permission bits of the files; those that are executable in the folder get x wherever it has r. Unset, a new file
    /// gets 0644 or 0755.
    pub file_mode: Option<Mode>,
    /// Permission bits of the directories, the topmost included. Unset, a new one gets 0755.
    pub dir_mode: Option<Mode>,
    /// The user who owns all of it, by name or number.
    pub owner: Option<Account>,
    /// The group that owns all of it, by name or number.
    pub group: Option<Account>,
}

/// A thing in the folder, as it is wanted on the machine.
enum Wish<'a> {
    Directory,
    File { bytes: &'a [u8], executable: bool },
    Link(&'a str),
}

impl Wish<'_> {
    fn word(&self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::File { .. } => "file",
            Self::Link(_) => "link",
        }
    }
}

impl Params {
    fn excluded(&self) -> Result<GlobSet, String> {
        excluded(self.exclude.iter().map(String::as_str))
    }

    fn wanted(&self, wish: &Wish<'_>) -> Wanted<'_> {
        let mode = match wish {
            Wish::Directory => self.dir_mode,
            Wish::File { executable, .. } => self.file_mode.map(|mode| executable_mode(mode, *executable)),
            Wish::Link(_) => None,
        };
        Wanted { mode, owner: self.owner.as_ref(), group: self.group.as_ref() }
    }

    /// All that is wanted, by relative path; the topmost directory is the empty one. Parents come before what is in them.
    fn wishes<'a>(
        &'a self,
        blobs: Blobs<'a>,
        excluded: &GlobSet,
    ) -> Result<BTreeMap<PathBuf, Wish<'a>>, Failure> {
        let mut wishes = BTreeMap::from([(PathBuf::new(), Wish::Directory)]);
        for entry in &self.source.entries {
            let path = Path::new(&entry.path);
            let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
            if !plain || entry.path.is_empty() || entry.path.contains('\0') {
                let call = format!("read the tree {}", self.source.file);
                return Err(Failure::new(call, format!("{:?} is not a path within it", entry.path)));
            }
            let path: PathBuf = path.components().collect();
            if path.ancestors().any(|path| excluded.is_match(path)) {
                continue;
            }
            // A directory that only files speak of is one too.
            for above in path.ancestors().skip(1) {
                wishes.entry(above.to_owned()).or_insert(Wish::Directory);
            }
            let wish = match &entry.kind {
                TreeKind::Directory => Wish::Directory,
                TreeKind::File { blob, executable } => {
                    Wish::File { bytes: blobs.get(blob)?, executable: *executable }
                }
                TreeKind::Link { target } => Wish::Link(target),
            };
            wishes.insert(path, wish);
        }
        let beneath = |path: &Path| {
            path.ancestors().skip(1).any(|above| !matches!(wishes.get(above), None | Some(Wish::Directory)))
        };
        if let Some(path) = wishes.keys().find(|path| beneath(path)) {
            let call = format!("read the tree {}", self.source.file);
            return Err(Failure::new(call, format!("{} is beneath what is no directory", path.display())));
        }
        Ok(wishes)
    }
}

fn executable_mode(mode: Mode, executable: bool) -> Mode {
    if executable { Mode(mode.0 | (mode.0 & 0o444) >> 2) } else { mode }
}

/// What matches them is left alone, with all in it.
pub(crate) fn excluded<'a>(globs: impl IntoIterator<Item = &'a str>) -> Result<GlobSet, String> {
    let mut set = GlobSetBuilder::new();
    for text in globs {
        set.add(glob(text).map_err(|error| format!("exclude: {error}"))?);
    }
    set.build().map_err(|error| format!("exclude: {error}"))
}

fn glob(text: &str) -> Result<globset::Glob, globset::Error> {
    let text = text.trim_end_matches('/');
    let pattern = match text.strip_prefix('/') {
        Some(anchored) => anchored.to_owned(),
        None if text.contains('/') => text.to_owned(),
        None => format!("**/{text}"),
    };
    GlobBuilder::new(&pattern).literal_separator(true).build()
}

pub(crate) fn check_glob(text: &str) -> Result<(), String> {
    glob(text).map(drop).map_err(|error| error.kind().to_string())
}

impl Module for Sync {
    type Params = Params;

    fn about(&self) -> About {
        About {
            name: "sync",
            summary: "A folder beside the states file, as it is, on the machine.",
            identity: Some("path"),
            dry_run: "Tells everything: each thing that comes, changes or goes, with diffs of texts.",
            outputs: &[("path", "where the directory is")],
            example: "\
site-files:
  sync:
    path: /srv/www
    source: www/
    delete: true
    exclude: [uploads, '*.tmp']
    file_mode: \"0644\"
",
        }
    }

    fn check(&self, p: &Params) -> Result<(), String> {
        if p.path.file_name().is_none() {
            return Err("path: the root directory cannot be synced".into());
        }
        p.excluded().map(|_| ())
    }

    fn needs(&self, p: &Params) -> Vec<Resource> {
        let owned = Wanted { mode: None, owner: p.owner.as_ref(), group: p.group.as_ref() };
        needs(&p.path, owned)
    }

    fn provides(&self, p: &Params) -> Vec<Resource> {
        let inside = p.source.entries.iter().map(|entry| Resource::path(&p.path.join(&entry.path)));
        std::iter::once(Resource::path(&p.path)).chain(inside).collect()
    }

    fn looks_ahead(&self) -> bool {
        true
    }

    fn analyze(&self, p: &Params, cx: &Analyze<'_>) -> Result<Analysis, Failure> {
        let analysis = conclude(&p.path, look(p, cx))?;
        Ok(analysis.output("path", p.path.to_string_lossy()))
    }

    fn apply(&self, p: &Params, cx: &Apply<'_>, analysis: &Analysis) -> Result<Applied, Failure> {
        let excluded = p.excluded().map_err(|words| Failure::new("read the globs", words))?;
        let wishes = p.wishes(cx.blobs, &excluded)?;
        let listed = by_path(analysis);
        // What goes, goes first and from the innermost on: something else may come to stand there.
        for (relative, fields) in listed.iter().rev() {
            let Some(change) = fields.get("exists") else { continue };
            // A file or a link is put over a file or a link at once.
            let directory = Datum::known("directory");
            let clear =
                change.after == Datum::Absent || change.after == directory || change.before == directory;
            if change.before == Datum::Absent || !clear {
                continue;
            }
            let path = p.path.join(relative);
            match cx.host.entry(&path)? {
                Some(entry) if entry.kind == EntryKind::Directory => cx.host.remove_directory(&path)?,
                Some(_) => cx.host.remove(&path)?,
                None => {}
            }
        }
        for (relative, wish) in &wishes {
            let Some(fields) = listed.get(relative.as_path()) else { continue };
            put(p, cx, relative, wish, fields)?;
        }
        Ok(Applied { outputs: analysis.outputs.clone(), ..Applied::default() })
    }
}

fn put(
    p: &Params,
    cx: &Apply<'_>,
    relative: &Path,
    wish: &Wish<'_>,
    fields: &BTreeMap<&str, &Change>,
) -> Result<(), Failure> {
    let path = if relative.as_os_str().is_empty() { p.path.to_path_buf() } else { p.path.join(relative) };
    let wanted = p.wanted(wish).ownership(cx.host)?;
    let new = fields.contains_key("exists");
    match wish {
        Wish::Directory if new => cx.host.make_directory(&path, wanted),
        Wish::File { bytes, executable } if new || fields.contains_key("content") => {
            let usual = new.then(|| executable_mode(Mode(0o644), *executable).0);
            cx.host.write(&path, bytes, Ownership { mode: wanted.mode.or(usual), ..wanted })
        }
        Wish::Link(target) if new || fields.contains_key("target") => {
            cx.host.make_link(&path, Path::new(target))?;
            cx.host.set_ownership(&path, wanted)
        }
        _ => cx.host.set_ownership(&path, wanted),
    }
}

/// The changes by the path that they are of, and by field.
fn by_path(analysis: &Analysis) -> BTreeMap<&Path, BTreeMap<&str, &Change>> {
    let mut listed: BTreeMap<&Path, BTreeMap<&str, &Change>> = BTreeMap::new();
    for change in &analysis.changes {
        let (name, of) = change.field.split_once(" of ").unwrap_or((&change.field, ""));
        listed.entry(Path::new(of)).or_default().insert(name, change);
    }
    listed
}

fn look(p: &Params, cx: &Analyze<'_>) -> Sight<Analysis> {
    let excluded = p.excluded().map_err(|words| Failure::new("read the globs", words))?;
    let wishes = p.wishes(cx.blobs, &excluded)?;
    let mut seen =
        Seen { p, cx, excluded: &excluded, changes: Vec::new(), predicts: Vec::new(), fresh: Vec::new() };
    for (relative, wish) in &wishes {
        seen.one(relative, wish)?;
    }
    if p.delete {
        seen.extras(&wishes)?;
    }
    let mut analysis = Analysis::of(seen.changes);
    for (path, thing) in seen.predicts {
        analysis = analysis.predict(Resource::path(&path), Some(thing.value()));
    }
    Ok(analysis)
}

struct Seen<'a, 'b> {
    p: &'a Params,
    cx: &'a Analyze<'b>,
    excluded: &'a GlobSet,
    changes: Vec<Change>,
    predicts: Vec<(PathBuf, Thing)>,
    /// Directories that are new: nothing is in them.
    fresh: Vec<PathBuf>,
}

impl Seen<'_, '_> {
    fn one(&mut self, relative: &Path, wish: &Wish<'_>) -> Sight<()> {
        let (p, cx) = (self.p, self.cx);
        let path = if relative.as_os_str().is_empty() { p.path.to_path_buf() } else { p.path.join(relative) };
        let of = relative.to_str().unwrap_or_default();
        let beneath_fresh = self.fresh.iter().any(|fresh| relative != fresh && relative.starts_with(fresh));
        let standing = if beneath_fresh { Standing::absent(&path, None) } else { Standing::at(cx, &path)? };
        let same = standing.what() == wish.word();
        if !same {
            self.replaces(relative, wish, &standing)?;
            self.changes.push(Change::new(field("exists", of), standing.before(), Datum::known(wish.word())));
            if matches!(wish, Wish::Directory) {
                self.fresh.push(relative.to_owned());
            }
        }
        let nothing = Standing::absent(&path, standing.by.clone());
        let old = if same { &standing } else { &nothing };
        let before = self.changes.len() - usize::from(!same);
        let mut thing = Thing { kind: wish.word(), ..Thing::default() };
        match wish {
            Wish::File { bytes, .. } => {
                self.changes.extend(content_change(cx, old, bytes, of)?);
                thing.text = content::text(bytes).map(str::to_owned);
            }
            Wish::Link(target) => {
                thing.target = Some((*target).to_owned());
                let led = match &old.kind {
                    Kind::Link(led) => Some(led.to_string_lossy().into_owned()),
                    _ => None,
                };
                if led.as_deref() != Some(*target) {
                    let was = led.map_or(Datum::Absent, |led| old.datum(led));
                    self.changes.push(Change::new(field("target", of), was, Datum::known(*target)));
                }
            }
            Wish::Directory => {}
        }
        let wanted = p.wanted(wish);
        self.changes.extend(wanted.changes(cx, old, of)?);
        if self.changes.len() > before {
            let usual = match wish {
                Wish::Directory => Mode(0o755),
                Wish::File { executable, .. } => executable_mode(Mode(0o644), *executable),
                Wish::Link(_) => Mode(0o777),
            };
            self.predicts.push((path, wanted.foretell(old, thing, usual, cx)));
        }
        Ok(())
    }

    /// Whether something else may be put in the place of what stands there. What is in a directory that goes is
    /// listed with it.
    fn replaces(&mut self, relative: &Path, wish: &Wish<'_>, standing: &Standing) -> Sight<()> {
        let path = &standing.path;
        let in_the_way =
            |words: &str| Failure::on("put", path, format!("it is a {}{words}", standing.what()));
        match (&standing.kind, relative.as_os_str().is_empty()) {
            (Kind::Absent, true) => parent_ready(self.cx, path),
            (Kind::Absent, false) => Ok(()),
            // The topmost directory may be a link to one only if somebody says so by naming that one.
            (_, true) => Err(in_the_way("").into()),
            (Kind::Special, _) => Err(in_the_way("").into()),
            (Kind::Directory, _) if self.p.delete => {
                if self.gone(relative, &BTreeMap::new())? {
                    return Ok(());
                }
                let words = ", and what is in it is partly excluded";
                Err(in_the_way(words).into())
            }
            (Kind::File, _) if self.p.delete || !matches!(wish, Wish::Directory) => Ok(()),
            (Kind::Link(_), _) => Ok(()),
            _ => {
                let failure = in_the_way(&format!(", and the folder has a {}", wish.word()));
                Err(failure.hint("`delete: true` replaces it").into())
            }
        }
    }

    fn extras(&mut self, wishes: &BTreeMap<PathBuf, Wish<'_>>) -> Sight<()> {
        if self.fresh.iter().any(|fresh| fresh.as_os_str().is_empty()) {
            return Ok(());
        }
        self.gone(Path::new(""), wishes).map(|_| ())
    }

    /// Lists what goes beneath a directory. Whether all of it does.
    fn gone(&mut self, relative: &Path, wishes: &BTreeMap<PathBuf, Wish<'_>>) -> Sight<bool> {
        let mut all = true;
        for name in self.cx.view.list(&self.p.path.join(relative))?.unwrap_or_default() {
            let inner = relative.join(name);
            if self.excluded.is_match(&inner) {
                all = false;
                continue;
            }
            let path = self.p.path.join(&inner);
            let standing = Standing::at(self.cx, &path)?;
            if !standing.exists() {
                continue;
            }
            match wishes.get(&inner) {
                // Its insides were listed when it was found to be replaced.
                Some(Wish::Directory) if standing.kind == Kind::Directory => {
                    self.gone(&inner, wishes)?;
                    all = false;
                    continue;
                }
                Some(_) => {
                    all = false;
                    continue;
                }
                None => {}
            }
            let Some(of) = inner.to_str() else {
                let words = "its name is not UTF-8, and could not be listed in a plan";
                return Err(Failure::on("remove", &path, words).into());
            };
            if standing.kind == Kind::Directory && !self.gone(&inner, wishes)? {
                all = false;
                continue;
            }
            if self.changes.len() > MAX_ENTRIES {
                let words = format!("more than {MAX_ENTRIES} things would change");
                return Err(Failure::on("sync", &self.p.path, words).into());
            }
            self.changes.push(Change::new(field("exists", of), standing.before(), Datum::Absent));
            self.predicts.push((path, Thing::absent()));
        }
        Ok(all)
    }
}

fn content_change(cx: &Analyze<'_>, old: &Standing, bytes: &[u8], of: &str) -> Sight<Option<Change>> {
    let mut change = if old.by.is_none() && old.size > MAX_FILE && old.exists() {
        let before = Datum::known(format!("{} bytes, too large to be read", old.size));
        Change::new("content", before, Datum::known(content::describe(bytes)))
    } else {
        let before = old.content(cx.view)?;
        if before.as_deref() == Some(bytes) {
            return Ok(None);
        }
        replacement::shown(cx, old, before.as_deref(), bytes, old.is_secret(cx.view))
    };
    change.field = field("content", of);
    Ok(Some(change))
}

#[cfg(test)]
mod tests;

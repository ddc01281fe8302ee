//! `directory`: a directory, and if asked for owner and mode of all that is in it.

use std::path::{Path, PathBuf};

use mainstay_core::state::plan::{Change, Datum};
use schemars::JsonSchema;
use serde::Deserialize;

use super::file::needs;
use crate::failure::Failure;
use crate::field::{Account, HostPath, Mode};
use crate::forecast::Resource;
use crate::host::Ownership;
use crate::module::{About, Analysis, Analyze, Applied, Apply, Module};
use crate::standing::{Kind, Sight, Standing, Thing, Wanted, conclude, field, parent_ready};

/// Most things that are looked at beneath a recursive directory: each one that differs is a line in a plan.
pub const MAX_ENTRIES: usize = 100_000;

pub struct Directory;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Where the directory is: an absolute path.
    pub path: HostPath,
    /// Permission bits as octal digits in quotes: `"0750"`. A new directory gets 0755 if it is unset.
    pub mode: Option<Mode>,
    /// The user who owns it, by name or number.
    pub owner: Option<Account>,
    /// The group that owns it, by name or number.
    pub group: Option<Account>,
    /// Permission bits of the files in it and in the directories beneath, where `recurse` is set. Unset, they stay.
    pub file_mode: Option<Mode>,
    /// Give all that is in it the same owner and group, the directories beneath it the same mode, and files the
    /// `file_mode`. Links are left alone and never followed.
    #[serde(default)]
    pub recurse: bool,
    /// Make missing directories above it too, with the process's own owner and mode 0755.
    #[serde(default)]
    pub makedirs: bool,
    /// There is to be no directory: it is removed with all that is in it. A file or a link at the path is an error.
    #[serde(default)]
    pub absent: bool,
}

impl Params {
    fn wanted(&self) -> Wanted<'_> {
        Wanted { mode: self.mode, owner: self.owner.as_ref(), group: self.group.as_ref() }
    }

    /// What is wanted of something beneath.
    fn wanted_inside(&self, directory: bool) -> Wanted<'_> {
        Wanted { mode: if directory { self.mode } else { self.file_mode }, ..self.wanted() }
    }
}

impl Module for Directory {
    type Params = Params;

    fn about(&self) -> About {
        About {
            name: "directory",
            summary: "A directory: its owner and mode, and those of what is in it.",
            identity: Some("path"),
            dry_run: "Tells everything. With `recurse`, each thing beneath that would change is listed; what later \
                      states put there is not.",
            outputs: &[("path", "where the directory is")],
            example: "\
app-data:
  directory:
    path: /srv/app/data
    owner: root
    mode: \"0750\"
    makedirs: true
app-cache:
  directory: {path: /var/cache/app, absent: true}
",
        }
    }

    fn check(&self, p: &Params) -> Result<(), String> {
        let managed = p.mode.is_some() || p.owner.is_some() || p.group.is_some() || p.file_mode.is_some();
        if p.absent && (managed || p.recurse || p.makedirs) {
            return Err("absent: a directory that is not there has no owner or mode".into());
        }
        if p.absent && p.path.file_name().is_none() {
            return Err("absent: the root directory is not removed".into());
        }
        if p.file_mode.is_some() && !p.recurse {
            return Err("file_mode: it is for what is in the directory, which needs `recurse: true`".into());
        }
        if p.recurse && !managed {
            return Err("recurse: there is no owner, group or mode to give".into());
        }
        Ok(())
    }

    fn needs(&self, p: &Params) -> Vec<Resource> {
        needs(&p.path, p.wanted())
    }

    fn provides(&self, p: &Params) -> Vec<Resource> {
        vec![Resource::path(&p.path)]
    }

    fn looks_ahead(&self) -> bool {
        true
    }

    fn analyze(&self, p: &Params, cx: &Analyze<'_>) -> Result<Analysis, Failure> {
        let sight = if p.absent { absence(p, cx) } else { presence(p, cx) };
        let analysis = conclude(&p.path, sight)?;
        Ok(analysis.output("path", p.path.to_string_lossy()))
    }

    fn apply(&self, p: &Params, cx: &Apply<'_>, analysis: &Analysis) -> Result<Applied, Failure> {
        let applied = Applied { outputs: analysis.outputs.clone(), ..Applied::default() };
        if p.absent {
            if analysis.lists("exists") {
                cx.host.remove_tree(&p.path)?;
            }
            return Ok(applied);
        }
        let ownership = p.wanted().ownership(cx.host)?;
        if analysis.lists("exists") {
            for above in missing_above(&p.path, &|path| Ok(cx.host.target(path)?.is_some()))? {
                cx.host.make_directory(&above, Ownership::default())?;
            }
            cx.host.make_directory(&p.path, ownership)?;
        } else if ["mode", "owner", "group"].iter().any(|field| analysis.lists(field)) {
            // What is managed may be what the path's link leads to.
            let path =
                std::fs::canonicalize(p.path.as_path()).map_err(|e| Failure::on("follow", &p.path, e))?;
            cx.host.set_ownership(&path, ownership)?;
        }
        // Nothing is looked for anew: what the plan lists is what is done.
        let mut beneath: Vec<&str> =
            analysis.changes.iter().filter_map(|change| Some(change.field.split_once(" of ")?.1)).collect();
        beneath.dedup();
        for relative in beneath.iter().filter(|relative| !relative.starts_with('/')) {
            let path = p.path.join(relative);
            let directory = match cx.host.entry(&path)? {
                Some(entry) => entry.kind == crate::host::EntryKind::Directory,
                None => return Err(Failure::on("change mode of", &path, "it is gone")),
            };
            cx.host.set_ownership(&path, p.wanted_inside(directory).ownership(cx.host)?)?;
        }
        Ok(applied)
    }
}

fn absence(p: &Params, cx: &Analyze<'_>) -> Sight<Analysis> {
    let standing = Standing::at(cx, &p.path)?;
    match standing.kind {
        Kind::Absent => Ok(Analysis::unchanged()),
        Kind::Directory => {
            let change = Change::new("exists", standing.before(), Datum::Absent);
            let inside = count(cx, &p.path, &standing)?;
            let analysis = Analysis::of(vec![change]);
            let analysis = match inside {
                0 => analysis,
                inside => analysis.reason(format!("{inside} thing(s) in it go with it")),
            };
            Ok(analysis.predict(Resource::path(&p.path), Some(Thing::absent().value())))
        }
        _ => Err(not_a_directory(&p.path, &standing).into()),
    }
}

fn count(cx: &Analyze<'_>, path: &Path, standing: &Standing) -> Result<usize, Failure> {
    if standing.by.is_some() { Ok(0) } else { Ok(cx.view.list(path)?.map_or(0, |names| names.len())) }
}

fn presence(p: &Params, cx: &Analyze<'_>) -> Sight<Analysis> {
    let standing = Standing::through(cx, &p.path)?;
    let mut changes = Vec::new();
    let mut made = Vec::new();
    match standing.kind {
        Kind::Directory => {}
        // A link that leads nowhere is not replaced in passing.
        Kind::Absent if standing.path != *p.path => {
            let words = format!("it is a link to {}, which does not exist", standing.path.display());
            return Err(Failure::on("make directory", &p.path, words).into());
        }
        Kind::Absent => {
            if p.makedirs {
                let exists = |path: &Path| -> Sight<bool> { Ok(Standing::through(cx, path)?.exists()) };
                made = missing_above(&p.path, &exists)?;
                for above in &made {
                    let name = field("exists", &above.to_string_lossy());
                    changes.push(Change::new(name, Datum::Absent, Datum::known("directory")));
                }
            }
            match made.first() {
                Some(first) => parent_ready(cx, first)?,
                None => parent_ready(cx, &p.path)?,
            }
            changes.push(Change::new("exists", Datum::Absent, Datum::known("directory")));
        }
        _ => return Err(not_a_directory(&p.path, &standing).into()),
    }
    changes.extend(p.wanted().changes(cx, &standing, "")?);
    let own = !changes.is_empty();
    if p.recurse && standing.exists() && standing.by.is_none() {
        inside(p, cx, &mut changes)?;
    }
    let mut analysis = Analysis::of(changes);
    for above in made {
        let thing = Thing { kind: "directory", ..Thing::default() };
        analysis = analysis.predict(Resource::path(&above), Some(thing.value()));
    }
    if own {
        let thing = Thing { kind: "directory", ..Thing::default() };
        let thing = p.wanted().foretell(&standing, thing, Mode(0o755), cx);
        analysis = analysis.predict(Resource::path(&p.path), Some(thing.value()));
    }
    Ok(analysis)
}

/// What differs beneath the directory, in the order of the paths.
fn inside(p: &Params, cx: &Analyze<'_>, changes: &mut Vec<Change>) -> Sight<()> {
    let mut pending = vec![PathBuf::new()];
    let mut seen = 0;
    while let Some(relative) = pending.pop() {
        let names = cx.view.list(&p.path.join(&relative))?.unwrap_or_default();
        let mut directories = Vec::new();
        for name in names {
            seen += 1;
            if seen > MAX_ENTRIES {
                let words = format!("there are more than {MAX_ENTRIES} things in it");
                return Err(Failure::on("go through", &p.path, words).into());
            }
            let relative = relative.join(name);
            let standing = Standing::at(cx, &p.path.join(&relative))?;
            let directory = standing.kind == Kind::Directory;
            if !matches!(standing.kind, Kind::Directory | Kind::File) {
                continue;
            }
            let Some(shown) = relative.to_str() else {
                let words = "a name in it is not UTF-8, and could not be listed in a plan";
                return Err(Failure::on("go through", &p.path.join(&relative), words).into());
            };
            changes.extend(p.wanted_inside(directory).changes(cx, &standing, shown)?);
            if directory {
                directories.push(relative);
            }
        }
        pending.extend(directories.into_iter().rev());
    }
    Ok(())
}

/// Directories above that are missing, the outermost first.
pub(super) fn missing_above<E>(
    path: &Path,
    exists: &dyn Fn(&Path) -> Result<bool, E>,
) -> Result<Vec<PathBuf>, E> {
    let mut missing = Vec::new();
    for above in path.ancestors().skip(1) {
        if exists(above)? {
            break;
        }
        missing.push(above.to_owned());
    }
    missing.reverse();
    Ok(missing)
}

fn not_a_directory(path: &Path, standing: &Standing) -> Failure {
    Failure::on("manage", path, format!("it is not a directory but a {}", standing.what()))
        .hint("a `file` state with `absent: true` removes it")
}

#[cfg(test)]
mod tests;

//! `file`: one regular file.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use mainstay_core::state::plan::{Change, Datum};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::blob::{Blob, Rendered};
use crate::content;
use crate::failure::Failure;
use crate::field::{Account, HostPath, Mode};
use crate::forecast::Resource;
use crate::host::{MAX_FILE, Ownership, Unsynced};
use crate::module::{About, Analysis, Analyze, Applied, Apply, Blobs, Module};
use crate::replacement;
use crate::standing::{Kind, Sight, Standing, Thing, Wanted, conclude, parent_ready};

pub struct File;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Where the file is: an absolute path.
    #[schemars(extend("format" = "path-below-root"))]
    pub path: HostPath,
    /// What it holds, as text. `content: ""` is an empty file. Without `content`, `source` and `template` a missing
    /// file is made empty, and what one holds that is there stays as it is.
    pub content: Option<String>,
    /// A file beside the states file whose bytes it holds, unchanged.
    pub source: Option<Blob>,
    /// A file beside the states file that is a template, rendered on the machine with its facts.
    pub template: Option<Rendered>,
    /// Permission bits as octal digits in quotes: `"0640"`. A new file gets 0644 if it is unset, or 0600 if the file is
    /// `sensitive`.
    pub mode: Option<Mode>,
    /// The user who owns it, by name or number.
    pub owner: Option<Account>,
    /// The group that owns it, by name or number.
    pub group: Option<Account>,
    /// A shell command that checks a new content before it is put in place; `%s` stands for the path of the new file.
    /// If it does not exit with 0, the old file stays.
    #[schemars(extend("format" = "validate-command"))]
    pub validate: Option<String>,
    /// Keep the content that is replaced, beside the file and with `.bak` at the end of its name. An older one is
    /// overwritten.
    #[serde(default)]
    pub backup: bool,
    /// If a link stands at the path, manage the file that it leads to. Otherwise a link is replaced by the file.
    #[serde(default)]
    pub follow: bool,
    /// Never show what it holds or held: plans say only that it changes.
    #[serde(default)]
    pub sensitive: bool,
    /// There is to be no file, and no link, at the path.
    #[serde(default)]
    pub absent: bool,
}

impl Params {
    fn wanted(&self) -> Wanted<'_> {
        Wanted { mode: self.mode, owner: self.owner.as_ref(), group: self.group.as_ref() }
    }

    /// What it is to hold, if that is managed.
    fn bytes<'a>(&'a self, blobs: Blobs<'a>) -> Result<Option<Cow<'a, [u8]>>, Failure> {
        if let Some(source) = &self.source {
            return Ok(Some(blobs.get(&source.id)?.into()));
        }
        let text = self.content.as_ref().or(self.template.as_ref().map(|template| &template.0));
        Ok(text.map(|text| text.as_bytes().into()))
    }

    /// The new file, not in its place yet.
    fn written<'h>(&self, cx: &Apply<'h>, path: &Path, new: bool) -> Result<Unsynced<'h>, Failure> {
        let ownership = self.wanted().ownership(cx.host)?;
        let bytes = self.bytes(cx.blobs)?.unwrap_or_default();
        let usual = if new { Some(self.usual_mode().0) } else { None };
        cx.host.stage_unsynced(path, &bytes, Ownership { mode: ownership.mode.or(usual), ..ownership })
    }

    fn usual_mode(&self) -> Mode {
        Mode(if self.sensitive { 0o600 } else { 0o644 })
    }
}

impl Module for File {
    type Params = Params;

    fn about(&self) -> About {
        About {
            name: "file",
            summary: "One regular file: its content, its owner and its mode.",
            identity: Some("path"),
            dry_run: "Tells everything, with a diff of texts; binary content by size and digest. `validate` runs only \
                      when the file is about to be put in place.",
            outputs: &[
                ("path", "where the file is, links followed if `follow` is set"),
                ("size", "how many bytes it holds"),
                ("backup", "where a replaced content is kept, with `backup`"),
            ],
            example: "\
app-conf:
  file:
    path: /etc/app/app.toml
    content: |
      port = 8080
    owner: root
    group: root
    mode: \"0640\"
old-conf:
  file: {path: /etc/app.conf, absent: true}
",
        }
    }

    fn check(&self, p: &Params) -> Result<(), String> {
        let given = [p.content.is_some(), p.source.is_some(), p.template.is_some()];
        if given.iter().filter(|given| **given).count() > 1 {
            return Err("content, source and template exclude each other".into());
        }
        if p.path.file_name().is_none() {
            return Err("path: the root directory is not a file".into());
        }
        if let Some(command) = &p.validate
            && !command.contains("%s")
        {
            return Err("validate: the command has no %s, which stands for the new file".into());
        }
        let more = given.contains(&true) || p.mode.is_some() || p.owner.is_some() || p.group.is_some();
        if p.absent && (more || p.validate.is_some()) {
            return Err("absent: a file that is not there has no content, owner or mode".into());
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
        conclude(&p.path, if p.absent { absence(p, cx) } else { presence(p, cx) })
    }

    fn apply(&self, p: &Params, cx: &Apply<'_>, analysis: &Analysis) -> Result<Applied, Failure> {
        let path = match analysis.outputs.get("path").and_then(|path| path.as_str()) {
            Some(path) => PathBuf::from(path),
            None => p.path.to_path_buf(),
        };
        let applied = Applied { outputs: analysis.outputs.clone(), ..Applied::default() };
        if p.absent {
            if analysis.lists("exists") {
                cx.host.remove(&path)?;
            }
            return Ok(applied);
        }
        if !analysis.lists("exists") && !analysis.lists("content") {
            cx.host.set_ownership(&path, p.wanted().ownership(cx.host)?)?;
            return Ok(applied);
        }
        let new = analysis.lists("exists");
        let staged = p.written(cx, &path, new)?.sync()?;
        if let Some(command) = &p.validate {
            replacement::validate(cx.host, command, &staged, p.sensitive)?;
        }
        if p.backup && !new {
            replacement::keep(cx.host, &path)?;
        }
        staged.place()?;
        Ok(applied)
    }

    fn stage<'h>(
        &self,
        p: &Params,
        cx: &Apply<'h>,
        analysis: &Analysis,
    ) -> Result<Option<Unsynced<'h>>, Failure> {
        let new = analysis.lists("exists");
        // A command that checks it may look at anything; a link is to be followed as it leads at the turn.
        let more = p.absent || p.backup || p.follow || p.validate.is_some();
        // What names owners for whoever comes after.
        let names = ["/etc/passwd", "/etc/group", "/etc/nsswitch.conf"].map(Path::new).contains(&&*p.path);
        if more || names || !(new || analysis.lists("content")) {
            return Ok(None);
        }
        p.written(cx, &p.path, new).map(Some)
    }
}

/// What any state at a path needs: the directory it is in, and the accounts it names.
pub(super) fn needs(path: &HostPath, wanted: Wanted<'_>) -> Vec<Resource> {
    let mut needs: Vec<Resource> = path.ancestors().skip(1).map(Resource::path).collect();
    needs.extend(wanted.owner.map(|owner| Resource::user(owner.as_str())));
    needs.extend(wanted.group.map(|group| Resource::group(group.as_str())));
    needs
}

fn absence(p: &Params, cx: &Analyze<'_>) -> Sight<Analysis> {
    let standing = Standing::at(cx, &p.path)?;
    let analysis = match standing.kind {
        Kind::Absent => Analysis::unchanged(),
        Kind::Directory => {
            let failure = Failure::on("remove", &p.path, "it is a directory");
            return Err(failure.hint("a `directory` state with `absent: true` removes it").into());
        }
        Kind::File | Kind::Link(_) | Kind::Special => {
            Analysis::of(vec![Change::new("exists", standing.before(), Datum::Absent)])
                .predict(Resource::path(&p.path), Some(Thing::absent().value()))
        }
    };
    Ok(analysis.output("path", p.path.to_string_lossy()))
}

fn presence(p: &Params, cx: &Analyze<'_>) -> Sight<Analysis> {
    let standing = if p.follow { Standing::through(cx, &p.path)? } else { Standing::at(cx, &p.path)? };
    let bytes = p.bytes(cx.blobs)?;
    match &standing.kind {
        Kind::Absent => parent_ready(cx, &standing.path)?,
        Kind::File => {}
        Kind::Link(_) if bytes.is_some() => {}
        Kind::Link(target) => {
            let failure = Failure::on("manage", &p.path, format!("it is a link to {}", target.display()));
            let hint = "`follow: true` manages what it leads to; a content would replace the link";
            return Err(failure.hint(hint).into());
        }
        Kind::Directory => {
            let failure = Failure::on("manage", &p.path, "it is a directory");
            return Err(failure.hint("a `directory` state with `absent: true` removes it").into());
        }
        Kind::Special => return Err(Failure::on("manage", &p.path, "it is not a regular file").into()),
    }
    let new = standing.kind != Kind::File;
    let mut changes = Vec::new();
    if new {
        changes.push(Change::new("exists", standing.before(), Datum::known("file")));
    }
    // A link that is replaced hands nothing on to the file.
    let nothing = Standing::absent(&standing.path, standing.by.clone());
    let old = if new { &nothing } else { &standing };
    let mut size = standing.size;
    if let Some(bytes) = &bytes {
        size = bytes.len() as u64;
        changes.extend(content_change(p, cx, old, bytes)?);
    }
    changes.extend(p.wanted().changes(cx, old, "")?);
    let replaces = changes.iter().any(|change| change.field == "content");
    let mut kept = None;
    if p.backup && replaces && !new {
        let (more, foretold) = replacement::kept(cx, &standing, p.sensitive)?;
        changes.extend(more);
        kept = Some(foretold);
    }
    let pending = !changes.is_empty();
    let mut analysis = Analysis::of(changes)
        .output("path", standing.path.to_string_lossy())
        .output("size", if new && bytes.is_none() { 0 } else { size });
    if p.backup {
        analysis = analysis.output("backup", replacement::backup_path(&standing.path).to_string_lossy());
    }
    if pending {
        let text = match &bytes {
            Some(bytes) => content::text(bytes).map(str::to_owned),
            None if new => Some(String::new()),
            None => standing.content(cx.view)?.and_then(|bytes| content::text(&bytes).map(str::to_owned)),
        };
        let secret = p.sensitive || (bytes.is_none() && standing.is_secret(cx.view));
        let thing = Thing { kind: "file", text, secret, ..Thing::default() };
        let thing = p.wanted().foretell(old, thing, p.usual_mode(), cx);
        analysis = analysis.predict(Resource::path(&standing.path), Some(thing.value()));
        analysis.predicts.extend(kept);
    }
    if let Kind::Link(target) = &standing.kind {
        analysis = analysis.reason(format!("replaces a link to {}", target.display()));
    }
    if replaces && !new && standing.links > 1 {
        let others = standing.links - 1;
        analysis = analysis.reason(format!("{others} other name(s) of this file keep the old content"));
    }
    Ok(analysis)
}

/// The change of content, if it differs. A file too large to be read is told by its size.
fn content_change(p: &Params, cx: &Analyze<'_>, old: &Standing, bytes: &[u8]) -> Sight<Option<Change>> {
    let secret = || p.sensitive || old.is_secret(cx.view);
    if old.by.is_none() && old.size > MAX_FILE && old.exists() {
        let before = Datum::known(format!("{} bytes, too large to be read", old.size));
        let after = if secret() { cx.view.secret(bytes) } else { Datum::known(content::describe(bytes)) };
        return Ok(Some(Change::new("content", before, after)));
    }
    let before = old.content(cx.view)?;
    if before.as_deref() == Some(bytes) {
        return Ok(None);
    }
    Ok(Some(replacement::shown(cx, old, before.as_deref(), bytes, secret())))
}

#[cfg(test)]
mod tests;

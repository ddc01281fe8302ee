//! `git`: a working copy of a repository, at one commit.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay_core::state::plan::{Change, Datum};
use schemars::JsonSchema;
use serde::Deserialize;

use super::file::needs;
use crate::failure::Failure;
use crate::field::HostPath;
use crate::forecast::Resource;
use crate::host::{Command, EntryKind, Ownership, View};
use crate::module::{About, Analysis, Analyze, Applied, Apply, Module};
use crate::standing::{Hindrance, Kind, Sight, Standing, Thing, Wanted, conclude, missing, parent_ready};

/// A clone of a large repository over a slow line takes a while; one that makes no end hangs.
const CLONE_TIMEOUT: Duration = Duration::from_secs(3600);
/// What a look at a repository elsewhere may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(60);

/// What the repository, or whoever wrote its configuration, may not decide: no programs of its own (hooks, monitors, filters
/// of submodules), no ways of transport that run commands, no questions, and names for what git writes.
const SETTINGS: [(&str, &str); 14] = [
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("submodule.recurse", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("protocol.allow", "never"),
    ("protocol.https.allow", "always"),
    ("protocol.http.allow", "always"),
    ("protocol.ssh.allow", "always"),
    ("protocol.git.allow", "always"),
    ("protocol.file.allow", "always"),
    ("user.name", "mainstay"),
    ("user.email", "mainstay@localhost"),
    ("advice.detachedHead", "false"),
    ("gc.auto", "0"),
];

/// Lies in `.git` while a checkout runs. Where one was killed, the files in the working copy are of two commits and git
/// takes them for somebody's changes; with this they are known to be ours.
const UNFINISHED: &str = "mainstay-checkout";

/// What a git that was killed leaves, and no later one gets past.
const LOCKS: [&str; 2] = ["index.lock", "HEAD.lock"];

pub struct Git;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Where the working copy is: an absolute path. Its parent has to be there.
    #[schemars(extend("format" = "path-below-root"))]
    pub path: HostPath,
    /// Where the repository is: an `https:`, `http:`, `ssh:` or `git:` URL, `user@host:path`, or an absolute path.
    #[schemars(extend("format" = "git-address"))]
    pub repo: String,
    /// A branch, a tag, or the whole name of a commit. The working copy is at its commit, detached from any branch. By
    /// default what the repository's own HEAD says.
    #[schemars(extend("format" = "git-revision"))]
    pub rev: Option<String>,
    /// Throw away what was changed in the working copy, and replace another repository's. Files that the repository does not
    /// know stay. Without it, changed files are an error.
    #[serde(default)]
    pub force: bool,
    /// Fetch only so many commits of history.
    #[schemars(range(min = 1))]
    pub depth: Option<u32>,
}

/// What is wrong with the address of a repository.
pub(crate) fn check_address(repo: &str) -> Result<(), String> {
    if repo.is_empty() || repo.starts_with('-') || repo.contains(['\0', '\n']) {
        return Err("it is not the address of a repository".into());
    }
    match repo.contains("::") {
        true => Err("transports of git's helpers run commands and are not allowed".into()),
        false => Ok(()),
    }
}

/// What is wrong with the name of a branch, a tag or a commit.
pub(crate) fn check_revision(rev: &str) -> Result<(), String> {
    let odd = |c: char| c.is_whitespace() || c.is_control() || "~^:?*[\\".contains(c);
    match rev.is_empty() || rev.starts_with('-') || rev.contains(odd) || rev.contains("..") {
        true => Err("it is not the name of a branch, a tag or a commit".into()),
        false => Ok(()),
    }
}

impl Module for Git {
    type Params = Params;

    fn about(&self) -> About {
        About {
            name: "git",
            summary: "A working copy of a repository, at one commit. Hooks and submodules are not run or fetched.",
            identity: Some("path"),
            dry_run: "Tells from which commit to which, asking the repository what a branch or a tag is now. The files \
                      that differ are not listed.",
            outputs: &[("path", "where the working copy is"), ("commit", "the commit that it is at")],
            example: "\
app-source:
  git: {path: /srv/app/source, repo: 'https://git.example.com/app.git', rev: v1.2, depth: 1}
",
        }
    }

    fn check(&self, p: &Params) -> Result<(), String> {
        if p.path.file_name().is_none() {
            return Err("path: the root directory is not a working copy".into());
        }
        check_address(&p.repo).map_err(|why| format!("repo: {why}"))?;
        p.rev.as_deref().map_or(Ok(()), check_revision).map_err(|why| format!("rev: {why}"))?;
        if p.depth == Some(0) {
            return Err("depth: at least one commit is fetched".into());
        }
        Ok(())
    }

    fn needs(&self, p: &Params) -> Vec<Resource> {
        let mut needs = needs(&p.path, Wanted::default());
        needs.push(Resource::package("git"));
        needs
    }

    fn provides(&self, p: &Params) -> Vec<Resource> {
        vec![Resource::path(&p.path)]
    }

    fn writes(&self, p: &Params) -> Vec<PathBuf> {
        // Whence it was fetched.
        vec![p.path.join(".git/config")]
    }

    fn analyze(&self, p: &Params, cx: &Analyze<'_>) -> Result<Analysis, Failure> {
        let analysis = conclude(&p.path, look(p, cx))?;
        Ok(analysis.output("path", p.path.to_string_lossy()))
    }

    fn apply(&self, p: &Params, cx: &Apply<'_>, analysis: &Analysis) -> Result<Applied, Failure> {
        if analysis.changes.is_empty() {
            return Ok(Applied { outputs: analysis.outputs.clone(), ..Applied::default() });
        }
        let commit = analysis.outputs.get("commit").and_then(|commit| commit.as_str());
        let commit = commit.ok_or_else(|| Failure::new("check out", "no commit was found"))?;
        if analysis.lists("exists") {
            cx.host.make_directory(&p.path, Ownership::default())?;
        }
        if cx.host.entry(&p.path.join(".git"))?.is_none() {
            run(cx.host, git(&p.path).args(["init", "--quiet", "--template="]))?;
        }
        let origin = |view: &View| -> Result<Option<String>, Failure> {
            let ran = view.run(&git(&p.path).args(["config", "--get", "remote.origin.url"]))?;
            Ok(ran.succeeded().then(|| ran.text()))
        };
        match origin(cx.host)? {
            Some(url) if url == p.repo => {}
            Some(_) => run(cx.host, git(&p.path).args(["remote", "set-url", "origin", "--", &p.repo]))?,
            None => run(cx.host, git(&p.path).args(["remote", "add", "--", "origin", &p.repo]))?,
        }
        if !has(cx.host, &p.path, commit)? {
            fetch(p, cx.host, commit)?;
        }
        let note = p.path.join(".git").join(UNFINISHED);
        let unfinished = cx.host.entry(&note)?.is_some();
        if unfinished {
            for lock in LOCKS.map(|lock| p.path.join(".git").join(lock)) {
                if cx.host.entry(&lock)?.is_some() {
                    cx.host.remove(&lock)?;
                }
            }
        }
        let before = status(cx.host, &p.path, "normal")?;
        cx.host.write(&note, commit.as_bytes(), Ownership::default())?;
        cx.host.settle()?;
        let mut checkout = git(&p.path).args(["checkout", "--quiet", "--detach"]);
        if p.force || unfinished {
            checkout = checkout.arg("--force");
        }
        let checkout = checkout.args([commit, "--"]);
        let ran = cx.host.run(&checkout)?;
        // A file that could not be written git tells of, and calls it a success.
        let left = if ran.succeeded() { status(cx.host, &p.path, "no")? } else { String::new() };
        let is_done = ran.succeeded() && left.is_empty();
        // What was refused before anything was written leaves all as it was, and nothing to throw away.
        let was_refused = || -> Result<bool, Failure> {
            Ok(!ran.succeeded() && !unfinished && status(cx.host, &p.path, "normal")? == before)
        };
        if is_done || was_refused()? {
            cx.host.remove(&note)?;
        }
        let ran = ran.or_failure(&checkout)?;
        if let Some(first) = left.lines().next() {
            let words =
                format!("not all files are as in the commit: {}; {}", first.trim(), ran.error_text().trim());
            return Err(Failure::on("check out to", &p.path, words));
        }
        Ok(Applied { outputs: analysis.outputs.clone(), ..Applied::default() })
    }
}

fn look(p: &Params, cx: &Analyze<'_>) -> Sight<Analysis> {
    let standing = Standing::at(cx, &p.path)?;
    let nothing = |path: &Path| -> Result<bool, Failure> {
        Ok(cx.view.list(path)?.is_none_or(|names| names.is_empty()))
    };
    let fresh = match &standing.kind {
        Kind::Absent => {
            parent_ready(cx, &p.path)?;
            true
        }
        Kind::Directory if standing.by.is_some() => true,
        Kind::Directory => nothing(&p.path)?,
        _ => {
            let words = format!("it is not a directory but a {}", standing.what());
            return Err(Failure::on("check out to", &p.path, words).into());
        }
    };
    if !fresh && cx.view.entry(&p.path.join(".git"))?.is_none_or(|e| e.kind != EntryKind::Directory) {
        let failure =
            Failure::on("check out to", &p.path, "there is something in it, and it is no working copy");
        return Err(failure.into());
    }
    let commit = match resolve(p, cx.view) {
        Ok(commit) => commit,
        // The program, or what it asks, may be what an earlier state brings.
        Err(failure) => {
            return Err(match cx.forecast.get(&Resource::package("git")) {
                Some(coming) => Hindrance::Later(coming.by.clone()),
                None => missing(cx, failure),
            });
        }
    };
    let mut changes = Vec::new();
    if fresh {
        if !standing.exists() {
            changes.push(Change::new("exists", Datum::Absent, Datum::known("directory")));
        }
        changes.push(Change::new("repo", Datum::Absent, Datum::known(p.repo.as_str())));
        changes.push(Change::new("commit", Datum::Absent, Datum::known(commit.as_str())));
    } else {
        existing(p, cx, &commit, &mut changes)?;
    }
    let analysis = Analysis::of(changes).output("commit", commit);
    if analysis.changes.is_empty() {
        return Ok(analysis);
    }
    let thing = Thing { kind: "directory", inside_unknown: true, ..Thing::default() };
    Ok(analysis.predict(Resource::path(&p.path), Some(thing.value())))
}

/// What differs in a working copy that is there.
fn existing(p: &Params, cx: &Analyze<'_>, commit: &str, changes: &mut Vec<Change>) -> Sight<()> {
    let ask = |args: &[&str]| cx.view.run(&git(&p.path).args(args.iter().copied()));
    let url = ask(&["config", "--get", "remote.origin.url"])?;
    let url = url.succeeded().then(|| url.text());
    if url.as_deref() != Some(p.repo.as_str()) {
        if url.is_some() && !p.force {
            let words = format!("it is a working copy of {}", url.unwrap_or_default());
            return Err(Failure::on("check out to", &p.path, words).hint("`force: true` replaces it").into());
        }
        let was = url.map_or(Datum::Absent, Datum::known);
        changes.push(Change::new("repo", was, Datum::known(p.repo.as_str())));
    }
    let head = ask(&["rev-parse", "--verify", "--quiet", "HEAD^{commit}"])?;
    let head = head.succeeded().then(|| head.text());
    if head.as_deref() != Some(commit) {
        let was = head.clone().map_or(Datum::Absent, Datum::known);
        changes.push(Change::new("commit", was, Datum::known(commit)));
    }
    let status = status(cx.view, &p.path, "no")?;
    let unfinished = cx.view.read(&p.path.join(".git").join(UNFINISHED))?;
    if let Some(commit) = &unfinished {
        let commit = String::from_utf8_lossy(commit);
        changes.push(Change::new("unfinished", Datum::known(commit), Datum::Absent));
    }
    // A copy in which the first checkout failed has no commit, and so nothing that was changed.
    if !status.is_empty() && head.is_some() {
        if !p.force && unfinished.is_none() {
            let first = status.lines().next().unwrap_or_default().trim().to_owned();
            let words = format!("files in it were changed: {first}");
            return Err(Failure::on("check out to", &p.path, words)
                .hint("`force: true` throws that away")
                .into());
        }
        changes.push(Change::new("modified", Datum::known(status), Datum::Absent));
    }
    Ok(())
}

/// The files that differ from what was checked out last, and as asked for those that git does not know.
fn status(view: &View, path: &Path, untracked: &str) -> Result<String, Failure> {
    let untracked = format!("--untracked-files={untracked}");
    let status = git(path).args(["status", "--porcelain=v1", &untracked, "--ignore-submodules"]);
    Ok(view.run(&status)?.or_failure(&status)?.text())
}

/// The commit that is wanted. A whole name needs nobody to be asked.
fn resolve(p: &Params, view: &View) -> Result<String, Failure> {
    if let Some(rev) = p.rev.as_deref().filter(|rev| is_commit(rev)) {
        return Ok(rev.to_ascii_lowercase());
    }
    let rev = p.rev.as_deref().unwrap_or("HEAD");
    let command = base().timeout(LOOK_TIMEOUT).args(["ls-remote", "--quiet", "--", &p.repo]);
    let text = view.run(&command)?.or_failure(&command)?.text();
    let find = |name: &str| {
        let line = |line: &str| {
            let (commit, found) = line.split_once('\t')?;
            (found == name && is_commit(commit)).then(|| commit.to_owned())
        };
        text.lines().find_map(line)
    };
    let names = match rev {
        "HEAD" => vec!["HEAD".to_owned()],
        // An annotated tag is an object of its own; its commit has the name with the ending.
        rev => vec![
            format!("refs/heads/{rev}"),
            format!("refs/tags/{rev}^{{}}"),
            format!("refs/tags/{rev}"),
            rev.to_owned(),
        ],
    };
    names.iter().find_map(|name| find(name)).ok_or_else(|| {
        Failure::new(format!("look up {rev} in {}", p.repo), "there is no such branch or tag")
            .hint("a commit is named by all its 40 digits")
    })
}

fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn has(view: &View, path: &Path, commit: &str) -> Result<bool, Failure> {
    let object = format!("{commit}^{{commit}}");
    Ok(view.run(&git(path).args(["cat-file", "-e", &object]))?.succeeded())
}

/// Gets the commit: itself where the server gives single commits, else with all branches and tags.
fn fetch(p: &Params, view: &View, commit: &str) -> Result<(), Failure> {
    let with_depth = |command: Command| match p.depth {
        Some(depth) => command.arg(format!("--depth={depth}")),
        None => command,
    };
    let fetch = || git(&p.path).timeout(CLONE_TIMEOUT).args(["fetch", "--quiet", "--no-recurse-submodules"]);
    if p.depth.is_some() {
        let one = with_depth(fetch()).args(["--no-tags", "origin", commit]);
        if view.run(&one)?.succeeded() && has(view, &p.path, commit)? {
            return Ok(());
        }
    }
    let branches = "+refs/heads/*:refs/remotes/origin/*";
    run(view, fetch().args(["--tags", "--force", "origin", branches]))?;
    if has(view, &p.path, commit)? {
        return Ok(());
    }
    run(view, fetch().args(["origin", commit]))
}

fn base() -> Command {
    let mut command = Command::new("git")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_SSH_COMMAND", "ssh -oBatchMode=yes");
    for (name, value) in SETTINGS {
        command = command.arg("-c").arg(format!("{name}={value}"));
    }
    command
}

fn git(path: &Path) -> Command {
    base().arg("-C").arg(path.to_string_lossy())
}

fn run(view: &View, command: Command) -> Result<(), Failure> {
    view.run(&command)?.or_failure(&command).map(|_| ())
}

#[cfg(test)]
mod tests;

use std::fs;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::fidelity::{Observation, Trial};
use crate::host::Host;

struct Upstream {
    folder: TempDir,
}

impl Upstream {
    fn new() -> Self {
        let upstream = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(upstream.path()).unwrap();
        upstream.git(&["init", "--quiet", "--initial-branch=main"]);
        upstream.commit("one");
        upstream
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("upstream")
    }

    fn work(&self) -> std::path::PathBuf {
        self.folder.path().join("work")
    }

    fn git(&self, args: &[&str]) -> String {
        let command = git(&self.path()).args(args.iter().copied());
        Host::new().run(&command).unwrap().or_failure(&command).unwrap().text()
    }

    fn commit(&self, text: &str) -> String {
        fs::write(self.path().join("file"), text).unwrap();
        self.git(&["add", "file"]);
        self.git(&["commit", "--quiet", "-m", text]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Without the module's help: from git's own files.
    fn observe(&self) -> Observation {
        let mut seen = Observation::new();
        let work = self.work();
        if !work.exists() {
            return seen;
        }
        seen.insert("exists".into(), json!("directory"));
        let head = fs::read_to_string(work.join(".git/HEAD")).ok().filter(|head| !head.starts_with("ref: "));
        if let Some(head) = &head {
            seen.insert("commit".into(), json!(head.trim()));
        }
        if let Ok(config) = fs::read_to_string(work.join(".git/config")) {
            let url = config.lines().find_map(|line| line.trim().strip_prefix("url = "));
            seen.extend(url.map(|url| ("repo".to_owned(), json!(url))));
        }
        if let Ok(commit) = fs::read_to_string(work.join(".git/mainstay-checkout")) {
            seen.insert("unfinished".into(), json!(commit));
        }
        if head.is_some() && fs::read_to_string(work.join("file")).is_ok_and(|text| text == "mine") {
            seen.insert("modified".into(), json!(" M file"));
        }
        // One of two files that come in one commit, where git has called that one its own.
        let half = work.join("early").exists() && !work.join("late").exists();
        if half && seen.get("unfinished") == seen.get("commit") {
            seen.insert("modified".into(), json!(" D late"));
        }
        seen
    }

    fn run(&self, more: serde_json::Value) -> Result<Analysis, Failure> {
        let mut params = json!({"path": self.work(), "repo": self.path()});
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Trial::of(Git).run(params, &|| self.observe()).map(|found| found.planned)
    }
}

fn have_git() -> bool {
    let have = Host::new().run(&Command::new("git").arg("--version")).is_ok_and(|ran| ran.succeeded());
    if !have {
        eprintln!("skipped: there is no git here");
    }
    have
}

#[test]
fn a_working_copy_follows_a_branch_a_tag_and_a_commit() {
    if !have_git() {
        return;
    }
    let upstream = Upstream::new();
    let one = upstream.git(&["rev-parse", "HEAD"]);
    upstream.git(&["tag", "-a", "v1", "-m", "v1"]);
    let planned = upstream.run(json!({})).unwrap();
    assert!(planned.lists("exists") && planned.lists("commit"));
    let two = upstream.commit("two");
    upstream.run(json!({"rev": "main"})).unwrap();
    assert_eq!(fs::read_to_string(upstream.work().join("file")).unwrap(), "two");
    let planned = upstream.run(json!({"rev": "v1"})).unwrap();
    assert_eq!(planned.outputs["commit"], json!(one));
    assert_eq!(fs::read_to_string(upstream.work().join("file")).unwrap(), "one");
    upstream.run(json!({"rev": two})).unwrap();
    let failure = upstream.run(json!({"rev": "none"})).unwrap_err();
    assert!(failure.to_string().contains("no such branch or tag"), "{failure}");
}

#[test]
fn depth_fetches_little() {
    if !have_git() {
        return;
    }
    let upstream = Upstream::new();
    upstream.commit("two");
    // Over `file:`, since a path is copied whole.
    let repo = format!("file://{}", upstream.path().display());
    let params = json!({"path": upstream.work(), "repo": repo, "depth": 1});
    Trial::of(Git).run(params, &|| upstream.observe()).unwrap();
    let count = git(&upstream.work()).args(["rev-list", "--count", "HEAD"]);
    assert_eq!(Host::new().run(&count).unwrap().text(), "1");
}

#[test]
fn changed_files_are_thrown_away_only_by_force() {
    if !have_git() {
        return;
    }
    let upstream = Upstream::new();
    upstream.run(json!({})).unwrap();
    fs::write(upstream.work().join("file"), "mine").unwrap();
    fs::write(upstream.work().join("untracked"), "kept").unwrap();
    let failure = upstream.run(json!({})).unwrap_err();
    assert!(failure.to_string().contains("force"), "{failure}");
    upstream.run(json!({"force": true})).unwrap();
    assert_eq!(fs::read_to_string(upstream.work().join("file")).unwrap(), "one");
    assert!(upstream.work().join("untracked").exists());
}

#[test]
fn a_checkout_that_was_killed_is_done_again() {
    if !have_git() {
        return;
    }
    let upstream = Upstream::new();
    // Killed in the first checkout, and then in one from commit to commit.
    for text in ["two", "three"] {
        fs::write(upstream.path().join(text), "new").unwrap();
        upstream.git(&["add", text]);
        let commit = upstream.commit(text);
        fs::create_dir_all(upstream.work()).unwrap();
        upstream_fetched(&upstream);
        let own = upstream.work().join(".git");
        fs::write(own.join("mainstay-checkout"), &commit).unwrap();
        for lock in ["index.lock", "HEAD.lock"] {
            fs::write(own.join(lock), "").unwrap();
        }
        fs::write(upstream.work().join("file"), "mine").unwrap();
        fs::write(upstream.work().join(text), "ne").unwrap();
        upstream.run(json!({})).unwrap();
        assert_eq!(fs::read_to_string(upstream.work().join(text)).unwrap(), "new");
    }
    // What somebody changes later is theirs again, also where a checkout is refused.
    fs::write(upstream.path().join("four"), "new").unwrap();
    upstream.git(&["add", "four"]);
    upstream.commit("four");
    fs::write(upstream.work().join("four"), "kept").unwrap();
    for _ in 0..2 {
        let failure = upstream.run(json!({})).unwrap_err();
        assert!(failure.to_string().contains("would be overwritten"), "{failure}");
    }
    assert_eq!(fs::read_to_string(upstream.work().join("four")).unwrap(), "kept");
}

#[test]
fn a_checkout_that_failed_halfway_is_known_for_ours() {
    if !have_git() {
        return;
    }
    let upstream = Upstream::new();
    upstream.run(json!({})).unwrap();
    for name in ["early", "late"] {
        fs::write(upstream.path().join(name), format!("{name} of the first")).unwrap();
        upstream.git(&["add", name]);
    }
    let commit = upstream.commit("two");
    upstream_fetched(&upstream);
    // Of two new files, the second cannot be had.
    let late = upstream.git(&["rev-parse", "HEAD:late"]);
    fs::remove_file(upstream.work().join(".git/objects").join(&late[..2]).join(&late[2..])).unwrap();
    for _ in 0..2 {
        let failure = upstream.run(json!({})).unwrap_err();
        assert!(failure.to_string().contains("unable to read"), "{failure}");
        assert!(upstream.work().join("early").exists());
        assert_eq!(upstream.observe()["unfinished"], json!(commit));
    }
    fs::write(upstream.path().join("early"), "new").unwrap();
    upstream.git(&["rm", "--quiet", "late"]);
    upstream.git(&["add", "early"]);
    upstream.commit("three");
    let planned = upstream.run(json!({})).unwrap();
    assert!(planned.lists("unfinished"));
    assert_eq!(fs::read_to_string(upstream.work().join("early")).unwrap(), "new");
    // One that cannot even begin leaves what is owed.
    let next = upstream.commit("four");
    upstream_fetched(&upstream);
    let tree = upstream.git(&["rev-parse", "HEAD^{tree}"]);
    fs::remove_file(upstream.work().join(".git/objects").join(&tree[..2]).join(&tree[2..])).unwrap();
    fs::write(upstream.work().join(".git/mainstay-checkout"), &commit).unwrap();
    upstream.run(json!({})).unwrap_err();
    assert_eq!(upstream.observe()["unfinished"], json!(next));
}

#[test]
fn a_checkout_that_dies_among_new_files_is_known_for_ours() {
    if !have_git() {
        return;
    }
    let upstream = Upstream::new();
    upstream.run(json!({})).unwrap();
    for (name, text) in [(".gitattributes", "late filter=deadly\n"), ("early", "new"), ("late", "new")] {
        fs::write(upstream.path().join(name), text).unwrap();
        upstream.git(&["add", name]);
    }
    // The same text as before, so that nothing but new files is written.
    let commit = upstream.commit("one");
    let setting =
        |args: &[&str]| run(&Host::new(), git(&upstream.work()).arg("config").args(args.iter().copied()));
    setting(&["filter.deadly.smudge", "kill -9 $PPID"]).unwrap();
    upstream.run(json!({})).unwrap_err();
    assert!(upstream.work().join("early").exists());
    assert_eq!(upstream.observe()["unfinished"], json!(commit));
    setting(&["--remove-section", "filter.deadly"]).unwrap();
    let planned = upstream.run(json!({})).unwrap();
    assert!(planned.lists("unfinished"));
    assert_eq!(fs::read_to_string(upstream.work().join("late")).unwrap(), "new");
}

#[test]
fn a_first_checkout_that_never_came_to_a_commit_has_nothing_to_lose() {
    if !have_git() {
        return;
    }
    let upstream = Upstream::new();
    fs::create_dir_all(upstream.work()).unwrap();
    upstream_fetched(&upstream);
    for step in [["read-tree", "origin/main"], ["checkout-index", "--all"]] {
        run(&Host::new(), git(&upstream.work()).args(step)).unwrap();
    }
    let planned = upstream.run(json!({})).unwrap();
    assert!(planned.lists("commit") && !planned.lists("modified"));
}

/// As far as a checkout comes before it is one.
fn upstream_fetched(upstream: &Upstream) {
    let repo = upstream.path().display().to_string();
    let host = Host::new();
    if !upstream.work().join(".git").exists() {
        run(&host, git(&upstream.work()).args(["init", "--quiet", "--template="])).unwrap();
        run(&host, git(&upstream.work()).args(["remote", "add", "origin", &repo])).unwrap();
    }
    run(&host, git(&upstream.work()).args(["fetch", "--quiet", "origin"])).unwrap();
}

#[test]
fn nothing_of_a_repository_is_executed() {
    if !have_git() {
        return;
    }
    let upstream = Upstream::new();
    let canary = upstream.folder.path().join("canary");
    upstream.run(json!({})).unwrap();
    let hook = upstream.work().join(".git/hooks");
    fs::create_dir_all(&hook).unwrap();
    for name in ["post-checkout", "post-merge", "reference-transaction"] {
        fs::write(hook.join(name), format!("#!/bin/sh\ntouch {}\n", canary.display())).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(hook.join(name), mode).unwrap();
    }
    upstream.commit("two");
    upstream.run(json!({})).unwrap();
    assert!(!canary.exists(), "a hook ran");
    let trial = Trial::of(Git);
    for bad in ["ext::sh -c touch% /tmp/x", "--upload-pack=touch", ""] {
        assert!(trial.read(json!({"path": "/x", "repo": bad})).is_err(), "{bad}");
    }
    for bad in ["--force", "a..b", "a b", "HEAD~1", ""] {
        assert!(trial.read(json!({"path": "/x", "repo": "/r", "rev": bad})).is_err(), "{bad}");
    }
}

#[test]
fn what_is_not_a_working_copy_is_left_alone() {
    if !have_git() {
        return;
    }
    let upstream = Upstream::new();
    fs::create_dir(upstream.work()).unwrap();
    fs::write(upstream.work().join("mine"), "x").unwrap();
    let failure = upstream.run(json!({"force": true})).unwrap_err();
    assert!(failure.to_string().contains("no working copy"), "{failure}");
    fs::remove_file(upstream.work().join("mine")).unwrap();
    upstream.run(json!({})).unwrap();
}

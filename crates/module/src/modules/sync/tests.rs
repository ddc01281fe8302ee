use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use mainstay_core::state::StepWord;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::fidelity::Trial;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A folder beside the states file: `path/` is a directory, `path@` a link, `path*` an executable file.
fn source(trial: &mut Trial, entries: &[(&str, &str)]) -> Value {
    let mut tree = Vec::new();
    for (path, what) in entries {
        let entry = match path.chars().last() {
            Some('/') => json!({"path": path.trim_end_matches('/'), "kind": "directory"}),
            Some('@') => json!({"path": path.trim_end_matches('@'), "kind": "link", "target": what}),
            last => {
                let blob = trial.blob(what.as_bytes())["$blob"].clone();
                let path = path.trim_end_matches('*');
                json!({"path": path, "kind": "file", "blob": blob, "executable": last == Some('*')})
            }
        };
        tree.push(entry);
    }
    json!({"$tree": tree, "$file": "www/"})
}

fn listed(analysis: &Analysis) -> Vec<String> {
    let word = |datum: &Datum| match datum {
        Datum::Known(Value::String(text)) => text.split(',').next().unwrap().to_owned(),
        _ => "absent".to_owned(),
    };
    let line =
        |change: &Change| format!("{}: {} -> {}", change.field, word(&change.before), word(&change.after));
    analysis.changes.iter().map(line).collect()
}

#[test]
fn a_folder_comes_as_it_is() {
    let folder = folder();
    let path = folder.path().join("www");
    let mut trial = Trial::of(Sync);
    let source = source(
        &mut trial,
        &[("index.html", "hi\n"), ("bin/run*", "#!/bin/sh\n"), ("empty/", ""), ("current@", "index.html")],
    );
    let found = trial.in_folder(json!({"path": path, "source": source}), folder.path()).unwrap();
    insta::assert_snapshot!(listed(&found.planned).join("\n"), @r#"
    exists: absent -> directory
    exists of bin: absent -> directory
    exists of bin/run: absent -> file
    content of bin/run: absent -> text
    exists of current: absent -> link
    target of current: absent -> index.html
    exists of empty: absent -> directory
    exists of index.html: absent -> file
    content of index.html: absent -> text
    "#);
    assert_eq!(fs::metadata(path.join("bin/run")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::read_to_string(path.join("current")).unwrap(), "hi\n");
}

#[test]
fn what_is_not_in_the_folder_goes_only_when_asked_and_never_when_excluded() {
    let folder = folder();
    let path = folder.path().join("www");
    fs::create_dir_all(path.join("old/deep")).unwrap();
    fs::create_dir_all(path.join("uploads")).unwrap();
    fs::create_dir_all(path.join("mixed")).unwrap();
    for name in ["old/deep/file", "uploads/photo", "a.tmp", "mixed/a.tmp", "mixed/b", "index.html"] {
        fs::write(path.join(name), "old\n").unwrap();
    }
    let mut trial = Trial::of(Sync);
    let source = source(&mut trial, &[("index.html", "new\n"), ("x.tmp", "never\n")]);
    let params = |delete: bool| json!({"path": path, "source": source, "delete": delete, "exclude": ["uploads", "*.tmp"]});
    let found = trial.in_folder(params(false), folder.path()).unwrap();
    assert_eq!(listed(&found.planned), ["content of index.html: text -> text"]);
    let found = trial.in_folder(params(true), folder.path()).unwrap();
    insta::assert_snapshot!(listed(&found.planned).join("\n"), @r#"
    exists of mixed/b: file -> absent
    exists of old/deep/file: file -> absent
    exists of old/deep: directory -> absent
    exists of old: directory -> absent
    "#);
    assert!(path.join("uploads/photo").exists() && path.join("mixed/a.tmp").exists());
    assert!(!path.join("x.tmp").exists());
}

#[test]
fn what_differs_in_kind_is_replaced_only_with_delete() {
    let folder = folder();
    let path = folder.path().join("www");
    let elsewhere = folder.path().join("elsewhere");
    fs::create_dir_all(path.join("a/inner")).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    fs::write(path.join("a/inner/file"), "x").unwrap();
    fs::write(path.join("b"), "x").unwrap();
    symlink(&elsewhere, path.join("c")).unwrap();
    let mut trial = Trial::of(Sync);
    let source = source(&mut trial, &[("a", "file\n"), ("b/f", "file\n"), ("c/f", "file\n")]);
    let failure = trial.analyze(json!({"path": path, "source": source})).unwrap_err();
    assert!(failure.to_string().contains("delete"), "{failure}");
    trial.in_folder(json!({"path": path, "source": source, "delete": true}), folder.path()).unwrap();
    assert!(path.join("a").is_file() && path.join("b/f").is_file() && path.join("c/f").is_file());
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0, "a link was followed");
}

#[test]
fn modes_are_given_where_they_are_declared() {
    let folder = folder();
    let path = folder.path().join("www");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("kept"), "x\n").unwrap();
    fs::set_permissions(path.join("kept"), fs::Permissions::from_mode(0o606)).unwrap();
    let mut trial = Trial::of(Sync);
    let source = source(&mut trial, &[("kept", "x\n"), ("run*", "y\n")]);
    let unset = trial.in_folder(json!({"path": path, "source": source}), folder.path()).unwrap();
    assert!(!unset.planned.lists("mode of kept"));
    let params = json!({"path": path, "source": source, "file_mode": "0640", "dir_mode": "0750"});
    trial.in_folder(params, folder.path()).unwrap();
    let mode = |name: &str| fs::metadata(path.join(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("kept"), mode("run"), mode("")), (0o640, 0o750, 0o750));
}

#[test]
fn a_tree_that_leads_out_is_refused() {
    let folder = folder();
    let mut trial = Trial::of(Sync);
    for entries in [
        &[("../evil", "x")][..],
        &[("/etc/evil", "x")],
        &[("a/../../evil", "x")],
        &[("", "x")],
        &[("a@", "/etc"), ("a/evil", "x")],
        &[("a", "x"), ("a/b", "x")],
    ] {
        let source = source(&mut trial, entries);
        let failure = trial.analyze(json!({"path": folder.path().join("d"), "source": source})).unwrap_err();
        assert!(failure.call.starts_with("read the tree"), "{entries:?}: {failure}");
    }
}

#[test]
fn a_later_state_sees_what_will_be_there() {
    let folder = folder();
    let path = folder.path().join("www");
    let mut trial = Trial::of(Sync);
    let source = source(&mut trial, &[("conf", "a\n")]);
    let mut line = Trial::of(crate::modules::line::Line);
    for (resource, value) in trial.analyze(json!({"path": path, "source": source})).unwrap().predicts {
        line.forecast.predict(resource, "www".into(), value);
    }
    let planned = line.analyze(json!({"path": path.join("conf"), "line": "b"})).unwrap();
    assert_eq!(planned.step, StepWord::Change);
    assert_eq!(planned.changes[0].diff.as_deref(), Some("@@ -1 +1,2 @@\n a\n+b\n"));
}

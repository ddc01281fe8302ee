use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use mainstay_core::state::StepWord;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::fidelity::Trial;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn trial() -> Trial {
    Trial::of(File)
}

/// The plan in one text: a line for each field, then the diffs.
fn shown(analysis: &Analysis, folder: &Path) -> String {
    let side = |datum: &Datum| match datum {
        Datum::Absent => "absent".to_owned(),
        Datum::Known(Value::String(text)) => text.clone(),
        other => format!("{other:?}"),
    };
    let mut text = format!("{}\n", analysis.step);
    for change in &analysis.changes {
        text += &format!("{}: {} -> {}\n", change.field, side(&change.before), side(&change.after));
        text += change.diff.as_deref().unwrap_or_default();
    }
    text.extend(analysis.reason.as_ref().map(|reason| format!("because {reason}\n")));
    text.replace(folder.to_str().unwrap(), "DIR")
}

#[test]
fn a_new_file_gets_all_that_is_declared() {
    let folder = folder();
    let path = folder.path().join("app.toml");
    let params = json!({"path": path, "content": "port = 1\n", "mode": "0640", "owner": "root", "group": 0});
    let verdict = trial().in_folder(params, folder.path()).unwrap();
    insta::assert_snapshot!(shown(&verdict.planned, folder.path()), @r#"
    change
    exists: absent -> file
    content: absent -> text, 9 bytes, blake3 a24184fd5cd17bf6746455e2ff9db1f1
    @@ -0,0 +1 @@
    +port = 1
    mode: absent -> 0640
    owner: absent -> root
    group: absent -> root
    "#);
    assert_eq!(fs::read_to_string(&path).unwrap(), "port = 1\n");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
}

#[test]
fn an_old_file_changes_only_where_it_differs() {
    let folder = folder();
    let path = folder.path().join("app.toml");
    fs::write(&path, "a\nb\nc\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
    let verdict = trial().in_folder(json!({"path": path, "content": "a\nB\nc\n"}), folder.path()).unwrap();
    insta::assert_snapshot!(shown(&verdict.planned, folder.path()), @r#"
    change
    content: text, 6 bytes, blake3 f2a0aad84bf0cd8c16ae564ee9e5e29e -> text, 6 bytes, blake3 68fdfd5e51bebc1c47746a0bbeaf7d00
    @@ -1,3 +1,3 @@
     a
    -b
    +B
     c
    "#);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o604, "the mode was not managed");
    let before = fs::metadata(&path).unwrap();
    let verdict = trial().in_folder(json!({"path": path, "mode": "4711"}), folder.path()).unwrap();
    assert!(verdict.planned.lists("mode") && verdict.planned.changes.len() == 1);
    assert_eq!(fs::metadata(&path).unwrap().ino(), before.ino(), "a mode alone needs no new file");
}

#[test]
fn without_content_a_missing_file_is_made_empty_and_another_stays() {
    let folder = folder();
    let path = folder.path().join("touched");
    trial().in_folder(json!({"path": path}), folder.path()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"");
    fs::write(&path, "kept").unwrap();
    let verdict = trial().in_folder(json!({"path": path}), folder.path()).unwrap();
    assert_eq!(verdict.planned.step, StepWord::Unchanged);
    trial().in_folder(json!({"path": path, "content": ""}), folder.path()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"");
}

#[test]
fn bytes_that_are_no_text_are_told_by_size_and_digest() {
    let folder = folder();
    let path = folder.path().join("blob");
    fs::write(&path, [0xff, 0]).unwrap();
    let mut trial = trial();
    let source = trial.blob(&[0xfe, 0, 1]);
    let verdict = trial.in_folder(json!({"path": path, "source": source}), folder.path()).unwrap();
    insta::assert_snapshot!(shown(&verdict.planned, folder.path()), @r#"
    change
    content: binary, 2 bytes, blake3 e7645220473c8ae27d6c36c8993d8409 -> binary, 3 bytes, blake3 62c4aa2319cbfc90693d5b036de30e55
    "#);
}

#[test]
fn absent_removes_a_file_or_a_link_and_no_directory() {
    let folder = folder();
    let path = folder.path().join("old");
    fs::write(&path, "x").unwrap();
    trial().in_folder(json!({"path": path, "absent": true}), folder.path()).unwrap();
    let kept = folder.path().join("kept");
    fs::write(&kept, "x").unwrap();
    symlink(&kept, &path).unwrap();
    trial().in_folder(json!({"path": path, "absent": true}), folder.path()).unwrap();
    assert!(kept.exists() && !path.exists());
    fs::create_dir(&path).unwrap();
    let failure = trial().in_folder(json!({"path": path, "absent": true}), folder.path()).unwrap_err();
    assert!(failure.to_string().contains("directory"), "{failure}");
}

#[test]
fn a_link_is_replaced_or_followed_as_declared() {
    let folder = folder();
    let (path, led) = (folder.path().join("link"), folder.path().join("led-to"));
    fs::write(&led, "old\n").unwrap();
    symlink("led-to", &path).unwrap();
    let follow = json!({"path": path, "content": "new\n", "follow": true});
    let planned = trial().analyze(follow.clone()).unwrap();
    insta::assert_snapshot!(shown(&planned, folder.path()), @r#"
    change
    content: text, 4 bytes, blake3 87b86a9f9e06007dc88bef0b92d8f046 -> text, 4 bytes, blake3 79d1d8da0b625035cdbfc9d518410308
    @@ -1 +1 @@
    -old
    +new
    "#);
    trial().run(follow, &|| crate::fidelity::tree(folder.path(), &led)).unwrap();
    assert_eq!(fs::read_to_string(&led).unwrap(), "new\n");
    assert!(path.is_symlink());
    let bare = trial().analyze(json!({"path": path, "mode": "0600"})).unwrap_err();
    assert!(bare.to_string().contains("follow"), "{bare}");
    let verdict = trial().in_folder(json!({"path": path, "content": "own\n"}), folder.path()).unwrap();
    insta::assert_snapshot!(shown(&verdict.planned, folder.path()), @r#"
    change
    exists: link -> file
    content: absent -> text, 4 bytes, blake3 8557f0184d473da27c84fe5cfee9b18d
    @@ -0,0 +1 @@
    +own
    because replaces a link to led-to
    "#);
    assert_eq!(fs::read_to_string(&led).unwrap(), "new\n");
    assert!(!path.is_symlink());
}

#[test]
fn links_in_a_circle_and_planted_links_are_not_followed() {
    let folder = folder();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    symlink(&b, &a).unwrap();
    symlink(&a, &b).unwrap();
    let failure = trial().analyze(json!({"path": a, "content": "", "follow": true})).unwrap_err();
    assert!(failure.to_string().contains("too many links"), "{failure}");
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let open = folder.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).unwrap();
    let planted = open.join("planted");
    symlink("/etc/passwd", &planted).unwrap();
    std::os::unix::fs::lchown(&planted, Some(12345), None).unwrap();
    let failure = trial().analyze(json!({"path": planted, "content": "", "follow": true})).unwrap_err();
    assert!(failure.to_string().contains("another user"), "{failure}");
}

#[test]
fn what_is_not_a_file_is_an_error() {
    let folder = folder();
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in [pipe.as_path(), Path::new("/dev/null"), folder.path()] {
        let failure = trial().analyze(json!({"path": path, "content": "x"})).unwrap_err();
        assert!(failure.call.starts_with("manage "), "{failure}");
    }
}

#[test]
fn a_replaced_content_is_kept_beside() {
    let folder = folder();
    let path = folder.path().join("conf");
    let params = |content: &str| json!({"path": path, "content": content, "backup": true});
    trial().in_folder(params("1\n"), folder.path()).unwrap();
    let kept = folder.path().join("conf.bak");
    assert!(!kept.exists(), "nothing was replaced");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let verdict = trial().in_folder(params("2\n"), folder.path()).unwrap();
    insta::assert_snapshot!(shown(&verdict.planned, folder.path()), @r#"
    change
    content: text, 2 bytes, blake3 50cc1102b1c612e6962547aacdcef9a4 -> text, 2 bytes, blake3 b9a1a3183dd350f0e896d0f4b59c87e7
    @@ -1 +1 @@
    -1
    +2
    exists of DIR/conf.bak: absent -> file
    "#);
    assert_eq!(fs::read_to_string(&kept).unwrap(), "1\n");
    assert_eq!(fs::metadata(&kept).unwrap().mode() & 0o7777, 0o600);
    trial().in_folder(params("3\n"), folder.path()).unwrap();
    assert_eq!(fs::read_to_string(&kept).unwrap(), "2\n");
}

#[test]
fn what_is_kept_is_foretold_for_the_next_state_of_the_file() {
    for older in [None, Some("0\n")] {
        let folder = folder();
        let (path, kept) = (folder.path().join("conf"), folder.path().join("conf.bak"));
        fs::write(&path, "1\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        if let Some(older) = older {
            fs::write(&kept, older).unwrap();
            fs::set_permissions(&kept, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let second = json!({"path": path, "content": "3\n", "backup": true});
        let later = json!({"path": kept, "mode": "0640"});
        let mut foresight = trial();
        let mut plan = |params: Value| {
            let planned = foresight.analyze(params).unwrap();
            for (resource, value) in &planned.predicts {
                foresight.forecast.predict(resource.clone(), "earlier".into(), value.clone());
            }
            planned
        };
        plan(json!({"path": path, "content": "2\n", "backup": true}));
        let planned = [plan(second.clone()), plan(later.clone())];
        trial().in_folder(json!({"path": path, "content": "2\n", "backup": true}), folder.path()).unwrap();
        let told = |datum: &Datum| match datum {
            Datum::Predicted { value, .. } => Datum::Known(value.clone()),
            other => other.clone(),
        };
        for (params, planned) in [second, later].into_iter().zip(planned) {
            let found = trial().in_folder(params, folder.path()).unwrap().planned;
            let planned = planned
                .changes
                .iter()
                .map(|change| Change { before: told(&change.before), ..change.clone() });
            assert_eq!(found.changes, planned.collect::<Vec<_>>(), "{older:?}");
        }
        assert_eq!(
            (fs::read_to_string(&kept).unwrap(), fs::read_to_string(&path).unwrap()),
            ("2\n".into(), "3\n".into())
        );
    }
}

#[test]
fn a_sensitive_file_is_never_shown() {
    let folder = folder();
    let path = folder.path().join("token");
    let params = |content: &str| json!({"path": path, "content": content, "sensitive": true});
    for canary in ["canary-one", "canary-two"] {
        let planned = trial().in_folder(params(canary), folder.path()).unwrap().planned;
        let mut told = planned.clone();
        told.predicts.clear();
        let said = format!("{told:?}");
        assert!(!said.contains("canary") && !said.contains("blake3"), "{said}");
    }
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600, "a new secret is nobody else's");
    // What later states foretell from it is secret too.
    let planned = trial().analyze(params("canary-three")).unwrap();
    assert_eq!(planned.predicts[0].1.as_ref().unwrap()["secret"], json!(true));
}

#[test]
fn other_names_of_a_file_keep_the_old_content_and_the_plan_says_so() {
    let folder = folder();
    let (path, other) = (folder.path().join("a"), folder.path().join("b"));
    fs::write(&path, "old").unwrap();
    fs::hard_link(&path, &other).unwrap();
    let verdict = trial().in_folder(json!({"path": path, "content": "new"}), folder.path()).unwrap();
    assert!(verdict.planned.reason.unwrap().starts_with("1 other name"));
    assert_eq!(fs::read_to_string(&other).unwrap(), "old");
}

#[test]
fn a_file_too_large_to_read_is_replaced() {
    let folder = folder();
    let path = folder.path().join("large");
    fs::File::create(&path).unwrap().set_len(MAX_FILE + 1).unwrap();
    trial().in_folder(json!({"path": path, "content": "small\n"}), folder.path()).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "small\n");
}

#[test]
fn names_may_be_as_long_as_the_system_allows_and_no_longer() {
    let folder = folder();
    let path = folder.path().join("n".repeat(255));
    trial().in_folder(json!({"path": path, "content": "x"}), folder.path()).unwrap();
    let wide = folder.path().join("ü".repeat(127));
    trial().in_folder(json!({"path": wide, "content": "x"}), folder.path()).unwrap();
    let failure = trial().analyze(json!({"path": folder.path().join("n".repeat(256))})).unwrap_err();
    assert!(failure.to_string().contains("too long"), "{failure}");
}

#[test]
fn a_missing_parent_is_an_error_unless_it_is_coming() {
    let folder = folder();
    let parent = folder.path().join("made");
    let params = json!({"path": parent.join("conf"), "content": "x\n"});
    let mut trial = trial();
    let failure = trial.analyze(params.clone()).unwrap_err();
    assert!(failure.to_string().contains("does not exist"), "{failure}");
    trial.forecast.note_opaque("setup".into());
    assert_eq!(trial.analyze(params.clone()).unwrap().step, StepWord::Conditional);
    let thing = Thing { kind: "directory", ..Thing::default() };
    trial.forecast.predict(Resource::path(&parent), "dir".into(), Some(thing.value()));
    assert_eq!(trial.analyze(params.clone()).unwrap().step, StepWord::Change);
    trial.forecast.predict(Resource::path(&parent), "dir".into(), None);
    assert_eq!(trial.analyze(params).unwrap().step, StepWord::Conditional);
}

#[test]
fn an_owner_may_be_coming() {
    let folder = folder();
    let path = folder.path().join("conf");
    fs::write(&path, "x").unwrap();
    let params = json!({"path": path, "owner": "ship", "group": "crew"});
    let mut trial = trial();
    let failure = trial.analyze(params.clone()).unwrap_err();
    assert!(failure.to_string().contains("there is no such user"), "{failure}");
    trial.forecast.predict(Resource::user("ship"), "ship-user".into(), None);
    trial.forecast.note_opaque("setup".into());
    let planned = trial.analyze(params).unwrap();
    let coming = Datum::Predicted { value: "ship".into(), by: "ship-user".into() };
    assert_eq!(planned.changes[0].after, coming);
    assert_eq!(planned.changes[1].after, Datum::Unknown { until: "setup".into() });
}

#[test]
fn a_file_that_is_foretold_is_compared_with_what_it_will_be() {
    let folder = folder();
    let path = folder.path().join("conf");
    let mut trial = trial();
    let first = trial.analyze(json!({"path": path, "content": "a\n", "mode": "0640"})).unwrap();
    for (resource, value) in first.predicts {
        trial.forecast.predict(resource, "first".into(), value);
    }
    let same = trial.analyze(json!({"path": path, "content": "a\n", "mode": "0640"})).unwrap();
    assert_eq!(same.step, StepWord::Unchanged);
    let other = trial.analyze(json!({"path": path, "content": "b\n", "mode": "0640"})).unwrap();
    assert!(matches!(&other.changes[0].before, Datum::Predicted { by, .. } if by.as_str() == "first"));
    assert_eq!(other.changes[0].diff.as_deref(), Some("@@ -1 +1 @@\n-a\n+b\n"));
    let gone = trial.analyze(json!({"path": path, "absent": true})).unwrap();
    assert_eq!(gone.step, StepWord::Change);
}

#[test]
fn parameters_that_contradict_each_other_are_refused() {
    let trial = trial();
    for bad in [
        json!({"path": "/a", "content": "x", "template": "y"}),
        json!({"path": "/a", "content": "x", "absent": true}),
        json!({"path": "/a", "content": "x", "validate": "true"}),
        json!({"path": "/"}),
        json!({"path": "a"}),
        json!({"path": "/a/../b"}),
        json!({"path": "/a", "mode": 644}),
        json!({"path": "/a", "modus": "0644"}),
    ] {
        assert!(trial.read(bad.clone()).is_err(), "{bad}");
    }
}

#[test]
fn a_validator_keeps_a_bad_content_out() {
    let folder = folder();
    let path = folder.path().join("it's conf");
    let params = |content: &str, sensitive: bool| {
        json!({"path": path, "content": content, "validate": "grep good %s || { cat %s; false; }",
               "sensitive": sensitive})
    };
    trial().in_folder(params("good\n", false), folder.path()).unwrap();
    let failure = trial().in_folder(params("bad words\n", false), folder.path()).unwrap_err();
    assert!(failure.to_string().contains("bad words"), "{failure}");
    let failure = trial().in_folder(params("bad words\n", true), folder.path()).unwrap_err();
    assert!(!failure.to_string().contains("bad words"), "{failure}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "good\n");
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.as_bytes().ends_with(b".mainstay-new")), "{names:?}");
}

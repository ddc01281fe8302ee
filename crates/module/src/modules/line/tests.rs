use std::fs;
use std::os::unix::fs::symlink;

use mainstay_core::state::StepWord;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::fidelity::{Trial, tree};
use crate::modules::file::File;

fn params(value: Value) -> Params {
    serde_json::from_value(value).unwrap()
}

/// What the edit makes of a text; a second one has to change nothing.
fn edited(before: &str, mut rule: Value) -> String {
    rule["path"] = json!("/x");
    let p = params(rule);
    Line.check(&p).unwrap();
    let rule = p.rule().unwrap();
    let after = rule.edit(before.as_bytes());
    assert_eq!(rule.edit(&after), after, "a second edit changes more");
    String::from_utf8(after).unwrap()
}

#[test]
fn a_line_is_replaced_or_put_in() {
    let conf = "# a=0\na=1\nb=2\n";
    let set = |rule| edited(conf, rule);
    assert_eq!(set(json!({"line": "a=9", "match": "^#? ?a="})), "# a=0\na=9\nb=2\n");
    assert_eq!(set(json!({"line": "b=2", "match": "^b="})), conf);
    assert_eq!(set(json!({"line": "a=1"})), conf);
    assert_eq!(set(json!({"line": "c=3", "match": "^c="})), "# a=0\na=1\nb=2\nc=3\n");
    assert_eq!(set(json!({"line": "c=3", "insertafter": "a="})), "# a=0\na=1\nc=3\nb=2\n");
    assert_eq!(set(json!({"line": "c=3", "insertbefore": "^a="})), "# a=0\nc=3\na=1\nb=2\n");
    assert_eq!(set(json!({"line": "c=3", "insertbefore": "BOF"})), "c=3\n# a=0\na=1\nb=2\n");
    assert_eq!(set(json!({"line": "c=3", "insertafter": "none"})), "# a=0\na=1\nb=2\nc=3\n");
}

#[test]
fn lines_that_are_not_wanted_go() {
    let gone = |rule| edited("a\nb\na\nab", rule);
    assert_eq!(gone(json!({"line": "a", "absent": true})), "b\nab");
    assert_eq!(gone(json!({"match": "^a", "absent": true})), "b\n");
    assert_eq!(gone(json!({"match": "z", "absent": true})), "a\nb\na\nab");
}

#[test]
fn line_ends_stay_as_they_are() {
    assert_eq!(edited("a\r\nb\r\n", json!({"line": "c"})), "a\r\nb\r\nc\r\n");
    assert_eq!(edited("a\r\nb\r\n", json!({"line": "c", "match": "a"})), "c\r\nb\r\n");
    assert_eq!(edited("a\nb", json!({"line": "c"})), "a\nb\nc\n");
    assert_eq!(edited("a\nb", json!({"line": "c", "match": "b"})), "a\nc");
    assert_eq!(edited("", json!({"line": "c"})), "c\n");
}

#[test]
fn bytes_that_are_no_text_stay() {
    let p = params(json!({"path": "/x", "line": "b=2", "match": "^b="}));
    assert_eq!(p.rule().unwrap().edit(b"\xff\xfe\nb=1\n\x80"), b"\xff\xfe\nb=2\n\x80");
}

proptest! {
    #[test]
    fn a_second_edit_changes_nothing(
        text in "[ab\r\n]{0,12}",
        line in "[ab]{0,2}",
        find in proptest::option::of("[ab]{1,2}"),
        after in proptest::option::of("[ab]"),
        absent: bool,
    ) {
        let rule = Rule {
            line: if absent && find.is_some() { None } else { Some(line.as_bytes()) },
            find: find.map(|find| expression("match", &find).unwrap()),
            spot: Spot::read(after.as_deref(), None).unwrap(),
            absent,
        };
        let once = rule.edit(text.as_bytes());
        prop_assert_eq!(&rule.edit(&once), &once);
    }
}

#[test]
fn the_plan_is_what_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("conf");
    let trial = Trial::of(Line);
    let failure = trial.in_folder(json!({"path": path, "line": "a=1"}), folder.path()).unwrap_err();
    assert!(failure.to_string().contains("create"), "{failure}");
    trial.in_folder(json!({"path": path, "line": "a=1", "create": true}), folder.path()).unwrap();
    let found =
        trial.in_folder(json!({"path": path, "line": "a=2", "match": "a", "backup": true}), folder.path());
    assert_eq!(found.unwrap().planned.changes[0].diff.as_deref(), Some("@@ -1 +1 @@\n-a=1\n+a=2\n"));
    assert_eq!(fs::read_to_string(folder.path().join("conf.bak")).unwrap(), "a=1\n");
    let gone = json!({"path": folder.path().join("none"), "line": "x", "absent": true});
    assert_eq!(trial.in_folder(gone, folder.path()).unwrap().planned.step, StepWord::Unchanged);
}

#[test]
fn a_link_is_followed_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (path, real) = (folder.path().join("link"), folder.path().join("real"));
    fs::write(&real, "a\n").unwrap();
    symlink("real", &path).unwrap();
    let observe = || tree(folder.path(), &real);
    Trial::of(Line).run(json!({"path": path, "line": "b"}), &observe).unwrap();
    assert_eq!(fs::read_to_string(&real).unwrap(), "a\nb\n");
    assert!(path.is_symlink());
}

#[test]
fn a_file_that_is_still_to_be_written_is_edited_in_thought() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("conf");
    let file = Trial::of(File);
    let mut trial = Trial::of(Line);
    for (canary, sensitive) in [("a=1\n", false), ("canary\n", true)] {
        let written = json!({"path": path, "content": canary, "sensitive": sensitive});
        for (resource, value) in file.analyze(written).unwrap().predicts {
            trial.forecast.predict(resource, "conf".into(), value);
        }
        let mut planned = trial.analyze(json!({"path": path, "line": "a=2"})).unwrap();
        assert_eq!(planned.step, StepWord::Change);
        assert_eq!(planned.changes[0].diff.is_none(), sensitive);
        planned.predicts.clear();
        assert!(!format!("{planned:?}").contains("canary"));
    }
    trial.forecast.predict(Resource::path(&path), "conf".into(), None);
    assert_eq!(trial.analyze(json!({"path": path, "line": "a=2"})).unwrap().step, StepWord::Conditional);
}

#[test]
fn what_an_edit_keeps_is_what_the_edit_before_it_left() {
    let folder = tempfile::tempdir().unwrap();
    let (path, kept) = (folder.path().join("conf"), folder.path().join("conf.bak"));
    fs::write(&path, "a\n").unwrap();
    let edit = |line: &str| json!({"path": path, "line": line, "backup": true});
    let mut trial = Trial::of(Line);
    for (resource, value) in trial.analyze(edit("b")).unwrap().predicts {
        trial.forecast.predict(resource, "first".into(), value);
    }
    let planned = trial.analyze(edit("c")).unwrap();
    assert_eq!(planned.changes[1].field, format!("content of {}", kept.display()));
    assert_eq!(planned.changes[1].diff.as_deref(), Some("@@ -1 +1,2 @@\n a\n+b\n"));
    for line in ["b", "c"] {
        Trial::of(Line).in_folder(edit(line), folder.path()).unwrap();
    }
    assert_eq!(fs::read_to_string(&kept).unwrap(), "a\nb\n");
}

#[test]
fn parameters_that_make_no_sense_are_refused() {
    let trial = Trial::of(Line);
    for bad in [
        json!({"path": "/x"}),
        json!({"path": "/x", "absent": true}),
        json!({"path": "/x", "line": "a\nb"}),
        json!({"path": "/x", "line": "a", "match": "("}),
        json!({"path": "/x", "line": "a", "insertafter": "x", "insertbefore": "y"}),
        json!({"path": "/x", "line": "a", "match": "a", "absent": true}),
        json!({"path": "/x", "line": "a", "validate": "true"}),
    ] {
        assert!(trial.read(bad.clone()).is_err(), "{bad}");
    }
}

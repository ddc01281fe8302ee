use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::fidelity::Trial;

fn rule<'a>(content: Option<&'a str>, spot: Spot) -> Rule<'a> {
    Rule { begin: "# BEGIN x".into(), end: "# END x".into(), content, spot }
}

fn edited(before: &str, content: Option<&str>) -> Result<String, String> {
    let rule = rule(content, Spot::End);
    let after = rule.edit(before.as_bytes())?;
    assert_eq!(rule.edit(&after)?, after, "a second edit changes more");
    Ok(String::from_utf8(after).unwrap())
}

#[test]
fn a_block_comes_changes_and_goes() {
    let put = |before: &str| edited(before, Some("1\n2\n")).unwrap();
    assert_eq!(put(""), "# BEGIN x\n1\n2\n# END x\n");
    assert_eq!(put("a"), "a\n# BEGIN x\n1\n2\n# END x\n");
    assert_eq!(put("a\n# BEGIN x\nold\n# END x\nb\n"), "a\n# BEGIN x\n1\n2\n# END x\nb\n");
    assert_eq!(put("a\r\n"), "a\r\n# BEGIN x\r\n1\r\n2\r\n# END x\r\n");
    assert_eq!(edited("a\n# BEGIN x\nold\n# END x\nb\n", None).unwrap(), "a\nb\n");
    assert_eq!(edited("a\nb", None).unwrap(), "a\nb");
    assert_eq!(edited("# BEGIN x\n# END x", Some("1")).unwrap(), "# BEGIN x\n1\n# END x");
    assert_eq!(edited("a\n", Some("")).unwrap(), "a\n# BEGIN x\n# END x\n");
}

#[test]
fn marks_that_do_not_tell_where_the_block_is_leave_the_file_alone() {
    for broken in [
        "# BEGIN x\nmine\n",
        "mine\n# END x\n",
        "# END x\n# BEGIN x\n",
        "# BEGIN x\n# END x\n# BEGIN x\n# END x\n",
    ] {
        assert!(edited(broken, Some("1")).is_err(), "{broken:?}");
        assert!(edited(broken, None).is_err(), "{broken:?}");
    }
    assert!(edited("", Some("# END x")).is_err());
}

proptest! {
    #[test]
    fn a_second_edit_changes_nothing_and_removing_restores(
        text in "([ab]{0,2}\r?\n){0,5}",
        content in "([ab]{0,2}\n){0,3}",
        before: bool,
    ) {
        let spot = || {
            let (after, before) = if before { (None, Some("a")) } else { (Some("a"), None) };
            Spot::read(after, before).unwrap()
        };
        let put = rule(Some(&content), spot());
        let once = put.edit(text.as_bytes()).unwrap();
        prop_assert_eq!(&put.edit(&once).unwrap(), &once);
        prop_assert_eq!(rule(None, spot()).edit(&once).unwrap(), text.into_bytes());
    }
}

#[test]
fn the_plan_is_what_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hosts");
    std::fs::write(&path, "127.0.0.1 localhost\n").unwrap();
    let trial = Trial::of(Block);
    let found = trial.in_folder(json!({"path": path, "content": "10.0.0.1 one\n"}), folder.path()).unwrap();
    insta::assert_snapshot!(found.planned.changes[0].diff.as_deref().unwrap(), @r#"
    @@ -1 +1,4 @@
     127.0.0.1 localhost
    +# BEGIN trial
    +10.0.0.1 one
    +# END trial
    "#);
    trial.in_folder(json!({"path": path, "absent": true}), folder.path()).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "127.0.0.1 localhost\n");
}

#[test]
fn parameters_that_make_no_sense_are_refused() {
    let trial = Trial::of(Block);
    for bad in [
        json!({"path": "/x"}),
        json!({"path": "/x", "content": "a", "absent": true}),
        json!({"path": "/x", "content": "a", "marker": "# same"}),
        json!({"path": "/x", "content": "a", "marker": "{mark}\n"}),
        json!({"path": "/x", "content": "a", "insertafter": "("}),
    ] {
        assert!(trial.read(bad.clone()).is_err(), "{bad}");
    }
}

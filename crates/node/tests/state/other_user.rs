//! `become` on a state: looked at and changed as that user.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use mainstay_core::state::session::Ask;
use mainstay_core::state::{StateOutcome, StepWord};
use nix::unistd::{User, geteuid};
use serde_json::json;

use crate::machine::{Machine, catalog, state};

#[test]
fn a_state_is_done_as_the_user_it_names() {
    if !geteuid().is_root() {
        eprintln!("skipped: a_state_is_done_as_the_user_it_names: it needs root");
        return;
    }
    let nobody = User::from_name("nobody").unwrap().unwrap();
    let machine = Machine::new();
    // The way there, for one who is not root.
    let mut path = std::path::PathBuf::from(machine.path(""));
    fs::create_dir(path.join("own")).unwrap();
    chown(path.join("own"), Some(nobody.uid.as_raw()), None).unwrap();
    fs::create_dir(path.join("roots")).unwrap();
    path.pop();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();

    let file = |name: &str| json!({"path": machine.path(name), "content": "x"});
    let mut session = machine.session();
    session.ask(Ask::Catalog(Box::new(catalog([
        state("own", "file", file("own/f")).become_user("{{ 'no' ~ 'body' }}"),
        state("who", "cmd", json!({"run": "id -un; echo $HOME $TMPDIR"})).become_user("nobody"),
        state("roots", "file", file("roots/f")).become_user("nobody"),
        state("guarded", "cmd", json!({"run": "true"}))
            .become_user("nobody")
            .unless("test $(id -un) = nobody".into()),
        state("after", "file", file("roots/g")),
    ]))));
    let plan = session.plan(1);
    let done = session.apply(&plan);
    let outcomes: Vec<StateOutcome> = done.reports.iter().map(|report| report.outcome).collect();
    use StateOutcome::{Changed, Failed, Skipped};
    assert_eq!(outcomes, [Changed, Changed, Failed, Skipped, Changed], "{done:?}");
    assert!(done.reports[1].outputs["stdout"].as_str().unwrap().starts_with("nobody\n"), "{done:?}");
    assert!(done.reports[2].reason.as_ref().unwrap().contains("Permission denied"), "{done:?}");
    assert_eq!(fs::metadata(machine.path("own/f")).unwrap().uid(), nobody.uid.as_raw());
    assert_eq!(fs::metadata(machine.path("roots/g")).unwrap().uid(), 0);
}

#[test]
fn whoever_may_not_become_another_is_told_so() {
    if !geteuid().is_root() {
        eprintln!("skipped: whoever_may_not_become_another_is_told_so: it needs root");
        return;
    }
    let nobody = User::from_name("nobody").unwrap().unwrap();
    let machine = Machine::new();
    let root = machine.data().parent().unwrap().to_owned();
    chown(root, Some(nobody.uid.as_raw()), None).unwrap();
    let state = |id: &str| state(id, "cmd", json!({"run": "true"})).become_user("root");
    let plan = || {
        // A user of this thread, and of those that it starts.
        let uid = nobody.uid.as_raw();
        // SAFETY: the call reads no memory, and changes only a thread that ends with this test.
        assert_eq!(unsafe { nix::libc::syscall(nix::libc::SYS_setresuid, uid, uid, uid) }, 0);
        let mut session = machine.session();
        session.ask(Ask::Catalog(Box::new(catalog([state("first"), state("second")]))));
        session.plan(1)
    };
    let plan = std::thread::scope(|scope| scope.spawn(plan).join().unwrap());
    for step in &plan.steps {
        let reason = step.reason.as_deref().unwrap();
        assert!(reason.contains("only root can become another user"), "{reason}");
    }
}

#[test]
fn a_user_who_may_come_later_is_no_error() {
    let machine = Machine::new();
    let lonely = || state("lonely", "cmd", json!({"run": "true"})).become_user("no-such-user-here");
    let mut session = machine.session();
    session.ask(Ask::Catalog(Box::new(catalog([lonely()]))));
    assert_eq!(session.plan(1).words(), [("lonely", StepWord::Error, "")]);
    session.ask(Ask::Catalog(Box::new(catalog([state("maker", "cmd", json!({"run": "true"})), lonely()]))));
    let plan = session.plan(1);
    assert_eq!(plan.words(), [("maker", StepWord::Opaque, ""), ("lonely", StepWord::Conditional, "")]);
    assert_eq!(plan.steps[1].reason.as_deref(), Some("known after maker"));
    let done = session.apply(&plan);
    let reason = done.reports[1].reason.as_deref();
    assert_eq!(reason, Some("become no-such-user-here: there is no such user"));
}

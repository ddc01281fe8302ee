//! What is kept, for how long, how it is carried elsewhere, and what proves it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use mainstay_control::backup::{self, BackupError};
use mainstay_control::view::*;
use mainstay_core::envelope::{Payload, Request, Stream};
use mainstay_core::frame::{Goodbye, Verdict};
use mainstay_core::id::MessageId;
use mainstay_core::outcome::{Exit, Outcome, Rejection};
use mainstay_node::hub_role::HubRole as _;
use mainstay_store::Store as _;
use mainstay_store::store::{LogName, Position};

use crate::fakes::*;

#[tokio::test]
async fn ended_runs_are_forgotten_and_open_ones_are_not() {
    let f = Fixture::new().await;
    let mut nodes = f.nodes(2).await;
    let ended = f.run(spec("n0")).await;
    let open = f.run(spec("n1")).await;
    nodes[0].accept(&f.hub);
    nodes[1].accept(&f.hub);
    nodes[0].end(&f.hub, ended, 0, "x").await;
    f.clock.pass(10);
    let late = f.run(spec("n0")).await;
    nodes[0].accept(&f.hub);
    nodes[0].end(&f.hub, late, 0, "x").await;
    f.hub.settle().await;
    let before = f.clock.now().as_millis();
    assert_eq!(f.hub.prune_runs(&admin(), before).await.unwrap(), 1);
    let kept: Vec<_> = f.hub.runs(&admin(), 10).await.unwrap().iter().map(|view| view.run).collect();
    assert_eq!(kept, [late, open]);
    assert_eq!(f.hub.run(&admin(), ended).await.unwrap_err().kind, ProblemKind::NotFound);
    let log = LogName::new(format!("run.{ended}")).unwrap();
    assert!(f.store.read(&log, Position::START, 10).await.unwrap().is_empty());
    // An answer that comes again finds nothing, and is released all the same.
    assert_eq!(nodes[0].end(&f.hub, ended, 0, "x").await, Verdict::Accepted);
    let f = f.restart().await;
    let kept: Vec<_> = f.hub.runs(&admin(), 10).await.unwrap().iter().map(|view| view.run).collect();
    assert_eq!(kept, [late, open]);
}

#[tokio::test]
async fn history_is_bounded_in_time_and_in_bytes() {
    let f = Fixture::new().await;
    let mut node = f.nodes(1).await.remove(0);
    let mut runs = vec![];
    for _ in 0..4 {
        f.clock.pass(1);
        let run = f.run(spec("*")).await;
        node.accept(&f.hub);
        node.output(&f.hub, run, 1, Stream::Stdout, &[b'x'; 100_000]).await;
        node.end(&f.hub, run, 0, "").await;
        runs.push(run);
    }
    f.hub.settle().await;
    f.hub.prune_to(f.clock.now() - Duration::from_secs(1), 250_000).await.unwrap();
    let kept: Vec<_> = f.hub.runs(&admin(), 10).await.unwrap().iter().map(|view| view.run).collect();
    assert_eq!(kept, [runs[3], runs[2]]);
}

#[tokio::test]
async fn the_audit_log_names_operators_and_shows_what_was_changed() {
    let f = Fixture::new().await;
    f.nodes(1).await;
    f.run(spec("*")).await;
    let entries = f.hub.audit(&admin(), 10).await.unwrap();
    let acts: Vec<_> = entries.iter().map(|entry| entry["act"].as_str().unwrap()).collect();
    assert_eq!(acts, ["run.start", "node.join", "token.create"]);
    assert_eq!(entries[0]["operator"], "uid:0 (root)");
    assert_eq!(entries[0]["previous"], entries[1]["hash"]);
    let f = f.restart().await;
    f.hub.revoke_node(&admin(), "n0", "").await.unwrap();
    assert_eq!(f.hub.verify_audit(&admin()).await.unwrap(), 4);
    assert_eq!(f.hub.audit(&admin(), 2).await.unwrap().len(), 2);
    // An entry that someone else writes does not follow from the one before it.
    let log = LogName::new("audit").unwrap();
    let forged = br#"{"at":1,"operator":"nobody","act":"run.start","detail":{},"previous":"00"}"#;
    f.store.append(&log, vec![bytes::Bytes::from_static(forged)]).await.unwrap();
    let broken = f.hub.verify_audit(&admin()).await.unwrap_err();
    assert!(broken.message.contains("was changed"), "{broken}");
    // The hub starts all the same.
    let f = f.restart().await;
    assert!(f.hub.verify_audit(&admin()).await.is_err());
}

#[tokio::test]
async fn reports_of_errors_are_kept_and_other_events_refused() {
    let f = Fixture::new().await;
    let node = f.nodes(1).await.remove(0);
    let report = |method: &str, text: &str| {
        let id = mainstay_core::id::MessageId::new(f.clock.now(), [text.len() as u8; 10]);
        node.sign(
            id,
            Payload::Request(Request {
                method: method.into(),
                args: vec![],
                data: bytes::Bytes::copy_from_slice(text.as_bytes()),
                command: false,
                idempotent: false,
                timeout_ms: None,
                output_limit: 0,
                stream: false,
                sealed: None,
                run: None,
                operator: None,
            }),
        )
    };
    assert_eq!(f.hub.answer(node.key(), report("errors.report", "disk!")).await, Verdict::Accepted);
    assert_eq!(
        f.hub.answer(node.key(), report("cmd", "rm")).await,
        Verdict::Refused(Rejection::UnknownMethod("cmd".into()))
    );
    let f = f.restart().await;
    let errors = f.hub.errors(&admin(), 10).await.unwrap();
    assert_eq!(
        (errors.len(), errors[0]["node"].as_str(), errors[0]["text"].as_str()),
        (1, Some("n0"), Some("disk!"))
    );
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_restored_hub_is_the_same_hub_and_takes_what_it_missed() {
    let f = Fixture::new().await;
    let mut nodes = f.nodes(3).await;
    let ended = f.run(spec("n0")).await;
    nodes[0].accept(&f.hub);
    nodes[0].end(&f.hub, ended, 0, "kept\n").await;
    let open = f.run(spec("n0 or n1")).await;
    nodes[0].accept(&f.hub);
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("hub.backup");
    f.hub.backup(&admin(), &file).await.unwrap();
    assert_eq!(mode(&file), 0o600);
    let again = f.hub.backup(&admin(), &file).await.unwrap_err();
    assert_eq!(again.kind, ProblemKind::Conflict);
    // The hub goes on: a revocation, an end, a node more. Then it is lost.
    nodes[0].end(&f.hub, open, 0, "").await;
    f.hub.revoke_node(&admin(), "n2", "stolen").await.unwrap();
    let entry = f.hub.fleet().trust().read().unwrap().after(2).to_vec();
    let key = f.hub.fleet().key();
    let clock = f.clock.clone();
    let (_lost, _) = f.stop().await;

    let dir = tempfile::tempdir().unwrap();
    backup::restore(&file, dir.path()).unwrap();
    assert_eq!(mode(&dir.path().join("root.key")), 0o600);
    assert_eq!(mode(&dir.path().join("store.db")), 0o600);
    assert_eq!(std::fs::read(dir.path().join("journal.db")).unwrap(), b"a journal");
    let f = Fixture::in_dir(dir, clock).await;
    assert_eq!(f.hub.fleet().key(), key);
    let (_, shown) = f.view(ended).await;
    assert_eq!(shown[0].result.as_ref().unwrap().stdout.as_deref(), Some("kept\n"));
    // What was open is not sent again; what became of it is not known.
    let (view, shown) = f.view(open).await;
    assert_eq!((view.pending, view.failed), (0, 2));
    assert!(shown.iter().all(|node| node.result.as_ref().unwrap().provisional));
    // It must not revoke before it has met a node, or its trust log could fork.
    assert_eq!(f.hub.revoke_node(&admin(), "n1", "").await.unwrap_err().kind, ProblemKind::Conflict);
    // The first node brings the revocation that is missing.
    f.hub.learn_trust(entry).await.unwrap();
    nodes[1].link(&f.hub).await.unwrap();
    assert!(nodes[1].receive(&f.hub).is_empty());
    assert_eq!(nodes[2].link(&f.hub).await, Err(Goodbye::Revoked));
    // An answer that does come is believed.
    nodes[1].end(&f.hub, open, 0, "").await;
    assert_eq!(f.view(open).await.0.ok, 1);
    f.hub.revoke_node(&admin(), "n1", "").await.unwrap();
    // New work after the restore survives the next start.
    nodes[0].link(&f.hub).await.unwrap();
    let new = f.run(spec("n0")).await;
    let f = f.restart().await;
    assert_eq!(f.view(new).await.0.pending, 1);
}

#[tokio::test]
async fn output_that_a_restored_hub_lost_does_not_hold_an_end_up() {
    let f = Fixture::new().await;
    let mut nodes = f.nodes(1).await;
    let run = f.run(spec("n0")).await;
    nodes[0].accept(&f.hub);
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("hub.backup");
    f.hub.backup(&admin(), &file).await.unwrap();
    // Only the hub's earlier life has the first piece; the node has let go of it.
    assert_eq!(nodes[0].output(&f.hub, run, 1, Stream::Stdout, b"one ").await, Verdict::Accepted);
    let clock = f.clock.clone();
    let (_lost, _) = f.stop().await;

    let dir = tempfile::tempdir().unwrap();
    backup::restore(&file, dir.path()).unwrap();
    let f = Fixture::in_dir(dir, clock).await;
    nodes[0].link(&f.hub).await.unwrap();
    let re = MessageId::of_run(run, nodes[0].key());
    let mut end = FakeNode::end_of(run, re, Outcome::Finished(Exit::Code(0)), "");
    (end.last_seq, end.stdout_bytes) = (2, 7);
    let end = nodes[0].sign(re.of_answer("end", 0), Payload::End(end));
    // The other piece is on the way, and is waited for.
    assert!(matches!(f.hub.answer(nodes[0].key(), end.clone()).await, Verdict::Busy { .. }));
    assert_eq!(nodes[0].output(&f.hub, run, 2, Stream::Stdout, b"two").await, Verdict::Accepted);
    let f = f.restart().await;
    assert_eq!(f.hub.answer(nodes[0].key(), end).await, Verdict::Accepted);
    let (view, shown) = f.view(run).await;
    assert_eq!((view.ok, view.failed, view.pending), (1, 0, 0));
    let result = shown[0].result.as_ref().unwrap();
    assert_eq!(
        (result.stdout.as_deref(), result.truncated, result.stdout_bytes),
        (Some("two"), true, Some(7))
    );
    assert!(!result.provisional);
}

#[tokio::test]
async fn a_damaged_backup_restores_nothing() {
    let f = Fixture::new().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("hub.backup");
    f.hub.backup(&admin(), &file).await.unwrap();
    let whole = std::fs::read(&file).unwrap();
    let dir = elsewhere.path().join("new");
    let broken = elsewhere.path().join("broken");
    let mut tries: Vec<(String, Vec<u8>)> = vec![
        ("cut".into(), whole[..whole.len() - 1].to_vec()),
        ("half".into(), whole[..whole.len() / 2].to_vec()),
        ("empty".into(), vec![]),
        ("magic only".into(), whole[..18].to_vec()),
    ];
    for at in (0..whole.len()).step_by(whole.len() / 40) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        tries.push((format!("bit at {at}"), bytes));
    }
    for (what, bytes) in tries {
        std::fs::write(&broken, bytes).unwrap();
        assert!(backup::restore(&broken, &dir).is_err(), "{what}");
        assert!(!dir.exists(), "{what}");
    }
    backup::restore(&file, &dir).unwrap();
    assert!(matches!(backup::restore(&file, &dir), Err(BackupError::NotEmpty { .. })));
    let left: Vec<_> = std::fs::read_dir(f.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("unfinished"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_killed_hub_still_knows_until_when_it_saw_its_nodes() {
    let f = Fixture::new().await;
    let nodes = f.nodes(2).await;
    f.hub.look_again().await;
    f.clock.pass(1_000);
    nodes[1].unlink(&f.hub);
    let gone = f.clock.now().as_millis();
    f.clock.pass(600_000);
    f.hub.look_again().await;
    let there = f.clock.now().as_millis();
    f.clock.pass(30_000);
    let f = f.restart().await;
    let seen = async |which: &str| f.hub.node(which).await.unwrap().last_seen;
    assert_eq!(seen("n0").await, Some(there), "it was linked when the hub was killed");
    assert_eq!(seen("n1").await, Some(gone), "it was not");
}

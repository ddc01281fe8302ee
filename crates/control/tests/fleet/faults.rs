//! A disk that is full, that fails, and that forgets what was not synced.

use mainstay_control::view::*;
use mainstay_core::frame::Verdict;
use mainstay_store::fault_vfs::{FaultDisk, Loss};

use crate::fakes::*;

#[tokio::test]
async fn a_full_disk_refuses_new_runs_keeps_what_was_accepted_and_recovers_by_itself() {
    let disk = FaultDisk::new();
    let f = Fixture::on(&disk, tempfile::tempdir().unwrap(), TestClock::new()).await;
    let mut node = f.nodes(1).await.remove(0);
    let run = f.run(spec("*")).await;
    node.accept(&f.hub);
    disk.set_capacity(Some(disk.used()));
    let big = RunSpec { args: vec!["x".repeat(400_000)], ..spec("*") };
    let mut refused = None;
    for _ in 0..200 {
        match f.hub.start_run(&admin(), big.clone()).await {
            Ok(_) => {}
            Err(problem) => {
                refused = Some(problem.kind);
                break;
            }
        }
    }
    assert_eq!(refused, Some(ProblemKind::Full));
    let accepted = f.hub.runs(&admin(), 1_000).await.unwrap().len();
    disk.set_capacity(None);
    assert_eq!(node.end(&f.hub, run, 0, "").await, Verdict::Accepted);
    f.run(spec("*")).await;
    assert_eq!(f.hub.runs(&admin(), 1_000).await.unwrap().len(), accepted + 1);
    assert_eq!(f.view(run).await.0.ok, 1);
}

/// Syncs fail at each place in turn; afterwards power goes. What was acknowledged is there, once, and nothing else is needed than to
/// send again what was not.
#[tokio::test]
async fn what_was_acknowledged_survives_failing_syncs_and_power_losses() {
    let (mut refused, mut kept) = (0, 0);
    for good in 0..12 {
        let disk = FaultDisk::new();
        let f = Fixture::on(&disk, tempfile::tempdir().unwrap(), TestClock::new()).await;
        let mut nodes = f.nodes(2).await;
        disk.fail_sync_after(good);
        let started = f.hub.start_run(&admin(), spec("*")).await;
        let mut acknowledged = vec![];
        if let Ok(view) = &started {
            for node in &mut nodes {
                node.accept(&f.hub);
                if node.end(&f.hub, view.run, 0, "out").await == Verdict::Accepted {
                    acknowledged.push(node.name.clone());
                }
            }
        }
        let Fixture { dir, clock, hub, store, .. } = f;
        drop(hub);
        store.close().await;
        drop(store);
        disk.power_loss(Loss::All);
        let f = Fixture::on(&disk, dir, clock).await;
        let Ok(view) = started else {
            refused += 1;
            continue;
        };
        kept += acknowledged.len();
        let (_, shown) = f.hub.run(&admin(), view.run).await.unwrap_or_else(|e| panic!("{good}: {e}"));
        for node in &shown {
            let has_result =
                node.result.as_ref().is_some_and(|result| result.stdout.as_deref() == Some("out"));
            assert!(
                has_result || !acknowledged.contains(&node.node),
                "{good}: {} was acknowledged",
                node.node
            );
        }
        for node in &mut nodes {
            node.link(&f.hub).await.unwrap();
            node.accept(&f.hub);
            assert_eq!(node.end(&f.hub, view.run, 0, "out").await, Verdict::Accepted, "{good}");
        }
        let (view, _) = f.view(view.run).await;
        assert_eq!((view.ok, view.pending), (2, 0), "{good}");
        assert_eq!(f.events(view.run, 0).await.len(), 4, "{good}");
        f.hub.verify_audit(&admin()).await.unwrap();
    }
    assert!(refused > 0 && kept > 0, "the failures were all in one place: {refused} refused, {kept} kept");
}

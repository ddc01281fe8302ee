//! Plans that nodes made are approved by their content, and applied by a run of its own.

use data_encoding::BASE64;
use mainstay_control::hub::approval::{APPLY, PLAN};
use mainstay_control::view::*;
use mainstay_core::envelope::Payload;
use mainstay_core::id::RunId;
use mainstay_core::state::plan::StateCounts;
use mainstay_core::state::session::{PlannedLine, StateLine};

use crate::fakes::*;

fn plan_spec(target: &str) -> RunSpec {
    let stdin_base64 = Some(BASE64.encode(b"a catalog with canary-5b7e"));
    RunSpec { method: PLAN.into(), args: vec![], stdin_base64, ..spec(target) }
}

fn planned(plan: &str, pending: bool) -> String {
    let line = PlannedLine {
        cycle: 1,
        plan: plan.into(),
        steps: u64::from(pending),
        unchanged: Default::default(),
        pending,
        errors: false,
        orphans: Vec::new(),
    };
    serde_json::to_string(&StateLine::Planned(line)).unwrap() + "\n"
}

fn approve(plans: &[&str]) -> Approve {
    Approve { plans: plans.iter().map(|plan| (*plan).to_owned()).collect(), ..Approve::default() }
}

/// A run of two nodes, of which each has made the plan `aa`.
async fn two_planned(f: &Fixture) -> (RunId, Vec<FakeNode>) {
    let mut nodes = f.nodes(2).await;
    let run = f.run(plan_spec("*")).await;
    for node in &mut nodes {
        node.accept(&f.hub);
        node.end(&f.hub, run, 0, &planned("aa", true)).await;
    }
    (run, nodes)
}

#[tokio::test]
async fn only_the_nodes_with_an_approved_plan_get_it_and_the_catalog_stays_sealed() {
    let f = Fixture::new().await;
    let mut nodes = f.nodes(4).await;
    let run = f.run(plan_spec("*")).await;
    for node in &mut nodes {
        node.accept(&f.hub);
    }
    nodes[0].end(&f.hub, run, 0, &planned("aa", true)).await;
    nodes[1].end(&f.hub, run, 0, &planned("bb", true)).await;
    nodes[2].end(&f.hub, run, 0, &planned("aa", false)).await;
    // The fourth is still at it: what it finds later was never approved.
    let applied = f.hub.approve_run(&admin(), run, approve(&["aa"])).await.unwrap();
    assert_eq!((applied.nodes, applied.method.as_str()), (1, APPLY));
    assert_eq!(nodes[1].accept(&f.hub) + nodes[2].accept(&f.hub) + nodes[3].accept(&f.hub), 0);
    assert_eq!(nodes[0].accept(&f.hub), 1);
    let Payload::Request(request) = &nodes[0].taken[1].payload else { panic!() };
    assert_eq!(serde_json::from_slice::<Vec<String>>(&request.data).unwrap(), ["aa"]);
    let private = request.sealed.as_ref().unwrap().open(nodes[0].signer.signing_key()).unwrap();
    assert_eq!(private.stdin.as_deref(), Some(&b"a catalog with canary-5b7e"[..]));
    // Another plan of the run can be approved afterwards.
    nodes[3].end(&f.hub, run, 0, &planned("cc", true)).await;
    assert_eq!(f.hub.approve_run(&admin(), run, approve(&["bb", "cc"])).await.unwrap().nodes, 2);
    f.hub.shutdown().await;
    for file in std::fs::read_dir(f.dir.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(11).any(|window| window == b"canary-5b7e"));
    }
}

#[tokio::test]
async fn a_later_cycle_is_approved_from_the_apply_and_what_was_applied_is_not_approved_again() {
    let f = Fixture::new().await;
    let (run, mut nodes) = two_planned(&f).await;
    let first = f.hub.approve_run(&admin(), run, approve(&["aa"])).await.unwrap().run;
    let applied = StateLine::Applied { cycle: 1, counts: StateCounts::default(), drift: None };
    let applied = serde_json::to_string(&applied).unwrap() + "\n";
    for node in &mut nodes {
        node.accept(&f.hub);
    }
    nodes[0].end(&f.hub, first, 0, &(applied.clone() + &planned("dd", true))).await;
    nodes[1].end(&f.hub, first, 0, &(planned("dd", true) + &applied)).await;
    assert_eq!(f.hub.approve_run(&admin(), first, approve(&["dd"])).await.unwrap().nodes, 1);
}

#[tokio::test]
async fn what_cannot_be_approved_is_refused_with_the_reason() {
    let f = Fixture::new().await;
    let mut nodes = f.nodes(1).await;
    let command = f.run(spec("*")).await;
    let run = f.run(plan_spec("*")).await;
    nodes[0].accept(&f.hub);
    nodes[0].end(&f.hub, run, 0, &planned("aa", true)).await;
    let kind = async |by: &Operator, run, plans: &[&str]| {
        f.hub.approve_run(by, run, approve(plans)).await.unwrap_err().kind
    };
    assert_eq!(kind(&admin(), command, &["aa"]).await, ProblemKind::Invalid);
    assert_eq!(kind(&admin(), run, &[]).await, ProblemKind::Invalid);
    assert_eq!(kind(&admin(), run, &["bb"]).await, ProblemKind::NoTargets);
    let planner = Operator { methods: vec![PLAN.into()], ..admin() };
    assert_eq!(kind(&planner, run, &["aa"]).await, ProblemKind::Forbidden);
    let elsewhere = Operator { targets: "n7".into(), ..admin() };
    assert_eq!(kind(&elsewhere, run, &["aa"]).await, ProblemKind::NoTargets);
    let bound = Operator { name: "ci".into(), admin: false, ..elsewhere };
    assert_eq!(kind(&bound, run, &["aa"]).await, ProblemKind::NotFound, "it is not theirs to see");
}

#[tokio::test]
async fn a_plan_whose_apply_is_under_way_is_not_approved_again() {
    let f = Fixture::new().await;
    let (run, _nodes) = two_planned(&f).await;
    let only = |node: &str| Approve { nodes: vec![node.parse().unwrap()], ..approve(&["aa"]) };
    let names: Vec<String> =
        f.hub.run(&admin(), run).await.unwrap().1.iter().map(|n| n.node.to_string()).collect();
    let first = f.hub.approve_run(&admin(), run, only(&names[0])).await.unwrap().run;
    let again = f.hub.approve_run(&admin(), run, only(&names[0])).await.unwrap_err();
    assert_eq!(again.kind, ProblemKind::Conflict);
    assert!(
        again.message.contains(&format!("run {first} has not ended on {}", names[0])),
        "{}",
        again.message
    );
    // The other one still has its turn.
    let both = f.hub.approve_run(&admin(), run, approve(&["aa"])).await.unwrap();
    assert_eq!(
        (both.nodes, f.hub.run(&admin(), both.run).await.unwrap().1[0].node.as_str()),
        (1, &*names[1])
    );
    // Once it was called off, or has ended, it is for the node to say whether the plan still counts.
    f.hub.cancel_run(&admin(), first).await.unwrap();
    assert_eq!(f.hub.approve_run(&admin(), run, only(&names[0])).await.unwrap().nodes, 1);
}

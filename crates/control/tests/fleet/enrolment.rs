//! Who becomes a node, and who stays one.

use std::collections::BTreeMap;

use mainstay_control::view::*;
use mainstay_core::frame::{Enrolment, Goodbye};
use mainstay_core::id::JournalId;
use mainstay_core::time::Timestamp;
use mainstay_core::trust::{Act, Role};
use mainstay_node::hub_role::HubRole as _;

use crate::fakes::*;

fn reason(enrolment: &Enrolment) -> &str {
    match enrolment {
        Enrolment::Refused { reason } => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_first_start_makes_a_fleet_and_the_next_one_finds_it() {
    let f = Fixture::new().await;
    let key = f.hub.fleet().key();
    let ca = f.hub.fleet().ca().clone();
    assert!(f.hub.fleet().trust().read().unwrap().is_hub(&key, f.clock.now()));
    assert_eq!(f.hub.status().await.unwrap().epoch, 2);
    let dir = f.dir.path().to_owned();
    for file in ["root.key", "identity.key"] {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(dir.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    // The root may be taken away once the hub has its grant.
    std::fs::remove_file(dir.join("root.key")).unwrap();
    let f = f.restart().await;
    assert_eq!((f.hub.fleet().key(), f.hub.fleet().ca().clone()), (key, ca));
    assert_eq!(f.hub.status().await.unwrap().epoch, 2);
    assert!(!dir.join("root.key").exists());
}

#[tokio::test]
async fn a_first_start_that_was_cut_short_anywhere_is_finished_by_the_next() {
    use mainstay_control::fleet::FILES;
    for killed_after in 0..FILES.len() {
        let dir = tempfile::tempdir().unwrap();
        let clock = TestClock::new();
        // What a start that was killed after so many files left: those files, and an empty store.
        let whole = Fixture::new().await;
        for file in &FILES[..killed_after] {
            std::fs::copy(whole.dir.path().join(file), dir.path().join(file)).unwrap();
        }
        let store = store(dir.path(), &clock);
        let hub = open(dir.path(), &clock, &store).await;
        assert_eq!(hub.status().await.unwrap().epoch, 2, "killed after {killed_after} files");
        let root = hub.fleet().trust().read().unwrap().root();
        if killed_after > 0 {
            assert_eq!(root, whole.hub.fleet().trust().read().unwrap().root());
        }
        if killed_after > 1 {
            assert_eq!(hub.fleet().key(), whole.hub.fleet().key());
        }
    }
}

#[tokio::test]
async fn a_key_that_others_can_read_or_of_another_fleet_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let f = Fixture::new().await;
    let other = Fixture::new().await;
    let root = f.dir.path().join("root.key");
    drop(f.hub);
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(try_open(f.dir.path(), &f.clock, &f.store).await.unwrap_err().contains("0600"));
    std::fs::copy(other.dir.path().join("root.key"), &root).unwrap();
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(try_open(f.dir.path(), &f.clock, &f.store).await.unwrap_err().contains("another fleet"));
}

#[tokio::test]
async fn a_token_for_one_node_admits_one_of_many_that_ask_at_once() {
    let f = Fixture::new().await;
    let token = f.join_token(1).await;
    let nodes: Vec<_> = (0..20).map(|i| FakeNode::new(&format!("n{i}"), i + 1)).collect();
    let asked = nodes.iter().map(|node| node.enrol(&f.hub, Some(&token)));
    let answers = futures_util::future::join_all(asked).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_joined()).count(), 1);
    for answer in answers.iter().filter(|answer| !answer.is_joined()) {
        assert!(reason(answer).contains("used as often"), "{answer:?}");
    }
    assert_eq!(f.hub.nodes(None).await.unwrap().len(), 1);
    assert_eq!(f.hub.tokens(&admin()).await.unwrap()[0].uses_left, Some(0));
    // A restart does not give the use back.
    let f = f.restart().await;
    let late = FakeNode::new("late", 99);
    assert!(reason(&late.enrol(&f.hub, Some(&token)).await).contains("used as often"));
}

#[tokio::test]
async fn a_node_that_lost_the_answer_gets_it_again_without_another_use() {
    let f = Fixture::new().await;
    let token = f.join_token(1).await;
    let node = FakeNode::new("n", 1);
    let first = node.enrol(&f.hub, Some(&token)).await;
    assert!(first.is_joined());
    let f = f.restart().await;
    let again = node.enrol(&f.hub, Some(&token)).await;
    assert_eq!(again, first);
    let Enrolment::Joined { chain, ca, .. } = again else { unreachable!() };
    let ca = mainstay_link::chain::FleetCa::from_der(ca).unwrap();
    let proven = ca.verify(&chain).unwrap();
    assert_eq!((proven.key, proven.name), (node.key(), node.name.clone()));
    assert_eq!(f.hub.chain_of(node.key()), chain);
    // The same name under another key is refused, whatever it brings, and costs the token no use.
    f.clock.pass(1);
    let token = f.join_token(1).await;
    let impostor = FakeNode::new("N", 2);
    assert!(reason(&impostor.enrol(&f.hub, Some(&token)).await).contains("taken"));
    assert_eq!(f.hub.tokens(&admin()).await.unwrap()[1].uses_left, Some(1));
}

#[tokio::test]
async fn tokens_end_by_time_by_revocation_and_by_their_name() {
    let f = Fixture::new().await;
    let spec = TokenSpec {
        kind: TokenKind::Join,
        lifetime_ms: Some(1_000),
        uses: None,
        name: Some("db".into()),
        labels: BTreeMap::new(),
        methods: vec![],
        targets: None,
    };
    let made = f.hub.create_token(&admin(), spec.clone()).await.unwrap();
    let token = made.token.parse().unwrap();
    let other = FakeNode::new("web", 1);
    assert!(reason(&other.enrol(&f.hub, Some(&token)).await).contains("bound to the name db"));
    f.clock.pass(1_000);
    let node = FakeNode::new("db", 2);
    assert!(reason(&node.enrol(&f.hub, Some(&token)).await).contains("expired"));
    let made = f.hub.create_token(&admin(), spec).await.unwrap();
    f.hub.revoke_token(&admin(), &made.view.id).await.unwrap();
    let token = made.token.parse().unwrap();
    assert!(reason(&node.enrol(&f.hub, Some(&token)).await).contains("not known"));
    // What is stored does not give the secret away.
    assert!(!format!("{:?}", f.hub.tokens(&admin()).await.unwrap()).contains(token.secret.expose()));
}

#[tokio::test]
async fn a_node_without_a_token_waits_until_an_operator_accepts_it() {
    let f = Fixture::new().await;
    let mut node = FakeNode::new("n", 1);
    assert!(matches!(node.enrol(&f.hub, None).await, Enrolment::Waiting { .. }));
    assert!(matches!(node.link(&f.hub).await, Err(Goodbye::Waiting { .. })));
    assert_eq!(f.hub.node("n").await.unwrap().state, NodeState::Waiting);
    let plain = Operator { admin: false, ..admin() };
    let refused = f.hub.accept_node(&plain, "n", None).await.unwrap_err();
    assert_eq!(refused.kind, ProblemKind::Forbidden);
    f.hub.accept_node(&admin(), "n", Some("better".parse().unwrap())).await.unwrap();
    let Enrolment::Joined { name, .. } = node.enrol(&f.hub, None).await else { panic!() };
    assert_eq!(name.as_str(), "better");
    node.name = name;
    node.link(&f.hub).await.unwrap();
}

#[tokio::test]
async fn strangers_that_ask_fill_neither_memory_nor_store() {
    let f = Fixture::new().await;
    for i in 0..1_200 {
        f.clock.pass(1);
        FakeNode::new(&format!("x{i}"), i + 1).enrol(&f.hub, None).await;
    }
    let nodes = f.hub.nodes(None).await.unwrap();
    assert_eq!(nodes.len(), 1_000);
    // The last ones are there, the first ones were forgotten.
    assert!(f.hub.node("x1199").await.is_ok() && f.hub.node("x0").await.is_err());
    let f = f.restart().await;
    assert!(f.hub.nodes(None).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_journal_that_steps_back_is_quarantined_until_accepted() {
    let f = Fixture::new().await;
    let mut node = f.nodes(1).await.remove(0);
    node.mark = 10;
    node.unlink(&f.hub);
    f.hub.look_again().await;
    let f = f.restart().await;
    node.mark = 9;
    let Err(Goodbye::Waiting { reason }) = node.link(&f.hub).await else { panic!("linked") };
    assert!(reason.contains("stepped back from 10 to 9"), "{reason}");
    // Even the right mark does not help now: it was decided, and outlives the hub.
    let f = f.restart().await;
    node.mark = 11;
    assert!(node.link(&f.hub).await.is_err());
    assert_eq!(f.hub.node("n0").await.unwrap().state, NodeState::Quarantined);
    let no_one = f.hub.start_run(&admin(), spec("*")).await.unwrap_err();
    assert_eq!(no_one.kind, ProblemKind::NoTargets);
    f.hub.accept_node(&admin(), "n0", None).await.unwrap();
    node.mark = 3;
    node.link(&f.hub).await.unwrap();
    // Another journal is a step back too.
    node.unlink(&f.hub);
    node.journal = JournalId::new(Timestamp::from_millis(START), [99; 10]);
    assert!(matches!(node.link(&f.hub).await, Err(Goodbye::Waiting { .. })));
}

#[tokio::test]
async fn a_revoked_node_is_cut_off_for_good_and_its_name_is_free_once_it_is_removed() {
    let f = Fixture::new().await;
    let mut node = f.nodes(1).await.remove(0);
    let view = f.hub.revoke_node(&admin(), "n0", "stolen").await.unwrap();
    assert_eq!((view.state, view.note.as_deref()), (NodeState::Revoked, Some("stolen")));
    assert_eq!(*f.courier.cut.lock().unwrap(), [(node.key(), Goodbye::Revoked)]);
    assert_eq!(node.link(&f.hub).await, Err(Goodbye::Revoked));
    let token = f.join_token(2).await;
    assert!(reason(&node.enrol(&f.hub, Some(&token)).await).contains("for good"));
    let successor = FakeNode::new("n0", 50);
    assert!(reason(&successor.enrol(&f.hub, Some(&token)).await).contains("taken"));
    f.hub.remove_node(&admin(), "n0").await.unwrap();
    assert!(successor.enrol(&f.hub, Some(&token)).await.is_joined());
    let f = f.restart().await;
    assert_eq!(node.link(&f.hub).await, Err(Goodbye::Revoked));
    assert_eq!(f.hub.resolve(&successor.name), Some(successor.key()));
}

#[tokio::test]
async fn revocations_that_a_peer_knows_and_this_hub_does_not_are_learned() {
    let f = Fixture::new().await;
    let node = f.nodes(1).await.remove(0);
    let shared = f.hub.fleet().trust();
    let mut ahead = shared.read().unwrap().clone();
    let key = node.key();
    let act = Act::Revoke { key, reason: "elsewhere".into() };
    let entry = ahead.next_entry(f.hub.fleet().signer(), f.clock.now(), act);
    ahead.append(entry.clone()).unwrap();
    f.hub.learn_trust(vec![entry.clone()]).await.unwrap();
    assert_eq!(f.hub.node("n0").await.unwrap().state, NodeState::Revoked);
    assert_eq!(f.courier.cut.lock().unwrap().len(), 1);
    // Twice is no continuation; and a forged one is none at all.
    assert!(f.hub.learn_trust(vec![entry]).await.is_err());
    let stranger = FakeNode::new("x", 77);
    let grant = mainstay_core::trust::Grant {
        key: stranger.key(),
        name: "x".into(),
        role: Role::Hub,
        methods: vec!["*".into()],
        targets: "*".into(),
        expires: None,
    };
    let forged = ahead.next_entry(&stranger.signer, f.clock.now(), Act::Grant(grant));
    assert!(f.hub.learn_trust(vec![forged]).await.is_err());
    assert_eq!(f.hub.status().await.unwrap().epoch, 3);
}

#[tokio::test]
async fn labels_of_operators_win_and_reach_targets() {
    let f = Fixture::new().await;
    f.nodes(2).await;
    let labels = |value: Option<&str>| BTreeMap::from([("role".to_owned(), value.map(str::to_owned))]);
    f.hub.label_node(&admin(), "n1", labels(Some("db"))).await.unwrap();
    let names =
        |nodes: Vec<NodeView>| nodes.into_iter().map(|node| node.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(f.hub.nodes(Some("role=web")).await.unwrap()), ["n0"]);
    let f = f.restart().await;
    assert_eq!(names(f.hub.preview(&admin(), &["role=db".into()]).await.unwrap()), ["n1"]);
    f.hub.label_node(&admin(), "n1", labels(None)).await.unwrap();
    assert!(f.hub.nodes(Some("role=db")).await.unwrap().is_empty());
    let bad = BTreeMap::from([("a b".to_owned(), Some("x".to_owned()))]);
    assert_eq!(f.hub.label_node(&admin(), "n1", bad).await.unwrap_err().kind, ProblemKind::Invalid);
}

//! The life of runs.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use mainstay_control::view::*;
use mainstay_core::envelope::{Payload, Stream};
use mainstay_core::frame::Verdict;
use mainstay_core::id::RunId;
use mainstay_core::outcome::{Outcome, Rejection};
use mainstay_node::hub_role::HubRole as _;
use mainstay_store::Store as _;
use mainstay_store::store::{LogName, Position};

use crate::fakes::*;

fn word<'a>(nodes: &'a [RunNodeView], name: &str) -> &'a str {
    let node = nodes.iter().find(|node| node.node.as_str() == name).unwrap();
    node.result.as_ref().map_or("pending", |result| &result.outcome)
}

fn kinds(events: &[(u64, RunEvent)]) -> Vec<&'static str> {
    let kind = |event: &RunEvent| match event {
        RunEvent::Accepted { .. } => "accepted",
        RunEvent::Output { .. } => "output",
        RunEvent::Result(_) => "result",
        RunEvent::Summary { .. } => "summary",
    };
    events.iter().map(|(_, event)| kind(event)).collect()
}

#[tokio::test]
async fn a_run_reaches_its_nodes_and_keeps_what_they_say() {
    let f = Fixture::new().await;
    let mut nodes = f.nodes(3).await;
    let run = f.run(spec("*")).await;
    for node in &mut nodes {
        assert!(f.courier.woken.lock().unwrap().contains(&node.key()));
        assert_eq!(node.accept(&f.hub), 1);
        assert_eq!(node.accept(&f.hub), 0, "what is in flight is not sent again");
    }
    let Payload::Request(request) = &nodes[0].taken[0].payload else { panic!() };
    assert_eq!((request.run, request.args.as_slice()), (Some(run), &["true".to_owned()][..]));
    assert_eq!(request.operator.as_deref(), Some("uid:0 (root)"));
    assert_eq!(nodes[0].end(&f.hub, run, 0, "hi\n").await, Verdict::Accepted);
    assert_eq!(nodes[1].end(&f.hub, run, 3, "").await, Verdict::Accepted);
    let (view, shown) = f.view(run).await;
    assert_eq!((view.nodes, view.ok, view.failed, view.pending), (3, 1, 1, 1));
    assert_eq!(shown[2].pending.as_deref(), Some("accepted"));
    let first = shown[0].result.as_ref().unwrap();
    assert_eq!((first.stdout.as_deref(), first.duration_ms), (Some("hi\n"), Some(7)));
    assert_eq!(nodes[2].end(&f.hub, run, 0, "").await, Verdict::Accepted);
    let events = f.events(run, 0).await;
    assert_eq!(kinds(&events), ["accepted", "result", "result", "result", "summary"]);
    // The numbers are what one continues from.
    assert_eq!(events.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2, 3, 4, 4]);
    assert_eq!(kinds(&f.events(run, 3).await), ["result", "summary"]);
    assert_eq!(kinds(&f.events(run, 4).await), ["summary"]);
}

#[tokio::test]
async fn answers_that_come_twice_count_once() {
    let f = Fixture::new().await;
    let mut node = f.nodes(1).await.remove(0);
    let run = f.run(RunSpec { stream: true, ..spec("*") }).await;
    node.accept(&f.hub);
    // All at once: in one round of the writer, and then once more.
    let answers = (0..5).map(|_| node.output(&f.hub, run, 1, Stream::Stdout, b"a"));
    assert!(futures_util::future::join_all(answers).await.iter().all(|v| *v == Verdict::Accepted));
    node.output(&f.hub, run, 1, Stream::Stdout, b"a").await;
    assert_eq!(node.end_as(&f.hub, run, Outcome::Interrupted).await, Verdict::Accepted);
    assert_eq!(node.end(&f.hub, run, 0, "").await, Verdict::Accepted, "a second end is none");
    let (view, shown) = f.view(run).await;
    assert_eq!((view.ok, view.failed, view.pending), (0, 1, 0));
    assert_eq!(word(&shown, "n0"), "interrupted");
    assert_eq!(kinds(&f.events(run, 0).await), ["accepted", "output", "result", "summary"]);
    // After it is closed, a resend is still acknowledged.
    let f = f.restart().await;
    assert_eq!(node.output(&f.hub, run, 1, Stream::Stdout, b"a").await, Verdict::Accepted);
    assert_eq!(kinds(&f.events(run, 0).await), ["accepted", "output", "result", "summary"]);
}

#[tokio::test]
async fn output_out_of_order_is_shown_in_order_and_whole() {
    let f = Fixture::new().await;
    let mut node = f.nodes(1).await.remove(0);
    let run = f.run(RunSpec { stream: true, ..spec("*") }).await;
    node.accept(&f.hub);
    let end = {
        let re = mainstay_core::id::MessageId::of_run(run, node.key());
        let mut end = FakeNode::end_of(run, re, Outcome::Finished(mainstay_core::outcome::Exit::Code(0)), "");
        end.last_seq = 3;
        end.stdout_bytes = 6;
        end.stderr_bytes = 3;
        node.sign(re.of_answer("end", 0), Payload::End(end))
    };
    // The end overtakes the output: the node is not done before all of it is there, and keeps what it has until then.
    let too_early = |verdict: Verdict| matches!(verdict, Verdict::Busy { .. });
    assert!(too_early(f.hub.answer(node.key(), end.clone()).await));
    node.output(&f.hub, run, 3, Stream::Stdout, b"two").await;
    node.output(&f.hub, run, 2, Stream::Stderr, b"err").await;
    let (view, shown) = f.view(run).await;
    assert_eq!(view.pending, 1);
    assert!(shown[0].pending.as_ref().unwrap().contains("output is on the way"));
    let f = f.restart().await;
    assert!(too_early(f.hub.answer(node.key(), end.clone()).await));
    node.output(&f.hub, run, 1, Stream::Stdout, b"one").await;
    assert_eq!(f.hub.answer(node.key(), end).await, Verdict::Accepted);
    let events = f.events(run, 0).await;
    assert_eq!(kinds(&events), ["accepted", "output", "output", "output", "result", "summary"]);
    let data: Vec<_> = events
        .iter()
        .filter_map(|(_, event)| match event {
            RunEvent::Output { seq, data, .. } => Some((*seq, data.clone().unwrap())),
            _ => None,
        })
        .collect();
    assert_eq!(data, [(1, "one".into()), (2, "err".into()), (3, "two".into())]);
    let RunEvent::Result(result) = &events[4].1 else { panic!() };
    assert_eq!((result.stdout.as_deref(), result.stderr.as_deref()), (Some("onetwo"), Some("err")));
    assert!(!result.truncated);
}

#[tokio::test]
async fn a_restart_in_the_middle_loses_nothing_and_sends_the_same_bytes() {
    let f = Fixture::new().await;
    let mut nodes = f.nodes(4).await;
    let run = f.run(spec("*")).await;
    let before = f.hub.next_for(nodes[0].key(), 9);
    nodes[1].accept(&f.hub);
    nodes[2].accept(&f.hub);
    nodes[2].end(&f.hub, run, 0, "done").await;
    let f = f.restart().await;
    for node in &mut nodes {
        node.link(&f.hub).await.unwrap();
    }
    let again = f.hub.next_for(nodes[0].key(), 9);
    assert_eq!(before, again);
    assert_eq!(nodes[2].accept(&f.hub), 0, "what has ended is not sent again");
    nodes[3].accept(&f.hub);
    for i in [0, 1, 3] {
        nodes[i].end(&f.hub, run, 0, "").await;
    }
    let (view, _) = f.view(run).await;
    assert_eq!((view.ok, view.pending), (4, 0));
    let f = f.restart().await;
    assert_eq!(f.view(run).await.0.ok, 4);
    assert_eq!(f.hub.runs(&admin(), 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_run_that_was_not_accepted_whole_never_was() {
    let f = Fixture::new().await;
    f.nodes(2).await;
    let run = f.run(spec("*")).await;
    // As if killed between the record and the targets.
    let log = LogName::new(format!("run.{run}")).unwrap();
    f.store.trim(&log, Position::END).await.unwrap();
    let f = f.restart().await;
    assert!(f.hub.runs(&admin(), 10).await.unwrap().is_empty());
    assert_eq!(f.hub.run(&admin(), run).await.unwrap_err().kind, ProblemKind::NotFound);
}

#[tokio::test]
async fn what_was_in_flight_when_the_link_ended_is_sent_again_and_busy_nodes_are_left_alone() {
    let f = Fixture::new().await;
    let mut node = f.nodes(1).await.remove(0);
    let first = f.run(spec("*")).await;
    f.clock.pass(1);
    let second = f.run(spec("*")).await;
    let sent = node.receive(&f.hub);
    assert_eq!(sent.len(), 2);
    node.unlink(&f.hub);
    assert!(node.receive(&f.hub).is_empty(), "nothing goes to a node without a link");
    node.link(&f.hub).await.unwrap();
    let again: Vec<_> = node.receive(&f.hub).into_iter().map(|body| body.id).collect();
    assert_eq!(again, sent.iter().map(|body| body.id).collect::<Vec<_>>());
    let busy = Verdict::Busy { reason: "full".into(), retry_ms: 500 };
    f.hub.verdict(node.key(), again[0], &busy);
    f.hub.verdict(node.key(), again[1], &Verdict::Accepted);
    assert!(node.receive(&f.hub).is_empty());
    f.clock.pass(500);
    f.courier.woken.lock().unwrap().clear();
    f.hub.look_again().await;
    assert_eq!(*f.courier.woken.lock().unwrap(), [node.key()]);
    assert_eq!(node.accept(&f.hub), 1);
    node.end(&f.hub, first, 0, "").await;
    node.end(&f.hub, second, 0, "").await;
    assert_eq!(f.view(first).await.0.ok + f.view(second).await.0.ok, 2);
}

#[tokio::test]
async fn a_cancel_takes_back_what_was_not_sent_and_follows_what_was() {
    let f = Fixture::new().await;
    let mut nodes = f.nodes(3).await;
    nodes[0].unlink(&f.hub);
    let run = f.run(spec("*")).await;
    nodes[1].accept(&f.hub);
    let flying = nodes[2].receive(&f.hub);
    let view = f.hub.cancel_run(&admin(), run).await.unwrap();
    assert!(view.cancelled);
    assert_eq!((view.failed, view.not_started, view.pending), (0, 1, 2));
    let (_, shown) = f.view(run).await;
    assert_eq!(word(&shown, "n0"), "cancelled");
    assert!(shown[1].pending.as_ref().unwrap().contains("to be cancelled"));
    nodes[0].link(&f.hub).await.unwrap();
    assert!(nodes[0].receive(&f.hub).is_empty());
    let cancel = nodes[1].receive(&f.hub);
    assert!(
        matches!(&cancel[..], [body] if matches!(&body.payload, Payload::Cancel(c) if c.re == nodes[1].taken[0].id))
    );
    f.hub.verdict(nodes[1].key(), cancel[0].id, &Verdict::Accepted);
    nodes[1].end_as(&f.hub, run, Outcome::Cancelled).await;
    // The third lost its link before it had said anything: the cancel goes first, then the order that it voids.
    nodes[2].unlink(&f.hub);
    nodes[2].link(&f.hub).await.unwrap();
    let first = nodes[2].receive(&f.hub);
    assert!(matches!(&first[..], [body] if matches!(body.payload, Payload::Cancel(_))));
    f.hub.verdict(nodes[2].key(), first[0].id, &Verdict::Accepted);
    let then = nodes[2].receive(&f.hub);
    assert_eq!(then, flying);
    f.hub.verdict(nodes[2].key(), then[0].id, &Verdict::Accepted);
    // It had finished all the same; that beats the cancel.
    nodes[2].end(&f.hub, run, 0, "").await;
    let (view, shown) = f.view(run).await;
    assert_eq!((view.ok, view.failed, view.pending), (1, 0, 0));
    assert_eq!((view.not_started, view.nodes_cancelled), (1, 1));
    assert_eq!(word(&shown, "n1"), "cancelled");
}

#[tokio::test]
async fn what_is_pending_says_why() {
    let f = Fixture::new().await;
    let mut nodes = f.nodes(1).await;
    let why = async |run| f.view(run).await.1[0].pending.clone().unwrap();
    let waits_for = async |run| f.view(run).await.1[0].waits_for.unwrap();
    nodes[0].unlink(&f.hub);
    let first = f.run(spec("n0")).await;
    let second = f.run(spec("n0")).await;
    let third = f.run(spec("n0")).await;
    let away = why(first).await;
    assert!(away.starts_with("away since 20") && !away.contains("behind"), "{away}");
    assert_eq!(why(second).await, format!("{away}, behind 1 message"));
    assert_eq!(why(third).await, format!("{away}, behind 2 messages"));
    assert_eq!(waits_for(first).await, WaitsFor::Node);
    nodes[0].link(&f.hub).await.unwrap();
    assert_eq!(why(third).await, "behind 2 messages");
    assert_eq!(f.hub.next_for(nodes[0].key(), 1).len(), 1);
    assert_eq!((why(first).await, why(third).await), ("sent".into(), "behind 2 messages".into()));
    assert_eq!((waits_for(first).await, waits_for(third).await), (WaitsFor::Answer, WaitsFor::Turn));
    nodes[0].accept(&f.hub);
    assert_eq!((why(third).await.as_str(), waits_for(third).await), ("accepted", WaitsFor::Answer));
    nodes[0].unlink(&f.hub);
    assert!(why(third).await.starts_with("accepted; away since"));
    assert_eq!(waits_for(third).await, WaitsFor::Node);
}

#[tokio::test]
async fn a_watcher_is_told_how_many_are_away_from_the_beginning() {
    use tokio_stream::StreamExt as _;
    let f = Fixture::new().await;
    let mut nodes = f.nodes(3).await;
    nodes[1].unlink(&f.hub);
    let run = f.run(spec("*")).await;
    let away = async || match f.hub.watch_run(&admin(), run, 0).await.unwrap().next().await {
        Some(Ok((1, RunEvent::Accepted { targets: 3, away, .. }))) => away,
        other => panic!("{other:?}"),
    };
    // It may just be making a new link.
    assert_eq!(away().await, 0);
    f.clock.pass(1_000);
    assert_eq!(away().await, 1);
    nodes[1].link(&f.hub).await.unwrap();
    assert_eq!(away().await, 0);
}

#[tokio::test]
async fn a_cancel_survives_a_restart() {
    let f = Fixture::new().await;
    let mut node = f.nodes(1).await.remove(0);
    let run = f.run(spec("*")).await;
    node.accept(&f.hub);
    f.hub.cancel_run(&admin(), run).await.unwrap();
    let f = f.restart().await;
    node.link(&f.hub).await.unwrap();
    let sent = node.receive(&f.hub);
    assert!(matches!(sent[0].payload, Payload::Cancel(_)), "{sent:?}");
}

#[tokio::test]
async fn expiry_is_final_for_what_was_never_sent_and_provisional_otherwise() {
    let f = Fixture::new().await;
    let mut nodes = f.nodes(3).await;
    nodes[0].unlink(&f.hub);
    let run = f.run(RunSpec { expires_ms: Some(1_000), ..spec("*") }).await;
    assert_eq!(nodes[1].receive(&f.hub).len(), 1);
    nodes[2].accept(&f.hub);
    f.clock.pass(1_000);
    f.hub.look_again().await;
    let (view, shown) = f.view(run).await;
    assert_eq!((view.failed, view.pending), (2, 1));
    assert_eq!(
        (word(&shown, "n0"), word(&shown, "n1"), word(&shown, "n2")),
        ("expired", "expired", "pending")
    );
    assert!(!shown[0].result.as_ref().unwrap().provisional);
    assert!(shown[1].result.as_ref().unwrap().provisional);
    nodes[0].link(&f.hub).await.unwrap();
    assert!(nodes[0].receive(&f.hub).is_empty());
    // The second had taken it in time after all.
    nodes[1].end(&f.hub, run, 0, "late").await;
    nodes[2].end(&f.hub, run, 0, "").await;
    let (view, shown) = f.view(run).await;
    assert_eq!((view.ok, view.failed, view.pending), (2, 1, 0));
    assert!(!shown[1].result.as_ref().unwrap().provisional);
    let events = f.events(run, 0).await;
    assert_eq!(kinds(&events), ["accepted", "result", "result", "result", "result", "summary"]);
}

#[tokio::test]
async fn a_refusal_is_an_answer() {
    let f = Fixture::new().await;
    let node = f.nodes(1).await.remove(0);
    let run = f.run(RunSpec { method: "file.tail".into(), ..spec("*") }).await;
    let sent = node.receive(&f.hub);
    let why = Rejection::UnknownMethod("file.tail".into());
    f.hub.verdict(node.key(), sent[0].id, &Verdict::Refused(why));
    let (view, shown) = f.view(run).await;
    assert_eq!((view.failed, view.pending), (1, 0));
    let result = shown[0].result.as_ref().unwrap();
    assert_eq!(
        (result.outcome.as_str(), result.reason.as_deref()),
        ("rejected", Some("unknown method \"file.tail\""))
    );
}

#[tokio::test]
async fn batches_start_a_few_at_a_time_and_stop_after_too_many_failures() {
    let f = Fixture::new().await;
    let mut nodes = f.nodes(6).await;
    // One is away: it takes no place.
    nodes[1].unlink(&f.hub);
    let batch = RunSpec { batch: Some("2".into()), max_failures: Some("1".into()), ..spec("*") };
    let run = f.run(batch).await;
    f.hub.settle().await;
    let started =
        |nodes: &mut Vec<FakeNode>| nodes.iter_mut().map(|node| node.accept(&f.hub)).collect::<Vec<_>>();
    assert_eq!(started(&mut nodes), [1, 0, 1, 0, 0, 0]);
    let (_, shown) = f.view(run).await;
    assert!(shown[1].pending.as_ref().unwrap().starts_with("waiting for its batch; away since"));
    assert_eq!(shown[3].pending.as_deref(), Some("waiting for its batch"));
    nodes[0].end(&f.hub, run, 1, "").await;
    f.hub.settle().await;
    assert_eq!(started(&mut nodes), [0, 0, 0, 1, 0, 0]);
    nodes[1].link(&f.hub).await.unwrap();
    f.hub.settle().await;
    assert_eq!(started(&mut nodes), [0; 6], "its place is taken");
    // A restart knows who is at work.
    let f = f.restart().await;
    for node in &mut nodes {
        node.link(&f.hub).await.unwrap();
    }
    f.hub.settle().await;
    let sent: Vec<_> = nodes.iter().map(|node| node.receive(&f.hub).len()).collect();
    // What two of them had said to have is on their disks, or they are asked again; nobody else is.
    assert!(sent[1] == 0 && sent[4] == 0 && sent[5] == 0, "{sent:?}");
    nodes[3].end(&f.hub, run, 1, "").await;
    let (view, shown) = f.view(run).await;
    assert!(view.stopped);
    assert_eq!((view.failed, view.not_started, view.pending), (2, 3, 1), "{shown:?}");
    assert_eq!((word(&shown, "n4"), word(&shown, "n2")), ("cancelled", "pending"));
    nodes[2].end(&f.hub, run, 0, "").await;
    // So it stays when the run is closed and the hub has restarted.
    let f = f.restart().await;
    let view = f.view(run).await.0;
    assert_eq!((view.ok, view.failed, view.not_started, view.pending), (1, 2, 3, 0));
}

#[tokio::test]
async fn what_is_private_is_nowhere_in_clear_and_opens_on_the_node_alone() {
    const CANARY: &str = "canary-8c41f0";
    let f = Fixture::new().await;
    let mut nodes = f.nodes(2).await;
    let run = f
        .run(RunSpec {
            env: BTreeMap::from([("TOKEN".into(), format!("{CANARY}-env"))]),
            cwd: Some(format!("/srv/{CANARY}-cwd")),
            user: Some(format!("{CANARY}-user")),
            stdin_base64: Some(BASE64.encode(format!("{CANARY}-stdin").as_bytes())),
            ..spec("*")
        })
        .await;
    for node in &mut nodes {
        node.accept(&f.hub);
        let Payload::Request(request) = &node.taken[0].payload else { panic!() };
        assert_eq!(node.taken[0].crit, ["sealed"]);
        let private = request.sealed.as_ref().unwrap().open(node.signer.signing_key()).unwrap();
        assert_eq!(private.env, [("TOKEN".into(), format!("{CANARY}-env"))]);
        assert_eq!(private.stdin.as_deref(), Some(format!("{CANARY}-stdin").as_bytes()));
    }
    let Payload::Request(request) = &nodes[0].taken[0].payload else { panic!() };
    assert!(request.sealed.as_ref().unwrap().open(nodes[1].signer.signing_key()).is_err());
    nodes[0].end(&f.hub, run, 1, "").await;
    // A retry has the same private fields, though the operator's client is long gone.
    let f = f.restart().await;
    let again = f.hub.retry_run(&admin(), run, true).await.unwrap();
    assert_eq!(again.nodes, 1);
    nodes[0].link(&f.hub).await.unwrap();
    nodes[0].accept(&f.hub);
    let body = nodes[0].taken.last().unwrap();
    let Payload::Request(request) = &body.payload else { panic!() };
    assert_eq!(request.run, Some(again.run));
    let private = request.sealed.as_ref().unwrap().open(nodes[0].signer.signing_key()).unwrap();
    assert_eq!(private.user.as_deref(), Some("canary-8c41f0-user"));
    f.hub.shutdown().await;
    for file in std::fs::read_dir(f.dir.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()));
    }
}

#[tokio::test]
async fn operators_reach_only_what_they_were_given() {
    let f = Fixture::new().await;
    f.nodes(3).await;
    let made = f
        .hub
        .create_token(
            &admin(),
            TokenSpec {
                kind: TokenKind::Operator,
                lifetime_ms: None,
                uses: None,
                name: Some("ci".into()),
                labels: BTreeMap::new(),
                methods: vec!["ping".into()],
                targets: Some("n1 or n2".into()),
            },
        )
        .await
        .unwrap();
    let ci = f.hub.operator_by_token(&made.token).await.unwrap();
    assert_eq!((ci.name.as_str(), ci.admin), ("ci", false));
    let ping = |target: &str| RunSpec { method: "ping".into(), args: vec![], ..spec(target) };
    assert_eq!(f.hub.start_run(&ci, ping("*")).await.unwrap().nodes, 2);
    assert_eq!(f.hub.start_run(&ci, ping("n0")).await.unwrap_err().kind, ProblemKind::Forbidden);
    assert_eq!(f.hub.start_run(&ci, spec("n1")).await.unwrap_err().kind, ProblemKind::Forbidden);
    assert_eq!(f.hub.remove_node(&ci, "n1").await.unwrap_err().kind, ProblemKind::Forbidden);
    assert_eq!(f.hub.send(&ci, "{}").await.unwrap_err().kind, ProblemKind::Forbidden);
    let retried = {
        let run = f.run(spec("*")).await;
        f.hub.retry_run(&ci, run, false).await
    };
    assert_eq!(retried.unwrap_err().kind, ProblemKind::NotFound, "it is not theirs to see");
    f.clock.pass(3_600_000);
    assert_eq!(f.hub.operator_by_token(&made.token).await.unwrap_err().kind, ProblemKind::Unauthorized);
    assert!(f.hub.operator_by_token("mso1.wrong").await.is_err());
}

#[tokio::test]
async fn whoever_is_bound_to_some_nodes_sees_and_ends_their_own_runs_only() {
    let f = Fixture::new().await;
    f.nodes(2).await;
    let operator = |name: &str, targets: &str, methods: &str| Operator {
        name: name.into(),
        methods: vec![methods.into()],
        targets: targets.into(),
        admin: false,
    };
    let (bound, watcher, pinger) =
        (operator("ci", "n1", "*"), operator("eye", "*", "cmd"), operator("p", "*", "ping"));
    let theirs = f.hub.start_run(&bound, spec("*")).await.unwrap().run;
    // Within one millisecond chance decides which id is the later.
    f.clock.pass(1);
    let others = f.run(spec("*")).await;

    let seen = async |by: &Operator| {
        let views = f.hub.runs(by, 10).await.unwrap();
        views.iter().map(|view| view.run).collect::<Vec<_>>()
    };
    assert_eq!(seen(&bound).await, [theirs]);
    assert_eq!(seen(&watcher).await, [others, theirs]);
    assert!(seen(&pinger).await.is_empty());

    let hidden = |problem: Problem| assert_eq!(problem.kind, ProblemKind::NotFound, "{problem}");
    hidden(f.hub.run(&bound, others).await.unwrap_err());
    hidden(f.hub.watch_run(&bound, others, 0).await.err().unwrap());
    hidden(f.hub.retry_run(&bound, others, false).await.unwrap_err());
    hidden(f.hub.cancel_run(&bound, others).await.unwrap_err());
    assert!(!f.hub.run(&watcher, others).await.unwrap().0.cancelled);
    assert!(f.hub.cancel_run(&bound, theirs).await.unwrap().cancelled);
}

#[tokio::test]
async fn bad_orders_are_refused_before_anything_is_written() {
    let f = Fixture::new().await;
    f.nodes(1).await;
    for (what, bad) in [
        ("no args", RunSpec { args: vec![], ..spec("*") }),
        ("batch", RunSpec { batch: Some("0".into()), ..spec("*") }),
        ("failures", RunSpec { max_failures: Some("x".into()), ..spec("*") }),
        ("expires", RunSpec { expires_ms: Some(31 * 86_400_000), ..spec("*") }),
        ("timeout", RunSpec { timeout_ms: Some(0), ..spec("*") }),
        ("stdin", RunSpec { stdin_base64: Some("?".into()), ..spec("*") }),
        ("env", RunSpec { env: BTreeMap::from([("A=B".into(), String::new())]), ..spec("*") }),
        ("output", RunSpec { output_limit: Some(1 << 40), ..spec("*") }),
        ("large", RunSpec { args: vec!["x".repeat(600_000)], ..spec("*") }),
        ("target", spec("role=(")),
    ] {
        let problem = f.hub.start_run(&admin(), bad).await.unwrap_err();
        assert_eq!(problem.kind, ProblemKind::Invalid, "{what}: {problem}");
    }
    for nobody in ["nope", "role=nothing"] {
        let problem = f.hub.start_run(&admin(), spec(nobody)).await.unwrap_err();
        assert_eq!(problem.kind, ProblemKind::NoTargets, "{nobody}");
    }
    assert!(f.hub.runs(&admin(), 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn answers_of_others_and_floods_of_output_are_refused() {
    let f = Fixture::new().await;
    let mut nodes = f.nodes(2).await;
    let run = f.run(RunSpec { output_limit: Some(10), ..spec("n0") }).await;
    nodes[0].accept(&f.hub);
    assert_eq!(nodes[1].end(&f.hub, run, 0, "").await, Verdict::Refused(Rejection::Denied));
    // An end that names another message than the one this run sent to this node.
    let re = mainstay_core::id::MessageId::of_run(run, nodes[1].key());
    let end = FakeNode::end_of(run, re, Outcome::Lost, "");
    let forged = nodes[0].sign(re.of_answer("end", 0), Payload::End(end));
    assert_eq!(f.hub.answer(nodes[0].key(), forged).await, Verdict::Refused(Rejection::Denied));
    for (seq, verdict) in [
        (1, Verdict::Accepted),
        (2, Verdict::Accepted),
        (0, Verdict::Accepted),
        (u64::MAX, Verdict::Refused(Rejection::TooLarge)),
    ] {
        if seq != 0 {
            assert_eq!(
                nodes[0].output(&f.hub, run, seq, Stream::Stdout, b"12345678").await,
                verdict,
                "{seq}"
            );
        }
    }
    let end = {
        let re = mainstay_core::id::MessageId::of_run(run, nodes[0].key());
        let mut end = FakeNode::end_of(run, re, Outcome::TimedOut, "");
        end.last_seq = 2;
        end.stdout_bytes = 16;
        nodes[0].sign(re.of_answer("end", 0), Payload::End(end))
    };
    assert_eq!(f.hub.answer(nodes[0].key(), end).await, Verdict::Accepted);
    let (_, shown) = f.view(run).await;
    let result = shown[0].result.as_ref().unwrap();
    assert_eq!(
        (result.stdout.as_deref(), result.truncated, result.stdout_bytes),
        (Some("1234567812"), true, Some(16))
    );
}

#[tokio::test]
async fn removing_a_node_ends_what_waits_for_its_output() {
    let f = Fixture::new().await;
    let mut node = f.nodes(1).await.remove(0);
    let run = f.run(spec("*")).await;
    node.accept(&f.hub);
    let end = {
        let re = mainstay_core::id::MessageId::of_run(run, node.key());
        let mut end = FakeNode::end_of(run, re, Outcome::Finished(mainstay_core::outcome::Exit::Code(0)), "");
        (end.last_seq, end.stdout_bytes) = (1, 3);
        node.sign(re.of_answer("end", 0), Payload::End(end))
    };
    assert!(matches!(f.hub.answer(node.key(), end).await, Verdict::Busy { .. }));
    assert_eq!(f.view(run).await.0.pending, 1);
    f.hub.remove_node(&admin(), "n0").await.unwrap();
    let f = f.restart().await;
    let (view, shown) = f.view(run).await;
    assert_eq!((view.ok, view.pending), (1, 0), "it said how it ended");
    assert!(shown[0].result.as_ref().unwrap().truncated);
}

#[tokio::test]
async fn removing_a_node_ends_what_it_owes() {
    let f = Fixture::new().await;
    let mut nodes = f.nodes(2).await;
    nodes[1].unlink(&f.hub);
    let run = f.run(spec("*")).await;
    nodes[0].accept(&f.hub);
    f.hub.remove_node(&admin(), "n0").await.unwrap();
    f.hub.remove_node(&admin(), "n1").await.unwrap();
    let (view, shown) = f.view(run).await;
    assert_eq!((view.failed, view.pending), (2, 0));
    assert_eq!((word(&shown, "n0"), word(&shown, "n1")), ("lost", "undeliverable"));
}

#[tokio::test]
async fn a_watcher_sees_what_is_still_to_come() {
    use tokio_stream::StreamExt as _;
    let f = Fixture::new().await;
    let mut node = f.nodes(1).await.remove(0);
    let run = f.run(RunSpec { stream: true, ..spec("*") }).await;
    let mut events = f.hub.watch_run(&admin(), run, 0).await.unwrap();
    assert!(matches!(events.next().await, Some(Ok((1, RunEvent::Accepted { targets: 1, .. })))));
    node.accept(&f.hub);
    node.output(&f.hub, run, 1, Stream::Stdout, b"\xff\n").await;
    let (number, event) = events.next().await.unwrap().unwrap();
    assert!(matches!(event, RunEvent::Output { data: None, data_base64: Some(text), .. } if text == "/wo="));
    drop(events);
    node.end(&f.hub, run, 0, "").await;
    let rest = f.events(run, number).await;
    assert_eq!(kinds(&rest), ["result", "summary"]);
    let unknown = RunId::from_bytes([9; 16]);
    assert!(f.hub.watch_run(&admin(), unknown, 0).await.is_err());
}

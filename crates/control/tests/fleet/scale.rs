//! Large fleets: nothing may grow faster than the fleet does.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use mainstay_core::frame::Verdict;
use mainstay_node::hub_role::HubRole as _;

use crate::fakes::*;

const NODES: usize = 2_000;

/// What must never be reached, on a machine that does much else besides: a mistake in the order of growth is far beyond it.
const FAR_TOO_LONG: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_over_thousands_of_nodes_costs_a_handful_of_syncs() {
    let f = Fixture::new().await;
    let count: usize = std::env::var("MAINSTAY_TEST_NODES").map_or(NODES, |n| n.parse().unwrap());
    let token = f.join_token(u32::try_from(count).unwrap()).await;
    let begin = Instant::now();
    let hub = &f.hub;
    let token = &token;
    let mut nodes: Vec<FakeNode> = futures_util::stream::iter(0..count)
        .map(|i| async move {
            let mut node = FakeNode::new(&format!("n{i}"), i as u64 + 1);
            assert!(node.enrol(hub, Some(token)).await.is_joined());
            node.link(hub).await.unwrap();
            node
        })
        .buffer_unordered(256)
        .collect()
        .await;
    let joined = begin.elapsed();

    let begin = Instant::now();
    let run = f.run(spec("*")).await;
    let accepted = begin.elapsed();
    for node in &mut nodes {
        for envelope in f.hub.next_for(node.key(), 16) {
            let body = envelope.trusted_body().unwrap();
            f.hub.verdict(node.key(), body.id, &Verdict::Accepted);
        }
    }
    let sent = begin.elapsed();
    let answers = nodes.iter().map(|node| node.end(&f.hub, run, 0, "hello\n"));
    let answers = futures_util::future::join_all(answers).await;
    assert!(answers.iter().all(|verdict| *verdict == Verdict::Accepted));
    let answered = begin.elapsed();
    assert_eq!(f.events(run, 0).await.len(), count + 2);
    let watched = begin.elapsed();
    println!(
        "{count} nodes: joined {joined:?}; accepted {accepted:?}, sent {sent:?}, answered {answered:?}, watched {watched:?}"
    );
    assert!(joined + watched < FAR_TOO_LONG);

    let begin = Instant::now();
    let f = f.restart().await;
    println!("restart {:?}", begin.elapsed());
    assert_eq!(f.hub.runs(&admin(), 1).await.unwrap()[0].ok, count as u64);
}

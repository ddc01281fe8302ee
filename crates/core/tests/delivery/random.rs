//! Random steps, with shrinking: whatever happens first, once all is well again every rule holds.

use proptest::prelude::*;

use mainstay_core::delivery::Limits;

use super::fleet::{Fleet, Order};

/// Small enough that every queue is full now and then.
fn limits() -> Limits {
    Limits {
        outbox_messages: 6,
        inbox_messages: 4,
        relay_messages_per_node: 4,
        running: 2,
        one_at_a_time: vec!["turn"],
        window_frames: 3,
        window_bytes: 100_000,
        ..Limits::default()
    }
}

#[derive(Clone, Debug)]
enum Act {
    Submit(Order),
    Withdraw(usize),
    /// So many steps of whatever comes first.
    Run(usize),
    Effects(usize, usize),
    Sync(usize, usize),
    Committed(usize),
    Deliver {
        link: usize,
        at: usize,
        keep: bool,
    },
    Progress(usize),
    LeftoversGone(usize),
    Reply(usize),
    Link(usize, usize),
    Unlink(usize, usize),
    Crash(usize),
    Start(usize),
    Full(usize, bool),
    Pass(u64),
    Tick(usize),
    Remove(usize),
}

fn order(nodes: usize) -> impl Strategy<Value = Order> {
    let output = prop_oneof![
        3 => Just(Vec::new()),
        3 => prop::collection::vec(1_usize..50, 1..5),
        1 => prop::collection::vec(20_000_usize..40_000, 1..6),
    ];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), prop::bool::weighted(0.8), any::<bool>());
    let method = prop_oneof![6 => Just("cmd"), 3 => Just("turn"), 1 => Just("denied")];
    let lifetime = prop_oneof![3 => Just(3_600_000_u64), 1 => 1_u64..200_000];
    (0..nodes, 0..nodes, method, output, flags, lifetime).prop_map(
        |(from, to, method, output, (idempotent, stream, whole, reply, event), lifetime_ms)| Order {
            from,
            to,
            method,
            command: !(event && idempotent && whole),
            idempotent,
            stream,
            reply,
            reply_whole: whole,
            output,
            lifetime_ms,
        },
    )
}

fn act(nodes: usize) -> impl Strategy<Value = Act> {
    let node = 0..nodes;
    prop_oneof![
        6 => order(nodes).prop_map(Act::Submit),
        2 => any::<usize>().prop_map(Act::Withdraw),
        12 => (1_usize..60).prop_map(Act::Run),
        6 => (node.clone(), 1_usize..4).prop_map(|(n, most)| Act::Effects(n, most)),
        8 => (node.clone(), 1_usize..4).prop_map(|(n, most)| Act::Sync(n, most)),
        8 => node.clone().prop_map(Act::Committed),
        12 => (any::<usize>(), any::<usize>(), prop::bool::weighted(0.2))
            .prop_map(|(link, at, keep)| Act::Deliver { link, at, keep }),
        4 => node.clone().prop_map(Act::Progress),
        2 => node.clone().prop_map(Act::LeftoversGone),
        4 => node.clone().prop_map(Act::Reply),
        6 => (node.clone(), node.clone()).prop_map(|(a, b)| Act::Link(a, b)),
        2 => (node.clone(), node.clone()).prop_map(|(a, b)| Act::Unlink(a, b)),
        3 => node.clone().prop_map(Act::Crash),
        5 => node.clone().prop_map(Act::Start),
        2 => (node.clone(), any::<bool>()).prop_map(|(n, full)| Act::Full(n, full)),
        2 => prop_oneof![50_u64..10_000, 10_000_u64..4_000_000].prop_map(Act::Pass),
        2 => node.clone().prop_map(Act::Tick),
        1 => prop::bool::weighted(0.1).prop_flat_map(move |really| {
            (if really { 0..nodes } else { nodes..nodes + 1 }).prop_map(Act::Remove)
        }),
    ]
}

fn take(fleet: &mut Fleet, hubs: usize, act: Act) {
    match act {
        Act::Submit(order) => {
            if !fleet.nodes[order.to].gone {
                fleet.submit(order);
            }
        }
        Act::Withdraw(which) => {
            let ids: Vec<_> = fleet.accepted.iter().copied().collect();
            if !ids.is_empty() {
                fleet.withdraw(ids[which % ids.len()]);
            }
        }
        Act::Run(steps) => {
            for _ in 0..steps {
                fleet.step();
            }
        }
        Act::Effects(n, most) => fleet.carry_out(n, most),
        Act::Sync(n, most) => {
            fleet.sync(n, most);
        }
        Act::Committed(n) => {
            fleet.committed(n);
        }
        Act::Deliver { link, at, keep } => {
            let links: Vec<_> = fleet.links.keys().copied().collect();
            if !links.is_empty() {
                let (from, to) = links[link % links.len()];
                // Mostly in order.
                let at = if at % 4 == 0 { at / 4 } else { 0 };
                fleet.deliver(from, to, at, keep);
            }
        }
        Act::Progress(n) => {
            let first = fleet.nodes[n].methods.keys().next().copied();
            if let Some(key) = first {
                fleet.progress(n, key);
            }
        }
        Act::LeftoversGone(n) => {
            fleet.leftovers_gone(n);
        }
        Act::Reply(n) => {
            fleet.reply(n);
        }
        Act::Link(a, b) => fleet.link(a, b),
        Act::Unlink(a, b) => fleet.unlink(a, b),
        Act::Crash(n) => fleet.crash(n),
        Act::Start(n) => fleet.start(n),
        Act::Full(n, full) => fleet.nodes[n].journal.full = full,
        Act::Pass(ms) => {
            fleet.now = fleet.now + std::time::Duration::from_millis(ms);
        }
        Act::Tick(n) => fleet.tick(n),
        Act::Remove(n) => {
            // Never a hub: without one nobody is ever told.
            if (hubs..fleet.count()).contains(&n) {
                fleet.remove(n);
            }
        }
    }
}

fn play(hubs: usize, agents: usize, acts: Vec<Act>) {
    let mut fleet = Fleet::new(hubs, agents, limits());
    fleet.link_all();
    for act in acts {
        take(&mut fleet, hubs, act);
    }
    fleet.come_to_rest();
    fleet.outlive();
}

proptest! {
    #![proptest_config(ProptestConfig { ..ProptestConfig::default() })]

    #[test]
    fn one_hub_and_three_agents(acts in prop::collection::vec(act(4), 1..160)) {
        play(1, 3, acts);
    }

    #[test]
    fn two_hubs_and_two_agents(acts in prop::collection::vec(act(4), 1..160)) {
        play(2, 2, acts);
    }
}

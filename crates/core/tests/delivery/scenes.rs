//! Single scenes, each of something that went wrong once or easily could.

use mainstay_core::delivery::Limits;
use mainstay_core::outcome::{Exit, Outcome};

use super::fleet::{Fleet, Order};

const HUB: usize = 0;

fn fleet() -> Fleet {
    Fleet::new(1, 2, Limits::default())
}

fn last_end(fleet: &Fleet, id: &mainstay_core::id::MessageId) -> Option<(Outcome, bool)> {
    fleet.rules.ended.get(&(fleet.orders[id].from, *id)).and_then(|ends| ends.last()).cloned()
}

#[test]
fn a_ping_without_output_ends_and_its_reply_is_written() {
    let mut fleet = fleet();
    let id = fleet.submit(Order::ping(HUB, 1));
    fleet.come_to_rest();
    assert_eq!(last_end(&fleet, &id), Some((Outcome::Finished(Exit::Code(7)), false)));
}

#[test]
fn two_agents_that_are_never_online_together_reach_each_other_through_the_hub() {
    let mut fleet = fleet();
    let id = fleet.submit(Order { output: vec![10, 20], stream: true, ..Order::ping(1, 2) });
    fleet.settle();
    let mut turns = 0;
    while last_end(&fleet, &id).is_none() && turns < 10 {
        for agent in [1, 2] {
            fleet.link(HUB, agent);
            fleet.settle();
            fleet.unlink(HUB, agent);
            fleet.settle();
        }
        turns += 1;
    }
    assert!(turns <= 2, "one visit of each for each direction");
    fleet.come_to_rest();
    assert_eq!(last_end(&fleet, &id), Some((Outcome::Finished(Exit::Code(7)), false)));
}

#[test]
fn a_node_sends_to_itself() {
    let mut fleet = fleet();
    let ids = [fleet.submit(Order::ping(1, 1)), fleet.submit(Order::ping(HUB, HUB))];
    fleet.settle();
    for id in ids {
        assert_eq!(last_end(&fleet, &id), Some((Outcome::Finished(Exit::Code(7)), false)));
    }
    fleet.come_to_rest();
}

/// Nobody may rely on another's ids being different: both messages run, and both answers are let go of.
#[test]
fn another_origin_uses_the_id_again() {
    let mut fleet = Fleet::new(1, 3, Limits::default());
    fleet.link_all();
    let id = fleet.submit(Order { stream: true, output: vec![5], ..Order::ping(1, 3) });
    fleet.submit_as(id, Order { stream: true, output: vec![6], ..Order::ping(2, 3) });
    fleet.come_to_rest();
    assert_eq!(fleet.rules.begun.len(), 2);
    assert!(fleet.now.since(super::fleet::START).as_secs() < 30, "an answer had to be sent again");
}

/// The end must not release output that its origin does not have.
#[test]
fn output_that_a_full_disk_refused_comes_after_the_end() {
    let mut fleet = fleet();
    fleet.link_all();
    let id = fleet.submit(Order { stream: true, output: vec![5, 6], ..Order::ping(HUB, 1) });
    while fleet.rules.begun.is_empty() && fleet.step() {}
    fleet.nodes[HUB].journal.full = true;
    fleet.settle();
    fleet.nodes[HUB].journal.full = false;
    fleet.come_to_rest();
    assert_eq!(last_end(&fleet, &id), Some((Outcome::Finished(Exit::Code(7)), false)));
    assert_eq!(fleet.nodes[HUB].files[&id].len(), 2);
}

/// What is still under way when a node is removed leaves nothing behind.
#[test]
fn a_node_is_removed_while_its_message_runs_elsewhere() {
    let mut fleet = fleet();
    fleet.link_all();
    fleet.submit(Order { stream: true, output: vec![5, 6], ..Order::ping(2, HUB) });
    fleet.submit(Order::ping(HUB, 2));
    while fleet.rules.begun.is_empty() && fleet.step() {}
    fleet.remove(2);
    fleet.submit(Order::ping(HUB, 2));
    fleet.come_to_rest();
}

/// A link that comes back is a reason to offer at once what waited to be asked for again.
#[test]
fn a_receiver_that_was_busy_is_offered_its_message_when_it_links_again() {
    let mut fleet = fleet();
    fleet.link_all();
    fleet.nodes[1].journal.full = true;
    let id = fleet.submit(Order::ping(HUB, 1));
    fleet.settle();
    fleet.nodes[1].journal.full = false;
    fleet.unlink(HUB, 1);
    fleet.link(HUB, 1);
    fleet.settle();
    assert_eq!(last_end(&fleet, &id), Some((Outcome::Finished(Exit::Code(7)), false)));
}

/// Each waits for the one before without a slot of its own, so others pass, and a crash interrupts only the one at work.
#[test]
fn messages_that_run_one_at_a_time_begin_in_their_order_and_hold_up_no_other() {
    let limits = Limits { running: 2, one_at_a_time: vec!["apply", "up"], ..Limits::default() };
    let mut fleet = Fleet::new(1, 1, limits);
    let order = |method| Order { method, ..Order::ping(HUB, 1) };
    let ids: Vec<_> = ["up", "apply", "up", "apply"].map(|method| fleet.submit(order(method))).into();
    let ping = fleet.submit(Order::ping(HUB, 1));
    fleet.link_all();
    let begun = |fleet: &Fleet| fleet.rules.begun.keys().map(|(_, key)| key.id).collect::<Vec<_>>();
    while begun(&fleet).len() < 2 && fleet.step() {}
    assert_eq!(begun(&fleet), [ids[0], ping], "a ping passes those that wait");

    fleet.crash(1);
    fleet.start(1);
    fleet.link_all();
    let mut order = begun(&fleet);
    while fleet.step() {
        let new = begun(&fleet).into_iter().find(|id| !order.contains(id));
        order.extend(new);
    }
    assert_eq!(order, [ids[0], ping, ids[1], ids[2], ids[3]]);
    fleet.come_to_rest();
    let interrupted = ids.iter().map(|id| last_end(&fleet, id).unwrap().0 == Outcome::Interrupted);
    assert_eq!(interrupted.collect::<Vec<_>>(), [true, false, false, false]);
}

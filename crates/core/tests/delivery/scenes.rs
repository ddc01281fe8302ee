//! Single scenes, each of something that went wrong once or easily could.

use mainstay_core::delivery::Limits;
use mainstay_core::outcome::{Exit, Outcome};

use super::fleet::{Fleet, Order};

const HUB: usize = 0;

fn fleet() -> Fleet {
    Fleet::new(1, 2, Limits::default())
}

fn last_end(fleet: &Fleet, id: &mainstay_core::id::MessageId) -> Option<(Outcome, bool)> {
    fleet.rules.ended.get(id).and_then(|ends| ends.last()).cloned()
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

//! A crash at every single step of scripted scenes, of every node.

use mainstay_core::delivery::Limits;

use super::fleet::{Fleet, Order};

const HUB: usize = 0;

/// Plays a scene step by step and crashes one node at one of them. `false` once the scene is over before it.
fn play(scene: &dyn Fn(&mut Fleet), victim: usize, at: usize, away: usize) -> bool {
    let mut fleet = Fleet::new(1, 2, Limits::default());
    fleet.settle();
    scene(&mut fleet);
    let mut steps = 0;
    while steps < at {
        if !fleet.step() {
            return false;
        }
        steps += 1;
    }
    fleet.crash(victim);
    for _ in 0..away {
        fleet.step();
    }
    fleet.start(victim);
    fleet.link_all();
    fleet.come_to_rest();
    fleet.outlive();
    true
}

fn at_every_step(scene: &dyn Fn(&mut Fleet)) {
    for victim in 0..3 {
        for away in [0, 7, 1_000] {
            let mut at = 0;
            while play(scene, victim, at, away) {
                at += 1;
            }
            assert!(at > 10, "the scene was too short to be one");
        }
    }
}

#[test]
fn a_ping_from_the_hub() {
    at_every_step(&|fleet| {
        fleet.link_all();
        fleet.submit(Order::ping(HUB, 1));
    });
}

#[test]
fn a_ping_that_may_run_again() {
    at_every_step(&|fleet| {
        fleet.link_all();
        fleet.submit(Order { idempotent: true, output: vec![5, 5], stream: true, ..Order::ping(HUB, 1) });
    });
}

#[test]
fn output_as_it_comes() {
    at_every_step(&|fleet| {
        fleet.link_all();
        fleet.submit(Order { stream: true, output: vec![3, 4, 5, 6], ..Order::ping(HUB, 1) });
    });
}

#[test]
fn more_output_than_goes_with_an_end() {
    at_every_step(&|fleet| {
        fleet.link_all();
        fleet.submit(Order { output: vec![30_000; 6], reply_whole: true, ..Order::ping(1, HUB) });
    });
}

#[test]
fn from_agent_to_agent_through_the_hub() {
    at_every_step(&|fleet| {
        fleet.link_all();
        fleet.submit(Order { stream: true, output: vec![3, 4], ..Order::ping(1, 2) });
    });
}

#[test]
fn between_agents_that_are_never_online_together() {
    at_every_step(&|fleet| {
        fleet.submit(Order { output: vec![3], ..Order::ping(1, 2) });
        fleet.link(HUB, 1);
        fleet.settle();
        fleet.unlink(HUB, 1);
        fleet.settle();
        fleet.link(HUB, 2);
    });
}

#[test]
fn a_cancel_of_what_runs() {
    at_every_step(&|fleet| {
        fleet.link_all();
        let id = fleet.submit(Order { stream: true, output: vec![9; 20], ..Order::ping(HUB, 1) });
        while fleet.nodes[1].methods.is_empty() && fleet.step() {}
        fleet.withdraw(id);
    });
}

#[test]
fn a_cancel_that_comes_before_its_message() {
    at_every_step(&|fleet| {
        let id = fleet.submit(Order::ping(1, 2));
        fleet.settle();
        fleet.link(HUB, 1);
        fleet.settle();
        fleet.withdraw(id);
        fleet.settle();
        fleet.link(HUB, 2);
    });
}

#[test]
fn two_events() {
    at_every_step(&|fleet| {
        fleet.link_all();
        fleet.submit(Order { command: false, ..Order::ping(1, 2) });
        fleet.submit(Order { command: false, ..Order::ping(2, HUB) });
    });
}

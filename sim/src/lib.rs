//! Whole fleets on simulated time, network, disks and clocks, with the delivery engine that runs in production.
//!
//! One seed gives one log: there are no threads, no clock but the queue of events, and no chance but the
//! seed's. What is simulated is everything that the engine asks its shell to do ([`node`]); what happened is judged by
//! the rule of the crash harness ([`checker`]): what was accepted, against what was executed, against how it ended.
//!
//! Not here: runs of the hub, whose record is in the Store; TLS; real processes and disks.

pub mod checker;
pub mod clock;
pub mod faults;
pub mod log;
pub mod network;
pub mod node;
pub mod rng;
pub mod scenario;
pub mod workload;
pub mod world;

pub use checker::Report;
pub use faults::Planted;
pub use scenario::Scenario;
pub use world::World;

/// Plays one scenario to its end and judges it.
pub fn play(scenario: &Scenario) -> Report {
    let mut world = World::new(scenario.clone());
    world.run();
    world.report()
}

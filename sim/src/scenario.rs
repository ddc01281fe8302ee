//! What a simulation is to be: how many nodes, for how long, how bad the world is, which fault is planted.

use crate::faults::Planted;

#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    /// Agents; there is one hub beside them.
    pub agents: usize,
    /// How long messages and faults come, in simulated seconds. Afterwards all is repaired, and the fleet gets
    /// the time to come to rest.
    pub seconds: u64,
    /// Mean time between two messages of the whole fleet, in milliseconds.
    pub message_every_ms: u64,
    /// Mean time between two faults, in milliseconds; 0 for a world without any.
    pub fault_every_ms: u64,
    /// Check signatures for real. Off, an envelope is believed: the engine under test sees no difference.
    pub verify: bool,
    pub planted: Option<Planted>,
    pub print_log: bool,
}

impl Scenario {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            agents: 50,
            seconds: 120,
            message_every_ms: 300,
            fault_every_ms: 1_000,
            verify: false,
            planted: None,
            print_log: false,
        }
    }

    /// The command that plays it again.
    pub fn command(&self) -> String {
        let mut command = format!(
            "cargo run -p mainstay-sim -- --seed {} --nodes {} --seconds {} --message-every-ms {} --fault-every-ms {}",
            self.seed, self.agents, self.seconds, self.message_every_ms, self.fault_every_ms
        );
        if let Some(planted) = self.planted {
            command.push_str(&format!(" --plant {}", planted.word()));
        }
        command
    }
}

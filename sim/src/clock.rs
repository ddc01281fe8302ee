//! A machine's own clock, which may be wrong, and the fleet time that its node makes of it.

use mainstay_core::clock::FleetClock;
use mainstay_core::time::Timestamp;

/// When simulations begin, by a right clock.
const BEGIN_MS: i64 = 1_800_000_000_000;

#[derive(Debug)]
pub struct Clock {
    /// Machine time less right time, in milliseconds.
    pub skew_ms: i64,
    fleet: FleetClock,
    /// Whether the hub has told the time in this life.
    pub told: bool,
}

impl Clock {
    pub fn new(skew_ms: i64) -> Self {
        Self { skew_ms, fleet: FleetClock::new(Timestamp::default()), told: false }
    }

    /// The machine boots: what it was told is lost, what was on disk is the floor.
    pub fn boot(&mut self, skew_ms: i64, floor: Timestamp) {
        *self = Self { skew_ms, fleet: FleetClock::new(floor), told: false };
    }

    pub fn machine(&self, at_us: u64) -> Timestamp {
        Timestamp::from_millis(BEGIN_MS + (at_us / 1000) as i64 + self.skew_ms)
    }

    pub fn now(&mut self, at_us: u64) -> Timestamp {
        let machine = self.machine(at_us);
        self.fleet.now(machine)
    }

    pub fn learn(&mut self, at_us: u64, hub: Timestamp) {
        self.fleet.learn(self.machine(at_us), hub);
        self.told = true;
    }

    pub fn floor_to_persist(&mut self) -> Option<Timestamp> {
        self.fleet.floor_to_persist()
    }
}

/// The skew of a board that has no clock and starts at the epoch, booted at `at_us`.
pub fn epoch_skew(at_us: u64) -> i64 {
    -(BEGIN_MS + (at_us / 1000) as i64)
}

//! Fleet time: what a node believes the time to be, without trusting its own clock alone.
//!
//! Fleet time is the machine's clock plus an offset learned from the hub's authenticated hello, and never
//! less than a floor that is kept on disk. A board that boots in 1970 is right again as soon as it links,
//! and no older than its last life before that; a clock that jumps back cannot revive what has expired.

use std::time::Duration;

use crate::time::Timestamp;

/// The floor is written again once fleet time has moved this far: often enough that a reboot loses
/// little, seldom enough that an idle agent writes almost nothing.
pub const FLOOR_STEP: Duration = Duration::from_secs(600);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetClock {
    floor: Timestamp,
    /// The hub's time less this machine's, in milliseconds. Zero until a hub has told.
    offset: i64,
    persisted: Timestamp,
}

impl FleetClock {
    /// `floor` is the last one written to disk; the epoch if there is none.
    pub fn new(floor: Timestamp) -> Self {
        Self { floor, offset: 0, persisted: floor }
    }

    /// Fleet time, given what the machine's own clock says. Never goes back.
    pub fn now(&mut self, machine: Timestamp) -> Timestamp {
        let told = Timestamp::from_millis(machine.as_millis().saturating_add(self.offset));
        self.floor = self.floor.max(told);
        self.floor
    }

    /// Takes a floor that was found on disk.
    pub fn raise(&mut self, floor: Timestamp) {
        self.floor = self.floor.max(floor);
        self.persisted = self.persisted.max(floor);
    }

    /// Takes the hub's time from an authenticated hello. A node that is a hub never calls this.
    pub fn learn(&mut self, machine: Timestamp, hub: Timestamp) {
        self.offset = hub.as_millis().saturating_sub(machine.as_millis());
    }

    /// The floor to write to disk, if it has moved far enough since the last one written.
    pub fn floor_to_persist(&mut self) -> Option<Timestamp> {
        (self.floor.since(self.persisted) >= FLOOR_STEP).then(|| {
            self.persisted = self.floor;
            self.floor
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    #[test]
    fn a_board_that_boots_in_1970_starts_from_its_floor_and_learns_from_the_hub() {
        let mut clock = FleetClock::new(at(1_000_000));
        assert_eq!(clock.now(at(5)), at(1_000_000));
        clock.learn(at(10), at(2_000_000));
        assert_eq!(clock.now(at(15)), at(2_000_005));
    }

    #[test]
    fn fleet_time_never_goes_back() {
        let mut clock = FleetClock::new(at(0));
        assert_eq!(clock.now(at(500)), at(500));
        assert_eq!(clock.now(at(100)), at(500));
        clock.learn(at(100), at(200));
        assert_eq!(clock.now(at(101)), at(500));
    }

    #[test]
    fn the_floor_is_written_in_steps() {
        let mut clock = FleetClock::new(at(0));
        clock.now(at(FLOOR_STEP.as_millis() as i64 - 1));
        assert_eq!(clock.floor_to_persist(), None);
        clock.now(at(FLOOR_STEP.as_millis() as i64));
        assert_eq!(clock.floor_to_persist(), Some(at(600_000)));
        assert_eq!(clock.floor_to_persist(), None);
    }
}

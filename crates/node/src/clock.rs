//! Fleet time for a running node: [`FleetClock`] fed with the machine's clock.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use mainstay_core::clock::FleetClock;
use mainstay_core::time::Timestamp;

/// Shared by all parts of one node.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Mutex<FleetClock>>);

impl Clock {
    /// `floor` as it was last written to disk.
    pub fn new(floor: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(FleetClock::new(floor))))
    }

    pub fn now(&self) -> Timestamp {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).now(machine())
    }

    /// A floor that was found on disk.
    pub fn raise(&self, floor: Timestamp) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).raise(floor);
    }

    /// A hub's authenticated time.
    pub fn learn(&self, hub: Timestamp) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).learn(machine(), hub);
    }

    /// The floor to write, if it moved far enough.
    pub fn floor_to_persist(&self) -> Option<Timestamp> {
        let mut clock = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        clock.now(machine());
        clock.floor_to_persist()
    }
}

fn machine() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

//! How long to wait before trying again: exponential, capped, with full jitter.

use std::time::Duration;

/// Back-off between attempts to link. Reset only after a proven connection (an exchanged hello), not
/// after a mere TCP accept: a hub that accepts and drops must not be hammered.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    attempt: u32,
}

impl Backoff {
    pub const fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, attempt: 0 }
    }

    /// The next wait. `chance` is uniform over all of `u32`; the wait is uniform between half the
    /// step and the whole of it, so that a fleet which lost its hub at once does not return at once.
    pub fn next(&mut self, chance: u32) -> Duration {
        let step = self.first.saturating_mul(1 << self.attempt.min(20)).min(self.cap);
        self.attempt = self.attempt.saturating_add(1);
        step / 2 + (step / 2).mul_f64(f64::from(chance) / f64::from(u32::MAX))
    }

    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_to_its_cap_and_starts_again_after_a_reset() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let waits: Vec<_> = (0..8).map(|_| backoff.next(u32::MAX).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.next(0), Duration::from_millis(2500));
        for _ in 0..100 {
            backoff.next(0);
        }
        backoff.reset();
        assert_eq!(backoff.next(0), Duration::from_millis(50));
    }
}

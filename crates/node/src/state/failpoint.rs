//! Places at which a test kills its own process, as the kernel would: nothing is flushed, nobody is told. Outside of tests there
//! is nothing at them.

/// Whether places do anything.
pub(super) const ARMED: bool = cfg!(test);

#[cfg(not(test))]
pub(super) fn pass(_place: &str) {}

#[cfg(test)]
static LEFT: std::sync::atomic::AtomicI64 = std::sync::atomic::AtomicI64::new(i64::MAX);

/// Kills at the n-th place from now on.
#[cfg(test)]
pub(super) fn kill_at(number: i64) {
    LEFT.store(number, std::sync::atomic::Ordering::SeqCst);
}

#[cfg(test)]
pub(super) fn pass(_place: &str) {
    if LEFT.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) == 1 {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
        loop {
            std::thread::park();
        }
    }
}

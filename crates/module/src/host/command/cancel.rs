//! Calling work off: one handle, shared by whoever may call it off and all that would wait.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// How often to look where waking up is not to be had.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Once called off, it stays so.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    called_off: AtomicBool,
    /// Readable from then on, since nobody reads it. None if the system had no more descriptors.
    wakes: Option<EventFd>,
}

impl Default for Inner {
    fn default() -> Self {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Self { called_off: AtomicBool::new(false), wakes: EventFd::from_value_and_flags(0, flags).ok() }
    }
}

impl Cancel {
    pub fn new() -> Self {
        Self::default()
    }

    /// May be called again, from any thread.
    pub fn cancel(&self) {
        self.0.called_off.store(true, Ordering::SeqCst);
        if let Some(wakes) = &self.0.wakes {
            // A full counter is readable as well.
            let _ = wakes.write(1);
        }
    }

    pub fn is_cancelled(&self) -> bool {
        self.0.called_off.load(Ordering::SeqCst)
    }

    /// Waits this long; false if it was called off before.
    pub fn sleep(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if self.is_cancelled() {
                return false;
            }
            if left.is_zero() {
                return true;
            }
            match self.wakes() {
                Some(fd) => {
                    let _ = poll_for(&mut [PollFd::new(fd, PollFlags::POLLIN)], left);
                }
                None => std::thread::sleep(left.min(LOOK_AGAIN)),
            }
        }
    }

    pub(super) fn wakes(&self) -> Option<BorrowedFd<'_>> {
        self.0.wakes.as_ref().map(AsFd::as_fd)
    }
}

/// Waits at most this long for one of them; an interruption ends the wait early.
pub(super) fn poll_for(fds: &mut [PollFd<'_>], time: Duration) -> nix::Result<()> {
    // Rounded up, so that a wait is never a busy one.
    let millis = i32::try_from(time.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
    match poll(fds, PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error),
    }
}

//! The processes that this program has started and not yet waited for, so that none outlives it when it is
//! interrupted.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

/// As a shell shows a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

static STARTED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn started() -> MutexGuard<'static, BTreeSet<u32>> {
    // A set of numbers is whole whatever happened to who held it.
    STARTED.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn add(pid: u32) {
    started().insert(pid);
}

/// To be called before the process is waited for: afterwards its number may be somebody else's.
pub fn remove(pid: u32) {
    started().remove(&pid);
}

/// From now on Ctrl-C and SIGTERM end what was started, and then this program.
pub fn end_with_this_program() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            // Held to the end: nobody starts or waits for another.
            let started = started();
            for pid in started.iter().filter_map(|pid| i32::try_from(*pid).ok()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            std::process::exit(INTERRUPTED);
        });
    })?;
    Ok(())
}

//! A talk between one who brings machines to a state and the engine on this one.
//!
//! The engine has threads of its own and is reached through two bounded channels, so that a terminal, the streams of an ssh
//! connection and a hub's messages drive it alike, with a runtime or without.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use mainstay_core::state::session::{Ask, Tell};
use mainstay_module::registry::Registry;
use tokio::sync::mpsc;

use super::engine::{CancelPair, Engine};
use super::teller::Teller;
use crate::memory;

/// Questions that wait: one that is worked on, one behind it, and room for a cancel.
const ASKS: usize = 8;

/// Answers that wait. One who does not read them holds the engine up; what it has begun it still ends.
const TELLS: usize = 256;

/// Where commands at work are written down, in the machine's own directory.
pub(super) const RUNNING: &str = "state/running";

/// Where custom facts lie on a machine.
pub const FACTS_DIRECTORY: &str = "/etc/mainstay/facts.d";

/// What a session needs to know of its surroundings.
#[derive(Clone)]
pub struct SessionOptions {
    pub registry: Registry,
    /// The machine's own directory, one for agent, ssh and local: debts and the lock of apply lie in `state/` in it, and
    /// programs that serve as modules. Made at the first apply, or for the first such program.
    pub data: PathBuf,
    /// The program's own version.
    pub version: String,
    /// The node's key, if it is one; else the machine's own id is told.
    pub machine: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub facts_directory: PathBuf,
    /// What holds the lock while it applies, for the one who finds it taken: `mainstay up site.yaml`.
    pub title: String,
}

impl SessionOptions {
    /// With the directories that are the machine's own, so that everyone on it finds the same debts.
    pub fn new(registry: Registry, version: impl Into<String>) -> Self {
        Self {
            registry,
            data: machine_directory(),
            version: version.into(),
            machine: None,
            labels: BTreeMap::new(),
            facts_directory: FACTS_DIRECTORY.into(),
            title: "mainstay".into(),
        }
    }
}

/// `/var/lib/mainstay` for root, else `$XDG_STATE_HOME/mainstay` or `~/.local/state/mainstay`.
pub fn machine_directory() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return "/var/lib/mainstay".into();
    }
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .unwrap_or_else(|| Path::new("/var/tmp").join(format!("mainstay-{}", nix::unistd::geteuid())))
        .join("mainstay")
}

/// An open talk. Dropping `asks` ends it: what runs is called off, and no further state is started.
pub struct Session {
    pub asks: mpsc::Sender<Ask>,
    pub tells: mpsc::Receiver<Tell>,
    engine: JoinHandle<()>,
}

impl Session {
    /// The first tell is [`Tell::Hello`].
    pub fn open(options: SessionOptions) -> std::io::Result<Self> {
        let (asks, heard) = mpsc::channel(ASKS);
        let (told, tells) = mpsc::channel(TELLS);
        let engine = std::thread::Builder::new()
            .name("state-engine".into())
            .spawn(move || listen(options, heard, Teller::new(told)))?;
        Ok(Self { asks, tells, engine })
    }

    /// Nothing more is asked: what runs is called off. What the engine still says can be heard; the answers end with it.
    pub fn hang_up(&mut self) {
        (self.asks, _) = mpsc::channel(1);
    }

    /// Waits until the engine has ended what it was doing. Not for a runtime's thread.
    pub fn close(self) {
        drop((self.asks, self.tells));
        // A panic was told on standard error by its own thread.
        let _ = self.engine.join();
    }
}

/// Hears every question at once, so that a cancel reaches what is under way, and hands the others on in their order.
fn listen(options: SessionOptions, mut asks: mpsc::Receiver<Ask>, teller: Teller) {
    let greeting = CancelPair::default();
    let latest = Mutex::new(greeting.clone());
    let lock = || latest.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        let (hand, handed) = std::sync::mpsc::sync_channel::<(Ask, CancelPair)>(ASKS);
        let work = move || {
            let mut engine = Engine::new(options, teller, &greeting.all);
            while let Ok((ask, cancel)) = handed.recv() {
                engine.answer(ask, &cancel);
            }
            drop(engine);
            memory::give_back();
        };
        // Without it nobody takes what is handed on, and the session ends.
        let _ = std::thread::Builder::new().name("state-work".into()).spawn_scoped(scope, work);
        while let Some(ask) = asks.blocking_recv() {
            if ask == Ask::Cancel {
                lock().further.cancel();
                continue;
            }
            let cancel = CancelPair::default();
            *lock() = cancel.clone();
            if hand.send((ask, cancel)).is_err() {
                break;
            }
        }
        // Nobody is there to be told any more.
        lock().further.cancel();
        lock().all.cancel();
        drop(hand);
    });
}

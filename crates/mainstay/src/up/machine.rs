//! A machine that can be talked to, whatever lies between.

use std::collections::BTreeMap;

use async_trait::async_trait;
use mainstay_core::state::session::{Ask, Tell};
use mainstay_core::state::{StateId, Values};

/// How a machine is reached, before anything was said to it.
#[async_trait]
pub trait Way: Send + Sync {
    /// Unique among the machines of a rollout.
    fn name(&self) -> &str;

    /// What targets in a states file may ask for, besides the name.
    fn labels(&self) -> &BTreeMap<String, String>;

    /// Variables of this machine alone.
    fn vars(&self) -> &Values;

    async fn connect(&self) -> Result<Box<dyn Machine>, Aside>;

    /// An open session takes something that is not to be had for many machines at once, as a connection and the process that
    /// holds it.
    fn is_costly(&self) -> bool {
        false
    }
}

/// An open session with the engine on a machine. Dropped without [`Machine::close`], what it runs is killed.
#[async_trait]
pub trait Machine: Send {
    async fn send(&mut self, ask: Ask) -> Result<(), Aside>;

    /// What comes next. Safe to cancel: nothing is lost between two calls. The first is [`Tell::Hello`].
    async fn receive(&mut self) -> Result<Tell, Aside>;

    /// Says goodbye: what was started to stay may stay.
    async fn close(self: Box<Self>);
}

/// Why a machine is left out from here on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Aside {
    #[error("{message}")]
    Unreachable { message: String, hints: Vec<String> },
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// The engine's words.
    #[error("{0}")]
    Problem(String),
    #[error("{0} of its states could not be analysed")]
    Errors(usize),
    #[error("{failed} failed, {blocked} blocked")]
    States { failed: u64, blocked: u64 },
    #[error("it is not as it was when the plan was made: {0}")]
    Drift(String),
    #[error("not stable after {cycles}: {restless}")]
    Unstable { cycles: Cycles, restless: Restless },
    /// It is away, and gets what it is owed when it returns.
    #[error("{0}")]
    Away(String),
    #[error("its plan was not approved")]
    Declined,
    #[error("cancelled")]
    Cancelled,
    #[error("not started: too many others failed")]
    Stopped,
}

/// A number of cycles, in words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cycles(pub u32);

impl std::fmt::Display for Cycles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.0, if self.0 == 1 { "cycle" } else { "cycles" })
    }
}

/// The states that would change once more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restless(pub Vec<StateId>);

/// More would hide what else is said of the machine; most often it is two that undo each other.
const NAMED: usize = 3;

impl std::fmt::Display for Restless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let named: Vec<&str> = self.0.iter().take(NAMED).map(StateId::as_str).collect();
        write!(f, "{}", named.join(", "))?;
        match self.0.len().saturating_sub(NAMED) {
            0 => write!(f, " would change again"),
            more => write!(f, " and {more} more would change again"),
        }
    }
}

impl Aside {
    /// Something went wrong; otherwise it is only not done yet.
    pub fn is_failure(&self) -> bool {
        !matches!(self, Self::Away(_) | Self::Declined | Self::Cancelled | Self::Stopped)
    }

    pub fn hints(&self) -> &[String] {
        match self {
            Self::Unreachable { hints, .. } => hints,
            _ => &[],
        }
    }
}

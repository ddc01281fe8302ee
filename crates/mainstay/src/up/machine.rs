//! A machine that can be talked to, whatever lies between.

use std::collections::BTreeMap;

use async_trait::async_trait;
use mainstay_control::view::Problem;
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

    /// What was begun there does not end with an open session that is dropped.
    fn goes_on_alone(&self) -> bool {
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
    /// The hub could not be reached or refused, so nothing is known of the machine.
    #[error("{0}")]
    Hub(Problem),
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
    #[error("not stable after {cycles}: {restless} would change again")]
    Unstable { cycles: Cycles, restless: Names },
    /// It is away, and gets what it is owed when it returns.
    #[error("{0}")]
    Away(String),
    #[error("its plan was not approved")]
    Declined,
    #[error("cancelled")]
    Cancelled,
    /// States were ended in the middle, and so many others had not been reached.
    #[error("interrupted: {ended} ended in the middle, {missed} not reached")]
    Interrupted { ended: Names, missed: usize },
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

/// The first of some states by name, and how many more there are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Names(pub Vec<StateId>);

/// More would hide what else is said of the machine.
const NAMED: usize = 3;

impl std::fmt::Display for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let named: Vec<&str> = self.0.iter().take(NAMED).map(StateId::as_str).collect();
        write!(f, "{}", named.join(", "))?;
        match self.0.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl Aside {
    /// Something went wrong; otherwise it is only not done yet.
    pub fn is_failure(&self) -> bool {
        !matches!(self, Self::Away(_) | Self::Declined | Self::Cancelled | Self::Stopped)
    }

    /// The same, with what was being done there when it came to that.
    #[must_use]
    pub fn at_turn(self, states: impl IntoIterator<Item = StateId>) -> Self {
        let states = Names(states.into_iter().collect());
        let with = |words: String| format!("{words}; at its turn: {states}");
        match self {
            _ if states.0.is_empty() => self,
            Self::Lost(words) => Self::Lost(with(words)),
            Self::Problem(words) => Self::Problem(with(words)),
            other => other,
        }
    }

    pub fn hints(&self) -> &[String] {
        match self {
            Self::Unreachable { hints, .. } => hints,
            Self::Hub(problem) => &problem.hints,
            _ => &[],
        }
    }
}

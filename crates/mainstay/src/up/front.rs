//! Whoever watches a rollout: shows what happens, and says yes or no to plans.

use std::io;

use async_trait::async_trait;
use mainstay_core::state::StateId;
use mainstay_core::state::plan::{Plan, StateReport};

use super::machine::Aside;
use super::outcome::MachineEnd;

/// What happens, in order for each machine.
#[derive(Debug)]
pub enum Event<'a> {
    /// That many machines are about to be connected.
    Begin {
        machines: usize,
    },
    /// With what the machine has to say of itself before anything else.
    Connected {
        machine: &'a str,
        notes: &'a [String],
        /// See `Tell::Hello`.
        landlock: Option<u32>,
    },
    /// Its catalog has that many states.
    Compiled {
        machine: &'a str,
        states: usize,
    },
    /// That many more of its states were looked at, up to this one.
    Analysed {
        machine: &'a str,
        cycle: u32,
        states: usize,
        last: &'a StateId,
    },
    Planned {
        machine: &'a str,
        cycle: u32,
        plan: &'a Plan,
    },
    /// It is being modified from now on.
    Modify {
        machine: &'a str,
        cycle: u32,
    },
    /// A state's turn to be modified began.
    Turn {
        machine: &'a str,
        cycle: u32,
        state: &'a StateId,
    },
    Report {
        machine: &'a str,
        cycle: u32,
        report: &'a StateReport,
    },
    /// Nothing more is begun; what runs may end.
    Cancelling,
    /// It was set aside, or is stable; others may still be at work.
    Over {
        machine: &'a str,
        aside: Option<&'a Aside>,
    },
    /// At the very end, once for each machine.
    Ended(&'a MachineEnd),
}

/// A plan that waits for a yes.
#[derive(Clone, Copy, Debug)]
pub struct Proposal<'a> {
    pub machine: &'a str,
    pub plan: &'a Plan,
    /// More of the machine's plan was approved in an earlier cycle; this goes beyond it.
    pub again: bool,
    /// How many of its steps were cut off on the way here.
    pub missing: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    Yes,
    No,
}

#[async_trait(?Send)]
pub trait Front {
    fn event(&mut self, event: &Event<'_>) -> io::Result<()>;

    /// All plans of the first cycle are there: what would change is shown, whether or not it is to be done.
    fn plans(&mut self, plans: &[Proposal<'_>]) -> io::Result<()>;

    /// Asks whether what was just shown may be done. Dropped when it is no longer wanted.
    async fn ask(&mut self, plans: &[Proposal<'_>]) -> io::Result<Answer>;

    /// Called a few times a second, for what moves.
    fn tick(&mut self) {}
}

//! What is said between one who brings machines to a state and the engine on one machine.
//!
//! The same talk goes through a channel within the process (`--local`), over ssh's standard streams, and in pieces as
//! messages through a hub. Analyze and apply of one catalog follow each other in a session; the engine keeps the last plan and
//! is told by its digest that it was approved.

use serde::{Deserialize, Serialize};

use super::catalog::Catalog;
use super::plan::{Plan, PlanStep, StateCounts, StateReport};
use super::{StateId, Values};

/// To the machine.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// What to work on from now on. Answered by nothing unless it is refused.
    Catalog(Box<Catalog>),
    /// Answered by [`Tell::Step`]s and one [`Tell::Planned`].
    Analyze {
        /// Counts from 1.
        cycle: u32,
        /// Say in each step's reason why it stands where it does.
        explain: bool,
    },
    /// A plan that this machine made in an earlier session, for an approval that comes after it. Answered by nothing
    /// unless it is refused: it must be of the catalog and of this machine.
    Plan(Box<Plan>),
    /// Gives up what is owed for states that the catalog no longer has ([`Plan::orphans`]). Answered by nothing unless it
    /// fails.
    DropOrphans,
    /// Answered by [`Tell::Report`]s and one [`Tell::Applied`].
    Apply { cycle: u32, approval: Approval },
    /// Start no further state; what is blocked by it says so.
    Cancel,
}

/// What may be done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Approval {
    /// What the plan of this digest lists, any subset of it, and any value for what it shows as unknown.
    Plan { digest: String },
    /// Whatever the catalog says: `--yes`.
    All,
}

/// From the machine.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tell {
    /// First of all, unasked.
    Hello {
        version: String,
        /// The node's key, or the machine's own id.
        machine: String,
        /// Custom facts among them.
        facts: Values,
        /// The version of Landlock with which the kernel itself holds the analyze phase to looking; 0 is none, and
        /// then only the modules' types do.
        #[serde(default)]
        landlock: u32,
        /// What went wrong and hinders nobody yet: a custom fact that could not be had.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        notes: Vec<String>,
    },
    /// A state has its turn: progress, nothing more.
    Turn {
        state: StateId,
    },
    Step(PlanStep),
    Planned(Plan),
    Report(StateReport),
    Applied {
        counts: StateCounts,
        /// What was found outside the approved plan; no state was started after it.
        drift: Option<String>,
    },
    /// The session cannot go on as asked.
    Problem {
        message: String,
    },
}

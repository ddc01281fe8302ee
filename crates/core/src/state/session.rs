//! What is said between one who brings machines to a state and the engine on one machine.
//!
//! The same talk goes through a channel within the process (`--local`), over ssh's standard streams, and in pieces as
//! messages through a hub. Analyze and apply of one catalog follow each other in a session; the engine keeps the last plan and
//! is told by its digest that it was approved.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::catalog::Catalog;
use super::plan::{PlanHead, PlanStep, StateCounts, StateReport};
use super::{StateId, Values};

/// To the machine.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// What to work on from now on. Answered by nothing unless it is refused.
    Catalog(Box<Catalog>),
    /// Answered by [`Tell::Steps`] and one [`Tell::Planned`].
    Analyze {
        /// Counts from 1.
        cycle: u32,
        /// Say in each step's reason why it stands where it does.
        explain: bool,
    },
    /// The next steps of a plan that this machine made in an earlier session, in the order of turns.
    Steps(Vec<PlanStep>),
    /// All its steps were given: an approval may come. Answered by nothing unless it is refused: it must be of the catalog and
    /// of this machine.
    Plan(PlanHead),
    /// Gives up what is owed for states that the catalog no longer has ([`PlanHead::orphans`]). Answered by nothing unless it
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
        /// then only the modules' types do. Nothing: that is not known here.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        landlock: Option<u32>,
        /// What went wrong and hinders nobody yet: a custom fact that could not be had.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        notes: Vec<String>,
    },
    /// A state has its turn: progress, nothing more.
    Turn {
        state: StateId,
    },
    /// The next steps of the plan, in the order of turns. Some at a time: each alone would wake whoever listens.
    Steps(Vec<PlanStep>),
    /// All its steps were told.
    Planned(PlanHead),
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

/// A line of what the methods `state.plan`, `state.apply` and `state.up` write, as JSON: the same talk in one direction, for those who are
/// not there at the time.
///
/// For each cycle a plan's line comes before its steps: what is cut off at an output limit is known to be missing.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum StateLine {
    Planned(PlannedLine),
    /// Unchanged ones are only counted.
    Step {
        cycle: u32,
        #[serde(flatten)]
        step: PlanStep,
    },
    /// It has been at this state for a while; a report of it follows, unless the node is killed first.
    Turn {
        cycle: u32,
        state: StateId,
    },
    Report {
        cycle: u32,
        #[serde(flatten)]
        report: StateReport,
    },
    Applied {
        cycle: u32,
        counts: StateCounts,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        drift: Option<String>,
    },
    Problem {
        message: String,
    },
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlannedLine {
    pub cycle: u32,
    /// What an approval names: [`Plan::content_digest`](super::plan::Plan::content_digest).
    pub plan: String,
    /// How many steps follow this line.
    pub steps: u64,
    /// The ids of the states that are as declared, by module.
    pub unchanged: BTreeMap<String, Vec<StateId>>,
    /// Something would be done.
    pub pending: bool,
    /// Something could not be analysed.
    pub errors: bool,
    /// As [`PlanHead::orphans`](super::plan::PlanHead::orphans).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orphans: Vec<String>,
}

impl StateLine {
    /// The last plan among these lines, if what follows it is not an apply.
    pub fn last_plan(text: &str) -> Option<PlannedLine> {
        let mut last = None;
        for line in text.lines() {
            match serde_json::from_str(line) {
                Ok(Self::Planned(planned)) => last = Some(planned),
                Ok(Self::Applied { .. }) => last = None,
                _ => {}
            }
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_plan_counts_unless_it_was_applied() {
        let planned = |cycle| {
            let line = PlannedLine {
                cycle,
                plan: format!("p{cycle}"),
                steps: 0,
                unchanged: BTreeMap::new(),
                pending: true,
                errors: false,
                orphans: Vec::new(),
            };
            serde_json::to_string(&StateLine::Planned(line)).unwrap()
        };
        let applied = StateLine::Applied { cycle: 1, counts: StateCounts::default(), drift: None };
        let applied = serde_json::to_string(&applied).unwrap();
        let last = |lines: &[&str]| StateLine::last_plan(&lines.join("\n")).map(|planned| planned.cycle);
        assert_eq!(last(&[]), None);
        assert_eq!(last(&["noise", &planned(1)]), Some(1));
        assert_eq!(last(&[&planned(1), &applied]), None);
        assert_eq!(last(&[&planned(1), &applied, &planned(2), "{\"line\":\"new kind\"}"]), Some(2));
    }
}

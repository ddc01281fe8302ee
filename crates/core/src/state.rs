//! Declared state: the nouns that the compiler, the engine on a machine and those who show plans share.
//!
//! A *states file* is compiled into a [`Catalog`](catalog::Catalog) for one machine; what its modules observe and would
//! change stands in a [`Plan`](plan::Plan). All of it is values and decisions: modules and the machine are beyond this crate.

pub mod approval;
pub mod catalog;
mod digest;
pub mod order;
mod param;
pub mod plan;
mod rare;
pub mod redaction;
pub mod schema;
pub mod session;
pub mod site;
#[cfg(test)]
mod sketch;
pub mod template;
pub mod walk;

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Names a state within a catalog, as it was written or as composition made it (`vhost-a/conf`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StateId(Arc<str>);

impl StateId {
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(id.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl From<&str> for StateId {
    fn from(id: &str) -> Self {
        Self::new(id)
    }
}

impl Borrow<str> for StateId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A state's place in [`Catalog::states`](catalog::Catalog::states).
pub type StateIndex = usize;

/// A map of values as JSON has them: parameters, variables, facts, outputs.
pub type Values = serde_json::Map<String, serde_json::Value>;

/// What became of a state in the modify phase.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateOutcome {
    Changed,
    Unchanged,
    /// A guard or a condition said no.
    Skipped,
    /// It ran and did not work.
    Failed,
    /// It never ran because of another state, of a drift, or of a cancel.
    Blocked,
}

impl StateOutcome {
    pub const ALL: [Self; 5] = [Self::Changed, Self::Unchanged, Self::Skipped, Self::Failed, Self::Blocked];

    /// Changed, unchanged or skipped: what requires this state may run.
    pub fn is_good(self) -> bool {
        matches!(self, Self::Changed | Self::Unchanged | Self::Skipped)
    }

    pub fn is_bad(self) -> bool {
        !self.is_good()
    }

    pub fn word(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
            Self::Blocked => "blocked",
        }
    }
}

impl fmt::Display for StateOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// What the analyze phase says of a state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepWord {
    /// It is as declared.
    Unchanged,
    /// It would change as listed.
    Change,
    /// Whether or how it changes is known only once an earlier change was made.
    Conditional,
    /// It would run something whose effects cannot be known.
    Opaque,
    /// It could not be analysed.
    Error,
}

impl StepWord {
    pub fn word(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Change => "change",
            Self::Conditional => "conditional",
            Self::Opaque => "opaque",
            Self::Error => "error",
        }
    }

    /// Something may be done in the modify phase.
    pub fn is_pending(self) -> bool {
        matches!(self, Self::Change | Self::Conditional | Self::Opaque)
    }
}

impl fmt::Display for StepWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

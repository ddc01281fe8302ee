//! What would change on a machine, and what did.
//!
//! A [`Plan`] is immutable data: it is shown, approved and compared, and applying makes no choices. Every value in it
//! is known, predicted by an earlier change, or unknown until one; nothing is guessed.

use std::borrow::Cow;
use std::ops::Deref;

use serde::{Deserialize, Serialize};

use super::catalog::CatalogDigest;
use super::digest::DigestOf;
use super::{StateId, StateOutcome, StepWord, Values};

/// A value that a plan speaks of.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Datum {
    /// There is no such thing.
    Absent,
    Known(serde_json::Value),
    /// It will be so once the named state has changed.
    Predicted {
        value: serde_json::Value,
        by: StateId,
    },
    /// It is known only once the named state has had its turn.
    Unknown {
        until: StateId,
    },
    /// Nobody may see it. The digest, keyed with what only the machine knows, tells two values apart.
    Secret {
        digest: String,
    },
}

/// One thing about a state that is not as declared.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Change {
    /// The field as the module's parameters name it (`content`, `mode`, `running`), or what is done as a whole
    /// (`exists`). Most are words of the program's own.
    pub field: Cow<'static, str>,
    pub before: Datum,
    pub after: Datum,
    /// Lines for people, as a unified diff without its header; only where `before` and `after` alone do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
}

impl Change {
    /// Stands as the field where changes beside those listed may come that nobody can name yet.
    pub const MORE: &str = "…";

    pub fn new(field: impl Into<Cow<'static, str>>, before: Datum, after: Datum) -> Self {
        Self { field: field.into(), before, after, diff: None }
    }

    pub fn diff(mut self, diff: impl Into<String>) -> Self {
        self.diff = Some(diff.into());
        self
    }
}

impl Datum {
    pub fn known(value: impl Into<serde_json::Value>) -> Self {
        Self::Known(value.into())
    }
}

/// What one state would do.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PlanStep {
    pub state: StateId,
    pub module: String,
    pub step: StepWord,
    /// Why it stands so, if not plain: an error's words, a guard that said no, what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// A refresh would come after it, because of these states; an owed one names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<Vec<StateId>>,
}

impl PlanStep {
    /// It would do something.
    pub fn is_pending(&self) -> bool {
        self.step.is_pending() || self.refresh.is_some()
    }

    /// It is as declared, and nothing else comes of it.
    pub fn is_quiet(&self) -> bool {
        self.step == StepWord::Unchanged && self.refresh.is_none()
    }

    /// Without what only people read, which is most of a large one: what an approval covers.
    pub fn without_words(mut self) -> Self {
        self.module = String::new();
        self.reason = None;
        self.changes.iter_mut().for_each(|change| change.diff = None);
        self
    }
}

/// What the analyze phase found on one machine.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub head: PlanHead,
    /// In the order in which the states have their turn.
    pub steps: Vec<PlanStep>,
}

/// What a plan says beside its steps.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PlanHead {
    pub catalog: CatalogDigest,
    /// The machine that it is for: a node's key, or the machine's own id.
    pub machine: String,
    /// Counts from 1.
    pub cycle: u32,
    /// Debts of states that are gone, which only a command drops.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orphans: Vec<String>,
    /// No step asks for another cycle. What only a failure would call for does not, nor does an error.
    #[serde(default)]
    pub stable: bool,
    /// Commands that ran in an earlier cycle of the same run and are not run again: with it another session can take
    /// the plan up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ran: Vec<StateId>,
}

impl PlanHead {
    /// Nothing owed by states that are gone, nothing run before, not stable.
    pub fn new(catalog: CatalogDigest, machine: impl Into<String>, cycle: u32) -> Self {
        let machine = machine.into();
        Self { catalog, machine, cycle, orphans: Vec::new(), stable: false, ran: Vec::new() }
    }
}

impl Deref for Plan {
    type Target = PlanHead;

    fn deref(&self) -> &PlanHead {
        &self.head
    }
}

/// Makes a plan's names while its steps come one by one. BLAKE3 over their bytes.
#[derive(Default)]
pub struct PlanDigest(DigestOf);

impl PlanDigest {
    /// In the order of turns.
    pub fn step(&mut self, step: &PlanStep) {
        self.0.add(step);
    }

    /// [`Plan::content_digest`].
    pub fn content(mut self, head: &PlanHead) -> String {
        self.0.add(&(&head.catalog, head.cycle));
        self.0.hex()
    }

    /// [`Plan::digest`].
    pub fn whole(mut self, head: &PlanHead) -> String {
        self.0.add(head);
        self.0.hex()
    }
}

impl Plan {
    /// Names the plan.
    pub fn digest(&self) -> String {
        self.digest_of_steps().whole(&self.head)
    }

    /// Names what the plan says, whichever machine it is for: machines whose plans are alike are approved as one. Covers the
    /// catalog, the cycle and the steps.
    pub fn content_digest(&self) -> String {
        self.digest_of_steps().content(&self.head)
    }

    fn digest_of_steps(&self) -> PlanDigest {
        let mut digest = PlanDigest::default();
        self.steps.iter().for_each(|step| digest.step(step));
        digest
    }

    /// Some step would do something.
    pub fn is_pending(&self) -> bool {
        self.steps.iter().any(PlanStep::is_pending)
    }

    pub fn has_errors(&self) -> bool {
        self.steps.iter().any(|step| step.step == StepWord::Error)
    }
}

/// What one state did.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StateReport {
    pub state: StateId,
    pub module: String,
    pub outcome: StateOutcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// It was refreshed.
    #[serde(default)]
    pub refreshed: bool,
    /// What later states may read; secrets are already replaced.
    #[serde(default, skip_serializing_if = "Values::is_empty")]
    pub outputs: Values,
    #[serde(default)]
    pub duration_ms: u64,
}

/// How many states had which last outcome; `changed` wins over a later `unchanged`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StateCounts {
    pub changed: u64,
    pub unchanged: u64,
    pub skipped: u64,
    pub failed: u64,
    pub blocked: u64,
}

impl StateCounts {
    pub fn add(&mut self, outcome: StateOutcome) {
        *match outcome {
            StateOutcome::Changed => &mut self.changed,
            StateOutcome::Unchanged => &mut self.unchanged,
            StateOutcome::Skipped => &mut self.skipped,
            StateOutcome::Failed => &mut self.failed,
            StateOutcome::Blocked => &mut self.blocked,
        } += 1;
    }

    pub fn total(&self) -> u64 {
        self.changed + self.unchanged + self.skipped + self.failed + self.blocked
    }
}

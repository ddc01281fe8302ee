//! Where a machine stands after it was analysed: whether anything is left to do, and whether that was approved.
//!
//! Whether an observation is within an approved plan is decided again by the engine, on the machine; here it only
//! saves a person from being asked twice about the same thing.

use mainstay_core::state::StepWord;
use mainstay_core::state::approval::{self, Ground};
use mainstay_core::state::plan::{Plan, PlanStep};

/// The steps that would do something. What ran in an earlier cycle and cannot be foreseen, the engine no longer lists.
pub fn left(plan: &Plan) -> impl Iterator<Item = &PlanStep> {
    plan.steps.iter().filter(|step| step.step.is_pending() || step.refresh.is_some())
}

pub fn errors(plan: &Plan) -> usize {
    plan.steps.iter().filter(|step| step.step == StepWord::Error).count()
}

/// Whether all that is left in `plan` is within what was approved: its changes, a subset of them, any value
/// for what was shown as unknown. What the approved changes made of the machine meanwhile is no objection.
pub fn covers(approved: &Plan, plan: &Plan) -> bool {
    let covers = |step: &PlanStep| {
        let known = approved.steps.iter().find(|known| known.state == step.state);
        approval::covers(known, step, Ground::Moved).is_ok()
    };
    left(plan).all(covers)
}

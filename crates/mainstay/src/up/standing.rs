//! Where a machine stands after it was analysed: whether anything is left to do, and whether that was approved.
//!
//! Whether an observation is within an approved plan is decided again by the engine, on the machine; here it only
//! saves a person from being asked twice about the same thing.

use mainstay_core::state::StepWord;
use mainstay_core::state::plan::{Plan, PlanStep};

use super::outcome::Tally;

/// The steps that would do something. What was run in an earlier cycle and cannot be foreseen (an unguarded
/// `cmd`) ran once, and that is enough.
pub fn left<'a>(plan: &'a Plan, done: &Tally) -> Vec<&'a PlanStep> {
    plan.steps.iter().filter(|step| is_left(step, done)).collect()
}

fn is_left(step: &PlanStep, done: &Tally) -> bool {
    match step.step {
        StepWord::Opaque => step.refresh.is_some() || !done.has(&step.state),
        StepWord::Change | StepWord::Conditional => true,
        StepWord::Unchanged | StepWord::Error => step.refresh.is_some(),
    }
}

pub fn errors(plan: &Plan) -> usize {
    plan.steps.iter().filter(|step| step.step == StepWord::Error).count()
}

/// Whether all that is left in `plan` is within what was approved: its changes, a subset of them, any value
/// for what was shown as unknown.
pub fn covers(approved: &Plan, plan: &Plan) -> bool {
    plan.steps
        .iter()
        .filter(|step| step.step.is_pending() || step.refresh.is_some())
        .all(|step| approved.steps.iter().any(|known| known.state == step.state && step_covers(known, step)))
}

fn step_covers(known: &PlanStep, step: &PlanStep) -> bool {
    let refresh = step.refresh.is_none() || known.refresh.is_some();
    refresh
        && match known.step {
            StepWord::Opaque | StepWord::Conditional => true,
            StepWord::Change => step.step == StepWord::Change && step.changes.iter().all(|c| known.changes.contains(c)),
            StepWord::Unchanged | StepWord::Error => !step.step.is_pending(),
        }
}

//! Judging the end of a command by expressions over its outputs.

use mainstay_core::state::template::{StateOutputs, Verdict as Said};
use mainstay_core::state::{StateIndex, Values};
use mainstay_module::Failure;
use mainstay_module::module::Verdict;

use super::prepared::Prepared;

/// Whether it changed something, if an expression says so. What failed is the failure.
pub(super) fn judge(
    prepared: &Prepared,
    state: StateIndex,
    verdict: &Verdict,
    outputs: &Values,
    seen: &dyn StateOutputs,
) -> Result<Option<bool>, Failure> {
    let says = |what: &str, expression: &str| holds(prepared, state, what, expression, outputs, seen);
    match (&verdict.failed_when, &verdict.failure) {
        (Some(expression), failure) => {
            if says("failed_when", expression)? {
                let by_itself = || Failure::new("run", format!("failed_when: {expression}"));
                return Err(failure.clone().unwrap_or_else(by_itself));
            }
        }
        (None, Some(failure)) => return Err(failure.clone()),
        (None, None) => {}
    }
    verdict.changed_when.as_ref().map(|expression| says("changed_when", expression)).transpose()
}

/// An expression of a state's own over the outputs of what it just did.
pub(super) fn holds(
    prepared: &Prepared,
    state: StateIndex,
    what: &str,
    expression: &str,
    outputs: &Values,
    seen: &dyn StateOutputs,
) -> Result<bool, Failure> {
    match prepared.eval(state, expression, outputs, seen) {
        Ok(Said::Known(says)) => Ok(says),
        Ok(Said::Unknown { until }) => {
            Err(Failure::new(format!("evaluate {what}"), format!("{until} gave nothing out")))
        }
        Err(error) => Err(Failure::new(format!("evaluate {what}"), error)),
    }
}

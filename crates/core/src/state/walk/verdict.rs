//! The table of requisites: what one kind says, by how its targets ended.
//!
//! `prereq` looks ahead and stands in [`prereq`](super::prereq); `listen` says nothing about whether a state runs.

use crate::state::StateOutcome;
use crate::state::catalog::RequisiteKind;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Run,
    Skipped,
    Blocked,
    /// It hangs on a target that has not ended.
    Open,
}

/// What `kind` says. `owed`: its trigger is owed from an earlier run.
pub(super) fn decide(
    kind: RequisiteKind,
    targets: impl Iterator<Item = Option<StateOutcome>> + Clone,
    owed: bool,
) -> Verdict {
    let some = |wanted: fn(StateOutcome) -> bool| targets.clone().any(|outcome| outcome.is_some_and(wanted));
    let bad = || some(StateOutcome::is_bad);
    let good = || some(StateOutcome::is_good);
    let changed = || some(|outcome| outcome == StateOutcome::Changed);
    let open = || targets.clone().any(|outcome| outcome.is_none());
    if targets.clone().next().is_none() {
        return Verdict::Run;
    }
    let first_of = |answers: &[(bool, Verdict)], last| {
        answers.iter().find(|(holds, _)| *holds).map_or(last, |(_, verdict)| *verdict)
    };
    match kind {
        RequisiteKind::Require | RequisiteKind::Watch => {
            first_of(&[(bad(), Verdict::Blocked), (open(), Verdict::Open)], Verdict::Run)
        }
        RequisiteKind::RequireAny | RequisiteKind::WatchAny => {
            first_of(&[(good(), Verdict::Run), (open(), Verdict::Open)], Verdict::Blocked)
        }
        RequisiteKind::Onchanges => first_of(
            &[(bad(), Verdict::Blocked), (open(), Verdict::Open), (owed || changed(), Verdict::Run)],
            Verdict::Skipped,
        ),
        RequisiteKind::OnchangesAny => first_of(
            &[(owed || changed(), Verdict::Run), (open(), Verdict::Open), (bad(), Verdict::Blocked)],
            Verdict::Skipped,
        ),
        RequisiteKind::Onfail => {
            first_of(&[(bad(), Verdict::Run), (open(), Verdict::Open)], Verdict::Skipped)
        }
        RequisiteKind::OnfailAll => {
            first_of(&[(good(), Verdict::Skipped), (open(), Verdict::Open)], Verdict::Run)
        }
        RequisiteKind::Listen | RequisiteKind::Prereq => Verdict::Run,
    }
}

//! Whether what a state is about to do was approved.
//!
//! A plan is made, shown and approved, and time passes; then each state is observed again. What was listed may be done, or
//! less of it, and what was shown as unknown may have any value. Everything else is drift: the machine is not as it was when
//! somebody said yes, and nobody said yes to this.

use std::fmt;

use super::plan::{Change, Datum, PlanStep};
use super::{StateId, StepWord};

/// How firm the ground is on which the plan found a state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ground {
    /// Nothing that was approved can have touched what the state manages: it must be found as it was.
    Firm,
    /// A state that it comes after was to change something: what is there before may be that one's work.
    Moved,
}

/// What stands outside the approved plan.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Drift {
    #[error("{state}: it is not in the approved plan")]
    NotPlanned { state: StateId },
    #[error("{state}: it was {planned} in the approved plan and now would {now}")]
    Step { state: StateId, planned: Planned, now: String },
    #[error("{state}: {field} was not to change in the approved plan and now would become {now}")]
    Field { state: StateId, field: String, now: String },
    #[error("{state}: {field} was to become {planned} in the approved plan and now would become {now}")]
    After { state: StateId, field: String, planned: String, now: String },
    #[error("{state}: {field} was {planned} when the plan was approved and is now {now}")]
    Before { state: StateId, field: String, planned: String, now: String },
}

/// A step's word as a sentence has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Planned(StepWord);

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            StepWord::Unchanged => "to stay as it is",
            StepWord::Change => "to change",
            StepWord::Conditional => "conditional",
            StepWord::Opaque => "opaque",
            StepWord::Error => "an error",
        })
    }
}

/// A longer text makes the sentence unreadable; the plan shows it.
const SHOWN: usize = 60;

/// A datum as a sentence has it; a long text only by its length.
fn shown(datum: &Datum) -> String {
    match datum {
        Datum::Absent => "absent".into(),
        Datum::Known(value) | Datum::Predicted { value, .. } => {
            let text = value.as_str().map_or_else(|| value.to_string(), |text| format!("{text:?}"));
            match text.chars().count() {
                0..=SHOWN => text,
                count => format!("another text of {count} characters"),
            }
        }
        Datum::Unknown { until } => format!("unknown until {until}"),
        Datum::Secret { .. } => super::redaction::HIDDEN.into(),
    }
}

/// Judges a step that was observed just before it would be done. Both must have had the same things hidden.
///
/// `observed` is never conditional: by its turn everything is known. An error is the state's own failure and is none of this.
pub fn covers(planned: Option<&PlanStep>, observed: &PlanStep, ground: Ground) -> Result<(), Drift> {
    let state = || observed.state.clone();
    let does_nothing = matches!(observed.step, StepWord::Unchanged | StepWord::Error);
    if does_nothing && observed.refresh.is_none() {
        return Ok(());
    }
    let planned = planned.ok_or_else(|| Drift::NotPlanned { state: state() })?;
    let outside = |now: &str| {
        let now = match observed.changes.as_slice() {
            [] => now.to_owned(),
            changes => {
                let fields: Vec<&str> = changes.iter().map(|change| &*change.field).collect();
                format!("{now} ({})", fields.join(", "))
            }
        };
        Err(Drift::Step { state: state(), planned: Planned(planned.step), now })
    };
    let open = matches!(planned.step, StepWord::Conditional | StepWord::Opaque);
    if observed.refresh.is_some() && planned.refresh.is_none() && !open {
        return outside("be refreshed");
    }
    match observed.step {
        StepWord::Unchanged | StepWord::Error => Ok(()),
        StepWord::Opaque | StepWord::Conditional if open => Ok(()),
        StepWord::Opaque | StepWord::Conditional => outside("run something"),
        StepWord::Change if planned.step == StepWord::Opaque => Ok(()),
        StepWord::Change if planned.step == StepWord::Conditional && planned.changes.is_empty() => Ok(()),
        StepWord::Change if planned.step.is_pending() => {
            observed.changes.iter().try_for_each(|change| covers_change(planned, observed, change, ground))
        }
        StepWord::Change => outside("change"),
    }
}

fn covers_change(
    planned: &PlanStep,
    observed: &PlanStep,
    change: &Change,
    ground: Ground,
) -> Result<(), Drift> {
    let (state, field) = (observed.state.clone(), change.field.to_string());
    let Some(listed) = planned.changes.iter().find(|listed| listed.field == change.field) else {
        // A parameter that was unknown is listed by its own name; the module may speak of what it means by another
        // (`template` of `content`).
        let was_open = planned.changes.iter().any(|listed| {
            listed.field == Change::MORE
                || matches!(listed.after, Datum::Unknown { .. })
                    && !observed.changes.iter().any(|change| change.field == listed.field)
        });
        return if was_open { Ok(()) } else { Err(Drift::Field { state, field, now: shown(&change.after) }) };
    };
    if !agrees(&listed.after, &change.after) {
        return Err(Drift::After { state, field, planned: shown(&listed.after), now: shown(&change.after) });
    }
    if ground == Ground::Firm && !agrees(&listed.before, &change.before) {
        return Err(Drift::Before {
            state,
            field,
            planned: shown(&listed.before),
            now: shown(&change.before),
        });
    }
    Ok(())
}

/// What a plan said and what is found. A prediction that came true is what it predicted.
fn agrees(planned: &Datum, found: &Datum) -> bool {
    match (planned, found) {
        (Datum::Unknown { .. }, _) => true,
        (
            Datum::Known(planned) | Datum::Predicted { value: planned, .. },
            Datum::Known(found) | Datum::Predicted { value: found, .. },
        ) => planned == found,
        (planned, found) => planned == found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(word: StepWord, changes: Vec<Change>) -> PlanStep {
        PlanStep {
            state: "conf".into(),
            module: "file".into(),
            step: word,
            reason: None,
            changes,
            refresh: None,
        }
    }

    fn mode(before: &str, after: &str) -> Change {
        Change::new("mode", Datum::known(before), Datum::known(after))
    }

    fn judge(planned: &PlanStep, observed: &PlanStep) -> String {
        match covers(Some(planned), observed, Ground::Firm) {
            Ok(()) => "covered".into(),
            Err(drift) => drift.to_string(),
        }
    }

    #[test]
    fn what_was_listed_or_less_is_covered_and_nothing_else() {
        use StepWord::{Change as Changes, Conditional, Opaque, Unchanged};
        let owner = || Change::new("owner", Datum::known("root"), Datum::known("app"));
        let unknown = |field: &'static str| {
            let until = || Datum::Unknown { until: "probe".into() };
            Change::new(field, until(), until())
        };
        for (planned, observed, expected) in [
            (step(Changes, vec![mode("0600", "0644")]), step(Changes, vec![mode("0600", "0644")]), "covered"),
            (step(Changes, vec![mode("0600", "0644"), owner()]), step(Changes, vec![owner()]), "covered"),
            (step(Changes, vec![owner()]), step(Unchanged, vec![]), "covered"),
            (
                step(Changes, vec![mode("0600", "0644")]),
                step(Changes, vec![mode("0600", "0640")]),
                r#"conf: mode was to become "0644" in the approved plan and now would become "0640""#,
            ),
            (
                step(Changes, vec![mode("0600", "0644")]),
                step(Changes, vec![mode("0666", "0644")]),
                r#"conf: mode was "0600" when the plan was approved and is now "0666""#,
            ),
            (
                step(Changes, vec![mode("0600", "0644")]),
                step(Changes, vec![mode("0600", "0644"), owner()]),
                r#"conf: owner was not to change in the approved plan and now would become "app""#,
            ),
            (
                step(Unchanged, vec![]),
                step(Changes, vec![owner()]),
                "conf: it was to stay as it is in the approved plan and now would change (owner)",
            ),
            (step(Conditional, vec![]), step(Changes, vec![owner()]), "covered"),
            (step(Conditional, vec![unknown("owner")]), step(Changes, vec![owner()]), "covered"),
            (
                step(Conditional, vec![unknown("owner")]),
                step(Changes, vec![owner(), mode("0600", "0644")]),
                r#"conf: mode was not to change in the approved plan and now would become "0644""#,
            ),
            (step(Conditional, vec![unknown("template")]), step(Changes, vec![owner()]), "covered"),
            (
                step(Conditional, vec![unknown("owner"), unknown(Change::MORE)]),
                step(Changes, vec![owner(), mode("0600", "0644")]),
                "covered",
            ),
            (step(Opaque, vec![]), step(Opaque, vec![]), "covered"),
            (step(Conditional, vec![]), step(Opaque, vec![]), "covered"),
            (
                step(Unchanged, vec![]),
                step(Opaque, vec![]),
                "conf: it was to stay as it is in the approved plan and now would run something",
            ),
            (
                step(Changes, vec![owner()]),
                step(Opaque, vec![]),
                "conf: it was to change in the approved plan and now would run something",
            ),
        ] {
            assert_eq!(judge(&planned, &observed), expected, "{planned:?} {observed:?}");
        }
    }

    #[test]
    fn a_prediction_that_came_true_is_covered() {
        let predicted = Datum::Predicted { value: "0600".into(), by: "directory".into() };
        let planned = step(StepWord::Change, vec![Change::new("mode", predicted, Datum::known("0644"))]);
        assert_eq!(judge(&planned, &step(StepWord::Change, vec![mode("0600", "0644")])), "covered");
        assert!(judge(&planned, &step(StepWord::Change, vec![mode("0666", "0644")])).contains("is now"));
    }

    #[test]
    fn on_moved_ground_only_what_is_made_must_be_as_listed() {
        let planned = step(StepWord::Change, vec![mode("0600", "0644")]);
        let found = step(StepWord::Change, vec![mode("0666", "0644")]);
        assert!(covers(Some(&planned), &found, Ground::Moved).is_ok());
        let other = step(StepWord::Change, vec![mode("0666", "0600")]);
        assert!(covers(Some(&planned), &other, Ground::Moved).is_err());
    }

    #[test]
    fn a_refresh_must_have_been_listed() {
        let refreshed = PlanStep { refresh: Some(vec!["conf".into()]), ..step(StepWord::Unchanged, vec![]) };
        assert_eq!(judge(&refreshed, &refreshed), "covered");
        assert_eq!(
            judge(&step(StepWord::Unchanged, vec![]), &refreshed),
            "conf: it was to stay as it is in the approved plan and now would be refreshed"
        );
        assert_eq!(judge(&step(StepWord::Conditional, vec![]), &refreshed), "covered");
    }

    #[test]
    fn a_state_that_was_not_planned_may_only_be_as_declared() {
        assert!(covers(None, &step(StepWord::Unchanged, vec![]), Ground::Firm).is_ok());
        assert!(covers(None, &step(StepWord::Opaque, vec![]), Ground::Firm).is_err());
    }

    #[test]
    fn no_secret_and_no_page_of_text_in_the_words() {
        let secret = |digest: &str| Datum::Secret { digest: digest.into() };
        let planned = step(StepWord::Change, vec![Change::new("content", Datum::Absent, secret("a"))]);
        let found = step(StepWord::Change, vec![Change::new("content", Datum::Absent, secret("b"))]);
        assert_eq!(
            judge(&planned, &found),
            "conf: content was to become ‹secret› in the approved plan and now would become ‹secret›"
        );
        let long = step(
            StepWord::Change,
            vec![Change::new("content", Datum::Absent, Datum::known("x".repeat(500)))],
        );
        assert!(judge(&planned, &long).ends_with("another text of 502 characters"));
    }
}

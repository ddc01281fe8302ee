//! What a plan listed, against a machine that was looked at before and after without the module's help. It serves the modules'
//! own tests, and those on a real system, which are a program of their own.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_core::state::plan::{Change, Datum};
use serde_json::Value;

/// By the names that changes have.
pub type Observation = BTreeMap<String, Value>;

/// Every listed change was made, and nothing else.
pub fn compare(changes: &[Change], before: &Observation, after: &Observation) {
    let listed: BTreeMap<&str, &Change> = changes.iter().map(|change| (&*change.field, change)).collect();
    assert_eq!(listed.len(), changes.len(), "a field is listed twice: {changes:#?}");
    for change in changes {
        assert_ne!(change.before, change.after, "a change that changes nothing: {change:?}");
        is(&change.before, before.get(&*change.field), &change.field, "before");
        is(&change.after, after.get(&*change.field), &change.field, "after");
    }
    let all: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in all.into_iter().filter(|name| before.get(*name) != after.get(*name)) {
        // What comes or goes as a whole comes and goes with all its fields.
        let whole = match name.split_once(" of ") {
            Some((_, of)) => format!("exists of {of}"),
            None => "exists".to_owned(),
        };
        // What goes with a directory goes with all that is in it.
        let above = |gone: &&&Change| gone.after == Datum::Absent && gone.field == "exists";
        let with_all = listed.values().find(above).is_some();
        let known = listed.contains_key(name.as_str()) || listed.contains_key(whole.as_str()) || with_all;
        assert!(
            known,
            "{name} went from {:?} to {:?}, which no change told: {changes:#?}",
            before.get(name),
            after.get(name)
        );
    }
}

fn is(datum: &Datum, observed: Option<&Value>, field: &str, side: &str) {
    match datum {
        Datum::Absent => assert_eq!(observed, None, "{side} of {field}"),
        Datum::Known(value) | Datum::Predicted { value, .. } => {
            assert_eq!(observed, Some(value), "{side} of {field}");
        }
        Datum::Secret { .. } => assert!(observed.is_some(), "{side} of {field}"),
        Datum::Unknown { until } => {
            panic!("{side} of {field} is unknown until {until}, with nothing forecast")
        }
    }
}

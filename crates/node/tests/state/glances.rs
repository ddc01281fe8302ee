//! Looks that other threads take before their turn.

use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, ThreadId, available_parallelism};
use std::time::Duration;

use mainstay_core::state::StepWord;
use mainstay_core::state::plan::{Change, Datum};
use mainstay_core::state::session::Ask;
use mainstay_module::forecast::Resource;
use mainstay_module::module::{About, Analysis, Analyze, Applied, Apply, Module};
use mainstay_module::{Failure, registry};
use mainstay_node::state::SessionOptions;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::machine::{Machine, catalog, state};

const STATES: usize = 120;
/// Its look is taken ahead, and before it comes the one that would change.
const LATE: usize = 60;
const CHANGED: usize = 10;

/// Who looked at which state, and word of it.
#[derive(Default)]
struct Looks {
    taken: Mutex<Vec<Look>>,
    one_more: Condvar,
}

struct Look {
    number: usize,
    is_ahead: bool,
    thread: ThreadId,
}

impl Looks {
    fn note(&self, number: usize) {
        let thread = thread::current();
        let is_ahead = thread.name() == Some("state-glancing");
        self.taken.lock().unwrap().push(Look { number, is_ahead, thread: thread.id() });
        self.one_more.notify_all();
    }

    /// How often the state was looked at, before its turn and at it.
    fn at(&self, number: usize) -> (usize, usize) {
        let taken = self.taken.lock().unwrap();
        let count = |is_ahead| taken.iter().filter(|l| l.number == number && l.is_ahead == is_ahead).count();
        (count(true), count(false))
    }

    /// Until somebody has looked ahead at this one, and gone on to another.
    fn wait_for_look_ahead(&self, number: usize) {
        let is_awaited = |taken: &mut Vec<Look>| {
            let mut after = taken.iter().skip_while(|look| look.number != number);
            let Some(first) = after.next() else { return true };
            !after.any(|look| look.thread == first.thread)
        };
        let taken = self.taken.lock().unwrap();
        let waited = self.one_more.wait_timeout_while(taken, Duration::from_secs(60), is_awaited).unwrap();
        assert!(!waited.1.timed_out(), "nobody looks ahead");
    }
}

/// Says what is foretold of one thing; the first one looked at lets others go ahead.
struct Thing(Arc<Looks>);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Params {
    number: usize,
    changes: bool,
}

impl Module for Thing {
    type Params = Params;

    fn about(&self) -> About {
        About { name: "thing", summary: "", identity: None, dry_run: "", outputs: &[], example: "" }
    }

    fn looks_ahead(&self) -> bool {
        true
    }

    fn analyze(&self, params: &Params, cx: &Analyze<'_>) -> Result<Analysis, Failure> {
        self.0.note(params.number);
        if params.number == 0 {
            self.0.wait_for_look_ahead(LATE);
        }
        let thing = Resource::new("thing", "it");
        let change = Change::new("it", Datum::Absent, Datum::known("there"));
        if params.changes {
            return Ok(Analysis::of(vec![change]).predict(thing, None));
        }
        let is_foretold = cx.forecast.get(&thing).is_some();
        Ok(if is_foretold { Analysis::of(vec![change]) } else { Analysis::unchanged() })
    }

    fn apply(&self, _: &Params, _: &Apply<'_>, _: &Analysis) -> Result<Applied, Failure> {
        unreachable!("it is only planned")
    }
}

/// The steps of a plan in which one state changes, or none; and the looks.
fn plan(changed: Option<usize>) -> (Vec<StepWord>, Arc<Looks>) {
    let machine = Machine::new();
    let looks = Arc::new(Looks::default());
    let registry = registry::builtin().with(Thing(Arc::clone(&looks)));
    let mut session = crate::machine::Talk::open(SessionOptions { registry, ..machine.options() });
    let states = (0..STATES).map(|number| {
        let params = json!({"number": number, "changes": changed == Some(number)});
        let made = state(&format!("t{number:03}"), "thing", params);
        if number == LATE + 1 { made.set(|_, guards| guards.when = Some("true".into())) } else { made }
    });
    session.ask(Ask::Catalog(Box::new(catalog(states))));
    let plan = session.plan(1);
    (plan.steps.iter().map(|step| step.step).collect(), looks)
}

fn has_one_processor(test: &str) -> bool {
    let one = available_parallelism().is_ok_and(|count| count.get() == 1);
    if one {
        eprintln!("skipped: {test}: there is one processor, and nobody looks ahead");
    }
    one
}

#[test]
fn where_nothing_changes_looks_are_taken_ahead_and_not_again() {
    if has_one_processor("where_nothing_changes_looks_are_taken_ahead_and_not_again") {
        return;
    }
    let (steps, looks) = plan(None);
    assert_eq!(steps, [StepWord::Unchanged; STATES]);
    assert_eq!(looks.at(LATE), (1, 0));
    assert_eq!(looks.at(LATE + 1), (0, 1), "its guard comes first");
}

#[test]
fn a_look_taken_ahead_counts_for_nothing_once_something_is_foretold() {
    if has_one_processor("a_look_taken_ahead_counts_for_nothing_once_something_is_foretold") {
        return;
    }
    let (steps, looks) = plan(Some(CHANGED));
    assert_eq!(steps[..CHANGED], [StepWord::Unchanged; CHANGED]);
    assert_eq!(steps[CHANGED..], [StepWord::Change; STATES - CHANGED]);
    assert_eq!(looks.at(LATE), (1, 1));
}

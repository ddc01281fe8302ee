//! What the tests do inside a scratch root: analyze, apply, compare, and analyze again.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::path::Path;

use mainstay_core::state::plan::{Change, Datum};
use mainstay_core::state::{StateId, StepWord, Values};
use mainstay_module::confine::{Scratch, confine, offered};
use mainstay_module::forecast::Forecast;
use mainstay_module::host::{Command, Host, View};
use mainstay_module::module::Blobs;
use mainstay_module::registry::{AnyModule, Params, Registry, builtin};
use mainstay_module::{Analysis, Analyze, Applied, Apply, Failure, Refreshed};
use serde_json::{Map, Value};

use crate::comparison::{Observation, compare};
use crate::observation;

/// One state of one module.
pub struct State {
    registry: Registry,
    module: &'static str,
    params: Params,
    written: Map<String, Value>,
    id: StateId,
}

pub fn state(module: &'static str, params: Value) -> State {
    let registry = builtin();
    let Value::Object(map) = params else { panic!("parameters are a map") };
    let params =
        registry.get(module).unwrap().read(&map).unwrap_or_else(|error| panic!("{module} {map:?}: {error}"));
    State { registry, module, params, written: map, id: StateId::from("state") }
}

impl State {
    fn module(&self) -> &dyn AnyModule {
        &**self.registry.get(self.module).unwrap()
    }

    /// As the engine has it done: on a thread that the kernel holds to looking, where it can.
    pub fn foresee(&self, forecast: &Forecast) -> Result<Analysis, Failure> {
        let scratch = Scratch::make().unwrap();
        let (view, blobs) = (View::new(Some(scratch.path().to_owned())), BTreeMap::new());
        let cx = Analyze { state: &self.id, view: &view, forecast, blobs: Blobs(&blobs) };
        let look = || {
            if offered() > 0 {
                assert!(confine(Some(scratch.path())).unwrap(), "the kernel has Landlock and does nothing");
            }
            self.module().analyze(&self.params, &cx)
        };
        std::thread::scope(|scope| scope.spawn(look).join()).unwrap_or_else(|panic| resume_unwind(panic))
    }

    pub fn analyze(&self) -> Analysis {
        self.foresee(&Forecast::default()).unwrap_or_else(|failure| panic!("analyze: {failure}"))
    }

    pub fn try_apply(&self, analysis: &Analysis) -> Result<Applied, Failure> {
        let (host, blobs) = (Host::new(), BTreeMap::new());
        self.module().apply(
            &self.params,
            &Apply { state: &self.id, host: &host, blobs: Blobs(&blobs) },
            analysis,
        )
    }

    pub fn refresh(&self, applied: Option<&Analysis>) -> Refreshed {
        let (host, blobs) = (Host::new(), BTreeMap::new());
        let cx = Apply { state: &self.id, host: &host, blobs: Blobs(&blobs) };
        self.module()
            .refresh(&self.params, &cx, applied)
            .unwrap_or_else(|failure| panic!("refresh: {failure}"))
    }

    fn observe(&self) -> Observation {
        observation::of(self.module, &self.written)
    }

    /// Brings it there, holds what was planned against what the machine's own tools say was done, and sees that from there
    /// nothing is planned and nothing is wrong.
    pub fn converge(&self) -> Analysis {
        let before = self.observe();
        let planned = self.analyze();
        assert_eq!(planned.step, StepWord::Change, "{planned:?}");
        assert_eq!(self.observe(), before, "analyze changed something");
        let applied = self.try_apply(&planned).unwrap_or_else(|failure| panic!("apply: {failure}"));
        for (name, value) in &planned.outputs {
            assert_eq!(applied.outputs.get(name), Some(value), "the output {name} was planned otherwise");
        }
        let seen = self.observe();
        // The kernel has words of its own for the options of what is mounted: tests look at what they do.
        let leaves_traces = |change: &&Change| self.module != "mount" || change.field != "options";
        let changes = planned.changes.iter().filter(leaves_traces).map(|change| named(change, &seen));
        compare(&changes.collect::<Vec<_>>(), &before, &seen);
        let after = self.analyze();
        assert_eq!(self.observe(), seen, "analyze changed something");
        assert_eq!(after.step, StepWord::Unchanged, "still wanted: {:?}", after.changes);
        assert_eq!(after.outputs, merged(&after.outputs, &applied.outputs), "outputs stay what apply said");
        planned
    }

    pub fn is_settled(&self) {
        let analysis = self.analyze();
        assert_eq!(analysis.step, StepWord::Unchanged, "{:?}", analysis.changes);
    }
}

/// Applies states that the engine may merge, as one.
pub fn converge_together(states: &[State]) {
    let module = states[0].module();
    let keys: Vec<_> = states.iter().map(|state| module.merge_key(&state.params).unwrap()).collect();
    assert!(keys.windows(2).all(|pair| pair[0] == pair[1]), "{keys:?}");
    let analyses: Vec<_> = states.iter().map(State::analyze).collect();
    let params: Vec<_> = states.iter().map(|state| &state.params).collect();
    let (host, blobs) = (Host::new(), BTreeMap::new());
    let cx = Apply { state: &states[0].id, host: &host, blobs: Blobs(&blobs) };
    let applied = module.apply_merged(&params, &cx, &analyses.iter().collect::<Vec<_>>());
    let applied = applied.unwrap_or_else(|failure| panic!("apply together: {failure}"));
    assert_eq!(applied.len(), states.len());
    states.iter().for_each(State::is_settled);
}

/// Which version is the newest, a list of packages that is out of date does not say: it is one.
fn named(change: &Change, seen: &Observation) -> Change {
    match seen.get(&*change.field) {
        Some(version) if change.after == Datum::known("newest") => {
            Change { after: Datum::Known(version.clone()), ..change.clone() }
        }
        _ => change.clone(),
    }
}

fn merged(first: &Values, second: &Values) -> Values {
    let mut all = first.clone();
    all.extend(second.clone());
    all
}

/// Fields and what they become, for comparing plans.
pub fn fields(analysis: &Analysis) -> Vec<&str> {
    analysis.changes.iter().map(|change| &*change.field).collect()
}

/// What a shell line says; it must work.
pub fn sh(line: &str) -> String {
    let command = Command::shell(line);
    let ran = Host::new().run(&command).and_then(|ran| ran.or_failure(&command));
    ran.unwrap_or_else(|failure| panic!("{failure}")).text()
}

pub fn write(path: &str, text: &str) {
    if let Some(parent) = Path::new(path).parent() {
        std::fs::create_dir_all(parent).unwrap();
    }
    std::fs::write(path, text).unwrap();
}

pub fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap()
}

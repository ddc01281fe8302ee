//! A package and what it brings, with states for that which do not say `require`.

use std::fs;
use std::path::PathBuf;

use mainstay_core::state::StateOutcome::{Blocked, Changed, Unchanged};
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

use crate::machine::{Machine, Made, Talk, catalog, state};

/// Brings a directory with a configuration file in it.
struct Package;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Params {
    etc: PathBuf,
}

impl Module for Package {
    type Params = Params;

    fn about(&self) -> About {
        About { name: "package", summary: "", identity: None, dry_run: "", outputs: &[], example: "" }
    }

    fn brings(&self) -> bool {
        true
    }

    fn analyze(&self, params: &Params, cx: &Analyze<'_>) -> Result<Analysis, Failure> {
        if cx.view.entry(&params.etc.join("shipped"))?.is_some() {
            return Ok(Analysis::unchanged());
        }
        let change = Change::new("app", Datum::Absent, Datum::known("1.0"));
        Ok(Analysis::of(vec![change]).predict(Resource::package("app"), None))
    }

    fn apply(&self, params: &Params, _: &Apply<'_>, _: &Analysis) -> Result<Applied, Failure> {
        fs::create_dir_all(&params.etc).unwrap();
        fs::write(params.etc.join("shipped"), "").unwrap();
        // What an administrator has written stays.
        if !params.etc.join("conf").exists() {
            fs::write(params.etc.join("conf"), "port = 80\nworkers = 1\n").unwrap();
        }
        Ok(Applied::default())
    }
}

fn session(machine: &Machine, after: Made) -> Talk {
    let registry = registry::builtin().with(Package);
    let mut session = Talk::open(SessionOptions { registry, ..machine.options() });
    let package = state("app", "package", json!({"etc": machine.path("etc")}));
    session.ask(Ask::Catalog(Box::new(catalog([package, after]))));
    session
}

fn conf(machine: &Machine) -> Made {
    state(
        "conf",
        "file",
        json!({"path": machine.path("etc/conf"), "content": "port = 8080\n", "mode": "0600"}),
    )
}

#[test]
fn packages_are_what_brings() {
    let brings: Vec<String> =
        registry::builtin().iter().filter(|(_, m)| m.brings()).map(|(name, _)| name.to_owned()).collect();
    assert_eq!(brings, ["pkg"]);
}

#[test]
fn a_file_that_the_package_brings_otherwise_becomes_as_it_was_approved() {
    let machine = Machine::new();
    // The directory is there, so that the file is planned as new.
    fs::create_dir(machine.path("etc")).unwrap();
    let mut session = session(&machine, conf(&machine));
    let plan = session.plan(1);
    assert_eq!(plan.words()[1], ("conf", StepWord::Change, "exists,content,mode"));
    let done = session.apply(&plan);
    assert_eq!((done.outcomes(), &done.drift), (vec![("app", Changed), ("conf", Changed)], &None));
    assert_eq!(machine.read("etc/conf"), "port = 8080\n");
    assert!(session.plan(2).stable);
}

#[test]
fn what_a_package_may_bring_is_missing_only_until_then() {
    let line = |machine: &Machine| {
        let params = json!({"path": machine.path("etc/conf"), "line": "port = 8080", "match": "^port ="});
        state("conf", "line", params)
    };
    for (make, content) in
        [(conf as fn(&Machine) -> Made, "port = 8080\n"), (line, "port = 8080\nworkers = 1\n")]
    {
        let machine = Machine::new();
        let mut session = session(&machine, make(&machine));
        let plan = session.plan(1);
        assert_eq!(plan.steps[1].step, StepWord::Conditional, "{plan:?}");
        assert_eq!(plan.steps[1].reason.as_deref(), Some("known after app"));
        let done = session.apply(&plan);
        assert_eq!((done.outcomes(), &done.drift), (vec![("app", Changed), ("conf", Changed)], &None));
        assert_eq!(machine.read("etc/conf"), content);
        assert!(session.plan(2).stable);
    }
}

#[test]
fn what_nobody_approved_is_left_alone_and_the_package_is_named() {
    let machine = Machine::new();
    let all = json!({"path": machine.path("etc"), "mode": "0700", "file_mode": "0600", "recurse": true});
    fs::create_dir(machine.path("etc")).unwrap();
    let mut session = session(&machine, state("etc", "directory", all));
    let plan = session.plan(1);
    let done = session.apply(&plan);
    assert_eq!(done.outcomes(), [("app", Changed), ("etc", Blocked)]);
    let drift = done.drift.unwrap();
    assert!(drift.starts_with("etc: mode of "), "{drift}");
    assert!(drift.ends_with(" (app changed in this run and may have brought it: plan again)"), "{drift}");
    // And so it is done.
    let plan = session.plan(1);
    let done = session.apply(&plan);
    assert_eq!((done.outcomes(), &done.drift), (vec![("app", Unchanged), ("etc", Changed)], &None));
}

#[test]
fn where_no_package_comes_what_was_there_must_be_as_it_was() {
    let machine = Machine::new();
    fs::create_dir(machine.path("etc")).unwrap();
    fs::write(machine.path("etc/shipped"), "").unwrap();
    let mut session = session(&machine, conf(&machine));
    let plan = session.plan(1);
    fs::write(machine.path("etc/conf"), "somebody's own").unwrap();
    let done = session.apply(&plan);
    assert_eq!(done.outcomes(), [("app", Unchanged), ("conf", Blocked)]);
    let drift = done.drift.unwrap();
    assert!(drift.starts_with("conf: content was ") || drift.starts_with("conf: exists was "), "{drift}");
    assert!(!drift.contains("brought"), "{drift}");
}

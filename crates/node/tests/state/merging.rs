//! States applied as one in `genius` order, and each by itself where that goes wrong.

use std::fs;
use std::io::Write;

use mainstay_core::state::StateOutcome::{Changed, Failed, Unchanged};
use mainstay_core::state::catalog::OrderMode;
use mainstay_core::state::plan::{Change, Datum};
use mainstay_core::state::session::Ask;
use mainstay_module::module::{About, Analysis, Analyze, Applied, Apply, Module};
use mainstay_module::{Failure, registry};
use mainstay_node::state::SessionOptions;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::machine::{Machine, Talk, catalog, state};

/// Packs that are installed by a tool which writes down how it was called.
struct Pack;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Params {
    name: String,
    root: String,
}

impl Params {
    fn path(&self) -> String {
        format!("{}{}", self.root, self.name)
    }
}

fn install(params: &[&Params]) -> Result<Vec<Applied>, Failure> {
    let names: Vec<&str> = params.iter().map(|params| params.name.as_str()).collect();
    let log = format!("{}calls", params[0].root);
    let mut log = fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
    writeln!(log, "{}", names.join(" ")).unwrap();
    if names.contains(&"broken") {
        return Err(Failure::new(format!("install {}", names.join(" ")), "broken cannot be had"));
    }
    params.iter().for_each(|params| fs::write(params.path(), "").unwrap());
    Ok(vec![Applied::default(); params.len()])
}

impl Module for Pack {
    type Params = Params;

    fn about(&self) -> About {
        About { name: "pack", summary: "", identity: None, dry_run: "", outputs: &[], example: "" }
    }

    fn analyze(&self, params: &Params, _: &Analyze<'_>) -> Result<Analysis, Failure> {
        let there = fs::exists(params.path()).unwrap();
        let change = Change::new("exists", Datum::Absent, Datum::known("pack"));
        Ok(Analysis::of(if there { Vec::new() } else { vec![change] }))
    }

    fn apply(&self, params: &Params, _: &Apply<'_>, _: &Analysis) -> Result<Applied, Failure> {
        install(&[params]).map(|_| Applied::default())
    }

    fn merge_key(&self, _: &Params) -> Option<String> {
        Some("all".into())
    }

    fn apply_merged(
        &self,
        params: &[&Params],
        _: &Apply<'_>,
        _: &[&Analysis],
    ) -> Result<Vec<Applied>, Failure> {
        install(params)
    }
}

fn installed(machine: &Machine, names: &[&str]) -> (Vec<mainstay_core::state::StateOutcome>, String) {
    let root = machine.path("");
    let states = names.iter().map(|name| state(name, "pack", json!({"name": name, "root": root})));
    let mut catalog = catalog(states);
    catalog.order = OrderMode::Genius;
    let options = SessionOptions { registry: registry::builtin().with(Pack), ..machine.options() };
    let mut session = Talk::open(options);
    session.ask(Ask::Catalog(Box::new(catalog)));
    let plan = session.plan(1);
    let done = session.apply(&plan);
    let outcome = |name: &&str| {
        let mut reports = done.reports.iter().filter(|report| report.state.as_str() == *name);
        let outcome = reports.next().unwrap().outcome;
        assert!(reports.next().is_none(), "{name} ended twice");
        outcome
    };
    (names.iter().map(outcome).collect(), machine.read("calls"))
}

#[test]
fn what_can_be_merged_is_one_transaction() {
    let machine = Machine::new();
    fs::write(machine.path("there"), "").unwrap();
    let (outcomes, calls) = installed(&machine, &["one", "there", "two", "three"]);
    assert_eq!(outcomes, [Changed, Unchanged, Changed, Changed]);
    assert_eq!(calls, "one two three\n");
}

#[test]
fn a_transaction_that_fails_is_tried_member_by_member() {
    let machine = Machine::new();
    let (outcomes, calls) = installed(&machine, &["one", "broken", "two"]);
    assert_eq!(outcomes, [Changed, Failed, Changed]);
    assert_eq!(calls, "one broken two\none\nbroken\ntwo\n");
}

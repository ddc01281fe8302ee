//! Files written ahead of their turns, in written order: outcomes are those of turns one by one.

use std::path::Path;
use std::sync::{Arc, Mutex};

use mainstay_core::state::StateOutcome::{self, Blocked, Changed, Failed, Unchanged};
use mainstay_core::state::catalog::RequisiteKind;
use mainstay_core::state::plan::{Change, Datum};
use mainstay_core::state::session::Ask;
use mainstay_module::host::{Ownership, Unsynced};
use mainstay_module::module::{About, Analysis, Analyze, Applied, Apply, Module};
use mainstay_module::{Failure, registry};
use mainstay_node::state::SessionOptions;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::machine::{Machine, Talk, catalog, state};

/// A file whose writing is heard. One that is to hold `bad` cannot be written.
struct Heard(Arc<Mutex<Vec<String>>>);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Params {
    path: String,
    content: String,
}

impl Heard {
    fn begin(&self, what: &str, params: &Params) -> Result<(), Failure> {
        let name = params.path.rsplit('/').next().unwrap();
        self.0.lock().unwrap().push(format!("{what} {name}"));
        if params.content == "bad" { Err(Failure::new(what, "it is bad")) } else { Ok(()) }
    }
}

impl Module for Heard {
    type Params = Params;

    fn about(&self) -> About {
        About { name: "heard", summary: "", identity: None, dry_run: "", outputs: &[], example: "" }
    }

    fn analyze(&self, params: &Params, cx: &Analyze<'_>) -> Result<Analysis, Failure> {
        let is = cx.view.read(Path::new(&params.path))?.as_deref() == Some(params.content.as_bytes());
        let change = Change::new("content", Datum::Absent, Datum::known(params.content.as_str()));
        Ok(Analysis::of(if is { Vec::new() } else { vec![change] }))
    }

    fn apply(&self, params: &Params, cx: &Apply<'_>, _: &Analysis) -> Result<Applied, Failure> {
        self.begin("apply", params)?;
        cx.host.write(Path::new(&params.path), params.content.as_bytes(), Ownership::default())?;
        Ok(Applied::default())
    }

    fn stage<'h>(
        &self,
        params: &Params,
        cx: &Apply<'h>,
        _: &Analysis,
    ) -> Result<Option<Unsynced<'h>>, Failure> {
        self.begin("stage", params)?;
        let (path, bytes) = (Path::new(&params.path), params.content.as_bytes());
        cx.host.stage_unsynced(path, bytes, Ownership::default()).map(Some)
    }
}

/// Outcomes of files that are to hold these, and what was heard of their writing.
fn written(machine: &Machine, contents: &[&str]) -> (Vec<StateOutcome>, Vec<String>) {
    let heard = Arc::default();
    let options = machine.options();
    let registry = registry::builtin().with(Heard(Arc::clone(&heard)));
    let mut session = Talk::open(SessionOptions { registry, ..options });
    let names: Vec<String> = (0..contents.len()).map(|number| format!("f{number}")).collect();
    let states = names.iter().zip(contents).enumerate().map(|(number, (name, content))| {
        let one = state(name, "heard", json!({"path": machine.path(name), "content": content}));
        if *content == "needs" { one.on(RequisiteKind::Require, &[number - 1]) } else { one }
    });
    session.ask(Ask::Catalog(Box::new(catalog(states))));
    let plan = session.plan(1);
    let done = session.apply(&plan);
    let told: Vec<&str> = done.outcomes().iter().map(|(name, _)| *name).collect();
    assert_eq!(told, names, "they are told in written order");
    let outcomes = done.outcomes().iter().map(|(_, outcome)| *outcome).collect();
    let heard = heard.lock().unwrap().clone();
    (outcomes, heard)
}

#[test]
fn all_are_written_before_the_first_has_its_place() {
    let machine = Machine::new();
    let (outcomes, heard) = written(&machine, &["a", "b", "c"]);
    assert_eq!(outcomes, [Changed; 3]);
    assert_eq!(heard, ["stage f0", "stage f1", "stage f2"]);
    assert_eq!(["f0", "f1", "f2"].map(|name| machine.read(name)), ["a", "b", "c"]);
    assert_eq!(written(&machine, &["a", "b", "c"]), (vec![Unchanged; 3], Vec::new()));
}

#[test]
fn one_that_cannot_be_written_fails_alone() {
    let machine = Machine::new();
    let (outcomes, heard) = written(&machine, &["a", "b", "bad", "c", "d"]);
    assert_eq!(outcomes, [Changed, Changed, Failed, Changed, Changed]);
    let expected =
        ["stage f0", "stage f1", "stage f2", "apply f0", "apply f1", "apply f2", "stage f3", "stage f4"];
    assert_eq!(heard, expected);
    assert!(!machine.exists("f2"));
    let left: Vec<_> = std::fs::read_dir(machine.path("")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 4, "nothing else is left: {left:?}");
}

#[test]
fn whoever_requires_one_that_fails_is_blocked_and_never_written() {
    let machine = Machine::new();
    let (outcomes, heard) = written(&machine, &["a", "bad", "needs", "b"]);
    assert_eq!(outcomes, [Changed, Failed, Blocked, Changed]);
    assert!(!heard.iter().any(|heard| heard.ends_with("f2")), "{heard:?}");
}

#[test]
fn two_names_of_one_file_are_seen_one_after_the_other() {
    let machine = Machine::new();
    std::fs::create_dir(machine.path("real")).unwrap();
    std::os::unix::fs::symlink(machine.path("real"), machine.path("alias")).unwrap();
    let file = |id: &str, path: &str| {
        state(id, "file", json!({"path": machine.path(path), "content": "x", "mode": "0640"}))
    };
    let mut session = machine.session();
    let states = catalog([file("one", "real/f"), file("two", "alias/f"), file("three", "real/g")]);
    session.ask(Ask::Catalog(Box::new(states)));
    let plan = session.plan(1);
    let done = session.apply(&plan);
    assert_eq!(done.outcomes(), [("one", Changed), ("two", Unchanged), ("three", Changed)]);
    assert_eq!(machine.read("real/f"), "x");
}

#[test]
fn one_whose_way_was_cut_off_says_so_as_it_would_at_its_turn() {
    let told = |more: serde_json::Value| {
        let machine = Machine::new();
        std::fs::create_dir(machine.path("real")).unwrap();
        std::os::unix::fs::symlink(machine.path("real"), machine.path("hop")).unwrap();
        std::os::unix::fs::symlink(machine.path("hop"), machine.path("alias")).unwrap();
        let file = |id: &str, path: &str| {
            let mut params = json!({"path": machine.path(path), "content": "x"});
            params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            state(id, "file", params)
        };
        let mut session = machine.session();
        // The link in the middle of the way becomes a file.
        session.ask(Ask::Catalog(Box::new(catalog([file("one", "hop"), file("two", "alias/f")]))));
        let done = session.apply_all();
        assert_eq!(done.outcomes(), [("one", Changed), ("two", Failed)]);
        done.reports[1].reason.as_ref().unwrap().replace(&machine.path(""), "HOST/")
    };
    // A command that checks it is run at the turn, so that nothing is written ahead.
    assert_eq!(told(json!({})), told(json!({"validate": "test -e %s"})));
}

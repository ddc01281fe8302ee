//! The analyze phase looks: where the kernel has Landlock, nothing that runs in it can do more.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use mainstay_core::state::session::{Ask, Tell};
use mainstay_core::state::{StateOutcome, StepWord};
use mainstay_module::forecast::Forecast;
use mainstay_module::host::View;
use mainstay_module::module::{About, Analysis, Analyze, Applied, Apply, Blobs, Module};
use mainstay_module::{Failure, registry};
use mainstay_node::state::SessionOptions;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::machine::{Machine, Talk, catalog, state};

/// A module that does not keep to looking.
struct Cheat;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Params {
    path: String,
}

impl Module for Cheat {
    type Params = Params;

    fn about(&self) -> About {
        About { name: "cheat", summary: "", identity: None, dry_run: "", outputs: &[], example: "" }
    }

    fn analyze(&self, params: &Params, _: &Analyze<'_>) -> Result<Analysis, Failure> {
        let written = fs::write(&params.path, "written by analyze");
        let removed = fs::remove_file(format!("{}.kept", params.path));
        match written.and(removed) {
            Ok(()) => Ok(Analysis::unchanged()),
            Err(error) => Err(Failure::new("cheat", error)),
        }
    }

    fn apply(&self, _: &Params, _: &Apply<'_>, _: &Analysis) -> Result<Applied, Failure> {
        Ok(Applied::default())
    }
}

#[test]
fn a_program_that_tells_a_fact_can_only_look() {
    let machine = Machine::new();
    let program = machine.facts().join("rack");
    let (touched, answer) = (machine.path("touched"), "echo x >$TMPDIR/x && cat $TMPDIR/x | sed 's/x/[7]/'");
    fs::write(&program, format!("#!/bin/sh\ntouch {touched} 2>/dev/null\n{answer}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let session = machine.session();
    let Tell::Hello { landlock: Some(landlock), facts, notes, .. } = &session.hello else {
        panic!("no greeting")
    };
    assert_eq!(facts.get("rack"), Some(&json!([7])), "{notes:?}");
    assert_eq!(machine.exists("touched"), *landlock == 0);
}

#[test]
fn nothing_in_the_analyze_phase_can_write_or_remove_a_file() {
    let machine = Machine::new();
    let options = machine.options();
    let options = SessionOptions { registry: registry::builtin().with(Cheat), ..options };
    let mut session = Talk::open(options);
    let Tell::Hello { landlock: Some(landlock), .. } = session.hello else { panic!("no greeting") };
    if landlock == 0 {
        eprintln!(
            "skipped: nothing_in_the_analyze_phase_can_write_or_remove_a_file: Landlock ABI {landlock}"
        );
        return;
    }
    let path = |name: &str| machine.path(name);
    fs::write(path("module.kept"), "kept").unwrap();
    fs::write(path("kept"), "kept").unwrap();
    session.ask(Ask::Catalog(Box::new(catalog([
        state("module", "cheat", json!({"path": path("module")})),
        state("guard", "cmd", json!({"run": "true"})).unless(format!("touch {}", path("guard"))),
        state("probe", "cmd", json!({"run": format!("rm {}", path("kept")), "probe": true})),
        state(
            "scribble",
            "cmd",
            json!({"run": "echo x > $TMPDIR/x && cat $TMPDIR/x 2>/dev/null", "probe": true}),
        ),
    ]))));
    let plan = session.plan(1);
    assert_eq!(
        plan.words(),
        [
            ("module", StepWord::Error, ""),
            // It could not say that all is well, so the command would run.
            ("guard", StepWord::Opaque, ""),
            ("probe", StepWord::Conditional, ""),
            ("scribble", StepWord::Conditional, ""),
        ],
        "{plan:?}"
    );
    let reason = plan.steps[0].reason.as_deref().unwrap();
    assert!(reason.contains("Permission denied"), "{reason}");
    session.ask(Ask::Catalog(Box::new(catalog([
        state("probe", "cmd", json!({"run": format!("rm {}", path("kept")), "probe": true})),
        state(
            "scribble",
            "cmd",
            json!({"run": "echo x > $TMPDIR/x && cat $TMPDIR/x 2>/dev/null", "probe": true}),
        ),
    ]))));
    let plan = session.plan(1);
    assert_eq!(plan.steps[0].step, StepWord::Error, "{plan:?}");
    for (name, there) in [("module", false), ("guard", false), ("module.kept", true), ("kept", true)] {
        assert_eq!(machine.exists(name), there, "{name}");
    }
    // Only the analyze phase was held to it.
    session.ask(Ask::Catalog(Box::new(catalog([state(
        "touch",
        "cmd",
        json!({"run": format!("touch {}", path("touched"))}),
    )]))));
    session.plan(1);
    assert_eq!(session.apply_all().outcomes(), [("touch", StateOutcome::Changed)]);
    assert!(machine.exists("touched"));
}

/// What the package manager's own programs say, which may want to write a cache or take a lock while they look.
#[test]
fn packages_look_the_same_to_one_who_is_held_to_looking() {
    let manager = std::process::Command::new("apt-cache").arg("--version").output();
    if !manager.is_ok_and(|ran| ran.status.success()) {
        eprintln!("skipped: packages_look_the_same_to_one_who_is_held_to_looking: there is no apt here");
        return;
    }
    let machine = Machine::new();
    // Few: some machines read all that there is for each question.
    let wanted = [
        json!({"name": "dpkg"}),
        json!({"name": "some", "names": ["bash", "hello"]}),
        json!({"name": "there-is-no-such-package"}),
    ];
    let pkg = registry::builtin().get("pkg").cloned().unwrap();
    let (view, nothing) = (View::new(None), Forecast::default());
    let blobs = BTreeMap::new();
    let free: Vec<_> = wanted
        .iter()
        .map(|params| {
            let params = pkg.read(params.as_object().unwrap()).unwrap();
            let state = "p".into();
            let cx = Analyze { state: &state, view: &view, forecast: &nothing, blobs: Blobs(&blobs) };
            match pkg.analyze(&params, &cx) {
                Ok(analysis) => (analysis.step, analysis.reason, analysis.changes),
                Err(failure) => (StepWord::Error, Some(failure.to_string()), Vec::new()),
            }
        })
        .collect();
    let mut session = machine.session();
    for (params, free) in wanted.iter().zip(free) {
        session.ask(Ask::Catalog(Box::new(catalog([state("p", "pkg", params.clone())]))));
        let step = session.plan(1).steps[0].clone();
        assert_eq!((step.step, step.reason, step.changes), free, "{params}");
        if params == &wanted[0] {
            assert_eq!(step.step, StepWord::Unchanged);
        }
    }
}

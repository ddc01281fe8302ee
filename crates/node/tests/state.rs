//! The state engine over real modules, as whoever drives it meets it: a session, a catalog, plans and reports.

#[path = "state/ahead.rs"]
mod ahead;
#[path = "state/bringing.rs"]
mod bringing;
#[path = "state/extensions.rs"]
mod extensions;
#[path = "state/glances.rs"]
mod glances;
#[path = "state/looking.rs"]
mod looking;
#[path = "state/machine.rs"]
mod machine;
#[path = "state/merging.rs"]
mod merging;
#[path = "state/one_by_one.rs"]
mod one_by_one;
#[path = "state/other_user.rs"]
mod other_user;
#[path = "state/secrets.rs"]
mod secrets;
#[path = "state/written.rs"]
mod written;

use mainstay_core::state::catalog::{OrderMode, RequisiteKind, Retry};
use mainstay_core::state::plan::Datum;
use mainstay_core::state::session::{Approval, Ask, Tell};
use mainstay_core::state::{StateOutcome, StepWord};
use serde_json::json;
use std::fs;
use std::time::Duration;

use machine::{Machine, Made, catalog, state};

#[test]
fn what_was_planned_is_what_is_done_and_then_nothing_is_left() {
    let machine = Machine::new();
    let (app, conf) = (machine.path("app"), machine.path("app/conf"));
    let mut catalog = catalog([
        state("dir", "directory", json!({"path": app, "mode": "0750"})),
        state("conf", "file", json!({"path": conf, "content": "port = {{ port }}\n", "mode": "0640"})),
        state(
            "note",
            "cmd",
            json!({"run": format!("echo {{{{ states['conf'].size }}}} > {}", machine.path("note"))}),
        )
        .reads(1)
        .on(RequisiteKind::Onchanges, &[1]),
    ]);
    catalog.scopes[0].insert("port".into(), json!(8080));
    let mut session = machine.session();
    session.ask(Ask::Catalog(Box::new(catalog.clone())));
    let plan = session.plan(1);
    assert_eq!(
        plan.words(),
        [
            ("dir", StepWord::Change, "exists,mode"),
            ("conf", StepWord::Change, "exists,content,mode"),
            ("note", StepWord::Conditional, "run,…"),
        ]
    );
    assert!(!machine.exists("app"), "planning changes nothing");
    assert!(!plan.stable);

    let done = session.apply(&plan);
    assert_eq!(
        done.outcomes(),
        [("dir", StateOutcome::Changed), ("conf", StateOutcome::Changed), ("note", StateOutcome::Changed)],
        "{done:?}"
    );
    assert_eq!((done.counts.changed, done.drift.as_deref()), (3, None));
    assert_eq!(machine.read("app/conf"), "port = 8080\n");
    assert_eq!(machine.read("note"), "12\n");

    let again = session.plan(2);
    assert!(again.stable && again.steps.iter().all(|step| step.step == StepWord::Unchanged), "{again:?}");
    let done = session.apply(&again);
    assert_eq!((done.counts.changed, done.counts.unchanged, done.counts.skipped), (0, 2, 1));
}

#[test]
fn a_machine_that_is_not_as_it_was_approved_is_left_alone() {
    let machine = Machine::new();
    let file = |id: &str| state(id, "file", json!({"path": machine.path(id), "content": "new\n"}));
    for name in ["a", "b", "c"] {
        fs::write(machine.path(name), "old\n").unwrap();
    }
    let mut session = machine.session();
    session.ask(Ask::Catalog(Box::new(catalog([file("a"), file("b"), file("c")]))));
    let plan = session.plan(1);
    fs::write(machine.path("b"), "somebody's own\n").unwrap();
    let done = session.apply(&plan);
    assert_eq!(
        done.outcomes(),
        [("a", StateOutcome::Changed), ("b", StateOutcome::Blocked), ("c", StateOutcome::Blocked)]
    );
    let drift = done.drift.clone().unwrap();
    assert!(drift.starts_with("b: content was "), "{drift}");
    assert_eq!(
        (machine.read("a"), machine.read("b"), machine.read("c")),
        ("new\n".into(), "somebody's own\n".into(), "old\n".into())
    );

    // What is left is planned, shown and approved anew.
    let plan = session.plan(2);
    let done = session.apply(&plan);
    assert_eq!((done.counts.changed, done.drift), (2, None));
    assert_eq!(machine.read("b"), "new\n");
}

#[test]
fn only_the_last_plan_can_be_approved_and_only_once() {
    let machine = Machine::new();
    let mut session = machine.session();
    let digest = || Approval::Plan { digest: "0".repeat(64) };
    session.ask(Ask::Apply { cycle: 1, approval: digest() });
    assert_eq!(session.problem(), "there is no catalog to apply");
    session.ask(Ask::Catalog(Box::new(catalog([state("a", "cmd", json!({"run": "true"}))]))));
    session.ask(Ask::Apply { cycle: 1, approval: digest() });
    assert_eq!(session.problem(), "there is no plan that could have been approved: analyse first");
    let plan = session.plan(1);
    session.ask(Ask::Apply { cycle: 1, approval: digest() });
    assert!(session.problem().starts_with("the plan 000000000000 was approved, but"), "{plan:?}");
    session.ask(Ask::Apply { cycle: 1, approval: Approval::Plan { digest: plan.digest() } });
    assert_eq!(session.problem(), "there is no plan that could have been approved: analyse first");
}

#[test]
fn a_command_runs_once_in_a_run() {
    let machine = Machine::new();
    let run = format!("echo x >> {}", machine.path("log"));
    let mut session = machine.session();
    session.ask(Ask::Catalog(Box::new(catalog([
        state("once", "cmd", json!({"run": run})),
        state(
            "reader",
            "file",
            json!({"path": machine.path("out"), "content": "{{ states['once'].exit_code }}!"}),
        )
        .reads(0),
    ]))));
    for cycle in 1..=3 {
        let plan = session.plan(cycle);
        assert_eq!(plan.stable, cycle > 1, "{plan:?}");
        let done = session.apply(&plan);
        assert_eq!(done.drift, None);
    }
    assert_eq!(machine.read("log"), "x\n");
    assert_eq!(machine.read("out"), "0!");
}

#[test]
fn nobody_is_planned_an_error_for_what_an_earlier_change_makes_true() {
    let machine = Machine::new();
    let mut session = machine.session();
    session.ask(Ask::Catalog(Box::new(catalog([
        state("tool", "cmd", json!({"run": format!("mkdir {}", machine.path("d"))})),
        state("probe", "cmd", json!({"run": format!("ls -d {}", machine.path("d")), "probe": true}))
            .on(RequisiteKind::Require, &[0]),
        state(
            "inside",
            "file",
            json!({"path": machine.path("d/f"), "content": "{{ states['probe'].stdout }}"}),
        )
        .reads(1),
        state("guarded", "file", json!({"path": machine.path("g"), "content": "g"}))
            .on(RequisiteKind::Require, &[0])
            .unless(format!("test -d {}", machine.path("d"))),
    ]))));
    let plan = session.plan(1);
    assert_eq!(
        plan.words(),
        [
            ("tool", StepWord::Opaque, ""),
            ("probe", StepWord::Conditional, ""),
            ("inside", StepWord::Conditional, "content,…"),
            ("guarded", StepWord::Conditional, "exists,content"),
        ],
        "{plan:?}"
    );
    let content = plan.steps[2].changes.iter().find(|change| change.field == "content").unwrap();
    assert_eq!(content.after, Datum::Unknown { until: "probe".into() });
    let done = session.apply(&plan);
    assert_eq!(
        done.outcomes(),
        [
            ("tool", StateOutcome::Changed),
            ("probe", StateOutcome::Unchanged),
            ("inside", StateOutcome::Changed),
            ("guarded", StateOutcome::Skipped)
        ],
        "{done:?}"
    );
    assert_eq!(machine.read("d/f"), machine.path("d"));
    assert!(session.plan(2).stable);
}

#[test]
fn retries_and_checks() {
    let machine = Machine::new();
    let count = machine.path("count");
    let counting = format!("echo x >> {count}; wc -l < {count}");
    let retry = |until: Option<&str>, attempts| Retry {
        attempts,
        interval: Duration::from_millis(1),
        splay: Duration::from_millis(1),
        until: until.map(str::to_owned),
    };
    let mut session = machine.session();
    session.ask(Ask::Catalog(Box::new(catalog([
        state("third", "cmd", json!({"run": counting})).retry(retry(Some("stdout | int >= 3"), 5)),
        state("never", "cmd", json!({"run": "echo no >&2; exit 4"})).retry(retry(None, 2)),
        state("checked", "file", json!({"path": machine.path("f"), "content": "f"})).check("exit 5"),
        state("after", "cmd", json!({"run": "true"})).on(RequisiteKind::Require, &[2]),
        state("onfail", "cmd", json!({"run": "true"})).on(RequisiteKind::Onfail, &[2]),
    ]))));
    let done = session.apply_all();
    let reasons: Vec<_> =
        done.reports.iter().map(|report| (report.outcome, report.reason.as_deref().unwrap_or(""))).collect();
    assert_eq!(
        reasons,
        [
            (StateOutcome::Changed, ""),
            (StateOutcome::Failed, "run /bin/sh -c 'echo no >&2; exit 4': exit status 4: no (2 attempts)"),
            (StateOutcome::Failed, "run /bin/sh -c 'exit 5': check_cmd: exit status 5"),
            (StateOutcome::Blocked, "checked failed (require)"),
            (StateOutcome::Changed, ""),
        ]
    );
    assert_eq!(machine.read("count"), "x\nx\nx\n");
}

#[test]
fn a_check_has_the_last_word_on_every_way_to_changed() {
    let machine = Machine::new();
    let at_second = |name: &str| {
        let count = machine.path(name);
        format!("echo x >> {count}; test $(wc -l < {count}) -ge 2")
    };
    let patient = || Retry { attempts: 3, interval: Duration::ZERO, splay: Duration::ZERO, until: None };
    let file = |id: &str| state(id, "file", json!({"path": machine.path(id), "content": id}));
    let probe = |id: &str| state(id, "cmd", json!({"run": "true", "probe": true}));
    let mut session = machine.session();
    session.ask(Ask::Catalog(Box::new(catalog([
        file("conf"),
        // What the first attempt left is as declared; it is not well for that.
        file("in vain").retry(patient()).check("exit 5"),
        state("calls", "cmd", json!({"run": "true"})).on(RequisiteKind::Onchanges, &[1]),
        file("at last").retry(patient()).check(&at_second("attempts")),
        probe("refreshed").on(RequisiteKind::Watch, &[0]).check("exit 6"),
        probe("comes up").on(RequisiteKind::Watch, &[0]).retry(patient()).check(&at_second("looks")),
        probe("quiet").check("exit 8"),
        probe("hears").on(RequisiteKind::Listen, &[0]).check("exit 7"),
    ]))));
    let done = session.apply_all();
    let ends: Vec<_> = done
        .reports
        .iter()
        .map(|report| (report.state.as_str(), report.outcome, report.reason.as_deref().unwrap_or("")))
        .collect();
    assert_eq!(
        ends,
        [
            ("conf", StateOutcome::Changed, ""),
            (
                "in vain",
                StateOutcome::Failed,
                "run /bin/sh -c 'exit 5': check_cmd: exit status 5 (3 attempts)"
            ),
            ("calls", StateOutcome::Blocked, "in vain failed (onchanges)"),
            ("at last", StateOutcome::Changed, ""),
            ("refreshed", StateOutcome::Failed, "run /bin/sh -c 'exit 6': check_cmd: exit status 6"),
            ("comes up", StateOutcome::Changed, ""),
            ("quiet", StateOutcome::Unchanged, ""),
            ("hears", StateOutcome::Unchanged, ""),
            ("hears", StateOutcome::Failed, "run /bin/sh -c 'exit 7': check_cmd: exit status 7"),
        ]
    );
    assert_eq!((machine.read("attempts"), machine.read("looks")), ("x\nx\n".into(), "x\nx\n".into()));
}

#[test]
fn failhard_begins_nothing_more_and_the_plan_says_so_where_it_is_known() {
    for of_the_run in [true, false] {
        let machine = Machine::new();
        fs::create_dir(machine.path("d")).unwrap();
        let file =
            |id: &str, name: &str| state(id, "file", json!({"path": machine.path(name), "content": id}));
        let fails = |id: &str, module: &str, params: serde_json::Value| {
            state(id, module, params).set(|options, _| options.failhard = !of_the_run)
        };
        let with = |failing: Made| {
            let mut catalog = catalog([
                file("first", "first"),
                failing,
                file("next", "next"),
                file("rescue", "rescue").on(RequisiteKind::Onfail, &[1]),
                file("idle", "idle").on(RequisiteKind::Onfail, &[0]),
                file("after", "after").on(RequisiteKind::Onchanges, &[3]),
            ]);
            catalog.failhard = of_the_run;
            Ask::Catalog(Box::new(catalog))
        };
        let outcomes = [
            ("first", StateOutcome::Unchanged),
            ("bad", StateOutcome::Failed),
            ("next", StateOutcome::Blocked),
            ("rescue", StateOutcome::Changed),
            ("idle", StateOutcome::Blocked),
            ("after", StateOutcome::Blocked),
        ];
        let mut session = machine.session();
        fs::write(machine.path("first"), "first").unwrap();
        // That a directory stands there is seen ahead of time.
        session.ask(with(fails("bad", "file", json!({"path": machine.path("d"), "content": ""}))));
        let plan = session.plan(1);
        let steps: Vec<_> = plan.steps.iter().map(|step| (step.step, step.reason.as_deref())).collect();
        let blocked = (StepWord::Conditional, Some("blocked: bad cannot be analysed (failhard)"));
        assert_eq!(steps[1].0, StepWord::Error);
        assert_eq!((steps[2], steps[5]), (blocked, blocked), "{plan:?}");
        assert_eq!(steps[3], (StepWord::Conditional, Some("only if it fails: bad (onfail)")));
        assert_eq!(plan.steps[2].changes.len(), 2, "what is approved is what would be done");
        assert!(plan.stable, "another cycle would do no more");
        let done = session.apply(&plan);
        assert_eq!((done.outcomes(), done.drift.as_deref()), (outcomes.to_vec(), None));
        assert_eq!(done.reports[2].reason.as_deref(), Some("failhard: bad failed"));
        assert!(!machine.exists("next") && !machine.exists("after"));

        // That a command fails is not.
        fs::remove_file(machine.path("rescue")).unwrap();
        session.ask(with(fails("bad", "cmd", json!({"run": "exit 3"}))));
        let plan = session.plan(1);
        assert_eq!(plan.steps[2].step, StepWord::Change);
        let done = session.apply(&plan);
        assert_eq!(done.outcomes(), outcomes);
    }
}

#[test]
fn many_at_once_where_the_mode_says_so() {
    let machine = Machine::new();
    // Each waits until both are there: one by one they would wait for ever.
    let meet = |me: &str, other: &str| {
        let (me, other) = (machine.path(me), machine.path(other));
        json!({"run": format!("touch {me}; while ! test -e {other}; do sleep 0.01; done"), "timeout": "20s"})
    };
    let mut catalog = catalog([state("a", "cmd", meet("a", "b")), state("b", "cmd", meet("b", "a"))]);
    catalog.order = OrderMode::Justdoit;
    let mut session = machine.session();
    session.ask(Ask::Catalog(Box::new(catalog)));
    let done = session.apply_all();
    assert_eq!(done.counts.changed, 2, "{done:?}");
}

#[test]
fn one_apply_at_a_time_on_a_machine() {
    let machine = Machine::new();
    let (begun, go) = (machine.path("begun"), machine.path("go"));
    let slow =
        json!({"run": format!("touch {begun}; while ! test -e {go}; do sleep 0.01; done"), "timeout": "20s"});
    let mut first = machine.session();
    first.ask(Ask::Catalog(Box::new(catalog([state("slow", "cmd", slow)]))));
    first.ask(Ask::Apply { cycle: 1, approval: Approval::All });
    machine.wait_for("begun");
    let mut second = machine.session();
    second.ask(Ask::Catalog(Box::new(catalog([state("other", "cmd", json!({"run": "true"}))]))));
    second.ask(Ask::Apply { cycle: 1, approval: Approval::All });
    let problem = second.problem();
    assert!(problem.starts_with("another apply is under way on this machine: process "), "{problem}");
    fs::write(&go, "").unwrap();
    assert_eq!(first.applied().counts.changed, 1);
    second.ask(Ask::Apply { cycle: 1, approval: Approval::All });
    assert_eq!(second.applied().counts.changed, 1);
}

#[test]
fn a_cancel_ends_what_is_running_by_its_own_end_and_begins_nothing_else() {
    let machine = Machine::new();
    let (begun, go) = (machine.path("begun"), machine.path("go"));
    let slow =
        json!({"run": format!("touch {begun}; while ! test -e {go}; do sleep 0.01; done"), "timeout": "20s"});
    let mut session = machine.session();
    session.ask(Ask::Catalog(Box::new(catalog([
        state("slow", "cmd", slow),
        state("next", "cmd", json!({"run": "true"})),
    ]))));
    session.ask(Ask::Apply { cycle: 1, approval: Approval::All });
    machine.wait_for("begun");
    session.ask(Ask::Cancel);
    // The cancel is heard at once; what runs is left to end.
    std::thread::sleep(Duration::from_millis(50));
    fs::write(&go, "").unwrap();
    let done = session.applied();
    assert_eq!(done.outcomes(), [("slow", StateOutcome::Changed), ("next", StateOutcome::Blocked)]);
    assert_eq!(done.reports[1].reason.as_deref(), Some("it was called off"));
}

#[test]
fn a_session_that_is_left_ends_what_runs() {
    let machine = Machine::new();
    let slow = json!({"run": format!("touch {}; exec sleep 600", machine.path("begun"))});
    let mut session = machine.session();
    session.ask(Ask::Catalog(Box::new(catalog([state("slow", "cmd", slow)]))));
    session.ask(Ask::Apply { cycle: 1, approval: Approval::All });
    machine.wait_for("begun");
    session.leave();
}

#[test]
fn the_greeting_tells_facts_and_what_the_kernel_offers() {
    let machine = Machine::new();
    fs::write(machine.facts().join("rack.json"), "{\"row\": 7}").unwrap();
    fs::write(machine.facts().join("broken.json"), "{").unwrap();
    let session = machine.session();
    let Tell::Hello { facts, notes, version, .. } = &session.hello else { panic!("no greeting") };
    assert_eq!((facts["rack"]["row"].as_i64(), version.as_str()), (Some(7), "1.2.3"));
    assert!(notes.len() == 1 && notes[0].contains("broken.json"), "{notes:?}");
}

#[test]
fn a_plan_outlives_its_session() {
    let machine = Machine::new();
    let catalog = catalog([state("f", "file", json!({"path": machine.path("f"), "content": "f"}))]);
    let plan = {
        let mut session = machine.session();
        session.ask(Ask::Catalog(Box::new(catalog.clone())));
        session.plan(1)
    };
    let mut session = machine.session();
    session.give(&plan);
    assert_eq!(session.problem(), "there is no catalog that the plan could be of");
    session.ask(Ask::Catalog(Box::new(catalog)));
    let mut others = plan.0.clone();
    others.head.machine = "another".into();
    session.give(&others);
    assert_eq!(session.problem(), "the plan is of another machine: analyse again");
    session.give(&plan);
    assert_eq!(session.apply(&plan).outcomes(), [("f", StateOutcome::Changed)]);
}

#[test]
fn a_prereq_runs_before_what_would_change() {
    let machine = Machine::new();
    let log = machine.path("log");
    let say = |word: &str| json!({"run": format!("echo {word} >> {log}")});
    let mut session = machine.session();
    let states = || {
        [
            state("stop", "cmd", say("stop")).on(RequisiteKind::Prereq, &[1]),
            state("conf", "file", json!({"path": machine.path("conf"), "content": "c"})),
            state("start", "cmd", say("start")).on(RequisiteKind::Onchanges, &[1]),
        ]
    };
    session.ask(Ask::Catalog(Box::new(catalog(states()))));
    let plan = session.plan(1);
    assert_eq!(
        plan.words(),
        [
            ("stop", StepWord::Opaque, ""),
            ("conf", StepWord::Change, "exists,content"),
            ("start", StepWord::Conditional, ""),
        ]
    );
    assert_eq!(session.apply(&plan).counts.changed, 3);
    assert_eq!(machine.read("log"), "stop\nstart\n");
    session.ask(Ask::Catalog(Box::new(catalog(states()))));
    let plan = session.plan(1);
    assert!(plan.stable);
    assert_eq!(session.apply(&plan).counts.skipped, 2);
    assert_eq!(machine.read("log"), "stop\nstart\n");
}

#[test]
fn a_plan_says_what_comes_only_because_it_is_owed() {
    let machine = Machine::new();
    let conf = state("conf", "file", json!({"path": machine.path("conf"), "content": "c"}));
    let done = machine.path("done");
    let job =
        state("job", "cmd", json!({"run": format!("test -e {done}")})).on(RequisiteKind::Onchanges, &[0]);
    let mut session = machine.session();
    session.ask(Ask::Catalog(Box::new(catalog([conf, job]))));
    let reason = |planned: &machine::Planned| planned.steps[1].reason.clone();
    assert_eq!(session.apply_all().counts.failed, 1);
    assert_eq!(reason(&session.plan(1)).as_deref(), Some("owed from an earlier run; runs a command"));
    std::fs::write(&done, "").unwrap();
    session.apply_all();
    assert_eq!(reason(&session.plan(2)).as_deref(), Some("nothing changes in conf (onchanges)"));
}

#[test]
fn what_is_owed_for_a_state_that_is_gone_is_listed_until_it_is_dropped() {
    let machine = Machine::new();
    let conf = || state("conf", "file", json!({"path": machine.path("conf"), "content": "c"}));
    let job = state("job", "cmd", json!({"run": "exit 1"})).on(RequisiteKind::Onchanges, &[0]);
    let mut session = machine.session();
    session.ask(Ask::Catalog(Box::new(catalog([conf(), job]))));
    assert_eq!(session.apply_all().counts.failed, 1);
    let gone = || Ask::Catalog(Box::new(catalog([conf()])));
    session.ask(gone());
    assert_eq!(session.plan(1).orphans, ["job (cmd): trigger because of conf"]);
    session.apply_all();
    assert_eq!(session.plan(2).orphans.len(), 1);
    session.ask(Ask::DropOrphans);
    assert_eq!(session.plan(3).orphans, [""; 0]);
}

#[test]
fn a_plan_says_why_each_step_stands_where_it_does() {
    let machine = Machine::new();
    let mut session = machine.session();
    session.ask(Ask::Catalog(Box::new(catalog([
        state("a", "file", json!({"path": machine.path("d/f"), "content": "c"})),
        state("d", "directory", json!({"path": machine.path("d")})),
    ]))));
    session.ask(Ask::Analyze { cycle: 1, explain: true });
    let plan = session.planned();
    assert_eq!(plan.steps[0].state.as_str(), "d");
    let reason = plan.steps[1].reason.as_deref().unwrap();
    assert!(reason.contains("path:"), "{reason}");
}

#[test]
fn how_a_command_and_a_skipped_state_ended_is_always_defined() {
    let machine = Machine::new();
    let mut session = machine.session();
    session.ask(Ask::Catalog(Box::new(catalog([
        state("ended", "cmd", json!({"run": "true", "failed_when": "signal == 9 or truncated"})),
        state("skipped", "cmd", json!({"run": "true"})).unless("true".into()),
        state("after", "cmd", json!({"run": "true"}))
            .reads(1)
            .set(|_, guards| guards.when = Some("states['skipped'].outcome == 'skipped'".into())),
    ]))));
    let done = session.apply_all();
    assert_eq!(
        done.outcomes(),
        [
            ("ended", StateOutcome::Changed),
            ("skipped", StateOutcome::Skipped),
            ("after", StateOutcome::Changed)
        ],
        "{done:?}"
    );
    assert_eq!(done.reports[0].outputs["signal"], json!(null));
}

#[test]
fn a_command_that_is_no_change_is_none_in_whatever_order_it_hears_of_one() {
    for order in [OrderMode::Ansible, OrderMode::Justdoit, OrderMode::Genius] {
        for first in [0, 1] {
            let machine = Machine::new();
            let conf = state("conf", "file", json!({"path": machine.path("conf"), "content": "x"}));
            let run = format!("echo x >> {}", machine.path("log"));
            let quiet = state("quiet", "cmd", json!({"run": run, "changed": false}));
            let after =
                |at: usize| state("after", "cmd", json!({"run": "true"})).on(RequisiteKind::Onchanges, &[at]);
            let mut catalog = match first {
                0 => catalog([conf, quiet.on(RequisiteKind::Listen, &[0]), after(1)]),
                _ => catalog([quiet.on(RequisiteKind::Listen, &[1]), conf, after(0)]),
            };
            catalog.order = order;
            let mut session = machine.session();
            session.ask(Ask::Catalog(Box::new(catalog)));
            let plan = session.plan(1);
            let done = session.apply(&plan);
            let counts = (done.counts.changed, done.counts.unchanged, done.counts.skipped);
            assert_eq!(counts, (1, 1, 1), "{order:?} {first} {done:?}");
            let again = session.plan(2);
            assert!(again.stable, "{order:?} {first} {again:?}");
        }
    }
}

#[test]
fn what_a_guard_keeps_from_being_paid_is_settled_and_said() {
    let machine = Machine::new();
    let conf = state("conf", "file", json!({"path": machine.path("conf"), "content": "c"}));
    let on = |id: &str, kind: RequisiteKind| {
        state(id, "cmd", json!({"run": format!("test -e {}", machine.path("fixed"))}))
            .unless(format!("test -e {}", machine.path("guard")))
            .on(kind, &[0])
    };
    let file = state("file", "file", json!({"path": machine.path("no/file"), "content": "f"}));
    let mut session = machine.session();
    session.ask(Ask::Catalog(Box::new(catalog([
        conf,
        on("job", RequisiteKind::Onchanges),
        on("watches", RequisiteKind::Watch),
        on("listens", RequisiteKind::Listen),
        file.on(RequisiteKind::Onchanges, &[0]),
    ]))));
    assert_eq!(session.apply_all().counts.failed, 4);
    // Meanwhile somebody else saw to all of it.
    fs::write(machine.path("guard"), "").unwrap();
    fs::create_dir(machine.path("no")).unwrap();
    fs::write(machine.path("no/file"), "f").unwrap();
    let plan = session.plan(1);
    let said = |step: &mainstay_core::state::plan::PlanStep| {
        step.reason.as_deref().is_some_and(|reason| reason.starts_with("owed from an earlier run"))
    };
    let owed: Vec<&str> =
        plan.steps.iter().filter(|step| said(step)).map(|step| step.state.as_str()).collect();
    assert_eq!((owed, plan.stable), (vec!["job", "watches", "listens", "file"], false), "{plan:?}");
    let done = session.apply(&plan);
    assert_eq!((done.counts.skipped, done.counts.unchanged, done.drift), (3, 2, None));
    let plan = session.plan(2);
    assert!(plan.stable && plan.steps.iter().all(|step| step.step == StepWord::Unchanged), "{plan:?}");
}

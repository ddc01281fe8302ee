//! Killed at every place where the books are written, in turn: what was owed is paid by the next run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mainstay_core::state::catalog::{Catalog, Declared, OrderMode, RequisiteKind, Requisites};
use mainstay_core::state::plan::{Plan, StateCounts};
use mainstay_core::state::session::{Approval, Ask, Tell};
use mainstay_core::state::walk::{Debt, DebtKind};
use mainstay_core::state::{StateIndex, Values};
use mainstay_module::Failure;
use mainstay_module::module::{About, Analysis, Analyze, Applied, Apply, Module, Refreshed};
use mainstay_module::registry;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::debts::{Debts, Log};
use super::failpoint;
use super::lock::ApplyLock;
use super::{Session, SessionOptions};

const ROOT: &str = "MAINSTAY_CRASH_ROOT";
const KILL_AT: &str = "MAINSTAY_CRASH_AT";

/// More places than one run passes.
const PLACES: i64 = 200;

/// Is always as declared, and rings when it is refreshed.
struct Bell;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BellParams {
    log: PathBuf,
}

impl Module for Bell {
    type Params = BellParams;

    fn about(&self) -> About {
        About { name: "bell", summary: "", identity: None, dry_run: "", outputs: &[], example: "" }
    }

    fn analyze(&self, _: &BellParams, _: &Analyze<'_>) -> Result<Analysis, Failure> {
        Ok(Analysis::unchanged())
    }

    fn apply(&self, _: &BellParams, _: &Apply<'_>, _: &Analysis) -> Result<Applied, Failure> {
        Ok(Applied::default())
    }

    fn refreshes(&self) -> bool {
        true
    }

    fn refresh(
        &self,
        params: &BellParams,
        _: &Apply<'_>,
        _: Option<&Analysis>,
    ) -> Result<Refreshed, Failure> {
        fs::write(&params.log, "rang").map_err(|error| Failure::new("ring", error))?;
        Ok(Refreshed::Done(Applied::default()))
    }
}

fn catalog(root: &Path) -> Catalog {
    let at = |name: &str| root.join(name).to_str().unwrap().to_owned();
    let state = |id: &str, module: &str, params: Value, on: Option<(RequisiteKind, StateIndex)>| Declared {
        id: id.into(),
        module: module.to_owned(),
        params: params.as_object().unwrap().clone(),
        requisites: Requisites {
            of: on.map(|(kind, target)| (kind, vec![target])).into_iter().collect(),
            reads: Vec::new(),
        },
        guards: Default::default(),
        options: Default::default(),
        scope: 0,
        locals: Values::new(),
        aliases: BTreeMap::new(),
        at: Default::default(),
    };
    Catalog {
        name: "site".into(),
        order: OrderMode::Ansible,
        failhard: false,
        files: vec!["site.yaml".into()],
        scopes: vec![Values::new()],
        secrets: Values::new(),
        left_out: BTreeMap::new(),
        states: vec![
            state("conf", "file", json!({"path": at("conf"), "content": "new"}), None),
            state("watches", "bell", json!({"log": at("refresh")}), Some((RequisiteKind::Watch, 0))),
            state(
                "triggered",
                "cmd",
                json!({"run": format!("echo x > {}", at("trigger"))}),
                Some((RequisiteKind::Onchanges, 0)),
            ),
            state("listens", "bell", json!({"log": at("listen")}), Some((RequisiteKind::Listen, 0))),
            // A chain: it owes for what is itself only owed.
            state("chained", "bell", json!({"log": at("chain")}), Some((RequisiteKind::Watch, 1))),
        ],
        blobs: BTreeMap::new(),
        extensions: BTreeMap::new(),
    }
}

fn data(root: &Path) -> PathBuf {
    root.join("data")
}

fn session(root: &Path) -> Session {
    let options = SessionOptions {
        data: data(root),
        facts_directory: root.join("facts"),
        ..SessionOptions::new(registry::builtin().with(Bell), "1")
    };
    let session = Session::open(options).unwrap();
    session.asks.blocking_send(Ask::Catalog(Box::new(catalog(root)))).unwrap();
    session
}

fn plan(session: &mut Session) -> Plan {
    session.asks.blocking_send(Ask::Analyze { cycle: 1, explain: false }).unwrap();
    let mut steps = Vec::new();
    loop {
        match session.tells.blocking_recv().unwrap() {
            Tell::Steps(more) => steps.extend(more),
            Tell::Planned(head) => return Plan { head, steps },
            Tell::Problem { message } => panic!("{message}"),
            _ => {}
        }
    }
}

fn apply(session: &mut Session) -> StateCounts {
    session.asks.blocking_send(Ask::Apply { cycle: 1, approval: Approval::All }).unwrap();
    loop {
        match session.tells.blocking_recv().unwrap() {
            Tell::Applied { counts, .. } => return counts,
            Tell::Problem { message } => panic!("{message}"),
            _ => {}
        }
    }
}

/// A log that is due to be written anew, so that a crash in the middle of that is tried too.
fn long_log(root: &Path) {
    let directory = data(root).join("state");
    let held = ApplyLock::take(&directory, "test").unwrap();
    let mut log = Log::open(&directory, &held).unwrap();
    let debt = |number: i32| Debt {
        state: format!("state-{number}").as_str().into(),
        module: "service".into(),
        kind: DebtKind::Refresh,
        because: "conf".into(),
    };
    let debts: Vec<Debt> = (0..150).map(debt).collect();
    log.owe("another", &debts).unwrap();
    log.pay("another", &debts).unwrap();
}

/// Not a test: the process that is killed.
#[test]
#[ignore = "run by the test below"]
fn the_one_who_is_killed() {
    let (Ok(root), Ok(at)) = (std::env::var(ROOT), std::env::var(KILL_AT)) else { return };
    let mut session = session(Path::new(&root));
    failpoint::kill_at(at.parse().unwrap());
    apply(&mut session);
}

#[test]
fn whatever_is_owed_is_paid_after_a_kill_at_any_write() {
    let mut owed_seen = 0;
    for at in 1..PLACES {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        fs::write(root.join("conf"), "old").unwrap();
        long_log(root);
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "state::crash::the_one_who_is_killed", "--ignored"])
            .env(ROOT, root)
            .env(KILL_AT, at.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        let acted = ["refresh", "trigger", "listen", "chain"].map(|name| root.join(name).exists());
        let changed = fs::read_to_string(root.join("conf")).unwrap() == "new";
        assert!(changed || acted == [false; 4], "{at}: acted before the change");
        if child.success() {
            assert_eq!(acted, [true; 4], "{at}");
            assert!(at > 20, "only {} places were passed", at - 1);
            assert!(owed_seen > 5, "only {owed_seen} times something was owed");
            return;
        }

        let mut session = session(root);
        let plan = plan(&mut session);
        let step = |id: &str| plan.steps.iter().find(|step| step.state.as_str() == id).unwrap();
        if changed && !acted[0] {
            owed_seen += 1;
            assert_eq!(step("watches").refresh.as_deref(), Some(&[][..]), "{at}: it is not listed as owed");
        }
        if changed && !acted[1] {
            assert!(step("triggered").step.is_pending(), "{at}: {plan:?}");
        }
        if changed && !acted[2] {
            assert!(step("listens").refresh.is_some(), "{at}: {plan:?}");
        }
        apply(&mut session);
        session.close();
        assert_eq!(fs::read_to_string(root.join("conf")).unwrap(), "new", "{at}");
        for name in ["refresh", "trigger", "listen", "chain"] {
            assert!(root.join(name).exists(), "{at}: {name} was owed and never came");
        }
        let debts = Debts::read(&data(root).join("state")).unwrap();
        assert_eq!(debts.of("site").collect::<Vec<_>>(), Vec::<&Debt>::new(), "{at}: it is still owed");
    }
    panic!("a run passes more than {PLACES} places");
}

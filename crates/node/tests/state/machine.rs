//! A directory that stands for a machine, sessions on it, and catalogs made by hand.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Deref;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mainstay_core::state::catalog::{
    Catalog, Declared, Guards, Options, OrderMode, RequisiteKind, Requisites, Retry,
};
use mainstay_core::state::plan::{Plan, StateCounts, StateReport};
use mainstay_core::state::session::{Approval, Ask, Tell};
use mainstay_core::state::{StateOutcome, StepWord, Values};
use mainstay_module::registry;
use mainstay_node::state::{Session, SessionOptions};
use serde_json::Value;

/// Nothing here takes longer, on the slowest machine.
const LONG: Duration = Duration::from_secs(60);

pub struct Machine {
    root: tempfile::TempDir,
}

impl Machine {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("host")).unwrap();
        fs::create_dir(root.path().join("facts")).unwrap();
        Self { root }
    }

    pub fn path(&self, name: &str) -> String {
        self.root.path().join("host").join(name).to_str().unwrap().to_owned()
    }

    pub fn facts(&self) -> PathBuf {
        self.root.path().join("facts")
    }

    pub fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn exists(&self, name: &str) -> bool {
        fs::symlink_metadata(self.path(name)).is_ok()
    }

    pub fn wait_for(&self, name: &str) {
        let begun = Instant::now();
        while !self.exists(name) {
            assert!(begun.elapsed() < LONG, "{name} never came");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn options(&self) -> SessionOptions {
        SessionOptions {
            data: self.data(),
            facts_directory: self.facts(),
            ..SessionOptions::new(registry::builtin(), "1.2.3")
        }
    }

    pub fn session(&self) -> Talk {
        Talk::open(self.options())
    }
}

pub struct Talk {
    session: Session,
    pub hello: Tell,
    /// All that was told, as it would travel.
    pub heard: String,
}

impl Talk {
    pub fn open(options: SessionOptions) -> Self {
        let mut session = Session::open(options).unwrap();
        let hello = session.tells.blocking_recv().unwrap();
        Self { session, hello, heard: String::new() }
    }

    pub fn ask(&mut self, ask: Ask) {
        self.session.asks.blocking_send(ask).unwrap();
    }

    pub fn tell(&mut self) -> Tell {
        let tell = self.session.tells.blocking_recv().expect("the session goes on");
        self.heard += &serde_json::to_string(&tell).unwrap();
        self.heard.push('\n');
        tell
    }

    pub fn problem(&mut self) -> String {
        loop {
            match self.tell() {
                Tell::Problem { message } => return message,
                Tell::Planned(_) | Tell::Applied { .. } => panic!("no problem"),
                _ => {}
            }
        }
    }

    pub fn plan(&mut self, cycle: u32) -> Planned {
        self.ask(Ask::Analyze { cycle, explain: false });
        self.planned()
    }

    /// Gives it a plan of an earlier session.
    pub fn give(&mut self, plan: &Plan) {
        self.ask(Ask::Steps(plan.steps.clone()));
        self.ask(Ask::Plan(plan.head.clone()));
    }

    pub fn planned(&mut self) -> Planned {
        let mut steps = Vec::new();
        loop {
            match self.tell() {
                Tell::Steps(more) => steps.extend(more),
                Tell::Planned(head) => return Planned(Plan { head, steps }),
                other => panic!("unexpected: {other:?}"),
            }
        }
    }

    pub fn apply(&mut self, plan: &Plan) -> Done {
        self.ask(Ask::Apply { cycle: plan.cycle, approval: Approval::Plan { digest: plan.digest() } });
        self.applied()
    }

    pub fn apply_all(&mut self) -> Done {
        self.ask(Ask::Apply { cycle: 1, approval: Approval::All });
        self.applied()
    }

    pub fn applied(&mut self) -> Done {
        let mut reports = Vec::new();
        loop {
            match self.tell() {
                Tell::Report(report) => reports.push(report),
                Tell::Applied { counts, drift } => return Done { reports, counts, drift },
                Tell::Turn { .. } => {}
                other => panic!("unexpected: {other:?}"),
            }
        }
    }

    /// Goes away in the middle, and sees the engine end.
    pub fn leave(self) {
        self.session.close();
    }
}

#[derive(Debug)]
pub struct Planned(pub Plan);

impl Deref for Planned {
    type Target = Plan;

    fn deref(&self) -> &Plan {
        &self.0
    }
}

impl Planned {
    /// State, step, fields.
    pub fn words(&self) -> Vec<(&str, StepWord, &'static str)> {
        let fields = |step: &mainstay_core::state::plan::PlanStep| {
            let fields: Vec<&str> = step.changes.iter().map(|change| &*change.field).collect();
            &*fields.join(",").leak()
        };
        self.steps.iter().map(|step| (step.state.as_str(), step.step, fields(step))).collect()
    }
}

#[derive(Debug)]
pub struct Done {
    pub reports: Vec<StateReport>,
    pub counts: StateCounts,
    pub drift: Option<String>,
}

impl Done {
    pub fn outcomes(&self) -> Vec<(&str, StateOutcome)> {
        self.reports.iter().map(|report| (report.state.as_str(), report.outcome)).collect()
    }
}

pub struct Made(Declared);

pub fn state(id: &str, module: &str, params: Value) -> Made {
    Made(Declared {
        id: id.into(),
        module: module.to_owned(),
        params: params.as_object().unwrap().clone(),
        requisites: Requisites::default(),
        guards: Default::default(),
        options: Default::default(),
        scope: 0,
        locals: Values::new(),
        aliases: BTreeMap::new(),
        at: Default::default(),
    })
}

impl Made {
    pub fn on(mut self, kind: RequisiteKind, targets: &[usize]) -> Self {
        self.0.requisites.of.insert(kind, targets.to_vec());
        self
    }

    pub fn reads(mut self, state: usize) -> Self {
        self.0.requisites.reads.push(state);
        self
    }

    pub fn unless(mut self, line: String) -> Self {
        self.0.guards.unless.push(line);
        self
    }

    pub fn retry(mut self, retry: Retry) -> Self {
        self.0.options.retry = Some(retry);
        self
    }

    pub fn check(mut self, line: &str) -> Self {
        self.0.options.check_cmd = Some(line.to_owned());
        self
    }

    pub fn become_user(mut self, user: &str) -> Self {
        self.0.options.become_user = Some(user.to_owned());
        self
    }

    pub fn set(mut self, set: impl FnOnce(&mut Options, &mut Guards)) -> Self {
        set(&mut self.0.options, &mut self.0.guards);
        self
    }

    pub fn sensitive(mut self) -> Self {
        self.0.options.sensitive = true;
        self
    }
}

pub fn catalog(states: impl IntoIterator<Item = Made>) -> Catalog {
    Catalog {
        name: "site".into(),
        order: OrderMode::Ansible,
        failhard: false,
        files: vec!["site.yaml".into()],
        scopes: vec![Values::new()],
        secrets: Values::new(),
        states: states.into_iter().map(|made| made.0).collect(),
        left_out: BTreeMap::new(),
        blobs: BTreeMap::new(),
        extensions: BTreeMap::new(),
    }
}

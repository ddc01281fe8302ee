//! Killed at every place where the books are written, in turn: what was owed is paid by the next run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mainstay_core::state::catalog::{Catalog, Declared, RequisiteKind, Requisites};
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
const SITE: &str = "MAINSTAY_CRASH_SITE";

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

fn declared(id: &str, module: &str, params: Value, on: Option<(RequisiteKind, StateIndex)>) -> Declared {
    Declared {
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
    }
}

/// What is tried: some files that change, and after them states that have to act on that.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Site {
    /// One file, and all who act on it.
    One,
    /// Several, which are written ahead of their turns and synced together, each in a directory of its own. Nobody acts on the
    /// last one.
    Several,
}

impl Site {
    fn files(self) -> &'static [&'static str] {
        match self {
            Self::One => &["conf"],
            Self::Several => &["a/conf", "b/conf", "c/conf", "d/conf", "e/conf"],
        }
    }

    /// Who acts, the mark that it leaves, and the file whose change calls for it.
    fn acts(self) -> [(&'static str, &'static str, usize); 4] {
        let by = match self {
            Self::One => [0; 4],
            Self::Several => [1, 2, 0, 1],
        };
        [
            ("watches", "refresh", by[0]),
            ("triggered", "trigger", by[1]),
            ("listens", "listen", by[2]),
            ("chained", "chain", by[3]),
        ]
    }

    fn catalog(self, root: &Path) -> Catalog {
        let at = |name: &str| root.join(name).to_str().unwrap().to_owned();
        let file = |(number, name): (usize, &&str)| {
            declared(&format!("conf-{number}"), "file", json!({"path": at(name), "content": "new"}), None)
        };
        let mut states: Vec<Declared> = self.files().iter().enumerate().map(file).collect();
        let count = states.len();
        let [watched, triggers, heard, _] = self.acts().map(|(_, _, by)| by);
        states.extend([
            declared("watches", "bell", json!({"log": at("refresh")}), Some((RequisiteKind::Watch, watched))),
            declared(
                "triggered",
                "cmd",
                json!({"run": format!("echo x > {}", at("trigger"))}),
                Some((RequisiteKind::Onchanges, triggers)),
            ),
            declared("listens", "bell", json!({"log": at("listen")}), Some((RequisiteKind::Listen, heard))),
            // A chain: it owes for what is itself only owed.
            declared("chained", "bell", json!({"log": at("chain")}), Some((RequisiteKind::Watch, count))),
        ]);
        Catalog { name: "site".into(), scopes: vec![Values::new()], states, ..Catalog::empty() }
    }

    /// Before anything is done. Of several files some are there, others are new.
    fn make(self, root: &Path) {
        for (number, name) in self.files().iter().enumerate() {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            if number % 2 == 0 {
                fs::write(root.join(name), "old").unwrap();
            }
        }
    }

    /// Which files are as declared. None is ever anything but old or new.
    fn changed(self, root: &Path) -> Vec<bool> {
        let is_new = |(number, name): (usize, &&str)| match fs::read_to_string(root.join(name)) {
            Ok(content) if content == "new" => true,
            Ok(content) if number % 2 == 0 && content == "old" => false,
            Err(_) if number % 2 == 1 => false,
            other => panic!("{name}: {other:?}"),
        };
        self.files().iter().enumerate().map(is_new).collect()
    }
}

/// Files under names of their own that stand beside what is declared.
fn leftovers(root: &Path, site: Site) -> usize {
    let directories = site.files().iter().map(|name| root.join(name).parent().unwrap().to_owned());
    let names = directories.flat_map(|directory| fs::read_dir(directory).unwrap());
    names.filter(|entry| entry.as_ref().unwrap().file_name().as_encoded_bytes().starts_with(b".")).count()
}

fn data(root: &Path) -> PathBuf {
    root.join("data")
}

fn session(root: &Path, site: Site) -> Session {
    let options = SessionOptions {
        data: data(root),
        facts_directory: root.join("facts"),
        ..SessionOptions::new(registry::builtin().with(Bell), "1")
    };
    let session = Session::open(options).unwrap();
    session.asks.blocking_send(Ask::Catalog(Box::new(site.catalog(root)))).unwrap();
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
#[ignore = "run by the tests below"]
fn the_one_who_is_killed() {
    let (Ok(root), Ok(at)) = (std::env::var(ROOT), std::env::var(KILL_AT)) else { return };
    let site = if std::env::var_os(SITE).is_some() { Site::Several } else { Site::One };
    let mut session = session(Path::new(&root), site);
    failpoint::kill_at(at.parse().unwrap());
    apply(&mut session);
}

/// Whether it came to its end.
fn run_and_kill(root: &Path, site: Site, at: i64) -> bool {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "state::crash::the_one_who_is_killed", "--ignored"])
        .env(ROOT, root)
        .env(KILL_AT, at.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if site == Site::Several {
        child.env(SITE, "several");
    }
    child.status().unwrap().success()
}

/// What was seen of kills at all places.
#[derive(Default)]
struct Seen {
    places: i64,
    /// Times that something was owed for a file that had changed.
    owed: u32,
    /// Kills that left files under names of their own.
    left: u32,
    /// Kills between two files that were written together.
    between: u32,
}

fn kill_everywhere(site: Site) -> Seen {
    let mut seen = Seen::default();
    for at in 1..PLACES {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        site.make(root);
        long_log(root);
        let ended = run_and_kill(root, site, at);
        let changed = site.changed(root);
        let acted = |mark: &str| root.join(mark).exists();
        for (_, mark, by) in site.acts() {
            assert!(changed[by] || !acted(mark), "{at}: {mark} came before the change");
        }
        if ended {
            assert!(changed.iter().all(|changed| *changed), "{at}");
            assert!(site.acts().iter().all(|(_, mark, _)| acted(mark)), "{at}");
            seen.places = at - 1;
            return seen;
        }
        seen.left += u32::from(leftovers(root, site) > 0);
        seen.between += u32::from(changed[0] && !changed[changed.len() - 1]);

        let mut session = session(root, site);
        let plan = plan(&mut session);
        let step = |id: &str| plan.steps.iter().find(|step| step.state.as_str() == id).unwrap();
        let owes = |mark: &str| {
            let by = site.acts().iter().find(|(_, own, _)| *own == mark).unwrap().2;
            changed[by] && !acted(mark)
        };
        if owes("refresh") {
            seen.owed += 1;
            assert_eq!(step("watches").refresh.as_deref(), Some(&[][..]), "{at}: it is not listed as owed");
        }
        if owes("trigger") {
            assert!(step("triggered").step.is_pending(), "{at}: {plan:?}");
        }
        if owes("listen") {
            assert!(step("listens").refresh.is_some(), "{at}: {plan:?}");
        }
        apply(&mut session);
        session.close();
        assert!(site.changed(root).iter().all(|changed| *changed), "{at}");
        for (_, mark, _) in site.acts() {
            assert!(acted(mark), "{at}: {mark} was owed and never came");
        }
        assert_eq!(leftovers(root, site), 0, "{at}");
        let debts = Debts::read(&data(root).join("state")).unwrap();
        assert_eq!(debts.of("site").collect::<Vec<_>>(), Vec::<&Debt>::new(), "{at}: it is still owed");
    }
    panic!("a run passes more than {PLACES} places");
}

#[test]
fn whatever_is_owed_is_paid_after_a_kill_at_any_write() {
    let Seen { places, owed, .. } = kill_everywhere(Site::One);
    assert!(places > 20, "only {places} places were passed");
    assert!(owed > 5, "only {owed} times something was owed");
}

#[test]
fn so_it_is_where_files_are_written_ahead() {
    let Seen { places, owed, left, between } = kill_everywhere(Site::Several);
    assert!(places > 25, "only {places} places were passed");
    assert!(owed > 5, "only {owed} times something was owed");
    assert!(left > 5, "only {left} times files were left beside their places");
    assert!(between > 5, "only {between} times some had their places and others had not");
}

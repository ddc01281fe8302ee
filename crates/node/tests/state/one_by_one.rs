//! Random catalogs, each on two machines that are alike: on one files are written ahead of their turns, on the other nothing is.
//! Whatever is planned, told, left and owed is the same.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mainstay_core::state::Values;
use mainstay_core::state::catalog::{Catalog, OrderMode, RequisiteKind};
use mainstay_core::state::session::Ask;
use mainstay_module::forecast::Resource;
use mainstay_module::host::Unsynced;
use mainstay_module::module::{About, Analysis, Analyze, Applied, Apply, Refreshed};
use mainstay_module::registry::{self, AnyModule, Params};
use mainstay_module::{Failure, modules};
use mainstay_node::state::SessionOptions;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};

use crate::machine::{Machine, Made, Talk, catalog, state};

/// The module `file`, of which it is counted what it writes ahead; or it never does.
struct Watched {
    file: Arc<dyn AnyModule>,
    ahead: Option<Arc<AtomicUsize>>,
}

impl AnyModule for Watched {
    fn about(&self) -> About {
        self.file.about()
    }

    fn schema(&self) -> Value {
        self.file.schema()
    }

    fn read(&self, params: &Values) -> Result<Params, String> {
        self.file.read(params)
    }

    fn needs(&self, params: &Params) -> Vec<Resource> {
        self.file.needs(params)
    }

    fn provides(&self, params: &Params) -> Vec<Resource> {
        self.file.provides(params)
    }

    fn probes(&self, params: &Params) -> bool {
        self.file.probes(params)
    }

    fn analyze(&self, params: &Params, cx: &Analyze<'_>) -> Result<Analysis, Failure> {
        self.file.analyze(params, cx)
    }

    fn apply(&self, params: &Params, cx: &Apply<'_>, analysis: &Analysis) -> Result<Applied, Failure> {
        self.file.apply(params, cx, analysis)
    }

    fn stage<'h>(
        &self,
        params: &Params,
        cx: &Apply<'h>,
        analysis: &Analysis,
    ) -> Result<Option<Unsynced<'h>>, Failure> {
        let Some(count) = &self.ahead else { return Ok(None) };
        let staged = self.file.stage(params, cx, analysis);
        if matches!(staged, Ok(Some(_))) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        staged
    }

    fn refreshes(&self) -> bool {
        self.file.refreshes()
    }

    fn refresh(
        &self,
        params: &Params,
        cx: &Apply<'_>,
        applied: Option<&Analysis>,
    ) -> Result<Refreshed, Failure> {
        self.file.refresh(params, cx, applied)
    }

    fn merge_key(&self, params: &Params) -> Option<String> {
        self.file.merge_key(params)
    }

    fn apply_merged(
        &self,
        params: &[&Params],
        cx: &Apply<'_>,
        analyses: &[&Analysis],
    ) -> Result<Vec<Applied>, Failure> {
        self.file.apply_merged(params, cx, analyses)
    }
}

/// Few, so that states meet: `alias` leads to `d`, `d/hard` is another name of `d/a`, `new` is not there.
const PATHS: [&str; 10] =
    ["d/a", "d/b", "d/c", "d/hard", "alias/a", "alias/b", "new/a", "new/b", "alias", "new"];

const STATES: usize = 9;

/// Each is four runs that write to a disk.
const CASES: u32 = 32;

#[derive(Clone, Debug)]
struct Line {
    kind: u8,
    path: usize,
    more: u8,
    requisites: Vec<(usize, usize)>,
    guard: u8,
    option: u8,
}

fn line() -> impl Strategy<Value = Line> {
    let requisite = (0..RequisiteKind::ALL.len(), 0..STATES);
    let requisites = prop_oneof![3 => Just(Vec::new()), 2 => prop::collection::vec(requisite, 1..3)];
    (0..20_u8, 0..PATHS.len(), 0..9_u8, requisites, 0..24_u8, 0..24_u8).prop_map(
        |(kind, path, more, requisites, guard, option)| Line { kind, path, more, requisites, guard, option },
    )
}

fn made(machine: &Machine, number: usize, count: usize, line: &Line) -> Made {
    let path = machine.path(PATHS[line.path]);
    let (module, params) = match line.kind {
        0 => ("directory", json!({"path": path})),
        1 => ("link", json!({"path": path, "target": machine.path(PATHS[usize::from(line.more)])})),
        2 => ("line", json!({"path": path, "line": format!("line {}", line.more)})),
        3 => ("cmd", json!({"run": format!("echo {number} >> {}", machine.path("log"))})),
        4 => ("cmd", json!({"run": format!("rm -f {path}")})),
        5 => ("cmd", json!({"run": "exit 3"})),
        6 => ("file", json!({"path": path, "absent": true})),
        _ => ("file", file(&path, line.more)),
    };
    let mut made = state(&format!("s{number}"), module, params);
    for (kind, target) in &line.requisites {
        let kind = RequisiteKind::ALL[*kind];
        // Only backwards, so that there are no cycles; what has to come first is a later one.
        let target = match kind {
            RequisiteKind::Prereq => number + 1 + target,
            _ if number == 0 => continue,
            _ => target % number,
        };
        if target < count {
            made = made.on(kind, &[target]);
        }
    }
    made.set(|options, guards| match (line.option, line.guard) {
        (0, _) => options.failhard = true,
        (1, _) => options.check_cmd = Some("exit 1".into()),
        (2, _) => options.parallel = Some(false),
        (_, 0) => guards.creates.push(machine.path("d/b")),
        (_, 1) => guards.unless.push(format!("grep -q one {}", machine.path("d/a"))),
        (_, 2) => guards.when = Some("1 == 2".into()),
        _ => {}
    })
}

fn file(path: &str, more: u8) -> Value {
    match more {
        0 => json!({"path": path}),
        1 => json!({"path": path, "mode": "0600"}),
        2 => json!({"path": path, "content": "one\n", "backup": true}),
        3 => json!({"path": path, "content": "two\n", "follow": true}),
        4 => json!({"path": path, "content": "bad\n", "validate": "! grep bad %s"}),
        5 => json!({"path": path, "content": "three\n", "mode": "0640"}),
        6 => json!({"path": path, "content": "one\n", "sensitive": true}),
        _ => json!({"path": path, "content": if more == 7 { "one\n" } else { "two\n" }}),
    }
}

/// All that one machine said and became.
#[derive(PartialEq, Debug)]
struct Course {
    told: Vec<String>,
    tree: BTreeMap<String, String>,
}

/// Nothing if the states have no order.
fn course(
    lines: &[Line],
    (failhard, planned): (bool, bool),
    ahead: Option<Arc<AtomicUsize>>,
) -> Option<Course> {
    let machine = Machine::new();
    let host = machine.path("");
    // Digests of what is hidden are the same on both.
    fs::create_dir_all(machine.data().join("state")).unwrap();
    fs::write(machine.data().join("state/digest.key"), [7; 32]).unwrap();
    fs::create_dir(machine.path("d")).unwrap();
    symlink(machine.path("d"), machine.path("alias")).unwrap();
    fs::write(machine.path("d/a"), "one\n").unwrap();
    fs::hard_link(machine.path("d/a"), machine.path("d/hard")).unwrap();
    let states = lines.iter().enumerate().map(|(number, line)| made(&machine, number, lines.len(), line));
    let catalog = Catalog { failhard, order: OrderMode::Ansible, ..catalog(states) };
    let mut registry = registry::builtin();
    let file = Arc::clone(registry::Registry::default().with(modules::file::File).get("file").unwrap());
    registry.insert("file", Arc::new(Watched { file, ahead }));
    mainstay_node::state::order(catalog.clone(), &registry, Values::new(), Path::new("")).ok()?;
    let mut told = Vec::new();
    // The second time shows what is owed, and that it is paid.
    for planned in [planned, true] {
        let mut session = Talk::open(SessionOptions { registry: registry.clone(), ..machine.options() });
        session.ask(Ask::Catalog(Box::new(catalog.clone())));
        let plan = session.plan(1);
        told.extend(plan.steps.iter().map(|step| format!("{step:?}")));
        let done = if planned { session.apply(&plan) } else { session.apply_all() };
        told.push(format!("drift: {:?}", done.drift));
        told.extend(done.reports.iter().map(|report| {
            let mut report = report.clone();
            report.duration_ms = 0;
            format!("{report:?}")
        }));
        session.leave();
    }
    let told = told.into_iter().map(|line| line.replace(&host, "HOST/")).collect();
    let mut tree = BTreeMap::new();
    look(Path::new(&host), Path::new(&host), &mut tree);
    Some(Course { told, tree })
}

fn look(top: &Path, directory: &Path, tree: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let what = if meta.is_symlink() {
            fs::read_link(&path).unwrap().strip_prefix(top).unwrap().display().to_string()
        } else if meta.is_dir() {
            look(top, &path, tree);
            "a directory".into()
        } else {
            fs::read_to_string(&path).unwrap()
        };
        let name = path.strip_prefix(top).unwrap().display().to_string();
        tree.insert(name, format!("{:o} {} {what}", meta.mode(), meta.is_dir() || meta.nlink() > 1));
    }
}

#[test]
fn what_is_written_ahead_changes_no_outcome() {
    let config = ProptestConfig { cases: CASES / 2, failure_persistence: None, ..ProptestConfig::default() };
    // The first half is the same each time, and known to write files ahead; chance makes the others.
    let same = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let ahead = alike(&mut TestRunner::new_with_rng(config.clone(), same));
    assert!(ahead > CASES as usize / 8, "only {ahead} files were written ahead");
    alike(&mut TestRunner::new(config));
}

/// Tries random catalogs both ways. How many files were written ahead.
fn alike(runner: &mut TestRunner) -> usize {
    let ahead = Arc::new(AtomicUsize::new(0));
    let options = (prop::bool::weighted(0.05), any::<bool>());
    let catalogs = (prop::collection::vec(line(), 2..=STATES), options);
    runner
        .run(&catalogs, |(lines, options)| {
            let with = course(&lines, options, Some(Arc::clone(&ahead)));
            let without = course(&lines, options, None);
            let (Some(with), Some(without)) = (with, without) else { return Ok(()) };
            for (with, without) in with.told.iter().zip(&without.told) {
                prop_assert_eq!(with, without);
            }
            prop_assert_eq!(with, without);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    ahead.load(Ordering::Relaxed)
}

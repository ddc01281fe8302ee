//! A states file as people write it, through the compiler, planned and applied.

use std::collections::BTreeMap;

use mainstay_core::frame::Facts;
use mainstay_core::state::catalog::Catalog;
use mainstay_core::state::schema::Formats;
use mainstay_core::state::session::Ask;
use mainstay_core::state::site::{self, FileEntry, Files, ModuleSchema, ModuleTable, SiteInput};
use mainstay_core::state::{StateOutcome, StepWord, Values};
use mainstay_module::registry;

use crate::machine::Machine;

struct Written(BTreeMap<&'static str, String>);

impl Files for Written {
    fn read(&self, path: &str, _: usize) -> Result<Vec<u8>, String> {
        self.0.get(path).map(|text| text.clone().into_bytes()).ok_or_else(|| "no such file".into())
    }

    fn tree(&self, _: &str, _: usize) -> Result<Vec<FileEntry>, String> {
        Err("no such folder".into())
    }

    fn env(&self, _: &str) -> Option<String> {
        None
    }
}

struct Builtin(registry::Registry);

impl ModuleTable for Builtin {
    fn module(&self, name: &str) -> Option<ModuleSchema> {
        let module = self.0.get(name)?;
        Some(ModuleSchema {
            params: module.schema(),
            identity: module.about().identity.map(str::to_owned),
            refreshes: module.refreshes(),
            outputs: None,
        })
    }

    fn formats(&self) -> Formats {
        mainstay_module::format::format
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| name.to_owned()).collect()
    }
}

fn compiled(files: &Written) -> Catalog {
    let modules = Builtin(registry::builtin());
    let input = SiteInput {
        file: "site.yaml".into(),
        vars: Values::new(),
        machine_vars: Default::default(),
        only: Vec::new(),
        order: None,
    };
    let site = site::compile(&input, files, &modules).unwrap_or_else(|errors| panic!("{errors}"));
    let machine = site::Machine {
        name: "here",
        labels: &BTreeMap::new(),
        facts: &Facts::default(),
        vars: &Values::new(),
    };
    site.catalog(&machine).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn a_file_with_includes_loops_templates_and_secrets() {
    let machine = Machine::new();
    let root = machine.path("");
    let site = format!(
        r#"
name: shop
vars: {{root: "{root}", port: 8080}}
secrets: {{token: s3cr3t-t0ken}}
include:
  - {{file: vhost.yaml, as: a, vars: {{name: alpha}}}}
  - {{file: vhost.yaml, as: b, vars: {{name: beta}}}}
states:
  conf:
    file: {{path: "{{{{ root }}}}app.conf", template: app.j2, mode: "0600"}}
  each:
    for_each: [x, y]
    file: {{path: "{{{{ root }}}}{{{{ item }}}}", content: "{{{{ item }}}} on {{{{ facts.rack }}}}"}}
  never:
    cmd: {{run: "false"}}
    when: facts.rack == 'other'
  job:
    cmd: {{run: "echo done >> {{{{ root }}}}job"}}
    onchanges: [conf]
"#
    );
    let vhost = r#"
states:
  made:
    cmd: {run: "echo {{ name }}", probe: true}
  page:
    file: {path: "{{ root }}{{ name }}", content: "{{ states['made'].stdout }}!"}
"#;
    let files = Written(BTreeMap::from([
        ("site.yaml", site),
        ("vhost.yaml", vhost.to_owned()),
        ("app.j2", "port={{ port }}\ntoken={{ secrets.token }}\n".to_owned()),
    ]));
    std::fs::write(machine.facts().join("rack.json"), "\"r7\"").unwrap();
    let mut session = machine.session();
    session.ask(Ask::Catalog(Box::new(compiled(&files))));
    let plan = session.plan(1);
    let pending = |word| plan.steps.iter().filter(|step| step.step == word).count();
    // The second probe waits: in written order a page comes before it.
    assert_eq!((pending(StepWord::Change), pending(StepWord::Conditional)), (4, 3), "{plan:?}");
    let done = session.apply(&plan);
    assert_eq!((done.counts.failed, done.counts.blocked, done.drift.as_deref()), (0, 0, None), "{done:?}");
    let never = done.reports.iter().find(|report| report.state.as_str() == "never").unwrap();
    assert_eq!(
        (never.outcome, never.reason.as_deref()),
        (StateOutcome::Skipped, Some("when: facts.rack == 'other'"))
    );
    for (name, text) in [
        ("app.conf", "port=8080\ntoken=s3cr3t-t0ken\n"),
        ("x", "x on r7"),
        ("y", "y on r7"),
        ("alpha", "alpha!"),
        ("beta", "beta!"),
        ("job", "done\n"),
    ] {
        assert_eq!(machine.read(name), text);
    }
    let plan = session.plan(2);
    assert!(plan.stable, "{plan:?}");
    assert!(!session.heard.contains("s3cr3t"), "{}", session.heard);
}

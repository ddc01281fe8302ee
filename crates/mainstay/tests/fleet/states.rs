//! Declared state through a hub: plans and applies are runs, so they reach nodes that are away, and an approval counts only for
//! what still is as it was.

use std::fs;
use std::path::PathBuf;

use crate::lab::{Lab, eventually};
use crate::secrets::{files, forms};

const CANARY: &str = "canary-3f9a71";

/// A fleet of two, each with a folder of its own, and a states file for both.
struct Site {
    lab: Lab,
    file: String,
}

impl Site {
    fn new() -> Self {
        Self::on(Lab::bare())
    }

    fn on(mut lab: Lab) -> Self {
        lab.start_hub();
        for name in ["a", "b"] {
            fs::create_dir(lab.path(&format!("of-{name}"))).unwrap();
            lab.join(name, &["--label", &format!("place={}", lab.path(&format!("of-{name}")).display())]);
            lab.until_online(name, true);
        }
        let file = lab.path("site.yaml");
        let text = format!(
            r#"
secrets: {{key: {CANARY}}}
states:
  conf:
    file: {{path: "{{{{ facts.labels.place }}}}/conf", content: "port = 80\n", mode: "0640"}}
  key:
    file: {{path: "{{{{ facts.labels.place }}}}/key", content: "{{{{ secrets.key }}}}", mode: "0600"}}
  count:
    cmd: {{run: "echo x >> {{{{ facts.labels.place }}}}/count"}}
    onchanges: [conf]
"#
        );
        fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap().to_owned();
        Self { lab, file }
    }

    fn of(&self, node: &str, name: &str) -> PathBuf {
        self.lab.path(&format!("of-{node}")).join(name)
    }

    fn read(&self, node: &str, name: &str) -> Option<String> {
        fs::read_to_string(self.of(node, name)).ok()
    }

    fn runs(&self) -> Vec<String> {
        let runs = self.lab.run(&["runs", "list", "--json"]).exits(0).json();
        runs.iter().map(|run| run["method"].as_str().unwrap().to_owned()).collect()
    }

    fn latest(&self) -> String {
        let runs = self.lab.run(&["runs", "list", "--json", "--limit", "1"]).exits(0).json();
        runs[0]["run"].as_str().unwrap().to_owned()
    }
}

#[test]
fn a_fleet_is_planned_and_brought_to_its_state_by_runs() {
    // All daemons write down all that they ever would.
    let site = Site::on(Lab::bare().verbose());
    let lab = &site.lab;
    let plan = lab.run(&["plan", &site.file, "-t", "*"]).exits(3);
    assert!(plan.out.contains("+port = 80"), "{}", plan.out);
    assert_eq!(site.read("a", "conf"), None);
    lab.run(&["up", &site.file, "-t", "*", "--yes"]).exits(0);
    for node in ["a", "b"] {
        assert_eq!(site.read(node, "conf").as_deref(), Some("port = 80\n"));
        assert_eq!(site.read(node, "key").as_deref(), Some(CANARY));
        assert_eq!(site.read(node, "count").as_deref(), Some("x\n"));
    }
    let again = lab.run(&["up", &site.file, "-t", "*", "--yes", "--json"]).exits(0);
    let summaries: Vec<_> = again.json().into_iter().filter(|line| line["event"] == "summary").collect();
    assert_eq!(summaries.len(), 2);
    assert!(summaries.iter().all(|line| line["changed"] == 0 && line["failed"] == 0), "{summaries:?}");
    // One run for both nodes each time; nothing to apply at the end.
    assert_eq!(site.runs(), ["state.plan", "state.apply", "state.plan", "state.plan"]);

    // What no message carries is wrong input: no run is made of it.
    let mut random = vec![0; 600 << 10];
    getrandom::fill(&mut random).unwrap();
    fs::write(lab.path("large.bin"), random).unwrap();
    let large = lab.path("large.yaml");
    fs::write(&large, "states: {large: {file: {path: /tmp/large, source: large.bin}}}").unwrap();
    let refused = lab.run(&["up", large.to_str().unwrap(), "-t", "*", "--yes"]).exits(2);
    assert!(refused.err.contains("are too large for a hub"), "{}", refused.err);
    assert_eq!(site.runs().len(), 4);

    // What is secret stands only where it was declared to be: not in what was said, in a store or in a log.
    let declared = [site.file.clone().into(), site.of("a", "key"), site.of("b", "key")];
    let mut paths = Vec::new();
    files(&lab.path(""), &mut paths);
    for log in ["hub.log", "a.log", "b.log"] {
        let text = fs::read_to_string(lab.path(log)).unwrap();
        assert!(text.contains("DEBUG"), "{log} is not all that there is: {text}");
    }
    for path in paths.iter().filter(|path| !declared.contains(path)) {
        let bytes = fs::read(path).unwrap_or_default();
        for form in forms(CANARY) {
            let found = bytes.windows(form.len()).any(|window| window == form);
            assert!(!found, "{} holds the secret as {:?}", path.display(), String::from_utf8_lossy(&form));
        }
    }
}

#[test]
fn a_node_that_is_away_brings_itself_to_its_state_when_it_returns() {
    let mut site = Site::new();
    assert!(site.lab.agent("b").stop().success());
    site.lab.until_online("b", false);
    let up = site.lab.run(&["up", &site.file, "-t", "*", "--yes"]).exits(3);
    assert!(up.err.contains("away"), "{}", up.err);
    assert_eq!(site.read("a", "conf").as_deref(), Some("port = 80\n"));
    assert_eq!(site.read("b", "conf"), None);
    site.lab.start_agent("b");
    eventually("b is as declared", || site.read("b", "count"));
    assert_eq!(site.read("b", "count").as_deref(), Some("x\n"));
}

#[test]
fn what_a_killed_agent_was_running_is_named_and_ended_when_it_starts_again() {
    let mut site = Site::new();
    let (slow, began) = (site.lab.path("slow.yaml"), site.of("b", "began"));
    let line = format!("echo $$ > {}; exec sleep 3000", began.display());
    fs::write(&slow, format!("states:\n  slow:\n    cmd: {{run: '{line}'}}\n")).unwrap();
    let up = site.lab.begin(&["up", slow.to_str().unwrap(), "-t", "b", "--yes"]);
    let written =
        eventually("the command began", || site.read("b", "began").filter(|pid| pid.ends_with('\n')));
    let pid = nix::unistd::Pid::from_raw(written.trim().parse().unwrap());
    let run = site.latest();
    let watch = site.lab.begin(&["runs", "watch", &run, "--json"]);
    eventually("its turn is told", || watch.so_far().contains(r#"\"line\":\"turn\""#).then_some(()));
    site.lab.agent("b").crash();
    assert!(nix::sys::signal::kill(pid, None).is_ok());
    site.lab.start_agent("b");
    let said = up.end().exits(1);
    let shown = site.lab.run(&["runs", "show", &run]).exits(0);
    for text in [said.err, shown.out + &shown.err] {
        assert!(text.contains("b: interrupted; at its turn: slow"), "{text}");
    }
    eventually("nothing of it runs", || {
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        (state.is_empty() || state.contains(") Z ")).then_some(())
    });
}

#[test]
fn a_plan_that_comes_later_is_approved_later_and_counts_only_for_what_it_saw() {
    let mut site = Site::new();
    assert!(site.lab.agent("b").stop().success());
    site.lab.until_online("b", false);
    let plan = site.lab.run(&["plan", &site.file, "-t", "b"]).exits(3);
    assert!(plan.err.contains("runs approve"), "{}", plan.err);
    let run = site.latest();
    site.lab.run(&["runs", "approve", &run, "--yes"]).exits(3);
    let shown = site.lab.run(&["runs", "show", &run]).exits(0);
    assert!(shown.err.contains("b: away since"), "{}", shown.err);
    site.lab.start_agent("b");
    eventually("b has made its plan", || site.lab.pending(&run, "b").is_none().then_some(()));
    assert_eq!(site.read("b", "conf"), None);
    // What it found is told as if one had waited for it.
    let shown = site.lab.run(&["runs", "show", &run]).exits(0);
    assert!(
        shown.out.contains("── b · 2 to change, 1 conditional\n  + conf (file) change\n"),
        "{}",
        shown.out
    );
    assert!(shown.err.contains("Awaits approval: `mainstay runs approve"), "{}", shown.err);
    let listed = site.lab.run(&["runs", "list"]).exits(0);
    assert_eq!(listed.out.matches("1 ok, awaits approval").count(), 1, "{}", listed.out);
    let watched = site.lab.run(&["runs", "watch", &run]).exits(0);
    assert!(watched.out.contains("+port = 80") && !watched.out.contains("{\"line\""), "{}", watched.out);
    site.lab.run(&["runs", "approve", &run, "--yes"]).exits(0);
    assert_eq!(site.read("b", "conf").as_deref(), Some("port = 80\n"));
    let applied = site.lab.run(&["runs", "show"]).exits(0);
    assert!(applied.out.contains("── b · done\n  ✓ conf (file) changed\n"), "{}", applied.out);
    let shown = site.lab.run(&["runs", "show", &run]).exits(0);
    assert!(shown.err.contains("Approved for 1 node: see `mainstay runs show"), "{}", shown.err);
    let listed = site.lab.run(&["runs", "list"]).exits(0);
    assert!(!listed.out.contains("awaits approval"), "{}", listed.out);

    // Somebody was faster than the approval: nothing is touched, and it is said why.
    fs::write(site.of("b", "conf"), "port = 81\n").unwrap();
    site.lab.run(&["plan", &site.file, "-t", "b"]).exits(3);
    let run = site.latest();
    fs::write(site.of("b", "conf"), "port = 82\n").unwrap();
    let drifted = site.lab.run(&["runs", "approve", &run, "--yes"]).exits(1);
    assert!(drifted.err.contains("conf"), "{}", drifted.err);
    assert_eq!(site.read("b", "conf").as_deref(), Some("port = 82\n"));

    // Another kind of run has nothing to approve.
    site.lab.run(&["run", "-t", "b", "--", "true"]).exits(0);
    site.lab.run(&["runs", "approve", "latest", "--yes"]).exits(2);
}

/// Several orders for a machine that was away, of which none may fail another.
#[test]
fn what_was_ordered_while_a_node_was_away_is_done_in_its_order() {
    let mut site = Site::new();
    assert!(site.lab.agent("b").stop().success());
    site.lab.until_online("b", false);
    let file = site.of("b", "number");
    for number in 1..=4 {
        let order = site.lab.path(&format!("order-{number}.yaml"));
        let text = format!(
            "states:\n  number: {{file: {{path: {}, content: \"{number}\"}}}}\n  log: {{cmd: {{run: echo {number} >> {}}}}}\n",
            file.display(),
            site.of("b", "log").display()
        );
        fs::write(&order, text).unwrap();
        site.lab.run(&["up", order.to_str().unwrap(), "-t", "b", "--yes"]).exits(3);
    }
    site.lab.start_agent("b");
    eventually("all have ended", || {
        let runs = site.lab.run(&["runs", "list", "--json"]).exits(0).json();
        runs.iter().all(|run| run["pending"] == 0).then_some(())
    });
    let runs = site.lab.run(&["runs", "list", "--json"]).exits(0).json();
    assert_eq!(runs.len(), 4);
    assert!(runs.iter().all(|run| run["ok"] == 1), "{runs:#?}");
    assert_eq!(site.read("b", "number").as_deref(), Some("4"));
    assert_eq!(site.read("b", "log").as_deref(), Some("1\n2\n3\n4\n"));
}

#[test]
fn what_was_done_before_a_cancel_is_told() {
    let site = Site::new();
    let (file, gate) = (site.lab.path("three.yaml"), site.of("b", "gate"));
    let text = format!(
        "states:\n  s0: {{file: {{path: {0}/s0, content: x}}}}\n  s1: {{cmd: {{run: 'touch {0}/began; while [ ! -e {1} ]; do sleep 0.05; done'}}}}\n  s2: {{file: {{path: {0}/s2, content: x}}}}\n",
        site.lab.path("of-b").display(),
        gate.display()
    );
    fs::write(&file, text).unwrap();
    let up = site.lab.begin(&["up", file.to_str().unwrap(), "-t", "b", "--yes"]);
    eventually("s1 has its turn", || site.read("b", "began"));
    up.signal(nix::sys::signal::Signal::SIGINT);
    let run = site.latest();
    eventually("b is told to cancel", || {
        site.lab.pending(&run, "b").filter(|why| why.contains("told to cancel"))
    });
    fs::write(&gate, "").unwrap();
    let said = up.end().exits(3);
    let shown = site.lab.run(&["runs", "show", &run]).exits(0);
    for text in [&said.out, &shown.out] {
        assert!(text.contains("✓ s1 (cmd) changed"), "{text}");
    }
}

#[test]
fn a_plan_is_applied_once_and_in_batches_by_each_node_in_its_turn() {
    let site = Site::new();
    let (file, log) = (site.lab.path("once.yaml"), site.lab.path("log"));
    let text = format!("states:\n  once: {{cmd: {{run: echo x >> {}}}}}\n", log.display());
    fs::write(&file, text).unwrap();
    let (file, lines) =
        (file.to_str().unwrap(), || fs::read_to_string(&log).unwrap_or_default().lines().count());
    site.lab.run(&["plan", file, "-t", "b"]).exits(3);
    let run = site.latest();
    site.lab.run(&["runs", "approve", &run, "--yes"]).exits(0);
    let again = site.lab.run(&["runs", "approve", &run, "--yes"]).exits(1);
    assert!(again.err.contains("a plan is applied once; plan again"), "{}", again.err);
    site.lab.run(&["runs", "retry", "latest"]).exits(1);
    assert_eq!(lines(), 1);

    // Both nodes make the same plan: the approval for one is none for the other.
    site.lab.run(&["up", file, "-t", "*", "--batch", "1", "--yes"]).exits(0);
    assert_eq!(lines(), 3);
}

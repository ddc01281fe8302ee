//! Machines that are away, and processes that are killed: nothing accepted is lost or run twice.

use crate::lab::{Lab, eventually, processes_with};

#[test]
fn a_node_that_is_away_gets_its_work_when_it_returns() {
    let mut lab = Lab::new(&["a", "b"]);
    assert!(lab.agent("b").stop().success());
    lab.until_online("b", false);
    let done = lab.path("done");
    let script = format!("echo $$ >> {}", done.display());
    let said = lab.run(&["run", "-t", "*", "--json", "--", "sh", "-c", &script]).exits(3);
    assert_eq!(said.json().last().unwrap()["pending"], 1);
    let run = said.json()[0]["run"].as_str().unwrap().to_owned();
    let why = lab.pending(&run, "b").expect("b is pending");
    assert!(why.contains("away since"), "{why}");

    lab.start_agent("b");
    assert_eq!(lab.outcome(&run, "b"), "finished");
    let watched = lab.run(&["runs", "watch", &run]).exits(0);
    assert!(watched.err.contains("2 ok"), "{}", watched.err);
    assert_eq!(std::fs::read_to_string(done).unwrap().lines().count(), 2);
}

#[test]
fn a_hub_that_is_killed_forgets_nothing_and_is_found_again() {
    let mut lab = Lab::new(&["a", "b"]);
    lab.agent("b").stop();
    lab.until_online("b", false);
    let ran = lab.path("ran");
    let count = |word: &str| {
        let text = std::fs::read_to_string(&ran).unwrap_or_default();
        text.lines().filter(|line| *line == word).count()
    };
    let say = |word: &str, then: &str| format!("echo {word} >> {}; {then}", ran.display());
    let gate = lab.path("gate");
    let wait = format!("while [ ! -e {} ]; do sleep 0.05; done; echo answered", gate.display());
    let queued = lab.detach(&["-t", "b", "--", "sh", "-c", &say("queued", "true")]);
    let running = lab.detach(&["-t", "a", "--", "sh", "-c", &say("running", &wait)]);
    eventually("it runs", || (count("running") == 1).then_some(()));

    lab.hub().crash();
    // It ends while there is no hub.
    std::fs::write(&gate, "").unwrap();
    let (log, line) = (lab.path("a.log"), "link down");
    eventually("a notices", || std::fs::read_to_string(&log).unwrap().contains(line).then_some(()));
    lab.start_hub();
    assert_eq!(lab.outcome(&running, "a"), "finished");
    let shown = lab.run(&["runs", "watch", &running, "--json"]).exits(0);
    assert!(shown.json().iter().any(|line| line["stdout"] == "answered\n"), "{}", shown.out);
    lab.start_agent("b");
    assert_eq!(lab.outcome(&queued, "b"), "finished");
    assert_eq!((count("queued"), count("running")), (1, 1), "each runs once");
    lab.run(&["run", "-t", "*", "--", "true"]).exits(0);
}

#[test]
fn what_an_agent_was_running_when_it_was_killed_is_interrupted_and_ended() {
    let mut lab = Lab::new(&["a"]);
    let (group, session) = ("98703.25", "98704.25");
    let runs = lab.path("runs");
    let script = format!("echo x >> {}; sleep {group} & setsid sleep {session} & wait", runs.display());
    let run = lab.detach(&["-t", "a", "--", "sh", "-c", &script]);
    eventually("it runs", || (processes_with(&format!("sleep\0{session}")).len() == 1).then_some(()));
    lab.agent("a").crash();
    lab.until_online("a", false);
    assert_ne!(processes_with(session), Vec::<i32>::new(), "nobody could end it");

    lab.start_agent("a");
    assert_eq!(lab.outcome(&run, "a"), "interrupted");
    assert_eq!(processes_with(group), Vec::<i32>::new());
    assert_eq!(processes_with(session), Vec::<i32>::new());
    lab.run(&["run", "-t", "a", "--", "true"]).exits(0);
    assert_eq!(std::fs::read_to_string(runs).unwrap(), "x\n", "it is not run again");
}

#[test]
fn an_agent_stops_at_once_also_while_commands_write_without_end() {
    let mut lab = Lab::new(&["a"]);
    let started = lab.path("started");
    let script = format!("touch {}; while :; do seq 1 100000; done", started.display());
    let run = lab.detach(&["-t", "a", "--output-limit", "16000000", "--", "sh", "-c", &script]);
    eventually("it runs", || started.exists().then_some(()));
    assert!(lab.agent("a").stop().success());
    let log = std::fs::read_to_string(lab.path("a.log")).unwrap();
    assert!(!log.contains("did not end in time"), "{log}");
    lab.start_agent("a");
    assert_eq!(lab.outcome(&run, "a"), "interrupted");
}

#[test]
fn whoever_waits_for_a_run_waits_through_a_restart_of_the_hub() {
    let mut lab = Lab::new(&["a"]);
    let (gate, started) = (lab.path("gate"), lab.path("started"));
    let script = format!(
        "touch {}; while [ ! -e {} ]; do sleep 0.05; done; echo done",
        started.display(),
        gate.display()
    );
    let waiting = lab.begin(&["run", "-t", "a", "--json", "--", "sh", "-c", &script]);
    eventually("it runs", || started.exists().then_some(()));
    lab.hub().crash();
    lab.start_hub();
    lab.until_online("a", true);
    std::fs::write(&gate, "").unwrap();
    let said = waiting.end().exits(0);
    let lines = said.json();
    let events: Vec<_> = lines.iter().filter_map(|line| line["event"].as_str()).collect();
    assert_eq!(events, ["accepted", "result", "summary"], "each line once");
}

#[test]
fn a_node_whose_journal_was_put_back_waits_for_an_operator() {
    let mut lab = Lab::new(&["a"]);
    assert!(lab.agent("a").stop().success());
    let (journal, older) = (lab.path("a/journal.db"), lab.path("older.db"));
    std::fs::copy(&journal, &older).unwrap();
    lab.start_agent("a");
    lab.run(&["run", "-t", "a", "--", "true"]).exits(0);
    // It tells what it has accepted with its goodbye at the latest.
    assert!(lab.agent("a").stop().success());
    lab.until_online("a", false);
    std::fs::copy(&older, &journal).unwrap();

    lab.start_agent("a");
    let state = |lab: &Lab| lab.node("a").unwrap()["state"].as_str().unwrap().to_owned();
    eventually("the hub keeps it out", || (state(&lab) == "quarantined").then_some(()));
    let note = lab.node("a").unwrap()["note"].as_str().unwrap().to_owned();
    assert!(note.contains("stepped back"), "{note}");
    lab.run(&["nodes", "accept", "a"]).exits(0);
    lab.until_online("a", true);
    lab.run(&["run", "-t", "a", "--", "true"]).exits(0);
}

#[test]
fn a_journal_that_cannot_be_used_is_left_alone_and_says_what_to_do() {
    let mut lab = Lab::new(&["a"]);
    assert!(lab.agent("a").stop().success());
    let path = lab.path("a").join("journal.db");
    let good = std::fs::read(&path).unwrap();
    // SQLite keeps a program's own format number here.
    const FORMAT: std::ops::Range<usize> = 60..64;
    let mut newer = good.clone();
    newer[FORMAT].copy_from_slice(&9_u32.to_be_bytes());
    for (content, said, hint) in [
        (newer, "newer than the 1", "install the version"),
        (vec![0x5a; 8192], "is not a journal", "restore the data directory"),
    ] {
        std::fs::write(&path, &content).unwrap();
        let start = lab.begin_as(&mut lab.agent_command("a")).end().exits(4);
        let text = start.err.replace("\n  │ ", " ").replace("\n        ", " ");
        assert!(text.contains(said) && text.contains(hint), "{text}");
        assert_eq!(std::fs::read(&path).unwrap(), content, "it was not touched");
    }
    std::fs::write(&path, good).unwrap();
    lab.start_agent("a");
    lab.until_online("a", true);
}

#[test]
fn of_several_hub_addresses_any_that_answers_will_do() {
    let mut lab = Lab::new(&[]);
    // Nobody listens at the first.
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let here = format!("127.0.0.1:{}", lab.port());
    lab.join("a", &["--link", &dead, "--link", &here]);
    lab.until_online("a", true);
    lab.agent("a").crash();
    lab.until_online("a", false);
    // Also without flags: the addresses are in its file.
    lab.start_agent("a");
    lab.until_online("a", true);
}

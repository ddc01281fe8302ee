//! `run` and `runs`: outcomes, exit statuses, and the lines of JSON that programs read.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::lab::{Lab, eventually, processes_with};

/// Takes out what differs each time, having looked that it is there.
fn settled(mut line: Value) -> Value {
    let object = line.as_object_mut().expect("an object");
    assert!(object.remove("run").is_some_and(|run| run.is_string()));
    if object["event"] == "result" {
        assert!(object.remove("started_at").is_some_and(|at| at.is_i64()));
        assert!(object.remove("duration_ms").is_some_and(|took| took.is_u64()));
    }
    line
}

#[test]
fn every_outcome_has_its_exit_status_and_its_line() {
    let lab = Lab::new(&["a", "b"]);
    let result = |lab: &Lab, status: i32, words: &[&str]| {
        let said = lab.run(&[&["run", "-t", "a", "--json"], words].concat()).exits(status);
        let lines: Vec<Value> = said.json().into_iter().map(settled).collect();
        let (ok, failed) = if status == 0 { (1, 0) } else { (0, 1) };
        assert_eq!(lines[0], json!({"event": "accepted", "targets": 1}));
        assert_eq!(lines[2], json!({"event": "summary", "ok": ok, "failed": failed, "pending": 0}));
        assert_eq!(lines.len(), 3);
        lines[1].clone()
    };
    assert_eq!(
        result(&lab, 0, &["--", "sh", "-c", "echo out; echo err >&2"]),
        json!({"event": "result", "node": "a", "outcome": "finished", "exit_code": 0, "stdout": "out\n", "stderr": "err\n"})
    );
    assert_eq!(
        result(&lab, 1, &["--", "sh", "-c", "exit 7"]),
        json!({"event": "result", "node": "a", "outcome": "finished", "exit_code": 7, "stdout": "", "stderr": ""})
    );
    assert_eq!(
        result(&lab, 1, &["--", "sh", "-c", "kill -9 $$"]),
        json!({"event": "result", "node": "a", "outcome": "finished", "exit_code": null, "signal": 9, "stdout": "", "stderr": ""})
    );
    assert_eq!(
        result(&lab, 0, &["--", "printf", "\\377\\376"]),
        json!({"event": "result", "node": "a", "outcome": "finished", "exit_code": 0, "stdout_base64": "//4=", "stderr": ""})
    );
    assert_eq!(result(&lab, 1, &["--timeout", "200ms", "--", "sleep", "60"])["outcome"], "timed_out");
    assert_eq!(result(&lab, 1, &["--", "/no/such/program"])["outcome"], "failed");

    // Far more than is kept: cut with a note, and the node goes on.
    let cut = result(&lab, 0, &["--", "head", "-c", "30000000", "/dev/zero"]);
    assert_eq!((&cut["truncated"], &cut["stdout_bytes"]), (&json!(true), &json!(30_000_000)), "{cut:.300}");
    assert!(cut["stdout"].as_str().unwrap().len() <= 1 << 20);

    let both =
        lab.run(&["run", "-t", "*", "--", "sh", "-c", "test $(basename $(pwd)) != nowhere; echo same"]);
    let both = both.exits(0);
    assert_eq!(both.out.matches("same").count(), 1, "equal outputs are folded: {}", both.out);
    lab.run(&["run", "-t", "nobody", "--", "true"]).exits(2);
    lab.run(&["run", "-t", "role=", "--", "true"]).exits(2);
    lab.run(&["run", "--", "true"]).exits(2);
    let mut lost = lab.command();
    lab.begin_as(lost.args(["--hub", "unix:/nowhere/api.sock", "run", "-t", "a", "--", "true"]))
        .end()
        .exits(4);
}

#[test]
fn live_output_comes_in_order_and_a_reader_that_leaves_does_no_harm() {
    let lab = Lab::new(&["a"]);
    let script = "for i in 1 2 3 4 5; do echo $i; done; sleep 0.1; echo 6";
    let said = lab.run(&["run", "-t", "a", "--stream", "--", "sh", "-c", script]).exits(0);
    let lines: Vec<&str> = said.out.lines().filter_map(|line| line.strip_prefix("a | ")).collect();
    assert_eq!(lines, ["1", "2", "3", "4", "5", "6"]);

    let mut shell = std::process::Command::new("sh");
    lab.seclude(&mut shell);
    shell.env("MAINSTAY_HUB", lab.hub_url());
    shell.args(["-c", "\"$0\" run -t a -- seq 1 200000 | head -n 2", crate::lab::BINARY]);
    let said = lab.begin_as(&mut shell).end().exits(0);
    assert!(!said.err.contains("panicked") && said.out.ends_with("1\n"), "{}{}", said.out, said.err);
}

#[test]
fn a_cancel_ends_all_that_a_command_started_and_whoever_watches_can_leave_and_come_back() {
    let lab = Lab::new(&["a"]);
    let (group, session) = ("98701.25", "98702.25");
    let script = format!("sleep {group} & setsid sleep {session} & wait");
    let watching = lab.begin(&["run", "-t", "a", "--", "sh", "-c", &script]);
    eventually("both run", || {
        (!processes_with(group).is_empty() && processes_with(&format!("sleep\0{session}")).len() == 1)
            .then_some(())
    });
    watching.signal(Signal::SIGINT);
    let said = watching.end().exits(3);
    let run =
        said.err.split("runs watch ").nth(1).expect("how to come back").split('`').next().unwrap().to_owned();

    lab.run(&["runs", "cancel", &run]).exits(0);
    let said = lab.run(&["runs", "watch", &run, "--json"]).exits(1);
    assert!(said.json().iter().any(|line| line["outcome"] == "cancelled"), "{}", said.out);
    assert_eq!(processes_with(group), Vec::<i32>::new());
    assert_eq!(processes_with(session), Vec::<i32>::new(), "what began a session of its own goes too");
}

#[test]
fn batches_stop_at_too_many_failures_and_a_retry_reaches_those_that_failed() {
    let lab = Lab::new(&["a", "b", "c"]);
    let flag = lab.path("works");
    let test = ["--", "test", "-e", flag.to_str().unwrap()];
    let options = ["run", "-t", "*", "--json", "--batch", "1", "--max-failures", "0"];
    let said = lab.run(&[&options[..], &test].concat()).exits(1);
    let lines = said.json();
    let summary = lines.last().unwrap();
    let ran = lines.iter().filter(|line| line["outcome"] == "finished").count();
    assert_eq!(ran, 1, "{}", said.out);
    assert_eq!(
        (&summary["failed"], &summary["ok"], &summary["pending"]),
        (&json!(3), &json!(0), &json!(0)),
        "{summary}"
    );

    std::fs::write(&flag, "").unwrap();
    let run = lines[0]["run"].as_str().unwrap();
    let said = lab.run(&["runs", "retry", run, "--failed", "--json"]).exits(0);
    assert_eq!(said.json().last().unwrap()["ok"], 3, "{}", said.out);
}

//! The program as people and programs use it: arguments in, text and exit status out.

use std::fmt::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::fake_hub::{RUN, Served};

/// No test waits longer for a process.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn program(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
    command.env_clear().env("HOME", home).env("XDG_RUNTIME_DIR", home).kill_on_drop(true);
    command.stdin(Stdio::null());
    command
}

pub(crate) async fn finish(mut command: Command, input: &[u8]) -> String {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A program that does not read its input is none of this test's business.
    let _ = stdin.write_all(input).await;
    drop(stdin);
    let output = timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.stderr.is_empty() {
        write!(text, "--- stderr\n{}", String::from_utf8_lossy(&output.stderr)).unwrap();
    }
    write!(text, "--- {}", output.status).unwrap();
    text
}

fn own_uid() -> String {
    format!("uid:{}", nix::unistd::geteuid())
}

fn timeless(line: &str) -> &str {
    let moving = ["created  ", "expires  "];
    moving.into_iter().find(|start| line.starts_with(start)).unwrap_or(line)
}

impl Served {
    async fn command(&self, arguments: &[&str]) -> String {
        self.command_with(arguments, b"").await
    }

    async fn command_with(&self, arguments: &[&str], input: &[u8]) -> String {
        let mut command = program(self.dir.path());
        command.env("MAINSTAY_HUB", format!("unix:{}", self.socket().display())).args(arguments);
        let text = finish(command, input).await.replace(self.dir.path().to_str().unwrap(), "DIR");
        // Who the test runs as, and when.
        let text = text.replace(&own_uid(), "uid:N");
        text.lines().map(timeless).collect::<Vec<_>>().join("\n")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn run_folds_equal_outputs() {
    let hub = Served::start().await;
    insta::assert_snapshot!(hub.command(&["run", "-t", "ship*", "--", "uptime"]).await);
    insta::assert_snapshot!(hub.command(&["run", "-t", "ship*", "--", "fail"]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn run_gives_programs_exact_lines() {
    let hub = Served::start().await;
    insta::assert_snapshot!(hub.command(&["run", "--json", "-t", "ship*", "--", "fail"]).await);
    insta::assert_snapshot!(hub.command(&["run", "--json", "-t", "ship*", "--", "away"]).await);
    insta::assert_snapshot!(hub.command(&["run", "--json", "-t", "nobody", "--", "uptime"]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn run_streams_lines_in_order() {
    let hub = Served::start().await;
    insta::assert_snapshot!(hub.command(&["run", "--stream", "ship*", "--", "live"]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn run_stops_waiting_for_nodes_that_are_away() {
    let hub = Served::start().await;
    insta::assert_snapshot!(hub.command(&["run", "-t", "ship*", "--", "away"]).await);
    // One that hangs is waited for, unless a limit is given.
    insta::assert_snapshot!(hub.command(&["run", "-t", "ship*", "--wait", "50ms", "--", "away"]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_listed_and_one_shows_how_it_ended() {
    let hub = Served::start().await;
    insta::assert_snapshot!(hub.command(&["messages"]).await);
    let first = hub.command(&["messages", "--limit", "1", "--json"]).await;
    assert!(first.contains(r#""state":"queued","pending":"away since"#), "{first}");
    assert_eq!(first.lines().count(), 2, "{first}");
    // By its end; whole; and one that is not there.
    insta::assert_snapshot!(hub.command(&["messages", "0707"]).await);
    let failed = hub.command(&["messages", "06060606-0606-0606-0606-060606060606", "--json"]).await;
    assert!(failed.contains(r#""end":{"outcome":"failed","reason":"no such program"}"#), "{failed}");
    insta::assert_snapshot!(hub.command(&["messages", "01"]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_detaches() {
    let hub = Served::start().await;
    let mut command = program(hub.dir.path());
    command
        .env("MAINSTAY_HUB", format!("unix:{}", hub.socket().display()))
        .args(["run", "--json", "-t", "x", "--", "hang"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let pid = nix::unistd::Pid::from_raw(child.id().unwrap().try_into().unwrap());
    let mut lines =
        tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(child.stdout.take().unwrap()));
    // It says that the run is accepted only once it also listens for the signal.
    let first = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
    assert!(first.starts_with("{\"event\":\"accepted\""), "{first}");
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let last = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
    assert_eq!(
        last,
        format!("{{\"event\":\"summary\",\"run\":\"{RUN}\",\"ok\":0,\"failed\":0,\"pending\":1}}")
    );
    assert_eq!(timeout(PATIENCE, child.wait()).await.unwrap().unwrap().code(), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_left_live_output_is_told_how_to_go_on_from_there() {
    let hub = Served::start().await;
    let mut command = program(hub.dir.path());
    command
        .env("MAINSTAY_HUB", format!("unix:{}", hub.socket().display()))
        .args(["run", "--stream", "-t", "ship1", "--", "halfway"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let pid = nix::unistd::Pid::from_raw(child.id().unwrap().try_into().unwrap());
    let mut lines =
        tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(child.stdout.take().unwrap()));
    let next = async |lines: &mut tokio::io::Lines<_>| timeout(PATIENCE, lines.next_line()).await.unwrap();
    assert_eq!(next(&mut lines).await.unwrap().unwrap(), "ship1 | one");
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(next(&mut lines).await.unwrap().unwrap(), "ship1 | tw", "what had begun");
    let output = timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("`mainstay runs watch 5d0c81f2 --stream --after 2`"), "{said}");

    hub.command(&["run", "--detach", "ship*", "--", "live"]).await;
    let rest = hub.command(&["runs", "watch", "--stream", "--after", "3"]).await;
    assert_eq!(
        rest,
        "ship1 | o\n--- stderr\nship10: exit 3\n1 ok, 1 failed (run 5d0c81f2)\n--- exit status: 1"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_ordered_is_what_was_said() {
    let hub = Served::start().await;
    let script = hub.dir.path().join("check.sh");
    std::fs::write(&script, "#!/bin/sh\necho hi\n").unwrap();
    let script = script.to_str().unwrap();
    let all = [
        "run",
        "a",
        "-t",
        "b",
        "--timeout",
        "90s",
        "--expires",
        "2h",
        "--idempotent",
        "--script",
        script,
        "--batch",
        "25%",
        "--max-failures",
        "3",
        "-e",
        "A=1",
        "-e",
        "B=x=y",
        "--cwd",
        "/tmp",
        "--user",
        "www",
        "--stdin",
        "-",
        "--output-limit",
        "100",
        "--detach",
        "--",
        "--json",
        "arg",
    ];
    insta::assert_snapshot!(hub.command_with(&all, b"\xffinput").await);
    insta::assert_snapshot!(
        hub.asked().join("\n").replace(&format!("uid:{}", nix::unistd::geteuid()), "uid:N")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_says_what_is_right() {
    let hub = Served::start().await;
    let mut shown = String::new();
    for arguments in [
        &["run", "--", "uptime"][..],
        &["run", "ship1"],
        &["run", "-t", "nobody", "--", "uptime"],
        &["run", "-t", "nobody", "--preview"],
        &["run", "-t", "a", "--timeout", "5", "--", "x"],
        &["run", "-t", "a", "--batch", "200%", "--", "x"],
        &["run", "-t", "a", "--script", "/nowhere", "--", "x"],
        &["run", "-t", "a", "--", "full"],
        &["nodes", "show", "../etc"],
        &["nodes", "list", "("],
        &["nodes", "list", "nobody"],
        &["nodes", "revoke", "ship1"],
        &["runs", "show", "ffff"],
        &["runs", "show", "0190"],
        &["send", "/nowhere"],
        &["restore", "/nowhere", "--data", "/nowhere/data"],
        &["login", "http://hub"],
        &["login", "https://hub"],
        &["--hub", "https://hub", "status"],
        &["--hub", "unix:/nowhere/api.sock", "status"],
    ] {
        write!(shown, "$ mainstay {}\n{}\n\n", arguments.join(" "), hub.command(arguments).await).unwrap();
    }
    insta::assert_snapshot!(shown);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fleet_is_shown_and_changed() {
    let hub = Served::start().await;
    let mut shown = String::new();
    for arguments in [
        &["status"][..],
        &["nodes", "list"],
        &["nodes", "show", "ship1"],
        &["nodes", "accept", "stranger", "--name", "ship4"],
        &["nodes", "label", "ship1", "role=db", "env-"],
        &["nodes", "revoke", "ship1", "--reason", "stolen", "--yes"],
        &["nodes", "remove", "ship1", "--yes"],
        &["token", "create", "--uses", "5", "--lifetime", "2h", "--label", "role=web"],
        &["token", "create", "--operator", "alice", "--allow-target", "env=test"],
        &["token", "list"],
        &["token", "revoke", "4f1c2b"],
        &["run", "-t", "x", "--preview"],
        &["runs", "list"],
        &["runs", "show"],
        &["runs", "show", "5d0c81f2", "--output"],
        &["runs", "cancel", "5d0c81f2"],
        &["runs", "retry", "5d0c81f2", "--failed"],
        &["runs", "watch"],
        &["runs", "prune", "--older", "7d", "--yes"],
        &["audit"],
        &["errors"],
    ] {
        write!(shown, "$ mainstay {}\n{}\n\n", arguments.join(" "), hub.command(arguments).await).unwrap();
    }
    write!(shown, "Asked:\n{}", hub.asked().join("\n")).unwrap();
    insta::assert_snapshot!(shown.replace(&own_uid(), "uid:N"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_json_lines_if_asked() {
    let hub = Served::start().await;
    for arguments in [
        &["status"][..],
        &["nodes", "list"],
        &["nodes", "show", "ship1"],
        &["nodes", "accept", "stranger"],
        &["nodes", "label", "ship1", "a=b"],
        &["nodes", "remove", "ship1", "--yes"],
        &["token", "create"],
        &["token", "list"],
        &["token", "revoke", "x"],
        &["run", "-t", "x", "--preview"],
        &["run", "-t", "x", "--detach", "--", "uptime"],
        &["runs", "list"],
        &["runs", "show"],
        &["runs", "watch"],
        &["runs", "cancel", "5d0c81f2"],
        &["runs", "retry", "5d0c81f2", "--detach"],
        &["runs", "prune", "--older", "7d", "--yes"],
        &["audit"],
        &["errors"],
    ] {
        let text = hub.command(&[&["--json"], arguments].concat()).await;
        let text = text.strip_suffix("--- exit status: 0").unwrap_or_else(|| panic!("{arguments:?}: {text}"));
        assert!(!text.is_empty(), "{arguments:?}");
        for line in text.lines() {
            let value: serde_json::Value =
                serde_json::from_str(line).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {line}"));
            assert!(value.is_object(), "{arguments:?}: {line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_sent_whole_or_refused_whole() {
    let hub = Served::start().await;
    insta::assert_snapshot!(hub.command_with(&["send", "-"], b"{toNode: ship1}").await);
    insta::assert_snapshot!(hub.command_with(&["send", "-"], b"{bad: 1}").await);
    insta::assert_snapshot!(hub.command_with(&["send", "-"], b"fine\n\xff").await);
    assert_eq!(hub.asked(), ["send \"{toNode: ship1}\"", "send \"{bad: 1}\""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_breaks_continues_where_it_was() {
    let hub = Served::start().await;
    *hub.hub.breaks.lock().unwrap() = 2;
    let shown = hub.command(&["run", "--json", "-t", "ship*", "--", "uptime"]).await;
    let events: Vec<&str> = shown.lines().filter_map(|line| line.split('"').nth(3)).collect();
    assert_eq!(events, ["accepted", "result", "result", "result", "summary"], "{shown}");
    assert_eq!(hub.asked()[1..], ["watch from 0", "watch from 2", "watch from 4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_there_whole_or_not_at_all() {
    use std::os::unix::fs::PermissionsExt;
    let hub = Served::start().await;
    let file = hub.dir.path().join("copy");
    let name = file.to_str().unwrap();
    insta::assert_snapshot!(hub.command(&["backup", name]).await);
    assert_eq!(std::fs::read(&file).unwrap(), vec![b'b'; 1_000_000]);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    insta::assert_snapshot!(hub.command(&["backup", name]).await);
    // A hub that fails in the middle leaves nothing, neither here nor there.
    hub.command(&["run", "-t", "x", "--detach", "--", "broken"]).await;
    insta::assert_snapshot!(hub.command(&["backup", &format!("{name}2")]).await);
    let mut left: Vec<_> =
        std::fs::read_dir(hub.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["api.sock", "copy"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_nobody_reads_is_no_panic() {
    let hub = Served::start().await;
    let mut command = program(hub.dir.path());
    command.env("MAINSTAY_HUB", format!("unix:{}", hub.socket().display())).args(["completions", "bash"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let output = timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dev_in_another_terminal_is_found_while_it_lives() {
    use std::os::unix::fs::DirBuilderExt;
    let hub = Served::start().await;
    let directory = hub.dir.path().join("mainstay");
    std::fs::DirBuilder::new().mode(0o700).create(&directory).unwrap();
    let pointer = serde_json::json!({"socket": hub.socket(), "pid": 1});
    std::fs::write(directory.join("dev"), pointer.to_string()).unwrap();
    let without_flags = async || {
        let mut command = program(hub.dir.path());
        command.arg("status");
        finish(command, b"").await
    };
    assert!(without_flags().await.starts_with("hub       central at unix:"));
    // Also by whoever is logged in to a fleet that must not be hit by mistake.
    let config = hub.dir.path().join(".config/mainstay");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(config.join("config.toml"), "default = \"https://127.0.0.1:1\"\n").unwrap();
    assert!(without_flags().await.starts_with("hub       central at unix:"));
    std::fs::remove_file(config.join("config.toml")).unwrap();
    hub.shutdown.cancel();
    hub.tasks.close();
    hub.tasks.wait().await;
    // A program that another test starts just then holds the closed socket until it runs.
    let socket = hub.dir.path().join("api.sock");
    timeout(PATIENCE, async {
        while std::os::unix::net::UnixStream::connect(&socket).is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let gone = without_flags().await;
    assert!(gone.contains("no hub can be reached at unix:/var/lib/mainstay/api.sock"), "{gone}");
    assert!(gone.ends_with("exit status: 4"), "{gone}");
}

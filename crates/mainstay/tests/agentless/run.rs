//! `mainstay run --ssh`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::server::{PATIENCE, Ran, address, on_path, processes_with, start, wait_until};

#[test]
fn a_command_runs_on_ten_hosts_and_equal_outputs_fold() {
    let Some(server) = start("a_command_runs_on_ten_hosts_and_equal_outputs_fold") else { return };
    // The second host brings the copy for all that share its cache.
    let first = server.run(&["run", "--ssh", &address(1), "--", "echo", "warm"]);
    assert_eq!((first.code, first.stdout.as_str()), (Some(0), "── 127.0.0.12 · ok\nwarm\n"), "{first:?}");
    let all = server.run(&["run", "--ssh", &server.all(), "--", "sh", "-c", "echo hi; echo odd >&2"]);
    assert_eq!(all.code, Some(0), "{all:?}");
    assert!(all.stdout.contains("(10) · ok\nhi\n── stderr\nodd\n"), "{all:?}");
    assert!(all.stderr.contains("10 ok"), "{all:?}");
}

#[test]
fn ends_are_told_as_they_are() {
    let Some(server) = start("ends_are_told_as_they_are") else { return };
    let host = address(1);
    let failed = server.run(&["run", "--ssh", &host, "--json", "--", "sh", "-c", "printf '\\377'; exit 7"]);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    let lines = failed.json();
    assert_eq!((&lines[0]["event"], &lines[0]["targets"]), (&"accepted".into(), &1.into()));
    assert_eq!((&lines[1]["exit_code"], &lines[1]["stdout_base64"]), (&7.into(), &"/w==".into()));
    assert_eq!((&lines[2]["failed"], &lines[2]["ok"]), (&1.into(), &0.into()));
    let killed = server.run(&["run", "--ssh", &host, "--json", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!((killed.json()[1]["signal"].clone(), killed.code), (9.into(), Some(1)));
    let late = server.run(&["run", "--ssh", &host, "--json", "--timeout", "200ms", "--", "sleep", "1000"]);
    assert_eq!((late.json()[1]["outcome"].clone(), late.code), ("timed_out".into(), Some(1)));
    let env = server.run(&[
        "run",
        "--ssh",
        &host,
        "--env",
        "A=b c",
        "--cwd",
        "/",
        "--",
        "sh",
        "-c",
        "pwd; echo $A",
    ]);
    assert!(env.stdout.ends_with("/\nb c\n"), "{env:?}");
}

#[test]
fn an_unknown_host_key_is_refused_unless_told() {
    let Some(server) = start("an_unknown_host_key_is_refused_unless_told") else { return };
    server.know(2..3);
    let refused = server.run(&["run", "--ssh", &address(1), "--", "true"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stdout.contains("undeliverable"), "{refused:?}");
    assert!(refused.stdout.contains("--accept-new-host-keys"), "{refused:?}");
    let taken = server.run(&["run", "--ssh", &address(1), "--accept-new-host-keys", "--", "true"]);
    assert_eq!(taken.code, Some(0), "{taken:?}");
    assert_eq!(server.run(&["run", "--ssh", &address(1), "--", "true"]).code, Some(0));
}

#[test]
fn nothing_is_left_running_when_the_client_is_killed() {
    let Some(server) = start("nothing_is_left_running_when_the_client_is_killed") else { return };
    let sign = format!("1000.{}", std::process::id());
    // One of them in a session of its own, whose parent has gone, and deaf.
    let script = format!(
        "trap '' TERM HUP; (setsid sh -c 'trap \"\" TERM; sleep {sign}; sleep {sign}' &) ; sleep {sign}"
    );
    let mut client =
        server.mainstay(&["run", "--ssh", &address(1), "--", "sh", "-c", &script]).spawn().unwrap();
    let cache = server.dir.path().join("cache/mainstay").display().to_string();
    wait_until("it runs", PATIENCE, || processes_with(&format!("sleep {sign}")).len() >= 2);
    client.kill().unwrap();
    client.wait().unwrap();
    wait_until("all is gone", Duration::from_secs(2), || {
        processes_with(&sign).is_empty() && processes_with(&cache).is_empty()
    });
}

#[test]
fn what_was_sent_to_the_background_stays_after_a_good_end() {
    let Some(server) = start("what_was_sent_to_the_background_stays_after_a_good_end") else { return };
    let sign = format!("2000.{}", std::process::id());
    let ran =
        server.run(&["run", "--ssh", &address(1), "--", "sh", "-c", &format!("sleep {sign} & echo done")]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let left = processes_with(&format!("sleep {sign}"));
    assert_eq!(left.len(), 1);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(left[0] as i32), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
}

#[test]
fn commands_can_run_as_another_user_by_sudo() {
    let name = "commands_can_run_as_another_user_by_sudo";
    if !on_path("sudo") || !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED {name}: it needs root and sudo");
        return;
    }
    let Some(server) = start(name) else { return };
    // sudo gives the users their own homes, so their copies lie where a test has no directory of its own.
    let caches = ["/root/.cache/mainstay", "/var/tmp/mainstay-65534"].map(Path::new);
    let list = |cache: &Path| -> Vec<PathBuf> {
        fs::read_dir(cache).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let before = caches.map(list);
    let ran: Ran = server.run(&["run", "--ssh", &address(1), "--become=root", "--", "id", "-un"]);
    assert!(ran.code == Some(0) && ran.stdout.ends_with("root\n"), "{ran:?}");
    let nobody: Ran = server.run(&["run", "--ssh", &address(1), "--become=nobody", "--", "id", "-un"]);
    for (cache, before) in caches.into_iter().zip(before) {
        for copy in list(cache).into_iter().filter(|copy| !before.contains(copy)) {
            fs::remove_file(copy).unwrap();
        }
    }
    assert!(nobody.code == Some(0) && nobody.stdout.ends_with("nobody\n"), "{nobody:?}");
}

#[test]
fn a_damaged_copy_is_brought_anew() {
    let Some(server) = start("a_damaged_copy_is_brought_anew") else { return };
    let run = || server.run(&["run", "--ssh", &address(0), "--", "echo", "well"]);
    let ran: Ran = run();
    assert!(ran.code == Some(0) && ran.stdout.ends_with("well\n"), "{ran:?}");
    let cache = server.at("host0/cache/mainstay");
    let copy = fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
    let size = fs::metadata(&copy).unwrap().len();
    // What a power cut leaves: the right size, and nothing at its beginning; or one that runs and is not the same: the end of
    // the file is a table for linkers.
    for damage in [0, size - 64] {
        let mut bytes = fs::read(&copy).unwrap();
        let damage = usize::try_from(damage).unwrap();
        bytes[damage..damage + 64].fill(0x55);
        fs::write(&copy, bytes).unwrap();
        let ran: Ran = run();
        assert!(ran.code == Some(0) && ran.stdout.ends_with("well\n"), "{ran:?}");
    }
}

#[test]
fn a_second_ctrl_c_says_of_each_host_that_it_was_interrupted() {
    let Some(server) = start("a_second_ctrl_c_says_of_each_host_that_it_was_interrupted") else { return };
    let (began, told) = (server.at("began"), server.at("told"));
    let script =
        format!("trap 'touch {}' TERM; touch {}; while :; do sleep 1; done", told.display(), began.display());
    let mut command = server.mainstay(&["run", "--ssh", &address(1), "--json", "--", "sh", "-c", &script]);
    let client = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let pid = Pid::from_raw(client.id() as i32);
    for file in [began, told] {
        wait_until("it has heard", PATIENCE, || file.exists());
        kill(pid, Signal::SIGINT).unwrap();
    }
    let out = client.wait_with_output().unwrap();
    let lines = String::from_utf8(out.stdout).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[1]["outcome"], "interrupted", "{lines:?}");
    assert!(lines[1]["reason"].is_string(), "{lines:?}");
    assert_eq!((&lines[2]["failed"], &lines[2]["pending"]), (&1.into(), &0.into()), "{lines:?}");
    assert_eq!(out.status.code(), Some(1));
}

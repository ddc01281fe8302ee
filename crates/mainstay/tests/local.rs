//! Runs on this machine as real processes, ended in the middle: by a kill, by Ctrl-C, beside another.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Nothing here takes longer, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory that stands for a machine.
struct Place {
    root: tempfile::TempDir,
}

impl Place {
    fn new(states: &str) -> Self {
        let place = Self { root: tempfile::tempdir().unwrap() };
        fs::create_dir(place.at("tmp")).unwrap();
        let path = place.root.path().to_str().unwrap();
        fs::write(place.at("site.yaml"), states.replace("HERE", path)).unwrap();
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.at(name)).unwrap_or_default()
    }

    fn start(&self, args: &[&str]) -> Run {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
        command.args(args).current_dir(self.root.path()).stdin(Stdio::null());
        command.env("MAINSTAY_DATA", self.at("data")).env("TMPDIR", self.at("tmp"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Run { child: Some(child), stderr, heard: String::new() }
    }

    fn wait_until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < PATIENCE, "never: {what}; log: {:?}", self.read("log"));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the states file's command wrote that many words.
    fn wait_for_words(&self, count: usize) {
        self.wait_until("the command began", || self.read("log").split_whitespace().count() >= count);
    }

    /// The living shells of the states file that a run started: their line names this place, and each leads a session.
    fn shells(&self) -> Vec<i32> {
        let path = self.root.path().to_str().unwrap();
        let is_one = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            // Of an ended process the line is empty.
            let leads = nix::unistd::getsid(Some(Pid::from_raw(*pid))).is_ok_and(|sid| sid.as_raw() == *pid);
            leads && line.starts_with("/bin/sh\0") && line.contains(path)
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_one).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for pid in self.shells() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// A running program; killed if nobody waited for it.
struct Run {
    child: Option<Child>,
    stderr: BufReader<ChildStderr>,
    heard: String,
}

impl Run {
    fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().unwrap().id();
        kill(Pid::from_raw(pid as i32), signal).unwrap();
    }

    fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        self.child.take().unwrap().wait().unwrap();
    }

    /// Waits until it says this on standard error.
    fn hear(&mut self, words: &str) {
        while !self.heard.contains(words) {
            assert_ne!(self.stderr.read_line(&mut self.heard).unwrap(), 0, "{words}: {}", self.heard);
        }
    }

    fn exits(mut self, code: i32) -> Said {
        self.stderr.read_to_string(&mut self.heard).unwrap();
        let Output { status, stdout, .. } = self.child.take().unwrap().wait_with_output().unwrap();
        let said =
            Said { stdout: String::from_utf8(stdout).unwrap(), stderr: std::mem::take(&mut self.heard) };
        assert_eq!(status.code(), Some(code), "{said:#?}");
        said
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[derive(Debug)]
struct Said {
    stdout: String,
    stderr: String,
}

const UP: [&str; 3] = ["up", "site.yaml", "--yes"];

/// Begins, and ends when it may.
const SLOW: &str = "
states:
  slow:
    cmd: {run: 'echo began >> HERE/log; while [ ! -e HERE/go ]; do sleep 0.01; done; echo ended >> HERE/log'}
";

#[test]
fn a_command_that_outlived_its_killed_run_is_ended_before_it_is_run_again() {
    let place = Place::new(SLOW);
    let first = place.start(&UP);
    place.wait_for_words(1);
    let [left] = place.shells()[..] else { panic!("{:?}", place.shells()) };
    first.kill();
    assert_eq!(place.shells(), [left], "nobody ends it yet");
    let second = place.start(&UP);
    place.wait_for_words(2);
    let now = place.shells();
    assert!(now.len() == 1 && now != [left], "{left} and now {now:?}");
    fs::write(place.at("go"), "").unwrap();
    let said = second.exits(0);
    assert_eq!(place.read("log"), "began\nbegan\nended\n");
    let ended = format!("sh (process {left})");
    let told: Vec<&str> = said.stderr.lines().filter(|line| line.contains("had left running")).collect();
    assert!(matches!(told[..], [line] if line.contains(&ended)), "{said:#?}");
    let third = place.start(&UP).exits(0);
    assert!(third.stdout.contains("stable") && !third.stderr.contains("had left running"), "{third:#?}");
}

#[test]
fn what_does_not_hear_that_it_should_end_is_killed() {
    let place = Place::new(
        "
states:
  deaf:
    cmd: {run: \"trap '' TERM; echo began >> HERE/log; while [ ! -e HERE/go ]; do sleep 0.01; done\"}
",
    );
    let first = place.start(&UP);
    place.wait_for_words(1);
    let left = place.shells();
    first.kill();
    let second = place.start(&UP);
    place.wait_for_words(2);
    assert!(!place.shells().contains(&left[0]));
    fs::write(place.at("go"), "").unwrap();
    assert!(second.exits(0).stderr.contains(&format!("(process {})", left[0])));
}

#[test]
fn what_a_killed_plan_left_is_ended_and_cleared_away() {
    let place = Place::new(
        "
states:
  guarded:
    file: {path: HERE/file, content: x}
    unless: 'touch $TMPDIR/mark; while [ ! -e HERE/go ]; do sleep 0.01; done; false'
",
    );
    let scratch = || fs::read_dir(place.at("tmp")).unwrap().flatten().map(|entry| entry.path()).next();
    let first = place.start(&["plan", "site.yaml"]);
    place.wait_until("the guard runs", || scratch().is_some_and(|path| path.join("mark").exists()));
    first.kill();
    assert!(scratch().is_some());
    let left = place.shells();
    fs::write(place.at("go"), "").unwrap();
    // Whether the guard ends by itself or is ended, nothing of it stays.
    place.start(&["plan", "site.yaml"]).exits(3);
    assert!(!place.shells().iter().any(|pid| left.contains(pid)));
    assert_eq!(scratch(), None);
}

#[test]
fn two_runs_beside_each_other_do_not_end_each_others_commands() {
    let place = Place::new(SLOW);
    let first = place.start(&UP);
    place.wait_for_words(1);
    let planned = place.start(&["plan", "site.yaml"]).exits(3);
    assert!(!planned.stderr.contains("had left running"), "{planned:#?}");
    let second = place.start(&UP).exits(1);
    assert!(second.stderr.contains("another apply is under way on this machine: process"), "{second:#?}");
    assert_eq!(place.shells().len(), 1);
    fs::write(place.at("go"), "").unwrap();
    first.exits(0);
    assert_eq!(place.read("log"), "began\nended\n");
}

#[test]
fn a_run_that_starts_no_command_writes_nothing_down() {
    let place = Place::new("states:\n  file:\n    file: {path: HERE/file, content: x}\n");
    place.start(&UP).exits(0);
    place.start(&UP).exits(0);
    assert!(!place.at("data/state/running").exists());
}

#[test]
fn a_second_ctrl_c_says_what_it_ended_and_what_was_not_reached() {
    let after = "  last:\n    file: {path: HERE/last, content: x}\n";
    let place = Place::new(&format!("{SLOW}{after}"));
    let mut run = place.start(&UP);
    place.wait_for_words(1);
    run.signal(Signal::SIGINT);
    run.hear("Cancelled: slow may end");
    run.signal(Signal::SIGINT);
    let said = run.exits(1);
    assert!(said.stdout.contains("✗ slow (cmd) failed: it was ended in the middle"), "{said:#?}");
    assert!(said.stdout.contains("⊘ last (file) blocked: it was not reached"), "{said:#?}");
    assert!(said.stderr.contains("interrupted: slow ended in the middle, 1 not reached"), "{said:#?}");
    let row = said.stdout.lines().last().unwrap().split_whitespace();
    assert_eq!(row.skip(1).collect::<Vec<_>>(), ["interrupted", "0", "0", "0", "1", "1", "1"], "{said:#?}");
    assert_eq!(place.shells(), [0; 0]);
    assert_eq!(place.read("log"), "began\n");
}

/// How it ends with what it says going to `out`, and its words on standard error.
fn ends(place: &Place, args: &[&str], out: impl Into<Stdio>) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
    command.args(args).current_dir(place.root.path()).stdin(Stdio::null()).stdout(out);
    command.env("MAINSTAY_DATA", place.at("data")).env("TMPDIR", place.at("tmp"));
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// 4 would mean that the hub cannot be reached.
#[cfg(target_os = "linux")]
#[test]
fn that_the_output_cannot_be_written_is_a_failure_of_its_own() {
    let place = Place::new("states: {a: {file: {path: HERE/a, content: a}}}");
    for args in [&["plan", "site.yaml"][..], &["plan", "site.yaml", "--json"], &["modules"]] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let (status, words) = ends(&place, args, full);
        assert_eq!(status, Some(1), "{args:?}: {words}");
        assert!(words.contains("the output cannot be written"), "{args:?}: {words}");
    }
}

#[test]
fn a_graph_is_not_given_as_json() {
    let place = Place::new("states: {a: {file: {path: HERE/a, content: a}}}");
    let (status, words) = ends(&place, &["plan", "site.yaml", "--graph", "dot", "--json"], Stdio::null());
    assert_eq!(status, Some(2), "{words}");
}

//! `cmd` with real processes: what it answers, and that nothing survives that should not.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mainstay_core::envelope::Stream;
use mainstay_core::id::KeyId;
use mainstay_core::outcome::Exit;
use mainstay_core::seal::Private;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::method::testing::{call, request};
use crate::method::{Chunk, MethodEnd, Methods};

/// Far above what anything here takes, so that a hang is a failure and a slow machine is not.
const PATIENCE: Duration = Duration::from_secs(60);

struct Node {
    processes: Arc<Processes>,
    methods: Methods,
    _data: tempfile::TempDir,
}

impl Node {
    /// One of its own for each test, so that their cgroups have different homes.
    fn new(seed: u8) -> Self {
        let data = tempfile::tempdir().unwrap();
        let processes = Processes::open(data.path(), KeyId::from_bytes([seed; 32]));
        Self::of(processes, data)
    }

    fn without_cgroups() -> Self {
        Self::of(Processes::without_cgroups(), tempfile::tempdir().unwrap())
    }

    fn of(processes: Arc<Processes>, data: tempfile::TempDir) -> Self {
        let methods = Methods::of(vec![Arc::new(Cmd::new(processes.clone()))]);
        Self { methods, processes, _data: data }
    }

    fn start(&self, request: Request, private: Private) -> Execution {
        let (call, chunks) = call(request, private);
        let (mark, cancel) = (Mark { origin: call.origin, id: call.id }, call.cancel.clone());
        let methods = self.methods.clone();
        Execution { mark, cancel, chunks, task: tokio::spawn(async move { methods.run(call).await }) }
    }

    async fn run(&self, request: Request, private: Private) -> Ended {
        self.start(request, private).end().await
    }

    async fn sh(&self, script: &str) -> Ended {
        self.run(request("cmd", &["sh", "-c", script]), Private::default()).await
    }
}

struct Execution {
    mark: Mark,
    cancel: CancellationToken,
    chunks: mpsc::Receiver<Chunk>,
    task: JoinHandle<MethodEnd>,
}

#[derive(Debug)]
struct Ended {
    end: MethodEnd,
    stdout: String,
    stderr: String,
}

impl Execution {
    async fn end(mut self) -> Ended {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let all = async {
            while let Some(chunk) = self.chunks.recv().await {
                match chunk.stream {
                    Stream::Stdout => stdout.extend_from_slice(&chunk.data),
                    Stream::Stderr => stderr.extend_from_slice(&chunk.data),
                }
            }
            self.task.await.unwrap()
        };
        let end = tokio::time::timeout(PATIENCE, all).await.expect("it ends");
        Ended { end, stdout: String::from_utf8(stdout).unwrap(), stderr: String::from_utf8(stderr).unwrap() }
    }

    /// The next line of output, of a program that writes line by line.
    async fn line(&mut self) -> String {
        let chunk = tokio::time::timeout(PATIENCE, self.chunks.recv()).await;
        String::from_utf8(chunk.unwrap().unwrap().data.to_vec()).unwrap()
    }
}

impl Ended {
    fn failure(&self) -> &str {
        match &self.end.outcome {
            Outcome::Failed(reason) => reason,
            other => panic!("{other:?} is not a failure"),
        }
    }
}

fn with_timeout(args: &[&str], timeout: Duration) -> Request {
    let mut request = request("cmd", args);
    request.timeout_ms = Some(timeout.as_millis() as u64);
    request.stream = true;
    request
}

fn script(text: &str, args: &[&str]) -> Request {
    let mut request = request("cmd", args);
    request.data = Bytes::copy_from_slice(text.as_bytes());
    request
}

fn exit(code: i32) -> Outcome {
    Outcome::Finished(Exit::Code(code))
}

/// Whether a process lives; one that has ended but was not reaped does not.
fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.starts_with(" Z"))
}

#[tokio::test]
async fn streams_exit_codes_and_signals_come_through() {
    let node = Node::new(1);
    let ended = node.sh("echo out; echo err >&2; exit 7").await;
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(ended.end.outcome, exit(7));
    assert_eq!((ended.end.stdout_bytes, ended.end.stderr_bytes), (4, 4));
    let ended = node.sh("kill -9 $$").await;
    assert_eq!(ended.end.outcome, Outcome::Finished(Exit::Signal(9)));
    // No shell unless asked for: this is one argument and no redirection.
    let ended = node.run(request("cmd", &["echo", "$HOME > x"]), Private::default()).await;
    assert_eq!(ended.stdout, "$HOME > x\n");
}

#[tokio::test]
async fn a_process_is_reaped_and_its_cgroup_removed() {
    let node = Node::new(2);
    let ended = node.sh("echo $$").await;
    let gone = !fs::exists(format!("/proc/{}", ended.stdout.trim())).unwrap();
    assert!(gone, "a zombie remains");
    assert_eq!(node.processes.count_cgroups(), 0);
}

#[tokio::test]
async fn what_cannot_be_started_fails_with_the_reason() {
    let node = Node::new(3);
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    fs::write(&plain, "echo hi").unwrap();
    let junk = dir.path().join("junk");
    fs::write(&junk, [0x7f, 0, 1, 2]).unwrap();
    fs::set_permissions(&junk, fs::Permissions::from_mode(0o755)).unwrap();
    for (program, reason) in [
        ("no-such-program", "the program \"no-such-program\" was not found"),
        ("/no/such/program", "the program \"/no/such/program\" was not found"),
        (plain.to_str().unwrap(), "may not be executed"),
        (dir.path().to_str().unwrap(), "may not be executed"),
        (junk.to_str().unwrap(), "is in no format that this machine runs"),
    ] {
        let ended = node.run(request("cmd", &[program]), Private::default()).await;
        assert!(ended.failure().contains(reason), "{ended:?}");
    }
    let ended = node.run(script("#!/no/such/python3 -x\n", &[]), Private::default()).await;
    assert_eq!(ended.failure(), "the script's interpreter \"/no/such/python3\" was not found");
    let huge = "x".repeat(900_000);
    let ended = node.run(request("cmd", &["true", &huge]), Private::default()).await;
    assert!(ended.failure().contains("too long"), "{ended:?}");
    assert_eq!(node.processes.count_cgroups(), 0);
}

#[tokio::test]
async fn failures_do_not_repeat_what_was_sealed() {
    let node = Node::new(4);
    for (private, reason) in [
        (Private { cwd: Some("/secret-place".into()), ..Private::default() }, "cwd: no such directory"),
        (
            Private { user: Some("secret-user".into()), ..Private::default() },
            "user: no such user on this node",
        ),
        (
            Private { env: vec![("A=secret".into(), String::new())], ..Private::default() },
            "env: a name is empty or holds a = or a zero byte",
        ),
    ] {
        let ended = node.run(request("cmd", &["true"]), private).await;
        assert_eq!(ended.failure(), reason);
    }
}

#[test]
fn requests_without_a_program_are_refused() {
    let cmd = Cmd::new(Processes::without_cgroups());
    for args in [&[][..], &[""], &["echo", "a\0b"]] {
        assert!(cmd.check(&request("cmd", args)).unwrap_err().starts_with("args"));
    }
    assert!(cmd.check(&script("echo", &[])).is_ok());
}

#[tokio::test]
async fn scripts_run_by_their_first_line_with_their_arguments() {
    let node = Node::new(5);
    let run =
        |text: &'static str, args: &'static [&'static str]| node.run(script(text, args), Private::default());
    assert_eq!(run("echo \"$2\" $#", &["a", "b c"]).await.stdout, "b c 2\n");
    let ended = run("#!/bin/sh -e\nfalse\necho not reached\n", &[]).await;
    assert_eq!((ended.end.outcome, ended.stdout.as_str()), (exit(1), ""));
    // Written on Windows.
    assert_eq!(run("#!/bin/sh\r\necho $#", &["x"]).await.stdout, "1\n");
    assert_eq!(run("#!/usr/bin/env sh\necho env\n", &[]).await.stdout, "env\n");
    assert!(run("#! \n", &[]).await.failure().starts_with("data: "));
}

#[tokio::test]
async fn the_environment_is_clean_and_what_was_given() {
    let node = Node::new(6);
    let private = Private {
        env: vec![("GREETING".into(), "hello world".into())],
        cwd: Some("/".into()),
        ..Private::default()
    };
    let ended = node.run(request("cmd", &["sh", "-c", "pwd; env"]), private).await;
    let mut lines = ended.stdout.lines();
    assert_eq!(lines.next(), Some("/"));
    let names: Vec<&str> = lines.filter_map(|line| line.split('=').next()).collect();
    for name in ["PATH", "HOME", "USER", "LANG", "GREETING", "MAINSTAY_MESSAGE"] {
        assert!(names.contains(&name), "{name} is missing in {names:?}");
    }
    assert!(!names.iter().any(|name| name.starts_with("CARGO")), "{names:?}");
}

#[tokio::test]
async fn no_descriptor_no_ignored_signal_and_no_mask_is_inherited() {
    let node = Node::new(7);
    // The agent ignores SIGPIPE, as every Rust program does; a shell cannot even reset an ignored signal.
    let ended = node.sh("ls /proc/self/fd | wc -l; grep -E 'Sig(Blk|Ign)' /proc/self/status").await;
    let fields: Vec<&str> = ended.stdout.split_whitespace().collect();
    // 0, 1, 2, and the directory that `ls` itself reads.
    assert_eq!(fields[0], "4", "{ended:?}");
    // Signals 1 to 31: libc keeps two of the others to itself, and lets nobody reset them.
    for mask in [fields[2], fields[4]] {
        let mask = u64::from_str_radix(mask, 16).unwrap();
        assert_eq!(mask & 0x7fff_ffff, 0, "{ended:?}");
    }
}

#[tokio::test]
async fn stdin_of_any_size_is_read_and_ends() {
    let node = Node::new(8);
    let big: String = "0123456789abcdef".repeat(1 << 15);
    let private = Private { stdin: Some(big.clone().into()), ..Private::default() };
    let ended = node.run(request("cmd", &["cat"]), private).await;
    assert!(ended.stdout == big, "{} bytes of {}", ended.stdout.len(), big.len());
    let ended = node.run(request("cmd", &["cat"]), Private::default()).await;
    assert_eq!((ended.end.outcome, ended.stdout.as_str()), (exit(0), ""));
}

#[tokio::test]
async fn programs_and_scripts_run_as_another_user() {
    let node = Node::new(9);
    let private =
        |user: &str| Private { user: Some(user.into()), stdin: Some("given".into()), ..Private::default() };
    let text =
        "#!/bin/sh\nid -un; id -u; id -G; cat; echo; echo $HOME $USER\ngrep CapEff /proc/self/status\n";
    if !nix::unistd::geteuid().is_root() {
        let ended = node.run(script(text, &[]), private("root")).await;
        assert!(ended.failure().contains("does not run as root"), "{ended:?}");
        return;
    }
    let Ok(Some(nobody)) = nix::unistd::User::from_name("nobody") else {
        eprintln!("skipped: there is no user nobody");
        return;
    };
    let ended = node.run(script(text, &[]), private("nobody")).await;
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines[0], "nobody", "{ended:?}");
    assert_eq!(lines[1], nobody.uid.to_string());
    // Its own groups only: none of root's came along.
    assert!(!lines[2].split(' ').any(|group| group == "0"), "{ended:?}");
    assert_eq!(lines[3], "given");
    assert_eq!(lines[4], format!("{} nobody", nobody.dir.display()));
    assert!(lines[5].ends_with("0000000000000000"), "{ended:?}");
    let ended = node.run(request("cmd", &["no-such-program"]), private("nobody")).await;
    assert!(ended.failure().contains("was not found"), "{ended:?}");
}

#[tokio::test]
async fn a_background_job_does_not_hold_the_message_and_lives_on() {
    for node in [Node::new(10), Node::without_cgroups()] {
        let before = Instant::now();
        let execution =
            node.start(request("cmd", &["sh", "-c", "sleep 1000 & echo $!; ls -d /"]), Private::default());
        let mark = execution.mark;
        let ended = execution.end().await;
        assert!(before.elapsed() < PATIENCE / 2);
        assert_eq!(ended.end.outcome, exit(0));
        let (pid, rest) = ended.stdout.split_once('\n').unwrap();
        assert_eq!(rest, "/\n");
        assert!(lives(pid), "what was sent to the background was killed");
        let processes = node.processes.clone();
        let found = tokio::task::spawn_blocking(move || processes.kill_leftovers(&[mark])).await;
        assert_eq!((found.unwrap()[0].remaining, lives(pid)), (0, false));
    }
}

#[tokio::test]
async fn an_endless_writer_in_the_background_does_not_hold_the_message() {
    let node = Node::new(11);
    let ended = node.sh("yes & echo $! >&2").await;
    assert_eq!(ended.end.outcome, exit(0));
    assert!(!ended.stderr.is_empty());
}

/// A tree of processes none of which hears SIGTERM, one of them in a session of its own. It says its
/// numbers, then hangs.
const STUBBORN: &str = "trap '' TERM
    setsid sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1000; done' &
    sh -c 'echo $$; while :; do sleep 1000; done' &
    echo $$; while :; do sleep 1000; done";

async fn a_stubborn_tree_is_killed(node: Node, cancelled: bool) {
    let timeout = if cancelled { PATIENCE } else { Duration::from_millis(300) };
    let mut execution = node.start(with_timeout(&["sh", "-c", STUBBORN], timeout), Private::default());
    let mut pids = String::new();
    while pids.lines().count() < 3 {
        pids += &execution.line().await;
    }
    if cancelled {
        execution.cancel.cancel();
    }
    let ended = execution.end().await;
    let expected = if cancelled { Outcome::Cancelled } else { Outcome::TimedOut };
    assert_eq!(ended.end.outcome, expected);
    for pid in pids.lines() {
        assert!(!lives(pid), "{pid} of {pids:?} survived");
    }
    assert_eq!(node.processes.count_cgroups(), 0);
}

#[tokio::test]
async fn a_timeout_kills_the_whole_tree_by_its_cgroup() {
    let node = Node::new(12);
    if !node.processes.has_cgroups() {
        eprintln!("skipped: a_timeout_kills_the_whole_tree_by_its_cgroup: no cgroup2 can be written here");
        return;
    }
    a_stubborn_tree_is_killed(node, false).await;
}

#[tokio::test]
async fn a_timeout_kills_the_whole_tree_by_its_mark() {
    a_stubborn_tree_is_killed(Node::without_cgroups(), false).await;
}

#[tokio::test]
async fn a_cancel_kills_the_whole_tree() {
    a_stubborn_tree_is_killed(Node::new(13), true).await;
}

#[tokio::test]
async fn who_hears_sigterm_may_say_goodbye() {
    let node = Node::new(14);
    let text = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done";
    let mut execution = node.start(with_timeout(&["sh", "-c", text], PATIENCE), Private::default());
    assert_eq!(execution.line().await, "ready\n");
    execution.cancel.cancel();
    let ended = execution.end().await;
    assert_eq!((ended.end.outcome, ended.stdout.as_str()), (Outcome::Cancelled, "bye\n"));
}

#[tokio::test]
async fn a_flood_is_cut_and_counted() {
    let node = Node::new(15);
    let mut request = request("cmd", &["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; echo end >&2"]);
    request.output_limit = 100_000;
    let ended = node.run(request, Private::default()).await;
    assert_eq!(ended.end.outcome, exit(0));
    assert_eq!((ended.end.stdout_bytes, ended.end.truncated), (3_000_000, true));
    assert_eq!((ended.stdout.len(), ended.end.stderr_bytes), (100_000, 4));
}

#[tokio::test]
async fn a_full_channel_stops_the_program_and_not_its_timeout() {
    let node = Node::new(16);
    let mut request = with_timeout(&["sh", "-c", "yes; echo $? >&2"], Duration::from_millis(500));
    request.output_limit = u64::MAX;
    let execution = node.start(request, Private::default());
    // Nobody receives. The program is gone all the same once its time is over.
    let mark = execution.mark;
    let found = tokio::task::spawn_blocking(move || {
        let wanted = format!("MAINSTAY_MESSAGE={}:{}", mark.origin, mark.id);
        let running = || {
            fs::read_dir("/proc").unwrap().flatten().any(|entry| {
                let environ = fs::read(entry.path().join("environ")).unwrap_or_default();
                environ.split(|byte| *byte == 0).any(|line| line == wanted.as_bytes())
            })
        };
        let give_up = Instant::now() + PATIENCE;
        while !running() && Instant::now() < give_up {
            std::thread::yield_now();
        }
        while running() && Instant::now() < give_up {
            std::thread::yield_now();
        }
        running()
    });
    assert!(!found.await.unwrap(), "it still runs");
    let ended = execution.end().await;
    assert_eq!(ended.end.outcome, Outcome::TimedOut);
    // What was read is bounded by the channel and the pipe, however long nobody came for it.
    assert!(ended.end.stdout_bytes < 1 << 20, "{:?}", ended.end);
}

#[tokio::test]
async fn live_output_comes_while_the_program_runs() {
    let node = Node::new(17);
    let dir = tempfile::tempdir().unwrap();
    let gate = dir.path().join("gate");
    let text = format!("echo one; while [ ! -e {} ]; do sleep 0.01; done; echo two", gate.display());
    let mut execution = node.start(with_timeout(&["sh", "-c", &text], PATIENCE), Private::default());
    assert_eq!(execution.line().await, "one\n");
    fs::write(&gate, "").unwrap();
    let ended = execution.end().await;
    assert_eq!((ended.end.outcome, ended.stdout.as_str()), (exit(0), "two\n"));
}

#[tokio::test]
async fn a_program_without_output_pipes_is_still_waited_for() {
    let node = Node::new(18);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("done");
    let text = format!("exec >&- 2>&-; sleep 0.3; echo x > {}; exit 4", file.display());
    let ended = node.sh(&text).await;
    assert_eq!(ended.end.outcome, exit(4));
    assert!(file.exists());
}

#[tokio::test]
async fn a_dropped_run_leaves_nothing_running() {
    let node = Node::new(19);
    let text = "echo $$; while :; do sleep 1000; done";
    let mut execution = node.start(with_timeout(&["sh", "-c", text], PATIENCE), Private::default());
    let pid = execution.line().await;
    assert!(lives(&pid));
    execution.task.abort();
    assert!((&mut execution.task).await.unwrap_err().is_cancelled());
    let give_up = Instant::now() + PATIENCE;
    while lives(&pid) && Instant::now() < give_up {
        tokio::task::yield_now().await;
    }
    assert!(!lives(&pid));
}

#[tokio::test]
async fn what_a_crash_left_is_found_by_its_mark_and_killed() {
    let mark =
        Mark { origin: KeyId::from_bytes([8; 32]), id: mainstay_core::id::MessageId::from_bytes([8; 16]) };
    // As an earlier life of the node started it: with the mark, in a session of its own, and no cgroup. One
    // of its children clears its environment, another begins a session.
    let mut child = std::process::Command::new("setsid")
        .args(["sh", "-c", "env -i sleep 1000 & setsid sleep 1000 & echo $!; exec sleep 1000"])
        .env(crate::process::MARK, format!("{}:{}", mark.origin, mark.id))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    let other = Mark { id: mainstay_core::id::MessageId::from_bytes([9; 16]), ..mark };
    let node = Node::new(20);
    let found = node.processes.kill_leftovers(&[other, mark]);
    assert_eq!((found[0].killed, found[0].remaining), (0, 0));
    assert_eq!((found[1].killed, found[1].remaining), (3, 0));
    assert!(!lives(&line));
    use std::os::unix::process::ExitStatusExt as _;
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}

#[tokio::test]
async fn a_leftover_of_the_same_message_is_killed_before_it_runs_again() {
    let node = Node::new(21);
    if !node.processes.has_cgroups() {
        eprintln!("skipped: a_leftover_of_the_same_message_is_killed_before_it_runs_again: no cgroup2");
        return;
    }
    let (mut first, mut chunks) =
        call(request("cmd", &["sh", "-c", "sleep 1000 & echo $!"]), Private::default());
    let (mut second, _rest) = call(request("cmd", &["true"]), Private::default());
    second.id = first.id;
    let cmd = Cmd::new(node.processes.clone());
    assert_eq!(cmd.run(&mut first).await, exit(0));
    first.output.seal();
    first.output.send_sealed().await;
    let pid = String::from_utf8(chunks.recv().await.unwrap().data.to_vec()).unwrap();
    assert!(lives(&pid));
    assert_eq!(cmd.run(&mut second).await, exit(0));
    assert!(!lives(&pid));
}

use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use super::*;

fn run(command: Command) -> Ran {
    command.run(None, None, None).unwrap()
}

/// Waits, with a bound, until there is no such process.
fn is_gone(pid: i32) -> bool {
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        // Orphans are reaped by whoever adopts them; until then they are dead all the same.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z ") {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

#[test]
fn output_and_end_are_told_apart() {
    let ran = run(Command::shell("echo out; echo err >&2; exit 3"));
    assert_eq!((ran.ending, ran.text(), ran.error_text()), (Ending::Code(3), "out".into(), "err".into()));
    assert_eq!(run(Command::shell("kill -9 $$")).ending, Ending::Signal(9));
    let failed = Command::shell("echo why >&2; exit 3");
    let failure = run(failed.clone()).or_failure(&failed).unwrap_err();
    assert_eq!(failure.to_string(), "run /bin/sh -c 'echo why >&2; exit 3': exit status 3: why");
}

#[test]
fn large_input_and_output_do_not_wait_for_each_other() {
    let input = vec![b'x'; 8 << 20];
    let ran = run(Command::new("cat").stdin(input.clone()));
    assert_eq!(ran.ending, Ending::Code(0));
    assert_eq!(ran.stdout_size, input.len() as u64);
    assert_eq!(ran.stdout, input[..MAX_OUTPUT]);
    assert!(ran.truncated());
    let both = run(Command::shell("head -c 3000000 /dev/zero >&2; cat; head -c 1000 /dev/zero").stdin(input));
    assert_eq!((both.stdout_size, both.stderr_size), ((8 << 20) + 1000, 3_000_000));
}

#[test]
fn input_that_nobody_reads_is_no_error() {
    assert_eq!(run(Command::new("true").stdin(vec![0; 1 << 20])).ending, Ending::Code(0));
    assert_eq!(run(Command::shell("read line; echo $line").stdin("a\nb\n")).text(), "a");
    assert_eq!(run(Command::new("cat")).text(), "");
}

#[test]
fn nothing_of_this_process_is_passed_on() {
    // The test runner sets this one.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let text = run(Command::new("env").env("A", "1")).text();
    let names: Vec<_> = text.lines().map(|line| line.split('=').next().unwrap()).collect();
    for name in ["A", "HOME", "LANG", "LOGNAME", "PATH", "SHELL", "USER"] {
        assert!(names.contains(&name), "{name} in {text}");
    }
    assert_eq!(names.len(), 7, "{text}");
    assert_eq!(run(Command::shell("pwd; umask")).text(), "/\n0022");
    // Descriptor 3 is the directory that is listed.
    assert_eq!(run(Command::new("ls").arg("/proc/self/fd")).text(), "0\n1\n2\n3");
}

#[test]
fn signals_are_as_a_program_expects_them() {
    // With SIGPIPE ignored, as in this process, `yes` would complain.
    let ran = run(Command::shell("yes | head -n 1"));
    assert_eq!((ran.text(), ran.error_text()), ("y".into(), String::new()));
    let ignored = run(Command::shell("grep SigIgn /proc/self/status")).text();
    let ignored = u64::from_str_radix(ignored.split('\t').nth(1).unwrap(), 16).unwrap();
    // Those from 32 on, the C library keeps from programs.
    assert_eq!(ignored & 0x7fff_ffff, 0);
}

#[test]
fn there_is_no_terminal_to_ask_at() {
    let ran = run(Command::shell("ps -o sid= -p $$ | tr -d ' '; echo $$"));
    let text = ran.text();
    let (session, own) = text.split_once('\n').unwrap();
    assert_eq!(session, own);
}

#[test]
fn a_timeout_ends_the_whole_group() {
    let begun = Instant::now();
    let ran = run(Command::shell("sleep 600 & echo $!; wait").timeout(Duration::from_millis(200)));
    assert_eq!(ran.ending, Ending::TimedOut);
    assert!(begun.elapsed() < Duration::from_secs(3), "the grace is for those that need it");
    assert!(is_gone(ran.text().parse().unwrap()));
}

#[test]
fn a_timeout_ends_what_has_left_the_group() {
    // One that hears, one that does not, and one whose parent goes when it is asked to.
    for line in [
        "setsid sh -c 'echo $$; exec sleep 600' & wait",
        "setsid sh -c \"trap '' TERM; echo \\$\\$; while :; do sleep 1; done\" & wait",
        "(setsid sh -c \"trap '' TERM; echo \\$\\$; while :; do sleep 1; done\" & wait) & wait",
    ] {
        let ran = run(Command::shell(line).timeout(Duration::from_millis(300)));
        assert_eq!(ran.ending, Ending::TimedOut, "{line}");
        assert!(is_gone(ran.text().parse().unwrap()), "{line}");
    }
}

#[test]
fn what_ignores_the_asking_is_killed() {
    let ran = run(Command::shell("trap '' TERM; echo $$; while :; do sleep 1; done")
        .timeout(Duration::from_millis(200)));
    assert_eq!(ran.ending, Ending::TimedOut);
    assert!(is_gone(ran.text().parse().unwrap()));
}

#[test]
fn what_is_asked_to_end_may_put_its_things_in_order() {
    let ran = run(Command::shell("trap 'sleep 0.3; echo tidied; exit' TERM; while :; do sleep 0.05; done")
        .timeout(Duration::from_millis(200)));
    assert_eq!((ran.ending, ran.text()), (Ending::TimedOut, "tidied".into()));
}

#[test]
fn what_stays_in_the_background_is_not_waited_for() {
    let begun = Instant::now();
    let ran = run(Command::shell("sleep 600 & echo $!"));
    assert_eq!(ran.ending, Ending::Code(0));
    assert!(begun.elapsed() < Duration::from_secs(100));
    let pid = Pid::from_raw(ran.text().parse().unwrap());
    assert_eq!(kill(pid, None), Ok(()), "it goes on");
    kill(pid, Signal::SIGKILL).unwrap();
}

#[test]
fn what_writes_on_in_the_background_is_ended_when_the_time_is_over() {
    let ran =
        run(Command::shell("while :; do echo $$; sleep 0.02; done &").timeout(Duration::from_millis(500)));
    assert_eq!(ran.ending, Ending::TimedOut);
    let group: i32 = ran.text().lines().next().unwrap().parse().unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while kill(Pid::from_raw(-group), None) != Err(Errno::ESRCH) {
        assert!(Instant::now() < until, "the group lives on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn work_that_is_called_off_ends() {
    let cancel = Cancel::new();
    let other = cancel.clone();
    let command = Command::new("sleep").arg("600");
    let begun = Instant::now();
    let ran = std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            other.cancel();
        });
        command.run(None, Some(&cancel), None).unwrap()
    });
    assert_eq!(ran.ending, Ending::Cancelled);
    assert!(begun.elapsed() < Duration::from_secs(60));
    let failure = command.run(None, Some(&cancel), None).unwrap_err();
    assert_eq!(failure.to_string(), "run sleep: it was called off");
    assert!(!cancel.sleep(Duration::from_secs(60)));
}

#[test]
fn what_cannot_be_started_says_why() {
    let failure = |command: Command| command.run(None, None, None).unwrap_err().to_string();
    let told = failure(Command::new("no-such-program"));
    assert!(told.starts_with("run no-such-program: no such program in /usr/local/sbin:"), "{told}");
    assert_eq!(
        failure(Command::new("/no/such/program")),
        "run /no/such/program: it cannot be started in /: No such file or directory (os error 2)"
    );
    let place = tempfile::tempdir().unwrap();
    let script = place.path().join("script");
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    let name = script.display().to_string();
    assert!(failure(Command::new(&name)).contains("Permission denied"));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).unwrap();
    assert!(
        failure(Command::new(&name)).contains("its first line names"),
        "{}",
        failure(Command::new(&name))
    );
    let mut lost = Command::new("true");
    lost.cwd = Some("/no/such/directory".into());
    assert_eq!(failure(lost), "run true: there is no directory /no/such/directory to run it in");
    let mut stranger = Command::new("true");
    stranger.user = Some("no-such-user".into());
    assert_eq!(failure(stranger), "run true: there is no user no-such-user");
    assert!(failure(Command::new("true").env("A", "secret\0")).ends_with("the value of A holds a zero byte"));
}

#[test]
fn another_user_is_another_user() {
    if !geteuid().is_root() {
        eprintln!("skipped: another_user_is_another_user: only root can be another user");
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let mut command =
        Command::shell("id -u; id -g; id -G; echo $USER; touch $TMPDIR/x && stat -c %U $TMPDIR/x");
    command.user = Some("daemon".into());
    let ran = command.run(Some(scratch.path()), None, None).unwrap();
    assert_eq!(ran.text(), "1\n1\n1\ndaemon\ndaemon", "{}", ran.error_text());
}

#[test]
fn the_analyze_phase_has_a_place_to_scribble() {
    let ran = Command::shell("echo $TMPDIR").run(Some(Path::new("/tmp/of-its-own")), None, None).unwrap();
    assert_eq!(ran.text(), "/tmp/of-its-own");
}

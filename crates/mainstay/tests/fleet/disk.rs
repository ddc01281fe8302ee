//! A full disk refuses new work with a reason, keeps what was accepted, and recovers without hands.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use crate::lab::{Lab, eventually};

/// Room for a journal and its reserve, and quickly filled.
const SIZE: &str = "size=40m,mode=0700";

/// Whether a small file system can be mounted where only our own processes see it.
fn can_mount() -> bool {
    let script = "mount -t tmpfs none /mnt";
    let works = Command::new("unshare").args(["-m", "sh", "-c", script]).output();
    let works = works.is_ok_and(|output| output.status.success());
    if !works {
        eprintln!("skipped: a full disk needs root and a mount namespace (unshare -m)");
    }
    works
}

/// The same command, with its data directory on a small disk.
fn on_small_disk(lab: &Lab, command: &Command, data: &str) -> Command {
    let data = lab.path(data);
    std::fs::create_dir_all(&data).unwrap();
    let mut small = Command::new("unshare");
    lab.seclude(&mut small);
    let script = "mount -t tmpfs -o \"$0\" none \"$1\" && shift && exec \"$@\"";
    small
        .args(["-m", "sh", "-c", script, SIZE])
        .arg(data)
        .arg(command.get_program())
        .args(command.get_args());
    small
}

fn inside(lab: &Lab, pid: i32, path: &str) -> PathBuf {
    let path = lab.path(path);
    PathBuf::from(format!("/proc/{pid}/root{}", path.display()))
}

/// Fills a disk to its last byte.
fn fill(path: &std::path::Path) {
    let mut file = File::create(path).unwrap();
    let block = vec![0x5a; 64 << 10];
    while file.write_all(&block).is_ok() {}
    while file.write_all(&[0x5a]).is_ok() {}
}

#[test]
fn an_agent_with_a_full_disk_keeps_what_it_took_and_takes_the_rest_later() {
    if !can_mount() {
        return;
    }
    let mut lab = Lab::new(&[]);
    let token = lab.token(&[]);
    let mut command = lab.agent_command("a");
    command.args(["--join", &token]);
    let mut small = on_small_disk(&lab, &command, "a");
    lab.start_agent_as("a", &mut small);
    lab.until_online("a", true);
    let (gate, started) = (lab.path("gate"), lab.path("started"));
    let script = format!(
        "touch {}; while [ ! -e {} ]; do sleep 0.05; done; seq 1 20000",
        started.display(),
        gate.display()
    );
    let kept = lab.detach(&["-t", "a", "--", "sh", "-c", &script]);
    eventually("it runs", || started.exists().then_some(()));

    let filling = inside(&lab, lab.agent_pid("a"), "a/filling");
    fill(&filling);
    let refused = lab.detach(&["-t", "a", "--", "echo", "later"]);
    let log = lab.path("a.log");
    eventually("it says why it takes nothing", || {
        std::fs::read_to_string(&log).unwrap().contains("new work is refused").then_some(())
    });
    // What was accepted has its room: its output and its end come home.
    std::fs::write(&gate, "").unwrap();
    assert_eq!(lab.outcome(&kept, "a"), "finished");
    assert!(lab.pending(&refused, "a").is_some());

    std::fs::remove_file(&filling).unwrap();
    assert_eq!(lab.outcome(&refused, "a"), "finished");
    lab.run(&["run", "-t", "a", "--", "true"]).exits(0);
}

#[test]
fn a_hub_with_a_full_disk_says_so_and_goes_on_when_there_is_room() {
    if !can_mount() {
        return;
    }
    let mut lab = Lab::bare();
    let command = lab.hub_command();
    let mut small = on_small_disk(&lab, &command, "hub");
    lab.start_hidden_hub(&mut small);
    let pid = lab.hub_pid();
    lab.join("a", &[]);
    lab.until_online("a", true);
    let (gate, started) = (lab.path("gate"), lab.path("started"));
    let script = format!(
        "touch {}; while [ ! -e {} ]; do sleep 0.05; done; seq 1 2000",
        started.display(),
        gate.display()
    );
    let kept = lab.detach(&["-t", "a", "--", "sh", "-c", &script]);
    eventually("it runs", || started.exists().then_some(()));

    let filling = inside(&lab, pid, "hub/filling");
    fill(&filling);
    let refused = eventually("new runs are refused", || {
        let said = lab.run(&["run", "-t", "a", "--detach", "--", "true"]);
        (said.status == Some(4)).then_some(said)
    });
    assert!(refused.err.contains("full") || refused.err.contains("space"), "{}", refused.err);
    std::fs::write(&gate, "").unwrap();

    std::fs::remove_file(&filling).unwrap();
    assert_eq!(lab.outcome(&kept, "a"), "finished");
    eventually("new runs are taken", || {
        (lab.run(&["run", "-t", "a", "--", "true"]).status == Some(0)).then_some(())
    });
    assert_eq!(lab.hub_pid(), pid);
}

//! Making the scratch roots, and having the tests run in them.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use crate::Test;

/// Counts up when the scratch root is made differently.
const EDITION: &str = "bookworm-1";
const SUITE: &str = "bookworm";
const MIRROR: &str = "http://deb.debian.org/debian";
const PACKAGES: &str = "systemd,systemd-sysv,cron,procps,gpg,gpg-agent";

/// Where the program stands in the scratch root, and where it says how it went.
const PROGRAM: &str = "system-test";
const RESULT: &str = "system-test.out";

/// How long one boot with all its tests may take, in seconds.
const PATIENCE: &str = "300";

pub fn run(tests: &[Test]) -> ExitCode {
    println!("\nrunning {} tests", tests.len());
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    for world in ["systemd", "openrc", "dnf"] {
        let tests: Vec<&Test> = tests.iter().filter(|test| test.world == world).collect();
        if tests.is_empty() {
            continue;
        }
        match run_in(world, &tests) {
            Ok(output) => {
                print!("{output}");
                let ended = |test: &Test, how: &str| {
                    output.lines().any(|line| line == format!("test {} ... {how}", test.name))
                };
                for test in tests {
                    if ended(test, "ok") {
                        passed += 1;
                    } else {
                        failed += 1;
                        if !ended(test, "FAILED") {
                            println!("test {} ... FAILED: it did not end", test.name);
                        }
                    }
                }
            }
            Err(why) => {
                tests.iter().for_each(|test| println!("test {} ... ignored, {why}", test.name));
                ignored += tests.len();
            }
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; 0 filtered out"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the tests said, or why they cannot be run here.
fn run_in(world: &str, tests: &[&Test]) -> Result<String, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("only root can make a scratch root".into());
    }
    let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(place).map_err(|error| error.to_string())?;
    // Two runs at a time would take the root from each other.
    let lock = File::create(place.join("system.lock")).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    let base = base(place)?;
    let lower = match world {
        "openrc" => with(place, &base, world, "openrc")?,
        "dnf" => with(place, &base, world, "dnf rpm createrepo-c")?,
        _ => base,
    };
    let scratch = Overlay::new(place, &[&lower])?;
    let prepared = prepare(&scratch.root, tests, world);
    prepared.map_err(|error| format!("the scratch root cannot be prepared: {error}"))?;
    match world {
        "systemd" => boot(&scratch.root),
        // What it would start belongs to a whole machine; what it makes in /run is what its tools need.
        "openrc" => {
            enter(&scratch.root, world, tests, "rm -f /etc/runlevels/*/* && openrc default && exec \"$@\"")
        }
        _ => enter(&scratch.root, world, tests, "exec \"$@\""),
    }
    .map_err(|error| error.to_string())?;
    let said = fs::read_to_string(scratch.root.join(RESULT)).unwrap_or_default();
    match said.lines().any(|line| line == "done") || said.contains("test ") {
        true => Ok(said.lines().filter(|line| *line != "done").map(|line| format!("{line}\n")).collect()),
        false => Err(format!("{world} does not come up in a scratch root here: {}", said.trim())),
    }
}

/// With systemd as process 1, which starts the tests and then powers off.
fn boot(root: &Path) -> std::io::Result<()> {
    let mut boot = Command::new("timeout");
    boot.arg(PATIENCE).arg("systemd-nspawn").arg("--directory").arg(root).arg("--boot");
    boot.args(["--quiet", "--register=no", "--keep-unit", "--private-network"]);
    // It ends with a complaint of its own about its root, after all is done; what counts is what the tests said.
    boot.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().map(drop)
}

/// In namespaces of its own, begun by a shell line that gets the tests' command.
fn enter(root: &Path, world: &str, tests: &[&Test], begins: &str) -> std::io::Result<()> {
    let path = root.display().to_string();
    let mounts = "mount -t proc proc \"$1/proc\" && mount -t tmpfs run \"$1/run\" && shift && exec \"$@\"";
    let mut inside = Command::new("timeout");
    inside.arg(PATIENCE).args([
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--uts",
        "--ipc",
        "--net",
        "--kill-child",
    ]);
    inside.args(["sh", "-c", mounts, "sh", &path, "chroot", &path, "sh", "-c", begins, "sh"]);
    inside.args([&format!("/{PROGRAM}"), "--inside", world]).args(tests.iter().map(|test| test.name));
    let out = File::create(root.join(RESULT))?;
    inside
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .status()
        .map(drop)
}

/// The scratch root that is made once.
fn base(place: &Path) -> Result<PathBuf, String> {
    let root = place.join(EDITION);
    if root.exists() {
        return Ok(root);
    }
    let new = place.join(format!("{EDITION}.new"));
    clear(&new)?;
    println!("making {} with debootstrap: some minutes, once", root.display());
    let mut make = Command::new("debootstrap");
    make.args(["--variant=minbase", &format!("--include={PACKAGES}"), SUITE]).arg(&new).arg(MIRROR);
    tool("debootstrap", make.stdout(Stdio::null()))?;
    fs::rename(&new, &root).map_err(|error| error.to_string())?;
    Ok(root)
}

/// The same with further packages, as a copy: the base stays what it is.
fn with(place: &Path, base: &Path, world: &str, packages: &str) -> Result<PathBuf, String> {
    let root = place.join(format!("{EDITION}-{world}"));
    if root.exists() {
        return Ok(root);
    }
    let new = place.join(format!("{EDITION}-{world}.new"));
    clear(&new)?;
    tool("cp", Command::new("cp").arg("-a").arg(base).arg(&new))?;
    let resolver = fs::copy("/etc/resolv.conf", new.join("etc/resolv.conf"));
    resolver.map_err(|error| error.to_string())?;
    let script = format!(
        "apt-get update -q && apt-get install -y -q --no-install-recommends {packages} && apt-get clean"
    );
    let mut fetch = Command::new("chroot");
    fetch.arg(&new).args(["sh", "-c", &script]).env("DEBIAN_FRONTEND", "noninteractive");
    tool(&format!("{packages} by apt-get"), fetch.stdout(Stdio::null()).stderr(Stdio::null()))?;
    fs::rename(&new, &root).map_err(|error| error.to_string())?;
    Ok(root)
}

fn clear(path: &Path) -> Result<(), String> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// Runs a tool that makes or boots a scratch root.
fn tool(name: &str, command: &mut Command) -> Result<(), String> {
    let status = command.stdin(Stdio::null()).status().map_err(|error| format!("{name}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{name}: {status}")) }
}

/// Puts the program, its packages and the unit that starts it into the scratch root.
fn prepare(root: &Path, tests: &[&Test], world: &str) -> std::io::Result<()> {
    let program = std::env::current_exe()?;
    fs::copy(program, root.join(PROGRAM))?;
    fs::create_dir_all(root.join("repo"))?;
    let names: Vec<&str> = tests.iter().map(|test| test.name).collect();
    let unit = format!(
        "[Unit]\nAfter=basic.target\n[Service]\nType=oneshot\nExecStart=/{PROGRAM} --inside {world} {}\n\
         StandardOutput=append:/{RESULT}\nStandardError=append:/{RESULT}\nEnvironment=RUST_BACKTRACE=0\nExecStopPost=/bin/systemctl poweroff --no-block\n",
        names.join(" ")
    );
    let units = root.join("etc/systemd/system");
    fs::write(units.join("system-test.service"), unit)?;
    fs::create_dir_all(units.join("multi-user.target.wants"))?;
    symlink(
        "/etc/systemd/system/system-test.service",
        units.join("multi-user.target.wants/system-test.service"),
    )
}

/// A root whose changes are thrown away.
struct Overlay {
    root: PathBuf,
    /// Holds what changed.
    changes: PathBuf,
}

impl Overlay {
    fn new(place: &Path, lower: &[&Path]) -> Result<Self, String> {
        let changes = place.join("changes");
        let overlay = Self { root: changes.join("root"), changes };
        overlay.unmount();
        clear(&overlay.changes)?;
        let parts = ["upper", "work", "root"].map(|part| overlay.changes.join(part));
        parts.iter().try_for_each(fs::create_dir_all).map_err(|error| error.to_string())?;
        let [upper, work, root] = parts.map(|part| part.display().to_string());
        let lower = lower.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(":");
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        tool("mount", Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options, &root]))?;
        Ok(overlay)
    }

    fn unmount(&self) {
        let mut unmount = Command::new("umount");
        let _ = tool("umount", unmount.arg("-q").arg("-R").arg(&self.root).stderr(Stdio::null()));
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        self.unmount();
    }
}

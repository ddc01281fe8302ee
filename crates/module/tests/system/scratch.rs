//! Scratch roots: a small Debian made by debootstrap once and kept in the target directory, of which every run gets an
//! overlay, to boot with systemd as process 1 or to enter with namespaces of its own.
//!
//! Other crates' tests use this file too, and so the same root.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Counts up when the scratch root is made differently.
const EDITION: &str = "bookworm-1";
const SUITE: &str = "bookworm";
const MIRROR: &str = "http://deb.debian.org/debian";
const PACKAGES: &str = "systemd,systemd-sysv,cron,procps,gpg,gpg-agent";

/// Where the test's own program stands in a scratch root, and where it says how it went.
pub const PROGRAM: &str = "system-test";
const RESULT: &str = "system-test.out";

/// How long one boot with all its tests may take, in seconds.
const PATIENCE: &str = "300";

/// What a root has beside the base: a shell line that is run in a copy of it, with the network, after the lists of packages
/// were read.
pub struct Extra {
    pub name: &'static str,
    pub script: &'static str,
}

/// A root whose changes are thrown away, with the test's own program in it.
pub struct Scratch {
    overlay: Overlay,
    /// Two runs at a time would take the root from each other.
    _lock: File,
}

impl Scratch {
    /// The error says why there is none on this machine.
    pub fn new() -> Result<Self, String> {
        Self::make(None)
    }

    pub fn with(extra: &Extra) -> Result<Self, String> {
        Self::make(Some(extra))
    }

    fn make(extra: Option<&Extra>) -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("only root can make a scratch root".into());
        }
        let failed = |error: std::io::Error| format!("the scratch root cannot be prepared: {error}");
        let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
        fs::create_dir_all(place).map_err(failed)?;
        let lock = File::create(place.join("system.lock")).map_err(failed)?;
        lock.lock().map_err(failed)?;
        let base = base(place)?;
        let lower = match extra {
            Some(extra) => with(place, &base, extra)?,
            None => base,
        };
        let overlay = Overlay::new(place, &lower)?;
        let program = std::env::current_exe().map_err(failed)?;
        fs::copy(program, overlay.root.join(PROGRAM)).map_err(failed)?;
        Ok(Self { overlay, _lock: lock })
    }

    pub fn root(&self) -> &Path {
        &self.overlay.root
    }

    /// Has a command run with systemd as process 1, which then powers off. What it said.
    pub fn boot(&self, command: &str) -> std::io::Result<String> {
        let unit = format!(
            "[Unit]\nAfter=basic.target\n[Service]\nType=oneshot\nExecStart={command}\n\
             StandardOutput=append:/{RESULT}\nStandardError=append:/{RESULT}\nEnvironment=RUST_BACKTRACE=0\nExecStopPost=/bin/systemctl poweroff --no-block\n",
        );
        let units = self.root().join("etc/systemd/system");
        fs::write(units.join("system-test.service"), unit)?;
        fs::create_dir_all(units.join("multi-user.target.wants"))?;
        symlink(
            "/etc/systemd/system/system-test.service",
            units.join("multi-user.target.wants/system-test.service"),
        )?;
        let mut boot = Command::new("timeout");
        boot.arg(PATIENCE).arg("systemd-nspawn").arg("--directory").arg(self.root()).arg("--boot");
        boot.args(["--quiet", "--register=no", "--keep-unit", "--private-network"]);
        // It ends with a complaint of its own about its root, after all is done; what counts is what the tests said.
        boot.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        Ok(fs::read_to_string(self.root().join(RESULT)).unwrap_or_default())
    }

    /// Has a shell line run in namespaces of its own. What it said.
    pub fn enter(&self, line: &str) -> std::io::Result<String> {
        let path = self.root().display().to_string();
        let mounts = "mount -t proc proc \"$1/proc\" && mount -t tmpfs run \"$1/run\" && exec chroot \"$1\" sh -c \"$2\"";
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
        inside.args(["sh", "-c", mounts, "sh", &path, line]);
        let out = File::create(self.root().join(RESULT))?;
        inside
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .status()?;
        fs::read_to_string(self.root().join(RESULT))
    }
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

/// The same with something more, as a copy: the base stays what it is.
fn with(place: &Path, base: &Path, extra: &Extra) -> Result<PathBuf, String> {
    let Extra { name, script } = extra;
    let root = place.join(format!("{EDITION}-{name}"));
    if root.exists() {
        return Ok(root);
    }
    let new = place.join(format!("{EDITION}-{name}.new"));
    clear(&new)?;
    tool("cp", Command::new("cp").arg("-a").arg(base).arg(&new))?;
    let resolver = fs::copy("/etc/resolv.conf", new.join("etc/resolv.conf"));
    resolver.map_err(|error| error.to_string())?;
    let script = format!("apt-get update -q && {script}");
    let mut fetch = Command::new("chroot");
    fetch.arg(&new).args(["sh", "-c", &script]).env("DEBIAN_FRONTEND", "noninteractive");
    tool(&format!("{name} by apt-get"), fetch.stdout(Stdio::null()).stderr(Stdio::null()))?;
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

struct Overlay {
    root: PathBuf,
    /// Holds what changed.
    changes: PathBuf,
}

impl Overlay {
    fn new(place: &Path, lower: &Path) -> Result<Self, String> {
        let changes = place.join("changes");
        let overlay = Self { root: changes.join("root"), changes };
        overlay.unmount();
        clear(&overlay.changes)?;
        let parts = ["upper", "work", "root"].map(|part| overlay.changes.join(part));
        parts.iter().try_for_each(fs::create_dir_all).map_err(|error| error.to_string())?;
        let [upper, work, root] = parts.map(|part| part.display().to_string());
        let options = format!("lowerdir={},upperdir={upper},workdir={work}", lower.display());
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

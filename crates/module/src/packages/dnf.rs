//! dnf and rpm.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::{Available, Installed, Transaction, query};
use crate::failure::Failure;
use crate::host::{Command, Host, View};

const CONFIG: &str = "/etc/dnf/dnf.conf";

/// Where dnf's lists lie, unless [`CONFIG`] says otherwise.
const CACHE: &str = "/var/cache/dnf";

const HELD: &str = "/etc/dnf/plugins/versionlock.list";

pub(super) fn installed(view: &View, names: &[&str]) -> Result<BTreeMap<String, Installed>, Failure> {
    let format = "%{NAME}\t%{EPOCHNUM}\t%{VERSION}-%{RELEASE}\n";
    let command = Command::new("rpm").args(["-q", "--qf", format, "--"]).args(names.iter().copied());
    let ran = view.run(&command)?;
    // Its exit status counts those that are not there.
    let Some(_) = ran.code() else { return Err(ran.failure(&command)) };
    let locks = view.read(HELD.as_ref())?.unwrap_or_default();
    Ok(parse_installed(&ran.text(), &String::from_utf8_lossy(&locks)))
}

pub(super) fn parse_installed(text: &str, locks: &str) -> BTreeMap<String, Installed> {
    let mut found = BTreeMap::new();
    for (name, version) in text.lines().filter_map(parse_line) {
        let held = locks.lines().any(|line| is_lock_of(line, &name));
        // Of several versions, as of a kernel, the last is the newest.
        found.insert(name, Installed { version, held, config_only: false });
    }
    found
}

/// A lock reads `NAME-EPOCH:VERSION-RELEASE.*`.
fn is_lock_of(line: &str, name: &str) -> bool {
    line.trim().rsplitn(3, '-').nth(2) == Some(name)
}

/// A version without an epoch has none written.
fn parse_line(line: &str) -> Option<(String, String)> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [name, epoch, version] = fields[..] else { return None };
    let version = match epoch {
        "0" | "(none)" | "" => version.to_owned(),
        epoch => format!("{epoch}:{version}"),
    };
    Some((name.to_owned(), version))
}

pub(super) fn available(view: &View, names: &[&str]) -> Result<BTreeMap<String, Available>, Failure> {
    let format = "%{name}\t%{epoch}\t%{version}-%{release}\n";
    let command = Command::new("dnf")
        .args(settings(view)?)
        // From what was read before: a look changes nothing.
        .args(["-q", "--cacheonly", "repoquery", "--qf", format, "--"])
        .args(names.iter().copied());
    let ran = view.run(&command)?;
    if ran.succeeded() {
        return Ok(parse_available(&ran.text()));
    }
    // Without a list it knows nothing, and with some versions says so by failing.
    let words = ran.words().to_lowercase();
    let has_no_list = words.contains("cache") && !words.contains("denied");
    if has_no_list { Ok(BTreeMap::new()) } else { Err(ran.failure(&command)) }
}

/// Even to look, dnf writes a log, and a lock beside its lists: where nothing may be written, it gets links to the lists in a place where
/// it may.
fn settings(view: &View) -> Result<Vec<String>, Failure> {
    let Some(scratch) = view.scratch() else { return Ok(Vec::new()) };
    let place = scratch.join("dnf");
    if !place.exists() {
        let linked = fs::create_dir(&place).and_then(|()| link_all(&cache(view)?, &place));
        linked.map_err(|error| Failure::on("link dnf's lists to", &place, error))?;
    }
    let set = |name: &str, place: &Path| format!("--setopt={name}={}", place.display());
    Ok(vec![set("cachedir", &place), set("logdir", scratch)])
}

fn link_all(from: &Path, to: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        symlink(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Where its lists lie.
fn cache(view: &View) -> io::Result<PathBuf> {
    let config = view.read(CONFIG.as_ref()).map_err(|failure| io::Error::other(failure.to_string()))?;
    let config = config.unwrap_or_default();
    let config = String::from_utf8_lossy(&config);
    let mut lines = config.lines().filter_map(|line| line.split_once('='));
    // The last one counts.
    let set = lines.rfind(|(name, _)| name.trim() == "cachedir");
    Ok(set.map_or_else(|| CACHE.into(), |(_, path)| path.trim().into()))
}

pub(super) fn parse_available(text: &str) -> BTreeMap<String, Available> {
    let mut all: BTreeMap<String, Available> = BTreeMap::new();
    for (name, version) in text.lines().filter_map(parse_line) {
        // It lists them from old to new.
        let available = all.entry(name).or_default();
        available.versions.insert(0, version.clone());
        available.candidate = Some(version);
    }
    all
}

fn dnf(transaction: &Transaction, word: &str) -> Command {
    let command = Command::new("dnf").args(["-y", "-q"]);
    let command = match transaction.recommends {
        Some(wanted) => {
            command.arg(format!("--setopt=install_weak_deps={}", if wanted { "True" } else { "False" }))
        }
        None => command,
    };
    command.arg(word)
}

pub(super) fn transact(host: &Host, transaction: &Transaction) -> Result<(), Failure> {
    if !transaction.remove.is_empty() {
        super::run(host, dnf(transaction, "remove").arg("--").args(transaction.remove.iter().cloned()))?;
    }
    if transaction.install.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = transaction.install.keys().map(String::as_str).collect();
    let now = installed(host, &names)?;
    let known = available(host, &names)?;
    let (mut install, mut down) = (Vec::new(), Vec::new());
    for (name, version) in &transaction.install {
        let spec = version.as_ref().map_or_else(|| name.clone(), |version| format!("{name}-{version}"));
        let place = |version: &str| known.get(name)?.versions.iter().position(|other| other == version);
        let older = now.get(name).zip(version.as_ref()).is_some_and(|(now, wanted)| {
            place(wanted).zip(place(&now.version)).is_some_and(|(wanted, now)| wanted > now)
        });
        if older { down.push(spec) } else { install.push(spec) }
    }
    // `install` brings to the candidate what is there already.
    for (word, specs) in [("install", install), ("downgrade", down)] {
        if !specs.is_empty() {
            super::run(host, dnf(transaction, word).arg("--").args(specs))?;
        }
    }
    Ok(())
}

pub(super) fn hold(host: &Host, names: &[&str], held: bool) -> Result<(), Failure> {
    let word = if held { "add" } else { "delete" };
    let command = Command::new("dnf").args(["-q", "versionlock", word, "--"]).args(names.iter().copied());
    super::run(host, command).map_err(|failure| failure.hint("it needs dnf's versionlock plugin"))
}

pub(super) fn read_index(host: &Host) -> Result<(), Failure> {
    query(host, Command::new("dnf").args(["-q", "makecache", "--refresh"]).timeout(super::PATIENCE)).map(drop)
}

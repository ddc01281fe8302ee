//! Package managers: which one a machine has, what it says of packages, and having it change them.
//!
//! One file each; what they have in common is here, and so is the mark that the list of what can be installed is out of
//! date, which `pkgrepo` sets and `pkg` clears.

mod apk;
mod apt;
mod dnf;
pub mod key;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::failure::Failure;
use crate::host::{Command, Host, Ownership, Ran, View};

/// Lies here while a repository has changed and the list of what it holds was not read since. On disk, so that a crash
/// between the two loses nothing.
const OUTDATED: &str = "/var/lib/mainstay/package-index.outdated";

/// Its time of change is when the list was last read by us.
const READ: &str = "/var/lib/mainstay/package-index.read";

/// Lies here, with the manager and the package at the end of its name, while a package that is held was let go for a change and is
/// to be held again. On disk before it is let go, so that whatever ends the change in the middle does not end the hold.
const LET_GO: &str = "/var/lib/mainstay/package-held";

/// Packages can be large and lines slow.
pub const PATIENCE: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Manager {
    Apt,
    Dnf,
    Apk,
}

/// A package as it is on the machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Installed {
    pub version: String,
    pub held: bool,
    /// It is gone but for its configuration.
    pub config_only: bool,
}

/// What could be installed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Available {
    /// What the manager would choose.
    pub candidate: Option<String>,
    pub versions: Vec<String>,
}

/// One package that a transaction would touch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Move {
    pub name: String,
    pub before: Option<String>,
    pub after: Option<String>,
}

/// What one transaction shall do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Transaction {
    /// With a version, or the candidate.
    pub install: BTreeMap<String, Option<String>>,
    pub remove: Vec<String>,
    /// Remove configuration as well (apt).
    pub purge: bool,
    /// Install what is only recommended as well; nothing for the manager's own default.
    pub recommends: Option<bool>,
    /// Some of them are held: whoever asks for their change lets them go for it.
    pub changes_held: bool,
}

impl Manager {
    pub fn of(view: &View) -> Result<Self, Failure> {
        for (manager, program) in [
            (Self::Apt, "/usr/bin/apt-get"),
            (Self::Dnf, "/usr/bin/dnf"),
            (Self::Apk, "/sbin/apk"),
            (Self::Apk, "/usr/bin/apk"),
        ] {
            if view.target(Path::new(program))?.is_some() {
                return Ok(manager);
            }
        }
        Err(Failure::new("find the package manager", "this machine has none of apt, dnf and apk"))
    }

    pub fn word(self) -> &'static str {
        match self {
            Self::Apt => "apt",
            Self::Dnf => "dnf",
            Self::Apk => "apk",
        }
    }

    /// Those of the packages that are there, or have been.
    pub fn installed(self, view: &View, names: &[&str]) -> Result<BTreeMap<String, Installed>, Failure> {
        match self {
            Self::Apt => apt::installed(view, names),
            Self::Dnf => dnf::installed(view, names),
            Self::Apk => apk::installed(view, names),
        }
    }

    /// Those of the packages that the manager's list knows.
    pub fn available(self, view: &View, names: &[&str]) -> Result<BTreeMap<String, Available>, Failure> {
        match self {
            Self::Apt => apt::available(view, names),
            Self::Dnf => dnf::available(view, names),
            Self::Apk => apk::available(view, names),
        }
    }

    /// All that a transaction would touch, where the manager can tell.
    pub fn simulate(self, view: &View, transaction: &Transaction) -> Result<Option<Vec<Move>>, Failure> {
        match self {
            Self::Apt => apt::simulate(view, transaction).map(Some),
            // It tells only people.
            Self::Dnf => Ok(None),
            Self::Apk => apk::simulate(view, transaction).map(Some),
        }
    }

    pub fn transact(self, host: &Host, transaction: &Transaction) -> Result<(), Failure> {
        match self {
            Self::Apt => apt::transact(host, transaction),
            Self::Dnf => dnf::transact(host, transaction),
            Self::Apk => apk::transact(host, transaction),
        }
    }

    /// Keeps packages at the version that they have, or no longer.
    pub fn hold(self, host: &Host, names: &[&str], held: bool) -> Result<(), Failure> {
        match self {
            Self::Apt => apt::hold(host, names, held),
            Self::Dnf => dnf::hold(host, names, held),
            Self::Apk => apk::hold(host, names, held),
        }
    }

    fn let_go(self, name: &str) -> PathBuf {
        PathBuf::from(format!("{LET_GO}.{}.{name}", self.word()))
    }

    /// Whether a package was let go for a change that did not come to its end.
    pub fn is_owed_a_hold(self, view: &View, name: &str) -> Result<bool, Failure> {
        Ok(view.entry(&self.let_go(name))?.is_some())
    }

    /// Notes down that these packages are to be held again.
    pub fn owe_hold<'n>(self, host: &Host, names: impl IntoIterator<Item = &'n str>) -> Result<(), Failure> {
        for name in names {
            let note = self.let_go(name);
            make_parent(host, &note)?;
            host.write(&note, b"", Ownership::default())?;
        }
        host.settle()
    }

    /// They are held again, or nobody wants them to be.
    pub fn owe_no_hold<'n>(
        self,
        host: &Host,
        names: impl IntoIterator<Item = &'n str>,
    ) -> Result<(), Failure> {
        for note in names.into_iter().map(|name| self.let_go(name)) {
            if host.entry(&note)?.is_some() {
                host.remove(&note)?;
            }
        }
        Ok(())
    }

    /// A name that this manager takes as one: no option, no pattern, no expression.
    pub fn check_name(self, name: &str) -> Result<(), Failure> {
        let good = match self {
            Self::Apt => apt::is_name(name),
            Self::Dnf => is_plain(name),
            Self::Apk => is_plain(name),
        };
        match good {
            true => Ok(()),
            false => Err(Failure::new(
                format!("name package {name:?}"),
                format!("{} takes no such name", self.word()),
            )),
        }
    }

    /// Whether the list of what can be installed has to be read again before anything is.
    pub fn index_is_outdated(self, view: &View) -> Result<bool, Failure> {
        if view.entry(Path::new(OUTDATED))?.is_some() {
            return Ok(true);
        }
        match self {
            Self::Apt => apt::index_is_empty(view),
            // It reads the list itself when it needs one.
            Self::Dnf => Ok(false),
            Self::Apk => apk::index_is_empty(view),
        }
    }

    /// How long ago the list was read, as far as anybody wrote it down.
    pub fn index_age(self, view: &View) -> Result<Option<Duration>, Failure> {
        let own = Path::new(READ);
        let other = Path::new("/var/lib/apt/periodic/update-success-stamp");
        let mut youngest = None;
        for stamp in [own, other] {
            if view.entry(stamp)?.is_none() {
                continue;
            }
            let time = std::fs::metadata(stamp).and_then(|meta| meta.modified());
            let time = time.map_err(|error| Failure::on("look at", stamp, error))?;
            // A stamp of the future says nothing.
            let age = SystemTime::now().duration_since(time).ok();
            youngest = [youngest, age].into_iter().flatten().min();
        }
        Ok(youngest)
    }

    pub fn read_index(self, host: &Host) -> Result<(), Failure> {
        match self {
            Self::Apt => apt::read_index(host),
            Self::Dnf => dnf::read_index(host),
            Self::Apk => apk::read_index(host),
        }?;
        make_parent(host, Path::new(READ))?;
        host.write(Path::new(READ), b"", Ownership::default())?;
        match host.entry(Path::new(OUTDATED))? {
            Some(_) => host.remove(Path::new(OUTDATED)),
            None => Ok(()),
        }
    }
}

/// Says that repositories have changed. Before they do, so that a crash leaves the mark rather than not.
pub fn mark_outdated(host: &Host) -> Result<(), Failure> {
    make_parent(host, Path::new(OUTDATED))?;
    host.write(Path::new(OUTDATED), b"", Ownership::default())
}

fn make_parent(host: &Host, path: &Path) -> Result<(), Failure> {
    let parent = path.parent().unwrap_or(path);
    match host.target(parent)? {
        Some(_) => Ok(()),
        None => host.make_directory(parent, Ownership { mode: Some(0o700), ..Ownership::default() }),
    }
}

/// A version, in which `*` may stand for any text.
pub fn check_version(version: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".+-~:_^*".contains(c);
    let starts = version.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '*');
    match starts && version.chars().all(plain) {
        true => Ok(()),
        false => Err(format!("{version:?} cannot be a version")),
    }
}

/// Whether a version is the one that is wanted.
pub fn is_version(wanted: &str, version: &str) -> bool {
    let Some((head, rest)) = wanted.split_once('*') else { return wanted == version };
    let Some(tail) = version.strip_prefix(head) else { return false };
    (0..=tail.len()).filter(|at| tail.is_char_boundary(*at)).any(|at| is_version(rest, &tail[at..]))
}

fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".+-_".contains(c);
    name.len() <= 128 && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(plain)
}

fn query(view: &View, command: Command) -> Result<Ran, Failure> {
    view.run(&command)?.or_failure(&command)
}

fn run(host: &Host, command: Command) -> Result<(), Failure> {
    let command = command.timeout(PATIENCE);
    host.run(&command)?.or_failure(&command).map(drop)
}

#[cfg(test)]
mod tests;

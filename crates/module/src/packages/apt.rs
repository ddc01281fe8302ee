//! apt and dpkg.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Available, Installed, Move, Transaction, query};
use crate::failure::Failure;
use crate::host::{Command, Host, Ran, View};

/// How long to wait for another who holds apt's lock, in seconds: unattended upgrades take some minutes.
const LOCK_PATIENCE: u32 = 600;

/// Debian policy 5.6.1, with an architecture perhaps. A `-` at the end would ask apt to remove; a `+` is looked at in
/// [`transact`].
pub(super) fn is_name(name: &str) -> bool {
    let (name, architecture) = match name.split_once(':') {
        Some((name, architecture)) => (name, Some(architecture)),
        None => (name, None),
    };
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (2..=128).contains(&name.len())
        && name.starts_with(plain)
        && name.chars().all(|c| plain(c) || "+-.".contains(c))
        && !name.ends_with('-')
        && architecture.is_none_or(|text| {
            !text.is_empty()
                && text.starts_with(plain)
                && text.chars().all(|c| plain(c) || c == '-')
                && !text.ends_with('-')
        })
}

pub(super) fn installed(view: &View, names: &[&str]) -> Result<BTreeMap<String, Installed>, Failure> {
    let format = "${Package}\t${Architecture}\t${db:Status-Want}\t${db:Status-Status}\t${Version}\n";
    let command = Command::new("dpkg-query").args(["-W", "-f", format, "--"]).args(names.iter().copied());
    let ran = view.run(&command)?;
    // 1: some of them were never there.
    match ran.code() {
        Some(0 | 1) => Ok(parse_installed(&ran.text(), names)),
        _ => Err(ran.failure(&command)),
    }
}

pub(super) fn parse_installed(text: &str, names: &[&str]) -> BTreeMap<String, Installed> {
    let mut found: BTreeMap<String, Installed> = BTreeMap::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [package, architecture, want, status, version] = fields[..] else { continue };
        let config_only = match status {
            "installed" | "triggers-awaited" | "triggers-pending" => false,
            "config-files" => true,
            // Unpacked or half so: installing it again puts it right.
            _ => continue,
        };
        let whole = format!("{package}:{architecture}");
        for name in names.iter().filter(|name| **name == package || **name == whole) {
            let installed = Installed { version: version.into(), held: want == "hold", config_only };
            // Of several architectures, one that is there counts.
            if found.get(*name).is_none_or(|other| other.config_only) {
                found.insert((*name).into(), installed);
            }
        }
    }
    found
}

/// Asks apt, which first brings its cache of all lists up to date. Where it may not write that, its cache lies in the
/// scratch directory, so that it is made once and not for each question.
fn ask(view: &View, command: Command) -> Result<Ran, Failure> {
    let Some(scratch) = view.scratch() else { return query(view, command) };
    let own = scratch.join("apt-pkgcache.bin");
    if view.entry(&own)?.is_none() {
        let ran = view.run(&command)?;
        if ran.succeeded() || !ran.error_text().contains("pkgcache.bin") {
            return ran.or_failure(&command);
        }
    }
    let cache = format!("Dir::Cache::pkgcache={}", own.display());
    let mut command = command;
    command.args.splice(0..0, ["-o", &cache, "-o", "Dir::Cache::srcpkgcache="].map(str::to_owned));
    query(view, command)
}

pub(super) fn available(view: &View, names: &[&str]) -> Result<BTreeMap<String, Available>, Failure> {
    let command = Command::new("apt-cache").args(["policy", "--"]).args(names.iter().copied());
    Ok(parse_policy(&ask(view, command)?.text()))
}

pub(super) fn parse_policy(text: &str) -> BTreeMap<String, Available> {
    let mut all: BTreeMap<String, Available> = BTreeMap::new();
    let mut current: Option<&mut Available> = None;
    for line in text.lines() {
        if !line.starts_with(' ') {
            let name = line.trim_end_matches(':').to_owned();
            current = Some(all.entry(name).or_default());
            continue;
        }
        let Some(available) = current.as_deref_mut() else { continue };
        // `  Candidate: 1.2`; in the table, `     1.2 500` or ` *** 1.2 500`, and deeper where it comes from.
        if let Some(candidate) = line.strip_prefix("  Candidate: ") {
            available.candidate = Some(candidate.to_owned()).filter(|candidate| candidate != "(none)");
        } else if let Some(rest) = line.strip_prefix("     ").or(line.strip_prefix(" *** "))
            && !rest.starts_with(' ')
            && let Some((version, _)) = rest.split_once(' ')
        {
            available.versions.push(version.to_owned());
        }
    }
    // What is only mentioned by others, or is virtual, cannot be chosen.
    all.retain(|_, available| available.candidate.is_some() || !available.versions.is_empty());
    all
}

fn arguments(transaction: &Transaction) -> Vec<String> {
    let mut args: Vec<String> = vec!["-y".into(), "-q".into()];
    args.extend(match transaction.recommends {
        Some(true) => Some("--install-recommends".into()),
        Some(false) => Some("--no-install-recommends".into()),
        None => None,
    });
    args.push("--allow-downgrades".into());
    args.extend(transaction.purge.then(|| "--purge".into()));
    args.extend(["install".into(), "--".into()]);
    for (name, version) in &transaction.install {
        args.push(version.as_ref().map_or_else(|| name.clone(), |version| format!("{name}={version}")));
    }
    // In one transaction with what is installed: a package may take the other's place.
    args.extend(transaction.remove.iter().map(|name| format!("{name}-")));
    args
}

pub(super) fn simulate(view: &View, transaction: &Transaction) -> Result<Vec<Move>, Failure> {
    // Only here: in earnest it would let go of all that are held, not just of those that are meant.
    let held = transaction.changes_held.then_some("--allow-change-held-packages");
    let command = Command::new("apt-get").arg("--simulate").args(held).args(arguments(transaction));
    Ok(parse_simulation(&ask(view, command)?.text()))
}

/// `Inst NAME [OLD] (NEW ORIGIN [ARCH])`, `Remv NAME [OLD]`, `Purg NAME [OLD]`.
pub(super) fn parse_simulation(text: &str) -> Vec<Move> {
    let mut moves: Vec<Move> = Vec::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let (Some(verb), Some(name)) = (words.next(), words.next()) else { continue };
        let rest: Vec<&str> = words.collect();
        let before =
            rest.first().and_then(|word| word.strip_prefix('[')).map(|word| word.trim_end_matches(']'));
        let after = rest.iter().find_map(|word| word.strip_prefix('('));
        let after = match verb {
            "Inst" => after.map(str::to_owned),
            "Remv" | "Purg" => None,
            _ => continue,
        };
        // A purge is announced after the removal as well.
        if !moves.iter().any(|other| other.name == name) {
            moves.push(Move { name: name.into(), before: before.map(str::to_owned), after });
        }
    }
    moves
}

fn apt_get(args: impl IntoIterator<Item = String>) -> Command {
    Command::new("apt-get")
        .args(["-o", &format!("DPkg::Lock::Timeout={LOCK_PATIENCE}")])
        // A changed file of the administrator's stays, and nobody is asked.
        .args(["-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"])
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("DEBIAN_PRIORITY", "critical")
        .env("APT_LISTCHANGES_FRONTEND", "none")
        .env("NEEDRESTART_SUSPEND", "1")
        .env("UCF_FORCE_CONFFOLD", "1")
        .timeout(super::PATIENCE)
}

pub(super) fn transact(host: &Host, transaction: &Transaction) -> Result<(), Failure> {
    // A name that apt does not know it would take for a pattern, or for a name and a sign.
    let names: Vec<&str> = transaction.install.keys().map(String::as_str).collect();
    if !names.is_empty() {
        let known = available(host, &names)?;
        if let Some(unknown) = names.iter().find(|name| !known.contains_key(**name)) {
            return Err(Failure::new(format!("install {unknown}"), "apt knows no such package"));
        }
    }
    let command = apt_get(arguments(transaction));
    let ran = host.run(&command)?;
    if !ran.succeeded() && was_interrupted(&ran) {
        let repair = Command::new("dpkg")
            .args(["--force-confdef", "--force-confold", "--configure", "-a"])
            .env("DEBIAN_FRONTEND", "noninteractive");
        super::run(host, repair)?;
        return host.run(&command)?.or_failure(&command).map(drop);
    }
    ran.or_failure(&command).map(drop)
}

/// A machine that lost its power in the middle of an installation.
fn was_interrupted(ran: &Ran) -> bool {
    ran.error_text().contains("dpkg --configure -a")
}

pub(super) fn hold(host: &Host, names: &[&str], held: bool) -> Result<(), Failure> {
    let word = if held { "hold" } else { "unhold" };
    super::run(host, Command::new("apt-mark").args([word, "--"]).args(names.iter().copied()))
}

pub(super) fn read_index(host: &Host) -> Result<(), Failure> {
    // Without this, a repository that cannot be read is only warned of.
    let command = apt_get(["-q", "-o", "APT::Update::Error-Mode=any", "update"].map(str::to_owned));
    host.run(&command)?.or_failure(&command).map(drop)
}

pub(super) fn index_is_empty(view: &View) -> Result<bool, Failure> {
    let names = view.list(Path::new("/var/lib/apt/lists"))?.unwrap_or_default();
    Ok(!names.iter().any(|name| {
        let name = name.to_string_lossy();
        name.contains("_Packages") || name.ends_with("_InRelease") || name.ends_with("_Release")
    }))
}

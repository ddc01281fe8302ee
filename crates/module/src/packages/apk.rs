//! apk, as of apk-tools 2.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Available, Installed, Move, Transaction, query};
use crate::failure::Failure;
use crate::host::{Command, Host, View};

/// What is installed, in records of lines with a letter each.
const INSTALLED: &str = "/lib/apk/db/installed";
/// What was asked for by name; a version there holds a package.
const WORLD: &str = "/etc/apk/world";

pub(super) fn installed(view: &View, names: &[&str]) -> Result<BTreeMap<String, Installed>, Failure> {
    let read = |path: &str| -> Result<String, Failure> {
        let bytes = view.read(Path::new(path))?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    Ok(parse_installed(&read(INSTALLED)?, &read(WORLD)?, names))
}

pub(super) fn parse_installed(database: &str, world: &str, names: &[&str]) -> BTreeMap<String, Installed> {
    let mut found = BTreeMap::new();
    for record in database.split("\n\n") {
        let field = |letter: &str| record.lines().find_map(|line| line.strip_prefix(letter));
        let (Some(name), Some(version)) = (field("P:"), field("V:")) else { continue };
        if names.contains(&name) {
            let held =
                world.split_whitespace().any(|entry| entry.split_once('=').is_some_and(|(of, _)| of == name));
            found.insert(name.to_owned(), Installed { version: version.into(), held, config_only: false });
        }
    }
    found
}

pub(super) fn available(view: &View, names: &[&str]) -> Result<BTreeMap<String, Available>, Failure> {
    let command = Command::new("apk").args(["--no-network", "policy"]).args(names.iter().copied());
    Ok(parse_policy(&query(view, command)?.text()))
}

/// `NAME policy:`, then `  VERSION:` from new to old, each followed by where it is to be had.
pub(super) fn parse_policy(text: &str) -> BTreeMap<String, Available> {
    let mut all: BTreeMap<String, Available> = BTreeMap::new();
    let mut current: Option<&mut Available> = None;
    let mut version: Option<String> = None;
    for line in text.lines() {
        if let Some(name) = line.strip_suffix(" policy:") {
            (current, version) = (Some(all.entry(name.to_owned()).or_default()), None);
        } else if let Some(place) = line.strip_prefix("    ") {
            // One that is only installed cannot be had again.
            if place.trim() != "lib/apk/db/installed"
                && let (Some(available), Some(version)) = (current.as_deref_mut(), version.take())
            {
                available.candidate.get_or_insert_with(|| version.clone());
                available.versions.push(version);
            }
        } else if let Some(text) = line.strip_prefix("  ") {
            version = Some(text.trim_end_matches(':').to_owned());
        }
    }
    all.retain(|_, available| available.candidate.is_some());
    all
}

fn add(transaction: &Transaction) -> Command {
    let specs = transaction.install.iter().map(|(name, version)| match version {
        Some(version) => format!("{name}={version}"),
        None => name.clone(),
    });
    Command::new("apk").args(["add", "--upgrade"]).args(specs)
}

pub(super) fn simulate(view: &View, transaction: &Transaction) -> Result<Vec<Move>, Failure> {
    let mut moves = Vec::new();
    if !transaction.install.is_empty() {
        let mut command = add(transaction);
        command.args.splice(0..0, ["--simulate".into(), "--no-network".into()]);
        moves.extend(parse_simulation(&query(view, command)?.text()));
    }
    if !transaction.remove.is_empty() {
        let command =
            Command::new("apk").args(["--simulate", "del"]).args(transaction.remove.iter().cloned());
        moves.extend(parse_simulation(&query(view, command)?.text()));
    }
    Ok(moves)
}

/// `(1/2) Installing NAME (NEW)`, `Upgrading NAME (OLD -> NEW)`, `Downgrading …`, `Purging NAME (OLD)`.
pub(super) fn parse_simulation(text: &str) -> Vec<Move> {
    let parse = |line: &str| {
        let (_, rest) = line.strip_prefix('(')?.split_once(") ")?;
        let (verb, rest) = rest.split_once(' ')?;
        let (name, versions) = rest.split_once(" (")?;
        let versions = versions.strip_suffix(')')?;
        let (before, after) = match (verb, versions.split_once(" -> ")) {
            ("Installing", _) => (None, Some(versions)),
            ("Purging", _) => (Some(versions), None),
            (_, Some((before, after))) => (Some(before), Some(after)),
            _ => return None,
        };
        Some(Move { name: name.into(), before: before.map(str::to_owned), after: after.map(str::to_owned) })
    };
    text.lines().filter_map(parse).collect()
}

pub(super) fn transact(host: &Host, transaction: &Transaction) -> Result<(), Failure> {
    if !transaction.remove.is_empty() {
        super::run(host, Command::new("apk").arg("del").args(transaction.remove.iter().cloned()))?;
    }
    match transaction.install.is_empty() {
        true => Ok(()),
        false => super::run(host, add(transaction)),
    }
}

pub(super) fn hold(host: &Host, names: &[&str], held: bool) -> Result<(), Failure> {
    let now = installed(host, names)?;
    let specs = names.iter().map(|name| match now.get(*name).filter(|_| held) {
        Some(installed) => format!("{name}={}", installed.version),
        None => (*name).to_owned(),
    });
    super::run(host, Command::new("apk").arg("add").args(specs.collect::<Vec<_>>()))
}

pub(super) fn read_index(host: &Host) -> Result<(), Failure> {
    super::run(host, Command::new("apk").arg("update"))
}

pub(super) fn index_is_empty(view: &View) -> Result<bool, Failure> {
    let mut names = view.list(Path::new("/var/cache/apk"))?.unwrap_or_default();
    names.extend(view.list(Path::new("/lib/apk/db"))?.unwrap_or_default());
    Ok(!names.iter().any(|name| name.to_string_lossy().starts_with("APKINDEX")))
}

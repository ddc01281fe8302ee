//! apk, as of apk-tools 2.12 to 3.0.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Available, Installed, Move, Transaction, query};
use crate::failure::Failure;
use crate::host::{Command, Host, View};

/// What is installed, in records of lines with a letter each. The second is where distributions put it that have no /lib.
const INSTALLED: [&str; 2] = ["/lib/apk/db/installed", "/usr/lib/apk/db/installed"];
/// What was asked for by name; an exact version there holds a package.
const WORLD: &str = "/etc/apk/world";

/// One of the world's constraints: `name{@tag}{[<>~=]version}`, as apk-world(5) has it.
struct Constraint<'a> {
    name: &'a str,
    /// With its `@`; empty without one.
    tag: &'a str,
    version: &'a str,
}

impl<'a> Constraint<'a> {
    fn parse(text: &'a str) -> Self {
        let (name, version) = text.split_at(text.find(['<', '>', '~', '=']).unwrap_or(text.len()));
        let (name, tag) = name.split_at(name.find('@').unwrap_or(name.len()));
        Self { name, tag, version }
    }

    fn find(world: &'a str, name: &str) -> Option<Self> {
        world.split_whitespace().map(Self::parse).find(|constraint| constraint.name == name)
    }

    fn is_exact(&self) -> bool {
        self.version.starts_with('=') && !self.version.starts_with("=~")
    }
}

fn read(view: &View, path: &str) -> Result<Option<String>, Failure> {
    Ok(view.read(Path::new(path))?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

fn world(view: &View) -> Result<String, Failure> {
    Ok(read(view, WORLD)?.unwrap_or_default())
}

pub(super) fn installed(view: &View, names: &[&str]) -> Result<BTreeMap<String, Installed>, Failure> {
    let mut database = None;
    for path in INSTALLED {
        database = database.or(read(view, path)?);
    }
    Ok(parse_installed(&database.unwrap_or_default(), &world(view)?, names))
}

pub(super) fn parse_installed(database: &str, world: &str, names: &[&str]) -> BTreeMap<String, Installed> {
    let mut found = BTreeMap::new();
    for record in database.split("\n\n") {
        let field = |letter: &str| record.lines().find_map(|line| line.strip_prefix(letter));
        let (Some(name), Some(version)) = (field("P:"), field("V:")) else { continue };
        if names.contains(&name) {
            let held = Constraint::find(world, name).is_some_and(|constraint| constraint.is_exact());
            found.insert(name.to_owned(), Installed { version: version.into(), held, config_only: false });
        }
    }
    found
}

pub(super) fn available(view: &View, names: &[&str]) -> Result<BTreeMap<String, Available>, Failure> {
    let command = Command::new("apk").args(["policy", "--no-network"]).args(names.iter().copied());
    Ok(parse_policy(&query(view, command)?.text(), &world(view)?))
}

/// `NAME policy:`, then `  VERSION:` from old to new, each followed by where it is to be had: `    URL`, or `    @TAG URL`, which
/// counts only for what is wanted from that tag.
pub(super) fn parse_policy(text: &str, world: &str) -> BTreeMap<String, Available> {
    let mut all: BTreeMap<String, Available> = BTreeMap::new();
    let (mut name, mut version) = ("", "");
    for line in text.lines() {
        if let Some(package) = line.strip_suffix(" policy:") {
            name = package;
        } else if let Some(place) = line.strip_prefix("    ") {
            // One that is only installed cannot be had again.
            let is_installed = place.ends_with("lib/apk/db/installed");
            let tag = place.split(' ').next().filter(|word| word.starts_with('@'));
            let wants = |tag| Constraint::find(world, name).is_some_and(|constraint| constraint.tag == tag);
            if is_installed || !tag.is_none_or(wants) {
                continue;
            }
            let available = all.entry(name.to_owned()).or_default();
            if available.versions.first().is_none_or(|newest| newest != version) {
                available.versions.insert(0, version.to_owned());
                available.candidate = Some(version.to_owned());
            }
        } else if let Some(text) = line.strip_prefix("  ") {
            version = text.trim_end_matches(':');
        }
    }
    all
}

/// A package as the world is to have it; from the tag that it is wanted from now.
fn constraint(world: &str, name: &str, version: Option<&str>) -> String {
    let tag = Constraint::find(world, name).map_or("", |constraint| constraint.tag);
    match version {
        Some(version) => format!("{name}{tag}={version}"),
        None => format!("{name}{tag}"),
    }
}

/// Options stand behind the command: only global ones may stand before it. Without `--upgrade`, which would upgrade what the
/// packages depend on as well; a newer version of what is installed is asked for by its number.
pub(super) fn add(world: &str, transaction: &Transaction, more: &[&str]) -> Option<Command> {
    let wanted = |(name, version): (&String, &Option<String>)| constraint(world, name, version.as_deref());
    let command = Command::new("apk").arg("add").args(more.iter().copied());
    (!transaction.install.is_empty()).then(|| command.args(transaction.install.iter().map(wanted)))
}

/// With what depends on it: apk would otherwise keep it, and call that a success.
pub(super) fn delete(transaction: &Transaction, more: &[&str]) -> Option<Command> {
    let command = Command::new("apk").args(["del", "--rdepends"]).args(more.iter().copied());
    (!transaction.remove.is_empty()).then(|| command.args(transaction.remove.iter().cloned()))
}

/// Simulating writes nothing and reads no index anew. It is not told to stay off the network: apk then finds that it could not
/// fetch the packages, and fails.
pub(super) fn simulate(view: &View, transaction: &Transaction) -> Result<Vec<Move>, Failure> {
    let mut moves = Vec::new();
    let commands = [add(&world(view)?, transaction, &["--simulate"]), delete(transaction, &["--simulate"])];
    for command in commands.into_iter().flatten() {
        moves.extend(parse_simulation(&query(view, command)?.text()));
    }
    Ok(moves)
}

/// `(1/2) Installing NAME (NEW)`, `Upgrading NAME (OLD -> NEW)`, `Downgrading …`, `Purging NAME (OLD)`; the name with the tag that it
/// comes from.
pub(super) fn parse_simulation(text: &str) -> Vec<Move> {
    let parse = |line: &str| {
        let (_, rest) = line.strip_prefix('(')?.split_once(") ")?;
        let (verb, rest) = rest.split_once(' ')?;
        let (name, versions) = rest.split_once(" (")?;
        let versions = versions.strip_suffix(')')?;
        let (before, after) = match (verb, versions.split_once(" -> ")) {
            ("Installing", _) => (None, Some(versions)),
            ("Purging", _) => (Some(versions), None),
            // The same version, built anew.
            (_, Some((before, after))) if before == after => return None,
            (_, Some((before, after))) => (Some(before), Some(after)),
            _ => return None,
        };
        let name = Constraint::parse(name).name;
        Some(Move { name: name.into(), before: before.map(str::to_owned), after: after.map(str::to_owned) })
    };
    text.lines().filter_map(parse).collect()
}

pub(super) fn transact(host: &Host, transaction: &Transaction) -> Result<(), Failure> {
    let world = world(host)?;
    for command in [delete(transaction, &[]), add(&world, transaction, &[])].into_iter().flatten() {
        super::run(host, command)?;
    }
    // A version that was asked for stays in the world as a constraint: taken out again, since nobody asked to hold it. What is
    // installed stays as it is.
    let versioned = transaction.install.iter().filter(|(_, version)| version.is_some());
    let names: Vec<&str> = versioned.map(|(name, _)| name.as_str()).collect();
    match names.is_empty() {
        true => Ok(()),
        false => hold(host, &names, false),
    }
}

pub(super) fn hold(host: &Host, names: &[&str], held: bool) -> Result<(), Failure> {
    let now = installed(host, names)?;
    let world = world(host)?;
    let specs = names.iter().map(|name| {
        let installed = now.get(*name).filter(|_| held);
        constraint(&world, name, installed.map(|installed| installed.version.as_str()))
    });
    super::run(host, Command::new("apk").arg("add").args(specs))
}

pub(super) fn read_index(host: &Host) -> Result<(), Failure> {
    super::run(host, Command::new("apk").arg("update"))
}

/// The first is where the lists are kept if somebody set up a cache.
pub(super) fn index_is_empty(view: &View) -> Result<bool, Failure> {
    for place in ["/etc/apk/cache", "/var/cache/apk", "/lib/apk/db"] {
        let names = view.list(Path::new(place))?.unwrap_or_default();
        if names.iter().any(|name| name.to_string_lossy().starts_with("APKINDEX")) {
            return Ok(false);
        }
    }
    Ok(true)
}

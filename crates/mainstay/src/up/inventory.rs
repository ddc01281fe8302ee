//! Which hosts are reached by ssh, and what is known of them: from an inventory file, from names on the command line, or both.
//!
//! ```yaml
//! labels: {env: prod}
//! vars: {port: 8080}
//! hosts:
//!   web1: {address: 10.0.0.11, user: root, port: 2222, labels: {role: web}, vars: {port: 8081}}
//!   db1:
//! groups:
//!   web: {hosts: [web*], labels: {tier: front}, vars: {threads: 4}}
//! ```
//!
//! What stands with a host wins over what its groups say, and that over what stands at the top. A host in group `web` has
//! the label `web=yes`, unless a label of that name is given.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_control::view::{Problem, ProblemKind};
use mainstay_core::frame::Facts;
use mainstay_core::state::Values;
use mainstay_core::target::{Subject, Target, glob_matches};
use mainstay_core::yaml::{self, Limits, Position};
use mainstay_link::ssh::SshHost;
use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::{MessageFormatter as _, UserMessageFormatter};

/// Largest inventory: some ten thousand hosts.
const MAX_FILE: usize = 4 << 20;

/// The value of a group's label.
const MEMBER: &str = "yes";

/// A host, and all that holds for it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Host {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub vars: Values,
    pub ssh: SshHost,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Inventory {
    hosts: BTreeMap<String, Host>,
    groups: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    hosts: BTreeMap<String, Option<Entry>>,
    #[serde(default)]
    groups: BTreeMap<String, Option<Group>>,
    #[serde(default)]
    labels: BTreeMap<String, Scalar>,
    #[serde(default)]
    vars: Values,
    user: Option<String>,
    port: Option<u16>,
    #[serde(rename = "become")]
    become_user: Option<String>,
    #[serde(default)]
    options: BTreeMap<String, Scalar>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// A name or an address; the host's own name without one.
    address: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, Scalar>,
    #[serde(default)]
    vars: Values,
    user: Option<String>,
    port: Option<u16>,
    #[serde(rename = "become")]
    become_user: Option<String>,
    #[serde(default)]
    options: BTreeMap<String, Scalar>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    /// Names, or globs over the hosts above.
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, Scalar>,
    #[serde(default)]
    vars: Values,
}

/// What people write where a text is wanted: `2` and `true` are texts too.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Bool(bool),
    Int(i64),
    Text(String),
}

impl Scalar {
    fn text(&self) -> String {
        match self {
            Self::Bool(value) => value.to_string(),
            Self::Int(value) => value.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

fn texts(map: &BTreeMap<String, Scalar>) -> BTreeMap<String, String> {
    map.iter().map(|(key, value)| (key.clone(), value.text())).collect()
}

fn invalid(message: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::Invalid, message)
}

/// The parser speaks of types where people think of fields.
fn in_our_words(message: &str) -> &str {
    match message {
        "invalid u16" => "a port is a number from 1 to 65535",
        "expected mapping start" => "a map of names is expected here",
        message => message,
    }
}

const LIMITS: Limits = Limits {
    bytes: MAX_FILE,
    depth: 16,
    values: 1_000_000,
    aliases: 10_000,
    templates: false,
    when_too_large: "leave hosts out of it",
    when_several: "an inventory is one document",
};

impl Inventory {
    pub fn parse(name: &str, text: &str) -> Result<Self, Problem> {
        if text.len() > MAX_FILE {
            return Err(invalid(format!("{name} is larger than {} MiB", MAX_FILE >> 20)));
        }
        let placed = |place: Position, message: &str, hint: Option<&String>| {
            let hint = hint.map_or(String::new(), |hint| format!(" ({hint})"));
            invalid(format!("{name}:{}:{}: {message}{hint}", place.line, place.column))
        };
        // What is no YAML, and what would grow without bound, in the words of every file of ours.
        yaml::parse(text, &LIMITS)
            .map_err(|error| placed(error.position, &error.message, error.hint.as_ref()))?;
        let options = serde_saphyr::options! { with_snippet: false };
        let file: File = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let at = error.location().unwrap_or(serde_saphyr::Location::UNKNOWN);
            let place = Position { line: at.line().max(1) as usize, column: at.column().max(1) as usize };
            let message = UserMessageFormatter.format_message(error.without_snippet());
            placed(place, in_our_words(&message), None)
        })?;
        Self::build(file).map_err(|message| invalid(format!("{name}: {message}")))
    }

    fn build(file: File) -> Result<Self, String> {
        let groups = members(&file)?;
        let mut hosts = BTreeMap::new();
        for (name, entry) in &file.hosts {
            if name.is_empty() || name.contains(|c: char| c.is_control() || c.is_whitespace() || c == ',') {
                return Err(format!("{name:?} is no name of a host"));
            }
            let none = Entry::default();
            let entry = entry.as_ref().unwrap_or(&none);
            let of_groups: Vec<(&str, &Group)> = file
                .groups
                .iter()
                .filter(|(group, _)| groups.get(*group).is_some_and(|hosts| hosts.contains(name)))
                .filter_map(|(group, body)| Some((group.as_str(), body.as_ref()?)))
                .collect();
            let (mut labels, mut vars) = (texts(&file.labels), file.vars.clone());
            let given = of_groups.iter().map(|(group, body)| (*group, texts(&body.labels)));
            labels.extend(agreed(name, "label", given, |key| entry.labels.contains_key(key))?);
            let given = of_groups.iter().map(|(group, body)| (*group, body.vars.clone()));
            vars.extend(agreed(name, "variable", given, |key| entry.vars.contains_key(key))?);
            labels.extend(texts(&entry.labels));
            vars.extend(entry.vars.clone());
            for (group, hosts) in &groups {
                if hosts.contains(name) {
                    labels.entry(group.clone()).or_insert_with(|| MEMBER.to_owned());
                }
            }
            let user = entry.user.clone().or_else(|| file.user.clone());
            let address = entry.address.as_deref().unwrap_or(name);
            let mut ssh = parse_host(address)?;
            if let Some(user) = user.filter(|_| !ssh.destination.contains('@')) {
                ssh.destination = format!("{user}@{}", ssh.destination);
            }
            ssh.port = ssh.port.or(entry.port).or(file.port);
            ssh.become_user = entry.become_user.clone().or_else(|| file.become_user.clone());
            ssh.options = texts(&file.options);
            ssh.options.extend(texts(&entry.options));
            hosts.insert(name.clone(), Host { name: name.clone(), labels, vars, ssh });
        }
        Ok(Self { hosts, groups })
    }

    /// The hosts that are meant: those named, and those that the targets mean; all of the inventory if neither is given.
    pub fn select(&self, named: &[String], targets: &[String]) -> Result<Vec<Host>, Problem> {
        let mut chosen: Vec<Host> = Vec::new();
        for text in named {
            match self.hosts.get(text) {
                Some(host) => chosen.push(host.clone()),
                None => chosen.push(Host {
                    name: text.clone(),
                    ssh: parse_host(text).map_err(invalid)?,
                    ..Host::default()
                }),
            }
        }
        shorten(&mut chosen);
        if named.is_empty() && targets.is_empty() {
            chosen.extend(self.hosts.values().cloned());
        }
        for text in targets {
            let meant = self.meant(text)?;
            chosen.extend(meant.into_iter().cloned());
        }
        let mut seen = BTreeSet::new();
        chosen.retain(|host| seen.insert(host.name.clone()));
        if chosen.is_empty() {
            let asked = if targets.is_empty() { "the inventory".into() } else { targets.join(" or ") };
            return Err(Problem::new(ProblemKind::NoTargets, format!("no host is meant by {asked}")));
        }
        Ok(chosen)
    }

    fn meant(&self, text: &str) -> Result<Vec<&Host>, Problem> {
        if let Some(members) = self.groups.get(text).filter(|_| !self.hosts.contains_key(text)) {
            return Ok(members.iter().filter_map(|name| self.hosts.get(name)).collect());
        }
        let target = Target::parse(text).map_err(|error| {
            let problem = invalid(format!("{error}\n{}", error.excerpt(text)));
            match &error.hint {
                Some(hint) => problem.hint(hint),
                None => problem,
            }
        })?;
        if let Some(unknown) = target.plain_names().into_iter().find(|name| !self.hosts.contains_key(*name)) {
            let message = format!("the inventory has no host {unknown:?}");
            return Err(Problem::new(ProblemKind::NoTargets, message)
                .hint("a host's labels are asked for as role=web, a group alone by its name or as web=yes"));
        }
        // Nothing is known of a host's facts before it was reached.
        let facts = Facts::default();
        let is_meant =
            |host: &&Host| target.matches(&Subject { name: &host.name, labels: &host.labels, facts: &facts });
        Ok(self.hosts.values().filter(is_meant).collect())
    }
}

/// The hosts of each group.
fn members(file: &File) -> Result<BTreeMap<String, BTreeSet<String>>, String> {
    let mut groups = BTreeMap::new();
    for (group, body) in &file.groups {
        let mut hosts = BTreeSet::new();
        for pattern in body.iter().flat_map(|body| &body.hosts) {
            let before = hosts.len();
            hosts.extend(file.hosts.keys().filter(|name| glob_matches(pattern, name)).cloned());
            let is_known = file.hosts.keys().any(|name| glob_matches(pattern, name));
            if hosts.len() == before && !is_known {
                return Err(format!("group {group}: no host is named {pattern:?}"));
            }
        }
        groups.insert(group.clone(), hosts);
    }
    Ok(groups)
}

/// What several groups give one host. Two values for one name are nobody's wish, unless the host itself decides.
fn agreed<'a, T, V: PartialEq>(
    host: &str,
    what: &str,
    given: impl Iterator<Item = (&'a str, T)>,
    decided: impl Fn(&str) -> bool,
) -> Result<BTreeMap<String, V>, String>
where
    T: IntoIterator<Item = (String, V)>,
{
    let mut all: BTreeMap<String, (String, V)> = BTreeMap::new();
    for (group, values) in given {
        for (key, value) in values {
            match all.get(&key) {
                Some((other, known)) if *known != value && !decided(&key) => {
                    return Err(format!(
                        "host {host}: groups {other} and {group} give the {what} {key} two values; give the host its own"
                    ));
                }
                _ => {
                    all.insert(key, (group.to_owned(), value));
                }
            }
        }
    }
    Ok(all.into_iter().map(|(key, (_, value))| (key, value)).collect())
}

/// `[USER@]HOST[:PORT]`, an IPv6 address with a port in brackets.
fn parse_host(text: &str) -> Result<SshHost, String> {
    let wrong = || format!("{text:?} is no host: write [USER@]HOST[:PORT]");
    let (user, host) = match text.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, text),
    };
    let (host, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => (address, None),
        Some((address, rest)) => (address, Some(rest.strip_prefix(':').ok_or_else(wrong)?)),
        None => match host.split_once(':') {
            // More than one colon is an address of its own.
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            _ => (host, None),
        },
    };
    let port =
        port.map(|port| port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong)).transpose()?;
    let is_odd = |part: &str| {
        part.is_empty()
            || part.starts_with('-')
            || part.contains(|c: char| c.is_whitespace() || c.is_control())
    };
    if is_odd(host) || user.is_some_and(is_odd) {
        return Err(wrong());
    }
    let destination = match user {
        Some(user) => format!("{user}@{host}"),
        None => host.to_owned(),
    };
    Ok(SshHost { destination, port, ..SshHost::default() })
}

/// Names hosts of the command line by host alone, as long as that tells them apart.
fn shorten(hosts: &mut [Host]) {
    let short = |host: &Host| {
        let destination = &host.ssh.destination;
        destination.rsplit_once('@').map_or(destination.clone(), |(_, host)| host.to_owned())
    };
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for host in hosts.iter() {
        *counts.entry(short(host)).or_default() += 1;
    }
    for host in hosts.iter_mut() {
        // A host of the inventory has the name that it was given there.
        let is_plain = host.labels.is_empty() && host.vars.is_empty();
        if is_plain && counts.get(&short(host)) == Some(&1) && host.name.contains(['@', ':']) {
            host.name = short(host);
        }
    }
}

/// `K=V` is a text, `K:=JSON` any value.
pub fn variable(text: &str) -> Result<(String, Value), String> {
    let (name, value) = match (text.split_once(":="), text.split_once('=')) {
        (Some((name, json)), _) if !name.contains('=') => {
            let value =
                serde_json::from_str(json).map_err(|error| format!("{json:?} is no JSON: {error}"))?;
            (name, value)
        }
        (_, Some((name, text))) => (name, Value::String(text.to_owned())),
        _ => return Err("write NAME=VALUE, or NAME:=JSON".to_owned()),
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(is_name) || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(format!("{name:?} is no name of a variable"));
    }
    Ok((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "
labels: {env: prod}
vars: {port: 80, list: [1, two]}
user: deploy
options: {ProxyJump: gate}
hosts:
  web1: {address: 10.0.0.11, port: 2222, labels: {role: web}, vars: {port: 81}}
  web2: {user: root, become: app}
  db1:
groups:
  web: {hosts: ['web*'], labels: {tier: front}, vars: {threads: 4}}
  all: {hosts: ['*']}
";

    fn example() -> Inventory {
        Inventory::parse("hosts.yaml", EXAMPLE).unwrap()
    }

    fn names(named: &[&str], targets: &[&str]) -> Vec<String> {
        let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let hosts = example().select(&own(named), &own(targets)).unwrap();
        hosts.into_iter().map(|host| host.name).collect()
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let told = |text: &str| Inventory::parse("hosts.yaml", text).unwrap_err().message;
        for (text, place) in [
            ("hosts:\n  a: {port: 70000}\n", "hosts.yaml:2:13: a port is"),
            ("hosts:\n  a: {colour: red}\n", "hosts.yaml:2:"),
            ("hosts:\n  a:\n  a:\n", "hosts.yaml:3:3: "),
            ("hosts: [a]\n", "hosts.yaml:1:8: a map"),
            ("hosts: {a: {\n", "hosts.yaml:"),
            ("a: &a [x, x]\nb: [*a]\nhosts: {}\n", "hosts.yaml:1:"),
        ] {
            let told = told(text);
            assert!(told.starts_with(place), "{told}");
            assert!(!told.contains('\n') && !told.contains("<input>") && !told.contains("Options"), "{told}");
        }
    }

    #[test]
    fn hosts_have_what_stands_with_them_with_their_groups_and_at_the_top() {
        let inventory = example();
        let web1 = &inventory.hosts["web1"];
        assert_eq!(web1.ssh.destination, "deploy@10.0.0.11");
        assert_eq!((web1.ssh.port, web1.ssh.options["ProxyJump"].as_str()), (Some(2222), "gate"));
        let labels: Vec<String> = web1.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(labels, ["all=yes", "env=prod", "role=web", "tier=front", "web=yes"]);
        assert_eq!((&web1.vars["port"], &web1.vars["threads"]), (&Value::from(81), &Value::from(4)));
        let web2 = &inventory.hosts["web2"];
        assert_eq!(
            (web2.ssh.destination.as_str(), web2.ssh.become_user.as_deref()),
            ("root@web2", Some("app"))
        );
        assert_eq!(inventory.hosts["db1"].vars["port"], 80);
    }

    #[test]
    fn hosts_are_chosen_by_name_label_and_group() {
        assert_eq!(names(&[], &[]), ["db1", "web1", "web2"]);
        assert_eq!(names(&[], &["role=web"]), ["web1"]);
        assert_eq!(names(&[], &["web"]), ["web1", "web2"]);
        assert_eq!(names(&[], &["web=yes and not role=web", "db1"]), ["web2", "db1"]);
        assert_eq!(names(&["web1", "root@other:22"], &[]), ["web1", "other"]);
        assert_eq!(names(&["a@x", "b@x"], &[]), ["a@x", "b@x"]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, said) in [
            ("hosts: {a: {adress: x}}", "adress"),
            ("hosts: {a: }\ngroups: {g: {hosts: [b]}}", "no host is named \"b\""),
            ("host: {a: }", "host"),
            ("hosts: {a: {address: '-x'}}", "is no host"),
            ("hosts: {'a b': }", "no name of a host"),
            (
                "hosts: {a: }\ngroups: {g: {hosts: [a], labels: {x: 1}}, h: {hosts: [a], labels: {x: 2}}}",
                "groups g and h give the label x two values",
            ),
        ] {
            let problem = Inventory::parse("hosts.yaml", text).unwrap_err();
            assert!(problem.message.contains(said), "{text}: {}", problem.message);
        }
        let unknown = example().select(&[], &["db2".into()]).unwrap_err();
        assert_eq!(unknown.kind, ProblemKind::NoTargets);
        assert_eq!(example().select(&[], &["role=none".into()]).unwrap_err().kind, ProblemKind::NoTargets);
        assert_eq!(example().select(&[], &["((".into()]).unwrap_err().kind, ProblemKind::Invalid);
    }

    #[test]
    fn hosts_are_written_as_for_ssh() {
        let parsed = |text| parse_host(text).map(|host| (host.destination, host.port));
        assert_eq!(parsed("a"), Ok(("a".into(), None)));
        assert_eq!(parsed("root@a:22"), Ok(("root@a".into(), Some(22))));
        assert_eq!(parsed("root@[::1]:22"), Ok(("root@::1".into(), Some(22))));
        assert_eq!(parsed("fe80::1"), Ok(("fe80::1".into(), None)));
        for bad in ["", "@a", "a:", "a:x", "a:0", "-oProxyCommand=x", "x@-y", "a b", "[::1]x"] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn variables_are_texts_or_json() {
        assert_eq!(variable("a=1"), Ok(("a".into(), Value::from("1"))));
        assert_eq!(variable("a:=1"), Ok(("a".into(), Value::from(1))));
        assert_eq!(variable("a=b:=c"), Ok(("a".into(), Value::from("b:=c"))));
        assert_eq!(variable("a:=[1,{\"b\":null}]").unwrap().1, serde_json::json!([1, {"b": null}]));
        for bad in ["a", "=x", "a b=x", "1a=x", "a:={", ""] {
            assert!(variable(bad).is_err(), "{bad}");
        }
    }
}

//! The machine as its own tools tell it, by the names that a module's changes have.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::comparison::Observation;
use crate::world::sh;

/// All that a state of this module may change, and what else could change with it.
pub fn of(module: &str, params: &Map<String, Value>) -> Observation {
    let text = |field: &str| params.get(field).and_then(Value::as_str).unwrap_or_default();
    let name = text("name");
    match module {
        "user" => user(name),
        "group" => group(name),
        "ssh_key" => {
            let home = line(&format!("getent passwd {} | cut -d: -f6", text("user")));
            file("content", &format!("{home}/.ssh/authorized_keys"))
        }
        "cron" => entry(&format!("/etc/cron.d/{name}")),
        "sysctl" => sysctl(name),
        "mount" => mount(text("path")),
        "service" => service(name.trim_end_matches(".service"), text("runlevel")),
        "pkg" if text("manager") == "dnf" => rpm(),
        "pkg" => deb(params),
        "pkgrepo" => pkgrepo(name, params.get("absent") == Some(&json!(true))),
        _ => panic!("nobody said how {module} is observed"),
    }
}

/// Nothing where it did not work.
fn line(command: &str) -> String {
    sh(&format!("{{ {command}; }} 2>/dev/null || true"))
}

fn says(command: &str) -> bool {
    sh(&format!("if {command} >/dev/null 2>&1; then echo yes; fi")) == "yes"
}

fn sorted(names: impl Iterator<Item = String>) -> Value {
    let mut names: Vec<String> = names.filter(|name| !name.is_empty()).collect();
    names.sort();
    json!(names)
}

fn list(seen: impl IntoIterator<Item = (&'static str, Value)>) -> Observation {
    seen.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn file(field: &'static str, path: &str) -> Observation {
    let bytes = std::fs::read(path).ok();
    bytes.map(|bytes| list([(field, mainstay_module::content::describe(&bytes).into())])).unwrap_or_default()
}

fn directory(path: &str) -> Observation {
    match says(&format!("test -d '{path}'")) {
        true => [(format!("exists of {path}"), json!("directory"))].into(),
        false => Observation::new(),
    }
}

/// What is at a path, a link itself rather than what it leads to.
fn entry(path: &str) -> Observation {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return Observation::new() };
    let kind = line(&format!("stat -c %F '{path}'")).replace("regular empty file", "file");
    let kind = kind.replace("regular file", "file").replace("symbolic link", "link");
    let mut seen = list([
        ("exists", json!(kind)),
        ("owner", json!(line(&format!("stat -c %U '{path}'")))),
        ("group", json!(line(&format!("stat -c %G '{path}'")))),
    ]);
    if meta.is_file() {
        seen.insert("mode".into(), json!(line(&format!("stat -c 0%a '{path}'"))));
        seen.extend(file("content", path));
    }
    seen
}

fn user(name: &str) -> Observation {
    let entry = line(&format!("getent passwd {name}"));
    let [_, _, uid, gid, comment, home, shell] = entry.split(':').collect::<Vec<_>>()[..] else {
        return list([("exists", json!(false))]);
    };
    let own = line(&format!("getent group {gid} | cut -d: -f1"));
    let further = line(&format!("grep -E '[:,]{name}(,|$)' /etc/group | cut -d: -f1"));
    list([
        ("exists", json!(true)),
        ("uid", json!(uid.parse::<u32>().unwrap())),
        ("comment", json!(comment)),
        ("home", json!(home)),
        ("shell", json!(shell)),
        ("group", json!(own)),
        ("groups", sorted(further.lines().map(str::to_owned).filter(|group| *group != own))),
        ("password", json!(line(&format!("getent shadow {name} | cut -d: -f2")))),
    ])
}

fn group(name: &str) -> Observation {
    let entry = line(&format!("getent group {name}"));
    let [_, _, gid, members] = entry.split(':').collect::<Vec<_>>()[..] else {
        return list([("exists", json!(false))]);
    };
    list([
        ("exists", json!(true)),
        ("gid", json!(gid.parse::<u32>().unwrap())),
        ("members", sorted(members.split(',').map(str::to_owned))),
    ])
}

fn sysctl(name: &str) -> Observation {
    let path = name.replace('.', "/");
    let value = line(&format!("tr -s '[:space:]' ' ' < /proc/sys/{path}"));
    let mut seen = list([("value", json!(value.trim()))]);
    seen.extend(directory("/etc/sysctl.d"));
    let kept = format!("/etc/sysctl.d/90-{}.conf", name.replace('.', "-"));
    seen.extend(std::fs::read_to_string(kept).ok().map(|kept| ("persist".to_owned(), json!(kept.trim()))));
    seen
}

fn mount(path: &str) -> Observation {
    let mut seen = list([("mounted", json!(says(&format!("mountpoint -q '{path}'"))))]);
    if says(&format!("test -d '{path}'")) {
        seen.insert("directory".into(), json!(path));
    }
    Path::new(path).ancestors().skip(1).for_each(|above| seen.extend(directory(&above.to_string_lossy())));
    let written = path.replace(' ', "\\\\040");
    let lines = line(&format!("awk '$2 == \"{written}\"' /etc/fstab"));
    if !lines.is_empty() {
        seen.insert("fstab".into(), json!(lines));
    }
    seen
}

fn service(name: &str, runlevel: &str) -> Observation {
    if says("test -d /run/systemd/system") {
        let enabled = line(&format!("systemctl is-enabled {name}"));
        return list([
            ("masked", json!(enabled == "masked")),
            ("enabled", json!(enabled == "enabled")),
            ("running", json!(says(&format!("systemctl is-active {name}")))),
        ]);
    }
    let runlevel = if runlevel.is_empty() { "default" } else { runlevel };
    list([
        ("enabled", json!(says(&format!("test -e /etc/runlevels/{runlevel}/{name}")))),
        ("running", json!(says(&format!("rc-service {name} status")))),
    ])
}

/// Every package that is there, so that one which nobody listed is seen to come or go.
fn deb(params: &Map<String, Value>) -> Observation {
    let all = sh("dpkg-query -W -f '${db:Status-Status} ${Package} ${Version}\\n'");
    let purges = params.get("purge") == Some(&json!(true));
    let mut seen = Observation::new();
    for line in all.lines() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["installed", name, version] => seen.insert(name.to_owned(), json!(version)),
            // Only who asks for it to go sees what is left.
            ["config-files", name, _] if purges => seen.insert(name.to_owned(), json!("configuration")),
            _ => None,
        };
    }
    let name = params["name"].as_str().unwrap();
    let held = line("apt-mark showhold").lines().any(|held| held == name);
    seen.insert(format!("{name} held"), json!(held));
    seen
}

fn rpm() -> Observation {
    let all = sh("rpm -qa --queryformat '%{NAME} %{VERSION}-%{RELEASE}\\n'");
    let name_and_version = |line: &str| {
        let (name, version) = line.split_once(' ').expect("two words");
        (name.to_owned(), json!(version))
    };
    all.lines().map(name_and_version).collect()
}

/// A key that comes is told by its fingerprint, and one that goes as a file.
fn pkgrepo(name: &str, absent: bool) -> Observation {
    let mut seen = Observation::new();
    for path in [format!("/etc/apt/sources.list.d/{name}.sources"), format!("/etc/yum.repos.d/{name}.repo")] {
        seen.extend(file("content", &path));
    }
    let key = format!("/etc/apt/keyrings/{name}.asc");
    if absent {
        seen.extend(file("key", &key));
    } else if says(&format!("test -e {key}")) {
        let prints = line(&format!(
            "gpg --homedir /tmp --with-colons --show-keys {key} | grep ^fpr | head -n 1 | cut -d: -f10"
        ));
        seen.insert("key".into(), json!(prints));
    }
    seen
}

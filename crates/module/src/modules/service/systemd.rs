//! systemd, through `systemctl show`, whose properties are made for programs.

use std::collections::BTreeMap;

use super::{Unit, Verb};
use crate::failure::Failure;
use crate::host::{Command, Host, View};

/// Kinds of unit that can be named.
const ENDINGS: [&str; 11] = [
    ".service",
    ".socket",
    ".target",
    ".timer",
    ".path",
    ".mount",
    ".automount",
    ".swap",
    ".slice",
    ".scope",
    ".device",
];

const PROPERTIES: &str =
    "LoadState,ActiveState,SubState,UnitFileState,NeedDaemonReload,CanReload,Type,RemainAfterExit";

/// The whole name of the unit.
pub(super) fn unit(name: &str) -> String {
    match ENDINGS.iter().any(|ending| name.ends_with(ending)) {
        true => name.to_owned(),
        false => format!("{name}.service"),
    }
}

pub(super) fn look(view: &View, name: &str) -> Result<Unit, Failure> {
    let unit = unit(name);
    let command = Command::new("systemctl").args(["show", "--property", PROPERTIES, "--", &unit]);
    let shown = view.run(&command)?.or_failure(&command)?.text();
    let mut parsed = parse(&shown);
    // An old init script: another tool knows.
    if shown.lines().any(|line| line == "UnitFileState=generated") {
        let command = Command::new("systemctl").args(["is-enabled", "--quiet", "--", &unit]);
        parsed.enabled = view.run(&command)?.succeeded();
        parsed.fixed = None;
    }
    Ok(parsed)
}

pub(super) fn parse(shown: &str) -> Unit {
    let properties: BTreeMap<&str, &str> = shown.lines().filter_map(|line| line.split_once('=')).collect();
    let is = |name: &str, values: &[&str]| properties.get(name).is_some_and(|value| values.contains(value));
    // One that failed waits for its next try.
    let waits = is("SubState", &["auto-restart", "auto-restart-queued"]);
    let file = properties.get("UnitFileState").copied().unwrap_or_default();
    let masked = file.starts_with("masked") || is("LoadState", &["masked"]);
    let fixed = match file {
        "static" => Some("it has no [Install] section, so it is started only by other units"),
        "transient" => Some("it was made for this run of the machine alone"),
        "generated" => Some("a generator makes it"),
        _ => None,
    };
    Unit {
        found: masked || !is("LoadState", &["not-found", ""]),
        running: is("ActiveState", &["active", "reloading", "refreshing", "activating"]) && !waits,
        enabled: matches!(file, "enabled" | "alias"),
        fixed: fixed.filter(|_| !masked),
        masked,
        can_reload: is("CanReload", &["yes"]),
        outdated: is("NeedDaemonReload", &["yes"]),
        ends_by_itself: is("Type", &["oneshot"]) && is("RemainAfterExit", &["no"]),
    }
}

pub(super) fn act(host: &Host, name: &str, verb: Verb) -> Result<(), Failure> {
    let run = |args: &[&str]| {
        let command = Command::new("systemctl").args(args.iter().copied());
        host.run(&command)?.or_failure(&command).map(drop)
    };
    let name = unit(name);
    if matches!(verb, Verb::Start | Verb::Restart | Verb::Reload) && look(host, &name)?.outdated {
        run(&["daemon-reload"])?;
    }
    let word = match verb {
        Verb::Start => "start",
        Verb::Stop => "stop",
        Verb::Restart => "restart",
        Verb::Reload => "reload",
        Verb::Enable => "enable",
        Verb::Disable => "disable",
        Verb::Mask => "mask",
        Verb::Unmask => "unmask",
    };
    run(&["--no-ask-password", word, "--", &name]).map_err(|failure| match verb {
        Verb::Start | Verb::Restart | Verb::Reload => {
            failure.hint(format!("`journalctl -u {name}` has its own words"))
        }
        _ => failure,
    })
}

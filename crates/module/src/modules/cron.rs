//! `cron`: a command that cron runs, in a file of its own in `/etc/cron.d`.
//!
//! A file for each state is written at once, is seen to belong to it, and goes with it; a user's own crontab, which
//! `crontab -e` edits, stays the user's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mainstay_core::state::plan::{Change, Datum};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::accounts::check_name;
use crate::failure::Failure;
use crate::field::{Account, Mode};
use crate::forecast::Resource;
use crate::host::Ownership;
use crate::module::{About, Analysis, Analyze, Applied, Apply, Module};
use crate::replacement;
use crate::standing::{Kind, Sight, Standing, Wanted, conclude};

const DIRECTORY: &str = "/etc/cron.d";

/// cron takes only what belongs to root, and is written by nobody else.
const MODE: Mode = Mode(0o644);

const NICKNAMES: [&str; 8] =
    ["@reboot", "@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

pub struct Cron;

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CronParams {
    /// Names the file `/etc/cron.d/NAME`: letters, digits, `_` and `-`, since cron passes over all others.
    #[schemars(extend("format" = "cron-name"))]
    name: String,
    /// When it runs: minute, hour, day of the month, month, day of the week, as `"*/5 * * * *"`; or `@daily`, `@reboot` and their
    /// like.
    #[schemars(extend("format" = "cron-schedule"))]
    schedule: Option<String>,
    /// The command, a line for `/bin/sh`. A `%` in it is a plain one.
    command: Option<String>,
    /// The user that it runs as; `root` without it.
    #[schemars(extend("format" = "account-name"))]
    user: Option<String>,
    /// Variables that it finds, as `MAILTO` and `PATH`, which is short without it.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// There must be no such file.
    #[serde(default)]
    absent: bool,
}

impl CronParams {
    fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    fn user(&self) -> &str {
        self.user.as_deref().unwrap_or("root")
    }

    fn text(&self) -> String {
        let mut text: String = self.env.iter().map(|(name, value)| format!("{name}=\"{value}\"\n")).collect();
        let (schedule, command) = (self.schedule.as_deref(), self.command.as_deref());
        // cron makes line ends of a plain `%`.
        let command = command.unwrap_or_default().replace('%', r"\%");
        text.push_str(&format!("{} {} {command}\n", normal(schedule.unwrap_or_default()), self.user()));
        text
    }
}

fn normal(schedule: &str) -> String {
    schedule.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The names of months and days that cron knows, from the first.
const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

fn check_schedule(schedule: &str) -> Result<(), String> {
    check_words(schedule).map_err(|why| format!("`schedule` {schedule:?}: {why}"))
}

/// What is wrong with the name of a file that cron is to read.
pub(crate) fn check_file_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    match !name.is_empty() && !name.starts_with('-') && name.chars().all(plain) {
        true => Ok(()),
        false => Err("cron reads only files of letters, digits, `_` and `-`".into()),
    }
}

/// What is wrong with a schedule, in words without it.
pub(crate) fn check_words(schedule: &str) -> Result<(), String> {
    let wrong = Err::<(), String>;
    let schedule = schedule.trim();
    if schedule.starts_with('@') {
        return match NICKNAMES.contains(&schedule) {
            true => Ok(()),
            false => wrong("cron knows no such name".into()),
        };
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    let limits: [(&str, u32, u32, &[&str], u32); 5] = [
        ("minute", 0, 59, &[], 0),
        ("hour", 0, 23, &[], 0),
        ("day of the month", 1, 31, &[], 0),
        ("month", 1, 12, &MONTHS, 1),
        ("day of the week", 0, 7, &DAYS, 0),
    ];
    if fields.len() != limits.len() {
        return wrong(format!("it has {} fields, not 5", fields.len()));
    }
    for (field, (name, low, high, names, first)) in fields.into_iter().zip(limits) {
        let number = |text: &str| -> Option<u32> {
            let named = names.iter().position(|name| name.eq_ignore_ascii_case(text));
            let number = match named {
                Some(at) => at as u32 + first,
                None => text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())??,
            };
            (low..=high).contains(&number).then_some(number)
        };
        let item = |item: &str| -> Option<()> {
            let (range, step) =
                item.split_once('/').map_or((item, None), |(range, step)| (range, Some(step)));
            if let Some(step) = step {
                step.parse::<u32>().ok().filter(|step| (1..=high).contains(step))?;
            }
            match range.split_once('-') {
                Some((from, to)) => (number(from)? <= number(to)?).then_some(()),
                None if range == "*" => Some(()),
                // A step needs a range to step over.
                None => number(range).filter(|_| step.is_none()).map(drop),
            }
        };
        if let Some(bad) = field.split(',').find(|text| item(text).is_none()) {
            return wrong(format!("{bad:?} cannot be a {name}"));
        }
    }
    Ok(())
}

impl Module for Cron {
    type Params = CronParams;

    fn about(&self) -> About {
        About {
            name: "cron",
            summary: "A command that cron runs by a schedule, in a file of its own in /etc/cron.d.",
            identity: Some("name"),
            dry_run: "Complete.",
            outputs: &[("path", "the file")],
            example: "\
backup:
  cron: {schedule: \"30 2 * * *\", command: /usr/local/bin/backup, user: app, env: {MAILTO: ops@example.org}}
",
        }
    }

    fn check(&self, params: &CronParams) -> Result<(), String> {
        check_file_name(&params.name).map_err(|why| format!("`name` {:?}: {why}", params.name))?;
        if params.absent {
            return match params.schedule.is_some() || params.command.is_some() {
                true => Err("what is `absent` has no schedule and no command".into()),
                false => Ok(()),
            };
        }
        check_name("user", params.user())?;
        check_schedule(params.schedule.as_deref().ok_or("`schedule` is missing")?)?;
        let command = params.command.as_deref().ok_or("`command` is missing")?;
        if command.trim().is_empty() || command.contains(['\n', '\r', '\0']) {
            return Err("`command` is one line".into());
        }
        for (name, value) in &params.env {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let is_name = !name.is_empty()
                && name.chars().all(plain)
                && !name.starts_with(|c: char| c.is_ascii_digit());
            if !is_name || value.contains(|c: char| c.is_control() || c == '"') {
                return Err(format!("`env`: {name} cannot be given to cron so"));
            }
        }
        Ok(())
    }

    fn needs(&self, params: &CronParams) -> Vec<Resource> {
        let packages = ["cron", "cronie", "dcron"].into_iter().map(Resource::package);
        match params.absent {
            true => Vec::new(),
            false => packages
                .chain([Resource::user(params.user()), Resource::path(Path::new(DIRECTORY))])
                .collect(),
        }
    }

    fn provides(&self, params: &CronParams) -> Vec<Resource> {
        if params.absent { Vec::new() } else { vec![Resource::path(&params.path())] }
    }

    fn writes(&self, params: &CronParams) -> Vec<PathBuf> {
        vec![params.path()]
    }

    fn analyze(&self, params: &CronParams, cx: &Analyze<'_>) -> Result<Analysis, Failure> {
        let path = params.path();
        conclude(&path, if params.absent { absence(&path, cx) } else { self.presence(params, &path, cx) })
    }

    fn apply(&self, params: &CronParams, cx: &Apply<'_>, _: &Analysis) -> Result<Applied, Failure> {
        let path = params.path();
        if params.absent {
            if cx.host.entry(&path)?.is_some() {
                cx.host.remove(&path)?;
            }
            return Ok(Applied::default());
        }
        let ownership = Ownership { uid: Some(0), gid: Some(0), mode: Some(MODE.0) };
        cx.host.write(&path, params.text().as_bytes(), ownership)?;
        Ok(Applied::default().output("path", path.display().to_string()))
    }
}

impl Cron {
    fn presence(&self, params: &CronParams, path: &Path, cx: &Analyze<'_>) -> Sight<Analysis> {
        let standing = entry(path, cx)?;
        let text = params.text();
        let output = |analysis: Analysis| analysis.output("path", path.display().to_string());
        let new = standing.kind != Kind::File;
        // What is no file hands nothing on to the one that replaces it.
        let nothing = Standing::absent(path, standing.by.clone());
        let old = if new { &nothing } else { &standing };
        let now = old.content(cx.view)?;
        let same = now.as_deref() == Some(text.as_bytes());
        if !new && same && is_read(&standing, cx)? {
            return Ok(output(Analysis::unchanged()));
        }
        let mut changes = Vec::new();
        if new {
            changes.push(Change::new("exists", standing.before(), Datum::known("file")));
        } else {
            let root = Account::from("0");
            let wanted = Wanted { mode: Some(MODE), owner: Some(&root), group: Some(&root) };
            changes.extend(wanted.changes(cx, old, "")?);
        }
        if !same {
            let secret = old.is_secret(cx.view);
            changes.insert(
                usize::from(new),
                replacement::shown(cx, old, now.as_deref(), text.as_bytes(), secret),
            );
        }
        let coming = self
            .needs(params)
            .iter()
            .find_map(|resource| cx.forecast.brings(resource))
            .map(|found| &found.by);
        let until = coming.or(cx.forecast.bringer());
        if cx.view.target(Path::new(DIRECTORY))?.is_none() && until.is_none() {
            let failure =
                Failure::new(format!("plan cron {}", params.name), format!("there is no {DIRECTORY}"));
            return Err(failure.hint("a `pkg` state for cron before this one would bring it").into());
        }
        if cx.user(params.user())?.is_none() && until.is_none() {
            return Err(Failure::new(
                format!("plan cron {}", params.name),
                format!("there is no user {}", params.user()),
            )
            .into());
        }
        Ok(output(Analysis::of(changes)))
    }
}

fn absence(path: &Path, cx: &Analyze<'_>) -> Sight<Analysis> {
    let standing = entry(path, cx)?;
    let gone = standing.exists().then(|| Change::new("exists", standing.before(), Datum::Absent));
    Ok(Analysis::of(gone.into_iter().collect()))
}

/// What is at the path itself: a link is as little a job of cron's as what it leads to.
fn entry(path: &Path, cx: &Analyze<'_>) -> Sight<Standing> {
    let standing = Standing::at(cx, path)?;
    match standing.kind {
        Kind::Directory => Err(Failure::on("manage", path, "it is a directory").into()),
        _ => Ok(standing),
    }
}

/// Whether every cron reads such a file. cronie is the strictest: it wants one of root's, who may read it, that nobody may
/// execute and nobody else may write.
fn is_read(file: &Standing, cx: &Analyze<'_>) -> Sight<bool> {
    let root = Account::from("0");
    let foreign = Wanted { owner: Some(&root), ..Wanted::default() }.changes(cx, file, "")?;
    Ok(foreign.is_empty() && file.mode.is_some_and(|mode| mode & 0o7533 == 0o400))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_read_as_cron_reads_them() {
        for good in ["* * * * *", "*/5 0-23/2 1,15 jan-mar Mon", "0 0 31 12 7", "@daily", " 5  4 * * sun "] {
            assert_eq!(check_schedule(good), Ok(()), "{good}");
        }
        let bad = [
            "",
            "* * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
            "5/2 * * * *",
            "*/0 * * * *",
            "9-5 * * * *",
            "a * * * *",
            "@fortnightly",
            "* * * * * root",
            "1,,2 * * * *",
            "-1 * * * *",
        ];
        for bad in bad {
            assert!(check_schedule(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_cron_would_read_otherwise_is_escaped_or_refused() {
        let read = |value| -> Result<String, String> {
            let params: CronParams = serde_json::from_value(value).unwrap();
            Cron.check(&params).map(|()| params.text())
        };
        let job = |command: &str| serde_json::json!({"name": "job", "schedule": "0 1  * * *", "command": command, "env": {"MAILTO": ""}});
        assert_eq!(read(job("date +%F")).unwrap(), "MAILTO=\"\"\n0 1 * * * root date +\\%F\n");
        assert!(read(job("a\n* * * * * root b")).is_err());
        for name in ["a.b", "../x", "", "a b", "-x"] {
            let value = serde_json::json!({"name": name, "schedule": "@daily", "command": "x"});
            assert!(read(value).is_err(), "{name}: cron would pass over it");
        }
    }
}

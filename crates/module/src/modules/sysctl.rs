//! `sysctl`: a setting of the running kernel, and the file that gives it at the next start.

use std::path::{Path, PathBuf};

use mainstay_core::state::plan::{Change, Datum};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::failure::Failure;
use crate::forecast::Resource;
use crate::host::{Host, Ownership, View};
use crate::module::{About, Analysis, Analyze, Applied, Apply, Module};
use crate::standing::{Hindrance, Sight, Standing, Thing, conclude, field};

const DIRECTORY: &str = "/etc/sysctl.d";

pub struct Sysctl;

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SysctlParams {
    /// The setting, as `net.ipv4.ip_forward`. Where a part has a dot in it, write slashes: `net/ipv4/conf/eth0.1/forwarding`.
    #[schemars(extend("format" = "sysctl-name"))]
    name: String,
    /// Its value: a number, or a text of words and numbers. The kernel reads `0x40` and `0100` as 64.
    value: Option<SettingValue>,
    /// Whether it is set so when the machine starts, by `/etc/sysctl.d/90-NAME.conf`. `false` leaves that file alone.
    #[serde(default = "yes")]
    persist: bool,
    /// That file must not be there. The running kernel keeps what it has.
    #[serde(default)]
    absent: bool,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
enum SettingValue {
    Number(i64),
    Text(String),
}

impl std::fmt::Display for SettingValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

fn yes() -> bool {
    true
}

/// The kernel separates with tabs, people with spaces.
fn normal(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A number as the kernel reads one: `0x` before sixteen, `0` before eight. It writes plain ones.
fn number(word: &str) -> Option<String> {
    let (sign, digits) = word.strip_prefix('-').map_or(("", word), |digits| ("-", digits));
    let (digits, base) = match digits.strip_prefix('0') {
        None | Some("") => (digits, 10),
        Some(rest) => rest.strip_prefix(['x', 'X']).map_or((rest, 8), |rest| (rest, 16)),
    };
    // The library would take a sign.
    let is_digits = digits.chars().all(|digit| digit.is_digit(base));
    let number = is_digits.then(|| u64::from_str_radix(digits, base).ok())??;
    Some(if number == 0 { "0".into() } else { format!("{sign}{number}") })
}

/// What the kernel will show where it now shows `now`: where that is a number, so is what is given.
fn shown(wanted: &str, now: &str) -> String {
    let mut before = now.split(' ');
    let word = |word: &str| {
        let is_number = before.next().is_some_and(|before| number(before).as_deref() == Some(before));
        number(word).filter(|_| is_number).unwrap_or_else(|| word.to_owned())
    };
    wanted.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// A name with slashes between its parts, as the tools read it: the first separator says which is one.
fn key(name: &str) -> String {
    match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'.') => {
            let swap = |c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            };
            name.chars().map(swap).collect()
        }
        _ => name.to_owned(),
    }
}

/// What is wrong with the name of a setting.
pub(crate) fn check_setting(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.:/@-".contains(c);
    let is_part = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.starts_with('-');
    match key(name).split('/').all(is_part) && name.chars().all(plain) {
        true => Ok(()),
        false => Err("no setting has such a name".into()),
    }
}

impl SysctlParams {
    fn key(&self) -> String {
        key(&self.name)
    }

    fn live(&self) -> PathBuf {
        PathBuf::from("/proc/sys").join(self.key())
    }

    fn file(&self) -> PathBuf {
        format!("{DIRECTORY}/90-{}.conf", self.key().replace('/', "-")).into()
    }

    fn line(&self, value: &SettingValue) -> String {
        format!("{} = {}\n", self.key(), normal(&value.to_string()))
    }

    fn now(&self, view: &View) -> Result<Option<String>, Failure> {
        Ok(view.read(&self.live())?.map(|bytes| normal(&String::from_utf8_lossy(&bytes))))
    }

    fn foresee(&self, cx: &Analyze<'_>) -> Sight<Analysis> {
        let persisted = self.persisted(cx.view)?;
        let Some(value) = &self.value else {
            let gone = persisted.map(|line| Change::new("persist", Datum::known(line.trim()), Datum::Absent));
            return Ok(Analysis::of(gone.into_iter().collect()));
        };
        let Some(now) = self.now(cx.view)? else {
            if let Some(until) = cx.forecast.opaque() {
                return Err(Hindrance::Later(until.clone()));
            }
            let failure =
                Failure::new(format!("plan sysctl {}", self.name), "the kernel has no such setting");
            return Err(failure.hint("a kernel module that is not loaded may bring it").into());
        };
        let wanted = shown(&normal(&value.to_string()), &now);
        let mut changes = Vec::new();
        let mut makes_directory = false;
        if now != wanted {
            changes.push(Change::new("value", Datum::known(now), Datum::known(wanted.clone())));
        }
        let line = self.line(value);
        if self.persist && persisted.as_ref() != Some(&line) {
            makes_directory = !Standing::through(cx, Path::new(DIRECTORY))?.exists();
            if makes_directory {
                changes.push(Change::new(
                    field("exists", DIRECTORY),
                    Datum::Absent,
                    Datum::known("directory"),
                ));
            }
            let before = persisted.map_or(Datum::Absent, |line| Datum::known(line.trim()));
            changes.push(Change::new("persist", before, Datum::known(line.trim())));
        }
        let mut analysis = Analysis::of(changes).output("value", wanted);
        if makes_directory {
            let thing = Thing { kind: "directory", ..Thing::default() };
            analysis = analysis.predict(Resource::path(Path::new(DIRECTORY)), Some(thing.value()));
        }
        Ok(analysis)
    }

    fn persisted(&self, view: &View) -> Result<Option<String>, Failure> {
        Ok(view.read(&self.file())?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }
}

impl Module for Sysctl {
    type Params = SysctlParams;

    fn about(&self) -> About {
        About {
            name: "sysctl",
            summary: "A setting of the kernel, now and after the next start.",
            identity: Some("name"),
            dry_run: "Complete. Whether the kernel takes a value shows only when it is given.",
            outputs: &[("value", "the value that the kernel has")],
            example: "\
net.ipv4.ip_forward:
  sysctl: {value: 1}
vm.swappiness:
  sysctl: {value: 10, persist: false}
",
        }
    }

    fn check(&self, params: &SysctlParams) -> Result<(), String> {
        check_setting(&params.name).map_err(|why| format!("`name` {:?}: {why}", params.name))?;
        match (&params.value, params.absent) {
            (None, false) => return Err("`value` is missing".into()),
            (Some(_), true) => return Err("a setting that is `absent` has no value".into()),
            _ => {}
        }
        let text = params.value.as_ref().map(ToString::to_string).unwrap_or_default();
        if text.contains(|c: char| c.is_control() && c != '\t') {
            return Err("`value` is one line".into());
        }
        Ok(())
    }

    fn writes(&self, params: &SysctlParams) -> Vec<PathBuf> {
        vec![params.file()]
    }

    fn analyze(&self, params: &SysctlParams, cx: &Analyze<'_>) -> Result<Analysis, Failure> {
        conclude(&params.file(), params.foresee(cx))
    }

    fn apply(&self, params: &SysctlParams, cx: &Apply<'_>, _: &Analysis) -> Result<Applied, Failure> {
        let persisted = params.persisted(cx.host)?;
        let Some(value) = &params.value else {
            if persisted.is_some() {
                cx.host.remove(&params.file())?;
            }
            return Ok(Applied::default());
        };
        let wanted = normal(&value.to_string());
        // The kernel first: a value that it does not take shall not be kept for the next start.
        let now = params.now(cx.host)?;
        if now.as_ref().is_none_or(|now| *now != shown(&wanted, now)) {
            cx.host.write_in_place(&params.live(), wanted.as_bytes())?;
        }
        let line = params.line(value);
        if params.persist && persisted.as_ref() != Some(&line) {
            make_directory(cx.host)?;
            cx.host.write(
                &params.file(),
                line.as_bytes(),
                Ownership { mode: Some(0o644), ..Ownership::default() },
            )?;
        }
        Ok(Applied::default().output("value", params.now(cx.host)?.unwrap_or(wanted)))
    }
}

fn make_directory(host: &Host) -> Result<(), Failure> {
    let path = Path::new(DIRECTORY);
    match host.target(path)? {
        None => host.make_directory(path, Ownership::default()),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str) -> Result<SysctlParams, String> {
        let params: SysctlParams =
            serde_json::from_value(serde_json::json!({"name": name, "value": 1})).unwrap();
        Sysctl.check(&params).map(|()| params)
    }

    #[test]
    fn numbers_are_read_as_the_kernel_reads_them() {
        for (wanted, now, shown_as) in [
            ("0x40", "1", "64"),
            ("0X4f", "1", "79"),
            ("070", "1", "56"),
            ("-010", "-1", "-8"),
            ("-0", "1", "0"),
            ("00", "1", "0"),
            ("0xffffffffffffffff", "1", "18446744073709551615"),
            ("4096 0x20 070", "1 2 3", "4096 32 56"),
            // What is no number there, or not here.
            ("010", "myhost", "010"),
            ("010", "010", "010"),
            ("010 010", "1 a", "8 010"),
            ("010 010", "1", "8 010"),
            ("08", "1", "08"),
            ("0x", "1", "0x"),
            ("0x-1", "1", "0x-1"),
            ("+5", "1", "+5"),
            ("--5", "1", "--5"),
            ("0+7", "1", "0+7"),
            ("0x10000000000000000", "1", "0x10000000000000000"),
            ("ä", "1", "ä"),
            ("", "", ""),
        ] {
            assert_eq!(shown(wanted, now), shown_as, "{wanted:?} where there was {now:?}");
        }
    }

    #[test]
    fn the_first_separator_says_which_is_one() {
        for (name, path) in [
            ("net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward"),
            ("net/ipv4/conf/eth0.1/forwarding", "/proc/sys/net/ipv4/conf/eth0.1/forwarding"),
            ("net.ipv4.conf.eth0/1.forwarding", "/proc/sys/net/ipv4/conf/eth0.1/forwarding"),
        ] {
            assert_eq!(read(name).unwrap().live(), PathBuf::from(path));
        }
        for bad in
            ["", "../etc/passwd", "net/../../x", "/etc/passwd", "net..x", "a b", "net.x=1", "-w", "kernel/-x"]
        {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}

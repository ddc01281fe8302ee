//! `mount`: a file system at its place, and its line in `/etc/fstab`.

mod declared;
mod tree;

use std::path::{Path, PathBuf};

use mainstay_core::state::plan::{Change, Datum};
use schemars::JsonSchema;
use serde::Deserialize;

use super::directory::missing_above;
use crate::failure::Failure;
use crate::field::HostPath;
use crate::forecast::Resource;
use crate::format::MountOption;
use crate::host::{Command, Host, Ownership, View, real_path};
use crate::module::{About, Analysis, Analyze, Applied, Apply, Module};
use crate::standing::{Hindrance, Sight, Standing, Thing, conclude, field};
use declared::Declared;
use tree::Tree;

const TABLE: &str = "/etc/fstab";

/// What to do where something else is mounted. It may be in use, or hold what nobody else has.
const OTHER: &str =
    "nothing is taken away to make room: unmount it, or have it unmounted by `mounted: false` first";

pub struct Mount;

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MountParams {
    /// Where it is mounted. The directory is made if there is none, and those above it.
    path: HostPath,
    /// What is mounted: a device, `UUID=…`, `LABEL=…`, `host:/path`, or a word for a file system without a device.
    #[schemars(extend("format" = "fstab-field"))]
    source: Option<String>,
    /// The file system's type, as `ext4`, `nfs`, `tmpfs`; `none` with the option `bind`.
    #[schemars(extend("format" = "fstab-field"))]
    fstype: Option<String>,
    /// Its options; `defaults` without it.
    #[schemars(with = "Option<Vec<MountOption>>")]
    options: Option<Vec<String>>,
    /// Whether old-fashioned dumps take it, the fifth field.
    #[serde(default)]
    dump: u8,
    /// In which pass it is checked when the machine starts, the sixth field; 0 is never.
    #[serde(default)]
    pass: u8,
    /// Whether it is mounted now. `null` leaves that as it is. Something else that is mounted there is an error, and with
    /// `false` it is unmounted.
    #[serde(default = "mounted")]
    mounted: Option<bool>,
    /// It must neither be mounted nor stand in the table.
    #[serde(default)]
    absent: bool,
}

fn mounted() -> Option<bool> {
    Some(true)
}

/// The table writes what would separate as octal numbers.
fn escape(field: &str) -> String {
    let mut text = String::new();
    for c in field.chars() {
        match c {
            ' ' | '\t' | '\n' | '\\' => text.push_str(&format!("\\{:03o}", u32::from(c))),
            c => text.push(c),
        }
    }
    text
}

fn unescape(field: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = field.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits =
            after.get(..3).filter(|digits| first == b'\\' && digits.iter().all(|d| matches!(d, b'0'..=b'7')));
        let number = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(number.unwrap_or(first));
        rest = if number.is_some() { &after[3..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether a line of the table is about this place.
fn is_of(line: &str, path: &Path) -> bool {
    let mut fields = line.split_whitespace();
    let source = fields.next().is_some_and(|source| !source.starts_with('#'));
    source
        && fields.next().is_some_and(|place| Path::new(&unescape(place)).components().eq(path.components()))
}

impl MountParams {
    fn options(&self) -> String {
        let options = self.options.as_ref().filter(|options| !options.is_empty());
        options.map_or_else(|| "defaults".into(), |options| options.join(","))
    }

    fn declared(&self) -> Declared<'_> {
        Declared {
            source: self.source.as_deref().unwrap_or_default(),
            fstype: self.fstype.as_deref().unwrap_or_default(),
            options: self.options.as_deref().unwrap_or_default(),
        }
    }

    fn line(&self) -> String {
        let field = |text: &Option<String>| escape(text.as_deref().unwrap_or_default());
        let place = escape(&self.path.display().to_string());
        format!(
            "{} {place} {} {} {} {}",
            field(&self.source),
            field(&self.fstype),
            escape(&self.options()),
            self.dump,
            self.pass
        )
    }

    /// The table as it is, and as it shall be.
    fn tables(&self, view: &View) -> Result<(String, String), Failure> {
        let bytes = view.read(Path::new(TABLE))?.unwrap_or_default();
        let now =
            String::from_utf8(bytes).map_err(|_| Failure::on("read", Path::new(TABLE), "it is not UTF-8"))?;
        let wanted = self.table(&now);
        Ok((now, wanted))
    }

    /// Lines of others stay as they are, to the byte.
    fn table(&self, now: &str) -> String {
        let mut wanted = (!self.absent).then(|| self.line() + "\n");
        let mut table = String::new();
        for line in now.split_inclusive('\n') {
            if !is_of(line, &self.path) {
                table.push_str(line);
            } else if let Some(own) = wanted.take() {
                // How it is spaced is not ours.
                let same = line.split_whitespace().eq(own.split_whitespace());
                table.push_str(if same { line } else { &own });
            }
        }
        if let Some(own) = wanted {
            if !table.is_empty() && !table.ends_with('\n') {
                table.push('\n');
            }
            table.push_str(&own);
        }
        table
    }

    /// Whether what is mounted by this table has other options than it shall have.
    fn is_remount(&self, table: &str) -> bool {
        let options = |line: &str| line.split_whitespace().nth(3).map(unescape);
        let line = table.lines().find(|line| is_of(line, &self.path));
        line.and_then(options) != Some(self.options())
    }

    fn foresee(&self, cx: &Analyze<'_>) -> Sight<Analysis> {
        let (now, wanted) = self.tables(cx.view)?;
        let tree = Tree::look(cx.view)?;
        let place = real_path(&self.path);
        let there = tree.at(&place);
        let is_mounted = !there.is_empty();
        let mounted = if self.absent { Some(false) } else { self.mounted };
        if let Some(top) = there.first().filter(|_| mounted == Some(true))
            && !self.declared().is_at(cx.view, &tree, &place)?
        {
            if let Some(until) = cx.forecast.opaque() {
                return Err(Hindrance::Later(until.clone()));
            }
            let words = format!("mounted there is {top}, not {}", self.declared());
            return Err(Failure::on("plan mount", &self.path, words).hint(OTHER).into());
        }
        let mut changes = Vec::new();
        let mut made = Vec::new();
        let exists = |path: &Path| -> Sight<bool> { Ok(Standing::through(cx, path)?.exists()) };
        if mounted == Some(true) && !exists(&self.path)? {
            made = missing_above(&self.path, &exists)?;
            for above in &made {
                let name = field("exists", &above.to_string_lossy());
                changes.push(Change::new(name, Datum::Absent, Datum::known("directory")));
            }
            changes.push(Change::new(
                "directory",
                Datum::Absent,
                Datum::known(self.path.display().to_string()),
            ));
        }
        if now != wanted {
            changes.push(Change::new("fstab", self.lines(&now), self.lines(&wanted)));
        }
        if let Some(top) = there.first().filter(|_| mounted == Some(true) && self.is_remount(&now)) {
            let (before, after) = (top.all_options(), self.options());
            if before != after {
                changes.push(Change::new("options", Datum::known(before), Datum::known(after)));
            }
        }
        if let Some(mounted) = mounted.filter(|mounted| *mounted != is_mounted) {
            changes.push(Change::new("mounted", Datum::known(is_mounted), Datum::known(mounted)));
        }
        let changed = !changes.is_empty();
        let mut analysis = Analysis::of(changes).output("mounted", mounted.unwrap_or(is_mounted));
        if mounted == Some(false) && there.len() > 1 {
            analysis = analysis.reason(format!("{} are mounted there, one over the other", there.len()));
        }
        if analysis.lists("directory") {
            for above in made {
                let thing = Thing { kind: "directory", ..Thing::default() };
                analysis = analysis.predict(Resource::path(&above), Some(thing.value()));
            }
            let thing = Thing { kind: "directory", inside_unknown: true, ..Thing::default() };
            analysis = analysis.predict(Resource::path(&self.path), Some(thing.value()));
        }
        // What is seen beneath it will be something else.
        Ok(if changed {
            analysis.predict(Resource::new("mount", self.path.display()), None)
        } else {
            analysis
        })
    }

    fn lines(&self, table: &str) -> Datum {
        let lines: Vec<&str> = table.lines().filter(|line| is_of(line, &self.path)).collect();
        if lines.is_empty() { Datum::Absent } else { Datum::known(lines.join("\n")) }
    }
}

/// What is wrong with a field of the table.
pub(crate) fn check_field(text: &str) -> Result<(), String> {
    match text.is_empty() || text.starts_with(['-', '#']) || text.contains(|c: char| c.is_control()) {
        true => Err("the table has no such field".into()),
        false => Ok(()),
    }
}

/// What is wrong with one option.
pub(crate) fn check_option(option: &str) -> Result<(), String> {
    match option.is_empty() || option.contains(|c: char| c.is_control() || c == ',') {
        true => Err("it is not a single option".into()),
        false => Ok(()),
    }
}

impl Module for Mount {
    type Params = MountParams;

    fn about(&self) -> About {
        About {
            name: "mount",
            summary: "A mounted file system and its line in /etc/fstab.",
            identity: Some("path"),
            dry_run: "Complete. Whether it can be mounted shows only then.",
            outputs: &[("mounted", "whether it is mounted")],
            example: "\
/srv/data:
  mount: {source: LABEL=data, fstype: ext4, options: [noatime, nofail], pass: 2}
/var/cache/build:
  mount: {source: tmpfs, fstype: tmpfs, options: [size=1g, mode=0755]}
",
        }
    }

    fn check(&self, params: &MountParams) -> Result<(), String> {
        let given = params.source.is_some() || params.fstype.is_some() || params.options.is_some();
        if params.absent {
            return if given { Err("what is `absent` has only a `path`".into()) } else { Ok(()) };
        }
        for (name, text) in [("source", &params.source), ("fstype", &params.fstype)] {
            let text = text.as_deref().ok_or_else(|| format!("`{name}` is missing"))?;
            check_field(text).map_err(|why| format!("`{name}` cannot be {text:?}: {why}"))?;
        }
        let of =
            |option: &String| check_option(option).map_err(|why| format!("`options`: {option:?}: {why}"));
        params.options.iter().flatten().try_for_each(of)
    }

    fn needs(&self, params: &MountParams) -> Vec<Resource> {
        let source = params.source.as_deref().filter(|source| source.starts_with('/'));
        let above = params.path.parent().map(Resource::path);
        source.map(|source| Resource::path(Path::new(source))).into_iter().chain(above).collect()
    }

    fn writes(&self, _: &MountParams) -> Vec<PathBuf> {
        vec![TABLE.into()]
    }

    fn analyze(&self, params: &MountParams, cx: &Analyze<'_>) -> Result<Analysis, Failure> {
        conclude(&params.path, params.foresee(cx))
    }

    fn apply(&self, params: &MountParams, cx: &Apply<'_>, analysis: &Analysis) -> Result<Applied, Failure> {
        let host = cx.host;
        let (now, wanted) = params.tables(host)?;
        let place = real_path(&params.path);
        let depth = Tree::look(host)?.at(&place).len();
        let before = depth > 0;
        let mounted = if params.absent { Some(false) } else { params.mounted };
        let path = params.path.display().to_string();
        if mounted == Some(true) && host.target(&params.path)?.is_none() {
            run(host, Command::new("mkdir").args(["-p", "--", &path]))?;
        }
        // Taken away by the old line, and mounted by the new one.
        if mounted == Some(false) {
            let place = place.display().to_string();
            // Each shows the one that it was mounted over.
            for _ in 0..depth {
                run(host, Command::new("umount").args(["--", &place]))?;
            }
        }
        if analysis.lists("options") {
            // Before the table tells of it: what fails or is cut off here still has to be done, and shows as that. With the
            // source given, no option of the old line counts.
            let options = format!("remount,{}", params.options());
            let source = params.source.as_deref().unwrap_or_default();
            run(host, Command::new("mount").args(["-o", &options, "--", source, &path]))?;
        }
        if now != wanted {
            host.write(Path::new(TABLE), wanted.as_bytes(), Ownership::default())?;
            reload_units(host)?;
        }
        if mounted == Some(true) && !before {
            run(host, Command::new("mount").args(["--", &path]))?;
        }
        Ok(Applied::default().output("mounted", !Tree::look(host)?.at(&real_path(&params.path)).is_empty()))
    }
}

/// systemd makes units of the table, and would undo by old ones what is mounted by new lines.
fn reload_units(host: &Host) -> Result<(), Failure> {
    match host.target(Path::new("/run/systemd/system"))? {
        Some(_) => run(host, Command::new("systemctl").arg("daemon-reload")),
        None => Ok(()),
    }
}

fn run(host: &Host, command: Command) -> Result<(), Failure> {
    host.run(&command)?.or_failure(&command).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_table_are_told_apart() {
        assert!(is_of("LABEL=a  /srv/my\\040data/ ext4 defaults 0 2", Path::new("/srv/my data")));
        for line in
            ["# LABEL=a /srv ext4 defaults 0 2", "#LABEL=a /srv ext4", "", "LABEL=a", "a /srv/b ext4 x"]
        {
            assert!(!is_of(line, Path::new("/srv")), "{line}");
        }
        for text in ["a b", "a\\040b", "tab\there", "ä"] {
            assert_eq!(unescape(&escape(text)), text);
        }
        assert_eq!(unescape("a\\9x\\"), "a\\9x\\");
    }

    #[test]
    fn only_its_own_line_of_the_table_changes() {
        let read = |value| serde_json::from_value::<MountParams>(value).unwrap();
        let own = read(serde_json::json!({"path": "/srv", "source": "a", "fstype": "ext4"}));
        let gone = read(serde_json::json!({"path": "/srv", "absent": true}));
        let line = "a /srv ext4 defaults 0 0\n";
        for (now, with, without) in [
            ("", line.to_owned(), ""),
            ("b /b ext4 x 0 0", format!("b /b ext4 x 0 0\n{line}"), "b /b ext4 x 0 0"),
            ("b /b ext4 x\r\n# c", format!("b /b ext4 x\r\n# c\n{line}"), "b /b ext4 x\r\n# c"),
            ("a  /srv ext4 defaults 0 0", "a  /srv ext4 defaults 0 0".into(), ""),
            ("z /srv xfs x 0 0\n\nz /srv", format!("{line}\n"), "\n"),
        ] {
            assert_eq!(own.table(now), with, "{now:?}");
            assert_eq!(gone.table(now), without, "{now:?}");
        }
    }
}

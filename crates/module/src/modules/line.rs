//! `line`: one line of a text file.

use schemars::JsonSchema;
use serde::Deserialize;

use super::file::needs;
use crate::edit::{Edit, Spot, expression, join, line_end, lines, without_end};
use crate::failure::Failure;
use crate::field::HostPath;
use crate::forecast::Resource;
use crate::module::{About, Analysis, Analyze, Applied, Apply, Module};
use crate::standing::Wanted;

pub struct Line;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The file, an absolute path. A link is followed, and what it leads to is edited.
    pub path: HostPath,
    /// The line as it is to be, without its line end. Needed unless `absent` is set and `match` says which lines go.
    #[schemars(extend("format" = "one-line"))]
    pub line: Option<String>,
    /// A regular expression that finds the line to replace, somewhere in it; `^` and `$` are its ends. Of several lines that
    /// match, the last is replaced. If none matches, the line is put in.
    #[serde(rename = "match")]
    #[schemars(extend("format" = "regex"))]
    pub find: Option<String>,
    /// Where a line that is put in goes: after the last line that matches this regular expression, or `EOF`. At the end
    /// of the file if it is unset, or if no line matches.
    #[schemars(extend("format" = "regex"))]
    pub insertafter: Option<String>,
    /// Where a line that is put in goes: before the last line that matches this regular expression, or `BOF`. At the
    /// end of the file if no line matches.
    #[schemars(extend("format" = "regex"))]
    pub insertbefore: Option<String>,
    /// Make the file if it is missing.
    #[serde(default)]
    pub create: bool,
    /// Remove every line that `match` matches, or that equals `line`.
    #[serde(default)]
    pub absent: bool,
    /// Keep the content that is replaced, beside the file and with `.bak` at the end of its name.
    #[serde(default)]
    pub backup: bool,
    /// A shell command that checks the new content before it is put in place; `%s` stands for the path of the new file.
    #[schemars(extend("format" = "validate-command"))]
    pub validate: Option<String>,
    /// Never show what the file holds.
    #[serde(default)]
    pub sensitive: bool,
}

impl Params {
    fn with_edit<T>(&self, use_it: impl FnOnce(Edit<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
        let rule = self.rule().map_err(|words| Failure::on("edit", &self.path, words))?;
        use_it(Edit {
            path: &self.path,
            create: self.create,
            absent: self.absent,
            backup: self.backup,
            validate: self.validate.as_deref(),
            sensitive: self.sensitive,
            edit: &|bytes| Ok(rule.edit(bytes)),
        })
    }

    fn rule(&self) -> Result<Rule<'_>, String> {
        let find = self.find.as_deref().map(|find| expression("match", find)).transpose()?;
        let spot = Spot::read(self.insertafter.as_deref(), self.insertbefore.as_deref())?;
        Ok(Rule { line: self.line.as_deref().map(str::as_bytes), find, spot, absent: self.absent })
    }
}

/// What is done to the lines.
#[derive(Debug)]
struct Rule<'a> {
    line: Option<&'a [u8]>,
    find: Option<regex::bytes::Regex>,
    spot: Spot,
    absent: bool,
}

impl Rule<'_> {
    fn edit(&self, bytes: &[u8]) -> Vec<u8> {
        let mut lines = lines(bytes);
        let end = line_end(&lines);
        let matches = |line: &[u8]| self.find.as_ref().is_some_and(|find| find.is_match(without_end(line)));
        let equals = |line: &[u8]| self.line.is_some_and(|wanted| wanted == without_end(line));
        if self.absent {
            lines.retain(|line| if self.find.is_some() { !matches(line) } else { !equals(line) });
            return lines.concat();
        }
        let Some(wanted) = self.line else { return bytes.to_vec() };
        // A line that is as wanted counts even if it is not what is looked for: else each run would replace one more.
        let last = lines.iter().rposition(|line| matches(line) || equals(line));
        match last {
            Some(at) if equals(lines[at]) => bytes.to_vec(),
            Some(at) => {
                let own_end = &lines[at][without_end(lines[at]).len()..];
                // An empty line at the end is one only by its end.
                let own_end = if wanted.is_empty() && own_end.is_empty() { end } else { own_end };
                let new = [wanted, own_end].concat();
                lines[at] = &new;
                lines.concat()
            }
            None => {
                let new = [wanted, end].concat();
                lines.insert(self.spot.among(&lines), &new);
                join(&lines, end)
            }
        }
    }
}

impl Module for Line {
    type Params = Params;

    fn about(&self) -> About {
        About {
            name: "line",
            summary: "One line of a text file: there, as it is to be, or gone.",
            identity: None,
            dry_run: "Tells everything, with a diff. The edit is tried on the content that earlier states of the plan \
                      will have written.",
            outputs: &[("path", "where the file is, links followed")],
            example: "\
no-root-login:
  line:
    path: /etc/ssh/sshd_config
    match: '^#?PermitRootLogin '
    line: PermitRootLogin no
no-old-server:
  line: {path: /etc/ntp.conf, match: '^server old\\.', absent: true}
",
        }
    }

    fn check(&self, p: &Params) -> Result<(), String> {
        p.rule()?;
        match (&p.line, &p.find, p.absent) {
            (None, _, false) => return Err("line: which line there is to be is missing".into()),
            (None, None, true) => return Err("absent: neither line nor match says which lines go".into()),
            (Some(_), Some(_), true) => {
                return Err("absent: line and match exclude each other: one says which lines go".into());
            }
            _ => {}
        }
        if p.line.as_ref().is_some_and(|line| line.contains(['\n', '\r'])) {
            return Err("line: it is one line; a `block` has several".into());
        }
        if p.absent && (p.create || p.insertafter.is_some() || p.insertbefore.is_some()) {
            return Err("absent: nothing is put in or made".into());
        }
        check_validate(p.validate.as_deref())
    }

    fn needs(&self, p: &Params) -> Vec<Resource> {
        let mut needs = needs(&p.path, Wanted::default());
        needs.push(Resource::path(&p.path));
        needs
    }

    fn looks_ahead(&self) -> bool {
        true
    }

    fn analyze(&self, p: &Params, cx: &Analyze<'_>) -> Result<Analysis, Failure> {
        p.with_edit(|edit| edit.analyze(cx))
    }

    fn apply(&self, p: &Params, cx: &Apply<'_>, analysis: &Analysis) -> Result<Applied, Failure> {
        p.with_edit(|edit| edit.apply(cx, analysis))
    }
}

pub(super) fn check_validate(command: Option<&str>) -> Result<(), String> {
    match command {
        Some(command) if !command.contains("%s") => {
            Err("validate: the command has no %s, which stands for the new file".into())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;

//! Edits of a file's lines, whatever else the file holds: what `line` and `block` have in common.
//!
//! An edit is a function from a content to a content. It is tried on what the file holds or will hold, and made anew on
//! what it holds when it is applied; if that is not what the plan showed, nothing is written.

use mainstay_core::state::plan::{Change, Datum};

use crate::content;
use crate::failure::Failure;
use crate::field::{HostPath, Mode};
use crate::forecast::{Forecast, Resource};
use crate::host::{MAX_FILE, Ownership};
use crate::module::{Analysis, Analyze, Applied, Apply};
use crate::replacement;
use crate::standing::{Hindrance, Kind, Sight, Standing, Thing, Wanted, conclude, missing, parent_ready};

/// Where an edit is made, and how.
pub struct Edit<'a> {
    pub path: &'a HostPath,
    /// A missing file is made.
    pub create: bool,
    /// What is not there needs no edit.
    pub absent: bool,
    pub backup: bool,
    pub validate: Option<&'a str>,
    pub sensitive: bool,
    #[expect(clippy::type_complexity, reason = "the name would say less than the type")]
    pub edit: &'a dyn Fn(&[u8]) -> Result<Vec<u8>, Failure>,
}

/// Where to put what is new.
#[derive(Clone, Debug)]
pub enum Spot {
    Start,
    End,
    After(regex::bytes::Regex),
    Before(regex::bytes::Regex),
}

impl Spot {
    /// As states files have it: at most one of two expressions, `BOF` and `EOF` among them.
    pub fn read(insertafter: Option<&str>, insertbefore: Option<&str>) -> Result<Self, String> {
        match (insertafter, insertbefore) {
            (Some(_), Some(_)) => Err("insertafter and insertbefore exclude each other".into()),
            (None | Some("EOF"), None) => Ok(Self::End),
            (None, Some("BOF")) => Ok(Self::Start),
            (Some(after), None) => Ok(Self::After(expression("insertafter", after)?)),
            (None, Some(before)) => Ok(Self::Before(expression("insertbefore", before)?)),
        }
    }

    /// Before which of the lines it is. Where no line matches, that is after the last.
    pub fn among(&self, lines: &[&[u8]]) -> usize {
        let last = |expression: &regex::bytes::Regex| {
            lines.iter().rposition(|line| expression.is_match(without_end(line)))
        };
        match self {
            Self::Start => 0,
            Self::End => lines.len(),
            Self::After(expression) => last(expression).map_or(lines.len(), |at| at + 1),
            Self::Before(expression) => last(expression).unwrap_or(lines.len()),
        }
    }
}

pub fn expression(field: &str, text: &str) -> Result<regex::bytes::Regex, String> {
    check_expression(text).map_err(|why| format!("{field}: {why}"))?;
    regex::bytes::Regex::new(text).map_err(|error| format!("{field}: {error}"))
}

/// What is wrong with it, in a few words. Making an expression of it costs ten times as much.
pub fn check_expression(text: &str) -> Result<(), String> {
    match regex_syntax::ParserBuilder::new().utf8(false).build().parse(text) {
        Ok(_) => Ok(()),
        Err(regex_syntax::Error::Parse(error)) => Err(error.kind().to_string()),
        Err(regex_syntax::Error::Translate(error)) => Err(error.kind().to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// The lines with their ends; only the last may have none.
pub fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split_inclusive(|byte| *byte == b'\n').collect()
}

pub fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// How the file ends its lines.
pub fn line_end(lines: &[&[u8]]) -> &'static [u8] {
    if lines.first().is_some_and(|line| line.ends_with(b"\r\n")) { b"\r\n" } else { b"\n" }
}

/// One content of lines, of which some are new. A line before others gets an end if it has none.
pub fn join(lines: &[&[u8]], end: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(lines.iter().map(|line| line.len() + 1).sum());
    for (at, line) in lines.iter().enumerate() {
        bytes.extend_from_slice(line);
        if at + 1 < lines.len() && !line.ends_with(b"\n") {
            bytes.extend_from_slice(end);
        }
    }
    bytes
}

impl Edit<'_> {
    pub fn analyze(&self, cx: &Analyze<'_>) -> Result<Analysis, Failure> {
        conclude(self.path, self.look(cx))
    }

    fn look(&self, cx: &Analyze<'_>) -> Sight<Analysis> {
        let standing = Standing::through(cx, self.path)?;
        let out = |analysis: Analysis| analysis.output("path", standing.path.to_string_lossy());
        match standing.kind {
            Kind::File => {}
            Kind::Absent if self.absent => return Ok(out(Analysis::unchanged())),
            Kind::Absent if self.create => parent_ready(cx, &standing.path)?,
            Kind::Absent => {
                let failure = Failure::on("edit", self.path, "the file does not exist");
                return Err(missing(cx, failure.hint("`create: true` makes it")));
            }
            _ => {
                let words = format!("it is not a file but a {}", standing.what());
                return Err(Failure::on("edit", self.path, words).into());
            }
        }
        let before = self.before(cx, &standing)?;
        let after = (self.edit)(before.as_deref().unwrap_or_default())?;
        if before.as_ref() == Some(&after) {
            return Ok(out(Analysis::unchanged()));
        }
        let mut changes = Vec::new();
        if !standing.exists() {
            changes.push(Change::new("exists", Datum::Absent, Datum::known("file")));
        }
        let secret = self.sensitive || standing.is_secret(cx.view);
        changes.push(replacement::shown(cx, &standing, before.as_deref(), &after, secret));
        let mut kept = None;
        if self.backup && standing.exists() {
            let (more, foretold) = replacement::kept(cx, &standing, self.sensitive)?;
            changes.extend(more);
            kept = Some(foretold);
        }
        let text = content::text(&after).map(str::to_owned);
        let thing = Thing { kind: "file", text, secret, ..Thing::default() };
        let thing = Wanted::default().foretell(&standing, thing, self.usual_mode(), cx);
        let mut analysis = Analysis::of(changes);
        analysis.predicts.extend(kept);
        if standing.links > 1 {
            let others = standing.links - 1;
            analysis = analysis.reason(format!("{others} other name(s) of this file keep the old content"));
        }
        Ok(out(analysis.predict(Resource::path(&standing.path), Some(thing.value()))))
    }

    fn before(&self, cx: &Analyze<'_>, standing: &Standing) -> Sight<Option<Vec<u8>>> {
        if standing.by.is_none() && standing.size > MAX_FILE {
            return Err(Failure::on("edit", self.path, format!("it has {} bytes", standing.size)).into());
        }
        standing.content(cx.view)
    }

    fn usual_mode(&self) -> Mode {
        Mode(if self.sensitive { 0o600 } else { 0o644 })
    }

    pub fn apply(&self, cx: &Apply<'_>, analysis: &Analysis) -> Result<Applied, Failure> {
        let applied = Applied { outputs: analysis.outputs.clone(), ..Applied::default() };
        let Some(planned) = analysis.changes.iter().find(|change| change.field == "content") else {
            return Ok(applied);
        };
        let nothing = Forecast::default();
        let look = cx.look(&nothing);
        let standing = Standing::through(&look, self.path).map_err(Hindrance::now)?;
        let before = self.before(&look, &standing).map_err(Hindrance::now)?;
        let after = (self.edit)(before.as_deref().unwrap_or_default())?;
        let secret = matches!(planned.after, Datum::Secret { .. });
        let datum = if secret { cx.host.secret(&after) } else { Datum::known(content::describe(&after)) };
        if planned.after != datum {
            return Err(Failure::on("edit", self.path, "it changed since it was looked at"));
        }
        let path = standing.path.as_path();
        let new = !standing.exists();
        let mode = new.then(|| self.usual_mode().0);
        let staged = cx.host.stage(path, &after, Ownership { mode, ..Ownership::default() })?;
        if let Some(command) = self.validate {
            replacement::validate(cx.host, command, &staged, secret)?;
        }
        if self.backup && !new {
            replacement::keep(cx.host, path)?;
        }
        staged.place()?;
        Ok(applied)
    }
}

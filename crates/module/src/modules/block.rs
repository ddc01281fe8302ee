//! `block`: some lines of a text file, between two lines that mark them.

use mainstay_core::state::StateId;
use schemars::JsonSchema;
use serde::Deserialize;

use super::file::needs;
use super::line::check_validate;
use crate::edit::{Edit, Spot, join, line_end, lines, without_end};
use crate::failure::Failure;
use crate::field::HostPath;
use crate::forecast::Resource;
use crate::module::{About, Analysis, Analyze, Applied, Apply, Module};
use crate::standing::Wanted;

/// Where the word goes that tells the first mark from the last.
const MARK: &str = "{mark}";

pub struct Block;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The file, an absolute path. A link is followed, and what it leads to is edited.
    pub path: HostPath,
    /// The lines between the marks. Needed unless `absent` is set.
    pub content: Option<String>,
    /// The line before and after the block, `{mark}` standing for BEGIN and END. By default `# {mark} ` and the id of the
    /// state. A file may have many blocks if their marks differ.
    #[schemars(extend("format" = "block-marker"))]
    pub marker: Option<String>,
    /// Where a new block goes: after the last line that matches this regular expression, or `EOF`. At the end of the
    /// file if it is unset, or if no line matches. A block that is there stays where it is.
    #[schemars(extend("format" = "regex"))]
    pub insertafter: Option<String>,
    /// Where a new block goes: before the last line that matches this regular expression, or `BOF`.
    #[schemars(extend("format" = "regex"))]
    pub insertbefore: Option<String>,
    /// Make the file if it is missing.
    #[serde(default)]
    pub create: bool,
    /// Remove the block with its marks.
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
    fn with_edit<T>(
        &self,
        state: &StateId,
        use_it: impl FnOnce(Edit<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let failed = |words: String| Failure::on("edit", &self.path, words);
        let default = format!("# {MARK} {state}");
        let marker = self.marker.as_deref().unwrap_or(&default);
        let spot = Spot::read(self.insertafter.as_deref(), self.insertbefore.as_deref()).map_err(failed)?;
        let rule = Rule {
            begin: marker.replace(MARK, "BEGIN"),
            end: marker.replace(MARK, "END"),
            content: self.content.as_deref().filter(|_| !self.absent),
            spot,
        };
        use_it(Edit {
            path: &self.path,
            create: self.create,
            absent: self.absent,
            backup: self.backup,
            validate: self.validate.as_deref(),
            sensitive: self.sensitive,
            edit: &|bytes| rule.edit(bytes).map_err(failed),
        })
    }
}

/// What is done to the lines.
#[derive(Debug)]
struct Rule<'a> {
    begin: String,
    end: String,
    /// Nothing: the block goes.
    content: Option<&'a str>,
    spot: Spot,
}

impl Rule<'_> {
    fn edit(&self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let mut lines = lines(bytes);
        let end = line_end(&lines);
        let range = self.find(&lines)?;
        let new = match self.content {
            Some(content) => self.block(content, end)?,
            None => Vec::new(),
        };
        match (range, self.content) {
            (None, None) => return Ok(bytes.to_vec()),
            (None, Some(_)) => {
                let at = self.spot.among(&lines);
                lines.insert(at, &new);
            }
            (Some(range), None) => {
                lines.drain(range);
            }
            (Some(range), Some(_)) => {
                // A mark that ended the file without a line end still does.
                let bare =
                    lines.last().is_some_and(|line| !line.ends_with(b"\n")) && range.end == lines.len();
                let new = if bare { without_end(&new) } else { &new };
                lines.splice(range, [new]);
                return Ok(join(&lines, end));
            }
        }
        Ok(join(&lines, end))
    }

    /// The lines of the block, marks included. What cannot be told for sure is left alone: nobody's lines are lost.
    fn find(&self, lines: &[&[u8]]) -> Result<Option<std::ops::Range<usize>>, String> {
        let places = |mark: &str| -> Vec<usize> {
            let is_mark = |(at, line): (usize, &&[u8])| (without_end(line) == mark.as_bytes()).then_some(at);
            lines.iter().enumerate().filter_map(is_mark).collect()
        };
        let (begin, end) = (&self.begin, &self.end);
        match (places(begin).as_slice(), places(end).as_slice()) {
            ([], []) => Ok(None),
            ([first], [last]) if first < last => Ok(Some(*first..last + 1)),
            ([_], [_]) => Err(format!("the mark {end:?} stands before {begin:?}")),
            ([_], []) => Err(format!("the mark {end:?} is missing, so where the block ends is not known")),
            ([], [_]) => {
                Err(format!("the mark {begin:?} is missing, so where the block begins is not known"))
            }
            _ => Err(format!("the marks {begin:?} and {end:?} stand in it more than once")),
        }
    }

    fn block(&self, content: &str, end: &[u8]) -> Result<Vec<u8>, String> {
        let mut block = Vec::new();
        let mut put = |line: &str| {
            block.extend_from_slice(line.as_bytes());
            block.extend_from_slice(end);
        };
        put(&self.begin);
        for line in content.lines() {
            if line == self.begin || line == self.end {
                return Err(format!("the content holds the mark {line:?} itself"));
            }
            put(line);
        }
        put(&self.end);
        Ok(block)
    }
}

/// What is wrong with a line that marks a block.
pub(crate) fn check_marker(marker: &str) -> Result<(), String> {
    if !marker.contains(MARK) {
        return Err(format!("without {MARK} the first mark could not be told from the last"));
    }
    match marker.contains(['\n', '\r']) {
        true => Err("it is more than one line".into()),
        false => Ok(()),
    }
}

impl Module for Block {
    type Params = Params;

    fn about(&self) -> About {
        About {
            name: "block",
            summary: "Some lines of a text file, between two lines that mark them.",
            identity: None,
            dry_run: "Tells everything, with a diff. The edit is tried on the content that earlier states of the plan \
                      will have written.",
            outputs: &[("path", "where the file is, links followed")],
            example: "\
cluster-hosts:
  block:
    path: /etc/hosts
    content: |
      10.0.0.1 one
      10.0.0.2 two
",
        }
    }

    fn check(&self, p: &Params) -> Result<(), String> {
        Spot::read(p.insertafter.as_deref(), p.insertbefore.as_deref())?;
        if p.content.is_none() && !p.absent {
            return Err("content: the lines of the block are missing".into());
        }
        if p.content.is_some() && p.absent {
            return Err("absent: a block that is not there has no content".into());
        }
        p.marker.as_deref().map_or(Ok(()), check_marker).map_err(|why| format!("marker: {why}"))?;
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
        p.with_edit(cx.state, |edit| edit.analyze(cx))
    }

    fn apply(&self, p: &Params, cx: &Apply<'_>, analysis: &Analysis) -> Result<Applied, Failure> {
        p.with_edit(cx.state, |edit| edit.apply(cx, analysis))
    }
}

#[cfg(test)]
mod tests;

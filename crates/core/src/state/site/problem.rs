//! What is wrong with a states file and what belongs to it, and where.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use crate::listed::{Listed, Pointed};
use crate::state::catalog::Place;

/// Most problems that are listed: a file of the wrong kind has thousands, and the first ones say it.
const MAX_LISTED: usize = 50;

/// Most that are kept while a file is read.
const MAX_KEPT: usize = 1_000;

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SiteError {
    /// As it was named, or as the file that includes it names it.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// In characters from 1.
    pub column: usize,
    pub message: String,
    pub hint: Option<String>,
    /// The line with a caret below the place; empty if there is nothing to show, or if the line may hold a secret.
    pub excerpt: String,
}

/// All that is wrong, file by file.
pub type SiteErrors = Listed<SiteError>;

impl SiteErrors {
    /// Says for which machine it is so, where variables of its own may be the reason.
    pub(super) fn of_machine(mut self, name: &str) -> Self {
        for error in self.iter_mut() {
            if !error.message.contains(name) {
                error.message = format!("for {name}: {}", error.message);
            }
        }
        self
    }

    /// What is wrong for several machines, each thing once.
    pub fn merge(all: impl IntoIterator<Item = Self>) -> Option<Self> {
        let (mut errors, mut unlisted) = (Vec::new(), 0);
        for one in all {
            unlisted = unlisted.max(one.unlisted());
            for error in one.into_errors() {
                if !errors.contains(&error) {
                    errors.push(error);
                }
            }
        }
        Self::first(MAX_LISTED, errors, unlisted)
    }
}

impl Pointed for SiteError {
    fn excerpt(&self) -> &str {
        &self.excerpt
    }
}

impl fmt::Display for SiteError {
    /// `site.yaml:3:9: …`, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Problem {
    pub(super) at: Place,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// Where problems are noted while reading goes on.
#[derive(Debug, Default)]
pub(super) struct Problems(Mutex<BTreeSet<Problem>>);

impl Problems {
    /// The same problem at the same place counts once, however many machines or items come upon it.
    pub(super) fn note(&self, at: Place, message: impl Into<String>, hint: Option<String>) {
        let mut problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if problems.len() < MAX_KEPT {
            problems.insert(Problem { at, message: message.into(), hint });
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    pub(super) fn into_inner(self) -> BTreeSet<Problem> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes errors of problems. `file` gives the name and the text of a file by its number.
pub(super) fn errors<'a>(
    problems: BTreeSet<Problem>,
    file: impl Fn(usize) -> (String, Option<&'a str>),
) -> Option<SiteErrors> {
    let unlisted = problems.len().saturating_sub(MAX_LISTED);
    let errors: Vec<SiteError> = problems
        .into_iter()
        .take(MAX_LISTED)
        .map(|problem| {
            let (name, text) = file(problem.at.file);
            let (line, column) = (problem.at.line.max(1), problem.at.column.max(1));
            let excerpt = match text {
                Some(text) if !among_secrets(text, line) => crate::excerpt::pointed(text, line, column),
                _ => String::new(),
            };
            let Problem { message, hint, .. } = problem;
            SiteError { file: name, line, column, message, hint, excerpt }
        })
        .collect();
    SiteErrors::first(MAX_LISTED, errors, unlisted)
}

/// Whether the line may belong to the file's `secrets`, also where the file is no YAML at all: these are never shown.
fn among_secrets(text: &str, line: usize) -> bool {
    let is_secret = |key: &str| key.trim_matches(['"', '\'']) == "secrets";
    let mut inside = false;
    for line in text.lines().take(line) {
        let begins_key = line.starts_with(|c: char| c.is_alphabetic() || c == '"' || c == '\'');
        // A file in one line, as JSON may be, has no lines to tell apart.
        inside |= line.contains("\"secrets\"") || (line.starts_with('{') && line.contains("secrets"));
        if begins_key && let Some((key, _)) = line.split_once(':') {
            inside = is_secret(key.trim());
        }
    }
    inside
}

#[cfg(test)]
mod tests {
    use super::among_secrets;

    #[test]
    fn lines_of_secrets_are_known_in_broken_files_too() {
        let text = "vars:\n  a: 1\nsecrets:\n  b: [x\n\n  c: y\nstates:\n  d: {}\n";
        let hidden: Vec<usize> = (1..=8).filter(|line| among_secrets(text, *line)).collect();
        assert_eq!(hidden, [3, 4, 5, 6]);
        assert!(among_secrets("{\"secrets\": {\"a\": 1}, \"x\": 2}", 1));
        assert!(among_secrets("{\n \"secrets\": {\n \"a\": 1}}", 3));
    }
}

//! Why a module could not do its work.

use std::fmt;
use std::path::Path;

/// Which call failed, with which words of the system, and what may help.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct Failure {
    /// What was tried, as `write /etc/app.toml`.
    pub call: String,
    /// The system's own words, or a program's.
    pub words: String,
    pub hint: Option<String>,
}

impl Failure {
    pub fn new(call: impl Into<String>, words: impl fmt::Display) -> Self {
        Self { call: call.into(), words: words.to_string(), hint: None }
    }

    /// A failed call on a path: `write`, `read`, `chown`.
    pub fn on(verb: &str, path: &Path, words: impl fmt::Display) -> Self {
        Self::new(format!("{verb} {}", path.display()), words)
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, self.words)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

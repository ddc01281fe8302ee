//! What is wrong with a message file, and where.

use std::fmt;

use crate::yaml::{Position, YamlError};

/// Most problems that are listed: a file of the wrong kind has thousands, and the first ones say it.
const MAX_LISTED: usize = 20;

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MessageError {
    pub message: String,
    /// The field it is about, such as `[2].toNodes[0]`; `None` if it is about the file as a whole.
    pub field: Option<String>,
    /// Counted from 1.
    pub line: usize,
    /// In characters from 1.
    pub column: usize,
    pub hint: Option<String>,
    /// The line with a caret below the place; empty if there is nothing to show.
    pub excerpt: String,
}

/// All that is wrong with a file; at least one thing, in the order of the file.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct MessageErrors {
    errors: Vec<MessageError>,
    /// How many more there are than are listed.
    unlisted: usize,
}

impl MessageErrors {
    pub(super) fn new(text: &str, mut errors: Vec<MessageError>) -> Self {
        debug_assert!(!errors.is_empty());
        errors.sort_by_key(|error| (error.line, error.column));
        let unlisted = errors.len().saturating_sub(MAX_LISTED);
        errors.truncate(MAX_LISTED);
        // Only now: each one walks the text, and a hostile file has as many errors as values.
        for error in &mut errors {
            error.excerpt = crate::excerpt::pointed(text, error.line, error.column);
        }
        Self { errors, unlisted }
    }

    pub fn iter(&self) -> impl Iterator<Item = &MessageError> {
        self.errors.iter()
    }

    pub fn unlisted(&self) -> usize {
        self.unlisted
    }
}

impl MessageError {
    pub(super) fn new(position: Position, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            field: None,
            line: position.line,
            column: position.column,
            hint: None,
            excerpt: String::new(),
        }
    }
}

impl From<YamlError> for MessageError {
    fn from(error: YamlError) -> Self {
        let hint = error.hint;
        Self { hint, ..Self::new(error.position, error.message) }
    }
}

impl fmt::Display for MessageError {
    /// `line 3, column 9: toNode: …`, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: ", self.line, self.column)?;
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for MessageErrors {
    /// Every problem with its excerpt.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.errors.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
            for line in error.excerpt.lines() {
                write!(f, "\n  {line}")?;
            }
        }
        match self.unlisted {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

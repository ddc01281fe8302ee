//! What is wrong with a message file, and where.

use std::fmt;

use crate::listed::{Listed, Pointed};
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

/// All that is wrong with a file.
pub type MessageErrors = Listed<MessageError>;

impl MessageErrors {
    /// Of at least one thing.
    pub(super) fn new(text: &str, mut errors: Vec<MessageError>) -> Self {
        errors.sort_by_key(|error| (error.line, error.column));
        let mut listed =
            Self::first(MAX_LISTED, errors, 0).expect("whoever makes it has something that is wrong");
        // Only now: each one walks the text, and a hostile file has as many errors as values.
        for error in listed.iter_mut() {
            error.excerpt = crate::excerpt::pointed(text, error.line, error.column);
        }
        listed
    }
}

impl Pointed for MessageError {
    fn excerpt(&self) -> &str {
        &self.excerpt
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

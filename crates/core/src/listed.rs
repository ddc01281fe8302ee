//! All that is wrong with a text, told at once: a bounded list of errors, each with the line that it is about.

use std::error::Error;
use std::fmt::{self, Debug, Display};

/// One thing that is wrong; its text is one line.
pub trait Pointed: Display + Debug {
    /// The line with a caret below the place; empty if there is nothing to show.
    fn excerpt(&self) -> &str;
}

/// At least one thing, in the order of the text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed<E> {
    errors: Vec<E>,
    /// How many more there are than are listed.
    unlisted: usize,
}

impl<E> Listed<E> {
    /// The first `most` of them: a file of the wrong kind has thousands. `None` if nothing is wrong.
    pub(crate) fn first(most: usize, mut errors: Vec<E>, unlisted: usize) -> Option<Self> {
        let unlisted = unlisted + errors.len().saturating_sub(most);
        errors.truncate(most);
        (!errors.is_empty()).then_some(Self { errors, unlisted })
    }

    pub fn iter(&self) -> impl Iterator<Item = &E> {
        self.errors.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut E> {
        self.errors.iter_mut()
    }

    pub(crate) fn into_errors(self) -> Vec<E> {
        self.errors
    }

    pub fn unlisted(&self) -> usize {
        self.unlisted
    }
}

impl<E: Pointed> Display for Listed<E> {
    /// Every error with its excerpt.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.errors.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
            for line in error.excerpt().lines() {
                write!(f, "\n  {line}")?;
            }
        }
        match self.unlisted {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl<E: Pointed> Error for Listed<E> {}

//! `console`: prints the answer on the node's own standard output. If the node goes down between printing
//! and recording that, it is printed again.

use std::io::{self, IsTerminal as _, Write};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use mainstay_core::method::ReplyMethod;

use super::{Reply, ReplyError, Task, Tried, Written};

pub(super) struct Console {
    out: Mutex<Box<dyn Write + Send>>,
    /// Somebody's terminal, which no other machine shall command.
    terminal: bool,
}

impl Console {
    pub(super) fn stdout() -> Self {
        Self::to(Box::new(io::stdout()), io::stdout().is_terminal())
    }

    pub(super) fn to(out: Box<dyn Write + Send>, terminal: bool) -> Self {
        Self { out: Mutex::new(out), terminal }
    }
}

impl Reply for Console {
    fn method(&self) -> ReplyMethod {
        ReplyMethod::Console
    }

    fn plan(&self, _: &Task) -> Result<Bytes, ReplyError> {
        Ok(Bytes::new())
    }

    fn write(&self, task: &Task, _: &[u8], _: Tried) -> Result<Written, ReplyError> {
        let mut bytes = task.bytes();
        if self.terminal {
            bytes = harmless(&bytes);
        }
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.write_all(&bytes).and_then(|()| out.flush()).map_err(ReplyError::Console)?;
        Ok(Written::Done)
    }
}

/// Control characters but newline and tab as `^X`, and what is no UTF-8 as the replacement character.
fn harmless(bytes: &[u8]) -> Vec<u8> {
    let mut text = String::with_capacity(bytes.len());
    for character in String::from_utf8_lossy(bytes).chars() {
        match character {
            '\n' | '\t' => text.push(character),
            '\0'..='\u{1f}' => {
                text.push('^');
                text.push(char::from(character as u8 + b'@'));
            }
            '\u{7f}'..='\u{9f}' => text.push(char::REPLACEMENT_CHARACTER),
            _ => text.push(character),
        }
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_commanded_from_elsewhere() {
        let hostile = b"a\x1b[2J\xc2\x9b0m\x07\tb\n\xff";
        assert_eq!(harmless(hostile), "a^[[2J\u{fffd}0m^G\tb\n\u{fffd}".as_bytes());
        assert_eq!(harmless("größer\n".as_bytes()), "größer\n".as_bytes());
    }
}

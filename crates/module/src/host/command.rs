//! Commands that modules and guards run: in a session of their own, bounded in time and output, and ended as a whole.
//!
//! What is here is what a command is and how it ended; [`process`] starts and supervises it, [`account`] is the user
//! and the environment that it finds.

mod account;
mod cancel;
mod kin;
mod process;
pub mod register;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::failure::Failure;
pub use cancel::Cancel;
use register::Register;

/// Most output kept of each stream: a module looks at a few lines, and an output that later states read is a value.
pub const MAX_OUTPUT: usize = 1 << 20;

/// A guard or a query that takes longer than this hangs.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);

/// Most of a program's words that a failure repeats: its last lines say why, and a report is read by people.
const MAX_WORDS: usize = 1000;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// A path, or a name that is looked for in `PATH`.
    pub program: String,
    pub args: Vec<String>,
    /// Added to a clean environment (`PATH`, `HOME`, `USER`, `LOGNAME`, `SHELL`, `LANG`, and `TMPDIR` in the
    /// analyze phase).
    pub env: BTreeMap<String, String>,
    /// `/` without one: where this program happens to stand says nothing.
    pub cwd: Option<PathBuf>,
    /// By name; nothing for the process's own.
    pub user: Option<String>,
    pub stdin: Vec<u8>,
    pub timeout: Duration,
}

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    Code(i32),
    Signal(i32),
    /// It was ended, with all in its process group.
    TimedOut,
    /// It was ended likewise, because the work was called off.
    Cancelled,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ran {
    pub ending: Ending,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// Bytes that were written, kept or not. What is written beyond [`MAX_OUTPUT`] is read and dropped.
    pub stdout_size: u64,
    pub stderr_size: u64,
}

impl Command {
    pub fn new(program: impl Into<String>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: BTreeMap::new(),
            cwd: None,
            user: None,
            stdin: Vec::new(),
            timeout: DEFAULT_TIMEOUT,
        }
    }

    /// A line for `/bin/sh -c`.
    pub fn shell(line: impl Into<String>) -> Self {
        Self::new("/bin/sh").arg("-c").arg(line)
    }

    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub fn args<A: Into<String>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs it to its end. A program that cannot be started is a failure; one that ends badly is not.
    ///
    /// What it leaves in the background goes on: it is waited for only as long as it writes, and killed only when the
    /// time is over.
    pub(super) fn run(
        &self,
        scratch: Option<&Path>,
        cancel: Option<&Cancel>,
        register: Option<&Arc<Register>>,
    ) -> Result<Ran, Failure> {
        process::run(self, scratch, cancel, register)
    }

    /// The command as people write it, for messages. Values with secrets do not belong into arguments.
    pub fn line(&self) -> String {
        let mut line = self.program.clone();
        for arg in &self.args {
            line.push(' ');
            if arg.is_empty()
                || arg.contains(|c: char| c.is_whitespace() || "'\"\\$`;&|<>*?(){}#~".contains(c))
            {
                line.push_str(&format!("'{}'", arg.replace('\'', r"'\''")));
            } else {
                line.push_str(arg);
            }
        }
        line
    }
}

impl Ran {
    pub fn succeeded(&self) -> bool {
        self.ending == Ending::Code(0)
    }

    pub fn code(&self) -> Option<i32> {
        match self.ending {
            Ending::Code(code) => Some(code),
            _ => None,
        }
    }

    pub fn truncated(&self) -> bool {
        self.stdout_size > self.stdout.len() as u64 || self.stderr_size > self.stderr.len() as u64
    }

    /// The output as text, without the line end at its end.
    pub fn text(&self) -> String {
        text(&self.stdout)
    }

    pub fn error_text(&self) -> String {
        text(&self.stderr)
    }

    /// Only a command that exited 0 is as good as its output; else the failure repeats its last words.
    pub fn or_failure(self, command: &Command) -> Result<Self, Failure> {
        match self.ending {
            Ending::Code(0) => Ok(self),
            _ => Err(self.failure(command)),
        }
    }

    /// The failure that this end is, whatever it is.
    pub fn failure(&self, command: &Command) -> Failure {
        Failure::new(format!("run {}", command.line()), self.words())
    }

    /// How it ended and what it said last.
    pub fn words(&self) -> String {
        let ended = self.ending.to_string();
        let said = [self.error_text(), self.text()].into_iter().find(|text| !text.trim().is_empty());
        match said {
            Some(said) => format!("{ended}: {}", last_words(said.trim())),
            None => ended,
        }
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(number) => match nix::sys::signal::Signal::try_from(*number) {
                Ok(signal) => write!(f, "ended by {}", signal.as_str()),
                Err(_) => write!(f, "ended by signal {number}"),
            },
            Self::TimedOut => f.write_str("it took too long and was ended"),
            Self::Cancelled => f.write_str("it was called off"),
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches(['\r', '\n']).to_owned()
}

fn last_words(text: &str) -> &str {
    let from = text.len().saturating_sub(MAX_WORDS);
    let from = (from..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    &text[from..]
}

#[cfg(test)]
mod tests;

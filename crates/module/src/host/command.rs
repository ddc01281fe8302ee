//! Commands that modules and guards run: in a process group of their own, bounded in time and output, and killed as a
//! whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::failure::Failure;

/// Most output kept of each stream: a module looks at a few lines, and an output that later states read is a value.
pub const MAX_OUTPUT: usize = 1 << 20;

/// A guard or a query that takes longer than this hangs.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    pub program: String,
    pub args: Vec<String>,
    /// Added to a clean environment (`PATH`, `HOME`, `USER`, `LANG=C.UTF-8`).
    pub env: BTreeMap<String, String>,
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
    TimedOut,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ran {
    pub ending: Ending,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// Output beyond [`MAX_OUTPUT`] was dropped.
    pub truncated: bool,
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

    /// Runs it to its end. A program that cannot be started is a failure; one that ends badly is not.
    pub(super) fn run(&self, scratch: Option<&Path>) -> Result<Ran, Failure> {
        let _ = scratch;
        Err(Failure::new(format!("run {}", self.program), "not yet"))
    }
}

impl Ran {
    pub fn succeeded(&self) -> bool {
        self.ending == Ending::Code(0)
    }

    /// The output as text, without the line end at its end.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end_matches(['\r', '\n']).to_owned()
    }
}

//! `cmd`: runs a program, or a script, and ends with its exit.
//!
//! `args` is the program and its arguments; no shell is involved unless the program is one. With `data`, that
//! is the script, and `args` are its arguments. Environment, working directory, user and stdin come in the
//! sealed fields. How processes are started and ended is told in [`crate::process`].

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mainstay_core::envelope::Request;
use mainstay_core::outcome::Outcome;

use super::{Call, Method};
use crate::process::{Job, Mark, Processes, What};

pub struct Cmd {
    processes: Arc<Processes>,
}

impl Cmd {
    pub fn new(processes: Arc<Processes>) -> Self {
        Self { processes }
    }
}

#[async_trait]
impl Method for Cmd {
    fn name(&self) -> &'static str {
        "cmd"
    }

    fn check(&self, request: &Request) -> Result<(), String> {
        if request.data.is_empty() && request.args.first().is_none_or(String::is_empty) {
            return Err("args: the program to run is missing".to_owned());
        }
        match request.args.iter().position(|arg| arg.contains('\0')) {
            Some(index) => Err(format!("args[{index}]: it holds a zero byte")),
            None => Ok(()),
        }
    }

    async fn run(&self, call: &mut Call) -> Outcome {
        let args = std::mem::take(&mut call.request.args);
        let script = std::mem::take(&mut call.request.data);
        let private = std::mem::take(&mut call.private);
        let job = Job {
            mark: Mark { origin: call.origin, id: call.id },
            what: if script.is_empty() { What::Argv(args) } else { What::Script(script, args) },
            env: private.env,
            cwd: private.cwd,
            user: private.user,
            stdin: private.stdin,
            timeout: call.request.timeout_ms.map(Duration::from_millis),
            live: call.request.stream,
        };
        self.processes.run(job, &mut call.output, &call.cancel).await
    }
}

#[cfg(test)]
mod tests;

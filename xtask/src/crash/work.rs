//! What is offered in a crash round: the mix of methods, lengths and sizes, and how it reads in a message file and
//! in a run's specification.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mainstay_control::view::RunSpec;
use serde_json::{Value, json};

use super::dice::Dice;

/// Below `received/<node>/` of the origin. What may run again replies into a file of its own, so that the
/// journal's row alone tells that it may.
pub const DIRECTORY: &str = "crash";
pub const ONCE: &str = "once.log";
pub const AGAIN: &str = "again.log";

#[derive(Clone, Debug)]
pub struct Work {
    /// It leaves nothing behind but its end.
    pub ping: bool,
    pub wait_ms: u64,
    pub output: u64,
    pub idempotent: bool,
    pub reply: bool,
}

impl Work {
    /// Most commands are over at once, so that few are caught by a kill; some take long enough to be.
    pub fn choose(dice: &mut Dice) -> Self {
        let ping = dice.percent(10);
        let wait_ms = match dice.within(0..100) {
            0..80 => 0,
            80..97 => dice.within(1..60),
            _ => dice.within(60..400),
        };
        let output = match dice.within(0..1000) {
            0..900 => 0,
            900..980 => dice.within(100..4_000),
            980..997 => dice.within(4_000..100_000),
            // More than travels with an end: it goes in pieces.
            _ => dice.within(100_000..600_000),
        };
        let idempotent = !ping && dice.percent(3);
        Self { ping, wait_ms, output, idempotent, reply: idempotent || (!ping && dice.percent(40)) }
    }

    fn arguments(&self, tools: &Tools) -> Vec<String> {
        vec![
            tools.entry.display().to_string(),
            tools.ledger.display().to_string(),
            self.wait_ms.to_string(),
            self.output.to_string(),
        ]
    }

    /// As an object of a message file.
    pub fn message(&self, to: &str, tools: &Tools) -> Value {
        if self.ping {
            return json!({ "toNode": to, "method": "ping" });
        }
        let mut message = json!({
            "toNode": to, "method": "cmd", "methodArgs": self.arguments(tools), "idempotent": self.idempotent,
        });
        if self.reply {
            message["replyMethod"] = json!("file.append");
            message["directory"] = json!(DIRECTORY);
            message["fileName"] = json!(if self.idempotent { AGAIN } else { ONCE });
        }
        message
    }

    pub fn run(&self, targets: Vec<String>, tools: &Tools) -> RunSpec {
        RunSpec {
            targets,
            method: if self.ping { "ping" } else { "cmd" }.into(),
            args: if self.ping { Vec::new() } else { self.arguments(tools) },
            script: None,
            env: BTreeMap::new(),
            cwd: None,
            user: None,
            stdin_base64: None,
            timeout_ms: None,
            expires_ms: None,
            idempotent: self.idempotent,
            stream: false,
            output_limit: None,
            batch: None,
            max_failures: None,
        }
    }
}

/// What commands are made of.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The program that writes into the ledger.
    pub entry: PathBuf,
    pub ledger: PathBuf,
}

impl Tools {
    pub fn new(entry: PathBuf, root: &Path) -> Self {
        Self { entry, ledger: root.join("ledger") }
    }
}

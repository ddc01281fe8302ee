//! Guards: whether a state is needed at all. Looked at at its turn, after its requisites.

use std::path::Path;

use mainstay_core::state::template::{Rendering, StateOutputs, Verdict};
use mainstay_core::state::{StateId, StateIndex};
use mainstay_module::Failure;
use mainstay_module::host::{Command, Ending, View};
use serde_json::Value;

use super::prepared::Prepared;

#[derive(Debug)]
pub(super) enum Guarded {
    Go,
    /// It is not needed; says which guard said so.
    Skip(String),
    /// What a guard looks at is known only after this state.
    Wait(StateId),
}

/// `when` looks at nothing that a run changes.
pub(super) fn when(
    prepared: &Prepared,
    state: StateIndex,
    seen: &dyn StateOutputs,
) -> Result<Guarded, Failure> {
    let declared = prepared.declared(state);
    let Some(expression) = &declared.guards.when else { return Ok(Guarded::Go) };
    let none = mainstay_core::state::Values::new();
    match prepared.eval(state, expression, &none, seen) {
        Ok(Verdict::Known(true)) => Ok(Guarded::Go),
        Ok(Verdict::Known(false)) => Ok(Guarded::Skip(format!("when: {expression}"))),
        Ok(Verdict::Unknown { until }) => Ok(Guarded::Wait(until)),
        Err(error) => Err(Failure::new("evaluate when", error)),
    }
}

/// Whether the state has a guard that looks at the machine.
pub(super) fn looks(prepared: &Prepared, state: StateIndex) -> bool {
    let guards = &prepared.declared(state).guards;
    !(guards.unless.is_empty() && guards.onlyif.is_empty() && guards.creates.is_empty())
}

/// Those that look at the machine, their texts known.
pub(super) struct Guards {
    unless: Vec<String>,
    onlyif: Vec<String>,
    creates: Vec<String>,
}

/// Their texts, as far as they are known.
pub(super) fn texts(
    prepared: &Prepared,
    state: StateIndex,
    seen: &dyn StateOutputs,
) -> Result<Result<Guards, StateId>, Failure> {
    let guards = &prepared.declared(state).guards;
    let mut until = None;
    let mut rendered = |what: &str, texts: &[String]| -> Result<Vec<String>, Failure> {
        let mut known = Vec::with_capacity(texts.len());
        for text in texts {
            match prepared.text(state, text, seen) {
                Ok(Rendering::Known(Value::String(text))) => known.push(text),
                Ok(Rendering::Known(_)) => {
                    return Err(Failure::new(format!("render {what}"), "it is not a text"));
                }
                Ok(Rendering::Unknown { until: state }) => until = Some(state),
                Err(error) => return Err(Failure::new(format!("render {what}"), error)),
            }
        }
        Ok(known)
    };
    let guards = Guards {
        unless: rendered("unless", &guards.unless)?,
        onlyif: rendered("onlyif", &guards.onlyif)?,
        creates: rendered("creates", &guards.creates)?,
    };
    Ok(until.map_or(Ok(guards), Err))
}

impl Guards {
    pub(super) fn ask(&self, view: &View) -> Result<Guarded, Failure> {
        let all = |what: &str, lines: &[String]| -> Result<bool, Failure> {
            for line in lines {
                if !succeeds(what, line, view)? {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        if !self.unless.is_empty() && all("unless", &self.unless)? {
            return Ok(Guarded::Skip("unless: every command exits 0".into()));
        }
        if !self.onlyif.is_empty() && !all("onlyif", &self.onlyif)? {
            return Ok(Guarded::Skip("onlyif: a command does not exit 0".into()));
        }
        if !self.creates.is_empty() {
            for path in &self.creates {
                if !Path::new(path).is_absolute() {
                    return Err(Failure::on("look at", Path::new(path), "creates: the path is not absolute"));
                }
                if view.target(Path::new(path))?.is_none() {
                    return Ok(Guarded::Go);
                }
            }
            return Ok(Guarded::Skip("creates: every path exists".into()));
        }
        Ok(Guarded::Go)
    }
}

/// One that did not come to an end by itself has not said no.
fn succeeds(what: &str, line: &str, view: &View) -> Result<bool, Failure> {
    let command = Command::shell(line);
    let ran = view.run(&command)?;
    match ran.ending {
        Ending::Code(code) => Ok(code == 0),
        _ => Err(Failure::new(format!("{what}: run {}", command.line()), ran.words())),
    }
}

//! Says what happens, and lets nothing secret out.

use std::sync::{PoisonError, RwLock};

use mainstay_core::state::StateIndex;
use mainstay_core::state::Values;
use mainstay_core::state::plan::{PlanStep, StateReport};
use mainstay_core::state::redaction::Redactor;
use mainstay_core::state::session::Tell;
use serde_json::Value;
use tokio::sync::mpsc;

use super::prepared::Prepared;

pub(super) struct Teller {
    tells: mpsc::Sender<Tell>,
    redactor: RwLock<Redactor>,
}

impl Teller {
    pub(super) fn new(tells: mpsc::Sender<Tell>) -> Self {
        Self { tells, redactor: RwLock::default() }
    }

    /// From now on these are not told.
    pub(super) fn hide(&self, secrets: &Values) {
        *self.redactor.write().unwrap_or_else(PoisonError::into_inner) = Redactor::new(secrets);
    }

    /// Nor is what a secret state gave out, as far as it is more than what it was plainly given: a path, a name.
    pub(super) fn learn(&self, prepared: &Prepared, state: StateIndex, outputs: &Values) {
        if !prepared.states[state].secrecy.is_secret() {
            return;
        }
        let params = &prepared.declared(state).params;
        let was_given = |text: &str| {
            let mut given = params.values().filter_map(Value::as_str);
            given.any(|given| text == given || text.starts_with('/') && text.starts_with(given))
        };
        let mut redactor = self.redactor.write().unwrap_or_else(PoisonError::into_inner);
        for value in outputs.values() {
            match value {
                // A size or an exit status is a number that everything else has too.
                Value::Number(_) => {}
                Value::String(text) if was_given(text) => {}
                value => redactor.learn(value),
            }
        }
    }

    /// Hides what may not be seen. A step is compared with an approved one only after this.
    pub(super) fn redact_step(&self, prepared: &Prepared, state: StateIndex, step: &mut PlanStep) {
        prepared.states[state].secrecy.changes(&mut step.changes, &prepared.key);
        self.reading(|redactor| redactor.step(step, &prepared.key));
    }

    pub(super) fn redact_report(&self, prepared: &Prepared, state: StateIndex, report: &mut StateReport) {
        let secrecy = &prepared.states[state].secrecy;
        secrecy.changes(&mut report.changes, &prepared.key);
        secrecy.outputs(&mut report.outputs);
        self.reading(|redactor| redactor.report(report, &prepared.key));
        report.outputs.values_mut().for_each(shorten);
    }

    pub(super) fn redact_text(&self, text: &str) -> String {
        self.reading(|redactor| redactor.text(text).into_owned())
    }

    fn reading<T>(&self, look: impl FnOnce(&Redactor) -> T) -> T {
        look(&self.redactor.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for room. False if nobody listens any more. What is told was redacted by one of the above.
    pub(super) fn tell(&self, tell: Tell) -> bool {
        self.tells.blocking_send(tell).is_ok()
    }

    pub(super) fn problem(&self, message: impl std::fmt::Display) -> bool {
        let message = self.redact_text(&message.to_string());
        self.tell(Tell::Problem { message })
    }
}

/// Later states read all of an output; whoever is told of it has it on a screen or in a message of bounded size.
const MAX_TOLD: usize = 16 << 10;

fn shorten(value: &mut Value) {
    let Value::String(text) = value else { return };
    if text.len() > MAX_TOLD {
        let end = (0..=MAX_TOLD).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        let more = text.len() - end;
        text.truncate(end);
        text.push_str(&format!("… ({more} bytes more)"));
    }
}

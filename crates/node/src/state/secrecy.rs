//! Which states come from secrets, and what may be said of them.
//!
//! A state is secret if it says so, if a template of it reads `secrets`, or if it reads an output of a secret state.
//! Of a state that only reads secrets, the parameters that do not are shown.

use std::collections::BTreeSet;
use std::io;

use mainstay_core::state::catalog::{Catalog, Declared};
use mainstay_core::state::order::Order;
use mainstay_core::state::plan::Change;
use mainstay_core::state::redaction::{DigestKey, HIDDEN};
use mainstay_core::state::template::{self, Reads};
use mainstay_core::state::{StateIndex, Values};
use mainstay_module::Failure;
use serde_json::Value;

use super::outputs::resolve;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) enum Secrecy {
    #[default]
    Open,
    /// Only changes of these fields may be shown.
    Secret { shown: BTreeSet<String> },
}

/// What these fields say is the same for every content.
const NEVER_SECRET: &str = "exists";

/// By state.
pub(super) fn trace(catalog: &Catalog, order: &Order) -> Vec<Secrecy> {
    let mut found = vec![Secrecy::Open; catalog.states.len()];
    // Who is read has its turn before.
    for state in order.sequence.iter().copied() {
        found[state] = of(catalog, state, &found);
    }
    found
}

/// Whatever others are found to be: it has nothing from anywhere else.
pub(super) fn is_open(catalog: &Catalog, state: StateIndex) -> bool {
    let declared = &catalog.states[state];
    !is_sensitive(declared) && catalog.secrets.is_empty() && declared.requisites.reads.is_empty()
}

fn of(catalog: &Catalog, state: StateIndex, found: &[Secrecy]) -> Secrecy {
    let declared = &catalog.states[state];
    if is_sensitive(declared) {
        return Secrecy::Secret { shown: BTreeSet::new() };
    }
    if catalog.secrets.is_empty() && declared.requisites.reads.iter().all(|read| !found[*read].is_secret()) {
        return Secrecy::Open;
    }
    let is_secret = |reads: Reads| -> bool {
        let read = reads.states.iter().filter_map(|name| resolve(catalog, state, name));
        reads.secrets || read.into_iter().any(|read| found[read].is_secret())
    };
    let value = |value: &Value| is_secret(template::reads(value, &catalog.blobs));
    let text = |text: &String| value(&Value::String(text.clone()));
    let (open, secret): (Vec<_>, Vec<_>) = declared.params.iter().partition(|(_, param)| !value(param));
    let guards = &declared.guards;
    let commands = guards.unless.iter().chain(&guards.onlyif).chain(&guards.creates);
    let commands = commands.chain(&declared.options.become_user);
    let expressions =
        guards.when.iter().chain(declared.options.retry.iter().filter_map(|retry| retry.until.as_ref()));
    let others = commands.chain(&declared.options.check_cmd).any(text)
        || expressions.map(|expression| template::expression_reads(expression)).any(is_secret);
    if secret.is_empty() && !others {
        return Secrecy::Open;
    }
    Secrecy::Secret { shown: open.into_iter().map(|(field, _)| field.clone()).collect() }
}

/// It says so itself: in its options, or in a parameter of its module's. What that parameter will be is not waited for.
fn is_sensitive(declared: &Declared) -> bool {
    let param = declared.params.get("sensitive");
    declared.options.sensitive || param.is_some_and(|param| *param != Value::Bool(false))
}

impl Secrecy {
    pub(super) fn is_secret(&self) -> bool {
        matches!(self, Self::Secret { .. })
    }

    /// Whether a parameter may be shown.
    pub(super) fn shows(&self, field: &str) -> bool {
        match self {
            Self::Open => true,
            Self::Secret { shown } => shown.contains(field),
        }
    }

    /// Marks what is foretold: what others make of it is as secret.
    pub(super) fn foretold(&self, value: &mut Option<Value>) {
        if let (Self::Secret { .. }, Some(Value::Object(map))) = (self, value) {
            map.insert("secret".into(), Value::Bool(true));
        }
    }

    /// Hides what changes say.
    pub(super) fn changes(&self, changes: &mut [Change], key: &DigestKey) {
        for change in changes {
            if change.field != NEVER_SECRET && !self.shows(&change.field) {
                key.hide(&mut change.before);
                key.hide(&mut change.after);
                change.diff = None;
            }
        }
    }

    /// A module's own words.
    pub(super) fn words(&self, words: String) -> String {
        if self.is_secret() { HIDDEN.into() } else { words }
    }

    /// Of a secret state it is told what was tried and how it ended, and of the words only those of the system.
    pub(super) fn failure(&self, failure: &Failure) -> String {
        if !self.is_secret() {
            return failure.to_string();
        }
        let verb = failure.call.split_whitespace().next().unwrap_or("do it");
        let end = failure.words.split(": ").next().filter(|end| end.starts_with("exit status "));
        match (is_of_the_system(&failure.words), end) {
            (true, _) => format!("{verb}: {}", failure.words),
            (false, Some(end)) => format!("{verb}: {end}: {HIDDEN}"),
            (false, None) => format!("{verb}: {HIDDEN}"),
        }
    }

    /// What a report says that a state gives out.
    pub(super) fn outputs(&self, outputs: &mut Values) {
        if self.is_secret() {
            outputs.values_mut().for_each(|value| *value = HIDDEN.into());
        }
    }
}

/// Just an error of the operating system, as the library words it.
fn is_of_the_system(words: &str) -> bool {
    let number = words.rsplit_once("(os error ").and_then(|(_, end)| end.strip_suffix(')'));
    number
        .and_then(|number| number.parse().ok())
        .is_some_and(|number: i32| io::Error::from_raw_os_error(number).to_string() == words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_secret_state_only_the_systems_own_words_are_told() {
        let secret = Secrecy::Secret { shown: BTreeSet::new() };
        for (call, words, open, hidden) in [
            (
                "write /etc/app",
                "No space left on device (os error 28)",
                "write /etc/app: No space left on device (os error 28)",
                "write: No space left on device (os error 28)",
            ),
            (
                "run echo HUNTER2",
                "exit status 3: HUNTER2",
                "run echo HUNTER2: exit status 3: HUNTER2",
                "run: exit status 3: ‹secret›",
            ),
            ("run a", "HUNTER2 (os error 28)", "run a: HUNTER2 (os error 28)", "run: ‹secret›"),
        ] {
            let failure = Failure::new(call, words);
            assert_eq!(Secrecy::Open.failure(&failure), open);
            assert_eq!(secret.failure(&failure), hidden);
        }
    }
}

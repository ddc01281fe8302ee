//! Renders what variables alone decide, checks what is left for the machine, and notes what that reads.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde_json::Value as Json;

use super::problem::Problems;
use super::source::Source;
use crate::near_miss::near_miss;
use crate::state::Values;
use crate::state::catalog::{BlobId, Place};
use crate::state::param::{Entry, Param, ParamValue};
use crate::state::template::{self, Fault, Name, Scan, Scope, Templates, is_template};
use crate::yaml::{Position, Tree, Value};

/// A state that a template reads, by the name that stands there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Read {
    pub(super) name: String,
    pub(super) at: Place,
    /// Which of its outputs has to be there, where that is known.
    pub(super) output: Option<String>,
}

/// What templates of one state, or of one part of a file, are read with.
pub(super) struct Settler<'a> {
    pub(super) templates: &'a Templates,
    pub(super) problems: &'a Problems,
    pub(super) vars: &'a Values,
    pub(super) locals: &'a Values,
    /// Names of the secrets that there are, once they are known.
    pub(super) secrets: Option<&'a BTreeSet<String>>,
    /// Variables that a machine may bring.
    pub(super) loose: &'a BTreeSet<String>,
    /// Something could not be settled, since only a machine brings its variable.
    pub(super) deferred: &'a Cell<bool>,
    /// The variables of the command line that nothing has read so far.
    pub(super) unread: &'a RefCell<BTreeSet<String>>,
    pub(super) reads: RefCell<Vec<Read>>,
    /// The secrets that are read; an empty name for all of them.
    pub(super) secrets_read: RefCell<BTreeSet<String>>,
}

/// What may stand in an expression besides variables.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Beside<'a> {
    Nothing,
    /// Outputs of an attempt; of a module that does not say what it gives out, it may be any name.
    Outputs(Option<&'a [String]>),
}

/// What is to say of a name in a template.
enum Missing {
    Nothing,
    /// A machine may bring it.
    Waits,
    /// In words, with a hint.
    Wrong(String, Option<String>),
}

/// What became of a template.
enum Settled {
    Value(Json),
    /// It reads what only the machine knows.
    Later,
    /// A problem was noted, or the site waits for a machine's variables.
    Wrong,
}

impl Settler<'_> {
    /// A value with everything rendered that can be.
    pub(super) fn param(&self, source: &Source, tree: &Tree) -> Param {
        let at = source.place(tree.position);
        let value = match &tree.value {
            Value::Null => ParamValue::Null,
            Value::Bool(value) => ParamValue::Bool(*value),
            Value::Int(value) => ParamValue::Int(*value),
            Value::Float(value) => ParamValue::Float(*value),
            Value::Text(text) if is_template(text) => match self.template(source, tree, text) {
                Settled::Value(value) if holds_template(&value) => {
                    ParamValue::Settled { template: text.clone(), inner: Box::new(Param::of(&value, at)) }
                }
                Settled::Value(value) => return Param::of(&value, at),
                Settled::Later => ParamValue::Later(text.clone()),
                Settled::Wrong => ParamValue::Wrong,
            },
            Value::Text(text) => ParamValue::Text(text.clone()),
            Value::List(items) => {
                ParamValue::List(items.iter().map(|item| self.param(source, item)).collect())
            }
            Value::Map(entries) => ParamValue::Map(
                entries
                    .iter()
                    .filter_map(|(key, tree)| {
                        let at = source.place(key.position);
                        let name = self.key(&key.name, at)?;
                        Some(Entry { name, at, param: self.param(source, tree) })
                    })
                    .collect(),
            ),
        };
        let raw = match value {
            ParamValue::Bool(_) | ParamValue::Int(_) | ParamValue::Float(_) => {
                Some(tree.raw(&source.text).into())
            }
            _ => None,
        };
        Param { value, at, raw }
    }

    /// A key within a value. `$blob` and its like are the compiler's own.
    fn key(&self, name: &str, at: Place) -> Option<String> {
        if matches!(name, "$blob" | "$template" | "$tree") {
            let message = format!("`{name}` cannot be written");
            self.problems.note(at, message, Some("name the file as a text".into()));
            return None;
        }
        self.name(name, at, "a key")
    }

    /// A text without places of its own, such as a key, that must be settled now.
    pub(super) fn name(&self, text: &str, at: Place, what: &str) -> Option<String> {
        if !is_template(text) {
            return Some(text.to_owned());
        }
        match self.scanned(text, &template::scan(text), &|_| at) {
            Settled::Value(Json::String(rendered)) => Some(rendered),
            Settled::Value(Json::Number(number)) => Some(number.to_string()),
            Settled::Value(_) => {
                self.problems.note(at, format!("{what} must become a text"), None);
                None
            }
            Settled::Later => {
                self.too_early(at, what);
                None
            }
            Settled::Wrong => None,
        }
    }

    /// A value that must be settled before any machine is asked.
    pub(super) fn settled(&self, source: &Source, tree: &Tree, what: &str) -> Option<Param> {
        let before = self.reads.borrow().len();
        let param = self.param(source, tree);
        self.reads.borrow_mut().truncate(before);
        match unsettled(&param) {
            None => Some(param),
            Some((_, true)) => None,
            Some((at, false)) => {
                self.too_early(at, what);
                None
            }
        }
    }

    /// Numbers that begin with a zero: where nothing says whether a text is meant, one may be.
    pub(super) fn check_numbers(&self, source: &Source, tree: &Tree) {
        match &tree.value {
            Value::Int(_) | Value::Float(_) => {
                let raw = tree.raw(&source.text);
                let digits = raw.trim_start_matches(['-', '+']);
                if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit()) {
                    let message = format!("{raw} is a number, and its zero is lost");
                    let hint = format!("write \"{raw}\", or leave the zero out");
                    self.problems.note(source.place(tree.position), message, Some(hint));
                }
            }
            Value::List(items) => items.iter().for_each(|item| self.check_numbers(source, item)),
            Value::Map(entries) => entries.iter().for_each(|(_, tree)| self.check_numbers(source, tree)),
            _ => {}
        }
    }

    /// A text that must be settled before any machine is asked.
    pub(super) fn text(&self, source: &Source, tree: &Tree, what: &str) -> Option<String> {
        let param = self.settled(source, tree, what)?;
        let number = param.raw.as_deref();
        match param.as_text().or(number) {
            Some(text) => Some(text.to_owned()),
            None => {
                let message = format!("{what} must be a text, not {}", param.kind());
                self.problems.note(param.at, message, None);
                None
            }
        }
    }

    /// An expression as `when` and `until` have it, which the machine evaluates.
    pub(super) fn expression(
        &self,
        source: &Source,
        tree: &Tree,
        what: &str,
        beside: Beside<'_>,
    ) -> Option<String> {
        let at = source.place(tree.position);
        match &tree.value {
            Value::Bool(value) => Some(value.to_string()),
            Value::Text(text) if is_template(text) => {
                let message = format!("`{what}` is an expression by itself");
                self.problems.note(at, message, Some("leave the braces out".into()));
                None
            }
            Value::Text(text) => {
                let scan = template::scan_expression(text);
                let place = |offset| locate(source, tree, text, offset);
                self.check(&scan, &place, beside).then(|| text.clone())
            }
            _ => {
                let message = format!("`{what}` must be an expression, not {}", super::source::kind(tree));
                self.problems.note(at, message, None);
                None
            }
        }
    }

    /// An expression that a parameter holds, which stands at `at` in the text of a file.
    pub(super) fn plain_expression(&self, text: &str, at: Place, file: &str, beside: Beside<'_>) {
        let place = |offset| {
            let start = Position { line: at.line, column: at.column };
            let Position { line, column } = locate_in(file, start, text, offset);
            Place { line, column, ..at }
        };
        self.check(&template::scan_expression(text), &place, beside);
    }

    /// The value of an expression over variables, as `for_each` has it.
    pub(super) fn value(&self, source: &Source, tree: &Tree, text: &str, what: &str) -> Option<Json> {
        let scan = template::scan_expression(text);
        let place = |offset| locate(source, tree, text, offset);
        if !self.check(&scan, &place, Beside::Nothing) {
            return None;
        }
        if waits(&scan) {
            self.too_early(source.place(tree.position), what);
            return None;
        }
        match self.templates.evaluate(text, &self.scope()) {
            Ok(value) => Some(value),
            Err(error) => {
                let at = place(offset_of(text, error.line, error.column));
                self.problems.note(at, error.message, error.hint);
                None
            }
        }
    }

    /// A template that is a file of its own: it is checked, and the machine renders it.
    pub(super) fn file(&self, number: usize, text: &str, scan: &Scan) {
        let place = |offset| {
            let (line, column) = template::place(text, offset);
            Place { file: number, line, column }
        };
        self.check(scan, &place, Beside::Nothing);
    }

    fn template(&self, source: &Source, tree: &Tree, text: &str) -> Settled {
        self.scanned(text, &template::scan(text), &|offset| locate(source, tree, text, offset))
    }

    fn scanned(&self, text: &str, scan: &Scan, place: &dyn Fn(usize) -> Place) -> Settled {
        if !self.check(scan, place, Beside::Nothing) {
            return Settled::Wrong;
        }
        if waits(scan) {
            return Settled::Later;
        }
        match self.templates.settle(text, scan, &self.scope()) {
            Ok(value) => Settled::Value(value),
            Err(error) => {
                let at = place(offset_of(text, error.line, error.column));
                self.problems.note(at, error.message, error.hint);
                Settled::Wrong
            }
        }
    }

    fn scope(&self) -> Scope<'_> {
        static NONE: LazyLock<Values> = LazyLock::new(Values::new);
        static NO_BLOBS: BTreeMap<BlobId, Vec<u8>> = BTreeMap::new();
        Scope {
            vars: self.vars,
            locals: self.locals,
            facts: None,
            secrets: &NONE,
            states: None,
            blobs: &NO_BLOBS,
        }
    }

    /// Notes what is wrong with a template whatever the machine is, and what it reads.
    fn check(&self, scan: &Scan, place: &dyn Fn(usize) -> Place, beside: Beside<'_>) -> bool {
        let mut good = true;
        let words = self.templates.unknown_words(scan);
        for Fault { at, message, hint } in scan.faults.iter().chain(&words) {
            self.problems.note(place(*at), message.clone(), hint.clone());
            good = false;
        }
        for name in &scan.names {
            self.note_read(name);
            match self.missing(scan, name, beside) {
                Missing::Nothing => {}
                Missing::Waits => {
                    self.deferred.set(true);
                    good = false;
                }
                Missing::Wrong(message, hint) => {
                    self.problems.note(place(name.at), message, hint);
                    good = false;
                }
            }
            if name.name == "secrets" {
                self.secrets_read.borrow_mut().insert(name.attribute.clone().unwrap_or_default());
            }
        }
        let read = |name: &String, at, output| Read { name: name.clone(), at: place(at), output };
        let states = scan.states.iter().map(|(name, at)| read(name, *at, None));
        let outputs = scan.outputs.iter().map(|o| read(&o.state, o.at, Some(o.name.clone())));
        self.reads.borrow_mut().extend(states.chain(outputs));
        good
    }

    fn note_read(&self, name: &Name) {
        let mut unread = self.unread.borrow_mut();
        if unread.is_empty() {
            return;
        }
        match (name.name.as_str(), &name.attribute) {
            ("vars", None) => unread.clear(),
            ("vars", Some(variable)) => drop(unread.remove(variable)),
            (variable, _) => drop(unread.remove(variable)),
        }
    }

    /// Whether anything defines a name.
    fn missing(&self, scan: &Scan, name: &Name, beside: Beside<'_>) -> Missing {
        let required = || scan.is_required(name);
        let variable = match (name.name.as_str(), &name.attribute) {
            ("facts" | "states", _) | ("vars" | "secrets", None) => return Missing::Nothing,
            ("secrets", Some(secret)) => {
                let Some(known) = self.secrets else { return Missing::Nothing };
                if known.contains(secret) || !required() {
                    return Missing::Nothing;
                }
                let near = near_miss(secret, known.iter().map(String::as_str));
                let hint =
                    near.map_or("secrets stand below `secrets`".into(), |n| format!("did you mean {n}?"));
                return Missing::Wrong(format!("there is no secret `{secret}`"), Some(hint));
            }
            ("vars", Some(variable)) => variable.as_str(),
            (variable, _) if self.locals.contains_key(variable) => return Missing::Nothing,
            (variable, _) => variable,
        };
        if self.vars.contains_key(variable) || !required() {
            return Missing::Nothing;
        }
        if self.loose.contains(variable) {
            return Missing::Waits;
        }
        let outputs = match beside {
            Beside::Outputs(outputs) if name.attribute.is_none() => match outputs {
                Some(outputs) if !outputs.iter().any(|output| output == variable) => outputs,
                _ => return Missing::Nothing,
            },
            _ => &[],
        };
        let known = self.vars.keys().chain(self.locals.keys()).chain(outputs).map(String::as_str);
        let hint = match (variable, near_miss(variable, known)) {
            (_, Some(near)) => Some(format!("did you mean {near}?")),
            ("item", None) => Some("`item` is there with `for_each` only".into()),
            _ if !outputs.is_empty() => Some(format!("what it gives out is {}", outputs.join(", "))),
            ("exit_code" | "stdout" | "stderr", None) => {
                Some("an expression over outputs, as `failed_when` and `until`, has no braces".into())
            }
            _ => None,
        };
        let kind = if outputs.is_empty() { "variable" } else { "variable or output" };
        Missing::Wrong(format!("there is no {kind} `{variable}`"), hint)
    }

    pub(super) fn too_early(&self, at: Place, what: &str) {
        let message = format!("{what} is settled before any machine is asked");
        self.problems.note(at, message, Some("only variables can stand here".into()));
    }
}

fn waits(scan: &Scan) -> bool {
    ["facts", "secrets", "states"].iter().any(|name| scan.reads(name))
}

/// Where something in the value waits for the machine, or (`true`) is wrong.
fn unsettled(param: &Param) -> Option<(Place, bool)> {
    match &param.value {
        ParamValue::Later(_) => Some((param.at, false)),
        ParamValue::Wrong => Some((param.at, true)),
        ParamValue::List(items) => items.iter().find_map(unsettled),
        ParamValue::Map(entries) => entries.iter().find_map(|entry| unsettled(&entry.param)),
        _ => None,
    }
}

pub(super) fn holds_template(value: &Json) -> bool {
    match value {
        Json::String(text) => is_template(text),
        Json::Array(items) => items.iter().any(holds_template),
        Json::Object(map) => map.values().any(holds_template),
        _ => false,
    }
}

fn offset_of(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let rest = text.get(start..).unwrap_or_default();
    start + rest.chars().take(column.saturating_sub(1)).map(char::len_utf8).sum::<usize>()
}

/// Where a place in a text stands in the file; the text's beginning if YAML wrote it otherwise than it is.
fn locate(source: &Source, tree: &Tree, text: &str, offset: usize) -> Place {
    let start = tree.position;
    let (line, column) = template::place(text, offset);
    let raw = tree.raw(&source.text);
    let quoted = raw.len() == text.len() + 2 && raw.get(1..raw.len() - 1) == Some(text);
    let position = if raw == text && line == 1 {
        Position { line: start.line, column: start.column + column - 1 }
    } else if quoted && line == 1 {
        Position { line: start.line, column: start.column + column }
    } else {
        in_block(&source.text, start, text, line, column).unwrap_or(start)
    };
    source.place(position)
}

/// The same where only the place of the text is known.
fn locate_in(file: &str, start: Position, text: &str, offset: usize) -> Position {
    let (line, column) = template::place(text, offset);
    let written = file.lines().nth(start.line.saturating_sub(1)).unwrap_or_default();
    let written: String = written.chars().skip(start.column.saturating_sub(1)).collect();
    let quoted = written.strip_prefix(['"', '\'']).is_some_and(|inner| inner.starts_with(text));
    match line {
        1 if written.starts_with(text) => Position { line: start.line, column: start.column + column - 1 },
        1 if quoted => Position { line: start.line, column: start.column + column },
        _ => in_block(file, start, text, line, column).unwrap_or(start),
    }
}

/// The place within a block text (`|`), whose lines are those of the file without their indentation.
fn in_block(file: &str, start: Position, text: &str, line: usize, column: usize) -> Option<Position> {
    let header = file.lines().nth(start.line - 1)?;
    // The parser may point at the sign, or at what comes below it.
    let first = if header.trim_end().ends_with(['|', '-', '+']) && header.contains('|') {
        start.line + 1
    } else {
        start.line
    };
    let number = first + line - 1;
    let written = file.lines().nth(number - 1)?;
    let wanted = text.lines().nth(line - 1)?;
    let indent = written.chars().count().checked_sub(wanted.chars().count())?;
    let fits =
        !wanted.is_empty() && written.ends_with(wanted) && written.chars().take(indent).all(|c| c == ' ');
    fits.then_some(Position { line: number, column: indent + column })
}

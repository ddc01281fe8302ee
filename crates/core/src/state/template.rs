//! Templates in states files: what they mean, what they read, and what comes of them.
//!
//! Jinja2, with three rules of our own: a text that is one `{{ … }}` keeps the type of its value; a name that is not defined is an
//! error; and another state's output is read by a literal id (`states['x'].stdout`), so that it is an edge of the graph.
//! A line that holds only a `{% … %}` leaves nothing behind, and the newline at the end of a file stays. Besides the filters of
//! Jinja2 there is `quote`, which makes one word for a shell. Templates stand alone: no include, import, extends or block.
//!
//! Where names come from is the caller's [`Scope`]. Fuel bounds how long a template runs and how much it gives.

mod scan;
mod value;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, UndefinedBehavior};
use serde_json::Value;

use super::catalog::BlobId;
use super::{StateId, StateOutcome, Values};
pub(crate) use scan::{Fault, Name, Scan};

/// What one template may cost, in instructions of its machine; bytes that it gives count as well, 64 for one. A loop over
/// ten thousand things with some twenty words each takes a tenth of it, and a second goes by before it is used up.
const FUEL: u64 = 5_000_000;

/// Longest template in bytes. Places within it are counted in 32 bits, and nobody writes one of this size.
pub const MAX_TEMPLATE: usize = 4 << 20;

/// Names with a meaning of their own, which no variable can have.
pub(crate) const RESERVED: [&str; 4] = ["vars", "facts", "secrets", "states"];

/// The machine that templates run on. Making one costs little; keep it all the same.
#[derive(Debug)]
pub struct Templates {
    environment: Environment<'static>,
    /// Whether there is such a filter (`true`) or test, as far as it was asked.
    words: Mutex<BTreeMap<(bool, String), bool>>,
}

/// Where the names in a template come from.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// Names by themselves, and `vars.x`.
    pub vars: &'a Values,
    /// Names by themselves, before `vars`: `item` of a `for_each`, or an attempt's outputs in `until`.
    pub locals: &'a Values,
    /// `facts.x`; none before the machine is asked.
    pub facts: Option<&'a Values>,
    /// `secrets.x`.
    pub secrets: &'a Values,
    /// `states['x'].y`; none where there are no outputs yet.
    pub states: Option<&'a dyn StateOutputs>,
    /// The texts of `{"$template": …}`.
    pub blobs: &'a BTreeMap<BlobId, Vec<u8>>,
}

/// The outputs of the states that had their turn.
pub trait StateOutputs {
    /// By the name that stands in the template.
    fn get(&self, id: &str) -> Outputs<'_>;
}

#[derive(Clone, PartialEq, Debug)]
pub enum Outputs<'a> {
    Known(&'a Values),
    /// They will be there once this state has had its turn.
    Unknown {
        until: StateId,
    },
    /// It was skipped or blocked: each use of more than `changed` and `outcome` needs a `default()`.
    None(StateOutcome),
}

/// What became of a value with templates in it.
#[derive(Clone, PartialEq, Debug)]
pub enum Rendering {
    Known(Value),
    Unknown { until: StateId },
}

/// What an expression says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    Known(bool),
    Unknown { until: StateId },
}

/// What is wrong with a template, and where in it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}line {line}, column {column}: {message}{}", self.place(), self.advice())]
pub struct TemplateError {
    /// The template file; none for a template within the states file.
    pub file: Option<String>,
    /// In the template's own text, from 1.
    pub line: usize,
    /// In characters from 1.
    pub column: usize,
    pub message: String,
    pub hint: Option<String>,
}

/// What a value reads besides variables.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reads {
    /// Names as they stand in templates, sorted and without repeats.
    pub states: Vec<String>,
    pub secrets: bool,
    pub facts: bool,
}

/// Whether a text is more than itself.
pub fn is_template(text: &str) -> bool {
    // Most texts have no brace, and a single character is found faster.
    text.contains('{') && ["{{", "{%", "{#"].iter().any(|mark| text.contains(mark))
}

impl Default for Templates {
    fn default() -> Self {
        Self::new()
    }
}

impl Templates {
    pub fn new() -> Self {
        let mut environment = Environment::new();
        environment.set_syntax(syntax());
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        // Errors then know where they are. What they know of the values around them is never shown.
        environment.set_debug(true);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("quote", |text: String| value::quote(&text));
        // It would print every name with its value.
        environment.remove_global("debug");
        Self { environment, words: Mutex::default() }
    }

    /// Renders every text within the value. Stops at the first that reads an output which is not there yet.
    pub fn render(&self, value: &Value, scope: &Scope<'_>) -> Result<Rendering, TemplateError> {
        known(self.value(value, scope)).map(|(value, until)| match until {
            None => Rendering::Known(value),
            Some(until) => Rendering::Unknown { until },
        })
    }

    /// An expression, as `when` and `until` have them. It counts as Jinja counts: nothing, zero, empty are false.
    pub fn eval(&self, expression: &str, scope: &Scope<'_>) -> Result<Verdict, TemplateError> {
        let scan = scan::expression(expression);
        let evaluated = self.expression(expression, 0, expression, None, &scan, scope);
        known(evaluated.map(|value| Value::Bool(value.is_true()))).map(|(value, until)| match until {
            None => Verdict::Known(value == Value::Bool(true)),
            Some(until) => Verdict::Unknown { until },
        })
    }

    /// Renders a text of which `scan` is known, where no outputs are to be waited for.
    pub(crate) fn settle(&self, text: &str, scan: &Scan, scope: &Scope<'_>) -> Result<Value, TemplateError> {
        known(self.scanned(text, None, true, scan, scope)).map(|(value, _)| value)
    }

    /// The value of an expression, where no outputs are to be waited for.
    pub(crate) fn evaluate(&self, expression: &str, scope: &Scope<'_>) -> Result<Value, TemplateError> {
        let scan = scan::expression(expression);
        let value = self.expression(expression, 0, expression, None, &scan, scope).and_then(|value| {
            value::to_json(&value).map_err(|error| stopped(&error, 0, expression, None, &scan))
        });
        known(value).map(|(value, _)| value)
    }

    /// The filters and tests that there are not.
    pub(crate) fn unknown_words(&self, scan: &Scan) -> Vec<Fault> {
        let mut known = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let unknown = scan.words.iter().filter(|word| {
            !*known.entry((word.is_filter, word.name.clone())).or_insert_with(|| {
                let question = if word.is_filter { "word is filter" } else { "word is test" };
                let context = minijinja::Value::from_pairs([("word", word.name.as_str())]);
                let answer =
                    self.environment.compile_expression(question).and_then(|asked| asked.eval(context));
                answer.is_ok_and(|answer| answer.is_true())
            })
        });
        let fault = |word: &scan::Word| Fault {
            at: word.at,
            message: format!(
                "there is no {} `{}`",
                if word.is_filter { "filter" } else { "test" },
                word.name
            ),
            hint: None,
        };
        unknown.map(fault).collect()
    }

    fn value(&self, value: &Value, scope: &Scope<'_>) -> Result<Value, Stop> {
        Ok(match value {
            Value::String(text) if is_template(text) => self.text(text, None, true, scope)?,
            Value::Array(items) => {
                Value::Array(items.iter().map(|item| self.value(item, scope)).collect::<Result<_, _>>()?)
            }
            Value::Object(map) if map.contains_key("$blob") || map.contains_key("$tree") => value.clone(),
            Value::Object(map) => {
                if let Some((text, file)) = template_file(map, scope.blobs)? {
                    return self.text(text, Some(file), false, scope);
                }
                let rendered = map.iter().map(|(key, item)| Ok((key.clone(), self.value(item, scope)?)));
                Value::Object(rendered.collect::<Result<_, Stop>>()?)
            }
            plain => plain.clone(),
        })
    }

    fn text(
        &self,
        text: &str,
        file: Option<&str>,
        keep_type: bool,
        scope: &Scope<'_>,
    ) -> Result<Value, Stop> {
        self.scanned(text, file, keep_type, &scan(text), scope)
    }

    fn scanned(
        &self,
        text: &str,
        file: Option<&str>,
        keep_type: bool,
        scan: &Scan,
        scope: &Scope<'_>,
    ) -> Result<Value, Stop> {
        if let (Some(range), true) = (&scan.lone, keep_type) {
            let value = self.expression(&text[range.clone()], range.start, text, file, scan, scope)?;
            return value::to_json(&value).map_err(|error| stopped(&error, range.start, text, file, scan));
        }
        let context = context(scan, scope, text, file)?;
        let rendered = self.environment.render_named_str("template", text, context);
        rendered.map(Value::String).map_err(|error| stopped(&error, 0, text, file, scan))
    }

    /// Evaluates `expression`, which stands at `start` in `text`.
    fn expression(
        &self,
        expression: &str,
        start: usize,
        text: &str,
        file: Option<&str>,
        scan: &Scan,
        scope: &Scope<'_>,
    ) -> Result<minijinja::Value, Stop> {
        let context = context(scan, scope, text, file)?;
        let stop = |error| stopped(&error, start, text, file, scan);
        let compiled = self.environment.compile_expression_owned(expression.to_owned()).map_err(stop)?;
        let value = compiled.eval(context).map_err(stop)?;
        if value.is_undefined() {
            let message = format!("`{}` is undefined", expression.trim());
            let at = start + expression.len() - expression.trim_start().len();
            return Err(Stop::Error(error_at(text, at, file, message, hint(scan))));
        }
        Ok(value)
    }
}

/// What a value with templates in it reads. A template that cannot be read, reads nothing.
pub fn reads(value: &Value, blobs: &BTreeMap<BlobId, Vec<u8>>) -> Reads {
    let mut reads = Reads::default();
    gather(value, blobs, &mut reads);
    reads.states.sort();
    reads.states.dedup();
    reads
}

/// The same for an expression.
pub fn expression_reads(expression: &str) -> Reads {
    let mut reads = Reads::default();
    reads.add(&scan::expression(expression));
    reads.states.sort();
    reads.states.dedup();
    reads
}

impl Reads {
    fn add(&mut self, scan: &Scan) {
        self.states.extend(scan.states.iter().map(|(id, _)| id.clone()));
        self.secrets |= scan.reads("secrets");
        self.facts |= scan.reads("facts");
    }
}

fn gather(value: &Value, blobs: &BTreeMap<BlobId, Vec<u8>>, reads: &mut Reads) {
    match value {
        Value::String(text) if is_template(text) => reads.add(&scan(text)),
        Value::Array(items) => items.iter().for_each(|item| gather(item, blobs, reads)),
        Value::Object(map) => match template_file(map, blobs) {
            Ok(Some((text, _))) => reads.add(&scan(text)),
            Ok(None) => map.values().for_each(|item| gather(item, blobs, reads)),
            Err(_) => {}
        },
        _ => {}
    }
}

/// The text of a `{"$template": BLOB, "$file": NAME}` and the file's name; nothing if it is another map.
fn template_file<'a>(
    map: &'a Values,
    blobs: &'a BTreeMap<BlobId, Vec<u8>>,
) -> Result<Option<(&'a str, &'a str)>, TemplateError> {
    let Some(Value::String(id)) = map.get("$template") else {
        return Ok(None);
    };
    let file = map.get("$file").and_then(Value::as_str).unwrap_or("template");
    let wrong = |message: &str| TemplateError {
        file: Some(file.to_owned()),
        line: 1,
        column: 1,
        message: message.to_owned(),
        hint: None,
    };
    let bytes = blobs.get(&BlobId(id.clone())).ok_or_else(|| wrong("its text is not in the catalog"))?;
    let text = std::str::from_utf8(bytes).map_err(|_| wrong("a template is UTF-8 text"))?;
    Ok(Some((text, file)))
}

fn syntax() -> SyntaxConfig {
    SyntaxConfig::builder()
        .keep_trailing_newline(true)
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .expect("the usual marks are fine")
}

/// What a template says.
pub(crate) fn scan(text: &str) -> Scan {
    if text.len() > MAX_TEMPLATE {
        let message = format!("the template has {} bytes; at most {MAX_TEMPLATE} are taken", text.len());
        return Scan { faults: vec![Fault { at: 0, message, hint: None }], ..Scan::default() };
    }
    scan::template(text, &syntax())
}

/// What an expression says.
pub(crate) fn scan_expression(text: &str) -> Scan {
    scan::expression(text)
}

/// Line and column of a byte offset.
pub(crate) fn place(text: &str, offset: usize) -> (usize, usize) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

enum Stop {
    Unknown(StateId),
    Error(TemplateError),
}

impl From<TemplateError> for Stop {
    fn from(error: TemplateError) -> Self {
        Self::Error(error)
    }
}

fn known(result: Result<Value, Stop>) -> Result<(Value, Option<StateId>), TemplateError> {
    match result {
        Ok(value) => Ok((value, None)),
        Err(Stop::Unknown(until)) => Ok((Value::Null, Some(until))),
        Err(Stop::Error(error)) => Err(error),
    }
}

/// Just the names that the template reads: converting all variables for each of ten thousand texts would cost more than
/// rendering them.
fn context(
    scan: &Scan,
    scope: &Scope<'_>,
    text: &str,
    file: Option<&str>,
) -> Result<minijinja::Value, TemplateError> {
    if let Some(fault) = scan.faults.first() {
        return Err(error_at(text, fault.at, file, fault.message.clone(), fault.hint.clone()));
    }
    let mut names = BTreeMap::new();
    for name in &scan.names {
        if names.contains_key(name.name.as_str()) {
            continue;
        }
        let absent = |what: &str| error_at(text, name.at, file, what.to_owned(), None);
        let value = match name.name.as_str() {
            "vars" => minijinja::Value::from(Serde(scope.vars)),
            "secrets" => minijinja::Value::from(Serde(scope.secrets)),
            "facts" => match scope.facts {
                Some(facts) => minijinja::Value::from(Serde(facts)),
                None => return Err(absent("facts are known only on the machine")),
            },
            "states" => match scope.states {
                Some(states) => outputs(scan, states),
                None => return Err(absent("outputs of states are known only on the machine")),
            },
            other => match scope.locals.get(other).or_else(|| scope.vars.get(other)) {
                Some(value) => minijinja::Value::from(Serde(value)),
                None => continue,
            },
        };
        names.insert(name.name.as_str(), value);
    }
    Ok(minijinja::Value::from_pairs(names))
}

fn outputs(scan: &Scan, states: &dyn StateOutputs) -> minijinja::Value {
    let read = scan.states.iter().map(|(id, _)| {
        let value = match states.get(id) {
            Outputs::Known(outputs) => minijinja::Value::from(Serde(outputs)),
            Outputs::Unknown { until } => value::not_yet(until),
            Outputs::None(outcome) => minijinja::Value::from_object(value::Skipped(outcome)),
        };
        (id.clone(), value)
    });
    minijinja::Value::from_pairs(read)
}

/// The template machine's error, which it found in what begins at `start` of `text`.
fn stopped(error: &minijinja::Error, start: usize, text: &str, file: Option<&str>, scan: &Scan) -> Stop {
    let mut deepest = error;
    let mut source = Some(error as &(dyn std::error::Error + 'static));
    while let Some(cause) = source {
        if let Some(value::NotYet(until)) = cause.downcast_ref() {
            return Stop::Unknown(until.clone());
        }
        deepest = cause.downcast_ref().unwrap_or(deepest);
        source = cause.source();
    }
    let at = match (deepest.range(), deepest.line()) {
        (Some(range), _) => start + range.start,
        (None, Some(line)) if start == 0 => {
            text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum()
        }
        _ => start,
    };
    let is_undefined = deepest.kind() == ErrorKind::UndefinedError;
    // The machine's own words may quote a value, except where there is none.
    let withhold = scan.reads("secrets") && !is_undefined;
    let message = if withhold { kind_words(deepest.kind()) } else { words(deepest) };
    let hint = if is_undefined { hint(scan) } else { None };
    Stop::Error(error_at(text, at, file, message, hint))
}

fn hint(scan: &Scan) -> Option<String> {
    let reads_states = !scan.states.is_empty();
    reads_states.then(|| "the output of a state that was skipped needs a default(…)".to_owned())
}

fn error_at(
    text: &str,
    at: usize,
    file: Option<&str>,
    message: String,
    hint: Option<String>,
) -> TemplateError {
    let (line, column) = place(text, at);
    TemplateError { file: file.map(str::to_owned), line, column, message, hint }
}

/// What went wrong, for people.
fn words(error: &minijinja::Error) -> String {
    let kind = kind_words(error.kind());
    let Some(detail) = error.detail() else {
        return kind;
    };
    // The template may hold anything, and the words may quote it.
    let detail: String = detail.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match error.kind() {
        ErrorKind::UndefinedError => detail,
        _ => format!("{kind}: {detail}"),
    }
}

fn kind_words(kind: ErrorKind) -> String {
    match kind {
        ErrorKind::UndefinedError => "something in it is undefined".into(),
        ErrorKind::OutOfFuel => "it runs too long or gives too much".into(),
        ErrorKind::SyntaxError => "the template cannot be read".into(),
        ErrorKind::BadSerialization => "its value cannot be taken".into(),
        other => other.to_string(),
    }
}

impl TemplateError {
    fn place(&self) -> String {
        self.file.as_ref().map(|file| format!("{file}: ")).unwrap_or_default()
    }

    fn advice(&self) -> String {
        self.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;

//! Checks parameters against a module's JSON Schema, and says what is wrong as a person would, at its place.
//!
//! It takes the schemas that `schemars` writes with inlined subschemas: the keywords of objects, lists, texts and numbers, choices
//! (`enum`, `const`, `oneOf`, `anyOf`, `allOf`), and references within the document. A keyword it does not know is not
//! checked: the module reads its parameters into a type of its own later, on the machine.
//!
//! A value that waits for the machine passes. The schema of the whole states file, for editors, is in [`editor`].

pub mod editor;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use super::catalog::Place;
use super::param::{Entry, Param, ParamValue};
use crate::near_miss::near_miss;

/// Deepest nesting of a schema with its references: a reference to itself would never end.
const MAX_DEPTH: usize = 64;

/// Most steps through one schema: references could multiply without end, and an extension writes its own schema.
const MAX_STEPS: usize = 100_000;

/// Most names that a hint lists.
const MAX_LISTED: usize = 12;

/// Says which parameters name files: `blob`, `template`, `tree`; or hold an `expression`.
pub(crate) const MARK: &str = "x-mainstay";

/// One thing that is wrong with a parameter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SchemaProblem {
    pub at: Place,
    pub message: String,
    pub hint: Option<String>,
}

/// Says what is wrong with a text, in words that go on from it.
pub type Format = fn(&str) -> Result<(), String>;

/// The formats that there are, by their names: what a `format` in a schema asks of texts. Of one that is not there nothing is asked.
pub type Formats = fn(&str) -> Option<Format>;

/// The name of the format for lengths of time, which a schema's `type` cannot say.
const DURATION: &str = "duration";

/// Keeps what is costly to make anew for each of many states.
#[derive(Debug)]
pub struct Checker {
    /// By the pattern; nothing for one that cannot be read.
    patterns: Mutex<BTreeMap<String, Option<regex::Regex>>>,
    formats: Formats,
}

impl Default for Checker {
    fn default() -> Self {
        Self::new(|_| None)
    }
}

/// What a parameter with a [`MARK`] is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mark {
    Blob,
    Template,
    Tree,
    Expression,
}

impl Mark {
    fn of(schema: &Value) -> Option<Self> {
        Some(match schema.get(MARK)?.as_str()? {
            "blob" => Self::Blob,
            "template" => Self::Template,
            "tree" => Self::Tree,
            "expression" => Self::Expression,
            _ => return None,
        })
    }
}

impl Checker {
    pub fn new(formats: Formats) -> Self {
        Self { patterns: Mutex::default(), formats }
    }

    /// What is wrong with a text of this format.
    pub(crate) fn format(&self, name: &str, text: &str) -> Result<(), String> {
        (self.formats)(name).map_or(Ok(()), |format| format(text))
    }

    /// All that is wrong with the parameters of a state of this module.
    pub fn check(&self, module: &str, schema: &Value, params: &Param) -> Vec<SchemaProblem> {
        let check = Check { root: schema, module, checker: self, steps: Cell::new(MAX_STEPS) };
        let mut problems = Vec::new();
        check.value(schema, params, "", MAX_DEPTH, &mut problems);
        problems
    }

    /// The same for rendered values, which have no places any more.
    pub fn check_values(&self, module: &str, schema: &Value, params: &super::Values) -> Vec<String> {
        let params = Param::of(&Value::Object(params.clone()), Place::default());
        let problems = self.check(module, schema, &params);
        let words = problems.into_iter().map(|problem| match problem.hint {
            Some(hint) => format!("{} ({hint})", problem.message),
            None => problem.message,
        });
        words.collect()
    }
}

/// Shows each value for which the schema has a mark, once.
pub(crate) fn marked(schema: &Value, params: &mut Param, visit: &mut dyn FnMut(Mark, &mut Param)) {
    let mut steps = MAX_STEPS;
    walk_marks(schema, schema, params, MAX_DEPTH, &mut steps, visit);
}

fn walk_marks(
    root: &Value,
    schema: &Value,
    param: &mut Param,
    depth: usize,
    steps: &mut usize,
    visit: &mut dyn FnMut(Mark, &mut Param),
) {
    let (Some(depth), Some(left)) = (depth.checked_sub(1), steps.checked_sub(1)) else { return };
    *steps = left;
    let schema = referred(root, schema);
    if let Some(mark) = Mark::of(schema) {
        // What was shown already is a file by now; an expression may be looked at twice.
        if !matches!(param.value, ParamValue::File(_) | ParamValue::Null | ParamValue::Wrong) {
            visit(mark, param);
        }
        return;
    }
    match &mut param.value {
        ParamValue::Map(entries) => {
            for entry in entries {
                let own = schema.get("properties").and_then(|properties| properties.get(&entry.name));
                if let Some(schema) = own.or_else(|| schema.get("additionalProperties")) {
                    walk_marks(root, schema, &mut entry.param, depth, steps, visit);
                }
            }
        }
        ParamValue::List(items) => {
            if let Some(schema) = schema.get("items") {
                items.iter_mut().for_each(|item| walk_marks(root, schema, item, depth, steps, visit));
            }
        }
        _ => {}
    }
    for branch in branches(schema, &["allOf", "anyOf", "oneOf"]) {
        walk_marks(root, branch, param, depth, steps, visit);
    }
}

/// What a reference within the document leads to.
fn referred<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let mut schema = schema;
    for _ in 0..MAX_DEPTH {
        let Some(path) = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix('#'))
        else {
            return schema;
        };
        match root.pointer(path) {
            Some(target) => schema = target,
            None => return &Value::Bool(true),
        }
    }
    &Value::Bool(true)
}

fn branches<'a>(schema: &'a Value, words: &'a [&str]) -> impl Iterator<Item = &'a Value> {
    words.iter().filter_map(|word| schema.get(word)?.as_array()).flatten()
}

struct Check<'a> {
    root: &'a Value,
    module: &'a str,
    checker: &'a Checker,
    /// How many are left.
    steps: Cell<usize>,
}

impl<'a> Check<'a> {
    /// The depth below this one; nothing where the schema goes on for too long.
    fn deeper(&self, depth: usize) -> Option<usize> {
        self.steps.set(self.steps.get().checked_sub(1)?);
        depth.checked_sub(1)
    }

    fn value(
        &self,
        schema: &'a Value,
        param: &Param,
        path: &str,
        depth: usize,
        problems: &mut Vec<SchemaProblem>,
    ) {
        let Some(depth) = self.deeper(depth) else { return };
        let schema = referred(self.root, schema);
        let passes = matches!(param.value, ParamValue::Later(_) | ParamValue::File(_) | ParamValue::Wrong);
        if passes || schema == &Value::Bool(true) {
            return;
        }
        if let ParamValue::Settled { inner, .. } = &param.value {
            return self.value(schema, inner, path, depth, problems);
        }
        if schema == &Value::Bool(false) {
            problems.push(problem(param, format!("{} cannot be given", self.named(path)), None));
            return;
        }
        if !self.fits_type(schema, param) {
            problems.push(self.wrong_type(&self.expected(schema, depth), param, path));
            return;
        }
        if let Some(allowed) = literals(schema) {
            if !allowed.iter().any(|allowed| equals(allowed, param)) {
                problems.push(self.none_of(&allowed, param, path));
            }
            return;
        }
        match &param.value {
            ParamValue::Int(int) => self.number(schema, *int as f64, Some(*int), param, path, problems),
            ParamValue::Float(float) => self.number(schema, *float, None, param, path, problems),
            ParamValue::Text(text) => self.text(schema, text, param, path, problems),
            ParamValue::List(items) => self.list(schema, items, param, path, depth, problems),
            ParamValue::Map(entries) => self.map(schema, entries, param, path, depth, problems),
            _ => {}
        }
        for branch in branches(schema, &["allOf"]) {
            self.value(branch, param, path, depth, problems);
        }
        for word in ["anyOf", "oneOf"] {
            let choices: Vec<&Value> =
                schema.get(word).and_then(Value::as_array).into_iter().flatten().collect();
            if !choices.is_empty() {
                self.choice(&choices, param, path, depth, problems);
            }
        }
    }

    /// One of the branches must take the value. If none does, the problems of the one that was meant are told.
    fn choice(
        &self,
        choices: &[&'a Value],
        param: &Param,
        path: &str,
        depth: usize,
        problems: &mut Vec<SchemaProblem>,
    ) {
        let mut meant: Option<(bool, Vec<SchemaProblem>)> = None;
        for branch in choices {
            let mut found = Vec::new();
            self.value(branch, param, path, depth, &mut found);
            if found.is_empty() {
                return;
            }
            let branch = referred(self.root, branch);
            if !self.fits_type(branch, param) {
                continue;
            }
            let tagged = self.is_tagged(branch, param);
            let better = match &meant {
                None => true,
                Some((other, problems)) => (!tagged, found.len()) < (!other, problems.len()),
            };
            if better {
                meant = Some((tagged, found));
            }
        }
        let choices_of = |branch: &&'a Value| {
            let branch = referred(self.root, branch);
            let is_null = branch.get("type").and_then(Value::as_str) == Some("null");
            if is_null { Some(Vec::new()) } else { literals(branch) }
        };
        if let Some(all) = choices.iter().map(choices_of).collect::<Option<Vec<_>>>() {
            problems.push(self.none_of(&all.concat(), param, path));
            return;
        }
        match meant {
            Some((_, found)) => problems.extend(found),
            None => {
                let expected: BTreeSet<String> = choices
                    .iter()
                    .map(|branch| self.expected(branch, depth))
                    .filter(|e| e != "nothing")
                    .collect();
                let expected: Vec<String> = expected.into_iter().collect();
                problems.push(self.wrong_type(&expected.join(" or "), param, path));
            }
        }
    }

    /// The map has the key, or the value of a key, by which this branch is told from others.
    fn is_tagged(&self, branch: &Value, param: &Param) -> bool {
        let ParamValue::Map(entries) = &param.value else { return false };
        let required = branch.get("required").and_then(Value::as_array).into_iter().flatten();
        let required: Vec<&str> = required.filter_map(Value::as_str).collect();
        let tags = required.iter().filter_map(|name| {
            let allowed = literals(branch.get("properties")?.get(*name)?)?;
            Some(entries.iter().any(|e| e.name == *name && allowed.iter().any(|tag| equals(tag, &e.param))))
        });
        match tags.reduce(|all, one| all && one) {
            Some(tagged) => tagged,
            None => {
                !required.is_empty() && required.iter().all(|name| entries.iter().any(|e| e.name == *name))
            }
        }
    }

    fn fits_type(&self, schema: &Value, param: &Param) -> bool {
        let fits = |name: &Value| match (name.as_str().unwrap_or_default(), &param.value) {
            ("null", value) => matches!(value, ParamValue::Null),
            ("boolean", value) => matches!(value, ParamValue::Bool(_)),
            ("integer", value) => matches!(value, ParamValue::Int(_)),
            ("number", value) => matches!(value, ParamValue::Int(_) | ParamValue::Float(_)),
            ("string", value) => matches!(value, ParamValue::Text(_)),
            ("array", value) => matches!(value, ParamValue::List(_)),
            ("object", value) => matches!(value, ParamValue::Map(_)),
            _ => true,
        };
        match schema.get("type") {
            Some(Value::Array(names)) => names.iter().any(fits),
            Some(name) => fits(name),
            None => true,
        }
    }

    fn number(
        &self,
        schema: &Value,
        number: f64,
        int: Option<i128>,
        param: &Param,
        path: &str,
        problems: &mut Vec<SchemaProblem>,
    ) {
        let limit = |word: &str| schema.get(word).and_then(Value::as_f64);
        let (low, high) = match (schema.get("format").and_then(Value::as_str), int) {
            (Some(format), Some(_)) => int_range(format),
            _ => (None, None),
        };
        let low = limit("minimum").into_iter().chain(low).reduce(f64::max);
        let high = limit("maximum").into_iter().chain(high).reduce(f64::min);
        let inside = low.is_none_or(|low| number >= low)
            && high.is_none_or(|high| number <= high)
            && limit("exclusiveMinimum").is_none_or(|low| number > low)
            && limit("exclusiveMaximum").is_none_or(|high| number < high);
        if !inside || int.is_some_and(|int| i64::try_from(int).is_err() && u64::try_from(int).is_err()) {
            let wanted = match (low, high) {
                (Some(low), Some(high)) => format!("{low} to {high}"),
                (Some(low), None) => format!("at least {low}"),
                (None, Some(high)) => format!("at most {high}"),
                (None, None) => "within the bounds of its kind".into(),
            };
            problems.push(problem(param, format!("{} must be {wanted}", self.named(path)), None));
        }
    }

    fn text(&self, schema: &Value, text: &str, param: &Param, path: &str, problems: &mut Vec<SchemaProblem>) {
        let length = |word: &str| schema.get(word).and_then(Value::as_u64);
        let count = text.chars().count() as u64;
        if length("minLength").is_some_and(|least| count < least) {
            let message = if count == 0 {
                format!("{} is empty", self.named(path))
            } else {
                format!("{} is too short", self.named(path))
            };
            problems.push(problem(param, message, None));
        } else if let Some(most) = length("maxLength").filter(|most| count > *most) {
            let message = format!("{} has more than {most} characters", self.named(path));
            problems.push(problem(param, message, None));
        } else if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
            && !self.matches(pattern, text)
        {
            let message = format!("{} cannot be {}", self.named(path), shown(text));
            let hint = match schema.get("description").and_then(Value::as_str) {
                Some(description) => first_sentence(description),
                None => format!("it must match {pattern}"),
            };
            problems.push(problem(param, message, Some(hint)));
        } else if let Some(format) = schema.get("format").and_then(Value::as_str)
            && let Err(why) = self.checker.format(format, text)
        {
            let message = match text {
                "" => format!("{} is empty", self.named(path)),
                text => format!("{} cannot be {}: {why}", self.named(path), shown(text)),
            };
            problems.push(problem(param, message, None));
        }
    }

    fn matches(&self, pattern: &str, text: &str) -> bool {
        let mut patterns = self.checker.patterns.lock().unwrap_or_else(PoisonError::into_inner);
        if !patterns.contains_key(pattern) {
            // A schema may come from an extension: what it may cost is bounded.
            let built = regex::RegexBuilder::new(pattern).size_limit(1 << 20).dfa_size_limit(1 << 20).build();
            patterns.insert(pattern.to_owned(), built.ok());
        }
        patterns.get(pattern).and_then(Option::as_ref).is_none_or(|regex| regex.is_match(text))
    }

    fn list(
        &self,
        schema: &'a Value,
        items: &[Param],
        param: &Param,
        path: &str,
        depth: usize,
        problems: &mut Vec<SchemaProblem>,
    ) {
        let length = |word: &str| schema.get(word).and_then(Value::as_u64);
        let count = items.len() as u64;
        if length("minItems").is_some_and(|least| count < least) {
            let message = match count {
                0 => format!("{} is an empty list", self.named(path)),
                _ => format!("{} has too few items", self.named(path)),
            };
            problems.push(problem(param, message, None));
        }
        if let Some(most) = length("maxItems").filter(|most| count > *most) {
            problems.push(problem(param, format!("{} has more than {most} items", self.named(path)), None));
        }
        let first = schema.get("prefixItems").and_then(Value::as_array);
        for (at, item) in items.iter().enumerate() {
            let own = first.and_then(|first| first.get(at)).or_else(|| schema.get("items"));
            if let Some(schema) = own {
                self.value(schema, item, &format!("{path}[{at}]"), depth, problems);
            }
        }
    }

    fn map(
        &self,
        schema: &'a Value,
        entries: &[Entry],
        param: &Param,
        path: &str,
        depth: usize,
        problems: &mut Vec<SchemaProblem>,
    ) {
        let properties = schema.get("properties").and_then(Value::as_object);
        for entry in entries {
            let dot = if path.is_empty() { "" } else { "." };
            let inner = format!("{path}{dot}{}", entry.name);
            if let Some(schema) = properties.and_then(|properties| properties.get(&entry.name)) {
                self.value(schema, &entry.param, &inner, depth, problems);
                continue;
            }
            match schema.get("additionalProperties").or_else(|| schema.get("unevaluatedProperties")) {
                Some(Value::Bool(false)) => {
                    let mut known = BTreeSet::new();
                    self.known(schema, depth, &mut known);
                    if !known.contains(entry.name.as_str()) {
                        problems.push(self.unknown(entry, &known, path));
                    }
                }
                Some(schema) => self.value(schema, &entry.param, &inner, depth, problems),
                None => {}
            }
        }
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
        for name in required.filter_map(Value::as_str) {
            if !entries.iter().any(|entry| entry.name == name) {
                let dot = if path.is_empty() { "" } else { "." };
                let message = format!("`{path}{dot}{name}` is missing");
                let hint = schema.pointer(&format!("/properties/{name}/description")).and_then(Value::as_str);
                problems.push(problem(param, message, hint.map(first_sentence)));
            }
        }
    }

    fn unknown(&self, entry: &Entry, known: &BTreeSet<&str>, path: &str) -> SchemaProblem {
        let message = match path {
            "" => format!("`{}` has no parameter {}", self.module, shown(&entry.name)),
            path => format!("`{path}` has no {}", shown(&entry.name)),
        };
        let hint = match near_miss(&entry.name, known.iter().copied()) {
            Some(name) => Some(format!("did you mean {name}?")),
            None if known.is_empty() => None,
            None => Some(format!("there are {}", listed(known.iter().map(|name| (*name).to_owned())))),
        };
        SchemaProblem { at: entry.at, message, hint }
    }

    /// All keys that the schema or a branch of it names.
    fn known(&self, schema: &'a Value, depth: usize, known: &mut BTreeSet<&'a str>) {
        let Some(depth) = self.deeper(depth) else { return };
        let schema = referred(self.root, schema);
        known.extend(
            schema
                .get("properties")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
                .map(|(k, _)| k.as_str()),
        );
        for word in ["allOf", "anyOf", "oneOf"] {
            for branch in schema.get(word).and_then(Value::as_array).into_iter().flatten() {
                self.known(branch, depth, known);
            }
        }
    }

    fn wrong_type(&self, expected: &str, param: &Param, path: &str) -> SchemaProblem {
        let kind = match param.value {
            ParamValue::Float(_) if !expected.contains("whole number") => "a number",
            _ => param.kind(),
        };
        let message = format!("{} must be {expected}, not {kind}", self.named(path));
        let name = path.rsplit(['.', '[']).next().unwrap_or_default();
        let name = if name.is_empty() || name.ends_with(']') { String::new() } else { format!("{name}: ") };
        let raw = param.raw.as_deref().filter(|raw| raw.len() < 40);
        let hint = match (&param.value, raw) {
            (ParamValue::Null, _) => Some("give it a value, or leave the line out".to_owned()),
            (ParamValue::Int(_) | ParamValue::Float(_) | ParamValue::Bool(_), Some(raw))
                if expected.contains("a text") && !expected.contains("a number of seconds") =>
            {
                Some(format!("write {name}\"{raw}\""))
            }
            (ParamValue::Int(_) | ParamValue::Float(_) | ParamValue::Bool(_), None)
                if expected == "a text" =>
            {
                Some("a template alone keeps its type: add | string to it".to_owned())
            }
            // What is written in the file has a place of its own.
            (ParamValue::Map(_) | ParamValue::List(_), None)
                if expected == "a text" && param.at == Place::default() =>
            {
                Some("a template alone keeps its type: add | tojson to it, or name a part of it".to_owned())
            }
            (ParamValue::Text(text), _) if expected.contains("true or false") => {
                truth(text).map(|truth| format!("write {name}{truth}"))
            }
            (ParamValue::Text(text), _) if expected.contains("number") && text.parse::<i64>().is_ok() => {
                Some("leave the quotes out".to_owned())
            }
            (ParamValue::Text(text), _) if expected.contains("a list") && text.chars().count() < 40 => {
                Some(format!("write {name}[{text}]"))
            }
            (ParamValue::Float(_), Some(raw))
                if expected.contains("whole number") && raw.starts_with('0') =>
            {
                Some("leave the leading zero out".to_owned())
            }
            _ => None,
        };
        problem(param, message, hint)
    }

    fn none_of(&self, allowed: &[Value], param: &Param, path: &str) -> SchemaProblem {
        let words = || allowed.iter().filter(|value| !value.is_null()).map(literal);
        let given = match param.as_text() {
            Some(text) => shown(text),
            None => param.raw.as_deref().map_or_else(|| param.kind().to_owned(), shown),
        };
        let message = format!("{} must be {}, not {given}", self.named(path), either(words().collect()));
        let texts: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
        let hint = param.as_text().and_then(|text| near_miss(text, texts));
        problem(param, message, hint.map(|name| format!("did you mean {name}?")))
    }

    /// What the schema wants, in words.
    fn expected(&self, schema: &Value, depth: usize) -> String {
        let Some(depth) = self.deeper(depth) else { return "something else".into() };
        let schema = referred(self.root, schema);
        if let Some(allowed) = literals(schema) {
            return either(allowed.iter().filter(|value| !value.is_null()).map(literal).collect());
        }
        let word = |name: &Value| match name.as_str().unwrap_or_default() {
            "string" => match Mark::of(schema) {
                Some(Mark::Blob | Mark::Template) => "a text that names a file",
                Some(Mark::Tree) => "a text that names a folder",
                _ => "a text",
            },
            "integer" => "a whole number",
            "number" => "a number",
            "boolean" => "true or false",
            "array" => "a list",
            "object" => "a map",
            "null" => "nothing",
            _ => "something else",
        };
        if schema.get("format").and_then(Value::as_str) == Some(DURATION) {
            return "a number of seconds or a text like 30s".into();
        }
        match schema.get("type") {
            Some(Value::Array(names)) => {
                let words: Vec<_> = names.iter().map(word).filter(|word| *word != "nothing").collect();
                words.join(" or ")
            }
            Some(name) => word(name).to_owned(),
            None => {
                let inner: BTreeSet<String> = branches(schema, &["anyOf", "oneOf", "allOf"])
                    .map(|branch| self.expected(branch, depth))
                    .filter(|words| words != "nothing")
                    .collect();
                if inner.is_empty() {
                    return "something else".into();
                }
                inner.into_iter().collect::<Vec<_>>().join(" or ")
            }
        }
    }

    fn named(&self, path: &str) -> String {
        match path {
            "" => format!("`{}`", self.module),
            path => format!("`{path}`"),
        }
    }
}

fn problem(param: &Param, message: String, hint: Option<String>) -> SchemaProblem {
    SchemaProblem { at: param.at, message, hint }
}

/// The values that the schema allows by name, if that is how it says it.
fn literals(schema: &Value) -> Option<Vec<Value>> {
    match (schema.get("const"), schema.get("enum")) {
        (Some(value), _) => Some(vec![value.clone()]),
        (None, Some(Value::Array(values))) => Some(values.clone()),
        _ => None,
    }
}

fn equals(literal: &Value, param: &Param) -> bool {
    match (literal, &param.value) {
        (Value::Null, ParamValue::Null) => true,
        (Value::Bool(a), ParamValue::Bool(b)) => a == b,
        (Value::Number(a), ParamValue::Int(b)) => a.as_i128() == Some(*b),
        (Value::Number(a), ParamValue::Float(b)) => a.as_f64() == Some(*b),
        (Value::String(a), _) => param.as_text() == Some(a),
        _ => false,
    }
}

fn literal(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn either(mut words: Vec<String>) -> String {
    match words.pop() {
        None => "something else".into(),
        Some(last) if words.is_empty() => last,
        Some(last) => format!("{} or {last}", words.join(", ")),
    }
}

fn listed(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(MAX_LISTED);
    let names: Vec<_> = names.take(MAX_LISTED).collect();
    match more {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

/// A text from the file in an error: on one line, and not too long.
pub(super) fn shown(text: &str) -> String {
    const MOST: usize = 60;
    let plain: String = text.chars().take(MOST).flat_map(char::escape_debug).collect();
    if text.chars().nth(MOST).is_some() { format!("`{plain}…`") } else { format!("`{plain}`") }
}

fn first_sentence(text: &str) -> String {
    let text = text.split("\n\n").next().unwrap_or_default().replace('\n', " ");
    text.split_once(". ").map_or(text.as_str(), |(first, _)| first).trim_end_matches('.').to_owned()
}

fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "y" | "on" | "true" => Some(true),
        "no" | "n" | "off" | "false" => Some(false),
        _ => None,
    }
}

/// The range of a number's format, as `schemars` names the types of numbers.
fn int_range(format: &str) -> (Option<f64>, Option<f64>) {
    let (signed, bits) = match (format.strip_prefix("uint"), format.strip_prefix("int")) {
        (Some(bits), _) => (false, bits),
        (_, Some(bits)) => (true, bits),
        _ => return (None, None),
    };
    let bits: i32 = match bits.parse() {
        Ok(bits @ (8 | 16 | 32)) => bits,
        // Larger ones have no bound that a file could reach; those without a size are as large.
        _ => return (if signed { None } else { Some(0.0) }, None),
    };
    match signed {
        true => (Some(-2f64.powi(bits - 1)), Some(2f64.powi(bits - 1) - 1.0)),
        false => (Some(0.0), Some(2f64.powi(bits) - 1.0)),
    }
}

#[cfg(test)]
mod tests;

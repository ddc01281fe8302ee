//! Any YAML or JSON text as a tree of values that know where they stand.
//!
//! Nothing here knows a field's name. [`Limits`] bound what a hostile text can cost; who reads a format chooses them.
//! Scalars keep the text that they were written as, since `0644` and `yes` mean other things to people than to YAML.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::options::{MergeKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{MessageFormatter, Spanned, UserMessageFormatter};

/// What a text may cost, and what to tell whoever goes beyond.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub bytes: usize,
    /// Deepest nesting.
    pub depth: usize,
    /// Most values; each costs some hundred bytes of memory. What an alias stands for counts each time.
    pub values: usize,
    /// Most aliases; with none, anchors are refused as well.
    pub aliases: usize,
    /// Values may be templates, so that a forgotten quote is told from broken YAML.
    pub templates: bool,
    /// Hint for a text that is too large.
    pub when_too_large: &'static str,
    /// Hint for a second document in the text.
    pub when_several: &'static str,
}

/// A place in a text. Both count from 1; columns in characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

impl Position {
    pub const START: Self = Self { line: 1, column: 1 };
}

#[derive(Clone, Debug)]
pub struct Tree {
    pub value: Value,
    pub position: Position,
    /// The bytes of the text that a plain value was written as.
    raw: Range<usize>,
}

#[derive(Clone, Debug)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Tree>),
    /// In written order; no key stands in it twice.
    Map(Vec<(Key, Tree)>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Key {
    pub name: String,
    pub position: Position,
}

/// Why a text is no tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct YamlError {
    pub position: Position,
    pub message: String,
    pub hint: Option<String>,
}

impl Tree {
    /// How a plain value was written, quotes included: `0644` rather than the number that was made of it.
    pub fn raw<'a>(&self, text: &'a str) -> &'a str {
        text.get(self.raw.clone()).unwrap_or_default()
    }

    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Int(_) => "a number",
            Value::Float(_) => "a fraction or an enormous number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "an object",
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Of a map, the value of the key.
    pub fn get(&self, name: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(key, _)| key.name == name).map(|(_, tree)| tree),
            _ => None,
        }
    }
}

impl Value {
    pub fn as_map(&self) -> Option<&[(Key, Tree)]> {
        match self {
            Self::Map(entries) => Some(entries),
            _ => None,
        }
    }
}

/// Reads one document. Keys are texts, and no map has one twice.
pub fn parse(text: &str, limits: &Limits) -> Result<Tree, YamlError> {
    if text.len() > limits.bytes {
        let message = format!("the file has {} bytes; at most {} are taken", text.len(), limits.bytes);
        return Err(YamlError {
            position: Position::START,
            message,
            hint: Some(limits.when_too_large.into()),
        });
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: limits.depth,
            flow_nesting_limit: limits.depth,
            max_nodes: limits.values,
            max_events: limits.values.saturating_mul(4),
            max_anchors: limits.aliases,
            max_aliases: limits.aliases,
            max_documents: 1,
            max_total_scalar_bytes: limits.bytes,
        },
        // Without aliases `<<` is then an unknown field like any other.
        merge_keys: if limits.aliases == 0 { MergeKeyPolicy::AsOrdinary } else { MergeKeyPolicy::Merge },
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        strict_booleans: true,
        with_snippet: false,
    };
    match serde_saphyr::from_str_with_options::<Spanned<Value>>(text, options) {
        Ok(root) => Ok(tree(root)),
        Err(error) => Err(unreadable(text, limits, &error)),
    }
}

/// What to say of a text that stops being UTF-8 behind `valid`.
pub(crate) fn not_utf8(valid: &str) -> YamlError {
    let line = valid.matches('\n').count() + 1;
    let column = valid.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    YamlError {
        position: Position { line, column },
        message: "this is not UTF-8 text".into(),
        hint: Some("save the file as UTF-8".into()),
    }
}

fn position(location: serde_saphyr::Location) -> Position {
    Position { line: location.line().max(1) as usize, column: location.column().max(1) as usize }
}

fn tree(spanned: Spanned<Value>) -> Tree {
    let span = spanned.defined.span();
    let raw = match (span.byte_offset(), span.byte_len()) {
        (Some(offset), Some(length)) => offset as usize..(offset + length) as usize,
        _ => 0..0,
    };
    Tree { value: spanned.value, position: position(spanned.referenced), raw }
}

/// The parser's own error in the words of this format.
fn unreadable(text: &str, limits: &Limits, error: &serde_saphyr::Error) -> YamlError {
    let error = error.without_snippet();
    let place = error.location().map_or(Position::START, position);
    let problem = |message: String, hint: Option<&str>| YamlError {
        position: place,
        message,
        hint: hint.map(str::to_owned),
    };
    let message = UserMessageFormatter.format_message(error);
    if let serde_saphyr::Error::Budget { breach, .. } = error {
        return match breach {
            BudgetBreach::Anchors { .. } | BudgetBreach::Aliases { .. } if limits.aliases == 0 => problem(
                "anchors and aliases are not taken here".into(),
                Some("put a text that begins with & or * in quotes"),
            ),
            BudgetBreach::Anchors { .. } | BudgetBreach::Aliases { .. } => {
                problem(format!("more than {} anchors or aliases", limits.aliases), None)
            }
            BudgetBreach::Depth { .. } => {
                problem(format!("nested deeper than {} levels", limits.depth), None)
            }
            BudgetBreach::Nodes { .. } | BudgetBreach::Events { .. } => problem(
                format!("more than {} values in one file", limits.values),
                Some(limits.when_too_large),
            ),
            BudgetBreach::Documents { .. } => {
                problem("a second document begins here".into(), Some(limits.when_several))
            }
            _ => problem(message.escape_debug().to_string(), None),
        };
    }
    if message.contains("recursion limit") {
        return problem(format!("nested deeper than {} levels", limits.depth), None);
    }
    if limits.templates
        && let Some(position) = bare_template(text, place)
    {
        return YamlError {
            position,
            message: "a value with a template in it is not in quotes".into(),
            hint: Some("write it as \"{{ … }}\"".into()),
        };
    }
    let hint = if message.contains("multiple") || message.contains("document start") {
        Some(limits.when_several)
    } else if message.contains("tabs") {
        Some("indent with spaces; tabs are taken within { } and [ ] only")
    } else {
        None
    };
    // The text may hold anything, and the message may quote it.
    problem(message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(), hint)
}

/// Where, in the line of the error or the one before it, a value begins with `{{` or `{%`, or the error's own place if there is one: YAML takes
/// them for something else, and what it says of it helps nobody.
fn bare_template(text: &str, place: Position) -> Option<Position> {
    const MARKS: [&str; 2] = ["{{", "{%"];
    let line = text.lines().nth(place.line - 1)?;
    let rest: String = line.chars().skip(place.column - 1).take(2).collect();
    if MARKS.contains(&rest.as_str()) {
        return Some(place);
    }
    let before = place.line.saturating_sub(1).max(1);
    (before..=place.line).rev().find_map(|number| {
        let content = text.lines().nth(number - 1)?;
        let offset = MARKS.iter().filter_map(|mark| content.find(mark)).min()?;
        let ahead = content[..offset].trim_end();
        let begins = ahead.is_empty() || ahead.ends_with([':', '-', '[', ',', '?']);
        let column = content[..offset].chars().count() + 1;
        begins.then_some(Position { line: number, column })
    })
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        // Every field's own limit is far below.
        Ok(Value::Int(i128::try_from(value).unwrap_or(i128::MAX)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(tree(item));
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some((key, value)) = entries.next_entry::<Spanned<String>, _>()? {
            let position = position(key.referenced);
            map.push((Key { name: key.value, position }, tree(value)));
        }
        Ok(Value::Map(map))
    }
}

//! Any YAML or JSON text as a tree of values that know where they stand.
//!
//! Nothing here knows a field's name. The parser's budgets bound what a hostile text can cost.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::{MergeKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{MessageFormatter, Spanned, UserMessageFormatter};

use super::problem::MessageError;
use super::{MAX_FILE, MessageErrors};

/// Deepest nesting: a list of objects with an operation and its arguments is five deep.
const MAX_DEPTH: usize = 16;

const ONE_LIST: &str = "put several messages into one list: [ … , … ]";

/// Most values in a file: some hundred bytes of memory each.
const MAX_NODES: usize = 100_000;

/// A place in the text. Both count from 1; columns in characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

#[derive(Debug)]
pub(super) struct Tree {
    pub(super) value: Value,
    pub(super) position: Position,
    /// The bytes of the text that a plain value was written as.
    raw: std::ops::Range<usize>,
}

#[derive(Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float,
    Text(String),
    List(Vec<Tree>),
    Map(Vec<(Key, Tree)>),
}

#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) position: Position,
}

impl Tree {
    /// How a plain value was written: `0644` rather than the number that was made of it.
    pub(super) fn raw<'a>(&self, text: &'a str) -> &'a str {
        text.get(self.raw.clone()).unwrap_or_default()
    }

    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Int(_) => "a number",
            Value::Float => "a fraction or an enormous number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "an object",
        }
    }
}

pub(super) fn parse(text: &str) -> Result<Tree, MessageErrors> {
    const START: Position = Position { line: 1, column: 1 };
    if text.len() > MAX_FILE {
        let message = format!("the file has {} bytes; at most {MAX_FILE} are taken", text.len());
        let mut error = MessageError::new(START, message);
        error.hint = Some("send it in parts".into());
        return Err(MessageErrors::new("", vec![error]));
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: 4 * MAX_NODES,
            max_anchors: 0,
            max_aliases: 0,
            max_documents: 1,
            max_total_scalar_bytes: MAX_FILE,
        },
        // `<<` is then an unknown field like any other.
        merge_keys: MergeKeyPolicy::AsOrdinary,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        strict_booleans: true,
        with_snippet: false,
    };
    match serde_saphyr::from_str_with_options::<Spanned<Value>>(text, options) {
        Ok(root) => Ok(tree(root)),
        Err(error) => Err(MessageErrors::new(text, vec![unreadable(&error)])),
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
fn unreadable(error: &serde_saphyr::Error) -> MessageError {
    let error = error.without_snippet();
    let place = error.location().map_or(Position { line: 1, column: 1 }, position);
    let message = UserMessageFormatter.format_message(error);
    let mut hint = None;
    let message = match error {
        serde_saphyr::Error::Budget { breach, .. } => {
            use serde_saphyr::budget::BudgetBreach;
            match breach {
                BudgetBreach::Anchors { .. } | BudgetBreach::Aliases { .. } => {
                    hint = Some("put a text that begins with & or * in quotes".into());
                    "anchors and aliases are not taken in a message".into()
                }
                BudgetBreach::Depth { .. } => format!("nested deeper than {MAX_DEPTH} levels"),
                BudgetBreach::Nodes { .. } | BudgetBreach::Events { .. } => {
                    hint = Some("send it in parts".into());
                    format!("more than {MAX_NODES} values in one file")
                }
                BudgetBreach::Documents { .. } => {
                    hint = Some(ONE_LIST.into());
                    "a second document begins here".into()
                }
                _ => message.escape_debug().to_string(),
            }
        }
        _ => {
            if message.contains("recursion limit") {
                return MessageError::new(place, format!("nested deeper than {MAX_DEPTH} levels"));
            }
            if message.contains("multiple") || message.contains("document start") {
                hint = Some(ONE_LIST.into());
            } else if message.contains("tabs") {
                hint = Some("indent with spaces; tabs are taken within { } and [ ] only".into());
            }
            // The text may hold anything, and the message may quote it.
            message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
        }
    };
    let mut problem = MessageError::new(place, message);
    problem.hint = hint;
    problem
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
        f.write_str("a message")
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

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Float)
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

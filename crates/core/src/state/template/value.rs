//! Values on their way into a template and out of it.

use std::sync::Arc;

use minijinja::value::{Object, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use crate::state::{StateId, StateOutcome};

/// Most values that an expression may give: lazy ranges and repeated lists are small until they are written out.
const MAX_VALUES: usize = 1_000_000;

/// Deepest nesting of what an expression gives; what goes deeper does not come from any file.
const MAX_DEPTH: usize = 100;

/// An output that is not there yet was touched.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the output of `{0}` is not known yet")]
pub(super) struct NotYet(pub(super) StateId);

/// The outputs of a state that has still to have its turn: whoever touches them ends with [`NotYet`].
pub(super) fn not_yet(until: StateId) -> Value {
    Value::from(Error::new(ErrorKind::InvalidOperation, "not known yet").with_source(NotYet(until)))
}

/// The outputs of a state that was skipped or blocked: but for what became of it none is defined, and it counts as false.
#[derive(Debug)]
pub(super) struct Skipped(pub(super) StateOutcome);

impl Object for Skipped {
    fn get_value(self: &Arc<Self>, name: &Value) -> Option<Value> {
        match name.as_str()? {
            "changed" => Some(false.into()),
            "outcome" => Some(self.0.word().into()),
            _ => None,
        }
    }

    fn is_true(self: &Arc<Self>) -> bool {
        false
    }
}

/// What an expression gave, as JSON has it. Everything in it must be defined and known.
pub(super) fn to_json(value: &Value) -> Result<serde_json::Value, Error> {
    let mut budget = MAX_VALUES;
    convert(value, MAX_DEPTH, &mut budget)
}

fn convert(value: &Value, depth: usize, budget: &mut usize) -> Result<serde_json::Value, Error> {
    use serde_json::Value as Json;
    let refuse = |why: &str| Err(Error::new(ErrorKind::BadSerialization, why.to_owned()));
    if depth == 0 || *budget == 0 {
        return refuse("the value is too large");
    }
    *budget -= 1;
    Ok(match value.kind() {
        ValueKind::Undefined => return Err(Error::from(ErrorKind::UndefinedError)),
        ValueKind::None => Json::Null,
        ValueKind::Bool => Json::Bool(value.is_true()),
        ValueKind::Number => match serde_json::to_value(value) {
            Ok(Json::Number(number)) => Json::Number(number),
            _ => return refuse("the number is too large"),
        },
        ValueKind::String => Json::String(value.as_str().unwrap_or_default().to_owned()),
        ValueKind::Bytes => return refuse("bytes are no value for a parameter"),
        ValueKind::Seq | ValueKind::Iterable => {
            let mut list = Vec::new();
            for item in value.try_iter()? {
                list.push(convert(&item, depth - 1, budget)?);
            }
            Json::Array(list)
        }
        ValueKind::Map => {
            let mut map = serde_json::Map::new();
            for key in value.try_iter()? {
                let item = value.get_item(&key)?;
                map.insert(key.to_string(), convert(&item, depth - 1, budget)?);
            }
            Json::Object(map)
        }
        // What went wrong within an iteration stands in its last item.
        ValueKind::Invalid => match serde_json::to_value(value) {
            Err(error) => return refuse(&error.to_string()),
            Ok(_) => return refuse("it is no value"),
        },
        _ => return refuse("it is no value for a parameter"),
    })
}

/// The text as one word of a POSIX shell.
pub(super) fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

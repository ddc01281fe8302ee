//! A parameter on its way from the states file to a catalog: a value that knows where each part of it was written.
//!
//! What is rendered is a value again, at the place of its template; what waits for the machine stays a template.

use serde_json::Value;

use super::Values;
use super::catalog::Place;

#[derive(Clone, Debug)]
pub struct Param {
    pub value: ParamValue,
    pub at: Place,
    /// How a number or a truth value was written: `0644`, `1.10`.
    pub raw: Option<Box<str>>,
}

#[derive(Clone, Debug)]
pub enum ParamValue {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    /// A template that only the machine can render.
    Later(String),
    /// Something was wrong with it, which was told already.
    Wrong,
    /// What was rendered looks like a template again: the catalog has it as it was written, so that it is rendered once.
    Settled {
        template: String,
        inner: Box<Param>,
    },
    List(Vec<Param>),
    Map(Vec<Entry>),
    /// What the compiler put in place of a file's name.
    File(Value),
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub name: String,
    pub at: Place,
    pub param: Param,
}

impl Param {
    /// A value without places of its own.
    pub fn of(value: &Value, at: Place) -> Self {
        let value = match value {
            Value::Null => ParamValue::Null,
            Value::Bool(value) => ParamValue::Bool(*value),
            Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(int), _) => ParamValue::Int(int.into()),
                (None, Some(int)) => ParamValue::Int(int.into()),
                (None, None) => ParamValue::Float(number.as_f64().unwrap_or_default()),
            },
            Value::String(text) => ParamValue::Text(text.clone()),
            Value::Array(items) => ParamValue::List(items.iter().map(|item| Self::of(item, at)).collect()),
            Value::Object(map) => ParamValue::Map(
                map.iter()
                    .map(|(name, value)| Entry { name: name.clone(), at, param: Self::of(value, at) })
                    .collect(),
            ),
        };
        Self { value, at, raw: None }
    }

    /// As a catalog has it.
    pub fn to_json(&self) -> Value {
        match &self.value {
            ParamValue::Null | ParamValue::Wrong => Value::Null,
            ParamValue::Bool(value) => Value::Bool(*value),
            ParamValue::Int(int) => match (i64::try_from(*int), u64::try_from(*int)) {
                (Ok(int), _) => int.into(),
                (_, Ok(int)) => int.into(),
                // Beyond what any schema takes; the check has said so.
                _ => Value::Null,
            },
            ParamValue::Float(float) => {
                serde_json::Number::from_f64(*float).map_or(Value::Null, Value::Number)
            }
            ParamValue::Text(text) | ParamValue::Later(text) | ParamValue::Settled { template: text, .. } => {
                Value::String(text.clone())
            }
            ParamValue::List(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            ParamValue::Map(entries) => Value::Object(to_values(entries)),
            ParamValue::File(value) => value.clone(),
        }
    }

    /// As a variable has it: what was rendered is a value, whatever it looks like.
    pub fn to_json_settled(&self) -> Value {
        match &self.value {
            ParamValue::Settled { inner, .. } => inner.to_json(),
            ParamValue::List(items) => Value::Array(items.iter().map(Self::to_json_settled).collect()),
            ParamValue::Map(entries) => Value::Object(
                entries.iter().map(|entry| (entry.name.clone(), entry.param.to_json_settled())).collect(),
            ),
            _ => self.to_json(),
        }
    }

    /// Nothing in it is left to render.
    pub fn is_known(&self) -> bool {
        match &self.value {
            ParamValue::Later(_) | ParamValue::Settled { .. } | ParamValue::Wrong => false,
            ParamValue::File(value) => value.get("$template").is_none(),
            ParamValue::List(items) => items.iter().all(Self::is_known),
            ParamValue::Map(entries) => entries.iter().all(|entry| entry.param.is_known()),
            _ => true,
        }
    }

    /// The text that is known before the machine is asked.
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            ParamValue::Text(text) => Some(text),
            ParamValue::Settled { inner, .. } => inner.as_text(),
            _ => None,
        }
    }

    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            ParamValue::Null | ParamValue::Wrong => "nothing",
            ParamValue::Bool(_) => "true or false",
            ParamValue::Int(_) => "a number",
            ParamValue::Float(_) => "a fraction",
            ParamValue::Text(_) | ParamValue::Later(_) => "a text",
            ParamValue::Settled { inner, .. } => inner.kind(),
            ParamValue::List(_) => "a list",
            ParamValue::Map(_) => "a map",
            ParamValue::File(_) => "a file",
        }
    }
}

pub(super) fn to_values(entries: &[Entry]) -> Values {
    entries.iter().map(|entry| (entry.name.clone(), entry.param.to_json())).collect()
}

//! From a tree to messages: which fields there are, what each may hold, and what goes together.
//!
//! A wrong value is noted and reading goes on, so that a person sees all that is wrong at once.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::problem::{MessageError, MessageErrors};
use super::{
    Attempts, DEFAULT_ACK_TIMEOUT, DEFAULT_EXPIRES, DEFAULT_RETRIES, Delivery, MAX_CONTENT, MAX_DELIVERIES,
    MessageSpec, ReplySpec,
};
use crate::envelope::MAX_LIFETIME;
use crate::id::NodeName;
use crate::method::{MethodName, ReplyMethod};
use crate::near_miss::near_miss;
use crate::received_path;
use crate::seal::Private;
use crate::time::Span;
use crate::yaml::{Key, Position, Tree, Value};

/// Most retries: whoever wants more means `expires`.
const MAX_RETRIES: i128 = 100_000;

const FIELDS: [&str; 22] = [
    "toNode",
    "toNodes",
    "method",
    "methodArgs",
    "operation",
    "data",
    "ACKTimeout",
    "retries",
    "expires",
    "methodTimeout",
    "idempotent",
    "env",
    "cwd",
    "user",
    "stdin",
    "directory",
    "fileName",
    "replyMethod",
    "replyMethodArgs",
    "replyMethodTimeout",
    "replyACKTimeout",
    "replyRetries",
];

/// The arguments of operations in seed 004, for their spelling; others pass as they are.
const OPERATION_ARGS: [&str; 4] = ["method", "kind", "receivingNode", "allowedNodes"];

pub(super) fn messages(text: &str, root: &Tree) -> Result<Vec<MessageSpec>, MessageErrors> {
    let mut reader = Reader { text, errors: Vec::new() };
    let mut messages = Vec::new();
    match &root.value {
        Value::List(items) if !items.is_empty() => {
            for (at, item) in items.iter().enumerate() {
                messages.extend(reader.message(&format!("[{at}]"), item));
            }
        }
        Value::List(_) | Value::Null => {
            reader.wrong(root.position, None, "there is no message in it", None);
        }
        _ => messages.extend(reader.message("", root)),
    }
    let deliveries: usize = messages.iter().map(|message| message.to.len()).sum();
    if deliveries > MAX_DELIVERIES {
        let message = format!("{deliveries} deliveries in one file; at most {MAX_DELIVERIES} are taken");
        reader.wrong(root.position, None, &message, Some("send it in parts".into()));
    }
    if reader.errors.is_empty() { Ok(messages) } else { Err(MessageErrors::new(text, reader.errors)) }
}

/// See [`super::unknown_receivers`].
pub(super) fn unknown_receivers(text: &str, root: &Tree, unknown: &[String]) -> Option<MessageErrors> {
    let mut reader = Reader { text, errors: Vec::new() };
    let messages: Vec<(String, &Tree)> = match &root.value {
        Value::List(items) => items.iter().enumerate().map(|(at, item)| (format!("[{at}]"), item)).collect(),
        _ => vec![(String::new(), root)],
    };
    for (path, tree) in messages {
        let Value::Map(entries) = &tree.value else { continue };
        let fields = reader.fields(&path, entries);
        for field in written_receivers(&fields) {
            if let Value::Text(name) = &field.tree.value
                && unknown.iter().any(|unknown| unknown == name)
            {
                let hint = "`mainstay nodes list` on the hub shows the names".to_owned();
                reader.at(&field, &format!("no node of this fleet is named {name}"), Some(hint));
            }
        }
    }
    (!reader.errors.is_empty()).then(|| MessageErrors::new(text, reader.errors))
}

/// `toNode` and each item of `toNodes`, as they are written.
fn written_receivers<'a>(fields: &Fields<'a>) -> Vec<Field<'a>> {
    let mut written = Vec::from_iter(fields.get("toNode").cloned());
    if let Some(field) = fields.get("toNodes")
        && let Value::List(items) = &field.tree.value
    {
        written.extend(items.iter().enumerate().map(|(at, tree)| field.item(at, tree)));
    }
    written
}

/// A field that is there and not null.
#[derive(Clone)]
struct Field<'a> {
    /// For people: `[1].toNodes`.
    path: String,
    tree: &'a Tree,
}

impl<'a> Field<'a> {
    fn item(&self, at: usize, tree: &'a Tree) -> Self {
        Self { path: format!("{}[{at}]", self.path), tree }
    }

    fn entry(&self, key: &Key, tree: &'a Tree) -> Self {
        Self { path: format!("{}.{}", self.path, key.name.escape_debug()), tree }
    }
}

/// The fields of one message by their names in [`FIELDS`].
struct Fields<'a>(BTreeMap<&'static str, Field<'a>>);

impl<'a> Fields<'a> {
    fn get(&self, name: &str) -> Option<&Field<'a>> {
        debug_assert!(FIELDS.contains(&name), "{name} is not in the table");
        self.0.get(name)
    }
}

struct Reader<'a> {
    text: &'a str,
    errors: Vec<MessageError>,
}

impl<'a> Reader<'a> {
    fn message(&mut self, path: &str, tree: &'a Tree) -> Option<MessageSpec> {
        let Value::Map(entries) = &tree.value else {
            let message = format!("a message is an object such as {{…}}, not {}", tree.kind());
            let field = (!path.is_empty()).then(|| path.to_owned());
            self.wrong(tree.position, field, &message, None);
            return None;
        };
        let before = self.errors.len();
        let fields = self.fields(path, entries);
        let to = self.receivers(&fields);
        if to.is_empty() && fields.get("toNode").is_none() && fields.get("toNodes").is_none() {
            self.missing(path, "toNode", tree.position, "name the receiver, or several in toNodes");
        }
        let method = match fields.get("method") {
            Some(field) => self.method(field),
            None => {
                self.missing(path, "method", tree.position, "say what to do, such as cmd or ping");
                None
            }
        };
        let args = self.args(&fields);
        let data = fields.get("data").map(|f| self.data(f)).unwrap_or_default();
        let delivery = self.delivery(&fields);
        let method_timeout = self.positive_time(fields.get("methodTimeout"));
        let idempotent = fields.get("idempotent").is_some_and(|f| self.boolean(f));
        let private = self.private(&fields);
        let reply = self.reply(path, tree.position, &fields);
        let content = args.iter().map(String::len).sum::<usize>() + data.len() + size(&private);
        if content > MAX_CONTENT {
            let message = format!("the message holds {content} bytes; at most {MAX_CONTENT} are taken");
            let field = (!path.is_empty()).then(|| path.to_owned());
            self.wrong(tree.position, field, &message, Some("send a file instead".into()));
        }
        (self.errors.len() == before).then_some(MessageSpec {
            to,
            method: method?,
            args,
            data,
            delivery,
            method_timeout,
            idempotent,
            private,
            reply,
        })
    }

    fn fields(&mut self, path: &str, entries: &'a [(Key, Tree)]) -> Fields<'a> {
        let dot = if path.is_empty() { "" } else { "." };
        let mut fields = BTreeMap::new();
        let mut seen = BTreeMap::new();
        for (key, tree) in entries {
            let known = FIELDS.iter().find(|name| name.eq_ignore_ascii_case(&key.name));
            let path =
                format!("{path}{dot}{}", known.map_or(key.name.escape_debug().to_string(), |k| (*k).into()));
            let Some(&name) = known else {
                self.wrong(key.position, Some(path), "there is no such field", suggestion(&key.name));
                continue;
            };
            if let Some(line) = seen.insert(name, key.position.line) {
                let message = format!("this field was given before, in line {line}");
                self.wrong(key.position, Some(path), &message, None);
                continue;
            }
            if !matches!(tree.value, Value::Null) {
                fields.insert(name, Field { path, tree });
            }
        }
        Fields(fields)
    }

    fn receivers(&mut self, fields: &Fields<'a>) -> Vec<NodeName> {
        let mut to: Vec<NodeName> = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        let written = written_receivers(fields);
        match fields.get("toNodes") {
            Some(field) if !matches!(field.tree.value, Value::List(_)) => {
                self.not_a(field, "a list of names")
            }
            Some(field) if written.is_empty() => self.at(field, "it names no node", None),
            _ => {}
        }
        for field in written {
            let Some(name) = self.string(&field) else { continue };
            match name.parse::<NodeName>() {
                Ok(name) if seen.insert(name.clone()) => to.push(name),
                Ok(_) => {}
                Err(error) => self.at(&field, &error.to_string(), None),
            }
        }
        to
    }

    fn method(&mut self, field: &Field<'a>) -> Option<MethodName> {
        let name = self.string(field)?;
        MethodName::resolve(name).map_err(|error| self.at(field, &error.to_string(), None)).ok()
    }

    fn args(&mut self, fields: &Fields<'a>) -> Vec<String> {
        let args = fields.get("methodArgs").map(|f| self.strings(f)).unwrap_or_default();
        match fields.get("operation") {
            Some(operation) if !args.is_empty() => {
                self.at(operation, "it becomes the arguments, and methodArgs gives some too", None);
                args
            }
            Some(operation) => self.operation(operation),
            None => args,
        }
    }

    fn operation(&mut self, field: &Field<'a>) -> Vec<String> {
        let Value::Map(entries) = &field.tree.value else {
            self.not_a(field, "an object with opCmd and opArg");
            return Vec::new();
        };
        let (mut command, mut args) = (None, Vec::new());
        for (key, tree) in entries {
            let entry = field.entry(key, tree);
            match (key.name.to_ascii_lowercase().as_str(), &tree.value) {
                ("opcmd", _) => command = self.string(&entry).map(str::to_owned),
                ("oparg", Value::Null) => {}
                ("oparg", Value::Map(given)) => {
                    for (key, tree) in given {
                        let entry = entry.entry(key, tree);
                        let value = match &tree.value {
                            Value::List(_) => self.strings(&entry).join(","),
                            Value::Int(number) => number.to_string(),
                            _ => self.string(&entry).unwrap_or_default().to_owned(),
                        };
                        let known = OPERATION_ARGS.iter().find(|name| name.eq_ignore_ascii_case(&key.name));
                        args.push(format!("{}={value}", known.map_or(key.name.as_str(), |name| name)));
                    }
                }
                ("oparg", _) => self.not_a(&entry, "an object"),
                _ => self.wrong(
                    key.position,
                    Some(entry.path),
                    "there is no such field",
                    Some("an operation has opCmd and opArg".into()),
                ),
            }
        }
        match command {
            Some(command) => {
                args.insert(0, command);
                args
            }
            None => {
                self.missing(&field.path, "opCmd", field.tree.position, "such as ps, startProc or stopProc");
                args
            }
        }
    }

    fn data(&mut self, field: &Field<'a>) -> Bytes {
        let items = match &field.tree.value {
            Value::Text(text) => return Bytes::copy_from_slice(text.as_bytes()),
            Value::List(items) => items,
            _ => {
                self.not_a(field, "a text, a list of lines or a list of bytes");
                return Bytes::new();
            }
        };
        let mut data = Vec::new();
        let are_bytes = items.first().is_some_and(|item| matches!(item.value, Value::Int(_)));
        for (at, item) in items.iter().enumerate() {
            match &item.value {
                Value::Text(line) if !are_bytes => {
                    data.extend_from_slice(line.as_bytes());
                    data.push(b'\n');
                }
                Value::Int(byte @ 0..=255) if are_bytes => data.push(*byte as u8),
                _ if are_bytes => self.not_a(&field.item(at, item), "a byte, 0 to 255, as the first is"),
                _ => self.not_a(&field.item(at, item), "a text, as lines are"),
            }
        }
        data.into()
    }

    fn delivery(&mut self, fields: &Fields<'a>) -> Delivery {
        let expires = self.positive_time(fields.get("expires")).unwrap_or(DEFAULT_EXPIRES);
        let ack_timeout = fields.get("ACKTimeout").and_then(|f| self.time(f));
        let retries = fields.get("retries").and_then(|f| self.retries(f));
        if ack_timeout == Some(Duration::ZERO) {
            return Delivery::Event { expires };
        }
        let attempts = (ack_timeout.is_some() || retries.is_some()).then(|| Attempts {
            ack_timeout: ack_timeout.unwrap_or(DEFAULT_ACK_TIMEOUT),
            retries: retries.unwrap_or(DEFAULT_RETRIES),
        });
        if let (Some(attempts), Some(field)) = (attempts, fields.get("retries").or(fields.get("ACKTimeout")))
            && attempts.together() > MAX_LIFETIME
        {
            let message = "all attempts together would take longer than the 30 days that a message lives";
            self.at(field, message, None);
        }
        Delivery::Command { expires, attempts }
    }

    fn private(&mut self, fields: &Fields<'a>) -> Private {
        let mut private = Private::default();
        if let Some(field) = fields.get("env") {
            if let Value::Map(entries) = &field.tree.value {
                for (key, tree) in entries {
                    let entry = field.entry(key, tree);
                    if key.name.is_empty() || key.name.contains(['=', '\0']) {
                        let message = "the name of a variable is not empty and holds no `=`";
                        self.wrong(key.position, Some(entry.path), message, None);
                    } else if let Some(value) = self.string(&entry) {
                        private.env.push((key.name.clone(), value.to_owned()));
                    }
                }
            } else {
                self.not_a(field, "an object of names and values");
            }
        }
        private.cwd = fields.get("cwd").and_then(|f| self.filled(f)).map(str::to_owned);
        private.user = fields.get("user").and_then(|f| self.filled(f)).map(str::to_owned);
        private.stdin = fields.get("stdin").and_then(|field| match &field.tree.value {
            Value::Text(text) => Some(Bytes::copy_from_slice(text.as_bytes())),
            _ => {
                self.not_a(field, "a text");
                None
            }
        });
        private
    }

    fn reply(&mut self, path: &str, position: Position, fields: &Fields<'a>) -> ReplySpec {
        let directory = fields.get("directory").and_then(|field| {
            let directory = self.string(field)?;
            if let Err(error) = received_path::check_directory(directory) {
                self.at(field, &error.to_string(), None);
            }
            Some(directory)
        });
        let file_name = fields.get("fileName").and_then(|field| {
            let name = self.string(field)?;
            if let Err(error) = received_path::check_file_name(name) {
                self.at(field, &error.to_string(), Some("put the directory into `directory`".into()));
            }
            Some(name)
        });
        let wants_file = directory.is_some() || file_name.is_some();
        let method = match fields.get("replyMethod") {
            Some(field) => self.reply_method(field),
            None if wants_file => ReplyMethod::FileAppend,
            None => ReplyMethod::None,
        };
        if method.needs_file() && fields.get("fileName").is_none() {
            let hint = format!("{method} writes to a file");
            self.missing(path, "fileName", position, &hint);
        }
        ReplySpec {
            method,
            args: fields.get("replyMethodArgs").map(|f| self.strings(f)).unwrap_or_default(),
            timeout: self.positive_time(fields.get("replyMethodTimeout")),
            ack_timeout: fields.get("replyACKTimeout").and_then(|f| self.time(f)),
            retries: fields.get("replyRetries").and_then(|f| self.retries(f)),
            directory: directory.unwrap_or_default().to_owned(),
            file_name: file_name.map(str::to_owned),
        }
    }

    fn reply_method(&mut self, field: &Field<'a>) -> ReplyMethod {
        let Some(written) = self.string(field) else {
            return ReplyMethod::None;
        };
        ReplyMethod::find(written).unwrap_or_else(|| {
            let known: Vec<_> = ReplyMethod::ALL.iter().map(|m| m.name()).collect();
            let message = format!("there is no reply method {written:?}");
            self.at(field, &message, Some(format!("there are {}", known.join(", "))));
            ReplyMethod::None
        })
    }

    /// A text without zero bytes, which no argument, name or path of a system can hold.
    fn string(&mut self, field: &Field<'a>) -> Option<&'a str> {
        match &field.tree.value {
            Value::Text(text) if text.contains('\0') => {
                self.at(field, "it holds a zero byte", None);
                None
            }
            Value::Text(text) => Some(text),
            _ => {
                self.not_a(field, "a text");
                None
            }
        }
    }

    fn filled(&mut self, field: &Field<'a>) -> Option<&'a str> {
        let text = self.string(field)?;
        if text.is_empty() {
            self.at(field, "it is empty", Some("leave the field out".into()));
            return None;
        }
        Some(text)
    }

    fn strings(&mut self, field: &Field<'a>) -> Vec<String> {
        let Value::List(items) = &field.tree.value else {
            self.not_a(field, "a list of texts");
            return Vec::new();
        };
        items
            .iter()
            .enumerate()
            .filter_map(|(at, item)| self.string(&field.item(at, item)))
            .map(str::to_owned)
            .collect()
    }

    fn boolean(&mut self, field: &Field<'a>) -> bool {
        match field.tree.value {
            Value::Bool(value) => value,
            _ => {
                self.not_a(field, "true or false");
                false
            }
        }
    }

    fn retries(&mut self, field: &Field<'a>) -> Option<u32> {
        match field.tree.value {
            Value::Int(number @ 0..=MAX_RETRIES) => u32::try_from(number).ok(),
            Value::Int(_) => {
                let hint = "for a bound in time write expires".into();
                self.at(field, &format!("it is 0 to {MAX_RETRIES}"), Some(hint));
                None
            }
            _ => {
                self.not_a(field, "a whole number");
                None
            }
        }
    }

    fn time(&mut self, field: &Field<'a>) -> Option<Duration> {
        let time = match &field.tree.value {
            Value::Int(seconds) if *seconds < 0 => {
                self.at(field, "a time cannot be negative", None);
                return None;
            }
            Value::Int(seconds) => Duration::from_secs(u64::try_from(*seconds).unwrap_or(u64::MAX)),
            Value::Text(text) => match text.parse::<Span>() {
                Ok(span) => span.0,
                Err(error) => {
                    self.at(field, &error.to_string(), Some("whole seconds need no quotes: 90".into()));
                    return None;
                }
            },
            _ => {
                self.not_a(field, "a time: whole seconds, or a text such as 90s or 24h");
                return None;
            }
        };
        if time > MAX_LIFETIME {
            self.at(field, "it is longer than 30 days, the longest that a message lives", None);
            return None;
        }
        Some(time)
    }

    fn positive_time(&mut self, field: Option<&Field<'a>>) -> Option<Duration> {
        let time = self.time(field?)?;
        if time.is_zero() {
            self.at(field?, "it leaves no time at all", Some("leave the field out for its default".into()));
            return None;
        }
        Some(time)
    }

    fn not_a(&mut self, field: &Field<'a>, what: &str) {
        let raw = field.tree.raw(self.text);
        let hint = match &field.tree.value {
            Value::Text(text) if text.contains("//") => Some("a comment begins with #".to_owned()),
            Value::Text(_) if what.starts_with("a list of") => Some("write a list: [ … ]".to_owned()),
            Value::Text(text) if text.parse::<i64>().is_ok() => Some("leave the quotes out".to_owned()),
            Value::Int(_) | Value::Float(_) | Value::Bool(_)
                if what.starts_with("a text") && raw.len() < 40 =>
            {
                Some(format!("write it in quotes: \"{raw}\""))
            }
            _ => None,
        };
        self.at(field, &format!("it must be {what}, not {}", field.tree.kind()), hint);
    }

    fn missing(&mut self, path: &str, name: &str, position: Position, hint: &str) {
        let dot = if path.is_empty() { "" } else { "." };
        self.wrong(position, Some(format!("{path}{dot}{name}")), "it is missing", Some(hint.to_owned()));
    }

    fn at(&mut self, field: &Field<'a>, message: &str, hint: Option<String>) {
        self.wrong(field.tree.position, Some(field.path.clone()), message, hint);
    }

    fn wrong(&mut self, position: Position, field: Option<String>, message: &str, hint: Option<String>) {
        let mut error = MessageError::new(position, message);
        error.field = field;
        error.hint = hint;
        self.errors.push(error);
    }
}

fn size(private: &Private) -> usize {
    let env: usize = private.env.iter().map(|(k, v)| k.len() + v.len()).sum();
    let texts = [&private.cwd, &private.user];
    env + texts.iter().filter_map(|t| t.as_ref()).map(String::len).sum::<usize>()
        + private.stdin.as_ref().map_or(0, Bytes::len)
}

/// What an unknown field may have been meant as.
fn suggestion(written: &str) -> Option<String> {
    if written.contains("//") || written.contains("/*") {
        return Some("a comment begins with #".into());
    }
    if written.contains(':') {
        return Some("leave a space behind the colon".into());
    }
    near_miss(written, FIELDS).map(|name| format!("did you mean {name}?"))
}

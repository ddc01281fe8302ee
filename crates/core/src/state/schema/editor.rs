//! The JSON Schema of a whole states file, from the modules that there are: what editors check and complete with.
//!
//! It is wider than the compiler: wherever a number or a choice is wanted, a template may stand, and what names mean is not asked.
//! Modules that it does not know may be extensions of the file itself. It is narrower in one: what a state gets by another's
//! `use_in` has to stand in it as well.

use serde_json::{Map, Value, json};

use super::MARK;
use crate::state::catalog::RequisiteKind;
use crate::state::site::{MAX_ATTEMPTS, ModuleTable, NOT_VARIABLES};
use crate::state::template::RESERVED;

/// Deepest nesting of a module's schema that is followed.
const MAX_DEPTH: usize = 64;

/// Where a template begins.
const TEMPLATE: &str = "\\{[{%#]";

/// The schema (2020-12) of a states file with these modules.
pub fn site_schema(modules: &dyn ModuleTable) -> Value {
    let mut defs = shared();
    let mut properties = options();
    let words: Vec<String> = properties.keys().cloned().collect();
    let names = modules.names();
    let mut needed = Map::new();
    for name in &names {
        let Some(module) = modules.module(name) else { continue };
        let mut params = module.params;
        let inner = params.as_object_mut().and_then(|params| {
            params.remove("$schema");
            params.remove("$defs")
        });
        for (key, mut def) in inner.as_ref().and_then(Value::as_object).cloned().unwrap_or_default() {
            widen(&mut def, name, MAX_DEPTH);
            defs.insert(format!("{name}.{key}"), def);
        }
        widen(&mut params, name, MAX_DEPTH);
        // What is needed may come from another state by `use`.
        let required = params.get_mut("required").and_then(Value::as_array_mut).map(std::mem::take);
        let mut required = required.unwrap_or_default();
        // What identifies a state is its id, if nothing else is said.
        required.retain(|parameter| parameter.as_str() != module.identity.as_deref());
        if !required.is_empty() {
            needed.insert(name.clone(), json!({"type": "object", "required": required}));
        }
        if let Some(params) = params.as_object_mut().filter(|params| params.contains_key("type")) {
            params.insert("type".into(), json!(["object", "null"]));
        }
        properties.insert(name.clone(), params);
    }
    let known: Vec<&String> = words.iter().chain(&names).collect();
    let mut modules: Vec<Value> = names.iter().map(|name| json!({"required": [name]})).collect();
    modules.push(json!({"not": {"propertyNames": {"enum": known}}}));
    let state = json!({
        "type": "object",
        "description": "One module with its parameters; all else is a requisite, a guard or an option.",
        "properties": properties,
        "additionalProperties": {"type": ["object", "null"], "description": "The parameters of an extension module."},
        "oneOf": modules,
        "anyOf": [{"required": ["use"]}, {"properties": needed}],
    });
    defs.insert("state".into(), state);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Mainstay states file",
        "type": ["object", "null"],
        "properties": top(&known),
        "additionalProperties": false,
        "$defs": defs,
    })
}

/// What several parts of the file refer to.
fn shared() -> Map<String, Value> {
    let variables: Vec<&str> = RESERVED.into_iter().chain(NOT_VARIABLES).collect();
    let texts = |one: Value| json!({"anyOf": [one, {"type": "array", "minItems": 1, "items": one}]});
    let path = json!({"anyOf": [{"type": "string", "pattern": "^/"}, reference("template")]});
    let shared = json!({
        "template": {"type": "string", "pattern": TEMPLATE, "description": "A template, rendered before the value is checked."},
        "expression": {"type": ["string", "boolean"], "pattern": "\\S", "not": reference("template")},
        "targets": targets(),
        "texts": texts(words()),
        "paths": texts(path),
        "time": {"anyOf": [
            {"type": "number", "minimum": 0},
            {"type": "string", "pattern": "^\\s*([0-9]+(ms|s|m|h|d))+\\s*$"},
            reference("template"),
        ], "description": "A number of seconds, or a text like 30s or 1h30m."},
        "vars": {"type": ["object", "null"], "propertyNames": {"not": {"enum": variables}}},
    });
    shared.as_object().cloned().unwrap_or_default()
}

fn text() -> Value {
    json!({"type": "string"})
}

/// A text with something in it.
fn words() -> Value {
    json!({"type": "string", "pattern": "\\S"})
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/$defs/{name}")})
}

fn described(name: &str, description: &str) -> Value {
    json!({"allOf": [reference(name)], "description": description})
}

fn targets() -> Value {
    // A name may be written as a number is.
    let name = json!({"type": ["string", "number", "boolean"]});
    let one = json!({"anyOf": [name, {
        "type": "object", "minProperties": 1,
        "description": "A module and what identifies its state, or `include` and a file.",
        "additionalProperties": name,
    }]});
    json!({"anyOf": [one, {"type": "array", "items": one}]})
}

fn top(taken: &[&String]) -> Value {
    let include = json!({"anyOf": [text(), {
        "type": "object",
        "properties": {
            "file": text(),
            "vars": reference("vars"),
            "as": {"type": "string", "description": "The prefix of its states' ids."},
        },
        "required": ["file"],
        "additionalProperties": false,
    }]});
    let secret = json!({"anyOf": [{"type": ["string", "number", "boolean"]}, {
        "type": "object", "properties": {"env": text()}, "required": ["env"], "additionalProperties": false,
    }, {
        "type": "object", "properties": {"file": text()}, "required": ["file"], "additionalProperties": false,
    }]});
    let target = json!({
        "type": "object",
        "properties": {"states": reference("targets"), "vars": reference("vars")},
        "additionalProperties": false,
    });
    let is_target = json!({"type": "object", "anyOf": [{"required": ["states"]}, {"required": ["vars"]}]});
    let named = json!({"allOf": [reference("targets")], "not": is_target});
    let target = json!({"anyOf": [{"type": "null"}, named, target]});
    json!({
        "name": {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,100}$",
            "description": "Names the catalog across runs; the file's name unless given."},
        "order": {"enum": ["ansible", "justdoit", "genius"], "description": "How states are put in order where requisites leave a choice."},
        "failhard": {"type": "boolean", "description": "After a failure no new state starts, except what `onfail` calls for."},
        "vars": described("vars", "Variables of this file."),
        "secrets": {"type": ["object", "null"], "description": "Values that are never shown.", "additionalProperties": secret},
        "include": {"anyOf": [{"type": "null"}, include, {"type": "array", "items": include}]},
        "states": {"type": ["object", "null"], "additionalProperties": reference("state"), "propertyNames": id()},
        "groups": {"type": ["object", "null"], "description": "Names for several states.", "additionalProperties": reference("targets")},
        "targets": {
            "type": ["object", "null"],
            "description": "Which machines get which states; without it every machine gets all.",
            "additionalProperties": target,
        },
        "extensions": {"type": ["object", "null"], "propertyNames": {"not": {"enum": taken}}, "additionalProperties": {
            "type": "object",
            "properties": {
                "path": text(),
                "url": {"type": "string", "pattern": "^https?://"},
                "sha256": {"type": "string", "pattern": "^[0-9a-fA-F]{64}$"},
                "minisign": {"type": "string", "description": "The public key."},
            },
            "required": ["sha256"],
            "oneOf": [{"required": ["path"]}, {"required": ["url"]}],
            "additionalProperties": false,
        }},
    })
}

/// What an id cannot be, whatever it is made of.
fn id() -> Value {
    // Within, a space may stand; a control character may not.
    let inner = "*?\\[\\x00-\\x1f\\x7f-\\x9f";
    let pattern = format!("^[^\\s{inner}]([^{inner}]*[^\\s{inner}])?$");
    let plain = json!({"pattern": pattern, "maxLength": 250, "not": {"pattern": "^include:"}});
    json!({"anyOf": [plain, reference("template")]})
}

/// What a state can have besides its module.
fn options() -> Map<String, Value> {
    let mut options = Map::new();
    let mut kinds: Vec<&str> = RequisiteKind::ALL.iter().map(|kind| kind.word()).collect();
    kinds.extend(["onfail_any", "use"]);
    for kind in kinds {
        options.insert(kind.into(), reference("targets"));
        options.insert(format!("{kind}_in"), reference("targets"));
    }
    let or_template = |one: Value| json!({"anyOf": [one, reference("template")]});
    let boolean = |description: &str| json!({"anyOf": [{"type": "boolean"}, reference("template")], "description": description});
    let all = json!({
        "for_each": {"type": ["array", "object", "string"], "pattern": "\\S",
            "description": "A list, a map or an expression: makes a state for each item; `item` names it."},
        "when": described("expression", "An expression over variables and facts: skipped unless it is true."),
        "unless": described("texts", "Skipped when every command exits 0."),
        "onlyif": described("texts", "Skipped unless every command exits 0."),
        "creates": described("paths", "Skipped when every path exists."),
        "check_cmd": {"allOf": [words()], "description": "Decides after a change between changed and failed."},
        "order": {"anyOf": [{"type": "integer"}, {"enum": ["first", "last"]}, reference("template")], "description": "Breaks ties only."},
        "become": {"allOf": [words()], "description": "The user as whom the state is analysed and applied."},
        "failhard": boolean("After a failure of this state no new one starts."),
        "parallel": boolean("Overrides the order mode for this state."),
        "sensitive": boolean("Nothing of it is shown."),
        "retry": {
            "type": "object",
            "properties": {
                "attempts": or_template(json!({"type": "integer", "minimum": 1, "maximum": MAX_ATTEMPTS})),
                "interval": reference("time"),
                "splay": reference("time"),
                "until": described("expression", "An expression over the attempt's outputs."),
            },
            "required": ["attempts"],
            "additionalProperties": false,
        },
    });
    options.extend(all.as_object().cloned().unwrap_or_default());
    options
}

/// Lets a template stand for every value but texts and the parameters as a whole, and moves references to where their
/// definitions are now. Of several choices more than one may hold, as the compiler takes them and as a template in each makes them;
/// and a format is one of ours, whatever a standard calls by its name.
fn widen(schema: &mut Value, module: &str, depth: usize) {
    let (Some(depth), Value::Object(map)) = (depth.checked_sub(1), &mut *schema) else { return };
    map.remove(MARK);
    map.remove("format");
    if let Some(choices) = map.remove("oneOf") {
        match map.get("anyOf").is_some() {
            false => drop(map.insert("anyOf".into(), choices)),
            true => {
                let all = map.entry("allOf").or_insert_with(|| json!([]));
                all.as_array_mut().into_iter().for_each(|all| all.push(json!({"anyOf": choices})));
            }
        }
    }
    if let Some(Value::String(path)) = map.get_mut("$ref")
        && let Some(name) = path.strip_prefix("#/$defs/")
    {
        *path = format!("#/$defs/{module}.{name}");
    }
    for word in ["properties", "patternProperties"] {
        for inner in map.get_mut(word).and_then(Value::as_object_mut).into_iter().flatten().map(|(_, v)| v) {
            or_template(inner, module, depth);
        }
    }
    for word in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(word) {
            or_template(inner, module, depth);
        }
    }
    for word in ["anyOf", "allOf", "prefixItems"] {
        for inner in map.get_mut(word).and_then(Value::as_array_mut).into_iter().flatten() {
            widen(inner, module, depth);
        }
    }
}

fn or_template(schema: &mut Value, module: &str, depth: usize) {
    widen(schema, module, depth);
    let Value::Object(map) = &*schema else { return };
    let is_text = map.get("type").and_then(Value::as_str) == Some("string");
    let is_free = ["enum", "const", "pattern", "maxLength"].iter().all(|word| !map.contains_key(*word));
    if (is_text && is_free) || map.is_empty() {
        return;
    }
    let mut wide = Map::new();
    for word in ["description", "default", "title"] {
        wide.extend(map.get(word).map(|value| (word.to_owned(), value.clone())));
    }
    wide.insert("anyOf".into(), json!([schema.clone(), reference("template")]));
    *schema = Value::Object(wide);
}

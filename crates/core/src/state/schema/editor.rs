//! The JSON Schema of a whole states file, from the modules that there are: what editors check and complete with.
//!
//! It is wider than the compiler: wherever a module wants a number or a choice, a template may stand. Modules that it does not
//! know may be extensions of the file itself.

use serde_json::{Map, Value, json};

use super::MARK;
use crate::state::catalog::RequisiteKind;
use crate::state::site::ModuleTable;

/// Deepest nesting of a module's schema that is followed.
const MAX_DEPTH: usize = 64;

/// The schema (2020-12) of a states file with these modules.
pub fn site_schema(modules: &dyn ModuleTable) -> Value {
    let mut defs = Map::new();
    defs.insert("template".into(), template());
    defs.insert("targets".into(), targets());
    defs.insert("texts".into(), json!({"anyOf": [text(), {"type": "array", "items": text()}]}));
    defs.insert(
        "time".into(),
        json!({"anyOf": [{"type": "number", "minimum": 0}, text()], "description":
        "A number of seconds, or a text like 30s or 1h30m."}),
    );
    let mut properties = options();
    for name in modules.names() {
        let Some(module) = modules.module(&name) else { continue };
        let mut params = module.params;
        let inner = params.as_object_mut().and_then(|params| {
            params.remove("$schema");
            params.remove("$defs")
        });
        for (key, mut def) in inner.as_ref().and_then(Value::as_object).cloned().unwrap_or_default() {
            widen(&mut def, &name, MAX_DEPTH);
            defs.insert(format!("{name}.{key}"), def);
        }
        widen(&mut params, &name, MAX_DEPTH);
        // What identifies a state is its id, if nothing else is said.
        if let (Some(identity), Some(Value::Array(required))) = (&module.identity, params.get_mut("required"))
        {
            required.retain(|name| name != identity);
        }
        properties.insert(name, params);
    }
    let state = json!({
        "type": "object",
        "description": "One module with its parameters; all else is a requisite, a guard or an option.",
        "properties": properties,
        "additionalProperties": {"type": ["object", "null"], "description": "The parameters of an extension module."},
    });
    defs.insert("state".into(), state);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Mainstay states file",
        "type": "object",
        "properties": top(),
        "additionalProperties": false,
        "$defs": defs,
    })
}

fn text() -> Value {
    json!({"type": "string"})
}

fn template() -> Value {
    json!({"type": "string", "pattern": "\\{[{%]", "description": "A template, rendered before the value is checked."})
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/$defs/{name}")})
}

fn targets() -> Value {
    let one = json!({"anyOf": [text(), {
        "type": "object", "minProperties": 1, "maxProperties": 1,
        "description": "A module and what identifies its state, or `include` and a file.",
        "additionalProperties": text(),
    }]});
    json!({"anyOf": [one, {"type": "array", "items": one}]})
}

fn top() -> Value {
    let include = json!({"anyOf": [text(), {
        "type": "object",
        "properties": {
            "file": text(),
            "vars": {"type": "object"},
            "as": {"type": "string", "description": "The prefix of its states' ids."},
        },
        "required": ["file"],
        "additionalProperties": false,
    }]});
    let secret = json!({"anyOf": [text(), {"type": ["number", "boolean"]}, {
        "type": "object", "properties": {"env": text()}, "required": ["env"], "additionalProperties": false,
    }, {
        "type": "object", "properties": {"file": text()}, "required": ["file"], "additionalProperties": false,
    }]});
    json!({
        "name": {"type": "string", "description": "Names the catalog across runs; the file's name unless given."},
        "order": {"enum": ["ansible", "justdoit", "genius"], "description": "How states are put in order where requisites leave a choice."},
        "failhard": {"type": "boolean", "description": "After a failure no new state starts, except what `onfail` calls for."},
        "vars": {"type": "object", "description": "Variables of this file."},
        "secrets": {"type": "object", "description": "Values that are never shown.", "additionalProperties": secret},
        "include": {"anyOf": [include, {"type": "array", "items": include}]},
        "states": {"type": "object", "additionalProperties": reference("state")},
        "groups": {"type": "object", "description": "Names for several states.", "additionalProperties": reference("targets")},
        "targets": {
            "type": "object",
            "description": "Which machines get which states; without it every machine gets all.",
            "additionalProperties": {"anyOf": [reference("targets"), {
                "type": "object",
                "properties": {"states": reference("targets"), "vars": {"type": "object"}},
                "additionalProperties": false,
            }]},
        },
        "extensions": {"type": "object", "additionalProperties": {
            "type": "object",
            "properties": {
                "path": text(),
                "url": text(),
                "sha256": {"type": "string", "pattern": "^[0-9a-fA-F]{64}$"},
                "minisign": {"type": "string", "description": "The public key."},
            },
            "required": ["sha256"],
            "additionalProperties": false,
        }},
    })
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
    let boolean = |description: &str| json!({"anyOf": [{"type": "boolean"}, reference("template")], "description": description});
    let all = json!({
        "for_each": {"anyOf": [{"type": ["array", "object"]}, reference("template")], "description": "Makes a state for each item; `item` names it."},
        "when": {"type": ["string", "boolean"], "description": "An expression over variables and facts: skipped unless it is true."},
        "unless": {"allOf": [reference("texts")], "description": "Skipped when every command exits 0."},
        "onlyif": {"allOf": [reference("texts")], "description": "Skipped unless every command exits 0."},
        "creates": {"allOf": [reference("texts")], "description": "Skipped when every path exists."},
        "check_cmd": {"type": "string", "description": "Decides after a change between changed and failed."},
        "order": {"anyOf": [{"type": "integer"}, {"enum": ["first", "last"]}], "description": "Breaks ties only."},
        "become": {"type": "string", "description": "The user as whom the state is analysed and applied."},
        "failhard": boolean("After a failure of this state no new one starts."),
        "parallel": boolean("Overrides the order mode for this state."),
        "sensitive": boolean("Nothing of it is shown."),
        "retry": {
            "type": "object",
            "properties": {
                "attempts": {"type": "integer", "minimum": 1},
                "interval": reference("time"),
                "splay": reference("time"),
                "until": {"type": "string", "description": "An expression over the attempt's outputs."},
            },
            "required": ["attempts"],
            "additionalProperties": false,
        },
    });
    options.extend(all.as_object().cloned().unwrap_or_default());
    options
}

/// Lets a template stand for every value but texts and the parameters as a whole, and moves references to where their
/// definitions are now.
fn widen(schema: &mut Value, module: &str, depth: usize) {
    let (Some(depth), Value::Object(map)) = (depth.checked_sub(1), &mut *schema) else { return };
    map.remove(MARK);
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
    for word in ["anyOf", "oneOf", "allOf", "prefixItems"] {
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

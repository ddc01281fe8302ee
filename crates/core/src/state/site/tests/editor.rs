//! The compiler and the schema for editors, side by side.

use super::*;
use crate::state::schema::editor::site_schema;

/// The modules of the other tests, and one with what theirs do not have.
struct More;

impl ModuleTable for More {
    fn module(&self, name: &str) -> Option<ModuleSchema> {
        if name != "probe" {
            return Table.module(name);
        }
        let way = |kind: &str, more: &str| {
            json!({"type": "object", "required": ["kind", more], "additionalProperties": false,
                "properties": {"kind": {"type": "string", "const": kind}, more: {"type": "integer", "minimum": 1}}})
        };
        let params = json!({
            "type": "object", "required": ["url"], "additionalProperties": false,
            "$defs": {"code": {"type": "integer"}},
            "properties": {
                "url": {"type": "string"},
                "codes": {"type": "array", "items": {"$ref": "#/$defs/code"}},
                "way": {"oneOf": [way("tcp", "port"), way("unix", "mode"), {"type": "null"}]},
                "wait": {"type": ["number", "string"], "format": "duration"},
            },
        });
        Some(ModuleSchema { params, identity: None, refreshes: false, outputs: None })
    }

    fn names(&self) -> Vec<String> {
        Table.names().into_iter().chain(["probe".into()]).collect()
    }

    fn formats(&self) -> Formats {
        Table.formats()
    }

    fn fetch(&self, extension: &ExtensionSource) -> Result<Fetched, String> {
        Table.fetch(extension)
    }
}

/// Whether a schema takes a value, as its standard says. A word that is not here would have to be added.
fn takes(root: &Value, schema: &Value, value: &Value) -> bool {
    let map = match schema {
        Value::Bool(all) => return *all,
        Value::Object(map) => map,
        _ => panic!("{schema} is no schema"),
    };
    let inner = |schema: &Value, value: &Value| takes(root, schema, value);
    let list = |value: &Value| value.as_array().cloned().expect("a list");
    let is_type = |name: &Value| match name.as_str().expect("the name of a type") {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is no type"),
    };
    let pattern = |pattern: &str| regex::Regex::new(pattern).expect("a pattern");
    let (count, number) = (|value: &Value| value.as_u64().expect("a count") as usize, value.as_f64());
    map.iter().all(|(word, said)| match (word.as_str(), value) {
        ("$schema" | "$defs" | "title" | "description" | "default", _) => true,
        ("$ref", _) => {
            let path = said.as_str().and_then(|path| path.strip_prefix('#')).expect("a reference");
            inner(root.pointer(path).unwrap_or_else(|| panic!("there is no {path}")), value)
        }
        ("type", _) => said.as_array().map_or_else(|| is_type(said), |names| names.iter().any(is_type)),
        ("enum", _) => list(said).contains(value),
        ("const", _) => said == value,
        ("anyOf", _) => list(said).iter().any(|schema| inner(schema, value)),
        ("allOf", _) => list(said).iter().all(|schema| inner(schema, value)),
        ("oneOf", _) => list(said).iter().filter(|schema| inner(schema, value)).count() == 1,
        ("not", _) => !inner(said, value),
        ("required", Value::Object(map)) => {
            list(said).iter().all(|name| map.contains_key(name.as_str().expect("a name")))
        }
        ("properties", Value::Object(map)) => said
            .as_object()
            .expect("a map")
            .iter()
            .all(|(k, schema)| map.get(k).is_none_or(|v| inner(schema, v))),
        ("additionalProperties", Value::Object(entries)) => {
            let own = map.get("properties").and_then(Value::as_object);
            let other = |key: &&String| own.is_none_or(|own| !own.contains_key(*key));
            entries.iter().filter(|(key, _)| other(key)).all(|(_, value)| inner(said, value))
        }
        ("propertyNames", Value::Object(map)) => map.keys().all(|key| inner(said, &json!(key))),
        ("minProperties", Value::Object(map)) => map.len() >= count(said),
        ("items", Value::Array(items)) => items.iter().all(|item| inner(said, item)),
        ("minItems", Value::Array(items)) => items.len() >= count(said),
        ("pattern", Value::String(text)) => pattern(said.as_str().expect("a pattern")).is_match(text),
        ("maxLength", Value::String(text)) => text.chars().count() <= count(said),
        ("minimum", _) => number.is_none_or(|number| number >= said.as_f64().expect("a number")),
        ("maximum", _) => number.is_none_or(|number| number <= said.as_f64().expect("a number")),
        (
            "required"
            | "properties"
            | "additionalProperties"
            | "propertyNames"
            | "minProperties"
            | "items"
            | "minItems"
            | "pattern"
            | "maxLength",
            _,
        ) => true,
        (word, _) => panic!("what does `{word}` ask?"),
    })
}

const SUM: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// What a state `s` has, and whether that is right. There are states `t`, a service, and `8080`, and variables.
const STATES: &[(bool, &str)] = &[
    (true, "{file: }"),
    (true, "{file: {}}"),
    (true, "{file: {path: /x, mode: '{{ m }}'}}"),
    (false, "{file: {path: /x, mode: '9'}}"),
    (false, "{file: {path: 5}}"),
    (false, "{file: {pth: /x}}"),
    (false, "{file: []}"),
    (false, "{file: '{{ m }}'}"),
    (true, "{user: {uid: '{{ n }}', system: '{{ on }}', groups: '{{ names }}'}}"),
    (true, "{user: {uid: '{{ facts.uid }}', groups: ['{{ n | string }}']}}"),
    (true, "{file: {path: /x, mode: '{# as it was #}{{ m }}'}}"),
    (false, "{user: {uid: x}}"),
    (false, "{user: {system: 'yes'}}"),
    (true, "{'{{ \"file\" }}': {}}"),
    // One module.
    (false, "{}"),
    (false, "{require: t}"),
    (false, "{file: {path: /x}, user: {}}"),
    (false, "{file: {path: /x}, disk: {}}"),
    (false, ""),
    (false, "[]"),
    (true, "{disk: {size: 1}}"),
    (true, "{disk: }"),
    (false, "{disk: x}"),
    (false, "{file: {path: /x}, requir: t}"),
    // What is required.
    (true, "{probe: {url: x}}"),
    (false, "{probe: {}}"),
    (false, "{probe: }"),
    (true, "{probe: , use: p}"),
    (true, "{probe: {codes: [1, '{{ n }}']}, use: [p]}"),
    (false, "{probe: {url: x, codes: [a]}}"),
    (true, "{probe: {url: x, way: {kind: '{{ tcp }}', port: 1}}}"),
    (true, "{probe: {url: x, way: {kind: unix, mode: '{{ n }}'}, wait: 1m30s}}"),
    (true, "{probe: {url: x, way: , wait: 2}}"),
    (false, "{probe: {url: x, way: {kind: unix, port: 1}}}"),
    (false, "{probe: {url: x, way: {kind: tcp, port: 0}}}"),
    // Requisites.
    (true, "{file: , require: t, watch_in: [p], onchanges_any: [{service: t}]}"),
    (true, "{file: , require: [{service: t, file: /y}], listen_in: {service: t}}"),
    (true, "{file: , require: []}"),
    (true, "{file: , require: 8080}"),
    (true, "{file: , require: [8080, {service: 8080}]}"),
    (false, "{file: , require: }"),
    (false, "{file: , require: {}}"),
    (false, "{file: , require: [[t]]}"),
    (false, "{file: , require: [{service: [t]}]}"),
    (false, "{file: , require_in_in: t}"),
    // Options.
    (true, "{file: , for_each: ports}"),
    (true, "{file: , for_each: '{{ ports }}'}"),
    (true, "{file: , for_each: [1, 2]}"),
    (true, "{file: , for_each: {a: 1}}"),
    (true, "{file: , for_each: []}"),
    (false, "{file: , for_each: }"),
    (false, "{file: , for_each: ''}"),
    (false, "{file: , for_each: 3}"),
    (true, "{file: , when: n == 3}"),
    (true, "{file: , when: false}"),
    (false, "{file: , when: '{{ on }}'}"),
    (false, "{file: , when: ''}"),
    (false, "{file: , when: 1}"),
    (true, "{file: , unless: 'true', onlyif: ['true', '{{ m }}'], creates: ['/x', '{{ m }}/y']}"),
    (false, "{file: , unless: []}"),
    (false, "{file: , unless: ''}"),
    (false, "{file: , unless: ['true', ' ']}"),
    (false, "{file: , unless: true}"),
    (false, "{file: , onlyif: }"),
    (false, "{file: , onlyif: {a: b}}"),
    (false, "{file: , creates: []}"),
    (false, "{file: , creates: x}"),
    (false, "{file: , creates: [/x, y]}"),
    (true, "{file: , check_cmd: 'true', become: '{{ m }}'}"),
    (false, "{file: , check_cmd: ['true']}"),
    (false, "{file: , check_cmd: ''}"),
    (false, "{file: , become: ' '}"),
    (false, "{file: , become: 1000}"),
    (true, "{file: , order: '{{ n }}', failhard: '{{ on }}', parallel: '{{ on }}', sensitive: '{{ on }}'}"),
    (true, "{file: , order: -3, failhard: true}"),
    (true, "{file: , order: last}"),
    (false, "{file: , order: middle}"),
    (false, "{file: , order: 1.5}"),
    (false, "{file: , failhard: 'on'}"),
    (false, "{file: , parallel: }"),
    (true, "{cmd: , retry: {attempts: '{{ 3 }}', interval: '{{ n }}', splay: '{{ n }}s', until: true}}"),
    (true, "{cmd: , retry: {attempts: 1000, interval: 0.5, splay: 1m30s, until: exit_code == 0}}"),
    (false, "{cmd: , retry: {attempts: 0}}"),
    (false, "{cmd: , retry: {attempts: 1001}}"),
    (false, "{cmd: , retry: {attempts: many}}"),
    (false, "{cmd: , retry: {interval: 1}}"),
    (false, "{cmd: , retry: {attempts: 2, interval: soon}}"),
    (false, "{cmd: , retry: {attempts: 2, interval: -1}}"),
    (false, "{cmd: , retry: {attempts: 2, until: '{{ on }}'}}"),
    (false, "{cmd: , retry: {attempts: 2, until: 0}}"),
    (false, "{cmd: , retry: {attempts: 2, times: 3}}"),
    (false, "{cmd: , retry: 3}"),
    (false, "{cmd: , retry: }"),
];

/// A file, but for its states.
const FILES: &[(bool, &str)] = &[
    (true, ""),
    (true, "states:"),
    (true, "vars:\nsecrets:\ninclude:\ngroups:\ntargets:\nextensions:\nstates:\n"),
    (false, "[]"),
    (false, "stats: {}"),
    (false, "states: []"),
    (true, "name: web-1.x_"),
    (false, "name: web 1"),
    (false, "name: ''"),
    (false, "name: 5"),
    (true, "order: genius\nfailhard: true"),
    (false, "order: fast"),
    (false, "order:"),
    (false, "failhard: 'true'"),
    (true, "vars: {a: 1, b: [x], c: , d: {e: '{{ a }}'}}"),
    (false, "vars: [a]"),
    (false, "vars: {facts: 1}"),
    (false, "vars: {item: 1}"),
    (false, "vars: {'': 1}"),
    (true, "secrets: {a: x, b: 1, c: true, d: {env: TOKEN}, e: {file: key}}"),
    (false, "secrets: {a: }"),
    (false, "secrets: {a: [x]}"),
    (false, "secrets: {a: {env: TOKEN, file: key}}"),
    (false, "secrets: {a: {env: 5}}"),
    (false, "secrets: {a: {}}"),
    (true, "include: in.yaml"),
    (true, "include: [in.yaml, {file: in.yaml, vars: , as: a}, {file: in.yaml, vars: {x: 1}}]"),
    (true, "include: {file: in.yaml}"),
    (true, "include: []"),
    (false, "include: [~]"),
    (false, "include: {file: in.yaml, vars: [x]}"),
    (false, "include: {file: in.yaml, vars: {secrets: x}}"),
    (false, "include: {file: in.yaml, as: }"),
    (false, "include: {vars: {x: 1}}"),
    (false, "include: {file: in.yaml, with: {}}"),
    (true, "groups: {g: [s], h: s, i: [], j: {file: /s}}\nstates: {s: {file: {path: /s}}}"),
    (false, "groups: {g: }"),
    (false, "groups: [s]"),
    (true, "targets: {a: s, b: [s], c: {file: /s}, d: , e: []}\nstates: {s: {file: {path: /s}}}"),
    (true, "targets: {a: {states: s}, b: {states: [s], vars: {x: 1}}, c: {vars: }}\nstates: {s: {file: }}"),
    (false, "targets: {a: {states: }}"),
    (false, "targets: {a: {states: s, file: s}}\nstates: {s: {file: }}"),
    (false, "targets: {a: {vars: [x]}}"),
    (false, "targets: {all: {vars: {states: x}}}"),
    (false, "targets: [s]"),
    (
        true,
        "extensions: {disk: {path: d, sha256: SUM}, e: {url: 'https://example.org/e', sha256: SUM, minisign: K}}",
    ),
    (false, "extensions: {disk: {path: d}}"),
    (false, "extensions: {disk: {sha256: SUM}}"),
    (false, "extensions: {disk: {path: d, url: 'https://example.org/e', sha256: SUM}}"),
    (false, "extensions: {disk: {url: 'ftp://example.org/e', sha256: SUM}}"),
    (false, "extensions: {disk: {path: d, sha256: abc}}"),
    (false, "extensions: {disk: {path: d, sha256: SUM, minisign: }}"),
    (false, "extensions: {disk: d}"),
    (false, "extensions: {file: {path: d, sha256: SUM}}"),
    (false, "extensions: {require_in: {path: d, sha256: SUM}}"),
    (true, "vars: {n: 3}\nstates: {'s-{{ n }}': {file: }, /etc/a b: {file: }}"),
    (false, "states: {'s*': {file: }}"),
    (false, "states: {' s': {file: }}"),
    (false, "states: {'include:s': {file: }}"),
    (false, "states: {'': {file: }}"),
];

#[test]
fn the_schema_for_editors_says_what_the_compiler_says() {
    let schema = site_schema(&More);
    let state = |(good, text): &(bool, &str)| {
        let file = format!(
            "vars: {{n: 3, on: true, ports: [80, 81], names: [a], tcp: tcp, m: '0644'}}\nextensions: {{disk: {{path: d, sha256: SUM}}}}\n\
             states:\n  s: {text}\n  t: {{service: }}\n  '8080': {{service: }}\n  y: {{file: {{path: /y}}}}\n  p: {{probe: {{url: x}}}}\n"
        );
        (*good, file)
    };
    let file = |(good, text): &(bool, &str)| (*good, (*text).to_owned());
    let (labels, facts, vars) = (BTreeMap::new(), facts("debian"), Values::new());
    let machine = Machine { name: "web1", labels: &labels, facts: &facts, vars: &vars };
    let mut wrong = Vec::new();
    for (good, text) in STATES.iter().map(state).chain(FILES.iter().map(file)) {
        let text = text.replace("SUM", SUM);
        let disk = Disk::of(&[("site.yaml", &text), ("in.yaml", "states: {i: {file: }}"), ("key", "x")]);
        let compiled = compile(&input(), &disk, &More).and_then(|site| site.catalog(&machine).map(drop));
        let value: Value = serde_saphyr::from_str(&text).unwrap();
        let taken = takes(&schema, &schema, &value);
        if (compiled.is_ok(), taken) != (good, good) {
            let said = compiled.map_or_else(|errors| errors.to_string(), |()| "it is right".into());
            wrong.push(format!("{text}\n  the compiler: {said}\n  the schema takes it: {taken}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

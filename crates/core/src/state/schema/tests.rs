//! What is said of parameters that do not fit, in schemas as `schemars` writes them.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Params",
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "Where it is. An absolute path.", "minLength": 1},
            "mode": {"type": ["string", "null"], "pattern": "^[0-7]{3,4}$", "description": "Permission bits in octal, as 0644."},
            "state": {"oneOf": [
                {"type": "string", "const": "present", "description": "x"},
                {"type": "string", "const": "absent"}
            ]},
            "kind": {"anyOf": [{"type": "string", "enum": ["file", "directory"]}, {"type": "null"}]},
            "port": {"type": "integer", "format": "uint16", "minimum": 0, "maximum": 65535},
            "size": {"type": ["integer", "null"], "format": "uint8"},
            "share": {"type": "number", "exclusiveMaximum": 1},
            "force": {"type": "boolean", "default": false},
            "args": {"type": "array", "items": {"type": "string"}, "minItems": 1},
            "env": {"type": "object", "additionalProperties": {"type": "string"}},
            "source": {"type": ["string", "null"], "x-mainstay": "blob"},
            "tree": {"type": "string", "x-mainstay": "tree"},
            "run": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
            "from": {"oneOf": [
                {"type": "object", "properties": {"type": {"const": "url"}, "url": {"type": "string"}}, "required": ["type", "url"], "additionalProperties": false},
                {"type": "object", "properties": {"type": {"const": "file"}, "file": {"type": "string", "x-mainstay": "blob"}}, "required": ["type", "file"], "additionalProperties": false}
            ]},
            "either": {"oneOf": [
                {"type": "object", "properties": {"one": {"type": "integer"}}, "required": ["one"], "additionalProperties": false},
                {"type": "object", "properties": {"two": {"type": "string"}}, "required": ["two"], "additionalProperties": false}
            ]},
            "version": {"anyOf": [{"const": "latest"}, {"type": "boolean"}]},
            "next": {"$ref": "#/$defs/Next"}
        },
        "required": ["path"],
        "additionalProperties": false,
        "$defs": {"Next": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Next"}, "n": {"type": "integer"}}, "additionalProperties": false}}
    })
}

fn said(params: Value) -> Vec<String> {
    Checker::default().check_values("file", &schema(), params.as_object().unwrap())
}

#[test]
fn what_fits_is_taken() {
    for params in [
        json!({"path": "/x"}),
        json!({"path": "/x", "mode": null, "state": "absent", "kind": null, "port": 65535, "size": 255, "share": 0.5}),
        json!({"path": "/x", "force": true, "args": ["a"], "env": {"A": "b"}, "run": "x", "source": "a", "kind": "file"}),
        json!({"path": "/x", "run": ["x"], "from": {"type": "file", "file": "a"}, "either": {"two": "a"}, "version": "latest"}),
        json!({"path": "/x", "next": {"next": {"next": {"n": 1}}}, "version": false, "share": -3}),
    ] {
        assert_eq!(said(params.clone()), Vec::<String>::new(), "{params}");
    }
}

#[test]
fn what_does_not_fit_is_told_in_words() {
    let with = |name: &str, value: Value| {
        let mut params = json!({"path": "/x"});
        params[name] = value;
        said(params)
    };
    for (name, value, expected) in [
        ("pth", json!("/x"), "`file` has no parameter `pth` (did you mean path?)"),
        (
            "wrong",
            json!(1),
            "`file` has no parameter `wrong` (there are args, either, env, force, from, kind, mode, next, path, port, run, share and 5 more)",
        ),
        (
            "path",
            json!(7),
            "`path` must be a text, not a number (a template alone keeps its type: add | string to it)",
        ),
        ("path", json!(""), "`path` is empty"),
        ("path", Value::Null, "`path` must be a text, not nothing (give it a value, or leave the line out)"),
        ("mode", json!("rw"), "`mode` cannot be `rw` (Permission bits in octal, as 0644)"),
        (
            "mode",
            json!([1]),
            "`mode` must be a text, not a list (a template alone keeps its type: add | tojson to it, or name a part of it)",
        ),
        ("state", json!("presnt"), "`state` must be present or absent, not `presnt` (did you mean present?)"),
        ("state", json!(3), "`state` must be present or absent, not a number"),
        ("kind", json!("link"), "`kind` must be file or directory, not `link`"),
        ("kind", json!({}), "`kind` must be file or directory, not a map"),
        ("port", json!(65536), "`port` must be 0 to 65535"),
        ("port", json!(-1), "`port` must be 0 to 65535"),
        ("port", json!(1.5), "`port` must be a whole number, not a fraction"),
        ("port", json!("80"), "`port` must be a whole number, not a text (leave the quotes out)"),
        ("port", json!("http"), "`port` must be a whole number, not a text"),
        ("size", json!(256), "`size` must be 0 to 255"),
        ("share", json!(1), "`share` must be within the bounds of its kind"),
        ("force", json!("yes"), "`force` must be true or false, not a text (write force: true)"),
        ("force", json!(0), "`force` must be true or false, not a number"),
        ("args", json!("a"), "`args` must be a list, not a text (write args: [a])"),
        ("args", json!([]), "`args` is an empty list"),
        (
            "args",
            json!(["a", 1]),
            "`args[1]` must be a text, not a number (a template alone keeps its type: add | string to it)",
        ),
        (
            "env",
            json!({"A": 1}),
            "`env.A` must be a text, not a number (a template alone keeps its type: add | string to it)",
        ),
        ("env", json!(["A=1"]), "`env` must be a map, not a list"),
        ("source", json!(1), "`source` must be a text that names a file, not a number"),
        ("tree", json!(true), "`tree` must be a text that names a folder, not true or false"),
        ("run", json!({}), "`run` must be a list or a text, not a map"),
        (
            "run",
            json!([1]),
            "`run[0]` must be a text, not a number (a template alone keeps its type: add | string to it)",
        ),
        ("from", json!({"type": "url", "file": "x"}), "`from.url` is missing"),
        (
            "from",
            json!({"type": "file", "file": 1}),
            "`from.file` must be a text that names a file, not a number",
        ),
        ("either", json!({"one": "x"}), "`either.one` must be a whole number, not a text"),
        ("either", json!("x"), "`either` must be a map, not a text"),
        ("version", json!("x"), "`version` must be latest, not `x`"),
        ("next", json!({"next": {"n": "x"}}), "`next.next.n` must be a whole number, not a text"),
        ("next", json!({"nxt": {}}), "`next` has no `nxt` (did you mean next?)"),
    ] {
        let said = with(name, value.clone());
        assert!(said.iter().any(|words| words == expected), "{name}: {value}: {said:#?}");
    }
    assert_eq!(said(json!({})), ["`path` is missing (Where it is)"]);
    assert_eq!(said(json!({"mod": "x", "port": "x"})).len(), 3, "all at once");
}

#[test]
fn formats_are_asked_of_texts_alone() {
    let formats: Formats = |name| match name {
        "path" => Some(|text| if text.starts_with('/') { Ok(()) } else { Err("it is not absolute".into()) }),
        _ => None,
    };
    let schema = json!({"type": "object", "properties": {
        "path": {"type": ["string", "null"], "format": "path"},
        "paths": {"type": "array", "items": {"type": "string", "format": "path"}},
        "time": {"type": ["string", "number"], "format": "duration", "minimum": 0},
        "other": {"type": "string", "format": "unheard-of"},
    }});
    let checker = Checker::new(formats);
    let said = |params: Value| checker.check_values("m", &schema, params.as_object().unwrap());
    assert_eq!(said(json!({"path": "/x", "paths": ["/y"], "time": 0.5, "other": "x"})), Vec::<String>::new());
    assert_eq!(said(json!({"path": null, "time": "30s"})), Vec::<String>::new());
    assert_eq!(
        said(json!({"path": "x", "paths": ["/y", ""], "time": -1})),
        ["`path` cannot be `x`: it is not absolute", "`paths[1]` is empty", "`time` must be at least 0"]
    );
    assert_eq!(
        said(json!({"time": true})),
        ["`time` must be a number of seconds or a text like 30s, not true or false"]
    );
}

#[test]
fn what_waits_for_the_machine_passes() {
    let at = Place::default();
    let entry = |name: &str, value| Entry { name: name.into(), at, param: Param { value, at, raw: None } };
    let later = || ParamValue::Later("{{ facts.x }}".into());
    let entries = vec![
        entry("path", later()),
        entry("port", later()),
        entry("state", later()),
        entry("args", ParamValue::List(vec![Param { value: later(), at, raw: None }])),
        entry("from", later()),
        entry("force", ParamValue::Wrong),
    ];
    let params = Param { value: ParamValue::Map(entries), at, raw: None };
    assert_eq!(Checker::default().check("file", &schema(), &params), []);
}

#[test]
fn numbers_keep_how_they_were_written() {
    let at = Place { file: 0, line: 3, column: 9 };
    let raw = |value, raw: &str| Param { value, at, raw: Some(raw.into()) };
    let check = |name: &str, param: Param| {
        let path = Entry { name: "path".into(), at, param: Param::of(&json!("/x"), at) };
        let entries = vec![path, Entry { name: name.into(), at, param }];
        let params = Param { value: ParamValue::Map(entries), at, raw: None };
        let problems = Checker::default().check("file", &schema(), &params);
        assert!(problems.iter().all(|problem| problem.at == at));
        problems.into_iter().map(|problem| problem.hint).collect::<Vec<_>>()
    };
    assert_eq!(check("mode", raw(ParamValue::Float(644.0), "0644")), [Some("write mode: \"0644\"".into())]);
    assert_eq!(check("mode", raw(ParamValue::Bool(true), "true")), [Some("write mode: \"true\"".into())]);
    assert_eq!(
        check("port", raw(ParamValue::Float(80.0), "080")),
        [Some("leave the leading zero out".into())]
    );
}

#[test]
fn marks_are_found_through_choices_and_lists() {
    let schema = json!({"type": "object", "properties": {
        "a": {"anyOf": [{"type": "string", "x-mainstay": "blob"}, {"type": "null"}]},
        "b": {"type": "array", "items": {"type": "string", "x-mainstay": "template"}},
        "c": {"type": "object", "additionalProperties": {"$ref": "#/$defs/T"}},
        "d": {"oneOf": [{"type": "object", "properties": {"file": {"type": "string", "x-mainstay": "blob"}}}]},
        "e": {"type": "string"},
        "f": {"type": ["string", "null"], "x-mainstay": "blob"},
    }, "$defs": {"T": {"type": "string", "x-mainstay": "tree"}}});
    let params = json!({"a": "1", "b": ["2", "3"], "c": {"x": "4"}, "d": {"file": "5"}, "e": "6", "f": null});
    let mut params = Param::of(&params, Place::default());
    let mut found = Vec::new();
    marked(&schema, &mut params, &mut |mark, param| {
        found.push((mark, param.as_text().unwrap().to_owned()));
        param.value = ParamValue::File(json!({"$blob": "x"}));
    });
    let expected = [
        (Mark::Blob, "1"),
        (Mark::Template, "2"),
        (Mark::Template, "3"),
        (Mark::Tree, "4"),
        (Mark::Blob, "5"),
    ];
    assert_eq!(found, expected.map(|(mark, name)| (mark, name.to_owned())));
    assert_eq!(params.to_json()["a"], json!({"$blob": "x"}));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec!["string", "object", "#/$defs/a", "array", "[", "", "é"])
            .prop_map(Value::from),
    ];
    let key = prop::sample::select(vec![
        "type",
        "properties",
        "items",
        "anyOf",
        "oneOf",
        "allOf",
        "$ref",
        "$defs",
        "required",
        "enum",
        "const",
        "pattern",
        "additionalProperties",
        "minimum",
        "maximum",
        "a",
        "x-mainstay",
        "format",
        "prefixItems",
    ]);
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone().prop_map(str::to_owned), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// An extension says its own schema: whatever it is, it is only a schema.
    #[test]
    fn no_schema_panics(schema in any_json(), params in any_json()) {
        let mut param = Param::of(&params, Place::default());
        for problem in Checker::default().check("m", &schema, &param) {
            prop_assert!(!problem.message.contains(|c: char| c.is_control()));
        }
        marked(&schema, &mut param, &mut |_, param| param.value = ParamValue::File(json!(1)));
    }
}

#[test]
fn a_schema_that_refers_to_itself_ends() {
    let schema = json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}});
    assert_eq!(Checker::default().check_values("m", &schema, &Default::default()), Vec::<String>::new());
    let schema = json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}], "additionalProperties": false});
    marked(&schema, &mut Param::of(&json!({}), Place::default()), &mut |_, _| {});
    assert_eq!(Checker::default().check_values("m", &schema, &Default::default()), Vec::<String>::new());
}

//! Parameters, guards and options: what is rendered when, and what the catalog carries.

use std::time::Duration;

use super::*;
use crate::state::catalog::{BlobId, Guards, Options, Rank, Retry};

fn params(catalog: &Catalog, id: &str) -> Value {
    Value::Object(state(catalog, id).params.clone())
}

#[test]
fn what_reads_variables_alone_is_rendered_and_the_rest_waits() {
    let catalog = site(
        "vars: {a: x, n: 7, braces: '{{ facts.os }}{{ b }}', b: '{% raw %}{{ y }}{% endraw %}', list: ['{% raw %}{{ z }}{% endraw %}']}\n\
         states:\n  s:\n    cmd:\n      run: ['{{ a }}', '{{ a }} {{ facts.os }}', \"{{ secrets.t }}\", '{{ b }}', '{{ list[0] }}!']\n      env: {'{{ a }}1': '{{ a }}', B: '{{ a }}{{ states.v.stdout }}'}\n  v: {cmd: {run: v}}\nsecrets: {t: canary}\n"
            .replace(", braces: '{{ facts.os }}{{ b }}'", "")
            .as_str(),
    );
    assert_eq!(
        params(&catalog, "s"),
        json!({
            // What looks like a template when it is rendered stays as it was written: the machine renders it once.
            "run": ["x", "{{ a }} {{ facts.os }}", "{{ secrets.t }}", "{{ b }}", "{{ list[0] }}!"],
            "env": {"x1": "x", "B": "{{ a }}{{ states.v.stdout }}"},
        })
    );
    assert_eq!(catalog.secrets, values(json!({"t": "canary"})));
}

#[test]
fn only_the_secrets_that_are_read_travel() {
    let files = |run: &str| {
        let text = format!(
            "secrets: {{a: 1, b: {{env: TOKEN}}, c: {{file: c.key}}, d: x}}\nstates: {{s: {{cmd: {{run: \"{run}\"}}}}}}"
        );
        let catalog = catalog(&[("site.yaml", &text), ("c.key", "canary-file\n")]);
        Value::Object(catalog.secrets)
    };
    assert_eq!(files("none"), json!({}));
    assert_eq!(files("{{ secrets.a }}{{ secrets['b'] }}"), json!({"a": "1", "b": "canary-env"}));
    assert_eq!(files("{{ secrets.c }}"), json!({"c": "canary-file"}));
    assert_eq!(files("{{ secrets | length }}").as_object().unwrap().len(), 4);
}

#[test]
fn files_are_read_beside_the_file_that_names_them() {
    let catalog = catalog(&[
        (
            "site.yaml",
            "include: [in/a.yaml]\nvars: {n: b}\nstates:\n  s: {file: {path: /s, source: 'f/{{ n }}.txt'}}\n  t: {file: {path: /t, tree: f}}\n",
        ),
        ("in/a.yaml", "states: {a: {file: {path: /a, template: t.j2}}}"),
        ("in/t.j2", "{{ n }} {{ facts.os }}"),
        ("f/b.txt", "hello"),
        ("f/run.sh", "true"),
    ]);
    let (hello, template) = (BlobId::of(b"hello").0, BlobId::of(b"{{ n }} {{ facts.os }}").0);
    assert_eq!(params(&catalog, "s")["source"], json!({"$blob": hello, "$file": "f/b.txt"}));
    assert_eq!(params(&catalog, "a")["template"], json!({"$template": template, "$file": "t.j2"}));
    let run = BlobId::of(b"true").0;
    assert_eq!(
        params(&catalog, "t")["tree"],
        json!({"$file": "f", "$tree": [
            {"path": "b.txt", "kind": "file", "blob": hello, "executable": false},
            {"path": "run.sh", "kind": "file", "blob": run, "executable": true},
        ]})
    );
    let carried: Vec<&[u8]> = catalog.blobs.values().map(Vec::as_slice).collect();
    assert!(
        carried.len() == 3 && carried.contains(&b"hello".as_slice()) && carried.contains(&b"true".as_slice())
    );
    // What only other machines need stays here.
    let none = site("states: {s: {pkg: {}}}\ntargets: {'db*': [s]}");
    assert!(none.blobs.is_empty() && none.states.is_empty());
}

#[test]
fn a_state_without_its_name_is_called_as_its_id() {
    let catalog = site(
        "states: {nginx: {pkg: {}}, app: {user: {name: web}}, /etc/x: {file: {content: a}}, e: {service: }}",
    );
    assert_eq!(params(&catalog, "nginx"), json!({"name": "nginx"}));
    assert_eq!(params(&catalog, "app"), json!({"name": "web"}));
    assert_eq!(params(&catalog, "/etc/x"), json!({"path": "/etc/x", "content": "a"}));
    assert_eq!(params(&catalog, "e"), json!({"name": "e"}));
}

#[test]
fn guards_and_options_are_read() {
    let catalog = site(
        "vars: {p: /run}\nstates:\n  s:\n    cmd: {run: s}\n    unless: ['test {{ p }}', 'test {{ facts.os }}']\n    onlyif: 'true'\n    creates: '{{ p }}/x'\n    \
         when: facts.os == 'debian' and p\n    order: -3\n    failhard: true\n    parallel: false\n    sensitive: true\n    become: '{{ facts.user }}'\n    check_cmd: 'check {{ p }}'\n    \
         retry: {attempts: 5, interval: 1m30s, splay: 2, until: 'stdout == p'}\n  \
         t: {cmd: {run: t}, order: last, retry: {attempts: 2}, when: true}\n",
    );
    let s = state(&catalog, "s");
    assert_eq!(
        *s.guards,
        Guards {
            unless: vec!["test /run".into(), "test {{ facts.os }}".into()],
            onlyif: vec!["true".into()],
            creates: vec!["/run/x".into()],
            when: Some("facts.os == 'debian' and p".into()),
        }
    );
    let retry = Retry {
        attempts: 5,
        interval: Duration::from_secs(90),
        splay: Duration::from_secs(2),
        until: Some("stdout == p".into()),
    };
    assert_eq!(
        *s.options,
        Options {
            order: Some(Rank::Number(-3)),
            failhard: true,
            retry: Some(retry),
            parallel: Some(false),
            check_cmd: Some("check /run".into()),
            become_user: Some("{{ facts.user }}".into()),
            sensitive: true,
        }
    );
    let t = state(&catalog, "t");
    assert_eq!((t.options.order, t.guards.when.as_deref()), (Some(Rank::Last), Some("true")));
    assert_eq!(t.options.retry.as_ref().map(|retry| retry.interval), Some(Duration::from_secs(1)));
}

#[test]
fn anchors_and_merges_are_taken() {
    let catalog = site(
        "vars: {x: &common {owner: root, mode: '0640'}}\nstates:\n  a: {file: {path: /a, <<: *common}}\n  b: {file: {path: /b, <<: *common, mode: '0600'}}\n",
    );
    assert_eq!(params(&catalog, "a"), json!({"path": "/a", "owner": "root", "mode": "0640"}));
    assert_eq!(params(&catalog, "b")["mode"], "0600");
}

#[test]
fn an_extension_is_fetched_and_carried_where_it_is_used() {
    let sum = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let text = format!(
        "extensions: {{disk: {{path: ext/disk, sha256: {sum}, minisign: KEY}}, other: {{url: 'https://example.org/x', sha256: {sum}}}}}\n\
         states: {{d: {{disk: {{size: 4}}}}}}"
    );
    let catalog = site(&text);
    let disk = &catalog.extensions["disk"];
    assert_eq!(catalog.extensions.len(), 1);
    assert_eq!((disk.sha256.as_str(), &disk.describe), (sum, &json!({"name": "disk"})));
    assert_eq!(
        disk.minisign.as_ref().map(|m| (m.public_key.as_str(), m.signature.as_str())),
        Some(("KEY", "signed"))
    );
    assert_eq!(catalog.blobs[&disk.blob], b"#!/bin/sh\n");
}

#[test]
fn the_schema_for_editors_names_every_module_and_word() {
    let schema = crate::state::schema::editor::site_schema(&Table);
    let state = &schema["$defs"]["state"]["properties"];
    for word in super::super::options::Word::all().iter().map(String::as_str).chain(["file", "cmd"]) {
        assert!(!state[word].is_null(), "{word}");
    }
    assert_eq!(state["file"]["required"], json!([]), "the id stands for the path");
    // A template may stand for a number, and a text is a text already.
    assert_eq!(state["user"]["properties"]["uid"]["anyOf"][1], json!({"$ref": "#/$defs/template"}));
    assert_eq!(state["file"]["properties"]["path"], json!({"type": "string"}));
    // The file that the compiler takes, its own schema takes.
    let file = json!({
        "vars": {"a": 1}, "order": "genius", "secrets": {"t": {"env": "T"}},
        "include": ["a.yaml", {"file": "b.yaml", "vars": {"x": 1}}],
        "states": {"s": {"file": {"path": "/x", "mode": "{{ m }}"}, "require": ["a", {"file": "/y"}], "watch_in": "b",
            "retry": {"attempts": 2, "interval": "1s"}, "order": "last", "for_each": "{{ list }}", "when": true}},
        "targets": {"role=web": ["s", "include:a"]},
    });
    let said = crate::state::schema::Checker::default().check_values("site", &schema, &values(file));
    assert_eq!(said, Vec::<String>::new());
    let wrong = json!({"states": {"s": {"file": {"pth": 1}, "requir": "a"}}, "vras": {}});
    let said = crate::state::schema::Checker::default().check_values("site", &schema, &values(wrong));
    assert_eq!(said.len(), 3, "{said:#?}");
}

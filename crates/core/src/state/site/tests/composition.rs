//! Includes, variables, `for_each`, groups, targets, `--only`.

use super::*;

fn param(catalog: &Catalog, id: &str, name: &str) -> Value {
    state(catalog, id).params[name].clone()
}

#[test]
fn the_first_who_says_a_variable_is_heard() {
    let files = [
        (
            "site.yaml",
            "include: common.yaml\nvars: {a: file, b: file, c: file, d: file}\ntargets:\n  'role=web': {states: ['*'], vars: {a: target, b: target}}\n  \
          'role=db': {states: [], vars: {e: other}}\n\
          states: {s: {cmd: {run: '{{ a }} {{ b }} {{ c }} {{ d }} {{ e }}'}}}",
        ),
        (
            "common.yaml",
            "vars: {d: included, e: included}\nstates: {t: {cmd: {run: '{{ a }} {{ d }} {{ e }}'}}}",
        ),
    ];
    let mut input = input();
    input.vars = values(json!({"a": "command"}));
    let node = values(json!({"b": "node", "c": "node"}));
    let catalog = catalog_of(&input, &Disk::of(&files), &node).unwrap();
    assert_eq!(param(&catalog, "s", "run"), "command target node file included");
    assert_eq!(param(&catalog, "t", "run"), "command file included");
    assert_eq!(catalog.scopes.len(), 1);
    assert_eq!(
        Value::Object(catalog.scopes[0].clone()),
        json!({"a": "command", "b": "target", "c": "node", "d": "file", "e": "included"})
    );
}

#[test]
fn variables_are_made_of_others_with_their_types() {
    let catalog = site(
        "vars:\n  url: 'http://{{ host }}:{{ port }}/'\n  host: '{{ names[0] }}.example.org'\n  port: 8080\n  names: [a, b]\n  \
         copy: '{{ names }}'\n  deep: {x: ['{{ port }}']}\n  text: '{{ \"{{ not again }}\" }}'\nstates: {s: {cmd: {run: '{{ url }}'}}}\n",
    );
    assert_eq!(param(&catalog, "s", "run"), "http://a.example.org:8080/");
    let vars = &catalog.scopes[0];
    assert_eq!((&vars["copy"], &vars["deep"]), (&json!(["a", "b"]), &json!({"x": [8080]})));
    assert_eq!(vars["text"], "{{ not again }}");
}

#[test]
fn what_a_machine_brings_is_waited_for() {
    let disk = Disk::of(&[(
        "site.yaml",
        "states: {'s-{{ ip }}': {cmd: {run: '{{ ip }}'}}, t: {cmd: {run: t}, require: ['s-*']}}",
    )]);
    let mut input = input();
    assert!(compile(&input, &disk, &Table).is_err(), "nobody says that a machine brings it");
    input.machine_vars = ["ip".to_owned()].into();
    let catalog = catalog_of(&input, &disk, &values(json!({"ip": "10.0.0.1"}))).unwrap();
    assert_eq!(ids(&catalog), ["s-10.0.0.1", "t"]);
    let errors = catalog_of(&input, &disk, &Values::new()).unwrap_err();
    assert!(errors.to_string().contains("there is no variable `ip`"), "{errors}");
}

#[test]
fn includes_stand_where_they_are_written_and_once() {
    let files = |site: &'static str| {
        catalog(&[
            ("site.yaml", site),
            ("a/a.yaml", "include: [../common.yaml, b.yaml]\nstates: {a: {pkg: {}}}"),
            ("a/b.yaml", "states: {b: {pkg: {}}}"),
            ("common.yaml", "states: {c: {pkg: {}}}"),
        ])
    };
    assert_eq!(ids(&files("include: [a/a.yaml, common.yaml]\nstates: {s: {pkg: {}}}")), ["c", "b", "a", "s"]);
    assert_eq!(ids(&files("states: {s: {pkg: {}}}\ninclude: [common.yaml, a/a.yaml]")), ["s", "c", "b", "a"]);
    let named = files("vars: {which: common}\nstates: {s: {pkg: {}}}\ninclude: '{{ which }}.yaml'");
    assert_eq!(ids(&named), ["s", "c"]);
    assert_eq!(named.files, ["site.yaml", "common.yaml"]);
}

#[test]
fn an_include_with_parameters_has_a_prefix_and_sees_its_own_names_first() {
    let catalog = catalog(&[
        (
            "site.yaml",
            "vars: {root: /srv}\ninclude:\n  - {file: vhost.yaml, vars: {name: a, port: 81}}\n  - {file: vhost.yaml, vars: {name: b}, as: other}\n\
             states:\n  nginx: {service: {}, watch: ['*conf']}\n  site: {cmd: {run: x}, require: [vhost-a-81/conf, {include: other}]}\n",
        ),
        (
            "vhost.yaml",
            "vars: {port: 80, root: /none}\nstates:\n  conf: {file: {path: '/etc/{{ name }}', content: '{{ root }} {{ port }}'}}\n  \
             pkg: {pkg: {}}\n  check: {cmd: {run: \"{{ states['conf'].x }} {{ states['nginx'].y }}\"}, require: [conf, nginx]}\n",
        ),
    ]);
    assert_eq!(
        ids(&catalog),
        [
            "vhost-a-81/conf",
            "vhost-a-81/pkg",
            "vhost-a-81/check",
            "other/conf",
            "other/pkg",
            "other/check",
            "nginx",
            "site"
        ]
    );
    assert_eq!(param(&catalog, "vhost-a-81/conf", "content"), "/srv 81");
    assert_eq!(param(&catalog, "other/conf", "content"), "/srv 80");
    assert_eq!(param(&catalog, "other/pkg", "name"), "pkg", "the prefix names no package");
    assert_eq!(targets(&catalog, "other/check", RequisiteKind::Require), ["other/conf", "nginx"]);
    assert_eq!(targets(&catalog, "nginx", RequisiteKind::Watch), ["vhost-a-81/conf", "other/conf"]);
    assert_eq!(
        targets(&catalog, "site", RequisiteKind::Require),
        ["vhost-a-81/conf", "other/conf", "other/pkg", "other/check"]
    );
    let check = state(&catalog, "other/check");
    assert_eq!(check.aliases, BTreeMap::from([("conf".to_owned(), 3)]));
    assert_eq!(check.requisites.reads, [3, 6]);
    assert_eq!(catalog.scopes.len(), 3);
    assert_eq!(catalog.scopes[check.scope]["name"], "b");
}

#[test]
fn for_each_goes_over_lists_maps_and_expressions() {
    for (each, expected) in [
        ("[anna, ben]", vec![("u-anna", json!("anna")), ("u-ben", json!("ben"))]),
        ("[1, true]", vec![("u-1", json!(1)), ("u-true", json!(true))]),
        (
            "{b: {x: 1}, a: null}",
            vec![
                ("u-b", json!({"key": "b", "value": {"x": 1}})),
                ("u-a", json!({"key": "a", "value": null})),
            ],
        ),
        (
            "[{name: anna, uid: 1}, {uid: 2}]",
            vec![("u-anna", json!({"name": "anna", "uid": 1})), ("u-2", json!({"uid": 2}))],
        ),
        ("users", vec![("u-x", json!("x")), ("u-y", json!("y"))]),
        ("'{{ users }}'", vec![("u-x", json!("x")), ("u-y", json!("y"))]),
        ("'range(2)'", vec![("u-0", json!(0)), ("u-1", json!(1))]),
        ("['{{ users[1] }}']", vec![("u-y", json!("y"))]),
    ] {
        let catalog = site(&format!(
            "vars: {{users: [x, y]}}\nstates: {{u: {{for_each: {each}, cmd: {{run: '{{{{ facts.os }}}}'}}}}}}"
        ));
        let found: Vec<_> =
            catalog.states.iter().map(|s| (s.id.as_str(), s.locals["item"].clone())).collect();
        assert_eq!(found, expected, "{each}");
    }
    let catalog = site(
        "states: {'user-{{ item.key }}': {for_each: {anna: {uid: 5}}, user: {name: '{{ item.key }}', uid: '{{ item.value.uid }}'}}}",
    );
    assert_eq!(ids(&catalog), ["user-anna"]);
    assert_eq!(param(&catalog, "user-anna", "uid"), 5);
    // Without a name of its own, a user is called as the item, and a package with a templated id as the id.
    let catalog = site("states: {u: {for_each: [anna], user: {}}, 'p{{ item }}': {for_each: [1], pkg: {}}}");
    assert_eq!(
        (param(&catalog, "u-anna", "name"), param(&catalog, "p1", "name")),
        (json!("anna"), json!("p1"))
    );
}

#[test]
fn modules_and_options_may_be_rendered() {
    let catalog = site(
        "vars: {kind: pkg, on: true}\nstates: {a: {'{{ kind }}': {}, failhard: '{{ on }}', order: '{{ 3 }}'}}",
    );
    let a = state(&catalog, "a");
    assert_eq!((a.module.as_str(), a.options.failhard), ("pkg", true));
}

#[test]
fn targets_choose_the_states_of_a_machine() {
    let text = "groups: {web: [w1, w2]}\ninclude: common.yaml\nstates: {w1: {pkg: {}, require: [w2]}, w2: {pkg: {}}, db: {pkg: {}}, k: {pkg: {}}}\n\
                targets:\n  'role=web and os=debian': [web, 'include:common']\n  'role=db': db\n  'web*': {states: [k]}\n";
    let catalog = catalog(&[("site.yaml", text), ("common.yaml", "states: {c: {pkg: {}}}")]);
    assert_eq!(ids(&catalog), ["c", "w1", "w2", "k"]);
    assert_eq!(targets(&catalog, "w1", RequisiteKind::Require), ["w2"]);
    let nothing = site("states: {a: {pkg: {}}}\ntargets: {'role=db': [a]}");
    assert_eq!(nothing.states, []);
}

#[test]
fn many_names_mean_those_that_are_here() {
    let catalog = site(
        "states: {a1: {pkg: {}}, a2: {pkg: {}}, s: {cmd: {run: s}, require: ['a*']}, t: {cmd: {run: t}, require_in: [s]}}\n\
         targets: {'role=web': [a1, s], 'role=db': [a2, t]}",
    );
    assert_eq!(targets(&catalog, "s", RequisiteKind::Require), ["a1"]);
}

#[test]
fn only_keeps_what_is_meant_and_what_that_names() {
    let text = "states:\n  a: {pkg: {}}\n  b: {cmd: {run: b}, require: [a]}\n  c: {cmd: {run: c}, watch: [b], listen: [d]}\n  d: {cmd: {run: d}, require_in: [e]}\n  \
                e: {cmd: {run: \"{{ states['a'].x }}\"}}\n  f: {cmd: {run: f}, prereq: [a]}\n";
    for (only, expected) in [
        (vec!["b"], vec!["a", "b"]),
        (vec!["c"], vec!["a", "b", "c"]),
        (vec!["d"], vec!["d"]),
        (vec!["e"], vec!["a", "d", "e"]),
        (vec!["f"], vec!["a", "f"]),
        (vec!["[ab]", "d"], vec!["a", "b", "d"]),
    ] {
        let input = SiteInput { only: only.iter().map(|o| (*o).to_owned()).collect(), ..input() };
        let catalog = catalog_of(&input, &Disk::of(&[("site.yaml", text)]), &Values::new()).unwrap();
        assert_eq!(ids(&catalog), expected, "{only:?}");
        let left_out: Vec<&str> = catalog.left_out.keys().map(crate::state::StateId::as_str).collect();
        let others: Vec<&str> =
            ["a", "b", "c", "d", "e", "f"].into_iter().filter(|id| !expected.contains(id)).collect();
        assert_eq!(left_out, others, "{only:?}");
        assert!(catalog.left_out.get(&crate::state::StateId::from("a")).is_none_or(|module| module == "pkg"));
    }
}

#[test]
fn variables_of_the_command_line_that_mean_nothing_are_warned_of() {
    let warnings = |name: &str, text: &str| -> Vec<String> {
        let input = SiteInput { vars: values(json!({name: 1})), ..input() };
        let disk = Disk::of(&[("site.yaml", text), ("inner.yaml", "vars: {inner: 1}\nstates: {}")]);
        let site = compile(&input, &disk, &Table).unwrap();
        site.warnings().iter().map(ToString::to_string).collect()
    };
    let text = "include: inner.yaml\nvars: {port: 80}\nstates:\n  a: {cmd: {run: 'x {{ host | default(1) }}', changed_when: flag is defined}, when: on_it is defined}";
    for known in ["port", "inner", "host", "flag", "on_it"] {
        assert_eq!(warnings(known, text), Vec::<String>::new(), "{known}");
    }
    assert_eq!(
        warnings("prot", text),
        ["site.yaml:1:1: -e prot: no file declares this variable, and nothing reads it (did you mean port?)"]
    );
    assert_eq!(warnings("other", text).len(), 1);
    assert_eq!(warnings("any", "states: {a: {cmd: {run: 'x {{ vars | length }}'}}}"), Vec::<String>::new());
}

#[test]
fn what_only_leaves_deaf_is_said() {
    let text = "states:\n  conf: {cmd: {run: a}, watch_in: [reload]}\n  restart: {cmd: {run: b}, onchanges: [conf]}\n  reload: {cmd: {run: c}}\n  \
                after: {cmd: {run: d}, require: [conf]}\n  drain: {cmd: {run: e}, prereq: [conf]}\n";
    let disk = Disk::of(&[("site.yaml", text)]);
    let warnings = |only: &[&str]| -> Vec<String> {
        let input = SiteInput { only: only.iter().map(|o| (*o).to_owned()).collect(), ..input() };
        let site = compile(&input, &disk, &Table).unwrap();
        let lines = site.warnings().iter().map(ToString::to_string);
        lines
            .filter(|line| line.contains("is left out"))
            .map(|line| line.split(" (name").next().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        warnings(&["conf"]),
        [
            "site.yaml:2:36: `reload` is left out, and will not hear that `conf` changes",
            "site.yaml:3:40: `restart` is left out, and will not hear that `conf` changes",
            "site.yaml:6:35: `drain` is left out, and will not run before `conf` changes",
        ]
    );
    assert_eq!(warnings(&["conf", "re*", "drain"]), [""; 0]);
    assert_eq!(warnings(&[]), [""; 0]);
}

#[test]
fn only_keeps_what_provides_what_it_keeps_needs() {
    let text = "targets: {all: [a, b, c, d, app, web], other: [db]}\nvars: {who: app}\nstates:\n  a: {file: {path: /a, owner: '{{ who }}'}, require: [b]}\n  \
                b: {file: {path: '{{ facts.os }}', owner: web}}\n  c: {file: {path: /c, owner: nobody}}\n  d: {file: {path: /d, owner: '{{ facts.os }}'}}\n  \
                app: {user: }\n  web: {user: , require: [c]}\n  db: {user: {name: app}}\n";
    let kept = |only: &str, text: &str| {
        let input = SiteInput { only: vec![only.into()], ..input() };
        let catalog = catalog_of(&input, &Disk::of(&[("site.yaml", text)]), &Values::new()).unwrap();
        ids(&catalog).join(" ")
    };
    assert_eq!(kept("a", text), "a b c app web");
    assert_eq!(kept("b", text), "b c web");
    assert_eq!(kept("d", text), "d");
    // An edge that is left out, since it would close a circle, keeps nothing.
    let knot = "states:\n  a: {file: {path: /a, owner: web}}\n  web: {user: , require: [a]}\n";
    assert_eq!(kept("a", knot), "a");
}

#[test]
fn what_is_for_other_machines_is_not_left_out_by_only() {
    let text = "targets: {all: [a, b], other: [c]}\nstates:\n  a: {cmd: {run: a}}\n  b: {cmd: {run: b}}\n  c: {cmd: {run: c}}\n";
    let input = SiteInput { only: vec!["a".into()], ..input() };
    let catalog = catalog_of(&input, &Disk::of(&[("site.yaml", text)]), &Values::new()).unwrap();
    assert_eq!(catalog.left_out, BTreeMap::from([("b".into(), "cmd".into())]));
}

#[test]
fn the_head_of_the_file_and_the_command_line() {
    let catalog = site("name: shop\norder: genius\nfailhard: true\nstates: {}");
    assert_eq!((catalog.name.as_str(), catalog.order, catalog.failhard), ("shop", OrderMode::Genius, true));
    assert_eq!(site("").name, "site");
    let input = SiteInput { order: Some(OrderMode::Justdoit), ..input() };
    let catalog = catalog_of(&input, &Disk::of(&[("site.yaml", "order: genius")]), &Values::new()).unwrap();
    assert_eq!(catalog.order, OrderMode::Justdoit);
}

#[test]
fn a_catalog_is_the_same_whatever_else_was_compiled() {
    let disk = Disk::of(&[
        ("site.yaml", "include: '{{ file }}.yaml'\nvars: {x: a}\nstates: {s: {cmd: {run: '{{ x }}'}}}"),
        ("a.yaml", "states: {a: {pkg: {}}}"),
        ("b.yaml", "states: {b: {pkg: {}}}"),
    ]);
    let input = SiteInput { machine_vars: ["file".to_owned()].into(), ..input() };
    let (labels, facts) = (BTreeMap::new(), facts("debian"));
    let (a, b) = (values(json!({"file": "a"})), values(json!({"file": "b"})));
    let machine = |vars| Machine { name: "m", labels: &labels, facts: &facts, vars };
    let forth = compile(&input, &disk, &Table).unwrap();
    let forth = (forth.catalog(&machine(&a)).unwrap(), forth.catalog(&machine(&b)).unwrap());
    let back = compile(&input, &disk, &Table).unwrap();
    let back_b = back.catalog(&machine(&b)).unwrap();
    let back_a = back.catalog(&machine(&a)).unwrap();
    assert_eq!(forth, (back_a, back_b));
    assert_eq!(forth.1.files, ["site.yaml", "b.yaml"]);
}

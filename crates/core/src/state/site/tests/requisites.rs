//! Requisites: how targets are named, and what becomes of each kind.

use super::*;
use RequisiteKind::*;

#[test]
fn every_kind_and_its_reverse_name_states() {
    let kinds = RequisiteKind::ALL.iter().map(|kind| (kind.word(), *kind)).chain([("onfail_any", Onfail)]);
    for (word, kind) in kinds {
        // `cmd` has a refresh, so that no kind is turned into another.
        let direct = format!("states: {{a: {{cmd: {{run: a}}}}, b: {{cmd: {{run: b}}, {word}: [a]}}}}");
        assert_eq!(targets(&site(&direct), "b", kind), ["a"], "{word}");
        let reverse = format!("states: {{a: {{cmd: {{run: a}}, {word}_in: b}}, b: {{cmd: {{run: b}}}}}}");
        assert_eq!(targets(&site(&reverse), "b", kind), ["a"], "{word}_in");
        assert_eq!(targets(&site(&reverse), "a", kind), [] as [&str; 0], "{word}_in");
    }
}

#[test]
fn a_target_is_an_id_a_module_with_its_name_a_pattern_a_file_or_a_group() {
    let common = "states: {c1: {pkg: {}}, c2: {pkg: {}}}";
    for (named, expected) in [
        ("conf", vec!["conf"]),
        ("[conf, app]", vec!["conf", "app"]),
        ("[app, conf, app]", vec!["conf", "app"]),
        ("{file: /etc/x}", vec!["conf"]),
        ("[{file: /etc/x}, {pkg: app}]", vec!["conf", "app"]),
        ("[{file: '/etc/{{ name }}'}]", vec!["conf"]),
        ("'{{ name }}*'", vec!["x1", "x2"]),
        ("x*", vec!["x1", "x2"]),
        ("'x[13]'", vec!["x1"]),
        ("include:common", vec!["c1", "c2"]),
        ("{include: common.yaml}", vec!["c1", "c2"]),
        ("both", vec!["conf", "x1", "x2"]),
        ("'{{ name }}2'", vec!["x2"]),
    ] {
        let text = format!(
            "vars: {{name: x}}\ninclude: common.yaml\ngroups: {{both: [conf, 'x*']}}\nstates:\n  conf: {{file: {{path: /etc/x}}}}\n  \
             app: {{pkg: {{}}}}\n  x1: {{pkg: {{}}}}\n  x2: {{pkg: {{}}}}\n  s: {{cmd: {{run: s}}, require: {named}}}\n"
        );
        let catalog = catalog(&[("site.yaml", &text), ("common.yaml", common)]);
        assert_eq!(targets(&catalog, "s", Require), expected, "{named}");
    }
}

#[test]
fn a_pattern_never_means_the_state_itself() {
    let catalog = site("states: {a1: {pkg: {}}, a2: {pkg: {}, require: 'a*'}}");
    assert_eq!(targets(&catalog, "a2", Require), ["a1"]);
    let catalog = site("states: {l: {service: {}, listen: 'a*'}, a1: {pkg: {}}, a2: {pkg: {}}}");
    assert_eq!(targets(&catalog, "l", Listen), ["a1", "a2"]);
}

#[test]
fn a_watch_by_what_has_no_refresh_is_a_require_with_a_warning() {
    let disk = Disk::of(&[(
        "site.yaml",
        "states:\n  a: {pkg: {}}\n  f: {file: {path: /f}, watch: [a], watch_any: [a], listen: [a]}\n  s: {service: {}, watch: [a]}\n",
    )]);
    let site = compile(&input(), &disk, &Table).unwrap();
    let warnings: Vec<String> = site.warnings().iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(warnings.join("\n"), @r#"
    site.yaml:3:33: a refresh means nothing to `file`: `watch` is `require` here (write require to say so)
    site.yaml:3:49: a refresh means nothing to `file`: `watch_any` is `require_any` here (write require_any to say so)
    site.yaml:3:62: a refresh means nothing to `file`: `listen` has no effect (leave it out)
    "#);
    let catalog = catalog_of(&input(), &disk, &Values::new()).unwrap();
    assert_eq!(targets(&catalog, "f", Watch), ["a"]);
    assert_eq!(targets(&catalog, "f", WatchAny), ["a"]);
    assert_eq!(state(&catalog, "f").requisites.of.len(), 2);
    assert_eq!(targets(&catalog, "s", Watch), ["a"]);
}

#[test]
fn a_watch_any_without_a_refresh_stands_beside_a_require_any_of_its_own() {
    let catalog =
        site("states: {a: {pkg: {}}, b: {pkg: {}}, f: {file: {path: /f}, require_any: [a], watch_any: [b]}}");
    assert_eq!(targets(&catalog, "f", RequireAny), ["a"]);
    assert_eq!(targets(&catalog, "f", WatchAny), ["b"]);
}

#[test]
fn reads_of_outputs_are_edges() {
    let catalog = catalog(&[
        (
            "site.yaml",
            "states:\n  v: {cmd: {run: v}}\n  w: {cmd: {run: w}}\n  x: {cmd: {run: x}}\n  \
             a: {cmd: {run: \"echo {{ states['v'].stdout }}\"}}\n  \
             b: {file: {path: /b, template: b.j2}}\n  \
             c: {cmd: {run: c}, when: \"states['v'].exit_code == 0\", unless: \"test {{ states.w.stdout }}\", \
                 retry: {attempts: 2, until: \"stdout == states['x'].stdout\"}}\n",
        ),
        ("b.j2", "{{ states['w'].stdout }}\n"),
    ]);
    let reads = |id: &str| -> Vec<&str> {
        state(&catalog, id).requisites.reads.iter().map(|&at| catalog.states[at].id.as_str()).collect()
    };
    assert_eq!(reads("a"), ["v"]);
    assert_eq!(reads("b"), ["w"]);
    assert_eq!(reads("c"), ["v", "w", "x"]);
    assert!(state(&catalog, "a").requisites.of.is_empty());
}

#[test]
fn use_copies_parameters_but_not_what_identifies_nor_what_is_asked_of_others() {
    let catalog = catalog(&[
        (
            "site.yaml",
            "include: [inc/a.yaml]\nvars: {who: me}\nstates:\n  \
             base: {file: {path: /base, owner: '{{ who }}', mode: '0600'}, require: [p], unless: 'true'}\n  \
             p: {pkg: {}}\n  \
             one: {file: {path: /one, mode: '0644'}, use: [base]}\n  \
             two: {file: {}, use: [one, base]}\n  \
             three: {file: {path: /three}, use: from-file}\n  \
             four: {file: {path: /four, owner: x}, use_in: five}\n  \
             five: {file: {path: /five}}\n",
        ),
        ("inc/a.yaml", "states: {from-file: {file: {path: /a, source: b.txt}}}"),
        ("inc/b.txt", "hello"),
    ]);
    let params = |id: &str| Value::Object(state(&catalog, id).params.clone());
    assert_eq!(params("one"), json!({"path": "/one", "mode": "0644", "owner": "me"}));
    // What `one` copied itself is not copied on.
    assert_eq!(params("two"), json!({"path": "two", "mode": "0644", "owner": "me"}));
    assert_eq!(params("five"), json!({"path": "/five", "owner": "x"}));
    assert_eq!(params("three")["source"]["$file"], "b.txt");
    assert!(
        state(&catalog, "one").requisites.of.is_empty() && state(&catalog, "one").guards.unless.is_empty()
    );
}

#[test]
fn a_name_of_a_for_each_means_all_of_it() {
    let catalog = site(
        "states:\n  u: {for_each: [anna, ben], user: {}}\n  s: {cmd: {run: s}, require: [u]}\n  \
         none: {for_each: [], user: {}}\n  t: {cmd: {run: t}, require: [none]}\n",
    );
    assert_eq!(targets(&catalog, "s", Require), ["u-anna", "u-ben"]);
    assert!(state(&catalog, "t").requisites.of.is_empty());
}

#[test]
fn a_prereq_beside_a_require_of_the_same_pair_says_the_same() {
    let catalog = site("states: {a: {cmd: {run: a}, prereq: [b]}, b: {cmd: {run: b}, require: [a]}}");
    assert_eq!(targets(&catalog, "a", Prereq), ["b"]);
    assert_eq!(targets(&catalog, "b", Require), ["a"]);
}

#[test]
fn states_listen_to_each_other_without_waiting() {
    let catalog = site("states: {a: {cmd: {run: a}, listen: [b]}, b: {cmd: {run: b}, listen: [a]}}");
    assert_eq!(targets(&catalog, "a", Listen), ["b"]);
}

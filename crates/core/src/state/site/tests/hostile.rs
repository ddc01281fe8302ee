//! No text is too odd: it is compiled, or refused in words with places that exist.

use proptest::prelude::*;

use super::*;

fn check(text: &str) {
    let disk = Disk::of(&[
        ("site.yaml", text),
        ("a.yaml", "states: {a: {pkg: {}}}"),
        ("b.yaml", text),
        ("t.j2", "{{ a }}"),
    ]);
    let result = catalog_of(&input(), &disk, &Values::new());
    match result {
        Ok(catalog) => {
            let count = catalog.states.len();
            for state in &catalog.states {
                let named = state
                    .requisites
                    .of
                    .values()
                    .flatten()
                    .chain(&state.requisites.reads)
                    .chain(state.aliases.values());
                assert!(named.into_iter().all(|target| *target < count));
                assert!(state.scope < catalog.scopes.len() && state.at.file < catalog.files.len());
            }
            assert_eq!(Catalog::from_bytes(&catalog.to_bytes()).unwrap(), catalog);
        }
        Err(errors) => {
            assert!(errors.iter().count() >= 1);
            for error in errors.iter() {
                assert!(!error.to_string().contains(|c: char| c.is_control()), "{error:?}");
                assert!(
                    error.line >= 1 && error.line <= text.lines().count().max(1) + 2 && error.column >= 1
                );
            }
        }
    }
}

const PIECES: [&str; 44] = [
    "states:",
    "\n  ",
    "\n    ",
    "\n",
    "a: ",
    "b: ",
    "{",
    "}",
    "[",
    "]",
    ", ",
    "file: ",
    "cmd: ",
    "run: ",
    "path: ",
    "require: ",
    "use: ",
    "watch_in: ",
    "prereq: ",
    "onfail: ",
    "'*'",
    "\"{{ a }}\"",
    "{{ a }}",
    "for_each: ",
    "when: ",
    "retry: ",
    "vars: ",
    "include: ",
    "a.yaml",
    "b.yaml",
    "groups: ",
    "targets: ",
    "'role=web': ",
    "0644",
    "null",
    "&x ",
    "*x",
    "item",
    "\"{{ states['a'].x }}\"",
    "secrets: ",
    "template: t.j2",
    "é",
    "\t",
    "\u{0}",
];

proptest! {
    #[test]
    fn no_pieces_panic(pieces in prop::collection::vec(prop::sample::select(PIECES.to_vec()), 0..30)) {
        check(&pieces.concat());
    }

    #[test]
    fn no_file_of_states_panics(
        states in prop::collection::vec((
            "[a-d]",
            prop::sample::select(vec!["cmd: {run: x}", "file: {path: /x}", "pkg: {}", "'{{ x }}': {}", "fle: {}", "cmd: {run: \"{{ states['a'].x }}\"}", "user: 7"]),
            prop::sample::select(vec!["require", "watch_in", "use", "prereq", "onfail", "onchanges_any_in", "listen", "unless", "for_each", "order", "retry"]),
            prop::sample::select(vec!["[a, b]", "'*'", "{file: /x}", "c", "[]", "{}", "'{{ y }}'", "{attempts: 2}", "[d, 'x*']", "3"]),
        ), 0..8),
    ) {
        let mut text = "vars: {y: a, x: pkg}\nstates:\n".to_owned();
        for (number, (id, module, word, value)) in states.into_iter().enumerate() {
            let id = if number % 3 == 0 { id } else { format!("{id}{number}") };
            text += &format!("  {id}: {{{module}, {word}: {value}}}\n");
        }
        check(&text);
    }
}

#[test]
fn a_hundred_thousand_states_are_the_most_and_includes_cannot_multiply_beyond() {
    let list = (0..5_000).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let many = (0..4).map(|n| format!("{{file: next.yaml, as: i{n}}}")).collect::<Vec<_>>().join(",");
    let text = format!("include: [{many}]\nstates: {{a: {{for_each: [{list}], pkg: {{}}}}}}");
    let next = text.replace("next.yaml", "last.yaml");
    let last = format!("states: {{a: {{for_each: [{list}], pkg: {{}}}}}}");
    let found = errors(&[("site.yaml", &text), ("next.yaml", &next), ("last.yaml", &last)]);
    assert!(found.contains("there are more than 100000 states"), "{found}");
}

#[test]
fn what_would_cost_too_much_is_refused() {
    for (text, expected) in [
        (format!("vars: {{a: {}{}}}", "[".repeat(100), "]".repeat(100)), "nested deeper than"),
        ("vars: {a: &a [x], b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a], c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b], d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c], \
           e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d], f: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e], g: [*f,*f,*f,*f,*f,*f,*f,*f,*f,*f]}".to_owned(), "site.yaml:1:"),
        ("vars: {a: '{{ range(99999999) }}'}".to_owned(), "site.yaml:1:"),
        ("states: {a: {for_each: 'range(20000)', pkg: {}}}".to_owned(), "more than 10000 items"),
    ] {
        let found = errors(&[("site.yaml", &text)]);
        assert!(found.contains(expected), "{found}");
    }
}

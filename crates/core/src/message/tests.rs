//! What message files may hold, and what is said about those that hold something else.

use proptest::prelude::*;

use super::*;

fn one(text: &str) -> MessageSpec {
    let mut specs = parse(text).unwrap_or_else(|e| panic!("{text:.80}\n{e}"));
    assert_eq!(specs.len(), 1);
    specs.remove(0)
}

/// `(line, column, field, message and hint)` of everything that is wrong.
fn problems(text: &str) -> Vec<(usize, usize, String, String)> {
    let errors = parse(text).expect_err(text);
    errors
        .iter()
        .map(|e| {
            let said = format!("{} {}", e.message, e.hint.clone().unwrap_or_default());
            (e.line, e.column, e.field.clone().unwrap_or_default(), said)
        })
        .collect()
}

/// The only problem of a text, which must say all these words.
fn problem(text: &str, line: usize, column: usize, field: &str, words: &[&str]) {
    let problems = problems(text);
    assert_eq!(problems.len(), 1, "{text:.80}: {problems:?}");
    let (at_line, at_column, about, said) = &problems[0];
    assert_eq!((*at_line, *at_column, about.as_str()), (line, column, field), "{text:.80}: {said}");
    for word in words {
        assert!(said.contains(word), "{text:.80}: {said:?} does not say {word:?}");
    }
}

#[test]
fn yaml_says_the_same_as_json() {
    let yaml = "
# Restart it, wherever it is.
toNodes: [ship1, ship2, ship1]
tonode: ship3
Method: cmd
methodArgs: [systemctl, restart, \"5\"]
expires: 2h
methodTimeout: 90
idempotent: true
env:
  TOKEN: canary
  EMPTY: ''
cwd: /srv
user: app
stdin: |
  one
  two
directory: null
";
    let spec = one(yaml);
    let names: Vec<_> = spec.to.iter().map(NodeName::as_str).collect();
    assert_eq!(names, ["ship3", "ship1", "ship2"]);
    assert_eq!(spec.args, ["systemctl", "restart", "5"]);
    let two_hours = Duration::from_secs(7200);
    assert_eq!(spec.delivery, Delivery::Command { expires: two_hours, attempts: None });
    assert_eq!(spec.method_timeout, Some(Duration::from_secs(90)));
    assert!(spec.idempotent);
    let env = [("TOKEN", "canary"), ("EMPTY", "")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(spec.private.env, env);
    assert_eq!(spec.private.cwd.as_deref(), Some("/srv"));
    assert_eq!(spec.private.user.as_deref(), Some("app"));
    assert_eq!(spec.private.stdin.as_deref(), Some(&b"one\ntwo\n"[..]));
    assert_eq!(spec.reply, ReplySpec::default());
    assert!(!format!("{spec:?}").contains("canary"));
}

#[test]
fn delivery_is_bounded_by_time_or_by_attempts() {
    let seconds = Duration::from_secs;
    let delivery = |fields: &str| one(&format!("{{toNode: a, method: ping, {fields}}}")).delivery;
    let expires = DEFAULT_EXPIRES;
    assert_eq!(delivery(""), Delivery::Command { expires, attempts: None });
    assert_eq!(delivery("").bound(), seconds(86_400));
    let attempts = |ack, retries| Delivery::Command {
        expires,
        attempts: Some(Attempts { ack_timeout: seconds(ack), retries }),
    };
    assert_eq!(delivery("ACKTimeout: 5, retries: 3"), attempts(5, 3));
    assert_eq!(delivery("ACKTimeout: 5, retries: 3").bound(), seconds(20));
    assert_eq!(delivery("ACKTimeout: 1m"), attempts(60, DEFAULT_RETRIES));
    assert_eq!(delivery("retries: 0"), attempts(5, 0));
    assert_eq!(delivery("ACKTimeout: 60, retries: 9, expires: 30s").bound(), seconds(30));
    assert_eq!(delivery("ACKTimeout: 0"), Delivery::Event { expires });
    assert!(delivery("ACKTimeout: 0, retries: 3").is_event());
}

#[test]
fn data_is_a_text_lines_or_bytes() {
    let data = |data: &str| one(&format!("{{toNode: a, method: ping, data: {data}}}")).data;
    assert_eq!(data("[]"), "");
    assert_eq!(data("hello"), "hello");
    assert_eq!(data("[one, two]"), "one\ntwo\n");
    assert_eq!(data("[0, 255, 10]"), &b"\x00\xff\n"[..]);
    let text = "{toNode: a, method: ping, data: [1, 256, x]}";
    let said = problems(text);
    assert_eq!(said.len(), 2);
    assert_eq!((said[0].1, said[0].2.as_str()), (37, "data[1]"));
    problem("{toNode: a, method: ping, data: [x, 1]}", 1, 37, "data[1]", &["a text"]);
}

#[test]
fn answers_go_to_a_file_when_one_is_named() {
    let reply = |fields: &str| one(&format!("{{toNode: a, method: ping, {fields}}}")).reply;
    assert_eq!(reply("").method, ReplyMethod::None);
    assert_eq!(reply("fileName: a.log").method, ReplyMethod::FileAppend);
    assert_eq!(reply("fileName: a.log, replyMethod: reqtofile").method, ReplyMethod::FileWrite);
    assert_eq!(reply("fileName: a.log, replyMethod: none").method, ReplyMethod::None);
    let only_directory = "{toNode: a, method: ping, directory: x}";
    problem(only_directory, 1, 1, "fileName", &["missing", "file.append writes to a file"]);
    let unknown = "{toNode: a, method: ping, replyMethod: cmd}";
    problem(unknown, 1, 40, "replyMethod", &["\"cmd\"", "file.append, file.write, console, none"]);
    problem("{toNode: a, method: ping, fileName: ../x}", 1, 37, "fileName", &["directory"]);
    problem("{toNode: a, method: ping, fileName: x, directory: a/../..}", 1, 51, "directory", &["`..`"]);
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let text = r#"[
    {
        "toNod": "ship1",
        "method": "REQCliCommand",
        "methodArgs": "ls",
        "ACKTimeout": -5,
        "retries": "3",
    },
    {
        "toNode": "-x",
        "toNodes": [7],
        "methodTimeout": 0,
        "idempotent": "yes",
        "tonode": "b",
    },
    5,
]
"#;
    let found: Vec<_> = problems(text).into_iter().map(|(l, c, field, _)| (l, c, field)).collect();
    let expected = [
        (2, 5, "[0].toNode"),
        (3, 9, "[0].toNod"),
        (5, 23, "[0].methodArgs"),
        (6, 23, "[0].ACKTimeout"),
        (7, 20, "[0].retries"),
        (9, 5, "[1].method"),
        (10, 19, "[1].toNode"),
        (11, 21, "[1].toNodes[0]"),
        (12, 26, "[1].methodTimeout"),
        (13, 23, "[1].idempotent"),
        (14, 9, "[1].toNode"),
        (16, 5, "[2]"),
    ];
    let expected: Vec<_> = expected.map(|(l, c, f)| (l, c, f.to_owned())).into();
    assert_eq!(found, expected);
    let shown = parse(text).unwrap_err().to_string();
    let excerpt = "line 3, column 9: [0].toNod: there is no such field (did you mean toNode?)\n  \
                   3 |         \"toNod\": \"ship1\",\n    |         ^\n";
    assert!(shown.contains(excerpt), "{shown}");
}

#[test]
fn each_mistake_has_its_place_and_its_advice() {
    let base = |fields: &str| format!("toNode: a\nmethod: cmd\n{fields}");
    for (fields, line, column, field, words) in [
        ("methodArgs: [sleep, 0644]", 3, 21, "methodArgs[1]", &["a text", "\"0644\""][..]),
        ("methodArgs: [\"a\\0\"]", 3, 14, "methodArgs[0]", &["zero byte"]),
        ("retries: 99999999999999999999", 3, 10, "retries", &["whole number", "enormous"]),
        ("retries: 100001", 3, 10, "retries", &["0 to", "expires"]),
        ("retries: 1.5", 3, 10, "retries", &["whole number"]),
        ("ACKTimeout: 3000000", 3, 13, "ACKTimeout", &["30 days"]),
        ("retries: 100000\nACKTimeout: 3600", 3, 10, "retries", &["30 days"]),
        ("expires: 2 hours", 3, 10, "expires", &["90s"]),
        ("expires: 0", 3, 10, "expires", &["no time"]),
        ("expires: .inf", 3, 10, "expires", &["a time", "enormous"]),
        ("methodTimeout: '5'", 3, 16, "methodTimeout", &["quotes"]),
        ("idempotent: yes", 3, 13, "idempotent", &["true or false"]),
        ("env: {A=B: x}", 3, 7, "env.A=B", &["variable"]),
        ("env: {PORT: 80}", 3, 13, "env.PORT", &["\"80\""]),
        ("env: [a]", 3, 6, "env", &["an object"]),
        ("cwd: ''", 3, 6, "cwd", &["empty"]),
        ("operation: {opCmd: ps}\nmethodArgs: [x]", 3, 12, "operation", &["methodArgs"]),
        ("operation: {opArg: {}}", 3, 12, "operation.opCmd", &["missing"]),
        ("operation: {opCmd: ps, x: 1}", 3, 24, "operation.x", &["opArg"]),
        ("<<: {a: b}", 3, 1, "<<", &["no such field"]),
        ("to_nodes: [b]", 3, 1, "to_nodes", &["toNodes"]),
        ("unrelatedThing: 1", 3, 1, "unrelatedThing", &["no such field"]),
    ] {
        problem(&base(fields), line, column, field, words);
    }
    for (text, line, column, field, words) in [
        ("{toNode: a}", 1, 1, "method", &["missing"][..]),
        ("{method: ping}", 1, 1, "toNode", &["missing"]),
        ("{method: ping, toNodes: []}", 1, 25, "toNodes", &["no node"]),
        ("{method: 'a b', toNode: c}", 1, 10, "method", &["a method's name"]),
        ("hello", 1, 1, "", &["an object"]),
        ("", 1, 1, "", &["no message"]),
        ("# nothing\n", 2, 1, "", &["no message"]),
        ("[]", 1, 1, "", &["no message"]),
        ("{toNode: a, toNode: b}", 1, 13, "", &["duplicate"]),
        ("{\"a\": 1}\n{\"b\": 2}", 2, 1, "", &["one list"]),
        ("a: 1\n---\nb: 2\n", 2, 1, "", &["one list"]),
        ("a:\n\tb: 1", 2, 2, "", &["spaces"]),
        ("{toNode: &x a, method: *x}", 1, 13, "", &["anchors"]),
        ("{\"toNode\": \"a\"", 1, 1, "", &[]),
        ("\0", 1, 1, "", &["character"]),
    ] {
        problem(text, line, column, field, words);
    }
}

#[test]
fn habits_from_other_formats_get_advice() {
    for (text, advice) in [
        ("{\"toNode\": \"a\", // why\n \"method\": \"ping\"}", "a comment begins with #"),
        ("{/* why */ \"toNode\": \"a\", \"method\": \"ping\"}", "a comment begins with #"),
        ("{\"toNode\": \"a\", \"method\": \"ping\", \"retries\": 3 // why\n}", "a comment begins with #"),
        ("{toNode:a, method: ping}", "a space behind the colon"),
    ] {
        let said = problems(text);
        assert!(said.iter().any(|(_, _, _, said)| said.contains(advice)), "{text}: {said:?}");
    }
}

#[test]
fn hostile_sizes_are_refused_in_little_time() {
    let depth = "[".repeat(100_000);
    problem(&depth, 1, 17, "", &["deeper than 16"]);
    let block: String = (0..1_000).map(|n| format!("{}- \n", " ".repeat(n))).collect();
    assert!(parse(&block).is_err());
    assert!(problems(&"x".repeat(MAX_FILE + 1))[0].3.contains("bytes"));
    assert!(problems(&format!("[{}]", "1,".repeat(200_000)))[0].3.contains("more than"));
    let many = format!("{{{}}}", (0..40_000).map(|n| format!("f{n}: 1,")).collect::<String>());
    let errors = parse(&many).unwrap_err();
    assert_eq!((errors.iter().count(), errors.unlisted()), (20, 40_002 - 20));
    let large = format!("{{toNode: a, method: cmd, stdin: \"{}\"}}", "x".repeat(MAX_CONTENT + 1));
    problem(&large, 1, 1, "", &["524289 bytes"]);
    let names: String = (0..MAX_DELIVERIES).map(|n| format!("n{n},")).collect();
    let full = format!("{{toNodes: [{names}], method: ping}}");
    assert_eq!(one(&full).to.len(), MAX_DELIVERIES);
    problem(&format!("[{full},{full}]"), 1, 1, "", &["20000 deliveries"]);
}

#[test]
fn bytes_that_are_no_text_are_refused_with_their_place() {
    let errors = parse_bytes(b"toNode: a\nmethod: \xff").unwrap_err();
    let error = errors.iter().next().unwrap();
    assert_eq!((error.line, error.column), (2, 9));
    assert!(parse_bytes(b"{toNode: a, method: ping}").is_ok());
}

#[test]
fn an_excerpt_holds_nothing_that_drives_a_terminal() {
    let errors = parse("{toNode: a, method: \"\u{9b}31m\", \"x\\e[2J\": 1}").unwrap_err();
    let shown = errors.to_string();
    assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
}

proptest! {
    #[test]
    fn no_text_panics_and_every_error_has_a_place(text in any::<String>()) {
        if let Err(errors) = parse(&text) {
            for error in errors.iter() {
                prop_assert!(error.line >= 1 && error.column >= 1);
            }
        }
    }

    #[test]
    fn no_soup_of_tokens_panics(words in prop::collection::vec(prop::sample::select(vec![
        "{", "}", "[", "]", ",", ": ", "\n", "- ", "\"", "toNode", "toNodes", "method", "data", "env", "a", "5",
        "-1", "null", "true", "&x ", "*x", "|\n ", "# ", "\t", "---\n", "!!binary ", "? ", "\u{feff}", "0x1F",
    ]), 0..40)) {
        let text = words.concat();
        if let Err(errors) = parse(&text) {
            prop_assert!(errors.iter().count() > 0);
            prop_assert!(!errors.to_string().is_empty());
        }
    }
}

#[test]
fn receivers_that_nobody_knows_are_shown_where_they_stand() {
    let text = "- toNode: a\n  method: ping\n- tonodes: [b, ghost]\n  toNode: wraith\n  method: ping\n";
    let errors = unknown_receivers(text, &["ghost".into(), "wraith".into()]).unwrap();
    let found: Vec<_> = errors.iter().map(|e| (e.line, e.column, e.field.as_deref().unwrap())).collect();
    assert_eq!(found, [(3, 16, "[1].toNodes[1]"), (4, 11, "[1].toNode")]);
    assert!(errors.to_string().contains("no node of this fleet is named ghost"), "{errors}");
    assert_eq!(unknown_receivers(text, &["c".into()]), None);
    assert_eq!(unknown_receivers("{", &["c".into()]), None);
    let one = unknown_receivers("{toNode: ghost, method: ping}", &["ghost".into()]).unwrap();
    assert_eq!(one.iter().next().unwrap().field.as_deref(), Some("toNode"));
}

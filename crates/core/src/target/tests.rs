//! What target expressions mean, what they refuse, and that they read back.

use proptest::prelude::*;

use super::*;

fn facts() -> Facts {
    Facts {
        os: "linux".into(),
        family: "debian".into(),
        os_version: "12.5".into(),
        kernel: "6.1.0-18-amd64".into(),
        arch: "x86_64".into(),
        hostname: "web01".into(),
        cpus: 8,
        memory_bytes: 16 << 30,
        addresses: vec!["10.0.0.7".into(), "fe80::1".into()],
        version: "0.10.2".into(),
        labels: [("role".into(), "not looked at".into())].into(),
    }
}

fn means(text: &str) -> bool {
    let labels =
        [("role", "web"), ("env", "prod"), ("os", "Mine"), ("rack", "r 7, \"left\""), ("tier", "10")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
    let subject = Subject { name: "web-01", labels: &labels, facts: &facts() };
    let target = Target::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    target.matches(&subject)
}

#[test]
fn the_table_of_meanings() {
    for (text, expected) in [
        ("web-01", true),
        ("web-*", true),
        ("web-0[12]", true),
        ("web-0[!1]", false),
        ("ship*", false),
        ("all", true),
        ("*", true),
        ("ship1,web-01", true),
        ("ship1, ship2", false),
        ("not ship1,web-01", false),
        ("!ship1", true),
        ("role=web", true),
        ("role==web", true),
        ("role = web", true),
        ("role=w*", true),
        ("role=Web", false),
        ("role=db,web", true),
        ("role!=db,web", false),
        ("role!=db", true),
        ("nothing!=db", true),
        ("nothing=*", false),
        ("role=*", true),
        ("role!=*", false),
        // A label hides the fact of its name; both can be named.
        ("os=linux", false),
        ("os=Mine", true),
        ("fact.os=Linux", true),
        ("label.os=Mine", true),
        ("label.family=debian", false),
        ("family=Debian", true),
        ("address=10.*", true),
        ("address!=10.*", false),
        ("addresses=10.0.0.7", true),
        ("address=fe80::1", true),
        ("hostname=web?1", true),
        ("cpus>=8", true),
        ("cpus>8", false),
        ("cpus<=8 and cpus<9", true),
        ("cpus=8", true),
        ("memory>8G", true),
        ("memory>=16GiB", true),
        ("memory=16G", true),
        ("memory!=16g", false),
        ("memory<1.5T", true),
        ("version>0.9", true),
        ("version>=0.10.2", true),
        ("os_version<12.10", true),
        ("kernel>=5.15", true),
        ("tier>9", true),
        ("tier>=11", false),
        ("nothing>1", false),
        ("role=web and env=prod", true),
        ("role=web and not env=prod", false),
        ("role=db or env=prod", true),
        ("role=db or env=prod and cpus>100", false),
        ("(role=db or env=prod) and cpus>4", true),
        ("not (role=db or env=prod)", false),
        ("not not role=web", true),
        ("rack=\"r 7*\"", true),
        ("rack='r 7, \"left\"'", true),
        ("rack=\"r 7, \\\"left\\\"\"", true),
        ("role=and", false),
        ("\tweb-01\n", true),
    ] {
        assert_eq!(means(text), expected, "{text}");
    }
}

#[test]
fn errors_point_at_the_place_and_say_what_to_do() {
    for (text, column, message, hint) in [
        ("", 1, "empty", "all"),
        ("  ", 3, "empty", "all"),
        ("role=web andd x", 10, "expected `and`", "join"),
        ("role=web AND x", 10, "expected `and`", "lower case"),
        ("a && b", 3, "expected `and`", "`and`"),
        ("role=web,env=prod", 13, "comparison does not fit", "comma"),
        ("ship1,role=web", 11, "comparison does not fit", "comma"),
        ("role=", 6, "expected a value, found the end", ""),
        ("=web", 1, "expected a node's name", ""),
        ("(a or b", 1, "never closed", ""),
        ("a)", 2, "closes nothing", ""),
        ("()", 2, "expected a node's name", ""),
        ("a and", 6, "found the end", ""),
        ("and b", 1, "expected a node's name", ""),
        ("a,", 3, "another node's name", ""),
        ("a,and", 3, "`and` is no node's name", ""),
        ("role=\"web", 6, "never closed", ""),
        ("é", 1, "neither a node's name", ""),
        ("G@os:Debian", 1, "neither a node's name", "write os=Debian"),
        ("web:&prod", 1, "neither a node's name", "and not"),
        ("role:web", 1, "neither a node's name", "role=web"),
        ("fact.colour=red", 1, "no fact", "hostname"),
        ("os>3", 3, "no order", "label.os"),
        ("cpus>=many", 7, "not a number", "8G"),
        ("cpus>=1,2", 8, "one value", ""),
        ("r\u{e9}gion = x", 1, "neither a label nor a fact", ""),
        ("\"\"", 1, "neither a node's name", ""),
        ("a,web-0[1", 3, "never closed", ""),
    ] {
        let error = Target::parse(text).expect_err(text);
        assert!(error.message.contains(message), "{text}: {error}");
        assert_eq!(error.column, column, "{text}: {error}");
        assert!(error.hint.clone().unwrap_or_default().contains(hint), "{text}: {error:?}");
    }
    let error = Target::parse("role=web andd x").unwrap_err();
    assert_eq!(error.excerpt("role=web andd x"), "  role=web andd x\n           ^");
}

#[test]
fn hostile_nesting_and_length_are_refused() {
    for text in ["(".repeat(60_000), "!".repeat(60_000), "not ".repeat(15_000)] {
        assert!(Target::parse(&text).unwrap_err().message.contains("deeper"));
    }
    let deep = "(".repeat(MAX_DEPTH) + "a" + &")".repeat(MAX_DEPTH);
    assert_eq!(Target::parse(&deep).unwrap().to_string(), "a");
    assert!(Target::parse(&"a".repeat(MAX_TEXT + 1)).is_err());
    let long = "node-1234,".repeat(6_000) + "x";
    assert_eq!(Target::parse(&long).unwrap().plain_names().len(), 6_001);
    // The excerpt stays short whatever the expression is.
    let error = Target::parse(&(long.clone() + " x")).unwrap_err();
    assert!(error.excerpt(&long).len() < 300);
}

#[test]
fn a_label_may_be_named_like_a_word_of_the_grammar() {
    for text in [r#""or"=x"#, r#"a or "not"!=x and "and">=2"#, r#""all"=x"#, "label.or=x"] {
        assert_eq!(Target::parse(text).unwrap().to_string(), text);
    }
}

#[test]
fn plain_names_are_those_that_a_node_must_have() {
    let target = Target::parse("ship1,web* or (db and not old) or role=x").unwrap();
    assert_eq!(target.plain_names(), ["ship1", "db"]);
}

fn expr() -> impl Strategy<Value = Expr> {
    let name = prop_oneof![
        "[a-zA-Z0-9][a-zA-Z0-9._*?-]{0,6}",
        Just("and".to_owned()),
        Just("all".to_owned()),
        Just("[!a]*".to_owned()),
    ];
    // Names spelt like the keywords are only reachable in quotes, and `all` in quotes is a name.
    let names = prop::collection::vec(name, 1..4).prop_map(Expr::Names);
    let condition = (
        prop_oneof![Just(Side::Either), Just(Side::Label)],
        "[a-z][a-z0-9._/-]{0,6}",
        prop::sample::select(vec![Comparison::Is, Comparison::IsNot, Comparison::AtLeast]),
        prop::collection::vec(any::<String>(), 1..3),
    )
        .prop_filter_map("no prefix, no order of a fact", |(side, key, comparison, mut values)| {
            if comparison == Comparison::AtLeast {
                values.truncate(1);
            }
            let reserved = key.starts_with("fact.") || key.starts_with("label.") || FACTS.contains(&&*key);
            (!reserved).then_some(Expr::Condition(Condition { side, key, comparison, values }))
        });
    let fact = ("8G|4|[0-9]{1,9}", prop::sample::select(vec!["cpus", "memory"])).prop_map(|(value, key)| {
        Expr::Condition(Condition {
            side: Side::Fact,
            key: key.into(),
            comparison: Comparison::More,
            values: vec![value],
        })
    });
    prop_oneof![names, condition, fact].prop_recursive(5, 32, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|e| Expr::Not(Box::new(e))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expr::And),
            prop::collection::vec(inner, 2..4).prop_map(Expr::Or),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_shown_reads_back_as_the_same(expr in expr()) {
        let target = Target(expr);
        prop_assert_eq!(Target::parse(&target.to_string()), Ok(target.clone()), "{}", target);
    }

    #[test]
    fn no_text_panics(text in any::<String>()) {
        if let Err(error) = Target::parse(&text) {
            prop_assert!(text.is_char_boundary(error.offset));
            error.excerpt(&text);
        }
    }

    #[test]
    fn no_soup_of_tokens_panics(words in prop::collection::vec(
        prop::sample::select(vec!["and", "or", "not", "!", "(", ")", ",", "=", "!=", ">=", "a", "role", "[", "\"", "'x y'", " "]), 0..20)
    ) {
        let text = words.concat();
        match Target::parse(&text) {
            Ok(target) => prop_assert_eq!(Target::parse(&target.to_string()), Ok(target)),
            Err(error) => prop_assert!(error.offset <= text.len()),
        }
    }

    #[test]
    fn natural_order_is_an_order(a in "[0-9.a-c]{0,6}", b in "[0-9.a-c]{0,6}") {
        prop_assert_eq!(natural_order(&a, &b), natural_order(&b, &a).reverse());
    }
}

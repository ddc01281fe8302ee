//! The rules of templates, each as a row of a table.

use proptest::prelude::*;
use serde_json::json;

use super::*;

struct World {
    outputs: BTreeMap<&'static str, Values>,
}

impl StateOutputs for World {
    fn get(&self, id: &str) -> Outputs<'_> {
        match id {
            "later" => Outputs::Unknown { until: "pkg".into() },
            other => self.outputs.get(other).map_or(Outputs::None(StateOutcome::Skipped), Outputs::Known),
        }
    }
}

fn values(value: Value) -> Values {
    value.as_object().unwrap().clone()
}

fn world() -> World {
    let outputs = values(json!({"stdout": "1.2\n", "exit": 0, "list": ["a", "b"]}));
    World { outputs: BTreeMap::from([("version", outputs)]) }
}

const TEMPLATE: &str = "\
{# the head #}
{% for name in names %}
  {% if name != 'b' %}
{{ name }}={{ port }}
  {% endif %}
{% endfor %}
";

fn on_the_machine<T>(with: impl FnOnce(&Scope<'_>) -> T) -> T {
    let (vars, locals) = (
        values(json!({"port": 8080, "names": ["a", "b", "c"], "on": true, "none": null,
            "nested": {"a": {"b": 1.5}}, "braces": "{{ port }}", "item": "hidden"})),
        values(json!({"item": {"key": "k", "value": 3}})),
    );
    let facts = values(json!({"os": "debian"}));
    let secrets = values(json!({"token": "canary"}));
    let blobs = [TEMPLATE, "x\n\n{{ nothing_like_this }}"];
    let blobs: BTreeMap<_, _> =
        blobs.map(|text| (BlobId::of(text.as_bytes()), text.as_bytes().to_vec())).into();
    with(&Scope {
        vars: &vars,
        locals: &locals,
        facts: Some(&facts),
        secrets: &secrets,
        states: Some(&world()),
        blobs: &blobs,
    })
}

fn render(value: Value) -> Result<Rendering, TemplateError> {
    on_the_machine(|scope| Templates::new().render(&value, scope))
}

fn wrong(value: Value) -> String {
    render(value).unwrap_err().to_string()
}

#[test]
fn the_table_of_renderings() {
    for (template, expected) in [
        (json!("plain"), json!("plain")),
        (json!(7), json!(7)),
        (json!("{{ port }}"), json!(8080)),
        (json!("{{port}}"), json!(8080)),
        (json!("{{- port -}}"), json!(8080)),
        (json!(" {{ port }}"), json!(" 8080")),
        (json!("{{ port }}\n"), json!("8080\n")),
        (json!("{{ on }}"), json!(true)),
        (json!("{{ none }}"), json!(null)),
        (json!("{{ names }}"), json!(["a", "b", "c"])),
        (json!("{{ nested.a }}"), json!({"b": 1.5})),
        (json!("{{ vars.nested['a'].b }}"), json!(1.5)),
        (json!("{{ range(3) }}"), json!([0, 1, 2])),
        (json!("{{ names | map('upper') }}"), json!(["A", "B", "C"])),
        (json!("{{ port }}{{ port }}"), json!("80808080")),
        (json!("{{ 'a' if on else 'b' }}"), json!("a")),
        (json!("{{ missing | default('x') }}"), json!("x")),
        (json!("{{ 'yes' if missing is defined else 'no' }}"), json!("no")),
        // A value that looks like a template is a value.
        (json!("{{ braces }}"), json!("{{ port }}")),
        // What only this state sees wins, except by way of `vars`.
        (json!("{{ item.key }}{{ item.value }}"), json!("k3")),
        (json!("{{ vars.item }}"), json!("hidden")),
        (json!("on {{ facts.os }}"), json!("on debian")),
        (json!("{{ secrets.token }}"), json!("canary")),
        (json!("{{ states['version'].stdout | trim }}"), json!("1.2")),
        (json!("{{ states.version.exit }}"), json!(0)),
        (json!("{{ states['version'].list[1] }}"), json!("b")),
        (json!("{{ states['skipped'].stdout | default('none') }}"), json!("none")),
        (json!("{{ 'ran' if states['skipped'] else 'skipped' }}"), json!("skipped")),
        (json!("{{ names.count('a') }} {{ 'A-b'.lower() }}"), json!("1 a-b")),
        (json!("echo {{ \"it's\" | quote }} {{ 'a/b' | quote }}"), json!(r"echo 'it'\''s' a/b")),
        (
            json!(["{{ port }}", {"a": "{{ on }}", "b": [1, "{{ none }}"]}]),
            json!([8080, {"a": true, "b": [1, null]}]),
        ),
        (json!({"$template": BlobId::of(TEMPLATE.as_bytes()).0, "$file": "a.j2"}), json!("a=8080\nc=8080\n")),
        (json!({"$blob": "{{ x }}", "$file": "{{ y }}"}), json!({"$blob": "{{ x }}", "$file": "{{ y }}"})),
        (json!({"$tree": [{"path": "{{ x }}"}]}), json!({"$tree": [{"path": "{{ x }}"}]})),
        (json!("{% raw %}{{ x }}{% endraw %}"), json!("{{ x }}")),
        // Nothing is escaped, whatever the text is.
        (json!("<a href=\"{{ 'x&y' }}\">"), json!("<a href=\"x&y\">")),
    ] {
        let shown = template.to_string();
        match render(template) {
            Ok(rendering) => assert_eq!(rendering, Rendering::Known(expected), "{shown}"),
            Err(error) => panic!("{shown}: {error}"),
        }
    }
}

#[test]
fn what_is_not_known_yet_says_until_when() {
    let unknown = Rendering::Unknown { until: "pkg".into() };
    for template in [
        json!("{{ states['later'].stdout }}"),
        json!("{{ states['later'].stdout | default('x') }}"),
        json!("a {{ states.later.stdout }}"),
        json!("{% if states['later'] %}a{% endif %}"),
        json!(["a", {"b": "{{ states['later'].n + 1 }}"}]),
    ] {
        assert_eq!(render(template.clone()).unwrap(), unknown, "{template}");
    }
    // A branch that is not taken is not read.
    let other = json!("{{ port if on else states['later'].stdout }}");
    assert_eq!(render(other).unwrap(), Rendering::Known(json!(8080)));
}

#[test]
fn the_table_of_errors() {
    let file = BlobId::of(b"x\n\n{{ nothing_like_this }}").0;
    for (template, expected) in [
        (json!("{{ missing }}"), "line 1, column 4: `missing` is undefined"),
        (json!("a\nbc {{ missing }}"), "line 2, column 7: `missing` is undefined"),
        (json!("{{ nested.x.y }}"), "`nested.x` is undefined"),
        (json!("{{ [missing] }}"), "is undefined"),
        (json!("{% if missing %}a{% endif %}"), "`missing` is undefined"),
        (json!("{{ port"), "the template cannot be read"),
        (json!("{{ port | nofilter }}"), "unknown filter"),
        (json!("{{ states['skipped'].stdout }}"), "needs a default("),
        (json!("{{ states['version'].nope }}"), "is undefined"),
        (json!("{{ states[port].x }}"), "write the state's id in quotes"),
        (json!("{{ states | length }}"), "write the state's id in quotes"),
        (json!("{{ states.get('version') }}"), "write the state's id in quotes"),
        (json!("{% for s in states %}{% endfor %}"), "write the state's id in quotes"),
        (json!("{% set states = 1 %}{{ states }}"), "`states` cannot be set"),
        (json!("{% include 'x' %}"), "`include` is not taken here"),
        (
            json!("{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}"),
            "runs too long",
        ),
        (json!("{{ 'x' * 999999999 }}"), "runs too long"),
        (json!("{{ debug() }}"), "debug"),
        (
            json!({"$template": file, "$file": "app.j2"}),
            "app.j2: line 3, column 4: `nothing_like_this` is undefined",
        ),
        (
            json!({"$template": "none", "$file": "app.j2"}),
            "app.j2: line 1, column 1: its text is not in the catalog",
        ),
        // Words that could quote a secret are left out.
        (json!("{{ secrets.token | int }}"), "line 1, column 20: invalid operation"),
        (json!("{{ secrets.nope }}"), "`secrets.nope` is undefined"),
    ] {
        let message = wrong(template.clone());
        assert!(message.contains(expected), "{template}: {message}");
        assert!(!message.contains("canary"), "{template}: {message}");
    }
}

#[test]
fn before_the_machine_is_asked_there_are_variables_only() {
    let (vars, none, blobs) = (values(json!({"a": 1})), Values::new(), BTreeMap::new());
    let scope =
        Scope { vars: &vars, locals: &none, facts: None, secrets: &none, states: None, blobs: &blobs };
    let render = |text: &str| Templates::new().render(&json!(text), &scope);
    assert_eq!(render("{{ a }}"), Ok(Rendering::Known(json!(1))));
    assert!(render("{{ facts.os | default('x') }}").unwrap_err().message.contains("only on the machine"));
    assert!(render("{{ states['x'].y }}").unwrap_err().message.contains("only on the machine"));
}

#[test]
fn expressions_are_true_as_jinja_counts() {
    for (expression, expected) in [
        ("true", true),
        ("port > 80 and facts.os == 'debian'", true),
        ("names", true),
        ("[]", false),
        ("0", false),
        ("none", false),
        ("missing is defined", false),
        ("states['version'].exit == 0", true),
        ("states['skipped'].exit is defined", false),
        ("states['skipped'].outcome == 'skipped' and not states['skipped'].changed", true),
        ("item.value == 3", true),
    ] {
        let verdict = on_the_machine(|scope| Templates::new().eval(expression, scope));
        assert_eq!(verdict, Ok(Verdict::Known(expected)), "{expression}");
    }
    let unknown = on_the_machine(|scope| Templates::new().eval("states['later'].exit == 0", scope));
    assert_eq!(unknown, Ok(Verdict::Unknown { until: "pkg".into() }));
    for (expression, expected) in [
        ("missing", "`missing` is undefined"),
        ("port ==", "the template cannot be read"),
        ("", "the template cannot be read"),
        ("port > missing", "`missing` is undefined"),
    ] {
        let error = on_the_machine(|scope| Templates::new().eval(expression, scope)).unwrap_err();
        assert!(error.to_string().contains(expected), "{expression}: {error}");
    }
}

#[test]
fn reads_are_found_without_running() {
    let template = "{{ states['in-file'].x }}{{ secrets.a }}";
    let blobs = BTreeMap::from([(BlobId::of(template.as_bytes()), template.as_bytes().to_vec())]);
    let value = json!({
        "a": ["{% if false %}{{ states['b'].x }}{% endif %}", "{{ states.a.x + states['b'].y }}"],
        "plain": "states['none']",
        "file": {"$template": BlobId::of(template.as_bytes()).0, "$file": "x"},
        "broken": "{{ states['c'",
    });
    let found = reads(&value, &blobs);
    assert_eq!(
        found,
        Reads { states: vec!["a".into(), "b".into(), "in-file".into()], secrets: true, facts: false }
    );
    let found = expression_reads("facts.os == 'x' and states['y'].z");
    assert_eq!(found, Reads { states: vec!["y".into()], secrets: false, facts: true });
}

#[test]
fn names_that_a_template_binds_itself_are_not_read() {
    let text = "{% set a = x %}{% for b, c in y %}{{ a }}{{ b }}{{ c }}{{ loop.index }}{% endfor %}{{ b }}\
        {% macro m(d, e=z) %}{{ d }}{{ e }}{% endmacro %}{{ m(1) }}{% with f = w %}{{ f }}{% endwith %}{{ f }}";
    let names: Vec<_> = scan(text).names.into_iter().map(|name| name.name).collect();
    assert_eq!(names, ["x", "y", "b", "z", "w", "f"]);
    let optional = scan(
        "{{ a | default(b) }}{{ a }}{{ c }}{% if d is defined %}{{ d }}{% endif %}{{ vars.e | d(1) }}{{ vars.f }}",
    );
    let required: Vec<_> = optional
        .names
        .iter()
        .filter(|name| optional.is_required(name))
        .map(|n| n.attribute.clone().unwrap_or(n.name.clone()))
        .collect();
    assert_eq!(required, ["b", "c", "f"]);
}

/// Each of these goes one call deeper a word, somewhere in the parser, the compiler or here.
#[test]
fn hostile_templates_do_not_exhaust_the_stack() {
    let many = |piece: &str| piece.repeat(50_000);
    for template in [
        format!("{{{{ 1{} }}}}", many("+1")),
        format!("{{{{ a{} }}}}", many("|a")),
        format!("{{{{ a{} }}}}", many(".a")),
        format!("{{{{ {}a }}}}", many("not ")),
        format!("{{{{ {}a }}}}", many("-")),
        format!("{{{{ {}a }}}}", many("(")),
        format!("{{{{ {}a }}}}", many("[")),
        format!("{{{{ a{} }}}}", many(" if a else a")),
        format!("{{% if a %}}{}{{% endif %}}", many("{% elif a %}")),
        many("{% if a %}"),
        many("{% for a in b %}"),
        many("{{ a }}"),
    ] {
        let scanned = scan(&template);
        let rendered = render(json!(template));
        assert!(rendered.is_err() && (!scanned.faults.is_empty() || !scanned.names.is_empty()));
    }
    // Just below the limits everything is fine, also unoptimised on a test's small stack.
    assert_eq!(
        render(json!(format!("{{{{ 1{} }}}}", "+1".repeat(249)))).unwrap(),
        Rendering::Known(json!(250))
    );
    let elifs = format!("{{% if false %}}{}{{% else %}}x{{% endif %}}", "{% elif false %}".repeat(200));
    assert_eq!(render(json!(elifs)).unwrap(), Rendering::Known(json!("x")));
}

proptest! {
    #[test]
    fn no_template_panics(pieces in prop::collection::vec(
        prop::sample::select(vec!["{{", "}}", "{%", "%}", "{#", "#}", " ", "port", "states", "['later']", ".x", "|", "default",
            "(", ")", "if", "endif", "for", "in", "names", "endfor", "set", "=", "\n", "é", "'", "-", "1", "[", "]", "%", "raw"]),
        0..24,
    )) {
        let text = pieces.concat();
        let _ = scan(&text);
        let _ = reads(&json!(text), &BTreeMap::new());
        if let Err(error) = render(json!(text)) {
            prop_assert!(error.line >= 1 && error.line <= text.matches('\n').count() + 1 && error.column >= 1);
            prop_assert!(!error.message.contains(|c: char| c.is_control()));
        }
    }

    #[test]
    fn what_is_quoted_is_one_word(text in "\\PC{0,12}") {
        let quoted = value::quote(&text);
        // What a shell makes of it: pieces in single quotes, and escaped quotes between them.
        let read = quoted.replace(r"'\''", "\u{1}").replace('\'', "").replace('\u{1}', "'");
        prop_assert_eq!(read, text.clone());
        prop_assert!(!quoted.is_empty() && (quoted.starts_with('\'') || !quoted.contains([' ', '$', '*', ';'])));
    }
}

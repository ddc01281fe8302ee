//! A secret is in the file that was declared to hold it, and nowhere else.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use mainstay_core::state::StateOutcome;
use mainstay_core::state::catalog::RequisiteKind;
use mainstay_core::state::redaction::HIDDEN;
use mainstay_core::state::session::Ask;
use serde_json::json;

use crate::machine::{Machine, catalog, state};

const CANARY: &str = "canary+Zq7/ü\"x";
const TWISTED: &str = "YRANAC-EHT-DETSIWT";

#[test]
fn nothing_that_is_said_or_kept_holds_a_secret() {
    let machine = Machine::new();
    let encoded = data_encoding::BASE64.encode(format!("user:{CANARY}:rest").as_bytes());
    // Nobody said that this file holds a secret.
    fs::write(machine.path("found"), format!("key={CANARY}\nbasic {encoded}\n")).unwrap();
    let quoted = "{{ secrets.token | quote }}";
    let mut catalog = catalog([
        state(
            "wanted",
            "file",
            json!({"path": machine.path("wanted"), "content": "t={{ secrets.token }}\n", "mode": "0600"}),
        ),
        state("found", "file", json!({"path": machine.path("found"), "content": "key=gone\n"})),
        // A command that was given one gives out another: it is as secret.
        state("twist", "cmd", json!({"run": format!("test -n {quoted} && echo {TWISTED}"), "probe": true})),
        state(
            "flows",
            "file",
            json!({"path": machine.path("flows"), "content": "{{ states['twist'].stdout }}"}),
        )
        .reads(2),
        state(
            "fails",
            "cmd",
            json!({"run": format!("echo {quoted} | base64 >&2; echo {quoted} | tr a-z A-Z; exit 3")}),
        ),
        state("started", "cmd", json!({"run": [format!("/no/such/{{{{ secrets.token }}}}")]})),
        state("guarded", "cmd", json!({"run": "true"})).unless(format!("test {quoted} = x")),
        state("checked", "cmd", json!({"run": "true"})).check(&format!("echo {quoted}; exit 1")),
        // Only its check is given one, and changes it beyond recognition.
        state("shouted", "cmd", json!({"run": "true"}))
            .check(&format!("echo {quoted} | tr a-z n-za-m >&2; exit 1")),
        state("told", "cmd", json!({"run": format!("cat {}", machine.path("wanted"))}))
            .on(RequisiteKind::Require, &[0]),
        state("declared", "cmd", json!({"run": format!("echo {TWISTED} | rev | rev")})).sensitive(),
        state("wrong", "file", json!({"path": "{{ secrets.token }}", "content": "x"})),
        state(
            "number",
            "file",
            json!({"path": machine.path("number"), "content": "x", "mode": "{{ secrets.token | upper }}"}),
        ),
    ]);
    catalog.secrets.insert("token".into(), json!(CANARY));
    let mut session = machine.session();
    session.ask(Ask::Catalog(Box::new(catalog)));
    let plan = session.plan(1);
    let done = session.apply(&plan);
    let outcome = |id: &str| done.reports.iter().find(|report| report.state.as_str() == id).unwrap();
    assert_eq!(outcome("wanted").outcome, StateOutcome::Changed, "{done:?}");
    assert_eq!(outcome("flows").outcome, StateOutcome::Changed, "{done:?}");
    assert_eq!(outcome("told").outcome, StateOutcome::Changed);
    assert!(outcome("told").outputs["stdout"].as_str().unwrap().contains(HIDDEN));
    assert_eq!(outcome("fails").reason.as_deref(), Some("run: exit status 3: ‹secret›"));
    // How long it is nobody needs to know either.
    assert_eq!(outcome("wanted").outputs["size"], json!(HIDDEN));
    // What says nothing about the secret is still shown.
    let wanted = plan.steps.iter().find(|step| step.state.as_str() == "wanted").unwrap();
    let mode = wanted.changes.iter().find(|change| change.field == "mode").unwrap();
    assert_eq!(serde_json::to_value(&mode.after).unwrap(), json!({"known": "0600"}));
    session.plan(2);

    let kept = ["wanted", "flows"].map(|name| machine.path(name));
    assert_eq!(machine.read("wanted"), format!("t={CANARY}\n"));
    assert_eq!(machine.read("flows"), TWISTED);
    let mut places = vec![("what was told".to_owned(), session.heard.clone())];
    files(&machine.data(), &mut places);
    files(Path::new(&machine.path("")), &mut places);
    places.retain(|(place, _)| !kept.contains(place));
    assert!(places.len() > 2, "{places:?}");
    for (place, text) in places {
        for (what, needle) in needles() {
            assert!(!text.contains(&needle), "{place} holds the {what} ({needle}):\n{text}");
        }
    }
}

#[test]
fn no_secret_is_in_the_words_of_a_refusal() {
    let machine = Machine::new();
    let mut catalog = catalog([state("x", &format!("of-{CANARY}"), json!({}))]);
    catalog.secrets.insert("token".into(), json!(CANARY));
    let mut session = machine.session();
    session.ask(Ask::Catalog(Box::new(catalog)));
    let problem = session.problem();
    assert!(problem.contains(HIDDEN) && !session.heard.contains("Zq7"), "{problem}");
}

#[test]
fn what_a_secret_state_put_into_a_file_is_not_shown_by_others_that_edit_it() {
    let machine = Machine::new();
    let at = |name: &str| machine.path(name);
    for name in ["real", "tree"] {
        fs::create_dir(at(name)).unwrap();
    }
    fs::write(at("real/file"), "").unwrap();
    symlink("real", at("alias")).unwrap();
    symlink("real/file", at("link")).unwrap();
    let line = |path: &str, line: &str, find: &str| json!({"path": at(path), "line": line, "match": find});
    let states = |extra: &str| {
        let mut states = vec![
            state("twist", "cmd", json!({"run": "echo {{ secrets.token }} | tr a-z A-Z", "probe": true})),
            state("base", "file", json!({"path": at("app.conf"), "mode": "0600"})),
            state("inner", "file", json!({"path": at("tree/file"), "mode": "0600"})),
            // One that comes before what makes the file secret, and yet finds it there the next time.
            state("early", "line", line("app.conf", &format!("early={extra}"), "^early=")),
            state("option", "line", line("app.conf", &format!("option={TWISTED}"), "^option=")).sensitive(),
            state(
                "filter",
                "line",
                line("app.conf", "filter={{ secrets.token | replace('n', 'm') }}", "^filter="),
            ),
            state("flows", "line", line("app.conf", "flows={{ states['twist'].stdout }}", "^flows="))
                .reads(0),
            state("linked", "line", line("link", &format!("linked={TWISTED}"), "^linked=")).sensitive(),
            state("whole", "directory", json!({"path": at("tree")})).sensitive(),
            state("inside", "line", line("tree/file", &format!("inside={TWISTED}"), "^inside=")).sensitive(),
        ];
        for (id, path) in [
            ("extra", "app.conf"),
            ("aliased", "alias/file"),
            ("target", "real/file"),
            ("beneath", "tree/file"),
        ] {
            let mut params = line(path, &format!("{id}={extra}"), &format!("^{id}="));
            params["backup"] = json!(true);
            states.push(state(id, "line", params));
        }
        states.push(state("copy", "line", line("app.conf.bak", &format!("copy={extra}"), "^copy=")));
        let mut catalog = catalog(states);
        catalog.secrets.insert("token".into(), json!("canary-of-nine"));
        Ask::Catalog(Box::new(catalog))
    };
    for extra in ["one", "two"] {
        // Whoever comes new knows nothing of what the one before put there.
        let mut session = machine.session();
        session.ask(states(extra));
        session.plan(1);
        assert_eq!(session.apply_all().counts.failed, 0);
        for (file, lines) in [
            ("app.conf", &["extra", "early"][..]),
            ("real/file", &["aliased", "target"]),
            ("tree/file", &["beneath"]),
            ("app.conf.bak", &["copy"]),
        ] {
            let text = machine.read(file);
            assert!(lines.iter().all(|id| text.contains(&format!("{id}={extra}\n"))), "{file}: {text}");
        }
        for needle in [TWISTED, "camary", "CANARY", "canary-of-nine"] {
            assert!(!session.heard.contains(needle), "{needle}: {}", session.heard);
        }
    }
    let text = machine.read("app.conf");
    assert!(text.contains("filter=camary-of-mime\nflows=CANARY-OF-NINE\n"), "{text}");
}

#[test]
fn nor_is_what_a_state_without_a_path_put_into_it() {
    let machine = Machine::new();
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap().name;
    let (keys, key) =
        (machine.path("keys"), "AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    let own = json!({"user": user, "key": format!("ssh-ed25519 {key} own"), "file": keys});
    for line in ["# one", "# two"] {
        let mut session = machine.session();
        session.ask(Ask::Catalog(Box::new(catalog([
            state("early", "line", json!({"path": keys, "line": line, "match": "^# ", "create": true})),
            state("key", "ssh_key", own.clone()).sensitive(),
            state("late", "line", json!({"path": keys, "line": format!("{line}!"), "match": "^# .*!$"})),
        ]))));
        session.plan(1);
        let done = session.apply_all();
        assert_eq!(done.counts.failed, 0, "{done:?}");
        assert!(machine.read("keys").contains(key));
        assert!(!session.heard.contains(key), "{}", session.heard);
    }
}

#[test]
fn what_was_made_of_a_secret_is_in_no_reason() {
    let machine = Machine::new();
    let path = |name: &str| format!("{}{{{{ secrets.pw | upper }}}}{name}", machine.path(""));
    let mut catalog = catalog([
        state("dir", "directory", json!({"path": path("")})),
        state("file", "file", json!({"path": path("/x"), "content": "a"})),
        state("other", "cmd", json!({"run": "true"})).become_user("{{ secrets.pw | upper }}"),
    ]);
    catalog.secrets.insert("pw".into(), json!("canary-of-nine"));
    let mut session = machine.session();
    session.ask(Ask::Catalog(Box::new(catalog)));
    session.ask(Ask::Analyze { cycle: 1, explain: true });
    let plan = session.planned();
    assert!(plan.steps[1].reason.as_deref().unwrap().contains("it provides path:‹secret›"), "{plan:?}");
    assert!(!session.heard.contains("CANARY"), "{}", session.heard);
}

#[test]
fn a_file_that_no_secret_state_manages_is_shown_as_ever() {
    let machine = Machine::new();
    let mut catalog = catalog([
        state("user", "directory", json!({"path": machine.path("home"), "group": "{{ secrets.group }}"})),
        state("mine", "file", json!({"path": machine.path("home/file"), "content": "shown\n"})),
    ]);
    catalog.secrets.insert("group".into(), json!(nix::unistd::getegid().to_string()));
    let mut session = machine.session();
    session.ask(Ask::Catalog(Box::new(catalog)));
    let plan = session.plan(1);
    assert!(
        plan.steps[1].changes.iter().any(|change| change.diff.as_deref() == Some("@@ -0,0 +1 @@\n+shown\n"))
    );
}

/// The secret as it stands, as JSON has it, in capitals, and in base64 wherever it may begin.
fn needles() -> Vec<(&'static str, String)> {
    let json = serde_json::to_string(CANARY).unwrap();
    let mut needles = vec![
        ("secret", CANARY.to_owned()),
        ("secret in JSON", json.trim_matches('"').to_owned()),
        // Up to what JSON writes otherwise.
        ("secret in capitals", CANARY.split('ü').next().unwrap().to_uppercase()),
        ("secret as a check wrote it", "pnanel+Zd7/".to_owned()),
        ("output", TWISTED.to_owned()),
        // Whoever has a guess could try it out.
        ("digest of the secret content", digest(&format!("t={CANARY}\n"))),
        ("digest of the output", digest(TWISTED)),
    ];
    for before in ["", "x", "xy"] {
        let encoded = data_encoding::BASE64.encode(format!("{before}{CANARY}").as_bytes());
        // The last characters depend on what follows, the first on what is before.
        needles.push(("secret in base64", encoded[4..encoded.len() - 5].to_owned()));
    }
    needles
}

fn digest(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..32].to_owned()
}

fn files(directory: &Path, places: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, places);
        } else {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            places.push((path.display().to_string(), text));
        }
    }
}

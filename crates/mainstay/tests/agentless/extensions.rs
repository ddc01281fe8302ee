//! Extension modules from a states file to a machine: here and over ssh.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use crate::server::{Ran, address, on_path, start};

const SHELL: &[u8] = include_bytes!("../../../../examples/extensions/flag.sh");
const PYTHON: &[u8] = include_bytes!("../../../../examples/extensions/ini.py");

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The examples beside a states file that uses them.
fn write_site(dir: &Path) {
    fs::create_dir_all(dir.join("modules")).unwrap();
    fs::write(dir.join("modules/flag.sh"), SHELL).unwrap();
    fs::write(dir.join("modules/ini.py"), PYTHON).unwrap();
    fs::write(dir.join("app.ini"), "; mine\n[pool]\nsize = 4\n").unwrap();
    // Where there is no Python, what it would do is told of as skipped.
    let python = on_path("python3");
    if !python {
        eprintln!("SKIPPED ini.py: there is no python3 here");
    }
    let (ini, pool) = match python {
        true => (
            format!("  ini: {{path: modules/ini.py, sha256: {}}}\n", sha256(PYTHON)),
            format!(
                "  pool:\n    ini: {{path: {}/app.ini, section: pool, option: size, value: 8}}\n",
                dir.display()
            ),
        ),
        false => Default::default(),
    };
    let site = format!(
        "extensions:\n  flag: {{path: modules/flag.sh, sha256: {flag}}}\n{ini}\
         states:\n  {dir}/colour:\n    flag: {{word: '{{{{ word }}}}'}}\n{pool}  \
         note:\n    file: {{path: {dir}/note, content: \"{{{{ states['{dir}/colour'].word }}}}\"}}\nvars: {{word: green}}\n",
        flag = sha256(SHELL),
        dir = dir.display(),
    );
    fs::write(dir.join("site.yaml"), site).unwrap();
}

fn check(dir: &Path, word: &str) {
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
    assert_eq!((read("colour"), read("note")), (format!("{word}\n"), word.to_owned()));
    if on_path("python3") {
        assert_eq!(read("app.ini"), "; mine\n[pool]\nsize = 8\n");
    }
}

fn mainstay(dir: &Path, args: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
    command.args(args).current_dir(dir).stdin(Stdio::null());
    command.env("HOME", dir).env_remove("XDG_CACHE_HOME").env("MAINSTAY_DATA", dir.join("data"));
    Ran::of(command.output().unwrap())
}

#[test]
fn a_machine_is_brought_up_with_programs_of_the_states_file() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_site(dir);
    let plan = mainstay(dir, &["plan", "site.yaml"]);
    assert_eq!(plan.code, Some(3), "{plan:?}");
    assert!(plan.stdout.contains("word: absent → green"), "{plan:?}");
    assert!(!dir.join("colour").exists());
    let up = mainstay(dir, &["up", "site.yaml", "--yes"]);
    assert_eq!(up.code, Some(0), "{up:?}");
    check(dir, "green");
    let again = mainstay(dir, &["up", "site.yaml", "--yes", "--json"]);
    assert_eq!(again.code, Some(0), "{again:?}");
    let summary = again.json().into_iter().find(|line| line["event"] == "summary").unwrap();
    assert_eq!((&summary["changed"], &summary["cycles"]), (&0.into(), &0.into()), "{summary}");
    let graph = mainstay(dir, &["plan", "site.yaml", "--graph", "mermaid"]);
    assert!(graph.code == Some(0) && graph.stdout.contains("colour<br/>flag"), "{graph:?}");
    // The program's own schema checks what is written, with the place.
    let site = fs::read_to_string(dir.join("site.yaml")).unwrap();
    fs::write(dir.join("wrong.yaml"), site.replace("flag: {word:", "flag: {wort:")).unwrap();
    let wrong = mainstay(dir, &["plan", "wrong.yaml"]);
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    assert!(wrong.stderr.contains("wort"), "{wrong:?}");
}

#[test]
fn a_program_that_was_tampered_with_is_refused_before_anything_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_site(dir);
    // Also when the right one is in the cache already.
    assert_eq!(mainstay(dir, &["plan", "site.yaml"]).code, Some(3));
    let canary = dir.join("canary");
    let tampered = format!("#!/bin/sh\ntouch {}\n", canary.display());
    fs::write(dir.join("modules/flag.sh"), [tampered.as_bytes(), SHELL].concat()).unwrap();
    let up = mainstay(dir, &["up", "site.yaml", "--yes"]);
    assert_eq!(up.code, Some(2), "{up:?}");
    assert!(up.stderr.contains("site.yaml:2:") && up.stderr.contains("sha256"), "{up:?}");
    assert!(!canary.exists() && !dir.join("colour").exists());
    fs::remove_file(dir.join("modules/flag.sh")).unwrap();
    let gone = mainstay(dir, &["up", "site.yaml", "--yes"]);
    assert!(gone.code == Some(2) && gone.stderr.contains("there is no such file"), "{gone:?}");
}

#[test]
fn a_host_over_ssh_gets_the_programs_with_its_states() {
    let Some(server) = start("a_host_over_ssh_gets_the_programs_with_its_states") else { return };
    let dir = server.dir.path();
    write_site(dir);
    let host = address(1);
    let up = server.run(&["up", "site.yaml", "--ssh", &host, "--yes"]);
    assert_eq!(up.code, Some(0), "{up:?}");
    check(dir, "green");
    let kept = server.at("host1/data/state/extensions");
    assert!(kept.join(sha256(SHELL)).exists(), "it did not run from the far side's own copy");
    let again = server.run(&["plan", "site.yaml", "--ssh", &host]);
    assert_eq!(again.code, Some(0), "{again:?}");
    // A copy that somebody changed over there is replaced, not run.
    let copy = kept.join(sha256(SHELL));
    fs::remove_file(&copy).unwrap();
    fs::write(&copy, format!("#!/bin/sh\ntouch {}\n", server.at("canary").display())).unwrap();
    let other = server.run(&["up", "site.yaml", "--ssh", &host, "--yes", "-e", "word=blue"]);
    assert_eq!(other.code, Some(0), "{other:?}");
    check(dir, "blue");
    assert!(!server.at("canary").exists());
}

//! `examples/web` on a real system: the example as it lies there is applied in a scratch root with systemd as process 1, where
//! nginx is still to be installed.
//!
//! The packages are fetched when the root is made; the root itself has no network.

#[allow(dead_code, reason = "the tests of modules enter roots in other ways too")]
#[path = "../../module/tests/system/scratch.rs"]
mod scratch;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use scratch::{Extra, PROGRAM, Scratch};
use serde_json::Value;

const NGINX: Extra = Extra { name: "nginx", script: "apt-get install -y -q --download-only nginx" };

/// Set where the test runs itself in the scratch root.
const INSIDE: &str = "MAINSTAY_WEB_INSIDE";

const NAME: &str = "the_web_server_comes_up_stays_and_follows_its_files";

#[test]
fn the_web_server_comes_up_stays_and_follows_its_files() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let scratch = match Scratch::with(&NGINX) {
        Ok(scratch) => scratch,
        Err(why) => return eprintln!("SKIPPED {NAME}: {why}"),
    };
    let root = scratch.root();
    fs::copy(env!("CARGO_BIN_EXE_mainstay"), root.join("usr/bin/mainstay")).unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/web");
    let copied = Command::new("cp").arg("-r").arg(example).arg(root.join("web")).status().unwrap();
    assert!(copied.success());
    let said = scratch.boot(&format!("/usr/bin/env {INSIDE}=1 /{PROGRAM} --exact {NAME} --nocapture"));
    let said = said.expect("systemd-nspawn is started");
    if !said.contains("running 1 test") {
        return eprintln!("SKIPPED {NAME}: systemd does not come up in a scratch root here: {}", said.trim());
    }
    assert!(said.contains("1 passed; 0 failed"), "in the scratch root:\n{said}");
}

fn inside() {
    assert!(!Path::new("/usr/sbin/nginx").exists());
    let planned = mainstay(&["plan"], 3);
    assert_eq!(step(&planned, "nginx")["step"], "change");
    assert!(!Path::new("/srv/www").exists());

    let first = mainstay(&["up", "--yes"], 0);
    assert_eq!(outcomes(&first, "failed").len() + outcomes(&first, "blocked").len(), 0, "{first:?}");
    assert!(get().ends_with(&fs::read_to_string("/web/pages/index.html").unwrap()), "{}", get());
    assert!(!get().contains("X-Edition"));
    assert_eq!(systemctl(&["is-enabled", "nginx"]), "enabled");

    let second = mainstay(&["up", "--yes"], 0);
    assert_eq!(outcomes(&second, "changed"), [""; 0]);

    // A page is not the server's configuration: nothing is restarted for it.
    let started = systemctl(&["show", "-P", "InvocationID", "nginx"]);
    fs::write("/web/pages/index.html", "another page\n").unwrap();
    assert_eq!(outcomes(&mainstay(&["up", "--yes"], 0), "changed"), ["pages"]);
    assert!(get().ends_with("another page\n"), "{}", get());
    assert_eq!(systemctl(&["show", "-P", "InvocationID", "nginx"]), started);

    let template = fs::read_to_string("/web/site.conf.j2").unwrap();
    let wrong = template.replace("    index ", "    no_such_directive on;\n    index ");
    fs::write("/web/site.conf.j2", wrong).unwrap();
    let refused = mainstay(&["up", "--yes"], 1);
    assert_eq!(outcomes(&refused, "failed"), ["configuration"]);
    assert!(get().ends_with("another page\n"), "a wrong configuration took the server down");

    let marked = template.replace("    index ", "    add_header X-Edition two;\n    index ");
    assert_ne!(marked, template);
    fs::write("/web/site.conf.j2", marked).unwrap();
    let changed = outcomes(&mainstay(&["up", "--yes"], 0), "changed");
    assert!(changed.contains(&"site".to_owned()) && changed.contains(&"running".to_owned()), "{changed:?}");
    assert!(get().contains("X-Edition: two\r\n"), "{}", get());
    assert_eq!(outcomes(&mainstay(&["up", "--yes"], 0), "changed"), [""; 0]);
}

/// Runs it on the example, to this exit status; its events.
#[track_caller]
fn mainstay(words: &[&str], status: i32) -> Vec<Value> {
    let mut command = Command::new("/usr/bin/mainstay");
    command.args(words).args(["/web/site.yaml", "--local", "--json"]).env("HOME", "/root");
    let output = command.output().unwrap();
    let [said, complained] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert_eq!(output.status.code(), Some(status), "{words:?}\n{said}{complained}");
    said.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn step(events: &[Value], state: &str) -> Value {
    let of_state = |event: &&Value| event["event"] == "step" && event["state"] == state;
    events.iter().find(of_state).cloned().unwrap_or_else(|| panic!("nothing is said of {state}"))
}

/// The states that ended so in a modify phase.
fn outcomes(events: &[Value], outcome: &str) -> Vec<String> {
    let ended = |event: &&Value| event["phase"] == "modify" && event["outcome"] == outcome;
    events.iter().filter(ended).map(|event| event["state"].as_str().unwrap().to_owned()).collect()
}

fn systemctl(words: &[&str]) -> String {
    let output = Command::new("systemctl").args(words).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// What the server answers, head and body.
fn get() -> String {
    let mut stream = TcpStream::connect("127.0.0.1:80").unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\nHost: www.example.org\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

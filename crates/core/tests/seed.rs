//! Every message of the format's own documentation parses, verbatim, to what it says.
//!
//! The files in `seed/` are its examples, letter for letter, trailing commas included.

use std::fmt::Write as _;

use mainstay_core::message::{self, Delivery, MessageSpec};

/// One line with everything that a message says.
fn line(spec: &MessageSpec) -> String {
    let to: Vec<_> = spec.to.iter().map(|name| name.as_str()).collect();
    let mut line = format!("{} -> {} {:?}", spec.method, to.join(","), spec.args);
    match spec.delivery {
        Delivery::Event { .. } => line.push_str(" event"),
        Delivery::Command { expires, attempts: None } => write!(line, " expires={expires:?}").unwrap(),
        Delivery::Command { attempts: Some(a), .. } => {
            write!(line, " ack={:?}x{}", a.ack_timeout, a.retries + 1).unwrap();
        }
    }
    if let Some(timeout) = spec.method_timeout {
        write!(line, " timeout={timeout:?}").unwrap();
    }
    let reply = &spec.reply;
    write!(line, " | {}", reply.method).unwrap();
    if let Some(file) = &reply.file_name {
        write!(line, " {} {file}", reply.directory).unwrap();
    }
    if let (Some(ack), Some(retries)) = (reply.ack_timeout, reply.retries) {
        write!(line, " ack={ack:?}x{}", retries + 1).unwrap();
    }
    assert!(spec.data.is_empty() && spec.private.is_empty() && !spec.idempotent);
    line
}

#[test]
fn every_example_says_what_it_is_read_as() {
    let mut read = String::new();
    let mut files: Vec<_> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/seed"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let number = &path.file_name().unwrap().to_str().unwrap()[..2];
        for spec in message::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display())) {
            writeln!(read, "{number} {}", line(&spec)).unwrap();
        }
        // The same message however its fields are written.
        for same in [
            text.replace('\n', "\r\n"),
            format!("\u{feff}{text}"),
            text.replace("    ", "\t"),
            text.trim().trim_start_matches('[').trim_end_matches(']').to_owned(),
        ] {
            // Without its brackets a list of two is no longer one text.
            if number != "15" || same.starts_with(['[', '\u{feff}']) {
                assert_eq!(message::parse(&same), message::parse(&text), "{same}");
            }
        }
        let cased = |to: fn(&str) -> String| {
            ["toNode", "method", "replyMethod", "ACKTimeout", "fileName", "methodArgs"]
                .iter()
                .fold(text.clone(), |text, field| {
                    text.replace(&format!("\"{field}\""), &format!("\"{}\"", to(field)))
                })
        };
        for same in [cased(str::to_lowercase), cased(str::to_uppercase)] {
            assert_eq!(message::parse(&same), message::parse(&text), "{same}");
        }
    }
    assert_eq!(read, EXPECTED);
}

const EXPECTED: &str = r#"01 cmd -> ship1 ["bash", "-c", "sleep 5 & tree ./"] ack=5sx4 timeout=10s | file.append /var/cli/command_result/ some-file-name.result ack=5sx4
02 cmd.stream -> ship2 ["bash", "-c", "tail -f /var/log/syslog"] ack=3sx4 timeout=60s | file.append /some/result/directory/ my-syslog.log
03 op.list -> ship2 [] expires=86400s | file.append test/dir test.result
04 op.start -> ship2 ["REQHttpGet"] expires=86400s | file.append test/dir test.result
05 op.stop -> ship2 ["REQHttpGet", "ship2", "subscriber", "199"] expires=86400s | file.append test/dir test.result
06 cmd -> ship2 ["bash", "-c", "docker ps -a"] expires=86400s | file.append some/cli/command cli.result
07 cmd.stream -> ship2 ["bash", "-c", "docker ps -a"] expires=86400s timeout=10s | file.append some/cli/command cli.result
08 file.tail -> ship2 ["/var/log/system.log"] expires=86400s timeout=10s | file.append /my/tail/files/ tailfile.log
09 http.get -> ship2 ["https://web.ics.purdue.edu/~gchopra/class/public/pages/webdesign/05_simple.html"] ack=10sx4 timeout=3s | file.write web web.html
10 hello -> central [] expires=86400s | none
11 op.list -> ship2 [] expires=86400s | console
12 op.list -> ship2 [] expires=86400s | file.append test/dir test.result
13 op.list -> ship2 [] expires=86400s | file.write test/dir test.result
14 cmd -> ship1 ["bash", "-c", "sleep 3 & tree ./"] ack=10sx4 timeout=4s | file.append /var/steward/cli-command/executed-result some.log
15 cmd -> ship1 ["bash", "-c", "sleep 3 & tree ./"] ack=10sx4 timeout=4s | file.append cli-command-executed-result some.log
15 cmd -> ship2 ["bash", "-c", "sleep 3 & tree ./"] ack=10sx4 timeout=4s | file.append cli-command-executed-result some.log
16 http.get -> central,ship2 ["https://finn.no"] ack=5sx4 timeout=5s | file.write httpget finn.no.html
17 op.command -> ship2 ["ps"] ack=3sx4 timeout=7s | file.append opcommand_logs some.log ack=3sx4
18 op.command -> ship2 ["stopProc", "method=REQHttpGet", "kind=subscriber", "receivingNode=ship2"] ack=3sx4 timeout=7s | file.append opcommand_logs some.log ack=3sx4
19 op.command -> ship2 ["startProc", "method=REQHttpGet", "allowedNodes=central,node1"] ack=3sx4 timeout=7s | file.append opcommand_logs some.log ack=3sx4
20 file.tail -> ship2 ["./test.log"] ack=5sx4 timeout=200s | file.append ./my/log/files/ some.log
"#;

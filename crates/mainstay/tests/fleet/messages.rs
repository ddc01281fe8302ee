//! Messages between nodes, through the message socket that every node has.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use serde_json::Value;

use crate::lab::{Lab, eventually};

fn socket(lab: &Lab, node: &str, text: &str) -> Vec<Value> {
    let mut stream = UnixStream::connect(lab.path(node).join("message.sock")).expect("the message socket");
    stream.write_all(text.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// How many envelopes the hub holds for others.
fn held(lab: &Lab) -> u64 {
    lab.run(&["status", "--json"]).exits(0).json()[0]["queues"]["relay"].as_u64().expect("a number")
}

#[test]
fn two_agents_that_are_never_there_together_still_talk() {
    let mut lab = Lab::new(&["a"]);
    // b lets a run commands, and nobody else anything.
    std::fs::create_dir(lab.path("b")).unwrap();
    let rules = "[[allow]]\nfrom = \"a\"\nmethods = [\"cmd\"]\n";
    std::fs::write(lab.path("b").join("mainstay.toml"), rules).unwrap();
    lab.join("b", &[]);
    lab.until_online("b", true);
    lab.agent("b").stop();
    lab.until_online("b", false);

    let text = r#"[{
        "toNode": "b", "method": "REQCliCommand", "methodArgs": ["sh", "-c", "echo heard; exit 3"],
        "replyMethod": "REQToFileAppend", "directory": "answers", "fileName": "b.log",
    }]"#;
    let accepted = socket(&lab, "a", text);
    assert!(accepted[0]["id"].is_string() && accepted[0]["to"] == "b", "{accepted:?}");
    eventually("the hub holds it", || (held(&lab) == 1).then_some(()));
    let known = lab.run(&["messages", "--json"]).exits(0).json();
    let of_it = ["message", "from", "to", "method", "state"].map(|field| known[0][field].clone());
    assert_eq!(
        of_it,
        [&accepted[0]["id"], &"a".into(), &"b".into(), &"cmd".into(), &"held".into()].map(Value::clone)
    );
    lab.agent("a").crash();
    lab.until_online("a", false);

    lab.start_agent("b");
    // The request is gone from the hub, and what b says is held for a: the output with the end, and its receipt.
    let log = lab.path("b.log");
    eventually("b serves it", || std::fs::read_to_string(&log).unwrap().contains("exit 3").then_some(()));
    eventually("the answer is held", || (held(&lab) >= 1).then_some(()));
    assert!(lab.agent("b").stop().success());
    lab.until_online("b", false);

    lab.start_agent("a");
    let reply = lab.path("a").join("received/b/answers/b.log");
    let written = eventually("the reply is written", || {
        std::fs::read_to_string(&reply).ok().filter(|text| !text.is_empty())
    });
    assert_eq!(written, "heard\n");
    lab.start_agent("b");
    eventually("nothing is held any more", || (held(&lab) == 0).then_some(()));
    assert_eq!(std::fs::read_to_string(&log).unwrap().matches("starting").count(), 1, "it ran once");

    // What no rule allows is refused, and a list is taken whole or not at all.
    socket(&lab, "b", "{\"toNode\": \"a\", \"method\": \"cmd\", \"methodArgs\": [\"touch\", \"/tmp/x\"]}");
    eventually("b hears that a does not let it", || {
        std::fs::read_to_string(&log).unwrap().contains("rejected: no rule").then_some(())
    });
    // What the hub itself sends, it knows the end of.
    let order = lab.path("order.yaml");
    std::fs::write(&order, "{toNode: b, method: cmd, methodArgs: [sh, -c, exit 3]}").unwrap();
    let sent = lab.run(&["send", order.to_str().unwrap()]).exits(0).out;
    let end = eventually("it has ended", || {
        let shown = lab.run(&["messages", sent.trim(), "--json"]).exits(0).json();
        shown[0]["end"].is_object().then(|| shown[0]["end"].clone())
    });
    assert_eq!(end, serde_json::json!({"outcome": "finished", "exit_code": 3}));
    let refused = socket(&lab, "a", "[{toNode: b, method: ping}, {toNode: nobody, method: ping}]");
    assert!(refused.len() == 1 && refused[0]["error"].as_str().unwrap().contains("nobody"), "{refused:?}");
    let wrong = socket(&lab, "a", "[\n {\"toNode\": \"b\",\n  \"methud\": \"ping\"},\n]");
    assert!(wrong.iter().any(|line| line["line"] == 3 && line["field"] == "[0].methud"), "{wrong:?}");
}

/// The receiver stays away, and the hub holds the message for it: the origin gives up after its attempts, and says so where
/// errors are collected.
#[test]
fn what_is_not_acknowledged_in_time_is_reported() {
    let mut lab = Lab::new(&["a", "b"]);
    lab.agent("b").stop();
    lab.until_online("b", false);
    let accepted = socket(&lab, "a", "{toNode: b, method: ping, ACKTimeout: 1, retries: 0}");
    let id = accepted[0]["id"].as_str().expect("an id").to_owned();
    let report = eventually("the hub is told", || {
        let errors = lab.run(&["errors", "--json"]).exits(0).json();
        errors.into_iter().find(|line| line["text"].as_str().is_some_and(|text| text.contains(&id)))
    });
    let text = report["text"].as_str().unwrap();
    assert!(report["node"] == "a" && text.contains("undeliverable") && text.contains("so far"), "{report}");
}

#[test]
fn questions_for_names_do_not_take_each_others_answers() {
    let lab = Lab::new(&["a", "b"]);
    std::thread::scope(|scope| {
        let lab = &lab;
        let paths: Vec<_> = (0..16).map(|_| lab.path("a").join("message.sock")).collect();
        let asking: Vec<_> = paths
            .into_iter()
            .enumerate()
            .map(|(number, path)| {
                scope.spawn(move || {
                    let name = if number % 2 == 0 { "b" } else { "nobody" };
                    let mut stream = UnixStream::connect(path).unwrap();
                    write!(stream, "{{\"toNode\": \"{name}\", \"method\": \"ping\"}}").unwrap();
                    let mut answer = String::new();
                    stream.read_to_string(&mut answer).unwrap();
                    (name, answer)
                })
            })
            .collect();
        for asked in asking {
            let (name, answer) = asked.join().unwrap();
            assert_eq!(answer.contains("\"id\""), name == "b", "{name}: {answer}");
        }
    });
}

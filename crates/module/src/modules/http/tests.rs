use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread::{self, JoinHandle};

use mainstay_core::state::StepWord;
use serde_json::json;

use super::*;
use crate::fidelity::{Observation, Trial};

/// Gives these answers, one to each connection, and ends.
fn server(answers: Vec<(u16, &'static str)>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/health", listener.local_addr().unwrap());
    let serve = move || {
        let mut requests = Vec::new();
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                request.push(byte[0]);
            }
            requests.push(String::from_utf8(request).unwrap());
            let length = body.len();
            let answer =
                format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).unwrap();
        }
        requests
    };
    (url, thread::spawn(serve))
}

fn nothing() -> Observation {
    Observation::new()
}

#[test]
fn an_answer_as_wanted_is_unchanged() {
    let (url, server) = server(vec![(200, "all ok\n"), (200, "ok"), (204, "")]);
    let trial = Trial::of(Http);
    let planned =
        trial.analyze(json!({"url": url, "headers": {"x-probe": "yes"}, "match": "^all (ok|well)"}));
    assert_eq!(planned.unwrap().step, StepWord::Unchanged);
    assert_eq!(trial.analyze(json!({"url": url})).unwrap().outputs["status"], json!(200));
    assert_eq!(trial.analyze(json!({"url": url, "status": [200, 204]})).unwrap().step, StepWord::Unchanged);
    let requests = server.join().unwrap();
    assert!(requests[0].starts_with("GET /health HTTP/1.1\r\n") && requests[0].contains("x-probe: yes"));
}

#[test]
fn applying_waits_for_the_answer() {
    let (url, server) = server(vec![(503, ""), (503, ""), (200, "starting"), (200, "ok"), (200, "ok")]);
    let trial = Trial::of(Http);
    let params = trial.read(json!({"url": url, "match": "ok", "attempts": 5, "interval": 0})).unwrap();
    let module = crate::registry::builtin().get("http").unwrap().clone();
    let host = crate::host::Host::new();
    let (state, forecast, blobs) = ("wait".into(), Default::default(), Default::default());
    let apply = Apply { state: &state, host: &host, blobs: crate::module::Blobs(&blobs) };
    let planned = module.analyze(&params, &apply.look(&forecast)).unwrap();
    assert_eq!(planned.changes, [Change::new("answer", Datum::known("503"), Datum::known("200 with /ok/"))]);
    let applied = module.apply(&params, &apply, &planned).unwrap();
    assert!(applied.unchanged && applied.outputs["status"] == json!(200));
    assert_eq!(applied.note.as_deref(), Some("answered as wanted at attempt 3 of 5"));
    assert_eq!(module.analyze(&params, &apply.look(&forecast)).unwrap().step, StepWord::Unchanged);
    server.join().unwrap();
}

#[test]
fn no_answer_in_time_is_a_failure_that_says_what_came() {
    let (url, server) = server(vec![(404, ""), (404, ""), (404, "")]);
    let failure =
        Trial::of(Http).run(json!({"url": url, "attempts": 2, "interval": 0}), &nothing).unwrap_err();
    assert!(failure.to_string().contains("the last of 2 answer(s) was: 404; wanted 200"), "{failure}");
    server.join().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let params = json!({"url": format!("http://{closed}/"), "attempts": 1});
    let failure = Trial::of(Http).run(params, &nothing).unwrap_err();
    assert!(failure.to_string().contains("refused"), "{failure}");
}

#[test]
fn parameters_that_make_no_sense_are_refused() {
    let trial = Trial::of(Http);
    for bad in [
        json!({"url": "ftp://x"}),
        json!({"url": "http://x", "status": 42}),
        json!({"url": "http://x", "status": []}),
        json!({"url": "http://x", "match": "("}),
        json!({"url": "http://x", "attempts": 0}),
        json!({"url": "http://x", "interval": -1}),
        json!({"url": "http://x", "timeout": 1e300}),
    ] {
        assert!(trial.read(bad.clone()).is_err(), "{bad}");
    }
}

//! The API as any program may meet it, byte by byte where it matters.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::fake_hub::{RUN, Served};

/// No test waits longer for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends these bytes and reads until the hub closes.
async fn raw(hub: &Served, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(hub.socket()).await.unwrap();
    // The hub may have heard enough before it has read all.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

async fn ask(hub: &Served, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: hub\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    );
    split(&raw(hub, request.as_bytes()).await)
}

fn split(answer: &str) -> (u16, String) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

fn kind(body: &str) -> String {
    let problem: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {body:?}"));
    assert!(!problem["message"].as_str().unwrap().is_empty());
    problem["kind"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_problems_with_the_status_of_their_kind() {
    let hub = Served::start().await;
    let run = |targets: &str, arg: &str| format!("{{\"targets\":[\"{targets}\"],\"args\":[\"{arg}\"]}}");
    for (method, path, body, status, expected) in [
        ("GET", "/v1/nothing", String::new(), 404, "not_found"),
        ("GET", "/", String::new(), 404, "not_found"),
        ("PUT", "/v1/status", String::new(), 400, "invalid"),
        ("GET", "/v1/nodes/ship99", String::new(), 404, "not_found"),
        ("GET", "/v1/nodes?target=(", String::new(), 400, "invalid"),
        ("GET", "/v1/nodes?unknown=1", String::new(), 400, "invalid"),
        ("GET", "/v1/nodes/%ff", String::new(), 400, "invalid"),
        ("GET", "/v1/runs?limit=-1", String::new(), 400, "invalid"),
        ("GET", "/v1/runs/xyz", String::new(), 400, "invalid"),
        ("GET", "/v1/runs/0190a8a0-0000-7000-8000-00000000ffff", String::new(), 404, "not_found"),
        ("GET", "/v1/runs/0190a8a0-0000-7000-8000-00000000ffff/events", String::new(), 404, "not_found"),
        ("POST", "/v1/runs", "{".into(), 400, "invalid"),
        ("POST", "/v1/runs", "{\"targets\":[],\"tagrets\":1}".into(), 400, "invalid"),
        ("POST", "/v1/runs", String::new(), 400, "invalid"),
        ("POST", "/v1/runs", run("nobody", "x"), 404, "no_targets"),
        ("POST", "/v1/runs?watch=true", run("nobody", "x"), 404, "no_targets"),
        ("POST", "/v1/runs", run("a", "full"), 507, "full"),
        ("POST", "/v1/messages", "bad".into(), 400, "invalid"),
    ] {
        let (got, answer) = ask(&hub, method, path, "", &body).await;
        assert_eq!((got, kind(&answer).as_str()), (status, expected), "{method} {path} {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_for_its_owner_and_goes_with_the_hub() {
    let hub = Served::start().await;
    let mode = std::fs::metadata(hub.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let left = std::fs::read_dir(hub.dir.path()).unwrap().count();
    assert_eq!(left, 1, "only the socket itself");
    // A watch that never ends does not keep the hub from stopping.
    let mut watch = UnixStream::connect(hub.socket()).await.unwrap();
    ask(&hub, "POST", "/v1/runs", "", r#"{"targets":["a"],"args":["hang"]}"#).await;
    let request = format!("GET /v1/runs/{RUN}/events HTTP/1.1\r\nhost: hub\r\n\r\n");
    watch.write_all(request.as_bytes()).await.unwrap();
    let mut begun = [0; 12];
    watch.read_exact(&mut begun).await.unwrap();
    assert_eq!(&begun, b"HTTP/1.1 200");
    hub.shutdown.cancel();
    hub.tasks.close();
    timeout(PATIENCE, hub.tasks.wait()).await.unwrap();
    assert!(!hub.socket().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_hub_is_refused_and_a_dead_ones_socket_is_taken_over() {
    let hub = Served::start().await;
    let api = || mainstay::api::Api::new(hub.hub.clone(), std::sync::Arc::default(), hub.dir.path());
    let stop = tokio_util::sync::CancellationToken::new();
    let second = mainstay::api::serve_unix(&hub.socket(), api(), stop.clone()).await;
    assert!(matches!(second, Err(mainstay::api::ServeError::InUse(_))), "{second:?}");
    assert_eq!(ask(&hub, "GET", "/v1/status", "", "").await.0, 200);
    // A hub that was killed leaves a socket that nobody listens at.
    let dead = hub.dir.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    stop.cancel();
    mainstay::api::serve_unix(&dead, api(), stop).await.unwrap();
    assert!(!dead.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_continue_from_a_position() {
    let hub = Served::start().await;
    let path = format!("/v1/runs/{RUN}/events");
    let ids = |body: &str| -> Vec<String> {
        body.lines().filter_map(|line| line.strip_prefix("id: ")).map(str::to_owned).collect()
    };
    let (status, all) = ask(&hub, "GET", &path, "", "").await;
    assert_eq!((status, ids(&all)), (200, ["1", "2", "3", "4", "5"].map(str::to_owned).to_vec()));
    let (_, rest) = ask(&hub, "GET", &format!("{path}?from=3"), "", "").await;
    assert_eq!(ids(&rest), ["4", "5"]);
    let (_, rest) = ask(&hub, "GET", &format!("{path}?from=1"), "last-event-id: 4\r\n", "").await;
    assert_eq!(ids(&rest), ["5"]);
    assert!(rest.contains("event: summary\n"));
    let (status, body) = ask(&hub, "GET", &path, "last-event-id: x\r\n", "").await;
    assert_eq!((status, kind(&body).as_str()), (400, "invalid"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_can_be_watched_in_the_same_answer() {
    let hub = Served::start().await;
    let body = r#"{"targets":["a"],"args":["uptime"]}"#;
    let request = format!(
        "POST /v1/runs?watch=true HTTP/1.1\r\nhost: hub\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = raw(&hub, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert!(answer.contains(&format!("location: /v1/runs/{RUN}\r\n")), "{answer}");
    assert!(answer.contains("content-type: text/event-stream\r\n"), "{answer}");
    assert!(answer.contains("event: summary"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_too_large_are_refused_announced_or_not() {
    let hub = Served::start().await;
    let announced =
        "POST /v1/messages HTTP/1.1\r\nhost: hub\r\nconnection: close\r\ncontent-length: 99999999999\r\n\r\n";
    let (status, body) = split(&raw(&hub, announced.as_bytes()).await);
    assert_eq!((status, kind(&body).as_str()), (400, "invalid"));

    let head =
        "POST /v1/messages HTTP/1.1\r\nhost: hub\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut request = head.as_bytes().to_vec();
    for _ in 0..=mainstay::api::MAX_BODY / 65_536 {
        request.extend_from_slice(b"10000\r\n");
        request.resize(request.len() + 65_536, b'x');
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    let (status, body) = split(&raw(&hub, &request).await);
    assert_eq!((status, kind(&body).as_str()), (400, "invalid"));
    assert_eq!(hub.asked(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_is_not_served() {
    let hub = Served::start().await;
    for rubbish in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"GET\r\n\r\n", &[b'a'; 100_000]] {
        let mut request = rubbish.to_vec();
        request.extend_from_slice(b"\r\n\r\n");
        let answer = raw(&hub, &request).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    let head = format!("GET /v1/status HTTP/1.1\r\nhost: hub\r\nx: {}\r\n\r\n", "y".repeat(200_000));
    let answer = raw(&hub, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(ask(&hub, "GET", "/v1/status", "", "").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_the_description_are_served() {
    let hub = Served::start().await;
    let (status, metrics) = ask(&hub, "GET", "/metrics", "", "").await;
    assert_eq!(status, 200);
    assert!(metrics.contains("mainstay_tests_total 0") && metrics.ends_with("# EOF\n"), "{metrics}");
    let (status, text) = ask(&hub, "GET", "/v1/openapi.json", "", "").await;
    assert_eq!(status, 200);
    let served: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut calls = Vec::new();
    for (path, item) in served["paths"].as_object().unwrap() {
        for (method, call) in item.as_object().unwrap() {
            calls.push(format!("{} {path}  {}", method.to_uppercase(), call["summary"].as_str().unwrap()));
        }
    }
    insta::assert_snapshot!(calls.join("\n"));
    assert_eq!(served["components"]["securitySchemes"]["token"]["scheme"], "bearer");
    assert_eq!(served["security"], serde_json::json!([{"token": []}, {}]));
    // Every shape that is referred to is described.
    let schemas = served["components"]["schemas"].as_object().unwrap();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "{name}");
    }
}

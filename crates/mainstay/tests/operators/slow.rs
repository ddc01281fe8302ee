//! Peers that are slow on purpose, in a time that is only pretended: it passes when nothing else can happen.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use crate::fake_hub::Served;

/// Longer than any patience of the API.
const LONG: Duration = Duration::from_secs(300);

async fn connect(hub: &Served) -> UnixStream {
    UnixStream::connect(hub.socket()).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come_is_cut() {
    let hub = Served::start().await;
    for sent in [&b""[..], b"GET /v1/sta", b"GET /v1/status HTTP/1.1\r\nhost: hub\r\nx: y"] {
        let begun = Instant::now();
        let mut stream = connect(&hub).await;
        stream.write_all(sent).await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(LONG, stream.read_to_end(&mut answer)).await.expect("the hub closes it");
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_asks_nothing_more_is_closed() {
    let hub = Served::start().await;
    let mut stream = connect(&hub).await;
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: hub\r\n\r\n").await.unwrap();
    let begun = Instant::now();
    let mut answer = Vec::new();
    let _ = timeout(LONG, stream.read_to_end(&mut answer)).await.expect("the hub closes it");
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_trickles_is_cut() {
    let hub = Served::start().await;
    let begun = Instant::now();
    let (mut reader, mut writer) = connect(&hub).await.into_split();
    let head =
        b"POST /v1/messages HTTP/1.1\r\nhost: hub\r\nconnection: close\r\ncontent-length: 1000\r\n\r\n";
    writer.write_all(head).await.unwrap();
    let trickle = async {
        while writer.write_all(b"x").await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
    };
    let mut answer = Vec::new();
    tokio::select! {
        _ = reader.read_to_end(&mut answer) => {}
        () = trickle => {}
        () = sleep(LONG) => {}
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    let _ = reader.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(hub.asked(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_cut() {
    let hub = Served::start().await;
    let mut stream = connect(&hub).await;
    stream.write_all(b"POST /v1/backup HTTP/1.1\r\nhost: hub\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    sleep(LONG).await;
    // What the kernel held is still here; the rest never comes.
    let mut answer = Vec::new();
    let _ = timeout(LONG, stream.read_to_end(&mut answer)).await.expect("the hub closes it");
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    assert!(answer.len() < 1_000_000, "{} bytes came", answer.len());
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_is_kept_alive() {
    let hub = Served::start().await;
    let mut stream = connect(&hub).await;
    let body = r#"{"targets":["a"],"args":["hang"]}"#;
    let length = body.len();
    let request =
        format!("POST /v1/runs?watch=true HTTP/1.1\r\nhost: hub\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < LONG {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).await.unwrap();
        assert!(read > 0, "it ended: {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&piece[..read]);
    }
    let comments = String::from_utf8_lossy(&answer).matches("\n:\n").count();
    assert!((15..=25).contains(&comments), "{comments} in {LONG:?}");
}

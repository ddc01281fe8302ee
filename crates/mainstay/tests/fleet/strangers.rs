//! Whoever can reach the hub's port can try anything: it neither stops nor grows the hub.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use mainstay_core::frame::Frame;
use mainstay_link::chain::{Fingerprint, Trust};
use mainstay_link::dialer::TlsDialer;
use mainstay_link::limits::{Limits, LinkCounters};
use mainstay_link::tls::Credentials;

use crate::lab::{Lab, metrics, resident};

/// How much a hub may grow by (the figure), in KiB.
const GROWTH: u64 = 16 << 10;

fn raw(port: u16, bytes: &[u8]) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_millis(1))).ok()?;
    // The hub may have closed it by now, which is its right.
    let _ = stream.write_all(bytes);
    let _ = stream.read(&mut [0; 64]);
    Some(stream)
}

/// Connections that are left open, as many as come.
fn offend(port: u16, rounds: usize) -> Vec<TcpStream> {
    let garbage: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let hello_too_long = [&[0x16, 3, 1, 0xff, 0xff][..], &garbage[..70_000]].concat();
    let endless_plain = [&[0xff; 4][..], &garbage].concat();
    let mut open = Vec::new();
    for _ in 0..rounds {
        for bytes in
            [&b"GET / HTTP/1.1\r\n\r\n"[..], &garbage, &hello_too_long, &endless_plain, b"", &[0x16, 3, 1]]
        {
            open.extend(raw(port, bytes));
        }
    }
    open
}

/// Strangers with a key of their own, who get through TLS and then say what they may not.
async fn speak(port: u16, fingerprint: Fingerprint, rounds: usize) {
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let credentials = Credentials::self_signed(key).unwrap();
    let counters = Arc::<LinkCounters>::default();
    let trust = Trust::Fingerprint(fingerprint);
    let dialer = TlsDialer::new(&credentials, trust, Limits::default(), counters).unwrap();
    for round in 0..rounds {
        let Ok(mut dialled) = dialer.dial(&format!("127.0.0.1:{port}")).await else { continue };
        let frame = match round % 3 {
            0 => Frame::Mark(u64::MAX),
            1 => Frame::Trust(vec![bytes::Bytes::from(vec![0x81; 200_000]); 4]),
            _ => Frame::Data(mainstay_core::frame::Data {
                envelope: bytes::Bytes::from(vec![0x92; 500_000]),
                chain: Vec::new(),
            }),
        };
        let _ = dialled.link.sender.send(&frame).await;
        let answer = tokio::time::timeout(Duration::from_secs(5), dialled.link.receiver.recv()).await;
        let answer = answer.expect("the hub does not keep a stranger who breaks the rules");
        assert!(!matches!(answer, Ok(Some(Frame::Hello(_) | Frame::Data(_)))), "{answer:?}");
    }
}

#[test]
fn wrong_bytes_and_wrong_frames_neither_stop_nor_grow_the_hub() {
    let lab = Lab::new(&["a"]);
    let status = lab.run(&["status", "--json"]).exits(0).json();
    let fingerprint = status[0]["ca_fingerprint"].as_str().unwrap().parse().expect("a fingerprint");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // What every process needs once is not growth.
    drop(offend(lab.port(), 2));
    runtime.block_on(speak(lab.port(), fingerprint, 3));
    let before = resident(lab.hub_pid());

    let open = offend(lab.port(), 40);
    runtime.block_on(speak(lab.port(), fingerprint, 60));
    // While they stand there, the others are served.
    lab.run(&["run", "-t", "a", "--", "true"]).exits(0);
    let after = resident(lab.hub_pid());
    assert!(after < before + GROWTH, "from {before} KiB to {after} KiB");
    drop(open);

    let metrics = metrics(&lab);
    let counted = |event: &str| {
        let line = format!("mainstay_link_events_total{{event=\"{event}\"}} ");
        let found = metrics.lines().find_map(|found| found.strip_prefix(&line)?.parse::<u64>().ok());
        found.unwrap_or_else(|| panic!("{event} is not counted:\n{metrics}"))
    };
    assert!(
        counted("handshake_failed") >= 100 && counted("oversize") + counted("handshake_oversize") >= 20,
        "{metrics}"
    );
}

//! Frames on a raw byte stream: any split, any cut, any garbage.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::SinkExt as _;
use mainstay_core::frame::{Data, Frame, MAX_FRAME};
use mainstay_link::limits::{Limits, LinkCounters};
use mainstay_link::link::{Link, LinkError, Peer};
use proptest::prelude::*;
use tokio::io::{AsyncWriteExt as _, DuplexStream};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::fleet::{id, key};

/// A link, and the raw stream at its other end.
fn raw(buffer: usize) -> (Link, DuplexStream, Arc<LinkCounters>) {
    let (ours, theirs) = tokio::io::duplex(buffer);
    let peer = Peer { key: id(&key(9)), identity: None, chain: vec![], address: None };
    let counters = Arc::<LinkCounters>::default();
    let mut link = Link::over_stream(ours, peer, &Limits::default(), counters.clone());
    link.receiver.admit();
    (link, theirs, counters)
}

fn encoded(frames: &[Frame]) -> Bytes {
    let mut out = BytesMut::new();
    for frame in frames {
        let bytes = frame.encode().unwrap();
        out.put_u32(bytes.len() as u32);
        out.put(bytes);
    }
    out.freeze()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(future)
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        any::<u64>().prop_map(Frame::Ping),
        proptest::collection::vec(any::<u8>(), 0..3000)
            .prop_map(|bytes| { Frame::Data(Data { envelope: bytes.into(), chain: vec![] }) }),
    ]
}

/// Receives until the end or an error.
async fn all(link: &mut Link) -> (Vec<Frame>, Result<(), LinkError>) {
    let mut frames = vec![];
    loop {
        match link.receiver.recv().await {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, Ok(())),
            Err(error) => return (frames, Err(error)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn frames_arrive_however_their_bytes_are_split(
        frames in proptest::collection::vec(frame(), 0..8),
        pieces in proptest::collection::vec(1_usize..700, 1..40),
        buffer in 1_usize..5000,
    ) {
        let bytes = encoded(&frames);
        let (got, end) = block_on(async {
            let (mut link, mut far, _) = raw(buffer);
            let write = async move {
                let mut rest = &bytes[..];
                for size in pieces.iter().cycle() {
                    let (piece, left) = rest.split_at((*size).min(rest.len()));
                    far.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                    rest = left;
                    if rest.is_empty() {
                        break;
                    }
                }
            };
            tokio::join!(write, all(&mut link)).1
        });
        prop_assert!(end.is_ok());
        prop_assert_eq!(got, frames);
    }

    #[test]
    fn a_stream_cut_anywhere_gives_the_whole_frames_and_says_so(
        frames in proptest::collection::vec(frame(), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes = encoded(&frames);
        let cut = cut.index(bytes.len());
        let whole = (0..=frames.len()).rev().find(|n| encoded(&frames[..*n]).len() <= cut).unwrap();
        let at_boundary = encoded(&frames[..whole]).len() == cut;
        let (got, end) = block_on(async {
            let (mut link, mut far, _) = raw(1 << 20);
            far.write_all(&bytes[..cut]).await.unwrap();
            drop(far);
            all(&mut link).await
        });
        prop_assert_eq!(&got[..], &frames[..whole]);
        match end {
            Ok(()) => prop_assert!(at_boundary),
            Err(error) => prop_assert!(!at_boundary && matches!(error, LinkError::Truncated), "{error:?}"),
        }
    }

    #[test]
    fn garbage_ends_in_an_error_or_the_end(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        block_on(async {
            let (mut link, mut far, _) = raw(1 << 20);
            far.write_all(&bytes).await.unwrap();
            drop(far);
            let _ = all(&mut link).await;
        });
    }

    #[test]
    fn an_announced_length_is_believed_up_to_the_limit_only(length in any::<u32>()) {
        let (result, counters) = block_on(async {
            let (mut link, mut far, counters) = raw(64);
            far.write_all(&length.to_be_bytes()).await.unwrap();
            drop(far);
            (link.receiver.recv().await, counters)
        });
        let oversize = length as usize > MAX_FRAME;
        prop_assert_eq!(matches!(result, Err(LinkError::Oversize { .. })), oversize);
        prop_assert_eq!(counters.oversize.load(Ordering::Relaxed), u64::from(oversize));
        // Nothing follows, so whatever else was announced is cut short; nothing at all is no frame.
        let other = if length == 0 { matches!(result, Err(LinkError::Malformed(_))) } else { matches!(result, Err(LinkError::Truncated)) };
        prop_assert!(oversize || other, "{result:?}");
    }
}

#[test]
fn it_is_the_framing_that_others_know() {
    block_on(async {
        let (mut link, far, _) = raw(1 << 20);
        let mut codec = Framed::new(far, LengthDelimitedCodec::new());
        link.sender.send(&Frame::Ping(5)).await.unwrap();
        let theirs = futures_util::StreamExt::next(&mut codec).await.unwrap().unwrap();
        assert_eq!(Frame::decode(&theirs).unwrap(), Frame::Ping(5));
        codec.send(Frame::Pong(6).encode().unwrap()).await.unwrap();
        assert_eq!(link.receiver.recv().await.unwrap(), Some(Frame::Pong(6)));
    });
}

#[test]
fn a_peer_that_trickles_inside_a_frame_is_cut_and_a_slow_one_is_not() {
    let frame = Frame::Data(Data { envelope: vec![7; 20_000].into(), chain: vec![] });
    let bytes = encoded(std::slice::from_ref(&frame));
    let send = |piece: usize, every: u64| {
        let bytes = bytes.clone();
        block_on(async move {
            let (mut link, mut far, counters) = raw(64 * 1024);
            // A long silence before the frame is nobody's business.
            tokio::time::advance(std::time::Duration::from_secs(3600)).await;
            let write = async {
                for piece in bytes.chunks(piece) {
                    if far.write_all(piece).await.is_err() {
                        break;
                    }
                    tokio::time::sleep(std::time::Duration::from_secs(every)).await;
                }
            };
            let received = tokio::select! {
                received = link.receiver.recv() => received,
                () = async { write.await; std::future::pending().await } => unreachable!(),
            };
            (received, counters.stalled.load(Ordering::Relaxed))
        })
    };
    assert_eq!(send(1200, 25).0.unwrap(), Some(frame));
    for (piece, every) in [(1, 1), (1, 29), (500, 31), (3, 40)] {
        let (received, stalled) = send(piece, every);
        assert!(
            matches!(received, Err(LinkError::Stalled(_))),
            "{piece} bytes every {every} s: {received:?}"
        );
        assert_eq!(stalled, 1);
    }
}

//! What every kind of link must do. A new kind is a variant of [`Kind`] and a line in the macro.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::poll;
use mainstay_core::frame::{Data, Frame, Goodbye, MAX_FRAME};
use mainstay_link::limits::{Limits, LinkCounters};
use mainstay_link::link::{Link, LinkError, Peer};
use mainstay_link::memory;

use crate::fleet::{Fleet, id, key, meet};

#[derive(Clone, Copy, Debug)]
enum Kind {
    Tls,
    Memory,
}

/// Two ends of one link. What the second must keep alive is inside.
struct Pair {
    a: Link,
    b: Link,
    counters: Arc<LinkCounters>,
}

impl Kind {
    /// As they come: `b` takes `a` for a stranger.
    async fn strangers(self, limits: Limits) -> Pair {
        let fleet = Fleet::new(1);
        let counters = fleet.counters.clone();
        let (a, b) = match self {
            Self::Tls => {
                let (listener, address) = fleet.listen(limits.clone()).await;
                let dialer = fleet.dialer(&fleet.node_credentials(&key(9), "ship1"), limits);
                let (a, b) = meet(&listener, &dialer, address).await;
                (a.unwrap(), b.unwrap())
            }
            Self::Memory => {
                let peer = |seed| Peer { key: id(&key(seed)), identity: None, chain: vec![], address: None };
                memory::pair(peer(2), peer(9), &limits, &counters)
            }
        };
        Pair { a, b, counters }
    }

    async fn friends(self, limits: Limits) -> Pair {
        let mut pair = self.strangers(limits).await;
        pair.a.receiver.admit();
        pair.b.receiver.admit();
        pair
    }
}

macro_rules! conformance {
    ($($case:ident,)*) => {
        mod over_tls { $(#[tokio::test] async fn $case() { super::$case(super::Kind::Tls).await })* }
        mod in_memory { $(#[tokio::test] async fn $case() { super::$case(super::Kind::Memory).await })* }
    };
}

conformance! {
    frames_arrive_in_order_both_ways_at_once,
    the_largest_frame_passes_and_a_larger_one_is_not_sent,
    a_frame_beyond_the_limit_is_refused_before_it_comes,
    a_stranger_may_send_small_frames_only,
    a_stranger_has_a_limited_time_however_busy,
    closing_is_seen_and_the_other_direction_goes_on,
    a_dropped_link_is_noticed,
    who_does_not_read_delays_the_sender_and_loses_nothing,
    who_never_reads_is_given_up,
    who_is_idle_is_left_in_peace,
    receiving_may_be_interrupted_anywhere,
    sending_may_be_interrupted_anywhere,
    last_words_are_heard_over_unread_input,
}

fn data(size: usize) -> Frame {
    Frame::Data(Data { envelope: Bytes::from(vec![7; size]), chain: vec![] })
}

/// Of varied sizes, so that boundaries fall everywhere; the number is in the size.
fn numbered(n: usize) -> Frame {
    data(n * 37 % 5000)
}

async fn frames_arrive_in_order_both_ways_at_once(kind: Kind) {
    const COUNT: usize = 500;
    let Pair { a, b, .. } = kind.friends(Limits::default()).await;
    let run = |link: Link| async move {
        let (mut sender, mut receiver) = (link.sender, link.receiver);
        let send = async {
            for n in 0..COUNT {
                sender.feed(&numbered(n)).await.unwrap();
                if n % 7 == 0 {
                    sender.flush().await.unwrap();
                }
            }
            sender.close().await.unwrap();
        };
        let receive = async {
            for n in 0..COUNT {
                assert_eq!(receiver.recv().await.unwrap(), Some(numbered(n)), "frame {n}");
            }
            assert_eq!(receiver.recv().await.unwrap(), None);
        };
        tokio::join!(send, receive);
    };
    let (a, b) = (tokio::spawn(run(a)), tokio::spawn(run(b)));
    a.await.unwrap();
    b.await.unwrap();
}

async fn the_largest_frame_passes_and_a_larger_one_is_not_sent(kind: Kind) {
    let Pair { mut a, mut b, .. } = kind.friends(Limits::default()).await;
    let overhead = data(MAX_FRAME / 2).encode().unwrap().len() - MAX_FRAME / 2;
    let largest = data(MAX_FRAME - overhead);
    assert_eq!(largest.encode().unwrap().len(), MAX_FRAME);
    let too_large = a.sender.send(&data(MAX_FRAME - overhead + 1)).await;
    assert!(matches!(too_large, Err(LinkError::Unsendable(_))));
    let (sent, received) = tokio::join!(a.sender.send(&largest), b.receiver.recv());
    sent.unwrap();
    assert_eq!(received.unwrap(), Some(largest));
}

async fn a_frame_beyond_the_limit_is_refused_before_it_comes(kind: Kind) {
    let limits = Limits { frame: 1000, ..Limits::default() };
    let Pair { mut a, mut b, counters } = kind.friends(limits).await;
    a.sender.send(&data(100)).await.unwrap();
    assert_eq!(b.receiver.recv().await.unwrap(), Some(data(100)));
    a.sender.send(&data(2000)).await.unwrap();
    let error = b.receiver.recv().await.unwrap_err();
    assert!(matches!(error, LinkError::Oversize { limit: 1000, .. }), "{error:?}");
    assert!(error.is_violation());
    assert!(matches!(b.receiver.recv().await, Err(LinkError::Closed)));
    assert_eq!(counters.oversize.load(std::sync::atomic::Ordering::Relaxed), 1);
}

async fn a_stranger_may_send_small_frames_only(kind: Kind) {
    let Pair { mut a, mut b, .. } = kind.strangers(Limits::default()).await;
    a.sender.send(&data(10_000)).await.unwrap();
    assert!(b.receiver.recv().await.unwrap().is_some());
    a.sender.send(&data(17_000)).await.unwrap();
    assert!(matches!(b.receiver.recv().await, Err(LinkError::Oversize { .. })));
}

async fn a_stranger_has_a_limited_time_however_busy(kind: Kind) {
    let Pair { mut a, mut b, counters } = kind.strangers(Limits::default()).await;
    tokio::time::pause();
    a.sender.send(&Frame::Ping(1)).await.unwrap();
    assert_eq!(b.receiver.recv().await.unwrap(), Some(Frame::Ping(1)));
    // In silence, and also when there is always something to read.
    let error = b.receiver.recv().await.unwrap_err();
    assert!(matches!(error, LinkError::Admission(_)), "{error:?}");

    tokio::time::resume();
    let Pair { mut a, mut b, .. } = kind.strangers(Limits::default()).await;
    tokio::time::pause();
    a.sender.send(&Frame::Ping(1)).await.unwrap();
    tokio::time::advance(Duration::from_secs(11)).await;
    assert!(matches!(b.receiver.recv().await, Err(LinkError::Admission(_))));
    assert_eq!(counters.admission_timeout.load(std::sync::atomic::Ordering::Relaxed), 1);
}

async fn closing_is_seen_and_the_other_direction_goes_on(kind: Kind) {
    let Pair { mut a, mut b, .. } = kind.friends(Limits::default()).await;
    a.sender.feed(&Frame::Ping(1)).await.unwrap();
    a.sender.close().await.unwrap();
    assert!(matches!(a.sender.send(&Frame::Ping(2)).await, Err(LinkError::Closed)));
    assert_eq!(b.receiver.recv().await.unwrap(), Some(Frame::Ping(1)));
    assert_eq!(b.receiver.recv().await.unwrap(), None);
    b.sender.send(&Frame::Pong(1)).await.unwrap();
    assert_eq!(a.receiver.recv().await.unwrap(), Some(Frame::Pong(1)));
}

async fn a_dropped_link_is_noticed(kind: Kind) {
    let Pair { a, mut b, .. } = kind.friends(Limits::default()).await;
    drop(a);
    let end = b.receiver.recv().await;
    assert!(matches!(end, Ok(None) | Err(LinkError::Io(_))), "{end:?}");
    // Sending fails, at the latest when the network has said so.
    let failed = async { while b.sender.send(&Frame::Ping(1)).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(20), failed).await.unwrap();
}

async fn who_does_not_read_delays_the_sender_and_loses_nothing(kind: Kind) {
    // More than the kernel's socket buffers and ours together.
    const COUNT: usize = 48;
    let Pair { mut a, mut b, .. } = kind.friends(Limits::default()).await;
    let frame = |n: usize| data(900_000 + n);
    let mut sending = Box::pin(async move {
        for n in 0..COUNT {
            a.sender.send(&frame(n)).await.unwrap();
        }
        a
    });
    // It gets no further than the buffers; then the reader begins.
    let mut idle = 0;
    while idle < 100 {
        assert!(poll!(&mut sending).is_pending(), "everything was sent and nobody reads");
        tokio::task::yield_now().await;
        idle += 1;
    }
    let receive = async {
        for n in 0..COUNT {
            assert_eq!(b.receiver.recv().await.unwrap(), Some(frame(n)));
        }
    };
    tokio::join!(sending, receive);
}

async fn who_never_reads_is_given_up(kind: Kind) {
    let Pair { mut a, b, counters } = kind.friends(Limits::default()).await;
    tokio::time::pause();
    let error = loop {
        if let Err(error) = a.sender.send(&data(500_000)).await {
            break error;
        }
    };
    assert!(matches!(error, LinkError::Stalled(_)), "{error:?}");
    assert!(matches!(a.sender.send(&Frame::Ping(1)).await, Err(LinkError::Closed)));
    assert_eq!(counters.stalled.load(std::sync::atomic::Ordering::Relaxed), 1);
    drop(b);
}

async fn who_is_idle_is_left_in_peace(kind: Kind) {
    let Pair { mut a, mut b, .. } = kind.friends(Limits::default()).await;
    tokio::time::pause();
    {
        let mut waiting = Box::pin(b.receiver.recv());
        assert!(poll!(&mut waiting).is_pending());
        tokio::time::advance(Duration::from_secs(24 * 3600)).await;
        assert!(poll!(&mut waiting).is_pending());
    }
    a.sender.send(&Frame::Ping(1)).await.unwrap();
    assert_eq!(b.receiver.recv().await.unwrap(), Some(Frame::Ping(1)));
}

async fn receiving_may_be_interrupted_anywhere(kind: Kind) {
    const COUNT: usize = 40;
    let Pair { mut a, mut b, .. } = kind.friends(Limits::default()).await;
    let frame = |n: usize| data(200_000 + n);
    let sending = tokio::spawn(async move {
        for n in 0..COUNT {
            a.sender.send(&frame(n)).await.unwrap();
        }
        a
    });
    let (mut next, mut interrupted) = (0, 0);
    while next < COUNT {
        match poll!(Box::pin(b.receiver.recv())) {
            Poll::Ready(received) => {
                assert_eq!(received.unwrap(), Some(frame(next)));
                next += 1;
            }
            Poll::Pending => {
                interrupted += 1;
                tokio::task::yield_now().await;
            }
        }
    }
    assert!(interrupted > 0);
    sending.await.unwrap();
}

async fn sending_may_be_interrupted_anywhere(kind: Kind) {
    const COUNT: usize = 40;
    let Pair { mut a, mut b, .. } = kind.friends(Limits::default()).await;
    let frame = |n: usize| data(200_000 + n);
    let receiving = tokio::spawn(async move {
        let mut got = vec![];
        while let Some(frame) = b.receiver.recv().await.unwrap() {
            got.push(frame);
        }
        got
    });
    let mut interrupted = 0;
    for n in 0..COUNT {
        // A frame that was not taken is offered again, one that was taken is not.
        while poll!(Box::pin(a.sender.feed(&frame(n)))).is_pending() {
            interrupted += 1;
            tokio::task::yield_now().await;
        }
        let _ = poll!(Box::pin(a.sender.flush()));
    }
    a.sender.close().await.unwrap();
    assert!(interrupted > 0);
    let got = receiving.await.unwrap();
    assert!(got.iter().eq((0..COUNT).map(frame).collect::<Vec<_>>().iter()));
}

async fn last_words_are_heard_over_unread_input(kind: Kind) {
    let Pair { a, mut b, .. } = kind.friends(Limits::default()).await;
    for n in 0..20 {
        b.sender.send(&numbered(n)).await.unwrap();
    }
    let farewell = tokio::spawn(a.farewell(Goodbye::Revoked));
    assert_eq!(b.receiver.recv().await.unwrap(), Some(Frame::Goodbye(Goodbye::Revoked)));
    assert_eq!(b.receiver.recv().await.unwrap(), None);
    drop(b);
    farewell.await.unwrap();
}

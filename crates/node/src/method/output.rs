//! The way of a method's output to the courier: cut at the request's limit, counted, in pieces of bounded
//! size, through a bounded channel. A full channel makes the method wait, and a method that waits stops
//! reading its pipes; so output takes memory in proportion to running methods only.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use mainstay_core::envelope::Stream;
use mainstay_core::outcome::Outcome;
use tokio::sync::mpsc;

use super::MethodEnd;

/// Most bytes of one piece. Well below the frame's limit, and half of what a Linux pipe holds.
pub const MAX_PIECE: usize = 32 * 1024;

/// Pieces that wait in the channel: enough that a writer and the courier's group commit overlap.
const CHANNEL_PIECES: usize = 4;

/// A piece of output on its way to the courier, which numbers it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chunk {
    pub stream: Stream,
    /// 1 to [`MAX_PIECE`] bytes.
    pub data: Bytes,
}

/// Takes a method's output. What is pushed is joined to pieces as large as possible until it is sealed.
pub struct OutputSink {
    tx: mpsc::Sender<Chunk>,
    /// Bytes that may still be kept.
    left: u64,
    stdout_bytes: u64,
    stderr_bytes: u64,
    truncated: bool,
    /// The piece that still grows.
    open: Option<(Stream, BytesMut)>,
    /// Pieces that only wait for room in the channel.
    sealed: VecDeque<Chunk>,
}

impl OutputSink {
    /// A sink that keeps `limit` bytes over both streams, and where its pieces come out. The receiver ends
    /// after the last piece, when the method's end is known.
    pub fn channel(limit: u64) -> (Self, mpsc::Receiver<Chunk>) {
        let (tx, rx) = mpsc::channel(CHANNEL_PIECES);
        let sink = Self {
            tx,
            left: limit,
            stdout_bytes: 0,
            stderr_bytes: 0,
            truncated: false,
            open: None,
            sealed: VecDeque::new(),
        };
        (sink, rx)
    }

    /// Hands output over as pieces of its own; waits while the channel is full.
    pub async fn write(&mut self, stream: Stream, data: &[u8]) {
        for part in data.chunks(MAX_PIECE) {
            self.push(stream, part);
            self.seal();
            self.send_sealed().await;
        }
    }

    /// Counts output, and keeps what the limit allows. Does not wait: the caller must not push more while
    /// [`OutputSink::has_sealed`], or the bound on memory is lost.
    pub fn push(&mut self, stream: Stream, data: &[u8]) {
        *match stream {
            Stream::Stdout => &mut self.stdout_bytes,
            Stream::Stderr => &mut self.stderr_bytes,
        } += data.len() as u64;
        let kept = usize::try_from(self.left).unwrap_or(usize::MAX).min(data.len());
        self.truncated |= kept < data.len();
        self.left -= kept as u64;
        let mut rest = &data[..kept];
        while !rest.is_empty() {
            if self.open.as_ref().is_some_and(|(open, _)| *open != stream) {
                self.seal();
            }
            let (_, piece) = self.open.get_or_insert_with(|| (stream, BytesMut::new()));
            let taken = rest.len().min(MAX_PIECE - piece.len());
            piece.extend_from_slice(&rest[..taken]);
            rest = &rest[taken..];
            if piece.len() == MAX_PIECE {
                self.seal();
            }
        }
    }

    /// Whether there is output that would go on with the next [`OutputSink::seal`].
    pub fn has_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether pieces wait for room in the channel.
    pub fn has_sealed(&self) -> bool {
        !self.sealed.is_empty()
    }

    /// Ends the piece that still grows, so that it can be sent.
    pub fn seal(&mut self) {
        if let Some((stream, data)) = self.open.take() {
            self.sealed.push_back(Chunk { stream, data: data.freeze() });
        }
    }

    /// Sends what is sealed. When it is dropped before its end, nothing is lost: what was not sent is sent
    /// by the next call.
    pub async fn send_sealed(&mut self) {
        while !self.sealed.is_empty() {
            match self.tx.reserve().await {
                Ok(permit) => {
                    if let Some(chunk) = self.sealed.pop_front() {
                        permit.send(chunk);
                    }
                }
                // Nobody wants the output any more; the method goes on to its end.
                Err(_) => {
                    self.truncated = true;
                    self.left = 0;
                    self.sealed.clear();
                }
            }
        }
    }

    /// Hands over what is left, and tells how much there was.
    pub async fn finish(mut self, outcome: Outcome) -> MethodEnd {
        self.seal();
        self.send_sealed().await;
        MethodEnd {
            outcome,
            stdout_bytes: self.stdout_bytes,
            stderr_bytes: self.stderr_bytes,
            truncated: self.truncated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mainstay_core::outcome::Exit;

    #[tokio::test]
    async fn output_beyond_the_limit_is_counted_and_dropped() {
        let (mut sink, mut chunks) = OutputSink::channel(5);
        sink.push(Stream::Stdout, b"abc");
        sink.push(Stream::Stderr, b"def");
        sink.push(Stream::Stdout, b"ghi");
        let end = sink.finish(Outcome::Finished(Exit::Code(0))).await;
        assert_eq!((end.stdout_bytes, end.stderr_bytes, end.truncated), (6, 3, true));
        let mut kept = vec![];
        while let Some(chunk) = chunks.recv().await {
            kept.push((chunk.stream, chunk.data));
        }
        assert_eq!(kept, [(Stream::Stdout, Bytes::from("abc")), (Stream::Stderr, Bytes::from("de"))]);
    }

    #[tokio::test]
    async fn small_writes_become_large_pieces_and_a_full_channel_makes_wait() {
        let (mut sink, mut chunks) = OutputSink::channel(u64::MAX);
        let total = MAX_PIECE * (CHANNEL_PIECES + 1);
        for _ in 0..total / 1024 {
            sink.push(Stream::Stdout, &[b'x'; 1024]);
        }
        assert!(sink.has_sealed() && !sink.has_open());
        {
            let mut send = std::pin::pin!(sink.send_sealed());
            let waits =
                std::future::poll_fn(|cx| std::task::Poll::Ready(send.as_mut().poll(cx).is_pending())).await;
            assert!(waits, "one piece more than the channel holds");
        }
        // The send above was dropped half-way; nothing of it is lost.
        let receiver = async {
            let mut got = 0;
            while let Some(chunk) = chunks.recv().await {
                assert_eq!(chunk.data.len(), MAX_PIECE);
                got += chunk.data.len();
            }
            got
        };
        let (_, got) = tokio::join!(sink.finish(Outcome::Sent), receiver);
        assert_eq!(got, total);
    }
}

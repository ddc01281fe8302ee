//! A byte stream that gives up on a peer which does not read.
//!
//! hyper bounds the time for a request's head; nothing bounds the time for writing an answer. A client that
//! stops reading would hold its connection, and what is buffered for it, for ever.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Cuts a peer that takes no byte for this long: DESIGN §5's bound for progress inside a frame.
pub(crate) const WRITE_PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Impatient<S> {
    inner: S,
    deadline: Pin<Box<Sleep>>,
    stalled: bool,
}

impl<S> Impatient<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner, deadline: Box::pin(sleep(WRITE_PATIENCE)), stalled: false }
    }

    /// Lets progress through, and turns a stall that lasts too long into an error.
    fn bounded<T>(&mut self, progress: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.stalled = false;
            return progress;
        }
        if !self.stalled {
            self.stalled = true;
            self.deadline.as_mut().reset(Instant::now() + WRITE_PATIENCE);
        }
        self.deadline.as_mut().poll(cx).map(|()| {
            let message = "the peer does not read what it asked for";
            Err(io::Error::new(io::ErrorKind::TimedOut, message))
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.bounded(progress, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.bounded(progress, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.inner).poll_flush(cx);
        self.bounded(progress, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.bounded(progress, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_stops_reading_is_cut_and_a_slow_one_is_not() {
        let (mut peer, ours) = tokio::io::duplex(16);
        let mut ours = Impatient::new(ours);
        let begun = Instant::now();
        // A byte now and then, each time just within the patience, is slow but it is progress.
        let slow = async {
            for _ in 0..16 {
                tokio::time::sleep(WRITE_PATIENCE - Duration::from_millis(1)).await;
                peer.read_u8().await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(ours.write_all(&[7; 32]), slow);
        written.unwrap();
        let quiet_since = Instant::now();
        assert!(quiet_since - begun > WRITE_PATIENCE);
        let cut = ours.write_all(&[7; 32]).await.unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::TimedOut);
        assert!(quiet_since.elapsed() >= WRITE_PATIENCE);
    }
}

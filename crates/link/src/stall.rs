//! A byte stream that gives up when its peer takes nothing, or brings more than it may.
//!
//! It stands below TLS, where what the peer really takes can be seen. Waiting for input without end is fine
//! here: only the framing above knows whether something is due.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How much is read at once while a budget is counted.
const PIECE: usize = 1024;

pub(crate) struct Guarded<T> {
    io: T,
    stall: Duration,
    /// Runs while the peer takes nothing. Made only then: an idle link has no timer.
    stalled: Option<Pin<Box<Sleep>>>,
    /// How many more bytes may come; `None` once the handshake is over.
    budget: Option<usize>,
}

/// The peer brought more than its budget. Carried inside an [`io::Error`] through the TLS library.
#[derive(Debug, thiserror::Error)]
#[error("the handshake brought too many bytes")]
pub(crate) struct OverBudget;

impl<T> Guarded<T> {
    pub(crate) fn new(io: T, stall: Duration, budget: Option<usize>) -> Self {
        Self { io, stall, stalled: None, budget }
    }

    pub(crate) fn lift_budget(&mut self) {
        self.budget = None;
    }

    /// Turns a write that waited too long into an error, and a write that moved into peace.
    fn judge<R>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if result.is_ready() {
            self.stalled = None;
            return result;
        }
        let stall = self.stall;
        let sleep = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(budget) = self.budget else {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        };
        if budget == 0 {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, OverBudget)));
        }
        // Never more than the budget, so that what a peer sends right behind its handshake is not held against it.
        let mut piece = [0; PIECE];
        let most = PIECE.min(budget).min(buf.remaining());
        let mut piece = ReadBuf::new(&mut piece[..most]);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut piece))?;
        buf.put_slice(piece.filled());
        self.budget = Some(budget - piece.filled().len());
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.judge(cx, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_flush(cx);
        self.judge(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_shutdown(cx);
        self.judge(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.judge(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

//! Reads a program's two pipes, fairly, and pushes what comes into the output sink.

use std::future::pending;
use std::io::{self, PipeReader};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use mainstay_core::envelope::Stream;
use nix::libc;
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep_until};

use crate::method::OutputSink;
use crate::method::output::MAX_PIECE;

/// How long live output may wait for more to travel with it: below what a person notices, and long enough
/// to join the lines of one burst.
const JOIN_WITHIN: Duration = Duration::from_millis(20);

/// What a pipe holds if the kernel does not say: Linux's default.
const PIPE_BYTES: usize = 64 * 1024;

/// Reads until both pipes are at their end.
pub(super) struct Pump {
    pipes: [Option<Pipe>; 2],
    buffer: Vec<u8>,
    /// Output is wanted while it comes, rather than in pieces as large as possible.
    live: bool,
    /// When what is open in the sink shall go, if live.
    seal_at: Option<Instant>,
    last_progress: Instant,
}

struct Pipe {
    stream: Stream,
    end: pipe::Receiver,
    /// Set when its program has ended: bytes that may still come from it, as the pipe held no more.
    left: Option<usize>,
}

impl Pump {
    pub(super) fn new(stdout: PipeReader, stderr: PipeReader, live: bool) -> io::Result<Self> {
        let pipe = |stream, end: PipeReader| {
            Ok::<_, io::Error>(Some(Pipe {
                stream,
                end: pipe::Receiver::from_owned_fd(OwnedFd::from(end))?,
                left: None,
            }))
        };
        Ok(Self {
            pipes: [pipe(Stream::Stdout, stdout)?, pipe(Stream::Stderr, stderr)?],
            buffer: vec![0; MAX_PIECE],
            live,
            seal_at: None,
            last_progress: Instant::now(),
        })
    }

    /// Both pipes are at their end, and all that came is handed over.
    pub(super) fn is_done(&self, sink: &OutputSink) -> bool {
        self.pipes.iter().all(Option::is_none) && !sink.has_open() && !sink.has_sealed()
    }

    /// When output last came or went.
    pub(super) fn last_progress(&self) -> Instant {
        self.last_progress
    }

    /// Takes one step: hands over, or reads, or waits for either. It may be dropped at any time without
    /// losing anything. Never returns when done.
    pub(super) async fn step(&mut self, sink: &mut OutputSink) {
        if sink.has_sealed() {
            sink.send_sealed().await;
            self.last_progress = Instant::now();
            return;
        }
        if self.pipes.iter().all(Option::is_none) {
            if sink.has_open() {
                return sink.seal();
            }
            return pending().await;
        }
        let seal_at = self.seal_at.filter(|_| sink.has_open());
        let [first, second] = &self.pipes;
        // Unbiased, so that a flood on one pipe does not silence the other.
        let ready = tokio::select! {
            () = readable(first) => 0,
            () = readable(second) => 1,
            () = at(seal_at) => {
                sink.seal();
                self.seal_at = None;
                return;
            }
        };
        self.read(ready, sink);
        if self.live && sink.has_open() {
            self.seal_at.get_or_insert_with(|| Instant::now() + JOIN_WITHIN);
        } else {
            self.seal_at = None;
        }
    }

    /// The program has ended: what it wrote is in the pipes. More than they hold comes from others that
    /// inherited them, and could go on for ever.
    pub(super) fn limit_to_what_is_left(&mut self) {
        for pipe in self.pipes.iter_mut().flatten() {
            // SAFETY: asks the kernel for a number.
            let size = unsafe { libc::fcntl(pipe.end.as_raw_fd(), libc::F_GETPIPE_SZ) };
            pipe.left = Some(usize::try_from(size).unwrap_or(PIPE_BYTES));
        }
    }

    /// Reads and hands over what is in the pipes now, and does not wait for more.
    pub(super) async fn finish(&mut self, sink: &mut OutputSink) {
        self.limit_to_what_is_left();
        for index in 0..self.pipes.len() {
            while self.read(index, sink) {
                sink.send_sealed().await;
            }
            self.pipes[index] = None;
        }
        sink.seal();
        sink.send_sealed().await;
    }

    /// Reads once. Returns whether something came.
    fn read(&mut self, index: usize, sink: &mut OutputSink) -> bool {
        let Some(pipe) = &mut self.pipes[index] else {
            return false;
        };
        let room = pipe.left.unwrap_or(MAX_PIECE).min(MAX_PIECE);
        match pipe.end.try_read(&mut self.buffer[..room]) {
            // The end, or no byte left to read.
            Ok(0) => self.pipes[index] = None,
            Ok(count) => {
                sink.push(pipe.stream, &self.buffer[..count]);
                if let Some(left) = &mut pipe.left {
                    *left -= count;
                }
                self.last_progress = Instant::now();
                return true;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.pipes[index] = None,
        }
        false
    }
}

async fn readable(pipe: &Option<Pipe>) {
    match pipe {
        // An error shows when reading.
        Some(pipe) => drop(pipe.end.readable().await),
        None => pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

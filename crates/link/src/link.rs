//! A link: frames in both directions between this node and one peer whose key is proven.
//!
//! Every kind of link is a byte stream and a [`Peer`]; this file puts frames on the stream: four bytes of
//! length, big-endian, then that many bytes. What the frames mean is the courier's. A carrier of datagrams
//! can be a link too: it carries the stream in pieces.
//!
//! Framing is our own since `LengthDelimitedCodec` cannot say whether a frame has begun (a trickling peer
//! must be told from an idle one), reserves what a peer announces before it came, and keeps the memory of the
//! largest frame. Here an idle link holds no buffer at all.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use mainstay_core::frame::{Frame, FrameError, Goodbye, MAX_FRAME};
use mainstay_core::id::KeyId;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Duration, Instant, timeout, timeout_at};

use crate::chain::PeerIdentity;
use crate::gate::Place;
use crate::limits::{Limits, LinkCounters, MIN_PROGRESS, count};
use crate::stall::Guarded;

/// Once this much waits to be written, [`LinkSender::feed`] writes before it takes more.
const HIGH_WATER: usize = 64 * 1024;

/// An empty buffer up to this size is kept for the next frame; a larger one is given back. Most frames are
/// smaller, and ten thousand links keep 10 MiB at most.
const KEEP: usize = 1024;

/// How much room is made at once for a frame whose bytes have not come yet.
const GROW: usize = 4096;

/// How long a closing side reads on, so that its last words are not lost: a socket that is closed
/// with unread input resets the connection, and the peer may never see what was sent.
const FAREWELL: Duration = Duration::from_secs(2);

/// Who is at the other end, as far as the link itself has proven.
#[derive(Clone, Debug)]
pub struct Peer {
    /// It holds the private half of this key.
    pub key: KeyId,
    /// What its certificates say, if they lead to the fleet's CA; always there for a hub that was dialled.
    pub identity: Option<PeerIdentity>,
    /// The certificates as presented (DER, leaf first).
    pub chain: Vec<Bytes>,
    /// The address at the other end, if there is a network in between.
    pub address: Option<SocketAddr>,
}

pub struct Link {
    pub peer: Peer,
    pub sender: LinkSender,
    pub receiver: LinkReceiver,
}

#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("the connection failed")]
    Io(#[source] io::Error),
    #[error("the connection ended inside a frame")]
    Truncated,
    #[error("the peer announced a frame of {length} bytes; at most {limit} are allowed now")]
    Oversize { length: usize, limit: usize },
    #[error("the peer broke the protocol")]
    Malformed(#[source] FrameError),
    #[error("this frame cannot be sent")]
    Unsendable(#[source] FrameError),
    #[error("the peer made no progress within {} s", .0.as_secs_f32())]
    Stalled(Duration),
    #[error("the peer was not admitted within {} s", .0.as_secs_f32())]
    Admission(Duration),
    #[error("the link is closed")]
    Closed,
}

impl LinkError {
    /// Whether the peer did what no honest and healthy peer does. Such a peer gets no benefit of the doubt.
    pub fn is_violation(&self) -> bool {
        matches!(self, Self::Oversize { .. } | Self::Malformed(_))
    }
}

impl Link {
    /// Puts frames on a byte stream whose other end is proven to be `peer` by whatever made the stream. The link is a
    /// stranger's until [`LinkReceiver::admit`], which must happen within the admission limit.
    ///
    /// Short reads must be cheap: a stream whose reads are system calls brings a buffer of its own.
    pub fn over_stream(
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: Peer,
        limits: &Limits,
        counters: Arc<LinkCounters>,
    ) -> Self {
        let door =
            Door { deadline: Instant::now() + limits.admission, frame: limits.stranger_frame, _place: None };
        Self::over(Guarded::new(io, limits.stall, None), peer, door, limits, counters)
    }

    /// The same for a stream that is guarded already.
    pub(crate) fn over(
        io: impl AsyncRead + AsyncWrite + Send + 'static,
        peer: Peer,
        door: Door,
        limits: &Limits,
        counters: Arc<LinkCounters>,
    ) -> Self {
        let (read, write) = tokio::io::split(io);
        Self {
            peer,
            sender: LinkSender {
                io: Box::new(write),
                out: BytesMut::new(),
                broken: false,
                stall: limits.stall,
                counters: counters.clone(),
            },
            receiver: LinkReceiver {
                io: Box::new(read),
                header: [0; 4],
                header_filled: 0,
                body: Vec::new(),
                pace: None,
                broken: false,
                limit: door.frame.min(limits.frame),
                full_limit: limits.frame,
                door: Some(door),
                stall: limits.stall,
                admission: limits.admission,
                counters,
            },
        }
    }

    /// Says goodbye and closes, as [`end_with`](Self::end_with) does.
    pub async fn farewell(self, goodbye: Goodbye) {
        self.end_with(&Frame::Goodbye(goodbye)).await;
    }

    /// Sends a last frame and closes in a way that lets the peer read it. Takes a bounded time.
    pub async fn end_with(mut self, last: &Frame) {
        let last_words = async {
            self.sender.send(last).await?;
            self.sender.close().await?;
            self.receiver.discard().await
        };
        // Whoever takes leave no longer cares why it was not heard.
        let _ = timeout(FAREWELL, last_words).await;
    }
}

/// What holds until the peer is admitted.
pub(crate) struct Door {
    pub(crate) deadline: Instant,
    pub(crate) frame: usize,
    pub(crate) _place: Option<Place>,
}

/// The sending half. Dropping it does not flush.
pub struct LinkSender {
    io: Box<dyn AsyncWrite + Send + Unpin>,
    /// Encoded and not yet taken by the stream.
    out: BytesMut,
    broken: bool,
    stall: Duration,
    counters: Arc<LinkCounters>,
}

impl LinkSender {
    /// Sends one frame now. For several, [`feed`](Self::feed) each and [`flush`](Self::flush) once.
    pub async fn send(&mut self, frame: &Frame) -> Result<(), LinkError> {
        self.feed(frame).await?;
        self.flush().await
    }

    /// Takes a frame to be sent with the next flush, writing earlier ones if many wait.
    ///
    /// If this is dropped before it is done, the frame was not taken, and no frame is torn.
    pub async fn feed(&mut self, frame: &Frame) -> Result<(), LinkError> {
        let encoded = frame.encode().map_err(LinkError::Unsendable)?;
        while self.out.len() >= HIGH_WATER {
            self.write_some().await?;
        }
        self.check()?;
        self.out.reserve(4 + encoded.len());
        self.out.put_u32(u32::try_from(encoded.len()).expect("a frame is at most 1 MiB"));
        self.out.put(encoded);
        Ok(())
    }

    /// Whether another frame can be fed without waiting for the peer.
    pub fn has_room(&self) -> bool {
        self.out.len() < HIGH_WATER
    }

    /// Sends all that was fed. May be dropped and called again.
    pub async fn flush(&mut self) -> Result<(), LinkError> {
        while self.out.has_remaining() {
            self.write_some().await?;
        }
        if self.out.capacity() > KEEP {
            self.out = BytesMut::new();
        }
        self.check()?;
        let result = self.io.flush().await;
        self.judge(result)
    }

    /// Sends what was fed and ends this direction; the peer's [`LinkReceiver::recv`] then returns `None`.
    pub async fn close(&mut self) -> Result<(), LinkError> {
        self.flush().await?;
        let result = self.io.shutdown().await;
        self.broken = true;
        self.judge(result)
    }

    async fn write_some(&mut self) -> Result<(), LinkError> {
        self.check()?;
        let result = match self.io.write_buf(&mut self.out).await {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        self.judge(result)
    }

    fn check(&self) -> Result<(), LinkError> {
        if self.broken { Err(LinkError::Closed) } else { Ok(()) }
    }

    fn judge(&mut self, result: io::Result<()>) -> Result<(), LinkError> {
        result.map_err(|error| {
            self.broken = true;
            if error.kind() == io::ErrorKind::TimedOut {
                count(&self.counters.stalled);
                LinkError::Stalled(self.stall)
            } else {
                LinkError::Io(error)
            }
        })
    }
}

/// The receiving half.
pub struct LinkReceiver {
    io: Box<dyn AsyncRead + Send + Unpin>,
    header: [u8; 4],
    header_filled: usize,
    /// What came of the frame so far. It grows as bytes come, not as they are announced.
    body: Vec<u8>,
    /// There while a frame has begun and not ended.
    pace: Option<Pace>,
    broken: bool,
    limit: usize,
    full_limit: usize,
    /// There until the peer is admitted.
    door: Option<Door>,
    stall: Duration,
    admission: Duration,
    counters: Arc<LinkCounters>,
}

struct Pace {
    until: Instant,
    bytes: usize,
}

impl LinkReceiver {
    /// The peer is known and welcome: it may send large frames and take its time, and it no longer counts as
    /// a stranger. Until then every [`recv`](Self::recv) fails once the admission limit has passed.
    pub fn admit(&mut self) {
        self.limit = self.full_limit;
        self.door = None;
    }

    /// The next frame; `None` when the peer has closed the link between frames. After an error there
    /// is nothing more to receive.
    ///
    /// May be dropped and called again: nothing that came is lost.
    pub async fn recv(&mut self) -> Result<Option<Frame>, LinkError> {
        if self.broken {
            return Err(LinkError::Closed);
        }
        let result = self.next().await;
        if let Err(error) = &result {
            self.broken = true;
            self.body = Vec::new();
            match error {
                LinkError::Oversize { .. } => count(&self.counters.oversize),
                LinkError::Malformed(_) => count(&self.counters.malformed),
                LinkError::Truncated => count(&self.counters.truncated),
                LinkError::Stalled(_) => count(&self.counters.stalled),
                LinkError::Admission(_) => count(&self.counters.admission_timeout),
                LinkError::Io(_) | LinkError::Unsendable(_) | LinkError::Closed => {}
            }
        }
        result
    }

    async fn next(&mut self) -> Result<Option<Frame>, LinkError> {
        loop {
            if let Some(length) = self.announced()?
                && self.body.len() == length
            {
                return self.finish().map(Some);
            }
            // A stranger that always has something to say must end, too.
            if self.door.as_ref().is_some_and(|door| Instant::now() >= door.deadline) {
                return Err(LinkError::Admission(self.admission));
            }
            let read = match self.deadline() {
                None => self.read_some().await,
                Some((deadline, late)) => match timeout_at(deadline, self.read_some()).await {
                    Ok(read) => read,
                    Err(_) => return Err(late),
                },
            };
            match read {
                Ok(0) if self.header_filled == 0 => return Ok(None),
                Ok(0) => return Err(LinkError::Truncated),
                Ok(n) => self.progress(n),
                // TLS says so when the peer ends without closing: its process died, or someone cut the line.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && self.header_filled > 0 => {
                    return Err(LinkError::Truncated);
                }
                Err(error) => return Err(LinkError::Io(error)),
            }
        }
    }

    /// The length of the frame that has begun, once it is known.
    fn announced(&self) -> Result<Option<usize>, LinkError> {
        if self.header_filled < 4 {
            return Ok(None);
        }
        let length = u32::from_be_bytes(self.header) as usize;
        if length > self.limit {
            let limit = self.limit;
            return Err(LinkError::Oversize { length, limit });
        }
        Ok(Some(length))
    }

    fn finish(&mut self) -> Result<Frame, LinkError> {
        let frame = Frame::decode(&self.body).map_err(LinkError::Malformed);
        self.header_filled = 0;
        self.pace = None;
        if self.body.capacity() > KEEP {
            self.body = Vec::new();
        } else {
            self.body.clear();
        }
        frame
    }

    /// When waiting must end, and what it then means.
    fn deadline(&self) -> Option<(Instant, LinkError)> {
        let pace = self.pace.as_ref().map(|pace| (pace.until, LinkError::Stalled(self.stall)));
        let door = self.door.as_ref().map(|door| (door.deadline, LinkError::Admission(self.admission)));
        [pace, door].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    fn progress(&mut self, n: usize) {
        let pace = self.pace.get_or_insert_with(|| Pace { until: Instant::now() + self.stall, bytes: 0 });
        pace.bytes += n;
        if pace.bytes >= MIN_PROGRESS {
            pace.until = Instant::now() + self.stall;
            pace.bytes = 0;
        }
    }

    async fn read_some(&mut self) -> io::Result<usize> {
        if self.header_filled < 4 {
            let n = self.io.read(&mut self.header[self.header_filled..]).await?;
            self.header_filled += n;
            return Ok(n);
        }
        let length = u32::from_be_bytes(self.header) as usize;
        let missing = length - self.body.len();
        if self.body.capacity() == self.body.len() {
            // Doubling, so that a large frame is copied a bounded number of times.
            self.body.reserve_exact(missing.min(GROW.max(self.body.len())));
        }
        self.io.read_buf(&mut (&mut self.body).limit(missing)).await
    }

    /// Reads and forgets until the peer closes.
    async fn discard(&mut self) -> Result<(), LinkError> {
        let mut buffer = [0; 512];
        while self.io.read(&mut buffer).await.map_err(LinkError::Io)? > 0 {}
        Ok(())
    }
}

const _: () = assert!(MAX_FRAME <= u32::MAX as usize);

#[cfg(test)]
mod tests {
    use mainstay_core::frame::Data;

    use super::*;

    #[tokio::test]
    async fn a_link_that_carried_a_large_frame_holds_nothing_when_idle() {
        let peer = Peer { key: KeyId::from_bytes([1; 32]), identity: None, chain: vec![], address: None };
        let limits = Limits::default();
        let (mut a, mut b) = crate::memory::pair(peer.clone(), peer, &limits, &Arc::default());
        b.receiver.admit();
        let large = Frame::Data(Data { envelope: vec![7; 1_000_000].into(), chain: vec![] });
        for frame in [&large, &Frame::Ping(1), &large] {
            let (sent, received) = tokio::join!(a.sender.send(frame), b.receiver.recv());
            sent.unwrap();
            assert_eq!(received.unwrap().as_ref(), Some(frame));
            assert!(a.sender.out.capacity() <= KEEP && b.receiver.body.capacity() <= KEEP);
        }
    }

    #[tokio::test]
    async fn what_is_announced_and_does_not_come_takes_no_memory() {
        let (ours, mut far) = tokio::io::duplex(1 << 20);
        let peer = Peer { key: KeyId::from_bytes([1; 32]), identity: None, chain: vec![], address: None };
        let mut link = Link::over_stream(ours, peer, &Limits::default(), Arc::default());
        link.receiver.admit();
        far.write_all(&[0, 0x10, 0, 0]).await.unwrap();
        far.write_all(&[0; 10_000]).await.unwrap();
        assert!(futures_util::poll!(Box::pin(link.receiver.recv())).is_pending());
        assert_eq!(link.receiver.body.len(), 10_000);
        assert!(link.receiver.body.capacity() <= 2 * 10_000);
    }
}

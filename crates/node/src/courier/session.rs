//! One link from its hello to its end: a task that reads, verifies and judges what comes, and writes what the
//! courier wants sent.
//!
//! The signature check is the dearest step of receiving, so it is done here, in as many tasks as there are
//! links, and not in the courier. Frames of one link are handled in order: entries of the trust log are in
//! force before the first order that follows them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use mainstay_core::delivery::Incoming;
use mainstay_core::envelope::{Audience, Envelope, Payload, Verified};
use mainstay_core::frame::{Ack, Data, Frame, Goodbye, Hello, Resolve, Resolved, Verdict, common_protocol};
use mainstay_core::outcome::Rejection;
use mainstay_link::link::{Link, LinkError, LinkReceiver, LinkSender};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::judge::PeerInfo;
use super::{Input, LINK_QUEUE, LinkUp};
use crate::hub_role::{Admission, HubRole};
use crate::node::Shared;
use crate::trust_store::TrustStoreError;

/// A hub asks an idle peer whether it is there this often; an agent at rest is woken by nothing else.
const PROBE_EVERY: Duration = Duration::from_secs(30);

/// A peer that said nothing for this long is gone (DESIGN §5: noticed within 90 s).
const DEAD_AFTER: Duration = Duration::from_secs(80);

/// The peer's hello, and all that must come before orders, is there within this.
const HELLO_WITHIN: Duration = Duration::from_secs(10);

/// Answers of one node that wait for the Store: a window's worth. More is sent only by a node that keeps to no window,
/// and stays in its socket.
const ANSWERS: usize = 512;
const ANSWER_BYTES: usize = 4 << 20;

/// Last words get this long to leave.
const FAREWELL_WITHIN: Duration = Duration::from_secs(2);

static SESSIONS: AtomicU64 = AtomicU64::new(1);

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionEnd {
    #[error("the peer closed the link")]
    Closed,
    #[error("this node closed the link")]
    Cut,
    #[error("the peer said goodbye: {0:?}")]
    Goodbye(Goodbye),
    #[error("refused: {0:?}")]
    Refused(Goodbye),
    #[error("the peer did not say hello")]
    NoHello,
    #[error("the peer was silent for too long")]
    Silent,
    #[error("the peer broke the protocol: {0}")]
    Violation(&'static str),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Trust(#[from] TrustStoreError),
    #[error("this node is stopping")]
    Stopped,
}

impl From<super::Stopped> for SessionEnd {
    fn from(_: super::Stopped) -> Self {
        Self::Stopped
    }
}

impl SessionEnd {
    /// The link was proven to work before it ended, or ended for a reason that passes: back-off starts anew.
    pub fn reason_to_stay_away(&self) -> bool {
        matches!(self, Self::Goodbye(Goodbye::Revoked) | Self::Refused(Goodbye::Revoked))
    }
}

struct Session<'a> {
    shared: &'a Arc<Shared>,
    peer: PeerInfo,
    chain: Vec<Bytes>,
    sender: LinkSender,
    receiver: LinkReceiver,
    frames: mpsc::Receiver<Frame>,
    cancel: CancellationToken,
    /// Bytes wait in the sender.
    unsent: bool,
    heard: Instant,
    probed: Instant,
}

/// This node's own hello.
pub fn hello(shared: &Shared) -> Hello {
    let (trust_length, trust_head) = shared.trust.position();
    Hello {
        protocols: (mainstay_core::frame::OLDEST_PROTOCOL, mainstay_core::frame::PROTOCOL),
        capabilities: Vec::new(),
        name: shared.name(),
        version: shared.version.clone(),
        now: shared.clock.now(),
        trust_length,
        trust_head,
        journal: shared.journal_id(),
        mark: shared.mark(),
        facts: Some(Box::new(shared.facts())),
    }
}

/// A link on which both ends have said what must be said before orders.
struct Greeted {
    link: Link,
    peer: PeerInfo,
    address: String,
    start: Start,
}

/// Until a link is live, it is dropped when the node stops; from then on the courier ends it.
async fn unless_stopped<T>(
    shared: &Shared,
    greeting: impl Future<Output = Result<T, SessionEnd>>,
) -> Result<T, SessionEnd> {
    tokio::select! {
        () = shared.stop.cancelled() => Err(SessionEnd::Stopped),
        greeted = greeting => greeted,
    }
}

/// The hub's side of a link whose first frame was a hello.
pub async fn accept(shared: &Arc<Shared>, link: Link, first: Hello) -> Result<(), SessionEnd> {
    let greeted = unless_stopped(shared, greet_node(shared, link, first)).await?;
    live(shared, greeted).await
}

async fn greet_node(shared: &Shared, mut link: Link, first: Hello) -> Result<Greeted, SessionEnd> {
    let Some(role) = shared.hub.clone() else { return Err(SessionEnd::Stopped) };
    if common_protocol(first.protocols).is_none() {
        let protocols = (mainstay_core::frame::OLDEST_PROTOCOL, mainstay_core::frame::PROTOCOL);
        return refuse(link, Goodbye::Protocol { protocols }).await;
    }
    let name = match role.admit(link.peer.key, &first).await {
        Admission::Admit { name } => name,
        Admission::Refuse(why) => return refuse(link, why).await,
    };
    // A member from here on: it may take its time, and send a long trust log.
    link.receiver.admit();
    link.sender.send(&Frame::Hello(Box::new(hello(shared)))).await?;
    let (length, _) = shared.trust.position();
    if first.trust_length > length {
        // This hub was restored from an older copy: the node knows of revocations that it does not.
        if !learn_from_node(role.as_ref(), &mut link, length, first.trust_length).await? {
            return refuse(link, Goodbye::TrustForked).await;
        }
    } else if !shared.trust.has_prefix(first.trust_length, &first.trust_head) {
        return refuse(link, Goodbye::TrustForked).await;
    }
    let had = first.trust_length.min(length);
    let news = shared.trust.after(had);
    for frame in trust_frames(&news) {
        link.sender.feed(&frame).await?;
    }
    let trust = had + news.len() as u64;
    if let Some(facts) = first.facts {
        role.facts(link.peer.key, *facts);
    }
    let address = link.peer.address.map_or_else(String::new, |address| address.to_string());
    let peer = PeerInfo { key: link.peer.key, name, hub: false };
    let start = Start { mark: first.mark, trust };
    Ok(Greeted { link, peer, address, start })
}

/// Takes what a node knows beyond this hub's trust log. `false` if it does not continue it.
async fn learn_from_node(
    role: &dyn HubRole,
    link: &mut Link,
    mut have: u64,
    wanted: u64,
) -> Result<bool, SessionEnd> {
    while have < wanted {
        let entries = match timeout(HELLO_WITHIN, link.receiver.recv()).await {
            Ok(Ok(Some(Frame::Trust(entries)))) if !entries.is_empty() => entries,
            Ok(Ok(_)) | Err(_) => return Err(SessionEnd::Violation("no trust entries, though it has more")),
            Ok(Err(error)) => return Err(error.into()),
        };
        have += entries.len() as u64;
        if role.learn_trust(entries).await.is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The dialling side.
pub async fn dial(shared: &Arc<Shared>, link: Link, address: String) -> Result<(), SessionEnd> {
    let greeted = unless_stopped(shared, greet_hub(shared, link, address)).await?;
    live(shared, greeted).await
}

async fn greet_hub(shared: &Shared, mut link: Link, address: String) -> Result<Greeted, SessionEnd> {
    link.sender.send(&Frame::Hello(Box::new(hello(shared)))).await?;
    let first = match timeout(HELLO_WITHIN, link.receiver.recv()).await {
        Ok(Ok(Some(Frame::Hello(hello)))) => *hello,
        Ok(Ok(Some(Frame::Goodbye(why)))) => return Err(SessionEnd::Goodbye(why)),
        Ok(Ok(None)) => return Err(SessionEnd::Closed),
        Ok(Ok(Some(_))) | Err(_) => return Err(SessionEnd::NoHello),
        Ok(Err(error)) => return Err(error.into()),
    };
    link.receiver.admit();
    let (length, _) = shared.trust.position();
    if first.trust_length < length {
        if !shared.trust.has_prefix(first.trust_length, &first.trust_head) {
            return refuse(link, Goodbye::TrustForked).await;
        }
        for frame in trust_frames(&shared.trust.after(first.trust_length)) {
            link.sender.send(&frame).await?;
        }
    }
    // What the hub has more comes before anything else, and must be on disk here before any order.
    while shared.trust.position().0 < first.trust_length {
        match timeout(HELLO_WITHIN, link.receiver.recv()).await {
            Ok(Ok(Some(Frame::Trust(entries)))) => shared.trust.learn(entries).await?,
            Ok(Ok(Some(Frame::Goodbye(why)))) => return Err(SessionEnd::Goodbye(why)),
            Ok(Ok(_)) | Err(_) => return Err(SessionEnd::Violation("trust entries are missing")),
            Ok(Err(error)) => return Err(error.into()),
        }
    }
    shared.clock.learn(first.now);
    if !shared.trust.is_hub(&link.peer.key, shared.clock.now()) {
        return refuse(link, Goodbye::Violation { what: "this key holds no hub's grant".into() }).await;
    }
    shared.proven();
    let peer = PeerInfo { key: link.peer.key, name: first.name, hub: true };
    let start = Start { mark: first.mark, trust: first.trust_length };
    Ok(Greeted { link, peer, address, start })
}

async fn refuse<T>(link: Link, why: Goodbye) -> Result<T, SessionEnd> {
    link.farewell(why.clone()).await;
    Err(SessionEnd::Refused(why))
}

/// Cuts a list of entries into frames that fit.
fn trust_frames(entries: &[Bytes]) -> Vec<Frame> {
    // Entries are a few hundred bytes; this many stay far below a frame.
    entries.chunks(256).map(|some| Frame::Trust(some.to_vec())).collect()
}

/// Where the two ends stood when the link was made.
struct Start {
    mark: u64,
    trust: u64,
}

async fn live(shared: &Arc<Shared>, greeted: Greeted) -> Result<(), SessionEnd> {
    let Greeted { link, peer, address, start } = greeted;
    let Link { peer: end, sender, receiver } = link;
    let chain = end.chain;
    let (frames, waiting) = mpsc::channel(LINK_QUEUE);
    let id = SESSIONS.fetch_add(1, Ordering::Relaxed);
    let cancel = shared.stop.child_token();
    let up = LinkUp {
        session: id,
        peer: peer.key,
        name: peer.name.clone(),
        hub: peer.hub,
        address,
        mark: start.mark,
        trust: start.trust,
        frames,
        cancel: cancel.clone(),
    };
    shared.inputs().send(Input::LinkUp(Box::new(up))).await?;
    let key = peer.key;
    let now = Instant::now();
    let mut session = Session {
        shared,
        peer,
        chain,
        sender,
        receiver,
        frames: waiting,
        cancel,
        // The entries of the trust log that were fed before.
        unsent: true,
        heard: now,
        probed: now,
    };
    let end = session.run().await;
    let _ = shared.inputs().send(Input::LinkDown { session: id, peer: key }).await;
    session.farewell().await;
    end
}

impl Session<'_> {
    async fn run(&mut self) -> Result<(), SessionEnd> {
        let mut answers = FuturesUnordered::new();
        let mut answer_bytes = 0;
        loop {
            // Acknowledgements of answers that the Store has by now go out together.
            let next_probe = self.probed + PROBE_EVERY;
            tokio::select! {
                () = self.cancel.cancelled() => return Err(SessionEnd::Cut),
                frame = self.receiver.recv(), if answers.len() < ANSWERS && answer_bytes < ANSWER_BYTES => {
                    let Some(frame) = frame? else { return Err(SessionEnd::Closed) };
                    self.heard = Instant::now();
                    self.probed = self.heard;
                    let bytes = match &frame {
                        Frame::Data(data) => data.envelope.len(),
                        _ => 0,
                    };
                    if let Some(answer) = self.frame(frame).await? {
                        answer_bytes += bytes;
                        answers.push(async move { (answer.await, bytes) });
                    }
                }
                Some(frame) = self.frames.recv(), if !self.unsent => {
                    self.sender.feed(&frame).await?;
                    while self.sender.has_room() {
                        match self.frames.try_recv() {
                            Ok(frame) => self.sender.feed(&frame).await?,
                            Err(_) => break,
                        }
                    }
                    self.unsent = true;
                }
                sent = self.sender.flush(), if self.unsent => {
                    sent?;
                    self.unsent = false;
                }
                Some((ack, bytes)) = answers.next(), if !answers.is_empty() && !self.unsent => {
                    let mut acks = vec![ack];
                    answer_bytes -= bytes;
                    while let Some(Some((ack, bytes))) = futures_util::FutureExt::now_or_never(answers.next()) {
                        acks.push(ack);
                        answer_bytes -= bytes;
                    }
                    // It was not read while these were waited for, which is no silence of its own.
                    self.heard = Instant::now();
                    self.sender.feed(&Frame::Ack(acks)).await?;
                    self.unsent = true;
                }
                () = sleep_until(next_probe) => {
                    if self.heard.elapsed() >= DEAD_AFTER {
                        return Err(SessionEnd::Silent);
                    }
                    self.probed = Instant::now();
                    if self.shared.hub.is_some() && !self.unsent {
                        self.sender.feed(&Frame::Ping(0)).await?;
                        self.unsent = true;
                    }
                }
            }
        }
    }

    /// Handles a frame. What must wait for the Store comes back as a future.
    async fn frame(&mut self, frame: Frame) -> Result<Option<impl Future<Output = Ack> + use<>>, SessionEnd> {
        let shared = self.shared;
        let peer = self.peer.key;
        match frame {
            Frame::Data(data) => return self.data(data).await,
            Frame::Ack(acks) => shared.inputs().send(Input::Acks { peer, acks }).await?,
            Frame::Ping(number) => {
                shared.inputs().send(Input::Tell { peer, frame: Frame::Pong(number) }).await?
            }
            Frame::Pong(_) => {}
            Frame::Mark(mark) => shared.inputs().send(Input::Mark { peer, mark }).await?,
            Frame::Goodbye(why) => return Err(SessionEnd::Goodbye(why)),
            Frame::Trust(entries) if self.peer.hub => {
                shared.trust.learn(entries).await?;
                if shared.trust.is_revoked(&peer) || !shared.trust.is_hub(&peer, shared.clock.now()) {
                    return Err(SessionEnd::Violation("its grant is over"));
                }
            }
            Frame::Facts(facts) => {
                if let Some(role) = &shared.hub {
                    role.facts(peer, *facts);
                }
            }
            Frame::Resolve(Resolve { number, names }) => {
                if let Some(role) = &shared.hub {
                    let found = names
                        .into_iter()
                        .take(MAX_NAMES)
                        .filter_map(|name| role.resolve(&name).map(|key| (name, key)))
                        .collect();
                    shared
                        .inputs()
                        .send(Input::Tell { peer, frame: Frame::Resolved(Resolved { number, found }) })
                        .await?;
                }
            }
            Frame::Resolved(answer) if self.peer.hub => shared.names.resolved(answer).await,
            Frame::Hello(_)
            | Frame::Trust(_)
            | Frame::Enrol(_)
            | Frame::Enrolment(_)
            | Frame::Resolved(_) => {
                return Err(SessionEnd::Violation("a frame out of place"));
            }
        }
        Ok(None)
    }

    async fn data(&mut self, data: Data) -> Result<Option<impl Future<Output = Ack> + use<>>, SessionEnd> {
        let shared = self.shared;
        let envelope = Envelope::decode(&data.envelope).map_err(|_| {
            shared.metrics.refused("malformed");
            SessionEnd::Violation("an envelope that cannot be decoded")
        })?;
        let verified = match envelope.clone().verify() {
            Ok(verified) => verified,
            Err(error) => {
                // An id can be read even where the rest is not understood; without one there is nobody to tell.
                let Some(id) = id_of(&envelope) else {
                    shared.metrics.refused("malformed");
                    return Err(SessionEnd::Violation("an envelope that cannot be read"));
                };
                // Counted when it is told.
                let acks = vec![Ack { id, verdict: Verdict::Refused(error.rejection()) }];
                let peer = self.peer.key;
                shared.inputs().send(Input::Tell { peer, frame: Frame::Ack(acks) }).await?;
                return Ok(None);
            }
        };
        let now = shared.clock.now();
        let judged = shared.judge().judge(&self.peer, &verified.body, &data.chain, now);
        if verified.body.to == Audience::Hubs {
            return self.for_the_hub(verified, judged);
        }
        let data = self.with_chain(data, &verified);
        let incoming = Incoming { peer: self.peer.key, data, verified, judged };
        shared.inputs().send(Input::Data(Box::new(incoming))).await?;
        Ok(None)
    }

    /// A relay passes on a request with the certificate under which its sender joined: the receiver judges by it.
    fn with_chain(&self, data: Data, verified: &Verified) -> Data {
        let relayed = self.shared.hub.is_some() && verified.body.to != Audience::Node(self.shared.me);
        if !relayed {
            return data;
        }
        let chain = match verified.body.payload {
            Payload::Request(_) if verified.body.from == self.peer.key => self.chain.clone(),
            _ => Vec::new(),
        };
        Data { envelope: data.envelope, chain }
    }

    fn for_the_hub(
        &self,
        verified: Verified,
        judged: Result<(), Rejection>,
    ) -> Result<Option<impl Future<Output = Ack> + use<>>, SessionEnd> {
        let id = verified.body.id;
        let peer = self.peer.key;
        let Some(role) = self.shared.hub.clone() else {
            return Err(SessionEnd::Violation("an envelope for a hub, to an agent"));
        };
        let metrics = self.shared.metrics.clone();
        Ok(Some(async move {
            let verdict = match judged {
                Ok(()) => role.answer(peer, verified).await,
                Err(why) => Verdict::Refused(why),
            };
            if let Verdict::Refused(why) = &verdict {
                metrics.refused(refusal_word(why));
            }
            Ack { id, verdict }
        }))
    }

    /// What the courier still wanted said (a goodbye, as a rule), and the end.
    async fn farewell(mut self) {
        let words = async {
            // Until the courier has let go of this link.
            while let Some(frame) = self.frames.recv().await {
                // Orders that were not sent yet are for the next link, if the peer may have one.
                if !matches!(frame, Frame::Data(_)) {
                    self.sender.feed(&frame).await?;
                }
            }
            self.sender.close().await
        };
        if let Ok(Err(error)) = timeout(FAREWELL_WITHIN, words).await {
            debug!(%error, "last words were not heard");
        }
    }
}

/// Most names in one question: far more than a message file names.
const MAX_NAMES: usize = 10_000;

fn id_of(envelope: &Envelope) -> Option<mainstay_core::id::MessageId> {
    #[derive(serde::Deserialize)]
    struct Head {
        id: mainstay_core::id::MessageId,
    }
    mainstay_core::encoding::decode::<Head>(&envelope.body).ok().map(|head| head.id)
}

/// A bounded set of words, for a metric's label.
pub(super) fn refusal_word(why: &Rejection) -> &'static str {
    match why {
        Rejection::BadSignature => "signature",
        Rejection::WrongAudience => "audience",
        Rejection::NotUnderstood(_) => "version",
        Rejection::IdReused => "id_reused",
        Rejection::Denied => "denied",
        Rejection::UnknownMethod(_) => "unknown_method",
        Rejection::BadArguments(_) => "arguments",
        Rejection::UnknownNode => "unknown_node",
        Rejection::LivesTooLong => "lifetime",
        Rejection::TooLarge => "too_large",
        Rejection::Expired => "expired",
    }
}

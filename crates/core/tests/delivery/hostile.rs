//! One engine, and peers that say whatever they like.

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use mainstay_core::delivery::{Draft, Effect, Engine, Event, Incoming, Limits, Refusal};
use mainstay_core::envelope::{
    Audience, Body, Cancel, End, MAX_LIFETIME, Output, Payload, Piece, Request, Signer, Stream, VERSION,
    Verified,
};
use mainstay_core::frame::{Data, Frame, MAX_ENVELOPE, MAX_FRAME, Verdict};
use mainstay_core::id::{KeyId, MessageId, RunId};
use mainstay_core::journal::{Journal as _, Table};
use mainstay_core::outcome::{Exit, Outcome, Rejection};
use mainstay_core::time::Timestamp;

use super::fleet::START;
use super::journal::TestJournal;

/// The engine under test; its disk is at once.
struct Lone {
    me: KeyId,
    engine: Engine,
    journal: TestJournal,
    now: Timestamp,
    effects: Vec<Effect>,
}

fn signer(n: u8) -> Signer {
    Signer::new(SigningKey::from_bytes(&[n; 32]))
}

fn request(method: &str) -> Request {
    Request {
        method: method.into(),
        args: Vec::new(),
        data: Bytes::new(),
        command: true,
        idempotent: false,
        timeout_ms: None,
        output_limit: 1 << 20,
        stream: false,
        sealed: None,
        run: None,
        operator: None,
    }
}

impl Lone {
    fn new(is_hub: bool, limits: Limits) -> Self {
        let mut journal = TestJournal::default();
        let (engine, effects) = Engine::open(signer(1), is_hub, limits, &mut journal, START).unwrap();
        let mut lone = Self { me: signer(1).id(), engine, journal, now: START, effects: Vec::new() };
        lone.carry_out(effects);
        lone
    }

    fn event(&mut self, event: Event) {
        let effects = self.engine.handle(self.now, event);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if let Effect::Commit { token, batch, .. } = effect {
                let result = self.journal.commit(&[batch]).remove(0).map_err(|e| e.to_string());
                self.event(Event::Committed { token, result });
            } else {
                self.effects.push(effect);
            }
        }
    }

    fn link(&mut self, peer: u8, hub: bool) {
        self.event(Event::LinkUp { peer: signer(peer).id(), hub });
    }

    fn id(n: u8) -> MessageId {
        MessageId::new(START, [n; 10])
    }

    /// `from` sends this over its own link or that of `peer`.
    fn receive(
        &mut self,
        (peer, from): (u8, u8),
        to: KeyId,
        id: MessageId,
        expires: Option<Timestamp>,
        payload: Payload,
        judged: Result<(), Rejection>,
    ) -> Vec<Verdict> {
        let body = Body {
            v: VERSION,
            crit: Vec::new(),
            id,
            from: signer(from).id(),
            to: Audience::Node(to),
            issued: self.now,
            expires,
            order: None,
            fence: None,
            payload,
        };
        let envelope = signer(from).seal(&body);
        let data = Data { envelope: envelope.encode(), chain: Vec::new() };
        let verified = Verified { envelope, body };
        self.effects.clear();
        let peer = signer(peer).id();
        self.event(Event::Data(Box::new(Incoming { peer, data, verified, judged })));
        self.verdicts(peer)
    }

    fn verdicts(&self, to: KeyId) -> Vec<Verdict> {
        let acks = self.effects.iter().filter_map(|effect| match effect {
            Effect::Send { peer, frame: Frame::Ack(acks) } if *peer == to => Some(acks),
            _ => None,
        });
        acks.flatten().map(|ack| ack.verdict.clone()).collect()
    }

    fn soon(&self) -> Option<Timestamp> {
        Some(self.now + std::time::Duration::from_secs(3600))
    }
}

/// One hop could carry it; with the sender's certificates the next could not, and the link of its receiver would be cut
/// each time it is offered.
#[test]
fn what_the_next_hop_could_not_carry_is_not_taken() {
    let mut hub = Lone::new(true, Limits::default());
    hub.link(2, false);
    let to = signer(3).id();
    for (size, taken) in [(MAX_FRAME - 1_000, false), (MAX_ENVELOPE - 1_000, true)] {
        let asks = Payload::Request(Request { data: vec![7; size].into(), ..request("ping") });
        let verdicts = hub.receive((2, 2), to, Lone::id(size as u8), hub.soon(), asks, Ok(()));
        let expected = if taken { Verdict::Held } else { Verdict::Refused(Rejection::TooLarge) };
        assert_eq!(verdicts, [expected], "{size}");
    }
}

#[test]
fn one_sender_cannot_take_the_whole_relay() {
    let limits = Limits { relay_bytes: 100_000, relay_bytes_per_sender: 20_000, ..Limits::default() };
    let mut hub = Lone::new(true, limits);
    hub.link(2, false);
    hub.link(4, false);
    let to = signer(3).id();
    let asks = || Payload::Request(Request { data: vec![7; 4_000].into(), ..request("ping") });
    let mut held = 0;
    for n in 0..20 {
        let verdicts = hub.receive((2, 2), to, Lone::id(n), hub.soon(), asks(), Ok(()));
        held += usize::from(verdicts == [Verdict::Held]);
    }
    assert_eq!(held, 4);
    assert_eq!(hub.receive((4, 4), to, Lone::id(1), hub.soon(), asks(), Ok(())), [Verdict::Held]);
    // Room that was given back is there again.
    hub.event(Event::NodeGone { key: to });
    let other = signer(5).id();
    assert_eq!(hub.receive((2, 2), other, Lone::id(30), hub.soon(), asks(), Ok(())), [Verdict::Held]);
}

#[test]
fn a_relay_holds_no_request_for_ever() {
    let mut hub = Lone::new(true, Limits::default());
    hub.link(2, false);
    for expires in [None, Some(START + MAX_LIFETIME * 3)] {
        let asks = Payload::Request(request("ping"));
        let verdicts = hub.receive((2, 2), signer(3).id(), Lone::id(1), expires, asks, Ok(()));
        assert_eq!(verdicts, [Verdict::Refused(Rejection::LivesTooLong)]);
    }
}

#[test]
fn cancels_of_one_node_leave_room_for_those_of_others() {
    let mut node = Lone::new(false, Limits::default());
    node.link(9, true);
    let cancel = |n: u16| {
        let re = MessageId::new(START, [1, 0, 0, 0, 0, 0, 0, 0, (n >> 8) as u8, n as u8]);
        let id = MessageId::new(START, [2, 0, 0, 0, 0, 0, 0, 0, (n >> 8) as u8, n as u8]);
        (id, Payload::Cancel(Cancel { re, run: None }))
    };
    let mut taken = 0;
    for n in 0..5_000 {
        let (id, payload) = cancel(n);
        let verdicts = node.receive((9, 4), node.me, id, None, payload, Ok(()));
        taken += usize::from(verdicts == [Verdict::Accepted]);
    }
    assert!((1..1_000).contains(&taken), "{taken}");
    let (id, payload) = cancel(0);
    assert_eq!(node.receive((9, 3), node.me, id, None, payload, Ok(())), [Verdict::Accepted]);
    let run = RunId::new(START, [5; 10]);
    let payload = Payload::Cancel(Cancel { re: MessageId::of_run(run, node.me), run: Some(run) });
    assert_eq!(node.receive((9, 9), node.me, Lone::id(7), None, payload, Ok(())), [Verdict::Accepted]);
}

/// A node may sign with as many keys as it likes: nothing is owed to them.
#[test]
fn what_another_key_signed_leaves_nothing_behind() {
    let mut hub = Lone::new(true, Limits::default());
    hub.link(2, false);
    let end = End {
        re: Lone::id(1),
        run: None,
        outcome: Outcome::Finished(Exit::Code(0)),
        last_seq: 0,
        tail: Vec::new(),
        started: None,
        ended: START,
        stdout_bytes: 0,
        stderr_bytes: 0,
        truncated: false,
    };
    let late = Some(START - std::time::Duration::from_secs(1));
    for (expires, payload) in [
        (hub.soon(), Payload::Request(request("ping"))),
        (late, Payload::Request(request("ping"))),
        (None, Payload::End(end)),
    ] {
        let bad = Rejection::BadSignature;
        let verdicts = hub.receive((2, 7), hub.me, Lone::id(3), expires, payload, Err(bad.clone()));
        assert_eq!(verdicts, [Verdict::Refused(bad)]);
        assert_eq!(hub.effects.len(), 1, "{:?}", hub.effects);
    }
    hub.effects.clear();
    hub.link(7, false);
    let sent = |effect: &Effect| matches!(effect, Effect::Send { frame: Frame::Data(_), .. });
    assert!(!hub.effects.iter().any(sent), "{:?}", hub.effects);
}

/// Each refusal of a relayed request is owed a receipt, and its sender need not fetch them.
#[test]
fn receipts_that_nobody_fetches_do_not_pile_up() {
    let mut node = Lone::new(false, Limits { receipts: 20, ..Limits::default() });
    node.link(9, true);
    let mut sent = 0;
    for n in 0..100 {
        let asks = Payload::Request(request("cmd"));
        let denied = Rejection::Denied;
        let verdicts = node.receive((9, 4), node.me, Lone::id(n), node.soon(), asks, Err(denied.clone()));
        assert_eq!(verdicts, [Verdict::Refused(denied)]);
        let is_receipt = |effect: &&Effect| matches!(effect, Effect::Send { frame: Frame::Data(_), .. });
        sent += node.effects.iter().filter(is_receipt).count();
    }
    // None is acknowledged, so all that were made are still held.
    assert_eq!(sent, 20);
}

/// Whoever was a target of a run knows its id, and so the ids of its messages to all others.
#[test]
fn a_node_cannot_spoil_the_id_of_a_run_s_message_to_another() {
    let mut node = Lone::new(false, Limits::default());
    node.link(9, true);
    let run = RunId::new(START, [5; 10]);
    let id = MessageId::of_run(run, node.me);
    let order = Payload::Request(Request { run: Some(run), ..request("ping") });
    for expires in [None, Some(START), node.soon(), Some(START + MAX_LIFETIME * 3)] {
        let denied = Err(Rejection::Denied);
        let verdicts = node.receive((9, 4), node.me, id, expires, order.clone(), denied);
        assert!(matches!(verdicts[..], [Verdict::Refused(_)]), "{expires:?}: {verdicts:?}");
    }
    let verdicts = node.receive((9, 9), node.me, id, node.soon(), order, Ok(()));
    assert_eq!(verdicts, [Verdict::Accepted]);
}

/// The receiver of a message may say what it likes about the message, but not without end.
#[test]
fn output_beyond_what_was_asked_for_is_not_kept() {
    let mut node = Lone::new(false, Limits::default());
    node.link(9, true);
    let draft = Draft {
        id: Lone::id(1),
        to: signer(3).id(),
        to_name: "n3".parse().unwrap(),
        request: Request { output_limit: 10_000, ..request("ping") },
        expires: node.soon().unwrap(),
        attempts: None,
        reply: Some(Bytes::from_static(b"here")),
        reply_whole: true,
    };
    node.event(Event::Submit { ticket: 1, drafts: vec![draft] });
    let piece = |seq: u64, size: usize| Piece { seq, stream: Stream::Stdout, data: vec![1; size].into() };
    let rows = |node: &Lone| node.journal.rows(Table::Replies).count();
    // Far ahead of the first, which never comes; more than the limit in all; and crumbs.
    let sizes = (2..60).map(|seq| (seq, 1_000)).chain((100..200_000).step_by(7).map(|seq| (seq, 0)));
    let sizes = sizes.chain([(u64::MAX, 1), (u64::MAX - 1, 900_000), (0, 1)]);
    for (n, (seq, size)) in sizes.enumerate() {
        let output = Output { re: Lone::id(1), run: None, piece: piece(seq, size) };
        let id = MessageId::new(START, [0, 0, 0, 0, 0, 0, 0, (n >> 16) as u8, (n >> 8) as u8, n as u8]);
        node.receive((9, 3), node.me, id, None, Payload::Output(output), Ok(()));
    }
    let kept: usize = node.journal.rows(Table::Replies).map(|(_, row)| row.len()).sum();
    assert!(kept < 40_000 && rows(&node) < 300, "{kept} bytes in {} rows", rows(&node));
    let tail = (1_000..2_000).map(|seq| piece(seq, 500)).collect();
    let end = End {
        re: Lone::id(1),
        run: None,
        outcome: Outcome::Finished(Exit::Code(0)),
        last_seq: u64::MAX,
        tail,
        started: None,
        ended: START,
        stdout_bytes: u64::MAX,
        stderr_bytes: u64::MAX,
        truncated: false,
    };
    node.receive((9, 3), node.me, Lone::id(9), None, Payload::End(end), Ok(()));
    let kept: usize = node.journal.rows(Table::Replies).map(|(_, row)| row.len()).sum();
    assert!(kept < 40_000, "{kept} bytes after the end");
}

#[test]
fn a_message_of_ones_own_that_no_link_could_carry_is_refused() {
    let mut node = Lone::new(false, Limits::default());
    let draft = Draft {
        id: Lone::id(1),
        to: signer(3).id(),
        to_name: "n3".parse().unwrap(),
        request: Request { data: vec![7; MAX_FRAME].into(), ..request("ping") },
        expires: node.soon().unwrap(),
        attempts: None,
        reply: None,
        reply_whole: false,
    };
    node.event(Event::Submit { ticket: 1, drafts: vec![draft] });
    let refused = node.effects.iter().any(|effect| {
        matches!(effect, Effect::Answered { result: Err(Refusal::TooLarge(size)), .. } if *size > MAX_FRAME)
    });
    assert!(refused);
}

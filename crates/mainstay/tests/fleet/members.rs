//! A node of the fleet that breaks the rules: what it sends is refused with a reason and counted, and neither stops nor
//! grows the hub. Strangers are tried elsewhere; this one has a certificate.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use mainstay_core::envelope::{Audience, Body, Cancel, Envelope, Payload, Request, Signer, VERSION};
use mainstay_core::frame::{Data, Frame, Hello, OLDEST_PROTOCOL, PROTOCOL, Verdict};
use mainstay_core::id::{JournalId, KeyId, MessageId};
use mainstay_core::outcome::Rejection;
use mainstay_core::time::Timestamp;
use mainstay_link::chain::Trust;
use mainstay_link::dialer::TlsDialer;
use mainstay_link::limits::{Limits, LinkCounters};
use mainstay_link::link::Link;
use mainstay_link::tls::Credentials;
use mainstay_node::{identity, node};

use crate::lab::{Lab, eventually, metrics, resident};

/// How much a hub may grow by, in KiB, whatever it is sent.
const GROWTH: u64 = 16 << 10;

/// How long a verdict may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The key and the certificate of an agent that joined and was stopped.
struct Member {
    signer: Signer,
    dialer: TlsDialer,
    address: String,
    journal: JournalId,
    numbers: u64,
}

impl Member {
    fn of(lab: &Lab, name: &str) -> Self {
        let data = lab.path(name);
        let key = identity::load_or_make_key(&data).unwrap();
        let membership = identity::load_membership(&data, &key).unwrap().expect("it has joined");
        let credentials = Credentials::new(key.clone(), membership.chain).unwrap();
        let counters = Arc::<LinkCounters>::default();
        Self {
            signer: Signer::new(key),
            dialer: TlsDialer::new(&credentials, Trust::Ca(membership.ca), Limits::default(), counters)
                .unwrap(),
            address: format!("127.0.0.1:{}", lab.port()),
            journal: node::read_journal(&data).unwrap().id,
            numbers: 0,
        }
    }

    /// A link on which both have said hello.
    async fn link(&self, now: Timestamp) -> Link {
        let mut link = self.dialer.dial(&self.address).await.expect("a link").link;
        let hello = Hello {
            protocols: (OLDEST_PROTOCOL, PROTOCOL),
            capabilities: Vec::new(),
            name: "m".parse().unwrap(),
            version: "0".into(),
            now,
            trust_length: 0,
            trust_head: [0; 32],
            journal: self.journal,
            mark: 1 << 20,
            facts: None,
        };
        link.sender.send(&Frame::Hello(Box::new(hello))).await.unwrap();
        match link.receiver.recv().await {
            Ok(Some(Frame::Hello(_))) => {}
            other => panic!("no hello: {other:?}"),
        }
        link.receiver.admit();
        link
    }

    fn signed(&mut self, now: Timestamp, hub: KeyId) -> Envelope {
        let body = self.body(now, Audience::Node(hub), request("ping"));
        self.signer.seal(&body)
    }

    fn body(&mut self, now: Timestamp, to: Audience, payload: Payload) -> Body {
        self.numbers += 1;
        let mut random = [0; 10];
        random[2..].copy_from_slice(&self.numbers.to_be_bytes());
        Body {
            v: VERSION,
            crit: Vec::new(),
            id: MessageId::new(now, random),
            from: self.signer.id(),
            to,
            issued: now,
            expires: Some(now + Duration::from_secs(60)),
            order: None,
            fence: None,
            payload,
        }
    }
}

fn request(method: &str) -> Payload {
    Payload::Request(Request {
        method: method.into(),
        args: Vec::new(),
        data: Bytes::new(),
        command: true,
        idempotent: false,
        timeout_ms: None,
        output_limit: 1 << 10,
        stream: false,
        sealed: None,
        run: None,
        operator: None,
    })
}

/// What the hub says to this envelope; `None` if it closes the link over it.
async fn offer(link: &mut Link, id: MessageId, envelope: Bytes) -> Option<Verdict> {
    let data = Data { envelope, chain: Vec::new() };
    link.sender.send(&Frame::Data(data)).await.ok()?;
    let answer = async {
        loop {
            match link.receiver.recv().await {
                Ok(Some(Frame::Ack(acks))) => {
                    if let Some(ack) = acks.into_iter().find(|ack| ack.id == id) {
                        return Some(ack.verdict);
                    }
                }
                // Answers to what it took, its trust log, its questions whether we are there.
                Ok(Some(Frame::Goodbye(_)) | None) | Err(_) => return None,
                Ok(Some(_)) => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, answer).await.expect("a verdict in time")
}

/// An envelope by its id, and the reasons for which it may be refused.
type Offence = (MessageId, Bytes, fn(&Rejection) -> bool);

/// Every way of being wrong, each with the reason that it is refused for.
async fn offend(member: &mut Member, link: &mut Link, hub: KeyId, now: Timestamp) {
    let to_hub = Audience::Node(hub);
    let nobody = Audience::Node(KeyId::from_bytes([9; 32]));
    let signer = member.signer.clone();
    let plain = |body: &Body| signer.seal(body).encode();
    let mut wrong: Vec<Offence> = Vec::new();

    let body = member.body(now, to_hub, request("ping"));
    let mut envelope = signer.seal(&body);
    envelope.signatures[0].signature[5] ^= 1;
    wrong.push((body.id, envelope.encode(), |why| *why == Rejection::BadSignature));

    // Signed well, by a key that is not the one at this end of the link.
    let other = Signer::new(SigningKey::from_bytes(&[3; 32]));
    let body = Body { from: other.id(), ..member.body(now, to_hub, request("ping")) };
    wrong.push((body.id, other.seal(&body).encode(), |why| *why == Rejection::BadSignature));

    let body = Body { v: VERSION + 1, ..member.body(now, to_hub, request("ping")) };
    wrong.push((body.id, plain(&body), |why| matches!(why, Rejection::NotUnderstood(_))));
    let body = Body { crit: vec!["fence".into()], ..member.body(now, to_hub, request("ping")) };
    wrong.push((body.id, plain(&body), |why| matches!(why, Rejection::NotUnderstood(_))));

    let body = member.body(now, nobody, request("ping"));
    wrong.push((body.id, plain(&body), |why| *why == Rejection::UnknownNode));
    let cancel = Payload::Cancel(Cancel { re: body.id, run: None });
    let body = member.body(now, Audience::Hubs, cancel);
    wrong.push((body.id, plain(&body), |why| *why == Rejection::WrongAudience));

    let body =
        Body { expires: Some(now - Duration::from_secs(60)), ..member.body(now, to_hub, request("ping")) };
    wrong.push((body.id, plain(&body), |why| *why == Rejection::Expired));
    let month = Duration::from_secs(40 * 24 * 3600);
    let body = Body { expires: Some(now + month), ..member.body(now, to_hub, request("ping")) };
    wrong.push((body.id, plain(&body), |why| *why == Rejection::LivesTooLong));

    let body = member.body(now, to_hub, request("cmd"));
    wrong.push((body.id, plain(&body), |why| *why == Rejection::Denied));
    let body = member.body(now, to_hub, request("nonsense"));
    wrong.push((body.id, plain(&body), |why| matches!(why, Rejection::UnknownMethod(_))));

    for (at, (id, envelope, expected)) in wrong.into_iter().enumerate() {
        match offer(link, id, envelope).await {
            Some(Verdict::Refused(why)) if expected(&why) => {}
            other => panic!("number {at} got {other:?}"),
        }
    }

    // What was taken is acknowledged whenever it comes again, and runs once; other bytes under its id are refused.
    let good = member.body(now, to_hub, request("ping"));
    for _ in 0..3 {
        assert_eq!(offer(link, good.id, plain(&good)).await, Some(Verdict::Accepted));
    }
    let changed = Body { issued: now + Duration::from_millis(1), ..good };
    let verdict = offer(link, changed.id, plain(&changed)).await;
    assert_eq!(verdict, Some(Verdict::Refused(Rejection::IdReused)));
}

#[test]
fn a_member_that_breaks_the_rules_is_refused_counted_and_no_burden() {
    let mut lab = Lab::bare();
    std::fs::create_dir(lab.path("hub")).unwrap();
    let rules = "[[allow]]\nfrom = \"m\"\nmethods = [\"ping\", \"nonsense\"]\n";
    std::fs::write(lab.path("hub").join("mainstay.toml"), rules).unwrap();
    lab.start_hub();
    lab.join("m", &[]);
    lab.join("a", &[]);
    lab.until_online("m", true);
    lab.until_online("a", true);
    assert!(lab.agent("m").stop().success());
    let mut member = Member::of(&lab, "m");
    let hub_key = lab.run(&["status", "--json"]).exits(0).json()[0]["key"].as_str().unwrap().parse().unwrap();
    let now = Timestamp::from_millis(jiff::Timestamp::now().as_millisecond());

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    const ROUNDS: u64 = 100;
    runtime.block_on(async {
        let mut link = member.link(now).await;
        for _ in 0..3 {
            offend(&mut member, &mut link, hub_key, now).await;
        }
        let before = resident(lab.hub_pid());
        for _ in 0..ROUNDS {
            offend(&mut member, &mut link, hub_key, now).await;
        }
        // What cannot be read at all, and what has no place here, ends the link; the next one is as good as the first.
        for _ in 0..20 {
            let rubbish = Bytes::from(vec![0x92; 300_000]);
            assert_eq!(offer(&mut link, MessageId::new(now, [0; 10]), rubbish).await, None);
            link = member.link(now).await;
            let unreadable =
                Envelope { body: Bytes::from(vec![0x81; 300_000]), ..member.signed(now, hub_key) };
            assert_eq!(offer(&mut link, MessageId::new(now, [0; 10]), unreadable.encode()).await, None);
            link = member.link(now).await;
        }
        let after = resident(lab.hub_pid());
        assert!(after < before + GROWTH, "from {before} KiB to {after} KiB");
    });
    lab.run(&["run", "-t", "a", "--", "true"]).exits(0);

    let offences = ROUNDS + 3;
    eventually("everything is counted", || {
        let text = metrics(&lab);
        let count = |line: &str| {
            text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        let refused =
            |reason: &str| count(&format!("mainstay_envelopes_refused_total{{reason=\"{reason}\"}} "));
        let reasons = [
            ("signature", 2),
            ("version", 2),
            ("unknown_node", 1),
            ("audience", 1),
            ("expired", 1),
            ("lifetime", 1),
            ("denied", 1),
            ("unknown_method", 1),
            ("id_reused", 1),
        ];
        let all = reasons.iter().all(|(reason, each)| refused(reason) == each * offences)
            && refused("malformed") >= 20
            && count("mainstay_messages_served_total{outcome=\"finished\"} ") == offences
            && count("mainstay_envelopes_repeated_total ") == 3 * offences;
        all.then_some(())
    });
}

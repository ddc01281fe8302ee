//! What must hold for any bytes at all: one function per target, shared by the fuzzer and by
//! `tests/corpus.rs`.
//!
//! Each returns whether the bytes were accepted, and panics when a property is broken. The signing key here
//! is for tests only.

use std::collections::BTreeMap;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use mainstay_core::delivery::record::{self, AnswerRow, InboxRow, InboxState, OutboxRow, RelayRow, ReplyRow};
use mainstay_core::delivery::{Effect, Engine, Event, Key, Limits};
use mainstay_core::envelope::{
    Audience, Body, Cancel, End, Envelope, Output, Payload, Piece, Receipt, Request, Signer, Stream, VERSION,
};
use mainstay_core::frame::{
    Ack, Data, Enrol, Enrolment, Facts, Frame, FrameError, Goodbye, Hello, MAX_FRAME, Resolve, Resolved,
    Verdict,
};
use mainstay_core::id::{JournalId, KeyId, MessageId, RunId};
use mainstay_core::journal::{Batch, Journal, JournalError, Op, Table};
use mainstay_core::message;
use mainstay_core::outcome::{Exit, Outcome, Rejection};
use mainstay_core::received_path::{self, Place, Roots};
use mainstay_core::seal::{ContentKey, Private};
use mainstay_core::state::Values;
use mainstay_core::state::catalog::Catalog;
use mainstay_core::state::site::{self, FileEntry, Files, Machine, ModuleSchema, ModuleTable, SiteInput};
use mainstay_core::state::template::{Outputs, Scope, StateOutputs, Templates};
use mainstay_core::target::{Subject, Target};
use mainstay_core::time::Timestamp;
use mainstay_core::trust::{Act, TrustLog};

/// Most steps of an engine that is fed a hostile journal: far more than its few rows ask for.
const MAX_STEPS: usize = 1_000;

pub type Property = fn(&[u8]) -> bool;

pub const TARGETS: [(&str, Property); 7] = [
    ("frame", frame),
    ("envelope", envelope),
    ("target", target),
    ("message", message_file),
    ("record", journal_record),
    ("site", states_file),
    ("template", template),
];

/// A frame that decodes means the same when it is written and read again, and nothing within it panics.
pub fn frame(bytes: &[u8]) -> bool {
    let Ok(frame) = Frame::decode(bytes) else {
        return false;
    };
    match frame.encode() {
        Ok(again) => assert_eq!(Frame::decode(&again).expect("what was encoded decodes"), frame),
        // Fields that were left out are written with their defaults.
        Err(FrameError::TooLarge(size)) => assert!(size > MAX_FRAME),
        Err(error) => panic!("{error}"),
    }
    match frame {
        Frame::Data(data) => {
            envelope(&data.envelope);
        }
        Frame::Trust(entries) => {
            let mut log = TrustLog::default();
            for entry in entries.into_iter().take(8) {
                let before = (log.epoch(), log.head());
                if log.append(entry).is_err() {
                    assert_eq!((log.epoch(), log.head()), before, "a refused entry changes nothing");
                }
            }
        }
        _ => {}
    }
    true
}

/// Decoding is stable, and no signature of the test key is accepted for a body that it never signed.
pub fn envelope(bytes: &[u8]) -> bool {
    let Ok(envelope) = Envelope::decode(bytes) else {
        return false;
    };
    assert_eq!(Envelope::decode(&envelope.encode()).expect("what was encoded decodes"), envelope);
    if let Ok(body) = envelope.trusted_body() {
        let again = rmp_serde::to_vec_named(&body).expect("a body is encodable");
        assert_eq!(rmp_serde::from_slice::<Body>(&again).expect("what was encoded decodes"), body);
        if let Payload::Request(Request { sealed: Some(sealed), .. }) = &body.payload {
            // Whether it opens or not: it must not panic, and never show what it holds.
            assert!(!format!("{:?}", sealed.open(signer().signing_key())).contains("canary"));
        }
    }
    let digest = envelope.digest();
    match envelope.verify() {
        Ok(verified) => {
            let ours = verified.body.from == signer().id();
            assert!(!ours || GENUINE.with(|genuine| genuine.contains(&digest)), "a forged body was accepted");
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}

/// An expression that parses is shown as one that parses to the same, and means one thing or its opposite.
pub fn target(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let target = match Target::parse(&text) {
        Ok(target) => target,
        Err(error) => {
            assert!(text.is_char_boundary(error.offset) && error.column >= 1);
            assert!(error.excerpt(&text).lines().count() == 2);
            return false;
        }
    };
    let shown = target.to_string();
    let again = Target::parse(&shown);
    // Quotes and escapes may make the shown form longer than what is taken, and nothing else may fail.
    if shown.len() <= mainstay_core::target::MAX_TEXT {
        assert_eq!(again.as_ref(), Ok(&target), "{shown}");
    }
    let labels = BTreeMap::from([("role".to_owned(), "web".to_owned()), ("os".to_owned(), "x".to_owned())]);
    let facts = facts();
    let subject = Subject { name: "web-01", labels: &labels, facts: &facts };
    let matches = target.matches(&subject);
    if let Ok(opposite) = Target::parse(&format!("not ({shown})")) {
        assert_ne!(opposite.matches(&subject), matches, "{shown}");
    }
    true
}

/// A file is taken with everything in bounds, or refused with places that exist.
pub fn message_file(bytes: &[u8]) -> bool {
    let specs = match message::parse_bytes(bytes) {
        Ok(specs) => specs,
        Err(errors) => {
            assert!(errors.iter().count() >= 1);
            let lines = bytes.split(|b| matches!(b, b'\n' | b'\r')).count();
            for error in errors.iter() {
                assert!(error.line >= 1 && error.line <= lines.max(1) + 1 && error.column >= 1);
                assert!(!error.to_string().contains(|c: char| c.is_control()), "{error:?}");
            }
            return false;
        }
    };
    assert!(!specs.is_empty());
    for spec in specs {
        assert!(!spec.to.is_empty());
        assert!(spec.args.iter().map(String::len).sum::<usize>() + spec.data.len() <= message::MAX_CONTENT);
        assert!(!spec.delivery.bound().is_zero());
        assert!(spec.reply.file_name.is_some() || !spec.reply.method.needs_file());
        if let Some(file) = &spec.reply.file_name {
            let roots = Roots::new(["/var/log"]).expect("it is absolute");
            match received_path::place(&spec.reply.directory, file, &roots) {
                Ok(Place::Beneath(parts) | Place::Root { components: parts, .. }) => {
                    assert!(parts.iter().all(|part| part != ".." && !part.contains(['/', '\0'])));
                }
                // Each is fine by itself, together they are too deep.
                Err(error) => assert_eq!(error, received_path::PathError::TooDeep),
            }
        }
    }
    true
}

/// A states file is compiled into a catalog whose every place exists, or refused with places that exist. It may include
/// and use itself as a file.
pub fn states_file(bytes: &[u8]) -> bool {
    let input = SiteInput { file: "site.yaml".into(), ..SiteInput::default() };
    let disk = OneFile(bytes);
    let (labels, facts, vars) = (BTreeMap::new(), facts(), Values::new());
    let machine = Machine { name: "web-01", labels: &labels, facts: &facts, vars: &vars };
    let compiled = site::compile(&input, &disk, &OneModule).and_then(|site| site.catalog(&machine));
    let catalog = match compiled {
        Ok(catalog) => catalog,
        Err(errors) => {
            assert!(errors.iter().count() >= 1);
            let lines = bytes.split(|b| matches!(b, b'\n' | b'\r')).count();
            for error in errors.iter() {
                assert!(error.line >= 1 && error.line <= lines.max(1) + 1 && error.column >= 1, "{error:?}");
                assert!(!error.to_string().contains(|c: char| c.is_control()), "{error:?}");
            }
            return false;
        }
    };
    let count = catalog.states.len();
    let mut ids = std::collections::BTreeSet::new();
    for state in &catalog.states {
        let named = state.requisites.of.values().flatten().chain(&state.requisites.reads);
        assert!(named.chain(state.aliases.values()).all(|target| *target < count));
        assert!(state.scope < catalog.scopes.len() && state.at.file < catalog.files.len());
        assert!(ids.insert(state.id.clone()), "{} is there twice", state.id);
    }
    assert_eq!(Catalog::from_bytes(&catalog.to_bytes()).expect("what was encoded decodes"), catalog);
    true
}

/// Whatever is asked for, there is this text.
struct OneFile<'a>(&'a [u8]);

impl Files for OneFile<'_> {
    fn read(&self, path: &str, _: usize) -> Result<Vec<u8>, String> {
        if path.len() > 64 { Err("no such file".into()) } else { Ok(self.0.to_vec()) }
    }

    fn tree(&self, _: &str, _: usize) -> Result<Vec<FileEntry>, String> {
        Ok(Vec::new())
    }

    fn env(&self, _: &str) -> Option<String> {
        None
    }
}

struct OneModule;

impl ModuleTable for OneModule {
    fn module(&self, name: &str) -> Option<ModuleSchema> {
        let params = serde_json::json!({"type": "object", "properties": {
            "path": {"type": "string"},
            "mode": {"type": ["string", "null"], "pattern": "^[0-7]{3,4}$"},
            "template": {"type": ["string", "null"], "x-mainstay": "template"},
            "run": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
        }, "additionalProperties": false});
        let is_known = matches!(name, "file" | "cmd");
        is_known.then(|| ModuleSchema {
            params,
            identity: Some("path".into()),
            refreshes: name == "cmd",
            outputs: None,
        })
    }

    fn names(&self) -> Vec<String> {
        vec!["cmd".into(), "file".into()]
    }
}

/// A template gives something, or an error with a place in it; never more than it may, and never for too long.
pub fn template(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let mut vars = Values::new();
    vars.insert("port".into(), 8080.into());
    vars.insert("names".into(), vec!["a", "b"].into());
    let blobs = BTreeMap::new();
    let scope = Scope {
        vars: &vars,
        locals: &vars,
        facts: Some(&vars),
        secrets: &vars,
        states: Some(&NoOutputs),
        blobs: &blobs,
    };
    let value = serde_json::Value::String(text.clone().into_owned());
    let _ = mainstay_core::state::template::reads(&value, &blobs);
    TEMPLATES.with(|templates| {
        let _ = templates.eval(&text, &scope);
        match templates.render(&value, &scope) {
            Ok(_) => true,
            Err(error) => {
                let lines = text.matches('\n').count() + 1;
                assert!(error.line >= 1 && error.line <= lines && error.column >= 1, "{error:?}");
                assert!(!error.message.contains(|c: char| c.is_control()), "{error:?}");
                false
            }
        }
    })
}

struct NoOutputs;

impl StateOutputs for NoOutputs {
    fn get(&self, id: &str) -> Outputs<'_> {
        match id {
            "later" => Outputs::Unknown { until: "pkg".into() },
            _ => Outputs::None(mainstay_core::state::StateOutcome::Skipped),
        }
    }
}

/// A journal's rows: an engine that opens them goes on or says which row it cannot read.
///
/// The bytes are rows one after the other: table, length of the key, length of the value (two bytes, big
/// end first), key, value.
pub fn journal_record(bytes: &[u8]) -> bool {
    let rows = rows(bytes);
    for (table, _, value) in &rows {
        match table {
            Table::Outbox => stable::<OutboxRow>(*table, value),
            Table::Inbox => stable::<InboxRow>(*table, value),
            Table::Answers => stable::<AnswerRow>(*table, value),
            Table::Relay => stable::<RelayRow>(*table, value),
            Table::Replies => stable::<ReplyRow>(*table, value),
            Table::Meta | Table::Trust | Table::Names => {}
        }
    }
    let mut journal = Rows(rows.into_iter().map(|(t, k, v)| ((t, k), v)).collect());
    let opened = Engine::open(signer(), true, Limits::default(), &mut journal, NOW);
    let (mut engine, effects) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    let mut waiting = effects;
    waiting.extend(engine.handle(NOW, Event::LinkUp { peer: peer(), hub: false }));
    for _ in 0..MAX_STEPS {
        let Some(effect) = waiting.pop() else {
            break;
        };
        let event = match effect {
            Effect::Commit { token, .. } => Event::Committed { token, result: Ok(()) },
            Effect::KillLeftovers { key } => Event::LeftoversGone { key },
            Effect::Send { frame, .. } => {
                // What a row from disk makes it send must at least be a frame.
                assert!(matches!(frame.encode(), Ok(_) | Err(FrameError::TooLarge(_))));
                continue;
            }
            _ => continue,
        };
        waiting.extend(engine.handle(NOW, event));
    }
    true
}

fn stable<T>(table: Table, value: &[u8])
where
    T: serde::Serialize + for<'de> serde::Deserialize<'de> + PartialEq + std::fmt::Debug,
{
    if let Ok(row) = record::decode::<T>(table, value) {
        assert_eq!(record::decode::<T>(table, &record::encode(&row)).expect("what was encoded decodes"), row);
    }
}

fn rows(mut bytes: &[u8]) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    while let Some(([table, key_length, high, low], rest)) = bytes.split_first_chunk() {
        let Some(table) = Table::ALL.into_iter().find(|t| *t as u8 == *table) else {
            break;
        };
        let key_length = usize::from(*key_length).min(rest.len());
        let (key, rest) = rest.split_at(key_length);
        let value_length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (value, rest) = rest.split_at(value_length);
        rows.push((table, key.to_vec(), value.to_vec()));
        bytes = rest;
    }
    rows
}

/// A journal that takes everything.
struct Rows(BTreeMap<(Table, Vec<u8>), Vec<u8>>);

impl Journal for Rows {
    fn commit(&mut self, batches: &[Batch]) -> Vec<Result<(), JournalError>> {
        batches.iter().map(|_| Ok(())).collect()
    }

    fn read(&mut self, table: Table, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), JournalError> {
        let rows = self.0.iter().filter(|((t, _), _)| *t == table);
        rows.for_each(|((_, key), value)| visit(key, value));
        Ok(())
    }
}

// What is well-formed, to begin from.

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn signer() -> Signer {
    Signer::new(SigningKey::from_bytes(&[7; 32]))
}

fn peer() -> KeyId {
    Signer::new(SigningKey::from_bytes(&[8; 32])).id()
}

fn id(number: u8) -> MessageId {
    MessageId::new(NOW, [number; 10])
}

fn facts() -> Facts {
    Facts {
        os: "linux".into(),
        family: "debian".into(),
        os_version: "12".into(),
        kernel: "6.1.0".into(),
        arch: "x86_64".into(),
        hostname: "web01".into(),
        cpus: 4,
        memory_bytes: 8 << 30,
        addresses: vec!["10.0.0.1".into()],
        version: "0.1.0".into(),
        labels: BTreeMap::from([("role".into(), "web".into())]),
    }
}

thread_local! {
    static TEMPLATES: Templates = Templates::new();
    /// Digests of every body that the test key signed.
    static GENUINE: Vec<[u8; 16]> = bodies().iter().map(|(_, body)| signer().seal(body).digest()).collect();
}

fn bodies() -> Vec<(&'static str, Body)> {
    let content_key = ContentKey::new([3; 32]);
    let private = Private { env: vec![("TOKEN".into(), "canary".into())], ..Private::default() };
    let sealed = content_key.seal_for(signer().id(), content_key.encrypt(&private)).ok();
    let piece = |seq, stream| Piece { seq, stream, data: Bytes::from_static(b"out\n") };
    let request = Request {
        method: "cmd".into(),
        args: vec!["true".into()],
        data: Bytes::new(),
        command: true,
        idempotent: true,
        timeout_ms: Some(5_000),
        output_limit: 1 << 20,
        stream: true,
        sealed,
        run: Some(RunId::new(NOW, [1; 10])),
        operator: Some("uid:0".into()),
    };
    let end = End {
        re: id(1),
        run: None,
        outcome: Outcome::Finished(Exit::Code(0)),
        last_seq: 2,
        tail: vec![piece(1, Stream::Stdout), piece(2, Stream::Stderr)],
        started: Some(NOW),
        ended: NOW,
        stdout_bytes: 4,
        stderr_bytes: 4,
        truncated: false,
    };
    [
        ("request", Payload::Request(request)),
        ("receipt", Payload::Receipt(Receipt { re: id(1), refused: Some(Rejection::Denied) })),
        ("output", Payload::Output(Output { re: id(1), run: None, piece: piece(1, Stream::Stdout) })),
        ("end", Payload::End(end)),
        ("cancel", Payload::Cancel(Cancel { re: id(1), run: None })),
    ]
    .into_iter()
    .enumerate()
    .map(|(at, (name, payload))| {
        let body = Body {
            v: VERSION,
            crit: vec!["sealed".into()],
            id: id(at as u8),
            from: signer().id(),
            to: Audience::Node(peer()),
            issued: NOW,
            expires: Some(NOW + std::time::Duration::from_secs(3600)),
            order: None,
            fence: None,
            payload,
        };
        (name, body)
    })
    .collect()
}

/// Inputs that must be accepted, by target and name: what the corpus is written from.
pub fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (name, body) in bodies() {
        seeds.push(("envelope", format!("ok-{name}"), signer().seal(&body).encode().to_vec()));
    }
    for (name, frame) in frames() {
        let bytes = frame.encode().expect("a small frame");
        seeds.push(("frame", format!("ok-{name}"), bytes.to_vec()));
    }
    for (name, ops) in records() {
        let mut bytes = Vec::new();
        for op in ops {
            let Op::Put { table, key, value } = op else { continue };
            bytes.extend_from_slice(&[table as u8, key.len() as u8]);
            bytes.extend_from_slice(&(value.len() as u16).to_be_bytes());
            bytes.extend_from_slice(&key);
            bytes.extend_from_slice(&value);
        }
        seeds.push(("record", format!("ok-{name}"), bytes));
    }
    seeds
}

fn frames() -> Vec<(&'static str, Frame)> {
    let root = signer();
    let envelope = signer().seal(&bodies()[0].1).encode();
    let journal = JournalId::new(NOW, [2; 10]);
    let name = || "web-01".parse().expect("a name");
    let hello = Hello {
        protocols: (1, 1),
        capabilities: vec!["zstd".into()],
        name: name(),
        version: "0.1.0".into(),
        now: NOW,
        trust_length: 1,
        trust_head: [9; 32],
        journal,
        mark: 42,
        facts: Some(Box::new(facts())),
    };
    let enrol = Enrol {
        name: name(),
        secret: Some("s".into()),
        facts: Box::new(facts()),
        version: "0.1.0".into(),
        journal,
    };
    let joined = Enrolment::Joined {
        name: name(),
        chain: vec![Bytes::from_static(b"leaf")],
        ca: Bytes::from_static(b"ca"),
        now: NOW,
    };
    let verdicts = [
        Verdict::Held,
        Verdict::Accepted,
        Verdict::Refused(Rejection::UnknownMethod("x".into())),
        Verdict::Busy { reason: "disk full".into(), retry_ms: 500 },
    ];
    let acks =
        verdicts.into_iter().enumerate().map(|(at, verdict)| Ack { id: id(at as u8), verdict }).collect();
    vec![
        ("hello", Frame::Hello(Box::new(hello))),
        ("goodbye", Frame::Goodbye(Goodbye::Protocol { protocols: (2, 3) })),
        (
            "trust",
            Frame::Trust(vec![TrustLog::default().next_entry(&root, NOW, Act::Root { key: root.id() })]),
        ),
        ("data", Frame::Data(Data { envelope, chain: vec![Bytes::from_static(b"leaf")] })),
        ("ack", Frame::Ack(acks)),
        ("ping", Frame::Ping(7)),
        ("enrol", Frame::Enrol(Box::new(enrol))),
        ("enrolment", Frame::Enrolment(Box::new(joined))),
        ("resolve", Frame::Resolve(Resolve { number: 7, names: vec![name()] })),
        ("resolved", Frame::Resolved(Resolved { number: 7, found: vec![(name(), signer().id())] })),
        ("facts", Frame::Facts(Box::new(facts()))),
    ]
}

fn records() -> Vec<(&'static str, Vec<Op>)> {
    let bodies = bodies();
    let envelope = |at: usize| signer().seal(&bodies[at].1).encode();
    let later = NOW + std::time::Duration::from_secs(3600);
    let key = Key { origin: peer(), id: id(0) };
    let outbox = OutboxRow {
        to: peer(),
        to_name: "web-01".parse().expect("a name"),
        method: "cmd".into(),
        command: true,
        created: NOW,
        expires: later,
        envelope: envelope(0),
        attempts: Some(4),
        output_limit: None,
        reply: Some(Bytes::from_static(b"reply")),
        reply_whole: false,
        accepted: true,
        withdrawn: false,
        outcome: Some(Outcome::Finished(Exit::Code(0))),
        provisional: false,
        last_seq: Some(2),
        written: 1,
        writing: Some((2, Bytes::from_static(b"12"))),
        closed: false,
    };
    let inbox = |state| InboxRow {
        digest: [1; 16],
        expires: later,
        state,
        sender: peer(),
        relayed: true,
        envelope: envelope(0),
        reserved: 4096,
        cancelled: false,
        interrupted: false,
    };
    let piece = Piece { seq: 2, stream: Stream::Stdout, data: Bytes::from_static(b"out\n") };
    let answer = |at| AnswerRow { to: Audience::Node(peer()), envelope: envelope(at) };
    let relay =
        RelayRow { envelope: envelope(0), chain: vec![Bytes::from_static(b"leaf")], expires: Some(later) };
    let relay_key = record::RelayKey { to: peer(), from: signer().id(), id: id(0) };
    vec![
        (
            "outbox",
            vec![
                record::put(Table::Outbox, record::message_key(&id(0)), &outbox),
                record::put(Table::Replies, record::reply_key(&id(0), 2), &ReplyRow { piece }),
            ],
        ),
        (
            "inbox-accepted",
            vec![record::put(Table::Inbox, record::inbox_key(&key), &inbox(InboxState::Accepted))],
        ),
        (
            "inbox-started",
            vec![
                record::put(Table::Inbox, record::inbox_key(&key), &inbox(InboxState::Started { at: NOW })),
                record::put(Table::Answers, record::answer_key(&key, 1), &answer(2)),
            ],
        ),
        (
            "inbox-ended",
            vec![
                record::put(Table::Inbox, record::inbox_key(&key), &inbox(InboxState::Ended)),
                record::put(Table::Answers, record::answer_key(&key, record::END_NUMBER), &answer(3)),
            ],
        ),
        ("relay", vec![record::put(Table::Relay, record::relay_key(&relay_key), &relay)]),
    ]
}

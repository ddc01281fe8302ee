//! The other side of a hub: its courier, its clock, and nodes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use mainstay_control::hub::{History, Hub, HubConfig};
use mainstay_control::view::*;
use mainstay_core::delivery::{MessageStatus, Which};
use mainstay_core::envelope::*;
use mainstay_core::frame::{Enrol, Enrolment, Facts, Goodbye, Hello, Verdict};
use mainstay_core::id::*;
use mainstay_core::join_token::JoinToken;
use mainstay_core::outcome::{Exit, Outcome};
use mainstay_core::time::Timestamp;
use mainstay_node::hub_role::*;
use mainstay_store::SqliteStore;
use mainstay_store::fault_vfs::FaultDisk;

pub const START: i64 = 1_800_000_000_000;

/// A time that moves only when told.
#[derive(Clone)]
pub struct TestClock(Arc<AtomicI64>);

impl TestClock {
    pub fn new() -> Self {
        Self(Arc::new(AtomicI64::new(START)))
    }

    pub fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Relaxed))
    }

    pub fn pass(&self, millis: i64) {
        self.0.fetch_add(millis, Ordering::Relaxed);
    }
}

#[derive(Default)]
pub struct FakeCourier {
    pub woken: Mutex<Vec<KeyId>>,
    pub cut: Mutex<Vec<(KeyId, Goodbye)>>,
    pub trust_changes: Mutex<u32>,
    pub messages: Mutex<Vec<MessageStatus>>,
}

#[async_trait]
impl CourierHandle for FakeCourier {
    fn wake(&self, key: KeyId) {
        self.woken.lock().unwrap().push(key);
    }
    fn cut(&self, key: KeyId, why: Goodbye) {
        self.cut.lock().unwrap().push((key, why));
    }
    fn trust_changed(&self) {
        *self.trust_changes.lock().unwrap() += 1;
    }
    async fn submit(&self, _operator: &str, text: &str) -> Result<Vec<MessageId>, SubmitError> {
        Err(SubmitError::Invalid(format!("not in these tests: {text}")))
    }
    async fn messages(&self, _which: Which) -> Result<Vec<MessageStatus>, SubmitError> {
        Ok(self.messages.lock().unwrap().clone())
    }
    async fn copy_journal(&self, to: &Path) -> Result<(), SubmitError> {
        std::fs::write(to, b"a journal").map_err(|e| SubmitError::Failed(e.to_string()))
    }
    fn queues(&self) -> BTreeMap<String, u64> {
        BTreeMap::new()
    }
    fn refusing(&self) -> Option<String> {
        None
    }
}

pub struct Fixture {
    pub dir: tempfile::TempDir,
    pub clock: TestClock,
    pub courier: Arc<FakeCourier>,
    pub store: Arc<SqliteStore>,
    pub hub: Hub,
}

pub fn admin() -> Operator {
    Operator { name: "uid:0 (root)".into(), methods: vec!["*".into()], targets: "*".into(), admin: true }
}

pub async fn open(dir: &Path, clock: &TestClock, store: &Arc<SqliteStore>) -> Hub {
    try_open(dir, clock, store).await.unwrap()
}

impl Fixture {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = TestClock::new();
        Self::in_dir(dir, clock).await
    }

    pub async fn in_dir(dir: tempfile::TempDir, clock: TestClock) -> Self {
        let store = store(dir.path(), &clock);
        Self::over(store, dir, clock).await
    }

    async fn over(store: Arc<SqliteStore>, dir: tempfile::TempDir, clock: TestClock) -> Self {
        let hub = open(dir.path(), &clock, &store).await;
        let courier = Arc::new(FakeCourier::default());
        hub.attach(courier.clone());
        Self { dir, clock, courier, store, hub }
    }

    /// As after a kill: nothing is flushed, all handles are dropped, the same store is opened.
    /// On a disk that fails when told.
    pub async fn on(disk: &FaultDisk, dir: tempfile::TempDir, clock: TestClock) -> Self {
        let time = clock.clone();
        let (store, _) = SqliteStore::open_on(disk, Arc::new(move || time.now())).unwrap();
        Self::over(Arc::new(store), dir, clock).await
    }

    pub async fn restart(self) -> Self {
        let (dir, clock) = self.stop().await;
        Self::in_dir(dir, clock).await
    }

    pub async fn stop(self) -> (tempfile::TempDir, TestClock) {
        let Self { dir, clock, hub, store, .. } = self;
        drop(hub);
        store.close().await;
        (dir, clock)
    }

    pub async fn join_token(&self, uses: u32) -> JoinToken {
        let spec = TokenSpec {
            kind: TokenKind::Join,
            lifetime_ms: None,
            uses: Some(uses),
            name: None,
            labels: BTreeMap::from([("role".to_owned(), "web".to_owned())]),
            methods: vec![],
            targets: None,
        };
        let made = self.hub.create_token(&admin(), spec).await.unwrap();
        made.token.parse().unwrap()
    }

    /// Nodes `n0`, `n1` …, joined and linked.
    pub async fn nodes(&self, count: usize) -> Vec<FakeNode> {
        let token = self.join_token(u32::try_from(count).unwrap()).await;
        let mut nodes = Vec::new();
        for i in 0..count {
            let mut node = FakeNode::new(&format!("n{i}"), i as u64 + 1);
            assert!(node.enrol(&self.hub, Some(&token)).await.is_joined());
            node.link(&self.hub).await.unwrap();
            nodes.push(node);
        }
        nodes
    }

    pub async fn run(&self, spec: RunSpec) -> RunId {
        self.hub.start_run(&admin(), spec).await.unwrap().run
    }

    pub async fn view(&self, run: RunId) -> (RunView, Vec<RunNodeView>) {
        self.hub.settle().await;
        self.hub.run(&admin(), run).await.unwrap()
    }

    /// Everything that watching says so far, up to and with the summary.
    pub async fn events(&self, run: RunId, from: u64) -> Vec<(u64, RunEvent)> {
        use tokio_stream::StreamExt as _;
        let mut events = self.hub.watch_run(&admin(), run, from).await.unwrap();
        let mut all = Vec::new();
        while let Some(event) = events.next().await {
            all.push(event.unwrap());
        }
        all
    }
}

pub fn spec(target: &str) -> RunSpec {
    RunSpec {
        targets: vec![target.into()],
        method: "cmd".into(),
        args: vec!["true".into()],
        script: None,
        env: BTreeMap::new(),
        cwd: None,
        user: None,
        stdin_base64: None,
        timeout_ms: None,
        expires_ms: None,
        idempotent: false,
        stream: false,
        output_limit: None,
        batch: None,
        max_failures: None,
    }
}

pub trait Joined {
    fn is_joined(&self) -> bool;
}

impl Joined for Enrolment {
    fn is_joined(&self) -> bool {
        matches!(self, Self::Joined { .. })
    }
}

pub struct FakeNode {
    pub signer: Signer,
    pub name: NodeName,
    pub journal: JournalId,
    pub mark: u64,
    /// Sends that were received and not answered.
    pub taken: Vec<Body>,
}

impl FakeNode {
    pub fn new(name: &str, seed: u64) -> Self {
        let mut bytes = [7; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        Self {
            signer: Signer::new(SigningKey::from_bytes(&bytes)),
            name: name.parse().unwrap(),
            journal: JournalId::new(Timestamp::from_millis(START), [seed as u8; 10]),
            mark: 0,
            taken: vec![],
        }
    }

    pub fn key(&self) -> KeyId {
        self.signer.id()
    }

    pub async fn enrol(&self, hub: &Hub, token: Option<&JoinToken>) -> Enrolment {
        let enrol = Enrol {
            name: self.name.clone(),
            secret: token.map(|token| token.secret.expose().to_owned()),
            facts: Box::new(Facts { os: "linux".into(), ..Facts::default() }),
            version: "test".into(),
            journal: self.journal,
        };
        HubRole::enrol(hub, self.key(), enrol).await
    }

    pub fn hello(&self) -> Hello {
        Hello {
            protocols: (1, 1),
            capabilities: vec![],
            name: self.name.clone(),
            version: "test".into(),
            now: Timestamp::from_millis(0),
            trust_length: 0,
            trust_head: [0; 32],
            journal: self.journal,
            mark: self.mark,
            facts: None,
        }
    }

    pub async fn link(&mut self, hub: &Hub) -> Result<(), Goodbye> {
        match hub.admit(self.key(), &self.hello()).await {
            Admission::Admit { name } => {
                assert_eq!(name, self.name);
                hub.link_up(self.key(), "127.0.0.1:1");
                Ok(())
            }
            Admission::Refuse(why) => Err(why),
        }
    }

    pub fn unlink(&self, hub: &Hub) {
        hub.link_down(self.key(), self.mark);
    }

    /// What the hub sends now, checked and not yet answered.
    pub fn receive(&self, hub: &Hub) -> Vec<Body> {
        let sent = hub.next_for(self.key(), 16);
        sent.into_iter().map(|envelope| envelope.verify().unwrap().body).collect()
    }

    /// Takes what the hub sends: on disk, acknowledged.
    pub fn accept(&mut self, hub: &Hub) -> usize {
        let bodies = self.receive(hub);
        for body in &bodies {
            self.mark += 1;
            hub.verdict(self.key(), body.id, &Verdict::Accepted);
        }
        let count = bodies.len();
        self.taken.extend(bodies);
        count
    }

    pub fn sign(&self, id: MessageId, payload: Payload) -> Verified {
        let body = Body {
            v: VERSION,
            crit: vec![],
            id,
            from: self.key(),
            to: Audience::Hubs,
            issued: Timestamp::from_millis(START),
            expires: None,
            order: None,
            fence: None,
            payload,
        };
        self.signer.seal(&body).verify().unwrap()
    }

    pub fn end_of(run: RunId, re: MessageId, outcome: Outcome, stdout: &str) -> End {
        let tail: Vec<Piece> = (!stdout.is_empty())
            .then(|| Piece {
                seq: 1,
                stream: Stream::Stdout,
                data: Bytes::copy_from_slice(stdout.as_bytes()),
            })
            .into_iter()
            .collect();
        End {
            re,
            run: Some(run),
            outcome,
            last_seq: tail.len() as u64,
            tail,
            started: Some(Timestamp::from_millis(START + 5)),
            ended: Timestamp::from_millis(START + 12),
            stdout_bytes: stdout.len() as u64,
            stderr_bytes: 0,
            truncated: false,
        }
    }

    pub async fn end(&self, hub: &Hub, run: RunId, code: i32, stdout: &str) -> Verdict {
        let re = MessageId::of_run(run, self.key());
        let end = Self::end_of(run, re, Outcome::Finished(Exit::Code(code)), stdout);
        hub.answer(self.key(), self.sign(re.of_answer("end", 0), Payload::End(end))).await
    }

    pub async fn end_as(&self, hub: &Hub, run: RunId, outcome: Outcome) -> Verdict {
        let re = MessageId::of_run(run, self.key());
        let end = Self::end_of(run, re, outcome, "");
        hub.answer(self.key(), self.sign(re.of_answer("end", 0), Payload::End(end))).await
    }

    pub async fn output(&self, hub: &Hub, run: RunId, seq: u64, stream: Stream, data: &[u8]) -> Verdict {
        let re = MessageId::of_run(run, self.key());
        let piece = Piece { seq, stream, data: Bytes::copy_from_slice(data) };
        let output = Output { re, run: Some(run), piece };
        hub.answer(self.key(), self.sign(re.of_answer("output", seq), Payload::Output(output))).await
    }
}

pub fn store(dir: &Path, clock: &TestClock) -> Arc<SqliteStore> {
    let time = clock.clone();
    let (store, damage) = SqliteStore::open(&dir.join("store.db"), Arc::new(move || time.now())).unwrap();
    assert!(damage.records.is_empty(), "{damage:?}");
    Arc::new(store)
}

pub async fn try_open(dir: &Path, clock: &TestClock, store: &Arc<SqliteStore>) -> Result<Hub, String> {
    let time = clock.clone();
    Hub::open(HubConfig {
        data_dir: dir.to_owned(),
        name: "central".parse().unwrap(),
        addresses: vec!["127.0.0.1:4410".into()],
        clock: Arc::new(move || time.now()),
        store: store.clone(),
        embedded: Some(store.clone()),
        metrics: Arc::default(),
        history: History::default(),
    })
    .await
    .map_err(|e| e.to_string())
}

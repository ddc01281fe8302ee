//! One simulated machine: the engine, and everything around it that a crash takes away or leaves.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use mainstay_core::backoff::Backoff;
use mainstay_core::delivery::record::{self, InboxRow, InboxState};
use mainstay_core::delivery::{Effect, Engine, Event, Key, Limits, ReplyJob};
use mainstay_core::envelope::Signer;
use mainstay_core::frame::Frame;
use mainstay_core::id::{KeyId, MessageId, NodeName};
use mainstay_core::journal::{Batch, Journal, JournalError, Table};
use mainstay_core::time::Timestamp;
use mainstay_store::{ModelDisk, ModelJournal};

use crate::clock::Clock;
use crate::network::LinkId;
use crate::rng::Rng;

/// What a disk takes for a commit when nothing is wrong, in microseconds: from an SSD to an SD card.
const COMMIT_US: (u64, u64) = (200, 20_000);

/// Output that a method may give before it hears that some of it is on disk.
pub const CREDIT: usize = 256 << 10;

/// The shell's own writes carry this token; the engine counts from 1.
pub const NO_TOKEN: u64 = 0;

#[derive(Debug)]
pub struct Method {
    pub work: crate::workload::Work,
    pub given: u32,
    pub credit: usize,
    pub killed: bool,
    pub event: bool,
}

#[derive(Debug)]
pub enum ReplyTask {
    Plan(Box<ReplyJob>),
    Write(Box<ReplyJob>, Bytes),
    Written { id: MessageId, upto: u64 },
}

#[derive(Debug)]
pub struct Queued {
    pub token: u64,
    pub batch: Batch,
}

pub struct Node {
    pub key: KeyId,
    pub name: NodeName,
    pub signer: Signer,
    pub hub: bool,
    pub gone: bool,
    pub clock: Clock,
    /// Its machine starts in 1970 at every boot.
    pub no_clock: bool,
    pub disk: ModelDisk,
    pub latency: u64,
    pub slow_until: u64,
    pub slow_latency: u64,
    pub full_until: u64,
    pub backoff: Backoff,
    /// Counts boots and crashes: what was planned in another life does not happen.
    pub life: u64,
    /// What its replies have written: the world outside, which crashes do not touch.
    pub files: BTreeMap<MessageId, Vec<u8>>,
    pub up: Option<Up>,
}

/// What a crash takes away.
pub struct Up {
    pub engine: Engine,
    pub journal: ModelJournal,
    pub effects: VecDeque<Effect>,
    /// Events that follow from effects at once: frames to itself, and releases that a planted fault lets out early.
    pub soon: VecDeque<Event>,
    pub looped: VecDeque<Frame>,
    pub queued: Vec<Queued>,
    /// Something queued is waited for.
    pub urgent: bool,
    pub committing: Vec<Queued>,
    /// What nothing waits for is written at a time that is planned.
    pub flush_planned: bool,
    pub methods: BTreeMap<Key, Method>,
    pub replies: VecDeque<ReplyTask>,
    pub links: BTreeMap<KeyId, LinkId>,
    /// When the next tick is planned.
    pub wake: Option<u64>,
    /// Power fails after so many more effects.
    pub doomed: Option<(u64, u64)>,
}

impl Node {
    pub fn new(n: usize, rng: &mut Rng) -> Self {
        let signer = Signer::new(SigningKey::from_bytes(&rng.bytes()));
        let no_clock = n > 0 && rng.chance(100);
        let skew = match rng.below(10) {
            _ if n == 0 => 0,
            0 => rng.between(0, 3_600_000) as i64 - 1_800_000,
            1..4 => rng.between(0, 20_000) as i64 - 10_000,
            _ => rng.between(0, 200) as i64 - 100,
        };
        Self {
            key: signer.id(),
            name: format!("n{n}").parse().expect("a valid name"),
            signer,
            hub: n == 0,
            gone: false,
            clock: Clock::new(skew),
            no_clock,
            disk: ModelDisk::new(),
            latency: rng.between(COMMIT_US.0, COMMIT_US.1),
            slow_until: 0,
            slow_latency: 0,
            full_until: 0,
            backoff: Backoff::new(std::time::Duration::from_millis(100), std::time::Duration::from_secs(5)),
            life: 0,
            files: BTreeMap::new(),
            up: None,
        }
    }

    pub fn limits() -> Limits {
        // Small enough that queues fill up in an hour's absence.
        Limits {
            outbox_messages: 400,
            inbox_messages: 60,
            relay_messages_per_node: 40,
            running: 4,
            window_frames: 8,
            window_bytes: 256 << 10,
            ..Limits::default()
        }
    }

    /// Opens the journal as a crash left it. `forgetful` plants the fault of a lost duplicate check.
    pub fn open(&mut self, at: u64, forgetful: bool) -> Result<Vec<Effect>, String> {
        let mut journal = self.disk.open();
        let mut floor = Timestamp::default();
        let read = journal.read(Table::Meta, &mut |key, value| {
            if key == record::META_CLOCK_FLOOR
                && let Ok(bytes) = <[u8; 8]>::try_from(value)
            {
                floor = Timestamp::from_millis(i64::from_be_bytes(bytes));
            }
        });
        read.map_err(|e| e.to_string())?;
        let skew = if self.no_clock { crate::clock::epoch_skew(at) } else { self.clock.skew_ms };
        self.clock.boot(skew, floor);
        let now = self.clock.now(at);
        let mut forgetful_journal = Forgetful(&mut journal);
        let source: &mut dyn Journal = if forgetful { &mut forgetful_journal } else { forgetful_journal.0 };
        let opened = Engine::open(self.signer.clone(), self.hub, Self::limits(), source, now);
        let (engine, effects) = opened.map_err(|e| e.to_string())?;
        journal.restore_reservation(engine.reserved());
        self.up = Some(Up {
            engine,
            journal,
            effects: VecDeque::new(),
            soon: VecDeque::new(),
            looped: VecDeque::new(),
            queued: Vec::new(),
            urgent: false,
            committing: Vec::new(),
            flush_planned: false,
            methods: BTreeMap::new(),
            replies: VecDeque::new(),
            links: BTreeMap::new(),
            wake: None,
            doomed: None,
        });
        Ok(effects)
    }

    pub fn commit_latency(&self, rng: &mut Rng, at: u64) -> u64 {
        let latency = if at < self.slow_until { self.slow_latency } else { self.latency };
        latency + rng.below(latency / 2 + 1)
    }

    /// Refuses new work from now on, and keeps the promises made.
    pub fn fill_disk(&mut self) {
        let reserved = self.up.as_ref().map_or(0, |up| up.engine.reserved());
        // What is owed without a reservation, rows that change in place, needs a little.
        self.disk.set_capacity(Some(self.disk.used() + reserved + (64 << 10)));
    }

    /// What is left to do, in words; nothing at rest.
    pub fn owes(&mut self) -> Vec<String> {
        let Some(up) = self.up.as_mut() else { return vec!["is down".into()] };
        let mut owes = Vec::new();
        let queues = up.engine.queues();
        if queues != Default::default() {
            owes.push(format!("{queues:?}"));
        }
        for table in [Table::Answers, Table::Relay, Table::Replies] {
            let mut rows = 0;
            let read = up.journal.read(table, &mut |_, _| rows += 1);
            if read.is_err() || rows > 0 {
                owes.push(format!("{rows} rows in {table:?}"));
            }
        }
        if !up.methods.is_empty() || !up.replies.is_empty() {
            owes.push(format!("{} methods and {} replies run", up.methods.len(), up.replies.len()));
        }
        owes
    }
}

/// Hides from the engine what it has brought to an end before: the duplicate check after a restart, skipped.
struct Forgetful<'a>(&'a mut ModelJournal);

impl Journal for Forgetful<'_> {
    fn commit(&mut self, batches: &[Batch]) -> Vec<Result<(), JournalError>> {
        self.0.commit(batches)
    }

    fn read(&mut self, table: Table, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), JournalError> {
        self.0.read(table, &mut |key, value| {
            let ended = table == Table::Inbox
                && record::decode::<InboxRow>(table, value).is_ok_and(|row| row.state == InboxState::Ended);
            if !ended {
                visit(key, value);
            }
        })
    }
}

//! The machine of a run under whatever may happen to it, in any order.

use super::*;
use crate::run_record::target_entries;
use mainstay_core::id::RunId;
use mainstay_core::outcome::Exit;
use proptest::prelude::*;

const NODES: u32 = 5;

fn record(gated: bool) -> Arc<RunRecord> {
    Arc::new(RunRecord {
        run: RunId::from_bytes([1; 16]),
        operator: "o".into(),
        created: Timestamp::from_millis(0),
        expires: Timestamp::from_millis(1_000),
        targets: vec!["*".into()],
        nodes: u64::from(NODES),
        method: "cmd".into(),
        args: vec![],
        data: bytes::Bytes::new(),
        sealed: None,
        timeout_ms: None,
        idempotent: false,
        stream: false,
        output_limit: 1_000,
        batch: gated.then(|| "2".into()),
        applies: None,
        max_failures: gated.then(|| "2".into()),
    })
}

fn targets() -> Vec<(KeyId, NodeName)> {
    let node = |i: u32| (KeyId::from_bytes([i as u8; 32]), format!("n{i}").parse().unwrap());
    (0..NODES).map(node).collect()
}

#[derive(Clone, Debug)]
enum Event {
    Send(u32),
    Taken(u32),
    LinkDown(u32),
    Piece(u32, u64),
    End(u32, bool, u64),
    Refuse(u32),
    Cancel,
    Expire,
    Abandon(u32),
    JournalLost(u32),
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    let node = 0..NODES;
    prop_oneof![
        6 => node.clone().prop_map(Event::Send),
        4 => node.clone().prop_map(Event::Taken),
        2 => node.clone().prop_map(Event::LinkDown),
        4 => (node.clone(), 1_u64..5).prop_map(|(node, seq)| Event::Piece(node, seq)),
        4 => (node.clone(), any::<bool>(), 0_u64..4).prop_map(|(node, ok, last)| Event::End(node, ok, last)),
        1 => node.clone().prop_map(Event::Refuse),
        1 => Just(Event::Cancel),
        1 => Just(Event::Expire),
        1 => node.clone().prop_map(Event::Abandon),
        1 => node.prop_map(Event::JournalLost),
        1 => Just(Event::Restart),
    ]
}

/// The recorder and the courier in small: what is written is applied, and what follows is written too.
struct World {
    log: Vec<Entry>,
    run: Run,
    /// Nodes to which the order was ever sent.
    reached: BTreeSet<u32>,
    /// Nodes that answered with an end of their own, before anything final stood there.
    ended: HashMap<u32, bool>,
    /// Nodes that are no more of the fleet, and say nothing.
    gone: BTreeSet<u32>,
}

impl World {
    fn new(gated: bool) -> Self {
        let mut world = Self {
            log: vec![],
            run: Run::new(record(gated)),
            reached: BTreeSet::new(),
            ended: HashMap::new(),
            gone: BTreeSet::new(),
        };
        world.log.push(Entry::Targets(targets()));
        world.open(true);
        world
    }

    fn open(&mut self, fresh: bool) {
        self.run = Run::new(self.run.record.clone());
        for (position, entry) in (1..).zip(&self.log) {
            self.run.apply(position, 1, entry, &mut vec![]);
        }
        self.run.go_live(fresh, &mut vec![]);
        for node in 0..NODES {
            self.run.node_ready(node);
        }
        self.follow();
    }

    fn write(&mut self, entry: Entry) {
        self.log.push(entry.clone());
        self.run.apply(self.log.len() as u64, 1, &entry, &mut vec![]);
        self.follow();
    }

    fn follow(&mut self) {
        for node in self.run.next_to_withdraw() {
            assert!(!self.reached.contains(&node), "what may have arrived cannot be withdrawn");
            self.write(decided(node, Outcome::Cancelled, false));
        }
        let nodes = self.run.next_to_start(|_| None);
        if !nodes.is_empty() {
            self.write(Entry::Started(nodes));
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Send(node) => {
                if self.run.send_order(node) {
                    assert!(!self.ended.contains_key(&node) || self.run.slot(node).has_end());
                    self.reached.insert(node);
                }
                if self.run.send_recall(node) {
                    self.run.delivered(Step::Recall(node));
                }
            }
            Event::Taken(node) if self.run.slot(node).stage == Stage::Flying => {
                self.run.delivered(Step::Order(node));
                self.write(Entry::Taken(vec![node]));
            }
            Event::LinkDown(node) => {
                self.run.not_delivered(Step::Order(node));
                self.run.not_delivered(Step::Recall(node));
            }
            // Nodes answer only what reached them.
            Event::Piece(node, seq) if self.is_heard(node) => {
                let piece = Piece {
                    seq,
                    stream: mainstay_core::envelope::Stream::Stdout,
                    data: bytes::Bytes::from_static(b"x"),
                };
                if self.run.judge_piece(node, &piece) == Judged::New {
                    self.write(Entry::Output { node, piece });
                }
            }
            Event::End(node, ok, last_seq) if self.is_heard(node) => {
                let judged = self.run.judge_end(node);
                if judged == Judged::New {
                    self.ended.insert(node, ok);
                    let outcome = Outcome::Finished(Exit::Code(i32::from(!ok)));
                    let end = EndNote {
                        outcome,
                        last_seq,
                        tail: vec![],
                        started: None,
                        ended: Timestamp::from_millis(1),
                        stdout_bytes: 0,
                        stderr_bytes: 0,
                        truncated: false,
                    };
                    self.write(Entry::End { node, end });
                }
            }
            Event::Refuse(node) if self.run.slot(node).stage == Stage::Flying => {
                let has_end = self.run.slot(node).has_end();
                if !has_end {
                    self.write(decided(
                        node,
                        Outcome::Rejected(mainstay_core::outcome::Rejection::Denied),
                        false,
                    ));
                }
            }
            Event::Cancel if !self.run.cancelled() => {
                let at = Timestamp::from_millis(1);
                self.write(Entry::Cancelled { by: "o".into(), at });
            }
            Event::Expire => {
                for node in 0..NODES {
                    if let Some(provisional) = self.run.expire(node) {
                        assert!(provisional || !self.reached.contains(&node));
                        self.write(decided(node, Outcome::Expired, provisional));
                    }
                }
            }
            Event::Abandon(node) => {
                self.gone.insert(node);
                if let Some(entry) = self.run.abandon(node, Timestamp::from_millis(1)) {
                    self.write(entry);
                }
            }
            Event::JournalLost(node) if self.run.may_have_reached(node) => {
                let at = Timestamp::from_millis(1);
                if let Some(entry) = self.run.give_up(node, Outcome::Lost, at) {
                    self.write(entry);
                }
            }
            Event::Restart => self.open(false),
            _ => {}
        }
    }

    fn is_heard(&self, node: u32) -> bool {
        self.reached.contains(&node) && !self.gone.contains(&node)
    }

    fn check(&self) {
        let counts = self.run.counts();
        let slots = || self.run.slots.iter();
        let done = slots().filter(|slot| slot.stage == Stage::Done).count() as u64;
        let provisional = slots().filter(|slot| slot.provisional).count() as u64;
        assert_eq!(provisional, counts.provisional);
        assert_eq!(counts.ok + counts.failed, done + provisional);
        assert!(counts.not_started + counts.cancelled + provisional <= counts.failed, "{counts:?}");
        let good = self.ended.iter().filter(|(node, ok)| **ok && self.run.slot(**node).stage == Stage::Done);
        assert_eq!(counts.ok, good.count() as u64, "only nodes themselves say that it went well");
        if let Some(gate) = &self.run.gate {
            assert!(gate.at_work.len() <= 2, "more at work than the batch allows");
        }
        // Whoever opens the log next comes to the same.
        let mut again = Run::new(self.run.record.clone());
        for (position, entry) in (1..).zip(&self.log) {
            again.apply(position, 1, entry, &mut vec![]);
            again.apply(position, 0, entry, &mut vec![]);
        }
        assert_eq!(again.counts(), counts);
        assert_eq!((again.cancelled(), again.stopped()), (self.run.cancelled(), self.run.stopped()));
    }
}

fn decided(node: u32, outcome: Outcome, provisional: bool) -> Entry {
    Entry::Decided { node, outcome, at: Timestamp::from_millis(1), provisional }
}

proptest! {
    #[test]
    fn every_node_ends_once_whatever_happens(
        gated in any::<bool>(),
        events in prop::collection::vec(event(), 0..120),
    ) {
        let mut world = World::new(gated);
        assert_eq!(target_entries(&targets()).len(), 1);
        for event in events {
            world.happen(event);
            world.check();
        }
        // The nodes come back, and everything that is still owed is carried out.
        for _ in 0..3 {
            for node in 0..NODES {
                world.happen(Event::Send(node));
                world.happen(Event::Send(node));
                world.happen(Event::Taken(node));
                world.happen(Event::End(node, true, 0));
                for seq in 1..4 {
                    world.happen(Event::Piece(node, seq));
                }
                world.check();
            }
        }
        prop_assert_eq!(world.run.pending(), 0);
    }
}

#[test]
fn what_was_cancelled_is_told_from_what_failed() {
    let end = |outcome, started: bool| EndNote {
        outcome,
        last_seq: 0,
        tail: vec![],
        started: started.then(|| Timestamp::from_millis(1)),
        ended: Timestamp::from_millis(2),
        stdout_bytes: 0,
        stderr_bytes: 0,
        truncated: false,
    };
    let mut world = World::new(false);
    world.write(Entry::End { node: 0, end: end(Outcome::Cancelled, true) });
    world.write(Entry::End { node: 1, end: end(Outcome::Cancelled, false) });
    world.write(decided(2, Outcome::Cancelled, false));
    world.write(Entry::End { node: 3, end: end(Outcome::TimedOut, true) });
    let counts = world.run.counts();
    assert_eq!((counts.failed, counts.cancelled, counts.not_started), (4, 1, 2));
}

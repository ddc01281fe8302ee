//! A checker that finds nothing proves nothing: each test breaks one thing that must be found.

use std::sync::atomic::AtomicU64;

use mainstay_core::time::Timestamp;

use super::super::offer::{Accepted, Counts};
use super::*;

const AT: i64 = 1_000_000;

fn key(byte: u8) -> KeyId {
    KeyId::from_bytes([byte; 32])
}

fn id(byte: u8) -> MessageId {
    MessageId::from_bytes([byte; 16])
}

fn row(outcome: Option<Outcome>) -> OutboxRow {
    OutboxRow {
        output_limit: 0,
        to: key(2),
        to_name: "node2".parse().unwrap(),
        method: "cmd".into(),
        command: true,
        created: Timestamp::from_millis(AT),
        expires: Timestamp::from_millis(AT),
        envelope: bytes::Bytes::new(),
        attempts: None,
        reply: Some(bytes::Bytes::from_static(b"crash/once.log")),
        reply_whole: false,
        accepted: true,
        withdrawn: false,
        closed: outcome.is_some(),
        outcome,
        provisional: false,
        last_seq: Some(0),
        written: 0,
        writing: None,
    }
}

fn accepted(byte: u8) -> Accepted {
    let work = Work { ping: false, wait_ms: 0, output: 0, idempotent: false, reply: true };
    Accepted { origin: "node1".into(), to: "node2".into(), id: id(byte), work }
}

/// One hundred messages that ran once and finished.
fn evidence() -> Evidence {
    let mut outbox = BTreeMap::new();
    let mut ledger = Ledger::default();
    let mut replies = HashMap::new();
    for byte in 0..100 {
        let mark = (key(1), id(byte));
        outbox.insert(id(byte), row(Some(Outcome::Finished(Exit::Code(0)))));
        ledger.entries.insert(mark, Entry { starts: vec![(AT + 1, 12)], ends: vec![AT + 2] });
        replies.insert(mark, vec![94]);
    }
    let book = Book { outbox, unended: Vec::new(), left: BTreeMap::new(), damage: 0 };
    let counts = Counts { unknown: AtomicU64::new(0), ..Counts::default() };
    Evidence {
        offered: Offered {
            messages: (0..100).map(accepted).collect(),
            runs: Vec::new(),
            counts,
            why: Vec::new(),
        },
        runs: Vec::new(),
        books: [("node1".to_owned(), book)].into(),
        keys: [("node1".to_owned(), key(1)), ("node2".to_owned(), key(2))].into(),
        pids: [("node1".to_owned(), vec![11]), ("node2".to_owned(), vec![12])].into(),
        ledger,
        replies: [("node1".to_owned(), replies)].into(),
        kills: Vec::new(),
        mishaps: Vec::new(),
    }
}

fn entry(evidence: &mut Evidence) -> &mut Entry {
    evidence.ledger.entries.get_mut(&(key(1), id(7))).unwrap()
}

fn outcome(evidence: &mut Evidence, outcome: Option<Outcome>) {
    evidence.books.get_mut("node1").unwrap().outbox.insert(id(7), row(outcome));
}

fn kinds(broken: impl FnOnce(&mut Evidence)) -> Vec<&'static str> {
    let mut evidence = evidence();
    broken(&mut evidence);
    check(&evidence).by_kind.into_keys().collect()
}

#[test]
fn a_good_trial_is_good() {
    assert!(kinds(|_| {}).is_empty());
}

#[test]
fn what_ran_twice_is_found() {
    assert_eq!(kinds(|e| entry(e).starts.push((AT + 9, 12))), ["ran twice"]);
}

#[test]
fn what_finished_and_did_not_run_is_found() {
    assert_eq!(kinds(|e| entry(e).ends.clear()), ["did not run"]);
}

#[test]
fn what_was_accepted_and_is_gone_is_found() {
    let gone = |e: &mut Evidence| drop(e.books.get_mut("node1").unwrap().outbox.remove(&id(7)));
    assert_eq!(kinds(gone), ["lost", "nobody accepted it"]);
}

#[test]
fn what_has_no_end_is_found() {
    assert_eq!(kinds(|e| outcome(e, None)), ["no end", "not at its end"]);
}

#[test]
fn an_end_that_nothing_asked_for_is_found() {
    assert_eq!(kinds(|e| outcome(e, Some(Outcome::Expired))), ["wrong end"]);
    assert_eq!(kinds(|e| outcome(e, Some(Outcome::Finished(Exit::Code(1))))), ["wrong end"]);
}

#[test]
fn an_interruption_needs_a_kill_of_its_receiver_at_its_time() {
    let interrupted = |e: &mut Evidence, node: &str, at: i64| {
        outcome(e, Some(Outcome::Interrupted));
        e.kills.push(Kill { node: node.into(), at });
    };
    assert!(kinds(|e| interrupted(e, "node2", AT + 2)).is_empty());
    assert_eq!(kinds(|e| interrupted(e, "node1", AT + 2)), ["interrupted without a kill"]);
    assert_eq!(kinds(|e| interrupted(e, "node2", AT + 60_000)), ["interrupted without a kill"]);
}

#[test]
fn a_reply_that_is_missing_or_doubled_is_found() {
    let reply = |e: &mut Evidence, stretches| {
        e.replies.get_mut("node1").unwrap().insert((key(1), id(7)), stretches);
    };
    assert_eq!(kinds(|e| reply(e, vec![])), ["reply"]);
    assert_eq!(kinds(|e| reply(e, vec![94, 94])), ["reply"]);
}

#[test]
fn what_ran_on_another_node_is_found() {
    assert_eq!(kinds(|e| entry(e).starts[0].1 = 11), ["ran elsewhere"]);
}

#[test]
fn too_few_that_finished_are_found() {
    let interrupt = |e: &mut Evidence| {
        e.kills.push(Kill { node: "node2".into(), at: AT });
        for row in e.books.get_mut("node1").unwrap().outbox.values_mut().take(6) {
            row.outcome = Some(Outcome::Interrupted);
        }
    };
    assert_eq!(kinds(interrupt), ["too few finished"]);
}

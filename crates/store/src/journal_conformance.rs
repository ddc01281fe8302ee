//! What every Journal must do, as a suite that each implementation runs. It panics at the first breach.
//!
//! What only one kind can show (files, locks, formats, damage) is tested beside that kind.

use std::collections::BTreeMap;

use bytes::Bytes;
use mainstay_core::journal::{Batch, Class, Journal, JournalError, Op, Table};

/// Where a journal can be opened again and again. Whoever holds an opened journal drops it before the
/// next call.
pub trait JournalBench {
    fn open(&mut self) -> Box<dyn Journal>;

    /// Power goes and comes back. False if this bench cannot do it; its cases are left out then.
    fn power_loss(&mut self) -> bool;

    /// Leaves room for this many bytes beyond what is there now, or all the room that it takes. False if
    /// this bench cannot do it.
    fn leave_room(&mut self, bytes: Option<u64>) -> bool;
}

/// What is shown, and how.
type Case<B> = (&'static str, fn(&mut B));

/// Runs every case, each on a bench of its own.
///
/// # Panics
/// If the journal breaks its contract.
pub fn journal_suite<B: JournalBench>(mut make: impl FnMut() -> B) {
    let cases: [Case<B>; 11] = [
        ("a new journal is empty", new_is_empty),
        ("records are read in the order of their keys", order),
        ("writing again replaces, deleting removes", overwrite_and_delete),
        ("operations of one batch and of one commit apply in order", operations_in_order),
        ("tables do not mix", tables_apart),
        ("empty batches and no batches are fine", empty),
        ("values may be large or empty", sizes),
        ("too large a record is refused alone", too_large),
        ("all that was committed is there after opening again", reopen),
        ("all that was committed is there after a power loss", power_loss),
        ("a full disk refuses new work and not what is owed", full_disk),
    ];
    for (name, case) in cases {
        // So that a failure says which case it was.
        eprintln!("journal: {name}");
        case(&mut make());
    }
}

pub fn put(table: Table, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Op {
    Op::Put {
        table,
        key: Bytes::copy_from_slice(key.as_ref()),
        value: Bytes::copy_from_slice(value.as_ref()),
    }
}

pub fn delete(table: Table, key: impl AsRef<[u8]>) -> Op {
    Op::Delete { table, key: Bytes::copy_from_slice(key.as_ref()) }
}

pub fn new(reserve: u64, ops: Vec<Op>) -> Batch {
    Batch { class: Class::New { reserve }, ops }
}

pub fn owed(release: u64, ops: Vec<Op>) -> Batch {
    Batch { class: Class::Owed { release }, ops }
}

/// Everything in a journal.
///
/// # Panics
/// If it cannot be read.
pub fn contents(journal: &mut dyn Journal) -> BTreeMap<(Table, Bytes), Bytes> {
    let mut all = BTreeMap::new();
    for table in Table::ALL {
        let mut last: Option<Vec<u8>> = None;
        journal
            .read(table, &mut |key, value| {
                assert!(last.as_deref() < Some(key), "{table:?}: {key:?} comes after {last:?}");
                last = Some(key.to_vec());
                let id = (table, Bytes::copy_from_slice(key));
                all.insert(id, Bytes::copy_from_slice(value));
            })
            .expect("the journal can be read");
    }
    all
}

fn commit(journal: &mut dyn Journal, batches: &[Batch]) {
    for result in journal.commit(batches) {
        result.expect("the batch is taken");
    }
}

fn table(journal: &mut dyn Journal, table: Table) -> Vec<(Vec<u8>, Vec<u8>)> {
    contents(journal)
        .into_iter()
        .filter(|((of, _), _)| *of == table)
        .map(|((_, key), value)| (key.to_vec(), value.to_vec()))
        .collect()
}

fn new_is_empty(bench: &mut impl JournalBench) {
    let mut journal = bench.open();
    assert_eq!(contents(&mut *journal), BTreeMap::new());
}

fn order(bench: &mut impl JournalBench) {
    let mut journal = bench.open();
    // Bytes compare as unsigned, a prefix before what it begins, and the empty key first of all.
    let keys: [&[u8]; 7] = [b"b", b"\xff", b"", b"\x00", b"a\x00", b"a", b"\x7f\x80"];
    let ops = keys.iter().map(|key| put(Table::Inbox, key, b"x")).collect();
    commit(&mut *journal, &[new(0, ops)]);
    let read: Vec<_> = table(&mut *journal, Table::Inbox).into_iter().map(|(key, _)| key).collect();
    let mut expected = keys.map(<[u8]>::to_vec).to_vec();
    expected.sort();
    assert_eq!(read, expected);
}

fn overwrite_and_delete(bench: &mut impl JournalBench) {
    let mut journal = bench.open();
    commit(&mut *journal, &[new(0, vec![put(Table::Outbox, "a", "1"), put(Table::Outbox, "b", "1")])]);
    commit(
        &mut *journal,
        &[owed(
            0,
            vec![put(Table::Outbox, "a", "22"), delete(Table::Outbox, "b"), delete(Table::Outbox, "none")],
        )],
    );
    drop(journal);
    let mut journal = bench.open();
    assert_eq!(table(&mut *journal, Table::Outbox), [(b"a".to_vec(), b"22".to_vec())]);
}

fn operations_in_order(bench: &mut impl JournalBench) {
    let mut journal = bench.open();
    commit(
        &mut *journal,
        &[
            new(0, vec![put(Table::Meta, "k", "1"), delete(Table::Meta, "k"), put(Table::Meta, "k", "2")]),
            new(0, vec![put(Table::Meta, "k", "3"), put(Table::Meta, "gone", "1")]),
            owed(0, vec![delete(Table::Meta, "gone")]),
        ],
    );
    assert_eq!(table(&mut *journal, Table::Meta), [(b"k".to_vec(), b"3".to_vec())]);
}

fn tables_apart(bench: &mut impl JournalBench) {
    let mut journal = bench.open();
    let ops = Table::ALL.iter().map(|table| put(*table, "same", [*table as u8])).collect();
    commit(&mut *journal, &[new(0, ops)]);
    commit(&mut *journal, &[new(0, vec![delete(Table::Relay, "same")])]);
    for of in Table::ALL {
        let expected = if of == Table::Relay { vec![] } else { vec![(b"same".to_vec(), vec![of as u8])] };
        assert_eq!(table(&mut *journal, of), expected);
    }
}

fn empty(bench: &mut impl JournalBench) {
    let mut journal = bench.open();
    assert_eq!(journal.commit(&[]).len(), 0);
    commit(&mut *journal, &[new(0, vec![]), owed(0, vec![])]);
    assert_eq!(contents(&mut *journal), BTreeMap::new());
}

fn sizes(bench: &mut impl JournalBench) {
    let lengths = [0, 1, 489, 490, 1_002, 1_003, 1_110, 4_095, 4_096, 4_097, 65_536, 1 << 20, 5 << 20];
    let value = |len: usize| (0..len).map(|at| (at * 31 + len) as u8).collect::<Vec<_>>();
    let mut journal = bench.open();
    for len in lengths {
        commit(&mut *journal, &[new(0, vec![put(Table::Answers, (len as u64).to_be_bytes(), value(len))])]);
    }
    drop(journal);
    let mut journal = bench.open();
    let expected: Vec<_> =
        lengths.iter().map(|len| ((*len as u64).to_be_bytes().to_vec(), value(*len))).collect();
    assert!(table(&mut *journal, Table::Answers) == expected, "every value comes back as it was written");
}

fn too_large(bench: &mut impl JournalBench) {
    let mut journal = bench.open();
    let results = journal.commit(&[
        new(0, vec![put(Table::Outbox, "a", "1")]),
        new(0, vec![put(Table::Outbox, "b", "1"), put(Table::Outbox, vec![0; 1 << 16], "1")]),
        owed(0, vec![put(Table::Outbox, "c", vec![0; 17 << 20])]),
        new(0, vec![put(Table::Outbox, "d", "1")]),
    ]);
    let refused: Vec<bool> =
        results.iter().map(|result| matches!(result, Err(JournalError::TooLarge { .. }))).collect();
    assert_eq!(refused, [false, true, true, false]);
    let keys: Vec<_> = table(&mut *journal, Table::Outbox).into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, [b"a", b"d"], "nothing of a refused batch is kept");
}

fn reopen(bench: &mut impl JournalBench) {
    let mut expected = BTreeMap::new();
    for round in 0_u8..5 {
        let mut journal = bench.open();
        assert_eq!(contents(&mut *journal), expected, "round {round}");
        for number in 0_u8..20 {
            let key = [number % 7, round];
            commit(&mut *journal, &[new(0, vec![put(Table::Inbox, key, [number])])]);
            expected.insert((Table::Inbox, Bytes::copy_from_slice(&key)), Bytes::from(vec![number]));
        }
    }
}

fn power_loss(bench: &mut impl JournalBench) {
    let mut expected = BTreeMap::new();
    for round in 0_u8..5 {
        let mut journal = bench.open();
        assert_eq!(contents(&mut *journal), expected, "after power loss {round}");
        for number in 0_u8..20 {
            let key = Bytes::from(vec![number, round]);
            let value = Bytes::from(vec![number; 300]);
            let batches = [
                new(0, vec![put(Table::Inbox, &key, &value)]),
                owed(0, vec![put(Table::Answers, &key, &value)]),
            ];
            commit(&mut *journal, &batches);
            expected.insert((Table::Inbox, key.clone()), value.clone());
            expected.insert((Table::Answers, key), value);
        }
        drop(journal);
        if !bench.power_loss() {
            eprintln!("journal:   (left out: this bench keeps its power)");
            return;
        }
    }
}

fn full_disk(bench: &mut impl JournalBench) {
    const RESERVED: u64 = 512 << 10;
    let mut journal = bench.open();
    if !bench.leave_room(None) {
        eprintln!("journal:   (left out: this bench does not fill up)");
        return;
    }
    let mut expected = BTreeMap::new();
    let id = |key: &str| (Table::Answers, Bytes::copy_from_slice(key.as_bytes()));
    commit(&mut *journal, &[new(RESERVED, vec![put(Table::Answers, "accepted", "1")])]);
    expected.insert(id("accepted"), Bytes::from("1"));

    bench.leave_room(Some(300 << 10));
    let large = vec![7; 100 << 10];
    let mut refused = 0;
    for number in 0..100 {
        let key = format!("new-{number}");
        match journal.commit(&[new(0, vec![put(Table::Answers, &key, &large)])]).remove(0) {
            Ok(()) => {
                assert_eq!(refused, 0, "what was refused is not taken while nothing changes");
                expected.insert(id(&key), Bytes::from(large.clone()));
            }
            Err(JournalError::Full) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 90, "the disk got full");
    assert_eq!(contents(&mut *journal), expected);
    let too_much = journal.commit(&[new(RESERVED, vec![])]).remove(0);
    assert!(matches!(too_much, Err(JournalError::Full)), "a reservation without room is refused");

    // What was reserved can be written, in pieces, beside new work that may still be refused.
    let piece = vec![9; 32 << 10];
    for number in 0..RESERVED / (32 << 10) {
        let key = format!("owed-{number}");
        let results = journal.commit(&[
            new(0, vec![put(Table::Answers, "beside", &large)]),
            owed(32 << 10, vec![put(Table::Answers, &key, &piece)]),
        ]);
        match &results[0] {
            Ok(()) => drop(expected.insert(id("beside"), Bytes::from(large.clone()))),
            Err(JournalError::Full) => {}
            Err(error) => panic!("{error}"),
        }
        results[1].as_ref().expect("what was reserved can be written");
        expected.insert(id(&key), Bytes::from(piece.clone()));
    }
    assert_eq!(contents(&mut *journal), expected);
    drop(journal);
    let mut journal = bench.open();
    journal.restore_reservation(0);
    assert_eq!(contents(&mut *journal), expected, "the disk is still full, and all is there");

    bench.leave_room(None);
    commit(&mut *journal, &[new(RESERVED, vec![put(Table::Answers, "later", &large)])]);
    expected.insert(id("later"), Bytes::from(large));
    assert_eq!(contents(&mut *journal), expected);
}

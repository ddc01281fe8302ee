//! The journal on real files and on a disk that fails.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use bytes::Bytes;
use mainstay_core::journal::{Batch, Class, Damage, Journal, JournalError, Op, Table};
use proptest::prelude::*;
use rusqlite::Connection;

use super::{JOURNAL_FORMAT, SqliteJournal};
use crate::fault_vfs::{FaultDisk, Loss};
use crate::journal_conformance::{JournalBench, contents, delete, journal_suite, new, owed, put};

type Contents = BTreeMap<(Table, Bytes), Bytes>;

struct OnFiles {
    dir: tempfile::TempDir,
}

impl OnFiles {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("journal.db")
    }

    fn open_it(&self) -> Result<(SqliteJournal, Damage), JournalError> {
        SqliteJournal::open(&self.path())
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl JournalBench for OnFiles {
    fn open(&mut self) -> Box<dyn Journal> {
        Box::new(self.open_it().unwrap().0)
    }

    fn power_loss(&mut self) -> bool {
        false
    }

    fn leave_room(&mut self, _bytes: Option<u64>) -> bool {
        false
    }
}

struct OnDisk {
    disk: FaultDisk,
    loss: Loss,
}

impl JournalBench for OnDisk {
    fn open(&mut self) -> Box<dyn Journal> {
        Box::new(SqliteJournal::open_on(&self.disk, false).unwrap().0)
    }

    fn power_loss(&mut self) -> bool {
        self.disk.power_loss(self.loss);
        true
    }

    fn leave_room(&mut self, bytes: Option<u64>) -> bool {
        self.disk.set_capacity(bytes.map(|bytes| self.disk.used() + bytes));
        true
    }
}

/// A small file system of its own, filled up by a file beside the journal.
struct OnSmallDisk {
    dir: tempfile::TempDir,
}

impl JournalBench for OnSmallDisk {
    fn open(&mut self) -> Box<dyn Journal> {
        Box::new(SqliteJournal::open(&self.dir.path().join("journal.db")).unwrap().0)
    }

    fn power_loss(&mut self) -> bool {
        false
    }

    fn leave_room(&mut self, bytes: Option<u64>) -> bool {
        let filler = self.dir.path().join("filler");
        let _ = std::fs::remove_file(&filler);
        let Some(bytes) = bytes else { return true };
        let mut file = std::fs::File::create(&filler).unwrap();
        let mut len = 0_u64;
        while let Ok(written) = file.write(&[0x5a; 64 * 1024]) {
            len += written as u64;
        }
        file.set_len(len.saturating_sub(bytes)).unwrap();
        file.sync_all().unwrap();
        true
    }
}

#[test]
fn it_conforms_on_a_real_disk_that_fills_up() {
    // A mounted file system of some 64 MiB that is there for this alone; making one takes root.
    let Some(at) = std::env::var_os("MAINSTAY_TEST_SMALL_DISK") else {
        eprintln!("skipped: MAINSTAY_TEST_SMALL_DISK names no file system");
        return;
    };
    journal_suite(|| OnSmallDisk { dir: tempfile::tempdir_in(&at).unwrap() });
}

#[test]
fn it_conforms_on_files() {
    journal_suite(OnFiles::new);
}

#[test]
fn it_conforms_on_a_disk_that_loses_what_was_not_synced() {
    journal_suite(|| OnDisk { disk: FaultDisk::new(), loss: Loss::All });
}

#[test]
fn it_conforms_on_a_disk_that_loses_some_of_what_was_not_synced() {
    for seed in 0..5 {
        journal_suite(|| OnDisk { disk: FaultDisk::new(), loss: Loss::Some(seed) });
    }
}

fn one(journal: &mut dyn Journal, batch: Batch) -> Result<(), JournalError> {
    journal.commit(&[batch]).remove(0)
}

fn apply(contents: &mut Contents, batch: &Batch) {
    for op in &batch.ops {
        match op {
            Op::Put { table, key, value } => {
                contents.insert((*table, key.clone()), value.clone());
            }
            Op::Delete { table, key } => {
                contents.remove(&(*table, key.clone()));
            }
        }
    }
}

// ---- whose file it is ----

#[test]
fn its_files_are_for_the_owner_alone_and_the_log_goes_when_it_is_closed() {
    use std::os::unix::fs::PermissionsExt;
    let bench = OnFiles::new();
    let (mut journal, damage) = bench.open_it().unwrap();
    assert_eq!(damage, Damage::default());
    one(&mut journal, new(0, vec![put(Table::Meta, "k", "v")])).unwrap();
    assert_eq!(bench.names(), ["journal.db", "journal.db-wal", "journal.lock", "journal.reserve"]);
    for name in bench.names() {
        let mode = std::fs::metadata(bench.dir.path().join(&name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    drop(journal);
    assert_eq!(bench.names(), ["journal.db", "journal.lock", "journal.reserve"]);
}

#[test]
fn a_journal_that_is_open_is_not_opened_again() {
    let bench = OnFiles::new();
    let (mut journal, _) = bench.open_it().unwrap();
    let error = bench.open_it().unwrap_err().to_string();
    assert!(error.contains("in use by another process"), "{error}");
    // Nor by a program that knows nothing of the lock file.
    let other = Connection::open(bench.path()).unwrap();
    other.busy_timeout(std::time::Duration::ZERO).unwrap();
    let error =
        other.query_row("SELECT count(*) FROM records_1", [], |row| row.get::<_, i64>(0)).unwrap_err();
    assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseBusy));
    drop(other);
    one(&mut journal, new(0, vec![])).unwrap();
    drop(journal);
    bench.open_it().unwrap();
}

#[test]
fn a_journal_of_a_newer_version_is_refused_untouched() {
    let bench = OnFiles::new();
    drop(bench.open_it().unwrap());
    let newer = Connection::open(bench.path()).unwrap();
    newer.pragma_update(None, "user_version", JOURNAL_FORMAT + 1).unwrap();
    drop(newer);
    let (names, bytes) = (bench.names(), std::fs::read(bench.path()).unwrap());
    let error = bench.open_it().unwrap_err();
    assert!(
        matches!(error, JournalError::Newer { found, understood }
            if found == JOURNAL_FORMAT + 1 && understood == JOURNAL_FORMAT),
        "{error}"
    );
    assert_eq!(bench.names(), names);
    assert!(std::fs::read(bench.path()).unwrap() == bytes, "not a byte changed");
}

#[test]
fn a_newer_version_that_stands_in_the_log_alone_is_refused_untouched() {
    let disk = FaultDisk::new();
    drop(SqliteJournal::open_on(&disk, false).unwrap());
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE;
    let newer = Connection::open_with_flags_and_vfs("journal.db", flags, disk.vfs()).unwrap();
    newer
        .execute_batch("PRAGMA locking_mode=EXCLUSIVE; PRAGMA wal_autocheckpoint=0; PRAGMA user_version=77;")
        .unwrap();
    let (file, log) = (disk.contents("journal.db").unwrap(), disk.contents("journal.db-wal").unwrap());
    drop(newer);
    disk.replace("journal.db", file.clone());
    disk.replace("journal.db-wal", log.clone());
    let error = SqliteJournal::open_on(&disk, false).unwrap_err();
    assert!(matches!(error, JournalError::Newer { found: 77, .. }), "{error}");
    assert!(disk.contents("journal.db").unwrap() == file, "the file is as it was");
    assert!(disk.contents("journal.db-wal").unwrap() == log, "the log is as it was");
}

#[test]
fn what_is_no_journal_is_refused_untouched() {
    let bench = OnFiles::new();
    for bytes in [&b"hello"[..], &[b'x'; 5_000], b"SQLite format 3\0 and no more"] {
        std::fs::write(bench.path(), bytes).unwrap();
        let error = bench.open_it().unwrap_err().to_string();
        assert!(error.contains("is not a journal"), "{error}");
        assert_eq!(std::fs::read(bench.path()).unwrap(), bytes);
    }
    std::fs::remove_file(bench.path()).unwrap();
    Connection::open(bench.path()).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    let bytes = std::fs::read(bench.path()).unwrap();
    let error = bench.open_it().unwrap_err().to_string();
    assert!(error.contains("some other SQLite database"), "{error}");
    assert_eq!(std::fs::read(bench.path()).unwrap(), bytes);
}

#[test]
fn an_empty_file_becomes_a_journal() {
    let bench = OnFiles::new();
    std::fs::write(bench.path(), b"").unwrap();
    bench.open_it().unwrap();
}

#[test]
fn the_log_gives_back_what_one_huge_commit_took() {
    let bench = OnFiles::new();
    let (mut journal, _) = bench.open_it().unwrap();
    let log = || std::fs::metadata(bench.dir.path().join("journal.db-wal")).unwrap().len();
    let huge = (0_u32..4).map(|key| put(Table::Answers, key.to_be_bytes(), vec![1; 15 << 20])).collect();
    one(&mut journal, new(0, huge)).unwrap();
    assert!(log() > 50 << 20);
    one(&mut journal, new(0, vec![put(Table::Meta, "k", "v")])).unwrap();
    assert!(log() <= 16 << 20, "{} bytes", log());
}

// ---- damage ----

#[test]
fn damaged_records_are_set_aside_and_reported_once() {
    let bench = OnFiles::new();
    let (mut journal, _) = bench.open_it().unwrap();
    let ops = ["a", "b", "c", "d"].map(|key| put(Table::Outbox, key, format!("value of {key}")));
    one(&mut journal, new(0, ops.to_vec())).unwrap();
    drop(journal);
    let other = Connection::open(bench.path()).unwrap();
    // A changed value, a changed key, a value of another type.
    for sql in [
        "UPDATE records_2 SET value = CAST('valve of a' AS BLOB) WHERE key = CAST('a' AS BLOB)",
        "UPDATE records_2 SET key = CAST('bb' AS BLOB) WHERE key = CAST('b' AS BLOB)",
        "UPDATE records_2 SET value = 7 WHERE key = CAST('c' AS BLOB)",
    ] {
        assert_eq!(other.execute(sql, []).unwrap(), 1);
    }
    drop(other);
    let (mut journal, damage) = bench.open_it().unwrap();
    let damaged = ["a", "bb", "c"].map(|key| (Table::Outbox, Bytes::from(key))).to_vec();
    assert_eq!(damage, Damage { records: damaged, notes: vec![] });
    let left: Vec<_> = contents(&mut journal).into_values().collect();
    assert_eq!(left, ["value of d"]);
    let aside: i64 =
        journal.file.conn().query_row("SELECT count(*) FROM damaged", [], |row| row.get(0)).unwrap();
    assert_eq!(aside, 3);
    drop(journal);
    assert_eq!(bench.open_it().unwrap().1, Damage::default());
}

#[test]
fn of_a_file_with_broken_pages_all_that_can_be_read_is_saved() {
    let bench = OnFiles::new();
    let (mut journal, _) = bench.open_it().unwrap();
    let ops = |from: u32| {
        (from..from + 500)
            .map(|key| put(Table::Inbox, key.to_be_bytes(), key.to_string().repeat(40)))
            .collect()
    };
    for from in [0, 500, 1_000, 1_500] {
        one(&mut journal, new(0, ops(from))).unwrap();
    }
    one(&mut journal, new(0, vec![put(Table::Outbox, "whole", "1")])).unwrap();
    let all = contents(&mut journal);
    drop(journal);
    let mut bytes = std::fs::read(bench.path()).unwrap();
    // Two pages in the middle, whatever they hold.
    let middle = bytes.len() / 2 / 4_096 * 4_096;
    bytes[middle..middle + 2 * 4_096].fill(0xa5);
    std::fs::write(bench.path(), &bytes).unwrap();

    let (mut journal, damage) = bench.open_it().unwrap();
    assert!(damage.notes.iter().any(|note| note.contains("records_3")), "{damage:?}");
    let kept = bench.dir.path().join("journal.db.damaged-1");
    assert!(damage.notes.iter().any(|note| note.contains(kept.to_str().unwrap())), "{damage:?}");
    assert!(std::fs::read(&kept).unwrap() == bytes, "the damaged file is kept as it was");
    let saved = contents(&mut journal);
    assert!(saved.len() < all.len() && saved.len() > all.len() - 100, "{} of {}", saved.len(), all.len());
    assert!(saved.iter().all(|(id, value)| all.get(id) == Some(value)), "what is saved is as it was");
    assert!(saved.contains_key(&(Table::Outbox, Bytes::from("whole"))));
    one(&mut journal, new(0, ops(0))).unwrap();
    drop(journal);
    assert_eq!(bench.open_it().unwrap().1, Damage::default());
}

#[test]
fn random_damage_is_reported_or_harmless() {
    let bench = OnFiles::new();
    let (mut journal, _) = bench.open_it().unwrap();
    let ops = (0_u32..200).map(|key| put(Table::Inbox, key.to_be_bytes(), vec![key as u8; 600])).collect();
    one(&mut journal, new(0, ops)).unwrap();
    let all = contents(&mut journal);
    drop(journal);
    let good = std::fs::read(bench.path()).unwrap();
    // Every page in turn, at places that wander over it; the first has the header, which is judged first.
    let pages = good.len() / 4_096;
    let mut opened = 0;
    for page in 0..pages {
        for name in bench.names() {
            std::fs::remove_file(bench.dir.path().join(name)).unwrap();
        }
        let mut bytes = good.clone();
        let at = page * 4_096 + (page * 613) % 4_000;
        bytes[at..at + 16].iter_mut().for_each(|byte| *byte ^= 0xff);
        std::fs::write(bench.path(), &bytes).unwrap();
        // Only where the schema or the header is hit there is nothing to be saved.
        let Ok((mut journal, damage)) = bench.open_it() else {
            continue;
        };
        opened += 1;
        let saved = contents(&mut journal);
        assert!(
            saved.iter().all(|(id, value)| all.get(id) == Some(value)),
            "page {page}: nothing false is read"
        );
        assert!(saved.len() == all.len() || damage != Damage::default(), "page {page}: a loss is reported");
    }
    assert!(opened > pages * 3 / 4, "{opened} of {pages}");
}

// ---- power and syncs ----

/// Batches as a node writes them: several tables, replacing and deleting.
fn batch(number: u64) -> Batch {
    let key = (number % 40).to_be_bytes();
    let value = vec![number as u8; (number as usize * 37) % 3_000];
    let mut ops = vec![
        put(Table::Outbox, key, &value),
        put(Table::Inbox, number.to_be_bytes(), &value[..10.min(value.len())]),
    ];
    if number.is_multiple_of(3) {
        ops.push(delete(Table::Inbox, (number / 2).to_be_bytes()));
    }
    new(0, ops)
}

/// Commits until something fails. Returns what was acknowledged, and what it would be with the commit that failed.
fn run_until_failure(
    disk: &FaultDisk,
    skip_sync: bool,
    from: Contents,
    first: u64,
    count: u64,
) -> (Contents, Contents) {
    let mut sure = from;
    let mut attempted = sure.clone();
    if let Ok((mut journal, _)) = SqliteJournal::open_on(disk, skip_sync) {
        for number in 0..count {
            let batches = [batch(first + 2 * number), batch(first + 2 * number + 1)];
            batches.iter().for_each(|batch| apply(&mut attempted, batch));
            if journal.commit(&batches).iter().any(Result::is_err) {
                break;
            }
            sure.clone_from(&attempted);
        }
    }
    (sure, attempted)
}

/// Cuts the power at every n-th change of the disk and looks at what is left. Returns how often something
/// acknowledged was missing.
fn losses(skip_sync: bool, loss: impl Fn(u64) -> Loss) -> usize {
    let whole = {
        let disk = FaultDisk::new();
        run_until_failure(&disk, skip_sync, Contents::new(), 0, 60);
        disk.steps()
    };
    let mut lost = 0;
    for cut in (0..whole).step_by(3) {
        let disk = FaultDisk::new();
        disk.power_off_after(cut);
        let (sure, attempted) = run_until_failure(&disk, skip_sync, Contents::new(), 0, 60);
        disk.power_loss(loss(cut));
        // A second life that is cut short as well, while it recovers or soon after.
        disk.power_off_after(cut % 23);
        let left = match SqliteJournal::open_on(&disk, skip_sync) {
            Ok((mut journal, _)) => {
                let mut all = Contents::new();
                let read = Table::ALL.iter().try_for_each(|table| {
                    journal.read(*table, &mut |key, value| {
                        all.insert((*table, Bytes::copy_from_slice(key)), Bytes::copy_from_slice(value));
                    })
                });
                read.is_ok().then_some(all)
            }
            Err(_) => None,
        };
        disk.power_loss(loss(cut + 1));
        let opened = SqliteJournal::open_on(&disk, skip_sync);
        let Ok((mut journal, damage)) = opened else {
            assert!(skip_sync, "after a cut at {cut}: {opened:?}");
            lost += 1;
            continue;
        };
        let found = contents(&mut journal);
        if found != sure && found != attempted {
            lost += 1;
        } else if left.is_some_and(|left| left != found) {
            // It was believed once, and is gone.
            lost += 1;
        }
        if !skip_sync {
            assert_eq!(damage, Damage::default(), "after a cut at {cut}");
        }
    }
    lost
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_at_any_moment() {
    assert_eq!(losses(false, |_| Loss::All), 0);
    assert_eq!(losses(false, Loss::Some), 0);
}

#[test]
fn a_journal_that_skips_the_sync_is_caught() {
    assert!(losses(true, |_| Loss::All) > 10);
}

#[test]
fn after_a_failed_sync_nothing_is_believed_until_it_is_opened_again() {
    let mut failures = 0;
    for good in 0..40 {
        let disk = FaultDisk::new();
        drop(SqliteJournal::open_on(&disk, false).unwrap());
        disk.fail_sync_after(good);
        let Ok((mut journal, _)) = SqliteJournal::open_on(&disk, false) else {
            continue;
        };
        let mut sure = Contents::new();
        let mut attempted = Contents::new();
        for number in 0..60 {
            let batch = batch(number);
            apply(&mut attempted, &batch);
            match one(&mut journal, batch) {
                Ok(()) => sure.clone_from(&attempted),
                Err(JournalError::Failed(_)) => break,
                Err(error) => panic!("{error}"),
            }
        }
        failures += 1;
        assert!(matches!(one(&mut journal, owed(0, vec![])), Err(JournalError::Failed(_))));
        assert!(matches!(journal.read(Table::Meta, &mut |_, _| {}), Err(JournalError::Failed(_))));
        drop(journal);
        let (mut journal, damage) = SqliteJournal::open_on(&disk, false).unwrap();
        assert_eq!(damage, Damage::default());
        let believed = contents(&mut journal);
        assert!(believed == sure || believed == attempted, "what was acknowledged is there");
        // What is believed now is on the disk, whatever the page cache had.
        drop(journal);
        disk.power_loss(Loss::All);
        let (mut journal, _) = SqliteJournal::open_on(&disk, false).unwrap();
        assert!(contents(&mut journal) == believed, "what was believed stays");
    }
    assert!(failures > 20);
}

// ---- full disks ----

#[derive(Clone, Debug)]
enum Step {
    /// New work with a reservation of this many bytes.
    Accept {
        size: usize,
        reserve: usize,
    },
    /// Writes a piece of what the oldest accepted work may, or its end.
    Pay {
        piece: usize,
    },
    /// Another program takes or gives room.
    Room {
        bytes: u64,
    },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0_usize..200_000, 300_usize..1_000_000).prop_map(|(size, reserve)| Step::Accept { size, reserve }),
        9 => prop_oneof![Just(1_090_usize), Just(2_050_usize), 200_usize..100_000, Just(1_000_000_usize)].prop_map(|piece| Step::Pay { piece }),
        2 => prop_oneof![Just(0), 0_u64..600_000].prop_map(|bytes| Step::Room { bytes }),
        1 => Just(Step::Reopen),
    ]
}

fn pay_on_a_full_disk(room: u64, steps: Vec<Step>) -> (usize, usize) {
    let disk = FaultDisk::new();
    let (mut journal, _) = SqliteJournal::open_on(&disk, false).unwrap();
    one(&mut journal, new(0, vec![])).unwrap();
    disk.set_capacity(Some(disk.used() + room));
    let mut expected = Contents::new();
    let mut debts: std::collections::VecDeque<usize> = std::collections::VecDeque::new();
    let (mut number, mut accepted, mut refused) = (0_u64, 0, 0);
    for step in steps {
        number += 1;
        match step {
            Step::Accept { size, reserve } => {
                let batch = new(reserve as u64, vec![put(Table::Inbox, number.to_be_bytes(), vec![1; size])]);
                match one(&mut journal, batch.clone()) {
                    Ok(()) => {
                        accepted += 1;
                        apply(&mut expected, &batch);
                        debts.push_back(reserve);
                    }
                    Err(JournalError::Full) => refused += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Pay { piece } => {
                let Some(left) = debts.pop_front() else { continue };
                // The key is part of what was reserved.
                let piece = piece.min(left);
                let value = vec![2; piece.saturating_sub(8)];
                let batch = owed(piece as u64, vec![put(Table::Answers, number.to_be_bytes(), value)]);
                one(&mut journal, batch.clone()).expect("what was reserved can be written");
                apply(&mut expected, &batch);
                if left - piece >= 200 {
                    debts.push_front(left - piece);
                } else {
                    one(&mut journal, owed((left - piece) as u64, vec![])).unwrap();
                }
            }
            Step::Room { bytes } => disk.set_capacity(Some(disk.used() + bytes)),
            Step::Reopen => {
                drop(journal);
                journal = SqliteJournal::open_on(&disk, false).unwrap().0;
                journal.restore_reservation(debts.iter().sum::<usize>() as u64);
            }
        }
    }
    // Everything that is still owed, in the pieces that waste most.
    for mut left in debts {
        while left > 0 {
            number += 1;
            let piece = left.min(2_050);
            let value = vec![3; piece.saturating_sub(8)];
            let batch = owed(piece as u64, vec![put(Table::Answers, number.to_be_bytes(), value)]);
            one(&mut journal, batch.clone()).expect("what was reserved can be written");
            apply(&mut expected, &batch);
            left -= piece;
        }
    }
    assert!(contents(&mut journal) == expected, "nothing is lost and nothing refused is kept");
    disk.set_capacity(None);
    one(&mut journal, new(1 << 20, vec![put(Table::Inbox, "later", "x")])).expect("there is room again");
    (accepted, refused)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_was_reserved_can_be_written_on_a_full_disk(
        room in 3_000_000_u64..20_000_000,
        steps in prop::collection::vec(step(), 50..400),
    ) {
        pay_on_a_full_disk(room, steps);
    }
}

#[test]
fn a_large_debt_can_be_paid_in_the_pieces_that_waste_most() {
    // The smaller one is within what the log holds, the larger is far beyond it.
    [8_000_000, 24_000_000].into_iter().for_each(pay_in_wasteful_pieces);
}

fn pay_in_wasteful_pieces(debt: u64) {
    const PIECE: u64 = 2_050;
    let disk = FaultDisk::new();
    let (mut journal, _) = SqliteJournal::open_on(&disk, false).unwrap();
    // So much that the reserve gets what it needs and nothing ahead.
    disk.set_capacity(Some(disk.used() + debt / 4 * 9 + (2 << 20)));
    one(&mut journal, new(debt, vec![])).unwrap();
    // New work goes on as long as it gets room, which leaves a long log that is not written back.
    disk.set_capacity(Some(disk.used() + (8 << 20)));
    let mut number = 0_u64;
    while one(&mut journal, new(0, vec![put(Table::Inbox, number.to_be_bytes(), vec![1; 100_000])])).is_ok() {
        number += 1;
        assert!(number < 1_000, "the disk gets full");
    }
    disk.set_capacity(Some(disk.used()));
    for paid in 0..debt / PIECE {
        let value = vec![2; PIECE as usize - 8];
        let batch = owed(PIECE, vec![put(Table::Answers, paid.to_be_bytes(), value)]);
        one(&mut journal, batch)
            .unwrap_or_else(|error| panic!("after {paid} pieces of {debt} bytes: {error}"));
    }
}

#[test]
fn work_that_comes_and_goes_seldom_moves_the_reserve() {
    let disk = FaultDisk::new();
    let (mut journal, _) = SqliteJournal::open_on(&disk, false).unwrap();
    let mut outstanding = 0_u64;
    for round in 0_u64..2_000 {
        if outstanding == 0 || (outstanding < 60 && (round / 60).is_multiple_of(2)) {
            one(&mut journal, new(1 << 20, vec![])).unwrap();
            outstanding += 1;
        } else {
            one(&mut journal, owed(1 << 20, vec![])).unwrap();
            outstanding -= 1;
        }
        assert_eq!(journal.reserved(), outstanding << 20);
        assert!(journal.reserve.held() >= outstanding << 20);
    }
    assert!(disk.reserve_moves() < 250, "moved {} times", disk.reserve_moves());
}

// ---- against a model ----

#[derive(Clone, Debug)]
enum Act {
    Commit(Vec<Vec<(u8, u8, Option<u16>)>>),
    Reopen,
}

fn act() -> impl Strategy<Value = Act> {
    let op = (0_u8..3, any::<u8>(), prop::option::of(0_u16..5_000));
    let batches = prop::collection::vec(prop::collection::vec(op, 0..6), 0..5);
    prop_oneof![8 => batches.prop_map(Act::Commit), 1 => Just(Act::Reopen)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn it_is_a_sorted_map_that_survives(acts in prop::collection::vec(act(), 1..60)) {
        let mut bench = OnFiles::new();
        let mut journal = bench.open();
        let mut expected = Contents::new();
        for (number, act) in acts.into_iter().enumerate() {
            match act {
                Act::Commit(batches) => {
                    let batches: Vec<Batch> = batches.into_iter().map(|ops| Batch {
                        class: if number % 2 == 0 { Class::New { reserve: 10 } } else { Class::Owed { release: 10 } },
                        ops: ops.into_iter().map(|(table, key, len)| {
                            let table = Table::ALL[table as usize];
                            match len {
                                Some(len) => put(table, [key], vec![number as u8; len.into()]),
                                None => delete(table, [key]),
                            }
                        }).collect(),
                    }).collect();
                    batches.iter().for_each(|batch| apply(&mut expected, batch));
                    for result in journal.commit(&batches) {
                        result.unwrap();
                    }
                }
                Act::Reopen => {
                    drop(journal);
                    journal = bench.open();
                    prop_assert!(contents(&mut *journal) == expected);
                }
            }
        }
        prop_assert!(contents(&mut *journal) == expected);
    }
}

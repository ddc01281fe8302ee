//! What the embedded Store does to its database: one call of the Store is one method here, inside a
//! transaction that [`crate::embedded_store`] begins and ends.
//!
//! One sequence of numbers serves revisions, positions and fences. It never goes back, because its ceiling
//! is on disk ahead of it. A deleted key leaves a tombstone for those who watch; the oldest go when there
//! are many, and whoever would have needed them is told to list again.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use mainstay_core::time::Timestamp;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, params};
use tokio::sync::mpsc;

use crate::reserve::{FileReserve, Reserve, says_full};
use crate::sqlite_file::{Conditions, FileError, Format, SqliteFile, rollback};
use crate::store::{
    Change, Entry, Expect, Fence, Key, Lease, Listing, LogName, Position, Prefix, Revision, StoreError, Ttl,
    Watch,
};

/// The format this version writes and the newest it understands.
pub const STORE_FORMAT: u32 = 1;

const FORMAT: Format = Format {
    noun: "store",
    application_id: 0x4d53_5354,
    version: STORE_FORMAT,
    schema: "
        CREATE TABLE IF NOT EXISTS entries (key TEXT NOT NULL UNIQUE, revision INTEGER NOT NULL,
            deleted INTEGER NOT NULL, sum INTEGER NOT NULL, value BLOB NOT NULL);
        CREATE INDEX IF NOT EXISTS entries_by_revision ON entries (revision);
        CREATE INDEX IF NOT EXISTS tombstones ON entries (revision) WHERE deleted = 1;
        CREATE TABLE IF NOT EXISTS records (position INTEGER PRIMARY KEY, log TEXT NOT NULL,
            sum INTEGER NOT NULL, value BLOB NOT NULL);
        CREATE INDEX IF NOT EXISTS records_by_log ON records (log);
        CREATE TABLE IF NOT EXISTS leases (name TEXT NOT NULL UNIQUE, fence INTEGER NOT NULL,
            expires_at INTEGER NOT NULL);
        CREATE TABLE IF NOT EXISTS numbers (name TEXT NOT NULL UNIQUE, number INTEGER NOT NULL);
        CREATE TABLE IF NOT EXISTS damaged (source TEXT NOT NULL, name TEXT, number INTEGER, sum INTEGER,
            value BLOB);
    ",
};

/// The ceiling of the sequence is raised in steps of this many, so that it costs a write only now and then.
const CEILING_STEP: u64 = 10_000;

/// How far a restored copy starts above the store it was taken from: more than that can have counted on.
const RESTORED_STRIDE: u64 = 1 << 40;

/// Tombstones kept. A watch that was away for longer than this many deletions lists again.
const TOMBSTONES: u64 = 10_000;

/// Changes a watch may be behind before it is told to list again.
const WATCH_BUFFER: usize = 1_024;

/// Most changes that a new watch is given at once; beyond it a listing costs less.
const CATCH_UP: usize = 10_000;

/// Disk space held back so that a full disk can still be told to forget: pages of the log that deleting
/// and trimming take before they free anything.
const RESERVE: u64 = 4 << 20;

/// Most bytes that one read returns, but always one record.
const READ_BYTES: usize = 4 << 20;

/// The time, in fleet time, which never goes back.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What was found damaged when the store was opened. It was set aside, not deleted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StoreDamage {
    /// Keys whose values were damaged.
    pub keys: Vec<String>,
    /// Logs and positions of damaged records.
    pub records: Vec<(String, u64)>,
    /// What the storage engine itself reported.
    pub notes: Vec<String>,
}

/// What a call gives: an error of the outer kind ends the transaction, one of the inner only the call.
pub(crate) type Outcome<T> = Result<Result<T, StoreError>, FileError>;

pub(crate) struct Tables {
    file: SqliteFile,
    reserve: Box<dyn Reserve>,
    clock: Clock,
    numbers: Numbers,
    /// As it was when the transaction began.
    before: Numbers,
    /// Changes of this transaction, told to those who watch once it is committed.
    changes: Vec<Change>,
    /// Watches that were asked for in this transaction.
    joining: Vec<Watcher>,
    watchers: Vec<Watcher>,
}

#[derive(Clone, Copy)]
struct Numbers {
    /// The last number given.
    sequence: u64,
    /// No number above it may be given before a higher one is on disk.
    ceiling: u64,
    /// Changes before this one are not all known.
    floor: u64,
    tombstones: u64,
}

struct Watcher {
    prefix: Prefix,
    /// It has what happened until here.
    after: u64,
    changes: mpsc::Sender<Change>,
}

impl Tables {
    pub(crate) fn open(
        path: &Path,
        clock: Clock,
        conditions: &Conditions,
    ) -> Result<(Self, StoreDamage), FileError> {
        let (mut file, mut damage, notes) = SqliteFile::open(path, &FORMAT, conditions, check)?;
        damage.notes = notes;
        match file.checkpoint() {
            Ok(()) | Err(FileError::Full) => {}
            Err(error) => return Err(error),
        }
        let mut reserve: Box<dyn Reserve> = match &conditions.simulated {
            Some(files) => (files.reserve)(),
            None => {
                let reserve_path = path.with_extension("reserve");
                let reserve = FileReserve::open(&reserve_path);
                Box::new(reserve.map_err(|error| FileError::from_io(&reserve_path, &error))?)
            }
        };
        hold(&mut *reserve)?;
        let conn = file.conn();
        let number = |name: &str| -> Result<u64, FileError> {
            let number = conn
                .query_row("SELECT number FROM numbers WHERE name = ?1", [name], |row| row.get::<_, i64>(0))
                .optional()?;
            Ok(number.unwrap_or(0).unsigned_abs())
        };
        let tombstones: i64 =
            conn.query_row("SELECT count(*) FROM entries WHERE deleted = 1", [], |row| row.get(0))?;
        let ceiling = number("ceiling")?;
        let numbers = Numbers {
            // Whatever was given below the ceiling may have been given.
            sequence: ceiling,
            ceiling,
            floor: number("floor")?,
            tombstones: tombstones.unsigned_abs(),
        };
        let tables = Self {
            file,
            reserve,
            clock,
            numbers,
            before: numbers,
            changes: Vec::new(),
            joining: Vec::new(),
            watchers: Vec::new(),
        };
        Ok((tables, damage))
    }

    // ---- transactions ----

    pub(crate) fn begin(&mut self) -> Result<(), FileError> {
        self.before = self.numbers;
        self.conn().prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        Ok(())
    }

    pub(crate) fn commit(&mut self) -> Result<(), FileError> {
        self.conn().prepare_cached("COMMIT")?.execute([])?;
        self.settle();
        Ok(())
    }

    pub(crate) fn undo(&mut self) -> Result<(), FileError> {
        rollback(self.conn())?;
        self.numbers = self.before;
        self.changes.clear();
        self.joining.clear();
        Ok(())
    }

    /// Tells watches what was committed, and takes in new ones.
    pub(crate) fn settle(&mut self) {
        self.watchers.append(&mut self.joining);
        let changes = std::mem::take(&mut self.changes);
        self.watchers.retain(|watcher| {
            let due = changes.iter().filter(|change| {
                change.revision().0 > watcher.after && watcher.prefix.contains(change.key())
            });
            // One that is gone or too slow is dropped, which tells it.
            due.map(|change| watcher.changes.try_send(change.clone())).all(|sent| sent.is_ok())
                && !watcher.changes.is_closed()
        });
    }

    /// Writes the log back when it has grown long, and takes the reserve back. A full disk leaves both.
    pub(crate) fn tidy(&mut self) -> Result<(), FileError> {
        if self.file.checkpoint_is_due() {
            match self.file.checkpoint() {
                Ok(()) | Err(FileError::Full) => {}
                Err(error) => return Err(error),
            }
        }
        hold(&mut *self.reserve)
    }

    /// Makes room for what forgets, on a full disk.
    pub(crate) fn give_back(&mut self) -> Result<(), FileError> {
        match self.file.checkpoint() {
            Ok(()) | Err(FileError::Full) => {}
            Err(error) => return Err(error),
        }
        self.reserve.hold(0).map_err(|error| FileError::Failed(format!("the reserve: {error}")))
    }

    pub(crate) fn distrust(&mut self) {
        self.file.distrust();
    }

    fn conn(&self) -> &Connection {
        self.file.conn()
    }

    fn next_number(&mut self) -> Result<u64, FileError> {
        if self.numbers.sequence >= self.numbers.ceiling {
            let ceiling = self.numbers.ceiling + CEILING_STEP;
            set_number(self.conn(), "ceiling", ceiling)?;
            self.numbers.ceiling = ceiling;
        }
        self.numbers.sequence += 1;
        Ok(self.numbers.sequence)
    }

    // ---- keys ----

    pub(crate) fn get(&self, key: &Key) -> Outcome<Option<Entry>> {
        let mut select = self.conn().prepare_cached(
            "SELECT key, revision, deleted, sum, value FROM entries WHERE key = ?1 AND deleted = 0",
        )?;
        let mut rows = select.query([key.as_str()])?;
        let row = match rows.next()? {
            Some(row) => Some(entry(row)?),
            None => None,
        };
        Ok(Ok(row.map(|(entry, _)| entry)))
    }

    fn is_as_expected(&self, key: &Key, expect: Expect) -> Result<bool, FileError> {
        if expect == Expect::Any {
            return Ok(true);
        }
        let revision = self
            .conn()
            .prepare_cached("SELECT revision FROM entries WHERE key = ?1 AND deleted = 0")?
            .query_row([key.as_str()], |row| row.get::<_, i64>(0))
            .optional()?;
        Ok(match (expect, revision) {
            (Expect::Revision(expected), Some(found)) => expected.0 == found.unsigned_abs(),
            (Expect::Absent, None) => true,
            _ => false,
        })
    }

    pub(crate) fn put(&mut self, key: &Key, value: &Bytes, expect: Expect) -> Outcome<Revision> {
        if !self.is_as_expected(key, expect)? {
            return Ok(Err(StoreError::Conflict));
        }
        let revision = self.next_number()?;
        self.write_entry(key, revision, false, value)?;
        let revision = Revision(revision);
        self.changes.push(Change::Put(Entry { key: key.clone(), value: value.clone(), revision }));
        Ok(Ok(revision))
    }

    pub(crate) fn delete(&mut self, key: &Key, expect: Expect) -> Outcome<()> {
        if !self.is_as_expected(key, expect)? {
            return Ok(Err(StoreError::Conflict));
        }
        if self.is_as_expected(key, Expect::Absent)? {
            return Ok(Ok(()));
        }
        let revision = self.next_number()?;
        self.write_entry(key, revision, true, &[])?;
        self.numbers.tombstones += 1;
        self.forget_tombstones()?;
        self.changes.push(Change::Deleted { key: key.clone(), revision: Revision(revision) });
        Ok(Ok(()))
    }

    fn write_entry(
        &mut self,
        key: &Key,
        revision: u64,
        deleted: bool,
        value: &[u8],
    ) -> Result<(), FileError> {
        if !deleted {
            let revived = self
                .conn()
                .prepare_cached("SELECT 1 FROM entries WHERE key = ?1 AND deleted = 1")?
                .exists([key.as_str()])?;
            self.numbers.tombstones -= u64::from(revived);
        }
        let sum = entry_sum(key.as_str(), revision, deleted, value);
        self.conn()
            .prepare_cached(
                "INSERT INTO entries (key, revision, deleted, sum, value) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (key) DO UPDATE SET revision = excluded.revision, deleted = excluded.deleted,
                     sum = excluded.sum, value = excluded.value",
            )?
            .execute(params![key.as_str(), revision.cast_signed(), deleted, sum, value])?;
        Ok(())
    }

    /// Once there are twice as many tombstones as are kept, the older half goes.
    fn forget_tombstones(&mut self) -> Result<(), FileError> {
        if self.numbers.tombstones < 2 * TOMBSTONES {
            return Ok(());
        }
        let conn = self.conn();
        let floor: i64 = conn.query_row(
            "SELECT max(revision) FROM (SELECT revision FROM entries WHERE deleted = 1 ORDER BY revision LIMIT ?1)",
            [TOMBSTONES.cast_signed()],
            |row| row.get(0),
        )?;
        let gone = conn.execute("DELETE FROM entries WHERE deleted = 1 AND revision <= ?1", [floor])?;
        let floor = floor.unsigned_abs();
        set_number(conn, "floor", floor)?;
        self.numbers.floor = floor;
        self.numbers.tombstones -= gone as u64;
        Ok(())
    }

    pub(crate) fn list(&self, prefix: &Prefix) -> Outcome<Listing> {
        let (from, to) = prefix.bounds();
        let mut select = self.conn().prepare_cached(
            "SELECT key, revision, deleted, sum, value FROM entries
             WHERE key >= ?1 AND key < ?2 AND deleted = 0 ORDER BY key",
        )?;
        let mut rows = select.query([from, to])?;
        let mut entries = Vec::new();
        while let Some(row) = rows.next()? {
            entries.push(entry(row)?.0);
        }
        Ok(Ok(Listing { entries, revision: Revision(self.numbers.sequence) }))
    }

    pub(crate) fn watch(&mut self, prefix: &Prefix, from: Revision) -> Outcome<Watch> {
        // One from the future is from a store that was since replaced by an older copy.
        if from.0 < self.numbers.floor || from.0 > self.numbers.sequence {
            return Ok(Err(StoreError::TooOld));
        }
        let (low, high) = prefix.bounds();
        let mut missed = Vec::new();
        {
            let mut select = self.conn().prepare_cached(
                "SELECT key, revision, deleted, sum, value FROM entries
                 WHERE revision > ?1 AND key >= ?2 AND key < ?3 ORDER BY revision",
            )?;
            let mut rows = select.query(params![from.0.cast_signed(), low, high])?;
            while let Some(row) = rows.next()? {
                if missed.len() == CATCH_UP {
                    return Ok(Err(StoreError::TooOld));
                }
                missed.push(match entry(row)? {
                    (entry, false) => Change::Put(entry),
                    (Entry { key, revision, .. }, true) => Change::Deleted { key, revision },
                });
            }
        }
        let (changes, watch) = mpsc::channel(missed.len() + WATCH_BUFFER);
        for change in missed {
            // There is room for all of them.
            let _ = changes.try_send(change);
        }
        let after = self.numbers.sequence;
        self.joining.push(Watcher { prefix: prefix.clone(), after, changes });
        Ok(Ok(Watch::new(watch)))
    }

    // ---- logs ----

    pub(crate) fn append(&mut self, log: &LogName, records: &[Bytes]) -> Outcome<Vec<Position>> {
        let mut positions = Vec::with_capacity(records.len());
        for record in records {
            let position = self.next_number()?;
            let sum = record_sum(log.as_str(), position, record);
            self.conn()
                .prepare_cached("INSERT INTO records (position, log, sum, value) VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![position.cast_signed(), log.as_str(), sum, record.as_ref()])?;
            positions.push(Position::from_number(position));
        }
        Ok(Ok(positions))
    }

    pub(crate) fn read(
        &self,
        log: &LogName,
        from: Position,
        limit: usize,
    ) -> Outcome<Vec<(Position, Bytes)>> {
        let mut select = self.conn().prepare_cached(
            "SELECT position, sum, value FROM records WHERE log = ?1 AND position >= ?2
             ORDER BY position LIMIT ?3",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut rows = select.query(params![log.as_str(), from.number().cast_signed(), limit])?;
        let mut records = Vec::new();
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            let position = row.get::<_, i64>(0)?.unsigned_abs();
            let value = blob(row, 2)?;
            if row.get_ref(1)? != ValueRef::Integer(record_sum(log.as_str(), position, value).into()) {
                return Err(FileError::Corrupt(format!("record {position} of log {log}")));
            }
            if bytes + value.len() > READ_BYTES && !records.is_empty() {
                break;
            }
            bytes += value.len();
            records.push((Position::from_number(position), Bytes::copy_from_slice(value)));
        }
        Ok(Ok(records))
    }

    pub(crate) fn trim(&mut self, log: &LogName, before: Position) -> Outcome<()> {
        self.conn()
            .prepare_cached("DELETE FROM records WHERE log = ?1 AND position < ?2")?
            .execute(params![log.as_str(), before.number().cast_signed()])?;
        Ok(Ok(()))
    }

    // ---- leases ----

    /// The fence and the end of a lease, held or not.
    fn lease_row(&self, name: &Key) -> Result<Option<(u64, Timestamp)>, FileError> {
        let row = self
            .conn()
            .prepare_cached("SELECT fence, expires_at FROM leases WHERE name = ?1")?
            .query_row([name.as_str()], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)))
            .optional()?;
        Ok(row.map(|(fence, expires)| (fence.unsigned_abs(), Timestamp::from_millis(expires))))
    }

    pub(crate) fn lease(&mut self, name: &Key, ttl: Ttl) -> Outcome<Option<Lease>> {
        let now = (self.clock)();
        if self.lease_row(name)?.is_some_and(|(_, expires)| expires > now) {
            return Ok(Ok(None));
        }
        let fence = self.next_number()?;
        self.write_lease(name, fence, now, ttl)?;
        Ok(Ok(Some(Lease { name: name.clone(), fence: Fence::from_number(fence) })))
    }

    pub(crate) fn renew(&mut self, lease: &Lease, ttl: Ttl) -> Outcome<()> {
        let now = (self.clock)();
        let fence = lease.fence.number();
        match self.lease_row(&lease.name)? {
            Some((held, expires)) if held == fence && expires > now => {
                self.write_lease(&lease.name, fence, now, ttl)?;
                Ok(Ok(()))
            }
            _ => Ok(Err(StoreError::Conflict)),
        }
    }

    pub(crate) fn release(&mut self, lease: &Lease) -> Outcome<()> {
        self.conn()
            .prepare_cached("DELETE FROM leases WHERE name = ?1 AND fence = ?2")?
            .execute(params![lease.name.as_str(), lease.fence.number().cast_signed()])?;
        Ok(Ok(()))
    }

    fn write_lease(&self, name: &Key, fence: u64, now: Timestamp, ttl: Ttl) -> Result<(), FileError> {
        let expires = now + ttl.as_duration();
        self.conn()
            .prepare_cached(
                "INSERT INTO leases (name, fence, expires_at) VALUES (?1, ?2, ?3)
                 ON CONFLICT (name) DO UPDATE SET fence = excluded.fence, expires_at = excluded.expires_at",
            )?
            .execute(params![name.as_str(), fence.cast_signed(), expires.as_millis()])?;
        Ok(())
    }

    // ---- copies ----

    /// Writes a copy of everything committed to a file that must not exist. When the copy is opened its
    /// numbers go on far above ours, so that none that we give from now on is given twice.
    pub(crate) fn copy_to(&self, path: &Path) -> Outcome<()> {
        let unavailable =
            |why: &dyn std::fmt::Display| StoreError::Unavailable(format!("{}: {why}", path.display()));
        let Some(text) = path.to_str() else {
            return Ok(Err(unavailable(&"the path is not UTF-8")));
        };
        // SQLite would take an empty file that exists; this one is made here, and for the owner alone.
        if let Err(error) = crate::sqlite_file::create_new_private(path) {
            return Ok(Err(unavailable(&error)));
        }
        let copied = self.conn().execute("VACUUM INTO ?1", [text]).and_then(|_| {
            let copy = Connection::open(path)?;
            let above = (self.numbers.ceiling + RESTORED_STRIDE).cast_signed();
            copy.execute_batch("PRAGMA synchronous=FULL; BEGIN")?;
            for name in ["ceiling", "floor"] {
                copy.execute(
                    "INSERT OR REPLACE INTO numbers (name, number) VALUES (?1, ?2)",
                    params![name, above],
                )?;
            }
            copy.execute("DELETE FROM leases", [])?;
            copy.execute_batch("COMMIT")?;
            copy.close().map_err(|(_, error)| error)
        });
        let synced = match copied {
            Ok(()) => crate::sqlite_file::sync_with_directory(path).map_err(|error| unavailable(&error)),
            Err(error) => Err(match FileError::from(error) {
                FileError::Full => StoreError::Full,
                FileError::Failed(why) | FileError::Corrupt(why) => unavailable(&why),
                FileError::Newer { found, understood } => StoreError::Newer { found, understood },
            }),
        };
        if synced.is_err() {
            // Half a copy is worse than none. If it cannot be removed either, the error above says enough.
            let _ = std::fs::remove_file(path);
        }
        Ok(synced)
    }
}

/// Holds the reserve, if there is room for it.
fn hold(reserve: &mut dyn Reserve) -> Result<(), FileError> {
    if reserve.held() == RESERVE {
        return Ok(());
    }
    match reserve.hold(RESERVE) {
        Err(error) if !says_full(&error) => Err(FileError::Failed(format!("the reserve: {error}"))),
        _ => Ok(()),
    }
}

fn set_number(conn: &Connection, name: &str, number: u64) -> Result<(), FileError> {
    conn.execute(
        "INSERT INTO numbers (name, number) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET number = excluded.number",
        params![name, number.cast_signed()],
    )?;
    Ok(())
}

fn blob<'a>(row: &'a Row<'_>, at: usize) -> Result<&'a [u8], FileError> {
    match row.get_ref(at)? {
        ValueRef::Blob(bytes) => Ok(bytes),
        other => Err(FileError::Corrupt(format!("a value is of type {}", other.data_type()))),
    }
}

/// An entry and whether it is a tombstone, from a row of key, revision, deleted, sum and value.
fn entry(row: &Row<'_>) -> Result<(Entry, bool), FileError> {
    let text: String = row.get(0)?;
    let revision = row.get::<_, i64>(1)?.unsigned_abs();
    let deleted: bool = row.get(2)?;
    let value = blob(row, 4)?;
    let fits = row.get_ref(3)? == ValueRef::Integer(entry_sum(&text, revision, deleted, value).into());
    match Key::new(&text) {
        Ok(key) if fits => {
            let value = Bytes::copy_from_slice(value);
            Ok((Entry { key, value, revision: Revision(revision) }, deleted))
        }
        _ => Err(FileError::Corrupt(format!("the value of key {text:?}"))),
    }
}

fn entry_sum(key: &str, revision: u64, deleted: bool, value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[u8::from(deleted)]);
    hasher.update(&revision.to_le_bytes());
    hasher.update(key.as_bytes());
    // No key has it: it keeps key and value apart.
    hasher.update(&[0]);
    hasher.update(value);
    hasher.finalize()
}

fn record_sum(log: &str, position: u64, value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&position.to_le_bytes());
    hasher.update(log.as_bytes());
    hasher.update(&[0]);
    hasher.update(value);
    hasher.finalize()
}

/// Reads everything once and sets aside what is damaged.
fn check(conn: &Connection) -> Result<StoreDamage, FileError> {
    let mut damage = StoreDamage::default();
    let mut rows_of_entries = Vec::new();
    let mut rows_of_records = Vec::new();
    {
        let mut select = conn.prepare("SELECT key, revision, deleted, sum, value, rowid FROM entries")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            if entry(row).is_err() {
                rows_of_entries.push(row.get::<_, i64>(5)?);
                damage.keys.push(shown(row.get_ref(0)?));
            }
        }
        let mut select = conn.prepare("SELECT position, log, sum, value FROM records")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let position = row.get::<_, i64>(0)?;
            let log = row.get_ref(1)?;
            let fits = log.as_str().is_ok_and(|log| {
                blob(row, 3).is_ok_and(|value| {
                    row.get_ref(2).is_ok_and(|sum| {
                        sum == ValueRef::Integer(record_sum(log, position.unsigned_abs(), value).into())
                    })
                })
            });
            if !fits {
                rows_of_records.push(position);
                damage.records.push((shown(log), position.unsigned_abs()));
            }
        }
    }
    if rows_of_entries.is_empty() && rows_of_records.is_empty() {
        return Ok(damage);
    }
    let aside = || -> rusqlite::Result<()> {
        conn.execute_batch("BEGIN IMMEDIATE")?;
        for row in rows_of_entries {
            conn.execute(
                "INSERT INTO damaged SELECT 'entries', key, revision, sum, value FROM entries WHERE rowid = ?1",
                [row],
            )?;
            conn.execute("DELETE FROM entries WHERE rowid = ?1", [row])?;
        }
        for row in rows_of_records {
            conn.execute(
                "INSERT INTO damaged SELECT 'records', log, position, sum, value FROM records WHERE position = ?1",
                [row],
            )?;
            conn.execute("DELETE FROM records WHERE position = ?1", [row])?;
        }
        conn.execute_batch("COMMIT")
    };
    if let Err(error) = aside() {
        rollback(conn)?;
        return Err(error.into());
    }
    Ok(damage)
}

/// A damaged name, as far as it can be shown.
fn shown(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => format!("{other:?}"),
    }
}

//! The Journal on SQLite: one table of records for each [`Table`], one transaction and one sync for all
//! that is committed together, and a reserve of disk space for work that was accepted.
//!
//! Records carry a checksum of their own, because SQLite notices damage to its structure and not to what
//! is in it. What a record means is not known here; which batches are committed together is decided by
//! [`crate::group_commit`].
//!
//! # Space
//!
//! New work is accepted only while the reserve really holds room for all that is reserved. Owed work on a
//! full disk takes from the reserve, by cutting its file. Room is needed in two places: in the log for the
//! commit, and in the database when the log is written back; both are treated alike. The log is written
//! back at a bounded length, so what stays taken is the growth of the database.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use mainstay_core::journal::{Batch, Class, Damage, Journal, JournalError, Op, Table};
use rusqlite::{Connection, params};

use crate::reserve::{FileReserve, Reserve, says_full};
use crate::sqlite_file::{Conditions, FileError, Format, SqliteFile, rollback};

/// The format this version writes and the newest it understands.
pub const JOURNAL_FORMAT: u32 = 1;

/// Not `WITHOUT ROWID`: in the tree of such a table a record beyond 1 KiB takes a page of its own, and what
/// is reserved would have to be four times what is written instead of twice.
macro_rules! records {
    ($name:literal) => {
        concat!(
            "CREATE TABLE IF NOT EXISTS ",
            $name,
            " (key BLOB NOT NULL UNIQUE, sum INTEGER NOT NULL, value BLOB NOT NULL);"
        )
    };
}

const FORMAT: Format = Format {
    noun: "journal",
    application_id: 0x4d53_4a4c,
    version: JOURNAL_FORMAT,
    schema: concat!(
        records!("records_1"),
        records!("records_2"),
        records!("records_3"),
        records!("records_4"),
        records!("records_5"),
        records!("records_6"),
        records!("records_7"),
        records!("records_8"),
        "CREATE TABLE IF NOT EXISTS damaged (record_table INTEGER NOT NULL, key BLOB NOT NULL, sum INTEGER NOT NULL,
           value BLOB NOT NULL);"
    ),
};

/// The reserve grows and shrinks in steps of this size, so that not every message costs a system call.
const RESERVE_STEP: u64 = 1 << 20;

/// How much more than twice what it should the reserve may hold before it is cut: work that comes and goes,
/// each with room for its whole output, must not move it every time.
const RESERVE_PLAY: u64 = 16 * RESERVE_STEP;

/// Held even when nothing is reserved: pages that an owed batch touches beyond its own bytes.
const RESERVE_SLACK: u64 = 1 << 20;

/// Given back at first when owed work finds the disk full; doubled until it fits. Small, because whoever
/// filled the disk takes what we do not use at once.
const GIVE_BACK_FIRST: u64 = 128 * 1024;

/// Bytes in a page: SQLite's default, which the file is made with.
const PAGE: u64 = 4_096;

/// Longest key and value. SQLite could take more; a frame on the wire cannot.
pub const MAX_KEY: usize = 1 << 10;
pub const MAX_VALUE: usize = 16 << 20;

pub struct SqliteJournal {
    file: SqliteFile,
    reserve: Box<dyn Reserve>,
    /// Sum of what accepted work may still write, in bytes of its records.
    reserved: u64,
    /// Pages of the database when the log was last written back, which its file holds. What it has grown by
    /// since is in the log and has yet to find room.
    base_pages: u64,
    pages: u64,
    /// The disk was full at the last attempt; new work waits until it is seen to have room again.
    pressed: bool,
    /// Why nothing is believed any more.
    failed: Option<String>,
}

impl std::fmt::Debug for SqliteJournal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteJournal")
            .field("reserved", &self.reserved)
            .field("pressed", &self.pressed)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl SqliteJournal {
    /// Opens the journal at `path`, or creates it. Beside it stand a lock file and the reserve, named like it
    /// but for their endings. Every record is read once to check it; those that fail are set aside in a
    /// table of their own and reported.
    ///
    /// # Errors
    /// [`JournalError::Newer`] if a newer version wrote it; the file is not touched then.
    /// [`JournalError::Failed`] if another process has it open, if it is no journal, or if it cannot be read.
    pub fn open(path: &Path) -> Result<(Self, Damage), JournalError> {
        let opened = SqliteFile::open(path, &FORMAT, &Conditions::default(), check).map_err(to_error)?;
        let reserve_path = reserve_path(path);
        let reserve = FileReserve::open(&reserve_path)
            .map_err(|error| to_error(FileError::from_io(&reserve_path, &error)))?;
        Self::start(opened, Box::new(reserve))
    }

    /// Opens it on a simulated disk; `skip_sync` plants the fault that tests must catch.
    ///
    /// # Errors
    /// As [`SqliteJournal::open`].
    #[cfg(any(test, feature = "testing"))]
    pub fn open_on(
        disk: &crate::fault_vfs::FaultDisk,
        skip_sync: bool,
    ) -> Result<(Self, Damage), JournalError> {
        let conditions = Conditions { simulated: Some(disk.files()), skip_sync };
        let opened =
            SqliteFile::open(Path::new("journal.db"), &FORMAT, &conditions, check).map_err(to_error)?;
        Self::start(opened, Box::new(disk.reserve()))
    }

    fn start(
        (file, mut damage, notes): (SqliteFile, Damage, Vec<String>),
        reserve: Box<dyn Reserve>,
    ) -> Result<(Self, Damage), JournalError> {
        damage.notes = notes;
        let mut journal =
            Self { file, reserve, reserved: 0, base_pages: 0, pages: 0, pressed: false, failed: None };
        journal.write_back_or_stay().map_err(to_error)?;
        Ok((journal, damage))
    }

    /// Sum of what accepted work may still write.
    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    /// What the reserve has to hold: room for what is reserved, and for the growth of the database by what
    /// is in the log. The engine writes whole pages: records of a bit more than half a page take one each,
    /// and the index its part. Hence nine quarters of the bytes.
    fn wanted(&self, unwritten: u64) -> u64 {
        let growth = self.pages.saturating_sub(self.base_pages) * PAGE;
        let bytes = self.reserved.saturating_add(unwritten);
        let bytes = (bytes / 4).saturating_mul(9).saturating_add(growth).saturating_add(RESERVE_SLACK);
        bytes.div_ceil(RESERVE_STEP).saturating_mul(RESERVE_STEP)
    }

    /// Lets the reserve hold what it should, with some play so that it does not move at every message.
    /// `unwritten` bytes are about to be written by new work.
    fn adjust_reserve(&mut self, unwritten: u64) -> Result<(), FileError> {
        let wanted = self.wanted(unwritten);
        let held = self.reserve.held();
        if held >= wanted && held <= wanted.saturating_mul(2).saturating_add(RESERVE_PLAY) {
            return Ok(());
        }
        // Some way ahead, if there is room for it.
        let ahead = wanted.saturating_add((wanted / 4).max(RESERVE_STEP));
        if self.reserve.hold(ahead).is_ok() {
            return Ok(());
        }
        self.reserve.hold(wanted).map_err(|error| {
            if says_full(&error) {
                FileError::Full
            } else {
                FileError::Failed(format!("the reserve: {error}"))
            }
        })
    }

    /// Takes up a reservation for new work if the reserve holds it.
    fn admit(&mut self, reserve: u64, unwritten: u64) -> Result<(), FileError> {
        let before = self.reserved;
        self.reserved = before.saturating_add(reserve);
        let result = self.adjust_reserve(unwritten);
        if result.is_err() {
            self.reserved = before;
        }
        result
    }

    /// Frees some of the reserve for owed work. False when nothing is left.
    fn give_back(&mut self, bytes: u64) -> Result<bool, FileError> {
        let held = self.reserve.held();
        if held == 0 {
            return Ok(false);
        }
        self.pressed = true;
        self.reserve
            .hold(held.saturating_sub(bytes))
            .map_err(|error| FileError::Failed(format!("the reserve: {error}")))?;
        Ok(true)
    }

    /// Looks whether a disk that was full has room again.
    fn relieve(&mut self) -> Result<(), FileError> {
        if self.pressed {
            self.checkpoint()?;
            self.adjust_reserve(0)?;
            self.pressed = false;
        }
        Ok(())
    }

    /// Writes batches in one transaction and syncs it.
    fn write<'a>(&mut self, batches: impl Iterator<Item = &'a Batch>) -> Result<(), FileError> {
        let conn = self.file.conn();
        let result = apply(conn, batches);
        if result.is_err() {
            rollback(conn)?;
        }
        result
    }

    /// Writes one batch by itself, an owed one with what the reserve can give.
    fn write_alone(&mut self, batch: &Batch) -> Result<(), FileError> {
        let owed = matches!(batch.class, Class::Owed { .. });
        let mut give = GIVE_BACK_FIRST;
        loop {
            match self.write(std::iter::once(batch)) {
                Err(FileError::Full) if owed => {}
                result => return result,
            }
            // A log that was written back leaves its room to this batch.
            self.write_back()?;
            match self.write(std::iter::once(batch)) {
                Err(FileError::Full) if self.give_back(give)? => give = give.saturating_mul(2),
                result => return result,
            }
        }
    }

    fn checkpoint(&mut self) -> Result<(), FileError> {
        self.file.checkpoint()?;
        self.pages = self.file.pages()?;
        self.base_pages = self.pages;
        Ok(())
    }

    /// Writes the log back if the disk has room for it.
    fn write_back_or_stay(&mut self) -> Result<(), FileError> {
        self.pages = self.file.pages()?;
        match self.checkpoint() {
            Err(FileError::Full) => {
                self.pressed = true;
                Ok(())
            }
            result => result,
        }
    }

    /// Writes the log back, with what the reserve can give.
    fn write_back(&mut self) -> Result<(), FileError> {
        let mut give = GIVE_BACK_FIRST;
        loop {
            match self.checkpoint() {
                Err(FileError::Full) => {
                    self.pressed = true;
                    if !self.give_back(give)? {
                        return Err(FileError::Full);
                    }
                    give = give.saturating_mul(2);
                }
                result => return result,
            }
        }
    }

    /// Writes what was admitted, and fills in the results of the rest.
    fn commit_admitted(
        &mut self,
        batches: &[Batch],
        results: &mut [Result<(), JournalError>],
    ) -> Result<(), FileError> {
        let admitted = || batches.iter().zip(results.iter()).filter(|(_, r)| r.is_ok()).map(|(b, _)| b);
        if admitted().next().is_none() {
            return Ok(());
        }
        match self.write(admitted()) {
            Ok(()) => {}
            Err(FileError::Full) => {
                self.pressed = true;
                // One by one: what fits is taken, and what is owed gets the reserve.
                for (batch, result) in batches.iter().zip(results.iter_mut()).filter(|(_, r)| r.is_ok()) {
                    match self.write_alone(batch) {
                        Ok(()) => {}
                        Err(FileError::Full) => {
                            *result = Err(JournalError::Full);
                            if let Class::New { reserve } = batch.class {
                                self.reserved = self.reserved.saturating_sub(reserve);
                            }
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
            Err(error) => return Err(error),
        }
        self.pages = self.file.pages()?;
        for (batch, result) in batches.iter().zip(results.iter()) {
            if let (Class::Owed { release }, Ok(())) = (batch.class, result) {
                self.reserved = self.reserved.saturating_sub(release);
            }
        }
        Ok(())
    }

    /// From here on nothing is believed until the journal is opened anew.
    fn fail(&mut self, error: FileError) -> JournalError {
        let error = to_error(error);
        let why = match &error {
            JournalError::Failed(why) => why.clone(),
            other => other.to_string(),
        };
        self.file.distrust();
        self.failed = Some(why);
        error
    }
}

impl Journal for SqliteJournal {
    fn commit(&mut self, batches: &[Batch]) -> Vec<Result<(), JournalError>> {
        let mut results = vec![Ok(()); batches.len()];
        if let Some(why) = &self.failed {
            results.fill(Err(JournalError::Failed(why.clone())));
            return results;
        }
        let mut relieved = None;
        let mut unwritten = 0_u64;
        for (batch, result) in batches.iter().zip(&mut results) {
            if let Err(error) = within_limits(batch) {
                *result = Err(error);
                continue;
            }
            let Class::New { reserve } = batch.class else {
                continue;
            };
            // Whether there is room again is asked once for all of them: it costs an attempt to write.
            let relieved = relieved.get_or_insert_with(|| self.relieve()).clone();
            let more = unwritten.saturating_add(size(batch));
            match relieved.and_then(|()| self.admit(reserve, more)) {
                Ok(()) => unwritten = more,
                Err(FileError::Full) => {
                    self.pressed = true;
                    *result = Err(JournalError::Full);
                }
                Err(error) => {
                    let error = self.fail(error);
                    results.fill(Err(error));
                    return results;
                }
            }
        }
        if let Err(error) = self.commit_admitted(batches, &mut results) {
            let error = self.fail(error);
            results.fill(Err(error));
            return results;
        }
        // What follows is about the next commit: these batches are durable whatever comes of it.
        let after = if self.file.checkpoint_is_due() { self.write_back() } else { Ok(()) };
        match after.and_then(|()| if self.pressed { Ok(()) } else { self.adjust_reserve(0) }) {
            Ok(()) => {}
            Err(FileError::Full) => self.pressed = true,
            Err(error) => {
                self.fail(error);
            }
        }
        results
    }

    fn restore_reservation(&mut self, bytes: u64) {
        self.reserved = bytes;
        if self.adjust_reserve(0).is_err() {
            self.pressed = true;
        }
    }

    fn read(&mut self, table: Table, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), JournalError> {
        if let Some(why) = &self.failed {
            return Err(JournalError::Failed(why.clone()));
        }
        let mut damaged = 0_usize;
        let result = visit(self.file.conn(), table, |key, value, sum| {
            if sum == checksum(table, key, value) {
                each(key, value);
            } else {
                damaged += 1;
            }
        });
        let result = match result {
            Ok(()) if damaged > 0 => Err(FileError::Corrupt(format!(
                "{damaged} records of {table:?} were damaged since the journal was opened"
            ))),
            other => other,
        };
        result.map_err(|error| self.fail(error))
    }
}

fn apply<'a>(conn: &Connection, batches: impl Iterator<Item = &'a Batch>) -> Result<(), FileError> {
    conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    for op in batches.flat_map(|batch| &batch.ops) {
        match op {
            Op::Put { table, key, value } => {
                let (key, value) = (key.as_ref(), value.as_ref());
                let sum = checksum(*table, key, value);
                conn.prepare_cached(sql(*table).put)?.execute(params![key, sum, value])?;
            }
            Op::Delete { table, key } => {
                conn.prepare_cached(sql(*table).delete)?.execute([key.as_ref()])?;
            }
        }
    }
    conn.prepare_cached("COMMIT")?.execute([])?;
    Ok(())
}

fn visit(conn: &Connection, table: Table, mut each: impl FnMut(&[u8], &[u8], u32)) -> Result<(), FileError> {
    let mut statement = conn.prepare_cached(sql(table).read)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        // A record of another type than was written is as damaged as one of other bytes.
        let bytes = |at| row.get_ref(at).map(|value| value.as_blob().unwrap_or_default());
        let sum = row.get_ref(1)?.as_i64().ok().and_then(|sum| u32::try_from(sum).ok());
        let (key, value) = (bytes(0)?, bytes(2)?);
        each(key, value, sum.unwrap_or_else(|| !checksum(table, key, value)));
    }
    Ok(())
}

/// Reads everything once: what does not fit its checksum is set aside.
fn check(conn: &Connection) -> Result<Damage, FileError> {
    let mut damage = Damage::default();
    for table in Table::ALL {
        visit(conn, table, |key, value, sum| {
            if sum != checksum(table, key, value) {
                damage.records.push((table, Bytes::copy_from_slice(key)));
            }
        })?;
    }
    if damage.records.is_empty() {
        return Ok(damage);
    }
    conn.execute_batch("BEGIN IMMEDIATE")?;
    let aside = set_aside(conn, &damage.records).and_then(|()| Ok(conn.execute_batch("COMMIT")?));
    if let Err(error) = aside {
        rollback(conn)?;
        return Err(error);
    }
    Ok(damage)
}

fn set_aside(conn: &Connection, records: &[(Table, Bytes)]) -> Result<(), FileError> {
    for (table, key) in records {
        let number = *table as u8;
        conn.execute(
            &format!(
                "INSERT INTO damaged (record_table, key, sum, value)
                 SELECT {number}, key, sum, value FROM records_{number} WHERE key = ?1"
            ),
            [key.as_ref()],
        )?;
        conn.execute(sql(*table).delete, [key.as_ref()])?;
    }
    Ok(())
}

/// Over the table, the key and the value, so that a record in another's place is found as well.
fn checksum(table: Table, key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[table as u8]);
    hasher.update(&(key.len() as u32).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}

fn size(batch: &Batch) -> u64 {
    let sizes = batch.ops.iter().map(|op| match op {
        Op::Put { key, value, .. } => key.len() + value.len(),
        Op::Delete { key, .. } => key.len(),
    });
    sizes.sum::<usize>() as u64
}

pub(crate) fn within_limits(batch: &Batch) -> Result<(), JournalError> {
    for op in &batch.ops {
        let (key, value) = match op {
            Op::Put { key, value, .. } => (key.len(), value.len()),
            Op::Delete { key, .. } => (key.len(), 0),
        };
        for (size, limit) in [(key, MAX_KEY), (value, MAX_VALUE)] {
            if size > limit {
                return Err(JournalError::TooLarge { size, limit });
            }
        }
    }
    Ok(())
}

struct Sql {
    put: &'static str,
    delete: &'static str,
    read: &'static str,
}

macro_rules! sql_of {
    ($name:literal) => {
        Sql {
            put: concat!(
                "INSERT INTO ",
                $name,
                " (key, sum, value) VALUES (?1, ?2, ?3)
                  ON CONFLICT (key) DO UPDATE SET sum = excluded.sum, value = excluded.value"
            ),
            delete: concat!("DELETE FROM ", $name, " WHERE key = ?1"),
            read: concat!("SELECT key, sum, value FROM ", $name, " ORDER BY key"),
        }
    };
}

const fn sql(table: Table) -> Sql {
    match table {
        Table::Meta => sql_of!("records_1"),
        Table::Outbox => sql_of!("records_2"),
        Table::Inbox => sql_of!("records_3"),
        Table::Answers => sql_of!("records_4"),
        Table::Relay => sql_of!("records_5"),
        Table::Replies => sql_of!("records_6"),
        Table::Trust => sql_of!("records_7"),
        Table::Names => sql_of!("records_8"),
    }
}

fn reserve_path(path: &Path) -> PathBuf {
    path.with_extension("reserve")
}

fn to_error(error: FileError) -> JournalError {
    match error {
        FileError::Full => JournalError::Full,
        FileError::Newer { found, understood } => JournalError::Newer { found, understood },
        FileError::Corrupt(why) => JournalError::Failed(format!("the file is damaged: {why}")),
        FileError::Failed(why) => JournalError::Failed(why),
    }
}

#[cfg(test)]
mod tests;

//! One SQLite database as the journal and the embedded store use it: how it is opened, how its format is
//! judged, how it is synced and checkpointed, and what its errors mean.
//!
//! The database is held exclusively by one process and one connection. `locking_mode=EXCLUSIVE` is set
//! before the first access, so the write-ahead log's index lives on the heap: there is no `-shm` file and no
//! shared memory. Checkpoints are made here and not by SQLite, which would swallow their errors.
//!
//! What the tables hold is not known here.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

use crate::reserve::{Reserve, says_full};
use crate::salvage;

/// Pages in the log after which it is written back into the database: 8 MiB of log. Fewer would spend
/// throughput on checkpoints, more would make each of them (a pause of all commits) longer.
pub(crate) const CHECKPOINT_PAGES: i32 = 2_000;

/// Bytes that the log's file keeps when it starts anew: twice what it has between checkpoints, so that only
/// what a single huge transaction took goes back.
const LOG_KEPT: &str = "16777216";

/// Nobody else may hold the database, so waiting is only for a predecessor that is just ending.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Prepared statements kept; more than any of our files has.
const STATEMENTS: usize = 64;

/// SQLite's header: the magic string, and where the two numbers stand that say whose file it is.
const HEADER: usize = 100;
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const USER_VERSION_AT: usize = 60;
const APPLICATION_ID_AT: usize = 68;

/// What went wrong, as far as the caller has to act on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FileError {
    /// No space. What was attempted left no trace, and the file is well.
    Full,
    Newer {
        found: u32,
        understood: u32,
    },
    /// The engine found the structure of the file broken.
    Corrupt(String),
    /// Anything else: what was attempted may or may not have happened.
    Failed(String),
}

impl FileError {
    pub(crate) fn from_io(path: &Path, error: &std::io::Error) -> Self {
        Self::Failed(format!("{}: {error}", path.display()))
    }
}

impl From<rusqlite::Error> for FileError {
    fn from(error: rusqlite::Error) -> Self {
        let code = error.sqlite_error().map(|e| (e.code, e.extended_code));
        match code {
            Some((ErrorCode::DiskFull, _)) => Self::Full,
            Some((ErrorCode::DatabaseCorrupt, _)) => Self::Corrupt(error.to_string()),
            Some((_, extended)) => Self::Failed(format!("{error} (SQLite code {extended})")),
            None => Self::Failed(error.to_string()),
        }
    }
}

/// Whose file it is and how its tables are made.
pub(crate) struct Format {
    /// What people call it in errors: "journal", "store".
    pub(crate) noun: &'static str,
    pub(crate) application_id: i32,
    /// Kept in `PRAGMA user_version`. Whoever raises it must write it before anything of the new format
    /// and checkpoint, so that the header of the file at rest always tells.
    pub(crate) version: u32,
    /// Run at every opening; creates what is missing.
    pub(crate) schema: &'static str,
}

/// How to open; nothing of it is set but in tests.
#[derive(Clone, Default)]
pub(crate) struct Conditions {
    /// Files that only SQLite finds.
    pub(crate) simulated: Option<SimulatedFiles>,
    /// Plants the fault that tests must catch: commits that do not sync.
    pub(crate) skip_sync: bool,
}

type RewriteLog = Arc<dyn Fn(&Path) -> std::io::Result<()> + Send + Sync>;

/// A registered VFS instead of the system's. There is no lock file then, and no look at the header.
#[derive(Clone)]
pub(crate) struct SimulatedFiles {
    pub(crate) vfs: String,
    /// As [`rewrite_log`].
    pub(crate) rewrite_log: RewriteLog,
    pub(crate) reserve: Arc<dyn Fn() -> Box<dyn Reserve> + Send + Sync>,
}

pub(crate) struct SqliteFile {
    /// `None` only while it is being closed.
    conn: Option<Connection>,
    /// Pages in the log after the last commit.
    log_pages: Arc<AtomicI32>,
    /// After a failed checkpoint, the length of the log at which the next attempt is due.
    checkpoint_due: i32,
    healthy: bool,
    path: PathBuf,
    /// Held as long as the database is open. Dropped last.
    lock: Option<File>,
}

impl SqliteFile {
    /// Opens the database, or creates it, and reads it with `check`. If its structure is broken, what can be
    /// read is saved into a new file and read again. Returns what `check` found, and what to tell people.
    pub(crate) fn open<D>(
        path: &Path,
        format: &Format,
        conditions: &Conditions,
        check: impl Fn(&Connection) -> Result<D, FileError>,
    ) -> Result<(Self, D, Vec<String>), FileError> {
        let lock = match conditions.simulated {
            None => {
                let lock = lock(path, format)?;
                judge_header(path, format)?;
                Some(lock)
            }
            Some(_) => None,
        };
        let mut file = Self::open_locked(path, format, conditions, lock)?;
        let sound = quick_check(file.conn()).and_then(|notes| {
            if notes.is_empty() { check(file.conn()) } else { Err(FileError::Corrupt(notes.join("; "))) }
        });
        let why = match sound {
            Ok(found) => return Ok((file, found, Vec::new())),
            Err(FileError::Corrupt(why)) if conditions.simulated.is_none() => why,
            Err(error) => return Err(error),
        };
        // Writing the log back copies whole pages and does not look at their structure.
        file.checkpoint()?;
        let lock = file.lock.take();
        drop(file);
        let mut notes = vec![why];
        notes.append(&mut salvage::rebuild(path, format)?);
        let file = Self::open_locked(path, format, conditions, lock)?;
        let found = check(file.conn())?;
        Ok((file, found, notes))
    }

    fn open_locked(
        path: &Path,
        format: &Format,
        conditions: &Conditions,
        lock: Option<File>,
    ) -> Result<Self, FileError> {
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let rewritten = match &conditions.simulated {
            None => rewrite_log(Path::new(&log)),
            Some(files) => (files.rewrite_log)(Path::new(&log)),
        };
        match rewritten {
            // Where writing in place takes new room, a full disk must not keep a node from its journal.
            Err(error) if !says_full(&error) => return Err(FileError::from_io(Path::new(&log), &error)),
            _ => {}
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_EXRESCODE;
        let conn = match &conditions.simulated {
            Some(files) => Connection::open_with_flags_and_vfs(path, flags, files.vfs.as_str()),
            None => {
                create_private(path)?;
                Connection::open_with_flags(path, flags)
            }
        }
        .map_err(|error| describe(path, format, error))?;
        let mut file = Self {
            conn: Some(conn),
            log_pages: Arc::new(AtomicI32::new(0)),
            checkpoint_due: CHECKPOINT_PAGES,
            // Until it is known to be ours, closing must not touch it.
            healthy: false,
            path: path.to_owned(),
            lock,
        };
        file.prepare(format, conditions)?;
        file.healthy = true;
        Ok(file)
    }

    pub(crate) fn conn(&self) -> &Connection {
        self.conn.as_ref().expect("the connection is there until drop")
    }

    fn prepare(&mut self, format: &Format, conditions: &Conditions) -> Result<(), FileError> {
        let path = self.path.clone();
        let conn = self.conn();
        let told = |error| describe(&path, format, error);
        // Whether the log may be written back when closing is decided in `drop`.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(told)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true).map_err(told)?;
        conn.busy_timeout(BUSY_TIMEOUT).map_err(told)?;
        conn.set_prepared_statement_cache_capacity(STATEMENTS);
        pragma(conn, "locking_mode", "EXCLUSIVE", "exclusive").map_err(told)?;
        let synchronous = if conditions.skip_sync { ("OFF", "0") } else { ("FULL", "2") };
        for (name, value, expected) in [
            ("trusted_schema", "OFF", "0"),
            ("cell_size_check", "ON", "1"),
            // Savepoints and sorts must not need a file in a full temporary directory.
            ("temp_store", "MEMORY", "2"),
            ("synchronous", synchronous.0, synchronous.1),
        ] {
            pragma(conn, name, value, expected).map_err(told)?;
        }
        // There is no answer where the VFS cannot map files, which is as good as zero.
        let mapped: Option<i64> = match conn.query_row("PRAGMA mmap_size=0", [], |row| row.get(0)) {
            Ok(size) => Some(size),
            Err(rusqlite::Error::QueryReturnedNoRows) => None,
            Err(error) => return Err(told(error)),
        };
        if mapped.unwrap_or(0) != 0 {
            return Err(FileError::Failed("SQLite insists on mapping files into memory".into()));
        }

        let number = |name: &str| conn.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i32>(0));
        let tables: i64 =
            conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(told)?;
        let application_id = number("application_id").map_err(told)?;
        let version = number("user_version").map_err(told)?;
        let fresh = tables == 0 && application_id == 0 && version == 0;
        if !fresh {
            judge(&path, format, application_id, version)?;
        }
        // A new file gets its tables and its number in one transaction of the rollback journal, before the
        // log exists: the header of the file itself tells from the first moment.
        let numbers = if fresh {
            format!(
                "PRAGMA application_id={}; PRAGMA user_version={};",
                format.application_id, format.version
            )
        } else {
            String::new()
        };
        if let Err(error) =
            conn.execute_batch(&format!("BEGIN IMMEDIATE; {} {numbers} COMMIT;", format.schema))
        {
            rollback(conn)?;
            return Err(told(error));
        }
        pragma(conn, "journal_mode", "WAL", "wal").map_err(told)?;
        pragma(conn, "wal_autocheckpoint", "0", "0").map_err(told)?;
        pragma(conn, "journal_size_limit", LOG_KEPT, LOG_KEPT).map_err(told)?;

        let log_pages = Arc::clone(&self.log_pages);
        self.conn
            .as_mut()
            .expect("the connection is there until drop")
            .wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages| {
                log_pages.store(pages, Ordering::Relaxed);
                Ok(())
            }))
            .map_err(told)
    }

    /// Whether the log is long enough to be written back.
    pub(crate) fn checkpoint_is_due(&self) -> bool {
        self.log_pages.load(Ordering::Relaxed) >= self.checkpoint_due
    }

    /// Writes the log back into the database and syncs it; the next commit starts the log anew. When the
    /// disk is full the log stays as it is, which loses nothing.
    pub(crate) fn checkpoint(&mut self) -> Result<(), FileError> {
        // A passive checkpoint is whole here, since nobody else reads.
        let (busy, in_log, written): (i64, i64, i64) =
            match self.conn().query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            }) {
                Ok(row) => row,
                Err(error) => {
                    let error = FileError::from(error);
                    if error == FileError::Full {
                        let pages = self.log_pages.load(Ordering::Relaxed);
                        self.checkpoint_due = pages.saturating_add(CHECKPOINT_PAGES / 4);
                    }
                    return Err(error);
                }
            };
        if busy != 0 || in_log != written {
            return Err(FileError::Failed(format!(
                "the log could not be written back: {written} of {in_log} pages, busy {busy}"
            )));
        }
        self.log_pages.store(0, Ordering::Relaxed);
        self.checkpoint_due = CHECKPOINT_PAGES;
        Ok(())
    }

    /// Pages of the database, those in the log included.
    pub(crate) fn pages(&self) -> Result<u64, FileError> {
        let pages: i64 = self.conn().prepare_cached("PRAGMA page_count")?.query_row([], |row| row.get(0))?;
        Ok(pages.unsigned_abs())
    }

    /// Nothing more will be written: what the engine has in memory is not to be trusted.
    pub(crate) fn distrust(&mut self) {
        self.healthy = false;
    }
}

impl Drop for SqliteFile {
    fn drop(&mut self) {
        let Some(conn) = self.conn.take() else { return };
        if self.healthy {
            // Closing writes the log back and removes it. If that fails the log stays, and the next
            // opening reads it.
            let _ = conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false);
        }
        if let Err((_, error)) = conn.close() {
            tracing::warn!(path = %self.path.display(), %error, "closing the database failed");
        }
    }
}

/// What SQLite finds broken in the structure of the file.
fn quick_check(conn: &Connection) -> Result<Vec<String>, FileError> {
    let mut check = conn.prepare("PRAGMA quick_check(20)")?;
    let mut rows = check.query([])?;
    let mut notes = Vec::new();
    while let Some(row) = rows.next()? {
        let note: String = row.get(0)?;
        if note != "ok" {
            notes.push(note);
        }
    }
    Ok(notes)
}

/// Rolls back whatever transaction is open. SQLite may have done it by itself.
pub(crate) fn rollback(conn: &Connection) -> Result<(), FileError> {
    if conn.is_autocommit() {
        return Ok(());
    }
    conn.execute_batch("ROLLBACK").map_err(FileError::from)
}

/// Sets a pragma and reads it back: SQLite ignores those it does not know or cannot grant.
fn pragma(conn: &Connection, name: &str, value: &str, expected: &str) -> rusqlite::Result<()> {
    // Some answer when they are set, some do not.
    conn.prepare(&format!("PRAGMA {name}={value}"))?.query([])?.next()?;
    let got = conn.query_row(&format!("PRAGMA {name}"), [], |row| {
        Ok(match row.get_ref(0)? {
            rusqlite::types::ValueRef::Integer(number) => number.to_string(),
            other => other.as_str()?.to_owned(),
        })
    })?;
    if got.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    Err(rusqlite::Error::SqliteFailure(
        ffi::Error::new(ffi::SQLITE_MISUSE),
        Some(format!("PRAGMA {name} is {got}, not {expected}")),
    ))
}

fn judge(path: &Path, format: &Format, application_id: i32, version: i32) -> Result<(), FileError> {
    if application_id != format.application_id {
        return Err(FileError::Failed(format!(
            "{} is not a {} but some other SQLite database",
            path.display(),
            format.noun
        )));
    }
    let found = version.cast_unsigned();
    if found > format.version {
        return Err(FileError::Newer { found, understood: format.version });
    }
    Ok(())
}

/// Reads the header without SQLite, which would create a log beside a file that we then refuse.
fn judge_header(path: &Path, format: &Format) -> Result<(), FileError> {
    // A rollback journal means that the creation was cut short: the header may be half of one.
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push("-journal");
    if Path::new(&unfinished).exists() {
        return Ok(());
    }
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(FileError::from_io(path, &error)),
    };
    let mut header = Vec::with_capacity(HEADER);
    Read::take(&mut file, HEADER as u64)
        .read_to_end(&mut header)
        .map_err(|error| FileError::from_io(path, &error))?;
    if header.is_empty() {
        return Ok(());
    }
    if header.len() < HEADER || !header.starts_with(MAGIC) {
        return Err(not_a_database(path, format));
    }
    let number = |at: usize| i32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    judge(path, format, number(APPLICATION_ID_AT), number(USER_VERSION_AT))
}

fn not_a_database(path: &Path, format: &Format) -> FileError {
    FileError::Failed(format!("{} is not a {}: it is no SQLite database", path.display(), format.noun))
}

fn describe(path: &Path, format: &Format, error: rusqlite::Error) -> FileError {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => not_a_database(path, format),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => in_use(path, format),
        _ => match FileError::from(error) {
            FileError::Failed(why) => FileError::Failed(format!("{}: {why}", path.display())),
            other => other,
        },
    }
}

fn in_use(path: &Path, format: &Format) -> FileError {
    FileError::Failed(format!("the {} {} is in use by another process", format.noun, path.display()))
}

/// A program that this process is just starting holds a copy of the lock until it is executed; so does what a
/// killed process had begun. Another process that really uses the file holds it for longer.
const LOCK_WITHIN: Duration = Duration::from_millis(500);
const LOCK_AGAIN: Duration = Duration::from_millis(10);

/// The lock that says "this database is open". A file of its own: opening and closing the database's file
/// beside SQLite would drop SQLite's own locks on it.
fn lock(path: &Path, format: &Format) -> Result<File, FileError> {
    let lock_path = path.with_extension("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&lock_path)
        .map_err(|error| FileError::from_io(&lock_path, &error))?;
    let until = Instant::now() + LOCK_WITHIN;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(LOCK_AGAIN),
            Err(TryLockError::WouldBlock) => return Err(in_use(path, format)),
            Err(TryLockError::Error(error)) => return Err(FileError::from_io(&lock_path, &error)),
        }
    }
}

/// Creates the file readable by its owner alone, if there is none; SQLite gives the log the same mode.
fn create_private(path: &Path) -> Result<(), FileError> {
    match create_new_private(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(FileError::from_io(path, &error))
        }
        _ => Ok(()),
    }
}

/// Creates a file readable by its owner alone, which must not exist.
pub(crate) fn create_new_private(path: &Path) -> std::io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map(drop)
}

/// Makes a file and its name durable.
pub(crate) fn sync_with_directory(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Writes the log's own bytes to it once more and syncs it.
///
/// After a failed sync Linux keeps what was written readable and forgets that it is not on the disk: the
/// next sync succeeds without writing it. SQLite would read such a log, believe it, copy it into the
/// database, and after a power loss find the older log again, under a newer database. Written anew, the
/// bytes are on the disk when the sync says so.
fn rewrite_log(log: &Path) -> std::io::Result<()> {
    let mut file = match OpenOptions::new().read(true).write(true).open(log) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut chunk = vec![0; 256 * 1024];
    let mut at = 0;
    loop {
        file.seek(SeekFrom::Start(at))?;
        let got = file.read(&mut chunk)?;
        if got == 0 {
            break;
        }
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&chunk[..got])?;
        at += got as u64;
    }
    if at > 0 {
        file.sync_all()?;
    }
    Ok(())
}

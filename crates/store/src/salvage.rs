//! Saves what can be read of a database whose structure is broken.
//!
//! Every table is read from its beginning up to the first broken page, and from its end back to the last
//! one; what lies between is lost. The rows go to a new file, which then takes the place of the broken one;
//! that one is kept beside it. Which rows are sound is for their owner's checksums to say.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, params_from_iter};

use crate::sqlite_file::{FileError, Format, create_new_private, sync_with_directory};

/// How many broken files are kept under names of their own. Whoever has more has a broken disk.
const KEPT: u32 = 100;

/// Rebuilds the database at `path`, which nobody has open and whose log was written back. Returns what to
/// tell people. A crash on the way leaves the broken file in its place.
pub(crate) fn rebuild(path: &Path, format: &Format) -> Result<Vec<String>, FileError> {
    let failed = |error: &std::io::Error| FileError::from_io(path, error);
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    if Path::new(&log).exists() {
        return Err(FileError::Corrupt("its log could not be written back".into()));
    }
    let rebuilt = with_ending(path, "rebuilt");
    // One that was not finished.
    match fs::remove_file(&rebuilt) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(&error)),
        _ => {}
    }
    create_new_private(&rebuilt).map_err(|error| failed(&error))?;
    let mut notes = copy(path, &rebuilt, format)?;
    sync_with_directory(&rebuilt).map_err(|error| failed(&error))?;

    let kept = (1..=KEPT)
        .map(|number| with_ending(path, &format!("damaged-{number}")))
        .find(|kept| !kept.exists())
        .ok_or_else(|| FileError::Corrupt(format!("{KEPT} damaged files stand beside it already")))?;
    fs::hard_link(path, &kept).map_err(|error| failed(&error))?;
    fs::rename(&rebuilt, path).map_err(|error| failed(&error))?;
    sync_with_directory(path).map_err(|error| failed(&error))?;
    notes.push(format!("the damaged file is kept as {}", kept.display()));
    Ok(notes)
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

fn copy(from: &Path, to: &Path, format: &Format) -> Result<Vec<String>, FileError> {
    // Not read-only: SQLite wants to make the log of such a file, though nothing is written to it.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let broken = Connection::open_with_flags(from, flags)?;
    broken.execute_batch(
        "PRAGMA locking_mode=EXCLUSIVE; PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON; PRAGMA mmap_size=0;
         PRAGMA query_only=ON;",
    )?;
    let whole = Connection::open(to)?;
    whole.execute_batch(&format!(
        "PRAGMA synchronous=FULL; BEGIN; {} PRAGMA application_id={}; PRAGMA user_version={};",
        format.schema, format.application_id, format.version
    ))?;
    let mut notes = Vec::new();
    for table in tables(&whole)? {
        let (forth, last, why) = copy_rows(&broken, &whole, &table, "rowid", i64::MIN)?;
        if let Some(why) = why {
            let (back, _, _) = copy_rows(&broken, &whole, &table, "rowid DESC", last)?;
            notes.push(format!("of table {table} only {} rows could be read: {why}", forth + back));
        }
    }
    whole.execute_batch("COMMIT")?;
    whole.close().map_err(|(_, error)| error)?;
    Ok(notes)
}

fn tables(conn: &Connection) -> Result<Vec<String>, FileError> {
    let mut select = conn.prepare(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
    )?;
    let names = select.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(names)
}

/// Copies the rows above a row number until they end or one cannot be read. Returns how many, the last row
/// number, and why it stopped.
///
/// # Errors
/// If the copy cannot be written.
fn copy_rows(
    from: &Connection,
    to: &Connection,
    table: &str,
    order: &str,
    above: i64,
) -> Result<(u64, i64, Option<String>), FileError> {
    let mut count = 0;
    let mut last = above;
    // Only what is broken is given up; any other error may be gone next time.
    let given_up = |count, last, error: rusqlite::Error| match FileError::from(error) {
        FileError::Corrupt(why) => Ok((count, last, Some(why))),
        other => Err(other),
    };
    let sql = format!("SELECT rowid, * FROM {table} NOT INDEXED WHERE rowid > ?1 ORDER BY {order}");
    let mut select = match from.prepare(&sql) {
        Ok(select) => select,
        Err(error) => return given_up(count, last, error),
    };
    let columns = select.column_count();
    // The first column is the row number, which is not copied: no table of ours refers to it.
    let places = vec!["?"; columns - 1].join(", ");
    let mut insert = to.prepare(&format!("INSERT OR IGNORE INTO {table} VALUES ({places})"))?;
    let mut rows = match select.query([above]) {
        Ok(rows) => rows,
        Err(error) => return given_up(count, last, error),
    };
    loop {
        let row = match rows.next() {
            Ok(Some(row)) => row,
            Ok(None) => return Ok((count, last, None)),
            Err(error) => return given_up(count, last, error),
        };
        let values = (1..columns).map(|at| row.get(at)).collect::<rusqlite::Result<Vec<Value>>>();
        match (row.get(0), values) {
            (Ok(number), Ok(values)) => {
                count += insert.execute(params_from_iter(values))? as u64;
                last = number;
            }
            (Err(error), _) | (_, Err(error)) => return given_up(count, last, error),
        }
    }
}

//! What this machine owes: refreshes and triggers that a change has called for and that were not done yet.
//!
//! One log in the machine's own directory, a record a line. What is owed is on disk before the change that calls for it; a
//! record that says it was paid may be lost with the power, and then it is paid twice. A record that was not written to its
//! end is the last one and calls for nothing: the change after it was never begun. Anything else that cannot
//! be read is told and left as it is. Written only under the lock of apply.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use mainstay_core::state::Values;
use mainstay_core::state::walk::Debt;
use serde::{Deserialize, Serialize};

use super::failpoint;
use super::lock::{self, ApplyLock};

/// A log of what was paid is only read again; from here on it is written anew at the next start.
const COMPACT_FROM: u64 = 16 << 10;

/// Some hundred thousand debts. A longer log is not this program's.
const MAX_LOG: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum DebtError {
    #[error("{call} {path}")]
    Io { call: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{path}: line {line} is not as it was written; what it says is owed is unknown. Look at it, and remove \
         the file to go on without"
    )]
    Damaged { path: PathBuf, line: usize },
    #[error("{path} is larger than {} MiB", MAX_LOG >> 20)]
    TooLarge { path: PathBuf },
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
struct Entry {
    catalog: String,
    #[serde(flatten)]
    debt: Debt,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Record {
    Owed(Entry),
    /// Done, or given up by command.
    Paid(Entry),
    /// Something of a later version: kept from being taken for damage, and from being forgotten.
    #[serde(untagged)]
    Later(Values),
}

/// What is owed on this machine, over all catalogs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Debts {
    owed: BTreeSet<Entry>,
}

impl Debts {
    /// Looks, and changes nothing; without a log nothing is owed.
    pub fn read(directory: &Path) -> Result<Self, DebtError> {
        let path = log_path(directory);
        match File::open(&path) {
            Ok(mut file) => Ok(Log::replay(&mut file, &path)?.0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(DebtError::Io { call: "open", path, source }),
        }
    }

    pub fn of(&self, catalog: &str) -> impl Iterator<Item = &Debt> {
        self.owed.iter().filter(move |entry| entry.catalog == catalog).map(|entry| &entry.debt)
    }

    fn take(&mut self, record: Record) {
        match record {
            Record::Owed(entry) => {
                self.owed.insert(entry);
            }
            Record::Paid(entry) => {
                self.owed.remove(&entry);
            }
            Record::Later(_) => {}
        }
    }
}

/// The log, open to be written.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    debts: Debts,
    /// Up to here the file is whole.
    length: u64,
}

impl Log {
    pub fn open(directory: &Path, _held: &ApplyLock) -> Result<Self, DebtError> {
        let path = log_path(directory);
        let failed = |call| {
            let path = path.clone();
            move |source| DebtError::Io { call, path, source }
        };
        lock::make(directory).map_err(failed("make the directory of"))?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open"))?;
        let (debts, length, later) = Self::replay(&mut file, &path)?;
        let mut log = Self { path: path.clone(), file, debts, length };
        if length >= COMPACT_FROM && !later {
            log.write_anew().map_err(failed("write"))?;
        } else {
            // A record that a crash cut off; what follows must not be glued to it.
            log.file.set_len(length).map_err(failed("shorten"))?;
        }
        // The file's name must be as durable as what is in it.
        sync_directory(directory).map_err(failed("sync the directory of"))?;
        Ok(log)
    }

    /// What is owed, how far the file is whole, and whether a later version wrote to it.
    fn replay(file: &mut File, path: &Path) -> Result<(Debts, u64, bool), DebtError> {
        let mut bytes = Vec::new();
        let read = file.take(MAX_LOG + 1).read_to_end(&mut bytes);
        read.map_err(|source| DebtError::Io { call: "read", path: path.to_owned(), source })?;
        if bytes.len() as u64 > MAX_LOG {
            return Err(DebtError::TooLarge { path: path.to_owned() });
        }
        let (mut debts, mut whole, mut later) = (Debts::default(), 0, false);
        for (number, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            match decode(line) {
                Some(record) => {
                    later |= matches!(record, Record::Later(_));
                    debts.take(record);
                    whole += line.len();
                }
                // Only a write that did not come to its end leaves a last line like this.
                None if whole + line.len() == bytes.len() => break,
                None => return Err(DebtError::Damaged { path: path.to_owned(), line: number + 1 }),
            }
        }
        Ok((debts, whole as u64, later))
    }

    pub fn debts(&self) -> &Debts {
        &self.debts
    }

    /// On return they are on disk.
    pub fn owe(&mut self, catalog: &str, debts: &[Debt]) -> Result<(), DebtError> {
        let entries = debts.iter().map(|debt| entry(catalog, debt));
        let new: Vec<Record> =
            entries.filter(|entry| !self.debts.owed.contains(entry)).map(Record::Owed).collect();
        if new.is_empty() {
            return Ok(());
        }
        self.append(new)?;
        self.sync()
    }

    /// Nothing more is to be done for them. Durable only with the next [`Self::sync`]: a debt may be paid twice, never not at all.
    pub fn pay(&mut self, catalog: &str, debts: &[Debt]) -> Result<(), DebtError> {
        let entries = debts.iter().map(|debt| entry(catalog, debt));
        let paid: Vec<Record> =
            entries.filter(|entry| self.debts.owed.contains(entry)).map(Record::Paid).collect();
        if paid.is_empty() { Ok(()) } else { self.append(paid) }
    }

    pub fn sync(&mut self) -> Result<(), DebtError> {
        failpoint::pass("sync");
        self.file.sync_data().map_err(|source| self.failed("sync", source))
    }

    fn append(&mut self, records: Vec<Record>) -> Result<(), DebtError> {
        let bytes: Vec<u8> = records.iter().flat_map(encode).collect();
        let write = |file: &mut File, at: u64| {
            file.seek(SeekFrom::Start(at))?;
            failpoint::pass("before a write");
            let (first, second) = bytes.split_at(bytes.len() / 2);
            if failpoint::ARMED {
                // Two writes, so that a crash between them can be tried.
                file.write_all(first)?;
                failpoint::pass("within a write");
                file.write_all(second)?;
            } else {
                file.write_all(&bytes)?;
            }
            failpoint::pass("after a write");
            Ok(())
        };
        if let Err(source) = write(&mut self.file, self.length) {
            // What a full disk left of it must not be in the way of the next.
            let _ = self.file.set_len(self.length);
            return Err(self.failed("write", source));
        }
        self.length += bytes.len() as u64;
        records.into_iter().for_each(|record| self.debts.take(record));
        Ok(())
    }

    /// Leaves out what was paid.
    fn write_anew(&mut self) -> io::Result<()> {
        let records = self.debts.owed.iter().cloned().map(Record::Owed);
        let bytes: Vec<u8> = records.flat_map(|record| encode(&record)).collect();
        let beside = self.path.with_extension("new");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        failpoint::pass("before the new log");
        fs::rename(&beside, &self.path)?;
        self.file = file;
        self.length = bytes.len() as u64;
        Ok(())
    }

    fn failed(&self, call: &'static str, source: io::Error) -> DebtError {
        DebtError::Io { call, path: self.path.clone(), source }
    }
}

/// For people: `app-service (service): refresh because of app-conf`.
pub fn name_of(debt: &Debt) -> String {
    format!("{} ({}): {} because of {}", debt.state, debt.module, debt.kind.word(), debt.because)
}

fn entry(catalog: &str, debt: &Debt) -> Entry {
    Entry { catalog: catalog.to_owned(), debt: debt.clone() }
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join("debts")
}

fn encode(record: &Record) -> Vec<u8> {
    let text = serde_json::to_string(record).expect("a record is names and lists of names");
    format!("{:08x} {text}\n", crc32fast::hash(text.as_bytes())).into_bytes()
}

fn decode(line: &[u8]) -> Option<Record> {
    let line = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (sum, text) = line.split_once(' ')?;
    let sum = (sum.len() == 8).then(|| u32::from_str_radix(sum, 16).ok())??;
    if sum != crc32fast::hash(text.as_bytes()) {
        return None;
    }
    serde_json::from_str(text).ok()
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mainstay_core::state::walk::DebtKind;

    fn debt(state: &str, kind: DebtKind, because: &str) -> Debt {
        Debt { state: state.into(), module: "service".into(), kind, because: because.into() }
    }

    fn owed(directory: &Path, catalog: &str) -> Vec<Debt> {
        Debts::read(directory).unwrap().of(catalog).cloned().collect()
    }

    fn open(directory: &Path) -> (ApplyLock, Log) {
        let held = ApplyLock::take(directory, "test").unwrap();
        let log = Log::open(directory, &held).unwrap();
        (held, log)
    }

    #[test]
    fn what_is_owed_is_there_until_it_is_paid() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(owed(directory.path(), "site"), []);
        let (web, job) = (debt("web", DebtKind::Refresh, "conf"), debt("job", DebtKind::Trigger, "conf"));
        {
            let (_held, mut log) = open(directory.path());
            log.owe("site", &[web.clone(), job.clone()]).unwrap();
            log.owe("other", std::slice::from_ref(&web)).unwrap();
            let length = log.length;
            log.owe("site", std::slice::from_ref(&web)).unwrap();
            assert_eq!(log.length, length, "it is owed already");
            assert_eq!(owed(directory.path(), "site"), [job.clone(), web.clone()]);
            log.pay("site", &[job]).unwrap();
        }
        let (_held, mut log) = open(directory.path());
        assert_eq!(log.debts().of("site").collect::<Vec<_>>(), [&web]);
        log.pay("site", std::slice::from_ref(&web)).unwrap();
        assert_eq!(owed(directory.path(), "site"), []);
        assert_eq!(owed(directory.path(), "other"), [web]);
    }

    #[test]
    fn a_write_that_was_cut_off_anywhere_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let first = debt("first", DebtKind::Refresh, "a");
        {
            let (_held, mut log) = open(directory.path());
            log.owe("site", std::slice::from_ref(&first)).unwrap();
        }
        let path = log_path(directory.path());
        let whole = fs::read(&path).unwrap();
        let record = encode(&Record::Owed(entry("site", &debt("second", DebtKind::Listen, "b"))));
        for cut in 0..record.len() {
            fs::write(&path, [&whole[..], &record[..cut]].concat()).unwrap();
            assert_eq!(owed(directory.path(), "site"), std::slice::from_ref(&first), "{cut}");
            let (_held, mut log) = open(directory.path());
            log.owe("site", &[debt("third", DebtKind::Trigger, "c")]).unwrap();
            assert_eq!(owed(directory.path(), "site").len(), 2, "{cut}");
        }
    }

    #[test]
    fn damage_is_told_and_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let (held, mut log) = open(directory.path());
        log.owe("site", &[debt("first", DebtKind::Refresh, "a")]).unwrap();
        log.owe("site", &[debt("second", DebtKind::Refresh, "a")]).unwrap();
        let path = log_path(directory.path());
        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let error = Log::open(directory.path(), &held).unwrap_err().to_string();
        assert!(error.contains("line 1 is not as it was written"), "{error}");
        assert!(Debts::read(directory.path()).is_err());
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn a_long_log_is_written_anew_without_what_was_paid() {
        let directory = tempfile::tempdir().unwrap();
        let kept = debt("kept", DebtKind::Refresh, "conf");
        {
            let (_held, mut log) = open(directory.path());
            log.owe("site", std::slice::from_ref(&kept)).unwrap();
            for number in 0..100 {
                let debt = debt(&format!("state-{number}"), DebtKind::Refresh, "conf");
                log.owe("site", std::slice::from_ref(&debt)).unwrap();
                log.pay("site", &[debt]).unwrap();
            }
        }
        let path = log_path(directory.path());
        assert!(fs::metadata(&path).unwrap().len() > COMPACT_FROM);
        let (_held, mut log) = open(directory.path());
        assert!(fs::metadata(&path).unwrap().len() < 200);
        assert_eq!(owed(directory.path(), "site"), std::slice::from_ref(&kept));
        log.owe("site", &[debt("new", DebtKind::Trigger, "conf")]).unwrap();
        assert_eq!(owed(directory.path(), "site").len(), 2);
    }
}

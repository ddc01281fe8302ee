//! A journal in memory with crash semantics of its own, for simulated fleets and tests.
//!
//! No threads and no files: the same calls give the same answers. A [`ModelDisk`] outlives the journals that
//! are opened on it, as a real disk does. It is held to the real journal by `journal_conformance`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mainstay_core::journal::{Batch, Class, Journal, JournalError, Op, Table};

use crate::sqlite_journal::within_limits;

/// What a record costs beside its key and its value.
const RECORD_OVERHEAD: u64 = 16;

/// The disk of one simulated node. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct ModelDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    records: BTreeMap<(Table, Bytes), Bytes>,
    /// How to come back to the last sync: what each change replaced, the newest last.
    undo: Vec<((Table, Bytes), Option<Bytes>)>,
    used: u64,
    reserved: u64,
    capacity: Option<u64>,
    fail_next_sync: bool,
    skip_sync: bool,
    syncs: u64,
    /// Which opening the disk serves: an earlier one was cut off by a crash or a failure.
    life: u64,
}

/// One opening of a [`ModelDisk`].
#[derive(Debug)]
pub struct ModelJournal {
    disk: ModelDisk,
    life: u64,
}

impl ModelDisk {
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens the journal on it. An earlier opening that is still held answers with failure from now on.
    pub fn open(&self) -> ModelJournal {
        let mut state = self.state();
        state.life += 1;
        state.reserved = 0;
        ModelJournal { disk: self.clone(), life: state.life }
    }

    /// The node loses power: what was not synced is gone, and so is the opening.
    pub fn crash(&self) {
        let mut state = self.state();
        state.life += 1;
        state.back_to_last_sync();
    }

    /// How many bytes of records and reservations fit; no limit at first.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// The next sync fails, and nothing since the last good one is believed.
    pub fn fail_next_sync(&self) {
        self.state().fail_next_sync = true;
    }

    /// Plants the fault that tests must catch: a commit answers that all is well and syncs nothing.
    pub fn skip_sync(&self, skip: bool) {
        self.state().skip_sync = skip;
    }

    /// Good syncs so far.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Bytes taken by records.
    pub fn used(&self) -> u64 {
        self.state().used
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked with the lock has failed already.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn set(&mut self, id: (Table, Bytes), value: Option<Bytes>) {
        let cost =
            |id: &(Table, Bytes), value: &Bytes| id.1.len() as u64 + value.len() as u64 + RECORD_OVERHEAD;
        if let Some(value) = &value {
            self.used += cost(&id, value);
        }
        let before = match value {
            Some(value) => self.records.insert(id.clone(), value),
            None => self.records.remove(&id),
        };
        if let Some(before) = &before {
            self.used -= cost(&id, before);
        }
        self.undo.push((id, before));
    }

    fn undo_to(&mut self, mark: usize) {
        while self.undo.len() > mark {
            let Some((id, before)) = self.undo.pop() else {
                return;
            };
            self.set(id, before);
            // Undoing is not to be undone.
            self.undo.pop();
        }
    }

    fn back_to_last_sync(&mut self) {
        self.undo_to(0);
    }

    fn apply(&mut self, batch: &Batch) -> Result<(), JournalError> {
        within_limits(batch)?;
        let mark = self.undo.len();
        for op in &batch.ops {
            match op {
                Op::Put { table, key, value } => self.set((*table, key.clone()), Some(value.clone())),
                Op::Delete { table, key } => self.set((*table, key.clone()), None),
            }
        }
        let (reserved, needed) = match batch.class {
            Class::New { reserve } => {
                let reserved = self.reserved.saturating_add(reserve);
                (reserved, self.used.saturating_add(reserved))
            }
            // It may use what was reserved, by whomever.
            Class::Owed { release } => (self.reserved.saturating_sub(release), self.used),
        };
        if self.capacity.is_some_and(|capacity| needed > capacity) {
            self.undo_to(mark);
            return Err(JournalError::Full);
        }
        self.reserved = reserved;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), JournalError> {
        if self.skip_sync {
            return Ok(());
        }
        if std::mem::take(&mut self.fail_next_sync) {
            self.life += 1;
            self.back_to_last_sync();
            return Err(JournalError::Failed("the sync failed".into()));
        }
        self.undo.clear();
        self.syncs += 1;
        Ok(())
    }
}

impl ModelJournal {
    fn cut_off() -> JournalError {
        JournalError::Failed("this opening of the journal has ended".into())
    }
}

impl Journal for ModelJournal {
    fn commit(&mut self, batches: &[Batch]) -> Vec<Result<(), JournalError>> {
        let mut state = self.disk.state();
        if state.life != self.life {
            return vec![Err(Self::cut_off()); batches.len()];
        }
        let results: Vec<_> = batches.iter().map(|batch| state.apply(batch)).collect();
        match state.sync() {
            Ok(()) => results,
            Err(error) => vec![Err(error); batches.len()],
        }
    }

    fn read(&mut self, table: Table, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), JournalError> {
        let records: Vec<(Bytes, Bytes)> = {
            let state = self.disk.state();
            if state.life != self.life {
                return Err(Self::cut_off());
            }
            let from = (table, Bytes::new());
            let of_table = state.records.range(from..).take_while(|((of, _), _)| *of == table);
            of_table.map(|((_, key), value)| (key.clone(), value.clone())).collect()
        };
        // Outside the lock: what the visitor does is its own affair.
        for (key, value) in &records {
            visit(key, value);
        }
        Ok(())
    }

    fn restore_reservation(&mut self, bytes: u64) {
        self.disk.state().reserved = bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal_conformance::{JournalBench, contents, journal_suite, new, owed, put};

    impl JournalBench for ModelDisk {
        fn open(&mut self) -> Box<dyn Journal> {
            Box::new(ModelDisk::open(self))
        }

        fn power_loss(&mut self) -> bool {
            self.crash();
            true
        }

        fn leave_room(&mut self, bytes: Option<u64>) -> bool {
            let mut state = self.state();
            state.capacity = bytes.map(|bytes| state.used + state.reserved + bytes);
            true
        }
    }

    #[test]
    fn it_conforms() {
        journal_suite(ModelDisk::new);
    }

    #[test]
    fn a_model_that_skips_the_sync_fails_the_suite() {
        let disk = || {
            let disk = ModelDisk::new();
            disk.skip_sync(true);
            disk
        };
        let caught = std::panic::catch_unwind(|| journal_suite(disk));
        assert!(caught.is_err());
    }

    #[test]
    fn a_failed_sync_goes_back_to_the_last_good_one_and_ends_the_opening() {
        let disk = ModelDisk::new();
        let mut journal = disk.open();
        journal.commit(&[new(0, vec![put(Table::Outbox, "a", "1")])]).remove(0).unwrap();
        disk.fail_next_sync();
        let lost = journal.commit(&[
            owed(0, vec![put(Table::Outbox, "a", "2"), put(Table::Outbox, "b", "1")]),
            new(0, vec![]),
        ]);
        assert!(lost.iter().all(|result| matches!(result, Err(JournalError::Failed(_)))));
        assert!(matches!(journal.commit(&[new(0, vec![])])[0], Err(JournalError::Failed(_))));
        let found: Vec<_> = contents(&mut disk.open()).into_values().collect();
        assert_eq!(found, ["1"]);
    }

    #[test]
    fn an_opening_from_before_a_crash_cannot_write() {
        let disk = ModelDisk::new();
        let mut old = disk.open();
        disk.crash();
        let mut young = disk.open();
        assert!(old.commit(&[new(0, vec![put(Table::Outbox, "a", "1")])])[0].is_err());
        assert!(contents(&mut young).is_empty());
    }
}

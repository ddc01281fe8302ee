//! A journal in memory: what was applied stays when its node crashes, what waits in the fleet's queue does not.
//!
//! `core` may not use the model journal of `store`, and needs less: whole batches, refusals of new work.

use std::collections::BTreeMap;

use bytes::Bytes;
use mainstay_core::delivery::record;
use mainstay_core::journal::{Batch, Class, Journal, JournalError, Op, Table};
use serde::de::DeserializeOwned;

#[derive(Default)]
pub struct TestJournal {
    tables: BTreeMap<(Table, Bytes), Bytes>,
    /// New work is refused, as on a full disk.
    pub full: bool,
}

impl TestJournal {
    pub fn get<T: DeserializeOwned>(&self, table: Table, key: &[u8]) -> Option<T> {
        let value = self.tables.get(&(table, Bytes::copy_from_slice(key)))?;
        Some(record::decode(table, value).expect("a record that was just written"))
    }

    pub fn rows(&self, of: Table) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.tables.iter().filter(move |((table, _), _)| *table == of).map(|((_, key), value)| (key, value))
    }

    fn apply(&mut self, batch: &Batch) -> Result<(), JournalError> {
        if self.full && matches!(batch.class, Class::New { .. }) {
            return Err(JournalError::Full);
        }
        for op in &batch.ops {
            match op {
                Op::Put { table, key, value } => self.tables.insert((*table, key.clone()), value.clone()),
                Op::Delete { table, key } => self.tables.remove(&(*table, key.clone())),
            };
        }
        Ok(())
    }
}

impl Journal for TestJournal {
    fn commit(&mut self, batches: &[Batch]) -> Vec<Result<(), JournalError>> {
        batches.iter().map(|batch| self.apply(batch)).collect()
    }

    fn read(&mut self, table: Table, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), JournalError> {
        self.rows(table).for_each(|(key, value)| visit(key, value));
        Ok(())
    }
}

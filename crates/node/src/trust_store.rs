//! The trust log of a running node: in memory for every decision, on disk before it is acted upon.

use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use mainstay_core::id::KeyId;
use mainstay_core::journal::{Batch, Class, JournalError, Op, Table};
use mainstay_core::time::Timestamp;
use mainstay_core::trust::{Act, TrustError, TrustLog};
use mainstay_store::group_commit::Handle as Journal;

/// Shared by all parts of a node. A hub's entries are kept in the Store by `control`; an agent's in its journal.
#[derive(Clone)]
pub struct TrustStore {
    log: Arc<RwLock<TrustLog>>,
    /// Where an agent keeps entries; the fleet's root must be this key.
    journal: Option<(Journal, KeyId)>,
    learning: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, thiserror::Error)]
pub enum TrustStoreError {
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("the trust entries could not be stored")]
    Journal(#[from] JournalError),
    #[error("a hub takes trust entries only from its own control plane")]
    NotHere,
}

impl TrustStore {
    /// For a hub: the log that its control plane keeps.
    pub fn of_hub(log: Arc<RwLock<TrustLog>>) -> Self {
        Self { log, journal: None, learning: Arc::default() }
    }

    /// For an agent: its own copy, read back from its journal.
    pub fn of_agent(log: TrustLog, journal: Journal, root: KeyId) -> Self {
        Self { log: Arc::new(RwLock::new(log)), journal: Some((journal, root)), learning: Arc::default() }
    }

    pub fn log(&self) -> Arc<RwLock<TrustLog>> {
        self.log.clone()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, TrustLog> {
        self.log.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn position(&self) -> (u64, [u8; 32]) {
        let log = self.read();
        (log.epoch(), log.head())
    }

    pub fn has_prefix(&self, length: u64, head: &[u8; 32]) -> bool {
        self.read().has_prefix(length, head)
    }

    pub fn after(&self, epoch: u64) -> Vec<Bytes> {
        self.read().after(epoch).to_vec()
    }

    pub fn is_hub(&self, key: &KeyId, now: Timestamp) -> bool {
        self.read().is_hub(key, now)
    }

    pub fn is_revoked(&self, key: &KeyId) -> bool {
        self.read().is_revoked(key)
    }

    /// Takes entries that a hub sent. They are in force, and on disk, when this returns.
    pub async fn learn(&self, entries: Vec<Bytes>) -> Result<(), TrustStoreError> {
        let Some((journal, root)) = &self.journal else { return Err(TrustStoreError::NotHere) };
        // Two hubs may tell at once: one after the other, or the second would see a gap.
        let _turn = self.learning.lock().await;
        let mut next = self.read().clone();
        let mut ops = Vec::with_capacity(entries.len());
        for entry in entries {
            let epoch = next.epoch() + 1;
            match next.append(entry.clone()) {
                Ok(Act::Root { key }) if key != *root => return Err(TrustError::WrongRoot.into()),
                Ok(_) => {}
                // Another hub told it already.
                Err(TrustError::Gap { have, found }) if found <= have => continue,
                Err(error) => return Err(error.into()),
            }
            let key = Bytes::copy_from_slice(&epoch.to_be_bytes());
            ops.push(Op::Put { table: Table::Trust, key, value: entry });
        }
        // Even if the disk refuses: a revocation must hold from now on, and will be told again.
        *self.log.write().unwrap_or_else(PoisonError::into_inner) = next;
        if !ops.is_empty() {
            journal.commit(Batch { class: Class::Owed { release: 0 }, ops }).await?;
        }
        Ok(())
    }
}

//! Stands in until the Store trait is there.
use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;

pub type Revision = u64;

#[derive(Clone, Debug)]
pub enum Expect {
    Any,
    Absent,
    Revision(Revision),
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("conflict")]
    Conflict,
    #[error("full")]
    Full,
    #[error("unknown: {0}")]
    Unknown(String),
    #[error("failed: {0}")]
    Failed(String),
}

#[async_trait]
pub trait Store: Send + Sync {
    async fn get(&self, key: &str) -> Result<Option<(Bytes, Revision)>, StoreError>;
    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Revision, StoreError>;
    async fn delete(&self, key: &str, expect: Expect) -> Result<(), StoreError>;
    async fn list(&self, prefix: &str) -> Result<Vec<(String, Bytes, Revision)>, StoreError>;
    async fn append(&self, log: &str, entries: Vec<Bytes>) -> Result<Vec<u64>, StoreError>;
    async fn read(&self, log: &str, after: u64, most: usize) -> Result<Vec<(u64, Bytes)>, StoreError>;
    async fn trim(&self, log: &str, upto: u64) -> Result<(), StoreError>;
}

#[derive(Default)]
pub struct MemoryStore(Mutex<Memory>);

#[derive(Default)]
struct Memory {
    revision: u64,
    keys: BTreeMap<String, (Bytes, Revision)>,
    logs: BTreeMap<String, (u64, BTreeMap<u64, Bytes>)>,
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &str) -> Result<Option<(Bytes, Revision)>, StoreError> {
        Ok(self.0.lock().unwrap().keys.get(key).cloned())
    }
    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Revision, StoreError> {
        let mut m = self.0.lock().unwrap();
        let now = m.keys.get(key).map(|(_, r)| *r);
        match expect {
            Expect::Any => {}
            Expect::Absent if now.is_none() => {}
            Expect::Revision(r) if now == Some(r) => {}
            _ => return Err(StoreError::Conflict),
        }
        m.revision += 1;
        let r = m.revision;
        m.keys.insert(key.into(), (value, r));
        Ok(r)
    }
    async fn delete(&self, key: &str, expect: Expect) -> Result<(), StoreError> {
        let mut m = self.0.lock().unwrap();
        let now = m.keys.get(key).map(|(_, r)| *r);
        if let Expect::Revision(r) = expect
            && now != Some(r)
        {
            return Err(StoreError::Conflict);
        }
        m.keys.remove(key);
        Ok(())
    }
    async fn list(&self, prefix: &str) -> Result<Vec<(String, Bytes, Revision)>, StoreError> {
        let p = format!("{prefix}.");
        let m = self.0.lock().unwrap();
        Ok(m.keys
            .iter()
            .filter(|(k, _)| k.starts_with(&p))
            .map(|(k, (b, r))| (k.clone(), b.clone(), *r))
            .collect())
    }
    async fn append(&self, log: &str, entries: Vec<Bytes>) -> Result<Vec<u64>, StoreError> {
        let mut m = self.0.lock().unwrap();
        let (last, rows) = m.logs.entry(log.into()).or_default();
        Ok(entries
            .into_iter()
            .map(|e| {
                *last += 1;
                rows.insert(*last, e);
                *last
            })
            .collect())
    }
    async fn read(&self, log: &str, after: u64, most: usize) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let m = self.0.lock().unwrap();
        Ok(m.logs.get(log).map_or(vec![], |(_, rows)| {
            rows.range(after.saturating_add(1)..).take(most).map(|(p, b)| (*p, b.clone())).collect()
        }))
    }
    async fn trim(&self, log: &str, upto: u64) -> Result<(), StoreError> {
        let mut m = self.0.lock().unwrap();
        if let Some((_, rows)) = m.logs.get_mut(log) {
            rows.retain(|p, _| *p > upto);
        }
        Ok(())
    }
}

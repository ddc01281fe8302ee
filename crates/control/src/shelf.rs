//! The Store as this crate speaks to it: values are encoded, an unknown result is looked up, errors say what to do next.
//!
//! Positions of a log's entries count from 1 and grow; reading is always "after this position".

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::run_record::{decode, encode};

pub use crate::store_sketch::{Expect, Revision, Store, StoreError};

#[derive(Clone)]
pub struct Shelf(Arc<dyn Store>);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShelfError {
    /// The key is there already, or is not as it was.
    #[error("it was changed by someone else at the same time")]
    Conflict,
    #[error("the store is full: nothing new is accepted until there is space")]
    Full,
    /// It may have been written, and looking was of no avail.
    #[error("the store did not say whether it was written: {0}")]
    Unknown(String),
    #[error("the store failed: {0}")]
    Failed(String),
    #[error("the value of {key} in the store cannot be read: {why}")]
    Damaged { key: String, why: String },
}

impl ShelfError {
    /// Whether what was asked may have happened all the same.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_) | Self::Failed(_))
    }
}

impl Shelf {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self(store)
    }

    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<(T, Revision)>, ShelfError> {
        let Some((bytes, revision)) = self.0.get(key).await? else {
            return Ok(None);
        };
        Ok(Some((read(key, &bytes)?, revision)))
    }

    pub async fn put<T: Serialize + Sync>(
        &self,
        key: &str,
        value: &T,
        expect: Expect,
    ) -> Result<Revision, ShelfError> {
        let bytes = encode(value);
        match self.0.put(key, bytes.clone(), expect).await {
            Err(StoreError::Unknown(why)) => match self.0.get(key).await? {
                Some((found, revision)) if found == bytes => Ok(revision),
                _ => Err(ShelfError::Unknown(why)),
            },
            result => Ok(result?),
        }
    }

    /// It is no error if there is nothing, unless a revision was expected.
    pub async fn delete(&self, key: &str, expect: Expect) -> Result<(), ShelfError> {
        match self.0.delete(key, expect).await {
            Err(StoreError::Unknown(why)) => match self.0.get(key).await? {
                None => Ok(()),
                Some(_) => Err(ShelfError::Unknown(why)),
            },
            result => Ok(result?),
        }
    }

    /// Every value below a prefix of whole tokens. One that cannot be read is left out, and said so in the log.
    pub async fn list<T: DeserializeOwned>(
        &self,
        prefix: &str,
    ) -> Result<Vec<(String, T, Revision)>, ShelfError> {
        let found = self.0.list(prefix).await?;
        let values = found.into_iter().filter_map(|(key, bytes, revision)| match read(&key, &bytes) {
            Ok(value) => Some((key, value, revision)),
            Err(e) => {
                tracing::error!("{e}");
                None
            }
        });
        Ok(values.collect())
    }

    /// Appends in order. Returns the positions once all are durable.
    pub async fn append(&self, log: &str, entries: Vec<Bytes>) -> Result<Vec<u64>, ShelfError> {
        Ok(self.0.append(log, entries).await?)
    }

    /// At most `most` entries after a position; none if the log ends there.
    pub async fn read(&self, log: &str, after: u64, most: usize) -> Result<Vec<(u64, Bytes)>, ShelfError> {
        Ok(self.0.read(log, after, most).await?)
    }

    /// Forgets entries up to a position, or all of the log.
    pub async fn trim(&self, log: &str, upto: Option<u64>) -> Result<(), ShelfError> {
        Ok(self.0.trim(log, upto.unwrap_or(u64::MAX)).await?)
    }
}

fn read<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, ShelfError> {
    decode(bytes).map_err(|e| ShelfError::Damaged { key: key.to_owned(), why: e.0 })
}

impl From<StoreError> for ShelfError {
    fn from(e: StoreError) -> Self {
        match e {
            StoreError::Conflict => Self::Conflict,
            StoreError::Full => Self::Full,
            StoreError::Unknown(why) => Self::Unknown(why),
            StoreError::Failed(why) => Self::Failed(why),
        }
    }
}

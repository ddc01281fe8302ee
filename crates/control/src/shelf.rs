//! The Store as this crate speaks to it: values are encoded, an unknown result is looked up, errors say what to do next.
//!
//! Positions of a log's entries count from 1 and grow; reading is always "after this position".

use bytes::Bytes;
use mainstay_store::SharedStore;
use mainstay_store::key::{Key, LogName, NameError, Prefix};
use mainstay_store::store::{Entry, MAX_APPEND, Position, StoreError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::run_record::{decode, encode};

pub use mainstay_store::store::{Expect, Revision};

#[derive(Clone)]
pub struct Shelf(SharedStore);

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
    /// Nothing was written, and nothing can be now.
    #[error("the store cannot be used now: {0}")]
    Failed(String),
    #[error("{0}")]
    TooLarge(String),
    #[error("the value of {key} in the store cannot be read: {why}")]
    Damaged { key: String, why: String },
}

impl ShelfError {
    /// Whether what was asked may have happened all the same.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }
}

impl Shelf {
    pub fn new(store: SharedStore) -> Self {
        Self(store)
    }

    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<(T, Revision)>, ShelfError> {
        let Some(entry) = self.0.get(&Key::new(key)?).await? else {
            return Ok(None);
        };
        Ok(Some((read(key, &entry.value)?, entry.revision)))
    }

    pub async fn put<T: Serialize + Sync>(
        &self,
        key: &str,
        value: &T,
        expect: Expect,
    ) -> Result<Revision, ShelfError> {
        let bytes = encode(value);
        let key = Key::new(key)?;
        match self.0.put(&key, bytes.clone(), expect).await {
            Err(StoreError::Unknown(why)) => match self.0.get(&key).await? {
                Some(Entry { value, revision, .. }) if value == bytes => Ok(revision),
                _ => Err(ShelfError::Unknown(why)),
            },
            result => Ok(result?),
        }
    }

    /// It is no error if there is nothing, unless a revision was expected.
    pub async fn delete(&self, key: &str, expect: Expect) -> Result<(), ShelfError> {
        let key = Key::new(key)?;
        match self.0.delete(&key, expect).await {
            Err(StoreError::Unknown(why)) => match self.0.get(&key).await? {
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
        let listing = self.0.list(&Prefix::new(prefix)?).await?;
        let values = listing.entries.into_iter().filter_map(|entry| {
            let key = entry.key.to_string();
            match read(&key, &entry.value) {
                Ok(value) => Some((key, value, entry.revision)),
                Err(e) => {
                    tracing::error!("{e}");
                    None
                }
            }
        });
        Ok(values.collect())
    }

    /// Appends in order. Returns the positions once all are durable. After any error that is unknown, some of the first may be
    /// there.
    pub async fn append(&self, log: &str, entries: Vec<Bytes>) -> Result<Vec<u64>, ShelfError> {
        let log = LogName::new(log)?;
        let mut positions = Vec::with_capacity(entries.len());
        let mut rest = entries.into_iter().peekable();
        while rest.peek().is_some() {
            let mut some = Vec::new();
            let mut bytes = 0;
            while let Some(entry) = rest.next_if(|entry| some.is_empty() || bytes + entry.len() <= MAX_APPEND)
            {
                bytes += entry.len();
                some.push(entry);
            }
            match self.0.append(&log, some).await {
                Ok(at) => positions.extend(at.into_iter().map(Position::number)),
                // What was appended before stands, whatever became of the rest.
                Err(e) if !positions.is_empty() => return Err(ShelfError::Unknown(e.to_string())),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(positions)
    }

    /// At most `most` entries after a position; none if the log ends there.
    pub async fn read(&self, log: &str, after: u64, most: usize) -> Result<Vec<(u64, Bytes)>, ShelfError> {
        let from = Position::from_number(after).next();
        let page = self.0.read(&LogName::new(log)?, from, most).await?;
        Ok(page.into_iter().map(|(position, entry)| (position.number(), entry)).collect())
    }

    /// Forgets entries up to a position, or all of the log.
    pub async fn trim(&self, log: &str, upto: Option<u64>) -> Result<(), ShelfError> {
        let before = upto.map_or(Position::END, |upto| Position::from_number(upto).next());
        Ok(self.0.trim(&LogName::new(log)?, before).await?)
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
            e @ StoreError::TooLarge { .. } => Self::TooLarge(e.to_string()),
            e @ (StoreError::TooOld | StoreError::Unavailable(_) | StoreError::Newer { .. }) => {
                Self::Failed(e.to_string())
            }
        }
    }
}

impl From<NameError> for ShelfError {
    /// Keys are made from ids and checked names, so this says that something damaged was given for one.
    fn from(e: NameError) -> Self {
        Self::Damaged { key: e.to_string(), why: "no such key can be".into() }
    }
}

//! The Store: what hubs share. Keys with compare-and-swap, watches, append-only logs, and leases.
//!
//! It is the least that both an embedded database and NATS JetStream (its KV buckets and streams) can serve,
//! so that algorithms above it are written once. There are no transactions over several keys and no queries.
//! All kinds are held to the contract below by `store_conformance`.
//!
//! # Contract
//!
//! - A call that changes something and returns `Ok` is durable.
//! - [`StoreError::Unknown`] means that the change may or may not have happened, or may yet happen: look.
//!   Any other error means that it has not.
//! - Reads see every change that was answered before the read was asked for.
//! - A [`Revision`] says which write a value is from. It is good for comparing and for watching, not for
//!   counting. It changes with every write of a key, also when the value is the same.
//! - Many small facts belong in a log and not under a key each.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

pub use crate::key::{Key, LogName, NameError, Prefix};

/// Largest value and largest record. JetStream's messages are bounded by 1 MiB by default, headers included.
pub const MAX_STORE_VALUE: usize = 512 * 1024;

/// Most bytes in one append; bounds the memory of one call on either side.
pub const MAX_APPEND: usize = 8 << 20;

/// Which write something is from. Compares for equality only: kinds of Store differ in how they count.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Revision(pub(crate) u64);

/// A place in a log. Later records have higher positions, with gaps; a position is never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Position(u64);

impl Position {
    /// Before every record.
    pub const START: Self = Self(0);
    /// After every record, those to come included.
    pub const END: Self = Self(i64::MAX as u64);

    /// For positions that were written down. Anything beyond [`Position::END`] is taken for it.
    pub const fn from_number(number: u64) -> Self {
        if number > Self::END.0 { Self::END } else { Self(number) }
    }

    pub const fn number(self) -> u64 {
        self.0
    }

    /// Where to read on after the record at this position.
    #[must_use]
    pub const fn next(self) -> Self {
        Self::from_number(self.0 + 1)
    }
}

/// A number that grows each time a lease is taken. Whoever acts under a lease gives it along, and whatever
/// is acted on refuses a lower one than it has seen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Fence(u64);

impl Fence {
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }

    pub const fn number(self) -> u64 {
        self.0
    }
}

/// A lifetime in whole seconds, at least one: JetStream knows no finer one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ttl(u32);

impl Ttl {
    /// At least one second.
    pub const fn from_secs(seconds: u32) -> Self {
        Self(if seconds == 0 { 1 } else { seconds })
    }

    pub const fn as_duration(self) -> Duration {
        Duration::from_secs(self.0 as u64)
    }
}

/// What must be true of a key for a write to happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    Any,
    /// There is no value.
    Absent,
    /// The value is the one of this revision.
    Revision(Revision),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub key: Key,
    pub value: Bytes,
    pub revision: Revision,
}

/// All keys under a prefix at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listing {
    /// In the order of their keys.
    pub entries: Vec<Entry>,
    /// Watching from here on misses nothing that the listing does not have.
    pub revision: Revision,
}

/// What happened to a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    Put(Entry),
    Deleted { key: Key, revision: Revision },
}

impl Change {
    pub fn key(&self) -> &Key {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Deleted { key, .. } => key,
        }
    }

    /// From here on a new watch misses nothing after this change.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(entry) => entry.revision,
            Self::Deleted { revision, .. } => *revision,
        }
    }
}

/// Changes under a prefix as they happen.
#[derive(Debug)]
pub struct Watch {
    changes: mpsc::Receiver<Change>,
}

impl Watch {
    pub(crate) fn new(changes: mpsc::Receiver<Change>) -> Self {
        Self { changes }
    }

    /// The next change. Changes of one key come in order; of several quick ones only the last is certain to
    /// come. May be dropped while waiting without missing anything.
    ///
    /// # Errors
    /// [`StoreError::TooOld`] when changes were missed, because this watch was read too slowly or the Store
    /// started anew: list again, and watch from there.
    pub async fn next(&mut self) -> Result<Change, StoreError> {
        self.changes.recv().await.ok_or(StoreError::TooOld)
    }
}

/// A lease that was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lease {
    pub name: Key,
    pub fence: Fence,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// What was expected of the key is not so, or the lease is no longer held. Read again, decide again.
    #[error("it was changed by someone else meanwhile")]
    Conflict,
    #[error("the store's disk is full")]
    Full,
    #[error("{size} bytes are more than the {limit} that the store takes")]
    TooLarge { size: usize, limit: usize },
    /// The changes since that revision are not known any more. List again.
    #[error("the changes asked for are no longer known")]
    TooOld,
    /// The change may or may not have happened.
    #[error("it is not known whether the store took the change: {0}")]
    Unknown(String),
    /// The store cannot be reached or cannot work now. Nothing was changed.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// The store was written by a newer version of the program. It was not touched.
    #[error("the store is of format {found}, newer than the {understood} that this version understands")]
    Newer { found: u32, understood: u32 },
}

impl StoreError {
    /// Whether the same call may succeed later without anyone deciding anew.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Full | Self::Unavailable(_))
    }
}

#[async_trait]
pub trait Store: Send + Sync + 'static {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError>;

    /// Writes a value if the key is as expected.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if it is not.
    async fn put(&self, key: &Key, value: Bytes, expect: Expect) -> Result<Revision, StoreError>;

    /// Removes a key if it is as expected. With [`Expect::Any`] it is no error if there is none.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if it is not as expected.
    async fn delete(&self, key: &Key, expect: Expect) -> Result<(), StoreError>;

    async fn list(&self, prefix: &Prefix) -> Result<Listing, StoreError>;

    /// Changes under a prefix after this revision, which is that of a [`Listing`] or a [`Change`].
    ///
    /// # Errors
    /// [`StoreError::TooOld`] if not all of them are known any more.
    async fn watch(&self, prefix: &Prefix, from: Revision) -> Result<Watch, StoreError>;

    /// Appends records in this order and returns where each stands. When it fails with
    /// [`StoreError::Unknown`], some of the first ones may be there.
    async fn append(&self, log: &LogName, records: Vec<Bytes>) -> Result<Vec<Position>, StoreError>;

    /// Records of a log from a position on, at most `limit` and not necessarily as many: only none means
    /// that there are no more now. A log that was never written is empty.
    async fn read(
        &self,
        log: &LogName,
        from: Position,
        limit: usize,
    ) -> Result<Vec<(Position, Bytes)>, StoreError>;

    /// Forgets the records before a position.
    async fn trim(&self, log: &LogName, before: Position) -> Result<(), StoreError>;

    /// Takes a lease, or returns `None` if someone holds it. Its fence is higher than that of every lease
    /// taken before under this name.
    async fn lease(&self, name: &Key, ttl: Ttl) -> Result<Option<Lease>, StoreError>;

    /// Lets a lease that is held live this long from now on.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if it is not held any more; that is final.
    async fn renew(&self, lease: &Lease, ttl: Ttl) -> Result<(), StoreError>;

    /// Gives a lease back. It is no error if it is not held any more.
    async fn release(&self, lease: &Lease) -> Result<(), StoreError>;
}

/// How code above holds a Store.
pub type SharedStore = Arc<dyn Store>;

//! The Journal: a node's own durable record, as the pure code sees it.
//!
//! It is a set of tables of records under byte keys. What the records mean is decided by the code that
//! writes them ([`crate::delivery`]); the journal promises only what durability is about:
//!
//! - a batch is applied whole or not at all;
//! - when `commit` returns `Ok`, the batch and all batches before it survive the loss of power;
//! - when it returns an error of [`JournalError::is_refusal`], nothing of the batch was applied and the journal goes on;
//! - after any other error nothing is promised about the batch, and the journal must be opened and read anew.
//!
//! The trait is blocking on purpose: the real journal runs on a thread of its own that shares one sync among
//! all who wait, and the simulated one must be free of threads to give one log for one seed.

use bytes::Bytes;

/// The tables. The numbers are on disk: never reuse one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Table {
    /// Single values: the journal's id, its mark, the floor of fleet time.
    Meta = 1,
    /// Messages that this node is the origin of.
    Outbox = 2,
    /// Messages that this node accepted, and those it has seen (against duplicates).
    Inbox = 3,
    /// Answers that this node owes: output and ends.
    Answers = 4,
    /// Envelopes that this hub holds for others.
    Relay = 5,
    /// Output and ends that came back for this node's own messages and whose reply is not written yet.
    Replies = 6,
    /// Entries of the trust log.
    Trust = 7,
    /// Keys of nodes by name, as the hub told.
    Names = 8,
}

impl Table {
    pub const ALL: [Self; 8] = [
        Self::Meta,
        Self::Outbox,
        Self::Inbox,
        Self::Answers,
        Self::Relay,
        Self::Replies,
        Self::Trust,
        Self::Names,
    ];
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Writes the record under this key, whether or not there was one.
    Put { table: Table, key: Bytes, value: Bytes },
    /// Removes the record; it is no error if there is none.
    Delete { table: Table, key: Bytes },
}

/// Whether a batch may be refused for want of space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// New work: `reserve` more bytes must remain writable for its output and its end, else it is refused.
    New { reserve: u64 },
    /// Work that is owed because new work was accepted before: it may use what was reserved, and gives
    /// back `release` bytes of the reservation.
    Owed { release: u64 },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    pub class: Class,
    pub ops: Vec<Op>,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// There is no space for new work. Nothing was written; what was accepted is kept; try again later.
    #[error("the disk is full")]
    Full,
    /// A record is larger than any journal takes. Nothing was written; trying again is of no use.
    #[error("a record of {size} bytes is beyond the {limit} that a journal takes")]
    TooLarge { size: usize, limit: usize },
    /// The journal was written by a newer version of the program. It was not touched.
    #[error("the journal is of format {found}, newer than the {understood} that this version understands")]
    Newer { found: u32, understood: u32 },
    /// A sync or a write failed, or the file is damaged. Close it, open it, read it again.
    #[error("the journal failed: {0}")]
    Failed(String),
}

impl JournalError {
    /// The batch was refused and left no trace; the journal itself is well.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Full | Self::TooLarge { .. })
    }
}

/// What was found damaged when the journal was opened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Damage {
    /// Records whose checksum did not fit, by table and key. They were set aside, not deleted.
    pub records: Vec<(Table, Bytes)>,
    /// What the storage engine itself reported.
    pub notes: Vec<String>,
}

pub trait Journal: Send {
    /// Applies the batches in order, each whole or not at all, and makes them durable with one sync.
    /// One result per batch.
    fn commit(&mut self, batches: &[Batch]) -> Vec<Result<(), JournalError>>;

    /// All records of a table in the order of their keys.
    fn read(&mut self, table: Table, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), JournalError>;

    /// Tells what is still reserved by the work that was read: the sum of [`Class::New`]'s `reserve` less
    /// what was released. To be called once, after opening and reading and before the first commit. It
    /// cannot fail: on a full disk, new work is refused until there is room again. A journal without
    /// limits needs not know.
    fn restore_reservation(&mut self, _bytes: u64) {}
}

//! Durability: the Journal on SQLite, the thread that shares its syncs, and the Store.
//!
//! Nothing here knows what a record means, and nothing here opens a connection to another machine.

pub mod group_commit;
mod reserve;
mod sqlite_file;
pub mod sqlite_journal;

pub use group_commit::{Counters, Handle, Writer};
pub use sqlite_journal::SqliteJournal;

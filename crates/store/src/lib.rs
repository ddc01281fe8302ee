//! Durability: the Journal on SQLite, the thread that shares its syncs, and the Store.
//!
//! Nothing here knows what a record means, and nothing here opens a connection to another machine.

pub mod embedded_store;
#[cfg(any(test, feature = "testing"))]
pub mod fault_vfs;
pub mod group_commit;
#[cfg(any(test, feature = "testing"))]
pub mod journal_conformance;
pub mod key;
pub mod model_journal;
mod reserve;
mod salvage;
mod sqlite_file;
pub mod sqlite_journal;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod store_conformance;
mod store_tables;

pub use embedded_store::SqliteStore;
pub use group_commit::{Counters, Handle, Writer};
pub use model_journal::{ModelDisk, ModelJournal};
pub use sqlite_journal::SqliteJournal;
pub use store::{SharedStore, Store, StoreError};

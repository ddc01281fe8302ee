//! A copy of a journal that is in use, for a backup.

use std::path::Path;

use mainstay_core::journal::{Batch, Class, Journal as _, JournalError, Op};
use mainstay_store::group_commit::Handle;
use mainstay_store::sqlite_journal::SqliteJournal;

/// Records in one batch of the copy, so that it is written in a few syncs and no batch grows large.
const AT_ONCE: usize = 256;

/// Writes all records as they are at one moment to a new journal. Its id and its mark are among them: it is the same journal, at an
/// earlier time.
pub(crate) async fn copy(journal: &Handle, to: &Path) -> Result<(), JournalError> {
    let tables = journal.read_all().await?;
    let to = to.to_owned();
    let write = move || {
        let (mut copy, _) = SqliteJournal::open(&to)?;
        for (table, records) in tables {
            for some in records.chunks(AT_ONCE) {
                let put = |(key, value): &(bytes::Bytes, bytes::Bytes)| Op::Put {
                    table,
                    key: key.clone(),
                    value: value.clone(),
                };
                let ops = some.iter().map(put).collect();
                // What was accepted may use what was reserved for it.
                let class = Class::Owed { release: 0 };
                copy.commit(&[Batch { class, ops }]).into_iter().collect::<Result<(), _>>()?;
            }
        }
        Ok(())
    };
    let written = tokio::task::spawn_blocking(write).await;
    written.unwrap_or_else(|error| Err(JournalError::Failed(error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use mainstay_core::journal::Table;
    use mainstay_store::group_commit::Writer;

    #[tokio::test]
    async fn a_copy_has_every_record_of_every_table() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = SqliteJournal::open(&dir.path().join("journal.db")).unwrap();
        let writer = Writer::start(Box::new(journal)).unwrap();
        let handle = writer.handle();
        for table in Table::ALL {
            let put = |n: u32| Op::Put {
                table,
                key: Bytes::copy_from_slice(&n.to_be_bytes()),
                value: Bytes::from(vec![table as u8; 10]),
            };
            let ops = (0..600).map(put).collect();
            let class = Class::New { reserve: 0 };
            handle.commit(Batch { class, ops }).await.unwrap();
        }
        let to = dir.path().join("copy.db");
        copy(&handle, &to).await.unwrap();
        writer.stop().await.unwrap();
        let (mut copied, damage) = SqliteJournal::open(&to).unwrap();
        assert!(damage.records.is_empty());
        for table in Table::ALL {
            let mut count = 0;
            copied
                .read(table, &mut |_, value| {
                    assert_eq!(value, [table as u8; 10]);
                    count += 1;
                })
                .unwrap();
            assert_eq!(count, 600, "{table:?}");
        }
    }
}

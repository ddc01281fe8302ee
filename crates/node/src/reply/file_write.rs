//! `file.write`: puts the whole answer in place of a file's content. Whoever reads the file sees all of the
//! old or all of the new; to write it again after a crash changes nothing.

use std::io::Write as _;

use bytes::Bytes;
use mainstay_core::method::ReplyMethod;

use super::{Reply, ReplyError, Task, Tried, Written, is_void};
use crate::received::{Directory, ReceivedError};

pub(super) struct FileWrite;

impl Reply for FileWrite {
    fn method(&self) -> ReplyMethod {
        ReplyMethod::FileWrite
    }

    fn whole(&self) -> bool {
        true
    }

    /// Nothing to remember, but what cannot be opened is known before anything is recorded.
    fn plan(&self, task: &Task) -> Result<Bytes, ReplyError> {
        if !is_void(&task.job) {
            task.spot()?.directory()?;
        }
        Ok(Bytes::new())
    }

    fn write(&self, task: &Task, _: &[u8], _: Tried) -> Result<Written, ReplyError> {
        if is_void(&task.job) {
            return Ok(Written::Done);
        }
        let spot = task.spot()?;
        let directory = spot.directory()?;
        let fresh = format!(".mainstay-{}", task.job.id);
        // One that a crash left.
        directory.remove(&fresh)?;
        let result = write(&directory, &fresh, task).and_then(|()| directory.replace(&fresh, spot.file()));
        if result.is_err() {
            // Above all not to fill a full disk further.
            let _ = directory.remove(&fresh);
        }
        result?;
        Ok(Written::Done)
    }
}

fn write(directory: &Directory, fresh: &str, task: &Task) -> Result<(), ReceivedError> {
    let (mut file, _) = directory.open(fresh)?;
    let all = task.job.pieces.iter().try_for_each(|piece| file.write_all(&piece.data));
    all.and_then(|()| file.sync_all())
        .map_err(|error| ReceivedError::Io { path: directory.path().join(fresh), error })
}

//! `file.append`: adds the answer to a file, exactly once.
//!
//! The mark is the file's identity and length when it was planned, and how much is to be added. A write that
//! failed or was cut off by a crash is judged by what stands at that place:
//!
//! - all of the answer: it is done;
//! - a part of it, or the zeroes that a power loss leaves in place of data, and nothing behind: cut off, and
//!   written again;
//! - anything else, or another file, or a shorter one: others were at the file. What they wrote is not touched;
//!   the answer is planned anew and goes to the file's new end.
//!
//! So an answer can be torn or doubled only where another program wrote to the same file within the very
//! moment of a crash, and never lost.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use bytes::Bytes;
use mainstay_core::method::ReplyMethod;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{Reply, ReplyError, Task, Tried, Written, is_void};
use crate::received::ReceivedError;

pub(super) struct FileAppend;

/// What is recorded before anything is written. It is on disk: fields may be added, never changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Mark {
    device: u64,
    inode: u64,
    offset: u64,
    length: u64,
}

impl Reply for FileAppend {
    fn method(&self) -> ReplyMethod {
        ReplyMethod::FileAppend
    }

    fn plan(&self, task: &Task) -> Result<Bytes, ReplyError> {
        if is_void(&task.job) {
            return Ok(Bytes::new());
        }
        let file = open(task)?;
        let metadata = file.metadata().map_err(|error| failed(task, error))?;
        let mark = Mark {
            device: metadata.dev(),
            inode: metadata.ino(),
            offset: metadata.len(),
            length: task.job.pieces.iter().map(|piece| piece.data.len() as u64).sum(),
        };
        Ok(rmp_serde::to_vec_named(&mark).expect("a mark holds nothing that MessagePack cannot").into())
    }

    fn write(&self, task: &Task, mark: &[u8], tried: Tried) -> Result<Written, ReplyError> {
        if is_void(&task.job) {
            return Ok(Written::Done);
        }
        let mark: Mark = rmp_serde::from_slice(mark).map_err(|_| ReplyError::Mark)?;
        let bytes = task.bytes();
        let mut file = open(task)?;
        let written = append(&mut file, &mark, &bytes, tried).map_err(|error| failed(task, error))?;
        if written == Written::PlanAgain {
            warn!(file = %task.spot()?.path().display(), "others wrote to the file of an answer; it goes to its new end");
        }
        Ok(written)
    }
}

fn open(task: &Task) -> Result<File, ReplyError> {
    let spot = task.spot()?;
    let (file, _) = spot.directory()?.open(spot.file())?;
    Ok(file)
}

fn failed(task: &Task, error: io::Error) -> ReplyError {
    let path = task.spot.as_ref().map(|spot| spot.path()).unwrap_or_default();
    ReplyError::Received(ReceivedError::Io { path, error })
}

fn append(file: &mut File, mark: &Mark, bytes: &[u8], tried: Tried) -> io::Result<Written> {
    let metadata = file.metadata()?;
    let same = (metadata.dev(), metadata.ino()) == (mark.device, mark.inode);
    if !same || metadata.len() < mark.offset || mark.length != bytes.len() as u64 {
        return Ok(Written::PlanAgain);
    }
    if metadata.len() > mark.offset {
        if tried == Tried::Never {
            return Ok(Written::PlanAgain);
        }
        match judge(file, mark.offset, metadata.len(), bytes)? {
            Found::All => {
                file.sync_all()?;
                return Ok(Written::Done);
            }
            Found::Torn => file.set_len(mark.offset)?,
            Found::Foreign => return Ok(Written::PlanAgain),
        }
    }
    // Appending, not writing at the offset: should another program be quicker, nothing of its is overwritten.
    fcntl(&*file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
    let result = file.write_all(bytes).and_then(|()| file.sync_all());
    if result.is_err() && file.metadata().is_ok_and(|now| now.len() <= mark.offset + mark.length) {
        // What a failed sync left in memory is not believed: the next attempt writes all of it again.
        let _ = file.set_len(mark.offset);
    }
    result.map(|()| Written::Done)
}

/// What stands behind the offset.
enum Found {
    All,
    Torn,
    Foreign,
}

fn judge(file: &File, offset: u64, length: u64, bytes: &[u8]) -> io::Result<Found> {
    let there = usize::try_from(length - offset).unwrap_or(usize::MAX).min(bytes.len());
    let mut found = vec![0; there];
    file.read_exact_at(&mut found, offset)?;
    if found == bytes {
        return Ok(Found::All);
    }
    let ends_here = length - offset <= bytes.len() as u64;
    let ours = found.iter().zip(bytes).all(|(found, byte)| found == byte || *found == 0);
    Ok(if ends_here && ours { Found::Torn } else { Found::Foreign })
}

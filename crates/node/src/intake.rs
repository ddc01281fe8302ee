//! The message socket of seed 004: whoever may open it writes a message file into it, and reads what became
//! of each message, one JSON object a line.
//!
//! This reads text and writes lines. What the text means, and whether it is accepted, is decided by the
//! [`Submit`] behind it. `nc -U message.sock < file` works whether or not that `nc` closes its sending
//! side: a text that begins with a bracket is complete when the bracket is closed.

mod document;

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mainstay_core::id::{MessageId, NodeName};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use document::Scan;

/// Largest text: that of the largest message file, which the reader of files bounds.
pub const MAX_TEXT: usize = mainstay_core::message::MAX_FILE;

/// Connections served at one time; more wait until one of these ends. Each may hold [`MAX_TEXT`].
const MAX_CONNECTIONS: usize = 16;

/// How long a connection may be silent before its text is complete: people type into `nc`, too.
const SILENCE: Duration = Duration::from_secs(30);

/// How long a text may take altogether, so that nobody holds a place for ever by trickling.
const WHOLE: Duration = Duration::from_secs(300);

/// How long to take what still comes after the answer. To close with bytes unread would destroy the answer
/// on its way; to wait for ever would let `nc` hang.
const LINGER: Duration = Duration::from_secs(1);

/// The pause after the system refused a connection (no descriptors left, as a rule).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the socket leads to.
#[async_trait]
pub trait Submit: Send + Sync + 'static {
    /// Takes the whole text or refuses it whole. The answer has a line for each message, or what is wrong.
    async fn submit(&self, text: String) -> Vec<Line>;
}

/// One line of the answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(untagged)]
pub enum Line {
    Accepted {
        id: MessageId,
        to: NodeName,
    },
    Refused {
        error: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        field: Option<String>,
        /// Both count from 1.
        #[serde(skip_serializing_if = "Option::is_none")]
        line: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        column: Option<u64>,
    },
}

impl Line {
    /// A refusal of the whole, for no field in particular.
    pub fn refused(error: impl Into<String>) -> Self {
        Self::Refused { error: error.into(), field: None, line: None, column: None }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("{0} is in use: another process listens on it")]
    InUse(PathBuf),
    #[error("{0} is there and is not a socket")]
    NotASocket(PathBuf),
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
}

/// A socket that listens, and is for its owner alone. Its file goes with it.
pub struct Intake {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket's file, so that only this very one is removed.
    file: (u64, u64),
}

impl Intake {
    /// Listens on `path`. The file of a process that died is replaced; that of a living one is not.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let io = |error| BindError::Io { path: path.to_owned(), error };
        match fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(BindError::NotASocket(path.to_owned()));
            }
            Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => {}
                // It answers, or its queue is full: somebody is there.
                Ok(_) => return Err(BindError::InUse(path.to_owned())),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(BindError::InUse(path.to_owned()));
                }
                Err(error) => return Err(io(error)),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
        // Nobody finds it under its name before it has its mode.
        let fresh = path.with_extension("new");
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&fresh).map_err(io)?;
        let moved = fs::set_permissions(&fresh, Permissions::from_mode(0o600))
            .and_then(|()| fs::rename(&fresh, path))
            .and_then(|()| fs::symlink_metadata(path));
        let metadata = moved.map_err(|error| {
            let _ = fs::remove_file(&fresh);
            io(error)
        })?;
        Ok(Self { listener, path: path.to_owned(), file: (metadata.dev(), metadata.ino()) })
    }

    /// Serves until it is cancelled; then what is being answered is answered, and what is being read is cut.
    pub async fn run(self, submit: Arc<dyn Submit>, cancel: CancellationToken) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let tasks = TaskTracker::new();
        loop {
            let accepted = async {
                let place = places.clone().acquire_owned().await;
                (place, self.listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                () = cancel.cancelled() => break,
                accepted = accepted => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (submit, cancel) = (submit.clone(), cancel.clone());
                    tasks.spawn(async move {
                        if let Err(error) = serve(stream, submit.as_ref(), &cancel).await {
                            debug!("a connection to the message socket ended: {error}");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!("the message socket cannot take a connection: {error}");
                    tokio::select! {
                        () = cancel.cancelled() => break,
                        () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                    }
                }
            }
        }
        tasks.close();
        tasks.wait().await;
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        let same = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.file);
        if same {
            let _ = fs::remove_file(&self.path);
        }
    }
}

async fn serve(mut stream: UnixStream, submit: &dyn Submit, cancel: &CancellationToken) -> io::Result<()> {
    let text = tokio::select! {
        () = cancel.cancelled() => return Ok(()),
        text = timeout(WHOLE, read(&mut stream)) => match text {
            Ok(text) => text?,
            Err(_) => Err(Line::refused("the message took longer than 5 minutes")),
        },
    };
    let lines = match text {
        // Somebody looked whether the socket lives.
        Ok(text) if text.is_empty() => return Ok(()),
        Ok(text) => submit.submit(text).await,
        Err(line) => vec![line],
    };
    let mut answer = Vec::new();
    for line in &lines {
        serde_json::to_writer(&mut answer, line)?;
        answer.push(b'\n');
    }
    let write = async {
        stream.write_all(&answer).await?;
        stream.shutdown().await
    };
    timeout(SILENCE, write).await??;
    let mut rest = [0; 4096];
    let drain = async { while !matches!(stream.read(&mut rest).await, Ok(0) | Err(_)) {} };
    tokio::select! {
        () = cancel.cancelled() => {}
        _ = timeout(LINGER, drain) => {}
    }
    Ok(())
}

/// Reads one text: to its end, or to the end of what it says is sent.
async fn read(stream: &mut UnixStream) -> io::Result<Result<String, Line>> {
    let mut bytes = Vec::new();
    let mut scan = Scan::default();
    loop {
        let mut part = [0; 8192];
        let count = match timeout(SILENCE, stream.read(&mut part)).await {
            Ok(count) => count?,
            Err(_) => {
                return Ok(Err(Line::refused(format!(
                    "the message has no end: nothing came for {} s. Close the sending side (nc -N) after YAML",
                    SILENCE.as_secs()
                ))));
            }
        };
        if bytes.len() + count > MAX_TEXT {
            return Ok(Err(Line::refused(format!("the message is larger than {MAX_TEXT} bytes"))));
        }
        bytes.extend_from_slice(&part[..count]);
        if count == 0 || scan.is_complete(&part[..count]) {
            break;
        }
    }
    Ok(String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
        Line::Refused { error: "it is not UTF-8".to_owned(), field: None, line: Some(line), column: None }
    }))
}

#[cfg(test)]
mod tests;

//! The audit log: who asked what of this hub, each entry bound to the one before by its hash.
//!
//! An entry is written before the act it tells of has any effect. Killed in between, the log tells of an act that did not come about;
//! the other way round there would be acts that nobody is named for. The chain shows that entries
//! were changed or taken out; that the last ones were cut off shows only against a hash that was noted elsewhere.

use bytes::Bytes;
use mainstay_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Mutex, oneshot};

use crate::shelf::{Shelf, ShelfError};

const LOG: &str = "audit";

/// Entries read at a time.
const PAGE: usize = 1024;

/// Longest text kept of what an operator gave, so that an entry stays small.
const MAX_DETAIL: usize = 16 * 1024;

#[derive(Serialize, Deserialize)]
struct Line {
    at: i64,
    operator: String,
    act: String,
    detail: Value,
    /// Hash of the entry before, as its bytes are in the log; zeroes for the first.
    previous: String,
}

struct Head {
    hash: String,
    position: u64,
    /// The log may go on after this.
    stale: bool,
}

pub struct Audit {
    shelf: Shelf,
    /// Held across the append: entries follow one another.
    head: Mutex<Head>,
    waiting: std::sync::Mutex<Vec<Waiting>>,
}

type Waiting = (Line, oneshot::Sender<Result<(), ShelfError>>);

#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("entry {position} of the audit log does not follow from the one before it: the log was changed")]
    Broken { position: u64 },
    #[error("entry {position} of the audit log cannot be read")]
    Unreadable { position: u64 },
    #[error(transparent)]
    Store(#[from] ShelfError),
}

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

impl Head {
    fn first() -> Self {
        Self { hash: "0".repeat(64), position: 0, stale: false }
    }
}

impl Audit {
    /// Finds the end of the chain, and checks the chain on the way. A broken one is reported and gone on with: the hub must
    /// not fall silent because someone tampered with its log.
    pub async fn open(shelf: Shelf) -> Result<Self, AuditError> {
        let mut head = Head::first();
        loop {
            let page = shelf.read(LOG, head.position, PAGE).await?;
            if page.is_empty() {
                break;
            }
            for (position, bytes) in page {
                if let Err(e) = check(&head, position, &bytes) {
                    tracing::error!("{e}");
                }
                head = Head { hash: hash(&bytes), position, stale: false };
            }
        }
        Ok(Self { shelf, head: Mutex::new(head), waiting: std::sync::Mutex::default() })
    }

    /// Writes an entry. When this returns, it is durable.
    pub async fn note(
        &self,
        at: Timestamp,
        operator: &str,
        act: &str,
        detail: Value,
    ) -> Result<(), AuditError> {
        let detail = match detail.to_string() {
            text if text.len() > MAX_DETAIL => Value::String(format!("{} bytes, left out", text.len())),
            _ => detail,
        };
        let line = Line {
            at: at.as_millis(),
            operator: operator.to_owned(),
            act: act.to_owned(),
            detail,
            previous: String::new(),
        };
        let (done, mut written) = oneshot::channel();
        self.waiting.lock().expect("no holder panics").push((line, done));
        // Whoever comes first writes for all who wait by then, with one sync.
        let mut head = self.head.lock().await;
        match written.try_recv() {
            Ok(result) => return Ok(result?),
            Err(TryRecvError::Closed) => {
                return Err(ShelfError::Unknown("whoever wrote it went away".into()).into());
            }
            Err(TryRecvError::Empty) => {}
        }
        let waiting = std::mem::take(&mut *self.waiting.lock().expect("no holder panics"));
        let (mut lines, done): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
        let result = self.write(&mut head, &mut lines).await;
        for done in done {
            done.send(result.clone()).ok();
        }
        Ok(result?)
    }

    async fn write(&self, head: &mut Head, lines: &mut [Line]) -> Result<(), ShelfError> {
        if head.stale {
            while let page @ [.., (position, bytes)] = &self.shelf.read(LOG, head.position, PAGE).await?[..] {
                tracing::debug!(
                    count = page.len(),
                    "the audit log has entries whose writing was not heard of"
                );
                head.hash = hash(bytes);
                head.position = *position;
            }
        }
        let mut previous = head.hash.clone();
        let mut entries = Vec::with_capacity(lines.len());
        for line in lines {
            line.previous = previous;
            let bytes = Bytes::from(serde_json::to_vec(line).expect("a line is JSON"));
            previous = hash(&bytes);
            entries.push(bytes);
        }
        // Whether this fails, or is dropped while it waits: some of it may be in the log all the same.
        head.stale = true;
        let positions = self.shelf.append(LOG, entries).await?;
        head.stale = false;
        head.hash = previous;
        head.position = positions.last().copied().unwrap_or(head.position);
        Ok(())
    }

    /// Checks the whole chain. Returns how many entries it has.
    pub async fn verify(&self) -> Result<u64, AuditError> {
        let mut head = Head::first();
        let mut count = 0;
        loop {
            let page = self.shelf.read(LOG, head.position, PAGE).await?;
            if page.is_empty() {
                return Ok(count);
            }
            for (position, bytes) in page {
                check(&head, position, &bytes)?;
                count += 1;
                head = Head { hash: hash(&bytes), position, stale: false };
            }
        }
    }

    /// The last entries, newest first, each with its position and its hash.
    pub async fn last(&self, limit: usize) -> Result<Vec<Value>, AuditError> {
        let end = self.head.lock().await.position;
        // Positions may have gaps, so that as many positions hold fewer entries.
        let mut back = limit as u64;
        loop {
            let values = self.after(end.saturating_sub(back)).await?;
            if values.len() >= limit || back >= end {
                return Ok(values.into_iter().rev().take(limit).collect());
            }
            back = back.saturating_mul(4);
        }
    }

    async fn after(&self, mut from: u64) -> Result<Vec<Value>, AuditError> {
        let mut values = Vec::new();
        loop {
            let page = self.shelf.read(LOG, from, PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(values) };
            from = *last;
            for (position, bytes) in page {
                let mut value: Value =
                    serde_json::from_slice(&bytes).map_err(|_| AuditError::Unreadable { position })?;
                if let Value::Object(fields) = &mut value {
                    fields.insert("position".into(), position.into());
                    fields.insert("hash".into(), hash(&bytes).into());
                }
                values.push(value);
            }
        }
    }
}

fn check(head: &Head, position: u64, bytes: &[u8]) -> Result<(), AuditError> {
    let line: Line = serde_json::from_slice(bytes).map_err(|_| AuditError::Unreadable { position })?;
    if line.previous == head.hash { Ok(()) } else { Err(AuditError::Broken { position }) }
}

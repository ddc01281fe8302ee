//! The audit log: who asked what of this hub, each entry bound to the one before by its hash.
//!
//! An entry is written before the act it tells of has any effect. Killed in between, the log tells of an act that did not come about;
//! the other way round there would be acts that nobody is named for. The chain shows that entries
//! were changed or taken out; that the last ones were cut off shows only against a hash that was noted elsewhere.

use bytes::Bytes;
use mainstay_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Mutex;

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
}

pub struct Audit {
    shelf: Shelf,
    /// Held across the append: entries follow one another.
    head: Mutex<Head>,
}

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

fn first() -> String {
    "0".repeat(64)
}

impl Audit {
    /// Finds the end of the chain, and checks the chain on the way. A broken one is reported and gone on with: the hub must
    /// not fall silent because someone tampered with its log.
    pub async fn open(shelf: Shelf) -> Result<Self, AuditError> {
        let mut head = Head { hash: first(), position: 0 };
        loop {
            let page = shelf.read(LOG, head.position, PAGE).await?;
            if page.is_empty() {
                break;
            }
            for (position, bytes) in page {
                if let Err(e) = check(&head, position, &bytes) {
                    tracing::error!("{e}");
                }
                head = Head { hash: hash(&bytes), position };
            }
        }
        Ok(Self { shelf, head: Mutex::new(head) })
    }

    /// Writes an entry. When this returns, it is durable.
    pub async fn note(
        &self,
        at: Timestamp,
        operator: &str,
        act: &str,
        detail: Value,
    ) -> Result<(), AuditError> {
        let mut head = self.head.lock().await;
        let detail = match detail.to_string() {
            text if text.len() > MAX_DETAIL => Value::String(format!("{} bytes, left out", text.len())),
            _ => detail,
        };
        let line = Line {
            at: at.as_millis(),
            operator: operator.to_owned(),
            act: act.to_owned(),
            detail,
            previous: head.hash.clone(),
        };
        let bytes = Bytes::from(serde_json::to_vec(&line).expect("a line is JSON"));
        match self.shelf.append(LOG, vec![bytes.clone()]).await {
            Ok(positions) => {
                head.hash = hash(&bytes);
                head.position = positions.last().copied().unwrap_or(head.position);
                Ok(())
            }
            Err(e) => {
                // It may be there all the same: the chain must go on from what is really the last.
                if let Ok(page) = self.shelf.read(LOG, head.position, PAGE).await
                    && let Some((position, bytes)) = page.last()
                {
                    head.hash = hash(bytes);
                    head.position = *position;
                }
                Err(e.into())
            }
        }
    }

    /// Checks the whole chain. Returns how many entries it has.
    pub async fn verify(&self) -> Result<u64, AuditError> {
        let mut head = Head { hash: first(), position: 0 };
        let mut count = 0;
        loop {
            let page = self.shelf.read(LOG, head.position, PAGE).await?;
            if page.is_empty() {
                return Ok(count);
            }
            for (position, bytes) in page {
                check(&head, position, &bytes)?;
                count += 1;
                head = Head { hash: hash(&bytes), position };
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

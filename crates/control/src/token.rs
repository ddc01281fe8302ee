//! Tokens: what lets a new node join, and what lets a program in at the API.
//!
//! Only the hash of a secret is kept (`token.<id>`, where the id is the hash's beginning). A use of a join token is
//! a key of its own, `use.<id>.<n>`, put if absent with the node's key as its value, before anything else is written for that
//! node: so a token for one node admits one, whatever races or crashes, and a node that comes again with the same key
//! finds its own use and goes on with it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use mainstay_core::id::{KeyId, NodeName};
use mainstay_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::shelf::{Expect, Shelf, ShelfError};
use crate::view::{Operator, TokenKind, TokenView};

/// Most nodes that one token may admit: a fleet of the size this is built for, ten times over.
pub const MAX_USES: u32 = 100_000;

/// Most tokens at a time; the expired ones are swept away.
pub const MAX_TOKENS: usize = 10_000;

/// A token longer than this is not looked at.
const MAX_SECRET: usize = 512;

const OPERATOR_PREFIX: &str = "mso1.";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenRecord {
    pub kind: TokenKind,
    #[serde(with = "serde_bytes")]
    hash: [u8; 32],
    pub created: Timestamp,
    pub expires: Timestamp,
    /// How many nodes it may admit; 0 for operators.
    pub uses: u32,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// For operators: globs over methods, and a target expression.
    #[serde(default)]
    pub methods: Vec<String>,
    #[serde(default)]
    pub targets: Option<String>,
    #[serde(default)]
    pub admin: bool,
    pub created_by: String,
}

#[derive(Default)]
struct Uses {
    by_node: HashMap<KeyId, u32>,
    next: u32,
    /// Reserved once, and not written after all.
    free: Vec<u32>,
    /// Nodes whose use is being written.
    taking: HashSet<KeyId>,
}

struct Held {
    record: Arc<TokenRecord>,
    uses: Uses,
}

pub struct Tokens {
    shelf: Shelf,
    held: Mutex<BTreeMap<String, Held>>,
}

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("the token is not known here: it was revoked, has expired long ago, or belongs to another fleet")]
    Unknown,
    #[error("the token has expired")]
    Expired,
    #[error("the token has been used as often as it may be")]
    UsedUp,
    #[error("the same node is being enrolled already")]
    InProgress,
    #[error("the token is bound to the name {0}")]
    Bound(String),
    #[error("there are {MAX_TOKENS} tokens already; revoke some")]
    TooMany,
    #[error("no randomness can be had from the system")]
    Random,
    #[error(transparent)]
    Store(#[from] ShelfError),
}

fn token_key(id: &str) -> String {
    format!("token.{id}")
}

fn id_of(hash: &blake3::Hash) -> String {
    hash.to_hex()[..16].to_owned()
}

/// 32 random bytes as text.
fn random_secret() -> Result<String, TokenError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|_| TokenError::Random)?;
    Ok(data_encoding::BASE64URL_NOPAD.encode(&bytes))
}

impl Tokens {
    pub async fn open(shelf: Shelf) -> Result<Self, TokenError> {
        let mut held = BTreeMap::new();
        for (key, record, _) in shelf.list::<TokenRecord>("token").await? {
            if let Some(id) = key.strip_prefix("token.") {
                let uses = Uses::default();
                let record = Arc::new(record);
                held.insert(id.to_owned(), Held { record, uses });
            }
        }
        for (key, node, revision) in shelf.list::<KeyId>("use").await? {
            let place = key.strip_prefix("use.").and_then(|rest| rest.split_once('.'));
            let token = place.and_then(|(id, n)| Some((held.get_mut(id)?, n.parse::<u32>().ok()?)));
            if let Some((token, n)) = token {
                token.uses.add(node, n);
            } else {
                // Its token was revoked, and the hub was killed before it had swept its uses away.
                shelf.delete(&key, Expect::Revision(revision)).await?;
            }
        }
        Ok(Self { shelf, held: Mutex::new(held) })
    }

    /// Makes a token from all of a record but its hash. Returns the secret, which is seen only now.
    pub async fn create(&self, mut record: TokenRecord) -> Result<(String, TokenView), TokenError> {
        if self.held.lock().expect("no holder panics").len() >= MAX_TOKENS {
            return Err(TokenError::TooMany);
        }
        let mut secret = random_secret()?;
        if record.kind == TokenKind::Operator {
            secret.insert_str(0, OPERATOR_PREFIX);
        }
        let hash = blake3::hash(secret.as_bytes());
        record.hash = *hash.as_bytes();
        let id = id_of(&hash);
        self.shelf.put(&token_key(&id), &record, Expect::Absent).await?;
        let view = record.view(&id, 0);
        let held = Held { record: Arc::new(record), uses: Uses::default() };
        self.held.lock().expect("no holder panics").insert(id, held);
        Ok((secret, view))
    }

    fn lookup(&self, secret: &str, kind: TokenKind) -> Result<(String, Arc<TokenRecord>), TokenError> {
        if secret.len() > MAX_SECRET {
            return Err(TokenError::Unknown);
        }
        let hash = blake3::hash(secret.as_bytes());
        let id = id_of(&hash);
        let held = self.held.lock().expect("no holder panics");
        let token = held.get(&id).ok_or(TokenError::Unknown)?;
        // Comparing hashes of this type takes the same time wherever they differ.
        if blake3::Hash::from_bytes(token.record.hash) != hash || token.record.kind != kind {
            return Err(TokenError::Unknown);
        }
        Ok((id, token.record.clone()))
    }

    /// The operator behind a token.
    pub fn operator(&self, secret: &str, now: Timestamp) -> Result<Operator, TokenError> {
        let (id, record) = self.lookup(secret, TokenKind::Operator)?;
        if now >= record.expires {
            return Err(TokenError::Expired);
        }
        let everything = || vec!["*".to_owned()];
        Ok(Operator {
            name: record.name.clone().unwrap_or_else(|| format!("token:{id}")),
            methods: if record.methods.is_empty() { everything() } else { record.methods.clone() },
            targets: record.targets.clone().unwrap_or_else(|| "*".into()),
            admin: record.admin,
        })
    }

    /// Takes one use of a join token for `node`, or finds the one it took before. When this returns, it is
    /// durable; killed afterwards, the node comes again and finds it.
    pub async fn redeem(
        &self,
        secret: &str,
        node: KeyId,
        wanted: &NodeName,
        now: Timestamp,
    ) -> Result<Arc<TokenRecord>, TokenError> {
        let (id, record) = self.lookup(secret, TokenKind::Join)?;
        if let Some(name) = &record.name
            && name != wanted.as_str()
        {
            return Err(TokenError::Bound(name.clone()));
        }
        loop {
            let n = {
                let mut held = self.held.lock().expect("no holder panics");
                let uses = &mut held.get_mut(&id).ok_or(TokenError::Unknown)?.uses;
                if uses.by_node.contains_key(&node) {
                    return Ok(record);
                }
                if now >= record.expires {
                    return Err(TokenError::Expired);
                }
                uses.reserve(node, record.uses)?
            };
            let key = format!("use.{id}.{n}");
            let holder = match self.shelf.put(&key, &node, Expect::Absent).await {
                Ok(_) => Ok(node),
                // Another hub was faster, or this is an own write that came through although it seemed to fail.
                Err(ShelfError::Conflict) => match self.shelf.get::<KeyId>(&key).await {
                    Ok(Some((holder, _))) => Ok(holder),
                    Ok(None) => Err(TokenError::Unknown),
                    Err(e) => Err(e.into()),
                },
                Err(e) => Err(e.into()),
            };
            let mut held = self.held.lock().expect("no holder panics");
            let uses = &mut held.get_mut(&id).ok_or(TokenError::Unknown)?.uses;
            uses.taking.remove(&node);
            match holder {
                Ok(holder) => uses.add(holder, n),
                Err(e) => {
                    uses.free.push(n);
                    return Err(e);
                }
            }
        }
    }

    pub fn views(&self) -> Vec<TokenView> {
        let held = self.held.lock().expect("no holder panics");
        let mut views: Vec<_> =
            held.iter().map(|(id, token)| token.record.view(id, token.uses.next)).collect();
        views.sort_by_key(|view| view.created_at);
        views
    }

    /// Forgets a token and its uses; nodes that joined by it stay. Killed in between, the uses go at the next start.
    pub async fn revoke(&self, id: &str) -> Result<(), TokenError> {
        let uses = {
            let held = self.held.lock().expect("no holder panics");
            let token = held.get(id).ok_or(TokenError::Unknown)?;
            token.uses.next
        };
        self.shelf.delete(&token_key(id), Expect::Any).await?;
        self.held.lock().expect("no holder panics").remove(id);
        for n in 0..uses {
            self.shelf.delete(&format!("use.{id}.{n}"), Expect::Any).await?;
        }
        Ok(())
    }

    /// Forgets what expired before `before`.
    pub async fn sweep(&self, before: Timestamp) -> Result<(), TokenError> {
        let old: Vec<String> = {
            let held = self.held.lock().expect("no holder panics");
            let expired = held.iter().filter(|(_, token)| token.record.expires < before);
            expired.map(|(id, _)| id.clone()).collect()
        };
        for id in old {
            self.revoke(&id).await?;
        }
        Ok(())
    }
}

impl Uses {
    fn reserve(&mut self, node: KeyId, most: u32) -> Result<u32, TokenError> {
        if self.taking.contains(&node) {
            return Err(TokenError::InProgress);
        }
        let n = match self.free.pop() {
            Some(n) => n,
            None if self.next < most => {
                self.next += 1;
                self.next - 1
            }
            None => return Err(TokenError::UsedUp),
        };
        self.taking.insert(node);
        Ok(n)
    }

    fn add(&mut self, node: KeyId, n: u32) {
        self.by_node.insert(node, n);
        self.next = self.next.max(n.saturating_add(1));
    }
}

impl TokenRecord {
    pub fn new(kind: TokenKind, created: Timestamp, expires: Timestamp, created_by: String) -> Self {
        Self {
            kind,
            hash: [0; 32],
            created,
            expires,
            uses: 0,
            name: None,
            labels: BTreeMap::new(),
            methods: Vec::new(),
            targets: None,
            admin: false,
            created_by,
        }
    }

    fn view(&self, id: &str, used: u32) -> TokenView {
        TokenView {
            id: id.to_owned(),
            kind: self.kind,
            created_at: self.created.as_millis(),
            expires_at: self.expires.as_millis(),
            uses_left: (self.kind == TokenKind::Join).then(|| self.uses.saturating_sub(used)),
            name: self.name.clone(),
            labels: self.labels.clone(),
            created_by: self.created_by.clone(),
        }
    }
}

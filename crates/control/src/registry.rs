//! The registry: which keys are nodes of this fleet, under which names, and what is known of them.
//!
//! In the Store a node is two keys: its name is claimed first (`name.<name>`, put if absent, its value the key),
//! then its record is written (`node.<key>`). A hub killed between the two leaves a claim without a record, which
//! [`Registry::open`] takes back; the other way round a record never stands without its claim, or gets it again there.
//! A node that waits to be accepted is in memory only: who has not been let in writes nothing to this hub's disk.
//!
//! What changes often (last seen, facts, journal mark) is changed in memory and written by [`Registry::flush`], at the end
//! of a link and every few seconds; a crash loses at most that much of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use mainstay_core::frame::Facts;
use mainstay_core::id::{JournalId, KeyId, NodeName};
use mainstay_core::target::{Subject, Target};
use mainstay_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::shelf::{Expect, Revision, Shelf, ShelfError};
use crate::view::{NodeState, NodeView, key_text};

/// Most nodes that wait to be accepted. They cost memory only, some kilobytes each; beyond it the one that asked longest
/// ago is forgotten, since a real agent asks again.
pub const MAX_WAITING: usize = 1_000;

/// Bounds on what a node says of itself, so that its record stays far below the Store's bound for one value.
const MAX_TEXT: usize = 256;
const MAX_ITEMS: usize = 64;

/// Soft changes are written this many at a time, so that they share syncs and do not crowd out the rest.
const FLUSH_AT_ONCE: usize = 256;

/// A node as it stands in the Store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeRecord {
    pub name: NodeName,
    pub state: NodeState,
    /// Given by operators and tokens; they win over the labels in `facts`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub facts: Facts,
    pub enrolled_at: Timestamp,
    #[serde(default)]
    pub last_seen: Option<Timestamp>,
    /// It had a link when this was written.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub linked: bool,
    /// The journal it was last linked with, and how far that had come.
    #[serde(default)]
    pub journal: Option<JournalId>,
    #[serde(default)]
    pub mark: u64,
    #[serde(default)]
    pub note: Option<String>,
}

/// A node that asked to join and is not let in yet.
#[derive(Clone, Debug)]
pub struct Applicant {
    pub name: NodeName,
    pub facts: Facts,
    pub journal: JournalId,
    pub asked_at: Timestamp,
    pub note: String,
}

struct Member {
    record: NodeRecord,
    revision: Revision,
    online: bool,
    address: Option<String>,
    /// One write at a time for a node, so that an old copy never overwrites a newer one.
    writing: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct Index {
    members: HashMap<KeyId, Member>,
    /// By name in lower case: names that differ in case only would be taken for one another.
    names: HashMap<String, KeyId>,
    waiting: HashMap<KeyId, Applicant>,
}

pub struct Registry {
    shelf: Shelf,
    index: RwLock<Index>,
    dirty: Mutex<HashSet<KeyId>>,
    /// When [`ALIVE`] was written last in this life of the hub.
    alive: Mutex<Option<Timestamp>>,
}

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("the name {0} is taken by another node")]
    NameTaken(NodeName),
    #[error("there is no such node")]
    Unknown,
    #[error("{0} was changed by someone else at the same time")]
    Conflict(NodeName),
    #[error(transparent)]
    Store(#[from] ShelfError),
}

/// How a hello compares with what is remembered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    Unknown,
    Good(NodeName),
    Quarantined(String),
    Gone,
}

/// When the hub last wrote that it is there: until then, at least, it saw the nodes that were linked when it was killed.
const ALIVE: &str = "hub_alive";

/// How exactly that is known. Each time costs a sync.
const ALIVE_STEP: Duration = Duration::from_secs(60);

fn node_key(key: &KeyId) -> String {
    format!("node.{key}")
}

/// A name may hold dots, which part a key's tokens, and differ in case only, which must not make it another.
fn name_key(name: &NodeName) -> String {
    format!("name.{}", folded(name).replace('.', "="))
}

fn folded(name: &NodeName) -> String {
    name.as_str().to_ascii_lowercase()
}

impl Registry {
    /// Reads all nodes, and mends what a crash left half done.
    pub async fn open(shelf: Shelf) -> Result<Self, RegistryError> {
        let mut index = Index::default();
        let alive = shelf.get::<Timestamp>(ALIVE).await?.map(|(at, _)| at);
        for (key, mut record, revision) in shelf.list::<NodeRecord>("node").await? {
            let Some(key) = key.strip_prefix("node.").and_then(|key| key.parse().ok()) else {
                tracing::warn!(key, "a node's record under no valid key was left alone");
                continue;
            };
            if std::mem::take(&mut record.linked) {
                record.last_seen = record.last_seen.max(alive);
            }
            index.members.insert(key, Member::new(record, revision));
        }
        let mut claims: HashMap<String, KeyId> = HashMap::new();
        for (claim, key, revision) in shelf.list::<KeyId>("name").await? {
            let holder = index.members.get(&key).map(|member| &member.record);
            if holder.is_some_and(|record| record.holds_name() && name_key(&record.name) == claim) {
                claims.insert(claim, key);
            } else {
                tracing::info!(claim, "taking back a name that was claimed and not used");
                shelf.delete(&claim, Expect::Revision(revision)).await?;
            }
        }
        for (key, member) in &mut index.members {
            if !member.record.holds_name() {
                continue;
            }
            let claim = name_key(&member.record.name);
            match claims.get(&claim) {
                Some(holder) if holder == key => {}
                Some(_) => {
                    tracing::error!(name = %member.record.name, "two nodes have the same name; one is quarantined");
                    member.record.state = NodeState::Quarantined;
                    member.record.note = Some("another node has its name".into());
                    continue;
                }
                None => {
                    shelf.put(&claim, key, Expect::Absent).await?;
                    claims.insert(claim, *key);
                }
            }
            index.names.insert(folded(&member.record.name), *key);
        }
        Ok(Self { shelf, index: RwLock::new(index), dirty: Mutex::default(), alive: Mutex::default() })
    }

    /// Makes `key` an active node. Asked again for the same key and name it changes nothing more; so an
    /// enrolment that a crash cut short is simply done again.
    pub async fn admit(&self, key: KeyId, record: NodeRecord) -> Result<NodeName, RegistryError> {
        let claim = name_key(&record.name);
        match self.shelf.put(&claim, &key, Expect::Absent).await {
            Ok(_) => {}
            Err(ShelfError::Conflict) => {
                let holder = self.shelf.get::<KeyId>(&claim).await?;
                if holder.is_some_and(|(holder, _)| holder != key) {
                    return Err(RegistryError::NameTaken(record.name));
                }
            }
            Err(e) => return Err(e.into()),
        }
        // Killed here: the claim has no record, and is taken back at the next start.
        let revision = match self.shelf.put(&node_key(&key), &record, Expect::Absent).await {
            Ok(revision) => revision,
            Err(ShelfError::Conflict) => {
                let found = self.shelf.get::<NodeRecord>(&node_key(&key)).await?;
                let Some((found, revision)) = found.filter(|(found, _)| found.name == record.name) else {
                    self.release(&claim, &key).await;
                    return Err(RegistryError::Conflict(record.name));
                };
                let mut index = self.index.write().expect("no holder panics");
                index.insert(key, found, revision);
                return Ok(record.name);
            }
            Err(e) => {
                self.release(&claim, &key).await;
                return Err(e.into());
            }
        };
        let name = record.name.clone();
        let mut index = self.index.write().expect("no holder panics");
        index.insert(key, record, revision);
        Ok(name)
    }

    /// Gives a claim back after the record could not be written. If that fails too, the next start does it.
    async fn release(&self, claim: &str, key: &KeyId) {
        if self.index.read().expect("no holder panics").members.contains_key(key) {
            return;
        }
        if let Err(e) = self.shelf.delete(claim, Expect::Any).await {
            tracing::warn!(claim, "a claimed name could not be given back: {e}");
        }
    }

    /// Changes a node's record and writes it before the change is seen by anyone. `change` must be the same
    /// each time it is called.
    pub async fn update(&self, key: KeyId, change: impl Fn(&mut NodeRecord)) -> Result<(), RegistryError> {
        let writing = self.writing(&key).ok_or(RegistryError::Unknown)?;
        let _one = writing.lock().await;
        let (mut record, revision) = {
            let index = self.index.read().expect("no holder panics");
            let member = index.members.get(&key).ok_or(RegistryError::Unknown)?;
            (member.record.clone(), member.revision)
        };
        change(&mut record);
        let name = record.name.clone();
        let written = self.shelf.put(&node_key(&key), &record, Expect::Revision(revision)).await;
        let revision = match written {
            Ok(revision) => revision,
            Err(ShelfError::Conflict) => return Err(RegistryError::Conflict(name)),
            Err(e) => return Err(e.into()),
        };
        let mut index = self.index.write().expect("no holder panics");
        if let Some(member) = index.members.get_mut(&key) {
            member.revision = revision;
            change(&mut member.record);
        }
        Ok(())
    }

    /// Gives a node another name: the new claim, the record, then the old claim goes. Killed in between, the
    /// next start keeps the claim that the record names.
    pub async fn rename(&self, key: KeyId, name: &NodeName) -> Result<(), RegistryError> {
        let old = self.record(&key).ok_or(RegistryError::Unknown)?.name;
        if name_key(&old) != name_key(name) {
            match self.shelf.put(&name_key(name), &key, Expect::Absent).await {
                Ok(_) => {}
                Err(ShelfError::Conflict) => return Err(RegistryError::NameTaken(name.clone())),
                Err(e) => return Err(e.into()),
            }
        }
        if let Err(e) = self.update(key, |record| record.name = name.clone()).await {
            if name_key(&old) != name_key(name) {
                self.shelf.delete(&name_key(name), Expect::Any).await.ok();
            }
            return Err(e);
        }
        {
            let mut index = self.index.write().expect("no holder panics");
            index.names.remove(&folded(&old));
            index.names.insert(folded(name), key);
        }
        if name_key(&old) != name_key(name) {
            self.shelf.delete(&name_key(&old), Expect::Any).await?;
        }
        Ok(())
    }

    /// Ends a node for good: its record stays, so that the key is known, and its name is free again if `free`.
    pub async fn retire(&self, key: KeyId, state: NodeState, note: &str) -> Result<(), RegistryError> {
        self.update(key, |record| {
            record.state = state;
            record.note = (!note.is_empty()).then(|| note.to_owned());
        })
        .await?;
        let name = {
            let mut index = self.index.write().expect("no holder panics");
            let Some(member) = index.members.get(&key) else { return Ok(()) };
            if member.record.holds_name() {
                return Ok(());
            }
            let name = member.record.name.clone();
            if index.names.get(&folded(&name)) != Some(&key) {
                return Ok(());
            }
            index.names.remove(&folded(&name));
            name
        };
        // Killed before this: the next start takes the claim back.
        self.shelf.delete(&name_key(&name), Expect::Any).await?;
        Ok(())
    }

    /// Compares a hello with what is remembered of the node, and remembers it if it is good.
    pub fn judge(&self, key: &KeyId, journal: JournalId, mark: u64) -> Standing {
        let mut index = self.index.write().expect("no holder panics");
        let Some(member) = index.members.get_mut(key) else {
            return Standing::Unknown;
        };
        let record = &mut member.record;
        match record.state {
            NodeState::Active => {}
            NodeState::Quarantined | NodeState::Waiting => {
                return Standing::Quarantined(record.note.clone().unwrap_or_default());
            }
            NodeState::Revoked | NodeState::Removed => return Standing::Gone,
        }
        let stepped_back = match record.journal {
            Some(known) if known != journal => Some("it came back with another journal".to_owned()),
            Some(_) if mark < record.mark => {
                Some(format!("its journal stepped back from {} to {mark} messages", record.mark))
            }
            _ => None,
        };
        if let Some(why) = stepped_back {
            return Standing::Quarantined(why);
        }
        if record.journal != Some(journal) || record.mark != mark {
            record.journal = Some(journal);
            record.mark = mark;
            self.dirty.lock().expect("no holder panics").insert(*key);
        }
        Standing::Good(record.name.clone())
    }

    pub fn link_up(&self, key: &KeyId, address: &str, now: Timestamp) {
        let mut index = self.index.write().expect("no holder panics");
        if let Some(member) = index.members.get_mut(key) {
            member.online = true;
            member.address = Some(address.chars().take(MAX_TEXT).collect());
            member.record.last_seen = member.record.last_seen.max(Some(now));
            member.record.linked = true;
            self.dirty.lock().expect("no holder panics").insert(*key);
        }
    }

    pub fn link_down(&self, key: &KeyId, mark: u64, now: Timestamp) {
        let mut index = self.index.write().expect("no holder panics");
        if let Some(member) = index.members.get_mut(key) {
            member.online = false;
            member.record.linked = false;
            member.record.last_seen = member.record.last_seen.max(Some(now));
            member.record.mark = member.record.mark.max(mark);
            self.dirty.lock().expect("no holder panics").insert(*key);
        }
    }

    /// The nodes that are linked are seen now, and that the hub was there to see them is written from time to time.
    pub async fn still_here(&self, now: Timestamp) -> Result<(), RegistryError> {
        {
            let mut alive = self.alive.lock().expect("no holder panics");
            if alive.is_some_and(|at| now.since(at) < ALIVE_STEP) {
                return Ok(());
            }
            *alive = Some(now);
            let mut index = self.index.write().expect("no holder panics");
            for member in index.members.values_mut().filter(|member| member.online) {
                member.record.last_seen = member.record.last_seen.max(Some(now));
            }
        }
        self.shelf.put(ALIVE, &now, Expect::Any).await?;
        Ok(())
    }

    pub fn facts(&self, key: &KeyId, facts: Facts) {
        let facts = bounded(facts);
        let mut index = self.index.write().expect("no holder panics");
        if let Some(member) = index.members.get_mut(key) {
            if member.record.facts != facts {
                member.record.facts = facts;
                self.dirty.lock().expect("no holder panics").insert(*key);
            }
        } else if let Some(applicant) = index.waiting.get_mut(key) {
            applicant.facts = facts;
        }
    }

    /// Remembers a node that asks, in memory. Beyond the bound, the one that asked longest ago is forgotten.
    pub fn apply(&self, key: KeyId, mut applicant: Applicant) {
        applicant.facts = bounded(applicant.facts);
        let mut index = self.index.write().expect("no holder panics");
        if index.members.contains_key(&key) {
            return;
        }
        if index.waiting.len() >= MAX_WAITING && !index.waiting.contains_key(&key) {
            let oldest = index.waiting.iter().min_by_key(|(_, a)| a.asked_at).map(|(key, _)| *key);
            if let Some(oldest) = oldest {
                index.waiting.remove(&oldest);
            }
        }
        index.waiting.insert(key, applicant);
    }

    pub fn applicant(&self, key: &KeyId) -> Option<Applicant> {
        self.index.read().expect("no holder panics").waiting.get(key).cloned()
    }

    pub fn dismiss(&self, key: &KeyId) {
        self.index.write().expect("no holder panics").waiting.remove(key);
    }

    /// Writes what changed in memory. What could not be written stays marked; returns how many that are.
    pub async fn flush(&self) -> usize {
        let mut keys: Vec<KeyId> =
            std::mem::take(&mut *self.dirty.lock().expect("no holder panics")).into_iter().collect();
        keys.sort_unstable();
        let mut left = Vec::new();
        for some in keys.chunks(FLUSH_AT_ONCE) {
            let writes = some.iter().map(|key| self.update(*key, |_| {}));
            for (key, result) in some.iter().zip(futures_util::future::join_all(writes).await) {
                if let Err(e) = result {
                    tracing::debug!(key = %key.short(), "what is known of a node was not written: {e}");
                    if !matches!(e, RegistryError::Unknown) {
                        left.push(*key);
                    }
                }
            }
        }
        let count = left.len();
        self.dirty.lock().expect("no holder panics").extend(left);
        count
    }

    pub fn record(&self, key: &KeyId) -> Option<NodeRecord> {
        let index = self.index.read().expect("no holder panics");
        index.members.get(key).map(|member| member.record.clone())
    }

    pub fn state(&self, key: &KeyId) -> Option<NodeState> {
        let index = self.index.read().expect("no holder panics");
        index.members.get(key).map(|member| member.record.state)
    }

    /// The key of an active or quarantined node of this name.
    pub fn key_of(&self, name: &NodeName) -> Option<KeyId> {
        let index = self.index.read().expect("no holder panics");
        index.names.get(&folded(name)).copied()
    }

    pub fn last_seen(&self, key: &KeyId) -> Option<Timestamp> {
        let index = self.index.read().expect("no holder panics");
        index.members.get(key).and_then(|member| member.record.last_seen)
    }

    /// How many nodes are in each state, and how many of them are linked.
    pub fn tally(&self) -> (BTreeMap<NodeState, u64>, u64) {
        let index = self.index.read().expect("no holder panics");
        let mut states = BTreeMap::new();
        for member in index.members.values() {
            *states.entry(member.record.state).or_default() += 1;
        }
        if !index.waiting.is_empty() {
            *states.entry(NodeState::Waiting).or_default() += index.waiting.len() as u64;
        }
        let online = index.members.values().filter(|member| member.online).count();
        (states, online as u64)
    }

    /// All keys that were ever nodes.
    pub fn keys(&self) -> Vec<KeyId> {
        let index = self.index.read().expect("no holder panics");
        index.members.keys().copied().collect()
    }

    /// The active nodes that any of these expressions means and `within` too, by name.
    pub fn select(&self, targets: &[Target], within: &Target) -> Vec<(KeyId, NodeName)> {
        let index = self.index.read().expect("no holder panics");
        let mut chosen: Vec<_> = index
            .members
            .iter()
            .filter(|(_, member)| member.record.state == NodeState::Active)
            .filter(|(_, member)| {
                let labels = member.record.all_labels();
                let subject = Subject {
                    name: member.record.name.as_str(),
                    labels: &labels,
                    facts: &member.record.facts,
                };
                targets.iter().any(|target| target.matches(&subject)) && within.matches(&subject)
            })
            .map(|(key, member)| (*key, member.record.name.clone()))
            .collect();
        drop(index);
        chosen.sort_unstable_by(|a, b| a.1.cmp(&b.1));
        chosen
    }

    /// Nodes by name; those removed are left out. With a target, the members that it means.
    pub fn views(&self, target: Option<&Target>) -> Vec<NodeView> {
        let index = self.index.read().expect("no holder panics");
        let members = index
            .members
            .iter()
            .filter(|(_, member)| member.record.state != NodeState::Removed)
            .filter(|(_, member)| {
                target.is_none_or(|target| {
                    let labels = member.record.all_labels();
                    target.matches(&Subject {
                        name: member.record.name.as_str(),
                        labels: &labels,
                        facts: &member.record.facts,
                    })
                })
            })
            .map(|(key, member)| member.view(key));
        let waiting =
            index.waiting.iter().filter(|_| target.is_none()).map(|(key, applicant)| applicant.view(key));
        let mut views: Vec<_> = members.chain(waiting).collect();
        drop(index);
        views.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| a.key.cmp(&b.key)));
        views
    }

    pub fn view(&self, key: &KeyId) -> Option<NodeView> {
        let index = self.index.read().expect("no holder panics");
        let member = index.members.get(key).map(|member| member.view(key));
        member.or_else(|| index.waiting.get(key).map(|applicant| applicant.view(key)))
    }

    /// The nodes that a person may mean: by name, else by key or by the first characters of it.
    pub fn find(&self, which: &str) -> Vec<KeyId> {
        let index = self.index.read().expect("no holder panics");
        if let Some(key) = index.names.get(&which.to_ascii_lowercase()) {
            return vec![*key];
        }
        let all = || index.members.keys().chain(index.waiting.keys());
        if let Ok(key) = which.parse::<KeyId>() {
            return all().filter(|known| **known == key).copied().collect();
        }
        let waiting = index.waiting.iter().filter(|(_, a)| a.name.as_str() == which);
        let mut found: Vec<_> = waiting.map(|(key, _)| *key).collect();
        // Shorter is more likely a mistyped name than a key.
        if found.is_empty() && which.len() >= 4 {
            found = all().filter(|key| key.to_string().starts_with(which)).copied().collect();
        }
        found
    }

    fn writing(&self, key: &KeyId) -> Option<Arc<tokio::sync::Mutex<()>>> {
        let index = self.index.read().expect("no holder panics");
        index.members.get(key).map(|member| member.writing.clone())
    }
}

impl Index {
    fn insert(&mut self, key: KeyId, record: NodeRecord, revision: Revision) {
        self.waiting.remove(&key);
        self.names.insert(folded(&record.name), key);
        self.members.insert(key, Member::new(record, revision));
    }
}

impl NodeRecord {
    /// A revoked node keeps its name until it is removed, so that nobody takes its place unnoticed.
    fn holds_name(&self) -> bool {
        self.state != NodeState::Removed
    }

    /// The labels that count: an operator's over the node's own.
    pub fn all_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.facts.labels.clone();
        labels.extend(self.labels.clone());
        labels
    }
}

impl Member {
    fn new(record: NodeRecord, revision: Revision) -> Self {
        Self { record, revision, online: false, address: None, writing: Arc::default() }
    }

    fn view(&self, key: &KeyId) -> NodeView {
        let record = &self.record;
        let mut view = view_of(key, &record.name, &record.facts);
        view.state = record.state;
        view.online = self.online;
        view.last_seen = record.last_seen.map(Timestamp::as_millis);
        view.enrolled_at = Some(record.enrolled_at.as_millis());
        view.labels = record.all_labels();
        view.note.clone_from(&record.note);
        view
    }
}

impl Applicant {
    fn view(&self, key: &KeyId) -> NodeView {
        let mut view = view_of(key, &self.name, &self.facts);
        view.last_seen = Some(self.asked_at.as_millis());
        view.note = Some(self.note.clone());
        view
    }
}

fn view_of(key: &KeyId, name: &NodeName, facts: &Facts) -> NodeView {
    let facts = facts.clone();
    NodeView {
        name: name.clone(),
        key: key_text(key),
        state: NodeState::Waiting,
        online: false,
        last_seen: None,
        enrolled_at: None,
        labels: facts.labels,
        os: facts.os,
        family: facts.family,
        os_version: facts.os_version,
        kernel: facts.kernel,
        arch: facts.arch,
        hostname: facts.hostname,
        cpus: facts.cpus,
        memory_bytes: facts.memory_bytes,
        addresses: facts.addresses,
        version: facts.version,
        note: None,
    }
}

/// What a node says of itself, cut to what is kept.
fn bounded(mut facts: Facts) -> Facts {
    let cut = |text: &mut String| {
        if text.len() > MAX_TEXT {
            *text = text.chars().take(MAX_TEXT / 4).collect();
        }
    };
    for text in [
        &mut facts.os,
        &mut facts.family,
        &mut facts.os_version,
        &mut facts.kernel,
        &mut facts.arch,
        &mut facts.hostname,
        &mut facts.version,
    ] {
        cut(text);
    }
    facts.addresses.truncate(MAX_ITEMS);
    facts.addresses.iter_mut().for_each(cut);
    facts.labels = facts
        .labels
        .into_iter()
        .filter(|(name, value)| name.len() <= MAX_TEXT && value.len() <= MAX_TEXT)
        .take(MAX_ITEMS)
        .collect();
    facts
}

//! The embedded store on real files and on a disk that fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mainstay_core::time::Timestamp;
use rusqlite::Connection;

use super::{Clock, SqliteStore, StoreDamage};
use crate::fault_vfs::{FaultDisk, Loss};
use crate::store::{
    Change, Entry, Expect, LogName, Position, Prefix, Revision, SharedStore, Store, StoreError, Ttl,
};
use crate::store_conformance::{StoreBench, key, store_suite};
use crate::store_tables::STORE_FORMAT;

#[derive(Clone)]
struct Time(Arc<AtomicI64>);

impl Time {
    fn new() -> Self {
        Self(Arc::new(AtomicI64::new(1_000_000)))
    }

    fn clock(&self) -> Clock {
        let time = Arc::clone(&self.0);
        Arc::new(move || Timestamp::from_millis(time.load(Ordering::Relaxed)))
    }
}

struct OnFiles {
    dir: tempfile::TempDir,
    time: Time,
    store: Arc<SqliteStore>,
}

impl OnFiles {
    fn new() -> Self {
        let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
        let (store, damage) = SqliteStore::open(&dir.path().join("store.db"), time.clock()).unwrap();
        assert_eq!(damage, StoreDamage::default());
        Self { dir, time, store: Arc::new(store) }
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("store.db")
    }

    fn open_again(&mut self) -> StoreDamage {
        let (store, damage) = SqliteStore::open(&self.path(), self.time.clock()).unwrap();
        self.store = Arc::new(store);
        damage
    }
}

#[async_trait]
impl StoreBench for OnFiles {
    fn store(&self) -> SharedStore {
        Arc::clone(&self.store) as SharedStore
    }

    async fn reopen(&mut self) {
        self.store.close().await;
        assert_eq!(self.open_again(), StoreDamage::default());
    }

    async fn pass(&self, span: Duration) {
        self.time.0.fetch_add(span.as_millis() as i64, Ordering::Relaxed);
    }
}

/// Every reopening is after a power loss.
struct OnDisk {
    disk: FaultDisk,
    time: Time,
    store: Arc<SqliteStore>,
}

impl OnDisk {
    fn new() -> Self {
        let (disk, time) = (FaultDisk::new(), Time::new());
        let (store, _) = SqliteStore::open_on(&disk, time.clock()).unwrap();
        Self { disk, time, store: Arc::new(store) }
    }
}

#[async_trait]
impl StoreBench for OnDisk {
    fn store(&self) -> SharedStore {
        Arc::clone(&self.store) as SharedStore
    }

    async fn reopen(&mut self) {
        // Cut off before it can close in peace.
        self.disk.power_off_after(0);
        self.store.close().await;
        self.disk.power_loss(Loss::All);
        let (store, damage) = SqliteStore::open_on(&self.disk, self.time.clock()).unwrap();
        assert_eq!(damage, StoreDamage::default());
        self.store = Arc::new(store);
    }

    async fn pass(&self, span: Duration) {
        self.time.0.fetch_add(span.as_millis() as i64, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn it_conforms_on_files() {
    store_suite(async || OnFiles::new()).await;
}

#[tokio::test]
async fn it_conforms_on_a_disk_that_loses_power() {
    store_suite(async || OnDisk::new()).await;
}

fn log(text: &str) -> LogName {
    LogName::new(text).unwrap()
}

async fn put(store: &SqliteStore, name: &str, value: impl Into<Bytes>) -> Result<Revision, StoreError> {
    store.put(&key(name), value.into(), Expect::Any).await
}

async fn names(store: &SqliteStore) -> Vec<String> {
    let listing = store.list(&Prefix::ALL).await.unwrap();
    listing.entries.iter().map(|entry| entry.key.to_string()).collect()
}

#[tokio::test]
async fn a_full_disk_refuses_and_recovers_by_itself() {
    let bench = OnDisk::new();
    let store = &bench.store;
    put(store, "kept", "1").await.unwrap();
    bench.disk.set_capacity(Some(bench.disk.used() + 300_000));
    let large = Bytes::from(vec![7; 100_000]);
    let mut taken = vec!["kept".to_owned()];
    let mut refused = 0;
    for number in 0..20 {
        let name = format!("large-{number:02}");
        match put(store, &name, large.clone()).await {
            Ok(_) => taken.push(name),
            Err(error) => {
                assert_eq!(error, StoreError::Full);
                assert!(error.is_retryable());
                refused += 1;
            }
        }
    }
    assert!(refused >= 17, "{refused} refused");
    assert_eq!(store.append(&log("l"), vec![large.clone(), large.clone()]).await, Err(StoreError::Full));
    assert_eq!(names(store).await, taken, "what was refused left no trace");
    assert_eq!(store.read(&log("l"), Position::START, 9).await, Ok(vec![]));
    bench.disk.set_capacity(None);
    let watch = store.watch(&Prefix::ALL, store.list(&Prefix::ALL).await.unwrap().revision).await;
    put(store, "later", large).await.unwrap();
    assert_eq!(watch.unwrap().next().await.unwrap().key(), &key("later"));
    taken.push("later".into());
    taken.sort();
    assert_eq!(names(store).await, taken);
}

#[tokio::test]
async fn a_full_disk_can_be_told_to_forget_and_has_room_then() {
    let bench = OnDisk::new();
    let store = &bench.store;
    bench.disk.set_capacity(Some(bench.disk.used() + 3_000_000));
    let record = Bytes::from(vec![7; 50_000]);
    let mut taken = 0;
    while store.append(&log("l"), vec![record.clone()]).await.is_ok() {
        taken += 1;
        assert!(taken < 1_000, "the disk gets full");
    }
    // Another program takes what is left.
    bench.disk.set_capacity(Some(bench.disk.used()));
    let mut small = 0;
    while put(store, "a", "x").await.is_ok() {
        small += 1;
        assert!(small < 10_000, "the last room is used up");
    }
    store.trim(&log("l"), Position::END).await.expect("forgetting is possible");
    assert_eq!(store.read(&log("l"), Position::START, 9).await, Ok(vec![]));
    for _ in 0..taken / 2 {
        store.append(&log("l"), vec![record.clone()]).await.expect("what was freed can be used");
    }
}

#[tokio::test]
async fn calls_that_share_a_transaction_are_refused_one_by_one() {
    let bench = OnDisk::new();
    put(&bench.store, "kept", "1").await.unwrap();
    bench.disk.set_capacity(Some(bench.disk.used() + 500_000));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..40 {
        let store = Arc::clone(&bench.store);
        // A small one takes a few pages of the log, a large one alone is more than there is.
        let size = if number % 4 == 0 { 10 } else { 510_000 };
        tasks.spawn(async move { (size, put(&store, &format!("k-{number}"), vec![1; size]).await) });
    }
    while let Some(task) = tasks.join_next().await {
        match task.unwrap() {
            (10, result) => drop(result.unwrap()),
            (_, result) => assert_eq!(result, Err(StoreError::Full)),
        }
    }
    assert_eq!(names(&bench.store).await.len(), 11);
}

#[tokio::test]
async fn after_a_failed_sync_a_write_is_unknown_and_the_store_goes_on() {
    let bench = OnDisk::new();
    let store = &bench.store;
    put(store, "a", "1").await.unwrap();
    let mut watch =
        store.watch(&Prefix::ALL, store.list(&Prefix::ALL).await.unwrap().revision).await.unwrap();
    bench.disk.fail_sync_after(0);
    let error = put(store, "a", "2").await.unwrap_err();
    assert!(matches!(error, StoreError::Unknown(_)), "{error}");
    assert!(!error.is_retryable());
    assert_eq!(watch.next().await, Err(StoreError::TooOld), "who watches lists again");
    // Whichever it is, it stays so.
    let found = store.get(&key("a")).await.unwrap().unwrap();
    assert!(found.value == "1" || found.value == "2");
    bench.disk.power_off_after(0);
    store.close().await;
    bench.disk.power_loss(Loss::All);
    let (store, _) = SqliteStore::open_on(&bench.disk, bench.time.clock()).unwrap();
    assert_eq!(store.get(&key("a")).await, Ok(Some(found)));
    put(&store, "a", "3").await.unwrap();
}

#[tokio::test]
async fn a_disk_that_is_gone_is_unavailable_until_it_is_back() {
    let bench = OnDisk::new();
    let store = &bench.store;
    put(store, "a", "1").await.unwrap();
    bench.disk.power_off_after(0);
    assert!(put(store, "a", "2").await.is_err());
    let error = store.get(&key("a")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)) && error.is_retryable(), "{error}");
    bench.disk.power_loss(Loss::All);
    assert_eq!(store.get(&key("a")).await.unwrap().unwrap().value, "1");
    put(store, "a", "3").await.unwrap();
}

#[tokio::test]
async fn a_watch_that_is_not_read_is_told_to_list_again() {
    let bench = OnFiles::new();
    let store = &bench.store;
    let start = store.list(&Prefix::ALL).await.unwrap().revision;
    let mut slow = store.watch(&Prefix::ALL, start).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..1_500 {
        let store = Arc::clone(store);
        tasks.spawn(async move { put(&store, &format!("k-{}", number % 7), "x").await });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap().unwrap();
    }
    let mut told = 0;
    let end = loop {
        match slow.next().await {
            Ok(_) => told += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(end, StoreError::TooOld);
    assert!(told < 1_500);
    // From its old revision it catches up with what the keys are now.
    let mut again = store.watch(&Prefix::ALL, start).await.unwrap();
    for _ in 0..7 {
        again.next().await.unwrap();
    }
}

#[tokio::test]
async fn tombstones_are_bounded_and_a_watch_from_before_them_is_too_old() {
    let bench = OnFiles::new();
    let store = &bench.store;
    let start = put(store, "first", "x").await.unwrap();
    for round in 0..21 {
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..1_000 {
            let store = Arc::clone(store);
            tasks.spawn(async move {
                let name = format!("gone.{round}.{number}");
                put(&store, &name, "x").await?;
                store.delete(&key(&name), Expect::Any).await
            });
        }
        while let Some(task) = tasks.join_next().await {
            task.unwrap().unwrap();
        }
    }
    assert!(matches!(store.watch(&Prefix::ALL, start).await, Err(StoreError::TooOld)));
    let listing = store.list(&Prefix::ALL).await.unwrap();
    assert_eq!(listing.entries.len(), 1);
    let mut watch = store.watch(&Prefix::ALL, listing.revision).await.unwrap();
    put(store, "gone.0.0", "back").await.unwrap();
    assert!(matches!(watch.next().await, Ok(Change::Put(Entry { value, .. })) if value == "back"));
    store.close().await;
    let left: i64 = Connection::open(bench.path())
        .unwrap()
        .query_row("SELECT count(*) FROM entries", [], |row| row.get(0))
        .unwrap();
    assert!(left < 20_002, "{left} rows");
}

#[tokio::test]
async fn a_copy_is_whole_private_and_never_overwrites() {
    use std::os::unix::fs::PermissionsExt;
    let bench = OnFiles::new();
    let store = &bench.store;
    put(store, "a", "1").await.unwrap();
    let old = store.list(&Prefix::ALL).await.unwrap().revision;
    let positions = store.append(&log("l"), vec!["r".into()]).await.unwrap();
    let held = store.lease(&key("held"), Ttl::from_secs(3_600)).await.unwrap().unwrap();
    let copy = bench.dir.path().join("copy.db");
    let others: Vec<_> = (0..20)
        .map(|number| {
            let store = Arc::clone(store);
            tokio::spawn(async move { put(&store, &format!("later-{number}"), "x").await })
        })
        .collect();
    store.backup(&copy).await.unwrap();
    for other in others {
        other.await.unwrap().unwrap();
    }
    assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    let bytes = std::fs::read(&copy).unwrap();
    assert!(matches!(store.backup(&copy).await, Err(StoreError::Unavailable(_))));
    assert!(std::fs::read(&copy).unwrap() == bytes, "what is there stays");
    let nowhere = bench.dir.path().join("no/such/directory.db");
    assert!(matches!(store.backup(&nowhere).await, Err(StoreError::Unavailable(_))));
    // Numbers given after the copy was made are not given again by it.
    let later = store.append(&log("l"), vec!["s".into()]).await.unwrap()[0];

    let (restored, damage) = SqliteStore::open(&copy, bench.time.clock()).unwrap();
    assert_eq!(damage, StoreDamage::default());
    assert_eq!(restored.get(&key("a")).await.unwrap().unwrap().value, "1");
    assert_eq!(restored.read(&log("l"), Position::START, 9).await.unwrap(), [(positions[0], "r".into())]);
    assert!(restored.append(&log("l"), vec!["t".into()]).await.unwrap()[0] > later);
    assert!(matches!(restored.watch(&Prefix::ALL, old).await, Err(StoreError::TooOld)));
    assert_eq!(restored.renew(&held, Ttl::from_secs(1)).await, Err(StoreError::Conflict));
    let taken = restored.lease(&key("held"), Ttl::from_secs(1)).await.unwrap().unwrap();
    assert!(taken.fence > held.fence);
}

#[tokio::test]
async fn damage_is_set_aside_and_reported_once() {
    let mut bench = OnFiles::new();
    for name in ["a", "b", "c"] {
        put(&bench.store, name, format!("value {name}")).await.unwrap();
    }
    let positions = bench.store.append(&log("l"), vec!["x".into(), "y".into()]).await.unwrap();
    bench.store.close().await;
    let other = Connection::open(bench.path()).unwrap();
    for sql in [
        "UPDATE entries SET value = CAST('other' AS BLOB) WHERE key = 'a'",
        "UPDATE entries SET key = 'not a key' WHERE key = 'b'",
        "UPDATE records SET log = 'm' WHERE value = CAST('y' AS BLOB)",
    ] {
        assert_eq!(other.execute(sql, []).unwrap(), 1);
    }
    drop(other);
    let damage = bench.open_again();
    let expected = StoreDamage {
        keys: vec!["a".into(), "not a key".into()],
        records: vec![("m".into(), positions[1].number())],
        notes: vec![],
    };
    assert_eq!(damage, expected);
    assert_eq!(names(&bench.store).await, ["c"]);
    assert_eq!(bench.store.read(&log("l"), Position::START, 9).await.unwrap(), [(positions[0], "x".into())]);
    bench.store.close().await;
    assert_eq!(bench.open_again(), StoreDamage::default());
}

#[tokio::test]
async fn a_store_of_a_newer_version_or_in_use_is_refused() {
    let bench = OnFiles::new();
    let error = SqliteStore::open(&bench.path(), bench.time.clock()).unwrap_err();
    assert!(error.to_string().contains("in use by another process"), "{error}");
    bench.store.close().await;
    let newer = Connection::open(bench.path()).unwrap();
    newer.pragma_update(None, "user_version", STORE_FORMAT + 1).unwrap();
    drop(newer);
    let bytes = std::fs::read(bench.path()).unwrap();
    let error = SqliteStore::open(&bench.path(), bench.time.clock()).unwrap_err();
    assert_eq!(error, StoreError::Newer { found: STORE_FORMAT + 1, understood: STORE_FORMAT });
    assert!(std::fs::read(bench.path()).unwrap() == bytes, "not a byte changed");
    // Nor is a journal a store.
    let journal = bench.dir.path().join("journal.db");
    drop(crate::SqliteJournal::open(&journal).unwrap());
    let error = SqliteStore::open(&journal, bench.time.clock()).unwrap_err();
    assert!(error.to_string().contains("some other SQLite database"), "{error}");
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let bench = OnFiles::new();
    let pending = {
        let store = Arc::clone(&bench.store);
        tokio::spawn(async move { put(&store, "a", "1").await })
    };
    tokio::task::yield_now().await;
    bench.store.close().await;
    pending.await.unwrap().unwrap();
    assert!(matches!(put(&bench.store, "b", "1").await, Err(StoreError::Unavailable(_))));
    bench.store.close().await;
}

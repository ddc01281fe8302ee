//! What every Store must do, as a suite that each kind runs. It panics at the first breach.
//!
//! Only the contract of [`crate::store`] is asked for: positions may have gaps, quick changes of one key may
//! be told as one, a watch may be told to list again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::JoinSet;

use crate::store::{
    Change, Entry, Expect, Key, LogName, MAX_STORE_VALUE, Position, Prefix, SharedStore, StoreError, Ttl,
    Watch,
};

/// A store that can be opened again, and whose time can pass.
#[async_trait]
pub trait StoreBench: Send {
    fn store(&self) -> SharedStore;

    /// Ends the store and opens what it left.
    async fn reopen(&mut self);

    /// Lets this much time pass for leases.
    async fn pass(&self, span: Duration);
}

/// A watch that says nothing for this long has nothing to say. Only waited for when a test fails, or where
/// silence is what is tested.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs every case, each on a bench of its own.
///
/// # Panics
/// If the store breaks its contract.
pub async fn store_suite<B: StoreBench>(mut make: impl AsyncFnMut() -> B) {
    eprintln!("store: keys are as expected or not written");
    compare_and_swap(&make().await.store()).await;
    eprintln!("store: of many who swap at once, each success is seen by all");
    races(&make().await.store()).await;
    eprintln!("store: values may be empty and large, and no larger");
    sizes(&make().await.store()).await;
    eprintln!("store: listings are of whole tokens, in order");
    listings(&make().await.store()).await;
    eprintln!("store: a watch tells what happened after its revision");
    watches(&make().await.store()).await;
    eprintln!("store: listing and watching has no gap while others write");
    no_gaps(&make().await.store()).await;
    eprintln!("store: logs keep their order, and forget what is trimmed");
    logs(&make().await.store()).await;
    eprintln!("store: logs may be appended to by many at once");
    appends(&make().await.store()).await;
    eprintln!("store: leases exclude, end, and have growing fences");
    leases(&make().await).await;
    eprintln!("store: one of many gets a lease");
    one_lease(&make().await.store()).await;
    eprintln!("store: all is there after opening again, and numbers go on");
    reopening(&mut make().await).await;
}

pub fn key(text: &str) -> Key {
    Key::new(text).expect("the test's keys are valid")
}

fn log(text: &str) -> LogName {
    LogName::new(text).expect("the test's logs are valid")
}

fn prefix(text: &str) -> Prefix {
    Prefix::new(text).expect("the test's prefixes are valid")
}

async fn value_of(store: &SharedStore, name: &str) -> Option<Bytes> {
    store.get(&key(name)).await.expect("it can be read").map(|entry| entry.value)
}

async fn compare_and_swap(store: &SharedStore) {
    let a = key("a");
    assert_eq!(store.get(&a).await, Ok(None));
    let first = store.put(&a, "1".into(), Expect::Absent).await.expect("it is absent");
    assert_eq!(store.put(&a, "x".into(), Expect::Absent).await, Err(StoreError::Conflict));
    assert_eq!(store.get(&a).await, Ok(Some(Entry { key: a.clone(), value: "1".into(), revision: first })));
    let second = store.put(&a, "2".into(), Expect::Revision(first)).await.expect("it is that one");
    assert_ne!(first, second);
    assert_eq!(store.put(&a, "x".into(), Expect::Revision(first)).await, Err(StoreError::Conflict));
    let same = store.put(&a, "2".into(), Expect::Any).await.expect("anything goes");
    assert_ne!(second, same, "every write has its revision");
    assert_eq!(store.put(&key("b"), "x".into(), Expect::Revision(same)).await, Err(StoreError::Conflict));

    assert_eq!(store.delete(&a, Expect::Revision(second)).await, Err(StoreError::Conflict));
    assert_eq!(value_of(store, "a").await, Some("2".into()));
    store.delete(&a, Expect::Revision(same)).await.expect("it is that one");
    assert_eq!(store.get(&a).await, Ok(None));
    assert_eq!(store.delete(&a, Expect::Revision(same)).await, Err(StoreError::Conflict));
    assert_eq!(store.put(&a, "x".into(), Expect::Revision(same)).await, Err(StoreError::Conflict));
    store.delete(&a, Expect::Any).await.expect("nothing to delete is no error");
    let again = store.put(&a, "3".into(), Expect::Absent).await.expect("it is absent again");
    assert_ne!(again, same, "a revision is not used twice");
    store.delete(&a, Expect::Any).await.expect("anything goes");
    assert_eq!(value_of(store, "a").await, None);
}

async fn races(store: &SharedStore) {
    const TASKS: usize = 8;
    const ROUNDS: u64 = 25;
    let counter = key("race.counter");
    store.put(&counter, "0".into(), Expect::Absent).await.expect("it is absent");
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let (store, counter) = (Arc::clone(store), counter.clone());
        tasks.spawn(async move {
            let mut done = 0;
            while done < ROUNDS {
                let entry = store.get(&counter).await.expect("it can be read").expect("it is there");
                let number: u64 =
                    std::str::from_utf8(&entry.value).expect("a number").parse().expect("a number");
                let next = Bytes::from((number + 1).to_string());
                match store.put(&counter, next, Expect::Revision(entry.revision)).await {
                    Ok(_) => done += 1,
                    Err(StoreError::Conflict) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("the task ends well");
    }
    let total = Bytes::from((TASKS as u64 * ROUNDS).to_string());
    assert_eq!(value_of(store, "race.counter").await, Some(total));

    // Of many who create a key, one does.
    for round in 0..20 {
        let created = key(&format!("race.created.{round}"));
        let mut tasks = JoinSet::new();
        for _ in 0..TASKS {
            let (store, created) = (Arc::clone(store), created.clone());
            tasks.spawn(async move { store.put(&created, "x".into(), Expect::Absent).await });
        }
        let mut winners = 0;
        while let Some(task) = tasks.join_next().await {
            match task.expect("the task ends well") {
                Ok(_) => winners += 1,
                Err(error) => assert_eq!(error, StoreError::Conflict),
            }
        }
        assert_eq!(winners, 1);
    }
}

async fn sizes(store: &SharedStore) {
    for size in [0, 1, 4_096, MAX_STORE_VALUE] {
        let value = Bytes::from((0..size).map(|at| (at * 7) as u8).collect::<Vec<_>>());
        store.put(&key("size"), value.clone(), Expect::Any).await.expect("it is small enough");
        assert!(value_of(store, "size").await == Some(value.clone()), "{size} bytes come back");
        let at = store.append(&log("size"), vec![value.clone()]).await.expect("it is small enough")[0];
        let read = store.read(&log("size"), at, 10).await.expect("it can be read");
        assert!(read == [(at, value)], "{size} bytes come back");
    }
    let large = Bytes::from(vec![0; MAX_STORE_VALUE + 1]);
    let refused = StoreError::TooLarge { size: MAX_STORE_VALUE + 1, limit: MAX_STORE_VALUE };
    assert_eq!(store.put(&key("large"), large.clone(), Expect::Any).await, Err(refused.clone()));
    assert_eq!(store.append(&log("large"), vec!["a".into(), large]).await, Err(refused));
    assert_eq!(value_of(store, "large").await, None);
    assert_eq!(store.read(&log("large"), Position::START, 10).await, Ok(vec![]));
}

async fn listings(store: &SharedStore) {
    for name in ["n.b.x", "n.a", "n.b", "n", "nn.a", "n-a.b", "m.z"] {
        store.put(&key(name), Bytes::copy_from_slice(name.as_bytes()), Expect::Absent).await.expect("absent");
    }
    store.put(&key("n.gone"), "x".into(), Expect::Absent).await.expect("absent");
    store.delete(&key("n.gone"), Expect::Any).await.expect("deleted");
    for (under, expected) in [
        (prefix("n"), &["n.a", "n.b", "n.b.x"][..]),
        (prefix("n.b"), &["n.b.x"]),
        (prefix("none"), &[]),
        (Prefix::ALL, &["m.z", "n", "n-a.b", "n.a", "n.b", "n.b.x", "nn.a"]),
    ] {
        let listing = store.list(&under).await.expect("it can be listed");
        let names: Vec<_> = listing.entries.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(names, expected, "under {under:?}");
        for entry in listing.entries {
            assert_eq!(entry.value, entry.key.as_str().as_bytes());
            assert_eq!(store.get(&entry.key).await, Ok(Some(entry)));
        }
    }
}

async fn next(watch: &mut Watch) -> Change {
    let next = tokio::time::timeout(PATIENCE, watch.next()).await.expect("the watch tells something");
    next.expect("the watch goes on")
}

/// Follows a watch until a key has a value, and returns the last change of each key.
async fn until(watch: &mut Watch, name: &str, value: &str) -> BTreeMap<String, Option<Bytes>> {
    let mut seen = BTreeMap::new();
    loop {
        let change = next(watch).await;
        let key = change.key().as_str().to_owned();
        let new = match change {
            Change::Put(entry) => Some(entry.value),
            Change::Deleted { .. } => None,
        };
        let last = key == name && new.as_deref() == Some(value.as_bytes());
        seen.insert(key, new);
        if last {
            return seen;
        }
    }
}

async fn watches(store: &SharedStore) {
    let put = async |name: &str, value: &'static str| {
        store.put(&key(name), value.into(), Expect::Any).await.expect("it is written")
    };
    put("w.before", "1").await;
    put("w.gone", "1").await;
    let start = store.list(&prefix("w")).await.expect("it can be listed").revision;
    let mut live = store.watch(&prefix("w"), start).await.expect("it can be watched");
    put("w.a", "1").await;
    put("w.a", "2").await;
    put("x.a", "elsewhere").await;
    put("w", "not beneath itself").await;
    store.delete(&key("w.gone"), Expect::Any).await.expect("deleted");
    let middle = put("w.b.c", "3").await;
    put("w.end", "1").await;
    let expected: BTreeMap<String, Option<Bytes>> = [
        ("w.a".to_owned(), Some("2".into())),
        ("w.b.c".to_owned(), Some("3".into())),
        ("w.end".to_owned(), Some("1".into())),
        ("w.gone".to_owned(), None),
    ]
    .into();
    assert_eq!(until(&mut live, "w.end", "1").await, expected);
    // One that comes later is told the same.
    let mut late = store.watch(&prefix("w"), start).await.expect("it can be watched");
    assert_eq!(until(&mut late, "w.end", "1").await, expected);
    // And one from the middle only the rest.
    let mut rest = store.watch(&prefix("w"), middle).await.expect("it can be watched");
    assert_eq!(until(&mut rest, "w.end", "1").await, [("w.end".to_owned(), Some("1".into()))].into());
    // All of them go on.
    put("w.end", "2").await;
    for watch in [&mut live, &mut late, &mut rest] {
        let change = next(watch).await;
        assert!(matches!(&change, Change::Put(entry) if entry.value == "2"), "{change:?}");
        let again = store.watch(&prefix("w"), change.revision()).await.expect("it can be watched");
        drop(again);
    }
    // A watcher that has gone is no hindrance.
    drop(late);
    put("w.end", "3").await;
    assert_eq!(next(&mut live).await.key().as_str(), "w.end");
}

async fn no_gaps(store: &SharedStore) {
    const TASKS: usize = 4;
    const WRITES: usize = 100;
    let mut writers = JoinSet::new();
    for task in 0..TASKS {
        let store = Arc::clone(store);
        writers.spawn(async move {
            for number in 0..WRITES {
                let name = key(&format!("g.{task}.{}", number % 10));
                if number % 7 == 3 {
                    store.delete(&name, Expect::Any).await.expect("deleted");
                } else {
                    let value = Bytes::from(number.to_string());
                    store.put(&name, value, Expect::Any).await.expect("written");
                }
            }
        });
    }
    // Several begin to watch while it goes on; whoever is told to does so again.
    let mut readers = JoinSet::new();
    for delay in 0..6 {
        let store = Arc::clone(store);
        readers.spawn(async move {
            for _ in 0..delay * 20 {
                tokio::task::yield_now().await;
            }
            'again: loop {
                let listing = store.list(&prefix("g")).await.expect("it can be listed");
                let mut mirror: BTreeMap<Key, Bytes> =
                    listing.entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
                if mirror.contains_key(&key("g.done")) {
                    return mirror;
                }
                let Ok(mut watch) = store.watch(&prefix("g"), listing.revision).await else {
                    continue;
                };
                loop {
                    match tokio::time::timeout(PATIENCE, watch.next()).await.expect("the end comes") {
                        Ok(Change::Put(entry)) => {
                            mirror.insert(entry.key, entry.value);
                        }
                        Ok(Change::Deleted { key, .. }) => {
                            mirror.remove(&key);
                        }
                        Err(StoreError::TooOld) => continue 'again,
                        Err(error) => panic!("{error}"),
                    }
                    if mirror.contains_key(&key("g.done")) {
                        return mirror;
                    }
                }
            }
        });
    }
    while let Some(task) = writers.join_next().await {
        task.expect("the writer ends well");
    }
    store.put(&key("g.done"), "1".into(), Expect::Absent).await.expect("written");
    let listing = store.list(&prefix("g")).await.expect("it can be listed");
    let truth: BTreeMap<Key, Bytes> =
        listing.entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
    while let Some(mirror) = readers.join_next().await {
        assert_eq!(mirror.expect("the reader ends well"), truth);
    }
}

/// All of a log, in pieces of a few records.
async fn whole(store: &SharedStore, name: &LogName) -> Vec<(Position, Bytes)> {
    let mut all: Vec<(Position, Bytes)> = Vec::new();
    let mut from = Position::START;
    loop {
        let piece = store.read(name, from, 7).await.expect("it can be read");
        assert!(piece.len() <= 7);
        match piece.last() {
            None => return all,
            Some((last, _)) => from = last.next(),
        }
        all.extend(piece);
    }
}

async fn logs(store: &SharedStore) {
    let (one, two) = (log("l.one"), log("l.two"));
    assert_eq!(store.append(&one, vec![]).await, Ok(vec![]));
    let mut expected = Vec::new();
    for round in 0..5 {
        let records: Vec<Bytes> = (0..4).map(|at| Bytes::from(format!("{round}.{at}"))).collect();
        let positions = store.append(&one, records.clone()).await.expect("appended");
        assert_eq!(positions.len(), records.len());
        expected.extend(positions.into_iter().zip(records));
        store.append(&two, vec!["other".into()]).await.expect("appended");
    }
    assert!(expected.is_sorted_by(|(a, _), (b, _)| a < b), "positions grow");
    assert_eq!(whole(store, &one).await, expected);
    assert_eq!(whole(store, &two).await.len(), 5);

    let (middle, _) = expected[9];
    assert_eq!(store.read(&one, middle, 2).await.expect("read"), expected[9..11]);
    store.trim(&one, middle).await.expect("trimmed");
    assert_eq!(whole(store, &one).await, expected[9..]);
    store.trim(&one, Position::START).await.expect("nothing to trim is no error");
    store.trim(&one, Position::END).await.expect("trimmed");
    assert_eq!(whole(store, &one).await, []);
    assert_eq!(whole(store, &two).await.len(), 5, "another log is left alone");
    let after = store.append(&one, vec!["new".into()]).await.expect("appended")[0];
    assert!(after > expected[19].0, "a position is not used twice");
    store.trim(&log("l.never"), Position::END).await.expect("a log that never was can be trimmed");
}

async fn appends(store: &SharedStore) {
    let name = log("many");
    let mut tasks = JoinSet::new();
    for task in 0..8 {
        let (store, name) = (Arc::clone(store), name.clone());
        tasks.spawn(async move {
            for round in 0..20 {
                let records = (0..3).map(|at| Bytes::from(format!("{task} {round} {at}"))).collect();
                store.append(&name, records).await.expect("appended");
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("the task ends well");
    }
    let all = whole(store, &name).await;
    assert_eq!(all.len(), 8 * 20 * 3);
    let positions: BTreeSet<_> = all.iter().map(|(position, _)| position).collect();
    assert_eq!(positions.len(), all.len());
    // What one task appended stands in its order.
    for task in 0..8 {
        let own: Vec<String> = all
            .iter()
            .map(|(_, record)| String::from_utf8_lossy(record).into_owned())
            .filter(|record| record.starts_with(&format!("{task} ")))
            .collect();
        let expected: Vec<String> =
            (0..60).map(|number| format!("{task} {} {}", number / 3, number % 3)).collect();
        assert_eq!(own, expected);
    }
}

async fn leases(bench: &impl StoreBench) {
    let store = bench.store();
    let name = key("lease.a");
    let ttl = Ttl::from_secs(5);
    let first = store.lease(&name, ttl).await.expect("asked").expect("it is free");
    assert_eq!(store.lease(&name, ttl).await, Ok(None));
    assert!(store.lease(&key("lease.b"), ttl).await.expect("asked").is_some(), "another is free");
    // Renewing keeps it beyond its first end.
    for _ in 0..3 {
        bench.pass(Duration::from_secs(3)).await;
        store.renew(&first, ttl).await.expect("it is held");
        assert_eq!(store.lease(&name, ttl).await, Ok(None));
    }
    // It ends by itself.
    bench.pass(Duration::from_secs(6)).await;
    assert_eq!(store.renew(&first, ttl).await, Err(StoreError::Conflict));
    let second = store.lease(&name, ttl).await.expect("asked").expect("it has ended");
    assert!(second.fence > first.fence);
    // Who held it before can do nothing with it.
    assert_eq!(store.renew(&first, ttl).await, Err(StoreError::Conflict));
    store.release(&first).await.expect("releasing what is not held is no error");
    assert_eq!(store.lease(&name, ttl).await, Ok(None));
    store.renew(&second, ttl).await.expect("it is held");
    // Given back, it is free at once.
    store.release(&second).await.expect("released");
    assert_eq!(store.renew(&second, ttl).await, Err(StoreError::Conflict));
    let third = store.lease(&name, ttl).await.expect("asked").expect("it was given back");
    assert!(third.fence > second.fence, "fences grow, also over a release");
}

async fn one_lease(store: &SharedStore) {
    let mut last = None;
    for round in 0..10 {
        let mut tasks = JoinSet::new();
        for _ in 0..8 {
            let store = Arc::clone(store);
            tasks.spawn(async move { store.lease(&key("lease.race"), Ttl::from_secs(600)).await });
        }
        let mut taken = Vec::new();
        while let Some(task) = tasks.join_next().await {
            taken.extend(task.expect("the task ends well").expect("asked"));
        }
        assert_eq!(taken.len(), 1, "round {round}");
        let lease = taken.remove(0);
        assert!(last < Some(lease.fence));
        last = Some(lease.fence);
        store.release(&lease).await.expect("released");
    }
}

async fn reopening(bench: &mut impl StoreBench) {
    let store = bench.store();
    let revision = store.put(&key("r.kept"), "1".into(), Expect::Absent).await.expect("written");
    store.put(&key("r.gone"), "1".into(), Expect::Absent).await.expect("written");
    let listed = store.list(&prefix("r")).await.expect("listed").revision;
    store.delete(&key("r.gone"), Expect::Any).await.expect("deleted");
    let positions = store.append(&log("r"), vec!["a".into(), "b".into()]).await.expect("appended");
    let long = store.lease(&key("r.long"), Ttl::from_secs(3_600)).await.expect("asked").expect("free");
    let released = store.lease(&key("r.released"), Ttl::from_secs(60)).await.expect("asked").expect("free");
    store.release(&released).await.expect("released");
    store.trim(&log("r"), positions[1]).await.expect("trimmed");
    drop(store);
    bench.reopen().await;
    let store = bench.store();

    let kept = Entry { key: key("r.kept"), value: "1".into(), revision };
    assert_eq!(store.get(&key("r.kept")).await, Ok(Some(kept.clone())));
    assert_eq!(store.list(&prefix("r")).await.expect("listed").entries, [kept]);
    assert_eq!(whole(&store, &log("r")).await, [(positions[1], Bytes::from("b"))]);
    // A watch from before may go on, or be told to list again; it is never silently wrong.
    match store.watch(&prefix("r"), listed).await {
        Ok(mut watch) => assert_eq!(next(&mut watch).await.key(), &key("r.gone")),
        Err(error) => assert_eq!(error, StoreError::TooOld),
    }
    assert_eq!(store.lease(&key("r.long"), Ttl::from_secs(1)).await, Ok(None), "it is still held");
    store.renew(&long, Ttl::from_secs(3_600)).await.expect("by whom it was");
    let again = store.lease(&key("r.released"), Ttl::from_secs(60)).await.expect("asked").expect("free");
    assert!(again.fence > released.fence && again.fence > long.fence);
    let after = store.append(&log("r"), vec!["c".into()]).await.expect("appended")[0];
    assert!(after > positions[1]);
    let next = store.put(&key("r.kept"), "2".into(), Expect::Revision(revision)).await.expect("as expected");
    assert_ne!(next, revision);
}

//! Prints how many batches this disk makes durable a second, for 1, 16 and 256 in one commit, with records
//! as large as a small message. Takes the directory to write in; the current one unless given.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mainstay_core::journal::{Batch, Class, Journal, JournalError, Op, Table};
use mainstay_store::{SqliteJournal, Writer};

/// About what a signed `ping` takes.
const VALUE: usize = 512;
const SPAN: Duration = Duration::from_secs(2);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| ".".into());
    let path = std::path::Path::new(&dir).join(format!("journal-rate-{}.db", std::process::id()));
    let (mut journal, _) = SqliteJournal::open(&path)?;
    let value = Bytes::from(vec![0x5a; VALUE]);
    let mut number = 0_u64;
    println!("{:>6} {:>12} {:>12} {:>10}", "batch", "messages/s", "commits/s", "p99 ms");
    for size in [1, 16, 256] {
        let mut times = Vec::new();
        let started = Instant::now();
        while started.elapsed() < SPAN {
            let batches: Vec<Batch> = (0..size)
                .map(|_| {
                    number += 1;
                    message(number, &value)
                })
                .collect();
            let before = Instant::now();
            for result in journal.commit(&batches) {
                result?;
            }
            times.push(before.elapsed());
        }
        let rate = times.len() as f64 / started.elapsed().as_secs_f64();
        times.sort_unstable();
        let p99 = times[times.len() * 99 / 100].as_secs_f64() * 1e3;
        println!("{size:>6} {:>12.0} {rate:>12.0} {p99:>10.2}", rate * f64::from(size));
    }
    // The same through the thread that shares syncs, with so many who wait at a time.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(shared(Box::new(journal), value, number))?;
    for ending in ["db", "lock", "reserve"] {
        std::fs::remove_file(path.with_extension(ending))?;
    }
    Ok(())
}

/// A batch as one message makes it. Ids of messages rise with time, as these do.
fn message(number: u64, value: &Bytes) -> Batch {
    let key = Bytes::copy_from_slice(&u128::from(number).to_be_bytes());
    Batch {
        class: Class::New { reserve: 0 },
        ops: vec![Op::Put { table: Table::Outbox, key, value: value.clone() }],
    }
}

async fn shared(
    journal: Box<dyn Journal>,
    value: Bytes,
    used: u64,
) -> Result<(), Box<dyn std::error::Error>> {
    let writer = Writer::start(journal)?;
    let number = Arc::new(AtomicU64::new(used + 1));
    println!("{:>6} {:>12} {:>12}", "waiting", "messages/s", "syncs/s");
    for waiting in [1, 16, 256] {
        let handle = writer.handle();
        let (before, syncs) = (number.load(Relaxed), handle.counters().syncs.load(Relaxed));
        let started = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..waiting {
            let (handle, value, number) = (writer.handle(), value.clone(), Arc::clone(&number));
            tasks.spawn(async move {
                while started.elapsed() < SPAN {
                    handle.commit(message(number.fetch_add(1, Relaxed), &value)).await?;
                }
                Ok::<(), JournalError>(())
            });
        }
        while let Some(task) = tasks.join_next().await {
            task??;
        }
        let seconds = started.elapsed().as_secs_f64();
        let messages = (number.load(Relaxed) - before) as f64 / seconds;
        let syncs = (handle.counters().syncs.load(Relaxed) - syncs) as f64 / seconds;
        println!("{waiting:>6} {messages:>12.0} {syncs:>12.0}");
    }
    writer.stop().await?;
    Ok(())
}

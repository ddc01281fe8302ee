//! Prints how many batches this disk makes durable a second, for 1, 16 and 256 in one commit, with records
//! as large as a small message. Takes the directory to write in; the current one unless given.

use std::time::{Duration, Instant};

use bytes::Bytes;
use mainstay_core::journal::{Batch, Class, Journal, Op, Table};
use mainstay_store::SqliteJournal;

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
                    // Ids of messages rise with time, as these do.
                    let key = Bytes::copy_from_slice(&u128::from(number).to_be_bytes());
                    Batch {
                        class: Class::New { reserve: 0 },
                        ops: vec![Op::Put { table: Table::Outbox, key, value: value.clone() }],
                    }
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
    drop(journal);
    for ending in ["db", "lock", "reserve"] {
        std::fs::remove_file(path.with_extension(ending))?;
    }
    Ok(())
}

//! What this machine allows at best: syncs and signatures. Measured here, since this program is built as the product
//! is, and in the same run as what they bound.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mainstay_core::envelope::{Audience, Body, Envelope, Payload, Receipt, Signer, VERSION};
use mainstay_core::id::MessageId;
use mainstay_core::journal::{Batch, Class, Journal as _, Op, Table};
use mainstay_core::time::Timestamp;
use mainstay_store::SqliteJournal;

const SPAN: Duration = Duration::from_secs(2);

/// About what a signed `ping` takes in a journal.
const RECORD: usize = 512;

/// Records that our own journal makes durable a second, so many with each sync.
pub fn synced_records(directory: &Path, together: usize) -> anyhow::Result<f64> {
    let path = directory.join("limit.db");
    let (mut journal, _) = SqliteJournal::open(&path)?;
    let value = Bytes::from(vec![0x5a; RECORD]);
    let (mut number, began) = (0_u128, Instant::now());
    while began.elapsed() < SPAN {
        let batches: Vec<Batch> = (0..together)
            .map(|_| {
                number += 1;
                // Ids of messages rise with time, as these do.
                let key = Bytes::copy_from_slice(&number.to_be_bytes());
                let ops = vec![Op::Put { table: Table::Outbox, key, value: value.clone() }];
                Batch { class: Class::New { reserve: 0 }, ops }
            })
            .collect();
        journal.commit(&batches).into_iter().collect::<Result<(), _>>()?;
    }
    let rate = number as f64 / began.elapsed().as_secs_f64();
    drop(journal);
    for ending in ["db", "lock", "reserve", "db-wal", "db-shm"] {
        let _ = std::fs::remove_file(path.with_extension(ending));
    }
    Ok(rate)
}

/// Seconds that one core takes to sign a small envelope, and to verify it.
pub fn signing() -> (f64, f64) {
    let signer = Signer::new(ed25519_dalek::SigningKey::from_bytes(&[7; 32]));
    let id = MessageId::new(Timestamp::from_millis(1), [0; 10]);
    let body = Body {
        v: VERSION,
        crit: Vec::new(),
        id,
        from: signer.id(),
        to: Audience::Node(signer.id()),
        issued: Timestamp::from_millis(1),
        expires: None,
        order: None,
        fence: None,
        payload: Payload::Receipt(Receipt { re: id, refused: None }),
    };
    let sealed = signer.seal(&body).encode();
    let sign = each(|| drop(black_box(signer.seal(black_box(&body)))));
    let verify = each(|| drop(black_box(Envelope::decode(black_box(&sealed)).map(Envelope::verify))));
    (sign, verify)
}

fn each(mut work: impl FnMut()) -> f64 {
    let (mut count, began) = (0_u32, Instant::now());
    while began.elapsed() < SPAN / 4 {
        (0..100).for_each(|_| work());
        count += 100;
    }
    began.elapsed().as_secs_f64() / f64::from(count)
}

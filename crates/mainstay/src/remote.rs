//! The far side of an ssh connection: this program's own copy, which does what the near side says over standard streams.
//!
//! It lives exactly as long as its connection. When its standard input closes without a goodbye, the other side was killed:
//! then everything that was started here is ended too, within [`GRACE`] and a moment, and this process with it. After a
//! goodbye only what is still at its turn is ended, and what was left in the background stays; what does not end in time takes
//! everything with it.

mod run;
pub mod talk;

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use mainstay_core::state::session::Tell;
use mainstay_link::pieces::{Decoder, encode};
use mainstay_link::ssh::READY;
use mainstay_module::registry::Registry;

use crate::descendants;
use crate::up::local;
use talk::{Order, Word};

/// How long what runs has to end on its own when the other side is gone; the rest of the two seconds that it may take in all is
/// for the kill.
const GRACE: Duration = Duration::from_millis(700);

/// Copies of other versions that are kept: enough for a few people with different versions, and 100 MiB.
const KEPT_COPIES: usize = 3;

/// What is left of an upload that broke off is removed after this: no upload takes as long.
const STALE: Duration = Duration::from_secs(3600);

/// Words that wait for the connection: an engine that is faster than it is held up.
const WORDS: usize = 64;

/// Nobody says it: the channel is there for its end.
enum Never {}

/// How this copy was called.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// Only say whether this program has this hash.
    pub verify: Option<String>,
    /// Refuse to work otherwise.
    pub expected: Option<String>,
}

/// Serves the other side until it says goodbye.
pub fn serve(call: &Call, registry: Registry) -> ExitCode {
    if let Some(hash) = &call.verify {
        return if own_hash().is_ok_and(|own| own == *hash) { ExitCode::SUCCESS } else { ExitCode::from(1) };
    }
    if let Some(hash) = &call.expected
        && !own_hash().is_ok_and(|own| own == *hash)
    {
        eprintln!("this copy of mainstay is corrupt");
        return ExitCode::from(1);
    }
    if say_ready().is_err() {
        return ExitCode::from(1);
    }
    prune_copies();
    descendants::adopt();
    let (orders, inbox) = mpsc::sync_channel(WORDS);
    let (at_work, work) = mpsc::channel();
    let is_alone = Arc::new(AtomicBool::new(false));
    let alone = is_alone.clone();
    let reader =
        thread::Builder::new().name("orders".into()).spawn(move || read_orders(orders, &work, &alone));
    if let Err(error) = reader {
        eprintln!("no thread can be started: {error}");
        return ExitCode::from(1);
    }
    let code = match inbox.recv() {
        Ok(Order::Open) => states(&inbox, registry),
        Ok(Order::Run(order)) => run::run(*order, inbox),
        Ok(Order::Ask(_) | Order::Cancel | Order::Bye) | Err(_) => ExitCode::SUCCESS,
    };
    drop(at_work);
    if is_alone.load(Ordering::SeqCst) {
        // The reader is ending what is below us, and then this process.
        loop {
            thread::park();
        }
    }
    code
}

/// Reads what the other side wants, and ends everything when there is no other side any more; `work` is cut off when the work
/// is over.
fn read_orders(orders: mpsc::SyncSender<Order>, work: &mpsc::Receiver<Never>, is_alone: &AtomicBool) {
    let (mut stdin, mut decoder) = (io::stdin().lock(), Decoder::default());
    let mut buffer = vec![0; 64 << 10];
    let mut is_bye = false;
    loop {
        match stdin.read(&mut buffer) {
            Ok(count @ 1..) => decoder.push(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            _ => break,
        }
        loop {
            match decoder.take() {
                Ok(Some(message)) => {
                    let Ok(order) = rmp_serde::from_slice::<Order>(&message) else { break };
                    is_bye |= matches!(order, Order::Bye);
                    // Nobody listens when the work is over; a goodbye is still to come.
                    let _ = orders.send(order);
                }
                Ok(None) => break,
                Err(error) => {
                    eprintln!("{error}");
                    break;
                }
            }
        }
    }
    let mut grace = GRACE;
    if is_bye {
        // The work hears of it too, and asks what is at its turn to end; this process ends with its work.
        match work.recv_timeout(GRACE) {
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
            _ => grace = Duration::ZERO,
        }
    }
    is_alone.store(true, Ordering::SeqCst);
    // The engine begins with nothing more while the rest is ended.
    drop(orders);
    descendants::end_all(grace);
    std::process::exit(0);
}

/// A talk with the engine.
fn states(inbox: &mpsc::Receiver<Order>, registry: Registry) -> ExitCode {
    let mut session = match local::session(registry, BTreeMap::new(), "mainstay over ssh") {
        Ok(session) => session,
        Err(error) => {
            say(&Word::Tell(Tell::Problem { message: format!("the engine cannot be started: {error}") }));
            return ExitCode::from(1);
        }
    };
    thread::scope(|scope| {
        let tells = &mut session.tells;
        scope.spawn(move || {
            while let Some(tell) = tells.blocking_recv() {
                say(&Word::Tell(tell));
            }
        });
        let asks = session.asks;
        while let Ok(Order::Ask(ask)) = inbox.recv() {
            if asks.blocking_send(ask).is_err() {
                break;
            }
        }
        drop(asks);
    });
    ExitCode::SUCCESS
}

/// Sends a word. Without the other side there is nobody to tell that it failed; the reader notices the same.
fn say(word: &Word) {
    let message = rmp_serde::to_vec_named(word).expect("a word is maps, lists, texts and bytes");
    let Ok(bytes) = encode(&message) else { return };
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(&bytes).and_then(|()| stdout.flush());
}

fn say_ready() -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{READY}").and_then(|()| stdout.flush())
}

fn own_hash() -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(std::fs::File::open("/proc/self/exe")?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Marks this copy as used, and removes those that were not for longest.
fn prune_copies() {
    let Ok(own) = std::env::current_exe() else { return };
    let is_copy =
        |name: &str| name.len() == blake3::OUT_LEN * 2 && name.bytes().all(|b| b.is_ascii_hexdigit());
    if let Some(directory) = own.parent()
        && own.file_name().is_some_and(|name| is_copy(&name.to_string_lossy()))
    {
        prune(directory, &own, is_copy);
    }
}

fn prune(directory: &Path, own: &Path, is_copy: impl Fn(&str) -> bool) {
    let now = std::time::SystemTime::now();
    // What cannot be pruned is in nobody's way but the disk's.
    let _ = std::fs::File::open(own).and_then(|file| file.set_modified(now));
    let mut copies = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(modified) = entry.metadata().and_then(|meta| meta.modified()) else { continue };
        let is_stale = now.duration_since(modified).is_ok_and(|age| age > STALE);
        if name.starts_with(".new.") && is_stale {
            let _ = std::fs::remove_file(entry.path());
        } else if is_copy(&name) && entry.path() != own {
            copies.push((modified, entry.path()));
        }
    }
    copies.sort();
    let surplus = (copies.len() + 1).saturating_sub(KEPT_COPIES);
    for (_, path) in copies.into_iter().take(surplus) {
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_copies_and_broken_uploads_go_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let is_copy = |name: &str| name.starts_with("copy");
        let at = |name: &str, hours: u64| {
            let path = dir.path().join(name);
            let file = std::fs::File::create(&path).unwrap();
            file.set_modified(std::time::SystemTime::now() - STALE * hours as u32).unwrap();
            path
        };
        let own = at("copy-own", 100);
        for (name, hours) in [
            ("copy1", 50),
            ("copy2", 40),
            ("copy3", 30),
            ("copy4", 20),
            (".new.1", 2),
            (".new.2", 0),
            ("notes", 900),
        ] {
            at(name, hours);
        }
        prune(dir.path(), &own, is_copy);
        let mut left: Vec<String> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        left.sort();
        assert_eq!(left, [".new.2", "copy-own", "copy3", "copy4", "notes"]);
    }
}

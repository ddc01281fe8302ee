//! The command that crash rounds offer: it writes into a ledger that it began, waits, gives some output, and writes
//! that it ended.
//!
//! `ledger_entry LEDGER WAIT_MS OUTPUT_BYTES`. Each entry is one write to a file that is open for appending,
//! so it is there whole or not at all, whoever else writes. It knows by `MAINSTAY_MESSAGE` for which message
//! it runs, and by its parent on which node.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MARK: &str = "MAINSTAY_MESSAGE";

/// A line of output.
const LINE: usize = 80;

fn main() -> io::Result<()> {
    let parent = std::os::unix::process::parent_id();
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [ledger, wait, bytes] = &arguments[..] else {
        return Err(wrong("usage: ledger_entry LEDGER WAIT_MS OUTPUT_BYTES"));
    };
    let wait = wait.parse().map_err(|_| wrong("WAIT_MS is a number"))?;
    let bytes: usize = bytes.parse().map_err(|_| wrong("OUTPUT_BYTES is a number"))?;
    let mark = std::env::var(MARK).map_err(|_| wrong("it was not started for a message"))?;
    let mut ledger = OpenOptions::new().append(true).create(true).open(ledger)?;
    enter(&mut ledger, "S", &mark, parent)?;
    std::thread::sleep(Duration::from_millis(wait));
    let mut output = format!("ran {mark}\n").into_bytes();
    while output.len() < bytes {
        let fill = (bytes - output.len()).min(LINE);
        output.extend(std::iter::repeat_n(b'.', fill - 1));
        output.push(b'\n');
    }
    io::stdout().lock().write_all(&output)?;
    enter(&mut ledger, "E", &mark, parent)
}

fn enter(ledger: &mut File, what: &str, mark: &str, parent: u32) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    // One write: whole lines, even when many programs write at once.
    ledger.write_all(format!("{what} {mark} {now} {parent}\n").as_bytes())
}

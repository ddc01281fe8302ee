//! What is on disk once everything has stopped: the journals, the ledger and the reply files.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use mainstay_core::delivery::record::{self, InboxRow, InboxState, OutboxRow};
use mainstay_core::id::{KeyId, MessageId};
use mainstay_core::journal::{Journal as _, Table};
use mainstay_store::SqliteJournal;

use super::work::{AGAIN, DIRECTORY, ONCE};

/// Names a message as the ledger does.
pub type Mark = (KeyId, MessageId);

/// One node's journal.
pub struct Book {
    pub outbox: BTreeMap<MessageId, OutboxRow>,
    /// Rows of what it accepted that have no end.
    pub unended: Vec<MessageId>,
    /// Rows that must be gone once everybody knows everything.
    pub left: BTreeMap<&'static str, usize>,
    pub damage: usize,
}

impl Book {
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let (mut journal, damage) =
            SqliteJournal::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
        let mut outbox = BTreeMap::new();
        let mut wrong = Vec::new();
        journal.read(Table::Outbox, &mut |key, value| {
            let row = record::read_message_key(Table::Outbox, key)
                .and_then(|id| Ok((id, record::decode::<OutboxRow>(Table::Outbox, value)?)));
            match row {
                Ok((id, row)) => drop(outbox.insert(id, row)),
                Err(error) => wrong.push(error),
            }
        })?;
        let mut unended = Vec::new();
        journal.read(Table::Inbox, &mut |key, value| {
            let row = record::read_inbox_key(key)
                .and_then(|key| Ok((key, record::decode::<InboxRow>(Table::Inbox, value)?)));
            match row {
                Ok((_, row)) if matches!(row.state, InboxState::Ended | InboxState::Refused) => {}
                Ok((key, _)) => unended.push(key.id),
                Err(error) => wrong.push(error),
            }
        })?;
        let mut left = BTreeMap::new();
        for (table, what) in [
            (Table::Answers, "answers owed"),
            (Table::Relay, "envelopes held"),
            (Table::Replies, "replies unwritten"),
        ] {
            let mut count = 0;
            journal.read(table, &mut |_, _| count += 1)?;
            if count > 0 {
                left.insert(what, count);
            }
        }
        if let Some(error) = wrong.into_iter().next() {
            return Err(error.into());
        }
        Ok(Self { outbox, unended, left, damage: damage.records.len() + damage.notes.len() })
    }

    /// What still keeps this node from being done.
    pub fn unsettled(&self) -> Vec<String> {
        let open = self.outbox.values().filter(|row| !row.closed).count();
        let counts = [("messages without an end", open), ("accepted and not ended", self.unended.len())];
        let left = self.left.iter().map(|(what, count)| (*what, *count));
        let all = counts.into_iter().chain(left).filter(|(_, count)| *count > 0);
        all.map(|(what, count)| format!("{count} {what}")).collect()
    }
}

/// What one message's executions wrote, in order.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// When each began (milliseconds since 1970), and the process that began it.
    pub starts: Vec<(i64, u32)>,
    pub ends: Vec<i64>,
}

#[derive(Default)]
pub struct Ledger {
    pub entries: HashMap<Mark, Entry>,
    pub unreadable: Vec<String>,
}

impl Ledger {
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        let mut ledger = Self::default();
        for line in text.lines() {
            if ledger.enter(line).is_none() {
                ledger.unreadable.push(line.to_owned());
            }
        }
        Ok(ledger)
    }

    fn enter(&mut self, line: &str) -> Option<()> {
        let words: Vec<&str> = line.split(' ').collect();
        let [what, mark, at, parent] = words[..] else { return None };
        let entry = self.entries.entry(read_mark(mark)?).or_default();
        match what {
            "S" => entry.starts.push((at.parse().ok()?, parent.parse().ok()?)),
            "E" => entry.ends.push(at.parse().ok()?),
            _ => return None,
        }
        Some(())
    }
}

/// `KEY:ID`, as a command finds it in its environment.
pub fn read_mark(text: &str) -> Option<Mark> {
    let (key, id) = text.split_once(':')?;
    Some((key.parse().ok()?, id.parse().ok()?))
}

/// How a command's output begins; the mark follows, and the end of the line.
const RAN: &str = "ran ";

/// What there is of each message's output in the reply files of a node: how long each stretch is that begins as its
/// output does, up to where the next begins. One stretch, if it was appended once.
pub type Replies = HashMap<Mark, Vec<usize>>;

pub fn replies(data: &Path) -> anyhow::Result<Replies> {
    let mut found = HashMap::new();
    let received = data.join("received");
    let senders = match fs::read_dir(&received) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        senders => senders?,
    };
    for sender in senders {
        let sender = sender?.path();
        for file in [ONCE, AGAIN] {
            match fs::read_to_string(sender.join(DIRECTORY).join(file)) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                text => stretches(&text?, &mut found),
            }
        }
    }
    Ok(found)
}

/// Not by lines: what was interrupted may have stopped in the middle of one.
fn stretches(text: &str, found: &mut Replies) {
    let begins: Vec<(usize, Mark)> = text
        .match_indices(RAN)
        .filter_map(|(at, _)| {
            let line = text[at + RAN.len()..].split('\n').next()?;
            Some((at, read_mark(line)?))
        })
        .collect();
    let ends = begins.iter().skip(1).map(|(at, _)| *at).chain([text.len()]);
    for ((at, mark), end) in begins.iter().zip(ends) {
        found.entry(*mark).or_default().push(end - at);
    }
}

//! Compares what was accepted with what is on disk. Every rule of the promise is one check here:
//!
//! - every accepted message and every node of every accepted run has exactly one end, and no journal holds
//!   anything that is not at its end;
//! - what finished ran once, from its beginning to its end; what may not run again never began twice;
//! - nothing ran that nobody had accepted, and nothing on a node that it was not for;
//! - what was interrupted overlaps a kill of its receiver;
//! - the answers of what finished are in the reply files once;
//! - enough finished for all this to mean something.

use std::collections::{BTreeMap, HashMap, HashSet};

use mainstay::api::RunDetail;
use mainstay_core::delivery::HUB_ROLE;
use mainstay_core::delivery::record::OutboxRow;
use mainstay_core::id::{KeyId, MessageId};
use mainstay_core::outcome::{Exit, Outcome};

use super::books::{Book, Entry, Ledger, Mark, Replies};
use super::offer::Offered;
use super::work::{AGAIN, Work};

/// How far the time of a kill and that of an entry in the ledger may lie apart: a command ends, and its node
/// must still notice and write it; a node is killed, and what it has just spawned must still begin.
const SLACK_MS: i64 = 3_000;

/// Output below this is appended in one piece; between the pieces of a larger one there may be other answers.
const ONE_PIECE: u64 = 60_000;

/// Of all that was accepted, this share must have finished, in percent.
const MUST_FINISH: u64 = 95;

/// Most violations that are told one by one.
const MOST_TOLD: usize = 50;

/// When a node was killed, in milliseconds since 1970.
#[derive(Clone, Debug)]
pub struct Kill {
    pub node: String,
    pub at: i64,
}

/// Everything there is to compare.
pub struct Evidence {
    pub offered: Offered,
    pub runs: Vec<RunDetail>,
    pub books: BTreeMap<String, Book>,
    pub keys: BTreeMap<String, KeyId>,
    pub pids: BTreeMap<String, Vec<u32>>,
    pub ledger: Ledger,
    pub replies: BTreeMap<String, Replies>,
    pub kills: Vec<Kill>,
    /// What was seen to go wrong while it ran.
    pub mishaps: Vec<String>,
}

#[derive(Default)]
pub struct Verdict {
    pub violations: Vec<String>,
    /// How many there are by kind, those not told included.
    pub by_kind: BTreeMap<&'static str, usize>,
    pub outcomes: BTreeMap<&'static str, u64>,
    pub messages: u64,
    pub unknown_but_accepted: u64,
    pub run_nodes: u64,
    pub executions: u64,
    pub replies_checked: u64,
    /// Reports of nodes, beside what was offered.
    pub events: u64,
}

impl Verdict {
    pub fn is_good(&self) -> bool {
        self.by_kind.is_empty()
    }

    fn blame(&mut self, kind: &'static str, what: impl FnOnce() -> String) {
        *self.by_kind.entry(kind).or_default() += 1;
        if self.violations.len() < MOST_TOLD {
            self.violations.push(format!("{kind}: {}", what()));
        }
    }

    pub fn finished_percent(&self) -> f64 {
        let total = self.messages + self.run_nodes;
        let finished = self.outcomes.get("finished").copied().unwrap_or(0);
        if total == 0 { 0.0 } else { finished as f64 * 100.0 / total as f64 }
    }
}

/// One thing that was to be done, whoever asked.
struct Case<'a> {
    what: String,
    mark: Mark,
    receiver: &'a str,
    outcome: Option<&'a str>,
    exit: Option<i32>,
    created: i64,
    leaves_entry: bool,
    idempotent: bool,
}

pub fn check(evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::default();
    for mishap in &evidence.mishaps {
        verdict.blame("mishap", || mishap.clone());
    }
    for (node, book) in &evidence.books {
        for what in book.unsettled() {
            verdict.blame("not at its end", || format!("{node}: {what}"));
        }
        if book.damage > 0 {
            verdict.blame("damaged journal", || format!("{node}: {} records or notes", book.damage));
        }
    }
    let mut known = HashSet::new();
    messages(evidence, &mut verdict, &mut known);
    runs(evidence, &mut verdict, &mut known);
    ledger(evidence, &mut verdict, &known);
    let total = verdict.messages + verdict.run_nodes;
    let finished = verdict.outcomes.get("finished").copied().unwrap_or(0);
    if finished * 100 < total * MUST_FINISH {
        verdict.blame("too few finished", || format!("{finished} of {total}"));
    }
    verdict
}

fn messages(evidence: &Evidence, verdict: &mut Verdict, known: &mut HashSet<Mark>) {
    let names: HashMap<KeyId, &str> = evidence.keys.iter().map(|(name, key)| (*key, name.as_str())).collect();
    let mut told: HashMap<(&str, MessageId), &Work> = HashMap::new();
    for message in &evidence.offered.messages {
        told.insert((&message.origin, message.id), &message.work);
        let there = evidence.books.get(&message.origin).and_then(|book| book.outbox.get(&message.id));
        if there.is_none() {
            verdict.messages += 1;
            verdict.blame("lost", || {
                format!("message {} from {} to {} is in no journal", message.id, message.origin, message.to)
            });
        } else if there.is_some_and(|row| row.to_name.as_str() != message.to) {
            verdict.blame("misdirected", || format!("message {} was for {}", message.id, message.to));
        }
    }
    for (origin, book) in &evidence.books {
        let Some(key) = evidence.keys.get(origin) else { continue };
        for (id, row) in &book.outbox {
            if !row.command {
                event(verdict, origin, id, row);
                continue;
            }
            verdict.messages += 1;
            let work = told.get(&(origin.as_str(), *id));
            if work.is_none() {
                verdict.unknown_but_accepted += 1;
            }
            let what = format!("message {id} from {origin} to {}", row.to_name);
            if row.provisional {
                verdict.blame("provisional", || what.clone());
            }
            let reply = row.reply.as_deref().unwrap_or_default();
            let case = Case {
                what,
                mark: (*key, *id),
                receiver: names.get(&row.to).copied().unwrap_or_default(),
                outcome: row.outcome.as_ref().map(Outcome::word),
                exit: match row.outcome {
                    Some(Outcome::Finished(Exit::Code(code))) => Some(code),
                    _ => None,
                },
                created: row.created.as_millis(),
                leaves_entry: row.method == "cmd",
                idempotent: contains(reply, AGAIN.as_bytes()),
            };
            known.insert(case.mark);
            one(evidence, verdict, &case);
            if contains(reply, super::work::DIRECTORY.as_bytes()) {
                let least = work.map_or(0, |work| if work.output < ONE_PIECE { work.output } else { 0 });
                replied(evidence, verdict, origin, &case, least);
            }
        }
    }
}

/// Nodes report what goes wrong of their own accord; nobody offered these. They are sent, and that is all.
fn event(verdict: &mut Verdict, origin: &str, id: &MessageId, row: &OutboxRow) {
    verdict.events += 1;
    if row.outcome != Some(Outcome::Sent) {
        verdict.blame("wrong end", || format!("event {id} of {origin}: {:?}", row.outcome));
    }
}

fn runs(evidence: &Evidence, verdict: &mut Verdict, known: &mut HashSet<Mark>) {
    let offered: HashMap<_, _> = evidence.offered.runs.iter().map(|(run, work)| (*run, work)).collect();
    let there: HashSet<_> = evidence.runs.iter().map(|detail| detail.run.run).collect();
    for run in offered.keys().filter(|run| !there.contains(run)) {
        verdict.run_nodes += 1;
        verdict.blame("lost", || format!("run {run} is not in the hub's history"));
    }
    for detail in &evidence.runs {
        let view = &detail.run;
        if view.nodes != detail.nodes.len() as u64 || view.nodes == 0 {
            verdict.blame("lost", || {
                format!("run {} is of {} nodes and shows {}", view.run, view.nodes, detail.nodes.len())
            });
        }
        for node in &detail.nodes {
            verdict.run_nodes += 1;
            let Some(key) = evidence.keys.get(node.node.as_str()) else { continue };
            let result = node.result.as_ref();
            let case = Case {
                what: format!("run {} on {}", view.run, node.node),
                mark: (HUB_ROLE, MessageId::of_run(view.run, *key)),
                receiver: node.node.as_str(),
                outcome: result.map(|result| result.outcome.as_str()),
                exit: result.and_then(|result| result.exit_code),
                created: view.created_at,
                leaves_entry: view.method == "cmd",
                // One that was accepted though nobody was told may be either.
                idempotent: offered.get(&view.run).is_none_or(|work| work.idempotent),
            };
            known.insert(case.mark);
            if result.is_some_and(|result| result.provisional) {
                verdict.blame("provisional", || case.what.clone());
            }
            one(evidence, verdict, &case);
            let ran = format!("ran {}:{}\n", case.mark.0, case.mark.1);
            let stdout = result.and_then(|result| result.stdout.as_deref()).unwrap_or_default();
            if case.leaves_entry && case.outcome == Some("finished") {
                let whole = offered
                    .get(&view.run)
                    .is_none_or(|work| stdout.len() as u64 == work.output.max(ran.len() as u64));
                if !stdout.starts_with(&ran) || !whole {
                    verdict.blame("wrong output", || format!("{}: {} bytes", case.what, stdout.len()));
                }
            }
        }
    }
}

fn one(evidence: &Evidence, verdict: &mut Verdict, case: &Case<'_>) {
    let nothing = Entry::default();
    let entry = evidence.ledger.entries.get(&case.mark).unwrap_or(&nothing);
    let (began, ended) = (entry.starts.len(), entry.ends.len());
    let tell = |why: String| format!("{} ({}): {why}", case.what, case.outcome.unwrap_or("no end"));
    let Some(outcome) = case.outcome else {
        verdict.blame("no end", || tell(format!("it began {began} times and ended {ended} times")));
        return;
    };
    *verdict.outcomes.entry(static_word(outcome)).or_default() += 1;
    if began > 1 && !case.idempotent {
        verdict.blame("ran twice", || tell(format!("it began at {:?}", entry.starts)));
    }
    match outcome {
        "finished" if case.exit != Some(0) => verdict.blame("wrong end", || tell(format!("{:?}", case.exit))),
        "finished" if case.leaves_entry && (began == 0 || ended == 0) => {
            verdict.blame("did not run", || tell(format!("it began {began} times and ended {ended} times")));
        }
        "finished" => {}
        "interrupted" if case.idempotent && evidence_is_known(evidence, case) => {
            verdict.blame("wrong end", || tell("it may run again".into()));
        }
        "interrupted" if !overlaps_a_kill(evidence, case, entry) => {
            verdict.blame("interrupted without a kill", || tell(format!("{entry:?}")));
        }
        "interrupted" => {}
        _ => verdict.blame("wrong end", || tell("nothing asked for that".into())),
    }
    for (at, parent) in &entry.starts {
        let elsewhere =
            evidence.pids.iter().find(|(node, pids)| node.as_str() != case.receiver && pids.contains(parent));
        // A number may come again in a long round: only one that the receiver never had is proof.
        let own = evidence.pids.get(case.receiver).is_some_and(|pids| pids.contains(parent));
        if let (Some((node, _)), false) = (elsewhere, own) {
            verdict.blame("ran elsewhere", || tell(format!("on {node} at {at}")));
        }
    }
}

/// Whether it is certain that it was offered as idempotent.
fn evidence_is_known(evidence: &Evidence, case: &Case<'_>) -> bool {
    case.mark.0 != HUB_ROLE
        || evidence.offered.runs.iter().any(|(run, work)| {
            let key = evidence.keys.get(case.receiver);
            work.idempotent && key.is_some_and(|key| MessageId::of_run(*run, *key) == case.mark.1)
        })
}

fn overlaps_a_kill(evidence: &Evidence, case: &Case<'_>, entry: &Entry) -> bool {
    let from = entry.starts.first().map_or(case.created, |(at, _)| *at) - SLACK_MS;
    let until = entry.ends.last().map_or(i64::MAX, |at| at.saturating_add(SLACK_MS));
    evidence.kills.iter().any(|kill| kill.node == case.receiver && (from..=until).contains(&kill.at))
}

/// `least`: so much there must be of it in one stretch.
fn replied(evidence: &Evidence, verdict: &mut Verdict, origin: &str, case: &Case<'_>, least: u64) {
    verdict.replies_checked += 1;
    let nothing = Vec::new();
    let found = evidence.replies.get(origin).and_then(|replies| replies.get(&case.mark)).unwrap_or(&nothing);
    let good = match case.outcome {
        Some("finished") => found.len() == 1 && found[0] as u64 >= least,
        _ => found.len() <= 1,
    };
    if !good && !case.idempotent {
        verdict.blame("reply", || {
            let outcome = case.outcome.unwrap_or("no end");
            format!("{} ({outcome}): stretches of {found:?} bytes, not one of {least} or more", case.what)
        });
    }
}

fn ledger(evidence: &Evidence, verdict: &mut Verdict, known: &HashSet<Mark>) {
    for line in &evidence.ledger.unreadable {
        verdict.blame("unreadable entry", || line.clone());
    }
    for (mark, entry) in &evidence.ledger.entries {
        verdict.executions += entry.starts.len() as u64;
        if !known.contains(mark) {
            verdict.blame("nobody accepted it", || format!("{}:{} {entry:?}", mark.0, mark.1));
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The words of [`Outcome`], as a bounded set.
fn static_word(word: &str) -> &'static str {
    const WORDS: [&str; 10] = [
        "finished",
        "failed",
        "timed_out",
        "interrupted",
        "rejected",
        "expired",
        "undeliverable",
        "cancelled",
        "lost",
        "sent",
    ];
    WORDS.into_iter().find(|known| *known == word).unwrap_or("unknown")
}

#[cfg(test)]
mod tests;

//! The rule of the crash harness: what was accepted, against what was executed, against how it ended.
//!
//! It sees what a person would: ids that were given out, processes that began and what they wrote, ends that
//! were told, files that replies have written. It looks into no journal but for the last word on a message.

use std::collections::BTreeMap;
use std::fmt;

use mainstay_core::delivery::Key;
use mainstay_core::id::MessageId;
use mainstay_core::outcome::Outcome;

use crate::workload::Order;

#[derive(Debug)]
pub struct Offered {
    pub order: Order,
    pub key: Key,
    pub accepted: bool,
    pub told: Vec<(Outcome, bool)>,
}

/// One process that began.
#[derive(Debug)]
pub struct Execution {
    pub began: u64,
    pub ended: Option<(u64, Outcome)>,
    pub struck: Option<u64>,
}

#[derive(Debug, Default)]
pub struct Checker {
    pub offered: BTreeMap<MessageId, Offered>,
    pub executions: BTreeMap<(usize, Key), Vec<Execution>>,
    /// Crashes of each node, by time.
    pub crashes: BTreeMap<usize, Vec<u64>>,
    pub violations: Vec<String>,
    pub counts: Counts,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    pub refused: u64,
    pub crashes: u64,
    pub cuts: u64,
    pub frames: u64,
    pub syncs: u64,
    pub batches_refused: u64,
    pub failed_syncs: u64,
}

/// What the origin knows of a message when all is quiet.
#[derive(Clone, Debug)]
pub struct LastWord {
    pub outcome: Option<Outcome>,
    pub provisional: bool,
    pub file: Vec<u8>,
}

impl Checker {
    pub fn began(&mut self, node: usize, key: Key, at: u64) {
        let execution = Execution { began: at, ended: None, struck: None };
        self.executions.entry((node, key)).or_default().push(execution);
    }

    pub fn exited(&mut self, node: usize, key: Key, at: u64, outcome: Outcome) {
        if let Some(execution) = self.executions.get_mut(&(node, key)).and_then(|all| all.last_mut()) {
            execution.ended = Some((at, outcome));
        }
    }

    pub fn crashed(&mut self, node: usize, at: u64, running: impl Iterator<Item = Key>) {
        self.counts.crashes += 1;
        self.crashes.entry(node).or_default().push(at);
        for key in running {
            if let Some(execution) = self.executions.get_mut(&(node, key)).and_then(|all| all.last_mut()) {
                execution.struck = Some(at);
            }
        }
    }

    pub fn ended(&mut self, id: MessageId, outcome: &Outcome, provisional: bool) {
        let Some(offered) = self.offered.get_mut(&id) else { return };
        if let Some((last, false)) = offered.told.last() {
            let again = format!("{id} was told as {last:?} and then as {outcome:?}");
            self.violations.push(again);
        }
        offered.told.push((outcome.clone(), provisional));
    }

    /// Judges one message. `gone`: whether its origin and its receiver were removed from the fleet.
    pub fn judge(&mut self, id: &MessageId, last: Option<&LastWord>, gone: (bool, bool)) {
        let Some(offered) = self.offered.get(id) else { return };
        let found = self.fault(offered, last, gone);
        self.violations.extend(found.map(|what| {
            let Order { from, to, .. } = offered.order;
            format!("{id} from n{from} to n{to}: {what}")
        }));
    }

    fn fault(&self, offered: &Offered, last: Option<&LastWord>, gone: (bool, bool)) -> Option<String> {
        let Offered { order, key, accepted, told } = offered;
        let none = Vec::new();
        let executions = self.executions.get(&(order.to, *key)).unwrap_or(&none);
        if executions.len() > 1 && !order.idempotent {
            return Some(format!("it ran {} times", executions.len()));
        }
        if !executions.is_empty() && order.method == "nosuch" {
            return Some("it ran though there is no such method".into());
        }
        if !executions.is_empty() && order.method == "secret" && order.from != 0 && order.from != order.to {
            return Some("it ran though its sender may not".into());
        }
        if gone.0 {
            return None;
        }
        let Some(last) = last else {
            return if *accepted {
                Some("it was accepted, and nothing is known of it".into())
            } else if !executions.is_empty() {
                Some("it ran and its origin knows nothing of it".into())
            } else {
                None
            };
        };
        let Some(outcome) = &last.outcome else { return Some("it has no end".into()) };
        if let Some((told, false)) = told.last()
            && told != outcome
        {
            return Some(format!("it was told as {told:?} and is kept as {outcome:?}"));
        }
        if !order.command || gone.1 {
            return None;
        }
        let whole = executions.iter().rev().find_map(|execution| execution.ended.as_ref());
        match outcome {
            Outcome::Finished(_) | Outcome::TimedOut if whole.map(|(_, end)| end) != Some(outcome) => {
                Some(format!("{outcome:?}, but its process: {executions:?}"))
            }
            Outcome::Interrupted => self.fault_of_interruption(order, executions),
            Outcome::Finished(_) if order.reply => {
                let output = order.work.output();
                // What ran again goes on after what its first life had written.
                let fits = if order.idempotent { last.file.ends_with(&output) } else { last.file == output };
                (!fits).then(|| format!("its reply has {} bytes of {}", last.file.len(), output.len()))
            }
            Outcome::Cancelled => {
                let cancelled = |execution: &Execution| {
                    execution.ended.as_ref().is_none_or(|(_, end)| *end == Outcome::Cancelled)
                };
                (!executions.iter().all(cancelled)).then(|| "cancelled, though it finished".into())
            }
            Outcome::Expired | Outcome::Undeliverable(_) | Outcome::Rejected(_) | Outcome::Sent
                if !executions.is_empty() =>
            {
                Some(format!("{outcome:?}, but it ran"))
            }
            _ => None,
        }
    }

    /// An interruption must overlap a crash of the receiver. It may have been struck between `started` and its
    /// beginning, so there need not be a process.
    fn fault_of_interruption(&self, order: &Order, executions: &[Execution]) -> Option<String> {
        let none = Vec::new();
        let crashes = self.crashes.get(&order.to).unwrap_or(&none);
        let Some(last) = executions.last() else {
            return crashes.is_empty().then(|| "interrupted without a crash".into());
        };
        (!crashes.iter().any(|at| *at >= last.began)).then(|| "interrupted without a crash since".into())
    }
}

/// What a simulation came to.
#[derive(Clone, Debug)]
pub struct Report {
    pub command: String,
    pub accepted: u64,
    pub outcomes: BTreeMap<&'static str, u64>,
    pub executions: u64,
    pub counts: Counts,
    pub violations: Vec<String>,
    pub log_lines: u64,
    pub log_hash: String,
    /// Simulated, in microseconds.
    pub lasted: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { refused, crashes, cuts, frames, syncs, batches_refused, failed_syncs } = self.counts;
        writeln!(f, "{}", self.command)?;
        writeln!(f, "accepted    {} messages, {refused} refused to their callers", self.accepted)?;
        writeln!(f, "executed    {}", self.executions)?;
        let ends: Vec<_> = self.outcomes.iter().map(|(word, count)| format!("{count} {word}")).collect();
        writeln!(f, "ended       {}", ends.join(", "))?;
        writeln!(f, "world       {crashes} crashes, {cuts} links cut, {failed_syncs} failed syncs")?;
        writeln!(f, "work        {frames} frames, {syncs} syncs, {batches_refused} batches refused")?;
        writeln!(f, "simulated   {} s", self.lasted / 1_000_000)?;
        writeln!(f, "log         {} lines, {}", self.log_lines, self.log_hash)?;
        for violation in self.violations.iter().take(20) {
            writeln!(f, "VIOLATION   {violation}")?;
        }
        write!(f, "violations  {}", self.violations.len())
    }
}

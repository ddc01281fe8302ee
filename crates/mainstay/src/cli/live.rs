//! Output while it comes: whole lines, each behind the name of its node, in order per node.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use mainstay_control::hub::approval::is_state;
use mainstay_control::view::ResultView;
use mainstay_core::id::{NodeName, RunId};

use super::changes::{Detail, told};
use super::fold;
use super::screen::{Screen, one_line};
use crate::up::hub::replay::Account;

/// A line longer than this is shown in pieces: nodes that never end a line must not fill our memory.
const LONGEST_LINE: usize = 64 << 10;

#[derive(Default)]
pub(super) struct Live {
    /// Begun lines, by node and whether it is standard error.
    begun: BTreeMap<(NodeName, bool), Vec<u8>>,
    /// Nodes whose output was shown as it came.
    seen: BTreeSet<NodeName>,
    /// Of a run of declared state: what its nodes write, which is not for people as it is.
    states: Option<BTreeMap<NodeName, Account>>,
}

impl Live {
    /// For a run of this method.
    pub(super) fn of(method: &str) -> Self {
        Self { states: is_state(method).then(BTreeMap::new), ..Self::default() }
    }

    pub(super) fn output(
        &mut self,
        run: RunId,
        node: &NodeName,
        stream: &str,
        bytes: &[u8],
        screen: &mut Screen,
    ) -> io::Result<()> {
        let error = stream == "stderr";
        self.seen.insert(node.clone());
        if !error && let Some(states) = &mut self.states {
            let account = states.entry(node.clone()).or_insert_with(|| Account::new(run, node.to_string()));
            for line in account.take(bytes).iter().flat_map(|tell| told(tell, Detail::default())) {
                screen.line(&format!("{node} | {}", screen.paint(&line.text, line.tone.style())))?;
            }
            return screen.flush();
        }
        let begun = self.begun.entry((node.clone(), error)).or_default();
        begun.extend_from_slice(bytes);
        let mut rest = &begun[..];
        loop {
            let end = rest.iter().take(LONGEST_LINE).position(|byte| *byte == b'\n');
            let (line, skip) = match end {
                Some(end) => (&rest[..end], 1),
                None if rest.len() >= LONGEST_LINE => (&rest[..LONGEST_LINE], 0),
                None => break,
            };
            show(node, error, line, screen)?;
            rest = &rest[line.len() + skip..];
        }
        let rest = rest.to_vec();
        *begun = rest;
        screen.flush()
    }

    /// Output of this node was shown to whoever watched before.
    pub(super) fn was_shown(&mut self, node: &NodeName) {
        self.seen.insert(node.clone());
    }

    /// Nobody watches any more: begun lines are shown as far as they came.
    pub(super) fn leave(&mut self, screen: &mut Screen) -> io::Result<()> {
        for ((node, error), line) in std::mem::take(&mut self.begun) {
            if !line.is_empty() {
                show(&node, error, &line, screen)?;
            }
        }
        screen.flush()
    }

    /// The end of a node: what it left unfinished, and how it ended unless that was well.
    pub(super) fn result(&mut self, result: &ResultView, screen: &mut Screen) -> io::Result<()> {
        if !self.seen.contains(&result.node) {
            let (stdout, stderr) = fold::output(result);
            self.output(result.run, &result.node, "stdout", &stdout, screen)?;
            self.output(result.run, &result.node, "stderr", &stderr, screen)?;
        }
        for error in [false, true] {
            if let Some(line) =
                self.begun.remove(&(result.node.clone(), error)).filter(|line| !line.is_empty())
            {
                show(&result.node, error, &line, screen)?;
            }
        }
        if !result.is_ok() {
            screen.note(&format!("{}: {}", result.node, one_line(&fold::outcome(result))))?;
        }
        if result.truncated {
            screen.note(&format!("{}: its output was cut", result.node))?;
        }
        screen.flush()
    }
}

fn show(node: &NodeName, error: bool, line: &[u8], screen: &mut Screen) -> io::Result<()> {
    let prefix = format!("{node} | ");
    if error {
        return screen.error_line(&prefix, line);
    }
    let mut whole = prefix.into_bytes();
    whole.extend_from_slice(line);
    whole.push(b'\n');
    screen.node_output(&whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::screen::captured;

    const RUN: RunId = RunId::from_bytes([7; 16]);

    fn end(node: &str, exit_code: i32, stdout: &str) -> ResultView {
        serde_json::from_value(serde_json::json!({
            "run": "0190a8a0-0000-7000-8000-00000000000a", "node": node, "outcome": "finished",
            "exit_code": exit_code, "stdout": stdout, "started_at": 1, "duration_ms": 2,
        }))
        .unwrap()
    }

    #[test]
    fn lines_are_whole_and_carry_their_node() {
        let (mut screen, buffer) = captured::screen(true);
        let mut live = Live::default();
        let (a, b): (NodeName, NodeName) = ("a".parse().unwrap(), "b".parse().unwrap());
        live.output(RUN, &a, "stdout", b"one\ntw", &mut screen).unwrap();
        live.output(RUN, &b, "stderr", b"odd \x1b[1m\n", &mut screen).unwrap();
        live.output(RUN, &a, "stdout", b"o\n\nlast", &mut screen).unwrap();
        live.result(&end("a", 0, "one\ntwo\n\nlast"), &mut screen).unwrap();
        live.result(&end("b", 3, ""), &mut screen).unwrap();
        // Its pieces were not kept: the whole is shown at its end.
        live.result(&end("c", 0, "all\nat once"), &mut screen).unwrap();
        insta::assert_snapshot!(buffer.text());
    }

    #[test]
    fn a_line_without_end_is_shown_in_pieces() {
        let (mut screen, _) = captured::screen(false);
        let mut live = Live::default();
        let a: NodeName = "a".parse().unwrap();
        for _ in 0..200 {
            live.output(RUN, &a, "stdout", &[b'x'; 1000], &mut screen).unwrap();
            assert!(live.begun.values().all(|line| line.len() < LONGEST_LINE));
        }
    }
}

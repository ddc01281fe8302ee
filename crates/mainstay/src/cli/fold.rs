//! Results of many nodes in few words: equal outputs form one block, headed by the nodes that gave it.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Arc;

use data_encoding::BASE64;
use mainstay_control::view::{OutcomeView, ResultView};
use mainstay_core::id::NodeName;
use owo_colors::Style;

use super::name_range::{compact, natural_key};
use super::screen::{Screen, one_line};
use super::table;

#[derive(PartialEq, Eq, Hash, Debug)]
struct Block {
    ok: bool,
    outcome: String,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// How much the streams really gave, if not all of it is here.
    cut: Option<(u64, u64)>,
}

/// Holds every different output once, however many nodes gave it.
#[derive(Default)]
pub(super) struct Folded {
    blocks: HashSet<Arc<Block>>,
    nodes: BTreeMap<NodeName, Arc<Block>>,
}

impl Folded {
    /// A later result of a node replaces its earlier one.
    pub(super) fn add(&mut self, result: &ResultView) {
        let (stdout, stderr) = output(result);
        let block = Arc::new(Block {
            ok: result.is_ok(),
            outcome: outcome(result),
            stdout,
            stderr,
            cut: result
                .truncated
                .then(|| (result.stdout_bytes.unwrap_or(0), result.stderr_bytes.unwrap_or(0))),
        });
        let block = match self.blocks.get(&block) {
            Some(known) => known.clone(),
            None => {
                self.blocks.insert(block.clone());
                block
            }
        };
        self.nodes.insert(result.node.clone(), block);
    }

    /// What went well first, so that what did not stands last, where eyes are.
    pub(super) fn show(&self, screen: &mut Screen) -> io::Result<()> {
        let mut groups: BTreeMap<*const Block, (&Block, Vec<&NodeName>)> = BTreeMap::new();
        for (node, block) in &self.nodes {
            groups.entry(Arc::as_ptr(block)).or_insert((block, Vec::new())).1.push(node);
        }
        let mut groups: Vec<_> = groups.into_values().collect();
        for (_, nodes) in &mut groups {
            nodes.sort_by_cached_key(|node| natural_key(node));
        }
        groups.sort_by_cached_key(|(block, nodes)| (!block.ok, natural_key(nodes[0])));
        for (block, nodes) in groups {
            show_block(block, &nodes, screen)?;
        }
        screen.flush()
    }
}

fn show_block(block: &Block, nodes: &[&NodeName], screen: &mut Screen) -> io::Result<()> {
    let names = compact(nodes.iter().copied());
    let count = if nodes.len() > 1 { format!(" ({})", nodes.len()) } else { String::new() };
    let style = if block.ok { Style::new().green().bold() } else { Style::new().red().bold() };
    let head = screen.paint(&format!("── {names}{count} · {}", one_line(&block.outcome)), style);
    screen.line(&head)?;
    whole_lines(screen, &block.stdout)?;
    if !block.stderr.is_empty() {
        let mark = screen.paint("── stderr", Style::new().dimmed());
        screen.line(&mark)?;
        whole_lines(screen, &block.stderr)?;
    }
    if let Some((stdout, stderr)) = block.cut {
        let text =
            format!("── cut: stdout was {} in all, stderr {}", table::bytes(stdout), table::bytes(stderr));
        let text = screen.paint(&text, Style::new().dimmed());
        screen.line(&text)?;
    }
    Ok(())
}

/// What follows must begin on a line of its own.
fn whole_lines(screen: &mut Screen, text: &[u8]) -> io::Result<()> {
    screen.node_output(text)?;
    if text.last().is_some_and(|byte| *byte != b'\n') {
        screen.line("")?;
    }
    Ok(())
}

/// How it ended, in a few words.
pub(super) fn outcome(result: &ResultView) -> String {
    ending(&result.ending())
}

/// The same of whatever has an outcome.
pub(super) fn ending(end: &OutcomeView) -> String {
    let text = match (end.outcome.as_str(), end.exit_code, end.signal) {
        ("finished", Some(0), _) => "ok".into(),
        ("finished", Some(code), _) => format!("exit {code}"),
        ("finished", _, Some(signal)) => format!("killed by signal {signal}"),
        (word, _, _) => match &end.reason {
            Some(reason) => format!("{}: {reason}", word.replace('_', " ")),
            None => word.replace('_', " "),
        },
    };
    if end.provisional { format!("{text} (the node itself has not said so yet)") } else { text }
}

/// Standard output and error as the node gave them.
pub(super) fn output(result: &ResultView) -> (Vec<u8>, Vec<u8>) {
    (
        bytes(result.stdout.as_deref(), result.stdout_base64.as_deref()),
        bytes(result.stderr.as_deref(), result.stderr_base64.as_deref()),
    )
}

/// Text, or else what base64 says; if it says nothing that can be read, its own text is better than none.
pub(super) fn bytes(text: Option<&str>, base64: Option<&str>) -> Vec<u8> {
    match (text, base64) {
        (Some(text), _) => text.as_bytes().to_vec(),
        (None, Some(code)) => BASE64.decode(code.as_bytes()).unwrap_or_else(|_| code.as_bytes().to_vec()),
        (None, None) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::screen::captured;

    fn result(node: &str, json: serde_json::Value) -> ResultView {
        let mut all = serde_json::json!({
            "run": "0190a8a0-0000-7000-8000-00000000000a", "node": node, "outcome": "finished",
            "exit_code": 0, "started_at": 1, "duration_ms": 2,
        });
        all.as_object_mut().unwrap().extend(json.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    fn shown(results: &[ResultView], terminal: bool) -> String {
        let mut folded = Folded::default();
        for result in results {
            folded.add(result);
        }
        let (mut screen, buffer) = captured::screen(terminal);
        folded.show(&mut screen).unwrap();
        buffer.text()
    }

    #[test]
    fn equal_outputs_fold_and_failures_stand_last() {
        let json = |json| json;
        let results = [
            result(
                "ship2",
                json(serde_json::json!({"exit_code": 2, "stderr": "no such unit\n", "stdout": "half"})),
            ),
            result("ship10", json(serde_json::json!({"stdout": "up\n"}))),
            result("ship1", json(serde_json::json!({"stdout": "up\n"}))),
            result("ship3", json(serde_json::json!({"stdout": "up\n", "stderr": "warning"}))),
            result(
                "db",
                json(serde_json::json!({"exit_code": null, "signal": 9, "truncated": true,
                "stdout_bytes": 5_242_880, "stderr_bytes": 0})),
            ),
            result(
                "gone",
                json(
                    serde_json::json!({"exit_code": null, "outcome": "rejected", "reason": "unknown method \"x\""}),
                ),
            ),
            result(
                "late",
                json(serde_json::json!({"exit_code": null, "outcome": "timed_out", "provisional": true})),
            ),
            result("ship9", json(serde_json::json!({"stdout_base64": "dXAK"}))),
        ];
        insta::assert_snapshot!(shown(&results, false));
    }

    #[test]
    fn a_nodes_own_word_replaces_what_was_assumed() {
        let results = [
            result("a", serde_json::json!({"exit_code": null, "outcome": "expired", "provisional": true})),
            result("a", serde_json::json!({"stdout": "did it\n"})),
        ];
        insta::assert_snapshot!(shown(&results, false));
    }

    #[test]
    fn outputs_do_not_command_the_terminal() {
        let results = [result(
            "a",
            serde_json::json!({"stdout": "\u{1b}]0;owned\u{7}x\r\n", "outcome": "failed",
            "reason": "line\nbreak", "exit_code": null}),
        )];
        insta::assert_snapshot!(shown(&results, true));
    }
}

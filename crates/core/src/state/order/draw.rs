//! The order as a picture: Mermaid and DOT.
//!
//! Ids are people's texts, so nodes are named by number and the id is an escaped label.

use std::fmt::Write;

use super::{Edge, Order, Why};
use crate::state::StateIndex;
use crate::state::catalog::{Catalog, RequisiteKind};

impl Order {
    /// A Mermaid flow chart. Solid arrows order, dotted ones (`listen`) do not.
    pub fn mermaid(&self, catalog: &Catalog) -> String {
        let mut text = String::from("flowchart TD\n");
        let merged = self.merged();
        for state in &self.sequence {
            if !merged[*state] {
                let _ = writeln!(text, "  s{state}[\"{}\"]", mermaid_label(catalog, *state));
            }
        }
        for (at, members) in self.merges.iter().enumerate() {
            let _ = writeln!(text, "  subgraph m{at}[\"applied as one\"]");
            for member in members {
                let _ = writeln!(text, "    s{member}[\"{}\"]", mermaid_label(catalog, *member));
            }
            text.push_str("  end\n");
        }
        for arrow in self.arrows(catalog) {
            let Arrow { from, to, words, dotted } = arrow;
            let line = if dotted { "-.->" } else { "-->" };
            let _ = writeln!(text, "  s{from} {line}|\"{}\"| s{to}", mermaid_escape(&words));
        }
        text
    }

    /// A graph in the DOT language of Graphviz.
    pub fn dot(&self, catalog: &Catalog) -> String {
        let mut text = String::from("digraph states {\n  node [shape=box];\n");
        let merged = self.merged();
        for state in &self.sequence {
            if !merged[*state] {
                let _ = writeln!(text, "  s{state} [label=\"{}\"];", dot_label(catalog, *state));
            }
        }
        for (at, members) in self.merges.iter().enumerate() {
            let _ = writeln!(text, "  subgraph cluster_{at} {{\n    label=\"applied as one\";");
            for member in members {
                let _ = writeln!(text, "    s{member} [label=\"{}\"];", dot_label(catalog, *member));
            }
            text.push_str("  }\n");
        }
        for arrow in self.arrows(catalog) {
            let Arrow { from, to, words, dotted } = arrow;
            let style = if dotted { ", style=dotted, constraint=false" } else { "" };
            let _ = writeln!(text, "  s{from} -> s{to} [label=\"{}\"{style}];", dot_escape(&words));
        }
        text.push_str("}\n");
        text
    }

    fn merged(&self) -> Vec<bool> {
        let mut merged = vec![false; self.sequence.len()];
        for member in self.merges.iter().flatten() {
            merged[*member] = true;
        }
        merged
    }

    /// One for each pair and line, from the state that comes first.
    fn arrows(&self, catalog: &Catalog) -> Vec<Arrow> {
        let mut arrows = Vec::new();
        for state in 0..self.sequence.len() {
            let edges = self.edges_before(state);
            for edges in edges.chunk_by(|one, other| one.before == other.before) {
                let [Edge { before, .. }, ..] = edges else { continue };
                // The arrow points from the one that carries `prereq`, so it is named from there.
                let word = |edge: &Edge| match edge.why {
                    Why::Prereq => RequisiteKind::Prereq.word().to_owned(),
                    _ => edge.why.word(catalog),
                };
                let words: Vec<String> = edges.iter().map(word).collect();
                arrows.push(Arrow { from: *before, to: state, words: words.join(", "), dotted: false });
            }
            for target in catalog.states[state].requisites.targets(RequisiteKind::Listen) {
                let words = RequisiteKind::Listen.word().to_owned();
                arrows.push(Arrow { from: *target, to: state, words, dotted: true });
            }
        }
        arrows
    }
}

struct Arrow {
    from: StateIndex,
    to: StateIndex,
    words: String,
    dotted: bool,
}

fn mermaid_label(catalog: &Catalog, state: StateIndex) -> String {
    let declared = &catalog.states[state];
    format!("{}<br/>{}", mermaid_escape(declared.id.as_str()), mermaid_escape(&declared.module))
}

/// Mermaid knows no backslash: it takes characters by their number, as HTML does with `&` for `#`.
fn mermaid_escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_alphanumeric() || " -_./:,=+@'".contains(letter) {
            escaped.push(letter);
        } else {
            let _ = write!(escaped, "#{};", u32::from(letter));
        }
    }
    escaped
}

fn dot_label(catalog: &Catalog, state: StateIndex) -> String {
    let declared = &catalog.states[state];
    format!("{}\\n{}", dot_escape(declared.id.as_str()), dot_escape(&declared.module))
}

fn dot_escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '"' | '\\' => escaped.extend(['\\', letter]),
            letter if letter.is_control() => escaped.push(' '),
            letter => escaped.push(letter),
        }
    }
    escaped
}

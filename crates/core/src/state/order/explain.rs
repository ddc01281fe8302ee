//! Why a state has its turn where it has it, in plain words.

use std::fmt::Write;

use super::{Edge, Order, Why};
use crate::state::StateIndex;
use crate::state::catalog::{Catalog, OrderMode, Rank, RequisiteKind};

/// Nobody reads a longer list of neighbours; a glob may make thousands.
const LISTED: usize = 12;

impl Why {
    /// From the side of the state that waits, as it would be written there: `require`, `needs user:app`.
    pub fn word(&self, catalog: &Catalog) -> String {
        match self {
            Self::Requisite(kind) => kind.word().to_owned(),
            Self::Reads => "reads".to_owned(),
            Self::Prereq => "prereq_in".to_owned(),
            Self::PrereqOf(target) => format!("for prereq {}", catalog.states[*target].id),
            Self::Needs(resource) => format!("needs {resource}"),
        }
    }

    fn sentence(&self, catalog: &Catalog) -> String {
        match self {
            Self::Requisite(kind) => kind.word().to_owned(),
            Self::Reads => "this one reads its output".to_owned(),
            Self::Prereq => "that one runs if this one would change (prereq)".to_owned(),
            Self::PrereqOf(target) => {
                format!(
                    "{}, which this one looks ahead at (prereq), comes after it",
                    catalog.states[*target].id
                )
            }
            Self::Needs(resource) => format!("it provides {resource}, which this one needs"),
        }
    }
}

impl Order {
    /// A few lines, the first of which says which turn it is. No line break at the end.
    pub fn explain(&self, catalog: &Catalog, state: StateIndex) -> String {
        let count = self.sequence.len();
        let mut text = format!("turn {} of {count}", self.place(state) + 1);
        if self.place(state) != state {
            let _ = write!(text, ", written as number {}", state + 1);
        }
        self.explain_edges(catalog, state, &mut text);
        self.explain_place(catalog, state, &mut text);
        for left_out in self.left_out.iter().filter(|left_out| left_out.needer == state) {
            let provider = &catalog.states[left_out.provider].id;
            let _ = write!(
                text,
                "\nnot after {provider}, which provides {}: {provider} already comes after this one",
                left_out.resource
            );
        }
        for left_out in self.left_out.iter().filter(|left_out| left_out.provider == state) {
            let needer = &catalog.states[left_out.needer].id;
            let _ = write!(
                text,
                "\nnot before {needer}, which needs {}: this one already comes after {needer}",
                left_out.resource
            );
        }
        text
    }

    fn explain_edges(&self, catalog: &Catalog, state: StateIndex, text: &mut String) {
        let mut rest = self.edges_before(state);
        let mut listed = 0;
        while let Some(first) = rest.first() {
            let same = rest.iter().take_while(|edge| edge.before == first.before).count();
            if listed < LISTED {
                let id = &catalog.states[first.before].id;
                let _ = write!(text, "\nafter {id}: {}", sentences(catalog, &rest[..same]));
            }
            listed += 1;
            rest = &rest[same..];
        }
        if listed > LISTED {
            let _ = write!(text, "\nafter {} more", listed - LISTED);
        }
        let requisites = &catalog.states[state].requisites;
        let prereqs = requisites.targets(RequisiteKind::Prereq);
        for target in prereqs.iter().take(LISTED) {
            let _ = write!(text, "\nbefore {}: prereq", catalog.states[*target].id);
        }
        if prereqs.len() > LISTED {
            let _ = write!(text, "\nbefore {} more: prereq", prereqs.len() - LISTED);
        }
        let listens = requisites.targets(RequisiteKind::Listen);
        if !listens.is_empty() && self.refreshes(state) {
            let names = super::super::walk::names(catalog, listens);
            let _ = write!(text, "\nrefreshed at the end if {names} changed: listen orders nothing");
        }
    }

    /// What beyond edges put it where it is.
    fn explain_place(&self, catalog: &Catalog, state: StateIndex, text: &mut String) {
        match catalog.states[state].options.order {
            Some(Rank::First) => text.push_str("\norder: first, ahead of others that could go now"),
            Some(Rank::Number(number)) => {
                let _ = write!(
                    text,
                    "\norder: {number}, ahead of others that could go now and have none or a higher one"
                );
            }
            Some(Rank::Last) => text.push_str("\norder: last, behind others that could go now"),
            None => {}
        }
        if let Some(members) = self.merges.iter().find(|members| members.contains(&state)) {
            let others: Vec<StateIndex> = members.iter().copied().filter(|member| *member != state).collect();
            let names = super::super::walk::names(catalog, &others);
            let _ = write!(
                text,
                "\napplied as one with {names}: no requisite lies between them, and they are held back until all are due"
            );
            return;
        }
        let alone = match (self.mode, catalog.states[state].options.parallel) {
            (OrderMode::Ansible, Some(true)) => "\nparallel: what follows does not wait for it",
            (OrderMode::Justdoit | OrderMode::Genius, Some(false)) => {
                "\nparallel: false, never together with another such state"
            }
            _ => "",
        };
        text.push_str(alone);
        if self.place(state) == state || self.mode == OrderMode::Justdoit {
            return;
        }
        // Its last predecessor tells when it could go; from then on only the order of writing, `order:` and merges count.
        let freed_by = self.before(state).iter().copied().max_by_key(|before| self.place(*before));
        match freed_by {
            Some(before) if self.last_beside(before) + 1 == self.place(state) => {
                let _ = write!(text, "\nright after {}, for which it waited", catalog.states[before].id);
            }
            _ if self.place(state) < state => {
                text.push_str(
                    "\nmoved up: states written before it wait for others, or come later by their own order",
                );
            }
            _ => text.push_str("\nmoved back: states written after it could go before it"),
        }
    }

    /// The place of the last one that is applied as one with this state, or its own.
    fn last_beside(&self, state: StateIndex) -> usize {
        let merge = self.merges.iter().find(|members| members.contains(&state));
        merge.and_then(|members| members.last()).map_or(self.place(state), |last| self.place(*last))
    }
}

/// All the reasons for which one state comes before another.
fn sentences(catalog: &Catalog, edges: &[Edge]) -> String {
    let words: Vec<String> = edges.iter().map(|edge| edge.why.sentence(catalog)).collect();
    words.join("; ")
}

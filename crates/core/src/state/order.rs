//! In which order the states of a catalog have their turn, and why.
//!
//! Edges come from requisites as they were written, from outputs that a parameter reads, and from what modules say
//! they need and provide. [`Order::build`] checks that they hold no cycle and lays the states out by the order mode.
//! Who runs when its turn has come is decided in [`walk`](super::walk), not here.

mod draw;
mod edges;
mod explain;
mod graph;
mod sequence;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use super::catalog::{Catalog, OrderMode, Place, RequisiteKind};
use super::redaction::HIDDEN;
use super::{StateId, StateIndex};

/// What the module of one state says of it, once its parameters are known.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Links {
    /// Names of resources that have to be there first (`user:app`).
    pub needs: Vec<String>,
    /// Names of resources that are there once this state is as declared.
    pub provides: Vec<String>,
    /// States of one module with the same key may be applied as one in `genius` order.
    pub merge: Option<String>,
    /// The module has a refresh; without one `watch` means `require` and `listen` nothing.
    pub refreshes: bool,
}

/// One state comes before another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Edge {
    pub before: StateIndex,
    pub after: StateIndex,
    pub why: Why,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Why {
    /// `after` carries the requisite, `before` is its target. Never `listen`, which orders nothing, nor `prereq`.
    Requisite(RequisiteKind),
    /// `after` reads an output of `before`.
    Reads,
    /// `before` carries `prereq` on `after`.
    Prereq,
    /// `after` carries `prereq` on this state, which comes after `before`: it is analysed at the turn of `after`.
    PrereqOf(StateIndex),
    /// `after` needs this resource, which `before` provides. Means `require`.
    Needs(Arc<str>),
}

/// An inferred edge that would have closed a cycle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeftOut {
    /// Provides the resource, but comes after the other already.
    pub provider: StateIndex,
    pub needer: StateIndex,
    pub resource: Arc<str>,
}

/// The states of a catalog in order.
#[derive(Clone, Debug)]
pub struct Order {
    pub mode: OrderMode,
    /// Every state once, none before what it comes after. In `ansible` mode it is the order of turns; in the others
    /// it says who goes first among those that may begin.
    pub sequence: Vec<StateIndex>,
    /// By `after`, then `before`.
    pub edges: Vec<Edge>,
    pub left_out: Vec<LeftOut>,
    /// States that are applied as one; each has at least two, which stand side by side in the sequence.
    pub merges: Vec<Vec<StateIndex>>,
    before: Vec<Vec<StateIndex>>,
    after: Vec<Vec<StateIndex>>,
    inferred: Vec<Vec<StateIndex>>,
    refreshes: Vec<bool>,
    place: Vec<usize>,
}

/// Why a catalog's states cannot be put in order.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OrderError {
    #[error(transparent)]
    Cycle(#[from] Cycle),
    /// The compiler never makes such a catalog.
    #[error("{state} names state number {target}, but the catalog has {states}")]
    NoSuchState { state: StateId, target: usize, states: usize },
}

/// States that wait for each other.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct Cycle {
    /// Each comes after the next, the last after the first.
    pub steps: Vec<CycleStep>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CycleStep {
    pub state: StateIndex,
    pub id: StateId,
    pub at: Place,
    /// Why it comes after the next one, as `require` or `prereq_in`.
    pub why: String,
}

impl fmt::Display for Cycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("these states wait for each other: ")?;
        for step in &self.steps {
            write!(f, "{} → ({}) ", step.id, step.why)?;
        }
        match self.steps.first() {
            Some(first) => write!(f, "{}", first.id),
            None => Ok(()),
        }
    }
}

impl Order {
    /// `links` are by state; where it is too short, nothing is known of the rest. Without any, it checks for cycles.
    pub fn build(catalog: &Catalog, links: &[Links]) -> Result<Self, OrderError> {
        let count = catalog.states.len();
        let found = edges::find(catalog, links)?;
        let mut order = Self {
            mode: catalog.order,
            sequence: Vec::new(),
            edges: found.edges,
            left_out: found.left_out,
            merges: Vec::new(),
            before: vec![Vec::new(); count],
            after: vec![Vec::new(); count],
            inferred: vec![Vec::new(); count],
            refreshes: (0..count)
                .map(|state| links.get(state).is_some_and(|links| links.refreshes))
                .collect(),
            place: vec![0; count],
        };
        order.edges.sort_by_key(|edge| (edge.after, edge.before));
        for Edge { before, after, why } in &order.edges {
            if order.before[*after].last() != Some(before) {
                order.before[*after].push(*before);
                order.after[*before].push(*after);
            }
            if matches!(why, Why::Needs(_)) {
                order.inferred[*after].push(*before);
            }
        }
        let laid = sequence::lay_out(catalog, links, &order.before, &order.after);
        order.sequence = laid.sequence;
        order.merges = laid.merges;
        for (place, state) in order.sequence.iter().enumerate() {
            order.place[*state] = place;
        }
        Ok(order)
    }

    /// Of resources between two secret states only the kind is told from now on: neither shows what it names. What an open
    /// one needs or provides is no secret.
    pub fn hide_resources(&mut self, is_secret: impl Fn(StateIndex) -> bool) {
        let hide = |resource: &mut Arc<str>, ends: [StateIndex; 2]| {
            if let (true, Some((kind, _))) = (ends.into_iter().all(&is_secret), resource.split_once(':')) {
                *resource = format!("{kind}:{HIDDEN}").into();
            }
        };
        for Edge { before, after, why } in &mut self.edges {
            if let Why::Needs(resource) = why {
                hide(resource, [*before, *after]);
            }
        }
        for LeftOut { provider, needer, resource } in &mut self.left_out {
            hide(resource, [*provider, *needer]);
        }
    }

    /// The states that have their turn before this one because of an edge, sorted.
    pub fn before(&self, state: StateIndex) -> &[StateIndex] {
        &self.before[state]
    }

    /// The states that wait for this one, sorted.
    pub fn after(&self, state: StateIndex) -> &[StateIndex] {
        &self.after[state]
    }

    /// What this state requires because it needs what they provide.
    pub fn inferred(&self, state: StateIndex) -> &[StateIndex] {
        &self.inferred[state]
    }

    /// The module of this state has a refresh.
    pub fn refreshes(&self, state: StateIndex) -> bool {
        self.refreshes[state]
    }

    /// The place of this state in the sequence.
    pub fn place(&self, state: StateIndex) -> usize {
        self.place[state]
    }

    /// The edges that hold this state back, by the state they come from.
    pub fn edges_before(&self, state: StateIndex) -> &[Edge] {
        let start = self.edges.partition_point(|edge| edge.after < state);
        let end = self.edges.partition_point(|edge| edge.after <= state);
        &self.edges[start..end]
    }
}

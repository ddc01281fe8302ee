//! Lays states out: of those whose edges are met, the next one is the lowest by `order:`, then the one written first.
//!
//! `genius` order holds states back that can be applied as one until nothing else is left that could go before, so that as
//! many as possible come together. Only states that could all run at the same time are merged: a merge never crosses
//! an edge.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use super::Links;
use crate::state::StateIndex;
use crate::state::catalog::{Catalog, OrderMode, Rank, RequisiteKind};

pub(super) struct Laid {
    /// Shorter than the catalog if edges close a cycle.
    pub(super) sequence: Vec<StateIndex>,
    pub(super) merges: Vec<Vec<StateIndex>>,
}

/// `first`, then numbers, then states without `order:`, then `last`.
fn rank(catalog: &Catalog, state: StateIndex) -> (u8, i64, StateIndex) {
    let (class, number) = match catalog.states[state].options.order {
        Some(Rank::First) => (0, 0),
        Some(Rank::Number(number)) => (1, number),
        None => (2, 0),
        Some(Rank::Last) => (3, 0),
    };
    (class, number, state)
}

pub(super) fn lay_out(
    catalog: &Catalog,
    links: &[Links],
    before: &[Vec<StateIndex>],
    after: &[Vec<StateIndex>],
) -> Laid {
    let count = catalog.states.len();
    let merges_at_all = catalog.order == OrderMode::Genius;
    let key: Vec<Option<MergeKey<'_>>> =
        (0..count).map(|state| merge_key(catalog, links, state).filter(|_| merges_at_all)).collect();
    let mut unlaid: BTreeMap<MergeKey<'_>, usize> = BTreeMap::new();
    for key in key.iter().flatten() {
        *unlaid.entry(*key).or_default() += 1;
    }
    let mut waits_for: Vec<usize> = before.iter().map(Vec::len).collect();
    let mut single = BinaryHeap::new();
    let mut mergeable: BTreeMap<MergeKey<'_>, BTreeSet<(u8, i64, StateIndex)>> = BTreeMap::new();
    let mut laid = Laid { sequence: Vec::with_capacity(count), merges: Vec::new() };
    let mut freed: Vec<StateIndex> = (0..count).filter(|state| waits_for[*state] == 0).collect();
    loop {
        for state in freed.drain(..) {
            match key[state] {
                Some(key) => {
                    mergeable.entry(key).or_default().insert(rank(catalog, state));
                }
                None => single.push(Reverse(rank(catalog, state))),
            }
        }
        let start = laid.sequence.len();
        if let Some(Reverse((_, _, state))) = single.pop() {
            laid.sequence.push(state);
        } else {
            // A merge to which nothing more can come is preferred; else the one with the lowest state.
            let next =
                mergeable.iter().min_by_key(|(key, ready)| (ready.len() < unlaid[*key], ready.first()));
            let Some(key) = next.map(|(key, _)| *key) else { break };
            let members = mergeable.remove(&key).unwrap_or_default();
            if let Some(left) = unlaid.get_mut(&key) {
                *left -= members.len();
            }
            laid.sequence.extend(members.iter().map(|(_, _, state)| *state));
            if members.len() > 1 {
                laid.merges.push(laid.sequence[start..].to_vec());
            }
        }
        for state in &laid.sequence[start..] {
            for next in &after[*state] {
                waits_for[*next] -= 1;
                if waits_for[*next] == 0 {
                    freed.push(*next);
                }
            }
        }
    }
    laid
}

/// Module, key, and as whom it runs.
type MergeKey<'a> = (&'a str, &'a str, Option<&'a str>);

/// A state that is to run by itself, to be tried again by itself, or to look ahead at its own turn is not merged.
fn merge_key<'a>(catalog: &'a Catalog, links: &'a [Links], state: StateIndex) -> Option<MergeKey<'a>> {
    let declared = &catalog.states[state];
    let options = &declared.options;
    let apart = options.parallel == Some(false)
        || options.retry.is_some()
        || !declared.requisites.targets(RequisiteKind::Prereq).is_empty();
    let key = links.get(state)?.merge.as_deref()?;
    (!apart).then_some((declared.module.as_str(), key, options.become_user.as_deref()))
}

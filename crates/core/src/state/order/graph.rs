//! A directed graph that stays free of cycles while edges are added.
//!
//! It keeps a topological order and repairs only the stretch that a new edge contradicts (Pearce and Kelly, "A dynamic
//! topological sort algorithm for directed acyclic graphs", 2006), so an edge that agrees with the order costs nothing.

use std::collections::{BTreeSet, VecDeque};

pub(super) struct Dag {
    after: Vec<Vec<usize>>,
    before: Vec<Vec<usize>>,
    rank: Vec<usize>,
    /// A node was seen by the search of this number.
    seen: Vec<u32>,
    search: u32,
}

impl Dag {
    /// `sequence` holds every node once; edges must agree with it.
    pub(super) fn new(sequence: &[usize], edges: impl Iterator<Item = (usize, usize)>) -> Self {
        let count = sequence.len();
        let mut dag = Self {
            after: vec![Vec::new(); count],
            before: vec![Vec::new(); count],
            rank: vec![0; count],
            seen: vec![0; count],
            search: 0,
        };
        for (rank, node) in sequence.iter().enumerate() {
            dag.rank[*node] = rank;
        }
        for (from, to) in edges {
            dag.after[from].push(to);
            dag.before[to].push(from);
        }
        dag
    }

    /// Adds an edge unless it closes a cycle.
    pub(super) fn add(&mut self, from: usize, to: usize) -> bool {
        if from == to {
            return false;
        }
        if self.rank[from] > self.rank[to] {
            let Some(behind) = self.reach(to, from) else { return false };
            let ahead = self.reach_back(from, self.rank[to]);
            let mut ranks: Vec<usize> = ahead.iter().chain(&behind).map(|node| self.rank[*node]).collect();
            ranks.sort_unstable();
            for (node, rank) in ahead.into_iter().chain(behind).zip(ranks) {
                self.rank[node] = rank;
            }
        }
        self.after[from].push(to);
        self.before[to].push(from);
        true
    }

    /// Whether `to` comes after any of `from`.
    pub(super) fn comes_after(&mut self, from: &[usize], to: usize) -> bool {
        from.iter().any(|node| *node == to || self.reach(*node, to).is_none())
    }

    /// What comes after `start`, itself included, down to the rank of `goal` and in order of rank; none if `goal` is
    /// among it.
    fn reach(&mut self, start: usize, goal: usize) -> Option<Vec<usize>> {
        self.search += 1;
        self.seen[start] = self.search;
        let mut found = vec![start];
        let mut at = 0;
        while at < found.len() {
            for next in &self.after[found[at]] {
                if *next == goal {
                    return None;
                }
                if self.rank[*next] < self.rank[goal] && self.seen[*next] != self.search {
                    self.seen[*next] = self.search;
                    found.push(*next);
                }
            }
            at += 1;
        }
        found.sort_unstable_by_key(|node| self.rank[*node]);
        Some(found)
    }

    fn reach_back(&mut self, start: usize, down_to: usize) -> Vec<usize> {
        self.search += 1;
        self.seen[start] = self.search;
        let mut found = vec![start];
        let mut at = 0;
        while at < found.len() {
            for next in &self.before[found[at]] {
                if self.rank[*next] > down_to && self.seen[*next] != self.search {
                    self.seen[*next] = self.search;
                    found.push(*next);
                }
            }
            at += 1;
        }
        found.sort_unstable_by_key(|node| self.rank[*node]);
        found
    }

    /// A shortest way along edges, both ends included.
    pub(super) fn path(&self, from: usize, to: usize) -> Option<Vec<usize>> {
        path(&self.after, from, to)
    }
}

/// A shortest way along edges, both ends included. From a node to itself it takes at least one edge.
pub(super) fn path(after: &[Vec<usize>], from: usize, to: usize) -> Option<Vec<usize>> {
    let mut came_from = vec![usize::MAX; after.len()];
    let mut queue = VecDeque::from([from]);
    while let Some(node) = queue.pop_front() {
        for next in &after[node] {
            if *next == to {
                let mut path = vec![to, node];
                let mut at = node;
                while at != from {
                    at = came_from[at];
                    path.push(at);
                }
                path.reverse();
                return Some(path);
            }
            if came_from[*next] == usize::MAX {
                came_from[*next] = node;
                queue.push_back(*next);
            }
        }
    }
    None
}

/// Lays nodes out along `hard` edges, which hold no cycle, and along as many `soft` ones as come easily: where these hold a
/// cycle, its lowest node goes first. A [`Dag`] that starts from it has little to repair when the soft edges are added.
pub(super) fn lean(hard: &[Vec<usize>], soft: &[Vec<usize>]) -> Vec<usize> {
    let count = hard.len();
    let mut waits_hard = vec![0usize; count];
    let mut waits_soft = vec![0usize; count];
    for (edges, waits) in [(hard, &mut waits_hard), (soft, &mut waits_soft)] {
        for to in edges.iter().flatten() {
            waits[*to] += 1;
        }
    }
    let (mut free, mut stuck) = (BTreeSet::new(), BTreeSet::new());
    for node in (0..count).filter(|node| waits_hard[*node] == 0) {
        if waits_soft[node] == 0 {
            free.insert(node)
        } else {
            stuck.insert(node)
        };
    }
    let mut sequence = Vec::with_capacity(count);
    let mut gone = vec![false; count];
    while let Some(node) = free.pop_first().or_else(|| stuck.pop_first()) {
        sequence.push(node);
        gone[node] = true;
        for to in &hard[node] {
            waits_hard[*to] -= 1;
        }
        for to in &soft[node] {
            waits_soft[*to] -= 1;
        }
        for to in hard[node].iter().chain(&soft[node]).filter(|to| !gone[**to] && waits_hard[**to] == 0) {
            if waits_soft[*to] == 0 {
                stuck.remove(to);
                free.insert(*to);
            } else {
                stuck.insert(*to);
            }
        }
    }
    sequence
}

/// Numbers the strongly connected components; nodes share a number if and only if they are on a cycle together. Tarjan's
/// algorithm, without recursion: a catalog may be one long chain.
pub(super) fn components(after: &[Vec<usize>]) -> Vec<usize> {
    const NONE: usize = usize::MAX;
    let count = after.len();
    let mut component = vec![NONE; count];
    let mut index = vec![NONE; count];
    let mut low = vec![0; count];
    let (mut stack, mut calls) = (Vec::new(), Vec::new());
    let (mut indices, mut components) = (0, 0);
    for root in 0..count {
        if index[root] != NONE {
            continue;
        }
        calls.push((root, 0));
        while let Some((node, next)) = calls.last_mut() {
            let node = *node;
            if *next == 0 {
                index[node] = indices;
                low[node] = indices;
                indices += 1;
                stack.push(node);
            }
            if let Some(to) = after[node].get(*next).copied() {
                *next += 1;
                if index[to] == NONE {
                    calls.push((to, 0));
                } else if component[to] == NONE {
                    low[node] = low[node].min(index[to]);
                }
                continue;
            }
            calls.pop();
            if let Some((parent, _)) = calls.last() {
                low[*parent] = low[*parent].min(low[node]);
            }
            if low[node] == index[node] {
                while let Some(member) = stack.pop() {
                    component[member] = components;
                    if member == node {
                        break;
                    }
                }
                components += 1;
            }
        }
    }
    component
}

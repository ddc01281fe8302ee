//! Circles in a directed graph.

use std::collections::VecDeque;

/// One shortest circle out of each knot, each beginning at its smallest place. A place with an edge to itself is a circle of one.
pub(super) fn cycles(edges: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let knots = knots(edges);
    let mut of = vec![usize::MAX; edges.len()];
    for (number, knot) in knots.iter().enumerate() {
        knot.iter().for_each(|&place| of[place] = number);
    }
    let circles = knots.iter().enumerate().filter_map(|(number, knot)| {
        let start = *knot.iter().min()?;
        around(edges, start, |place| of[place] == number)
    });
    circles.collect()
}

/// The shortest way from `start` back to it.
fn around(edges: &[Vec<usize>], start: usize, inside: impl Fn(usize) -> bool) -> Option<Vec<usize>> {
    let mut before = vec![usize::MAX; edges.len()];
    let mut queue = VecDeque::from([start]);
    while let Some(place) = queue.pop_front() {
        for &next in &edges[place] {
            if next == start {
                let mut path = vec![place];
                while path.last() != Some(&start) {
                    path.push(before[*path.last()?]);
                }
                path.reverse();
                return Some(path);
            }
            if inside(next) && before[next] == usize::MAX {
                before[next] = place;
                queue.push_back(next);
            }
        }
    }
    None
}

/// Places that can all reach each other (Tarjan), without recursion: a chain of states may be as long as the file.
fn knots(edges: &[Vec<usize>]) -> Vec<Vec<usize>> {
    const UNSEEN: usize = usize::MAX;
    let count = edges.len();
    let (mut number, mut low) = (vec![UNSEEN; count], vec![0; count]);
    let mut on_stack = vec![false; count];
    let (mut stack, mut found, mut next) = (Vec::new(), Vec::new(), 0);
    for root in 0..count {
        let mut calls = if number[root] == UNSEEN { vec![(root, 0)] } else { Vec::new() };
        while let Some((place, edge)) = calls.pop() {
            if edge == 0 {
                (number[place], low[place]) = (next, next);
                next += 1;
                stack.push(place);
                on_stack[place] = true;
            }
            if let Some(&to) = edges[place].get(edge) {
                calls.push((place, edge + 1));
                if number[to] == UNSEEN {
                    calls.push((to, 0));
                } else if on_stack[to] {
                    low[place] = low[place].min(number[to]);
                }
                continue;
            }
            if let Some((above, _)) = calls.last() {
                low[*above] = low[*above].min(low[place]);
            }
            if low[place] == number[place] {
                let mut knot = Vec::new();
                while let Some(member) = stack.pop() {
                    on_stack[member] = false;
                    knot.push(member);
                    if member == place {
                        break;
                    }
                }
                if knot.len() > 1 || edges[place].contains(&place) {
                    found.push(knot);
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_table_of_circles() {
        for (edges, expected) in [
            (vec![vec![]], vec![]),
            (vec![vec![0]], vec![vec![0]]),
            (vec![vec![1], vec![0]], vec![vec![0, 1]]),
            (vec![vec![1], vec![2], vec![]], vec![]),
            // The shorter way round is told.
            (vec![vec![1, 2], vec![2], vec![0]], vec![vec![0, 2]]),
            (vec![vec![], vec![2], vec![3], vec![1, 0], vec![4]], vec![vec![1, 2, 3], vec![4]]),
        ] {
            let mut found = cycles(&edges);
            found.sort();
            assert_eq!(found, expected, "{edges:?}");
        }
        let long: Vec<Vec<usize>> = (0..200_000).map(|at| vec![(at + 1) % 200_000]).collect();
        assert_eq!(cycles(&long).len(), 1);
    }

    proptest! {
        #[test]
        fn what_is_found_is_a_circle_and_without_one_there_is_an_order(
            edges in (1..9_usize).prop_flat_map(|n| prop::collection::vec(prop::collection::vec(0..n, 0..3), n)),
        ) {
            let found = cycles(&edges);
            for circle in &found {
                for (at, &place) in circle.iter().enumerate() {
                    prop_assert!(edges[place].contains(&circle[(at + 1) % circle.len()]));
                }
            }
            // Taking away what has no way out, again and again, leaves nothing just when there is no circle.
            let mut left: Vec<usize> = (0..edges.len()).collect();
            for _ in 0..edges.len() {
                let before = left.clone();
                left.retain(|&place| edges[place].iter().any(|to| before.contains(to)));
            }
            prop_assert_eq!(left.is_empty(), found.is_empty());
        }
    }
}

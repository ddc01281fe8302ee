//! `prereq`: would one of the targets change?
//!
//! A target may carry a `prereq` itself, so the question goes on to its targets. It is asked anew at every such state's
//! turn, and the answers hold for that turn only.

use std::collections::BTreeMap;

use crate::state::StateIndex;
use crate::state::order::Order;

/// What is known of one target before its own `prereq` is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// It will not change, or not run.
    Quiet,
    WouldChange,
    /// Whether it would is known only later. Only in the analyze phase.
    MayChange,
    Error,
    /// It has to be analysed first.
    Unasked,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Firing {
    Fires,
    /// Whether it fires is known only after this target.
    Depends(StateIndex),
    Quiet,
    /// This target could not be analysed.
    Error(StateIndex),
    /// These have to be analysed first.
    Ask(Vec<StateIndex>),
}

struct Frame {
    state: StateIndex,
    targets: Vec<StateIndex>,
    next: usize,
    /// Its own analysis leaves no doubt.
    sure: bool,
    fires: bool,
    depends: Option<StateIndex>,
}

/// Goes down from `root`. `targets` are a state's `prereq` targets; they are looked at in the order of the sequence, and
/// `standing` is told which of them are known to stay as they are. Every target is asked after, so that an error in any
/// of them is seen.
pub(super) fn fires<'a>(
    order: &Order,
    root: StateIndex,
    targets: impl Fn(StateIndex) -> &'a [StateIndex],
    standing: impl Fn(StateIndex, &BTreeMap<StateIndex, bool>) -> Standing,
) -> Firing {
    let frame = |state, sure| {
        let mut targets = targets(state).to_vec();
        targets.sort_unstable_by_key(|target| order.place(*target));
        Frame { state, targets, next: 0, sure, fires: false, depends: None }
    };
    // Whether a state that was looked at would change for sure or perhaps; one that would not is `false`.
    let mut known: BTreeMap<StateIndex, bool> = BTreeMap::new();
    let mut certain: BTreeMap<StateIndex, bool> = BTreeMap::new();
    let mut ask = Vec::new();
    let mut error = None;
    let mut stack = vec![frame(root, true)];
    while let Some(top) = stack.last_mut() {
        let Some(target) = top.targets.get(top.next).copied() else {
            let done = stack.pop().expect("it was looked at");
            known.insert(done.state, done.fires || done.depends.is_some());
            certain.insert(done.state, done.fires && done.sure);
            if stack.is_empty() {
                break;
            }
            continue;
        };
        if let Some(changes) = known.get(&target) {
            top.fires |= certain.get(&target).copied().unwrap_or(false);
            if *changes && top.depends.is_none() {
                top.depends = Some(target);
            }
            top.next += 1;
            continue;
        }
        let standing = standing(target, &known);
        match standing {
            Standing::Quiet => {
                known.insert(target, false);
            }
            // A target with a `prereq` of its own changes only if that fires.
            Standing::WouldChange | Standing::MayChange if !targets(target).is_empty() => {
                stack.push(frame(target, standing == Standing::WouldChange));
            }
            Standing::WouldChange => {
                known.insert(target, true);
                certain.insert(target, true);
            }
            Standing::MayChange => {
                known.insert(target, true);
            }
            Standing::Error => {
                error.get_or_insert(target);
                known.insert(target, true);
            }
            Standing::Unasked => {
                ask.push(target);
                known.insert(target, true);
            }
        }
    }
    if !ask.is_empty() {
        return Firing::Ask(ask);
    }
    if let Some(target) = error {
        return Firing::Error(target);
    }
    if certain.get(&root) == Some(&true) {
        return Firing::Fires;
    }
    let perhaps = targets(root).iter().find(|target| known.get(target) == Some(&true));
    perhaps.map_or(Firing::Quiet, |target| Firing::Depends(*target))
}

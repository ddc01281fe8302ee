//! Which accepted messages wait to be begun, and which are at work.
//!
//! Messages begin in the order in which they were accepted, as many at a time as there are slots. Those of methods that run
//! one at a time ([`Limits::one_at_a_time`](super::super::Limits::one_at_a_time)) stand in a line of their own: one that has to
//! wait for another takes no slot, and holds up nobody else.

use std::collections::{BTreeSet, VecDeque};

use super::super::Key;

#[derive(Debug, Default)]
pub(super) struct Turns {
    waiting: VecDeque<Key>,
    line: VecDeque<Key>,
    /// Those that are still being accepted and will stand in line: whoever comes now comes after them.
    coming: usize,
    running: usize,
    /// Those of the line that are at work: one, or what a crash left.
    of_line: BTreeSet<Key>,
}

impl Turns {
    pub(super) fn running(&self) -> usize {
        self.running
    }

    /// Whether one that just came may begin, out of so many slots.
    pub(super) fn has_room(&self, slots: usize, in_line: bool) -> bool {
        let is_next = if in_line {
            self.coming == 0 && self.line.is_empty() && self.of_line.is_empty()
        } else {
            self.waiting.is_empty()
        };
        is_next && self.running < slots
    }

    /// One is being accepted that cannot begin at once.
    pub(super) fn coming(&mut self, in_line: bool) {
        self.coming += usize::from(in_line);
    }

    /// It was accepted, or was not.
    pub(super) fn came(&mut self, in_line: bool) {
        self.coming -= usize::from(in_line);
    }

    pub(super) fn wait(&mut self, key: Key, in_line: bool) {
        self.queue(in_line).push_back(key);
    }

    /// It had its turn, and has it again before all others.
    pub(super) fn wait_first(&mut self, key: Key, in_line: bool) {
        self.queue(in_line).push_front(key);
    }

    fn queue(&mut self, in_line: bool) -> &mut VecDeque<Key> {
        if in_line { &mut self.line } else { &mut self.waiting }
    }

    /// It is not to be begun any more. Whether it waited.
    pub(super) fn leave(&mut self, key: Key) -> bool {
        let before = self.waiting.len() + self.line.len();
        self.waiting.retain(|waiting| *waiting != key);
        self.line.retain(|waiting| *waiting != key);
        before > self.waiting.len() + self.line.len()
    }

    /// The next to begin, and whether it stood in line.
    pub(super) fn next(&mut self, slots: usize) -> Option<(Key, bool)> {
        if self.running >= slots {
            return None;
        }
        // The line never has more than one slot, so it goes first: the others could keep it from ever having one.
        let of_line = if self.of_line.is_empty() { self.line.pop_front() } else { None };
        of_line.map(|key| (key, true)).or_else(|| Some((self.waiting.pop_front()?, false)))
    }

    pub(super) fn begin(&mut self, key: Key, in_line: bool) {
        self.running += 1;
        if in_line {
            self.of_line.insert(key);
        }
    }

    /// One that had begun is at work no more.
    pub(super) fn end(&mut self, key: &Key) {
        self.running -= 1;
        self.of_line.remove(key);
    }
}

//! Files written ahead of their states' turns, so that many are synced at once: where states have their turns one by one, each
//! would wait for the disk by itself.
//!
//! Only names are changed at a turn, so all that a turn promises stays with it: its place in the order, what it calls for being
//! on disk before, its outcome. A file written ahead is under a name of its own; it is used only if at its place stands
//! what stood there when it was written, and otherwise the turn is as any other. A crash leaves such names behind, which the
//! next write in that directory removes, and may leave debts of changes that had not been made: an action too many, never
//! one too few.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use mainstay_core::state::StateIndex;
use mainstay_core::state::catalog::OrderMode;
use mainstay_core::state::walk::Run;
use mainstay_module::Failure;
use mainstay_module::host::{Staged, Unsynced};

use super::apply::Applying;
use super::failpoint;
use super::guard;
use super::turn::Observed;

/// Files that lie ready at most. Each is open twice until it is synced, and a process may have 1,024 open.
const AHEAD: usize = 128;

/// Bytes that lie ready at most, beside what they will replace: a disk that is nearly full has room for no more.
const AHEAD_BYTES: usize = 8 << 20;

/// Syncs at the same time. They share what the file system writes; more than this gained nothing measurable.
const SYNCS: usize = 16;

/// A state that was observed, and its new file.
pub(super) struct Ahead<'a> {
    pub(super) observed: Observed<'a>,
    pub(super) staged: Staged<'a>,
}

impl<'a> Applying<'a> {
    /// What was written ahead for this turn, if it still fits.
    pub(super) fn take_ahead(&self, run: &Run) -> Option<Ahead<'a>> {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let ready = ahead.remove(&run.state)?;
        drop(ahead);
        (run.apply && run.refresh.is_none() && ready.staged.is_current()).then_some(ready)
    }

    /// Writes the new file of a state that has its turn, together with those of states that come next.
    pub(super) fn write_ahead(&self, run: &Run, observed: &Observed<'a>) -> Option<Staged<'a>> {
        let prepared = self.order.prepared;
        let sequence = &prepared.order.sequence;
        let mut next = sequence.iter().copied().skip(prepared.order.place(run.state) + 1).peekable();
        let pending = observed.analysis.step.is_pending() && run.apply && run.refresh.is_none();
        let foreseen = |state: StateIndex| self.may_be_ahead(state) && self.is_foreseen(state);
        let given_up = prepared.order.place(run.state) < self.ahead_from.load(Ordering::Relaxed);
        if !pending
            || given_up
            || !self.may_be_ahead(run.state)
            || !next.peek().is_some_and(|state| foreseen(*state))
        {
            return None;
        }
        let own = self.unsynced(run.state, observed).ok()??;
        let mut others = Vec::new();
        let mut bytes = own.size();
        while others.len() + 1 < AHEAD
            && bytes < AHEAD_BYTES
            && let Some(state) = next.next_if(|state| foreseen(*state))
        {
            // Whoever is as declared, fails or has drifted has that said at its own turn.
            let Ok(observed) = self.observe(&Run { state, refresh: None, apply: true }) else { break };
            if !observed.analysis.step.is_pending() {
                break;
            }
            match self.unsynced(state, &observed) {
                Ok(Some(unsynced)) => {
                    bytes += unsynced.size();
                    others.push((state, observed, unsynced));
                }
                Ok(None) => break,
                // Perhaps the disk is full, and of these themselves: they make room.
                Err(_) => {
                    self.ahead_from.store(prepared.order.place(state) + 1, Ordering::Relaxed);
                    return None;
                }
            }
        }
        let states: Vec<StateIndex> =
            std::iter::once(run.state).chain(others.iter().map(|(state, ..)| *state)).collect();
        // If it cannot be written, that is said at the turn.
        let _ = self.owe(&states);
        failpoint::pass("between what is owed and the sync");
        let mut rest = Vec::with_capacity(others.len());
        let mut unsynced = vec![own];
        for (state, observed, file) in others {
            rest.push((state, observed));
            unsynced.push(file);
        }
        let mut synced = sync(unsynced).into_iter();
        failpoint::pass("after the sync");
        let own = synced.next()?;
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        for ((state, observed), staged) in rest.into_iter().zip(synced) {
            if let Some(staged) = staged {
                ahead.insert(state, Ahead { observed, staged });
            }
        }
        own
    }

    fn unsynced(&self, state: StateIndex, observed: &Observed<'_>) -> Result<Option<Unsynced<'a>>, Failure> {
        let prepared = self.order.prepared;
        let applying = self.applying(state, self.order.machine.host());
        prepared.states[state].module.stage(&observed.params, &applying, &observed.analysis)
    }

    /// Its turn is a plain one: nothing that it does or asks about hangs on the moment.
    fn may_be_ahead(&self, state: StateIndex) -> bool {
        let prepared = self.order.prepared;
        let options = &prepared.declared(state).options;
        prepared.catalog.order == OrderMode::Ansible
            && !prepared.catalog.failhard
            && !options.failhard
            && options.parallel != Some(true)
            && options.retry.is_none()
            && options.check_cmd.is_none()
            && options.become_user.is_none()
            && !guard::looks(prepared, state)
    }
}

/// Each that is on disk now. One that is not is written again at its turn, where what went wrong shows.
fn sync(mut files: Vec<Unsynced<'_>>) -> Vec<Option<Staged<'_>>> {
    let share = files.len().div_ceil(SYNCS).max(1);
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        while !files.is_empty() {
            let own: Vec<Unsynced<'_>> = files.drain(..share.min(files.len())).collect();
            let count = own.len();
            let work = move || own.into_iter().map(|file| file.sync().ok()).collect::<Vec<_>>();
            threads.push((count, std::thread::Builder::new().spawn_scoped(scope, work)));
        }
        let done = threads.into_iter().flat_map(|(count, thread)| {
            let synced = thread.ok().and_then(|thread| thread.join().ok());
            synced.unwrap_or_else(|| (0..count).map(|_| None).collect())
        });
        done.collect()
    })
}

//! Looks taken before their turn, so that a machine with several processors does not wait for one of them.
//!
//! As long as nothing is foretold, what a state's module finds does not depend on the states before it. So while the
//! analysis goes through the states in their order, other threads look at those further on. The first that would change
//! ends it: from there on each state has to know what the ones before it foretell.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use mainstay_core::state::{StateIndex, StepWord};
use mainstay_module::forecast::Forecast;
use mainstay_module::module::{Analysis, Analyze, Blobs};

use super::guard;
use super::machine::Looking;
use super::prepared::Prepared;

/// With fewer states a thread costs more than it saves.
const FEW: usize = 32;

/// So many turns before a look, at least: nearer ones the analysis itself would reach first.
const LEAD: usize = 16;

/// More threads than this wait for the disk and for each other.
const MOST_THREADS: usize = 4;

pub(super) struct Glances<'a> {
    prepared: &'a Prepared,
    machine: &'a Looking,
    over: AtomicBool,
    at: Mutex<At>,
}

/// All by places in the sequence.
#[derive(Default)]
struct At {
    turn: usize,
    next: usize,
    unchanged: BTreeMap<usize, Analysis>,
}

/// Ends the looks when the analysis does, however it ends.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl<'a> Glances<'a> {
    /// Has this done while other threads look ahead. They are held to looking as far as the calling one is.
    pub(super) fn beside<T>(
        prepared: &'a Prepared,
        machine: &'a Looking,
        analyze: impl FnOnce(&Self) -> T,
    ) -> T {
        let glances = Self { prepared, machine, over: AtomicBool::new(false), at: Mutex::default() };
        thread::scope(|scope| {
            let _over = Over(&glances.over);
            for _ in 0..threads(prepared.order.sequence.len()) {
                let look = || glances.look_ahead();
                // Without it the analysis takes longer, and nothing else.
                let _ = thread::Builder::new().name("state-glancing".into()).spawn_scoped(scope, look);
            }
            analyze(&glances)
        })
    }

    /// The analysis has come to this place.
    pub(super) fn turn(&self, place: usize) {
        self.lock().turn = place;
    }

    /// What was found of the state at this place, if it is as declared and `forecast` cannot matter to it.
    pub(super) fn take(&self, place: usize, forecast: &Forecast) -> Option<Analysis> {
        if !forecast.is_empty() {
            self.over.store(true, Ordering::Relaxed);
            return None;
        }
        self.lock().unchanged.remove(&place)
    }

    fn look_ahead(&self) {
        let forecast = Forecast::default();
        while let Some(place) = self.next() {
            let state = self.prepared.order.sequence[place];
            let Some(analysis) = self.look(state, &forecast) else { continue };
            if analysis.step != StepWord::Unchanged {
                self.over.store(true, Ordering::Relaxed);
                return;
            }
            let mut at = self.lock();
            // The analysis may have been faster.
            if at.turn < place {
                at.unchanged.insert(place, analysis);
            }
        }
    }

    fn next(&self) -> Option<usize> {
        if self.over.load(Ordering::Relaxed) || self.machine.is_cancelled() {
            return None;
        }
        let mut at = self.lock();
        let place = at.next.max(at.turn + LEAD);
        at.next = place + 1;
        (place < self.prepared.order.sequence.len()).then_some(place)
    }

    /// Nothing if it has to wait for its turn, or failed: then it fails at its turn as well, or works.
    fn look(&self, state: StateIndex, forecast: &Forecast) -> Option<Analysis> {
        let prepared = self.prepared;
        let declared = prepared.declared(state);
        let is_guarded = declared.guards.when.is_some() || guard::looks(prepared, state);
        if is_guarded || declared.options.become_user.is_some() {
            return None;
        }
        let module = prepared.states[state].module.as_ref();
        let params = prepared.settled(state).filter(|_| module.looks_ahead())?;
        let blobs = Blobs(&prepared.catalog.blobs);
        let cx = Analyze { state: prepared.id(state), view: self.machine.own_view(), forecast, blobs };
        module.analyze(params, &cx).ok()
    }

    fn lock(&self) -> MutexGuard<'_, At> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn threads(states: usize) -> usize {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    if states < FEW { 0 } else { (processors - 1).min(MOST_THREADS) }
}

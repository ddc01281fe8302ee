//! The modify phase: gives states their turns, as many at once as their requisites and the order mode allow, and keeps
//! the books. What one turn does stands in [`turn`](super::turn).

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::AtomicUsize;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, mpsc};
use std::time::Instant;

use mainstay_core::causes::with_causes;
use mainstay_core::state::approval::Ground;
use mainstay_core::state::plan::{Change, PlanStep, StateCounts, StateReport};
use mainstay_core::state::session::Tell;
use mainstay_core::state::walk::{Debt, Ended, Owed, Ran, Run, Turn, Walk};
use mainstay_core::state::{StateId, StateIndex, StateOutcome, StepWord, Values};
use mainstay_module::host::Cancel;
use mainstay_module::module::Analysis;

use super::ahead::Ahead;
use super::awaited::Awaited;
use super::debts::{DebtError, Log};
use super::machine::Changing;
use super::outputs::Table;
use super::prepared::Prepared;
use super::teller::Teller;

/// States that are worked on at the same time, in modes and for states that want it. Most of them wait for a disk or for a
/// program, so more than there are processors; each may start programs of its own.
const AT_ONCE: usize = 16;

/// What the modify phase is told.
pub(super) struct Order<'a> {
    pub(super) prepared: &'a Prepared,
    pub(super) machine: &'a Changing,
    pub(super) teller: &'a Teller,
    /// Nothing: whatever the catalog says may be done.
    pub(super) approved: Option<&'a Awaited>,
    pub(super) owed: &'a Owed,
    pub(super) ran: Ran,
    pub(super) earlier: Option<&'a Table>,
    /// No further state is begun once it says so.
    pub(super) stop: &'a Cancel,
}

/// What came of it.
pub(super) struct Result {
    pub(super) counts: StateCounts,
    pub(super) drift: Option<String>,
    pub(super) ran: Ran,
    pub(super) table: Table,
    pub(super) log: Log,
}

pub(super) struct Applying<'a> {
    pub(super) order: &'a Order<'a>,
    grounds: Vec<Ground>,
    books: Mutex<Books<'a>>,
    pub(super) table: RwLock<Table>,
    /// What was applied of states that may be refreshed at the end.
    pub(super) applied: Mutex<BTreeMap<StateIndex, Analysis>>,
    /// What was written ahead of turns, in the order of turns.
    pub(super) ahead: Mutex<BTreeMap<StateIndex, Ahead<'a>>>,
    /// Before this place in the sequence nobody writes ahead any more: a file there could not be written.
    pub(super) ahead_from: AtomicUsize,
}

struct Books<'a> {
    walk: Walk<'a>,
    log: Log,
    ran: Ran,
    drift: Option<String>,
}

/// How a turn ended.
pub(super) struct Finished {
    pub(super) state: StateIndex,
    pub(super) begun: Instant,
    pub(super) outcome: StateOutcome,
    pub(super) reason: Option<String>,
    /// What it was found to be, before anything was done.
    pub(super) step: StepWord,
    pub(super) changes: Vec<Change>,
    pub(super) refreshed: bool,
    pub(super) outputs: Values,
}

enum Job {
    Run(Run),
    Merged(Vec<Run>),
    Probe { state: StateIndex, target: StateIndex },
    Refresh { state: StateIndex, because: Vec<StateIndex>, applied_counts: bool },
}

pub(super) fn apply(order: &Order<'_>, log: Log) -> Result {
    let prepared = order.prepared;
    let applying = Applying {
        order,
        grounds: order.approved.map(|plan| grounds(prepared, plan)).unwrap_or_default(),
        books: Mutex::new(Books {
            walk: Walk::new(&prepared.catalog, &prepared.order, order.owed, &order.ran),
            log,
            ran: order.ran.clone(),
            drift: None,
        }),
        table: RwLock::new(Table::unknown(&prepared.catalog)),
        applied: Mutex::default(),
        ahead: Mutex::default(),
        ahead_from: AtomicUsize::new(0),
    };
    applying.all();
    let Books { walk, log, ran, drift } = applying.books.into_inner().unwrap_or_else(PoisonError::into_inner);
    let table = applying.table.into_inner().unwrap_or_else(PoisonError::into_inner);
    Result { counts: walk.counts(), drift, ran, table, log }
}

/// Which states stand on something that the plan was to change.
fn grounds(prepared: &Prepared, plan: &Awaited) -> Vec<Ground> {
    let order = &prepared.order;
    let mut grounds = vec![Ground::Firm; prepared.catalog.states.len()];
    let mut pending = vec![true; prepared.catalog.states.len()];
    let mut anything = false;
    for (place, state) in order.sequence.iter().copied().enumerate() {
        let step = plan.step(place);
        pending[state] = step.as_ref().is_none_or(PlanStep::is_pending);
        let moves = |before: &StateIndex| grounds[*before] == Ground::Moved || pending[*before];
        // Nobody knows what a command touches, or a package that comes.
        if anything || order.before(state).iter().any(moves) {
            grounds[state] = Ground::Moved;
        }
        let brings = prepared.states[state].module.brings();
        anything |=
            step.is_some_and(|step| step.step == StepWord::Opaque || brings && step.step.is_pending());
    }
    grounds
}

impl<'a> Applying<'a> {
    fn books(&self) -> MutexGuard<'_, Books<'a>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) {
        std::thread::scope(|scope| {
            let (ended, end) = mpsc::channel();
            let mut waiting = VecDeque::new();
            let mut working = 0;
            loop {
                let had_turns = self.next(&mut waiting);
                if waiting.is_empty() && working == 0 {
                    if had_turns {
                        continue;
                    }
                    break;
                }
                // One by one is the rule, and needs no other thread.
                if working == 0 && waiting.len() == 1 {
                    waiting.drain(..).for_each(|job| self.job(job));
                    continue;
                }
                while working < AT_ONCE
                    && let Some(job) = waiting.pop_front()
                {
                    let ended = Told(ended.clone());
                    working += 1;
                    scope.spawn(move || {
                        let _ended = ended;
                        self.job(job);
                    });
                }
                // All senders but this one belong to those at work.
                if end.recv().is_err() {
                    break;
                }
                working -= 1;
            }
        });
    }

    /// Takes the turns that may begin now. Whether there were any.
    fn next(&self, waiting: &mut VecDeque<Job>) -> bool {
        let turns = {
            let mut books = self.books();
            if self.order.stop.is_cancelled() {
                books.walk.halt("it was called off");
            }
            books.walk.next()
        };
        let had_turns = !turns.is_empty();
        for turn in turns {
            match turn {
                Turn::Run(run) => waiting.push_back(Job::Run(run)),
                Turn::Merged(runs) => waiting.push_back(Job::Merged(runs)),
                Turn::Probe { state, target } => waiting.push_back(Job::Probe { state, target }),
                Turn::Refresh { state, because, applied_counts } => {
                    waiting.push_back(Job::Refresh { state, because, applied_counts });
                }
                Turn::Ended { state, outcome, reason } => self.idle(state, outcome, reason),
                Turn::Paid(debts) => self.pay(&mut self.books(), &debts),
            }
        }
        had_turns
    }

    fn job(&self, job: Job) {
        match job {
            Job::Run(run) => self.run(&run),
            Job::Merged(runs) => self.merged(&runs),
            Job::Probe { state, target } => {
                let answer = self.probe(target);
                self.books().walk.probed(state, target, answer);
            }
            Job::Refresh { state, because, applied_counts } => {
                self.refresh_at_end(state, &because, applied_counts);
            }
        }
    }

    /// It ended without a turn.
    fn idle(&self, state: StateIndex, outcome: StateOutcome, reason: String) {
        self.table.write().unwrap_or_else(PoisonError::into_inner).ended(state, outcome, &Values::new());
        self.report(Finished {
            state,
            begun: Instant::now(),
            outcome,
            reason: Some(reason),
            step: StepWord::Unchanged,
            changes: Vec::new(),
            refreshed: false,
            outputs: Values::new(),
        });
    }

    /// What the plan that was approved says of a state, and how firm its ground is. Nothing: everything may be done.
    pub(super) fn approved(&self, state: StateIndex) -> Option<(Option<PlanStep>, Ground)> {
        let plan = self.order.approved?;
        let place = self.order.prepared.order.place(state);
        Some((plan.step(place), self.grounds[state]))
    }

    pub(super) fn is_foreseen(&self, state: StateIndex) -> bool {
        self.books().walk.is_foreseen(state)
    }

    /// Puts on disk what changes of these states call for. To be done right before the first of them.
    pub(super) fn owe(&self, states: &[StateIndex]) -> std::result::Result<(), DebtError> {
        let mut books = self.books();
        let debts: Vec<Debt> = states.iter().flat_map(|state| books.walk.owes_before(*state)).collect();
        if debts.is_empty() {
            return Ok(());
        }
        books.log.owe(&self.order.prepared.catalog.name, &debts)
    }

    fn pay(&self, books: &mut Books<'_>, debts: &[Debt]) {
        if let Err(error) = books.log.pay(&self.order.prepared.catalog.name, debts) {
            // They are done once more next time.
            tracing::warn!(error = %with_causes(&error), "what was paid stays owed");
        }
    }

    /// Closes a turn.
    pub(super) fn finish(&self, finished: Finished) {
        let prepared = self.order.prepared;
        let state = finished.state;
        self.order.teller.learn(prepared, state, &finished.outputs);
        {
            let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
            match self.order.earlier {
                Some(earlier)
                    if self.order.ran.contains(prepared.id(state)) && finished.outputs.is_empty() =>
                {
                    table.copy(state, earlier);
                }
                _ => table.ended(state, finished.outcome, &finished.outputs),
            }
        }
        let ended = Ended {
            outcome: finished.outcome,
            reason: finished.reason.clone(),
            refreshed: finished.refreshed,
            // What a refresh changed is in the outcome already.
            quiet: true,
        };
        {
            let mut books = self.books();
            books.ran.note(prepared.declared(state), finished.step, finished.outcome);
            let paid = books.walk.ended(state, ended);
            self.pay(&mut books, &paid);
        }
        self.report(finished);
    }

    /// The machine is not as it was approved: nothing more is begun.
    pub(super) fn drifted(&self, state: StateIndex, begun: Instant, drift: &str) {
        let reason = format!("drift: {drift}");
        self.note_drift(drift);
        self.finish(Finished {
            state,
            begun,
            outcome: StateOutcome::Blocked,
            reason: Some(reason),
            step: StepWord::Unchanged,
            changes: Vec::new(),
            refreshed: false,
            outputs: Values::new(),
        });
    }

    /// The last state that changed in this run and may have brought more than was planned.
    pub(super) fn bringer(&self) -> Option<&StateId> {
        let prepared = self.order.prepared;
        let books = self.books();
        let brought = |state: &StateIndex| {
            prepared.states[*state].module.brings()
                && books.walk.outcome(*state) == Some(StateOutcome::Changed)
        };
        prepared.order.sequence.iter().copied().rfind(brought).map(|state| prepared.id(state))
    }

    pub(super) fn note_drift(&self, drift: &str) {
        let mut books = self.books();
        books.drift.get_or_insert_with(|| drift.to_owned());
        books.walk.halt(format!("drift: {drift}"));
    }

    pub(super) fn merge_failed(&self, members: &[StateIndex]) {
        self.books().walk.merge_failed(members);
    }

    /// Closes a refresh at the end, and says what the state's outcome is by now.
    pub(super) fn refreshed(
        &self,
        state: StateIndex,
        how: mainstay_core::state::walk::Refreshed,
    ) -> StateOutcome {
        let mut books = self.books();
        let paid = books.walk.refreshed(state, how);
        self.pay(&mut books, &paid);
        books.walk.outcome(state).unwrap_or(StateOutcome::Unchanged)
    }

    pub(super) fn report(&self, finished: Finished) {
        let prepared = self.order.prepared;
        let mut report = StateReport {
            state: prepared.id(finished.state).clone(),
            module: prepared.declared(finished.state).module.clone(),
            outcome: finished.outcome,
            reason: finished.reason,
            changes: finished.changes,
            refreshed: finished.refreshed,
            outputs: finished.outputs,
            duration_ms: u64::try_from(finished.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        self.order.teller.redact_report(prepared, finished.state, &mut report);
        self.tell(Tell::Report(report));
    }

    /// Nobody listens any more: what was begun is ended, and nothing else begun.
    pub(super) fn tell(&self, tell: Tell) {
        if !self.order.teller.tell(tell) {
            self.order.stop.cancel();
        }
    }
}

/// Says that a thread is done, however it ended.
struct Told(mpsc::Sender<()>);

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

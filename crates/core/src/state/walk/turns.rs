//! The modify phase as a machine: turns go out, their ends come in.
//!
//! It keeps no time and starts nothing. Given the same answers in the same order it hands out the same turns.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::debt::{Debt, DebtKind, Ledger, Owed};
use super::prereq::{self, Firing, Standing};
use super::stability::Ran;
use super::verdict::{Verdict, decide};
use super::{Ended, Probed, Refreshed, Run, Turn};
use crate::state::catalog::{Catalog, OrderMode, RequisiteKind};
use crate::state::order::Order;
use crate::state::plan::StateCounts;
use crate::state::{StateIndex, StateOutcome};

/// The modify phase of one catalog on one machine.
pub struct Walk<'a> {
    catalog: &'a Catalog,
    order: &'a Order,
    ran: Ran,
    ledger: Ledger,
    slots: Vec<Slot>,
    /// States that carry `prereq` on a state.
    prereq_by: Vec<Vec<StateIndex>>,
    /// A place in [`Order::merges`].
    group: Vec<Option<usize>>,
    /// How many members of a merge have not come to their turn.
    missing: Vec<usize>,
    /// Where `ansible` order stands in the sequence.
    cursor: usize,
    /// States whose edges are met, by place: those that run beside others, and those that run one by one.
    beside: BTreeSet<usize>,
    in_turn: BTreeSet<usize>,
    /// Of the states that run one by one, the one that has its turn.
    lane: Option<StateIndex>,
    /// States whose targets were all analysed.
    resumed: VecDeque<StateIndex>,
    listens: Option<VecDeque<Turn>>,
    listening: usize,
    ended: usize,
    /// The state whose failure ended the run early.
    tripped: Option<StateIndex>,
    halted: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Stage {
    Waiting,
    /// It waits for so many analyses of its `prereq` targets.
    Probing(usize),
    /// It will run as soon as those with which it is merged can.
    Held,
    Running,
    Ended(StateOutcome),
}

struct Slot {
    stage: Stage,
    reason: Option<String>,
    /// States that it comes after and that have not ended.
    waits_for: usize,
    alone: bool,
    answers: BTreeMap<StateIndex, Probed>,
    /// Its `listen` targets that had changed when its turn began.
    heard: BTreeSet<StateIndex>,
    refreshed: bool,
    /// How its turn ended. A `listen` refresh may change the outcome afterwards, and sets off nothing by it.
    at_turn: Option<StateOutcome>,
}

enum Decision {
    Run(Run),
    Probe(Vec<StateIndex>),
    End(StateOutcome, String),
}

impl<'a> Walk<'a> {
    /// `order` is of this catalog; `owed` is what was on disk when the run began; `ran` is of the run's earlier cycles.
    pub fn new(catalog: &'a Catalog, order: &'a Order, owed: &Owed, ran: &Ran) -> Self {
        let count = catalog.states.len();
        let one_by_one = catalog.order == OrderMode::Ansible;
        let mut prereq_by = vec![Vec::new(); count];
        let mut group = vec![None; count];
        for (state, declared) in catalog.states.iter().enumerate() {
            for target in declared.requisites.targets(RequisiteKind::Prereq) {
                prereq_by[*target].push(state);
            }
        }
        for (at, members) in order.merges.iter().enumerate() {
            for member in members {
                group[*member] = Some(at);
            }
        }
        let slots = catalog.states.iter().enumerate().map(|(state, declared)| Slot {
            stage: Stage::Waiting,
            reason: None,
            waits_for: order.before(state).len(),
            alone: !declared.options.parallel.unwrap_or(!one_by_one),
            answers: BTreeMap::new(),
            heard: BTreeSet::new(),
            refreshed: false,
            at_turn: None,
        });
        let mut walk = Self {
            catalog,
            order,
            ran: ran.clone(),
            ledger: Ledger::new(catalog, order, owed),
            slots: slots.collect(),
            prereq_by,
            group,
            missing: order.merges.iter().map(Vec::len).collect(),
            cursor: 0,
            beside: BTreeSet::new(),
            in_turn: BTreeSet::new(),
            lane: None,
            resumed: VecDeque::new(),
            listens: None,
            listening: 0,
            ended: 0,
            tripped: None,
            halted: None,
        };
        for state in 0..count {
            if walk.slots[state].waits_for == 0 {
                walk.make_ready(state);
            }
        }
        walk
    }

    /// All turns that may begin now. None does not mean that all is done: some may be under way.
    #[expect(
        clippy::should_implement_trait,
        reason = "no iterator: it may give nothing now and more after an answer"
    )]
    pub fn next(&mut self) -> Vec<Turn> {
        self.next_within(usize::MAX)
    }

    /// As [`Self::next`], but gives no further state its turn once `room` turns that want an answer are among them: for an
    /// engine that begins only so many at once. What it holds back is still stopped by a failure or a halt in between.
    pub fn next_within(&mut self, room: usize) -> Vec<Turn> {
        let mut turns = Vec::new();
        let mut given = 0;
        while given < room
            && let Some(state) = self.pick()
        {
            let before = turns.len();
            self.turn(state, &mut turns);
            let idle = |turn: &&Turn| matches!(turn, Turn::Ended { .. } | Turn::Paid(_));
            given += turns[before..].iter().filter(|turn| !idle(turn)).count();
        }
        if self.ended == self.slots.len() {
            self.listen(room.saturating_sub(given), &mut turns);
        }
        turns
    }

    /// Answers [`Turn::Probe`].
    pub fn probed(&mut self, state: StateIndex, target: StateIndex, answer: Probed) {
        let Some(slot) = self.slots.get_mut(state) else { return };
        let Stage::Probing(left) = slot.stage else { return };
        if slot.answers.insert(target, answer).is_some() {
            return;
        }
        slot.stage = Stage::Probing(left.saturating_sub(1));
        if left <= 1 {
            self.resumed.push_back(state);
        }
    }

    /// Debts to be on disk before anything of `state` is changed, its refresh at its turn included. To be asked right
    /// before, or a little ahead of its turn, if [`Self::is_foreseen`]; a `listen` refresh owes nothing.
    pub fn owes_before(&mut self, state: StateIndex) -> Vec<Debt> {
        let is_running = self.slots.get(state).is_some_and(|slot| slot.stage == Stage::Running);
        if is_running || self.is_foreseen(state) {
            self.ledger.before(self.catalog, state)
        } else {
            Vec::new()
        }
    }

    /// Whether all that a state waits for has ended, and its turn will be a plain apply unless the run ends early: for one who
    /// prepares ahead of the turn, which this does not give.
    pub fn is_foreseen(&self, state: StateIndex) -> bool {
        let waits = |slot: &Slot| slot.stage == Stage::Waiting && slot.waits_for == 0;
        self.slots.get(state).is_some_and(waits)
            && self.group[state].is_none()
            && matches!(self.decide(state), Decision::Run(Run { refresh: None, apply: true, .. }))
    }

    /// Answers [`Turn::Run`], and [`Turn::Merged`] for one member. Returns debts to be taken off the disk.
    pub fn ended(&mut self, state: StateIndex, ended: Ended) -> Vec<Debt> {
        if self.slots.get(state).is_none_or(|slot| slot.stage != Stage::Running) {
            return Vec::new();
        }
        let Ended { mut outcome, reason, refreshed, quiet } = ended;
        if refreshed && !quiet && outcome == StateOutcome::Unchanged {
            outcome = StateOutcome::Changed;
        }
        self.slots[state].refreshed = refreshed;
        self.end(state, outcome, reason)
    }

    /// Answers [`Turn::Refresh`]. Returns debts to be taken off the disk.
    pub fn refreshed(&mut self, state: StateIndex, how: Refreshed) -> Vec<Debt> {
        if self.listening == 0 || state >= self.slots.len() {
            return Vec::new();
        }
        self.listening -= 1;
        self.leave_lane(state);
        match how {
            Refreshed::Done => {
                self.slots[state].stage = Stage::Ended(StateOutcome::Changed);
                self.slots[state].refreshed = true;
                self.pay_listened(state, true)
            }
            Refreshed::Quiet => {
                self.slots[state].refreshed = true;
                self.pay_listened(state, true)
            }
            Refreshed::NotNeeded => self.pay_listened(state, false),
            Refreshed::Failed(reason) => {
                self.slots[state].stage = Stage::Ended(StateOutcome::Failed);
                self.slots[state].reason = Some(reason);
                Vec::new()
            }
        }
    }

    /// Answers [`Turn::Merged`]: it went wrong as a whole. These members get turns of their own, one by one.
    pub fn merge_failed(&mut self, members: &[StateIndex]) {
        for member in members {
            if self.slots.get(*member).is_some_and(|slot| slot.stage == Stage::Running) {
                self.group[*member] = None;
                self.slots[*member].stage = Stage::Waiting;
                self.slots[*member].alone = true;
                self.make_ready(*member);
            }
        }
    }

    /// No new state starts, not even one that `onfail` calls for: a cancel, or a drift. What is owed stays owed.
    pub fn halt(&mut self, reason: impl Into<String>) {
        self.halted.get_or_insert(reason.into());
    }

    /// Every state has ended, and every `listen` refresh.
    pub fn is_done(&self) -> bool {
        self.ended == self.slots.len()
            && self.listening == 0
            && self.listens.as_ref().is_some_and(VecDeque::is_empty)
    }

    pub fn outcome(&self, state: StateIndex) -> Option<StateOutcome> {
        match self.slots.get(state)?.stage {
            Stage::Ended(outcome) => Some(outcome),
            _ => None,
        }
    }

    pub fn reason(&self, state: StateIndex) -> Option<&str> {
        self.slots.get(state)?.reason.as_deref()
    }

    /// Of the states that have ended.
    pub fn counts(&self) -> StateCounts {
        let mut counts = StateCounts::default();
        for state in 0..self.slots.len() {
            if let Some(outcome) = self.outcome(state) {
                counts.add(outcome);
            }
        }
        counts
    }

    /// The next state that may have its turn.
    fn pick(&mut self) -> Option<StateIndex> {
        if let Some(state) = self.resumed.pop_front() {
            return Some(state);
        }
        if self.catalog.order == OrderMode::Ansible {
            // In written order: what runs beside others starts at its place, and what follows does not wait for it.
            let state = *self.order.sequence.get(self.cursor)?;
            if self.lane.is_some() || self.slots[state].waits_for > 0 {
                return None;
            }
            self.cursor += 1;
            if self.slots[state].alone {
                self.lane = Some(state);
            }
            return Some(state);
        }
        if let Some(place) = self.beside.pop_first() {
            return Some(self.order.sequence[place]);
        }
        if self.lane.is_some() {
            return None;
        }
        let state = self.order.sequence[self.in_turn.pop_first()?];
        self.lane = Some(state);
        Some(state)
    }

    fn turn(&mut self, state: StateIndex, turns: &mut Vec<Turn>) {
        match self.decide(state) {
            Decision::Probe(targets) => {
                self.slots[state].stage = Stage::Probing(targets.len());
                turns.extend(targets.into_iter().map(|target| Turn::Probe { state, target }));
            }
            Decision::Run(run) => match self.group[state] {
                Some(group) => {
                    self.slots[state].stage = Stage::Held;
                    self.arrive(group, turns);
                }
                None => turns.push(Turn::Run(self.start(run))),
            },
            Decision::End(outcome, reason) => {
                self.end_idle(state, outcome, reason, turns);
                if let Some(group) = self.group[state] {
                    self.arrive(group, turns);
                }
            }
        }
    }

    /// One more member of a merge has come to its turn; the last one sets it going.
    fn arrive(&mut self, group: usize, turns: &mut Vec<Turn>) {
        self.missing[group] -= 1;
        if self.missing[group] > 0 {
            return;
        }
        let mut runs = Vec::new();
        for member in self.order.merges[group].clone() {
            if self.slots[member].stage != Stage::Held {
                continue;
            }
            // Asked again: the run may have been ended early meanwhile.
            match self.decide(member) {
                Decision::Run(run) => runs.push(self.start(run)),
                Decision::End(outcome, reason) => self.end_idle(member, outcome, reason, turns),
                Decision::Probe(_) => unreachable!("states with prereq are not merged"),
            }
        }
        if runs.len() > 1 {
            turns.push(Turn::Merged(runs));
        } else {
            turns.extend(runs.into_iter().map(Turn::Run));
        }
    }

    fn start(&mut self, run: Run) -> Run {
        let listens = self.catalog.states[run.state].requisites.targets(RequisiteKind::Listen);
        let heard =
            listens.iter().copied().filter(|target| self.outcome(*target) == Some(StateOutcome::Changed));
        self.slots[run.state].heard = heard.collect();
        self.slots[run.state].stage = Stage::Running;
        run
    }

    fn decide(&self, state: StateIndex) -> Decision {
        if let Some(reason) = &self.halted {
            return Decision::End(StateOutcome::Blocked, reason.clone());
        }
        let requisites = &self.catalog.states[state].requisites;
        let called_by_failure = !requisites.targets(RequisiteKind::Onfail).is_empty()
            || !requisites.targets(RequisiteKind::OnfailAll).is_empty();
        let Some(failed) = self.tripped else { return self.by_requisites(state) };
        let ended_early = || {
            let id = &self.catalog.states[failed].id;
            Decision::End(StateOutcome::Blocked, format!("failhard: {id} failed"))
        };
        if !called_by_failure {
            return ended_early();
        }
        match self.by_requisites(state) {
            Decision::End(StateOutcome::Skipped, _) => ended_early(),
            decision => decision,
        }
    }

    fn by_requisites(&self, state: StateIndex) -> Decision {
        let declared = &self.catalog.states[state];
        let kinds = self.kinds(state, |target| self.outcome(target));
        let blocked = kinds.iter().find(|(_, verdict)| *verdict == Verdict::Blocked);
        if let Some((kind, _)) = blocked {
            return Decision::End(StateOutcome::Blocked, self.why_blocked(state, *kind));
        }
        let before =
            self.prereq_by[state].iter().find(|by| self.outcome(**by).is_some_and(StateOutcome::is_bad));
        if let Some(by) = before {
            let word = self.outcome(*by).map_or("", StateOutcome::word);
            let id = &self.catalog.states[*by].id;
            return Decision::End(
                StateOutcome::Blocked,
                format!("{id}, which runs before it (prereq), {}", was(word)),
            );
        }
        let targets = declared.requisites.targets(RequisiteKind::Prereq);
        let mut skipped = None;
        if !targets.is_empty() {
            match self.prereq(state) {
                Firing::Ask(targets) => return Decision::Probe(targets),
                Firing::Error(target) => {
                    let words = match self.slots[state].answers.get(&target) {
                        Some(Probed::Error(words)) => words.as_str(),
                        _ => "unknown",
                    };
                    let id = &self.catalog.states[target].id;
                    let reason = format!("{id} could not be analysed (prereq): {words}");
                    return Decision::End(StateOutcome::Blocked, reason);
                }
                Firing::Fires | Firing::Depends(_) => {}
                Firing::Quiet => {
                    skipped = Some(format!("nothing would change in {} (prereq)", self.names(targets)));
                }
            }
        }
        if let Some((kind, _)) = kinds.iter().find(|(_, verdict)| *verdict == Verdict::Skipped) {
            return Decision::End(StateOutcome::Skipped, self.why_skipped(state, *kind));
        }
        if let Some(reason) = skipped {
            return Decision::End(StateOutcome::Skipped, reason);
        }
        Decision::Run(Run { state, refresh: self.refresh(state), apply: !self.has_run(state) })
    }

    /// It is a command that ran in an earlier cycle, and nothing calls for it anew.
    fn has_run(&self, state: StateIndex) -> bool {
        let called = super::is_called(self.catalog, state) || self.ledger.carries(state, DebtKind::Trigger);
        !called && self.ran.contains(&self.catalog.states[state].id)
    }

    /// What each kind of requisite of a state says, given how its targets ended. No kind stands for outputs that it reads and for
    /// inferred edges. `prereq` is not among them.
    fn kinds(
        &self,
        state: StateIndex,
        outcome: impl Fn(StateIndex) -> Option<StateOutcome>,
    ) -> Vec<(Option<RequisiteKind>, Verdict)> {
        let requisites = &self.catalog.states[state].requisites;
        let mut kinds: Vec<_> = requisites
            .of
            .iter()
            .filter(|(kind, targets)| {
                !targets.is_empty() && !matches!(kind, RequisiteKind::Listen | RequisiteKind::Prereq)
            })
            .map(|(kind, targets)| {
                let owed = self.ledger.owes_trigger(self.catalog, state, *kind);
                (Some(*kind), decide(*kind, targets.iter().map(|target| outcome(*target)), owed))
            })
            .collect();
        let silent = requisites.reads.iter().chain(self.order.inferred(state)).map(|target| outcome(*target));
        kinds.push((None, decide(RequisiteKind::Require, silent, false)));
        kinds
    }

    fn prereq(&self, state: StateIndex) -> Firing {
        let answers = &self.slots[state].answers;
        prereq::fires(
            self.order,
            state,
            |state| self.catalog.states[state].requisites.targets(RequisiteKind::Prereq),
            |target, known| {
                // Only what surely has ended by now is looked at, so that it does not hang on the order mode; a target that
                // was found to stay as it is will end unchanged.
                let outcome = |other| match known.get(&other) {
                    Some(false) => Some(StateOutcome::Unchanged),
                    Some(true) => None,
                    None => self.outcome(other),
                };
                let kinds = self.kinds(target, outcome);
                if kinds.iter().any(|(_, verdict)| matches!(verdict, Verdict::Blocked | Verdict::Skipped)) {
                    return Standing::Quiet;
                }
                let refreshed =
                    if self.refresh(target).is_some() { Standing::WouldChange } else { Standing::Quiet };
                if self.has_run(target) {
                    return refreshed;
                }
                match answers.get(&target) {
                    None => Standing::Unasked,
                    Some(Probed::Error(_)) => Standing::Error,
                    Some(Probed::Skipped) => Standing::Quiet,
                    Some(Probed::WouldChange) => Standing::WouldChange,
                    Some(Probed::Unchanged) => refreshed,
                }
            },
        )
    }

    /// Whether a state is to be refreshed at its turn, and because of whom.
    fn refresh(&self, state: StateIndex) -> Option<Vec<StateIndex>> {
        if !self.order.refreshes(state) {
            return None;
        }
        let requisites = &self.catalog.states[state].requisites;
        let watched = requisites
            .targets(RequisiteKind::Watch)
            .iter()
            .chain(requisites.targets(RequisiteKind::WatchAny))
            .copied()
            .filter(|target| self.outcome(*target) == Some(StateOutcome::Changed));
        let because: BTreeSet<StateIndex> = watched.collect();
        if because.is_empty() && !self.ledger.carries(state, DebtKind::Refresh) {
            return None;
        }
        Some(because.into_iter().collect())
    }

    /// Ends a state that did not run.
    fn end_idle(&mut self, state: StateIndex, outcome: StateOutcome, reason: String, turns: &mut Vec<Turn>) {
        let paid = self.end(state, outcome, Some(reason.clone()));
        turns.push(Turn::Ended { state, outcome, reason });
        if !paid.is_empty() {
            turns.push(Turn::Paid(paid));
        }
    }

    fn end(&mut self, state: StateIndex, outcome: StateOutcome, reason: Option<String>) -> Vec<Debt> {
        self.slots[state].stage = Stage::Ended(outcome);
        self.slots[state].at_turn = Some(outcome);
        self.slots[state].reason = reason;
        self.ended += 1;
        self.leave_lane(state);
        let failhard = self.catalog.failhard || self.catalog.states[state].options.failhard;
        if outcome == StateOutcome::Failed && failhard {
            self.tripped.get_or_insert(state);
        }
        for after in self.order.after(state) {
            self.slots[*after].waits_for -= 1;
            if self.slots[*after].waits_for == 0 {
                self.make_ready(*after);
            }
        }
        let slots = &self.slots;
        let refreshed = slots[state].refreshed;
        self.ledger.after(self.catalog, state, outcome, refreshed, |other| slots[other].at_turn)
    }

    fn leave_lane(&mut self, state: StateIndex) {
        if self.lane == Some(state) {
            self.lane = None;
        }
    }

    fn make_ready(&mut self, state: StateIndex) {
        if self.catalog.order == OrderMode::Ansible {
            return;
        }
        let ready = if self.slots[state].alone { &mut self.in_turn } else { &mut self.beside };
        ready.insert(self.order.place(state));
    }

    /// The end of the phase: refreshes that `listen` asks for.
    fn listen(&mut self, room: usize, turns: &mut Vec<Turn>) {
        if self.listens.is_none() {
            let (listens, paid) = self.find_listens();
            self.listens = Some(listens);
            if !paid.is_empty() {
                turns.push(Turn::Paid(paid));
            }
        }
        for _ in 0..room {
            if self.lane.is_some() {
                return;
            }
            let Some(turn) = self.listens.as_mut().and_then(VecDeque::pop_front) else { return };
            if let Turn::Refresh { state, .. } = &turn
                && self.slots[*state].alone
            {
                self.lane = Some(*state);
            }
            self.listening += 1;
            turns.push(turn);
        }
    }

    fn find_listens(&mut self) -> (VecDeque<Turn>, Vec<Debt>) {
        let mut listens = VecDeque::new();
        let mut paid = Vec::new();
        if self.halted.is_some() {
            return (listens, paid);
        }
        for state in self.order.sequence.clone() {
            let Some(outcome) = self.outcome(state).filter(|outcome| outcome.is_good()) else { continue };
            let targets = self.catalog.states[state].requisites.targets(RequisiteKind::Listen);
            let changed: Vec<StateIndex> = targets
                .iter()
                .copied()
                .filter(|target| self.outcome(*target) == Some(StateOutcome::Changed))
                .collect();
            let carried = self.ledger.carries(state, DebtKind::Listen);
            let slot = &self.slots[state];
            // A refresh at its turn serves every change that had been made by then, and no later one.
            let missed: Vec<StateIndex> =
                changed.iter().copied().filter(|target| !slot.heard.contains(target)).collect();
            let because = if slot.refreshed { missed.clone() } else { changed };
            let wanted = self.order.refreshes(state)
                && outcome != StateOutcome::Skipped
                && (!because.is_empty() || carried && !slot.refreshed);
            if wanted {
                let applied_counts = missed.is_empty();
                listens.push_back(Turn::Refresh { state, because, applied_counts });
            } else {
                paid.extend(self.pay_listened(state, outcome == StateOutcome::Skipped));
            }
        }
        (listens, paid)
    }

    fn pay_listened(&mut self, state: StateIndex, served: bool) -> Vec<Debt> {
        let slots = &self.slots;
        self.ledger.listened(self.catalog, state, served, |other| slots[other].at_turn)
    }

    fn why_blocked(&self, state: StateIndex, kind: Option<RequisiteKind>) -> String {
        let requisites = &self.catalog.states[state].requisites;
        let targets = match kind {
            Some(kind) => requisites.targets(kind).to_vec(),
            None => requisites.reads.iter().chain(self.order.inferred(state)).copied().collect(),
        };
        let bad = targets.iter().find(|target| self.outcome(**target).is_some_and(StateOutcome::is_bad));
        let word = kind.map_or("needed", RequisiteKind::word);
        match bad {
            Some(_) if matches!(kind, Some(RequisiteKind::RequireAny | RequisiteKind::WatchAny)) => {
                format!("none of {} is good ({word})", self.names(&targets))
            }
            Some(bad) => {
                let outcome = self.outcome(*bad).map_or("", StateOutcome::word);
                format!("{} {} ({word})", self.catalog.states[*bad].id, was(outcome))
            }
            None => word.to_owned(),
        }
    }

    fn why_skipped(&self, state: StateIndex, kind: Option<RequisiteKind>) -> String {
        let targets = kind.map_or(&[][..], |kind| self.catalog.states[state].requisites.targets(kind));
        let word = kind.map_or("needed", RequisiteKind::word);
        let names = self.names(targets);
        match kind {
            Some(RequisiteKind::Onchanges | RequisiteKind::OnchangesAny) => {
                format!("nothing changed in {names} ({word})")
            }
            Some(RequisiteKind::OnfailAll) => format!("not all of {names} failed ({word})"),
            _ => format!("nothing failed in {names} ({word})"),
        }
    }

    fn names(&self, states: &[StateIndex]) -> String {
        super::names(self.catalog, states)
    }
}

/// `failed`, `was blocked`.
fn was(outcome: &str) -> String {
    if outcome == StateOutcome::Blocked.word() { format!("was {outcome}") } else { outcome.to_owned() }
}

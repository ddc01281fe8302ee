//! One machine of a rollout: looked at, modified and looked at again, each on its own.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use mainstay_core::state::catalog::Catalog;
use mainstay_core::state::plan::{Plan, PlanStep, StateCounts, StateReport};
use mainstay_core::state::session::{Approval, Ask, Tell};
use mainstay_core::state::{StateId, StateOutcome, Values};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::stage::Stage;
use super::{Goal, Known, Options};
use crate::up::front::{Answer, Event, Proposal};
use crate::up::machine::{Aside, Cycles, Machine, Names, Way};
use crate::up::outcome::{MachineEnd, Tally, Verdict};
use crate::up::standing;

/// Steps of a plan that are given together.
const STEPS: usize = 64;

/// How long a machine may take after a goodbye: what is at work there has three seconds to end by itself, and is killed then.
const FAREWELL: Duration = Duration::from_secs(5);

/// One machine on its way.
pub(super) struct Member {
    pub(super) at: usize,
    pub(super) way: Box<dyn Way>,
    machine: Option<Box<dyn Machine>>,
    pub(super) facts: Values,
    /// Until it is sent for the last time.
    pub(super) catalog: Option<Box<Catalog>>,
    /// The latest.
    plan: Option<Arc<Plan>>,
    tally: Tally,
    /// Those in which a state had its turn.
    cycles: u32,
    under_way: Option<UnderWay>,
    pub(super) aside: Option<Aside>,
}

/// How far a machine's modification has come.
struct UnderWay {
    pub(super) cycle: u32,
    pub(super) at_work: BTreeSet<StateId>,
    pub(super) reported: BTreeSet<StateId>,
}

/// What a machine's worker has to say.
pub(super) enum Note {
    Connected {
        notes: Vec<String>,
        landlock: Option<u32>,
    },
    /// That many more states were looked at, up to this one.
    Analysed {
        cycle: u32,
        states: usize,
        last: StateId,
    },
    Planned {
        cycle: u32,
        plan: Arc<Plan>,
    },
    Modify {
        cycle: u32,
    },
    Turn {
        cycle: u32,
        state: StateId,
    },
    Report {
        cycle: u32,
        report: Box<StateReport>,
    },
    Ask {
        plan: Arc<Plan>,
        reply: oneshot::Sender<Answer>,
    },
    Over {
        aside: Option<Aside>,
    },
}

/// What workers share.
pub(super) struct Shared<'a> {
    pub(super) options: &'a Options,
    pub(super) cancel: &'a CancellationToken,
    pub(super) notes: mpsc::Sender<(usize, Note)>,
    /// There are more machines than may be worked on at once, and a session with each is costly: between two pieces of work it
    /// is closed.
    pub(super) parts: bool,
}

impl Member {
    pub(super) fn new(at: usize, way: Box<dyn Way>) -> Self {
        Self {
            at,
            way,
            machine: None,
            facts: Values::new(),
            catalog: None,
            plan: None,
            tally: Tally::default(),
            cycles: 0,
            under_way: None,
            aside: None,
        }
    }

    pub(super) fn known(&self) -> Known<'_> {
        Known { name: self.way.name(), labels: self.way.labels(), vars: self.way.vars(), facts: &self.facts }
    }

    pub(super) fn proposal(&self) -> Option<Proposal<'_>> {
        let plan = self.plan.as_ref()?;
        Some(Proposal { machine: self.way.name(), plan, again: false, missing: 0 })
    }

    /// It has a plan, and something in it is not done.
    pub(super) fn is_wanting(&self) -> bool {
        self.aside.is_none() && self.plan.as_ref().is_some_and(|plan| !plan.stable)
    }

    /// The same, or debts are to be given up.
    pub(super) fn is_for_work(&self, options: &Options) -> bool {
        let drops = |plan: &Arc<Plan>| options.drop_orphans && !plan.orphans.is_empty();
        self.is_wanting() || (self.aside.is_none() && self.plan.as_ref().is_some_and(drops))
    }

    pub(super) async fn connect(&mut self, shared: &Shared<'_>) {
        match self.greet().await {
            Ok((facts, notes, landlock)) => {
                self.facts = facts;
                shared.note(self.at, Note::Connected { notes, landlock }).await;
                self.part(shared).await;
            }
            Err(aside) => self.set_aside(aside, shared).await,
        }
    }

    /// Opens a session. What the machine says of itself, what went wrong there, and its kernel's Landlock.
    async fn greet(&mut self) -> Result<(Values, Vec<String>, Option<u32>), Aside> {
        let mut machine = self.way.connect().await?;
        match machine.receive().await? {
            Tell::Hello { facts, notes, landlock, .. } => {
                self.machine = Some(machine);
                Ok((facts, notes, landlock))
            }
            Tell::Problem { message } => Err(Aside::Problem(message)),
            other => Err(Aside::Problem(format!("it began with {other:?}"))),
        }
    }

    /// Ends a session that is costly until there is work again.
    async fn part(&mut self, shared: &Shared<'_>) {
        if shared.parts && self.way.is_costly() {
            self.close().await;
        }
    }

    /// Takes up where the last session ended: with the catalog, and the plan that was made there.
    async fn resume(&mut self, shared: &Shared<'_>) -> Result<&mut Box<dyn Machine>, Aside> {
        if self.machine.is_none() && shared.parts {
            self.greet().await?;
        }
        let machine = self.machine.as_mut().ok_or(Aside::Cancelled)?;
        let again = shared.parts && self.way.is_costly();
        let catalog = if again { self.catalog.clone() } else { self.catalog.take() };
        if let Some(catalog) = catalog {
            machine.send(Ask::Catalog(catalog)).await?;
        }
        if let Some(plan) = self.plan.as_ref().filter(|_| again) {
            for steps in plan.steps.chunks(STEPS) {
                machine.send(Ask::Steps(steps.to_vec())).await?;
            }
            machine.send(Ask::Plan(plan.head.clone())).await?;
        }
        Ok(machine)
    }

    async fn set_aside(&mut self, aside: Aside, shared: &Shared<'_>) {
        shared.note(self.at, Note::Over { aside: Some(aside.clone()) }).await;
        self.aside = Some(aside);
    }

    pub(super) async fn analyze_first(&mut self, shared: &Shared<'_>) {
        if self.aside.is_some() {
            return;
        }
        let planned = match self.resume(shared).await {
            Ok(_) => self.analyze(1, shared).await,
            Err(aside) => Err(aside),
        };
        self.part(shared).await;
        match planned {
            Ok(plan) => {
                let errors = standing::errors(&plan);
                self.plan = Some(plan);
                // A machine of which not all could be looked at is not touched.
                if errors > 0 {
                    self.set_aside(Aside::Errors(errors), shared).await;
                }
            }
            Err(aside) => self.set_aside(aside, shared).await,
        }
    }

    async fn analyze(&mut self, cycle: u32, shared: &Shared<'_>) -> Result<Arc<Plan>, Aside> {
        let machine = self.machine.as_mut().ok_or(Aside::Cancelled)?;
        machine.send(Ask::Analyze { cycle, explain: shared.options.explain }).await?;
        let mut steps: Vec<PlanStep> = Vec::new();
        loop {
            match machine.receive().await? {
                Tell::Steps(more) => {
                    if let Some(last) = more.last() {
                        let (states, last) = (more.len(), last.state.clone());
                        shared.note(self.at, Note::Analysed { cycle, states, last }).await;
                    }
                    steps.extend(more);
                }
                Tell::Planned(head) => {
                    let plan = Arc::new(Plan { head, steps });
                    shared.note(self.at, Note::Planned { cycle, plan: Arc::clone(&plan) }).await;
                    return Ok(plan);
                }
                Tell::Problem { message } => return Err(Aside::Problem(message)),
                Tell::Hello { .. } | Tell::Turn { .. } | Tell::Report(_) | Tell::Applied { .. } => {}
            }
        }
    }

    /// Whether it came out well.
    pub(super) async fn modify(&mut self, shared: &Shared<'_>) -> bool {
        match self.bring(shared).await {
            Ok(()) => shared.note(self.at, Note::Over { aside: None }).await,
            Err(aside) => {
                let at_work = self.under_way.take().map(|under_way| under_way.at_work);
                self.set_aside(aside.at_turn(at_work.unwrap_or_default()), shared).await;
            }
        }
        self.close().await;
        self.aside.is_none()
    }

    /// Modifies and looks again until nothing is left.
    async fn bring(&mut self, shared: &Shared<'_>) -> Result<(), Aside> {
        let yes = shared.options.goal == Goal::Up { yes: true };
        self.resume(shared).await?;
        let mut plan = self.plan.clone().ok_or(Aside::Cancelled)?;
        let mut approved = plan.clone();
        if shared.options.drop_orphans && !plan.orphans.is_empty() {
            let machine = self.machine.as_mut().ok_or(Aside::Cancelled)?;
            machine.send(Ask::DropOrphans).await?;
            // The plan that is approved is the engine's latest.
            plan = self.analyze(1, shared).await?;
            self.plan = Some(plan.clone());
            if plan.stable {
                return Ok(());
            }
            if !yes && !standing::covers(&approved, &plan) {
                return Err(Aside::Drift("it changed while debts were given up".into()));
            }
        }
        loop {
            let cycle = self.cycles + 1;
            let approval = if yes { Approval::All } else { Approval::Plan { digest: plan.digest() } };
            let counts = self.apply(cycle, approval, shared).await?;
            if shared.cancel.is_cancelled() {
                return Err(Aside::Cancelled);
            }
            if counts.failed + counts.blocked > 0 {
                return Err(Aside::States { failed: counts.failed, blocked: counts.blocked });
            }
            plan = self.analyze(cycle + 1, shared).await?;
            match standing::errors(&plan) {
                0 => {}
                errors => return Err(Aside::Errors(errors)),
            }
            if plan.stable {
                self.plan = Some(plan);
                return Ok(());
            }
            if cycle >= shared.options.cycles {
                let pending = plan.steps.iter().filter(|step| step.is_pending());
                let restless = Names(pending.map(|step| step.state.clone()).collect());
                return Err(Aside::Unstable { cycles: Cycles(cycle), restless });
            }
            if !yes && !standing::covers(&approved, &plan) {
                let (reply, answer) = oneshot::channel();
                shared.note(self.at, Note::Ask { plan: Arc::clone(&plan), reply }).await;
                match answer.await {
                    Ok(Answer::Yes) => approved = plan.clone(),
                    _ if shared.cancel.is_cancelled() => return Err(Aside::Cancelled),
                    _ => return Err(Aside::Declined),
                }
            }
        }
    }

    async fn apply(
        &mut self,
        cycle: u32,
        approval: Approval,
        shared: &Shared<'_>,
    ) -> Result<StateCounts, Aside> {
        let machine = self.machine.as_mut().ok_or(Aside::Cancelled)?;
        shared.note(self.at, Note::Modify { cycle }).await;
        machine.send(Ask::Apply { cycle, approval }).await?;
        let under_way =
            self.under_way.insert(UnderWay { cycle, at_work: BTreeSet::new(), reported: BTreeSet::new() });
        let mut told = false;
        loop {
            let tell = tokio::select! {
                tell = machine.receive() => tell?,
                () = shared.cancel.cancelled(), if !told => {
                    told = true;
                    machine.send(Ask::Cancel).await?;
                    continue;
                }
            };
            let note = match tell {
                Tell::Turn { state } => {
                    self.cycles = cycle;
                    under_way.at_work.insert(state.clone());
                    Note::Turn { cycle, state }
                }
                Tell::Report(report) => {
                    self.cycles = cycle;
                    under_way.at_work.remove(&report.state);
                    under_way.reported.insert(report.state.clone());
                    self.tally.report(&report);
                    Note::Report { cycle, report: Box::new(report) }
                }
                Tell::Applied { counts, drift } => {
                    self.under_way = None;
                    return drift.map_or(Ok(counts), |drift| Err(Aside::Drift(drift)));
                }
                Tell::Problem { message } => return Err(Aside::Problem(message)),
                Tell::Hello { .. } | Tell::Steps(_) | Tell::Planned(_) => continue,
            };
            shared.note(self.at, note).await;
        }
    }

    /// Its session was dropped in the middle: says of each state that has not ended what became of it.
    pub(super) fn interrupt(&mut self, stage: &mut Stage<'_>) -> io::Result<()> {
        let cut = self.under_way.take().filter(|_| !self.way.goes_on_alone());
        let (Some(UnderWay { cycle, at_work, reported }), Some(plan)) = (cut, &self.plan) else {
            self.aside = Some(Aside::Cancelled);
            return Ok(());
        };
        let mut missed = 0;
        for step in &plan.steps {
            let (outcome, reason) = if at_work.contains(&step.state) {
                (StateOutcome::Failed, "it was ended in the middle")
            } else if !reported.contains(&step.state) {
                missed += 1;
                (StateOutcome::Blocked, "it was not reached")
            } else {
                continue;
            };
            let report = StateReport {
                state: step.state.clone(),
                module: step.module.clone(),
                outcome,
                reason: Some(reason.to_owned()),
                changes: Vec::new(),
                refreshed: false,
                outputs: Values::new(),
                duration_ms: 0,
            };
            self.tally.report(&report);
            stage.front.event(&Event::Report { machine: self.way.name(), cycle, report: &report })?;
        }
        self.aside = Some(Aside::Interrupted { ended: Names(at_work.into_iter().collect()), missed });
        Ok(())
    }

    pub(super) async fn close(&mut self) {
        if let Some(machine) = self.machine.take() {
            // One that does not listen any more is dropped, which ends it too.
            let _ = timeout(FAREWELL, machine.close()).await;
        }
    }

    pub(super) fn end(self, goal: Goal) -> MachineEnd {
        let mut tally = self.tally.clone();
        // Of a machine that was to be modified and was not, nothing is said to have changed.
        let is_as_planned = goal == Goal::Plan || self.aside.is_none();
        if self.cycles == 0
            && is_as_planned
            && let Some(plan) = &self.plan
        {
            tally.plan(plan);
        }
        let verdict = match (&self.aside, goal) {
            (Some(aside), _) => Verdict::Aside(aside.clone()),
            (None, Goal::Plan) if self.is_wanting() => Verdict::Planned,
            (None, _) => Verdict::Stable,
        };
        MachineEnd {
            name: self.way.name().to_owned(),
            verdict,
            counts: tally.counts(),
            foreseen: goal == Goal::Plan,
            cycles: self.cycles,
        }
    }
}

impl Shared<'_> {
    pub(super) async fn note(&self, at: usize, note: Note) {
        // The stage outlives every worker; if it has gone, there is nobody to tell.
        let _ = self.notes.send((at, note)).await;
    }
}

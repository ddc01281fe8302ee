//! Leads many machines through plan and apply at once.
//!
//! All machines are connected and their catalogs compiled before any is analysed, and all are analysed before anybody is
//! asked. From then on each machine goes its own way, within the window of its batch: modify, analyze again, until it is
//! stable. One that fails is set aside and holds up no other. Everything that is shown is shown by this one task, so a front
//! needs no locks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, FuturesUnordered, StreamExt as _};
use mainstay_control::view::Problem;
use mainstay_core::batch::{BatchSize, Batches, FailureLimit};
use mainstay_core::state::catalog::Catalog;
use mainstay_core::state::plan::{Plan, PlanStep, StateCounts, StateReport};
use mainstay_core::state::session::{Approval, Ask, Tell};
use mainstay_core::state::{StateId, StateOutcome, Values};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::front::{Answer, Event, Front, Proposal};
use super::machine::{Aside, Cycles, Machine, Names, Way};
use super::outcome::{MachineEnd, Tally, Verdict};
use super::standing;

/// Notes that wait to be shown: some for each machine at work, so that none stalls for a slow terminal at once.
const NOTES: usize = 256;

/// Steps of a plan that are given together.
const STEPS: usize = 64;

/// How often a front may move its bars.
const TICK: Duration = Duration::from_millis(100);

/// How long a machine may take to hear goodbye: it is done with its work and has nothing to say.
const FAREWELL: Duration = Duration::from_secs(2);

/// How many machines are worked on at a time unless told: each is a process and some MiB here.
pub const FORKS: usize = 50;

/// How often a machine is modified at most unless told.
pub const CYCLES: u32 = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Goal {
    /// Only look.
    Plan,
    /// Bring it about; `yes`: without asking, in all cycles.
    Up { yes: bool },
}

#[derive(Clone, Debug)]
pub struct Options {
    pub goal: Goal,
    pub forks: usize,
    pub cycles: u32,
    pub explain: bool,
    /// Give up what is owed for states that are gone.
    pub drop_orphans: bool,
    pub batch: Option<BatchSize>,
    pub max_failures: Option<FailureLimit>,
}

impl Options {
    pub fn new(goal: Goal) -> Self {
        Self {
            goal,
            forks: FORKS,
            cycles: CYCLES,
            explain: false,
            drop_orphans: false,
            batch: None,
            max_failures: None,
        }
    }
}

/// A machine as catalogs are compiled for it.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    pub name: &'a str,
    pub labels: &'a BTreeMap<String, String>,
    pub vars: &'a Values,
    pub facts: &'a Values,
}

/// Where catalogs come from: a states file, or a program's own configurator.
pub trait Source: Sync {
    /// One catalog for each machine, in their order. All that is wrong is said at once.
    fn catalogs(&self, machines: &[Known<'_>]) -> Result<Vec<Catalog>, Problem>;
}

/// Asks a rollout to end.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    /// Start nothing new, and end when what runs has ended.
    pub cancel: CancellationToken,
    /// End now.
    pub kill: CancellationToken,
}

#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    /// The states cannot be compiled: no machine was touched.
    #[error(transparent)]
    Source(#[from] Problem),
    #[error(transparent)]
    Front(#[from] io::Error),
}

pub struct Rollout<'a> {
    pub ways: Vec<Box<dyn Way>>,
    pub source: &'a dyn Source,
    pub options: Options,
    pub interrupt: Interrupt,
}

/// One machine on its way.
struct Member {
    at: usize,
    way: Box<dyn Way>,
    machine: Option<Box<dyn Machine>>,
    facts: Values,
    /// Until it is sent for the last time.
    catalog: Option<Box<Catalog>>,
    /// The latest.
    plan: Option<Arc<Plan>>,
    tally: Tally,
    /// Those in which a state had its turn.
    cycles: u32,
    under_way: Option<UnderWay>,
    aside: Option<Aside>,
}

/// How far a machine's modification has come.
struct UnderWay {
    cycle: u32,
    at_work: BTreeSet<StateId>,
    reported: BTreeSet<StateId>,
}

/// What a machine's worker has to say.
enum Note {
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

type Notes = mpsc::Sender<(usize, Note)>;

/// What workers share.
struct Shared<'a> {
    options: &'a Options,
    cancel: &'a CancellationToken,
    notes: Notes,
    /// There are more machines than may be worked on at once, and a session with each is costly: between two pieces of work it
    /// is closed.
    parts: bool,
}

/// The front, and what it is told from.
struct Stage<'a> {
    front: &'a mut dyn Front,
    names: Vec<String>,
    notes: mpsc::Receiver<(usize, Note)>,
}

impl Rollout<'_> {
    /// Only connects and compiles. Machines that cannot be reached are told to the front and left out.
    pub async fn compile(self, front: &mut dyn Front) -> Result<Vec<Compiled>, RolloutError> {
        let Self { ways, source, options, interrupt } = self;
        let names = ways.iter().map(|way| way.name().to_owned()).collect();
        let (sender, notes) = mpsc::channel(NOTES);
        let parts = ways.iter().filter(|way| way.is_costly()).count() > options.forks;
        let shared = Shared { options: &options, cancel: &interrupt.cancel, notes: sender, parts };
        let mut stage = Stage { front, names, notes };
        let mut members: Vec<Member> =
            ways.into_iter().enumerate().map(|(at, way)| Member::new(at, way)).collect();
        let jobs = members.iter_mut().map(|member| member.connect(&shared));
        if !stage.look(jobs, &options, &interrupt).await? {
            return Ok(Vec::new());
        }
        compile(&mut members, source, &mut stage)?;
        let mut compiled = Vec::new();
        for mut member in members {
            member.close().await;
            if let Some(catalog) = member.catalog {
                let machine = member.way.name().to_owned();
                compiled.push(Compiled { machine, facts: member.facts, catalog: *catalog });
            }
        }
        Ok(compiled)
    }

    /// Ends when every machine has; in the order in which they were given.
    pub async fn run(self, front: &mut dyn Front) -> Result<Vec<MachineEnd>, RolloutError> {
        let Self { ways, source, options, interrupt } = self;
        let names = ways.iter().map(|way| way.name().to_owned()).collect();
        let (sender, notes) = mpsc::channel(NOTES);
        let parts = ways.iter().filter(|way| way.is_costly()).count() > options.forks;
        let shared = Shared { options: &options, cancel: &interrupt.cancel, notes: sender, parts };
        let mut stage = Stage { front, names, notes };
        let mut members: Vec<Member> =
            ways.into_iter().enumerate().map(|(at, way)| Member::new(at, way)).collect();
        stage.front.event(&Event::Begin { machines: members.len() })?;
        let jobs = members.iter_mut().map(|member| member.connect(&shared));
        if !stage.look(jobs, &options, &interrupt).await? {
            return stage.end_all(members, Aside::Cancelled);
        }
        compile(&mut members, source, &mut stage)?;
        let jobs = members.iter_mut().map(|member| member.analyze_first(&shared));
        if !stage.look(jobs, &options, &interrupt).await? {
            return stage.end_all(members, Aside::Cancelled);
        }
        let plans: Vec<Proposal<'_>> = members.iter().filter_map(Member::proposal).collect();
        stage.front.plans(&plans)?;
        if let Goal::Up { yes } = options.goal {
            let wanted: Vec<Proposal<'_>> = members
                .iter()
                .filter(|member| member.is_for_work(&options))
                .filter_map(Member::proposal)
                .collect();
            let answer = match wanted.is_empty() || yes {
                true => Answer::Yes,
                false => stage.ask(&wanted, &interrupt).await?,
            };
            match answer {
                Answer::Yes => modify(&mut members, &mut stage, &shared, &interrupt).await?,
                Answer::No => {
                    let why =
                        if interrupt.cancel.is_cancelled() { Aside::Cancelled } else { Aside::Declined };
                    members.iter_mut().filter(|member| member.is_for_work(&options)).for_each(|member| {
                        member.aside = Some(why.clone());
                    });
                }
            }
        }
        let farewells = members.iter_mut().map(Member::close);
        stream::iter(farewells).buffer_unordered(options.forks.max(1)).collect::<()>().await;
        stage.finish(members, options.goal)
    }
}

/// A machine's catalog, and what it was compiled from.
#[derive(Clone, PartialEq, Debug)]
pub struct Compiled {
    pub machine: String,
    pub facts: Values,
    pub catalog: Catalog,
}

/// Gives every machine that was reached its catalog.
fn compile(members: &mut [Member], source: &dyn Source, stage: &mut Stage<'_>) -> Result<(), RolloutError> {
    let reached: Vec<&Member> = members.iter().filter(|member| member.aside.is_none()).collect();
    let known: Vec<Known<'_>> = reached.iter().map(|member| member.known()).collect();
    let catalogs = source.catalogs(&known)?;
    let places: Vec<usize> = reached.iter().map(|member| member.at).collect();
    for (at, catalog) in places.into_iter().zip(catalogs) {
        let member = &mut members[at];
        stage.front.event(&Event::Compiled { machine: member.way.name(), states: catalog.states.len() })?;
        member.catalog = Some(Box::new(catalog));
    }
    Ok(())
}

/// Modifies what wants it, as many at a time as the batch allows, each until it is stable.
async fn modify(
    members: &mut [Member],
    stage: &mut Stage<'_>,
    shared: &Shared<'_>,
    interrupt: &Interrupt,
) -> Result<(), RolloutError> {
    let options = shared.options;
    let mut batches = Batches::new(members.len(), options.batch, options.max_failures);
    let mut waiting = VecDeque::new();
    for member in members.iter_mut() {
        if member.is_for_work(options) {
            waiting.push_back(member);
        } else {
            batches.started();
            batches.ended(member.aside.is_none());
        }
    }
    let mut running = FuturesUnordered::new();
    let mut asks: Vec<(usize, Arc<Plan>, oneshot::Sender<Answer>)> = Vec::new();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut is_told = false;
    loop {
        while running.len() < options.forks.max(1)
            && batches.allowance(running.len()) > 0
            && !interrupt.cancel.is_cancelled()
            && let Some(member) = waiting.pop_front()
        {
            batches.started();
            running.push(member.modify(shared));
        }
        if running.is_empty() {
            break;
        }
        if !asks.is_empty() && asks.len() == running.len() {
            stage.ask_again(std::mem::take(&mut asks), interrupt).await?;
            continue;
        }
        tokio::select! {
            biased;
            () = interrupt.kill.cancelled() => break,
            () = interrupt.cancel.cancelled(), if !is_told => {
                is_told = true;
                stage.front.event(&Event::Cancelling)?;
            }
            Some((at, note)) = stage.notes.recv() => match note {
                Note::Ask { plan, reply } => asks.push((at, plan, reply)),
                note => stage.show(at, &note)?,
            },
            Some(ok) = running.next() => batches.ended(ok),
            _ = tick.tick() => stage.front.tick(),
        }
    }
    stage.drain()?;
    // Killed in the middle: their sessions are dropped with them.
    let was_killed = !running.is_empty();
    drop(running);
    let why = if interrupt.cancel.is_cancelled() { Aside::Cancelled } else { Aside::Stopped };
    waiting.into_iter().for_each(|member| member.aside = Some(why.clone()));
    if was_killed {
        for member in members.iter_mut().filter(|member| member.is_wanting()) {
            member.interrupt(stage)?;
        }
    }
    Ok(())
}

impl Member {
    fn new(at: usize, way: Box<dyn Way>) -> Self {
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

    fn known(&self) -> Known<'_> {
        Known { name: self.way.name(), labels: self.way.labels(), vars: self.way.vars(), facts: &self.facts }
    }

    fn proposal(&self) -> Option<Proposal<'_>> {
        let plan = self.plan.as_ref()?;
        Some(Proposal { machine: self.way.name(), plan, again: false, missing: 0 })
    }

    /// It has a plan, and something in it is not done.
    fn is_wanting(&self) -> bool {
        self.aside.is_none() && self.plan.as_ref().is_some_and(|plan| !plan.stable)
    }

    /// The same, or debts are to be given up.
    fn is_for_work(&self, options: &Options) -> bool {
        let drops = |plan: &Arc<Plan>| options.drop_orphans && !plan.orphans.is_empty();
        self.is_wanting() || (self.aside.is_none() && self.plan.as_ref().is_some_and(drops))
    }

    async fn connect(&mut self, shared: &Shared<'_>) {
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

    async fn analyze_first(&mut self, shared: &Shared<'_>) {
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
    async fn modify(&mut self, shared: &Shared<'_>) -> bool {
        match self.bring(shared).await {
            Ok(()) => shared.note(self.at, Note::Over { aside: None }).await,
            Err(aside) => self.set_aside(aside, shared).await,
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
    fn interrupt(&mut self, stage: &mut Stage<'_>) -> io::Result<()> {
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

    async fn close(&mut self) {
        if let Some(machine) = self.machine.take() {
            // One that does not listen any more is dropped, which ends it too.
            let _ = timeout(FAREWELL, machine.close()).await;
        }
    }

    fn end(self, goal: Goal) -> MachineEnd {
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
    async fn note(&self, at: usize, note: Note) {
        // The stage outlives every worker; if it has gone, there is nobody to tell.
        let _ = self.notes.send((at, note)).await;
    }
}

impl Stage<'_> {
    /// Runs jobs that only look, some at a time. False when it was cancelled.
    async fn look<F: Future<Output = ()>>(
        &mut self,
        jobs: impl Iterator<Item = F>,
        options: &Options,
        interrupt: &Interrupt,
    ) -> io::Result<bool> {
        let mut jobs = stream::iter(jobs).buffer_unordered(options.forks.max(1));
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                biased;
                () = interrupt.cancel.cancelled() => return Ok(false),
                Some((at, note)) = self.notes.recv() => self.show(at, &note)?,
                done = jobs.next() => if done.is_none() {
                    self.drain()?;
                    return Ok(true);
                },
                _ = tick.tick() => self.front.tick(),
            }
        }
    }

    /// Shows what workers said before they ended.
    fn drain(&mut self) -> io::Result<()> {
        while let Ok((at, note)) = self.notes.try_recv() {
            self.show(at, &note)?;
        }
        Ok(())
    }

    fn show(&mut self, at: usize, note: &Note) -> io::Result<()> {
        let machine = self.names[at].as_str();
        let event = match note {
            Note::Connected { notes, landlock } => Event::Connected { machine, notes, landlock: *landlock },
            Note::Over { aside } => Event::Over { machine, aside: aside.as_ref() },
            Note::Modify { cycle } => Event::Modify { machine, cycle: *cycle },
            Note::Analysed { cycle, states, last } => {
                Event::Analysed { machine, cycle: *cycle, states: *states, last }
            }
            Note::Planned { cycle, plan } => Event::Planned { machine, cycle: *cycle, plan },
            Note::Turn { cycle, state } => Event::Turn { machine, cycle: *cycle, state },
            Note::Report { cycle, report } => Event::Report { machine, cycle: *cycle, report },
            // Left over when a rollout is killed: dropping it says no.
            Note::Ask { .. } => return Ok(()),
        };
        self.front.event(&event)
    }

    async fn ask(&mut self, plans: &[Proposal<'_>], interrupt: &Interrupt) -> io::Result<Answer> {
        tokio::select! {
            biased;
            () = interrupt.cancel.cancelled() => Ok(Answer::No),
            answer = self.front.ask(plans) => answer,
        }
    }

    /// Shows what came up beyond the approved plans, asks once for all of them, and tells the workers.
    async fn ask_again(
        &mut self,
        asks: Vec<(usize, Arc<Plan>, oneshot::Sender<Answer>)>,
        interrupt: &Interrupt,
    ) -> io::Result<()> {
        let names = self.names.clone();
        let plans: Vec<Proposal<'_>> = asks
            .iter()
            .map(|(at, plan, _)| Proposal { machine: &names[*at], plan, again: true, missing: 0 })
            .collect();
        self.front.plans(&plans)?;
        let answer = self.ask(&plans, interrupt).await?;
        for (_, _, reply) in asks {
            // A worker that has gone needs no answer.
            let _ = reply.send(answer);
        }
        Ok(())
    }

    fn end_all(&mut self, mut members: Vec<Member>, why: Aside) -> Result<Vec<MachineEnd>, RolloutError> {
        for member in &mut members {
            member.aside.get_or_insert(why.clone());
        }
        self.finish(members, Goal::Plan)
    }

    fn finish(&mut self, members: Vec<Member>, goal: Goal) -> Result<Vec<MachineEnd>, RolloutError> {
        let ends: Vec<MachineEnd> = members.into_iter().map(|member| member.end(goal)).collect();
        for end in &ends {
            self.front.event(&Event::Ended(end))?;
        }
        Ok(ends)
    }
}

#[cfg(test)]
mod tests;

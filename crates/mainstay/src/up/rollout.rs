//! Leads many machines through plan and apply at once.
//!
//! All machines are connected and their catalogs compiled before any is analysed, and all are analysed before anybody is
//! asked. From then on each machine goes its own way, within the window of its batch: modify, analyze again, until it is
//! stable. One that fails is set aside and holds up no other. Everything that is shown is shown by this one task, so a front
//! needs no locks.

mod member;
mod stage;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use futures_util::stream::{self, FuturesUnordered, StreamExt as _};
use mainstay_control::view::Problem;
use mainstay_core::batch::{BatchSize, Batches, FailureLimit};
use mainstay_core::state::Values;
use mainstay_core::state::catalog::Catalog;
use mainstay_core::state::plan::Plan;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::front::{Answer, Event, Front, Proposal};
use super::machine::{Aside, Way};
use super::outcome::MachineEnd;
use member::{Member, Note, Shared};
use stage::Stage;

/// Notes that wait to be shown: some for each machine at work, so that none stalls for a slow terminal at once.
const NOTES: usize = 256;

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
            farewell(&mut members, &options).await;
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
            farewell(&mut members, &options).await;
            return stage.end_all(members, Aside::Cancelled);
        }
        compile(&mut members, source, &mut stage)?;
        let jobs = members.iter_mut().map(|member| member.analyze_first(&shared));
        if !stage.look(jobs, &options, &interrupt).await? {
            farewell(&mut members, &options).await;
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
        farewell(&mut members, &options).await;
        stage.finish(members, options.goal)
    }
}

/// Ends every session, and what is at work in it.
async fn farewell(members: &mut [Member], options: &Options) {
    let farewells = members.iter_mut().map(Member::close);
    stream::iter(farewells).buffer_unordered(options.forks.max(1)).collect::<()>().await;
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
    let mut tick = stage::ticks();
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

#[cfg(test)]
mod tests;

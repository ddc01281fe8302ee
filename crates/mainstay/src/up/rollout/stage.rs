//! What a rollout shows and asks, all from one task.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use mainstay_core::state::plan::Plan;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::member::{Member, Note};
use super::{Goal, Interrupt, Options, RolloutError};
use crate::up::front::{Answer, Event, Front, Proposal};
use crate::up::machine::Aside;
use crate::up::outcome::MachineEnd;

/// How often a front may move its bars.
const TICK: Duration = Duration::from_millis(100);

/// Ticks for the front; one that comes late is left out.
pub(super) fn ticks() -> Interval {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

/// The front, and what it is told from.
pub(super) struct Stage<'a> {
    pub(super) front: &'a mut dyn Front,
    pub(super) names: Vec<String>,
    pub(super) notes: mpsc::Receiver<(usize, Note)>,
}

impl Stage<'_> {
    /// Runs jobs that only look, some at a time. False when it was cancelled.
    pub(super) async fn look<F: Future<Output = ()>>(
        &mut self,
        jobs: impl Iterator<Item = F>,
        options: &Options,
        interrupt: &Interrupt,
    ) -> io::Result<bool> {
        let mut jobs = stream::iter(jobs).buffer_unordered(options.forks.max(1));
        let mut tick = ticks();
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
    pub(super) fn drain(&mut self) -> io::Result<()> {
        while let Ok((at, note)) = self.notes.try_recv() {
            self.show(at, &note)?;
        }
        Ok(())
    }

    pub(super) fn show(&mut self, at: usize, note: &Note) -> io::Result<()> {
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

    pub(super) async fn ask(&mut self, plans: &[Proposal<'_>], interrupt: &Interrupt) -> io::Result<Answer> {
        tokio::select! {
            biased;
            () = interrupt.cancel.cancelled() => Ok(Answer::No),
            answer = self.front.ask(plans) => answer,
        }
    }

    /// Shows what came up beyond the approved plans, asks once for all of them, and tells the workers.
    pub(super) async fn ask_again(
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

    pub(super) fn end_all(
        &mut self,
        mut members: Vec<Member>,
        why: Aside,
    ) -> Result<Vec<MachineEnd>, RolloutError> {
        for member in &mut members {
            member.aside.get_or_insert(why.clone());
        }
        self.finish(members, Goal::Plan)
    }

    pub(super) fn finish(
        &mut self,
        members: Vec<Member>,
        goal: Goal,
    ) -> Result<Vec<MachineEnd>, RolloutError> {
        let ends: Vec<MachineEnd> = members.into_iter().map(|member| member.end(goal)).collect();
        for end in &ends {
            self.front.event(&Event::Ended(end))?;
        }
        Ok(ends)
    }
}

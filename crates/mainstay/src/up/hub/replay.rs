//! A run of declared state told again, from what its nodes wrote, to whoever was not there.

use std::collections::BTreeSet;
use std::io;

use mainstay_control::hub::approval::{APPLY, PLAN};
use mainstay_control::view::ResultView;
use mainstay_core::id::RunId;
use mainstay_core::state::plan::Plan;
use mainstay_core::state::session::Tell;

use super::Heard;
use super::answers::Answers;
use super::desk::of_result;
use crate::up::front::{Event, Front, Proposal};
use crate::up::machine::Aside;
use crate::up::outcome::{MachineEnd, Tally, Verdict};
use crate::up::standing;

/// What one node writes, read as the talk that it is a record of.
pub struct Account(Answers);

impl Account {
    pub fn new(run: RunId, node: String) -> Self {
        Self(Answers::new(run, node))
    }

    /// What these bytes complete, in order.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<Told> {
        self.0.take(bytes).into_iter().filter_map(told).collect()
    }

    /// What is there of a plan that was cut off, and how many of its steps are not.
    fn rest(self) -> Option<(Told, u64)> {
        let (heard, missing) = self.0.rest()?;
        Some((told(heard)?, missing))
    }
}

/// One thing that was found or done.
pub enum Told {
    Plan(Plan),
    Tell(Tell),
}

fn told(heard: Heard) -> Option<Told> {
    match heard {
        Heard::Planned { plan, .. } => Some(Told::Plan(plan)),
        Heard::Tell(tell) => Some(Told::Tell(tell)),
        Heard::Aside(_) => None,
    }
}

/// One node's part of the run.
struct Part {
    name: String,
    tells: Vec<Told>,
    /// That some of it is missing, in words.
    cut: Vec<String>,
    /// How many steps the last plan lacks.
    missing: u64,
    verdict: Verdict,
}

/// Tells `front` what these results say, in the order in which a rollout would: plans, what was done, what is left. `method` is the
/// run's.
pub fn tell(method: &str, results: &[&ResultView], front: &mut dyn Front) -> io::Result<Vec<MachineEnd>> {
    let parts: Vec<Part> = results.iter().map(|result| Part::of(result)).collect();
    for part in &parts {
        front.event(&Event::Connected { machine: &part.name, notes: &part.cut, landlock: None })?;
    }
    let first: Vec<Proposal<'_>> =
        parts.iter().filter_map(|part| part.proposal(first_plan(&part.tells)?, false)).collect();
    if !first.is_empty() {
        front.plans(&first)?;
    }
    for part in &parts {
        part.done(front)?;
    }
    let left: Vec<Proposal<'_>> = parts.iter().filter_map(|part| part.left(method == APPLY)).collect();
    if !left.is_empty() {
        front.plans(&left)?;
    }
    let ends: Vec<MachineEnd> = parts.into_iter().map(|part| part.end(method)).collect();
    for end in &ends {
        front.event(&Event::Ended(end))?;
    }
    Ok(ends)
}

impl Part {
    fn of(result: &ResultView) -> Self {
        let mut account = Account::new(result.run, result.node.to_string());
        let mut tells = account.take(result.stdout.as_deref().unwrap_or_default().as_bytes());
        let (mut cut, mut missing) = (Vec::new(), 0);
        let verdict = match (result.truncated, account.rest()) {
            (false, _) => verdict(result, tells.last()),
            (true, partial) => {
                let (kept, all) = (result.stdout.as_ref().map_or(0, String::len), result.stdout_bytes);
                // One that was killed could not say how much it had written.
                cut.push(match all {
                    Some(all) => format!("only {kept} of the {all} bytes that it wrote are shown"),
                    None => format!("{kept} bytes of what it wrote are shown; there may be more"),
                });
                if let Some((plan, steps)) = partial {
                    cut.push("its plan is not whole, and cannot be approved".to_owned());
                    tells.push(plan);
                    missing = steps;
                }
                Verdict::Aside(of_result(result))
            }
        };
        Self { name: result.node.to_string(), tells, cut, missing, verdict }
    }

    /// The plan at this place, if there is one.
    fn proposal(&self, at: usize, again: bool) -> Option<Proposal<'_>> {
        let missing = if at + 1 == self.tells.len() { self.missing } else { 0 };
        match self.tells.get(at)? {
            Told::Plan(plan) => Some(Proposal { machine: &self.name, plan, again, missing }),
            _ => None,
        }
    }

    fn done(&self, front: &mut dyn Front) -> io::Result<()> {
        let (machine, mut cycle) = (self.name.as_str(), 1);
        for tell in &self.tells {
            match tell {
                Told::Plan(plan) => {
                    cycle = plan.cycle;
                    front.event(&Event::Planned { machine, cycle, plan })?;
                }
                Told::Tell(Tell::Report(report)) => front.event(&Event::Report { machine, cycle, report })?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The plan of what is still to be done after something was.
    fn left(&self, again: bool) -> Option<Proposal<'_>> {
        let is_end = |told: &Told| matches!(told, Told::Plan(_) | Told::Tell(Tell::Applied { .. }));
        let last = self.tells.iter().rposition(is_end)?;
        let is_first = first_plan(&self.tells) == Some(last);
        self.proposal(last, again).filter(|proposal| !is_first && !proposal.plan.stable)
    }

    fn end(self, method: &str) -> MachineEnd {
        let (mut tally, mut cycles, mut last) = (Tally::default(), 0, None);
        let (mut is_under_way, mut at_turn) = (false, BTreeSet::new());
        for tell in &self.tells {
            match tell {
                Told::Tell(Tell::Turn { state }) => {
                    is_under_way = true;
                    at_turn.insert(state.clone());
                }
                Told::Tell(Tell::Report(report)) => {
                    is_under_way = true;
                    at_turn.remove(&report.state);
                    tally.report(report);
                }
                Told::Tell(Tell::Applied { .. }) => {
                    is_under_way = false;
                    at_turn.clear();
                    cycles += 1;
                }
                Told::Plan(plan) => last = Some(plan),
                _ => {}
            }
        }
        // One that was killed in the middle was modified too.
        cycles += u32::from(is_under_way);
        let mut counts = tally.counts();
        if counts.total() == 0
            && let Some(plan) = last
        {
            tally.plan(plan);
            counts = tally.counts();
        }
        // What was never applied cannot have changed anything, whatever the run was for.
        let foreseen = cycles == 0 && (method == PLAN || counts.changed > 0);
        let verdict = match self.verdict {
            Verdict::Aside(aside) => Verdict::Aside(aside.at_turn(at_turn)),
            verdict => verdict,
        };
        MachineEnd { name: self.name, verdict, counts, foreseen, cycles }
    }
}

/// Where the plan stands that everything began with.
fn first_plan(tells: &[Told]) -> Option<usize> {
    matches!(tells.first()?, Told::Plan(_)).then_some(0)
}

/// Where a node stands by what it wrote last.
fn verdict(result: &ResultView, last: Option<&Told>) -> Verdict {
    let aside = match last {
        _ if result.outcome != "finished" => of_result(result),
        Some(Told::Plan(plan)) => match standing::errors(plan) {
            0 if plan.stable => return Verdict::Stable,
            0 => return Verdict::Planned,
            errors => Aside::Errors(errors),
        },
        Some(Told::Tell(Tell::Applied { drift: Some(drift), .. })) => Aside::Drift(drift.clone()),
        Some(Told::Tell(Tell::Applied { counts, drift: None })) => {
            Aside::States { failed: counts.failed, blocked: counts.blocked }
        }
        Some(Told::Tell(Tell::Problem { message })) => Aside::Problem(message.clone()),
        _ => of_result(result),
    };
    Verdict::Aside(aside)
}

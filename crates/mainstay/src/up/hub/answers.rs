//! One node's lines as the talk that they are a record of.

use mainstay_core::id::RunId;
use mainstay_core::state::StepWord;
use mainstay_core::state::catalog::CatalogDigest;
use mainstay_core::state::plan::{Plan, PlanHead, PlanStep};
use mainstay_core::state::session::{PlannedLine, StateLine, Tell};

use super::Heard;

/// A node that writes a longer line than its output may have is not read on.
const MAX_LINE: usize = 32 << 20;

pub(super) struct Answers {
    run: RunId,
    machine: String,
    rest: Vec<u8>,
    plan: Option<(PlannedLine, Vec<PlanStep>)>,
}

impl Answers {
    pub(super) fn new(run: RunId, machine: String) -> Self {
        Self { run, machine, rest: Vec::new(), plan: None }
    }

    /// What these bytes complete, in order.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Vec<Heard> {
        self.rest.extend_from_slice(bytes);
        let mut heard = Vec::new();
        let mut from = 0;
        while let Some(length) = self.rest[from..].iter().position(|byte| *byte == b'\n') {
            let line = &self.rest[from..from + length];
            // A kind of line that a newer node writes is none of ours.
            if let Ok(line) = serde_json::from_slice::<StateLine>(line) {
                Self::line(&mut self.plan, line, &mut heard);
            }
            from += length + 1;
            if self.plan.as_ref().is_some_and(|(head, steps)| steps.len() as u64 >= head.steps) {
                heard.extend(self.planned());
            }
        }
        self.rest.drain(..from);
        if self.rest.len() > MAX_LINE {
            self.rest.clear();
        }
        heard
    }

    fn line(plan: &mut Option<(PlannedLine, Vec<PlanStep>)>, line: StateLine, heard: &mut Vec<Heard>) {
        match line {
            StateLine::Planned(head) => *plan = Some((head, Vec::new())),
            StateLine::Step { step, .. } => {
                if let Some((_, steps)) = plan {
                    steps.push(step);
                }
            }
            StateLine::Turn { state, .. } => heard.push(Heard::Tell(Tell::Turn { state })),
            StateLine::Report { report, .. } => heard.push(Heard::Tell(Tell::Report(report))),
            StateLine::Applied { counts, drift, .. } => {
                heard.push(Heard::Tell(Tell::Applied { counts, drift }));
            }
            StateLine::Problem { message } => heard.push(Heard::Tell(Tell::Problem { message })),
        }
    }

    /// What is there of a plan when no more comes, and how many of its steps are not.
    pub(super) fn rest(mut self) -> Option<(Heard, u64)> {
        let (head, steps) = self.plan.as_ref()?;
        let missing = head.steps.saturating_sub(steps.len() as u64);
        Some((self.planned()?, missing))
    }

    /// The plan, now that all of it is there.
    fn planned(&mut self) -> Option<Heard> {
        let (head, pending) = self.plan.take()?;
        let unchanged = head.unchanged.into_iter().flat_map(|(module, states)| {
            states.into_iter().map(move |state| PlanStep {
                state,
                module: module.clone(),
                step: StepWord::Unchanged,
                reason: None,
                changes: Vec::new(),
                refresh: None,
            })
        });
        let steps = unchanged.chain(pending).collect();
        let catalog = CatalogDigest(head.plan.clone());
        let stable = !head.pending;
        let orphans = head.orphans;
        let plan_head =
            PlanHead { orphans, stable, ..PlanHead::new(catalog, self.machine.clone(), head.cycle) };
        Some(Heard::Planned { plan: Plan { head: plan_head, steps }, run: self.run, name: head.plan })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mainstay_core::state::plan::StateCounts;

    fn text(lines: &[StateLine]) -> Vec<u8> {
        lines.iter().flat_map(|line| (serde_json::to_string(line).unwrap() + "\n").into_bytes()).collect()
    }

    #[test]
    fn lines_in_any_pieces_are_the_same_talk() {
        let step = PlanStep {
            state: "a".into(),
            module: "file".into(),
            step: StepWord::Change,
            reason: None,
            changes: Vec::new(),
            refresh: None,
        };
        let head = PlannedLine {
            cycle: 2,
            plan: "p".into(),
            steps: 1,
            unchanged: [("cmd".to_owned(), vec!["b".into()])].into(),
            pending: true,
            errors: false,
            orphans: Vec::new(),
        };
        let all = text(&[
            StateLine::Applied { cycle: 1, counts: StateCounts::default(), drift: None },
            StateLine::Planned(head),
            StateLine::Step { cycle: 2, step },
        ]);
        for size in [1, 7, all.len()] {
            let mut answers = Answers::new(RunId::from_bytes([7; 16]), "n".into());
            let heard: Vec<Heard> = all.chunks(size).flat_map(|piece| answers.take(piece)).collect();
            let [Heard::Tell(Tell::Applied { .. }), Heard::Planned { plan, name, .. }] = &heard[..] else {
                panic!("{} answers", heard.len());
            };
            let states: Vec<&str> = plan.steps.iter().map(|step| step.state.as_str()).collect();
            assert_eq!((states, plan.cycle, name.as_str()), (vec!["b", "a"], 2, "p"));
        }
    }

    #[test]
    fn a_plan_without_steps_is_whole_at_once_and_noise_is_passed_over() {
        let head = PlannedLine {
            cycle: 1,
            plan: "p".into(),
            steps: 0,
            unchanged: Default::default(),
            pending: false,
            errors: false,
            orphans: Vec::new(),
        };
        let mut answers = Answers::new(RunId::from_bytes([7; 16]), "n".into());
        let mut bytes = b"noise\n\xff\xff\n{\"line\":\"other\"}\n".to_vec();
        bytes.extend(text(&[StateLine::Planned(head)]));
        assert_eq!(answers.take(&bytes).len(), 1);
    }
}

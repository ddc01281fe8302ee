//! A rollout for programs: one JSON object a line, as DESIGN §8 gives them.

use std::io;

use async_trait::async_trait;
use mainstay_core::state::plan::{Change, PlanStep, StateCounts};
use mainstay_core::state::{StateId, StateOutcome, StepWord};
use serde::Serialize;

use super::changes::text_of;
use super::rollout_text::typed_yes;
use super::screen::Screen;
use crate::up::front::{Answer, Event, Front, Proposal};
use crate::up::{MachineEnd, Verdict};

/// What a state would do, or did.
#[derive(Serialize)]
struct StepLine<'a> {
    event: &'static str,
    node: &'a str,
    cycle: u32,
    phase: &'static str,
    state: &'a StateId,
    module: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<StepWord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<StateOutcome>,
    reason: Option<&'a str>,
    /// The changes as text.
    diff: Option<String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    changes: &'a [Change],
    /// The states because of which it would be refreshed.
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh: Option<&'a [StateId]>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    refreshed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
}

#[derive(Serialize)]
struct SummaryLine<'a> {
    event: &'static str,
    node: &'a str,
    #[serde(flatten)]
    counts: StateCounts,
    cycles: u32,
    /// `analyze`: the counts say what would become of the states; `modify`: what did.
    phase: &'static str,
    /// `stable`, `failed`, or `pending`.
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    hints: &'a [String],
}

/// What a machine says of itself that hinders nobody yet.
#[derive(Serialize)]
struct NoteLine<'a> {
    event: &'static str,
    node: &'a str,
    note: &'a str,
}

pub(super) struct RolloutLines<'a> {
    screen: &'a mut Screen,
}

impl<'a> RolloutLines<'a> {
    pub(super) fn new(screen: &'a mut Screen) -> Self {
        Self { screen }
    }

    fn end(&mut self, end: &MachineEnd) -> io::Result<()> {
        let result = match &end.verdict {
            verdict if verdict.is_failure() => "failed",
            verdict if verdict.is_pending() => "pending",
            _ => "stable",
        };
        let (reason, hints) = match &end.verdict {
            Verdict::Aside(aside) => (Some(aside.to_string()), aside.hints()),
            _ => (None, &[][..]),
        };
        self.screen.object(&SummaryLine {
            event: "summary",
            node: &end.name,
            counts: end.counts,
            cycles: end.cycles,
            phase: if end.foreseen { "analyze" } else { "modify" },
            result,
            reason,
            hints,
        })
    }

    fn step(&mut self, node: &str, cycle: u32, step: &PlanStep) -> io::Result<()> {
        self.screen.object(&StepLine {
            event: "step",
            node,
            cycle,
            phase: "analyze",
            state: &step.state,
            module: &step.module,
            step: Some(step.step),
            outcome: None,
            reason: step.reason.as_deref(),
            diff: text_of(&step.changes),
            changes: &step.changes,
            refresh: step.refresh.as_deref(),
            refreshed: false,
            duration_ms: None,
        })
    }
}

#[async_trait(?Send)]
impl Front for RolloutLines<'_> {
    fn event(&mut self, event: &Event<'_>) -> io::Result<()> {
        match event {
            Event::Connected { machine, notes, .. } => {
                for note in *notes {
                    self.screen.object(&NoteLine { event: "note", node: machine, note })?;
                }
            }
            Event::Planned { machine, cycle, plan } => {
                for step in &plan.steps {
                    self.step(machine, *cycle, step)?;
                }
            }
            Event::Report { machine, cycle, report } => self.screen.object(&StepLine {
                event: "step",
                node: machine,
                cycle: *cycle,
                phase: "modify",
                state: &report.state,
                module: &report.module,
                step: None,
                outcome: Some(report.outcome),
                reason: report.reason.as_deref(),
                diff: text_of(&report.changes),
                changes: &report.changes,
                refresh: None,
                refreshed: report.refreshed,
                duration_ms: Some(report.duration_ms),
            })?,
            Event::Ended(end) => self.end(end)?,
            _ => return Ok(()),
        }
        self.screen.flush()
    }

    fn plans(&mut self, _: &[Proposal<'_>]) -> io::Result<()> {
        Ok(())
    }

    async fn ask(&mut self, plans: &[Proposal<'_>]) -> io::Result<Answer> {
        self.screen.note(&format!("Modify {} machines as said? Type yes to go on:", plans.len()))?;
        typed_yes().await
    }
}

#[cfg(test)]
mod tests {
    use mainstay_core::state::catalog::CatalogDigest;
    use mainstay_core::state::plan::{Datum, Plan, PlanHead, StateReport};

    use super::*;
    use crate::cli::screen::captured;
    use crate::up::Aside;

    #[test]
    fn lines_are_as_programs_were_promised() {
        let (mut screen, buffer) = captured::screen(false);
        let mut front = RolloutLines::new(&mut screen);
        let changes = vec![
            Change::new("mode", Datum::known("0644"), Datum::known("0640")),
            Change::new("content", Datum::Absent, Datum::Secret { digest: "ab".into() }),
        ];
        let step = PlanStep {
            state: "conf".into(),
            module: "file".into(),
            step: StepWord::Change,
            reason: None,
            changes,
            refresh: Some(vec!["other".into()]),
        };
        let report = StateReport {
            state: "conf".into(),
            module: "file".into(),
            outcome: StateOutcome::Failed,
            reason: Some("write /x: No space left on device".into()),
            changes: vec![],
            refreshed: false,
            outputs: Default::default(),
            duration_ms: 7,
        };
        let plan = Plan { head: PlanHead::new(CatalogDigest("c".into()), "m", 1), steps: vec![step] };
        front.event(&Event::Planned { machine: "m", cycle: 1, plan: &plan }).unwrap();
        front.event(&Event::Report { machine: "m", cycle: 1, report: &report }).unwrap();
        let counts = StateCounts { failed: 1, ..StateCounts::default() };
        let verdict = Verdict::Aside(Aside::States { failed: 1, blocked: 0 });
        front
            .event(&Event::Ended(&MachineEnd {
                name: "m".into(),
                verdict,
                counts,
                foreseen: false,
                cycles: 1,
            }))
            .unwrap();
        insta::assert_snapshot!(buffer.text(), @r#"
        {"event":"step","node":"m","cycle":1,"phase":"analyze","state":"conf","module":"file","step":"change","reason":null,"diff":"mode: \"0644\" → \"0640\"\ncontent: absent → ‹secret›\n","changes":[{"field":"mode","before":{"known":"0644"},"after":{"known":"0640"}},{"field":"content","before":"absent","after":{"secret":{"digest":"ab"}}}],"refresh":["other"]}
        {"event":"step","node":"m","cycle":1,"phase":"modify","state":"conf","module":"file","outcome":"failed","reason":"write /x: No space left on device","diff":null,"duration_ms":7}
        {"event":"summary","node":"m","changed":0,"unchanged":0,"skipped":0,"failed":1,"blocked":0,"cycles":1,"phase":"modify","result":"failed","reason":"1 failed, 0 blocked"}
        "#);
    }
}

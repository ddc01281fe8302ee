//! A rollout as a person watches it: plans folded, a question, a bar for each machine at work, what was done, a table.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead as _};

use async_trait::async_trait;
use mainstay_control::view::ProblemKind;
use mainstay_core::state::{StateId, StepWord};
use owo_colors::Style;
use tokio::sync::oneshot;

use super::changes::{self, Detail, Line, Tone, fold};
use super::name_range::compact_names;
use super::rollout_bars::Bars;
use super::screen::{Screen, harmless, one_line};
use super::table;
use crate::up::front::{Answer, Event, Front, Proposal};
use crate::up::machine::Names;
use crate::up::{Aside, MachineEnd, Verdict};

pub(super) struct RolloutText<'a> {
    screen: &'a mut Screen,
    detail: Detail,
    bars: Bars,
    machines: usize,
    /// What each machine's latest plan said of its states.
    foreseen: BTreeMap<String, BTreeMap<StateId, StepWord>>,
    /// States that are being modified.
    at_work: BTreeSet<(String, StateId)>,
    /// What was done on each machine and not shown yet.
    done: BTreeMap<String, Vec<Line>>,
    ends: Vec<MachineEnd>,
    /// Machines whose kernel does not hold the analyze phase to looking.
    unheld: Vec<String>,
}

impl<'a> RolloutText<'a> {
    pub(super) fn new(screen: &'a mut Screen, detail: Detail) -> Self {
        let bars = Bars::new(screen.err_terminal);
        Self {
            screen,
            detail,
            bars,
            machines: 0,
            foreseen: BTreeMap::new(),
            at_work: BTreeSet::new(),
            done: BTreeMap::new(),
            ends: Vec::new(),
            unheld: Vec::new(),
        }
    }

    /// The table at the end, and who was set aside for what.
    pub(super) fn summary(mut self) -> io::Result<()> {
        self.bars.clear();
        self.show_done()?;
        // Of one machine that was only looked at, its plan's heading has said it all.
        let is_said = |end: &MachineEnd| end.cycles == 0 && !matches!(end.verdict, Verdict::Aside(_));
        if self.ends.len() != 1 || !self.ends.iter().all(is_said) {
            let columns = columns(&self.ends);
            let head: Vec<&str> =
                ["MACHINE", "RESULT"].into_iter().chain(columns.iter().map(|c| c.0)).collect();
            let rows: Vec<Vec<String>> = self.ends.iter().map(|end| row(end, &columns)).collect();
            table::show(self.screen, &head, &rows)?;
        }
        self.screen.flush()?;
        if !self.unheld.is_empty() {
            let names = compact_names(self.unheld.iter().map(String::as_str));
            self.screen.note(&format!(
                "The kernel of {names} has no Landlock: guards and probes were only trusted to change nothing."
            ))?;
        }
        let asides = self.ends.iter().filter_map(|end| match &end.verdict {
            Verdict::Aside(aside) => Some((end.name.as_str(), (aside.to_string(), aside.hints().to_vec()))),
            _ => None,
        });
        for (names, (why, hints)) in fold(asides) {
            self.screen.note(&format!(
                "Set aside: {}: {}",
                compact_names(names),
                harmless(why.trim_end())
            ))?;
            for hint in hints {
                self.screen.note(&format!("  {}", harmless(&hint)))?;
            }
        }
        Ok(())
    }

    fn paint(&mut self, lines: &[Line]) -> io::Result<()> {
        if !lines.is_empty() {
            // What is written between bars would be torn by them.
            self.bars.hide();
        }
        for line in lines {
            let text = match line.tone {
                Tone::Plain => line.text.clone(),
                tone => self.screen.paint(&line.text, tone.style()),
            };
            self.screen.line(&text)?;
        }
        Ok(())
    }

    fn head(&mut self, names: &[&str], about: &str, style: Style) -> io::Result<()> {
        let count = if names.len() > 1 { format!(" ({})", names.len()) } else { String::new() };
        let text = format!("── {}{count} · {about}", compact_names(names.iter().copied()));
        let text = self.screen.paint(&text, style.bold());
        self.screen.line(&text)
    }

    /// What was done on several machines, folded.
    fn show_done(&mut self) -> io::Result<()> {
        let done = std::mem::take(&mut self.done);
        let mut folded = fold(done.iter().map(|(name, lines)| (name.as_str(), lines.clone())));
        let is_bad = |lines: &[Line]| lines.iter().any(|line| line.tone == Tone::Bad);
        folded.sort_by_key(|(_, lines)| is_bad(lines));
        for (names, lines) in folded {
            let style = if is_bad(&lines) { Style::new().red() } else { Style::new().green() };
            self.head(&names, "done", style)?;
            self.paint(&lines)?;
        }
        Ok(())
    }

    fn take(&mut self, event: &Event<'_>) -> io::Result<()> {
        match event {
            Event::Begin { machines } => self.machines = *machines,
            Event::Connected { machine, notes, landlock } => {
                if *landlock == Some(0) {
                    self.unheld.push((*machine).to_owned());
                }
                for note in *notes {
                    self.bars.hide();
                    self.screen.note(&format!("{machine}: {}", one_line(note)))?;
                }
            }
            Event::Planned { machine, plan, .. } => {
                let words = plan.steps.iter().map(|step| (step.state.clone(), step.step)).collect();
                self.foreseen.insert((*machine).to_owned(), words);
            }
            Event::Turn { machine, state, .. } => {
                self.at_work.insert(((*machine).to_owned(), (*state).clone()));
            }
            Event::Report { machine, report, .. } => {
                self.at_work.remove(&((*machine).to_owned(), report.state.clone()));
                let foreseen =
                    self.foreseen.get(*machine).and_then(|words| words.get(&report.state)).copied();
                let lines = changes::report(report, foreseen, self.detail);
                if self.machines == 1 {
                    self.paint(&lines)?;
                    self.screen.flush()?;
                } else if !lines.is_empty() {
                    self.done.entry((*machine).to_owned()).or_default().extend(lines);
                }
            }
            Event::Over { machine, aside } if self.machines > 1 => {
                let how = aside.map_or("stable".to_owned(), |aside| one_line(&aside.to_string()));
                self.bars.hide();
                self.screen.note(&format!("{machine}: {how}"))?;
            }
            Event::Cancelling => {
                self.bars.hide();
                let at_work = self.at_work.iter().map(|(_, state)| state.clone());
                let what = match self.machines {
                    1 if !self.at_work.is_empty() => Names(at_work.collect()).to_string(),
                    _ => "what runs".to_owned(),
                };
                self.screen.note(&format!(
                    "Cancelled: {} may end, and nothing more is begun. Ctrl-C again ends it now.",
                    one_line(&what)
                ))?;
            }
            Event::Ended(end) => self.ends.push((*end).clone()),
            _ => {}
        }
        Ok(())
    }
}

/// What stands in a column of the table, and its number for a machine.
type Column = (&'static str, fn(&MachineEnd) -> u64);

/// What would change is another thing than what did, and mostly there is but one of the two.
fn columns(ends: &[MachineEnd]) -> Vec<Column> {
    let mut columns: Vec<Column> = Vec::new();
    if ends.iter().any(|end| end.foreseen) {
        columns.push(("TO CHANGE", |end| if end.foreseen { end.counts.changed } else { 0 }));
    }
    if ends.iter().any(|end| !end.foreseen) {
        columns.push(("CHANGED", |end| if end.foreseen { 0 } else { end.counts.changed }));
    }
    columns.extend([
        ("UNCHANGED", (|end| end.counts.unchanged) as fn(&MachineEnd) -> u64),
        ("SKIPPED", |end| end.counts.skipped),
        ("FAILED", |end| end.counts.failed),
        ("BLOCKED", |end| end.counts.blocked),
        ("CYCLES", |end| u64::from(end.cycles)),
    ]);
    columns
}

fn row(end: &MachineEnd, columns: &[Column]) -> Vec<String> {
    let result = match &end.verdict {
        Verdict::Stable => "stable",
        Verdict::Planned => "would change",
        Verdict::Aside(Aside::Away(_)) => "away",
        Verdict::Aside(Aside::Declined) => "not approved",
        Verdict::Aside(Aside::Cancelled) => "cancelled",
        Verdict::Aside(Aside::Interrupted { .. }) => "interrupted",
        Verdict::Aside(Aside::Stopped) => "not started",
        Verdict::Aside(Aside::Unreachable { .. }) => "unreachable",
        Verdict::Aside(Aside::Hub(problem)) if problem.kind == ProblemKind::Unreachable => "no hub",
        Verdict::Aside(Aside::Hub(_)) => "refused",
        Verdict::Aside(Aside::Unstable { .. }) => "not stable",
        Verdict::Aside(Aside::Drift(_)) => "drifted",
        Verdict::Aside(_) => "failed",
    };
    let numbers = columns.iter().map(|(_, number)| number(end).to_string());
    [end.name.clone(), result.to_owned()].into_iter().chain(numbers).collect()
}

#[async_trait(?Send)]
impl Front for RolloutText<'_> {
    fn event(&mut self, event: &Event<'_>) -> io::Result<()> {
        self.bars.take(event);
        self.take(event)
    }

    fn plans(&mut self, plans: &[Proposal<'_>]) -> io::Result<()> {
        self.bars.clear();
        // Whoever is asked about more shall know what came of the first part.
        self.show_done()?;
        let detail = self.detail;
        let blocks = plans.iter().map(|proposal| {
            let mut counts = changes::plan_counts(proposal.plan);
            if proposal.missing > 0 {
                counts.push_str(&format!(", {} more steps were cut off", proposal.missing));
            }
            let again = proposal.again;
            (proposal.machine, (again, counts, changes::plan(proposal.plan, detail)))
        });
        let mut folded = fold(blocks);
        let is_bad = |lines: &[Line]| lines.iter().any(|line| line.tone == Tone::Bad);
        folded.sort_by_key(|(_, (_, _, lines))| (is_bad(lines), !lines.is_empty()));
        for (names, (again, counts, lines)) in folded {
            let style = match (is_bad(&lines), lines.is_empty()) {
                (true, _) => Style::new().red(),
                (false, true) => Style::new().green(),
                (false, false) => Style::new().yellow(),
            };
            let about = if again { format!("beyond what was approved: {counts}") } else { counts };
            self.head(&names, &about, style)?;
            self.paint(&lines)?;
        }
        self.screen.flush()
    }

    async fn ask(&mut self, plans: &[Proposal<'_>]) -> io::Result<Answer> {
        self.bars.clear();
        let what = match plans {
            [only] => format!("Modify {} as shown?", only.machine),
            many => format!("Modify {} machines as shown?", many.len()),
        };
        self.screen.note(&format!("{what} Type yes to go on:"))?;
        typed_yes().await
    }

    fn tick(&mut self) {
        self.bars.draw();
    }
}

/// Waits for a line on standard input. The thread that reads stays behind when nobody waits any more: a read cannot be
/// taken back, and the process's end takes it along.
pub(super) async fn typed_yes() -> io::Result<Answer> {
    let (sender, answer) = oneshot::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = io::stdin().lock().read_line(&mut line);
        let _ = sender.send(read.map(|_| line));
    });
    let line = answer.await.unwrap_or_else(|_| Ok(String::new()))?;
    Ok(if line.trim() == "yes" { Answer::Yes } else { Answer::No })
}

#[cfg(test)]
mod tests {
    use mainstay_core::state::StateOutcome;
    use mainstay_core::state::catalog::CatalogDigest;
    use mainstay_core::state::plan::{Change, Datum, Plan, PlanHead, PlanStep, StateCounts, StateReport};

    use super::*;
    use crate::cli::screen::captured;

    fn plan(machine: &str, step: StepWord, after: &str) -> Plan {
        let step_is_stable = step == StepWord::Unchanged;
        let step = PlanStep {
            state: "conf".into(),
            module: "file".into(),
            step,
            reason: (step == StepWord::Error).then(|| "read /etc/app: \u{1b}[31mPermission denied".into()),
            changes: match step {
                StepWord::Change => vec![Change::new("mode", Datum::known("0644"), Datum::known(after))],
                _ => vec![],
            },
            refresh: None,
        };
        let head = PlanHead::new(CatalogDigest("c".into()), machine, 1);
        Plan { head: PlanHead { stable: step_is_stable, ..head }, steps: vec![step] }
    }

    fn report(outcome: StateOutcome, reason: Option<&str>) -> StateReport {
        StateReport {
            state: "conf".into(),
            module: "file".into(),
            outcome,
            reason: reason.map(str::to_owned),
            changes: vec![],
            refreshed: false,
            outputs: Default::default(),
            duration_ms: 5,
        }
    }

    fn end(name: &str, verdict: Verdict, changed: u64, failed: u64, cycles: u32) -> MachineEnd {
        let counts = StateCounts { changed, failed, ..StateCounts::default() };
        MachineEnd { name: name.into(), verdict, counts, foreseen: false, cycles }
    }

    #[test]
    fn what_would_change_is_not_said_to_have_changed() {
        let (mut screen, buffer) = captured::screen(false);
        let mut front = RolloutText::new(&mut screen, Detail::default());
        let looked = |name, verdict| MachineEnd { foreseen: true, ..end(name, verdict, 2, 1, 0) };
        front.event(&Event::Ended(&looked("web1", Verdict::Aside(Aside::Errors(1))))).unwrap();
        front.event(&Event::Ended(&looked("web2", Verdict::Planned))).unwrap();
        front.summary().unwrap();
        insta::assert_snapshot!(buffer.text(), @r#"
        MACHINE  RESULT        TO CHANGE  UNCHANGED  SKIPPED  FAILED  BLOCKED  CYCLES
        web1     failed        2          0          0        1       0        0
        web2     would change  2          0          0        1       0        0
        Set aside: web1: 1 of its states could not be analysed
        "#);
    }

    #[test]
    fn equal_plans_fold_and_trouble_stands_last() {
        let (mut screen, buffer) = captured::screen(true);
        let mut front = RolloutText::new(&mut screen, Detail::default());
        let plans = [
            plan("web1", StepWord::Change, "0640"),
            plan("blind", StepWord::Error, ""),
            plan("web2", StepWord::Change, "0640"),
            plan("db", StepWord::Change, "0600"),
            plan("done", StepWord::Unchanged, ""),
        ];
        let proposals: Vec<Proposal<'_>> = plans
            .iter()
            .map(|plan| Proposal { machine: &plan.machine, plan, again: false, missing: 0 })
            .collect();
        front.plans(&proposals).unwrap();
        insta::assert_snapshot!(buffer.text(), @r#"
        ── done · 1 unchanged
        ── web[1-2] (2) · 1 to change
          ~ conf (file) change
              mode: 0644 → 0640
        ── db · 1 to change
          ~ conf (file) change
              mode: 0644 → 0600
        ── blind · 1 in error
          ✗ conf (file) error: read /etc/app: ^[[31mPermission denied
        "#);
    }

    #[test]
    fn what_was_done_and_what_became_of_all_is_told_at_the_end() {
        let (mut screen, buffer) = captured::screen(false);
        let mut front = RolloutText::new(&mut screen, Detail::default());
        front.event(&Event::Begin { machines: 4 }).unwrap();
        let (changed, failed) = (
            report(StateOutcome::Changed, None),
            report(StateOutcome::Failed, Some("write /etc/app: No space left on device")),
        );
        for (machine, report) in [("web1", &changed), ("web2", &changed), ("db", &failed)] {
            front.event(&Event::Report { machine, cycle: 1, report }).unwrap();
        }
        let lost = Aside::Unreachable { message: "no route".into(), hints: vec!["look for it".into()] };
        for end in [
            end("web1", Verdict::Stable, 1, 0, 1),
            end("web2", Verdict::Stable, 1, 0, 1),
            end("db", Verdict::Aside(Aside::States { failed: 1, blocked: 0 }), 0, 1, 1),
            end("gone", Verdict::Aside(lost), 0, 0, 0),
        ] {
            front.event(&Event::Ended(&end)).unwrap();
        }
        front.summary().unwrap();
        insta::assert_snapshot!(buffer.text(), @r#"
        ── web[1-2] (2) · done
          ✓ conf (file) changed
        ── db · done
          ✗ conf (file) failed: write /etc/app: No space left on device
        MACHINE  RESULT       CHANGED  UNCHANGED  SKIPPED  FAILED  BLOCKED  CYCLES
        web1     stable       1        0          0        0       0        1
        web2     stable       1        0          0        0       0        1
        db       failed       0        0          0        1       0        1
        gone     unreachable  0        0          0        0       0        0
        Set aside: db: 1 failed, 0 blocked
        Set aside: gone: no route
          look for it
        "#);
    }

    #[test]
    fn where_the_kernel_holds_nobody_to_looking_is_told_once() {
        let (mut screen, buffer) = captured::screen(false);
        let mut front = RolloutText::new(&mut screen, Detail::default());
        front.event(&Event::Begin { machines: 4 }).unwrap();
        for (machine, landlock) in [("web1", Some(0)), ("web2", Some(0)), ("db", Some(4)), ("asked", None)] {
            front.event(&Event::Connected { machine, notes: &[], landlock }).unwrap();
        }
        front.event(&Event::Ended(&end("db", Verdict::Stable, 0, 0, 0))).unwrap();
        front.summary().unwrap();
        assert_eq!(
            buffer.text(),
            "The kernel of web[1-2] has no Landlock: guards and probes were only trusted to change nothing.\n"
        );
    }

    #[test]
    fn on_one_machine_what_is_done_is_told_at_once() {
        let (mut screen, buffer) = captured::screen(false);
        let mut front = RolloutText::new(&mut screen, Detail::default());
        front.event(&Event::Begin { machines: 1 }).unwrap();
        let report = report(StateOutcome::Changed, None);
        front.event(&Event::Report { machine: "m", cycle: 1, report: &report }).unwrap();
        assert_eq!(buffer.text(), "  ✓ conf (file) changed\n");
    }
}

//! A run of declared state as people read it: as `plan` and `up` would have shown it, and what to do next.

use std::collections::BTreeMap;

use mainstay_control::hub::approval::{UP, is_state};
use mainstay_control::view::{ResultView, RunView};
use mainstay_core::id::{NodeName, RunId};

use super::Stop;
use super::changes::Detail;
use super::name_range::natural_key;
use super::nodes;
use super::rollout_text::RolloutText;
use super::screen::Screen;
use crate::client::Client;
use crate::client::run_stream::short;
use crate::up::hub::replay;
use crate::up::{MachineEnd, Verdict};

/// The results of such a run; a later one of a node replaces its earlier one.
pub(super) struct StateRun {
    run: RunId,
    method: String,
    results: BTreeMap<NodeName, ResultView>,
}

impl StateRun {
    /// `None` if the run is of another kind.
    pub(super) fn new(run: RunId, method: &str) -> Option<Self> {
        is_state(method).then(|| Self { run, method: method.to_owned(), results: BTreeMap::new() })
    }

    pub(super) fn add(&mut self, result: &ResultView) {
        self.results.insert(result.node.clone(), result.clone());
    }

    pub(super) async fn show(
        &self,
        client: &Client,
        detail: Detail,
        screen: &mut Screen,
    ) -> Result<(), Stop> {
        if self.results.is_empty() {
            return Ok(());
        }
        let ends = self.tell(detail, screen)?;
        // What `state.up` left undone was said to be done without asking: there is nobody to approve it.
        let waiting = ends.iter().filter(|end| end.verdict == Verdict::Planned).count() as u64;
        if waiting == 0 || self.method == UP {
            return Ok(());
        }
        let runs: Vec<RunView> = client.get("/v1/runs?limit=10000").await?;
        for line in next(self.run, waiting, &runs) {
            screen.note(&line)?;
        }
        Ok(())
    }

    fn tell(&self, detail: Detail, screen: &mut Screen) -> std::io::Result<Vec<MachineEnd>> {
        let mut results: Vec<&ResultView> = self.results.values().collect();
        results.sort_by_cached_key(|result| natural_key(&result.node));
        let mut front = RolloutText::new(screen, detail);
        let ends = replay::tell(&self.method, &results, &mut front)?;
        front.summary()?;
        Ok(ends)
    }
}

/// What can be done about so many nodes with a plan that is not applied, as far as it was not done already.
fn next(run: RunId, waiting: u64, runs: &[RunView]) -> Vec<String> {
    let applied: Vec<&RunView> = runs.iter().filter(|later| later.applies == Some(run)).collect();
    let mut lines: Vec<String> = applied
        .iter()
        .map(|later| {
            let (id, count) = (short(later.run), nodes::count(later.nodes));
            format!("Approved for {count}: see `mainstay runs show {id}`.")
        })
        .collect();
    if applied.iter().map(|later| later.nodes).sum::<u64>() < waiting {
        lines.push(format!(
            "Awaits approval: `mainstay runs approve {}` shows it, asks, and applies it.",
            short(run)
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use mainstay_control::hub::approval::{APPLY, PLAN};
    use serde_json::{Value, json};

    use super::*;
    use crate::cli::screen::captured;

    const RUN: &str = "0190a8a0-0000-7000-8000-00005d0c81f2";

    fn planned(cycle: u32, steps: u32) -> Value {
        json!({"line": "planned", "cycle": cycle, "plan": "p", "steps": steps, "unchanged": {"cmd": ["note"]},
            "pending": steps > 0, "errors": false})
    }

    fn step(cycle: u32, step: &str) -> Value {
        json!({"line": "step", "cycle": cycle, "state": "conf", "module": "file", "step": step,
            "reason": (step == "error").then_some("read /etc/app: Permission denied"),
            "changes": [{"field": "mode", "before": {"known": "0644"}, "after": {"known": "0640\u{1b}[2J"}}]})
    }

    fn report(outcome: &str) -> Value {
        json!({"line": "report", "cycle": 1, "state": "conf", "module": "file", "outcome": outcome})
    }

    fn applied(changed: u32, failed: u32, drift: Option<&str>) -> Value {
        json!({"line": "applied", "cycle": 1, "drift": drift,
            "counts": {"changed": changed, "unchanged": 1, "skipped": 0, "failed": failed, "blocked": 0}})
    }

    fn result(node: &str, more: Value, lines: &[Value]) -> ResultView {
        let stdout: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let mut all = json!({"run": RUN, "node": node, "outcome": "finished", "exit_code": 0, "stdout": stdout,
            "started_at": 1, "duration_ms": 2});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    fn told(method: &str, results: &[ResultView]) -> String {
        let mut run = StateRun::new(RUN.parse().unwrap(), method).unwrap();
        results.iter().for_each(|result| run.add(result));
        let (mut screen, buffer) = captured::screen(true);
        run.tell(Detail::default(), &mut screen).unwrap();
        buffer.text()
    }

    #[test]
    fn plans_are_told_as_plan_shows_them_and_what_was_cut_off_is_said() {
        let whole = [planned(1, 1), step(1, "change")];
        let error = [planned(1, 1), step(1, "error")];
        let cut = [planned(1, 700), step(1, "change")];
        let results = [
            result("web2", json!({}), &whole),
            result("web1", json!({}), &whole),
            result("done", json!({}), &[planned(1, 0)]),
            result("blind", json!({"exit_code": 1}), &error),
            result("large", json!({"truncated": true, "stdout_bytes": 9_000_000}), &cut),
            result("gone", json!({"outcome": "expired", "stdout": "", "exit_code": null}), &[]),
        ];
        insta::assert_snapshot!(told(PLAN, &results), @r#"
        large: only 287 of the 9000000 bytes that it wrote are shown
        large: its plan is not whole, and cannot be approved
        ── done · 1 unchanged
        ── large · 1 to change, 1 unchanged, 699 more steps were cut off
          ~ conf (file) change
              mode: 0644 → 0640^[[2J
        ── web[1-2] (2) · 1 to change, 1 unchanged
          ~ conf (file) change
              mode: 0644 → 0640^[[2J
        ── blind · 1 in error, 1 unchanged
          ✗ conf (file) error: read /etc/app: Permission denied
              mode: 0644 → 0640^[[2J
        MACHINE  RESULT        TO CHANGE  UNCHANGED  SKIPPED  FAILED  BLOCKED  CYCLES
        blind    failed        0          1          0        1       0        0
        done     stable        0          1          0        0       0        0
        gone     failed        0          0          0        0       0        0
        large    failed        1          1          0        0       0        0
        web1     would change  1          1          0        0       0        0
        web2     would change  1          1          0        0       0        0
        Set aside: blind: 1 of its states could not be analysed
        Set aside: gone: expired
        Set aside: large: it said more than is kept; look at it by --ssh
        "#);
    }

    #[test]
    fn an_apply_that_was_killed_in_the_middle_has_changed_what_it_says() {
        let more = json!({"outcome": "interrupted", "exit_code": null, "truncated": true});
        let turn = |state: &str| json!({"line": "turn", "cycle": 1, "state": state});
        let lines = [turn("conf"), report("changed"), turn("load")];
        insta::assert_snapshot!(told(APPLY, &[result("web", more, &lines)]), @"
        web: 161 bytes of what it wrote are shown; there may be more
        ── web · done
          ✓ conf (file) changed
        MACHINE  RESULT  CHANGED  UNCHANGED  SKIPPED  FAILED  BLOCKED  CYCLES
        web      failed  1        0          0        0       0        1
        Set aside: web: interrupted; at its turn: load
        ");
    }

    #[test]
    fn applies_are_told_with_what_is_left_to_be_approved() {
        let results = [
            result("a", json!({}), &[report("changed"), applied(1, 0, None), planned(2, 0)]),
            result(
                "b",
                json!({}),
                &[report("changed"), applied(1, 0, None), planned(2, 1), step(2, "change")],
            ),
            result("c", json!({"exit_code": 1}), &[report("failed"), applied(0, 1, None)]),
            result("d", json!({"exit_code": 1}), &[applied(0, 0, Some("conf: mode is 0600"))]),
            result("e", json!({"exit_code": 1}), &[json!({"line": "problem", "message": "plan again\u{7}"})]),
        ];
        insta::assert_snapshot!(told(APPLY, &results), @r#"
        ── a,b (2) · done
          ✓ conf (file) changed
        ── c · done
          ✗ conf (file) failed
        ── b · beyond what was approved: 1 to change, 1 unchanged
          ~ conf (file) change
              mode: 0644 → 0640^[[2J
        MACHINE  RESULT        CHANGED  UNCHANGED  SKIPPED  FAILED  BLOCKED  CYCLES
        a        stable        1        0          0        0       0        1
        b        would change  1        0          0        0       0        1
        c        failed        0        0          0        1       0        1
        d        drifted       0        0          0        0       0        1
        e        failed        0        0          0        0       0        0
        Set aside: c: 1 failed, 0 blocked
        Set aside: d: it is not as it was when the plan was made: conf: mode is 0600
        Set aside: e: plan again^G
        "#);
    }

    #[test]
    fn what_comes_next_is_said_as_far_as_it_was_not_done() {
        let run: RunId = RUN.parse().unwrap();
        let later = |id: &str, nodes: u64, applies: Option<&str>| -> RunView {
            serde_json::from_value(json!({"run": id, "operator": "a", "created_at": 0, "expires_at": 1,
                "method": APPLY, "args": [], "targets": [], "nodes": nodes, "ok": 0, "failed": 0, "pending": 0,
                "cancelled": false, "stopped": false, "applies": applies}))
            .unwrap()
        };
        let other =
            later("0190a8a0-0000-7000-8000-000000000001", 3, Some("0190a8a0-0000-7000-8000-000000000009"));
        let some = later("0190a8a0-0000-7000-8000-000000000002", 2, Some(RUN));
        assert_eq!(
            next(run, 3, &[other, some.clone()]),
            [
                "Approved for 2 nodes: see `mainstay runs show 00000002`.",
                "Awaits approval: `mainstay runs approve 5d0c81f2` shows it, asks, and applies it."
            ]
        );
        assert_eq!(next(run, 2, &[some]).len(), 1);
    }
}

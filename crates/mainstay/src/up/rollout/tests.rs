//! Whole rollouts over machines that are played by scripts.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use mainstay_core::state::catalog::{CatalogDigest, OrderMode};
use mainstay_core::state::plan::{Change, Datum, PlanHead, PlanStep, StateCounts, StateReport};
use mainstay_core::state::session::{Approval, Ask, Tell};
use mainstay_core::state::{StateOutcome, StepWord};
use tokio::time::timeout;

use super::*;
use crate::up::machine::Machine;
use crate::up::outcome::Verdict;

/// What a played machine does.
#[derive(Clone, Default)]
struct Script {
    unreachable: bool,
    /// The steps of each analysis, the last one for all after it.
    plans: Vec<Vec<(&'static str, StepWord, &'static str)>>,
    fails: bool,
    drifts: bool,
    dies: bool,
    /// It does not end before it is cancelled.
    hangs: bool,
    /// This state's turn does not end, whatever it is asked.
    stuck: Option<&'static str>,
    goes_on_alone: bool,
    orphans: Vec<String>,
    costly: bool,
}

struct PlayedWay {
    name: String,
    script: Script,
    log: Log,
    labels: BTreeMap<String, String>,
    vars: Values,
}

#[derive(Clone, Default)]
struct Log {
    asks: std::sync::Arc<Mutex<Vec<String>>>,
    at_work: std::sync::Arc<AtomicUsize>,
    most_at_work: std::sync::Arc<AtomicUsize>,
    open: std::sync::Arc<AtomicUsize>,
    most_open: std::sync::Arc<AtomicUsize>,
}

struct Played {
    name: String,
    script: Script,
    log: Log,
    analyses: usize,
    plan: Option<Plan>,
    given: Vec<PlanStep>,
    tells: VecDeque<Tell>,
    working: bool,
    dropped: bool,
}

#[async_trait]
impl Way for PlayedWay {
    fn name(&self) -> &str {
        &self.name
    }

    fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    fn vars(&self) -> &Values {
        &self.vars
    }

    async fn connect(&self) -> Result<Box<dyn Machine>, Aside> {
        if self.script.unreachable {
            return Err(Aside::Unreachable { message: "no route to host".into(), hints: vec![] });
        }
        let now = self.log.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.log.most_open.fetch_max(now, Ordering::SeqCst);
        let hello = Tell::Hello {
            version: "1".into(),
            machine: self.name.clone(),
            facts: Values::new(),
            landlock: None,
            notes: vec![],
        };
        Ok(Box::new(Played {
            name: self.name.clone(),
            script: self.script.clone(),
            log: self.log.clone(),
            analyses: 0,
            plan: None,
            given: Vec::new(),
            tells: VecDeque::from([hello]),
            working: false,
            dropped: false,
        }))
    }

    fn is_costly(&self) -> bool {
        self.script.costly
    }

    fn goes_on_alone(&self) -> bool {
        self.script.goes_on_alone
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        self.log.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Played {
    fn step(state: &str, step: StepWord, what: &str) -> PlanStep {
        let changes = match step {
            StepWord::Change => vec![Change::new("content", Datum::Absent, Datum::known(what))],
            _ => vec![],
        };
        PlanStep { state: state.into(), module: "file".into(), step, reason: None, changes, refresh: None }
    }

    fn work_ends(&mut self) {
        if std::mem::take(&mut self.working) {
            self.log.at_work.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

#[async_trait]
impl Machine for Played {
    async fn send(&mut self, ask: Ask) -> Result<(), Aside> {
        let said = match &ask {
            Ask::Catalog(catalog) => format!("catalog {}", catalog.name),
            Ask::Steps(_) => "steps".into(),
            Ask::Plan(_) => "plan".into(),
            Ask::DropOrphans => "drop orphans".into(),
            Ask::Analyze { cycle, .. } => format!("analyze {cycle}"),
            Ask::Apply { cycle, approval: Approval::All } => format!("apply {cycle} all"),
            Ask::Apply { cycle, approval: Approval::Plan { digest } } => {
                let fits = self.plan.as_ref().is_some_and(|plan| plan.digest() == *digest);
                format!("apply {cycle} {}", if fits { "approved" } else { "WRONG DIGEST" })
            }
            Ask::Cancel => "cancel".into(),
        };
        self.log.asks.lock().unwrap().push(format!("{}: {said}", self.name));
        match ask {
            Ask::Catalog(_) => {}
            Ask::Steps(steps) => self.given = steps,
            Ask::Plan(head) => {
                self.analyses = 1;
                self.plan = Some(Plan { head, steps: std::mem::take(&mut self.given) });
            }
            Ask::DropOrphans => self.dropped = true,
            Ask::Analyze { cycle, .. } => {
                let at = self.analyses.min(self.script.plans.len() - 1);
                self.analyses += 1;
                let steps: Vec<PlanStep> = self.script.plans[at]
                    .iter()
                    .map(|(id, word, what)| Self::step(id, *word, what))
                    .collect();
                let head = PlanHead {
                    orphans: if self.dropped { vec![] } else { self.script.orphans.clone() },
                    stable: !steps.iter().any(|step| step.step.is_pending()),
                    ..PlanHead::new(CatalogDigest("c".into()), self.name.clone(), cycle)
                };
                self.plan = Some(Plan { head: head.clone(), steps: steps.clone() });
                self.tells.extend(steps.chunks(1).map(|steps| Tell::Steps(steps.to_vec())));
                self.tells.push_back(Tell::Planned(head));
            }
            Ask::Apply { .. } => {
                self.working = true;
                let now = self.log.at_work.fetch_add(1, Ordering::SeqCst) + 1;
                self.log.most_at_work.fetch_max(now, Ordering::SeqCst);
                let mut counts = StateCounts::default();
                for step in &self.plan.as_ref().unwrap().steps {
                    self.tells.push_back(Tell::Turn { state: step.state.clone() });
                    if self.script.stuck == Some(step.state.as_str()) {
                        return Ok(());
                    }
                    let outcome = match step.step {
                        StepWord::Unchanged => StateOutcome::Unchanged,
                        _ if self.script.fails => StateOutcome::Failed,
                        _ => StateOutcome::Changed,
                    };
                    counts.add(outcome);
                    self.tells.push_back(Tell::Report(StateReport {
                        state: step.state.clone(),
                        module: step.module.clone(),
                        outcome,
                        reason: None,
                        changes: vec![],
                        refreshed: false,
                        outputs: Values::new(),
                        duration_ms: 1,
                    }));
                }
                if !self.script.hangs {
                    let drift = self.script.drifts.then(|| "a: content".to_owned());
                    self.tells.push_back(Tell::Applied { counts, drift });
                }
            }
            Ask::Cancel if self.script.stuck.is_some() => {}
            Ask::Cancel => {
                self.tells.push_back(Tell::Applied { counts: StateCounts::default(), drift: None })
            }
        }
        Ok(())
    }

    async fn receive(&mut self) -> Result<Tell, Aside> {
        // Others get their turn, so that what may run at once does.
        tokio::task::yield_now().await;
        if self.script.dies && self.working {
            return Err(Aside::Lost("broken pipe".into()));
        }
        match self.tells.pop_front() {
            Some(tell) => {
                if matches!(tell, Tell::Applied { .. }) {
                    self.work_ends();
                }
                Ok(tell)
            }
            None => std::future::pending().await,
        }
    }

    async fn close(mut self: Box<Self>) {
        self.work_ends();
        self.log.asks.lock().unwrap().push(format!("{}: bye", self.name));
    }
}

struct Empty;

impl Source for Empty {
    fn catalogs(&self, machines: &[Known<'_>]) -> Result<Vec<Catalog>, Problem> {
        let catalog = |known: &Known<'_>| Catalog {
            name: format!("for {}", known.name),
            order: OrderMode::Ansible,
            failhard: false,
            files: vec![],
            scopes: vec![],
            secrets: Values::new(),
            states: vec![],
            left_out: BTreeMap::new(),
            blobs: BTreeMap::new(),
            extensions: BTreeMap::new(),
        };
        Ok(machines.iter().map(catalog).collect())
    }
}

#[derive(Default)]
struct Watcher {
    said: Vec<String>,
    answers: VecDeque<Answer>,
    interrupt: Interrupt,
    cancel_on_modify: bool,
    /// Twice asked to end, once this state has its turn.
    kill_at: Option<&'static str>,
}

#[async_trait(?Send)]
impl Front for Watcher {
    fn event(&mut self, event: &Event<'_>) -> io::Result<()> {
        match event {
            Event::Modify { .. } if self.cancel_on_modify => self.interrupt.cancel.cancel(),
            Event::Turn { state, .. } if self.kill_at == Some(state.as_str()) => {
                self.interrupt.cancel.cancel();
                self.interrupt.kill.cancel();
            }
            Event::Report { machine, report, .. } => {
                if let Some(reason) = &report.reason {
                    self.said.push(format!("{machine}: {} {}: {reason}", report.state, report.outcome));
                }
            }
            Event::Over { machine, aside } => {
                self.said
                    .push(format!("{machine} over{}", aside.map(|a| format!(": {a}")).unwrap_or_default()));
            }
            Event::Ended(_) => self.said.push("ended".into()),
            _ => {}
        }
        Ok(())
    }

    fn plans(&mut self, plans: &[Proposal<'_>]) -> io::Result<()> {
        let names: Vec<String> =
            plans.iter().map(|p| format!("{}{}", p.machine, if p.again { " again" } else { "" })).collect();
        self.said.push(format!("plans {}", names.join(",")));
        Ok(())
    }

    async fn ask(&mut self, plans: &[Proposal<'_>]) -> io::Result<Answer> {
        self.said.push(format!("ask {}", plans.len()));
        Ok(self.answers.pop_front().expect("nobody was to be asked"))
    }
}

struct Outcome {
    ends: Vec<MachineEnd>,
    said: Vec<String>,
    asks: Vec<String>,
    most_at_work: usize,
    most_open: usize,
}

impl Outcome {
    fn verdicts(&self) -> Vec<String> {
        self.ends
            .iter()
            .map(|end| match &end.verdict {
                Verdict::Stable => format!("{}: stable", end.name),
                Verdict::Planned => format!("{}: planned", end.name),
                Verdict::Aside(aside) => format!("{}: {aside}", end.name),
            })
            .collect()
    }
}

async fn play(scripts: &[(&str, Script)], options: Options, mut watcher: Watcher) -> Outcome {
    let log = Log::default();
    let ways = scripts
        .iter()
        .map(|(name, script)| {
            Box::new(PlayedWay {
                name: (*name).to_owned(),
                script: script.clone(),
                log: log.clone(),
                labels: BTreeMap::new(),
                vars: Values::new(),
            }) as Box<dyn Way>
        })
        .collect();
    let rollout = Rollout { ways, source: &Empty, options, interrupt: watcher.interrupt.clone() };
    let ends = timeout(Duration::from_secs(30), rollout.run(&mut watcher)).await.expect("it ends").unwrap();
    let asks = log.asks.lock().unwrap().clone();
    Outcome {
        ends,
        said: watcher.said,
        asks,
        most_at_work: log.most_at_work.load(Ordering::SeqCst),
        most_open: log.most_open.load(Ordering::SeqCst),
    }
}

fn answers(answers: &[Answer]) -> Watcher {
    Watcher { answers: answers.iter().copied().collect(), ..Watcher::default() }
}

const UP: Options = Options {
    goal: Goal::Up { yes: false },
    forks: FORKS,
    cycles: CYCLES,
    explain: false,
    drop_orphans: false,
    batch: None,
    max_failures: None,
};

const YES: Options = Options { goal: Goal::Up { yes: true }, ..UP };

fn one_change() -> Script {
    let (change, done) = (vec![("a", StepWord::Change, "x")], vec![("a", StepWord::Unchanged, "")]);
    Script { plans: vec![change, done], ..Script::default() }
}

#[tokio::test]
async fn what_would_change_is_shown_asked_for_done_and_looked_at_again() {
    let outcome = play(&[("m", one_change())], UP, answers(&[Answer::Yes])).await;
    assert_eq!(outcome.verdicts(), ["m: stable"]);
    assert_eq!(
        outcome.asks,
        ["m: catalog for m", "m: analyze 1", "m: apply 1 approved", "m: analyze 2", "m: bye"]
    );
    assert_eq!(outcome.said, ["plans m", "ask 1", "m over", "ended"]);
    assert_eq!((outcome.ends[0].counts.changed, outcome.ends[0].cycles), (1, 1));
}

#[tokio::test]
async fn no_more_sessions_are_open_than_may_be_at_work() {
    let costly = || Script { costly: true, ..one_change() };
    let scripts = [("a", costly()), ("b", costly()), ("c", costly()), ("d", one_change())];
    let outcome = play(&scripts, Options { forks: 2, ..UP }, answers(&[Answer::Yes])).await;
    assert_eq!(outcome.verdicts(), ["a: stable", "b: stable", "c: stable", "d: stable"]);
    // The cheap one stays open beside them.
    assert_eq!((outcome.most_at_work, outcome.most_open), (2, 3));
    let asks: Vec<&str> = outcome.asks.iter().filter_map(|ask| ask.strip_prefix("a: ")).collect();
    assert_eq!(
        asks,
        ["bye", "catalog for a", "analyze 1", "bye"]
            .into_iter()
            .chain(["catalog for a", "steps", "plan", "apply 1 approved", "analyze 2", "bye"])
            .collect::<Vec<_>>()
    );
    // As many as may be at work: each is asked in one session.
    let outcome = play(&scripts[..2], Options { forks: 2, ..UP }, answers(&[Answer::Yes])).await;
    assert_eq!(outcome.asks.iter().filter(|ask| ask.ends_with("bye")).count(), 2);
}

#[tokio::test]
async fn a_no_and_a_plan_touch_nothing() {
    let outcome = play(&[("m", one_change())], UP, answers(&[Answer::No])).await;
    assert_eq!(outcome.verdicts(), ["m: its plan was not approved"]);
    assert!(outcome.ends[0].verdict.is_pending());
    assert!(!outcome.asks.iter().any(|ask| ask.contains("apply")));
    let outcome = play(&[("m", one_change())], Options::new(Goal::Plan), answers(&[])).await;
    assert_eq!(outcome.verdicts(), ["m: planned"]);
    assert_eq!(outcome.asks, ["m: catalog for m", "m: analyze 1", "m: bye"]);
}

#[tokio::test]
async fn nobody_is_asked_where_nothing_would_change() {
    let script = Script { plans: vec![vec![("a", StepWord::Unchanged, "")]], ..Script::default() };
    let outcome = play(&[("m", script)], UP, answers(&[])).await;
    assert_eq!(outcome.verdicts(), ["m: stable"]);
    assert_eq!((outcome.ends[0].counts.unchanged, outcome.ends[0].cycles), (1, 0));
}

#[tokio::test]
async fn machines_that_go_wrong_are_set_aside_and_the_others_go_on() {
    let broken = Script { plans: vec![vec![("a", StepWord::Error, "")]], ..Script::default() };
    let scripts = [
        ("gone", Script { unreachable: true, ..Script::default() }),
        ("good", one_change()),
        ("bad", Script { fails: true, ..one_change() }),
        ("drift", Script { drifts: true, ..one_change() }),
        ("dead", Script { dies: true, ..one_change() }),
        ("blind", broken),
    ];
    let outcome = play(&scripts, YES, answers(&[])).await;
    assert_eq!(
        outcome.verdicts(),
        [
            "gone: no route to host",
            "good: stable",
            "bad: 1 failed, 0 blocked",
            "drift: it is not as it was when the plan was made: a: content",
            "dead: the connection was lost: broken pipe",
            "blind: 1 of its states could not be analysed",
        ]
    );
    assert!(!outcome.asks.iter().any(|ask| ask.starts_with("blind: apply")));
}

#[tokio::test]
async fn a_later_cycle_asks_only_for_what_was_not_covered() {
    use StepWord::{Change, Conditional, Unchanged};
    // What was conditional may become anything; the same change again is covered too.
    let covered = Script {
        plans: vec![
            vec![("a", Change, "x"), ("b", Conditional, "")],
            vec![("a", Change, "x"), ("b", Change, "y")],
            vec![("a", Unchanged, ""), ("b", Unchanged, "")],
        ],
        ..Script::default()
    };
    let outcome = play(&[("m", covered)], UP, answers(&[Answer::Yes])).await;
    assert_eq!(outcome.verdicts(), ["m: stable"]);
    assert_eq!(outcome.ends[0].cycles, 2);
    let beyond = Script {
        plans: vec![
            vec![("a", Change, "x"), ("b", Unchanged, "")],
            vec![("a", Unchanged, ""), ("b", Change, "y")],
            vec![("a", Unchanged, ""), ("b", Unchanged, "")],
        ],
        ..Script::default()
    };
    let two = [("m", beyond.clone()), ("n", beyond.clone())];
    let outcome = play(&two, UP, answers(&[Answer::Yes, Answer::Yes])).await;
    assert_eq!(outcome.verdicts(), ["m: stable", "n: stable"]);
    assert_eq!(outcome.said[..4], ["plans m,n", "ask 2", "plans m again,n again", "ask 2"]);
    let outcome = play(&two, UP, answers(&[Answer::Yes, Answer::No])).await;
    assert_eq!(outcome.verdicts(), ["m: its plan was not approved", "n: its plan was not approved"]);
    let outcome = play(&[("m", beyond)], YES, answers(&[])).await;
    assert_eq!(outcome.verdicts(), ["m: stable"]);
    assert!(outcome.asks.contains(&"m: apply 2 all".to_owned()));
}

#[tokio::test]
async fn what_never_becomes_stable_is_a_failure() {
    let restless = Script { plans: vec![vec![("a", StepWord::Change, "x")]], ..Script::default() };
    let outcome = play(&[("m", restless)], Options { cycles: 2, ..YES }, answers(&[])).await;
    assert_eq!(outcome.verdicts(), ["m: not stable after 2 cycles: a would change again"]);
    assert!(outcome.ends[0].verdict.is_failure());
}

#[tokio::test]
async fn a_batch_is_a_window_and_too_many_failures_stop_it() {
    let names = ["a", "b", "c", "d", "e"];
    let all: Vec<(&str, Script)> = names.iter().map(|name| (*name, one_change())).collect();
    let batch = Some("2".parse().unwrap());
    let outcome = play(&all, Options { batch, ..YES }, answers(&[])).await;
    assert!(outcome.ends.iter().all(|end| end.verdict == Verdict::Stable));
    assert_eq!(outcome.most_at_work, 2);
    let failing: Vec<(&str, Script)> =
        names.iter().map(|name| (*name, Script { fails: *name != "e", ..one_change() })).collect();
    let options =
        Options { batch: Some("1".parse().unwrap()), max_failures: Some("1".parse().unwrap()), ..YES };
    let outcome = play(&failing, options, answers(&[])).await;
    assert_eq!(
        outcome.verdicts(),
        [
            "a: 1 failed, 0 blocked",
            "b: 1 failed, 0 blocked",
            "c: not started: too many others failed",
            "d: not started: too many others failed",
            "e: not started: too many others failed",
        ]
    );
}

#[tokio::test]
async fn forks_bound_what_is_modified_at_once() {
    let all: Vec<(String, Script)> = (0..9).map(|n| (format!("m{n}"), one_change())).collect();
    let all: Vec<(&str, Script)> = all.iter().map(|(name, script)| (name.as_str(), script.clone())).collect();
    let outcome = play(&all, Options { forks: 3, ..YES }, answers(&[])).await;
    assert_eq!(outcome.most_at_work, 3);
}

#[tokio::test]
async fn a_cancel_lets_what_runs_end_and_starts_nothing_more() {
    let scripts = [("a", Script { hangs: true, ..one_change() }), ("b", one_change())];
    let watcher = Watcher { cancel_on_modify: true, ..answers(&[]) };
    let outcome = play(&scripts, Options { forks: 1, ..YES }, watcher).await;
    assert_eq!(outcome.verdicts(), ["a: cancelled", "b: cancelled"]);
    assert!(outcome.asks.contains(&"a: cancel".to_owned()));
    assert!(!outcome.asks.iter().any(|ask| ask.starts_with("b: apply")));
}

#[tokio::test]
async fn what_a_second_cancel_ends_and_what_was_not_reached_is_told() {
    let steps = ["a", "b", "c"].map(|state| (state, StepWord::Change, "x")).to_vec();
    let script = Script { plans: vec![steps], stuck: Some("b"), ..Script::default() };
    let alone = Script { goes_on_alone: true, ..script.clone() };
    let watcher = || Watcher { kill_at: Some("b"), ..answers(&[]) };
    let outcome =
        play(&[("m", script), ("later", one_change())], Options { forks: 1, ..YES }, watcher()).await;
    assert_eq!(
        outcome.verdicts(),
        ["m: interrupted: b ended in the middle, 1 not reached", "later: cancelled"]
    );
    let told = ["m: b failed: it was ended in the middle", "m: c blocked: it was not reached"];
    assert!(told.iter().all(|told| outcome.said.iter().any(|said| said == told)), "{:?}", outcome.said);
    let counts = outcome.ends[0].counts;
    assert_eq!((counts.changed, counts.failed, counts.blocked), (1, 1, 1));
    assert_eq!((outcome.ends[0].cycles, outcome.ends[1].cycles), (1, 0));
    // Of what does not end with us, nothing of the kind is known.
    let outcome = play(&[("m", alone)], YES, watcher()).await;
    assert_eq!(outcome.verdicts(), ["m: cancelled"]);
    assert_eq!(outcome.ends[0].counts.failed, 0);
}

#[tokio::test]
async fn debts_of_states_that_are_gone_are_given_up_only_when_told() {
    let stable = vec![("a", StepWord::Unchanged, "")];
    let script = Script { plans: vec![stable], orphans: vec!["refresh of b".into()], ..Script::default() };
    let outcome = play(&[("m", script.clone())], YES, answers(&[])).await;
    assert!(!outcome.asks.contains(&"m: drop orphans".to_owned()));
    let outcome = play(&[("m", script)], Options { drop_orphans: true, ..UP }, answers(&[Answer::Yes])).await;
    assert_eq!(outcome.verdicts(), ["m: stable"]);
    assert_eq!(
        outcome.asks,
        ["m: catalog for m", "m: analyze 1", "m: drop orphans", "m: analyze 1", "m: bye"]
    );
}

//! Approving plans that nodes made: a run of `state.plan` is followed by one of `state.apply`.
//!
//! The hub carries plans and never reads a catalog: that is sealed to the nodes and goes from the one run to the other as it
//! is. An approval names plans by their content; each node applies only a plan that it made itself, keeps, and finds
//! among those that are named.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use mainstay_core::batch::{BatchSize, FailureLimit};
use mainstay_core::id::{KeyId, NodeName, RunId};
use mainstay_core::state::session::StateLine;
use mainstay_core::target::Target;

use super::Hub;
use super::runs::{invalid, may_call, no_random, parse_target};
use crate::run_reader::RunReader;
use crate::run_record::RunRecord;
use crate::shelf::ShelfError;
use crate::view::{Approve, Operator, Problem, ProblemKind, ResultView, RunEvent, RunView};

/// Analyses the catalog in its standard input; changes nothing.
pub const PLAN: &str = "state.plan";
/// Applies what was approved of a plan that the node made, and analyses again.
pub const APPLY: &str = "state.apply";
/// Analyses and applies until stable, without anybody there.
pub const UP: &str = "state.up";

/// Whether nodes write lines about declared state ([`StateLine`]) as the output of this method.
pub fn is_state(method: &str) -> bool {
    [PLAN, APPLY, UP].contains(&method)
}

/// Whether plans that nodes make for this method can be approved.
pub fn makes_plans(method: &str) -> bool {
    method == PLAN || method == APPLY
}

/// Runs whose plans were counted and are remembered: some bytes each, and many more than are listed.
const MAX_COUNTED: usize = 10_000;

/// Most plans named by one approval: 64 bytes each, and many nodes share one.
const MAX_PLANS: usize = 4096;

impl Hub {
    /// A new run that applies the named plans on those nodes of `run` that made them last.
    pub async fn approve_run(&self, by: &Operator, run: RunId, approve: Approve) -> Result<RunView, Problem> {
        let inner = &self.inner;
        let record = inner.record_for(by, run).await?;
        if !makes_plans(&record.method) {
            let what = format!("run {run} made no plan: its method is {}", record.method);
            return Err(invalid(what));
        }
        may_call(by, APPLY)?;
        if approve.plans.is_empty() || approve.plans.len() > MAX_PLANS {
            return Err(invalid(format!("plans: 1 to {MAX_PLANS} of them can be approved at once")));
        }
        if let Some(text) = &approve.batch {
            text.parse::<BatchSize>().map_err(|e| invalid(e.to_string()))?;
        }
        if let Some(text) = &approve.max_failures {
            text.parse::<FailureLimit>().map_err(|e| invalid(e.to_string()))?;
        }
        let approved: BTreeSet<&str> = approve.plans.iter().map(String::as_str).collect();
        let mut reader = RunReader::new(inner.shelf.clone(), Arc::new(record.clone()));
        let made = plans_of(&mut reader).await?;
        let within = parse_target(&by.targets)?;
        let reachable: std::collections::HashSet<KeyId> =
            inner.registry.select(&[Target::all()], &within).into_iter().map(|(key, _)| key).collect();
        let meant = |name: &NodeName| {
            let plan = made.get(name).and_then(Option::as_deref);
            let is_named = approve.nodes.is_empty() || approve.nodes.contains(name);
            is_named && plan.is_some_and(|plan| approved.contains(plan))
        };
        let mut nodes: Vec<_> = reader
            .run()
            .targets()
            .iter()
            .filter(|(key, name)| meant(name) && reachable.contains(key))
            .cloned()
            .collect();
        let under_way = self.applies_under_way(run);
        let is_free = |(key, _): &(KeyId, NodeName)| !under_way.contains_key(key);
        if let Some((key, name)) = nodes.first().filter(|_| !nodes.iter().any(is_free)) {
            let apply = under_way[key];
            let message = format!("these plans were approved already: run {apply} has not ended on {name}");
            return Err(Problem::new(ProblemKind::Conflict, message)
                .hint(format!("see `mainstay runs show {apply}`; a plan is applied once")));
        }
        nodes.retain(is_free);
        if nodes.is_empty() {
            return Err(Problem::new(
                ProblemKind::NoTargets,
                "no node of this run has made one of these plans",
            )
            .hint("a newer plan takes the place of an older one: look again before approving"));
        }
        let created = inner.now();
        let mut random = [0; 10];
        getrandom::fill(&mut random).map_err(no_random)?;
        let apply = RunRecord {
            run: RunId::new(created, random),
            operator: by.name.clone(),
            created,
            expires: created + record.expires.since(record.created),
            targets: nodes.iter().map(|(_, name)| name.to_string()).take(MAX_NAMED).collect(),
            nodes: nodes.len() as u64,
            method: APPLY.to_owned(),
            data: Bytes::from(serde_json::to_vec(&approve.plans).expect("a list of texts")),
            batch: approve.batch,
            max_failures: approve.max_failures,
            idempotent: false,
            applies: Some(run),
            ..record
        };
        let hub = self.clone();
        self.whole(async move { hub.accept_run(apply, nodes, "run.approve").await }).await
    }

    /// The nodes that have not ended an apply of plans of this run, with that apply. One that was cancelled is called off there
    /// before anything new is begun.
    fn applies_under_way(&self, run: RunId) -> HashMap<KeyId, RunId> {
        let dispatch = self.inner.dispatch();
        let applies = dispatch.runs().filter(|apply| apply.record.applies == Some(run) && !apply.cancelled());
        let waiting = applies.flat_map(|apply| {
            let open = apply.nodes().filter(|node| !apply.slot(*node).has_end());
            open.map(|node| (apply.key(node), apply.record.run))
        });
        waiting.collect()
    }

    /// How many nodes of this run made a plan that can be approved. The log is read again only when more have ended.
    pub(super) async fn plans_made(&self, view: &RunView) -> Result<u64, Problem> {
        let inner = &self.inner;
        let ended = view.nodes - view.pending;
        let counted = || inner.counted.lock().expect("no holder panics");
        if let Some((_, plans)) = counted().get(&view.run).filter(|(then, _)| *then == ended) {
            return Ok(*plans);
        }
        let record = match inner.record_of(view.run).await {
            // Pruned meanwhile.
            Err(problem) if problem.kind == ProblemKind::NotFound => return Ok(0),
            record => record?,
        };
        let made = plans_of(&mut RunReader::new(inner.shelf.clone(), Arc::new(record))).await?;
        let plans = made.values().flatten().count() as u64;
        let mut counted = counted();
        if counted.len() >= MAX_COUNTED {
            counted.clear();
        }
        counted.insert(view.run, (ended, plans));
        Ok(plans)
    }
}

/// What each node of a run planned last.
async fn plans_of(reader: &mut RunReader) -> Result<HashMap<NodeName, Option<String>>, ShelfError> {
    let mut made = HashMap::new();
    while let Some((_, event)) = reader.next().await? {
        if let RunEvent::Result(result) = event {
            made.insert(result.node.clone(), plan_of(&result));
        }
    }
    Ok(made)
}

/// Targets that the record names for people; the frozen list has all of them.
const MAX_NAMED: usize = 100;

/// What an approval has to name for this node: a plan that it made, that is still to be applied, and that reached
/// us whole.
fn plan_of(result: &ResultView) -> Option<String> {
    if result.truncated {
        return None;
    }
    let plan = StateLine::last_plan(result.stdout.as_deref()?)?;
    plan.pending.then_some(plan.plan)
}

//! What operators ask about runs: start, look, watch, take back, do again, forget.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64;
use mainstay_core::batch::{BatchSize, FailureLimit};
use mainstay_core::envelope::MAX_LIFETIME;
use mainstay_core::id::{KeyId, NodeName, RunId};
use mainstay_core::method::MethodName;
use mainstay_core::seal::{ContentKey, Private, Sealed};
use mainstay_core::target::{Target, glob_matches};
use mainstay_core::time::Timestamp;
use serde_json::json;
use tokio::sync::{oneshot, watch};

use super::{Hub, Inner, RunEvents, admin, approval, upkeep};
use crate::dispatch::pending_reason;
use crate::recorder::{Note, RunLog as _};
use crate::run::{Run, Stage};
use crate::run_reader::RunReader;
use crate::run_record::{Closing, MAX_RECORD, RunRecord, encode, target_entries};
use crate::shelf::{Expect, ShelfError};
use crate::view::*;

/// How long a node may take to start an order unless the operator says.
const DEFAULT_EXPIRES_MS: u64 = 24 * 3_600_000;

/// Output kept of each node unless the operator says.
const DEFAULT_OUTPUT: u64 = 1 << 20;

/// Most output that an operator may ask to keep of each node: it is put together in memory to be shown.
const MAX_OUTPUT: u64 = 64 << 20;

/// Most runs that may be open at once. Their indexes are in memory.
const MAX_OPEN_RUNS: usize = 10_000;

/// Most orders that may be queued over all nodes, about 100 bytes of memory each.
const MAX_QUEUED: usize = 2_000_000;

/// Output shown by one `show`, over all nodes. Beyond it, results say how much there is; watching the run gives it.
const SHOW_OUTPUT: usize = 32 << 20;

/// A link that was lost for less than this may just be on its way back, after a hub's restart for instance.
const RELINK: Duration = Duration::from_secs(1);

impl Hub {
    /// The nodes that these expressions mean now and that the operator may reach.
    pub async fn preview(&self, by: &Operator, targets: &[String]) -> Result<Vec<NodeView>, Problem> {
        let chosen = self.choose(by, targets)?;
        let registry = &self.inner.registry;
        Ok(chosen.iter().filter_map(|(key, _)| registry.view(key)).collect())
    }

    /// Accepts a run: when this returns, it is durable and its targets are frozen.
    pub async fn start_run(&self, by: &Operator, spec: RunSpec) -> Result<RunView, Problem> {
        let nodes = self.choose(by, &spec.targets)?;
        let sealed = self.seal(&spec)?;
        let (record, nodes) = self.record(by, spec, sealed, nodes)?;
        let hub = self.clone();
        self.whole(async move { hub.accept_run(record, nodes, "run.start").await }).await
    }

    fn choose(&self, by: &Operator, targets: &[String]) -> Result<Vec<(KeyId, NodeName)>, Problem> {
        if targets.is_empty() {
            return Err(Problem::new(ProblemKind::Invalid, "no target is given")
                .hint("name nodes, or give `*` for all of them"));
        }
        let parsed = targets.iter().map(|text| parse_target(text)).collect::<Result<Vec<_>, _>>()?;
        let within = parse_target(&by.targets)?;
        let registry = &self.inner.registry;
        for name in parsed.iter().flat_map(Target::plain_names) {
            let known = name.parse().is_ok_and(|name: NodeName| registry.key_of(&name).is_some());
            if !known {
                return Err(Problem::new(ProblemKind::NoTargets, format!("no node is named {name}"))
                    .hint("`mainstay nodes list` shows the names"));
            }
        }
        let chosen = registry.select(&parsed, &within);
        if chosen.is_empty() {
            let forbidden = !registry.select(&parsed, &Target::all()).is_empty();
            return Err(if forbidden {
                let what = format!("{} may not reach any of these nodes", by.name);
                Problem::new(ProblemKind::Forbidden, what)
            } else {
                let what = format!("no active node matches {}", targets.join(" or "));
                Problem::new(ProblemKind::NoTargets, what)
                    .hint("`mainstay nodes list` shows names, labels and states")
            });
        }
        Ok(chosen)
    }

    /// Environment, directory, user and stdin, readable by this hub alone.
    fn seal(&self, spec: &RunSpec) -> Result<Option<Sealed>, Problem> {
        let stdin = match &spec.stdin_base64 {
            Some(text) => Some(Bytes::from(
                BASE64.decode(text.as_bytes()).map_err(|_| invalid("stdin_base64 is not base64"))?,
            )),
            None => None,
        };
        if let Some(name) = spec.env.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return Err(invalid(format!("{name:?} cannot be the name of an environment variable")));
        }
        let private = Private {
            env: spec.env.clone().into_iter().collect(),
            cwd: spec.cwd.clone(),
            user: spec.user.clone(),
            stdin,
        };
        if private.is_empty() {
            return Ok(None);
        }
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(no_random)?;
        let key = ContentKey::new(random);
        let content = key.encrypt(&private);
        let sealed = key.seal_for(self.inner.fleet.key(), content);
        sealed.map(Some).map_err(|e| Problem::new(ProblemKind::Internal, e.to_string()))
    }

    fn record(
        &self,
        by: &Operator,
        spec: RunSpec,
        sealed: Option<Sealed>,
        nodes: Vec<(KeyId, NodeName)>,
    ) -> Result<(RunRecord, Vec<(KeyId, NodeName)>), Problem> {
        // Under its own name, so that what an operator may call does not hang on which alias was typed.
        let method = MethodName::resolve(&spec.method).map_err(|e| invalid(format!("method: {e}")))?;
        let method = method.canonical().to_owned();
        may_call(by, &method)?;
        if let Some(text) = &spec.batch {
            text.parse::<BatchSize>().map_err(|e| invalid(e.to_string()))?;
        }
        if let Some(text) = &spec.max_failures {
            text.parse::<FailureLimit>().map_err(|e| invalid(e.to_string()))?;
        }
        if spec.timeout_ms == Some(0) {
            return Err(invalid("timeout_ms: a timeout of 0 leaves no time to run"));
        }
        if method == "cmd" && spec.args.is_empty() && spec.script.is_none() {
            return Err(invalid("args: no command is given"));
        }
        let lifetime = spec.expires_ms.unwrap_or(DEFAULT_EXPIRES_MS);
        if lifetime == 0 || u128::from(lifetime) > MAX_LIFETIME.as_millis() {
            return Err(invalid("expires_ms: it must be more than 0 and at most 30 days"));
        }
        let output_limit = spec.output_limit.unwrap_or(DEFAULT_OUTPUT);
        if output_limit > MAX_OUTPUT {
            return Err(invalid(format!("output_limit: at most {MAX_OUTPUT} bytes are kept of a node")));
        }
        let created = self.inner.now();
        let mut random = [0; 10];
        getrandom::fill(&mut random).map_err(no_random)?;
        let record = RunRecord {
            run: RunId::new(created, random),
            operator: by.name.clone(),
            created,
            expires: created + std::time::Duration::from_millis(lifetime),
            targets: spec.targets,
            nodes: nodes.len() as u64,
            method,
            args: spec.args,
            data: spec.script.map(Bytes::from).unwrap_or_default(),
            sealed,
            timeout_ms: spec.timeout_ms,
            idempotent: spec.idempotent,
            stream: spec.stream,
            output_limit,
            batch: spec.batch,
            max_failures: spec.max_failures,
            applies: None,
        };
        Ok((record, nodes))
    }

    pub(super) async fn accept_run(
        &self,
        record: RunRecord,
        nodes: Vec<(KeyId, NodeName)>,
        act: &str,
    ) -> Result<RunView, Problem> {
        let inner = &self.inner;
        let size = encode(&record).len();
        if size > MAX_RECORD {
            return Err(invalid(format!(
                "the order is {size} bytes with its arguments, script and stdin; at most {MAX_RECORD} can be kept"
            ))
            .hint("put what is large into a file on the nodes first"));
        }
        {
            let dispatch = inner.dispatch();
            if dispatch.run_count() >= MAX_OPEN_RUNS || dispatch.depth() + nodes.len() > MAX_QUEUED {
                return Err(Problem::new(ProblemKind::Full, "too many runs wait for their nodes already")
                    .hint("cancel some: `mainstay runs list` shows what is pending"));
            }
        }
        let run = record.run;
        let detail = json!({"run": run.to_string(), "method": record.method, "targets": record.targets, "nodes": record.nodes});
        let key = format!("run.{run}");
        // Together, so that they share a sync. The audit may tell of a run that was not accepted after all.
        let (noted, written) = tokio::join!(
            inner.audit.note(record.created, &record.operator, act, detail),
            inner.shelf.put(&key, &record, Expect::Absent)
        );
        noted?;
        written?;
        // Killed here: a record without all its targets, which is taken back at the next start.
        let entries = target_entries(&nodes);
        let sizes: Vec<usize> = entries.iter().map(Bytes::len).collect();
        let positions = match inner.shelf.append(&run.log(), entries).await {
            Ok(positions) => positions,
            Err(e) => {
                // Whatever came through of it is taken back: the caller is told that there is no such run.
                inner.shelf.delete(&key, Expect::Any).await.ok();
                inner.shelf.trim(&run.log(), None).await.ok();
                return Err(e.into());
            }
        };
        let mut open = Run::new(Arc::new(record));
        let mut nodes = nodes.as_slice();
        for (position, size) in positions.into_iter().zip(sizes) {
            let (now, later) = nodes.split_at(nodes.len().min(crate::run_record::TARGETS_PER_ENTRY));
            let entry = crate::run_record::Entry::Targets(now.to_vec());
            open.apply(position, size, &entry, &mut Vec::new());
            nodes = later;
        }
        let view = view_open(&open);
        let awake = inner.add_run(open, true);
        inner.metrics.run_accepted();
        inner.wake(awake);
        inner.upkeep.notify_one();
        Ok(view)
    }

    /// Newest first; only those that the operator may see.
    pub async fn runs(&self, by: &Operator, limit: usize) -> Result<Vec<RunView>, Problem> {
        let limit = limit.min(upkeep::MAX_LIST);
        let inner = &self.inner;
        let mut ids: Vec<RunId> = inner.dispatch().run_ids();
        ids.extend(inner.closed.lock().expect("no holder panics").keys());
        ids.sort_unstable();
        ids.dedup();
        let mut views = Vec::new();
        for id in ids.into_iter().rev().take(upkeep::MAX_LIST) {
            if views.len() >= limit {
                break;
            }
            match self.run_view(id).await {
                Ok(view) if may_see(by, &view.operator, &view.method) => views.push(view),
                Ok(_) => {}
                // Pruned meanwhile.
                Err(e) if e.kind == ProblemKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(views)
    }

    /// The same, each with how many of its nodes await an approval of their plans.
    pub async fn runs_with_plans(&self, by: &Operator, limit: usize) -> Result<Vec<RunView>, Problem> {
        let mut views = self.runs(by, limit).await?;
        // Whatever applies one of these runs is newer, and so among them.
        let applied = views.iter().filter_map(|view| Some((view.applies?, view.nodes)));
        let mut approved: HashMap<RunId, u64> = HashMap::new();
        for (run, nodes) in applied {
            *approved.entry(run).or_default() += nodes;
        }
        for view in &mut views {
            let approved = approved.get(&view.run).copied().unwrap_or_default();
            if approval::makes_plans(&view.method) && view.ok > approved {
                let waiting = self.plans_made(view).await?;
                view.awaits_approval = waiting.saturating_sub(approved);
            }
        }
        Ok(views)
    }

    async fn run_view(&self, run: RunId) -> Result<RunView, Problem> {
        if let Some(open) = self.inner.dispatch().run(&run) {
            return Ok(view_open(open));
        }
        let closing = self.inner.closing(&run).ok_or_else(|| unknown(run))?;
        let record = self.inner.record_of(run).await?;
        Ok(view_closed(&record, &closing))
    }

    /// The run and each of its nodes, with results for those that ended.
    pub async fn run(&self, by: &Operator, run: RunId) -> Result<(RunView, Vec<RunNodeView>), Problem> {
        let inner = &self.inner;
        let record = inner.record_for(by, run).await?;
        let view = self.run_view(run).await?;
        let mut reader = RunReader::new(inner.shelf.clone(), Arc::new(record));
        let mut results = std::collections::HashMap::new();
        let mut shown = 0;
        while let Some((_, event)) = reader.next().await? {
            if let RunEvent::Result(result) = event {
                let texts = [&result.stdout, &result.stdout_base64, &result.stderr, &result.stderr_base64];
                shown += texts.into_iter().flatten().map(String::len).sum::<usize>();
                reader.with_output = shown < SHOW_OUTPUT;
                results.insert(result.node.clone(), result);
            }
        }
        let now = inner.now();
        let dispatch = inner.dispatch();
        let live = dispatch.run(&run);
        let read = reader.run();
        let nodes = read.nodes().map(|place| {
            let (key, name) = &read.targets()[place as usize];
            let result = results.remove(name);
            let pending = match (&result, live) {
                (None, Some(open)) if open.slot(place).stage != Stage::Done => {
                    let away = dispatch
                        .away_for(key, now, inner.started)
                        .map(|_| since(inner.registry.last_seen(key)));
                    Some(pending_reason(open, place, away, dispatch.behind(key, &run)))
                }
                (None, _) => Some((WaitsFor::Hub, "its result is being written".to_owned())),
                (Some(_), _) => None,
            };
            let (waits_for, pending) = pending.unzip();
            RunNodeView { node: name.clone(), result, pending, waits_for }
        });
        let nodes = nodes.collect();
        Ok((view, nodes))
    }

    /// Events after a position (0 for all), those to come included. Ends after `summary`, which comes
    /// when no node is pending. The number with an event is the position to continue from.
    pub async fn watch_run(&self, by: &Operator, run: RunId, from: u64) -> Result<RunEvents, Problem> {
        let record = self.inner.record_for(by, run).await?;
        let grown = self.inner.watch(run);
        let watcher = Watcher {
            reader: RunReader::new(self.inner.shelf.clone(), Arc::new(record)),
            grown,
            from,
            done: false,
            inner: self.inner.clone(),
        };
        Ok(Box::pin(futures_util::stream::unfold(watcher, |mut watcher| async move {
            let item = watcher.next().await?;
            Some((item, watcher))
        })))
    }

    /// Takes back what is queued and kills what runs.
    pub async fn cancel_run(&self, by: &Operator, run: RunId) -> Result<RunView, Problem> {
        let inner = &self.inner;
        let record = inner.record_for(by, run).await?;
        may_call(by, &record.method)?;
        inner.audit.note(inner.now(), &by.name, "run.cancel", json!({"run": run.to_string()})).await?;
        if inner.dispatch().run(&run).is_some() {
            let (done, written) = oneshot::channel();
            let by = by.name.clone();
            inner.note(Note::Cancel { run, by, done });
            written.await.map_err(|_| stopping())??;
            // What was never sent is withdrawn right after; whoever asked shall see it.
            self.settle().await;
        }
        self.run_view(run).await
    }

    /// A new run of the same order on the nodes of `run` that failed (or on all of them).
    pub async fn retry_run(&self, by: &Operator, run: RunId, failed_only: bool) -> Result<RunView, Problem> {
        let inner = &self.inner;
        let record = inner.record_for(by, run).await?;
        may_call(by, &record.method)?;
        let mut reader = RunReader::new(inner.shelf.clone(), Arc::new(record.clone()));
        reader.with_output = false;
        let mut ends = std::collections::HashMap::new();
        while let Some((_, event)) = reader.next().await? {
            if let RunEvent::Result(result) = event {
                ends.insert(result.node.clone(), result.is_ok());
            }
        }
        let within = parse_target(&by.targets)?;
        let reachable: std::collections::HashSet<KeyId> =
            inner.registry.select(&[Target::all()], &within).into_iter().map(|(key, _)| key).collect();
        let wanted = |name: &NodeName| if failed_only { ends.get(name) == Some(&false) } else { true };
        let nodes: Vec<_> = reader
            .run()
            .targets()
            .iter()
            .filter(|(key, name)| wanted(name) && reachable.contains(key))
            .cloned()
            .collect();
        if nodes.is_empty() {
            let what = if failed_only {
                "no node of this run failed"
            } else {
                "none of its nodes can be reached any more"
            };
            return Err(Problem::new(ProblemKind::NoTargets, what));
        }
        let created = inner.now();
        let mut random = [0; 10];
        getrandom::fill(&mut random).map_err(no_random)?;
        let again = RunRecord {
            run: RunId::new(created, random),
            operator: by.name.clone(),
            created,
            expires: created + record.expires.since(record.created),
            nodes: nodes.len() as u64,
            ..record
        };
        let hub = self.clone();
        self.whole(async move { hub.accept_run(again, nodes, "run.retry").await }).await
    }

    /// Forgets ended runs that were created before this time. Returns how many.
    pub async fn prune_runs(&self, by: &Operator, before_ms: i64) -> Result<u64, Problem> {
        admin(by)?;
        let inner = &self.inner;
        inner.audit.note(inner.now(), &by.name, "runs.prune", json!({"before": before_ms})).await?;
        self.prune_to(Timestamp::from_millis(before_ms), u64::MAX).await
    }

    /// Forgets ended runs that were created before `before`, and then the oldest until at most `bytes` are kept. Done daily by
    /// itself, with the bounds of the configuration.
    pub async fn prune_to(&self, before: Timestamp, bytes: u64) -> Result<u64, Problem> {
        let inner = self.inner.clone();
        self.whole(async move { Ok(inner.prune(before, bytes).await?) }).await
    }
}

struct Watcher {
    reader: RunReader,
    grown: watch::Receiver<u64>,
    from: u64,
    done: bool,
    inner: Arc<Inner>,
}

impl Watcher {
    /// How many of the run's nodes that have not ended have been without a link for longer than it takes to make a new one.
    fn away(&self) -> u64 {
        let inner = &self.inner;
        let (now, dispatch) = (inner.now(), inner.dispatch());
        let Some(open) = dispatch.run(&self.reader.run().record.run) else { return 0 };
        let is_away = |key| dispatch.away_for(&key, now, inner.started).is_some_and(|long| long >= RELINK);
        open.nodes().filter(|&node| open.slot(node).stage != Stage::Done && is_away(open.key(node))).count()
            as u64
    }

    async fn next(&mut self) -> Option<Result<(u64, RunEvent), Problem>> {
        while !self.done {
            // Marked as seen before the log is read, so that what is written meanwhile is not missed.
            self.grown.borrow_and_update();
            match self.reader.next().await {
                Ok(Some((number, mut event))) => {
                    if number > self.from {
                        if let RunEvent::Accepted { away, .. } = &mut event {
                            *away = self.away();
                        }
                        return Some(Ok((number, event)));
                    }
                }
                Ok(None) if self.reader.run().is_whole() && self.reader.run().pending() == 0 => {
                    self.done = true;
                    return Some(Ok(self.reader.summary()));
                }
                Ok(None) => {
                    let run = self.reader.run().record.run;
                    if !self.inner.is_known(&run) {
                        self.done = true;
                        return Some(Err(unknown(run)));
                    }
                    if self.grown.changed().await.is_err() {
                        self.grown = self.inner.watch(run);
                    }
                }
                Err(e) => {
                    self.done = true;
                    return Some(Err(e.into()));
                }
            }
        }
        None
    }
}

impl Inner {
    fn closing(&self, run: &RunId) -> Option<Closing> {
        self.closed.lock().expect("no holder panics").get(run).copied()
    }

    fn is_known(&self, run: &RunId) -> bool {
        self.dispatch().run(run).is_some() || self.closing(run).is_some()
    }

    pub(super) async fn record_of(&self, run: RunId) -> Result<RunRecord, Problem> {
        let found = self.shelf.get::<RunRecord>(&format!("run.{run}")).await?;
        found.map(|(record, _)| record).ok_or_else(|| unknown(run))
    }

    /// The same for an operator. A run that is not theirs to see is as one that is not there, so that ids tell nothing.
    pub(super) async fn record_for(&self, by: &Operator, run: RunId) -> Result<RunRecord, Problem> {
        let record = self.record_of(run).await?;
        if may_see(by, &record.operator, &record.method) { Ok(record) } else { Err(unknown(run)) }
    }

    /// Forgets ended runs created before `before`, and then the oldest ones until what is kept of all runs is at
    /// most `bytes`. The log goes first: killed in between, there is a run whose results are gone, which the next pruning takes.
    pub(super) async fn prune(&self, before: Timestamp, bytes: u64) -> Result<u64, ShelfError> {
        let mut ended: Vec<(RunId, u64)> = {
            let closed = self.closed.lock().expect("no holder panics");
            closed.iter().map(|(run, closing)| (*run, closing.bytes)).collect()
        };
        let mut total: u64 = ended.iter().map(|(_, bytes)| bytes).sum();
        {
            let dispatch = self.dispatch();
            for run in dispatch.runs() {
                total += run.bytes;
                if run.pending() == 0 {
                    ended.push((run.record.run, run.bytes));
                }
            }
        }
        // By time: that is what their ids begin with.
        ended.sort_unstable();
        ended.dedup_by_key(|(run, _)| *run);
        let mut count = 0;
        for (run, size) in ended {
            let created = i64::from_be_bytes({
                let mut time = [0; 8];
                time[2..].copy_from_slice(&run.as_bytes()[..6]);
                time
            });
            if created >= before.as_millis() && total <= bytes {
                break;
            }
            self.dispatch().remove(&run);
            self.shelf.trim(&run.log(), None).await?;
            self.shelf.delete(&format!("run.{run}"), Expect::Any).await?;
            self.shelf.delete(&format!("run_done.{run}"), Expect::Any).await?;
            self.closed.lock().expect("no holder panics").remove(&run);
            self.moved(&[(run, u64::MAX)]);
            total = total.saturating_sub(size);
            count += 1;
        }
        Ok(count)
    }
}

pub(super) fn parse_target(text: &str) -> Result<Target, Problem> {
    Target::parse(text).map_err(|e| {
        let problem = Problem::new(ProblemKind::Invalid, format!("the target {text:?} cannot be read: {e}"));
        match e.hint.clone() {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    })
}

pub(super) fn may_call(by: &Operator, method: &str) -> Result<(), Problem> {
    if by.methods.iter().any(|glob| glob_matches(glob, method)) {
        Ok(())
    } else {
        let what = format!("{} may not call {method}", by.name);
        Err(Problem::new(ProblemKind::Forbidden, what))
    }
}

/// Whether an operator may look at a run, and so act on it. A run holds output of all its nodes, and to order it again is to
/// use what was sealed for it: whoever is bound to some nodes has their own runs only.
fn may_see(by: &Operator, operator: &str, method: &str) -> bool {
    by.admin || by.name == operator || (by.targets == "*" && may_call(by, method).is_ok())
}

pub(super) fn since(last_seen: Option<Timestamp>) -> String {
    match last_seen.and_then(|at| jiff::Timestamp::from_millisecond(at.as_millis()).ok()) {
        Some(at) => format!("{:.0}", at),
        None => "it joined".to_owned(),
    }
}

fn view_of(record: &RunRecord) -> RunView {
    RunView {
        run: record.run,
        operator: record.operator.clone(),
        created_at: record.created.as_millis(),
        expires_at: record.expires.as_millis(),
        method: record.method.clone(),
        args: record.args.clone(),
        script: !record.data.is_empty(),
        targets: record.targets.clone(),
        nodes: record.nodes,
        applies: record.applies,
        ok: 0,
        failed: 0,
        not_started: 0,
        nodes_cancelled: 0,
        pending: 0,
        awaits_approval: 0,
        cancelled: false,
        stopped: false,
    }
}

fn view_open(run: &Run) -> RunView {
    let counts = run.counts();
    RunView {
        ok: counts.ok,
        failed: counts.failed - counts.not_started - counts.cancelled,
        not_started: counts.not_started,
        nodes_cancelled: counts.cancelled,
        pending: run.pending(),
        cancelled: run.cancelled(),
        stopped: run.stopped(),
        ..view_of(&run.record)
    }
}

fn view_closed(record: &RunRecord, closing: &Closing) -> RunView {
    RunView {
        ok: closing.ok,
        failed: closing.failed.saturating_sub(closing.not_started + closing.nodes_cancelled),
        not_started: closing.not_started,
        nodes_cancelled: closing.nodes_cancelled,
        cancelled: closing.cancelled,
        stopped: closing.stopped,
        ..view_of(record)
    }
}

pub(super) fn invalid(what: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::Invalid, what)
}

fn unknown(run: RunId) -> Problem {
    Problem::new(ProblemKind::NotFound, format!("there is no run {run}"))
        .hint("it may have been pruned; `mainstay runs list` shows those that are kept")
}

pub(super) fn stopping() -> Problem {
    Problem::new(ProblemKind::Internal, "the hub is starting or stopping")
}

pub(super) fn no_random(_: getrandom::Error) -> Problem {
    Problem::new(ProblemKind::Internal, "no randomness can be had from the system")
}

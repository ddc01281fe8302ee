//! A hub that answers as the test's command says, behind the real API at a real socket.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use mainstay::api::{Api, facade::Facade, serve_unix};
use mainstay_control::hub::RunEvents;
use mainstay_control::view::*;
use mainstay_core::id::{MessageId, NodeName, RunId};
use mainstay_core::outcome::{Exit, Outcome};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The run that every order becomes.
pub(crate) const RUN: &str = "0190a8a0-0000-7000-8000-00005d0c81f2";

pub(crate) const TOKEN: &str = "mso1.right";

const DAY: i64 = 24 * 3_600_000;

#[derive(Clone, Default)]
pub(crate) struct FakeHub {
    /// What was asked of it, in order.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    /// How many more watches break off in the middle.
    pub(crate) breaks: Arc<Mutex<u32>>,
    order: Arc<Mutex<Option<RunSpec>>>,
}

/// A served hub; it stops when this is dropped.
pub(crate) struct Served {
    pub(crate) hub: FakeHub,
    pub(crate) dir: TempDir,
    pub(crate) shutdown: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Served {
    pub(crate) async fn start() -> Self {
        let served = Self {
            hub: FakeHub::default(),
            dir: TempDir::new().unwrap(),
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let mut registry = Registry::default();
        let counter = Counter::<u64>::default();
        registry.register("mainstay_tests", "Tests", counter);
        let api = Api::new(served.hub.clone(), Arc::new(Mutex::new(registry)), served.dir.path());
        let (socket, shutdown) = (served.socket(), served.shutdown.clone());
        served.tasks.spawn(async move { serve_unix(&socket, api, shutdown).await.unwrap() });
        while tokio::net::UnixStream::connect(served.socket()).await.is_err() {
            tokio::task::yield_now().await;
        }
        served
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("api.sock")
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.hub.asked.lock().unwrap())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

pub(crate) fn now() -> i64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

fn node(name: &str, online: bool) -> NodeView {
    NodeView {
        name: name.parse().unwrap(),
        key: format!("{name}keyaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        state: NodeState::Active,
        online,
        last_seen: Some(now() - if online { 0 } else { 3 * DAY + DAY / 2 }),
        enrolled_at: Some(1_750_000_000_000),
        labels: [("role".to_owned(), "web".to_owned())].into(),
        os: "debian".into(),
        family: "debian".into(),
        os_version: "13".into(),
        kernel: "6.12.1".into(),
        arch: "x86_64".into(),
        hostname: name.into(),
        cpus: 2,
        memory_bytes: 4 << 30,
        addresses: vec!["10.0.0.1".into()],
        version: "0.1.0".into(),
        note: None,
    }
}

fn nodes() -> Vec<NodeView> {
    let mut stranger = node("stranger", false);
    stranger.state = NodeState::Waiting;
    stranger.last_seen = None;
    stranger.labels.clear();
    // What a node says of itself is not to be believed by a terminal.
    stranger.os = "evil\x1b[2J\nos".into();
    stranger.note = Some("asked to join from 10.0.0.9".into());
    vec![node("ship10", true), node("ship2", false), node("ship1", true), stranger]
}

fn run_id() -> RunId {
    RUN.parse().unwrap()
}

fn result(node: &str, exit: i32, stdout: &str) -> RunEvent {
    RunEvent::Result(ResultView {
        run: run_id(),
        node: node.parse().unwrap(),
        outcome: "finished".into(),
        reason: None,
        exit_code: Some(exit),
        signal: None,
        stdout: Some(stdout.into()),
        stdout_base64: None,
        stderr: Some(String::new()),
        stderr_base64: None,
        started_at: Some(1_750_000_000_000),
        duration_ms: Some(12),
        truncated: false,
        stdout_bytes: None,
        stderr_bytes: None,
        provisional: false,
    })
}

fn output(node: &str, seq: u64, data: &str) -> RunEvent {
    RunEvent::Output {
        run: run_id(),
        node: node.parse().unwrap(),
        seq,
        stream: "stdout".into(),
        data: Some(data.into()),
        data_base64: None,
    }
}

fn summary(ok: u64, failed: u64) -> RunEvent {
    RunEvent::Summary { run: run_id(), ok, failed, pending: 0 }
}

/// The events of a run of this command; without a summary it stays pending.
fn events(command: &str) -> Vec<RunEvent> {
    let run = run_id();
    let accepted = |targets| RunEvent::Accepted { run, targets, away: 0 };
    match command {
        "uptime" => vec![
            accepted(3),
            result("ship10", 0, "up\n"),
            result("ship1", 0, "up\n"),
            result("ship2", 0, "up 3 days"),
            summary(3, 0),
        ],
        "fail" => vec![accepted(2), result("ship1", 0, ""), result("ship10", 7, "no\n"), summary(1, 1)],
        "away" => vec![RunEvent::Accepted { run, targets: 4, away: 3 }, result("ship1", 0, "up\n")],
        "live" => vec![
            accepted(2),
            output("ship1", 1, "one\ntw"),
            output("ship10", 1, "eins\n"),
            output("ship1", 2, "o\n"),
            result("ship1", 0, "one\ntwo\n"),
            result("ship10", 3, "eins\n"),
            summary(1, 1),
        ],
        "halfway" => vec![accepted(1), output("ship1", 1, "one\ntw")],
        "fifty" => {
            let mut events = vec![accepted(50)];
            events.extend((1..=50).map(|n| result(&format!("ship{n}"), 0, "")));
            events.push(summary(50, 0));
            events
        }
        _ => vec![accepted(1)],
    }
}

impl FakeHub {
    fn note(&self, what: impl Into<String>) {
        self.asked.lock().unwrap().push(what.into());
    }

    fn command(&self) -> String {
        let order = self.order.lock().unwrap();
        order.as_ref().and_then(|spec| spec.args.first().cloned()).unwrap_or_else(|| "uptime".into())
    }

    fn view(&self) -> RunView {
        let order = self.order.lock().unwrap().clone();
        let events = events(&self.command());
        let results: Vec<bool> = events
            .iter()
            .filter_map(|event| match event {
                RunEvent::Result(result) => Some(result.is_ok()),
                _ => None,
            })
            .collect();
        let Some(RunEvent::Accepted { targets, .. }) = events.first() else {
            unreachable!("every list begins so")
        };
        let ok = results.iter().filter(|ok| **ok).count() as u64;
        RunView {
            run: run_id(),
            operator: "alice".into(),
            created_at: now() - 5 * 60_000 - 30_000,
            expires_at: 4_000_000_000_000,
            method: "cmd".into(),
            args: order.as_ref().map_or(vec!["uptime".into()], |spec| spec.args.clone()),
            script: order.as_ref().is_some_and(|spec| spec.script.is_some()),
            targets: order.map_or(vec!["*".into()], |spec| spec.targets),
            nodes: *targets,
            ok,
            failed: results.len() as u64 - ok,
            not_started: 0,
            nodes_cancelled: 0,
            pending: targets - results.len() as u64,
            awaits_approval: 0,
            cancelled: false,
            stopped: false,
            applies: None,
        }
    }
}

fn not_found(what: &str) -> Problem {
    Problem::new(ProblemKind::NotFound, format!("there is no {what}")).hint("look for it elsewhere")
}

#[async_trait]
impl Facade for FakeHub {
    fn operator_by_uid(&self, uid: u32) -> Result<Operator, Problem> {
        Ok(Operator {
            name: format!("uid:{uid}"),
            methods: vec!["*".into()],
            targets: "*".into(),
            admin: true,
        })
    }

    async fn operator_by_token(&self, token: &str) -> Result<Operator, Problem> {
        if token == TOKEN {
            return self.operator_by_uid(0);
        }
        Err(Problem::new(ProblemKind::Unauthorized, "this token is not known"))
    }

    async fn status(&self) -> Result<StatusView, Problem> {
        Ok(StatusView {
            name: "central".into(),
            version: "9.9.9".into(),
            ca_fingerprint: "CAFE".into(),
            key: "key".into(),
            listen: "0.0.0.0:7420".into(),
            nodes: 4,
            online: 2,
            epoch: 3,
            runs_pending: 1,
            queues: [("inbox".to_owned(), 0), ("outbox".to_owned(), 2)].into(),
            refusing: Some("the disk is full".into()),
        })
    }

    async fn nodes(&self, target: Option<&str>) -> Result<Vec<NodeView>, Problem> {
        self.note(format!("nodes {target:?}"));
        match target {
            Some("(") => Err(Problem::new(ProblemKind::Invalid, "column 2: a name is missing")),
            Some("nobody") => Ok(Vec::new()),
            _ => Ok(nodes()),
        }
    }

    async fn node(&self, which: &str) -> Result<NodeView, Problem> {
        let found = nodes().into_iter().find(|node| node.name.as_str() == which);
        found.ok_or_else(|| not_found(&format!("node {which:?}")))
    }

    async fn accept_node(
        &self,
        by: &Operator,
        which: &str,
        name: Option<NodeName>,
    ) -> Result<NodeView, Problem> {
        self.note(format!("accept {which:?} as {name:?} by {}", by.name));
        let mut view = self.node("stranger").await?;
        view.name = name.unwrap_or(view.name);
        Ok(view)
    }

    async fn label_node(
        &self,
        _: &Operator,
        which: &str,
        labels: BTreeMap<String, Option<String>>,
    ) -> Result<NodeView, Problem> {
        self.note(format!("label {which:?} {labels:?}"));
        self.node(which).await
    }

    async fn revoke_node(&self, _: &Operator, which: &str, reason: &str) -> Result<NodeView, Problem> {
        self.note(format!("revoke {which:?} {reason:?}"));
        self.node(which).await
    }

    async fn remove_node(&self, _: &Operator, which: &str) -> Result<(), Problem> {
        self.note(format!("remove {which:?}"));
        self.node(which).await.map(|_| ())
    }

    async fn tokens(&self, _: &Operator) -> Result<Vec<TokenView>, Problem> {
        let spec = TokenSpec {
            kind: TokenKind::Join,
            lifetime_ms: None,
            uses: None,
            name: None,
            labels: BTreeMap::new(),
            methods: Vec::new(),
            targets: None,
        };
        Ok(vec![self.create_token(&self.operator_by_uid(0)?, spec).await?.view])
    }

    async fn create_token(&self, by: &Operator, spec: TokenSpec) -> Result<NewToken, Problem> {
        self.note(format!("token {}", serde_json::to_string(&spec).unwrap()));
        Ok(NewToken {
            token: "secret-token".into(),
            view: TokenView {
                id: "4f1c2b".into(),
                kind: spec.kind,
                created_at: now(),
                expires_at: now() + 10 * DAY + DAY / 2,
                uses_left: Some(1),
                name: spec.name,
                labels: spec.labels,
                created_by: by.name.clone(),
            },
        })
    }

    async fn revoke_token(&self, _: &Operator, id: &str) -> Result<(), Problem> {
        self.note(format!("revoke token {id:?}"));
        Ok(())
    }

    async fn preview(&self, _: &Operator, targets: &[String]) -> Result<Vec<NodeView>, Problem> {
        Ok(if targets == ["nobody"] { vec![] } else { vec![node("ship1", true), node("ship2", false)] })
    }

    async fn start_run(&self, by: &Operator, spec: RunSpec) -> Result<RunView, Problem> {
        self.note(format!("run by {} {}", by.name, serde_json::to_string(&spec).unwrap()));
        if spec.targets == ["nobody"] {
            return Err(Problem::new(ProblemKind::NoTargets, "no node is meant by nobody"));
        }
        if spec.args == ["full"] {
            return Err(Problem::new(ProblemKind::Full, "the disk is full"));
        }
        *self.order.lock().unwrap() = Some(spec);
        Ok(self.view())
    }

    async fn runs_with_plans(&self, by: &Operator, limit: usize) -> Result<Vec<RunView>, Problem> {
        self.runs(by, limit).await
    }

    async fn runs(&self, _: &Operator, limit: usize) -> Result<Vec<RunView>, Problem> {
        self.note(format!("runs {limit}"));
        let mut other = self.view();
        other.run = "0190a8a0-0000-7000-8000-000000000001".parse().unwrap();
        Ok([self.view(), other].into_iter().take(limit).collect())
    }

    async fn run(&self, _: &Operator, run: RunId) -> Result<(RunView, Vec<RunNodeView>), Problem> {
        if run != run_id() {
            return Err(not_found("such run"));
        }
        let ended = events(&self.command()).into_iter().filter_map(|event| match event {
            RunEvent::Result(result) => Some(RunNodeView {
                node: result.node.clone(),
                result: Some(result),
                pending: None,
                waits_for: None,
            }),
            _ => None,
        });
        let mut nodes: Vec<RunNodeView> = ended.collect();
        if self.command() == "away" {
            for (name, why) in [("ship2", ""), ("ship3", ""), ("ship4", "accepted; ")] {
                nodes.push(RunNodeView {
                    node: name.parse().unwrap(),
                    result: None,
                    pending: Some(format!("{why}away since 2026-11-17 09:00 UTC")),
                    waits_for: Some(WaitsFor::Node),
                });
            }
        }
        Ok((self.view(), nodes))
    }

    async fn watch_run(&self, _: &Operator, run: RunId, from: u64) -> Result<RunEvents, Problem> {
        self.note(format!("watch from {from}"));
        if run != run_id() {
            return Err(not_found("such run"));
        }
        let mut events: Vec<_> =
            (1..).zip(events(&self.command())).filter(|(at, _)| *at > from).map(Ok).collect();
        let mut breaks = self.breaks.lock().unwrap();
        if *breaks > 0 {
            *breaks -= 1;
            events.truncate(2);
            return Ok(Box::pin(stream::iter(events)));
        }
        let ends = matches!(events.last(), Some(Ok((_, RunEvent::Summary { .. }))));
        let events = stream::iter(events);
        Ok(if ends { Box::pin(events) } else { Box::pin(events.chain(stream::pending())) })
    }

    async fn cancel_run(&self, _: &Operator, run: RunId) -> Result<RunView, Problem> {
        self.note(format!("cancel {run}"));
        let mut view = self.view();
        view.cancelled = true;
        Ok(view)
    }

    async fn retry_run(&self, _: &Operator, run: RunId, failed_only: bool) -> Result<RunView, Problem> {
        self.note(format!("retry {run} {failed_only}"));
        Ok(self.view())
    }

    async fn approve_run(&self, _: &Operator, run: RunId, approve: Approve) -> Result<RunView, Problem> {
        self.note(format!("approve {run} {}", approve.plans.join(",")));
        Ok(self.view())
    }

    async fn prune_runs(&self, _: &Operator, before_ms: i64) -> Result<u64, Problem> {
        let days = (now() - before_ms + DAY / 2) / DAY;
        self.note(format!("prune older than {days} days"));
        Ok(12)
    }

    async fn send(&self, _: &Operator, text: &str) -> Result<Vec<MessageId>, Problem> {
        self.note(format!("send {text:?}"));
        if text.contains("bad") {
            return Err(Problem::new(ProblemKind::Invalid, "line 1: unknown field `bad`"));
        }
        Ok(vec![MessageId::from_bytes([7; 16])])
    }

    async fn messages(&self, _: &Operator, limit: usize) -> Result<Vec<MessageView>, Problem> {
        self.note(format!("messages {limit}"));
        let message = |number: u8, state, pending: Option<&str>, end| MessageView {
            message: MessageId::from_bytes([number; 16]),
            from: "hub".into(),
            to: "ship1".into(),
            method: "cmd".into(),
            created_at: now() - 5 * 60_000 - 30_000,
            expires_at: Some(4_000_000_000_000),
            state,
            pending: pending.map(str::to_owned),
            end,
        };
        let end = |outcome| Some(OutcomeView::new(&outcome, false));
        let all = vec![
            message(9, MessageState::Queued, Some("away since 2026-11-17 09:00 UTC"), None),
            message(8, MessageState::Held, None, None),
            message(7, MessageState::Ended, None, end(Outcome::Finished(Exit::Code(3)))),
            message(6, MessageState::Ended, None, end(Outcome::Failed("no such program".into()))),
        ];
        Ok(all.into_iter().take(limit).collect())
    }

    async fn message(&self, by: &Operator, message: MessageId) -> Result<MessageView, Problem> {
        let found = self.messages(by, 10).await?.into_iter().find(|one| one.message == message);
        found.ok_or_else(|| not_found("such message"))
    }

    async fn backup(&self, _: &Operator, file: &Path) -> Result<(), Problem> {
        std::fs::write(file, vec![b'b'; 1_000_000]).unwrap();
        if self.command() == "broken" {
            return Err(Problem::new(ProblemKind::Full, "the disk is full"));
        }
        Ok(())
    }

    async fn errors(&self, _: &Operator, limit: usize) -> Result<Vec<serde_json::Value>, Problem> {
        let entry = serde_json::json!({"at": 0, "node": "node1", "text": "a message failed"});
        Ok(vec![entry; limit.min(1)])
    }

    async fn audit(&self, _: &Operator, limit: usize) -> Result<Vec<serde_json::Value>, Problem> {
        self.note(format!("audit {limit}"));
        Ok(vec![serde_json::json!({
            "position": 2, "at": 1_750_000_000_000_i64, "operator": "uid:0", "act": "run",
            "detail": {"run": RUN, "nodes": 3},
            "hash": "abc", "previous": "abb",
        })])
    }
}

//! Makes runs of what machines ask of their nodes, and gives them their nodes' answers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use hyper::Method;
use mainstay_control::hub::approval::{PLAN, UP};
use mainstay_control::view::{
    Approve, Problem, ProblemKind, ResultView, RunEvent, RunSpec, RunView, WaitsFor,
};
use mainstay_core::id::{NodeName, RunId};
use mainstay_core::state::catalog::{Catalog, CatalogDigest};
use mainstay_core::time::Span;
use mainstay_node::method::state::{EXPLAIN, parcel};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Heard;
use super::answers::Answers;
use crate::api::RunDetail;
use crate::client::Client;
use crate::client::run_stream::{RunStream, short};
use crate::up::machine::Aside;

/// Machines ask within microseconds of each other; longer than that is another question.
const GATHER: Duration = Duration::from_millis(5);

/// When nothing came for this long, it is looked whether anything can come without a node coming back.
const GRACE: Duration = Duration::from_secs(1);

/// After a hub's restart its nodes come back within seconds: one that was there is not given up before.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(10);

/// Looking again and again costs the hub.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Most output kept of each node: the reports of ten thousand states with their diffs.
const OUTPUT_LIMIT: u64 = 16 << 20;

pub(in crate::up) struct Request {
    pub(in crate::up) node: NodeName,
    /// It was linked to the hub when it was last heard of.
    pub(in crate::up) online: bool,
    pub(in crate::up) work: Work,
    pub(in crate::up) heard: mpsc::Sender<Heard>,
}

pub(in crate::up) enum Work {
    Plan { catalog: Box<Catalog>, explain: bool },
    Apply { run: RunId, plan: String },
}

/// A node that waits for answers.
struct Member {
    node: NodeName,
    online: bool,
    heard: mpsc::Sender<Heard>,
}

/// What holds for every node of a rollout.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Terms {
    /// With `--yes`, in how many cycles a node that is away may bring itself to its state when it returns.
    pub unattended: Option<u32>,
    /// How long a node that is away may take to begin; the hub says unless given. An approval inherits it.
    pub expires: Option<Span>,
}

pub struct Desk {
    client: Arc<Client>,
    requests: mpsc::Receiver<Request>,
    terms: Terms,
    cancel: CancellationToken,
}

/// What becomes one run.
struct Group {
    order: Order,
    members: Vec<Member>,
}

enum Order {
    Plan(Box<Catalog>, bool),
    /// Everything, without anybody there.
    Up(Box<Catalog>, u32),
    Apply {
        run: RunId,
        plans: Vec<String>,
    },
}

impl Desk {
    pub(super) fn new(
        client: Arc<Client>,
        requests: mpsc::Receiver<Request>,
        terms: Terms,
        cancel: CancellationToken,
    ) -> Self {
        Self { client, requests, terms, cancel }
    }

    /// Ends when no machine can ask any more and all were answered.
    pub async fn run(mut self) {
        let mut runs = JoinSet::new();
        while let Some(first) = self.requests.recv().await {
            let mut requests = vec![first];
            while let Ok(Some(next)) = timeout(GATHER, self.requests.recv()).await {
                requests.push(next);
            }
            for group in self.groups(requests) {
                let (client, terms, cancel) = (self.client.clone(), self.terms, self.cancel.clone());
                runs.spawn(async move { group.run(&client, terms, &cancel).await });
            }
        }
        while runs.join_next().await.is_some() {}
    }

    /// Nodes with the same catalog share a run, and no node gets what is another one's.
    fn groups(&self, requests: Vec<Request>) -> Vec<Group> {
        let mut plans: BTreeMap<(CatalogDigest, bool), Group> = BTreeMap::new();
        let mut applies: HashMap<RunId, Group> = HashMap::new();
        for Request { node, online, work, heard } in requests {
            let member = Member { node, online, heard };
            match work {
                Work::Plan { catalog, explain } => {
                    let unattended = self.terms.unattended.filter(|_| !online);
                    let key = (catalog.digest(), unattended.is_some());
                    let group = plans.entry(key).or_insert_with(|| Group {
                        order: match unattended {
                            Some(cycles) => Order::Up(catalog, cycles),
                            None => Order::Plan(catalog, explain),
                        },
                        members: Vec::new(),
                    });
                    group.members.push(member);
                }
                Work::Apply { run, plan } => {
                    let group = applies.entry(run).or_insert_with(|| Group {
                        order: Order::Apply { run, plans: Vec::new() },
                        members: Vec::new(),
                    });
                    group.members.push(member);
                    if let Order::Apply { plans, .. } = &mut group.order
                        && !plans.contains(&plan)
                    {
                        plans.push(plan);
                    }
                }
            }
        }
        plans.into_values().chain(applies.into_values()).collect()
    }
}

impl Group {
    async fn run(self, client: &Client, terms: Terms, cancel: &CancellationToken) {
        let Self { order, members } = self;
        let is_unattended = matches!(order, Order::Up(..));
        let comes_back = matches!(order, Order::Plan(..));
        let mut following = match Self::start(&order, &members, client, terms).await {
            Ok(stream) => Following::new(stream, members, comes_back),
            Err(problem) => {
                for member in members {
                    member.aside(Aside::Hub(problem.clone())).await;
                }
                return;
            }
        };
        if is_unattended {
            let run = short(following.stream.run());
            following
                .leave(&format!(
                    "it is away, and brought to its state when it returns: see `mainstay runs watch {run}`"
                ))
                .await;
            return;
        }
        following.follow(client, cancel).await;
    }

    async fn start<'a>(
        order: &Order,
        members: &[Member],
        client: &'a Client,
        terms: Terms,
    ) -> Result<RunStream<'a>, Problem> {
        let (method, args, catalog) = match order {
            Order::Apply { run, plans } => {
                // Others may have made the same plan, and have their turn later.
                let nodes = members.iter().map(|member| member.node.clone()).collect();
                let input = Approve { plans: plans.clone(), nodes, ..Approve::default() };
                let path = format!("/v1/runs/{run}/approve");
                let view: RunView = client.call(Method::POST, &path, &input).await?;
                return Ok(RunStream::of(client, view.run));
            }
            Order::Plan(catalog, explain) => {
                (PLAN, explain.then(|| EXPLAIN.to_owned()).into_iter().collect(), catalog)
            }
            Order::Up(catalog, cycles) => (UP, vec![cycles.to_string()], catalog),
        };
        let packed = parcel::pack(catalog)
            .map_err(|e| Problem::new(ProblemKind::Internal, format!("the catalog cannot be packed: {e}")))?;
        let spec = RunSpec {
            targets: members.iter().map(|member| member.node.to_string()).collect(),
            method: method.to_owned(),
            args,
            script: None,
            env: BTreeMap::new(),
            cwd: None,
            user: None,
            stdin_base64: Some(BASE64.encode(&packed)),
            timeout_ms: None,
            expires_ms: terms.expires.map(Span::millis),
            idempotent: false,
            stream: true,
            output_limit: Some(OUTPUT_LIMIT),
            batch: None,
            max_failures: None,
        };
        RunStream::start(client, &spec).await
    }
}

impl Member {
    /// Whether anybody still listens.
    async fn tell(&self, heard: Heard) -> bool {
        self.heard.send(heard).await.is_ok()
    }

    async fn aside(&self, aside: Aside) {
        self.tell(Heard::Aside(aside)).await;
    }
}

/// One run and those of its nodes that have not ended.
struct Following<'a> {
    stream: RunStream<'a>,
    waiting: HashMap<NodeName, Waiting>,
    /// The nodes make plans, which can be approved later too.
    comes_back: bool,
}

struct Waiting {
    member: Member,
    answers: Answers,
    away_since: Option<Instant>,
}

impl Waiting {
    fn is_given_up(&mut self, is_away: bool, now: Instant) -> bool {
        if !is_away {
            self.away_since = None;
            return false;
        }
        let since = *self.away_since.get_or_insert(now);
        !self.member.online || now.duration_since(since) >= COMES_BACK_WITHIN
    }
}

impl<'a> Following<'a> {
    fn new(stream: RunStream<'a>, members: Vec<Member>, comes_back: bool) -> Self {
        let run = stream.run();
        let with_answers = |member: Member| {
            let answers = Answers::new(run, member.node.to_string());
            (member.node.clone(), Waiting { member, answers, away_since: None })
        };
        Self { stream, waiting: members.into_iter().map(with_answers).collect(), comes_back }
    }

    async fn follow(&mut self, client: &Client, cancel: &CancellationToken) {
        let mut pause = GRACE;
        let mut look_at = Instant::now() + pause;
        let mut told = false;
        while !self.waiting.is_empty() {
            tokio::select! {
                biased;
                event = self.stream.next() => match event {
                    Ok((event, _)) => {
                        pause = GRACE;
                        let some_are_away = matches!(event, RunEvent::Accepted { away: 1.., .. });
                        look_at = Instant::now() + if some_are_away { Duration::ZERO } else { pause };
                        self.event(event).await;
                    }
                    Err(problem) => {
                        self.end(&Aside::Hub(problem)).await;
                        return;
                    }
                },
                () = cancel.cancelled(), if !told => {
                    told = true;
                    let path = format!("/v1/runs/{}/cancel", self.stream.run());
                    let cancelled: Result<RunView, Problem> = client.call(Method::POST, &path, &()).await;
                    if let Err(problem) = cancelled {
                        self.end(&Aside::Hub(problem)).await;
                        return;
                    }
                }
                () = sleep_until(look_at) => {
                    let some_may_come_back = self.look(client).await;
                    pause = if some_may_come_back { GRACE } else { (pause * 2).min(LONGEST_PAUSE) };
                    look_at = Instant::now() + pause;
                }
            }
        }
    }

    async fn event(&mut self, event: RunEvent) {
        match event {
            RunEvent::Output { node, stream, data: Some(data), .. } if stream == "stdout" => {
                if let Some(Waiting { member, answers, .. }) = self.waiting.get_mut(&node) {
                    for heard in answers.take(data.as_bytes()) {
                        member.tell(heard).await;
                    }
                }
            }
            RunEvent::Result(result) if !result.provisional => {
                if let Some(Waiting { member, answers, .. }) = self.waiting.remove(&result.node) {
                    ended(&member, answers, &result).await;
                }
            }
            RunEvent::Summary { .. } => self.end(&Aside::Lost("the run ended without it".into())).await,
            _ => {}
        }
    }

    /// Gives up on nodes that are away; their run goes on without us. Whether some are that may soon be back.
    async fn look(&mut self, client: &Client) -> bool {
        let run = self.stream.run();
        let detail: Result<RunDetail, Problem> = client.get(&format!("/v1/runs/{run}?pending=true")).await;
        // The stream is the one to say that a hub does not come back.
        let Ok(detail) = detail else { return false };
        let now = Instant::now();
        for node in detail.nodes {
            let is_away = node.waits_for == Some(WaitsFor::Node);
            if !self.waiting.get_mut(&node.node).is_some_and(|waiting| waiting.is_given_up(is_away, now)) {
                continue;
            }
            let why = node.pending.unwrap_or_default();
            if let Some(Waiting { member, .. }) = self.waiting.remove(&node.node) {
                let next = if self.comes_back { "approve its plan then" } else { "see how it went" };
                let verb = if self.comes_back { "approve" } else { "watch" };
                let text = format!("{why}; {next} with `mainstay runs {verb} {}`", short(run));
                member.aside(Aside::Away(text)).await;
            }
        }
        self.waiting.values().any(|waiting| waiting.away_since.is_some())
    }

    async fn leave(&mut self, why: &str) {
        self.end(&Aside::Away(why.to_owned())).await;
    }

    async fn end(&mut self, aside: &Aside) {
        for (_, Waiting { member, .. }) in self.waiting.drain() {
            member.aside(aside.clone()).await;
        }
    }
}

/// The node has ended. What it has to say was heard with its output, unless it could not begin, or too much was said.
async fn ended(member: &Member, mut answers: Answers, result: &ResultView) {
    // The end of a last line that was cut.
    for heard in answers.take(b"\n") {
        member.tell(heard).await;
    }
    // Whoever waits for more than was said must not wait for ever.
    member.aside(of_result(result)).await;
}

/// Why an answer has not all that was expected of it.
pub(super) fn of_result(result: &ResultView) -> Aside {
    let words = match (result.outcome.as_str(), &result.reason) {
        ("cancelled", _) => return Aside::Cancelled,
        ("finished", _) if result.truncated => "it said more than is kept; look at it by --ssh".to_owned(),
        ("finished", _) => "the node ended without a plan".to_owned(),
        (outcome, Some(reason)) => format!("{outcome}: {reason}"),
        (outcome, None) => outcome.to_owned(),
    };
    Aside::Problem(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_was_there_is_given_time_to_come_back() {
        let at = |online, seconds: &[(u64, bool)]| {
            let (heard, _) = mpsc::channel(1);
            let node: NodeName = "web".parse().unwrap();
            let answers = Answers::new(RunId::from_bytes([7; 16]), "web".into());
            let mut waiting = Waiting { member: Member { node, online, heard }, answers, away_since: None };
            let start = Instant::now();
            let looked = |(second, away): &(u64, bool)| {
                waiting.is_given_up(*away, start + Duration::from_secs(*second))
            };
            seconds.iter().map(looked).collect::<Vec<_>>()
        };
        assert_eq!(at(false, &[(0, true)]), [true]);
        assert_eq!(at(true, &[(0, true), (9, true), (10, true)]), [false, false, true]);
        assert_eq!(at(true, &[(0, true), (5, false), (11, true), (20, true)]), [false; 4]);
    }
}

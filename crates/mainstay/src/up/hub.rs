//! Nodes behind a hub: their plans and applies are runs, so they are durable, and a node that is away gets them when it
//! returns.
//!
//! Each node is a machine of its own to the rollout. Behind them one [`desk`] gathers what they ask within a moment
//! of each other and makes one run of it, and gives each node's answers back to its machine. Who has left before a node answered
//! finds its plan with `mainstay runs show`, and approves it with `mainstay runs approve`.

mod answers;
pub mod carried;
pub mod desk;
pub mod replay;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use hyper::Method;
use mainstay_control::hub::approval::{APPLY, PLAN};
use mainstay_control::view::{NodeView, Problem, ProblemKind, RunNodeView};
use mainstay_core::id::{NodeName, RunId};
use mainstay_core::state::Values;
use mainstay_core::state::catalog::Catalog;
use mainstay_core::state::plan::Plan;
use mainstay_core::state::session::{Approval, Ask, Tell};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::answers::Answers;
use self::desk::{Desk, Request, Terms, Work, of_result};
use super::machine::{Aside, Machine, Way};
use super::rollout::{Known, Source};
use crate::api::RunDetail;
use crate::client::Client;
use crate::client::run_stream::short;

/// Answers of one node that wait to be read; a rollout reads them at once.
const ANSWERS: usize = 64;

/// What a node said.
#[derive(Clone)]
pub(super) enum Heard {
    Tell(Tell),
    /// A plan, the run that holds it and its name there.
    Planned {
        plan: Plan,
        run: RunId,
        name: String,
    },
    Aside(Aside),
}

/// The nodes that these targets mean, and the desk that all of them need at work.
pub async fn nodes(client: Client, targets: &[String], terms: Terms) -> Result<Nodes, Problem> {
    let input = serde_json::json!({"targets": targets});
    let nodes: Vec<NodeView> = client.call(Method::POST, "/v1/targets/preview", &input).await?;
    if nodes.is_empty() {
        let message = format!("no node is meant by {}", targets.join(" or "));
        return Err(Problem::new(ProblemKind::NoTargets, message).hint("see `mainstay nodes list`"));
    }
    let nodes = nodes.into_iter().map(|node| NodeWay {
        name: node.name.to_string(),
        start: Start::Ask { online: node.online },
        facts: facts(&node),
        node: node.name,
        version: node.version,
        key: node.key,
        labels: node.labels,
        vars: Values::new(),
        requests: None,
        cancel: CancellationToken::new(),
    });
    Ok(Nodes::at(client, nodes.collect(), terms))
}

/// The nodes of a run of plans: each begins with the plan that it made.
pub async fn nodes_of(client: Client, run: RunId) -> Result<Nodes, Problem> {
    let detail: RunDetail = client.get(&format!("/v1/runs/{run}")).await?;
    if !matches!(detail.run.method.as_str(), PLAN | APPLY) {
        let message = format!("run {} made no plan: its method is {}", short(run), detail.run.method);
        return Err(Problem::new(ProblemKind::Invalid, message)
            .hint("plans are made by `mainstay plan -t TARGET` and `mainstay up -t TARGET`"));
    }
    let nodes = detail.nodes.into_iter().map(|node| NodeWay {
        name: node.node.to_string(),
        start: found(run, &node),
        facts: Values::new(),
        node: node.node,
        version: String::new(),
        key: String::new(),
        labels: BTreeMap::new(),
        vars: Values::new(),
        requests: None,
        cancel: CancellationToken::new(),
    });
    Ok(Nodes::at(client, nodes.collect(), Terms::default()))
}

fn found(run: RunId, node: &RunNodeView) -> Start {
    let Some(result) = &node.result else {
        let why = node.pending.as_deref().unwrap_or("it has not answered yet");
        return Start::Aside(Aside::Away(format!("there is no plan of it yet: {why}")));
    };
    let stdout = result.stdout.as_deref().unwrap_or_default();
    let mut answers = Answers::new(run, node.node.to_string());
    let mut heard = answers.take(stdout.as_bytes());
    // What it did before belongs to an approval that was given.
    let applied = |heard: &Heard| matches!(heard, Heard::Tell(Tell::Applied { .. }));
    if let Some(at) = heard.iter().rposition(applied) {
        heard.drain(..=at);
    }
    match heard.last() {
        Some(Heard::Planned { .. }) => Start::Found(heard),
        _ => Start::Aside(of_result(result)),
    }
}

/// The catalog went with the plan: nothing is compiled.
pub struct Nothing;

impl Source for Nothing {
    fn catalogs(&self, machines: &[Known<'_>]) -> Result<Vec<Catalog>, Problem> {
        Ok(machines.iter().map(|_| Catalog::empty()).collect())
    }
}

pub struct Nodes {
    pub ways: Vec<Box<dyn Way>>,
    /// [`Desk::run`] has to be polled beside the rollout.
    pub desk: Desk,
}

impl Nodes {
    fn at(client: Client, nodes: Vec<NodeWay>, terms: Terms) -> Self {
        let (requests, waiting) = mpsc::channel(nodes.len().max(1));
        let cancel = CancellationToken::new();
        let ways = nodes.into_iter().map(|node| {
            let at_desk = NodeWay { requests: Some(requests.clone()), cancel: cancel.clone(), ..node };
            Box::new(at_desk) as Box<dyn Way>
        });
        Self { ways: ways.collect(), desk: Desk::new(Arc::new(client), waiting, terms, cancel) }
    }
}

/// How the talk with a node begins.
#[derive(Clone)]
enum Start {
    Ask {
        online: bool,
    },
    /// Its plan is there already.
    Found(Vec<Heard>),
    Aside(Aside),
}

/// Under the names that the node itself gives them. Its custom facts are not known here, only there.
fn facts(node: &NodeView) -> Values {
    let mut facts = Values::new();
    let texts = [
        ("os", &node.os),
        ("family", &node.family),
        ("os_version", &node.os_version),
        ("kernel", &node.kernel),
        ("arch", &node.arch),
        ("hostname", &node.hostname),
        ("version", &node.version),
    ];
    for (name, text) in texts {
        facts.insert(name.to_owned(), Value::from(text.as_str()));
    }
    facts.insert("cpus".to_owned(), Value::from(node.cpus));
    facts.insert("memory_bytes".to_owned(), Value::from(node.memory_bytes));
    facts.insert("addresses".to_owned(), Value::from(node.addresses.clone()));
    facts
}

struct NodeWay {
    name: String,
    node: NodeName,
    start: Start,
    version: String,
    key: String,
    facts: Values,
    labels: BTreeMap<String, String>,
    vars: Values,
    /// The desk; there is one when it is handed out.
    requests: Option<mpsc::Sender<Request>>,
    cancel: CancellationToken,
}

#[async_trait]
impl Way for NodeWay {
    fn name(&self) -> &str {
        &self.name
    }

    fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    fn goes_on_alone(&self) -> bool {
        true
    }

    fn vars(&self) -> &Values {
        &self.vars
    }

    /// Nothing is asked of the node yet: what the hub knows of it is enough to compile its catalog.
    async fn connect(&self) -> Result<Box<dyn Machine>, Aside> {
        let requests = self.requests.clone().ok_or_else(gone)?;
        let (sender, answers) = mpsc::channel(ANSWERS);
        drop(sender);
        let mut talk: VecDeque<Heard> = [Heard::Tell(Tell::Hello {
            version: self.version.clone(),
            machine: self.key.clone(),
            facts: self.facts.clone(),
            landlock: None,
            notes: Vec::new(),
        })]
        .into();
        let (mut online, mut is_found) = (false, false);
        match &self.start {
            Start::Ask { online: now } => online = *now,
            Start::Found(heard) => {
                talk.extend(heard.iter().cloned());
                is_found = true;
            }
            Start::Aside(aside) => return Err(aside.clone()),
        }
        Ok(Box::new(NodeMachine {
            node: self.node.clone(),
            online,
            is_found,
            catalog: None,
            plan: None,
            talk,
            answers,
            requests,
            cancel: self.cancel.clone(),
        }))
    }
}

struct NodeMachine {
    node: NodeName,
    online: bool,
    /// The first plan is in the talk already.
    is_found: bool,
    catalog: Option<Box<Catalog>>,
    /// The last plan: the digest that an approval gives, its run, and its name there.
    plan: Option<(String, RunId, String)>,
    /// What comes before the answers.
    talk: VecDeque<Heard>,
    /// To the last request.
    answers: mpsc::Receiver<Heard>,
    requests: mpsc::Sender<Request>,
    cancel: CancellationToken,
}

fn gone() -> Aside {
    Aside::Lost("nobody waits for the hub any more".into())
}

impl NodeMachine {
    /// What was still to come of an earlier request is not heard any more.
    async fn request(&mut self, work: Work) -> Result<(), Aside> {
        let (heard, answers) = mpsc::channel(ANSWERS);
        self.answers = answers;
        let request = Request { node: self.node.clone(), online: self.online, work, heard };
        self.requests.send(request).await.map_err(|_| gone())
    }
}

#[async_trait]
impl Machine for NodeMachine {
    async fn send(&mut self, ask: Ask) -> Result<(), Aside> {
        match ask {
            Ask::Catalog(catalog) => {
                self.catalog = Some(catalog);
                Ok(())
            }
            Ask::Analyze { cycle: 0 | 1, .. } if self.is_found => Ok(()),
            Ask::Analyze { cycle: 0 | 1, explain } => {
                let Some(catalog) = self.catalog.take() else {
                    return Err(Aside::Problem("there is no catalog to analyse".into()));
                };
                self.request(Work::Plan { catalog, explain }).await
            }
            // After an apply the node analyses by itself: its next plan is on its way already.
            Ask::Analyze { .. } => Ok(()),
            Ask::Apply { approval, .. } => {
                let Some((digest, run, plan)) = self.plan.take() else {
                    return Err(Aside::Problem("there is no plan that could have been approved".into()));
                };
                if matches!(&approval, Approval::Plan { digest: approved } if *approved != digest) {
                    return Err(Aside::Problem("another plan was approved than the last one".into()));
                }
                self.request(Work::Apply { run, plan }).await
            }
            Ask::Cancel => {
                self.cancel.cancel();
                Ok(())
            }
            Ask::Steps(_) | Ask::Plan(_) | Ask::DropOrphans => Err(Aside::Problem(
                "this is not to be had through a hub; use --ssh or --local on the node".into(),
            )),
        }
    }

    async fn receive(&mut self) -> Result<Tell, Aside> {
        let heard = match self.talk.pop_front() {
            Some(heard) => heard,
            None => {
                let heard = self.answers.recv().await.ok_or_else(gone)?;
                self.online |= !matches!(heard, Heard::Aside(_));
                heard
            }
        };
        match heard {
            Heard::Tell(tell) => Ok(tell),
            Heard::Planned { plan, run, name } => {
                self.plan = Some((plan.digest(), run, name));
                self.talk.push_front(Heard::Tell(Tell::Planned(plan.head)));
                Ok(Tell::Steps(plan.steps))
            }
            Heard::Aside(aside) => Err(aside),
        }
    }

    async fn close(self: Box<Self>) {}
}

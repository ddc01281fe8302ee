//! `mainstay agent`: joins a fleet if it has not yet, and runs the node until it is told to stop.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use mainstay_control::view::{Problem, ProblemKind};
use mainstay_core::frame::Facts;
use mainstay_core::id::NodeName;
use mainstay_core::join_token::JoinToken;
use mainstay_core::time::Timestamp;
use mainstay_link::chain::{Fingerprint, Trust};
use mainstay_node::clock::Clock;
use mainstay_node::identity::{self, Membership};
use mainstay_node::join::{self, Applicant, JoinError};
use mainstay_node::memory;
use mainstay_node::node::{self, Node, NodeConfig, Side};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use mainstay_module::registry::Registry as Modules;

use super::Done;
use super::daemon::{self, Threads};
use crate::api;
use crate::config::agent::{AgentArgs, AgentConfig, Learned};

/// After so long an agent has linked, unless its hub is away, and lies idle.
const STARTED: Duration = Duration::from_secs(3);

pub(super) fn run(args: AgentArgs, modules: &Modules) -> Done {
    memory::keep_small();
    daemon::run(Threads::One, |stop| run_until(args, modules.clone(), stop))
}

async fn run_until(args: AgentArgs, modules: Modules, stop: CancellationToken) -> anyhow::Result<()> {
    let data = args.data();
    identity::make_data_dir(&data)?;
    let config = args.load()?;
    let key = identity::load_or_make_key(&data)?;
    let facts = mainstay_node::facts::collect(env!("CARGO_PKG_VERSION"), config.labels.clone());
    let known = identity::load_membership(&data, &key)?;
    let mut hubs = config.links.clone();
    // A member has no use for it, and its file may be long gone.
    let token = if known.is_some() && !hubs.is_empty() { None } else { join_token(&args)? };
    if let Some(token) = &token
        && (hubs.is_empty() || (known.is_none() && args.flags.links.is_empty()))
    {
        // Before the join: one that is killed right after it must find its hub without the token.
        hubs = token.hubs.clone();
        args.remember(&Learned { links: hubs.clone(), ..Learned::default() })?;
    }
    let membership = match known {
        Some(membership) => membership,
        None => {
            let applicant = applicant(&data, &key, &config, token.as_ref(), &hubs, &facts)?;
            let Some(membership) = join_fleet(&applicant, &stop).await? else { return Ok(()) };
            args.remember(&Learned {
                name: Some(membership.identity.name.clone()),
                links: Vec::new(),
                ca_fingerprint: Some(membership.ca.fingerprint().to_string()),
            })?;
            membership
        }
    };
    if hubs.is_empty() {
        return Err(no_address().into());
    }
    let config = AgentConfig { links: hubs, ..config };
    Box::pin(serve(&data, key, config, membership, facts, modules, stop)).await
}

fn join_token(args: &AgentArgs) -> Result<Option<JoinToken>, Problem> {
    args.join_token()?.map(|text| text.parse::<JoinToken>()).transpose().map_err(|error| {
        Problem::new(ProblemKind::Invalid, error.to_string())
            .hint("make one on the hub: mainstay token create")
    })
}

/// `None` if it was stopped before.
async fn join_fleet(
    applicant: &Applicant<'_>,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Membership>> {
    // Waiting for an operator is not a failure to start: systemd must not give up on it.
    daemon::ready();
    match join::join(applicant, stop).await {
        Ok(membership) => Ok(Some(membership)),
        Err(JoinError::Stopped) => Ok(None),
        Err(error @ JoinError::Refused(_)) => Err(Problem::new(ProblemKind::Forbidden, error.to_string())
            .hint("on the hub: mainstay token create, and mainstay nodes list")
            .into()),
        Err(error) => Err(error.into()),
    }
}

fn applicant<'a>(
    data: &'a Path,
    key: &ed25519_dalek::SigningKey,
    config: &AgentConfig,
    token: Option<&JoinToken>,
    hubs: &[String],
    facts: &Facts,
) -> anyhow::Result<Applicant<'a>> {
    let fingerprint = match (token, &config.ca_fingerprint) {
        (Some(token), _) => Fingerprint(token.ca),
        (None, Some(text)) => text.parse().map_err(|error| {
            Problem::new(ProblemKind::Invalid, format!("ca_fingerprint: {error}"))
                .hint("the hub's is shown by: mainstay status")
        })?,
        (None, None) => {
            return Err(Problem::new(ProblemKind::Invalid, "this node has not joined a fleet yet")
                .hint("with a token from the hub: mainstay agent --join TOKEN")
                .hint("without one: mainstay agent --link HOST:PORT --ca-fingerprint FINGERPRINT, then accept it on the hub")
                .into());
        }
    };
    if hubs.is_empty() {
        return Err(no_address().into());
    }
    let name = match config.name.as_ref().or(token.and_then(|token| token.name.as_ref())) {
        Some(name) => name.clone(),
        None => name_of_machine(&facts.hostname)?,
    };
    Ok(Applicant {
        data,
        key: key.clone(),
        name,
        facts: facts.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        journal: node::read_journal(data)?.id,
        hubs: hubs.to_vec(),
        trust: Trust::Fingerprint(fingerprint),
        secret: token.map(|token| token.secret.expose().to_owned()),
    })
}

fn no_address() -> Problem {
    Problem::new(ProblemKind::Invalid, "no hub's address is known")
        .hint("give one: mainstay agent --link HOST:PORT")
}

fn name_of_machine(hostname: &str) -> anyhow::Result<NodeName> {
    hostname.parse().map_err(|_| {
        Problem::new(
            ProblemKind::Invalid,
            format!("this machine's name {hostname:?} cannot be a node's name"),
        )
        .hint("choose one: mainstay agent --name NAME")
        .into()
    })
}

async fn serve(
    data: &Path,
    key: ed25519_dalek::SigningKey,
    config: AgentConfig,
    membership: Membership,
    facts: Facts,
    modules: Modules,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let registry = Arc::new(Mutex::new(Registry::default()));
    let node = Node::new(NodeConfig {
        data: data.to_owned(),
        key,
        name: membership.identity.name,
        chain: membership.chain,
        ca: membership.ca,
        facts,
        version: env!("CARGO_PKG_VERSION").into(),
        rules: config.allow,
        roots: daemon::roots(&config.received_roots)?,
        limits: config.limits.engine(),
        clock: Clock::new(Timestamp::default()),
        metrics: registry.clone(),
        side: Side::Agent { hubs: config.links },
        modules,
    });
    let tasks = TaskTracker::new();
    if let Some(address) = config.metrics.0 {
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .with_context(|| format!("metrics cannot be served at {address}"))?;
        tasks.spawn(api::serve_metrics(listener, registry, stop.clone()));
    }
    tasks.spawn(settle(stop.clone()));
    let result = node.run(stop.clone(), daemon::ready).await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    result.map_err(|error| anyhow!(error))
}

/// Gives back what only the start took.
async fn settle(stop: CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(STARTED) => memory::give_back(),
        () = stop.cancelled() => {}
    }
}

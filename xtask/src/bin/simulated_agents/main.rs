//! Thousands of agents in one process, for measurements: real keys, real TLS, real signatures, the real delivery
//! engine, and one journal that all of them share; only their methods do nothing.
//!
//! `simulated_agents --token @FILE --journal FILE --agents N` joins them all, then reads orders from its
//! standard input, one a line, and answers each with one JSON object:
//!
//! | Order | Answer |
//! | --- | --- |
//! | `connect` | how long it took until all were linked |
//! | `send NODE WINDOW SECONDS` | pings from the first agent to NODE, so many outstanding |
//! | `receive SOCKET WINDOW SECONDS` | pings to the first agent, offered at a node's message socket |
//! | `signing` | how many seconds one core takes to sign and to verify |
//! | `synced DIRECTORY COUNT` | records made durable a second, so many with each sync |
//! | `stats` | what the shared journal did so far |

mod agent;
mod limit;
mod load;
mod member;

use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context as _, bail};
use clap::Parser;
use mainstay_core::join_token::JoinToken;
use mainstay_link::limits::{Limits, LinkCounters};
use mainstay_store::{Handle, SqliteJournal, Writer};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use agent::Agent;
use member::Member;

/// Handshakes at a time: enough to keep both ends busy, and far below what a hub lets wait at its door.
const AT_ONCE: usize = 64;

#[derive(Parser)]
struct Arguments {
    /// A join token that is good for all of them, or @FILE
    #[arg(long)]
    token: String,
    /// The journal that all share
    #[arg(long)]
    journal: PathBuf,
    #[arg(long)]
    agents: usize,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    raise_limits()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve(arguments))
}

/// Every agent has a socket.
fn raise_limits() -> anyhow::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}

async fn serve(arguments: Arguments) -> anyhow::Result<()> {
    let token: JoinToken = match arguments.token.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path)?.parse()?,
        None => arguments.token.parse()?,
    };
    let (journal, _) = SqliteJournal::open(&arguments.journal)?;
    let writer = Writer::start(Box::new(journal))?;
    let began = Instant::now();
    let members = enrol(&token, arguments.agents).await?;
    say(&json!({ "enrolled": members.len(), "seconds": began.elapsed().as_secs_f64() }))?;
    let mut orders = orders();
    let mut swarm = Swarm { members, agents: Vec::new(), running: JoinSet::new(), journal: writer.handle() };
    while let Some(order) = orders.recv().await {
        let answer = swarm.obey(&order).await.with_context(|| format!("order {order:?}"))?;
        say(&answer)?;
    }
    Ok(())
}

fn say(what: &Value) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{what}")?;
    out.flush()
}

/// Lines of standard input. A thread of its own, since reading a terminal or a pipe blocks.
fn orders() -> tokio::sync::mpsc::Receiver<String> {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

async fn enrol(token: &JoinToken, count: usize) -> anyhow::Result<Vec<Arc<Member>>> {
    let mut members = Vec::with_capacity(count);
    let mut joining = JoinSet::new();
    for number in 0..count {
        if joining.len() >= AT_ONCE
            && let Some(joined) = joining.join_next().await
        {
            members.push(joined??);
        }
        let token = token.clone();
        joining.spawn(async move { Member::join(number, &token).await });
    }
    while let Some(joined) = joining.join_next().await {
        members.push(joined??);
    }
    members.sort_by_key(|member| member.number);
    Ok(members.into_iter().map(Arc::new).collect())
}

struct Swarm {
    members: Vec<Arc<Member>>,
    agents: Vec<agent::Handle>,
    running: JoinSet<anyhow::Result<()>>,
    journal: Handle,
}

impl Swarm {
    async fn obey(&mut self, order: &str) -> anyhow::Result<Value> {
        let words: Vec<&str> = order.split_whitespace().collect();
        match words[..] {
            ["connect"] => self.connect().await,
            ["send", to, window, seconds] => {
                let first = self.agents.first_mut().context("nobody is connected")?;
                load::send(first, to, window.parse()?, seconds.parse()?).await
            }
            ["receive", socket, window, seconds] => {
                let first = self.agents.first_mut().context("nobody is connected")?;
                load::receive(first, socket, window.parse()?, seconds.parse()?).await
            }
            ["signing"] => {
                let (sign, verify) = limit::signing();
                Ok(json!({ "sign": sign, "verify": verify }))
            }
            ["synced", directory, together] => {
                let rate = limit::synced_records(Path::new(directory), together.parse()?)?;
                Ok(json!({ "per_second": rate }))
            }
            ["stats"] => Ok(self.stats()),
            _ => bail!("it is not an order"),
        }
    }

    async fn connect(&mut self) -> anyhow::Result<Value> {
        let began = Instant::now();
        let counters = Arc::<LinkCounters>::default();
        let mut linking = JoinSet::new();
        let mut linked = Vec::with_capacity(self.members.len());
        for member in self.members.clone() {
            if linking.len() >= AT_ONCE
                && let Some(agent) = linking.join_next().await
            {
                linked.push(agent??);
            }
            let (journal, counters) = (self.journal.clone(), counters.clone());
            linking.spawn(async move { Agent::link(&member, journal, Limits::default(), counters).await });
        }
        while let Some(agent) = linking.join_next().await {
            linked.push(agent??);
        }
        let seconds = began.elapsed().as_secs_f64();
        linked.sort_by_key(|(agent, _)| agent.number);
        for (agent, handle) in linked {
            self.running.spawn(agent.run());
            self.agents.push(handle);
        }
        Ok(json!({ "linked": self.agents.len(), "seconds": seconds }))
    }

    fn stats(&self) -> Value {
        let counters = self.journal.counters();
        json!({
            "syncs": counters.syncs.load(Ordering::Relaxed),
            "batches": counters.batches.load(Ordering::Relaxed),
            "ended_links": self.running.len() != self.agents.len(),
        })
    }
}

//! `cargo xtask crash`: a hub and agents as real processes, killed at random moments while work is offered from all
//! sides; afterwards everything is compared with what was accepted.
//!
//! A kill -9 keeps what the kernel has: it tries the program's own order of steps, not the disk. Lost writes
//! are tried where the disk can be simulated.

mod books;
mod check;
mod dice;
mod offer;
mod work;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use clap::Args;
use mainstay::api::RunDetail;
use mainstay_control::view::{RunView, StatusView};
use mainstay_core::id::KeyId;

use crate::fleet::{self, Fleet, HUB, Plan};
use books::{Book, Ledger};
use check::{Evidence, Kill, Verdict};
use dice::Dice;
use offer::{Offered, Offers};
use work::Tools;

/// Most messages of one origin: a node remembers the ends of its last 10,000, and those that were accepted
/// though nobody was told count as well.
const MOST_OF_AN_ORIGIN: usize = 9_000;

/// One run for so many messages.
const MESSAGES_A_RUN: usize = 25;

/// Most runs: as many as the hub lists at once.
const MOST_RUNS: usize = 10_000;

/// How often more work is allowed, so that it does not come in bursts.
const ALLOW_EVERY: Duration = Duration::from_millis(25);

/// After the last kill, all work must be accepted within this, and everything at its end within the next.
const OFFER_WITHIN: Duration = Duration::from_secs(120);
const QUIET_WITHIN: Duration = Duration::from_secs(180);

/// Rounds between two signs of life.
const TELL_EVERY: usize = 50;

/// The hub owes nothing for so long: then the agents are done, too, unless the journals say otherwise.
const QUIET_FOR: Duration = Duration::from_secs(1);

/// How often the fleet is started again because a journal still held something.
const MORE_CHANCES: u32 = 5;

#[derive(Args, Clone, Debug)]
pub struct CrashArgs {
    /// How often something is killed
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// How many messages must be accepted
    #[arg(long, default_value_t = 600)]
    messages: usize,
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(3..=50))]
    agents: u16,
    /// Chooses victims, moments and work; a new one unless given
    #[arg(long)]
    seed: Option<u64>,
    /// The longest time from one kill to the next; half of it on average
    #[arg(long, default_value_t = 1_200, value_name = "MS")]
    round_ms: u64,
    /// Uses this program rather than building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Keeps the directory also when all is well
    #[arg(long)]
    keep: bool,
}

impl CrashArgs {
    /// A round that fits into a test run.
    pub fn short() -> Self {
        Self { rounds: 8, messages: 300, agents: 3, seed: None, round_ms: 1_000, binary: None, keep: false }
    }
}

pub fn run(args: CrashArgs) -> anyhow::Result<ExitCode> {
    let origins = usize::from(args.agents) + 1;
    if args.messages > MOST_OF_AN_ORIGIN * origins || args.messages / MESSAGES_A_RUN > MOST_RUNS {
        let enough = args.messages.div_ceil(MOST_OF_AN_ORIGIN) - 1;
        bail!("{} messages need --agents {enough} at least, and are 250,000 at most", args.messages);
    }
    let random = getrandom::u64().map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    let seed = args.seed.unwrap_or(random % 1_000_000);
    println!(
        "crash --rounds {} --messages {} --agents {} --seed {seed}",
        args.rounds, args.messages, args.agents
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(trial(&args, seed))
}

async fn trial(args: &CrashArgs, seed: u64) -> anyhow::Result<ExitCode> {
    let [built, entry] = fleet::build(["mainstay", "ledger_entry"], false)?;
    let binary = args.binary.as_ref().map_or(Ok(built), |path| path.canonicalize())?;
    let agents = usize::from(args.agents);
    let mut fleet = Fleet::start(Plan { binary: &binary, agents, label: "crash" }).await?;
    let began = Instant::now();
    let judged = judge(&mut fleet, args, seed, entry).await;
    let good = match &judged {
        Ok((evidence, verdict)) => {
            report(evidence, verdict, began.elapsed());
            verdict.is_good()
        }
        Err(error) => {
            println!("the trial could not be carried out: {error:#}");
            false
        }
    };
    if !good || args.keep {
        fleet.keep();
        println!("kept: {}", fleet.root.display());
    }
    if !good {
        println!("seed {seed}");
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn judge(
    fleet: &mut Fleet,
    args: &CrashArgs,
    seed: u64,
    entry: PathBuf,
) -> anyhow::Result<(Evidence, Verdict)> {
    let keys = keys(fleet).await?;
    let tools = Tools::new(entry, &fleet.root);
    let offers = Offers::start(fleet, tools.clone(), seed);
    let mut kills = Vec::new();
    let killed = kill_while_offering(fleet, args, seed, &offers, &mut kills).await;
    let accepted = match killed {
        Ok(()) => until_accepted(fleet, args, &offers).await,
        Err(error) => Err(error),
    };
    let offered = offers.end().await;
    accepted?;
    let (runs, books, mishaps) = settle(fleet).await?;
    let mut evidence = Evidence {
        offered,
        runs,
        books,
        keys,
        pids: fleet.daemons().map(|daemon| (daemon.name.clone(), daemon.pids.clone())).collect(),
        ledger: Ledger::read(&tools.ledger)?,
        replies: BTreeMap::new(),
        kills,
        mishaps,
    };
    for daemon in fleet.daemons() {
        evidence.replies.insert(daemon.name.clone(), books::replies(&daemon.data)?);
        if daemon.log_text().contains("panicked") {
            evidence.mishaps.push(format!("{} panicked", daemon.name));
        }
    }
    let verdict = check::check(&evidence);
    Ok((evidence, verdict))
}

async fn keys(fleet: &Fleet) -> anyhow::Result<BTreeMap<String, KeyId>> {
    let mut keys = BTreeMap::new();
    for node in fleet.nodes().await? {
        keys.insert(node.name.to_string(), node.key.parse()?);
    }
    let hub: StatusView = fleet.client().get("/v1/status").await?;
    keys.insert(HUB.to_owned(), hub.key.parse()?);
    Ok(keys)
}

/// The rounds: work is allowed evenly over their time, and at the end of each somebody dies.
async fn kill_while_offering(
    fleet: &mut Fleet,
    args: &CrashArgs,
    seed: u64,
    offers: &Offers,
    kills: &mut Vec<Kill>,
) -> anyhow::Result<()> {
    let mut dice = Dice::new(seed, 0);
    let mut allowed = (0, 0);
    for round in 1..=args.rounds {
        let until = Instant::now() + Duration::from_millis(dice.within(0..args.round_ms.max(1)));
        let due = (args.messages * round / args.rounds, args.messages / MESSAGES_A_RUN * round / args.rounds);
        while Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            let steps = usize::try_from(left.as_millis() / ALLOW_EVERY.as_millis()).unwrap_or(0) + 1;
            let more = ((due.0 - allowed.0).div_ceil(steps), (due.1 - allowed.1).div_ceil(steps));
            offers.allow(more.0, more.1);
            allowed = (allowed.0 + more.0, allowed.1 + more.1);
            tokio::time::sleep(ALLOW_EVERY.min(left)).await;
        }
        offers.allow(due.0 - allowed.0, due.1 - allowed.1);
        allowed = due;
        disaster(fleet, &mut dice, kills).await.with_context(|| format!("in round {round}"))?;
        if round % TELL_EVERY == 0 {
            println!("  {round} rounds, {} kills, {} messages accepted", kills.len(), offers.accepted().0);
        }
    }
    Ok(())
}

/// Who dies, and how: an agent, the hub, two at once, or one again while it still recovers.
async fn disaster(fleet: &mut Fleet, dice: &mut Dice, kills: &mut Vec<Kill>) -> anyhow::Result<()> {
    let agents = fleet.agents.len();
    let agent = 1 + dice.index(agents);
    let (victims, again) = match dice.within(0..100) {
        0..50 => (vec![agent], false),
        50..65 => (vec![0], false),
        65..75 => (vec![0, agent], false),
        75..85 => (vec![agent, 1 + agent % agents], false),
        85..95 => (vec![agent], true),
        _ => (vec![0], true),
    };
    for victim in &victims {
        kill(fleet, *victim, kills)?;
    }
    tokio::time::sleep(Duration::from_millis(dice.within(0..400))).await;
    if again {
        for victim in &victims {
            start(fleet, *victim)?;
        }
        tokio::time::sleep(Duration::from_millis(dice.within(0..150))).await;
        for victim in &victims {
            kill(fleet, *victim, kills)?;
        }
    }
    for victim in &victims {
        start(fleet, *victim)?;
    }
    Ok(())
}

fn kill(fleet: &mut Fleet, victim: usize, kills: &mut Vec<Kill>) -> anyhow::Result<()> {
    let daemon = fleet.daemons().nth(victim).context("no such node")?;
    daemon.kill()?;
    kills.push(Kill { node: daemon.name.clone(), at: now() });
    Ok(())
}

fn start(fleet: &mut Fleet, victim: usize) -> anyhow::Result<()> {
    fleet.daemons().nth(victim).context("no such node")?.start()
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

async fn until_accepted(fleet: &mut Fleet, args: &CrashArgs, offers: &Offers) -> anyhow::Result<()> {
    fleet.start_all()?;
    let deadline = Instant::now() + OFFER_WITHIN;
    loop {
        let (messages, runs) = offers.accepted();
        if messages >= args.messages && runs >= args.messages / MESSAGES_A_RUN {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("only {messages} messages and {runs} runs were accepted in time");
        }
        fleet.start_all()?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

type Settled = (Vec<RunDetail>, BTreeMap<String, Book>, Vec<String>);

/// Lets everything come to its end, takes what the hub tells of runs, stops all, and reads the journals.
async fn settle(fleet: &mut Fleet) -> anyhow::Result<Settled> {
    let mut mishaps = Vec::new();
    for chance in 0..=MORE_CHANCES {
        fleet.start_all()?;
        if let Err(error) = until_quiet(fleet).await {
            mishaps.push(format!("{error:#}"));
        }
        let runs = runs(fleet).await?;
        mishaps.extend(fleet.stop_all()?);
        let mut books = BTreeMap::new();
        for daemon in fleet.daemons() {
            books.insert(daemon.name.clone(), Book::read(&daemon.data.join("journal.db"))?);
        }
        if chance == MORE_CHANCES || !mishaps.is_empty() || books.values().all(|b| b.unsettled().is_empty()) {
            return Ok((runs, books, mishaps));
        }
    }
    bail!("unreachable: the last chance returns")
}

async fn until_quiet(fleet: &mut Fleet) -> anyhow::Result<()> {
    let since = std::cell::Cell::new(None::<Instant>);
    fleet
        .until(QUIET_WITHIN, "the hub still owes something", async |client| {
            let status: StatusView = client.get("/v1/status").await?;
            if status.runs_pending > 0 || status.queues.values().any(|count| *count > 0) {
                since.set(None);
                bail!("{} runs pending, queues {:?}", status.runs_pending, status.queues);
            }
            let quiet_since = since.get().unwrap_or_else(Instant::now);
            since.set(Some(quiet_since));
            Ok(quiet_since.elapsed() >= QUIET_FOR)
        })
        .await
}

async fn runs(fleet: &Fleet) -> anyhow::Result<Vec<RunDetail>> {
    let client = fleet.client();
    let listed: Vec<RunView> = client.get(&format!("/v1/runs?limit={MOST_RUNS}")).await?;
    let mut details = Vec::new();
    for run in listed {
        details.push(client.get(&format!("/v1/runs/{}", run.run)).await?);
    }
    Ok(details)
}

fn report(evidence: &Evidence, verdict: &Verdict, took: Duration) {
    let Offered { messages, runs, counts, why } = &evidence.offered;
    let load = |count: &std::sync::atomic::AtomicU64| count.load(std::sync::atomic::Ordering::Relaxed);
    let of_hub = evidence.kills.iter().filter(|kill| kill.node == HUB).count();
    let line = |what: &str, figure: String| println!("  {what:<42} {figure}");
    println!();
    line("kills", format!("{} ({of_hub} of the hub)", evidence.kills.len()));
    line("messages accepted", messages.len().to_string());
    line("  and accepted with nobody told", verdict.unknown_but_accepted.to_string());
    line("runs accepted", format!("{} (on {} nodes together)", runs.len(), verdict.run_nodes));
    line("offers refused, unreachable", format!("{}, {}", load(&counts.refused), load(&counts.unreachable)));
    for (outcome, count) in &verdict.outcomes {
        line(&format!("ended {outcome}"), count.to_string());
    }
    line("finished", format!("{:.2} %", verdict.finished_percent()));
    line("executions in the ledger", verdict.executions.to_string());
    line("events of the nodes themselves", verdict.events.to_string());
    line("replies checked", verdict.replies_checked.to_string());
    line("violations", verdict.by_kind.values().sum::<usize>().to_string());
    line("time", format!("{:.1} s", took.as_secs_f64()));
    for (kind, count) in &verdict.by_kind {
        println!("  VIOLATION {kind}: {count}");
    }
    for violation in &verdict.violations {
        println!("    {violation}");
    }
    if !verdict.is_good() {
        for why in why.iter().take(10) {
            println!("    refused: {why}");
        }
    }
}

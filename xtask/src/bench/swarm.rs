//! Thousands of simulated agents on one hub, and the process that they live in.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::figure::{Figure, Figures};
use super::{Bench, process};
use crate::fleet::{Fleet, Plan};

const PART: &str = "fleet";

/// DESIGN §10, for 10,000 agents.
const LARGE: usize = 10_000;
const GOAL_LINKED_S: f64 = 60.0;
const GOAL_KIB: f64 = 25.0;
const GOAL_RUN_S: f64 = 3.0;

const KIB: f64 = 1024.0;

/// Runs to all agents; the median counts.
const RUNS: usize = 3;

/// The process of the simulated agents, and the conversation with it.
pub struct Swarm {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    /// What it said once all had joined.
    pub enrolled: Value,
}

impl Swarm {
    pub async fn start(program: &Path, fleet: &Fleet, agents: usize) -> anyhow::Result<Self> {
        let token = fleet.root.join("swarm-token");
        std::fs::write(&token, fleet.token(u32::try_from(agents)?).await?)?;
        let mut child = Command::new(program)
            .arg("--token")
            .arg(format!("@{}", token.display()))
            .arg("--journal")
            .arg(fleet.root.join("swarm.db"))
            .args(["--agents", &agents.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} cannot be started", program.display()))?;
        let orders = child.stdin.take().context("no input")?;
        let answers = BufReader::new(child.stdout.take().context("no output")?).lines();
        let mut swarm = Self { child, orders, answers, enrolled: Value::Null };
        swarm.enrolled = swarm.answer()?;
        Ok(swarm)
    }

    pub fn order(&mut self, order: &str) -> anyhow::Result<Value> {
        writeln!(self.orders, "{order}")?;
        self.answer()
    }

    fn answer(&mut self) -> anyhow::Result<Value> {
        let line = self.answers.next().context("the simulated agents have ended")??;
        Ok(serde_json::from_str(&line)?)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn number(value: &Value, field: &str) -> anyhow::Result<f64> {
    value[field].as_f64().with_context(|| format!("there is no {field} in {value}"))
}

pub async fn measure(bench: &Bench, agents: usize, figures: &mut Figures) -> anyhow::Result<()> {
    let fleet = Fleet::start(Plan { binary: &bench.binary, agents: 0, label: "swarm" }).await?;
    let hub = fleet.hub.pid().context("the hub has ended")?;
    let mut swarm = Swarm::start(&bench.simulated, &fleet, agents).await?;
    let joined = number(&swarm.enrolled, "seconds")?;
    // Names and keys are in memory from here on; what links add is what is measured.
    let before = process::resident(hub)?;
    let cpu = (process::cpu(hub)?, process::cpu(swarm.pid())?);
    let linked = number(&swarm.order("connect")?, "seconds")?;
    let links_cpu = (process::cpu(hub)? - cpu.0, process::cpu(swarm.pid())? - cpu.1);
    let after = process::resident(hub)?;
    let mut times = Vec::new();
    let mut split = (0.0, 0.0);
    let (run_cpu, mut answered) = (process::cpu(hub)?, 0);
    for _ in 0..RUNS {
        let (accepted, whole, ok) = run(bench, &fleet)?;
        times.push(whole);
        split = (accepted, whole - accepted);
        answered = ok;
    }
    ensure!(answered == agents as u64, "only {answered} of {agents} answered well");
    let run_cpu = (process::cpu(hub)? - run_cpu) / RUNS as f64;
    let whole = super::figure::median(&mut times);
    let peak = process::resident(hub)?;
    let large = agents >= LARGE;
    let goal = |figure: Figure, most: f64| if large { figure.at_most(most) } else { figure };
    figures.add(Figure::new(PART, format!("{agents} agents joined"), joined, "s"));
    figures.add(goal(Figure::new(PART, format!("{agents} agents linked"), linked, "s"), GOAL_LINKED_S));
    let each = (after - before) / agents as f64 / KIB;
    figures.add(goal(Figure::new(PART, format!("hub memory for each of {agents}"), each, "KiB"), GOAL_KIB));
    let all = (peak - before) / agents as f64 / KIB;
    figures.add(Figure::new(PART, format!("the same, after {RUNS} runs"), all, "KiB"));
    figures.add(goal(
        Figure::new(PART, format!("one run to {agents}, accepted to all durable"), whole, "s"),
        GOAL_RUN_S,
    ));
    figures.note(format!(
        "{agents} links: {:.0} µs of the hub's processor each, {:.0} µs of the agents'",
        links_cpu.0 * 1e6 / agents as f64,
        links_cpu.1 * 1e6 / agents as f64,
    ));
    figures.note(format!(
        "run to {agents}: start to accepted {:.2} s, to all durable {:.2} s; {:.0} µs of the hub's processor for each",
        split.0,
        split.1,
        run_cpu * 1e6 / agents as f64,
    ));
    Ok(())
}

/// Seconds from the start of the process to `accepted`, from then to the summary, and how many went well.
fn run(bench: &Bench, fleet: &Fleet) -> anyhow::Result<(f64, f64, u64)> {
    let began = Instant::now();
    let mut child = Command::new(&bench.binary)
        .arg("--hub")
        .arg(fleet.api_socket())
        .args(["--json", "run", "-t", "*", "--", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let (mut accepted, mut whole, mut ok) = (0.0, 0.0, 0);
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        let line = line?;
        // Looking at each of thousands of lines as JSON would take processor time from who is measured.
        if line.contains("\"event\":\"accepted\"") {
            accepted = began.elapsed().as_secs_f64();
        } else if line.contains("\"event\":\"summary\"") {
            whole = began.elapsed().as_secs_f64() - accepted;
            ok = serde_json::from_str::<Value>(&line)?["ok"].as_u64().unwrap_or(0);
        }
    }
    child.wait()?;
    Ok((accepted, whole, ok))
}

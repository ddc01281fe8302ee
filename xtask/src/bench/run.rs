//! `mainstay run -- true` on connected agents: the whole process, from its start to its end.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::figure::{Figure, Figures, median};
use super::{Bench, limit, peers};
use crate::fleet::{Fleet, Plan, agent_name};

const PART: &str = "run";

/// The sizes asked for in DESIGN §10; its goal is for the last.
const SIZES: [usize; 3] = [1, 10, 50];
const GOAL_MS: f64 = 60.0;

const WARM_UPS: usize = 3;
const KEPT: usize = 15;

pub async fn measure(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    let most = SIZES[SIZES.len() - 1];
    let fleet = Fleet::start(Plan { binary: &bench.binary, agents: most, label: "run" }).await?;
    for size in SIZES {
        let (mut ours, mut forks, mut stages) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..WARM_UPS + KEPT {
            let whole = whole(bench, &fleet, size)?;
            let fork = limit::forks(size)?;
            let stage = Stages::of(bench, &fleet, size)?;
            if round >= WARM_UPS {
                ours.push(whole);
                forks.push(fork);
                stages.push(stage);
            }
        }
        let mut figure = Figure::new(PART, format!("run true on {size} agents"), median(&mut ours), "ms")
            .beside(format!("{size} forks of true"), median(&mut forks));
        if size == most {
            figure = figure.at_most(GOAL_MS);
            for (peer, milliseconds) in peers::run(bench.peers.as_deref(), size)? {
                figure = figure.beside(peer, milliseconds);
            }
        }
        figures.add(figure);
        figures.note(format!("run on {size}: {}", Stages::median(&stages)));
    }
    Ok(())
}

fn command(bench: &Bench, fleet: &Fleet, size: usize, json: bool) -> Command {
    let mut command = Command::new(&bench.binary);
    command.arg("--hub").arg(fleet.api_socket()).arg("run");
    if json {
        command.arg("--json");
    }
    for number in 1..=size {
        command.arg("-t").arg(agent_name(number));
    }
    command.args(["--", "true"]).stdin(Stdio::null()).stderr(Stdio::null());
    command
}

fn whole(bench: &Bench, fleet: &Fleet, size: usize) -> anyhow::Result<f64> {
    let began = Instant::now();
    let status = command(bench, fleet, size, false).stdout(Stdio::null()).status()?;
    let took = began.elapsed().as_secs_f64() * 1e3;
    ensure!(status.success(), "a run of true ended with {status}");
    Ok(took)
}

/// When what could be read from outside: milliseconds since the process was started.
struct Stages {
    accepted: f64,
    first: f64,
    last: f64,
    ended: f64,
    /// What the agents say that the command itself took, the longest of them.
    longest: f64,
}

impl Stages {
    fn of(bench: &Bench, fleet: &Fleet, size: usize) -> anyhow::Result<Self> {
        let began = Instant::now();
        let since = || began.elapsed().as_secs_f64() * 1e3;
        let mut child = command(bench, fleet, size, true).stdout(Stdio::piped()).spawn()?;
        let mut stages = Self { accepted: 0.0, first: 0.0, last: 0.0, ended: 0.0, longest: 0.0 };
        for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
            let line: Value = serde_json::from_str(&line?)?;
            match line["event"].as_str() {
                Some("accepted") => stages.accepted = since(),
                Some("result") => {
                    stages.last = since();
                    if stages.first == 0.0 {
                        stages.first = stages.last;
                    }
                    stages.longest = stages.longest.max(line["duration_ms"].as_f64().unwrap_or(0.0));
                }
                _ => {}
            }
        }
        child.wait()?;
        stages.ended = since();
        Ok(stages)
    }

    fn median(all: &[Self]) -> String {
        let of = |which: fn(&Self) -> f64| median(&mut all.iter().map(which).collect::<Vec<_>>());
        format!(
            "start to accepted {:.1} ms, to the first result {:.1}, to the last {:.1}, to the end {:.1}; longest command {:.0} ms",
            of(|s| s.accepted),
            of(|s| s.first - s.accepted),
            of(|s| s.last - s.first),
            of(|s| s.ended - s.last),
            of(|s| s.longest),
        )
    }
}

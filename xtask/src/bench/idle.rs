//! What hub and agents cost while nothing is asked of them, how fast an agent is there, and how large the binary is.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::figure::{Figure, Figures, median};
use super::{Bench, process};
use crate::fleet::{Fleet, Plan};

const PART: &str = "rest";

const AGENTS: usize = 3;

/// Long enough to see what happens every 30 s.
const WATCHED: Duration = Duration::from_secs(65);

/// What follows a start has settled by then.
const SETTLED: Duration = Duration::from_secs(5);

const STARTS: usize = 7;
const LINKED_WITHIN: Duration = Duration::from_secs(10);

/// DESIGN §10.
const GOAL_AGENT_MIB: f64 = 10.0;
const GOAL_WAKES: f64 = 6.0;
const GOAL_LINKED_MS: f64 = 100.0;
const GOAL_BINARY_MIB: f64 = 30.0;

const MIB: f64 = 1024.0 * 1024.0;

pub async fn measure(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    let size = std::fs::metadata(&bench.binary)?.len() as f64 / MIB;
    figures.add(Figure::new(PART, "binary, stripped", size, "MiB").at_most(GOAL_BINARY_MIB));
    let mut fleet = Fleet::start(Plan { binary: &bench.binary, agents: AGENTS, label: "rest" }).await?;
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        starts.push(start_to_linked(&mut fleet).await?);
    }
    figures
        .add(Figure::new(PART, "agent, start to linked", median(&mut starts), "ms").at_most(GOAL_LINKED_MS));
    tokio::time::sleep(SETTLED).await;
    let hub = fleet.hub.pid().context("the hub has ended")?;
    let agents: Vec<u32> = fleet.agents.iter().filter_map(crate::fleet::Daemon::pid).collect();
    let watched: Vec<u32> = agents.iter().copied().chain([hub]).collect();
    let before = watched.iter().map(|pid| process::switches(*pid)).collect::<anyhow::Result<Vec<_>>>()?;
    tokio::time::sleep(WATCHED).await;
    let minutes = WATCHED.as_secs_f64() / 60.0;
    let mut wakes = Vec::new();
    for (pid, before) in watched.iter().zip(before) {
        wakes.push((process::switches(*pid)? - before) as f64 / minutes);
    }
    let of_hub = wakes.pop().unwrap_or(0.0);
    let mut memory =
        agents.iter().map(|pid| Ok(process::resident(*pid)? / MIB)).collect::<anyhow::Result<Vec<_>>>()?;
    figures.add(Figure::new(PART, "agent, resident", median(&mut memory), "MiB").at_most(GOAL_AGENT_MIB));
    figures.add(Figure::new(PART, "agent, wake-ups", median(&mut wakes), "/min").at_most(GOAL_WAKES));
    figures.add(Figure::new(PART, "hub, resident", process::resident(hub)? / MIB, "MiB"));
    figures.add(Figure::new(PART, "hub, wake-ups", of_hub, "/min"));
    Ok(())
}

/// Milliseconds from the start of an agent's process until the hub shows it as online.
async fn start_to_linked(fleet: &mut Fleet) -> anyhow::Result<f64> {
    let wanted = fleet.agents.len();
    fleet.agents[0].stop()?;
    let client = fleet.client();
    let online = async || -> anyhow::Result<usize> {
        let nodes: Vec<mainstay_control::view::NodeView> = client.get("/v1/nodes").await?;
        Ok(nodes.iter().filter(|node| node.online).count())
    };
    while online().await? >= wanted {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let began = Instant::now();
    fleet.agents[0].start()?;
    while online().await? < wanted {
        if began.elapsed() > LINKED_WITHIN {
            bail!("an agent did not link within {} s", LINKED_WITHIN.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

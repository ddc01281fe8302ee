//! `cargo xtask bench`: our figures beside the limits of this machine and beside peers, as ratios within one run.
//!
//! The product is measured from outside, as release-built processes. Each part prints its figures as a table, with
//! where the time goes; `--json` prints them as lines instead.

mod figure;
mod idle;
mod limit;
mod messages;
mod peers;
mod process;
mod run;
mod state;
mod swarm;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use crate::fleet;
use figure::Figures;

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Part {
    /// `run` of `true` on 1, 10 and 50 agents, the whole process
    Run,
    /// Durable messages a second
    Messages,
    /// Declared state: files here, by ssh, on agents; memory; large graphs
    State,
    /// Thousands of simulated agents
    Fleet,
    /// Agent and hub at rest, start-up, the binary
    Rest,
    All,
}

#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    #[arg(value_enum, default_value = "all")]
    part: Part,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// The peers' harness: a directory with `bench` in it, already set up
    #[arg(long, value_name = "DIR")]
    peers: Option<PathBuf>,
    /// How many simulated agents, one figure each
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000])]
    sizes: Vec<usize>,
    /// How long each rate is measured, in seconds
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Measures a debug build: only to try this program itself
    #[arg(long)]
    debug: bool,
}

/// What every part works with.
struct Bench {
    binary: PathBuf,
    simulated: PathBuf,
    seconds: u64,
    peers: Option<PathBuf>,
}

pub fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    let release = !args.debug;
    let [binary, simulated] = fleet::build(["mainstay", "simulated_agents"], release)?;
    let bench = Bench { binary, simulated, seconds: args.seconds, peers: args.peers };
    process::raise_limits()?;
    let mut figures = Figures::new(args.json);
    let wants = |part: Part| args.part == part || args.part == Part::All;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        if wants(Part::Rest) {
            idle::measure(&bench, &mut figures).await?;
        }
        if wants(Part::Run) {
            run::measure(&bench, &mut figures).await?;
        }
        if wants(Part::Messages) {
            messages::measure(&bench, &mut figures).await?;
        }
        if wants(Part::State) {
            state::measure(&bench, &mut figures).await?;
        }
        if wants(Part::Fleet) {
            for size in &args.sizes {
                swarm::measure(&bench, *size, &mut figures).await?;
            }
        }
        anyhow::Ok(())
    })?;
    figures.print();
    Ok(ExitCode::SUCCESS)
}

//! Plays seeds by hand: `cargo run -p mainstay-sim -- --seed 7 --log`.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use mainstay_sim::{Planted, Scenario, play};

/// Simulates a fleet: every node, its disk, its clock and the network between them, from one seed.
#[derive(Parser)]
struct Options {
    /// The first seed to play.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds to play, one after the other.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Agents beside the one hub.
    #[arg(long, default_value_t = 50)]
    nodes: usize,
    /// How long messages and faults come, in simulated seconds.
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// Mean time between two messages of the fleet.
    #[arg(long, default_value_t = 300)]
    message_every_ms: u64,
    /// Mean time between two faults; 0 for none.
    #[arg(long, default_value_t = 1_000)]
    fault_every_ms: u64,
    /// Check every signature, as a real node does.
    #[arg(long)]
    verify: bool,
    /// Make a mistake that must be found: skip-sync, skip-duplicate-check, acknowledge-before-writing.
    #[arg(long, value_parser = |word: &str| Planted::from_word(word).ok_or("there is no such mistake"))]
    plant: Option<Planted>,
    /// Print every line of the log.
    #[arg(long)]
    log: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let began = Instant::now();
    let (mut accepted, mut failed) = (0, 0_u64);
    for seed in options.seed..options.seed.saturating_add(options.seeds) {
        let report = play(&Scenario {
            seed,
            agents: options.nodes,
            seconds: options.seconds,
            message_every_ms: options.message_every_ms,
            fault_every_ms: options.fault_every_ms,
            verify: options.verify,
            planted: options.plant,
            print_log: options.log,
        });
        accepted += report.accepted;
        failed += u64::from(!report.violations.is_empty());
        if options.seeds == 1 || !report.violations.is_empty() {
            println!("{report}");
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{} seeds, {failed} failed; {accepted} messages in {seconds:.1} s, {:.0} a second",
        options.seeds,
        accepted as f64 / seconds
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

//! `cargo xtask`: what the repository needs beside the product: crash rounds, measurements, the whole test run.

mod bench;
mod crash;
mod fleet;
mod started;
mod test;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Crash rounds, measurements and tests of this repository")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Kills a hub and its agents at random moments while they work, and checks that nothing was lost or run twice
    Crash(crash::CrashArgs),
    /// Measures, beside the limits of this machine and beside peers where they are installed
    Bench(bench::BenchArgs),
    /// Runs every test, a short crash round and some simulated fleets; says what it had to skip
    Test(test::TestArgs),
}

fn main() -> anyhow::Result<std::process::ExitCode> {
    let cli = Cli::parse();
    started::end_with_this_program()?;
    match cli.task {
        Task::Crash(args) => crash::run(args),
        Task::Bench(args) => bench::run(args),
        Task::Test(args) => test::run(&args),
    }
}

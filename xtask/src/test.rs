//! `cargo xtask test`: every test there is, with what some of them need set up first.
//!
//! What cannot be set up is named, with the reason, and again at the end: a test that was skipped must not look
//! like one that passed.

use std::process::{Command, ExitCode, Stdio};

use anyhow::Context as _;
use clap::Args;

use crate::crash::{self, CrashArgs};

/// Simulated fleets in a test run: a few seconds each at most.
const SIM_SEEDS: u32 = 20;

#[derive(Args, Clone, Debug)]
pub struct TestArgs {
    /// Installs nothing, even as root
    #[arg(long)]
    no_install: bool,
    /// Tests only, without the crash round and the simulated fleets
    #[arg(long)]
    quick: bool,
}

/// A program that some tests need, and the package that it is in.
struct Need {
    program: &'static str,
    package: &'static str,
    of: &'static str,
}

const NEEDS: &[Need] = &[
    Need { program: "nc", package: "netcat-openbsd", of: "messages offered with nc -U" },
    Need { program: "sshd", package: "openssh-server", of: "machines reached by ssh" },
    Need { program: "ssh", package: "openssh-client", of: "machines reached by ssh" },
    Need { program: "sudo", package: "sudo", of: "working as another user over ssh" },
    Need { program: "git", package: "git", of: "the git module" },
    Need { program: "debootstrap", package: "debootstrap", of: "modules on a real system in a scratch root" },
    Need { program: "systemd-nspawn", package: "systemd-container", of: "scratch roots that boot" },
    Need { program: "bash", package: "bash", of: "commands whose process groups are ended as a whole" },
];

pub fn run(args: &TestArgs) -> anyhow::Result<ExitCode> {
    let skipped: Vec<String> = NEEDS.iter().filter_map(|need| provide(need, args)).collect();
    let mut failed = Vec::new();
    let mut step = |name: &str, good: anyhow::Result<bool>| match good {
        Ok(true) => {}
        Ok(false) => failed.push(name.to_owned()),
        Err(error) => failed.push(format!("{name}: {error:#}")),
    };
    step("cargo test --workspace", cargo(&["test", "--workspace"]));
    if !args.quick {
        println!("\na short crash round");
        step("crash", crash::run(CrashArgs::short()).map(|status| status == ExitCode::SUCCESS));
        println!("\nsimulated fleets");
        let seeds = SIM_SEEDS.to_string();
        step("sim", cargo(&["run", "--package", "mainstay-sim", "--", "--seeds", &seeds]));
    }
    println!();
    for skip in &skipped {
        println!("skipped: {skip}");
    }
    for failure in &failed {
        println!("failed: {failure}");
    }
    if failed.is_empty() {
        println!("all is well{}", if skipped.is_empty() { "" } else { " but for what was skipped" });
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn cargo(arguments: &[&str]) -> anyhow::Result<bool> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    Ok(Command::new(cargo).args(arguments).status().context("cargo cannot be started")?.success())
}

/// Sees to it that a program is there. What its absence skips, if it cannot be had.
fn provide(need: &Need, args: &TestArgs) -> Option<String> {
    if is_there(need.program) {
        return None;
    }
    let why = if args.no_install {
        "nothing is to be installed".to_owned()
    } else if !nix::unistd::geteuid().is_root() {
        format!("only root can install the package {}", need.package)
    } else if !is_there("apt-get") {
        format!("there is no apt-get to install the package {}", need.package)
    } else if install(need.package) && is_there(need.program) {
        return None;
    } else {
        format!("apt-get could not install the package {}", need.package)
    };
    println!("{} is missing: {why}", need.program);
    Some(format!("{} ({} is missing: {why})", need.of, need.program))
}

fn install(package: &str) -> bool {
    let status = Command::new("apt-get")
        .args(["install", "--yes", "--no-install-recommends", package])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Where a user's PATH does not lead.
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|directory| directory.join(program).is_file())
}

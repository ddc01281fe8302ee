//! The command line of a program that was built with [`crate::tool`]: `run`, `plan` and `up` on its own hosts.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use mainstay_core::batch::{BatchSize, FailureLimit};
use mainstay_core::time::Span;

use super::changes::Detail;
use super::hosts::HostArgs;
use super::plan::{at_least_one, show};
use super::remote::RemoteArgs;
use super::run_ssh::{self, SshRun};
use super::screen::Screen;
use super::{Done, at_once, ended, remote};
use crate::remote::talk::RunOrder;
use crate::tool::Tool;
use crate::up::rollout::{CYCLES, FORKS, Interrupt};
use crate::up::ssh::SshWay;
use crate::up::{Goal, Options, Rollout, Way};

/// Brings this program's hosts to their declared state
#[derive(Parser)]
#[command(max_term_width = 100, disable_help_subcommand = true)]
struct Cli {
    /// One JSON object a line, for programs
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a command on the hosts, all at once
    Run(RunArgs),
    /// Shows what would change; changes nothing
    Plan(PlanArgs),
    /// Looks, lists what would change, asks, modifies, and looks again until nothing is left
    Up(UpArgs),
    Remote(RemoteArgs),
}

#[derive(Args)]
struct Hosts {
    /// Only these hosts: names, globs, groups; repeatable
    #[arg(short, long = "target", value_name = "TARGET")]
    target: Vec<String>,
    /// Take host keys that are not known yet; without it they are refused
    #[arg(long)]
    accept_new_host_keys: bool,
    /// Work as this user, by sudo without a password [default user: root]
    #[arg(long = "become", value_name = "USER", num_args = 0..=1, require_equals = true, default_missing_value = "root")]
    become_user: Option<String>,
    /// Instead of ~/.ssh/config
    #[arg(long, value_name = "FILE")]
    ssh_config: Option<PathBuf>,
    /// At most so many hosts at once
    #[arg(long, value_name = "N", default_value_t = FORKS, value_parser = at_least_one)]
    forks: usize,
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    hosts: Hosts,
    /// How long it may take on a host
    #[arg(long, value_name = "DURATION")]
    timeout: Option<Span>,
    /// Show output while it comes
    #[arg(long)]
    stream: bool,
    /// The command and its arguments; with a single one, a line for a shell
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<String>,
}

#[derive(Args)]
struct PlanArgs {
    #[command(flatten)]
    hosts: Hosts,
    /// Show what stays as it is too, and long diffs whole
    #[arg(short, long)]
    verbose: bool,
    /// Say of each step why it stands where it does
    #[arg(long)]
    explain: bool,
}

#[derive(Args)]
struct UpArgs {
    #[command(flatten)]
    plan: PlanArgs,
    /// Do not ask, in no cycle
    #[arg(short, long)]
    yes: bool,
    /// How often a host is modified before not being stable is a failure
    #[arg(long, value_name = "N", default_value_t = CYCLES, value_parser = clap::value_parser!(u32).range(1..=100))]
    cycles: u32,
    /// How many hosts are modified at a time
    #[arg(long, value_name = "N|P%")]
    batch: Option<BatchSize>,
    /// Begin with no further host after more failures than this
    #[arg(long, value_name = "N|P%")]
    max_failures: Option<FailureLimit>,
}

pub(super) fn main(tool: &Tool) -> ExitCode {
    let cli = Cli::parse();
    let mut screen = Screen::of_process(cli.json);
    let done = match cli.command {
        Command::Remote(args) => return remote::run(args, tool.registry().clone()),
        Command::Run(args) => at_once(run(tool, args, &mut screen)),
        Command::Plan(args) => at_once(bring(tool, &args, Options::new(Goal::Plan), &mut screen)),
        Command::Up(args) => {
            let options = Options {
                cycles: args.cycles,
                batch: args.batch,
                max_failures: args.max_failures,
                ..Options::new(Goal::Up { yes: args.yes })
            };
            at_once(bring(tool, &args.plan, options, &mut screen))
        }
    };
    ended(done, &mut screen)
}

impl Hosts {
    fn ssh(&self) -> HostArgs {
        HostArgs {
            ssh: Vec::new(),
            inventory: None,
            become_user: self.become_user.clone(),
            accept_new_host_keys: self.accept_new_host_keys,
            agent_binary: Vec::new(),
            ssh_config: self.ssh_config.clone(),
        }
    }
}

async fn run(tool: &Tool, args: RunArgs, screen: &mut Screen) -> Done {
    let ssh = args.hosts.ssh();
    let command = match &args.command[..] {
        [line] => vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()],
        _ => args.command,
    };
    let run = SshRun {
        order: RunOrder {
            args: command,
            script: None,
            env: Default::default(),
            cwd: None,
            user: None,
            stdin: None,
            timeout: args.timeout.map(|Span(span): Span| -> Duration { span }),
            stream: args.stream,
            output_limit: run_ssh::OUTPUT_LIMIT,
        },
        hosts: ssh.among(&tool.inventory()?, &args.hosts.target)?,
        binaries: ssh.binaries()?,
        batch: None,
        max_failures: None,
    };
    run_ssh::run(run, screen).await
}

async fn bring(tool: &Tool, args: &PlanArgs, options: Options, screen: &mut Screen) -> Done {
    if let Goal::Up { yes: false } = options.goal
        && !screen.can_ask()
    {
        return Err(super::up::nobody_to_ask().into());
    }
    let ssh = args.hosts.ssh();
    let binaries = ssh.binaries()?;
    let way = |host: crate::up::inventory::Host| {
        let binaries = binaries.clone();
        let way = SshWay { name: host.name, labels: host.labels, vars: host.vars, host: host.ssh, binaries };
        Box::new(way) as Box<dyn Way>
    };
    let ways = ssh.among(&tool.inventory()?, &args.hosts.target)?.into_iter().map(way).collect();
    let options = Options { forks: args.hosts.forks, explain: args.explain, ..options };
    let detail = Detail { verbose: args.verbose, explain: args.explain, ..Detail::default() };
    let rollout = Rollout { ways, source: tool, options, interrupt: Interrupt::default() };
    show(rollout, None, detail, screen).await
}

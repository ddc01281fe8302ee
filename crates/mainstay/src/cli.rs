//! The command line: one file a command below; here is what they share.
//!
//! A command finds the hub, makes a call or two and shows the answer. What it decides for itself is only how
//! things are shown and what its exit status is.

mod agent;
mod audit;
mod backup;
mod completions;
mod daemon;
mod dev;
mod errors;
mod hub;
mod login;
mod messages;
mod modules;
mod nodes;
mod plan;
mod remote;
mod restore;
mod run;
mod runs;
mod send;
mod status;
mod token;
mod tool;
mod up;

mod changes;
mod fold;
mod hosts;
mod live;
mod moment;
mod name_range;
mod problem_text;
mod rollout_bars;
mod rollout_lines;
mod rollout_text;
mod run_ssh;
mod screen;
mod state_run;
mod table;
mod watch;

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mainstay_control::view::{Problem, ProblemKind};
use mainstay_module::registry::Registry;

use crate::client::{Client, endpoint};
pub use dev::DevArgs;
use screen::Screen;

/// Exit statuses of DESIGN §8 that are not an error's.
mod status_of {
    pub(super) const WELL: u8 = 0;
    pub(super) const FAILED: u8 = 1;
    pub(super) const PENDING: u8 = 3;
}

/// Keeps a fleet of machines in order, including machines that are often out of reach.
#[derive(Parser)]
#[command(
    name = "mainstay",
    version,
    max_term_width = 100,
    after_help = "Try it: `mainstay dev` starts a hub and three agents on this machine.",
    disable_help_subcommand = true
)]
#[expect(rustdoc::broken_intra_doc_links, reason = "its comments are what --help shows")]
struct Cli {
    /// The hub to command: https://HOST[:PORT] or unix:PATH [default: that of a running `mainstay dev`, else the one logged in to, else this machine's]
    #[arg(
        long,
        global = true,
        env = "MAINSTAY_HUB",
        value_name = "URL",
        hide_env_values = true,
        help_heading = "For every command"
    )]
    hub: Option<String>,
    /// One JSON object a line, for programs
    #[arg(long, global = true, help_heading = "For every command")]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Dev(DevArgs),
    Hub(crate::config::hub::HubArgs),
    Agent(crate::config::agent::AgentArgs),
    #[command(subcommand)]
    Token(token::TokenCommand),
    #[command(subcommand)]
    Nodes(nodes::NodesCommand),
    Run(run::RunArgs),
    Send(send::SendArgs),
    Messages(messages::MessagesArgs),
    Plan(plan::PlanArgs),
    Up(up::UpArgs),
    Modules(modules::ModulesArgs),
    Remote(remote::RemoteArgs),
    #[command(subcommand)]
    Runs(runs::RunsCommand),
    Login(login::LoginArgs),
    Status(status::StatusArgs),
    Backup(backup::BackupArgs),
    Restore(restore::RestoreArgs),
    Audit(audit::AuditArgs),
    Errors(errors::ErrorsArgs),
    Completions(completions::CompletionsArgs),
}

/// Why a command stops before its end.
#[derive(Debug)]
enum Stop {
    Problem(Problem),
    /// Whoever read our output has gone: there is nobody left to tell.
    Unread,
    /// The output cannot be written: the work may be done, but what came of it is not told.
    Unwritten(io::Error),
}

/// The exit status of a command that came to its end.
type Done = Result<u8, Stop>;

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::Unread;
        }
        Self::Unwritten(error)
    }
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    main_with(mainstay_module::registry::builtin())
}

/// The same with other modules: for a program of one's own, whose copy works at the other end of ssh.
pub fn main_with(registry: Registry) -> ExitCode {
    let cli = Cli::parse();
    let mut screen = Screen::of_process(cli.json);
    if let Command::Remote(args) = cli.command {
        return remote::run(args, registry);
    }
    let done = execute(cli, &registry, &mut screen);
    ended(done, &mut screen)
}

/// For a program that was built with [`crate::tool`].
pub(crate) fn tool_main(tool: &crate::tool::Tool) -> ExitCode {
    tool::main(tool)
}

/// Writes what is left to be shown, and tells what went wrong.
fn ended(done: Done, screen: &mut Screen) -> ExitCode {
    let done = done.and_then(|status| {
        screen.flush()?;
        Ok(status)
    });
    match done {
        Ok(status) => ExitCode::from(status),
        Err(Stop::Unread) => ExitCode::from(status_of::FAILED),
        Err(Stop::Unwritten(error)) => {
            let message = format!("the output cannot be written: {error}");
            problem_text::show(&Problem::new(ProblemKind::Internal, message), screen);
            ExitCode::from(status_of::FAILED)
        }
        Err(Stop::Problem(problem)) => {
            problem_text::show(&problem, screen);
            ExitCode::from(problem.kind.exit_status())
        }
    }
}

fn execute(cli: Cli, registry: &Registry, screen: &mut Screen) -> Done {
    let hub = cli.hub.as_deref();
    let client = || endpoint::find(hub).map(Client::new);
    match cli.command {
        Command::Dev(args) => dev::run(args, screen),
        Command::Hub(args) => hub::run(args, registry),
        Command::Agent(args) => agent::run(args, registry),
        Command::Restore(args) => restore::run(&args, screen),
        Command::Completions(args) => completions::run(&args, screen),
        Command::Login(args) => at_once(login::run(args, screen)),
        Command::Token(command) => at_once(token::run(&client()?, command, screen)),
        Command::Nodes(command) => at_once(nodes::run(&client()?, command, screen)),
        Command::Run(args) => at_once(run::run(client, args, screen)),
        Command::Plan(args) => at_once(plan::run(args, hub, registry, screen)),
        Command::Up(args) => at_once(up::run(args, hub, registry, screen)),
        Command::Modules(args) => modules::run(&args, registry, screen),
        // Served before there was a screen.
        Command::Remote(_) => Ok(status_of::WELL),
        Command::Send(args) => at_once(send::run(&client()?, &args, screen)),
        Command::Messages(args) => at_once(messages::run(&client()?, &args, screen)),
        Command::Runs(command) => at_once(runs::run(&client()?, command, screen)),
        Command::Status(args) => at_once(status::run(&client()?, &args, screen)),
        Command::Backup(args) => at_once(backup::run(&client()?, &args, screen)),
        Command::Errors(args) => at_once(errors::run(&client()?, &args, screen)),
        Command::Audit(args) => at_once(audit::run(&client()?, &args, screen)),
    }
}

/// A command waits for one thing at a time: a runtime of this thread alone is up in no time.
fn at_once(command: impl Future<Output = Done>) -> Done {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

/// Reads a file that was named, or standard input for `-`.
fn read_input(path: &str) -> Result<Vec<u8>, Problem> {
    use std::io::Read;
    let most = crate::api::MAX_BODY as u64 + 1;
    let mut bytes = Vec::new();
    let read = if path == "-" {
        io::stdin().lock().take(most).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes))
    };
    let named = if path == "-" { "standard input" } else { path };
    read.map_err(|e| Problem::new(ProblemKind::Invalid, format!("{named} cannot be read: {e}")))?;
    if bytes.len() as u64 == most {
        let limit = crate::api::MAX_BODY >> 20;
        let message = format!("{named} is larger than the {limit} MiB that a hub takes at once");
        return Err(Problem::new(ProblemKind::Invalid, message));
    }
    Ok(bytes)
}

/// The same, for what has to be text.
fn read_text(path: &str) -> Result<String, Problem> {
    String::from_utf8(read_input(path)?).map_err(|e| {
        let named = if path == "-" { "standard input" } else { path };
        let line = e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        Problem::new(ProblemKind::Invalid, format!("{named}: line {line} is not UTF-8"))
    })
}

/// Asks before something that cannot be taken back; without a terminal, `--yes` must have said so.
fn confirm(screen: &mut Screen, yes: bool, what: &str) -> Result<(), Stop> {
    if yes {
        return Ok(());
    }
    let declined =
        |message: &str| Problem::new(ProblemKind::Invalid, message).hint("say --yes to do it unasked");
    if !screen.can_ask() {
        return Err(declined(&format!("{what} This needs a yes, and there is nobody to ask.")).into());
    }
    screen.note(&format!("{what} Type yes to go on:"))?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    if answer.trim() == "yes" { Ok(()) } else { Err(declined("Nothing was done.").into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_well_formed_and_every_command_shows_an_example() {
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();
        check_examples(&command, "mainstay");
    }

    fn check_examples(command: &clap::Command, path: &str) {
        for sub in command.get_subcommands() {
            let path = format!("{path} {}", sub.get_name());
            if sub.has_subcommands() {
                check_examples(sub, &path);
                continue;
            }
            let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example") && help.contains(&path), "{path} has no example");
        }
    }
}

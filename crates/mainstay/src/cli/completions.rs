//! `mainstay completions`: completion of commands and flags for a shell.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::screen::Screen;
use super::{Cli, Done, status_of};

/// Prints a completion script for a shell
#[derive(Args)]
#[command(after_help = "Example:\n  mainstay completions bash > /etc/bash_completion.d/mainstay")]
pub(super) struct CompletionsArgs {
    /// For which shell
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs, screen: &mut Screen) -> Done {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "mainstay", &mut script);
    screen.node_output(&script)?;
    screen.flush()?;
    Ok(status_of::WELL)
}

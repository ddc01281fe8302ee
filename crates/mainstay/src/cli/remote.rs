//! `mainstay remote`: what this program's own copy is started as at the other end of an ssh connection. Not for people.

use std::process::ExitCode;

use clap::Args;
use mainstay_module::registry::Registry;

use crate::remote::{Call, serve};

/// Serves the other end of an ssh connection over standard streams
#[derive(Args)]
#[command(hide = true, after_help = "Example:\n  ssh HOST mainstay remote")]
pub(super) struct RemoteArgs {
    /// Only say whether this program has this hash
    #[arg(long, value_name = "BLAKE3")]
    verify: Option<String>,
    /// Refuse to work unless this program has this hash
    #[arg(long, value_name = "BLAKE3")]
    blake3: Option<String>,
}

pub(super) fn run(args: RemoteArgs, registry: Registry) -> ExitCode {
    mainstay_node::memory::keep_small();
    serve(&Call { verify: args.verify, expected: args.blake3 }, registry)
}

//! `mainstay dev`: a hub and some agents on this machine, to try things with.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use mainstay_control::view::{Problem, ProblemKind};

use super::Done;
use super::screen::Screen;

/// Starts a hub and some agents on this machine, real processes over real TLS, until Ctrl-C.
///
/// Commands in another terminal find this hub without flags.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  mainstay dev                 then, elsewhere: mainstay nodes list
  mainstay dev --once          a short tour, then out")]
pub struct DevArgs {
    /// How many agents
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=200))]
    pub nodes: u16,
    /// List the nodes, run a command on all, show its results, and stop
    #[arg(long)]
    pub once: bool,
    /// Keep everything here and find it again next time [default: a new directory, removed at the end]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Where the agents link to [default: a free port of this machine alone]
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0", hide_default_value = true)]
    pub listen: SocketAddr,
    /// Where the API is served over TLS [default: a free port of this machine alone]
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0", hide_default_value = true)]
    pub http: SocketAddr,
}

pub(super) fn run(_args: DevArgs, _screen: &mut Screen) -> Done {
    Err(Problem::new(ProblemKind::Internal, "not wired yet").into())
}

//! What hub and agent have alike as daemons: a log, a runtime, an end by signal, a word to systemd.

use std::future::Future;
use std::io::IsTerminal as _;

use mainstay_control::view::{Problem, ProblemKind};
use mainstay_core::journal::JournalError;
use mainstay_core::received_path::Roots;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::{Done, Stop, status_of};

/// The variable by which `dev` gives its process's number to what it starts: they end when it does, however that was.
pub(super) const PARENT: &str = "MAINSTAY_DEV_PARENT";

/// How many threads serve a daemon.
#[derive(Clone, Copy)]
pub(super) enum Threads {
    /// For an agent: little to do, and every thread costs memory on a small board.
    One,
    /// For a hub.
    Cores,
}

/// Runs a daemon until SIGTERM or Ctrl-C, or until it ends by itself with an error.
pub(super) fn run<F>(threads: Threads, body: impl FnOnce(CancellationToken) -> F) -> Done
where
    F: Future<Output = anyhow::Result<()>>,
{
    start_log();
    let mut builder = match threads {
        Threads::One => tokio::runtime::Builder::new_current_thread(),
        Threads::Cores => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.enable_all().build()?;
    let stop = CancellationToken::new();
    let result = runtime.block_on(async {
        let signals = stop_on_signals(stop.clone())?;
        end_with_parent(&stop)?;
        let result = body(stop.clone()).await;
        signals.abort();
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        result
    });
    match result {
        Ok(()) => Ok(status_of::WELL),
        Err(error) => Err(Stop::Problem(match error.downcast::<Problem>() {
            Ok(problem) => problem,
            Err(error) => {
                let problem = Problem::new(ProblemKind::Internal, format!("{error:#}"));
                match what_to_do(&error) {
                    Some(hint) => problem.hint(hint),
                    None => problem,
                }
            }
        })),
    }
}

/// A journal that cannot be used is nothing that a restart mends.
fn what_to_do(error: &anyhow::Error) -> Option<&'static str> {
    match error.chain().find_map(|cause| cause.downcast_ref::<JournalError>())? {
        JournalError::Newer { .. } => Some("it was not touched: install the version that wrote it again"),
        JournalError::Failed(_) => Some(
            "if the disk is well, restore the data directory, or move journal.db away: what it held is lost then, and an operator must accept the node",
        ),
        JournalError::Full | JournalError::TooLarge { .. } => None,
    }
}

/// Says that the daemon takes work from now on.
pub(super) fn ready() {
    // Not under systemd: nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}

/// The directories outside of the data directory where replies may be written.
pub(super) fn roots(configured: &[std::path::PathBuf]) -> Result<Roots, Problem> {
    Roots::new(configured.iter().filter_map(|root| root.to_str()))
        .map_err(|error| Problem::new(ProblemKind::Invalid, format!("received_roots: {error}")))
}

fn stop_on_signals(stop: CancellationToken) -> std::io::Result<tokio::task::JoinHandle<()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = interrupt.recv() => tracing::info!("interrupted: stopping"),
        }
        stop.cancel();
    }))
}

/// Asks for SIGTERM at the end of the `dev` that started this daemon, if one did.
fn end_with_parent(stop: &CancellationToken) -> std::io::Result<()> {
    let Some(parent) = std::env::var(PARENT).ok().and_then(|pid| pid.parse::<i32>().ok()) else {
        return Ok(());
    };
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)?;
    if nix::unistd::getppid().as_raw() != parent {
        // It ended before we had asked.
        stop.cancel();
    }
    Ok(())
}

fn start_log() {
    let filter = EnvFilter::try_from_env("MAINSTAY_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let levels = filter.to_string();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_writer(std::io::stderr);
    // A program that embeds this library may have a log of its own.
    let _ = log.try_init();
    tracing::debug!(%levels, "log");
}

//! `mainstay status`: what the hub is and how it fares.

use clap::Args;
use mainstay_control::view::StatusView;

use super::screen::Screen;
use super::{Done, status_of, table};
use crate::client::Client;

/// Shows who the hub is, how many nodes it has and what it still owes
#[derive(Args)]
#[command(after_help = "Example:\n  mainstay status --hub https://hub.example.org")]
pub(super) struct StatusArgs {}

pub(super) async fn run(client: &Client, _: &StatusArgs, screen: &mut Screen) -> Done {
    let status: StatusView = client.get("/v1/status").await?;
    if screen.json {
        screen.object(&status)?;
        return Ok(status_of::WELL);
    }
    let queues: Vec<String> = status.queues.iter().map(|(name, count)| format!("{count} {name}")).collect();
    let mut pairs = vec![
        ("hub", format!("{} at {}", status.name, client.endpoint())),
        ("version", status.version.clone()),
        ("links", status.listen.clone()),
        ("nodes", format!("{}, {} online", status.nodes, status.online)),
        ("runs", format!("{} pending", status.runs_pending)),
        ("queues", queues.join(", ")),
        ("key", status.key.clone()),
        ("ca", status.ca_fingerprint.clone()),
        ("epoch", status.epoch.to_string()),
    ];
    if let Some(why) = &status.refusing {
        pairs.push(("refusing", why.clone()));
    }
    table::pairs(screen, &pairs)?;
    let own = env!("CARGO_PKG_VERSION");
    if status.version != own {
        screen.note(&format!("This command line is version {own}."))?;
    }
    Ok(status_of::WELL)
}

//! `mainstay messages`: where messages stand, and how they ended.

use clap::Args;
use mainstay_control::view::{MessageState, MessageView};
use mainstay_core::id::MessageId;

use super::screen::Screen;
use super::watch::only;
use super::{Done, fold, moment, status_of, table};
use crate::client::Client;

/// Shows messages that this hub sent or holds, the newest first, or one and how it ended
///
/// An ID may be given by its beginning or its end. What nodes send to each other is held here until its receiver has it; how it
/// ended then only its sender knows, and `mainstay errors` if it went wrong. Orders to many nodes are shown by `mainstay runs`.
#[derive(Args)]
#[command(after_help = "Examples:
  mainstay messages --limit 5
  mainstay messages 0a3c2d41")]
pub(super) struct MessagesArgs {
    /// Which message [default: list them]
    id: Option<String>,
    /// How many are listed
    #[arg(long, default_value_t = 20, conflicts_with = "id")]
    limit: usize,
}

pub(super) async fn run(client: &Client, args: &MessagesArgs, screen: &mut Screen) -> Done {
    match &args.id {
        Some(id) => show(client, id, screen).await,
        None => list(client, args.limit, screen).await,
    }
}

async fn list(client: &Client, limit: usize, screen: &mut Screen) -> Done {
    let messages: Vec<MessageView> = client.get(&format!("/v1/messages?limit={limit}")).await?;
    if screen.json {
        for message in &messages {
            screen.object(message)?;
        }
        return Ok(status_of::WELL);
    }
    if messages.is_empty() {
        screen.note("This hub has sent no message yet, and holds none. Send some with `mainstay send`.")?;
        return Ok(status_of::WELL);
    }
    let rows: Vec<Vec<String>> = messages
        .iter()
        .map(|message| {
            vec![
                // As of a run: its beginning is the time.
                message.message.to_string().split_off(28),
                moment::relative(message.created_at, screen.now),
                message.from.clone(),
                message.to.clone(),
                message.method.clone(),
                state(message),
            ]
        })
        .collect();
    table::show(screen, &["MESSAGE", "WHEN", "FROM", "TO", "METHOD", "STATE"], &rows)?;
    Ok(status_of::WELL)
}

async fn show(client: &Client, id: &str, screen: &mut Screen) -> Done {
    let id: MessageId = match id.parse() {
        Ok(id) => id,
        Err(_) => {
            let messages: Vec<MessageView> = client.get("/v1/messages?limit=10000").await?;
            only("message", "messages", id, messages.iter().map(|message| message.message))?
        }
    };
    let message: MessageView = client.get(&format!("/v1/messages/{id}")).await?;
    if screen.json {
        screen.object(&message)?;
        return Ok(status_of::WELL);
    }
    let at = |at| format!("{} ({})", moment::absolute(at), moment::relative(at, screen.now));
    let pairs = [
        ("message", message.message.to_string()),
        ("from", message.from.clone()),
        ("to", message.to.clone()),
        ("method", message.method.clone()),
        ("created", at(message.created_at)),
        ("expires", message.expires_at.map_or_else(|| "never".to_owned(), at)),
        ("state", state(&message)),
    ];
    table::pairs(screen, &pairs)?;
    Ok(status_of::WELL)
}

fn state(message: &MessageView) -> String {
    match (&message.end, message.state, &message.pending) {
        (Some(end), ..) => fold::ending(end),
        (None, state, None) => state.word().to_owned(),
        (None, state @ MessageState::Accepted, Some(why)) => format!("{}; {why}", state.word()),
        (None, state, Some(why)) => format!("{}: {why}", state.word()),
    }
}

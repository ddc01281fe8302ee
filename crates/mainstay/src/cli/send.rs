//! `mainstay send`: messages from a file, with the hub as their origin.

use clap::Args;
use hyper::Method;
use mainstay_control::view::{Problem, ProblemKind};

use super::screen::Screen;
use super::{Done, read_text, status_of};
use crate::api::SentMessages;
use crate::client::Client;

/// Sends the messages of a file
///
/// They are in JSON or YAML. All of them are sent, or none and an error says where the mistake is. Prints the id of each, in the order of the file; `mainstay messages ID` tells how
/// it ended.
#[derive(Args)]
#[command(after_help = "Example:
  echo '{toNode: ship1, method: cmd, methodArgs: [uptime], replyMethod: console}' | mainstay send -")]
pub(super) struct SendArgs {
    /// The file, or - for standard input
    file: String,
}

pub(super) async fn run(client: &Client, args: &SendArgs, screen: &mut Screen) -> Done {
    let text = read_text(&args.file)?;
    let reply = client.open(Method::POST, "/v1/messages", &[], text.into_bytes().into()).await;
    let reply = reply.map_err(|problem| in_file(&args.file, problem))?;
    let sent: SentMessages = reply.json().await?;
    for id in &sent.messages {
        if screen.json {
            screen.object(&serde_json::json!({"event": "accepted", "message": id.to_string()}))?;
        } else {
            screen.line(&id.to_string())?;
        }
    }
    Ok(status_of::WELL)
}

/// What the hub says of the text is of this file.
fn in_file(file: &str, problem: Problem) -> Problem {
    if problem.kind != ProblemKind::Invalid {
        return problem;
    }
    let file = if file == "-" { "standard input" } else { file };
    Problem { message: format!("in {file}:\n{}", problem.message), ..problem }
}

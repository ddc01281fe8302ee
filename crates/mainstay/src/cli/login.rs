//! `mainstay login`: keeps where a hub is and the token for it.

use clap::Args;
use mainstay_control::view::{Problem, ProblemKind, StatusView};
use mainstay_link::chain::Fingerprint;

use super::screen::Screen;
use super::{Done, read_text, status_of};
use crate::client::Client;
use crate::client::endpoint::{Endpoint, HttpsHub, authority};
use crate::client::login::{Login, Logins};

/// Logs in to a hub elsewhere; commands go there from now on
///
/// The token comes from `mainstay token create --operator NAME` on the hub, which also shows the fingerprint. It is
/// read from standard input unless a file is named.
#[derive(Args)]
#[command(after_help = "Example:
  mainstay login https://hub.example.org:7421 --ca-fingerprint sha256:… --token-file token.txt")]
pub(super) struct LoginArgs {
    /// The hub's address
    #[arg(value_name = "URL")]
    url: String,
    /// A file with the token, or - for standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    token_file: String,
    /// Hash of the fleet's CA certificate [default: the one of the last login there]
    #[arg(long, value_name = "HASH")]
    ca_fingerprint: Option<String>,
    /// Keep the login, but let commands go where they went before
    #[arg(long)]
    no_default: bool,
}

pub(super) async fn run(args: LoginArgs, screen: &mut Screen) -> Done {
    let authority = authority(&args.url)?;
    let url = format!("https://{authority}");
    let mut logins = Logins::load()?;
    let known = logins.hubs.get(&url).map(|login| login.ca_fingerprint.clone());
    let ca_fingerprint = args.ca_fingerprint.or(known).ok_or_else(|| {
        Problem::new(ProblemKind::Invalid, "the fleet's CA fingerprint is not known yet")
            .hint("`mainstay status` on the hub shows it as ca; give it with --ca-fingerprint")
    })?;
    if let Err(why) = ca_fingerprint.parse::<Fingerprint>() {
        return Err(Problem::new(ProblemKind::Invalid, format!("--ca-fingerprint: {why}"))
            .hint("`mainstay status` on the hub shows it as ca")
            .into());
    }
    if args.token_file == "-" && screen.can_ask() {
        screen.note("Paste the token, then Enter and Ctrl-D:")?;
    }
    let token = read_text(&args.token_file)?.trim().to_owned();
    if token.is_empty() || token.contains(char::is_whitespace) {
        return Err(Problem::new(ProblemKind::Invalid, "that is not a token").into());
    }
    // Before anything is kept, it is seen to work.
    let client = Client::new(Endpoint::Https(HttpsHub {
        authority,
        token: token.clone(),
        ca_fingerprint: ca_fingerprint.clone(),
    }));
    let status: StatusView = client.get("/v1/status").await?;
    logins.hubs.insert(url.clone(), Login { token, ca_fingerprint });
    if !args.no_default {
        logins.default = Some(url.clone());
    }
    let path = logins.save()?;
    if screen.json {
        screen.object(&serde_json::json!({"event": "login", "hub": url, "name": status.name}))?;
    } else {
        screen.line(&format!("Logged in to {} at {url}, kept in {}.", status.name, path.display()))?;
    }
    Ok(status_of::WELL)
}

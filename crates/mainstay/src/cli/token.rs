//! `mainstay token`: lets nodes join, and operators elsewhere in.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use hyper::Method;
use mainstay_control::view::{NewToken, StatusView, TokenKind, TokenSpec, TokenView};
use mainstay_core::id::NodeName;
use mainstay_core::time::Span;

use super::screen::Screen;
use super::{Done, moment, status_of, table};
use crate::client::{Client, segment};
use crate::config::agent::label;

/// Makes and ends tokens, for nodes to join and for operators elsewhere
#[derive(Subcommand)]
pub(super) enum TokenCommand {
    /// Makes a token and prints it, this once
    #[command(after_help = "Examples:
  mainstay token create                                     for one node, within an hour
  mainstay token create --uses 20 --lifetime 1d --label role=web
  mainstay token create --operator alice --lifetime 90d --allow-target 'env=test'")]
    Create(CreateArgs),
    /// Lists tokens, those included that were used up or expired lately
    #[command(after_help = "Example:\n  mainstay token list")]
    List,
    /// Ends a token; what joined with it stays
    #[command(after_help = "Example:\n  mainstay token revoke 4f1c2b")]
    Revoke {
        /// Which one, as `token list` names it
        id: String,
    },
}

#[derive(Args)]
pub(super) struct CreateArgs {
    /// How long it is good for [default: 1h]
    #[arg(long, value_name = "DURATION")]
    lifetime: Option<Span>,
    /// How many nodes may join with it [default: 1]
    #[arg(long, value_name = "N", conflicts_with = "operator")]
    uses: Option<u32>,
    /// Only for a node of this name
    #[arg(long, conflicts_with = "operator")]
    name: Option<NodeName>,
    /// A label of the nodes that join with it; repeatable
    #[arg(long = "label", value_name = "K=V", value_parser = label, conflicts_with = "operator")]
    labels: Vec<(String, String)>,
    /// For an operator of this name, instead of a node
    #[arg(long, value_name = "NAME")]
    operator: Option<String>,
    /// Only these methods (globs); repeatable [default: all]
    #[arg(long = "allow-method", value_name = "GLOB", requires = "operator")]
    methods: Vec<String>,
    /// Only these nodes (an expression) [default: all]
    #[arg(long = "allow-target", value_name = "TARGET", requires = "operator")]
    targets: Option<String>,
}

pub(super) async fn run(client: &Client, command: TokenCommand, screen: &mut Screen) -> Done {
    match command {
        TokenCommand::Create(args) => create(client, args, screen).await,
        TokenCommand::List => list(client, screen).await,
        TokenCommand::Revoke { id } => {
            let path = format!("/v1/tokens/{}", segment(&id));
            client.open(Method::DELETE, &path, &[], bytes::Bytes::new()).await?;
            if screen.json {
                screen.object(&serde_json::json!({"event": "revoked", "token": id}))?;
            } else {
                screen.line(&format!("The token {id} is revoked."))?;
            }
            Ok(status_of::WELL)
        }
    }
}

async fn create(client: &Client, args: CreateArgs, screen: &mut Screen) -> Done {
    let lifetime_ms = args.lifetime.map(Span::millis);
    let for_operator = args.operator.is_some();
    let spec = TokenSpec {
        kind: if for_operator { TokenKind::Operator } else { TokenKind::Join },
        lifetime_ms,
        uses: args.uses,
        name: args.operator.or(args.name.map(String::from)),
        labels: BTreeMap::from_iter(args.labels),
        methods: args.methods,
        targets: args.targets,
    };
    let made: NewToken = client.call(Method::POST, "/v1/tokens", &spec).await?;
    if screen.json {
        screen.object(&made)?;
        return Ok(status_of::WELL);
    }
    // Alone on standard output, for $(…) and pipes.
    screen.line(&made.token)?;
    let until = moment::relative(made.view.expires_at, screen.now);
    if for_operator {
        let status: StatusView = client.get("/v1/status").await?;
        screen.note(&format!(
            "Expires {until}. Elsewhere: mainstay login https://HUB --ca-fingerprint {}",
            status.ca_fingerprint
        ))?;
    } else {
        screen.note(&format!("Expires {until}. On the node: mainstay agent --join TOKEN"))?;
    }
    Ok(status_of::WELL)
}

async fn list(client: &Client, screen: &mut Screen) -> Done {
    let tokens: Vec<TokenView> = client.get("/v1/tokens").await?;
    if screen.json {
        for token in &tokens {
            screen.object(token)?;
        }
        return Ok(status_of::WELL);
    }
    let rows: Vec<Vec<String>> = tokens
        .iter()
        .map(|token| {
            vec![
                token.id.clone(),
                match token.kind {
                    TokenKind::Join => "join".into(),
                    TokenKind::Operator => "operator".into(),
                },
                token.name.clone().unwrap_or_default(),
                moment::relative(token.expires_at, screen.now),
                token.uses_left.map(|uses| uses.to_string()).unwrap_or_default(),
                table::labels(&token.labels),
                token.created_by.clone(),
            ]
        })
        .collect();
    table::show(screen, &["ID", "FOR", "NAME", "EXPIRES", "USES", "LABELS", "BY"], &rows)?;
    Ok(status_of::WELL)
}

//! `mainstay nodes`: who belongs to the fleet, and who may.

use std::collections::BTreeMap;
use std::io;

use clap::Subcommand;
use hyper::Method;
use mainstay_control::view::{NodeState, NodeView, Problem, ProblemKind};
use mainstay_core::id::NodeName;

use super::screen::Screen;
use super::{Done, confirm, moment, name_range, status_of, table};
use crate::api::{AcceptNode, LabelNode, RevokeNode};
use crate::client::{Client, segment};
use crate::config::agent::label as read_label;

/// Shows and changes the nodes of the fleet
///
/// A NODE is named, or given by the first characters of its key.
#[derive(Subcommand)]
pub(super) enum NodesCommand {
    /// Lists nodes, with their state and labels
    #[command(after_help = "Example:\n  mainstay nodes list 'role=web and os=debian'")]
    List {
        /// Only those that this expression means
        #[arg(value_name = "TARGET")]
        target: Option<String>,
        /// The same
        #[arg(short = 't', long = "target", value_name = "TARGET", conflicts_with = "target")]
        flag: Option<String>,
    },
    /// Shows all that is known of a node
    #[command(after_help = "Example:\n  mainstay nodes show ship1")]
    Show {
        /// Which one, by name or by the first characters of its key
        node: String,
    },
    /// Lets a node in that waits, or that came back with an older journal
    #[command(after_help = "Example:\n  mainstay nodes accept 3kq7 --name ship4")]
    Accept {
        /// Which one, by name or by the first characters of its key
        node: String,
        /// Under this name rather than the one that it asks for
        #[arg(long)]
        name: Option<NodeName>,
    },
    /// Sets labels, and removes those written KEY-
    #[command(after_help = "Example:\n  mainstay nodes label ship1 role=web env-")]
    Label {
        /// Which one, by name or by the first characters of its key
        node: String,
        /// KEY=VALUE to set, KEY- to remove
        #[arg(required = true, value_name = "K=V|K-", value_parser = change)]
        changes: Vec<(String, Option<String>)>,
    },
    /// Throws a node out for good: its key never comes back, its link is cut
    #[command(after_help = "Example:\n  mainstay nodes revoke ship1 --reason stolen --yes")]
    Revoke {
        /// Which one, by name or by the first characters of its key
        node: String,
        /// Why, for the audit log
        #[arg(long, default_value = "")]
        reason: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Revokes a node, ends what it still owes, and frees its name
    #[command(after_help = "Example:\n  mainstay nodes remove ship1 --yes")]
    Remove {
        /// Which one, by name or by the first characters of its key
        node: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

pub(super) async fn run(client: &Client, command: NodesCommand, screen: &mut Screen) -> Done {
    match command {
        NodesCommand::List { target, flag } => {
            let target = target.or(flag);
            let path = match &target {
                Some(target) => format!("/v1/nodes?target={}", segment(target)),
                None => "/v1/nodes".into(),
            };
            let nodes: Vec<NodeView> = client.get(&path).await?;
            match target {
                Some(target) if nodes.is_empty() => {
                    let message = format!("no node is meant by {target}");
                    return Err(Problem::new(ProblemKind::NoTargets, message)
                        .hint("`mainstay nodes list` shows names, labels and states")
                        .into());
                }
                None if nodes.is_empty() && !screen.json => {
                    screen.note("There is no node yet. Make a join token with `mainstay token create`.")?;
                    return Ok(status_of::WELL);
                }
                _ => {}
            }
            show_list(&nodes, screen)?;
        }
        NodesCommand::Show { node } => {
            let view: NodeView = client.get(&path(&node, "")).await?;
            if screen.json {
                screen.object(&view)?;
            } else {
                show_one(&view, screen)?;
            }
        }
        NodesCommand::Accept { node, name } => {
            let input = AcceptNode { name };
            let view: NodeView = client.call(Method::POST, &path(&node, "/accept"), &input).await?;
            changed(&view, "is accepted", screen)?;
        }
        NodesCommand::Label { node, changes } => {
            let labels = BTreeMap::from_iter(changes);
            let view: NodeView =
                client.call(Method::PATCH, &path(&node, "/labels"), &LabelNode { labels }).await?;
            let labels = table::labels(&view.labels);
            changed(&view, &format!("has the labels {labels}"), screen)?;
        }
        NodesCommand::Revoke { node, reason, yes } => {
            confirm(screen, yes, &format!("{node} will be thrown out for good: its key never comes back."))?;
            let input = RevokeNode { reason };
            let view: NodeView = client.call(Method::POST, &path(&node, "/revoke"), &input).await?;
            changed(&view, "is revoked", screen)?;
        }
        NodesCommand::Remove { node, yes } => {
            confirm(
                screen,
                yes,
                &format!("{node} will be thrown out for good, and what it still owes is lost."),
            )?;
            client.open(Method::DELETE, &path(&node, ""), &[], bytes::Bytes::new()).await?;
            if screen.json {
                screen.object(&serde_json::json!({"event": "removed", "node": node}))?;
            } else {
                screen.line(&format!("{node} is removed"))?;
            }
        }
    }
    Ok(status_of::WELL)
}

fn path(node: &str, verb: &str) -> String {
    format!("/v1/nodes/{}{verb}", segment(node))
}

fn changed(view: &NodeView, what: &str, screen: &mut Screen) -> io::Result<()> {
    if screen.json {
        return screen.object(view);
    }
    let text = format!("{} {what}", view.name);
    screen.line(&super::screen::one_line(&text))
}

pub(super) fn show_list(nodes: &[NodeView], screen: &mut Screen) -> io::Result<()> {
    let mut nodes: Vec<&NodeView> = nodes.iter().collect();
    nodes.sort_by_cached_key(|node| name_range::natural_key(&node.name));
    if screen.json {
        return nodes.iter().try_for_each(|node| screen.object(node));
    }
    let noted = nodes.iter().any(|node| node.note.is_some());
    let mut head = vec!["NAME", "STATE", "SEEN", "OS", "LABELS", "VERSION"];
    if noted {
        head.push("NOTE");
    }
    let rows: Vec<Vec<String>> = nodes
        .iter()
        .map(|node| {
            let mut row = vec![
                node.name.to_string(),
                state(node).to_owned(),
                seen(node, screen.now),
                format!("{} {}", node.os, node.os_version).trim().to_owned(),
                table::labels(&node.labels),
                node.version.clone(),
            ];
            if noted {
                row.push(node.note.clone().unwrap_or_default());
            }
            row
        })
        .collect();
    table::show(screen, &head, &rows)
}

fn show_one(node: &NodeView, screen: &mut Screen) -> io::Result<()> {
    let enrolled = node.enrolled_at.map(moment::absolute).unwrap_or_default();
    let pairs = [
        ("name", node.name.to_string()),
        ("state", state(node).to_owned()),
        ("seen", seen(node, screen.now)),
        ("note", node.note.clone().unwrap_or_default()),
        ("key", node.key.clone()),
        ("enrolled", enrolled),
        ("labels", table::labels(&node.labels)),
        ("os", format!("{} {} ({})", node.os, node.os_version, node.family)),
        ("kernel", node.kernel.clone()),
        ("arch", node.arch.clone()),
        ("hostname", node.hostname.clone()),
        ("cpus", node.cpus.to_string()),
        ("memory", table::bytes(node.memory_bytes)),
        ("addresses", node.addresses.join(", ")),
        ("version", node.version.clone()),
    ];
    table::pairs(screen, &pairs)
}

fn state(node: &NodeView) -> &'static str {
    match node.state {
        NodeState::Active if node.online => "online",
        NodeState::Active => "offline",
        NodeState::Waiting => "waiting",
        NodeState::Quarantined => "quarantined",
        NodeState::Revoked => "revoked",
        NodeState::Removed => "removed",
    }
}

fn seen(node: &NodeView, now: i64) -> String {
    match node.last_seen {
        _ if node.online => "now".into(),
        Some(at) => moment::relative(at, now),
        None => "never".into(),
    }
}

/// `1 node`, `5 nodes`.
pub(super) fn count(nodes: u64) -> String {
    if nodes == 1 { "1 node".into() } else { format!("{nodes} nodes") }
}

fn change(text: &str) -> Result<(String, Option<String>), String> {
    match text.strip_suffix('-') {
        Some(key) if !text.contains('=') => {
            read_label(&format!("{key}="))?;
            Ok((key.to_owned(), None))
        }
        _ => read_label(text).map(|(key, value)| (key, Some(value))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_set_and_removed_by_their_form() {
        assert_eq!(change("role=web"), Ok(("role".into(), Some("web".into()))));
        assert_eq!(change("role=web-"), Ok(("role".into(), Some("web-".into()))));
        assert_eq!(change("role-"), Ok(("role".into(), None)));
        for bad in ["role", "-", "=x", "a b=c", "a=b c"] {
            assert!(change(bad).is_err(), "{bad}");
        }
    }
}

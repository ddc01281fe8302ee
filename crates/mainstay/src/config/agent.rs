//! Configuration of an agent, and the flags of `mainstay agent`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use mainstay_control::view::{Problem, ProblemKind};
use mainstay_core::access::Rules;
use mainstay_core::id::NodeName;
use serde::{Deserialize, Serialize, Serializer};

use super::address::{ListenAt, check_dial};
use super::data_dir;
use super::layers::{self, Layered};
use super::limits::Limits;

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<NodeName>,
    #[serde(deserialize_with = "layers::list")]
    pub links: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_fingerprint: Option<String>,
    pub metrics: ListenAt,
    #[serde(deserialize_with = "layers::list")]
    pub received_roots: Vec<PathBuf>,
    pub allow: Rules,
    pub labels: BTreeMap<String, String>,
    pub limits: Limits,
}

impl Layered for AgentConfig {
    const TEMPLATE: &'static str = include_str!("agent.toml");
    const KEYS: &'static [&'static str] =
        &["name", "links", "ca_fingerprint", "metrics", "received_roots", "labels", "limits"];

    fn check(&self) -> Result<(), Problem> {
        let wrong = |key: &str, why: String| Err(Problem::new(ProblemKind::Invalid, format!("{key}: {why}")));
        for address in &self.links {
            check_dial(address).or_else(|why| wrong("links", why))?;
        }
        if let Some(root) = self.received_roots.iter().find(|root| !root.is_absolute()) {
            return wrong("received_roots", format!("{} is not an absolute path", root.display()));
        }
        for (key, value) in &self.labels {
            check_label(key, value).or_else(|why| wrong("labels", why))?;
        }
        self.limits.check()
    }
}

/// Starts an agent
///
/// It links to a hub and does what it is told. The first start needs a join token from `mainstay token create`, or the hub's address and CA fingerprint
/// and then `mainstay nodes accept` on the hub.
#[derive(Args, Clone, Default)]
#[command(after_help = "Examples:
  mainstay agent --join @/run/join-token --label role=web
  mainstay agent --link hub.example.org:7420 --ca-fingerprint FINGERPRINT --name ship1")]
pub struct AgentArgs {
    /// Where everything is kept [default: /var/lib/mainstay for root, else ~/.local/share/mainstay]
    #[arg(long, value_name = "DIR", env = "MAINSTAY_DATA", hide_env_values = true)]
    pub data: Option<PathBuf>,
    /// A join token, or @FILE that holds one; used once and not saved
    #[arg(long, value_name = "TOKEN", env = "MAINSTAY_JOIN", hide_env_values = true)]
    pub join: Option<String>,
    #[command(flatten)]
    pub flags: AgentFlags,
}

impl std::fmt::Debug for AgentArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentArgs")
            .field("data", &self.data)
            .field("join", &self.join.as_ref().map(|_| "…"))
            .field("flags", &self.flags)
            .finish()
    }
}

/// What is saved to the configuration file.
#[derive(Args, Clone, Debug, Default, Serialize)]
pub struct AgentFlags {
    /// The name to ask for when joining [default: the token's, else this machine's]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<NodeName>,
    /// A hub to link to; repeatable
    #[arg(long = "link", value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<String>,
    /// Hash of the fleet's CA certificate, for joining without a token
    #[arg(long, value_name = "HASH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_fingerprint: Option<String>,
    /// A label of this node; repeatable
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_map")]
    pub labels: Vec<(String, String)>,
    /// Where metrics are served, or off [default: off]
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<ListenAt>,
}

/// What a join teaches an agent, to be kept for its next start.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Learned {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<NodeName>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_fingerprint: Option<String>,
}

impl AgentArgs {
    pub fn data(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(data_dir::default)
    }

    /// The configuration in force; the file is written or amended as a side effect.
    pub fn load(&self) -> Result<AgentConfig, Problem> {
        layers::load(&self.data(), &self.flags)
    }

    /// Keeps what a join taught, as if it had been given as flags.
    pub fn remember(&self, learned: &Learned) -> Result<(), Problem> {
        layers::remember(&self.data(), learned)
    }

    /// The join token, read from its file if one was named.
    pub fn join_token(&self) -> Result<Option<String>, Problem> {
        let Some(given) = &self.join else {
            return Ok(None);
        };
        let Some(path) = given.strip_prefix('@') else {
            return Ok(Some(given.trim().to_owned()));
        };
        let text = std::fs::read_to_string(path).map_err(|e| {
            Problem::new(ProblemKind::Invalid, format!("the join token's file {path} cannot be read: {e}"))
        })?;
        Ok(Some(text.trim().to_owned()))
    }
}

/// `K=V`, as labels are given.
pub fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| format!("{text:?} is not a label: write KEY=VALUE"))?;
    check_label(key, value)?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Keys and values are tokens of a target expression, so that every label can be asked for without quoting.
fn check_label(key: &str, value: &str) -> Result<(), String> {
    let token = |text: &str, most| {
        text.len() <= most
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/'))
    };
    if key.is_empty() || !token(key, 63) {
        return Err(format!("the label's key {key:?} is not 1 to 63 of a-z A-Z 0-9 . _ - /"));
    }
    if !token(value, 255) {
        return Err(format!(
            "the value {value:?} of the label {key} is not up to 255 of a-z A-Z 0-9 . _ - /"
        ));
    }
    Ok(())
}

fn as_map<S: Serializer>(labels: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(labels.iter().map(|(key, value)| (key, value)))
}

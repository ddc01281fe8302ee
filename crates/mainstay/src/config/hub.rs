//! Configuration of a hub, and the flags of `mainstay hub`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use mainstay_control::view::{Problem, ProblemKind};
use mainstay_core::access::Rules;
use mainstay_core::id::NodeName;
use mainstay_core::time::Span;
use serde::{Deserialize, Serialize};

use super::address::{ListenAt, check_dial};
use super::data_dir;
use super::layers::{self, Layered};
use super::limits::Limits;

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HubConfig {
    pub name: NodeName,
    pub listen: SocketAddr,
    pub http: ListenAt,
    #[serde(deserialize_with = "layers::list")]
    pub advertise: Vec<String>,
    pub store: String,
    pub history_age: Span,
    pub history_bytes: u64,
    #[serde(deserialize_with = "layers::list")]
    pub received_roots: Vec<PathBuf>,
    pub allow: Rules,
    pub limits: Limits,
}

impl Default for HubConfig {
    fn default() -> Self {
        Self {
            name: "central".parse().expect("a valid name"),
            listen: ([0, 0, 0, 0], 7420).into(),
            http: ListenAt(None),
            advertise: Vec::new(),
            store: EMBEDDED.into(),
            history_age: Span(Duration::from_secs(30 * 24 * 3600)),
            history_bytes: 1 << 30,
            received_roots: Vec::new(),
            allow: Rules::default(),
            limits: Limits::default(),
        }
    }
}

/// The store that needs nothing beside the hub.
const EMBEDDED: &str = "embedded";

impl Layered for HubConfig {
    const TEMPLATE: &'static str = include_str!("hub.toml");
    const KEYS: &'static [&'static str] = &[
        "name",
        "listen",
        "http",
        "advertise",
        "store",
        "history_age",
        "history_bytes",
        "received_roots",
        "limits",
    ];

    fn check(&self) -> Result<(), Problem> {
        let wrong = |key: &str, why: String| Err(Problem::new(ProblemKind::Invalid, format!("{key}: {why}")));
        if self.store != EMBEDDED {
            return wrong("store", format!("{:?} is not a store; there is {EMBEDDED:?}", self.store));
        }
        for address in &self.advertise {
            check_dial(address).or_else(|why| wrong("advertise", why))?;
        }
        if let Some(root) = self.received_roots.iter().find(|root| !root.is_absolute()) {
            return wrong("received_roots", format!("{} is not an absolute path", root.display()));
        }
        self.limits.check()
    }
}

/// Starts a hub
///
/// It accepts links from agents, keeps what the fleet owes, and serves operators. The first start makes the fleet: its root key, the certificate authority and this hub's identity.
#[derive(Args, Clone, Debug, Default)]
#[command(after_help = "Example:
  mainstay hub --advertise hub.example.org:7420 --http 0.0.0.0:7421")]
pub struct HubArgs {
    /// Where everything is kept [default: /var/lib/mainstay for root, else ~/.local/share/mainstay]
    #[arg(long, value_name = "DIR", env = "MAINSTAY_DATA", hide_env_values = true)]
    pub data: Option<PathBuf>,
    #[command(flatten)]
    pub flags: HubFlags,
}

/// What is saved to the configuration file.
#[derive(Args, Clone, Debug, Default, Serialize)]
pub struct HubFlags {
    /// This hub's own name among the nodes [default: central]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<NodeName>,
    /// Where agents link to [default: 0.0.0.0:7420]
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// Where operators elsewhere reach the API over TLS, or off [default: off]
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<ListenAt>,
    /// Addresses that join tokens name, as agents reach this hub; repeatable [default: this machine's own]
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub advertise: Vec<String>,
    /// Where shared state is kept [default: embedded]
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// How long ended runs are kept [default: 30d]
    #[arg(long, value_name = "DURATION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history_age: Option<Span>,
    /// How many bytes of ended runs are kept [default: 1 GiB]
    #[arg(long, value_name = "BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history_bytes: Option<u64>,
}

impl HubArgs {
    pub fn data(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(data_dir::default)
    }

    /// The configuration in force; the file is written or amended as a side effect.
    pub fn load(&self) -> Result<HubConfig, Problem> {
        layers::load(&self.data(), &self.flags)
    }
}

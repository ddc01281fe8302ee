//! `mainstay hub`: wires the control plane, its node and the API together, and runs them until it is told to stop.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, anyhow};
use mainstay_control::hub::{History, Hub};
use mainstay_link::chain::FleetCa;
use mainstay_link::limits::{Limits, LinkCounters};
use mainstay_link::listener::TlsListener;
use mainstay_link::tls::Credentials;
use mainstay_node::clock::Clock;
use mainstay_node::identity;
use mainstay_node::node::{Node, NodeConfig, Side};
use mainstay_store::SqliteStore;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Done;
use super::daemon::{self, Threads};
use crate::api::{self, Api};
use crate::config::hub::{HubArgs, HubConfig};

pub(super) fn run(args: HubArgs) -> Done {
    daemon::run(Threads::Cores, |stop| run_until(args, stop))
}

async fn run_until(args: HubArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let data = args.data();
    identity::make_data_dir(&data)?;
    let config = args.load()?;
    let registry = Arc::new(Mutex::new(Registry::default()));
    // A hub's own clock is fleet time; its floor is kept by its node's journal and learned when that opens.
    let clock = Clock::new(mainstay_core::time::Timestamp::default());
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen for agents at {}", config.listen))?;
    let https = match config.http.0 {
        Some(address) => Some(
            TcpListener::bind(address).await.with_context(|| format!("cannot serve the API at {address}"))?,
        ),
        None => None,
    };
    let addresses = advertised(&config, listener.local_addr()?);
    let hub = open(&data, &config, addresses.clone(), clock, registry.clone()).await?;
    let result = Box::pin(serve(&data, config, &hub, listener, https, registry, stop)).await;
    hub.shutdown().await;
    result
}

async fn open(
    data: &Path,
    config: &HubConfig,
    addresses: Vec<String>,
    clock: Clock,
    registry: Arc<Mutex<Registry>>,
) -> anyhow::Result<Hub> {
    let now: mainstay_control::hub::Clock = Arc::new(move || clock.now());
    let path = data.join("store.db");
    let lease_clock = now.clone();
    let (store, damage) = SqliteStore::open(&path, Arc::new(move || lease_clock()))
        .with_context(|| format!("cannot open {}", path.display()))?;
    let store = Arc::new(store);
    for key in &damage.keys {
        tracing::error!(key, "the store is damaged: a value was set aside");
    }
    for (log, position) in &damage.records {
        tracing::error!(log, position, "the store is damaged: a record was set aside");
    }
    for note in &damage.notes {
        tracing::error!("the store is damaged: {note}");
    }
    let hub = Hub::open(mainstay_control::hub::HubConfig {
        data_dir: data.to_owned(),
        name: config.name.clone(),
        addresses,
        clock: now,
        store: store.clone(),
        embedded: Some(store),
        metrics: registry,
        history: History { age: config.history_age.0, bytes: config.history_bytes },
    })
    .await?;
    Ok(hub)
}

async fn serve(
    data: &Path,
    config: HubConfig,
    hub: &Hub,
    listener: TcpListener,
    https: Option<TcpListener>,
    registry: Arc<Mutex<Registry>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let fleet = hub.fleet();
    let ca = FleetCa::from_der(fleet.ca().clone())?;
    let key = fleet.signer().signing_key().clone();
    let credentials = Credentials::new(key.clone(), fleet.chain().to_vec())?;
    let counters = Arc::<LinkCounters>::default();
    let at = listener.local_addr()?;
    let links = TlsListener::over(listener, &credentials, ca.clone(), Limits::default(), counters.clone())?;
    let facts = mainstay_node::facts::collect(env!("CARGO_PKG_VERSION"), BTreeMap::new());
    let node = Node::new(NodeConfig {
        data: data.to_owned(),
        key,
        name: config.name.clone(),
        chain: fleet.chain().to_vec(),
        ca,
        facts,
        version: env!("CARGO_PKG_VERSION").into(),
        rules: config.allow.clone(),
        roots: daemon::roots(&config.received_roots)?,
        limits: config.limits.engine(),
        metrics: registry.clone(),
        side: Side::Hub {
            role: Arc::new(hub.clone()),
            trust: fleet.trust(),
            listener: Arc::new(links),
            counters,
        },
    });
    hub.attach(Arc::new(node.handle()));
    let api = Api::new(hub.clone(), registry, data);
    // The API ends first: what it has accepted by then, the node still carries out.
    let tasks = TaskTracker::new();
    let api_stop = stop.child_token();
    let socket = data.join("api.sock");
    tracing::info!(agents = %at, socket = %socket.display(), ca = %fleet.ca_fingerprint(), "hub {}", config.name);
    tasks.spawn({
        let (api, stop, all) = (api.clone(), api_stop.clone(), stop.clone());
        async move {
            if let Err(error) = api::serve_unix(&socket, api, stop).await {
                tracing::error!("{:#}", anyhow!(error));
                all.cancel();
            }
        }
    });
    let _ = https;
    let result = node.run(stop.clone(), daemon::ready).await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    result.map_err(|error| anyhow!(error))
}

/// What join tokens name: as configured, else the address we listen at, or this machine's own addresses.
fn advertised(config: &HubConfig, at: SocketAddr) -> Vec<String> {
    if !config.advertise.is_empty() {
        return config.advertise.clone();
    }
    if !at.ip().is_unspecified() {
        return vec![at.to_string()];
    }
    let facts = mainstay_node::facts::collect("", BTreeMap::new());
    let mut addresses: Vec<String> = facts
        .addresses
        .iter()
        .map(|address| {
            if address.contains(':') {
                format!("[{address}]:{}", at.port())
            } else {
                format!("{address}:{}", at.port())
            }
        })
        .collect();
    addresses.push(format!("127.0.0.1:{}", at.port()));
    addresses.truncate(mainstay_core::join_token::MAX_HUBS);
    addresses
}

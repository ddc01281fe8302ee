//! `mainstay hub`: wires the control plane, its node and the API together, and runs them until it is told to stop.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, anyhow};
use mainstay_control::hub::{History, Hub};
use mainstay_link::chain::FleetCa;
use mainstay_link::https::HttpsListener;
use mainstay_link::limits::{Limits, LinkCounters};
use mainstay_link::listener::TlsListener;
use mainstay_link::tls::Credentials;
use mainstay_node::clock::Clock;
use mainstay_node::identity;
use mainstay_node::node::{self, Node, NodeConfig, Side};
use mainstay_store::embedded_store::{SqliteStore, StoreDamage};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use mainstay_module::registry::Registry as Modules;

use super::Done;
use super::daemon::{self, Threads};
use crate::api::{self, Api};
use crate::config::hub::{HubArgs, HubConfig};

pub(super) fn run(args: HubArgs, modules: &Modules) -> Done {
    daemon::run(Threads::Cores, |stop| run_until(args, modules.clone(), stop))
}

async fn run_until(args: HubArgs, modules: Modules, stop: CancellationToken) -> anyhow::Result<()> {
    let data = args.data();
    identity::make_data_dir(&data)?;
    let config = args.load()?;
    let registry = Arc::new(Mutex::new(Registry::default()));
    // A hub's own clock is fleet time; its floor is kept in its node's journal.
    let clock = Clock::new(node::read_journal(&data)?.floor);
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
    let (hub, store) = open(&data, &config, addresses, clock.clone(), registry.clone()).await?;
    let doors = Doors { links: listener, https };
    let part = NodePart { clock, metrics: registry, modules };
    let result = Box::pin(serve(&data, config, &hub, doors, part, stop)).await;
    hub.shutdown().await;
    store.close().await;
    result
}

async fn open(
    data: &Path,
    config: &HubConfig,
    addresses: Vec<String>,
    clock: Clock,
    registry: Arc<Mutex<Registry>>,
) -> anyhow::Result<(Hub, Arc<SqliteStore>)> {
    let now: mainstay_control::hub::Clock = Arc::new(move || clock.now());
    let path = data.join("store.db");
    let (store, damage) =
        SqliteStore::open(&path, now.clone()).with_context(|| format!("cannot open {}", path.display()))?;
    report(&damage);
    let store = Arc::new(store);
    let hub = Hub::open(mainstay_control::hub::HubConfig {
        data_dir: data.to_owned(),
        name: config.name.clone(),
        addresses,
        clock: now,
        store: store.clone(),
        embedded: Some(store.clone()),
        metrics: registry,
        history: History { age: config.history_age.0, bytes: config.history_bytes },
    })
    .await?;
    Ok((hub, store))
}

/// Where a hub listens. Bound before anything else, so that a wrong address costs nothing.
struct Doors {
    links: TcpListener,
    https: Option<TcpListener>,
}

/// What a hub's own node is made of, besides what any hub is.
struct NodePart {
    clock: Clock,
    metrics: Arc<Mutex<Registry>>,
    modules: Modules,
}

async fn serve(
    data: &Path,
    config: HubConfig,
    hub: &Hub,
    doors: Doors,
    NodePart { clock, metrics: registry, modules }: NodePart,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let fleet = hub.fleet();
    let ca = FleetCa::from_der(fleet.ca().clone())?;
    let key = fleet.signer().signing_key().clone();
    let credentials = Credentials::new(key.clone(), fleet.chain().to_vec())?;
    let counters = Arc::<LinkCounters>::default();
    api::register_link_counters(&registry, &counters);
    let at = doors.links.local_addr()?;
    let links =
        TlsListener::over(doors.links, &credentials, ca.clone(), Limits::default(), counters.clone())?;
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
        clock,
        metrics: registry.clone(),
        side: Side::Hub {
            role: Arc::new(hub.clone()),
            trust: fleet.trust(),
            listener: Arc::new(links),
            counters: counters.clone(),
        },
        modules,
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
    if let Some(listener) = doors.https {
        tracing::info!(address = %listener.local_addr()?, "API over TLS");
        let listener = HttpsListener::over(listener, &credentials, counters)?;
        tasks.spawn(api::serve_tls(listener, api.clone(), api_stop.clone()));
    }
    let result = node.run(stop.clone(), daemon::ready).await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    result.map_err(|error| anyhow!(error))
}

fn report(damage: &StoreDamage) {
    for key in &damage.keys {
        tracing::error!(key, "the store is damaged: a value was set aside");
    }
    for (log, position) in &damage.records {
        tracing::error!(log, position, "the store is damaged: a record was set aside");
    }
    for note in &damage.notes {
        tracing::error!("the store is damaged: {note}");
    }
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

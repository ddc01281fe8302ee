//! This machine, by the engine within this process.

use std::collections::BTreeMap;
use std::io;

use async_trait::async_trait;
use mainstay_core::state::Values;
use mainstay_core::state::session::{Ask, Tell};
use mainstay_module::registry::Registry;
use mainstay_node::state::{Session, SessionOptions};

use super::machine::{Aside, Machine, Way};

pub struct LocalWay {
    name: String,
    labels: BTreeMap<String, String>,
    vars: Values,
    registry: Registry,
}

impl LocalWay {
    /// Under the machine's own name.
    pub fn new(registry: Registry) -> Self {
        let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        let name = name.filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".to_owned());
        Self { name, labels: BTreeMap::new(), vars: Values::new(), registry }
    }
}

/// Opens a talk with this machine's engine; `title` is for the one who finds it at work.
pub fn session(registry: Registry, labels: BTreeMap<String, String>, title: &str) -> io::Result<Session> {
    let mut options = SessionOptions::new(registry, env!("CARGO_PKG_VERSION"));
    options.labels = labels;
    options.title = title.to_owned();
    // Several machines on one, as tests and benches have them, keep their debts apart.
    if let Some(data) = std::env::var_os("MAINSTAY_DATA").filter(|data| !data.is_empty()) {
        options.data = data.into();
    }
    Session::open(options)
}

struct LocalMachine(Session);

#[async_trait]
impl Way for LocalWay {
    fn name(&self) -> &str {
        &self.name
    }

    fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    fn vars(&self) -> &Values {
        &self.vars
    }

    async fn connect(&self) -> Result<Box<dyn Machine>, Aside> {
        let session = session(self.registry.clone(), self.labels.clone(), "mainstay up");
        let failed = |error| Aside::Unreachable {
            message: format!("the engine cannot be started: {error}"),
            hints: Vec::new(),
        };
        Ok(Box::new(LocalMachine(session.map_err(failed)?)))
    }
}

fn gone() -> Aside {
    Aside::Lost("the engine has ended; its last words are on standard error".into())
}

#[async_trait]
impl Machine for LocalMachine {
    async fn send(&mut self, ask: Ask) -> Result<(), Aside> {
        self.0.asks.send(ask).await.map_err(|_| gone())
    }

    async fn receive(&mut self) -> Result<Tell, Aside> {
        self.0.tells.recv().await.ok_or_else(gone)
    }

    async fn close(self: Box<Self>) {
        // The engine's thread may still be ending something; it is not for this thread to wait.
        let _ = tokio::task::spawn_blocking(move || self.0.close()).await;
    }
}

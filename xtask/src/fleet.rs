//! A hub and agents as real processes in a directory of their own: started, killed, started again.
//!
//! Only processes that were started here are ever signalled, and only by the handle of the child that has not
//! been waited for, so that no number can have passed to somebody else. What they are asked to do is the
//! affair of those who hold a fleet.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use hyper::Method;
use mainstay::client::{Client, Endpoint};
use mainstay_control::view::{NewToken, NodeView, StatusView, TokenKind, TokenSpec};

use crate::started;

/// How long hub and agents may take to be there. Debug builds on a busy machine are slow.
const UP_WITHIN: Duration = Duration::from_secs(60);

/// How long each may take to stop when asked to, before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(20);

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Any node of such a fleet may call any method of any other: who may do what is tested elsewhere.
const CONFIG: &str = "allow = [{ from = \"*\", methods = [\"*\"] }]\n";

pub const HUB: &str = "central";

/// One process and all that it takes to start it again.
#[derive(Debug)]
pub struct Daemon {
    pub name: String,
    pub data: PathBuf,
    binary: PathBuf,
    arguments: Vec<OsString>,
    log: PathBuf,
    child: Option<Child>,
    /// Every process number that it ever had.
    pub pids: Vec<u32>,
}

impl Daemon {
    fn new(root: &Path, binary: &Path, name: &str, role: &str) -> anyhow::Result<Self> {
        let data = root.join(name);
        make_directory(&data)?;
        fs::write(data.join("mainstay.toml"), CONFIG)?;
        let arguments = vec![role.into(), "--data".into(), data.clone().into()];
        let log = root.join(format!("{name}.log"));
        let (name, binary) = (name.to_owned(), binary.to_owned());
        Ok(Self { name, data, binary, arguments, log, child: None, pids: Vec::new() })
    }

    fn argument(&mut self, argument: impl Into<OsString>) -> &mut Self {
        self.arguments.push(argument.into());
        self
    }

    pub fn start(&mut self) -> anyhow::Result<()> {
        if self.is_running()? {
            return Ok(());
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.binary);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // Ctrl-C is for this program, which then ends the others.
        let child = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("{} cannot be started", self.binary.display()))?;
        started::add(child.id());
        self.pids.push(child.id());
        self.child = Some(child);
        Ok(())
    }

    /// SIGKILL. When this returns, the process is gone.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            started::remove(child.id());
            child.wait()?;
        }
        Ok(())
    }

    /// SIGTERM, and SIGKILL if that is not heard. How it ended, if it ran.
    pub fn stop(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.terminate();
        let Some(mut child) = self.child.take() else { return Ok(None) };
        started::remove(child.id());
        let deadline = Instant::now() + STOP_WITHIN;
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        child.kill()?;
        Ok(Some(child.wait()?))
    }

    fn terminate(&self) {
        if let Some(pid) = self.pid().and_then(|pid| i32::try_from(pid).ok()) {
            // It was not waited for, so the number is still its own.
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether it runs. A process that ended by itself is an error: nothing here asks for that.
    fn is_running(&mut self) -> anyhow::Result<bool> {
        let Some(child) = &mut self.child else { return Ok(false) };
        match child.try_wait()? {
            None => Ok(true),
            Some(status) => {
                started::remove(child.id());
                self.child = None;
                bail!("{} ended by itself: {status}\n{}", self.name, self.last_words())
            }
        }
    }

    pub fn message_socket(&self) -> PathBuf {
        self.data.join("message.sock")
    }

    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn last_words(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Nothing outlives a fleet that was given up half-way.
        let _ = self.kill();
    }
}

/// How a fleet is to be.
pub struct Plan<'a> {
    pub binary: &'a Path,
    pub agents: usize,
    /// Of the directory beneath the system's temporary one.
    pub label: &'a str,
}

pub struct Fleet {
    pub root: PathBuf,
    pub hub: Daemon,
    pub agents: Vec<Daemon>,
    /// Where agents link to.
    pub listen: SocketAddr,
    keep: bool,
}

impl Fleet {
    /// Starts all of them and waits until every agent is linked.
    pub async fn start(plan: Plan<'_>) -> anyhow::Result<Self> {
        let random = getrandom::u32().map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
        // Short: the path of a socket is limited to about 100 bytes.
        let root = std::env::temp_dir().join(format!("mainstay-{}-{random:08x}", plan.label));
        make_directory(&root)?;
        let listen = free_address()?;
        let mut hub = Daemon::new(&root, plan.binary, HUB, "hub")?;
        hub.argument("--listen").argument(listen.to_string()).argument("--http").argument("off");
        hub.start()?;
        let mut fleet = Self { root, hub, agents: Vec::new(), listen, keep: false };
        fleet
            .until(UP_WITHIN, "the hub does not answer", async |client| {
                Ok(client.get::<StatusView>("/v1/status").await.is_ok())
            })
            .await?;
        if plan.agents > 0 {
            fleet.join(&plan).await?;
        }
        Ok(fleet)
    }

    async fn join(&mut self, plan: &Plan<'_>) -> anyhow::Result<()> {
        let token = self.token(u32::try_from(plan.agents)?).await?;
        let file = self.root.join("join-token");
        fs::write(&file, &token)?;
        for number in 1..=plan.agents {
            let mut agent = Daemon::new(&self.root, plan.binary, &agent_name(number), "agent")?;
            let join = format!("@{}", file.display());
            agent.argument("--name").argument(agent_name(number));
            agent.argument("--label").argument(format!("number={number}"));
            agent.argument("--link").argument(self.listen.to_string());
            // A member ignores the token, so it can stay for the starts to come.
            agent.argument("--join").argument(join);
            agent.start()?;
            self.agents.push(agent);
        }
        self.until_linked(UP_WITHIN).await
    }

    /// A join token that is good for so many agents.
    pub async fn token(&self, uses: u32) -> anyhow::Result<String> {
        let spec = TokenSpec {
            kind: TokenKind::Join,
            lifetime_ms: None,
            uses: Some(uses),
            name: None,
            labels: BTreeMap::new(),
            methods: Vec::new(),
            targets: None,
        };
        let made: NewToken = self.client().call(Method::POST, "/v1/tokens", &spec).await?;
        Ok(made.token)
    }

    pub fn client(&self) -> Client {
        Client::new(Endpoint::Unix(self.api_socket()))
    }

    pub fn api_socket(&self) -> PathBuf {
        self.hub.data.join("api.sock")
    }

    pub async fn nodes(&self) -> anyhow::Result<Vec<NodeView>> {
        Ok(self.client().get("/v1/nodes").await?)
    }

    pub async fn until_linked(&mut self, within: Duration) -> anyhow::Result<()> {
        let wanted = self.agents.len();
        self.until(within, "not all agents have linked", async |client| {
            let nodes: Vec<NodeView> = client.get("/v1/nodes").await?;
            Ok(nodes.iter().filter(|node| node.online).count() >= wanted)
        })
        .await
    }

    /// Waits for something, while everything that was started still runs.
    pub async fn until(
        &mut self,
        within: Duration,
        otherwise: &str,
        ready: impl AsyncFn(&Client) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let client = self.client();
        let deadline = Instant::now() + within;
        loop {
            for daemon in self.daemons() {
                daemon.is_running()?;
            }
            // A hub that has just been started does not answer yet: that is what the deadline is for.
            let last = match ready(&client).await {
                Ok(true) => return Ok(()),
                Ok(false) => String::new(),
                Err(error) => format!(": {error}"),
            };
            if Instant::now() >= deadline {
                bail!("{otherwise} within {} s{last}; see {}", within.as_secs(), self.root.display());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub fn daemons(&mut self) -> impl Iterator<Item = &mut Daemon> {
        std::iter::once(&mut self.hub).chain(&mut self.agents)
    }

    pub fn start_all(&mut self) -> anyhow::Result<()> {
        self.daemons().try_for_each(Daemon::start)
    }

    /// Asks all to stop, agents first. Names those that did not end well.
    pub fn stop_all(&mut self) -> anyhow::Result<Vec<String>> {
        let mut unwell = Vec::new();
        self.agents.iter().for_each(Daemon::terminate);
        for daemon in self.agents.iter_mut().chain([&mut self.hub]) {
            if let Some(status) = daemon.stop()?
                && !status.success()
            {
                unwell.push(format!("{} was asked to stop and ended with {status}", daemon.name));
            }
        }
        Ok(unwell)
    }

    /// The directory stays when the fleet is gone.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for daemon in self.daemons() {
            let _ = daemon.kill();
        }
        if !self.keep {
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}

pub fn agent_name(number: usize) -> String {
    format!("node{number}")
}

fn make_directory(path: &Path) -> anyhow::Result<()> {
    Ok(DirBuilder::new().recursive(true).mode(0o700).create(path)?)
}

/// A port of this machine alone that is free at the moment.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Builds binaries of the product and of this package, and says where they are. All in one go: built one by one, what
/// both depend on might be built again for each.
pub fn build<const N: usize>(binaries: [&str; N], release: bool) -> anyhow::Result<[PathBuf; N]> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--quiet", "--package", "mainstay", "--package", "xtask"]);
    for binary in binaries {
        command.args(["--bin", binary]);
    }
    if release {
        command.arg("--release");
    }
    let status = command.status().context("cargo cannot be started")?;
    if !status.success() {
        bail!("it does not build");
    }
    let directory = target_directory()?.join(if release { "release" } else { "debug" });
    Ok(binaries.map(|binary| directory.join(binary)))
}

/// Of the build that this program is from.
fn target_directory() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let target = own.parent().and_then(Path::parent).context("this program is in no target directory")?;
    Ok(target.to_owned())
}

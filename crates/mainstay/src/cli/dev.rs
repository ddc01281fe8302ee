//! `mainstay dev`: a hub and some agents on this machine, to try things with.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::{Args, Parser as _};
use mainstay_control::view::{NewToken, NodeView, Problem, ProblemKind, StatusView, TokenKind, TokenSpec};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::screen::Screen;
use super::{Done, Stop, status_of};
use crate::client::{Client, Endpoint};
use crate::dev_pointer::DevPointer;

/// Starts a hub and some agents on this machine, to try things
///
/// They are real processes over real TLS, and end with Ctrl-C. Commands in another terminal find this hub without flags.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  mainstay dev                 then, elsewhere: mainstay nodes list
  mainstay dev --once          a short tour, then out")]
pub struct DevArgs {
    /// How many agents
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=200))]
    pub nodes: u16,
    /// List the nodes, run a command on all, show its results, and stop
    #[arg(long)]
    pub once: bool,
    /// Keep everything here and find it again next time [default: a new directory, removed at the end]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Where the agents link to [default: a free port of this machine alone]
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0", hide_default_value = true)]
    pub listen: SocketAddr,
    /// Where the API is served over TLS [default: a free port of this machine alone]
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0", hide_default_value = true)]
    pub http: SocketAddr,
}

pub(super) fn run(args: DevArgs, screen: &mut Screen) -> Done {
    super::at_once(async {
        let mut fleet = Fleet::start(&args, screen).await?;
        let result = fleet.serve(&args, screen).await;
        fleet.stop().await;
        result
    })
}

/// How long the hub and the agents may take to be there.
const UP_WITHIN: Duration = Duration::from_secs(30);

/// How often to look whether they are.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long each may take to stop when asked to, before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// The processes of a `dev` fleet, and where they keep what is theirs.
struct Fleet {
    directory: Directory,
    hub: Daemon,
    agents: Vec<Daemon>,
    client: Client,
    pointer: DevPointer,
}

enum Directory {
    Given(PathBuf),
    /// Removed when this is dropped.
    Own(PathBuf),
}

impl Directory {
    fn path(&self) -> &Path {
        match self {
            Self::Given(path) | Self::Own(path) => path,
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Self::Own(path) = self {
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

/// A child that runs `mainstay` itself, and its log.
struct Daemon {
    what: String,
    child: Child,
    log: PathBuf,
    /// What to type to start it anew.
    again: String,
}

impl Fleet {
    async fn start(args: &DevArgs, screen: &mut Screen) -> Result<Self, Stop> {
        let directory = match &args.dir {
            Some(path) => {
                make_directory(path)?;
                Directory::Given(path.canonicalize()?)
            }
            None => Directory::Own(temporary_directory()?),
        };
        let data = directory.path().join("hub");
        let listen = or_free(args.listen)?;
        let http = or_free(args.http)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("hub").arg("--data").arg(&data).args(["--listen", &listen.to_string()]);
        command.args(["--http", &http.to_string()]);
        let hub = Daemon::start("the hub".into(), command, directory.path().join("hub.log"))?;
        let socket = data.join("api.sock");
        let client = Client::new(Endpoint::Unix(socket.clone()));
        let pointer = DevPointer::new(socket);
        let mut fleet = Self { directory, hub, agents: Vec::new(), client, pointer };
        let started = fleet.bring_up(args, listen, screen).await;
        if let Err(stop) = started {
            fleet.stop().await;
            return Err(stop);
        }
        if !screen.json {
            screen.note(&format!("hub    {listen} (agents), https://{http} (API)"))?;
        }
        Ok(fleet)
    }

    async fn bring_up(
        &mut self,
        args: &DevArgs,
        listen: SocketAddr,
        screen: &mut Screen,
    ) -> Result<(), Stop> {
        self.until("the hub does not answer", async |fleet| {
            Ok(fleet.client.get::<StatusView>("/v1/status").await.is_ok())
        })
        .await?;
        if args.nodes > 0 {
            let token = self.token(u32::from(args.nodes)).await?;
            for n in 1..=args.nodes {
                let agent = self.start_agent(n, &token, listen)?;
                self.agents.push(agent);
            }
        }
        if !screen.json {
            screen.note(&format!("agents {} joining over mutual TLS …", args.nodes))?;
        }
        let wanted = usize::from(args.nodes);
        self.until("not all agents have linked", async |fleet| {
            let nodes: Vec<NodeView> = fleet.client.get("/v1/nodes").await?;
            let named = |node: &&NodeView| node.online && node.name.as_str().starts_with(PREFIX);
            Ok(nodes.iter().filter(named).count() >= wanted)
        })
        .await?;
        self.pointer.write()?;
        Ok(())
    }

    /// A token file that the agents read: the secret is in nobody's arguments.
    async fn token(&self, uses: u32) -> Result<PathBuf, Stop> {
        let spec = TokenSpec {
            kind: TokenKind::Join,
            lifetime_ms: None,
            uses: Some(uses),
            name: None,
            labels: BTreeMap::new(),
            methods: Vec::new(),
            targets: None,
        };
        let made: NewToken = self.client.call(hyper::Method::POST, "/v1/tokens", &spec).await?;
        let path = self.directory.path().join("join-token");
        let _ = std::fs::remove_file(&path);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(made.token.as_bytes())?;
        Ok(path)
    }

    fn start_agent(&self, n: u16, token: &Path, hub: SocketAddr) -> Result<Daemon, Stop> {
        let name = format!("{PREFIX}{n}");
        let data = self.directory.path().join(&name);
        // Something to choose by: every third is a database.
        let role = if n.is_multiple_of(3) { "db" } else { "web" };
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("agent").arg("--data").arg(&data).args(["--name", &name]);
        command.arg("--join").arg(format!("@{}", token.display()));
        command.args(["--link", &hub.to_string(), "--label", &format!("role={role}")]);
        Daemon::start(format!("agent {name}"), command, self.directory.path().join(format!("{name}.log")))
    }

    /// Waits for something, while everything that was started still runs.
    async fn until(
        &mut self,
        otherwise: &str,
        ready: impl AsyncFn(&Self) -> Result<bool, Problem>,
    ) -> Result<(), Stop> {
        let deadline = Instant::now() + UP_WITHIN;
        loop {
            self.check()?;
            if ready(self).await? {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let hint = format!("their logs are in {}", self.directory.path().display());
                return Err(Problem::new(ProblemKind::Internal, otherwise).hint(hint).into());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Fails if a child has ended, with its last words.
    fn check(&mut self) -> Result<(), Stop> {
        for daemon in std::iter::once(&mut self.hub).chain(&mut self.agents) {
            if let Some(status) = daemon.child.try_wait()? {
                let mut problem =
                    Problem::new(ProblemKind::Internal, format!("{} ended: {status}", daemon.what));
                for line in daemon.last_words() {
                    problem = problem.hint(line);
                }
                return Err(problem.into());
            }
        }
        Ok(())
    }

    /// An agent that ends is what one may want to try; without the hub there is nothing left.
    fn note_ends(&mut self, screen: &mut Screen) -> Result<(), Stop> {
        let mut ended = Vec::new();
        for (index, agent) in self.agents.iter_mut().enumerate() {
            if let Some(status) = agent.child.try_wait()? {
                ended.push((index, status));
            }
        }
        for (index, status) in ended.into_iter().rev() {
            let agent = self.agents.remove(index);
            screen.note(&format!("{} ended: {status}; again: {}", agent.what, agent.again))?;
        }
        self.check()
    }

    async fn serve(&mut self, args: &DevArgs, screen: &mut Screen) -> Done {
        if args.once {
            return self.tour(screen).await;
        }
        for line in [
            "",
            "Worth trying, in another terminal:",
            "  mainstay nodes list",
            "  mainstay run -t 'role=web' -- uptime",
            "  mainstay run -t '*' --stream -- sh -c 'for i in 1 2 3; do echo $i; sleep 1; done'",
            "",
            "Ctrl-C stops everything.",
        ] {
            screen.note(line)?;
        }
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                () = tokio::time::sleep(Duration::from_secs(1)) => self.note_ends(screen)?,
            }
        }
        screen.note("stopping …")?;
        Ok(status_of::WELL)
    }

    /// What a newcomer would type first, for real.
    async fn tour(&self, screen: &mut Screen) -> Done {
        let stops: [&[&str]; 2] =
            [&["nodes", "list"], &["run", "-t", "*", "--", "sh", "-c", "echo \"Hello from $(uname -sm)\""]];
        let mut worst = status_of::WELL;
        for words in stops {
            if !screen.json {
                screen.note(&format!("\n$ mainstay {}", shell_words(words)))?;
            }
            let typed = std::iter::once("mainstay").chain(words.iter().copied());
            let cli = super::Cli::try_parse_from(typed)
                .map_err(|error| Problem::new(ProblemKind::Internal, error.to_string()))?;
            let status = match cli.command {
                super::Command::Nodes(command) => super::nodes::run(&self.client, command, screen).await?,
                super::Command::Run(args) => super::run::run(&self.client, args, screen).await?,
                _ => status_of::FAILED,
            };
            screen.flush()?;
            worst = worst.max(status);
        }
        Ok(worst)
    }

    /// Agents first, so that the hub sees them go.
    async fn stop(&mut self) {
        self.pointer.remove();
        for daemon in &self.agents {
            daemon.terminate();
        }
        let deadline = Instant::now() + STOP_WITHIN;
        for daemon in &mut self.agents {
            daemon.wait_until(deadline).await;
        }
        self.hub.terminate();
        self.hub.wait_until(Instant::now() + STOP_WITHIN).await;
    }
}

/// What the agents of a `dev` fleet are called.
const PREFIX: &str = "node";

impl Daemon {
    fn start(what: String, mut command: Command, log: PathBuf) -> Result<Self, Stop> {
        let file = OpenOptions::new().create(true).append(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        // Ctrl-C is for us: we stop the others in their order.
        command.process_group(0);
        let child = command.spawn()?;
        let words: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        let again = shell_words(&words.iter().map(AsRef::as_ref).collect::<Vec<_>>());
        Ok(Self { what, child, log, again })
    }

    fn terminate(&self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(0));
        // It has not been waited for, so the number is still its own.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    }

    async fn wait_until(&mut self, deadline: Instant) {
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn last_words(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].iter().map(|line| (*line).to_owned()).collect()
    }
}

fn make_directory(path: &Path) -> Result<(), Stop> {
    Ok(DirBuilder::new().recursive(true).mode(0o700).create(path)?)
}

/// A new directory of this user alone. Its name is short: sockets' paths are limited to about 100 bytes.
fn temporary_directory() -> Result<PathBuf, Stop> {
    let random = getrandom::u64().map_err(|error| std::io::Error::other(error.to_string()))?;
    let path = std::env::temp_dir().join(format!("mainstay-{random:012x}"));
    DirBuilder::new().mode(0o700).create(&path)?;
    Ok(path)
}

/// The address as given, with a free port if it left that open.
fn or_free(address: SocketAddr) -> Result<SocketAddr, Stop> {
    if address.port() != 0 {
        return Ok(address);
    }
    Ok(std::net::TcpListener::bind(address)?.local_addr()?)
}

fn shell_words(words: &[&str]) -> String {
    let plain = |word: &str| {
        word.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'/' | b'.' | b'='))
    };
    let quoted = |word: &&str| if plain(word) { (*word).to_owned() } else { format!("'{word}'") };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

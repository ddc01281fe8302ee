//! `mainstay dev`: a hub and some agents on this machine, to try things with.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::{Args, Parser as _};
use mainstay_control::view::{NewToken, NodeView, Problem, ProblemKind, StatusView, TokenKind, TokenSpec};
use tokio::signal::unix::{Signal, SignalKind, signal};
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
        // Before anything is started: whenever the end comes, it is we who clean up.
        let mut signals = Signals::listen()?;
        let mut fleet = tokio::select! {
            () = signals.next() => return Ok(status_of::FAILED),
            fleet = Fleet::start(&args, screen.json) => fleet?,
        };
        let result = tokio::select! {
            biased;
            () = signals.next() => {
                // Ctrl-C is how it ends, unless there was a tour to finish.
                let status = if args.once { status_of::FAILED } else { status_of::WELL };
                screen.note("stopping …").map(|()| status).map_err(Stop::from)
            }
            result = fleet.serve(&args, screen) => result,
        };
        fleet.stop().await;
        result
    })
}

/// What asks this program to end: Ctrl-C, SIGTERM, or that its terminal is closed.
struct Signals([Signal; 3]);

impl Signals {
    fn listen() -> std::io::Result<Self> {
        let of = |kind| signal(kind);
        Ok(Self([of(SignalKind::interrupt())?, of(SignalKind::terminate())?, of(SignalKind::hangup())?]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
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
    /// Where agents link to.
    listen: SocketAddr,
    /// Where the API is served over TLS.
    http: SocketAddr,
    /// Our standard output is not for what messages print on the console of their node.
    quiet: bool,
    /// Held as long as this fleet may touch its directory.
    _lock: File,
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
    data: PathBuf,
    log: PathBuf,
}

impl Fleet {
    /// Starts the hub. Stopped before, it leaves nothing running.
    async fn start(args: &DevArgs, json: bool) -> Result<Self, Stop> {
        let directory = match &args.dir {
            Some(path) => {
                make_directory(path)?;
                Directory::Given(path.canonicalize()?)
            }
            None => Directory::Own(temporary_directory()?),
        };
        let lock = lock_directory(directory.path())?;
        let data = directory.path().join("hub");
        wait_for_predecessor(&data).await?;
        let listen = or_free(args.listen)?;
        let http = or_free(args.http)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("hub").arg("--data").arg(&data).args(["--listen", &listen.to_string()]);
        command.args(["--http", &http.to_string()]);
        let quiet = args.once || json;
        let hub = Daemon::start("the hub".into(), command, data.clone(), console(quiet))?;
        let socket = data.join("api.sock");
        let client = Client::new(Endpoint::Unix(socket.clone()));
        let pointer = DevPointer::new(socket);
        Ok(Self { directory, hub, agents: Vec::new(), client, pointer, listen, http, quiet, _lock: lock })
    }

    async fn bring_up(&mut self, args: &DevArgs, screen: &mut Screen) -> Result<(), Stop> {
        self.until("the hub does not answer", async |fleet| {
            Ok(fleet.client.get::<StatusView>("/v1/status").await.is_ok())
        })
        .await?;
        if args.nodes > 0 {
            let token = self.token(u32::from(args.nodes)).await?;
            for n in 1..=args.nodes {
                let agent = self.start_agent(n, &token)?;
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
        if !screen.json {
            screen.note(&format!("hub    {} (agents), https://{} (API)", self.listen, self.http))?;
        }
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

    fn start_agent(&self, n: u16, token: &Path) -> Result<Daemon, Stop> {
        let name = format!("{PREFIX}{n}");
        let data = self.directory.path().join(&name);
        // Something to choose by: every third is a database.
        let role = if n.is_multiple_of(3) { "db" } else { "web" };
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("agent").arg("--data").arg(&data).args(["--name", &name]);
        command.arg("--join").arg(format!("@{}", token.display()));
        command.args(["--link", &self.listen.to_string(), "--label", &format!("role={role}")]);
        Daemon::start(format!("agent {name}"), command, data, console(self.quiet))
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
        self.hub.check()?;
        self.agents.iter_mut().try_for_each(Daemon::check)
    }

    /// An agent that is killed is a thing worth trying: the others go on.
    fn note_ended_agents(&mut self, screen: &mut Screen) -> Result<(), Stop> {
        let mut ended = Vec::new();
        self.agents.retain_mut(|daemon| match daemon.child.try_wait() {
            Ok(Some(status)) => {
                let data = daemon.data.display();
                ended.push(format!("{} ended: {status}", daemon.what));
                ended.push(format!("start it again with `mainstay agent --data {data}`"));
                false
            }
            _ => true,
        });
        Ok(ended.iter().try_for_each(|line| screen.note(line))?)
    }

    /// Everything from here on; only a tour ends by itself.
    async fn serve(&mut self, args: &DevArgs, screen: &mut Screen) -> Done {
        self.bring_up(args, screen).await?;
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
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.hub.check()?;
            self.note_ended_agents(screen)?;
            // Another `dev` that was the newest has ended: commands find this one again.
            if DevPointer::read().is_none_or(|pointer| !pointer.is_alive()) {
                self.pointer.write()?;
            }
        }
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
                super::Command::Run(args) => super::run::through_hub(&self.client, args, screen).await?,
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
    fn start(what: String, mut command: Command, data: PathBuf, console: Stdio) -> Result<Self, Stop> {
        let log = data.with_extension("log");
        let file = OpenOptions::new().create(true).append(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(console).stderr(file);
        // Ctrl-C is for us: we stop the others in their order.
        command.process_group(0);
        // If we are killed, nobody else stops them.
        command.env(super::daemon::PARENT, std::process::id().to_string());
        let child = command.spawn()?;
        Ok(Self { what, child, data, log })
    }

    /// Fails if it has ended, with its last words.
    fn check(&mut self) -> Result<(), Stop> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let mut problem = Problem::new(ProblemKind::Internal, format!("{} ended: {status}", self.what));
        for line in self.last_words() {
            problem = problem.hint(line);
        }
        Err(problem.into())
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

/// The console of the hub and the agents: what a message's answer prints there is shown here.
fn console(quiet: bool) -> Stdio {
    if quiet { Stdio::null() } else { Stdio::inherit() }
}

fn make_directory(path: &Path) -> Result<(), Stop> {
    Ok(DirBuilder::new().recursive(true).mode(0o700).create(path)?)
}

/// One `dev` at a time works in a directory.
fn lock_directory(path: &Path) -> Result<File, Stop> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path.join("dev.lock"))?;
    file.try_lock().map_err(|_| {
        let message = format!("another `mainstay dev` works in {}", path.display());
        Problem::new(ProblemKind::Conflict, message).hint("give this one a directory of its own with --dir")
    })?;
    Ok(file)
}

/// A `dev` that was killed may have a hub that is still stopping.
async fn wait_for_predecessor(data: &Path) -> Result<(), Stop> {
    let socket = data.join("api.sock");
    let deadline = Instant::now() + STOP_WITHIN;
    while std::os::unix::net::UnixStream::connect(&socket).is_ok() {
        if Instant::now() >= deadline {
            let message = format!("a hub runs in {} already", data.display());
            return Err(Problem::new(ProblemKind::Conflict, message)
                .hint("stop it, or give this one a directory of its own with --dir")
                .into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
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

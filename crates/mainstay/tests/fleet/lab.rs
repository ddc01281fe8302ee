//! A fleet of real processes for one test: `mainstay hub` and `mainstay agent` on free ports of this machine,
//! with all that they keep in one temporary directory, and `mainstay` itself to command them.
//!
//! Nothing waits for a fixed time: [`eventually`] looks until something is so. Whatever happens to the test,
//! its processes end with it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

pub const BINARY: &str = env!("CARGO_BIN_EXE_mainstay");

/// Longest wait for anything: other tests may want the machine's two cores at the same time.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// How often to look.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until there is something to see, and fails naming what it waited for.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "it never came to this: {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// A process that ends with its test, at the latest.
pub struct Process {
    child: Child,
}

impl Process {
    pub fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null());
        // SAFETY: only a system call between fork and exec. Threads end with their test, and so does what they started.
        let child =
            unsafe { command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)).spawn() };
        Self { child: child.expect("the program starts") }
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process's number")
    }

    pub fn signal(&self, signal: Signal) {
        // It has not been waited for, so the number is its own.
        kill(Pid::from_raw(self.pid()), signal).expect("it is there");
    }

    /// kill -9.
    pub fn crash(mut self) {
        self.child.kill().expect("it is there");
        self.child.wait().expect("it can be waited for");
    }

    /// SIGTERM; how it ended.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        eventually("it stops on SIGTERM", || self.ended())
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it can be waited for")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a command printed, and its exit status.
pub struct Said {
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    #[track_caller]
    pub fn exits(self, status: i32) -> Self {
        assert_eq!(
            self.status,
            Some(status),
            "standard output:\n{}\nstandard error:\n{}",
            self.out,
            self.err
        );
        self
    }

    /// Its output, one JSON object a line.
    #[track_caller]
    pub fn json(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        self.out.lines().map(parse).collect()
    }
}

/// A command that was started and may take its time.
pub struct Waiting {
    process: Process,
    out: PathBuf,
    err: PathBuf,
}

impl Waiting {
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// What it has printed on its standard output by now.
    pub fn so_far(&self) -> String {
        read(&self.out)
    }

    #[track_caller]
    pub fn end(mut self) -> Said {
        let status = eventually("the command ends", || self.process.ended());
        Said { status: status.code(), out: read(&self.out), err: read(&self.err) }
    }
}

fn read(path: &Path) -> String {
    String::from_utf8(std::fs::read(path).expect("what a command printed")).expect("UTF-8")
}

pub struct Lab {
    directory: tempfile::TempDir,
    port: u16,
    hub: Option<Process>,
    agents: BTreeMap<String, Process>,
    commands: std::cell::Cell<u32>,
    verbose: bool,
    /// The hub's API socket.
    api: PathBuf,
}

impl Lab {
    /// A hub, and agents of these names that are linked to it.
    pub fn new(agents: &[&str]) -> Self {
        let mut lab = Self::bare();
        lab.start_hub();
        for name in agents {
            lab.join(name, &[]);
        }
        for name in agents {
            lab.until_online(name, true);
        }
        lab
    }

    /// Only a directory and a port.
    pub fn bare() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let directory = tempfile::Builder::new().prefix("ms").tempdir().expect("a temporary directory");
        Self {
            api: directory.path().join("hub/api.sock"),
            directory,
            port: port.expect("a free port").port(),
            hub: None,
            agents: BTreeMap::new(),
            commands: std::cell::Cell::new(0),
            verbose: false,
        }
    }

    /// From now on every process writes all that it can to its log.
    pub fn verbose(self) -> Self {
        Self { verbose: true, ..self }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `mainstay` in an environment in which it finds nothing but what it is told.
    pub fn command(&self) -> Command {
        let mut command = Command::new(BINARY);
        self.seclude(&mut command);
        command
    }

    pub fn seclude(&self, command: &mut Command) {
        for variable in ["MAINSTAY_HUB", "MAINSTAY_TOKEN", "MAINSTAY_DATA", "XDG_CONFIG_HOME"] {
            command.env_remove(variable);
        }
        command.env("HOME", self.directory.path()).env("XDG_RUNTIME_DIR", self.directory.path());
        command.env("TMPDIR", self.directory.path());
        if self.verbose {
            command.env("MAINSTAY_LOG", "trace");
        }
    }

    fn log(&self, name: &str) -> File {
        let path = self.path(&format!("{name}.log"));
        OpenOptions::new().create(true).append(true).open(path).expect("a log")
    }

    pub fn hub_command(&self) -> Command {
        let mut command = self.command();
        command.arg("hub").arg("--data").arg(self.path("hub"));
        command.args(["--listen", &format!("127.0.0.1:{}", self.port), "--http", "127.0.0.1:0"]);
        command
    }

    pub fn start_hub(&mut self) {
        let mut command = self.hub_command();
        self.hub = Some(Process::start(command.stdout(self.log("hub")).stderr(self.log("hub"))));
        self.until_hub_answers();
    }

    /// A hub whose files are seen by itself alone.
    pub fn start_hidden_hub(&mut self, command: &mut Command) {
        let hub = Process::start(command.stdout(Stdio::null()).stderr(self.log("hub")));
        self.api = PathBuf::from(format!("/proc/{}/root{}", hub.pid(), self.api.display()));
        self.hub = Some(hub);
        self.until_hub_answers();
    }

    fn until_hub_answers(&self) {
        eventually("the hub answers", || (self.run(&["status"]).status == Some(0)).then_some(()));
    }

    pub fn hub(&mut self) -> Process {
        self.hub.take().expect("a hub runs")
    }

    pub fn hub_pid(&self) -> i32 {
        self.hub.as_ref().expect("a hub runs").pid()
    }

    pub fn token(&self, options: &[&str]) -> String {
        self.run(&[&["token", "create"], options].concat()).exits(0).out.trim().to_owned()
    }

    /// Starts an agent that joins with a token made for it.
    pub fn join(&mut self, name: &str, options: &[&str]) {
        let token = self.token(&[]);
        let mut command = self.agent_command(name);
        command.args(["--join", &token]).args(options);
        self.start_agent_as(name, &mut command);
    }

    pub fn agent_command(&self, name: &str) -> Command {
        let mut command = self.command();
        command.arg("agent").arg("--data").arg(self.path(name)).args(["--name", name]);
        command
    }

    pub fn start_agent(&mut self, name: &str) {
        let mut command = self.agent_command(name);
        self.start_agent_as(name, &mut command);
    }

    pub fn start_agent_as(&mut self, name: &str, command: &mut Command) {
        let process = Process::start(command.stdout(self.log(name)).stderr(self.log(name)));
        assert!(self.agents.insert(name.to_owned(), process).is_none(), "{name} runs already");
    }

    pub fn agent(&mut self, name: &str) -> Process {
        self.agents.remove(name).expect("it runs")
    }

    pub fn agent_pid(&self, name: &str) -> i32 {
        self.agents[name].pid()
    }

    /// Runs `mainstay` against this hub, to its end.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> Said {
        self.begin(words).end()
    }

    #[track_caller]
    pub fn begin(&self, words: &[&str]) -> Waiting {
        let mut command = self.command();
        command.arg("--hub").arg(self.hub_url()).args(words);
        self.begin_as(&mut command)
    }

    pub fn hub_url(&self) -> String {
        format!("unix:{}", self.api.display())
    }

    pub fn begin_as(&self, command: &mut Command) -> Waiting {
        let number = self.commands.replace(self.commands.get() + 1);
        let (out, err) = (self.path(&format!("{number}.out")), self.path(&format!("{number}.err")));
        let file = |path| File::create(path).expect("a file for what a command prints");
        let process = Process::start(command.stdout(file(&out)).stderr(file(&err)));
        Waiting { process, out, err }
    }

    pub fn nodes(&self) -> Vec<Value> {
        self.run(&["nodes", "list", "--json"]).exits(0).json()
    }

    pub fn node(&self, name: &str) -> Option<Value> {
        self.nodes().into_iter().find(|node| node["name"] == name)
    }

    pub fn until_online(&self, name: &str, online: bool) {
        eventually(&format!("{name} is online: {online}"), || {
            self.node(name).filter(|node| node["online"] == online).map(|_| ())
        });
    }

    /// Starts a run and does not wait for it. Its id.
    #[track_caller]
    pub fn detach(&self, words: &[&str]) -> String {
        let said = self.run(&[&["run", "--detach"], words].concat()).exits(0);
        said.out.trim().to_owned()
    }

    /// The outcome of a run on a node, once it has one.
    pub fn outcome(&self, run: &str, node: &str) -> String {
        eventually(&format!("{run} has ended on {node}"), || {
            let lines = self.run(&["runs", "show", run, "--json"]).exits(0).json();
            let of_node = lines.into_iter().find(|line| line["node"] == node)?;
            of_node["result"]["outcome"].as_str().map(str::to_owned)
        })
    }

    /// Why a run has no end on a node yet, as it is told to people.
    pub fn pending(&self, run: &str, node: &str) -> Option<String> {
        let lines = self.run(&["runs", "show", run, "--json"]).exits(0).json();
        let of_node = lines.into_iter().find(|line| line["node"] == node)?;
        of_node["pending"].as_str().map(str::to_owned)
    }
}

/// The processes whose command line holds this word.
pub fn processes_with(word: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(word)
    })
    .collect()
}

/// Resident memory in KiB.
pub fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
    line.split_ascii_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// What the hub counts, as it is given to Prometheus.
pub fn metrics(lab: &Lab) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::os::unix::net::UnixStream::connect(lab.path("hub/api.sock")).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

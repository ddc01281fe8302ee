//! One `sshd` on ten addresses, with keys and configuration made for it, and the program pointed at it.

use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Far above what anything here takes, so that a hang is a failure and a slow machine is not.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub const HOSTS: u8 = 10;

pub struct Server {
    pub dir: tempfile::TempDir,
    pub port: u16,
    child: Child,
    program: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address of a host, counted from 0.
pub fn address(host: u8) -> String {
    format!("127.0.0.{}", 11 + host)
}

/// A server, or the reason why there is none, said to whoever reads the test's output.
pub fn start(test: &str) -> Option<Server> {
    let Some(sshd) = ["/usr/sbin/sshd", "/usr/bin/sshd"].into_iter().find(|path| Path::new(path).exists())
    else {
        eprintln!("SKIPPED {test}: there is no sshd here (the package openssh-server)");
        return None;
    };
    if !on_path("ssh") || !on_path("ssh-keygen") {
        eprintln!("SKIPPED {test}: there is no ssh client here (the package openssh-client)");
        return None;
    }
    // Another process may take the port between our look and sshd's bind.
    for _ in 0..5 {
        let free = TcpListener::bind((address(0), 0)).expect("loopback has free ports");
        let port = free.local_addr().unwrap().port();
        drop(free);
        if let Some(server) = Server::try_start(sshd, port) {
            return Some(server);
        }
    }
    panic!("sshd does not start");
}

pub fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

impl Server {
    fn try_start(sshd: &str, port: u16) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for key in ["host_key", "user_key"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", key, "-f"])
                .arg(at(key))
                .status()
                .unwrap();
            assert!(made.success());
        }
        fs::copy(at("user_key.pub"), at("authorized_keys")).unwrap();
        let root = dir.path().display();
        let mut config = format!(
            "Port {port}\nHostKey {root}/host_key\nAuthorizedKeysFile {root}/authorized_keys\nPidFile none\nStrictModes no\n\
             UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n\
             MaxStartups 200:100:200\nMaxSessions 50\nPrintMotd no\n"
        );
        for host in 0..HOSTS {
            config.push_str(&format!("ListenAddress {}\n", address(host)));
        }
        for host in 0..HOSTS {
            let home = at(&format!("host{host}"));
            fs::create_dir(&home).unwrap();
            // The first host has a cache of its own, the others share one: ten copies of a program are slow to write.
            let cache = if host == 0 { "host0/cache" } else { "cache" };
            config.push_str(&format!(
                "Match LocalAddress {}\n  SetEnv XDG_CACHE_HOME={root}/{cache} MAINSTAY_DATA={}/data\n",
                address(host),
                home.display()
            ));
        }
        fs::write(at("sshd_config"), config).unwrap();
        // Where it drops its privileges to; made by the package's service, which nobody started.
        let _ = fs::create_dir_all("/run/sshd");
        let log = fs::File::create(at("sshd.log")).unwrap();
        let mut child = Command::new(sshd)
            .args(["-D", "-e", "-f"])
            .arg(at("sshd_config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while TcpStream::connect((address(HOSTS - 1), port)).is_err() {
            let gone = child.try_wait().unwrap().is_some();
            if gone || begun.elapsed() > Duration::from_secs(20) {
                let _ = child.kill();
                let _ = child.wait();
                eprintln!("sshd did not start: {}", fs::read_to_string(at("sshd.log")).unwrap_or_default());
                return None;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let server = Self { port, child, program: program(), dir };
        server.know(0..HOSTS);
        let config = format!(
            "IdentityFile {root}/user_key\nIdentitiesOnly yes\nUserKnownHostsFile {root}/known_hosts\n\
             GlobalKnownHostsFile none\nPort {port}\nUpdateHostKeys no\n",
            root = server.dir.path().display()
        );
        fs::write(server.at("ssh_config"), config).unwrap();
        Some(server)
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the file of known hosts anew.
    pub fn know(&self, hosts: impl Iterator<Item = u8>) {
        let key = fs::read_to_string(self.at("host_key.pub")).unwrap();
        let mut file = fs::File::create(self.at("known_hosts")).unwrap();
        for host in hosts {
            write!(file, "[{}]:{} {key}", address(host), self.port).unwrap();
        }
    }

    /// The program, as the user of the far side too.
    pub fn mainstay(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        // Behind the subcommand: what comes after `--` is another's.
        command.arg(args[0]).arg("--ssh-config").arg(self.at("ssh_config")).args(&args[1..]);
        command.env("HOME", self.dir.path()).env_remove("SSH_AUTH_SOCK").env_remove("XDG_CACHE_HOME");
        command.env("MAINSTAY_DATA", self.at("local-data")).current_dir(self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.mainstay(args).output().unwrap())
    }

    /// `127.0.0.11,127.0.0.12,…`
    pub fn all(&self) -> String {
        (0..HOSTS).map(address).collect::<Vec<_>>().join(",")
    }
}

#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    pub fn json(&self) -> Vec<serde_json::Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }
}

/// The program without what debuggers want: it is copied to ten hosts.
fn program() -> PathBuf {
    static STRIPPED: OnceLock<(Mutex<tempfile::TempDir>, PathBuf)> = OnceLock::new();
    let (_, path) = STRIPPED.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mainstay");
        let whole = env!("CARGO_BIN_EXE_mainstay");
        let stripped = Command::new("strip").arg("-o").arg(&path).arg(whole).status();
        if !stripped.is_ok_and(|status| status.success()) {
            fs::copy(whole, &path).unwrap();
        }
        (Mutex::new(dir), path)
    });
    path.clone()
}

/// Processes whose command line holds the text.
pub fn processes_with(text: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let lives = stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.starts_with(" Z"));
        if lives
            && pid != std::process::id()
            && String::from_utf8_lossy(&line).replace('\0', " ").contains(text)
        {
            found.push(pid);
        }
    }
    found
}

/// Looks until it is so.
pub fn wait_until(what: &str, most: Duration, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < most, "not within {most:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

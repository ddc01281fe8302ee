//! The example does what its first comment says: its own commands are run, with the hosts on ports and in a directory of this
//! test's.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const PROGRAM: &str = include_str!("../main.rs");

/// What the comment and the script say without being told otherwise.
const USUAL_PLACE: &str = "/tmp/mainstay-example";

#[test]
fn it_is_short() {
    let code = PROGRAM.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
    let lines = code.count();
    assert!((30..60).contains(&lines), "{lines} lines of code");
}

/// Three hosts that are gone with their test.
struct Hosts {
    directory: tempfile::TempDir,
    port: u16,
    program: PathBuf,
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.shell("examples/tool/hosts down");
    }
}

impl Hosts {
    /// Not started yet. Nothing where they cannot be had here, which is said.
    fn new(test: &str) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directories: Vec<PathBuf> =
            std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into()]).collect();
        for (program, package) in
            [("sshd", "openssh-server"), ("ssh", "openssh-client"), ("ssh-keygen", "openssh-client")]
        {
            if !directories.iter().any(|directory| directory.join(program).is_file()) {
                eprintln!("SKIPPED {test}: there is no {program} here (the package {package})");
                return None;
            }
        }
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("example-tool");
        // Three hosts get a copy: without what debuggers want, it is a tenth.
        let whole = env!("CARGO_BIN_EXE_example-tool");
        let stripped = Command::new("strip").arg("-o").arg(&program).arg(whole).status();
        if !stripped.is_ok_and(|status| status.success()) {
            fs::copy(whole, &program).unwrap();
        }
        Some(Self { directory, port: 0, program })
    }

    fn place(&self) -> PathBuf {
        self.directory.path().join("hosts")
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.place().join(path)).ok()
    }

    /// A line as somebody types it who has read the comment.
    fn shell(&self, line: &str) -> Output {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let line = line.replace("cargo run -p example-tool --", &self.program.display().to_string());
        let line = line.replace(USUAL_PLACE, &self.place().display().to_string());
        let mut shell = Command::new("sh");
        shell.args(["-c", &line]).current_dir(root).stdin(Stdio::null());
        shell.env("EXAMPLE_DIR", self.place()).env("EXAMPLE_PORT", self.port.to_string());
        shell.env("HOME", self.directory.path()).env("MAINSTAY_DATA", self.directory.path().join("data"));
        shell.env_remove("SSH_AUTH_SOCK").env_remove("XDG_CACHE_HOME");
        shell.output().unwrap()
    }

    /// A line that ends with this status; what it says.
    #[track_caller]
    fn line(&self, line: &str, status: i32) -> String {
        let output = self.shell(line);
        let [said, complained] =
            [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        assert_eq!(output.status.code(), Some(status), "{line}\n{said}{complained}");
        said
    }

    /// Another process may take a port between our look and sshd's.
    fn start(&mut self, line: &str) {
        for _ in 0..5 {
            self.port = three_free_ports();
            if self.shell(line).status.success() {
                return;
            }
        }
        self.line(line, 0);
    }
}

fn three_free_ports() -> u16 {
    let taken = |port| TcpListener::bind(("127.0.0.1", port));
    loop {
        let first = taken(0).unwrap();
        let port = first.local_addr().unwrap().port();
        if let (Some(second), Some(third)) = (port.checked_add(1), port.checked_add(2))
            && taken(second).is_ok()
            && taken(third).is_ok()
        {
            return port;
        }
    }
}

/// The commands of the program's first comment.
fn commands() -> Vec<&'static str> {
    PROGRAM.lines().filter_map(|line| line.strip_prefix("//! $ ")).collect()
}

fn is_debian() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    release.lines().any(|line| line.starts_with("ID") && (line.contains("debian") || line.contains("ubuntu")))
}

#[test]
fn it_does_what_its_comment_says() {
    let Some(mut hosts) = Hosts::new("it_does_what_its_comment_says") else { return };
    let [start, plan, up, run, stop] = commands()[..] else { panic!("{:?}", commands()) };
    // Nobody is there to be asked.
    let up = &up.replace(" up ", " up --yes ");
    hosts.start(start);

    let planned = hosts.line(plan, 3);
    assert!(planned.contains("Hello, ann!") && planned.contains("Hello, carl!"), "{planned}");
    assert!(!hosts.place().join("web1/people").exists(), "the plan changed something");

    hosts.line(up, 0);
    for (host, people) in [("web1", ["ann", "bob"].as_slice()), ("web2", &["ann", "bob"]), ("db1", &["carl"])]
    {
        let directory = hosts.place().join(host).join("people");
        let mut names: Vec<_> = fs::read_dir(directory).unwrap().flatten().map(|e| e.file_name()).collect();
        names.sort();
        assert_eq!(names, people, "{host}");
        for who in people {
            assert_eq!(hosts.read(&format!("{host}/people/{who}")), Some(format!("Hello, {who}!\n")));
        }
        // The program runs there from a copy in that host's home.
        let copies = fs::read_dir(hosts.place().join(host).join(".cache/mainstay")).unwrap();
        assert_eq!(copies.count(), 1, "{host}");
        let role = (is_debian() && host != "db1").then(|| "web\n".to_owned());
        assert_eq!(hosts.read(&format!("{host}/role")), role, "{host}");
    }

    let again = hosts.line(&format!("{up} --json"), 0);
    let events = again.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let summaries: Vec<_> = events.filter(|event| event["event"] == "summary").collect();
    assert_eq!(summaries.len(), 3, "{again}");
    assert!(summaries.iter().all(|of| of["changed"] == 0 && of["failed"] == 0), "{again}");

    let said = hosts.line(run, 0);
    assert!(said.contains("db1,web[1-2] (3) · ok") && said.contains("ann\nbob\n"), "{said}");

    // From the beginning, on the same ports.
    hosts.line(start, 0);
    assert!(!hosts.place().join("web1/people").exists());
    hosts.line(stop, 0);
    for port in hosts.port..hosts.port + 3 {
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "something listens on {port}");
    }
}

#[test]
fn the_script_leaves_alone_what_it_has_not_made() {
    let Some(mut hosts) = Hosts::new("the_script_leaves_alone_what_it_has_not_made") else { return };
    fs::create_dir(hosts.place()).unwrap();
    fs::write(hosts.place().join("mine"), "mine").unwrap();
    hosts.port = three_free_ports();
    hosts.line("examples/tool/hosts up", 1);
    assert_eq!(hosts.read("mine").as_deref(), Some("mine"));
    fs::remove_dir_all(hosts.place()).unwrap();

    // Where the third port is another's, the first two are not left behind.
    let third = TcpListener::bind("127.0.0.1:0").unwrap();
    hosts.port = third.local_addr().unwrap().port() - 2;
    hosts.line("examples/tool/hosts up", 1);
    let left = fs::read_dir(hosts.place()).unwrap().flatten().filter(|entry| {
        let pid = fs::read_to_string(entry.path()).unwrap_or_default();
        entry.path().extension().is_some_and(|ending| ending == "pid")
            && Path::new("/proc").join(pid.trim()).exists()
    });
    assert_eq!(left.count(), 0);
}

//! A program's own copy on another machine, reached by the system's `ssh`.
//!
//! The user's configuration, agent, jump hosts and known hosts count, since it is their `ssh` that is run. One
//! connection a machine: [`script`] looks whether the copy is there, takes it if not, and becomes it; from
//! then on messages go both ways in [`crate::pieces`]. What they mean is the caller's.
//!
//! Nobody is asked anything: no password, no passphrase, and an unknown host key is refused unless that was allowed.

mod binary;
mod script;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

pub use self::binary::{Binaries, Binary, BinaryError};
pub use self::script::{MARK, READY};
use self::script::{Probe, Word};
use crate::pieces::{Decoder, encode};

/// How long a machine may take to let us in and answer the first line: slow jump hosts and slow DNS included.
const GREETING: Duration = Duration::from_secs(60);

/// How long it may take until a TCP connection stands, unless the user's or the host's options say otherwise.
const CONNECT_SECONDS: u32 = 10;

/// A silent connection is probed this often, and given up after three probes.
const ALIVE_SECONDS: u32 = 15;

/// What the other side may say before our own first line: a shell's greetings.
const MAX_CHATTER: usize = 64 << 10;

/// What is kept of the other side's standard error, its end: errors stand there.
const MAX_STDERR: usize = 8 << 10;

/// How long the client may take to end after goodbye.
const FAREWELL: Duration = Duration::from_secs(2);

/// A machine as `ssh` is told of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SshHost {
    /// `[USER@]HOST`; a name that the user's configuration knows will do.
    pub destination: String,
    pub port: Option<u16>,
    /// As `ssh -o` takes them, by name.
    pub options: BTreeMap<String, String>,
    /// Instead of the user's configuration file.
    pub config: Option<PathBuf>,
    /// Take a host key that is not known yet, and remember it. A changed one is refused all the same.
    pub accept_new_host_keys: bool,
    /// Work as this user, by `sudo`.
    pub become_user: Option<String>,
}

/// Why there is no connection, or no longer one.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    #[error("{0:?} is no host that ssh could be given")]
    Destination(String),
    #[error("the program ssh cannot be started")]
    Start(#[source] io::Error),
    /// What ssh or the other side said last.
    #[error("{said}")]
    Refused { said: String },
    #[error("it did not answer within {} s{}", GREETING.as_secs(), after(.said))]
    Silent { said: String },
    #[error("there is no program for {arch} to copy to it")]
    Architecture { arch: String },
    #[error("its cache directory {directory} cannot be used{}", after(.said))]
    Cache { directory: String, said: String },
    #[error("the program could not be copied to it{}", after(.said))]
    Upload { said: String },
    #[error("the program that was copied to it does not run there{}", after(.said))]
    Copy { said: String },
    #[error(transparent)]
    Binary(#[from] BinaryError),
    #[error("the connection was lost{}", after(.said))]
    Lost { said: String },
    #[error("it speaks in a way that is not understood: {0}")]
    Speech(String),
}

fn after(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

impl SshError {
    /// What may help.
    pub fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::Start(error) if error.kind() == io::ErrorKind::NotFound => {
                "install an ssh client (the package openssh-client)"
            }
            Self::Architecture { arch } => {
                return vec![format!("give it with --agent-binary {arch}=PATH, a build of the same version")];
            }
            Self::Copy { .. } => "perhaps its cache directory lies on a file system mounted noexec",
            Self::Upload { said } | Self::Refused { said } | Self::Silent { said } | Self::Lost { said } => {
                return hints_of(said);
            }
            _ => return Vec::new(),
        };
        vec![hint.to_owned()]
    }
}

/// By what ssh and sudo say in their own words.
fn hints_of(said: &str) -> Vec<String> {
    let known = [
        (
            "has changed and you have requested strict checking",
            "its host key is not the one that was known: find out why before you trust it",
        ),
        (
            "Host key verification failed",
            "check its host key and add it to known_hosts, or take new ones with --accept-new-host-keys",
        ),
        (
            "Permission denied (",
            "it accepts none of our keys: load one with ssh-add, or name it in ~/.ssh/config; passwords are not asked for",
        ),
        ("Could not resolve hostname", "check the name, or name it in ~/.ssh/config"),
        ("Connection refused", "check the port, and that sshd runs there"),
        (
            "sudo: a password is required",
            "--become needs sudo without a password for this user there (NOPASSWD)",
        ),
        ("sudo: not found", "--become needs sudo there"),
        ("sudo: command not found", "--become needs sudo there"),
        ("No space left on device", "make room there, or name another place by XDG_CACHE_HOME"),
        ("Connection timed out", "check the address, and that no firewall is between"),
    ];
    known.iter().filter(|(sign, _)| said.contains(sign)).take(1).map(|(_, hint)| (*hint).to_owned()).collect()
}

/// A connection to our copy on the other side. Dropped, it ends the client, and with its standard input closed the copy ends
/// too.
pub struct SshLink {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    stderr: Said,
    decoder: Decoder,
    /// It had to be given the copy.
    pub was_copied: bool,
}

/// The end of what came on standard error.
struct Said {
    pipe: Option<ChildStderr>,
    text: Vec<u8>,
}

impl SshLink {
    /// Connects, and has the copy running: its messages may come from now on.
    pub async fn connect(host: &SshHost, binaries: &Binaries) -> Result<Self, SshError> {
        let open =
            |anew| -> Result<Self, SshError> { Self::of(command(host, &script::script(binaries, anew))?) };
        let mut link = open(false)?;
        match link.greet(binaries).await {
            // Its disk may have lost some of it since.
            Err(SshError::Copy { .. }) if !link.was_copied => {
                link = open(true)?;
                link.greet(binaries).await?;
            }
            greeted => greeted?,
        }
        Ok(link)
    }

    fn of(mut command: Command) -> Result<Self, SshError> {
        let mut child = command.spawn().map_err(SshError::Start)?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let stderr = Said { pipe: child.stderr.take(), text: Vec::new() };
        let stdout = BufReader::new(stdout.expect("it was asked for as a pipe"));
        Ok(Self { child, stdin, stdout, stderr, decoder: Decoder::default(), was_copied: false })
    }

    /// Until the copy runs.
    async fn greet(&mut self, binaries: &Binaries) -> Result<(), SshError> {
        let word = match timeout(GREETING, self.word()).await {
            Ok(word) => word?,
            Err(_) => return Err(SshError::Silent { said: self.stderr.last_words() }),
        };
        match word {
            Word::Have => {}
            Word::Need { arch } => {
                let binary =
                    binaries.of(&arch).ok_or_else(|| SshError::Architecture { arch: arch.clone() })?;
                self.was_copied = true;
                self.upload(binary).await?;
            }
            Word::Architecture { arch } => return Err(SshError::Architecture { arch }),
            Word::Directory { directory } => {
                self.stderr.read_rest().await;
                return Err(SshError::Cache { directory, said: self.stderr.last_words() });
            }
            other => return Err(SshError::Speech(format!("it began with {other:?}"))),
        }
        match timeout(GREETING, self.word()).await {
            Ok(Ok(Word::Ready)) => Ok(()),
            Ok(Ok(other)) => Err(SshError::Speech(format!("its copy began with {other:?}"))),
            Ok(Err(SshError::Refused { said })) => Err(SshError::Copy { said }),
            Ok(Err(error)) => Err(error),
            // A damaged program may do anything, also nothing.
            Err(_) => Err(SshError::Copy { said: self.stderr.last_words() }),
        }
    }

    async fn upload(&mut self, binary: &Binary) -> Result<(), SshError> {
        let mut file = binary.open().await?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            let count = file.read(&mut buffer).await.map_err(|e| binary.unreadable(e))?;
            if count == 0 {
                break;
            }
            if self.write(&buffer[..count]).await.is_err() {
                self.end().await;
                return Err(SshError::Upload { said: self.stderr.last_words() });
            }
        }
        match self.word().await {
            Ok(Word::Got) => Ok(()),
            Ok(Word::Broken) => {
                self.stderr.read_rest().await;
                Err(SshError::Copy { said: self.stderr.last_words() })
            }
            Ok(other) => Err(SshError::Speech(format!("after the copy it said {other:?}"))),
            Err(error) => Err(error),
        }
    }

    /// The next line of the script's, whatever a shell says before it.
    async fn word(&mut self) -> Result<Word, SshError> {
        let (mut line, mut chatter) = (Vec::new(), String::new());
        for _ in 0..MAX_CHATTER {
            let mut byte = [0];
            match self.stderr.beside(self.stdout.read(&mut byte)).await {
                Ok(1) if byte[0] == b'\n' => {
                    if let Some(word) = Probe::read(&line) {
                        return Ok(word);
                    }
                    chatter = String::from_utf8_lossy(&line).trim().to_owned();
                    line.clear();
                }
                Ok(1) => line.push(byte[0]),
                _ => return Err(self.refused(chatter).await),
            }
        }
        Err(SshError::Speech("its shell says too much before anything is run".into()))
    }

    /// `chatter`: what a shell said in place of ours, for want of a better reason.
    async fn refused(&mut self, chatter: String) -> SshError {
        let status = self.end().await;
        let said = self.stderr.last_words();
        let said = match (said.is_empty(), status) {
            (false, _) => said,
            (true, _) if !chatter.is_empty() => chatter,
            (true, Some(status)) => format!("ssh ended with {status} and no word"),
            (true, None) => "ssh ended with no word".to_owned(),
        };
        SshError::Refused { said }
    }

    async fn lost(&mut self) -> SshError {
        self.end().await;
        SshError::Lost { said: self.stderr.last_words() }
    }

    /// Waits for the client's end, for its last words.
    async fn end(&mut self) -> Option<ExitStatus> {
        self.stdin = None;
        self.stderr.read_rest().await;
        timeout(FAREWELL, self.child.wait()).await.ok()?.ok()
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let stdin = self.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        self.stderr.beside(async { stdin.write_all(bytes).await }).await
    }

    pub async fn send(&mut self, message: &[u8]) -> Result<(), SshError> {
        let bytes = encode(message).map_err(|error| SshError::Speech(error.to_string()))?;
        match self.write(&bytes).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.lost().await),
        }
    }

    /// The next message. Safe to cancel: nothing is lost between two calls.
    pub async fn receive(&mut self) -> Result<Vec<u8>, SshError> {
        loop {
            match self.decoder.take() {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {}
                Err(error) => return Err(SshError::Speech(error.to_string())),
            }
            // Within the reader's own buffer nothing is lost when this is dropped.
            match self.stderr.beside(self.stdout.fill_buf()).await {
                Ok(bytes @ [_, ..]) => {
                    let count = bytes.len();
                    self.decoder.push(bytes);
                    self.stdout.consume(count);
                }
                _ => return Err(self.lost().await),
            }
        }
    }

    /// Closes the copy's standard input and waits for the client's end.
    pub async fn close(mut self) {
        self.end().await;
    }
}

impl Said {
    /// Does something while reading what is said on standard error, so that whoever writes there is not held up.
    async fn beside<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                more = read_some(self.pipe.as_mut()), if self.pipe.is_some() => self.take(more),
            }
        }
    }

    /// Until its end, or nothing comes for a moment: a connection that a user's own ssh shares outlives us and keeps it open.
    async fn read_rest(&mut self) {
        while self.pipe.is_some() {
            match timeout(Duration::from_millis(300), read_some(self.pipe.as_mut())).await {
                Ok(more) => self.take(more),
                Err(_) => return,
            }
        }
    }

    fn take(&mut self, more: Option<Vec<u8>>) {
        let Some(more) = more else {
            self.pipe = None;
            return;
        };
        self.text.extend_from_slice(&more);
        let beyond = self.text.len().saturating_sub(MAX_STDERR);
        self.text.drain(..beyond);
    }

    /// The lines that say something, in one.
    fn last_words(&self) -> String {
        let text = String::from_utf8_lossy(&self.text);
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.chars().all(|c| c == '@'))
            .collect();
        // ssh's own warnings are long; what ended it stands last.
        let from = lines.len().saturating_sub(6);
        lines[from..].join("; ")
    }
}

async fn read_some(pipe: Option<&mut (impl AsyncRead + Unpin)>) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 4096];
    let count = pipe?.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
    buffer.truncate(count);
    Some(buffer)
}

fn command(host: &SshHost, script: &str) -> Result<Command, SshError> {
    let destination = &host.destination;
    // Nothing that ssh or a shell would take for something else than a name.
    let is_odd = |c: char| c.is_whitespace() || c.is_control();
    if destination.is_empty() || destination.starts_with('-') || destination.contains(is_odd) {
        return Err(SshError::Destination(destination.clone()));
    }
    let mut command = Command::new("ssh");
    let host_keys = if host.accept_new_host_keys { "accept-new" } else { "yes" };
    if let Some(config) = &host.config {
        command.arg("-F").arg(config);
    }
    // Of an option that is given twice the first counts: ours, then the host's, then what is only a default.
    command.args(["-T", "-o", "BatchMode=yes", "-o", &format!("StrictHostKeyChecking={host_keys}")]);
    command.args(["-o", "RemoteCommand=none", "-o", "PermitLocalCommand=no", "-o", "EscapeChar=none"]);
    command.args([
        "-o",
        "ClearAllForwardings=yes",
        "-o",
        "ForwardX11=no",
        "-o",
        "ForkAfterAuthentication=no",
    ]);
    if let Some(port) = host.port {
        command.args(["-p", &port.to_string()]);
    }
    for (name, value) in &host.options {
        command.arg("-o").arg(format!("{name}={value}"));
    }
    command.args(["-o", &format!("ConnectTimeout={CONNECT_SECONDS}")]);
    command.args(["-o", &format!("ServerAliveInterval={ALIVE_SECONDS}"), "-o", "ServerAliveCountMax=3"]);
    command.arg("--").arg(destination);
    let quoted = script::quoted(script);
    command.arg(match &host.become_user {
        None => format!("exec sh -c {quoted}"),
        Some(user) => format!("exec sudo -n -H -u {} -- sh -c {quoted}", script::quoted(user)),
    });
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    // Ctrl-C is for us: we then end what runs there, and need the connection for it.
    command.process_group(0);
    Ok(command)
}

#[cfg(test)]
mod tests;

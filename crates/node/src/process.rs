//! Processes: starting a program for a message, reading its output, and ending all of it.
//!
//! A program runs in a session and process group of its own and, where it can, in a cgroup that bears the
//! name of its message and is made before the program exists. The courier has `started` on disk before it
//! calls [`Processes::run`]; whatever a crash leaves is found again by the message's name alone
//! ([`Processes::kill_leftovers`]), so nothing about the process itself has to be recorded.
//!
//! **Ends.** A message ends when the program that was started ends, not when all it started has: as with a
//! shell, what was sent to the background goes on, unharmed. What the program wrote is read completely; what
//! others still write into its pipes is read until they are silent for [`SILENCE`]. Whoever wants to wait for
//! a background job says `wait`. On a timeout or a cancel everything ends: SIGTERM to the group, then, after
//! [`GRACE`], SIGKILL to all, wherever it hid.

mod account;
mod cgroup;
pub(crate) mod leftovers;
mod pump;
mod spawn;

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::future::pending;
use std::io::{self, Seek as _, Write as _};
use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mainstay_core::id::KeyId;
use mainstay_core::outcome::{Exit, Outcome};
use nix::errno::Errno;
use nix::libc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::method::OutputSink;
use account::Account;
pub(crate) use cgroup::GONE_WITHIN;
use cgroup::{Cgroup, Cgroups};
pub use leftovers::{MARK, Mark};
use pump::Pump;
use spawn::{Child, Program, SCRIPT_FD, Step};

/// How long a program has to end on its own after SIGTERM: enough to write a state file, short enough for
/// the person who waits for the cancel.
pub const GRACE: Duration = Duration::from_secs(3);

/// How long the pipes of an ended program must be silent before they are left: what it started may still
/// write its last line, and nobody should wait for `sleep 3 &`.
pub const SILENCE: Duration = Duration::from_millis(200);

/// How often to look whether everything has ended, while it is being ended.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Most places of earlier lives that are remembered: a node changes its own cgroup when it is started
/// differently, which is rare.
const MAX_BASES: usize = 16;

/// A program to run.
pub struct Job {
    pub mark: Mark,
    pub what: What,
    /// Over the environment that every program gets.
    pub env: Vec<(String, String)>,
    /// Relative to the user's home, which is also where it runs without.
    pub cwd: Option<String>,
    pub user: Option<String>,
    pub stdin: Option<Bytes>,
    /// `None`: for as long as it takes.
    pub timeout: Option<Duration>,
    /// Hand output over while it comes.
    pub live: bool,
}

pub enum What {
    /// A program, found by `PATH` unless it has a slash, and its arguments. Not empty.
    Argv(Vec<String>),
    /// A script and its arguments; its first line names the interpreter, else it is `/bin/sh`.
    Script(Bytes, Vec<String>),
}

/// What was found of an execution that a crash left running.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Leftovers {
    /// Processes that were found and killed.
    pub killed: usize,
    /// Those that were still there some seconds after (in an uninterruptible sleep, as a rule).
    pub remaining: usize,
}

/// Runs programs for one node.
pub struct Processes {
    cgroups: Option<Cgroups>,
    /// Where this node had its cgroups, in this life and in those before.
    bases: Vec<PathBuf>,
    /// Processes whose run was dropped: killed, and to be reaped.
    orphans: Mutex<Vec<i32>>,
}

impl Processes {
    /// `data` is the node's data directory; it remembers there where its cgroups were.
    pub fn open(data: &Path, node: KeyId) -> Arc<Self> {
        let cgroups = match Cgroups::detect(&node.to_string()) {
            Ok(cgroups) => Some(cgroups),
            Err(error) => {
                info!("commands run without cgroups, in process groups only: {error}");
                None
            }
        };
        let bases = remember_base(&data.join("cgroups"), cgroups.as_ref().map(Cgroups::base));
        Arc::new(Self { cgroups, bases, orphans: Mutex::default() })
    }

    /// For a program that keeps nothing of its own and ends with what it runs; and as where no cgroups can be made.
    pub fn without_cgroups() -> Arc<Self> {
        Arc::new(Self { cgroups: None, bases: Vec::new(), orphans: Mutex::default() })
    }

    /// How many cgroups of executions there are now.
    #[cfg(test)]
    pub(crate) fn count_cgroups(&self) -> usize {
        let base = self.cgroups.as_ref().map(|cgroups| fs::read_dir(cgroups.base()));
        let entries = base.and_then(Result::ok).into_iter().flatten().flatten();
        entries.filter(|entry| entry.path().is_dir()).count()
    }

    pub fn has_cgroups(&self) -> bool {
        self.cgroups.is_some()
    }

    /// Kills whatever an earlier life of this node left running for these executions; call it before
    /// `interrupted` is written. One answer for each. Blocks while it looks and waits, for milliseconds as a
    /// rule.
    pub fn kill_leftovers(&self, executions: &[Mark]) -> Vec<Leftovers> {
        executions
            .iter()
            .map(|mark| {
                let mut sum = Leftovers::default();
                let mut add = |(killed, remaining): (usize, usize)| {
                    sum.killed += killed;
                    sum.remaining += remaining;
                };
                for base in &self.bases {
                    if let Some(cgroup) = Cgroup::existing(base, &mark.cgroup_name()) {
                        add(cgroup.kill_until_gone());
                        let _ = cgroup.remove();
                    }
                }
                add(leftovers::kill_until_gone(mark, None));
                sum
            })
            .collect()
    }

    /// Runs a program to its end. All its output is in the sink when this returns. Dropped before, it kills
    /// what it started.
    pub async fn run(
        self: &Arc<Self>,
        job: Job,
        output: &mut OutputSink,
        cancel: &CancellationToken,
    ) -> Outcome {
        let (timeout, live) = (job.timeout, job.live);
        let this = self.clone();
        let started = match spawn_blocking(move || this.start(&job)).await {
            Ok(Ok(started)) => started,
            Ok(Err(reason)) => return Outcome::Failed(reason),
            Err(error) => return Outcome::Failed(format!("it could not be started: {error}")),
        };
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let Started { mut running, stdout, stderr } = started;
        let pump = match Pump::new(stdout, stderr, live) {
            Ok(pump) => pump,
            Err(error) => return Outcome::Failed(format!("its output cannot be read: {error}")),
        };
        running.supervise(pump, output, cancel, deadline).await
    }

    /// Prepares and starts the program. The error is the reason for a `failed`: it names what is wrong, and
    /// says nothing of what is in sealed fields.
    fn start(self: &Arc<Self>, job: &Job) -> Result<Started, String> {
        let account = Account::named(job.user.as_deref()).map_err(|error| error.to_string())?;
        let environment = account.environment(&job.env, &job.mark.variable())?;
        let cwd = match &job.cwd {
            Some(cwd) => account.home.join(cwd),
            None => account.home.clone(),
        };
        let cwd =
            CString::new(cwd.as_os_str().as_bytes()).map_err(|_| "cwd: it holds a zero byte".to_owned())?;
        let stdin = match &job.stdin {
            Some(bytes) => in_memory(bytes).map_err(|error| format!("stdin: {error}"))?,
            None => File::open("/dev/null").map_err(|error| format!("/dev/null: {error}"))?,
        };
        let command = Command::of(&job.what, &environment.path)?;
        let pipe = || io::pipe().map_err(|error| format!("no pipe for its output: {error}"));
        let ((stdout, stdout_end), (stderr, stderr_end)) = (pipe()?, pipe()?);
        let cgroup = self.make_cgroup(&job.mark);
        let entrance = cgroup.as_ref().and_then(|cgroup| cgroup.entrance().ok());
        let spawned = spawn::spawn(&Program {
            paths: &command.paths,
            argv: &command.argv,
            env: &environment.entries,
            cwd,
            cwd_optional: job.cwd.is_none(),
            stdin: stdin.as_fd(),
            stdout: stdout_end.as_fd(),
            stderr: stderr_end.as_fd(),
            script: command.script.as_ref().map(|script| script.as_fd()),
            cgroup: entrance.as_ref().map(|file| file.as_fd()),
            identity: account.identity,
        });
        let running = |child, cgroup| Running { processes: self.clone(), mark: job.mark, child, cgroup };
        match spawned {
            Ok((child, true)) => Ok(Started { running: running(child, cgroup), stdout, stderr }),
            Ok((child, false)) => {
                if let Some(cgroup) = cgroup {
                    warn!("a command could not join its cgroup; its process group and its mark have to do");
                    self.release(cgroup);
                }
                Ok(Started { running: running(child, None), stdout, stderr })
            }
            Err(error) => {
                if let Some(cgroup) = cgroup {
                    self.release(cgroup);
                }
                Err(command.reason(error.step, error.errno))
            }
        }
    }

    fn make_cgroup(&self, mark: &Mark) -> Option<Cgroup> {
        let cgroups = self.cgroups.as_ref()?;
        match cgroups.make(&mark.cgroup_name()) {
            Ok(cgroup) => Some(cgroup),
            Err(error) => {
                warn!("no cgroup for a command; its process group and its mark have to do: {error}");
                None
            }
        }
    }

    fn release(&self, cgroup: Cgroup) {
        if let Some(cgroups) = &self.cgroups {
            cgroups.release(cgroup);
        }
    }

    /// Reaps the process, or has it reaped at a later end.
    fn reap(&self, child: &mut Child) {
        let mut orphans = self.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        orphans.retain(|pid| !spawn::reap(*pid));
        if !child.reap() {
            orphans.push(child.pid());
        }
    }
}

/// A program that was just started, and what it writes.
struct Started {
    running: Running,
    stdout: io::PipeReader,
    stderr: io::PipeReader,
}

/// A started program and everything that it starts.
struct Running {
    processes: Arc<Processes>,
    mark: Mark,
    child: Child,
    cgroup: Option<Cgroup>,
}

/// Why the first wait ended.
enum Event {
    Exited(Exit),
    /// It shall end, and with it all that it started.
    Stop(Outcome),
}

impl Running {
    async fn supervise(
        &mut self,
        mut pump: Pump,
        output: &mut OutputSink,
        cancel: &CancellationToken,
        deadline: Option<Instant>,
    ) -> Outcome {
        let event = loop {
            let done = pump.is_done(output);
            tokio::select! {
                // What has ended was neither cancelled nor too late.
                biased;
                exit = self.child.wait() => break match exit {
                    Ok(exit) => Event::Exited(exit),
                    Err(error) => Event::Stop(Outcome::Failed(format!("its end cannot be waited for: {error}"))),
                },
                () = cancel.cancelled() => break Event::Stop(Outcome::Cancelled),
                () = at(deadline) => break Event::Stop(Outcome::TimedOut),
                () = pump.step(output), if !done => {}
            }
        };
        let outcome = match event {
            Event::Exited(exit) => {
                read_what_is_left(&mut pump, output).await;
                Outcome::Finished(exit)
            }
            Event::Stop(outcome) => {
                let mut ended = std::pin::pin!(self.end_all());
                loop {
                    let done = pump.is_done(output);
                    tokio::select! {
                        biased;
                        () = &mut ended => break,
                        // It may have something to say about its end, and must not hang on a full pipe.
                        () = pump.step(output), if !done => {}
                    }
                }
                outcome
            }
        };
        pump.finish(output).await;
        outcome
    }

    /// Ends the program and everything that it started.
    async fn end_all(&self) {
        self.child.signal_group(libc::SIGTERM);
        // What is stopped does not hear SIGTERM.
        self.child.signal_group(libc::SIGCONT);
        let kill_at = Instant::now() + GRACE;
        while Instant::now() < kill_at {
            sleep(LOOK_AGAIN).await;
            if self.child.has_ended() && self.is_alone().await {
                return;
            }
        }
        let (mark, session, cgroup) = (self.mark, self.child.pid(), self.cgroup.clone());
        self.child.signal_group(libc::SIGKILL);
        let killed = spawn_blocking(move || match cgroup {
            Some(cgroup) => cgroup.kill_until_gone(),
            None => leftovers::kill_until_gone(&mark, Some(session)),
        });
        if let Ok((_, remaining @ 1..)) = killed.await {
            warn!("{remaining} processes of message {} cannot be killed", self.mark.id);
        }
    }

    /// Whether nothing of what the program started is left.
    async fn is_alone(&self) -> bool {
        if let Some(cgroup) = &self.cgroup {
            return cgroup.is_empty();
        }
        let (mark, session) = (self.mark, self.child.pid());
        let found = spawn_blocking(move || leftovers::find(&mark, Some(session)));
        found.await.is_ok_and(|found| found.is_empty())
    }
}

impl Drop for Running {
    /// After a run: reaps, and puts the cgroup away. When the run was dropped, kills first.
    fn drop(&mut self) {
        if !self.child.has_ended() {
            self.child.signal_group(libc::SIGKILL);
            if let Some(cgroup) = &self.cgroup {
                cgroup.kill();
            }
        }
        self.processes.reap(&mut self.child);
        if let (Some(cgroup), Some(cgroups)) = (self.cgroup.take(), &self.processes.cgroups) {
            cgroups.release(cgroup);
        }
    }
}

/// Reads on after the program's end: all that it wrote, and what others write before they fall silent.
async fn read_what_is_left(pump: &mut Pump, output: &mut OutputSink) {
    pump.limit_to_what_is_left();
    let exited_at = Instant::now();
    while !pump.is_done(output) {
        // Waiting for room in the channel is not silence.
        let silent_at = (!output.has_sealed()).then(|| exited_at.max(pump.last_progress()) + SILENCE);
        tokio::select! {
            biased;
            () = pump.step(output) => {}
            () = at(silent_at) => return,
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

/// What a job comes to: the files to try, and what the program is told.
struct Command {
    paths: Vec<CString>,
    argv: Vec<CString>,
    script: Option<File>,
    /// For errors: the program, or the script's interpreter.
    name: String,
    is_script: bool,
}

impl Command {
    fn of(what: &What, path: &OsStr) -> Result<Self, String> {
        let (script, argv) = match what {
            What::Argv(argv) => (None, argv.clone()),
            What::Script(text, args) => {
                let file = in_memory(text).map_err(|error| format!("data: {error}"))?;
                let mut argv = interpreter(text)?;
                argv.push(format!("/proc/self/fd/{SCRIPT_FD}"));
                argv.extend_from_slice(args);
                (Some(file), argv)
            }
        };
        let name = argv.first().filter(|name| !name.is_empty()).cloned();
        let name = name.ok_or("args: the program is missing")?;
        let text = |text: &str| CString::new(text).map_err(|_| "args: one holds a zero byte".to_owned());
        let paths = if name.contains('/') {
            vec![text(&name)?]
        } else {
            // An empty or relative part would look in the working directory, which is never meant.
            std::env::split_paths(path)
                .filter(|part| part.is_absolute())
                .filter_map(|part| CString::new(part.join(&name).into_os_string().into_encoded_bytes()).ok())
                .collect()
        };
        Ok(Self {
            paths,
            argv: argv.iter().map(|arg| text(arg)).collect::<Result<_, _>>()?,
            is_script: script.is_some(),
            script,
            name,
        })
    }

    /// Why it was not started.
    fn reason(&self, step: Step, errno: Errno) -> String {
        let name = &self.name;
        let role = if self.is_script { "the script's interpreter" } else { "the program" };
        match (step, errno) {
            (Step::Exec, Errno::ENOENT) => format!("{role} {name:?} was not found"),
            (Step::Exec, Errno::EACCES) => format!("{role} {name:?} may not be executed"),
            (Step::Exec, Errno::ENOEXEC) => {
                format!("{role} {name:?} is in no format that this machine runs")
            }
            (Step::Exec, Errno::E2BIG) => "its arguments and environment are too long".to_owned(),
            (Step::Exec, errno) => format!("{role} {name:?} cannot be executed: {}", errno.desc()),
            // Directory and user are sealed fields: they are not repeated.
            (Step::Cwd, Errno::ENOENT) => "cwd: no such directory".to_owned(),
            (Step::Cwd, errno) => format!("cwd: {}", errno.desc()),
            (Step::User, errno) => format!("user: {}", errno.desc()),
            (Step::Clone | Step::Session | Step::Files, errno) => {
                format!("no process can be started: {}", errno.desc())
            }
        }
    }
}

/// The interpreter that a script's first line names, and its one argument, as the kernel reads it.
fn interpreter(script: &[u8]) -> Result<Vec<String>, String> {
    let Some(rest) = script.strip_prefix(b"#!") else {
        return Ok(vec!["/bin/sh".to_owned()]);
    };
    let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| "data: the interpreter line is not text".to_owned())?;
    let line = line.trim();
    let mut parts = match line.split_once([' ', '\t']) {
        Some((program, argument)) => vec![program.to_owned(), argument.trim().to_owned()],
        None => vec![line.to_owned()],
    };
    parts.retain(|part| !part.is_empty());
    if parts.is_empty() {
        return Err("data: the interpreter line names none".to_owned());
    }
    Ok(parts)
}

/// A file without a name and not on any disk: for scripts and stdin, which may hold secrets, must be readable
/// by the user that the program runs as, and must leave nothing behind.
fn in_memory(content: &[u8]) -> io::Result<File> {
    // SAFETY: a call with a constant name; the result is a new descriptor or an error.
    let fd = unsafe { libc::memfd_create(c"mainstay".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, owned by nobody else.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

/// Adds where the cgroups are now to the places of earlier lives, and returns all. It serves recovery only,
/// so a disk that cannot take it is no reason not to run.
fn remember_base(file: &Path, now: Option<&Path>) -> Vec<PathBuf> {
    let known = fs::read_to_string(file).unwrap_or_default();
    let mut bases: Vec<PathBuf> = known.lines().map(PathBuf::from).collect();
    let Some(now) = now else {
        return bases;
    };
    if bases.last().is_some_and(|last| last == now) {
        return bases;
    }
    bases.retain(|base| base != now);
    bases.push(now.to_owned());
    let forget = bases.len().saturating_sub(MAX_BASES);
    bases.drain(..forget);
    let lines: Vec<_> = bases.iter().map(|base| base.to_string_lossy()).collect();
    let fresh = file.with_extension("new");
    let written = fs::write(&fresh, lines.join("\n")).and_then(|()| fs::rename(&fresh, file));
    if let Err(error) = written {
        warn!("{} cannot be written: {error}", file.display());
    }
    bases
}

//! Starting one program and seeing it to its end.
//!
//! One thread does it all with `poll`: it feeds stdin, reads both outputs, waits for the end, for the time limit and for
//! being called off. So neither a large input nor a large output can make the two wait for each other.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::account::{Account, Identity};
use super::cancel::{LOOK_AGAIN, poll_for};
use super::kin::Kin;
use super::register::{Place, Register, write_own_line};
use super::{Cancel, Command, Ending, MAX_OUTPUT, Ran};
use crate::failure::Failure;

/// Between the signal that asks to end and the one that ends, as for the commands of a run: what is asked may put its
/// things in order.
const GRACE: Duration = Duration::from_secs(3);

/// How long the pipes of an ended program must be silent before they are left: what it started may still write its
/// last line, and nobody should wait for `sleep 3 &`.
const SILENCE: Duration = Duration::from_millis(200);

/// How long killed processes may take to be gone: one in an uninterruptible sleep is not worth waiting for.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// How often and how long a program that is still open for writing is waited for: half a second in all.
const BUSY_ATTEMPTS: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// As much as a pipe holds as a rule.
const CHUNK: usize = 64 << 10;

/// Signals are numbered 1 to 64 on Linux.
const LAST_SIGNAL: libc::c_int = 64;

pub(super) fn run(
    command: &Command,
    scratch: Option<&Path>,
    cancel: Option<&Cancel>,
    register: Option<&Arc<Register>>,
) -> Result<Ran, Failure> {
    let failed = |words: String| Failure::new(format!("run {}", command.program), words);
    if cancel.is_some_and(Cancel::is_cancelled) {
        return Err(failed(Ending::Cancelled.to_string()));
    }
    let account = Account::named(command.user.as_deref()).map_err(failed)?;
    let scratch = match (scratch, &account.identity) {
        (Some(scratch), Some(identity)) => Some(scratch_of(scratch, identity)?),
        (scratch, _) => scratch.map(Path::to_owned),
    };
    let env = account.environment(&command.env, scratch.as_deref()).map_err(failed)?;
    let path = env.get(OsStr::new("PATH")).map_or(OsStr::new(""), |path| path.as_os_str());
    let program = find(&command.program, path).map_err(failed)?;
    let cwd = command.cwd.clone().unwrap_or_else(|| "/".into());
    if !cwd.is_dir() {
        return Err(failed(format!("there is no directory {} to run it in", cwd.display())));
    }

    let mut starter = std::process::Command::new(&program);
    starter.arg0(&command.program).args(&command.args).env_clear().envs(&env);
    starter.stdin(if command.stdin.is_empty() { Stdio::null() } else { Stdio::piped() });
    starter.stdout(Stdio::piped()).stderr(Stdio::piped());
    let identity = account.identity.clone();
    let directory = std::ffi::CString::new(cwd.as_os_str().as_bytes())
        .map_err(|_| failed("the directory to run it in holds a zero byte".into()))?;
    let place = register.and_then(Register::place);
    let written_to = place.as_ref().map(Place::target);
    // SAFETY: only system calls on values made before the fork; nothing allocates or can panic.
    unsafe { starter.pre_exec(move || in_child(identity.as_ref(), &directory, written_to)) };
    let child = spawn(&mut starter).map_err(|error| {
        let missing = error.kind() == io::ErrorKind::NotFound && program.exists();
        let hint = if missing { "; the interpreter that its first line names may be missing" } else { "" };
        let whom = command.user.as_ref().map(|user| format!(" as {user}")).unwrap_or_default();
        failed(format!("it cannot be started{whom} in {}: {error}{hint}", cwd.display()))
    })?;
    let running = Running::of(child, command, cancel, place);
    running.and_then(Running::see_to_the_end).map_err(|e| failed(e.to_string()))
}

/// A program that was written a moment ago may still be open in a process that another thread is just starting: until
/// that one becomes its own program, the kernel calls the file busy.
fn spawn(starter: &mut std::process::Command) -> io::Result<Child> {
    for _ in 0..BUSY_ATTEMPTS {
        match starter.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => std::thread::sleep(BUSY_PAUSE),
            done => return done,
        }
    }
    starter.spawn()
}

/// A private directory within the scratch directory for another user, who may not write to that one itself.
fn scratch_of(scratch: &Path, identity: &Identity) -> Result<PathBuf, Failure> {
    let own = scratch.join(format!("user-{}", identity.uid));
    let made = match fs::DirBuilder::new().mode(0o700).create(&own) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.and_then(|()| {
            // The way to it; what lies beside it stays unreadable.
            fs::set_permissions(scratch, fs::Permissions::from_mode(0o711))?;
            std::os::unix::fs::chown(&own, Some(identity.uid.as_raw()), Some(identity.gid.as_raw()))
        }),
    };
    made.map(|()| own.clone()).map_err(|error| Failure::on("make", &own, error))
}

/// The file that a program's name means, as `execvp` finds it.
fn find(program: &str, path: &OsStr) -> Result<PathBuf, String> {
    if program.contains('\0') {
        return Err("its name holds a zero byte".into());
    }
    if program.contains('/') {
        return Ok(program.into());
    }
    let mut denied = None;
    for directory in std::env::split_paths(path) {
        let file = directory.join(program);
        match fs::metadata(&file) {
            Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o111 != 0 => return Ok(file),
            Ok(meta) if meta.is_file() => denied = Some(file),
            _ => {}
        }
    }
    Err(match denied {
        Some(file) => format!("{} is not executable", file.display()),
        None => format!("no such program in {}", path.to_string_lossy()),
    })
}

/// The steps between the new process and its program.
fn in_child(
    identity: Option<&Identity>,
    directory: &std::ffi::CStr,
    written_to: Option<(RawFd, libc::off_t)>,
) -> io::Result<()> {
    // SAFETY: plain system calls on this process itself, with values that live on.
    unsafe {
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        for number in 1..=LAST_SIGNAL {
            // Fails for those that have no action to set.
            libc::sigaction(number, &default, std::ptr::null_mut());
        }
        // A session of its own: no terminal to ask at, and a process group that is ended as one.
        if libc::setsid() < 0 {
            return Err(io::Error::last_os_error());
        }
        if let Some(place) = written_to {
            write_own_line(place);
        }
        libc::umask(0o022);
        // Everything here is opened close-on-exec; this is for what a library or whoever started us might not have.
        // A kernel that cannot leaves them.
        libc::syscall(
            libc::SYS_close_range,
            3 as libc::c_long,
            libc::c_int::MAX as libc::c_long,
            libc::CLOSE_RANGE_CLOEXEC as libc::c_long,
        );
    }
    if let Some(identity) = identity {
        // Groups first, since afterwards that is no longer allowed.
        nix::unistd::setgroups(&identity.groups)?;
        nix::unistd::setresgid(identity.gid, identity.gid, identity.gid)?;
        nix::unistd::setresuid(identity.uid, identity.uid, identity.uid)?;
    }
    nix::unistd::chdir(directory)?;
    Ok(())
}

/// One of the two outputs.
struct Stream<P> {
    pipe: Option<P>,
    kept: Vec<u8>,
    size: u64,
}

impl<P: Read> Stream<P> {
    /// Reads what is there, at most one chunk, so that nothing else has to wait. Whether anything was.
    fn read(&mut self, chunk: &mut [u8]) -> io::Result<bool> {
        let Some(pipe) = &mut self.pipe else { return Ok(false) };
        match pipe.read(chunk) {
            Ok(0) => {
                self.pipe = None;
                Ok(true)
            }
            Ok(count) => {
                self.size += count as u64;
                let room = MAX_OUTPUT - self.kept.len();
                self.kept.extend_from_slice(&chunk[..count.min(room)]);
                Ok(true)
            }
            Err(error) if is_not_now(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// How far the program's end has come.
#[derive(Clone, Copy)]
enum Stage {
    Runs,
    /// By itself; what it started may still write.
    Over {
        quiet_since: Instant,
    },
    /// It was asked to end, with all in its group.
    Asked {
        ending: Ending,
        kill_at: Instant,
    },
    Killed {
        ending: Ending,
        give_up_at: Instant,
    },
}

struct Running<'a> {
    child: Child,
    /// The number stays its own until the child is reaped, so no signal can hit another's group.
    group: Pid,
    kin: Kin,
    /// Readable when the program has ended. None on kernels before 5.3.
    end: Option<OwnedFd>,
    input: Option<ChildStdin>,
    unwritten: &'a [u8],
    stdout: Stream<ChildStdout>,
    stderr: Stream<ChildStderr>,
    deadline: Option<Instant>,
    cancel: Option<&'a Cancel>,
    /// Where it is written down while it runs.
    place: Option<Place>,
    /// Reaped, or given up.
    done: bool,
}

impl<'a> Running<'a> {
    fn of(
        mut child: Child,
        command: &'a Command,
        cancel: Option<&'a Cancel>,
        place: Option<Place>,
    ) -> io::Result<Self> {
        let group = Pid::from_raw(child.id().cast_signed());
        let (input, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let running = Self {
            child,
            group,
            kin: Kin::of(group),
            end: pidfd(group),
            input,
            unwritten: &command.stdin,
            stdout: Stream { pipe: stdout, kept: Vec::new(), size: 0 },
            stderr: Stream { pipe: stderr, kept: Vec::new(), size: 0 },
            deadline: Instant::now().checked_add(command.timeout),
            cancel,
            place,
            done: false,
        };
        // An error from here on drops `running`, which kills and reaps.
        for fd in [as_fd(&running.input), as_fd(&running.stdout.pipe), as_fd(&running.stderr.pipe)] {
            fd.map_or(Ok(()), do_not_block)?;
        }
        Ok(running)
    }

    fn see_to_the_end(mut self) -> io::Result<Ran> {
        let mut chunk = vec![0; CHUNK];
        let mut stage = Stage::Runs;
        let ending = loop {
            let now = Instant::now();
            let over = self.is_over()?;
            let closed = self.stdout.pipe.is_none() && self.stderr.pipe.is_none();
            if over && matches!(stage, Stage::Runs) {
                stage = Stage::Over { quiet_since: now };
            }
            stage = match stage {
                Stage::Over { quiet_since } if closed || now >= quiet_since + SILENCE => break None,
                Stage::Runs | Stage::Over { .. } => match self.must_end(now) {
                    Some(ending) => {
                        self.kin.signal(Signal::SIGTERM);
                        // What is stopped does not hear it.
                        self.kin.signal(Signal::SIGCONT);
                        self.input = None;
                        Stage::Asked { ending, kill_at: now + GRACE }
                    }
                    None => stage,
                },
                Stage::Asked { ending, kill_at } if now >= kill_at || (over && self.kin.is_gone()) => {
                    self.kin.signal(Signal::SIGKILL);
                    Stage::Killed { ending, give_up_at: now + GONE_WITHIN }
                }
                Stage::Killed { ending, .. } if over => break Some(ending),
                Stage::Killed { ending, give_up_at } if now >= give_up_at => {
                    self.done = true;
                    self.place.iter().for_each(Place::leave);
                    return Ok(self.ran(ending));
                }
                stage => stage,
            };
            self.wait(now, &stage, over)?;
            let moved = self.feed()? | self.stdout.read(&mut chunk)? | self.stderr.read(&mut chunk)?;
            if let (Stage::Over { quiet_since }, true) = (&mut stage, moved) {
                *quiet_since = Instant::now();
            }
        };
        let status = self.child.wait()?;
        self.done = true;
        let own = match status.code() {
            Some(code) => Ending::Code(code),
            None => Ending::Signal(status.signal().unwrap_or_default()),
        };
        Ok(self.ran(ending.unwrap_or(own)))
    }

    fn ran(&mut self, ending: Ending) -> Ran {
        Ran {
            ending,
            stdout: std::mem::take(&mut self.stdout.kept),
            stderr: std::mem::take(&mut self.stderr.kept),
            stdout_size: self.stdout.size,
            stderr_size: self.stderr.size,
        }
    }

    fn must_end(&self, now: Instant) -> Option<Ending> {
        if self.cancel.is_some_and(Cancel::is_cancelled) {
            Some(Ending::Cancelled)
        } else if self.deadline.is_some_and(|deadline| deadline <= now) {
            Some(Ending::TimedOut)
        } else {
            None
        }
    }

    /// Whether the program has ended; it stays unreaped.
    fn is_over(&self) -> io::Result<bool> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(self.group), flags) {
            Ok(WaitStatus::StillAlive) => Ok(false),
            Ok(_) => Ok(true),
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until something can be done.
    fn wait(&self, now: Instant, stage: &Stage, over: bool) -> io::Result<()> {
        let until = match stage {
            Stage::Runs => self.deadline,
            Stage::Over { quiet_since } => Some(*quiet_since + SILENCE),
            // Whether a group is empty is nothing that wakes anybody up.
            Stage::Asked { .. } | Stage::Killed { .. } => Some(now + LOOK_AGAIN),
        };
        let mut time = until.map_or(Duration::MAX, |until| until.saturating_duration_since(now));
        let wakes = self.cancel.and_then(Cancel::wakes);
        if (self.end.is_none() && !over) || (self.cancel.is_some() && wakes.is_none()) {
            time = time.min(LOOK_AGAIN);
        }
        // What has said its word stays readable, and would make this a busy wait.
        let asked = matches!(stage, Stage::Asked { .. } | Stage::Killed { .. });
        let waits = [
            (as_fd(&self.input), PollFlags::POLLOUT),
            (as_fd(&self.stdout.pipe), PollFlags::POLLIN),
            (as_fd(&self.stderr.pipe), PollFlags::POLLIN),
            (as_fd(&self.end).filter(|_| !over), PollFlags::POLLIN),
            (wakes.filter(|_| !asked), PollFlags::POLLIN),
        ];
        let mut fds: Vec<_> =
            waits.into_iter().filter_map(|(fd, flags)| Some(PollFd::new(fd?, flags))).collect();
        poll_for(&mut fds, time)?;
        Ok(())
    }

    /// Writes what fits. Whether anything did.
    fn feed(&mut self) -> io::Result<bool> {
        let Some(input) = &mut self.input else { return Ok(false) };
        match input.write(&self.unwritten[..self.unwritten.len().min(CHUNK)]) {
            Ok(count) => self.unwritten = &self.unwritten[count..],
            Err(error) if is_not_now(&error) => return Ok(false),
            // It has read what it wanted.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.unwritten = &[],
            Err(error) => return Err(error),
        }
        if self.unwritten.is_empty() {
            self.input = None;
        }
        Ok(true)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.kin.signal(Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// Becomes readable when the process ends. None where the kernel has no such thing.
fn pidfd(pid: Pid) -> Option<OwnedFd> {
    // SAFETY: a system call without pointers; the process is this one's own child and not reaped yet.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    // SAFETY: a new descriptor (close-on-exec by definition) that nobody else owns.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

fn as_fd<P: AsFd>(pipe: &Option<P>) -> Option<BorrowedFd<'_>> {
    pipe.as_ref().map(AsFd::as_fd)
}

fn do_not_block(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

fn is_not_now(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

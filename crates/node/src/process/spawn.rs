//! Starting one program: the few steps between a new process and its `execve`.
//!
//! `fork` copies the page tables of the whole agent, and costs from 0.2 ms at 8 MiB to 1 ms at 40 MiB, before
//! the copies that follow. So the child runs in the parent's memory (`CLONE_VM | CLONE_VFORK`, as glibc's
//! `posix_spawn` does) on a stack of its own, while the calling thread is suspended until `execve` or exit:
//! about 0.05 ms at any size. `posix_spawn` itself cannot join a cgroup or change the user.
//!
//! The rules for code in the child: no allocation, no lock, nothing that can panic, only system calls, and
//! for user and groups the raw ones (libc's would try to change all threads of the agent). What it says
//! about itself goes through a page shared with the parent.
//!
//! A program that runs as another user gets a copy of the memory instead: a process of that user, whom
//! its user may trace, must at no time have the agent's memory.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use mainstay_core::outcome::Exit;
use nix::errno::Errno;
use nix::libc::{self, c_char, c_int, c_long, c_void, pid_t};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The file descriptor under which a program finds its script.
pub(super) const SCRIPT_FD: c_int = 3;

/// The child's stack: its deepest frame holds a `sigaction` and a signal set, below 1 KiB; unoptimised
/// builds a few times that.
const STACK_BYTES: usize = 64 * 1024;

/// Signals are numbered 1 to 64 on Linux (but on MIPS, whose last 64 nobody handles).
const LAST_SIGNAL: c_int = 64;

/// Whom a program runs as, when not as the agent's own user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
}

/// Everything about a program that is to be started.
pub(super) struct Program<'a> {
    /// Paths to try in this order, as `execvp` does with `PATH`.
    pub(super) paths: &'a [CString],
    pub(super) argv: &'a [CString],
    pub(super) env: &'a [CString],
    pub(super) cwd: CString,
    /// Without its directory it runs in `/`: only for a directory that nobody asked for.
    pub(super) cwd_optional: bool,
    pub(super) stdin: BorrowedFd<'a>,
    pub(super) stdout: BorrowedFd<'a>,
    pub(super) stderr: BorrowedFd<'a>,
    pub(super) script: Option<BorrowedFd<'a>>,
    /// `cgroup.procs` of the cgroup to run in, opened for writing.
    pub(super) cgroup: Option<BorrowedFd<'a>>,
    pub(super) identity: Option<Identity>,
}

/// Where starting failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
pub(super) enum Step {
    /// Nothing was started: the system lacks processes or memory.
    Clone = 1,
    Session,
    Files,
    User,
    Cwd,
    Exec,
}

#[derive(Debug, thiserror::Error)]
#[error("{step:?}: {errno}")]
pub(super) struct SpawnError {
    pub(super) step: Step,
    pub(super) errno: Errno,
}

/// What the child tells the parent, in memory that both see.
#[repr(C)]
struct Report {
    step: AtomicI32,
    errno: AtomicI32,
    in_cgroup: AtomicI32,
}

/// The child's arguments, all made before it exists.
struct Orders<'a> {
    program: &'a Program<'a>,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    parent: pid_t,
    report: &'a Report,
    /// See [`is_spared`].
    spared: bool,
}

/// A page that stays shared with a child that does not share the rest.
struct SharedPage(*mut c_void);

const PAGE: usize = 4096;

impl SharedPage {
    fn new() -> io::Result<Self> {
        // SAFETY: an anonymous mapping of its own.
        let page = unsafe {
            libc::mmap(
                ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(page))
    }

    fn report(&self) -> &Report {
        // SAFETY: the mapping is zeroed, page-aligned, larger than a `Report`, and lives as long as `self`;
        // zeroed atomics are valid.
        unsafe { &*self.0.cast::<Report>() }
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; borrows of it ended with `self`.
        unsafe { libc::munmap(self.0, PAGE) };
    }
}

/// Starts the program, and returns when it runs (or cannot). Blocks the thread for as long as the kernel
/// takes to load it. Tells whether it is in its cgroup.
pub(super) fn spawn(program: &Program<'_>) -> Result<(Child, bool), SpawnError> {
    let system = |error: io::Error| SpawnError {
        step: Step::Clone,
        errno: Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)),
    };
    let page = SharedPage::new().map_err(system)?;
    let orders = Orders {
        program,
        argv: pointers(program.argv),
        env: pointers(program.env),
        // SAFETY: no arguments, cannot fail.
        parent: unsafe { libc::getpid() },
        report: page.report(),
        spared: is_spared(),
    };
    let mut stack = vec![0_u128; STACK_BYTES / 16];
    let flags =
        libc::CLONE_VFORK | libc::SIGCHLD | if program.identity.is_none() { libc::CLONE_VM } else { 0 };
    // SAFETY: the child runs `in_child` on the stack given, which grows downwards from its 16-aligned end.
    // CLONE_VFORK keeps this thread, and so `orders` and `stack`, in place until the child has left this
    // memory. All signals are blocked meanwhile, so that no handler of the agent runs in the child.
    let pid = unsafe {
        let mut all = std::mem::zeroed();
        let mut before = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let pid = libc::clone(
            in_child,
            stack.as_mut_ptr_range().end.cast(),
            flags,
            ptr::from_ref(&orders).cast_mut().cast(),
        );
        let error = Errno::last();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut());
        if pid < 0 { Err(error) } else { Ok(pid) }
    };
    let pid = pid.map_err(|errno| SpawnError { step: Step::Clone, errno })?;
    let report = page.report();
    let failed = match report.step.load(Relaxed) {
        0 => None,
        2 => Some(Step::Session),
        3 => Some(Step::Files),
        4 => Some(Step::User),
        5 => Some(Step::Cwd),
        _ => Some(Step::Exec),
    };
    let child = Child { pid, wakeup: None, reaped: false };
    match failed {
        None => Ok((child, report.in_cgroup.load(Relaxed) == 1)),
        Some(step) => {
            let errno = Errno::from_raw(report.errno.load(Relaxed));
            child.wait_and_reap();
            Err(SpawnError { step, errno })
        }
    }
}

/// Whether this process is among the last to be killed when memory runs out. What it starts must not inherit that:
/// commands go first, and the agent stays in reach.
fn is_spared() -> bool {
    static SPARED: OnceLock<bool> = OnceLock::new();
    *SPARED.get_or_init(|| {
        std::fs::read_to_string("/proc/self/oom_score_adj").is_ok_and(|text| text.starts_with('-'))
    })
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
}

extern "C" fn in_child(orders: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes its `Orders`, which outlive the child's use of them.
    let orders = unsafe { &*orders.cast::<Orders<'_>>() };
    // SAFETY: this is the new process, on its own stack.
    let step = unsafe { become_program(orders) };
    orders.report.errno.store(Errno::last_raw(), Relaxed);
    orders.report.step.store(step as i32, Relaxed);
    // SAFETY: ends this process without running anything of the agent's.
    unsafe { libc::_exit(127) }
}

/// Returns only when a step failed; `errno` then says why.
unsafe fn become_program(orders: &Orders<'_>) -> Step {
    let program = orders.program;
    // SAFETY: system calls whose pointers stay valid through `orders`.
    unsafe {
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        for number in 1..=LAST_SIGNAL {
            libc::sigaction(number, &default, ptr::null_mut());
        }
        // A session of its own: no terminal, and a process group that is killed as one.
        if libc::setsid() < 0 {
            return Step::Session;
        }
        // Until it can be found by its cgroup or its environment, it dies with the agent.
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as c_long, 0, 0, 0);
        if libc::getppid() != orders.parent {
            return Step::Session;
        }
        if let Some(procs) = program.cgroup {
            let joined = libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) == 1;
            orders.report.in_cgroup.store(joined.into(), Relaxed);
        }
        if orders.spared {
            // Before the user changes: another one may not open it. A kernel that has none kills as it likes.
            let file = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            if file >= 0 {
                libc::write(file, c"0".as_ptr().cast(), 1);
                libc::close(file);
            }
        }
        for (from, to) in [(program.stdin, 0), (program.stdout, 1), (program.stderr, 2)] {
            if !place(from.as_raw_fd(), to) {
                return Step::Files;
            }
        }
        let mut first_closed = SCRIPT_FD;
        if let Some(script) = program.script {
            if !place(script.as_raw_fd(), SCRIPT_FD) {
                return Step::Files;
            }
            first_closed += 1;
        }
        // The agent opens everything close-on-exec; this is for what a library might not.
        libc::syscall(
            libc::SYS_close_range,
            c_long::from(first_closed),
            c_long::from(c_int::MAX),
            libc::CLOSE_RANGE_CLOEXEC as c_long,
        );
        libc::umask(0o022);
        if let Some(identity) = &program.identity
            && !assume(identity)
        {
            return Step::User;
        }
        if libc::chdir(program.cwd.as_ptr()) < 0 && !(program.cwd_optional && libc::chdir(c"/".as_ptr()) == 0)
        {
            return Step::Cwd;
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
        libc::prctl(libc::PR_SET_PDEATHSIG, 0 as c_long, 0, 0, 0);
        let mut denied = false;
        for path in program.paths {
            libc::execve(path.as_ptr(), orders.argv.as_ptr(), orders.env.as_ptr());
            match Errno::last_raw() {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => denied = true,
                _ => return Step::Exec,
            }
        }
        Errno::set_raw(if denied { libc::EACCES } else { libc::ENOENT });
        Step::Exec
    }
}

/// Puts a descriptor at a number, open across `execve`.
unsafe fn place(from: c_int, to: c_int) -> bool {
    // SAFETY: descriptors of this process's own table.
    unsafe { if from == to { libc::fcntl(from, libc::F_SETFD, 0) == 0 } else { libc::dup2(from, to) == to } }
}

/// Becomes another user for good: groups first, since afterwards that is no longer allowed.
unsafe fn assume(identity: &Identity) -> bool {
    // On these, the plain calls take 16-bit ids.
    #[cfg(not(any(target_arch = "x86", target_arch = "arm")))]
    use libc::{SYS_setgroups as SETGROUPS, SYS_setresgid as SETRESGID, SYS_setresuid as SETRESUID};
    #[cfg(any(target_arch = "x86", target_arch = "arm"))]
    use libc::{SYS_setgroups32 as SETGROUPS, SYS_setresgid32 as SETRESGID, SYS_setresuid32 as SETRESUID};
    let (uid, gid) = (identity.uid, identity.gid);
    // SAFETY: raw calls, with a list that outlives them.
    unsafe {
        libc::syscall(SETGROUPS, identity.groups.len(), identity.groups.as_ptr()) == 0
            && libc::syscall(SETRESGID, gid, gid, gid) == 0
            && libc::syscall(SETRESUID, uid, uid, uid) == 0
    }
}

/// A started process. While it is not reaped, its number and its group's are its own.
pub(super) struct Child {
    pid: pid_t,
    wakeup: Option<Wakeup>,
    reaped: bool,
}

/// What tells that the process may have ended.
enum Wakeup {
    Pidfd(AsyncFd<OwnedFd>),
    /// On kernels before 5.3, or where `pidfd_open` is not allowed.
    AnyChild(Signal),
}

impl Child {
    pub(super) fn pid(&self) -> pid_t {
        self.pid
    }

    /// Waits for its end, and leaves it unreaped. May be dropped and called again.
    pub(super) async fn wait(&mut self) -> io::Result<Exit> {
        let pid = self.pid;
        let wakeup = match self.wakeup.take() {
            Some(wakeup) => wakeup,
            None => Wakeup::of(pid)?,
        };
        match self.wakeup.insert(wakeup) {
            Wakeup::Pidfd(fd) => loop {
                let mut ready = fd.readable().await?;
                if let Some(exit) = ended(pid)? {
                    return Ok(exit);
                }
                ready.clear_ready();
            },
            // Looked at after the signal was subscribed to, so no end is missed.
            Wakeup::AnyChild(signal) => loop {
                if let Some(exit) = ended(pid)? {
                    return Ok(exit);
                }
                signal.recv().await;
            },
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.reaped || !matches!(ended(self.pid), Ok(None))
    }

    /// Sends a signal to its process group, if anything of it is left.
    pub(super) fn signal_group(&self, number: c_int) {
        if !self.reaped {
            // SAFETY: the group's number is its leader's, which is not reaped and so not given to another.
            unsafe { libc::kill(-self.pid, number) };
        }
    }

    /// Reaps it if it has ended. Whether it is reaped; if not, [`reap`] can be tried later.
    pub(super) fn reap(&mut self) -> bool {
        self.reaped = self.reaped || reap(self.pid);
        self.reaped
    }

    /// For a process that is ending by itself.
    fn wait_and_reap(mut self) {
        self.reaped = true;
        // SAFETY: as in `reap`.
        while unsafe { libc::waitpid(self.pid, ptr::null_mut(), 0) } < 0 && Errno::last() == Errno::EINTR {}
    }
}

/// Reaps a child of this process if it has ended. Whether it is reaped.
pub(super) fn reap(pid: pid_t) -> bool {
    // SAFETY: nobody else waits for this child, so the number is still its own.
    let result = unsafe { libc::waitpid(pid, ptr::null_mut(), libc::WNOHANG) };
    result == pid || (result < 0 && Errno::last() == Errno::ECHILD)
}

impl Wakeup {
    fn of(pid: pid_t) -> io::Result<Self> {
        // SAFETY: a system call without pointers; the result is a new descriptor or an error.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if let Ok(fd @ 0..) = c_int::try_from(fd) {
            // SAFETY: just opened, owned by nobody else. It is close-on-exec from the start.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            // SAFETY: an `OwnedFd` stays open and the same for as long as it is owned, here by the `AsyncFd`.
            let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE)? };
            return Ok(Self::Pidfd(fd));
        }
        Ok(Self::AnyChild(signal(SignalKind::child())?))
    }
}

/// How a child ended, if it did; it stays unreaped.
fn ended(pid: pid_t) -> io::Result<Option<Exit>> {
    // SAFETY: `info` is zeroed plain data that the call fills.
    let info = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        if libc::waitid(libc::P_PID, pid as libc::id_t, &mut info, flags) < 0 {
            return Err(io::Error::last_os_error());
        }
        info
    };
    // SAFETY: `waitid` fills these fields, and leaves the pid 0 if nothing ended.
    let (who, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok((who == pid).then_some(match info.si_code {
        libc::CLD_EXITED => Exit::Code(status),
        _ => Exit::Signal(status),
    }))
}

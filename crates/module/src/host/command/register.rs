//! The commands that a session has at work, written down so that they are found when the session is killed.
//!
//! A file for each session, made before its first command, in a directory that all sessions of the machine share. The
//! session holds the file's lock, so a file without a holder is a killed session's. In it each command has a place for
//! the kernel's line of its first process, which the process writes itself before it becomes the program: no
//! command runs unwritten, and what is written of one that has ended names no process any more. Nothing is synced: a
//! machine that lost its power runs no command.
//!
//! A session leaves its file to the next one, so that a full disk need not give room for it. Where nothing can be written
//! even so, commands run all the same, and are not found if the session is then killed: a command may be what makes room.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use nix::fcntl::{Flock, FlockArg, OFlag, open};
use nix::libc;
use nix::sys::stat::Mode;

/// The kernel's line up to when the process began is below 300 bytes.
const PLACE: usize = 512;

/// Thousands of commands at once; a longer file is not this program's.
const MAX_FILE: u64 = 4 << 20;

/// How the head of a file begins whose session has ended.
const SPENT: [u8; 1] = [0];

/// The file of one session.
#[derive(Debug)]
pub struct Register {
    asks: Option<SyncSender<SyncSender<io::Result<Flock<File>>>>>,
    /// Makes the file when it is wanted: a thread that is held to looking, or that is another user, cannot.
    clerk: Option<JoinHandle<()>>,
    file: Mutex<Option<Arc<Flock<File>>>>,
    taken: Mutex<Vec<bool>>,
    /// A command could not be ended.
    is_left: AtomicBool,
}

/// Where one command is written down. Free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    register: Arc<Register>,
    file: Arc<Flock<File>>,
    index: usize,
}

impl Register {
    /// Writes nothing yet. `title` says whose commands these are. Nothing if the system has no thread left.
    pub fn new(directory: &Path, title: &str) -> Option<Arc<Self>> {
        let (asks, asked) = sync_channel(0);
        let directory = directory.to_owned();
        let head = format!("{title}, process {}", std::process::id());
        let clerk = move || serve(&directory, &head, &asked);
        let clerk = std::thread::Builder::new().name("register".into()).spawn(clerk).ok()?;
        Some(Arc::new(Self {
            asks: Some(asks),
            clerk: Some(clerk),
            file: Mutex::default(),
            taken: Mutex::default(),
            is_left: AtomicBool::default(),
        }))
    }

    /// A place for one command. Nothing where it cannot be written down.
    pub(super) fn place(self: &Arc<Self>) -> Option<Place> {
        let file = self.file()?;
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let index = taken.iter().position(|taken| !taken).unwrap_or(taken.len());
        if index == taken.len() {
            // So that the command's own write finds room.
            file.write_all_at(&[0; PLACE], at(index)).ok()?;
            taken.push(true);
        } else {
            taken[index] = true;
        }
        Some(Place { register: self.clone(), file, index })
    }

    fn file(&self) -> Option<Arc<Flock<File>>> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.is_none() {
            let (reply, made) = sync_channel(1);
            self.asks.as_ref()?.send(reply).ok()?;
            *file = Some(Arc::new(made.recv().ok()?.ok()?));
        }
        file.clone()
    }
}

impl Drop for Register {
    fn drop(&mut self) {
        let file = self.file.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = file.as_ref().filter(|_| !self.is_left.load(Ordering::SeqCst)) {
            // Not done, it names no living process all the same.
            let _ = file.write_all_at(&SPENT, 0);
        }
        self.asks = None;
        if let Some(clerk) = self.clerk.take() {
            // A panic was told on standard error by its own thread.
            let _ = clerk.join();
        }
    }
}

impl Place {
    /// For [`write_own_line`].
    pub(super) fn target(&self) -> (RawFd, libc::off_t) {
        (self.file.as_raw_fd(), at(self.index) as libc::off_t)
    }

    /// The command could not be ended: it stays written down when the session has ended too.
    pub(super) fn leave(&self) {
        self.register.is_left.store(true, Ordering::SeqCst);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.register.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken[self.index] = self.register.is_left.load(Ordering::SeqCst);
    }
}

/// The first place is the head's.
fn at(index: usize) -> u64 {
    ((index + 1) * PLACE) as u64
}

/// Writes down the calling process, between its start and its program: only system calls on memory of its own.
pub(super) fn write_own_line((file, offset): (RawFd, libc::off_t)) {
    let mut line = [0_u8; PLACE];
    // SAFETY: the path ends with a zero byte, the buffer is as long as said, and the descriptor is the parent's.
    unsafe {
        let stat = libc::open(c"/proc/self/stat".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if stat >= 0 {
            libc::read(stat, line.as_mut_ptr().cast(), PLACE);
            libc::close(stat);
            // There is room: the parent saw to it.
            libc::pwrite(file, line.as_ptr().cast(), PLACE, offset);
        }
    }
}

/// Makes the session's file when it is asked for.
fn serve(directory: &Path, head: &str, asks: &Receiver<SyncSender<io::Result<Flock<File>>>>) {
    while let Ok(reply) = asks.recv() {
        // Whoever asked waits for it.
        let _ = reply.send(make(directory, head));
    }
}

fn make(directory: &Path, head: &str) -> io::Result<Flock<File>> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    // Nobody may find it before it is locked.
    let _held = lock(directory)?;
    let file = match spent(directory) {
        Some(file) => file,
        None => {
            let mut random = [0; 8];
            getrandom::fill(&mut random).map_err(io::Error::other)?;
            let path = directory.join(format!("{:016x}", u64::from_ne_bytes(random)));
            hold(OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?)?
        }
    };
    let mut first = format!("{}\n{head}\n", boot()?).into_bytes();
    first.resize(PLACE, 0);
    file.write_all_at(&first, 0)?;
    Ok(file)
}

/// The file of a session that has ended.
fn spent(directory: &Path) -> Option<Flock<File>> {
    let open = |path: PathBuf| {
        let file = open_held(&path).ok()?;
        // One without a head, for which there was no room, is as good.
        let mut first = SPENT;
        file.read_at(&mut first, 0).ok()?;
        (first == SPENT).then_some(file)
    };
    fs::read_dir(directory).ok()?.flatten().find_map(|entry| open(entry.path()))
}

/// Makes others wait who would make or look through files in the directory.
fn lock(directory: &Path) -> io::Result<Flock<File>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let opened = File::from(open(directory, flags, Mode::empty())?);
    Flock::lock(opened, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
}

/// Takes a file's lock for as long as it is open.
fn hold(file: File) -> io::Result<Flock<File>> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno.into())
}

fn open_held(path: &Path) -> io::Result<Flock<File>> {
    // What is none of ours holds nobody up.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).and_then(hold)
}

/// Names the time since the machine was started.
fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// What killed sessions had at work. While it is held nobody else looks, and no session of the machine starts its
/// first command.
#[derive(Debug)]
pub struct Abandoned {
    pub sessions: Vec<AbandonedSession>,
    _held: Flock<File>,
}

#[derive(Debug)]
pub struct AbandonedSession {
    /// Whose they were.
    pub title: String,
    /// The kernel's line (`/proc/PID/stat`) of the first process of each command, as it was when it began: the leader of
    /// a process session of its own. Of those that have ended too.
    pub lines: Vec<Vec<u8>>,
    file: Flock<File>,
}

impl Abandoned {
    /// Nothing if no session ever wrote there. Waits for whoever looks already.
    pub fn find(directory: &Path) -> io::Result<Option<Self>> {
        let held = match lock(directory) {
            Ok(held) => held,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let paths = fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path()));
        let boot = boot()?;
        let mut sessions = Vec::new();
        for path in paths.collect::<io::Result<Vec<_>>>()? {
            // One that is held is alive.
            let Ok(file) = open_held(&path) else { continue };
            let mut bytes = Vec::new();
            (&*file).take(MAX_FILE).read_to_end(&mut bytes)?;
            if bytes.starts_with(&SPENT) {
                continue;
            }
            let (title, lines) = read(&bytes, &boot).unwrap_or_default();
            sessions.push(AbandonedSession { title, lines, file });
        }
        Ok(Some(Self { sessions, _held: held }))
    }
}

impl AbandonedSession {
    /// Nothing of it is at work any more.
    pub fn forget(self) {
        // Not done, it names no living process all the same.
        let _ = self.file.write_all_at(&SPENT, 0);
    }
}

/// Nothing if it was written before the machine was started, or not to the end of its head: then no command had begun.
fn read(bytes: &[u8], boot: &str) -> Option<(String, Vec<Vec<u8>>)> {
    let mut places =
        bytes.chunks_exact(PLACE).map(|place| place.split(|byte| *byte == 0).next().unwrap_or(&[]));
    let head = std::str::from_utf8(places.next()?).ok()?;
    let (written, title) = head.strip_suffix('\n')?.split_once('\n')?;
    let lines = places.filter(|place| !place.is_empty()).map(<[u8]>::to_vec).collect();
    (written == boot).then(|| (title.to_owned(), lines))
}

#[cfg(test)]
mod tests {
    use super::super::Command;
    use super::*;

    fn files(directory: &Path) -> Vec<PathBuf> {
        fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
    }

    fn run(register: &Arc<Register>, line: &str) -> String {
        let ran = Command::shell(line).run(None, None, Some(register)).unwrap();
        assert!(ran.succeeded(), "{}", ran.words());
        ran.text()
    }

    #[test]
    fn a_command_is_written_down_before_it_is_a_program() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("state/running");
        let register = Register::new(&directory, "a run").unwrap();
        assert!(!place.path().join("state").exists(), "nothing was started yet");
        // What is written of the shell is the shell's own line, but for its name and what it has done since.
        let own = run(&register, "cat /proc/$$/stat");
        let path = files(&directory).pop().unwrap();
        let copy = directory.join("copy");
        fs::copy(path, &copy).unwrap();
        let abandoned = Abandoned::find(&directory).unwrap().unwrap();
        assert_eq!(abandoned.sessions.len(), 1, "the original is held");
        let session = &abandoned.sessions[0];
        assert_eq!(session.title, format!("a run, process {}", std::process::id()));
        let [line] = &session.lines[..] else { panic!("{:?}", session.lines) };
        let line = String::from_utf8(line.clone()).unwrap();
        let facts = |line: &str| {
            let (pid, rest) = (line.split(' ').next().unwrap(), line.rsplit_once(')').unwrap().1);
            let fields: Vec<&str> = rest.split_whitespace().collect();
            [pid, fields[2], fields[3], fields[19]].map(str::to_owned)
        };
        assert_eq!(facts(&line), facts(&own));
        assert_eq!(facts(&line)[0], facts(&line)[2], "it leads a session");
        drop(abandoned);
        // The next one takes the place of one that has ended.
        let length = || fs::metadata(&files(&directory)[0]).unwrap().len();
        let before = length();
        run(&register, "true");
        assert_eq!(length(), before);
        fs::remove_file(copy).unwrap();
        // So does the next session with its file.
        let path = files(&directory);
        drop(register);
        assert_eq!(Abandoned::find(&directory).unwrap().unwrap().sessions.len(), 0, "nothing was left");
        let (next, beside) =
            (Register::new(&directory, "next").unwrap(), Register::new(&directory, "").unwrap());
        run(&next, "true");
        assert_eq!(files(&directory), path);
        run(&beside, "true");
        assert_eq!(files(&directory).len(), 2);
    }

    #[test]
    fn where_nothing_can_be_written_commands_run_all_the_same() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("running");
        fs::write(&directory, "a file where the directory should be").unwrap();
        let register = Register::new(&directory, "a run").unwrap();
        assert_eq!(run(&register, "echo ran"), "ran");
        assert!(Abandoned::find(&directory).is_err());
        fs::remove_file(&directory).unwrap();
        run(&register, "true");
        assert_eq!(files(&directory).len(), 1, "as soon as it can be");
    }

    #[test]
    fn half_a_record_and_one_of_another_start_of_the_machine_name_nothing() {
        let mut whole = b"boot\nup, process 7\n".to_vec();
        whole.resize(PLACE, 0);
        assert_eq!(read(&whole, "boot"), Some(("up, process 7".to_owned(), vec![])));
        assert_eq!(read(&whole, "later"), None);
        for cut in 0..PLACE {
            assert_eq!(read(&whole[..cut], "boot"), None, "{cut}");
        }
        let mut line = b"7 (sh) R 1 7 7".to_vec();
        line.resize(PLACE, 0);
        whole.extend(line);
        let lines = |bytes: &[u8]| read(bytes, "boot").unwrap().1;
        assert_eq!(lines(&whole), [b"7 (sh) R 1 7 7"]);
        assert_eq!(lines(&whole[..whole.len() - 1]), Vec::<Vec<u8>>::new());
        whole.resize(PLACE * 4, 0);
        assert_eq!(lines(&whole).len(), 1, "places that were never used");
        assert_eq!(read(&[0xff; 3 * PLACE], "boot"), None);
    }
}

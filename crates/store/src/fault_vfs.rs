//! A disk in memory that SQLite writes to and that fails on demand: it loses power, fills up, and fails to
//! sync. For tests; it shows what a kill -9 cannot, because that leaves the page cache alone.
//!
//! What was written but not synced is kept apart. When power is lost, it is thrown away, or some sectors of
//! it are, as a real disk would. When a sync fails, what it should have made durable stays readable and
//! never becomes durable by a later sync: that is what Linux does.
//!
//! Locks are not simulated: each file has one user at a time.

#![expect(unsafe_code, reason = "SQLite's file system interface is one of C functions and pointers")]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::ffi;

use crate::reserve::Reserve;
use crate::sqlite_file::SimulatedFiles;

/// What a disk writes at once, whatever happens.
const SECTOR: usize = 512;

/// What becomes of unsynced writes when power is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// All of them are gone.
    All,
    /// Each sector of each of them is kept or not, as this seed decides.
    Some(u64),
}

/// The disk. Clones are the same disk.
#[derive(Clone)]
pub struct FaultDisk {
    vfs: String,
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for FaultDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultDisk").field("vfs", &self.vfs).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, FileState>,
    capacity: Option<u64>,
    reserved: u64,
    /// Syncs that still succeed before one fails.
    syncs_left: Option<u64>,
    /// Writes, truncations, deletions and syncs that still succeed before the power goes.
    steps_left: Option<u64>,
    dead: bool,
    syncs: u64,
    steps: u64,
    reserve_moves: u64,
}

#[derive(Default)]
struct FileState {
    /// What a read sees; `None` when it was deleted.
    current: Option<Vec<u8>>,
    /// What a power loss leaves; `None` when there would be no file.
    durable: Option<Vec<u8>>,
    /// What was done since the last sync, in order.
    pending: Vec<Change>,
}

enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

impl FaultDisk {
    /// Registers a new, empty disk with SQLite. It stays registered until the process ends.
    pub fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let vfs = format!("fault-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let disk = Self { vfs, state: Arc::default() };
        register(&disk);
        disk
    }

    /// The name under which SQLite finds it.
    #[cfg(test)]
    pub(crate) fn vfs(&self) -> &str {
        &self.vfs
    }

    /// How many bytes fit on it in all; no limit at first.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Bytes of all files and of what is reserved.
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// Lets `good` more syncs succeed and the next one fail.
    pub fn fail_sync_after(&self, good: u64) {
        self.state().syncs_left = Some(good);
    }

    /// Lets `good` more changes of the disk succeed; then nothing works until [`FaultDisk::power_loss`].
    pub fn power_off_after(&self, good: u64) {
        self.state().steps_left = Some(good);
    }

    /// Power goes and comes back: what was not synced is lost, faults that wait are forgotten. Whoever has
    /// a file open must be dropped before.
    pub fn power_loss(&self, loss: Loss) {
        let mut state = self.state();
        state.dead = false;
        state.steps_left = None;
        state.syncs_left = None;
        let mut random = match loss {
            Loss::All => None,
            Loss::Some(seed) => Some(Random(seed)),
        };
        for file in state.files.values_mut() {
            let pending = std::mem::take(&mut file.pending);
            if let (Some(random), Some(_)) = (&mut random, &file.current) {
                let durable = file.durable.get_or_insert_default();
                for change in &pending {
                    keep_some(change, durable, random);
                }
            }
            file.current.clone_from(&file.durable);
        }
        state.files.retain(|_, file| file.current.is_some());
    }

    /// Syncs and changes so far.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    pub fn steps(&self) -> u64 {
        self.state().steps
    }

    /// How often the reserve grew or was cut.
    pub fn reserve_moves(&self) -> u64 {
        self.state().reserve_moves
    }

    /// The bytes of a file as they are now.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        self.state().files.get(name)?.current.clone()
    }

    /// Puts bytes where a file was, durably: damage, or another program's doing.
    pub fn replace(&self, name: &str, bytes: Vec<u8>) {
        let file = FileState { current: Some(bytes.clone()), durable: Some(bytes), pending: Vec::new() };
        self.state().files.insert(name.to_owned(), file);
    }

    pub(crate) fn files(&self) -> SimulatedFiles {
        let (of_log, of_reserve) = (self.clone(), self.clone());
        SimulatedFiles {
            vfs: self.vfs.clone(),
            rewrite_log: Arc::new(move |log| of_log.rewrite(&log.to_string_lossy())),
            reserve: Arc::new(move || Box::new(of_reserve.reserve())),
        }
    }

    /// Writes a file's bytes once more and syncs it, as one does who does not trust an earlier sync.
    fn rewrite(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        let Some(bytes) = state.files.get(name).and_then(|file| file.current.clone()) else {
            return Ok(());
        };
        let written = state.write(name, 0, &bytes) == ffi::SQLITE_OK && state.sync(name) == ffi::SQLITE_OK;
        if written { Ok(()) } else { Err(io::Error::other("the simulated disk failed")) }
    }

    pub(crate) fn reserve(&self) -> DiskReserve {
        DiskReserve { disk: self.clone() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked with the lock has failed already.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for FaultDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    fn used(&self) -> u64 {
        let files: usize = self.files.values().filter_map(|f| f.current.as_ref()).map(Vec::len).sum();
        files as u64 + self.reserved
    }

    fn room(&self) -> u64 {
        self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used()))
    }

    /// Counts one change of the disk; false when the power is off.
    fn step(&mut self) -> bool {
        if self.steps_left == Some(0) {
            self.dead = true;
        }
        if self.dead {
            return false;
        }
        self.steps += 1;
        if let Some(left) = &mut self.steps_left {
            *left -= 1;
        }
        true
    }

    fn write(&mut self, name: &str, at: usize, data: &[u8]) -> c_int {
        if !self.step() {
            return ffi::SQLITE_IOERR_WRITE;
        }
        let room = self.room();
        let Some(file) = self.files.get_mut(name) else {
            return ffi::SQLITE_IOERR_WRITE;
        };
        let Some(current) = &mut file.current else {
            return ffi::SQLITE_IOERR_WRITE;
        };
        let end = at + data.len();
        if end.saturating_sub(current.len()) as u64 > room {
            return ffi::SQLITE_FULL;
        }
        put(current, at, data);
        file.pending.push(Change::Write(at, data.to_vec()));
        ffi::SQLITE_OK
    }

    fn truncate(&mut self, name: &str, len: usize) -> c_int {
        if !self.step() {
            return ffi::SQLITE_IOERR_TRUNCATE;
        }
        let Some(file) = self.files.get_mut(name) else {
            return ffi::SQLITE_IOERR_TRUNCATE;
        };
        if let Some(current) = &mut file.current {
            current.resize(len, 0);
        }
        file.pending.push(Change::Truncate(len));
        ffi::SQLITE_OK
    }

    fn sync(&mut self, name: &str) -> c_int {
        if !self.step() {
            return ffi::SQLITE_IOERR_FSYNC;
        }
        let fails = self.syncs_left == Some(0);
        self.syncs_left = if fails { None } else { self.syncs_left.map(|left| left - 1) };
        let Some(file) = self.files.get_mut(name) else {
            return ffi::SQLITE_IOERR_FSYNC;
        };
        let pending = std::mem::take(&mut file.pending);
        if fails {
            return ffi::SQLITE_IOERR_FSYNC;
        }
        self.syncs += 1;
        let durable = file.durable.get_or_insert_default();
        for change in pending {
            match change {
                Change::Write(at, data) => put(durable, at, &data),
                Change::Truncate(len) => durable.resize(len, 0),
            }
        }
        ffi::SQLITE_OK
    }

    fn delete(&mut self, name: &str, durably: bool) -> c_int {
        if !self.step() {
            return ffi::SQLITE_IOERR_DELETE;
        }
        match self.files.get_mut(name) {
            Some(file) if file.current.is_some() => {
                file.current = None;
                file.pending.clear();
                if durably {
                    file.durable = None;
                }
                ffi::SQLITE_OK
            }
            _ => ffi::SQLITE_IOERR_DELETE_NOENT,
        }
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    let end = at + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at..end].copy_from_slice(data);
}

fn keep_some(change: &Change, durable: &mut Vec<u8>, random: &mut Random) {
    match change {
        Change::Truncate(len) => {
            if random.bit() {
                durable.resize(*len, 0);
            }
        }
        Change::Write(at, data) => {
            let mut from = 0;
            while from < data.len() {
                // Up to the end of the sector that this byte lies in.
                let to = data.len().min(from + SECTOR - (at + from) % SECTOR);
                if random.bit() {
                    put(durable, at + from, &data[from..to]);
                }
                from = to;
            }
        }
    }
}

/// `SplitMix64`: enough to choose sectors.
struct Random(u64);

impl Random {
    fn bit(&mut self) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) & 1 == 1
    }
}

/// A reserve on the simulated disk: bytes that count as used.
pub(crate) struct DiskReserve {
    disk: FaultDisk,
}

impl Reserve for DiskReserve {
    fn held(&self) -> u64 {
        self.disk.state().reserved
    }

    fn hold(&mut self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let more = bytes.saturating_sub(state.reserved);
        if more > state.room() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.reserved = bytes;
        state.reserve_moves += 1;
        Ok(())
    }
}

/// What SQLite keeps for an open file. SQLite allocates it and knows only its first field.
#[repr(C)]
struct OpenFile {
    base: ffi::sqlite3_file,
    name: String,
    delete_on_close: bool,
    disk: FaultDisk,
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    // The first version has no shared memory: the log's index must be on the heap.
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(lock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

fn register(disk: &FaultDisk) {
    let name = CString::new(disk.vfs.clone()).expect("the name is made of letters and digits");
    let vfs = ffi::sqlite3_vfs {
        iVersion: 1,
        szOsFile: size_of::<OpenFile>() as c_int,
        mxPathname: 512,
        pNext: ptr::null_mut(),
        // Both live until the process ends, as SQLite may use them until then.
        zName: name.into_raw(),
        pAppData: Box::into_raw(Box::new(disk.clone())).cast::<c_void>(),
        xOpen: Some(open),
        xDelete: Some(delete),
        xAccess: Some(access),
        xFullPathname: Some(full_pathname),
        xDlOpen: None,
        xDlError: None,
        xDlSym: None,
        xDlClose: None,
        xRandomness: Some(randomness),
        xSleep: Some(sleep),
        xCurrentTime: Some(current_time),
        xGetLastError: None,
        xCurrentTimeInt64: None,
        xSetSystemCall: None,
        xGetSystemCall: None,
        xNextSystemCall: None,
    };
    // SAFETY: the structure is complete for its version and is never freed; its name is terminated.
    let code = unsafe { ffi::sqlite3_vfs_register(Box::into_raw(Box::new(vfs)), 0) };
    assert_eq!(code, ffi::SQLITE_OK, "SQLite takes the simulated disk");
}

/// # Safety
/// `vfs` must be one that [`register`] made.
unsafe fn disk_of<'a>(vfs: *mut ffi::sqlite3_vfs) -> &'a FaultDisk {
    // SAFETY: `register` put a disk there that is never freed.
    unsafe { &*(*vfs).pAppData.cast::<FaultDisk>() }
}

/// # Safety
/// `file` must have been filled in by [`open`] and not closed since.
unsafe fn file_of<'a>(file: *mut ffi::sqlite3_file) -> &'a OpenFile {
    // SAFETY: `open` wrote an `OpenFile` there, whose first field this is.
    unsafe { &*file.cast::<OpenFile>() }
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    static UNNAMED: AtomicU64 = AtomicU64::new(0);
    // SAFETY: SQLite passes the structure that we registered.
    let disk = unsafe { disk_of(vfs) };
    let name = if name.is_null() {
        format!("unnamed-{}", UNNAMED.fetch_add(1, Ordering::Relaxed))
    } else {
        // SAFETY: SQLite passes a terminated string, or null.
        unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
    };
    // SAFETY: the memory is SQLite's, of the size we asked for. No methods means "not open, do not close".
    unsafe { (*file).pMethods = ptr::null() };
    {
        let mut state = disk.state();
        if state.dead {
            return ffi::SQLITE_CANTOPEN;
        }
        let exists = state.files.get(&name).is_some_and(|file| file.current.is_some());
        if !exists && flags & ffi::SQLITE_OPEN_CREATE == 0 {
            return ffi::SQLITE_CANTOPEN;
        }
        let entry = state.files.entry(name.clone()).or_default();
        if !exists {
            // A file that was deleted and is made anew may come back as the old one, until it is synced.
            entry.current = Some(Vec::new());
            entry.pending = vec![Change::Truncate(0)];
        }
    }
    let opened = OpenFile {
        base: ffi::sqlite3_file { pMethods: &raw const METHODS },
        name,
        delete_on_close: flags & ffi::SQLITE_OPEN_DELETEONCLOSE != 0,
        disk: disk.clone(),
    };
    // SAFETY: the memory is SQLite's, uninitialised, aligned for pointers and as large as `szOsFile` says.
    unsafe { ptr::write(file.cast::<OpenFile>(), opened) };
    if !out_flags.is_null() {
        // SAFETY: not null, so it is where SQLite wants the flags.
        unsafe { *out_flags = flags };
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: SQLite closes each file that was opened once, and does not use it after.
    let opened = unsafe { ptr::read(file.cast::<OpenFile>()) };
    if opened.delete_on_close {
        opened.disk.state().files.remove(&opened.name);
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    into: *mut c_void,
    len: c_int,
    at: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite passes an open file of ours, and `len` bytes to write to.
    let (opened, into) =
        unsafe { (file_of(file), std::slice::from_raw_parts_mut(into.cast::<u8>(), len as usize)) };
    let state = opened.disk.state();
    if state.dead {
        return ffi::SQLITE_IOERR_READ;
    }
    let current = state.files.get(&opened.name).and_then(|file| file.current.as_deref()).unwrap_or(&[]);
    let there = current.get(at as usize..).unwrap_or(&[]);
    let got = there.len().min(into.len());
    into[..got].copy_from_slice(&there[..got]);
    if got < into.len() {
        into[got..].fill(0);
        return ffi::SQLITE_IOERR_SHORT_READ;
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    len: c_int,
    at: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite passes an open file of ours, and `len` bytes to read.
    let (opened, from) =
        unsafe { (file_of(file), std::slice::from_raw_parts(from.cast::<u8>(), len as usize)) };
    opened.disk.state().write(&opened.name, at as usize, from)
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, len: ffi::sqlite3_int64) -> c_int {
    // SAFETY: SQLite passes an open file of ours.
    let opened = unsafe { file_of(file) };
    opened.disk.state().truncate(&opened.name, len as usize)
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _flags: c_int) -> c_int {
    // SAFETY: SQLite passes an open file of ours.
    let opened = unsafe { file_of(file) };
    opened.disk.state().sync(&opened.name)
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut ffi::sqlite3_int64) -> c_int {
    // SAFETY: SQLite passes an open file of ours, and where to put the size.
    let (opened, size) = unsafe { (file_of(file), &mut *size) };
    let state = opened.disk.state();
    let len = state.files.get(&opened.name).and_then(|file| file.current.as_ref()).map_or(0, Vec::len);
    *size = len as ffi::sqlite3_int64;
    ffi::SQLITE_OK
}

unsafe extern "C" fn lock(_file: *mut ffi::sqlite3_file, _level: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved_lock(_file: *mut ffi::sqlite3_file, held: *mut c_int) -> c_int {
    // SAFETY: SQLite passes where to put the answer.
    unsafe { *held = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_control(_file: *mut ffi::sqlite3_file, _op: c_int, _arg: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_file: *mut ffi::sqlite3_file) -> c_int {
    SECTOR as c_int
}

unsafe extern "C" fn device_characteristics(_file: *mut ffi::sqlite3_file) -> c_int {
    // As SQLite assumes of Linux: a write does not damage the bytes beside it.
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
}

unsafe extern "C" fn delete(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, sync_dir: c_int) -> c_int {
    // SAFETY: SQLite passes the structure that we registered, and a terminated string.
    let (disk, name) = unsafe { (disk_of(vfs), CStr::from_ptr(name)) };
    disk.state().delete(&name.to_string_lossy(), sync_dir != 0)
}

unsafe extern "C" fn access(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    _flags: c_int,
    result: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes the structure that we registered, a terminated string, and where to answer.
    let (disk, name, result) = unsafe { (disk_of(vfs), CStr::from_ptr(name), &mut *result) };
    let state = disk.state();
    // SQLite takes an empty journal for none.
    let there = state
        .files
        .get(name.to_string_lossy().as_ref())
        .and_then(|file| file.current.as_ref())
        .is_some_and(|bytes| !bytes.is_empty());
    *result = c_int::from(there);
    ffi::SQLITE_OK
}

unsafe extern "C" fn full_pathname(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    len: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: SQLite passes a terminated string.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes_with_nul();
    if name.len() > len as usize {
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: there are `len` bytes at `out`, and the name is no longer than that.
    unsafe { ptr::copy_nonoverlapping(name.as_ptr().cast::<c_char>(), out, name.len()) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn randomness(_vfs: *mut ffi::sqlite3_vfs, len: c_int, out: *mut c_char) -> c_int {
    // Salts of the log must differ from one to the next, or old frames would pass for new ones.
    static SEED: AtomicU64 = AtomicU64::new(1);
    let mut random = Random(SEED.fetch_add(1 << 20, Ordering::Relaxed));
    for at in 0..len as usize {
        let byte = (0..8).fold(0_u8, |byte, _| byte << 1 | u8::from(random.bit()));
        // SAFETY: there are `len` bytes at `out`.
        unsafe { *out.add(at) = byte.cast_signed() as c_char };
    }
    len
}

unsafe extern "C" fn sleep(_vfs: *mut ffi::sqlite3_vfs, micros: c_int) -> c_int {
    micros
}

unsafe extern "C" fn current_time(_vfs: *mut ffi::sqlite3_vfs, now: *mut f64) -> c_int {
    // SAFETY: SQLite passes where to put the time. Nothing of ours asks SQLite for it.
    unsafe { *now = 2_461_000.5 };
    ffi::SQLITE_OK
}

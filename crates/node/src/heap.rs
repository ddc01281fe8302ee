//! The memory of a process that lies idle most of its time and now and then works on a large catalog: little of it, and given back.
//!
//! The C library's allocator is made for speed with many threads: an arena for each of them, and freed memory kept for later.
//! On an agent that later may be a week away. Where the C library is another, nothing is done here.

use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(target_env = "gnu")]
use nix::libc;

/// A buffer of this size gets pages of its own, which go back when it is freed. The library's own bound grows with what it has seen.
#[cfg(target_env = "gnu")]
const OWN_PAGES: libc::c_int = 64 << 10;

static SMALL: AtomicBool = AtomicBool::new(false);

/// For the whole process; to be called before it has other threads.
pub fn keep_small() {
    SMALL.store(true, Ordering::Relaxed);
    #[cfg(target_env = "gnu")]
    for (option, value) in
        [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_THRESHOLD, OWN_PAGES), (libc::M_TOP_PAD, OWN_PAGES)]
    {
        // SAFETY: it takes two numbers and changes nothing but how later allocations are served. A value that it does not
        // like leaves things as they are.
        unsafe { libc::mallopt(option, value) };
    }
}

/// Gives back what is free, wherever it lies, if the process is to be kept small. Takes about a millisecond for each ten
/// megabytes.
pub fn give_back() {
    if !SMALL.load(Ordering::Relaxed) {
        return;
    }
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, and locks what it looks at.
    unsafe {
        libc::malloc_trim(0);
    }
}

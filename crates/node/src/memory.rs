//! The memory of a process that lies idle most of its time and now and then works on a large catalog: little, and given back.
//!
//! The C library's allocator is made for speed with many threads: an arena for each of them, and what was freed is kept for
//! later. On an agent that later may be a week away. Where the C library is another, the heap is left as it is.

use std::sync::atomic::{AtomicBool, Ordering};

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

/// Gives back what is free, wherever it lies, and the pages of the program's own code, if the process is to be kept small.
/// Takes about a millisecond for each ten megabytes.
pub fn give_back() {
    if !SMALL.load(Ordering::Relaxed) {
        return;
    }
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, and locks what it looks at.
    unsafe {
        libc::malloc_trim(0);
    }
    unmap_code();
}

/// The kernel maps sixteen pages of a program for each that is run, and most of what ran, ran once: at the start, or for a
/// catalog. It stays in the kernel's own cache, and what runs again is mapped again from there.
fn unmap_code() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    for (from, to) in maps.lines().filter_map(code) {
        // SAFETY: a mapping of a file that may be run and not written is the file's own pages: none of them was changed, and
        // each is read from the file again when it is next touched.
        unsafe {
            libc::madvise(from as *mut libc::c_void, to - from, libc::MADV_DONTNEED);
        }
    }
}

/// Where a line of a process's map says that code of a file lies.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (range, rights) = (words.next()?, words.next()?);
    let path = words.nth(3)?;
    let (from, to) = range.split_once('-')?;
    let range = (usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?);
    (rights == "r-xp" && path.starts_with('/')).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_files_that_cannot_have_been_changed_is_unmapped() {
        let line =
            |rights: &str, path: &str| format!("55e0a000-55e0f000 {rights} 004eb000 fe:00 10068147 {path}");
        assert_eq!(code(&line("r-xp", "   /usr/bin/mainstay")), Some((0x55e0_a000, 0x55e0_f000)));
        // Relocated data is read-only too, and changed.
        for other in
            [line("r--p", "/usr/bin/mainstay"), line("rwxp", "/usr/bin/mainstay"), line("r-xp", "[vdso]")]
        {
            assert_eq!(code(&other), None, "{other}");
        }
        assert_eq!(code("7f00-7f01 r-xp 00000000 00:00 0"), None);
        assert_eq!(code(""), None);
    }

    #[test]
    fn what_runs_goes_on_running() {
        unmap_code();
        assert_eq!("7".repeat(3).parse(), Ok(777));
    }
}

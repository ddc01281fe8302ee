use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, geteuid, setfsgid, setfsuid};
use tempfile::TempDir;

use super::*;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Runs in a thread with a tmpfs of its own at `at`, which nobody else sees. False, with a word on why, where the
/// system does not allow it.
fn with_tmpfs(at: &Path, options: &str, test: impl FnOnce() + Send) -> bool {
    if !geteuid().is_root() {
        eprintln!("skipped: a mount of its own needs root");
        return false;
    }
    thread::scope(|scope| {
        let run = || {
            if let Err(error) = unshare(CloneFlags::CLONE_NEWNS) {
                eprintln!("skipped: no mount namespace: {error}");
                return false;
            }
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
            test();
            true
        };
        scope.spawn(run).join().unwrap()
    })
}

#[test]
fn what_is_not_given_is_kept() {
    let folder = folder();
    let path = folder.path().join("conf");
    let host = Host::new();
    host.write(&path, b"1", Ownership { mode: Some(0o4750), ..Ownership::default() }).unwrap();
    let labelled = xattr::set(&path, "user.label", b"kept").is_ok();
    if geteuid().is_root() {
        lchown(&path, Some(12), Some(34)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o4750)).unwrap();
    }
    let before = fs::metadata(&path).unwrap();
    host.write(&path, b"2", Ownership::default()).unwrap();
    let after = fs::metadata(&path).unwrap();
    assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), before.uid(), before.gid()));
    assert_ne!(after.ino(), before.ino());
    match labelled {
        true => assert_eq!(xattr::get(&path, "user.label").unwrap().as_deref(), Some(&b"kept"[..])),
        false => eprintln!("skipped: no extended attributes here"),
    }
    assert_eq!(names(folder.path()), ["conf"]);
}

#[test]
fn leftovers_of_the_dead_go_and_files_of_the_living_stay() {
    let folder = folder();
    let left = folder.path().join(".conf.0123456789abcdef.mainstay-new");
    fs::write(&left, "half").unwrap();
    let host = Host::new();
    let living = host.stage(&folder.path().join("a"), b"1", Ownership::default()).unwrap();
    assert!(!left.exists());
    // Another host looks into the directory for the first time.
    Host::new().write(&folder.path().join("b"), b"2", Ownership::default()).unwrap();
    assert!(living.path().exists());
    living.place().unwrap();
    assert_eq!(names(folder.path()), ["a", "b"]);
}

#[test]
fn a_name_that_only_looks_like_a_leftover_stays() {
    let folder = folder();
    let kept = folder.path().join("mine.mainstay-new");
    fs::write(&kept, "mine").unwrap();
    symlink("/etc/passwd", folder.path().join(".x.mainstay-new")).unwrap();
    Host::new().write(&folder.path().join("a"), b"1", Ownership::default()).unwrap();
    assert_eq!(names(folder.path()), [".x.mainstay-new", "a", "mine.mainstay-new"]);
}

#[test]
fn an_unplaced_file_leaves_nothing() {
    let folder = folder();
    let path = folder.path().join("conf");
    fs::write(&path, "old").unwrap();
    drop(Host::new().stage(&path, b"new", Ownership::default()).unwrap());
    assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    assert_eq!(names(folder.path()), ["conf"]);
}

#[test]
fn a_full_disk_leaves_the_old_file() {
    let folder = folder();
    let ran = with_tmpfs(folder.path(), "size=64k", || {
        let path = folder.path().join("conf");
        let host = Host::new();
        host.write(&path, b"old", Ownership::default()).unwrap();
        let failure = host.write(&path, &[b'x'; 1 << 20], Ownership::default()).unwrap_err();
        assert!(failure.to_string().contains("No space left"), "{failure}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(folder.path()), ["conf"]);
        host.write(&path, b"new", Ownership::default()).unwrap();
    });
    assert!(ran || !geteuid().is_root() || names(folder.path()).is_empty());
}

#[test]
fn a_read_only_disk_says_so() {
    let folder = folder();
    with_tmpfs(folder.path(), "size=64k", || {
        let path = folder.path().join("conf");
        fs::write(&path, "old").unwrap();
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, folder.path(), None::<&str>, flags, None::<&str>).unwrap();
        let host = Host::new();
        for failure in [
            host.write(&path, b"new", Ownership::default()).unwrap_err(),
            host.make_directory(&folder.path().join("d"), Ownership::default()).unwrap_err(),
            host.make_link(&path, Path::new("x")).unwrap_err(),
            host.remove(&path).unwrap_err(),
            host.set_ownership(&path, Ownership { mode: Some(0o600), ..Ownership::default() }).unwrap_err(),
        ] {
            assert!(failure.to_string().contains("Read-only file system"), "{failure}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    });
}

#[test]
fn a_mount_point_is_not_replaced_and_the_hint_says_why() {
    let folder = folder();
    with_tmpfs(folder.path(), "size=64k", || {
        let (path, other) = (folder.path().join("hosts"), folder.path().join("other"));
        fs::write(&path, "old").unwrap();
        fs::write(&other, "bound").unwrap();
        mount(Some(&other), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let failure = Host::new().write(&path, b"new", Ownership::default()).unwrap_err();
        assert!(failure.to_string().contains("mount point"), "{failure}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "bound");
    });
}

#[test]
fn one_who_may_not_write_is_told_and_nothing_changes() {
    if !geteuid().is_root() {
        eprintln!("skipped: being somebody else needs root");
        return;
    }
    let folder = folder();
    let path = folder.path().join("conf");
    fs::write(&path, "old").unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            // Of this thread alone.
            setfsgid(Gid::from_raw(65534));
            setfsuid(Uid::from_raw(65534));
            let failure = Host::new().write(&path, b"new", Ownership::default()).unwrap_err();
            assert!(failure.to_string().contains("Permission denied"), "{failure}");
        });
    });
    assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    assert_eq!(names(folder.path()), ["conf"]);
}

#[test]
fn deferred_syncs_are_made_once_and_miss_nothing() {
    let folder = folder();
    let host = Host::deferring_syncs();
    for name in ["a", "b", "c"] {
        host.write(&folder.path().join(name), b"x", Ownership::default()).unwrap();
    }
    host.make_directory(&folder.path().join("gone"), Ownership::default()).unwrap();
    host.remove_tree(&folder.path().join("gone")).unwrap();
    let waiting = lock(host.syncs.deferred.as_ref().unwrap()).clone();
    assert!(waiting.contains(folder.path()) && waiting.len() == 2, "{waiting:?}");
    host.settle().unwrap();
    assert!(lock(host.syncs.deferred.as_ref().unwrap()).is_empty());
}

#[test]
fn what_has_no_way_to_it_any_more_needs_no_sync() {
    let folder = folder();
    let (directory, path) = (folder.path().join("d"), folder.path().join("d/conf"));
    fs::create_dir(&directory).unwrap();
    let host = Host::deferring_syncs();
    host.write(&path, b"new", Ownership::default()).unwrap();
    host.set_ownership(&path, Ownership { mode: Some(0o600), ..Ownership::default() }).unwrap();
    fs::remove_dir_all(&directory).unwrap();
    fs::write(&directory, "a file now").unwrap();
    host.settle().unwrap();
}

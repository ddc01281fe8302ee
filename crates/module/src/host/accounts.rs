//! Names of users and groups, and their numbers, as the system's own lookup gives them.
//!
//! Many states name the same few accounts, so answers are remembered until the local tables change. An account from
//! elsewhere (a directory service) is remembered for as long as they do not.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;

use nix::unistd::{Gid, Group, Uid, User};

use crate::failure::Failure;

#[derive(Debug, Default)]
pub(super) struct Accounts {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// What the tables looked like when these answers were given.
    tables: [Option<Stamp>; 2],
    users: HashMap<String, u32>,
    groups: HashMap<String, u32>,
    user_names: HashMap<u32, String>,
    group_names: HashMap<u32, String>,
}

/// Inode, size and time of change: editing or replacing a file changes at least one of them.
type Stamp = (u64, u64, i64, i64);

fn stamp(path: &str) -> Option<Stamp> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.ino(), meta.size(), meta.ctime(), meta.ctime_nsec()))
}

impl Accounts {
    fn with<T>(&self, look: impl FnOnce(&mut Known) -> T) -> T {
        let tables = [stamp("/etc/passwd"), stamp("/etc/group")];
        let mut known = self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if known.tables != tables {
            *known = Known { tables, ..Known::default() };
        }
        look(&mut known)
    }

    pub(super) fn user(&self, name: &str) -> Result<Option<u32>, Failure> {
        self.with(|known| {
            if let Some(uid) = known.users.get(name) {
                return Ok(Some(*uid));
            }
            let found = found(User::from_name(name)).map_err(|e| failed("look up user", name, e))?;
            let uid = found.map(|user| user.uid.as_raw());
            known.users.extend(uid.map(|uid| (name.to_owned(), uid)));
            Ok(uid)
        })
    }

    pub(super) fn group(&self, name: &str) -> Result<Option<u32>, Failure> {
        self.with(|known| {
            if let Some(gid) = known.groups.get(name) {
                return Ok(Some(*gid));
            }
            let found = found(Group::from_name(name)).map_err(|e| failed("look up group", name, e))?;
            let gid = found.map(|group| group.gid.as_raw());
            known.groups.extend(gid.map(|gid| (name.to_owned(), gid)));
            Ok(gid)
        })
    }

    pub(super) fn user_name(&self, uid: u32) -> String {
        self.with(|known| {
            let look = || User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
            known.user_names.entry(uid).or_insert_with(|| look().unwrap_or_else(|| uid.to_string())).clone()
        })
    }

    pub(super) fn group_name(&self, gid: u32) -> String {
        self.with(|known| {
            let look = || Group::from_gid(Gid::from_raw(gid)).ok().flatten().map(|group| group.name);
            known.group_names.entry(gid).or_insert_with(|| look().unwrap_or_else(|| gid.to_string())).clone()
        })
    }
}

/// A missing table, as in a bare root file system, means that there is no such account.
fn found<T>(answer: nix::Result<Option<T>>) -> io::Result<Option<T>> {
    use nix::errno::Errno;
    match answer {
        Ok(found) => Ok(found),
        Err(Errno::ENOENT | Errno::ESRCH | Errno::EBADF | Errno::EPERM) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn failed(verb: &str, name: &str, error: io::Error) -> Failure {
    Failure::new(format!("{verb} {name}"), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_both_ways_and_nobody_knows_the_rest() {
        let accounts = Accounts::default();
        for _ in 0..2 {
            assert_eq!(accounts.user("root").unwrap(), Some(0));
            assert_eq!(accounts.group("root").unwrap(), Some(0));
            assert_eq!(accounts.user("no-such-user").unwrap(), None);
            assert_eq!(accounts.user_name(0), "root");
            assert_eq!(accounts.group_name(0), "root");
            assert_eq!(accounts.user_name(4_000_000_001), "4000000001");
        }
    }
}

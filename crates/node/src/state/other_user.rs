//! `become: USER` on a state: its observing and changing done as that user.
//!
//! On Linux the user is a thread's own: a thread of its own takes the user on by the raw calls (the C library's would change
//! all threads), does the work and ends. What it opens, and what it starts, is that user's. A second process would
//! need the parameters, the forecast and the modules of a library user carried over to it.
//!
//! What this does not do: the thread shares the memory of the others. The kernel lets no process of that user look into it
//! or stop it for debugging, since the change of user marks the process so; but that user can end it with a signal.

use std::io;

use mainstay_module::Failure;
use nix::libc;
use nix::unistd::{Gid, Uid, User, geteuid, getgrouplist};

/// An account that states may be done as.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    pub uid: Uid,
    pub gid: Gid,
    groups: Vec<Gid>,
}

impl Account {
    /// Nothing if there is no such user.
    pub fn find(name: &str) -> Result<Option<Self>, Failure> {
        let failed = |words: String| Failure::new(format!("become {name}"), words);
        let Some(user) = User::from_name(name).map_err(|errno| failed(errno.desc().into()))? else {
            return Ok(None);
        };
        let name = std::ffi::CString::new(name).map_err(|_| failed("a name has no zero byte".into()))?;
        let groups = getgrouplist(&name, user.gid).map_err(|errno| failed(errno.desc().into()))?;
        Ok(Some(Self { uid: user.uid, gid: user.gid, groups }))
    }

    /// Does the work as this user.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Failure> {
        if geteuid() == self.uid {
            return Ok(work());
        }
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("state-as-user".into()).spawn_scoped(scope, || {
                self.take_on().map_err(|error| {
                    let failure = Failure::new(format!("become user {}", self.uid), error);
                    failure.hint("only root can become another user")
                })?;
                Ok(work())
            });
            let thread = thread.map_err(|error| Failure::new("start a thread", error))?;
            thread.join().unwrap_or_else(|_| Err(Failure::new("do this as another user", "it panicked")))
        })
    }

    fn take_on(&self) -> io::Result<()> {
        let groups: Vec<libc::gid_t> = self.groups.iter().map(|group| group.as_raw()).collect();
        let (uid, gid) = (self.uid.as_raw(), self.gid.as_raw());
        let checked = |result: libc::c_long| {
            if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
        };
        // SAFETY: the three calls read no memory but the list, which lives until after them. Each changes only the
        // calling thread, which nothing else uses and which ends with the work.
        unsafe {
            checked(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
            checked(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
            // Last: it takes the right to the others with it.
            checked(libc::syscall(libc::SYS_setresuid, uid, uid, uid))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn only_the_work_is_done_as_the_other_user() {
        if !geteuid().is_root() {
            eprintln!("skipped: only_the_work_is_done_as_the_other_user: it needs root");
            return;
        }
        let nobody = Account::find("nobody").unwrap().expect("every system has nobody");
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(directory.path(), Some(nobody.uid.as_raw()), None).unwrap();
        let (own, started) = (directory.path().join("own"), directory.path().join("started"));
        let groups = || {
            let ran = std::process::Command::new("id").arg("-G").output().unwrap();
            String::from_utf8(ran.stdout).unwrap()
        };
        let shadow = nobody
            .run(|| {
                std::fs::write(&own, "x").unwrap();
                let status = std::process::Command::new("touch").arg(&started).status().unwrap();
                assert!(status.success());
                // Nothing of root's is left: neither its own group nor further ones.
                assert!(groups().split_whitespace().all(|group| group != "0"), "{}", groups());
                assert_eq!(nix::unistd::getgroups().unwrap(), nobody.groups);
                std::fs::read("/etc/shadow")
            })
            .unwrap();
        assert_eq!(shadow.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        for path in [own, started] {
            assert_eq!(std::fs::metadata(path).unwrap().uid(), nobody.uid.as_raw());
        }
        assert!(geteuid().is_root());
        assert!(std::fs::read("/etc/shadow").is_ok());
        assert_eq!(Account::find("no-such-user-here").unwrap(), None);
    }
}

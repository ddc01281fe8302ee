//! The user that a command runs as, and the environment that it finds.
//!
//! Nothing of this process's own environment is passed on: it may hold tokens, and a state should find the same on
//! every machine, whether an agent, ssh or a person at a terminal brings it there.

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User, geteuid, getgrouplist};

/// Where programs are looked for. Root's search path of every common distribution, in its usual order.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Exists everywhere, its texts are UTF-8, and its messages are those that modules know to read.
const LANG: &str = "C.UTF-8";

pub(super) struct Account {
    name: String,
    home: PathBuf,
    shell: PathBuf,
    /// None: it is who this process is already.
    pub(super) identity: Option<Identity>,
}

/// Whom a command runs as, when not as this process's own user.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    pub(super) groups: Vec<Gid>,
}

impl Account {
    /// The account of this name, or the process's own. May ask the network (NSS), so it blocks.
    pub(super) fn named(user: Option<&str>) -> Result<Self, String> {
        let own = geteuid();
        let Some(user) = user else {
            return Ok(match User::from_uid(own) {
                Ok(Some(entry)) => Self::of(entry, None),
                // As in a container without a user database.
                _ => Self {
                    name: own.to_string(),
                    home: if own.is_root() { "/root" } else { "/" }.into(),
                    shell: "/bin/sh".into(),
                    identity: None,
                },
            });
        };
        let entry = User::from_name(user)
            .map_err(|error| format!("the user {user} cannot be looked up: {error}"))?
            .ok_or_else(|| format!("there is no user {user}"))?;
        if entry.uid == own && !own.is_root() {
            return Ok(Self::of(entry, None));
        }
        if !own.is_root() {
            return Err(format!("only root runs commands as another user, here {user}"));
        }
        let name = CString::new(entry.name.as_str()).map_err(|_| format!("there is no user {user:?}"))?;
        let groups = getgrouplist(&name, entry.gid)
            .map_err(|error| format!("the groups of {user} cannot be looked up: {error}"))?;
        let identity = Identity { uid: entry.uid, gid: entry.gid, groups };
        Ok(Self::of(entry, Some(identity)))
    }

    fn of(entry: User, identity: Option<Identity>) -> Self {
        Self { name: entry.name, home: entry.dir, shell: entry.shell, identity }
    }

    /// The whole environment, what is given winning.
    pub(super) fn environment(
        &self,
        given: &BTreeMap<String, String>,
        scratch: Option<&Path>,
    ) -> Result<BTreeMap<OsString, OsString>, String> {
        let mut variables: BTreeMap<OsString, OsString> = [
            ("PATH", PATH.into()),
            ("HOME", self.home.clone().into_os_string()),
            ("USER", self.name.clone().into()),
            ("LOGNAME", self.name.clone().into()),
            ("SHELL", self.shell.clone().into_os_string()),
            ("LANG", LANG.into()),
        ]
        .into_iter()
        .map(|(name, value): (&str, OsString)| (name.into(), value))
        .collect();
        if let Some(scratch) = scratch {
            variables.insert("TMPDIR".into(), scratch.into());
        }
        for (name, value) in given {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(format!("env: {name:?} cannot be a name"));
            }
            if value.contains('\0') {
                // The value may be a secret.
                return Err(format!("env: the value of {name} holds a zero byte"));
            }
            variables.insert(name.into(), value.into());
        }
        Ok(variables)
    }
}

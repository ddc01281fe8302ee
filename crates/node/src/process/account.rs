//! The user that a program runs as, and the environment that it finds.
//!
//! Nothing of the agent's own environment is passed on but its language: it may hold tokens, and a command
//! should find the same on every node. What there is, is what a login gives: `PATH`, `HOME`, `USER`, `LOGNAME`,
//! `SHELL`, `LANG`; then what the message gives; then the mark by which leftovers are found.

use std::ffi::{CString, OsString};
use std::path::PathBuf;
use std::sync::OnceLock;

use nix::unistd::{Gid, Uid, User, geteuid, getgrouplist};

use super::spawn::Identity;

/// Where programs are looked for, unless the message gives its own `PATH`. Root's search path of every
/// common distribution, in its usual order.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A language that exists everywhere and whose texts are UTF-8.
const LANG: &str = "C.UTF-8";

#[derive(Clone, Debug)]
pub(super) struct Account {
    name: String,
    pub(super) home: PathBuf,
    shell: PathBuf,
    /// `None`: it is who the agent is already.
    pub(super) identity: Option<Identity>,
}

/// Why nobody can be run as. It does not name the user, which is a sealed field.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum AccountError {
    #[error("user: no such user on this node")]
    Unknown,
    #[error("user: this node does not run as root, so it runs programs only as its own user")]
    NotRoot,
    #[error("user: it cannot be looked up: {0}")]
    LookUp(nix::Error),
}

impl Account {
    /// The account of this name, or the agent's own. May ask the network (NSS), so it blocks.
    pub(super) fn named(user: Option<&str>) -> Result<Self, AccountError> {
        let Some(user) = user else {
            static OWN: OnceLock<Account> = OnceLock::new();
            return Ok(OWN.get_or_init(Self::own).clone());
        };
        let entry = User::from_name(user).map_err(AccountError::LookUp)?.ok_or(AccountError::Unknown)?;
        let own = geteuid();
        let identity = if entry.uid == own && (!own.is_root() || entry.gid.as_raw() == 0) {
            None
        } else if !own.is_root() {
            return Err(AccountError::NotRoot);
        } else {
            Some(Identity {
                uid: entry.uid.as_raw(),
                gid: entry.gid.as_raw(),
                groups: groups(&entry.name, entry.gid).map_err(AccountError::LookUp)?,
            })
        };
        Ok(Self::of(entry, identity))
    }

    fn own() -> Self {
        let uid = geteuid();
        match User::from_uid(uid) {
            Ok(Some(entry)) => Self::of(entry, None),
            // As in a container without a user database.
            _ => Self {
                name: uid.to_string(),
                home: if uid == Uid::from_raw(0) { "/root" } else { "/" }.into(),
                shell: "/bin/sh".into(),
                identity: None,
            },
        }
    }

    fn of(entry: User, identity: Option<Identity>) -> Self {
        Self { name: entry.name, home: entry.dir, shell: entry.shell, identity }
    }

    /// The whole environment: each name once, a later one winning.
    pub(super) fn environment(&self, given: &[(String, String)], mark: &str) -> Result<Environment, String> {
        let mut variables: Vec<(OsString, OsString)> = vec![
            ("PATH".into(), PATH.into()),
            ("HOME".into(), self.home.clone().into()),
            ("USER".into(), self.name.clone().into()),
            ("LOGNAME".into(), self.name.clone().into()),
            ("SHELL".into(), self.shell.clone().into()),
            ("LANG".into(), std::env::var_os("LANG").unwrap_or(LANG.into())),
        ];
        let (mark_name, mark_value) = mark.split_once('=').unwrap_or((mark, ""));
        let mark = [(mark_name.to_owned(), mark_value.to_owned())];
        for (name, value) in given.iter().chain(&mark) {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err("env: a name is empty or holds a = or a zero byte".to_owned());
            }
            if value.contains('\0') {
                return Err("env: a value holds a zero byte".to_owned());
            }
            variables.retain(|(known, _)| known != name.as_str());
            variables.push((name.into(), value.into()));
        }
        let path = variables
            .iter()
            .find(|(name, _)| name == "PATH")
            .map(|(_, value)| value.clone())
            .unwrap_or_default();
        let entries = variables
            .into_iter()
            .map(|(mut name, value)| {
                name.push("=");
                name.push(value);
                CString::new(name.into_encoded_bytes())
            })
            .collect::<Result<_, _>>()
            .map_err(|_| "env: this node's own user has a zero byte in it".to_owned())?;
        Ok(Environment { entries, path })
    }
}

pub(super) struct Environment {
    /// `NAME=value`.
    pub(super) entries: Vec<CString>,
    /// The value of `PATH`.
    pub(super) path: OsString,
}

fn groups(name: &str, gid: Gid) -> nix::Result<Vec<u32>> {
    let name = CString::new(name).map_err(|_| nix::Error::EINVAL)?;
    Ok(getgrouplist(&name, gid)?.into_iter().map(Gid::as_raw).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(environment: &Environment) -> Vec<String> {
        environment.entries.iter().map(|entry| entry.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn what_the_message_gives_wins_but_the_mark_stays() {
        let given = [
            ("PATH".to_owned(), "/opt/bin".to_owned()),
            ("A".to_owned(), "1".to_owned()),
            ("A".to_owned(), "2".to_owned()),
            ("MARK".to_owned(), "forged".to_owned()),
        ];
        let environment = Account::named(None).unwrap().environment(&given, "MARK=x:y").unwrap();
        let text = text(&environment);
        assert_eq!(environment.path, "/opt/bin");
        for (name, value) in [("PATH", "/opt/bin"), ("A", "2"), ("MARK", "x:y")] {
            let found: Vec<_> = text.iter().filter(|e| e.starts_with(&format!("{name}="))).collect();
            assert_eq!(found, [&format!("{name}={value}")]);
        }
        // The test runner sets this one; it must not get through.
        assert!(!text.iter().any(|entry| entry.starts_with("CARGO")));
    }

    #[test]
    fn what_cannot_be_an_environment_is_refused_without_being_repeated() {
        let account = Account::named(None).unwrap();
        for (name, value) in [("", "x"), ("a=b", "x"), ("a\0", "x"), ("a", "secret\0")] {
            let error = account.environment(&[(name.to_owned(), value.to_owned())], "M=1").err().unwrap();
            assert!(error.starts_with("env: ") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn unknown_users_are_refused_without_being_named() {
        let error = Account::named(Some("no-such-user-here")).unwrap_err();
        assert_eq!(error, AccountError::Unknown);
        assert!(!error.to_string().contains("no-such-user"));
    }
}

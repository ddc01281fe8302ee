//! The operator's own file: which hubs were logged in to, and with what token.
//!
//! `~/.config/mainstay/config.toml`, readable by its owner alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mainstay_control::view::{Problem, ProblemKind};
use serde::{Deserialize, Serialize};

use crate::config::file;

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logins {
    /// The hub that commands go to when nothing else is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// By `https://host:port`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hubs: BTreeMap<String, Login>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    pub token: String,
    pub ca_fingerprint: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login({})", self.ca_fingerprint)
    }
}

impl Logins {
    /// No file is no login.
    pub fn load() -> Result<Self, Problem> {
        path().map_or_else(|| Ok(Self::default()), |path| Self::load_from(&path))
    }

    fn load_from(path: &Path) -> Result<Self, Problem> {
        Ok(file::read(path)?.unwrap_or_default())
    }

    pub fn save(&self) -> Result<PathBuf, Problem> {
        let path = path().ok_or_else(|| {
            Problem::new(ProblemKind::Invalid, "there is no home directory to keep a login in")
                .hint("set HOME or XDG_CONFIG_HOME")
        })?;
        self.save_to(&path)?;
        Ok(path)
    }

    fn save_to(&self, path: &Path) -> Result<(), Problem> {
        let text = toml_edit::ser::to_string_pretty(self)
            .map_err(|e| Problem::new(ProblemKind::Internal, format!("the logins cannot be written: {e}")))?;
        file::write(path, &text)
    }
}

fn path() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")))?;
    Some(base.join("mainstay").join("config.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn logins_are_kept_for_their_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new").join("config.toml");
        assert_eq!(Logins::load_from(&path).unwrap(), Logins::default());
        let login = Login { token: "secret".into(), ca_fingerprint: "abc".into() };
        let logins = Logins {
            default: Some("https://hub:7421".into()),
            hubs: [("https://hub:7421".to_owned(), login)].into(),
        };
        logins.save_to(&path).unwrap();
        assert_eq!(Logins::load_from(&path).unwrap(), logins);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!format!("{logins:?}").contains("secret"));
    }
}

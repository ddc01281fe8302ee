//! Places on the machine whose content nobody may see, whoever looks: what a secret went into stays one on disk.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use super::real_path;
use crate::replacement::backup_path;

/// Files that hold secrets, by the names that they are known under and by where these lead.
#[derive(Debug, Default)]
pub struct Hidden {
    /// Whether all beneath it is hidden too.
    places: RwLock<BTreeMap<PathBuf, bool>>,
}

impl Hidden {
    /// The file at this path, or what will be there, and the copy that is kept when it is replaced. `beneath`: what is in it
    /// as well, if it is a directory.
    pub fn add(&self, path: &Path, beneath: bool) {
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        for path in [path.to_owned(), real_path(path)] {
            for path in [backup_path(&path), path] {
                *places.entry(path).or_default() |= beneath;
            }
        }
    }

    /// Whether what is at this path may not be shown, by whichever name it was added.
    pub fn holds(&self, path: &Path) -> bool {
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        if places.is_empty() {
            return false;
        }
        let is_in = |path: &Path| {
            let mut above = path.ancestors().skip(1);
            places.contains_key(path) || above.any(|above| places.get(above) == Some(&true))
        };
        let is_another_name = || {
            let Some(own) = fs::metadata(path).ok().filter(|meta| meta.nlink() > 1) else { return false };
            let is_own = |other: fs::Metadata| (other.dev(), other.ino()) == (own.dev(), own.ino());
            places.keys().any(|place| fs::metadata(place).is_ok_and(is_own))
        };
        is_in(path) || is_in(&real_path(path)) || is_another_name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_is_hidden_by_all_its_names() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("real")).unwrap();
        fs::write(at("real/file"), "").unwrap();
        symlink("real", at("alias")).unwrap();
        symlink("real/file", at("link")).unwrap();
        symlink("alias/to-come", at("dangling")).unwrap();
        fs::hard_link(at("real/file"), at("hard")).unwrap();
        let held = |added: &str, beneath: bool| {
            let hidden = Hidden::default();
            hidden.add(&at(added), beneath);
            let names = [
                "real",
                "real/file",
                "alias/file",
                "link",
                "hard",
                "real/other",
                "real/file.bak",
                "real/to-come",
            ];
            names.into_iter().filter(|name| hidden.holds(&at(name))).collect::<Vec<_>>()
        };
        let file = ["real/file", "alias/file", "link", "hard"];
        for name in ["real/file", "alias/file", "link"] {
            assert_eq!(held(name, false), [&file[..], &["real/file.bak"]].concat(), "{name}");
        }
        assert_eq!(held("hard", false), file);
        assert_eq!(held("dangling", false), ["real/to-come"]);
        assert_eq!(held("real", false), ["real"]);
        let tree = ["real", "real/file", "alias/file", "link", "real/other", "real/file.bak", "real/to-come"];
        assert_eq!(held("alias", true), tree);
        assert!(!Hidden::default().holds(&at("real/file")));
    }
}

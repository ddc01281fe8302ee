//! Where a path leads.

use std::fs;
use std::path::{Path, PathBuf};

use crate::standing::MAX_LINKS;

/// Where a path leads, links in all its parts followed, those to what is not there too. What is not there yet is as it is
/// written.
pub(crate) fn real_path(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let known = path.ancestors().find_map(|above| Some((above, fs::canonicalize(above).ok()?)));
        let Some((above, real)) = known else { return path };
        let rest: PathBuf = path.strip_prefix(above).unwrap_or(Path::new("")).components().collect();
        let mut parts = rest.components();
        let Some(first) = parts.next() else { return real };
        match fs::read_link(real.join(first)) {
            Ok(target) => path = real.join(target).join(parts.as_path()),
            Err(_) => return real.join(rest),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_path_leads_where_its_links_do() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        fs::create_dir(real.join("there")).unwrap();
        for (target, link) in [("there", "link"), ("link/to-come", "dangling"), ("circle", "circle")] {
            symlink(target, real.join(link)).unwrap();
        }
        for (path, leads) in [
            ("there", "there"),
            ("link", "there"),
            ("link/to/come", "there/to/come"),
            ("dangling", "there/to-come"),
            ("dangling/in/it/", "there/to-come/in/it"),
            ("nowhere", "nowhere"),
            ("circle", "circle"),
        ] {
            assert_eq!(real_path(&real.join(path)), real.join(leads), "{path}");
        }
    }
}

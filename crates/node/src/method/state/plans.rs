//! The plans that this node made and that may still be approved: one file each, named after its content.
//!
//! A plan is on disk before the node tells of it. What is approved is what stands in the file, so an approval
//! cannot be made to mean anything that this node did not find itself.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use mainstay_core::state::plan::Plan;

/// Plans kept; the oldest go first. An approval of one that is gone is refused, and a new plan is made.
const KEPT: usize = 64;

pub struct Plans {
    directory: PathBuf,
}

impl Plans {
    /// Those in `<data>/plans`.
    pub fn new(data: &Path) -> Self {
        Self { directory: data.join("plans") }
    }

    /// Durable when this returns.
    pub fn keep(&self, plan: &Plan) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let bytes = rmp_serde::to_vec_named(plan).map_err(io::Error::other)?;
        let name = plan.content_digest();
        let beside = self.directory.join(format!(".{name}.{}", std::process::id()));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&beside, self.directory.join(&name))?;
        self.prune()?;
        File::open(&self.directory)?.sync_all()
    }

    /// The plan of this name, if it is kept and is what its name says.
    pub fn find(&self, name: &str) -> Option<Plan> {
        let is_digest = name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
        let bytes = is_digest.then(|| fs::read(self.directory.join(name)).ok()).flatten()?;
        let plan: Plan = rmp_serde::from_slice(&bytes).ok()?;
        (plan.content_digest() == name).then_some(plan)
    }

    fn prune(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            files.push((entry.metadata()?.modified()?, entry.path()));
        }
        files.sort();
        for (_, path) in files.iter().rev().skip(KEPT) {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mainstay_core::state::catalog::CatalogDigest;

    fn plan(cycle: u32) -> Plan {
        let catalog = CatalogDigest("c".into());
        Plan {
            catalog,
            machine: "m".into(),
            cycle,
            steps: Vec::new(),
            orphans: Vec::new(),
            stable: true,
            ran: Vec::new(),
        }
    }

    #[test]
    fn only_what_was_kept_and_is_whole_is_found() {
        let data = tempfile::tempdir().unwrap();
        let plans = Plans::new(data.path());
        assert_eq!(plans.find(&plan(1).content_digest()), None);
        plans.keep(&plan(1)).unwrap();
        assert_eq!(plans.find(&plan(1).content_digest()), Some(plan(1)));
        for name in ["../identity.key", "", "plans", &"a".repeat(64)] {
            assert_eq!(plans.find(name), None);
        }
        // A file that says something else than its name.
        let path = data.path().join("plans").join(plan(2).content_digest());
        fs::write(&path, rmp_serde::to_vec_named(&plan(3)).unwrap()).unwrap();
        assert_eq!(plans.find(&plan(2).content_digest()), None);
    }

    #[test]
    fn the_oldest_go_first() {
        let data = tempfile::tempdir().unwrap();
        let plans = Plans::new(data.path());
        for cycle in 0..=KEPT as u32 {
            plans.keep(&plan(cycle)).unwrap();
            let file = File::open(data.path().join("plans").join(plan(cycle).content_digest())).unwrap();
            let made = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(u64::from(cycle));
            file.set_modified(made).unwrap();
        }
        plans.prune().unwrap();
        assert_eq!(plans.find(&plan(0).content_digest()), None);
        assert!(plans.find(&plan(1).content_digest()).is_some());
        assert!(plans.find(&plan(KEPT as u32).content_digest()).is_some());
    }
}

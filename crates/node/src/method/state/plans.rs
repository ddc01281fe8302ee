//! The plans that this node made and that may still be approved: one file each, named after its content.
//!
//! A plan is written while it is made, step by step, and read back to be told: one of ten thousand steps never lies in memory.
//! It is on disk before the node tells of it. What is approved is what stands in the file, so an approval cannot be
//! made to mean anything that this node did not find itself.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Seek as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use mainstay_core::state::plan::{PlanDigest, PlanHead, PlanStep};
use serde::{Deserialize, Serialize};

/// Plans kept; the oldest go first. An approval of one that is gone is refused, and a new plan is made.
const KEPT: usize = 64;

/// Names those of this process.
static DRAFTS: AtomicU64 = AtomicU64::new(0);

pub struct Plans {
    directory: PathBuf,
}

/// A plan that is being written. Dropped, it was none.
pub struct Draft {
    writer: BufWriter<File>,
    place: Place,
    digest: PlanDigest,
}

/// A plan that is written, or was found. Dropped without [`Plans::keep`], one that is not kept is gone.
pub struct Written {
    pub head: PlanHead,
    /// The plan's [`content_digest`](mainstay_core::state::plan::Plan::content_digest).
    pub name: String,
    file: File,
    place: Place,
}

/// What a plan's file is made of: its steps in the order of turns, and what it says beside them.
#[derive(Serialize, Deserialize)]
enum Record {
    Step(PlanStep),
    Head(PlanHead),
}

/// A name that is removed unless it was given up.
struct Place(Option<PathBuf>);

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

impl Plans {
    /// Those in `<data>/plans`.
    pub fn new(data: &Path) -> Self {
        Self { directory: data.join("plans") }
    }

    pub fn draft(&self) -> io::Result<Draft> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let number = DRAFTS.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(format!(".{}-{number}", std::process::id()));
        // One that a crash left has nobody who writes to it.
        let mut open = OpenOptions::new();
        let file = open.read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        let (writer, place) = (BufWriter::new(file), Place(Some(path)));
        Ok(Draft { writer, place, digest: PlanDigest::default() })
    }

    /// Durable when this returns.
    pub fn keep(&self, plan: &mut Written) -> io::Result<()> {
        plan.file.sync_all()?;
        if let Some(path) = &plan.place.0 {
            fs::rename(path, self.directory.join(&plan.name))?;
        }
        plan.place.0 = None;
        // It was made anew, so it may be applied anew.
        let _ = fs::remove_file(self.used(&plan.name));
        self.prune()?;
        File::open(&self.directory)?.sync_all()
    }

    fn used(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.used"))
    }

    /// From now on it is not found: it is about to be applied. Durable when this returns.
    pub fn use_up(&self, name: &str) -> io::Result<()> {
        fs::rename(self.directory.join(name), self.used(name))?;
        File::open(&self.directory)?.sync_all()
    }

    /// Nothing came of it: the plan can be applied after all.
    pub fn put_back(&self, name: &str) -> io::Result<()> {
        fs::rename(self.used(name), self.directory.join(name))
    }

    /// Whether the plan of this name was used up, as far as that is remembered.
    pub fn is_used(&self, name: &str) -> bool {
        is_digest(name) && self.used(name).exists()
    }

    /// The plan of this name, if it is kept, is what its name says and was not used up.
    pub fn find(&self, name: &str) -> Option<Written> {
        let file = is_digest(name).then(|| File::open(self.directory.join(name)).ok()).flatten()?;
        let mut reader = BufReader::new(file.try_clone().ok()?);
        let mut digest = PlanDigest::default();
        let head = loop {
            match rmp_serde::from_read(&mut reader).ok()? {
                Record::Step(step) => digest.step(&step),
                Record::Head(head) => break head,
            }
        };
        let is_whole = digest.content(&head) == name;
        is_whole.then(|| Written { head, name: name.to_owned(), file, place: Place(None) })
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

impl Draft {
    /// In the order of turns.
    pub fn step(&mut self, step: PlanStep) -> io::Result<()> {
        self.digest.step(&step);
        record(&mut self.writer, &Record::Step(step))
    }

    pub fn end(mut self, head: PlanHead) -> io::Result<Written> {
        let name = self.digest.content(&head);
        record(&mut self.writer, &Record::Head(head.clone()))?;
        let file = self.writer.into_inner()?;
        Ok(Written { head, name, file, place: self.place })
    }
}

fn is_digest(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

fn record(writer: &mut impl io::Write, record: &Record) -> io::Result<()> {
    rmp_serde::encode::write_named(writer, record).map_err(io::Error::other)
}

impl Written {
    /// Its steps again.
    pub fn steps(&self) -> io::Result<impl Iterator<Item = io::Result<PlanStep>>> {
        let mut reader = BufReader::new(self.file.try_clone()?);
        reader.rewind()?;
        Ok(std::iter::from_fn(move || match reader.fill_buf() {
            Ok([]) => None,
            Ok(_) => match rmp_serde::from_read(&mut reader) {
                Ok(Record::Step(step)) => Some(Ok(step)),
                Ok(Record::Head(_)) => None,
                Err(error) => Some(Err(io::Error::other(error))),
            },
            Err(error) => Some(Err(error)),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mainstay_core::state::StepWord;
    use mainstay_core::state::catalog::CatalogDigest;
    use mainstay_core::state::plan::{Change, Datum, Plan};

    fn step(id: &str) -> PlanStep {
        PlanStep {
            state: id.into(),
            module: "file".into(),
            step: StepWord::Change,
            reason: None,
            changes: vec![Change::new("content", Datum::Absent, Datum::known("a")).diff("+a")],
            refresh: None,
        }
    }

    fn plan(cycle: u32) -> Plan {
        let head = PlanHead::new(CatalogDigest("c".into()), "m", cycle);
        Plan { head, steps: vec![step("a"), step("b")] }
    }

    fn write(plans: &Plans, plan: &Plan) -> Written {
        let mut draft = plans.draft().unwrap();
        plan.steps.iter().for_each(|step| draft.step(step.clone()).unwrap());
        draft.end(plan.head.clone()).unwrap()
    }

    fn told(plan: &Written) -> Vec<PlanStep> {
        plan.steps().unwrap().collect::<io::Result<_>>().unwrap()
    }

    fn keep(plans: &Plans, plan: &Plan) {
        plans.keep(&mut write(plans, plan)).unwrap();
    }

    #[test]
    fn only_what_was_kept_and_is_whole_is_found() {
        let data = tempfile::tempdir().unwrap();
        let plans = Plans::new(data.path());
        let find = |name: &str| {
            let found = plans.find(name)?;
            Some(Plan { steps: told(&found), head: found.head.clone() })
        };
        assert_eq!(find(&plan(1).content_digest()), None);
        keep(&plans, &plan(1));
        for _ in 0..2 {
            assert_eq!(find(&plan(1).content_digest()), Some(plan(1)));
        }
        for name in ["../identity.key", "", "plans", &"a".repeat(64)] {
            assert_eq!(find(name), None);
        }
        // A file that says something else than its name, and one that is cut off.
        let kept = data.path().join("plans").join(plan(1).content_digest());
        let path = data.path().join("plans").join(plan(2).content_digest());
        fs::copy(&kept, &path).unwrap();
        assert_eq!(find(&plan(2).content_digest()), None);
        let whole = fs::read(&kept).unwrap();
        for length in 0..whole.len() {
            fs::write(&kept, &whole[..length]).unwrap();
            assert_eq!(find(&plan(1).content_digest()), None);
        }
    }

    #[test]
    fn what_was_written_is_told_whole_and_goes_unless_it_is_kept() {
        let data = tempfile::tempdir().unwrap();
        let plans = Plans::new(data.path());
        let files = || fs::read_dir(data.path().join("plans")).unwrap().count();
        let mut written = write(&plans, &plan(1));
        assert_eq!((told(&written), files()), (plan(1).steps, 1));
        drop(write(&plans, &plan(2)));
        drop(plans.draft().unwrap());
        plans.keep(&mut written).unwrap();
        assert_eq!(told(&written), plan(1).steps);
        drop(written);
        assert_eq!(files(), 1);
    }

    #[test]
    fn a_plan_that_was_used_up_is_not_found_until_it_is_made_anew() {
        let data = tempfile::tempdir().unwrap();
        let plans = Plans::new(data.path());
        let name = plan(1).content_digest();
        keep(&plans, &plan(1));
        let found = plans.find(&name).unwrap();
        plans.use_up(&name).unwrap();
        assert_eq!((plans.find(&name).is_some(), plans.is_used(&name)), (false, true));
        assert_eq!(told(&found), plan(1).steps, "whoever uses it reads it still");
        plans.put_back(&name).unwrap();
        assert_eq!((plans.find(&name).is_some(), plans.is_used(&name)), (true, false));
        plans.use_up(&name).unwrap();
        keep(&plans, &plan(1));
        assert_eq!((plans.find(&name).is_some(), plans.is_used(&name)), (true, false));
    }

    #[test]
    fn the_oldest_go_first() {
        let data = tempfile::tempdir().unwrap();
        let plans = Plans::new(data.path());
        for cycle in 0..=KEPT as u32 {
            keep(&plans, &plan(cycle));
            let file = File::open(data.path().join("plans").join(plan(cycle).content_digest())).unwrap();
            let made = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(u64::from(cycle));
            file.set_modified(made).unwrap();
        }
        plans.prune().unwrap();
        assert!(plans.find(&plan(0).content_digest()).is_none());
        assert!(plans.find(&plan(1).content_digest()).is_some());
        assert!(plans.find(&plan(KEPT as u32).content_digest()).is_some());
    }
}

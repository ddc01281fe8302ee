//! What is mounted where, as the kernel tells it.

use std::path::{Path, PathBuf};

use super::unescape;
use crate::failure::Failure;
use crate::host::View;

const TOLD: &str = "/proc/self/mountinfo";

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Attached {
    id: String,
    /// The mount that this one is mounted on.
    parent: String,
    /// The file system's major and minor number. The first is 0 for one without a device.
    pub device: String,
    /// Which part of the file system is mounted.
    pub root: PathBuf,
    pub place: PathBuf,
    /// Those of the mount itself.
    options: String,
    /// Those of the file system, however often it is mounted.
    super_options: String,
    pub fstype: String,
    pub source: String,
}

impl Attached {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(' ');
        let mut next = || fields.next().map(unescape);
        let (id, parent, device, root) = (next()?, next()?, next()?, next()?.into());
        let (place, options) = (next()?.into(), next()?);
        let mut fields = fields.skip_while(|field| *field != "-").skip(1).map(unescape);
        let (fstype, source, super_options) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Self { id, parent, device, root, place, options, super_options, fstype, source })
    }

    pub fn is_of_device(&self) -> bool {
        !self.device.starts_with("0:")
    }

    pub fn super_option(&self, name: &str) -> Option<&str> {
        self.super_options.split(',').find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    }

    /// All options that are in force, each once.
    pub fn all_options(&self) -> String {
        let mut all: Vec<&str> = Vec::new();
        for option in self.options.split(',').chain(self.super_options.split(',')) {
            if !all.contains(&option) {
                all.push(option);
            }
        }
        all.join(",")
    }
}

impl std::fmt::Display for Attached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} from {}", self.fstype, self.source)?;
        match self.root == Path::new("/") {
            true => Ok(()),
            false => write!(f, ", of it {}", self.root.display()),
        }
    }
}

/// All mounts that this process can see.
pub(super) struct Tree(Vec<Attached>);

impl Tree {
    pub fn look(view: &View) -> Result<Self, Failure> {
        let bytes = view.read(Path::new(TOLD))?.unwrap_or_default();
        Ok(Self::parse(&String::from_utf8_lossy(&bytes)))
    }

    pub(super) fn parse(text: &str) -> Self {
        Self(text.lines().filter_map(Attached::parse).collect())
    }

    /// What is mounted just there, the uppermost first. What lies hidden under a mount further up is not there.
    pub fn at(&self, place: &Path) -> Vec<&Attached> {
        self.way(place, &[]).into_iter().rev().take_while(|mount| mount.place == place).collect()
    }

    /// The mount that would hold a path without links if some others were not there.
    pub fn holder(&self, path: &Path, without: &[&Attached]) -> Option<&Attached> {
        self.way(path, without).pop()
    }

    /// The mounts that one passes on the way to a path without links.
    fn way(&self, path: &Path, without: &[&Attached]) -> Vec<&Attached> {
        let mut way: Vec<&Attached> = Vec::new();
        let mut places: Vec<&Path> = path.ancestors().collect();
        places.reverse();
        for place in places {
            // There may be several, one over the other.
            let on = |below: Option<&Attached>| {
                let is_next = |mount: &&Attached| mount.place == place && self.is_on(mount, below);
                self.0.iter().filter(is_next).find(|mount| !without.contains(mount))
            };
            while let Some(mount) = on(way.last().copied()) {
                way.push(mount);
            }
        }
        way
    }

    fn is_on(&self, mount: &Attached, below: Option<&Attached>) -> bool {
        match below {
            Some(below) => mount.parent == below.id && mount.id != below.id,
            // On what is out of sight: the first root, or all outside of a changed one.
            None => mount.parent == mount.id || !self.0.iter().any(|other| other.id == mount.parent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_at_a_place_is_what_one_finds_there() {
        let tree = Tree::parse(
            "27 1 254:0 / / rw - ext4 /dev/vda rw\n\
             30 27 0:30 / /srv rw shared:1 - tmpfs a rw\n\
             33 31 0:33 / /srv rw - tmpfs c rw\n\
             31 30 0:31 / /srv rw - tmpfs b rw\n\
             40 27 0:40 / /mnt/below rw - tmpfs hidden rw\n\
             41 27 0:41 / /mnt rw,nosuid shared:1 master:2 - tmpfs over rw,size=1k\n\
             50 41 0:50 / /mnt/my\\040data rw - tmpfs d rw\n",
        );
        let at = |place: &str| -> Vec<&str> {
            tree.at(Path::new(place)).iter().map(|mount| mount.id.as_str()).collect()
        };
        assert_eq!(at("/srv"), ["33", "31", "30"]);
        assert_eq!(at("/mnt/my data"), ["50"]);
        assert_eq!(at("/"), ["27"]);
        for nothing in ["/mnt/below", "/srv/x", "/mnt/my"] {
            assert!(at(nothing).is_empty(), "{nothing}");
        }
        assert_eq!(tree.at(Path::new("/mnt"))[0].all_options(), "rw,nosuid,size=1k");
        // In a root that is no mount itself.
        let tree = Tree::parse("60 27 0:60 / /proc rw - proc proc rw\n61 60 0:61 / /proc rw - tmpfs x rw\n");
        assert_eq!(tree.at(Path::new("/proc")).len(), 2);
        // The kernel's first root is its own parent.
        let tree = Tree::parse("1 1 0:2 / / rw - rootfs rootfs rw\n27 1 254:0 / / rw - ext4 /dev/vda rw\n");
        assert_eq!(tree.at(Path::new("/")).len(), 2);
    }
}

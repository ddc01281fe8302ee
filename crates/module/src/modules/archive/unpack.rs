//! Reading archives and writing what is in them beneath one directory.
//!
//! An archive comes from elsewhere. Refused as a whole are: paths that are absolute or hold `..`, links that lead out of
//! the directory, things beneath a link, hard links to what is not in the archive, devices and pipes, and more than
//! a machine should take. Setuid and its kin are dropped. Every path is resolved beneath a handle of the
//! directory, so that not even a link that was there before leads out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Permissions};
use std::io::{self, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt};
use nix::fcntl::AtFlags;
use nix::unistd::{Gid, Uid, fchownat, syncfs};

use super::Packed;
use crate::host::Ownership;

/// Most bytes that come out of one archive: a small one can be made to unpack without end.
pub const MAX_UNPACKED: u64 = 16 << 30;
/// As [`MAX_UNPACKED`], in files and directories.
pub const MAX_THINGS: usize = 1_000_000;
/// A target of a link is a path.
const MAX_TARGET: u64 = 4096;

/// How an archive is packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Format {
    Tar,
    TarGzip,
    TarXz,
    TarZstd,
    Zip,
}

impl Format {
    fn of(start: &[u8]) -> Option<Self> {
        match start {
            [0x1f, 0x8b, ..] => Some(Self::TarGzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::TarXz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::TarZstd),
            [b'P', b'K', 3 | 5, 4 | 6, ..] => Some(Self::Zip),
            _ if start.get(257..262) == Some(b"ustar") => Some(Self::Tar),
            _ => None,
        }
    }
}

/// One thing in an archive.
struct Item {
    path: PathBuf,
    kind: ItemKind,
    mode: u32,
    modified: Option<SystemTime>,
}

enum ItemKind {
    Directory,
    File {
        size: u64,
    },
    Link {
        target: PathBuf,
    },
    /// Another name of a file that came before.
    Hard {
        of: PathBuf,
    },
}

/// Looks at all that is in an archive, and writes nothing.
pub fn survey(packed: &Packed<'_>, strip: u32) -> Result<(), String> {
    let mut rules = Rules::default();
    each(packed, strip, &mut |item, _| rules.admit(item))
}

/// What may be in one archive.
#[derive(Default)]
struct Rules {
    things: usize,
    bytes: u64,
    links: BTreeSet<PathBuf>,
    files: BTreeSet<PathBuf>,
}

impl Rules {
    fn admit(&mut self, item: &Item) -> Result<(), String> {
        let path = &item.path;
        let shown = path.display();
        self.things += 1;
        if self.things > MAX_THINGS {
            return Err(format!("the archive holds more than {MAX_THINGS} things"));
        }
        if path.ancestors().skip(1).any(|above| self.links.contains(above)) {
            return Err(format!("{shown} in the archive is beneath a link"));
        }
        match &item.kind {
            ItemKind::Directory => {}
            ItemKind::File { size } => {
                self.bytes = self.bytes.saturating_add(*size);
                if self.bytes > MAX_UNPACKED {
                    return Err(format!("the archive unpacks to more than {} GiB", MAX_UNPACKED >> 30));
                }
                self.links.remove(path);
                self.files.insert(path.clone());
            }
            ItemKind::Link { target } => {
                if leads_out(path, target) {
                    return Err(format!(
                        "the link {shown} in the archive leads out, to {}",
                        target.display()
                    ));
                }
                self.links.insert(path.clone());
            }
            ItemKind::Hard { of } => {
                if !self.files.contains(of) {
                    let of = of.display();
                    return Err(format!(
                        "{shown} in the archive is a hard link to {of}, which is no file in it"
                    ));
                }
                self.files.insert(path.clone());
            }
        }
        Ok(())
    }
}

/// Judged by the words alone, which is enough as nothing is beneath a link.
fn leads_out(path: &Path, target: &Path) -> bool {
    let mut depth = path.components().count() - 1;
    for part in target.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            _ => return true,
        }
    }
    false
}

/// Writes all that is in an archive beneath `path`. [`survey`] has to have admitted it.
pub fn unpack(packed: &Packed<'_>, strip: u32, path: &Path, ownership: Ownership) -> Result<(), String> {
    let root = Dir::open_ambient_dir(path, ambient_authority()).map_err(|error| error.to_string())?;
    let mut rules = Rules::default();
    let mut writer = Writer { root: &root, ownership, directories: BTreeMap::new() };
    each(packed, strip, &mut |item, reader| {
        rules.admit(item)?;
        writer.put(item, reader).map_err(|error| format!("{}: {error}", item.path.display()))
    })?;
    writer.finish().map_err(|error| error.to_string())?;
    // One call for all, since what was unpacked counts only together.
    let directory = File::open(path).map_err(|error| error.to_string())?;
    syncfs(directory).map_err(|error| error.to_string())
}

struct Writer<'a> {
    root: &'a Dir,
    ownership: Ownership,
    /// Directories that are known to be there, and the mode that those get that the archive names: at the end, since they may
    /// not be writable then.
    directories: BTreeMap<PathBuf, Option<u32>>,
}

impl Writer<'_> {
    fn put(&mut self, item: &Item, reader: &mut dyn Read) -> io::Result<()> {
        let path = &item.path;
        if let ItemKind::Directory = item.kind {
            self.directory(path)?;
            self.directories.insert(path.clone(), Some(item.mode));
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        match self.root.symlink_metadata(path) {
            Ok(meta) if meta.is_dir() => return Err(io::Error::other("a directory is in its place")),
            Ok(_) => self.root.remove_file(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        match &item.kind {
            ItemKind::File { size } => {
                let mut options = OpenOptions::new();
                options.write(true).create_new(true).mode(0o600);
                let mut file = self.root.open_with(path, &options)?.into_std();
                let copied = io::copy(&mut reader.take(size + 1), &mut file)?;
                if copied != *size {
                    return Err(io::Error::other("it has another size than the archive says"));
                }
                self.own(path)?;
                file.set_permissions(Permissions::from_mode(item.mode & 0o777))?;
                if let Some(modified) = item.modified {
                    file.set_modified(modified)?;
                }
            }
            ItemKind::Link { target } => {
                self.root.symlink_contents(target, path)?;
                self.own(path)?;
            }
            ItemKind::Hard { of } => self.root.hard_link(of, self.root, path)?,
            ItemKind::Directory => {}
        }
        Ok(())
    }

    /// Makes a directory and those above it. A link in the way is not followed.
    fn directory(&mut self, path: &Path) -> io::Result<()> {
        if path.as_os_str().is_empty() || self.directories.contains_key(path) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        match self.root.symlink_metadata(path) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => {
                return Err(io::Error::other(format!("{} is there and is no directory", path.display())));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.root.create_dir(path)?;
                self.own(path)?;
            }
            Err(error) => return Err(error),
        }
        self.directories.insert(path.to_owned(), None);
        Ok(())
    }

    fn own(&self, path: &Path) -> io::Result<()> {
        let Ownership { uid, gid, .. } = self.ownership;
        if uid.is_none() && gid.is_none() {
            return Ok(());
        }
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        Ok(fchownat(self.root.as_fd(), path, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?)
    }

    fn finish(&self) -> io::Result<()> {
        // The innermost first: one that may not be entered hides those in it.
        for (path, mode) in self.directories.iter().rev() {
            let Some(mode) = mode.filter(|_| !path.as_os_str().is_empty()) else { continue };
            let permissions = Permissions::from_mode(mode & 0o777);
            self.root.set_permissions(path, cap_std::fs::Permissions::from_std(permissions))?;
        }
        Ok(())
    }
}

type Visit<'a> = &'a mut dyn FnMut(&Item, &mut dyn Read) -> Result<(), String>;

/// Visits all that is in an archive, in its order.
fn each(packed: &Packed<'_>, strip: u32, visit: Visit<'_>) -> Result<(), String> {
    let said = |error: io::Error| format!("the archive cannot be read: {error}");
    let mut start = Vec::new();
    packed.open().map_err(said)?.take(512).read_to_end(&mut start).map_err(said)?;
    let reader = BufReader::new(packed.open().map_err(said)?);
    match Format::of(&start) {
        Some(Format::Tar) => tar(reader, strip, visit),
        Some(Format::TarGzip) => tar(flate2::bufread::MultiGzDecoder::new(reader), strip, visit),
        Some(Format::TarXz) => tar(lzma_rust2::XzReader::new(reader, true), strip, visit),
        Some(Format::TarZstd) => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(reader)
                .map_err(|error| format!("the archive cannot be read: {error}"))?;
            tar(decoder, strip, visit)
        }
        Some(Format::Zip) => zip(packed, strip, visit),
        None => {
            Err("it is no archive of a kind that is known (tar, plain or with gzip, xz or zstd; zip)".into())
        }
    }
}

fn tar(reader: impl Read, strip: u32, visit: Visit<'_>) -> Result<(), String> {
    use ::tar::EntryType;
    let said = |error: io::Error| format!("the archive cannot be read: {error}");
    let mut archive = ::tar::Archive::new(reader);
    for entry in archive.entries().map_err(said)? {
        let mut entry = entry.map_err(said)?;
        let name = entry.path().map_err(said)?.into_owned();
        let header = entry.header();
        let mode = header.mode().map_err(said)?;
        let modified =
            header.mtime().ok().and_then(|at| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(at)));
        let kind = header.entry_type();
        let link = || -> Result<PathBuf, String> {
            let target = entry.link_name().map_err(said)?;
            target
                .map(|target| target.into_owned())
                .ok_or_else(|| format!("{} leads nowhere", name.display()))
        };
        let kind = match kind {
            EntryType::Directory => ItemKind::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                ItemKind::File { size: entry.size() }
            }
            EntryType::Symlink => ItemKind::Link { target: link()? },
            EntryType::Link => match plain(&link()?, strip)? {
                Some(of) => ItemKind::Hard { of },
                None => return Err(format!("{} is a hard link to what is left out", name.display())),
            },
            EntryType::XGlobalHeader => continue,
            _ => {
                return Err(format!("{} in the archive is neither file, directory nor link", name.display()));
            }
        };
        let Some(path) = plain(&name, strip)? else { continue };
        visit(&Item { path, kind, mode, modified }, &mut entry)?;
    }
    Ok(())
}

fn zip(packed: &Packed<'_>, strip: u32, visit: Visit<'_>) -> Result<(), String> {
    let said = |error: ::zip::result::ZipError| format!("the archive cannot be read: {error}");
    let reader = packed.open().map_err(|error| format!("the archive cannot be read: {error}"))?;
    let mut archive = ::zip::ZipArchive::new(BufReader::new(reader)).map_err(said)?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(said)?;
        let name = PathBuf::from(entry.name().map_err(said)?.into_owned());
        let directory = entry.is_dir();
        let mode = entry.unix_mode().unwrap_or(if directory { 0o755 } else { 0o644 });
        let kind = if directory {
            ItemKind::Directory
        } else if entry.is_symlink() {
            let mut target = String::new();
            (&mut entry)
                .take(MAX_TARGET)
                .read_to_string(&mut target)
                .map_err(|error| format!("the archive cannot be read: {error}"))?;
            ItemKind::Link { target: target.into() }
        } else {
            ItemKind::File { size: entry.size() }
        };
        let Some(path) = plain(&name, strip)? else { continue };
        visit(&Item { path, kind, mode, modified: None }, &mut entry)?;
    }
    Ok(())
}

/// The path beneath the directory, or nothing if stripping leaves nothing of it.
fn plain(name: &Path, strip: u32) -> Result<Option<PathBuf>, String> {
    let mut path = PathBuf::new();
    let mut left = strip;
    for part in name.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(_) if left > 0 => left -= 1,
            Component::Normal(part) => path.push(part),
            _ => return Err(format!("the path {} in the archive leads out", name.display())),
        }
    }
    Ok(Some(path).filter(|path| !path.as_os_str().is_empty()))
}

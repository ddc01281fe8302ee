//! Whether what is mounted somewhere is what a state declares. What cannot be told is taken for it: to refuse what is as
//! declared would be worse.

use std::fmt;
use std::fs::{self, Metadata};
use std::net::{IpAddr, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};

use super::tree::{Attached, Tree};
use crate::failure::Failure;
use crate::host::{Command, Ending, View, real_path};

/// Types that only the kernel itself mounts, and under just this name.
const OF_THE_KERNEL: [&str; 33] = [
    "9p", "bcachefs", "btrfs", "ceph", "cgroup", "cgroup2", "cifs", "debugfs", "devpts", "devtmpfs", "erofs",
    "ext2", "ext3", "ext4", "f2fs", "gfs2", "iso9660", "jfs", "msdos", "nfs", "nilfs2", "ocfs2", "overlay",
    "proc", "ramfs", "squashfs", "sysfs", "tmpfs", "udf", "vfat", "virtiofs", "xfs", "zfs",
];

/// Where `mount` finds the programs that mount a type.
const HELPERS: [&str; 2] = ["/sbin", "/usr/sbin"];

/// Types of which the kernel does not tell which part of them is mounted, or in words of its own.
const WITHOUT_ROOT: [&str; 4] = ["nfs", "nfs4", "cgroup", "cgroup2"];

pub(super) struct Declared<'a> {
    pub source: &'a str,
    pub fstype: &'a str,
    pub options: &'a [String],
}

impl fmt::Display for Declared<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_bind() {
            true => write!(f, "{} itself", self.source),
            false => write!(f, "{} from {}", self.fstype, self.source),
        }
    }
}

/// How two types stand to each other.
#[derive(PartialEq, Eq, Debug)]
enum Kinship {
    Same,
    /// A program mounts it, and names type and source as it likes.
    Perhaps,
    Other,
}

impl Declared<'_> {
    /// Whether it is what is uppermost at a place.
    pub fn is_at(&self, view: &View, tree: &Tree, place: &Path) -> Result<bool, Failure> {
        let stack = tree.at(place);
        let Some(top) = stack.first() else { return Ok(false) };
        // What is mounted as soon as somebody looks into it.
        let automount = ["x-systemd.automount", "comment=systemd.automount"];
        if top.fstype == "autofs" && self.options.iter().any(|option| automount.contains(&&**option)) {
            return Ok(true);
        }
        if self.is_bind() {
            return Ok(self.is_bound(tree, &stack));
        }
        match self.fstype.split(',').map(|fstype| kinship(fstype, &top.fstype)).collect::<Vec<_>>() {
            kinships if kinships.contains(&Kinship::Same) => {
                Ok(self.is_whole(top) && self.is_source(view, top)?)
            }
            kinships => Ok(kinships.contains(&Kinship::Perhaps)),
        }
    }

    fn is_bind(&self) -> bool {
        self.options.iter().any(|option| option == "bind" || option == "rbind")
    }

    fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    }

    /// Whether the place shows the directory or the file that the source is.
    fn is_bound(&self, tree: &Tree, stack: &[&Attached]) -> bool {
        let source = real_path(Path::new(self.source));
        // The place may cover its own source: then what counts is what that was before.
        (1..=stack.len()).any(|covers| {
            let Some(holder) = tree.holder(&source, &stack[..covers]) else { return true };
            let rest = source.strip_prefix(&holder.place).unwrap_or(&source);
            let nameless = WITHOUT_ROOT.contains(&&*holder.fstype);
            holder.device == stack[0].device && (nameless || holder.root.join(rest) == stack[0].root)
        })
    }

    /// Whether it is all of the file system, or the part that the options say.
    fn is_whole(&self, now: &Attached) -> bool {
        // The root of the machine may be a part by its making: a container's, or one of several versions.
        if now.place == Path::new("/") || self.option("X-mount.subdir").is_some() {
            return true;
        }
        let whole = now.root == Path::new("/");
        match &*now.fstype {
            "btrfs" => self.option("subvol").is_none_or(|part| {
                now.root.strip_prefix("/").is_ok_and(|root| root == Path::new(part.trim_start_matches('/')))
            }),
            "tmpfs" | "ramfs" | "overlay" => whole,
            _ => whole || !now.is_of_device(),
        }
    }

    fn is_source(&self, view: &View, now: &Attached) -> Result<bool, Failure> {
        let is_named = self.fstype.split(',').any(|fstype| family(fstype) == family(&now.fstype));
        let is_program = now.fstype == "fuse" || now.fstype.starts_with("fuse.");
        match &*now.fstype {
            "nfs" | "nfs4" => Ok(is_export(self.source, now, &|host| {
                (host, 0).to_socket_addrs().into_iter().flatten().map(|found| found.ip()).collect()
            })),
            "cifs" | "smb3" => Ok(is_share(self.source, &now.source)),
            "ceph" => Ok(path_of_ceph(self.source) == path_of_ceph(&now.source)),
            "zfs" | "virtiofs" | "9p" => Ok(self.source == now.source),
            _ if now.is_of_device() || !is_program && now.source.starts_with("/dev/") => {
                self.is_device(view, now)
            }
            // The source of one without a device is any word.
            _ => Ok(is_named || tag(self.source).is_none() && !self.source.starts_with("/dev/")),
        }
    }

    fn is_device(&self, view: &View, now: &Attached) -> Result<bool, Failure> {
        let path = match tag(self.source) {
            Some((name, value)) => match device_of_tag(view, name, value) {
                Some(path) => path,
                None => return Ok(false),
            },
            None => PathBuf::from(self.source),
        };
        let meta = if path.is_absolute() { fs::metadata(&path).ok() } else { None };
        let Some(meta) = meta else { return Ok(self.source == now.source) };
        let numbers: Vec<String> = match now.is_of_device() {
            true => vec![now.device.clone()],
            // Some lie on several.
            false => now.source.split(':').filter_map(|path| numbers_of(&fs::metadata(path).ok()?)).collect(),
        };
        let is_backed = || numbers.iter().any(|numbers| is_backed(numbers, &path));
        match numbers_of(&meta) {
            Some(wanted) => Ok(numbers.contains(&wanted)
                || is_backed()
                || now.fstype == "btrfs" && are_siblings(view, &wanted, &numbers)?),
            // An image, or what cannot be compared.
            None => Ok(!meta.is_file() || Path::new(&now.source) == path || is_backed()),
        }
    }
}

/// Several names for what is one.
fn family(fstype: &str) -> &str {
    match fstype {
        "nfs4" => "nfs",
        "smb3" | "smbfs" => "cifs",
        "ntfs3" | "ntfs-3g" | "lowntfs-3g" => "ntfs",
        fstype => fstype,
    }
}

fn kinship(declared: &str, now: &str) -> Kinship {
    let is_program = |fstype: &str| fstype == "fuse" || fstype.starts_with("fuse.");
    let known = |is: bool| if is { Kinship::Perhaps } else { Kinship::Other };
    if matches!(declared, "auto" | "none") || family(declared) == family(now) {
        return Kinship::Same;
    }
    if OF_THE_KERNEL.contains(&family(declared)) {
        return Kinship::Other;
    }
    match (declared.strip_prefix("fuse."), now.strip_prefix("fuse.")) {
        _ if now == "fuseblk" => Kinship::Same,
        // A program may call itself a little differently: `ceph` and `ceph-fuse`.
        (Some(declared), Some(now)) => known(declared.starts_with(now) || now.starts_with(declared)),
        _ if is_program(now) => Kinship::Perhaps,
        _ if is_program(declared) || declared == "fuseblk" => Kinship::Other,
        _ => {
            let program = format!("mount.{declared}");
            known(HELPERS.iter().any(|place| Path::new(place).join(&program).exists()))
        }
    }
}

/// A device named by what is written on it.
fn tag(source: &str) -> Option<(&str, &str)> {
    let (name, value) = source.split_once('=')?;
    let known = ["UUID", "LABEL", "PARTUUID", "PARTLABEL", "ID"].contains(&name);
    known.then(|| (name, value.trim_matches('"')))
}

fn device_of_tag(view: &View, name: &str, value: &str) -> Option<PathBuf> {
    let place = format!("/dev/disk/by-{}", name.to_lowercase());
    let link = Path::new(&place).join(encoded(value));
    if link.exists() {
        return Some(link);
    }
    // Where nobody makes such links, or not yet.
    let ran = view.run(&Command::new("findfs").arg(format!("{name}={value}"))).ok()?;
    let found = ran.text();
    (ran.ending == Ending::Code(0)).then(|| found.trim().into())
}

/// As udev writes it into the name of a link.
fn encoded(value: &str) -> String {
    let is_plain = |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || "#+-.:=@_".contains(c);
    value
        .chars()
        .map(|c| if is_plain(c) { c.to_string() } else { format!("\\x{:02x}", u32::from(c)) })
        .collect()
}

/// A block device's major and minor number, as the kernel writes them.
fn numbers_of(meta: &Metadata) -> Option<String> {
    let device = meta.rdev();
    meta.file_type().is_block_device().then(|| format!("{}:{}", major(device), minor(device)))
}

/// Whether a loop device shows just this file or device.
fn is_backed(numbers: &str, path: &Path) -> bool {
    let told = fs::read_to_string(format!("/sys/dev/block/{numbers}/loop/backing_file"));
    told.is_ok_and(|told| {
        fs::canonicalize(path).is_ok_and(|path| Path::new(told.trim_end_matches('\n')) == path)
    })
}

/// Whether two devices belong to one btrfs, of which the kernel names only one.
fn are_siblings(view: &View, wanted: &str, now: &[String]) -> Result<bool, Failure> {
    let name = |numbers: &str| {
        let link = fs::read_link(format!("/sys/dev/block/{numbers}")).ok()?;
        link.file_name().map(ToOwned::to_owned)
    };
    let Some(wanted) = name(wanted) else { return Ok(true) };
    let all = Path::new("/sys/fs/btrfs");
    for one in view.list(all)?.unwrap_or_default() {
        let devices = view.list(&all.join(one).join("devices"))?.unwrap_or_default();
        let has = |name: &std::ffi::OsString| devices.contains(name);
        if has(&wanted) && now.iter().filter_map(|numbers| name(numbers)).any(|name| has(&name)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether `host:/path` is what is mounted. The kernel may name the host as somebody else did who mounted from it before.
fn is_export(declared: &str, now: &Attached, addresses: &dyn Fn(&str) -> Vec<IpAddr>) -> bool {
    let split = |source: &'_ str| -> Option<(String, PathBuf)> {
        let (host, path) = source.split_once(":/")?;
        let host = host.trim_matches(['[', ']']).trim_end_matches('.').to_lowercase();
        Some((host, Path::new("/").join(path).components().collect()))
    };
    let (Some((host, path)), Some((now_host, now_path))) = (split(declared), split(&now.source)) else {
        return declared == now.source;
    };
    let is_host = || {
        let address = now.super_option("addr").and_then(|text| text.parse::<IpAddr>().ok());
        address.is_some_and(|address| match host.parse::<IpAddr>() {
            Ok(own) => own == address,
            Err(_) => addresses(&host).contains(&address),
        })
    };
    path == now_path && (host == now_host || is_host())
}

/// Whether `//host/share` is what is mounted; a path in the share stands beside it.
fn is_share(declared: &str, now: &str) -> bool {
    let plain = |text: &str| text.replace('\\', "/").trim_end_matches('/').to_lowercase();
    let (declared, now) = (plain(declared), plain(now));
    declared.strip_prefix(&now).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Its program puts the monitors' addresses where their names were.
fn path_of_ceph(source: &str) -> Option<&str> {
    let at = source.rfind(":/").or_else(|| source.rfind("=/"))?;
    Some(source[at + 1..].trim_end_matches('/'))
}

#[cfg(test)]
mod tests;

//! What a node knows of its machine. Looked up once at start and again when a hub asks: a few small reads, no
//! program is started, and what is missing stays empty rather than failing.
//!
//! Labels come from the configuration and are put in by the caller.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;

use mainstay_core::frame::Facts;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::utsname::uname;

/// Most of a file in `/etc` or `/proc` that is looked at: each of them is below 8 KiB.
const MAX_FILE: u64 = 64 * 1024;

/// Most addresses that are told: a router may have thousands, and the facts travel in every hello.
const MAX_ADDRESSES: usize = 32;

/// Families of distributions, by the `ID` or `ID_LIKE` of `os-release`. The first that fits counts.
const FAMILIES: &[(&str, &[&str])] = &[
    ("debian", &["debian", "ubuntu"]),
    ("rhel", &["rhel", "centos", "fedora"]),
    ("suse", &["suse", "sles", "opensuse"]),
    ("arch", &["arch", "archlinux"]),
    ("alpine", &["alpine"]),
    ("gentoo", &["gentoo"]),
];

/// Gathers the facts. `version` is the program's own.
pub fn collect(version: &str, labels: BTreeMap<String, String>) -> Facts {
    let release = OsRelease::parse(
        &read("/etc/os-release").or_else(|| read("/usr/lib/os-release")).unwrap_or_default(),
    );
    let system = uname().ok();
    let name = |part: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
        system.as_ref().map(|system| part(system).to_string_lossy().into_owned()).unwrap_or_default()
    };
    Facts {
        os: release.id.clone().unwrap_or_else(|| std::env::consts::OS.to_owned()),
        family: release.family(),
        os_version: release.version.unwrap_or_default(),
        kernel: name(|system| system.release()),
        arch: name(|system| system.machine()),
        hostname: name(|system| system.nodename()),
        cpus: std::thread::available_parallelism().map_or(0, |cpus| cpus.get() as u32),
        memory_bytes: memory_bytes(),
        addresses: addresses(),
        version: version.to_owned(),
        labels,
    }
}

fn read(path: &str) -> Option<String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[derive(Debug, Default, PartialEq, Eq)]
struct OsRelease {
    id: Option<String>,
    like: Vec<String>,
    version: Option<String>,
}

impl OsRelease {
    /// Lines of `NAME=value`, the value perhaps quoted as for a shell.
    fn parse(text: &str) -> Self {
        let mut release = Self::default();
        for line in text.lines() {
            let Some((name, value)) = line.trim().split_once('=') else {
                continue;
            };
            let value = value.trim().trim_matches(['"', '\'']).to_owned();
            if value.is_empty() {
                continue;
            }
            match name {
                "ID" => release.id = Some(value.to_lowercase()),
                "ID_LIKE" => {
                    release.like = value.to_lowercase().split_whitespace().map(str::to_owned).collect()
                }
                "VERSION_ID" => release.version = Some(value),
                _ => {}
            }
        }
        release
    }

    /// The family's name; of an unknown one the distribution's own, and outside Linux the system's.
    fn family(&self) -> String {
        let own = self.id.iter().chain(&self.like);
        let known = own.clone().find_map(|id| {
            FAMILIES.iter().find(|(_, members)| {
                members.iter().any(|member| {
                    id == member || id.strip_prefix(member).is_some_and(|rest| rest.starts_with('-'))
                })
            })
        });
        match known {
            Some((family, _)) => (*family).to_owned(),
            None => own.last().cloned().unwrap_or_else(|| std::env::consts::OS.to_owned()),
        }
    }
}

#[cfg(target_os = "linux")]
fn memory_bytes() -> u64 {
    parse_memory(&read("/proc/meminfo").unwrap_or_default()).unwrap_or(0)
}

#[cfg(not(target_os = "linux"))]
fn memory_bytes() -> u64 {
    0
}

/// `MemTotal:       16314564 kB`
#[cfg(any(target_os = "linux", test))]
fn parse_memory(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// The addresses under which others may reach this machine: of interfaces that are up, without loopback and
/// what is valid on one link only. Sorted, so that equal facts are equal.
fn addresses() -> Vec<String> {
    let Ok(interfaces) = getifaddrs() else {
        return Vec::new();
    };
    let mut found: Vec<IpAddr> = interfaces
        .filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP))
        .filter_map(|interface| {
            let address = interface.address?;
            match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
                (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
                (_, Some(v6)) => Some(IpAddr::V6(v6.ip())),
                _ => None,
            }
        })
        .filter(|address| is_reachable(*address))
        .collect();
    found.sort();
    found.dedup();
    found.truncate(MAX_ADDRESSES);
    found.iter().map(IpAddr::to_string).collect()
}

fn is_reachable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_and_their_families() {
        for (text, os, family, version) in [
            ("ID=debian\nVERSION_ID=\"12\"\n", "debian", "debian", "12"),
            ("NAME=\"Linux Mint\"\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", "linuxmint", "debian", ""),
            ("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID='9.4'\n", "rocky", "rhel", "9.4"),
            ("ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"\n", "opensuse-leap", "suse", ""),
            ("ID=alpine\nVERSION_ID=3.20.1\n", "alpine", "alpine", "3.20.1"),
            ("ID=nixos\n", "nixos", "nixos", ""),
            ("# nothing\n=\nID\nID=\nID_LIKE=\n", std::env::consts::OS, std::env::consts::OS, ""),
        ] {
            let release = OsRelease::parse(text);
            let id = release.id.clone().unwrap_or_else(|| std::env::consts::OS.to_owned());
            assert_eq!((id.as_str(), release.family().as_str()), (os, family), "{text}");
            assert_eq!(release.version.unwrap_or_default(), version);
        }
    }

    #[test]
    fn memory_is_read_in_bytes_or_not_at_all() {
        assert_eq!(parse_memory("MemFree: 1 kB\nMemTotal:       2048 kB\n"), Some(2048 * 1024));
        for broken in ["", "MemTotal:", "MemTotal: x kB", "MemTotal: 99999999999999999999 kB"] {
            assert_eq!(parse_memory(broken), None);
        }
    }

    #[test]
    fn addresses_that_lead_nowhere_are_left_out() {
        for nowhere in ["127.0.0.1", "::1", "fe80::1", "169.254.3.4", "0.0.0.0"] {
            assert!(!is_reachable(nowhere.parse().unwrap()), "{nowhere}");
        }
        assert!(is_reachable("10.0.0.7".parse().unwrap()) && is_reachable("2001:db8::7".parse().unwrap()));
    }

    #[test]
    fn this_machine_has_facts() {
        let labels = BTreeMap::from([("role".to_owned(), "web".to_owned())]);
        let facts = collect("1.2.3", labels.clone());
        assert_eq!((facts.version.as_str(), &facts.labels), ("1.2.3", &labels));
        assert_eq!(facts.arch, nix::sys::utsname::uname().unwrap().machine().to_string_lossy());
        assert!(facts.cpus > 0 && !facts.hostname.is_empty() && !facts.kernel.is_empty());
        assert!(cfg!(not(target_os = "linux")) || facts.memory_bytes > 1 << 20);
    }
}

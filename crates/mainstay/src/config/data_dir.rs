//! Where a node keeps everything it has.

use std::path::PathBuf;

/// Of the system's own services.
pub const OF_MACHINE: &str = "/var/lib/mainstay";

/// The data directory unless one is given: the machine's for root, otherwise the user's own.
pub fn default() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from(OF_MACHINE);
    }
    // A user without a home (a container) has at least the current directory.
    of_user().unwrap_or_else(|| PathBuf::from("mainstay-data"))
}

/// A user's own: `$XDG_DATA_HOME/mainstay` or `~/.local/share/mainstay`.
pub fn of_user() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_DATA_HOME").or_else(|| Some(set("HOME")?.join(".local/share")))?;
    Some(base.join("mainstay"))
}

//! The processes of this machine.

use std::collections::BTreeMap;
use std::fs;

/// What the kernel says of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Process {
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// In ticks since the machine started: a number may be another's by and by, but not of one that began then.
    pub began: u64,
    /// It has not ended. One that has may still be the parent of others, by its threads.
    pub lives: bool,
}

/// All that are not reaped, by number. Nothing where the kernel does not tell.
pub fn processes() -> Option<BTreeMap<i32, Process>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that ended meanwhile has none.
        let stat = fs::read(entry.path().join("stat")).unwrap_or_default();
        if let Some(process) = parse(&String::from_utf8_lossy(&stat)) {
            found.insert(pid, process);
        }
    }
    Some(found)
}

/// `PID (name) STATE PARENT GROUP …`, where the name may hold anything; the twenty-second field is when it began.
fn parse(stat: &str) -> Option<Process> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let lives = !matches!(fields.next()?, "Z" | "X");
    let (parent, group) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(Process { parent, group, began: fields.nth(16)?.parse().ok()?, lives })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read_whatever_the_name() {
        let rest = "70 69 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1 1 1\n";
        let expected = |lives| Some(Process { parent: 1, group: 70, began: 4242, lives });
        assert_eq!(parse(&format!("77 (a) Z 1 2 3) S 1 {rest}")), expected(true));
        assert_eq!(parse(&format!("77 (sh) Z 1 {rest}")), expected(false));
        assert_eq!(parse("7 (sh) S 1"), None);
        assert_eq!(parse("7 (sh"), None);
    }
}

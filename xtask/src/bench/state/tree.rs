//! The tree that is declared: the same that the peers' harness declares to each tool.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, ensure};

/// As many as the harness declares.
pub const DIRECTORIES: usize = 20;

const FILE_MODE: u32 = 0o640;
const DIRECTORY_MODE: u32 = 0o750;

fn content(number: usize) -> String {
    let mut content = format!("# managed, file {number}\n");
    for key in 0..10 {
        let _ = writeln!(content, "key{key} = value-{number}-{key}");
    }
    content
}

fn file_name(number: usize) -> String {
    format!("f{number:04}.conf")
}

/// A states file; `root` is where the tree is, and may be a template.
pub fn site(files: usize, root: &str) -> String {
    let mut site = String::from("states:\n");
    for number in 0..DIRECTORIES {
        let _ = writeln!(
            site,
            "  d{number:02}:\n    directory: {{path: '{root}/d{number:02}', mode: '{DIRECTORY_MODE:04o}'}}"
        );
    }
    for number in 0..files {
        let name = file_name(number);
        let _ = writeln!(
            site,
            "  f{number:04}:\n    file:\n      path: '{root}/{name}'\n      mode: '{FILE_MODE:04o}'\n      content: |"
        );
        for line in content(number).lines() {
            let _ = writeln!(site, "        {line}");
        }
    }
    site
}

/// So many states of which every tenth needs the one before: enough to have an order.
pub fn graph(states: usize) -> String {
    let mut site = String::from("states:\n");
    for number in 0..states {
        let _ = writeln!(
            site,
            "  s{number:05}:\n    file: {{path: '/nowhere/d{}/f{number}', content: x}}",
            number % 100
        );
        if number % 10 == 9 {
            let _ = writeln!(site, "    require: [s{:05}]", number - 1);
        }
    }
    site
}

/// Removes what is there and leaves an empty directory.
pub fn clear(root: &Path) -> anyhow::Result<()> {
    if root.exists() {
        fs::remove_dir_all(root)?;
    }
    Ok(fs::create_dir_all(root)?)
}

/// That a tree is there, and only if it is to be there.
pub fn check(root: &Path, files: usize) -> anyhow::Result<()> {
    let names = fs::read_dir(root)?.count();
    if files == 0 {
        ensure!(names == 0, "a dry run left {names} entries in {}", root.display());
        return Ok(());
    }
    ensure!(names == files + DIRECTORIES, "{names} entries are in {}", root.display());
    for number in 0..files {
        let path = root.join(file_name(number));
        let read = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        ensure!(read == content(number), "{} holds something else", path.display());
        let mode = fs::metadata(&path)?.permissions().mode() & 0o7777;
        ensure!(mode == FILE_MODE, "{} has mode {mode:o}", path.display());
    }
    Ok(())
}

/// Milliseconds to write the tree plainly: each file synced in its turn, then the directory once.
pub fn plain(root: &Path, files: usize) -> anyhow::Result<f64> {
    clear(root)?;
    let began = Instant::now();
    for number in 0..DIRECTORIES {
        fs::DirBuilder::new().mode(DIRECTORY_MODE).create(root.join(format!("d{number:02}")))?;
    }
    for number in 0..files {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(root.join(file_name(number)))?;
        file.write_all(content(number).as_bytes())?;
        file.sync_all()?;
    }
    File::open(root)?.sync_all()?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

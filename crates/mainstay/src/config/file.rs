//! Reading and writing TOML files: errors name file and line, writes are whole or not at all, and comments
//! survive.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use mainstay_control::view::{Problem, ProblemKind};
use serde::de::DeserializeOwned;
use toml_edit::{DocumentMut, Item, TableLike};

/// Reads a file strictly; `None` if there is none.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Problem> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(path, &text).map(Some),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(unreadable(path, &e)),
    }
}

pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Problem {
    Problem::new(ProblemKind::Invalid, format!("{} cannot be read: {error}", path.display()))
}

/// An unknown key, a wrong type or bad syntax is an error that names file, line and column.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, Problem> {
    toml_edit::de::from_str(text).map_err(|error| {
        let at = error.span().map(|span| place(text, span.start)).unwrap_or_default();
        let message = format!("{}{at}: {}", path.display(), error.message().trim_end());
        Problem::new(ProblemKind::Invalid, message)
            .hint("correct the line, or move the file away: the next start writes one with every default")
    })
}

fn place(text: &str, offset: usize) -> String {
    let before = &text[..text.floor_char_boundary(offset.min(text.len()))];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    format!(":{line}:{column}")
}

/// Writes a file that only its owner may read, whole or not at all; it survives a loss of power.
pub fn write(path: &Path, text: &str) -> Result<(), Problem> {
    let wrong = |e: std::io::Error| {
        Problem::new(ProblemKind::Internal, format!("{} cannot be written: {e}", path.display()))
    };
    let directory = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(wrong)?;
    let fresh = path.with_extension(format!("{}.new", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&fresh, path))
        .and_then(|()| std::fs::File::open(directory)?.sync_all());
    if written.is_err() {
        let _ = std::fs::remove_file(&fresh);
    }
    written.map_err(wrong)
}

/// Sets the values of `changes` in `text`, keeping its comments and its order. Tables are merged key by key. A key that
/// stands there as a comment (`# key = …`) becomes one in its place, below what explains it.
pub fn amend(path: &Path, text: &str, changes: &DocumentMut) -> Result<String, Problem> {
    let mut document = document(path, text)?;
    let mut text = text.to_owned();
    for (key, new) in changes.iter() {
        if let (false, Item::Value(new)) = (document.contains_key(key), new) {
            text = uncomment(&text, key, new);
        }
    }
    document = self::document(path, &text)?;
    merge(document.as_table_mut(), changes.as_table());
    Ok(document.to_string())
}

fn document(path: &Path, text: &str) -> Result<DocumentMut, Problem> {
    text.parse().map_err(|e: toml_edit::TomlError| {
        let at = e.span().map(|span| place(text, span.start)).unwrap_or_default();
        Problem::new(ProblemKind::Invalid, format!("{}{at}: {}", path.display(), e.message()))
    })
}

fn uncomment(text: &str, key: &str, value: &toml_edit::Value) -> String {
    let comment = format!("# {key} =");
    let mut top = true;
    let lines = text.split_inclusive('\n').map(|line| {
        // The same words within a table are of another key.
        top &= !line.starts_with('[');
        if top && line.starts_with(&comment) {
            top = false;
            format!("{key} = {}\n", value.clone().decorated("", ""))
        } else {
            line.to_owned()
        }
    });
    lines.collect()
}

fn merge(into: &mut dyn TableLike, from: &dyn TableLike) {
    for (key, new) in from.iter() {
        match (into.get_mut(key), new) {
            (Some(old), new) if old.is_table_like() && new.is_table_like() => {
                let (Some(old), Some(new)) = (old.as_table_like_mut(), new.as_table_like()) else {
                    continue;
                };
                merge(old, new);
            }
            (Some(Item::Value(old)), Item::Value(new)) => {
                // The comment behind a value belongs to the line, not to the value.
                let decor = old.decor().clone();
                *old = new.clone();
                *old.decor_mut() = decor;
            }
            (_, new) => {
                into.insert(key, new.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Small {
        #[expect(dead_code, reason = "only its type is of interest")]
        port: u16,
    }

    fn wrong(text: &str) -> String {
        parse::<Small>(Path::new("x.toml"), text).unwrap_err().message
    }

    #[test]
    fn errors_name_file_line_and_column() {
        insta::assert_snapshot!(wrong("# é\nport = 1\nprot = 2\n"));
        insta::assert_snapshot!(wrong("\nport = \"a\"\n"));
        insta::assert_snapshot!(wrong("port = \n"));
        insta::assert_snapshot!(wrong(""));
    }

    #[test]
    fn comments_and_order_survive_a_change() {
        let before = "# why\nname = \"a\" # mine\n\n# more\n[limits]\n# most\nqueue = 5\n";
        let changes = "name = \"b\"\nnew = [1]\n[limits]\nqueue = 6\n".parse().unwrap();
        insta::assert_snapshot!(amend(Path::new("x.toml"), before, &changes).unwrap());
    }

    #[test]
    fn a_key_takes_the_place_of_its_comment() {
        let before = "# Its name.\n# name = \"ship1\"\n\n# Where to.\nlinks = []\n\n[limits]\n# links = 3\n# most = 5\n";
        let changes = "name = \"a\"\nlinks = [\"h:1\"]\nmost = 1".parse().unwrap();
        let after = amend(Path::new("x.toml"), before, &changes).unwrap();
        assert!(
            after.starts_with("# Its name.\nname = \"a\"\n\n# Where to.\nlinks = [\"h:1\"]\n"),
            "{after}"
        );
        assert!(after.contains("# links = 3\n# most = 5\n"), "{after}");
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/x.toml");
        write(&path, "port = 1").unwrap();
        write(&path, "port = 2").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "port = 2");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}

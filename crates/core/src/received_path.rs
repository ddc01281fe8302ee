//! Where an answer's file lies: what `directory` and `fileName` of a message mean on the node that receives
//! the answer.
//!
//! This decides on the words alone. That no symlink leads out, and that only plain files are written, is
//! seen to by whoever opens the path beneath a directory handle.

/// Longest component in bytes: what common file systems take.
pub const MAX_COMPONENT: usize = 255;

/// Most components: a path far longer than anyone uses, and short enough for every system call.
pub const MAX_COMPONENTS: usize = 32;

/// Where to write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// Beneath `received/<node>/` in the data directory; the last component is the file.
    Beneath(Vec<String>),
    /// Beneath a directory that the node's own configuration opens to messages.
    Root {
        /// As it stands in the configuration, normalised.
        root: String,
        components: Vec<String>,
    },
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PathError {
    #[error("`..` is not allowed in a path")]
    Parent,
    #[error("{0:?} holds a control character")]
    Control(String),
    #[error("a part of the path is longer than {MAX_COMPONENT} bytes")]
    TooLong,
    #[error("the path has more than {MAX_COMPONENTS} parts")]
    TooDeep,
    #[error("{0:?} is not a file name: it is one part of a path, without `/`")]
    NotAFile(String),
    #[error("{0:?} is not an absolute directory")]
    NotAbsolute(String),
}

/// The absolute directories that the configuration opens.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Roots(Vec<Vec<String>>);

impl Roots {
    pub fn new<'a>(directories: impl IntoIterator<Item = &'a str>) -> Result<Self, PathError> {
        let mut roots = Vec::new();
        for directory in directories {
            if !directory.starts_with('/') {
                return Err(PathError::NotAbsolute(directory.to_owned()));
            }
            roots.push(components(directory)?);
        }
        // The longest first: the nearest root is the one that is meant.
        roots.sort_by_key(|root| std::cmp::Reverse(root.len()));
        Ok(Self(roots))
    }

    fn covering(&self, components: &[String]) -> Option<&[String]> {
        self.0.iter().find(|root| components.starts_with(root)).map(Vec::as_slice)
    }
}

/// An absolute directory that no root covers loses its leading slash: `/var/log` is `var/log` beneath
/// `received/<node>/`, so that messages written for other systems work and can do no harm.
pub fn place(directory: &str, file_name: &str, roots: &Roots) -> Result<Place, PathError> {
    let mut path = components(directory)?;
    let root = if directory.starts_with('/') { roots.covering(&path).map(<[String]>::len) } else { None };
    path.push(file(file_name)?);
    if path.len() > MAX_COMPONENTS {
        return Err(PathError::TooDeep);
    }
    Ok(match root {
        Some(length) => {
            let components = path.split_off(length);
            Place::Root { root: format!("/{}", path.join("/")), components }
        }
        None => Place::Beneath(path),
    })
}

/// Checks a directory without a file name beside it.
pub fn check_directory(directory: &str) -> Result<(), PathError> {
    components(directory).map(drop)
}

pub fn check_file_name(file_name: &str) -> Result<(), PathError> {
    file(file_name).map(drop)
}

fn components(path: &str) -> Result<Vec<String>, PathError> {
    let mut components = Vec::new();
    for part in path.split('/').filter(|part| !matches!(*part, "" | ".")) {
        if components.len() == MAX_COMPONENTS {
            return Err(PathError::TooDeep);
        }
        components.push(component(part)?);
    }
    Ok(components)
}

fn file(name: &str) -> Result<String, PathError> {
    match name {
        "" | "." => Err(PathError::NotAFile(name.to_owned())),
        _ if name.contains('/') => Err(PathError::NotAFile(name.chars().take(MAX_COMPONENT).collect())),
        _ => component(name),
    }
}

fn component(part: &str) -> Result<String, PathError> {
    if part == ".." {
        return Err(PathError::Parent);
    }
    if part.len() > MAX_COMPONENT {
        return Err(PathError::TooLong);
    }
    // A zero byte ends a path for the system; the others drive the terminal of whoever lists the directory.
    if part.contains(char::is_control) {
        return Err(PathError::Control(part.to_owned()));
    }
    Ok(part.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn beneath(parts: &[&str]) -> Place {
        Place::Beneath(parts.iter().map(|p| (*p).to_owned()).collect())
    }

    #[test]
    fn the_table_of_paths() {
        let roots = Roots::new(["/var/log/", "/var/log/ships", "/srv"]).unwrap();
        let root = |root: &str, parts: &[&str]| Place::Root {
            root: root.into(),
            components: parts.iter().map(|p| (*p).to_owned()).collect(),
        };
        for (directory, file, expected) in [
            ("", "a", beneath(&["a"])),
            (".", "a", beneath(&["a"])),
            ("test/dir", "test.result", beneath(&["test", "dir", "test.result"])),
            ("./my/log/files/", "some.log", beneath(&["my", "log", "files", "some.log"])),
            ("/var/cli//command_result/", "x", beneath(&["var", "cli", "command_result", "x"])),
            ("/", "a", beneath(&["a"])),
            ("a..b/...", "..a", beneath(&["a..b", "...", "..a"])),
            ("/var/log/app", "a.log", root("/var/log", &["app", "a.log"])),
            ("/var/log", "a.log", root("/var/log", &["a.log"])),
            ("/var/./log/ships/1", "a.log", root("/var/log/ships", &["1", "a.log"])),
            ("/var/logs", "a.log", beneath(&["var", "logs", "a.log"])),
            // A relative directory is never a root, whatever it is called.
            ("var/log", "a.log", beneath(&["var", "log", "a.log"])),
        ] {
            assert_eq!(place(directory, file, &roots), Ok(expected), "{directory:?} {file:?}");
        }
    }

    #[test]
    fn ways_out_are_refused() {
        let long = "x".repeat(MAX_COMPONENT + 1);
        let roots = Roots::new(["/srv"]).unwrap();
        for (directory, file) in [
            ("..", "a"),
            ("a/../b", "a"),
            ("/srv/../etc", "a"),
            ("a\0b", "a"),
            ("a\nb", "a"),
            ("a", ""),
            ("a", "."),
            ("a", ".."),
            ("a", "b/c"),
            ("a", "/etc/passwd"),
            ("a", "b\0"),
            ("a", "\u{1b}[2J"),
            (&long, "a"),
            ("a", &long),
            (&"a/".repeat(MAX_COMPONENTS), "a"),
            (&"a/".repeat(1_000_000), "a"),
        ] {
            assert!(place(directory, file, &roots).is_err(), "{directory:.20?} {file:.20?}");
        }
        assert!(Roots::new(["var/log"]).is_err());
        assert!(Roots::new(["/var/../etc"]).is_err());
        assert_eq!(
            place("/etc", "passwd", &Roots::new(["/"]).unwrap()),
            Ok(Place::Root { root: "/".into(), components: vec!["etc".into(), "passwd".into()] })
        );
    }

    proptest! {
        #[test]
        fn what_is_allowed_stays_beneath(directory in "[a./\\\\\0 ]{0,12}", file in "[a./\0]{0,4}") {
            if let Ok(place) = place(&directory, &file, &Roots::new(["/a"]).unwrap()) {
                let (Place::Beneath(parts) | Place::Root { components: parts, .. }) = place;
                prop_assert!(!parts.is_empty());
                for part in parts {
                    prop_assert!(!part.is_empty() && part != "." && part != ".." && !part.contains(['/', '\0']));
                }
            }
        }
    }
}

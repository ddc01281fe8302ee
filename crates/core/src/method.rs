//! The names of methods, and the older names that mean the same.
//!
//! A name that is not in the table is carried as it is: the receiver may be newer than this node, and says
//! itself what it does not know. Replies are different: their method runs on this very node.

use std::fmt;

/// Longest name, in bytes; a name also stands in rules, metrics and logs.
pub const MAX_NAME: usize = 64;

/// Every method by its own name, and its aliases. A new one is a line here.
const METHODS: &[(&str, &[&str])] = &[
    ("cmd", &["REQCliCommand", "REQnCliCommand", "cliCommand"]),
    ("cmd.stream", &["REQCliCommandCont", "REQnCliCommandCont"]),
    ("ping", &["REQPing"]),
    ("pong", &["REQPong"]),
    ("hello", &["REQHello"]),
    ("errors.report", &["REQErrorLog"]),
    ("file.tail", &["REQTailFile"]),
    ("http.get", &["REQHttpGet"]),
    ("op.command", &["REQOpCommand"]),
    ("op.list", &["REQOpProcessList"]),
    ("op.start", &["REQOpProcessStart"]),
    ("op.stop", &["REQOpProcessStop"]),
    ("file.append", &["REQToFileAppend"]),
    ("file.write", &["REQToFile"]),
    ("console", &["REQToConsole"]),
];

/// What the origin does with an answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum ReplyMethod {
    /// Appends it to a file below `received/`.
    FileAppend,
    /// Writes it to a file below `received/`, over what was there.
    FileWrite,
    /// Prints it on the standard output of the node.
    Console,
    /// Keeps it with the message and does nothing more.
    #[default]
    None,
}

impl ReplyMethod {
    pub const ALL: [Self; 4] = [Self::FileAppend, Self::FileWrite, Self::Console, Self::None];

    pub fn name(self) -> &'static str {
        match self {
            Self::FileAppend => "file.append",
            Self::FileWrite => "file.write",
            Self::Console => "console",
            Self::None => "none",
        }
    }

    /// By its name or an alias, in any case.
    pub fn find(written: &str) -> Option<Self> {
        let canonical = canonical(written).unwrap_or(written);
        Self::ALL.into_iter().find(|m| m.name().eq_ignore_ascii_case(canonical))
    }

    pub fn needs_file(self) -> bool {
        matches!(self, Self::FileAppend | Self::FileWrite)
    }
}

impl fmt::Display for ReplyMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A method as a request names it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct MethodName {
    canonical: String,
    written: String,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text:?} is not a method's name: it is 1 to {MAX_NAME} of a-z A-Z 0-9 . _ -")]
pub struct MethodNameError {
    text: String,
}

impl MethodName {
    /// Resolves aliases, in any case. A name that is not in the table stays as it was written.
    pub fn resolve(written: &str) -> Result<Self, MethodNameError> {
        let valid = (1..=MAX_NAME).contains(&written.len())
            && written.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if !valid {
            return Err(MethodNameError { text: written.chars().take(2 * MAX_NAME).collect() });
        }
        Ok(Self { canonical: canonical(written).unwrap_or(written).to_owned(), written: written.to_owned() })
    }

    /// The name that travels and that rules are about.
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    /// The name as the person wrote it, for what is told to that person.
    pub fn written(&self) -> &str {
        &self.written
    }

    /// Whether this version knows the name at all; a node may still not offer it.
    pub fn is_known(&self) -> bool {
        METHODS.iter().any(|(name, _)| *name == self.canonical)
    }
}

impl fmt::Display for MethodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.canonical)
    }
}

fn canonical(written: &str) -> Option<&'static str> {
    METHODS
        .iter()
        .find(|(name, aliases)| {
            name.eq_ignore_ascii_case(written) || aliases.iter().any(|a| a.eq_ignore_ascii_case(written))
        })
        .map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_in_any_case_mean_one_method() {
        for (written, canonical) in [
            ("cmd", "cmd"),
            ("CMD", "cmd"),
            ("REQCliCommand", "cmd"),
            ("reqnclicommand", "cmd"),
            ("cliCommand", "cmd"),
            ("REQTailFile", "file.tail"),
            ("REQOpProcessStop", "op.stop"),
            ("REQSomethingNew", "REQSomethingNew"),
        ] {
            let name = MethodName::resolve(written).unwrap();
            assert_eq!((name.canonical(), name.written()), (canonical, written));
        }
        assert!(!MethodName::resolve("REQSomethingNew").unwrap().is_known());
        for bad in ["", "a b", "a\n", "é", &"x".repeat(MAX_NAME + 1)] {
            assert!(MethodName::resolve(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn no_name_means_two_methods() {
        let mut names: Vec<_> = METHODS
            .iter()
            .flat_map(|(name, aliases)| std::iter::once(name).chain(*aliases))
            .map(|name| name.to_ascii_lowercase())
            .collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn replies_are_found_by_alias_and_nothing_else_is_one() {
        assert_eq!(ReplyMethod::find("REQToFileAppend"), Some(ReplyMethod::FileAppend));
        assert_eq!(ReplyMethod::find("reqtofile"), Some(ReplyMethod::FileWrite));
        assert_eq!(ReplyMethod::find("None"), Some(ReplyMethod::None));
        assert_eq!(ReplyMethod::find("cmd"), None);
    }
}

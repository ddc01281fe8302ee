//! Names in the Store: keys, prefixes of keys, and logs.
//!
//! A name is tokens separated by dots, as subjects are in NATS: `node.abc.facts`. Tokens are of the
//! characters that NATS takes in keys, less the dot, so that every kind of Store can hold every name.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest name. NATS bounds a subject by its control line of 4 KiB; ours stay far below it.
pub const MAX_NAME: usize = 255;

/// A text that is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a valid {kind}: it is tokens of A-Z a-z 0-9 - _ = separated by dots, {MAX_NAME} bytes at most"
)]
pub struct NameError {
    kind: &'static str,
    text: String,
}

fn check(kind: &'static str, text: &str) -> Result<(), NameError> {
    let token = |token: &str| {
        !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_=".contains(&b))
    };
    if text.len() <= MAX_NAME && text.split('.').all(token) {
        return Ok(());
    }
    Err(NameError { kind, text: text.chars().take(MAX_NAME).collect() })
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// # Errors
            /// If the text is not dot-separated tokens.
            pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
                let text = text.as_ref();
                check($kind, text)?;
                Ok(Self(text.into()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Its parts between the dots.
            pub fn tokens(&self) -> impl DoubleEndedIterator<Item = &str> {
                self.0.split('.')
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

name!(
    /// The name of a value, and of a lease.
    Key,
    "key"
);
name!(
    /// The name of a log.
    LogName,
    "log name"
);

/// All keys that go on, with a dot, where this ends. `a.b` is a prefix of `a.b.c`, not of `a.b` itself nor
/// of `a.bc`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Prefix(Option<Arc<str>>);

impl Prefix {
    /// The prefix of every key.
    pub const ALL: Self = Self(None);

    /// # Errors
    /// If the text is not dot-separated tokens.
    pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
        let text = text.as_ref();
        check("prefix", text)?;
        Ok(Self(Some(text.into())))
    }

    pub fn contains(&self, key: &Key) -> bool {
        match &self.0 {
            None => true,
            Some(prefix) => key.as_str().strip_prefix(&**prefix).is_some_and(|rest| rest.starts_with('.')),
        }
    }

    /// The keys are those from the first of these on, and before the second.
    pub(crate) fn bounds(&self) -> (String, String) {
        match &self.0 {
            // Above every character that a name may have.
            None => (String::new(), "\u{7f}".into()),
            // The slash is what comes right after the dot.
            Some(prefix) => (format!("{prefix}."), format!("{prefix}/")),
        }
    }
}

impl FromStr for Prefix {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl From<&Key> for Prefix {
    fn from(key: &Key) -> Self {
        Self(Some(Arc::clone(&key.0)))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or(""))
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Prefix({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dotted_tokens() {
        for good in ["a", "node.abc.facts", "A-1_=.9", &"x".repeat(MAX_NAME)] {
            assert_eq!(Key::new(good).unwrap().as_str(), good);
            assert!(LogName::new(good).is_ok() && Prefix::new(good).is_ok());
        }
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a b",
            "a/b",
            "a*",
            "a.>",
            "ä",
            "a\0",
            "$KV.a",
            &"x".repeat(MAX_NAME + 1),
        ] {
            assert!(
                Key::new(bad).is_err() && LogName::new(bad).is_err() && Prefix::new(bad).is_err(),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn a_prefix_is_whole_tokens() {
        let prefix = Prefix::new("a.b").unwrap();
        let (from, to) = prefix.bounds();
        for (key, inside) in [
            ("a.b.c", true),
            ("a.b.c.d", true),
            ("a.b", false),
            ("a.bc", false),
            ("a.b-c.d", false),
            ("a.c.b", false),
        ] {
            let key = Key::new(key).unwrap();
            assert_eq!(prefix.contains(&key), inside, "{key}");
            assert_eq!(from.as_str() <= key.as_str() && key.as_str() < to.as_str(), inside, "{key}");
            let (from, to) = Prefix::ALL.bounds();
            assert!(
                Prefix::ALL.contains(&key) && from.as_str() <= key.as_str() && key.as_str() < to.as_str()
            );
        }
    }
}

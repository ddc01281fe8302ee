//! Types of parameters that several modules have: permission bits, accounts, absolute paths.
//!
//! Reading one checks it, so that what is wrong in a states file is said when it is compiled.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use mainstay_core::time::Span;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Permission bits with setuid, setgid and sticky, written as three or four octal digits in quotes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Mode(pub u32);

impl Mode {
    /// Three or four octal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = matches!(text.len(), 3 | 4) && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
        digits.then(|| u32::from_str_radix(text, 8).ok().map(Self))?
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            de::Error::custom(format_args!("mode {text:?} is not three or four octal digits, as \"0644\""))
        })
    }
}

impl Serialize for Mode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A user or a group: by name, or by number.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Account(String);

impl Account {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn is_one(name: &str) -> bool {
        !name.is_empty() && !name.contains([':', '\n', '\0', '/'])
    }

    /// It was given by number: there need not be such an account.
    pub fn number(&self) -> Option<u32> {
        self.0.bytes().all(|byte| byte.is_ascii_digit()).then(|| self.0.parse().ok())?
    }
}

impl From<&str> for Account {
    fn from(name: &str) -> Self {
        Self(name.to_owned())
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for Account {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrNumber;

        impl Visitor<'_> for NameOrNumber {
            type Value = Account;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name or the number of an account")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Account, E> {
                Account::is_one(name)
                    .then(|| Account(name.to_owned()))
                    .ok_or_else(|| E::custom(format_args!("{name:?} is not the name of an account")))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Account, E> {
                // All ones means "leave it" to the kernel.
                let number = u32::try_from(number).ok().filter(|number| *number != u32::MAX);
                number
                    .map(|number| Account(number.to_string()))
                    .ok_or_else(|| E::custom("the number of an account has 32 bits"))
            }
        }

        deserializer.deserialize_any(NameOrNumber)
    }
}

/// An absolute path without `..`, and without a slash at its end.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostPath(PathBuf);

impl HostPath {
    pub fn parse(text: &str) -> Result<Self, String> {
        match Self::fault(text) {
            Some(fault) => Err(format!("the path {text:?} {fault}")),
            None => Ok(Self(plain(Path::new(text)).into_owned())),
        }
    }

    /// What is wrong with it, in words that begin with it.
    pub fn check(text: &str) -> Result<(), String> {
        Self::fault(text).map_or(Ok(()), |fault| Err(format!("it {fault}")))
    }

    fn fault(text: &str) -> Option<&'static str> {
        let path = Path::new(text);
        if !path.is_absolute() {
            Some("is not absolute")
        } else if text.contains('\0') {
            Some("holds a zero byte")
        } else if text.contains("..") && path.components().any(|part| part == Component::ParentDir) {
            Some("holds `..`")
        } else {
            None
        }
    }

    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl Deref for HostPath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl<'de> Deserialize<'de> for HostPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

/// A path without what means nothing in it: doubled slashes, `.`, a slash at the end. Most are written so.
pub(crate) fn plain(path: &Path) -> Cow<'_, Path> {
    let bytes = path.as_os_str().as_bytes();
    let is_plain = bytes == b"/"
        || !bytes.ends_with(b"/")
            && bytes.windows(2).all(|pair| pair[0] != b'/' || !matches!(pair[1], b'/' | b'.'));
    if is_plain { Cow::Borrowed(path) } else { Cow::Owned(path.components().collect()) }
}

/// A length of time: a number of seconds, or a text as `30s` and `1h30m`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Period(pub Duration);

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SecondsOrText;

        impl Visitor<'_> for SecondsOrText {
            type Value = Period;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of seconds, or a text like 30s")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Period, E> {
                text.parse::<Span>().map(|span| Period(span.0)).map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Period, E> {
                Ok(Period(Duration::from_secs(seconds)))
            }

            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<Period, E> {
                let span = Span::from_seconds(seconds);
                span.map(|span| Period(span.0)).ok_or_else(|| E::custom("it is no number of seconds"))
            }
        }

        deserializer.deserialize_any(SecondsOrText)
    }
}

macro_rules! schema {
    ($type:ty, $name:literal, $schema:tt) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

schema!(Mode, "Mode", { "type": "string", "pattern": "^[0-7]{3,4}$" });
schema!(Account, "Account", { "type": ["string", "integer"], "format": "account", "minimum": 0, "maximum": 4_294_967_294u32 });
schema!(HostPath, "HostPath", { "type": "string", "format": "absolute-path" });
schema!(Period, "Period", { "type": ["string", "number"], "format": "duration", "minimum": 0 });

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mode_is_octal_digits() {
        assert_eq!(Mode::parse("0640"), Some(Mode(0o640)));
        assert_eq!(Mode::parse("755").unwrap().to_string(), "0755");
        for bad in ["", "64", "0888", "00644", "+644", "u=rw"] {
            assert_eq!(Mode::parse(bad), None, "{bad}");
        }
        assert!(serde_json::from_value::<Mode>(json!(644)).is_err());
    }

    #[test]
    fn an_account_is_a_name_or_a_number() {
        let read = |value| serde_json::from_value::<Account>(value);
        assert_eq!(read(json!("www-data")).unwrap().number(), None);
        assert_eq!(read(json!("1000")).unwrap().number(), Some(1000));
        assert_eq!(read(json!(1000)).unwrap().number(), Some(1000));
        for bad in [json!(""), json!("a:b"), json!(-1), json!(u32::MAX), json!(1.5), json!(true)] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_plain_path_is_one_that_its_parts_make_again() {
        for path in [
            "/", "/a", "/a/b", "a", "", "a.b/c", "/a/.b", "//a", "/a//b", "/a/", "/a/.", "/./a", "./a",
            "/a/../b", ".",
        ] {
            let path = Path::new(path);
            assert_eq!(
                plain(path).as_os_str(),
                path.components().collect::<PathBuf>().as_os_str(),
                "{path:?}"
            );
        }
    }

    #[test]
    fn a_length_of_time_is_seconds_or_a_text() {
        let read = |value| serde_json::from_value::<Period>(value).map(|period| period.0.as_millis());
        for (value, millis) in [(json!(90), 90_000), (json!(0.5), 500), (json!("1h30m"), 5_400_000)] {
            assert_eq!(read(value.clone()).unwrap(), millis, "{value}");
        }
        for bad in [json!(-1), json!(-0.5), json!("5"), json!("soon"), json!(1e300), json!(true), json!(null)]
        {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_path_is_absolute_and_goes_only_down() {
        assert_eq!(HostPath::parse("/etc//app/").unwrap().as_path(), Path::new("/etc/app"));
        for bad in ["", "etc", "./etc", "/etc/../root", "/a\0b"] {
            assert!(HostPath::parse(bad).is_err(), "{bad:?}");
        }
    }
}

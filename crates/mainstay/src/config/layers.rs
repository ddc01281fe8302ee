//! Lays the sources of a configuration over each other, and keeps flags in the file.

use std::path::Path;

use figment::Figment;
use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Value};
use mainstay_control::view::{Problem, ProblemKind};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::file;

/// The configuration file in a data directory.
pub const FILE: &str = "mainstay.toml";

const PREFIX: &str = "MAINSTAY_";

/// What a daemon's configuration is made of.
pub trait Layered: DeserializeOwned + Serialize + Default {
    /// The file as it is first written: every default, each with a comment.
    const TEMPLATE: &'static str;
    /// The keys that a variable `MAINSTAY_KEY` may set (`MAINSTAY_TABLE__KEY` within a table).
    const KEYS: &'static [&'static str];

    /// What the types cannot say.
    fn check(&self) -> Result<(), Problem>;
}

/// Loads the configuration in `data`. The file is written if there is none, and `flags` are saved to it.
///
/// Nothing is written when anything is wrong.
pub fn load<T: Layered>(data: &Path, flags: &impl Serialize) -> Result<T, Problem> {
    let environment = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    load_with(data, flags, environment)
}

fn load_with<T: Layered>(
    data: &Path,
    flags: &impl Serialize,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<T, Problem> {
    let path = data.join(FILE);
    let before = match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(file::unreadable(&path, &e)),
    };
    let text = before.as_deref().unwrap_or(T::TEMPLATE);
    // The file by itself first: only so does an error name its line.
    file::parse::<T>(&path, text)?.check().map_err(|problem| within(&path.display().to_string(), problem))?;
    let changes = toml_edit::ser::to_document(flags).map_err(|e| {
        Problem::new(ProblemKind::Internal, format!("the flags cannot be written as TOML: {e}"))
    })?;
    let after = file::amend(&path, text, &changes)?;
    let config: T = Figment::from(Serialized::defaults(T::default()))
        .merge(Toml::string(&after))
        .merge(Serialized::globals(variables::<T>(environment)))
        .merge(Serialized::globals(flags))
        .extract()
        .map_err(|error| Problem::new(ProblemKind::Invalid, describe(&error)))?;
    config.check().map_err(|problem| within("a flag or variable", problem))?;
    if before.as_deref() != Some(&after) {
        file::write(&path, &after)?;
    }
    Ok(config)
}

fn within(place: &str, problem: Problem) -> Problem {
    Problem { message: format!("{place}: {}", problem.message), ..problem }
}

/// The variables that name a key of this configuration. Other `MAINSTAY_*` variables are none of its.
fn variables<T: Layered>(environment: impl Iterator<Item = (String, String)>) -> Dict {
    let defaults = Figment::from(Serialized::defaults(T::default()));
    let mut values = Figment::new();
    for (name, text) in environment {
        let Some(key) = name.strip_prefix(PREFIX) else {
            continue;
        };
        let key = key.to_ascii_lowercase().replace("__", ".");
        if T::KEYS.contains(&key.split('.').next().unwrap_or_default()) {
            // What is text by its type stays text, even if it looks like a number: a node may be named 1234.
            let is_text = matches!(defaults.find_value(&key), Ok(Value::String(..)) | Err(_));
            let value = if is_text { Value::from(text) } else { text.parse().expect("at worst a string") };
            values = values.merge((key, value));
        }
    }
    values.extract().unwrap_or_default()
}

/// The file was good, so what is wrong came from a variable.
fn describe(error: &figment::Error) -> String {
    let key = error.path.join("__").to_uppercase();
    format!("the variable {PREFIX}{key}: {}", error.kind)
}

/// Writes values that the program learned (from a join token, say) to the file, as if they were flags.
pub fn remember(data: &Path, learned: &impl Serialize) -> Result<(), Problem> {
    let path = data.join(FILE);
    let text = std::fs::read_to_string(&path).map_err(|e| file::unreadable(&path, &e))?;
    let changes = toml_edit::ser::to_document(learned)
        .map_err(|e| Problem::new(ProblemKind::Internal, format!("this cannot be written as TOML: {e}")))?;
    let after = file::amend(&path, &text, &changes)?;
    if after == text { Ok(()) } else { file::write(&path, &after) }
}

/// A list as TOML has it, or as a variable can: `a,b`.
pub(super) fn list<'de, D, T>(input: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: From<String>,
{
    #[derive(serde::Deserialize)]
    #[serde(untagged, expecting = "a list of strings")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match serde::Deserialize::deserialize(input)? {
        OneOrMany::Many(list) => list.into_iter().map(T::from).collect(),
        OneOrMany::One(text) => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            parts.map(|part| T::from(part.to_owned())).collect()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::agent::{AgentConfig, AgentFlags, Learned};
    use crate::config::hub::{HubConfig, HubFlags};

    fn environment(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        pairs.into_iter()
    }

    fn load(data: &Path, flags: &HubFlags, pairs: &[(&str, &str)]) -> Result<HubConfig, Problem> {
        load_with(data, flags, environment(pairs))
    }

    #[test]
    fn the_templates_say_the_defaults() {
        let path = Path::new(FILE);
        assert_eq!(file::parse::<HubConfig>(path, HubConfig::TEMPLATE).unwrap(), HubConfig::default());
        assert_eq!(file::parse::<AgentConfig>(path, AgentConfig::TEMPLATE).unwrap(), AgentConfig::default());
    }

    #[test]
    fn flags_win_over_variables_over_the_file_over_defaults_and_flags_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = load(dir.path(), &HubFlags::default(), &[]).unwrap();
        assert_eq!(first, HubConfig::default());
        let path = dir.path().join(FILE);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), HubConfig::TEMPLATE);

        let flags = HubFlags {
            name: Some("north".parse().unwrap()),
            advertise: vec!["hub:7420".into()],
            ..HubFlags::default()
        };
        let pairs = [
            ("MAINSTAY_NAME", "south"),
            ("MAINSTAY_LISTEN", "127.0.0.1:1"),
            ("MAINSTAY_LIMITS__QUEUE_MESSAGES", "7"),
            ("MAINSTAY_HUB", "elsewhere"),
        ];
        let config = load(dir.path(), &flags, &pairs).unwrap();
        assert_eq!(config.name.as_str(), "north");
        assert_eq!(config.listen, "127.0.0.1:1".parse().unwrap());
        assert_eq!(config.limits.queue_messages, 7);
        assert_eq!(config.limits.queue_bytes, HubConfig::default().limits.queue_bytes);

        // A start without flags: what was a flag stays, what was a variable does not.
        let config = load(dir.path(), &HubFlags::default(), &[]).unwrap();
        assert_eq!(config.name.as_str(), "north");
        assert_eq!(config.advertise, ["hub:7420"]);
        assert_eq!(config.listen, HubConfig::default().listen);
        let text = std::fs::read_to_string(&path).unwrap();
        let comments = |text: &str| text.lines().filter(|line| line.starts_with('#')).count();
        assert_eq!(comments(&text), comments(HubConfig::TEMPLATE));
    }

    #[test]
    fn lists_are_taken_from_variables_too() {
        let dir = tempfile::tempdir().unwrap();
        let config = load(dir.path(), &HubFlags::default(), &[("MAINSTAY_ADVERTISE", "a:1, b:2")]).unwrap();
        assert_eq!(config.advertise, ["a:1", "b:2"]);
        let pairs =
            [("MAINSTAY_RECEIVED_ROOTS", "/a"), ("MAINSTAY_NAME", "1234"), ("MAINSTAY_HISTORY_BYTES", "5")];
        let config = load(dir.path(), &HubFlags::default(), &pairs).unwrap();
        assert_eq!(config.received_roots, [std::path::PathBuf::from("/a")]);
        assert_eq!((config.name.as_str(), config.history_bytes), ("1234", 5));
        let dir = tempfile::tempdir().unwrap();
        let agent: AgentConfig =
            load_with(dir.path(), &AgentFlags::default(), environment(&[("MAINSTAY_NAME", "007")])).unwrap();
        assert_eq!(agent.name, Some("007".parse().unwrap()));
    }

    #[test]
    fn what_is_wrong_is_named_and_nothing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let flags = HubFlags { advertise: vec!["nowhere".into()], ..HubFlags::default() };
        let wrong = |flags: &HubFlags, pairs| load(dir.path(), flags, pairs).unwrap_err().message;
        let mut messages = vec![
            wrong(&flags, &[]),
            wrong(&HubFlags::default(), &[("MAINSTAY_LISTEN", "here")]),
            wrong(&HubFlags::default(), &[("MAINSTAY_LIMITS__CONCURRENT", "many")]),
            wrong(&HubFlags::default(), &[("MAINSTAY_LIMITS__CONCURRENT", "0")]),
        ];
        assert!(!dir.path().join(FILE).exists());
        std::fs::write(dir.path().join(FILE), "name = \"a\"\n[limits]\nqueue = 1\n").unwrap();
        messages.push(wrong(&HubFlags::default(), &[]));
        std::fs::write(dir.path().join(FILE), "store = \"nats://x\"\n").unwrap();
        messages.push(wrong(&HubFlags::default(), &[]));
        let messages = messages.join("\n").replace(dir.path().to_str().unwrap(), "DIR");
        insta::assert_snapshot!(messages);
    }

    #[test]
    fn labels_given_as_flags_join_those_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let flags = |labels: &[(&str, &str)]| AgentFlags {
            labels: labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            ..AgentFlags::default()
        };
        load_with::<AgentConfig>(dir.path(), &flags(&[("a", "1"), ("b", "2")]), environment(&[])).unwrap();
        let config: AgentConfig = load_with(dir.path(), &flags(&[("b", "3")]), environment(&[])).unwrap();
        assert_eq!(config.labels, [("a".into(), "1".into()), ("b".into(), "3".into())].into());
        remember(dir.path(), &Learned { links: vec!["hub:1".into()], ..Learned::default() }).unwrap();
        let config: AgentConfig = load_with(dir.path(), &flags(&[]), environment(&[])).unwrap();
        assert_eq!(config.links, ["hub:1"]);
    }
}

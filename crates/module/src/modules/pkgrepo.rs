//! `pkgrepo`: a repository that the machine's package manager reads, and the key that it trusts for it.
//!
//! A changed repository makes the list of packages out of date. It is not read here: the next `pkg` that installs
//! something does it, once for all repositories that changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use data_encoding::HEXUPPER;
use mainstay_core::state::plan::{Change, Datum};
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::blob::Blob;
use crate::content;
use crate::failure::Failure;
use crate::forecast::Resource;
use crate::format::{Fingerprint, Word};
use crate::host::{Host, Ownership, View};
use crate::module::{About, Analysis, Analyze, Applied, Apply, Blobs, Module};
use crate::packages::{Manager, key, mark_outdated};

/// apk has one file for all repositories.
const APK_REPOSITORIES: &str = "/etc/apk/repositories";

pub struct Pkgrepo;

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PkgrepoParams {
    /// Names the repository and its files: `/etc/apt/sources.list.d/NAME.sources`, `/etc/yum.repos.d/NAME.repo`.
    #[schemars(extend("format" = "repository-name"))]
    name: String,
    /// Where it is: for apt what `URIs` takes, for dnf `baseurl`, for apk lines of `/etc/apk/repositories`.
    #[serde(default)]
    #[schemars(with = "Vec<Word>")]
    uris: Vec<String>,
    /// apt: the suites, as `bookworm`; one that ends with `/` is a path, and has no components.
    #[serde(default)]
    #[schemars(with = "Vec<Word>")]
    suites: Vec<String>,
    /// apt: the components, as `main`.
    #[serde(default)]
    #[schemars(with = "Vec<Word>")]
    components: Vec<String>,
    /// apt: `deb`, `deb-src` or both; `deb` without it.
    #[serde(default = "only_deb")]
    #[schemars(with = "Vec<Word>")]
    types: Vec<String>,
    /// apt: only for these architectures.
    #[serde(default)]
    #[schemars(with = "Vec<Word>")]
    architectures: Vec<String>,
    /// What people are told that it is (dnf `name`); the name without it.
    #[schemars(extend("format" = "one-line"))]
    description: Option<String>,
    /// The key that signs it, as text: an OpenPGP key in its armor, or for apk a PEM.
    key: Option<String>,
    /// The key as a file beside the states file, with armor or without.
    key_file: Option<Blob>,
    /// The whole fingerprint of the key, or of each key in it: another key is refused. For apk, the SHA-256 of the file.
    fingerprint: Option<OneOrMany>,
    /// apk: the name of the key's file, as the repository's signature gives it; `NAME.rsa.pub` without it.
    #[schemars(extend("format" = "repository-name"))]
    key_name: Option<String>,
    /// Use it although nothing signs it.
    #[serde(default)]
    trusted: bool,
    /// `false`: it is there, and not used.
    #[serde(default = "yes")]
    enabled: bool,
    /// Further fields of the file, as the package manager names them.
    #[serde(default)]
    options: BTreeMap<String, String>,
    /// There must be no such repository; its key goes with it.
    #[serde(default)]
    absent: bool,
    /// Which package manager is meant, on a machine that has several.
    manager: Option<Manager>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
enum OneOrMany {
    One(#[schemars(with = "Fingerprint")] String),
    Many(#[schemars(with = "Vec<Fingerprint>")] Vec<String>),
}

impl OneOrMany {
    fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

fn only_deb() -> Vec<String> {
    vec!["deb".into()]
}

fn yes() -> bool {
    true
}

/// A file as it shall be; no bytes for one that shall not be.
struct Wanted {
    field: &'static str,
    path: PathBuf,
    bytes: Option<Vec<u8>>,
    /// For people, in place of what is in it.
    told: Option<String>,
}

impl PkgrepoParams {
    fn key_bytes<'a>(&'a self, blobs: Blobs<'a>) -> Result<Option<&'a [u8]>, Failure> {
        match (&self.key, &self.key_file) {
            (Some(text), _) => Ok(Some(text.as_bytes())),
            (None, Some(blob)) => blobs.get(&blob.id).map(Some),
            (None, None) => Ok(None),
        }
    }

    fn key_path(&self, manager: Manager, key: Option<&[u8]>) -> PathBuf {
        let name = &self.name;
        match manager {
            // apt tells the two forms apart by the ending.
            Manager::Apt if key.is_none_or(key::is_armored) => format!("/etc/apt/keyrings/{name}.asc"),
            Manager::Apt => format!("/etc/apt/keyrings/{name}.gpg"),
            Manager::Dnf => format!("/etc/pki/rpm-gpg/RPM-GPG-KEY-{name}"),
            Manager::Apk => {
                format!(
                    "/etc/apk/keys/{}",
                    self.key_name.clone().unwrap_or_else(|| format!("{name}.rsa.pub"))
                )
            }
        }
        .into()
    }

    /// What the key is; an error if it is not the one that is meant.
    fn identify(&self, manager: Manager, key: &[u8]) -> Result<Vec<String>, Failure> {
        let refused = |words: &str| Failure::new(format!("check the key of {}", self.name), words);
        let found = match manager {
            Manager::Apk => vec![HEXUPPER.encode(&Sha256::digest(key))],
            _ => key::fingerprints(key).map_err(refused)?,
        };
        let Some(meant) = &self.fingerprint else { return Ok(found) };
        let meant: Vec<String> = meant.all().iter().filter_map(|text| key::normal(text)).collect();
        match found.iter().find(|fingerprint| !meant.contains(fingerprint)) {
            None => Ok(found),
            Some(other) => Err(refused(&format!("its fingerprint is {other}, not {}", meant.join(" or ")))),
        }
    }

    fn file(&self, manager: Manager) -> PathBuf {
        match manager {
            Manager::Apt => format!("/etc/apt/sources.list.d/{}.sources", self.name),
            Manager::Dnf => format!("/etc/yum.repos.d/{}.repo", self.name),
            Manager::Apk => APK_REPOSITORIES.into(),
        }
        .into()
    }

    fn deb822(&self, key: Option<&Path>) -> String {
        let mut text = String::new();
        let mut field = |name: &str, value: &str| text.push_str(&format!("{name}: {value}\n"));
        if !self.enabled {
            field("Enabled", "no");
        }
        field("Types", &self.types.join(" "));
        field("URIs", &self.uris.join(" "));
        field("Suites", &self.suites.join(" "));
        for (name, values) in [("Components", &self.components), ("Architectures", &self.architectures)] {
            if !values.is_empty() {
                field(name, &values.join(" "));
            }
        }
        if let Some(key) = key {
            field("Signed-By", &key.display().to_string());
        }
        if self.trusted {
            field("Trusted", "yes");
        }
        self.options.iter().for_each(|(name, value)| field(name, value));
        text
    }

    fn repo(&self, key: Option<&Path>) -> String {
        let mut text = format!("[{}]\n", self.name);
        let mut field = |name: &str, value: &str| text.push_str(&format!("{name}={value}\n"));
        field("name", self.description.as_deref().unwrap_or(&self.name));
        if !self.uris.is_empty() {
            field("baseurl", &self.uris.join(" "));
        }
        let digit = |on: bool| if on { "1" } else { "0" };
        field("enabled", digit(self.enabled));
        field("gpgcheck", digit(!self.trusted));
        if let Some(key) = key {
            field("gpgkey", &format!("file://{}", key.display()));
        }
        self.options.iter().for_each(|(name, value)| field(name, value));
        text
    }

    /// The one file of apk with this repository's lines in it, or without.
    fn repositories(&self, now: &str) -> String {
        let mut lines: Vec<&str> = now.lines().collect();
        if self.absent || !self.enabled {
            lines.retain(|line| !self.uris.iter().any(|uri| line.trim() == uri));
        } else {
            let missing =
                self.uris.iter().filter(|uri| !lines.iter().any(|line| line.trim() == uri.as_str()));
            let missing: Vec<&str> = missing.map(String::as_str).collect();
            lines.extend(missing);
        }
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    fn wanted(&self, view: &View, blobs: Blobs<'_>) -> Result<Vec<Wanted>, Failure> {
        let manager = self.manager.map_or_else(|| Manager::of(view), Ok)?;
        let key = self.key_bytes(blobs)?;
        let key_path = self.key_path(manager, key);
        let mut wanted = Vec::new();
        if let Some(key) = key.filter(|_| !self.absent) {
            let told = self.identify(manager, key)?.join(", ");
            wanted.push(Wanted {
                field: "key",
                path: key_path.clone(),
                bytes: Some(key.to_vec()),
                told: Some(told),
            });
        }
        let key_path = key.map(|_| key_path.as_path());
        let path = self.file(manager);
        let text = match manager {
            Manager::Apk => {
                let now = view.read(&path)?.unwrap_or_default();
                Some(self.repositories(&String::from_utf8_lossy(&now)))
            }
            _ if self.absent => None,
            Manager::Apt => Some(self.deb822(key_path)),
            Manager::Dnf => Some(self.repo(key_path)),
        };
        wanted.push(Wanted { field: "content", path, bytes: text.map(String::into_bytes), told: None });
        if self.absent {
            // Whichever form it had.
            let keys = [self.key_path(manager, None), self.key_path(manager, Some(b""))];
            let mut keys = keys.to_vec();
            keys.dedup();
            wanted.extend(keys.into_iter().map(|path| Wanted {
                field: "key",
                path,
                bytes: None,
                told: None,
            }));
        }
        Ok(wanted)
    }
}

impl Wanted {
    fn change(&self, view: &View) -> Result<Option<Change>, Failure> {
        let now = view.read(&self.path)?;
        if now == self.bytes {
            return Ok(None);
        }
        Ok(Some(match (&self.bytes, &self.told) {
            (Some(_), Some(told)) => {
                let before = match &now {
                    None => Datum::Absent,
                    Some(now) => Datum::known(match key::fingerprints(now) {
                        Ok(found) => found.join(", "),
                        Err(_) => content::describe(now),
                    }),
                };
                // Another form of the same key is another file all the same.
                let told = Datum::known(told.clone());
                let after = if before == told {
                    Datum::known(content::describe(self.bytes.as_deref().unwrap_or_default()))
                } else {
                    told
                };
                Change::new(self.field, before, after)
            }
            (Some(bytes), None) => content::change(self.field, now.as_deref(), bytes, Datum::known),
            (None, _) => {
                let before = Datum::known(content::describe(now.as_deref().unwrap_or_default()));
                Change::new(self.field, before, Datum::Absent)
            }
        }))
    }

    fn put(&self, host: &Host) -> Result<(), Failure> {
        if host.read(&self.path)? == self.bytes {
            return Ok(());
        }
        let Some(bytes) = &self.bytes else { return host.remove(&self.path) };
        let parent = self.path.parent().unwrap_or(&self.path);
        if host.target(parent)?.is_none() {
            host.make_directory(parent, Ownership { mode: Some(0o755), ..Ownership::default() })?;
        }
        host.write(&self.path, bytes, Ownership { uid: Some(0), gid: Some(0), mode: Some(0o644) })
    }
}

/// What is wrong with a name of which files are made.
pub(crate) fn check_file_name(text: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-@".contains(c);
    let good = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(plain)
        && !text.contains("..");
    if good { Ok(()) } else { Err("it cannot be the name of a file".into()) }
}

/// What is wrong with a word in the file of a repository.
pub(crate) fn check_word(word: &str) -> Result<(), String> {
    // apk writes `@TAG URL`.
    let text =
        word.strip_prefix('@').map_or(word, |tagged| tagged.split_once(' ').map_or(tagged, |(_, rest)| rest));
    let wrong = text.is_empty()
        || text.contains(|c: char| c.is_whitespace() || c.is_control())
        || text.starts_with(['-', '#']);
    if wrong { Err("it is not a single word".into()) } else { Ok(()) }
}

pub(crate) fn check_fingerprint(text: &str) -> Result<(), String> {
    match key::normal(text) {
        Some(_) => Ok(()),
        None => Err("it is not a whole fingerprint: 40 or 64 hexadecimal digits".into()),
    }
}

impl Module for Pkgrepo {
    type Params = PkgrepoParams;

    fn about(&self) -> About {
        About {
            name: "pkgrepo",
            summary: "A repository of packages, and the key that signs it (apt, dnf, apk).",
            identity: Some("name"),
            dry_run: "Complete. The list of packages is not read; a later `pkg` does that when it installs something.",
            outputs: &[("fingerprints", "the fingerprints of its key")],
            example: "\
nodesource:
  pkgrepo:
    uris: [https://deb.nodesource.com/node_22.x]
    suites: [nodistro]
    components: [main]
    key_file: nodesource.asc
    fingerprint: 6F71 F525 2829 41C4 C63B  F51B 2F59 B5F9 9B1B E0B4
nodejs:
  pkg: {}
",
        }
    }

    fn check(&self, params: &PkgrepoParams) -> Result<(), String> {
        for name in [&params.name].into_iter().chain(&params.key_name) {
            check_file_name(name).map_err(|why| format!("{name:?}: {why}"))?;
        }
        let words = [&params.uris, &params.suites, &params.components, &params.types, &params.architectures];
        for word in words.into_iter().flatten() {
            check_word(word).map_err(|why| format!("{word:?}: {why}"))?;
        }
        for (name, value) in &params.options {
            let plain = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
            if name.is_empty() || !name.chars().all(plain) || value.contains(|c: char| c.is_control()) {
                return Err(format!("`options`: {name:?} is not a field, or its value is not one line"));
            }
        }
        if params.description.as_ref().is_some_and(|text| text.contains(|c: char| c.is_control())) {
            return Err("`description` is one line".into());
        }
        if params.key.is_some() && params.key_file.is_some() {
            return Err("only one of `key` and `key_file` can be given".into());
        }
        if let Some(fingerprint) = &params.fingerprint {
            if params.key.is_none() && params.key_file.is_none() {
                return Err("`fingerprint` needs `key` or `key_file`".into());
            }
            for text in fingerprint.all() {
                check_fingerprint(text).map_err(|why| format!("`fingerprint`: {text:?}: {why}"))?;
            }
        }
        let complete = !params.uris.is_empty()
            || params.options.keys().any(|name| name == "metalink" || name == "mirrorlist");
        if !params.absent && !complete {
            return Err("`uris` is missing: where the repository is".into());
        }
        Ok(())
    }

    fn provides(&self, _: &PkgrepoParams) -> Vec<Resource> {
        vec![Resource::package_index()]
    }

    fn writes(&self, params: &PkgrepoParams) -> Vec<PathBuf> {
        [Manager::Apt, Manager::Dnf, Manager::Apk].map(|manager| params.file(manager)).into()
    }

    fn analyze(&self, params: &PkgrepoParams, cx: &Analyze<'_>) -> Result<Analysis, Failure> {
        let manager = params.manager.map_or_else(|| Manager::of(cx.view), Ok)?;
        if manager == Manager::Apt && !params.absent && params.suites.is_empty() {
            return Err(Failure::new(
                format!("plan repository {}", params.name),
                "for apt, `suites` is missing",
            ));
        }
        let mut changes = Vec::new();
        for wanted in params.wanted(cx.view, cx.blobs)? {
            changes.extend(wanted.change(cx.view)?);
        }
        let changed = !changes.is_empty();
        let mut analysis = Analysis::of(changes);
        if let Some(key) = params.key_bytes(cx.blobs)?.filter(|_| !params.absent) {
            analysis = analysis.output("fingerprints", params.identify(manager, key)?);
        }
        Ok(if changed { analysis.predict(Resource::package_index(), None) } else { analysis })
    }

    fn apply(&self, params: &PkgrepoParams, cx: &Apply<'_>, analysis: &Analysis) -> Result<Applied, Failure> {
        let wanted = params.wanted(cx.host, cx.blobs)?;
        mark_outdated(cx.host)?;
        // The key first: at no time is there a repository without it.
        wanted.iter().try_for_each(|wanted| wanted.put(cx.host))?;
        Ok(Applied { outputs: analysis.outputs.clone(), ..Applied::default() })
    }
}

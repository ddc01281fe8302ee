//! Modules that are programs of their own, in any language, speaking JSON.
//!
//! A program is called with one word: `describe`, `analyze` or `apply`. The last two get a request on stdin; each answers with
//! one JSON object on stdout and exit status 0, or with words for people on stderr and another status. Plain values among the
//! parameters are given as environment variables too (`PARAM_` and the name), so that a shell script needs no parser.
//!
//! Before every call the program's bytes are checked against its SHA-256, and its signature against the key if there
//! is one. What does not verify is never executed. The program lies in a directory that only this user may write; when a
//! state is done as another user, a copy of that user's own is made for the one call.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use mainstay_core::causes::with_causes;
use mainstay_core::state::catalog::{Extension, Minisign};
use mainstay_core::state::plan::{Change, Datum};
use mainstay_core::state::{StateId, StepWord, Values};
use minisign_verify::{PublicKey, Signature};
use nix::libc;
use nix::unistd::{Uid, geteuid, mkdtemp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::failure::Failure;
use crate::forecast::Resource;
use crate::host::{Command, Host, Ownership, Ran, View};
use crate::module::{About, Analysis, Analyze, Applied, Apply, Refreshed};
use crate::registry::{AnyModule, Params};

/// Of the way in which the two speak. A program that answers with another number is not understood.
pub const PROTOCOL: u32 = 1;

/// Largest program: a catalog carries it to every machine.
pub const MAX_PROGRAM: u64 = 16 << 20;

/// A program that only looks and takes longer than this hangs.
const ANALYZE_TIMEOUT: Duration = Duration::from_secs(120);
/// One that works may install something large.
const APPLY_TIMEOUT: Duration = Duration::from_secs(1800);

/// What nobody has used for this long is cleared away: it is kept again at its next use.
const UNUSED: Duration = Duration::from_secs(30 * 24 * 3600);

/// Why a program is not executed.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("the program's sha256 is {is} and not {wanted}")]
    Digest { is: String, wanted: String },
    #[error("the minisign public key cannot be read: {0}")]
    Key(minisign_verify::Error),
    #[error("the minisign signature cannot be read: {0}")]
    Signature(minisign_verify::Error),
    #[error("the signature is not the key's, or of other bytes: {0}")]
    Forged(minisign_verify::Error),
    #[error("{path} may be written by others")]
    Open { path: String },
    #[error("it is larger than {} MiB", MAX_PROGRAM >> 20)]
    TooLarge,
    #[error("keep it at {path}")]
    Keep { path: String, source: io::Error },
    #[error("keep it")]
    Write(#[source] Failure),
}

/// Checks a program's bytes. Digest first: a signature says who, the digest says which.
pub fn verify(bytes: &[u8], sha256: &str, minisign: Option<&Minisign>) -> Result<(), Refused> {
    let is: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if !is.eq_ignore_ascii_case(sha256) {
        return Err(Refused::Digest { is, wanted: sha256.to_owned() });
    }
    let Some(minisign) = minisign else { return Ok(()) };
    let key = minisign.public_key.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let key = PublicKey::from_base64(key.trim()).map_err(Refused::Key)?;
    let signature = Signature::decode(&minisign.signature).map_err(Refused::Signature)?;
    key.verify(bytes, &signature, false).map_err(Refused::Forged)
}

/// What a program says of itself.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    pub protocol: u32,
    /// One sentence.
    pub summary: String,
    /// The parameters as a JSON Schema of an object.
    pub params: Value,
    /// The parameter that says which thing is meant.
    #[serde(default)]
    pub identity: Option<String>,
    /// What the analyze phase can and cannot tell.
    #[serde(default)]
    pub dry_run: String,
    /// Name and meaning of what later states can read.
    #[serde(default)]
    pub outputs: std::collections::BTreeMap<String, String>,
    /// A `states:` section, as YAML.
    #[serde(default)]
    pub example: String,
}

#[derive(Serialize)]
struct Request<'a> {
    protocol: u32,
    state: &'a StateId,
    params: &'a Values,
    /// To `apply`: what `analyze` listed, in its own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<Vec<Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Analyzed {
    /// Without it, a change if there are changes.
    step: Option<StepWord>,
    reason: Option<String>,
    #[serde(default)]
    changes: Vec<Listed>,
    #[serde(default)]
    outputs: Values,
}

/// `null`, or nothing at all, is what is not there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    field: String,
    #[serde(default)]
    before: Value,
    #[serde(default)]
    after: Value,
    diff: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Done {
    #[serde(default)]
    outputs: Values,
    #[serde(default)]
    unchanged: bool,
    note: Option<String>,
}

/// A program that was kept, and serves as a module.
pub struct Program {
    path: PathBuf,
    sha256: String,
    minisign: Option<Minisign>,
    about: About,
    schema: Value,
    /// One at a time between check and start: nobody replaces it in between.
    starting: Mutex<()>,
    /// Who keeps it. Another user cannot reach the place, and gets a copy of these bytes.
    owner: Uid,
    bytes: Arc<[u8]>,
}

/// A program that is kept and not yet known.
pub struct Kept {
    path: PathBuf,
    sha256: String,
    minisign: Option<Minisign>,
}

impl Kept {
    /// Checks a program and keeps it in `directory`, under its digest. The directory is made, for this user alone.
    pub fn new(
        bytes: &[u8],
        sha256: &str,
        minisign: Option<Minisign>,
        directory: &Path,
    ) -> Result<Self, Refused> {
        if bytes.len() as u64 > MAX_PROGRAM {
            return Err(Refused::TooLarge);
        }
        verify(bytes, sha256, minisign.as_ref())?;
        let sha256 = sha256.to_ascii_lowercase();
        let failed = |source| Refused::Keep { path: directory.display().to_string(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let kept = Self { path: directory.join(&sha256), sha256, minisign };
        if kept.check().is_err() {
            if fs::symlink_metadata(&kept.path).is_ok_and(|meta| meta.is_dir()) {
                fs::remove_dir_all(&kept.path).map_err(failed)?;
            }
            let ownership = Ownership { mode: Some(0o500), ..Ownership::default() };
            Host::new().write(&kept.path, bytes, ownership).map_err(Refused::Write)?;
        }
        kept.check()?;
        kept.touch();
        Ok(kept)
    }

    /// One that was kept earlier, with its bytes; nothing if there is none that verifies.
    pub fn find(sha256: &str, minisign: Option<Minisign>, directory: &Path) -> Option<(Self, Vec<u8>)> {
        let sha256 = sha256.to_ascii_lowercase();
        let is_name = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        let kept = is_name.then(|| Self { path: directory.join(&sha256), sha256, minisign })?;
        let bytes = kept.check().ok()?;
        kept.touch();
        Some((kept, bytes))
    }

    fn check(&self) -> Result<Vec<u8>, Refused> {
        check(&self.path, &self.sha256, self.minisign.as_ref())
    }

    /// Says that it is still used. Where that fails it is cleared away too early, and kept again at its next use.
    fn touch(&self) {
        let _ = fs::File::open(&self.path).and_then(|file| file.set_modified(SystemTime::now()));
    }

    /// Asks the program what it is: the value that a catalog carries as `describe`.
    pub fn describe(&self, view: &View) -> Result<Value, Failure> {
        let call = || Failure::new(format!("describe {}", self.path.display()), "it is not what was named");
        self.check().map_err(|refused| Failure { words: with_causes(&refused), ..call() })?;
        let command = Command::new(self.path.to_string_lossy()).arg("describe").timeout(ANALYZE_TIMEOUT);
        let description: Description = answer(&command, view.run(&command)?)?;
        understood(&description).map_err(|words| Failure { words, ..call() })?;
        serde_json::to_value(&description).map_err(|error| Failure { words: error.to_string(), ..call() })
    }
}

/// Removes what nobody used for long from a directory of kept programs.
pub fn clear(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let modified = entry.metadata().and_then(|meta| meta.modified());
        let age = modified.ok().and_then(|modified| modified.elapsed().ok());
        if age.is_some_and(|age| age > UNUSED) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The file is this user's alone, and holds what it should.
fn check(path: &Path, sha256: &str, minisign: Option<&Minisign>) -> Result<Vec<u8>, Refused> {
    let failed = |source| Refused::Keep { path: path.display().to_string(), source };
    // A pipe in its place must not hold anybody up.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
    let own = geteuid().as_raw();
    let closed = |meta: &fs::Metadata| meta.uid() == own && meta.mode() & 0o022 == 0;
    let directory = path.parent().map(fs::symlink_metadata).transpose().map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() || !closed(&meta) || !directory.as_ref().is_some_and(closed) {
        return Err(Refused::Open { path: path.display().to_string() });
    }
    if meta.mode() & 0o100 == 0 {
        return Err(failed(io::ErrorKind::PermissionDenied.into()));
    }
    let mut bytes = Vec::new();
    file.take(MAX_PROGRAM + 1).read_to_end(&mut bytes).map_err(failed)?;
    verify(&bytes, sha256, minisign)?;
    Ok(bytes)
}

/// A directory of the user as whom a state is done, for the one call.
struct Loan(PathBuf);

impl Loan {
    fn make(view: &View) -> Result<Self, Failure> {
        let make = |place: &Path| {
            let path = mkdtemp(&place.join("mainstay-extension-XXXXXX"));
            path.map(Self).map_err(|errno| Failure::on("make a directory in", place, errno.desc()))
        };
        match view.scratch() {
            Some(scratch) => make(scratch),
            // The first may be only this process's own.
            None => make(&std::env::temp_dir()).or_else(|_| make(Path::new("/var/tmp"))),
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn understood(description: &Description) -> Result<(), String> {
    if description.protocol != PROTOCOL {
        return Err(format!("it speaks protocol {}, and here is {PROTOCOL}", description.protocol));
    }
    if description.params.get("type").and_then(Value::as_str) != Some("object") {
        return Err("its params are not the JSON Schema of an object".into());
    }
    Ok(())
}

/// One JSON object, and nothing else.
fn answer<T: serde::de::DeserializeOwned>(command: &Command, ran: Ran) -> Result<T, Failure> {
    let ran = ran.or_failure(command)?;
    if ran.truncated() {
        let words = format!("it answered with {} bytes, more than is taken", ran.stdout_size);
        return Err(Failure::new(format!("run {}", command.line()), words));
    }
    serde_json::from_slice(&ran.stdout).map_err(|error| {
        Failure::new(format!("run {}", command.line()), format!("its answer is not understood: {error}"))
    })
}

impl Program {
    /// A module out of a catalog: `bytes` are the blob that it names. The program is kept in `directory`.
    pub fn new(name: &str, extension: &Extension, bytes: &[u8], directory: &Path) -> Result<Self, Failure> {
        let failed = |words: String| Failure::new(format!("load the extension {name}"), words);
        let kept = Kept::new(bytes, &extension.sha256, extension.minisign.clone(), directory)
            .map_err(|refused| failed(with_causes(&refused)))?;
        let description: Description = serde_json::from_value(extension.describe.clone())
            .map_err(|error| failed(format!("its description is not understood: {error}")))?;
        understood(&description).map_err(failed)?;
        let outputs: Vec<(&'static str, &'static str)> =
            description.outputs.iter().map(|(name, meaning)| (interned(name), interned(meaning))).collect();
        let about = About {
            name: interned(name),
            summary: interned(&description.summary),
            identity: description.identity.as_deref().map(interned),
            dry_run: interned(&description.dry_run),
            outputs: interned_outputs(outputs),
            example: interned(&description.example),
        };
        let Kept { path, sha256, minisign } = kept;
        Ok(Self {
            path,
            sha256,
            minisign,
            about,
            schema: description.params,
            starting: Mutex::new(()),
            owner: geteuid(),
            bytes: bytes.into(),
        })
    }

    fn call<T: serde::de::DeserializeOwned>(
        &self,
        word: &str,
        request: &Request<'_>,
        view: &View,
        timeout: Duration,
    ) -> Result<T, Failure> {
        let failed =
            |words: String| Failure::new(format!("{word} with the extension {}", self.about.name), words);
        let stdin = serde_json::to_vec(request).map_err(|error| failed(error.to_string()))?;
        let refused = |refused: Refused| failed(with_causes(&refused));
        let loan = (geteuid() != self.owner).then(|| Loan::make(view)).transpose()?;
        let path = match &loan {
            Some(Loan(directory)) => {
                let kept = Kept::new(&self.bytes, &self.sha256, self.minisign.clone(), directory);
                kept.map_err(refused)?.path
            }
            None => self.path.clone(),
        };
        let mut command = Command::new(path.to_string_lossy()).arg(word).stdin(stdin).timeout(timeout);
        for (name, value) in request.params {
            let plain = match value {
                Value::String(text) => text.clone(),
                Value::Bool(_) | Value::Number(_) => value.to_string(),
                _ => continue,
            };
            if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !plain.contains('\0') {
                command = command.env(format!("PARAM_{name}"), plain);
            }
        }
        {
            let _starting = self.starting.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            check(&path, &self.sha256, self.minisign.as_ref()).map_err(refused)?;
        }
        answer(&command, view.run(&command)?)
    }
}

/// Descriptions live as long as the program: there are few, and each is kept once.
fn interned(text: &str) -> &'static str {
    static TEXTS: Mutex<std::collections::BTreeSet<&'static str>> =
        Mutex::new(std::collections::BTreeSet::new());
    let mut texts = TEXTS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    match texts.get(text) {
        Some(text) => text,
        None => {
            let text: &'static str = Box::leak(text.to_owned().into_boxed_str());
            texts.insert(text);
            text
        }
    }
}

type Outputs = &'static [(&'static str, &'static str)];

fn interned_outputs(outputs: Vec<(&'static str, &'static str)>) -> Outputs {
    static LISTS: Mutex<Vec<Outputs>> = Mutex::new(Vec::new());
    let mut lists = LISTS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    match lists.iter().find(|list| **list == outputs.as_slice()) {
        Some(list) => list,
        None => {
            let list: Outputs = Box::leak(outputs.into_boxed_slice());
            lists.push(list);
            list
        }
    }
}

impl AnyModule for Program {
    fn about(&self) -> About {
        self.about
    }

    fn schema(&self) -> Value {
        self.schema.clone()
    }

    /// The compiler has checked all that the schema says; here is what a template may have brought in.
    fn read(&self, params: &Values) -> Result<Params, String> {
        let known = self.schema.get("properties").and_then(Value::as_object);
        let closed = self.schema.get("additionalProperties") == Some(&json!(false));
        if let Some(known) = known.filter(|_| closed)
            && let Some(name) = params.keys().find(|name| !known.contains_key(*name))
        {
            return Err(format!("unknown field `{name}`"));
        }
        let required = self.schema.get("required").and_then(Value::as_array);
        let missing = |name: &&str| !params.contains_key(*name);
        if let Some(name) = required.into_iter().flatten().filter_map(Value::as_str).find(missing) {
            return Err(format!("missing field `{name}`"));
        }
        Ok(Params::new(params.clone()))
    }

    fn needs(&self, _: &Params) -> Vec<Resource> {
        Vec::new()
    }

    fn provides(&self, _: &Params) -> Vec<Resource> {
        Vec::new()
    }

    fn probes(&self, _: &Params) -> bool {
        false
    }

    fn analyze(&self, params: &Params, cx: &Analyze<'_>) -> Result<Analysis, Failure> {
        let request = Request { protocol: PROTOCOL, state: cx.state, params: params.of(), changes: None };
        let analyzed: Analyzed = self.call("analyze", &request, cx.view, ANALYZE_TIMEOUT)?;
        let datum = |value: Value| if value.is_null() { Datum::Absent } else { Datum::Known(value) };
        let changes = analyzed.changes.into_iter().map(|listed| Change {
            field: listed.field.into(),
            before: datum(listed.before),
            after: datum(listed.after),
            diff: listed.diff,
        });
        let mut analysis = Analysis::of(changes.collect());
        if let Some(step) = analyzed.step {
            let plain = matches!(step, StepWord::Unchanged | StepWord::Change);
            let lies = plain && step != analysis.step || step == StepWord::Conditional;
            if lies || step == StepWord::Error {
                let words = format!("it says {step} and lists {} change(s)", analysis.changes.len());
                return Err(Failure::new(format!("analyze with the extension {}", self.about.name), words));
            }
            analysis.step = step;
        }
        analysis.reason = analyzed.reason;
        analysis.outputs = analyzed.outputs;
        Ok(analysis)
    }

    fn apply(&self, params: &Params, cx: &Apply<'_>, analysis: &Analysis) -> Result<Applied, Failure> {
        let value = |datum: &Datum| match datum {
            Datum::Known(value) | Datum::Predicted { value, .. } => value.clone(),
            _ => Value::Null,
        };
        let list = |change: &Change| json!({"field": change.field, "before": value(&change.before), "after": value(&change.after)});
        let changes = Some(analysis.changes.iter().map(list).collect());
        let request = Request { protocol: PROTOCOL, state: cx.state, params: params.of(), changes };
        let done: Done = self.call("apply", &request, cx.host, APPLY_TIMEOUT)?;
        Ok(Applied {
            outputs: done.outputs,
            unchanged: done.unchanged,
            note: done.note,
            ..Applied::default()
        })
    }

    fn refreshes(&self) -> bool {
        false
    }

    fn refresh(&self, _: &Params, _: &Apply<'_>, _: Option<&Analysis>) -> Result<Refreshed, Failure> {
        Ok(Refreshed::NotNeeded)
    }

    fn merge_key(&self, _: &Params) -> Option<String> {
        None
    }

    fn apply_merged(&self, _: &[&Params], _: &Apply<'_>, _: &[&Analysis]) -> Result<Vec<Applied>, Failure> {
        Err(Failure::new("apply together", "an extension cannot"))
    }
}

#[cfg(test)]
mod tests;

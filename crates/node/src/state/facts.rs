//! What templates may know of this machine: the node's own facts, and what its owner adds.
//!
//! A custom fact is a file in a directory: `rack.json` or `rack.yaml` is `facts.rack` as it stands, and an executable
//! `rack` prints it as JSON. One that cannot be had is left out with a note; a template that needs it says so then.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use mainstay_core::state::Values;
use mainstay_module::host::{Command, View};
use serde_json::Value;

/// Facts are asked for before anything is shown: a program that takes longer keeps somebody waiting.
const TIMEOUT: Duration = Duration::from_secs(10);

/// All facts of a machine travel in one message, beside each other.
const MAX_SIZE: u64 = 64 << 10;

/// More would let a full directory keep everyone waiting for minutes.
const MAX_FILES: usize = 64;

/// The facts, and what was wrong with those that are missing.
pub(super) fn gather(
    version: &str,
    labels: &BTreeMap<String, String>,
    directory: &Path,
    view: &View,
) -> (Values, Vec<String>) {
    let own = crate::facts::collect(version, labels.clone());
    let mut facts = match serde_json::to_value(own) {
        Ok(Value::Object(facts)) => facts,
        _ => Values::new(),
    };
    let mut notes = Vec::new();
    let mut note = |words: String| notes.push(words);
    let mut entries: Vec<_> = match fs::read_dir(directory) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (facts, notes),
        Err(error) => {
            note(format!("custom facts: read {}: {error}", directory.display()));
            return (facts, notes);
        }
    };
    entries.retain(|path| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')));
    entries.sort();
    if entries.len() > MAX_FILES {
        note(format!("custom facts: only the first {MAX_FILES} of {} files are asked", entries.len()));
        entries.truncate(MAX_FILES);
    }
    for path in entries {
        let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
        if facts.contains_key(stem) {
            note(format!("custom fact {}: there is a fact {stem} already", path.display()));
            continue;
        }
        match custom(&path, view) {
            Ok(value) => {
                facts.insert(stem.to_owned(), value);
            }
            Err(words) => note(format!("custom fact {}: {words}", path.display())),
        }
    }
    (facts, notes)
}

fn custom(path: &Path, view: &View) -> Result<Value, String> {
    let meta = fs::metadata(path).map_err(|error| error.to_string())?;
    if !meta.is_file() {
        return Err("it is not a file".into());
    }
    // Whoever may write it says what this machine's states are.
    let own = nix::unistd::geteuid().as_raw();
    if (meta.uid() != own && meta.uid() != 0) || meta.mode() & 0o022 != 0 {
        return Err("others than its owner may change it, or its owner is neither root nor this user".into());
    }
    let ending = path.extension().and_then(|ending| ending.to_str());
    let text = match ending {
        Some("json" | "yaml" | "yml") => {
            let mut text = String::new();
            let file = fs::File::open(path).map_err(|error| error.to_string())?;
            file.take(MAX_SIZE + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
            text
        }
        _ if meta.mode() & 0o111 != 0 => {
            let ran = view.run(&Command::new(path.to_string_lossy()).timeout(TIMEOUT));
            let ran = ran.map_err(|failure| failure.to_string())?;
            if !ran.succeeded() {
                return Err(ran.words());
            }
            ran.text()
        }
        _ => return Err("it is neither .json nor .yaml nor executable".into()),
    };
    if text.len() as u64 > MAX_SIZE {
        return Err(format!("it is larger than {} KiB", MAX_SIZE >> 10));
    }
    match ending {
        Some("yaml" | "yml") => serde_saphyr::from_str(&text).map_err(|error| error.to_string()),
        _ => serde_json::from_str(&text).map_err(|error| format!("it is not JSON: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn custom_facts_stand_beside_the_own_ones_under_their_names() {
        let directory = tempfile::tempdir().unwrap();
        let put = |name: &str, mode: u32, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        put("rack.json", 0o644, r#"{"row": 7}"#);
        put("site.yaml", 0o644, "city: Kiel\nlist: [1, 2]\n");
        put("load", 0o755, "#!/bin/sh\necho '[1, \"two\"]'\n");
        put("os.json", 0o644, "\"mine\"");
        put("broken", 0o755, "#!/bin/sh\necho no such disk >&2; exit 3\n");
        put("text", 0o755, "#!/bin/sh\necho hello\n");
        put("open.json", 0o666, "1");
        put("README", 0o644, "not a fact");
        put(".hidden.json", 0o644, "1");
        put("large.json", 0o644, &format!("\"{}\"", "x".repeat(MAX_SIZE as usize)));
        let labels = BTreeMap::from([("role".to_owned(), "web".to_owned())]);
        let (facts, notes) = gather("1.2.3", &labels, directory.path(), &View::new(None));
        assert_eq!(facts["rack"], json!({"row": 7}));
        assert_eq!(facts["site"], json!({"city": "Kiel", "list": [1, 2]}));
        assert_eq!(facts["load"], json!([1, "two"]));
        assert_eq!(facts["labels"], json!({"role": "web"}));
        assert_ne!(facts["os"], json!("mine"));
        for absent in ["broken", "text", "open", "README", ".hidden", "large"] {
            assert!(!facts.contains_key(absent), "{absent}");
        }
        let notes = notes.join("\n").replace(&directory.path().display().to_string(), "DIR");
        insta::assert_snapshot!(notes, @r"
        custom fact DIR/README: it is neither .json nor .yaml nor executable
        custom fact DIR/broken: exit status 3: no such disk
        custom fact DIR/large.json: it is larger than 64 KiB
        custom fact DIR/open.json: others than its owner may change it, or its owner is neither root nor this user
        custom fact DIR/os.json: there is a fact os already
        custom fact DIR/text: it is not JSON: expected value at line 1 column 1
        ");
    }

    #[test]
    fn no_directory_is_no_fault() {
        let (facts, notes) = gather("1", &BTreeMap::new(), Path::new("/no/such/directory"), &View::new(None));
        assert!(facts.contains_key("arch") && notes.is_empty());
    }
}

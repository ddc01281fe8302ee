use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use mainstay_core::state::catalog::BlobId;
use tempfile::TempDir;

use super::*;
use crate::fidelity::{Observation, Trial};

const SHELL: &[u8] = include_bytes!("../../../../examples/extensions/flag.sh");
const PYTHON: &[u8] = include_bytes!("../../../../examples/extensions/ini.py");

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    /// What a compiler puts into the catalog.
    fn extension(&self, bytes: &[u8]) -> Extension {
        let kept = Kept::new(bytes, &sha256(bytes), None, &self.cache()).unwrap();
        let describe = kept.describe(&View::new(None)).unwrap();
        Extension { blob: BlobId::of(bytes), sha256: sha256(bytes), minisign: None, describe }
    }

    fn load(&self, bytes: &[u8]) -> Program {
        Program::new("trial", &self.extension(bytes), bytes, &self.cache()).unwrap()
    }

    fn script(&self, body: &str) -> Vec<u8> {
        let description = r#"{"protocol": 1, "summary": "", "params": {"type": "object"}}"#;
        format!("#!/bin/sh\nif [ $1 = describe ]; then echo '{description}'; exit; fi\n{body}\n").into_bytes()
    }

    fn said(&self, body: &str) -> Failure {
        let trial = Trial::of_any(Arc::new(self.load(&self.script(body))));
        trial.analyze(json!({})).unwrap_err()
    }
}

#[test]
fn a_shell_script_is_a_module() {
    let place = Place::new();
    let path = place.folder.path().join("colour");
    let trial = Trial::of_any(Arc::new(place.load(SHELL)));
    let observe = || {
        let word = fs::read_to_string(&path).ok().map(|word| ("word".to_owned(), json!(word.trim())));
        word.into_iter().collect::<Observation>()
    };
    for word in ["green", "blue"] {
        let found = trial.run(json!({"path": path, "word": word}), &observe).unwrap();
        assert_eq!(found.planned.step, StepWord::Change);
    }
    let again = trial.run(json!({"path": path, "word": "blue"}), &observe).unwrap();
    assert_eq!(again.planned.step, StepWord::Unchanged);
    let failure = trial.analyze(json!({"path": path, "word": "a b"})).unwrap_err();
    assert!(failure.to_string().contains("letters, digits"), "{failure}");
    assert_eq!(trial.read(json!({"path": "/x"})).err().as_deref(), Some("missing field `word`"));
    assert_eq!(
        trial.read(json!({"path": "/x", "word": "a", "wort": "b"})).err().as_deref(),
        Some("unknown field `wort`")
    );
}

#[test]
fn a_python_program_is_a_module() {
    let have = Host::new().run(&Command::new("python3").arg("--version")).is_ok_and(|ran| ran.succeeded());
    if !have {
        eprintln!("skipped: there is no python3 here");
        return;
    }
    let place = Place::new();
    let path = place.folder.path().join("app.ini");
    fs::write(&path, "; mine\n[pool]\nsize = 4\n\n[log]\nlevel = info\n").unwrap();
    let trial = Trial::of_any(Arc::new(place.load(PYTHON)));
    let observe = || {
        let text = fs::read_to_string(&path).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix("size = "));
        value.map(|value| ("value".to_owned(), json!(value))).into_iter().collect::<Observation>()
    };
    let params = |more: Value| {
        let mut params = json!({"path": path, "section": "pool", "option": "size"});
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        params
    };
    trial.run(params(json!({"value": 8})), &observe).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "; mine\n[pool]\nsize = 8\n\n[log]\nlevel = info\n");
    trial.run(params(json!({"absent": true})), &observe).unwrap();
    trial.run(params(json!({"value": 16})), &observe).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "; mine\n[pool]\nsize = 16\n\n[log]\nlevel = info\n");
}

#[test]
fn what_does_not_verify_is_never_executed() {
    let place = Place::new();
    let canary = place.folder.path().join("canary");
    let bytes = place.script(&format!("touch {}; echo '{{}}'", canary.display()));
    let wrong = Kept::new(&bytes, &sha256(b"other"), None, &place.cache());
    assert!(matches!(wrong, Err(Refused::Digest { .. })));
    assert!(!place.cache().exists(), "it was kept");
    let trial = Trial::of_any(Arc::new(place.load(&bytes)));
    // Changed after it was loaded: between any two uses.
    let kept = place.cache().join(sha256(&bytes));
    fs::set_permissions(&kept, fs::Permissions::from_mode(0o700)).unwrap();
    let mut forged = bytes.clone();
    forged.extend_from_slice(b"# more\n");
    fs::write(&kept, &forged).unwrap();
    let failure = trial.analyze(json!({})).unwrap_err();
    assert!(failure.to_string().contains("sha256"), "{failure}");
    fs::write(&kept, &bytes).unwrap();
    for (path, mode) in [(&kept, 0o722), (&place.cache(), 0o777)] {
        let before = fs::metadata(path).unwrap().permissions();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let failure = trial.analyze(json!({})).unwrap_err();
        assert!(failure.to_string().contains("may be written by others"), "{failure}");
        fs::set_permissions(path, before).unwrap();
    }
    fs::remove_file(&kept).unwrap();
    std::os::unix::fs::symlink("/bin/true", &kept).unwrap();
    trial.analyze(json!({})).unwrap_err();
    assert!(!canary.exists(), "it was executed");
    // A new load puts the right bytes in place again.
    let trial = Trial::of_any(Arc::new(place.load(&bytes)));
    trial.analyze(json!({})).unwrap();
    assert!(canary.exists());
}

#[test]
fn a_kept_program_that_is_none_any_more_is_replaced() {
    let place = Place::new();
    let bytes = place.script("echo '{}'");
    let kept = place.cache().join(sha256(&bytes));
    place.load(&bytes);
    fs::set_permissions(&kept, fs::Permissions::from_mode(0o600)).unwrap();
    place.load(&bytes);
    fs::remove_file(&kept).unwrap();
    fs::create_dir_all(kept.join("within")).unwrap();
    place.load(&bytes);
    assert_eq!(fs::read(&kept).unwrap(), bytes);
}

#[test]
fn a_signature_has_to_be_the_keys_and_of_these_bytes() {
    // Made by minisign for the four bytes `test`, with a key of its own.
    let minisign = |public_key: &str| {
        Minisign {
        public_key: format!("untrusted comment: minisign public key\n{public_key}\n"),
        signature: "untrusted comment: signature from minisign secret key\n\
            RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=\n\
            trusted comment: timestamp:1633700835\tfile:test\tprehashed\n\
            wLMDjy9FLAuxZ3q4NlEvkgtyhrr0gtTu6KC4KBJdITbbOeAi1zBIYo0v4iTgt8jJpIidRJnp94ABQkJAgAooBQ==\n"
            .into(),
    }
    };
    let key = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    let check = |bytes: &[u8], minisign: &Minisign| verify(bytes, &sha256(bytes), Some(minisign));
    check(b"test", &minisign(key)).unwrap();
    assert!(matches!(check(b"Test", &minisign(key)), Err(Refused::Forged(_))));
    let other = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO4";
    assert!(check(b"test", &minisign(other)).is_err());
    assert!(matches!(check(b"test", &minisign("none")), Err(Refused::Key(_))));
    let broken = Minisign { signature: "x".into(), ..minisign(key) };
    assert!(matches!(check(b"test", &broken), Err(Refused::Signature(_))));
}

#[test]
fn an_answer_that_makes_no_sense_is_a_failure_that_says_so() {
    let place = Place::new();
    for (body, words) in [
        ("echo words >&2; exit 3", "words"),
        ("echo not json", "not understood"),
        ("echo '{}' '{}'", "not understood"),
        ("echo '{\"stepp\": 1}'", "not understood"),
        ("echo '{\"step\": \"change\"}'", "lists 0 change(s)"),
        ("echo '{\"step\": \"unchanged\", \"changes\": [{\"field\": \"a\"}]}'", "lists 1 change(s)"),
        ("head -c 2000000 /dev/zero", "more than is taken"),
        ("kill -9 $$", "SIGKILL"),
    ] {
        let failure = place.said(body);
        assert!(failure.to_string().contains(words), "{body}: {failure}");
    }
    let other =
        b"#!/bin/sh\necho '{\"protocol\": 2, \"summary\": \"\", \"params\": {\"type\": \"object\"}}'\n";
    let kept = Kept::new(other, &sha256(other), None, &place.cache()).unwrap();
    assert!(kept.describe(&View::new(None)).unwrap_err().to_string().contains("protocol 2"));
}

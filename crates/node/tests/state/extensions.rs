//! Extension modules that a catalog brings: used by name, verified before every use, never executed otherwise.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use mainstay_core::state::catalog::{BlobId, Catalog, Extension, Minisign};
use mainstay_core::state::session::Ask;
use mainstay_core::state::{StateOutcome, StepWord};
use nix::unistd::{User, geteuid};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::machine::{Machine, Made, catalog, state};

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A module that makes an empty file, and leaves a sign wherever it is called.
fn program(machine: &Machine) -> String {
    format!(
        "#!/bin/sh\nif [ $1 = apply ]; then echo $1 >> {sign}; id -un > \"$PARAM_path\"; echo '{{}}'; exit; fi\n\
         if [ -e \"$PARAM_path\" ]; then echo '{{}}'; else echo '{{\"changes\": [{{\"field\": \"there\", \"after\": true}}]}}'; fi\n",
        sign = machine.path("sign")
    )
}

fn with(program: &str, states: impl IntoIterator<Item = Made>) -> Catalog {
    let mut catalog = catalog(states);
    let describe = json!({"protocol": 1, "summary": "", "params": {"type": "object", "required": ["path"]}});
    let blob = BlobId::of(program.as_bytes());
    let sha256 = sha256(program.as_bytes());
    catalog.blobs.insert(blob.clone(), program.as_bytes().to_vec());
    catalog.extensions.insert("mark".into(), Extension { blob, sha256, minisign: None, describe });
    catalog
}

fn mark(machine: &Machine, name: &str) -> Made {
    state(name, "mark", json!({"path": machine.path(name)}))
}

#[test]
fn a_state_uses_an_extension_by_its_name() {
    let machine = Machine::new();
    let mut session = machine.session();
    session.ask(Ask::Catalog(Box::new(with(&program(&machine), [mark(&machine, "a")]))));
    let plan = session.plan(1);
    assert_eq!(plan.words(), [("a", StepWord::Change, "there")]);
    assert!(!machine.exists("sign"), "it was applied while it was planned");
    assert_eq!(session.apply(&plan).outcomes(), [("a", StateOutcome::Changed)]);
    assert!(machine.exists("a"));
    assert!(session.plan(2).stable);
    let kept = machine.data().join("state/extensions");
    assert_eq!(fs::metadata(&kept).unwrap().mode() & 0o777, 0o700);
    assert_eq!(fs::read_dir(kept).unwrap().count(), 1);
}

#[test]
fn a_catalog_whose_program_was_replaced_is_refused_and_nothing_is_executed() {
    let machine = Machine::new();
    let evil = format!("#!/bin/sh\ntouch {}\necho '{{}}'\n", machine.path("executed"));
    let good = || with(&program(&machine), [mark(&machine, "a")]);
    // The bytes under the old id; the bytes with an id of their own; the bytes not there; a signature by nobody.
    let (mut bytes, mut id, mut gone, mut unsigned) = (good(), good(), good(), good());
    *bytes.blobs.values_mut().next().unwrap() = evil.clone().into_bytes();
    id.blobs.insert(BlobId::of(evil.as_bytes()), evil.clone().into_bytes());
    id.extensions.get_mut("mark").unwrap().blob = BlobId::of(evil.as_bytes());
    gone.blobs.clear();
    let key = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    unsigned.extensions.get_mut("mark").unwrap().minisign =
        Some(Minisign { public_key: key.into(), signature: "none".into() });
    let mut taken = good();
    let extension = taken.extensions.remove("mark").unwrap();
    taken.extensions.insert("file".into(), extension);
    let mut session = machine.session();
    for (catalog, words) in [
        (bytes, "is not the one that the catalog names: it is not executed"),
        (id, "sha256"),
        (gone, "did not come with the catalog"),
        (unsigned, "signature cannot be read"),
        (taken, "has the name of a module that this program has itself"),
    ] {
        session.ask(Ask::Catalog(Box::new(catalog)));
        let problem = session.problem();
        assert!(problem.contains(words), "{words}: {problem}");
        session.ask(Ask::Analyze { cycle: 1, explain: false });
        assert_eq!(session.problem(), "there is no catalog to analyse");
    }
    assert!(!machine.exists("executed") && !machine.exists("a"));
    assert!(!machine.data().join("state/extensions").exists(), "one that does not verify was kept");
}

#[test]
fn a_program_that_is_replaced_after_the_plan_is_not_executed() {
    let machine = Machine::new();
    let mut session = machine.session();
    let good = program(&machine);
    session.ask(Ask::Catalog(Box::new(with(&good, [mark(&machine, "a")]))));
    let plan = session.plan(1);
    let kept = machine.data().join("state/extensions").join(sha256(good.as_bytes()));
    fs::set_permissions(&kept, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(&kept, format!("#!/bin/sh\ntouch {}\necho '{{}}'\n", machine.path("executed"))).unwrap();
    let done = session.apply(&plan);
    assert_eq!(done.outcomes(), [("a", StateOutcome::Failed)]);
    let reason = done.reports[0].reason.as_deref().unwrap();
    assert!(reason.contains("sha256"), "{reason}");
    assert!(!machine.exists("executed") && !machine.exists("a"));
    // The catalog brings the right one again.
    session.ask(Ask::Catalog(Box::new(with(&good, [mark(&machine, "a")]))));
    assert_eq!(session.apply_all().outcomes(), [("a", StateOutcome::Changed)]);
}

#[test]
fn an_extension_is_called_as_the_user_that_its_state_names() {
    if !geteuid().is_root() {
        eprintln!("skipped: an_extension_is_called_as_the_user_that_its_state_names: it needs root");
        return;
    }
    let nobody = User::from_name("nobody").unwrap().unwrap();
    let machine = Machine::new();
    let own = std::path::PathBuf::from(machine.path("own"));
    fs::create_dir(&own).unwrap();
    chown(&own, Some(nobody.uid.as_raw()), None).unwrap();
    // The way there, for one who is not root.
    for above in own.ancestors().skip(1).take(2) {
        fs::set_permissions(above, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let program = program(&machine).replace(&machine.path("sign"), &machine.path("own/sign"));
    let mut session = machine.session();
    session.ask(Ask::Catalog(Box::new(with(
        &program,
        [mark(&machine, "own/f").become_user("nobody"), mark(&machine, "own/g")],
    ))));
    let plan = session.plan(1);
    let changes = [("own/f", StepWord::Change, "there"), ("own/g", StepWord::Change, "there")];
    assert_eq!(plan.words(), changes, "{plan:?}");
    let done = session.apply(&plan);
    assert_eq!(done.counts.changed, 2, "{done:?}");
    assert_eq!((machine.read("own/f").as_str(), machine.read("own/g").as_str()), ("nobody\n", "root\n"));
}

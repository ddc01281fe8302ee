use std::fs;
use std::os::unix::fs::symlink;

use mainstay_core::state::StepWord;
use serde_json::json;

use super::*;
use crate::fidelity::Trial;

#[test]
fn a_link_comes_turns_and_goes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("link");
    let trial = Trial::of(Link);
    for target in ["nowhere", "/etc/passwd"] {
        trial.in_folder(json!({"path": path, "target": target}), folder.path()).unwrap();
        assert_eq!(fs::read_link(&path).unwrap(), Path::new(target));
    }
    trial.in_folder(json!({"path": path, "absent": true}), folder.path()).unwrap();
    assert!(fs::symlink_metadata(&path).is_err());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left beside it");
}

#[test]
fn a_file_is_replaced_only_by_force_and_a_directory_never() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("link");
    let trial = Trial::of(Link);
    let by = |force: bool| json!({"path": path, "target": "t", "force": force});
    fs::write(&path, "x").unwrap();
    assert!(trial.analyze(by(false)).unwrap_err().to_string().contains("force"));
    assert!(trial.analyze(json!({"path": path, "absent": true})).is_err());
    trial.in_folder(by(true), folder.path()).unwrap();
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(trial.analyze(by(true)).unwrap_err().to_string().contains("directory"));
}

#[test]
fn a_link_in_a_circle_is_only_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("link");
    symlink("link", &path).unwrap();
    let trial = Trial::of(Link);
    let same = trial.in_folder(json!({"path": path, "target": "link"}), folder.path()).unwrap();
    assert_eq!(same.planned.step, StepWord::Unchanged);
    trial.in_folder(json!({"path": path, "target": "other"}), folder.path()).unwrap();
}

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use mainstay_core::state::StepWord;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::fidelity::{Trial, tree};

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn trial() -> Trial {
    Trial::of(Directory)
}

fn fields(analysis: &Analysis) -> Vec<&str> {
    analysis.changes.iter().map(|change| &*change.field).collect()
}

#[test]
fn a_new_directory_gets_all_that_is_declared() {
    let folder = folder();
    let path = folder.path().join("data");
    let params = json!({"path": path, "mode": "2750", "owner": "root", "group": "root"});
    let verdict = trial().in_folder(params, folder.path()).unwrap();
    assert_eq!(fields(&verdict.planned), ["exists", "mode", "owner", "group"]);
    trial().in_folder(json!({"path": path, "mode": "0700"}), folder.path()).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn parents_are_made_only_when_asked_for() {
    let folder = folder();
    let path = folder.path().join("a/b/c");
    let failure = trial().in_folder(json!({"path": path}), folder.path()).unwrap_err();
    assert!(failure.to_string().contains("does not exist"), "{failure}");
    let verdict = trial().in_folder(json!({"path": path, "makedirs": true}), folder.path()).unwrap();
    assert_eq!(verdict.planned.changes.len(), 3);
    assert!(path.is_dir());
}

#[test]
fn recursion_reaches_all_but_links() {
    let folder = folder();
    let path = folder.path().join("tree");
    fs::create_dir_all(path.join("sub/deep")).unwrap();
    fs::write(path.join("sub/file"), "x").unwrap();
    let outside = folder.path().join("outside");
    fs::write(&outside, "x").unwrap();
    symlink(&outside, path.join("link")).unwrap();
    symlink(folder.path(), path.join("sub/up")).unwrap();
    let params = json!({"path": path, "mode": "0710", "file_mode": "0604", "recurse": true});
    let verdict = trial().in_folder(params, folder.path()).unwrap();
    assert_eq!(fields(&verdict.planned), ["mode", "mode of sub", "mode of sub/deep", "mode of sub/file"]);
    assert_eq!(fs::metadata(&outside).unwrap().mode() & 0o7777, 0o644);
    assert_eq!(fs::metadata(path.join("sub/file")).unwrap().mode() & 0o7777, 0o604);
}

#[test]
fn absent_takes_what_is_inside_and_not_what_links_lead_to() {
    let folder = folder();
    let (path, kept) = (folder.path().join("old"), folder.path().join("kept"));
    fs::create_dir_all(path.join("sub")).unwrap();
    fs::create_dir(&kept).unwrap();
    fs::write(kept.join("file"), "x").unwrap();
    symlink(&kept, path.join("sub/link")).unwrap();
    let verdict = trial().in_folder(json!({"path": path, "absent": true}), folder.path()).unwrap();
    assert!(verdict.planned.reason.unwrap().contains("1 thing"));
    assert!(kept.join("file").exists() && !path.exists());
    symlink(&kept, &path).unwrap();
    let failure = trial().analyze(json!({"path": path, "absent": true})).unwrap_err();
    assert!(failure.to_string().contains("not a directory"), "{failure}");
}

#[test]
fn a_link_to_a_directory_is_one_and_a_file_is_not() {
    let folder = folder();
    let (real, path) = (folder.path().join("real"), folder.path().join("link"));
    fs::create_dir(&real).unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o755)).unwrap();
    symlink("real", &path).unwrap();
    trial().run(json!({"path": path, "mode": "0700"}), &|| tree(folder.path(), &real)).unwrap();
    assert_eq!(fs::metadata(&real).unwrap().mode() & 0o7777, 0o700);
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    let failure = trial().analyze(json!({"path": file})).unwrap_err();
    assert!(failure.to_string().contains("not a directory but a file"), "{failure}");
    let failure = trial().analyze(json!({"path": file.join("below"), "makedirs": true})).unwrap_err();
    assert!(failure.to_string().contains("is not a directory"), "{failure}");
}

#[test]
fn a_directory_above_may_be_coming() {
    let folder = folder();
    let (above, path) = (folder.path().join("a"), folder.path().join("a/b"));
    let mut trial = trial();
    for (resource, value) in trial.analyze(json!({"path": above})).unwrap().predicts {
        trial.forecast.predict(resource, "above".into(), value);
    }
    assert_eq!(trial.analyze(json!({"path": path})).unwrap().step, StepWord::Change);
    assert_eq!(trial.analyze(json!({"path": above})).unwrap().step, StepWord::Unchanged);
}

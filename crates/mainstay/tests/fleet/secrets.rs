//! What is private to a command is nowhere in clear but in the command.

use std::path::Path;

use data_encoding::BASE64;

use crate::lab::{Lab, eventually};

/// How a secret could stand somewhere: as it is, and in base64 wherever it begins in its group of three bytes.
pub fn forms(secret: &str) -> Vec<Vec<u8>> {
    let mut forms = vec![secret.as_bytes().to_vec()];
    for shift in 0..3 {
        let encoded = BASE64.encode(format!("{}{secret}", &"xyz"[..shift]).as_bytes());
        // Without the first and last group, which hold bytes of others.
        let inner = &encoded[4..encoded.len() - 4];
        forms.push(inner.as_bytes().to_vec());
        forms.push(inner.replace('+', "-").replace('/', "_").into_bytes());
    }
    forms
}

pub fn files(directory: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&entry.path(), found),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
}

fn assert_nowhere(lab: &Lab, secrets: &[&str]) {
    let mut paths = Vec::new();
    files(&lab.path(""), &mut paths);
    assert!(paths.iter().any(|path| path.ends_with("hub/store.db-wal")), "nothing was looked at");
    for pid in crate::lab::processes_with(crate::lab::BINARY) {
        paths.push(format!("/proc/{pid}/cmdline").into());
        paths.push(format!("/proc/{pid}/environ").into());
    }
    for path in paths {
        let bytes = std::fs::read(&path).unwrap_or_default();
        for secret in secrets {
            for form in forms(secret) {
                let found = bytes.windows(form.len()).any(|window| window == form);
                assert!(
                    !found,
                    "{} holds {secret:?} as {:?}",
                    path.display(),
                    String::from_utf8_lossy(&form)
                );
            }
        }
    }
}

#[test]
fn environment_and_stdin_are_sealed_on_every_disk_on_the_way() {
    let (variable, input) = ("canary-in-the-environment-5c0ffee", "canary-on-standard-input-90ddba11");
    let mut lab = Lab::new(&["a", "b"]);
    lab.agent("b").stop();
    lab.until_online("b", false);
    let outside = tempfile::tempdir().unwrap();
    let file = outside.path().join("input");
    std::fs::write(&file, input).unwrap();
    let seen = outside.path().join("seen");
    let script = format!("printf %s \"$CANARY\" >> {0}; cat >> {0}; sleep 0.3", seen.display());

    // The value comes from the command's own environment: it is in nobody's arguments.
    let mut command = lab.command();
    command.env("CANARY", variable).arg("--hub").arg(lab.hub_url());
    command.args(["run", "-t", "*", "--detach", "-e", "CANARY", "--stdin", file.to_str().unwrap()]);
    let run = lab.begin_as(command.args(["--", "sh", "-c", &script])).end().exits(0).out.trim().to_owned();
    let whole = format!("{variable}{input}");
    let arrived = |times: usize| std::fs::read_to_string(&seen).is_ok_and(|text| text == whole.repeat(times));
    eventually("a's command has them", || arrived(1).then_some(()));
    assert_nowhere(&lab, &[variable, input]);

    // Also across a crash of the hub, and at the node that was away.
    lab.hub().crash();
    lab.start_hub();
    lab.start_agent("b");
    assert_eq!(lab.outcome(&run, "b"), "finished");
    assert!(arrived(2), "b's command has them");
    assert_eq!(lab.outcome(&run, "a"), "finished");
    lab.run(&["backup", lab.path("backup").to_str().unwrap()]).exits(0);
    assert_nowhere(&lab, &[variable, input]);
}

//! `cmd`, where it needs another user.

use serde_json::json;

use crate::world::{sh, state};

pub const TESTS: &[(&str, fn())] = &[("cmd_runs_as_another_user", cmd_runs_as_another_user)];

fn cmd_runs_as_another_user() {
    sh("groupadd -g 3001 crew && useradd -m -u 3000 -G crew sailor");
    let probe = state("cmd", json!({"run": "id -un; id -Gn; echo $HOME", "user": "sailor", "probe": true}));
    assert_eq!(probe.analyze().outputs["stdout"], "sailor\nsailor crew\n/home/sailor");
    sh("userdel -r sailor 2>&1 && groupdel crew");
}

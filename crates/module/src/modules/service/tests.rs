use super::*;

/// As systemd 252 shows them.
fn shown(load: &str, active: &str, sub: &str, file: &str) -> Unit {
    systemd::parse(&format!(
        "Type=simple\nRemainAfterExit=no\nLoadState={load}\nActiveState={active}\nSubState={sub}\nUnitFileState={file}\n\
         NeedDaemonReload=no\nCanReload=yes"
    ))
}

#[test]
fn properties_say_what_a_unit_is() {
    let runs = shown("loaded", "active", "running", "enabled");
    assert_eq!(runs, Unit { found: true, running: true, enabled: true, can_reload: true, ..Unit::default() });
    assert!(!shown("not-found", "inactive", "dead", "").found);
    let masked = shown("masked", "inactive", "dead", "masked");
    assert!(masked.found && masked.masked && !masked.enabled);
    assert!(!shown("loaded", "activating", "auto-restart", "enabled").running, "it failed, and waits");
    assert!(shown("loaded", "activating", "start", "enabled").running);
    assert!(shown("loaded", "active", "running", "static").fixed.is_some());
    assert!(!shown("loaded", "failed", "failed", "enabled-runtime").enabled, "it is so until the next start");
}

#[test]
fn names_are_names_and_no_options() {
    let check = |name: &str| {
        let params = serde_json::json!({"name": name, "running": true});
        Service.check(&serde_json::from_value(params).unwrap())
    };
    for good in ["nginx", "nginx.service", "getty@tty1", "app.timer", "dev-sda1.device", r"a\x2db"] {
        assert_eq!(check(good), Ok(()), "{good}");
    }
    for bad in ["", "-H", "--host=x", "a b", "a/b", "../x", "a*", "a\n", ".x"] {
        assert!(check(bad).is_err(), "{bad:?}");
    }
}

//! `service`, with systemd as process 1 and with OpenRC.

use mainstay_core::state::StepWord;
use mainstay_core::state::plan::Datum;
use mainstay_module::Refreshed;
use mainstay_module::forecast::{Forecast, Resource};
use serde_json::json;

use crate::world::{fields, sh, state, write};

pub const TESTS: &[(&str, fn())] = &[
    ("service_starts_and_stops", service_starts_and_stops),
    ("service_refresh_is_what_is_needed", service_refresh_is_what_is_needed),
    ("service_can_be_masked", service_can_be_masked),
    ("service_to_come_is_planned_as_unknown", service_to_come_is_planned_as_unknown),
    ("service_that_cannot_be_as_wanted_says_so", service_that_cannot_be_as_wanted_says_so),
];

pub const OPENRC: &[(&str, fn())] =
    &[("openrc_service_starts_stops_and_reloads", openrc_service_starts_stops_and_reloads)];

fn unit(name: &str, service: &str) {
    let text = format!("[Service]\n{service}\n[Install]\nWantedBy=multi-user.target\n");
    write(&format!("/etc/systemd/system/{name}.service"), &text);
}

fn pid(name: &str) -> String {
    sh(&format!("systemctl show -P MainPID {name}"))
}

fn service_starts_and_stops() {
    unit("s1", "ExecStart=/bin/sleep infinity");
    assert_eq!(
        fields(&state("service", json!({"name": "s1", "running": true, "enabled": true})).converge()),
        ["enabled", "running"]
    );
    assert_eq!(sh("systemctl is-active s1; systemctl is-enabled s1"), "active\nenabled");
    assert_eq!(
        fields(&state("service", json!({"name": "s1.service", "running": false})).converge()),
        ["running"]
    );
    assert_eq!(fields(&state("service", json!({"name": "s1", "enabled": false})).converge()), ["enabled"]);
    state("service", json!({"name": "cron", "running": true, "enabled": true})).is_settled();
    state("service", json!({"name": "no-such", "running": false, "enabled": false})).is_settled();
}

fn service_refresh_is_what_is_needed() {
    unit("s2", "ExecStart=/bin/sleep infinity\nExecReload=/bin/touch /run/s2-reloaded");
    let wanted = state("service", json!({"name": "s2", "running": true}));
    let started = wanted.converge();
    assert_eq!(wanted.refresh(Some(&started)), Refreshed::NotNeeded, "it was just started");
    let first = pid("s2");
    // Enabling does not read the configuration again.
    let enabled = state("service", json!({"name": "s2", "running": true, "enabled": true}));
    let change = enabled.converge();
    assert!(matches!(enabled.refresh(Some(&change)), Refreshed::Done(_)));
    let second = pid("s2");
    assert_ne!(first, second);
    let reloads = state("service", json!({"name": "s2", "running": true, "reload": true}));
    assert!(matches!(reloads.refresh(None), Refreshed::Done(_)));
    assert_eq!(pid("s2"), second);
    assert!(std::path::Path::new("/run/s2-reloaded").exists());
    // A changed unit file is read again before the restart.
    unit("s2", "ExecStart=/bin/sleep 1000000");
    assert!(matches!(reloads.refresh(None), Refreshed::Done(_)));
    assert_eq!(sh("tr '\\0' ' ' < /proc/$(systemctl show -P MainPID s2)/cmdline"), "/bin/sleep 1000000 ");
    sh("systemctl stop s2");
    assert_eq!(state("service", json!({"name": "s2", "enabled": true})).refresh(None), Refreshed::NotNeeded);
    sh("systemctl disable s2 2>&1");
}

fn service_can_be_masked() {
    // A unit that lies in /etc cannot be masked.
    write(
        "/usr/lib/systemd/system/s3.service",
        "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n",
    );
    sh("systemctl daemon-reload && systemctl start s3");
    let planned = state("service", json!({"name": "s3", "masked": true, "running": false})).converge();
    assert_eq!(fields(&planned), ["masked", "running"]);
    let wanted = state("service", json!({"name": "s3", "running": true}));
    assert!(wanted.foresee(&Forecast::default()).unwrap_err().to_string().contains("masked: false"));
    state("service", json!({"name": "s3", "masked": false, "running": true})).converge();
    sh("systemctl stop s3");
}

fn service_to_come_is_planned_as_unknown() {
    let wanted = state("service", json!({"name": "to-come", "running": true, "enabled": true}));
    wanted.foresee(&Forecast::default()).unwrap_err();
    let mut forecast = Forecast::default();
    forecast.predict(Resource::package("other-name"), "the-package".into(), None);
    let planned = wanted.foresee(&forecast).unwrap();
    assert_eq!(planned.step, StepWord::Conditional);
    assert_eq!(planned.changes[0].before, Datum::Unknown { until: "the-package".into() });
    assert_eq!(fields(&planned), ["enabled", "running"]);
}

fn service_that_cannot_be_as_wanted_says_so() {
    let failure = |params| state("service", params).foresee(&Forecast::default()).unwrap_err().to_string();
    write("/etc/systemd/system/s4.service", "[Service]\nType=oneshot\nExecStart=/bin/true\n");
    let said = failure(json!({"name": "s4", "running": true}));
    assert!(said.contains("oneshot"), "{said}");
    let said = failure(json!({"name": "s4", "enabled": true}));
    assert!(said.contains("[Install]"), "{said}");
    unit("s5", "ExecStart=/no/such/program");
    let wanted = state("service", json!({"name": "s5", "running": true}));
    let said = match wanted.try_apply(&wanted.analyze()) {
        Ok(_) => format!("{:?}", wanted.analyze().changes),
        Err(failure) => failure.to_string(),
    };
    assert!(said.contains("running") || said.contains("journalctl"), "{said}");
}

fn openrc_service_starts_stops_and_reloads() {
    write(
        "/etc/init.d/o1",
        "#!/sbin/openrc-run\ncommand=/bin/sleep\ncommand_args=1000000\ncommand_background=yes\npidfile=/run/o1.pid\n\
         extra_started_commands=reload\nreload() {\n  touch /run/o1-reloaded\n}\n",
    );
    sh("chmod 755 /etc/init.d/o1");
    let wanted = state("service", json!({"name": "o1", "running": true, "enabled": true}));
    let started = wanted.converge();
    assert_eq!(fields(&started), ["enabled", "running"]);
    assert_eq!(wanted.refresh(Some(&started)), Refreshed::NotNeeded);
    let first = sh("cat /run/o1.pid");
    assert!(matches!(wanted.refresh(None), Refreshed::Done(_)));
    let second = sh("cat /run/o1.pid");
    assert_ne!(first, second);
    let reloads = state("service", json!({"name": "o1", "running": true, "reload": true}));
    assert!(matches!(reloads.refresh(None), Refreshed::Done(_)));
    assert_eq!(sh("cat /run/o1.pid"), second);
    assert!(std::path::Path::new("/run/o1-reloaded").exists());
    state("service", json!({"name": "o1", "running": false, "enabled": false})).converge();
    state("service", json!({"name": "o1", "enabled": true, "runlevel": "boot"})).converge();
    assert!(std::path::Path::new("/etc/runlevels/boot/o1").exists());
}

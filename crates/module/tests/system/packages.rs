//! `pkg` and `pkgrepo` with apt, from a repository that is made here.

use mainstay_core::state::StepWord;
use mainstay_core::state::plan::Datum;
use mainstay_module::forecast::{Forecast, Resource};
use serde_json::json;

use crate::world::{converge_together, fields, read, sh, state, write};

pub const TESTS: &[(&str, fn())] = &[
    ("pkg_comes_changes_and_goes", pkg_comes_changes_and_goes),
    ("pkg_lists_all_that_comes_with_it", pkg_lists_all_that_comes_with_it),
    ("pkg_is_held", pkg_is_held),
    ("pkg_that_fails_stays_held", pkg_that_fails_stays_held),
    ("pkg_hold_that_was_lost_is_set_again", pkg_hold_that_was_lost_is_set_again),
    ("pkg_states_are_one_transaction_together", pkg_states_are_one_transaction_together),
    ("pkg_reads_an_outdated_list_once", pkg_reads_an_outdated_list_once),
    ("pkg_from_a_repository_to_come_is_unknown", pkg_from_a_repository_to_come_is_unknown),
    ("pkgrepo_is_read_once_with_its_key", pkgrepo_is_read_once_with_its_key),
    ("pkgrepo_with_another_key_is_refused", pkgrepo_with_another_key_is_refused),
];

/// Here the kernel holds analyze to looking; in a machine that systemd has booted it does not.
pub const DNF: &[(&str, fn())] = &[
    ("pkg_is_planned_with_an_outdated_cache", pkg_is_planned_with_an_outdated_cache),
    ("dnf_pkg_and_pkgrepo_do_the_same", dnf_pkg_and_pkgrepo_do_the_same),
];

/// A package without a program, and what else its control file says.
fn package(name: &str, version: &str, more: &str) {
    let place = format!("/tmp/deb/{name}");
    let control = format!(
        "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Test <test@example.org>\n\
         Description: for a test\n{more}"
    );
    write(&format!("{place}/DEBIAN/control"), &control);
    write(&format!("{place}/DEBIAN/conffiles"), &format!("/etc/{name}.conf\n"));
    write(&format!("{place}/etc/{name}.conf"), version);
    sh(&format!("mkdir -p /repo && dpkg-deb --build --root-owner-group {place} /repo/{name}_{version}.deb"));
}

/// Writes the list of what the repository holds.
fn publish() {
    sh("cd /repo && for deb in *.deb; do dpkg-deb -f \"$deb\"; echo \"Filename: ./$deb\"; \
        echo \"Size: $(stat -c %s $deb)\"; echo \"SHA256: $(sha256sum $deb | cut -d' ' -f1)\"; echo; done > Packages");
}

/// A machine that knows just this repository.
fn repository() {
    sh("rm -rf /repo /tmp/deb /etc/apt/sources.list.d/* /var/lib/apt/lists/* /var/lib/mainstay");
    write("/etc/apt/sources.list", "deb [trusted=yes] copy:/repo ./\n");
    package("demo", "1.0", "");
    package("demo", "1.1", "");
    package("demo-lib", "3", "");
    package("demo-app", "2.0", "Depends: demo-lib\nRecommends: demo-extra\n");
    package("demo-extra", "1", "");
    package("demo-rival", "1", "Conflicts: demo-app\n");
    publish();
    sh("apt-get update -q");
}

fn pkg_comes_changes_and_goes() {
    repository();
    let pinned = state("pkg", json!({"name": "demo", "version": "1.0"})).converge();
    assert_eq!(pinned.changes[0].after, Datum::known("1.0"));
    state("pkg", json!({"name": "demo"})).is_settled();
    state("pkg", json!({"name": "demo", "version": "1.*"})).is_settled();
    let newest = state("pkg", json!({"name": "demo", "latest": true})).converge();
    assert_eq!(
        (&newest.changes[0].before, &newest.changes[0].after),
        (&Datum::known("1.0"), &Datum::known("1.1"))
    );
    state("pkg", json!({"name": "demo", "version": "1.0"})).converge();
    write("/etc/demo.conf", "changed by hand");
    state("pkg", json!({"name": "demo", "version": "1.1"})).converge();
    assert_eq!(read("/etc/demo.conf"), "changed by hand");
    state("pkg", json!({"name": "demo", "absent": true})).converge();
    assert_eq!(read("/etc/demo.conf"), "changed by hand");
    let purged = state("pkg", json!({"name": "demo", "absent": true, "purge": true})).converge();
    assert_eq!(purged.changes[0].before, Datum::known("configuration"));
    assert!(!std::path::Path::new("/etc/demo.conf").exists());
    state("pkg", json!({"name": "demo", "absent": true, "purge": true})).is_settled();
}

fn pkg_is_planned_with_an_outdated_cache() {
    repository();
    sh("apt-get clean");
    assert_eq!(fields(&state("pkg", json!({"name": "demo-app"})).converge()).len(), 3);
    state("pkg", json!({"name": "all", "names": ["demo-app", "demo-lib", "demo-extra"], "absent": true}))
        .converge();
}

fn pkg_lists_all_that_comes_with_it() {
    repository();
    let all =
        state("pkg", json!({"name": "both", "names": ["demo-app", {"name": "demo", "version": "1.0"}]}))
            .converge();
    assert_eq!(fields(&all), ["demo", "demo-app", "demo-lib", "demo-extra"]);
    let rival = state("pkg", json!({"name": "demo-rival"})).converge();
    assert_eq!(fields(&rival), ["demo-rival", "demo-app"]);
    assert_eq!(rival.changes[1].after, Datum::Absent);
    state(
        "pkg",
        json!({"name": "all", "names": ["demo", "demo-rival", "demo-lib", "demo-extra"], "absent": true}),
    )
    .converge();
    let lean = state("pkg", json!({"name": "demo-app", "recommends": false})).converge();
    assert_eq!(fields(&lean), ["demo-app", "demo-lib"]);
    let gone = state("pkg", json!({"name": "demo-lib", "absent": true})).converge();
    assert_eq!(fields(&gone), ["demo-lib", "demo-app"]);
}

fn pkg_is_held() {
    repository();
    let held = state("pkg", json!({"name": "demo", "version": "1.0", "held": true})).converge();
    assert_eq!(fields(&held), ["demo", "demo held"]);
    assert_eq!(sh("apt-mark showhold"), "demo");
    // Who asks for another version asks for the change of what is held.
    state("pkg", json!({"name": "demo", "version": "1.1", "held": true})).converge();
    assert_eq!(sh("apt-mark showhold"), "demo");
    assert_eq!(fields(&state("pkg", json!({"name": "demo", "held": false})).converge()), ["demo held"]);
    state("pkg", json!({"name": "demo", "absent": true})).converge();
}

fn pkg_that_fails_stays_held() {
    repository();
    state("pkg", json!({"name": "demo", "version": "1.0", "held": true})).converge();
    write("/tmp/deb/demo/DEBIAN/preinst", "#!/bin/sh\nexit 1\n");
    sh("chmod 755 /tmp/deb/demo/DEBIAN/preinst");
    package("demo", "1.2", "");
    publish();
    sh("apt-get update -q");
    let wanted = state("pkg", json!({"name": "demo", "version": "1.2"}));
    wanted.try_apply(&wanted.analyze()).unwrap_err();
    assert_eq!((sh("apt-mark showhold"), sh("ls /var/lib/mainstay")), ("demo".into(), String::new()));
    state("pkg", json!({"name": "demo", "held": false})).converge();
    state("pkg", json!({"name": "demo", "absent": true})).converge();
}

fn pkg_hold_that_was_lost_is_set_again() {
    repository();
    let of = |more: serde_json::Value| {
        let mut params = json!({"name": "demo"});
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        state("pkg", params)
    };
    // What lets go of a package and cannot hold it again, as if it had been killed in between.
    let lose = |from: &str, to: &str| {
        sh("rm -f /tmp/noted");
        sh(&format!(
            "apt-get install -y -q --allow-downgrades --allow-change-held-packages demo={from} 2>&1"
        ));
        sh("apt-mark hold demo && mv /usr/bin/apt-mark /usr/bin/apt-mark.real");
        write(
            "/usr/bin/apt-mark",
            "#!/bin/sh\n[ \"$1\" = unhold ] && ls /var/lib/mainstay > /tmp/noted\n[ \"$1\" = hold ] && exit 1\nexec apt-mark.real \"$@\"\n",
        );
        sh("chmod 755 /usr/bin/apt-mark");
        let wanted = of(json!({"version": to}));
        wanted.try_apply(&wanted.analyze()).unwrap_err();
        sh("mv /usr/bin/apt-mark.real /usr/bin/apt-mark");
        assert_eq!(sh("apt-mark showhold"), "");
    };
    let notes = || sh("ls /var/lib/mainstay | grep held || true");
    lose("1.0", "1.1");
    assert_eq!(fields(&of(json!({"version": "1.1"})).converge()), ["demo held"]);
    assert_eq!((sh("apt-mark showhold"), notes()), ("demo".into(), String::new()));
    // Letting go is noted down before, so that whatever ends it in between loses nothing.
    lose("1.1", "1.0");
    assert!(read("/tmp/noted").contains("package-held.apt.demo"));
    of(json!({"version": "1.1"})).converge();
    assert_eq!((sh("apt-mark showhold"), notes()), ("demo".into(), String::new()));
    lose("1.1", "1.0");
    // Who wants it not held is not told that it was.
    let free = of(json!({"held": false}));
    free.is_settled();
    of(json!({"version": "1.1", "held": false})).converge();
    assert_eq!((sh("apt-mark showhold"), notes()), (String::new(), String::new()));
    of(json!({"absent": true})).converge();
}

fn pkg_states_are_one_transaction_together() {
    repository();
    let transactions =
        || sh("grep -c ^Start-Date /var/log/apt/history.log || true").parse::<u32>().unwrap_or(0);
    let before = transactions();
    let version = state("pkg", json!({"name": "demo", "version": "1.0"}));
    converge_together(&[
        version,
        state("pkg", json!({"name": "demo-app"})),
        state("pkg", json!({"name": "demo-lib"})),
    ]);
    assert_eq!(transactions(), before + 1);
    let gone = |name: &str| state("pkg", json!({"name": name, "absent": true}));
    converge_together(&["demo", "demo-app", "demo-lib", "demo-extra"].map(gone));
    assert_eq!(transactions(), before + 2);
}

fn pkg_reads_an_outdated_list_once() {
    repository();
    package("demo-new", "1", "");
    publish();
    let wanted = state("pkg", json!({"name": "demo-new"}));
    // Its list was read by somebody at a time that nobody wrote down, and does not know it.
    let planned = wanted.converge();
    assert_eq!(planned.changes[0].after, Datum::known("newest"));
    // Read a moment ago: reading it again would not help.
    let unknown = state("pkg", json!({"name": "demo-none"}));
    let failure = unknown.foresee(&Forecast::default()).unwrap_err();
    assert_eq!(failure.to_string(), "find package demo-none: apt knows no such package");
    state("pkg", json!({"name": "demo-new", "absent": true})).converge();
    // An empty list, as of a new container.
    sh("rm -rf /var/lib/apt/lists/*");
    state("pkg", json!({"name": "demo"})).converge();
    state("pkg", json!({"name": "demo", "absent": true})).converge();
}

fn pkg_from_a_repository_to_come_is_unknown() {
    repository();
    let mut forecast = Forecast::default();
    forecast.predict(Resource::package_index(), "the-repository".into(), None);
    let planned = state("pkg", json!({"name": "demo-from-there"})).foresee(&forecast).unwrap();
    assert_eq!(planned.step, StepWord::Change);
    assert_eq!(planned.changes[0].after, Datum::Unknown { until: "the-repository".into() });
}

/// A key as text, and its fingerprint as gpg says it. Each name is used once: where the directory of another key was, its agent may
/// still be about to end.
fn key(name: &str) -> (String, String) {
    let gpg = format!("gpg --batch --quiet --homedir /tmp/{name}");
    sh(&format!(
        "rm -rf /tmp/{name} && mkdir -m 700 /tmp/{name} && {gpg} --pinentry-mode loopback --passphrase '' \
         --quick-generate-key {name}@example.org ed25519 sign never 2>&1"
    ));
    let fingerprint =
        sh(&format!("{gpg} --with-colons --fingerprint | grep ^fpr | head -n 1 | cut -d: -f10"));
    (sh(&format!("{gpg} --armor --export")), fingerprint)
}

/// What is in /repo, as a repository signed by this key.
fn sign(name: &str) {
    sh(&format!(
        "rm -rf /signed && mkdir /signed && cp /repo/*.deb /repo/Packages /signed && cd /signed && \
         {{ echo \"Date: $(date -Ru)\"; echo SHA256:; \
            echo \" $(sha256sum Packages | cut -d' ' -f1) $(stat -c %s Packages) Packages\"; }} > Release && \
         gpg --batch --homedir /tmp/{name} --clearsign -o InRelease Release 2>&1"
    ));
}

fn pkgrepo_is_read_once_with_its_key() {
    repository();
    let (armored, fingerprint) = key("owner");
    sign("owner");
    write("/etc/apt/sources.list", "");
    sh("apt-get update -q");
    let wanted = json!({
        "name": "local", "uris": ["copy:/signed"], "suites": ["./"], "key": armored, "fingerprint": fingerprint
    });
    let planned = state("pkgrepo", wanted).converge();
    assert_eq!(planned.outputs["fingerprints"], json!([fingerprint]));
    assert_eq!(fields(&planned), ["key", "content"]);
    let outdated = std::path::Path::new("/var/lib/mainstay/package-index.outdated");
    assert!(outdated.exists());
    let demo = state("pkg", json!({"name": "demo"}));
    assert_eq!(demo.converge().changes[0].after, Datum::known("newest"));
    assert!(!outdated.exists());
    // Nothing changed since: the list is not read again.
    let read_at = || std::fs::metadata("/var/lib/mainstay/package-index.read").unwrap().modified().unwrap();
    let before = read_at();
    assert_eq!(state("pkg", json!({"name": "demo-lib"})).converge().changes[0].after, Datum::known("3"));
    assert_eq!(read_at(), before);
    state("pkg", json!({"name": "all", "names": ["demo", "demo-lib"], "absent": true})).converge();
    state("pkgrepo", json!({"name": "local", "absent": true})).converge();
    assert_eq!(
        sh("ls /etc/apt/sources.list.d /etc/apt/keyrings"),
        "/etc/apt/keyrings:\n\n/etc/apt/sources.list.d:"
    );
}

fn pkgrepo_with_another_key_is_refused() {
    repository();
    let (armored, fingerprint) = key("keeper");
    let (other, _) = key("stranger");
    let of = |key: &str| {
        let params = json!({
            "name": "local", "uris": ["copy:/signed"], "suites": ["./"], "key": key, "fingerprint": fingerprint
        });
        state("pkgrepo", params)
    };
    for key in [&other, &format!("{armored}\n{other}")] {
        let failure = of(key).foresee(&Forecast::default()).unwrap_err().to_string();
        assert!(failure.starts_with("check the key of local: its fingerprint is "), "{failure}");
    }
    // Signed by somebody else than the key says: apt does not take it, and its words are told.
    sign("stranger");
    write("/etc/apt/sources.list", "");
    sh("apt-get update -q");
    of(&armored).converge();
    let demo = state("pkg", json!({"name": "demo"}));
    let failure = demo.try_apply(&demo.analyze()).unwrap_err().to_string();
    assert!(failure.contains("NO_PUBKEY") || failure.contains("not signed"), "{failure}");
    state("pkgrepo", json!({"name": "local", "absent": true})).converge();
}

fn rpm(name: &str, version: &str) {
    let spec = format!(
        "Name: {name}\nVersion: {version}\nRelease: 1\nSummary: for a test\nLicense: MIT\nBuildArch: noarch\n\
         %description\nfor a test\n%files\n"
    );
    write(&format!("/tmp/rpm/{name}.spec"), &spec);
    sh(&format!(
        "rpmbuild -bb --define '_topdir /tmp/rpm' --define '_rpmdir /rpms' /tmp/rpm/{name}.spec 2>&1"
    ));
}

fn dnf_pkg_and_pkgrepo_do_the_same() {
    sh("rm -rf /etc/yum.repos.d/* /var/lib/mainstay && mkdir -p /rpms");
    for (name, version) in [("demo", "1.0"), ("demo", "1.1"), ("other", "2")] {
        rpm(name, version);
    }
    sh("createrepo_c -q /rpms");
    let repository = json!({"name": "local", "uris": ["file:///rpms"], "trusted": true, "manager": "dnf"});
    state("pkgrepo", repository).converge();
    let text = "[local]\nname=local\nbaseurl=file:///rpms\nenabled=1\ngpgcheck=0\n";
    assert_eq!(read("/etc/yum.repos.d/local.repo"), text);
    let pkg = |more: serde_json::Value| {
        let mut params = json!({"name": "demo", "manager": "dnf"});
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        state("pkg", params)
    };
    pkg(json!({"version": "1.0-1"})).converge();
    assert_eq!(sh("rpm -q demo"), "demo-1.0-1.noarch");
    let newest = pkg(json!({"latest": true})).converge();
    let (before, after) = (Datum::known("1.0-1"), Datum::known("1.1-1"));
    assert_eq!((&newest.changes[0].before, &newest.changes[0].after), (&before, &after));
    pkg(json!({"version": "1.0*"})).converge();
    pkg(json!({"names": ["demo", "other"]})).converge();
    pkg(json!({"names": ["demo", "other"], "absent": true})).converge();
    state("pkgrepo", json!({"name": "local", "absent": true, "manager": "dnf"})).converge();
}

//! `pkg` and `pkgrepo` with apt, from a repository that is made here.

use mainstay_core::state::StepWord;
use mainstay_core::state::plan::Datum;
use mainstay_module::forecast::{Forecast, Resource};
use serde_json::json;

use crate::world::{fields, read, sh, state, write};

pub const TESTS: &[(&str, fn())] = &[
    ("pkg_comes_changes_and_goes", pkg_comes_changes_and_goes),
    ("pkg_lists_all_that_comes_with_it", pkg_lists_all_that_comes_with_it),
    ("pkg_is_held", pkg_is_held),
    ("pkg_reads_an_outdated_list_once", pkg_reads_an_outdated_list_once),
    ("pkg_from_a_repository_to_come_is_unknown", pkg_from_a_repository_to_come_is_unknown),
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

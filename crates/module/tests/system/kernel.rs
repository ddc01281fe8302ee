//! `sysctl`, in the network namespace of the scratch root, and `mount`.

use std::path::Path;

use mainstay_core::state::StepWord;
use mainstay_module::forecast::{Forecast, Resource};
use serde_json::json;

use crate::world::{fields, read, sh, state, write};

pub const TESTS: &[(&str, fn())] = &[
    ("sysctl_is_set_now_and_kept", sysctl_is_set_now_and_kept),
    ("sysctl_that_the_kernel_refuses_is_not_kept", sysctl_that_the_kernel_refuses_is_not_kept),
    ("mount_comes_changes_and_goes", mount_comes_changes_and_goes),
    ("mount_at_a_link_settles", mount_at_a_link_settles),
    ("mount_goes_with_all_that_is_over_it", mount_goes_with_all_that_is_over_it),
    ("mount_lists_what_it_makes", mount_lists_what_it_makes),
    ("mount_adds_a_line_of_its_own", mount_adds_a_line_of_its_own),
    ("mount_tells_something_else_apart", mount_tells_something_else_apart),
    ("mount_knows_a_device_by_all_its_names", mount_knows_a_device_by_all_its_names),
    ("sysctl_lists_the_directory_that_it_makes", sysctl_lists_the_directory_that_it_makes),
    ("sysctl_numbers_are_compared_as_numbers", sysctl_numbers_are_compared_as_numbers),
];

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
const FILE: &str = "/etc/sysctl.d/90-net-ipv4-ip_forward.conf";

fn sysctl_is_set_now_and_kept() {
    let name = "net.ipv4.ip_forward";
    sh(&format!("echo 0 > {FORWARD}"));
    assert_eq!(fields(&state("sysctl", json!({"name": name, "value": 1})).converge()), ["value", "persist"]);
    assert_eq!((read(FORWARD).trim(), read(FILE).as_str()), ("1", "net/ipv4/ip_forward = 1\n"));
    sh(&format!("echo 0 > {FORWARD}"));
    assert_eq!(fields(&state("sysctl", json!({"name": name, "value": "1"})).converge()), ["value"]);
    let range = json!({"name": "net.ipv4.ip_local_port_range", "value": "20000 30000", "persist": false});
    assert_eq!(fields(&state("sysctl", range).converge()), ["value"]);
    state("sysctl", json!({"name": name, "absent": true})).converge();
    assert_eq!(read(FORWARD).trim(), "1");
    let unknown = state("sysctl", json!({"name": "net.no.such", "value": 1}));
    assert!(unknown.foresee(&Forecast::default()).unwrap_err().to_string().contains("no such setting"));
}

fn sysctl_that_the_kernel_refuses_is_not_kept() {
    let wanted = state("sysctl", json!({"name": "net.ipv4.ip_forward", "value": "much"}));
    let failure = wanted.try_apply(&wanted.analyze()).unwrap_err();
    assert!(
        failure.to_string().starts_with("write /proc/sys/net/ipv4/ip_forward: Invalid argument"),
        "{failure}"
    );
    assert!(!std::path::Path::new(FILE).exists());
}

fn sysctl_lists_the_directory_that_it_makes() {
    sh("mv /etc/sysctl.d /etc/sysctl.away");
    let wanted = || state("sysctl", json!({"name": "net.ipv4.ip_forward", "value": 1}));
    sh(&format!("echo 1 > {FORWARD}"));
    let mut forecast = Forecast::default();
    let made = Some(json!({"kind": "directory"}));
    forecast.predict(Resource::path(Path::new("/etc/sysctl.d")), "maker".into(), made);
    assert_eq!(fields(&wanted().foresee(&forecast).unwrap()), ["persist"]);
    assert_eq!(fields(&wanted().converge()), ["exists of /etc/sysctl.d", "persist"]);
    sh("rm -r /etc/sysctl.d && mv /etc/sysctl.away /etc/sysctl.d");
}

fn sysctl_numbers_are_compared_as_numbers() {
    let wanted =
        |name: &str, value: &str| state("sysctl", json!({"name": name, "value": value, "persist": false}));
    let ttl = "net.ipv4.ip_default_ttl";
    for (value, kept) in [("070", "56"), ("0x40", "64"), ("  0X41 ", "65")] {
        let planned = wanted(ttl, value).converge();
        assert_eq!(planned.outputs["value"], kept);
        assert_eq!(read("/proc/sys/net/ipv4/ip_default_ttl").trim(), kept);
    }
    let range = "net.ipv4.ip_local_port_range";
    wanted(range, "0x4e20 \t 30001").converge();
    wanted(range, "20000  0x7531").is_settled();
    for broken in ["08", "0x", "64k"] {
        let state = wanted(ttl, broken);
        assert_eq!(fields(&state.analyze()), ["value"], "{broken}");
    }
}

fn mount_comes_changes_and_goes() {
    let tmpfs = |size: &str, mounted: bool| {
        let options = [format!("size={size}")];
        let params = json!({
            "path": "/srv/a place", "source": "tmpfs", "fstype": "tmpfs", "options": options, "mounted": mounted
        });
        state("mount", params)
    };
    let size = || sh("findmnt -n -o SIZE '/srv/a place'").trim().to_owned();
    assert_eq!(fields(&tmpfs("1m", true).converge()), ["directory", "fstab", "mounted"]);
    assert_eq!(size(), "1M");
    assert_eq!(fields(&tmpfs("2m", true).converge()), ["fstab", "options"]);
    assert_eq!(size(), "2M");
    // What the kernel does not take is still to be done afterwards, and the old line stands.
    let table = read("/etc/fstab");
    for _ in 0..2 {
        let analysis = tmpfs("bogus", true).analyze();
        assert_eq!(fields(&analysis), ["fstab", "options"]);
        let failure = tmpfs("bogus", true).try_apply(&analysis).unwrap_err();
        assert!(failure.call.contains("remount,size=bogus"), "{failure}");
        assert_eq!(read("/etc/fstab"), table);
    }
    sh("umount '/srv/a place'");
    assert_eq!(fields(&tmpfs("2m", true).converge()), ["mounted"]);
    let table = read("/etc/fstab");
    tmpfs("2m", false).converge();
    assert_eq!(read("/etc/fstab"), table);
    state("mount", json!({"path": "/srv/a place", "absent": true})).converge();
    assert!(!read("/etc/fstab").contains("tmpfs"));
}

fn mount_at_a_link_settles() {
    sh("mkdir -p /srv/real && ln -sfn /srv/real /srv/by-link");
    let options = |size: &str| json!([format!("size={size}")]);
    let wanted = |size: &str| {
        let (path, fstype) = ("/srv/by-link", "tmpfs");
        state("mount", json!({"path": path, "source": "tmpfs", "fstype": fstype, "options": options(size)}))
    };
    let count = || sh("grep -c ' /srv/real ' /proc/self/mountinfo || true");
    assert_eq!(fields(&wanted("1m").converge()), ["fstab", "mounted"]);
    assert_eq!(count(), "1");
    wanted("2m").converge();
    assert_eq!((count(), sh("findmnt -n -o SIZE /srv/real").trim()), ("1".into(), "2M"));
    state("mount", json!({"path": "/srv/by-link", "absent": true})).converge();
    assert_eq!(count(), "0");
}

fn mount_goes_with_all_that_is_over_it() {
    sh("mkdir -p /srv/deep && for i in 1 2 3; do mount -t tmpfs tmpfs /srv/deep; done");
    assert_eq!(fields(&state("mount", json!({"path": "/srv/deep", "absent": true})).converge()), ["mounted"]);
    assert!(!read("/proc/self/mountinfo").contains("/srv/deep"));
}

fn mount_lists_what_it_makes() {
    let wanted = json!({"path": "/srv/one/two/three", "source": "tmpfs", "fstype": "tmpfs"});
    assert_eq!(
        fields(&state("mount", wanted).converge()),
        ["exists of /srv/one", "exists of /srv/one/two", "directory", "fstab", "mounted"]
    );
    let mut forecast = Forecast::default();
    forecast.predict(
        Resource::path(Path::new("/srv/four")),
        "maker".into(),
        Some(json!({"kind": "directory"})),
    );
    let below = json!({"path": "/srv/four/five/six", "source": "tmpfs", "fstype": "tmpfs"});
    let planned = state("mount", below).foresee(&forecast).unwrap();
    assert_eq!(fields(&planned), ["exists of /srv/four/five", "directory", "fstab", "mounted"]);
    // The line alone is no reason to mount it anew.
    let line = json!({"path": "/srv/one/two/three", "source": "tmpfs", "fstype": "tmpfs", "pass": 1});
    assert_eq!(fields(&state("mount", line).converge()), ["fstab"]);
    state("mount", json!({"path": "/srv/one/two/three", "absent": true})).converge();
}

fn mount_adds_a_line_of_its_own() {
    let kept = read("/etc/fstab");
    write("/etc/fstab", "tmpfs /srv/first tmpfs defaults 0 0");
    let first = json!({"path": "/srv/first", "source": "tmpfs", "fstype": "tmpfs", "mounted": null});
    state("mount", first).is_settled();
    state("mount", json!({"path": "/srv/none", "absent": true})).is_settled();
    let second = json!({"path": "/srv/second", "source": "tmpfs", "fstype": "tmpfs", "mounted": null});
    assert_eq!(fields(&state("mount", second).converge()), ["fstab"]);
    assert_eq!(
        read("/etc/fstab"),
        "tmpfs /srv/first tmpfs defaults 0 0\ntmpfs /srv/second tmpfs defaults 0 0\n"
    );
    write("/etc/fstab", &kept);
}

fn mount_tells_something_else_apart() {
    let wanted = |path: &str, source: &str, fstype: &str, options: &[&str]| {
        state("mount", json!({"path": path, "source": source, "fstype": fstype, "options": options}))
    };
    let refused = |path: &str, source: &str, fstype: &str, options: &[&str], there: &str| {
        let failure = wanted(path, source, fstype, options).foresee(&Forecast::default()).unwrap_err();
        assert!(failure.to_string().contains(there), "{failure}");
    };
    sh("mkdir -p /srv/at /srv/source/inside /srv/other && ln -sfn source /srv/link-to-source");
    let bind = |source: &str| wanted("/srv/at", source, "none", &["bind"]);
    sh("mount -t tmpfs some-word /srv/at");
    refused("/srv/at", "/srv/source", "none", &["bind"], "tmpfs from some-word");
    refused("/srv/at", "/dev/no-such-disk", "ext4", &[], "tmpfs from some-word");
    refused("/srv/at", "host:/export", "nfs", &[], "tmpfs from some-word");
    refused("/srv/at", "ramfs", "ramfs", &[], "tmpfs from some-word");
    assert_eq!(fields(&wanted("/srv/at", "other-word", "tmpfs", &[]).analyze()), ["fstab", "options"]);
    assert_eq!(fields(&wanted("/srv/at", "other-word", "auto", &[]).analyze()), ["fstab", "options"]);
    // What may do anything before may also unmount it.
    let mut forecast = Forecast::default();
    forecast.note_opaque("earlier".into());
    assert_eq!(bind("/srv/source").foresee(&forecast).unwrap().step, StepWord::Conditional);
    // What is not to be mounted there goes, whatever it is.
    state("mount", json!({"path": "/srv/at", "absent": true})).converge();

    bind("/srv/link-to-source/inside").converge();
    let again = bind("/srv/source/inside").analyze();
    assert!(!again.lists("mounted"), "{:?}", again.changes);
    refused("/srv/at", "/srv/source", "none", &["bind"], "/srv/source/inside");
    refused("/srv/at", "/srv/other", "none", &["bind"], "/srv/source/inside");
    refused("/srv/at", "tmpfs", "tmpfs", &[], "/srv/source/inside");
    state("mount", json!({"path": "/srv/at", "absent": true})).converge();

    // Onto itself, and out of what it covers.
    wanted("/srv/source", "/srv/source", "none", &["bind"]).converge();
    state("mount", json!({"path": "/srv/source", "absent": true})).converge();
    wanted("/srv/source", "/srv/source/inside", "none", &["bind"]).converge();
    state("mount", json!({"path": "/srv/source", "absent": true})).converge();

    sh("mount -t tmpfs tmpfs /srv/other && mkdir /srv/other/l /srv/other/u /srv/other/w");
    let parts = ["lowerdir=/srv/other/l", "upperdir=/srv/other/u", "workdir=/srv/other/w"];
    wanted("/srv/at", "any-word", "overlay", &parts).converge();
    state("mount", json!({"path": "/srv/at", "absent": true})).converge();
    sh("umount /srv/other");
}

fn mount_knows_a_device_by_all_its_names() {
    let uuid = "b2c5a2ea-6d4d-4c1c-9a0b-6a5e3c1f0d11";
    sh("mkdir -p /srv/disk /srv/elsewhere && truncate -s 8M /srv/disk.img");
    sh(&format!("mkfs.ext4 -q -L 'scratch disk' -U {uuid} /srv/disk.img"));
    // Loop devices belong to the whole machine, and it may keep them from a scratch root.
    let loops = "mknod /dev/loop-control c 10 237 2>/dev/null; for i in 0 1 2 3 4 5 6 7; do \
         test -b /dev/loop$i || mknod /dev/loop$i b 7 $i; done; \
         mount -o loop /srv/disk.img /srv/disk 2>&1 && umount /srv/disk && echo can || true";
    if sh(loops).lines().last() != Some("can") {
        println!("skipped: mount_knows_a_device_by_all_its_names: {}", sh(loops));
        return;
    }
    let wanted = |source: &str, fstype: &str, options: &[&str]| {
        state("mount", json!({"path": "/srv/disk", "source": source, "fstype": fstype, "options": options}))
    };
    let is_same = |source: &str, fstype: &str| {
        let planned = wanted(source, fstype, &["loop"]).analyze();
        assert!(!planned.lists("mounted"), "{:?}", planned.changes);
    };
    let refused = |source: &str, fstype: &str, there: &str| {
        let failure = wanted(source, fstype, &[]).foresee(&Forecast::default()).unwrap_err();
        assert!(failure.to_string().contains(there), "{failure}");
    };
    wanted("/srv/disk.img", "ext4", &["loop"]).converge();
    let device = sh("findmnt -n -o SOURCE /srv/disk").trim().to_owned();
    let other = if device == "/dev/loop6" { "/dev/loop5" } else { "/dev/loop6" };
    let there = format!("ext4 from {device}");
    sh(&format!(
        "mkdir -p /dev/disk/by-label /dev/mapper && ln -sfn ../../{} '/dev/disk/by-label/scratch\\x20disk' \
         && ln -sfn {device} /dev/mapper/scratch && cp /srv/disk.img /srv/copy.img \
         && ln -sfn disk.img /srv/link.img && mknod /dev/second b 7 {}",
        device.trim_start_matches("/dev/"),
        device.trim_start_matches("/dev/loop"),
    ));
    is_same(&device, "ext4");
    is_same("LABEL=scratch disk", "ext4");
    is_same("LABEL=\"scratch disk\"", "auto");
    is_same("/dev/mapper/scratch", "ext4");
    is_same("/dev/second", "xfs,ext4");
    is_same("/srv/link.img", "ext4");
    // There is no link for it; the device itself says so.
    is_same(&format!("UUID={uuid}"), "ext4");
    refused(other, "ext4", &there);
    refused(&device, "xfs", &there);
    refused("LABEL=no-such-disk", "ext4", &there);
    refused("UUID=b2c5a2ea-6d4d-4c1c-9a0b-000000000000", "ext4", &there);
    refused("/srv/copy.img", "ext4", &there);
    refused("/dev/no-such-disk", "ext4", &there);
    state("mount", json!({"path": "/srv/disk", "absent": true})).converge();
    // A part of it is something else.
    sh("mount -o loop /srv/disk.img /srv/elsewhere && mount --bind /srv/elsewhere/lost+found /srv/disk");
    refused("LABEL=scratch disk", "ext4", "/lost+found");
    let planned = wanted("/srv/elsewhere/lost+found", "none", &["bind"]).analyze();
    assert!(!planned.lists("mounted"), "{:?}", planned.changes);
    refused("/srv/elsewhere", "none", "/lost+found");
    state("mount", json!({"path": "/srv/disk", "absent": true})).converge();
    sh("umount /srv/elsewhere && rm -r /dev/disk /dev/mapper /dev/second");
}

use super::*;

fn attached(line: &str) -> Attached {
    let tree = Tree::parse(line);
    tree.at(Path::new("/srv"))[0].clone()
}

/// Whether this is what is mounted at `/srv`, told by a line of the kernel's.
fn is(source: &str, fstype: &str, options: &[&str], line: &str) -> bool {
    let options: Vec<String> = options.iter().map(ToString::to_string).collect();
    let declared = Declared { source, fstype, options: &options };
    declared.is_at(&View::new(None), &Tree::parse(line), Path::new("/srv")).unwrap()
}

#[test]
fn types_go_by_several_names() {
    for (declared, now) in [
        ("ext4", "ext4"),
        ("auto", "xfs"),
        ("nfs", "nfs4"),
        ("nfs4", "nfs"),
        ("cifs", "smb3"),
        ("ntfs", "fuseblk"),
        ("ntfs-3g", "ntfs3"),
        ("exfat", "fuseblk"),
        ("fuse.sshfs", "fuse.sshfs"),
    ] {
        assert_eq!(kinship(declared, now), Kinship::Same, "{declared} {now}");
    }
    for (declared, now) in [
        ("fuse", "fuse.sshfs"),
        ("sshfs", "fuse.sshfs"),
        ("davfs", "fuse"),
        ("fuse.bindfs", "fuse"),
        ("fuse.ceph", "fuse.ceph-fuse"),
    ] {
        assert_eq!(kinship(declared, now), Kinship::Perhaps, "{declared} {now}");
    }
    for (declared, now) in [
        ("ext4", "xfs"),
        ("ext4", "fuseblk"),
        ("tmpfs", "ramfs"),
        ("nfs", "fuse.sshfs"),
        ("nfs", "autofs"),
        ("fuse.sshfs", "fuse.rclone"),
        ("fuse.sshfs", "ext4"),
        ("a-type-that-nobody-has", "tmpfs"),
    ] {
        assert_eq!(kinship(declared, now), Kinship::Other, "{declared} {now}");
    }
}

#[test]
fn exports_are_compared_by_host_and_path() {
    let line =
        "30 1 0:30 / /srv rw - nfs4 nas.example.org:/data/a rw,vers=4.2,addr=192.0.2.7,clientaddr=192.0.2.1";
    let now = attached(line);
    let known = |host: &str| -> Vec<IpAddr> {
        if host == "nas" {
            vec!["192.0.2.6".parse().unwrap(), "192.0.2.7".parse().unwrap()]
        } else {
            Vec::new()
        }
    };
    for same in ["nas.example.org:/data/a", "NAS.example.org.:/data//a/", "nas:/data/a", "192.0.2.7:/data/a"]
    {
        assert!(is_export(same, &now, &known), "{same}");
    }
    for other in ["old:/data/a", "192.0.2.8:/data/a", "nas:/data", "nas:/data/a/b", "/dev/sda", "UUID=a"] {
        assert!(!is_export(other, &now, &known), "{other}");
    }
    let now = attached("30 1 0:30 / /srv rw - nfs4 [2001:db8::7]:/ rw,addr=2001:db8::7");
    assert!(is_export("[2001:db8::7]:/", &now, &known));
    assert!(is_export("[2001:db8:0::7]:/", &now, &known));
    assert!(is("[2001:db8::7]:/", "nfs", &[], "30 1 0:30 / /srv rw - nfs4 [2001:db8::7]:/ rw"));
}

#[test]
fn shares_are_compared_without_case() {
    assert!(is_share("//Host/Share/", "//host/share"));
    assert!(is_share(r"\\host\share", "//host/share"));
    assert!(is_share("//host/share/below", "//host/share"));
    assert!(!is_share("//host/shared", "//host/share"));
    assert!(!is_share("/dev/sda", "//host/share"));
    let line = "30 1 0:30 / /srv rw - ceph 192.0.2.1:6789,192.0.2.2:6789:/data rw";
    assert!(is("mon1,mon2:/data/", "ceph", &[], line));
    assert!(is("admin@.fs=/data", "ceph", &[], line));
    assert!(!is("mon1,mon2:/other", "ceph", &[], line));
}

#[test]
fn what_has_no_device_has_any_word() {
    let tmpfs = "30 1 0:30 / /srv rw - tmpfs some rw";
    assert!(is("other", "tmpfs", &[], tmpfs));
    assert!(is("/dev/shm", "tmpfs", &[], tmpfs));
    assert!(!is("/dev/shm", "auto", &[], tmpfs));
    assert!(!is("LABEL=data", "auto", &[], tmpfs));
    assert!(!is("tmpfs", "tmpfs", &[], "30 1 0:30 /part /srv rw - tmpfs some rw"));
    assert!(is("sshfs#a@b:", "fuse", &[], "30 1 0:30 / /srv rw - fuse.sshfs a@b:/home rw"));
    assert!(is("pool/data", "zfs", &[], "30 1 0:30 / /srv rw - zfs pool/data rw"));
    assert!(!is("pool/other", "zfs", &[], "30 1 0:30 / /srv rw - zfs pool/data rw"));
}

#[test]
fn an_automount_stands_for_what_it_will_mount() {
    let line = "30 1 0:30 / /srv rw - autofs systemd-1 rw,fd=40";
    assert!(is("LABEL=data", "ext4", &["noauto", "x-systemd.automount"], line));
    assert!(is("/srv/source", "none", &["bind", "x-systemd.automount"], line));
    assert!(!is("LABEL=data", "ext4", &[], line));
}

#[test]
fn a_subvolume_is_told_by_its_root() {
    let now = |root: &str| attached(&format!("30 1 0:30 {root} /srv rw - btrfs /dev/none rw,subvol={root}"));
    let is_whole = |options: &[&str], root: &str| {
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        Declared { source: "/dev/none", fstype: "btrfs", options: &options }.is_whole(&now(root))
    };
    assert!(is_whole(&["subvol=@data"], "/@data"));
    assert!(is_whole(&["subvol=/@data"], "/@data"));
    assert!(is_whole(&["subvol=/"], "/"));
    assert!(is_whole(&["subvolid=256"], "/@data"));
    assert!(is_whole(&[], "/@data"), "which one is the default, the device says");
    assert!(!is_whole(&["subvol=@data"], "/@home"));
    assert!(!is_whole(&["subvol=/"], "/@home"));
}

#[test]
fn names_of_links_are_as_udev_makes_them() {
    assert_eq!(tag("LABEL=\"my data\""), Some(("LABEL", "my data")));
    assert_eq!(tag("UUID=1-2"), Some(("UUID", "1-2")));
    assert_eq!(tag("size=1"), None);
    assert_eq!(encoded("my data/1ä\\"), r"my\x20data\x2f1ä\x5c");
}

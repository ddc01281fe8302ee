use super::*;

#[test]
fn a_star_in_a_version_stands_for_any_text() {
    for (wanted, version) in
        [("1.2", "1.2"), ("1.*", "1.24-3"), ("*", "x"), ("1*-3", "1.24-3"), ("*2*", "1.2-1")]
    {
        assert!(is_version(wanted, version), "{wanted} {version}");
    }
    for (wanted, version) in [("1.2", "1.20"), ("1.*", "2.1"), ("1*-3", "1.24-4")] {
        assert!(!is_version(wanted, version), "{wanted} {version}");
    }
    for bad in ["", "-1", "1 2", "1/2", "=1", "1\n"] {
        assert!(check_version(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn names_are_names_and_nothing_else() {
    for good in ["nginx", "g++", "libc6:amd64", "python3.11", "lib-x"] {
        assert!(Manager::Apt.check_name(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "a",
        "-o",
        "--purge",
        "nginx-",
        "nginx=1",
        "nginx/stable",
        "ng*",
        "^a",
        "a b",
        "../x",
        "libc6:",
        "libc6:-x",
        "A1",
    ] {
        assert!(Manager::Apt.check_name(bad).is_err(), "{bad:?}");
    }
    for bad in ["", "-y", "@group", "/x.rpm", "a*", "a b", "a=1", "a>1", "http://x"] {
        assert!(Manager::Dnf.check_name(bad).is_err() && Manager::Apk.check_name(bad).is_err(), "{bad:?}");
    }
}

/// As dpkg-query 1.21 writes it.
#[test]
fn dpkg_says_what_is_there() {
    let text = "cron\tamd64\tinstall\tinstalled\t3.0pl1-162\nnano\tamd64\tdeinstall\tconfig-files\t7.2-1\n\
                libc6\tamd64\thold\tinstalled\t2.36-9\nvim\tamd64\tinstall\thalf-installed\t9\ngone\t\tunknown\tnot-installed\t\n";
    let found = apt::parse_installed(text, &["cron", "nano", "libc6:amd64", "vim", "gone"]);
    let names: Vec<_> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["cron", "libc6:amd64", "nano"]);
    assert!(found["libc6:amd64"].held && !found["cron"].held);
    assert!(found["nano"].config_only && !found["cron"].config_only);
}

/// As apt 2.6 writes it.
#[test]
fn apt_says_what_could_be_there() {
    let text = "\
cron:
  Installed: 3.0pl1-162
  Candidate: 3.0pl1-163
  Version table:
     3.0pl1-163 500
        500 http://deb.example/debian bookworm/main amd64 Packages
 *** 3.0pl1-162 100
        100 /var/lib/dpkg/status
mail-transport-agent:
  Installed: (none)
  Candidate: (none)
  Version table:
";
    let all = apt::parse_policy(text);
    assert_eq!(all.len(), 1);
    assert_eq!(all["cron"].candidate.as_deref(), Some("3.0pl1-163"));
    assert_eq!(all["cron"].versions, ["3.0pl1-163", "3.0pl1-162"]);
    let moves = apt::parse_simulation(
        "Reading package lists...\nInst liba (1.0 stable [amd64])\nInst app [0.9] (1.0 stable [amd64]) []\n\
         Remv old [3-1]\nPurg old [3-1]\nConf liba (1.0 stable [amd64])\n",
    );
    let moves: Vec<_> =
        moves.iter().map(|m| (m.name.as_str(), m.before.as_deref(), m.after.as_deref())).collect();
    let expected =
        [("liba", None, Some("1.0")), ("app", Some("0.9"), Some("1.0")), ("old", Some("3-1"), None)];
    assert_eq!(moves, expected);
}

/// As rpm and dnf 4 write it.
#[test]
fn rpm_and_dnf_say_the_same() {
    let text = "bash\t0\t5.2.26-3.fc40\npackage nano is not installed\nvim\t2\t9.1-1.fc40\n";
    let found = dnf::parse_installed(text, "# locks\nvim-2:9.1-1.fc40.*\n");
    assert_eq!((found["bash"].version.as_str(), found["bash"].held), ("5.2.26-3.fc40", false));
    assert_eq!((found["vim"].version.as_str(), found["vim"].held), ("2:9.1-1.fc40", true));
    let all = dnf::parse_available("a\t0\t1-1\na\t0\t2-1\n");
    assert_eq!((all["a"].candidate.as_deref(), all["a"].versions.len()), (Some("2-1"), 2));
}

/// Records of Alpine 3.15 (apk-tools 2.12.7) and of Alpine 3.24 (apk-tools 3.0), out of the test data of programs that read
/// them, with fewer of their lines.
const APK_INSTALLED: &str = "\
C:Q1Deb0jNytkrjPW4N/eKLZ43BwOlw=
P:musl
V:1.2.2-r7
A:x86_64
S:383152
I:622592
T:the musl c library (libc) implementation
t:1632431095
p:so:libc.musl-x86_64.so.1=1
F:lib
R:ld-musl-x86_64.so.1
a:0:0:755
Z:Q12adwqQOjo9dFl+VJD2Ecd901vhE=

P:gocryptfs
V:2.6.1-r6
A:x86_64
L:MIT
o:gocryptfs
F:usr/bin
R:gocryptfs

P:fuse-common
V:3.18.2-r0
A:x86_64
L:GPL-2.0-only AND LGPL-2.1-only
o:fuse3
F:etc
";

#[test]
fn apk_says_what_is_there() {
    let names = ["musl", "gocryptfs", "fuse-common", "vim"];
    // Written by hand, as apk-world(5) says.
    let world = "alpine-base\nmusl@edge=1.2.2-r7\ngocryptfs~2.6\nfuse-common=3.18.2-r0\nmusl-dev=1\n";
    let found = apk::parse_installed(APK_INSTALLED, world, &names);
    let found: Vec<_> =
        found.iter().map(|(name, now)| (name.as_str(), now.version.as_str(), now.held)).collect();
    let expected =
        [("fuse-common", "3.18.2-r0", true), ("gocryptfs", "2.6.1-r6", false), ("musl", "1.2.2-r7", true)];
    assert_eq!(found, expected);
}

/// `apk policy` of Alpine 3.13 (apk-tools 2.12; vim, capnproto), of Wolfi (apk-tools 2.14; wget), of Alpine 3.24 (apk-tools 3.0;
/// fuse-common) and of Alpine's edge (chrony, built anew), as people showed it, with other addresses. Versions
/// go up.
const APK_POLICY: &str = "\
vim policy:
  8.2.2320-r0:
    lib/apk/db/installed
    https://mirror.example/v3.13/main
  8.2.2852-r0:
    @edge https://mirror.example/edge/main
capnproto policy:
  0.8.0-r1:
    @edgecommunity https://mirror.example/edge/community
wget policy:
  1.24.5-r4:
    https://mirror.example/wolfi
  1.24.5-r5:
    https://mirror.example/wolfi
  1.25.0-r0:
    lib/apk/db/installed
    https://mirror.example/wolfi
fuse-common policy:
  3.18.2-r0:
    lib/apk/db/installed
  3.18.3-r0:
    https://mirror.example/v3.24/main
chrony policy:
  4.6.1-r0:
    lib/apk/db/installed
  4.6.1-r0:
    https://mirror.example/edge/main
";

#[test]
fn apk_says_what_could_be_there() {
    let all = apk::parse_policy(APK_POLICY, "vim\n");
    let versions = |name: &str| all[name].versions.iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(versions("wget"), ["1.25.0-r0", "1.24.5-r5", "1.24.5-r4"]);
    assert_eq!(all["wget"].candidate.as_deref(), Some("1.25.0-r0"));
    assert_eq!(versions("fuse-common"), ["3.18.3-r0"]);
    assert_eq!(versions("chrony"), ["4.6.1-r0"]);
    // What is tagged is there for whoever asked for the tag.
    assert_eq!(all["vim"].candidate.as_deref(), Some("8.2.2320-r0"));
    assert!(!all.contains_key("capnproto"));
    let tagged = apk::parse_policy(APK_POLICY, "vim@edge\ncapnproto@edgecommunity\n");
    assert_eq!(tagged["vim"].candidate.as_deref(), Some("8.2.2852-r0"));
    assert_eq!(tagged["capnproto"].candidate.as_deref(), Some("0.8.0-r1"));
}

/// Lines of runs on Alpine 3.3 and 3.6 (apk-tools 2.6 and 2.7), OpenWrt of November 2024 and Alpine 3.23 (apk-tools 3), as
/// people showed them.
#[test]
fn apk_says_what_it_would_do() {
    let moves = apk::parse_simulation(
        "fetch https://mirror.example/v3.6/main/x86_64/APKINDEX.tar.gz\n\
         (1/1) Updating pinning bash (4.3.33-r0)\n\
         (1/2) Upgrading bash (4.3.33-r0 -> 4.3.42-r3)\n\
         Executing bash-4.3.42-r3.post-upgrade\n\
         (2/2) Purging ncurses5-libs (5.9-r1)\n\
         OK: 13 MiB in 16 packages\n\
         (1/21) Downgrading musl (1.1.20-r4 -> 1.1.16-r15)\n\
         (2/2) [APK unavailable, skipped] Reinstalling glibc-bin (2.25-r0)\n\
         (1/1) Upgrading luci-app-bcp38 (24.148.86114~da284ea -> 24.304.46082~f9899fd)\n\
         World updated, but the following packages are not removed due to:\n\
         \u{20} pkgconf: libpng-dev freetype-dev icu-dev\n\
         ( 1/12) Installing brotli-libs (1.2.0-r1)\n\
         (12/12) Installing git-init-template (2.54.0-r31)\n",
    );
    let moves: Vec<_> =
        moves.iter().map(|m| (m.name.as_str(), m.before.as_deref(), m.after.as_deref())).collect();
    let expected = [
        ("bash", Some("4.3.33-r0"), Some("4.3.42-r3")),
        ("ncurses5-libs", Some("5.9-r1"), None),
        ("musl", Some("1.1.20-r4"), Some("1.1.16-r15")),
        ("luci-app-bcp38", Some("24.148.86114~da284ea"), Some("24.304.46082~f9899fd")),
        ("brotli-libs", None, Some("1.2.0-r1")),
        ("git-init-template", None, Some("2.54.0-r31")),
    ];
    assert_eq!(moves, expected);
    // By hand, as apk-tools' own code writes them.
    let tagged = apk::parse_simulation(
        "(1/2) Installing vim@edge (8.2.2852-r0)\n(2/2) Replacing xxd (9-r0 -> 9-r0)\n",
    );
    assert_eq!(tagged.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["vim"]);
}

/// As apk-add(8), apk-del(8) and apk(8) of apk-tools 2.14 and 3.0 have them.
#[test]
fn apk_is_called_as_its_manual_says() {
    let transaction = Transaction {
        install: BTreeMap::from([("nginx".into(), Some("1.26.2-r4".into())), ("vim".into(), None)]),
        remove: vec!["nano".into()],
        ..Transaction::default()
    };
    let line = |command: Option<Command>| command.unwrap().line();
    let add = line(apk::add("vim@edge\nnginx\n", &transaction, &["--simulate"]));
    assert_eq!(add, "apk add --simulate nginx=1.26.2-r4 vim@edge");
    assert_eq!(line(apk::delete(&transaction, &[])), "apk del --rdepends nano");
    assert!(apk::add("", &Transaction::default(), &[]).is_none());
}

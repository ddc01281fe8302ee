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

/// As apk-tools 2.14 writes it.
#[test]
fn apk_says_the_same() {
    let database = "C:Q1x\nP:musl\nV:1.2.5-r0\nA:x86_64\n\nC:Q1y\nP:nano\nV:8.0-r0\n\n";
    let found = apk::parse_installed(database, "alpine-base\nnano=8.0-r0\n", &["musl", "nano", "vim"]);
    assert_eq!(found.len(), 2);
    assert!(found["nano"].held && !found["musl"].held);
    let policy = "\
nano policy:
  8.1-r0:
    https://mirror.example/v3.20/main
  8.0-r0:
    lib/apk/db/installed
";
    let all = apk::parse_policy(policy);
    assert_eq!((all["nano"].candidate.as_deref(), all["nano"].versions.len()), (Some("8.1-r0"), 1));
    let moves = apk::parse_simulation(
        "(1/3) Installing libx (1-r0)\n(2/3) Upgrading nano (8.0-r0 -> 8.1-r0)\n(3/3) Purging old (3-r1)\nOK: 8 MiB in 15 packages\n",
    );
    let moves: Vec<_> =
        moves.iter().map(|m| (m.name.as_str(), m.before.as_deref(), m.after.as_deref())).collect();
    let expected =
        [("libx", None, Some("1-r0")), ("nano", Some("8.0-r0"), Some("8.1-r0")), ("old", Some("3-r1"), None)];
    assert_eq!(moves, expected);
}

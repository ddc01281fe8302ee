//! The script in a real shell, with a stand-in for `ssh`: what it takes, refuses and becomes. Real servers are in the
//! `mainstay` crate's tests.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;

/// A program that does what a copy does, in its own way: it answers every line with the same line in a piece.
const STAND_IN: &str = r#"#!/bin/sh
[ "$1" = remote ] || exit 9
if [ "$2" = --verify ]; then exit "${VERIFY:-0}"; fi
[ -n "$DEAD" ] && exit 1
echo 'MAINSTAY1 ready'
printf '\0\0\0\005hello'
cat >/dev/null
"#;

struct Bench {
    dir: tempfile::TempDir,
    binaries: Binaries,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        fs::write(&program, STAND_IN).unwrap();
        let arch = nix::sys::utsname::uname().unwrap().machine().to_string_lossy().into_owned();
        let binaries = Binaries::default().with(Binary::read(&arch, &program).unwrap());
        Self { dir, binaries }
    }

    fn home(&self) -> std::path::PathBuf {
        self.dir.path().join("home")
    }

    fn cache(&self) -> std::path::PathBuf {
        self.home().join(".cache/mainstay")
    }

    /// The script as the far side's shell would run it, without `ssh` in between.
    fn shell(&self, chatter: &str, env: &[(&str, &str)], anew: bool) -> Command {
        fs::create_dir_all(self.home()).unwrap();
        let mut command = Command::new("sh");
        let line = format!("{chatter} exec sh -c {}", script::quoted(&script::script(&self.binaries, anew)));
        command.arg("-c").arg(line).env_remove("XDG_CACHE_HOME").env("HOME", self.home());
        command.envs(env.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    async fn connect(&self, chatter: &str, env: &[(&str, &str)]) -> Result<SshLink, SshError> {
        let mut link = SshLink::of(self.shell(chatter, env, false))?;
        link.greet(&self.binaries).await.map(|()| link)
    }
}

async fn is_greeted(mut link: SshLink) {
    assert_eq!(link.receive().await.unwrap(), b"hello");
    link.close().await;
}

fn entries(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test]
async fn a_copy_is_taken_once_and_found_again() {
    let bench = Bench::new();
    for expected in [true, false] {
        let link = bench.connect("echo Welcome; printf 'no line break';", &[]).await.unwrap();
        assert_eq!(link.was_copied, expected);
        is_greeted(link).await;
    }
    assert_eq!(entries(&bench.cache()).len(), 1);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&bench.cache()), 0o700);
    assert_eq!(mode(&bench.cache().join(&entries(&bench.cache())[0])), 0o700);
}

#[tokio::test]
async fn a_copy_that_others_could_have_touched_is_not_used() {
    let bench = Bench::new();
    is_greeted(bench.connect("", &[]).await.unwrap()).await;
    let copy = bench.cache().join(&entries(&bench.cache())[0]);
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o720)).unwrap();
    let link = bench.connect("", &[]).await.unwrap();
    assert!(link.was_copied);
    is_greeted(link).await;
    // Another size: an upload that was cut, or another file.
    fs::write(&copy, "#!/bin/sh\n").unwrap();
    let link = bench.connect("", &[]).await.unwrap();
    assert!(link.was_copied);
    is_greeted(link).await;
}

#[tokio::test]
async fn a_cache_that_is_not_ours_is_refused() {
    let bench = Bench::new();
    fs::create_dir_all(bench.home().join(".cache")).unwrap();
    std::os::unix::fs::symlink("/tmp", bench.cache()).unwrap();
    // `chmod` follows the link: it must not be let loose on a place that is not the test's.
    fs::remove_file(bench.cache()).unwrap();
    let elsewhere = bench.dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, bench.cache()).unwrap();
    match bench.connect("", &[]).await.err() {
        Some(SshError::Cache { directory, .. }) => assert!(directory.ends_with(".cache/mainstay")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_does_not_verify_is_removed_and_not_run() {
    let bench = Bench::new();
    match bench.connect("", &[("VERIFY", "1")]).await.err() {
        Some(SshError::Copy { .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(entries(&bench.cache()), Vec::<String>::new());
}

#[tokio::test]
async fn a_copy_that_does_not_run_is_told_and_one_asked_for_anew_is_brought() {
    let bench = Bench::new();
    is_greeted(bench.connect("", &[]).await.unwrap()).await;
    let error = bench.connect("", &[("DEAD", "1")]).await.err();
    assert!(matches!(error, Some(SshError::Copy { .. })), "{error:?}");
    // Whatever lies in its place.
    let copy = bench.cache().join(&entries(&bench.cache())[0]);
    fs::remove_file(&copy).unwrap();
    fs::create_dir_all(copy.join("within")).unwrap();
    let mut link = SshLink::of(bench.shell("", &[], true)).unwrap();
    link.greet(&bench.binaries).await.unwrap();
    assert!(link.was_copied && copy.is_file());
    is_greeted(link).await;
}

#[tokio::test]
async fn an_unknown_architecture_is_named() {
    let bench = Bench { binaries: Binaries::default(), ..Bench::new() };
    let error = bench.connect("", &[]).await.err().unwrap();
    assert!(matches!(&error, SshError::Architecture { arch } if !arch.is_empty()), "{error:?}");
    assert!(error.hints()[0].contains("--agent-binary"));
}

#[tokio::test]
async fn what_is_said_before_the_end_is_the_reason() {
    let bench = Bench::new();
    let error =
        bench.connect("echo 'Host key verification failed.' >&2; exit 255;", &[]).await.err().unwrap();
    assert_eq!(error.to_string(), "Host key verification failed.");
    assert!(error.hints()[0].contains("--accept-new-host-keys"));
    let changed = "Host key for a has changed and you have requested strict checking.";
    let line = format!("echo '{changed}' >&2; echo 'Host key verification failed.' >&2; exit 255;");
    let error = bench.connect(&line, &[]).await.err().unwrap();
    assert!(error.hints()[0].contains("before you trust it"), "{error:?}");
    let error = bench.connect("echo 'You may not come in.'; exit 0;", &[]).await.err().unwrap();
    assert_eq!(error.to_string(), "You may not come in.");
    let error = bench.connect("yes chatter;", &[]).await.err().unwrap();
    assert!(matches!(error, SshError::Speech(_)), "{error:?}");
}

#[tokio::test]
async fn a_copy_that_dies_is_a_lost_connection_with_its_words() {
    let bench = Bench::new();
    let mut link = bench.connect("", &[]).await.unwrap();
    assert_eq!(link.receive().await.unwrap(), b"hello");
    link.stdin = None;
    assert!(matches!(link.receive().await, Err(SshError::Lost { .. })));
}

#[test]
fn what_ssh_would_take_for_an_option_is_no_host() {
    for bad in ["", "-oProxyCommand=x", "a b", "a\n"] {
        let host = SshHost { destination: bad.into(), ..SshHost::default() };
        assert!(matches!(command(&host, ""), Err(SshError::Destination(_))), "{bad:?}");
    }
}

#[test]
fn the_script_is_one_line_without_single_quotes() {
    let script = script::script(&Bench::new().binaries, true);
    assert!(!script.contains(['\'', '\n', '\\', '!']), "{script}");
}

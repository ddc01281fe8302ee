//! Extension modules as whoever compiles gets them: from a file beside the states file or from a web server, checked,
//! kept under their digests in the user's cache, and asked what they are.
//!
//! How they are checked and called stands in `mainstay_module::extension`; how they come to a machine, in its catalog.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay_core::causes::with_causes;
use mainstay_core::state::catalog::Minisign;
use mainstay_core::state::site::{ExtensionFrom, ExtensionSource, Fetched, Files as _, ModuleSchema};
use mainstay_module::extension::{self, Kept, MAX_PROGRAM};
use mainstay_module::web;

use super::site::Folder;

/// A server that takes longer is stuck: sixteen megabytes come in this time over half a megabit a second.
const TIMEOUT: Duration = Duration::from_secs(300);

/// A minisign signature is four lines, of which two are comments.
const MAX_SIGNATURE: u64 = 8 << 10;

/// Where programs are kept: `$XDG_CACHE_HOME/mainstay/extensions`, or below `~/.cache`.
pub fn directory() -> Result<PathBuf, String> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
        user.map(|user| user.dir).filter(|home| home.is_absolute())
    };
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").or_else(home).map(|home| home.join(".cache")))
        .map(|cache| cache.join("mainstay/extensions"))
        .ok_or_else(|| "there is no directory to keep it in: set XDG_CACHE_HOME".into())
}

/// Fetches, checks, keeps and asks. A program from a web server that is kept already is not fetched again; a file is always
/// read, so that it is never another one than what runs.
pub fn fetch(source: &ExtensionSource, directory: &Path) -> Result<Fetched, String> {
    extension::clear(directory);
    let minisign = match &source.minisign {
        None => None,
        Some(public_key) => {
            let signature = read(&source.from, ".minisig", MAX_SIGNATURE)
                .map_err(|words| format!("its signature cannot be had: {words}"))?;
            let signature =
                String::from_utf8(signature).map_err(|_| "its signature is not a text".to_owned())?;
            Some(Minisign { public_key: public_key.clone(), signature })
        }
    };
    let cached = match source.from {
        ExtensionFrom::Url(_) => Kept::find(&source.sha256, minisign.clone(), directory),
        ExtensionFrom::Path(_) => None,
    };
    let (kept, program) = match cached {
        Some(found) => found,
        None => {
            let program = read(&source.from, "", MAX_PROGRAM)?;
            let kept = Kept::new(&program, &source.sha256, minisign.clone(), directory);
            (kept.map_err(|refused| with_causes(&refused))?, program)
        }
    };
    let describe = mainstay_node::state::describe(&kept).map_err(|failure| failure.to_string())?;
    let schema = ModuleSchema {
        params: describe["params"].clone(),
        identity: describe["identity"].as_str().map(str::to_owned),
        refreshes: false,
        outputs: described(&describe["outputs"]),
    };
    Ok(Fetched { program, signature: minisign.map(|minisign| minisign.signature), describe, schema })
}

/// The names of what it says that it gives out; one that says nothing may give anything.
fn described(outputs: &serde_json::Value) -> Option<Vec<String>> {
    let outputs = outputs.as_object().filter(|outputs| !outputs.is_empty())?;
    Some(outputs.keys().cloned().collect())
}

/// The bytes at a place, or of the file beside it whose name has `ending` more.
fn read(from: &ExtensionFrom, ending: &str, limit: u64) -> Result<Vec<u8>, String> {
    match from {
        ExtensionFrom::Path(path) => {
            let path = format!("{path}{ending}");
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            Folder.read(&path, limit).map_err(|words| format!("{path}: {words}"))
        }
        ExtensionFrom::Url(url) => {
            let end = url.find(['?', '#']).unwrap_or(url.len());
            let url = format!("{}{ending}{}", &url[..end], &url[end..]);
            let mut bytes = Vec::new();
            web::fetch_within(&url, limit, TIMEOUT, &mut bytes as &mut dyn Write)
                .map_err(|failure| failure.to_string())?;
            Ok(bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use sha2::{Digest, Sha256};

    use super::*;

    const PROGRAM: &str = "#!/bin/sh\necho '{\"protocol\": 1, \"summary\": \"s\", \"identity\": \"name\", \"params\": {\"type\": \"object\"}}'\n";

    fn sha256(bytes: &[u8]) -> String {
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn source(from: ExtensionFrom, bytes: &[u8], minisign: Option<&str>) -> ExtensionSource {
        let minisign = minisign.map(str::to_owned);
        ExtensionSource { name: "x".into(), from, sha256: sha256(bytes), minisign }
    }

    /// Answers so many requests, with these bytes or that there is nothing, and gives their paths.
    fn serve(
        requests: usize,
        body: &'static [u8],
        status: &'static str,
    ) -> (String, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/tool?v=1", listener.local_addr().unwrap());
        let served = std::thread::spawn(move || {
            let mut paths = Vec::new();
            for _ in 0..requests {
                let (mut stream, _) = listener.accept().unwrap();
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") {
                    stream.read_exact(&mut byte).unwrap();
                    head.push(byte[0]);
                }
                let line = String::from_utf8(head).unwrap();
                paths.push(line.split(' ').nth(1).unwrap().to_owned());
                let answer = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                // One who has read enough hangs up.
                let _ = stream.write_all(answer.as_bytes()).and_then(|()| stream.write_all(body));
            }
            paths
        });
        (url, served)
    }

    #[test]
    fn a_program_from_a_server_is_fetched_once() {
        let cache = tempfile::tempdir().unwrap();
        let (url, served) = serve(1, PROGRAM.as_bytes(), "200 OK");
        let source = source(ExtensionFrom::Url(url), PROGRAM.as_bytes(), None);
        for _ in 0..2 {
            let fetched = fetch(&source, cache.path()).unwrap();
            assert_eq!(fetched.program, PROGRAM.as_bytes());
            assert_eq!(fetched.schema.identity.as_deref(), Some("name"));
        }
        assert_eq!(served.join().unwrap(), ["/tool?v=1"]);
    }

    #[test]
    fn whoever_describes_is_held_to_looking() {
        let dir = tempfile::tempdir().unwrap();
        let program = format!(
            "#!/bin/sh\ntouch \"$TMPDIR/scribble\" || exit 1\ntouch {}/written\n{}",
            dir.path().display(),
            PROGRAM.trim_start_matches("#!/bin/sh\n")
        );
        let path = dir.path().join("tool").to_str().unwrap().to_owned();
        std::fs::write(&path, &program).unwrap();
        let source = source(ExtensionFrom::Path(path), program.as_bytes(), None);
        fetch(&source, &dir.path().join("cache")).unwrap();
        match mainstay_node::state::landlock() {
            0 => eprintln!("SKIPPED whoever_describes_is_held_to_looking: Landlock ABI 0"),
            _ => assert!(!dir.path().join("written").exists()),
        }
    }

    #[test]
    fn what_a_server_gives_has_to_be_what_was_named() {
        let cache = tempfile::tempdir().unwrap();
        let kept = || std::fs::read_dir(cache.path()).unwrap().count();
        let (url, served) = serve(1, PROGRAM.as_bytes(), "200 OK");
        let words = fetch(&source(ExtensionFrom::Url(url), b"other", None), cache.path()).unwrap_err();
        assert!(words.contains("sha256"), "{words}");
        served.join().unwrap();
        let (url, served) = serve(1, b"not here", "404 Not Found");
        let words = fetch(&source(ExtensionFrom::Url(url), b"not here", None), cache.path()).unwrap_err();
        assert!(words.contains("404"), "{words}");
        served.join().unwrap();
        let large: &'static [u8] = vec![b'#'; MAX_PROGRAM as usize + 1].leak();
        let (url, served) = serve(1, large, "200 OK");
        let words = fetch(&source(ExtensionFrom::Url(url), large, None), cache.path()).unwrap_err();
        assert!(words.contains("larger than 16 MiB"), "{words}");
        served.join().unwrap();
        assert_eq!(kept(), 0);
    }

    #[test]
    fn the_signature_lies_beside_the_program_and_has_to_be_the_keys() {
        // Made by minisign for the four bytes `test`, with a key of its own.
        const SIGNATURE: &str = "untrusted comment: signature from minisign secret key\n\
            RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=\n\
            trusted comment: timestamp:1633700835\tfile:test\tprehashed\n\
            wLMDjy9FLAuxZ3q4NlEvkgtyhrr0gtTu6KC4KBJdITbbOeAi1zBIYo0v4iTgt8jJpIidRJnp94ABQkJAgAooBQ==\n";
        const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("cache");
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let from = || ExtensionFrom::Path(at("tool"));
        std::fs::write(at("tool"), "test").unwrap();
        let missing = fetch(&source(from(), b"test", Some(KEY)), &cache).unwrap_err();
        assert!(missing.contains("signature cannot be had") && missing.contains("tool.minisig"), "{missing}");
        std::fs::write(at("tool.minisig"), SIGNATURE).unwrap();
        // It is genuine, and so kept and called; it is only no program.
        let called = fetch(&source(from(), b"test", Some(KEY)), &cache).unwrap_err();
        assert!(called.contains("run ") && cache.join(sha256(b"test")).exists(), "{called}");
        std::fs::write(at("tool"), PROGRAM).unwrap();
        let forged = fetch(&source(from(), PROGRAM.as_bytes(), Some(KEY)), &cache).unwrap_err();
        assert!(forged.contains("the signature is not the key's"), "{forged}");
        assert!(!cache.join(sha256(PROGRAM.as_bytes())).exists());
        // From a server its name goes before the query.
        let (url, served) = serve(1, b"", "404 Not Found");
        fetch(&source(ExtensionFrom::Url(url), b"test", Some(KEY)), &cache).unwrap_err();
        assert_eq!(served.join().unwrap(), ["/tool.minisig?v=1"]);
    }
}

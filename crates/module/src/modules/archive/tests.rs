use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::thread;

use mainstay_core::state::StepWord;
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::*;
use crate::fidelity::{Observation, Trial};
use crate::host::{Command, Host};

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// An archive as anybody may make one: nothing is checked.
fn tarred(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (path, kind, what) in entries {
        let mut header = Header::new_ustar();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o4754 });
        header.set_mtime(1_000_000_000);
        let link = matches!(kind, EntryType::Symlink | EntryType::Link);
        if link {
            header.as_mut_bytes()[157..157 + what.len()].copy_from_slice(what.as_bytes());
        }
        let data: &[u8] = if link || !kind.is_file() { b"" } else { what.as_bytes() };
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }
    builder.into_inner().unwrap()
}

fn release(text: &str) -> Vec<u8> {
    tarred(&[
        ("tool-1/", EntryType::Directory, ""),
        ("tool-1/bin/tool", EntryType::Regular, text),
        ("tool-1/bin/alias", EntryType::Symlink, "tool"),
        ("tool-1/lib/up", EntryType::Symlink, "../bin/tool"),
        ("tool-1/bin/same", EntryType::Link, "tool-1/bin/tool"),
        ("README", EntryType::Regular, "stripped"),
    ])
}

fn piped(program: &str, args: &[&str], bytes: &[u8]) -> Option<Vec<u8>> {
    let command = Command::new(program).args(args.iter().copied()).stdin(bytes);
    match Host::new().run(&command) {
        Ok(ran) if ran.succeeded() => Some(ran.stdout),
        _ => {
            eprintln!("skipped: there is no {program} here");
            None
        }
    }
}

fn observe(path: &Path) -> Observation {
    let mut seen = Observation::new();
    if !path.exists() {
        return seen;
    }
    seen.insert("exists".into(), json!("directory"));
    seen.extend(observe_marks(path).into_iter().map(|(_, text)| ("unpacked".to_owned(), json!(text))));
    seen
}

/// By the paths of the marks.
fn observe_marks(path: &Path) -> Vec<(PathBuf, String)> {
    let is_mark =
        |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(".mainstay-unpacked-");
    let paths = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).filter(is_mark);
    paths.map(|path| (path.clone(), fs::read_to_string(path).unwrap().trim().to_owned())).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Packed::Bytes(bytes).sha256().unwrap()
}

fn check_unpacked(path: &Path, text: &str) {
    for name in ["bin/tool", "bin/alias", "lib/up", "bin/same"] {
        assert_eq!(fs::read_to_string(path.join(name)).unwrap(), text, "{name}");
    }
    let meta = fs::metadata(path.join("bin/tool")).unwrap();
    assert_eq!(meta.mode() & 0o7777, 0o754, "setuid is dropped");
    assert_eq!(meta.mtime(), 1_000_000_000);
    assert!(!path.join("README").exists(), "it has no more parts than are stripped");
}

#[test]
fn every_packing_is_unpacked_and_only_once() {
    let tar = release("hello\n");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    let packings = [
        Some(tar.clone()),
        Some(gzip.finish().unwrap()),
        piped("xz", &["-c"], &tar),
        piped("zstd", &["-q", "-c"], &tar),
    ];
    for bytes in packings.into_iter().flatten() {
        let folder = folder();
        let path = folder.path().join("tool");
        let mut trial = Trial::of(Archive);
        let source = trial.blob(&bytes);
        let params = json!({"path": path, "source": source, "strip": 1});
        let found = trial.run(params.clone(), &|| observe(&path)).unwrap();
        assert!(found.planned.lists("exists") && found.planned.lists("unpacked"));
        check_unpacked(&path, "hello\n");
        let stamp = fs::metadata(path.join("bin/tool")).unwrap().ctime_nsec();
        let again = trial.run(params, &|| observe(&path)).unwrap();
        assert_eq!(again.planned.step, StepWord::Unchanged);
        assert_eq!(fs::metadata(path.join("bin/tool")).unwrap().ctime_nsec(), stamp);
    }
}

#[test]
fn another_archive_is_written_over_the_first() {
    let folder = folder();
    let path = folder.path().to_owned();
    let mut trial = Trial::of(Archive);
    for text in ["one", "two"] {
        let source = trial.blob(&release(text));
        trial.run(json!({"path": path, "source": source, "strip": 1}), &|| observe(&path)).unwrap();
        check_unpacked(&path, text);
    }
    // The same one, with less of its paths taken away.
    let source = trial.blob(&release("two"));
    trial.run(json!({"path": path, "source": source}), &|| observe(&path)).unwrap();
    assert!(path.join("tool-1/bin/tool").exists());
}

#[test]
fn archives_of_several_states_lie_in_one_directory() {
    let folder = folder();
    let path = folder.path().to_owned();
    let mut trials = ["one", "two"].map(|state| {
        let mut trial = Trial::of(Archive);
        trial.state = state.into();
        let source =
            trial.blob(&tarred(&[("both", EntryType::Regular, state), (state, EntryType::Regular, state)]));
        (trial, json!({"path": path, "source": source}))
    });
    for (trial, params) in &mut trials {
        let others = observe_marks(&path);
        let own = || {
            let marks = observe_marks(&path).into_iter().filter(|mark| !others.contains(mark));
            marks.map(|(_, text)| ("unpacked".to_owned(), json!(text))).collect::<Observation>()
        };
        trial.run(params.clone(), &own).unwrap();
    }
    for (trial, params) in &trials {
        assert_eq!(trial.analyze(params.clone()).unwrap().step, StepWord::Unchanged);
    }
    assert_eq!(
        ["one", "two", "both"].map(|name| fs::read_to_string(path.join(name)).unwrap()),
        ["one", "two", "two"]
    );
}

#[test]
fn after_half_an_update_neither_archive_counts_as_unpacked() {
    let folder = folder();
    let path = folder.path().to_owned();
    let mut trial = Trial::of(Archive);
    let one = trial.blob(&tarred(&[("a", EntryType::Regular, "one")]));
    let two =
        trial.blob(&tarred(&[("a", EntryType::Regular, "two"), ("bin/tool", EntryType::Regular, "two")]));
    let params = |source: &Value| json!({"path": path, "source": source});
    trial.run(params(&one), &|| observe(&path)).unwrap();
    symlink("elsewhere", path.join("bin")).unwrap();
    trial.run(params(&two), &|| observe(&path)).unwrap_err();
    assert_eq!(fs::read_to_string(path.join("a")).unwrap(), "two");
    trial.run(params(&one), &|| observe(&path)).unwrap();
    assert_eq!(fs::read_to_string(path.join("a")).unwrap(), "one");
}

#[test]
fn zip_is_unpacked_too() {
    use zip::write::{SimpleFileOptions, ZipWriter};
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().unix_permissions(0o755);
    writer.add_directory("app/", options).unwrap();
    writer.start_file("app/run", options).unwrap();
    writer.write_all(b"#!/bin/sh\n").unwrap();
    writer.add_symlink("app/alias", "run", options).unwrap();
    let bytes = writer.finish().unwrap().into_inner();
    let folder = folder();
    let path = folder.path().join("tool");
    let mut trial = Trial::of(Archive);
    let source = trial.blob(&bytes);
    trial.run(json!({"path": path, "source": source}), &|| observe(&path)).unwrap();
    assert_eq!(fs::read_to_string(path.join("app/alias")).unwrap(), "#!/bin/sh\n");
    assert_eq!(fs::metadata(path.join("app/run")).unwrap().mode() & 0o777, 0o755);
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer.start_file("../evil", options).unwrap();
    let source = trial.blob(&writer.finish().unwrap().into_inner());
    let failure = trial.run(json!({"path": path, "source": source}), &|| observe(&path)).unwrap_err();
    assert!(failure.to_string().contains("leads out"), "{failure}");
}

#[test]
fn an_archive_that_reaches_out_is_refused_before_anything_is_written() {
    use EntryType::{Directory, Fifo, Link, Regular, Symlink};
    for entries in [
        &[("ok", Regular, "x"), ("../evil", Regular, "x")][..],
        &[("ok", Regular, "x"), ("/tmp/evil", Regular, "x")],
        &[("ok", Regular, "x"), ("a/../../evil", Regular, "x")],
        &[("ok", Regular, "x"), ("l", Symlink, "/etc")],
        &[("ok", Regular, "x"), ("a/l", Symlink, "../../out")],
        &[("d/", Directory, ""), ("d/l", Symlink, "."), ("d/l/evil", Regular, "x")],
        &[("a/b/p", Symlink, "../.."), ("a/b/p/l", Symlink, "../../x")],
        &[("ok", Regular, "x"), ("h", Link, "/etc/passwd")],
        &[("ok", Regular, "x"), ("h", Link, "not-in-it")],
        &[("ok", Regular, "x"), ("pipe", Fifo, "")],
    ] {
        let folder = folder();
        let path = folder.path().join("to");
        let mut trial = Trial::of(Archive);
        let source = trial.blob(&tarred(entries));
        let failure = trial.run(json!({"path": path, "source": source}), &|| observe(&path)).unwrap_err();
        assert!(failure.to_string().contains("in the archive"), "{entries:?}: {failure}");
        assert!(!path.exists(), "{entries:?}");
    }
}

#[test]
fn a_link_that_was_there_before_is_not_gone_through() {
    let folder = folder();
    let (path, outside) = (folder.path().join("to"), folder.path().join("outside"));
    fs::create_dir(&path).unwrap();
    fs::create_dir(&outside).unwrap();
    symlink(&outside, path.join("bin")).unwrap();
    let mut trial = Trial::of(Archive);
    let source = trial.blob(&release("x"));
    let failure =
        trial.run(json!({"path": path, "source": source, "strip": 1}), &|| observe(&path)).unwrap_err();
    assert!(failure.to_string().contains("no directory"), "{failure}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    // A link in a file's own place is replaced and not written through.
    fs::remove_file(path.join("bin")).unwrap();
    fs::create_dir(path.join("bin")).unwrap();
    fs::write(outside.join("kept"), "kept").unwrap();
    symlink(outside.join("kept"), path.join("bin/tool")).unwrap();
    trial.run(json!({"path": path, "source": source, "strip": 1}), &|| observe(&path)).unwrap();
    assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "kept");
}

#[test]
fn what_is_broken_or_no_archive_is_said() {
    let mut trial = Trial::of(Archive);
    let mut cut = release("hello");
    cut.truncate(600);
    for bytes in
        [&b""[..], b"text", &[0x1f, 0x8b, 1, 2, 3], &[0x28, 0xb5, 0x2f, 0xfd, 9], b"PK\x03\x04??", &cut]
    {
        let folder = folder();
        let source = trial.blob(bytes);
        let params = json!({"path": folder.path().join("to"), "source": source});
        let failure = trial.run(params, &Observation::new).unwrap_err();
        assert!(failure.to_string().contains("archive"), "{failure}");
    }
}

/// Serves one file, so often.
fn serve(bytes: Vec<u8>, times: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/tool.tar", listener.local_addr().unwrap());
    thread::spawn(move || {
        for _ in 0..times {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                request.push(byte[0]);
            }
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", bytes.len());
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&bytes).unwrap();
        }
    });
    url
}

#[test]
fn an_archive_is_fetched_and_must_be_the_one_that_was_named() {
    let bytes = release("fetched");
    let url = serve(bytes.clone(), 2);
    let folder = folder();
    let path = folder.path().join("tool");
    let params = |digest: Value| json!({"path": path, "url": url, "sha256": digest, "strip": 1});
    let trial = Trial::of(Archive);
    let wrong = trial.run(params(json!(sha256(b"other"))), &|| observe(&path)).unwrap_err();
    assert!(wrong.to_string().contains("sha256"), "{wrong}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    trial.run(params(json!(sha256(&bytes).to_uppercase())), &|| observe(&path)).unwrap();
    check_unpacked(&path, "fetched");
    // The server is gone: an unchanged state needs none.
    assert_eq!(trial.analyze(params(json!(sha256(&bytes)))).unwrap().step, StepWord::Unchanged);
    assert!(trial.read(json!({"path": path, "url": url})).is_err(), "a url needs the sha256");
}

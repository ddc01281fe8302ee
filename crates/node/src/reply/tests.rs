//! Replies on real files: crashes between each two steps, other writers, hostile instructions.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use mainstay_core::envelope::{Piece, Stream};
use mainstay_core::outcome::Exit;
use mainstay_core::received_path::Roots;

use super::*;

struct Origin {
    data: tempfile::TempDir,
    replies: Replies,
}

impl Origin {
    fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let replies = Replies::new(Received::new(data.path(), Roots::default()));
        Self { data, replies }
    }

    /// The node goes down and comes back: what it only knew is gone.
    fn crash(&mut self) {
        self.replies = Replies::new(Received::new(self.data.path(), Roots::default()));
    }

    fn path(&self) -> PathBuf {
        self.data.path().join("received/ship1/logs/a.log")
    }

    fn content(&self) -> String {
        fs::read_to_string(self.path()).unwrap()
    }

    /// Another program appends.
    fn others(&self, text: &str) {
        fs::OpenOptions::new().append(true).open(self.path()).unwrap().write_all(text.as_bytes()).unwrap();
    }

    async fn whole(&self, job: &ReplyJob) -> Written {
        let mark = self.replies.plan(job.clone()).await.unwrap();
        self.replies.write(job.clone(), mark).await.unwrap()
    }
}

fn job(number: u8, method: &str, pieces: &[&str]) -> ReplyJob {
    let instructions = Instructions {
        method: method.to_owned(),
        directory: "logs".to_owned(),
        file_name: Some("a.log".to_owned()),
        args: vec![],
        timeout_ms: None,
        pause_ms: None,
        retries: None,
    };
    let streams = [Stream::Stdout, Stream::Stderr];
    let pieces = pieces.iter().zip(streams.into_iter().cycle()).zip(1..);
    ReplyJob {
        id: MessageId::from_bytes([number; 16]),
        from: "ship1".parse().unwrap(),
        reply: instructions.encode(),
        pieces: pieces
            .map(|((data, stream), seq)| Piece { seq, stream, data: (*data).to_owned().into() })
            .collect(),
        upto: 1,
        outcome: Some(Outcome::Finished(Exit::Code(0))),
    }
}

fn append(number: u8, pieces: &[&str]) -> ReplyJob {
    job(number, "file.append", pieces)
}

#[tokio::test]
async fn answers_are_appended_in_the_order_of_their_pieces() {
    let origin = Origin::new();
    assert_eq!(origin.whole(&append(1, &["one\n", "two\n"])).await, Written::Done);
    assert_eq!(origin.whole(&append(2, &["three\n"])).await, Written::Done);
    assert_eq!(origin.content(), "one\ntwo\nthree\n");
}

#[tokio::test]
async fn a_crash_at_any_step_of_an_append_leaves_it_there_once() {
    let answer = append(2, &["second\n", "answer\n"]);
    let text = "second\nanswer\n";
    // How much of it a crash lets through, and whether a power loss kept the length but not the data.
    for (kept, zeroes) in (0..=text.len()).flat_map(|kept| [(kept, 0), (kept, text.len() - kept)]) {
        let mut origin = Origin::new();
        origin.whole(&append(1, &["first\n"])).await;
        let mark = origin.replies.plan(answer.clone()).await.unwrap();
        origin.others(&text[..kept]);
        origin.others(&"\0".repeat(zeroes));
        origin.crash();
        assert_eq!(origin.replies.write(answer.clone(), mark.clone()).await.unwrap(), Written::Done);
        assert_eq!(origin.content(), format!("first\n{text}"), "{kept} bytes and {zeroes} zeroes");
        // Written, but not recorded so.
        origin.crash();
        assert_eq!(origin.replies.write(answer.clone(), mark).await.unwrap(), Written::Done);
        assert_eq!(origin.content(), format!("first\n{text}"));
    }
}

#[tokio::test]
async fn what_others_wrote_is_never_cut_off() {
    let answer = append(2, &["answer\n"]);
    for crash in [false, true] {
        // What stands at the planned place: others' words alone, or behind a part of the answer, or behind all.
        for (torn, foreign, again) in
            [("", "foreign\n", true), ("ans", "foreign words\n", true), ("answer\n", "foreign\n", !crash)]
        {
            let mut origin = Origin::new();
            origin.whole(&append(1, &["first\n"])).await;
            let mark = origin.replies.plan(answer.clone()).await.unwrap();
            origin.others(torn);
            origin.others(foreign);
            if crash {
                origin.crash();
            }
            let written = origin.replies.write(answer.clone(), mark).await.unwrap();
            let before = format!("first\n{torn}{foreign}");
            assert_eq!(origin.content(), before);
            assert_eq!(written == Written::PlanAgain, again, "{torn:?} {foreign:?} {crash}");
            if again {
                assert_eq!(origin.whole(&answer).await, Written::Done);
                assert_eq!(origin.content(), format!("{before}answer\n"));
            }
        }
    }
}

#[tokio::test]
async fn a_rotated_or_emptied_file_is_planned_again() {
    let answer = append(2, &["answer\n"]);
    for rotate in [true, false] {
        let mut origin = Origin::new();
        origin.whole(&append(1, &["first\n"])).await;
        let mark = origin.replies.plan(answer.clone()).await.unwrap();
        if rotate {
            fs::rename(origin.path(), origin.path().with_extension("1")).unwrap();
        } else {
            fs::write(origin.path(), "").unwrap();
        }
        origin.crash();
        assert_eq!(origin.replies.write(answer.clone(), mark).await.unwrap(), Written::PlanAgain);
        origin.whole(&answer).await;
        assert_eq!(origin.content(), "answer\n");
    }
}

#[tokio::test]
async fn two_answers_to_one_file_wait_for_each_other() {
    let origin = Origin::new();
    let (one, two) = (append(1, &["one\n"]), append(2, &["two\n"]));
    let first = origin.replies.plan(one.clone()).await.unwrap();
    let mut second = Box::pin(origin.replies.plan(two.clone()));
    let waits =
        std::future::poll_fn(|cx| std::task::Poll::Ready(second.as_mut().poll(cx).is_pending())).await;
    assert!(waits, "the file was planned for two at once");
    origin.replies.write(one, first).await.unwrap();
    let mark = second.await.unwrap();
    assert_eq!(origin.replies.write(two.clone(), mark).await.unwrap(), Written::Done);
    assert_eq!(origin.content(), "one\ntwo\n");
    // A plan that comes to nothing does not hold the file for ever.
    let third = append(3, &["three\n"]);
    origin.replies.plan(third.clone()).await.unwrap();
    origin.replies.forget(third.id);
    origin.whole(&two).await;
    assert!(origin.replies.inner.kept().is_empty());
}

#[tokio::test]
async fn after_a_restart_old_marks_come_before_new_plans() {
    let mut origin = Origin::new();
    let (old, new) = (append(1, &["same\n"]), append(2, &["same\n"]));
    let mark = origin.replies.plan(old.clone()).await.unwrap();
    origin.crash();
    // The new answer is even polled first; it has the same words, so the old one would take them for its own.
    let writing = origin.replies.write(old, mark);
    let replies = origin.replies.clone();
    let newer = tokio::spawn(async move {
        let mark = replies.plan(new.clone()).await.unwrap();
        replies.write(new, mark).await.unwrap()
    });
    tokio::task::yield_now().await;
    writing.await.unwrap();
    newer.await.unwrap();
    assert_eq!(origin.content(), "same\nsame\n");
}

#[tokio::test]
async fn a_file_is_written_as_a_whole_and_again_without_harm() {
    let mut origin = Origin::new();
    let answer = job(1, "file.write", &["new ", "content\n"]);
    origin.whole(&append(9, &["old, and much longer than what is new\n"])).await;
    assert!(origin.replies.whole(&Instructions::decode(&answer.reply).unwrap()));
    let mark = origin.replies.plan(answer.clone()).await.unwrap();
    // A crash left a half-written file.
    fs::write(origin.path().with_file_name(format!(".mainstay-{}", answer.id)), "new con").unwrap();
    origin.crash();
    for _ in 0..2 {
        assert_eq!(origin.replies.write(answer.clone(), mark.clone()).await.unwrap(), Written::Done);
        assert_eq!(origin.content(), "new content\n");
    }
    let names = fs::read_dir(origin.path().parent().unwrap()).unwrap().count();
    assert_eq!(names, 1, "something was left beside the file");
}

#[tokio::test]
async fn an_answer_without_a_word_leaves_what_was_there_if_it_never_ran() {
    let origin = Origin::new();
    origin.whole(&append(1, &["before\n"])).await;
    for method in ["file.write", "file.append"] {
        let mut answer = job(2, method, &[]);
        answer.outcome = Some(Outcome::Expired);
        assert_eq!(origin.whole(&answer).await, Written::Done);
        assert_eq!(origin.content(), "before\n");
    }
    assert_eq!(origin.whole(&job(3, "file.write", &[])).await, Written::Done);
    assert_eq!(origin.content(), "");
}

#[tokio::test]
async fn what_can_never_be_written_is_told_from_what_can_later() {
    let origin = Origin::new();
    fs::create_dir_all(origin.path()).unwrap();
    for method in ["file.append", "file.write"] {
        let answer = job(1, method, &["x"]);
        let error = match origin.replies.plan(answer.clone()).await {
            Ok(mark) => origin.replies.write(answer, mark).await.unwrap_err(),
            Err(error) => error,
        };
        assert!(error.to_string().contains("directory") && !error.is_transient(), "{error}");
    }
    assert!(matches!(
        origin.replies.plan(job(1, "http.post", &["x"])).await,
        Err(ReplyError::UnknownMethod(name)) if name == "http.post"
    ));
    let mut garbled = append(1, &["x"]);
    garbled.reply = Bytes::from_static(b"\xc1");
    assert!(matches!(origin.replies.plan(garbled).await, Err(ReplyError::Instructions(_))));
}

/// A file system of 1 MiB, where the test may mount one.
struct Tiny(tempfile::TempDir);

impl Tiny {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(dir.path())
            .stderr(std::process::Stdio::null())
            .status();
        status.is_ok_and(|status| status.success()).then_some(Self(dir))
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_keeps_files_whole_and_is_tried_again() {
    let Some(disk) = Tiny::mount() else {
        eprintln!("skipped: a_full_disk_keeps_files_whole_and_is_tried_again: no tmpfs can be mounted");
        return;
    };
    let replies = Replies::new(Received::new(disk.0.path(), Roots::default()));
    let path = disk.0.path().join("received/ship1/logs/a.log");
    let first = append(1, &["first\n"]);
    let mark = replies.plan(first.clone()).await.unwrap();
    replies.write(first, mark).await.unwrap();
    let ballast = disk.0.path().join("ballast");
    fs::write(&ballast, vec![0; 512 << 10]).unwrap();
    let big = "x".repeat(700 << 10);
    for (answer, expected) in [
        (append(2, &[&big]), format!("first\n{big}")),
        (job(3, "file.write", &["y", &big]), format!("y{big}")),
    ] {
        let before = fs::read_to_string(&path).unwrap();
        let mark = replies.plan(answer.clone()).await.unwrap();
        let error = replies.write(answer.clone(), mark.clone()).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        assert!(fs::read_to_string(&path).unwrap() == before, "the file was damaged");
        if answer.id == MessageId::from_bytes([2; 16]) {
            fs::remove_file(&ballast).unwrap();
        } else {
            fs::write(&path, "").unwrap();
        }
        assert_eq!(replies.write(answer, mark).await.unwrap(), Written::Done);
        assert!(fs::read_to_string(&path).unwrap() == expected);
    }
}

#[test]
fn the_console_gets_the_answer_as_it_is_unless_it_is_a_terminal() {
    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);
    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    for (terminal, expected) in [(false, "a\u{1b}b\n"), (true, "a^[b\n")] {
        let out = Shared::default();
        let console = console::Console::to(Box::new(out.clone()), terminal);
        let task = Task { job: job(1, "console", &["a\u{1b}", "b\n"]), spot: None };
        assert_eq!(console.write(&task, b"", Tried::Never).unwrap(), Written::Done);
        assert_eq!(out.0.lock().unwrap().as_slice(), expected.as_bytes());
    }
}

#[test]
fn instructions_of_earlier_versions_still_read() {
    let bytes = b"\x83\xa6method\xabfile.append\xa9directory\xa1d\xa9file_name\xa1f";
    let instructions = Instructions::decode(bytes).unwrap();
    assert_eq!((instructions.directory.as_str(), instructions.file_name.as_deref()), ("d", Some("f")));
    assert_eq!(instructions.encode().as_ref(), bytes);
    assert_eq!(Instructions::of(&ReplySpec::default()), None);
}

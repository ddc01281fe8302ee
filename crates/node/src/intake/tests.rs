//! The socket with real connections.

use std::sync::Mutex;

use super::*;

/// Remembers what came, and accepts it as one message.
#[derive(Default)]
struct Desk(Mutex<Vec<String>>);

#[async_trait]
impl Submit for Desk {
    async fn submit(&self, text: String) -> Vec<Line> {
        self.0.lock().unwrap().push(text);
        vec![
            Line::Accepted { id: MessageId::from_bytes([1; 16]), to: "ship1".parse().unwrap() },
            Line::Refused {
                error: "is not a node".into(),
                field: Some("toNode".into()),
                line: Some(3),
                column: Some(15),
            },
        ]
    }
}

struct Service {
    path: PathBuf,
    desk: Arc<Desk>,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Service {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("message.sock");
        let (desk, cancel) = (Arc::new(Desk::default()), CancellationToken::new());
        let intake = Intake::bind(&path).unwrap();
        let task = tokio::spawn(intake.run(desk.clone(), cancel.clone()));
        Self { path, desk, cancel, task, _dir: dir }
    }

    /// Sends the text in these parts, and returns all that is answered.
    async fn talk(&self, parts: &[&[u8]], half_close: bool) -> String {
        let stream = UnixStream::connect(&self.path).await.unwrap();
        let (mut from, mut to) = stream.into_split();
        for part in parts {
            // The other side may have answered already, and hung up.
            if to.write_all(part).await.is_err() {
                break;
            }
        }
        if half_close {
            to.shutdown().await.unwrap();
        }
        let mut answer = String::new();
        from.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut *self.desk.0.lock().unwrap())
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap();
        assert!(!self.path.exists(), "the socket's file remains");
    }
}

#[tokio::test]
async fn a_message_is_answered_line_by_line_whether_or_not_the_sender_hangs_up() {
    let service = Service::start();
    for half_close in [true, false] {
        let answer = service.talk(&[b"[{\"toNode\":", b" \"ship1\",}]\n"], half_close).await;
        let lines: Vec<_> = answer.lines().collect();
        assert_eq!(lines[0], "{\"id\":\"01010101-0101-0101-0101-010101010101\",\"to\":\"ship1\"}");
        assert_eq!(lines[1], "{\"error\":\"is not a node\",\"field\":\"toNode\",\"line\":3,\"column\":15}");
        assert_eq!(lines.len(), 2);
        assert!(service.taken()[0].starts_with("[{\"toNode\": \"ship1\",}]"));
    }
    service.talk(&[b"toNode: ship1\n", b"method: ping\n"], true).await;
    assert_eq!(service.taken(), ["toNode: ship1\nmethod: ping\n"]);
    service.stop().await;
}

#[tokio::test]
async fn the_answer_arrives_although_more_was_sent_than_was_read() {
    let service = Service::start();
    let more = vec![b' '; 60_000];
    let answer = service.talk(&[b"{}", &more], false).await;
    assert_eq!(answer.lines().count(), 2, "{answer:?}");
    service.stop().await;
}

#[tokio::test]
async fn what_is_too_large_or_no_text_is_refused_with_the_reason() {
    let service = Service::start();
    let large = vec![b'x'; MAX_TEXT + 1];
    let answer = service.talk(&[b"[\"", &large], false).await;
    assert!(answer.contains("larger than"), "{answer}");
    let answer = service.talk(&[b"[\"ok\",\n\"\xff\"]"], false).await;
    assert_eq!(answer, "{\"error\":\"it is not UTF-8\",\"line\":2}\n");
    assert_eq!(service.talk(&[], true).await, "");
    assert!(service.taken().is_empty());
    service.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_text_without_end_is_not_waited_for_for_ever() {
    let service = Service::start();
    let answer = service.talk(&[b"toNode: ship1\n"], false).await;
    assert!(answer.contains("has no end"), "{answer}");
    assert!(service.taken().is_empty(), "half a message was taken");
    service.stop().await;
}

#[tokio::test(start_paused = true)]
async fn silent_connections_do_not_keep_others_out() {
    let service = Service::start();
    let mut idle = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        idle.push(UnixStream::connect(&service.path).await.unwrap());
    }
    assert_eq!(service.talk(&[b"{}"], false).await.lines().count(), 2);
    service.stop().await;
}

#[tokio::test]
async fn stopping_cuts_what_is_being_read() {
    let service = Service::start();
    let _idle = UnixStream::connect(&service.path).await.unwrap();
    service.talk(&[b"{}"], false).await;
    service.stop().await;
}

#[tokio::test]
async fn only_the_socket_of_a_dead_process_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("message.sock");
    let living = Intake::bind(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(Intake::bind(&path), Err(BindError::InUse(_))));
    assert!(UnixStream::connect(&path).await.is_ok(), "the living one was disturbed");
    // Killed: the file stays.
    let kept = dir.path().join("kept");
    fs::hard_link(&path, &kept).unwrap();
    drop(living);
    assert!(!path.exists());
    fs::rename(&kept, &path).unwrap();
    let next = Intake::bind(&path).unwrap();
    // Another took the name meanwhile; it is not removed with this one.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    drop(next);
    assert!(matches!(Intake::bind(&path), Err(BindError::NotASocket(_))));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    assert!(Intake::bind(&dir.path().join("x".repeat(120))).is_err());
}

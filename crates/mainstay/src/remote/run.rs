//! `mainstay run --ssh` on the far side: one command, by the same hands as the agent's `cmd`.

use std::process::ExitCode;
use std::sync::mpsc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use mainstay_core::envelope::Stream;
use mainstay_core::id::{KeyId, MessageId};
use mainstay_core::time::Timestamp;
use mainstay_node::method::OutputSink;
use mainstay_node::process::{Job, Mark, Processes, What};
use tokio_util::sync::CancellationToken;

use super::say;
use super::talk::{Order, RunEnd, RunOrder, Word};

pub(super) fn run(order: RunOrder, inbox: mpsc::Receiver<Order>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no command can be run: {error}");
            return ExitCode::from(1);
        }
    };
    let cancel = CancellationToken::new();
    let heard = cancel.clone();
    // Ends with the inbox, at the latest with this process.
    let listener = std::thread::Builder::new().name("cancel".into()).spawn(move || {
        while let Ok(order) = inbox.recv() {
            if matches!(order, Order::Cancel | Order::Bye) {
                heard.cancel();
            }
        }
    });
    if let Err(error) = listener {
        eprintln!("no thread can be started: {error}");
        return ExitCode::from(1);
    }
    let end = runtime.block_on(execute(order, &cancel));
    say(&Word::Ended(end));
    ExitCode::SUCCESS
}

async fn execute(order: RunOrder, cancel: &CancellationToken) -> RunEnd {
    let (mut sink, mut chunks) = OutputSink::channel(order.output_limit);
    let job = Job {
        mark: mark(),
        what: match order.script {
            Some(script) => What::Script(script, order.args),
            None => What::Argv(order.args),
        },
        env: order.env,
        cwd: order.cwd,
        user: order.user,
        stdin: order.stdin,
        timeout: order.timeout,
        live: order.stream,
    };
    let begun = Instant::now();
    // A connection is a command's life here; no crash of ours can leave it, and so it needs no cgroup of its own.
    let processes = Processes::without_cgroups();
    let work = async {
        let outcome = processes.run(job, &mut sink, cancel).await;
        sink.finish(outcome).await
    };
    let talk = async {
        while let Some(chunk) = chunks.recv().await {
            say(&Word::Output { stderr: chunk.stream == Stream::Stderr, data: chunk.data });
        }
    };
    let (end, ()) = tokio::join!(work, talk);
    RunEnd {
        outcome: end.outcome,
        duration_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        stdout_bytes: end.stdout_bytes,
        stderr_bytes: end.stderr_bytes,
        truncated: end.truncated,
    }
}

/// Names the execution in its environment, as everywhere; nobody looks for it by that name.
fn mark() -> Mark {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut random = [0; 10];
    // Without it the name is only less unique.
    let _ = getrandom::fill(&mut random);
    let now = Timestamp::from_millis(i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
    Mark { origin: KeyId::from_bytes([0; 32]), id: MessageId::new(now, random) }
}

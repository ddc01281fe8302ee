//! Runs methods in tasks of their own, and lets their output in only as fast as the journal takes it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use mainstay_core::delivery::{Event, ExitReport, Key};
use mainstay_core::envelope::{Request, Signer, Stream};
use mainstay_core::id::KeyId;
use mainstay_core::outcome::Outcome;
use mainstay_core::seal::Private;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::{Input, Inputs};
use crate::method::{Call, Methods, OutputSink};
use crate::process::{Mark, Processes};

/// Output of one message between its pipe and the disk, in bytes. A full stream stops reading the pipe.
const OUTPUT_UNDER_WAY: usize = 256 << 10;

#[derive(Debug)]
pub enum MethodEvent {
    Output { key: Key, stream: Stream, data: Bytes },
    Ended { key: Key, exit: ExitReport },
}

#[derive(Clone)]
pub struct Runner {
    methods: Methods,
    processes: Arc<Processes>,
    signer: Signer,
    inputs: Inputs,
    tasks: TaskTracker,
    running: Arc<Mutex<HashMap<Key, Running>>>,
}

struct Running {
    cancel: CancellationToken,
    room: Arc<Semaphore>,
}

impl Runner {
    pub fn new(
        methods: Methods,
        processes: Arc<Processes>,
        signer: Signer,
        inputs: Inputs,
        tasks: TaskTracker,
    ) -> Self {
        Self { methods, processes, signer, inputs, tasks, running: Arc::default() }
    }

    pub fn start(&self, key: Key, sender: KeyId, request: Request) {
        let cancel = CancellationToken::new();
        let room = Arc::new(Semaphore::new(OUTPUT_UNDER_WAY));
        self.lock().insert(key, Running { cancel: cancel.clone(), room: room.clone() });
        let runner = self.clone();
        self.tasks.spawn(async move {
            let exit = runner.run(key, sender, request, cancel, &room).await;
            runner.lock().remove(&key);
            let _ = runner.inputs.send(Input::Method(MethodEvent::Ended { key, exit })).await;
        });
    }

    async fn run(
        &self,
        key: Key,
        sender: KeyId,
        request: Request,
        cancel: CancellationToken,
        room: &Semaphore,
    ) -> ExitReport {
        let private = match &request.sealed {
            None => Private::default(),
            Some(sealed) => match sealed.open(self.signer.signing_key()) {
                Ok(private) => private,
                Err(error) => return ExitReport::without_output(Outcome::Failed(error.to_string())),
            },
        };
        info!(
            id = %key.id,
            method = %request.method,
            operator = request.operator.as_deref().unwrap_or("-"),
            sender = %sender.short(),
            "starting"
        );
        let (output, mut chunks) = OutputSink::channel(request.output_limit);
        let call = Call { origin: key.origin, id: key.id, request, private, output, cancel };
        // It owns the receiver: a method whose output nobody takes any more must not wait for room.
        let forward = async move {
            while let Some(chunk) = chunks.recv().await {
                let bytes = u32::try_from(chunk.data.len()).unwrap_or(u32::MAX);
                // Given back by `room` when it is on disk; closed when the node stops.
                let Ok(permit) = room.acquire_many(bytes).await else { return };
                permit.forget();
                let (stream, data) = (chunk.stream, chunk.data);
                let event = MethodEvent::Output { key, stream, data };
                if self.inputs.send(Input::Method(event)).await.is_err() {
                    return;
                }
            }
        };
        let (end, ()) = tokio::join!(self.methods.run(call), forward);
        ExitReport {
            outcome: end.outcome,
            stdout_bytes: end.stdout_bytes,
            stderr_bytes: end.stderr_bytes,
            truncated: end.truncated,
        }
    }

    pub fn kill(&self, key: Key) {
        if let Some(running) = self.lock().get(&key) {
            running.cancel.cancel();
        }
    }

    pub fn room(&self, key: Key, bytes: usize) {
        if let Some(running) = self.lock().get(&key) {
            running.room.add_permits(bytes);
        }
    }

    /// Ends what an earlier life of this node left running for this message.
    pub fn kill_leftovers(&self, key: Key) {
        let (processes, inputs) = (self.processes.clone(), self.inputs.clone());
        self.tasks.spawn(async move {
            let mark = Mark { origin: key.origin, id: key.id };
            let looked = tokio::task::spawn_blocking(move || processes.kill_leftovers(&[mark])).await;
            for found in looked.unwrap_or_default() {
                if found.killed > 0 || found.remaining > 0 {
                    warn!(id = %key.id, killed = found.killed, remaining = found.remaining, "found running after a restart");
                }
            }
            let _ = inputs.send(Input::Event(Event::LeftoversGone { key })).await;
        });
    }

    /// Takes back everything that runs: the node stops.
    pub fn kill_all(&self) {
        for running in self.lock().values() {
            running.cancel.cancel();
            running.room.close();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

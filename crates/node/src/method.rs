//! Methods: what a node does with a message that it accepted.
//!
//! A method is one file in `method/` and one line in `table`. It gets the request and a sink for output, and
//! ends in an [`Outcome`]. Who may call it, when it starts, what is on disk before and after, and how answers
//! travel is decided by the courier and not here.

pub mod cmd;
pub mod output;
pub mod ping;
pub mod state;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use mainstay_core::envelope::Request;
use mainstay_core::id::{KeyId, MessageId};
use mainstay_core::outcome::{Outcome, Rejection};
use mainstay_core::seal::Private;
use tokio_util::sync::CancellationToken;

use crate::process::Processes;
use crate::state::SessionOptions;
pub use output::{Chunk, OutputSink};

/// All methods of this program. Adding one is its file and its line here.
fn table(means: &Means) -> Vec<Arc<dyn Method>> {
    let [plan, apply, up] = state::StateMethod::all(&means.data, &means.states);
    vec![
        Arc::new(ping::Ping),
        Arc::new(cmd::Cmd::new(means.processes.clone())),
        Arc::new(plan),
        Arc::new(apply),
        Arc::new(up),
    ]
}

/// What methods have to work with.
#[derive(Clone)]
pub struct Means {
    pub processes: Arc<Processes>,
    /// The node's own directory.
    pub data: PathBuf,
    /// How the state engine is opened here.
    pub states: SessionOptions,
}

#[async_trait]
pub trait Method: Send + Sync + 'static {
    /// The one name under which it is called; aliases of seed 004 are resolved where a message is read.
    fn name(&self) -> &'static str;

    /// Whether it acts on the machine. The courier puts `started` on disk before such a method runs; one
    /// that only answers can be run again after a crash without harm, and needs no such record.
    fn acts(&self) -> bool {
        true
    }

    /// Whether its messages wait for those of all methods of which this is true, so that one of them is at work at a time.
    fn is_one_at_a_time(&self) -> bool {
        false
    }

    /// Checks what can be checked of a request before it is accepted. The error names the field.
    fn check(&self, request: &Request) -> Result<(), String>;

    /// Does the work. It honours the request's timeout and `call.cancel`, and leaves nothing running when
    /// it is dropped instead of awaited.
    async fn run(&self, call: &mut Call) -> Outcome;
}

/// One execution of a method.
pub struct Call {
    /// Who asked. Together with `id` it names this execution everywhere.
    pub origin: KeyId,
    pub id: MessageId,
    pub request: Request,
    /// The request's sealed fields, opened.
    pub private: Private,
    pub output: OutputSink,
    /// The message was taken back: end with [`Outcome::Cancelled`].
    pub cancel: CancellationToken,
}

/// How an execution ended, and how much output it gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MethodEnd {
    pub outcome: Outcome,
    /// Bytes that each stream gave, those cut off included.
    pub stdout_bytes: u64,
    pub stderr_bytes: u64,
    /// Some output was dropped because of the request's `output_limit`.
    pub truncated: bool,
}

/// The methods that this node knows.
#[derive(Clone)]
pub struct Methods {
    by_name: Arc<BTreeMap<&'static str, Arc<dyn Method>>>,
}

impl Methods {
    pub fn new(means: &Means) -> Self {
        Self::of(table(means))
    }

    /// A set of one's own, as tests and programs with their own methods have it. Of two with one name the
    /// later counts.
    pub fn of(methods: Vec<Arc<dyn Method>>) -> Self {
        let by_name = methods.into_iter().map(|method| (method.name(), method)).collect();
        Self { by_name: Arc::new(by_name) }
    }

    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.by_name.keys().copied()
    }

    /// Those of which one runs at a time.
    pub fn one_at_a_time(&self) -> Vec<&'static str> {
        let alone = self.by_name.values().filter(|method| method.is_one_at_a_time());
        alone.map(|method| method.name()).collect()
    }

    pub fn get(&self, name: &str) -> Option<&Arc<dyn Method>> {
        self.by_name.get(name)
    }

    /// The method of a request whose arguments it takes, or what the sender is told.
    pub fn accept(&self, request: &Request) -> Result<&Arc<dyn Method>, Rejection> {
        let method = self
            .get(&request.method)
            .ok_or_else(|| Rejection::UnknownMethod(request.method.clone()).plain())?;
        method.check(request).map_err(|why| Rejection::BadArguments(why).plain())?;
        Ok(method)
    }

    /// Runs the call's method until its end. All output was handed over when this returns.
    pub async fn run(&self, mut call: Call) -> MethodEnd {
        let outcome = match self.get(&call.request.method).cloned() {
            Some(method) => method.run(&mut call).await,
            // Accepted by another version of this program, which knew it.
            None => Outcome::Rejected(Rejection::UnknownMethod(call.request.method.clone())),
        };
        call.output.finish(outcome).await
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Calls for tests of methods.

    use bytes::Bytes;
    use tokio::sync::mpsc;

    use super::*;

    pub(crate) fn request(method: &str, args: &[&str]) -> Request {
        Request {
            method: method.to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            data: Bytes::new(),
            command: true,
            idempotent: false,
            timeout_ms: None,
            output_limit: 1 << 20,
            stream: false,
            sealed: None,
            run: None,
            operator: None,
        }
    }

    /// A call with an id of its own in this process.
    pub(crate) fn call(request: Request, private: Private) -> (Call, mpsc::Receiver<Chunk>) {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mut id = [0; 16];
        id[..4].copy_from_slice(&std::process::id().to_be_bytes());
        id[12..].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        let (output, chunks) = OutputSink::channel(request.output_limit);
        let call = Call {
            origin: KeyId::from_bytes([7; 32]),
            id: MessageId::from_bytes(id),
            request,
            private,
            output,
            cancel: CancellationToken::new(),
        };
        (call, chunks)
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{call, request};
    use super::*;
    use mainstay_core::outcome::Exit;

    fn methods() -> Methods {
        Methods::of(vec![Arc::new(ping::Ping)])
    }

    #[test]
    fn a_request_is_refused_with_the_reason_before_it_is_accepted() {
        let refusal = methods().accept(&request("launch", &[])).err();
        assert_eq!(refusal, Some(Rejection::UnknownMethod("launch".into())));
        let refusal = methods().accept(&request("ping", &["x"])).err();
        assert!(matches!(refusal, Some(Rejection::BadArguments(_))), "{refusal:?}");
        assert!(methods().accept(&request("ping", &[])).is_ok());
    }

    #[tokio::test]
    async fn ping_answers_pong() {
        let (call, mut chunks) = call(request("ping", &[]), Private::default());
        let end = methods().run(call).await;
        assert_eq!(end.outcome, Outcome::Finished(Exit::Code(0)));
        assert_eq!((end.stdout_bytes, end.stderr_bytes, end.truncated), (5, 0, false));
        assert_eq!(chunks.recv().await.unwrap().data, "pong\n");
        assert!(chunks.recv().await.is_none());
    }
}

//! Which keys stand behind names, for a node that is not a hub: asked of the hub, remembered for when it is away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mainstay_core::frame::{Frame, Resolve, Resolved};
use mainstay_core::id::{KeyId, NodeName};
use mainstay_core::journal::{Batch, Class, Op, Table};
use mainstay_store::group_commit::Handle as Journal;
use tokio::sync::oneshot;

use super::{Input, Inputs};

/// A hub that is linked answers within this, or the remembered key is used.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub struct Names {
    known: Arc<Mutex<HashMap<NodeName, KeyId>>>,
    journal: Journal,
    /// Who waits for the answer to which question.
    asking: Arc<Mutex<Asking>>,
}

#[derive(Default)]
struct Asking {
    last: u64,
    waiting: HashMap<u64, oneshot::Sender<()>>,
}

impl Names {
    pub fn new(known: HashMap<NodeName, KeyId>, journal: Journal) -> Self {
        Self { known: Arc::new(Mutex::new(known)), journal, asking: Arc::default() }
    }

    /// Takes a hub's answer.
    pub async fn resolved(&self, answer: Resolved) {
        let Resolved { number, found } = answer;
        let mut ops = Vec::new();
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            for (name, key) in found {
                if known.insert(name.clone(), key) != Some(key) {
                    let name = Bytes::copy_from_slice(name.as_str().as_bytes());
                    ops.push(Op::Put {
                        table: Table::Names,
                        key: name,
                        value: Bytes::copy_from_slice(key.as_bytes()),
                    });
                }
            }
        }
        if !ops.is_empty() {
            // A memory aid: a full disk costs only the next offline look-up.
            let _ = self.journal.commit(Batch { class: Class::New { reserve: 0 }, ops }).await;
        }
        if let Some(waiting) = self.asking().waiting.remove(&number) {
            let _ = waiting.send(());
        }
    }

    /// The keys of these names: as a linked hub says, else as it once said.
    pub async fn ask(&self, inputs: &Inputs, names: &[NodeName]) -> HashMap<NodeName, KeyId> {
        let hub = inputs.links().await.ok().and_then(|links| links.first().map(|(key, _, _)| *key));
        if let Some(peer) = hub {
            let (answered, answer) = oneshot::channel();
            let number = {
                let mut asking = self.asking();
                asking.last += 1;
                let number = asking.last;
                asking.waiting.insert(number, answered);
                number
            };
            let question = Frame::Resolve(Resolve { number, names: names.to_vec() });
            if inputs.send(Input::Tell { peer, frame: question }).await.is_ok() {
                let _ = tokio::time::timeout(ANSWER_WITHIN, answer).await;
            }
            self.asking().waiting.remove(&number);
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        names.iter().filter_map(|name| known.get(name).map(|key| (name.clone(), *key))).collect()
    }

    fn asking(&self) -> std::sync::MutexGuard<'_, Asking> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Which keys stand behind names, for a node that is not a hub: asked of the hub, remembered for when it is away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mainstay_core::frame::Frame;
use mainstay_core::id::{KeyId, NodeName};
use mainstay_core::journal::{Batch, Class, Op, Table};
use mainstay_store::group_commit::Handle as Journal;
use tokio::sync::watch;

use super::{Input, Inputs};

/// A hub that is linked answers within this, or the remembered key is used.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub struct Names {
    known: Arc<Mutex<HashMap<NodeName, KeyId>>>,
    journal: Journal,
    /// Counts answers, so that whoever waits looks again.
    answers: Arc<watch::Sender<u64>>,
}

impl Names {
    pub fn new(known: HashMap<NodeName, KeyId>, journal: Journal) -> Self {
        Self { known: Arc::new(Mutex::new(known)), journal, answers: Arc::new(watch::channel(0).0) }
    }

    /// Takes a hub's answer.
    pub async fn resolved(&self, found: Vec<(NodeName, KeyId)>) {
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
        self.answers.send_modify(|count| *count += 1);
    }

    /// The keys of these names: as a linked hub says, else as it once said.
    pub async fn ask(&self, inputs: &Inputs, names: &[NodeName]) -> HashMap<NodeName, KeyId> {
        let hub = inputs.links().await.ok().and_then(|links| links.first().map(|(key, _, _)| *key));
        if let Some(peer) = hub {
            let mut answers = self.answers.subscribe();
            let question = Input::Tell { peer, frame: Frame::Resolve(names.to_vec()) };
            if inputs.send(question).await.is_ok() {
                let _ = tokio::time::timeout(ANSWER_WITHIN, answers.changed()).await;
            }
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        names.iter().filter_map(|name| known.get(name).map(|key| (name.clone(), *key))).collect()
    }
}

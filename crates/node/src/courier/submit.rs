//! From a message file to drafts: names become keys, private fields are sealed, ids are given.

use std::collections::BTreeSet;

use mainstay_core::delivery::{Draft, Refusal};
use mainstay_core::envelope::Request;
use mainstay_core::id::{MessageId, NodeName};
use mainstay_core::message::{self, Delivery, MessageErrors, MessageSpec};
use mainstay_core::seal::ContentKey;

use super::replies;
use crate::node::Shared;

/// Kept of a message's output, unless its sender could say otherwise: as for runs.
const OUTPUT_LIMIT: u64 = 1 << 20;

/// `pong` and a newline fit many times.
const PING_LIMIT: u64 = 256;

#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    #[error(transparent)]
    Text(#[from] MessageErrors),
    #[error("no node of this fleet is named {}", .0.join(", "))]
    UnknownNodes(Vec<String>),
    #[error("no node named {} is known here, and no hub is linked to ask", .0.join(", "))]
    UnknownOffline(Vec<String>),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the private fields cannot be sealed to {0}")]
    Seal(NodeName),
    #[error("the system gives no randomness")]
    Randomness,
    #[error(transparent)]
    Stopped(#[from] super::Stopped),
}

/// One accepted message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Accepted {
    pub id: MessageId,
    pub to: NodeName,
}

/// Accepts all messages of a file, or none. They are durable when this returns.
pub async fn submit(
    shared: &Shared,
    operator: Option<&str>,
    text: &str,
) -> Result<Vec<Accepted>, SubmitError> {
    let specs = message::parse(text)?;
    let names: BTreeSet<NodeName> = specs.iter().flat_map(|spec| spec.to.iter().cloned()).collect();
    let keys = match shared.resolve(&names.into_iter().collect::<Vec<_>>()).await {
        Err(SubmitError::UnknownNodes(unknown)) => {
            let places = message::unknown_receivers(text, &unknown);
            return Err(places.map_or(SubmitError::UnknownNodes(unknown), SubmitError::Text));
        }
        keys => keys?,
    };
    let mut drafts = Vec::new();
    for spec in &specs {
        for name in &spec.to {
            // `resolve` has answered for every name.
            let Some(key) = keys.get(name) else { continue };
            drafts.push(draft(shared, operator, spec, name, *key)?);
        }
    }
    let accepted = drafts.iter().map(|draft| Accepted { id: draft.id, to: draft.to_name.clone() }).collect();
    shared.inputs().submit(drafts).await??;
    Ok(accepted)
}

fn draft(
    shared: &Shared,
    operator: Option<&str>,
    spec: &MessageSpec,
    name: &NodeName,
    to: mainstay_core::id::KeyId,
) -> Result<Draft, SubmitError> {
    let now = shared.clock.now();
    let sealed = if spec.private.is_empty() {
        None
    } else {
        let key = ContentKey::new(random()?);
        let content = key.encrypt(&spec.private);
        Some(key.seal_for(to, content).map_err(|_| SubmitError::Seal(name.clone()))?)
    };
    let attempts = match spec.delivery {
        Delivery::Command { attempts, .. } => attempts.map(|attempts| attempts.retries.saturating_add(1)),
        Delivery::Event { .. } => None,
    };
    let request = Request {
        method: spec.method.canonical().to_owned(),
        args: spec.args.clone(),
        data: spec.data.clone(),
        command: !spec.delivery.is_event(),
        idempotent: spec.idempotent,
        timeout_ms: spec.method_timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
        output_limit: output_limit(spec.method.canonical()),
        stream: false,
        sealed,
        run: None,
        operator: operator.map(str::to_owned),
    };
    Ok(Draft {
        id: MessageId::new(now, random()?),
        to,
        to_name: name.clone(),
        request,
        expires: now + spec.delivery.bound(),
        attempts,
        reply: replies::encode(&spec.reply),
        reply_whole: replies::is_whole(&spec.reply),
    })
}

/// A receiver keeps room on its disk for as much as a message may answer, so what answers little asks for little.
fn output_limit(method: &str) -> u64 {
    if method == "ping" { PING_LIMIT } else { OUTPUT_LIMIT }
}

fn random<const N: usize>() -> Result<[u8; N], SubmitError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| SubmitError::Randomness)?;
    Ok(bytes)
}

//! What the courier asks of the hub: who may link, what they are owed, and what their words mean.

use async_trait::async_trait;
use bytes::Bytes;
use mainstay_core::envelope::{Envelope, Payload, Request, Verified};
use mainstay_core::frame::{Enrol, Enrolment, Facts, Goodbye, Hello, Verdict};
use mainstay_core::id::{KeyId, MessageId, NodeName, RunId};
use mainstay_core::outcome::Rejection;
use mainstay_core::trust::Act;
use mainstay_node::hub_role::{Admission, HubRole, LearnError};

use super::{Hub, Inner};
use crate::enrol::applicant_of_hello;
use crate::fleet::FleetError;
use crate::recorder::{Answer, Note, WAITING_KIB};
use crate::registry::Standing;
use crate::run::Step;
use crate::run_record::EndNote;
use crate::view::NodeState;

/// The event by which a node reports what went wrong on it.
const REPORT: &str = "errors.report";

/// How soon a node asks again when the hub itself could not answer.
const RETRY_MS: u64 = 1_000;

#[async_trait]
impl HubRole for Hub {
    async fn admit(&self, key: KeyId, hello: &Hello) -> Admission {
        match self.inner.admit(key, hello) {
            Ok(admission) => admission,
            Err(why) => {
                let (inner, note) = (self.inner.clone(), why.clone());
                self.tasks.spawn(async move { inner.quarantine(key, &note).await }).await.ok();
                Admission::Refuse(Goodbye::Waiting { reason: why })
            }
        }
    }

    async fn enrol(&self, key: KeyId, enrol: Enrol) -> Enrolment {
        // To its end even if the link goes: half an enrolment would be in the way of the next one.
        let inner = self.inner.clone();
        let done = self.tasks.spawn(async move { inner.enrol(key, enrol).await }).await;
        done.unwrap_or(Enrolment::Waiting { retry_ms: RETRY_MS })
    }

    fn link_up(&self, key: KeyId, address: &str) {
        let inner = &self.inner;
        let now = inner.now();
        inner.registry.link_up(&key, address, now);
        inner.met_a_node();
        let ready = inner.dispatch().link_up(key, now);
        for run in ready {
            inner.note(Note::Look(run));
        }
        inner.wake([key]);
    }

    fn link_down(&self, key: KeyId, mark: u64) {
        let inner = &self.inner;
        let now = inner.now();
        inner.registry.link_down(&key, mark, now);
        inner.dispatch().link_down(key, now);
        inner.upkeep.notify_one();
    }

    fn facts(&self, key: KeyId, facts: Facts) {
        self.inner.registry.facts(&key, facts);
    }

    fn next_for(&self, key: KeyId, room: usize) -> Vec<Envelope> {
        let inner = &self.inner;
        let due = inner.dispatch().next_for(key, room, inner.now());
        // Signed outside of the lock: it is what takes time here.
        let signer = inner.fleet.signer();
        due.iter().filter_map(|due| due.envelope(key, signer)).collect()
    }

    fn verdict(&self, key: KeyId, id: MessageId, verdict: &Verdict) {
        self.inner.verdict(key, id, verdict);
    }

    async fn answer(&self, _key: KeyId, answer: Verified) -> Verdict {
        self.inner.answer(answer).await
    }

    fn resolve(&self, name: &NodeName) -> Option<KeyId> {
        let inner = &self.inner;
        if *name == inner.config.name {
            return Some(inner.fleet.key());
        }
        let key = inner.registry.key_of(name)?;
        (inner.registry.state(&key) == Some(NodeState::Active)).then_some(key)
    }

    fn name_of(&self, key: KeyId) -> Option<NodeName> {
        let inner = &self.inner;
        if key == inner.fleet.key() {
            return Some(inner.config.name.clone());
        }
        let record = inner.registry.record(&key)?;
        // One in quarantine may be accepted again.
        matches!(record.state, NodeState::Active | NodeState::Quarantined).then_some(record.name)
    }

    fn chain_of(&self, key: KeyId) -> Vec<Bytes> {
        let inner = &self.inner;
        if key == inner.fleet.key() {
            return inner.fleet.chain().to_vec();
        }
        let Some(record) = inner.registry.record(&key) else {
            return Vec::new();
        };
        inner.fleet.node_chain(key, &record.name).unwrap_or_else(|e| {
            tracing::error!(name = %record.name, "no certificate can be made: {e}");
            Vec::new()
        })
    }

    async fn learn_trust(&self, entries: Vec<Bytes>) -> Result<(), LearnError> {
        let inner = self.inner.clone();
        let done = self.tasks.spawn(async move { inner.learn(entries).await }).await;
        done.unwrap_or_else(|e| Err(LearnError::Store(e.to_string())))
    }
}

impl Inner {
    async fn learn(&self, entries: Vec<Bytes>) -> Result<(), LearnError> {
        let acts = self.fleet.learn(entries).await.map_err(|e| match e {
            FleetError::Trust(e) => LearnError::Trust(e),
            e => LearnError::Store(e.to_string()),
        })?;
        for act in acts {
            if let Act::Revoke { key, reason } = act {
                self.cut(key, Goodbye::Revoked);
                // The trust log alone keeps it out already; the rest is made up for at the next start.
                if let Err(e) = self.end_node(key, NodeState::Revoked, &reason).await {
                    tracing::warn!(key = %key.short(), "a revoked node was not ended: {e}");
                }
            }
        }
        self.trust_changed();
        Ok(())
    }

    /// `Err` with the reason if the node must be put into quarantine.
    fn admit(&self, key: KeyId, hello: &Hello) -> Result<Admission, String> {
        if self.fleet.trust().read().expect("no holder panics").is_revoked(&key) {
            return Ok(Admission::Refuse(Goodbye::Revoked));
        }
        let waiting = |reason: String| Admission::Refuse(Goodbye::Waiting { reason });
        Ok(match self.registry.judge(&key, hello.journal, hello.mark) {
            Standing::Good(name) => {
                if let Some(facts) = &hello.facts {
                    self.registry.facts(&key, (**facts).clone());
                }
                Admission::Admit { name }
            }
            Standing::Gone => Admission::Refuse(Goodbye::Revoked),
            Standing::Quarantined(why) if self.registry.state(&key) == Some(NodeState::Active) => {
                return Err(why);
            }
            Standing::Quarantined(why) => waiting(why),
            Standing::Unknown => {
                self.registry.apply(key, applicant_of_hello(hello, self.now()));
                waiting("this hub does not know the node; an operator must accept it".into())
            }
        })
    }

    async fn quarantine(&self, key: KeyId, why: &str) {
        let quarantine = |record: &mut crate::registry::NodeRecord| {
            record.state = NodeState::Quarantined;
            record.note = Some(why.to_owned());
        };
        // It is refused even if this could not be written: it will be found out again.
        if let Err(e) = self.registry.update(key, quarantine).await {
            tracing::warn!(key = %key.short(), "a quarantine could not be written: {e}");
        }
    }

    fn verdict(&self, key: KeyId, id: MessageId, verdict: &Verdict) {
        let now = self.now();
        let mut dispatch = self.dispatch();
        if let Verdict::Busy { retry_ms, .. } = verdict {
            let retry = std::time::Duration::from_millis(*retry_ms);
            if dispatch.busy(key, id, retry, now).is_some() {
                self.upkeep.notify_one();
            }
            return;
        }
        // Held by another hub says nothing of the node itself: it stays in flight until that is known.
        if *verdict == Verdict::Held {
            return;
        }
        let Some(delivery) = dispatch.landed(key, id) else {
            return;
        };
        let run = delivery.run;
        let Some(open) = dispatch.run_mut(&run) else { return };
        match (verdict, delivery.step) {
            (Verdict::Refused(why), Step::Order(node)) => {
                let why = why.clone();
                self.note(Note::Refused { run, node, why });
            }
            // A node that refuses a cancel has nothing to cancel.
            (_, step) => {
                let more = open.delivered(step);
                if let Step::Order(node) = step {
                    self.note(Note::Taken { run, node });
                }
                let awake = dispatch.owe(run, more.as_slice());
                drop(dispatch);
                self.wake(awake);
            }
        }
    }

    async fn answer(&self, answer: Verified) -> Verdict {
        let node = answer.body.from;
        let size = answer.envelope.body.len();
        let (run, re, answer) = match answer.body.payload {
            Payload::Output(output) => (output.run, output.re, Answer::Output(output.piece)),
            Payload::End(end) => {
                let note = EndNote {
                    outcome: end.outcome,
                    last_seq: end.last_seq,
                    tail: end.tail,
                    started: end.started,
                    ended: end.ended,
                    stdout_bytes: end.stdout_bytes,
                    stderr_bytes: end.stderr_bytes,
                    truncated: end.truncated,
                };
                (end.run, end.re, Answer::End(note))
            }
            Payload::Request(request) => return self.event(node, request).await,
            // Receipts and cancels of runs are never sent to the hub role.
            Payload::Receipt(_) | Payload::Cancel(_) => return Verdict::Refused(Rejection::WrongAudience),
        };
        let Some(run) = run.filter(|run: &RunId| MessageId::of_run(*run, node) == re) else {
            return Verdict::Refused(Rejection::Denied);
        };
        let kib = (size / 1024 + 1).min(WAITING_KIB);
        let kib = u32::try_from(kib).unwrap_or(u32::MAX);
        let stopping = || Verdict::Busy { reason: "the hub is stopping".into(), retry_ms: 1_000 };
        let Ok(room) = self.room.clone().acquire_many_owned(kib).await else {
            return stopping();
        };
        let (done, verdict) = tokio::sync::oneshot::channel();
        self.note(Note::Answer { run, node, answer, done, room });
        verdict.await.unwrap_or_else(|_| stopping())
    }

    async fn event(&self, node: KeyId, request: Request) -> Verdict {
        if request.method != REPORT {
            return Verdict::Refused(Rejection::UnknownMethod(request.method));
        }
        // A hub is no node of its own registry, and has failures to report like any other.
        let own = (node == self.fleet.key()).then(|| self.config.name.clone());
        let Some(name) = own.or_else(|| Some(self.registry.record(&node)?.name.clone())) else {
            return Verdict::Refused(Rejection::UnknownNode);
        };
        match self.report(&name, &request).await {
            Ok(()) => Verdict::Accepted,
            Err(e) => Verdict::Busy { reason: e.to_string(), retry_ms: 1_000 },
        }
    }
}

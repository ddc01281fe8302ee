//! placeholder
use super::{Input, Inputs};
use mainstay_core::delivery::{Event, ReplyJob};
use mainstay_core::message::ReplySpec;
use tokio_util::task::TaskTracker;
pub struct Replies {
    inputs: Inputs,
    tasks: TaskTracker,
}
pub fn encode(_: &ReplySpec) -> Option<bytes::Bytes> {
    None
}
pub fn is_whole(_: &ReplySpec) -> bool {
    false
}
impl Replies {
    pub fn new(_: crate::received::Received, inputs: Inputs, tasks: TaskTracker) -> Self {
        Self { inputs, tasks }
    }
    pub fn plan(&self, _job: ReplyJob) {}
    pub fn write(&self, job: ReplyJob, _mark: bytes::Bytes) {
        let inputs = self.inputs.clone();
        self.tasks.spawn(async move {
            let _ = inputs
                .send(Input::Event(Event::ReplyWritten { id: job.id, upto: job.upto, result: Ok(()) }))
                .await;
        });
    }
}

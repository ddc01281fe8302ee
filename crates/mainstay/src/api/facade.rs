//! What the API needs of a hub: the facade of `mainstay-control`, as a trait.
//!
//! It exists so that the API can be tested against a hub whose every answer is known. It decides nothing:
//! each method is the one of the same name on [`Hub`], whose documentation holds.

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;
use mainstay_control::hub::{Hub, RunEvents};
use mainstay_control::view::{
    Approve, MessageView, NewToken, NodeView, Operator, Problem, RunNodeView, RunSpec, RunView, StatusView,
    TokenSpec, TokenView,
};
use mainstay_core::id::{MessageId, NodeName, RunId};

/// Declares the trait and its delegation in one list, so that the two cannot drift apart.
macro_rules! facade {
    ($(fn $name:ident(&self $(, $argument:ident: $kind:ty)*) -> $answer:ty;)*) => {
        #[async_trait]
        pub trait Facade: Send + Sync + 'static {
            fn operator_by_uid(&self, uid: u32) -> Result<Operator, Problem>;
            $(async fn $name(&self $(, $argument: $kind)*) -> Result<$answer, Problem>;)*
        }

        /// Here the trait is not known: a method that the hub lacks is an error, not a call of the trait's own
        /// method by itself, for ever.
        mod direct {
            use super::{
                Approve, BTreeMap, Hub, MessageId, MessageView, NewToken, NodeName, NodeView, Operator, Path, Problem, RunEvents, RunId,
                RunNodeView, RunSpec, RunView, StatusView, TokenSpec, TokenView,
            };

            pub(super) fn operator_by_uid(hub: &Hub, uid: u32) -> Result<Operator, Problem> {
                Hub::operator_by_uid(hub, uid)
            }
            $(pub(super) async fn $name(hub: &Hub $(, $argument: $kind)*) -> Result<$answer, Problem> {
                Hub::$name(hub $(, $argument)*).await
            })*
        }

        #[async_trait]
        impl Facade for Hub {
            fn operator_by_uid(&self, uid: u32) -> Result<Operator, Problem> {
                direct::operator_by_uid(self, uid)
            }
            $(async fn $name(&self $(, $argument: $kind)*) -> Result<$answer, Problem> {
                direct::$name(self $(, $argument)*).await
            })*
        }
    };
}

facade! {
    fn status(&self) -> StatusView;
    fn operator_by_token(&self, token: &str) -> Operator;
    fn nodes(&self, target: Option<&str>) -> Vec<NodeView>;
    fn node(&self, which: &str) -> NodeView;
    fn accept_node(&self, by: &Operator, which: &str, name: Option<NodeName>) -> NodeView;
    fn label_node(&self, by: &Operator, which: &str, labels: BTreeMap<String, Option<String>>) -> NodeView;
    fn revoke_node(&self, by: &Operator, which: &str, reason: &str) -> NodeView;
    fn remove_node(&self, by: &Operator, which: &str) -> ();
    fn tokens(&self, by: &Operator) -> Vec<TokenView>;
    fn create_token(&self, by: &Operator, spec: TokenSpec) -> NewToken;
    fn revoke_token(&self, by: &Operator, id: &str) -> ();
    fn preview(&self, by: &Operator, targets: &[String]) -> Vec<NodeView>;
    fn start_run(&self, by: &Operator, spec: RunSpec) -> RunView;
    fn runs(&self, by: &Operator, limit: usize) -> Vec<RunView>;
    fn runs_with_plans(&self, by: &Operator, limit: usize) -> Vec<RunView>;
    fn run(&self, by: &Operator, run: RunId) -> (RunView, Vec<RunNodeView>);
    fn watch_run(&self, by: &Operator, run: RunId, from: u64) -> RunEvents;
    fn cancel_run(&self, by: &Operator, run: RunId) -> RunView;
    fn retry_run(&self, by: &Operator, run: RunId, failed_only: bool) -> RunView;
    fn approve_run(&self, by: &Operator, run: RunId, approve: Approve) -> RunView;
    fn prune_runs(&self, by: &Operator, before_ms: i64) -> u64;
    fn send(&self, by: &Operator, text: &str) -> Vec<MessageId>;
    fn messages(&self, by: &Operator, limit: usize) -> Vec<MessageView>;
    fn message(&self, by: &Operator, message: MessageId) -> MessageView;
    fn backup(&self, by: &Operator, file: &Path) -> ();
    fn audit(&self, by: &Operator, limit: usize) -> Vec<serde_json::Value>;
    fn errors(&self, by: &Operator, limit: usize) -> Vec<serde_json::Value>;
}

//! `mainstay agent`: wires the parts of an agent together and runs them until it is told to stop.

use mainstay_control::view::{Problem, ProblemKind};

use super::Done;
use crate::config::agent::AgentArgs;

pub(super) fn run(_args: AgentArgs) -> Done {
    Err(Problem::new(ProblemKind::Internal, "not wired yet").into())
}

//! `mainstay hub`: wires the parts of a hub together and runs them until it is told to stop.

use mainstay_control::view::{Problem, ProblemKind};

use super::Done;
use crate::config::hub::HubArgs;

pub(super) fn run(_args: HubArgs) -> Done {
    Err(Problem::new(ProblemKind::Internal, "not wired yet").into())
}

//! Declared state on this machine: what a catalog would change here, and changing it.
//!
//! [`session::Session`] is the only way in. Everything behind it blocks and runs on threads of its own, since modules do.
//! What a requisite decides, what an approval covers and what is hidden are pure and stand in `mainstay_core::state`;
//! what a kind of state does stands in `mainstay-module`.

mod ahead;
mod analyze;
mod apply;
mod awaited;
#[cfg(test)]
mod crash;
mod debts;
mod digest_key;
mod engine;
mod extensions;
mod facts;
mod failpoint;
mod glances;
mod guard;
mod leftovers;
mod lock;
mod looking;
mod machine;
mod merge;
mod other_user;
mod outputs;
mod prepared;
mod secrecy;
pub mod session;
mod teller;
mod turn;
mod verdict;

use std::path::Path;
use std::sync::Arc;

use mainstay_core::state::Values;
use mainstay_core::state::catalog::Catalog;
use mainstay_core::state::order::Order;
use mainstay_module::registry::Registry;

pub use extensions::describe;
pub use mainstay_module::confine::offered as landlock;
pub use session::{Session, SessionOptions};

/// The order in which the states of a catalog would have their turn on a machine with these facts: for pictures of it.
/// The error says why they have none. The catalog's extensions are kept in the directory, and not called.
pub fn order(
    catalog: Catalog,
    registry: &Registry,
    facts: Values,
    extensions: &Path,
) -> Result<Order, String> {
    let registry = extensions::registry(&catalog, registry, extensions).map_err(|error| error.to_string())?;
    let prepared = prepared::Prepared::new(catalog, &registry, Arc::new(facts), || [0; 32]);
    prepared.map(|prepared| prepared.order).map_err(|error| error.to_string())
}

/// Ends what killed sessions on this machine left running; the next session would, but an agent's may be far off. Blocks:
/// for seconds, where something does not want to end.
pub fn end_leftovers(data: &Path) {
    if let Err(words) = leftovers::end_all(&data.join(session::RUNNING)) {
        tracing::warn!("{words}");
    }
}

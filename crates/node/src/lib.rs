//! What runs on every machine: the courier, the methods, links to hubs, supervision.
//!
//! [`node::Node`] is the whole; [`courier`] is the one task that owns the delivery engine; [`method`] is what
//! can be done here; [`state`] brings this machine to a declared state; [`hub_role`] is what a hub adds.

pub mod clock;
pub mod courier;
pub mod dial;
pub mod facts;
pub mod hub_role;
pub mod identity;
pub mod intake;
pub mod join;
mod journal_copy;
pub mod listen;
pub mod memory;
pub mod method;
pub mod metrics;
pub mod node;
pub mod process;
pub mod received;
pub mod reply;
pub mod state;
pub mod trust_store;

//! Declared state on this machine: what a catalog would change here, and changing it.
//!
//! [`session::Session`] is the only way in. Everything behind it blocks and runs on threads of its own, since modules do.
//! What a requisite decides, what an approval covers and what is hidden are pure and stand in `mainstay_core::state`;
//! what a kind of state does stands in `mainstay-module`.

mod analyze;
mod apply;
mod confine;
#[cfg(test)]
mod crash;
mod debts;
mod digest_key;
mod engine;
mod facts;
mod failpoint;
mod guard;
mod lock;
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

pub use session::{Session, SessionOptions};

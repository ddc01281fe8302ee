//! Declared state on this machine: what a catalog would change here, and changing it.
//!
//! [`session::Session`] is the only way in. Everything behind it blocks and runs on threads of its own, since modules do.
//! What a requisite decides, what an approval covers and what is hidden are pure and stand in `mainstay_core::state`;
//! what a kind of state does stands in `mainstay-module`.

mod confine;
mod facts;
mod lock;
mod other_user;
pub mod session;

pub use session::{Session, SessionOptions};

//! The nouns of Mainstay and its pure decisions.
//!
//! Everything here is a value or a function of values. There is no I/O, no clock, no randomness and no
//! runtime: a decision that needs the time takes `now`, one that needs chance takes the bytes. That is what
//! lets `sim/` run whole fleets from one seed with the very code that runs in production.

pub mod access;
pub mod backoff;
pub mod batch;
pub mod causes;
pub mod clock;
pub mod delivery;
pub mod encoding;
pub mod envelope;
mod excerpt;
pub mod frame;
pub mod id;
pub mod join_token;
pub mod journal;
pub mod listed;
pub mod message;
pub mod method;
pub mod near_miss;
pub mod outcome;
pub mod received_path;
pub mod seal;
pub mod state;
pub mod target;
pub mod time;
pub mod trust;
pub mod yaml;

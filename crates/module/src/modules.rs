//! The kinds of state, one file each.

pub mod cmd;
pub mod group;
pub mod user;

//! The kinds of state, one file each.

pub mod cmd;

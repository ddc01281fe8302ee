//! Mainstay as a program and as a library: the hub's API, the command line, configuration.
//!
//! What a fleet does is decided in the crates below; here it meets people and the operating system.

pub mod api;
pub mod cli;
pub mod client;
pub mod config;
mod descendants;
pub mod dev_pointer;
pub mod remote;
pub mod tool;
pub mod up;

/// For modules of one's own.
pub use mainstay_core::state;
pub use mainstay_module as module;

//! The built-in modules, one file each. Their names, as states files use them, stand in [`crate::registry::builtin`].

pub mod archive;
pub mod block;
pub mod cmd;
pub mod cron;
pub mod directory;
pub mod file;
pub mod git;
pub mod group;
pub mod http;
pub mod line;
pub mod link;
pub mod mount;
pub mod pkg;
pub mod pkgrepo;
pub mod service;
pub mod ssh_key;
pub mod sync;
pub mod sysctl;
pub mod user;

//! The built-in modules, one file each. Their names, as states files use them, stand in [`crate::registry::builtin`].

pub mod cmd;
pub mod cron;
pub mod directory;
pub mod file;
pub mod group;
pub mod mount;
pub mod pkg;
pub mod pkgrepo;
pub mod service;
pub mod ssh_key;
pub mod sysctl;
pub mod user;

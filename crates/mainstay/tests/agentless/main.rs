//! Machines without agents: real `sshd` on loopback addresses, reached by the real program through the real `ssh`.
//!
//! All "hosts" are this machine, each with a cache and a data directory of its own. Where there is no `sshd`, the tests are
//! skipped and say so.

mod extensions;
mod run;
mod server;
mod states;

//! What runs on every machine: the courier, the methods, supervision.

pub mod hub_role;
pub mod method;
pub mod process;

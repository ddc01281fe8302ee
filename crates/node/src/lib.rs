//! What runs on every machine: the courier, the methods, supervision.

pub mod facts;
pub mod hub_role;
pub mod intake;
pub mod method;
pub mod process;
pub mod received;
pub mod reply;

//! Links: how frames get from one node to another, and how each end knows who the other is.
//!
//! [`certificate`] makes the fleet's certificates and [`chain`] judges them; [`tls`] dials and listens;
//! [`link`] puts frames on whatever stream results, within the limits of [`limits`]. [`ssh`] reaches machines that run no agent. Nothing here knows what
//! frames mean, who is registered or who was revoked: that is the courier's and the trust log's.

pub mod certificate;
pub mod chain;
pub mod dialer;
mod entrance;
mod gate;
pub mod https;
pub mod keyfile;
pub mod limits;
pub mod link;
pub mod listener;
pub mod memory;
pub mod pieces;
pub mod ssh;
mod stall;
pub mod tls;

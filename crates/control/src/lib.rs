//! What runs on a hub: registry, enrolment, runs, tokens, operators, audit.
//!
//! [`view`] holds the shapes that the API and the CLI show; everything else is behind [`Hub`].

pub mod hub;
pub mod view;

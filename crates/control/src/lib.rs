//! What runs on a hub: registry, enrolment, runs, tokens, operators, audit.
//!
//! [`view`] holds the shapes that the API and the CLI show; everything else is behind [`hub::Hub`].

mod audit;
pub mod backup;
mod dispatch;
mod enrol;
pub mod fleet;
pub mod hub;
pub mod metrics;
mod recorder;
mod registry;
mod run;
mod run_reader;
mod run_record;
mod shelf;
mod token;
pub mod view;

pub use run_record::MAX_RECORD;

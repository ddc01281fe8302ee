//! Bringing machines to their declared state: connect, compile, analyze, ask, modify, and look again until stable.
//!
//! [`rollout::Rollout`] leads many machines through this at once, each by its own [`machine::Machine`], which may be this
//! process's own engine, one behind ssh, or one behind a hub. What is shown, and how a person is asked, is a
//! [`front::Front`]'s; what would change and what does is the engine's, on the machine itself.

pub mod extensions;
pub mod front;
pub mod hub;
pub mod inventory;
pub mod local;
pub mod machine;
pub mod outcome;
pub mod rollout;
pub mod site;
pub mod ssh;
pub mod standing;

pub use front::{Answer, Event, Front};
pub use machine::{Aside, Machine, Way};
pub use outcome::{MachineEnd, Verdict};
pub use rollout::{Goal, Options, Rollout, Source};

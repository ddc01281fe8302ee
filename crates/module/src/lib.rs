//! State modules: for each kind of state, what it observes, plans and changes on a machine.
//!
//! A module is one file in `modules/` and one line in [`registry::builtin`]. It gets typed parameters and a view of the
//! machine, and says what would change; applying makes just these changes. It never sees a template, a requisite or a
//! guard: rendering, ordering, approval and debts are the engine's, in `mainstay-node`.
//!
//! Everything here blocks: modules run on threads of their own, never on a runtime's.

pub mod accounts;
pub mod blob;
pub mod confine;
pub mod content;
pub mod contradiction;
pub mod edit;
pub mod extension;
pub mod failure;
#[cfg(test)]
mod fidelity;
pub mod field;
pub mod forecast;
pub mod format;
pub mod host;
pub mod module;
pub mod modules;
pub mod packages;
pub mod registry;
pub mod replacement;
pub mod standing;
pub mod web;

pub use failure::Failure;
pub use module::{About, Analysis, Analyze, Applied, Apply, Module, Refreshed, Verdict};

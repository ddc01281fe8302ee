//! Placeholder of the delivery machines.

//! Links as others use them: one conformance suite over every kind, and hostile peers on real sockets.

mod conformance;
mod fleet;
mod framing;
mod hostile;
mod https;
mod identity;

//! A pair of links in memory, for tests of what uses links: the same frames and limits, no network.

use std::sync::Arc;

use crate::limits::{Limits, LinkCounters};
use crate::link::{Link, Peer};

/// How many bytes are on the way in one direction before a sender waits: as much as a socket's buffers.
const IN_FLIGHT: usize = 64 * 1024;

/// Two ends of one link. `a` is who the first end talks to, `b` who the second end talks to.
pub fn pair(a: Peer, b: Peer, limits: &Limits, counters: &Arc<LinkCounters>) -> (Link, Link) {
    let (left, right) = tokio::io::duplex(IN_FLIGHT);
    let end = |io, peer| Link::over_stream(io, peer, limits, counters.clone());
    (end(left, a), end(right, b))
}

//! The limits of a link, each with its reason, and the counters of what they refused.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mainstay_core::frame::MAX_FRAME;

/// From the connection to the end of the hello. A handshake needs three round trips; ten seconds leave room for a
/// satellite and a busy hub, and bound how long a stranger can hold a place.
pub const ADMISSION_LIMIT: Duration = Duration::from_secs(10);

/// How long a frame that has begun, or a write that the peer does not take, may go without progress.
pub const STALL_LIMIT: Duration = Duration::from_secs(30);

/// What counts as progress within [`STALL_LIMIT`]: a kilobyte, or the end of the frame. A peer that trickles
/// single bytes makes none; the slowest link worth having (300 bit/s) does.
pub const MIN_PROGRESS: usize = 1024;

/// The largest frame from a peer that was not admitted yet: a hello or an enrolment with its facts is a few KiB.
pub const MAX_STRANGER_FRAME: usize = 16 * 1024;

/// Most bytes that a TLS handshake may bring. Ours take 3 KiB with two certificates and a post-quantum key;
/// TLS itself would allow 64 KiB a message, which strangers could make us hold.
pub const MAX_HANDSHAKE: usize = 6 * 1024;

/// Most connections at once that were not admitted yet. Each can hold [`MAX_HANDSHAKE`] or
/// [`MAX_STRANGER_FRAME`], and some 14 KiB of TLS and task, so that all together stay below 12 MiB. Ten thousand
/// agents that come back at once pass in turn: a place is held for milliseconds.
pub const MAX_STRANGERS: usize = 384;

/// Most of them from one address, so that one address cannot take all places. A site behind one address may
/// have hundreds of machines. Loopback is exempt: everything on this machine shares it.
pub const MAX_STRANGERS_PER_SOURCE: usize = 128;

/// The limits in force; the defaults are the constants. Tests shorten the times.
#[derive(Clone, Debug)]
pub struct Limits {
    pub admission: Duration,
    pub stall: Duration,
    pub frame: usize,
    pub stranger_frame: usize,
    pub strangers: usize,
    pub strangers_per_source: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            admission: ADMISSION_LIMIT,
            stall: STALL_LIMIT,
            frame: MAX_FRAME,
            stranger_frame: MAX_STRANGER_FRAME,
            strangers: MAX_STRANGERS,
            strangers_per_source: MAX_STRANGERS_PER_SOURCE,
        }
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// How often something was refused or cut, by reason, since the process began.
        #[derive(Debug, Default)]
        pub struct LinkCounters { $($(#[$doc])* pub $name: AtomicU64,)* }

        impl LinkCounters {
            /// All of them by name, for whoever exports them.
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Ordering::Relaxed)),)*]
            }
        }
    };
}

counters! {
    /// TCP connections accepted.
    accepted,
    /// TLS handshakes that ended well, on either side.
    handshakes,
    /// Bytes that are not TLS 1.3, or a peer without a usable Ed25519 certificate, or a hub that is not ours.
    handshake_failed,
    /// A handshake that brought more than [`MAX_HANDSHAKE`].
    handshake_oversize,
    /// Not admitted within [`ADMISSION_LIMIT`].
    admission_timeout,
    /// A frame larger than allowed.
    oversize,
    /// A frame that cannot be decoded.
    malformed,
    /// The connection ended inside a frame.
    truncated,
    /// No progress within [`STALL_LIMIT`] inside a frame or a write.
    stalled,
    /// Refused because its address has too many strangers connected already.
    too_many,
    /// Silent and cut to make room when there were too many strangers.
    crowded_out,
    /// `accept` failed, usually for want of file descriptors.
    accept_failed,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

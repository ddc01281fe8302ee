//! An agent's way to its hubs: one link at a time, to whichever address answers, for ever.

use std::sync::Arc;
use std::time::Duration;

use mainstay_core::backoff::Backoff;
use mainstay_core::causes::with_causes;
use mainstay_link::chain::Trust;
use mainstay_link::dialer::{DialError, TlsDialer};
use mainstay_link::tls::{Credentials, TlsError};
use tracing::{info, warn};

use crate::courier::session::{self, SessionEnd};
use crate::node::Shared;

/// A hub that restarts is back within a second; a fleet that lost it spreads over this.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// A machine that was away for a week links within this of its return.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A node that was revoked, or waits for an operator, asks no more often than this.
const UNWELCOME_WAIT: Duration = Duration::from_secs(60);

/// Two machines with one key take the link from each other; not in a hurry.
const REPLACED_WAIT: Duration = Duration::from_secs(5);

/// Links to one of `addresses`, again and again, until the node stops.
pub async fn run(
    shared: Arc<Shared>,
    credentials: Credentials,
    addresses: Vec<String>,
) -> Result<(), TlsError> {
    let trust = Trust::Ca(shared.ca.clone());
    let dialer =
        TlsDialer::new(&credentials, trust, shared.link_limits.clone(), shared.link_counters.clone())?;
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    let mut turn = 0;
    loop {
        let Some(address) = addresses.get(turn % addresses.len().max(1)) else { return Ok(()) };
        turn += 1;
        let dialled = tokio::select! {
            () = shared.stop.cancelled() => return Ok(()),
            dialled = dialer.dial(address) => dialled,
        };
        let attempt = match dialled {
            Ok(dialled) => {
                shared.metrics.dialled("linked");
                // Ends by itself when the node stops, with a word to the hub.
                Attempt::Ended(session::dial(&shared, dialled.link, address.clone()).await)
            }
            Err(error) => {
                shared.metrics.dialled(if error.is_transient() { "unreachable" } else { "untrusted" });
                Attempt::Failed(error)
            }
        };
        // Only a link over which both ends proved themselves and agreed counts as success.
        if shared.take_proof() {
            backoff.reset();
        }
        let mut wait = backoff.next(chance());
        match &attempt {
            Attempt::Ended(Ok(())) => {}
            Attempt::Ended(Err(end)) if end.reason_to_stay_away() => {
                warn!(%address, "this node was revoked; a new identity and a new token are needed to join again");
                wait = UNWELCOME_WAIT;
            }
            Attempt::Ended(Err(SessionEnd::Goodbye(mainstay_core::frame::Goodbye::Waiting { reason }))) => {
                warn!(%address, "an operator must accept this node: {reason}");
                wait = wait.max(UNWELCOME_WAIT / 20);
            }
            Attempt::Ended(Err(SessionEnd::Goodbye(mainstay_core::frame::Goodbye::Replaced))) => {
                warn!(%address, "another process links with this node's key; only one machine may have it");
                wait = wait.max(REPLACED_WAIT);
            }
            Attempt::Ended(Err(end)) => info!(%address, "link ended: {end}"),
            Attempt::Failed(error) => log_failure(error),
        }
        tokio::select! {
            () = shared.stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

enum Attempt {
    Ended(Result<(), SessionEnd>),
    Failed(DialError),
}

fn log_failure(error: &DialError) {
    let text = with_causes(error);
    if error.is_transient() { info!("{text}") } else { warn!("{text}") }
}

/// Uniform over all of `u32`. Without randomness every wait is the longest of its step.
pub(crate) fn chance() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX)
}

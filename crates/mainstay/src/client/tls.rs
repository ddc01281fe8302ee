//! TLS to a hub elsewhere: believed because its certificate leads to the fleet's CA, which the login names.

use mainstay_link::chain::{Fingerprint, Trust};
use mainstay_link::https::HttpsDialer;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::endpoint::HttpsHub;
use mainstay_core::causes::with_causes;

/// Why not, in words.
pub(super) async fn dial(hub: &HttpsHub) -> Result<TlsStream<TcpStream>, String> {
    let fingerprint: Fingerprint =
        hub.ca_fingerprint.parse().map_err(|e| format!("the CA fingerprint: {e}"))?;
    let dialer = HttpsDialer::new(Trust::Fingerprint(fingerprint)).map_err(|e| with_causes(&e))?;
    dialer.dial(&hub.authority).await.map_err(|e| with_causes(&e))
}

//! TLS to a hub elsewhere: believed because its certificate leads to the fleet's CA, which the login names.

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::endpoint::HttpsHub;

pub(super) async fn wrap(hub: &HttpsHub, stream: TcpStream) -> Result<TlsStream<TcpStream>, String> {
    let _ = (hub, stream);
    Err("TLS is not wired yet".into())
}

//! TLS for the API: the hub's leaf serves, the fleet's CA or its fingerprint is what callers trust.

use std::sync::Arc;

use mainstay_link::chain::{ChainError, Trust};
use mainstay_link::dialer::DialError;
use mainstay_link::https::{HttpsDialer, HttpsListener};
use mainstay_link::limits::Limits;
use mainstay_link::tls::Credentials;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::fleet::{Fleet, key, meet};

async fn listen(credentials: &Credentials) -> (HttpsListener, String) {
    let listener = HttpsListener::bind("127.0.0.1:0", credentials, Arc::default()).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// What a caller with this trust gets to hear from an API with these credentials.
async fn call(credentials: &Credentials, trust: Trust) -> Result<String, DialError> {
    let (listener, address) = listen(credentials).await;
    let serve = async {
        if let Ok(mut stream) = listener.accept().await.handshake().await {
            // A caller that found us untrustworthy is gone by now.
            let _ = stream.write_all(b"hello").await;
            let _ = stream.shutdown().await;
        }
    };
    let dialer = HttpsDialer::new(trust).unwrap();
    let ask = async {
        let mut stream = dialer.dial(&address).await?;
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        Ok(heard)
    };
    tokio::join!(ask, serve).0
}

#[tokio::test]
async fn a_caller_trusts_the_fleet_and_nobody_else() {
    let (fleet, other) = (Fleet::new(1), Fleet::new(3));
    for trust in [Trust::Ca(fleet.ca.clone()), Trust::Fingerprint(fleet.ca.fingerprint())] {
        assert_eq!(call(&fleet.hub_credentials(), trust.clone()).await.unwrap(), "hello");
        let error = call(&other.hub_credentials(), trust.clone()).await.unwrap_err();
        assert!(matches!(error, DialError::Untrusted { .. }), "{error:?}");
    }
    let node = fleet.node_credentials(&key(9), "ship1");
    let error = call(&node, Trust::Ca(fleet.ca.clone())).await.unwrap_err();
    assert!(matches!(error, DialError::Untrusted { source: ChainError::NotAHub, .. }), "{error:?}");
}

#[tokio::test]
async fn an_agent_that_dials_the_api_is_told() {
    let fleet = Fleet::new(1);
    let (listener, address) = listen(&fleet.hub_credentials()).await;
    let dialer = fleet.dialer(&fleet.node_credentials(&key(9), "ship1"), Limits::default());
    let (dialled, served) =
        tokio::join!(dialer.dial(&address), async { listener.accept().await.handshake().await });
    assert!(served.is_err());
    let error = dialled.err().unwrap();
    assert!(matches!(error, DialError::Handshake { .. } | DialError::NotALink { .. }), "{error:?}");
    assert!(error.is_transient());
}

#[tokio::test]
async fn a_caller_that_dials_the_link_port_is_told() {
    let fleet = Fleet::new(1);
    let (listener, address) = fleet.listen(Limits::default()).await;
    let dialer = HttpsDialer::new(Trust::Ca(fleet.ca.clone())).unwrap();
    let address_text = address.to_string();
    let (dialled, accepted) =
        tokio::join!(dialer.dial(&address_text), async { listener.accept().await.handshake().await });
    assert!(matches!(dialled, Err(DialError::Handshake { .. })));
    assert!(accepted.is_err());
    let dialer = fleet.dialer(&fleet.node_credentials(&key(9), "ship1"), Limits::default());
    assert!(meet(&listener, &dialer, address).await.0.is_ok());
}

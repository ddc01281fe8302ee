//! Operators elsewhere: TLS that leads to the fleet's CA, and a token.

use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use mainstay::api::{Api, serve_tls};
use mainstay_core::id::KeyId;
use mainstay_link::certificate;
use mainstay_link::chain::{Fingerprint, Trust};
use mainstay_link::https::{HttpsDialer, HttpsListener};
use mainstay_link::tls::Credentials;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::command_line::{finish, program};
use crate::fake_hub::{Served, TOKEN};

const PATIENCE: Duration = Duration::from_secs(30);

struct Remote {
    served: Served,
    address: String,
    fingerprint: Fingerprint,
}

async fn start() -> Remote {
    let served = Served::start().await;
    let (root, hub) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
    let ca = certificate::make_ca(&root).unwrap();
    let id = KeyId::from_bytes(hub.verifying_key().to_bytes());
    let issued = certificate::issue_hub(&root, id, &"central".parse().unwrap()).unwrap();
    let credentials = Credentials::new(hub, issued.chain(&ca)).unwrap();
    let listener = HttpsListener::bind("127.0.0.1:0", &credentials, Arc::default()).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let api = Api::new(served.hub.clone(), Arc::default(), served.dir.path());
    served.tasks.spawn(serve_tls(listener, api, served.shutdown.clone()));
    Remote { served, address, fingerprint: Fingerprint::of(&ca) }
}

impl Remote {
    async fn ask(&self, path: &str, headers: &str) -> String {
        let dialer = HttpsDialer::new(Trust::Fingerprint(self.fingerprint)).unwrap();
        let mut stream = dialer.dial(&self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: hub\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    async fn command(&self, arguments: &[&str]) -> String {
        let mut command = program(self.served.dir.path());
        command.args(arguments);
        let text = finish(command, TOKEN.as_bytes()).await;
        let text = text.replace(&self.address, "HUB").replace(&self.fingerprint.to_string(), "FINGERPRINT");
        text.replace(self.served.dir.path().to_str().unwrap(), "DIR")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_told_without_a_token() {
    let remote = start().await;
    let mut refused = Vec::new();
    for headers in [
        String::new(),
        "authorization: Bearer mso1.wrong\r\n".into(),
        "authorization: Bearer\r\n".into(),
        format!("authorization: Basic {TOKEN}\r\n"),
        format!("authorization: {TOKEN}\r\n"),
        // Nor does the hub wait for a stranger's body.
        "content-length: 4000000\r\n".into(),
    ] {
        for path in ["/v1/status", "/v1/nodes", "/v1/openapi.json", "/metrics"] {
            let answer = remote.ask(path, &headers).await;
            assert!(answer.starts_with("HTTP/1.1 401"), "{path} {headers}: {answer}");
            assert!(answer.contains("www-authenticate: Bearer\r\n"), "{answer}");
            refused.push(answer.split_once("\r\n\r\n").unwrap().1.to_owned());
        }
    }
    refused.dedup();
    assert_eq!(refused.len(), 1, "every refusal reads the same");
    assert_eq!(remote.served.asked(), Vec::<String>::new());
    for path in ["/v1/status", "/v1/openapi.json", "/metrics"] {
        let answer = remote.ask(path, &format!("authorization: bearer {TOKEN}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_where_commands_go() {
    let remote = start().await;
    let url = format!("https://{}", remote.address);
    let fingerprint = remote.fingerprint.to_string();
    // Another fleet's fingerprint: the token is not even sent.
    let other = Fingerprint([9; 32]).to_string();
    insta::assert_snapshot!(remote.command(&["login", &url, "--ca-fingerprint", &other]).await);
    let mistyped = remote.command(&["login", &url, "--ca-fingerprint", "sha256:12"]).await;
    assert!(mistyped.contains("--ca-fingerprint: ") && mistyped.ends_with("exit status: 2"), "{mistyped}");
    insta::assert_snapshot!(remote.command(&["login", &url, "--ca-fingerprint", &fingerprint]).await);
    insta::assert_snapshot!(remote.command(&["status"]).await);
    insta::assert_snapshot!(remote.command(&["run", "-t", "ship*", "--", "uptime"]).await);
}

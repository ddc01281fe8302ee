//! A simulated agent's place in the fleet: its key, and the certificates that the hub gave it.

use std::sync::Arc;

use anyhow::bail;
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use mainstay_core::frame::{Enrol, Enrolment, Facts, Frame};
use mainstay_core::id::{JournalId, NodeName};
use mainstay_core::join_token::JoinToken;
use mainstay_core::time::Timestamp;
use mainstay_link::chain::{Fingerprint, FleetCa, Trust};
use mainstay_link::dialer::TlsDialer;
use mainstay_link::limits::Limits;
use mainstay_link::tls::Credentials;

pub struct Member {
    pub number: usize,
    pub name: NodeName,
    pub key: SigningKey,
    pub journal: JournalId,
    pub chain: Vec<Bytes>,
    pub ca: FleetCa,
    pub hub: String,
}

impl Member {
    pub async fn join(number: usize, token: &JoinToken) -> anyhow::Result<Self> {
        let key = SigningKey::from_bytes(&random()?);
        let journal = JournalId::new(now(), random()?);
        let hub = token.hubs[0].clone();
        let credentials = Credentials::self_signed(key.clone())?;
        let trust = Trust::Fingerprint(Fingerprint(token.ca));
        let dialer = TlsDialer::new(&credentials, trust, Limits::default(), Arc::default())?;
        let mut dialled = dialer.dial(&hub).await?;
        let enrol = Enrol {
            name: format!("sim{number}").parse()?,
            secret: Some(token.secret.expose().to_owned()),
            facts: Box::new(facts(number)),
            version: env!("CARGO_PKG_VERSION").into(),
            journal,
        };
        dialled.link.sender.send(&Frame::Enrol(Box::new(enrol))).await?;
        match dialled.link.receiver.recv().await? {
            Some(Frame::Enrolment(answer)) => match *answer {
                Enrolment::Joined { name, chain, .. } => {
                    Ok(Self { number, name, key, journal, chain, ca: dialled.ca, hub })
                }
                other => bail!("sim{number} was not taken: {other:?}"),
            },
            other => bail!("sim{number} got no answer but {other:?}"),
        }
    }
}

/// As much as a real agent tells.
pub fn facts(number: usize) -> Facts {
    Facts {
        os: "debian".into(),
        family: "debian".into(),
        os_version: "12".into(),
        kernel: "6.1.0".into(),
        arch: "x86_64".into(),
        hostname: format!("sim{number}"),
        cpus: 4,
        memory_bytes: 8 << 30,
        addresses: vec!["192.0.2.1".into()],
        version: env!("CARGO_PKG_VERSION").into(),
        labels: [("role".to_owned(), "simulated".to_owned())].into(),
    }
}

pub fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    Ok(bytes)
}

pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

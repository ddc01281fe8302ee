//! How an agent joins a fleet: with a token, or by waiting until an operator accepts its key.

use std::path::Path;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use mainstay_core::backoff::Backoff;
use mainstay_core::frame::{Enrol, Enrolment, Facts, Frame, Goodbye};
use mainstay_core::id::{JournalId, KeyId, NodeName};
use mainstay_link::chain::{FleetCa, Trust};
use mainstay_link::dialer::{DialError, TlsDialer};
use mainstay_link::limits::{Limits, LinkCounters};
use mainstay_link::link::LinkError;
use mainstay_link::tls::{Credentials, TlsError};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::dial::chance;
use crate::identity::{self, IdentityError, Membership};

const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What an agent brings to the door.
pub struct Applicant<'a> {
    pub data: &'a Path,
    pub key: SigningKey,
    pub name: NodeName,
    pub facts: Facts,
    pub version: String,
    pub journal: JournalId,
    /// Addresses of hubs, tried in turn.
    pub hubs: Vec<String>,
    /// The CA's fingerprint, from the token or the operator: without it nobody could tell a false hub.
    pub trust: Trust,
    pub secret: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("the hub does not let this node join: {0}")]
    Refused(String),
    #[error("no hub's address is known: give --join TOKEN, or --link ADDRESS and --ca FINGERPRINT")]
    NoAddress,
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("what the hub gave does not make this node a member: {0}")]
    BadCertificate(String),
    #[error("stopped before it joined")]
    Stopped,
}

#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the hub closed the link without an answer")]
    NoAnswer,
    #[error("the hub said goodbye: {0:?}")]
    Goodbye(Goodbye),
}

/// Asks until it is a member, is refused, or the program stops. The membership is on disk when this returns.
pub async fn join(applicant: &Applicant<'_>, stop: &CancellationToken) -> Result<Membership, JoinError> {
    let credentials = Credentials::self_signed(applicant.key.clone())?;
    let counters = std::sync::Arc::<LinkCounters>::default();
    let dialer = TlsDialer::new(&credentials, applicant.trust.clone(), Limits::default(), counters)?;
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    let mut said_waiting = false;
    for turn in 0_usize.. {
        let address = applicant.hubs.get(turn % applicant.hubs.len().max(1)).ok_or(JoinError::NoAddress)?;
        let answer = tokio::select! {
            () = stop.cancelled() => return Err(JoinError::Stopped),
            answer = ask(&dialer, address, applicant) => answer,
        };
        let wait = match answer {
            Ok((Enrolment::Joined { chain, ca, name, .. }, presented)) => {
                check(applicant, &chain, &ca, &presented)?;
                identity::save_membership(applicant.data, &chain, &ca)?;
                info!(%name, "joined the fleet");
                return identity::load_membership(applicant.data, &applicant.key)?
                    .ok_or_else(|| JoinError::BadCertificate("it is not there after writing it".into()));
            }
            Ok((Enrolment::Refused { reason }, _)) => return Err(JoinError::Refused(reason)),
            Ok((Enrolment::Waiting { retry_ms }, _)) => {
                if !said_waiting {
                    let key = KeyId::from_bytes(applicant.key.verifying_key().to_bytes());
                    warn!(
                        "waiting to be accepted; on the hub: mainstay nodes accept {}   (this node's key is {key})",
                        applicant.name
                    );
                    said_waiting = true;
                }
                Duration::from_millis(retry_ms.clamp(200, 60_000))
            }
            Err(error) => {
                info!(%address, "cannot join yet: {error}");
                backoff.next(chance())
            }
        };
        tokio::select! {
            () = stop.cancelled() => return Err(JoinError::Stopped),
            () = tokio::time::sleep(wait) => {}
        }
    }
    Err(JoinError::NoAddress)
}

async fn ask(
    dialer: &TlsDialer,
    address: &str,
    applicant: &Applicant<'_>,
) -> Result<(Enrolment, FleetCa), AttemptError> {
    let mut dialled = dialer.dial(address).await?;
    let enrol = Enrol {
        name: applicant.name.clone(),
        secret: applicant.secret.clone(),
        facts: Box::new(applicant.facts.clone()),
        version: applicant.version.clone(),
        journal: applicant.journal,
    };
    dialled.link.sender.send(&Frame::Enrol(Box::new(enrol))).await?;
    match dialled.link.receiver.recv().await? {
        Some(Frame::Enrolment(answer)) => Ok((*answer, dialled.ca)),
        Some(Frame::Goodbye(why)) => Err(AttemptError::Goodbye(why)),
        _ => Err(AttemptError::NoAnswer),
    }
}

/// The certificate must be of this key, and of the very fleet whose CA the hub has just proven.
fn check(
    applicant: &Applicant<'_>,
    chain: &[bytes::Bytes],
    ca: &bytes::Bytes,
    presented: &FleetCa,
) -> Result<(), JoinError> {
    if ca != presented.der() {
        return Err(JoinError::BadCertificate("it names another CA than the hub's own".into()));
    }
    let identity = presented.verify(chain).map_err(|error| JoinError::BadCertificate(error.to_string()))?;
    if identity.key.as_bytes() != applicant.key.verifying_key().as_bytes() {
        return Err(JoinError::BadCertificate("it is of another key".into()));
    }
    Ok(())
}

//! The signed envelope: what travels, is stored, and outlives versions.
//!
//! An envelope is the body's bytes and signatures over exactly those bytes, never over a re-encoding.
//! The body is MessagePack with field names: fields can be added and left out in both directions, and a
//! field that must be understood is named in `crit`. Every version once released stays decodable.

use bytes::Bytes;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::id::{KeyId, MessageId, RunId};
use crate::outcome::{Outcome, Rejection};
use crate::seal::Sealed;
use crate::time::Timestamp;

/// The newest body version that this code writes and reads.
pub const VERSION: u8 = 1;

/// Put before the body's bytes when signing, so that no signature made for another purpose fits.
const DOMAIN: &[u8] = b"mainstay-envelope-v1\0";

/// The critical fields that this code understands. `fence` and `order` are reserved from version 1 and not among them:
/// whoever marks one as critical counts on it being obeyed, and nothing here would.
const UNDERSTOOD: [&str; 1] = ["sealed"];

/// No message lives longer, so that what must be remembered against replays is bounded.
pub const MAX_LIFETIME: std::time::Duration = std::time::Duration::from_secs(30 * 24 * 3600);

/// Most signatures an envelope may carry: the sender's, and room for an operator's and a relay's.
const MAX_SIGNATURES: usize = 4;

/// Body bytes and the signatures over them, as they travel and are stored.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Envelope {
    #[serde(rename = "b")]
    pub body: Bytes,
    #[serde(rename = "s")]
    pub signatures: Vec<Signed>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Signed {
    #[serde(rename = "k")]
    pub key: KeyId,
    #[serde(rename = "g", with = "serde_bytes")]
    pub signature: [u8; 64],
}

/// Whom a body is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// The node with this key, wherever it is.
    Node(KeyId),
    /// The hub role: any hub that holds a grant. Answers to a run go there, since another hub may have
    /// taken the run over.
    Hubs,
}

/// What is signed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Body {
    pub v: u8,
    /// Names of fields that a receiver must understand or else refuse the whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub crit: Vec<String>,
    /// This envelope's own id; unique together with `from`.
    pub id: MessageId,
    /// The signer's key.
    pub from: KeyId,
    pub to: Audience,
    pub issued: Timestamp,
    /// When it must have started; `None` for what never expires (answers).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// What an operator asked, as bytes that the operator's own key can sign. Reserved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Bytes>,
    /// A fencing number of the lease under which this was sent. Reserved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<u64>,
    pub payload: Payload,
}

/// The kinds of body. Names are stable.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    /// A message that names a method.
    Request(Request),
    /// The receiver's own word on a request or on an end that reached it through a relay.
    Receipt(Receipt),
    /// A piece of a request's output.
    Output(Output),
    /// The end of a request.
    End(End),
    /// The origin takes a request back.
    Cancel(Cancel),
}

/// What a receiver shall do. Durations are in milliseconds.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Request {
    pub method: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// The message's data; for `cmd` with `script`, the script.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub data: Bytes,
    /// False makes it an event: not acknowledged, not answered.
    pub command: bool,
    /// It may be run again when its node went down while it ran.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub idempotent: bool,
    /// How long the method may run; `None` means for as long as it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Most bytes of output, all streams together, that are kept. The rest is read, counted and dropped.
    pub output_limit: u64,
    /// Send output while it comes rather than with the end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
    /// Environment, working directory, user and stdin, sealed to the receiver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<Sealed>,
    /// The run it belongs to, if any: then answers go to the hub role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// The operator who asked, for the receiver's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
}

/// A signed acknowledgement, for an origin that is not at the other end of the link.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Receipt {
    pub re: MessageId,
    /// `None`: it is on this node's disk. Otherwise why it never will be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Rejection>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    Stdout,
    Stderr,
}

/// One piece of output. `seq` counts from 1 over both streams of a request.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Output {
    /// The request's origin is this body's audience; `re` is its id.
    pub re: MessageId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    pub piece: Piece,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Piece {
    pub seq: u64,
    pub stream: Stream,
    pub data: Bytes,
}

/// The end of a request, and the output that had not been sent before it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct End {
    pub re: MessageId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    pub outcome: Outcome,
    /// The last piece's number, 0 if there is no output: whoever has all up to it has everything.
    pub last_seq: u64,
    /// The last pieces, when they were small enough to travel with the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tail: Vec<Piece>,
    /// When it started; `None` if it never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    pub ended: Timestamp,
    /// Bytes that each stream gave, those cut off included.
    pub stdout_bytes: u64,
    pub stderr_bytes: u64,
    /// Some output was dropped because of `output_limit`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Cancel {
    pub re: MessageId,
    /// The run that the message belongs to, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
}

/// An envelope whose bytes were checked: its signature is its sender's.
#[derive(Clone, PartialEq, Debug)]
pub struct Verified {
    pub envelope: Envelope,
    pub body: Body,
}

#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    #[error("an envelope that cannot be decoded: {0}")]
    Malformed(String),
    #[error("the body is of version {0}; this node understands up to {VERSION}")]
    Version(u8),
    #[error("the field {0:?} must be understood, and is not")]
    Critical(String),
    #[error("the signature does not verify")]
    Signature,
}

impl EnvelopeError {
    /// What the sender is told.
    pub fn rejection(&self) -> Rejection {
        match self {
            Self::Malformed(_) | Self::Signature => Rejection::BadSignature,
            Self::Version(_) | Self::Critical(_) => Rejection::NotUnderstood(self.to_string()).plain(),
        }
    }
}

/// Signs bodies with a node's key.
#[derive(Clone)]
pub struct Signer {
    key: SigningKey,
    id: KeyId,
}

impl Signer {
    pub fn new(key: SigningKey) -> Self {
        let id = KeyId::from_bytes(key.verifying_key().to_bytes());
        Self { key, id }
    }

    pub fn id(&self) -> KeyId {
        self.id
    }

    pub fn signing_key(&self) -> &SigningKey {
        &self.key
    }

    /// Encodes and signs. The body's `from` must be this signer.
    pub fn seal(&self, body: &Body) -> Envelope {
        debug_assert_eq!(body.from, self.id);
        let bytes = rmp_serde::to_vec_named(body).expect("a body holds nothing that MessagePack cannot");
        let signature = self.key.sign(&domain_separated(&bytes)).to_bytes();
        Envelope { body: bytes.into(), signatures: vec![Signed { key: self.id, signature }] }
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({})", self.id.short())
    }
}

fn domain_separated(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(DOMAIN.len() + body.len());
    bytes.extend_from_slice(DOMAIN);
    bytes.extend_from_slice(body);
    bytes
}

impl Envelope {
    pub fn encode(&self) -> Bytes {
        rmp_serde::to_vec_named(self).expect("an envelope holds nothing that MessagePack cannot").into()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let envelope: Self =
            crate::encoding::decode(bytes).map_err(|e| EnvelopeError::Malformed(e.to_string()))?;
        if envelope.signatures.is_empty() || envelope.signatures.len() > MAX_SIGNATURES {
            return Err(EnvelopeError::Signature);
        }
        Ok(envelope)
    }

    /// The digest that the duplicate check compares: of the body's bytes, not of the signatures.
    pub fn digest(&self) -> [u8; 16] {
        let mut digest = [0; 16];
        digest.copy_from_slice(&blake3::hash(&self.body).as_bytes()[..16]);
        digest
    }

    /// Decodes the body without checking any signature: for bytes from this node's own journal.
    pub fn trusted_body(&self) -> Result<Body, EnvelopeError> {
        #[derive(Deserialize)]
        struct Head {
            v: u8,
            #[serde(default)]
            crit: Vec<String>,
        }
        let malformed = |e: rmp_serde::decode::Error| EnvelopeError::Malformed(e.to_string());
        // The head first: what cannot be understood need not be decodable.
        let head: Head = crate::encoding::decode(&self.body).map_err(malformed)?;
        if head.v == 0 || head.v > VERSION {
            return Err(EnvelopeError::Version(head.v));
        }
        if let Some(unknown) = head.crit.iter().find(|name| !UNDERSTOOD.contains(&name.as_str())) {
            return Err(EnvelopeError::Critical(unknown.clone()));
        }
        crate::encoding::decode(&self.body).map_err(malformed)
    }

    /// Checks that the body's `from` signed exactly these bytes, and decodes them.
    pub fn verify(self) -> Result<Verified, EnvelopeError> {
        let body = self.trusted_body()?;
        let signed =
            self.signatures.iter().find(|signed| signed.key == body.from).ok_or(EnvelopeError::Signature)?;
        let key = VerifyingKey::from_bytes(signed.key.as_bytes()).map_err(|_| EnvelopeError::Signature)?;
        key.verify_strict(&domain_separated(&self.body), &Signature::from_bytes(&signed.signature))
            .map_err(|_| EnvelopeError::Signature)?;
        Ok(Verified { envelope: self, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Exit;

    fn signer(seed: u8) -> Signer {
        Signer::new(SigningKey::from_bytes(&[seed; 32]))
    }

    fn body(from: &Signer) -> Body {
        let id = MessageId::new(Timestamp::from_millis(1), [0; 10]);
        Body {
            v: VERSION,
            crit: vec![],
            id,
            from: from.id(),
            to: Audience::Hubs,
            issued: Timestamp::from_millis(1),
            expires: None,
            order: None,
            fence: None,
            payload: Payload::End(End {
                re: id,
                run: None,
                outcome: Outcome::Finished(Exit::Code(0)),
                last_seq: 0,
                tail: vec![],
                started: None,
                ended: Timestamp::from_millis(2),
                stdout_bytes: 0,
                stderr_bytes: 0,
                truncated: false,
            }),
        }
    }

    #[test]
    fn what_was_signed_is_what_is_read() {
        let body = body(&signer(1));
        let bytes = signer(1).seal(&body).encode();
        let read = Envelope::decode(&bytes).unwrap().verify().unwrap();
        assert_eq!(read.body, body);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = signer(1).seal(&body(&signer(1))).encode();
        for at in 0..bytes.len() {
            let mut broken = bytes.to_vec();
            broken[at] ^= 1;
            let outcome = Envelope::decode(&broken).and_then(Envelope::verify);
            assert!(outcome.is_err(), "bit 0 of byte {at}");
        }
    }

    #[test]
    fn a_signature_by_another_key_does_not_count() {
        let mut envelope = signer(1).seal(&body(&signer(1)));
        envelope.signatures = signer(2).seal(&body(&signer(2))).signatures;
        assert!(matches!(envelope.verify(), Err(EnvelopeError::Signature)));
    }

    #[test]
    fn newer_versions_and_unknown_critical_fields_are_refused_by_name() {
        let mut newer = body(&signer(1));
        newer.v = VERSION + 1;
        assert!(matches!(signer(1).seal(&newer).verify(), Err(EnvelopeError::Version(2))));
        for field in ["quorum", "fence", "order"] {
            let mut critical = body(&signer(1));
            critical.crit = vec!["sealed".into(), field.into()];
            assert!(
                matches!(signer(1).seal(&critical).verify(), Err(EnvelopeError::Critical(name)) if name == field)
            );
        }
    }
}

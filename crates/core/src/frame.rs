//! Frames: what goes over one link, hop by hop.
//!
//! A frame is MessagePack, length-prefixed on byte streams, at most [`MAX_FRAME`] bytes. Versions and
//! capabilities are agreed in the hello and hold for this link only; what must outlive links is in the
//! envelopes that frames carry.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::{JournalId, KeyId, MessageId, NodeName};
use crate::outcome::Rejection;
use crate::time::Timestamp;

/// The largest frame, in bytes. Output pieces and trust entries are cut to stay well below it.
pub const MAX_FRAME: usize = 1 << 20;

/// The largest envelope, in bytes. A relay adds the sender's certificates, and the frame around it may be encoded at
/// greater length than it came: what one hop could just carry, the next one must be able to carry too.
pub const MAX_ENVELOPE: usize = MAX_FRAME - (64 << 10);

/// Most bytes of certificates that travel with an envelope: chains of ours are below 2 KiB.
pub const MAX_CHAIN_BYTES: usize = 32 << 10;

/// The newest link protocol this code speaks; it also speaks the one before, if there was one.
pub const PROTOCOL: u16 = 1;
pub const OLDEST_PROTOCOL: u16 = 1;

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Frame {
    /// The first frame of both sides.
    Hello(Box<Hello>),
    /// The last frame: why the sender closes the link.
    Goodbye(Goodbye),
    /// Entries of the trust log that the receiver lacks, in order.
    Trust(Vec<Bytes>),
    /// A signed envelope.
    Data(Data),
    /// Verdicts on envelopes, many at once.
    Ack(Vec<Ack>),
    /// A probe; answered with the same number.
    Ping(u64),
    Pong(u64),
    /// A node without a certificate asks to join.
    Enrol(Box<Enrol>),
    /// The answer to [`Frame::Enrol`].
    Enrolment(Box<Enrolment>),
    /// A node asks which keys stand behind these names.
    Resolve(Resolve),
    /// The answer: the names it asked for that this fleet has, with their keys.
    Resolved(Resolved),
    /// What changed about the sender since its hello.
    Facts(Box<Facts>),
    /// How many messages the sender's journal has accepted by now, as in its hello.
    Mark(u64),
}

/// See [`Frame::Resolve`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Resolve {
    /// Chosen by whoever asks; the answer has the same.
    pub number: u64,
    pub names: Vec<NodeName>,
}

/// See [`Frame::Resolved`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Resolved {
    pub number: u64,
    pub found: Vec<(NodeName, KeyId)>,
}

/// Who the sender is and where it stands. The key comes from the link's own authentication, never from here.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// The oldest and newest protocol that the sender speaks; the link uses the newest common one.
    pub protocols: (u16, u16),
    /// Optional abilities by name; unknown ones are ignored.
    #[serde(default)]
    pub capabilities: Vec<String>,
    pub name: NodeName,
    /// The program's version, for people.
    pub version: String,
    /// The sender's fleet time. Only a hub's is believed.
    pub now: Timestamp,
    /// How many entries of the trust log the sender has, and the hash of the last (zeroes if none).
    pub trust_length: u64,
    #[serde(with = "serde_bytes")]
    pub trust_head: [u8; 32],
    pub journal: JournalId,
    /// How many messages this journal has accepted over its life; never less than it was.
    pub mark: u64,
    #[serde(default)]
    pub facts: Option<Box<Facts>>,
}

/// What is known of a machine. Also what target expressions and templates can ask for.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// The distribution: `debian`, `ubuntu`, `rocky` …; where there are none, the system: `macos` …
    pub os: String,
    /// What the distribution descends from: `debian`, `rhel`, `alpine` …
    pub family: String,
    pub os_version: String,
    pub kernel: String,
    pub arch: String,
    pub hostname: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    pub addresses: Vec<String>,
    /// The agent's own version.
    pub version: String,
    /// Labels from the node's own configuration.
    pub labels: std::collections::BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goodbye {
    /// The sender stops or restarts; come back.
    Stopping,
    /// This key was revoked or removed; do not come back.
    Revoked,
    /// The protocols do not overlap.
    Protocol { protocols: (u16, u16) },
    /// The trust logs contradict each other.
    TrustForked,
    /// The node must be accepted (first join, or its journal stepped back); try again later.
    Waiting { reason: String },
    /// A newer link of the same node took its place.
    Replaced,
    /// The peer broke the protocol.
    Violation { what: String },
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Data {
    /// An encoded [`crate::envelope::Envelope`].
    pub envelope: Bytes,
    /// The signer's certificate chain (DER, leaf first) when a relay passes on what another node signed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<Bytes>,
}

impl Data {
    /// Whether every hop can carry it.
    pub fn is_too_large(&self) -> bool {
        let chain: usize = self.chain.iter().map(Bytes::len).sum();
        self.envelope.len() > MAX_ENVELOPE || chain > MAX_CHAIN_BYTES
    }
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Ack {
    /// The envelope's own id.
    pub id: MessageId,
    pub verdict: Verdict,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// A relay has it on disk and will pass it on. The origin keeps its own copy.
    Held,
    /// The audience itself has it on disk, or has dealt with it. Releases the sender's copy.
    Accepted,
    /// The sender of this verdict will never take it.
    Refused(Rejection),
    /// Not now: a queue or a disk is full. Nothing was kept; try again later.
    Busy { reason: String, retry_ms: u64 },
}

/// A request to join, from a node that the link knows only by the key it proved to hold.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Enrol {
    /// The name it would like; the token or the operator may give it another.
    pub name: NodeName,
    /// The join token's secret, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    pub facts: Box<Facts>,
    pub version: String,
    pub journal: JournalId,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Enrolment {
    /// It is a node of the fleet now: its name, its certificate chain (DER, leaf first), the fleet's CA.
    Joined { name: NodeName, chain: Vec<Bytes>, ca: Bytes, now: Timestamp },
    /// An operator must accept it; ask again after this many milliseconds.
    Waiting { retry_ms: u64 },
    /// It will not be taken: why, in words for the person who reads the agent's log.
    Refused { reason: String },
}

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a frame that cannot be decoded: {0}")]
    Malformed(String),
    #[error("a frame of {0} bytes; at most {MAX_FRAME} are allowed")]
    TooLarge(usize),
}

impl Frame {
    pub fn encode(&self) -> Result<Bytes, FrameError> {
        let bytes = rmp_serde::to_vec_named(self).expect("a frame holds nothing that MessagePack cannot");
        if bytes.len() > MAX_FRAME {
            return Err(FrameError::TooLarge(bytes.len()));
        }
        Ok(bytes.into())
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        if bytes.len() > MAX_FRAME {
            return Err(FrameError::TooLarge(bytes.len()));
        }
        crate::encoding::decode(bytes).map_err(|e| FrameError::Malformed(e.to_string()))
    }
}

/// The protocol to speak with a peer that speaks `theirs`, if there is one.
pub fn common_protocol(theirs: (u16, u16)) -> Option<u16> {
    let newest = PROTOCOL.min(theirs.1);
    (newest >= OLDEST_PROTOCOL.max(theirs.0)).then_some(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_read_back() {
        for frame in [
            Frame::Ping(7),
            Frame::Goodbye(Goodbye::Revoked),
            Frame::Ack(vec![Ack {
                id: MessageId::from_bytes([1; 16]),
                verdict: Verdict::Busy { reason: "disk full".into(), retry_ms: 500 },
            }]),
            Frame::Data(Data { envelope: Bytes::from_static(b"x"), chain: vec![] }),
        ] {
            assert_eq!(Frame::decode(&frame.encode().unwrap()).unwrap(), frame);
        }
    }

    #[test]
    fn two_adjacent_protocols_have_one_in_common() {
        assert_eq!(common_protocol((1, 1)), Some(1));
        assert_eq!(common_protocol((1, 2)), Some(1));
        assert_eq!(common_protocol((2, 3)), None);
    }
}

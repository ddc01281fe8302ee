//! How messages end. Every accepted message ends in exactly one [`Outcome`].

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest reason that is kept of what another node says, in bytes. Ours are a line.
const MAX_REASON: usize = 2048;

/// A reason in another's words, made fit to be stored, logged and shown: one line, of bounded length.
fn plain(reason: String) -> String {
    if reason.len() <= MAX_REASON && !reason.contains(char::is_control) {
        return reason;
    }
    let mut plain = String::new();
    for c in reason.chars() {
        if plain.len() + c.len_utf8() > MAX_REASON {
            plain.push('…');
            break;
        }
        plain.push(if c.is_control() { ' ' } else { c });
    }
    plain
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// Its exit code, 0 to 255.
    Code(i32),
    /// The number of the signal that killed it.
    Signal(i32),
}

/// The one end of a message. The names are stable: they stand in journals, logs and JSON.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The method ran to its end. For `cmd` that is the process's exit, whatever its code.
    Finished(Exit),
    /// The method could not do its work (the program does not exist, the directory is not there …).
    Failed(String),
    /// It ran longer than its own timeout and was killed as a whole.
    TimedOut,
    /// It had started when its node went down; whether it did its work is not known. Never run again
    /// unless the message said `idempotent`.
    Interrupted,
    /// The receiver refused it.
    Rejected(Rejection),
    /// Its time ran out before it started.
    Expired,
    /// It could not be handed to its receiver in the attempts or the time that it was given.
    Undeliverable(String),
    /// An operator took it back.
    Cancelled,
    /// Its node was removed after accepting it.
    Lost,
    /// An event was sent; nothing more is known of it, and nothing more was asked.
    Sent,
}

impl Outcome {
    /// The stable word for this outcome, as in `--json`, metrics and the journal.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Finished(_) => "finished",
            Self::Failed(_) => "failed",
            Self::TimedOut => "timed_out",
            Self::Interrupted => "interrupted",
            Self::Rejected(_) => "rejected",
            Self::Expired => "expired",
            Self::Undeliverable(_) => "undeliverable",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
            Self::Sent => "sent",
        }
    }

    /// The same with its reason in one line of bounded length: for whatever another node said.
    #[must_use]
    pub fn plain(self) -> Self {
        match self {
            Self::Failed(reason) => Self::Failed(plain(reason)),
            Self::Undeliverable(reason) => Self::Undeliverable(plain(reason)),
            Self::Rejected(why) => Self::Rejected(why.plain()),
            other => other,
        }
    }

    /// What a refusal by the receiver means for the message.
    pub fn of_refusal(why: Rejection) -> Self {
        match why {
            Rejection::Expired => Self::Expired,
            why => Self::Rejected(why),
        }
    }

    /// Whether this is what the sender hoped for: exit code 0, or an event that was sent.
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Finished(Exit::Code(0)) | Self::Sent)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished(Exit::Code(code)) => write!(f, "exit {code}"),
            Self::Finished(Exit::Signal(signal)) => write!(f, "killed by signal {signal}"),
            Self::Failed(reason) => write!(f, "failed: {reason}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Interrupted => f.write_str("interrupted: its node went down while it ran"),
            Self::Rejected(why) => write!(f, "rejected: {why}"),
            Self::Expired => f.write_str("expired before it started"),
            Self::Undeliverable(reason) => write!(f, "undeliverable: {reason}"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::Lost => f.write_str("lost: its node was removed"),
            Self::Sent => f.write_str("sent"),
        }
    }
}

/// Why a receiver refused a message for good. Being busy is not among them: see [`crate::frame::Verdict`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    /// The signature does not fit the bytes, or the signer is not who the link says.
    BadSignature,
    /// It is addressed to another key.
    WrongAudience,
    /// Its version, or a field that it marks as critical, is not understood here.
    NotUnderstood(String),
    /// The id was used before, for other bytes.
    IdReused,
    /// No rule allows the sender this method.
    Denied,
    UnknownMethod(String),
    BadArguments(String),
    /// No node has this key or name, or it was revoked or removed.
    UnknownNode,
    /// Its lifetime is longer than the 30 days allowed.
    LivesTooLong,
    /// It is larger than the receiver takes.
    TooLarge,
    /// It reached the receiver after its time. The origin ends it as `expired`.
    Expired,
}

impl Rejection {
    /// The same with its words in one line of bounded length. They may be another's in both directions: what
    /// somebody sent, said back to them.
    #[must_use]
    pub fn plain(self) -> Self {
        match self {
            Self::NotUnderstood(what) => Self::NotUnderstood(plain(what)),
            Self::UnknownMethod(name) => Self::UnknownMethod(plain(name)),
            Self::BadArguments(why) => Self::BadArguments(plain(why)),
            other => other,
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadSignature => f.write_str("its signature does not verify"),
            Self::WrongAudience => f.write_str("it is addressed to another node"),
            Self::NotUnderstood(what) => write!(f, "not understood: {what}"),
            Self::IdReused => f.write_str("its id was used before for another message"),
            Self::Denied => f.write_str("no rule on the node allows its sender this method"),
            Self::UnknownMethod(name) => write!(f, "unknown method {name:?}"),
            Self::BadArguments(why) => write!(f, "bad arguments: {why}"),
            Self::UnknownNode => f.write_str("no such node in this fleet"),
            Self::LivesTooLong => f.write_str("it would live longer than 30 days"),
            Self::TooLarge => f.write_str("it is too large"),
            Self::Expired => f.write_str("it came after its time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_is_cut_to_one_harmless_line() {
        let hostile = format!("no\n2026-01-01 INFO forged \u{1b}[2J{}", "é".repeat(1 << 20));
        let Outcome::Failed(reason) = Outcome::Failed(hostile.clone()).plain() else { panic!() };
        assert!(reason.len() <= MAX_REASON + '…'.len_utf8() && reason.starts_with("no 2026"));
        assert!(!reason.contains(char::is_control));
        let Rejection::UnknownMethod(name) = Rejection::UnknownMethod(hostile).plain() else { panic!() };
        assert_eq!(name, reason);
        assert_eq!(Outcome::Failed("it is gone".into()).plain(), Outcome::Failed("it is gone".into()));
    }

    #[test]
    fn yesterdays_bytes_still_read() {
        // Written by version 1. Never change these; add new cases beside them.
        for (bytes, outcome) in [
            (&b"\x81\xa8finished\x81\xa4code\x00"[..], Outcome::Finished(Exit::Code(0))),
            (&b"\x81\xa8finished\x81\xa6signal\x09"[..], Outcome::Finished(Exit::Signal(9))),
            (&b"\xa9timed_out"[..], Outcome::TimedOut),
            (&b"\x81\xa8rejected\xa6denied"[..], Outcome::Rejected(Rejection::Denied)),
            (&b"\x81\xa6failed\xa1x"[..], Outcome::Failed("x".into())),
        ] {
            assert_eq!(rmp_serde::from_slice::<Outcome>(bytes).unwrap(), outcome);
            assert_eq!(rmp_serde::to_vec_named(&outcome).unwrap(), bytes);
        }
    }
}

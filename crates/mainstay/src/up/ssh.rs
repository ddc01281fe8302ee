//! A machine without an agent, reached by ssh: this program's own copy works there.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use mainstay_core::state::Values;
use mainstay_core::state::session::{Ask, Tell};
use mainstay_link::ssh::{Binaries, SshError, SshHost, SshLink};

use super::machine::{Aside, Machine, Way};
use crate::remote::talk::{Order, Word};
use mainstay_core::causes::with_causes;

pub struct SshWay {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub vars: Values,
    pub host: SshHost,
    pub binaries: Arc<Binaries>,
}

/// A connection, and the talk of [`crate::remote`] over it.
pub struct SshTalk(SshLink);

impl SshTalk {
    pub async fn open(host: &SshHost, binaries: &Binaries) -> Result<Self, SshError> {
        SshLink::connect(host, binaries).await.map(Self)
    }

    pub async fn order(&mut self, order: &Order) -> Result<(), SshError> {
        let message = rmp_serde::to_vec_named(order).expect("an order is maps, lists, texts and bytes");
        self.0.send(&message).await
    }

    /// What comes next. Safe to cancel.
    pub async fn word(&mut self) -> Result<Word, SshError> {
        let message = self.0.receive().await?;
        rmp_serde::from_slice(&message).map_err(|error| SshError::Speech(error.to_string()))
    }

    /// Says goodbye, so that what was started to stay stays.
    pub async fn bye(mut self) {
        if self.order(&Order::Bye).await.is_ok() {
            self.0.close().await;
        }
    }
}

/// Why a machine is not reached.
pub fn unreachable(error: &SshError) -> Aside {
    Aside::Unreachable { message: with_causes(error), hints: error.hints() }
}

fn lost(error: SshError) -> Aside {
    match error {
        SshError::Lost { said } if said.is_empty() => Aside::Lost("ssh has ended without a word".into()),
        SshError::Lost { said } => Aside::Lost(said),
        other => Aside::Lost(with_causes(&other)),
    }
}

#[async_trait]
impl Way for SshWay {
    fn name(&self) -> &str {
        &self.name
    }

    fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    fn vars(&self) -> &Values {
        &self.vars
    }

    async fn connect(&self) -> Result<Box<dyn Machine>, Aside> {
        let mut talk =
            SshTalk::open(&self.host, &self.binaries).await.map_err(|error| unreachable(&error))?;
        talk.order(&Order::Open).await.map_err(|error| unreachable(&error))?;
        Ok(Box::new(SshMachine(talk)))
    }

    fn is_costly(&self) -> bool {
        true
    }
}

struct SshMachine(SshTalk);

#[async_trait]
impl Machine for SshMachine {
    async fn send(&mut self, ask: Ask) -> Result<(), Aside> {
        self.0.order(&Order::Ask(ask)).await.map_err(lost)
    }

    async fn receive(&mut self) -> Result<Tell, Aside> {
        match self.0.word().await.map_err(lost)? {
            Word::Tell(tell) => Ok(tell),
            Word::Output { .. } | Word::Ended(_) => {
                Err(Aside::Problem("it answered what nobody asked".into()))
            }
        }
    }

    async fn close(self: Box<Self>) {
        self.0.bye().await;
    }
}

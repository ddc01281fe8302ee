//! What the two ends of an ssh connection say to each other. Both are the same program, perhaps of different versions:
//! fields may be added, as in every encoding here.

use std::time::Duration;

use bytes::Bytes;
use mainstay_core::outcome::Outcome;
use mainstay_core::state::session::{Ask, Tell};
use serde::{Deserialize, Serialize};

/// From the near side.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Open a talk with the engine; it begins with [`Tell::Hello`].
    Open,
    Ask(Ask),
    /// Run one command, instead of the talk.
    Run(Box<RunOrder>),
    /// Kill what [`Order::Run`] runs.
    Cancel,
    /// The other side ends as it wishes to: what is at its turn is ended, what was sent to the background stays.
    Bye,
}

/// To the near side.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    Tell(Tell),
    Output { stderr: bool, data: Bytes },
    Ended(RunEnd),
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct RunOrder {
    pub args: Vec<String>,
    pub script: Option<Bytes>,
    pub env: Vec<(String, String)>,
    pub cwd: Option<String>,
    pub user: Option<String>,
    pub stdin: Option<Bytes>,
    pub timeout: Option<Duration>,
    /// Send output while it comes.
    pub stream: bool,
    pub output_limit: u64,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RunEnd {
    pub outcome: Outcome,
    pub duration_ms: u64,
    pub stdout_bytes: u64,
    pub stderr_bytes: u64,
    pub truncated: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use mainstay_core::outcome::Exit;

    #[test]
    fn orders_and_words_survive_their_bytes() {
        let run = RunOrder {
            args: vec!["a".into()],
            stdin: Some(Bytes::from_static(&[0, 255])),
            timeout: Some(Duration::from_millis(1500)),
            ..RunOrder::default()
        };
        for order in [Order::Open, Order::Ask(Ask::Cancel), Order::Run(Box::new(run)), Order::Bye] {
            let bytes = rmp_serde::to_vec_named(&order).unwrap();
            assert_eq!(rmp_serde::from_slice::<Order>(&bytes).unwrap(), order);
        }
        let end = RunEnd {
            outcome: Outcome::Finished(Exit::Signal(9)),
            duration_ms: 1,
            stdout_bytes: 2,
            stderr_bytes: 3,
            truncated: true,
        };
        let output = Word::Output { stderr: true, data: Bytes::from_static(&[0xff, 0]) };
        for word in [Word::Tell(Tell::Turn { state: "a".into() }), output, Word::Ended(end)] {
            let bytes = rmp_serde::to_vec_named(&word).unwrap();
            assert_eq!(rmp_serde::from_slice::<Word>(&bytes).unwrap(), word);
        }
    }
}

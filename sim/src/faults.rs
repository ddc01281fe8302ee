//! What goes wrong: in the world, by chance; and in the program, planted, to see that it is found.

use crate::rng::Rng;

/// Mistakes of a program that a test must find. None of them is in the program: the simulated shell makes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Planted {
    /// The journal says that a batch is durable and does not sync.
    SkipSync,
    /// After a restart the node does not know what it has brought to an end.
    SkipDuplicateCheck,
    /// What a batch releases goes out before the batch is written.
    AcknowledgeBeforeWriting,
}

impl Planted {
    pub const ALL: [Self; 3] = [Self::SkipSync, Self::SkipDuplicateCheck, Self::AcknowledgeBeforeWriting];

    pub fn word(self) -> &'static str {
        match self {
            Self::SkipSync => "skip-sync",
            Self::SkipDuplicateCheck => "skip-duplicate-check",
            Self::AcknowledgeBeforeWriting => "acknowledge-before-writing",
        }
    }

    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|planted| planted.word() == word)
    }
}

/// One thing that goes wrong in the world. Spans are in microseconds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The node loses power, and has it again after this long.
    Crash { node: usize, away: u64 },
    /// One link breaks; each side notices in its own time.
    Cut { node: usize },
    /// Several nodes cannot reach the hub for a while.
    Partition { nodes: Vec<usize>, span: u64 },
    /// The node's disk takes no new work for a while.
    Full { node: usize, span: u64 },
    /// The node's disk takes this long for each commit, for a while.
    Slow { node: usize, latency: u64, span: u64 },
    /// A sync fails: the journal must be opened and read again.
    FailSync { node: usize },
    /// The node is thrown out of the fleet.
    Remove { node: usize },
}

const SECOND: u64 = 1_000_000;

/// Draws a fault. Node 0 is the hub: it fails as often as ten agents together, and is never removed.
pub fn draw(rng: &mut Rng, agents: usize) -> Fault {
    let node = match rng.below(agents as u64 + 10) as usize {
        n if n < agents => n + 1,
        _ => 0,
    };
    let agent = 1 + rng.below(agents as u64) as usize;
    match rng.below(100) {
        0..40 => {
            let away = match rng.below(3) {
                0 => rng.between(1000, SECOND),
                1 => rng.between(SECOND, 10 * SECOND),
                _ => rng.between(10 * SECOND, 60 * SECOND),
            };
            Fault::Crash { node, away }
        }
        40..65 => Fault::Cut { node: agent },
        65..73 => {
            let nodes = (1..=agents).filter(|_| rng.chance(300)).collect();
            Fault::Partition { nodes, span: rng.between(SECOND, 60 * SECOND) }
        }
        73..83 => Fault::Full { node, span: rng.between(SECOND, 30 * SECOND) },
        83..93 => {
            let latency = rng.between(20_000, SECOND);
            Fault::Slow { node, latency, span: rng.between(SECOND, 20 * SECOND) }
        }
        93..99 => Fault::FailSync { node },
        _ => Fault::Remove { node: agent },
    }
}

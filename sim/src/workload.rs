//! What the fleet is asked to do: messages in all directions, of all lengths, some of them taken back.

use std::time::Duration;

use bytes::Bytes;
use mainstay_core::delivery::Draft;
use mainstay_core::envelope::Request;
use mainstay_core::id::{KeyId, MessageId, NodeName};
use mainstay_core::outcome::{Exit, Outcome};
use mainstay_core::time::Timestamp;

use crate::rng::Rng;

/// What a simulated command does, written into its arguments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Work {
    pub ms: u64,
    pub chunks: u32,
    pub size: usize,
    pub exit: i32,
    /// Longer than it may take.
    pub times_out: bool,
}

impl Work {
    pub fn args(&self) -> Vec<String> {
        let numbers = [self.ms, u64::from(self.chunks), self.size as u64, self.exit as u64];
        numbers.iter().map(u64::to_string).collect()
    }

    pub fn of(request: &Request) -> Self {
        let number = |n: usize| request.args.get(n).and_then(|arg| arg.parse().ok()).unwrap_or(0);
        let ms = number(0);
        Self {
            ms,
            chunks: number(1) as u32,
            size: number(2) as usize,
            exit: number(3) as i32,
            times_out: request.timeout_ms.is_some_and(|limit| limit < ms),
        }
    }

    pub fn outcome(&self) -> Outcome {
        if self.times_out { Outcome::TimedOut } else { Outcome::Finished(Exit::Code(self.exit)) }
    }

    pub fn chunk(&self, number: u32) -> Bytes {
        vec![b'a' + (number % 26) as u8; self.size].into()
    }

    /// All that it writes, if it comes to its end.
    pub fn output(&self) -> Vec<u8> {
        (0..self.chunks).flat_map(|number| self.chunk(number)).collect()
    }
}

/// What is asked of one message.
#[derive(Clone, Debug)]
pub struct Order {
    pub from: usize,
    pub to: usize,
    pub method: &'static str,
    pub work: Work,
    pub command: bool,
    pub idempotent: bool,
    pub stream: bool,
    pub whole: bool,
    pub reply: bool,
    pub lifetime_ms: u64,
    /// Taken back after this long, in microseconds.
    pub withdraw_after: Option<u64>,
}

/// Node 0 is the hub.
pub fn draw(rng: &mut Rng, agents: usize) -> Order {
    let agent = |rng: &mut Rng| 1 + rng.below(agents as u64) as usize;
    let (from, to) = match rng.below(100) {
        0..50 => (0, agent(rng)),
        50..80 => (agent(rng), agent(rng)),
        80..95 => (agent(rng), 0),
        _ => {
            let n = agent(rng);
            (n, n)
        }
    };
    let method = match rng.below(100) {
        0..4 => "nosuch",
        4..8 => "secret",
        8..20 => "ping",
        _ => "cmd",
    };
    let (chunks, size) = match rng.below(10) {
        _ if method == "ping" => (0, 0),
        0..4 => (0, 0),
        4..9 => (rng.between(1, 6) as u32, rng.between(1, 400) as usize),
        _ => (rng.between(1, 5) as u32, rng.between(10_000, 40_000) as usize),
    };
    let ms = match rng.below(10) {
        _ if method == "ping" => 0,
        0..5 => rng.between(1, 50),
        5..9 => rng.between(50, 3_000),
        _ => rng.between(3_000, 30_000),
    };
    let times_out = rng.chance(50) && ms > 2;
    Order {
        from,
        to,
        method,
        work: Work { ms, chunks, size, exit: rng.below(3) as i32, times_out },
        command: rng.chance(920),
        idempotent: rng.chance(150),
        stream: rng.chance(400),
        whole: rng.chance(300),
        reply: rng.chance(800),
        lifetime_ms: if rng.chance(200) { rng.between(500, 60_000) } else { 3_600_000 },
        withdraw_after: rng.chance(80).then(|| rng.below(20_000_000)),
    }
}

impl Order {
    pub fn draft(&self, id: MessageId, now: Timestamp, to: KeyId, to_name: NodeName) -> Draft {
        Draft {
            id,
            to,
            to_name,
            request: Request {
                method: self.method.into(),
                args: self.work.args(),
                data: Bytes::new(),
                command: self.command,
                idempotent: self.idempotent,
                timeout_ms: self.work.times_out.then_some(self.work.ms / 2),
                output_limit: 256 << 10,
                stream: self.stream,
                sealed: None,
                run: None,
                operator: None,
            },
            expires: now + Duration::from_millis(self.lifetime_ms),
            attempts: None,
            reply: self.reply.then(|| Bytes::from_static(b"file")),
            reply_whole: self.whole,
        }
    }
}

//! A stream of pings with a fixed number outstanding, and how fast they come to their ends.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use mainstay_core::delivery::Draft;
use mainstay_core::envelope::Request;
use mainstay_core::id::{KeyId, MessageId, NodeName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::agent::{Handle, Order, Told};
use crate::member::{now, random};

/// Before it counts: connections are warm, files have grown.
const WARM_UP: Duration = Duration::from_secs(1);

/// Nothing came back for so long: something is broken.
const SILENCE: Duration = Duration::from_secs(20);

/// No message of a measurement lives longer.
const LIFETIME: Duration = Duration::from_secs(3600);

/// In so many parts a window is offered again.
const OFFERS_A_WINDOW: usize = 8;

struct Tally {
    begin: Instant,
    end: Instant,
    times: Vec<u64>,
}

impl Tally {
    fn new(seconds: u64) -> Self {
        let begin = Instant::now() + WARM_UP;
        Self { begin, end: begin + Duration::from_secs(seconds), times: Vec::new() }
    }

    fn ended(&mut self, since: Instant) {
        let now = Instant::now();
        if (self.begin..self.end).contains(&now) {
            self.times.push(u64::try_from((now - since).as_micros()).unwrap_or(u64::MAX));
        }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    fn answer(mut self) -> Value {
        self.times.sort_unstable();
        let at = |percent: usize| self.times.get(self.times.len() * percent / 100).copied().unwrap_or(0);
        let seconds = (self.end - self.begin).as_secs_f64();
        json!({
            "messages": self.times.len(), "per_second": self.times.len() as f64 / seconds,
            "p50_us": at(50), "p99_us": at(99),
        })
    }
}

/// This agent is the origin; the receiver is wherever the hub has it.
pub async fn send(agent: &mut Handle, to: &str, window: usize, seconds: u64) -> anyhow::Result<Value> {
    let name: NodeName = to.parse()?;
    agent.orders.send(Order::Resolve(name.clone())).await?;
    let key = loop {
        if let Told::Resolved(key) = told(agent).await? {
            break key.with_context(|| format!("no node is named {to}"))?;
        }
    };
    let mut tally = Tally::new(seconds);
    let mut since: HashMap<MessageId, Instant> = HashMap::new();
    while !(tally.is_over() && since.is_empty()) {
        if !tally.is_over() && since.len() < window {
            let drafts =
                (since.len()..window).map(|_| draft(key, &name)).collect::<anyhow::Result<Vec<_>>>()?;
            since.extend(drafts.iter().map(|draft| (draft.id, Instant::now())));
            agent.orders.send(Order::Submit(drafts)).await?;
        }
        let mut next = Some(told(agent).await?);
        while let Some(told) = next {
            if let Told::Ended(id) = told
                && let Some(since) = since.remove(&id)
            {
                tally.ended(since);
            }
            next = agent.told.try_recv().ok();
        }
    }
    Ok(tally.answer())
}

/// The node at the socket is the origin and this agent the receiver. A message is at its end when the origin
/// has told that the answer is on its disk.
pub async fn receive(agent: &mut Handle, socket: &str, window: usize, seconds: u64) -> anyhow::Result<Value> {
    let mut tally = Tally::new(seconds);
    // Which answer belongs to which message is not told; on average the oldest is the one.
    let mut since = VecDeque::new();
    while !(tally.is_over() && since.is_empty()) {
        // Each offer is a connection to the socket: not for every single message when many are outstanding.
        if !tally.is_over() && window - since.len() >= window.div_ceil(OFFERS_A_WINDOW) {
            let more = window - since.len();
            let before = Instant::now();
            offer(socket, agent.name.as_str(), more).await?;
            since.extend(std::iter::repeat_n(before, more));
        }
        let mut next = Some(told(agent).await?);
        while let Some(told) = next {
            if let Told::Answered = told
                && let Some(since) = since.pop_front()
            {
                tally.ended(since);
            }
            next = agent.told.try_recv().ok();
        }
    }
    Ok(tally.answer())
}

async fn told(agent: &mut Handle) -> anyhow::Result<Told> {
    let told = tokio::time::timeout(SILENCE, agent.told.recv()).await.context("nothing came back")?;
    told.context("the agent has ended")
}

async fn offer(socket: &str, to: &str, count: usize) -> anyhow::Result<()> {
    let messages: Vec<Value> = (0..count).map(|_| json!({ "toNode": to, "method": "ping" })).collect();
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(Value::from(messages).to_string().as_bytes()).await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    if answer.lines().filter(|line| line.contains("\"id\"")).count() != count {
        bail!("the socket answered {answer}");
    }
    Ok(())
}

fn draft(to: KeyId, to_name: &NodeName) -> anyhow::Result<Draft> {
    let request = Request {
        method: "ping".into(),
        args: Vec::new(),
        data: bytes::Bytes::new(),
        command: true,
        idempotent: false,
        timeout_ms: None,
        output_limit: 0,
        stream: false,
        sealed: None,
        run: None,
        operator: None,
    };
    Ok(Draft {
        id: MessageId::new(now(), random()?),
        to,
        to_name: to_name.clone(),
        request,
        expires: now() + LIFETIME,
        attempts: None,
        reply: None,
        reply_whole: false,
    })
}

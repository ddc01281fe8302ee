//! Durable messages a second: `ping`s, from their acceptance to their end on disk at both ends.
//!
//! Two ways: from the hub to an agent, and from one agent through the hub to another, where the hub keeps what it
//! relays on disk as well. The simulated agent at one end is the measure; the hub, and the agent at the other end, are
//! the product's own processes.

use anyhow::Context as _;
use serde_json::Value;

use super::figure::{Figure, Figures};
use super::swarm::{Swarm, number};
use super::{Bench, process};
use crate::fleet::{Fleet, Plan, agent_name};

const PART: &str = "messages";

const WINDOWS: [usize; 3] = [1, 16, 256];

/// The share of its limit that is asked for in DESIGN §10.
const GOAL: f64 = 0.6;

/// What one message takes on its way.
struct Way {
    name: &'static str,
    /// Syncs one after the other, from the first to the last that somebody waits for.
    syncs: f64,
    signatures: f64,
    verifications: f64,
}

/// Accepted, accepted at the receiver, started, ended, ended at the origin. The request and its end are signed, and
/// each is verified by who gets it.
const DIRECT: Way = Way { name: "hub to agent", syncs: 5.0, signatures: 2.0, verifications: 2.0 };

/// The hub keeps the request and its end as well. Receipts of both come on top, and the hub verifies all
/// that it passes on.
const RELAYED: Way = Way { name: "agent to agent", syncs: 7.0, signatures: 4.0, verifications: 8.0 };

pub async fn measure(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    let fleet = Fleet::start(Plan { binary: &bench.binary, agents: 1, label: "messages" }).await?;
    let mut swarm = Swarm::start(&bench.simulated, &fleet, 1).await?;
    swarm.order("connect")?;
    let signing = swarm.order("signing")?;
    let (sign, verify) = (number(&signing, "sign")?, number(&signing, "verify")?);
    figures.note(format!("one core signs in {:.0} µs and verifies in {:.0} µs", sign * 1e6, verify * 1e6));
    for window in WINDOWS {
        for way in [&DIRECT, &RELAYED] {
            // Before and after what it bounds: disks are shared, and have their moods.
            let limit = format!("synced {} {window}", fleet.root.display());
            let earlier = number(&swarm.order(&limit)?, "per_second")?;
            let before = Usage::of(&fleet, &mut swarm)?;
            let order = match way.name {
                "hub to agent" => {
                    format!("receive {} {window} {}", fleet.hub.message_socket().display(), bench.seconds)
                }
                _ => format!("send {} {window} {}", agent_name(1), bench.seconds),
            };
            let result = swarm.order(&order)?;
            let used = Usage::of(&fleet, &mut swarm)?.less(&before);
            let synced = (earlier + number(&swarm.order(&limit)?, "per_second")?) / 2.0;
            let rate = number(&result, "per_second")?;
            // One after the other, each step waits for its sync. Many at once share syncs, and then the cores
            // are what everybody shares: signatures, and writing the records.
            let syncs = synced / way.syncs;
            let crypto = way.signatures * sign + way.verifications * verify;
            let together = process::cores() / (crypto + way.syncs / synced);
            let mut figure = Figure::new(PART, format!("{}, {window} outstanding", way.name), rate, "/s");
            let (bound, name) =
                if window == 1 { (syncs, "syncs allow") } else { (together, "signatures and records allow") };
            if way.name == DIRECT.name && window != 16 {
                figure = figure.at_least(GOAL * bound);
            }
            figure = figure.beside(name, bound).beside("synced records", synced);
            figures.add(figure);
            figures.note(note(way, window, &result, &used)?);
        }
    }
    Ok(())
}

fn note(way: &Way, window: usize, result: &Value, used: &Usage) -> anyhow::Result<String> {
    // The processes also work before and after the seconds that count: all that they did is put to all messages of
    // the measure's own journal, which has as many batches for each.
    let messages = number(result, "messages")?.max(1.0);
    Ok(format!(
        "{}, {window} outstanding: p50 {:.0} µs, p99 {:.0} µs; processor for each: hub {:.0} µs, agent {:.0} µs, measure {:.0} µs; {:.1} syncs of the measure's journal for 100",
        way.name,
        number(result, "p50_us")?,
        number(result, "p99_us")?,
        used.hub * 1e6 / messages,
        used.agent * 1e6 / messages,
        used.swarm * 1e6 / messages,
        used.syncs * 100.0 / messages,
    ))
}

struct Usage {
    hub: f64,
    agent: f64,
    swarm: f64,
    syncs: f64,
}

impl Usage {
    fn of(fleet: &Fleet, swarm: &mut Swarm) -> anyhow::Result<Self> {
        let cpu = |pid: Option<u32>| process::cpu(pid.context("it has ended")?);
        let stats = swarm.order("stats")?;
        Ok(Self {
            hub: cpu(fleet.hub.pid())?,
            agent: cpu(fleet.agents[0].pid())?,
            swarm: process::cpu(swarm.pid())?,
            syncs: number(&stats, "syncs")?,
        })
    }

    fn less(&self, before: &Self) -> Self {
        Self {
            hub: self.hub - before.hub,
            agent: self.agent - before.agent,
            swarm: self.swarm - before.swarm,
            syncs: self.syncs - before.syncs,
        }
    }
}

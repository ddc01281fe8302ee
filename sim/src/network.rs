//! Links between agents and the hub: in order while they live, with latency, and gone without warning.

use std::collections::{BTreeMap, BTreeSet};

use crate::rng::Rng;

/// One life of a link. A frame of an earlier life never arrives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LinkId(pub u64);

#[derive(Debug)]
pub struct Link {
    pub agent: usize,
    /// One way, in microseconds, and how much it varies.
    latency: u64,
    jitter: u64,
    /// When the last frame to the hub and to the agent arrives: none overtakes it.
    last: [u64; 2],
}

#[derive(Debug, Default)]
pub struct Network {
    links: BTreeMap<LinkId, Link>,
    of_agent: BTreeMap<usize, LinkId>,
    next: u64,
    /// Agents that cannot reach the hub, and until when.
    parted: BTreeMap<usize, u64>,
}

impl Network {
    pub fn reachable(&self, agent: usize, at: u64) -> bool {
        self.parted.get(&agent).is_none_or(|until| at >= *until)
    }

    pub fn part(&mut self, agents: &[usize], until: u64) {
        for agent in agents {
            let end = self.parted.entry(*agent).or_default();
            *end = until.max(*end);
        }
    }

    pub fn heal(&mut self) {
        self.parted.clear();
    }

    pub fn connect(&mut self, rng: &mut Rng, agent: usize) -> LinkId {
        self.next += 1;
        let id = LinkId(self.next);
        // From a rack to a ship.
        let latency = if rng.chance(200) { rng.between(50_000, 700_000) } else { rng.between(200, 30_000) };
        let jitter = latency / 3 + 1;
        self.links.insert(id, Link { agent, latency, jitter, last: [0, 0] });
        self.of_agent.insert(agent, id);
        id
    }

    pub fn of_agent(&self, agent: usize) -> Option<LinkId> {
        self.of_agent.get(&agent).copied()
    }

    pub fn link(&self, id: LinkId) -> Option<&Link> {
        self.links.get(&id)
    }

    /// When a frame that is sent now arrives; `None` if the link is gone.
    pub fn arrival(&mut self, rng: &mut Rng, id: LinkId, at: u64, to_hub: bool) -> Option<u64> {
        let link = self.links.get_mut(&id)?;
        let arrival = at + link.latency + rng.below(link.jitter);
        let last = &mut link.last[usize::from(!to_hub)];
        *last = arrival.max(*last + 1);
        Some(*last)
    }

    /// The link is gone, with all that was under way.
    pub fn cut(&mut self, id: LinkId) -> Option<Link> {
        let link = self.links.remove(&id)?;
        if self.of_agent.get(&link.agent) == Some(&id) {
            self.of_agent.remove(&link.agent);
        }
        Some(link)
    }

    pub fn all(&self) -> BTreeSet<LinkId> {
        self.links.keys().copied().collect()
    }
}

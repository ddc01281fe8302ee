//! Links as both ends see them: dialled, believed, dead before anyone notices; and what comes over them.

use mainstay_core::delivery::{Event, Incoming};
use mainstay_core::envelope::{Audience, Body, Envelope, Payload, Verified};
use mainstay_core::frame::{Data, Frame};
use mainstay_core::id::KeyId;
use mainstay_core::outcome::Rejection;

use super::{HUB, Happening, MS, NOTICE_WITHIN, Own, SECOND, World};
use crate::network::LinkId;

impl World {
    pub(super) fn dial(&mut self, n: usize) {
        let hub = self.nodes[HUB].key;
        let linked = self.nodes[n].up.as_ref().is_none_or(|up| up.links.contains_key(&hub));
        if linked || self.network.of_agent(n).is_some() {
            return;
        }
        if self.nodes[HUB].up.is_none() || !self.network.reachable(n, self.at) {
            self.dial_later(n);
            return;
        }
        let link = self.network.connect(&mut self.rng, n);
        let lives = (self.nodes[n].life, self.nodes[HUB].life);
        // The handshake takes two round trips.
        let after = self.rng.between(MS, 500 * MS);
        self.plan(after, Happening::Linked { link, lives });
    }

    pub(super) fn dial_later(&mut self, n: usize) {
        let chance = self.rng.draw() as u32;
        let wait = self.nodes[n].backoff.next(chance);
        self.plan_own(wait.as_micros() as u64, n, Own::Dial);
    }

    pub(super) fn linked(&mut self, link: LinkId, lives: (u64, u64)) {
        let Some(agent) = self.network.link(link).map(|link| link.agent) else { return };
        if (self.nodes[agent].life, self.nodes[HUB].life) != lives || self.nodes[agent].gone {
            self.network.cut(link);
            return;
        }
        self.line(format_args!("n{agent} is linked"));
        self.nodes[agent].backoff.reset();
        let at = self.at;
        let hub_time = self.nodes[HUB].clock.now(at);
        self.nodes[agent].clock.learn(at, hub_time);
        for (n, peer, hub) in [(HUB, agent, false), (agent, HUB, true)] {
            let peer = self.nodes[peer].key;
            if let Some(up) = self.nodes[n].up.as_mut() {
                // It may believe that an older link still lives: the new one takes its place.
                up.links.insert(peer, link);
                self.turn(n, Event::LinkUp { peer, hub });
            }
        }
    }

    pub(super) fn cut(&mut self, agent: usize) {
        let Some(link) = self.network.of_agent(agent) else { return };
        self.network.cut(link);
        self.checker.counts.cuts += 1;
        let keys = (self.nodes[agent].key, self.nodes[HUB].key);
        for (node, peer) in [(agent, keys.1), (HUB, keys.0)] {
            let within = if self.rng.chance(700) { SECOND } else { NOTICE_WITHIN };
            let after = self.rng.below(within);
            self.plan(after, Happening::Notice { node, peer, link });
        }
        // One that never got through its handshake is noticed by the dialler alone.
        let waits = self.nodes[agent].up.as_ref().is_some_and(|up| !up.links.contains_key(&keys.1));
        if waits {
            self.dial_later(agent);
        }
    }

    pub(super) fn notice(&mut self, n: usize, peer: KeyId, link: LinkId) {
        let Some(up) = self.nodes[n].up.as_mut() else { return };
        if up.links.get(&peer) == Some(&link) {
            up.links.remove(&peer);
            self.turn(n, Event::LinkDown { peer });
        }
        if n != HUB {
            self.dial_later(n);
        }
    }

    pub(super) fn frame(&mut self, n: usize, peer: KeyId, frame: Frame) {
        self.checker.counts.frames += 1;
        match frame {
            Frame::Ack(acks) => self.turn(n, Event::Acks { peer, acks }),
            Frame::Data(data) => match self.incoming(n, peer, data) {
                Ok(incoming) => self.turn(n, Event::Data(Box::new(incoming))),
                Err(what) => self.checker.violations.push(format!("n{n} got {what}")),
            },
            other => self.checker.violations.push(format!("n{n} got {other:?}")),
        }
    }

    pub(super) fn incoming(&self, n: usize, peer: KeyId, data: Data) -> Result<Incoming, String> {
        let envelope = Envelope::decode(&data.envelope).map_err(|e| e.to_string())?;
        let verified = if self.scenario.verify {
            envelope.verify().map_err(|e| e.to_string())?
        } else {
            let body = envelope.trusted_body().map_err(|e| e.to_string())?;
            Verified { envelope, body }
        };
        let judged = self.judged(n, &verified.body);
        Ok(Incoming { peer, data, verified, judged })
    }

    fn judged(&self, n: usize, body: &Body) -> Result<(), Rejection> {
        let gone = |key: &KeyId| self.by_key.get(key).is_none_or(|n| self.nodes[*n].gone);
        if gone(&body.from) {
            return Err(Rejection::Denied);
        }
        match (&body.to, &body.payload) {
            (Audience::Node(to), _) if *to != self.nodes[n].key => {
                if gone(to) {
                    Err(Rejection::UnknownNode)
                } else {
                    Ok(())
                }
            }
            (_, Payload::Request(request)) => {
                let may = body.from == self.nodes[HUB].key || body.from == self.nodes[n].key;
                match request.method.as_str() {
                    "secret" if !may => Err(Rejection::Denied),
                    "nosuch" => Err(Rejection::UnknownMethod("nosuch".into())),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

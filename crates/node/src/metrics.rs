//! A node's own counters, in the words of Prometheus. Names begin with `mainstay_`; labels have few values.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mainstay_core::delivery::engine::Queues;
use mainstay_core::outcome::Outcome;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

type Label = [(&'static str, &'static str); 1];

#[derive(Clone)]
pub struct NodeMetrics {
    queue: Family<Label, Gauge<i64, AtomicI64>>,
    links: Gauge<i64, AtomicI64>,
    ended: Family<Label, Counter<u64, AtomicU64>>,
    served: Family<Label, Counter<u64, AtomicU64>>,
    refused: Family<Label, Counter<u64, AtomicU64>>,
    repeated: Counter<u64, AtomicU64>,
    latency: Histogram,
    dials: Family<Label, Counter<u64, AtomicU64>>,
}

impl NodeMetrics {
    pub fn new(registry: &Arc<Mutex<Registry>>) -> Self {
        let metrics = Self {
            queue: Family::default(),
            links: Gauge::default(),
            ended: Family::default(),
            served: Family::default(),
            refused: Family::default(),
            repeated: Counter::default(),
            // 1 ms to about 4.5 h: a message may wait for a ship.
            latency: Histogram::new(exponential_buckets(0.001, 4.0, 13)),
            dials: Family::default(),
        };
        if let Ok(mut registry) = registry.lock() {
            let registry = registry.sub_registry_with_prefix("mainstay");
            registry.register("queue_messages", "Messages that wait, by queue", metrics.queue.clone());
            registry.register("links", "Links that are up", metrics.links.clone());
            registry.register("messages_ended", "Own messages that ended, by outcome", metrics.ended.clone());
            registry.register(
                "messages_served",
                "Messages of others that ended here, by outcome",
                metrics.served.clone(),
            );
            registry.register(
                "envelopes_refused",
                "Envelopes refused on arrival, by reason",
                metrics.refused.clone(),
            );
            registry.register(
                "envelopes_repeated",
                "Requests that came again, and were acknowledged without being run again",
                metrics.repeated.clone(),
            );
            registry.register(
                "message_seconds",
                "From acceptance of an own message to its end",
                metrics.latency.clone(),
            );
            registry.register("dials", "Attempts to link to a hub, by result", metrics.dials.clone());
        }
        metrics
    }

    pub fn queues(&self, queues: &Queues, links: usize) {
        for (queue, n) in [
            ("outbox", queues.outbox),
            ("inbox", queues.inbox),
            ("running", queues.running),
            ("relay", queues.relay),
        ] {
            self.queue.get_or_create(&[("queue", queue)]).set(n as i64);
        }
        self.links.set(links as i64);
    }

    pub fn ended(&self, outcome: &Outcome, after: Duration) {
        self.ended.get_or_create(&[("outcome", outcome.word())]).inc();
        self.latency.observe(after.as_secs_f64());
    }

    pub fn served(&self, outcome: &Outcome) {
        self.served.get_or_create(&[("outcome", outcome.word())]).inc();
    }

    pub fn refused(&self, why: &'static str) {
        self.refused.get_or_create(&[("reason", why)]).inc();
    }

    /// How many there were since the start.
    pub fn repeated(&self, count: u64) {
        self.repeated.inner().store(count, Ordering::Relaxed);
    }

    pub fn dialled(&self, result: &'static str) {
        self.dials.get_or_create(&[("result", result)]).inc();
    }
}

//! What a hub counts, for Prometheus. The registry belongs to the whole process; others add to it too.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::view::NodeState;

pub type SharedRegistry = Arc<Mutex<Registry>>;

/// From a fleet at hand to one that comes back tomorrow, in seconds.
const LATENCIES: [f64; 12] =
    [0.005, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0, 3_600.0, 21_600.0, 86_400.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EnrolmentLabel {
    answer: &'static str,
}

pub struct Metrics {
    runs: Counter,
    ends: Family<OutcomeLabel, Counter>,
    latency: Histogram,
    nodes: Family<StateLabel, Gauge>,
    online: Gauge,
    open_runs: Gauge,
    queue: Gauge,
    enrolments: Family<EnrolmentLabel, Counter>,
}

impl Metrics {
    pub fn new(registry: &SharedRegistry) -> Self {
        let metrics = Self {
            runs: Counter::default(),
            ends: Family::default(),
            latency: Histogram::new(LATENCIES),
            nodes: Family::default(),
            online: Gauge::default(),
            open_runs: Gauge::default(),
            queue: Gauge::default(),
            enrolments: Family::default(),
        };
        let mut all = registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let hub = all.sub_registry_with_prefix("mainstay_hub");
        hub.register("runs", "Runs accepted", metrics.runs.clone());
        hub.register("run_ends", "Ends of runs on nodes, by outcome", metrics.ends.clone());
        hub.register(
            "run_latency_seconds",
            "From accepting a run to the end on a node",
            metrics.latency.clone(),
        );
        hub.register("nodes", "Nodes by state", metrics.nodes.clone());
        hub.register("nodes_online", "Nodes with a link", metrics.online.clone());
        hub.register("runs_open", "Runs without all their ends", metrics.open_runs.clone());
        hub.register("run_queue", "Orders queued or in flight, over all nodes", metrics.queue.clone());
        hub.register("enrolments", "Requests to join, by answer", metrics.enrolments.clone());
        drop(all);
        metrics
    }

    pub(crate) fn run_accepted(&self) {
        self.runs.inc();
    }

    pub(crate) fn node_ended(&self, outcome: &str, latency: Duration) {
        let label = OutcomeLabel { outcome: outcome.to_owned() };
        self.ends.get_or_create(&label).inc();
        self.latency.observe(latency.as_secs_f64());
    }

    pub(crate) fn enrolment(&self, answer: &'static str) {
        self.enrolments.get_or_create(&EnrolmentLabel { answer }).inc();
    }

    pub(crate) fn nodes(&self, states: &std::collections::BTreeMap<NodeState, u64>, online: u64) {
        for state in [
            NodeState::Waiting,
            NodeState::Active,
            NodeState::Quarantined,
            NodeState::Revoked,
            NodeState::Removed,
        ] {
            let count = states.get(&state).copied().unwrap_or(0);
            let label = StateLabel { state: state.word() };
            self.nodes.get_or_create(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.online.set(i64::try_from(online).unwrap_or(i64::MAX));
    }

    pub(crate) fn queues(&self, open_runs: usize, depth: usize) {
        self.open_runs.set(i64::try_from(open_runs).unwrap_or(i64::MAX));
        self.queue.set(i64::try_from(depth).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_named_as_everywhere_else() {
        let registry = SharedRegistry::default();
        Metrics::new(&registry).nodes(&[(NodeState::Active, 3)].into(), 2);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry.lock().unwrap()).unwrap();
        assert!(text.contains("mainstay_hub_nodes{state=\"active\"} 3\n"), "{text}");
        assert!(text.contains("mainstay_hub_nodes{state=\"waiting\"} 0\n"), "{text}");
    }
}

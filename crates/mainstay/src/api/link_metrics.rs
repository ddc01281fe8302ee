//! What links refused and cut, for Prometheus: counted in `mainstay-link`, which knows no metrics library.

use std::sync::{Arc, Mutex, PoisonError};

use mainstay_link::limits::LinkCounters;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Registry;

#[derive(Debug)]
struct Links(Arc<LinkCounters>);

/// Shows these counters with all others, as `mainstay_link_events_total{event="oversize"}`.
pub fn register_link_counters(registry: &Mutex<Registry>, counters: &Arc<LinkCounters>) {
    let mut registry = registry.lock().unwrap_or_else(PoisonError::into_inner);
    registry.register_collector(Box::new(Links(counters.clone())));
}

impl Collector for Links {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let help = "What happened to links and to those who tried to make one";
        let kind = prometheus_client::metrics::MetricType::Counter;
        let mut family = encoder.encode_descriptor("mainstay_link_events", help, None, kind)?;
        for (event, count) in self.0.snapshot() {
            let labels = [("event", event)];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn every_counter_is_shown_by_its_name() {
        let registry = Mutex::new(Registry::default());
        let counters = Arc::<LinkCounters>::default();
        register_link_counters(&registry, &counters);
        counters.oversize.store(3, Ordering::Relaxed);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry.lock().unwrap()).unwrap();
        assert!(text.contains("mainstay_link_events_total{event=\"oversize\"} 3\n"), "{text}");
        assert_eq!(text.matches("_total{").count(), counters.snapshot().len());
    }
}

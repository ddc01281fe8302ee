//! The gate: how many connections may exist whose peers were not admitted yet.
//!
//! A stranger holds a [`Place`] until it is admitted or gone. When all places are taken, the one who has
//! stood silent longest makes room for the next to come: an honest peer speaks as soon as it is connected, so
//! connections that are opened and left cannot keep anyone out. When all of them speak, newcomers wait in the
//! kernel's queue.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use crate::limits::{Limits, LinkCounters, count};

pub(crate) struct Gate {
    most: usize,
    most_per_source: usize,
    counters: Arc<LinkCounters>,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Default)]
struct State {
    next: u64,
    /// Everyone inside, by order of arrival.
    inside: BTreeMap<u64, Source>,
    /// Those who said nothing yet, and how to tell them to go.
    silent: BTreeMap<u64, oneshot::Sender<()>>,
    /// How many are inside from one address.
    sources: HashMap<Source, usize>,
}

/// An address as far as it tells one machine or site from another; `None` for loopback, which tells nothing.
type Source = Option<IpAddr>;

impl Gate {
    pub(crate) fn new(limits: &Limits, counters: Arc<LinkCounters>) -> Arc<Self> {
        Arc::new(Self {
            most: limits.strangers.max(1),
            most_per_source: limits.strangers_per_source.max(1),
            counters,
            state: Mutex::default(),
            freed: Notify::new(),
        })
    }

    /// Waits until a newcomer could be let in.
    pub(crate) async fn room(&self) {
        loop {
            let freed = self.freed.notified();
            {
                let state = self.lock();
                if state.inside.len() < self.most || !state.silent.is_empty() {
                    return;
                }
            }
            freed.await;
        }
    }

    /// Lets a newcomer in, or not.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Entry {
        let source = source_of(address);
        let mut state = self.lock();
        if source.is_some() && state.sources.get(&source).copied().unwrap_or(0) >= self.most_per_source {
            count(&self.counters.too_many);
            return Entry::TooMany;
        }
        if state.inside.len() >= self.most {
            let Some((oldest, leave)) = state.silent.pop_first() else { return Entry::Full };
            count(&self.counters.crowded_out);
            // It may have gone already by itself.
            let _ = leave.send(());
            state.remove(oldest);
        }
        let number = state.next;
        state.next += 1;
        state.inside.insert(number, source);
        *state.sources.entry(source).or_default() += 1;
        let (leave, told) = oneshot::channel();
        state.silent.insert(number, leave);
        drop(state);
        let gate = self.clone();
        Entry::In { place: Place { gate, number }, leave: told }
    }

    #[cfg(test)]
    fn inside(&self) -> usize {
        self.lock().inside.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remove(&mut self, number: u64) {
        self.silent.remove(&number);
        let Some(source) = self.inside.remove(&number) else {
            return;
        };
        if let Some(n) = self.sources.get_mut(&source) {
            *n -= 1;
            if *n == 0 {
                self.sources.remove(&source);
            }
        }
    }
}

/// What became of a newcomer.
pub(crate) enum Entry {
    In {
        place: Place,
        /// Fires when it must make room.
        leave: oneshot::Receiver<()>,
    },
    /// No room after all: it may wait for some.
    Full,
    /// Its address has too many inside already.
    TooMany,
}

/// One stranger's place; given back on drop.
pub(crate) struct Place {
    gate: Arc<Gate>,
    number: u64,
}

impl Place {
    /// The stranger has spoken: it can no longer be sent away to make room.
    pub(crate) fn spoke(&self) {
        self.gate.lock().silent.remove(&self.number);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.lock().remove(self.number);
        self.gate.freed.notify_one();
    }
}

fn source_of(address: IpAddr) -> Source {
    let address = address.to_canonical();
    if address.is_loopback() {
        return None;
    }
    Some(match address {
        IpAddr::V4(_) => address,
        // A site or a single attacker commonly holds a /64.
        IpAddr::V6(v6) => {
            let mut bytes = v6.octets();
            bytes[8..].fill(0);
            IpAddr::from(bytes)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(strangers: usize, strangers_per_source: usize) -> Arc<Gate> {
        let limits = Limits { strangers, strangers_per_source, ..Limits::default() };
        Gate::new(&limits, Arc::default())
    }

    fn from(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn enter(gate: &Arc<Gate>, address: &str) -> Option<(Place, oneshot::Receiver<()>)> {
        match gate.enter(from(address)) {
            Entry::In { place, leave } => Some((place, leave)),
            Entry::Full | Entry::TooMany => None,
        }
    }

    #[test]
    fn the_longest_silent_makes_room_and_who_spoke_does_not() {
        let gate = gate(2, 9);
        let (first, mut told_first) = enter(&gate, "192.0.2.1").unwrap();
        let (_second, mut told_second) = enter(&gate, "192.0.2.2").unwrap();
        first.spoke();
        let (_third, _) = enter(&gate, "192.0.2.3").unwrap();
        assert!(told_first.try_recv().is_err(), "who spoke stays");
        assert!(told_second.try_recv().is_ok());
        assert_eq!(gate.inside(), 2);
        drop(_second);
        assert_eq!(gate.inside(), 2, "a place that was taken over is not given back twice");
    }

    #[test]
    fn one_address_cannot_take_all_places() {
        let gate = gate(10, 2);
        let places: Vec<_> = (0..2).map(|_| enter(&gate, "2001:db8::1").unwrap()).collect();
        assert!(enter(&gate, "2001:db8::2").is_none(), "the same /64");
        assert!(enter(&gate, "2001:db8:0:1::1").is_some());
        assert!(enter(&gate, "::ffff:127.0.0.1").is_some());
        drop(places);
        assert!(enter(&gate, "2001:db8::2").is_some());
    }

    #[tokio::test]
    async fn when_all_speak_newcomers_wait_for_a_place() {
        let gate = gate(1, 9);
        let (place, _told) = enter(&gate, "192.0.2.1").unwrap();
        gate.room().await;
        place.spoke();
        let mut room = Box::pin(gate.room());
        assert!(futures_util::poll!(&mut room).is_pending());
        drop(place);
        room.await;
        assert_eq!(gate.inside(), 0);
        assert!(gate.lock().sources.is_empty());
    }
}

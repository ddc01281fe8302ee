//! Rolling batches: how many more nodes of a run may be started now.
//!
//! A batch is a window, not a wave: as soon as one node ends, the next may start, so one slow node does not
//! hold up the rest. Only nodes that can make progress take a place in the window. A node that is away is
//! started when it is back and there is a place; it never makes a rolling update wait until the run expires.
//! One that goes away after it was started keeps its place for [`AWAY_GRACE`], since a restart is often just
//! what was asked for, and the next machine must not go down with it.
//!
//! This counts; who is linked, and which node comes next, is known to the caller.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How long a node that was started and went away keeps its place: longer than a machine takes to boot,
/// short beside the hours that a run may live.
pub const AWAY_GRACE: Duration = Duration::from_secs(300);

/// How many nodes may be at work at a time: `10`, or `25%` of those that the run means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchSize(Share);

/// How many nodes may fail before no further one is started: `3`, or `10%` of those that the run means.
/// `0` stops at the first failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FailureLimit(Share);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Share {
    Count(u32),
    /// At most 100.
    Percent(u32),
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text:?} is not a {what}: {rule}")]
pub struct ShareError {
    text: String,
    what: &'static str,
    rule: &'static str,
}

impl BatchSize {
    /// In nodes out of `total`; at least one, percentages rounded up.
    pub fn of(self, total: usize) -> usize {
        match self.0 {
            Share::Count(count) => count as usize,
            Share::Percent(percent) => part(total, percent).div_ceil(100) as usize,
        }
        .max(1)
    }
}

impl FailureLimit {
    /// How many of `total` may fail, percentages rounded down: the limit is exceeded by one more.
    pub fn of(self, total: usize) -> usize {
        match self.0 {
            Share::Count(count) => count as usize,
            Share::Percent(percent) => (part(total, percent) / 100) as usize,
        }
    }
}

/// In hundredths, wide enough for any total.
fn part(total: usize, percent: u32) -> u128 {
    total as u128 * u128::from(percent)
}

impl FromStr for BatchSize {
    type Err = ShareError;

    fn from_str(text: &str) -> Result<Self, ShareError> {
        match share(text) {
            Some(share) if share != Share::Count(0) && share != Share::Percent(0) => Ok(Self(share)),
            _ => Err(ShareError {
                text: text.to_owned(),
                what: "batch size",
                rule: "write a number of nodes such as 10, or a share of them such as 25%",
            }),
        }
    }
}

impl FromStr for FailureLimit {
    type Err = ShareError;

    fn from_str(text: &str) -> Result<Self, ShareError> {
        share(text).map(Self).ok_or_else(|| ShareError {
            text: text.to_owned(),
            what: "limit of failures",
            rule: "write how many nodes may fail such as 3, or a share of them such as 10%",
        })
    }
}

fn share(text: &str) -> Option<Share> {
    let text = text.trim();
    let (digits, is_percent) = match text.strip_suffix('%') {
        Some(digits) => (digits.trim_end(), true),
        None => (text, false),
    };
    // `parse` alone would take a sign.
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number = digits.parse().ok()?;
    match is_percent {
        true if number > 100 => None,
        true => Some(Share::Percent(number)),
        false => Some(Share::Count(number)),
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl fmt::Display for BatchSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for FailureLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether a node that was started and has not ended takes a place in the window. `away_for` is how long
/// it has been without a link, `None` while it has one.
pub fn holds_place(away_for: Option<Duration>) -> bool {
    away_for.is_none_or(|away| away < AWAY_GRACE)
}

/// The machine of one run. A pure function of its events, so a hub that takes a run over feeds it again
/// what the run's record says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batches {
    total: usize,
    window: usize,
    /// `None`: failures never stop it.
    may_fail: Option<usize>,
    /// Nodes that were started, or ended without ever being started.
    spent: usize,
    failed: usize,
    stopped: bool,
}

impl Batches {
    /// Without a size the window is as large as the run.
    pub fn new(total: usize, size: Option<BatchSize>, max_failures: Option<FailureLimit>) -> Self {
        Self {
            total,
            window: size.map_or(total, |size| size.of(total)),
            may_fail: max_failures.map(|limit| limit.of(total)),
            spent: 0,
            failed: 0,
            stopped: false,
        }
    }

    /// How many more nodes may be started now, when `holding` of the started ones take a place
    /// ([`holds_place`]). Nodes that come back may for a while hold more places than there are.
    pub fn allowance(&self, holding: usize) -> usize {
        if self.stopped {
            return 0;
        }
        self.window.saturating_sub(holding).min(self.waiting())
    }

    /// A node was started: from now on its order may be sent to it.
    pub fn started(&mut self) {
        self.spent = (self.spent + 1).min(self.total);
    }

    /// A started node ended.
    pub fn ended(&mut self, ok: bool) {
        if !ok {
            self.failed += 1;
            self.stopped |= self.may_fail.is_some_and(|most| self.failed > most);
        }
    }

    /// A node ended that was never started: it expired while away, was cancelled or removed. That says
    /// nothing about the order itself, so it is not a failure that stops the others.
    pub fn dropped(&mut self) {
        self.started();
    }

    /// A node's own end superseded one that the hub had decided alone.
    pub fn revised(&mut self, was_ok: bool, is_ok: bool) {
        if !was_ok {
            self.failed = self.failed.saturating_sub(1);
        }
        self.ended(is_ok);
    }

    /// More nodes failed than allowed: no further one is started. It stays so, even if an end that counted
    /// is superseded by a better one: by then an operator may have seen it.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Nodes that are neither started nor dropped.
    pub fn waiting(&self) -> usize {
        self.total - self.spent
    }

    pub fn failed(&self) -> usize {
        self.failed
    }

    /// The most nodes at work at a time.
    pub fn window(&self) -> usize {
        self.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_and_limits_read_as_people_write_them() {
        for (text, of_7, of_1000) in [("10", 10, 10), ("25%", 2, 250), ("1%", 1, 10), ("100 %", 7, 1000)] {
            let size: BatchSize = text.parse().unwrap();
            assert_eq!((size.of(7), size.of(1000)), (of_7, of_1000), "{text}");
        }
        for (text, of_7, of_1000) in
            [("0", 0, 0), ("3", 3, 3), ("10%", 0, 100), ("0%", 0, 0), ("50%", 3, 500)]
        {
            let limit: FailureLimit = text.parse().unwrap();
            assert_eq!((limit.of(7), limit.of(1000)), (of_7, of_1000), "{text}");
        }
        for bad in ["", "%", "-1", "+1", "101%", "1.5", "ten", "1%%", "99999999999"] {
            assert!(bad.parse::<BatchSize>().is_err(), "{bad:?}");
            assert!(bad.parse::<FailureLimit>().is_err(), "{bad:?}");
        }
        assert!("0".parse::<BatchSize>().is_err() && "0%".parse::<BatchSize>().is_err());
        assert_eq!("25%".parse::<BatchSize>().unwrap().to_string(), "25%");
    }

    #[test]
    fn an_absent_node_takes_no_place_and_one_that_restarts_keeps_it() {
        assert!(holds_place(None));
        assert!(holds_place(Some(AWAY_GRACE - Duration::from_millis(1))));
        assert!(!holds_place(Some(AWAY_GRACE)));
        let mut batches = Batches::new(10, Some("2".parse().unwrap()), None);
        batches.started();
        batches.started();
        assert_eq!(batches.allowance(2), 0);
        // One of them has been away for long: the next may start. When it is back, none may.
        assert_eq!(batches.allowance(1), 1);
        batches.started();
        assert_eq!(batches.allowance(3), 0);
    }

    #[test]
    fn it_stops_at_one_failure_more_than_allowed_and_for_good() {
        let mut batches = Batches::new(10, None, Some("1".parse().unwrap()));
        (0..3).for_each(|_| batches.started());
        batches.ended(false);
        assert!(!batches.stopped());
        batches.dropped();
        assert!(!batches.stopped());
        batches.ended(false);
        assert!(batches.stopped());
        assert_eq!(batches.allowance(0), 0);
        batches.revised(false, true);
        assert_eq!((batches.failed(), batches.stopped(), batches.allowance(0)), (1, true, 0));
    }

    #[test]
    fn an_end_that_gets_worse_counts_too() {
        let mut batches = Batches::new(2, None, Some("0".parse().unwrap()));
        batches.started();
        batches.ended(true);
        batches.revised(true, false);
        assert!(batches.stopped());
    }

    #[derive(Clone, Debug)]
    enum Event {
        Start,
        End { which: usize, ok: bool },
        Away { which: usize },
        Back { which: usize },
        Drop,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => Just(Event::Start),
            4 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(which, ok)| Event::End { which, ok }),
            1 => any::<usize>().prop_map(|which| Event::Away { which }),
            1 => any::<usize>().prop_map(|which| Event::Back { which }),
            1 => Just(Event::Drop),
        ]
    }

    proptest! {
        #[test]
        fn never_too_many_at_work_and_none_after_the_limit(
            total in 0_usize..40,
            size in 1_u32..20,
            limit in prop::option::of(0_u32..6),
            events in prop::collection::vec(event(), 0..300),
        ) {
            let size = BatchSize(Share::Count(size));
            let limit = limit.map(|n| FailureLimit(Share::Count(n)));
            let mut batches = Batches::new(total, Some(size), limit);
            let (mut at_work, mut away) = (0, 0);
            let (mut begun, mut dropped, mut failed) = (0, 0, 0);
            for event in events {
                match event {
                    Event::Start if batches.allowance(at_work) > 0 => {
                        prop_assert!(at_work < size.of(total), "one more than the window");
                        prop_assert!(limit.is_none_or(|l| failed <= l.of(total)), "started after the limit");
                        batches.started();
                        at_work += 1;
                        begun += 1;
                    }
                    Event::End { which, ok } if at_work + away > 0 => {
                        if which % (at_work + away) < at_work { at_work -= 1 } else { away -= 1 }
                        failed += usize::from(!ok);
                        batches.ended(ok);
                    }
                    Event::Away { which } if at_work > 0 && which % 3 == 0 => {
                        at_work -= 1;
                        away += 1;
                    }
                    Event::Back { which } if away > 0 && which % 3 == 0 => {
                        away -= 1;
                        at_work += 1;
                    }
                    Event::Drop if batches.waiting() > 0 => {
                        batches.dropped();
                        dropped += 1;
                    }
                    _ => {}
                }
                prop_assert_eq!(batches.waiting(), total - begun - dropped);
                prop_assert_eq!(batches.stopped(), limit.is_some_and(|l| failed > l.of(total)));
            }
        }

        #[test]
        fn without_failures_every_node_is_started(
            total in 0_usize..200, percent in 1_u32..=100, ends in prop::collection::vec(1_usize..8, 1..20),
        ) {
            let mut batches = Batches::new(total, Some(BatchSize(Share::Percent(percent))), Some(FailureLimit(Share::Count(0))));
            let (mut at_work, mut begun) = (0, 0);
            // Every round ends at least one node, so as many rounds as nodes are enough.
            for round in 0..=total {
                while batches.allowance(at_work) > 0 {
                    batches.started();
                    at_work += 1;
                    begun += 1;
                }
                for _ in 0..ends[round % ends.len()].min(at_work) {
                    batches.ended(true);
                    at_work -= 1;
                }
            }
            prop_assert_eq!((begun, batches.waiting(), at_work), (total, 0, 0));
        }
    }
}

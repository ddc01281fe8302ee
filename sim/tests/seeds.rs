//! Seeds that every change must survive, and mistakes that some of few seeds must find.
//!
//! More by hand: `cargo run -p mainstay-sim -- --seeds 1000 --message-every-ms 60 --fault-every-ms 600`.

use mainstay_sim::{Planted, Report, Scenario, play};

/// A few hundred messages each; together some seconds in an unoptimised build.
const SEEDS: u64 = 12;

fn busy(seed: u64) -> Scenario {
    Scenario { message_every_ms: 100, fault_every_ms: 600, ..Scenario::new(seed) }
}

fn assert_clean(report: &Report) {
    assert!(report.violations.is_empty(), "play it again with the first line\n{report}");
}

#[test]
fn no_seed_finds_a_fault() {
    let mut finished = 0;
    let mut interrupted = 0;
    for seed in 0..SEEDS {
        let report = play(&busy(seed));
        assert_clean(&report);
        assert!(report.accepted > 300 && report.counts.crashes > 20, "too little happened\n{report}");
        finished += report.outcomes.get("finished").copied().unwrap_or(0);
        interrupted += report.outcomes.get("interrupted").copied().unwrap_or(0);
    }
    assert!(finished > 2_000 && interrupted > 20, "{finished} finished, {interrupted} were interrupted");
}

#[test]
fn one_seed_gives_one_log() {
    let (first, second) = (play(&busy(1_000)), play(&busy(1_000)));
    assert_clean(&first);
    assert_eq!((first.log_lines, &first.log_hash), (second.log_lines, &second.log_hash));
    assert_ne!(first.log_hash, play(&busy(1_001)).log_hash);
}

/// Checked signatures change nothing but the time it takes.
#[test]
fn with_signatures_checked_the_log_is_the_same() {
    let scenario = Scenario { seconds: 20, agents: 10, ..busy(2_000) };
    let report = play(&Scenario { verify: true, ..scenario.clone() });
    assert_clean(&report);
    assert_eq!(report.log_hash, play(&scenario).log_hash);
}

/// In a world where nothing fails, what could finish does.
#[test]
fn without_faults_nothing_is_interrupted_or_lost() {
    let report = play(&Scenario { fault_every_ms: 0, message_every_ms: 100, ..Scenario::new(3_000) });
    assert_clean(&report);
    for word in ["interrupted", "lost", "undeliverable", "open"] {
        assert_eq!(report.outcomes.get(word), None, "{report}");
    }
}

/// How many of so many seeds find a planted mistake, and a violation of the kind that it leads to.
fn found(planted: Planted, kind: &str) -> usize {
    let reports = (0..3).map(|seed| play(&Scenario { planted: Some(planted), ..busy(seed) }));
    reports.filter(|report| report.violations.iter().any(|what| what.contains(kind))).count()
}

#[test]
fn a_skipped_sync_is_found() {
    assert!(found(Planted::SkipSync, "it was accepted, and nothing is known of it") > 0);
}

#[test]
fn a_skipped_duplicate_check_is_found() {
    assert!(found(Planted::SkipDuplicateCheck, "it ran 2 times") > 0);
}

#[test]
fn an_acknowledgement_before_writing_is_found() {
    assert!(found(Planted::AcknowledgeBeforeWriting, "it was accepted, and nothing is known of it") > 0);
}

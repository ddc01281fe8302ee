//! What requisites mean: the whole table, cell by cell, and whole walks.

mod ahead;
mod machine;
mod model;
mod random;

use std::collections::BTreeSet;

use machine::{Act, Apply, Event, Guard, Machine, Refresh};

use super::*;
use crate::state::StepWord;
use crate::state::catalog::OrderMode;
use crate::state::sketch::Sketch;

const MODES: [OrderMode; 3] = [OrderMode::Ansible, OrderMode::Justdoit, OrderMode::Genius];

/// Runs a sketch in all three modes with the same acts and shows outcomes, which have to be the same, as
/// `id:outcome` with `+` where it was refreshed.
fn walked(text: &str, set: impl Fn(&Sketch, &mut Vec<Act>), owed: &[Debt]) -> String {
    let shown = MODES.map(|mode| {
        let sketch = Sketch::new(text).mode(mode);
        let mut acts = vec![Act::unchanged(); sketch.links.len()];
        set(&sketch, &mut acts);
        let order = sketch.order();
        let mut machine = Machine::new(&sketch, &order, acts);
        machine.disk = owed.iter().cloned().collect();
        let outcomes = machine.run(&mut |_| 0).expect("nobody kills it");
        let shown = outcomes.iter().enumerate().map(|(state, outcome)| {
            let refreshed = if machine.refreshes(state) > 0 { "+" } else { "" };
            format!("{}:{outcome}{refreshed}", sketch.id(state))
        });
        shown.collect::<Vec<_>>().join(" ")
    });
    assert_eq!(shown[0], shown[1]);
    assert_eq!(shown[0], shown[2]);
    let [shown, ..] = shown;
    shown
}

fn owes(state: &str, kind: DebtKind, because: &str) -> Debt {
    Debt { state: state.into(), module: "file".into(), kind, because: because.into() }
}

/// Lets a target end as the letter says: changed, unchanged, skipped, failed or blocked.
fn act(letter: char) -> Act {
    match letter {
        'c' => Act::changed(),
        'u' | 'b' => Act::unchanged(),
        's' => Act { guard: Guard::Skip, ..Act::changed() },
        'f' => Act { apply: Apply::Failed, ..Act::changed() },
        letter => panic!("no outcome {letter}"),
    }
}

/// One cell: what becomes of a state with `kind` on targets that end like this. `r`: it runs, `+`: and is refreshed, `s`: it
/// is skipped, `b`: it is blocked.
fn cell(kind: &str, targets: &str, owed: Option<DebtKind>) -> char {
    let mut text = String::from("broken\n");
    for (at, letter) in targets.chars().enumerate() {
        let blocked = if letter == 'b' { " require=broken" } else { "" };
        text += &format!("t{at}{blocked}\n");
    }
    let names: Vec<String> = (0..targets.len()).map(|at| format!("t{at}")).collect();
    text += &format!("s {kind}={} refreshes", names.join(","));
    let owed: Vec<Debt> = owed.into_iter().map(|kind| owes("s", kind, "t0")).collect();
    let shown = walked(
        &text,
        |_, acts| {
            acts[0] = act('f');
            for (at, letter) in targets.chars().enumerate() {
                acts[at + 1] = act(letter);
            }
        },
        &owed,
    );
    match shown.rsplit(' ').next().unwrap() {
        "s:unchanged" => 'r',
        "s:changed+" => '+',
        "s:skipped" => 's',
        "s:blocked" => 'b',
        other => panic!("{kind} on {targets}: {other}"),
    }
}

/// Single targets by how they end (changed, unchanged, skipped, failed, blocked), then pairs: a row for the first
/// target, a column for the second.
const TABLE: &[(&str, Option<DebtKind>, &str, [&str; 5])] = &[
    ("require", None, "rrrbb", ["rrrbb", "rrrbb", "rrrbb", "bbbbb", "bbbbb"]),
    ("require_any", None, "rrrbb", ["rrrrr", "rrrrr", "rrrrr", "rrrbb", "rrrbb"]),
    ("watch", None, "+rrbb", ["+++bb", "+rrbb", "+rrbb", "bbbbb", "bbbbb"]),
    ("watch", Some(DebtKind::Refresh), "+++bb", ["+++bb", "+++bb", "+++bb", "bbbbb", "bbbbb"]),
    ("watch_any", None, "+rrbb", ["+++++", "+rrrr", "+rrrr", "+rrbb", "+rrbb"]),
    ("watch_any", Some(DebtKind::Refresh), "+++bb", ["+++++", "+++++", "+++++", "+++bb", "+++bb"]),
    ("onchanges", None, "rssbb", ["rrrbb", "rssbb", "rssbb", "bbbbb", "bbbbb"]),
    ("onchanges", Some(DebtKind::Trigger), "rrrbb", ["rrrbb", "rrrbb", "rrrbb", "bbbbb", "bbbbb"]),
    ("onchanges_any", None, "rssbb", ["rrrrr", "rssbb", "rssbb", "rbbbb", "rbbbb"]),
    ("onchanges_any", Some(DebtKind::Trigger), "rrrrr", ["rrrrr", "rrrrr", "rrrrr", "rrrrr", "rrrrr"]),
    ("onfail", None, "sssrr", ["sssrr", "sssrr", "sssrr", "rrrrr", "rrrrr"]),
    ("onfail_all", None, "sssrr", ["sssss", "sssss", "sssss", "sssrr", "sssrr"]),
    ("listen", None, "+rrrr", ["+++++", "+rrrr", "+rrrr", "+rrrr", "+rrrr"]),
    ("listen", Some(DebtKind::Listen), "+++++", ["+++++", "+++++", "+++++", "+++++", "+++++"]),
    // Nothing is ahead of a target that was to change: `s` runs first, so only the analysis counts. Targets: would change,
    // would not, a guard says no, would fail (so it would change), and one that is blocked already.
    ("prereq", None, "rssrs", ["rrrrr", "rssrs", "rssrs", "rrrrr", "rssrs"]),
];

#[test]
fn the_table_of_requisites() {
    let letters = ['c', 'u', 's', 'f', 'b'];
    let mut kinds = BTreeSet::new();
    for (kind, owed, single, pairs) in TABLE {
        kinds.insert(*kind);
        for (letter, expected) in letters.iter().zip(single.chars()) {
            let targets = letter.to_string();
            assert_eq!(cell(kind, &targets, *owed), expected, "{kind} on {targets}, owed: {owed:?}");
        }
        for (first, row) in letters.iter().zip(pairs) {
            for (second, expected) in letters.iter().zip(row.chars()) {
                let targets = format!("{first}{second}");
                assert_eq!(cell(kind, &targets, *owed), expected, "{kind} on {targets}, owed: {owed:?}");
            }
        }
    }
    assert_eq!(kinds, RequisiteKind::ALL.iter().map(|kind| kind.word()).collect());
}

#[test]
fn an_inferred_edge_and_an_output_that_is_read_mean_require() {
    for edge in ["reads=t", "needs=x"] {
        for (letter, expected) in
            [('c', "unchanged"), ('u', "unchanged"), ('s', "unchanged"), ('f', "blocked")]
        {
            let shown = walked(&format!("t provides=x\ns {edge}"), |_, acts| acts[0] = act(letter), &[]);
            assert!(shown.ends_with(&format!("s:{expected}")), "{edge}: {shown}");
        }
    }
}

#[test]
fn blocked_wins_over_skipped_and_that_over_running() {
    let set = |sketch: &Sketch, acts: &mut Vec<Act>| {
        acts[sketch.at("bad")] = act('f');
        acts[sketch.at("changed")] = act('c');
    };
    for (requisites, expected) in [
        ("require=bad onchanges=quiet", "blocked"),
        ("require=bad onfail=quiet", "blocked"),
        ("onchanges=changed onfail=quiet", "skipped"),
        ("onchanges=quiet onfail=bad", "skipped"),
        ("onchanges=changed onfail=bad", "unchanged"),
        ("onchanges=quiet watch=changed", "skipped"),
        ("prereq=later onchanges=quiet", "skipped"),
        ("prereq=never onchanges=changed", "skipped"),
        ("prereq=later require=bad", "blocked"),
        ("prereq=hidden onchanges=quiet", "blocked"),
        ("prereq=hidden,later", "blocked"),
    ] {
        let text = format!("bad\nchanged\nquiet\ns {requisites} refreshes\nlater\nnever\nhidden");
        let shown = walked(
            &text,
            |sketch, acts| {
                set(sketch, acts);
                acts[sketch.at("later")] = act('c');
                acts[sketch.at("hidden")].hidden = true;
            },
            &[],
        );
        assert!(shown.contains(&format!("s:{expected} ")), "{requisites}: {shown}");
    }
}

#[test]
fn a_bad_state_blocks_what_it_looks_ahead_at() {
    let text = "s prereq=t\nt\nu require=t";
    let changes = |_: &Sketch, acts: &mut Vec<Act>| *acts = vec![act('c'); 3];
    assert_eq!(walked(text, changes, &[]), "s:changed t:changed u:changed");
    let fails = |_: &Sketch, acts: &mut Vec<Act>| *acts = vec![act('f'), act('c'), act('c')];
    assert_eq!(walked(text, fails, &[]), "s:failed t:blocked u:blocked");
    let skipped = |_: &Sketch, acts: &mut Vec<Act>| *acts = vec![act('s'), act('c'), act('c')];
    assert_eq!(walked(text, skipped, &[]), "s:skipped t:changed u:changed");
    let hidden = |_: &Sketch, acts: &mut Vec<Act>| acts[1].hidden = true;
    assert_eq!(walked(text, hidden, &[]), "s:blocked t:blocked u:blocked");
}

#[test]
fn prereq_asks_what_would_really_come_of_its_targets() {
    let all = |_: &Sketch, acts: &mut Vec<Act>| acts.iter_mut().for_each(|act| *act = Act::changed());
    // `t` runs only if `x` changed, which it did not; its analysis alone would say change.
    let quiet = |sketch: &Sketch, acts: &mut Vec<Act>| {
        all(sketch, acts);
        acts[sketch.at("x")] = Act::unchanged();
    };
    assert_eq!(walked("s prereq=t\nx\nt onchanges=x", quiet, &[]), "s:skipped x:unchanged t:skipped");
    assert_eq!(walked("s prereq=t\nx\nt onchanges=x", all, &[]), "s:changed x:changed t:changed");
    // The same among the targets themselves.
    assert_eq!(walked("s prereq=x,t\nx\nt onchanges=x", quiet, &[]), "s:skipped x:unchanged t:skipped");
    // And along a chain of looking ahead.
    let end = |sketch: &Sketch, acts: &mut Vec<Act>| {
        all(sketch, acts);
        acts[sketch.at("c")] = Act::unchanged();
    };
    assert_eq!(walked("a prereq=b\nb prereq=c\nc", end, &[]), "a:skipped b:skipped c:unchanged");
    assert_eq!(walked("a prereq=b\nb prereq=c\nc", all, &[]), "a:changed b:changed c:changed");
    // A refresh that is due is a change, unless a guard gates it.
    let watched = |sketch: &Sketch, acts: &mut Vec<Act>| acts[sketch.at("x")] = Act::changed();
    let text = "x\ns prereq=t\nt watch=x refreshes";
    assert_eq!(walked(text, watched, &[]), "x:changed s:unchanged t:changed+");
    let none = |_: &Sketch, _: &mut Vec<Act>| {};
    let owed = [owes("t", DebtKind::Refresh, "x")];
    assert_eq!(walked(text, none, &owed), "x:unchanged s:unchanged t:changed+");
    let gated = |sketch: &Sketch, acts: &mut Vec<Act>| acts[sketch.at("t")] = act('s');
    assert_eq!(walked(text, gated, &owed), "x:unchanged s:skipped t:skipped");
}

#[test]
fn a_trigger_is_owed_for_the_kind_that_named_its_cause() {
    let none = |_: &Sketch, _: &mut Vec<Act>| {};
    let text = "a\nb\ns onchanges=a onchanges_any=b";
    let owed = |causes: &[&str]| -> Vec<Debt> {
        causes.iter().map(|cause| owes("s", DebtKind::Trigger, cause)).collect()
    };
    assert!(walked(text, none, &owed(&["a"])).ends_with("s:skipped"));
    assert!(walked(text, none, &owed(&["b"])).ends_with("s:skipped"));
    assert!(walked(text, none, &owed(&["a", "b"])).ends_with("s:unchanged"));
    // Its cause is gone from the file: it is paid all the same.
    assert!(walked(text, none, &owed(&["gone"])).ends_with("s:unchanged"));
    // Of another module: nobody here owes it.
    let other = Debt { module: "cmd".into(), ..owes("s", DebtKind::Trigger, "gone") };
    assert!(walked(text, none, std::slice::from_ref(&other)).ends_with("s:skipped"));
    let mut sketch = Sketch::new(text);
    sketch.catalog.left_out.insert("unchosen".into(), "file".into());
    let all: Owed = [
        other.clone(),
        owes("s", DebtKind::Trigger, "a"),
        owes("nobody", DebtKind::Listen, "a"),
        owes("unchosen", DebtKind::Trigger, "a"),
    ]
    .into_iter()
    .collect();
    let orphans = all.orphans(&sketch.catalog);
    assert_eq!(orphans, [&owes("nobody", DebtKind::Listen, "a"), &other]);
}

#[test]
fn without_a_refresh_watch_means_require_and_listen_nothing() {
    let changed = |_: &Sketch, acts: &mut Vec<Act>| acts[0] = Act::changed();
    let owed = [owes("s", DebtKind::Refresh, "t"), owes("s", DebtKind::Listen, "t")];
    assert_eq!(walked("t\ns watch=t listen=t", changed, &owed), "t:changed s:unchanged");
    let sketch = Sketch::new("t\ns watch=t listen=t");
    let order = sketch.order();
    let mut machine = Machine::new(&sketch, &order, vec![Act::changed(), Act::unchanged()]);
    machine.disk = owed.into_iter().collect();
    machine.run(&mut |_| 0).unwrap();
    assert_eq!(machine.disk, BTreeSet::new());
}

#[test]
fn a_refresh_makes_a_state_changed_or_failed() {
    let text = "t\ns watch=t refreshes\nu watch=s refreshes";
    let good = |_: &Sketch, acts: &mut Vec<Act>| acts[0] = Act::changed();
    assert_eq!(walked(text, good, &[]), "t:changed s:changed+ u:changed+");
    let bad = |_: &Sketch, acts: &mut Vec<Act>| {
        acts[0] = Act::changed();
        acts[1].refresh = Refresh::Failed;
    };
    assert_eq!(walked(text, bad, &[]), "t:changed s:failed+ u:blocked");
    let gated = |_: &Sketch, acts: &mut Vec<Act>| {
        acts[0] = Act::changed();
        acts[1].guard = Guard::Skip;
    };
    assert_eq!(walked(text, gated, &[]), "t:changed s:skipped u:unchanged");
}

#[test]
fn listen_refreshes_once_at_the_end_and_sets_off_nothing() {
    let changed = |sketch: &Sketch, acts: &mut Vec<Act>| acts[sketch.at("t")] = Act::changed();
    let text = "s listen=t refreshes\nu watch=s listen=s refreshes\nt";
    assert_eq!(walked(text, changed, &[]), "s:changed+ u:unchanged t:changed");
    let failed = |sketch: &Sketch, acts: &mut Vec<Act>| {
        changed(sketch, acts);
        acts[0].refresh = Refresh::Failed;
    };
    assert_eq!(walked(text, failed, &[]), "s:failed+ u:unchanged t:changed");
    for (letter, expected) in [('s', "s:skipped"), ('f', "s:failed")] {
        let set = |sketch: &Sketch, acts: &mut Vec<Act>| {
            changed(sketch, acts);
            acts[0] = act(letter);
        };
        let shown = walked("s listen=t refreshes\nt", set, &[]);
        assert_eq!(shown, format!("{expected} t:changed"));
    }
    // A refresh that is no change of its own.
    let quiet = |sketch: &Sketch, acts: &mut Vec<Act>| {
        changed(sketch, acts);
        acts[0].refresh = Refresh::Quiet;
    };
    assert_eq!(walked(text, quiet, &[]), "s:unchanged+ u:unchanged t:changed");
    // Already refreshed after all that it listens to: not again.
    let sketch = Sketch::new("t\ns watch=t listen=t refreshes");
    let order = sketch.order();
    let mut machine = Machine::new(&sketch, &order, vec![Act::changed(), Act::unchanged()]);
    machine.run(&mut |_| 0).unwrap();
    assert_eq!(machine.refreshes(1), 1);
    assert_eq!(machine.disk, BTreeSet::new());
    // Refreshed before what it listens to had changed: that change is not lost.
    let sketch = Sketch::new("t\ns watch=t listen=late refreshes\nlate");
    let order = sketch.order();
    let mut machine = Machine::new(&sketch, &order, vec![Act::changed(), Act::unchanged(), Act::changed()]);
    machine.run(&mut |_| 0).unwrap();
    assert_eq!(machine.refreshes(1), 2);
}

#[test]
fn failhard_starts_nothing_more_but_what_the_failure_calls_for() {
    let text = "
        a
        broken failhard
        next
        quiet onchanges=a
        rescue onfail=broken
        idle onfail=a
        after require=rescue
        deep onfail=next";
    for mode in MODES {
        let sketch = Sketch::new(text).mode(mode);
        let order = sketch.order();
        let mut acts = vec![Act::unchanged(); 8];
        acts[1] = act('f');
        let mut machine = Machine::new(&sketch, &order, acts);
        machine.run(&mut |_| 0).unwrap();
        let outcome = |id| machine.outcomes[sketch.at(id)].word();
        assert_eq!(outcome("broken"), "failed");
        assert_eq!(outcome("rescue"), "unchanged", "{mode:?}");
        assert_eq!(outcome("after"), "blocked", "{mode:?}");
        if mode == OrderMode::Ansible {
            assert_eq!(outcome("a"), "unchanged");
            assert_eq!((outcome("next"), outcome("quiet")), ("blocked", "blocked"));
            // Whatever is not called for is blocked, and a blocked state is a bad one.
            assert_eq!((outcome("idle"), outcome("deep")), ("blocked", "unchanged"));
        }
    }
}

#[test]
fn failhard_of_the_run_and_reasons() {
    let sketch = Sketch::new("a\nb\nc require=b").failhard();
    let order = sketch.order();
    let owed = Owed::default();
    let mut walk = Walk::new(&sketch.catalog, &order, &owed, &Ran::default());
    assert_eq!(walk.next(), [Turn::Run(Run { state: 0, refresh: None, apply: true })]);
    assert_eq!(walk.next(), []);
    walk.ended(0, Ended::new(StateOutcome::Failed));
    let blocked =
        |state, reason: &str| Turn::Ended { state, outcome: StateOutcome::Blocked, reason: reason.into() };
    assert_eq!(walk.next(), [blocked(1, "failhard: a failed"), blocked(2, "failhard: a failed")]);
    assert!(walk.is_done());
    assert_eq!((walk.counts().failed, walk.counts().blocked), (1, 2));
    assert_eq!(walk.reason(1), Some("failhard: a failed"));
}

#[test]
fn reasons_are_plain() {
    let text = "
        bad
        quiet
        other
        last
        r require=bad
        rr require=r
        ra require_any=bad,r
        oc onchanges=quiet,other,last,p
        of onfail=quiet
        ofa onfail_all=bad,quiet
        p prereq=quiet
        needs needs=thing
        thing provides=thing require=bad";
    let sketch = Sketch::new(text);
    let order = sketch.order();
    let mut acts = vec![Act::unchanged(); 13];
    acts[0] = act('f');
    let mut machine = Machine::new(&sketch, &order, acts);
    machine.run(&mut |_| 0).unwrap();
    let reasons: Vec<String> =
        machine.reasons.iter().map(|(state, reason)| format!("{}: {reason}", sketch.id(*state))).collect();
    insta::assert_snapshot!(reasons.join("\n"), @r#"
    r: bad failed (require)
    rr: r was blocked (require)
    ra: none of bad, r is good (require_any)
    p: nothing would change in quiet (prereq)
    oc: nothing changed in quiet, other, last and 1 more (onchanges)
    of: nothing failed in quiet (onfail)
    ofa: not all of bad, quiet failed (onfail_all)
    thing: bad failed (require)
    needs: thing was blocked (needed)
    "#);
}

#[test]
fn a_halted_walk_starts_nothing_and_forgives_no_debt() {
    let sketch = Sketch::new("a\nb listen=a refreshes\nc onfail=b\nd onchanges=a");
    let order = sketch.order();
    let mut walk = Walk::new(&sketch.catalog, &order, &Owed::default(), &Ran::default());
    walk.next();
    let debts = walk.owes_before(0);
    assert_eq!(debts, [owes("b", DebtKind::Listen, "a"), owes("d", DebtKind::Trigger, "a")]);
    walk.halt("cancelled");
    walk.halt("later");
    assert_eq!(walk.ended(0, Ended::new(StateOutcome::Changed)), []);
    let turns = walk.next();
    let ended = |state| Turn::Ended { state, outcome: StateOutcome::Blocked, reason: "cancelled".into() };
    assert_eq!(turns, [ended(1), ended(2), ended(3)]);
    assert!(walk.is_done());
}

#[test]
fn one_by_one_beside_and_alone() {
    let begun = |text: &str, mode| {
        let sketch = Sketch::new(text).mode(mode);
        let order = sketch.order();
        let mut walk = Walk::new(&sketch.catalog, &order, &Owed::default(), &Ran::default());
        let mut rounds = Vec::new();
        while !walk.is_done() {
            let turns = walk.next();
            let states: Vec<StateIndex> = turns
                .iter()
                .flat_map(|turn| match turn {
                    Turn::Run(run) => vec![run.state],
                    Turn::Merged(runs) => runs.iter().map(|run| run.state).collect(),
                    other => panic!("{other:?}"),
                })
                .collect();
            if !states.is_empty() {
                rounds.push(states.iter().map(|state| sketch.id(*state)).collect::<Vec<_>>().join("+"));
            }
            assert!(rounds.len() <= 20, "{rounds:?}");
            // The one begun last ends first, as a slow state beside it would show.
            for state in states.into_iter().rev() {
                walk.ended(state, Ended::new(StateOutcome::Unchanged));
            }
        }
        rounds.join(" ")
    };
    let text = "a\nb\nc require=e\nd parallel=true\ne\nf";
    assert_eq!(begun(text, OrderMode::Ansible), "a b d+e c f");
    assert_eq!(begun(text, OrderMode::Justdoit), "a+b+d+e+f c");
    let text = "a parallel=false\nb\nc parallel=false\nd";
    assert_eq!(begun(text, OrderMode::Justdoit), "b+d+a c");
    let text = "a merge=m\nb\nc merge=m\nd require=c merge=m";
    assert_eq!(begun(text, OrderMode::Genius), "b+a+c d");
}

#[test]
fn what_is_held_back_for_want_of_room_is_still_stopped() {
    let sketch = Sketch::new("a\nskipped onchanges=c\nb\nc").mode(OrderMode::Justdoit).failhard();
    let order = sketch.order();
    let mut walk = Walk::new(&sketch.catalog, &order, &Owed::default(), &Ran::default());
    let run = |state| Turn::Run(Run { state, refresh: None, apply: true });
    assert_eq!(walk.next_within(2), [run(0), run(2)]);
    assert_eq!(walk.next_within(0), []);
    walk.ended(0, Ended::new(StateOutcome::Failed));
    walk.ended(2, Ended::new(StateOutcome::Changed));
    assert!(walk.next_within(1).iter().all(|turn| matches!(turn, Turn::Ended { .. })));
    assert_eq!((walk.counts().failed, walk.counts().changed, walk.counts().blocked), (1, 1, 2));
    assert!(walk.is_done());

    let sketch = Sketch::new("l listen=t refreshes\nm listen=t refreshes\nt").mode(OrderMode::Justdoit);
    let order = sketch.order();
    let mut walk = Walk::new(&sketch.catalog, &order, &Owed::default(), &Ran::default());
    walk.next();
    (0..3).for_each(|state| drop(walk.ended(state, Ended::new(StateOutcome::Changed))));
    for state in 0..2 {
        let turns = walk.next_within(1);
        assert!(matches!(turns[..], [Turn::Refresh { state: found, .. }] if found == state), "{turns:?}");
        assert!(!walk.is_done());
        walk.refreshed(state, Refreshed::Done);
    }
    assert!(walk.is_done());
}

#[test]
fn in_written_order_what_follows_a_waiting_state_waits_too() {
    let sketch = Sketch::new("p parallel=true\na require=p\nb");
    let order = sketch.order();
    let mut walk = Walk::new(&sketch.catalog, &order, &Owed::default(), &Ran::default());
    let run = |state| Turn::Run(Run { state, refresh: None, apply: true });
    assert_eq!(walk.next(), [run(0)]);
    walk.ended(0, Ended::new(StateOutcome::Unchanged));
    assert_eq!(walk.next(), [run(1)]);
    walk.ended(1, Ended::new(StateOutcome::Unchanged));
    assert_eq!(walk.next(), [run(2)]);
}

#[test]
fn a_merge_that_fails_is_tried_again_member_by_member() {
    let sketch =
        Sketch::new("a merge=p\nb merge=p\nc merge=p\nd require=a\ne require=b").mode(OrderMode::Genius);
    let order = sketch.order();
    let mut walk = Walk::new(&sketch.catalog, &order, &Owed::default(), &Ran::default());
    let run = |state| Run { state, refresh: None, apply: true };
    assert_eq!(walk.next(), [Turn::Merged(vec![run(0), run(1), run(2)])]);
    walk.ended(2, Ended::new(StateOutcome::Skipped));
    walk.merge_failed(&[0, 1]);
    assert_eq!(walk.next(), [Turn::Run(run(0))]);
    assert_eq!(walk.next(), []);
    walk.ended(0, Ended::new(StateOutcome::Changed));
    assert_eq!(walk.next(), [Turn::Run(run(3)), Turn::Run(run(1))]);
    walk.ended(1, Ended::new(StateOutcome::Failed));
    let reason = "b failed (require)".into();
    assert_eq!(walk.next(), [Turn::Ended { state: 4, outcome: StateOutcome::Blocked, reason }]);
}

#[test]
fn a_command_that_ran_is_not_run_again_unless_called_for() {
    let sketch = Sketch::new("t\ncmd watch=t refreshes\nagain onchanges=t\nguarded unless\nwhen when");
    let order = sketch.order();
    let mut ran = Ran::default();
    for declared in &sketch.catalog.states[1..] {
        ran.note(declared, StepWord::Opaque, StateOutcome::Changed);
    }
    let noted: Vec<bool> = sketch.catalog.states.iter().map(|state| ran.contains(&state.id)).collect();
    assert_eq!(noted, [false, true, true, false, true]);
    let mut walk = Walk::new(&sketch.catalog, &order, &Owed::default(), &ran);
    let mut runs = Vec::new();
    while !walk.is_done() {
        for turn in walk.next() {
            let Turn::Run(run) = turn else { panic!("{turn:?}") };
            let outcome = if run.state == 0 { StateOutcome::Changed } else { StateOutcome::Unchanged };
            walk.ended(run.state, Ended::new(outcome));
            runs.push((run.state, run.apply, run.refresh.is_some()));
        }
    }
    assert_eq!(
        runs,
        [(0, true, false), (1, false, true), (2, true, false), (3, true, false), (4, false, false)]
    );
}

#[test]
fn wrong_answers_are_not_heard() {
    let sketch = Sketch::new("a\nb onchanges=a\nc onchanges=b");
    let order = sketch.order();
    let mut walk = Walk::new(&sketch.catalog, &order, &Owed::default(), &Ran::default());
    walk.ended(1, Ended::new(StateOutcome::Changed));
    walk.ended(9, Ended::new(StateOutcome::Changed));
    walk.probed(9, 0, Probed::Unchanged);
    walk.refreshed(0, Refreshed::Done);
    walk.merge_failed(&[0, 9]);
    // What the first owes may be asked for ahead of its turn; the second may never have one.
    assert!(walk.owes_before(1).is_empty() && walk.owes_before(9).is_empty());
    assert_eq!((walk.outcome(0), walk.outcome(9), walk.reason(9)), (None, None, None));
    assert_eq!(walk.next().len(), 1);
}

#[test]
fn an_empty_catalog_is_done_at_once() {
    let sketch = Sketch::new("");
    let order = sketch.order();
    let mut walk = Walk::new(&sketch.catalog, &order, &Owed::default(), &Ran::default());
    assert!(!walk.is_done());
    assert_eq!(walk.next(), []);
    assert!(walk.is_done());
}

/// What was reported against Salt, each with the number of its issue there.
mod reports {
    use super::*;

    #[test]
    fn a_watched_service_that_is_enabled_and_restarted_14183_59688() {
        // Its own change (enabling) is no refresh, so the refresh comes after it.
        let enabled = |_: &Sketch, acts: &mut Vec<Act>| *acts = vec![Act::changed(), Act::changed()];
        let text = "conf\nservice watch=conf refreshes";
        assert_eq!(walked(text, enabled, &[]), "conf:changed service:changed+");
        // Started just now: that amounts to it, and the module says so.
        let started = |_: &Sketch, acts: &mut Vec<Act>| {
            *acts = vec![Act::changed(), Act { refresh: Refresh::NotNeeded, ..Act::changed() }];
        };
        assert_eq!(walked(text, started, &[]), "conf:changed service:changed");
        assert_eq!(walked(text, |_, acts| acts[1] = Act::changed(), &[]), "conf:unchanged service:changed");
    }

    #[test]
    fn onchanges_with_several_targets_is_any_56133() {
        let one = |_: &Sketch, acts: &mut Vec<Act>| acts[1] = Act::changed();
        assert_eq!(walked("a\nb\ns onchanges=a,b", one, &[]), "a:unchanged b:changed s:unchanged");
    }

    #[test]
    fn an_unless_skipped_target_lets_dependents_run_54213() {
        let skipped = |_: &Sketch, acts: &mut Vec<Act>| acts[0].guard = Guard::Skip;
        let text = "t unless\nr require=t\nw watch=t refreshes\nc onchanges=t";
        assert_eq!(walked(text, skipped, &[]), "t:skipped r:unchanged w:unchanged c:skipped");
    }

    #[test]
    fn prereq_beside_a_require_on_the_same_pair_51839() {
        let text = "t require=s\ns prereq=t";
        let changes = |_: &Sketch, acts: &mut Vec<Act>| *acts = vec![Act::changed(); 2];
        assert_eq!(walked(text, changes, &[]), "t:changed s:changed");
        assert_eq!(walked(text, |_, _| {}, &[]), "t:unchanged s:skipped");
        let fails = |_: &Sketch, acts: &mut Vec<Act>| *acts = vec![Act::changed(), act('f')];
        assert_eq!(walked(text, fails, &[]), "t:blocked s:failed");
    }

    #[test]
    fn predicted_changes_fire_no_onchanges_62408() {
        let sketch = Sketch::new("conf\nreload onchanges=conf");
        let order = sketch.order();
        let ran = Ran::default();
        let mut outlook = Outlook::new(&sketch.catalog, &order, &Owed::default(), &ran);
        let judgement = outlook.judge(0);
        outlook.settle(0, &judgement, Some(Foreseen::Step(StepWord::Change)));
        assert_eq!(
            outlook.judge(1),
            Judgement::Conditional {
                until: 0,
                reason: "if it changes: conf (onchanges)".into(),
                refresh: None
            }
        );
    }

    #[test]
    fn listen_to_a_glob_27266() {
        let text = "service listen=vhost-a,vhost-b,vhost-c refreshes\nvhost-a\nvhost-b\nvhost-c";
        let sketch = Sketch::new(text);
        let order = sketch.order();
        let acts = vec![Act::unchanged(), Act::unchanged(), Act::changed(), Act::changed()];
        let mut machine = Machine::new(&sketch, &order, acts);
        machine.run(&mut |_| 0).unwrap();
        assert_eq!(machine.refreshes(0), 1);
        assert_eq!(machine.events.last(), Some(&Event::Cleared));
    }

    #[test]
    fn an_index_refresh_owed_by_repositories_happens_once_13361() {
        let text = "
            repo-a module=pkgrepo merge=repo
            repo-b module=pkgrepo merge=repo
            index watch=repo-a,repo-b provides=package-index refreshes
            pkg-a module=pkg merge=install needs=package-index
            pkg-b module=pkg merge=install needs=package-index";
        for mode in MODES {
            let sketch = Sketch::new(text).mode(mode);
            let order = sketch.order();
            let mut acts = vec![Act::changed(); 5];
            acts[2] = Act::unchanged();
            let mut machine = Machine::new(&sketch, &order, acts.clone());
            machine.run(&mut |_| 0).unwrap();
            assert_eq!(machine.refreshes(2), 1);
            let refreshed = machine.events.iter().position(|event| *event == Event::Refreshed(2)).unwrap();
            let began = |event: &Event| matches!(event, Event::Began(3 | 4));
            assert!(refreshed < machine.events.iter().position(began).unwrap(), "{mode:?}");
            // Owed from a run that was killed right before it: once, in the next run.
            let owed = machine.events.iter().position(|event| *event == Event::Began(2)).unwrap() + 1;
            let mut killed = Machine::new(&sketch, &order, acts.clone());
            killed.kill_after = Some(owed);
            assert!(killed.run(&mut |_| 0).is_none());
            let mut next = Machine::new(&sketch, &order, vec![Act::unchanged(); 5]);
            next.disk = killed.disk;
            next.run(&mut |_| 0).unwrap();
            assert_eq!((next.refreshes(2), next.disk.len()), (1, 0));
        }
    }
}

//! The analyze phase: what is foretold comes true, and what cannot be foretold is said to be so.

use proptest::prelude::*;

use super::super::*;
use super::machine::{Act, Apply, Guard, Machine};
use crate::state::catalog::OrderMode;
use crate::state::order::{Edge, Order, Why};
use crate::state::sketch::Sketch;
use crate::state::{StateOutcome, StepWord};

/// Judges all states by what is set for each, and returns the judgements in written order.
fn looked_ahead<'a>(
    sketch: &'a Sketch,
    order: &'a Order,
    acts: &[Act],
    owed: &Owed,
    ran: &'a Ran,
) -> (Vec<Judgement>, Outlook<'a>) {
    let mut outlook = Outlook::new(&sketch.catalog, order, owed, ran);
    let mut judgements = vec![None; acts.len()];
    for state in order.sequence.iter().copied() {
        let mut rounds = 0;
        let judgement = loop {
            match outlook.judge(state) {
                Judgement::Probe { targets } => {
                    assert!(!targets.is_empty());
                    for target in targets {
                        outlook.probed(state, target, foreseen(&acts[target]));
                    }
                }
                judgement => break judgement,
            }
            rounds += 1;
            assert!(rounds <= acts.len() + 1, "it asks without end");
        };
        let found = match judgement {
            Judgement::Analyse { .. }
                if outlook.guards_wait_for(state).is_some() && acts[state].guard == Guard::Skip =>
            {
                Some(Foreseen::Step(StepWord::Conditional))
            }
            Judgement::Analyse { .. } => Some(foreseen(&acts[state])),
            Judgement::Conditional { .. } if acts[state].guard == Guard::Never => Some(Foreseen::Skipped),
            _ => None,
        };
        outlook.settle(state, &judgement, found);
        judgements[state] = Some(judgement);
    }
    (judgements.into_iter().flatten().collect(), outlook)
}

fn foreseen(act: &Act) -> Foreseen {
    match act.probe() {
        Probed::Error(_) => Foreseen::Step(StepWord::Error),
        Probed::Skipped => Foreseen::Skipped,
        Probed::Unchanged => Foreseen::Step(StepWord::Unchanged),
        Probed::WouldChange if act.opaque => Foreseen::Step(StepWord::Opaque),
        Probed::WouldChange => Foreseen::Step(StepWord::Change),
    }
}

fn shown(text: &str, set: impl Fn(&Sketch, &mut Vec<Act>), owed: &[Debt]) -> Vec<String> {
    let sketch = Sketch::new(text);
    let order = sketch.order();
    let mut acts = vec![Act::unchanged(); sketch.links.len()];
    set(&sketch, &mut acts);
    let ran = Ran::default();
    let owed: Owed = owed.iter().cloned().collect();
    let (judgements, outlook) = looked_ahead(&sketch, &order, &acts, &owed, &ran);
    let names =
        |states: &[StateIndex]| states.iter().map(|state| sketch.id(*state)).collect::<Vec<_>>().join("+");
    let refreshed = |refresh: &Option<Vec<StateIndex>>| match refresh {
        Some(because) => format!(", refresh({})", names(because)),
        None => String::new(),
    };
    let mut lines: Vec<String> = judgements
        .iter()
        .enumerate()
        .map(|(state, judgement)| {
            let text = match judgement {
                Judgement::Analyse { refresh } => format!("analyse{}", refreshed(refresh)),
                Judgement::Ran { refresh } => format!("ran{}", refreshed(refresh)),
                Judgement::Probe { .. } => "probe".into(),
                Judgement::Skipped { reason } => format!("skipped, {reason}"),
                Judgement::Conditional { until, reason, refresh } => {
                    format!("conditional until {}, {reason}{}", sketch.id(*until), refreshed(refresh))
                }
                Judgement::Blocked { reason, .. } => reason.clone(),
            };
            format!("{}: {text}", sketch.id(state))
        })
        .collect();
    for (state, because) in outlook.listens() {
        let because = if because.is_empty() { "what is owed".into() } else { names(&because) };
        lines.push(format!("{} listens to {because}", sketch.id(state)));
    }
    lines.push(format!("asks: {}", names(&outlook.asks_again())));
    lines
}

#[test]
fn what_is_pending_makes_conditional_what_hangs_on_it() {
    let text = "
        conf
        quiet
        r require=conf
        w watch=conf,quiet refreshes
        ww watch=w refreshes
        oc onchanges=conf,quiet
        oq onchanges=quiet
        of onfail=conf
        ofq onfail=quiet
        ofa onfail_all=conf,quiet
        ofo onchanges=of
        s prereq=t
        t
        sq prereq=quiet2
        quiet2
        l listen=conf refreshes";
    let set = |sketch: &Sketch, acts: &mut Vec<Act>| {
        acts[sketch.at("conf")] = Act::changed();
        acts[sketch.at("t")] = Act::changed();
    };
    insta::assert_snapshot!(shown(text, set, &[]).join("\n"), @r#"
    conf: analyse
    quiet: analyse
    r: analyse
    w: analyse, refresh(conf)
    ww: analyse, refresh(w)
    oc: conditional until conf, if it changes: conf (onchanges)
    oq: skipped, nothing changes in quiet (onchanges)
    of: conditional until conf, only if it fails: conf (onfail)
    ofq: skipped, nothing fails in quiet (onfail)
    ofa: skipped, not all of conf, quiet fail (onfail_all)
    ofo: conditional until of, if it changes: of (onchanges)
    s: analyse
    t: analyse
    sq: skipped, nothing would change in quiet2 (prereq)
    quiet2: analyse
    l: analyse
    l listens to conf
    asks: conf+w+ww+oc+t
    "#);
}

#[test]
fn what_requires_a_state_in_error_is_blocked_or_conditional() {
    let text = "
        conf
        err
        late require=conf
        r require=err
        rr require=r
        any require_any=err,conf
        none require_any=err
        doubt require=late
        oc onchanges=err
        of onfail=err
        after require=of
        s prereq=hidden
        hidden
        x require=hidden";
    let set = |sketch: &Sketch, acts: &mut Vec<Act>| {
        acts[sketch.at("conf")] = Act::changed();
        for id in ["err", "late", "hidden"] {
            acts[sketch.at(id)].hidden = true;
        }
    };
    insta::assert_snapshot!(shown(text, set, &[]).join("\n"), @r#"
    conf: analyse
    err: analyse
    late: analyse
    r: blocked: err cannot be analysed (require)
    rr: blocked: r is blocked too (require)
    any: analyse
    none: blocked: err cannot be analysed (require_any)
    doubt: conditional until late, if it works: late (require)
    oc: blocked: err cannot be analysed (onchanges)
    of: conditional until err, only if it fails: err (onfail)
    after: analyse
    s: blocked: hidden cannot be analysed (prereq)
    hidden: analyse
    x: blocked: hidden cannot be analysed (require)
    asks: conf+doubt
    "#);
}

#[test]
fn what_may_be_blocked_in_the_end_calls_its_onfail_conditionally() {
    let text = "
        svc
        other
        r require=svc
        of onfail=r
        rr require=r
        off onfail=rr
        oc require=svc onchanges=other
        ofoc onfail=oc
        any require_any=svc,other
        ofany onfail=any
        never require=svc
        ofnever onfail=never
        all onfail_all=r,never
        notall onfail_all=r,other
        s prereq=t require=svc
        t
        oft onfail=t
        after require=ofany";
    let set = |sketch: &Sketch, acts: &mut Vec<Act>| {
        acts[sketch.at("svc")] = Act::changed();
        acts[sketch.at("never")].guard = Guard::Never;
    };
    insta::assert_snapshot!(shown(text, set, &[]).join("\n"), @r#"
    svc: analyse
    other: analyse
    r: analyse
    of: conditional until r, only if it fails: r (onfail)
    rr: analyse
    off: conditional until rr, only if it fails: rr (onfail)
    oc: skipped, nothing changes in other (onchanges)
    ofoc: conditional until oc, only if it fails: oc (onfail)
    any: analyse
    ofany: skipped, nothing fails in any (onfail)
    never: analyse
    ofnever: conditional until never, only if it fails: never (onfail)
    all: conditional until r, only if it fails: r (onfail_all)
    notall: skipped, not all of other, r fail (onfail_all)
    s: skipped, nothing would change in t (prereq)
    t: analyse
    oft: conditional until t, only if it fails: t (onfail)
    after: analyse
    asks: svc
    "#);
}

#[test]
fn under_failhard_all_that_comes_later_may_be_blocked() {
    let set = |_: &Sketch, acts: &mut Vec<Act>| acts[1] = Act::changed();
    let lines = shown("early\nsvc failhard\nconf\nof onfail=conf\nofe onfail=early", set, &[]);
    insta::assert_snapshot!(lines.join("\n"), @r#"
    early: analyse
    svc: analyse
    conf: analyse
    of: conditional until conf, only if it fails: conf (onfail)
    ofe: skipped, nothing fails in early (onfail)
    asks: svc
    "#);
}

#[test]
fn what_is_owed_is_in_the_plan() {
    let text = "t\nw watch=t refreshes\noc onchanges=t\nl listen=t refreshes\ns prereq=w";
    let owed = [
        super::owes("w", DebtKind::Refresh, "t"),
        super::owes("oc", DebtKind::Trigger, "t"),
        super::owes("l", DebtKind::Listen, "t"),
    ];
    insta::assert_snapshot!(shown(text, |_, _| {}, &owed).join("\n"), @r#"
    t: analyse
    w: analyse, refresh()
    oc: analyse
    l: analyse
    s: analyse
    l listens to what is owed
    asks: oc+l+w
    "#);
    // What has nothing to do for it, or is kept from it by a guard, has its turn all the same: that settles it.
    let set = |sketch: &Sketch, acts: &mut Vec<Act>| {
        for skipped in ["w", "oc", "l"] {
            acts[sketch.at(skipped)].guard = Guard::Skip;
        }
    };
    let lines = shown(text, set, &owed);
    assert_eq!(lines.last().map(String::as_str), Some("asks: oc+l+w"));
}

#[test]
fn guards_wait_for_pending_states_by_edges_and_probes_also_by_written_order() {
    for (mode, waits) in [(OrderMode::Ansible, Some(1)), (OrderMode::Justdoit, None)] {
        let sketch =
            Sketch::new("quiet\nconf\nmid require=conf\nafter require=mid\napart\nprobe require=quiet")
                .mode(mode);
        let order = sketch.order();
        let mut acts = vec![Act::unchanged(); 6];
        acts[1] = Act::changed();
        let ran = Ran::default();
        let (_, outlook) = looked_ahead(&sketch, &order, &acts, &Owed::default(), &ran);
        let guards: Vec<Option<StateIndex>> = (0..6).map(|state| outlook.guards_wait_for(state)).collect();
        assert_eq!(guards, [None, None, Some(1), Some(1), None, None]);
        assert_eq!(outlook.probe_waits_for(5), waits, "{mode:?}");
    }
}

#[test]
fn a_command_that_ran_asks_for_no_other_cycle() {
    let text = "cmd module=cmd\nafter require=cmd unless\nfixed module=cmd unless\nrescue onfail=cmd\nw watch=cmd refreshes";
    let sketch = Sketch::new(text);
    let order = sketch.order();
    let opaque = Act { opaque: true, ..Act::changed() };
    let acts = vec![opaque.clone(), Act::unchanged(), Act::unchanged(), Act::unchanged(), Act::unchanged()];
    let mut ran = Ran::default();
    let (_, first) = looked_ahead(&sketch, &order, &acts, &Owed::default(), &ran);
    assert_eq!(first.asks_again(), [0, 4]);
    ran.note(&sketch.catalog.states[0], StepWord::Opaque, StateOutcome::Failed);
    assert!(!ran.contains(&sketch.catalog.states[0].id));
    ran.note(&sketch.catalog.states[0], StepWord::Opaque, StateOutcome::Changed);
    let (judgements, second) = looked_ahead(&sketch, &order, &acts, &Owed::default(), &ran);
    assert_eq!(judgements[0], Judgement::Ran { refresh: None });
    assert_eq!(second.guards_wait_for(1), None);
    assert!(second.asks_again().is_empty());
    // A guard that still lets a command through says that its work is not done.
    let mut acts = acts;
    acts[2] = opaque;
    ran.note(&sketch.catalog.states[2], StepWord::Opaque, StateOutcome::Changed);
    let (_, third) = looked_ahead(&sketch, &order, &acts, &Owed::default(), &ran);
    assert_eq!(third.asks_again(), [2]);
}

#[test]
fn an_error_asks_for_no_other_cycle() {
    let set = |_: &Sketch, acts: &mut Vec<Act>| acts[0].hidden = true;
    let lines = shown("err\nr require=err\nof onfail=err", set, &[]);
    assert_eq!(lines.last().unwrap(), "asks: ");
    // Nor where something earlier may put it right: that asks by itself.
    let set = |_: &Sketch, acts: &mut Vec<Act>| {
        acts[0] = Act::changed();
        acts[1].hidden = true;
    };
    let lines = shown("conf\nerr require=conf", set, &[]);
    assert_eq!(lines.last().unwrap(), "asks: conf");
}

#[test]
fn what_failhard_will_leave_undone_is_said_to_be_so() {
    let text = "
        before
        err failhard
        next
        quiet onchanges=next
        r require=err
        rescue onfail=err
        idle onfail=before
        after require=rescue
        l listen=before refreshes";
    let set = |sketch: &Sketch, acts: &mut Vec<Act>| {
        for id in ["before", "next", "after"] {
            acts[sketch.at(id)] = Act::changed();
        }
        acts[sketch.at("err")].hidden = true;
    };
    insta::assert_snapshot!(shown(text, set, &[]).join("\n"), @r#"
    before: analyse
    err: analyse
    next: conditional until err, blocked: err cannot be analysed (failhard)
    quiet: conditional until err, blocked: err cannot be analysed (failhard)
    r: blocked: err cannot be analysed (require)
    rescue: conditional until err, only if it fails: err (onfail)
    idle: conditional until before, only if it fails: before (onfail)
    after: conditional until err, blocked: err cannot be analysed (failhard)
    l: conditional until err, blocked: err cannot be analysed (failhard)
    asks: before
    "#);
}

#[test]
fn only_one_by_one_is_it_known_what_failhard_leaves_undone() {
    let set = |_: &Sketch, acts: &mut Vec<Act>| acts[0].hidden = true;
    for text in ["err\nnext", "err failhard parallel=true\nnext", "ahead prereq=err\nerr failhard\nnext"] {
        let set = |sketch: &Sketch, acts: &mut Vec<Act>| acts[sketch.at("err")].hidden = true;
        assert!(shown(text, set, &[]).contains(&"next: analyse".to_owned()), "{text}");
    }
    // Something earlier may put it right.
    let stirred = |sketch: &Sketch, acts: &mut Vec<Act>| {
        set(sketch, acts);
        acts[0] = Act::changed();
        acts[1].hidden = true;
    };
    let lines = shown("conf\nerr failhard require=conf\nnext", stirred, &[]);
    assert!(lines.contains(&"next: analyse".to_owned()), "{lines:?}");
}

/// Whether a target of `prereq` itself hangs on the state which looks ahead at it. An error of it is not foreseen.
fn is_entwined(sketch: &Sketch, order: &Order) -> bool {
    sketch.catalog.states.iter().enumerate().any(|(by, declared)| {
        declared.requisites.targets(RequisiteKind::Prereq).iter().any(|target| {
            let hangs = |edge: &Edge| edge.why != Why::Prereq && order.place(edge.before) >= order.place(by);
            order.edges_before(*target).iter().any(hangs)
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    /// What would change does change here, and what cannot be analysed fails: then whatever is foretold without a condition
    /// comes true.
    #[test]
    fn what_is_foretold_comes_true(
        (sketch, acts, owed) in super::random::world(),
        failhard in prop::bool::weighted(0.2),
    ) {
        let mut sketch = sketch;
        if sketch.catalog.order != OrderMode::Ansible {
            // What has begun by then hangs on the machine.
            sketch.catalog.failhard = false;
            sketch.catalog.states.iter_mut().for_each(|state| state.options.failhard = false);
        } else {
            sketch.catalog.failhard = failhard;
            sketch.catalog.states.iter_mut().for_each(|state| state.options.parallel = None);
        }
        let Ok(order) = sketch.try_order() else { return Ok(()) };
        let acts: Vec<Act> = acts[..sketch.links.len()]
            .iter()
            .cloned()
            .map(|mut act| {
                act.opaque = false;
                act.hidden = false;
                act.refresh = super::Refresh::Done;
                if act.apply == Apply::Failed {
                    act.apply = Apply::Changed;
                }
                act
            })
            .collect();
        let ran = Ran::default();
        let debts: Owed = owed.iter().cloned().collect();
        let (judgements, outlook) = looked_ahead(&sketch, &order, &acts, &debts, &ran);
        // What is conditional is not analysed, so that it would fail is not foreseen.
        let unforeseen = judgements.iter().zip(&acts).any(|(judgement, act)| {
            matches!(judgement, Judgement::Conditional { .. }) && act.guard == Guard::Broken
        });
        // An error that something earlier may put right, or that another state meets first, may end the run early.
        let surprising = judgements.iter().enumerate().any(|(state, judgement)| {
            let trips = sketch.catalog.failhard || sketch.catalog.states[state].options.failhard;
            let fails = acts[state].guard == Guard::Broken && matches!(judgement, Judgement::Analyse { .. });
            trips && fails && outlook.ends_early_with() != Some(state)
        });
        if unforeseen || is_entwined(&sketch, &order) || surprising {
            return Ok(());
        }
        let mut machine = Machine::new(&sketch, &order, acts.clone());
        machine.disk = owed;
        let outcomes = machine.run(&mut |_| 0).expect("nobody kills it");
        for (state, judgement) in judgements.iter().enumerate() {
            let began = machine.events.contains(&super::Event::Began(state));
            match judgement {
                // Its own error may have blocked what looks ahead at it, and that blocks it.
                Judgement::Analyse { .. } if acts[state].guard == Guard::Broken => prop_assert!(outcomes[state].is_bad()),
                Judgement::Analyse { .. } => prop_assert!(began, "{}: {:?}", state, outcomes),
                Judgement::Skipped { .. } => prop_assert!(!began, "{}: {:?}", state, outcomes),
                Judgement::Blocked { .. } => {
                    prop_assert_eq!(outcomes[state], StateOutcome::Blocked, "{}: {:?}", state, &outcomes);
                }
                Judgement::Conditional { reason, .. } if reason.ends_with("(failhard)") => {
                    prop_assert_eq!(outcomes[state], StateOutcome::Blocked, "{}: {:?}", state, &outcomes);
                }
                Judgement::Conditional { until, .. } => prop_assert!(*until != state),
                Judgement::Ran { .. } | Judgement::Probe { .. } => prop_assert!(false),
            }
        }
        // With an error it is stable, too, and what only a failure calls for may run.
        if outlook.asks_again().is_empty() && outcomes.iter().all(|outcome| outcome.is_good()) {
            prop_assert!(!outcomes.contains(&StateOutcome::Changed), "{:?} {:?}", judgements, outcomes);
            let kept = |debt: &Debt| sketch.catalog.find(debt.state.as_str()).is_some();
            prop_assert!(!debts.iter().any(kept), "{:?} {:?}", judgements, debts);
        }
    }

    /// Whatever else works or fails; only what cannot be analysed fails for sure.
    #[test]
    fn what_a_plan_says_will_not_run_never_runs(
        (sketch, acts, owed) in super::random::world(),
        failhard in prop::bool::weighted(0.2),
        mode in 0..3usize,
    ) {
        let mut sketch = sketch.mode(super::MODES[mode]);
        if sketch.catalog.order == OrderMode::Ansible {
            sketch.catalog.failhard = failhard;
        } else {
            // What has begun by then hangs on the machine.
            sketch.catalog.states.iter_mut().for_each(|state| state.options.failhard = false);
        }
        let Ok(order) = sketch.try_order() else { return Ok(()) };
        if is_entwined(&sketch, &order) {
            return Ok(());
        }
        let mut acts = acts[..sketch.links.len()].to_vec();
        acts.iter_mut().filter(|act| act.hidden).for_each(|act| act.guard = Guard::Broken);
        let ran = Ran::default();
        let debts: Owed = owed.iter().cloned().collect();
        let (judgements, _) = looked_ahead(&sketch, &order, &acts, &debts, &ran);
        let mut machine = Machine::new(&sketch, &order, acts);
        machine.disk = owed;
        let outcomes = machine.run(&mut |_| 0).expect("nobody kills it");
        for (state, judgement) in judgements.iter().enumerate() {
            let began = machine.events.contains(&super::Event::Began(state));
            let is_quiet = matches!(judgement, Judgement::Skipped { .. });
            prop_assert!(!(is_quiet && began), "{}: {:?} {:?}", state, judgements, outcomes);
        }
    }
}

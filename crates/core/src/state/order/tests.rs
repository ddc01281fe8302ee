//! Orders, cycles, merges and what is said of them.

use insta::assert_snapshot;

use super::*;
use crate::state::catalog::Requisites;
use crate::state::sketch::{Sketch, declared, empty};

fn pairs(sketch: &Sketch) -> String {
    let order = sketch.order();
    let pairs =
        order.edges.iter().map(|edge| format!("{}<{}", sketch.id(edge.before), sketch.id(edge.after)));
    pairs.collect::<Vec<_>>().join(" ")
}

#[test]
fn written_order_unless_an_edge_says_otherwise() {
    assert_eq!(Sketch::new("c\nb\na").sequence(), "c b a");
    assert_eq!(Sketch::new("a require=c\nb\nc").sequence(), "b c a");
    assert_eq!(Sketch::new("a reads=b\nb").sequence(), "b a");
    for kind in RequisiteKind::ALL {
        let sequence = Sketch::new(&format!("a {}=b\nb", kind.word())).sequence();
        let orders = !matches!(kind, RequisiteKind::Listen | RequisiteKind::Prereq);
        assert_eq!(sequence, if orders { "b a" } else { "a b" }, "{kind:?}");
    }
    assert_eq!(Sketch::new("a\nb prereq=a").sequence(), "b a");
}

#[test]
fn order_breaks_ties_and_no_edge() {
    let text = "a\nb order=last\nc order=2\nd order=-1\ne order=first\nf\ng order=2";
    assert_eq!(Sketch::new(text).sequence(), "e d c g a f b");
    assert_eq!(Sketch::new("a\nb order=last\nc require=b\nd order=first require=c").sequence(), "a b c d");
}

#[test]
fn prereq_comes_after_what_its_targets_come_after() {
    // `stop` analyses `deploy`, which needs `fetch` to have been done.
    assert_eq!(
        Sketch::new("stop prereq=deploy\nfetch\ndeploy require=fetch").sequence(),
        "fetch stop deploy"
    );
    // What comes after another target comes after the state itself.
    let sketch = Sketch::new("s prereq=a,c\na\nb require=a\nc require=b");
    assert_eq!(sketch.sequence(), "s a b c");
    assert_eq!(pairs(&sketch), "s<a a<b s<c b<c");
    // Handed on through a target that looks ahead itself.
    assert_eq!(Sketch::new("s prereq=t\nt prereq=u\nu onchanges=p\np").sequence(), "p s t u");
}

#[test]
fn a_prereq_beside_a_require_on_the_same_pair() {
    // Salt issue 51839.
    assert_eq!(Sketch::new("t require=s\ns prereq=t").sequence(), "s t");
    let error = Sketch::new("t\ns prereq=t require=t").try_order().unwrap_err();
    assert_snapshot!(error, @"these states wait for each other: t → (prereq_in) s → (require) t");
}

#[test]
fn a_cycle_is_told_as_the_shortest_path_with_places() {
    let text = "x\na require=b\nb watch=c\nc onchanges=a,d\nd require=e\ne require=a";
    let OrderError::Cycle(cycle) = Sketch::new(text).try_order().unwrap_err() else { panic!("no cycle") };
    assert_snapshot!(cycle, @"these states wait for each other: a → (require) b → (watch) c → (onchanges) a");
    assert_eq!(cycle.steps[0].at, Place { file: 0, line: 2, column: 1 });
    let itself = Sketch::new("a require=a").try_order().unwrap_err();
    assert_snapshot!(itself, @"these states wait for each other: a → (require) a");
    let looking_ahead = Sketch::new("s prereq=t\np require=s\nt require=p").try_order().unwrap_err();
    assert_snapshot!(looking_ahead, @"these states wait for each other: s → (for prereq t) p → (require) s");
}

#[test]
fn a_target_that_is_not_there_is_an_error() {
    let mut catalog = empty();
    let mut state = declared("a", 0);
    state.requisites = Requisites { of: [(RequisiteKind::Listen, vec![7])].into(), reads: Vec::new() };
    catalog.states.push(state);
    assert_eq!(
        Order::build(&catalog, &[]).unwrap_err().to_string(),
        "a names state number 7, but the catalog has 1"
    );
}

#[test]
fn needs_come_after_what_provides_them() {
    let sketch = Sketch::new("conf needs=user:app\nuser provides=user:app\nother needs=nothing");
    assert_eq!(sketch.sequence(), "user conf other");
    assert_eq!(sketch.order().inferred(0), [1]);
    // What was written between the two says more than a bare require.
    let sketch = Sketch::new("a provides=x\nb needs=x onfail=a\nc needs=x listen=a\nd needs=x provides=x");
    assert_eq!(pairs(&sketch), "a<b d<b a<c d<c a<d");
    assert_eq!(sketch.order().inferred(1), [3]);
}

#[test]
fn of_those_that_build_on_what_they_all_provide_the_first_written_comes_first() {
    let sketch = Sketch::new(
        "base needs=d provides=d\nover needs=d provides=d\nlast needs=d provides=d\ndir provides=d",
    );
    assert_eq!(sketch.sequence(), "dir base over last");
    assert!(sketch.order().left_out.is_empty());
}

#[test]
fn what_only_secret_states_name_is_told_by_kind() {
    let sketch = Sketch::new("dir provides=path:/CANARY\nfile needs=path:/CANARY");
    let told = |is_secret: fn(usize) -> bool| {
        let mut order = sketch.order();
        order.hide_resources(is_secret);
        [order.dot(&sketch.catalog), order.mermaid(&sketch.catalog), order.explain(&sketch.catalog, 1)]
    };
    for text in told(|_| true) {
        assert!(!text.contains("CANARY") && text.contains("path:"), "{text}");
    }
    assert!(told(|state| state == 1).into_iter().all(|text| text.contains("CANARY")));
}

#[test]
fn an_inferred_edge_that_closes_a_cycle_is_left_out_and_named() {
    let sketch = Sketch::new("a provides=x needs=y\nb provides=y needs=x\nc provides=z require=d\nd needs=z");
    let order = sketch.order();
    assert_eq!(pairs(&sketch), "b<a d<c");
    assert_eq!(
        order.left_out,
        [
            LeftOut { provider: 0, needer: 1, resource: "x".into() },
            LeftOut { provider: 2, needer: 3, resource: "z".into() }
        ]
    );
    assert_snapshot!(order.explain(&sketch.catalog, 1), @r#"
    turn 1 of 4, written as number 2
    moved up: states written before it wait for others, or come later by their own order
    not after a, which provides x: a already comes after this one
    "#);
    assert_snapshot!(order.explain(&sketch.catalog, 2), @r#"
    turn 4 of 4, written as number 3
    after d: require
    right after d, for which it waited
    not before d, which needs z: this one already comes after d
    "#);
}

#[test]
fn what_a_prereq_target_needs_comes_before_the_prereq_where_it_can() {
    let sketch = Sketch::new("s prereq=t\np provides=x\nt needs=x");
    assert_eq!(sketch.sequence(), "p s t");
    let sketch = Sketch::new("s prereq=t\np provides=x require=s\nt needs=x");
    assert_eq!(sketch.sequence(), "s p t");
    assert!(sketch.order().left_out.is_empty());
}

const PACKAGES: &str = "
    repo-a module=pkgrepo merge=repo provides=package-index
    pkg-a module=pkg merge=install needs=package-index
    conf
    repo-b module=pkgrepo merge=repo provides=package-index
    pkg-b module=pkg merge=install needs=package-index
    pkg-late module=pkg merge=install needs=package-index require=conf2
    conf2 require=pkg-a
    pkg-c module=pkg merge=install needs=package-index
    pkg-as module=pkg merge=install needs=package-index become=app
    pkg-once module=pkg merge=install needs=package-index parallel=false
    pkg-again module=pkg merge=install needs=package-index retry";

#[test]
fn genius_merges_and_crosses_no_requisite() {
    let sketch = Sketch::new(PACKAGES).mode(OrderMode::Genius);
    let order = sketch.order();
    assert_eq!(
        sketch.sequence(),
        "conf repo-a repo-b pkg-once pkg-again pkg-as pkg-a pkg-b pkg-c conf2 pkg-late"
    );
    let merges: Vec<Vec<&str>> =
        order.merges.iter().map(|members| members.iter().map(|state| sketch.id(*state)).collect()).collect();
    assert_eq!(merges, [vec!["repo-a", "repo-b"], vec!["pkg-a", "pkg-b", "pkg-c"]]);
    assert!(Sketch::new(PACKAGES).order().merges.is_empty());
    assert!(Sketch::new(PACKAGES).mode(OrderMode::Justdoit).order().merges.is_empty());
}

#[test]
fn a_merge_waits_until_nothing_more_can_come_to_it() {
    let text = "p1 merge=p\nq1 merge=q require=p1\nq2 merge=q\np2 merge=p";
    assert_eq!(Sketch::new(text).mode(OrderMode::Genius).sequence(), "p1 p2 q1 q2");
    let text = "a1 merge=a\nb1 merge=b\nb2 merge=b require=a1\na2 merge=a";
    assert_eq!(Sketch::new(text).mode(OrderMode::Genius).sequence(), "a1 a2 b1 b2");
    let text = "a1 merge=a\nb1 merge=b\na2 merge=a require=b1";
    assert_eq!(Sketch::new(text).mode(OrderMode::Genius).sequence(), "b1 a1 a2");
}

#[test]
fn every_place_is_explained() {
    let sketch = Sketch::new(PACKAGES).mode(OrderMode::Genius);
    let order = sketch.order();
    let all: Vec<String> = order
        .sequence
        .iter()
        .map(|state| format!("{}: {}", sketch.id(*state), order.explain(&sketch.catalog, *state)))
        .collect();
    assert_snapshot!(all.join("\n"), @r#"
    conf: turn 1 of 11, written as number 3
    moved up: states written before it wait for others, or come later by their own order
    repo-a: turn 2 of 11, written as number 1
    applied as one with repo-b: no requisite lies between them, and they are held back until all are due
    repo-b: turn 3 of 11, written as number 4
    applied as one with repo-a: no requisite lies between them, and they are held back until all are due
    pkg-once: turn 4 of 11, written as number 10
    after repo-a: it provides package-index, which this one needs
    after repo-b: it provides package-index, which this one needs
    parallel: false, never together with another such state
    right after repo-b, for which it waited
    pkg-again: turn 5 of 11, written as number 11
    after repo-a: it provides package-index, which this one needs
    after repo-b: it provides package-index, which this one needs
    moved up: states written before it wait for others, or come later by their own order
    pkg-as: turn 6 of 11, written as number 9
    after repo-a: it provides package-index, which this one needs
    after repo-b: it provides package-index, which this one needs
    moved up: states written before it wait for others, or come later by their own order
    pkg-a: turn 7 of 11, written as number 2
    after repo-a: it provides package-index, which this one needs
    after repo-b: it provides package-index, which this one needs
    applied as one with pkg-b, pkg-c: no requisite lies between them, and they are held back until all are due
    pkg-b: turn 8 of 11, written as number 5
    after repo-a: it provides package-index, which this one needs
    after repo-b: it provides package-index, which this one needs
    applied as one with pkg-a, pkg-c: no requisite lies between them, and they are held back until all are due
    pkg-c: turn 9 of 11, written as number 8
    after repo-a: it provides package-index, which this one needs
    after repo-b: it provides package-index, which this one needs
    applied as one with pkg-a, pkg-b: no requisite lies between them, and they are held back until all are due
    conf2: turn 10 of 11, written as number 7
    after pkg-a: require
    right after pkg-a, for which it waited
    pkg-late: turn 11 of 11, written as number 6
    after repo-a: it provides package-index, which this one needs
    after repo-b: it provides package-index, which this one needs
    after conf2: require
    right after conf2, for which it waited
    "#);
}

#[test]
fn plain_orders_are_explained_too() {
    let sketch = Sketch::new(
        "note reads=version listen=conf refreshes
        app require=user watch=conf order=first
        conf needs=user:app
        user provides=user:app
        version parallel=true
        stop prereq=app
        bye order=last
        hello order=3",
    );
    let order = sketch.order();
    let all: Vec<String> = order
        .sequence
        .iter()
        .map(|state| format!("{}: {}", sketch.id(*state), order.explain(&sketch.catalog, *state)))
        .collect();
    assert_snapshot!(all.join("\n"), @r#"
    hello: turn 1 of 8, written as number 8
    order: 3, ahead of others that could go now and have none or a higher one
    moved up: states written before it wait for others, or come later by their own order
    user: turn 2 of 8, written as number 4
    moved up: states written before it wait for others, or come later by their own order
    conf: turn 3 of 8
    after user: it provides user:app, which this one needs
    version: turn 4 of 8, written as number 5
    parallel: what follows does not wait for it
    moved up: states written before it wait for others, or come later by their own order
    note: turn 5 of 8, written as number 1
    after version: this one reads its output
    refreshed at the end if conf changed: listen orders nothing
    right after version, for which it waited
    stop: turn 6 of 8
    after conf: app, which this one looks ahead at (prereq), comes after it
    after user: app, which this one looks ahead at (prereq), comes after it
    before app: prereq
    app: turn 7 of 8, written as number 2
    after conf: watch
    after user: require
    after stop: that one runs if this one would change (prereq)
    order: first, ahead of others that could go now
    right after stop, for which it waited
    bye: turn 8 of 8, written as number 7
    order: last, behind others that could go now
    moved back: states written after it could go before it
    "#);
}

#[test]
fn long_lists_are_cut() {
    let mut text: String = (0..40).map(|n| format!("c{n}\n")).collect();
    let targets = (0..40).map(|n| format!("c{n}")).collect::<Vec<_>>().join(",");
    text += &format!("s watch={targets} listen={targets} refreshes");
    let sketch = Sketch::new(&text);
    let explained = sketch.order().explain(&sketch.catalog, 40);
    assert!(explained.contains("\nafter c11: watch\nafter 28 more\n"), "{explained}");
    assert!(explained.ends_with("c0, c1, c2 and 37 more changed: listen orders nothing"), "{explained}");
}

#[test]
fn the_order_is_drawn() {
    let mut sketch = Sketch::new(
        "app require=user watch=conf,user refreshes
        conf needs=user:app module=file
        user provides=user:app
        p1 merge=p
        p2 merge=p
        stop prereq=app listen=conf",
    )
    .mode(OrderMode::Genius);
    sketch.catalog.states[1].id = "/etc/\"a\\b\" [x] <é>#1;".into();
    let order = sketch.order();
    assert_snapshot!(order.mermaid(&sketch.catalog), @r#"
    flowchart TD
      s2["user<br/>file"]
      s1["/etc/#34;a#92;b#34; #91;x#93; #60;é#62;#35;1#59;<br/>file"]
      s5["stop<br/>file"]
      s0["app<br/>file"]
      subgraph m0["applied as one"]
        s3["p1<br/>file"]
        s4["p2<br/>file"]
      end
      s1 -->|"watch"| s0
      s2 -->|"require, watch"| s0
      s5 -->|"prereq"| s0
      s2 -->|"needs user:app"| s1
      s1 -->|"for prereq app"| s5
      s2 -->|"for prereq app"| s5
      s1 -.->|"listen"| s5
    "#);
    assert_snapshot!(order.dot(&sketch.catalog), @r#"
    digraph states {
      node [shape=box];
      s2 [label="user\nfile"];
      s1 [label="/etc/\"a\\b\" [x] <é>#1;\nfile"];
      s5 [label="stop\nfile"];
      s0 [label="app\nfile"];
      subgraph cluster_0 {
        label="applied as one";
        s3 [label="p1\nfile"];
        s4 [label="p2\nfile"];
      }
      s1 -> s0 [label="watch"];
      s2 -> s0 [label="require, watch"];
      s5 -> s0 [label="prereq"];
      s2 -> s1 [label="needs user:app"];
      s1 -> s5 [label="for prereq app"];
      s2 -> s5 [label="for prereq app"];
      s1 -> s5 [label="listen", style=dotted, constraint=false];
    }
    "#);
}

/// Shapes that a search without bounds, or a recursion, would not survive.
#[test]
fn ten_thousand_states_in_each_mode() {
    const MANY: usize = 10_000;
    let chain = |kind: RequisiteKind, to: fn(usize) -> Option<usize>| {
        let mut catalog = empty();
        for at in 0..MANY {
            let mut state = declared(&format!("s{at}"), at);
            if let Some(target) = to(at) {
                state.requisites.of.insert(kind, vec![target]);
            }
            catalog.states.push(state);
        }
        catalog
    };
    let forward = |at: usize| at.checked_sub(1);
    let backward = |at: usize| (at + 1 < MANY).then_some(at + 1);
    let path = |to: fn(usize) -> Option<usize>| -> Vec<Links> {
        let link = |at| Links {
            provides: vec![format!("r{at}")],
            needs: to(at).map(|to| format!("r{to}")).into_iter().collect(),
            merge: Some("all".into()),
            refreshes: true,
        };
        (0..MANY).map(link).collect()
    };
    let plain = chain(RequisiteKind::Require, |_| None);
    let shapes = [
        (chain(RequisiteKind::Require, forward), Vec::new()),
        (chain(RequisiteKind::Require, backward), Vec::new()),
        (chain(RequisiteKind::Prereq, forward), Vec::new()),
        (chain(RequisiteKind::Prereq, backward), Vec::new()),
        (plain.clone(), path(backward)),
        (plain.clone(), path(|at| (at > 0).then_some(0))),
        (plain.clone(), path(|at| Some((at + 1) % MANY))),
        (chain(RequisiteKind::Require, |at| (at % 2 == 0).then_some(MANY - 1 - at)), path(|at| Some(at ^ 1))),
    ];
    for (at, (mut catalog, links)) in shapes.into_iter().enumerate() {
        for mode in [OrderMode::Ansible, OrderMode::Justdoit, OrderMode::Genius] {
            catalog.order = mode;
            let order = Order::build(&catalog, &links).unwrap();
            assert_eq!(order.sequence.len(), MANY, "shape {at}");
        }
    }
}

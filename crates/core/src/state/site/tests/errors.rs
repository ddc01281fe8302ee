//! The words of errors, each with its place.

use super::*;

/// All that is said of each file, with a line between them.
fn all(files: &[&str]) -> String {
    let others = [
        ("common.yaml", "states: {c: {pkg: {}}}"),
        ("empty.yaml", ""),
        ("loop.yaml", "include: site.yaml"),
        ("other.yaml", "vars: {x: 1}\nstates: {o: {pkg: {}}}"),
        ("another.yaml", "vars: {x: 2}"),
        ("vhost.yaml", "states: {conf: {pkg: {}}}"),
        ("top.yaml", "name: x\ntargets: {}"),
        ("bad.j2", "a\n  {{ nope }}\n{% if %}"),
        ("latin", "\u{e9}"),
    ];
    let said = files.iter().map(|text| {
        let mut files = vec![("site.yaml", *text)];
        files.extend(others);
        errors(&files)
    });
    said.collect::<Vec<_>>().join("\n\n")
}

#[test]
fn the_shape_of_the_file() {
    insta::assert_snapshot!(all(&[
        "stats: {}\nvars: [a]\norder: fast\nname: a b\nfailhard: 1",
        "[a]",
        "states: {a: x, b: [], c: {}}",
        "states:\n  a:\n    fil: {path: /x}\n  b:\n    file: {path: /x}\n    pkg: {}\n  c:\n    pkg: {}\n    requier: [a]",
        "states: {a: {pkg: {}}, a: {pkg: {}}}",
        "states:\n  a: {pkg: {}}\n\tb: 1",
        "states:\n  a:\n    cmd: {run: {{ x }}}\n",
        "states:\n  a:\n    cmd:\n      run: {{ x }}\n",
        "states: {}\n---\nstates: {}",
        "states:\n  a: {pkg: [x]}\n  b: {pkg: nginx}",
        "states: {'a*': {pkg: {}}, '': {pkg: {}}, 'include:x': {pkg: {}}}",
    ]), @"");
}

#[test]
fn parameters() {
    insta::assert_snapshot!(all(&[
        "states:\n  a:\n    file: {pth: /x, mode: 0644}\n  b:\n    user:\n      name: b\n      uid: '5'\n      system: yes\n  c: {pkg: {state: presnt}}",
        "states:\n  a: {file: {path: /a, source: none.txt}}\n  b: {file: {path: /b, source: '{{ facts.os }}'}}\n  c: {file: {path: /c, template: bad.j2}}\n  d: {file: {path: /d, tree: nodir}}",
        "vars: {mode: 0640, port: 80}\nstates:\n  a: {file: {path: /a, mode: '{{ mode }}', content: '{{ port }}'}}",
        "states: {a: {file: {path: /a, content: {$blob: x}}}}",
        "states: {a: {cmd: {run: a, changed_when: \"'x' in (\"}}}",
    ]), @"");
}

#[test]
fn templates() {
    insta::assert_snapshot!(all(&[
        "vars: {port: 80}\nstates:\n  a:\n    cmd:\n      run: \"a {{ prot }} b\"\n      env: {A: '{{ port | upcase }}', B: '{{ port', C: x {{ states[port] }}}\n",
        "states:\n  a:\n    cmd:\n      run: |\n        first\n        second {{ nope }}\n",
        "states:\n  a: {cmd: {run: \"{{ states['b'].x }}\"}}\n  bb: {cmd: {run: \"{{ states['bb'].x }}\"}}\n",
        "secrets: {token: canary}\nstates: {a: {cmd: {run: '{{ secrets.tokn }}'}}}",
        "states:\n  'a-{{ facts.os }}': {pkg: {}}\n  '{{ secrets.x }}': {pkg: {}}\n  b: {pkg: {}, require: \"{{ states['x'].y }}\", failhard: '{{ facts.os }}'}",
        "vars: {a: '{{ b }}', b: '{{ c }}', c: '{{ a }}', d: '{{ a }}', facts: 1, item: 2, e: '{{ facts.os }}'}",
        "states: {a: {cmd: {run: '{{ item }}'}}, b: {pkg: {}, when: '{{ x }}', unless: ' '}, c: {pkg: {}, when: 'x ==', retry: {attempts: 1, until: 'x =='}}}",
        "vars: {x: {y: 1}}\nstates: {a: {cmd: {run: '{{ x.z.a }}'}}}",
    ]), @"");
}

#[test]
fn requisites() {
    insta::assert_snapshot!(all(&[
        "states:\n  app: {pkg: {}, require: [ap, 'x*', {file: /etc/x}, {fil: /x}, {cmd: x}, 'include:nope', [], {}]}\n  s: {service: {}, watch: app}",
        "states:\n  a: {pkg: {}, require: [b]}\n  b: {pkg: {}, require_in: [c]}\n  c: {pkg: {}, prereq: [d]}\n  d: {pkg: {}, onchanges: [a]}\n  e: {pkg: {}, require: [e]}",
        "states:\n  a: {cmd: {run: \"{{ states['b'].x }}\"}}\n  b: {cmd: {run: x}, require: [a]}",
        "states:\n  a: {pkg: {}}\n  b: {pkg: {}, require: [a], onfail: [a]}\n  c: {cmd: {run: \"{{ states['a'].x }}\"}, onfail_all: ['a*']}",
        "states:\n  a: {file: {path: /x}}\n  b: {file: {path: /x}}\n  c: {pkg: {}, require: {file: /x}}\n  d: {pkg: {name: '{{ facts.os }}'}, require: ['d*'], use: [a]}",
        "include: [{file: vhost.yaml, as: a}, {file: vhost.yaml, as: b}, empty.yaml]\nstates: {s: {pkg: {}, require: ['include:vhost', 'include:empty']}}",
        "states: {n: {for_each: [], pkg: {}}, s: {pkg: {}, onchanges: [n], require: [n]}}",
        "states:\n  a: {pkg: {}, retry: 3}\n  b: {pkg: {}, retry: {attempts: 0}}\n  c: {pkg: {}, retry: {interval: soon, atempts: 1}}\n  d: {pkg: {}, retry: {attempts: 2, interval: 9d}, order: early, parallel: maybe}",
    ]), @"");
}

#[test]
fn composition() {
    insta::assert_snapshot!(all(&[
        "include: [none.yaml, loop.yaml, {file: a, var: x}, 7, '{{ facts.os }}.yaml', {vars: {}}]",
        "include: [other.yaml, another.yaml, top.yaml]",
        "include: [{file: vhost.yaml, vars: {n: 'a*'}}, {file: vhost.yaml, vars: {n: a}}, {file: vhost.yaml, vars: {n: a}}]",
        "include: common.yaml\nstates: {c: {pkg: {}}}",
        "states: {'x-{{ item }}': {for_each: [1, 1], pkg: {}}, b: {for_each: 3, pkg: {}}, c: {for_each: nope, pkg: {}}, d: {for_each: '{{ facts.x }}', pkg: {}}}",
        "groups: {a: [x], g: [h], h: [g], s: [s]}\nstates: {s: {pkg: {}, require: [g]}}",
        "targets:\n  'role=': [a]\n  '{{ facts.os }}': [a]\n  ok: [nope]\n  web: {states: [a], vras: {}}\nstates: {a: {pkg: {}}}",
        "states: {a: {pkg: {}, require: [b]}, b: {pkg: {}}, c: {pkg: {}, require_in: [d]}, d: {pkg: {}}}\ntargets: {'role=web': [a, c]}",
        "extensions:\n  disk: {path: x}\n  file: {path: x, sha256: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef}\n  x: {url: 'ftp://x', sha256: abc}\n  gone: {path: x, sha256: \"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\"}\nstates: {a: {gone: {}}}",
    ]), @"");
}

#[test]
fn secrets_are_in_no_error() {
    let said = all(&[
        "secrets:\n  a: [canary]\n  b: {env: NOPE}\n  c: {file: none}\n  d: {file: latin}\n  e: &canary\n",
        "secrets:\n  a: canary\n  canary canary\n",
        "secrets:\n  a: canary\n  a: canary\nstates: {}\n",
        "secrets: {t: canary}\nstates: {a: {cmd: {run: '{{ secrets.t | int + nope }}'}}}",
    ]);
    let shown: Vec<&str> = said.lines().filter(|line| line.contains("canary")).collect();
    assert_eq!(shown, [] as [&str; 0]);
    insta::assert_snapshot!(said, @"");
}

#[test]
fn what_only_holds_for_a_machine_names_it() {
    let input = SiteInput { machine_vars: ["ip".to_owned()].into(), ..input() };
    let disk = Disk::of(&[("site.yaml", "states:\n  a: {user: {uid: '{{ ip }}'}}")]);
    let errors = catalog_of(&input, &disk, &values(json!({"ip": "10.0.0.1"}))).unwrap_err();
    insta::assert_snapshot!(errors, @"");
    let only = SiteInput { only: vec!["nop*".into()], ..super::input() };
    let errors =
        catalog_of(&only, &Disk::of(&[("site.yaml", "states: {a: {pkg: {}}}")]), &Values::new()).unwrap_err();
    insta::assert_snapshot!(errors, @"");
}

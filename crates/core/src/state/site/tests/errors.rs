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
        (
            "used.yaml",
            "states:\n  conf: {file: {path: /c, content: '{{ name }}'}}\n  read: {cmd: {run: \"{{ states['conf'].size }}\"}}",
        ),
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
    ]), @r#"
    site.yaml:1:1: there is no part `stats` of a states file (did you mean states?)
      1 | stats: {}
        | ^
    site.yaml:2:7: `vars` is a map of names and variables, not a list
      2 | vars: [a]
        |       ^
    site.yaml:3:8: `order` is ansible, justdoit or genius
      3 | order: fast
        |        ^
    site.yaml:4:7: `name` is letters, digits, `-`, `_` and `.` (it names the catalog on the machines)
      4 | name: a b
        |       ^
    site.yaml:5:11: `failhard` is true or false
      5 | failhard: 1
        |           ^

    site.yaml:1:1: a states file is a map with `states` and other parts in it
      1 | [a]
        | ^

    site.yaml:1:10: the state `a` is a map, not a text (write a module with its parameters below it)
      1 | states: {a: x, b: [], c: {}}
        |          ^
    site.yaml:1:16: the state `b` is a map, not a list (write a module with its parameters below it)
      1 | states: {a: x, b: [], c: {}}
        |                ^
    site.yaml:1:23: the state `c` has no module (such as cmd, file, pkg, service, user)
      1 | states: {a: x, b: [], c: {}}
        |                       ^

    site.yaml:3:5: `fil` is no module, requisite or option (did you mean file?)
      3 |     fil: {path: /x}
        |     ^
    site.yaml:6:5: a state has one module, and this one has `file` and `pkg` (make two states of it)
      6 |     pkg: {}
        |     ^
    site.yaml:9:5: `requier` is no module, requisite or option (did you mean require?)
      9 |     requier: [a]
        |     ^

    site.yaml:1:24: duplicate mapping key: a not allowed here
      1 | states: {a: {pkg: {}}, a: {pkg: {}}}
        |                        ^

    site.yaml:3:2: tabs disallowed within this context (block indentation) (indent with spaces; tabs are taken within { } and [ ] only)
      3 |  b: 1
        |  ^

    site.yaml:3:16: a value with a template in it is not in quotes (write it as "{{ … }}")
      3 |     cmd: {run: {{ x }}}
        |                ^

    site.yaml:4:12: a value with a template in it is not in quotes (write it as "{{ … }}")
      4 |       run: {{ x }}
        |            ^

    site.yaml:2:1: a second document begins here (put it into a file of its own, and include that)
      2 | ---
        | ^

    site.yaml:2:12: `pkg` takes a map of parameters, not a list
      2 |   a: {pkg: [x]}
        |            ^
    site.yaml:3:12: `pkg` takes a map of parameters, not a text
      3 |   b: {pkg: nginx}
        |            ^

    site.yaml:1:10: `a*` cannot be an id (an id has 1 to 250 characters, no space at its ends, no control character, and none of `*`, `?` and `[`, which make a pattern; nor does it begin with `include:`)
      1 | states: {'a*': {pkg: {}}, '': {pkg: {}}, 'include:x': {pkg: {}}}
        |          ^
    site.yaml:1:27: `` cannot be an id (an id has 1 to 250 characters, no space at its ends, no control character, and none of `*`, `?` and `[`, which make a pattern; nor does it begin with `include:`)
      1 | states: {'a*': {pkg: {}}, '': {pkg: {}}, 'include:x': {pkg: {}}}
        |                           ^
    site.yaml:1:42: `include:x` cannot be an id (an id has 1 to 250 characters, no space at its ends, no control character, and none of `*`, `?` and `[`, which make a pattern; nor does it begin with `include:`)
      1 | states: {'a*': {pkg: {}}, '': {pkg: {}}, 'include:x': {pkg: {}}}
        |                                          ^
    "#);
}

#[test]
fn parameters() {
    insta::assert_snapshot!(all(&[
        "states:\n  a:\n    file: {pth: /x, mode: 0644}\n  b:\n    user:\n      name: b\n      uid: '5'\n      system: yes\n  c: {pkg: {state: presnt}}",
        "states:\n  a: {file: {path: /a, source: none.txt}}\n  b: {file: {path: /b, source: '{{ facts.os }}'}}\n  c: {file: {path: /c, template: bad.j2}}\n  d: {file: {path: /d, tree: nodir}}",
        "vars: {mode: 640, port: 80, x: [0640]}\nstates:\n  a: {file: {path: /a, mode: '{{ mode }}', content: '{{ port }}'}}",
        "states: {a: {file: {path: /a, content: {$blob: x}}}}",
        "states: {a: {cmd: {run: a, changed_when: \"'x' in (\"}}}",
        "states:\n  a: {file: {path: /a, content: x, source: latin}}\n  b: {file: {path: '{{ facts.x }}', content: x, source: latin}}",
    ]), @r#"
    site.yaml:3:12: `file` has no parameter `pth` (did you mean path?)
      3 |     file: {pth: /x, mode: 0644}
        |            ^
    site.yaml:3:27: `mode` must be a text, not a number (write mode: "0644")
      3 |     file: {pth: /x, mode: 0644}
        |                           ^
    site.yaml:7:12: `uid` must be a whole number, not a text (leave the quotes out)
      7 |       uid: '5'
        |            ^
    site.yaml:8:15: `system` must be true or false, not a text (write system: true)
      8 |       system: yes
        |               ^
    site.yaml:9:20: `state` must be present, absent or latest, not `presnt` (did you mean present?)
      9 |   c: {pkg: {state: presnt}}
        |                    ^

    site.yaml:2:32: cannot read none.txt: No such file or directory
      2 |   a: {file: {path: /a, source: none.txt}}
        |                                ^
    site.yaml:3:32: the name of a file is settled before any machine is asked (only variables can stand here)
      3 |   b: {file: {path: /b, source: '{{ facts.os }}'}}
        |                                ^
    site.yaml:5:30: cannot read the folder nodir: No such file or directory
      5 |   d: {file: {path: /d, tree: nodir}}
        |                              ^
    bad.j2:3:7: the template cannot be read: unexpected end of block
      3 | {% if %}
        |       ^

    site.yaml:1:33: 0640 is a number, and its zero is lost (write "0640", or leave the zero out)
      1 | vars: {mode: 640, port: 80, x: [0640]}
        |                                 ^
    site.yaml:3:30: `mode` must be a text, not a number (a template alone keeps its type: add | string to it)
      3 |   a: {file: {path: /a, mode: '{{ mode }}', content: '{{ port }}'}}
        |                              ^
    site.yaml:3:53: `content` must be a text, not a number (a template alone keeps its type: add | string to it)
      3 | a: {file: {path: /a, mode: '{{ mode }}', content: '{{ port }}'}}
        |                                                   ^

    site.yaml:1:40: `content` must be a text, not a map
      1 | states: {a: {file: {path: /a, content: {$blob: x}}}}
        |                                        ^
    site.yaml:1:41: `$blob` cannot be written (name the file as a text)
      1 | states: {a: {file: {path: /a, content: {$blob: x}}}}
        |                                         ^

    site.yaml:1:50: the template cannot be read: unexpected end of input, expected expression
      1 | states: {a: {cmd: {run: a, changed_when: "'x' in ("}}}
        |                                                  ^

    site.yaml:2:7: `file`: content and source exclude each other
      2 |   a: {file: {path: /a, content: x, source: latin}}
        |       ^
    "#);
}

#[test]
fn expressions() {
    insta::assert_snapshot!(all(&[
        "states:\n  a:\n    cmd: {run: a, changed_when: \"nosuch in stdout\"}\n    retry: {attempts: 2, until: 'exit_cod == 0'}\n  b:\n    cmd:\n      run: b\n      changed_when: |\n        'x' in stdout and\n        stdot | upcase\n  c: {pkg: {}, retry: {attempts: 2, until: version}}",
        "states: {a: {cmd: {run: a, changed_when: '{{ stdout }}'}, when: stdout}}",
        "states:\n  a: {cmd: {run: a}}\n  b: {cmd: {run: \"{{ states['a'].stdot }} {{ states.a['changed'] }} {{ states['a'].none | default(1) }}\"}, when: \"states['a'].get('x') and states['a'].stdout.foo and states['a'].other\"}\n  c: {pkg: {name: \"{{ states['b'].stdout }}{{ states['d'].any }}\"}}\n  d: {user: {}}",
        "vars: {x: 1}\nstates: {a: {cmd: {run: a, changed_when: \"states['b'].x == x and signal is undefined and stdout.strip()\"}}}",
    ]), @r#"
    site.yaml:3:34: there is no variable or output `nosuch` (what it gives out is exit_code, stderr, stdout)
      3 |     cmd: {run: a, changed_when: "nosuch in stdout"}
        |                                  ^
    site.yaml:4:34: there is no variable or output `exit_cod` (did you mean exit_code?)
      4 |     retry: {attempts: 2, until: 'exit_cod == 0'}
        |                                  ^
    site.yaml:10:9: there is no variable or output `stdot` (did you mean stdout?)
      10 |         stdot | upcase
         |         ^
    site.yaml:10:17: there is no filter `upcase`
      10 |         stdot | upcase
         |                 ^

    site.yaml:1:46: there is no variable `stdout` (an expression over outputs, as `failed_when` and `until`, has no braces)
      1 | states: {a: {cmd: {run: a, changed_when: '{{ stdout }}'}, when: stdout}}
        |                                              ^
    site.yaml:1:65: there is no variable `stdout` (an expression over outputs, as `failed_when` and `until`, has no braces)
      1 | md: {run: a, changed_when: '{{ stdout }}'}, when: stdout}}
        |                                                   ^

    site.yaml:3:22: `a`, a `cmd`, gives out no `stdot` (did you mean stdout?)
      3 |   b: {cmd: {run: "{{ states['a'].stdot }} {{ states.a['changed'] }} {{ states['a'].none | default(1)
        |                      ^
    site.yaml:3:167: `a`, a `cmd`, gives out no `other` (there are exit_code, stderr, stdout, changed, outcome)
      3 | ates['a'].get('x') and states['a'].stdout.foo and states['a'].other"}
        |                                                   ^

    site.yaml:2:43: there is no state `b` to read
      2 | states: {a: {cmd: {run: a, changed_when: "states['b'].x == x and signal is undefined and stdout.stri
        |                                           ^
    "#);
}

#[test]
fn what_a_broken_file_includes_is_told_too() {
    let files = [
        ("site.yaml", "include:\n  - a.yaml\n  - gone.yaml\nvars: {x: [}\n"),
        ("a.yaml", "include: b.yaml\nstates: {s: 1}\n"),
        ("b.yaml", "stats: {}\nsecrets: {x: ]}\n"),
    ];
    insta::assert_snapshot!(errors(&files), @r#"
    site.yaml:4:11: mismatched bracket '[' closed by '}'
      4 | vars: {x: [}
        |           ^
    a.yaml:2:10: the state `s` is a map, not a number (write a module with its parameters below it)
      2 | states: {s: 1}
        |          ^
    b.yaml:2:10: mismatched bracket '{' closed by ']'
    "#);
}

#[test]
fn formats() {
    insta::assert_snapshot!(all(&[
        "states:\n  c: {file: {path: '{{ facts.os }}'}, creates: [b, /c, '{{ facts.os }}']}\n  d: {file: {path: /d, content: odd}, creates: e}",
    ]), @r#"
    site.yaml:2:49: `creates` cannot be `b`: it is not absolute
      2 |   c: {file: {path: '{{ facts.os }}'}, creates: [b, /c, '{{ facts.os }}']}
        |                                                 ^
    site.yaml:3:33: `content`: it is odd
      3 |   d: {file: {path: /d, content: odd}, creates: e}
        |                                 ^
    site.yaml:3:48: `creates` cannot be `e`: it is not absolute
      3 |   d: {file: {path: /d, content: odd}, creates: e}
        |                                                ^
    "#);
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
    ]), @r#"
    site.yaml:6:58: a value with a template in it is not in quotes (write it as "{{ … }}")
      6 | nv: {A: '{{ port | upcase }}', B: '{{ port', C: x {{ states[port] }}}
        |                                                   ^

    site.yaml:6:19: there is no variable `nope`
      6 |         second {{ nope }}
        |                   ^

    site.yaml:2:22: there is no state `b` to read
      2 |   a: {cmd: {run: "{{ states['b'].x }}"}}
        |                      ^
    site.yaml:3:23: the state reads its own output
      3 |   bb: {cmd: {run: "{{ states['bb'].x }}"}}
        |                       ^

    site.yaml:2:29: there is no secret `tokn` (did you mean token?)
      2 | states: {a: {cmd: {run: '{{ secrets.tokn }}'}}}
        |                             ^

    site.yaml:2:3: an id is settled before any machine is asked (only variables can stand here)
      2 |   'a-{{ facts.os }}': {pkg: {}}
        |   ^
    site.yaml:3:3: there is no secret `x` (secrets stand below `secrets`)
      3 |   '{{ secrets.x }}': {pkg: {}}
        |   ^
    site.yaml:4:25: the name of a state is settled before any machine is asked (only variables can stand here)
      4 |   b: {pkg: {}, require: "{{ states['x'].y }}", failhard: '{{ facts.os }}'}
        |                         ^
    site.yaml:4:58: `failhard` is settled before any machine is asked (only variables can stand here)
      4 | kg: {}, require: "{{ states['x'].y }}", failhard: '{{ facts.os }}'}
        |                                                   ^

    site.yaml:1:8: these variables need each other: a → b → c → a
      1 | vars: {a: '{{ b }}', b: '{{ c }}', c: '{{ a }}', d: '{{ a }}', facts: 1, item: 2, e: '{{ facts.os }}
        |        ^
    site.yaml:1:64: no variable can be called `facts`
      1 |  b }}', b: '{{ c }}', c: '{{ a }}', d: '{{ a }}', facts: 1, item: 2, e: '{{ facts.os }}'}
        |                                                   ^
    site.yaml:1:74: no variable can be called `item`
      1 |  '{{ c }}', c: '{{ a }}', d: '{{ a }}', facts: 1, item: 2, e: '{{ facts.os }}'}
        |                                                   ^
    site.yaml:1:86: a variable is settled before any machine is asked (only variables can stand here)
      1 | c: '{{ a }}', d: '{{ a }}', facts: 1, item: 2, e: '{{ facts.os }}'}
        |                                                   ^

    site.yaml:1:29: there is no variable `item` (`item` is there with `for_each` only)
      1 | states: {a: {cmd: {run: '{{ item }}'}}, b: {pkg: {}, when: '{{ x }}', unless: ' '}, c: {pkg: {}, whe
        |                             ^
    site.yaml:1:60: `when` is an expression by itself (leave the braces out)
      1 | a: {cmd: {run: '{{ item }}'}}, b: {pkg: {}, when: '{{ x }}', unless: ' '}, c: {pkg: {}, when: 'x =='
        |                                                   ^
    site.yaml:1:79: `unless` is empty (leave the line out)
      1 | item }}'}}, b: {pkg: {}, when: '{{ x }}', unless: ' '}, c: {pkg: {}, when: 'x ==', retry: {attempts:
        |                                                   ^
    site.yaml:1:107: the template cannot be read: unexpected end of input, expected expression
      1 | n: '{{ x }}', unless: ' '}, c: {pkg: {}, when: 'x ==', retry: {attempts: 1, until: 'x =='}}}
        |                                                   ^
    site.yaml:1:143: the template cannot be read: unexpected end of input, expected expression
      1 |  {}, when: 'x ==', retry: {attempts: 1, until: 'x =='}}}
        |                                                   ^

    site.yaml:2:30: `x.z` is undefined
      2 | states: {a: {cmd: {run: '{{ x.z.a }}'}}}
        |                              ^
    "#);
}

#[test]
fn what_a_state_cannot_use_of_another_is_told_where_it_uses_it() {
    insta::assert_snapshot!(all(&[
        "include: {file: used.yaml, vars: {name: a}, as: v}\nstates:\n  s: {file: {path: /s}, use: v/conf}\n  t: {cmd: {}, use: [v/read]}",
        "states:\n  e: {for_each: [1], file: {path: '/{{ item }}', content: 'c{{ item }}'}}\n  s: {file: {path: /s}, use: e-1}",
        "states:\n  a: {file: {path: /a, content: '{{ nme }}'}}\n  s: {file: {path: /s}, use: a}",
    ]), @r"
    site.yaml:3:30: `use` of `v/conf`: there is no variable `name`
      3 |   s: {file: {path: /s}, use: v/conf}
        |                              ^
    site.yaml:4:22: there is no state `conf` to read (did you mean v/conf?)
      4 |   t: {cmd: {}, use: [v/read]}
        |                      ^

    site.yaml:3:30: `use` of `e-1`: there is no variable `item` (`item` is there with `for_each` only)
      3 |   s: {file: {path: /s}, use: e-1}
        |                              ^

    site.yaml:2:37: there is no variable `nme`
      2 |   a: {file: {path: /a, content: '{{ nme }}'}}
        |                                     ^
    ");
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
    ]), @r#"
    site.yaml:2:28: there is no state `ap` (did you mean app?)
      2 |   app: {pkg: {}, require: [ap, 'x*', {file: /etc/x}, {fil: /x}, {cmd: x}, 'include:nope', [], {}]}
        |                            ^
    site.yaml:2:32: no state matches `x*`
      2 |   app: {pkg: {}, require: [ap, 'x*', {file: /etc/x}, {fil: /x}, {cmd: x}, 'include:nope', [], {}]}
        |                                ^
    site.yaml:2:39: no `file` state has the path `/etc/x`
      2 |   app: {pkg: {}, require: [ap, 'x*', {file: /etc/x}, {fil: /x}, {cmd: x}, 'include:nope', [], {}]}
        |                                       ^
    site.yaml:2:55: there is no module `fil` (did you mean file?)
      2 | p: {pkg: {}, require: [ap, 'x*', {file: /etc/x}, {fil: /x}, {cmd: x}, 'include:nope', [], {}]}
        |                                                   ^
    site.yaml:2:66: a state of `cmd` has nothing to be named by (name it by its id)
      2 | , require: [ap, 'x*', {file: /etc/x}, {fil: /x}, {cmd: x}, 'include:nope', [], {}]}
        |                                                   ^
    site.yaml:2:75: no file `nope` is included
      2 | : [ap, 'x*', {file: /etc/x}, {fil: /x}, {cmd: x}, 'include:nope', [], {}]}
        |                                                   ^
    site.yaml:2:91: `require` names states, not a list (write ids, such as [a, b])
      2 | le: /etc/x}, {fil: /x}, {cmd: x}, 'include:nope', [], {}]}
        |                                                   ^
    site.yaml:2:95: `require` names states, not a map (write ids, such as [a, b])
      2 | /etc/x}, {fil: /x}, {cmd: x}, 'include:nope', [], {}]}
        |                                                   ^

    site.yaml:6:26: the state names itself
      6 |   e: {pkg: {}, require: [e]}
        |                          ^

    site.yaml:2:22: `b`, a `cmd`, gives out no `x` (there are exit_code, stderr, stdout, changed, outcome)
      2 |   a: {cmd: {run: "{{ states['b'].x }}"}}
        |                      ^
    site.yaml:2:22: these states wait for each other: a (reads) → b (require) → a
      2 |   a: {cmd: {run: "{{ states['b'].x }}"}}
        |                      ^

    site.yaml:3:39: `b` has `onfail` and `require` of `a`: it could never run
      3 |   b: {pkg: {}, require: [a], onfail: [a]}
        |                                       ^
    site.yaml:4:55: `c` has `onfail_all` and reads of `a`: it could never run
      4 |  {cmd: {run: "{{ states['a'].x }}"}, onfail_all: ['a*']}
        |                                                   ^

    site.yaml:4:26: 2 `file` states have the path `/x` (name one by its id: a, b)
      4 |   c: {pkg: {}, require: {file: /x}}
        |                          ^
    site.yaml:5:48: it means no state but this one
      5 |   d: {pkg: {name: '{{ facts.os }}'}, require: ['d*'], use: [a]}
        |                                                ^
    site.yaml:5:61: `use` copies parameters of the same module: `a` is a `file`, not a `pkg`
      5 |  {name: '{{ facts.os }}'}, require: ['d*'], use: [a]}
        |                                                   ^

    site.yaml:2:33: `vhost` is included more than once (say which: a, b)
      2 | states: {s: {pkg: {}, require: ['include:vhost', 'include:empty']}}
        |                                 ^
    site.yaml:2:50: the included file `empty` has no states
      2 | states: {s: {pkg: {}, require: ['include:vhost', 'include:empty']}}
        |                                                  ^

    site.yaml:1:63: there is no state here, so `onchanges` could never hold
      1 | {for_each: [], pkg: {}}, s: {pkg: {}, onchanges: [n], require: [n]}}
        |                                                   ^

    site.yaml:2:23: `retry` is a map with attempts, interval, splay and until, not a number
      2 |   a: {pkg: {}, retry: 3}
        |                       ^
    site.yaml:3:34: `attempts` is a whole number, 1 to 1000 (the first attempt counts as one)
      3 |   b: {pkg: {}, retry: {attempts: 0}}
        |                                  ^
    site.yaml:4:23: `retry` has no `attempts` (the first attempt counts as one)
      4 |   c: {pkg: {}, retry: {interval: soon, atempts: 1}}
        |                       ^
    site.yaml:4:34: `interval` must be a number of seconds or a text like 30s
      4 |   c: {pkg: {}, retry: {interval: soon, atempts: 1}}
        |                                  ^
    site.yaml:4:40: `retry` has no `atempts` (did you mean attempts?)
      4 |   c: {pkg: {}, retry: {interval: soon, atempts: 1}}
        |                                        ^
    site.yaml:5:47: `interval` is longer than 1d
      5 |   d: {pkg: {}, retry: {attempts: 2, interval: 9d}, order: early, parallel: maybe}
        |                                               ^
    site.yaml:5:59: `order` of a state is a whole number, first or last
      5 | g: {}, retry: {attempts: 2, interval: 9d}, order: early, parallel: maybe}
        |                                                   ^
    site.yaml:5:76: `parallel` must be true or false, not a text
      5 | tempts: 2, interval: 9d}, order: early, parallel: maybe}
        |                                                   ^
    "#);
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
    ]), @r#"
    site.yaml:1:11: cannot read none.yaml: No such file or directory
      1 | include: [none.yaml, loop.yaml, {file: a, var: x}, 7, '{{ facts.os }}.yaml', {vars: {}}]
        |           ^
    site.yaml:1:40: cannot read a: No such file or directory
      1 | include: [none.yaml, loop.yaml, {file: a, var: x}, 7, '{{ facts.os }}.yaml', {vars: {}}]
        |                                        ^
    site.yaml:1:43: an include has no `var` (did you mean vars?)
      1 | include: [none.yaml, loop.yaml, {file: a, var: x}, 7, '{{ facts.os }}.yaml', {vars: {}}]
        |                                           ^
    site.yaml:1:52: an include is a file's name, or a map with `file` and `vars`
      1 | nclude: [none.yaml, loop.yaml, {file: a, var: x}, 7, '{{ facts.os }}.yaml', {vars: {}}]
        |                                                   ^
    site.yaml:1:55: the name of an included file is settled before any machine is asked (only variables can stand here)
      1 | ude: [none.yaml, loop.yaml, {file: a, var: x}, 7, '{{ facts.os }}.yaml', {vars: {}}]
        |                                                   ^
    site.yaml:1:78: the include names no `file`
      1 | aml, {file: a, var: x}, 7, '{{ facts.os }}.yaml', {vars: {}}]
        |                                                   ^
    loop.yaml:1:10: these files include each other: site.yaml → loop.yaml → site.yaml
      1 | include: site.yaml
        |          ^

    another.yaml:1:8: `x` has another value in other.yaml (line 1) (set it in the file that includes both)
      1 | vars: {x: 2}
        |        ^
    top.yaml:1:1: `name` stands in the first file only
      1 | name: x
        | ^
    top.yaml:2:1: `targets` stands in the first file only
      2 | targets: {}
        | ^

    site.yaml:1:18: `vhost-a*` cannot be a prefix of ids (give the include `as: …`)
      1 | include: [{file: vhost.yaml, vars: {n: 'a*'}}, {file: vhost.yaml, vars: {n: a}}, {file: vhost.yaml, 
        |                  ^
    site.yaml:1:89: there is an include with the prefix `vhost-a/` already (give one of them `as: …`)
      1 |  'a*'}}, {file: vhost.yaml, vars: {n: a}}, {file: vhost.yaml, vars: {n: a}}]
        |                                                   ^

    site.yaml:2:10: the id `c` is used twice (first in common.yaml, line 1)
      2 | states: {c: {pkg: {}}}
        |          ^

    site.yaml:1:10: the id `x-1` is used twice (first in site.yaml, line 1)
      1 | states: {'x-{{ item }}': {for_each: [1, 1], pkg: {}}, b: {for_each: 3, pkg: {}}, c: {for_each: nope,
        |          ^
    site.yaml:1:69: `for_each` goes over a list or a map
      1 | m }}': {for_each: [1, 1], pkg: {}}, b: {for_each: 3, pkg: {}}, c: {for_each: nope, pkg: {}}, d: {for
        |                                                   ^
    site.yaml:1:96: there is no variable `nope`
      1 | kg: {}}, b: {for_each: 3, pkg: {}}, c: {for_each: nope, pkg: {}}, d: {for_each: '{{ facts.x }}', pkg
        |                                                   ^
    site.yaml:1:126: `for_each` is settled before any machine is asked (only variables can stand here)
      1 |  {}}, c: {for_each: nope, pkg: {}}, d: {for_each: '{{ facts.x }}', pkg: {}}}
        |                                                   ^

    site.yaml:1:14: there is no state `x`
      1 | groups: {a: [x], g: [h], h: [g], s: [s]}
        |              ^
    site.yaml:1:22: the group `h` holds itself
      1 | groups: {a: [x], g: [h], h: [g], s: [s]}
        |                      ^
    site.yaml:1:30: the group `g` holds itself
      1 | groups: {a: [x], g: [h], h: [g], s: [s]}
        |                              ^
    site.yaml:1:34: the group `s` is called as a state
      1 | groups: {a: [x], g: [h], h: [g], s: [s]}
        |                                  ^
    site.yaml:2:33: the group `g` holds itself
      2 | states: {s: {pkg: {}, require: [g]}}
        |                                 ^

    site.yaml:2:3: the target cannot be read: expected a value, found the end (column 6)
      2 |   'role=': [a]
        |   ^
    site.yaml:3:3: a target is settled before any machine is asked (only variables can stand here)
      3 |   '{{ facts.os }}': [a]
        |   ^
    site.yaml:4:8: there is no state `nope`
      4 |   ok: [nope]
        |        ^
    site.yaml:5:22: a target has no `vras` (it has states and vars)
      5 |   web: {states: [a], vras: {}}
        |                      ^

    site.yaml:1:33: `b` is not for web1, and `a` (require) is (name both in the targets of this machine)
      1 | states: {a: {pkg: {}, require: [b]}, b: {pkg: {}}, c: {pkg: {}, require_in: [d]}, d: {pkg: {}}}
        |                                 ^
    site.yaml:1:78: `d` is not for web1, and `c` (require_in) is (name both in the targets of this machine)
      1 | re: [b]}, b: {pkg: {}}, c: {pkg: {}, require_in: [d]}, d: {pkg: {}}}
        |                                                   ^

    site.yaml:2:9: the extension `disk` has no sha256 (what `sha256sum` says of the program; nothing else is ever run)
      2 |   disk: {path: x}
        |         ^
    site.yaml:3:3: `file` is a name of its own already
      3 |   file: {path: x, sha256: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef}
        |   ^
    site.yaml:4:12: `url` must begin with https://
      4 |   x: {url: 'ftp://x', sha256: abc}
        |            ^
    site.yaml:4:31: `sha256` is 64 digits, 0 to 9 and a to f
      4 |   x: {url: 'ftp://x', sha256: abc}
        |                               ^
    site.yaml:5:3: cannot fetch gone: connection refused
      5 |   gone: {path: x, sha256: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}
        |   ^
    "#);
}

#[test]
fn each_file_that_cannot_be_read_on_says_so_and_none_hides_the_others() {
    insta::assert_snapshot!(errors(&[
        ("site.yaml", "include: [a.yaml, b.yaml, c.yaml]\nstates: {x: {fil: {path: /x}}}"),
        ("a.yaml", "states:\n  a:\n    - b: ["),
        ("b.yaml", "states:\n  b: {pkg: c\n  d: }"),
        ("c.yaml", "include: [d.yaml]\nstates: {}"),
        ("d.yaml", "states: \"x"),
    ]), @r#"
    site.yaml:2:14: `fil` is no module, requisite or option (did you mean file?)
      2 | states: {x: {fil: {path: /x}}}
        |              ^
    a.yaml:3:10: unclosed bracket '['
      3 |     - b: [
        |          ^
    b.yaml:3:4: while parsing a flow mapping, did not find expected ',' or '}'
      3 |   d: }
        |    ^
    d.yaml:1:9: unclosed quote
      1 | states: "x
        |         ^
    "#);
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
    insta::assert_snapshot!(said, @r#"
    site.yaml:2:6: a secret is a text, {env: NAME} or {file: PATH}
    site.yaml:3:6: the environment has no `NOPE`
    site.yaml:4:6: cannot read the secret none: No such file or directory
    site.yaml:6:13: a secret is a text, {env: NAME} or {file: PATH}

    site.yaml:3:3: simple key expected ':'

    site.yaml:3:3: duplicate mapping key: a not allowed here

    site.yaml:2:47: there is no variable `nope`
      2 | states: {a: {cmd: {run: '{{ secrets.t | int + nope }}'}}}
        |                                               ^
    "#);
}

#[test]
fn what_only_holds_for_a_machine_names_it() {
    let input = SiteInput { machine_vars: ["ip".to_owned()].into(), ..input() };
    let disk = Disk::of(&[("site.yaml", "states:\n  a: {user: {uid: '{{ ip }}'}}")]);
    let errors = catalog_of(&input, &disk, &values(json!({"ip": "10.0.0.1"}))).unwrap_err();
    insta::assert_snapshot!(errors, @r#"
    site.yaml:2:19: for web1: `uid` must be a whole number, not a text
      2 |   a: {user: {uid: '{{ ip }}'}}
        |                   ^
    "#);
    let only = SiteInput { only: vec!["nop*".into()], ..super::input() };
    let errors =
        catalog_of(&only, &Disk::of(&[("site.yaml", "states: {a: {pkg: {}}}")]), &Values::new()).unwrap_err();
    insta::assert_snapshot!(errors, @r#"
    site.yaml:1:1: --only: no state matches `nop*`
      1 | states: {a: {pkg: {}}}
        | ^
    "#);
}

#[test]
fn a_cycle_that_prereq_closes_is_told_before_a_machine_is_touched() {
    let text = "states:\n  s: {cmd: {run: s}, prereq: [t]}\n  t: {cmd: {run: t}, require: [p]}\n  p: {cmd: {run: p}, require: [s]}\n";
    insta::assert_snapshot!(errors(&[("site.yaml", text)]), @r#"
    site.yaml:2:31: these states wait for each other: s (for prereq t) → p (require) → s
      2 |   s: {cmd: {run: s}, prereq: [t]}
        |                               ^
    "#);
    // `p` comes after `x-2`, and so need not come before `x-s`; but where `x-2` is not, it has to.
    let text = "targets: {role=web: [x-s, t-1, p], role=db: ['*']}\nstates:\n  x-s: {cmd: {run: s}, prereq: ['*-[12]']}\n  \
                t-1: {cmd: {run: t}, require: [p]}\n  p: {cmd: {run: p}, require: ['x-*']}\n  x-2: {cmd: {run: u}}\n";
    assert!(compile(&input(), &Disk::of(&[("site.yaml", text)]), &Table).is_ok());
    insta::assert_snapshot!(errors(&[("site.yaml", text)]), @r#"
    site.yaml:3:33: these states wait for each other: x-s (for prereq t-1) → p (require) → x-s
      3 |   x-s: {cmd: {run: s}, prereq: ['*-[12]']}
        |                                 ^
    "#);
}

//! A states file on disk as the source of catalogs: the files that it names, and the modules of this program.
//!
//! What the file means is the compiler's, in `mainstay_core::state::site`; here is what it must not do itself.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use mainstay_control::view::{Problem, ProblemKind};
use mainstay_core::frame::Facts;
use mainstay_core::state::Values;
use mainstay_core::state::catalog::Catalog;
use mainstay_core::state::order::Links;
use mainstay_core::state::schema::Formats;
use mainstay_core::state::site::{
    ExtensionSource, Fetched, FileEntry, FileKind, Files, Machine, ModuleSchema, ModuleTable, Site,
    SiteErrors, SiteInput, compile,
};
use mainstay_module::contradiction;
use mainstay_module::forecast::Resource;
use mainstay_module::registry::{AnyModule, Registry};

use super::extensions;
use super::rollout::{Known, Source};

/// Reads from this machine's disk, as the user who compiles.
#[derive(Clone, Copy, Debug, Default)]
pub struct Folder;

/// The modules that a program has.
pub struct Modules<'a>(pub &'a Registry);

/// A compiled states file.
pub struct StatesFile<'a> {
    site: Site<'a>,
}

impl<'a> StatesFile<'a> {
    /// Reads and checks it with all that it includes, or says everything that is wrong.
    pub fn compile(
        input: &SiteInput,
        files: &'a dyn Files,
        modules: &'a dyn ModuleTable,
    ) -> Result<Self, Problem> {
        compile(input, files, modules).map(|site| Self { site }).map_err(|errors| problem(&errors))
    }

    /// What works, and is not what it looks like.
    pub fn warnings(&self) -> Vec<String> {
        self.site.warnings().iter().map(ToString::to_string).collect()
    }
}

impl Source for StatesFile<'_> {
    fn catalogs(&self, machines: &[Known<'_>]) -> Result<Vec<Catalog>, Problem> {
        let (mut catalogs, mut errors) = (Vec::new(), Vec::new());
        for known in machines {
            // Facts of a machine with another version of this program may look different: what is not there is not matched.
            let facts: Facts = serde_json::from_value(known.facts.clone().into()).unwrap_or_default();
            let machine = Machine { name: known.name, labels: known.labels, facts: &facts, vars: known.vars };
            match self.site.catalog(&machine) {
                Ok(catalog) => catalogs.push(catalog),
                Err(wrong) => errors.push(wrong),
            }
        }
        // Most machines have the same things wrong.
        match SiteErrors::merge(errors) {
            None => Ok(catalogs),
            Some(errors) => Err(problem(&errors)),
        }
    }
}

fn problem(errors: &SiteErrors) -> Problem {
    Problem::new(ProblemKind::Invalid, errors.to_string())
}

impl Files for Folder {
    fn read(&self, path: &str, limit: usize) -> Result<Vec<u8>, String> {
        // Without O_NONBLOCK, opening a FIFO would wait for its other end.
        let flags = nix::libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(words)?;
        if !file.metadata().map_err(words)?.is_file() {
            return Err("it is not a regular file".into());
        }
        let mut bytes = Vec::new();
        file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(words)?;
        match bytes.len() > limit {
            true => Err(format!("it is larger than {limit} bytes")),
            false => Ok(bytes),
        }
    }

    fn tree(&self, path: &str, limit: usize) -> Result<Vec<FileEntry>, String> {
        let mut walk = Walk { files: self, left: limit, entries: Vec::new() };
        walk.directory(Path::new(path), "")?;
        walk.entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(walk.entries)
    }

    fn env(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

/// The system's own words, without the number.
fn words(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".into(),
        io::ErrorKind::PermissionDenied => "it may not be read".into(),
        _ => error.to_string(),
    }
}

struct Walk<'a> {
    files: &'a Folder,
    left: usize,
    entries: Vec<FileEntry>,
}

/// Deeper folders are a loop of mounts, not configuration.
const MAX_DEPTH: usize = 64;

impl Walk<'_> {
    fn directory(&mut self, path: &Path, below: &str) -> Result<(), String> {
        if below.matches('/').count() >= MAX_DEPTH {
            return Err(format!("{below}: folders lie more than {MAX_DEPTH} deep"));
        }
        for entry in fs::read_dir(path).map_err(words)? {
            let entry = entry.map_err(words)?;
            let name = entry.file_name().into_string().map_err(|name| format!("{name:?}: not UTF-8"))?;
            let relative = if below.is_empty() { name } else { format!("{below}/{name}") };
            let meta = entry.metadata().map_err(words)?;
            let of = |error: String| format!("{relative}: {error}");
            let kind = if meta.is_symlink() {
                let target = fs::read_link(entry.path()).map_err(words).map_err(of)?;
                FileKind::Link {
                    target: target
                        .into_os_string()
                        .into_string()
                        .map_err(|_| of("its target is not UTF-8".into()))?,
                }
            } else if meta.is_dir() {
                self.directory(&entry.path(), &relative)?;
                FileKind::Directory
            } else if meta.is_file() {
                let path = entry.path();
                let path = path.to_str().ok_or_else(|| of("its path is not UTF-8".into()))?;
                let bytes = self.files.read(path, self.left).map_err(of)?;
                self.left -= bytes.len();
                FileKind::File { bytes, executable: meta.permissions().mode() & 0o111 != 0 }
            } else {
                return Err(of("it is neither a file nor a folder nor a link".into()));
            };
            self.entries.push(FileEntry { path: relative, kind });
        }
        Ok(())
    }
}

impl ModuleTable for Modules<'_> {
    fn module(&self, name: &str) -> Option<ModuleSchema> {
        let module = self.0.get(name)?;
        let about = module.about();
        Some(ModuleSchema {
            params: module.schema(),
            identity: about.identity.map(str::to_owned),
            refreshes: module.refreshes(),
            // One that says nothing may give anything.
            outputs: (!about.outputs.is_empty())
                .then(|| about.outputs.iter().map(|(name, _)| (*name).to_owned()).collect()),
        })
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| name.to_owned()).collect()
    }

    fn formats(&self) -> Formats {
        mainstay_module::format::format
    }

    fn check(&self, module: &str, params: &Values) -> Result<(), String> {
        self.0.get(module).map_or(Ok(()), |module| module.read(params).map(drop))
    }

    fn links(&self, module: &str, params: &Values) -> Links {
        let read = |module: &Arc<dyn AnyModule>| {
            let params = module.read(params).ok()?;
            let names = |all: Vec<Resource>| all.into_iter().map(Resource::into_string).collect();
            let (needs, provides) = (names(module.needs(&params)), names(module.provides(&params)));
            Some(Links { needs, provides, ..Links::default() })
        };
        self.0.get(module).and_then(read).unwrap_or_default()
    }

    fn thing<'p>(&self, module: &str, params: &'p Values) -> Option<&'p str> {
        contradiction::thing(module, params)
    }

    fn contradiction(&self, one: (&str, &Values), other: (&str, &Values)) -> Option<String> {
        contradiction::contradiction(one, other)
    }

    fn place<'p>(&self, module: &str, params: &'p Values) -> Option<&'p str> {
        contradiction::place(module, params)
    }

    fn reign<'p>(&self, module: &str, params: &'p Values) -> Option<&'p str> {
        contradiction::reign(module, params)
    }

    fn removes(&self, above: &Values, other: (&str, &Values)) -> bool {
        contradiction::removes(above, other)
    }

    fn fetch(&self, extension: &ExtensionSource) -> Result<Fetched, String> {
        extensions::directory()
            .and_then(|directory| extensions::fetch(extension, &directory))
            .map_err(|words| format!("the extension `{}` is not used: {words}", extension.name))
    }
}

/// Names of variables that the ways bring.
pub fn machine_vars<'a>(ways: impl IntoIterator<Item = &'a dyn super::Way>) -> BTreeSet<String> {
    ways.into_iter().flat_map(|way| way.vars().keys().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn params(value: serde_json::Value) -> Values {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn modules_check_what_a_schema_cannot_say() {
        let registry = mainstay_module::registry::builtin();
        let modules = Modules(&registry);
        let both = params(serde_json::json!({"run": "a", "argv": ["b"]}));
        assert!(modules.check("cmd", &both).unwrap_err().contains("only one of"));
        let gone = params(serde_json::json!({"path": "/a", "content": "a", "absent": true}));
        assert!(modules.check("file", &gone).is_err());
        assert_eq!(modules.check("cmd", &params(serde_json::json!({"run": "a"}))), Ok(()));
        // An extension's are in its schema alone.
        assert_eq!(modules.check("other", &both), Ok(()));
    }

    /// Has the states file, and whatever else is asked for.
    struct Example(String);

    impl Files for Example {
        fn read(&self, path: &str, _: usize) -> Result<Vec<u8>, String> {
            Ok(if path == "site.yaml" { self.0.clone().into_bytes() } else { b"text".to_vec() })
        }

        fn tree(&self, _: &str, _: usize) -> Result<Vec<FileEntry>, String> {
            Ok(Vec::new())
        }

        fn env(&self, _: &str) -> Option<String> {
            Some("$6$salt$hash".into())
        }
    }

    #[test]
    fn the_example_of_every_module_compiles() {
        let registry = mainstay_module::registry::builtin();
        let modules = Modules(&registry);
        for (name, module) in registry.iter() {
            let example = module.about().example.replace('\n', "\n  ");
            let files = Example(format!("secrets:\n  admin_hash: {{env: HASH}}\nstates:\n  {example}"));
            let vars = params(
                serde_json::json!({"backup_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA backup"}),
            );
            let input = SiteInput { file: "site.yaml".into(), vars, ..SiteInput::default() };
            let errors = compile(&input, &files, &modules).err().map(|errors| errors.to_string());
            assert_eq!(errors, None, "{name}");
        }
    }

    /// What is wrong with these states, without the lines that it stands on.
    fn wrong(states: &str) -> String {
        let registry = mainstay_module::registry::builtin();
        let files = Example(format!("states:\n{states}"));
        let input = SiteInput { file: "site.yaml".into(), ..SiteInput::default() };
        let errors = compile(&input, &files, &Modules(&registry)).expect_err("it is wrong");
        errors.iter().map(|error| format!("{error}\n")).collect()
    }

    #[test]
    fn what_can_never_be_right_is_said_at_its_place_whatever_else_is_known() {
        insta::assert_snapshot!(wrong(
            "  a: {archive: {path: opt/tool, url: 'ftp://x/y', sha256: 12g, owner: 'a:b', source: x}}
  b: {block: {path: /etc/../hosts, content: '{{ facts.os }}', marker: none, insertafter: (, validate: visudo}}
  c: {cmd: {run: '{{ facts.os }}', cwd: tmp, timeout: soon, user: 'a:b'}}
  d: {cmd: {run: x, timeout: 0}}
  e: {cron: {name: a.b, schedule: 61 * * * *, command: '{{ facts.os }}', user: 1a}}
  f: {file: {content: '{{ facts.os }}', mode: '888', owner: '', validate: nope}}
  g: {file: {path: /, content: a}}
  h: {git: {path: /x, repo: 'ext::sh', rev: a..b}}
  i: {group: {members: [a b, '{{ facts.os }}', 1c]}}
  j: {http: {url: 'http://', match: '[', interval: -1, timeout: 5x}}
  k: {http: {url: 'http://x', timeout: 2d}}
"), @r#"
        site.yaml:2:23: `path` cannot be `opt/tool`: it is not absolute
        site.yaml:2:38: `url` cannot be `ftp://x/y`: it is not an http: or https: URL
        site.yaml:2:59: `sha256` cannot be `12g`: it is not 64 hexadecimal digits
        site.yaml:2:71: `owner` cannot be `a:b`: it is neither the name nor the number of an account
        site.yaml:3:21: `path` cannot be `/etc/../hosts`: it holds `..`
        site.yaml:3:71: `marker` cannot be `none`: without {mark} the first mark could not be told from the last
        site.yaml:3:90: `insertafter` cannot be `(`: unclosed group
        site.yaml:3:103: `validate` cannot be `visudo`: it has no %s, which stands for the new file
        site.yaml:4:41: `cwd` cannot be `tmp`: it is not absolute
        site.yaml:4:55: `timeout` cannot be `soon`: write 30s or 1h30m, or a number of seconds
        site.yaml:4:67: `user` cannot be `a:b`: it is neither the name nor the number of an account
        site.yaml:5:30: `timeout` leaves no time to run
        site.yaml:6:20: `name` cannot be `a.b`: cron reads only files of letters, digits, `_` and `-`
        site.yaml:6:35: `schedule` cannot be `61 * * * *`: "61" cannot be a minute
        site.yaml:6:80: `user` cannot be `1a`: it begins with a letter or `_`
        site.yaml:7:7: `path` cannot be `f`: it is not absolute
        site.yaml:7:47: `mode` cannot be `888` (Permission bits as octal digits in quotes: `"0640"`)
        site.yaml:7:61: `owner` is empty
        site.yaml:7:75: `validate` cannot be `nope`: it has no %s, which stands for the new file
        site.yaml:8:20: `path` cannot be `/`: it is the root directory
        site.yaml:9:29: `repo` cannot be `ext::sh`: transports of git's helpers run commands and are not allowed
        site.yaml:9:45: `rev` cannot be `a..b`: it is not the name of a branch, a tag or a commit
        site.yaml:10:25: `members[0]` cannot be `a b`: it holds letters, digits, `_`, `-` and `.`, and may end with `$`
        site.yaml:10:48: `members[2]` cannot be `1c`: it begins with a letter or `_`
        site.yaml:11:19: `url` cannot be `http://`: it is not an http: or https: URL
        site.yaml:11:37: `match` cannot be `[`: unclosed character class
        site.yaml:11:52: `interval` must be at least 0
        site.yaml:11:65: `timeout` cannot be `5x`: write 30s or 1h30m, or a number of seconds
        site.yaml:12:40: `timeout`: it is more than 0 and at most a day
        "#);
        insta::assert_snapshot!(wrong(
            "  l: {line: {path: x, line: '{{ facts.os }}', match: '(?<'}}
  m: {mount: {path: srv, source: '', fstype: -x, options: ['a,b', '{{ facts.os }}']}}
  n: {pkg: {names: [-x]}}
  o: {pkgrepo: {name: a/b, uris: [a b], fingerprint: ['123'], key: '{{ facts.os }}', key_name: ..}}
  p: {service: {name: a b, runlevel: x y}}
  q: {ssh_key: {user: '1', key: '{{ facts.os }}', file: rel}}
  r: {sync: {path: /, source: x, exclude: ['[']}}
  s: {sysctl: {name: net..x, value: '{{ facts.os }}'}}
  t: {user: {group: '1', groups: [x y], comment: 'a:b', home: rel, shell: sh, uid: '{{ facts.cpus }}'}}
  u: {cmd: {run: x}, creates: [rel, /a/../b], become: 'a:', retry: {attempts: 2, interval: soon, splay: 0.5}}
"), @r#"
        site.yaml:2:20: `path` cannot be `x`: it is not absolute
        site.yaml:2:54: `match` cannot be `(?<`: unclosed capture group name
        site.yaml:3:21: `path` cannot be `srv`: it is not absolute
        site.yaml:3:34: `source` is empty
        site.yaml:3:46: `fstype` cannot be `-x`: the table has no such field
        site.yaml:3:60: `options[0]` cannot be `a,b`: it is not a single option
        site.yaml:4:20: `names`: "-x" cannot be the name of a package
        site.yaml:5:23: `name` cannot be `a/b`: it cannot be the name of a file
        site.yaml:5:35: `uris[0]` cannot be `a b`: it is not a single word
        site.yaml:5:55: `fingerprint[0]` cannot be `123`: it is not a whole fingerprint: 40 or 64 hexadecimal digits
        site.yaml:5:96: `key_name` cannot be `..`: it cannot be the name of a file
        site.yaml:6:23: `name` cannot be `a b`: no service has such a name
        site.yaml:6:38: `runlevel` cannot be `x y`: no runlevel has such a name
        site.yaml:7:23: `user` cannot be `1`: it begins with a letter or `_`
        site.yaml:7:57: `file` cannot be `rel`: it is not absolute
        site.yaml:8:20: `path` cannot be `/`: it is the root directory
        site.yaml:8:44: `exclude[0]` cannot be `[`: unclosed character class; missing ']'
        site.yaml:9:22: `name` cannot be `net..x`: no setting has such a name
        site.yaml:10:21: `group` cannot be `1`: it begins with a letter or `_`
        site.yaml:10:35: `groups[0]` cannot be `x y`: it holds letters, digits, `_`, `-` and `.`, and may end with `$`
        site.yaml:10:50: `comment` cannot be `a:b`: a colon, a line end or a zero byte cannot stand in it
        site.yaml:10:63: `home` cannot be `rel`: it is not absolute
        site.yaml:10:75: `shell` cannot be `sh`: it is not absolute
        site.yaml:11:32: `creates` cannot be `rel`: it is not absolute
        site.yaml:11:37: `creates` cannot be `/a/../b`: it holds `..`
        site.yaml:11:55: `become` cannot be `a:`: it is neither the name nor the number of an account
        site.yaml:11:92: `interval` must be a number of seconds or a text like 30s
        "#);
    }

    #[test]
    fn only_keeps_what_the_modules_need_of_others() {
        let registry = mainstay_module::registry::builtin();
        let states = "  conf: {file: {path: /srv/app/conf, content: '{{ facts.os }}', owner: app}}\n  app: {user: }\n  \
                      srv: {directory: {path: /srv/app}}\n  other: {pkg: {names: [curl]}}\n";
        let files = Example(format!("states:\n{states}"));
        let input = SiteInput { file: "site.yaml".into(), only: vec!["conf".into()], ..SiteInput::default() };
        let modules = Modules(&registry);
        let site = compile(&input, &files, &modules).unwrap();
        let (labels, facts, vars) = (BTreeMap::new(), Facts::default(), Values::new());
        let machine = Machine { name: "a", labels: &labels, facts: &facts, vars: &vars };
        let catalog = site.catalog(&machine).unwrap();
        let kept: Vec<&str> = catalog.states.iter().map(|state| state.id.as_str()).collect();
        assert_eq!(kept, ["conf", "app", "srv"]);
    }

    #[test]
    fn states_that_undo_each_other_are_warned_of_with_both_places() {
        let registry = mainstay_module::registry::builtin();
        let files = Example(
            "vars: {who: web}
states:
  a: {file: {path: /etc/a, content: one, mode: '0644'}}
  b: {file: {path: /etc/a, content: two}}
  guarded: {file: {path: /etc/a, content: three}, when: facts.os == 'debian'}
  called: {file: {path: /etc/a, content: four}, onchanges: [a]}
  elsewhere: {file: {path: /etc/a, content: five}}
  other-side: {file: {path: /etc/a, owner: root}}
  dir: {directory: {path: /etc/d}}
  below: {file: {path: /etc/d/x, content: x}}
  gone: {file: {path: /etc/d/, absent: true}}
  edit: {line: {path: /etc/d/x, line: y}}
  www: {sync: {path: /srv/www, source: www, delete: true, exclude: [uploads]}}
  extra: {file: {path: /srv/www/a/x, content: x}}
  kept: {file: {path: /srv/www/uploads/x, content: x}}
  keep: {sync: {path: /srv/keep, source: www}}
  more: {file: {path: /srv/keep/x, content: x}}
targets: {'*': [a, b, guarded, called, other-side, dir, below, gone, edit, www, extra, kept, keep, more], 'role=x': [elsewhere]}
"
            .into(),
        );
        let vars = params(serde_json::json!({"whoo": 1, "who": "db", "read": 1}));
        let input = SiteInput { file: "site.yaml".into(), vars, ..SiteInput::default() };
        let modules = Modules(&registry);
        let site = compile(&input, &files, &modules).unwrap();
        let warnings: String = site.warnings().iter().map(|warning| format!("{warning}\n")).collect();
        insta::assert_snapshot!(warnings, @r#"
        site.yaml:1:1: -e read: no file declares this variable, and nothing reads it
        site.yaml:1:1: -e whoo: no file declares this variable, and nothing reads it (did you mean who?)
        site.yaml:4:3: `b` and `a` (line 3) are both about /etc/a: their contents differ (each run would undo what the other did)
        site.yaml:11:3: `gone` and `dir` (line 9) are both about /etc/d: one wants it, the other wants it gone (each run would undo what the other did)
        site.yaml:12:3: `edit` and `below` (line 10) are both about /etc/d/x: one gives it its whole content, and the line of the other is not in it (each run would undo what the other did)
        site.yaml:14:3: `extra` puts /srv/www/a/x where `www` (line 13) removes what is not its own (each run would undo what the other did)
        "#);
    }

    #[test]
    fn a_folder_is_read_whole_and_within_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        fs::write(at("a/b/c"), "12345").unwrap();
        fs::write(at("run"), "#!").unwrap();
        fs::set_permissions(at("run"), fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink("a/b", at("link")).unwrap();
        let path = dir.path().to_str().unwrap();
        let entries = Folder.tree(path, 7).unwrap();
        let paths: Vec<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths, ["a", "a/b", "a/b/c", "link", "run"]);
        assert_eq!(entries[3].kind, FileKind::Link { target: "a/b".into() });
        assert_eq!(entries[4].kind, FileKind::File { bytes: b"#!".to_vec(), executable: true });
        assert!(Folder.tree(path, 6).unwrap_err().contains("larger than"));
        assert!(Folder.read(path, 9).is_err());
        assert!(Folder.read("/no/such/file", 9).unwrap_err().contains("no such file"));
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(Folder.read(at("fifo").to_str().unwrap(), 9).unwrap_err().contains("not a regular file"));
    }
}

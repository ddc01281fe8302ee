//! `ssh_key`: public keys with which a user may log in.
//!
//! The file lies in a directory that the user owns, and could be a link to anywhere. So it is read and written by a process of
//! that user, who can do nothing there that it could not do anyway.

use std::collections::BTreeSet;
use std::path::PathBuf;

use data_encoding::BASE64;
use mainstay_core::state::plan::Datum;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::accounts::{self, check_name};
use crate::content;
use crate::failure::Failure;
use crate::field::HostPath;
use crate::forecast::Resource;
use crate::host::{Command, Host, Ownership, View};
use crate::module::{About, Analysis, Analyze, Applied, Apply, Module};

/// Reads the file named by `$1`, if there is one.
const READ: &str = r#"if [ -e "$1" ]; then exec cat -- "$1"; fi"#;

/// Puts standard input at `$1` at once.
const WRITE: &str = r#"
set -eu
umask 077
directory=$(dirname -- "$1")
[ -d "$directory" ] || mkdir -- "$directory"
new=$(mktemp "$directory/.authorized_keys.XXXXXX")
trap 'rm -f -- "$new"' EXIT
cat > "$new"
sync
mv -f -- "$new" "$1"
trap - EXIT
"#;

/// Names of the kinds of key that OpenSSH knows.
const KINDS: [&str; 7] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

pub struct SshKey;

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SshKeyParams {
    /// The user who may log in with them.
    #[schemars(extend("format" = "account-name"))]
    user: String,
    /// A public key as its `.pub` file has it: kind, key, and a comment perhaps.
    key: Option<String>,
    /// Several keys.
    #[serde(default)]
    keys: Vec<String>,
    /// What they may do, as `no-pty` or `command="/usr/bin/rrsync /srv"`. Without it, options that are there stay.
    options: Option<Vec<String>>,
    /// No other keys may be there.
    #[serde(default)]
    exclusive: bool,
    /// These keys must not be there.
    #[serde(default)]
    absent: bool,
    /// The file, if not `.ssh/authorized_keys` in the user's home. It belongs to root, and its directory has to be there.
    file: Option<HostPath>,
}

/// A line with a key in it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Key<'a> {
    options: &'a str,
    kind: &'a str,
    key: &'a str,
    comment: &'a str,
}

impl<'a> Key<'a> {
    /// Nothing for a comment, an empty line, and what is no key.
    fn parse(line: &'a str) -> Option<Self> {
        // For sshd a line ends at a zero byte too.
        let line = line.split('\0').next().unwrap_or_default().trim();
        if line.starts_with('#') {
            return None;
        }
        let (options, rest) = match word(line) {
            (first, _) if KINDS.contains(&first) => ("", line),
            (options, rest) => (options, rest),
        };
        let (kind, rest) = word(rest);
        let (key, comment) = word(rest);
        let blob = BASE64.decode(key.as_bytes()).ok()?;
        // The key begins with its kind once more, after the kind's length.
        let named = blob.get(4..4 + kind.len()) == Some(kind.as_bytes())
            && blob.get(..4) == Some(&u32::try_from(kind.len()).ok()?.to_be_bytes()[..]);
        (KINDS.contains(&kind) && named).then_some(Self { options, kind, key, comment: comment.trim() })
    }

    fn is(&self, other: &Key<'_>) -> bool {
        self.kind == other.kind && self.key == other.key
    }

    fn line(&self) -> String {
        let parts = [self.options, self.kind, self.key, self.comment];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

/// The first word, in which quotes hold spaces, and what comes after it.
fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    let mut quoted = false;
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        match c {
            // As sshd has it: a backslash escapes a quote, and nothing else, not even itself.
            '"' if before == '\\' => {}
            '"' => quoted = !quoted,
            ' ' | '\t' if !quoted => return (&text[..at], text[at..].trim_start()),
            _ => {}
        }
        before = c;
    }
    (text, "")
}

impl SshKeyParams {
    fn keys(&self) -> impl Iterator<Item = Key<'_>> {
        self.key.iter().chain(&self.keys).filter_map(|line| Key::parse(line))
    }

    /// The file's text as it shall be.
    fn wanted(&self, now: &str) -> String {
        let own: Vec<Key<'_>> = self.keys().collect();
        let options = self.options.as_ref().map(|options| options.join(","));
        let mut seen = BTreeSet::new();
        let mut lines: Vec<String> = Vec::new();
        for line in now.lines() {
            let Some(key) = Key::parse(line) else {
                // Comments are no keys. What cannot be read here sshd may yet read.
                let is_none = line.is_empty() || line.trim_start_matches([' ', '\t']).starts_with('#');
                if is_none || !self.exclusive {
                    lines.push(line.to_owned());
                }
                continue;
            };
            match own.iter().find(|own| own.is(&key)) {
                Some(_) if self.absent => {}
                None if self.exclusive => {}
                None => lines.push(line.to_owned()),
                Some(own) if seen.insert(own.key) => {
                    let options = options.as_deref().unwrap_or(key.options);
                    let comment = if own.comment.is_empty() { key.comment } else { own.comment };
                    let wanted = Key { options, comment, ..key.clone() };
                    lines.push(if wanted == key { line.to_owned() } else { wanted.line() });
                }
                // The same key twice.
                Some(_) => {}
            }
        }
        if !self.absent {
            let options = options.as_deref().unwrap_or_default();
            let missing = own.iter().filter(|own| seen.insert(own.key));
            lines.extend(missing.map(|own| Key { options, ..own.clone() }.line()));
        }
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    fn path(&self, home: &str) -> PathBuf {
        match &self.file {
            Some(file) => file.to_path_buf(),
            None => PathBuf::from(home).join(".ssh/authorized_keys"),
        }
    }

    /// A script that gets the file's path, run as the user.
    fn script(&self, script: &str, home: &str) -> Command {
        let path = self.path(home).display().to_string();
        let mut command = Command::shell(script).args(["sh".to_owned(), path]);
        command.user = Some(self.user.clone());
        command
    }

    fn read(&self, view: &View, home: &str) -> Result<String, Failure> {
        let bytes = match &self.file {
            Some(file) => view.read(file)?.unwrap_or_default(),
            None => {
                let command = self.script(READ, home);
                let ran = view.run(&command)?;
                if !ran.succeeded() || ran.truncated() {
                    return Err(Failure::new(
                        format!("read {} as {}", self.path(home).display(), self.user),
                        ran.words(),
                    ));
                }
                ran.stdout
            }
        };
        String::from_utf8(bytes).map_err(|_| Failure::on("read", &self.path(home), "it is not UTF-8"))
    }

    fn write(&self, host: &Host, home: &str, text: &str) -> Result<(), Failure> {
        match &self.file {
            Some(file) => {
                let ownership = Ownership { uid: Some(0), gid: Some(0), mode: Some(0o644) };
                host.write(file, text.as_bytes(), ownership)
            }
            None => {
                let ran = host.run(&self.script(WRITE, home).stdin(text))?;
                let failure = || {
                    Failure::new(format!("write {} as {}", self.path(home).display(), self.user), ran.words())
                };
                if ran.succeeded() { Ok(()) } else { Err(failure()) }
            }
        }
    }
}

impl Module for SshKey {
    type Params = SshKeyParams;

    fn about(&self) -> About {
        About {
            name: "ssh_key",
            summary: "Public keys with which a user may log in by ssh.",
            identity: Some("user"),
            dry_run: "Complete, also for a user that an earlier state makes.",
            outputs: &[("path", "the file with the keys")],
            example: "\
admin:
  ssh_key: {key: \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBLs0fqjJTXvhIY8J4kQq1yXrG0Hh0jFqkl9n0ZtF2xV admin@desk\"}
backup-login:
  ssh_key:
    user: backup
    keys: [\"{{ backup_key }}\"]
    options: [restrict, 'command=\"/usr/bin/rrsync -ro /srv\"']
    exclusive: true
",
        }
    }

    fn check(&self, params: &SshKeyParams) -> Result<(), String> {
        check_name("user", &params.user)?;
        for line in params.key.iter().chain(&params.keys) {
            // A private key must not be repeated in a message.
            let key = Key::parse(line).filter(|_| !line.trim().contains(['\n', '\r', '\0']));
            let key = key.ok_or("a key is not as its `.pub` file has it: kind, key, comment")?;
            if !key.options.is_empty() {
                return Err("what a key may do is said by `options`".into());
            }
        }
        if params.key.is_none() && params.keys.is_empty() && (!params.exclusive || params.absent) {
            return Err("`key` or `keys` is missing".into());
        }
        for option in params.options.iter().flatten() {
            let (first, rest) = word(option);
            let plain = !option.contains(|c: char| c.is_control()) && option.matches('"').count() % 2 == 0;
            if option.is_empty() || !plain || !rest.is_empty() || first != option || option.starts_with('#') {
                return Err(format!("{option:?} is not a single option"));
            }
        }
        if params.absent && (params.exclusive || params.options.is_some()) {
            return Err("keys that are `absent` have no options, and leave the others".into());
        }
        Ok(())
    }

    fn needs(&self, params: &SshKeyParams) -> Vec<Resource> {
        let file = params.file.as_ref().and_then(|file| file.parent()).map(Resource::path);
        file.into_iter().chain([Resource::user(&params.user)]).collect()
    }

    fn writes(&self, params: &SshKeyParams) -> Vec<PathBuf> {
        // In a home directory the machine alone knows where.
        params.file.iter().map(|file| file.to_path_buf()).collect()
    }

    fn analyze(&self, params: &SshKeyParams, cx: &Analyze<'_>) -> Result<Analysis, Failure> {
        let user = Resource::user(&params.user);
        let now = if cx.forecast.takes(&user) { None } else { home(cx.view, &params.user)? };
        let home = match (cx.forecast.brings(&user), now) {
            (Some(coming), now) => {
                let value = coming.value();
                let home = value.as_ref().and_then(|value| value["home"].as_str());
                match (home.map(str::to_owned), now) {
                    // A home that moves takes its keys with it, or not: that shows then.
                    (Some(new), Some(now)) if new != now => return Ok(Analysis::conditional(&coming.by)),
                    (Some(home), Some(_)) => home,
                    (Some(home), None) => return self.for_new_user(params, &home),
                    (None, _) => return Ok(Analysis::conditional(&coming.by)),
                }
            }
            (None, Some(home)) => home,
            // Nobody can log in as nobody.
            (None, None) if params.absent => return Ok(Analysis::unchanged()),
            (None, None) => match cx.forecast.bringer() {
                Some(until) => return Ok(Analysis::conditional(until)),
                None => return Err(missing(params).hint("a `user` state before this one would make it")),
            },
        };
        let now = params.read(cx.view, &home)?;
        Ok(self.compare(params, &home, &now))
    }

    fn apply(&self, params: &SshKeyParams, cx: &Apply<'_>, _: &Analysis) -> Result<Applied, Failure> {
        let home = match home(cx.host, &params.user)? {
            Some(home) => home,
            None if params.absent => return Ok(Applied::default()),
            None => return Err(missing(params)),
        };
        let now = params.read(cx.host, &home)?;
        let wanted = params.wanted(&now);
        if wanted != now {
            params.write(cx.host, &home, &wanted)?;
        }
        Ok(Applied::default().output("path", params.path(&home).display().to_string()))
    }
}

fn missing(params: &SshKeyParams) -> Failure {
    Failure::new(format!("plan ssh_key of {}", params.user), format!("there is no user {}", params.user))
}

fn home(view: &View, user: &str) -> Result<Option<String>, Failure> {
    if let Some(entry) = accounts::user(view, user)? {
        return Ok(Some(entry.home));
    }
    let found = nix::unistd::User::from_name(user);
    let found = found.map_err(|error| Failure::new(format!("look up user {user}"), error))?;
    Ok(found.map(|user| user.dir.display().to_string()))
}

impl SshKey {
    fn for_new_user(&self, params: &SshKeyParams, home: &str) -> Result<Analysis, Failure> {
        Ok(self.compare(params, home, ""))
    }

    fn compare(&self, params: &SshKeyParams, home: &str, now: &str) -> Analysis {
        let wanted = params.wanted(now);
        let before = Some(now.as_bytes()).filter(|now| !now.is_empty());
        let change = || content::change("content", before, wanted.as_bytes(), Datum::known);
        let changes = if wanted == now { Vec::new() } else { vec![change()] };
        Analysis::of(changes).output("path", params.path(home).display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> String {
        let mut blob = vec![0, 0, 0, 11];
        blob.extend(b"ssh-ed25519");
        blob.extend([0, 0, 0, 32]);
        blob.extend([seed; 32]);
        format!("ssh-ed25519 {}", BASE64.encode(&blob))
    }

    fn read(value: serde_json::Value) -> Result<SshKeyParams, String> {
        let params: SshKeyParams = serde_json::from_value(value).map_err(|error| error.to_string())?;
        SshKey.check(&params).map(|()| params)
    }

    #[test]
    fn keys_are_found_behind_their_options() {
        let line = format!("command=\"a \\\"b c\",no-pty {} ann at work", key(1));
        let found = Key::parse(&line).unwrap();
        assert_eq!((found.options, found.comment), ("command=\"a \\\"b c\",no-pty", "ann at work"));
        assert_eq!(found.line(), line);
        let lying = key(1).replace("ssh-ed25519 ", "ssh-rsa ");
        for none in ["", "# ssh-ed25519 x", "ssh-ed25519", "ssh-ed25519 AAAA", &lying] {
            assert_eq!(Key::parse(none), None, "{none}");
        }
    }

    #[test]
    fn lines_of_others_stay() {
        let (one, two) = (key(1), key(2));
        let now = format!("# kept\n{one} old\nno-pty {two}\n");
        let params = read(serde_json::json!({"user": "ann", "key": format!("{one} new")})).unwrap();
        assert_eq!(params.wanted(&now), format!("# kept\n{one} new\nno-pty {two}\n"));
        assert_eq!(params.wanted(&params.wanted(&now)), params.wanted(&now));
        let params = read(serde_json::json!({"user": "ann", "key": two, "exclusive": true})).unwrap();
        assert_eq!(
            params.wanted(&now),
            format!("# kept\nno-pty {two}\n"),
            "options that nobody speaks of stay"
        );
        let params = read(serde_json::json!({"user": "ann", "key": two, "options": ["restrict"]})).unwrap();
        assert_eq!(params.wanted(&now), format!("# kept\n{one} old\nrestrict {two}\n"));
        let params = read(serde_json::json!({"user": "ann", "key": one, "absent": true})).unwrap();
        assert_eq!(params.wanted(&now), format!("# kept\nno-pty {two}\n"));
    }

    #[test]
    fn nothing_by_which_sshd_lets_others_in_stays_beside_exclusive_keys() {
        let (one, two) = (key(1), key(2));
        let odd = [
            format!("{two}\0junk"),
            format!("command=\"a\\\\\"\" {two}"),
            format!("ssh-ed25519-cert-v01@openssh.com {}", &two[12..]),
            "what nobody understands".to_owned(),
            // sshd passes over spaces and tabs alone.
            format!("\u{b}# {two}"),
        ];
        let comments = "# kept\n\n \t# kept too\n";
        let now = format!("{comments}{}\n", odd.join("\n"));
        let params = read(serde_json::json!({"user": "ann", "key": one, "exclusive": true})).unwrap();
        assert_eq!(params.wanted(&now), format!("{comments}{one}\n"));
        let params = read(serde_json::json!({"user": "ann", "key": two, "absent": true})).unwrap();
        assert_eq!(params.wanted(&now), format!("{comments}{}\n", odd[2..].join("\n")));
    }

    #[test]
    fn what_could_let_others_in_is_refused() {
        let one = key(1);
        for value in [
            serde_json::json!({"user": "ann"}),
            serde_json::json!({"user": "-ann", "key": one}),
            serde_json::json!({"user": "ann", "key": format!("{one}\n{}", key(2))}),
            serde_json::json!({"user": "ann", "key": format!("no-pty {one}")}),
            serde_json::json!({"user": "ann", "key": "-----BEGIN OPENSSH PRIVATE KEY-----"}),
            serde_json::json!({"user": "ann", "key": one, "options": ["no-pty ssh-rsa"]}),
            serde_json::json!({"user": "ann", "key": one, "options": ["command=\"a"]}),
            serde_json::json!({"user": "ann", "key": one, "options": ["a\nb"]}),
        ] {
            assert!(read(value.clone()).is_err(), "{value}");
        }
        read(serde_json::json!({"user": "ann", "key": one, "options": ["command=\"a b\"", "no-pty"]}))
            .unwrap();
    }
}

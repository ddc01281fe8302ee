//! `user`: a user of this machine, changed by the tools of the shadow suite.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use mainstay_core::state::StateId;
use mainstay_core::state::plan::{Change, Datum};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::accounts::{self, GroupEntry, UserEntry, check_field, check_name};
use crate::failure::Failure;
use crate::forecast::Resource;
use crate::format::AccountName;
use crate::host::Command;
use crate::module::{About, Analysis, Analyze, Applied, Apply, Module};

pub struct User;

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UserParams {
    /// The user's name.
    #[schemars(extend("format" = "account-name"))]
    name: String,
    /// Its number. Without it a new user gets a free one.
    uid: Option<u32>,
    /// A new user gets a number of those for system users, and no home unless `create_home` says so. Of a user that is there,
    /// nothing changes.
    #[serde(default)]
    system: bool,
    /// The user's own group, by name. Without it a new user gets a group of its own name: the one that is there, or a
    /// new one.
    #[schemars(extend("format" = "account-name"))]
    group: Option<String>,
    /// Further groups: just these, or with `append` at least these. The user's own group, where `group` does not name it, may be
    /// among them and is passed over.
    #[schemars(with = "Option<BTreeSet<AccountName>>")]
    groups: Option<BTreeSet<String>>,
    /// Leave it in further groups that are not named.
    #[serde(default)]
    append: bool,
    /// What stands beside the name, as a rule the full one.
    #[schemars(extend("format" = "account-field"))]
    comment: Option<String>,
    /// The home directory's path.
    #[schemars(extend("format" = "home"))]
    home: Option<PathBuf>,
    /// Make the home directory of a new user, with what `/etc/skel` holds. By default yes, for a system user no.
    create_home: Option<bool>,
    /// When `home` changes, move what is in the old one.
    #[serde(default)]
    move_home: bool,
    /// The login shell's path.
    #[schemars(extend("format" = "shell"))]
    shell: Option<PathBuf>,
    /// The hash of a password as `/etc/shadow` has it (`openssl passwd -6` makes one), or `!` for a user that cannot log
    /// in with one. It is never shown.
    password: Option<String>,
    /// There must be no such user.
    #[serde(default)]
    absent: bool,
    /// With `absent`: remove the home directory and the mail as well.
    #[serde(default)]
    remove_home: bool,
}

impl UserParams {
    fn creates_home(&self) -> bool {
        self.create_home.unwrap_or(!self.system)
    }

    /// Where a new user will be at home, unless the machine's own defaults say otherwise.
    fn home(&self) -> PathBuf {
        self.home.clone().unwrap_or_else(|| Path::new("/home").join(&self.name))
    }

    /// Further groups as they shall be. A user is in its own anyway, and the tables do not say so twice.
    fn wanted_groups(&self, now: Option<&Now>) -> Option<BTreeSet<String>> {
        let mut groups = self.groups.clone()?;
        if let Some(now) = now.filter(|_| self.append) {
            groups.extend(now.groups.iter().cloned());
        }
        groups.remove(self.group.as_deref().unwrap_or(now.map_or(&self.name, |now| &now.group)));
        Some(groups)
    }
}

/// The user as it is, with what the tables of groups say of it.
struct Now {
    entry: UserEntry,
    /// The name of its own group, or the number where there is none.
    group: String,
    /// Further groups.
    groups: BTreeSet<String>,
}

impl Now {
    fn of(entry: UserEntry, groups: &[GroupEntry]) -> Self {
        let own = groups.iter().find(|group| group.gid == entry.gid);
        let further = groups
            .iter()
            .filter(|group| group.members.contains(&entry.name) && group.gid != entry.gid)
            .map(|group| group.name.clone())
            .collect();
        let group = own.map_or_else(|| entry.gid.to_string(), |group| group.name.clone());
        Self { entry, group, groups: further }
    }

    fn outputs(&self, analysis: Analysis) -> Analysis {
        analysis
            .output("uid", self.entry.uid)
            .output("gid", self.entry.gid)
            .output("home", self.entry.home.clone())
            .output("shell", self.entry.shell.clone())
    }
}

impl Module for User {
    type Params = UserParams;

    fn about(&self) -> About {
        About {
            name: "user",
            summary: "A user of this machine.",
            identity: Some("name"),
            dry_run: "Complete, but for the number of a new user where none is given. Groups that do not exist yet are \
                      predicted from the states that make them.",
            outputs: &[
                ("uid", "its number"),
                ("gid", "the number of its own group"),
                ("home", "its home directory"),
                ("shell", "its login shell"),
            ],
            example: "\
app:
  user: {system: true, home: /srv/app, shell: /usr/sbin/nologin, groups: [www-data], append: true}
admin:
  user: {comment: For those on duty, groups: [sudo], password: \"{{ secrets.admin_hash }}\"}
",
        }
    }

    fn check(&self, params: &UserParams) -> Result<(), String> {
        check_name("user", &params.name)?;
        params
            .group
            .iter()
            .chain(params.groups.iter().flatten())
            .try_for_each(|name| check_name("group", name))?;
        for (field, path) in [("home", &params.home), ("shell", &params.shell)] {
            let Some(path) = path else { continue };
            let text = path.to_str().ok_or_else(|| format!("`{field}` is not UTF-8"))?;
            check_field(field, text)?;
            // The empty shell is a valid one, and means /bin/sh.
            let good = path.is_absolute() || (field == "shell" && text.is_empty());
            if !good {
                return Err(format!("`{field}` is not an absolute path"));
            }
        }
        check_field("comment", params.comment.as_deref().unwrap_or_default())?;
        if let Some(hash) = &params.password {
            check_field("password", hash)?;
            // A password in clear would lock the user out, and lie readable in the table.
            if !(hash.starts_with('$') || hash.starts_with(['!', '*']) || hash.starts_with('_')) {
                return Err(
                    "the password is not a hash: `openssl passwd -6` makes one; `!` allows none".into()
                );
            }
        }
        if params.append && params.groups.is_none() {
            return Err("`append` needs `groups`".into());
        }
        if params.remove_home && !params.absent {
            return Err("`remove_home` needs `absent: true`".into());
        }
        if params.group.as_ref().is_some_and(|own| params.groups.iter().flatten().any(|group| group == own)) {
            return Err("`groups` are those beside the user's own `group`".into());
        }
        Ok(())
    }

    fn needs(&self, params: &UserParams) -> Vec<Resource> {
        if params.absent {
            return Vec::new();
        }
        let own = params.group.as_ref().unwrap_or(&params.name);
        params.groups.iter().flatten().chain([own]).map(|group| Resource::group(group)).collect()
    }

    fn provides(&self, params: &UserParams) -> Vec<Resource> {
        if params.absent {
            return Vec::new();
        }
        let mut provides = vec![Resource::user(&params.name)];
        if params.group.is_none() {
            provides.push(Resource::group(&params.name));
        }
        if params.creates_home() {
            provides.push(Resource::path(&params.home()));
        }
        provides
    }

    fn writes(&self, _: &UserParams) -> Vec<PathBuf> {
        vec!["/etc/shadow".into(), "/etc/passwd".into()]
    }

    fn analyze(&self, params: &UserParams, cx: &Analyze<'_>) -> Result<Analysis, Failure> {
        let mut groups = accounts::groups(cx.view)?;
        groups.retain(|group| !cx.forecast.takes(&Resource::group(&group.name)));
        let resource = Resource::user(&params.name);
        let entry = accounts::user(cx.view, &params.name)?.filter(|_| !cx.forecast.takes(&resource));
        let now = entry.map(|entry| Now::of(entry, &groups));
        if now.is_none() && cx.user(&params.name)?.is_some() {
            let words = "it comes from a directory service, not from /etc/passwd";
            return Err(Failure::new(format!("plan user {}", params.name), words));
        }
        if params.absent {
            return Ok(match now {
                None => Analysis::unchanged(),
                Some(now) => {
                    let mut changes = vec![Change::new("exists", Datum::known(true), Datum::known(false))];
                    let along = accounts::group_goes_along(cx.view, &now.entry, &groups)?;
                    if params.remove_home {
                        changes.push(Change::new("home", Datum::known(now.entry.home), Datum::Absent));
                    }
                    let gone = || Some(json!({"absent": true}));
                    let analysis = Analysis::of(changes).predict(resource, gone());
                    match along {
                        true => analysis.predict(Resource::group(&params.name), gone()),
                        false => analysis,
                    }
                }
            });
        }
        let changes = Fields { params, now: now.as_ref(), groups: &groups, cx }.changes()?;
        let mut analysis = Analysis::of(changes);
        if analysis.changes.is_empty() {
            return Ok(now.iter().fold(analysis, |analysis, now| now.outputs(analysis)));
        }
        // What a change leaves as it is, and what it makes so.
        let entry = now.as_ref().map(|now| &now.entry);
        let text = |path: &PathBuf| path.display().to_string();
        let uid = params.uid.or(entry.map(|entry| entry.uid));
        let home = params.home.as_ref().map(text).or(entry.map(|entry| entry.home.clone()));
        let shell = params.shell.as_ref().map(text).or(entry.map(|entry| entry.shell.clone()));
        let outputs = [("uid", json!(uid)), ("home", json!(home)), ("shell", json!(shell))];
        for (name, value) in outputs.into_iter().filter(|(_, value)| !value.is_null()) {
            analysis = analysis.output(name, value);
        }
        if now.is_none() {
            let home = home.unwrap_or_else(|| text(&params.home()));
            if params.creates_home() {
                analysis =
                    analysis.predict(Resource::path(Path::new(&home)), Some(json!({"kind": "directory"})));
            }
            if params.group.is_none() {
                analysis = analysis.predict(Resource::group(&params.name), Some(json!({"gid": null})));
            }
            return Ok(analysis.predict(resource, Some(json!({"uid": uid, "home": home}))));
        }
        Ok(analysis.predict(resource, Some(json!({"uid": uid, "home": home}))))
    }

    fn apply(&self, params: &UserParams, cx: &Apply<'_>, _: &Analysis) -> Result<Applied, Failure> {
        let groups = accounts::groups(cx.host)?;
        let look = |groups: &[GroupEntry]| -> Result<Option<Now>, Failure> {
            Ok(accounts::user(cx.host, &params.name)?.map(|entry| Now::of(entry, groups)))
        };
        let now = look(&groups)?;
        if params.absent {
            if now.is_some() {
                let removal = params.remove_home.then_some("-r");
                accounts::change(cx.host, &Command::new("userdel").args(removal).arg(&params.name))?;
            }
            return Ok(Applied::default());
        }
        match &now {
            None => accounts::change(cx.host, &useradd(params, &groups))?,
            Some(now) => {
                let args = usermod(params, now);
                if !args.is_empty() {
                    accounts::change(cx.host, &Command::new("usermod").args(args).arg(&params.name))?;
                }
            }
        }
        if let Some(hash) = &params.password
            && accounts::password(cx.host, &params.name)?.as_ref() != Some(hash)
        {
            // Not as an argument, which everybody on the machine can read.
            let line = format!("{}:{hash}\n", params.name);
            accounts::change(cx.host, &Command::new("chpasswd").arg("-e").stdin(line))?;
        }
        let made = look(&accounts::groups(cx.host)?)?;
        let outputs = made.iter().fold(Analysis::unchanged(), |analysis, now| now.outputs(analysis)).outputs;
        Ok(Applied { outputs, ..Applied::default() })
    }
}

/// What differs, field by field.
struct Fields<'a> {
    params: &'a UserParams,
    now: Option<&'a Now>,
    groups: &'a [GroupEntry],
    cx: &'a Analyze<'a>,
}

impl Fields<'_> {
    fn changes(&self) -> Result<Vec<Change>, Failure> {
        let (params, entry) = (self.params, self.now.map(|now| &now.entry));
        let mut changes = Vec::new();
        if entry.is_none() {
            changes.push(Change::new("exists", Datum::known(false), Datum::known(true)));
        }
        let mut field = |name: &'static str, now: Option<Value>, wanted: Option<Value>| {
            if let Some(wanted) = wanted.filter(|wanted| now.as_ref() != Some(wanted)) {
                changes.push(Change::new(
                    name,
                    now.map_or(Datum::Absent, Datum::Known),
                    Datum::Known(wanted),
                ));
            }
        };
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| json!(path.display().to_string()));
        field("uid", entry.map(|e| json!(e.uid)), params.uid.map(Into::into));
        field("comment", entry.map(|e| json!(e.comment)), params.comment.clone().map(Into::into));
        field("home", entry.map(|e| json!(e.home)), path(&params.home));
        field("shell", entry.map(|e| json!(e.shell)), path(&params.shell));
        self.check_uid()?;
        changes.extend(self.own_group()?);
        changes.extend(self.further_groups()?);
        changes.extend(self.password()?);
        Ok(changes)
    }

    fn failure(&self, words: impl std::fmt::Display) -> Failure {
        Failure::new(format!("plan user {}", self.params.name), words)
    }

    fn check_uid(&self) -> Result<(), Failure> {
        let Some(uid) = self.params.uid.filter(|uid| self.now.is_none_or(|now| now.entry.uid != *uid)) else {
            return Ok(());
        };
        let taken = self.cx.user_name(uid);
        match taken == uid.to_string() {
            true => Ok(()),
            false => Err(self.failure(format!("the number {uid} is that of the user {taken}"))),
        }
    }

    /// The state that will make the group, or nothing if it is there.
    fn maker(&self, group: &str) -> Result<Option<StateId>, Failure> {
        if let Some(prediction) = self.cx.forecast.brings(&Resource::group(group)) {
            return Ok(Some(prediction.by.clone()));
        }
        if self.groups.iter().any(|known| known.name == group) || self.cx.group(group)?.is_some() {
            return Ok(None);
        }
        match self.cx.forecast.bringer() {
            Some(bringer) => Ok(Some(bringer.clone())),
            None => Err(self
                .failure(format!("there is no group {group}"))
                .hint("a `group` state before this one would make it")),
        }
    }

    fn own_group(&self) -> Result<Option<Change>, Failure> {
        let now = self.now.map(|now| now.group.as_str());
        let Some(wanted) = self.params.group.as_deref().filter(|wanted| now != Some(wanted)) else {
            return Ok(None);
        };
        let after = match self.maker(wanted)? {
            Some(by) => Datum::Predicted { value: wanted.into(), by },
            None => Datum::known(wanted),
        };
        Ok(Some(Change::new("group", now.map_or(Datum::Absent, Datum::known), after)))
    }

    fn further_groups(&self) -> Result<Option<Change>, Failure> {
        let now = self.now.map(|now| now.groups.clone());
        let known = now.clone().unwrap_or_default();
        let Some(wanted) = self.params.wanted_groups(self.now).filter(|wanted| *wanted != known) else {
            return Ok(None);
        };
        let mut by = None;
        for group in wanted.difference(&known) {
            by = self.maker(group)?.or(by);
        }
        let after = match by {
            Some(by) => Datum::Predicted { value: json!(wanted), by },
            None => Datum::known(json!(wanted)),
        };
        Ok(Some(Change::new("groups", now.map_or(Datum::Absent, |now| Datum::known(json!(now))), after)))
    }

    fn password(&self) -> Result<Option<Change>, Failure> {
        let Some(wanted) = &self.params.password else { return Ok(None) };
        let now = match self.now {
            Some(_) => accounts::password(self.cx.view, &self.params.name)?,
            None => None,
        };
        if now.as_ref() == Some(wanted) {
            return Ok(None);
        }
        let secret = |hash: &String| self.cx.view.secret(hash.as_bytes());
        Ok(Some(Change::new("password", now.as_ref().map_or(Datum::Absent, secret), secret(wanted))))
    }
}

fn useradd(params: &UserParams, groups: &[GroupEntry]) -> Command {
    let mut command = Command::new("useradd");
    let mut option = |flag: &str, value: Option<String>| {
        if let Some(value) = value {
            command.args.extend([flag.to_owned(), value]);
        }
    };
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    option("-u", params.uid.map(|uid| uid.to_string()));
    // Where a group of its name is there, the tool would refuse to make one.
    let there = groups.iter().any(|group| group.name == params.name).then(|| params.name.clone());
    let own = params.group.clone().or(there);
    let makes_group = own.is_none();
    option("-g", own);
    let further = params.wanted_groups(None).into_iter().flatten().collect::<Vec<_>>().join(",");
    option("-G", Some(further).filter(|further| !further.is_empty()));
    option("-c", params.comment.clone());
    option("-d", path(&params.home));
    option("-s", path(&params.shell));
    command.args.extend(params.system.then(|| "-r".to_owned()));
    command.args.extend(makes_group.then(|| "-U".to_owned()));
    command.args.push(if params.creates_home() { "-m" } else { "-M" }.into());
    command.arg(&params.name)
}

fn usermod(params: &UserParams, now: &Now) -> Vec<String> {
    let mut args = Vec::new();
    let mut option = |flag: &str, wanted: Option<String>, now: &str| {
        if let Some(wanted) = wanted.filter(|wanted| wanted != now) {
            args.extend([flag.to_owned(), wanted]);
        }
    };
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    option("-u", params.uid.map(|uid| uid.to_string()), &now.entry.uid.to_string());
    option("-g", params.group.clone(), &now.group);
    option("-c", params.comment.clone(), &now.entry.comment);
    option("-d", path(&params.home), &now.entry.home);
    option("-s", path(&params.shell), &now.entry.shell);
    let list = |groups: &BTreeSet<String>| groups.iter().cloned().collect::<Vec<_>>().join(",");
    option("-G", params.wanted_groups(Some(now)).as_ref().map(list), &list(&now.groups));
    if params.move_home && args.iter().any(|arg| arg == "-d") {
        args.push("-m".into());
    }
    args
}

//! What is at a path when a state has its turn: what is there now, or what earlier states of the plan will have put
//! there. What nobody can tell yet is a [`Hindrance`], not a guess.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use mainstay_core::state::StateId;
use mainstay_core::state::plan::{Change, Datum};
use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::field::{Account, Mode};
use crate::forecast::{Prediction, Resource};
use crate::host::{Entry, EntryKind, Ownership, View};
use crate::module::{Analysis, Analyze};

/// As many links in a row as the kernel follows.
pub(crate) const MAX_LINKS: usize = 40;

/// Why a state cannot be analysed to its end.
#[derive(Debug)]
pub enum Hindrance {
    Failed(Failure),
    /// It is known only once this state has had its turn.
    Later(StateId),
}

impl Hindrance {
    /// Of a look at the machine as it is, with nothing foretold: only a failure is left.
    pub fn now(self) -> Failure {
        match self {
            Self::Failed(failure) => failure,
            Self::Later(until) => {
                Failure::new("look at the machine", format!("{until} has not had its turn"))
            }
        }
    }
}

impl From<Failure> for Hindrance {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

pub type Sight<T> = Result<T, Hindrance>;

/// Ends an analysis of what is at `path`. If it has to wait, so has everything that asks for the path.
pub fn conclude(path: &Path, sight: Sight<Analysis>) -> Result<Analysis, Failure> {
    match sight {
        Ok(analysis) => Ok(analysis),
        Err(Hindrance::Failed(failure)) => Err(failure),
        Err(Hindrance::Later(until)) => Ok(Analysis::conditional(&until).predict(Resource::path(path), None)),
    }
}

/// Something is missing that an earlier state may bring.
pub fn missing(cx: &Analyze<'_>, failure: Failure) -> Hindrance {
    match cx.forecast.bringer() {
        Some(until) => Hindrance::Later(until.clone()),
        None => Hindrance::Failed(failure),
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    Absent,
    File,
    Directory,
    Link(PathBuf),
    /// A device, a socket, a pipe.
    Special,
}

#[derive(Clone, Debug)]
pub struct Standing {
    pub path: PathBuf,
    /// The state that will have made it so; nothing if it is so now.
    pub by: Option<StateId>,
    pub kind: Kind,
    pub mode: Option<u32>,
    pub size: u64,
    /// How many names the file has.
    pub links: u64,
    /// It was foretold that the content may not be shown.
    secret: bool,
    text: Option<String>,
    /// Of what is there now. A name costs a look at the tables of accounts, and mostly nobody asks for it.
    ids: Option<(u32, u32)>,
    /// Of what is foretold.
    owner: Option<String>,
    group: Option<String>,
}

impl Standing {
    /// Nothing there.
    pub fn absent(path: &Path, by: Option<StateId>) -> Self {
        Self {
            path: path.to_owned(),
            by,
            kind: Kind::Absent,
            mode: None,
            owner: None,
            group: None,
            size: 0,
            links: 0,
            secret: false,
            text: None,
            ids: None,
        }
    }

    fn observed(path: &Path, entry: Option<Entry>) -> Self {
        let Some(entry) = entry else { return Self::absent(path, None) };
        Self {
            kind: match entry.kind {
                EntryKind::File => Kind::File,
                EntryKind::Directory => Kind::Directory,
                EntryKind::Link(target) => Kind::Link(target),
                EntryKind::Special => Kind::Special,
            },
            mode: Some(entry.mode),
            size: entry.size,
            links: entry.links,
            ids: Some((entry.uid, entry.gid)),
            ..Self::absent(path, None)
        }
    }

    fn foretold(path: &Path, prediction: &Prediction) -> Sight<Self> {
        let later = || Hindrance::Later(prediction.by.clone());
        let value = prediction.value().ok_or_else(later)?;
        let word = |key: &str| value.get(key).and_then(Value::as_str);
        let kind = match word("kind") {
            Some("absent") => Kind::Absent,
            Some("file") => Kind::File,
            Some("directory") => Kind::Directory,
            Some("link") => Kind::Link(word("target").ok_or_else(later)?.into()),
            _ => return Err(later()),
        };
        let text = word("text").map(str::to_owned);
        Ok(Self {
            kind,
            mode: word("mode").and_then(Mode::parse).map(|mode| mode.0),
            owner: word("owner").map(str::to_owned),
            group: word("group").map(str::to_owned),
            size: text.as_ref().map_or(0, |text| text.len() as u64),
            links: 1,
            secret: value.get("secret").and_then(Value::as_bool).unwrap_or(false),
            text,
            ..Self::absent(path, Some(prediction.by.clone()))
        })
    }

    /// What is at the path, a link itself rather than what it leads to.
    pub fn at(cx: &Analyze<'_>, path: &Path) -> Sight<Self> {
        if let Some(prediction) = cx.forecast.get(&Resource::path(path)) {
            return Self::foretold(path, prediction);
        }
        if let Some(fate) = Self::beneath(cx, path)? {
            return Ok(fate);
        }
        Ok(Self::observed(path, cx.view.entry(path)?))
    }

    /// What the fate of a directory above means for a path of which nothing is foretold itself.
    fn beneath(cx: &Analyze<'_>, path: &Path) -> Sight<Option<Self>> {
        if cx.forecast.is_empty() {
            return Ok(None);
        }
        for above in path.ancestors().skip(1) {
            let Some(prediction) = cx.forecast.get(&Resource::path(above)) else { continue };
            let fate = Self::foretold(above, prediction)?;
            let inside = prediction.value().and_then(|value| value.get("inside").cloned());
            return match fate.kind {
                Kind::Link(_) => Err(Hindrance::Later(prediction.by.clone())),
                Kind::Directory if inside.is_some() => Err(Hindrance::Later(prediction.by.clone())),
                // Only its owner or mode will be another.
                Kind::Directory if cx.view.target(above)?.is_some_and(|e| e.kind == EntryKind::Directory) => {
                    Ok(None)
                }
                _ => Ok(Some(Self::absent(path, Some(prediction.by.clone())))),
            };
        }
        Ok(None)
    }

    /// What a path leads to in the end. Where a link leads nowhere, that is the place and nothing is there.
    pub fn through(cx: &Analyze<'_>, path: &Path) -> Sight<Self> {
        let mut standing = Self::at(cx, path)?;
        for _ in 0..MAX_LINKS {
            let Kind::Link(target) = &standing.kind else { return Ok(standing) };
            refuse_planted(cx.view, &standing)?;
            let next = standing.path.parent().unwrap_or(Path::new("/")).join(target);
            standing = Self::at(cx, &next)?;
        }
        Err(Failure::on("follow", path, "too many links in a row").into())
    }

    fn owner(&self, cx: &Analyze<'_>) -> Option<String> {
        self.ids.map(|(uid, _)| cx.user_name(uid)).or_else(|| self.owner.clone())
    }

    fn group(&self, cx: &Analyze<'_>) -> Option<String> {
        self.ids.map(|(_, gid)| cx.group_name(gid)).or_else(|| self.group.clone())
    }

    /// Whether the content may not be shown.
    pub fn is_secret(&self, view: &View) -> bool {
        self.secret || view.hides(&self.path)
    }

    pub fn exists(&self) -> bool {
        self.kind != Kind::Absent
    }

    /// What is there, in words.
    pub fn what(&self) -> &'static str {
        match &self.kind {
            Kind::Absent => "absent",
            Kind::File => "file",
            Kind::Directory => "directory",
            Kind::Link(_) => "link",
            Kind::Special => "device, socket or pipe",
        }
    }

    /// A value that belongs to what stands here: known, or predicted by the state that will have made it.
    pub fn datum(&self, value: impl Into<Value>) -> Datum {
        let value = value.into();
        match &self.by {
            Some(by) => Datum::Predicted { value, by: by.clone() },
            None => Datum::Known(value),
        }
    }

    /// `exists` as a plan's `before` has it.
    pub fn before(&self) -> Datum {
        if self.exists() { self.datum(self.what()) } else { Datum::Absent }
    }

    /// A file's content; nothing if there is no file.
    pub fn content(&self, view: &View) -> Sight<Option<Vec<u8>>> {
        match (&self.kind, &self.by, &self.text) {
            (Kind::File, None, _) => Ok(view.read(&self.path)?),
            (Kind::File, Some(_), Some(text)) => Ok(Some(text.clone().into_bytes())),
            (Kind::File, Some(by), None) => Err(Hindrance::Later(by.clone())),
            _ => Ok(None),
        }
    }
}

/// A link that somebody else put into a directory where everybody may write leads wherever they like.
fn refuse_planted(view: &View, link: &Standing) -> Result<(), Failure> {
    let (Some((uid, _)), Some(parent)) = (link.ids, link.path.parent()) else { return Ok(()) };
    let Some(parent) = view.target(parent)? else { return Ok(()) };
    let open_to_all = parent.mode & 0o1002 == 0o1002;
    if open_to_all && uid != parent.uid && uid != nix::unistd::geteuid().as_raw() {
        return Err(Failure::on(
            "follow",
            &link.path,
            "another user put this link where everybody may write",
        ));
    }
    Ok(())
}

/// That something can be put at a path: its parent is a directory, or will be.
pub fn parent_ready(cx: &Analyze<'_>, path: &Path) -> Sight<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    // The usual case costs one call of the system.
    if cx.forecast.is_empty() && cx.view.target(parent)?.is_some_and(|e| e.kind == EntryKind::Directory) {
        return Ok(());
    }
    let standing = Standing::through(cx, parent)?;
    match standing.kind {
        Kind::Directory => Ok(()),
        Kind::Absent => {
            let words = format!("the directory {} does not exist", parent.display());
            let failure = Failure::on("put", path, words).hint("declare it with a `directory` state");
            Err(missing(cx, failure))
        }
        _ => Err(Failure::on("put", path, format!("{} is not a directory", parent.display())).into()),
    }
}

/// What is foretold of a path.
#[derive(Clone, Debug, Default)]
pub struct Thing {
    pub kind: &'static str,
    pub text: Option<String>,
    pub target: Option<String>,
    pub mode: Option<Mode>,
    pub owner: Option<String>,
    pub group: Option<String>,
    pub secret: bool,
    /// There will be more in the directory than predictions say.
    pub inside_unknown: bool,
}

impl Thing {
    pub fn absent() -> Self {
        Self { kind: "absent", ..Self::default() }
    }

    pub fn value(self) -> Value {
        let mut map = Map::new();
        map.insert("kind".into(), self.kind.into());
        let mut put = |key: &str, value: Option<String>| {
            map.extend(value.map(|value| (key.to_owned(), Value::String(value))));
        };
        put("text", self.text);
        put("target", self.target);
        put("mode", self.mode.map(|mode| mode.to_string()));
        put("owner", self.owner);
        put("group", self.group);
        put("inside", self.inside_unknown.then(|| "unknown".into()));
        if self.secret {
            map.insert("secret".into(), json!(true));
        }
        Value::Object(map)
    }
}

/// Owner, group and mode as a state declares them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    pub mode: Option<Mode>,
    pub owner: Option<&'a Account>,
    pub group: Option<&'a Account>,
}

impl Wanted<'_> {
    /// What differs from what stands there. `of` says whose fields they are, if not the state's own path.
    pub fn changes(&self, cx: &Analyze<'_>, standing: &Standing, of: &str) -> Sight<Vec<Change>> {
        let mut changes = Vec::new();
        let new = !standing.exists();
        // Of something foretold that may be as declared or not, nobody can tell whether it changes.
        let before = |known: Option<Value>| match (known, &standing.by) {
            _ if new => Ok(Datum::Absent),
            (Some(value), _) => Ok(standing.datum(value)),
            (None, Some(by)) => Err(Hindrance::Later(by.clone())),
            (None, None) => Ok(Datum::Absent),
        };
        if let Some(mode) = self.mode.filter(|mode| new || standing.mode != Some(mode.0)) {
            let old = before(standing.mode.map(|mode| Mode(mode).to_string().into()))?;
            changes.push(Change::new(field("mode", of), old, Datum::known(mode.to_string())));
        }
        if let Some(account) = self.owner {
            let number = find(account, |name| cx.user(name))?;
            let name = number.map_or_else(|| account.to_string(), |uid| cx.user_name(uid));
            let same = match (standing.ids, number) {
                (Some((uid, _)), Some(wanted)) => uid == wanted,
                _ => standing.owner(cx).as_ref() == Some(&name),
            };
            if new || !same {
                let old = before(standing.owner(cx).map(Value::from))?;
                let coming = coming(cx, "user", number, account, name)?;
                changes.push(Change::new(field("owner", of), old, coming));
            }
        }
        if let Some(account) = self.group {
            let number = find(account, |name| cx.group(name))?;
            let name = number.map_or_else(|| account.to_string(), |gid| cx.group_name(gid));
            let same = match (standing.ids, number) {
                (Some((_, gid)), Some(wanted)) => gid == wanted,
                _ => standing.group(cx).as_ref() == Some(&name),
            };
            if new || !same {
                let old = before(standing.group(cx).map(Value::from))?;
                let coming = coming(cx, "group", number, account, name)?;
                changes.push(Change::new(field("group", of), old, coming));
            }
        }
        Ok(changes)
    }

    /// The numbers, at the moment of applying.
    pub fn ownership(&self, view: &View) -> Result<Ownership, Failure> {
        let number =
            |kind: &str, account: Option<&Account>, look: &dyn Fn(&str) -> Result<Option<u32>, Failure>| {
                let Some(account) = account else { return Ok(None) };
                find(account, look)?.map(Some).ok_or_else(|| no_such(kind, account))
            };
        Ok(Ownership {
            uid: number("user", self.owner, &|name| view.user(name))?,
            gid: number("group", self.group, &|name| view.group(name))?,
            mode: self.mode.map(|mode| mode.0),
        })
    }

    /// What is foretold of a thing that will be so. What is unset stays as it stands; of a new thing that is the
    /// process's own, with the usual mode.
    pub fn foretell(&self, standing: &Standing, thing: Thing, usual: Mode, cx: &Analyze<'_>) -> Thing {
        let named = |account: &Account, name: &dyn Fn(u32) -> String| {
            account.number().map_or_else(|| account.to_string(), name)
        };
        let kept = standing.exists();
        let owner = match self.owner {
            Some(account) => Some(named(account, &|uid| cx.user_name(uid))),
            None if kept => standing.owner(cx),
            None => Some(cx.user_name(nix::unistd::geteuid().as_raw())),
        };
        let group = match self.group {
            Some(account) => Some(named(account, &|gid| cx.group_name(gid))),
            None if kept => standing.group(cx),
            // A directory may hand its own group down.
            None => None,
        };
        let kept = if kept { standing.mode.map(Mode) } else { Some(usual) };
        Thing { mode: self.mode.or(kept), owner, group, ..thing }
    }
}

/// A change's field: of the state's own path, or of one beneath it.
pub fn field(field: &'static str, of: &str) -> Cow<'static, str> {
    if of.is_empty() { field.into() } else { format!("{field} of {of}").into() }
}

fn find(
    account: &Account,
    look: impl Fn(&str) -> Result<Option<u32>, Failure>,
) -> Result<Option<u32>, Failure> {
    match account.number() {
        Some(number) => Ok(Some(number)),
        None => look(account.as_str()),
    }
}

/// An account as a plan's `after` has it: there, foretold, or perhaps brought by an earlier state.
fn coming(
    cx: &Analyze<'_>,
    kind: &str,
    number: Option<u32>,
    account: &Account,
    name: String,
) -> Result<Datum, Failure> {
    if let Some(prediction) = cx.forecast.brings(&Resource::new(kind, account)).filter(|_| number.is_none()) {
        return Ok(Datum::Predicted { value: name.into(), by: prediction.by.clone() });
    }
    match (number, cx.forecast.bringer()) {
        (Some(_), _) => Ok(Datum::known(name)),
        (None, Some(until)) => Ok(Datum::Unknown { until: until.clone() }),
        (None, None) => Err(no_such(kind, account)),
    }
}

fn no_such(kind: &str, account: &Account) -> Failure {
    Failure::new(format!("look up {kind} {account}"), format!("there is no such {kind}"))
        .hint(format!("declare it with a `{kind}` state"))
}

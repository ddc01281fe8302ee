//! `pkg`: packages of the machine's own package manager.
//!
//! What the managers say and do is in [`crate::packages`]; here is what is wanted, what that comes to as one transaction,
//! and when the list of what can be installed has to be read again first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mainstay_core::state::StateId;
use mainstay_core::state::plan::{Change, Datum};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::failure::Failure;
use crate::forecast::Resource;
use crate::host::View;
use crate::module::{About, Analysis, Analyze, Applied, Apply, Module};
use crate::packages::{Available, Installed, Manager, Move, Transaction, check_version, is_version};

/// What is `latest` is looked up in a list that is no older than this: repositories change some times a day.
const FRESH: Duration = Duration::from_secs(3600);

pub struct Pkg;

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PkgParams {
    /// The package's name, as the machine's package manager has it. With `names`, just what the state is called.
    name: String,
    /// Several packages, each a name or a `{name, version}`. They are installed in one transaction.
    names: Option<Vec<Wanted>>,
    /// The version to have, as the package manager writes it; `*` stands for any text (`1.24.*`).
    #[schemars(extend("format" = "package-version"))]
    version: Option<String>,
    /// Have the newest version that the repositories hold.
    #[serde(default)]
    latest: bool,
    /// Keep it at its version when others are upgraded; `false` lets it go again.
    held: Option<bool>,
    /// It must not be installed.
    #[serde(default)]
    absent: bool,
    /// With `absent`: remove its configuration as well (apt).
    #[serde(default)]
    purge: bool,
    /// Whether packages that are only recommended are installed with it. Without it the package manager's own default.
    recommends: Option<bool>,
    /// Which package manager is meant, on a machine that has several.
    manager: Option<Manager>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
enum Wanted {
    Name(String),
    Version(NameAndVersion),
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
struct NameAndVersion {
    name: String,
    version: String,
}

impl PkgParams {
    /// Names and versions.
    fn wanted(&self) -> BTreeMap<&str, Option<&str>> {
        match &self.names {
            None => BTreeMap::from([(self.name.as_str(), self.version.as_deref())]),
            Some(names) => names
                .iter()
                .map(|wanted| match wanted {
                    Wanted::Name(name) => (name.as_str(), self.version.as_deref()),
                    Wanted::Version(both) => (both.name.as_str(), Some(both.version.as_str())),
                })
                .collect(),
        }
    }

    fn manager(&self, view: &View) -> Result<Manager, Failure> {
        self.manager.map_or_else(|| Manager::of(view), Ok)
    }
}

/// What is wanted against what there is.
struct Sight {
    manager: Manager,
    installed: BTreeMap<String, Installed>,
    available: BTreeMap<String, Available>,
    transaction: Transaction,
    hold: Vec<String>,
    unhold: Vec<String>,
    /// Not known to the manager's list.
    unknown: Vec<String>,
}

impl Sight {
    fn of(view: &View, params: &PkgParams) -> Result<Self, Failure> {
        let manager = params.manager(view)?;
        let wanted = params.wanted();
        let names: Vec<&str> = wanted.keys().copied().collect();
        names.iter().try_for_each(|name| manager.check_name(name))?;
        let installed = manager.installed(view, &names)?;
        let mut sight = Self {
            manager,
            installed,
            available: BTreeMap::new(),
            transaction: Transaction {
                recommends: params.recommends,
                purge: params.purge,
                ..Transaction::default()
            },
            hold: Vec::new(),
            unhold: Vec::new(),
            unknown: Vec::new(),
        };
        if params.absent {
            let there = |installed: &Installed| !installed.config_only || params.purge;
            let names = sight.installed.iter().filter(|(_, installed)| there(installed));
            sight.transaction.remove = names.map(|(name, _)| name.clone()).collect();
            return Ok(sight);
        }
        let is_there = |name: &str| sight.installed.get(name).filter(|installed| !installed.config_only);
        let missing = |(name, version): &(&str, Option<&str>)| {
            is_there(name)
                .is_none_or(|installed| version.is_some_and(|wanted| !is_version(wanted, &installed.version)))
        };
        // The list is asked only where it matters: it costs more than all else here.
        let asked: Vec<&str> = wanted
            .iter()
            .map(|(name, version)| (*name, *version))
            .filter(|wanted| params.latest || missing(wanted))
            .map(|(name, _)| name)
            .collect();
        if !asked.is_empty() {
            sight.available = manager.available(view, &asked)?;
        }
        let mut install = BTreeMap::new();
        for name in asked {
            let version = wanted.get(name).copied().flatten();
            let now = sight.installed.get(name).filter(|installed| !installed.config_only);
            let Some(available) = sight.available.get(name) else {
                if now.is_none() || version.is_some() {
                    sight.unknown.push(name.to_owned());
                }
                continue;
            };
            match version {
                None => {
                    let newest = available.candidate.as_deref();
                    if now.is_none_or(|now| newest.is_some_and(|newest| newest != now.version)) {
                        install
                            .insert(name.to_owned(), available.candidate.clone().filter(|_| now.is_some()));
                    }
                }
                Some(wanted) => match available.versions.iter().find(|version| is_version(wanted, version)) {
                    Some(version) => {
                        install.insert(name.to_owned(), Some(version.clone()));
                    }
                    None => sight.unknown.push(format!("{name} {wanted}")),
                },
            }
        }
        let is_held = |name: &String| sight.installed.get(name).is_some_and(|installed| installed.held);
        sight.transaction.changes_held = install.keys().any(is_held);
        sight.transaction.install = install;
        let now_held = |name: &str| sight.installed.get(name).is_some_and(|now| now.held);
        match params.held {
            Some(held) => {
                let differs = names.iter().filter(|name| now_held(name) != held);
                let names = differs.map(|name| (*name).to_owned()).collect();
                *(if held { &mut sight.hold } else { &mut sight.unhold }) = names;
            }
            None => sight.hold = sight.owed_holds(view)?,
        }
        Ok(sight)
    }

    /// Packages that were held before a change that did not come to its end.
    fn owed_holds(&self, view: &View) -> Result<Vec<String>, Failure> {
        let mut owed = Vec::new();
        for (name, now) in &self.installed {
            if !now.config_only && !now.held && self.manager.is_owed_a_hold(view, name)? {
                owed.push(name.clone());
            }
        }
        Ok(owed)
    }

    fn is_settled(&self) -> bool {
        let Transaction { install, remove, .. } = &self.transaction;
        install.is_empty() && remove.is_empty() && self.unknown.is_empty()
    }

    fn version(&self, name: &str) -> Datum {
        match self.installed.get(name).filter(|installed| !installed.config_only) {
            Some(installed) => Datum::known(installed.version.clone()),
            None => Datum::Absent,
        }
    }

    /// The packages that would change, those that were named first.
    fn changes(
        &self,
        view: &View,
        params: &PkgParams,
        until: Option<&StateId>,
    ) -> Result<Vec<Change>, Failure> {
        let mut changes = Vec::new();
        let outdated = self.manager.index_is_outdated(view)?;
        let is_guess = until.is_some() || outdated || !self.unknown.is_empty();
        let moves = match is_guess && !params.absent || self.is_settled() {
            true => None,
            false => self.manager.simulate(view, &self.transaction)?,
        };
        let wanted = params.wanted();
        for (name, version) in &wanted {
            let pending = self.transaction.install.contains_key(*name) || self.is_unknown(name);
            if !pending {
                continue;
            }
            let chosen = self.transaction.install.get(*name).cloned().flatten();
            let moved = moves
                .iter()
                .flatten()
                .find(|moved| moved.name == *name)
                .and_then(|moved| moved.after.clone());
            let candidate = || self.available.get(*name).and_then(|available| available.candidate.clone());
            let after = match (until, version.filter(|version| !version.contains('*'))) {
                (_, Some(exact)) => Datum::known(exact),
                (Some(until), None) => Datum::Unknown { until: until.clone() },
                (None, None) => match moved.or(chosen).or_else(|| candidate().filter(|_| !outdated)) {
                    Some(version) => Datum::known(version),
                    // Which one, the list will say when it was read.
                    None => Datum::known(version.unwrap_or("newest")),
                },
            };
            changes.push(Change::new((*name).to_owned(), self.version(name), after));
        }
        for name in &self.transaction.remove {
            let purged = self.installed.get(name).is_some_and(|installed| installed.config_only);
            let before = if purged { Datum::known("configuration") } else { self.version(name) };
            changes.push(Change::new(name.clone(), before, Datum::Absent));
        }
        let datum = |version: &Option<String>| version.clone().map_or(Datum::Absent, Datum::known);
        for Move { name, before, after } in moves.iter().flatten() {
            if !changes
                .iter()
                .any(|change| change.field == *name || change.field.starts_with(&format!("{name}:")))
            {
                changes.push(Change::new(name.clone(), datum(before), datum(after)));
            }
        }
        let holds =
            self.hold.iter().map(|name| (name, true)).chain(self.unhold.iter().map(|name| (name, false)));
        for (name, held) in holds {
            // What is not there yet is not held.
            changes.push(Change::new(format!("{name} held"), Datum::known(!held), Datum::known(held)));
        }
        Ok(changes)
    }

    fn is_unknown(&self, name: &str) -> bool {
        self.unknown.iter().any(|unknown| unknown.split(' ').next() == Some(name))
    }

    fn failure(&self) -> Failure {
        let words = format!("{} knows no such package", self.manager.word());
        Failure::new(format!("find package {}", self.unknown.join(", ")), words)
    }

    fn outputs(&self, params: &PkgParams) -> BTreeMap<String, String> {
        let names = params.wanted().into_keys();
        names
            .filter_map(|name| {
                Some((
                    name.to_owned(),
                    self.installed.get(name).filter(|now| !now.config_only)?.version.clone(),
                ))
            })
            .collect()
    }
}

impl Module for Pkg {
    type Params = PkgParams;

    fn about(&self) -> About {
        About {
            name: "pkg",
            summary: "Packages, by the machine's own package manager (apt, dnf, apk).",
            identity: Some("name"),
            dry_run: "From the list of packages that the machine read last. With apt and apk every package that would come or go \
                      with it is listed. Where an earlier state changes a repository, versions are unknown until then; where the \
                      list is missing or out of date, it is read before anything is installed, and versions may be newer than \
                      shown.",
            outputs: &[("version", "the version, for one package"), ("versions", "the versions, by package")],
            example: "\
nginx:
  pkg: {version: \"1.24.*\", held: true}
tools:
  pkg: {names: [curl, jq, {name: git, version: \"1:2.39.5-0+deb12u2\"}], recommends: false}
telnet:
  pkg: {absent: true, purge: true}
",
        }
    }

    fn check(&self, params: &PkgParams) -> Result<(), String> {
        for (name, version) in params.wanted() {
            let managers = [Manager::Apt, Manager::Dnf, Manager::Apk];
            if !managers.iter().any(|manager| manager.check_name(name).is_ok()) {
                let field = if params.names.is_some() { "names" } else { "name" };
                return Err(format!("`{field}`: {name:?} cannot be the name of a package"));
            }
            version.map_or(Ok(()), check_version)?;
        }
        if params.names.as_ref().is_some_and(Vec::is_empty) {
            return Err("`names` is empty".into());
        }
        if params.names.is_some() && params.version.is_some() {
            return Err("with `names`, each has its own version: {name, version}".into());
        }
        let versioned = params.wanted().values().any(Option::is_some);
        if params.latest && versioned {
            return Err("only one of `latest` and `version` can be given".into());
        }
        if params.absent && (params.latest || versioned || params.held.is_some()) {
            return Err("a package that is `absent` has no version and is not held".into());
        }
        if params.purge && !params.absent {
            return Err("`purge` needs `absent: true`".into());
        }
        Ok(())
    }

    fn needs(&self, params: &PkgParams) -> Vec<Resource> {
        if params.absent { Vec::new() } else { vec![Resource::package_index()] }
    }

    fn provides(&self, params: &PkgParams) -> Vec<Resource> {
        if params.absent {
            return Vec::new();
        }
        params.wanted().into_keys().map(Resource::package).collect()
    }

    fn brings(&self) -> bool {
        true
    }

    fn analyze(&self, params: &PkgParams, cx: &Analyze<'_>) -> Result<Analysis, Failure> {
        let sight = Sight::of(cx.view, params)?;
        let index = cx.forecast.get(&Resource::package_index()).map(|prediction| &prediction.by);
        let until = index.or(cx.forecast.opaque().filter(|_| !sight.unknown.is_empty()));
        // A list that is read again may know it.
        if !sight.unknown.is_empty() && until.is_none() && !may_read_index(&sight, cx.view)? {
            return Err(sight.failure());
        }
        let changes = match params.latest && index.is_some() && sight.is_settled() {
            // It is the newest as far as is known now.
            true => Vec::new(),
            false => sight.changes(cx.view, params, until)?,
        };
        let changed = !changes.is_empty();
        let mut analysis = Analysis::of(changes);
        if let (true, Some(index), false) = (params.latest, index, changed) {
            return Ok(Analysis::conditional(index));
        }
        if changed && until.is_none() && sight.manager.index_is_outdated(cx.view)? {
            analysis.reason = Some("the list of packages is read again first".into());
        }
        if !changed {
            let versions = sight.outputs(params);
            if let (Some(version), None) = (versions.get(&params.name), &params.names) {
                analysis = analysis.output("version", version.clone());
            }
            return Ok(analysis.output("versions", json!(versions)));
        }
        let absent = params.absent.then(|| json!({"absent": true}));
        Ok(params
            .wanted()
            .into_keys()
            .fold(analysis, |analysis, name| analysis.predict(Resource::package(name), absent.clone())))
    }

    fn apply(&self, params: &PkgParams, cx: &Apply<'_>, _: &Analysis) -> Result<Applied, Failure> {
        Ok(apply(&[params], cx)?.remove(0))
    }

    fn merge_key(&self, params: &PkgParams) -> Option<String> {
        let manager = params.manager.map_or("", Manager::word);
        Some(format!("{manager} {:?} {} {}", params.recommends, params.absent, params.purge))
    }

    fn apply_merged(
        &self,
        params: &[&PkgParams],
        cx: &Apply<'_>,
        _: &[&Analysis],
    ) -> Result<Vec<Applied>, Failure> {
        apply(params, cx)
    }
}

/// Whether reading the list again may help, and is due: what was read a moment ago will not have changed.
fn may_read_index(sight: &Sight, view: &View) -> Result<bool, Failure> {
    let age = sight.manager.index_age(view)?;
    Ok(sight.manager.index_is_outdated(view)? || age.is_none_or(|age| age > FRESH))
}

/// One transaction for all of them.
fn apply(all: &[&PkgParams], cx: &Apply<'_>) -> Result<Vec<Applied>, Failure> {
    let look = || all.iter().map(|params| Sight::of(cx.host, params)).collect::<Result<Vec<_>, _>>();
    let mut sights = look()?;
    let Some(manager) = sights.first().map(|sight| sight.manager) else { return Ok(Vec::new()) };
    let installs = |sight: &Sight| !sight.transaction.install.is_empty() || !sight.unknown.is_empty();
    let wants_newest = all.iter().any(|params| params.latest);
    let lacks = sights.iter().any(|sight| !sight.unknown.is_empty());
    if sights.iter().any(installs) || wants_newest {
        let outdated = manager.index_is_outdated(cx.host)?;
        let old = (lacks || wants_newest) && manager.index_age(cx.host)?.is_none_or(|age| age > FRESH);
        if outdated || old {
            manager.read_index(cx.host)?;
            sights = look()?;
        }
    }
    if let Some(sight) = sights.iter().find(|sight| !sight.unknown.is_empty()) {
        return Err(sight.failure());
    }
    let mut whole = Transaction::default();
    let (mut hold, mut unhold, mut held_before) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for sight in sights {
        whole.recommends = sight.transaction.recommends;
        whole.purge = sight.transaction.purge;
        whole.install.extend(sight.transaction.install);
        whole.remove.extend(sight.transaction.remove);
        hold.extend(sight.hold);
        unhold.extend(sight.unhold);
        // Let go for this change, and held again after it.
        let held = whole.install.keys().filter(|name| sight.installed.get(*name).is_some_and(|now| now.held));
        let held: Vec<_> = held.filter(|name| !unhold.contains(*name)).cloned().collect();
        held_before.extend(held);
    }
    hold.extend(held_before.iter().cloned());
    unhold.extend(held_before.iter().cloned());
    let set_held = |names: &BTreeSet<String>, held: bool| match names.is_empty() {
        true => Ok(()),
        false => manager.hold(cx.host, &names.iter().map(String::as_str).collect::<Vec<_>>(), held),
    };
    manager.owe_hold(cx.host, held_before.iter().map(String::as_str))?;
    set_held(&unhold, false)?;
    if !whole.install.is_empty() || !whole.remove.is_empty() {
        let done = manager.transact(cx.host, &whole);
        if done.is_err() {
            // What was held stays held, whatever became of it.
            set_held(&held_before, true)?;
            manager.owe_no_hold(cx.host, held_before.iter().map(String::as_str))?;
        }
        done?;
    }
    set_held(&hold, true)?;
    manager.owe_no_hold(cx.host, all.iter().flat_map(|params| params.wanted().into_keys()))?;
    let done = look()?;
    Ok(done
        .iter()
        .zip(all)
        .map(|(sight, params)| {
            let versions = sight.outputs(params);
            let applied = match (versions.get(&params.name), &params.names) {
                (Some(version), None) => Applied::default().output("version", version.clone()),
                _ => Applied::default(),
            };
            applied.output("versions", json!(versions))
        })
        .collect())
}

//! `group`: a group of this machine, changed by the tools of the shadow suite.

use std::collections::BTreeSet;

use mainstay_core::state::plan::{Change, Datum};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::accounts::{self, GroupEntry, check_name};
use crate::failure::Failure;
use crate::forecast::Resource;
use crate::format::AccountName;
use crate::host::Command;
use crate::module::{About, Analysis, Analyze, Applied, Apply, Module};

pub struct Group;

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupParams {
    /// The group's name.
    #[schemars(extend("format" = "account-name"))]
    name: String,
    /// Its number. Without it a new group gets a free one.
    gid: Option<u32>,
    /// A new group gets a number of those for system groups. Of a group that is there, nothing changes.
    #[serde(default)]
    system: bool,
    /// The users in it, beside those that have it as their own group: just these, or with `append` at least these.
    #[schemars(with = "Option<BTreeSet<AccountName>>")]
    members: Option<BTreeSet<String>>,
    /// Leave members that are not named.
    #[serde(default)]
    append: bool,
    /// There must be no such group.
    #[serde(default)]
    absent: bool,
}

impl GroupParams {
    /// The members that it shall have, if that is managed.
    fn wanted(&self, now: &BTreeSet<String>) -> Option<BTreeSet<String>> {
        let members = self.members.as_ref()?;
        Some(if self.append { members | now } else { members.clone() })
    }
}

impl Module for Group {
    type Params = GroupParams;

    fn about(&self) -> About {
        About {
            name: "group",
            summary: "A group of this machine.",
            identity: Some("name"),
            dry_run: "Complete, but for the number of a new group where none is given. Members that do not exist yet are \
                      predicted from the states that make them.",
            outputs: &[("gid", "its number")],
            example: "\
www:
  group: {system: true, members: [app]}
old-team:
  group: {absent: true}
",
        }
    }

    fn check(&self, params: &GroupParams) -> Result<(), String> {
        check_name("group", &params.name)?;
        params.members.iter().flatten().try_for_each(|member| check_name("user", member))?;
        if params.append && params.members.is_none() {
            return Err("`append` needs `members`".into());
        }
        if params.absent && (params.gid.is_some() || params.members.is_some() || params.system) {
            return Err("a group that is `absent` has no other parameters".into());
        }
        Ok(())
    }

    fn needs(&self, params: &GroupParams) -> Vec<Resource> {
        params.members.iter().flatten().map(|member| Resource::user(member)).collect()
    }

    fn provides(&self, params: &GroupParams) -> Vec<Resource> {
        if params.absent { Vec::new() } else { vec![Resource::group(&params.name)] }
    }

    fn analyze(&self, params: &GroupParams, cx: &Analyze<'_>) -> Result<Analysis, Failure> {
        let mut all = accounts::groups(cx.view)?;
        all.retain(|group| !cx.forecast.takes(&Resource::group(&group.name)));
        let now = all.iter().find(|group| group.name == params.name);
        let resource = Resource::group(&params.name);
        if params.absent {
            return Ok(match now {
                None => Analysis::unchanged(),
                Some(_) => {
                    let change = Change::new("exists", Datum::known(true), Datum::known(false));
                    Analysis::of(vec![change]).predict(resource, Some(json!({"absent": true})))
                }
            });
        }
        let mut changes = Vec::new();
        if now.is_none() {
            changes.push(Change::new("exists", Datum::known(false), Datum::known(true)));
        }
        if let Some(gid) = params.gid.filter(|gid| now.is_none_or(|now| now.gid != *gid)) {
            if let Some(other) = all.iter().find(|group| group.gid == gid && group.name != params.name) {
                let words = format!("the number {gid} is that of the group {}", other.name);
                return Err(Failure::new(format!("plan group {}", params.name), words));
            }
            let before = now.map_or(Datum::Absent, |now| Datum::known(now.gid));
            changes.push(Change::new("gid", before, Datum::known(gid)));
        }
        changes.extend(self.membership(params, now, cx)?);
        let changed = !changes.is_empty();
        let gid = params.gid.or(now.map(|now| now.gid));
        let mut analysis = Analysis::of(changes);
        if let Some(gid) = gid {
            analysis = analysis.output("gid", gid);
        }
        Ok(if changed { analysis.predict(resource, Some(json!({"gid": gid}))) } else { analysis })
    }

    fn apply(&self, params: &GroupParams, cx: &Apply<'_>, _: &Analysis) -> Result<Applied, Failure> {
        let find = || -> Result<Option<GroupEntry>, Failure> {
            Ok(accounts::groups(cx.host)?.into_iter().find(|group| group.name == params.name))
        };
        let now = find()?;
        let tool = |tool: &str, args: Vec<String>| accounts::change(cx.host, &Command::new(tool).args(args));
        if params.absent {
            if now.is_some() {
                tool("groupdel", vec![params.name.clone()])?;
            }
            return Ok(Applied::default());
        }
        let number = |gid: u32| vec!["-g".to_owned(), gid.to_string()];
        match (&now, params.gid) {
            (None, gid) => {
                let mut args = gid.map(number).unwrap_or_default();
                args.extend(params.system.then(|| "-r".to_owned()));
                args.push(params.name.clone());
                tool("groupadd", args)?;
            }
            (Some(now), Some(gid)) if now.gid != gid => {
                let mut args = number(gid);
                args.push(params.name.clone());
                tool("groupmod", args)?;
            }
            _ => {}
        }
        let members = now.map(|now| now.members).unwrap_or_default();
        if let Some(wanted) = params.wanted(&members).filter(|wanted| *wanted != members) {
            let list: Vec<_> = wanted.into_iter().collect();
            tool("gpasswd", vec!["-M".into(), list.join(","), params.name.clone()])?;
        }
        let made = find()?;
        Ok(made.iter().fold(Applied::default(), |applied, group| applied.output("gid", group.gid)))
    }
}

impl Group {
    fn membership(
        &self,
        params: &GroupParams,
        now: Option<&GroupEntry>,
        cx: &Analyze<'_>,
    ) -> Result<Option<Change>, Failure> {
        let mut members = now.map(|now| now.members.clone()).unwrap_or_default();
        members.retain(|member| !cx.forecast.takes(&Resource::user(member)));
        let Some(wanted) = params.wanted(&members).filter(|wanted| *wanted != members) else {
            return Ok(None);
        };
        let mut by = None;
        for new in wanted.difference(&members) {
            if let Some(prediction) = cx.forecast.brings(&Resource::user(new)) {
                by = Some(prediction.by.clone());
            } else if cx.user(new)?.is_none() {
                match cx.forecast.bringer() {
                    Some(bringer) => by = Some(bringer.clone()),
                    None => {
                        let failure = Failure::new(
                            format!("plan group {}", params.name),
                            format!("there is no user {new}"),
                        );
                        return Err(failure.hint("a `user` state before this one would make it"));
                    }
                }
            }
        }
        let before = match now {
            Some(_) => Datum::known(json!(members)),
            None => Datum::Absent,
        };
        let after = match by {
            Some(by) => Datum::Predicted { value: json!(wanted), by },
            None => Datum::known(json!(wanted)),
        };
        Ok(Some(Change::new("members", before, after)))
    }
}

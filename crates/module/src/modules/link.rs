//! `link`: one symbolic link.

use std::path::Path;

use mainstay_core::state::plan::{Change, Datum};
use schemars::JsonSchema;
use serde::Deserialize;

use super::file::needs;
use crate::failure::Failure;
use crate::field::HostPath;
use crate::forecast::Resource;
use crate::module::{About, Analysis, Analyze, Applied, Apply, Module};
use crate::standing::{Kind, Sight, Standing, Thing, Wanted, conclude, parent_ready};

pub struct Link;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Where the link is: an absolute path.
    #[schemars(extend("format" = "path-below-root"))]
    pub path: HostPath,
    /// Where it leads to, as it is to be written into the link: absolute, or from the link's own directory. It need
    /// not be there. Needed unless `absent` is set.
    pub target: Option<String>,
    /// Replace a file that stands at the path. A directory is never replaced.
    #[serde(default)]
    pub force: bool,
    /// There is to be no link. A file or a directory at the path is an error.
    #[serde(default)]
    pub absent: bool,
}

impl Module for Link {
    type Params = Params;

    fn about(&self) -> About {
        About {
            name: "link",
            summary: "One symbolic link.",
            identity: Some("path"),
            dry_run: "Tells everything.",
            outputs: &[("path", "where the link is"), ("target", "where it leads to")],
            example: "\
app-current:
  link: {path: /srv/app/current, target: releases/42}
",
        }
    }

    fn check(&self, p: &Params) -> Result<(), String> {
        if p.path.file_name().is_none() {
            return Err("path: the root directory is not a link".into());
        }
        match (&p.target, p.absent) {
            (None, false) => Err("target: where the link leads to is missing".into()),
            (Some(_), true) => Err("absent: a link that is not there leads nowhere".into()),
            (Some(target), _) if target.is_empty() || target.contains('\0') => {
                Err("target: it is not a path".into())
            }
            _ if p.absent && p.force => Err("absent: only a link is removed, force or not".into()),
            _ => Ok(()),
        }
    }

    fn needs(&self, p: &Params) -> Vec<Resource> {
        let mut needs = needs(&p.path, Wanted::default());
        if let (Some(target), Some(parent)) = (&p.target, p.path.parent()) {
            // What it leads to comes first, so that it never leads nowhere. `..` is nothing that a state provides.
            needs.push(Resource::path(&parent.join(target)));
        }
        needs
    }

    fn provides(&self, p: &Params) -> Vec<Resource> {
        vec![Resource::path(&p.path)]
    }

    fn looks_ahead(&self) -> bool {
        true
    }

    fn analyze(&self, p: &Params, cx: &Analyze<'_>) -> Result<Analysis, Failure> {
        let analysis = conclude(&p.path, look(p, cx))?.output("path", p.path.to_string_lossy());
        Ok(match &p.target {
            Some(target) => analysis.output("target", target.as_str()),
            None => analysis,
        })
    }

    fn apply(&self, p: &Params, cx: &Apply<'_>, analysis: &Analysis) -> Result<Applied, Failure> {
        if !analysis.changes.is_empty() {
            match &p.target {
                Some(target) => cx.host.make_link(&p.path, Path::new(target))?,
                None => cx.host.remove(&p.path)?,
            }
        }
        Ok(Applied { outputs: analysis.outputs.clone(), ..Applied::default() })
    }
}

fn look(p: &Params, cx: &Analyze<'_>) -> Sight<Analysis> {
    let standing = Standing::at(cx, &p.path)?;
    let resource = Resource::path(&p.path);
    let Some(target) = &p.target else {
        return match standing.kind {
            Kind::Absent => Ok(Analysis::unchanged()),
            Kind::Link(_) => Ok(Analysis::of(vec![Change::new("exists", standing.before(), Datum::Absent)])
                .predict(resource, Some(Thing::absent().value()))),
            _ => Err(in_the_way("remove", p, &standing).into()),
        };
    };
    let change = match &standing.kind {
        Kind::Link(old) if old.as_os_str() == target.as_str() => return Ok(Analysis::unchanged()),
        Kind::Link(old) => {
            Change::new("target", standing.datum(old.to_string_lossy()), Datum::known(target.as_str()))
        }
        Kind::Absent => {
            parent_ready(cx, &p.path)?;
            Change::new("target", Datum::Absent, Datum::known(target.as_str()))
        }
        Kind::File if p.force => Change::new("target", Datum::Absent, Datum::known(target.as_str())),
        Kind::File => {
            let failure = in_the_way("link", p, &standing);
            return Err(failure.hint("`force: true` replaces it").into());
        }
        Kind::Directory | Kind::Special => return Err(in_the_way("link", p, &standing).into()),
    };
    let mut changes = Vec::new();
    if !matches!(standing.kind, Kind::Link(_)) {
        changes.push(Change::new("exists", standing.before(), Datum::known("link")));
    }
    changes.push(change);
    let thing = Thing { kind: "link", target: Some(target.clone()), ..Thing::default() };
    Ok(Analysis::of(changes).predict(resource, Some(thing.value())))
}

fn in_the_way(verb: &str, p: &Params, standing: &Standing) -> Failure {
    Failure::on(verb, &p.path, format!("it is not a link but a {}", standing.what()))
}

#[cfg(test)]
mod tests;

//! `service`: a service as the machine's service manager has it.
//!
//! The two managers are in [`systemd`] and [`openrc`]; what differs from what is declared, and in which order it is put
//! right, is here and the same for both.

mod openrc;
mod systemd;

use mainstay_core::state::plan::{Change, Datum};
use mainstay_core::state::{StateId, StepWord};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::failure::Failure;
use crate::forecast::Resource;
use crate::host::{Host, View};
use crate::module::{About, Analysis, Analyze, Applied, Apply, Module, Refreshed};

pub struct Service;

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceParams {
    /// The service's name. For systemd any unit can be meant (`app.timer`); without an ending it is `.service`.
    #[schemars(extend("format" = "service-name"))]
    name: String,
    /// Whether it runs now.
    running: Option<bool>,
    /// Whether it is started when the machine starts.
    enabled: Option<bool>,
    /// Whether it is kept from being started at all, by anything (systemd only).
    masked: Option<bool>,
    /// On a refresh, reload it rather than restart it, if it can.
    #[serde(default)]
    reload: bool,
    /// The runlevel in which it is enabled (OpenRC only); `default` without it.
    #[schemars(extend("format" = "runlevel"))]
    runlevel: Option<String>,
}

/// What there is of a service.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Unit {
    found: bool,
    running: bool,
    enabled: bool,
    /// Why it can be neither enabled nor disabled.
    fixed: Option<&'static str>,
    masked: bool,
    can_reload: bool,
    /// Its files changed since the manager read them.
    outdated: bool,
    /// It ends by itself, so it cannot be kept running.
    ends_by_itself: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verb {
    Start,
    Stop,
    Restart,
    Reload,
    Enable,
    Disable,
    Mask,
    Unmask,
}

#[derive(Clone, Copy, Debug)]
enum Manager {
    Systemd,
    Openrc,
}

impl Manager {
    /// Which one runs this machine.
    fn of(view: &View) -> Result<Self, Failure> {
        if view.target("/run/systemd/system".as_ref())?.is_some() {
            return Ok(Self::Systemd);
        }
        if view.target("/run/openrc".as_ref())?.is_some() {
            return Ok(Self::Openrc);
        }
        Err(Failure::new("find the service manager", "neither systemd nor OpenRC runs on this machine"))
    }

    fn look(self, view: &View, params: &ServiceParams) -> Result<Unit, Failure> {
        match self {
            Self::Systemd => systemd::look(view, &params.name),
            Self::Openrc => openrc::look(view, &params.name, params.runlevel()),
        }
    }

    fn act(self, host: &Host, params: &ServiceParams, verb: Verb) -> Result<(), Failure> {
        match self {
            Self::Systemd => systemd::act(host, &params.name, verb),
            Self::Openrc => openrc::act(host, &params.name, params.runlevel(), verb),
        }
    }
}

impl ServiceParams {
    fn runlevel(&self) -> &str {
        self.runlevel.as_deref().unwrap_or("default")
    }

    /// Without `.service`, which can be left out.
    fn plain_name(&self) -> &str {
        self.name.strip_suffix(".service").unwrap_or(&self.name)
    }

    /// Where a state may put the unit's file.
    fn files(&self) -> impl Iterator<Item = std::path::PathBuf> {
        let unit = systemd::unit(&self.name);
        let directories = [
            "/etc/systemd/system",
            "/usr/local/lib/systemd/system",
            "/lib/systemd/system",
            "/usr/lib/systemd/system",
        ];
        let units = directories.map(|directory| format!("{directory}/{unit}"));
        units.into_iter().chain([format!("/etc/init.d/{}", self.name)]).map(Into::into)
    }

    /// The state that may bring a unit that is not there.
    fn bringer(&self, cx: &Analyze<'_>) -> Option<StateId> {
        let own = [Resource::unit(self.plain_name()), Resource::package(self.plain_name())];
        let named = own.iter().find_map(|resource| cx.forecast.get(resource));
        let file = || self.files().find_map(|file| cx.forecast.get(&Resource::path(&file)));
        // A unit need not be named after the package that brings it.
        let package = || cx.forecast.of_kind("package").last();
        named
            .or_else(file)
            .or_else(package)
            .map(|prediction| &prediction.by)
            .or(cx.forecast.opaque())
            .cloned()
    }
}

/// What is wrong with the name of a service.
pub(crate) fn check_service_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || ":_.@\\-".contains(c);
    let wrong =
        name.is_empty() || name.len() > 255 || name.starts_with(['-', '.']) || !name.chars().all(plain);
    if wrong { Err("no service has such a name".into()) } else { Ok(()) }
}

pub(crate) fn check_runlevel(name: &str) -> Result<(), String> {
    match !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        true => Ok(()),
        false => Err("no runlevel has such a name".into()),
    }
}

impl Module for Service {
    type Params = ServiceParams;

    fn about(&self) -> About {
        About {
            name: "service",
            summary: "A service: whether it runs, and whether it is started with the machine (systemd, OpenRC).",
            identity: Some("name"),
            dry_run: "Complete. Of a service that an earlier state brings, as a package, it is not known whether it will run and \
                      be enabled already: what is wanted is listed as a change from something unknown.",
            outputs: &[("running", "whether it runs"), ("enabled", "whether it is enabled")],
            example: "\
nginx-conf:
  file: {path: /etc/nginx/nginx.conf, source: nginx.conf}
nginx:
  service: {running: true, enabled: true, reload: true}
  watch: [nginx-conf]
telnetd:
  service: {running: false, enabled: false}
",
        }
    }

    fn check(&self, params: &ServiceParams) -> Result<(), String> {
        check_service_name(&params.name).map_err(|why| format!("`name` {:?}: {why}", params.name))?;
        check_runlevel(params.runlevel()).map_err(|why| format!("`runlevel`: {why}"))?;
        if params.masked == Some(true) && (params.running == Some(true) || params.enabled == Some(true)) {
            return Err("a service that is `masked` can neither run nor be enabled".into());
        }
        Ok(())
    }

    fn needs(&self, params: &ServiceParams) -> Vec<Resource> {
        let name = params.plain_name();
        let own = [Resource::unit(name), Resource::package(name)];
        own.into_iter().chain(params.files().map(|file| Resource::path(&file))).collect()
    }

    fn provides(&self, _: &ServiceParams) -> Vec<Resource> {
        Vec::new()
    }

    fn analyze(&self, params: &ServiceParams, cx: &Analyze<'_>) -> Result<Analysis, Failure> {
        let manager = Manager::of(cx.view)?;
        let unit = manager.look(cx.view, params)?;
        if !unit.found {
            return self.not_there(params, cx);
        }
        if unit.masked
            && params.masked != Some(false)
            && (params.running == Some(true) || params.enabled == Some(true))
        {
            let failure = Failure::new(format!("plan service {}", params.name), "it is masked");
            return Err(failure.hint("`masked: false` allows it again"));
        }
        let mut changes = Vec::new();
        let mut field = |name: &'static str, now: bool, wanted: Option<bool>| {
            if let Some(wanted) = wanted.filter(|wanted| *wanted != now) {
                changes.push(Change::new(name, Datum::known(now), Datum::known(wanted)));
            }
        };
        field("masked", unit.masked, params.masked);
        field("enabled", unit.enabled, params.enabled);
        field("running", unit.running, params.running);
        let has = |field: &str| changes.iter().any(|change| change.field == field);
        if let Some(why) = unit.fixed.filter(|_| has("enabled")) {
            return Err(Failure::new(format!("plan service {}", params.name), why));
        }
        if unit.ends_by_itself && has("running") && params.running == Some(true) {
            let words = "it is of the kind that ends by itself (Type=oneshot), so it cannot be kept running";
            return Err(Failure::new(format!("plan service {}", params.name), words));
        }
        let changed = !changes.is_empty();
        let running = params.running.unwrap_or(unit.running);
        let analysis = Analysis::of(changes)
            .output("running", running)
            .output("enabled", params.enabled.unwrap_or(unit.enabled));
        let resource = Resource::unit(params.plain_name());
        Ok(if changed {
            analysis.predict(resource, Some(serde_json::json!({"running": running})))
        } else {
            analysis
        })
    }

    fn apply(&self, params: &ServiceParams, cx: &Apply<'_>, _: &Analysis) -> Result<Applied, Failure> {
        let manager = Manager::of(cx.host)?;
        let unit = manager.look(cx.host, params)?;
        if !unit.found {
            // What shall neither run nor be enabled is as wanted.
            return match (params.running, params.enabled, params.masked) {
                (None | Some(false), None | Some(false), None | Some(false)) => Ok(Applied::default()),
                _ => Err(missing(params)),
            };
        }
        let differs = |now: bool, wanted: Option<bool>| wanted.filter(|wanted| *wanted != now);
        let mut verbs = Vec::new();
        // Allowed before it is started, stopped before it is forbidden.
        verbs.extend((differs(unit.masked, params.masked) == Some(false)).then_some(Verb::Unmask));
        let on = |wanted, yes, no| if wanted { yes } else { no };
        verbs.extend(
            differs(unit.enabled, params.enabled).map(|wanted| on(wanted, Verb::Enable, Verb::Disable)),
        );
        verbs.extend(differs(unit.running, params.running).map(|wanted| on(wanted, Verb::Start, Verb::Stop)));
        verbs.extend((differs(unit.masked, params.masked) == Some(true)).then_some(Verb::Mask));
        for verb in verbs {
            manager.act(cx.host, params, verb)?;
        }
        let now = manager.look(cx.host, params)?;
        Ok(Applied::default().output("running", now.running).output("enabled", now.enabled))
    }

    fn refreshes(&self) -> bool {
        true
    }

    /// A service that was just started has read everything. One that does not run, and is not said to, has nothing to
    /// read again.
    fn refresh(
        &self,
        params: &ServiceParams,
        cx: &Apply<'_>,
        applied: Option<&Analysis>,
    ) -> Result<Refreshed, Failure> {
        let started = |change: &Change| change.field == "running" && change.after == Datum::known(true);
        let was_off = |change: &Change| change.before == Datum::known(false);
        if applied
            .is_some_and(|analysis| analysis.changes.iter().any(|change| started(change) && was_off(change)))
        {
            return Ok(Refreshed::NotNeeded);
        }
        let manager = Manager::of(cx.host)?;
        let unit = manager.look(cx.host, params)?;
        if !unit.found {
            return Err(missing(params));
        }
        let verb = match (unit.running, params.running) {
            (_, Some(false)) | (false, None) => return Ok(Refreshed::NotNeeded),
            (false, Some(true)) => Verb::Start,
            // A changed unit file is about how it is started.
            (true, _) if params.reload && unit.can_reload && !unit.outdated => Verb::Reload,
            (true, _) => Verb::Restart,
        };
        manager.act(cx.host, params, verb)?;
        let now = manager.look(cx.host, params)?;
        if !now.running && !now.ends_by_itself {
            return Err(Failure::new(format!("refresh service {}", params.name), "it does not run any more"));
        }
        let applied = Applied::default().output("running", now.running).output("enabled", now.enabled);
        Ok(Refreshed::Done(applied))
    }
}

fn missing(params: &ServiceParams) -> Failure {
    Failure::new(format!("find service {}", params.name), "the service manager knows none of this name")
}

impl Service {
    fn not_there(&self, params: &ServiceParams, cx: &Analyze<'_>) -> Result<Analysis, Failure> {
        let wanted = [("masked", params.masked), ("enabled", params.enabled), ("running", params.running)];
        let Some(until) = params.bringer(cx) else {
            let unwanted = wanted.iter().all(|(_, wanted)| *wanted != Some(true));
            return match unwanted {
                true => Ok(Analysis::unchanged().output("running", false).output("enabled", false)),
                false => Err(missing(params)),
            };
        };
        let change = |(name, wanted): (&'static str, Option<bool>)| {
            let before = Datum::Unknown { until: until.clone() };
            wanted.map(|wanted| Change::new(name, before, Datum::known(wanted)))
        };
        let changes: Vec<_> = wanted.into_iter().filter_map(change).collect();
        if changes.is_empty() {
            return Ok(Analysis::unchanged());
        }
        let conditional = Analysis::conditional(&until);
        let resource = Resource::unit(params.plain_name());
        Ok(Analysis { changes, step: StepWord::Conditional, ..conditional }.predict(resource, None))
    }
}

#[cfg(test)]
mod tests;

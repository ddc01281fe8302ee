//! `mainstay plan`: what would change. And what it shares with `up`: which states, which machines, what is shown.

use std::mem::ManuallyDrop;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use mainstay_control::view::{Problem, ProblemKind};
use mainstay_core::envelope::MAX_LIFETIME;
use mainstay_core::state::Values;
use mainstay_core::state::catalog::OrderMode;
use mainstay_core::state::site::SiteInput;
use mainstay_core::time::Span;
use mainstay_module::registry::Registry;
use serde_json::Value;

use super::changes::{Detail, fold};
use super::hosts::HostArgs;
use super::name_range::compact_names;
use super::rollout_lines::RolloutLines;
use super::rollout_text::RolloutText;
use super::screen::Screen;
use super::{Done, Stop, status_of};
use crate::client::{Client, endpoint};
use crate::descendants;
use crate::up::hub::carried::Carried;
use crate::up::hub::desk::{Desk, Terms};
use crate::up::hub::{Nodes, nodes};
use crate::up::inventory::variable;
use crate::up::local::LocalWay;
use crate::up::rollout::{Compiled, Interrupt, RolloutError};
use crate::up::site::{Folder, Modules, StatesFile, machine_vars};
use crate::up::ssh::SshWay;
use crate::up::{Aside, Front, Goal, MachineEnd, Options, Rollout, Source, Verdict, Way};

/// Shows what would change to bring machines to their declared state; changes nothing
///
/// Without --ssh, --inventory or -t it looks at this machine. The exit status is 0 if everything is as declared, 3 if something
/// would change, 1 if a machine cannot be reached or looked at, 2 if the file is wrong, 4 if the hub
/// cannot be reached or refuses.
#[derive(Args)]
#[command(after_help = "Examples:
  mainstay plan site.yaml
  mainstay plan site.yaml --ssh root@web1,root@web2 -e port:=8080
  mainstay plan site.yaml --inventory hosts.yaml -t role=web --explain
  mainstay plan site.yaml --graph mermaid")]
pub(super) struct PlanArgs {
    #[command(flatten)]
    states: StatesArgs,
    /// Write the order of the states as a graph instead
    #[arg(long, value_name = "FORMAT")]
    graph: Option<GraphFormat>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum GraphFormat {
    Mermaid,
    Dot,
}

#[derive(Args)]
pub(super) struct StatesArgs {
    /// The states file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Which nodes: through the hub, or with --inventory among its hosts; repeatable
    #[arg(short, long = "target", value_name = "TARGET")]
    target: Vec<String>,
    /// This machine, without a hub or an agent [default without -t, --ssh and --inventory]
    #[arg(long, conflicts_with_all = ["target", "ssh", "inventory"])]
    local: bool,
    /// Only these states, and what they stand on: ids or globs; repeatable
    #[arg(long, value_name = "GLOB")]
    only: Vec<String>,
    /// A variable: K=V is a text, K:=JSON any value; repeatable
    #[arg(short = 'e', long = "var", value_name = "K=V", value_parser = variable)]
    vars: Vec<(String, Value)>,
    /// How states are put in order where requisites leave a choice [default: the file's, else ansible]
    #[arg(long, value_name = "MODE")]
    order: Option<Order>,
    /// Say of each step why it stands where it does
    #[arg(long)]
    explain: bool,
    /// Show what stays as it is too, and long diffs whole
    #[arg(short, long)]
    verbose: bool,
    /// How long nodes that are away may take to come and start it [default: 24h]
    #[arg(long, value_name = "DURATION")]
    expires: Option<Span>,
    /// At most so many machines at once
    #[arg(long, value_name = "N", default_value_t = crate::up::rollout::FORKS, value_parser = at_least_one)]
    forks: usize,
    #[command(flatten)]
    hosts: HostArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Order {
    /// As written, one by one
    Ansible,
    /// All at once; only requisites hold a state back
    Justdoit,
    /// Merges what can be merged
    Genius,
}

impl From<Order> for OrderMode {
    fn from(order: Order) -> Self {
        match order {
            Order::Ansible => Self::Ansible,
            Order::Justdoit => Self::Justdoit,
            Order::Genius => Self::Genius,
        }
    }
}

pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "write a number from 1 on".to_owned())
}

pub(super) async fn run(args: PlanArgs, hub: Option<&str>, registry: &Registry, screen: &mut Screen) -> Done {
    match args.graph {
        Some(_) if screen.json => {
            let problem = Problem::new(ProblemKind::Invalid, "a graph is no JSON");
            Err(problem.hint("leave out --json, or --graph for the plan itself as JSON").into())
        }
        Some(format) => graph(args.states, format, hub, registry, screen).await,
        None => bring(args.states, Options::new(Goal::Plan), hub, registry, screen).await,
    }
}

/// How long what runs has to end on its own after a second Ctrl-C.
const KILL_GRACE: Duration = Duration::from_millis(700);

/// The machines that are meant, and what they need at work beside them.
struct Means {
    ways: Vec<Box<dyn Way>>,
    desk: Option<Desk>,
}

/// Compiles, connects, and leads the machines through a rollout.
pub(super) async fn bring(
    args: StatesArgs,
    options: Options,
    hub: Option<&str>,
    registry: &Registry,
    screen: &mut Screen,
) -> Done {
    let mut options = Options { forks: args.forks, explain: args.explain, ..options };
    let detail = Detail { verbose: args.verbose, explain: args.explain, drops_orphans: options.drop_orphans };
    // The file first: what is wrong with it is said before any machine is touched.
    args.check(&options)?;
    let unattended = (options.goal == Goal::Up { yes: true }).then_some(options.cycles);
    let terms = Terms { unattended, expires: args.expires };
    let Means { ways, desk } = args.means(hub, terms, registry).await?;
    let modules = Modules(registry);
    // The process ends soon: taking a large file apart again would only make it end later.
    let file = ManuallyDrop::new(args.compile(&ways, &modules, screen)?);
    if desk.is_some() {
        // A node costs us nothing here, and those that are asked at once share a run.
        options.forks = options.forks.max(ways.len());
    }
    let carried = Carried(&*file);
    let source: &dyn Source = if desk.is_some() { &carried } else { &*file };
    let rollout = Rollout { ways, source, options, interrupt: Interrupt::default() };
    show(rollout, desk, detail, screen).await
}

/// Leads machines through a rollout and shows it.
pub(super) async fn show(
    rollout: Rollout<'_>,
    desk: Option<Desk>,
    detail: Detail,
    screen: &mut Screen,
) -> Done {
    let interrupt = rollout.interrupt.clone();
    let work = async {
        if let Some(desk) = desk {
            desk.run().await;
        }
        std::future::pending::<Done>().await
    };
    let shown = async {
        if screen.json {
            let mut front = RolloutLines::new(screen);
            let ends = led(rollout, &interrupt, &mut front).await?;
            return Ok(status(&ends));
        }
        let mut front = RolloutText::new(screen, detail);
        let ends = led(rollout, &interrupt, &mut front).await?;
        front.summary()?;
        Ok(status(&ends))
    };
    tokio::select! {
        done = shown => done,
        never = work => never,
    }
}

/// Runs a rollout; a first Ctrl-C cancels it, a second ends it.
async fn led(
    rollout: Rollout<'_>,
    interrupt: &Interrupt,
    front: &mut dyn Front,
) -> Result<Vec<MachineEnd>, Stop> {
    let signals = async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).ok();
        let mut asked = 0;
        loop {
            let terminated = async {
                match &mut terminate {
                    Some(signal) => signal.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                pressed = tokio::signal::ctrl_c() => if pressed.is_err() { std::future::pending::<()>().await },
                _ = terminated => {}
            }
            asked += 1;
            interrupt.cancel.cancel();
            if asked > 1 {
                interrupt.kill.cancel();
            }
        }
    };
    let ended = tokio::select! {
        ended = rollout.run(front) => ended,
        never = signals => never,
    };
    if interrupt.kill.is_cancelled() {
        // What ran here would outlive us.
        descendants::end_all(KILL_GRACE);
    }
    ended.map_err(stopped)
}

/// DESIGN §8: a failure outweighs what is only not done yet, and what failed on a machine that the hub was lost or refused.
pub(super) fn status(ends: &[MachineEnd]) -> u8 {
    let hub = |end: &MachineEnd| match &end.verdict {
        Verdict::Aside(Aside::Hub(problem)) => Some(problem.kind.exit_status()),
        _ => None,
    };
    if ends.iter().any(|end| end.verdict.is_failure() && hub(end).is_none()) {
        status_of::FAILED
    } else if let Some(status) = ends.iter().filter_map(hub).max() {
        status
    } else if ends.iter().any(|end| end.verdict.is_pending()) {
        status_of::PENDING
    } else {
        status_of::WELL
    }
}

impl StatesArgs {
    fn are_through_hub(&self) -> bool {
        !self.target.is_empty() && !self.hosts.are_given()
    }

    /// What only one kind of machine can do is refused for the others rather than left out.
    fn check(&self, options: &Options) -> Result<(), Problem> {
        if self.expires.is_some() && !self.are_through_hub() {
            let message =
                "--expires is for nodes behind a hub: nothing else waits for a machine that is away";
            return Err(Problem::new(ProblemKind::Invalid, message).hint("name nodes with -t"));
        }
        if self.expires.is_some_and(|Span(span)| span.is_zero() || span > MAX_LIFETIME) {
            let message = format!("--expires: it must be more than 0 and at most {}", Span(MAX_LIFETIME));
            return Err(Problem::new(ProblemKind::Invalid, message));
        }
        if options.drop_orphans && self.are_through_hub() {
            let message = "--drop-orphans does not go through a hub";
            return Err(Problem::new(ProblemKind::Invalid, message)
                .hint("give up what is owed over ssh, as the user that the agent runs as: up FILE --ssh HOST --drop-orphans")
                .hint("or on the node itself: up FILE --drop-orphans"));
        }
        Ok(())
    }

    async fn means(&self, hub: Option<&str>, terms: Terms, registry: &Registry) -> Result<Means, Problem> {
        if self.are_through_hub() {
            if self.hosts.become_user.is_some() {
                let message = "--become is for machines that are reached by ssh";
                return Err(Problem::new(ProblemKind::Invalid, message)
                    .hint("an agent works as its own user; become: USER with a state makes it another"));
            }
            let client = Client::new(endpoint::find(hub)?);
            let Nodes { ways, desk } = nodes(client, &self.target, terms).await?;
            return Ok(Means { ways, desk: Some(desk) });
        }
        Ok(Means { ways: self.ways(registry)?, desk: None })
    }

    fn ways(&self, registry: &Registry) -> Result<Vec<Box<dyn Way>>, Problem> {
        if self.hosts.are_given() {
            let binaries = self.hosts.binaries()?;
            let way = |host: crate::up::inventory::Host| {
                let binaries = binaries.clone();
                Box::new(SshWay {
                    name: host.name,
                    labels: host.labels,
                    vars: host.vars,
                    host: host.ssh,
                    binaries,
                }) as Box<dyn Way>
            };
            return Ok(self.hosts.hosts(&self.target)?.into_iter().map(way).collect());
        }
        if self.hosts.become_user.is_some() {
            let message = "--become is for machines that are reached by ssh";
            return Err(Problem::new(ProblemKind::Invalid, message)
                .hint("for this machine: sudo mainstay …, or become: USER with a state"));
        }
        Ok(vec![Box::new(LocalWay::new(registry.clone()))])
    }

    fn compile<'a>(
        &self,
        ways: &[Box<dyn Way>],
        modules: &'a Modules<'a>,
        screen: &mut Screen,
    ) -> Result<StatesFile<'a>, Stop> {
        let path = self.file.to_str().ok_or_else(|| {
            Problem::new(ProblemKind::Invalid, format!("the name {:?} is not UTF-8", self.file))
        })?;
        let input = SiteInput {
            file: path.to_owned(),
            vars: Values::from_iter(self.vars.iter().cloned()),
            machine_vars: machine_vars(ways.iter().map(AsRef::as_ref)),
            only: self.only.clone(),
            order: self.order.map(OrderMode::from),
        };
        let file = StatesFile::compile(&input, &Folder, modules)?;
        for warning in file.warnings() {
            screen.note(&format!("warning: {}", super::screen::harmless(&warning)))?;
        }
        Ok(file)
    }
}

async fn graph(
    args: StatesArgs,
    format: GraphFormat,
    hub: Option<&str>,
    registry: &Registry,
    screen: &mut Screen,
) -> Done {
    // Nothing is asked of a hub's nodes: what it knows of them is enough.
    let Means { ways, desk: _ } = args.means(hub, Terms::default(), registry).await?;
    let modules = Modules(registry);
    let file = args.compile(&ways, &modules, screen)?;
    let (options, interrupt) =
        (Options { forks: args.forks, ..Options::new(Goal::Plan) }, Interrupt::default());
    let machines = ways.len();
    let rollout = Rollout { ways, source: &file, options, interrupt };
    let mut front = RolloutText::new(screen, Detail::default());
    let compiled = rollout.compile(&mut front).await.map_err(stopped)?;
    let reached = compiled.len();
    // Most machines have the same states in the same order: each picture is shown once.
    let mut pictures: Vec<(String, String)> = Vec::new();
    // Only a catalog with extensions has something kept, and then compiling found the directory.
    let kept = crate::up::extensions::directory().unwrap_or_default();
    for Compiled { machine, facts, catalog } in compiled {
        let order = mainstay_node::state::order(catalog.clone(), registry, facts, &kept);
        let order = order.map_err(|error| Problem::new(ProblemKind::Invalid, error))?;
        let picture = match format {
            GraphFormat::Mermaid => order.mermaid(&catalog),
            GraphFormat::Dot => order.dot(&catalog),
        };
        pictures.push((machine, picture));
    }
    let folded = fold(pictures.iter().map(|(machine, picture)| (machine.as_str(), picture.clone())));
    let is_one = folded.len() == 1;
    for (machines, picture) in folded {
        if !is_one {
            let comment = if format == GraphFormat::Mermaid { "%%" } else { "//" };
            screen.line(&format!("{comment} {}", compact_names(machines)))?;
        }
        screen.node_output(picture.as_bytes())?;
    }
    Ok(if reached == machines { status_of::WELL } else { status_of::FAILED })
}

fn stopped(error: RolloutError) -> Stop {
    match error {
        RolloutError::Source(problem) => Stop::Problem(problem),
        RolloutError::Front(error) => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_outweighs_what_is_only_not_done() {
        let end = |verdict| MachineEnd {
            name: "m".into(),
            verdict,
            counts: Default::default(),
            foreseen: true,
            cycles: 0,
        };
        let gone = || Verdict::Aside(Aside::Lost(String::new()));
        let hub = || Verdict::Aside(Aside::Hub(Problem::new(ProblemKind::Unreachable, "no hub")));
        for (verdicts, expected) in [
            (vec![], 0),
            (vec![Verdict::Stable, Verdict::Stable], 0),
            (vec![Verdict::Stable, Verdict::Planned], 3),
            (vec![Verdict::Aside(Aside::Declined)], 3),
            (vec![Verdict::Aside(Aside::Away(String::new())), gone()], 1),
            (vec![hub(), Verdict::Stable, Verdict::Planned], 4),
            (vec![hub(), gone()], 1),
            (
                vec![Verdict::Aside(Aside::Unstable {
                    cycles: crate::up::machine::Cycles(3),
                    restless: crate::up::machine::Names(vec!["a".into()]),
                })],
                1,
            ),
        ] {
            let ends: Vec<MachineEnd> = verdicts.into_iter().map(end).collect();
            assert_eq!(status(&ends), expected, "{ends:?}");
        }
    }
}

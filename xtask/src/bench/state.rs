//! `mainstay up` of files and directories: on this machine, on ten hosts by ssh, on ten agents through a hub. The whole
//! process, from its start to its end.
//!
//! The tree is the one that the peers' harness declares, so that their figures can stand beside ours.

mod hosts;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};

use super::figure::{Figure, Figures, median};
use super::{Bench, peers, process};
use crate::fleet::{Fleet, Plan};
use hosts::Hosts;

const PART: &str = "state";

/// DESIGN §10, and what is asked for memory.
const FILES: usize = 500;
const GOAL_NOOP_MS: f64 = 20.0;
const GOAL_FIRST_MS: f64 = 300.0;
/// On ten hosts; with five times as many some peers take hours.
const BESIDE_PEERS: usize = 100;
const ON_AGENTS: usize = 100;
const AGENTS: usize = 10;
const GOAL_AGENTS_MS: f64 = 150.0;
const MANY: usize = 10_000;
const GOAL_MIB: f64 = 50.0;

const ROUNDS: usize = 5;

const MIB: f64 = 1024.0 * 1024.0;

/// Exit status of `plan` where something would change.
const PENDING: i32 = 3;

pub async fn measure(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    let place = Place::new()?;
    local(bench, &place, figures)?;
    ssh(bench, &place, figures)?;
    agents(bench, figures).await?;
    memory(bench, figures).await?;
    graph(bench, &place, figures)
}

/// A directory of its own, removed at the end.
struct Place(PathBuf);

impl Place {
    fn new() -> anyhow::Result<Self> {
        let random = getrandom::u32().map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
        let root = std::env::temp_dir().join(format!("mainstay-state-{random:08x}"));
        fs::create_dir(&root)?;
        Ok(Self(root))
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.0.join(name);
        fs::write(&path, text)?;
        Ok(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// One round: dry run, first apply, an apply with nothing to do. Milliseconds.
#[derive(Default)]
struct Times {
    dry: Vec<f64>,
    first: Vec<f64>,
    noop: Vec<f64>,
}

impl Times {
    /// `command` makes `plan` or `up` with all that says whom.
    fn round(
        &mut self,
        trees: &[PathBuf],
        files: usize,
        command: &dyn Fn(&str) -> Command,
    ) -> anyhow::Result<()> {
        trees.iter().try_for_each(|tree| tree::clear(tree))?;
        self.dry.push(time(command("plan"), PENDING)?);
        trees.iter().try_for_each(|tree| tree::check(tree, 0))?;
        self.first.push(time(command("up"), 0)?);
        trees.iter().try_for_each(|tree| tree::check(tree, files))?;
        self.noop.push(time(command("up"), 0)?);
        trees.iter().try_for_each(|tree| tree::check(tree, files))
    }
}

fn time(mut command: Command, wanted: i32) -> anyhow::Result<f64> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let began = Instant::now();
    let output = command.output()?;
    let took = began.elapsed().as_secs_f64() * 1e3;
    if output.status.code() != Some(wanted) {
        bail!("{command:?} ended with {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(took)
}

fn talking(bench: &Bench, data: &Path, verb: &str, site: &Path) -> Command {
    let mut command = Command::new(&bench.binary);
    command.env("MAINSTAY_DATA", data).arg(verb).arg(site);
    if verb == "up" {
        command.arg("--yes");
    }
    command
}

fn local(bench: &Bench, place: &Place, figures: &mut Figures) -> anyhow::Result<()> {
    let trees = [place.0.join("tree")];
    let site = place.write("local.yaml", &tree::site(FILES, &trees[0].display().to_string()))?;
    let data = place.0.join("data");
    let (mut times, mut plain) = (Times::default(), Vec::new());
    for round in 0..=ROUNDS {
        let mut kept = Times::default();
        let written = tree::plain(&place.0.join("plain"), FILES)?;
        kept.round(&trees, FILES, &|verb| {
            let mut command = talking(bench, &data, verb, &site);
            command.arg("--local");
            command
        })?;
        // The first one warms up.
        if round > 0 {
            plain.push(written);
            times.dry.append(&mut kept.dry);
            times.first.append(&mut kept.first);
            times.noop.append(&mut kept.noop);
        }
    }
    let peers = peers::state(bench.peers.as_deref(), FILES, 1)?;
    let limit = ("the same files plainly written and synced in turn".to_owned(), median(&mut plain));
    let goals = Goals { first: Some(GOAL_FIRST_MS), noop: Some(GOAL_NOOP_MS) };
    show(figures, &format!("{FILES} files here"), &mut times, &goals, Some(limit), &peers);
    Ok(())
}

fn ssh(bench: &Bench, place: &Place, figures: &mut Figures) -> anyhow::Result<()> {
    let Some(hosts) = Hosts::start(&place.0)? else {
        figures.note("there is no sshd here: nothing was measured by ssh");
        return Ok(());
    };
    by_ssh(bench, place, &hosts, FILES, &[], figures)?;
    if bench.peers.is_some() {
        let peers = peers::state(bench.peers.as_deref(), BESIDE_PEERS, usize::from(hosts::HOSTS))?;
        by_ssh(bench, place, &hosts, BESIDE_PEERS, &peers, figures)?;
    }
    Ok(())
}

fn by_ssh(
    bench: &Bench,
    place: &Place,
    hosts: &Hosts,
    files: usize,
    peers: &[peers::Phase],
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let site = place.write("ssh.yaml", &tree::site(files, "{{ root }}"))?;
    let mut times = Times::default();
    for round in 0..=ROUNDS {
        let mut kept = Times::default();
        kept.round(&hosts.trees(), files, &|verb| {
            let mut command = talking(bench, &place.0.join("data"), verb, &site);
            hosts.reached_by(&mut command);
            command
        })?;
        // The first one brings the program to the hosts.
        if round > 0 {
            times.dry.append(&mut kept.dry);
            times.first.append(&mut kept.first);
            times.noop.append(&mut kept.noop);
        }
    }
    let what = format!("{files} files on {} hosts by ssh", hosts::HOSTS);
    show(figures, &what, &mut times, &Goals::default(), None, peers);
    Ok(())
}

async fn agents(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    let fleet = Fleet::start(Plan { binary: &bench.binary, agents: AGENTS, label: "state" }).await?;
    let trees: Vec<PathBuf> = (1..=AGENTS).map(|number| fleet.root.join(format!("tree{number}"))).collect();
    let root = format!("{}/tree{{{{ facts.labels.number }}}}", fleet.root.display());
    let site = fleet.root.join("site.yaml");
    fs::write(&site, tree::site(ON_AGENTS, &root))?;
    let (mut times, mut plain) = (Times::default(), Vec::new());
    for _ in 0..ROUNDS {
        plain.push(tree::plain(&fleet.root.join("plain"), AGENTS * ON_AGENTS)?);
        times.round(&trees, ON_AGENTS, &|verb| {
            let mut command = talking(bench, &fleet.root.join("data"), verb, &site);
            command.arg("--hub").arg(fleet.api_socket()).args(["-t", "*"]);
            command
        })?;
    }
    let what = format!("{ON_AGENTS} files on {AGENTS} agents");
    let goals = Goals { first: None, noop: Some(GOAL_AGENTS_MS) };
    let limit = ("all their files plainly written and synced in turn".to_owned(), median(&mut plain));
    show(figures, &what, &mut times, &goals, Some(limit), &[]);
    Ok(())
}

/// What an agent has held at most, once it has brought itself to a state of many parts.
async fn memory(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    let fleet = Fleet::start(Plan { binary: &bench.binary, agents: 1, label: "memory" }).await?;
    let tree = fleet.root.join("tree");
    tree::clear(&tree)?;
    let site = fleet.root.join("site.yaml");
    fs::write(&site, tree::site(MANY, &tree.display().to_string()))?;
    let agent = fleet.agents.first().and_then(crate::fleet::Daemon::pid).context("the agent has ended")?;
    let before = process::peak(agent)? / MIB;
    let mut command = talking(bench, &fleet.root.join("data"), "up", &site);
    command.arg("--hub").arg(fleet.api_socket()).args(["-t", "*"]);
    time(command, 0)?;
    let peak = process::peak(agent)? / MIB;
    figures.add(
        Figure::new(PART, format!("an agent's peak for {MANY} files"), peak, "MiB")
            .at_most(GOAL_MIB)
            .beside("before", before),
    );
    Ok(())
}

fn graph(bench: &Bench, place: &Place, figures: &mut Figures) -> anyhow::Result<()> {
    let site = place.write("graph.yaml", &tree::graph(MANY))?;
    for mode in ["ansible", "justdoit", "genius"] {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let mut command = talking(bench, &place.0.join("data"), "plan", &site);
            command.args(["--local", "--graph", "dot", "--order", mode]);
            times.push(time(command, 0)?);
        }
        let what = format!("{MANY} states compiled, ordered, drawn: {mode}");
        figures.add(Figure::new(PART, what, median(&mut times), "ms"));
    }
    Ok(())
}

#[derive(Default)]
struct Goals {
    first: Option<f64>,
    noop: Option<f64>,
}

fn show(
    figures: &mut Figures,
    what: &str,
    times: &mut Times,
    goals: &Goals,
    limit: Option<(String, f64)>,
    peers: &[peers::Phase],
) {
    let phases = [
        ("dry", "dry run", &mut times.dry, None),
        ("first", "first apply", &mut times.first, goals.first),
        ("noop", "nothing to do", &mut times.noop, goals.noop),
    ];
    for (phase, name, values, goal) in phases {
        let mut figure = Figure::new(PART, format!("{what}, {name}"), median(values), "ms");
        if let Some(most) = goal {
            figure = figure.at_most(most);
        }
        if let ("first", Some((name, value))) = (phase, &limit) {
            figure = figure.beside(name.clone(), *value);
        }
        for peer in peers.iter().filter(|peer| peer.phase == phase) {
            figure = figure.beside(peer.tool.clone(), peer.milliseconds);
        }
        figures.add(figure);
    }
}

//! `mainstay runs`: the history of runs, and what can still be done about them.

use std::borrow::Cow;
use std::time::Duration;

use clap::{Args, Subcommand};
use mainstay_control::view::{RunNodeView, RunView};
use mainstay_core::batch::{BatchSize, FailureLimit};
use mainstay_core::time::Span;

use super::changes::Detail;
use super::fold::{self, Folded};
use super::plan;
use super::screen::Screen;
use super::state_run::StateRun;
use super::watch::{Look, Patience, act, away, find_run, pending_of, short, watch};
use super::{Done, confirm, moment, name_range, nodes, status_of, table};
use crate::api::{PruneRuns, Pruned, RetryRun, RunDetail};
use crate::client::Client;
use crate::client::run_stream::RunStream;
use crate::up::hub::{Nodes, Nothing, nodes_of};
use crate::up::rollout::Interrupt;
use crate::up::{Goal, Options, Rollout};

/// Shows runs and acts on them
///
/// An ID may be given by its beginning or its end, or as `latest`.
#[derive(Subcommand)]
pub(super) enum RunsCommand {
    /// Lists runs, the newest first
    #[command(after_help = "Example:\n  mainstay runs list --limit 5")]
    List {
        /// How many
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Shows a run: for each node its result, or why there is none yet
    #[command(after_help = "Example:\n  mainstay runs show 5d0c81f2 --output")]
    Show {
        /// Which run [default: the latest]
        id: Option<String>,
        /// Show what the nodes wrote, too; of declared state, what stays as it is and long diffs whole
        #[arg(long)]
        output: bool,
    },
    /// Waits for a run until every node has ended; Ctrl-C leaves it running
    #[command(after_help = "Example:\n  mainstay runs watch 5d0c81f2 --wait 10m")]
    Watch(WatchArgs),
    /// Orders the same again, as a new run
    #[command(after_help = "Example:\n  mainstay runs retry 5d0c81f2 --failed")]
    Retry {
        /// Which run [default: the latest]
        id: Option<String>,
        /// Only on the nodes where it failed
        #[arg(long)]
        failed: bool,
        /// Do not wait: print the new run's id
        #[arg(long)]
        detach: bool,
    },
    /// Applies plans that nodes made, also those that were away; shows them and asks first
    #[command(after_help = "Example:\n  mainstay runs approve 5d0c81f2 --batch 25%")]
    Approve(ApproveArgs),
    /// Takes back what is queued and kills what is running
    #[command(after_help = "Example:\n  mainstay runs cancel 5d0c81f2")]
    Cancel {
        /// Which run; it must be named
        id: String,
    },
    /// Forgets ended runs and their output
    #[command(after_help = "Example:\n  mainstay runs prune --older 7d --yes")]
    Prune {
        /// Only those that are older than this
        #[arg(long, value_name = "DURATION")]
        older: Span,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Args)]
pub(super) struct WatchArgs {
    /// Which run [default: the latest]
    id: Option<String>,
    /// Show output while it comes
    #[arg(long)]
    stream: bool,
    /// Show nothing again up to this event, as Ctrl-C named it
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    after: u64,
    /// Stop waiting after this
    #[arg(long, value_name = "DURATION")]
    wait: Option<Span>,
}

#[derive(Args)]
pub(super) struct ApproveArgs {
    /// Which run of plans, or of applies whose nodes found more to do [default: the latest]
    id: Option<String>,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// How often a node is modified before not being stable is a failure
    #[arg(long, value_name = "N", default_value_t = crate::up::rollout::CYCLES, value_parser = clap::value_parser!(u32).range(1..=100))]
    cycles: u32,
    /// How many nodes are modified at a time
    #[arg(long, value_name = "N|P%")]
    batch: Option<BatchSize>,
    /// Begin with no further node after more failures than this
    #[arg(long, value_name = "N|P%")]
    max_failures: Option<FailureLimit>,
}

async fn approve(client: Client, args: ApproveArgs, screen: &mut Screen) -> Done {
    let run = find_run(&client, args.id.as_deref()).await?;
    if !args.yes && !screen.can_ask() {
        return Err(super::up::nobody_to_ask().into());
    }
    let Nodes { ways, desk } = nodes_of(client, run).await?;
    let options = Options {
        forks: ways.len().max(1),
        cycles: args.cycles,
        batch: args.batch,
        max_failures: args.max_failures,
        ..Options::new(Goal::Up { yes: args.yes })
    };
    let rollout = Rollout { ways, source: &Nothing, options, interrupt: Interrupt::default() };
    plan::show(rollout, Some(desk), Detail::default(), screen).await
}

pub(super) async fn run(client: &Client, command: RunsCommand, screen: &mut Screen) -> Done {
    match command {
        RunsCommand::Approve(args) => Box::pin(approve(client.clone(), args, screen)).await,
        RunsCommand::List { limit } => list(client, limit, screen).await,
        RunsCommand::Show { id, output } => show(client, id.as_deref(), output, screen).await,
        RunsCommand::Watch(args) => {
            let run = find_run(client, args.id.as_deref()).await?;
            let method = pending_of(client, run).await?.run.method;
            let look = Look { method: &method, live: args.stream, after: args.after };
            watch(client, RunStream::of(client, run), look, patience(args.wait), screen).await
        }
        RunsCommand::Retry { id, failed, detach } => {
            let run = find_run(client, id.as_deref()).await?;
            let input = RetryRun { failed_only: failed };
            let view: RunView = act(client, run, "retry", &input).await?;
            if detach {
                return accepted(&view, screen);
            }
            let only_online = Patience { only_online: true, limit: None };
            let look = Look { method: &view.method, live: false, after: 0 };
            watch(client, RunStream::of(client, view.run), look, only_online, screen).await
        }
        RunsCommand::Cancel { id } => {
            let run = find_run(client, Some(&id)).await?;
            let view: RunView = act(client, run, "cancel", &()).await?;
            if screen.json {
                screen.object(&view)?;
            } else {
                let counts = counts(&view);
                screen.line(&format!("Cancelled run {}: {counts}.", short(run)))?;
            }
            Ok(status_of::WELL)
        }
        RunsCommand::Prune { older, yes } => {
            confirm(screen, yes, &format!("Runs older than {older} will be forgotten, with their output."))?;
            let age = i64::try_from(Duration::as_millis(&older.0)).unwrap_or(i64::MAX);
            let input = PruneRuns { before_ms: screen.now.saturating_sub(age) };
            let pruned: Pruned = client.call(hyper::Method::POST, "/v1/runs/prune", &input).await?;
            if screen.json {
                screen.object(&pruned)?;
            } else {
                screen.line(&format!("Forgot {} runs.", pruned.pruned))?;
            }
            Ok(status_of::WELL)
        }
    }
}

fn patience(wait: Option<Span>) -> Patience {
    Patience { only_online: false, limit: wait.map(|Span(limit)| limit) }
}

fn accepted(view: &RunView, screen: &mut Screen) -> Done {
    if screen.json {
        screen.object(view)?;
    } else {
        screen.line(&view.run.to_string())?;
        screen.note(&format!("Accepted for {}.", nodes::count(view.nodes)))?;
    }
    Ok(status_of::WELL)
}

async fn list(client: &Client, limit: usize, screen: &mut Screen) -> Done {
    let runs: Vec<RunView> = client.get(&format!("/v1/runs?limit={limit}&plans=true")).await?;
    if screen.json {
        for run in &runs {
            screen.object(run)?;
        }
        return Ok(status_of::WELL);
    }
    if runs.is_empty() {
        screen.note("There is no run yet. Start one with `mainstay run`.")?;
        return Ok(status_of::WELL);
    }
    let rows: Vec<Vec<String>> = runs
        .iter()
        .map(|run| {
            vec![
                short(run.run),
                moment::relative(run.created_at, screen.now),
                run.operator.clone(),
                run.targets.join(" or "),
                counts(run),
                command(run),
            ]
        })
        .collect();
    table::show(screen, &["RUN", "WHEN", "BY", "TARGET", "NODES", "COMMAND"], &rows)?;
    Ok(status_of::WELL)
}

fn counts(run: &RunView) -> String {
    let counts = [
        (run.ok, "ok"),
        (run.failed, "failed"),
        (run.nodes_cancelled, "cancelled"),
        (run.not_started, "not started"),
        (run.pending, "pending"),
    ];
    let mut parts: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if run.cancelled && run.nodes_cancelled == 0 {
        parts.push("cancelled".into());
    }
    if run.stopped {
        parts.push("stopped".into());
    }
    match run.awaits_approval {
        0 => {}
        all if all == run.nodes => parts.push("awaits approval".into()),
        some => parts.push(format!("{some} await approval")),
    }
    parts.join(", ")
}

/// What was ordered, in the width of a column; `runs show` has it whole.
fn command(run: &RunView) -> String {
    const WIDTH: usize = 50;
    let text = whole_command(run);
    match text.char_indices().nth(WIDTH) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

fn whole_command(run: &RunView) -> String {
    let words = run.args.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
    let what = match run.method.as_str() {
        "cmd" if run.script => "(script)",
        "cmd" => "",
        method => method,
    };
    let of = run.applies.map(|planned| format!("of run {}", short(planned))).unwrap_or_default();
    [what, &words, &of].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// A word as it would be typed at a shell, so that two words are not taken for one.
fn quoted(word: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return Cow::Borrowed(word);
    }
    Cow::Owned(format!("'{}'", word.replace('\'', r"'\''")))
}

async fn show(client: &Client, id: Option<&str>, output: bool, screen: &mut Screen) -> Done {
    let run = find_run(client, id).await?;
    let RunDetail { run, mut nodes } = client.get(&format!("/v1/runs/{run}")).await?;
    nodes.sort_by_cached_key(|node| name_range::natural_key(&node.node));
    if screen.json {
        screen.object(&run)?;
        for node in &nodes {
            screen.object(node)?;
        }
        return Ok(status_of::WELL);
    }
    let at = |at| format!("{} ({})", moment::absolute(at), moment::relative(at, screen.now));
    let pairs = [
        ("run", run.run.to_string()),
        ("by", run.operator.clone()),
        ("created", at(run.created_at)),
        ("expires", at(run.expires_at)),
        ("target", run.targets.join(" or ")),
        ("command", whole_command(&run)),
        ("nodes", format!("{}: {}", run.nodes, counts(&run))),
    ];
    table::pairs(screen, &pairs)?;
    screen.line("")?;
    if let Some(mut states) = StateRun::new(run.run, &run.method) {
        nodes.iter().filter_map(|node| node.result.as_ref()).for_each(|result| states.add(result));
        states.show(client, Detail { verbose: output, ..Detail::default() }, screen).await?;
        nodes.retain(|node| node.result.is_none());
        if !nodes.is_empty() {
            away(&RunDetail { run, nodes }, screen)?;
        }
        return Ok(status_of::WELL);
    }
    let rows: Vec<Vec<String>> = nodes.iter().map(row).collect();
    table::show(screen, &["NODE", "RESULT", "TOOK"], &rows)?;
    if output {
        screen.line("")?;
        let mut folded = Folded::default();
        nodes.iter().filter_map(|node| node.result.as_ref()).for_each(|result| folded.add(result));
        folded.show(screen)?;
    }
    Ok(status_of::WELL)
}

fn row(node: &RunNodeView) -> Vec<String> {
    let (result, took) = match &node.result {
        Some(result) => (fold::outcome(result), result.duration_ms.map(moment::took)),
        None => {
            let why = node.pending.as_deref().unwrap_or("not known why");
            (format!("pending: {why}"), None)
        }
    };
    vec![node.node.to_string(), result, took.unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_never_began_are_told_from_those_that_failed() {
        let run = |more: serde_json::Value| {
            let mut run = serde_json::json!({
                "run": "0190a8a0-0000-7000-8000-00000000000a", "operator": "a", "created_at": 0, "expires_at": 1,
                "method": "cmd", "args": [], "targets": ["*"], "nodes": 9, "ok": 0, "failed": 0, "pending": 0,
                "cancelled": false, "stopped": false,
            });
            run.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            counts(&serde_json::from_value(run).unwrap())
        };
        let stopped = serde_json::json!({"ok": 4, "failed": 2, "not_started": 3, "stopped": true});
        assert_eq!(run(stopped), "4 ok, 2 failed, 3 not started, stopped");
        let cancelled =
            serde_json::json!({"ok": 4, "nodes_cancelled": 2, "not_started": 3, "cancelled": true});
        assert_eq!(run(cancelled), "4 ok, 2 cancelled, 3 not started");
        assert_eq!(run(serde_json::json!({"pending": 9, "cancelled": true})), "9 pending, cancelled");
        assert_eq!(run(serde_json::json!({"ok": 9, "awaits_approval": 9})), "9 ok, awaits approval");
        let some = serde_json::json!({"ok": 5, "pending": 4, "awaits_approval": 3});
        assert_eq!(run(some), "5 ok, 4 pending, 3 await approval");
    }

    #[test]
    fn an_order_is_shown_as_what_it_is() {
        let run = |method: &str, args: &[&str], script: bool| {
            whole_command(
                &serde_json::from_value(serde_json::json!({
                    "run": "0190a8a0-0000-7000-8000-00000000000a", "operator": "a", "created_at": 0, "expires_at": 1,
                    "method": method, "args": args, "script": script, "targets": ["*"], "nodes": 1, "ok": 0, "failed": 0,
                    "pending": 1, "cancelled": false, "stopped": false,
                }))
                .unwrap(),
            )
        };
        assert_eq!(run("cmd", &["ls", "a b"], false), "ls 'a b'");
        assert_eq!(run("cmd", &[], true), "(script)");
        assert_eq!(run("cmd", &["--fast"], true), "(script) --fast");
        assert_eq!((run("ping", &[], false), run("ping", &["x"], false)), ("ping".into(), "ping x".into()));
    }

    #[test]
    fn words_are_quoted_as_a_shell_wants_them() {
        let words = ["ls", "-l", "a b", "it's", "", "$x", "k=v"].map(quoted);
        assert_eq!(words.join(" "), r"ls -l 'a b' 'it'\''s' '' '$x' k=v");
    }
}

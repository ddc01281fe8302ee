//! `mainstay run`: a command or a script on every node that a target means.

use std::collections::BTreeMap;

use bytes::Bytes;
use clap::Args;
use data_encoding::BASE64;
use hyper::Method;
use mainstay_control::view::{NodeView, Problem, ProblemKind, RunEvent, RunSpec, RunView};
use mainstay_core::time::Span;

use super::hosts::HostArgs;
use super::run_ssh::{self, SshRun};
use super::screen::Screen;
use super::watch::{Look, Patience, short, watch};
use super::{Done, nodes, read_input, read_text, status_of};
use crate::client::Client;
use crate::client::run_stream::RunStream;
use crate::remote::talk::RunOrder;

/// Runs a command on nodes, also on those that are away now
///
/// These get it when they return. Each node runs it at most once. The exit status is 0 if it went well everywhere, 1 if it failed somewhere, 3 if
/// nothing failed but nodes that are away still have it before them, 2 if no node is meant.
#[derive(Args)]
#[command(
    override_usage = "mainstay run [OPTIONS] [TARGET]... -- CMD [ARG]...\n       mainstay run [OPTIONS] [TARGET]... --script FILE [-- ARG...]",
    after_help = "Examples:
  mainstay run -t 'ship*' -- systemctl restart app
  mainstay run 'role=web and not env=prod' --batch 25% --max-failures 3 -- apt-get -y upgrade
  mainstay run -t '*' --script check.sh --stream
  mainstay run --ssh root@web1,root@web2 -- uptime"
)]
pub(super) struct RunArgs {
    /// Which nodes: a name, a glob, a label or an expression; repeatable
    #[arg(short, long = "target", value_name = "TARGET")]
    target: Vec<String>,
    /// The same, without -t
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// The command and its arguments, or a script's arguments
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
    /// How long it may take on a node before it is killed as a whole
    #[arg(long, value_name = "DURATION")]
    timeout: Option<Span>,
    /// How long nodes that are away may take to come and start it [default: 24h]
    #[arg(long, value_name = "DURATION")]
    expires: Option<Span>,
    /// It may be run again where the node went down in the middle of it
    #[arg(long)]
    idempotent: bool,
    /// Send this script, with its interpreter line, instead of a command (- for standard input)
    #[arg(long, value_name = "FILE")]
    script: Option<String>,
    /// Do not wait: print the run's id
    #[arg(long, conflicts_with_all = ["stream", "wait"])]
    detach: bool,
    /// Show output while it comes, each line behind its node
    #[arg(long)]
    stream: bool,
    /// Stop waiting after this; without it, when only nodes that are away are left
    #[arg(long, value_name = "DURATION")]
    wait: Option<Span>,
    /// How many nodes at a time
    #[arg(long, value_name = "N|P%", value_parser = share)]
    batch: Option<String>,
    /// Start no further nodes after more failures than this
    #[arg(long, value_name = "N|P%", value_parser = share)]
    max_failures: Option<String>,
    /// Only list the nodes that are meant
    #[arg(long)]
    preview: bool,
    /// A variable of its environment, sealed to each node; a name alone takes our own value, which then stands in no
    /// argument
    #[arg(short, long = "env", value_name = "K[=V]", value_parser = variable)]
    env: Vec<(String, String)>,
    /// The directory to run it in
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// The user to run it as
    #[arg(long)]
    user: Option<String>,
    /// A file to give it as standard input (- for ours); sealed to each node
    #[arg(long, value_name = "FILE")]
    stdin: Option<String>,
    /// Most bytes of output kept from each node [default: 1048576]
    #[arg(long, value_name = "BYTES")]
    output_limit: Option<u64>,
    #[command(flatten)]
    hosts: HostArgs,
}

/// `client` finds the hub, where one is needed.
pub(super) async fn run(
    client: impl FnOnce() -> Result<Client, Problem>,
    args: RunArgs,
    screen: &mut Screen,
) -> Done {
    if args.hosts.are_given() {
        return run_ssh::run(ssh_run(&args, &args.all_targets())?, screen).await;
    }
    through_hub(&client()?, args, screen).await
}

impl RunArgs {
    fn all_targets(&self) -> Vec<String> {
        self.target.iter().chain(&self.targets).cloned().collect()
    }
}

pub(super) async fn through_hub(client: &Client, args: RunArgs, screen: &mut Screen) -> Done {
    let targets = args.all_targets();
    if targets.is_empty() {
        return Err(Problem::new(ProblemKind::Invalid, "no target is given")
            .hint("say which nodes: -t ship1, -t 'ship*', -t role=web; all of them are -t '*'")
            .hint("the command itself stands behind --")
            .into());
    }
    if args.preview {
        let input = serde_json::json!({"targets": targets});
        let meant: Vec<NodeView> = client.call(Method::POST, "/v1/targets/preview", &input).await?;
        if meant.is_empty() {
            let message = format!("no node is meant by {}", targets.join(" or "));
            return Err(Problem::new(ProblemKind::NoTargets, message)
                .hint("see `mainstay nodes list`")
                .into());
        }
        nodes::show_list(&meant, screen)?;
        return Ok(status_of::WELL);
    }
    let spec = spec(&args, targets)?;
    if args.detach {
        let view: RunView = client.call(Method::POST, "/v1/runs", &spec).await?;
        if screen.json {
            screen.object(&RunEvent::Accepted { run: view.run, targets: view.nodes, away: 0 })?;
        } else {
            screen.line(&view.run.to_string())?;
            screen.note(&format!(
                "Accepted for {}. See how it goes with `mainstay runs watch {}`.",
                nodes::count(view.nodes),
                short(view.run)
            ))?;
        }
        return Ok(status_of::WELL);
    }
    let patience = Patience { only_online: args.wait.is_none(), limit: args.wait.map(|Span(limit)| limit) };
    let stream = RunStream::start(client, &spec).await?;
    watch(client, stream, Look { method: &spec.method, live: args.stream, after: 0 }, patience, screen).await
}

/// The same order for hosts without agents. What only a hub can do is refused rather than left out.
fn ssh_run(args: &RunArgs, targets: &[String]) -> Result<SshRun, Problem> {
    let invalid = |message: String| Problem::new(ProblemKind::Invalid, message);
    let of_hubs = [
        (args.detach, "--detach"),
        (args.expires.is_some(), "--expires"),
        (args.idempotent, "--idempotent"),
        (args.wait.is_some(), "--wait"),
        (args.preview, "--preview"),
    ];
    if let Some((_, flag)) = of_hubs.iter().find(|(given, _)| *given) {
        return Err(invalid(format!("{flag} is for nodes behind a hub, and means nothing by ssh")));
    }
    let spec = spec(args, targets.to_vec())?;
    let stdin = spec.stdin_base64.map(|code| BASE64.decode(code.as_bytes()));
    let stdin = stdin.transpose().expect("it was encoded just now");
    Ok(SshRun {
        order: RunOrder {
            args: spec.args,
            script: spec.script.map(Bytes::from),
            env: spec.env.into_iter().collect(),
            cwd: spec.cwd,
            user: spec.user,
            stdin: stdin.map(Bytes::from),
            timeout: args.timeout.map(|Span(span)| span),
            stream: args.stream,
            output_limit: args.output_limit.unwrap_or(run_ssh::OUTPUT_LIMIT),
        },
        hosts: args.hosts.hosts(targets)?,
        binaries: args.hosts.binaries()?,
        batch: args
            .batch
            .as_deref()
            .map(|text| text.parse().map_err(|e| invalid(format!("{e}"))))
            .transpose()?,
        max_failures: args
            .max_failures
            .as_deref()
            .map(|text| text.parse().map_err(|e| invalid(format!("{e}"))))
            .transpose()?,
    })
}

fn spec(args: &RunArgs, targets: Vec<String>) -> Result<RunSpec, Problem> {
    let script = args.script.as_deref().map(read_text).transpose()?;
    if script.is_none() && args.command.is_empty() {
        return Err(Problem::new(ProblemKind::Invalid, "no command is given")
            .hint("write it behind --: mainstay run -t 'ship*' -- uptime")
            .hint("or send a script with --script FILE"));
    }
    if args.script.as_deref() == Some("-") && args.stdin.as_deref() == Some("-") {
        let message = "--script and --stdin cannot both be our standard input";
        return Err(Problem::new(ProblemKind::Invalid, message));
    }
    let stdin = args.stdin.as_deref().map(read_input).transpose()?;
    Ok(RunSpec {
        targets,
        method: "cmd".into(),
        args: args.command.clone(),
        script,
        env: BTreeMap::from_iter(args.env.iter().cloned()),
        cwd: args.cwd.clone(),
        user: args.user.clone(),
        stdin_base64: stdin.map(|bytes| BASE64.encode(&bytes)),
        timeout_ms: args.timeout.map(Span::millis),
        expires_ms: args.expires.map(Span::millis),
        idempotent: args.idempotent,
        stream: args.stream,
        output_limit: args.output_limit,
        batch: args.batch.clone(),
        max_failures: args.max_failures.clone(),
    })
}

/// `10` or `25%`; what it is a share of only the hub knows.
fn share(text: &str) -> Result<String, String> {
    let (digits, most) = match text.strip_suffix('%') {
        Some(digits) => (digits, 100),
        None => (text, u32::MAX),
    };
    match digits.parse::<u32>() {
        Ok(number) if number <= most && !digits.starts_with('+') => Ok(text.to_owned()),
        _ => Err("write a number of nodes, like 10, or a share of them, like 25%".into()),
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some(("", _)) => Err("write NAME=VALUE".into()),
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => match std::env::var(text) {
            Ok(value) => Ok((text.to_owned(), value)),
            Err(_) => Err(format!("{text} is not in our own environment; or write NAME=VALUE")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_numbers_or_percentages() {
        for good in ["1", "10", "0", "25%", "100%"] {
            assert!(share(good).is_ok(), "{good}");
        }
        for bad in ["", "%", "-1", "101%", "1.5", "+1", "10 %", "x"] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }
}

//! `cmd`: runs a command.
//!
//! What a command does to a machine is its own affair, so in the analyze phase it is opaque unless it promises to have no
//! effects (`probe`) or a guard of the state says that it is not needed. Judging its end by expressions is the engine's;
//! they are handed to it with the outputs.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_core::state::Values;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::failure::Failure;
use crate::field::{HostPath, Period};
use crate::forecast::Resource;
use crate::host::View;
use crate::host::command::{Command, DEFAULT_TIMEOUT, Ending, Ran};
use crate::module::{About, Analysis, Analyze, Applied, Apply, Module, Refreshed, Verdict};

pub struct Cmd;

/// Just one of `run`, `argv` and `shell` says what is run.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CmdParams {
    /// The command: a text is a line for `/bin/sh`, a list is a program and its arguments, which no shell looks at.
    run: Option<Line>,
    /// A program and its arguments, as `run` with a list.
    argv: Option<Vec<String>>,
    /// A line for `/bin/sh -c`, as `run` with a text.
    shell: Option<String>,
    /// Promises that the command changes nothing. It is then run in the analyze phase, once nothing before it is pending, and what
    /// depends on its outputs can be planned. A probe never counts as a change.
    #[serde(default)]
    probe: bool,
    /// The user to run it as, with all its groups and its `HOME`. Without it, the user that applies the state.
    #[schemars(extend("format" = "account"))]
    user: Option<String>,
    /// The directory to run it in; `/` without it.
    cwd: Option<HostPath>,
    /// Variables added to the clean environment that every command gets (`PATH`, `HOME`, `USER`, `LOGNAME`, `SHELL`,
    /// `LANG`).
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// A text for its standard input, which is empty otherwise.
    stdin: Option<String>,
    /// The exit statuses that are a success. By default only 0.
    #[serde(default = "only_zero")]
    ok_codes: BTreeSet<u8>,
    /// `false`: a run that worked is reported as unchanged, and sets off nothing. Only what is reported changes: in the
    /// analyze phase the command is as opaque as without it.
    changed: Option<bool>,
    /// An expression over its outputs that tells whether it changed something, as `"'created' in stdout"`.
    changed_when: Option<Expression>,
    /// An expression over its outputs that tells whether it failed, as `"'ERROR' in stderr"`. It takes the place of
    /// `ok_codes`. A command that ran out of time has failed in any case.
    failed_when: Option<Expression>,
    /// How long it may take; 5 minutes without it. Then it is ended with all that it started.
    timeout: Option<Period>,
    /// Its outputs are secrets: they are shown nowhere, nor is what they flow into.
    #[serde(default)]
    sensitive: bool,
}

#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
enum Line {
    Shell(String),
    Argv(Vec<String>),
}

#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline, extend("x-mainstay" = "expression"))]
enum Expression {
    Constant(bool),
    Text(String),
}

impl Expression {
    fn text(&self) -> String {
        match self {
            Self::Constant(value) => value.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

fn only_zero() -> BTreeSet<u8> {
    BTreeSet::from([0])
}

impl CmdParams {
    /// What is to be run, or what is wrong with saying it.
    fn command(&self) -> Result<Command, &'static str> {
        let mut command = match (&self.run, &self.argv, &self.shell) {
            (Some(Line::Argv(argv)), None, None) | (None, Some(argv), None) => match argv.split_first() {
                Some((program, args)) if !program.is_empty() => Command::new(program).args(args),
                _ => return Err("the command is empty: a list begins with a program"),
            },
            (Some(Line::Shell(line)), None, None) | (None, None, Some(line)) => match line.trim() {
                "" => return Err("the command is empty"),
                _ => Command::shell(line),
            },
            (None, None, None) => return Err("`run` is missing: the command that is run"),
            _ => return Err("only one of `run`, `argv` and `shell` can be given"),
        };
        command.user.clone_from(&self.user);
        command.cwd = self.cwd.as_ref().map(|cwd| cwd.as_path().to_owned());
        command.env.clone_from(&self.env);
        command.stdin = self.stdin.clone().unwrap_or_default().into_bytes();
        command.timeout = self.timeout.map_or(DEFAULT_TIMEOUT, |timeout| timeout.0);
        Ok(command)
    }

    fn run(&self, view: &View) -> Result<(Command, Ran), Failure> {
        let command = self.command().map_err(|wrong| Failure::new("run", wrong))?;
        let ran = view.run(&command)?;
        Ok((command, ran))
    }

    /// What the end of the command comes to: its outputs and what decides over them.
    fn judged(&self, view: &View) -> Result<(Values, Verdict), Failure> {
        let (command, ran) = self.run(view)?;
        if matches!(ran.ending, Ending::TimedOut | Ending::Cancelled) {
            return Err(self.failure(&command, &ran));
        }
        let good = ran
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .is_some_and(|code| self.ok_codes.contains(&code));
        let verdict = Verdict {
            failed_when: self.failed_when.as_ref().map(Expression::text),
            changed_when: self.changed_when.as_ref().map(Expression::text),
            failure: (!good).then(|| self.failure(&command, &ran)),
            sensitive: self.sensitive,
        };
        Ok((outputs(&ran), verdict))
    }

    fn failure(&self, command: &Command, ran: &Ran) -> Failure {
        if self.sensitive {
            return Failure::new(format!("run {}", command.program), ran.ending);
        }
        ran.failure(command)
    }
}

fn outputs(ran: &Ran) -> Values {
    let mut outputs = Values::new();
    let mut put = |name: &str, value: Value| outputs.insert(name.to_owned(), value);
    put("exit_code", ran.code().into());
    let signal = if let Ending::Signal(signal) = ran.ending { Some(signal) } else { None };
    put("signal", signal.into());
    put("stdout", ran.text().into());
    put("stderr", ran.error_text().into());
    put("truncated", ran.truncated().into());
    outputs
}

impl Module for Cmd {
    type Params = CmdParams;

    fn about(&self) -> About {
        About {
            name: "cmd",
            summary: "Runs a command.",
            identity: None,
            dry_run: "A command is opaque: it would be run, and what it does cannot be known. With a guard (`unless`, \
                      `creates` …) the plan says whether it would be run. A `probe` is run in the analyze phase too, \
                      and its outputs are known.",
            outputs: &[
                ("exit_code", "its exit status; null if a signal ended it"),
                ("signal", "the signal that ended it; null if none did"),
                ("stdout", "what it wrote, without the line end at its end; the first MiB"),
                ("stderr", "likewise"),
                ("truncated", "whether it wrote more than that"),
            ],
            example: "\
app-version:
  cmd: {run: app --version, probe: true}
migrate:
  cmd:
    run: [/opt/app/bin/migrate, --to, \"{{ states['app-version'].stdout }}\"]
    user: app
    cwd: /opt/app
    timeout: 10m
    changed_when: \"'applied' in stdout\"
",
        }
    }

    fn check(&self, params: &CmdParams) -> Result<(), String> {
        params.command()?;
        if params.changed == Some(true) && params.probe {
            return Err("a `probe` changes nothing, so it cannot be `changed: true`".into());
        }
        if params.changed_when.is_some() && (params.probe || params.changed.is_some()) {
            return Err("`changed_when` cannot be given together with `changed` or `probe`".into());
        }
        if params.timeout.is_some_and(|timeout| timeout.0.is_zero()) {
            return Err("`timeout` leaves no time to run".into());
        }
        Ok(())
    }

    fn needs(&self, params: &CmdParams) -> Vec<Resource> {
        let user = params.user.as_deref().map(Resource::user);
        user.into_iter().chain(params.cwd.as_ref().map(|cwd| Resource::path(cwd))).collect()
    }

    fn probes(&self, params: &CmdParams) -> bool {
        params.probe
    }

    fn analyze(&self, params: &CmdParams, cx: &Analyze<'_>) -> Result<Analysis, Failure> {
        if !params.probe {
            return Ok(Analysis::opaque("runs a command"));
        }
        for resource in self.needs(params) {
            if let Some(prediction) = cx.forecast.get(&resource) {
                return Ok(Analysis::conditional(&prediction.by));
            }
        }
        if let Some(opaque) = cx.forecast.opaque() {
            return Ok(Analysis::conditional(opaque));
        }
        let (outputs, verdict) = params.judged(cx.view)?;
        match verdict.failure {
            Some(failure) if verdict.failed_when.is_none() => Err(failure),
            _ => Ok(Analysis { outputs, verdict, ..Analysis::unchanged() }),
        }
    }

    fn apply(&self, params: &CmdParams, cx: &Apply<'_>, _: &Analysis) -> Result<Applied, Failure> {
        let (outputs, verdict) = params.judged(cx.host)?;
        Ok(Applied { outputs, verdict, unchanged: params.probe || params.changed == Some(false), note: None })
    }

    fn refreshes(&self) -> bool {
        true
    }

    /// A refresh is a run. One that was run at its own turn was run after all that it watches.
    fn refresh(
        &self,
        params: &CmdParams,
        cx: &Apply<'_>,
        applied: Option<&Analysis>,
    ) -> Result<Refreshed, Failure> {
        match applied {
            Some(_) => Ok(Refreshed::NotNeeded),
            None => {
                let applied = self.apply(params, cx, &Analysis::unchanged())?;
                // Only a refresh shows that a probe was called for.
                Ok(Refreshed::Done(Applied { unchanged: params.changed == Some(false), ..applied }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mainstay_core::state::{StateId, StepWord};
    use serde_json::json;

    use super::*;
    use crate::forecast::Forecast;
    use crate::host::Host;
    use crate::module::Blobs;

    fn read(value: Value) -> Result<CmdParams, String> {
        let params: CmdParams = serde_json::from_value(value).map_err(|error| error.to_string())?;
        Cmd.check(&params).map(|()| params)
    }

    fn analyze(value: Value, forecast: &Forecast) -> Result<Analysis, Failure> {
        let (state, view, blobs) = (StateId::from("s"), View::new(None), BTreeMap::new());
        let cx = Analyze { state: &state, view: &view, forecast, blobs: Blobs(&blobs) };
        Cmd.analyze(&read(value).unwrap(), &cx)
    }

    fn apply(value: Value) -> Result<Applied, Failure> {
        let (state, host, blobs) = (StateId::from("s"), Host::new(), BTreeMap::new());
        let cx = Apply { state: &state, host: &host, blobs: Blobs(&blobs) };
        Cmd.apply(&read(value).unwrap(), &cx, &Analysis::opaque(""))
    }

    #[test]
    fn a_text_is_for_the_shell_and_a_list_is_not() {
        for (params, stdout) in [
            (json!({"run": "echo $((1+1))"}), "2"),
            (json!({"shell": "echo a | tr a b"}), "b"),
            (json!({"run": ["echo", "$HOME; x"]}), "$HOME; x"),
            (json!({"argv": ["cat"], "stdin": "typed"}), "typed"),
            (json!({"run": "pwd; echo $A", "cwd": "/usr", "env": {"A": "b c"}}), "/usr\nb c"),
        ] {
            let applied = apply(params.clone()).unwrap();
            assert_eq!(applied.outputs["stdout"], stdout, "{params}");
            assert_eq!((&applied.outputs["exit_code"], applied.unchanged), (&json!(0), false));
        }
    }

    #[test]
    fn whoever_compiles_knows_which_parameters_are_expressions() {
        let schema = crate::registry::Registry::default().with(Cmd).get("cmd").unwrap().schema();
        for name in ["changed_when", "failed_when"] {
            let kinds = schema["properties"][name]["anyOf"].as_array().expect("it may be left out");
            assert!(kinds.iter().any(|kind| kind["x-mainstay"] == "expression"), "{name}: {kinds:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (params, wrong) in [
            (json!({}), "`run` is missing"),
            (json!({"run": "a", "argv": ["a"]}), "only one of"),
            (json!({"run": []}), "the command is empty"),
            (json!({"run": " "}), "the command is empty"),
            (json!({"run": "a", "cwd": "b"}), "is not absolute"),
            (json!({"run": "a", "probe": true, "changed_when": "x"}), "`changed_when` cannot"),
            (json!({"run": "a", "probe": true, "changed": true}), "a `probe` changes nothing"),
            (json!({"run": "a", "timeout": "0s"}), "leaves no time"),
            (json!({"run": "a", "timeout": "5"}), "write it like 90s"),
            (json!({"run": "a", "ok_codes": [256]}), "256"),
            (json!({"run": "a", "pwd": "/"}), "unknown field"),
        ] {
            let error = read(params.clone()).unwrap_err();
            assert!(error.contains(wrong), "{params}: {error}");
        }
    }

    #[test]
    fn analyze_runs_only_what_promises_to_change_nothing() {
        let place = tempfile::tempdir().unwrap();
        let mark = place.path().join("mark");
        let line = format!("touch {}; echo out", mark.display());
        let none = Forecast::default();
        let opaque = analyze(json!({"run": line}), &none).unwrap();
        assert_eq!((opaque.step, mark.exists()), (StepWord::Opaque, false));
        let mut pending = Forecast::default();
        pending.note_opaque("earlier".into());
        let waits = analyze(json!({"run": line, "probe": true}), &pending).unwrap();
        assert_eq!((waits.step, mark.exists()), (StepWord::Conditional, false));
        let probed = analyze(json!({"run": line, "probe": true}), &none).unwrap();
        assert_eq!((probed.step, mark.exists()), (StepWord::Unchanged, true));
        assert_eq!(probed.outputs["stdout"], "out");
        analyze(json!({"run": "exit 1", "probe": true}), &none).unwrap_err();
    }

    #[test]
    fn the_end_is_judged_by_its_status_or_left_to_expressions() {
        let failed = apply(json!({"run": "echo why >&2; exit 3"})).unwrap();
        let failure = failed.verdict.failure.unwrap().to_string();
        assert_eq!(failure, "run /bin/sh -c 'echo why >&2; exit 3': exit status 3: why");
        assert_eq!(failed.outputs["exit_code"], 3, "outputs stand beside the failure");
        assert_eq!(apply(json!({"run": "exit 3", "ok_codes": [0, 3]})).unwrap().verdict.failure, None);
        let left =
            apply(json!({"run": "exit 3", "failed_when": false, "changed_when": "exit_code == 3"})).unwrap();
        assert_eq!(left.verdict.failed_when.as_deref(), Some("false"));
        assert_eq!(left.verdict.changed_when.as_deref(), Some("exit_code == 3"));
        assert!(apply(json!({"run": "true", "changed": false})).unwrap().unchanged);
        let late = apply(json!({"run": "sleep 600", "timeout": "50ms", "failed_when": false})).unwrap_err();
        assert_eq!(late.to_string(), "run /bin/sh -c 'sleep 600': it took too long and was ended");
    }

    #[test]
    fn a_failure_does_not_repeat_secrets() {
        let failed = apply(json!({"run": "echo hush >&2; exit 1", "sensitive": true})).unwrap();
        assert!(failed.verdict.sensitive);
        assert!(!failed.verdict.failure.unwrap().to_string().contains("hush"));
    }

    #[test]
    fn a_refresh_is_a_run_unless_it_ran_just_before() {
        let (state, host, blobs) = (StateId::from("s"), Host::new(), BTreeMap::new());
        let cx = Apply { state: &state, host: &host, blobs: Blobs(&blobs) };
        let params = read(json!({"run": "echo again"})).unwrap();
        let Refreshed::Done(applied) = Cmd.refresh(&params, &cx, None).unwrap() else { panic!("not run") };
        assert_eq!(applied.outputs["stdout"], "again");
        let after = Cmd.refresh(&params, &cx, Some(&Analysis::opaque(""))).unwrap();
        assert_eq!(after, Refreshed::NotNeeded);
    }
}

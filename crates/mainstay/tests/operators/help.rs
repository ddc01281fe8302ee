//! `--help` of every command, as one text: what it says is reviewed when it changes.

use std::fmt::Write;

use crate::command_line::program;

#[tokio::test]
async fn help_of_every_command() {
    let home = tempfile::tempdir().unwrap();
    let mut text = String::new();
    for path in [
        "",
        "dev",
        "hub",
        "agent",
        "token",
        "token create",
        "token list",
        "token revoke",
        "nodes",
        "nodes list",
        "nodes show",
        "nodes accept",
        "nodes label",
        "nodes revoke",
        "nodes remove",
        "run",
        "send",
        "messages",
        "runs",
        "runs list",
        "runs show",
        "runs watch",
        "runs retry",
        "runs cancel",
        "runs prune",
        "login",
        "status",
        "backup",
        "restore",
        "audit",
        "errors",
        "completions",
    ] {
        let mut command = program(home.path());
        let output = command.args(path.split_whitespace()).arg("--help").output().await.unwrap();
        assert!(output.status.success(), "{path}");
        writeln!(text, "$ mainstay {path} --help\n{}", String::from_utf8(output.stdout).unwrap()).unwrap();
    }
    insta::assert_snapshot!(text);
}

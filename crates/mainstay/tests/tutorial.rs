//! The commands in `docs/states.md`, run in order in an empty folder: what the page shows is what happens.
//!
//! A block of YAML or Jinja that begins with a comment of one word is a file of that name. In a `console` block a line after `$` is
//! run by a shell, and what follows is all that it writes; `…` stands for any text, alone on a line for any lines, and `[exit N]`
//! for its exit status.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Where the page puts things; here it is the test's own folder.
const FOLDER: &str = "/tmp/mainstay-tutorial";

#[test]
fn the_tutorial_is_true() {
    let page = include_str!("../../../docs/states.md");
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("target");
    fs::create_dir(&place).unwrap();
    let page = page.replace(FOLDER, place.to_str().unwrap());
    let mut commands = 0;
    for (language, text) in blocks(&page) {
        match language {
            "yaml" | "jinja" => {
                let (first, rest) = text.split_once('\n').unwrap();
                let name = first.trim_start_matches("# ");
                // A comment is part of YAML, and would be part of what a template gives.
                fs::write(folder.path().join(name), if language == "yaml" { &text } else { rest }).unwrap();
            }
            "console" => commands += console(&text, folder.path()),
            _ => {}
        }
    }
    assert!(commands >= 10, "{commands} commands were found");
}

/// The fenced blocks, with their languages.
fn blocks(page: &str) -> Vec<(&str, String)> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```") else { continue };
        let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        blocks.push((language, text.join("\n") + "\n"));
    }
    blocks
}

fn console(text: &str, folder: &Path) -> usize {
    let mut commands: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command, Vec::new())),
            (None, Some((_, expected))) => expected.push(line),
            (None, None) => panic!("output before a command: {line}"),
        }
    }
    for (command, expected) in &commands {
        let program = Path::new(env!("CARGO_BIN_EXE_mainstay")).parent().unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let ran = Command::new("sh")
            .args(["-c", &format!("{command} 2>&1")])
            .current_dir(folder)
            .env("PATH", format!("{}:{path}", program.display()))
            .env("MAINSTAY_DATA", folder.join("data"))
            .env("NO_COLOR", "1")
            .output()
            .unwrap();
        let mut said = String::from_utf8_lossy(&ran.stdout).into_owned();
        if !ran.status.success() {
            said.push_str(&format!("[exit {}]\n", ran.status.code().unwrap_or(-1)));
        }
        let lines: Vec<&str> = said.lines().collect();
        assert!(
            fits(expected, &lines),
            "$ {command}\n--- the page says\n{}\n--- it is\n{said}",
            expected.join("\n")
        );
    }
    commands.len()
}

fn fits(expected: &[&str], lines: &[&str]) -> bool {
    match expected.split_first() {
        None => lines.is_empty(),
        Some((&"…", rest)) => (0..=lines.len()).any(|skipped| fits(rest, &lines[skipped..])),
        Some((first, rest)) => {
            lines.split_first().is_some_and(|(line, others)| line_fits(first, line) && fits(rest, others))
        }
    }
}

fn line_fits(expected: &str, line: &str) -> bool {
    let mut parts = expected.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let mut is_open = false;
    for part in parts {
        is_open = part.is_empty();
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    is_open || rest.is_empty()
}

#[test]
fn the_page_and_the_output_are_compared_line_by_line() {
    assert!(fits(&["a", "…", "b"], &["a", "x", "y", "b"]));
    assert!(fits(&["── … · 2 unchanged"], &["── vm · 2 unchanged"]));
    assert!(!fits(&["── … · 2 unchanged"], &["── vm · 3 unchanged"]));
    assert!(!fits(&["a"], &["a", "b"]));
    assert!(!fits(&["a", "b"], &["a"]));
}

#[test]
fn the_page_of_modules_is_what_the_program_says() {
    let made = Command::new(env!("CARGO_BIN_EXE_mainstay")).args(["modules", "--markdown"]).output().unwrap();
    let page = include_str!("../../../docs/modules.md");
    // Not shown as a difference of 700 lines: the command makes the page.
    assert!(
        String::from_utf8_lossy(&made.stdout) == page,
        "docs/modules.md is out of date: write it anew with `mainstay modules --markdown`"
    );
}

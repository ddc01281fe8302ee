//! Having the tests run in their scratch roots, and telling how they went.

use std::process::ExitCode;

use crate::Test;
use crate::scratch::{Extra, PROGRAM, Scratch};

const OPENRC: Extra =
    Extra { name: "openrc", script: "apt-get install -y -q --no-install-recommends openrc && apt-get clean" };
const DNF: Extra = Extra {
    name: "dnf",
    script: "apt-get install -y -q --no-install-recommends dnf rpm createrepo-c && apt-get clean",
};

pub fn run(tests: &[Test]) -> ExitCode {
    println!("\nrunning {} tests", tests.len());
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    for world in ["systemd", "openrc", "dnf"] {
        let tests: Vec<&Test> = tests.iter().filter(|test| test.world == world).collect();
        if tests.is_empty() {
            continue;
        }
        match run_in(world, &tests) {
            Ok(output) => {
                print!("{output}");
                let ended = |test: &Test, how: &str| {
                    output.lines().any(|line| line == format!("test {} ... {how}", test.name))
                };
                for test in tests {
                    if ended(test, "ok") {
                        passed += 1;
                    } else {
                        failed += 1;
                        if !ended(test, "FAILED") {
                            println!("test {} ... FAILED: it did not end", test.name);
                        }
                    }
                }
            }
            Err(why) => {
                tests.iter().for_each(|test| println!("test {} ... ignored, {why}", test.name));
                ignored += tests.len();
            }
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; 0 filtered out"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the tests said, or why they cannot be run here.
fn run_in(world: &str, tests: &[&Test]) -> Result<String, String> {
    let scratch = match world {
        "openrc" => Scratch::with(&OPENRC),
        "dnf" => Scratch::with(&DNF),
        _ => Scratch::new(),
    }?;
    let names: Vec<&str> = tests.iter().map(|test| test.name).collect();
    let command = format!("/{PROGRAM} --inside {world} {}", names.join(" "));
    let said = match world {
        "systemd" => scratch.boot(&command),
        // What it would start belongs to a whole machine; what it makes in /run is what its tools need.
        "openrc" => scratch.enter(&format!("rm -f /etc/runlevels/*/* && openrc default && exec {command}")),
        _ => scratch.enter(&format!("exec {command}")),
    }
    .map_err(|error| format!("the scratch root cannot be used: {error}"))?;
    match said.lines().any(|line| line == "done") || said.contains("test ") {
        true => Ok(said.lines().filter(|line| *line != "done").map(|line| format!("{line}\n")).collect()),
        false => Err(format!("{world} does not come up in a scratch root here: {}", said.trim())),
    }
}

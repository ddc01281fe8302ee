//! Extension modules of a states file, on a node that is reached through a hub.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use crate::lab::Lab;

const SHELL: &[u8] = include_bytes!("../../../../examples/extensions/flag.sh");

/// A node that has put a flag up already, by its own copy of the program.
struct Site {
    lab: Lab,
    file: String,
    colour: PathBuf,
    /// The node's copy.
    kept: PathBuf,
}

impl Site {
    fn new() -> Self {
        let lab = Lab::new(&["a"]);
        let digest: String = Sha256::digest(SHELL).iter().map(|byte| format!("{byte:02x}")).collect();
        let colour = lab.path("colour");
        fs::write(lab.path("flag.sh"), SHELL).unwrap();
        let file = lab.path("site.yaml");
        let text = format!(
            "vars: {{word: green}}\nextensions:\n  flag: {{path: flag.sh, sha256: {digest}}}\n\
             states:\n  {}:\n    flag: {{word: '{{{{ word }}}}'}}\n",
            colour.display()
        );
        fs::write(&file, text).unwrap();
        let kept = lab.path("a/state/extensions").join(digest);
        let site = Self { file: file.to_str().unwrap().to_owned(), lab, colour, kept };
        site.lab.run(&["up", &site.file, "-t", "a", "--yes"]).exits(0);
        assert_eq!(site.read(), "green\n");
        site
    }

    fn read(&self) -> String {
        fs::read_to_string(&self.colour).unwrap()
    }

    /// Somebody puts another program in the copy's place, with its rights.
    fn tamper(&self) {
        let program = format!("#!/bin/sh\ntouch {}\necho '{{}}'\n", self.lab.path("executed").display());
        fs::remove_file(&self.kept).unwrap();
        fs::write(&self.kept, program).unwrap();
        fs::set_permissions(&self.kept, fs::Permissions::from_mode(0o500)).unwrap();
    }

    #[track_caller]
    fn was_not_executed(&self) {
        assert!(!self.lab.path("executed").exists(), "what was not verified was executed");
    }

    fn latest_run(&self) -> String {
        let runs = self.lab.run(&["runs", "list", "--json", "--limit", "1"]).exits(0).json();
        runs[0]["run"].as_str().unwrap().to_owned()
    }
}

#[test]
fn a_node_gets_the_programs_with_its_states() {
    let site = Site::new();
    assert_eq!(fs::read(&site.kept).unwrap(), SHELL, "it ran from the node's own copy");
    site.lab.run(&["plan", &site.file, "-t", "a"]).exits(0);
}

#[test]
fn a_program_that_was_altered_on_the_node_before_a_plan_is_replaced() {
    let site = Site::new();
    site.tamper();
    let plan = site.lab.run(&["plan", &site.file, "-t", "a", "-e", "word=blue"]).exits(3);
    assert!(plan.out.contains("word: green → blue"), "{}", plan.out);
    site.was_not_executed();
    assert_eq!(fs::read(&site.kept).unwrap(), SHELL, "the catalog's program is back");
}

#[test]
fn a_program_that_was_altered_on_the_node_after_the_plan_is_replaced() {
    let site = Site::new();
    site.lab.run(&["plan", &site.file, "-t", "a", "-e", "word=blue"]).exits(3);
    let run = site.latest_run();
    site.tamper();
    site.lab.run(&["runs", "approve", &run, "--yes"]).exits(0);
    site.was_not_executed();
    assert_eq!(site.read(), "blue\n");
    assert_eq!(fs::read(&site.kept).unwrap(), SHELL, "the catalog's program is back");
}

#[test]
fn programs_in_a_place_that_others_may_write_are_refused_and_named() {
    let site = Site::new();
    site.lab.run(&["plan", &site.file, "-t", "a", "-e", "word=blue"]).exits(3);
    let run = site.latest_run();
    fs::set_permissions(site.kept.parent().unwrap(), fs::Permissions::from_mode(0o777)).unwrap();
    let plan = ["plan", &site.file, "-t", "a", "-e", "word=blue"];
    for words in [&plan[..], &["runs", "approve", &run, "--yes"]] {
        let said = site.lab.run(words).exits(1);
        let said = format!("{}{}", said.out, said.err);
        assert!(said.contains("load the extension flag"), "{said}");
        assert!(said.contains("may be written by others; it is not executed"), "{said}");
    }
    assert_eq!(site.read(), "green\n");
}

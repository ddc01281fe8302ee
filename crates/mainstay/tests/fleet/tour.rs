//! `mainstay dev`: what a newcomer types first.

use nix::sys::signal::Signal;

use crate::lab::{Lab, eventually, processes_with};

#[test]
fn the_tour_shows_three_nodes_runs_on_all_and_leaves_nothing_behind() {
    let lab = Lab::bare();
    let said = lab.begin_as(lab.command().args(["dev", "--once"])).end().exits(0);
    for node in ["node1", "node2", "node3"] {
        assert!(
            said.out.lines().any(|line| line.starts_with(node) && line.contains("online")),
            "{}",
            said.out
        );
    }
    assert!(said.out.contains("Hello from") && said.err.contains("3 ok"), "{}\n{}", said.out, said.err);
    let data = lab.path("");
    assert_eq!(processes_with(data.to_str().unwrap()), Vec::<i32>::new(), "processes are left");
    let left: Vec<_> = std::fs::read_dir(data).unwrap().flatten().map(|entry| entry.file_name()).collect();
    let left = left.iter().filter_map(|name| name.to_str()).filter(|name| name.starts_with("mainstay-"));
    assert_eq!(left.collect::<Vec<_>>(), Vec::<&str>::new(), "its directory is left");
}

#[test]
fn a_dev_that_is_killed_takes_its_fleet_with_it_and_its_directory_works_again() {
    let lab = Lab::bare();
    let data = lab.path("dev");
    let start = || lab.begin_as(lab.command().arg("dev").arg("--nodes").arg("1").arg("--dir").arg(&data));
    let found = || lab.begin_as(lab.command().args(["run", "-t", "node1", "--", "true"])).end().status;
    let first = start();
    eventually("commands find the fleet without flags", || (found() == Some(0)).then_some(()));

    // A second one in the same directory must not touch the first.
    let second = start().end().exits(2);
    assert!(second.err.contains("another `mainstay dev`"), "{}", second.err);
    assert_eq!(found(), Some(0));

    first.signal(Signal::SIGKILL);
    let inside = format!("{}/", data.display());
    eventually("its hub and agent end", || processes_with(&inside).is_empty().then_some(()));
    assert_ne!(found(), Some(0));

    let again = start();
    eventually("it works again", || (found() == Some(0)).then_some(()));
    // What an answer prints on the hub's console is seen here.
    let message = lab.path("console.json");
    let text =
        r#"{"toNode": "node1", "method": "cmd", "methodArgs": ["echo", "heard"], "replyMethod": "console"}"#;
    std::fs::write(&message, text).unwrap();
    lab.begin_as(lab.command().arg("send").arg(&message)).end().exits(0);
    eventually("the answer is shown", || again.so_far().contains("heard").then_some(()));
    again.signal(Signal::SIGINT);
    again.end().exits(0);
    assert_eq!(processes_with(&inside), Vec::<i32>::new());
}

//! Who may be in the fleet: tokens, acceptance, and revocation.

use std::time::{Duration, Instant};

use crate::lab::{Lab, eventually};

#[test]
fn a_token_is_good_for_what_it_says_and_an_accepted_node_needs_none() {
    let mut lab = Lab::new(&[]);
    let once = lab.token(&["--label", "role=web"]);
    let attempt = |lab: &Lab, name: &str, token: &str| {
        let mut command = lab.agent_command(name);
        lab.begin_as(command.args(["--join", token])).end()
    };
    let mut command = lab.agent_command("a");
    lab.start_agent_as("a", command.args(["--join", &once]));
    lab.until_online("a", true);
    assert_eq!(lab.node("a").unwrap()["labels"]["role"], "web");

    let refused = attempt(&lab, "b", &once).exits(4);
    assert!(refused.err.contains("used as often"), "{}", refused.err);
    let bound = lab.token(&["--name", "boss"]);
    assert!(attempt(&lab, "b", &bound).exits(4).err.contains("bound to the name boss"));
    let mut nameless = lab.command();
    nameless.arg("agent").arg("--data").arg(lab.path("boss")).args(["--join", &bound]);
    lab.start_agent_as("boss", &mut nameless);
    lab.until_online("boss", true);
    let taken = lab.token(&[]);
    assert!(attempt(&lab, "other", &taken.replace("mst1", "mst9")).exits(2).err.contains("join token"));
    let mut imposter = lab.agent_command("imposter");
    let imposter = lab.begin_as(imposter.args(["--name", "a", "--join", &taken])).end();
    assert!(imposter.exits(2).err.contains("--name"), "a name is given once");
    let short = lab.token(&["--lifetime", "1s"]);
    let until = Instant::now() + Duration::from_millis(1_100);
    eventually("it expires", || (Instant::now() >= until).then_some(()));
    assert!(attempt(&lab, "late", &short).exits(4).err.contains("expired"));
    assert_eq!(lab.nodes().len(), 2, "nobody else got in");

    // Without a token: it waits, by its key, until an operator says yes.
    let status = lab.run(&["status", "--json"]).exits(0).json();
    let fingerprint = status[0]["ca_fingerprint"].as_str().expect("the fingerprint").to_owned();
    let link = format!("127.0.0.1:{}", lab.port());
    let mut command = lab.agent_command("c");
    lab.start_agent_as("c", command.args(["--link", &link, "--ca-fingerprint", &fingerprint]));
    eventually("it waits", || lab.node("c").filter(|node| node["state"] == "waiting").map(|_| ()));
    lab.run(&["run", "-t", "c", "--", "true"]).exits(2);
    lab.run(&["nodes", "accept", "c"]).exits(0);
    lab.until_online("c", true);
    lab.run(&["run", "-t", "c", "--", "true"]).exits(0);
}

#[test]
fn an_agent_that_is_killed_while_it_joins_joins_with_the_same_token() {
    let mut lab = Lab::new(&[]);
    let token = lab.token(&[]);
    // Whenever it is killed, the token is either unused or used by this very key.
    for milliseconds in [1, 60, 120, 180, 240] {
        let mut command = lab.agent_command("a");
        lab.start_agent_as("a", command.args(["--join", &token]));
        let until = Instant::now() + Duration::from_millis(milliseconds);
        eventually("its time comes", || (Instant::now() >= until).then_some(()));
        lab.agent("a").crash();
    }
    let mut command = lab.agent_command("a");
    lab.start_agent_as("a", command.args(["--join", &token]));
    lab.until_online("a", true);
    assert_eq!(lab.nodes().len(), 1);
    // And from now on without it.
    lab.agent("a").stop();
    lab.start_agent("a");
    lab.until_online("a", true);
    // Or with one in a file that is gone, as a service's unit may still say.
    lab.agent("a").stop();
    let gone = format!("@{}", lab.path("gone").display());
    let mut command = lab.agent_command("a");
    lab.start_agent_as("a", command.args(["--join", &gone]));
    lab.until_online("a", true);
}

#[test]
fn a_revoked_node_is_cut_within_five_seconds_and_for_good() {
    let mut lab = Lab::new(&["a", "b"]);
    let run = lab.detach(&["-t", "a", "--", "sleep", "98705.25"]);
    let began = Instant::now();
    lab.run(&["nodes", "revoke", "a", "--yes"]).exits(0);
    let log = lab.path("a.log");
    eventually("its link ends", || {
        std::fs::read_to_string(&log).unwrap().contains("link down").then_some(())
    });
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(lab.outcome(&run, "a"), "lost");
    assert_eq!(lab.node("a").unwrap()["state"], "revoked");

    lab.run(&["run", "-t", "a", "--", "true"]).exits(2);
    lab.run(&["nodes", "accept", "a"]).exits(2);
    lab.agent("a").stop();
    // Neither a restart nor another token brings this key back, on this hub or on one that was restarted.
    let token = lab.token(&[]);
    lab.hub().crash();
    lab.start_hub();
    let mut command = lab.agent_command("a");
    lab.start_agent_as("a", command.args(["--join", &token]));
    let refused = || std::fs::read_to_string(&log).unwrap().matches("this node was revoked").count() >= 2;
    eventually("it is refused again", || refused().then_some(()));
    assert_eq!(lab.node("a").unwrap()["state"], "revoked");
    lab.until_online("b", true);
    lab.run(&["run", "-t", "*", "--", "true"]).exits(0);
}

//! `mainstay plan` and `up` over ssh.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::server::{HOSTS, PATIENCE, Ran, Server, address, processes_with, start, wait_until};

/// An inventory in which each host has a folder of its own, and states that write there.
fn write_site(server: &Server) {
    let mut inventory = String::from("hosts:\n");
    for host in 0..HOSTS {
        let dir = server.at(&format!("host{host}/etc"));
        fs::create_dir_all(&dir).unwrap();
        let role = if host < 2 { "db" } else { "web" };
        inventory.push_str(&format!(
            "  h{host}: {{address: {}, labels: {{role: {role}}}, vars: {{dir: {}}}}}\n",
            address(host),
            dir.display()
        ));
    }
    fs::write(server.at("hosts.yaml"), inventory).unwrap();
    let site = "
states:
  conf:
    file: {path: '{{ dir }}/app.conf', content: \"port = {{ port }}\\n\", mode: '0640'}
  note:
    cmd: {run: \"echo noted >> {{ dir }}/notes\"}
    onchanges: [conf]
vars: {port: 80}
";
    fs::write(server.at("site.yaml"), site).unwrap();
}

fn summaries(ran: &Ran) -> Vec<serde_json::Value> {
    ran.json().into_iter().filter(|line| line["event"] == "summary").collect()
}

#[test]
fn ten_hosts_are_planned_brought_up_and_found_stable() {
    let Some(server) = start("ten_hosts_are_planned_brought_up_and_found_stable") else { return };
    write_site(&server);
    let warm = server.run(&["plan", "site.yaml", "--inventory", "hosts.yaml", "-t", "h1"]);
    assert_eq!(warm.code, Some(3), "{warm:?}");
    let plan = server.run(&["plan", "site.yaml", "--inventory", "hosts.yaml"]);
    assert_eq!(plan.code, Some(3), "{plan:?}");
    assert!(plan.stdout.contains("+port = 80"), "{plan:?}");
    assert!(!server.at("host3/etc/app.conf").exists());
    let up = server.run(&["up", "site.yaml", "--inventory", "hosts.yaml", "--yes", "--json"]);
    assert_eq!(up.code, Some(0), "{up:?}");
    let ends = summaries(&up);
    assert_eq!(ends.len(), usize::from(HOSTS));
    for end in &ends {
        assert_eq!((&end["changed"], &end["result"]), (&2.into(), &"stable".into()), "{end}");
    }
    for host in 0..HOSTS {
        let read = |name: &str| fs::read_to_string(server.at(&format!("host{host}/etc/{name}"))).unwrap();
        assert_eq!((read("app.conf").as_str(), read("notes").as_str()), ("port = 80\n", "noted\n"));
    }
    let again = server.run(&["up", "site.yaml", "--inventory", "hosts.yaml", "--yes", "--json"]);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(summaries(&again).iter().all(|end| end["changed"] == 0 && end["cycles"] == 0), "{again:?}");
    assert_eq!(server.run(&["plan", "site.yaml", "--inventory", "hosts.yaml"]).code, Some(0));
    let some =
        server.run(&["plan", "site.yaml", "--inventory", "hosts.yaml", "-t", "role=db", "-e", "port:=81"]);
    assert!(some.stdout.contains("h[0-1] (2)") || some.stdout.contains("h0"), "{some:?}");
    assert!(some.stdout.contains("-port = 80") && some.stdout.contains("+port = 81"), "{some:?}");
}

#[test]
fn one_that_cannot_be_reached_is_set_aside_and_the_others_go_on() {
    let Some(server) = start("one_that_cannot_be_reached_is_set_aside_and_the_others_go_on") else { return };
    write_site(&server);
    // It refuses to be known, so it is as good as gone.
    server.know([1, 2].into_iter());
    let up = server.run(&["up", "site.yaml", "--inventory", "hosts.yaml", "-t", "h1,h2,h3", "--yes"]);
    assert_eq!(up.code, Some(1), "{up:?}");
    assert!(up.stderr.contains("Set aside: h3: "), "{up:?}");
    assert!(server.at("host1/etc/app.conf").exists() && server.at("host2/etc/app.conf").exists());
}

#[test]
fn what_a_state_runs_ends_with_the_client() {
    let Some(server) = start("what_a_state_runs_ends_with_the_client") else { return };
    let sign = format!("3000.{}", std::process::id());
    fs::write(server.at("slow.yaml"), format!("states:\n  slow:\n    cmd: {{run: 'sleep {sign}'}}\n"))
        .unwrap();
    let mut client = server.mainstay(&["up", "slow.yaml", "--ssh", &address(1), "--yes"]).spawn().unwrap();
    wait_until("it runs", PATIENCE, || !processes_with(&format!("sleep {sign}")).is_empty());
    client.kill().unwrap();
    client.wait().unwrap();
    wait_until("all is gone", Duration::from_secs(2), || processes_with(&sign).is_empty());
}

#[test]
fn a_second_ctrl_c_ends_what_runs_there_and_names_it() {
    let Some(server) = start("a_second_ctrl_c_ends_what_runs_there_and_names_it") else { return };
    let sign = format!("3100.{}", std::process::id());
    // The second does not hear that it shall end.
    for run in [format!("sleep {sign}"), format!("trap '' TERM; while :; do sleep {sign}; done")] {
        let states =
            format!("states:\n  slow:\n    cmd: {{run: \"{run}\"}}\n  last:\n    cmd: {{run: 'true'}}\n");
        fs::write(server.at("slow.yaml"), states).unwrap();
        let mut command = server.mainstay(&["up", "slow.yaml", "--ssh", &address(1), "--yes"]);
        let mut client = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_until("it runs", PATIENCE, || !processes_with(&format!("sleep {sign}")).is_empty());
        let pid = Pid::from_raw(client.id() as i32);
        let mut stderr = BufReader::new(client.stderr.take().unwrap());
        let mut heard = String::new();
        kill(pid, Signal::SIGINT).unwrap();
        while !heard.contains("Cancelled: slow may end") {
            assert_ne!(stderr.read_line(&mut heard).unwrap(), 0, "{heard}");
        }
        kill(pid, Signal::SIGINT).unwrap();
        stderr.read_to_string(&mut heard).unwrap();
        assert!(heard.contains("interrupted: slow ended in the middle, 1 not reached"), "{heard}");
        assert_eq!(client.wait_with_output().unwrap().status.code(), Some(1));
        wait_until("all is gone", Duration::from_secs(2), || processes_with(&sign).is_empty());
    }
}

#[test]
fn a_wrong_file_touches_nothing() {
    let Some(server) = start("a_wrong_file_touches_nothing") else { return };
    fs::write(server.at("wrong.yaml"), "states:\n  a:\n    file: {pth: /x}\n  b:\n    nonsense: {}\n")
        .unwrap();
    let up = server.run(&["up", "wrong.yaml", "--ssh", &address(1), "--yes"]);
    assert_eq!(up.code, Some(2), "{up:?}");
    assert!(up.stderr.contains("wrong.yaml:3:") && up.stderr.contains("wrong.yaml:5:"), "{up:?}");
    assert!(!server.at("cache").exists(), "a host was touched");
}

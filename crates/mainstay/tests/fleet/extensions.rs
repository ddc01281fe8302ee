//! Extension modules of a states file, on a node that is reached through a hub.

use std::fs;

use sha2::{Digest, Sha256};

use crate::lab::Lab;

const SHELL: &[u8] = include_bytes!("../../../../examples/extensions/flag.sh");

#[test]
fn a_node_gets_the_programs_with_its_states() {
    let lab = Lab::new(&["a"]);
    let digest: String = Sha256::digest(SHELL).iter().map(|byte| format!("{byte:02x}")).collect();
    let (colour, site) = (lab.path("colour"), lab.path("site.yaml"));
    fs::write(lab.path("flag.sh"), SHELL).unwrap();
    let text = format!(
        "extensions:\n  flag: {{path: flag.sh, sha256: {digest}}}\nstates:\n  {}:\n    flag: {{word: green}}\n",
        colour.display()
    );
    fs::write(&site, text).unwrap();
    let site = site.to_str().unwrap();
    lab.run(&["up", site, "-t", "a", "--yes"]).exits(0);
    assert_eq!(fs::read_to_string(&colour).unwrap(), "green\n");
    let kept = lab.path("a/state/extensions").join(&digest);
    assert_eq!(fs::read(kept).unwrap(), SHELL, "it ran from the node's own copy");
    lab.run(&["plan", site, "-t", "a"]).exits(0);
}

//! The layer rule of ARCHITECTURE.md, checked against what cargo itself knows.

use std::collections::{BTreeMap, BTreeSet};

/// What each crate may use of the others. A crate that is missing here may not exist.
const ALLOWED: [(&str, &[&str]); 10] = [
    ("mainstay-core", &[]),
    ("mainstay-store", &["mainstay-core"]),
    ("mainstay-link", &["mainstay-core"]),
    ("mainstay-module", &["mainstay-core"]),
    ("mainstay-node", &["mainstay-core", "mainstay-store", "mainstay-link", "mainstay-module"]),
    (
        "mainstay-control",
        &["mainstay-core", "mainstay-store", "mainstay-link", "mainstay-module", "mainstay-node"],
    ),
    (
        "mainstay",
        &[
            "mainstay-core",
            "mainstay-store",
            "mainstay-link",
            "mainstay-module",
            "mainstay-node",
            "mainstay-control",
        ],
    ),
    ("mainstay-sim", &["mainstay-core", "mainstay-store"]),
    ("example-tool", &["mainstay"]),
    (
        "xtask",
        &[
            "mainstay",
            "mainstay-core",
            "mainstay-store",
            "mainstay-link",
            "mainstay-node",
            "mainstay-control",
            "mainstay-sim",
        ],
    ),
];

/// `core` is values and decisions: nothing that runs, waits, or asks the system for anything.
const NOT_IN_CORE: [&str; 7] = ["tokio", "rusqlite", "rustls", "nix", "getrandom", "rand", "futures-util"];

#[test]
fn crates_use_only_what_is_below_them() {
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata runs");
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    let members: BTreeSet<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        let Some(may) = allowed.get(package.name.as_str()) else {
            wrong.push(format!("{} has no place in the layers", package.name));
            continue;
        };
        // Tests may look further: they prove things about the whole.
        let used = package
            .dependencies
            .iter()
            .filter(|used| used.kind != cargo_metadata::DependencyKind::Development);
        for used in used {
            if members.contains(used.name.as_str()) && !may.contains(&used.name.as_str()) {
                wrong.push(format!("{} uses {}", package.name, used.name));
            }
            if package.name.as_str() == "mainstay-core" && NOT_IN_CORE.contains(&used.name.as_str()) {
                wrong.push(format!("core uses {}", used.name));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

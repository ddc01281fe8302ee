//! Catalogs that go through a hub: what no message carries is said before any node is asked.

use std::collections::BTreeMap;

use mainstay_control::MAX_RECORD;
use mainstay_control::view::{Problem, ProblemKind};
use mainstay_core::state::catalog::{Catalog, CatalogDigest};
use mainstay_node::method::state::parcel::{self, MAX_CATALOG};

use crate::up::rollout::{Known, Source};

/// What a run's record holds besides the catalog and the names of its nodes: its own fields, and the seal.
const BESIDE: usize = 4 << 10;

/// Beside each node's name: how a list marks a text.
const PER_NAME: usize = 5;

/// A source of which the hub must be able to carry every catalog.
pub struct Carried<'a>(pub &'a dyn Source);

impl Source for Carried<'_> {
    fn catalogs(&self, machines: &[Known<'_>]) -> Result<Vec<Catalog>, Problem> {
        let catalogs = self.0.catalogs(machines)?;
        let all = names_size(machines.iter());
        let is_small = |catalog: &Catalog| catalog.to_bytes().len() + all + BESIDE <= MAX_RECORD;
        let mut last: Option<&Catalog> = None;
        let mut in_doubt: BTreeMap<CatalogDigest, (&Catalog, Vec<&Known<'_>>)> = BTreeMap::new();
        let mut last_is_small = false;
        for (known, catalog) in machines.iter().zip(&catalogs) {
            // Most machines have what the one before them has.
            if last != Some(catalog) {
                (last, last_is_small) = (Some(catalog), is_small(catalog));
            }
            if !last_is_small {
                in_doubt.entry(catalog.digest()).or_insert_with(|| (catalog, Vec::new())).1.push(known);
            }
        }
        // They share a run, as at the desk.
        match in_doubt.values().find_map(|(catalog, machines)| too_large(catalog, machines)) {
            Some(problem) => Err(problem),
            None => Ok(catalogs),
        }
    }
}

fn names_size<'a>(machines: impl Iterator<Item = &'a Known<'a>>) -> usize {
    machines.map(|known| known.name.len() + PER_NAME).sum()
}

fn too_large(catalog: &Catalog, machines: &[&Known<'_>]) -> Option<Problem> {
    let plain = catalog.to_bytes().len();
    let packed = match parcel::pack(catalog) {
        Ok(packed) => packed.len(),
        Err(error) => {
            let message = format!("the catalog cannot be packed: {error}");
            return Some(Problem::new(ProblemKind::Internal, message));
        }
    };
    let room = MAX_RECORD.saturating_sub(BESIDE + names_size(machines.iter().copied()));
    let size = if packed > room {
        format!("{} compressed, and a message has room for {}", kib(packed), kib(room))
    } else if plain as u64 > MAX_CATALOG {
        format!("{}, and a node takes {}", kib(plain), kib(MAX_CATALOG as usize))
    } else {
        return None;
    };
    let whose = match machines {
        [] => return None,
        [one] => one.name.to_owned(),
        [first, rest @ ..] => format!("{} and {} more", first.name, rest.len()),
    };
    let files: usize = catalog.blobs.values().map(Vec::len).sum();
    let message = format!("the states of {whose} are too large for a hub: they are {size}");
    let problem = Problem::new(ProblemKind::Invalid, message)
        .hint("give each node only what is for it, with `targets` in the states file; or make several states files of it")
        .hint("--ssh, and --local on the node, have no such limit");
    Some(match files {
        0 => problem,
        // They travel with the states, so it is no help to move a text from `content` to a file.
        files => problem.hint(format!(
            "{} of it before compression are files beside the states file: `archive` and `git` fetch what is large on the node",
            kib(files)
        )),
    })
}

fn kib(bytes: usize) -> String {
    format!("{} KiB", bytes.div_ceil(1 << 10))
}

#[cfg(test)]
mod tests {
    use mainstay_core::state::Values;
    use mainstay_core::state::catalog::BlobId;

    use super::*;

    /// Its catalogs have a file of so many bytes that no compression makes smaller.
    struct Holding(usize);

    impl Source for Holding {
        fn catalogs(&self, machines: &[Known<'_>]) -> Result<Vec<Catalog>, Problem> {
            let mut bytes = vec![0; self.0];
            getrandom::fill(&mut bytes).unwrap();
            let blobs = BTreeMap::from([(BlobId::of(&bytes), bytes)]);
            Ok(machines.iter().map(|_| Catalog { blobs: blobs.clone(), ..Catalog::empty() }).collect())
        }
    }

    fn carried(bytes: usize, names: &[String]) -> Result<usize, Problem> {
        let (labels, none) = (BTreeMap::new(), Values::new());
        let known = |name| Known { name, labels: &labels, vars: &none, facts: &none };
        let machines: Vec<Known<'_>> = names.iter().map(|name| known(name.as_str())).collect();
        Carried(&Holding(bytes)).catalogs(&machines).map(|catalogs| catalogs.len())
    }

    #[test]
    fn what_no_message_carries_is_wrong_input_and_says_how_large_it_is() {
        let two = ["a".to_owned(), "b".to_owned()];
        assert_eq!(carried(470 << 10, &two).unwrap(), 2);
        let problem = carried(600 << 10, &two).unwrap_err();
        assert_eq!(problem.kind, ProblemKind::Invalid);
        assert_eq!(
            problem.message,
            "the states of a and 1 more are too large for a hub: they are 601 KiB compressed, and a message has room for 476 KiB"
        );
        assert!(problem.hints.iter().any(|hint| hint.starts_with("600 KiB of it")), "{:?}", problem.hints);
    }

    #[test]
    fn the_names_of_the_nodes_take_room_too() {
        let many: Vec<String> =
            (0..1_000).map(|number| format!("node-with-a-longer-name-{number:04}")).collect();
        assert_eq!(carried(430 << 10, &many).unwrap(), 1_000);
        assert!(carried(460 << 10, &many).is_err());
    }
}

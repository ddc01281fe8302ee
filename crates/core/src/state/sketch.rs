//! A short notation for catalogs in tests: a line for each state, its id first, then words.
//!
//! `KIND=a,b` is a requisite, `reads=a`, `order=first|last|N`, `parallel=true`, `failhard`, `unless`, `when`, `retry`, `module=m`,
//! `needs=r`, `provides=r`, `merge=k`; `refreshes` gives its module a refresh.

use std::collections::BTreeMap;
use std::time::Duration;

use super::catalog::{Catalog, Declared, OrderMode, Place, Rank, RequisiteKind, Retry};
use super::order::{Links, Order, OrderError};
use super::{StateIndex, Values};

#[derive(Clone, Debug)]
pub(super) struct Sketch {
    pub(super) catalog: Catalog,
    pub(super) links: Vec<Links>,
}

impl Sketch {
    pub(super) fn new(text: &str) -> Self {
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let ids: BTreeMap<&str, StateIndex> =
            lines.iter().enumerate().map(|(at, line)| (line.split(' ').next().unwrap(), at)).collect();
        let find = |names: &str| {
            let mut found: Vec<StateIndex> =
                names.split(',').map(|id| *ids.get(id).unwrap_or_else(|| panic!("no state {id}"))).collect();
            found.sort_unstable();
            found
        };
        let mut sketch = Self { catalog: empty(), links: Vec::new() };
        for (at, line) in lines.iter().enumerate() {
            let mut words = line.split_whitespace();
            let mut state = declared(words.next().unwrap(), at);
            let mut links = Links::default();
            for word in words {
                let (key, value) = word.split_once('=').unwrap_or((word, ""));
                let list = || value.split(',').map(str::to_owned).collect();
                match key {
                    "module" => state.module = value.into(),
                    "reads" => state.requisites.reads = find(value),
                    "failhard" => state.options.failhard = true,
                    "unless" => state.guards.unless = vec!["test".into()],
                    "when" => state.guards.when = Some("true".into()),
                    "parallel" => state.options.parallel = Some(value == "true"),
                    "become" => state.options.become_user = Some(value.into()),
                    "retry" => {
                        let retry = Retry {
                            attempts: 2,
                            interval: Duration::ZERO,
                            splay: Duration::ZERO,
                            until: None,
                        };
                        state.options.retry = Some(retry);
                    }
                    "order" => {
                        state.options.order = Some(match value {
                            "first" => Rank::First,
                            "last" => Rank::Last,
                            number => Rank::Number(number.parse().unwrap()),
                        });
                    }
                    "needs" => links.needs = list(),
                    "provides" => links.provides = list(),
                    "merge" => links.merge = Some(value.into()),
                    "refreshes" => links.refreshes = true,
                    kind => {
                        let kind = RequisiteKind::ALL.into_iter().find(|known| known.word() == kind);
                        let kind = kind.unwrap_or_else(|| panic!("no word {word}"));
                        state.requisites.of.insert(kind, find(value));
                    }
                }
            }
            sketch.catalog.states.push(state);
            sketch.links.push(links);
        }
        sketch
    }

    pub(super) fn mode(mut self, mode: OrderMode) -> Self {
        self.catalog.order = mode;
        self
    }

    pub(super) fn failhard(mut self) -> Self {
        self.catalog.failhard = true;
        self
    }

    pub(super) fn order(&self) -> Order {
        self.try_order().unwrap_or_else(|error| panic!("{error}"))
    }

    pub(super) fn try_order(&self) -> Result<Order, OrderError> {
        Order::build(&self.catalog, &self.links)
    }

    pub(super) fn at(&self, id: &str) -> StateIndex {
        self.catalog.find(id).unwrap_or_else(|| panic!("no state {id}"))
    }

    pub(super) fn id(&self, state: StateIndex) -> &str {
        self.catalog.states[state].id.as_str()
    }

    /// The ids in the order of turns, with blanks between.
    pub(super) fn sequence(&self) -> String {
        let ids: Vec<&str> = self.order().sequence.iter().map(|state| self.id(*state)).collect();
        ids.join(" ")
    }
}

pub(super) fn empty() -> Catalog {
    Catalog {
        name: "site".into(),
        order: OrderMode::Ansible,
        failhard: false,
        files: vec!["site.yaml".into()],
        scopes: vec![Values::new()],
        secrets: Values::new(),
        states: Vec::new(),
        left_out: BTreeMap::new(),
        blobs: BTreeMap::new(),
        extensions: BTreeMap::new(),
    }
}

pub(super) fn declared(id: &str, at: usize) -> Declared {
    Declared {
        id: id.into(),
        module: "file".into(),
        params: Values::new(),
        requisites: Default::default(),
        guards: Default::default(),
        options: Default::default(),
        scope: 0,
        locals: Values::new(),
        aliases: BTreeMap::new(),
        at: Place { file: 0, line: at + 1, column: 1 },
    }
}

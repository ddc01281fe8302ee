//! A configuration tool of one's own: hosts and groups with properties, modules in Rust, and a function that looks at a host and
//! declares its states. The program gets `run`, `plan` and `up`.
//!
//! ```no_run
//! use mainstay::tool::{Tool, json};
//!
//! fn main() -> std::process::ExitCode {
//!     Tool::new(|host, states| {
//!         states.add("motd", "file", json!({"path": "/etc/motd", "content": format!("{}\n", host.name)}));
//!     })
//!     .host("web1", "root@127.0.0.1:50001")
//!     .main()
//! }
//! ```
//!
//! The function is called once for each host, with the facts that the host told; it touches nothing. What it
//! declares is compiled as a states file is, so requisites, guards, templates and errors are the same. Over ssh the program's own binary is copied,
//! so its own modules work at the other end.

use mainstay_control::view::{Problem, ProblemKind};
use mainstay_core::state::Values;
use mainstay_core::state::catalog::{Catalog, OrderMode};
use mainstay_core::state::site::{FileEntry, Files, SiteInput};
use mainstay_module::Module;
use mainstay_module::registry::{Registry, builtin};
use serde::Serialize;
pub use serde_json::json;
use serde_json::{Map, Value};

use crate::up::inventory::Inventory;
use crate::up::rollout::{Known, Source};
use crate::up::site::{Folder, Modules, StatesFile};

type Configurator = dyn Fn(&Host<'_>, &mut States) + Sync;

pub struct Tool {
    configurator: Box<Configurator>,
    /// As an inventory file has them.
    inventory: Map<String, Value>,
    registry: Registry,
    order: OrderMode,
}

/// A host as the configurator sees it.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    pub name: &'a str,
    known: Known<'a>,
}

/// The states that a host shall have.
#[derive(Debug, Default)]
pub struct States {
    states: Map<String, Value>,
    repeated: Vec<String>,
}

/// A state just declared, for what it asks of others.
pub struct State<'a>(&'a mut Map<String, Value>);

impl Tool {
    /// `configurator` declares the states of one host. It is called for each host, before anything is changed.
    pub fn new(configurator: impl Fn(&Host<'_>, &mut States) + Sync + 'static) -> Self {
        Self {
            configurator: Box::new(configurator),
            inventory: Map::new(),
            registry: builtin(),
            order: OrderMode::default(),
        }
    }

    /// A host and its address for ssh: `[USER@]HOST[:PORT]`, or a name that the user's ssh configuration knows.
    pub fn host(mut self, name: &str, address: &str) -> Self {
        self.entry("hosts", name).insert("address".to_owned(), address.into());
        self
    }

    /// A property of one host; it wins over those of its groups.
    pub fn property(mut self, host: &str, name: &str, value: impl Into<Value>) -> Self {
        object(self.entry("hosts", host), "vars").insert(name.to_owned(), value.into());
        self
    }

    /// Some of the hosts, by name or glob. A group's name is a target for `-t`.
    pub fn group(mut self, name: &str, hosts: &[&str]) -> Self {
        self.entry("groups", name).insert("hosts".to_owned(), hosts.into());
        self
    }

    /// A property of all hosts of a group.
    pub fn group_property(mut self, group: &str, name: &str, value: impl Into<Value>) -> Self {
        object(self.entry("groups", group), "vars").insert(name.to_owned(), value.into());
        self
    }

    /// An option of ssh for all hosts, as `ssh -o` takes it.
    pub fn ssh_option(mut self, name: &str, value: &str) -> Self {
        object(&mut self.inventory, "options").insert(name.to_owned(), value.into());
        self
    }

    /// A module of one's own, beside those that every program has.
    pub fn module(mut self, module: impl Module) -> Self {
        self.registry = self.registry.with(module);
        self
    }

    pub fn order(mut self, order: OrderMode) -> Self {
        self.order = order;
        self
    }

    /// Runs the program with the process's arguments.
    pub fn main(self) -> std::process::ExitCode {
        crate::cli::tool_main(&self)
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn inventory(&self) -> Result<Inventory, Problem> {
        Inventory::parse("the program's hosts", &Value::Object(self.inventory.clone()).to_string())
    }

    fn entry(&mut self, kind: &str, name: &str) -> &mut Map<String, Value> {
        object(object(&mut self.inventory, kind), name)
    }

    fn catalog(&self, known: Known<'_>) -> Result<Catalog, Problem> {
        let mut states = States::default();
        (self.configurator)(&Host { name: known.name, known }, &mut states);
        if let Some(id) = states.repeated.first() {
            let message = format!("{}: the state {id:?} is declared twice", known.name);
            return Err(Problem::new(ProblemKind::Invalid, message));
        }
        let file = Declared { name: format!("{}.states", known.name), text: states.text(known.vars) };
        let input = SiteInput { file: file.name.clone(), order: Some(self.order), ..SiteInput::default() };
        let modules = Modules(&self.registry);
        let compiled = StatesFile::compile(&input, &file, &modules)?;
        compiled.catalogs(&[known])?.pop().ok_or_else(|| {
            Problem::new(ProblemKind::Internal, format!("{}: there is no catalog", known.name))
        })
    }
}

/// The object at this key, made if there is none.
fn object<'a>(map: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let value = map.entry(key).or_insert_with(|| Value::Object(Map::new()));
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it was made one")
}

impl Source for Tool {
    fn catalogs(&self, machines: &[Known<'_>]) -> Result<Vec<Catalog>, Problem> {
        machines.iter().map(|known| self.catalog(*known)).collect()
    }
}

impl Host<'_> {
    /// What the program said of this host and of its groups; null if there is no such property.
    pub fn property(&self, name: &str) -> &Value {
        self.known.vars.get(name).unwrap_or(&Value::Null)
    }

    /// A property that is a list of texts; empty if it is none.
    pub fn list(&self, name: &str) -> Vec<&str> {
        self.property(name).as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// What the host told of itself: `os`, `arch`, `memory_bytes` …; null if there is no such fact.
    pub fn fact(&self, name: &str) -> &Value {
        self.known.facts.get(name).unwrap_or(&Value::Null)
    }

    pub fn is_in(&self, group: &str) -> bool {
        self.known.labels.contains_key(group)
    }
}

impl States {
    /// Declares a state. What the parameters may be is told by `mainstay modules MODULE`; values that are no parameters of it
    /// are an error when the host's catalog is compiled, before anything is changed.
    pub fn add(&mut self, id: impl Into<String>, module: &str, params: impl Serialize) -> State<'_> {
        let id = id.into();
        if self.states.contains_key(&id) {
            self.repeated.push(id.clone());
        }
        let params = serde_json::to_value(params).unwrap_or(Value::Null);
        let state = object(&mut self.states, &id);
        state.insert(module.to_owned(), params);
        State(state)
    }

    fn text(&self, vars: &Values) -> String {
        let file = json!({"vars": vars, "states": self.states});
        serde_json::to_string_pretty(&file).expect("an object of values that JSON has")
    }
}

impl State<'_> {
    /// Comes after it, if it went well.
    pub fn require(self, id: &str) -> Self {
        self.target("require", id)
    }

    /// The same; and is refreshed if it changed.
    pub fn watch(self, id: &str) -> Self {
        self.target("watch", id)
    }

    /// Only if it changed.
    pub fn onchanges(self, id: &str) -> Self {
        self.target("onchanges", id)
    }

    /// Any other key of a state: `unless`, `onlyif`, `creates`, `when`, `retry`, `onfail` …
    pub fn set(self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }

    fn target(self, kind: &str, id: &str) -> Self {
        let list = self.0.entry(kind).or_insert_with(|| Value::Array(Vec::new()));
        if let Some(list) = list.as_array_mut() {
            list.push(id.into());
        }
        self
    }
}

/// A states file that was never on a disk. What its states name beside it lies in the folder in which the program runs.
struct Declared {
    name: String,
    text: String,
}

impl Files for Declared {
    fn read(&self, path: &str, limit: usize) -> Result<Vec<u8>, String> {
        if path == self.name { Ok(self.text.clone().into_bytes()) } else { Folder.read(path, limit) }
    }

    fn tree(&self, path: &str, limit: usize) -> Result<Vec<FileEntry>, String> {
        Folder.tree(path, limit)
    }

    fn env(&self, name: &str) -> Option<String> {
        Folder.env(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn known<'a>(labels: &'a BTreeMap<String, String>, vars: &'a Values, facts: &'a Values) -> Known<'a> {
        Known { name: "web1", labels, vars, facts }
    }

    #[test]
    fn what_is_declared_is_compiled_as_a_states_file_is() {
        let tool = Tool::new(|host, states| {
            for user in host.list("users") {
                states.add(format!("user-{user}"), "user", json!({"name": user}));
            }
            if host.fact("os") == "debian" {
                states
                    .add("motd", "file", json!({"path": "/etc/motd", "content": "hello"}))
                    .require("user-ann")
                    .set("when", "true");
            }
        });
        let labels = BTreeMap::new();
        let Value::Object(vars) = json!({"users": ["ann", "bob"]}) else { panic!() };
        let Value::Object(facts) = json!({"os": "debian"}) else { panic!() };
        let catalog = tool.catalogs(&[known(&labels, &vars, &facts)]).unwrap().remove(0);
        let ids: Vec<&str> = catalog.states.iter().map(|state| state.id.as_str()).collect();
        assert_eq!(ids.len(), 3);
        assert!(ids.contains(&"user-ann") && ids.contains(&"user-bob") && ids.contains(&"motd"));
        let motd = &catalog.states[catalog.find("motd").unwrap()];
        let required = motd.requisites.targets(mainstay_core::state::catalog::RequisiteKind::Require);
        assert_eq!(required, [catalog.find("user-ann").unwrap()]);
    }

    #[test]
    fn mistakes_are_told_before_anything_is_touched() {
        let (labels, vars, facts) = (BTreeMap::new(), Values::new(), Values::new());
        let wrong = |configurator: fn(&Host<'_>, &mut States)| {
            Tool::new(configurator).catalogs(&[known(&labels, &vars, &facts)]).unwrap_err().to_string()
        };
        let text = wrong(|_, states| {
            states.add("a", "file", json!({"path": "/x", "mood": "0644"}));
        });
        assert!(text.contains("mood") && text.contains("web1.states"), "{text}");
        let text = wrong(|_, states| {
            states.add("a", "file", json!({"path": "/x"})).require("nothing");
        });
        assert!(text.contains("nothing"), "{text}");
        let text = wrong(|_, states| {
            states.add("a", "file", json!({"path": "/x"}));
            states.add("a", "file", json!({"path": "/y"}));
        });
        assert!(text.contains("twice"), "{text}");
    }

    #[test]
    fn hosts_and_groups_are_an_inventory() {
        let tool = Tool::new(|_, _| {})
            .host("web1", "root@127.0.0.1:50001")
            .host("db1", "root@127.0.0.1:50002")
            .group("web", &["web*"])
            .group_property("web", "port", 80)
            .property("db1", "port", 5432)
            .ssh_option("StrictHostKeyChecking", "yes");
        let hosts = tool.inventory().unwrap().select(&[], &["web".to_owned()]).unwrap();
        assert_eq!(hosts.len(), 1);
        assert_eq!((hosts[0].name.as_str(), hosts[0].ssh.port), ("web1", Some(50001)));
        assert_eq!(hosts[0].vars["port"], 80);
    }
}

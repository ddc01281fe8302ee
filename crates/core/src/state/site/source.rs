//! A states file's shape: which parts there are, where each stands. What its values mean is not asked here.

use std::sync::Arc;

use super::problem::Problems;
use crate::near_miss::near_miss;
use crate::state::catalog::{OrderMode, Place};
use crate::state::schema::shown;
use crate::yaml::{Key, Position, Tree, Value};

const TOP: [&str; 10] =
    ["name", "order", "failhard", "vars", "secrets", "include", "states", "groups", "targets", "extensions"];

#[derive(Debug)]
pub(super) struct Source {
    /// Its number in the library.
    pub(super) number: usize,
    pub(super) path: String,
    pub(super) text: Arc<str>,
    pub(super) name: Option<(String, Place)>,
    pub(super) order: Option<OrderMode>,
    pub(super) failhard: bool,
    pub(super) vars: Vec<(Key, Tree)>,
    pub(super) secrets: Vec<(Key, Tree)>,
    pub(super) includes: Vec<Include>,
    /// `include` stands before `states`, and so do its states.
    pub(super) includes_first: bool,
    pub(super) states: Vec<Written>,
    pub(super) groups: Vec<(Key, Tree)>,
    /// There is none, or there are no targets at all.
    pub(super) targets: Option<Vec<(Key, Tree)>>,
    /// Where parts stand that only the first file may have.
    pub(super) top_only: Vec<(&'static str, Place)>,
    pub(super) extensions: Vec<(Key, Tree)>,
}

/// One entry of `include`.
#[derive(Debug)]
pub(super) struct Include {
    /// A text; the file's name.
    pub(super) file: Tree,
    pub(super) vars: Vec<(Key, Tree)>,
    /// `as`, a text.
    pub(super) prefix: Option<Tree>,
    /// It has `vars` or `as`.
    pub(super) is_own: bool,
}

/// A state as it stands in the file.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) id: Key,
    pub(super) entries: Vec<(Key, Tree)>,
}

impl Source {
    pub(super) fn read(number: usize, path: &str, text: Arc<str>, tree: Tree, problems: &Problems) -> Self {
        let mut source = Self {
            number,
            path: path.to_owned(),
            text,
            name: None,
            order: None,
            failhard: false,
            vars: Vec::new(),
            secrets: Vec::new(),
            includes: Vec::new(),
            includes_first: true,
            states: Vec::new(),
            groups: Vec::new(),
            targets: None,
            top_only: Vec::new(),
            extensions: Vec::new(),
        };
        let reader = Reader { number, problems };
        match tree.value {
            Value::Map(entries) => {
                let at = |name: &str| entries.iter().position(|(key, _)| key.name == name);
                source.includes_first = at("include") <= at("states");
                for (key, tree) in entries {
                    source.part(&reader, &key, tree);
                }
            }
            Value::Null => {}
            _ => {
                reader.note(tree.position, "a states file is a map with `states` and other parts in it", None)
            }
        }
        source
    }

    pub(super) fn place(&self, position: Position) -> Place {
        Place { file: self.number, line: position.line, column: position.column }
    }

    fn part(&mut self, reader: &Reader<'_>, key: &Key, tree: Tree) {
        if let Some(name @ ("name" | "order" | "failhard" | "targets")) =
            TOP.into_iter().find(|n| *n == key.name)
        {
            self.top_only.push((name, reader.place(key.position)));
        }
        match key.name.as_str() {
            "vars" => self.vars = reader.map(tree, "vars", "variables"),
            "secrets" => self.secrets = reader.map(tree, "secrets", "secrets"),
            "groups" => self.groups = reader.map(tree, "groups", "lists of states"),
            "extensions" => self.extensions = reader.map(tree, "extensions", "programs"),
            "targets" => self.targets = Some(reader.map(tree, "targets", "lists of states")),
            "states" => {
                let states = reader.map(tree, "states", "states");
                self.states = states.into_iter().filter_map(|(id, tree)| reader.state(id, tree)).collect();
            }
            "include" => {
                let items = match tree.value {
                    Value::List(items) => items,
                    Value::Null => Vec::new(),
                    _ => vec![tree],
                };
                self.includes = items.into_iter().filter_map(|item| reader.include(item)).collect();
            }
            "name" => match &tree.value {
                Value::Text(name) if is_name(name) => {
                    self.name = Some((name.clone(), reader.place(tree.position)));
                }
                _ => reader.note(
                    tree.position,
                    "`name` is letters, digits, `-`, `_` and `.`",
                    Some("it names the catalog on the machines".into()),
                ),
            },
            "order" => {
                self.order = match tree.as_text() {
                    Some("ansible") => Some(OrderMode::Ansible),
                    Some("justdoit") => Some(OrderMode::Justdoit),
                    Some("genius") => Some(OrderMode::Genius),
                    _ => {
                        reader.note(tree.position, "`order` is ansible, justdoit or genius", None);
                        None
                    }
                };
            }
            "failhard" => match tree.value {
                Value::Bool(value) => self.failhard = value,
                _ => reader.note(tree.position, "`failhard` is true or false", None),
            },
            name => {
                let hint = match near_miss(name, TOP) {
                    Some(near) => format!("did you mean {near}?"),
                    None => "states stand below `states`".into(),
                };
                reader.note(
                    key.position,
                    format!("there is no part {} of a states file", shown(name)),
                    Some(hint),
                );
            }
        }
    }
}

struct Reader<'a> {
    number: usize,
    problems: &'a Problems,
}

impl Reader<'_> {
    fn place(&self, position: Position) -> Place {
        Place { file: self.number, line: position.line, column: position.column }
    }

    fn note(&self, position: Position, message: impl Into<String>, hint: Option<String>) {
        self.problems.note(self.place(position), message, hint);
    }

    fn map(&self, tree: Tree, part: &str, of: &str) -> Vec<(Key, Tree)> {
        match tree.value {
            Value::Map(entries) => entries,
            Value::Null => Vec::new(),
            _ => {
                let message = format!("`{part}` is a map of names and {of}, not {}", kind(&tree));
                self.note(tree.position, message, None);
                Vec::new()
            }
        }
    }

    fn state(&self, id: Key, tree: Tree) -> Option<Written> {
        match tree.value {
            Value::Map(entries) => Some(Written { id, entries }),
            _ => {
                let message = format!("the state {} is a map, not {}", shown(&id.name), kind(&tree));
                self.note(id.position, message, Some("write a module with its parameters below it".into()));
                None
            }
        }
    }

    fn include(&self, tree: Tree) -> Option<Include> {
        match tree.value {
            Value::Text(_) => Some(Include { file: tree, vars: Vec::new(), prefix: None, is_own: false }),
            Value::Map(entries) => {
                let position = tree.position;
                let (mut file, mut vars, mut prefix, mut is_own) = (None, Vec::new(), None, false);
                for (key, tree) in entries {
                    match (key.name.as_str(), &tree.value) {
                        ("file", Value::Text(_)) => file = Some(tree),
                        ("as", Value::Text(_)) => {
                            (prefix, is_own) = (Some(tree), true);
                        }
                        ("vars", _) => (vars, is_own) = (self.map(tree, "vars", "variables"), true),
                        ("file" | "as", _) => {
                            self.note(tree.position, format!("`{}` must be a text", key.name), None);
                        }
                        (name, _) => {
                            let near = near_miss(name, ["file", "vars", "as"]);
                            let message = format!("an include has no {}", shown(name));
                            self.note(
                                key.position,
                                message,
                                Some(match near {
                                    Some(near) => format!("did you mean {near}?"),
                                    None => "it has file, vars and as".into(),
                                }),
                            );
                        }
                    }
                }
                if file.is_none() {
                    self.note(position, "the include names no `file`", None);
                }
                file.map(|file| Include { file, vars, prefix, is_own })
            }
            _ => {
                self.note(
                    tree.position,
                    "an include is a file's name, or a map with `file` and `vars`",
                    None,
                );
                None
            }
        }
    }
}

/// As states files call it.
pub(super) fn kind(tree: &Tree) -> &'static str {
    match tree.value {
        Value::Map(_) => "a map",
        Value::Float(_) => "a fraction",
        _ => tree.kind(),
    }
}

fn is_name(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !text.is_empty() && text.len() <= 100 && text.chars().all(is_plain)
}

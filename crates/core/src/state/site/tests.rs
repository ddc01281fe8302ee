//! Whole states files in, catalogs or the words of errors out.

mod composition;
mod editor;
mod errors;
mod hostile;
mod parameters;
mod requisites;

use serde_json::json;

use super::*;
use crate::frame::Facts;
use crate::state::catalog::{Declared, RequisiteKind};

/// Files in memory.
#[derive(Default)]
pub(super) struct Disk(BTreeMap<String, Vec<u8>>);

impl Disk {
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        Self(files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect())
    }
}

impl Files for Disk {
    fn read(&self, path: &str, limit: usize) -> Result<Vec<u8>, String> {
        let bytes = self.0.get(path).ok_or("No such file or directory")?;
        if bytes.len() > limit { Err("it is too large".into()) } else { Ok(bytes.clone()) }
    }

    fn tree(&self, path: &str, _: usize) -> Result<Vec<FileEntry>, String> {
        let below = format!("{path}/");
        let files = self.0.iter().filter_map(|(name, bytes)| {
            let kind = FileKind::File { bytes: bytes.clone(), executable: name.ends_with(".sh") };
            Some(FileEntry { path: name.strip_prefix(&below)?.to_owned(), kind })
        });
        let files: Vec<_> = files.collect();
        if files.is_empty() { Err("No such file or directory".into()) } else { Ok(files) }
    }

    fn env(&self, name: &str) -> Option<String> {
        (name == "TOKEN").then(|| "canary-env".into())
    }
}

/// Some modules, each like one of the real ones in what the compiler asks.
pub(super) struct Table;

impl ModuleTable for Table {
    fn module(&self, name: &str) -> Option<ModuleSchema> {
        let text = || json!({"type": ["string", "null"]});
        let (properties, identity, refreshes) = match name {
            "file" => (
                json!({
                    "path": {"type": "string"}, "content": text(), "owner": text(),
                    "mode": {"type": ["string", "null"], "pattern": "^[0-7]{3,4}$", "description": "Permission bits in octal, as 0644."},
                    "source": {"type": ["string", "null"], "x-mainstay": "blob"},
                    "template": {"type": ["string", "null"], "x-mainstay": "template"},
                    "tree": {"type": ["string", "null"], "x-mainstay": "tree"},
                }),
                Some("path"),
                false,
            ),
            "user" => (
                json!({"name": {"type": "string"}, "uid": {"type": ["integer", "null"], "format": "uint32", "minimum": 0},
                "system": {"type": "boolean"}, "groups": {"type": "array", "items": {"type": "string"}}}),
                Some("name"),
                false,
            ),
            "service" => (
                json!({"name": {"type": "string"}, "running": {"type": ["boolean", "null"]}}),
                Some("name"),
                true,
            ),
            "pkg" => (
                json!({"name": {"type": "string"}, "state": {"type": "string", "enum": ["present", "absent", "latest"]}}),
                Some("name"),
                false,
            ),
            "cmd" => (
                json!({"run": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
                "env": {"type": "object", "additionalProperties": {"type": "string"}},
                "changed_when": {"type": ["string", "null"], "x-mainstay": "expression"}}),
                None,
                true,
            ),
            _ => return None,
        };
        let required: Vec<&str> = identity.into_iter().collect();
        let params = json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
        let outputs = (name == "cmd").then(|| ["exit_code", "stderr", "stdout"].map(str::to_owned).into());
        Some(ModuleSchema { params, identity: identity.map(str::to_owned), refreshes, outputs })
    }

    fn names(&self) -> Vec<String> {
        ["cmd", "file", "pkg", "service", "user"].map(str::to_owned).into()
    }

    fn formats(&self) -> Formats {
        |name| match name {
            "absolute-path" => {
                Some(|text| if text.starts_with('/') { Ok(()) } else { Err("it is not absolute".into()) })
            }
            _ => None,
        }
    }

    fn check(&self, module: &str, params: &Values) -> Result<(), String> {
        // Whatever is asked here is whole.
        assert!(!Value::Object(params.clone()).to_string().contains("{{"));
        match (module, &params.get("content"), &params.get("source")) {
            ("file", Some(_), Some(_)) => Err("content and source exclude each other".into()),
            ("file", Some(content), _) if *content == "odd" => Err("content: it is odd".into()),
            _ => Ok(()),
        }
    }

    fn links(&self, module: &str, params: &Values) -> Links {
        let named = |kind: &str, name: &str| {
            params
                .get(name)
                .and_then(Value::as_str)
                .map(|value| format!("{kind}:{value}"))
                .into_iter()
                .collect()
        };
        match module {
            "file" => Links { needs: named("user", "owner"), ..Links::default() },
            "user" => Links { provides: named("user", "name"), ..Links::default() },
            _ => Links::default(),
        }
    }

    fn fetch(&self, extension: &ExtensionSource) -> Result<Fetched, String> {
        if extension.name == "gone" {
            return Err("cannot fetch gone: connection refused".into());
        }
        let params = json!({"type": "object", "properties": {"size": {"type": "integer"}}, "additionalProperties": false});
        Ok(Fetched {
            program: b"#!/bin/sh\n".to_vec(),
            signature: extension.minisign.as_ref().map(|_| "signed".into()),
            describe: json!({"name": extension.name}),
            schema: ModuleSchema { params, identity: None, refreshes: false, outputs: None },
        })
    }
}

pub(super) fn facts(os: &str) -> Facts {
    Facts {
        os: os.into(),
        family: os.into(),
        os_version: "12".into(),
        kernel: "6.1".into(),
        arch: "x86_64".into(),
        hostname: "web1".into(),
        cpus: 2,
        memory_bytes: 1 << 30,
        addresses: Vec::new(),
        version: "0.1.0".into(),
        labels: BTreeMap::new(),
    }
}

pub(super) fn input() -> SiteInput {
    SiteInput { file: "site.yaml".into(), ..SiteInput::default() }
}

pub(super) fn values(value: Value) -> Values {
    value.as_object().unwrap().clone()
}

/// The catalog of a machine `web1` with the label `role=web`.
pub(super) fn catalog_of(input: &SiteInput, disk: &Disk, vars: &Values) -> Result<Catalog, SiteErrors> {
    let site = compile(input, disk, &Table)?;
    let labels = BTreeMap::from([("role".to_owned(), "web".to_owned())]);
    site.catalog(&Machine { name: "web1", labels: &labels, facts: &facts("debian"), vars })
}

pub(super) fn catalog(files: &[(&str, &str)]) -> Catalog {
    match catalog_of(&input(), &Disk::of(files), &Values::new()) {
        Ok(catalog) => catalog,
        Err(errors) => panic!("{errors}"),
    }
}

/// The catalog of one file.
pub(super) fn site(text: &str) -> Catalog {
    catalog(&[("site.yaml", text)])
}

pub(super) fn errors(files: &[(&str, &str)]) -> String {
    match catalog_of(&input(), &Disk::of(files), &Values::new()) {
        Ok(catalog) => panic!("it is taken: {catalog:#?}"),
        Err(errors) => errors.to_string(),
    }
}

pub(super) fn ids(catalog: &Catalog) -> Vec<&str> {
    catalog.states.iter().map(|state| state.id.as_str()).collect()
}

pub(super) fn state<'a>(catalog: &'a Catalog, id: &str) -> &'a Declared {
    &catalog.states[catalog.find(id).unwrap_or_else(|| panic!("there is no {id} in {:?}", ids(catalog)))]
}

/// The ids that the state names with this kind.
pub(super) fn targets<'a>(catalog: &'a Catalog, id: &str, kind: RequisiteKind) -> Vec<&'a str> {
    let targets = state(catalog, id).requisites.targets(kind);
    targets.iter().map(|&target| catalog.states[target].id.as_str()).collect()
}

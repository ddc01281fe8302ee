//! The compiled, checked states for one node. It is what travels to a machine.
//!
//! A catalog is self-contained: every file that a template or a source names is in it as a blob. Ids, modules and
//! requisites are settled; parameters may still hold templates over facts and the outputs of other states,
//! which only the machine knows.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::digest::digest_of;
use super::rare::{Blank, Rare};
use super::{StateId, StateIndex, Values};

/// How the states of a catalog are put in order where requisites leave a choice.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OrderMode {
    /// Written order, one by one.
    #[default]
    Ansible,
    /// All at once; only requisites hold a state back.
    Justdoit,
    /// Merges what can be merged: repositories, then one index refresh, then one package transaction.
    Genius,
}

/// The digest of a file that the catalog carries: BLAKE3 in hexadecimal.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BlobId(pub String);

impl BlobId {
    pub fn of(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes).to_hex().to_string())
    }
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Catalog {
    /// Names it across runs: debts are kept under it. By default the states file's name without its ending.
    pub name: String,
    pub order: OrderMode,
    /// After a failure no new state starts except those that `onfail` calls for.
    pub failhard: bool,
    /// Files that were read, as they were named; the first is the states file.
    pub files: Vec<String>,
    /// Variables, one map for each file or parameterised include; a state names the one it sees.
    pub scopes: Vec<Values>,
    /// Variables that must never be shown; `secrets` in templates.
    pub secrets: Values,
    /// In written order. A [`StateIndex`] is a place in it.
    pub states: Vec<Declared>,
    /// The states of this machine that `--only` left out, with their modules: what is owed for them stays owed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub left_out: BTreeMap<StateId, String>,
    #[serde(with = "blobs")]
    pub blobs: BTreeMap<BlobId, Vec<u8>>,
    /// Extension modules by the name under which states use them.
    pub extensions: BTreeMap<String, Extension>,
}

/// A program that serves as a module. Its bytes are the blob.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Extension {
    pub blob: BlobId,
    /// SHA-256 of the program in hexadecimal, as the states file gave it.
    pub sha256: String,
    /// A minisign public key and the signature's text: checked on the node before every use.
    pub minisign: Option<Minisign>,
    /// What the program said of itself when the catalog was compiled: its parameters as a JSON Schema.
    pub describe: serde_json::Value,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Minisign {
    pub public_key: String,
    pub signature: String,
}

/// One state as it was declared.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Declared {
    pub id: StateId,
    pub module: String,
    /// As written, with templates not yet rendered; `use` is already applied. Files that a module reads from beside the
    /// states file (`template`, `source`, …) stand here as `{"$blob": ID, "$file": NAME}`.
    pub params: Values,
    pub requisites: Requisites,
    pub guards: Rare<Guards>,
    pub options: Rare<Options>,
    /// The scope of variables that it sees, a place in [`Catalog::scopes`].
    pub scope: usize,
    /// Names that only this state sees, before the variables: `item` of a `for_each`.
    #[serde(default, skip_serializing_if = "Values::is_empty")]
    pub locals: Values,
    /// What `states['x']` in its templates means, where `x` is not an id as it stands: within an include with a prefix.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub aliases: BTreeMap<String, StateIndex>,
    pub at: Place,
}

/// Where something was written. Lines and columns count from 1, columns in characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Place {
    /// A place in [`Catalog::files`].
    pub file: usize,
    pub line: usize,
    pub column: usize,
}

/// The kinds of requisite that are left after compilation: `X_in` was turned around and `use` applied.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequisiteKind {
    Require,
    RequireAny,
    Watch,
    WatchAny,
    Onchanges,
    OnchangesAny,
    /// Also written `onfail_any`.
    Onfail,
    OnfailAll,
    Listen,
    Prereq,
}

impl RequisiteKind {
    pub const ALL: [Self; 10] = [
        Self::Require,
        Self::RequireAny,
        Self::Watch,
        Self::WatchAny,
        Self::Onchanges,
        Self::OnchangesAny,
        Self::Onfail,
        Self::OnfailAll,
        Self::Listen,
        Self::Prereq,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::Require => "require",
            Self::RequireAny => "require_any",
            Self::Watch => "watch",
            Self::WatchAny => "watch_any",
            Self::Onchanges => "onchanges",
            Self::OnchangesAny => "onchanges_any",
            Self::Onfail => "onfail",
            Self::OnfailAll => "onfail_all",
            Self::Listen => "listen",
            Self::Prereq => "prereq",
        }
    }
}

/// What a state asks of others. The targets of a kind are sorted and without repeats.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Requisites {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub of: BTreeMap<RequisiteKind, Vec<StateIndex>>,
    /// States whose outputs a parameter, guard or template names literally: each is a `require` as well.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<StateIndex>,
}

impl Requisites {
    pub fn targets(&self, kind: RequisiteKind) -> &[StateIndex] {
        self.of.get(&kind).map_or(&[], Vec::as_slice)
    }
}

/// Conditions looked at at the state's turn, after its requisites.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Guards {
    /// Skipped when every command exits 0. Each is a shell line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unless: Vec<String>,
    /// Skipped unless every command exits 0.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub onlyif: Vec<String>,
    /// Skipped when every path exists.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub creates: Vec<String>,
    /// Skipped unless the expression over vars and facts is true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
}

impl Guards {
    /// Whether any of them is a command.
    pub fn start_programs(&self) -> bool {
        !(self.unless.is_empty() && self.onlyif.is_empty())
    }
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<Rank>,
    pub failhard: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Overrides the order mode for this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel: Option<bool>,
    /// A shell line that decides after a change between changed and failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check_cmd: Option<String>,
    /// The user as whom this state is analysed and applied.
    #[serde(rename = "become", skip_serializing_if = "Option::is_none")]
    pub become_user: Option<String>,
    /// Nothing of its parameters, diffs or outputs may be shown.
    pub sensitive: bool,
}

impl Blank for Guards {
    const BLANK: &'static Self =
        &Self { unless: Vec::new(), onlyif: Vec::new(), creates: Vec::new(), when: None };
}

impl Blank for Options {
    const BLANK: &'static Self = &Self {
        order: None,
        failhard: false,
        retry: None,
        parallel: None,
        check_cmd: None,
        become_user: None,
        sensitive: false,
    };
}

/// `order:` breaks ties only.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rank {
    First,
    Number(i64),
    Last,
}

/// Repeats of apply.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Retry {
    /// All attempts, the first included; at least 1.
    pub attempts: u32,
    pub interval: Duration,
    /// A random part of this is added to each interval.
    pub splay: Duration,
    /// An expression over the attempt's outputs; without one an attempt that worked is enough.
    pub until: Option<String>,
}

/// BLAKE3 over the catalog's bytes: what an approval binds.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CatalogDigest(pub String);

impl Catalog {
    /// Without any state.
    pub fn empty() -> Self {
        Self {
            name: String::new(),
            order: OrderMode::default(),
            failhard: false,
            files: Vec::new(),
            scopes: Vec::new(),
            secrets: Values::new(),
            states: Vec::new(),
            left_out: BTreeMap::new(),
            blobs: BTreeMap::new(),
            extensions: BTreeMap::new(),
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        rmp_serde::to_vec_named(self).expect("a catalog is maps, lists and texts")
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, rmp_serde::decode::Error> {
        Self::read(bytes)
    }

    /// Of what [`Catalog::to_bytes`] made, without all of it lying in memory beside the catalog.
    pub fn read(from: impl Read) -> Result<Self, rmp_serde::decode::Error> {
        let mut catalog: Self = rmp_serde::from_read(from)?;
        catalog.states.shrink_to_fit();
        Ok(catalog)
    }

    pub fn digest(&self) -> CatalogDigest {
        CatalogDigest(digest_of(self))
    }

    pub fn find(&self, id: &str) -> Option<StateIndex> {
        self.states.iter().position(|state| state.id.as_str() == id)
    }
}

/// Bytes, not lists of numbers.
mod blobs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_bytes::ByteBuf;

    use super::BlobId;

    pub(super) fn serialize<S: Serializer>(
        blobs: &BTreeMap<BlobId, Vec<u8>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let blobs: BTreeMap<&BlobId, &serde_bytes::Bytes> =
            blobs.iter().map(|(id, bytes)| (id, serde_bytes::Bytes::new(bytes))).collect();
        blobs.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<BlobId, Vec<u8>>, D::Error> {
        let blobs = BTreeMap::<BlobId, ByteBuf>::deserialize(deserializer)?;
        Ok(blobs.into_iter().map(|(id, bytes)| (id, bytes.into_vec())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_catalog_survives_its_bytes() {
        let mut requisites = Requisites::default();
        requisites.of.insert(RequisiteKind::Watch, vec![0]);
        let state = |id: &str, requisites| Declared {
            id: id.into(),
            module: "file".into(),
            params: serde_json::json!({"path": "/etc/app", "mode": "0644", "n": 1, "none": null})
                .as_object()
                .unwrap()
                .clone(),
            requisites,
            guards: Guards { unless: vec!["true".into()], ..Guards::default() }.into(),
            options: Options { order: Some(Rank::Number(-3)), ..Options::default() }.into(),
            scope: 0,
            locals: Values::new(),
            aliases: BTreeMap::new(),
            at: Place { file: 0, line: 2, column: 3 },
        };
        let bytes = vec![0, 159, 146, 150];
        let catalog = Catalog {
            name: "site".into(),
            order: OrderMode::Genius,
            failhard: false,
            files: vec!["site.yaml".into()],
            scopes: vec![Values::new()],
            secrets: Values::new(),
            states: vec![state("a", Requisites::default()), state("b", requisites)],
            left_out: BTreeMap::from([("c".into(), "cmd".into())]),
            blobs: BTreeMap::from([(BlobId::of(&bytes), bytes)]),
            extensions: BTreeMap::new(),
        };
        assert_eq!(Catalog::from_bytes(&catalog.to_bytes()).unwrap(), catalog);
    }
}

//! Parameters that name files beside the states file. The compiler reads them and puts them into the catalog; the
//! schema tells it which parameters these are (`x-mainstay`).

use std::borrow::Cow;

use mainstay_core::state::catalog::BlobId;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

/// A file's bytes, as they are. Its content is asked for with [`crate::module::Blobs::get`].
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Blob {
    #[serde(rename = "$blob")]
    pub id: BlobId,
    /// The file's name as it was written.
    #[serde(rename = "$file")]
    pub file: String,
}

/// A file that is a template. The engine renders it, and a module gets the text.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(transparent)]
pub struct Rendered(pub String);

/// A folder with all that is in it, in the order of the paths.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Tree {
    #[serde(rename = "$tree")]
    pub entries: Vec<TreeEntry>,
    #[serde(rename = "$file")]
    pub file: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct TreeEntry {
    /// Relative, with `/` between its parts and no `..`.
    pub path: String,
    #[serde(flatten)]
    pub kind: TreeKind,
}

#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum TreeKind {
    Directory,
    File { blob: BlobId, executable: bool },
    Link { target: String },
}

macro_rules! named_in_the_states_file {
    ($type:ty, $name:literal, $what:literal) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "x-mainstay": $what })
            }
        }
    };
}

named_in_the_states_file!(Blob, "Blob", "blob");
named_in_the_states_file!(Rendered, "Template", "template");
named_in_the_states_file!(Tree, "Tree", "tree");

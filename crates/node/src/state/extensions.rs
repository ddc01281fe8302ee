//! The modules of one catalog: the program's own, and the extensions that the catalog brings with it.
//!
//! How an extension is kept, checked and called stands in `mainstay_module::extension`. Here is only where: a directory of this user
//! beside what is owed, made and filled before anything is analysed, since the analyze phase may write nothing.

use std::path::Path;
use std::sync::Arc;

use mainstay_core::state::catalog::{BlobId, Catalog};
use mainstay_module::Failure;
use mainstay_module::confine::Scratch;
use mainstay_module::extension::{self, Kept, Program};
use mainstay_module::host::View;
use mainstay_module::registry::Registry;
use serde_json::Value;

use super::looking::looking;

/// Why a catalog's extensions are not used, none of them.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExtensionError {
    #[error("the extension {0:?} has the name of a module that this program has itself")]
    Taken(String),
    #[error("the extension {0:?} did not come with the catalog")]
    Missing(String),
    /// A catalog keeps blobs under their digests; one that was changed on its way is not even looked at further.
    #[error("the program of the extension {0:?} is not the one that the catalog names: it is not executed")]
    Replaced(String),
    #[error("{0}; it is not executed")]
    Refused(Failure),
}

/// All modules that the catalog's states may name.
pub(super) fn registry(
    catalog: &Catalog,
    own: &Registry,
    directory: &Path,
) -> Result<Registry, ExtensionError> {
    let mut registry = own.clone();
    if catalog.extensions.is_empty() {
        return Ok(registry);
    }
    extension::clear(directory);
    for (name, extension) in &catalog.extensions {
        if own.get(name).is_some() {
            return Err(ExtensionError::Taken(name.clone()));
        }
        let bytes =
            catalog.blobs.get(&extension.blob).ok_or_else(|| ExtensionError::Missing(name.clone()))?;
        if BlobId::of(bytes) != extension.blob {
            return Err(ExtensionError::Replaced(name.clone()));
        }
        let program = Program::new(name, extension, bytes, directory).map_err(ExtensionError::Refused)?;
        registry.insert(name.clone(), Arc::new(program));
    }
    Ok(registry)
}

/// Asks an extension what it is, held to looking as in the analyze phase: on the machine that compiles it has nothing to
/// change.
pub fn describe(kept: &Kept) -> Result<Value, Failure> {
    let failed = |error: std::io::Error| Failure::new("describe an extension", error);
    let scratch = Scratch::make().map_err(failed)?;
    let view = View::new(Some(scratch.path().to_owned()));
    let described = looking(Some(scratch.path()), || kept.describe(&view)).map_err(failed)?;
    described.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

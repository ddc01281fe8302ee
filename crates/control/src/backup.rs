//! placeholder
use std::path::Path;

const MARK: &str = "restored";

pub(crate) fn is_unsettled(dir: &Path) -> bool {
    dir.join(MARK).exists()
}

pub(crate) fn settle(dir: &Path) {
    if let Err(e) = std::fs::remove_file(dir.join(MARK)) {
        tracing::warn!("the mark of a restored hub could not be removed: {e}");
    }
}

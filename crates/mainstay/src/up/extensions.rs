//! Extension modules as whoever compiles gets them: from a file beside the states file or from a web server, checked,
//! kept under their digests in the user's cache, and asked what they are.
//!
//! How they are checked and called stands in `mainstay_module::extension`; how they come to a machine, in its catalog.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay_core::state::catalog::Minisign;
use mainstay_core::state::site::{ExtensionFrom, ExtensionSource, Fetched, Files as _, ModuleSchema};
use mainstay_module::extension::{self, Kept, MAX_PROGRAM};
use mainstay_module::host::View;
use mainstay_module::web;

use super::site::Folder;

/// A server that takes longer is stuck: sixteen megabytes come in this time over half a megabit a second.
const TIMEOUT: Duration = Duration::from_secs(300);

/// A minisign signature is four lines, of which two are comments.
const MAX_SIGNATURE: u64 = 8 << 10;

/// Where programs are kept: `$XDG_CACHE_HOME/mainstay/extensions`, or below `~/.cache`.
pub fn directory() -> Result<PathBuf, String> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
        user.map(|user| user.dir).filter(|home| home.is_absolute())
    };
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").or_else(home).map(|home| home.join(".cache")))
        .map(|cache| cache.join("mainstay/extensions"))
        .ok_or_else(|| "there is no directory to keep it in: set XDG_CACHE_HOME".into())
}

/// Fetches, checks, keeps and asks. A program from a web server that is kept already is not fetched again; a file is always
/// read, so that it is never another one than what runs.
pub fn fetch(source: &ExtensionSource, directory: &Path) -> Result<Fetched, String> {
    extension::clear(directory);
    let minisign = match &source.minisign {
        None => None,
        Some(public_key) => {
            let signature = read(&source.from, ".minisig", MAX_SIGNATURE)
                .map_err(|words| format!("its signature cannot be had: {words}"))?;
            let signature =
                String::from_utf8(signature).map_err(|_| "its signature is not a text".to_owned())?;
            Some(Minisign { public_key: public_key.clone(), signature })
        }
    };
    let cached = match source.from {
        ExtensionFrom::Url(_) => Kept::find(&source.sha256, minisign.clone(), directory),
        ExtensionFrom::Path(_) => None,
    };
    let (kept, program) = match cached {
        Some(found) => found,
        None => {
            let program = read(&source.from, "", MAX_PROGRAM)?;
            let kept = Kept::new(&program, &source.sha256, minisign.clone(), directory);
            (kept.map_err(|refused| chain(&refused))?, program)
        }
    };
    let describe = kept.describe(&View::new(None)).map_err(|failure| failure.to_string())?;
    let schema = ModuleSchema {
        params: describe["params"].clone(),
        identity: describe["identity"].as_str().map(str::to_owned),
        refreshes: false,
    };
    Ok(Fetched { program, signature: minisign.map(|minisign| minisign.signature), describe, schema })
}

/// The bytes at a place, or of the file beside it whose name has `ending` more.
fn read(from: &ExtensionFrom, ending: &str, limit: u64) -> Result<Vec<u8>, String> {
    match from {
        ExtensionFrom::Path(path) => {
            let path = format!("{path}{ending}");
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            Folder.read(&path, limit).map_err(|words| format!("{path}: {words}"))
        }
        ExtensionFrom::Url(url) => {
            let end = url.find(['?', '#']).unwrap_or(url.len());
            let url = format!("{}{ending}{}", &url[..end], &url[end..]);
            let mut bytes = Vec::new();
            web::fetch_within(&url, limit, TIMEOUT, &mut bytes as &mut dyn Write)
                .map_err(|failure| failure.to_string())?;
            Ok(bytes)
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

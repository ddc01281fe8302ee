//! `archive`: what is in an archive, unpacked into a directory. How archives are read, and what of them is refused, stands
//! in [`unpack`].

pub mod unpack;

use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use mainstay_core::state::StateId;
use mainstay_core::state::plan::{Change, Datum};
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::file::needs;
use crate::blob::Blob;
use crate::failure::Failure;
use crate::field::{Account, HostPath};
use crate::forecast::Resource;
use crate::format;
use crate::host::Ownership;
use crate::module::{About, Analysis, Analyze, Applied, Apply, Module};
use crate::standing::{Kind, Sight, Standing, Thing, Wanted, conclude, parent_ready};
use crate::web;

/// Largest archive that is downloaded.
pub const MAX_ARCHIVE: u64 = 4 << 30;

pub struct Archive;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The directory that it is unpacked into: an absolute path. It is made if it is missing; its parent has to be there.
    /// What an archive unpacked earlier is written over; what only the earlier one held stays.
    pub path: HostPath,
    /// The archive, a file beside the states file: tar, plain or compressed by gzip, xz or zstd, or zip. What it is, is
    /// seen from its first bytes.
    pub source: Option<Blob>,
    /// Where to fetch the archive from: an `http:` or `https:` URL. It needs `sha256`.
    #[schemars(extend("format" = "http-url"))]
    pub url: Option<String>,
    /// The archive's SHA-256 in hexadecimal. Anything else is not unpacked.
    #[schemars(extend("format" = "sha256"))]
    pub sha256: Option<String>,
    /// Leave out so many directories at the start of each path. What has no more parts is left out.
    #[serde(default)]
    pub strip: u32,
    /// The user who owns what is unpacked, by name or number.
    pub owner: Option<Account>,
    /// The group that owns what is unpacked, by name or number.
    pub group: Option<Account>,
}

impl Params {
    fn wanted(&self) -> Wanted<'_> {
        Wanted { mode: None, owner: self.owner.as_ref(), group: self.group.as_ref() }
    }

    /// Names what is to be unpacked, and how.
    fn mark(&self) -> String {
        let digest = match (&self.sha256, &self.source) {
            (Some(sha256), _) => format!("sha256 {}", sha256.to_ascii_lowercase()),
            (None, Some(source)) => format!("blake3 {}", source.id.0),
            (None, None) => String::new(),
        };
        match self.strip {
            0 => digest,
            strip => format!("{digest}, strip {strip}"),
        }
    }
}

/// Where it is written down what was unpacked. A directory may take the archives of several states.
fn mark_path(p: &Params, state: &StateId) -> PathBuf {
    let hash = blake3::hash(state.as_str().as_bytes()).to_hex();
    p.path.join(format!(".mainstay-unpacked-{}", &hash[..8]))
}

impl Module for Archive {
    type Params = Params;

    fn about(&self) -> About {
        About {
            name: "archive",
            summary: "What is in an archive, unpacked into a directory.",
            identity: Some("path"),
            dry_run: "Tells whether an archive would be unpacked, by what was unpacked before, which is written down in a \
                      file in the directory. Nothing is fetched, and the files in it are not listed.",
            outputs: &[("path", "where the directory is")],
            example: "\
tool:
  archive:
    path: /opt/tool
    url: https://example.com/tool-1.2.tar.gz
    sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    strip: 1
",
        }
    }

    fn check(&self, p: &Params) -> Result<(), String> {
        match (&p.source, &p.url, &p.sha256) {
            (None, None, _) => return Err("neither source nor url says what to unpack".into()),
            (Some(_), Some(_), _) => return Err("source and url exclude each other".into()),
            (None, Some(_), None) => return Err("url: it needs the sha256 of the archive".into()),
            _ => {}
        }
        let of = |field: &'static str| move |why| format!("{field}: {why}");
        p.url.as_deref().map_or(Ok(()), format::http_url).map_err(of("url"))?;
        p.sha256.as_deref().map_or(Ok(()), format::sha256).map_err(of("sha256"))
    }

    fn needs(&self, p: &Params) -> Vec<Resource> {
        let mut needs = needs(&p.path, p.wanted());
        needs.push(Resource::path(&p.path));
        needs
    }

    fn provides(&self, p: &Params) -> Vec<Resource> {
        vec![Resource::path(&p.path)]
    }

    fn analyze(&self, p: &Params, cx: &Analyze<'_>) -> Result<Analysis, Failure> {
        let analysis = conclude(&p.path, look(p, cx))?;
        Ok(analysis.output("path", p.path.to_string_lossy()))
    }

    fn apply(&self, p: &Params, cx: &Apply<'_>, analysis: &Analysis) -> Result<Applied, Failure> {
        if analysis.changes.is_empty() {
            return Ok(Applied { outputs: analysis.outputs.clone(), ..Applied::default() });
        }
        let ownership = p.wanted().ownership(cx.host)?;
        let fetched = match &p.url {
            Some(url) => {
                let mut file = cx.host.nameless(&p.path)?;
                web::fetch(url, MAX_ARCHIVE, &mut file)?;
                Some(file)
            }
            None => None,
        };
        let source = match (&fetched, &p.source) {
            (Some(file), _) => Packed::File(file),
            (None, Some(blob)) => Packed::Bytes(cx.blobs.get(&blob.id)?),
            (None, None) => return Err(Failure::on("unpack into", &p.path, "there is no archive")),
        };
        let failed = |words: String| Failure::on("unpack into", &p.path, words);
        if let Some(wanted) = &p.sha256 {
            let is = source.sha256().map_err(|error| failed(error.to_string()))?;
            if !is.eq_ignore_ascii_case(wanted) {
                return Err(failed(format!("the archive's sha256 is {is} and not {wanted}")));
            }
        }
        // All of it is looked at before any of it is written.
        unpack::survey(&source, p.strip).map_err(failed)?;
        if analysis.lists("exists") {
            cx.host.make_directory(&p.path, ownership)?;
        }
        // Until all of it is there, the directory holds neither the old archive nor the new one, also after a power cut.
        let mark = mark_path(p, cx.state);
        if cx.host.entry(&mark)?.is_some() {
            cx.host.remove(&mark)?;
            cx.host.settle()?;
        }
        unpack::unpack(&source, p.strip, &p.path, ownership).map_err(failed)?;
        cx.host.write(&mark, format!("{}\n", p.mark()).as_bytes(), Ownership::default())?;
        Ok(Applied { outputs: analysis.outputs.clone(), ..Applied::default() })
    }
}

fn look(p: &Params, cx: &Analyze<'_>) -> Sight<Analysis> {
    let standing = Standing::through(cx, &p.path)?;
    let mut changes = Vec::new();
    match standing.kind {
        Kind::Directory => {}
        Kind::Absent if standing.path == *p.path => {
            parent_ready(cx, &p.path)?;
            changes.push(Change::new("exists", Datum::Absent, Datum::known("directory")));
        }
        _ => {
            let words = format!("it is not a directory but a {}", standing.what());
            return Err(Failure::on("unpack into", &p.path, words).into());
        }
    }
    let mark = mark_path(p, cx.state);
    let old = if standing.exists() && standing.by.is_none() { cx.view.read(&mark)? } else { None };
    let old = old.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
    let new = p.mark();
    if old.as_ref() == Some(&new) {
        return Ok(Analysis::unchanged());
    }
    changes.push(Change::new("unpacked", old.map_or(Datum::Absent, Datum::known), Datum::known(new)));
    // An account that does not exist and is not coming either is found before anything is fetched.
    let _ = p.wanted().changes(cx, &Standing::absent(&p.path, None), "")?;
    let thing = Thing { kind: "directory", inside_unknown: true, ..Thing::default() };
    Ok(Analysis::of(changes).predict(Resource::path(&p.path), Some(thing.value())))
}

/// An archive that can be read again and again.
pub enum Packed<'a> {
    Bytes(&'a [u8]),
    File(&'a File),
}

pub trait ReadSeek: Read + Seek {}
impl<T: Read + Seek> ReadSeek for T {}

impl<'a> Packed<'a> {
    /// Reads from its start. One reader at a time.
    fn open(&self) -> std::io::Result<Box<dyn ReadSeek + 'a>> {
        match self {
            Self::Bytes(bytes) => Ok(Box::new(Cursor::new(*bytes))),
            Self::File(file) => {
                let mut file = *file;
                file.seek(SeekFrom::Start(0))?;
                Ok(Box::new(file))
            }
        }
    }

    fn sha256(&self) -> std::io::Result<String> {
        struct Hashing(Sha256);
        impl Write for Hashing {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.update(bytes);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut hashing = Hashing(Sha256::new());
        std::io::copy(&mut self.open()?, &mut hashing)?;
        Ok(hashing.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

#[cfg(test)]
mod tests;

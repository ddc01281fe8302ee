//! What goes with replacing a file's content: showing it, judging it before it is in place, keeping the old one.

use std::path::{Path, PathBuf};

use mainstay_core::state::plan::{Change, Datum};
use serde_json::Value;

use crate::content;
use crate::failure::Failure;
use crate::field::Mode;
use crate::forecast::Resource;
use crate::host::{Command, Host, MAX_FILE, Ownership, Staged};
use crate::module::Analyze;
use crate::standing::{Kind, Sight, Standing, Thing, Wanted, field};

/// A resource and what will be true of it.
pub type Foretold = (Resource, Option<Value>);

/// A change of content as it may be shown.
pub fn shown(cx: &Analyze<'_>, old: &Standing, before: Option<&[u8]>, after: &[u8], secret: bool) -> Change {
    if secret {
        let before = before.map_or(Datum::Absent, |bytes| cx.view.secret(bytes));
        return Change::new("content", before, cx.view.secret(after));
    }
    content::change("content", before, after, |text| old.datum(text))
}

/// Runs the command that judges a new file.
pub fn validate(host: &Host, command: &str, staged: &Staged<'_>, sensitive: bool) -> Result<(), Failure> {
    let path = staged.path().to_string_lossy().replace('\'', r"'\''");
    let ran = host.run(&Command::shell(command.replace("%s", &format!("'{path}'"))))?;
    if ran.succeeded() {
        return Ok(());
    }
    let words = if sensitive {
        "the new content was refused; what the command said is not shown".to_owned()
    } else {
        let said = [&ran.stderr, &ran.stdout].map(|bytes| String::from_utf8_lossy(bytes).trim().to_owned());
        format!("the new content was refused: {}", said.join("\n").trim())
    };
    Err(Failure::new(format!("validate with `{command}`"), words).hint("the old file stays"))
}

/// What keeping the content that is replaced does to the file beside it, and what will be there then.
pub fn kept(cx: &Analyze<'_>, standing: &Standing, sensitive: bool) -> Sight<(Vec<Change>, Foretold)> {
    let path = backup_path(&standing.path);
    let there = Standing::at(cx, &path)?;
    let of = path.to_string_lossy();
    let new = match there.kind {
        // Of one that is too large to be read, nobody has to know what it holds.
        Kind::Absent if standing.by.is_none() && standing.size > MAX_FILE => None,
        _ => standing.content(cx.view)?,
    };
    let secret = sensitive || standing.is_secret(cx.view) || there.is_secret(cx.view);
    let changes = match there.kind {
        Kind::Absent => vec![Change::new(field("exists", &of), Datum::Absent, Datum::known("file"))],
        Kind::File => {
            let (old, new) = (there.content(cx.view)?, new.as_deref().unwrap_or_default());
            let mut change = shown(cx, &there, old.as_deref(), new, secret);
            change.field = field("content", &of);
            if old.as_deref() == Some(new) { Vec::new() } else { vec![change] }
        }
        _ => return Err(Failure::on("keep", &path, format!("it is a {}", there.what())).into()),
    };
    let text = new.and_then(|bytes| content::text(&bytes).map(str::to_owned));
    let thing = Thing { kind: "file", text, secret, ..Thing::default() };
    let thing = Wanted::default().foretell(standing, thing, Mode(0o644), cx);
    Ok((changes, (Resource::path(&path), Some(thing.value()))))
}

/// Where the content that is replaced is kept.
pub fn backup_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".bak");
    name.into()
}

/// Keeps what a file holds under another name, for the same owner and no more readers than before.
pub fn keep(host: &Host, path: &Path) -> Result<(), Failure> {
    let backup = backup_path(path);
    if let (Some(entry), Some(bytes)) = (host.entry(path)?, host.read(path)?) {
        let ownership = Ownership { uid: Some(entry.uid), gid: Some(entry.gid), mode: Some(entry.mode) };
        host.write(&backup, &bytes, ownership)?;
    }
    Ok(())
}

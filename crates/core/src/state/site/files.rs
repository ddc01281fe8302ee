//! Puts the files that parameters name into the catalog.

use serde_json::json;

use super::library::{Library, beside};
use super::settle::{Beside, Settler};
use crate::state::catalog::BlobId;
use crate::state::param::{Param, ParamValue};
use crate::state::schema::Mark;
use crate::state::template::MAX_TEMPLATE;

/// Replaces what a marked parameter says by what the catalog holds.
pub(super) fn resolve(
    mark: Mark,
    param: &mut Param,
    settler: &Settler<'_>,
    library: &Library<'_>,
    outputs: Option<&[String]>,
) {
    if mark == Mark::Expression {
        if let ParamValue::Text(text) = &param.value {
            let file = library.text(param.at.file).unwrap_or_default();
            settler.plain_expression(text, param.at, &file, Beside::Outputs(outputs));
        }
        return;
    }
    if matches!(param.value, ParamValue::Later(_)) {
        settler.too_early(param.at, "the name of a file");
        param.value = ParamValue::Wrong;
        return;
    }
    // What is no text is the schema's to tell.
    let Some(name) = param.as_text() else { return };
    let path = beside(&library.name(param.at.file), name);
    let found = match mark {
        Mark::Tree => library.tree(&path, name),
        Mark::Blob => library.blob(&path).map(|blob| json!({"$blob": blob.0, "$file": name})),
        Mark::Template => library.blob(&path).and_then(|blob| {
            check_template(&blob, &path, settler, library)?;
            Ok(json!({"$template": blob.0, "$file": name}))
        }),
        Mark::Expression => return,
    };
    param.value = match found {
        Ok(value) => ParamValue::File(value),
        Err(words) => {
            settler.problems.note(param.at, words, None);
            ParamValue::Wrong
        }
    };
}

fn check_template(
    blob: &BlobId,
    path: &str,
    settler: &Settler<'_>,
    library: &Library<'_>,
) -> Result<(), String> {
    let bytes = library.bytes(blob).unwrap_or_default();
    if bytes.len() > MAX_TEMPLATE {
        return Err(format!("the template {path} is larger than {} MiB", MAX_TEMPLATE >> 20));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| format!("the template {path} is not UTF-8 text"))?;
    let (number, scan) = library.template(path, text);
    settler.file(number, text, &scan);
    Ok(())
}

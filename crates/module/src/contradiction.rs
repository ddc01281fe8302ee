//! Two states that undo each other: each run would change what the other has just changed.
//!
//! Only what stands plainly in both is compared, since what a template gives may be the same. States that manage different sides of a
//! thing, as one a file's content and another its mode, are no contradiction, nor is a directory and what lies in it, unless it is
//! a `sync` that removes what is not its own.

use std::path::Path;

use mainstay_core::state::Values;
use mainstay_core::state::template::is_template;
use serde_json::Value;

use crate::modules::sync;

/// The path of what a state of this module is about, if it is known.
pub fn thing<'a>(module: &str, params: &'a Values) -> Option<&'a str> {
    matches!(module, "file" | "directory" | "link" | "line" | "block").then_some(())?;
    path(params)
}

/// Where a state of this module puts something, if it is known.
pub fn place<'a>(module: &str, params: &'a Values) -> Option<&'a str> {
    let puts = thing(module, params).is_some() || matches!(module, "sync" | "git" | "archive");
    if puts && flag(params, "absent") == Some(false) { path(params) } else { None }
}

/// The directory in which nothing stays but what this state puts there, if it is known.
pub fn reign<'a>(module: &str, params: &'a Values) -> Option<&'a str> {
    if module == "sync" && flag(params, "delete") == Some(true) { path(params) } else { None }
}

/// Whether what a state puts beneath the directory of another does not stay there. Nothing is said where exceptions are not known.
pub fn removes(above: &Values, (module, params): (&str, &Values)) -> bool {
    let removed = || {
        let inner = Path::new(place(module, params)?).strip_prefix(path(above)?).ok()?;
        let exclude = above.get("exclude").and_then(Value::as_array).into_iter().flatten();
        let exclude: Vec<&str> =
            exclude.map(|glob| glob.as_str().filter(|glob| !is_template(glob))).collect::<Option<_>>()?;
        let excluded = sync::excluded(exclude).ok()?;
        let own: Vec<&Path> = entries(above)?.collect();
        let stays = |path: &Path| {
            own.iter().any(|own| own.starts_with(path))
                || path.ancestors().any(|path| excluded.is_match(path))
        };
        Some(match module {
            "sync" => !stays(inner) || entries(params)?.any(|entry| !stays(&inner.join(entry))),
            // What is in it is known to nobody.
            "git" | "archive" => !inner.ancestors().any(|path| excluded.is_match(path)),
            _ => !stays(inner),
        })
    };
    removed().unwrap_or(false)
}

/// What the folder of a `sync` holds.
fn entries(params: &Values) -> Option<impl Iterator<Item = &Path>> {
    let tree = params.get("source")?.get("$tree")?.as_array()?;
    Some(tree.iter().filter_map(|entry| entry.get("path")?.as_str()).map(Path::new))
}

fn path(params: &Values) -> Option<&str> {
    let path = text(params, "path")?;
    Some(if path.len() > 1 { path.trim_end_matches('/') } else { path })
}

/// Why two states about the same thing cannot both be as declared, in words that go on from both of them.
pub fn contradiction(one: (&str, &Values), other: (&str, &Values)) -> Option<String> {
    let is_whole = |module| matches!(module, "file" | "directory" | "link");
    match (is_whole(one.0), is_whole(other.0)) {
        (true, true) => whole(one, other),
        (true, false) => edited(one, other),
        (false, true) => edited(other, one),
        (false, false) => lines(one, other),
    }
}

fn whole(one: (&str, &Values), other: (&str, &Values)) -> Option<String> {
    match (flag(one.1, "absent")?, flag(other.1, "absent")?) {
        (true, true) => return None,
        (false, false) => {}
        _ => return Some("one wants it, the other wants it gone".into()),
    }
    if one.0 != other.0 {
        // The file is then the one to which the link leads.
        let follows = |(module, params)| module == "file" && flag(params, "follow") != Some(false);
        let through = (follows(one) && other.0 == "link") || (follows(other) && one.0 == "link");
        return (!through).then(|| format!("one wants a {}, the other a {}", one.0, other.0));
    }
    if differs(content(one.1), content(other.1)) {
        return Some("their contents differ".into());
    }
    let field = ["mode", "owner", "group", "file_mode", "target"];
    let field = field.into_iter().find(|field| differs(plain(one.1, field), plain(other.1, field)))?;
    Some(format!("their `{field}` differs"))
}

/// A whole file, and a line or a block of it.
fn edited((module, file): (&str, &Values), (editor, edit): (&str, &Values)) -> Option<String> {
    if flag(edit, "absent")? {
        return None;
    }
    if flag(file, "absent")? {
        return Some(format!("one wants it gone, the other a {editor} in it"));
    }
    if module != "file" {
        // A link is followed by those who edit.
        return (module == "directory")
            .then(|| format!("one wants a directory, the other a {editor} in a file"));
    }
    let whole = text(file, "content")?;
    let is_there = match editor {
        "line" => {
            let line = text(edit, "line")?;
            whole.lines().any(|there| there == line)
        }
        _ => whole.contains(text(edit, "content")?),
    };
    (!is_there).then(|| format!("one gives it its whole content, and the {editor} of the other is not in it"))
}

fn lines(one: (&str, &Values), other: (&str, &Values)) -> Option<String> {
    let same = one.0 == "line" && other.0 == "line" && text(one.1, "line")? == text(other.1, "line")?;
    let contradict = same && flag(one.1, "absent")? != flag(other.1, "absent")?;
    contradict.then(|| "one wants the line, the other wants it gone".into())
}

/// A text that is no template.
fn text<'a>(params: &'a Values, field: &str) -> Option<&'a str> {
    params.get(field)?.as_str().filter(|text| !is_template(text))
}

/// A truth value, `false` unless given; nothing if it is not known.
fn flag(params: &Values, field: &str) -> Option<bool> {
    match params.get(field) {
        None => Some(false),
        Some(value) => value.as_bool(),
    }
}

fn plain<'a>(params: &'a Values, field: &str) -> Option<&'a Value> {
    params.get(field).filter(|value| match value {
        Value::String(text) => !is_template(text),
        Value::Null => false,
        _ => true,
    })
}

/// What a file holds, where it is given plainly: what comes of a template is not known.
fn content(params: &Values) -> Option<&Value> {
    plain(params, "content").or_else(|| plain(params, "source"))
}

fn differs(one: Option<&Value>, other: Option<&Value>) -> bool {
    let (Some(one), Some(other)) = (one, other) else { return false };
    match (one.get("$blob"), other.get("$blob")) {
        (Some(one), Some(other)) => one != other,
        (None, None) => one != other,
        // A text, and a file that may hold just that.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(one: (&str, Value), other: (&str, Value)) -> Option<String> {
        let of = |(module, params): &(&'static str, Value)| (*module, params.as_object().unwrap().clone());
        let leak = |(module, params): (&str, Value)| -> (&'static str, Value) {
            (
                ["file", "directory", "link", "line", "block"].into_iter().find(|m| *m == module).unwrap(),
                params,
            )
        };
        let (one, other) = (leak(one), leak(other));
        let ((a, one), (b, other)) = (of(&one), of(&other));
        let there = contradiction((a, &one), (b, &other));
        assert_eq!(there.is_some(), contradiction((b, &other), (a, &one)).is_some(), "it is so both ways");
        there
    }

    #[test]
    fn what_a_sync_removes_is_found() {
        let tree = |paths: &[&str]| {
            let entries: Vec<Value> =
                paths.iter().map(|path| json!({"path": path, "kind": "directory"})).collect();
            json!({"$file": "f", "$tree": entries})
        };
        let sync = |path: &str, exclude: Value, own: &[&str]| json!({"path": path, "delete": true, "exclude": exclude, "source": tree(own)});
        let none = || json!([]);
        let site = |exclude: Value| sync("/srv/www", exclude, &["conf/a", "css"]);
        let at = |path: &str| json!({"path": path});
        for (above, module, params, expected) in [
            (site(none()), "file", at("/srv/www/x"), true),
            (site(none()), "file", at("/srv/www/conf/a"), false),
            (site(none()), "directory", at("/srv/www/conf"), false),
            (site(none()), "file", at("/srv/wwwx"), false),
            (site(none()), "file", json!({"path": "/srv/www/x", "absent": true}), false),
            (site(none()), "file", at("/srv/www/{{ x }}"), false),
            (site(json!(["x"])), "file", at("/srv/www/conf/x/y"), false),
            (site(json!(["{{ x }}"])), "file", at("/srv/www/x"), false),
            (site(none()), "sync", sync("/srv/www/css", none(), &["b"]), true),
            (site(none()), "sync", sync("/srv/www/conf", none(), &["a"]), false),
            (site(none()), "git", at("/srv/www/css"), true),
            (site(json!(["css"])), "git", at("/srv/www/css"), false),
            (site(none()), "user", at("/srv/www/x"), false),
        ] {
            let found = removes(above.as_object().unwrap(), (module, params.as_object().unwrap()));
            assert_eq!(found, expected, "{above} {module} {params}");
        }
    }

    #[test]
    fn what_undoes_each_other_is_found() {
        for (one, other) in [
            (("file", json!({"content": "a"})), ("file", json!({"content": "b"}))),
            (("file", json!({"source": {"$blob": "1"}})), ("file", json!({"source": {"$blob": "2"}}))),
            (
                ("file", json!({"mode": "0644"})),
                ("file", json!({"content": "{{ facts.x }}", "mode": "0600"})),
            ),
            (("file", json!({"content": "a"})), ("file", json!({"absent": true}))),
            (("file", json!({})), ("directory", json!({}))),
            (("file", json!({})), ("link", json!({"target": "x"}))),
            (("link", json!({"target": "x"})), ("link", json!({"target": "y"}))),
            (("directory", json!({"owner": "a"})), ("directory", json!({"owner": "b"}))),
            (("file", json!({"content": "a\nb\n"})), ("line", json!({"line": "c"}))),
            (("file", json!({"content": "a"})), ("block", json!({"content": "x"}))),
            (("file", json!({"absent": true})), ("line", json!({"line": "c", "create": true}))),
            (("directory", json!({})), ("line", json!({"line": "c"}))),
            (("line", json!({"line": "c"})), ("line", json!({"line": "c", "absent": true}))),
        ] {
            assert!(said(one.clone(), other.clone()).is_some(), "{one:?} {other:?}");
        }
    }

    #[test]
    fn what_goes_together_or_is_not_known_is_none() {
        for (one, other) in [
            (("file", json!({"content": "a"})), ("file", json!({"content": "a"}))),
            (("file", json!({"content": "a"})), ("file", json!({"mode": "0600"}))),
            (("file", json!({"content": "a"})), ("file", json!({"content": "{{ facts.x }}"}))),
            (("file", json!({"content": "a"})), ("file", json!({"source": {"$blob": "1"}}))),
            (("file", json!({"content": "a"})), ("file", json!({"template": {"$template": "1"}}))),
            (("file", json!({"absent": true})), ("file", json!({"absent": true}))),
            (("file", json!({"absent": "{{ facts.x }}"})), ("file", json!({"content": "a"}))),
            (("file", json!({"follow": true, "content": "a"})), ("link", json!({"target": "x"}))),
            (("file", json!({"mode": "0600"})), ("line", json!({"line": "c"}))),
            (("file", json!({"content": "a\nc\n"})), ("line", json!({"line": "c"}))),
            (("file", json!({"template": {"$template": "1"}})), ("block", json!({"content": "x"}))),
            (("file", json!({"absent": true})), ("line", json!({"line": "c", "absent": true}))),
            (("link", json!({"target": "x"})), ("line", json!({"line": "c"}))),
            (("line", json!({"line": "c"})), ("line", json!({"line": "d", "absent": true}))),
            (("block", json!({"content": "a"})), ("block", json!({"content": "b"}))),
        ] {
            assert_eq!(said(one.clone(), other.clone()), None, "{one:?} {other:?}");
        }
    }

    #[test]
    fn a_thing_is_known_by_a_plain_path() {
        let thing = |module: &str, path: &str| {
            thing(module, json!({"path": path}).as_object().unwrap()).map(str::to_owned)
        };
        assert_eq!(thing("file", "/etc/x").as_deref(), Some("/etc/x"));
        assert_eq!(thing("directory", "/srv/").as_deref(), Some("/srv"));
        assert_eq!(thing("directory", "/").as_deref(), Some("/"));
        assert_eq!(thing("file", "/etc/{{ facts.x }}"), None);
        assert_eq!(thing("git", "/srv"), None);
    }
}

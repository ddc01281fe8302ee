//! `mainstay modules`: the kinds of state, from what the code itself says of them.

use std::fmt::Write as _;

use clap::Args;
use mainstay_control::view::{Problem, ProblemKind};
use mainstay_core::near_miss::near_miss;
use mainstay_core::state::schema::editor::site_schema;
use mainstay_module::About;
use mainstay_module::registry::Registry;
use owo_colors::Style;
use serde_json::{Value, json};

use super::screen::Screen;
use super::{Done, Stop, status_of, table};
use crate::up::site::Modules;

/// Lists the kinds of state, or says all about one
#[derive(Args)]
#[command(after_help = "Examples:
  mainstay modules
  mainstay modules file
  mainstay modules --schema > states.schema.json")]
pub(super) struct ModulesArgs {
    /// Which one
    name: Option<String>,
    /// All of them, as a document
    #[arg(long, conflicts_with_all = ["name", "schema"])]
    markdown: bool,
    /// The JSON Schema of a states file, for editors
    #[arg(long, conflicts_with = "name")]
    schema: bool,
}

pub(super) fn run(args: &ModulesArgs, registry: &Registry, screen: &mut Screen) -> Done {
    if args.schema {
        let schema = site_schema(&Modules(registry));
        let text = if screen.json { schema.to_string() } else { format!("{schema:#}") };
        screen.line(&text)?;
    } else if args.markdown {
        screen.node_output(markdown(registry).as_bytes())?;
    } else if let Some(name) = &args.name {
        one(name, registry, screen)?;
    } else {
        list(registry, screen)?;
    }
    screen.flush()?;
    Ok(status_of::WELL)
}

fn list(registry: &Registry, screen: &mut Screen) -> Result<(), Stop> {
    let mut rows = Vec::new();
    for (name, module) in registry.iter() {
        let about = module.about();
        if screen.json {
            screen.object(&object(&about, &module.schema(), module.refreshes()))?;
        }
        rows.push(vec![name.to_owned(), about.summary.to_owned()]);
    }
    if !screen.json {
        table::show(screen, &["MODULE", "WHAT IT IS FOR"], &rows)?;
        screen.note("More about one: `mainstay modules NAME`.")?;
    }
    Ok(())
}

fn object(about: &About, schema: &Value, refreshes: bool) -> Value {
    let outputs: serde_json::Map<String, Value> =
        about.outputs.iter().map(|(name, meaning)| ((*name).to_owned(), json!(meaning))).collect();
    json!({
        "event": "module", "name": about.name, "summary": about.summary, "identity": about.identity,
        "dry_run": about.dry_run, "outputs": outputs, "refreshes": refreshes, "example": about.example,
        "parameters": schema,
    })
}

fn one(name: &str, registry: &Registry, screen: &mut Screen) -> Result<(), Stop> {
    let Some(module) = registry.get(name) else {
        let known: Vec<&str> = registry.iter().map(|(name, _)| name).collect();
        let hint = match near_miss(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are {}", known.join(", ")),
        };
        return Err(Problem::new(ProblemKind::NotFound, format!("there is no module {name:?}"))
            .hint(hint)
            .into());
    };
    let (about, schema) = (module.about(), module.schema());
    if screen.json {
        screen.object(&object(&about, &schema, module.refreshes()))?;
        return Ok(());
    }
    let head = |screen: &Screen, text: &str| screen.paint(text, Style::new().bold());
    screen.line(&format!("{} — {}", head(screen, about.name), about.summary))?;
    screen.line("")?;
    let text = head(screen, "Parameters");
    screen.line(&text)?;
    for parameter in parameters(&schema, &about) {
        screen.line(&format!("  {} ({})", parameter.name, parameter.marks()))?;
        for line in wrapped(&parameter.meaning, 92) {
            screen.line(&format!("      {line}"))?;
        }
    }
    for (title, text) in [("Dry run", about.dry_run.to_owned()), ("Refresh", refresh(module.refreshes()))] {
        screen.line("")?;
        let title = head(screen, title);
        screen.line(&title)?;
        for line in wrapped(&text, 96) {
            screen.line(&format!("  {line}"))?;
        }
    }
    screen.line("")?;
    let text = head(screen, "Outputs");
    screen.line(&text)?;
    for (name, meaning) in outputs(&about) {
        screen.line(&format!("  {name}: {meaning}"))?;
    }
    screen.line("")?;
    let text = head(screen, "Example");
    screen.line(&text)?;
    for line in about.example.trim_matches('\n').lines() {
        screen.line(&format!("  {line}"))?;
    }
    Ok(())
}

fn refresh(refreshes: bool) -> String {
    match refreshes {
        true => {
            "It has one: with `watch` and `listen` it is refreshed when what it watches has changed.".into()
        }
        false => "It has none: `watch` means `require`.".into(),
    }
}

/// Every state has the first two.
fn outputs(about: &About) -> Vec<(&str, &str)> {
    let every = [
        ("changed", "Whether it changed something."),
        ("outcome", "changed, unchanged, skipped, failed or blocked."),
    ];
    every.into_iter().chain(about.outputs.iter().copied()).collect()
}

/// A parameter as people read it.
#[derive(PartialEq, Eq, Debug)]
struct Parameter {
    name: String,
    kind: String,
    is_required: bool,
    is_identity: bool,
    default: Option<String>,
    meaning: String,
}

impl Parameter {
    fn marks(&self) -> String {
        let mut marks = vec![self.kind.clone()];
        if self.is_identity {
            marks.push("the state's id unless given".into());
        } else if self.is_required {
            marks.push("required".into());
        }
        if let Some(default) = &self.default {
            marks.push(format!("default {default}"));
        }
        marks.join(", ")
    }
}

/// The identifying parameter first, then those that are required, then by name.
fn parameters(schema: &Value, about: &About) -> Vec<Parameter> {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut parameters: Vec<Parameter> = schema["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, schema)| Parameter {
            name: name.clone(),
            kind: kind(schema),
            is_required: required.contains(&name.as_str()),
            is_identity: about.identity == Some(name.as_str()),
            default: schema.get("default").filter(|value| !value.is_null()).map(Value::to_string),
            meaning: plain(schema["description"].as_str().unwrap_or_default()),
        })
        .collect();
    parameters.sort_by_key(|p| (!p.is_identity, !p.is_required, p.name.clone()));
    parameters
}

/// Doc comments break their lines where the source does.
fn plain(text: &str) -> String {
    text.split("\n\n")
        .map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join("\n\n")
}

/// The type of a value in words.
fn kind(schema: &Value) -> String {
    match schema["x-mainstay"].as_str() {
        Some("blob") => return "name of a file beside the states file".into(),
        Some("template") => return "name of a template beside the states file".into(),
        Some("tree") => return "name of a folder beside the states file".into(),
        _ => {}
    }
    if schema["format"] == "duration" {
        return "number of seconds, or text like `30s`".into();
    }
    let choices = |values: &[Value]| {
        let words: Vec<String> = values
            .iter()
            .filter(|value| !value.is_null())
            .map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
            .collect();
        words.join(" | ")
    };
    if let Some(values) = schema["enum"].as_array() {
        return choices(values);
    }
    if let Some(value) = schema.get("const") {
        return choices(std::slice::from_ref(value));
    }
    for either in ["anyOf", "oneOf"] {
        if let Some(kinds) = schema[either].as_array() {
            let is_null = |schema: &&Value| schema["type"] == "null";
            let mut words: Vec<String> = kinds.iter().filter(|kind| !is_null(kind)).map(kind).collect();
            words.dedup();
            let is_choice =
                kinds.iter().filter(|kind| !is_null(kind)).all(|kind| kind.get("const").is_some());
            return words.join(if is_choice { " | " } else { " or " });
        }
    }
    let words: Vec<String> = match &schema["type"] {
        Value::String(word) => vec![word.clone()],
        Value::Array(words) => {
            words.iter().filter_map(Value::as_str).filter(|word| *word != "null").map(str::to_owned).collect()
        }
        _ => return "any value".into(),
    };
    let word = |word: &str| match word {
        "string" => "text".to_owned(),
        "integer" => "whole number".to_owned(),
        "boolean" => "true or false".to_owned(),
        "array" if schema["items"].is_object() => format!("list of {}", kind(&schema["items"])),
        "array" => "list".to_owned(),
        "object" if schema["properties"].is_object() => {
            let names: Vec<&str> = schema["properties"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, _)| name.as_str())
                .collect();
            format!("map of {}", names.join(", "))
        }
        "object" if schema["additionalProperties"].is_object() => {
            format!("map of names to {}", kind(&schema["additionalProperties"]))
        }
        "object" => "map".to_owned(),
        other => other.to_owned(),
    };
    words.iter().map(|text| word(text)).collect::<Vec<_>>().join(" or ")
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for part in text.split('\n') {
        let mut line = String::new();
        for word in part.split_whitespace() {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

/// `docs/modules.md`.
fn markdown(registry: &Registry) -> String {
    let mut text = String::from(
        "# Modules\n\nThe kinds of state that a states file can declare. This file is made by `mainstay modules --markdown` \
         from the code; a test keeps it so. What is not set is not managed.\n\n",
    );
    for (name, module) in registry.iter() {
        // Writing to a text never fails.
        let _ = writeln!(text, "- [`{name}`](#{name}): {}", module.about().summary);
    }
    for (name, module) in registry.iter() {
        let (about, schema) = (module.about(), module.schema());
        let _ = writeln!(text, "\n## {name}\n\n{}\n", about.summary);
        text.push_str("| Parameter | Value | Meaning |\n| --- | --- | --- |\n");
        for parameter in parameters(&schema, &about) {
            let cell = |text: &str| text.replace('|', "\\|").replace("\n\n", "<br>");
            let _ = writeln!(
                text,
                "| `{}` | {} | {} |",
                parameter.name,
                cell(&parameter.marks()),
                cell(&parameter.meaning)
            );
        }
        let _ = writeln!(
            text,
            "\n**Dry run.** {}\n\n**Refresh.** {}\n",
            about.dry_run,
            refresh(module.refreshes())
        );
        text.push_str("**Outputs.**\n\n");
        for (name, meaning) in outputs(&about) {
            let _ = writeln!(text, "- `{name}`: {meaning}");
        }
        let _ = writeln!(text, "\n```yaml\n{}\n```", about.example.trim_matches('\n'));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_told_in_words() {
        for (schema, words) in [
            (json!({"type": "string"}), "text"),
            (json!({"type": ["string", "null"]}), "text"),
            (json!({"type": "array", "items": {"type": "integer"}}), "list of whole number"),
            (json!({"enum": ["present", "absent", null]}), "present | absent"),
            (json!({"oneOf": [{"const": "a"}, {"const": "b"}]}), "a | b"),
            (
                json!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}]}),
                "text or list of text",
            ),
            (json!({"type": "object", "additionalProperties": {"type": "string"}}), "map of names to text"),
            (
                json!({"type": "string", "x-mainstay": "template"}),
                "name of a template beside the states file",
            ),
            (json!({}), "any value"),
        ] {
            assert_eq!(kind(&schema), words);
        }
    }

    #[test]
    fn text_is_wrapped_between_words() {
        assert_eq!(wrapped("aa bb cc\n\ndd", 5), ["aa bb", "cc", "", "dd"]);
    }
}

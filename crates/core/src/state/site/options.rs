//! What a state has besides its module: guards, options, and the words for requisites.

use std::time::Duration;

use super::ModuleSchema;
use super::settle::{Beside, Settler};
use super::source::{Source, kind};
use crate::near_miss::near_miss;
use crate::state::catalog::{Guards, Options, Place, Rank, RequisiteKind, Retry};
use crate::state::param::{Param, ParamValue};
use crate::state::schema::{Checker, shown};
use crate::state::template::is_template;
use crate::time::Span;
use crate::yaml::{Key, Tree, Value};

/// Most attempts of a `retry`, and the longest wait between two of them: what should go on for longer is a schedule.
pub(crate) const MAX_ATTEMPTS: i128 = 1_000;
const MAX_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// The wait between attempts unless one is given.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);

/// What an entry of a state is, if it is not its module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Word {
    Requisite { kind: RequisiteKind, reversed: bool },
    Use { reversed: bool },
    ForEach,
    Guard,
    Option,
}

const GUARDS: [&str; 4] = ["unless", "onlyif", "creates", "when"];
const OPTIONS: [&str; 7] = ["order", "failhard", "retry", "parallel", "check_cmd", "become", "sensitive"];

impl Word {
    pub(super) fn of(name: &str) -> Option<Self> {
        let (plain, reversed) = match name.strip_suffix("_in") {
            Some(plain) => (plain, true),
            None => (name, false),
        };
        match plain {
            "use" => return Some(Self::Use { reversed }),
            "onfail_any" => return Some(Self::Requisite { kind: RequisiteKind::Onfail, reversed }),
            _ => {}
        }
        if let Some(kind) = RequisiteKind::ALL.into_iter().find(|kind| kind.word() == plain) {
            return Some(Self::Requisite { kind, reversed });
        }
        match name {
            "for_each" => Some(Self::ForEach),
            name if GUARDS.contains(&name) => Some(Self::Guard),
            name if OPTIONS.contains(&name) => Some(Self::Option),
            _ => None,
        }
    }

    /// All words, for those that are misspelt.
    pub(super) fn all() -> Vec<String> {
        let mut kinds: Vec<&str> = RequisiteKind::ALL.iter().map(|kind| kind.word()).collect();
        kinds.extend(["onfail_any", "use"]);
        let reversed = kinds.iter().map(|kind| format!("{kind}_in"));
        let plain = kinds.iter().chain(&GUARDS).chain(&OPTIONS).chain(&["for_each"]);
        plain.map(|word| (*word).to_owned()).chain(reversed).collect()
    }
}

/// Reads guards and options; other entries are passed over.
pub(super) fn read(
    settler: &Settler<'_>,
    source: &Source,
    entries: &[(Key, Tree)],
    module: &ModuleSchema,
    checker: &Checker,
) -> (Guards, Options) {
    let reader = Reader { settler, source, module, checker };
    let (mut guards, mut options) = (Guards::default(), Options::default());
    for (key, tree) in entries {
        match key.name.as_str() {
            "unless" => guards.unless = reader.texts(tree, "unless"),
            "onlyif" => guards.onlyif = reader.texts(tree, "onlyif"),
            "creates" => {
                guards.creates = reader.texts(tree, "creates");
                reader.paths(tree);
            }
            "when" => guards.when = settler.expression(source, tree, "when", Beside::Nothing),
            "order" => options.order = reader.rank(tree),
            "failhard" => options.failhard = reader.truth(tree, "failhard").unwrap_or_default(),
            "parallel" => options.parallel = reader.truth(tree, "parallel"),
            "sensitive" => options.sensitive = reader.truth(tree, "sensitive").unwrap_or_default(),
            "check_cmd" => options.check_cmd = reader.text(tree, "check_cmd"),
            "become" => {
                options.become_user = reader.text(tree, "become");
                reader.format(tree, "become", "account");
            }
            "retry" => options.retry = reader.retry(tree),
            _ => {}
        }
    }
    (guards, options)
}

struct Reader<'a> {
    settler: &'a Settler<'a>,
    source: &'a Source,
    module: &'a ModuleSchema,
    checker: &'a Checker,
}

impl Reader<'_> {
    fn note(&self, at: Place, message: String, hint: Option<&str>) {
        self.settler.problems.note(at, message, hint.map(str::to_owned));
    }

    /// A text, rendered or waiting for the machine.
    fn text(&self, tree: &Tree, what: &str) -> Option<String> {
        let param = self.settler.param(self.source, tree);
        match (&param.value, param.as_text()) {
            (ParamValue::Wrong, _) => None,
            (ParamValue::Later(_), _) | (_, Some(_)) => match param.to_json() {
                serde_json::Value::String(text) if text.trim().is_empty() => {
                    self.note(param.at, format!("`{what}` is empty"), Some("leave the line out"));
                    None
                }
                serde_json::Value::String(text) => Some(text),
                _ => None,
            },
            _ => {
                self.note(param.at, format!("`{what}` must be a text, not {}", param.kind()), None);
                None
            }
        }
    }

    fn texts(&self, tree: &Tree, what: &str) -> Vec<String> {
        match &tree.value {
            Value::List(items) if items.is_empty() => {
                let at = self.source.place(tree.position);
                self.note(at, format!("`{what}` is an empty list"), Some("leave the line out"));
                Vec::new()
            }
            Value::List(items) => items.iter().filter_map(|item| self.text(item, what)).collect(),
            _ => self.text(tree, what).into_iter().collect(),
        }
    }

    /// Asks a format of a text that is known already.
    fn format(&self, tree: &Tree, what: &str, format: &str) {
        let Some(text) = tree.as_text().filter(|text| !text.trim().is_empty() && !is_template(text)) else {
            return;
        };
        if let Err(why) = self.checker.format(format, text) {
            let message = format!("`{what}` cannot be {}: {why}", shown(text));
            self.note(self.source.place(tree.position), message, None);
        }
    }

    fn paths(&self, tree: &Tree) {
        match &tree.value {
            Value::List(items) => items.iter().for_each(|item| self.format(item, "creates", "absolute-path")),
            _ => self.format(tree, "creates", "absolute-path"),
        }
    }

    fn truth(&self, tree: &Tree, what: &str) -> Option<bool> {
        let param = self.settler.settled(self.source, tree, &format!("`{what}`"))?;
        match param.value {
            ParamValue::Bool(value) => Some(value),
            _ => {
                self.note(param.at, format!("`{what}` must be true or false, not {}", param.kind()), None);
                None
            }
        }
    }

    fn rank(&self, tree: &Tree) -> Option<Rank> {
        let param = self.settler.settled(self.source, tree, "`order`")?;
        let rank = match (&param.value, param.as_text()) {
            (ParamValue::Int(number), _) => i64::try_from(*number).ok().map(Rank::Number),
            (_, Some("first")) => Some(Rank::First),
            (_, Some("last")) => Some(Rank::Last),
            _ => None,
        };
        if rank.is_none() {
            self.note(param.at, "`order` of a state is a whole number, first or last".into(), None);
        }
        rank
    }

    fn retry(&self, tree: &Tree) -> Option<Retry> {
        const WORDS: [&str; 4] = ["attempts", "interval", "splay", "until"];
        let at = self.source.place(tree.position);
        let Value::Map(entries) = &tree.value else {
            let message =
                format!("`retry` is a map with attempts, interval, splay and until, not {}", kind(tree));
            self.note(at, message, None);
            return None;
        };
        let mut attempts = None;
        let mut retry = Retry { attempts: 0, interval: DEFAULT_INTERVAL, splay: Duration::ZERO, until: None };
        for (key, tree) in entries {
            match key.name.as_str() {
                "attempts" => attempts = Some(self.attempts(tree)),
                "interval" => retry.interval = self.time(tree, "interval").unwrap_or(DEFAULT_INTERVAL),
                "splay" => retry.splay = self.time(tree, "splay").unwrap_or_default(),
                "until" => {
                    let outputs = Beside::Outputs(self.module.outputs.as_deref());
                    retry.until = self.settler.expression(self.source, tree, "until", outputs);
                }
                name => {
                    let hint = near_miss(name, WORDS).map(|near| format!("did you mean {near}?"));
                    let at = self.source.place(key.position);
                    self.settler.problems.note(at, format!("`retry` has no {}", shown(name)), hint);
                }
            }
        }
        match attempts {
            Some(attempts) => retry.attempts = attempts?,
            None => {
                self.note(at, "`retry` has no `attempts`".into(), Some("the first attempt counts as one"));
                return None;
            }
        }
        Some(retry)
    }

    fn attempts(&self, tree: &Tree) -> Option<u32> {
        let param = self.settler.settled(self.source, tree, "`attempts`")?;
        match param.value {
            ParamValue::Int(number @ 1..=MAX_ATTEMPTS) => u32::try_from(number).ok(),
            _ => {
                let message = format!("`attempts` is a whole number, 1 to {MAX_ATTEMPTS}");
                self.note(param.at, message, Some("the first attempt counts as one"));
                None
            }
        }
    }

    fn time(&self, tree: &Tree, what: &str) -> Option<Duration> {
        let param = self.settler.settled(self.source, tree, &format!("`{what}`"))?;
        let time = duration(&param);
        match time {
            Some(time) if time <= MAX_INTERVAL => Some(time),
            Some(_) => {
                self.note(param.at, format!("`{what}` is longer than {}", Span(MAX_INTERVAL)), None);
                None
            }
            None => {
                self.note(param.at, format!("`{what}` must be a number of seconds or a text like 30s"), None);
                None
            }
        }
    }
}

fn duration(param: &Param) -> Option<Duration> {
    match (&param.value, param.as_text()) {
        (ParamValue::Int(seconds), _) => u64::try_from(*seconds).ok().map(Duration::from_secs),
        (ParamValue::Float(seconds), _) => Span::from_seconds(*seconds).map(|span| span.0),
        (_, Some(text)) => text.parse::<Span>().ok().map(|span| span.0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_known_and_no_other() {
        for word in Word::all() {
            assert!(Word::of(&word).is_some(), "{word}");
        }
        for other in ["require_in_in", "for_each_in", "unless_in", "order_in", "requires", "file", ""] {
            assert_eq!(Word::of(other), None, "{other}");
        }
        assert_eq!(
            Word::of("onfail_any_in"),
            Some(Word::Requisite { kind: RequisiteKind::Onfail, reversed: true })
        );
        assert_eq!(
            Word::of("require_any"),
            Some(Word::Requisite { kind: RequisiteKind::RequireAny, reversed: false })
        );
    }
}

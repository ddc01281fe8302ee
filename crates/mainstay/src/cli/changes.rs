//! Plans and reports as people read them: lines of text, each with a tone that a terminal may colour.
//!
//! Everything that came from a machine is made harmless here, whoever reads it. Nothing is written here.

use std::collections::HashMap;

use mainstay_core::state::plan::{Change, Datum, Plan, PlanStep, StateReport};
use mainstay_core::state::session::Tell;
use mainstay_core::state::{StateId, StateOutcome, StepWord};
use owo_colors::Style;
use serde_json::Value;

use super::screen::{harmless, one_line};
use crate::up::Aside;
use crate::up::hub::replay::Told;

/// Lines of one diff that are shown unless everything is asked for: more than a screen of them is not read.
const DIFF_LINES: usize = 60;

/// Characters of one value or line that are shown: some lines of a terminal.
const LINE_CHARS: usize = 300;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Tone {
    Plain,
    Good,
    Bad,
    Added,
    Removed,
    Changed,
    Unsure,
    Dim,
}

impl Tone {
    pub(super) fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Good | Self::Added => Style::new().green(),
            Self::Bad => Style::new().red().bold(),
            Self::Removed => Style::new().red(),
            Self::Changed => Style::new().yellow(),
            Self::Unsure => Style::new().cyan(),
            Self::Dim => Style::new().dimmed(),
        }
    }
}

/// One line, without control characters.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) tone: Tone,
}

/// How much is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Detail {
    /// What stays as it is too, and long diffs whole.
    pub(super) verbose: bool,
    /// Every state with the reason for its place.
    pub(super) explain: bool,
    /// What is owed for states that are gone is given up in this run.
    pub(super) drops_orphans: bool,
}

fn line(tone: Tone, text: impl Into<String>) -> Line {
    Line { text: text.into(), tone }
}

/// The steps of a plan, without its heading.
pub(super) fn plan(plan: &Plan, detail: Detail) -> Vec<Line> {
    let mut lines = Vec::new();
    for step in &plan.steps {
        let is_quiet = step.step == StepWord::Unchanged && step.refresh.is_none();
        if !is_quiet || detail.verbose || detail.explain {
            plan_step(step, detail, &mut lines);
        }
    }
    for orphan in &plan.orphans {
        let orphan = one_line(orphan);
        let text = match detail.drops_orphans {
            true => format!("  to be given up, as its state is gone: {orphan}"),
            false => {
                format!("  still owed for a state that is gone: {orphan} (up --drop-orphans gives it up)")
            }
        };
        lines.push(line(Tone::Unsure, text));
    }
    lines
}

/// `2 to change, 1 conditional, 12 unchanged`.
pub(super) fn plan_counts(plan: &Plan) -> String {
    let mut counts = [0_usize; 6];
    for step in &plan.steps {
        counts[match (step.step, &step.refresh) {
            (StepWord::Change, _) => 0,
            (StepWord::Conditional, _) => 1,
            (StepWord::Opaque, _) => 2,
            (StepWord::Error, _) => 4,
            (StepWord::Unchanged, Some(_)) => 3,
            (StepWord::Unchanged, None) => 5,
        }] += 1;
    }
    let words = ["to change", "conditional", "opaque", "to refresh", "in error", "unchanged"];
    let parts: Vec<String> = counts
        .iter()
        .zip(words)
        .filter(|(count, _)| **count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    if parts.is_empty() { "no states".to_owned() } else { parts.join(", ") }
}

fn plan_step(step: &PlanStep, detail: Detail, lines: &mut Vec<Line>) {
    let (sign, tone) = match (step.step, &step.refresh) {
        (StepWord::Change, _) => sign_of(&step.changes),
        (StepWord::Conditional, _) => ('?', Tone::Unsure),
        (StepWord::Opaque, _) => ('!', Tone::Unsure),
        (StepWord::Error, _) => ('✗', Tone::Bad),
        (StepWord::Unchanged, Some(_)) => ('↻', Tone::Changed),
        (StepWord::Unchanged, None) => ('=', Tone::Dim),
    };
    let of = (&step.state, &*step.module, step.step.word());
    lines.extend(said(sign, tone, of, step.reason.as_deref(), detail));
    changes(&step.changes, detail, lines);
    if let Some(because) = &step.refresh {
        lines.push(line(Tone::Changed, format!("      refresh {}", cause(because))));
    }
}

fn cause(because: &[StateId]) -> String {
    if because.is_empty() {
        return "owed from an earlier run".into();
    }
    let names: Vec<String> = because.iter().map(|state| one_line(state.as_str())).collect();
    format!("because of {}", names.join(", "))
}

/// A state and what is said of it: the first line of the reason beside it, the others below.
fn said(
    sign: char,
    tone: Tone,
    of: (&StateId, &str, &str),
    reason: Option<&str>,
    detail: Detail,
) -> Vec<Line> {
    let (state, module, word) = of;
    let mut title = format!("  {sign} {} ({}) {word}", one_line(state.as_str()), one_line(module));
    let reason: Vec<&str> = reason.unwrap_or_default().trim_end().lines().collect();
    let Some((first, others)) = reason.split_first() else { return vec![line(tone, title)] };
    title.push_str(": ");
    title.push_str(&words(first, detail));
    let left_out = if detail.verbose { 0 } else { others.len().saturating_sub(DIFF_LINES) };
    let mut lines = vec![line(tone, title)];
    let (before, after) = others.split_at((others.len() - left_out) / 2);
    lines.extend(before.iter().map(|more| line(tone, format!("      {}", words(more, detail)))));
    if left_out > 0 {
        lines.push(line(Tone::Dim, format!("      … {left_out} more lines; -v shows them")));
    }
    let after = &after[left_out..];
    lines.extend(after.iter().map(|more| line(tone, format!("      {}", words(more, detail)))));
    lines
}

/// A line of a reason. It begins with the call that failed and ends with the system's words, so a long one loses its middle.
fn words(text: &str, detail: Detail) -> String {
    let text = one_line(text.trim_end());
    let count = text.chars().count();
    if detail.verbose || count <= LINE_CHARS {
        return text;
    }
    let head: String = text.chars().take(LINE_CHARS / 3).collect();
    let tail: String = text.chars().skip(count - LINE_CHARS * 2 / 3).collect();
    format!("{head} … {tail}")
}

/// Made, taken away, or altered: `exists` is what modules say of a thing as a whole.
fn sign_of(changes: &[Change]) -> (char, Tone) {
    let is_there = |datum: &Datum| match datum {
        Datum::Absent => false,
        Datum::Known(value) | Datum::Predicted { value, .. } => *value != Value::Bool(false),
        Datum::Unknown { .. } | Datum::Secret { .. } => true,
    };
    match changes.iter().find(|change| change.field == "exists") {
        Some(change) if !is_there(&change.before) && is_there(&change.after) => ('+', Tone::Added),
        Some(change) if is_there(&change.before) && !is_there(&change.after) => ('-', Tone::Removed),
        _ => ('~', Tone::Changed),
    }
}

fn changes(changes: &[Change], detail: Detail, lines: &mut Vec<Line>) {
    for change in changes {
        if change.field == Change::MORE {
            let mark = mark(&change.after).unwrap_or_default();
            lines.push(line(Tone::Unsure, format!("      … perhaps more {mark}")));
            continue;
        }
        let field = one_line(&change.field);
        match &change.diff {
            None => {
                let text = format!("      {field}: {} → {}", datum(&change.before), datum(&change.after));
                lines.push(line(Tone::Plain, text));
            }
            Some(diff) => {
                let mark = mark(&change.after).map(|mark| format!(" {mark}")).unwrap_or_default();
                lines.push(line(Tone::Plain, format!("      {field}:{mark}")));
                diff_lines(diff, detail, lines);
            }
        }
    }
}

fn diff_lines(diff: &str, detail: Detail, lines: &mut Vec<Line>) {
    let diff = harmless(diff);
    let most = if detail.verbose { usize::MAX } else { DIFF_LINES };
    for text in diff.lines().take(most) {
        let tone = match text.as_bytes().first() {
            Some(b'+') => Tone::Added,
            Some(b'-') => Tone::Removed,
            Some(b'@') => Tone::Unsure,
            _ => Tone::Dim,
        };
        let text = if detail.verbose { text.to_owned() } else { cut(text, LINE_CHARS) };
        lines.push(line(tone, format!("        {text}")));
    }
    let left = diff.lines().count().saturating_sub(most);
    if left > 0 {
        lines.push(line(Tone::Dim, format!("        … {left} more lines; -v shows them")));
    }
}

/// What a value is not known by itself for.
fn mark(datum: &Datum) -> Option<String> {
    match datum {
        Datum::Predicted { by, .. } => Some(format!("(predicted, after {})", one_line(by.as_str()))),
        Datum::Unknown { until } => Some(format!("(known after {})", one_line(until.as_str()))),
        Datum::Absent | Datum::Known(_) | Datum::Secret { .. } => None,
    }
}

fn datum(datum: &Datum) -> String {
    let text = match datum {
        Datum::Absent => "absent".to_owned(),
        Datum::Known(known) => value(known),
        Datum::Predicted { value: predicted, .. } => value(predicted),
        Datum::Unknown { .. } => String::new(),
        Datum::Secret { .. } => "‹secret›".to_owned(),
    };
    match mark(datum) {
        Some(mark) if text.is_empty() => mark,
        Some(mark) => format!("{text} {mark}"),
        None => text,
    }
}

/// A text is bare unless it could be taken for something else.
fn value(value: &Value) -> String {
    let bare = |text: &str| {
        !text.is_empty()
            && text != "absent"
            && !text.starts_with(['(', '‹', '"', '{', '['])
            && text.trim() == text
            && !text.contains(['\n', '\t', '→'])
            && serde_json::from_str::<Value>(text).is_err()
    };
    let text = match value {
        Value::String(text) if bare(text) => text.clone(),
        other => other.to_string(),
    };
    cut(&one_line(&text), LINE_CHARS)
}

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}… ({} characters)", &text[..at], text.chars().count()),
        None => text.to_owned(),
    }
}

/// What a state did. Its changes are told where the plan had not: `foreseen` steps were shown with theirs.
pub(super) fn report(report: &StateReport, foreseen: Option<StepWord>, detail: Detail) -> Vec<Line> {
    let (sign, tone) = match report.outcome {
        StateOutcome::Changed => ('✓', Tone::Good),
        StateOutcome::Unchanged => ('=', Tone::Dim),
        StateOutcome::Skipped => ('·', Tone::Dim),
        StateOutcome::Failed => ('✗', Tone::Bad),
        StateOutcome::Blocked => ('⊘', Tone::Bad),
    };
    let is_quiet = matches!(report.outcome, StateOutcome::Unchanged | StateOutcome::Skipped);
    if is_quiet && !detail.verbose {
        return Vec::new();
    }
    let mut word = report.outcome.word().to_owned();
    if report.refreshed {
        word.push_str(", refreshed");
    }
    let of = (&report.state, &*report.module, &*word);
    let mut lines = said(sign, tone, of, report.reason.as_deref(), detail);
    if detail.verbose || foreseen != Some(StepWord::Change) {
        changes(&report.changes, detail, &mut lines);
    }
    lines
}

/// A word of a machine by itself, for who watches it come.
pub(super) fn told(told: &Told, detail: Detail) -> Vec<Line> {
    let tell = match told {
        Told::Plan(made) => {
            let head = line(Tone::Plain, format!("plan: {}", plan_counts(made)));
            return std::iter::once(head).chain(plan(made, detail)).collect();
        }
        Told::Tell(tell) => tell,
    };
    match tell {
        Tell::Report(done) => report(done, None, detail),
        Tell::Applied { drift: Some(drift), .. } => {
            vec![line(Tone::Bad, words(&Aside::Drift(drift.clone()).to_string(), detail))]
        }
        Tell::Problem { message } => vec![line(Tone::Bad, words(message, detail))],
        Tell::Steps(_) | Tell::Planned(_) | Tell::Applied { .. } | Tell::Hello { .. } | Tell::Turn { .. } => {
            Vec::new()
        }
    }
}

/// Changes as one text for programs: whole, and with the very characters.
pub(super) fn text_of(changes: &[Change]) -> Option<String> {
    if changes.is_empty() {
        return None;
    }
    let plain = |datum: &Datum| match datum {
        Datum::Known(value) | Datum::Predicted { value, .. } => value.to_string(),
        Datum::Absent => "absent".into(),
        Datum::Unknown { until } => format!("(known after {until})"),
        Datum::Secret { .. } => "‹secret›".into(),
    };
    let mut text = String::new();
    for change in changes {
        match &change.diff {
            Some(diff) => {
                text.push_str(&format!("{}:\n{diff}", change.field));
                if !text.ends_with('\n') {
                    text.push('\n');
                }
            }
            None => {
                text.push_str(&format!(
                    "{}: {} → {}\n",
                    change.field,
                    plain(&change.before),
                    plain(&change.after)
                ));
            }
        }
    }
    Some(text)
}

/// Machines with equal lines under one, in the order of the first of each; what goes wrong last.
pub(super) fn fold<'a, T: PartialEq + Eq + std::hash::Hash + Clone>(
    blocks: impl IntoIterator<Item = (&'a str, T)>,
) -> Vec<(Vec<&'a str>, T)> {
    let mut places: HashMap<T, usize> = HashMap::new();
    let mut folded: Vec<(Vec<&'a str>, T)> = Vec::new();
    for (name, block) in blocks {
        match places.get(&block) {
            Some(at) => folded[*at].0.push(name),
            None => {
                places.insert(block.clone(), folded.len());
                folded.push((vec![name], block));
            }
        }
    }
    folded
}

#[cfg(test)]
mod tests {
    use mainstay_core::state::catalog::CatalogDigest;
    use mainstay_core::state::plan::PlanHead;

    use super::*;

    fn step(state: &str, module: &str, step: StepWord) -> PlanStep {
        PlanStep {
            state: state.into(),
            module: module.into(),
            step,
            reason: None,
            changes: vec![],
            refresh: None,
        }
    }

    fn example() -> Plan {
        let known = |value: serde_json::Value| Datum::Known(value);
        let by = || StateId::from("app-user");
        let orphans = vec!["refresh of gone (service)".into()];
        Plan {
            head: PlanHead { orphans, ..PlanHead::new(CatalogDigest("c".into()), "m", 1) },
            steps: vec![
                step("base", "directory", StepWord::Unchanged),
                PlanStep {
                    changes: vec![
                        Change::new("exists", known(false.into()), known(true.into())),
                        Change::new("uid", Datum::Absent, Datum::Unknown { until: by() }),
                    ],
                    ..step("app-user", "user", StepWord::Change)
                },
                PlanStep {
                    changes: vec![
                        Change::new(
                            "owner",
                            known("root".into()),
                            Datum::Predicted { value: "app".into(), by: by() },
                        ),
                        Change::new("mode", known("0644".into()), known("0640".into())),
                        Change::new("content", known("a".into()), known("b".into()))
                            .diff("@@ -1,2 +1,2 @@\n same\n-port = 80\n+port = 8080\u{1b}[2J\n"),
                        Change::new(
                            "key",
                            Datum::Secret { digest: "1".into() },
                            Datum::Secret { digest: "2".into() },
                        ),
                    ],
                    ..step("app-conf", "file", StepWord::Change)
                },
                PlanStep {
                    changes: vec![Change::new("exists", known(true.into()), Datum::Absent)],
                    ..step("old", "file", StepWord::Change)
                },
                PlanStep {
                    reason: Some("known after app-conf".into()),
                    refresh: Some(vec!["app-conf".into(), "old".into()]),
                    ..step("app-service", "service", StepWord::Conditional)
                },
                PlanStep { refresh: Some(vec![]), ..step("proxy", "service", StepWord::Unchanged) },
                PlanStep {
                    reason: Some("runs `logger hi`\u{7}\n".into()),
                    ..step("note", "cmd", StepWord::Opaque)
                },
                PlanStep {
                    reason: Some("read /etc/x: Permission denied".into()),
                    ..step("x", "file", StepWord::Error)
                },
            ],
        }
    }

    fn text(lines: &[Line]) -> String {
        lines.iter().map(|line| format!("{}\n", line.text)).collect()
    }

    #[test]
    fn a_plan_reads_well() {
        insta::assert_snapshot!(text(&plan(&example(), Detail::default())), @r#"
          + app-user (user) change
              exists: false → true
              uid: absent → (known after app-user)
          ~ app-conf (file) change
              owner: root → app (predicted, after app-user)
              mode: 0644 → 0640
              content:
                @@ -1,2 +1,2 @@
                 same
                -port = 80
                +port = 8080^[[2J
              key: ‹secret› → ‹secret›
          - old (file) change
              exists: true → absent
          ? app-service (service) conditional: known after app-conf
              refresh because of app-conf, old
          ↻ proxy (service) unchanged
              refresh owed from an earlier run
          ! note (cmd) opaque: runs `logger hi`^G
          ✗ x (file) error: read /etc/x: Permission denied
          still owed for a state that is gone: refresh of gone (service) (up --drop-orphans gives it up)
        "#);
        insta::assert_snapshot!(plan_counts(&example()), @"3 to change, 1 conditional, 1 opaque, 1 to refresh, 1 in error, 1 unchanged");
    }

    #[test]
    fn what_is_owed_and_given_up_in_this_run_is_said_so() {
        let all = text(&plan(&example(), Detail { drops_orphans: true, ..Detail::default() }));
        assert!(all.contains("  to be given up, as its state is gone: refresh of gone (service)\n"), "{all}");
        assert!(!all.contains("--drop-orphans"), "{all}");
    }

    #[test]
    fn verbose_shows_what_stays() {
        let all = text(&plan(&example(), Detail { verbose: true, ..Detail::default() }));
        assert!(all.starts_with("  = base (directory) unchanged\n"), "{all}");
    }

    #[test]
    fn texts_are_quoted_where_they_could_be_something_else() {
        for (given, shown) in [
            (Value::from("0640"), "0640"),
            (Value::from("640"), "\"640\""),
            (Value::from(640), "640"),
            (Value::from("true"), "\"true\""),
            (Value::from(true), "true"),
            (Value::from("absent"), "\"absent\""),
            (Value::from(""), "\"\""),
            (Value::from(" x"), "\" x\""),
            (Value::from("a\nb"), r#""a\nb""#),
            (Value::from("‹secret›"), "\"‹secret›\""),
            (Value::from("(known after x)"), "\"(known after x)\""),
            (serde_json::json!(["a", 1]), r#"["a",1]"#),
            (Value::Null, "null"),
        ] {
            assert_eq!(value(&given), shown);
        }
    }

    #[test]
    fn monstrous_diffs_are_cut_with_a_note() {
        let diff: String = (0..1000).map(|n| format!("+line {n}\n")).collect();
        let change = Change::new("content", Datum::Absent, Datum::known("x")).diff(diff + &"x".repeat(5000));
        let mut long = step("a", "file", StepWord::Change);
        long.changes.push(change);
        let example = Plan { steps: vec![long], ..example() };
        let lines = plan(&example, Detail::default());
        assert_eq!(lines.len(), 2 + DIFF_LINES + 2);
        assert_eq!(lines[2 + DIFF_LINES].text, "        … 941 more lines; -v shows them");
        let all = plan(&example, Detail { verbose: true, ..Detail::default() });
        assert_eq!(all.len(), 2 + 1001 + 1);
    }

    #[test]
    fn a_long_reason_keeps_its_call_and_the_words_of_the_system() {
        let mut failed = step("a", "cmd", StepWord::Error);
        let reason = format!("run git {} fetch: exit status 128: fatal: no repository", "-c a=b ".repeat(90));
        failed.reason = Some(reason.clone() + "\nnext" + &"\nmore".repeat(2 * DIFF_LINES) + "\nlast");
        let example = Plan { steps: vec![failed], ..example() };
        let texts = |detail| {
            let lines = plan(&example, detail);
            lines.into_iter().map(|line| line.text).collect::<Vec<_>>()
        };
        let short = texts(Detail::default());
        let title = short.iter().find(|line| line.contains("run git")).unwrap();
        assert!(title.starts_with("  ✗ a (cmd) error: run git -c a=b"), "{title}");
        assert!(title.ends_with("fetch: exit status 128: fatal: no repository"), "{title}");
        assert!(title.chars().count() < LINE_CHARS + 30, "{title}");
        let below = &short[short.iter().position(|line| line == title).unwrap() + 1..];
        assert_eq!(below[0], "      next");
        assert!(below.contains(&"      … 62 more lines; -v shows them".to_owned()), "{below:?}");
        assert!(below.contains(&"      last".to_owned()), "{below:?}");
        let whole = texts(Detail { verbose: true, ..Detail::default() });
        assert!(whole.iter().any(|line| line.ends_with(reason.as_str())), "{whole:?}");
    }

    #[test]
    fn reports_tell_what_the_plan_could_not() {
        let done = StateReport {
            state: "app".into(),
            module: "service".into(),
            outcome: StateOutcome::Failed,
            reason: Some("start app: exit 1\nJob failed.\n\u{1b}c".into()),
            changes: vec![Change::new("running", Datum::known(false), Datum::known(true))],
            refreshed: true,
            outputs: Default::default(),
            duration_ms: 3,
        };
        insta::assert_snapshot!(text(&report(&done, Some(StepWord::Conditional), Detail::default())), @r#"
          ✗ app (service) failed, refreshed: start app: exit 1
              Job failed.
              ^[c
              running: false → true
        "#);
        let foreseen = report(&done, Some(StepWord::Change), Detail::default());
        assert!(!text(&foreseen).contains("running:"));
        let quiet = StateReport { outcome: StateOutcome::Skipped, ..done };
        assert!(report(&quiet, None, Detail::default()).is_empty());
    }

    #[test]
    fn equal_plans_fold() {
        let folded = fold([("a", 1), ("b", 2), ("c", 1)]);
        assert_eq!(folded, [(vec!["a", "c"], 1), (vec!["b"], 2)]);
    }
}

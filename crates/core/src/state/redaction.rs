//! What must not be seen, and hiding it in everything that leaves a machine.
//!
//! Two nets, one behind the other. What is known to come from a secret is hidden whole: its values become
//! [`Datum::Secret`]. Behind it, every text is searched for the secrets themselves and their base64 forms, since a file that
//! nobody declared secret, or a program's own words, may hold one. Which states come from secrets is the engine's to say.

use std::borrow::Cow;
use std::collections::BTreeSet;

use aho_corasick::{AhoCorasick, MatchKind};
use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD};
use serde_json::Value;

use super::Values;
use super::plan::{Change, Datum, PlanStep, StateReport};

/// Stands where a secret was.
pub const HIDDEN: &str = "‹secret›";

/// Shorter secrets are in every text by chance; only the first net hides them.
pub const SHORTEST: usize = 4;

/// Lines of a longer secret are hidden one by one, since a diff shows them so; shorter ones (`}`, `true`) tell nothing.
const SHORTEST_LINE: usize = 8;

/// Programs break base64 into lines of 64 or 76; narrower ones than this are words.
const NARROWEST: usize = 16;

/// Outputs of a state that was given a secret are taken for secrets. These would hide half of every plan, and tell nothing.
const TELLING_NOTHING: [&str; 9] =
    ["true", "false", "null", "none", "changed", "unchanged", "skipped", "failed", "blocked"];

/// Finds secrets in texts.
#[derive(Debug, Default)]
pub struct Redactor {
    known: BTreeSet<Vec<u8>>,
    /// Each about twice as large as the next, so that adding secrets one by one does not build one large net again
    /// and again.
    nets: Vec<Net>,
}

#[derive(Debug)]
struct Net {
    secrets: Vec<Vec<u8>>,
    search: AhoCorasick,
    /// The patterns from here on are base64.
    encoded_from: usize,
}

impl Redactor {
    /// Looks for every text and number in `secrets`.
    pub fn new(secrets: &Values) -> Self {
        let mut redactor = Self::default();
        let mut found = Vec::new();
        for value in secrets.values() {
            leaves(value, &mut found);
        }
        redactor.add(found);
        redactor
    }

    /// Looks from now on for what came out of something secret, too.
    pub fn learn(&mut self, value: &Value) {
        let mut found = Vec::new();
        leaves(value, &mut found);
        found.retain(|leaf| !TELLING_NOTHING.contains(&leaf.as_str()));
        self.add(found);
    }

    fn add(&mut self, found: Vec<String>) {
        let mut new: Vec<Vec<u8>> = Vec::new();
        for leaf in found {
            let leaf = leaf.trim_end_matches(['\r', '\n']);
            let lines = leaf.lines().filter(|line| line.len() >= SHORTEST_LINE && line.len() < leaf.len());
            for part in std::iter::once(leaf).chain(lines) {
                if part.len() >= SHORTEST && self.known.insert(part.as_bytes().to_vec()) {
                    new.push(part.as_bytes().to_vec());
                }
            }
        }
        if new.is_empty() {
            return;
        }
        while self.nets.last().is_some_and(|net| net.secrets.len() <= new.len()) {
            new.extend(self.nets.pop().into_iter().flat_map(|net| net.secrets));
        }
        self.nets.push(Net::new(new));
    }

    /// The text without secrets.
    pub fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut text = Cow::Borrowed(text);
        for net in &self.nets {
            if let Some(hidden) = net.hide(&text) {
                text = Cow::Owned(hidden);
            }
        }
        text
    }

    /// Hides in place; tells whether there was anything.
    pub fn string(&self, text: &mut String) -> bool {
        let hidden = match self.text(text) {
            Cow::Borrowed(_) => None,
            Cow::Owned(hidden) => Some(hidden),
        };
        match hidden {
            Some(hidden) => {
                *text = hidden;
                true
            }
            None => false,
        }
    }

    /// Hides in every text of the value, names of fields included.
    pub fn value(&self, value: &mut Value) -> bool {
        match value {
            Value::String(text) => self.string(text),
            Value::Array(items) => items.iter_mut().fold(false, |any, item| self.value(item) | any),
            Value::Object(fields) => self.values(fields),
            // A number is hidden as a whole, and as a text: it has no parts to leave.
            Value::Number(number) => {
                let hide = matches!(self.text(&number.to_string()), Cow::Owned(_));
                if hide {
                    *value = HIDDEN.into();
                }
                hide
            }
            Value::Null | Value::Bool(_) => false,
        }
    }

    pub fn values(&self, values: &mut Values) -> bool {
        if self.nets.is_empty() {
            return false;
        }
        let mut any = false;
        let names: Vec<String> = values.keys().filter(|name| self.text(name) != **name).cloned().collect();
        for name in names {
            let value = values.remove(&name).unwrap_or_default();
            values.insert(self.text(&name).into_owned(), value);
            any = true;
        }
        values.values_mut().fold(any, |any, value| self.value(value) | any)
    }

    fn datum(&self, datum: &mut Datum, key: &DigestKey) {
        let (Datum::Known(value) | Datum::Predicted { value, .. }) = datum else { return };
        let mut hidden = value.clone();
        if self.value(&mut hidden) {
            // Two values that differ only in a secret must not look alike to an approval.
            *datum = key.secret(value);
        }
    }

    fn change(&self, change: &mut Change, key: &DigestKey) {
        if let Cow::Owned(hidden) = self.text(&change.field) {
            change.field = hidden.into();
        }
        self.datum(&mut change.before, key);
        self.datum(&mut change.after, key);
        change.diff.as_mut().map(|diff| self.string(diff));
    }

    /// Hides in all that a step of a plan says.
    pub fn step(&self, step: &mut PlanStep, key: &DigestKey) {
        if self.nets.is_empty() {
            return;
        }
        step.reason.as_mut().map(|reason| self.string(reason));
        step.changes.iter_mut().for_each(|change| self.change(change, key));
    }

    /// Hides in all that a report says.
    pub fn report(&self, report: &mut StateReport, key: &DigestKey) {
        if self.nets.is_empty() {
            return;
        }
        report.reason.as_mut().map(|reason| self.string(reason));
        report.changes.iter_mut().for_each(|change| self.change(change, key));
        self.values(&mut report.outputs);
    }
}

impl Net {
    fn new(secrets: Vec<Vec<u8>>) -> Self {
        let mut plain: BTreeSet<Vec<u8>> = secrets.iter().cloned().collect();
        // As it stands in a JSON text, or in a message that quotes it.
        plain.extend(secrets.iter().filter_map(|secret| {
            let quoted = serde_json::to_string(std::str::from_utf8(secret).ok()?).ok()?;
            Some(quoted.trim_matches('"').as_bytes().to_vec())
        }));
        let encoded: BTreeSet<Vec<u8>> = secrets
            .iter()
            .flat_map(|secret| encoded_forms(secret))
            .filter(|form| !plain.contains(form))
            .collect();
        let encoded_from = plain.len();
        let search = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(plain.iter().chain(&encoded))
            .expect("secrets are far below the automaton's limit of states: a catalog is bounded");
        Self { secrets, search, encoded_from }
    }

    fn hide(&self, text: &str) -> Option<String> {
        let mut spans: Vec<(usize, usize)> = self.spans(text.as_bytes(), 0).collect();
        for with_signs in [false, true] {
            let Some(unwrapped) = Unwrapped::of(text.as_bytes(), with_signs) else { continue };
            let found = self.spans(&unwrapped.bytes, self.encoded_from);
            spans.extend(found.map(|(start, end)| (unwrapped.place(start), unwrapped.place(end - 1) + 1)));
        }
        spans.sort_unstable();
        let mut hidden = String::new();
        let mut from = 0;
        for (start, end) in spans {
            let start = start.max(from);
            hidden.push_str(&text[from..start]);
            // Secrets one beside the other are hidden as one.
            if start > from || !hidden.ends_with(HIDDEN) {
                hidden.push_str(HIDDEN);
            }
            from = end.max(from);
        }
        (from > 0).then(|| hidden + &text[from..])
    }

    /// Where the patterns from this one on are found, and what of the base64 around them depends on a secret.
    fn spans<'t>(&'t self, bytes: &'t [u8], first: usize) -> impl Iterator<Item = (usize, usize)> + 't {
        let found = self.search.find_iter(bytes).filter(move |found| found.pattern().as_usize() >= first);
        found.map(|found| {
            let (mut start, mut end) = (found.start(), found.end());
            if found.pattern().as_usize() >= self.encoded_from {
                // The characters beside it hold bits of the secret and of what is around it.
                start -= usize::from(start > 0 && is_base64(bytes[start - 1]));
                while end < bytes.len()
                    && end - found.end() < 3
                    && (is_base64(bytes[end]) || bytes[end] == b'=')
                {
                    end += 1;
                }
            }
            (start, end)
        })
    }
}

/// A text in which the lines that base64 was broken into are one again.
struct Unwrapped {
    bytes: Vec<u8>,
    /// Where each part is here, and where in the text.
    parts: Vec<(usize, usize)>,
}

impl Unwrapped {
    /// Nothing if no line looks like that. `with_signs`: each line has a diff's sign first, which is base64 too.
    fn of(text: &[u8], with_signs: bool) -> Option<Self> {
        let mut unwrapped = Self { bytes: Vec::new(), parts: Vec::new() };
        let mut from = 0;
        let breaks = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at);
        for at in breaks {
            let end = at - usize::from(at > from && text[at - 1] == b'\r');
            if end < from + NARROWEST || !text[end - NARROWEST..end].iter().all(|byte| is_base64(*byte)) {
                continue;
            }
            let mut next = at + 1;
            next += usize::from(with_signs && matches!(text.get(next), Some(b'+' | b'-' | b' ')));
            next += text[next..].iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
            if text.get(next).is_some_and(|byte| is_base64(*byte)) {
                unwrapped.part(from, &text[from..end]);
                from = next;
            }
        }
        if from == 0 {
            return None;
        }
        unwrapped.part(from, &text[from..]);
        Some(unwrapped)
    }

    fn part(&mut self, at: usize, bytes: &[u8]) {
        self.parts.push((self.bytes.len(), at));
        self.bytes.extend_from_slice(bytes);
    }

    /// Where in the text a byte is.
    fn place(&self, at: usize) -> usize {
        let part = self.parts.partition_point(|(here, _)| *here <= at) - 1;
        let (here, there) = self.parts[part];
        there + (at - here)
    }
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_')
}

/// What is always in the base64 of a text that holds the secret, at each place that it may have among threes of bytes.
fn encoded_forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = Vec::with_capacity(6);
    // With so many bytes before it, that many characters depend on what these are.
    for (before, depend) in [(0, 0), (1, 2), (2, 3)] {
        let bytes: Vec<u8> = std::iter::repeat_n(0, before).chain(secret.iter().copied()).collect();
        // A last character that is not filled depends on what comes after.
        let settled = bytes.len() * 8 / 6;
        for encoding in [&BASE64_NOPAD, &BASE64URL_NOPAD] {
            forms.push(encoding.encode(&bytes).as_bytes()[depend..settled].to_vec());
        }
    }
    forms
}

fn leaves(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Number(number) => found.push(number.to_string()),
        Value::Array(items) => items.iter().for_each(|item| leaves(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| leaves(field, found)),
        Value::Null | Value::Bool(_) => {}
    }
}

/// What only the machine knows: with it the digests of secrets tell two values apart and cannot be tried out elsewhere.
#[derive(Clone)]
pub struct DigestKey([u8; 32]);

impl DigestKey {
    pub fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    pub fn secret(&self, value: &Value) -> Datum {
        let bytes = serde_json::to_vec(value).expect("a JSON value has a JSON text");
        Datum::Secret { digest: blake3::keyed_hash(&self.0, &bytes).to_hex().to_string() }
    }

    /// Hides what a datum says, and leaves that it says something.
    pub fn hide(&self, datum: &mut Datum) {
        if let Datum::Known(value) | Datum::Predicted { value, .. } = datum {
            *datum = self.secret(value);
        }
    }
}

impl std::fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DigestKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::StepWord;
    use crate::state::plan::Change;
    use data_encoding::BASE64;
    use proptest::prelude::*;
    use serde_json::json;

    fn redactor(secrets: Value) -> Redactor {
        Redactor::new(secrets.as_object().unwrap())
    }

    #[test]
    fn a_secret_is_hidden_wherever_it_stands() {
        let redactor = redactor(json!({"db": {"password": "hunter2", "port": 54321}, "pin": "123"}));
        for (text, expected) in [
            ("hunter2", "‹secret›"),
            ("pw=hunter2;hunter2hunter2", "pw=‹secret›;‹secret›"),
            ("listen 54321", "listen ‹secret›"),
            ("pin 123 is too short to search for", "pin 123 is too short to search for"),
            ("basic aHVudGVyMg==", "basic ‹secret›"),
            ("", ""),
            ("hunter", "hunter"),
        ] {
            assert_eq!(redactor.text(text), expected);
        }
    }

    #[test]
    fn a_long_secret_is_hidden_line_by_line_and_as_json_has_it() {
        let redactor = redactor(json!({"key": "-- begin --\nMIIEabcdef\n}\nquo\"te\n"}));
        assert_eq!(redactor.text("+MIIEabcdef\n+}"), "+‹secret›\n+}");
        assert_eq!(redactor.text(r#"{"k":"-- begin --\nMIIEabcdef\n}\nquo\"te"}"#), r#"{"k":"‹secret›"}"#);
    }

    #[test]
    fn values_that_differ_in_a_secret_do_not_look_alike() {
        let redactor = redactor(json!({"old": "hunter2", "new": "hunter3"}));
        let key = DigestKey::new([7; 32]);
        let mut step = PlanStep {
            state: "conf".into(),
            module: "file".into(),
            step: StepWord::Change,
            reason: Some("because of hunter2".into()),
            changes: vec![
                Change::new("content", Datum::known("pw=hunter2"), Datum::known("pw=hunter3"))
                    .diff("-pw=hunter2\n"),
                Change::new("mode", Datum::known("0600"), Datum::known("0644")),
            ],
            refresh: None,
        };
        redactor.step(&mut step, &key);
        assert_eq!(step.reason.as_deref(), Some("because of ‹secret›"));
        assert_eq!(step.changes[0].diff.as_deref(), Some("-pw=‹secret›\n"));
        let content = &step.changes[0];
        assert!(matches!((&content.before, &content.after), (Datum::Secret { .. }, Datum::Secret { .. })));
        assert_ne!(content.before, content.after);
        assert_ne!(content.before, DigestKey::new([8; 32]).secret(&json!("pw=hunter2")));
        assert_eq!(step.changes[1].after, Datum::known("0644"));
    }

    #[test]
    fn what_came_out_of_a_secret_is_looked_for_from_then_on() {
        let mut redactor = redactor(json!({}));
        redactor.learn(&json!({"stdout": "token-9", "changed": true, "outcome": "changed"}));
        for number in 0..100 {
            redactor.learn(&json!(format!("another-{number}")));
        }
        assert_eq!(redactor.text("changed by token-9 and another-57."), "changed by ‹secret› and ‹secret›.");
        assert!(redactor.nets.len() < 8, "{} nets", redactor.nets.len());
    }

    #[test]
    fn base64_in_lines_is_hidden_too() {
        let secret: String = (0..100).map(|at| char::from(b'!' + (at * 7 % 90) as u8)).collect();
        let redactor = redactor(json!({ "s": secret }));
        for before in ["", "a", "ab", "password="] {
            let whole = BASE64.encode(format!("{before}{secret}\n").as_bytes());
            for (width, lead) in
                [(64, ""), (76, ""), (76, "  "), (64, "+"), (76, "-"), (64, " "), (20, "+\t")]
            {
                let lines = whole.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).unwrap());
                for end in ["\n", "\r\n"] {
                    let text: String = lines.clone().map(|line| format!("{lead}{line}{end}")).collect();
                    let hidden = redactor.text(&format!("said:\n{text}ü end\n")).into_owned();
                    assert!(hidden.starts_with("said:\n") && hidden.ends_with("ü end\n"), "{hidden}");
                    // Of each line at most what tells of `before` is left.
                    for line in lines.clone().map(|line| &line[line.len().min(14)..]).filter(|l| l.len() > 3)
                    {
                        assert!(!hidden.contains(line), "{width} {lead:?}: {hidden}");
                    }
                }
            }
        }
        let innocent = "a line of words\nAAAAAAAAAAAAAAAAAAAA\nBBBBBBBBBBBBBBBBBBBB\n";
        assert!(matches!(redactor.text(innocent), Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn no_base64_of_a_text_with_a_secret_shows_it(
            before in proptest::collection::vec(any::<u8>(), 0..7),
            secret in "[ -~]{4,20}",
            after in proptest::collection::vec(any::<u8>(), 0..7),
        ) {
            let redactor = redactor(json!({ "s": secret }));
            let whole = [&before[..], secret.as_bytes(), &after].concat();
            for encoding in [BASE64, BASE64_NOPAD, BASE64URL_NOPAD] {
                let text = format!("x {} y", encoding.encode(&whole));
                let hidden = redactor.text(&text).into_owned();
                prop_assert!(hidden.contains(HIDDEN), "{text} stayed {hidden}");
                for form in encoded_forms(secret.as_bytes()) {
                    prop_assert!(!hidden.contains(std::str::from_utf8(&form).unwrap()));
                }
            }
        }

        #[test]
        fn hiding_keeps_what_is_around(before in "[a-z ]{0,9}", after in "[a-z ]{0,9}", times in 1usize..4) {
            let redactor = redactor(json!({"s": "HUNTER-2"}));
            let text = format!("{before}{}{after}", "HUNTER-2".repeat(times));
            prop_assert_eq!(redactor.text(&text), format!("{before}{HIDDEN}{after}"));
        }
    }
}

//! Globs: `*`, `?`, `[a-z]` and `[!a-z]` over whole texts.
//!
//! Used for names, values and method names alike; nothing here knows what it matches. A malformed class
//! stands for itself, so that every pattern means something; whoever reads patterns from people checks them.

/// Whether `pattern` means the whole of `text`, by characters and minding case.
///
/// At worst pattern length times text length: only the last `*` is ever tried again.
pub fn glob_matches(pattern: &str, text: &str) -> bool {
    // Behind the last `]` no class can close: there every `[` is plain, which spares looking for its end.
    let last_close = pattern.rfind(']').unwrap_or(0);
    let (mut p, mut t) = (0, 0);
    // Where to go on after the last `*`: in the pattern, and one character further in the text each time.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let step = match (pattern[p..].chars().next(), text[t..].chars().next()) {
            (None, None) => return true,
            (Some('*'), _) => {
                p += 1;
                retry = Some((p, t));
                continue;
            }
            (Some('?'), Some(c)) => Some((1, c.len_utf8())),
            (Some('['), Some(c)) if p < last_close => match class(&pattern[p + 1..]) {
                Some(class) => class.holds(c).then_some((class.length + 1, c.len_utf8())),
                None => (c == '[').then_some((1, 1)),
            },
            (Some(a), Some(b)) if a == b => Some((a.len_utf8(), a.len_utf8())),
            _ => None,
        };
        match (step, retry) {
            (Some((in_pattern, in_text)), _) => {
                p += in_pattern;
                t += in_text;
            }
            (None, Some((after_star, from))) => {
                let Some(skipped) = text[from..].chars().next() else {
                    return false;
                };
                let from = from + skipped.len_utf8();
                retry = Some((after_star, from));
                (p, t) = (after_star, from);
            }
            (None, None) => return false,
        }
    }
}

struct Class<'a> {
    members: &'a str,
    negated: bool,
    /// Bytes of the pattern from behind `[` to behind `]`.
    length: usize,
}

/// The class that begins behind a `[`; `None` if it is never closed.
fn class(rest: &str) -> Option<Class<'_>> {
    let negated = rest.starts_with(['!', '^']);
    let start = usize::from(negated);
    // A `]` right at the beginning is a member, as everywhere.
    let skip = usize::from(rest[start..].starts_with(']'));
    let end = start + skip + rest[start + skip..].find(']')?;
    Some(Class { members: &rest[start..end], negated, length: end + 1 })
}

impl Class<'_> {
    fn holds(&self, c: char) -> bool {
        let mut members = self.members.chars();
        let mut found = false;
        while let Some(from) = members.next() {
            let mut ahead = members.clone();
            found |= match (ahead.next(), ahead.next()) {
                (Some('-'), Some(to)) => {
                    members = ahead;
                    (from..=to).contains(&c)
                }
                _ => from == c,
            };
        }
        found != self.negated
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_table_of_globs() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("ship*", "ship1", true),
            ("ship*", "shop1", false),
            ("*ship", "flagship", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("?", "é", true),
            ("?", "", false),
            ("web-0[1-3]", "web-02", true),
            ("web-0[1-3]", "web-04", false),
            ("web-[!0-9]", "web-a", true),
            ("web-[^0-9]", "web-1", false),
            ("[]x]", "]", true),
            ("[a-]", "-", true),
            ("[", "[", true),
            ("[a", "[a", true),
            ("[]", "[]", true),
            ("x[a", "xa", false),
            ("[*]", "*", true),
            ("[*]", "a", false),
            ("*[ab]", "xxb", true),
            ("Web", "web", false),
        ] {
            assert_eq!(glob_matches(pattern, text), expected, "{pattern:?} on {text:?}");
        }
    }

    #[test]
    fn hostile_patterns_take_polynomial_time() {
        let pattern = "*a".repeat(2_000) + "b";
        assert!(!glob_matches(&pattern, &"a".repeat(4_000)));
        assert!(!glob_matches(&"[".repeat(50_000), &"[".repeat(49_999)));
        assert!(!glob_matches(&("*".to_owned() + &"[a".repeat(2_000) + "]"), &"b".repeat(2_000)));
    }

    /// The same by trying everything; classes only as `[ab]`.
    fn naive(pattern: &[char], text: &[char]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            (['*', rest @ ..], _) => naive(rest, text) || (!text.is_empty() && naive(pattern, &text[1..])),
            (['[', a, b, ']', rest @ ..], [c, text @ ..]) => (a == c || b == c) && naive(rest, text),
            (['?', rest @ ..], [_, text @ ..]) => naive(rest, text),
            ([a, rest @ ..], [b, text @ ..]) => a == b && naive(rest, text),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_trying_everything(
            pieces in prop::collection::vec("[ab?*é]|\\[[abé][abé]\\]", 0..8),
            text in "[abé]{0,10}",
        ) {
            let pattern = pieces.concat();
            let chars = |s: &str| s.chars().collect::<Vec<_>>();
            prop_assert_eq!(glob_matches(&pattern, &text), naive(&chars(&pattern), &chars(&text)));
        }

        #[test]
        fn no_pattern_panics(pattern in "[*?\\[\\]!^a-c-é]{0,12}", text in "[a-c\\[\\]é-]{0,12}") {
            glob_matches(&pattern, &text);
        }
    }
}

//! What a file holds, as plans show it: a text's lines as a diff, anything else by size and digest.

use mainstay_core::state::plan::{Change, Datum};
use similar::TextDiff;

/// Longer texts are shown by size and digest alone: a plan is read by people, and a diff costs time that grows with
/// the square of what differs.
pub const MAX_DIFF: usize = 256 << 10;
/// As [`MAX_DIFF`], in lines.
pub const MAX_DIFF_LINES: usize = 5_000;

/// A content in one line: whether it is text, how large, and its BLAKE3 digest (its first half: enough to tell two
/// contents apart).
pub fn describe(bytes: &[u8]) -> String {
    let digest = blake3::hash(bytes).to_hex();
    let kind = if text(bytes).is_some() { "text" } else { "binary" };
    format!("{kind}, {} bytes, blake3 {}", bytes.len(), &digest[..32])
}

/// The content as text, if it is one.
pub fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

/// A unified diff without its header, where both are texts of a size that people read.
pub fn diff(before: &[u8], after: &[u8]) -> Option<String> {
    let (before, after) = (text(before)?, text(after)?);
    let readable =
        |text: &str| text.len() <= MAX_DIFF && text.bytes().filter(|b| *b == b'\n').count() <= MAX_DIFF_LINES;
    if before == after || !readable(before) || !readable(after) {
        return None;
    }
    Some(TextDiff::from_lines(before, after).unified_diff().context_radius(3).to_string())
}

/// A change of content. `before` is nothing where there is no file; `data` says what kind of knowledge each side is.
pub fn change(
    field: &'static str,
    before: Option<&[u8]>,
    after: &[u8],
    before_datum: impl Fn(String) -> Datum,
) -> Change {
    let old = before.map_or(Datum::Absent, |bytes| before_datum(describe(bytes)));
    let change = Change::new(field, old, Datum::known(describe(after)));
    match diff(before.unwrap_or_default(), after) {
        Some(diff) => change.diff(diff),
        None => change,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_differ_by_lines_and_bytes_by_size() {
        assert_eq!(diff(b"a\nb\n", b"a\nc\n").unwrap(), "@@ -1,2 +1,2 @@\n a\n-b\n+c\n");
        assert_eq!(diff(b"a\n", b"\xff\n"), None);
        assert!(describe(b"\xff\0").starts_with("binary, 2 bytes, blake3 "));
        assert!(describe(b"").starts_with("text, 0 bytes, blake3 "));
    }

    #[test]
    fn a_diff_is_bounded() {
        let long = "x".repeat(MAX_DIFF + 1);
        assert_eq!(diff(b"", long.as_bytes()), None);
        let lines = "\n".repeat(MAX_DIFF_LINES + 1);
        assert_eq!(diff(b"", lines.as_bytes()), None);
    }
}

//! The piece of a line that an error is about, with a caret below: plain text, coloured at the edge.

use unicode_width::UnicodeWidthChar;

/// Characters shown on each side of the place when a line is too long to show whole.
const AROUND: usize = 50;

/// The line, cut around `column` (counted in characters from 1), and how many columns of a terminal the caret stands from its
/// beginning. Control characters become spaces, so that a hostile line cannot drive a terminal.
pub(crate) fn around(line: &str, column: usize) -> (String, usize) {
    let from = column.saturating_sub(AROUND + 1);
    let shown: String =
        line.chars().skip(from).take(2 * AROUND).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let before = column.saturating_sub(from + 1);
    let caret =
        shown.chars().chain(std::iter::repeat(' ')).take(before).filter_map(UnicodeWidthChar::width).sum();
    (shown, caret)
}

/// The line with its number, and a caret below the column; empty if the text has no such line.
pub(crate) fn pointed(text: &str, line: usize, column: usize) -> String {
    let Some(content) = text.lines().nth(line.saturating_sub(1)) else {
        return String::new();
    };
    // The mark at the beginning of a file takes no column.
    let (shown, caret) = around(content.trim_start_matches('\u{feff}'), column);
    let number = line.to_string();
    let margin = number.len();
    format!("{number} | {shown}\n{:margin$} | {:caret$}^", "", "")
}

#[cfg(test)]
mod tests {
    use super::pointed;

    #[test]
    fn the_caret_stands_below_its_place_whatever_is_before_it() {
        assert_eq!(pointed("a\n  b: c", 2, 3), "2 | b: c\n  |   ^".replace("| b", "|   b"));
        assert_eq!(pointed("\u{feff}字符: e\u{301}x", 1, 7), "1 | 字符: e\u{301}x\n  |        ^");
        assert_eq!(pointed("a", 1, 4), "1 | a\n  |    ^");
        assert_eq!(pointed("a", 2, 1), "");
    }
}

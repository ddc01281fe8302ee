//! The piece of a line that an error is about, with a caret below: plain text, coloured at the edge.

/// Characters shown on each side of the place when a line is too long to show whole.
const AROUND: usize = 50;

/// The line, cut around `column` (counted in characters from 1), and how far the caret stands from its
/// beginning. Control characters become spaces, so that a hostile line cannot drive a terminal.
pub(crate) fn around(line: &str, column: usize) -> (String, usize) {
    let from = column.saturating_sub(AROUND + 1);
    let shown =
        line.chars().skip(from).take(2 * AROUND).map(|c| if c.is_control() { ' ' } else { c }).collect();
    (shown, column.saturating_sub(from + 1))
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

//! An error as a person reads it: what was wrong, where, and what to do.

use mainstay_control::view::Problem;
use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::screen::{Screen, harmless};

/// A [`Problem`] in the shape that miette draws.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Drawn {
    message: String,
    help: Option<String>,
}

impl Diagnostic for Drawn {
    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        let help = self.help.as_ref()?;
        Some(Box::new(help))
    }
}

/// The same for programs.
#[derive(serde::Serialize)]
struct Line<'a> {
    event: &'static str,
    #[serde(flatten)]
    problem: &'a Problem,
}

/// To standard error for people; with `--json` as a line of standard output.
pub(super) fn show(problem: &Problem, screen: &mut Screen) {
    let line = Line { event: "error", problem };
    if screen.json && screen.object(&line).and_then(|()| screen.flush()).is_ok() {
        return;
    }
    let text = draw(problem, screen.colour_notes(), screen.notes_width().min(MOST_COLUMNS));
    // When even this cannot be written, the exit status still says it.
    let _ = screen.last_note(text.trim_end());
}

/// Longer lines are hard to read, however wide the terminal is.
const MOST_COLUMNS: usize = 100;

/// What miette puts before each line of a message, and leaves free behind it.
const MARGIN: usize = 6;

fn draw(problem: &Problem, colour: bool, width: usize) -> String {
    let help = (!problem.hints.is_empty()).then(|| harmless(&problem.hints.join("\n")).into_owned());
    let message = fitted(&harmless(&problem.message), width.saturating_sub(MARGIN));
    let drawn = Drawn { message, help };
    let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let mut text = String::new();
    match GraphicalReportHandler::new_themed(theme).with_width(width).render_report(&mut text, &drawn) {
        Ok(()) => text,
        Err(_) => format!("error: {}", drawn.message),
    }
}

/// Cuts lines that have a caret below them to so many columns around it: wrapped, the caret would stand below something else.
fn fitted(message: &str, columns: usize) -> String {
    let lines: Vec<&str> = message.lines().collect();
    let mut fitted: Vec<String> = Vec::with_capacity(lines.len());
    for line in &lines {
        fitted.push((*line).to_owned());
        let [.., above, below] = &mut fitted[..] else { continue };
        let Some((margin, caret)) = caret(below).filter(|_| above.width() > columns) else { continue };
        let (number, text) = above.split_at_checked(margin).unwrap_or(("", above));
        let room = columns.saturating_sub(margin + 2 * ELLIPSIS.width()).max(1);
        let (text, caret) = cut(text, caret, room);
        *below = format!("{}{:caret$}^", &below[..margin], "");
        *above = format!("{number}{text}");
    }
    fitted.join("\n")
}

/// Of a line like `  | ^`: how much of it stands for the number of the line above, and how far behind that the caret stands.
fn caret(line: &str) -> Option<(usize, usize)> {
    let before = line.strip_suffix('^')?;
    let margin = before.find("| ").map_or(0, |bar| bar + 2);
    let is_blank = before.bytes().enumerate().all(|(at, byte)| byte == b' ' || at + 2 == margin);
    is_blank.then(|| (margin, before.len() - margin))
}

const ELLIPSIS: &str = "…";

/// What of the text stands in `room` columns around the caret, and where that stands then.
fn cut(text: &str, caret: usize, room: usize) -> (String, usize) {
    let from = caret.saturating_sub(room / 2);
    let (mut shown, mut begin, mut column) = (String::new(), None, 0);
    for c in text.chars() {
        let width = c.width().unwrap_or(0);
        if column >= from && column + width <= from + room {
            begin.get_or_insert(column);
            shown.push(c);
        }
        column += width;
    }
    let begin = begin.unwrap_or(from);
    let left = if begin > 0 { ELLIPSIS } else { "" };
    let right = if column > from + room { ELLIPSIS } else { "" };
    (format!("{left}{shown}{right}"), left.width() + caret.saturating_sub(begin))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::screen::captured;
    use mainstay_control::view::ProblemKind;

    fn problem() -> Problem {
        Problem::new(ProblemKind::NotFound, "there is no node \"ship9\"\x1b[2J")
            .hint("see `mainstay nodes list`")
            .hint("or look for it by its key")
    }

    #[test]
    fn errors_say_what_and_what_to_do() {
        let (mut screen, buffer) = captured::screen(true);
        show(&problem(), &mut screen);
        insta::assert_snapshot!(buffer.text());
    }

    #[test]
    fn errors_are_an_object_for_programs() {
        let (mut screen, buffer) = captured::screen(false);
        screen.json = true;
        show(&problem(), &mut screen);
        insta::assert_snapshot!(buffer.text());
    }

    #[test]
    fn what_a_caret_points_to_is_cut_and_not_wrapped() {
        let line = |number: &str, text: &str, caret: usize| {
            let margin = number.len();
            format!("{number} | {text}\n{:margin$} | {:caret$}^", "", "")
        };
        let long = format!("{}mode: 640{}", "x".repeat(90), " y".repeat(40));
        let message = format!("site.yaml:12:91: bad\n  {}", line("12", &long, 96).replace('\n', "\n  "));
        insta::assert_snapshot!(fitted(&message, 40), @r#"
        site.yaml:12:91: bad
          12 | …xxxxxxxxxmode: 640 y y y y y y …
             |                 ^
        "#);
        let wide = line("1", &"字".repeat(60), 40);
        insta::assert_snapshot!(fitted(&wide, 40), @r#"
        1 | …字字字字字字字字字字字字字字字字…
          |                  ^
        "#);
        let narrow = line("1", "字: x", 4);
        assert_eq!(fitted(&narrow, 40), narrow);
        // As long a line as is left is not wrapped after all.
        insta::assert_snapshot!(draw(&Problem::new(ProblemKind::Invalid, message), false, 60), @r#"
          × site.yaml:12:91: bad
          │   12 | …xxxxxxxxxxxxxxxxmode: 640 y y y y y y y y y y…
          │      |                        ^
        "#);
    }
}

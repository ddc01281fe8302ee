//! An error as a person reads it: what was wrong, where, and what to do.

use mainstay_control::view::Problem;
use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme};

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
    // When even this cannot be written, the exit status still says it.
    let _ = if screen.json {
        let event = "error";
        let line = Line { event, problem };
        screen.object(&line).and_then(|()| screen.flush())
    } else {
        let text = draw(problem, screen.colour_notes());
        screen.note(text.trim_end())
    };
}

fn draw(problem: &Problem, colour: bool) -> String {
    let help = (!problem.hints.is_empty()).then(|| harmless(&problem.hints.join("\n")).into_owned());
    let drawn = Drawn { message: harmless(&problem.message).into_owned(), help };
    let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let mut text = String::new();
    match GraphicalReportHandler::new_themed(theme).with_width(100).render_report(&mut text, &drawn) {
        Ok(()) => text,
        Err(_) => format!("error: {}", drawn.message),
    }
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
}

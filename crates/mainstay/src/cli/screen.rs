//! Where a command writes: what was asked for goes to standard output, what is said about it to standard error.
//!
//! Text that came from a node is not trusted: on a terminal, control characters are shown rather than obeyed.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use owo_colors::{OwoColorize, Style};

pub(super) struct Screen {
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    /// What is written to standard output is read by a person.
    pub(super) out_terminal: bool,
    /// What is written to standard error is.
    pub(super) err_terminal: bool,
    /// Columns of the terminal that standard error is, as it was at the start.
    notes_width: usize,
    colour: bool,
    pub(super) json: bool,
    /// Milliseconds since 1970, for "3m ago".
    pub(super) now: i64,
}

impl Screen {
    pub(super) fn of_process(json: bool) -> Self {
        let (out, err) = (io::stdout(), io::stderr());
        let (out_terminal, err_terminal) = (out.is_terminal(), err.is_terminal());
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self {
            out: Box::new(io::BufWriter::new(out)),
            err: Box::new(err),
            out_terminal,
            err_terminal,
            notes_width: if err_terminal { columns() } else { usize::MAX },
            colour: !no_colour && !is_dumb,
            json,
            now: jiff::Timestamp::now().as_millisecond(),
        }
    }

    /// A line of what was asked for. It may wait in a buffer until [`Screen::flush`].
    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{text}")
    }

    /// A value as one line of JSON.
    pub(super) fn object(&mut self, value: &impl serde::Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, value)?;
        self.out.write_all(b"\n")
    }

    /// A line about what is going on, not part of what was asked for.
    pub(super) fn note(&mut self, text: &str) -> io::Result<()> {
        self.out.flush()?;
        writeln!(self.err, "{text}")
    }

    /// A note that is there even if standard output can take nothing more.
    pub(super) fn last_note(&mut self, text: &str) -> io::Result<()> {
        let _ = self.out.flush();
        writeln!(self.err, "{text}")
    }

    /// A line that a node wrote to its standard error.
    pub(super) fn error_line(&mut self, prefix: &str, text: &[u8]) -> io::Result<()> {
        self.out.flush()?;
        let safe = shown(text, self.err_terminal);
        self.err.write_all(prefix.as_bytes())?;
        self.err.write_all(&safe)?;
        self.err.write_all(b"\n")
    }

    /// What a node wrote, as it is for programs and made harmless for a terminal.
    pub(super) fn node_output(&mut self, text: &[u8]) -> io::Result<()> {
        let safe = shown(text, self.out_terminal);
        self.out.write_all(&safe)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    pub(super) fn paint(&self, text: &str, style: Style) -> String {
        if self.colour && self.out_terminal { text.style(style).to_string() } else { text.to_owned() }
    }

    /// For standard error.
    pub(super) fn colour_notes(&self) -> bool {
        self.colour && self.err_terminal
    }

    /// Columns for what is said on standard error; without a terminal there is no limit.
    pub(super) fn notes_width(&self) -> usize {
        self.notes_width
    }

    pub(super) fn can_ask(&self) -> bool {
        self.err_terminal && io::stdin().is_terminal()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Whoever cares has flushed and seen the error.
        let _ = self.out.flush();
    }
}

/// Narrower terminals are taken for this wide: nothing can be told in less.
const FEWEST_COLUMNS: usize = 40;

fn columns() -> usize {
    let size = terminal_size::terminal_size_of(io::stderr());
    size.map_or(usize::MAX, |(terminal_size::Width(columns), _)| usize::from(columns).max(FEWEST_COLUMNS))
}

fn shown(text: &[u8], terminal: bool) -> Cow<'_, [u8]> {
    if !terminal {
        return Cow::Borrowed(text);
    }
    match String::from_utf8_lossy(text) {
        Cow::Borrowed(text) => match harmless(text) {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        },
        Cow::Owned(text) => Cow::Owned(harmless(&text).into_owned().into_bytes()),
    }
}

/// Shows control characters instead of letting a terminal obey them. Line breaks and tabs stay.
pub(super) fn harmless(text: &str) -> Cow<'_, str> {
    let kept = |c: char| matches!(c, '\n' | '\t') || !dangerous(c);
    if text.chars().all(kept) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            // A line break as other systems write it is a line break.
            '\r' if chars.peek() == Some(&'\n') => {}
            c if kept(c) => safe.push(c),
            c if c < ' ' => safe.extend(['^', char::from(c as u8 + b'@')]),
            '\x7f' => safe.push_str("^?"),
            c => safe.extend(c.escape_unicode()),
        }
    }
    Cow::Owned(safe)
}

/// Besides the control characters: marks that reorder or hide text.
fn dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// The same for a cell of a table or the middle of a sentence: line breaks and tabs are shown too.
pub(super) fn one_line(text: &str) -> String {
    harmless(text).replace('\n', "^J").replace('\t', "^I")
}

#[cfg(test)]
pub(super) mod captured {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    pub(in super::super) struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Buffer {
        pub(in super::super) fn text(&self) -> String {
            String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
        }
    }

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A screen whose both streams are one text.
    pub(in super::super) fn screen(terminal: bool) -> (Screen, Buffer) {
        let buffer = Buffer::default();
        let screen = Screen {
            out: Box::new(buffer.clone()),
            err: Box::new(buffer.clone()),
            out_terminal: terminal,
            err_terminal: terminal,
            notes_width: usize::MAX,
            colour: false,
            json: false,
            now: 1_800_000_000_000,
        };
        (screen, buffer)
    }
}

#[cfg(test)]
mod tests {
    use mainstay_control::view::{Problem, ProblemKind};

    use super::super::problem_text;
    use super::*;

    #[test]
    fn a_node_cannot_command_the_terminal() {
        let evil = "a\x1b[2Jb\u{9b}31m\x07\x7f\u{202e}c\r\nd\re\tf\0";
        let safe = harmless(evil);
        assert_eq!(safe, "a^[[2Jb\\u{9b}31m^G^?\\u{202e}c\nd^Me\tf^@");
        assert!(safe.chars().all(|c| c == '\n' || c == '\t' || !c.is_control()));
        assert_eq!(one_line("a\nb\tc"), "a^Jb^Ic");
        assert!(matches!(harmless("plain é 漢"), Cow::Borrowed(_)));
    }

    #[test]
    fn programs_get_the_very_bytes() {
        let bytes = b"\x1b[1m\xff\r\n";
        let (mut screen, buffer) = captured::screen(false);
        screen.node_output(bytes).unwrap();
        assert_eq!(buffer.text(), String::from_utf8_lossy(bytes));
        let (mut screen, buffer) = captured::screen(true);
        screen.node_output(bytes).unwrap();
        assert_eq!(buffer.text(), "^[[1m\u{fffd}\n");
    }

    /// As /dev/full.
    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    #[test]
    fn that_the_output_cannot_be_written_is_said_all_the_same() {
        for json in [false, true] {
            let (mut screen, said) = captured::screen(false);
            (screen.out, screen.json) = (Box::new(Full), json);
            let problem = Problem::new(ProblemKind::Internal, "the output cannot be written");
            problem_text::show(&problem, &mut screen);
            assert!(said.text().contains("the output cannot be written"), "json: {json}");
        }
    }
}

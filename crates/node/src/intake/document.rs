//! Where a text that begins with a bracket ends: when that bracket is closed.
//!
//! It knows as much of JSON and of YAML's flow style as that takes: strings of both kinds, and comments. For
//! any other text the end of the stream is the end. It judges nothing: what it takes for complete is read by
//! the real parser, which says what is wrong.

/// Follows a text as it comes.
#[derive(Default)]
pub(super) struct Scan {
    state: State,
    depth: usize,
    /// The last byte that is not white space: a quote begins a string only where a value may begin.
    before: u8,
    /// The last byte of all: a `#` begins a comment only after white space.
    last: u8,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Only white space (or a byte order mark) so far.
    #[default]
    Start,
    /// Outside of strings.
    Plain,
    Quoted(u8),
    /// After a backslash in a double-quoted string.
    Escaped,
    Comment,
    /// A comment before the first bracket.
    EarlyComment,
    /// The text does not begin with a bracket: only the stream's end is its end.
    ToTheEnd,
}

impl Scan {
    /// Takes the next bytes. Whether the text is complete with them.
    pub(super) fn is_complete(&mut self, bytes: &[u8]) -> bool {
        bytes.iter().any(|byte| self.take(*byte))
    }

    fn take(&mut self, byte: u8) -> bool {
        let after_space = self.last == 0 || self.last.is_ascii_whitespace();
        self.last = byte;
        match self.state {
            State::Start => match byte {
                b'[' | b'{' => {
                    self.state = State::Plain;
                    self.depth = 1;
                    self.before = byte;
                }
                b'#' => self.state = State::EarlyComment,
                0xef | 0xbb | 0xbf => {}
                _ if byte.is_ascii_whitespace() => {}
                _ => self.state = State::ToTheEnd,
            },
            State::EarlyComment if byte == b'\n' => self.state = State::Start,
            State::Comment if byte == b'\n' => self.state = State::Plain,
            State::Comment | State::EarlyComment | State::ToTheEnd => {}
            State::Escaped => self.state = State::Quoted(b'"'),
            State::Quoted(b'"') if byte == b'\\' => self.state = State::Escaped,
            // In YAML a doubled single quote stays inside: it ends the string and begins it again at once.
            State::Quoted(quote) if byte == quote => {
                self.state = State::Plain;
                self.before = byte;
            }
            State::Quoted(_) => {}
            State::Plain => return self.take_plain(byte, after_space),
        }
        false
    }

    fn take_plain(&mut self, byte: u8, after_space: bool) -> bool {
        match byte {
            b'[' | b'{' => self.depth += 1,
            b']' | b'}' => self.depth -= 1,
            b'"' if matches!(self.before, b'[' | b'{' | b',' | b':') => self.state = State::Quoted(byte),
            b'\'' if matches!(self.before, b'[' | b'{' | b',' | b':' | b'\'') => {
                self.state = State::Quoted(byte);
            }
            b'#' if after_space => self.state = State::Comment,
            _ => {}
        }
        if !byte.is_ascii_whitespace() && self.state != State::Comment {
            self.before = byte;
        }
        self.depth == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many bytes it takes for the text to be complete.
    fn end(text: &str) -> Option<usize> {
        let mut scan = Scan::default();
        text.bytes().position(|byte| scan.take(byte)).map(|at| at + 1)
    }

    #[test]
    fn a_text_in_brackets_ends_with_them() {
        for text in [
            "[]",
            "{}",
            "\u{feff} \n[{\"a\": [1, 2,], }, ]",
            "{\"a\": \"]}\\\"]\", \"b\": \"\\\\\"}",
            "# a comment with a [\n# another\n{\"a\": 1}",
            "[ # closing ]\n 1 ]",
            "[\"a\" , \"b#]\"]",
            "{a: 'it''s ]', b: it's, c: say \"hi\"}",
            "{a: http://x/#y}",
            "[['a', \"b\"], {'c': \"d\"}]",
        ] {
            assert_eq!(end(text), Some(text.len()), "{text}");
            assert_eq!(end(&format!("{text}\n[more]")), Some(text.len()), "{text}");
        }
    }

    #[test]
    fn everything_else_ends_with_the_stream() {
        for text in
            ["", " \n", "toNode: ship1\nmethodArgs: []\n", "- toNode: a\n", "[\"unclosed]", "[[]", "\"[]\""]
        {
            assert_eq!(end(text), None, "{text}");
        }
    }

    #[test]
    fn it_does_not_matter_how_the_text_is_cut() {
        let text = "\u{feff}[{\"a\": \"x\\\"]\"}, 'b''c', # d ]\n {}]";
        for cut in 0..text.len() {
            let mut scan = Scan::default();
            assert!(!scan.is_complete(&text.as_bytes()[..cut]), "complete after {cut}");
            assert!(scan.is_complete(&text.as_bytes()[cut..]));
        }
    }
}

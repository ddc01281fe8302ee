//! Server-sent events as they arrive: pieces of bytes in, whole events out.

/// Largest event taken: a result has the whole output of a node, twice as large in base64 and escapes.
const MAX_EVENT: usize = 64 << 20;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Event {
    pub(super) id: Option<u64>,
    pub(super) kind: String,
    pub(super) data: String,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SseError {
    #[error("an event larger than {} MiB", MAX_EVENT >> 20)]
    TooLarge,
    #[error("an event that is not UTF-8")]
    NotText,
}

#[derive(Default)]
pub(super) struct Parser {
    buffer: Vec<u8>,
    /// Everything before this was taken.
    taken: usize,
    /// Everything before this holds no line end that was not taken.
    searched: usize,
    event: Event,
}

impl Parser {
    pub(super) fn push(&mut self, piece: &[u8]) -> Result<(), SseError> {
        self.buffer.drain(..self.taken);
        self.searched -= self.taken;
        self.taken = 0;
        if self.buffer.len() + piece.len() > MAX_EVENT {
            return Err(SseError::TooLarge);
        }
        self.buffer.extend_from_slice(piece);
        Ok(())
    }

    /// The next whole event, if it is here. Comments are not events.
    pub(super) fn next(&mut self) -> Result<Option<Event>, SseError> {
        while let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
            let end = self.searched + at;
            let line = &self.buffer[self.taken..end];
            let line = std::str::from_utf8(line).map_err(|_| SseError::NotText)?;
            let line = line.strip_suffix('\r').unwrap_or(line);
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            let mut whole = None;
            match name {
                "" if line.is_empty() => whole = Some(std::mem::take(&mut self.event)),
                "id" => self.event.id = value.parse().ok(),
                "event" => value.clone_into(&mut self.event.kind),
                "data" => {
                    if !self.event.data.is_empty() {
                        self.event.data.push('\n');
                    }
                    self.event.data.push_str(value);
                }
                _ => {}
            }
            self.taken = end + 1;
            self.searched = self.taken;
            if let Some(event) = whole.filter(|event| !event.data.is_empty()) {
                return Ok(Some(event));
            }
        }
        self.searched = self.buffer.len();
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b": hello\n\nid: 7\nevent: result\ndata: {\"a\":\"\xc3\xa9\"}\n\nid:8\r\ndata: x\r\ndata: y\r\n\r\nid: 9\ndata: unfinished\n";

    #[test]
    fn events_are_whole_however_the_bytes_are_cut() {
        for size in 1..TEXT.len() {
            let mut parser = Parser::default();
            let mut events = Vec::new();
            for piece in TEXT.chunks(size) {
                parser.push(piece).unwrap();
                while let Some(event) = parser.next().unwrap() {
                    events.push((event.id, event.kind, event.data));
                }
            }
            let expected = [
                (Some(7), "result".to_owned(), "{\"a\":\"é\"}".to_owned()),
                (Some(8), String::new(), "x\ny".to_owned()),
            ];
            assert_eq!(events, expected, "pieces of {size}");
        }
    }

    #[test]
    fn an_event_without_end_does_not_grow_the_process() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; 1 << 20];
        let mut pushed = 0;
        while parser.push(&piece).is_ok() {
            assert!(parser.next().unwrap().is_none());
            pushed += piece.len();
            assert!(pushed <= MAX_EVENT);
        }
        assert_eq!(pushed, MAX_EVENT);
    }
}

//! Messages of any size over a byte stream, in pieces of bounded size.
//!
//! A piece is four bytes, big-endian: its length, and in the highest bit whether more of the same message follows; then
//! that many bytes. Nothing is read or written here. [`crate::link`]'s frames are another thing: these go between one
//! program and its own copy at the other end of an ssh connection.

/// Most bytes of one piece: what a reader makes room for on a stranger's word.
pub const MAX_PIECE: usize = 1 << 20;

/// Most bytes of one message: the largest is a catalog with the files it carries.
pub const MAX_MESSAGE: usize = 512 << 20;

const MORE: u32 = 1 << 31;

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PieceError {
    #[error("a piece of {0} bytes is announced; {MAX_PIECE} is the most")]
    TooLong(u32),
    #[error("a message is longer than {} MiB", MAX_MESSAGE >> 20)]
    TooLarge,
}

/// The bytes that carry a message.
pub fn encode(message: &[u8]) -> Result<Vec<u8>, PieceError> {
    if message.len() > MAX_MESSAGE {
        return Err(PieceError::TooLarge);
    }
    let mut bytes = Vec::with_capacity(message.len() + 4 * (message.len() / MAX_PIECE + 1));
    let mut rest = message;
    loop {
        let (piece, after) = rest.split_at(rest.len().min(MAX_PIECE));
        let more = if after.is_empty() { 0 } else { MORE };
        // A piece's length fits: it is at most `MAX_PIECE`.
        bytes.extend_from_slice(&(piece.len() as u32 | more).to_be_bytes());
        bytes.extend_from_slice(piece);
        if after.is_empty() {
            return Ok(bytes);
        }
        rest = after;
    }
}

/// Puts messages together again from whatever portions come.
#[derive(Debug, Default)]
pub struct Decoder {
    input: Vec<u8>,
    /// How much of `input` was taken.
    taken: usize,
    message: Vec<u8>,
}

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.input.drain(..self.taken);
            self.taken = 0;
        }
        self.input.extend_from_slice(bytes);
    }

    /// The next whole message, if all of it came. After an error nothing that follows makes sense.
    pub fn take(&mut self) -> Result<Option<Vec<u8>>, PieceError> {
        loop {
            let rest = &self.input[self.taken..];
            let Some((head, rest)) = rest.split_first_chunk::<4>() else {
                return Ok(None);
            };
            let head = u32::from_be_bytes(*head);
            let length = (head & !MORE) as usize;
            if length > MAX_PIECE {
                return Err(PieceError::TooLong(head & !MORE));
            }
            if self.message.len() + length > MAX_MESSAGE {
                return Err(PieceError::TooLarge);
            }
            let Some(piece) = rest.get(..length) else {
                return Ok(None);
            };
            self.message.extend_from_slice(piece);
            self.taken += 4 + length;
            if head & MORE == 0 {
                return Ok(Some(std::mem::take(&mut self.message)));
            }
        }
    }

    /// Nothing of a message has come that is not whole.
    pub fn is_between(&self) -> bool {
        self.message.is_empty() && self.taken == self.input.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_large_message_goes_in_pieces() {
        let message = vec![7; MAX_PIECE * 2 + 5];
        let bytes = encode(&message).unwrap();
        assert_eq!(bytes.len(), message.len() + 12);
        let mut decoder = Decoder::default();
        for part in bytes.chunks(100_000) {
            assert!(decoder.message.len() <= message.len());
            decoder.push(part);
            if let Some(whole) = decoder.take().unwrap() {
                assert!(whole == message && decoder.is_between());
                return;
            }
        }
        panic!("it never came");
    }

    #[test]
    fn what_is_announced_too_long_is_refused_before_it_is_read() {
        let mut decoder = Decoder::default();
        decoder.push(&(MAX_PIECE as u32 + 1).to_be_bytes());
        assert_eq!(decoder.take(), Err(PieceError::TooLong(MAX_PIECE as u32 + 1)));
    }

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..10),
            cut in 1_usize..20,
        ) {
            let stream: Vec<u8> = messages.iter().flat_map(|m| encode(m).unwrap()).collect();
            let (mut decoder, mut got) = (Decoder::default(), Vec::new());
            for part in stream.chunks(cut) {
                decoder.push(part);
                while let Some(message) = decoder.take().unwrap() {
                    got.push(message);
                }
            }
            prop_assert!(decoder.is_between());
            prop_assert_eq!(got, messages);
        }
    }
}

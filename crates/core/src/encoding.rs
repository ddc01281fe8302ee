//! Reading MessagePack that others wrote.

use serde::Deserialize;

/// Deepest nesting that is read. The deepest value of ours is below ten; a decoder without a bound walks
/// down hostile bytes of fields it does not even know until the thread's stack is gone.
pub const MAX_DEPTH: usize = 32;

/// Decodes one value; bytes behind it are not looked at.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, rmp_serde::decode::Error> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes);
    deserializer.set_max_depth(MAX_DEPTH);
    T::deserialize(&mut deserializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize, PartialEq, Debug)]
    struct Known {
        a: u8,
    }

    #[test]
    fn hostile_nesting_in_an_unknown_field_is_an_error() {
        let with = |depth: usize| [b"\x82\xa1a\x07\xa1x", &vec![0x91; depth][..], b"\xc0"].concat();
        assert_eq!(decode::<Known>(&with(MAX_DEPTH - 2)).unwrap(), Known { a: 7 });
        assert!(decode::<Known>(&with(MAX_DEPTH)).is_err());
        assert!(decode::<Known>(&with(1_000_000)).is_err());
    }
}

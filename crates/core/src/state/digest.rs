//! Names of values that may be large: BLAKE3 over their bytes, which are never together in memory.

use std::io::{BufWriter, Write as _};

use serde::Serialize;

/// Smaller pieces cost more to hash one by one.
const PIECE: usize = 16 << 10;

/// A digest of values, each after the one before.
pub struct DigestOf(BufWriter<blake3::Hasher>);

impl Default for DigestOf {
    fn default() -> Self {
        Self(BufWriter::with_capacity(PIECE, blake3::Hasher::new()))
    }
}

impl DigestOf {
    pub(super) fn add(&mut self, value: &impl Serialize) {
        rmp_serde::encode::write_named(&mut self.0, value).expect("it is maps, lists and texts");
    }

    /// Of all that was added so far, in hexadecimal.
    pub(super) fn hex(mut self) -> String {
        self.0.flush().expect("a hasher takes everything");
        self.0.get_ref().finalize().to_hex().to_string()
    }
}

/// Of one value.
pub(super) fn digest_of(value: &impl Serialize) -> String {
    let mut digest = DigestOf::default();
    digest.add(value);
    digest.hex()
}

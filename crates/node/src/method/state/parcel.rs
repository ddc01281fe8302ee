//! A catalog as it travels in a message's sealed standard input: compressed, since a message is bounded and catalogs
//! repeat themselves.

use std::io::{BufReader, Read as _};

use mainstay_core::state::catalog::Catalog;
use rmp_serde::decode::Error;

/// Largest catalog that is unpacked: a hundred times what the largest message carries is no catalog but a bomb.
pub const MAX_CATALOG: u64 = 48 << 20;

/// Where more effort no longer makes catalogs much smaller.
const LEVEL: i32 = 12;

#[derive(Debug, thiserror::Error)]
pub enum ParcelError {
    #[error("there is no catalog in the message's standard input")]
    Empty,
    #[error("the catalog cannot be unpacked: {0}")]
    Damaged(#[source] std::io::Error),
    #[error("the catalog has more than {} MiB", MAX_CATALOG >> 20)]
    TooLarge,
    #[error("the catalog cannot be read: {0}; was it made by another version?")]
    Unknown(String),
}

pub fn pack(catalog: &Catalog) -> std::io::Result<Vec<u8>> {
    zstd::bulk::compress(&catalog.to_bytes(), LEVEL)
}

pub fn unpack(bytes: &[u8]) -> Result<Catalog, ParcelError> {
    if bytes.is_empty() {
        return Err(ParcelError::Empty);
    }
    let decoder = zstd::stream::read::Decoder::with_buffer(bytes).map_err(ParcelError::Damaged)?;
    let mut plain = BufReader::new(decoder.take(MAX_CATALOG));
    Catalog::read(&mut plain).map_err(|error| match error {
        _ if plain.get_ref().limit() == 0 => ParcelError::TooLarge,
        Error::InvalidMarkerRead(error) | Error::InvalidDataRead(error) => ParcelError::Damaged(error),
        error => ParcelError::Unknown(error.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bomb_and_rubbish_are_refused() {
        let endless = Catalog { name: "a".repeat(MAX_CATALOG as usize), ..Catalog::empty() };
        let bomb = zstd::bulk::compress(&endless.to_bytes(), 1).unwrap();
        assert!(bomb.len() < 64 << 10);
        assert!(matches!(unpack(&bomb), Err(ParcelError::TooLarge)));
        assert!(matches!(unpack(b""), Err(ParcelError::Empty)));
        assert!(matches!(unpack(b"rubbish"), Err(ParcelError::Damaged(_))));
        let other = zstd::bulk::compress(b"\x93\x01\x02\x03", 1).unwrap();
        assert!(matches!(unpack(&other), Err(ParcelError::Unknown(_))));
    }
}

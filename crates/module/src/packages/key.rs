//! Keys that repositories are signed with, as far as a fingerprint needs them to be read (RFC 9580).

use data_encoding::{BASE64, HEXUPPER};
use sha1::{Digest, Sha1};
use sha2::Sha256;

const ARMOR: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
const ARMOR_END: &str = "-----END PGP PUBLIC KEY BLOCK-----";

/// Packets that matter here.
const SECRET_KEY: u8 = 5;
const PUBLIC_KEY: u8 = 6;

pub fn is_armored(key: &[u8]) -> bool {
    key.trim_ascii_start().starts_with(ARMOR.as_bytes())
}

/// The fingerprints of all primary keys in it, in capital hexadecimal digits.
pub fn fingerprints(key: &[u8]) -> Result<Vec<String>, &'static str> {
    let decoded;
    let mut rest = match is_armored(key) {
        true => {
            decoded = dearmor(key)?;
            &decoded[..]
        }
        false => key,
    };
    let mut all = Vec::new();
    while !rest.is_empty() {
        let (tag, body, after) = packet(rest).ok_or("it is not an OpenPGP key")?;
        match tag {
            SECRET_KEY => return Err("it is a secret key"),
            PUBLIC_KEY => all.push(fingerprint(body).ok_or("it is a key of an unknown version")?),
            _ => {}
        }
        rest = after;
    }
    if all.is_empty() { Err("it holds no OpenPGP key") } else { Ok(all) }
}

/// The fingerprint in the form that [`fingerprints`] gives, if it is a whole one.
pub fn normal(fingerprint: &str) -> Option<String> {
    let text: String =
        fingerprint.chars().filter(|c| !c.is_ascii_whitespace()).collect::<String>().to_uppercase();
    let text = text.strip_prefix("0X").unwrap_or(&text).to_owned();
    // A short one can be made to fit.
    (matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(text)
}

fn dearmor(key: &[u8]) -> Result<Vec<u8>, &'static str> {
    let text = std::str::from_utf8(key).map_err(|_| "its armor is not text")?;
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(ARMOR) {
        let block = &rest[start + ARMOR.len()..];
        let end = block.find(ARMOR_END).ok_or("its armor has no end")?;
        let mut lines = block[..end].lines().skip(1).map(str::trim);
        // Headers end with an empty line; a line with `=` first is a checksum.
        if block[..end].contains("\n\n") || block[..end].contains("\n\r\n") {
            lines.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
        }
        let body: String = lines.filter(|line| !line.starts_with('=')).collect();
        bytes.extend(BASE64.decode(body.as_bytes()).map_err(|_| "its armor is damaged")?);
        rest = &block[end + ARMOR_END.len()..];
    }
    Ok(bytes)
}

/// Type, body, and what comes after it.
fn packet(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let number = |count: usize| {
        let digits = rest.get(..count)?;
        Some((digits.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte)), count))
    };
    let (tag, (length, width)) = match first {
        0xc0.. => {
            let length = match *rest.first()? {
                one @ ..192 => (usize::from(one), 1),
                two @ 192..224 => (((usize::from(two) - 192) << 8) + usize::from(*rest.get(1)?) + 192, 2),
                255 => {
                    let digits = rest.get(1..5)?;
                    (digits.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), 5)
                }
                // In pieces: only data may be so.
                _ => return None,
            };
            (first & 0x3f, length)
        }
        0x80.. => match first & 3 {
            0 => (first >> 2 & 0xf, number(1)?),
            1 => (first >> 2 & 0xf, number(2)?),
            2 => (first >> 2 & 0xf, number(4)?),
            _ => return None,
        },
        _ => return None,
    };
    let end = width.checked_add(length)?;
    Some((tag, rest.get(width..end)?, &rest[end..]))
}

fn fingerprint(body: &[u8]) -> Option<String> {
    match body.first()? {
        4 => {
            let length = u16::try_from(body.len()).ok()?.to_be_bytes();
            Some(
                HEXUPPER.encode(
                    &Sha1::new().chain_update([0x99]).chain_update(length).chain_update(body).finalize(),
                ),
            )
        }
        6 => {
            let length = u32::try_from(body.len()).ok()?.to_be_bytes();
            Some(HEXUPPER.encode(
                &Sha256::new().chain_update([0x9b]).chain_update(length).chain_update(body).finalize(),
            ))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_key_is_refused() {
        assert!(fingerprints(b"").is_err());
        assert!(fingerprints(b"hello").is_err());
        assert!(fingerprints(b"\x99\xff\xff\x04").is_err(), "it promises more than there is");
        assert!(fingerprints(b"\xc6\xff\xff\xff\xff\xff").is_err());
        assert_eq!(fingerprints(&[0xc5, 1, 4]), Err("it is a secret key"));
        assert!(fingerprints(format!("{ARMOR}\n\n????\n{ARMOR_END}").as_bytes()).is_err());
        assert!(fingerprints(format!("{ARMOR}\n\n").as_bytes()).is_err());
    }

    /// The hash of RFC 9580, 5.5.4, over a body that stands for a key.
    #[test]
    fn both_forms_of_length_and_the_armor_give_the_same() {
        let body = [4, 0, 0, 0, 1, 22, 7];
        let old: Vec<u8> = [0x99, 0, 7].into_iter().chain(body).collect();
        let new: Vec<u8> = [0xc6, 7].into_iter().chain(body).collect();
        let expected = fingerprints(&old).unwrap();
        assert_eq!(expected.len(), 1);
        assert_eq!(fingerprints(&new).unwrap(), expected);
        let armored = format!("{ARMOR}\nVersion: 1\n\n{}\n=abcd\n{ARMOR_END}\n", BASE64.encode(&old));
        assert_eq!(fingerprints(armored.as_bytes()).unwrap(), expected);
        assert_eq!(normal(&expected[0].to_lowercase()), Some(expected[0].clone()));
        assert_eq!(normal("ABCD1234"), None, "a short one can be made to fit");
    }
}

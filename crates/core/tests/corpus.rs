//! Every fuzz target over its corpus and over a bounded number of mutations of it, on any toolchain.
//!
//! The same run every time: the mutations come from a seed. `crates/core/fuzz` runs the same functions
//! under a coverage-guided fuzzer. Files called `ok-…` must be accepted: they are also yesterday's bytes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

#[path = "../fuzz/properties.rs"]
mod properties;

/// Mutations for each target: a few seconds for all of them, unoptimised.
const MUTATIONS: usize = 5_000;

/// Longest input that mutations grow to; what is larger is a matter of limits, which have tests of their own.
const MAX_INPUT: usize = 64 << 10;

/// Pieces that mutations put in, since random bytes seldom spell them.
const WORDS: [&[u8]; 32] = [
    b"and ",
    b" or ",
    b"not ",
    b"(",
    b")",
    b"!=",
    b">=",
    b"*",
    b"[",
    b"]",
    b"\"",
    b"toNode",
    b"method",
    b": ",
    b"{",
    b"}",
    b"\n",
    b"- ",
    b"\t",
    b"\xc0",
    b"\xdd\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\x00",
    b"states:",
    b"{{ ",
    b" }}",
    b"{% ",
    b" %}",
    b"require: ",
    b"states['a'].x",
    b"'*'",
];

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

/// SplitMix64: small, and the same everywhere.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

fn mutated(chance: &mut Chance, files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = files[chance.below(files.len())].1.clone();
    for _ in 0..=chance.below(4) {
        let at = chance.below(bytes.len() + 1);
        let end = (at + chance.below(16)).min(bytes.len());
        match chance.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << chance.below(8),
            1 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][chance.below(5)],
            2 => drop(bytes.drain(at..end)),
            3 => bytes.truncate(at),
            4 => {
                let piece = bytes[at..end].to_vec();
                for _ in 0..=chance.below(40) {
                    bytes.splice(at..at, piece.iter().copied());
                }
            }
            5 => drop(bytes.splice(at..at, WORDS[chance.below(WORDS.len())].iter().copied())),
            _ => {
                let other = &files[chance.below(files.len())].1;
                let from = chance.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
        bytes.truncate(MAX_INPUT);
    }
    bytes
}

fn check(property: properties::Property, what: &str, bytes: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| property(bytes))).unwrap_or_else(|_| {
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        panic!("{what} breaks a property; put these bytes into the corpus: {hex}")
    })
}

fn run(name: &str) {
    let (_, property) = properties::TARGETS.into_iter().find(|(n, _)| *n == name).unwrap();
    let files = corpus(name);
    assert!(files.iter().any(|(file, _)| file.starts_with("ok-")), "{name} has a corpus");
    for (file, bytes) in &files {
        let accepted = check(property, &format!("{name}/{file}"), bytes);
        assert_eq!(accepted, file.starts_with("ok-"), "{name}/{file}: accepted or refused against its name");
    }
    let mut chance = Chance(name.bytes().fold(1, |seed, b| seed * 31 + u64::from(b)));
    for number in 0..MUTATIONS {
        check(property, &format!("{name}, mutation {number}"), &mutated(&mut chance, &files));
    }
}

#[test]
fn frames() {
    run("frame");
}

#[test]
fn envelopes() {
    run("envelope");
}

#[test]
fn target_expressions() {
    run("target");
}

#[test]
fn message_files() {
    run("message");
}

#[test]
fn journal_records() {
    run("record");
}

#[test]
fn states_files() {
    run("site");
}

#[test]
fn templates() {
    run("template");
}

#[test]
fn what_is_written_today_is_what_the_corpus_holds() {
    for (target, name, bytes) in properties::seeds() {
        let (_, stored) = corpus(target).into_iter().find(|(file, _)| *file == name).unwrap_or_default();
        assert!(
            stored == bytes,
            "{target}/{name} is encoded otherwise; if that is meant, keep the old file under \
            another ok- name and write the new one with `cargo test --test corpus -- --ignored`"
        );
    }
}

#[test]
#[ignore = "writes the corpus's own encodings anew"]
fn write_the_corpus() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (target, name, bytes) in properties::seeds() {
        std::fs::create_dir_all(folder.join(target)).unwrap();
        std::fs::write(folder.join(target).join(name), bytes).unwrap();
    }
}

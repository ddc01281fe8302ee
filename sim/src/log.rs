//! What happened, line by line. The hash of all lines stands for the log where nobody reads it.

use std::fmt::Arguments;

pub struct Log {
    hasher: blake3::Hasher,
    lines: u64,
    print: bool,
    buffer: String,
}

impl Log {
    pub fn new(print: bool) -> Self {
        Self { hasher: blake3::Hasher::new(), lines: 0, print, buffer: String::new() }
    }

    /// `at` is the time since the beginning, in microseconds.
    pub fn line(&mut self, at: u64, what: Arguments<'_>) {
        use std::fmt::Write as _;
        self.buffer.clear();
        writeln!(self.buffer, "{:>6}.{:06} {what}", at / 1_000_000, at % 1_000_000)
            .expect("writing to a String does not fail");
        self.hasher.update(self.buffer.as_bytes());
        self.lines += 1;
        if self.print {
            print!("{}", self.buffer);
        }
    }

    pub fn lines(&self) -> u64 {
        self.lines
    }

    pub fn hash(&self) -> String {
        self.hasher.finalize().to_hex()[..32].to_owned()
    }
}

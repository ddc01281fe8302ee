//! The shell script that a connection begins with: is our copy there, and may it be used? If not, take it. Then become it.
//!
//! It has to run in any `sh`, and its one line within any login shell's quotes: no single quote, no line break.
//! It speaks in lines that begin with [`MARK`]; the client answers with the program's bytes, when asked to, and nothing
//! else before the program runs, since a reader of bytes may take more than it needs.

use super::Binaries;

/// Begins each of the script's lines, and the version of this talk.
pub const MARK: &str = "MAINSTAY1";

/// A copy says so, in a line of its own, when it is what its name says: from the next byte on it speaks for itself.
pub const READY: &str = "MAINSTAY1 ready";

/// What the script says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Word {
    /// A copy is there, and is started.
    Have,
    /// It waits for the program for this architecture.
    Need {
        arch: String,
    },
    /// It took the program, and starts it.
    Got,
    /// The copy is what it should be, and listens.
    Ready,
    /// What it took does not run or is not what it should be.
    Broken,
    /// There is nothing for this system.
    Architecture {
        arch: String,
    },
    Directory {
        directory: String,
    },
}

pub(super) struct Probe;

impl Probe {
    /// A line of the script's; nothing if the line is someone else's.
    pub(super) fn read(line: &[u8]) -> Option<Word> {
        let line = String::from_utf8_lossy(line);
        // A shell's greeting may lack its line break.
        let (_, said) = line.split_once(MARK)?;
        let (word, rest) = said.trim().split_once(' ').unwrap_or((said.trim(), ""));
        let rest = rest.trim().to_owned();
        match word {
            "have" => Some(Word::Have),
            "need" => Some(Word::Need { arch: rest }),
            "got" => Some(Word::Got),
            "ready" => Some(Word::Ready),
            "broken" => Some(Word::Broken),
            "arch" => Some(Word::Architecture { arch: rest }),
            "dir" => Some(Word::Directory { directory: rest }),
            _ => None,
        }
    }
}

/// The cache is the user's own: `$XDG_CACHE_HOME/mainstay` or `~/.cache/mainstay`, and for a user without a home
/// `/var/tmp/mainstay-UID`. Directory and copy must belong to the user and to nobody else, or they are not used. `anew`: the
/// copy that is there does not run, and is replaced.
pub(super) fn script(binaries: &Binaries, anew: bool) -> String {
    let cases: String =
        binaries.iter().map(|b| format!("Linux-{}) h={} s={};; ", b.arch(), b.hash(), b.size())).collect();
    [
        "umask 077",
        "u=$(id -u) a=$(uname -m) o=$(uname -s) h= s=",
        &format!("case \"$o-$a\" in {cases}esac"),
        &format!("if [ -z \"$h\" ]; then echo \"{MARK} arch $a\"; exit 71; fi"),
        "c=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}",
        // `/` is the home of users that have none.
        "if [ \"${HOME:-/}\" = / ]; then c=; fi",
        "if [ -n \"$c\" ] && mkdir -p \"$c/mainstay\" 2>/dev/null; then d=$c/mainstay; \
         else d=/var/tmp/mainstay-$u; mkdir \"$d\" 2>/dev/null; fi",
        "ours() { set -- \"$1\" $(ls -ldn \"$2\" 2>/dev/null); \
         case \"$1 $2 $4 $6\" in \"d drwx------\"*\" $u \"*) return 0;; \"f -rwx------\"*\" $u $s\") return 0;; esac; return 1; }",
        "chmod 700 \"$d\"",
        &format!("if ours d \"$d\"; then :; else echo \"{MARK} dir $d\"; exit 73; fi"),
        "f=$d/$h",
        if anew { "rm -rf \"$f\"" } else { ":" },
        &format!("if ours f \"$f\"; then echo \"{MARK} have\"; exec \"$f\" remote --blake3 $h; fi"),
        "t=$d/.new.$$",
        "rm -f \"$t\"",
        &format!("echo \"{MARK} need $a\""),
        &format!(
            "if head -c $s > \"$t\" && chmod 700 \"$t\" && \"$t\" remote --verify $h && mv -f \"$t\" \"$f\"; \
             then echo \"{MARK} got\"; exec \"$f\" remote; \
             else rm -f \"$t\"; echo \"{MARK} broken\"; exit 74; fi"
        ),
    ]
    .join("; ")
}

/// For a POSIX shell, and for the others in the same way as long as there is no line break.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

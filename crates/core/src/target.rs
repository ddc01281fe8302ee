//! Targets: expressions that choose nodes, such as `ship*` or `role=web and not env=prod`.
//!
//! This holds what an expression means and how it is written; [`parse`] holds the grammar. Which nodes
//! there are, and whether an operator may reach them, is decided elsewhere.
//!
//! | Written | Means |
//! | --- | --- |
//! | `web-01`, `ship*`, `web-0[1-3]` | nodes whose name fits the glob |
//! | `all`, `*` | every node |
//! | `ship1,ship2` | any of these names |
//! | `role=web`, `role=web,db*` | the label or fact fits a glob (any of them) |
//! | `role!=web` | not so; also where there is no such label |
//! | `role=*` | there is such a label |
//! | `cpus>=4`, `memory>8G`, `version<1.10` | an order: of quantities, or of versions and labels in natural order |
//! | `fact.os=debian`, `label.os=x` | only the fact, only the label; otherwise a label hides a fact of its name |
//! | `not A`, `!A`, `A and B`, `A or B`, `(A)` | `not` binds strongest, then `and`, then `or` |
//!
//! A comma lists alternatives of one thing and binds before everything else, so `not ship1,ship2` leaves
//! out both. Globs stay globs within quotes; quotes are for spaces and signs.

mod glob;
mod parse;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use self::glob::glob_matches;
use crate::frame::Facts;

/// Longest expression, in bytes: some thousand names in a list, and still nothing to copy a process full.
pub const MAX_TEXT: usize = 64 * 1024;

/// Deepest nesting of parentheses and `not`: more than anyone writes, far less than a stack holds.
pub const MAX_DEPTH: usize = 64;

/// The facts that a condition can ask for, as in [`Facts`]. One address of a node is asked for by either word.
pub const FACTS: [&str; 11] = [
    "address",
    "addresses",
    "arch",
    "cpus",
    "family",
    "hostname",
    "kernel",
    "memory",
    "os",
    "os_version",
    "version",
];

/// An expression that chooses nodes. Its Display reads back as the same expression.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Target(Expr);

/// What an expression is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub name: &'a str,
    /// The labels that count: the registry's over those of the node's own configuration. The ones within
    /// `facts` are not looked at.
    pub labels: &'a BTreeMap<String, String>,
    pub facts: &'a Facts,
}

/// Why a text is no target expression, and where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message} (column {column})")]
pub struct TargetError {
    pub message: String,
    /// Byte offset into the text; its length if something is missing at the end.
    pub offset: usize,
    /// The same counted in characters from 1, for people.
    pub column: usize,
    pub hint: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Expr {
    /// Any of these globs over the node's name.
    Names(Vec<String>),
    Condition(Condition),
    Not(Box<Self>),
    /// At least two.
    And(Vec<Self>),
    /// At least two.
    Or(Vec<Self>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Condition {
    side: Side,
    key: String,
    comparison: Comparison,
    /// One for an order, at least one otherwise.
    values: Vec<String>,
}

/// Where a condition's value comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    /// The label if there is one, else the fact.
    Either,
    Fact,
    Label,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Comparison {
    Is,
    IsNot,
    Less,
    AtMost,
    More,
    AtLeast,
}

impl Target {
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        parse::parse(text).map(Self)
    }

    /// Every node.
    pub fn all() -> Self {
        Self(Expr::Names(vec!["*".into()]))
    }

    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        self.0.matches(subject)
    }

    /// The names it spells out outside of any `not`, so that one which no node has can be pointed out.
    pub fn plain_names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        self.0.plain_names(&mut names);
        names
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Target {
    type Error = TargetError;

    fn try_from(text: String) -> Result<Self, TargetError> {
        Self::parse(&text)
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

impl TargetError {
    /// The expression with a caret below the place. A very long one is cut around it.
    pub fn excerpt(&self, text: &str) -> String {
        let (shown, caret) = crate::excerpt::around(text, self.column);
        format!("  {shown}\n  {:caret$}^", "")
    }
}

impl Expr {
    fn matches(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::Names(globs) => globs.iter().any(|glob| glob_matches(glob, subject.name)),
            Self::Condition(condition) => condition.holds(subject),
            Self::Not(inner) => !inner.matches(subject),
            Self::And(parts) => parts.iter().all(|part| part.matches(subject)),
            Self::Or(parts) => parts.iter().any(|part| part.matches(subject)),
        }
    }

    fn plain_names<'a>(&'a self, names: &mut Vec<&'a str>) {
        match self {
            Self::Names(globs) => {
                names.extend(globs.iter().filter(|g| !g.contains(['*', '?', '['])).map(String::as_str));
            }
            Self::And(parts) | Self::Or(parts) => parts.iter().for_each(|part| part.plain_names(names)),
            Self::Condition(_) | Self::Not(_) => {}
        }
    }
}

impl Condition {
    fn holds(&self, subject: &Subject<'_>) -> bool {
        let label = match self.side {
            Side::Fact => None,
            Side::Either | Side::Label => subject.labels.get(&self.key),
        };
        if let Some(label) = label {
            return self.judge(|value| self.compare(label, value, false));
        }
        let facts = match self.side {
            Side::Label => Vec::new(),
            Side::Either | Side::Fact => fact(subject.facts, &self.key),
        };
        self.judge(|value| facts.iter().any(|fact| self.compare(fact, value, true)))
    }

    fn judge(&self, fits: impl Fn(&str) -> bool) -> bool {
        let any = self.values.iter().any(|value| fits(value));
        any != (self.comparison == Comparison::IsNot)
    }

    /// Whether one actual value fits one written value, `IsNot` taken as `Is`.
    fn compare(&self, actual: &str, written: &str, is_fact: bool) -> bool {
        let wanted: fn(Ordering) -> bool = match self.comparison {
            Comparison::Is | Comparison::IsNot => {
                if self.key == "memory" && is_fact && quantity(written).is_some() {
                    return quantity(actual) == quantity(written);
                }
                // Facts come from many systems' own spellings; labels are spelt by the fleet's people.
                return if is_fact {
                    glob_matches(&written.to_ascii_lowercase(), &actual.to_ascii_lowercase())
                } else {
                    glob_matches(written, actual)
                };
            }
            Comparison::Less => Ordering::is_lt,
            Comparison::AtMost => Ordering::is_le,
            Comparison::More => Ordering::is_gt,
            Comparison::AtLeast => Ordering::is_ge,
        };
        if self.side != Side::Label && is_quantity(&self.key) {
            return match (quantity(actual), quantity(written)) {
                (Some(actual), Some(written)) => wanted(actual.cmp(&written)),
                _ => false,
            };
        }
        wanted(natural_order(actual, written))
    }
}

/// A fact's values as text; none if it is not known.
fn fact<'a>(facts: &'a Facts, key: &str) -> Vec<Cow<'a, str>> {
    let text = match key {
        "os" => &facts.os,
        "family" => &facts.family,
        "arch" => &facts.arch,
        "hostname" => &facts.hostname,
        "version" => &facts.version,
        "os_version" => &facts.os_version,
        "kernel" => &facts.kernel,
        "cpus" => return vec![facts.cpus.to_string().into()],
        "memory" => return vec![facts.memory_bytes.to_string().into()],
        "address" | "addresses" => return facts.addresses.iter().map(|a| a.as_str().into()).collect(),
        _ => return Vec::new(),
    };
    if text.is_empty() {
        return Vec::new();
    }
    vec![text.as_str().into()]
}

/// The facts that are numbers; `memory` is in bytes.
fn is_quantity(key: &str) -> bool {
    matches!(key, "cpus" | "memory")
}

/// The facts that have an order at all.
fn is_ordered(key: &str) -> bool {
    is_quantity(key) || matches!(key, "version" | "os_version" | "kernel")
}

/// `4`, `1.5G`, `512MiB`: units are powers of 1024, since memory is meant.
fn quantity(text: &str) -> Option<u128> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale: u128 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    // Longer numbers than these are no memory and no count, and would overflow below.
    if whole.len() > 18 || fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let (whole, parts): (u128, u128) = (whole.parse().ok()?, fraction.parse().ok()?);
    Some(whole * scale + parts * scale / 10_u128.pow(fraction.len() as u32))
}

/// Runs of digits compare as numbers, all else as text: `1.9` is before `1.10`.
fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        if a.is_empty() || b.is_empty() {
            return a.len().cmp(&b.len());
        }
        let (run_a, run_b) = (run(&mut a), run(&mut b));
        let order = if run_a.starts_with(|c: char| c.is_ascii_digit())
            && run_b.starts_with(|c: char| c.is_ascii_digit())
        {
            let (x, y) = (run_a.trim_start_matches('0'), run_b.trim_start_matches('0'));
            x.len().cmp(&y.len()).then_with(|| x.cmp(y))
        } else {
            run_a.cmp(run_b)
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// Cuts off the first run of digits or of anything else.
fn run<'a>(text: &mut &'a str) -> &'a str {
    let digits = text.starts_with(|c: char| c.is_ascii_digit());
    let end = text.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(text.len());
    let (run, rest) = text.split_at(end);
    *text = rest;
    run
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Names(globs) => write_list(f, globs, true),
            Self::Condition(condition) => condition.fmt(f),
            Self::Not(inner) => match **inner {
                Self::And(_) | Self::Or(_) => write!(f, "not ({inner})"),
                _ => write!(f, "not {inner}"),
            },
            Self::And(parts) => {
                write_joined(f, parts, " and ", |part| matches!(part, Self::And(_) | Self::Or(_)))
            }
            Self::Or(parts) => write_joined(f, parts, " or ", |part| matches!(part, Self::Or(_))),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.side {
            Side::Either => "",
            Side::Fact => "fact.",
            Side::Label => "label.",
        })?;
        if self.side == Side::Either && parse::KEYWORDS.contains(&self.key.as_str()) {
            write!(f, "\"{}\"", self.key)?;
        } else {
            f.write_str(&self.key)?;
        }
        f.write_str(match self.comparison {
            Comparison::Is => "=",
            Comparison::IsNot => "!=",
            Comparison::Less => "<",
            Comparison::AtMost => "<=",
            Comparison::More => ">",
            Comparison::AtLeast => ">=",
        })?;
        write_list(f, &self.values, false)
    }
}

fn write_joined(
    f: &mut fmt::Formatter<'_>,
    parts: &[Expr],
    by: &str,
    in_parentheses: impl Fn(&Expr) -> bool,
) -> fmt::Result {
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            f.write_str(by)?;
        }
        if in_parentheses(part) {
            write!(f, "({part})")?;
        } else {
            write!(f, "{part}")?;
        }
    }
    Ok(())
}

fn write_list(f: &mut fmt::Formatter<'_>, words: &[String], are_names: bool) -> fmt::Result {
    for (at, word) in words.iter().enumerate() {
        if at > 0 {
            f.write_str(",")?;
        }
        let is_keyword = are_names && parse::KEYWORDS.contains(&word.as_str());
        let has_signs = word.contains(|c: char| parse::ends_word(c) || c == '\\');
        let bare = !(word.is_empty() || is_keyword || has_signs);
        if bare {
            f.write_str(word)?;
        } else {
            write!(f, "\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

//! Many names in few words: `ship[1-3,7]`, `web-[01-12].example.org`.

use std::collections::BTreeMap;

use mainstay_core::id::NodeName;

/// A name around its number.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Frame<'a> {
    prefix: &'a str,
    suffix: &'a str,
}

/// Folds names that differ only in one number. The order is natural: `ship2` before `ship10`.
pub(super) fn compact<'a>(names: impl IntoIterator<Item = &'a NodeName>) -> String {
    compact_names(names.into_iter().map(NodeName::as_str))
}

/// The same for names that are not nodes': hosts as they were written.
pub(super) fn compact_names<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut plain = Vec::new();
    let mut numbered: BTreeMap<Frame<'_>, Vec<&str>> = BTreeMap::new();
    for name in names {
        match split(name) {
            Some((frame, digits)) => numbered.entry(frame).or_default().push(digits),
            None => plain.push(name),
        }
    }
    plain.sort_unstable();
    plain.dedup();
    let mut parts: Vec<String> = plain.into_iter().map(str::to_owned).collect();
    for (frame, digits) in numbered {
        parts.push(framed(&frame, digits));
    }
    parts.join(",")
}

/// The number that names count by: the last one before the first dot.
fn split(name: &str) -> Option<(Frame<'_>, &str)> {
    let host = name.find('.').unwrap_or(name.len());
    let end = name[..host].rfind(|c: char| c.is_ascii_digit())? + 1;
    let start = name[..end].rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1);
    // Nothing counts that far; such digits are part of a hash.
    (end - start <= 9).then_some((Frame { prefix: &name[..start], suffix: &name[end..] }, &name[start..end]))
}

fn framed(frame: &Frame<'_>, mut digits: Vec<&str>) -> String {
    // `01` is not `1`: numbers of a width that has a leading zero form ranges of that width only.
    let padded: Vec<usize> =
        digits.iter().filter(|d| d.len() > 1 && d.starts_with('0')).map(|d| d.len()).collect();
    let width = |digits: &str| {
        if padded.contains(&digits.len()) { digits.len() } else { 0 }
    };
    let value = |digits: &str| digits.parse::<u32>().unwrap_or(u32::MAX);
    digits.sort_unstable_by_key(|d| (width(d), value(d)));
    digits.dedup();
    let mut ranges: Vec<(&str, &str)> = Vec::new();
    for digit in digits {
        match ranges.last_mut() {
            Some((_, last)) if width(last) == width(digit) && value(last) + 1 == value(digit) => {
                *last = digit
            }
            _ => ranges.push((digit, digit)),
        }
    }
    let Frame { prefix, suffix } = frame;
    if let [(first, last)] = ranges[..]
        && first == last
    {
        return format!("{prefix}{first}{suffix}");
    }
    let inner: Vec<String> = ranges
        .iter()
        .map(|(first, last)| if first == last { (*first).to_owned() } else { format!("{first}-{last}") })
        .collect();
    format!("{prefix}[{}]{suffix}", inner.join(","))
}

/// Sorts as people count.
pub(super) fn natural_key(name: &NodeName) -> (String, u64, String) {
    match split(name.as_str()) {
        Some((frame, digits)) => {
            let number = digits.parse().unwrap_or(u64::MAX);
            (frame.prefix.to_owned(), number, name.to_string())
        }
        None => (name.to_string(), 0, String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compacted(names: &[&str]) -> String {
        let names: Vec<NodeName> = names.iter().map(|name| name.parse().unwrap()).collect();
        compact(&names)
    }

    #[test]
    fn names_fold_by_their_number() {
        for (names, text) in [
            (&["ship1"][..], "ship1"),
            (&["ship3", "ship1", "ship2"], "ship[1-3]"),
            (&["ship1", "ship10", "ship2", "ship9"], "ship[1-2,9-10]"),
            (&["web-08", "web-09", "web-10", "web-1"], "web-[1,08-10]"),
            (&["a1.x", "a2.x", "a1.y"], "a[1-2].x,a1.y"),
            (&["db", "app", "db2"], "app,db,db2"),
            (&["n1b2", "n1b3", "n2b2"], "n1b[2-3],n2b2"),
            (&["10", "11"], "[10-11]"),
            (&["ship1", "ship1"], "ship1"),
            (&["h20260101120000", "h20260101120001"], "h20260101120000,h20260101120001"),
        ] {
            assert_eq!(compacted(names), text);
        }
    }
}

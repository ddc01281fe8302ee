//! What a misspelt name may have been meant as.

/// Longest name that is compared: the cost is the product of both lengths.
const MAX_NAME: usize = 40;

/// The known name that is written most alike; none if nothing is near. Case, `_` and `-` do not count.
pub fn near_miss<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if written.len() > MAX_NAME {
        return None;
    }
    let plain = |text: &str| text.replace(['_', '-'], "").to_ascii_lowercase();
    let written = plain(written);
    // In a short word every other letter is another word.
    let most = if written.len() > 3 { 2 } else { 1 };
    known
        .into_iter()
        .filter(|name| name.len() <= MAX_NAME)
        .map(|name| (distance(&written, &plain(name)), name))
        .min()
        .filter(|(distance, name)| *distance <= most && *distance < name.len())
        .map(|(_, name)| name)
}

/// Edit distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::near_miss;

    #[test]
    fn the_table_of_near_misses() {
        let known = ["require", "watch", "mode", "to", "ACKTimeout", "on_changes"];
        for (written, expected) in [
            ("requir", Some("require")),
            ("Require", Some("require")),
            ("ack_timeout", Some("ACKTimeout")),
            ("onchanges", Some("on_changes")),
            ("mod", Some("mode")),
            ("tool", None),
            ("x", None),
            ("owner", None),
            ("", None),
        ] {
            assert_eq!(near_miss(written, known), expected, "{written}");
        }
        assert_eq!(near_miss(&"a".repeat(5_000), known), None);
    }
}

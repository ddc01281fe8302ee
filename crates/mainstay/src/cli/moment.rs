//! Times as people read them: how long ago, or when, in UTC.

use jiff::Timestamp;

/// `just now`, `3m ago`, `5d ago`; `in 3m` for what is to come.
pub(super) fn relative(at: i64, now: i64) -> String {
    let span = now.saturating_sub(at);
    let length = about(span.unsigned_abs());
    match span {
        _ if length.is_empty() => "just now".into(),
        0.. => format!("{length} ago"),
        _ => format!("in {length}"),
    }
}

/// The largest unit that fits, alone: nobody counts the minutes of a week.
fn about(millis: u64) -> String {
    let seconds = millis / 1000;
    match seconds {
        0..2 => String::new(),
        2..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// `2026-11-20 09:05:10 UTC`.
pub(super) fn absolute(at: i64) -> String {
    match Timestamp::from_millisecond(at) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        Err(_) => format!("{at} ms after 1970"),
    }
}

/// A span that was measured: `12ms`, `1.2s`, `3m05s`.
pub(super) fn took(millis: i64) -> String {
    match millis.max(0) {
        ms @ 0..1000 => format!("{ms}ms"),
        ms @ 1000..60_000 => format!("{}.{}s", ms / 1000, ms % 1000 / 100),
        ms => format!("{}m{:02}s", ms / 60_000, ms % 60_000 / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_well() {
        let now = 1_800_000_000_000;
        for (ago, text) in [
            (0, "just now"),
            (-1_500, "just now"),
            (5_000, "5s ago"),
            (119_000, "119s ago"),
            (3_600_000, "60m ago"),
            (86_400_000, "24h ago"),
            (864_000_000, "10d ago"),
            (-7_200_000, "in 2h"),
        ] {
            assert_eq!(relative(now - ago, now), text);
        }
        assert_eq!(absolute(now), "2027-01-15 08:00:00 UTC");
        assert_eq!(absolute(i64::MAX), format!("{} ms after 1970", i64::MAX));
        assert_eq!([took(12), took(1_250), took(185_000)], ["12ms", "1.2s", "3m05s"]);
        assert_eq!(relative(i64::MIN, i64::MAX), "106751991167d ago");
    }
}

//! Tables for people: columns aligned, no frames, so that a line is still a line to grep for.

use std::io;

use comfy_table::{Table, presets};
use owo_colors::Style;

use super::screen::{Screen, one_line};

/// What nodes said of themselves may stand in any cell, so every cell is made one harmless line.
pub(super) fn show(screen: &mut Screen, head: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head);
    for row in rows {
        table.add_row(row.iter().map(|cell| one_line(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for (at, line) in table.lines().enumerate() {
        let line = line.trim_end();
        if at == 0 {
            let line = screen.paint(line, Style::new().bold());
            screen.line(&line)?;
        } else {
            screen.line(line)?;
        }
    }
    Ok(())
}

/// Names and values under each other.
pub(super) fn pairs(screen: &mut Screen, pairs: &[(&str, String)]) -> io::Result<()> {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in pairs {
        let value = one_line(value);
        let value = if value.is_empty() { "-" } else { &value };
        screen.line(&format!("{name:width$}  {value}"))?;
    }
    Ok(())
}

/// `a=1,b=2`.
pub(super) fn labels(labels: &std::collections::BTreeMap<String, String>) -> String {
    let parts: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    parts.join(",")
}

/// `1.5 GiB`.
pub(super) fn bytes(count: u64) -> String {
    let mut size = count as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if size < 1024.0 {
            break;
        }
        size /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{count} B") } else { format!("{size:.1} {unit}") }
}

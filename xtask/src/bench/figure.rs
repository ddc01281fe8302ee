//! Figures, each with its goal and with what was measured beside it in the same run.

use serde_json::{Map, Value, json};

/// What DESIGN §10 asks of a figure.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

#[derive(Clone, Debug)]
pub struct Figure {
    pub part: &'static str,
    pub what: String,
    pub value: f64,
    pub unit: &'static str,
    pub goal: Option<Goal>,
    /// Limits of this machine and peers, in the same unit.
    pub beside: Vec<(String, f64)>,
}

impl Figure {
    pub fn new(part: &'static str, what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { part, what: what.into(), value, unit, goal: None, beside: Vec::new() }
    }

    pub fn at_most(mut self, most: f64) -> Self {
        self.goal = Some(Goal::AtMost(most));
        self
    }

    pub fn at_least(mut self, least: f64) -> Self {
        self.goal = Some(Goal::AtLeast(least));
        self
    }

    pub fn beside(mut self, name: impl Into<String>, value: f64) -> Self {
        self.beside.push((name.into(), value));
        self
    }

    fn is_met(&self) -> Option<bool> {
        Some(match self.goal? {
            Goal::AtMost(most) => self.value <= most,
            Goal::AtLeast(least) => self.value >= least,
        })
    }
}

/// All of a run; printed when it is over, since they belong together.
pub struct Figures {
    json: bool,
    all: Vec<Figure>,
    /// Where time goes: lines for people.
    notes: Vec<String>,
}

impl Figures {
    pub fn new(json: bool) -> Self {
        Self { json, all: Vec::new(), notes: Vec::new() }
    }

    pub fn add(&mut self, figure: Figure) {
        if self.json {
            println!("{}", line(&figure));
        } else {
            // Something to see while it goes on.
            eprintln!("  {}: {} {}", figure.what, short(figure.value), figure.unit);
        }
        self.all.push(figure);
    }

    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    pub fn print(&self) {
        if self.json {
            return;
        }
        let width = self.all.iter().map(|figure| figure.what.chars().count()).max().unwrap_or(0);
        println!("\n{:<8} {:<width$} {:>12} {:<6} {:>10}      beside", "", "what", "figure", "", "goal");
        for figure in &self.all {
            let goal = match figure.goal {
                None => String::new(),
                Some(Goal::AtMost(most)) => format!("≤ {}", short(most)),
                Some(Goal::AtLeast(least)) => format!("≥ {}", short(least)),
            };
            let met = match figure.is_met() {
                None => "",
                Some(true) => "ok",
                Some(false) => "MISSED",
            };
            let beside: Vec<String> =
                figure.beside.iter().map(|(name, value)| beside(figure, name, *value)).collect();
            let line = format!(
                "{:<8} {:<width$} {:>12} {:<6} {:>10} {:<6} {}",
                figure.part,
                figure.what,
                short(figure.value),
                figure.unit,
                goal,
                met,
                beside.join("; "),
            );
            println!("{}", line.trim_end());
        }
        if !self.notes.is_empty() {
            println!("\nWhere it goes");
        }
        for note in &self.notes {
            println!("  {note}");
        }
    }
}

fn beside(figure: &Figure, name: &str, value: f64) -> String {
    let ratio = if value == 0.0 { 0.0 } else { figure.value / value };
    format!("{name} {} (× {ratio:.2})", short(value))
}

fn line(figure: &Figure) -> Value {
    let beside: Map<String, Value> =
        figure.beside.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let (most, least) = match figure.goal {
        None => (None, None),
        Some(Goal::AtMost(most)) => (Some(most), None),
        Some(Goal::AtLeast(least)) => (None, Some(least)),
    };
    json!({
        "part": figure.part, "what": figure.what, "value": figure.value, "unit": figure.unit,
        "at_most": most, "at_least": least, "met": figure.is_met(), "beside": beside,
    })
}

/// Three digits that count.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The median, in milliseconds or whatever they are in; 0 of nothing.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

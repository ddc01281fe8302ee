//! A bar for each machine at work, on a terminal. It follows the events and is drawn only when time has passed, so that
//! what is quick shows none.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::screen::one_line;
use crate::up::front::Event;

/// Most bars at a time: a person follows no more, and a small terminal holds no more. The last line counts all.
const ROWS: usize = 10;

/// What is over by then needs no bar.
const PATIENCE: Duration = Duration::from_millis(400);

pub(super) struct Bars {
    wanted: bool,
    begun: Instant,
    machines: usize,
    over: usize,
    at_work: BTreeMap<String, Progress>,
    drawn: Option<Drawn>,
}

#[derive(Default)]
struct Progress {
    states: u64,
    done: u64,
    word: String,
}

struct Drawn {
    multi: MultiProgress,
    rows: Vec<ProgressBar>,
    whole: ProgressBar,
}

impl Bars {
    pub(super) fn new(wanted: bool) -> Self {
        Self { wanted, begun: Instant::now(), machines: 0, over: 0, at_work: BTreeMap::new(), drawn: None }
    }

    pub(super) fn take(&mut self, event: &Event<'_>) {
        if !self.wanted {
            return;
        }
        match event {
            Event::Begin { machines } => self.machines = *machines,
            Event::Compiled { machine, states } => {
                let progress = self.at_work.entry((*machine).to_owned()).or_default();
                progress.states = *states as u64;
            }
            Event::Turn { machine, state, .. } => self.progress(machine, one_line(state.as_str()), 0),
            Event::Analysed { machine, states, last, .. } => {
                self.progress(machine, format!("analysed {}", one_line(last.as_str())), *states as u64);
            }
            Event::Report { machine, report, .. } => {
                let word = format!("{} {}", report.outcome, one_line(report.state.as_str()));
                self.progress(machine, word, 1);
            }
            Event::Planned { machine, .. } | Event::Modify { machine, .. } => {
                if let Some(progress) = self.at_work.get_mut(*machine) {
                    progress.done = 0;
                }
            }
            Event::Over { machine, .. } => {
                self.over += 1;
                self.at_work.remove(*machine);
            }
            Event::Connected { .. } | Event::Cancelling | Event::Ended(_) => {}
        }
    }

    fn progress(&mut self, machine: &str, word: String, done: u64) {
        if let Some(progress) = self.at_work.get_mut(machine) {
            progress.word = word;
            progress.done = (progress.done + done).min(progress.states);
        }
    }

    /// Takes the bars off the screen until they are next drawn.
    pub(super) fn hide(&mut self) {
        if let Some(drawn) = self.drawn.take() {
            // What cannot be cleared is on a terminal that has gone.
            let _ = drawn.multi.clear();
        }
    }

    /// The same, and what comes next gets its time before it is worth a bar.
    pub(super) fn clear(&mut self) {
        self.hide();
        self.begun = Instant::now();
    }

    pub(super) fn draw(&mut self) {
        if !self.wanted || self.begun.elapsed() < PATIENCE {
            return;
        }
        let drawn = self.drawn.get_or_insert_with(Drawn::new);
        let busy: Vec<_> = self.at_work.iter().filter(|(_, p)| p.done < p.states).collect();
        drawn.fit(busy.len().min(ROWS));
        for (bar, (machine, progress)) in drawn.rows.iter().zip(busy) {
            bar.set_prefix(machine.clone());
            bar.set_message(progress.word.clone());
            bar.set_length(progress.states);
            bar.set_position(progress.done);
        }
        drawn.whole.set_length(self.machines as u64);
        drawn.whole.set_position(self.over as u64);
        drawn.whole.tick();
    }
}

impl Drawn {
    fn new() -> Self {
        let multi = MultiProgress::new();
        let style = ProgressStyle::with_template("{pos}/{len} machines done, {elapsed}")
            .expect("a template that a test has drawn");
        let whole = multi.add(ProgressBar::new(0).with_style(style));
        Self { multi, rows: Vec::new(), whole }
    }

    fn fit(&mut self, rows: usize) {
        while self.rows.len() > rows {
            if let Some(bar) = self.rows.pop() {
                self.multi.remove(&bar);
            }
        }
        while self.rows.len() < rows {
            let style = ProgressStyle::with_template("{prefix:>20!} [{bar:20}] {pos:>4}/{len:4} {wide_msg}")
                .expect("a template that a test has drawn")
                .progress_chars("=> ");
            self.rows.push(self.multi.insert_before(&self.whole, ProgressBar::new(0).with_style(style)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_can_be_drawn_for_more_machines_than_rows() {
        let mut bars = Bars::new(true);
        bars.begun -= PATIENCE;
        bars.take(&Event::Begin { machines: 30 });
        for n in 0..30 {
            bars.take(&Event::Compiled { machine: &format!("m{n}"), states: 3 });
        }
        bars.draw();
        assert_eq!(bars.drawn.as_ref().unwrap().rows.len(), ROWS);
        for n in 0..28 {
            bars.take(&Event::Over { machine: &format!("m{n}"), aside: None });
        }
        bars.draw();
        assert_eq!(bars.drawn.as_ref().unwrap().rows.len(), 2);
        bars.hide();
        assert!(bars.drawn.is_none());
    }
}

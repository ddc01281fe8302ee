//! Reads a run's log as the events that operators see, from the beginning, in a fixed order.
//!
//! The events of a log are a pure function of it, numbered from 1; so whoever was cut off continues after the number it saw last,
//! without a gap and without a duplicate. Nothing is kept here but where each piece of output lies: a reader that
//! is slow costs no memory, and output is read again when a result needs it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use data_encoding::BASE64;
use mainstay_core::envelope::{Piece, Stream};
use mainstay_core::id::RunId;
use mainstay_core::outcome::Outcome;
use mainstay_core::time::Timestamp;

use crate::recorder::RunLog as _;
use crate::run::{Judged, Run, Stage};
use crate::run_record::{EndNote, Entry, RunRecord, decode};
use crate::shelf::{Shelf, ShelfError};
use crate::view::{ResultView, RunEvent};

/// Entries read at a time. Each is below half a megabyte, most are tiny.
const PAGE: usize = 128;

/// What is known of the output and the end of one node.
#[derive(Default)]
struct Heard {
    /// Where each piece is: its own entry, or the end's.
    pieces: BTreeMap<u64, u64>,
    /// Pieces up to this one were shown.
    shown: u64,
    end: Option<Box<EndNote>>,
}

pub struct RunReader {
    shelf: Shelf,
    run: Run,
    heard: HashMap<u32, Heard>,
    page: VecDeque<(u64, Bytes)>,
    /// Of the last entry taken from the log.
    position: u64,
    ready: VecDeque<RunEvent>,
    number: u64,
    accepted: bool,
    /// Results carry output; without, only its size.
    pub with_output: bool,
}

impl RunReader {
    pub fn new(shelf: Shelf, record: Arc<RunRecord>) -> Self {
        Self {
            shelf,
            run: Run::new(record),
            heard: HashMap::new(),
            page: VecDeque::new(),
            position: 0,
            ready: VecDeque::new(),
            number: 0,
            accepted: false,
            with_output: true,
        }
    }

    pub fn run(&self) -> &Run {
        &self.run
    }

    fn id(&self) -> RunId {
        self.run.record.run
    }

    /// The next event and its number; `None` when the log has no more for now.
    pub async fn next(&mut self) -> Result<Option<(u64, RunEvent)>, ShelfError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.number += 1;
                return Ok(Some((self.number, event)));
            }
            if self.page.is_empty() {
                let page = self.shelf.read(&self.id().log(), self.position, PAGE).await?;
                if page.is_empty() {
                    return Ok(None);
                }
                self.page = page.into();
            }
            if let Some((position, bytes)) = self.page.pop_front() {
                match decode::<Entry>(&bytes) {
                    Ok(entry) => self.take(position, bytes.len(), entry).await?,
                    Err(e) => tracing::error!(run = %self.id(), position, "{e}"),
                }
                self.position = position;
            }
        }
    }

    /// How the run stands by what was read so far, under the number of the last event.
    pub fn summary(&self) -> (u64, RunEvent) {
        let counts = self.run.counts();
        let event = RunEvent::Summary {
            run: self.id(),
            ok: counts.ok,
            failed: counts.failed,
            pending: self.run.pending(),
        };
        (self.number, event)
    }

    async fn take(&mut self, position: u64, bytes: usize, entry: Entry) -> Result<(), ShelfError> {
        let node = match &entry {
            Entry::Output { node, .. }
            | Entry::End { node, .. }
            | Entry::Decided { node, .. }
            | Entry::Cut { node } => Some(*node),
            _ => None,
        };
        let node = node.filter(|node| self.run.nodes().contains(node));
        let before = node.map(|node| (self.run.slot(node).stage, self.run.slot(node).is_provisional()));
        match (&entry, node) {
            (Entry::Output { piece, .. }, Some(node)) if self.run.judge_piece(node, piece) == Judged::New => {
                self.hear(node, std::slice::from_ref(piece), position);
            }
            (Entry::End { end, .. }, Some(node)) if self.run.judge_end(node) == Judged::New => {
                self.hear(node, &end.tail, position);
                let heard = self.heard.entry(node).or_default();
                let mut end = end.clone();
                end.tail.clear();
                heard.end = Some(Box::new(end));
            }
            _ => {}
        }
        self.run.apply(position, bytes, &entry, &mut Vec::new());
        if !self.accepted && self.run.is_whole() {
            self.accepted = true;
            self.ready.push_back(RunEvent::Accepted {
                run: self.id(),
                targets: self.run.record.nodes,
                away: 0,
            });
        }
        let (Some(node), Some(before)) = (node, before) else {
            return Ok(());
        };
        if self.run.record.stream {
            self.show_output(node, position, &entry).await?;
        }
        let slot = self.run.slot(node);
        let after = (slot.stage, slot.is_provisional());
        let ended = after.0 == Stage::Done && before.0 != Stage::Done;
        let decided = after.1 && !before.1;
        if !ended && !decided {
            return Ok(());
        }
        let result = match entry {
            Entry::Decided { outcome, provisional, .. } => self.decided(node, &outcome, provisional),
            entry => self.result(node, position, entry).await?,
        };
        if ended {
            self.heard.remove(&node);
        }
        self.ready.push_back(RunEvent::Result(result));
        Ok(())
    }

    fn hear(&mut self, node: u32, pieces: &[Piece], position: u64) {
        let heard = self.heard.entry(node).or_default();
        for piece in pieces {
            heard.pieces.entry(piece.seq).or_insert(position);
        }
    }

    /// Shows what can be shown in the order in which the node gave it.
    async fn show_output(&mut self, node: u32, position: u64, entry: &Entry) -> Result<(), ShelfError> {
        let mut due = Vec::new();
        if let Some(heard) = self.heard.get_mut(&node) {
            while let Some(at) = heard.pieces.get(&(heard.shown + 1)) {
                heard.shown += 1;
                due.push((heard.shown, *at));
            }
        }
        for (seq, at) in due {
            let piece = if at == position { piece_in(entry, seq) } else { self.piece(seq, at).await? };
            if let Some(piece) = piece {
                let event = self.output(node, &piece);
                self.ready.push_back(event);
            }
        }
        Ok(())
    }

    async fn piece(&self, seq: u64, at: u64) -> Result<Option<Piece>, ShelfError> {
        let page = self.shelf.read(&self.id().log(), at - 1, 1).await?;
        let entry = page.first().filter(|(position, _)| *position == at);
        Ok(entry.and_then(|(_, bytes)| piece_in(&decode::<Entry>(bytes).ok()?, seq)))
    }

    fn output(&self, node: u32, piece: &Piece) -> RunEvent {
        let (data, data_base64) = text_or_base64(piece.data.to_vec());
        RunEvent::Output {
            run: self.id(),
            node: self.run.targets()[node as usize].1.clone(),
            seq: piece.seq,
            stream: match piece.stream {
                Stream::Stdout => "stdout".into(),
                Stream::Stderr => "stderr".into(),
            },
            data,
            data_base64,
        }
    }

    fn blank(&self, node: u32) -> ResultView {
        ResultView {
            run: self.id(),
            node: self.run.targets()[node as usize].1.clone(),
            outcome: String::new(),
            reason: None,
            exit_code: None,
            signal: None,
            stdout: None,
            stdout_base64: None,
            stderr: None,
            stderr_base64: None,
            started_at: None,
            duration_ms: None,
            truncated: false,
            stdout_bytes: None,
            stderr_bytes: None,
            provisional: false,
        }
    }

    fn decided(&self, node: u32, outcome: &Outcome, provisional: bool) -> ResultView {
        let mut view = self.blank(node);
        view.set_outcome(outcome);
        view.provisional = provisional;
        view
    }

    /// The node's own end, with its whole output put together.
    async fn result(&self, node: u32, position: u64, entry: Entry) -> Result<ResultView, ShelfError> {
        let mut view = self.blank(node);
        let Some(heard) = self.heard.get(&node) else {
            return Ok(view);
        };
        let Some(end) = &heard.end else { return Ok(view) };
        view.set_outcome(&end.outcome);
        view.started_at = end.started.map(Timestamp::as_millis);
        view.duration_ms = end
            .started
            .map(|started| i64::try_from(end.ended.since(started).as_millis()).unwrap_or(i64::MAX));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        if self.with_output {
            // Most often all the output came with the end itself.
            let mut last = Some((position, entry));
            for (seq, at) in &heard.pieces {
                if last.as_ref().is_none_or(|(position, _)| position != at) {
                    let page = self.shelf.read(&self.id().log(), at - 1, 1).await?;
                    let found = page.first().filter(|(position, _)| position == at);
                    last = found.and_then(|(position, bytes)| Some((*position, decode(bytes).ok()?)));
                }
                let piece = last.as_ref().and_then(|(_, entry)| piece_in(entry, *seq));
                match piece {
                    Some(piece) if piece.stream == Stream::Stdout => out.extend_from_slice(&piece.data),
                    Some(piece) => err.extend_from_slice(&piece.data),
                    None => view.truncated = true,
                }
            }
        }
        let kept = (out.len() as u64, err.len() as u64);
        view.truncated |= end.truncated || !self.with_output && end.stdout_bytes.max(end.stderr_bytes) > 0;
        view.truncated |= self.with_output && kept != (end.stdout_bytes, end.stderr_bytes);
        if view.truncated {
            view.stdout_bytes = Some(end.stdout_bytes);
            view.stderr_bytes = Some(end.stderr_bytes);
        }
        (view.stdout, view.stdout_base64) = text_or_base64(out);
        (view.stderr, view.stderr_base64) = text_or_base64(err);
        Ok(view)
    }
}

fn piece_in(entry: &Entry, seq: u64) -> Option<Piece> {
    match entry {
        Entry::Output { piece, .. } => (piece.seq == seq).then(|| piece.clone()),
        Entry::End { end, .. } => end.tail.iter().find(|piece| piece.seq == seq).cloned(),
        _ => None,
    }
}

fn text_or_base64(bytes: Vec<u8>) -> (Option<String>, Option<String>) {
    match String::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(e) => (None, Some(BASE64.encode(e.as_bytes()))),
    }
}

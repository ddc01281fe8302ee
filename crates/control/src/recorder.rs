//! The one writer of runs' logs: whatever happens in a run becomes an entry here, and only then has effects.
//!
//! Everything that waits is written together: one append for each run in a round, all of them at once, so that ten thousand
//! answers cost a handful of syncs. An answer is acknowledged after its entry is durable, never before. Since nobody else
//! appends, what is a duplicate is decided here without a race.
//!
//! Killed anywhere, the log has a prefix of what happened; nodes send again what was not acknowledged, and decisions are
//! made again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mainstay_core::envelope::Piece;
use mainstay_core::frame::Verdict;
use mainstay_core::id::{KeyId, RunId};
use mainstay_core::outcome::{Outcome, Rejection};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::dispatch::Dispatch;
use crate::hub::Inner;
use crate::run::{Judged, Run, Stage, Step};
use crate::run_record::{EndNote, Entry, decode, encode};
use crate::shelf::ShelfError;

/// Notes taken in one round: more would only delay the first of them.
const ROUND: usize = 2048;

/// Output that may wait to be written, in KiB. Beyond it nodes wait, and keep their copies.
pub const WAITING_KIB: usize = 64 * 1024;

/// Hints on what nodes have taken are written with something else, or after this time: only a restart of the hub
/// needs them, to send a little less.
const HINT_DELAY: Duration = Duration::from_secs(1);

/// The longest piece that is kept whole, since an entry must fit the Store's bound for one value.
const MAX_PIECE: usize = 448 * 1024;

/// Places of nodes in one entry, five bytes each: far below the Store's bound for one value.
const NODES_PER_ENTRY: usize = 50_000;

/// When a node shall try again after the Store refused.
const RETRY_MS: u64 = 1_000;

/// Stands for an end among the numbers of pieces.
const END: u64 = u64::MAX;

/// Why a piece or an end shall come again.
const OVERTOOK: &str = "output before it is missing";

pub enum Note {
    /// Output or an end of a node.
    Answer {
        run: RunId,
        node: KeyId,
        answer: Answer,
        done: oneshot::Sender<Verdict>,
        /// Its share of what may wait.
        room: OwnedSemaphorePermit,
    },
    Taken {
        run: RunId,
        node: u32,
    },
    Refused {
        run: RunId,
        node: u32,
        why: Rejection,
    },
    Cancel {
        run: RunId,
        by: String,
        done: oneshot::Sender<Result<(), ShelfError>>,
    },
    /// Its time is over.
    Expire(RunId),
    /// Something may be started or withdrawn.
    Look(RunId),
    /// The node was removed or revoked.
    Abandon {
        key: KeyId,
        done: oneshot::Sender<Result<(), ShelfError>>,
    },
    /// The node's journal was lost, and with it what it had taken.
    JournalLost {
        key: KeyId,
        done: oneshot::Sender<Result<(), ShelfError>>,
    },
    /// This hub was restored: what was pending may have ended in an earlier life.
    Restored(oneshot::Sender<Result<(), ShelfError>>),
    /// All that was noted before is written when this comes back.
    Settle(oneshot::Sender<()>),
}

pub enum Answer {
    Output(Piece),
    End(EndNote),
}

enum Waiter {
    Verdict(oneshot::Sender<Verdict>),
    /// Of this node. It is told that its end is accepted only when all output before it is here too.
    End(u32, oneshot::Sender<Verdict>),
    Result(oneshot::Sender<Result<(), ShelfError>>),
}

/// What is to be appended to one run's log in this round.
#[derive(Default)]
struct Draft {
    entries: Vec<(Bytes, Entry)>,
    waiters: Vec<Waiter>,
}

impl Draft {
    fn push(&mut self, entry: Entry) {
        self.entries.push((encode(&entry), entry));
    }
}

type Drafts = BTreeMap<RunId, Draft>;

pub struct Recorder {
    inner: Arc<Inner>,
    notes: mpsc::UnboundedReceiver<Note>,
    hints: HashMap<RunId, Vec<u32>>,
    /// Runs whose log may hold more than was applied, after a write of unknown result.
    stale: HashSet<RunId>,
}

impl Recorder {
    pub fn new(inner: Arc<Inner>, notes: mpsc::UnboundedReceiver<Note>) -> Self {
        Self { inner, notes, hints: HashMap::new(), stale: HashSet::new() }
    }

    pub async fn run(mut self, stop: CancellationToken) {
        let mut notes = Vec::with_capacity(ROUND);
        loop {
            notes.clear();
            let hinted = !self.hints.is_empty();
            tokio::select! {
                biased;
                count = self.notes.recv_many(&mut notes, ROUND) => if count == 0 { return },
                () = tokio::time::sleep(HINT_DELAY), if hinted => {}
                () = stop.cancelled() => {
                    self.write_hints().await;
                    return;
                }
            }
            if notes.is_empty() {
                self.write_hints().await;
            } else {
                self.round(std::mem::take(&mut notes)).await;
            }
        }
    }

    async fn write_hints(&mut self) {
        let runs: Vec<RunId> = self.hints.keys().copied().collect();
        let drafts = runs.into_iter().map(|run| (run, Draft::default())).collect();
        self.write(drafts).await;
    }

    async fn round(&mut self, notes: Vec<Note>) {
        let stale: Vec<RunId> = self.stale.iter().copied().collect();
        for run in stale {
            self.read_again(run).await;
        }
        let mut drafts = Drafts::new();
        let mut settled = Vec::new();
        let mut rooms = Vec::new();
        {
            let mut dispatch = self.inner.dispatch();
            let mut seen = HashSet::new();
            for note in notes {
                match note {
                    Note::Settle(done) => settled.push(done),
                    Note::Taken { run, node } => self.hints.entry(run).or_default().push(node),
                    Note::Answer { run, node, answer, done, room } => {
                        rooms.push(room);
                        self.draft_answer(&dispatch, &mut drafts, &mut seen, run, node, answer, done);
                    }
                    note => self.draft(&mut dispatch, &mut drafts, note),
                }
            }
        }
        // What follows from what was written is written in turn: a start after an end, a withdrawal after too many failures.
        while !drafts.is_empty() {
            drafts = self.write(drafts).await;
        }
        drop(rooms);
        for done in settled {
            done.send(()).ok();
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one note and where they go")]
    fn draft_answer(
        &self,
        dispatch: &Dispatch,
        drafts: &mut Drafts,
        seen: &mut HashSet<(RunId, u32, u64)>,
        run: RunId,
        key: KeyId,
        answer: Answer,
        done: oneshot::Sender<Verdict>,
    ) {
        let say = |done: oneshot::Sender<Verdict>, verdict| {
            done.send(verdict).ok();
        };
        let Some(open) = dispatch.run(&run) else {
            // It is closed: all its ends are final. Or it was pruned, and nobody asks any more.
            return say(done, Verdict::Accepted);
        };
        let Some(node) = open.place(&key) else {
            return say(done, Verdict::Refused(Rejection::Denied));
        };
        if self.stale.contains(&run) {
            return say(done, busy("the store did not answer"));
        }
        let (judged, seq) = match &answer {
            Answer::Output(piece) => (open.judge_piece(node, piece), piece.seq),
            Answer::End(_) => (open.judge_end(node), END),
        };
        match judged {
            Judged::Known => return say(done, Verdict::Accepted),
            Judged::TooMuch => return say(done, Verdict::Refused(Rejection::TooLarge)),
            Judged::Later => return say(done, busy(OVERTOOK)),
            Judged::New | Judged::Cut => {}
        }
        let draft = drafts.entry(run).or_default();
        if seen.insert((run, node, seq)) {
            let mut room = open.output_room(node);
            match answer {
                Answer::End(_) if judged == Judged::Cut => draft.push(Entry::Cut { node }),
                Answer::Output(piece) => draft.push(Entry::Output { node, piece: cut(piece, &mut room) }),
                Answer::End(mut end) => {
                    // Pieces beside the end, so that neither outgrows the Store's bound.
                    for piece in std::mem::take(&mut end.tail) {
                        if end_fits(&end, &piece) {
                            end.tail.push(cut(piece, &mut room));
                        } else if open.judge_piece(node, &piece) == Judged::New {
                            let piece = cut(piece, &mut room);
                            draft.push(Entry::Output { node, piece });
                        }
                    }
                    draft.push(Entry::End { node, end });
                }
            }
        }
        draft.waiters.push(if seq == END { Waiter::End(node, done) } else { Waiter::Verdict(done) });
    }

    fn draft(&self, dispatch: &mut Dispatch, drafts: &mut Drafts, note: Note) {
        let at = self.inner.now();
        match note {
            Note::Cancel { run, by, done } => {
                let draft = drafts.entry(run).or_default();
                if dispatch.run(&run).is_some_and(|open| !open.cancelled()) {
                    draft.push(Entry::Cancelled { by, at });
                }
                draft.waiters.push(Waiter::Result(done));
            }
            Note::Refused { run, node, why } => {
                let Some(open) = dispatch.run(&run) else { return };
                if open.slot(node).stage == Stage::Done || open.slot(node).has_end() {
                    return;
                }
                // Nodes look for duplicates before anything else, so whatever is refused never ran.
                let outcome = Outcome::of_refusal(why);
                let provisional = false;
                drafts.entry(run).or_default().push(Entry::Decided { node, outcome, at, provisional });
            }
            Note::Expire(run) => {
                let Some(open) = dispatch.run_mut(&run) else { return };
                open.expired = true;
                for node in open.nodes() {
                    if let Some(provisional) = open.expire(node) {
                        drafts.entry(run).or_default().push(Entry::Decided {
                            node,
                            outcome: Outcome::Expired,
                            at,
                            provisional,
                        });
                    }
                }
            }
            Note::Look(run) => {
                drafts.entry(run).or_default();
            }
            Note::Abandon { key, done } => {
                let of_key = dispatch.runs_of(&key).into_iter();
                let entries =
                    of_key.filter_map(|(run, node)| Some((run, dispatch.run_mut(&run)?.abandon(node, at)?)));
                draft_all(drafts, entries.collect(), done);
            }
            Note::JournalLost { key, done } => {
                let entries = dispatch.runs_of(&key).into_iter().filter_map(|(run, node)| {
                    let open = dispatch.run(&run).filter(|open| open.may_have_reached(node))?;
                    Some((run, open.give_up(node, Outcome::Lost, at)?))
                });
                draft_all(drafts, entries.collect(), done);
            }
            Note::Restored(done) => {
                let why = "the hub was restored from a backup that is older than what became of this";
                let entries = dispatch.runs().flat_map(|open| {
                    let outcome = Outcome::Undeliverable(why.into());
                    open.nodes()
                        .filter_map(move |node| open.give_up(node, outcome.clone(), at))
                        .map(|entry| (open.record.run, entry))
                });
                draft_all(drafts, entries.collect(), done);
            }
            Note::Answer { .. } | Note::Taken { .. } | Note::Settle(_) => {}
        }
    }

    /// Appends and applies. Returns what follows and must be written next.
    async fn write(&mut self, mut drafts: Drafts) -> Drafts {
        {
            let dispatch = self.inner.dispatch();
            for (run, draft) in &mut drafts {
                if let Some(nodes) = self.hints.remove(run)
                    && let Some(open) = dispatch.run(run)
                {
                    let worth =
                        |node: &u32| !open.slot(*node).has_end() && open.slot(*node).stage == Stage::Taken;
                    let nodes: Vec<u32> = nodes.into_iter().filter(worth).collect();
                    for some in nodes.chunks(NODES_PER_ENTRY) {
                        draft.push(Entry::Taken(some.to_vec()));
                    }
                }
            }
        }
        let appends = drafts.iter().map(|(run, draft)| async {
            if draft.entries.is_empty() {
                return Ok(Vec::new());
            }
            let entries = draft.entries.iter().map(|(bytes, _)| bytes.clone()).collect();
            self.inner.shelf.append(&run.log(), entries).await
        });
        let results = futures_util::future::join_all(appends).await;
        let mut next = Drafts::new();
        let mut awake = Vec::new();
        let mut closed = Vec::new();
        let mut moved = Vec::new();
        {
            let mut dispatch = self.inner.dispatch();
            for ((run, draft), result) in drafts.iter().zip(&results) {
                let mut steps = Vec::new();
                if let Some(open) = dispatch.run_mut(run) {
                    match result {
                        Ok(positions) => {
                            for ((bytes, entry), position) in draft.entries.iter().zip(positions) {
                                self.apply(open, *position, bytes.len(), entry, &mut steps);
                            }
                            moved.push((*run, open.position));
                        }
                        Err(e) => {
                            tracing::warn!(%run, "the log of a run could not be written: {e}");
                            if e.is_unknown() {
                                self.stale.insert(*run);
                            }
                            not_written(open, draft, &mut steps);
                        }
                    }
                }
                awake.extend(dispatch.owe(*run, &steps));
                if result.is_ok() {
                    self.follow(&mut dispatch, *run, &mut next);
                }
                if let Some(open) = dispatch.run(run)
                    && let Some(closing) = open.closing(self.inner.now())
                {
                    closed.push((*run, closing));
                }
            }
        }
        {
            let dispatch = self.inner.dispatch();
            for ((run, draft), result) in drafts.into_iter().zip(results) {
                let (open, error) = (dispatch.run(&run), result.err());
                for waiter in draft.waiters {
                    waiter.tell(open, error.as_ref());
                }
            }
        }
        self.inner.moved(&moved);
        self.inner.wake(awake);
        for (run, closing) in closed {
            // Killed before this: the log says it all, and it is closed at the next start.
            self.inner.close_run(run, closing).await;
        }
        next
    }

    fn apply(&self, open: &mut Run, position: u64, bytes: usize, entry: &Entry, steps: &mut Vec<Step>) {
        let before = open.counts();
        open.apply(position, bytes, entry, steps);
        let after = open.counts();
        let ended = (after.ok + after.failed + before.provisional)
            .saturating_sub(before.ok + before.failed + after.provisional);
        if ended > 0 {
            let outcome = match entry {
                Entry::End { end, .. } => end.outcome.word(),
                Entry::Decided { outcome, .. } => outcome.word(),
                _ => "finished",
            };
            let latency = self.inner.now().since(open.record.created);
            self.inner.metrics.node_ended(outcome, latency);
        }
    }

    /// What the run's new state asks to be written.
    fn follow(&self, dispatch: &mut Dispatch, run: RunId, next: &mut Drafts) {
        let now = self.inner.now();
        let at = now;
        let Some(open) = dispatch.run_mut(&run) else { return };
        for node in open.next_to_withdraw() {
            next.entry(run).or_default().push(Entry::Decided {
                node,
                outcome: Outcome::Cancelled,
                at,
                provisional: false,
            });
        }
        if !open.is_gated() {
            return;
        }
        let nodes = dispatch.next_to_start(run, now, self.inner.started);
        for some in nodes.chunks(NODES_PER_ENTRY) {
            next.entry(run).or_default().push(Entry::Started(some.to_vec()));
        }
    }

    /// After a write of unknown result: whatever the log has beyond what was applied is applied now.
    async fn read_again(&mut self, run: RunId) {
        let from = self.inner.dispatch().run(&run).map(|open| open.position);
        let Some(mut from) = from else {
            self.stale.remove(&run);
            return;
        };
        loop {
            let page = match self.inner.shelf.read(&run.log(), from, ROUND).await {
                Ok(page) => page,
                Err(e) => return tracing::warn!(%run, "the log of a run cannot be read again: {e}"),
            };
            let Some((last, _)) = page.last() else { break };
            from = *last;
            let mut dispatch = self.inner.dispatch();
            let mut steps = Vec::new();
            if let Some(open) = dispatch.run_mut(&run) {
                for (position, bytes) in &page {
                    if let Ok(entry) = decode::<Entry>(bytes) {
                        self.apply(open, *position, bytes.len(), &entry, &mut steps);
                    }
                }
            }
            let awake = dispatch.owe(run, &steps);
            drop(dispatch);
            self.inner.wake(awake);
        }
        self.stale.remove(&run);
        self.inner.moved(&[(run, from)]);
    }
}

/// The log of a run, in the Store.
pub(crate) trait RunLog {
    fn log(&self) -> String;
}

impl RunLog for RunId {
    fn log(&self) -> String {
        format!("run.{self}")
    }
}

/// Decisions over several runs; whoever waits hears of the last one, which is enough to be told of a Store that refuses.
fn draft_all(
    drafts: &mut Drafts,
    entries: Vec<(RunId, Entry)>,
    done: oneshot::Sender<Result<(), ShelfError>>,
) {
    let last = entries.last().map(|(run, _)| *run);
    for (run, entry) in entries {
        drafts.entry(run).or_default().push(entry);
    }
    match last.and_then(|run| drafts.get_mut(&run)) {
        Some(draft) => draft.waiters.push(Waiter::Result(done)),
        None => {
            done.send(Ok(())).ok();
        }
    }
}

fn not_written(open: &mut Run, draft: &Draft, steps: &mut Vec<Step>) {
    for (_, entry) in &draft.entries {
        match entry {
            Entry::Decided { node, .. } => open.reopen(*node, steps),
            Entry::Started(nodes) => open.not_started(nodes),
            _ => {}
        }
    }
}

fn busy(reason: &str) -> Verdict {
    Verdict::Busy { reason: reason.to_owned(), retry_ms: RETRY_MS }
}

fn end_fits(end: &EndNote, piece: &Piece) -> bool {
    let so_far: usize = end.tail.iter().map(|piece| piece.data.len() + 64).sum();
    so_far + piece.data.len() < MAX_PIECE
}

/// A piece within what is kept of a node's output. An honest node stays within it by itself.
fn cut(mut piece: Piece, room: &mut u64) -> Piece {
    let most = usize::try_from(*room).unwrap_or(usize::MAX).min(MAX_PIECE);
    piece.data.truncate(most);
    *room -= piece.data.len() as u64;
    piece
}

impl Waiter {
    fn tell(self, open: Option<&Run>, error: Option<&ShelfError>) {
        match (self, error) {
            (Self::End(node, done), None) => {
                let overtook = open.is_some_and(|open| open.judge_end(node) != Judged::Known);
                done.send(if overtook { busy(OVERTOOK) } else { Verdict::Accepted }).ok()
            }
            (Self::End(_, done), Some(e)) => done.send(busy(&e.to_string())).ok(),
            (Self::Verdict(done), None) => done.send(Verdict::Accepted).ok(),
            (Self::Verdict(done), Some(e)) => done.send(busy(&e.to_string())).ok(),
            (Self::Result(done), None) => done.send(Ok(())).map_or(Some(()), Some),
            (Self::Result(done), Some(e)) => done.send(Err(e.clone())).map_or(Some(()), Some),
        };
    }
}

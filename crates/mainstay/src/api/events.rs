//! A run's events as server-sent events.
//!
//! Every event's id is the position to continue from, so a client that lost its connection asks again with
//! `Last-Event-ID` (or `?from=`) and misses nothing and sees nothing twice.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use futures_core::Stream;
use futures_util::StreamExt;
use mainstay_control::hub::RunEvents;
use mainstay_control::view::{Problem, RunEvent};
use tokio_util::sync::CancellationToken;

/// Marks the last event of a stream that the hub had to end early; its data is a `Problem`.
pub const PROBLEM_EVENT: &str = "problem";

/// A comment this often keeps middleboxes from forgetting the connection, and shows a dead client.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) fn stream(
    events: RunEvents,
    ending: CancellationToken,
) -> Sse<impl Stream<Item = Result<Event, Infallible>> + Send + 'static> {
    let frames = events.map(|event| Ok(frame(event))).take_until(async move { ending.cancelled().await });
    Sse::new(frames).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

fn frame(event: Result<(u64, RunEvent), Problem>) -> Event {
    match event {
        Ok((position, event)) => {
            // JSON has no raw line break, as an event's data must not.
            let data = serde_json::to_string(&event).expect("an event has only string keys");
            Event::default().id(position.to_string()).event(kind(&event)).data(data)
        }
        Err(problem) => {
            let data = serde_json::to_string(&problem).expect("a problem has only string keys");
            Event::default().event(PROBLEM_EVENT).data(data)
        }
    }
}

fn kind(event: &RunEvent) -> &'static str {
    match event {
        RunEvent::Accepted { .. } => "accepted",
        RunEvent::Output { .. } => "output",
        RunEvent::Result(_) => "result",
        RunEvent::Summary { .. } => "summary",
    }
}

//! A hub's door: accepts links, lets strangers ask to join, and gives everyone else a session.

use std::sync::Arc;

use mainstay_core::frame::{Enrolment, Frame, Goodbye};
use mainstay_link::link::Link;
use mainstay_link::listener::{Incoming, TlsListener};
use tracing::{debug, info};

use crate::courier::session::{self, SessionEnd};
use crate::node::Shared;

/// Takes connections until the node stops.
pub async fn run(shared: Arc<Shared>, listener: Arc<TlsListener>) {
    loop {
        let incoming = tokio::select! {
            () = shared.stop.cancelled() => return,
            incoming = listener.accept() => incoming,
        };
        let shared = shared.clone();
        let tasks = shared.tasks.clone();
        tasks.spawn(async move {
            let address = incoming.address();
            if let Err(end) = meet(&shared, incoming).await {
                debug!(%address, "link ended: {end}");
            }
        });
    }
}

async fn meet(shared: &Arc<Shared>, incoming: Incoming) -> Result<(), SessionEnd> {
    let address = incoming.address();
    let opening = async {
        let mut link = match incoming.handshake().await {
            Ok(link) => link,
            Err(error) => {
                debug!(%address, %error, "no handshake");
                return Ok(None);
            }
        };
        let first = link.receiver.recv().await?;
        Ok::<_, SessionEnd>(Some((link, first)))
    };
    let opened = tokio::select! {
        () = shared.stop.cancelled() => return Err(SessionEnd::Stopped),
        opened = opening => opened?,
    };
    let Some((link, first)) = opened else { return Ok(()) };
    match first {
        Some(Frame::Hello(hello)) if link.peer.identity.is_some() => {
            session::accept(shared, link, *hello).await
        }
        Some(Frame::Hello(_)) => {
            // Its certificate is of another fleet, or none: it must join first.
            let why = Goodbye::Waiting { reason: "this node has not joined this fleet".into() };
            link.farewell(why.clone()).await;
            Err(SessionEnd::Refused(why))
        }
        Some(Frame::Enrol(enrol)) => enrol_node(shared, link, *enrol).await,
        Some(_) => Err(SessionEnd::NoHello),
        None => Err(SessionEnd::Closed),
    }
}

async fn enrol_node(
    shared: &Arc<Shared>,
    link: Link,
    enrol: mainstay_core::frame::Enrol,
) -> Result<(), SessionEnd> {
    let Some(role) = shared.hub.clone() else { return Err(SessionEnd::Stopped) };
    let name = enrol.name.clone();
    let answer = role.enrol(link.peer.key, enrol).await;
    match &answer {
        Enrolment::Joined { name, .. } => info!(node = %name, key = %link.peer.key.short(), "joined"),
        Enrolment::Waiting { .. } => {
            info!(node = %name, key = %link.peer.key.short(), "waits to be accepted")
        }
        Enrolment::Refused { reason } => {
            info!(node = %name, key = %link.peer.key.short(), "may not join: {reason}")
        }
    }
    link.end_with(&Frame::Enrolment(Box::new(answer))).await;
    Ok(())
}

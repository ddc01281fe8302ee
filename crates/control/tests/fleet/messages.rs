//! Where messages stand, with the names that people know.

use mainstay_control::view::*;
use mainstay_core::delivery::MessageStatus;
use mainstay_core::id::{KeyId, MessageId};
use mainstay_core::outcome::{Exit, Outcome};
use mainstay_core::time::Timestamp;

use crate::fakes::*;

#[tokio::test]
async fn messages_have_names_a_state_and_an_end() {
    let f = Fixture::new().await;
    let nodes = f.nodes(2).await;
    nodes[1].unlink(&f.hub);
    let unknown = KeyId::from_bytes([9; 32]);
    let status = |to, held_for, accepted, outcome| MessageStatus {
        id: MessageId::from_bytes([7; 16]),
        held_for,
        to,
        method: "cmd".into(),
        created: Timestamp::from_millis(1_000),
        expires: Some(Timestamp::from_millis(2_000)),
        accepted,
        outcome,
        provisional: false,
    };
    let (here, away) = (nodes[0].key(), nodes[1].key());
    *f.courier.messages.lock().unwrap() = vec![
        status(here, None, false, None),
        status(away, None, false, None),
        status(away, Some(here), false, None),
        status(here, None, true, None),
        status(away, None, true, Some(Outcome::Finished(Exit::Code(3)))),
        status(unknown, None, false, Some(Outcome::Lost)),
    ];
    let told: Vec<String> = f.hub.messages(&admin(), 100).await.unwrap().into_iter().map(words).collect();
    let hub = f.hub.status().await.unwrap().name;
    assert_eq!(
        told,
        [
            format!("{hub} to n0: queued"),
            format!("{hub} to n1: queued, away"),
            "n0 to n1: held, away".to_owned(),
            format!("{hub} to n0: accepted"),
            format!("{hub} to n1: ended, finished Some(3)"),
            format!("{hub} to {unknown}: ended, lost None"),
        ]
    );
    assert_eq!(f.hub.messages(&admin(), 2).await.unwrap().len(), 2);

    let bound = Operator { targets: "n0".into(), admin: false, ..admin() };
    assert_eq!(f.hub.messages(&bound, 1).await.unwrap_err().kind, ProblemKind::Forbidden);
    f.courier.messages.lock().unwrap().clear();
    let none = f.hub.message(&admin(), MessageId::from_bytes([7; 16])).await.unwrap_err();
    assert_eq!(none.kind, ProblemKind::NotFound);
}

fn words(message: MessageView) -> String {
    let away =
        message.pending.filter(|why| why.starts_with("away since")).map(|_| ", away").unwrap_or_default();
    let end = message.end.map(|end| format!(", {} {:?}", end.outcome, end.exit_code)).unwrap_or_default();
    format!("{} to {}: {}{away}{end}", message.from, message.to, message.state.word())
}

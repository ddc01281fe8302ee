//! What idle links cost: `cargo run --release --example idle_links -- 1000 [hub|agents]`.
//!
//! Starts itself twice more, as a hub and as its agents, so that each side's memory is seen by itself, and prints
//! resident bytes a link.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use mainstay_core::frame::Frame;
use mainstay_core::id::KeyId;
use mainstay_link::certificate::{issue_hub, issue_node, make_ca};
use mainstay_link::chain::{FleetCa, Trust};
use mainstay_link::dialer::TlsDialer;
use mainstay_link::limits::Limits;
use mainstay_link::listener::TlsListener;
use mainstay_link::tls::Credentials;
use tokio::task::JoinSet;

/// How many dial at the same time.
const AT_ONCE: usize = 64;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let links: usize = arguments.first().map_or(Ok(1000), |n| n.parse())?;
    let runtime = tokio::runtime::Runtime::new()?;
    match arguments.get(1).map(String::as_str) {
        Some("hub") => runtime.block_on(hub(links)),
        Some("agents") => runtime.block_on(agents(links, &arguments[2])),
        _ => both(links),
    }
}

fn both(links: usize) -> Result<(), Failure> {
    let start = |role: &[&str]| -> Result<(Child, _), Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(links.to_string())
            .args(role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        Ok((child, lines))
    };
    let (mut hub, mut hub_says) = start(&["hub"])?;
    let address = hub_says.next().ok_or("no hub")??;
    let began = std::time::Instant::now();
    let (mut agents, mut agents_say) = start(&["agents", &address])?;
    let agent_bytes = agents_say.next().ok_or("no agents")??;
    let hub_bytes = hub_says.next().ok_or("no hub")??;
    println!("{links} links in {:.1} s", began.elapsed().as_secs_f32());
    println!("hub: {hub_bytes} bytes a link; agent: {agent_bytes} bytes a link");
    // Closing their input tells them to end.
    drop((agents.stdin.take(), hub.stdin.take()));
    agents.wait()?;
    hub.wait()?;
    Ok(())
}

fn say(what: impl std::fmt::Display) -> Result<(), Failure> {
    println!("{what}");
    Ok(std::io::stdout().flush()?)
}

async fn until_told() {
    let _ = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await;
}

fn resident() -> Result<usize, Failure> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: usize = statm.split(' ').nth(1).ok_or("no statm")?.parse()?;
    Ok(pages * 4096)
}

fn keys() -> (SigningKey, SigningKey, SigningKey) {
    let [root, hub, node] = [1, 2, 3].map(|seed| SigningKey::from_bytes(&[seed; 32]));
    (root, hub, node)
}

fn id(key: &SigningKey) -> KeyId {
    KeyId::from_bytes(key.verifying_key().to_bytes())
}

async fn hub(links: usize) -> Result<(), Failure> {
    let (root, hub, _) = keys();
    let ca = FleetCa::from_der(make_ca(&root)?)?;
    let made = issue_hub(&root, id(&hub), &"hub".parse()?)?;
    let credentials = Credentials::new(hub, made.chain(ca.der()))?;
    let listener =
        TlsListener::bind("127.0.0.1:0", &credentials, ca, Limits::default(), Arc::default()).await?;
    say(listener.local_addr()?)?;
    let (up, mut ready) = tokio::sync::mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    let mut before = 0;
    for n in 0..=links {
        let incoming = listener.accept().await;
        let up = up.clone();
        tasks.spawn(async move {
            let Ok(mut link) = incoming.handshake().await else {
                return;
            };
            link.receiver.admit();
            while let Ok(Some(frame)) = link.receiver.recv().await {
                if link.sender.send(&frame).await.is_err() {
                    return;
                }
                let _ = up.send(());
            }
        });
        if n == 0 {
            // The first one pays for what all share.
            ready.recv().await;
            before = resident()?;
        }
    }
    for _ in 0..links {
        ready.recv().await;
    }
    say((resident()? - before) / links)?;
    until_told().await;
    tasks.shutdown().await;
    Ok(())
}

async fn agents(links: usize, address: &str) -> Result<(), Failure> {
    let (root, hub, node) = keys();
    let ca = FleetCa::from_der(make_ca(&root)?)?;
    let made = issue_hub(&root, id(&hub), &"hub".parse()?)?;
    let chain = issue_node(&hub, &made.issuer, id(&node), &"agent".parse()?)?;
    let credentials = Credentials::new(node, chain)?;
    let dialer = TlsDialer::new(&credentials, Trust::Ca(ca), Limits::default(), Arc::default())?;
    let (up, mut ready) = tokio::sync::mpsc::unbounded_channel();
    let room = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    let mut before = 0;
    for n in 0..=links {
        let (dialer, address, up) = (dialer.clone(), address.to_owned(), up.clone());
        let place = room.clone().acquire_owned().await?;
        tasks.spawn(async move {
            let Ok(dialled) = dialer.dial(&address).await else {
                return;
            };
            let mut link = dialled.link;
            link.receiver.admit();
            let _ = link.sender.send(&Frame::Ping(7)).await;
            let _ = link.receiver.recv().await;
            drop(place);
            let _ = up.send(());
            let _ = link.receiver.recv().await;
        });
        if n == 0 {
            ready.recv().await;
            before = resident()?;
        }
    }
    for _ in 0..links {
        ready.recv().await;
    }
    say((resident()? - before) / links)?;
    until_told().await;
    tasks.shutdown().await;
    Ok(())
}

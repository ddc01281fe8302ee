//! Web servers, asked as a client: for an answer to look at, or for a file to keep.

use std::io::{self, Read, Write};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Error};

use crate::failure::Failure;

/// More of an answer's body is not looked at.
pub const MAX_BODY: u64 = 1 << 20;

/// A server that redirects more often goes in circles.
const MAX_REDIRECTS: u32 = 10;

/// A download that takes longer is stuck: four gigabytes at ten megabits a second are done by then.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(3600);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// Something to ask for.
pub struct Question<'a> {
    pub url: &'a str,
    pub headers: &'a std::collections::BTreeMap<String, String>,
    pub timeout: Duration,
    /// The server's certificate need not be one that this machine trusts.
    pub insecure: bool,
    pub follow: bool,
}

fn roots() -> RootCerts {
    static ROOTS: OnceLock<Arc<Vec<Certificate<'static>>>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        // What cannot be read is not trusted; a machine without any trusts no server.
        let found = rustls_native_certs::load_native_certs().certs;
        Arc::new(found.iter().map(|der| Certificate::from_der(der).to_owned()).collect())
    });
    RootCerts::Specific(Arc::clone(roots))
}

fn agent(timeout: Duration, insecure: bool, redirects: u32) -> Agent {
    let tls = TlsConfig::builder()
        .root_certs(roots())
        .disable_verification(insecure)
        .unversioned_rustls_crypto_provider(Arc::new(aws_lc_rs::default_provider()))
        .build();
    Agent::config_builder()
        .tls_config(tls)
        .http_status_as_error(false)
        .max_redirects(redirects)
        .max_redirects_will_error(redirects > 0)
        .timeout_global(Some(timeout))
        .timeout_connect(Some(timeout.min(CONNECT_TIMEOUT)))
        .user_agent("mainstay")
        .build()
        .new_agent()
}

/// Asks once. Any status is an answer.
pub fn ask(question: &Question<'_>) -> Result<Answer, String> {
    let redirects = if question.follow { MAX_REDIRECTS } else { 0 };
    let mut request = agent(question.timeout, question.insecure, redirects).get(question.url);
    for (name, value) in question.headers {
        request = request.header(name, value);
    }
    let mut response = request.call().map_err(words)?;
    let status = response.status().as_u16();
    let mut body = Vec::new();
    let reader = response.body_mut().with_config().limit(u64::MAX).reader();
    reader.take(MAX_BODY).read_to_end(&mut body).map_err(|error| error.to_string())?;
    Ok(Answer { status, body })
}

/// Fetches a file of at most `limit` bytes.
pub fn fetch(url: &str, limit: u64, to: &mut dyn Write) -> Result<(), Failure> {
    fetch_within(url, limit, DOWNLOAD_TIMEOUT, to)
}

/// Fetches a file of at most `limit` bytes in a time that its size makes enough.
pub fn fetch_within(url: &str, limit: u64, timeout: Duration, to: &mut dyn Write) -> Result<(), Failure> {
    let failed = |words: String| Failure::new(format!("fetch {url}"), words);
    let mut response =
        agent(timeout, false, MAX_REDIRECTS).get(url).call().map_err(|error| failed(words(error)))?;
    if !response.status().is_success() {
        return Err(failed(format!("the server answered {}", response.status())));
    }
    let reader = response.body_mut().with_config().limit(u64::MAX).reader();
    let copied = io::copy(&mut reader.take(limit + 1), to).map_err(|error| failed(error.to_string()))?;
    if copied > limit {
        let (size, unit) = if limit >> 20 > 0 { (limit >> 20, "MiB") } else { (limit >> 10, "KiB") };
        return Err(failed(format!("it is larger than {size} {unit}")));
    }
    Ok(())
}

/// What went wrong, without what the machine may hold in its environment.
fn words(error: Error) -> String {
    match error {
        Error::Io(error) => error.to_string(),
        Error::HostNotFound => "there is no such host".into(),
        Error::Timeout(_) => "there was no answer in time".into(),
        error => error.to_string(),
    }
}

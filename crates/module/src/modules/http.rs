//! `http`: waits for an answer of a web server. It changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_core::state::plan::{Change, Datum};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::edit::expression;
use crate::failure::Failure;
use crate::field::Period;
use crate::format;
use crate::module::{About, Analysis, Analyze, Applied, Apply, Module};
use crate::web::{self, Answer, Question};

/// Between two attempts, if nothing is said.
const INTERVAL: Duration = Duration::from_secs(1);
/// For one attempt, if nothing is said.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Attempts, if nothing is said: half a minute, in which most services start.
const ATTEMPTS: u32 = 30;
/// An interval or a timeout of more than a day is a mistake.
const MAX_PERIOD: Duration = Duration::from_secs(86_400);

pub struct Http;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// What to ask for, by GET: an `http:` or `https:` URL.
    #[schemars(extend("format" = "http-url"))]
    pub url: String,
    /// The status that the answer has, or several of them. By default 200.
    pub status: Option<Statuses>,
    /// A regular expression that is found in the body (its first MiB).
    #[serde(rename = "match")]
    #[schemars(extend("format" = "regex"))]
    pub body: Option<String>,
    /// Headers of the request.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// How often to ask before it is a failure: by default 30 times.
    #[schemars(range(min = 1))]
    pub attempts: Option<u32>,
    /// How long to wait between two attempts: by default 1 second.
    pub interval: Option<Period>,
    /// How long one attempt may take: by default 10 seconds.
    pub timeout: Option<Period>,
    /// Ask where a redirect points to. Otherwise the redirect is the answer.
    #[serde(default)]
    pub follow: bool,
    /// Take any certificate for the server's.
    #[serde(default)]
    pub insecure: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Statuses {
    One(u16),
    Several(Vec<u16>),
}

impl Params {
    fn statuses(&self) -> &[u16] {
        match &self.status {
            None => &[200],
            Some(Statuses::One(status)) => std::slice::from_ref(status),
            Some(Statuses::Several(statuses)) => statuses,
        }
    }

    /// What is waited for, in words.
    fn wanted(&self) -> String {
        let statuses: Vec<String> = self.statuses().iter().map(u16::to_string).collect();
        match &self.body {
            Some(body) => format!("{} with /{body}/", statuses.join(" or ")),
            None => statuses.join(" or "),
        }
    }

    /// Asks once: the answer if it is as wanted, else what was wrong with it.
    fn ask(&self) -> Result<Answer, String> {
        let question = Question {
            url: &self.url,
            headers: &self.headers,
            timeout: self.timeout.map_or(TIMEOUT, |timeout| timeout.0),
            insecure: self.insecure,
            follow: self.follow,
        };
        let answer = web::ask(&question)?;
        if !self.statuses().contains(&answer.status) {
            return Err(answer.status.to_string());
        }
        match &self.body {
            Some(body) if !expression("match", body)?.is_match(&answer.body) => {
                Err(format!("{} without /{body}/", answer.status))
            }
            _ => Ok(answer),
        }
    }
}

impl Module for Http {
    type Params = Params;

    fn about(&self) -> About {
        About {
            name: "http",
            summary: "Waits for an answer of a web server; it changes nothing.",
            identity: Some("url"),
            dry_run: "Asks once. If the answer is not as wanted, the plan shows what it is, and applying waits for it.",
            outputs: &[("status", "the status of the answer")],
            example: "\
app-answers:
  http: {url: 'http://127.0.0.1:8080/health', match: ok, attempts: 20, interval: 500ms}
",
        }
    }

    fn check(&self, p: &Params) -> Result<(), String> {
        format::http_url(&p.url).map_err(|why| format!("url: {why}"))?;
        if p.statuses().is_empty() || p.statuses().iter().any(|status| !(100..600).contains(status)) {
            return Err("status: a status is between 100 and 599".into());
        }
        if let Some(body) = &p.body {
            expression("match", body)?;
        }
        if p.attempts == Some(0) {
            return Err("attempts: it is asked at least once".into());
        }
        if p.interval.is_some_and(|interval| interval.0 > MAX_PERIOD) {
            return Err("interval: it is at most a day".into());
        }
        if p.timeout.is_some_and(|timeout| timeout.0 > MAX_PERIOD || timeout.0.is_zero()) {
            return Err("timeout: it is more than 0 and at most a day".into());
        }
        Ok(())
    }

    /// What answers now may be gone, or another, once what is pending is done.
    fn probes(&self, _: &Params) -> bool {
        true
    }

    fn analyze(&self, p: &Params, _: &Analyze<'_>) -> Result<Analysis, Failure> {
        Ok(match p.ask() {
            Ok(answer) => Analysis::unchanged().output("status", answer.status),
            Err(words) => {
                let wanted = p.wanted();
                Analysis::of(vec![Change::new("answer", Datum::known(words), Datum::known(wanted))])
            }
        })
    }

    fn apply(&self, p: &Params, cx: &Apply<'_>, _: &Analysis) -> Result<Applied, Failure> {
        let attempts = p.attempts.unwrap_or(ATTEMPTS);
        let mut last = String::new();
        for attempt in 1..=attempts {
            match p.ask() {
                Ok(answer) => {
                    let note = format!("answered as wanted at attempt {attempt} of {attempts}");
                    let applied = Applied { unchanged: true, note: Some(note), ..Applied::default() };
                    return Ok(applied.output("status", Value::from(answer.status)));
                }
                Err(words) => last = words,
            }
            if attempt < attempts && !cx.host.sleep(p.interval.map_or(INTERVAL, |interval| interval.0)) {
                return Err(Failure::new(format!("wait for {}", p.url), "it was called off"));
            }
        }
        let words = format!("the last of {attempts} answer(s) was: {last}; wanted {}", p.wanted());
        Err(Failure::new(format!("wait for {}", p.url), words))
    }
}

#[cfg(test)]
mod tests;

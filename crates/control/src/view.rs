//! The shapes that operators see: the same in the API, in `--json` and in the CLI's tables.
//!
//! Times are milliseconds since 1970 in fleet time; field names are stable.

use std::collections::BTreeMap;

use mainstay_core::id::{KeyId, MessageId, NodeName, RunId};
use mainstay_core::outcome::Outcome;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A node as the registry knows it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NodeView {
    #[schema(value_type = String)]
    pub name: NodeName,
    #[schema(value_type = String)]
    pub key: String,
    pub state: NodeState,
    pub online: bool,
    /// When a link to it was last up; none if it never was.
    pub last_seen: Option<i64>,
    pub enrolled_at: Option<i64>,
    /// Labels given by an operator win over those of the node's own configuration.
    pub labels: BTreeMap<String, String>,
    pub os: String,
    pub family: String,
    pub os_version: String,
    pub kernel: String,
    pub arch: String,
    pub hostname: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    pub addresses: Vec<String>,
    pub version: String,
    /// Why it waits or is quarantined.
    pub note: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It asked to join and waits for `nodes accept`.
    Waiting,
    Active,
    /// Its journal stepped back: it gets no orders until `nodes accept`.
    Quarantined,
    Revoked,
    Removed,
}

impl NodeState {
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Active => "active",
            Self::Quarantined => "quarantined",
            Self::Revoked => "revoked",
            Self::Removed => "removed",
        }
    }
}

/// What an operator asks of a set of targets.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunSpec {
    /// Target expressions; a node is meant if any of them means it.
    pub targets: Vec<String>,
    /// `cmd` unless given.
    #[serde(default = "default_method")]
    pub method: String,
    #[serde(default)]
    pub args: Vec<String>,
    /// A script with its interpreter line, for `cmd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Standard input, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin_base64: Option<String>,
    /// How long the method may run on a node, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// How long a node may take to start it, in milliseconds from now; 24 h unless given, 30 days at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    #[serde(default)]
    pub idempotent: bool,
    #[serde(default)]
    pub stream: bool,
    /// Most bytes of output kept from each node; 1 MiB unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_limit: Option<u64>,
    /// How many nodes at a time: `10` or `25%`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<String>,
    /// Stop starting new nodes after more failures than this: `3` or `10%`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_failures: Option<String>,
}

fn default_method() -> String {
    "cmd".into()
}

/// Which plans of a run may be applied.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Approve {
    /// By their content, as the nodes' `planned` lines name them.
    pub plans: Vec<String>,
    /// On which nodes; on all that made one of them if none is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub nodes: Vec<NodeName>,
    /// How many nodes at a time: `10` or `25%`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<String>,
    /// Stop starting new nodes after more failures than this: `3` or `10%`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_failures: Option<String>,
}

/// A run in short.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RunView {
    #[schema(value_type = String)]
    pub run: RunId,
    /// Who asked.
    pub operator: String,
    pub created_at: i64,
    pub expires_at: i64,
    pub method: String,
    pub args: Vec<String>,
    /// A script was sent along; the arguments are its own.
    #[serde(default)]
    pub script: bool,
    pub targets: Vec<String>,
    /// How many nodes it meant when it was accepted.
    pub nodes: u64,
    pub ok: u64,
    /// Ended otherwise; those that were cancelled are counted by themselves.
    pub failed: u64,
    /// Cancelled before they began, by an operator or since too many others had failed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub not_started: u64,
    /// Cancelled while they ran.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub nodes_cancelled: u64,
    pub pending: u64,
    /// Nodes with a plan that nobody has approved; told only where it is asked for.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub awaits_approval: u64,
    pub cancelled: bool,
    /// More failures than allowed: no further node is started.
    pub stopped: bool,
    /// The run whose approved plans this one applies.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applies: Option<RunId>,
}

/// One node of a run.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RunNodeView {
    #[schema(value_type = String)]
    pub node: NodeName,
    /// The end, if there is one.
    pub result: Option<ResultView>,
    /// Otherwise why not yet: "away since …, behind 12 messages", "waiting for its batch", "sent", "accepted".
    pub pending: Option<String>,
    /// What has to happen first, for programs; none if there is an end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<WaitsFor>,
}

/// What a node of a run waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitsFor {
    /// The node itself: it is away.
    Node,
    /// Others of the run go first.
    Batch,
    /// The order goes out next, or after other messages.
    Turn,
    /// The node has the order, or is being given it.
    Answer,
    /// The hub, which is writing the end.
    Hub,
}

impl WaitsFor {
    /// Whether nothing will come of it before some machine that is away comes back.
    pub fn is_away(self) -> bool {
        matches!(self, Self::Node | Self::Batch)
    }
}

/// What stands in a `result` line of `run --json` (DESIGN §8).
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ResultView {
    #[schema(value_type = String)]
    pub run: RunId,
    #[schema(value_type = String)]
    pub node: NodeName,
    /// The outcome's stable word.
    pub outcome: String,
    /// Why, for `failed`, `rejected` and `undeliverable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub exit_code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_base64: Option<String>,
    pub started_at: Option<i64>,
    pub duration_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// Bytes that the streams really gave, when cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_bytes: Option<u64>,
    /// The origin decided this end alone; the node's own end will replace it if it comes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub provisional: bool,
}

impl ResultView {
    pub fn is_ok(&self) -> bool {
        self.outcome == "finished" && self.exit_code == Some(0)
    }

    pub fn ending(&self) -> OutcomeView {
        OutcomeView {
            outcome: self.outcome.clone(),
            reason: self.reason.clone(),
            exit_code: self.exit_code,
            signal: self.signal,
            provisional: self.provisional,
        }
    }

    /// Splits an outcome into the fields of a result line.
    pub fn set_outcome(&mut self, outcome: &Outcome) {
        let OutcomeView { outcome, reason, exit_code, signal, provisional: _ } =
            OutcomeView::new(outcome, false);
        self.outcome = outcome;
        self.reason = reason;
        self.exit_code = exit_code;
        self.signal = signal;
    }
}

/// How something ended.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct OutcomeView {
    /// The outcome's stable word.
    pub outcome: String,
    /// Why, for `failed`, `rejected` and `undeliverable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The origin decided this end alone; the node's own end will replace it if it comes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub provisional: bool,
}

impl OutcomeView {
    pub fn new(outcome: &Outcome, provisional: bool) -> Self {
        use mainstay_core::outcome::Exit;
        let (mut reason, mut exit_code, mut signal) = (None, None, None);
        match outcome {
            Outcome::Finished(Exit::Code(code)) => exit_code = Some(*code),
            Outcome::Finished(Exit::Signal(number)) => signal = Some(*number),
            Outcome::Failed(why) | Outcome::Undeliverable(why) => reason = Some(why.clone()),
            Outcome::Rejected(why) => reason = Some(why.to_string()),
            _ => {}
        }
        Self { outcome: outcome.word().into(), reason, exit_code, signal, provisional }
    }
}

/// Where a message stands, as far as the hub knows.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MessageView {
    #[schema(value_type = String)]
    pub message: MessageId,
    /// The sender's name.
    pub from: String,
    pub to: String,
    pub method: String,
    pub created_at: i64,
    /// When it must have started.
    pub expires_at: Option<i64>,
    pub state: MessageState,
    /// What it waits for, if that is known: "away since …".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<String>,
    /// The end, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<OutcomeView>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessageState {
    /// Here, until the receiver says that it has it.
    Queued,
    /// Of another node, and kept here until the receiver has it. Its end is told to its sender.
    Held,
    /// The receiver has it.
    Accepted,
    Ended,
}

impl MessageState {
    pub fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Held => "held",
            Self::Accepted => "accepted",
            Self::Ended => "ended",
        }
    }
}

/// What happens in a run, in order; also the lines of `run --json`.
///
/// Every event has a position in the run's log; watching from a position continues there. `output` comes
/// only for runs that stream; a `result` always has the whole output.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum RunEvent {
    Accepted {
        #[schema(value_type = String)]
        run: RunId,
        targets: u64,
        /// How many of them are away when this is told: nothing comes of these soon.
        #[serde(default, skip_serializing_if = "is_zero")]
        away: u64,
    },
    Output {
        #[schema(value_type = String)]
        run: RunId,
        #[schema(value_type = String)]
        node: NodeName,
        seq: u64,
        /// `stdout` or `stderr`.
        stream: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        data: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        data_base64: Option<String>,
    },
    Result(ResultView),
    Summary {
        #[schema(value_type = String)]
        run: RunId,
        ok: u64,
        failed: u64,
        pending: u64,
    },
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A join token as listed; its secret is shown once, when it is made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    pub id: String,
    /// `join` for nodes, `operator` for the API.
    pub kind: TokenKind,
    pub created_at: i64,
    pub expires_at: i64,
    /// Uses left; none for operator tokens.
    pub uses_left: Option<u32>,
    /// The name it is bound to: the node's, or the operator's.
    pub name: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub created_by: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenKind {
    Join,
    Operator,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenSpec {
    pub kind: TokenKind,
    /// In milliseconds; 1 h unless given.
    #[serde(default)]
    pub lifetime_ms: Option<u64>,
    /// 1 unless given.
    #[serde(default)]
    pub uses: Option<u32>,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// For operators: globs over methods, and a target expression; everything unless given.
    #[serde(default)]
    pub methods: Vec<String>,
    #[serde(default)]
    pub targets: Option<String>,
}

/// A token just made: the only time its text is seen.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NewToken {
    pub token: String,
    pub view: TokenView,
}

/// Shows an operator who and what this hub is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct StatusView {
    pub name: String,
    pub version: String,
    /// Hash of the fleet's CA certificate, as agents without a token must be told.
    pub ca_fingerprint: String,
    #[schema(value_type = String)]
    pub key: String,
    pub listen: String,
    pub nodes: u64,
    pub online: u64,
    pub epoch: u64,
    pub runs_pending: u64,
    /// Messages in this node's own journal, by state.
    pub queues: BTreeMap<String, u64>,
    /// Set while the disk refuses new work.
    pub refusing: Option<String>,
}

/// Whoever asked: `uid:0 (root)` by the socket, a token's operator name otherwise.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Operator {
    pub name: String,
    /// Globs over methods that it may call.
    pub methods: Vec<String>,
    /// The nodes it may reach.
    pub targets: String,
    /// May it change the fleet itself (tokens, nodes, backups)?
    pub admin: bool,
}

/// An error as operators and programs see it. `kind` is stable; one table maps it to a status.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    pub kind: ProblemKind,
    pub message: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// Wrong usage or input.
    Invalid,
    NotFound,
    /// No node matches.
    NoTargets,
    /// It is there already, or was changed meanwhile.
    Conflict,
    /// Not allowed for this operator.
    Forbidden,
    /// No or an unknown token.
    Unauthorized,
    /// A queue or the disk is full.
    Full,
    /// The hub could not be reached.
    Unreachable,
    Internal,
}

impl ProblemKind {
    /// DESIGN §8: 2 for wrong input and for no node, 4 when the hub cannot be reached or refused.
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Invalid | Self::NotFound | Self::NoTargets | Self::Conflict => 2,
            Self::Forbidden | Self::Unauthorized | Self::Full | Self::Unreachable | Self::Internal => 4,
        }
    }

    pub fn http_status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound | Self::NoTargets => 404,
            Self::Conflict => 409,
            Self::Internal => 500,
            Self::Full => 507,
            Self::Unreachable => 503,
        }
    }
}

impl Problem {
    pub fn new(kind: ProblemKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hints: Vec::new() }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

/// The key as the API shows it.
pub fn key_text(key: &KeyId) -> String {
    key.to_string()
}

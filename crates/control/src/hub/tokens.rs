//! What operators ask about tokens, and who is behind one.

use std::time::Duration;

use mainstay_core::id::NodeName;
use mainstay_core::join_token::{JoinSecret, JoinToken, MAX_HUBS};
use serde_json::json;

use super::nodes::check_labels;
use super::runs::parse_target;
use super::{Hub, admin};
use crate::token::{MAX_USES, TokenError, TokenRecord};
use crate::view::*;

/// Long enough to set up some machines, short enough to forget about.
const DEFAULT_JOIN_LIFETIME: Duration = Duration::from_secs(3600);

const MAX_NAME: usize = 64;

/// Programs at the API hold their token for long.
const MAX_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);

impl Hub {
    /// Who is behind a token, and behind a uid at the API socket (root and the hub's own user are admins;
    /// anyone else is refused).
    pub async fn operator_by_token(&self, token: &str) -> Result<Operator, Problem> {
        Ok(self.inner.tokens.operator(token, self.inner.now())?)
    }

    pub fn operator_by_uid(&self, uid: u32) -> Result<Operator, Problem> {
        let uid = nix::unistd::Uid::from_raw(uid);
        if !uid.is_root() && uid != nix::unistd::Uid::effective() {
            return Err(Problem::new(
                ProblemKind::Forbidden,
                format!("uid {uid} is neither root nor the hub's own user"),
            )
            .hint("use a token: `mainstay login`"));
        }
        let user = nix::unistd::User::from_uid(uid).ok().flatten();
        Ok(Operator {
            name: match user {
                Some(user) => format!("uid:{uid} ({})", user.name),
                None => format!("uid:{uid}"),
            },
            methods: vec!["*".into()],
            targets: "*".into(),
            admin: true,
        })
    }

    pub async fn tokens(&self, by: &Operator) -> Result<Vec<TokenView>, Problem> {
        admin(by)?;
        Ok(self.inner.tokens.views())
    }

    pub async fn create_token(&self, by: &Operator, spec: TokenSpec) -> Result<NewToken, Problem> {
        let (hub, by) = (self.clone(), by.clone());
        self.whole(async move { hub.make_token(&by, spec).await }).await
    }

    async fn make_token(&self, by: &Operator, spec: TokenSpec) -> Result<NewToken, Problem> {
        admin(by)?;
        let invalid = |what: &str| Err(Problem::new(ProblemKind::Invalid, what));
        let inner = &self.inner;
        let lifetime = spec.lifetime_ms.map_or(DEFAULT_JOIN_LIFETIME, Duration::from_millis);
        if lifetime.is_zero() || lifetime > MAX_LIFETIME {
            return invalid("lifetime_ms: it must be more than 0 and at most ten years");
        }
        check_labels(&spec.labels)?;
        let now = inner.now();
        let mut bound_to = None;
        let mut record = TokenRecord::new(spec.kind, now, now + lifetime, by.name.clone());
        match spec.kind {
            TokenKind::Join => {
                record.uses = spec.uses.unwrap_or(1);
                if record.uses == 0 || record.uses > MAX_USES {
                    return invalid("uses: at least 1, at most 100000");
                }
                if let Some(name) = &spec.name {
                    let parsed = name.parse::<NodeName>();
                    bound_to = Some(parsed.map_err(|e| Problem::new(ProblemKind::Invalid, e.to_string()))?);
                    if record.uses > 1 {
                        return invalid("a token that is bound to a name admits one node only");
                    }
                }
                if !spec.methods.is_empty() || spec.targets.is_some() {
                    return invalid("methods and targets are for operator tokens");
                }
                if inner.config.addresses.is_empty() {
                    return Err(Problem::new(
                        ProblemKind::Conflict,
                        "this hub does not know under which address nodes find it",
                    )
                    .hint("start it with --listen and an address that nodes can reach"));
                }
                record.labels = spec.labels;
            }
            TokenKind::Operator => {
                if spec.uses.is_some() || !spec.labels.is_empty() {
                    return invalid("uses and labels are for join tokens");
                }
                // The name stands in the audit log, where it must not pass for someone else's or for the system's.
                if let Some(name) = &spec.name {
                    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-@".contains(&b);
                    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(plain) {
                        return invalid("name: an operator's name is 1 to 64 of a-z A-Z 0-9 . _ - @");
                    }
                }
                if let Some(target) = &spec.targets {
                    parse_target(target)?;
                }
                // Whoever is given everything may change the fleet too; any bound makes it a mere user.
                record.admin = spec.methods.is_empty() && spec.targets.is_none();
                record.methods = spec.methods;
                record.targets = spec.targets;
            }
        }
        record.name = spec.name;
        let detail = json!({
            "kind": record.kind, "name": record.name, "uses": record.uses, "expires": record.expires.as_millis(),
            "methods": record.methods, "targets": record.targets,
        });
        inner.audit.note(now, &by.name, "token.create", detail).await?;
        let (secret, view) = inner.tokens.create(record).await?;
        let token = match view.kind {
            TokenKind::Operator => secret,
            TokenKind::Join => JoinToken {
                hubs: inner.config.addresses.iter().take(MAX_HUBS).cloned().collect(),
                ca: inner.fleet.ca_fingerprint().0,
                secret: JoinSecret::new(secret),
                name: bound_to,
            }
            .to_text(),
        };
        Ok(NewToken { token, view })
    }

    pub async fn revoke_token(&self, by: &Operator, id: &str) -> Result<(), Problem> {
        let (hub, by, id) = (self.clone(), by.clone(), id.to_owned());
        self.whole(async move { hub.end_token(&by, &id).await }).await
    }

    async fn end_token(&self, by: &Operator, id: &str) -> Result<(), Problem> {
        admin(by)?;
        let inner = &self.inner;
        inner.audit.note(inner.now(), &by.name, "token.revoke", json!({"token": id})).await?;
        inner.tokens.revoke(id).await.map_err(|e| match e {
            TokenError::Unknown => Problem::new(ProblemKind::NotFound, format!("there is no token {id}"))
                .hint("`mainstay token list` shows them"),
            e => e.into(),
        })
    }
}

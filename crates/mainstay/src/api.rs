//! The HTTP API of a hub: `/v1/…` for everything that the command line does, by unix socket or TLS.
//!
//! A file below is a resource. What a call means is decided behind [`facade::Facade`]; here it is only
//! carried: the shapes are those of `mainstay_control::view`, errors are `Problem`s with one table of
//! statuses, and the OpenAPI description is generated from the handlers.

mod events;
pub mod facade;
mod failure;
mod fleet;
mod guard;
mod input;
mod link_metrics;
mod messages;
mod nodes;
mod runs;
mod server;
mod slow_peer;
mod tokens;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use axum::{Json, Router};
use mainstay_control::view::{Problem, ProblemKind};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use events::PROBLEM_EVENT;
use facade::Facade;
use failure::Failure;
pub use guard::MAX_BODY;
pub use link_metrics::register_link_counters;
pub use messages::SentMessages;
pub use nodes::{AcceptNode, LabelNode, RevokeNode};
pub use runs::{PruneRuns, Pruned, RetryRun, RunDetail};
pub use server::{ServeError, serve_metrics, serve_tls, serve_unix};

/// What every call shares. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    hub: Arc<dyn Facade>,
    metrics: Arc<Mutex<Registry>>,
    /// Where a backup lies while it is being written and sent; on the same disk as what it copies.
    scratch: PathBuf,
    /// Ends streams that would otherwise outlive the hub.
    ending: CancellationToken,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Mainstay",
        description = "The calls that the command line makes. Over TLS each carries `Authorization: Bearer TOKEN`."
    ),
    // The second, empty, is the unix socket: whoever may open it is known by the kernel's word.
    security(("token" = []), ()),
    modifiers(&Tokens)
)]
struct Description;

/// Says what a token is, for programs that are made from the description.
struct Tokens;

impl utoipa::Modify for Tokens {
    fn modify(&self, description: &mut utoipa::openapi::OpenApi) {
        let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        description.components.get_or_insert_default().add_security_scheme("token", bearer);
    }
}

impl Api {
    /// `data` is the hub's data directory.
    pub fn new(hub: impl Facade, metrics: Arc<Mutex<Registry>>, data: &Path) -> Self {
        fleet::sweep(data);
        Self { hub: Arc::new(hub), metrics, scratch: data.to_owned(), ending: CancellationToken::new() }
    }

    /// The calls; streams among them end with `shutdown`.
    fn router_until(self, shutdown: &CancellationToken) -> Router {
        let api = Self { ending: shutdown.clone(), ..self };
        let (router, description) = described();
        let description = Arc::new(description);
        router
            .route("/v1/openapi.json", get(move || async move { Json(description.clone()) }))
            .route_layer(from_fn_with_state(api.clone(), guard::guard))
            .route("/metrics", get(fleet::metrics))
            .fallback(async || {
                Failure(
                    Problem::new(ProblemKind::NotFound, "there is no such call").hint("see /v1/openapi.json"),
                )
            })
            .method_not_allowed_fallback(async || {
                Failure::invalid("this call exists, but not with this method; see /v1/openapi.json")
            })
            // The guard's own limit holds instead.
            .layer(DefaultBodyLimit::disable())
            .with_state(api)
    }
}

fn described() -> (Router<Api>, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(fleet::status))
        .routes(routes!(fleet::backup))
        .routes(routes!(fleet::audit))
        .routes(routes!(fleet::errors))
        .routes(routes!(nodes::list))
        .routes(routes!(nodes::show, nodes::remove))
        .routes(routes!(nodes::accept))
        .routes(routes!(nodes::label))
        .routes(routes!(nodes::revoke))
        .routes(routes!(nodes::preview))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
        .routes(routes!(runs::list, runs::create))
        .routes(routes!(runs::prune))
        .routes(routes!(runs::show))
        .routes(routes!(runs::events))
        .routes(routes!(runs::cancel))
        .routes(routes!(runs::retry))
        .routes(routes!(runs::approve))
        .routes(routes!(messages::list, messages::send))
        .routes(routes!(messages::show))
        .split_for_parts()
}

/// The description of the API, as it is served at `/v1/openapi.json`.
pub fn openapi() -> utoipa::openapi::OpenApi {
    described().1
}

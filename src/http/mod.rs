//! HTTP: the queue's summary, jobs, limits, projects, replicas, health and metrics; on loopback, or for those who show a token.
//!
//! Owns the routes, who may ask, and the form of every answer, errors included. Knows the replica only from Postgres; must never
//! import `replica`, and never lets a slow database hold a request for longer than its patience.

mod cache;
mod error;
mod guard;
mod health;
mod jobs;
mod limits;
mod metrics;
mod projects;
mod replicas;
mod schedules;
mod token;

use std::{collections::BTreeSet, future::Future, io, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, MatchedPath, State},
    http::{Method, StatusCode, Uri},
    middleware,
    routing::{MethodRouter, get, post},
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

pub use self::token::Tokens;
use self::{cache::QueueCache, error::Problem};
use crate::{
    db::{self, Db, queue},
    model::{ReplicaId, RunId},
};

/// How long a request waits for the database before it is answered that the database does not answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the rest of a wish may have, in bytes: labels of 64 KiB, and keys.
const BESIDE_THE_PAYLOAD: usize = 128 << 10;

/// How long open requests may take to end once the server is told to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// What the answers say of the process that gives them.
#[derive(Debug, Clone)]
pub struct Info {
    /// The switches shown in the `reaper` block.
    pub switches: queue::Switches,
    /// L, from which the age of a renewal follows.
    pub lease: Duration,
    /// The replica of this process, once it has registered: its lease is part of being ready.
    pub replica: watch::Receiver<Option<ReplicaId>>,
    /// Why this process does nothing, while it must not.
    pub paused: watch::Receiver<Option<String>>,
    /// The runs of this process of which processes live on after KILL.
    pub unending: watch::Receiver<BTreeSet<RunId>>,
    /// Cancelled once this process was told to stop: it takes no more jobs.
    pub stopping: CancellationToken,
    /// The setting `payload_max`, in bytes.
    pub payload_max: u64,
    /// The tokens, and each later reading of them; none, and nobody is asked for one.
    pub tokens: Option<watch::Receiver<Tokens>>,
}

struct App {
    db: Db,
    info: Info,
    queue: QueueCache,
}

/// Serves until `shutdown`, then ends open requests.
pub async fn serve(listener: TcpListener, db: Db, info: Info, shutdown: CancellationToken) -> io::Result<()> {
    let app = Arc::new(App { queue: QueueCache::new(db.clone(), info.switches), db, info });
    // The first count of a long day is slow; nobody should have to wait for it.
    let warm = app.clone();
    tokio::spawn(async move { warm.queue.warm_up().await });
    let stopping = shutdown.clone().cancelled_owned();
    let server = axum::serve(listener, router(app)).with_graceful_shutdown(stopping);
    let cut = async {
        shutdown.cancelled().await;
        tokio::time::sleep(STOP_PATIENCE).await;
    };
    tokio::select! {
        ended = server.into_future() => ended,
        () = cut => Ok(()),
    }
}

/// Every route: its method, its path, and what answers there. The one list, so that nothing is served that is not told.
fn routes() -> Vec<(Method, &'static str, MethodRouter<Arc<App>>)> {
    vec![
        (Method::GET, "/queue", get(queue_summary)),
        (Method::GET, "/healthz", get(health::alive)),
        (Method::GET, "/readyz", get(health::ready)),
        (Method::GET, "/metrics", get(metrics::scrape)),
        (Method::GET, "/api/v1/jobs", get(jobs::list)),
        (Method::POST, "/api/v1/jobs", post(jobs::enqueue)),
        (Method::GET, "/api/v1/jobs/{id}", get(jobs::get)),
        (Method::GET, "/api/v1/jobs/{id}/why", get(jobs::why)),
        (Method::POST, "/api/v1/jobs/{id}/cancel", post(jobs::cancel)),
        (Method::POST, "/api/v1/jobs/{id}/retry", post(jobs::retry)),
        (Method::POST, "/api/v1/jobs/{id}/hold", post(jobs::hold)),
        (Method::POST, "/api/v1/jobs/{id}/release", post(jobs::release)),
        (Method::GET, "/api/v1/limits", get(limits::list)),
        (Method::POST, "/api/v1/limits", post(limits::set)),
        (Method::POST, "/api/v1/limits/close", post(limits::close)),
        (Method::POST, "/api/v1/limits/open", post(limits::open)),
        (Method::POST, "/api/v1/limits/drop", post(limits::drop)),
        (Method::POST, "/api/v1/pause", post(limits::pause)),
        (Method::POST, "/api/v1/resume", post(limits::resume)),
        (Method::GET, "/api/v1/projects", get(projects::list)),
        (Method::POST, "/api/v1/projects", post(projects::set)),
        (Method::GET, "/api/v1/replicas", get(replicas::list)),
        (Method::POST, "/api/v1/replicas/{id}/drain", post(replicas::drain)),
        (Method::GET, "/api/v1/schedules", get(schedules::list)),
        (Method::GET, "/api/v1/schedules/{name}", get(schedules::get)),
        (Method::POST, "/api/v1/schedules/{name}/pause", post(schedules::pause)),
        (Method::POST, "/api/v1/schedules/{name}/resume", post(schedules::resume)),
        (Method::POST, "/api/v1/schedules/{name}/run", post(schedules::run)),
    ]
}

/// Method and path of every route, and whether it answers without a token.
#[must_use]
pub fn served() -> Vec<(Method, &'static str, bool)> {
    routes().into_iter().map(|(method, path, _)| (method, path, token::OPEN.contains(&path))).collect()
}

fn router(app: Arc<App>) -> Router {
    let all = routes().into_iter().fold(Router::new(), |router, (_, path, answers)| router.route(path, answers));
    // The layer that is added last is the first to see a request; both see also what is not there.
    let largest = usize::try_from(app.info.payload_max).unwrap_or(usize::MAX).saturating_add(BESIDE_THE_PAYLOAD);
    all.fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(largest))
        .layer(middleware::from_fn_with_state(app.clone(), token::with_a_token))
        .layer(middleware::from_fn_with_state(app.clone(), guard::sent_to_us))
        .with_state(app)
}

async fn queue_summary(State(app): State<Arc<App>>) -> Result<Json<queue::Summary>, Problem> {
    let counted = in_time(app.queue.counted()).await?;
    Ok(Json(queue::Summary::new(&counted.live, &counted.finished, app.info.switches)))
}

async fn no_such_path(uri: Uri) -> Problem {
    let mut known: Vec<&str> = routes().into_iter().map(|(_, path, _)| path).collect();
    known.dedup();
    Problem::new(StatusCode::NOT_FOUND, format!("there is no {}: there are {}", uri.path(), known.join(", ")))
}

async fn no_such_method(method: Method, uri: Uri, matched: Option<MatchedPath>) -> Problem {
    let here = |path: &str| matched.as_ref().is_none_or(|matched| matched.as_str() == path);
    let takes: BTreeSet<String> =
        routes().into_iter().filter(|(_, path, _)| here(path)).map(|(method, ..)| method.to_string()).collect();
    let takes = takes.into_iter().collect::<Vec<_>>().join(" and ");
    let sentence = format!("{} does not take {method}: it takes {takes}", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, sentence)
}

/// What the database answers within [`PATIENCE`].
async fn in_time<T>(answer: impl Future<Output = db::Result<T>>) -> Result<T, Problem> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the database did not answer within {} s", PATIENCE.as_secs()),
        )),
    }
}

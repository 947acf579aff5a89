//! `/api/v1/schedules`: what ticks when, and an operator's word to pause, resume or run one.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde_json::{Value, json};

use super::{App, error::Problem, in_time};
use crate::db::schedules::Schedule;

/// More than anybody reads.
const MOST: i64 = 10_000;

/// `GET /api/v1/schedules`: all of them, by name.
pub(super) async fn list(State(app): State<Arc<App>>) -> Result<Json<Value>, Problem> {
    let schedules = in_time(app.db.list_schedules(None, MOST)).await?;
    Ok(Json(json!({ "schedules": schedules })))
}

/// `GET /api/v1/schedules/{name}`.
pub(super) async fn get(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Json<Schedule>, Problem> {
    let sentence = || format!("there is no schedule {name:?}: GET /api/v1/schedules lists them");
    let found = in_time(app.db.list_schedules(Some(&name), 1)).await?.pop();
    found.map(Json).ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, sentence()))
}

/// `POST /api/v1/schedules/{name}/pause`: it does not tick until it is resumed.
pub(super) async fn pause(app: State<Arc<App>>, name: Path<String>) -> Result<Json<Value>, Problem> {
    set_paused(app, name, true).await
}

/// `POST /api/v1/schedules/{name}/resume`: it ticks again, from now on.
pub(super) async fn resume(app: State<Arc<App>>, name: Path<String>) -> Result<Json<Value>, Problem> {
    set_paused(app, name, false).await
}

async fn set_paused(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    paused: bool,
) -> Result<Json<Value>, Problem> {
    let changed = in_time(app.db.pause_schedule(&name, paused)).await?;
    Ok(Json(json!({ "name": name, "paused": paused, "changed": changed })))
}

/// `POST /api/v1/schedules/{name}/run`: a job of it now; answers `{"id": n}`.
pub(super) async fn run(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let id = in_time(app.db.run_schedule(&name)).await?;
    Ok((StatusCode::CREATED, Json(json!({ "id": id }))))
}

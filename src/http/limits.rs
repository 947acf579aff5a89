//! `/api/v1/limits`, `/api/v1/pause` and `/api/v1/resume`. A limit's name may have a slash, so it stands in the body.

use std::sync::Arc;

use axum::{Json, extract::State, extract::rejection::JsonRejection};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::{App, error::Problem, in_time};
use crate::db::jobs::When;

/// A limit and its bound.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bound {
    name: String,
    /// Must be there: `null` is any number, and forgetting it is not.
    #[serde(deserialize_with = "null_or_number")]
    max_running: Option<i32>,
}

fn null_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i32>, D::Error> {
    Option::deserialize(deserializer)
}

/// A limit to close.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Close {
    name: String,
    until: Option<String>,
    reason: Option<String>,
}

/// A limit.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
    name: String,
}

/// What to pause.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pause {
    /// `all`, `project:NAME` or `agent:NAME`.
    what: String,
    until: Option<String>,
    reason: Option<String>,
}

/// What to resume.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resume {
    what: String,
}

type Body<T> = Result<Json<T>, JsonRejection>;
type Answer = Result<Json<Value>, Problem>;

fn read<T>(body: Body<T>) -> Result<T, Problem> {
    body.map(|Json(body)| body).map_err(|refused| Problem::of_body(&refused))
}

/// `infinity` is until somebody opens it, as is nothing.
fn until(text: Option<&str>) -> Result<Option<When>, Problem> {
    match text {
        None | Some("infinity") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|why: String| Problem::bad(format!("until {text:?}: {why}"))),
    }
}

/// `GET /api/v1/limits`.
pub(super) async fn list(State(app): State<Arc<App>>) -> Answer {
    Ok(Json(json!({ "limits": in_time(app.db.list_limits()).await? })))
}

/// `POST /api/v1/limits`: makes one, or changes its bound.
pub(super) async fn set(State(app): State<Arc<App>>, body: Body<Bound>) -> Answer {
    let Bound { name, max_running } = read(body)?;
    let changed = in_time(app.db.set_limit(&name, max_running)).await?;
    Ok(Json(json!({ "name": name, "max_running": max_running, "changed": changed })))
}

/// `POST /api/v1/limits/close`.
pub(super) async fn close(State(app): State<Arc<App>>, body: Body<Close>) -> Answer {
    let Close { name, until: end, reason } = read(body)?;
    let closed = in_time(app.db.close_limit(&name, until(end.as_deref())?, reason.as_deref())).await?;
    Ok(Json(json!({ "name": name, "closed_until": closed.until, "reason": reason, "changed": closed.changed })))
}

/// `POST /api/v1/limits/open`.
pub(super) async fn open(State(app): State<Arc<App>>, body: Body<Named>) -> Answer {
    let Named { name } = read(body)?;
    let changed = in_time(app.db.open_limit(&name)).await?;
    Ok(Json(json!({ "name": name, "changed": changed })))
}

/// `POST /api/v1/limits/drop`.
pub(super) async fn drop(State(app): State<Arc<App>>, body: Body<Named>) -> Answer {
    let Named { name } = read(body)?;
    let changed = in_time(app.db.drop_limit(&name)).await?;
    Ok(Json(json!({ "name": name, "changed": changed })))
}

/// `POST /api/v1/pause`: what runs goes on.
pub(super) async fn pause(State(app): State<Arc<App>>, body: Body<Pause>) -> Answer {
    let Pause { what, until: end, reason } = read(body)?;
    let paused = in_time(app.db.pause(&what, until(end.as_deref())?, reason.as_deref())).await?;
    Ok(Json(json!({ "what": what, "paused_until": paused.until, "reason": reason, "changed": paused.changed })))
}

/// `POST /api/v1/resume`.
pub(super) async fn resume(State(app): State<Arc<App>>, body: Body<Resume>) -> Answer {
    let Resume { what } = read(body)?;
    let changed = in_time(app.db.resume(&what)).await?;
    Ok(Json(json!({ "what": what, "changed": changed })))
}

//! `/api/v1/projects`: the tenants of the queue, and their rules.

use std::sync::Arc;

use axum::{Json, extract::State, extract::rejection::JsonRejection};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{App, error::Problem, in_time};

/// The rules of a project; what is left out stays as it is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rules {
    name: String,
    weight: Option<i32>,
    serial: Option<bool>,
}

/// `GET /api/v1/projects`.
pub(super) async fn list(State(app): State<Arc<App>>) -> Result<Json<Value>, Problem> {
    Ok(Json(json!({ "projects": in_time(app.db.list_projects()).await? })))
}

/// `POST /api/v1/projects`.
pub(super) async fn set(
    State(app): State<Arc<App>>,
    rules: Result<Json<Rules>, JsonRejection>,
) -> Result<Json<Value>, Problem> {
    let Json(Rules { name, weight, serial }) = rules.map_err(|refused| Problem::of_body(&refused))?;
    let changed = in_time(app.db.set_project(&name, weight, serial)).await?;
    let projects = in_time(app.db.list_projects()).await?;
    let (weight, serial) = projects
        .iter()
        .find(|project| project.name == name)
        .map_or((1, false), |project| (project.weight, project.serial));
    Ok(Json(json!({ "name": name, "weight": weight, "serial": serial, "changed": changed })))
}
